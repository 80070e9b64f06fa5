#!/bin/bash
# The N-th call of something fails, for N = 1, 2, ... until all succeeds: never
# a crash, never half an output, never the wrong bytes (tests/inject.c).
#
#   faults.sh [LABEL]...   only these rows of tools.tsv
. "$(dirname "$0")/lib.sh"
. "$HERE/table.sh"
if sanitized; then
    echo "faults: not with a sanitizer"
    exit 0
fi
SO=$(preload ../inject.c)
LABELS=$*

inputs() {
    mkdir "$W/in"
    $H st "$W/in/tiny.plain.safetensors" 'a.weight=F32[4,64]step' 'n=BF16[3]step' \
        'l.0.w=F32[5]step' 'l.1.w=F32[5]step'
    derive tiny 1000 && contain tiny && prepare_llama || bad "the inputs could not be prepared"
}
faults() { # KIND FORMAT
    local to=- right=- where= from=@IN in
    in=$(input tiny "$2")
    can recipe && from=$W/f.$LABEL/input # what the helper puts for @IN
    SIZE=tiny
    if model_out; then
        to=x.$(suffixes | grep -owF "$2" || suffix)
        right=$W/right.$LABEL.${to#x.} where=@OUT
        command_for "$in" "$right"
        "${CMD[@]}" || bad "rc $? without faults: ${CMD[*]}"
    fi
    command_for "$from" "$where"
    rm -rf "$W/f.$LABEL"
    $H faults "$SO" "$1" $GOOD "$W/f.$LABEL" $to "$in" "$right" "${CMD[@]}" > "$W/said.$LABEL" 2>&1 && return
    while read -r line; do bad "$line"; done < "$W/said.$LABEL"
}
row() {
    for kind in malloc read write write+ fsync close link open size thread; do
        check "faults $LABEL $kind" faults $kind safetensors
    done
    for kind in malloc read write; do
        check "faults $LABEL pq $kind" faults $kind pq
    done
}
check "faults inputs" inputs
each_row row
finish
