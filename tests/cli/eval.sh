#!/bin/bash
# pq-eval: its numbers are those of transformers (testdata/nn/heldout.json), an
# encoded model is the one that decoding makes of it, and what it refuses.
. "$(dirname "$0")/lib.sh"
in_scratch
cp -r "$MODEL" llama
cp -r "$ROOT/testdata/peft/base-gpt2" gpt2
cp "$ROOT/testdata/nn/heldout.jsonl" "$ROOT/testdata/nn/heldout.json" .
tail -n 1 heldout.jsonl > long.jsonl
printf '{"ids":[1,5,23,7]}\n\n{"text":1,"ids":[9,2,3]}\n' > short.jsonl

numbers() {
    local w
    run pq-eval --json -d heldout.jsonl llama; done_well
    near "$(number nll "$out")" "$(number nll heldout.json)" 1e-5 || bad "another mean: $RAN"
    [ "$(number tokens "$out")" = "$(number tokens heldout.json)" ] || bad "another count: $RAN"
    run pq-eval --json --window 64 --stride 24 -d long.jsonl llama; done_well
    near "$(number nll "$out")" "$(number windows_nll heldout.json)" 1e-5 || bad "another mean: $RAN"
    [ "$(number tokens "$out")" = "$(number windows_tokens heldout.json)" ] || bad "another count: $RAN"
    # every token but the first is scored once, however windows lie
    for w in '181 90' '180 1' '180 179' '2 1' '91 90' '7 3'; do
        run pq-eval --json --window ${w% *} --stride ${w#* } -d long.jsonl llama; done_well
        [ "$(number tokens "$out")" = 180 ] || bad "$(number tokens "$out") tokens: $RAN"
    done
}
# the sum of the tokens' likelihoods is what is told of all
per_token() {
    local sum n
    run pq-eval --per-token -d short.jsonl llama; done_well
    [ "$(head -n 5 "$out" | cut -f1-3 | tr '\n\t' ' :')" = "1:1:5 1:2:23 1:3:7 3:1:2 3:2:3 " ] ||
        bad "other lines, positions or ids: $RAN"
    sum=$(awk -F'\t' 'NF == 4 { s += $4 } END { printf "%.9g", s / 5 }' "$out")
    run pq-eval --per-token --json -d short.jsonl llama; done_well
    near "$sum" "$(number nll "$out")" 1e-5 || bad "$sum is another mean: $RAN"
    $H json "$out" > /dev/null 2>&1 || bad "no JSON: $RAN"
    n=$(grep -o 'per_token.*' "$out" | grep -o 'null' | wc -l)
    [ "$n" = 2 ] || bad "$n tokens without a likelihood: $RAN"
    run pq-eval -v -q -d short.jsonl llama
    [ $RC = 0 ] && [ ! -s "$out" ] && grep -q 'line 3: 2 tokens' "$err" || bad "-v: $RAN"
}
# texts are what their ids are; --tokens tells these
texts() {
    printf '{"text":"The cat"}\n{"prompt":"Tom has","completion":" two hats."}\n' > texts.jsonl
    run pq-eval --tokens -d texts.jsonl llama; done_well; cp "$out" ids.jsonl
    [ "$(head -n 1 ids.jsonl)" = '{"ids":[1,289,507]}' ] || bad "$(cat "$out"): $RAN"
    run pq-eval --json --per-token -d ids.jsonl llama; done_well; cp "$out" ids.json
    run pq-eval --json --per-token -d texts.jsonl llama; done_well
    [ "$(grep -o '\],\[.*' "$out" | tr , '\n' | grep -c null)" -gt 1 ] || bad "the prompt is scored: $RAN"
    # what counts of the completion is what its tokens have in the whole text
    [ "$(grep -o '[0-9.]*\]\]}$' "$out")" = "$(grep -o '[0-9.]*\]\]}$' ids.json)" ] || bad "other likelihoods: $RAN"
    run pq-eval --json --window 4 --stride 1 -d texts.jsonl llama; done_well
    printf 'The cat' > cat.txt
    run pq-eval --json -d cat.txt llama; done_well; cp "$out" cat.json
    head -n 1 ids.jsonl > cat.jsonl
    run pq-eval --json -d cat.jsonl llama; done_well
    cmp -s "$out" cat.json || bad "a text is not its ids: $RAN"
    pq-convert llama -o m.pq
    run pq-eval --json -d cat.txt m.pq; done_well
    cmp -s "$out" cat.json || bad "a .pq is not its directory: $RAN"
    printf 'a\377' > bad.txt
    run pq-eval -d bad.txt llama; refused 'bad.txt'
    printf '\n[ {"text":"a cat"},\n{"text":"a dog"}]\n' > bad.txt
    run pq-eval -d bad.txt llama; refused 'bad.txt: is a JSON array'
    printf '[a cat]' > bad.txt
    run pq-eval -d bad.txt llama; done_well
    printf '\357\273\277{"ids":[1,403,407]}\n' > bad.txt # as Notepad writes it
    run pq-eval --tokens -d bad.txt llama; done_well
    [ "$(cat "$out")" = '{"ids":[1,403,407]}' ] || bad "$(cat "$out"): $RAN"
    run pq-eval -d cat.txt llama/model.safetensors; refused 'tokenizer'
}
# number i is right where its text is the likelier one; only that is scored
choices() {
    printf '{"prompt":"Once upon a time","choices":[%s],"answer":%s}\n' \
        '" as five more."," zqxj zqxj."' 0 '" zqxj"," as five more."' '" as five more."' \
        '" as five more."," zqxj"' 1 > questions.jsonl
    run pq-eval --json -d questions.jsonl llama; done_well; cp "$out" q.json
    grep -q '"questions":3,"right":2,"right_norm":2' q.json || bad "$(cat "$out"): $RAN"
    printf '{"prompt":"Once upon a time","completion":"%s"}\n' ' as five more.' ' as five more.' ' zqxj' > c.jsonl
    run pq-eval --json -d c.jsonl llama; done_well
    [ "$(number nll "$out") $(number tokens "$out")" = "$(number nll q.json) $(number tokens q.json)" ] ||
        bad "not the right choices' mean: $RAN"
    # the longer one is less likely, but not for each byte
    echo '{"prompt":"Once upon a time","choices":[" as five more. Now she has thirteen pears."," s"],"answer":0}' > q.jsonl
    run pq-eval --json -d q.jsonl llama; done_well
    grep -q '"right":[01],"right_norm":1' "$out" || bad "$(cat "$out"): $RAN"
    run pq-eval -d questions.jsonl llama; done_well
    grep -q '^right 2 of 3  by bytes 2$' "$out" || bad "$(cat "$out"): $RAN"
    run pq-eval --json --against llama -d questions.jsonl llama; done_well
    [ "$(number same_top "$out")" = 1 ] || bad "$(cat "$out"): $RAN"
}
# encoded weights are multiplied as what they decode to
encoded() {
    local m t
    for m in llama gpt2; do
        for t in f16 bf16 int8 int8_block fp4 nf4 'nf4 --double-quant'; do
            run pq-quantize -q -t $t "$m" -o q.pq; done_well
            run pq-dequantize -t f32 q.pq -o d.pq; done_well
            run pq-eval --json --logits d.st -d short.jsonl d.pq; cp "$out" d.json
            run pq-eval --json --logits q.st -d short.jsonl q.pq; done_well
            cmp -s "$out" d.json && cmp -s q.st d.st || bad "not what decoding gives ($t): $RAN"
            PQ_CPU=scalar run pq-eval --json --logits s.st -d short.jsonl -T1 q.pq
            cmp -s "$out" d.json && cmp -s s.st q.st || bad "other kernels, other bits ($t): $RAN"
        done
    done
}
logits() {
    run pq-eval --logits l.safetensors -d short.jsonl llama; done_well
    [ "$(pq-info l.safetensors | grep -c 'F32 .*\[[43], 512\].*logits\.[01]$')" = 2 ] ||
        bad "$(pq-info l.safetensors): $RAN"
    run pq-eval --logits no/such/l.safetensors -d short.jsonl llama; [ $RC = 2 ] || bad "rc $RC: $RAN"
}
# inputs of tiny-llama's layers are those that torch saw (testdata/prune_data)
inputs() {
    local k
    pq-eval --tokens -d llama/heldout.txt llama | tr -d '{}[]' | sed 's/"ids"://' | tr , '\n' |
        awk '{ printf NR % 256 == 1 ? (NR > 1 ? "]}\n" : "") "{\"ids\":[" $1 : "," $1 } END { print "]}" }' > pieces.jsonl
    for k in norms hessian; do
        run pq-eval --$k-out $k.safetensors -d pieces.jsonl llama; done_well
        PQ_CPU=scalar run pq-eval --$k-out $k.st -T1 -d pieces.jsonl llama; done_well
        cmp -s $k.st $k.safetensors || bad "other kernels, other bits: $RAN"
        pq-info $k.safetensors | grep -q "pq.kind = $k" && pq-info $k.safetensors | grep -q 'pq.tokens = 2460' ||
            bad "$(pq-info $k.safetensors | head -n 5): $RAN"
        run pq-diff -m 'model.layers.0.self_attn.o_proj.weight' $k.safetensors \
            "$ROOT/testdata/prune_data/llama-$k.safetensors"
        awk '/ tensors? differ/ { r = $NF } END { exit !(r != "" && r < 1e-6) }' "$out" || bad "$(cat "$out"): $RAN"
        run pq-prune -q -s 0.5 --$k $k.safetensors llama -o pruned/; done_well
        run pq-eval --$k-out c.st -d short.jsonl gpt2; done_well
        run pq-prune -q -s 0.5 --$k c.st gpt2 -o pruned/; done_well
    done
    run pq-diff norms.safetensors "$ROOT/testdata/prune_data/llama-norms.safetensors"
    awk '/ tensors? differ/ { n = $3; r = $NF } END { exit !(n == 35 && r < 1e-6) }' "$out" || bad "$(tail -n 3 "$out"): $RAN"
    # all at once are what each is alone
    run pq-eval --norms-out n2.st --hessian-out h2.st --imatrix-out i2.dat -d pieces.jsonl llama; done_well
    same n2.st norms.safetensors; same h2.st hessian.safetensors
    run pq-eval --imatrix-out i1.dat -d pieces.jsonl llama; done_well
    same i1.dat i2.dat
    run pq-eval --norms-out - -d short.jsonl llama; misused
    run pq-eval --hessian-out - -d short.jsonl llama; misused
    run pq-eval --norms-out no/such/a -d short.jsonl llama; [ $RC = 2 ] || bad "rc $RC: $RAN"
    run pq-eval --imatrix-out no/such/a.dat -d short.jsonl llama; [ $RC = 2 ] || bad "rc $RC: $RAN"
}
# int32 FILE OFFSET, and words of a file
int32() { od -An -td4 -j "$2" -N4 "$1" | tr -d ' '; }
# what of it is right is told by tests/test_imatrix.c and tests/oracle/check_nn.py
imatrix() {
    local f m n
    run pq-eval --imatrix-out - -d short.jsonl llama; misused
    for f in dat gguf; do
        run pq-eval --imatrix-out i.$f -d pieces.jsonl llama; done_well
        PQ_CPU=scalar run pq-eval --imatrix-out j.$f -T1 -d pieces.jsonl llama; done_well
        same i.$f j.$f
        # the folder of the data is nobody's business
        run pq-eval --imatrix-out j.$f -d ./../"${PWD##*/}"/pieces.jsonl llama; done_well
        same i.$f j.$f
    done
    [ "$(int32 i.dat 0) $(int32 i.dat 4)" = '35 19' ] || bad "$(int32 i.dat 0) entries"
    [ "$(tail -c 12 i.dat)" = pieces.jsonl ] && [ "$(int32 i.dat $(($(wc -c < i.dat) - 20)))" = 10 ] || bad "its end"
    run pq-eval --imatrix-out i.bin -d pieces.jsonl llama; done_well
    same i.bin i.gguf
    head -c 8 i.gguf | cmp -s - <(printf 'GGUF\3\0\0\0') || bad "is no GGUF"
    for n in attn_{q,k,v,output} ffn_{gate,up,down}; do
        [ "$(grep -aoF ".$n.weight.in_sum2" i.gguf | wc -l)" = 5 ] || bad "other layers of $n"
    done
    # fused ones have one entry, the head has none
    run pq-eval --imatrix-out c.gguf -d short.jsonl gpt2; done_well
    n=$(sed -n 's/.*"n_layer": *\([0-9]*\).*/\1/p' gpt2/config.json)
    [ "$(grep -ao 'blk\.[0-9]*\.[a-z_]*\.weight.counts' c.gguf | sort -u | wc -l)" = $((4 * n)) ] || bad "other names: $RAN"
    grep -aq 'blk.0.attn_qkv.weight.in_sum2' c.gguf || bad "no attn_qkv: $RAN"
}
# products that memory has no room for take several runs, and give the same
runs() {
    local i name list
    mkdir wide
    for i in 0 1 2; do
        list=
        for name in q k v o; do list="$list self_attn.${name}_proj=F32[64,64]"; done
        list="$list mlp.gate_proj=F32[1024,64] mlp.up_proj=F32[1024,64] mlp.down_proj=F32[64,1024]"
        list="$list input_layernorm=F32[64] post_attention_layernorm=F32[64]"
        for name in $list; do set -- "$@" "model.layers.$i.${name/=/.weight=}rand"; done
    done
    $H st wide/model.safetensors "$@" model.norm.weight=F32[64]rand model.embed_tokens.weight=F32[32,64]rand
    echo '{"model_type":"llama","hidden_size":64,"intermediate_size":1024,"num_hidden_layers":3,
        "num_attention_heads":4,"max_position_embeddings":64,"vocab_size":32,"tie_word_embeddings":true}' > wide/config.json
    run pq-eval -n --memory 16M --hessian-out w1.st --norms-out n.st -d short.jsonl wide; done_well
    grep -q '^squares of inputs 29184 bytes$' "$out" && grep -q '^products of inputs 12730368 bytes, in 2 runs ' "$out" ||
        bad "$(cat "$out"): $RAN"
    run pq-eval -n --json --memory 16M --hessian-out w1.st -d short.jsonl wide; done_well
    $H json "$out" > /dev/null 2>&1 && [ "$(number runs "$out") $(number tokens "$out")" = '2 5' ] || bad "$(cat "$out"): $RAN"
    absent w1.st n.st
    # long texts and short ones, in the same pieces each time
    cat long.jsonl short.jsonl | sed 's/[0-9]*\([0-9]\)\([],]\)/\1\2/g' > mixed.jsonl
    run pq-eval --json --window 32 --memory 16M --hessian-out w1.st --norms-out n1.st --per-token -d mixed.jsonl wide; done_well
    cp "$out" w1.json
    run pq-eval --json --window 32 --memory 64M --hessian-out w2.st --per-token -d mixed.jsonl wide; done_well
    same w1.st w2.st; same w1.json "$out"
    run pq-eval -q --window 32 --norms-out n2.st -d mixed.jsonl wide; done_well
    same n1.st n2.st
    run pq-prune -q -s 0.5 --hessian w1.st --memory 64M wide -o pruned/; done_well
    # what one matrix needs is what the message says
    $H st wide/model.safetensors "${@//1024/2048}" model.norm.weight=F32[64]rand model.embed_tokens.weight=F32[32,64]rand
    sed -i s/1024/2048/ wide/config.json
    run pq-eval --memory 16M --hessian-out w.st -d short.jsonl wide
    refused 'model.layers.0.mlp.down_proj.weight: the products of its 2048 inputs need --memory 29M'
    run pq-eval --memory 28M --hessian-out w.st -d short.jsonl wide; refused 29M
    absent w.st
    run pq-eval -n --memory 29M --hessian-out w.st -d short.jsonl wide; done_well
}
against() {
    local n
    run pq-eval --json --against llama -d heldout.jsonl llama; done_well
    near "$(number kl "$out")" 0 1e-6 && [ "$(number same_top "$out")" = 1 ] || bad "differs from itself: $RAN"
    run pq-quantize -q -t nf4 llama -o q.pq
    for n in 16 2048; do
        run pq-eval --json --window $n --against llama -d heldout.jsonl q.pq; done_well
        awk -v k="$(number kl "$out")" -v s="$(number same_top "$out")" \
            'BEGIN { exit !(k > 1e-4 && k < 0.5 && s > 0.8 && s < 1) }' || bad "$(cat "$out"): $RAN"
    done
    run pq-eval --against llama -d short.jsonl q.pq; done_well
    grep -q '^kl [0-9.e-]*  same top token [0-9.]*%$' "$out" || bad "$(cat "$out"): $RAN"
    run pq-eval --against gpt2 -d short.jsonl llama; refused 'vocabularies of 24 and 512'
    run pq-eval --against - -d short.jsonl llama; misused
}
# what is read stays, and nothing is written twice
outputs() {
    local o m=$ROOT/testdata/tiny-llama
    cp -r llama other; cp short.jsonl data.safetensors
    for o in --logits --norms-out --hessian-out; do
        run pq-eval $o llama/model.safetensors -d short.jsonl llama; refused 'not replaced: it belongs to the input llama'
        run pq-eval $o llama/extra.st -d short.jsonl llama; done_well; rm llama/extra.st
        run pq-eval $o other/model.safetensors --against other -d short.jsonl llama; refused 'other is read'
        run pq-eval $o data.safetensors -d data.safetensors llama; refused 'data.safetensors is read'
        ln -sf ../llama/model.safetensors other/link.st
        run pq-eval $o other/link.st -d short.jsonl llama/model.safetensors; refused 'it is the input'
    done
    same llama/model.safetensors "$m/model.safetensors"; same data.safetensors short.jsonl
    cp -r "$ROOT/testdata/peft/tiny-lora" lora
    run pq-eval --norms-out lora/adapter_model.safetensors --adapter lora:0.5 -d short.jsonl llama; refused 'lora is read'
    run pq-eval --norms-out x.st --hessian-out x.st -d short.jsonl llama; misused
    run pq-eval --logits x.gguf --imatrix-out x.gguf -d short.jsonl llama; misused
    rm -r other
}
gate() {
    run pq-eval --max-ppl 1.5 -d heldout.jsonl llama; done_well
    run pq-eval --max-ppl 1.2 -d heldout.jsonl llama
    [ $RC = 1 ] && grep -q '^perplexity 1.38' "$out" && [ ! -s "$err" ] || bad "rc $RC: $RAN"
}
refusals() {
    local line
    run pq-eval llama; misused
    run pq-eval -d - ; misused
    run pq-eval -d short.jsonl --stride 8 --window 8 llama; misused
    run pq-eval -d short.jsonl --logits - llama; misused
    run pq-eval -d short.jsonl --window 9 gpt2; misused
    for line in -n '--logits l.st' '--against llama' --per-token '--max-ppl 3' '--norms-out n.st' '--imatrix-out i.dat'; do
        run pq-eval --tokens $line -d short.jsonl llama; misused
    done
    run pq-eval -d no.jsonl llama; refused no.jsonl
    while read -r line; do
        printf '{"ids":[1,2]}\n%s\n' "$line" > bad.jsonl
        run pq-eval -d bad.jsonl llama; refused 'bad.jsonl: line 2: '
    done << 'EOT'
{"ids":[1,512]}
{"ids":[-1,2]}
{"ids":[1,2.5]}
{"ids":["a"]}
{"ids":[1,2]
{"ids":[1,2]}{}
{"ids":7}
{"ids":[1],"ids":[2]}
{"text":1}
{"prompt":"a"}
{"prompt":"a","choices":["b"],"answer":0}
{"prompt":"a","choices":["b","c"],"answer":2}
{"prompt":"a","choices":["b","c"],"answer":"d"}
{"prompt":"a","choices":["b","c"]}
{"prompt":"a","choices":["b",""],"answer":0}
{"prompt":"a","choices":["b",1],"answer":0}
{"prompt":"a","choices":"b","answer":0}
[1,2]
ids
EOT
    printf '{\n  "ids": [1, 2]\n}\n' > bad.jsonl
    run pq-eval -d bad.jsonl llama; refused 'bad.jsonl: line 1: does not end with a brace'
    : > empty.jsonl
    run pq-eval -d empty.jsonl llama; refused 'no token to score'
    echo '{"ids":[1]}' > one.jsonl
    run pq-eval -d one.jsonl llama; refused 'no token to score'
    run pq-eval -d short.jsonl llama/model.safetensors; refused 'config.json'
    printf '{"ids":[1,2,3,4,5,6,7,8,9,10]}\n' > ten.jsonl
    run pq-eval -d ten.jsonl gpt2; done_well # in windows of its 8 positions
    run pq-eval -d ten.jsonl --logits l.st gpt2; refused '8 positions'
    mkdir one
    $H st one/model.safetensors wte.weight=F32[4,4]rand wpe.weight=F32[1,4]rand ln_f.weight=F32[4]rand \
        ln_f.bias=F32[4]rand h.0.ln_1.weight=F32[4]rand h.0.ln_1.bias=F32[4]rand h.0.ln_2.weight=F32[4]rand \
        h.0.ln_2.bias=F32[4]rand h.0.attn.c_attn.weight=F32[4,12]rand h.0.attn.c_attn.bias=F32[12]rand \
        h.0.attn.c_proj.weight=F32[4,4]rand h.0.attn.c_proj.bias=F32[4]rand h.0.mlp.c_fc.weight=F32[4,16]rand \
        h.0.mlp.c_fc.bias=F32[16]rand h.0.mlp.c_proj.weight=F32[16,4]rand h.0.mlp.c_proj.bias=F32[4]rand
    echo '{"model_type":"gpt2","n_embd":4,"n_layer":1,"n_head":1,"n_positions":1,"vocab_size":4}' > one/config.json
    printf '{"ids":[1,2]}\n' > two.jsonl
    run pq-eval -d two.jsonl one; refused 'one: a model of one position'
}

for c in numbers per_token texts choices encoded inputs imatrix runs against logits outputs gate refusals; do check "eval $c" $c; done
finish
