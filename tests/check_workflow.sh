#!/usr/bin/env bash
# pq.mk in the Makefile of testdata/workflow: built at -j4, again with nothing
# to do, after changes of options and inputs, and with stages that fail.
#
#   PQ_BIN=DIR tests/check_workflow.sh
set -euo pipefail
cd "$(dirname "$0")/.."

PATH=$(cd "${PQ_BIN:-build/bin}" && pwd):$PATH
export PQ_MK=$PWD/cmd/pq.mk PQ_THREADS=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0
failed=0
# this make must not join the jobs of the one that runs us
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES

cp testdata/workflow/Makefile "$work"
cp -r testdata/tiny-llama "$work/n"
cp testdata/tiny-llama/model.safetensors "$work/m.safetensors"
cd "$work"

check() {
    local what=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL $what"
        sed 's/^/    /' log
    fi
}

# Runs make; its exit status is in $status, the commands it ran in `log`.
build() {
    status=0
    make -j4 "$@" >log 2>&1 || status=$?
}

# Made without failure, by so many commands of each tool?
ran() {
    local quantize=$1 verify=$2 info=$3
    [ "$status" = 0 ] &&
        [ "$(grep -c '^pq-quantize ' log)" = "$quantize" ] &&
        [ "$(grep -c '^pq-verify ' log)" = "$verify" ] &&
        [ "$(grep -c '^pq-info ' log)" = "$info" ]
}

fails() {
    [ "$status" = 2 ]
}

same() {
    sha256sum --status -c "$1"
}

sums() {
    sha256sum m.* n.*.* n.nf4/* >"$1"
}

# Two models in nf4, int8 and f16, one nf4 directory, two gates, two reports.
build
check 'everything is made' ran 7 4 2
sums first
build
check 'the second run does nothing' ran 0 0 0
check 'and leaves all files alone' same first

build PQ_FLAGS_nf4='--block 128'
check 'other options for nf4: nf4 only' ran 3 2 2
build PQ_FLAGS_nf4='--block 128'
check 'once' ran 0 0 0
build PQ_FLAGS_nf4="--rule '*.o_proj.weight=keep'"
check 'options with quotes' ran 3 2 2
build PQ_FLAGS_nf4="--rule '*.o_proj.weight=keep'"
check 'options with quotes, once' ran 0 0 0
build PQ_QUANTIZE_FLAGS='--no-provenance'
check 'options for all types' ran 7 4 2
build
check 'back to the old options' ran 7 4 2
check 'the same bytes as before' same first

# A bare .SECONDARY must not hide a change of options.
echo .SECONDARY: >secondary.mk
build -f Makefile -f secondary.mk PQ_FLAGS_nf4='--block 256'
check 'other options with .SECONDARY' ran 3 2 2
build -f Makefile -f secondary.mk
check 'and back' ran 3 2 2

touch m.safetensors
build
check 'a new m: what is made of m' ran 3 2 1

# A stage that fails: its old target stays, make fails, and tries again.
build
sums good
build PQ_FLAGS_int8='--block 7'
check 'wrong options: make fails' fails
check 'and the old targets are as they were' same good
build
check 'good options again: int8 is made again' ran 2 2 0
check 'as it was' same good

cp m.safetensors whole
head -c 100000 whole >m.safetensors
build -k
check 'a truncated m: make fails' fails
check 'it says where' grep -q 'pq-quantize: m.safetensors: .*truncated' log
mv m.safetensors cut
cp whole m.safetensors
check 'the old targets are as they were' same good
build
check 'm repaired' ran 3 2 1
check 'the same bytes' same good

# A gate that says no keeps the build from going on.
head -c 100000 m.nf4.pq >cut && cp cut m.nf4.pq
build
check 'a damaged target: make fails' fails
rm m.nf4.pq
build
check 'made again' ran 1 1 1

echo "$passed passed, $failed failed"
((failed == 0))
