#!/bin/bash
# pq-extract: what it does to whole models, that merging its adapters gives
# the tuned models back, and that it writes nothing when it says no.  How good
# its factors are is tests/test_extract.c.
. "$(dirname "$0")/lib.sh"
in_scratch
for d in "$ROOT"/testdata/peft/base-* "$ROOT"/testdata/extract/*/; do cp -r "$d" .; done
cp -r "$MODEL" .
cp -r "$ROOT"/testdata/blend/base full && cp -r "$ROOT"/testdata/blend/a full-tuned
PAIRS='base-llama:rank3 base-llama:mixed base-gpt2:conv1d base-llama-tied:tied'

# the adapter, merged, is the tuned model
comes_back() { # BASE TUNED ADAPTER
    run pq-merge -q "$1" "$3" -o m/; done_well
    run pq-diff --tolerance 1e-6 -x lm_head.weight "$2" m
    [ $RC = 0 ] || bad "$3 is not what made $2 of $1: $(head -n 2 "$out")"
}
exact() {
    local p
    for p in $PAIRS; do
        run pq-extract "${p%:*}" "${p#*:}" -r 16 -o a/; done_well
        comes_back "${p%:*}" "${p#*:}" a
        run pq-extract "${p%:*}" "${p#*:}" -r 16 --embeddings -o a/; done_well
        comes_back "${p%:*}" "${p#*:}" a
    done
    # a head that is the table changes with it
    run pq-diff --tolerance 1e-6 -m '*embed_tokens*' tied m; [ $RC = 0 ] || bad "embedding: $RAN"
    pq-convert -m '*embed_tokens*' tied/model.safetensors -o e.safetensors
    pq-convert -m lm_head.weight m/model.safetensors -o h.safetensors
    LC_ALL=C sed -i 's/model.embed_tokens.weight"/lm_head.weight"           /' e.safetensors
    run pq-diff --tolerance 1e-6 e.safetensors h.safetensors; [ $RC = 0 ] || bad "head: $RAN"
}
config() {
    run pq-extract base-llama mixed -r 3 -o a/; done_well
    [ -f a/adapter_model.safetensors ] && [ "$(entries a)" = 2 ] || bad "not an adapter: $RAN"
    for t in '"bias": "all"' '"fan_in_fan_out": false' '"r": 3' '"lora_alpha": 3' '"model.norm"' \
        '"model.embed_tokens"' '"model.layers.1.mlp.up_proj"' '"rank_pattern": {}'; do
        grep -qF "$t" a/adapter_config.json || bad "no $t in the config: $RAN"
    done
    run pq-extract base-llama rank3 -r 3 -o a/; done_well
    grep -q '^    "q_proj"' a/adapter_config.json || bad "names are not short: $RAN"
    grep -q '"modules_to_save": null' a/adapter_config.json || bad "modules_to_save: $RAN"
    run pq-extract base-gpt2 conv1d -r 2 -o a/; done_well
    grep -q '"fan_in_fan_out": true' a/adapter_config.json || bad "fan_in_fan_out: $RAN"
    run pq-extract base-llama mixed --energy 0.9 -o a/; done_well
    grep -q '"model.layers.1.mlp.down_proj": 2' a/adapter_config.json || bad "no pattern: $RAN"
    # the bias of a matrix with factors is inside
    run pq-extract base-llama mixed -r 1 -m '*q_proj*' -o a/; done_well
    pq-info a | grep -q 'q_proj.bias$' || bad "no bias: $RAN"
}
# GPT-2's own files have no "transformer." before their names
bare_names() {
    local f
    cp -r base-gpt2 bare && cp -r conv1d bare-tuned
    for f in bare bare-tuned; do
        LC_ALL=C sed -i 's/"transformer\./            "/g' $f/model.safetensors
    done
    pq-info bare | grep -q ' h.0.attn.c_attn.weight$' || bad "the names are not bare"
    run pq-extract --no-provenance bare bare-tuned -r 2 -o a/; done_well
    run pq-extract --no-provenance base-gpt2 conv1d -r 2 -o b/; done_well
    same a b
}
goals() {
    run pq-extract full full-tuned -r 2 --json -o a/; [ $RC = 0 ] || bad "rc $RC: $RAN"
    near "$(number error "$out")" 0.606983 0.006 || bad "error $(number error "$out"): $RAN"
    run pq-extract full full-tuned -r 4 -t bf16 --json -o a/
    near "$(number error "$out")" 0.38055 0.004 || bad "error $(number error "$out"): $RAN"
    # each of its own error, whatever the factors are rounded to
    for t in f32 bf16; do
        run pq-extract full full-tuned --max-error 0.5 -t $t --json -o a/
        grep -o '"kind":"factors"[^}]*' "$out" | grep -o '"error":[0-9.e-]*' | cut -d: -f2 |
            awk '$1 > 0.5 { exit 1 } END { exit !NR }' || bad "beyond 0.5: $RAN"
    done
    # what would take more as factors is there as it is
    run pq-extract base-llama mixed -t bf16 --max-error 0.0001 -o a/; done_well
    comes_back base-llama mixed a
    grep -q lora_B a/adapter_model.safetensors || bad "PEFT loads nothing without factors: $RAN"
    run pq-extract full full-tuned --max-error 0.001 -o x/; refused 'no matrix is of low rank'; absent x
    run pq-extract full full-tuned --energy 0.9 --max-rank 2 --json -o a/
    grep -q '"rank":[3-9]' "$out" && bad "a rank above 2: $RAN"
}
# one budget over all matrices: what manifest.json says is best
budget() {
    local s
    for s in 8K 10K 14K; do
        run pq-extract full full-tuned -m '*_proj.weight' --max-size $s --json -o a/
        [ "$(cat a/* | wc -c)" -le $((${s%K} * 1024)) ] || bad "larger than $s: $RAN"
        [ "$(number bytes_out "$out")" = "$(cat a/* | wc -c)" ] || bad "bytes_out is wrong: $RAN"
    done
    run pq-extract --no-provenance full full-tuned -m '*_proj.weight' --max-size 17000 --json -o a/
    near "$(number error "$out")" 0.397702 0.004 || bad "error $(number error "$out"): $RAN"
    run pq-extract full full-tuned --max-size 2K -o x/; refused --max-size; absent x
}
# what a model changed by being stored in another type is not worth a byte
rounded() {
    local ranks
    local t
    for t in f32 f16 bf16; do
        run pq-quantize -t $t rank3 -o rank3-$t/; done_well
        run pq-extract base-llama rank3-$t -m '*_proj.weight' --max-size 1M --json -o a/
        ranks=$(grep -o '"rank":[0-9]*' "$out" | sort | uniq -c | xargs)
        [ "$ranks" = '14 rank:3' ] || bad "ranks $ranks: $RAN"
    done
    # a change larger than the model
    run pq-merge -q tiny-llama "$ROOT/testdata/peft/tiny-lora" -o tuned/; done_well
    run pq-extract tiny-llama tuned --max-size 1M --json -o a/
    ranks=$(grep -o '"rank":[0-9]*' "$out" | sort | uniq -c | xargs)
    [ "$ranks" = '5 rank:2' ] || bad "ranks $ranks: $RAN"
    # of nothing else; PEFT loads nothing without factors, so one has those of 0
    run pq-quantize -t bf16 base-llama -o base-bf16/; done_well
    run pq-extract base-llama base-bf16 -m '*_proj.weight' --max-size 1M --json -o a/
    ranks=$(grep -o '"rank":[0-9]*' "$out" | sort | uniq -c | xargs)
    [ "$ranks" = '13 rank:0 1 rank:1' ] || bad "ranks $ranks: $RAN"
}
same_bytes() {
    local o
    for o in '-r 3' '--energy 0.8' '--max-size 9K'; do
        run pq-extract --no-provenance -T1 $o full full-tuned -o t1.pq; done_well
        run pq-extract --no-provenance -T4 --memory 16M $o full full-tuned -o t4.pq; done_well
        same t1.pq t4.pq
        PQ_CPU=scalar run pq-extract --no-provenance $o full full-tuned -o t4.pq; done_well
        same t1.pq t4.pq
        pq-convert full -O pq > full.pq
        pq-convert full-tuned -O pq | pq-extract --no-provenance $o full.pq - -O pq > t4.pq || bad "from a pipe: $o"
        same t1.pq t4.pq
    done
    run pq-extract --no-provenance --seed 5 -r 3 full full-tuned -o t4.pq; done_well
}
dry() {
    local o
    for o in '-r 2' '--energy 0.9' '-r 2 -t f16 --embeddings'; do
        run pq-extract -n base-llama mixed $o -o x/; [ $RC = 0 ] || bad "rc $RC: $RAN"
        absent x
        local n=$(tail -n 1 "$out")
        run pq-extract base-llama mixed $o -o a/; done_well
        [ "$n" = "$(cat a/* | wc -c)" ] || bad "-n says $n: $RAN"
    done
}
encoded() {
    run pq-quantize -t nf4 base-llama -o q/; done_well
    run pq-extract q rank3 -r 16 -o a/; done_well
    run pq-dequantize -t f32 q -o d/; done_well
    comes_back d rank3 a
    run pq-extract -q rank3 q -r 16 -o a/; done_well
    comes_back rank3 d a
    run pq-quantize -t nf4 base-gpt2 -o q/; done_well
    run pq-extract q conv1d -r 2 -m '*attn.c_proj*' -o x/; refused 'dequantize'; absent x
}
selected() {
    run pq-extract base-llama mixed -m '*mlp*' -r 3 -o a/; done_well
    pq-info a | grep -q 'norm\|embed\|bias' && bad "more than was selected: $RAN"
    # norms alone: PEFT wants factors all the same
    run pq-extract base-llama mixed -m '*norm*' -r 3 -o a/; done_well
    pq-info a | grep -q lora_A || bad "no factors: $RAN"
    run pq-merge -q base-llama a -o m/; done_well
    run pq-diff -x '*norm*' base-llama m; [ $RC = 0 ] || bad "more than norms: $RAN"
    run pq-diff -m '*norm*' mixed m; [ $RC = 0 ] || bad "not the norms: $RAN"
}
refusals() {
    run pq-extract base-llama base-llama -r 3 -o x/; refused 'do not differ'; absent x
    run pq-extract base-llama rank3 -r 3 -x '*' -o x/; refused 'leave nothing to compare'; absent x
    run pq-extract base-llama rank3 -r 3 -m '*norm*' -o x/; refused 'do not differ in what is selected'; absent x
    run pq-extract base-llama "$ROOT/testdata/peft/lora" -r 3 -o x/; refused 'peft/lora: is an adapter'; absent x
    run pq-extract base-llama base-gpt2 -r 3 -o x/; refused 'more are only in one'; absent x
    pq-convert -x model.norm.weight rank3 -o less/
    run pq-extract base-llama less -r 3 -o x/; refused 'tensor model.norm.weight is only in base-llama'; absent x
    run pq-extract base-llama less -r 3 -x model.norm.weight -o a/; done_well
    $H st a.safetensors 'x.weight=F32[4,4]ramp' && $H st b.safetensors 'x.weight=F32[4,5]ramp'
    run pq-extract a.safetensors b.safetensors -r 1 -o x/; refused 'x.weight is [4, 4]'; absent x
    $H st b.safetensors 'x.weight=F32[4,4]nan'
    run pq-extract a.safetensors b.safetensors -r 1 -o x/; refused NaN; absent x
    run pq-extract base-llama -r 3 -o x/; misused; absent x
    run pq-extract base-llama rank3 -o x/; misused; absent x
    run pq-extract base-llama rank3 -r 3 --energy 0.9 -o x/; misused; absent x
    run pq-extract base-llama rank3 --energy 1.5 -o x/; misused; absent x
    run pq-extract base-llama rank3 -r 3 -t nf4 -o x/; misused; absent x
}
said() {
    run pq-extract -v base-llama mixed -r 2 -o a/
    grep -q 'down_proj.weight \[16, 24\]: rank 2, energy 0.932.*, error 0.26' "$err" || bad "$(cat "$err"): $RAN"
    grep -q 'norm.weight \[16\]: as it is' "$err" || bad "norm: $RAN"
    run pq-extract -v base-llama mixed -r 2 -m lm_head.weight -o a/
    grep -q ': 1 matrix, error' "$err" || bad "$(cat "$err"): $RAN"
    run pq-extract --json base-llama mixed -r 2 -o a/
    grep -q '"name":"lm_head.weight","kind":"factors","shape":\[24,16\],"rank":2' "$out" || bad "json: $RAN"
    near "$(number error "$out")" 0.385443 0.004 || bad "error $(number error "$out"): $RAN"
}
ranks() {
    run pq-diff --rank base-llama mixed; [ $RC = 1 ] || bad "rc $RC: $RAN"
    grep -q ' 15  *F32 .*lm_head.weight' "$out" && grep -q ' 2  *F32 .*embed_tokens' "$out" || bad "ranks: $RAN"
    run pq-diff --rank=2 base-llama mixed
    grep -q ' >2  *F32 .*lm_head.weight' "$out" || bad "more than 2: $RAN"
    run pq-diff --rank --json base-llama rank3
    [ "$(grep -o '"rank":3' "$out" | wc -l)" -ge 12 ] || bad "rank 3: $RAN"
    run pq-diff --rank --delta x.pq base-llama rank3; misused; absent x.pq
}
for t in exact config bare_names goals budget rounded same_bytes dry encoded selected refusals said ranks; do
    check "extract $t" $t
done
finish
