#!/bin/bash
# pq-prune --drop-layers, --drop-heads and --drop-channels: which bytes stay,
# what config.json says then, what is refused.  That what is left computes
# what it should is tests/oracle/check_prune.py.
. "$(dirname "$0")/lib.sh"
in_scratch
cp -r "$MODEL" llama # 5 layers, 4 heads of 16, 2 key heads, 192 channels
cp -r "$ROOT"/testdata/peft/{base-gpt2,tiny-lora} .
ST=llama/model.safetensors

prune() {
    run pq-prune --no-provenance "$@"
    done_well
}
no() { # TEXT OPTION...: refused, nothing written
    local text=$1
    shift
    run pq-prune "$@" -o no/
    refused "$text"
    absent no
}
says() { # DIR KEY VALUE
    grep -qE "^ *\"$2\": $3,?\$" "$1/config.json" || bad "config.json has no $2 $3: $RAN"
}
# values FILE NAME COLUMNS [TYPE]: a float a word, a row a line, as od sees it
values() {
    local n at
    n=$(od -An -tu8 -N8 "$1" | tr -d ' ')
    at=$(head -c $((8 + n)) "$1" | tail -c "$n" |
        grep -oP "\"$2\":\{[^}]*\"data_offsets\":\[\K[0-9]+,[0-9]+") || bad "$1 has no $2"
    tail -c +$((9 + n + ${at%,*})) "$1" | head -c $((${at#*,} - ${at%,*})) |
        od -An -v -t"${4:-x4}" -w$(($3 * 4))
}
# equal A B WHAT: two texts
equal() { [ "$1" = "$2" ] && [ -n "$1" ] || bad "$3 is not what was to stay: $RAN"; }
L=model.layers.2

layers() {
    prune --drop-layers 1,3 -o l1/ llama
    says l1 num_hidden_layers 3
    sed 's/"num_hidden_layers": 5/"num_hidden_layers": 3/' llama/config.json | cmp -s - l1/config.json ||
        bad "more of config.json has changed: $RAN"
    cmp -s llama/tokenizer.json l1/tokenizer.json || bad "tokenizer.json is another"
    # the same as the layers put together by a recipe
    printf '%s\n' 'merge_method: passthrough' 'slices:' '- sources: [{model: llama, layer_range: [0, 1]}]' \
        '- sources: [{model: llama, layer_range: [2, 3]}]' '- sources: [{model: llama, layer_range: [4, 5]}]' > r.yaml
    pq-merge --no-provenance --recipe r.yaml -o l2/ || bad pq-merge
    run pq-diff l1 l2; [ $RC = 0 ] || bad "the layers are others: $RAN"
    same l1/config.json l2/config.json
    prune --drop-layers 0-3 -o l3/ llama
    says l3 num_hidden_layers 1
    [ "$(pq-info l3 | grep -c 'layers\.0\.')" = 9 ] && ! pq-info l3 | grep -q 'layers\.[1-9]' || bad "not layer 0 alone"
    prune --drop-layers 1,3 -o l4.safetensors "$ST"
    run pq-diff l4.safetensors l1; [ $RC = 0 ] || bad "a bare file gives others: $RAN"
}
layers_encoded() {
    pq-quantize --no-provenance -t nf4 --double-quant -o coded/ llama || bad pq-quantize
    prune --drop-layers 1-3 -o e1/ coded
    prune --drop-layers 1-3 -o e2/ llama
    run pq-quantize --no-provenance -t nf4 --double-quant -o e3/ e2; done_well
    same e1/config.json e3/config.json
    run pq-diff e1 e3; [ $RC = 0 ] || bad "first dropped and first encoded differ: $RAN"
    cat coded/model.safetensors | pq-prune --no-provenance --drop-layers 1-3 > e4.pq || bad 'from a pipe'
    run pq-diff e1 e4.pq; [ $RC = 0 ] || bad "a pipe gives others: $RAN"
}
modules_left_alone() {
    local key='"llm_int8_skip_modules":'
    pq-quantize --no-provenance -t nf4 -m '*layers*' -x '*.3.mlp*' -x '*.4.self_attn.q*' -o part/ llama || bad pq-quantize
    sed -i 's/"bnb_4bit_compute_dtype": "float32"/"bnb_4bit_compute_dtype": "bfloat16"/; s/"lm_head"/"lm_head", "model.layers.2"/' part/config.json
    prune --drop-layers 0,3 -o part1/ part
    [ "$(grep -A9 "$key" part1/config.json | tr -d ' \n' | grep -oP 'modules":\K\[[^]]*\]')" = \
        '["lm_head","model.layers.1","model.layers.2.self_attn.q_proj"]' ] || bad "other modules: $(grep -A9 "$key" part1/config.json)"
    grep -q '"bnb_4bit_compute_dtype": "bfloat16"' part1/config.json || bad 'compute_dtype was changed'
    grep -q '"llm_int8_threshold": 6.0' part1/config.json || bad 'a number was changed'
}
layers_sharded() {
    local f data
    pq-convert --no-provenance --shard-size 300K -o sh/ llama || bad pq-convert
    prune --drop-layers 0-3 -o sh1/ sh
    prune --drop-layers 0-3 -o sh2/ llama
    run pq-diff sh1 sh2; [ $RC = 0 ] || bad "shards give others: $RAN"
    [ "$(ls sh1/model-* | wc -l)" -lt "$(ls sh/model-* | wc -l)" ] || bad "empty shards: $RAN"
    for f in sh1/model-*; do grep -q "${f#sh1/}" sh1/model.safetensors.index.json || bad "$f is not in the index"; done
    data=$(($(wc -c < sh2/model.safetensors) - 8 - $(od -An -tu8 -N8 sh2/model.safetensors)))
    grep -q "\"total_size\": $data\$" sh1/model.safetensors.index.json || bad "total_size is not $data"
    run pq-verify sh1; done_well
}
layer_lists() {
    cp -r llama lists
    sed -i 's/"vocab_size"/"layer_types": ["full_attention", "sliding_attention", "full_attention", "sliding_attention", "full_attention"],\n  "max_window_layers": 3,\n  "vocab_size"/' lists/config.json
    prune --drop-layers 0,3 -o lists1/ lists
    says lists1 max_window_layers 2
    says lists1 layer_types '\["sliding_attention", "full_attention", "full_attention"\]'
    sed -i 's/"layer_types": \["full_attention", /"layer_types": [/' lists/config.json
    no 'layer_types: has no entry for layer 4' --drop-layers 1 lists
    sed -i 's/"layer_types": \[.*\]/"mlp_only_layers": [1, 2]/' lists/config.json
    no 'mlp_only_layers' --drop-layers 1 lists
    sed -i 's/"mlp_only_layers": .*,/"sliding_window_pattern": 2,/' lists/config.json
    no 'sliding_window_pattern' --drop-layers 1 lists
    sed -i 's/"num_hidden_layers": 5/"num_hidden_layers": 6/' lists/config.json
    no 'says 6 layers, the tensors are of 5' --drop-layers 1 lists
}
heads() {
    prune --drop-heads '*:0-1' -o h1/ llama # all of key head 0
    says h1 num_attention_heads 2; says h1 num_key_value_heads 1; says h1 head_dim 16
    equal "$(values h1/model.safetensors $L.self_attn.q_proj.weight 64)" \
        "$(values "$ST" $L.self_attn.q_proj.weight 64 | tail -n 32)" q_proj
    for i in k v; do
        equal "$(values h1/model.safetensors $L.self_attn.${i}_proj.weight 64)" \
            "$(values "$ST" $L.self_attn.${i}_proj.weight 64 | tail -n 16)" ${i}_proj
    done
    equal "$(values h1/model.safetensors $L.self_attn.o_proj.weight 32)" \
        "$(values "$ST" $L.self_attn.o_proj.weight 64 | awk '{ for (i = 33; i <= 64; i++) printf " %s", $i; print "" }')" o_proj
    equal "$(values h1/model.safetensors $L.mlp.up_proj.weight 64)" "$(values "$ST" $L.mlp.up_proj.weight 64)" up_proj
    # others in each layer; the key heads stay
    prune --drop-heads '0:0,0:2,1-4:1,1-4:3' -o h2/ llama
    says h2 num_attention_heads 2; says h2 num_key_value_heads 2
    equal "$(values h2/model.safetensors $L.self_attn.q_proj.weight 64)" \
        "$(values "$ST" $L.self_attn.q_proj.weight 64 | awk 'int((NR - 1) / 16) % 2 == 0')" q_proj
    equal "$(values h2/model.safetensors model.layers.0.self_attn.q_proj.weight 64)" \
        "$(values "$ST" model.layers.0.self_attn.q_proj.weight 64 | awk 'int((NR - 1) / 16) % 2 == 1')" q_proj
    equal "$(values h2/model.safetensors $L.self_attn.k_proj.weight 64)" \
        "$(values "$ST" $L.self_attn.k_proj.weight 64)" k_proj
}
heads_refused() {
    no 'layer 0: of key head 1 2 query heads would stay' --drop-heads '*:0' llama
    no 'in layer 0 2 and 1' --drop-heads 0:0-1 llama
    no 'no head 4' --drop-heads '*:4' llama
    no 'no layer 5' --drop-heads 5:0 llama
    no 'no head would be left' --drop-heads '*:*' llama
    no 'no config.json' --drop-heads '*:0-1' "$ST"
    no 'n_embd / n_head' --drop-heads '*:0' base-gpt2
    no 'quant' --drop-heads '*:0-1' coded
    cp -r llama odd
    sed -i 's/"num_key_value_heads": 2/"num_key_value_heads": 4/' odd/config.json
    no "tensor model.layers.0.self_attn.k_proj.weight: [32, 64] does not fit" --drop-heads '*:0-1' odd
    sed -i 's/"model_type": "llama"/"model_type": "other"/' odd/config.json
    no "model_type 'other'" --drop-heads '*:0-1' odd
}
# The channels of layer 2 that stay, from 1, by awk: 192 but the 58 of least score.
least() {
    {
        values "$ST" $L.mlp.gate_proj.weight 64 f4 | awk '{ s = 0; for (i = 1; i <= NF; i++) s += $i * $i; print NR, s }'
        values "$ST" $L.mlp.up_proj.weight 64 f4 | awk '{ s = 0; for (i = 1; i <= NF; i++) s += $i * $i; print NR, s }'
        values "$ST" $L.mlp.down_proj.weight 192 f4 | awk '{ for (i = 1; i <= NF; i++) s[i] += $i * $i }
            END { for (i = 1; i <= 192; i++) print i, s[i] }'
    } | awk -v OFMT=%.17g -v CONVFMT=%.17g '{ s[$1] += $2 } END { for (i in s) print i, s[i] }' |
        sort -k2,2g -k1,1n | tail -n +59 | cut -d' ' -f1 | sort -n
}
channels() {
    local stay
    prune --drop-channels .3 -o c1/ llama
    says c1 intermediate_size 134
    stay=$(least)
    for i in gate up; do
        equal "$(values c1/model.safetensors $L.mlp.${i}_proj.weight 64)" \
            "$(values "$ST" $L.mlp.${i}_proj.weight 64 | awk -v stay="$stay" \
                'BEGIN { n = split(stay, s); for (i = 1; i <= n; i++) is[s[i]] = 1 } NR in is')" ${i}_proj
    done
    equal "$(values c1/model.safetensors $L.mlp.down_proj.weight 134)" \
        "$(values "$ST" $L.mlp.down_proj.weight 192 | awk -v stay="$stay" \
            'BEGIN { n = split(stay, s) } { for (i = 1; i <= n; i++) printf " %s", $(s[i]); print "" }')" down_proj
    prune --drop-channels .3 -o c2.safetensors "$ST" # no config is needed
    same c2.safetensors c1/model.safetensors
    prune --drop-channels 0 -o c3/ llama
    run pq-diff c3 llama; [ $RC = 0 ] || bad "none was to go: $RAN"
    prune --drop-channels .5 -o c4/ base-gpt2
    says c4 n_inner $(($(values base-gpt2/model.safetensors transformer.h.0.mlp.c_fc.bias 1 | wc -l) / 2))
}
channels_refused() {
    run pq-prune --drop-channels 1 -o no/ llama; misused; absent no
    run pq-prune --drop-channels -.1 -o no/ llama; misused; absent no
    run pq-prune --drop-channels nan -o no/ llama; misused; absent no
    no 'none would be left' --drop-channels .999 llama
    no 'dequantize it first' --drop-channels .5 coded
    cp -r llama odd2
    sed -i 's/"intermediate_size": 192/"intermediate_size": 190/' odd2/config.json
    no 'says 190 channels' --drop-channels .5 odd2
    $H st part.safetensors 'l.0.mlp.up_proj.weight=F32[8,4]rand' 'l.0.mlp.down_proj.weight=F32[4,8]rand' \
        'l.1.mlp.up_proj.weight=F32[8,4]rand'
    no 'layer 1 has no down_proj' --drop-channels .5 part.safetensors
    $H st nan.safetensors 'l.0.mlp.up_proj.weight=F32[8,4]rand' 'l.0.mlp.down_proj.weight=F32[4,8]nan'
    no 'tensor l.0.mlp.down_proj.weight: is NaN' --drop-channels .5 nan.safetensors
    $H st other.safetensors 'l.0.mlp.up_proj.weight=F32[8,4]rand' 'l.0.mlp.down_proj.weight=F32[4,6]rand'
    no 'tensor l.0.mlp.down_proj.weight: [4, 6]' --drop-channels .5 other.safetensors
}
ties() { # equal scores: the first go
    $H st ties.safetensors 'l.0.mlp.up_proj.weight=F32[6,2]' 'l.0.mlp.down_proj.weight=F32[2,6]' \
        'l.0.mlp.up_proj.bias=F32[6]step'
    prune --drop-channels .5 -o t.safetensors ties.safetensors
    equal "$(values t.safetensors l.0.mlp.up_proj.bias 1)" "$(values ties.safetensors l.0.mlp.up_proj.bias 1 | tail -n 3)" bias
}
lists_refused() {
    local o
    for o in 3-2 x 1- '' , 1, 1,,2 -1 1:2 1.5 99999999999999999999; do
        run pq-prune "--drop-layers=$o" -o no/ llama
        [ $RC = 2 ] && [ ! -s "$out" ] || bad "rc $RC: $RAN"
        absent no
    done
    for o in 3 '*:' :1 0:x 0:1-0 0:1:2 ''; do
        run pq-prune "--drop-heads=$o" -o no/ llama; misused; absent no
    done
    no 'has no layer 5; the last one is 4' --drop-layers 2,5 llama
    no 'no layer would be left' --drop-layers 0-4 llama
    no 'no layer would be left' --drop-layers '*' llama
    no 'is an adapter' --drop-layers 0 tiny-lora
    $H st none.safetensors 'a.weight=F32[4,4]rand'
    no 'has no layers' --drop-layers 0 none.safetensors
    $H st two.safetensors 'encoder.block.0.w=F32[4]rand' 'decoder.block.0.w=F32[4]rand'
    no 'more than one stack' --drop-layers 0 two.safetensors
}
every_way() { # the same bytes: threads, CPU, pipe, memory; -n knows the size
    local all=(--drop-layers 1 --drop-heads '*:0-1' --drop-channels .4)
    prune "${all[@]}" -T1 -o w1.pq llama
    prune "${all[@]}" -T4 -o w2.pq llama; same w1.pq w2.pq
    PQ_CPU=scalar prune "${all[@]}" -o w2.pq llama; same w1.pq w2.pq
    prune "${all[@]}" --memory 16M -o w2.pq llama; same w1.pq w2.pq
    pq-convert --no-provenance -z -o z.pq llama
    prune "${all[@]}" -o w2.pq z.pq; same w1.pq w2.pq
    cat z.pq | pq-prune --no-provenance "${all[@]}" --memory 16M | cat > w2.pq; same w1.pq w2.pq
    prune "${all[@]}" -n -o w3.pq llama
    [ "$(tail -n 1 "$out")" = "$(wc -c < w1.pq)" ] || bad "-n says $(tail -n 1 "$out"), it is $(wc -c < w1.pq)"
    absent w3.pq
    prune "${all[@]}" -n --json -o w3.pq llama
    [ "$($H json "$out" bytes)" = "$(wc -c < w1.pq)" ] || bad "--json does not know the size: $RAN"
    run pq-prune "${all[@]}" -v -o w4/ llama
    for t in '1 of 5 layers go' '2 heads and 1 key head' '115 of 192 channels stay'; do
        grep -qF "$t" "$err" || bad "no '$t' with -v: $RAN"
    done
    # all at once is one after the other
    prune --drop-channels .4 llama -o s1/
    prune --drop-heads '*:0-1' s1 -o s2/
    prune --drop-layers 1 s2 -o s3/
    run pq-diff s3 w4; [ $RC = 0 ] || bad "one after the other is something else: $RAN"
    same s3/config.json w4/config.json
    head -c 60000 z.pq | pq-prune "${all[@]}" -o cut/ 2> "$err" && bad 'half a stream passed'
    absent cut
}

with_zeros() { # what is left is pruned further; -m speaks of it
    prune --drop-layers 1 --drop-channels .5 -s .5 -o z1/ llama
    prune --drop-layers 1 --drop-channels .5 -o z2/ llama
    prune -s .5 -o z3/ z2
    same z1 z3
    prune --scope global -s .5 -o z6.pq z2
    prune --drop-layers 1 --drop-channels .5 --scope global -s .5 -o z7.pq llama
    same z6.pq z7.pq
    pq-convert llama | pq-prune --no-provenance --drop-layers 1 --drop-channels .5 --scope global -s .5 | cat > z7.pq
    same z6.pq z7.pq
    prune --drop-layers 1 -s .5 -m '*layers.3.*' -o z4/ llama
    no "matches -m '*layers.4.*'" --drop-layers 1 -s .5 -m '*layers.4.*' llama
    run pq-prune --drop-layers 1 -m '*layers.3.*' -o no/ llama; misused; absent no
    run pq-prune --json --drop-layers 1 -o z5/ llama
    [ $RC = 0 ] && $H json "$out" && [ "$(grep -o '"name"' "$out" | wc -l)" = 39 ] || bad "--json: $RAN"
}

check layers layers
check 'encoded layers' layers_encoded
check 'modules left alone' modules_left_alone
check shards layers_sharded
check 'lists of layers' layer_lists
check heads heads
check 'heads that cannot go' heads_refused
check channels channels
check 'channels that cannot go' channels_refused
check ties ties
check 'lists that are none' lists_refused
check 'every way' every_way
check 'with zeros' with_zeros
finish
