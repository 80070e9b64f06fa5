#!/usr/bin/env bash
# Runs test targets of the Makefile one after the other and adds up.
#
#   MAKE="make B=build" tests/run.sh TARGET...
#
# A target that prints "N passed, N failed" (or Criterion's closing line) is
# counted by that; any other is one test, passed if it exits with 0.  The last
# line is the sum in the same form.
set -euo pipefail

passed=0
failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# The counts in a log, as "PASSED FAILED", or nothing.
counts() {
    sed -E 's/\x1b\[[0-9;]*m//g' "$1" | awk '
        /^[0-9]+ passed, [0-9]+ failed$/ { p = $1; f = $3; seen = 1 }
        /Synthesis: Tested: / {
            gsub(/[^0-9 ]/, " ")
            p = $2; f = $1 - $2; seen = 1
        }
        END { if (seen) print p, f }'
}

run() {
    local target=$1 rc=0 p f
    echo "== $target"
    # MAKE may hold options, so it is split and quoted by the shell again
    eval "${MAKE:-make} -s $target" >"$log" 2>&1 || rc=$?
    read -r p f < <(counts "$log") || { p=$((rc == 0)) f=0; }
    # a run that failed without counting a failure still failed
    ((rc == 0 || f > 0)) || f=1
    # Criterion passes a test whose process ends with a sanitizer's complaint
    if grep -qE 'ERROR: (Leak|Address)Sanitizer|: runtime error: ' "$log"; then
        rc=1 f=$((f + 1))
    fi
    ((rc == 0)) && tail -n 1 "$log" || cat "$log"
    passed=$((passed + p))
    failed=$((failed + f))
}

for target; do
    run "$target"
done
echo "$passed passed, $failed failed"
((failed == 0))
