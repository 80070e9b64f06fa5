#!/usr/bin/env bash
# The main job on the embedded model: look, quantize, compare, pipe, verify;
# then teach it a dialect, and see what pruning and quantizing take of that.
#
#   tests/demo.sh [BIN]
#
# Everything happens in a temporary directory, but for a picture of the loss
# beside BIN; any failure ends the demo.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=$(cd "${1:-build/bin}" && pwd)
model=$PWD/testdata/tiny-llama
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'echo "demo: failed in line $LINENO" >&2' ERR
PATH=$bin:$PATH
cp -r "$model" "$work/tiny-llama"
cd "$work"

# Shows a command as one would type it, and runs it.
run() {
    echo "\$ $*"
    eval "$*"
}

title() {
    printf '\n-- %s\n' "$*"
}

# Mean and lowest of the finite "sqnr_db" of a report.
sqnr() {
    grep -o '"sqnr_db":[0-9.eE+-]*' "$1" | cut -d: -f2 | awk '
        NR == 1 || $1 < low { low = $1 }
        { sum += $1 }
        END { if (NR) printf "%8.2f  %8.2f", sum / NR, low; else printf "%8s  %8s", "exact", "exact" }'
}

bytes_of() {
    grep -o "\"$1\":[0-9]*" "$2" | head -n 1 | cut -d: -f2
}

# One row: a type as a .pq and as a directory, and back again.
row() {
    local name=$1 in out
    shift
    pq-quantize "$@" --json tiny-llama -o "$name.pq" >"$name.json"
    pq-quantize "$@" tiny-llama -o "$name/"
    pq-dequantize -t f32 "$name.pq" -o "$name-back/"
    pq-verify "$name.pq"
    pq-verify "$name"
    pq-verify "$name-back"
    in=$(bytes_of bytes_in "$name.json")
    out=$(bytes_of bytes_out "$name.json")
    printf '%-18s %9d  %5.2f  %s\n' "$name" "$out" \
        "$(awk "BEGIN { print $in / $out }")" "$(sqnr "$name.json")"
}

title 'What is in the model'
run "pq-info -m '*.layers.0.*' tiny-llama"

title 'Every type, as a .pq file and as a directory; decoded again and verified'
printf '%-18s %9s  %5s  %8s  %8s\n' type bytes ratio 'SQNR dB' 'lowest'
row f16 -t f16
row bf16 -t bf16
row int8 -t int8
row nf4 -t nf4
row nf4-optimized -t nf4 --optimize
row nf4-double-quant -t nf4 --double-quant
echo 'ratio: f32 bytes to bytes, embeddings and head included, which stay f32 from int8 on;'
echo 'double quantization adds 1 KiB of tables a tensor: it pays from some 25000 weights on'

title 'A directory that transformers and bitsandbytes load'
run 'ls nf4-double-quant'
run 'grep -A 4 quantization_config nf4-double-quant/config.json'

title 'Three tools in a pipe: checksums go along, a failure reaches the last one'
run 'pq-quantize -t nf4 tiny-llama | pq-dequantize -t f16 | pq-convert -z -o piped.pq'
run 'pq-info piped.pq | grep "made by"'
run 'pq-verify piped.pq && echo sound'

title 'A damaged file is found out'
run 'head -c 100000 nf4.pq >cut.pq; pq-verify cut.pq || echo "exit status $?"'

# The words of the model's own language that the dialect has others for; the
# first half of the text is to learn from, the second to be scored on.
dialect() {
    sed -E 's/ is in / lies in /g; s/ takes / grabs /g; s/ puts / lays /g; s/ said / quoth /g' tiny-llama/heldout.txt
}

# One row: a model's size, its perplexity on the dialect, tokens scored a second.
score() {
    local start=$EPOCHREALTIME nll tokens
    pq-eval --json -d test.txt "$2" >score.json
    local end=$EPOCHREALTIME
    nll=$(grep -o '"perplexity":[0-9.]*' score.json | cut -d: -f2)
    tokens=$(bytes_of tokens score.json)
    printf '%-26s %9d  %10.3f  %8.0f\n' "$1" "$(stat -c %s "$2")" "$nll" \
        "$(awk "BEGIN { print $tokens / ($end - $start) }")"
}

title 'A LoRA that speaks another dialect, trained here, and what is left of it'
dialect | sed -n '1,23p' >train.txt
dialect | sed -n '24,$p' >test.txt
picture=$(dirname "$bin")/demo-loss.svg
run 'pq-train -d train.txt --seq-len 64 --batch 8 --rank 8 --lr 3e-3 --epochs 12 --plot loss.svg -o lora/ tiny-llama'
cp loss.svg "$picture"
run 'pq-convert tiny-llama -o base.pq'
run 'pq-merge tiny-llama lora -o tuned.pq'
run 'pq-prune -s 0.3 tuned.pq -o sparse.pq'
run 'pq-quantize -t nf4 sparse.pq | pq-convert -z -o small.pq'
printf '%-26s %9s  %10s  %8s\n' model bytes perplexity tokens/s
score 'as it was' base.pq
score 'with the LoRA' tuned.pq
score '30% of the weights zero' sparse.pq
score 'and in nf4, compressed' small.pq
echo "the loss while it learned: $picture"
