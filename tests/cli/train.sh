#!/bin/bash
# pq-train: the loss it reports is what pq-eval measures (whose numbers are
# those of transformers), before training and, with what it wrote, after; a run
# that was interrupted gives the same bits; and what it refuses.
. "$(dirname "$0")/lib.sh"
in_scratch
cp -r "$MODEL" llama
cp -r "$ROOT/testdata/peft/base-gpt2" gpt2
cp "$ROOT/testdata/nn/heldout.jsonl" ids.jsonl
printf '{"ids":[1,5,3,7]}\n{"ids":[2,4,6,1,3]}\n' > few.jsonl
SO=$(preload ../inject.c)
all='-d ids.jsonl --batch 13 --no-shuffle --lr 1e-3'

# loss STEP: of standard output
loss() { grep "\"step\":$1,\"loss\"" "$out" | head -n 1 > one.json; number loss one.json; }
eval_nll() { pq-eval --json -d ids.jsonl "$@" > nll.json && number nll nll.json; }
# has MODEL PATTERN: among what pq-info tells of it
has() { pq-info "$1" > info; grep -q "$2" info || bad "$1 has no $2: $RAN"; }

# Before a step of all data the loss is that of pq-eval on what was written
# after the step before.
losses() {
    local m nll last
    nll=$(eval_nll llama)
    for m in lora 'lora --dora' 'lora --rslora -r 4' 'lora --target-modules q_proj,v_proj' \
        'lora --init pissa -r 2' 'lora --lora-plus 8' full 'lora --pack' 'full --pack --recompute' \
        'lora --batch 1 --accumulate 13'; do
        rm -rf a b
        run pq-train --json $all --steps 3 --schedule constant --method $m -o b/ llama; done_well
        near "$(loss 1)" "$nll" 2e-6 || bad "$(loss 1) is not $nll: $RAN"
        case $m in *accumulate*) continue ;; esac
        last=$(loss 3)
        run pq-train -q $all --steps 2 --schedule constant --method $m -o a/ llama; done_well
        case $m in
            full*) near "$(eval_nll a)" "$last" 2e-6 || bad "$(number nll nll.json), not $last: $RAN" ;;
            *) near "$(eval_nll --adapter a llama)" "$last" 2e-5 ||
                bad "$(number nll nll.json), not $last: $RAN" ;;
        esac
        awk -v a="$last" -v b="$nll" 'BEGIN { exit !(a < b - 1e-4) }' || bad "learned nothing: $RAN"
    done
}
qlora() {
    pq-quantize -q -t nf4 --double-quant llama -o q.pq
    run pq-train --json $all --steps 2 --method qlora --no-provenance -o a/ llama; done_well
    near "$(loss 1)" "$(eval_nll q.pq)" 2e-6 || bad "$(loss 1) is not $(number nll nll.json): $RAN"
    cp "$out" a.json
    run pq-train --json $all --steps 2 --method qlora --no-provenance -o b/ q.pq; done_well
    same "$out" a.json
    same a/adapter_model.safetensors b/adapter_model.safetensors
    run pq-train $all --steps 1 --method full -o c/ q.pq; refused 'dequantize'
}
prompts() {
    local counted i
    run pq-train --json $all --steps 3 --method prompt --prompt-init text --prompt-text 'Max has a duck.' \
        -o p/ llama; done_well
    grep -q '"num_virtual_tokens": 7' p/adapter_config.json || bad "$(cat p/adapter_config.json): $RAN"
    has p 'F32 .*\[7, 64\].*prompt_embeddings'
    # the first token of a text counts, too
    counted=$(number tokens <(tail -n 1 "$out"))
    [ "$counted" = 779 ] || bad "$counted tokens: $RAN"
    awk -v a="$(loss 3)" -v b="$(loss 1)" 'BEGIN { exit !(a < b) }' || bad "learned nothing: $RAN"
    run pq-train --json $all --steps 1 --method prompt --init-adapter p -o p2/ llama; done_well
    near "$(loss 1)" "$(number loss <(pq-train --json $all --steps 4 --schedule constant --method prompt \
        --prompt-init text --prompt-text 'Max has a duck.' -o p3/ llama | sed -n 4p))" 0.2 || bad "$RAN"
    mkdir prefix
    cp p/adapter_* prefix
    sed -i 's/PROMPT_TUNING/PREFIX_TUNING/' prefix/adapter_config.json
    run pq-train $all --method prompt --init-adapter prefix -o p3/ llama
    refused 'neither PROMPT_TUNING nor P_TUNING'
    for i in vocab random; do
        run pq-train --json $all --steps 1 --method prompt --prompt-tokens 4 --prompt-init $i -o p4/ llama
        done_well
    done
    run pq-train -q $all --steps 2 --method hybrid -r 2 --prompt-tokens 3 -o h/ llama; done_well
    has h/lora lora_A
    has h/prompt '\[3, 64\]'
    run pq-eval -d ids.jsonl --adapter h/lora llama; done_well
}
sparse() {
    run pq-train -q $all --steps 8 --method sparse -s 0.5 -o s/ llama; done_well
    # half of the weights of all linear layers but the head, and a pad token
    pq-info --json --sparsity s > s.json
    grep -q '"sparsity":{"elements":312000,"zeros":122944,' s.json || bad "other zeros: $RAN"
    run pq-train -q $all --steps 8 --method sparse -s 0.5 --regrow 0.2 -o s2/ llama; done_well
    run pq-train $all --method sparse -o s3/ llama; misused
    run pq-train $all --method sparse -s 0.5 --round q4_0 -o s3/ llama; misused
    run pq-train $all --method full --round nf4 -o s3/ llama; misused
}
# What was trained for an encoding loses nothing in it, whatever the model's
# own type and the order of its weights; what is held is zero, the head is as
# it would be.
rounded() {
    local m t
    pq-quantize -q -t bf16 llama -o llama.bf16/
    pq-quantize -q -t f16 gpt2 -o gpt2.f16/
    for m in llama llama.bf16 gpt2 gpt2.f16; do
        for t in f16 bf16 int8 nf4; do
            rm -rf s q.pq
            run pq-train -q -d few.jsonl --steps 8 --lr 1e-3 --method sparse -s 0.4 --round $t -o s/ $m; done_well
            pq-info --json --sparsity s > s.json
            awk -v z="$(number zeros s.json)" -v n="$(number elements s.json)" \
                'BEGIN { exit !(z > 0.2 * n) }' || bad "$(number zeros s.json) zeros: $RAN"
            case $t.$m in # casts take all else, too
                *f16.gpt2*) set -- -m '*.c_*.weight' ;;
                *f16.*) set -- -m '*_proj.weight' ;;
                *) set -- ;;
            esac
            run pq-quantize -t $t s -o q.pq; done_well
            run pq-dequantize q.pq -o dq.safetensors; done_well
            run pq-diff -q "$@" s/model.safetensors dq.safetensors; done_well
            run pq-diff -q "$@" s/model.safetensors $m/model.safetensors
            [ $RC = 1 ] || bad "rc $RC: nothing was compared: $RAN"
        done
    done
}
# Interrupted after any step and with other threads, the same files.
resumed() {
    local m f
    for m in 'lora -r 2 --dora' full 'full --init random' 'prompt --prompt-tokens 2' 'lora -r 2 --init pissa' \
        'lora -r 2 --val ids.jsonl --val-every 3' 'lora -r 2 --pack --seq-len 40 --accumulate 2' \
        'sparse -s 0.6 --regrow 0.3' 'sparse -s 0.6 --round nf4 --val ids.jsonl --val-every 3' \
        'lora -r 2 --neftune 5 --accumulate 2'; do
        rm -rf a b c ./*.state.safetensors
        set -- pq-train --json -d ids.jsonl --batch 4 --lr 1e-3 --steps 7 --seed 3 --method $m
        run "$@" -T1 -o a/ llama; done_well; cp "$out" a.json
        run "$@" --until 4 -o b llama; done_well; cp "$out" b.json
        cp -r b c && cp b.state.safetensors c.state.safetensors
        run "$@" --resume -T3 -o b llama; done_well; cat "$out" >> b.json
        same a.json b.json
        for f in a/*; do same "$f" "b/${f#a/}"; done
    done
    run "$@" --resume --seed 4 -o b llama; refused 'b.state.safetensors: was begun with --seed 3'
    run "${@/ids.jsonl/few.jsonl}" --resume -o b llama; refused 'other data'
    run "$@" --resume -r 3 -o b llama; refused 'another training'
    run "$@" --resume -o never llama; refused 'never.state.safetensors'
    run "$@" --save-every 2 -o c llama # as who forgets --resume
    [ "$RC" = 0 ] || bad "rc $RC: $RAN"
    grep -q '^pq-train: warning: c.state.safetensors, at step 4, will be replaced' "$err" || bad "$(cat "$err"): $RAN"
    run "$@" --save-every 2 -o c llama; done_well # that of a finished run
    [ -s c.state.safetensors ] || bad "no state: $RAN"
    same c/adapter_model.safetensors a/adapter_model.safetensors
}
# The disk is full for good from the N-th write on: what was saved stays, whole,
# and what follows from it is what would have been.
full_disk() {
    local kind n
    set -- pq-train -q -d ids.jsonl --batch 4 --lr 1e-3 --steps 6 --save-every 2 -r 2 -T1 -o d
    mkdir saved
    for n in 2 4 6; do
        run "$@" --until $n llama; done_well
        cp -r d saved/$n; cp d.state.safetensors saved/$n.state
        rm -r d d.state.safetensors
    done
    sanitized && return # which do not get on with the library
    for kind in write fsync link; do
        for n in 1 2 3 5 8 13 21 34 55 89; do
            rm -rf d && cp -r saved/2 d && cp saved/2.state d.state.safetensors && rm -f mark
            run env PQ_FAIL=$kind:$n+ PQ_FAIL_MARK=$W/mark LD_PRELOAD="$SO" "$@" --resume llama
            [ -e mark ] || break
            [ $RC = 2 ] || bad "rc $RC after $kind:$n+: $RAN"
            whole saved/2.state saved/4.state saved/6.state d.state.safetensors
            whole saved/2 saved/4 saved/6 d
            ls -A | grep -q 'pq-' && bad "left: $(ls -A): $RAN"
            [ $n != 1 ] || { same d saved/2; same d.state.safetensors saved/2.state; }
            case $kind$n in # the first write tries the output, before any step
                write1) [ "$(wc -l < "$err")" = 1 ] || bad "$(cat "$err"): $RAN" ;;
                write2 | fsync1 | link1) grep -q '^pq-train: step 4: not saved: .*training goes on$' "$err" ||
                    bad "$(cat "$err"): $RAN" ;;
            esac
        done
        [ $n != 1 ] || bad "no call of $kind: $RAN"
    done
    run "$@" --resume llama; done_well
    same d saved/6
    # a call that fails once costs that checkpoint alone
    rm -rf d && cp -r saved/2 d && cp saved/2.state d.state.safetensors
    run env PQ_FAIL=write:2 LD_PRELOAD="$SO" "$@" --resume llama
    [ $RC = 0 ] || bad "rc $RC: $RAN"
    same d saved/6; same d.state.safetensors saved/6.state
}
# whole RIGHT... IS: one of them
whole() {
    local x=${!#}
    while [ $# -gt 1 ]; do
        diff -rq "$1" "$x" > /dev/null 2>&1 && return
        shift
    done
    bad "$x is none of those that were saved: $RAN"
}
start() {
    local nll
    # noise is added to what is trained on, the same each time, not to --val
    run pq-train --json $all --steps 1 --val ids.jsonl -o a/ llama; done_well; cp "$out" plain.json
    run pq-train --json $all --steps 1 --val ids.jsonl --neftune 5 -o a/ llama; done_well; cp "$out" noise.json
    near "$(loss 1)" "$(number loss plain.json)" 1e-3 && bad "no noise: $RAN"
    near "$(number val_loss noise.json)" "$(number val_loss plain.json)" 0.02 || bad "noise in --val: $RAN"
    run "pq-train" --json $all --steps 1 --val ids.jsonl --neftune 5 -T1 -o a/ llama; same "$out" noise.json
    run pq-train -q $all --steps 2 -r 3 --target-modules v_proj,o_proj --rslora -o a/ llama; done_well
    nll=$(eval_nll --adapter a llama)
    run pq-train --json $all --steps 1 --lr 1e-12 --init-adapter a -o b/ llama; done_well
    near "$(loss 1)" "$nll" 2e-5 || bad "$(loss 1) is not $nll: $RAN"
    same a/adapter_config.json b/adapter_config.json
    # the record of a run knows which adapter it was, wherever that is
    cp -r a elsewhere
    init() { # the option as pq-info tells it
        run pq-train -q $all --steps 1 --init-adapter "$1" -o c/ llama; done_well
        pq-info c | grep -o -- '--init-adapter xxh3:[0-9a-f]*'
    }
    [ -n "$(init a)" ] && [ "$(init a)" = "$(init elsewhere)" ] || bad "$(init a), $(init elsewhere): $RAN"
    [ "$(init a)" != "$(init b)" ] || bad "$(init b) of two adapters: $RAN"
    run pq-train $all --steps 1 --rank 3 --init-adapter a -o b/ llama; misused
    run pq-train $all --steps 1 --init-adapter llama -o b/ llama; refused llama
}
# From config.json and a tokenizer alone, which knows nothing at first.
fresh() {
    local n cpu m
    rm -rf a b h s # of other checks
    mkdir empty
    cp llama/*.json empty
    set -- pq-train --json $all --schedule constant --lr 4e-3 --method full --init random
    run "$@" --steps 12 -T1 -o a/ empty; done_well
    near "$(loss 1)" 6.238 0.02 || bad "$(loss 1) is not log 512: $RAN"
    near "$(eval_nll a)" 4.42 0.1 || bad "$(number nll nll.json): $RAN"
    [ "$(cd a && echo *)" = "$(cd llama && echo c*.json g*.json model.safetensors t*.json)" ] || bad "$(ls a): $RAN"
    for cpu in scalar avx2; do
        PQ_CPU=$cpu run "$@" --steps 12 -T3 -o b/ empty; done_well
        same a/model.safetensors b/model.safetensors
    done
    run "$@" --steps 12 --seed 1 -o b/ empty; done_well
    ! cmp -s a/model.safetensors b/model.safetensors || bad "the same for another seed: $RAN"
    # weights that are there are not looked at
    echo no weights > empty/model.safetensors
    run "$@" --steps 12 -o b/ empty; done_well
    same a/model.safetensors b/model.safetensors
    run "$@" -n --steps 12 empty; done_well
    run pq-train -n -d ids.jsonl --method full --init random -o n/ empty; done_well
    grep -q '^trains 312000 numbers in 2 steps on 13 texts of 779 tokens$' "$out" || bad "$(head -n 1 "$out"): $RAN"
    n=$(tail -n 1 "$out")
    pq-train -q -d ids.jsonl --method full --init random -o n/ empty
    [ "$(cat n/* | wc -c)" = "$n" ] || bad "$(cat n/* | wc -c) bytes: $RAN"
    run pq-train -q $all --steps 4 --method sparse -s 0.5 --init random -o s/ empty; done_well
    sed -i 's/"dtype": "float32"/"dtype": "bfloat16"/' empty/config.json
    run pq-train -q $all --steps 1 --method full --init random -o h/ empty; done_well
    has h 'BF16 .*lm_head.weight'
    has h '312000 parameters, 609'

    for m in lora 'lora --init-adapter a' prompt qlora; do
        run pq-train $all --init random --method $m -o x/ empty; misused
    done
    run pq-train $all --method full --init random -o x/; misused
    run pq-train $all --method full --init random -o x/ -; misused
    run pq-train $all --method full --init random -o x/ none; refused 'none: No such file'
    pq-convert llama -o llama.pq
    run pq-train $all --method full --init random -o x/ llama.pq; refused 'llama.pq: Not a directory'
    sed -i '/hidden_size/d' empty/config.json
    run pq-train $all --method full --init random -o x/ empty; refused 'empty: config.json: hidden_size is missing'
    rm empty/config.json
    run pq-train $all --method full --init random -o x/ empty; refused 'empty: has no config.json'
    [ ! -e x ] || bad "something was written: $RAN"
}
validation() {
    local best
    run pq-train --json -d few.jsonl --steps 12 --lr 0.05 --schedule constant --method full --val ids.jsonl \
        --val-every 2 -o v/ llama; done_well
    best=$(grep -o '"val_loss":[0-9.]*' "$out" | cut -d: -f2 | sort -g | head -n 1)
    near "$(eval_nll v)" "$best" 2e-6 || bad "$(number nll nll.json) is not the best, $best: $RAN"
    run pq-train --json -d few.jsonl --steps 50 --lr 0.05 --schedule constant --method full --val ids.jsonl \
        --val-every 1 --patience 2 -o v/ llama; done_well
    [ "$(grep -c val_loss "$out")" -lt 50 ] || bad "went on: $RAN"
}
mask() {
    printf '%s\n' '{"prompt":"Who?","completion":" Max"}' '{"ids":[1,5,6]}' \
        '{"prompt":"1","choices":["a","b"],"answer":1}' > m.jsonl
    run pq-train --show-mask -d m.jsonl llama; done_well
    [ "$(awk -F'\t' '$1 == 2 { print $2, $3, $4 }' "$out" | tr '\n' ';')" = "0 1 -;1 5 train;2 6 train;" ] ||
        bad "$(cat "$out"): $RAN"
    # the completion alone, and the right choice alone
    [ "$(awk -F'\t' '$1 == 1 && $4 == "train"' "$out" | cut -f5 | tr -d '"\n')" = 'ĠMax</s>' ] || bad "$(cat "$out"): $RAN"
    [ "$(awk -F'\t' '$1 == 3 && $4 == "train"' "$out" | cut -f5 | tr -d '"\n')" = 'b</s>' ] || bad "$(cat "$out"): $RAN"
    # pieces share a token
    run pq-train --show-mask --seq-len 20 -d ids.jsonl llama; done_well
    [ "$(grep -c 'train' "$out")" = 766 ] || bad "$(grep -c train "$out") tokens: $RAN"
}
# of a conversation the assistant's turns, found as the template writes them
conversations() {
    local nll
    cp -r llama chat; cp "$ROOT/testdata/chat/small.jinja" chat/chat_template.jinja
    echo '{"messages":[{"role":"user","content":"Who?"},{"role":"assistant","content":"Max"},{"role":"user","content":"Max?"},{"role":"assistant","content":" The cat "}]}' > c.jsonl
    run pq-train --show-mask -d c.jsonl chat; done_well
    [ "$(awk -F'\t' '{ print $4 == "train" ? $5 : "-" }' "$out" | uniq | tr -d '"\n')" = '-ĠMax</s>-ĠTheĠcat</s>-' ] ||
        bad "$(cat "$out"): $RAN"
    # {% generation %} says it, also where turns are written otherwise later
    printf '%s' '{% for m in messages %}{% generation %}{{ m.content ~ loop.length }}{% endgeneration %};{% endfor %}' > chat/chat_template.jinja
    run pq-train --show-mask -d c.jsonl chat; done_well
    [ "$(awk -F'\t' '$4 != "train"' "$out" | wc -l)" = 5 ] || bad "$(cat "$out"): $RAN"
    printf '%s' '{% for m in messages %}{{ m.content ~ loop.length }};{% endfor %}' > chat/chat_template.jinja
    run pq-train --show-mask -d c.jsonl chat; refused 'c.jsonl: line 1: the chat template writes message 1'
    cp "$ROOT/testdata/chat/small.jinja" chat/chat_template.jinja
    # pq-eval scores the same tokens
    run pq-eval --json --per-token -d c.jsonl chat; done_well
    nll=$(number nll "$out")
    [ "$(grep -o '[0-9.]*[0-9]' < <(sed 's/.*per_token//' "$out") | wc -l)" = "$(number tokens "$out")" ] || bad "$(cat "$out"): $RAN"
    run pq-train --json --steps 1 -d c.jsonl -o talked/ chat; done_well
    near "$(loss 1)" "$nll" 2e-6 || bad "$(loss 1) is not $nll: $RAN"
    [ -e talked/adapter_config.json ] || bad "nothing written: $RAN"
    rm -rf talked
    # pieces that hold a part of a turn only
    run pq-train --show-mask --seq-len 8 -d c.jsonl chat; done_well
    [ "$(grep -c train "$out")" = 7 ] || bad "$(cat "$out"): $RAN"
    run pq-train --show-mask -d c.jsonl llama; refused 'line 1: the model has no chat template'
    echo '{"messages":[{"role":"user","content":"Who?"}]}' > c.jsonl
    run pq-train -d c.jsonl -o talked/ chat; refused 'no token to train on'
}
# trained OPTION...: the tokens of e.jsonl that are trained on, a line a line
trained() {
    run pq-train --show-mask -d e.jsonl "$@"; done_well
    TRAINED=$(awk -F'\t' '$1 != was { printf "%s", (was ? ";" : ""); was = $1 }
        $4 == "train" { gsub("\"", "", $5); printf "%s", $5 }' "$out")
}
# Texts end with what the tokenizer has for that, once; ids do not.
ends() {
    printf '%s\n' '{"prompt":"1","completion":"2"}' '{"text":"1"}' '{"text":"1</s>"}' '{"ids":[1,5]}' > e.jsonl
    cp -r llama other
    trained llama; [ "$TRAINED" = '2</s>;1</s>;1</s>;#' ] || bad "$TRAINED: $RAN"
    trained --no-eos llama; [ "$TRAINED" = '2;1;1</s>;#' ] || bad "$TRAINED: $RAN"
    sed -i 's|"</s>"|{"__type":"AddedToken","content":"<pad>","lstrip":false}|' other/tokenizer_config.json
    trained other; [ "$TRAINED" = '2<pad>;1<pad>;1</s><pad>;#' ] || bad "$TRAINED: $RAN"
    sed -i 's|"eos_token": {.*},|"eos_token": null,|' other/tokenizer_config.json
    trained other; [ "$TRAINED" = '2;1;1</s>;#' ] || bad "$TRAINED: $RAN"
    sed -i '/eos_token/d' other/tokenizer_config.json
    trained other; [ "$TRAINED" = '2</s>;1</s>;1</s>;#' ] || bad "$TRAINED: $RAN"
    echo '{"eos_token":"<s>"}' > other/special_tokens_map.json
    trained other; [ "$TRAINED" = '2<s>;1<s>;1</s><s>;#' ] || bad "$TRAINED: $RAN"
    echo '[]' > other/special_tokens_map.json
    run pq-train --show-mask -d e.jsonl other; refused 'special_tokens_map.json: is not'
}
plan() {
    local n
    run pq-train -n -d ids.jsonl --method full -o m/ llama; done_well
    grep -q '^trains 312000 numbers in 2 steps on 13 texts of 779 tokens$' "$out" || bad "$(head -n 1 "$out"): $RAN"
    [ ! -e m ] || bad "wrote: $RAN"
    n=$(tail -n 1 "$out")
    pq-train -q -d ids.jsonl --method full -o m/ llama
    [ "$(cat m/* | wc -c)" = "$n" ] || bad "$(cat m/* | wc -c) bytes: $RAN"
    run pq-train -n --json -T1 -d ids.jsonl --steps 1 --batch 13 llama; done_well
    n=$(number memory "$out")
    run pq-train -v -T1 -d ids.jsonl --steps 1 --batch 13 --memory $((n - 4096)) -o r/ llama
    grep -q recomputes "$err" || bad "$(cat "$err"): $RAN"
    run pq-train -q -d ids.jsonl --steps 1 --batch 13 -o f/ llama; done_well
    same r/adapter_model.safetensors f/adapter_model.safetensors
    run pq-train -d ids.jsonl --steps 1 --batch 200 --memory 27M -o r/ llama; refused -- '--memory'
    run pq-train -q -d few.jsonl --steps 3 --plot p.svg -o f/ llama; done_well
    grep -q '</svg>' p.svg || bad "no picture: $RAN"
    rm -rf f
    run pq-train -q -d few.jsonl --steps 3 --plot f/p.svg -o f/ llama; done_well # where f is yet to be
    same f/p.svg p.svg
    run pq-train -q -d few.jsonl --steps 3 --plot none/p.svg -o none-yet/ llama; refused 'none/p.svg: No such'
    absent none-yet # told before the work
    run pq-train -q -d few.jsonl --steps 2 -r 1 -o g/ gpt2; done_well
    grep -q '"fan_in_fan_out": true' g/adapter_config.json || bad "$(cat g/adapter_config.json): $RAN"
    run pq-eval -d few.jsonl --adapter g gpt2; done_well
}
# What -n says that it takes is what it takes, at most a tenth more.
memory() {
    local i m n p l ts=('model.embed_tokens.weight=F32[8192,256]normal' 'lm_head.weight=F32[8192,256]normal'
        'model.norm.weight=F32[256]step')
    sanitized && return
    for i in 0 1 2 3; do
        l=model.layers.$i
        ts+=("$l.input_layernorm.weight=F32[256]step" "$l.post_attention_layernorm.weight=F32[256]step")
        for n in q k v o; do ts+=("$l.self_attn.${n}_proj.weight=F32[256,256]normal"); done
        for n in gate up; do ts+=("$l.mlp.${n}_proj.weight=F32[768,256]normal"); done
        ts+=("$l.mlp.down_proj.weight=F32[256,768]normal")
    done
    mkdir big
    $H st big/model.safetensors "${ts[@]}" || bad 'no model'
    sed -e '/"\(layer_types\|head_dim\)"/d' -e 's/"hidden_size": [0-9]*/"hidden_size": 256/' \
        -e 's/"intermediate_size": [0-9]*/"intermediate_size": 768/' -e 's/"num_hidden_layers": [0-9]*/"num_hidden_layers": 4/' \
        -e 's/"num_attention_heads": [0-9]*/"num_attention_heads": 4/' -e 's/"vocab_size": [0-9]*/"vocab_size": 8192/' \
        -e 's/"num_key_value_heads": [0-9]*/"num_key_value_heads": 4/' llama/config.json > big/config.json
    cat ids.jsonl ids.jsonl > val.jsonl
    for m in lora full qlora prompt 'lora --init pissa -r 32' 'lora --dora --lora-plus 4 --batch 4' 'full --recompute' \
        'full --val val.jsonl' 'full --init random --memory 1G' 'sparse -s 0.5' 'sparse -s 0.5 --round nf4 --save-every 1'; do
        rm -rf o o.state.safetensors
        set -- pq-train -d ids.jsonl --steps 2 -T2 --neftune 5 --method $m -o o/ big
        run "$@" --json -n; done_well
        n=$(number memory "$out")
        run $H rss peak "$@" -q; done_well
        p=$(cat peak)
        awk -v p="$p" -v n="$n" 'BEGIN { exit !(1024 * p <= n && n <= 1.1 * 1024 * p) }' ||
            bad "takes $p KiB, not $((n / 1024)): $RAN"
    done
}
refusals() {
    run pq-train -o x/ llama; misused
    run pq-train -d - -o x/; misused
    run pq-train -d few.jsonl --method nope -o x/ llama; misused
    run pq-train -d few.jsonl --method full --rank 3 -o x/ llama; misused
    run pq-train -d few.jsonl --method lora --prompt-tokens 3 -o x/ llama; misused
    run pq-train -d few.jsonl --steps 3 --epochs 3 -o x/ llama; misused
    run pq-train -d few.jsonl --decay 3 -o x/ llama; misused
    run pq-train -d few.jsonl --patience 3 -o x/ llama; misused
    run pq-train -d few.jsonl --resume llama; misused
    run pq-train -d few.jsonl --target-modules q_proj,, -o x/ llama; misused
    run pq-train -d few.jsonl --target-modules nope -o x/ llama
    refused 'called nope, but q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj'
    : > empty.jsonl
    run pq-train -d empty.jsonl -o x/ llama; refused 'empty.jsonl: holds no example'
    echo '{"ids":[1]}' > one.jsonl
    run pq-train -d one.jsonl -o x/ llama; refused 'no token to train on'
    echo '{"ids":[1,512]}' > big.jsonl
    run pq-train -d big.jsonl -o x/ llama; refused 'big.jsonl: line 1: id 512'
    echo "{\"ids\":[1$(printf ',5%.0s' $(seq 256))]}" > long.jsonl
    run pq-train -d long.jsonl -o x/ llama; refused 'long.jsonl: line 1: 257 tokens'
    run pq-train -d long.jsonl --seq-len 257 -o x/ llama; refused '256 positions'
    run pq-train -q -d long.jsonl --seq-len 256 -o y/ llama; done_well
    # what cannot be written is said before anything is trained
    set -- -d few.jsonl --steps 100000000 llama
    run pq-train "$@" -o llama/; refused 'llama/: not replaced'
    run pq-train "$@" -o no/such/; refused 'no/such/: No such file'
    run pq-train "$@" --method hybrid -o no/such/; refused 'no/such/: No such file'
    run pq-train "$@" --method full -o no/such.pq; refused 'no/such.pq: No such file'
    run pq-train "$@" -o m.odd -O gguf; misused
    mkdir notes && echo mine > notes/mine.txt
    run pq-train "$@" -o notes/; refused 'mine.txt'
    run pq-train -d few.jsonl --steps 3 --lr 1e30 --clip 0 --method hybrid -o x llama; refused 'step 2: '
    absent x
    set -- -d few.jsonl --steps 9 --lr 1e30 --clip 0 --method full
    run pq-train "$@" -o x/ llama; refused 'step 2: the loss is nan'
    absent x
    # the last good one is kept
    run pq-train "$@" --save-every 1 --no-provenance -o x/ llama; refused 'step 2: the loss is nan'
    run pq-train "$@" --until 1 --no-provenance -o one/ llama; done_well
    same x one
    same x.state.safetensors one.state.safetensors
    rm -r x
    run pq-train -d few.jsonl --neftune 0 -o x/ llama; misused
}

for c in ${*:-losses qlora prompts sparse rounded resumed full_disk start fresh validation mask conversations \
    ends plan memory refusals}; do
    check "train $c" $c
done
finish
