#!/bin/bash
# Adapters alone: pq-merge --rank, --energy, --method, and pq-extract --resize
# and --plain.  Numbers of factors are tests/test_adapters.c; here is what comes
# out of the tools, merged.
. "$(dirname "$0")/lib.sh"
in_scratch
PEFT=$ROOT/testdata/peft
A=$ROOT/testdata/adapters
for d in "$PEFT"/* "$A"/{five,mix,party-1,party-2,pissa,pissa-rslora,pissa-conv1d,olora}; do cp -r "$d" .; done

# ends_alike TOLERANCE BASE ADAPTER OTHER: both adapters do the same
ends_alike() {
    run pq-merge -q -t f32 "$2" "$3" -o a.safetensors; done_well
    run pq-merge -q -t f32 "$2" "$4" -o b.safetensors; done_well
    run pq-diff -q --tolerance "$1" a.safetensors b.safetensors
    [ $RC = 0 ] || bad "they differ: $RAN"
}

ranks() {
    local o
    run pq-merge --rank 3 lora:0.5 pattern -o s/; done_well
    grep -q '"r": 3' s/adapter_config.json || bad "not of rank 3: $RAN"
    run pq-merge -n --rank 3 lora:0.5 pattern -o s/
    [ "$(tail -n 1 "$out")" = "$(cat s/* | wc -c)" ] || bad "another size: $RAN"
    run pq-merge --energy 0.9 lora:0.5 pattern -o s/; done_well
    grep -q 'layers.0.self_attn.q_proj": ' s/adapter_config.json || bad "no rank_pattern: $RAN"
    # a sum with itself needs no more rank than one of them
    run pq-merge --energy 1 lora:0.5 lora:0.5 -o s/; done_well
    grep -q '"r": 4' s/adapter_config.json || bad "more than rank 4: $RAN"
    run pq-merge -q -t f32 base-llama s -o a.safetensors; done_well
    run pq-merge -q -t f32 base-llama lora -o b.safetensors; done_well
    run pq-diff -q --tolerance 1e-6 a.safetensors b.safetensors
    [ $RC = 0 ] || bad "another change: $RAN"
    run pq-merge --json --rank 2 party-1 five -o s/; done_well
    [ "$(grep -o '"rank":2,"error":0\.' "$out" | wc -l)" = 6 ] || bad "no errors of 6 modules: $RAN"
    run pq-merge --no-provenance -T1 --rank 2 party-1 five -o t1/; done_well
    run pq-merge --no-provenance -T4 --memory 16M --rank 2 party-1 five -o t4/; done_well
    same t1 t4
    run pq-merge --rank 2 base-llama lora -o x/; misused; absent x
    run pq-merge --rank 0 lora pattern -o x/; misused; absent x
    run pq-merge --energy 2 lora pattern -o x/; misused; absent x
    run pq-merge --rank 2 lora dora -o x/; refused 'lora_magnitude_vector: DoRA'; absent x
    # of another model
    run pq-extract "$ROOT"/testdata/blend/{base,a} -m '*q_proj.weight' -r 2 -o other/; done_well
    for o in '' '--rank 2' '--method ties' '--method fedavg'; do
        run pq-merge $o five other -o x/; refused 'its shape does not fit the other adapters'; absent x
    done
    mkdir nan && cp lora/adapter_config.json nan/
    pq-convert -m '*layers.0*' lora/adapter_model.safetensors -o nan/adapter_model.safetensors
    printf '\377\377\377\377' | dd of=nan/adapter_model.safetensors bs=1 conv=notrunc status=none \
        seek=$(($(wc -c < nan/adapter_model.safetensors) - 4))
    run pq-merge --rank 2 nan lora -o x/; refused 'NaN'; absent x
}
# methods of models on adapters: of what the adapters do, then of a low rank
by_method() {
    local m
    for m in ties dare_linear dare_ties magnitude_prune della_linear breadcrumbs model_stock task_arithmetic; do
        run pq-merge --no-provenance -T1 --method $m party-1 mix -o t1/; done_well
        run pq-merge --no-provenance -T4 --memory 16M --method $m party-1 mix -o t4/; done_well
        same t1 t4
    done
    # all of everything is the sum
    for m in ties dare_linear magnitude_prune task_arithmetic; do
        run pq-merge --method $m --no-normalize party-1:0.5 party-1:0.25 -o s/; done_well
        run pq-merge -q -t f32 base-llama s -o a.safetensors; done_well
        run pq-merge -q -t f32 base-llama party-1:0.75 -o b.safetensors; done_well
        run pq-diff -q --tolerance 1e-6 a.safetensors b.safetensors
        [ $RC = 0 ] || bad "$m of everything is not the sum: $RAN"
    done
    grep -q '"r": 3' s/adapter_config.json || bad "not the largest rank: $RAN"
    run pq-merge -v --method ties --density 0.5 --rank 4 party-1:0.5 five:0.8 -o s/
    grep -q 'layers.0.self_attn.q_proj: rank 4, relative error 0.408[78]$' "$err" || bad "not the golden's error: $RAN"
    run pq-merge -n --method ties --density 0.5 --energy 0.8 party-1:0.5 five:0.8 -o x/; absent x
    [ $RC = 0 ] || bad "rc $RC: $RAN"
    run pq-merge --no-provenance --method dare_ties --density 0.5 --seed 1 party-1 mix -o t1/; done_well
    run pq-merge --no-provenance --method dare_ties --density 0.5 --seed 1 party-1 mix -o t2/; done_well
    same t1 t2
    run pq-merge --no-provenance --method dare_ties --density 0.5 --seed 2 party-1 mix -o t2/; done_well
    cmp -s t1/adapter_model.safetensors t2/adapter_model.safetensors && bad "another seed is the same: $RAN"
    run pq-merge --method slerp --t 0.5 lora pattern -o x/; misused; absent x
    run pq-merge --method ties --base base-llama lora pattern -o x/; misused; absent x
    run pq-merge --method ties --gamma 0.1 lora pattern -o x/; misused; absent x
    run pq-merge --method ties base-llama lora -o x/; misused; absent x
    run pq-merge --density 0.5 lora pattern -o x/; misused; absent x
}
averaged() {
    run pq-merge --method fedavg party-1:30 party-2:10 -o s/; done_well
    same s/adapter_config.json party-1/adapter_config.json
    run pq-diff -q --tolerance 1e-6 s/adapter_model.safetensors "$A"/fedavg.safetensors
    [ $RC = 0 ] || bad "not the average: $RAN"
    # weights as large as counts of tokens
    run pq-merge --no-provenance --normalize party-1:30 party-2:10 -o t1/; done_well
    run pq-merge --no-provenance --normalize party-1:3e12 party-2:1e12 -o t4/; done_well
    same t1 t4
    run pq-merge --method fedavg party-1 five -o x/; refused 'rank 3 in'; absent x
    run pq-merge --method fedavg --rank 2 party-1 party-2 -o x/; misused; absent x
    run pq-merge --method fedavg base-llama base-llama -o x/; misused; absent x
}

# ---- pq-extract of an adapter -----------------------------------------------
resized() {
    run pq-extract --resize lora --rank 2 -o r/; done_well
    grep -q '"r": 2' r/adapter_config.json || bad "not of rank 2: $RAN"
    run pq-extract --resize pattern --rank 3 -o r/; done_well
    grep -q 'q_proj": 2' r/adapter_config.json || bad "no rank below 3: $RAN"
    run pq-extract --resize pattern --rank 9 -o r/; done_well # no more than it has
    ends_alike 1e-6 base-llama pattern r
    run pq-extract --resize rslora --max-error 0.000001 -o r/; done_well
    ends_alike 1e-6 base-llama rslora r
    run pq-extract -v --resize lora --energy 0.9 -o r/
    [ "$(grep -c 'rank [1-4], relative error 0\.' "$err")" = 6 ] || bad "not 6 lines: $RAN"
    run pq-extract --json --resize lora --rank 2 -o r/; done_well
    [ "$(grep -o '"rank":2,"error":0\.' "$out" | wc -l)" = 6 ] || bad "not 6 modules: $RAN"
    run pq-extract --resize lora --rank 2 -t bf16 -o r/; done_well
    pq-info r | grep -q BF16 || bad "not bf16: $RAN"
}
size_is_kept() {
    local s
    for s in 7K 8K 20K; do
        run pq-extract --resize five --max-size $s -o r/; done_well
        [ "$(cat r/* | wc -c)" -le $((${s%K} * 1024)) ] || bad "more than $s: $RAN"
        run pq-extract -n --resize five --max-size $s -o r/
        [ "$(tail -n 1 "$out")" = "$(cat r/* | wc -c)" ] || bad "another size: $RAN"
    done
    run pq-convert five -o five.pq; done_well
    run pq-extract --no-provenance --resize five --rank 2 -o r1/; done_well
    run pq-extract --no-provenance --resize five.pq --rank 2 -o r2/; done_well
    same r1 r2
    run pq-extract --resize five --max-size 1K -o x/; refused 'max-size'; absent x
}
carried() {
    local d
    for d in save tokens bias-all lora-bias embedding; do
        run pq-extract --resize $d --rank 4 -o r/; done_well
        ends_alike 1e-6 base-llama $d r
    done
    run pq-extract --resize conv1d --rank 4 -o r/; done_well
    ends_alike 1e-6 base-gpt2 conv1d r
}
plain() {
    run pq-extract --plain rslora -o p/; done_well
    ends_alike 1e-6 base-llama rslora p
    grep -q '"use_rslora": false' p/adapter_config.json || bad "still rslora: $RAN"
    run pq-extract --plain pattern -o p/; done_well
    ends_alike 1e-6 base-llama pattern p
    run pq-extract --plain dora base-llama --rank 16 -o p/; done_well
    ends_alike 1e-6 base-llama dora p
    grep -q '"use_dora": false' p/adapter_config.json || bad "still DoRA: $RAN"
    pq-info p | grep -q magnitude && bad "a magnitude: $RAN"
    run pq-extract --plain dora-embedding base-llama --rank 16 -o p/; done_well
    ends_alike 1e-6 base-llama dora-embedding p
    run pq-extract --plain conv1d-dora base-gpt2 --rank 16 -o p/; done_well
    ends_alike 1e-6 base-gpt2 conv1d-dora p
    run pq-extract --plain -v dora base-llama -o p/ # twice the rank
    [ "$(grep -c 'rank 8, relative error 0' "$err")" = 6 ] || bad "not of rank 8: $RAN"
    run pq-merge p lora -o s/; done_well # which DoRA cannot
}
# what a start took out of the base is in the adapter then
starts() {
    local base a
    for a in pissa pissa-rslora olora; do
        run pq-extract --plain $a base-llama -o p/; done_well
        ends_alike 2e-6 base-llama $a p
        grep -q '"init_lora_weights": true' p/adapter_config.json || bad "still $a: $RAN"
    done
    for a in pissa-conv1d olora-conv1d; do
        run pq-extract --plain $a base-gpt2 -o p/; done_well
        ends_alike 2e-6 base-gpt2 $a p
    done
    run pq-extract --plain pissa base-llama -o p/; done_well
    grep -q '"r": 8' p/adapter_config.json || bad "not twice the rank: $RAN"
    run pq-extract --plain pissa base-llama --rank 5 -o p/; done_well
    grep -q '"r": 5' p/adapter_config.json || bad "not rank 5: $RAN"
    run pq-merge p lora -o s/; done_well
    run pq-extract --plain pissa -o x/; refused 'is pissa, which is plain only on its base'; absent x
    run pq-extract --plain pissa-dora base-llama -o x/; refused 'is DoRA that began as pissa'; absent x
    run pq-extract --resize pissa --rank 2 -o x/; refused 'changed the base'; absent x
    cp -r pissa corda && sed -i 's/"pissa"/"corda"/' corda/adapter_config.json
    run pq-extract --plain corda base-llama -o x/; refused 'corda'; absent x
    run pq-extract --plain experts base-mixtral -o x/; refused 'target_parameters'; absent x
}
# plain DoRA on an encoded base is that on its decoded numbers
encoded() {
    run pq-quantize -t nf4 base-llama -o n/; done_well
    run pq-dequantize -t f32 n -o f/; done_well
    run pq-extract --no-provenance --plain dora n --rank 4 -o p/; done_well
    run pq-extract --no-provenance --plain dora f --rank 4 -o q/; done_well
    same p q
}
same_bytes() {
    run pq-extract --no-provenance -T1 --plain dora base-llama --rank 3 -o t1/; done_well
    run pq-extract --no-provenance -T4 --memory 16M --plain dora base-llama --rank 3 -o t4/; done_well
    same t1 t4
    run pq-extract --no-provenance -T1 --resize five --energy 0.8 -o t1/; done_well
    run pq-extract --no-provenance -T4 --memory 16M --resize five --energy 0.8 -o t4/; done_well
    same t1 t4
}
said_no() {
    run pq-extract --resize lora -o x/; misused; absent x
    run pq-extract --resize --plain lora --rank 2 -o x/; misused; absent x
    run pq-extract --resize lora base-llama --rank 2 -o x/; misused; absent x
    run pq-extract --resize lora --rank 2 --energy 0.5 -o x/; misused; absent x
    run pq-extract --resize lora --rank 2 -m '*' -o x/; misused; absent x
    run pq-extract --plain --embeddings lora -o x/; misused; absent x
    run pq-extract --resize dora --rank 2 -o x/; refused 'DoRA'; absent x
    run pq-extract --plain dora -o x/; refused 'give that, too'; absent x
    run pq-extract --plain dora base-gpt2 -o x/; refused 'no place for it'; absent x
    run pq-extract --plain base-llama -o x/; refused 'is a model'; absent x
    pq-convert base-llama -O pq | pq-extract --plain dora - -o x/ 2> "$err"
    grep -q 'read more than once' "$err" || bad "a base from a pipe: $(cat "$err")"
    absent x
}
for t in ranks by_method averaged resized size_is_kept carried plain starts encoded same_bytes said_no; do
    check "adapters $t" $t
done
finish
