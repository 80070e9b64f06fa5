#!/bin/bash
# pq-prompt: its numbers are those of torch and PEFT (testdata/prompt), the
# model that it exports does what the prompt does, and what it refuses.
. "$(dirname "$0")/lib.sh"
in_scratch
cp -r "$MODEL" llama
mkdir prompt
cp "$ROOT"/testdata/prompt/adapter_* prompt
cp "$ROOT/testdata/prompt/ids.jsonl" .

# alike A B: JSON of the same keys, texts and order, numbers to 1e-5
alike() {
    paste -d'\n' <(tr ',:[]{}' '\n' < "$1") <(tr ',:[]{}' '\n' < "$2") | awk '
        NR % 2 { a = $0; next }
        a ~ /^-?[0-9.]+(e-?[0-9]+)?$/ { d = a - $0; if (d > 1e-5 || d < -1e-5) exit 1; n++; next }
        a != $0 { exit 1 }
        END { if (n < 50) exit 1 }' || bad "$1 and $2 differ: $RAN"
}

numbers() {
    run pq-prompt --json --model llama -d ids.jsonl prompt; done_well
    cp "$out" all.json
    alike all.json "$ROOT/testdata/prompt/expected.json"
    $H json "$out" > /dev/null 2>&1 || bad "no JSON: $RAN"
    run env PQ_CPU=scalar pq-prompt -T 3 --json --model llama -d ids.jsonl prompt; done_well
    cmp -s "$out" all.json || bad "another with other threads or kernels: $RAN"
}
# less is told of less, and of that the same
parts() {
    run pq-prompt prompt; done_well
    [ "$(wc -l < "$out")" = 7 ] || bad "$(cat "$out"): $RAN"
    grep -q 'largest 0.999 (1 and 4)' "$out" || bad "$(cat "$out"): $RAN"
    run pq-prompt --model llama prompt; done_well
    grep -q '451 "Once" 0.900' "$out" || bad "$(cat "$out"): $RAN"
    tail -n 1 "$out" | grep -q 'not what it means' || bad "no caution: $RAN"
    run pq-prompt --model llama -d ids.jsonl prompt; done_well
    grep -q '^with the prompt  *loss 0.3227  accuracy [0-9.]*%$' "$out" &&
        grep -q '^with the nearest tokens  *loss 0.3219  accuracy [0-9.]*%$' "$out" &&
        grep -q '^without  *loss 0.3267  accuracy [0-9.]*%$' "$out" || bad "$(cat "$out"): $RAN"
    run pq-prompt -q --model llama prompt; done_well
    [ -s "$out" ] && bad "-q says something: $RAN"
    run pq-prompt --json --top 1 --model llama prompt; done_well
    [ "$(grep -o '"margin":null' "$out" | wc -l)" = 5 ] || bad "a margin: $RAN"
    pq-convert prompt/adapter_model.safetensors -o prompt.pq
    pq-convert llama -o llama.pq
    run pq-prompt --json --model llama.pq -d ids.jsonl prompt.pq; done_well
    cmp -s "$out" all.json || bad ".pq is not its directory: $RAN"
    # of an encoded table the decoded rows count
    pq-quantize -t nf4 -m 'model.embed_tokens.weight' -m 'lm_head.weight' --rule '*=nf4' llama -o nf4/ &&
        pq-dequantize -t f32 nf4 -o f32/
    run pq-prompt --json --model nf4 prompt; done_well; cp "$out" nf4.json
    run pq-prompt --json --model f32 prompt; done_well
    cmp -s "$out" nf4.json || bad "other rows than the decoded ones: $RAN"
}
# one token alone is a pair with none; without it there is no prompt
one() {
    pq-train --method prompt --prompt-tokens 1 --steps 1 -d ids.jsonl -o single/ llama
    run pq-prompt --json --model llama -d ids.jsonl single; done_well
    [ "$(grep -o '"loss_without":[0-9.]*' "$out" | sort -u | wc -l)" = 1 ] || bad "$(cat "$out"): $RAN"
    [ "$(number effective_rank "$out")" = 1 ] || bad "$(cat "$out"): $RAN"
}
average() {
    pq-train --method prompt --prompt-tokens 5 --seed 3 --steps 1 -d ids.jsonl -o other/ llama
    run pq-prompt --average -o mean/ prompt other prompt other; done_well
    run pq-prompt --average --no-provenance -o mean2 other prompt; done_well
    run pq-diff mean/adapter_model.safetensors mean2/adapter_model.safetensors; done_well
    same mean/adapter_config.json prompt/adapter_config.json
    run pq-prompt --average --json -o same/ prompt prompt prompt; done_well
    [ "$(number bytes_in "$out")" = $((3 * $(wc -c < prompt/adapter_model.safetensors))) ] || bad "$(cat "$out"): $RAN"
    run pq-diff same prompt; done_well
    run pq-prompt --average -o x/ prompt single; refused 'only prompts of one shape'
    absent x
    run pq-prompt --average -o x/ prompt; misused
    run pq-prompt --average prompt other --model llama -o x/; misused
}
# likelihoods behind the new tokens are those behind the prompt
export_tokens() {
    local ids with
    run pq-prompt --export-tokens --json --model llama -o more/ prompt; done_well
    [ "$(number first_token "$out") $(number tokens_added "$out")" = '512 5' ] || bad "$(cat "$out"): $RAN"
    grep -q '"vocab_size": 517' more/config.json || bad "config.json: $RAN"
    printf '<prompt-0><prompt-4>Once' > named.txt
    run pq-eval --tokens -d named.txt more; done_well
    [ "$(cat "$out")" = '{"ids":[1,512,516,451]}' ] || bad "$(cat "$out"): $RAN"
    head -n 1 ids.jsonl > first.jsonl
    run pq-prompt --json --model llama -d first.jsonl prompt; done_well
    with=$(number loss "$out")
    ids=$(sed 's/.*\[\(.*\)\].*/\1/' first.jsonl)
    printf '{"ids":[512,513,514,515,516,%s]}\n' "$ids" > longer.jsonl
    run pq-eval --per-token -d longer.jsonl more; done_well
    awk -v w="$with" -F'\t' 'NF == 4 && $2 > 5 { s += $4; n++ }
        END { d = s / n - w; exit !(d < 1e-3 && d > -1e-3) }' "$out" || bad "not $with: $RAN"
    # a stream is what its directory is
    run pq-prompt --export-tokens --no-provenance --model llama.pq -o a/ prompt; done_well
    run pq-prompt --export-tokens --no-provenance --model llama -o b/ prompt; done_well
    run pq-diff a b; done_well
    same a/tokenizer.json b/tokenizer.json
    # twice is twice
    run pq-prompt --export-tokens --model more -o twice/ prompt; done_well
    grep -q '"id": 521, "content": "<prompt-9>"' twice/tokenizer.json || bad "other names: $RAN"
    run pq-prompt --export-tokens -n --model llama -o x/ prompt; [ $RC = 0 ] || bad "rc $RC: $RAN"
    [ "$(tail -n 1 "$out")" = "$(cat more/* | wc -c)" ] ||
        bad "$(tail -n 1 "$out") is not the size, $(cat more/* | wc -c): $RAN"
    run pq-prompt --export-tokens --model nf4 -o x/ prompt; refused 'dequantize it first'
    absent x
}
# a tied head has the prompt's rows: there is one table
tied() {
    mkdir tied
    $H st tied/model.safetensors model.embed_tokens.weight=F32[16,4]rand model.norm.weight=F32[4]rand
    echo '{"model_type":"llama","vocab_size":16,"tie_word_embeddings":true}' > tied/config.json
    $H st small.safetensors prompt_embeddings=F32[2,4]rand
    run pq-prompt --export-tokens -v --model tied -o tied2/ small.safetensors
    [ $RC = 0 ] || bad "rc $RC: $RAN"
    grep -q 'are 16 to 17; there is no tokenizer.json' "$err" || bad "$(cat "$err"): $RAN"
    run pq-info tied2; grep -q '\[18, 4\].*embed_tokens' "$out" || bad "$(cat "$out"): $RAN"
}
picture() {
    run pq-prompt -q --plot x.svg --model llama prompt; done_well
    [ "$(grep -c '<title>' x.svg)" = 25 ] || bad "other cells: $RAN"
    grep -q '>0 Once<' x.svg || bad "no label: $RAN"
    grep -q '<title>1 and 4 0.9986<' x.svg || bad "no such cosine: $RAN"
}
refusals() {
    run pq-prompt "$ADAPTER"; refused 'is no soft prompt'
    run pq-prompt llama; refused 'is no soft prompt'
    mkdir prefix
    cp prompt/* prefix
    sed -i 's/PROMPT_TUNING/PREFIX_TUNING/' prefix/adapter_config.json
    run pq-prompt prefix; refused 'neither PROMPT_TUNING nor P_TUNING'
    run pq-prompt --model tied prompt; refused 'has rows of 4'
    run pq-prompt --model prompt prompt; refused 'no table of token embeddings'
    printf '{"ids":[1]}\n' > short.jsonl
    run pq-prompt --model llama -d short.jsonl prompt; refused 'no token'
    run pq-prompt -d ids.jsonl prompt; misused
    run pq-prompt --top 2 prompt; misused
    run pq-prompt -o x/ prompt; misused
    run pq-prompt prompt prompt; misused
    run pq-prompt --export-tokens -o x/ prompt; misused
    run pq-prompt --model - -; misused
    cp ids.jsonl data.svg
    run pq-prompt --plot llama/config.json --model llama prompt; refused 'llama is read'
    run pq-prompt --plot data.svg -d data.svg --model llama prompt; refused 'data.svg is read'
    same data.svg ids.jsonl
    absent x
}

check "numbers" numbers
check "parts" parts
check "one" one
check "average" average
check "export" export_tokens
check "tied" tied
check "picture" picture
check "refusals" refusals
finish
