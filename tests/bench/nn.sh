#!/bin/bash
# Measures running and training models side by side with torch, transformers
# and peft on as many threads; prints a table and writes build/bench-nn.json.
#
#     make bench            or:  tests/bench/nn.sh
#
#     PQ_BIN=build/bin      the programs
#     PQ_LIB=...            libpq.a (beside PQ_BIN unless said)
#     BENCH_VENV=build/venv Python with torch, transformers, peft; without it
#                           only our own figures are printed
#     BENCH_QUICK=1         without the models of 98M and 1.1B parameters
#     BENCH_RUNS=3          repetitions; the median counts
#     BENCH_ONLY='train'    only these: train eval decode qlora start gemm
#     BENCH_JSON=build/bench-nn.json
#
# Models are llamas of random weights: of 8.3M parameters (hidden 288, 6
# layers), trained in batches of 8 texts of 256 tokens, of 98M (768, 12), of 2,
# and of 1.1B.  A step is what N + 1 steps take more than one, of either side.
# Decoding is what 33 tokens take more than one.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
lib=${PQ_LIB:-$bin/../lib/libpq.a}
json=${BENCH_JSON:-build/bench-nn.json}
threads=2

groups=()
for g in train eval decode qlora start gemm; do
    ! chosen $g || groups+=($g)
done
[ ${#groups[@]} -gt 0 ] || exit 0
rivals=1
if ! has_modules 'torch, transformers, peft, safetensors'; then
    rivals=0
    say "$venv has no torch, transformers and peft: ours only"
fi
wanted=3000
[ $quick = 1 ] || wanted=9500
if [ "$(free_mib)" -lt $wanted ]; then
    say "skipped: needs $wanted MiB free in memory and $shm, has $(free_mib)"
    exit 0
fi
warm=$((wanted / 2))
make_work
{
    echo "fact bytes 0"
    echo "fact runs $runs"
    echo "fact quick $quick"
    echo "fact cores $(nproc)"
} >"$raw"

# ---- models and texts --------------------------------------------------------

model() { # NAME LAYERS VOCABULARY HIDDEN INTERMEDIATE HEADS KV_HEADS
    [ -d "$work/$1" ] && return
    mkdir "$work/$1"
    llama_config "$work/$1" "${@:2}" float32
    "$work/make_model" shape "$2" "$3" "$4" "$5" $(($4 / $6 * $7)) \
        "$work/$1/model.safetensors"
}
small() { model 8m 6 4096 288 768 6 6; }
medium() { model 98m 12 16384 768 2048 12 12; }
large() { model 1b 22 32000 2048 5632 32 4; }

texts() { # N TOKENS: as JSONL, always the same
    awk -v n="$1" -v t="$2" 'BEGIN {
        srand(1)
        for (i = 0; i < n; i++) {
            printf "{\"ids\":["
            for (k = 0; k < t; k++)
                printf "%s%d", k ? "," : "", 3 + int(rand() * 4000)
            print "]}"
        }
    }'
}

theirs() { # KEY ARGUMENTS OF rival_nn.py
    [ $rivals = 0 ] || HF_HUB_OFFLINE=1 rival "$1" rival_nn.py "${@:2}"
}

# ---- what is measured, each once a round -------------------------------------

# KEY METHOD MODEL STEPS BATCH THREADS
steps() {
    local n
    for n in 1 $(($4 + 1)); do
        ours "$1_$n" "$bin/pq-train" -q --method "$2" --steps "$n" --batch "$5" \
            -T "$6" -d "$work/texts" -o "$out/" "$work/$3"
    done
}

train_one() { # NAME STEPS BATCH
    local m
    for m in full lora; do
        steps "$m-$1" $m "$1" "$2" "$3" $threads
        theirs "$m-$1" $m "$work/$1" "$work/texts" "$2" "$3"
    done
    steps "full-$1-T1" full "$1" "$2" "$3" 1
}

do_train() {
    small
    train_one 8m 12 8
    [ $quick = 1 ] && return
    medium
    train_one 98m 3 2
}

do_eval() {
    local name=98m
    [ $quick = 1 ] && { name=8m; small; } || medium
    ours eval "$bin/pq-eval" -q -T $threads -d "$work/texts" "$work/$name"
    theirs eval eval "$work/$name" "$work/texts"
}

# tokens one after the other, in four encodings of the same weights
do_decode() {
    local t n
    [ $quick = 1 ] && return
    large
    for t in f32 f16 int8 nf4; do
        local from=$work/1b-$t
        [ $t = f32 ] && from=$work/1b
        [ -d "$from" ] || "$bin/pq-quantize" -q -t $t -o "$from/" "$work/1b"
        for n in 1 33; do
            ours "decode-${t}_$n" "$bin/pq-generate" -q -T $threads \
                --max-tokens $n -d "$work/short" "$from"
        done
        [ $t = f32 ] || rm -rf "$from"
    done
}

# weights of 4.4 GB that are 0.6 GB while they are trained on
do_qlora() {
    [ $quick = 1 ] && return
    large
    ours qlora "$bin/pq-train" -q --method qlora --steps 1 --batch 1 \
        -T $threads -d "$work/texts" -o "$out/" "$work/1b"
}

do_start() {
    ours start "$bin/pq-generate" -q -T $threads --max-tokens 1 \
        -p 'Once upon a time' "$root/testdata/tiny-llama"
}

do_gemm() {
    [ -x "$work/bench_gemm" ] || ${CC:-gcc} -std=c11 -D_GNU_SOURCE -O2 -Ilib \
        -o "$work/bench_gemm" "$here/bench_gemm.c" "$lib" -lzstd -lxxhash \
        -lcjson -lpcre2-8 -lutf8proc -lm -pthread
    for t in 1 $threads; do
        "$work/bench_gemm" "$t" | sed "s/^gemm /gemm T$t-/; s/fma_peak/fma_peak_T$t/" >>"$raw"
    done
}

texts 64 256 >"$work/texts"
texts 1 4 >"$work/short"
for ((round = 1; round <= runs; round++)); do
    for g in "${groups[@]}"; do
        say "round $round of $runs: $g"
        do_$g
    done
done
report nn.awk "$json"
say "written to $json"
