#!/bin/bash
# The twenty contracts, over every row of tools.tsv.
#
#   run.sh [-j N] [LABEL|NUMBER]...   only these rows, only these contracts
#
# N rows at a time, all cores by default.  PQ_TIMES=1 tells what took long.
. "$(dirname "$0")/lib.sh"
. "$HERE/table.sh"
. "$HERE/contracts.sh"

# ---- Inputs -----------------------------------------------------------------

# Each has a layer 1 and another one, for pq-prune --drop-layers 1.
prepare() {
    local name long many=100000
    sanitized && many=20000 # ten times slower, the same code
    mkdir -p "$W/in" "$W/odd"
    $H st "$W/in/tiny.plain.safetensors" 'a.weight=F32[2,64]step' 'n=BF16[3]step' 's=I64[]step' \
        'l.0.w=F32[5]step' 'l.1.w=F32[5]step'
    set --
    for i in 1 2 3 4 5 6; do
        set -- "$@" "l.$i.q.weight=F32[16,64]step" "l.$i.norm.weight=BF16[64]step"
    done
    $H st "$W/in/cut.plain.safetensors" "$@" 'ids=I64[8]step' 'empty=F32[0,4]step'
    set --
    for i in $(seq 40); do
        set -- "$@" "model.layers.$i.mlp.up_proj.weight=F32[256,800]rand"
    done
    $H st "$W/in/mid.plain.safetensors" "$@" # 32 MB
    cp "$MODEL/model.safetensors" "$W/in/small.plain.safetensors"
    long=$(printf 'n%.0s' $(seq 4096))
    $H st "$W/in/weird.plain.safetensors" -m '"note":"caf\u00e9 \u0007\n"' \
        's=F32[]rand' 'e.weight=F32[0,64]rand' 'f.weight=F32[64,0]rand' \
        "$long=F32[2,2]rand" "$long.weight=F32[2,64]rand" \
        'b\u0007\n\t\u001b[31m.weight=F32[2,64]rand' \
        $'caf\xc3\xa9.\xe6\xa8\xa1.weight=F32[2,64]rand' '\ud83d\ude00.weight=BF16[3,5]rand' \
        '=F32[3]rand' 'x\"y\\.weight=F32[1,1]rand' \
        'l.0.w=F32[5]rand' 'l.1.w=F32[5]rand'
    $H st "$W/odd/latin.safetensors" $'caf\xe9.weight=F32[2,64]rand'
    $H many "$W/in/many.plain.safetensors" $many 1 step \
        'model.layers.0.mlp.up_proj.weight=F32[8,8]step'
    mkdir "$W/in/dir.plain"
    cp "$MODEL"/*.json "$W/in/dir.plain/"
    cp "$MODEL/model.safetensors" "$W/in/dir.plain/"
    chat "$W/in/dir.plain"
    for name in tiny cut mid small weird many; do
        derive $name 1000000 && contain $name || bad "$name could not be prepared"
    done
    derive dir 1000000 || bad "dir could not be prepared"
    prepare_llama || bad "llama could not be prepared"
}
prepare_large() {
    local i
    set --
    for i in $(seq 32); do
        set -- "$@" "model.layers.$i.mlp.up_proj.weight=F32[1024,4096]"
    done
    $H st "$W/in/huge.plain.safetensors" "$@" 'model.norm.weight=F32[4096]'
    $H st "$W/in/one.plain.safetensors" 'model.layers.0.mlp.up_proj.weight=F32[25600,4096]' \
        'model.layers.1.norm.weight=F32[4096]'
    for i in huge one; do derive $i 1000 || bad "$i could not be prepared"; done
}

# ---- The run ----------------------------------------------------------------

contracts() { declare -F | sed -n 's/^declare -f \(contract_\)/\1/p'; }

one() {
    S=$W/s/$LABEL
    mkdir -p "$S"
    out=$W/s/$LABEL.out
    err=$W/s/$LABEL.err
    local t=$SECONDS
    check "$LABEL ${1#contract_}" $1
    [ -n "${PQ_TIMES:-}" ] && [ $((SECONDS - t)) -gt 0 ] && echo "time $LABEL $1 $((SECONDS - t)) s"
    chmod -R u+w "$S" && rm -rf "$S"
}
all() { for c; do one $c; done; }
wanted() { [ -z "$numbers" ] || [[ " $numbers " == *" $1 "* ]]; }

numbers=
while [ $# -gt 0 ]; do
    case $1 in
        -j) JOBS=$2; shift ;;
        [0-9]*) numbers+=" $(printf '%02d' $((10#$1)))" ;;
        *) LABELS+=" $1" ;;
    esac
    shift
done

# Every tool has a row.
table_complete() {
    local p
    for p in "$BIN"/pq-*; do
        grep -qP "\t${p##*/} " "$HERE/tools.tsv" || bad "${p##*/} has no row in tools.tsv"
    done
}
START=$(preload start.c)
check "table" table_complete
check "inputs" prepare
chosen=()
for c in $(contracts); do
    wanted "${c:9:2}" && [ "${c:9:2}" != 18 ] && chosen+=("$c")
done
each_row all "${chosen[@]}"
# Peak memory last, for its inputs are large.
if wanted 18 && ! sanitized; then
    rm -rf "$W/in"/many.* "$W/in"/mid.*
    check "large inputs" prepare_large
    each_row one contract_18_memory
fi
finish
