#!/bin/bash
# pq-merge --recipe and --vocab: what is refused, and that nothing is written
# then; configs and tokenizers; the same bytes on every way.  Its numbers are
# tests/test_recipe_golden.c.
. "$(dirname "$0")/lib.sh"
in_scratch
mkdir in && cp -r "$ROOT"/testdata/blend/{base,a,b,c,wide,*.yaml} in/
cp -r "$ROOT"/testdata/peft/{base-gpt2,base-llama,base-llama-tied,tiny-lora} in/
cp -r "$MODEL" in/tiny

# recipe LINE...: in/r.yaml
recipe() { printf '%s\n' "$@" > in/r.yaml; }
# no TEXT: in/r.yaml is refused, and says TEXT
no() {
    run pq-merge --recipe in/r.yaml -o x/
    refused "$1"
    absent x
    grep -q '^pq-merge: in/r.yaml' "$err" || bad "does not name the recipe: $(head -n 1 "$err")"
}
yes() {
    run pq-merge --no-provenance --recipe in/r.yaml "$@"
    done_well
}
tensors() { pq-info "$1" | grep -oE '[^ ]+$'; }

same_bytes() {
    local r t
    for r in models gradients stack tokens-union; do
        run pq-merge --no-provenance -T1 --recipe in/$r.yaml -o t1.pq; done_well
        run pq-merge --no-provenance -T4 --recipe in/$r.yaml -o t2.pq; done_well
        same t1.pq t2.pq
        PQ_CPU=scalar run pq-merge --no-provenance --recipe in/$r.yaml -o t2.pq; done_well
        same t1.pq t2.pq
        pq-merge --no-provenance --recipe in/$r.yaml -O pq > t2.pq || bad "to a pipe: $r"
        same t1.pq t2.pq
    done
    # models that are streams, and the type of the command line
    pq-convert --no-provenance in/base -o in/base.pq
    pq-convert --no-provenance in/a -o in/a.pq
    recipe 'merge_method: passthrough' 'slices:' '- sources: [{model: base.pq, layer_range: [1, 3]}]' \
        '- sources: [{model: a.pq, layer_range: [0, 1]}]' '- sources: [{model: base.pq, layer_range: [0, 2]}]'
    yes -t bf16 -o s1/
    sed -i 's/\.pq//g' in/r.yaml
    yes -t bf16 -o s2/
    same s1/model.safetensors s2/model.safetensors
    grep -q '"dtype": "bfloat16"' s2/config.json || bad "config says another type"
}
# encoded layers pass as they are, and are blended as what they stand for
encoded() {
    pq-quantize --no-provenance -t nf4 --double-quant in/tiny -o in/coded/ || bad 'pq-quantize'
    recipe 'merge_method: passthrough' 'slices:' '- sources: [{model: coded, layer_range: [1, 3]}]' \
        '- sources: [{model: coded, layer_range: [0, 5]}]'
    yes -o e1/
    grep -q '"num_hidden_layers": 7' e1/config.json || bad 'not 7 layers'
    grep -q quantization_config e1/config.json || bad 'no quantization_config'
    recipe 'merge_method: passthrough' 'slices:' '- sources: [{model: e1, layer_range: [2, 7]}]'
    sed -i 's/model: e1/model: ..\/e1/' in/r.yaml
    yes -o e2/
    pq-convert --no-provenance --canonical in/coded -o c1.safetensors
    pq-convert --no-provenance --canonical e2 -o c2.safetensors
    same c1.safetensors c2.safetensors
    recipe 'merge_method: linear' 'parameters: {weight: 1}' 'models: [{model: coded}, {model: tiny}]' 'dtype: float32'
    yes -o e3/
    grep -q quantization_config e3/config.json && bad 'a config of what is gone'
    run pq-merge --no-provenance -t f32 in/coded in/tiny -o e4/; done_well
    same e3/model.safetensors e4/model.safetensors
}
# a recipe that says what the command line can say
as_options() {
    recipe 'merge_method: linear' 'models:' '- {model: a, parameters: {weight: 0.25}}' \
        '- {model: b, parameters: {weight: 0.5}}'
    yes -o r1/
    run pq-merge --no-provenance --method linear in/a:0.25 in/b:0.5 -o r2/; done_well
    same r1/model.safetensors r2/model.safetensors
}
# from a pipe: the models are where we are; its digest is that of the file
piped() {
    recipe 'merge_method: linear' 'models:' '- {model: in/a, parameters: {weight: 0.25}}' \
        '- {model: in/b, parameters: {weight: 0.5}}'
    pq-merge --recipe - -o p1/ < in/r.yaml || bad "rc $? with a recipe from a pipe"
    cp in/r.yaml r.yaml
    run pq-merge --recipe r.yaml -o p2/; done_well
    same p1 p2
    run pq-merge --recipe <(cat r.yaml) -o p3/; done_well
    same p1 p3
    : | pq-merge --recipe - -o x/ 2> "$err" && bad "an empty recipe is taken"
    absent x
}
syntax() {
    recipe 'merge_method: linear' 'models: [{model: a}]' 'colour: red'; no "line 3: unknown key 'colour'"
    recipe 'merge_method: linear' 'models: [{model: a}'; no 'not YAML'
    recipe 'merge_method: linear' 'models: &m' '- model: a' '- *m'; no 'a cycle'
    recipe 'merge_method: linear' 'modules: {x: {models: [{model: a}]}}'; no "'modules' is not supported"
    recipe 'merge_method: nuslerp' 'models: [{model: a}]'; no 'merge_method nuslerp is not supported'
    recipe 'merge_method: linear' 'models: [{model: a, parameters: {weight: 1, density: 1}}]'; no 'linear takes no density'
    recipe 'merge_method: linear' 'models: [{model: a}]'; no 'no weight'
    head -c 2000000 /dev/zero | tr '\0' ' ' > in/r.yaml; no 'larger than'
    : > in/r.yaml; no 'is empty'
    run pq-merge --recipe in/none.yaml -o x/; refused 'in/none.yaml'; absent x
    run pq-merge --recipe in -o x/; refused 'Is a directory'; absent x
    recipe 'merge_method: linear' 'parameters:' '  weight:' '  - filter: self_atn' '    value: 0.5' '  - value: 1' \
        'models: [{model: a}, {model: b}]'
    no "line 4: no tensor has the filter 'self_atn' in its name"
    run pq-merge --recipe in/models.yaml in/a -o x/; misused; absent x
    run pq-merge --recipe in/models.yaml --density 0.5 -o x/; misused; absent x
    run pq-merge --recipe in/models.yaml --rank 3 -o x/; misused; absent x
    run pq-merge --recipe in/models.yaml --method fedavg -o x/; misused; absent x
    run pq-merge --vocab base in/tiny-lora in/tiny-lora -o x/; misused; absent x
    run pq-merge --recipe in/models.yaml --seed 3 -o x/; misused; absent x
}
models() {
    local m='parameters: {weight: 1}'
    recipe 'merge_method: linear' "models: [{model: none, $m}]"; no 'none: there is no such model'
    recipe 'merge_method: linear' "models: [{model: base+lora, $m}]"; no 'MODEL+LORA is not supported'
    recipe 'merge_method: linear' "models: [{model: base@main, $m}]"; no 'a revision (@) is not supported'
    recipe 'merge_method: linear' "models: [{model: tiny-lora, $m}]"; no 'is an adapter'
    recipe 'merge_method: linear' "models: [{model: r.yaml, $m}]"; no 'is the recipe itself'
    recipe 'merge_method: linear' "models: [{model: a, $m}, {model: base-gpt2, $m}]"; no 'is missing'
    recipe 'merge_method: ties' "models: [{model: a, $m}]"; no 'needs a base_model'
    recipe 'merge_method: slerp' 'base_model: base' 'models: [{model: a}, {model: b}]' 'parameters: {t: 0.5}'; no 'slerp'
    recipe 'merge_method: slerp' 'base_model: base' 'models: [{model: a}]'; no 'no t'
    # relative to the recipe first, then to where we are; a plus may be a name
    cp -r in/a here; cp -r in/a 'in/a+b'
    recipe 'merge_method: linear' "models: [{model: here, $m}, {model: a+b, $m}, {model: $W/in/a, $m}]"
    yes -o y/; same y/model.safetensors in/a/model.safetensors
    recipe 'merge_method: linear' "models: [{model: ../y, $m}]"
    run pq-merge --recipe in/r.yaml -o y/; refused 'its output: a cycle'
    recipe 'merge_method: task_arithmetic' 'base_model: base' "models: [{model: base, $m}, {model: a, $m}]"
    run pq-merge --recipe in/r.yaml -o y/
    [ $RC = 0 ] && grep -q 'have no effect' "$err" || bad "no warning: $RAN"
}
ranges() {
    local s='merge_method: passthrough'
    recipe "$s" 'slices: [{sources: [{model: a, layer_range: [1, 4]}]}]'; no 'layers [1, 4) of in/a, which has 3'
    recipe "$s" 'slices: [{sources: [{model: a, layer_range: [1, 1]}]}]'; no 'no layer'
    recipe 'merge_method: task_arithmetic' 'base_model: base' 'parameters: {weight: 1}' \
        'slices: [{sources: [{model: a, layer_range: [1, 2]}]}]'; no 'not among the sources'
    # GPT-2: other names, n_layer
    recipe "$s" 'slices:' '- sources: [{model: base-gpt2, layer_range: [0, 1]}]' '- sources: [{model: base-gpt2, layer_range: [0, 1]}]' \
        '- sources: [{model: base-gpt2, layer_range: [0, 1]}]'
    yes -o g/
    grep -q '"n_layer": 3' g/config.json || bad 'n_layer is not 3'
    tensors g | grep -q 'h\.2\.' || bad 'no third layer'
    tensors g | grep -q 'h\.3\.' && bad 'a fourth layer'
    # a list with an entry a layer follows the layers; an unknown one does not
    cp -r in/a in/l
    sed -i 's/"num_hidden_layers"/"layer_types": ["x", "y", "z"], "num_hidden_layers"/' in/l/config.json
    recipe "$s" 'slices:' '- sources: [{model: l, layer_range: [1, 3]}]' '- sources: [{model: l, layer_range: [0, 2]}]'
    yes -o l/
    grep -q '"layer_types": \["y", "z", "x", "y"\]' l/config.json || bad "$(grep layer_types l/config.json)"
    sed -i 's/"layer_types"/"layers_of_mine"/' in/l/config.json
    run pq-merge --recipe in/r.yaml -o x/; refused 'in/l: config.json: layers that move'; absent x
}
# where one model has a head and the other's is tied, both orders
tied() {
    local w='parameters: {weight: 0.5}'
    recipe 'merge_method: linear' "models: [{model: base-llama-tied, $w}, {model: base-llama, $w}]"
    yes -o t1/
    sed -i 's/\[\(.*\), \({model: base-llama, .*\)\]/[\2, \1]/' in/r.yaml
    yes -o t2/
    grep -q '"tie_word_embeddings": false' t1/config.json || bad 'still tied'
    same t1/config.json t2/config.json
    run pq-diff t1 t2; [ $RC = 0 ] || bad "$(head -n 3 "$out")"
    recipe 'merge_method: linear' "models: [{model: base-llama-tied, $w}]"
    yes -o t3/
    grep -q '"tie_word_embeddings": true' t3/config.json || bad 'not tied any more'
    tensors t3 | grep -q lm_head && bad 'a head from nowhere'
}
vocabularies() {
    local m='parameters: {weight: 1}' w
    recipe 'merge_method: linear' "models: [{model: base, $m}, {model: wide, $m}]"
    no 'lm_head.weight is [17, 9] and [20, 9]'
    yes --vocab base -o v/
    grep -q '"vocab_size": 17' v/config.json || bad 'vocab_size is not 17'
    same v/tokenizer.json in/base/tokenizer.json
    yes --vocab union -o v/
    grep -q '"vocab_size": 21' v/config.json || bad 'vocab_size is not 21'
    for w in moon blue tree star house; do grep -q "\"$w\"" v/tokenizer.json || bad "no $w"; done
    run pq-merge --no-provenance --vocab union in/base:1 in/wide:1 -o v2/; done_well
    same v v2
    run pq-merge --method ties --base in/base in/a in/wide -o x/; refused '--vocab'; absent x
    run pq-merge --method ties --base in/base in/base in/wide --vocab base -o v2/; done_well
    same v2/tokenizer.json in/base/tokenizer.json
    run pq-merge --vocab base in/base-llama in/tiny-lora -o x/; misused; absent x
    pq-convert in/wide -o wide.pq
    run pq-merge --vocab union in/base wide.pq -o x/; refused 'wide.pq: the vocabulary of a .pq stream'; absent x
    echo 'tokenizer_source: wide' >> in/r.yaml
    yes -o v/
    grep -q '"vocab_size": 20' v/config.json || bad 'vocab_size is not 20'
    same v/tokenizer.json in/wide/tokenizer.json
    run pq-merge --vocab base --recipe in/r.yaml -o x/; refused 'the recipe says'; absent x
    # a tokenizer of no model; a token that nobody has
    mkdir tok && sed 's/"star"/"comet"/' in/wide/tokenizer.json > tok/tokenizer.json
    sed -i 's/^tokenizer_source.*/tokenizer_source: tok/' in/r.yaml
    run pq-merge --recipe in/r.yaml -o v/
    [ $RC = 0 ] && grep -q 'no model has a row for 1 of 20 tokens' "$err" || bad "rc $RC, $(cat "$err"): $RAN"
    same v/tokenizer.json tok/tokenizer.json
    absent v/tokenizer_config.json
    # the same shapes and other tokens
    cp -r in/base in/other && sed -i 's/"cat":6,"house":7/"cat":7,"house":6/' in/other/tokenizer.json
    recipe 'merge_method: linear' "models: [{model: base, $m}, {model: other, $m}]"
    no "have different vocabularies: token 'house' is 7 and 6"
    yes --vocab base -o v/
    recipe 'merge_method: linear' "models: [{model: base, $m}, {model: a, $m}]" 'tokenizer_source: base'
    no 'in/a: has no tokenizer.json'
    run pq-merge --vocab most in/a in/b -o x/; misused
    # a number that would make a table of millions of rows
    cp -r in/base in/far && sed -i 's/"house":7/"house":16777215/' in/far/tokenizer.json
    for w in base union; do
        run pq-merge --vocab $w in/far in/wide -o x/; refused "'house' has the number 16777215"; absent x
    done
}
# an output goes into a Makefile, so it is all or nothing
damage() {
    cp -r in/a in/cut
    head -c 9000 in/a/model.safetensors > in/cut/model.safetensors
    recipe 'merge_method: linear' 'parameters: {weight: 1}' 'models: [{model: base}, {model: cut}]'
    run pq-merge --recipe in/r.yaml -o x/; refused 'in/cut'; absent x
    run pq-merge -n --recipe in/stack.yaml -o n/; done_well; absent n
}
# as long as there is nothing to be taken back, a signal need not wait
killed() {
    sanitized && return # its library must be loaded first
    { run env LD_PRELOAD="$TERM_SO" pq-merge --recipe in/stack.yaml -o killed/; } 2> /dev/null
    [ $RC = 143 ] || bad "rc $RC instead of 143: $RAN"
    [ -s "$err" ] && bad "not silent ($(head -n 1 "$err")): $RAN"
    [ -z "$(ls -A | grep killed)" ] || bad "left behind: $(ls -A | grep killed)"
}
TERM_SO=$(preload term.c)
for t in same_bytes encoded as_options piped syntax models ranges tied vocabularies damage killed; do
    check "recipe $t" $t
done
finish
