#!/bin/bash
# pq-merge and the kinds of PEFT adapters: experts, PiSSA and OLoRA against
# PEFT's own merges, what is refused by its name, and that nothing is written
# then.  More of them, tensor by tensor: tests/test_merge.c, test_peft.c.
. "$(dirname "$0")/lib.sh"
in_scratch
for d in "$ROOT"/testdata/peft/* "$ROOT"/testdata/adapters/*/; do cp -r "$d" .; done

# merges BASE ADAPTER [GOLDEN]: as PEFT does it, what it changed and no more
merges() {
    local golden=${3:-$2/merged.safetensors}
    run pq-merge -q --no-provenance "$1" "$2" -o m/; done_well
    local only=() not=()
    for n in $(pq-info --json "$golden" | grep -o '"name":"[^"]*"' | cut -d'"' -f4); do
        only+=(-m "$n") not+=(-x "$n")
    done
    run pq-convert -q "${only[@]}" m/model.safetensors -o a.safetensors; done_well
    run pq-diff -q --tolerance 1e-6 a.safetensors "$golden"
    [ $RC = 0 ] || bad "not PEFT's merge ($RC): pq-merge $1 $2"
    run pq-diff -q "${not[@]}" m/model.safetensors "$1/model.safetensors"
    [ $RC = 0 ] || bad "changed more than PEFT ($RC): pq-merge $1 $2"
}
experts() {
    local m
    for m in qwen3 mixtral gpt-oss; do
        merges moe-base-$m moe-new-$m
        merges moe-base-$m moe-old-$m
    done
    merges base-mixtral experts experts/merged-split.safetensors
    merges base-mixtral-fused experts
    run pq-merge -n base-mixtral experts; done_well
    [ "$(tail -n 1 "$out")" = "$(pq-merge base-mixtral experts | wc -c)" ] || bad "another size: $RAN"
    run pq-merge --json base-mixtral-fused experts -o j.pq; done_well
    [ "$(grep -o '"retained":' "$out" | wc -l)" = 4 ] || bad "not 4 times retained: $RAN"
}
starts() {
    merges base-llama pissa
    merges base-llama pissa-rslora
    merges base-llama pissa-dora
    merges base-gpt2 pissa-conv1d
    merges base-llama olora
    merges base-gpt2 olora-conv1d
    merges base-decay pissa-niter
    run pq-merge base-decay pissa-niter -o m/; [ $RC = 0 ] || bad "rc $RC: $RAN"
    grep -q 'warning: pissa-niter: what pissa_niter_16 took out' "$err" || bad "no warning: $RAN"
    run pq-merge -v base-llama pissa -o m/; [ $RC = 0 ] || bad "rc $RC: $RAN"
    grep -q '6 tensors: what PiSSA or OLoRA took out was found' "$err" || bad "not told: $RAN"
    run pq-merge -n base-llama pissa; done_well
    [ "$(tail -n 1 "$out")" = "$(pq-merge base-llama pissa | wc -c)" ] || bad "another size: $RAN"
}
same_bytes() {
    local a
    for a in pissa:0.5 olora pissa-dora:-1; do
        run pq-merge -q --no-provenance -T1 base-llama $a -o 1.pq; done_well
        run pq-merge -q --no-provenance -T3 base-llama $a -o 3.pq; done_well
        same 1.pq 3.pq
        pq-convert base-llama -o b.pq
        run pq-merge -q --no-provenance b.pq $a -o 3.pq; done_well
        same 1.pq 3.pq
    done
    run pq-merge -q --no-provenance -T1 moe-base-qwen3 moe-new-qwen3 -o 1.pq; done_well
    PQ_CPU=scalar run pq-merge -q --no-provenance -T3 --memory 16M moe-base-qwen3 moe-new-qwen3 -o 3.pq; done_well
    same 1.pq 3.pq
    pq-convert -O pq --no-provenance moe-base-qwen3 |
        pq-merge -q --no-provenance - moe-new-qwen3 -O pq > 3.pq || bad "from a pipe"
    same 1.pq 3.pq
}
# encoded bases are what they decode to
encoded() {
    local p
    for p in "base-llama olora" "moe-base-qwen3 moe-new-qwen3"; do
        set -- $p
        rm -rf q d
        run pq-quantize -q --no-provenance -t nf4 $1 -o q/; done_well
        run pq-dequantize -q --no-provenance -t f32 q -o d/; done_well
        run pq-merge -q --no-provenance -t f32 q $2 -o a.safetensors; done_well
        run pq-merge -q --no-provenance -t f32 d $2 -o b.safetensors; done_well
        run pq-diff -q a.safetensors b.safetensors; [ $RC = 0 ] || bad "not the same: $RAN"
    done
}
# says NAME KEY VALUE: the adapter `lora` or `experts` with that key changed
says() {
    rm -rf odd
    cp -r "$1" odd
    sed -i "s/^  \"$2\": .*[^,]\(,\{0,1\}\)\$/  \"$2\": $3\1/" odd/adapter_config.json
    grep -qF "\"$2\": $3" odd/adapter_config.json || bad "no $2 in $1"
}
no() { run pq-merge "${2:-base-llama}" odd -o x/; refused "$1"; absent x; }
refusals() {
    says lora layer_replication '[[0, 1], [0, 2]]'; no layer_replication
    says lora use_qalora true; no use_qalora
    says lora alora_invocation_tokens '[1, 2]'; no alora_invocation_tokens
    says lora kasa_config '{"beta": 0.1}'; no kasa_config
    says lora use_bdlora '{"nblocks": 2}'; no use_bdlora
    says lora arrow_config '{"top_k": 3}'; no arrow_config
    says lora peft_type '"MISS"'; no 'peft_type MISS cannot be merged'
    says lora peft_type '"VERA"'; no 'peft_type VERA cannot be merged'
    says lora init_lora_weights '"loftq"'; no 'init_lora_weights "loftq" changed the base'
    says lora init_lora_weights '"corda"'; no 'init_lora_weights "corda" changed the base'
    says lora init_lora_weights '"lora_ga"'; no 'init_lora_weights "lora_ga" changed the base'
    run pq-merge -q --no-provenance --residual-base base-llama odd -o a.pq; done_well
    run pq-merge -q --no-provenance base-llama lora -o b.pq; done_well
    same a.pq b.pq
    says experts init_lora_weights '"pissa"'; no 'of a parameter' base-mixtral
    run pq-merge base-llama experts -o x/; refused 'the base has no place for it'; absent x
    run pq-merge moe-base-mixtral experts -o x/; refused 'does not fit'; absent x
    run pq-merge experts experts -o x/; refused 'cannot be summed without the base'; absent x
    run pq-merge pissa pissa -o x/; refused 'cannot be summed without the base'; absent x
    pq-convert -O pq base-llama > b.pq
    pq-merge - pissa -o x/ < <(cat b.pq) > "$out" 2> "$err"; RC=$? RAN='pq-merge - pissa'
    refused 'it cannot come from a pipe'; absent x
}
# a part of the base, and the base itself, that hold NaN
nan() {
    $H st one.safetensors 'model.layers.0.self_attn.q_proj.weight=F32[16,16]nan'
    local a
    for a in lora pissa olora; do
        rm -rf one && mkdir one && cp $a/adapter_config.json one/
        pq-convert -m '*layers.0.self_attn.q_proj*' $a/adapter_model.safetensors -o one/adapter_model.safetensors
        run pq-merge one.safetensors one -o x.pq; refused 'model.layers.0.self_attn.q_proj.weight'; absent x.pq
    done
    rm -rf one && mkdir one && cp lora/adapter_config.json one/
    $H st one/adapter_model.safetensors \
        'base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight=F32[4,16]nan' \
        'base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight=F32[16,4]'
    run pq-merge base-llama one -o x.pq; refused 'model.layers.0.self_attn.q_proj.weight'; absent x.pq
}
for t in experts starts same_bytes encoded refusals nan; do
    check "peft $t" $t
done
finish
