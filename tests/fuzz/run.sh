#!/bin/bash
# Runs fuzzers, FUZZ_TIME seconds each (60); the last line is the sum.
#
#     tests/fuzz/run.sh BUILD PROGRAM...
#
# What one finds worth keeping stays in BUILD/corpus, what breaks it in BUILD.
set -uo pipefail
build=$1
shift
good=0 bad=0
for program; do
    name=${program##*/fuzz_}
    echo "fuzz $name"
    mkdir -p "$build/corpus/$name"
    seeds=(tests/fuzz/corpus/"$name")
    [ -d "${seeds[0]}" ] || seeds=()
    if "$program" -max_total_time="${FUZZ_TIME:-60}" -verbosity=0 -print_final_stats=1 \
        -artifact_prefix="$build/$name-" "$build/corpus/$name" "${seeds[@]}"; then
        good=$((good + 1))
    else
        bad=$((bad + 1))
    fi
done
echo "$good passed, $bad failed"
[ $bad = 0 ]
