#!/bin/bash
# pq-generate: its words are those of transformers (testdata/generate), lots
# are drawn by the seed alone, stops and adapters do what they say.
. "$(dirname "$0")/lib.sh"
in_scratch
cp -r "$MODEL" llama
cp "$ROOT"/testdata/generate/*.jsonl .

# plain FILE: what pq-generate --json said, as testdata has it
plain() { sed 's/"pq":1,"tool":"pq-generate",//; s/,"prompt_tokens".*}/}/' "$1"; }

greedy() {
    local prompt
    run pq-generate --json --max-tokens 48 -d prompts.jsonl llama; done_well
    plain "$out" | cmp -s - greedy.jsonl || bad "not what transformers writes: $RAN"
    cp "$out" all.json
    run pq-generate --json --repetition-penalty 1.3 --max-tokens 48 -d prompts.jsonl llama; done_well
    plain "$out" | cmp -s - penalty.jsonl || bad "not what transformers writes: $RAN"
    PQ_CPU=scalar run pq-generate --json --max-tokens 48 -T1 -d prompts.jsonl llama; done_well
    cmp -s "$out" all.json || bad "other kernels, other text: $RAN"
    prompt=$(sed -n '1s/.*"prompt":"\(.*\)".*/\1/p' prompts.jsonl)
    run pq-generate -p "$prompt" llama; done_well
    [ "$(cat "$out")" = " as five more. Now she has thirteen pears." ] || bad "$(cat "$out"): $RAN"
    run pq-generate --json -p "$prompt" -p 'The cat' llama; done_well
    cmp -s "$out" <(sed -n '1p;3p' all.json) || bad "-p is not -d: $RAN"
    pq-convert llama -o m.pq
    run pq-generate --json -p "$prompt" m.pq; done_well
    cmp -s "$out" <(sed -n 1p all.json) || bad "a .pq is not its directory: $RAN"
}
lots() {
    local s=(--json --temperature 1.2 --top-k 60 --top-p 0.95 --min-p 0.01 -p 'The cat' -p 'The cat' llama)
    run pq-generate --seed 5 "${s[@]}"; done_well; cp "$out" five.json
    [ "$(uniq five.json | wc -l)" = 2 ] || bad "two prompts draw the same lots: $RAN"
    PQ_CPU=scalar run pq-generate -T1 --seed 5 "${s[@]}"; done_well
    cmp -s "$out" five.json || bad "the same seed, another text: $RAN"
    run pq-generate --seed 6 "${s[@]}"; done_well
    ! cmp -s "$out" five.json || bad "another seed, the same text: $RAN"
    run pq-generate --json --temperature 5 --top-k 1 --max-tokens 48 -d prompts.jsonl llama; done_well
    plain "$out" | cmp -s - greedy.jsonl || bad "of one token another was drawn: $RAN"
}
ends() {
    run pq-generate --stop pears -p 'Once upon a time' llama; done_well
    [ "$(cat "$out")" = " as five more. Now she has thirteen " ] || bad "$(cat "$out"): $RAN"
    # it may begin within a token and go over several
    run pq-generate --json --stop zzz --stop 'ive more. N' -p 'Once upon a time' llama; done_well
    grep -q '"text":" as f","prompt_tokens":[0-9]*,"why":"stop"}$' "$out" || bad "$(cat "$out"): $RAN"
    run pq-generate --stop 'pearson' -p 'Once upon a time' llama; done_well
    [ "$(cat "$out")" = " as five more. Now she has thirteen pears." ] || bad "a part of a stop is none: $RAN"
    run pq-generate --json --max-tokens 3 -p 'Once upon a time' llama; done_well
    grep -q '"ids":\[265,85,283\],.*"why":"length"}$' "$out" || bad "$(cat "$out"): $RAN"
    run pq-generate -v --json -p 'Once upon a time' llama
    grep -q '"why":"eos"}$' "$out" && grep -q '23 new, ended by eos' "$err" || bad "$(cat "$out" "$err"): $RAN"
    # no token beyond the last position
    { printf '{"ids":[1'; for _ in $(seq 249); do printf ',289'; done; echo ']}'; } > long.jsonl
    run pq-generate --json --temperature 9 --seed 1 -d long.jsonl llama; done_well
    [ "$(grep -o '"ids":\[[^]]*' "$out" | tr , '\n' | wc -l)" -le 6 ] || bad "$(cat "$out"): $RAN"
    printf '{"ids":[1,403]}\n{"text":"The cat"}\n{"prompt":"The cat","completion":" sat"}\n' > kinds.jsonl
    run pq-generate --json -d kinds.jsonl llama; done_well
    [ "$(sed -n 2p "$out")" = "$(sed -n 3p "$out")" ] || bad "a completion was read: $RAN"
    printf 'The cat' > cat.txt
    sed -n 2p "$out" > cat.json
    run pq-generate --json -d cat.txt llama; done_well
    cmp -s "$out" cat.json || bad "a text is another prompt: $RAN"
    # an end of config.json, where generation_config.json is missing; a list
    rm llama/generation_config.json
    sed -i 's/"eos_token_id": 2/"eos_token_id": [7, 85]/' llama/config.json
    run pq-generate --json -p 'Once upon a time' llama; done_well
    grep -q '"ids":\[265,85\],"text":" a",.*eos' "$out" || bad "$(cat "$out"): $RAN"
    rm -r llama && cp -r "$MODEL" llama
}
# an adapter in memory is what pq-merge makes of it
adapters() {
    local w
    head -n 4 "$ROOT/testdata/nn/heldout.jsonl" > ids.jsonl
    for w in '' :0.5 :-2; do
        run pq-merge -t f32 llama "$ROOT/testdata/peft/tiny-lora$w" -o merged/
        run pq-generate --json -d prompts.jsonl merged; done_well; cp "$out" want
        run pq-generate --json --adapter "$ROOT/testdata/peft/tiny-lora$w" -d prompts.jsonl llama; done_well
        cmp -s "$out" want || bad "not what merging gives: $RAN"
        run pq-eval --json --logits m.st -d ids.jsonl merged; done_well; cp "$out" want
        run pq-eval --json --logits a.st -d ids.jsonl --adapter "$ROOT/testdata/peft/tiny-lora$w" llama; done_well
        cmp -s "$out" want && cmp -s m.st a.st || bad "not what merging gives: $RAN"
    done
    pq-merge -t f32 llama "$ROOT/testdata/peft/tiny-lora:0.5" "$ROOT/testdata/peft/tiny-lora:-0.25" -o merged/
    run pq-eval --json -d ids.jsonl merged; cp "$out" want
    run pq-eval --json --adapter "$ROOT/testdata/peft/tiny-lora:0.5" --adapter "$ROOT/testdata/peft/tiny-lora:-0.25" \
        -d ids.jsonl llama; done_well
    cmp -s "$out" want || bad "two adapters: $RAN"
    run pq-generate -p a --adapter llama llama; refused 'is no adapter'
    run pq-generate -p a --adapter no/such llama; refused 'no/such'
    run pq-generate -p a --adapter "$ROOT/testdata/peft/conv1d" llama; refused 'conv1d'
}
# what the template gives, tokenized, is what is continued
chat() {
    cp -r llama chat; cp "$ROOT/testdata/chat/small.jinja" chat/chat_template.jinja
    echo '{"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":" The cat "}]}' > talk.jsonl
    printf 'Be brief.\nUser: The cat\nAnswer:' > said.txt
    run pq-generate --json --max-tokens 6 -d said.txt llama; done_well; cp "$out" want
    run pq-generate --json --max-tokens 6 --chat --system 'Be brief.' -p 'The cat' chat; done_well
    cmp -s "$out" want || bad "not the text of the template: $RAN"
    run pq-generate --json --max-tokens 6 -d talk.jsonl chat; done_well
    cmp -s "$out" want || bad "-p is not -d: $RAN"
    pq-convert chat -o chat.pq
    run pq-generate --json --max-tokens 6 --chat --system 'Be brief.' -d cat.txt chat.pq; done_well
    cmp -s "$out" want || bad "a .pq is not its directory: $RAN"
    # the tokenizer's eos_token ends a turn, whatever the model's files say
    rm chat/generation_config.json
    sed -i 's/"eos_token_id": 2/"eos_token_id": 7/' chat/config.json
    sed -i 's/"eos_token": "[^"]*"/"eos_token": {"content": "."}/' chat/tokenizer_config.json
    printf '{{ bos_token }}{{ messages[0].content }}' > chat/chat_template.jinja
    run pq-generate --json --chat -p 'Once upon a time' chat; done_well
    grep -q '"text":" as five more".*"why":"eos"}$' "$out" || bad "$(cat "$out"): $RAN"
    printf '%s' '{{ strftime_now("%Y-%m-%d %H:%M") }}' > chat/chat_template.jinja
    SOURCE_DATE_EPOCH=1000000000 run pq-generate --json --max-tokens 1 --chat -p a chat; done_well
    cp "$out" want
    printf '2001-09-09 01:46' > chat/chat_template.jinja
    run pq-generate --json --max-tokens 1 --chat -p a chat; done_well
    cmp -s "$out" want || bad "another time than SOURCE_DATE_EPOCH: $RAN"
    SOURCE_DATE_EPOCH=x run pq-generate --chat -p a chat; refused SOURCE_DATE_EPOCH
    run pq-generate --chat -p a llama; refused 'no chat template'
    run pq-generate -d talk.jsonl llama; refused 'line 1: the model has no chat template'
    run pq-generate --system a -p a chat; misused
    run pq-generate --chat -p "$(printf 'a\377')" chat; refused UTF-8
    echo '{{ raise_exception("roles must alternate") }}' > chat/chat_template.jinja
    run pq-generate --chat -p a chat; refused 'line 1: the template says: roles must alternate'
    echo '{% include "x" %}' > chat/chat_template.jinja
    run pq-generate --chat -p a chat; refused 'the statement "include" is not supported'
    echo '{"messages":[1]}' > bad.jsonl
    run pq-generate -d bad.jsonl chat.pq; refused 'line 1: message 0 is not an object'
}
refusals() {
    run pq-generate llama; misused
    run pq-generate --top-k 3 -p a llama; misused
    run pq-generate --top-p 0.5 -p a llama; misused
    run pq-generate --min-p 0.5 -p a llama; misused
    run pq-generate --temperature -1 -p a llama; misused
    run pq-generate --stop '' -p a llama; misused
    run pq-generate -d - ; misused
    run pq-generate -p a no/such; refused no/such
    run pq-generate -p "$(printf 'a\377')" llama; refused 'UTF-8'
    : > empty.jsonl
    run pq-generate -d empty.jsonl llama; refused 'no prompt'
    echo '{"ids":[1,512]}' > bad.jsonl
    run pq-generate -d bad.jsonl llama; refused 'line 1: id 512'
    echo '{"ids":[]}' > bad.jsonl
    run pq-generate -d bad.jsonl llama; refused 'prompt 1: is empty'
    sed 's/\]/,5,5,5,5,5,5]/' long.jsonl > bad.jsonl
    run pq-generate -d bad.jsonl llama; refused '256 positions'
    rm llama/tokenizer.json
    run pq-generate -p a llama; refused 'neither tokenizer.json nor tokenizer.model'
    run pq-generate --max-tokens 4 -d kinds.jsonl llama; refused 'line 2: '
    head -n 1 kinds.jsonl > ids.jsonl
    run pq-generate --max-tokens 4 -d ids.jsonl llama; done_well # ids give ids
    grep -qE '^[0-9]+( [0-9]+){3}$' "$out" || bad "$(cat "$out"): $RAN"
    echo '{}' > llama/tokenizer.json
    run pq-generate --max-tokens 4 -d ids.jsonl llama; refused 'tokenizer.json'
}

for c in greedy lots ends adapters chat refusals; do check "generate $c" $c; done
finish
