#!/bin/bash
# Pipelines: what one tool tells the next, without pipefail.
. "$(dirname "$0")/lib.sh"
set +o pipefail
in_scratch

args=()
for i in 1 2 3 4 5 6; do args+=("l.$i.weight=F32[256,800]rand"); done
$H st good.safetensors "${args[@]}" 'l.7.weight=F32[64,64]rand' 'norm=F32[64]rand'
$H st bad.safetensors "${args[@]}" 'l.7.weight=F32[64,64]nan' 'norm=F32[64]rand'
head -c 3000000 good.safetensors > cut.safetensors
pq-convert -o good.pq good.safetensors
head -c 3000000 good.pq > cut.pq
cp good.pq flipped.pq
printf '\x5a\xa5\x5a\xa5' | dd of=flipped.pq bs=1 seek=2500000 conv=notrunc 2> /dev/null

# pipeline TEXT: a shell line, its last status in RC, all messages in $err
pipeline() {
    RAN="cd $W; $1"
    { eval "$1"; } > "$out" 2> "$err"
    RC=$?
}

upstream_failure() { # TEXT TOOL: the last tool fails, quoting TOOL
    rm -rf x x.safetensors x.pq
    pipeline "$1"
    [ $RC = 2 ] || bad "rc $RC instead of 2: $RAN"
    grep -q "^$3: .*upstream $2" "$err" || bad "no '$3: ... upstream $2' in '$(tr '\n' '|' < "$err")': $RAN"
    absent x; absent x.safetensors; absent x.pq
    [ -z "$(ls -A | grep '^\.')" ] || bad "a temporary file is left: $RAN"
}
abrt_nan() {
    upstream_failure 'pq-quantize -t nf4 bad.safetensors | pq-convert -o x.safetensors' pq-quantize pq-convert
    grep -q 'upstream pq-quantize.*l\.7\.weight' "$err" || bad "the tensor is not named: $RAN"
}
abrt_to_pq() { upstream_failure 'pq-quantize -t nf4 bad.safetensors | pq-convert -z -o x.pq' pq-quantize pq-convert; }
abrt_to_directory() { upstream_failure 'pq-quantize -t nf4 bad.safetensors | pq-convert -o x/' pq-quantize pq-convert; }
abrt_compressed() { upstream_failure 'pq-quantize -t nf4 bad.safetensors | pq-convert -z | pq-convert -o x.pq' pq-quantize pq-convert; }
abrt_three() { upstream_failure 'pq-quantize -t nf4 bad.safetensors | pq-dequantize | pq-convert -o x.safetensors' pq-quantize pq-convert; }
abrt_cut_input() { upstream_failure 'cat cut.pq | pq-quantize -t nf4 | pq-convert -o x.safetensors' pq-quantize pq-convert; }
abrt_cut_safetensors() { upstream_failure 'cat cut.safetensors | pq-quantize -t nf4 | pq-convert -o x.safetensors' pq-quantize pq-convert; }
abrt_flipped() { upstream_failure 'pq-convert -z flipped.pq | pq-quantize -t f16 -o x.pq' pq-convert pq-quantize; }
abrt_verify() {
    pipeline 'pq-quantize -t nf4 bad.safetensors | pq-verify'
    [ $RC = 1 ] || bad "rc $RC instead of 1: $RAN"
    grep -q 'upstream pq-quantize' "$err" || bad "no 'upstream pq-quantize': $RAN"
}
nothing_comes() {
    rm -f x.pq
    pipeline 'true | pq-convert -o x.pq'
    [ $RC = 2 ] || bad "rc $RC: $RAN"
    pipeline 'pq-quantize -t nonsense good.safetensors | pq-convert -o x.pq'
    [ $RC = 2 ] || bad "rc $RC: $RAN"
    pipeline 'pq-quantize -t nf4 missing.safetensors | pq-convert -o x.pq'
    [ $RC = 2 ] || bad "rc $RC: $RAN"
    absent x.pq
}
safetensors_between() {
    rm -f x.pq
    pipeline 'pq-quantize -t nf4 -O safetensors bad.safetensors | pq-convert -o x.pq'
    [ $RC = 2 ] || bad "rc $RC: $RAN"
    absent x.pq
}
three_tools() {
    pipeline 'pq-quantize -t nf4 good.safetensors | pq-dequantize | pq-quantize -t int8 -o three.safetensors'
    done_well
    pq-quantize -t nf4 -o a.safetensors good.safetensors
    pq-dequantize -o b.pq a.safetensors
    pq-quantize -t int8 -o c.safetensors b.pq
    [ "$(pq-info --digest --json three.safetensors > j; $H json j digest)" = \
      "$(pq-info --digest --json c.safetensors > j; $H json j digest)" ] || bad "other tensors than in three steps: $RAN"
    pq-verify three.safetensors || bad "not sound: $RAN"
    cmp -s three.safetensors c.safetensors || bad "other bytes than in three steps: $RAN"
}
provenance_of_three() {
    pipeline 'pq-quantize -t nf4 good.safetensors | pq-dequantize | pq-convert -o p.pq'
    pq-info p.pq | grep -c '^made by' | grep -qx 3 || bad "not three lines of provenance: $RAN"
}
middle_killed() {
    local sig
    for sig in KILL TERM INT; do
        rm -f x.safetensors
        pipeline "cat good.safetensors | { head -c 1000000; sleep 0.4; cat; } |
            { pq-quantize -t f16 & p=\$!; (sleep 0.2; kill -$sig \$p) & wait \$p; } 2> /dev/null |
            pq-convert -o x.safetensors"
        # a background job has INT ignored: then nothing happens, and rightly
        if [ $sig = INT ] && [ $RC = 0 ]; then continue; fi
        [ $RC = 2 ] || bad "rc $RC after $sig: $RAN"
        absent x.safetensors
    done
}
first_killed() {
    rm -f x.pq
    pipeline '{ head -c 2000000 good.pq; kill -9 $BASHPID; } 2> /dev/null | pq-quantize -t nf4 -o x.pq'
    [ $RC = 2 ] || bad "rc $RC: $RAN"
    absent x.pq
}
fifo_and_fd() {
    rm -f x.pq fifo y.pq
    mkfifo fifo
    pq-convert --no-provenance -o y.pq fifo & p=$!
    pipeline 'pq-convert --no-provenance -O pq -o fifo good.safetensors'
    done_well
    wait $p || bad "rc $? of the reader of the FIFO"
    pipeline 'pq-convert --no-provenance -O pq -o z.pq good.safetensors'
    cmp -s y.pq z.pq || bad "another file through a FIFO: $RAN"
    [ -p fifo ] || bad "the FIFO was replaced"
    pipeline 'pq-info <(cat good.pq)'
    done_well
}
for t in abrt_nan abrt_to_pq abrt_to_directory abrt_compressed abrt_three abrt_cut_input \
    abrt_cut_safetensors abrt_flipped abrt_verify nothing_comes safetensors_between three_tools \
    provenance_of_three middle_killed first_killed fifo_and_fd; do
    check "pipes $t" $t
done
finish
