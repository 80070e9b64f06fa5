#!/bin/bash
# Measures what is done to models and adapters side by side with what a user
# would pick instead, on llama-shaped bf16 models of 1.1B parameters (2.2 GB
# each, at most three of them and an output) in /dev/shm; prints a table and
# writes build/bench-surgery.json.
#
#     make bench            or:  tests/bench/surgery.sh
#
#     PQ_BIN=build/bin      the programs
#     BENCH_VENV=build/venv Python with torch, transformers, peft, mergekit;
#                           what it lacks is not measured, ours is
#     BENCH_QUICK=1         two layers of 22, a small vocabulary
#     BENCH_RUNS=3          repetitions of ours; the median counts
#     BENCH_RIVAL_RUNS=1    of the rivals, which take minutes
#     BENCH_ONLY='ties'     only these: merge extract resize linear ties prune delta
#     BENCH_JSON=build/bench-surgery.json
#
# Rivals are timed without their imports, ours from exec to exit.  Two are not
# run in full, and the table says so: the dense SVD is measured on one tensor
# of each shape, the dense resize on one layer.  zstd -19 would take an hour on
# 2.2 GB, so the deltas, ours too, are those of a model of one layer (89 MB).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
json=${BENCH_JSON:-build/bench-surgery.json}
rival_runs=${BENCH_RIVAL_RUNS:-1}
layers=22 vocabulary=32000 need=2200
[ $quick = 0 ] || layers=2 vocabulary=3200 need=210

# TOOL OPTION...: is it built, and has it these?
has() {
    local tool=$1 help o
    shift
    [ -x "$bin/$tool" ] || { say "skipped: no $tool"; return 1; }
    help=$("$bin/$tool" --help)
    for o in "$@"; do
        grep -q -e "$o" <<<"$help" || { say "skipped: $tool has no $o"; return 1; }
    done
}

groups=()
add() { # GROUP TOOL OPTION...
    if chosen "$1" && has "${@:2}"; then groups+=("$1"); fi
}
add merge pq-merge
add extract pq-extract --rank
add resize pq-extract --resize
add linear pq-merge --method
add ties pq-merge --method --base
add prune pq-prune --scope
add delta pq-diff --delta
[ ${#groups[@]} -gt 0 ] || exit 0

peft=0 kit=0
if has_modules 'torch, transformers, peft, safetensors'; then peft=1; else
    say "$venv has no torch, transformers and peft: not measured"
fi
if has_modules mergekit; then kit=1; else
    say "$venv has no mergekit: not measured"
fi

# three models and an output; mergekit holds all of that once more
wanted=$((need * 4 + 600))
[ $kit = 1 ] && wanted=$((need * 7 + 1200))
if [ "$(free_mib)" -lt $wanted ]; then
    say "skipped: needs $wanted MiB free in memory and $shm, has $(free_mib);" \
        "BENCH_QUICK=1 needs a fifth"
    exit 0
fi

warm=$((wanted - need * 3))
make_work
{
    echo "fact layers $layers"
    echo "fact runs $runs"
    echo "fact quick $quick"
    echo "fact cores $(nproc)"
} >"$raw"

# ---- models and adapters ---------------------------------------------------

model() { # NAME TUNING [LAYERS VOCABULARY]
    [ -d "$work/$1" ] && return
    mkdir "$work/$1"
    llama_config "$work/$1" "${3:-$layers}" "${4:-$vocabulary}" 2048 5632 32 4 bfloat16
    "$work/make_model" bf16 "${3:-$layers}" "${4:-$vocabulary}" "$2" \
        "$work/$1/model.safetensors"
}

adapter() { # NAME LAYERS: rank 16, every linear layer
    [ -d "$work/$1" ] && return
    mkdir "$work/$1"
    cat >"$work/$1/adapter_config.json" <<END
{"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 16, "lora_alpha": 32,
 "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj",
 "up_proj", "down_proj"]}
END
    "$work/make_model" adapter "$2" 16 "$work/$1/adapter_model.safetensors"
}

# ---- what is measured, each once a round -------------------------------------

# with BENCH_RIVAL_RUNS=1 only in the first round
theirs() { # KEY ARGUMENTS OF rival_surgery.py
    [ $round -gt "$rival_runs" ] || rival "$1" rival_surgery.py "${@:2}"
}

do_merge() {
    model base 0
    adapter lora $layers
    ours merge "$bin/pq-merge" -q "$work/base" "$work/lora" -o "$out/"
    [ $peft = 0 ] || theirs merge peft "$work/base" "$work/lora" "$out"
}

do_extract() {
    model base 0
    model a 1
    ours extract "$bin/pq-extract" -q "$work/base" "$work/a" --rank 16 -o "$out/"
    [ $peft = 0 ] || theirs extract svd "$work/base" "$work/a" 16
}

do_resize() {
    adapter lora $layers
    ours resize "$bin/pq-extract" -q --resize "$work/lora" --rank 8 -o "$out/"
    [ $peft = 0 ] || theirs resize resize "$work/lora" 8
}

do_linear() {
    model a 1
    model b 2
    ours linear "$bin/pq-merge" -q --method linear "$work/a:0.5" "$work/b:0.5" \
        -o "$out/"
    [ $kit = 0 ] || theirs linear mergekit linear "$out" "$work/a" "$work/b"
}

do_ties() {
    model base 0
    model a 1
    model b 2
    ours ties "$bin/pq-merge" -q --method ties --base "$work/base" \
        --density 0.5 "$work/a:0.5" "$work/b:0.5" -o "$out/"
    [ $kit = 0 ] || theirs ties mergekit ties "$out" "$work/a" "$work/b" \
        "$work/base"
}

# half of all weights of an f32 model; the rival keeps five times its size.  To
# read the file twice and write it is the time of `cat` and of `cp`.
do_prune() {
    local file=$work/full.safetensors
    rm -rf "$work"/{base,a,b}
    [ -f "$file" ] || "$work/make_model" llama $layers $vocabulary "$file"
    ours prune "$bin/pq-prune" -q -s 0.5 --scope global "$file" -o "$out.safetensors"
    ours prune_24 "$bin/pq-prune" -q --pattern 2:4 "$file" -o "$out.safetensors"
    ours read sh -c 'cat "$1" >/dev/null' sh "$file"
    ours copy cp "$file" "$out"
    if has_modules 'torch, safetensors' && [ "$(free_mib)" -gt $((need * 12)) ]; then
        theirs prune prune "$file" "$out"
    else
        say "not enough memory for torch: not measured"
    fi
    [ ${#groups[@]} = 1 ] || rm -f "$file"
}

# a LoRA merged, and the difference to the base as a file; the restored model
# must be the merged one
do_delta() {
    local small=$work/small/model.safetensors big=$work/tuned/model.safetensors
    rm -rf "$work"/{base,a,b}       # the last group; nobody needs them now
    model small 0 1 400
    adapter small-lora 1
    [ -d "$work/tuned" ] ||
        "$bin/pq-merge" -q "$work/small" "$work/small-lora" -o "$work/tuned/"
    keep=1
    ours delta "$bin/pq-diff" -q "$small" "$big" --delta "$work/d.pq"
    ours patch "$bin/pq-patch" -q "$small" "$work/d.pq" -o "$out.safetensors"
    keep=
    cmp "$out.safetensors" "$big"
    echo "size $(stat -c %s "$work/d.pq") 0" >>"$raw"
    rm -f "$out"* "$work/d.pq"
    if [ $round -le "$rival_runs" ] && command -v zstd >/dev/null; then
        keep=1
        ours rival_delta zstd -qq -19 --long=27 --patch-from="$small" "$big" -o "$work/z"
        ours rival_patch zstd -qq -d --long=27 --patch-from="$small" "$work/z" -o "$out"
        keep=
        cmp "$out" "$big"
        echo "rival_size $(stat -c %s "$work/z") 0" >>"$raw"
        rm -f "$out"* "$work/z"
    fi
}

for ((round = 1; round <= runs; round++)); do
    say "round $round of $runs: ${groups[*]}"
    for g in "${groups[@]}"; do
        "do_$g"
    done
done
echo "fact bytes $((need * 1000000))" >>"$raw"
report surgery.awk "$json"
say "written to $json"
