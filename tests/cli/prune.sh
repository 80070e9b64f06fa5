#!/bin/bash
# pq-prune: what torch and Wanda leave of a model, byte for byte
# (testdata/prune, tests/oracle/make_prune.py); directories, pipes, rules,
# -v and --json; what is refused, and that nothing is written then.
. "$(dirname "$0")/lib.sh"
in_scratch
mkdir in && cp "$ROOT"/testdata/prune/* in/ && cp -r "$MODEL" in/tiny

goldens() {
    local name options n=0
    while IFS=$'\t' read -r name options; do
        n=$((n + 1))
        # shellcheck disable=SC2086
        set -- pq-prune --no-provenance $options in/model.safetensors
        run "$@" -o g.safetensors; done_well
        same g.safetensors in/$name.safetensors
        PQ_CPU=scalar run "$@" -T3 -o g.safetensors; done_well
        same g.safetensors in/$name.safetensors
        # once more changes nothing
        run "${@:1:$#-1}" in/$name.safetensors -o g.safetensors; done_well
        same g.safetensors in/$name.safetensors
    done < in/cases.tsv
    [ $n = 7 ] || bad "$n cases"
}
# every way in gives the same model
ways() {
    local scope
    pq-convert --no-provenance in/model.safetensors -o m.pq
    for scope in global tensor row; do
        set -- pq-prune --no-provenance -s 0.45 --scope $scope
        run "$@" in/model.safetensors -o w1.safetensors; done_well
        cat in/model.safetensors | "$@" -O safetensors | cat > w2.safetensors
        same w1.safetensors w2.safetensors
        cat m.pq | "$@" -O safetensors | cat > w2.safetensors
        same w1.safetensors w2.safetensors
        run "$@" m.pq -o w2.safetensors; done_well
        same w1.safetensors w2.safetensors
    done
}
directories() {
    run pq-prune -s 0.4 in/tiny -o d1/; done_well
    same in/tiny/config.json d1/config.json
    same in/tiny/tokenizer.json d1/tokenizer.json
    pq-prune --no-provenance -s 0.4 in/tiny -O pq | pq-convert --no-provenance -o d2/
    pq-prune --no-provenance -s 0.4 in/tiny -o d3/
    same d2/model.safetensors d3/model.safetensors
    # composed with what makes it small
    pq-prune -s 0.5 in/tiny | pq-quantize -t nf4 | pq-convert -o d4/ || bad 'a pipe of three'
    pq-verify d4 || bad 'd4 is not sound'
    grep -q bitsandbytes d4/config.json || bad 'no quantization_config'
}
# what is zero is so in every encoding (tests/test_kernels.c: in its place), so
# that there is nothing left to do
zeros_stay() {
    local t
    run pq-prune --no-provenance -s 0.3 in/tiny/model.safetensors -o z.safetensors; done_well
    for t in f16 bf16 f8_e4m3 f8_e5m2 int8 'int8_block --optimize' nf4 'nf4 --double-quant' fp4; do
        # shellcheck disable=SC2086
        pq-quantize -t $t z.safetensors -o zt.pq && pq-dequantize -t f32 zt.pq -o zd.safetensors ||
            bad "$t and back"
        run pq-prune -s 0.3 zd.safetensors -o zp.safetensors; done_well
        run pq-diff zd.safetensors zp.safetensors
        [ $RC = 0 ] || bad "$t lost zeros"
    done
}
selection() {
    run pq-prune -s 0.5 -m '*norm*' in/model.safetensors -o s.pq; done_well
    run pq-diff in/model.safetensors s.pq
    grep -q 'model.norm.weight$' "$out" || bad 'model.norm.weight is as it was'
    grep -qE '(proj|embed_tokens|lm_head|c_fc).weight$' "$out" && bad '-m takes other tensors'
    run pq-prune --json -s 0.5 -m '*norm*' in/model.safetensors -o s.pq
    grep -q '"name":"model.norm.weight","type":"F32","shape":\[40\],"bytes":160,"pruned":20,"zeros":20,"sparsity":0.5,' "$out" ||
        bad "$(cat "$out")"
    run pq-prune --json -s 0.5 -x '*.0.*' in/model.safetensors -o s.pq
    [ "$(grep -o '"name"' "$out" | wc -l)" = 2 ] || bad '-x takes other tensors'
    run pq-prune --json -s 0.5 in/model.safetensors -o s.pq
    grep -qE 'embed|norm|lm_head' "$out" && bad 'more than linear layers'
    run pq-prune -v -s 0.25 in/model.safetensors -o s.pq
    [ $RC = 0 ] && grep -qx 'pq-prune: model.layers.0.mlp.up_proj.weight \[24, 40\]: 240 zeros, sparsity 0.2500, error 0.[0-9]*' "$err" ||
        bad "$(cat "$err")"
    grep -q warning "$err" && bad 'a warning below one half'
    run pq-prune -v -s 0.5 in/model.safetensors -o s.pq
    grep -q 'warning: without data' "$err" || bad 'no warning at one half'
    run pq-prune -s 0.5 in/model.safetensors -o s.pq; done_well # but by default
}
rules() {
    printf '%s\n' '# some' '' '*up_proj*=1:4' '*.0.*=keep' > r.txt
    run pq-prune --json --rules r.txt -s 0.5 in/model.safetensors -o r.pq; done_well
    grep -q '"name":"model.layers.0.mlp.up_proj.weight"[^}]*"zeros":720,' "$out" || bad 'rule N:M'
    grep -q 'down_proj' "$out" && bad 'rule keep'
    grep -q '"name":"model.layers.1.mlp.gate_proj.weight"[^}]*"zeros":64,' "$out" || bad 'no rule'
    run pq-prune --json --rule '*gate*=0.25' in/model.safetensors -o r.pq; done_well
    [ "$(grep -o '"name"' "$out" | wc -l)" = 1 ] && grep -q '"zeros":32,' "$out" || bad 'a rule alone'
    run pq-prune --json --scope global -s 0.5 --rule '*gate*=0.25' in/model.safetensors -o r.pq; done_well
    grep -q '"name":"model.layers.1.mlp.gate_proj.weight"[^}]*"zeros":32,' "$out" || bad 'a rule beside a pool'
    run pq-prune -s 0.5 --rule 'nothing=0.3' in/model.safetensors -o r.pq
    grep -q "warning: no tensor takes the rule 'nothing=0.3'" "$err" || bad 'an unused rule'
}
schedule() {
    run pq-prune -s 0.8 --schedule 4:100:50; done_well
    printf '%s\n' '100 0' '150 0.4625' '200 0.7' '250 0.7875' '300 0.8' > want
    same want "$out"
    run pq-prune -s 0.5 --schedule 1 --json; done_well
    [ "$(cat "$out")" = '{"pq":1,"tool":"pq-prune","schedule":[{"step":0,"sparsity":0},{"step":1,"sparsity":0.5}]}' ] ||
        bad "$(cat "$out")"
    run pq-prune --schedule 4; misused
    run pq-prune -s 0.5 --schedule 4 in/model.safetensors; misused
    run pq-prune -s 0.5 --schedule 0; misused
    run pq-prune -s 0.5 --schedule 4:0:0; misused
}
refusals() {
    local o
    for o in '-s 1.5' '-s -0.1' '-s nan' '--pattern 5:4' '--pattern 24' '--pattern 2:65' '--pattern 1:0' \
        '--blocks 4' '--threshold x' '-s 0.5 --scope all' '-s 0.5 --pattern 2:4' '-s 0.5 --threshold 1' \
        '--scope row' '--threshold 1 --blocks 4x4' '-s 0.5 --blocks 2x2 --scope row' ''; do
        # shellcheck disable=SC2086
        run pq-prune $o in/model.safetensors -o x.pq; misused; absent x.pq
    done
    run pq-prune --pattern 2:7 in/model.safetensors -o x.pq
    refused 'in/model.safetensors: tensor h.0.mlp.c_fc.weight: rows of 16 do not divide into groups of 7'; absent x.pq
    run pq-prune -s 0.5 --blocks 16x16 in/model.safetensors -o x.pq
    refused 'tensor h.0.mlp.c_fc.weight: [16, 24] does not divide into blocks of 16x16'; absent x.pq
    run pq-prune -s 0.5 --rule '*=1.5' in/model.safetensors -o x.pq; refused "rule '*=1.5'"; absent x.pq
    run pq-prune -s 0.5 -m nothing in/model.safetensors -o x.pq; refused "-m 'nothing'"; absent x.pq
    run pq-prune -s 0.5 --scope row -m model.norm.weight in/model.safetensors -o x.pq
    refused 'model.norm.weight: has no rows'; absent x.pq
    pq-quantize -t nf4 in/tiny -o n/
    for o in global tensor row; do
        run pq-prune -s 0.5 --scope $o n -o x.pq; refused 'is nf4: dequantize first'; absent x.pq
    done
    # 1 and NaN
    printf '\x40\0\0\0\0\0\0\0%s\0\0\x80\x3f\0\0\xc0\x7f' \
        '{"b.weight":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}} ' > nan.safetensors
    for o in global tensor row; do
        run pq-prune -s 0.5 --scope $o nan.safetensors -o x.pq
        refused 'tensor b.weight: element 1 is NaN'; absent x.pq
        run pq-prune -s 0.5 --scope $o --allow-nonfinite nan.safetensors -o y.pq; done_well
    done
}
for c in goldens ways directories zeros_stay selection rules schedule refusals; do
    check $c $c
done
finish
