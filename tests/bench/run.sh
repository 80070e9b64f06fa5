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
#     BENCH_ONLY='info'     only these: quantize info kernels
#     BENCH_JSON=build/bench.json
#
# Ours and theirs take turns, so that a busy machine disturbs both alike.
# Rivals are timed without their imports, ours from exec to exit.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
lib=${PQ_LIB:-$bin/../lib/libpq.a}
json=${BENCH_JSON:-build/bench.json}

[ -x "$bin/pq-quantize" ] || { say "$bin/pq-quantize: not built"; exit 2; }
chosen quantize || chosen info || chosen kernels || exit 0
if [ $quick = 1 ]; then
    layers=2 vocabulary=3200 need=410
else
    layers=22 vocabulary=32000 need=4400
fi
rivals=1
if ! has_modules 'torch, bitsandbytes, safetensors'; then
    rivals=0
    say "$venv has no torch, bitsandbytes and safetensors: ours only"
fi

# the model, an output of half its size, our 128 MiB; a rival holds its output
wanted=$((need * 3 / 2 + 256))
[ $rivals = 1 ] && wanted=$((need * 5 / 2 + 1500))
if [ "$(free_mib)" -lt $wanted ]; then
    say "skipped: needs $wanted MiB free in memory and $shm, has $(free_mib);" \
        "BENCH_QUICK=1 needs a tenth"
    exit 0
fi

warm=$((wanted - need))
make_work
for p in bench_open bench_kernels; do
    ${CC:-gcc} -std=c11 -D_GNU_SOURCE -O2 -Ilib -Iformats -o "$work/$p" \
        "$here/$p.c" "$lib" -lzstd -lxxhash -lcjson -lm -pthread
done

say "making the models"
model=$work/model.safetensors
many=$work/many.safetensors
few=$work/few.safetensors
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

# the input is a pipe; measure runs in it, so the peak is ours
from_pipe() {
    local wall cpu rss
    read -r wall cpu rss < <(cat "$model" |
        "$work/measure" -w "$(warmth)" \
        "$bin/pq-quantize" -q -t nf4 -T2 -o "$out.safetensors") || exit 2
    echo "nf4_pipe $wall $rss" >>"$raw"
    rm -f "$out"*
}

quantize() { # KEY OPTIONS...
    local key=$1
    shift
    ours "$key" "$bin/pq-quantize" -q "$@" -o "$out.safetensors" "$model"
}

theirs() { # KEY ARGUMENTS...
    [ $rivals = 0 ] || rival "$1" rival.py "${@:2}"
}

round_of_quantize() {
    ours cat cat "$model"
    quantize nf4 -t nf4 -T2
    theirs nf4 nf4 "$model" "$out"
    quantize nf4_T1 -t nf4 -T1
    from_pipe
    for t in f16 bf16 int8; do
        quantize $t -t $t -T2
        theirs $t $t "$model" "$out"
    done
}

round_of_info() {
    ours info -n 20 "$bin/pq-info" "$few"
    ours info_many "$bin/pq-info" "$many"
    echo "open $("$work/bench_open" "$many") 0" >>"$raw"
    theirs open keys "$many"
}

for ((r = 1; r <= runs; r++)); do
    say "round $r of $runs"
    ! chosen quantize || round_of_quantize
    ! chosen info || round_of_info
done

if chosen kernels; then
    say "kernels"
    "$work/bench_kernels" >"$work/kernels"
    awk 'NR > 1 { best = ($3 + 0 > $2 + 0) ? $3 : $2; print "kernel", $1, best }' \
        "$work/kernels" >>"$raw"
fi
report quantize.awk "$json"
! chosen kernels || { echo; cat "$work/kernels"; }
say "written to $json"
