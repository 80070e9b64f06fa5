#!/usr/bin/env bash
# pq.mk in the Makefile of testdata/workflow: built at -j4, again with nothing
# to do, after changes of options and inputs, and with stages that fail; then
# a few steps of its model from nothing.
#
#   PQ_BIN=DIR tests/check_workflow.sh
set -euo pipefail
cd "$(dirname "$0")/.."

PQ_BIN=$(cd "${PQ_BIN:-build/bin}" && pwd)
PATH=$PQ_BIN:$PATH
like=$PWD/testdata/tiny-llama
export PQ_BIN PQ_MK=$PWD/cmd/pq.mk PQ_THREADS=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0
failed=0
# this make must not join the jobs of the one that runs us
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES

cp testdata/workflow/{Makefile,grammar.c} "$work"
cp -r "$like" "$work/n"
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

# A model from nothing, after a few steps on little text: it is not good, but
# better than one that knows nothing, whose perplexity is 512.
few='--steps 60 --batch 4 --lr 6e-3 --warmup 4 --schedule cosine'
tiny() {
    build tiny LIKE="$like" OUT=new SENTENCES=2000 "$@"
}

trained() {
    [ "$status" = "$1" ] && [ "$(grep -c '^pq-train ' log)" = "$2" ]
}

line='perplexity of held-out text: [0-9.]* after training from nothing, 1.27[0-9]* of '
tiny TRAIN="$few" RATIO=25
check 'a model from nothing' trained 0 1
check 'it learned something' grep -q "^$line" log
check 'with a picture' grep -q '</svg>' new/loss.svg
check 'a model that is sound' pq-verify -q new/model
check 'it began without weights' test ! -e new/empty/model.safetensors
cp new/model/model.safetensors again
tiny TRAIN="$few" RATIO=25
check 'once' trained 0 0
tiny TRAIN="$few" RATIO=1.05
check 'the gate says no' trained 2 0
check 'and why' grep -q 'more than 1.05 times as much' log
tiny TRAIN="$few --seed 1" RATIO=25
check 'other options: trained again' trained 0 1
check 'to another model' eval '! cmp -s again new/model/model.safetensors'
PQ_THREADS=2 tiny TRAIN="$few" RATIO=25
check 'the first options' trained 0 1
check 'the same bytes' cmp again new/model/model.safetensors

# Its text: the committed one, and what tests/oracle/grammar.py prints of seed 1.
sum=24502a129ac7ee0e361429e83555cf7839c866ae5d012a7a240f32359cc46327
text_of_seed_1() {
    [ "$(new/grammar 1 60000 | sha256sum)" = "$sum  -" ]
}
check 'the text of seed 2' cmp <(new/grammar 2 200) "$like/heldout.txt"
check 'the text of seed 1' text_of_seed_1

echo "$passed passed, $failed failed"
((failed == 0))
