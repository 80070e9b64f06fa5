#!/bin/bash
# pq-merge: what it does to directories, configs and encoded models, and that
# it writes nothing when it says no.  Its numbers are tests/test_merge.c.
. "$(dirname "$0")/lib.sh"
in_scratch
PEFT=$ROOT/testdata/peft
for d in "$PEFT"/* "$MODEL"; do cp -r "$d" .; done

folded() {
    run pq-merge tiny-llama tiny-lora -o m/; done_well
    for f in config.json tokenizer.json; do same m/$f tiny-llama/$f; done
    run pq-merge tiny-llama tiny-lora:x -o n/; refused "tiny-lora:x: the weight 'x' is not a number"
    run pq-merge tiny-llama tiny-lora:1e16 -o n/; refused 'tiny-lora:1e16: the weight 1e16 is not between'
    run pq-merge tiny-llama nothing:x -o n/; refused 'nothing:x: No such file'
    run pq-merge tiny-lora tiny-llama:1 -o n/; refused 'a model takes no weight'
    run pq-merge tiny-lora:1 tiny-llama -o n/; done_well # whatever the order
    cmp -s m/model.safetensors n/model.safetensors || bad "the order shows: $RAN"
    run pq-merge --json tiny-llama tiny-lora -o n/; done_well
    [ "$(grep -o '"retained":' "$out" | wc -l)" = 5 ] || bad "not 5 times retained: $RAN"
}
same_bytes() {
    local t
    for t in f32 bf16 nf4 int8; do
        run pq-merge --no-provenance -q -T1 -t $t base-llama dora lora:-0.5 -o t1.pq; done_well
        run pq-merge --no-provenance -q -T4 -t $t base-llama dora lora:-0.5 -o t4.pq; done_well
        same t1.pq t4.pq
        PQ_CPU=scalar run pq-merge --no-provenance -q -t $t base-llama dora lora:-0.5 -o t4.pq; done_well
        same t1.pq t4.pq
        pq-convert --no-provenance -O pq base-llama |
            pq-merge --no-provenance -q -t $t - dora lora:-0.5 -O pq > t4.pq || bad "from a pipe: -t $t"
        same t1.pq t4.pq
    done
}
# encode(decode(base) + delta): the same as decoding, merging, encoding
# an adapter in a .pq, or from a pipe, is the one in the directory
streamed() {
    local a b x
    for a in lora:base-llama dora:base-llama conv1d-dora:base-gpt2 tokens:base-llama experts:base-mixtral; do
        b=${a#*:} a=${a%:*}
        run pq-merge --no-provenance -q "$b" "$a" -o m1/; done_well
        run pq-convert --no-provenance "$a" -o a.pq; done_well
        run pq-convert --no-provenance -z "$a" -o z.pq; done_well
        for x in a.pq z.pq; do
            run pq-merge --no-provenance -q --memory 16M "$b" $x -o m2/; done_well
            same m1 m2
        done
        pq-merge --no-provenance -q "$b" - -o m2/ < z.pq || bad "rc $?: $a from a pipe"
        same m1 m2
    done
    run pq-convert lora -o a.pq; done_well
    run pq-merge --no-provenance lora:0.5 dora/../lora -o ad1/; done_well
    run pq-merge --no-provenance a.pq:0.5 lora -o ad2/; done_well
    same ad1 ad2
    run pq-merge -n base-llama a.pq; [ $RC = 0 ] || bad "rc $RC: $RAN"
    head -c $(($(wc -c < a.pq) - 64)) a.pq > cut.pq
    run pq-merge base-llama cut.pq -o x/; refused cut.pq; absent x
    pq-quantize -t nf4 -m '*q_proj*' lora -o q.pq
    run pq-merge base-llama q.pq -o x/; refused 'is encoded'; absent x
}
encoded() {
    local t
    for t in 'nf4' 'nf4 --double-quant' 'fp4' 'int8'; do
        run pq-quantize --no-provenance -t $t tiny-llama -o q/; done_well
        run pq-merge --no-provenance -q q tiny-lora -o a.pq; done_well
        run pq-merge --no-provenance -q -t f32 q tiny-lora -o f/; done_well
        grep -q quantization_config f/config.json && bad "a config of what is gone: $t"
        run pq-quantize --no-provenance -t $t -m '*q_proj.weight' f -o b.pq; done_well
        pq-convert --no-provenance -m '*q_proj.weight' a.pq -o a.safetensors
        pq-convert --no-provenance -m '*q_proj.weight' b.pq -o b.safetensors
        pq-convert --canonical --no-provenance a.safetensors -o a1.safetensors
        pq-convert --canonical --no-provenance b.safetensors -o b1.safetensors
        same a1.safetensors b1.safetensors
    done
}
conv1d() {
    run pq-merge --no-provenance -t nf4 base-gpt2 conv1d -o a.pq; done_well
    run pq-merge --no-provenance base-gpt2 conv1d -o m/; done_well
    run pq-quantize --no-provenance -t nf4 m -o b.pq; done_well
    same a.pq b.pq
}
untied() {
    run pq-merge base-llama-tied tied-head -o u/; done_well
    grep -q '"tie_word_embeddings": false' u/config.json || bad "still tied: $RAN"
    pq-info u | grep -q lm_head.weight || bad "no lm_head.weight: $RAN"
    run pq-merge base-llama-tied tied-tokens -o u/; done_well
    grep -q '"tie_word_embeddings": true' u/config.json || bad "not tied any more: $RAN"
}
little_left() {
    run pq-merge -t bf16 base-llama lora:0.0001 -o l.pq
    [ $RC = 0 ] && grep -q 'keep less than 0.9' "$err" || bad "no warning: $RAN"
    run pq-merge -q -t bf16 base-llama lora:0.0001 -o l.pq; done_well
}
no_place() {
    run pq-merge base-llama conv1d -o x/; refused 'the base has no place for it'; absent x
    run pq-merge tiny-llama lora -o x/; refused 'does not fit'; absent x
    run pq-merge base-llama base-gpt2 -o x/; refused 'has no tensor'; absent x
    run pq-merge base-llama -o x/; misused; absent x
    run pq-merge base-llama lora:1 rslora:-1 --normalize -o x/; refused 'sum to 0'; absent x
    run pq-merge base-llama lora:nan -o x/; refused 'lora:nan'; absent x
    cp -r lora odd
    sed -i 's/"LORA"/"LOHA"/' odd/adapter_config.json
    run pq-merge base-llama odd -o x/; refused 'peft_type LOHA'; absent x
    rm odd/adapter_config.json
    run pq-merge base-llama odd -o x/; refused 'adapter_config.json is missing'; absent x
}
nan() {
    $H st nan.safetensors 'model.layers.0.self_attn.q_proj.weight=F32[16,16]nan'
    mkdir one && cp lora/adapter_config.json one/
    pq-convert -m '*layers.0.self_attn.q_proj*' lora/adapter_model.safetensors -o one/adapter_model.safetensors
    run pq-merge nan.safetensors one -o x.pq; refused NaN; absent x.pq
    run pq-merge --allow-nonfinite nan.safetensors one -o x.pq; [ $RC = 0 ] || bad "rc $RC: $RAN"
}
alone() {
    run pq-merge lora:0.5 pattern -o s/; done_well
    [ -f s/adapter_model.safetensors ] || bad "no adapter: $RAN"
    run pq-merge --no-provenance base-llama s -t bf16 -o s1/; done_well
    run pq-merge --no-provenance base-llama lora:0.5 pattern -t bf16 -o s2/; done_well
    run pq-merge lora dora -o x/; refused 'cannot be summed'; absent x
    run pq-merge --normalize lora:3 lora:1 -o s/; done_well
    grep -q '"r": 8' s/adapter_config.json || bad "not the sum of the ranks: $RAN"
}
# ---- models alone ----------------------------------------------------------
blended() {
    run pq-merge a:3 b -o m/; done_well
    same m/config.json a/config.json
    run pq-merge --method ties --base base --density 0.5 a b -o m/; done_well
    for f in config.json tokenizer.json tokenizer_config.json; do same m/$f base/$f; done
    run pq-merge --json --method slerp --t 0.5 a b -o m/; done_well
    [ "$(grep -o '"sqnr_db":' "$out" | wc -l)" = 30 ] || bad "not 30 tensors: $RAN"
    run pq-merge --no-provenance a a -o m/; done_well # the mean of equals
    pq-diff -q a m > /dev/null || bad "a mean is not exact"
    run pq-merge -t bf16 a b -o m/; done_well
    grep -q '"dtype": "bfloat16"' m/config.json || bad "not its dtype: $RAN"
    run pq-merge --method passthrough --scale -1 a -o m/; done_well
    run pq-merge --no-normalize a m a -o z/; done_well
    pq-diff -q a z > /dev/null || bad "a - a + a is not a"
    run pq-merge a tied -o m/; refused 'tied: has no tensor lm_head.weight, which a has'
}
same_blends() {
    local m o
    for m in linear 'slerp --t 0.3' task_arithmetic 'ties --density 0.3' 'dare_linear --density 0.3 --seed 7' \
        'dare_ties --density 0.3 --rescale chance' 'della --density 0.4' 'della_linear --density 0.4' \
        'breadcrumbs --density 0.5' 'breadcrumbs_ties --density 0.5 --gamma 0.2' model_stock 'model_stock --by-row'; do
        o='--base base'
        case $m in linear*|slerp*) o=;; esac
        run pq-merge --no-provenance -q -T1 --method $m $o a b -o t1.pq; done_well
        run pq-merge --no-provenance -q -T4 --method $m $o a b -o t4.pq; done_well
        same t1.pq t4.pq
        PQ_CPU=scalar run pq-merge --no-provenance -q --method $m $o a b -o t4.pq; done_well
        same t1.pq t4.pq
        pq-convert --no-provenance -O pq a |
            pq-merge --no-provenance -q --method $m $o - b -O pq > t4.pq || bad "from a pipe: $m"
        same t1.pq t4.pq
        run pq-merge --no-provenance -q --method $m $o shards b -o t4/; done_well
        pq-diff -q t1.pq t4 > /dev/null || bad "from shards: $m"
    done
}
# encode(blend(decode)) is what three tools do one after the other
encoded_blend() {
    local t
    for t in 'nf4' 'nf4 --double-quant' 'int8'; do
        for m in a b base; do
            run pq-quantize --no-provenance -t $t $m -o q$m/; done_well
            run pq-dequantize --no-provenance -t f32 q$m -o d$m/; done_well
        done
        run pq-merge --no-provenance -q --method ties --density 0.5 --base qbase qa b -o x.pq; done_well
        run pq-merge --no-provenance -q --method ties --density 0.5 --base dbase da b -o y/; done_well
        run pq-quantize --no-provenance -t $t y -o z/; done_well
        run pq-convert --no-provenance z -o z.pq; done_well
        pq-diff -q x.pq z.pq > /dev/null || bad "not as one after the other: $t"
        pq-info x.pq | grep -q "${t%% *}" || bad "not encoded any more: $t"
        run pq-merge --no-provenance --method passthrough qa -o x.pq; done_well
        pq-diff -q x.pq qa > /dev/null || bad "passed, not the same: $t"
    done
}
conv1d_blend() {
    run pq-merge --no-provenance base-gpt2 base-gpt2 -t nf4 -o x.pq; done_well
    run pq-quantize --no-provenance -t nf4 base-gpt2 -o z.pq; done_well
    pq-diff -q x.pq z.pq > /dev/null || bad "on its side"
    run pq-quantize -t nf4 base-gpt2 -o g4/; done_well
    run pq-merge base-gpt2 g4 -o x/; refused 'dequantize first'; absent x
}
not_blended() {
    local o
    rm -rf x x.pq
    run pq-merge base-llama base-gpt2 -o x/; refused 'has no tensor'; absent x
    run pq-merge a wide -o x/; refused 'tokenizer_source'; absent x
    for o in '' '--vocab base' '--vocab union'; do
        run pq-merge $o base-llama a -o x/; refused 'base-llama and a are models of other sizes'; absent x
    done
    run pq-merge a:1 b:-1 -o x/; refused 'sum to 0'; absent x
    run pq-merge --no-normalize a:1 b:-1 -o x/; done_well; rm -r x
    run pq-merge --method della --base base --density 0.1 a -o x/; refused 'epsilon'; absent x
    run pq-merge --method ties --base lora a -o x/; refused 'no base'; absent x
    $H st nan.safetensors 'w=F32[4,4]nan'; $H st one.safetensors 'w=F32[4,4]'
    run pq-merge one.safetensors nan.safetensors -o x.pq; refused 'in nan.safetensors is NaN'; absent x.pq
    run pq-merge --allow-nonfinite one.safetensors nan.safetensors -o x.pq; [ $RC = 0 ] || bad "rc $RC: $RAN"
}
no_use() {
    local o
    for o in '--t 0.5' '--density 0.5' '--epsilon 0.1' '--gamma 0.1' '--lambda 2' '--scale 2' '--rescale norm' \
        '--by-row' '--seed 1' '--base base'; do
        run pq-merge $o a b -o x/; misused; absent x
        run pq-merge $o base-llama lora -o x/; misused; absent x
    done
    run pq-merge --residual-base a b -o x/; misused; absent x
    run pq-merge --method nonsense a b -o x/; misused; absent x
    run pq-merge --method linear base-llama lora -o x/; misused; absent x
    run pq-merge --no-normalize lora lora -o x/; misused; absent x
    run pq-merge --method ties a b -o x/; misused; absent x
    run pq-merge --method ties --rescale chance --base base a -o x/; misused; absent x
    run pq-merge --method ties --rescale most --base base a -o x/; misused; absent x
    run pq-merge --method slerp a b -o x/; misused; absent x
    run pq-merge --method slerp --t 2 a b -o x/; misused; absent x
    run pq-merge --method slerp --t 0.5 a b c -o x/; misused; absent x
    run pq-merge --method slerp --t 0.5 a b:2 -o x/; misused; absent x
    run pq-merge --method passthrough a b -o x/; misused; absent x
    run pq-merge --method model_stock --base base a -o x/; misused; absent x
}
BLEND=$ROOT/testdata/blend
for d in a b c base wide; do cp -r "$BLEND/$d" .; done
pq-convert --shard-size 2K a -o shards/
mkdir tied && cp a/config.json tied/ && pq-convert -x lm_head.weight a/model.safetensors -o tied/model.safetensors
for t in folded same_bytes streamed encoded conv1d untied little_left no_place nan alone \
    blended same_blends encoded_blend conv1d_blend not_blended no_use; do
    check "merge $t" $t
done
finish
