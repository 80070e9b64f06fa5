#!/bin/bash
# Measures the tools side by side with what a user would pick instead, on a
# generated llama-shaped file of 4.4 GB in /dev/shm; prints a table and
# writes build/bench.json.
#
#     make bench            or:  tests/bench/run.sh
#
#     PQ_BIN=build/bin      the programs
#     PQ_LIB=...            libpq.a (beside PQ_BIN unless said)
#     BENCH_VENV=build/venv Python with torch, bitsandbytes, safetensors;
#                           without it only our own figures are printed
#     BENCH_QUICK=1         a model a tenth of the size
#     BENCH_RUNS=3          repetitions; the median counts
#     BENCH_JSON=build/bench.json
#
# Ours and theirs take turns, so that a busy machine disturbs both alike.
# Rivals are timed without their imports, ours from exec to exit.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cd "$root"
bin=${PQ_BIN:-build/bin}
lib=${PQ_LIB:-$bin/../lib/libpq.a}
venv=${BENCH_VENV:-build/venv}
runs=${BENCH_RUNS:-3}
quick=${BENCH_QUICK:-}
json=${BENCH_JSON:-build/bench.json}
shm=/dev/shm

say() { printf 'bench: %s\n' "$*" >&2; }

[ -x "$bin/pq-quantize" ] || { say "$bin/pq-quantize: not built"; exit 2; }
if [ "$quick" ] && [ "$quick" != 0 ]; then
    quick=1 layers=2 vocabulary=3200 need=410
else
    quick=0 layers=22 vocabulary=32000 need=4400
fi
rivals=1
if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -c \
    'import torch, bitsandbytes, safetensors' 2>/dev/null >&2; then
    rivals=0
    say "$venv has no torch, bitsandbytes and safetensors: ours only"
fi

# MiB that are free both in /dev/shm and in memory
free_mib() {
    local disk memory
    disk=$(df -Pm $shm | awk 'NR == 2 { print $4 }')
    memory=$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
    echo $((disk < memory ? disk : memory))
}

# the model, an output of half its size, our 128 MiB; a rival holds its output
wanted=$((need * 3 / 2 + 256))
[ $rivals = 1 ] && wanted=$((need * 5 / 2 + 1500))
if [ "$(free_mib)" -lt $wanted ]; then
    say "skipped: needs $wanted MiB free in memory and $shm, has $(free_mib);" \
        "BENCH_QUICK=1 needs a tenth"
    exit 0
fi

work=$(mktemp -d $shm/pq-bench-XXXXXX)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP

cc=${CC:-gcc}
for p in make_model measure; do
    $cc -std=c11 -D_GNU_SOURCE -O2 -o "$work/$p" "$here/$p.c"
done
for p in bench_open bench_kernels; do
    $cc -std=c11 -D_GNU_SOURCE -O2 -Ilib -Iformats -o "$work/$p" \
        "$here/$p.c" "$lib" -lzstd -lxxhash -lcjson -lm -pthread
done

say "making the models"
model=$work/model.safetensors
many=$work/many.safetensors
few=$work/few.safetensors
out=$work/out
raw=$work/raw
"$work/make_model" llama $layers $vocabulary "$model"
"$work/make_model" many 300 "$few"
"$work/make_model" many 100000 "$many"
{
    echo "fact bytes $(stat -c %s "$model")"
    echo "fact many_header $(($(stat -c %s "$many") - 400008))"
    echo "fact runs $runs"
    echo "fact quick $quick"
    echo "fact cores $(nproc)"
} >"$raw"

# KEY COMMAND...: our seconds and peak
ours() {
    local key=$1 wall cpu rss
    shift
    read -r wall cpu rss < <("$work/measure" "$@") || {
        say "$key failed: $*"
        exit 2
    }
    echo "$key $wall $rss" >>"$raw"
    rm -f "$out"*
}

# KEY ARGUMENTS...: the seconds a rival says, and its peak
rival() {
    local key=$1 wall cpu rss
    shift
    [ $rivals = 1 ] || return 0
    read -r wall cpu rss < <("$work/measure" -o "$work/said" \
        "$venv/bin/python" "$here/rival.py" "$@" 2>"$work/log") || {
        say "rival $key failed:"
        tail -3 "$work/log" >&2
        exit 2
    }
    echo "rival_$key $(cat "$work/said") $rss" >>"$raw"
    rm -f "$out"*
}

# the input is a pipe; measure runs in it, so the peak is ours
from_pipe() {
    local wall cpu rss
    read -r wall cpu rss < <(cat "$model" | "$work/measure" \
        "$bin/pq-quantize" -q -t nf4 -T2 -o "$out.safetensors") || exit 2
    echo "nf4_pipe $wall $rss" >>"$raw"
    rm -f "$out"*
}

quantize() { # KEY OPTIONS...
    local key=$1
    shift
    ours "$key" "$bin/pq-quantize" -q "$@" -o "$out.safetensors" "$model"
}

for ((r = 1; r <= runs; r++)); do
    say "round $r of $runs"
    ours cat cat "$model"
    quantize nf4 -t nf4 -T2
    rival nf4 nf4 "$model" "$out"
    quantize nf4_T1 -t nf4 -T1
    from_pipe
    for t in f16 bf16 int8; do
        quantize $t -t $t -T2
        rival $t $t "$model" "$out"
    done
    ours info -n 20 "$bin/pq-info" "$few"
    ours info_many "$bin/pq-info" "$many"
    echo "open $("$work/bench_open" "$many") 0" >>"$raw"
    rival open keys "$many"
done

say "kernels"
"$work/bench_kernels" >"$work/kernels"
awk 'NR > 1 { best = ($3 + 0 > $2 + 0) ? $3 : $2; print "kernel", $1, best }' \
    "$work/kernels" >>"$raw"

awk -f "$here/summary.awk" "$raw"
echo
cat "$work/kernels"
mkdir -p "$(dirname "$json")"
awk -v json=1 -f "$here/summary.awk" "$raw" >"$json"
say "written to $json"
