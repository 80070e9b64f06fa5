#!/bin/bash
# The N-th call of something fails, for N = 1, 2, ... until all succeeds: never
# a crash, never half an output, never the wrong bytes (tests/inject.c).
. "$(dirname "$0")/lib.sh"
if sanitized; then
    echo "faults: not with a sanitizer"
    exit 0
fi
SO=$W/inject.so
${CC:-gcc} -std=gnu11 -D_GNU_SOURCE -O1 -shared -fPIC -o "$SO" "$HERE/../inject.c" -ldl || exit 2

$H st "$W/tiny.plain.safetensors" 'a.weight=F32[4,64]step' 'n=BF16[3]step'
"$BIN/pq-quantize" -t nf4 -o "$W/tiny.nf4.safetensors" "$W/tiny.plain.safetensors" || exit 2
for i in plain nf4; do "$BIN/pq-convert" -o "$W/tiny.$i.pq" "$W/tiny.$i.safetensors" || exit 2; done

faults() { # KIND FORMAT
    local to=- right=- word cmd=() in=$W/tiny.$INPUT.$2
    for word in $LINE; do
        case $word in
            pq-*) cmd+=("$BIN/$word") ;;
            IN | IN-) cmd+=(@IN) ;;
            ADAPTER) cmd+=("$ROOT/testdata/peft/head") ;;
            OUT) to=x.$suffix; cmd+=(-o @OUT) ;;
            *) cmd+=("$word") ;;
        esac
    done
    if [ $to != - ]; then
        right=$W/right.$LABEL.$suffix
        local plain=("${cmd[@]/#@IN/$in}")
        "${plain[@]/#@OUT/$right}" || bad "rc $? without faults: ${cmd[*]}"
    fi
    rm -rf "$W/f.$LABEL"
    $H faults "$SO" "$1" "$W/f.$LABEL" $to "$in" "$right" "${cmd[@]}" > "$W/said.$LABEL" 2>&1 && return
    while read -r line; do bad "$line"; done < "$W/said.$LABEL"
}
row() {
    PASSED=0 FAILED=0
    suffix=safetensors
    [[ ,$CAN, == *,pq-only,* ]] && suffix=pq
    for kind in malloc read write write+ fsync close link open size thread; do
        check "faults $LABEL $kind" faults $kind safetensors
    done
    [[ ,$CAN, != *,st-only,* ]] && suffix=pq
    for kind in malloc read write; do
        check "faults $LABEL pq $kind" faults $kind pq
    done
    echo "= $PASSED $FAILED"
}
while IFS=$'\t' read -r LABEL KIND INPUT CAN LINE; do
    [[ $LABEL == \#* || -z $LABEL ]] && continue
    [ $# = 0 ] || [[ " $* " == *" $LABEL "* ]] || continue
    while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n; done
    row > "$W/row.$LABEL" &
done < "$HERE/tools.tsv"
wait
for f in "$W"/row.*; do
    grep -v '^= ' "$f"
    read -r _ p n < <(grep '^= ' "$f")
    PASSED=$((PASSED + ${p:-0})) FAILED=$((FAILED + ${n:-1}))
done
finish
