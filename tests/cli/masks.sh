#!/bin/bash
# Masks: --mask-out, --mask and --mask-op against torch's (testdata/masks), in
# every way of pruning; files and pipes, what does not go together, masks of
# other models, outputs that fail.  And pq-info --sparsity, on what came out.
. "$(dirname "$0")/lib.sh"
in_scratch
cp "$ROOT"/testdata/masks/*.safetensors .
cp -r "$ROOT"/testdata/tiny-llama llama
cp "$ROOT/testdata/prune_data/model.safetensors" data.safetensors
cp "$ROOT"/testdata/prune_data/{norms,hessian}.safetensors .
P="pq-prune --no-sync --no-provenance"

equal() { # A B: the same tensors
    run pq-diff "$1" "$2"
    [ $RC = 0 ] || bad "$1 and $2 differ: $(tail -n 1 "$out")"
}
# what_is FILE KEY: that of the whole model, from --sparsity
what_is() { pq-info --sparsity --json "$1" | grep -o "\"$2\":[^,}]*" | head -n 1; }

goldens() {
    local op
    run $P -s 0.5 -m '*' --mask-out o.safetensors model.safetensors -o /dev/null; done_well
    equal o.safetensors l1.safetensors
    for op in and or; do
        run $P -s 0.5 -m '*' --mask random.safetensors --mask-op $op --mask-out o.pq model.safetensors -o /dev/null; done_well
        equal o.pq $op.safetensors
        run $P --mask random.safetensors --mask l1.safetensors --mask-op $op --mask-out o.pq model.safetensors -o m.pq; done_well
        equal o.pq $op.safetensors
        # what was pruned with others' mask is what the golden mask makes of it
        run $P --mask $op.safetensors model.safetensors -o n.pq; done_well
        same m.pq n.pq
    done
    run $P --mask random.safetensors --mask l1.safetensors model.safetensors -o n.pq; done_well
    run $P --mask l1.safetensors n.pq -o m.pq; done_well
    same n.pq m.pq
}

# after each way: the mask makes the same of the input, and nothing of the output
every_way() {
    local way in=data.safetensors
    for way in '-s 0.5' '-s 0.4 --scope global' '-s 0.3 --scope row' '--pattern 2:4' '-s 0.5 --blocks 4x4' \
        '--threshold 0.2' '--rule *q_proj*=0.7' '-s 0.5 --norms norms.safetensors' \
        '--pattern 2:4 --norms norms.safetensors'; do
        run $P $way $in --mask-out k.pq -o a.pq; done_well
        run $P --mask k.pq $in -o b.pq; done_well
        same a.pq b.pq
        run $P --mask k.pq --mask-out l.pq a.pq -o b.pq; done_well
        same a.pq b.pq
        same k.pq l.pq
        run $P $way $in -T4 --mask-out l.pq -o b.pq; done_well
        same a.pq b.pq
        same k.pq l.pq
        PQ_CPU=scalar run $P $way -T1 --mask-out l.pq -o b.pq $in; done_well
        same k.pq l.pq
        pq-convert -O pq $in | $P $way --mask-out l.pq -o b.pq || bad "rc $? from a pipe: $way"
        same k.pq l.pq
    done
    # what stays has changed: the mask is of what is left
    run $P -s 0.5 --hessian hessian.safetensors $in --mask-out k.pq -o a.pq; done_well
    run $P --mask k.pq a.pq -o b.pq; done_well
    same a.pq b.pq
}

# the mask tells how many zeros there are
sparsity() {
    local n way
    for way in '-s 0.5' '--pattern 2:4' '--pattern 1:4' '--pattern 3:8 -x *up_proj*'; do
        run $P $way data.safetensors --mask-out k.pq -o a.pq; done_well
        run pq-info --sparsity a.pq; done_well
        case $way in
            *3:8*) [ "$(grep -c 'pattern .*3:8' "$out")" = 2 ] || bad "no 3:8: $(grep pattern "$out")" ;;
            *:*) n=$(grep -c "pattern ${way#* }" "$out")
                [ "$n" = 3 ] || bad "${way#* } of $n: $(grep pattern "$out")" ;;
        esac
        cp "$out" text
        # the mask tells the same of the same weights
        run pq-info --sparsity k.pq; done_well
        grep '^  ' "$out" > b.txt; grep -A2 -F -f <(grep ^mask "$out" | awk '{ print $NF }') text | grep '^  ' > a.txt
        same a.txt b.txt
        [ -s a.txt ] || bad "nothing is told: $way"
        pq-info --sparsity - < a.pq | sed "s/^-:/a.pq:/" > text2
        same text text2
    done
    run $P -s 0.5 data.safetensors -o a.pq; done_well
    [ "$(what_is a.pq zeros)" = '"zeros":1848' ] || bad "$(what_is a.pq zeros)"
    run $P --mask l1.safetensors model.safetensors -o b.pq; done_well
    pq-info --sparsity b.pq | grep '^  ' | sort > a.txt
    cat l1.safetensors | pq-info --sparsity | grep '^  ' | sort > b.txt
    same a.txt b.txt
    [ -s a.txt ] || bad "nothing is told"
    run pq-info --json l1.safetensors; done_well
    grep -qF '"shape":[12,2],"bytes":24,"mask_of":[3,4,10]' "$out" || bad "no shapes: $(cat "$out")"
    # zeros stay zeros through encodings, which are decoded to be counted
    for way in nf4 int8 f16; do
        pq-prune -s 0.5 llama | pq-quantize -t $way > q.pq
        run pq-info --sparsity -m '*_proj*' --json q.pq; done_well
        grep -q '"sparsity":{"elements":245760,"zeros":12[23]' "$out" ||
            bad "$way: $(head -c 300 "$out")"
    done
    run pq-info --sparsity --plot=p.svg llama; done_well
    grep -q '^<svg' p.svg && grep -q 'lm_head' p.svg && tail -n 1 p.svg | grep -q '</svg>' || bad 'no picture'
    run pq-info --plot=llama/model.safetensors llama; refused 'not replaced: it belongs to the input llama'
    run pq-info --plot=a.pq a.pq; refused 'a.pq: not replaced: it is the input'
}

pipes() {
    run $P -s 0.5 llama --mask-out k.pq -o a.pq; done_well
    $P --mask - llama -o b.pq < k.pq || bad "rc $?: a mask from stdin"
    same a.pq b.pq
    $P --mask <(cat k.pq) llama -o b.pq || bad "rc $?: a mask from a FIFO"
    same a.pq b.pq
    $P -s 0.5 llama --mask-out - -o b.pq > l.pq || bad "rc $?: a mask to stdout"
    same k.pq l.pq
    $P -s 0.5 --mask-out l.pq llama | cat > b.pq
    equal a.pq b.pq
    same k.pq l.pq
    # in another order, and compressed
    pq-convert --canonical -o l.safetensors k.pq && pq-convert -z -o l.pq l.safetensors
    run $P --mask l.pq --mask l.safetensors llama -o b.pq; done_well
    same a.pq b.pq
    pq-convert -O pq llama | $P --mask l.pq --memory=16M > b.pq
    equal a.pq b.pq
    # -n knows both sizes
    run $P -n -s 0.4 llama --mask-out k.pq -o a.pq; done_well
    grep -qx "beside it k.pq $(stat -c %s k.pq)" "$out" || bad "the size of the mask: $(tail -n 2 "$out")"
    [ "$(tail -n 1 "$out")" = "$(stat -c %s a.pq)" ] || bad "the size of the model: $(tail -n 1 "$out")"
    run $P -n --json -s 0.4 llama --mask-out k.pq -o a.pq; done_well
    grep -q "\"beside\":\[{\"file\":\"k.pq\",\"bytes\":$(stat -c %s k.pq)}\]" "$out" || bad "$(tail -c 100 "$out")"
}

# -m, -x and rules choose among what a mask has
choosing() {
    run $P -s 0.5 data.safetensors --mask-out k.pq -o a.pq; done_well
    run $P --mask k.pq -m '*q_proj*' data.safetensors -o b.pq; done_well
    run pq-diff -m '*q_proj*' a.pq b.pq; [ $RC = 0 ] || bad "-m: not what was asked"
    run pq-diff -x '*q_proj*' data.safetensors b.pq; [ $RC = 0 ] || bad "-m: more than was asked"
    run $P --mask k.pq --rule '*q_proj*=keep' data.safetensors -o b.pq; done_well
    run pq-diff -x '*q_proj*' a.pq b.pq; [ $RC = 0 ] || bad "keep: not what was asked"
    run pq-diff -m '*q_proj*' data.safetensors b.pq; [ $RC = 0 ] || bad "keep: more than was asked"
}

another_model() {
    run $P --mask l1.safetensors data.safetensors -o x.pq
    refused 'l1.safetensors: tensor a.weight: is not in data.safetensors: a mask of another model'
    $H st o.safetensors 'a.weight=F32[6,22]rand' 'b.weight=BF16[5,16]rand' 'c.weight=F32[33]rand' \
        'd.weight=F16[3,4,10]rand' 'e.weight=F32[4,64]rand'
    run $P --mask l1.safetensors o.safetensors -o x.pq
    refused 'o.safetensors: tensor a.weight: is [6, 22], and its mask in l1.safetensors is for [6, 21]'
    run $P --mask model.safetensors model.safetensors -o x.pq; refused 'model.safetensors: is no mask'
    head -c 500 l1.safetensors > cut.safetensors
    run $P --mask cut.safetensors model.safetensors -o x.pq; refused 'cut.safetensors: tensor a.weight: truncated'
    run $P -s 0.5 data.safetensors --mask-out k.pq -o a.pq; done_well
    pq-quantize -t nf4 data.safetensors -o q.pq
    run $P --mask k.pq q.pq -o x.pq; refused 'dequantize first'
    absent x.pq
}

options() {
    run $P --mask-op or -s 0.5 llama -o x.pq; misused
    run $P --mask l1.safetensors --mask-op xor llama -o x.pq; misused
    run $P --mask l1.safetensors -s 0.5 --hessian hessian.safetensors data.safetensors -o x.pq; misused
    run $P --mask l1.safetensors --norms norms.safetensors data.safetensors -o x.pq; misused
    run $P -s 0.5 --schedule 3 --mask-out x.pq; misused
    run $P -s 0.5 llama --mask-out -; misused
    run $P -s 0.5 llama --mask-out - -o -; misused
    run $P -s 0.5 llama --mask-out x.bin -o x.pq; misused
    run $P -s 0.5 --mask-out x.pq; [ $RC = 2 ] || bad "rc $RC: $RAN"
    run $P --mask-out x.pq llama -o y.pq; misused
    absent x.pq
}

# the mask takes nobody's place, and comes with its model or not at all
together() {
    mkdir -p there
    for f in x.pq ./x.pq "$PWD/x.pq"; do
        run $P -s 0.5 llama --mask-out "$f" -o x.pq; refused 'is in the place of the output'
    done
    run $P -s 0.5 llama --mask-out there/x.pq -o there; refused 'is in the place of the output'
    run $P -s 0.5 llama --mask-out there/ -o x.pq; misused
    run $P -s 0.5 data.safetensors --mask-out data.safetensors -o x.pq; refused 'not replaced: it is the input'
    run $P -s 0.5 llama --mask-out llama/x.pq -o x.pq; done_well # a new file there
    run $P -s 0.5 llama --mask-out llama/x.pq -o x.pq; refused 'not replaced: it belongs to the input llama'
    rm -f llama/x.pq x.pq
    run $P -s 0.5 llama --mask-out x.pq -o missing/y.pq; refused 'missing/y.pq'
    absent x.pq
    run $P -s 0.5 llama --mask-out missing/x.pq -o y.pq; refused 'missing/x.pq'
    absent y.pq
    run $P -s 0.5 llama --mask-out x.pq -o /dev/full; refused '/dev/full'
    absent x.pq
    run $P -s 0.5 llama --mask-out /dev/full -o y.pq; refused '/dev/full'
    absent y.pq
    cmp -s data.safetensors "$ROOT/testdata/prune_data/model.safetensors" || bad 'the input is another'
}
for t in goldens every_way sparsity pipes choosing another_model options together; do
    check "masks $t" $t
done
finish
