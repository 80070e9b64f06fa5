#!/bin/bash
# pq-prune with data: --norms and --hessian against the published rules
# (testdata/prune_data), what does not go together, files that do not fit.
# How good SparseGPT is is tests/test_sparsegpt.c.
. "$(dirname "$0")/lib.sh"
in_scratch
cp "$ROOT"/testdata/prune_data/*.safetensors .
cp -r "$ROOT"/testdata/tiny-llama llama
UP=model.layers.0.mlp.up_proj.weight
CASES='0.5 0.3 2of4'

# what_goes CASE: the options for it
what_goes() { case $1 in *of*) echo "--pattern ${1/of/:}" ;; *) echo "-s $1" ;; esac; }

wanda() {
    local c
    for c in $CASES; do
        run pq-prune $(what_goes $c) --norms norms.safetensors model.safetensors -o o.safetensors; done_well
        run pq-diff o.safetensors wanda-$c.safetensors; [ $RC = 0 ] || bad "not the published mask: $c"
    done
}
sparsegpt() {
    local c
    for c in $CASES; do
        run pq-prune $(what_goes $c) --hessian hessian.safetensors model.safetensors -o o.safetensors; done_well
        run pq-diff --tolerance 1e-5 o.safetensors sparsegpt-$c.safetensors
        [ $RC = 0 ] || bad "not the published weights: $c"
        # a tolerance would also take a small number for a zero
        zeros o.safetensors > a.txt; zeros sparsegpt-$c.safetensors > b.txt; same a.txt b.txt
        [ -s a.txt ] || bad "no zeros are told: $c"
    done
}
zeros() { pq-info --stats --json "$1" | grep -o '"zeros":[0-9]*'; }

# the same bytes however it is run
same_bytes() {
    local c d m
    for m in '--norms norms' '--hessian hessian'; do
        for c in $CASES; do
            d="$(what_goes $c) $m.safetensors"
            run pq-prune --no-provenance $d model.safetensors -T1 -o t1.pq; done_well
            run pq-prune --no-provenance $d model.safetensors -T4 -o t2.pq; done_well
            same t1.pq t2.pq
            PQ_CPU=scalar run pq-prune --no-provenance $d model.safetensors -o t2.pq; done_well
            same t1.pq t2.pq
            pq-convert -O pq model.safetensors | pq-prune --no-provenance $d -O pq > t2.pq || bad "from a pipe: $d"
            same t1.pq t2.pq
            # a second time it changes nothing
            run pq-prune --no-provenance $d t1.pq -o t2.pq; done_well
            run pq-diff t1.pq t2.pq; [ $RC = 0 ] || bad "not the same twice: $d"
        done
    done
}
# data in the other format, beside tensors that nobody asks for, without a kind
other_files() {
    local m
    for m in norms hessian; do
        run pq-prune --no-provenance -s 0.5 --$m $m.safetensors model.safetensors -o t1.pq; done_well
        pq-convert $m.safetensors -o d.pq
        run pq-prune --no-provenance -s 0.5 --$m d.pq model.safetensors -o t2.pq; done_well
        same t1.pq t2.pq
        sed 's/pq.kind/pq.kine/' $m.safetensors > d.safetensors
        run pq-prune --no-provenance -s 0.5 --$m d.safetensors model.safetensors -o t2.pq; done_well
        same t1.pq t2.pq
        run pq-prune -s 0.5 -m $UP --$m $m.safetensors model.safetensors -o t2.pq; done_well
        run pq-diff -m $UP t1.pq t2.pq; [ $RC = 0 ] || bad "$m: not the same alone"
        run pq-diff -x $UP model.safetensors t2.pq; [ $RC = 0 ] || bad "$m: more than was asked"
    done
}
options() {
    local m other file
    run pq-prune -s 0.5 --method magnitude model.safetensors -o t1.pq; done_well
    run pq-prune -s 0.5 model.safetensors -o t2.pq; done_well
    run pq-diff t1.pq t2.pq; [ $RC = 0 ] || bad "magnitude is not the default"
    run pq-prune -s 0.5 --scope row --method wanda --norms norms.safetensors model.safetensors -o o.pq; done_well
    run pq-diff o.pq wanda-0.5.safetensors; [ $RC = 0 ] || bad "--scope row is another wanda"
    run pq-prune -s 0.5 --method sparsegpt --hessian hessian.safetensors model.safetensors -o o.pq; done_well
    for m in wanda:norms sparsegpt:hessian; do
        file="--${m#*:} ${m#*:}.safetensors"
        run pq-prune -s 0.5 --method ${m%:*} model.safetensors -o x.pq; misused
        run pq-prune -s 0.5 --method magnitude $file model.safetensors -o x.pq; misused
        run pq-prune -s 0.5 --scope tensor $file model.safetensors -o x.pq; misused
        run pq-prune -s 0.5 --blocks 4x4 $file model.safetensors -o x.pq; misused
        run pq-prune -s 0.5 --schedule 4 $file; misused
        run pq-prune --threshold 0.1 $file model.safetensors -o x.pq; misused
    done
    run pq-prune -s 0.5 --method wanda --hessian hessian.safetensors model.safetensors -o x.pq; misused
    run pq-prune -s 0.5 --method sparsegpt --norms norms.safetensors model.safetensors -o x.pq; misused
    run pq-prune -s 0.5 --scope row --hessian hessian.safetensors model.safetensors -o x.pq; misused
    run pq-prune -s 0.5 --norms norms.safetensors --hessian hessian.safetensors model.safetensors -o x.pq; misused
    run pq-prune -s 0.5 --method obs model.safetensors -o x.pq; misused
    absent x.pq
}
rules() {
    local m
    for m in norms:wanda hessian:sparsegpt; do
        run pq-prune --rule '*up_proj*=0.3' --rule '*c_attn*=2:4' --rule '*=keep' \
            --${m%:*} ${m%:*}.safetensors model.safetensors -o o.safetensors; done_well
        run pq-diff --tolerance 1e-5 -m '*up_proj*' o.safetensors ${m#*:}-0.3.safetensors; [ $RC = 0 ] || bad "rule S: $m"
        run pq-diff --tolerance 1e-5 -m '*c_attn*' o.safetensors ${m#*:}-2of4.safetensors; [ $RC = 0 ] || bad "rule N:M: $m"
        run pq-diff -m '*q_proj*' o.safetensors model.safetensors; [ $RC = 0 ] || bad "rule keep: $m"
        # among patterns, too
        run pq-prune --pattern 2:4 --rule '*up_proj*=0.3' --${m%:*} ${m%:*}.safetensors model.safetensors -o o.safetensors
        done_well
        run pq-diff --tolerance 1e-5 -m '*up_proj*' o.safetensors ${m#*:}-0.3.safetensors; [ $RC = 0 ] || bad "rule beside 2:4: $m"
    done
}
# the digest of the data, not its name
provenance() {
    cp norms.safetensors other.safetensors
    run pq-prune -s 0.5 --norms norms.safetensors model.safetensors -o t1.pq; done_well
    run pq-prune -s 0.5 --norms other.safetensors model.safetensors -o t2.pq; done_well
    same t1.pq t2.pq
    pq-info t1.pq | grep -q -- '--norms xxh3:' || bad "no digest in the provenance"
}
do_not_fit() {
    local d
    run pq-prune -s 0.5 --norms llama model.safetensors -o x.pq; refused 'llama: is no regular file'
    run pq-prune -s 0.5 --norms absent.safetensors model.safetensors -o x.pq; refused absent.safetensors
    run pq-prune -s 0.5 --norms hessian.safetensors model.safetensors -o x.pq; refused "holds 'hessian', not norms"
    run pq-prune -s 0.5 --hessian norms.safetensors model.safetensors -o x.pq; refused "holds 'norms', not hessian"
    for d in norms hessian; do
        run pq-prune -s 0.5 --$d $d.safetensors llama -o x/; refused "model.layers.0.mlp.down_proj.weight: has no $d in"
        $H st d.safetensors "$UP=F32[8]norm"
        run pq-prune -s 0.5 --$d d.safetensors -m $UP model.safetensors -o x.pq; refused "$UP: has 132 inputs"
        $H st d.safetensors "$UP=F32[132,8]norm"
        run pq-prune -s 0.5 --$d d.safetensors -m $UP model.safetensors -o x.pq; refused "$UP: has 132 inputs"
        $H st d.safetensors "$UP=BF16[132]norm"
        run pq-prune -s 0.5 --$d d.safetensors -m $UP model.safetensors -o x.pq; refused "$UP: has 132 inputs"
        $H st m.safetensors 'w=F32[8]rand' && $H st d.safetensors 'w=F32[8]norm'
        run pq-prune -s 0.5 --$d d.safetensors -m w m.safetensors -o x.pq; refused 'tensor w: '
        pq-quantize -t nf4 model.safetensors -o m.safetensors
        run pq-prune -s 0.5 --$d $d.safetensors m.safetensors -o x.pq; refused 'dequantize first'
        run pq-prune --pattern 1:5 --$d $d.safetensors model.safetensors -o x.pq; refused 'groups of 5'
        head -c 1200 $d.safetensors > d.safetensors
        run pq-prune -s 0.5 --$d d.safetensors model.safetensors -o x.pq; refused d.safetensors
    done
    absent x; absent x.pq
}
bad_numbers() {
    local fill
    for fill in rand nan inf; do
        $H st d.safetensors "$UP=F32[132]$fill"
        run pq-prune -s 0.5 -m $UP --norms d.safetensors model.safetensors -o x.pq; refused "$UP: norm "
    done
    $H st d.safetensors "$UP=F32[132,132]nan"
    run pq-prune -s 0.5 -m $UP --hessian d.safetensors model.safetensors -o x.pq; refused "$UP: its hessian in d.safetensors"
    $H st d.safetensors "$UP=F32[132,132]rand"
    run pq-prune -s 0.5 -m $UP --hessian d.safetensors model.safetensors -o x.pq; refused 'is not positive definite'
    for fill in nan inf; do
        $H st m.safetensors "$UP=F32[12,132]$fill"
        run pq-prune -s 0.5 --hessian hessian.safetensors m.safetensors -o x.pq; refused "$UP: has NaN or infinite"
    done
    $H st m.safetensors "$UP=F32[12,132]nan"
    run pq-prune -s 0.5 --norms norms.safetensors m.safetensors -o x.pq; refused "$UP: element 1583 is NaN"
    run pq-prune -s 0.5 --norms norms.safetensors --allow-nonfinite m.safetensors -o o.pq; done_well
    absent x.pq
}
# it says which --memory would do, and that does
memory() {
    local m
    $H st m.safetensors 'l.0.mlp.up_proj.weight=F32[8,4096]' && $H st d.safetensors 'l.0.mlp.up_proj.weight=F32[4096,4096]eye'
    run pq-prune -s 0.5 --hessian d.safetensors m.safetensors -o x.pq
    refused 'l.0.mlp.up_proj.weight: is pruned as a whole and with its hessian, which needs --memory '
    absent x.pq
    m=$(grep -o -- '--memory [0-9]*M' "$err")
    run $H rss peak pq-prune -s 0.5 $m -T8 --hessian d.safetensors m.safetensors -o o.pq; done_well
    [ "$(cat peak)" -le $((${m//[!0-9]/} * 1024)) ] || bad "peak $(cat peak) KiB with $m"
}
missing_library() {
    local real=$(command -v pq-prune)
    mkdir -p empty
    # a library of that name that is none
    printf 'no library' > empty/libopenblas.so.0
    run env LD_LIBRARY_PATH=$PWD/empty "$real" -s 0.5 --hessian hessian.safetensors model.safetensors -o x.pq
    refused 'cannot load OpenBLAS'
    run env LD_LIBRARY_PATH=$PWD/empty "$real" -s 0.5 --norms norms.safetensors model.safetensors -o o.pq; done_well
    absent x.pq
}

for c in wanda sparsegpt same_bytes other_files options rules provenance do_not_fit bad_numbers memory missing_library; do
    check "prune-data $c" "$c"
done
finish
