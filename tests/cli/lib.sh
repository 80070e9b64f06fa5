# What the scripts of tests/cli share: where things are, the inputs, counting.
#
#   PQ_BIN    directory of the programs (default: build/bin)
#   PQ_KEEP   set: the scratch folder stays, for the commands in the messages
#
# Each failure is one line on stdout with the command that shows it.
set -uo pipefail
export LC_ALL=C
unset PQ_THREADS PQ_MEMORY PQ_CPU LD_PRELOAD

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../.." && pwd)
BIN=$(cd "${PQ_BIN:-$ROOT/build/bin}" && pwd) || exit 2
MODEL=$ROOT/testdata/tiny-llama
ADAPTER=$ROOT/testdata/peft/head
shm=/dev/shm
[ -d $shm ] && [ -w $shm ] || shm=${TMPDIR:-/tmp}
W=$(mktemp -d $shm/pq-cli-XXXXXX) || exit 2
H=$W/helper
PASSED=0
FAILED=0

cleanup() {
    if [ -n "${PQ_KEEP:-}" ]; then
        echo "kept: $W"
    else
        chmod -R u+w "$W" && rm -rf "$W"
    fi
}
trap '[ $BASHPID = $$ ] && cleanup' EXIT
trap 'exit 130' INT TERM

${CC:-gcc} -std=c11 -D_GNU_SOURCE -O1 -o "$H" "$HERE"/helper/*.c -lutil || exit 2
# preload FILE: a library for LD_PRELOAD of a file here; its name
preload() {
    local so=$W/${1##*/}.so
    ${CC:-gcc} -std=gnu11 -D_GNU_SOURCE -O1 -shared -fPIC -o "$so" "$HERE/$1" -ldl || exit 2
    echo "$so"
}
# A sanitizer's complaint is a status that nothing else has: its own default
# is 1, which is also that of an answer.
sanitized() { grep -qE '__(a|t)san_init' "$BIN/pq"; }
if sanitized; then
    export ASAN_OPTIONS=exitcode=125${ASAN_OPTIONS:+:$ASAN_OPTIONS}
    export UBSAN_OPTIONS=exitcode=125${UBSAN_OPTIONS:+:$UBSAN_OPTIONS}
fi

# bad TEXT...: something is wrong in the check that runs now
bad() {
    WRONG=$((WRONG + 1))
    printf 'FAIL %s: %s\n' "$CHECK" "$*"
}
# check NAME COMMAND...: runs it as one check
check() {
    CHECK=$1
    WRONG=0
    shift
    "$@"
    if [ $WRONG = 0 ]; then PASSED=$((PASSED + 1)); else FAILED=$((FAILED + 1)); fi
}
finish() {
    echo "$PASSED passed, $FAILED failed"
    [ $FAILED = 0 ]
}

# in_scratch: the programs are found first, and $W is where they run
in_scratch() {
    export PATH=$BIN:$PATH
    out=$W/stdout err=$W/stderr
    cd "$W" || exit 2
}
# run COMMAND...: sets RC; its output is in $out, its messages in $err
run() {
    RAN=$(printf '%q ' "$@")
    "$@" > "$out" 2> "$err" < /dev/null
    RC=$?
}
# refused [TEXT]: what ran said no: 2, nothing on stdout, one line with TEXT
refused() {
    [ $RC = 2 ] || bad "rc $RC instead of 2: $RAN"
    [ -s "$out" ] && bad "something on stdout: $RAN"
    [ "$(wc -l < "$err")" = 1 ] || bad "$(wc -l < "$err") lines on stderr: $RAN"
    [ $# = 0 ] || grep -qF -- "$1" "$err" ||
        bad "no '$1' in the message '$(head -n 1 "$err")': $RAN"
}
# misused: a usage error, two lines
misused() {
    [ $RC = 2 ] || bad "rc $RC instead of 2: $RAN"
    [ -s "$out" ] && bad "something on stdout: $RAN"
    [ "$(wc -l < "$err")" = 2 ] || bad "$(wc -l < "$err") lines on stderr: $RAN"
}
# done_well: 0 and silent
done_well() {
    [ $RC = 0 ] || bad "rc $RC ($(head -n 1 "$err")): $RAN"
    [ -s "$err" ] && bad "not silent ($(head -n 1 "$err")): $RAN"
    return 0
}
same() { # A B: files or directories
    diff -rq "$1" "$2" > /dev/null 2>&1 || bad "$1 and $2 differ: $RAN"
}
absent() {
    [ -e "$1" ] && bad "$1 is there: $RAN"
    return 0
}
# number KEY FILE: the first number under a key of JSON
number() { grep -o "\"$1\": *[0-9.e+-]*" "$2" | head -n 1 | sed 's/.*: *//'; }
# near A B T: both are numbers, and |A - B| <= T
near() {
    awk -v a="$1" -v b="$2" -v t="$3" \
        'BEGIN { exit !(a != "" && b != "" && a - b <= t && b - a <= t) }'
}
entries() { ls -A "$1" | wc -l; }
