#!/bin/bash
# What people's scripts rely on: the details of the design, one check each.
. "$(dirname "$0")/lib.sh"
in_scratch
mkdir llama
cp "$MODEL"/*.json "$MODEL/model.safetensors" llama/
ST=llama/model.safetensors
$H st nan.safetensors 'a.weight=F32[4,64]rand' 'late.weight=F32[4,64]nan'
$H st inf.safetensors 'a.weight=F32[4,64]rand' 'late.weight=F32[4,64]inf'
$H st big.safetensors 'a.weight=F32[4,64]rand' 'late.weight=F32[4,64]big'
$H st mixed.safetensors 'a.q.weight=F32[4,64]rand' 'a.k.weight=F32[4,64]rand' 'b.q.weight=F32[4,64]rand' 'norm.weight=F32[64]rand' 'ids=I64[3]rand'
$H st other.safetensors -m '"pq.note":"x"' 'a.q.weight=F32[4,64]rand'

digest() { pq-info --digest --json "$1" > j && $H json j digest; }
same_content() { [ "$(digest "$1")" = "$(digest "$2")" ] || bad "$1 and $2 do not hold the same tensors: $RAN"; }
types() { pq-info "$1" | awk 'NF > 3 && $1 !~ /^(metadata|file|made|digest)$/ && !/^[^ ]*:/ { print $NF, $1 }' | sort; }
type_of() { types "$1" | awk -v n="$2" '$1 == n { print $2 }'; }
is_type() { # FILE NAME TYPE
    local t
    t=$(type_of "$1" "$2")
    [ "${t,,}" = "${3,,}" ] || bad "$2 of $1 is '$t', not $3: $RAN"
}
# The sizes and texts of all entries, to see that nothing was touched.
state() { (cd "$1" && for f in $(ls -A); do cksum "$f"; done); }

directory_made() {
    run pq-quantize -t nf4 -o d1/ llama; done_well
    [ -f d1/model.safetensors ] && [ -f d1/config.json ] || bad "no model directory: $RAN"
    run pq-quantize -t nf4 -o d2 llama; done_well # a directory in, no suffix
    same d1 d2
    for f in tokenizer.json tokenizer_config.json generation_config.json; do
        cmp -s llama/$f d1/$f || bad "$f was changed or lost: $RAN"
    done
    grep -q quantization_config d1/config.json || bad "no quantization_config: $RAN"
    run pq-convert -o from-file/ "$ST"; done_well
    [ -f from-file/model.safetensors ] || bad "no model.safetensors: $RAN"
}
directory_replaced() {
    cp -r llama d3
    run pq-quantize -t f16 -o d3/ llama; done_well
    is_type d3 lm_head.weight F16
    grep -q '"dtype": "float16"' d3/config.json || bad "config.json still has the old dtype: $RAN"
    run pq-convert -o d3 llama; done_well # an existing directory, no slash
    same d3/config.json llama/config.json
    mkdir d3empty
    run pq-convert -o d3empty "$ST"; done_well
    [ -z "$(ls -A | grep '^\.')" ] || bad "left behind: $(ls -A | grep '^\.'): $RAN"
}
directory_with_foreign_entry() {
    local before
    for entry in notes.txt data/; do
        rm -rf d4
        cp -r llama d4
        case $entry in */) mkdir d4/$entry ;; *) echo mine > d4/$entry ;; esac
        before=$(ls -A d4)
        run pq-quantize -t f16 -o d4/ llama
        refused "${entry%/}"
        run pq-quantize -f -t f16 -o d4/ llama
        refused "${entry%/}"
        [ "$(ls -A d4)" = "$before" ] && cmp -s d4/model.safetensors "$ST" || bad "d4 was touched: $RAN"
    done
}
directory_in_a_stream() {
    run pq-convert -o s.pq llama; done_well
    run pq-convert -o s1/ s.pq; done_well
    for f in llama/*.json; do cmp -s "$f" "s1/${f##*/}" || bad "${f##*/} came back changed: $RAN"; done
    [ "$(ls s1)" = "$(ls llama)" ] || bad "other files: $(ls s1 | tr '\n' ' '): $RAN"
    same_content llama s1
    pq-convert llama | pq-convert -o s2/ || bad "a pipe from directory to directory: rc ${PIPESTATUS[*]}"
    for f in llama/*.json; do cmp -s "$f" "s2/${f##*/}" || bad "${f##*/} came back changed from a pipe"; done
}
suffix_rules() {
    run pq-convert -o x.bin "$ST"; misused; absent x.bin
    run pq-convert -o x "$ST"; misused; absent x
    run pq-convert -o x.pq "$ST"; done_well
    [ "$(head -c 4 x.pq | tail -c 3)" = PQT ] || bad "x.pq is no .pq: $RAN"
    run pq-convert -O safetensors -o y.pq x.pq; done_well
    [ "$(head -c 9 y.pq | tail -c 1)" = '{' ] || bad "-O does not win over the suffix: $RAN"
    run pq-convert -O pq -o y.bin y.pq; done_well
    [ "$(head -c 4 y.bin | tail -c 3)" = PQT ] || bad "-O pq did not work: $RAN"
    same_content y.bin "$ST"
    run pq-convert -O nonsense -o z.pq "$ST"; misused; absent z.pq
    run pq-convert -O pq -o zz/ "$ST"; misused; absent zz
    run pq-convert -o /no/such/dir/x.pq "$ST"; refused /no/such/dir
    run pq-convert -o "$ST/x.pq" "$ST"; refused
}
bad_type() {
    run pq-quantize -t nonsense -o x1.pq "$ST"; misused; absent x1.pq
    run pq-quantize -o x1.pq "$ST"; misused; absent x1.pq
    run pq-quantize -t nf4 --block 63 -o x1.pq "$ST"; [ $RC = 2 ] || bad "rc $RC: $RAN"; absent x1.pq
    run pq-quantize -t nf4 --rule 'x' -o x1.pq "$ST"; misused
    run pq-quantize -t nf4 --rule '*=nonsense' -o x1.pq "$ST"; [ $RC = 2 ] || bad "rc $RC: $RAN"; absent x1.pq
    run pq-quantize -t nf4 --rules missing -o x1.pq "$ST"; [ $RC = 2 ] || bad "rc $RC: $RAN"; absent x1.pq
    run pq-dequantize -t int8 -o x1.pq "$ST"; misused
}
shards() {
    run pq-convert --shard-size 300K -o sh/ llama; done_well
    [ "$(ls sh/model-*.safetensors | wc -l)" -ge 4 ] || bad "no shards: $RAN"
    [ -f sh/model.safetensors.index.json ] || bad "no index: $RAN"
    same_content llama sh
    $H json sh/model.safetensors.index.json || bad "the index is no JSON"
    run pq-verify sh; done_well
    run pq-quantize -t f16 -o shq/ sh; done_well
    [ "$(cd sh && ls model-*)" = "$(cd shq && ls model-*)" ] || bad "the shards are not mirrored: $RAN"
}
shard_missing() {
    local one
    [ -d sh ] || pq-convert --shard-size 300K -o sh/ llama
    cp -r sh shm
    one=$(cd shm && ls model-* | sed -n 2p)
    rm "shm/$one"
    run pq-convert -o x2.pq shm; refused "$one"; absent x2.pq
    run pq-verify shm
    [ $RC = 1 ] || [ $RC = 2 ] || bad "rc $RC: $RAN"
}
shard_with_path() {
    local name
    [ -d sh ] || pq-convert --shard-size 300K -o sh/ llama
    for name in ../llama/model.safetensors "$PWD/llama/model.safetensors" sub/model.safetensors .. ''; do
        rm -rf shp
        cp -r sh shp
        sed -i "s|model-00002-of[^\"]*|$name|" shp/model.safetensors.index.json
        run pq-convert -o x3.pq shp; refused; absent x3.pq
        run pq-convert -o x3/ shp; refused; absent x3
    done
}
index_disagrees() {
    [ -d sh ] || pq-convert --shard-size 300K -o sh/ llama
    cp -r sh shi
    sed -i 's|"lm_head.weight"|"lm_tail.weight"|' shi/model.safetensors.index.json
    run pq-convert -o x4.pq shi; refused; absent x4.pq
}
nan_refused() {
    local t f
    for t in nf4 int8 int8_block f16 bf16 f8_e4m3; do
        for f in nan inf; do
            run pq-quantize -t $t -o x5.safetensors $f.safetensors; refused late.weight; absent x5.safetensors
            run pq-quantize -t $t --allow-nonfinite -o x5.safetensors $f.safetensors
            [ $RC = 0 ] || bad "rc $RC: $RAN"
            rm -f x5.safetensors
        done
    done
    run pq-convert -o x5.pq nan.safetensors; done_well
    same_content x5.pq nan.safetensors
    run pq-verify nan.safetensors
    [ $RC = 1 ] && grep -q late.weight "$err" || bad "rc $RC, or the tensor is not named: $RAN"
    run pq-verify --allow-nonfinite nan.safetensors; done_well
}
overflow_refused() {
    run pq-quantize -t f16 -o x6.safetensors big.safetensors; refused late.weight; absent x6.safetensors
    run pq-quantize -t int8 -o x6.safetensors big.safetensors; refused late.weight; absent x6.safetensors
    run pq-quantize -t bf16 -o x6.safetensors big.safetensors; done_well
    run pq-quantize -t nf4 -o x6.safetensors big.safetensors; done_well
    run pq-quantize -t f16 --allow-nonfinite -o x6.safetensors big.safetensors
    [ $RC = 0 ] || bad "rc $RC: $RAN"
}
selection() {
    run pq-quantize -t nf4 -m 'a.*' -x '*.k.*' -o x7.pq mixed.safetensors; done_well
    is_type x7.pq a.q.weight nf4; is_type x7.pq a.k.weight F32; is_type x7.pq b.q.weight F32
    run pq-quantize -t bf16 -x norm.weight -o x7.pq mixed.safetensors; done_well
    is_type x7.pq norm.weight F32; is_type x7.pq b.q.weight BF16; is_type x7.pq ids I64
    run pq-convert -m '*.q.*' -o x7.safetensors mixed.safetensors; done_well
    [ "$(types x7.safetensors | wc -l)" = 2 ] || bad "not two tensors: $RAN"
    run pq-info -m 'b*' mixed.safetensors; done_well
    grep -q a.q.weight "$out" && bad "-m does not choose: $RAN"
    return 0
}
rules() {
    run pq-quantize -t nf4 --rule '*.k.weight=int8' --rule 'b.*=keep' -o x8.pq mixed.safetensors; done_well
    is_type x8.pq a.q.weight nf4; is_type x8.pq a.k.weight int8; is_type x8.pq b.q.weight F32
    printf '# rules\n\n  *.k.weight=int8\nb.*=keep  \n' > rules.txt
    run pq-quantize -t nf4 --rules rules.txt -o x9.pq mixed.safetensors; done_well
    same_content x8.pq x9.pq
    run pq-quantize -t nf4 --rule 'ids=nf4' -o x10.pq mixed.safetensors; refused ids; absent x10.pq
    echo 'nonsense' > rules.bad
    run pq-quantize -t nf4 --rules rules.bad -o x10.pq mixed.safetensors
    [ $RC = 2 ] && grep -q 'rules.bad:1' "$err" || bad "rc $RC, or no rules.bad:1: $RAN"
}
rules_from_a_pipe() {
    printf '# all else is as it is\n  *.q_proj.weight=nf4 \n\n*=keep' > rules
    run pq-quantize -t f16 --rules rules "$ST" -o ra.pq; done_well
    is_type ra.pq model.layers.0.self_attn.q_proj.weight nf4
    pq-quantize -t f16 --rules - "$ST" -o rb.pq < rules || bad "rc $? with rules from a pipe"
    same ra.pq rb.pq
    run pq-quantize -t f16 --rules <(cat rules) "$ST" -o rb.pq; done_well
    same ra.pq rb.pq
    run pq-quantize -t f16 --rules - - -o x4.pq; misused; absent x4.pq
    run pq-quantize -t f16 --rules - -o x4.pq; misused; absent x4.pq
}
provenance() {
    run pq-convert -o p1.safetensors mixed.safetensors
    run pq-convert -o p2.pq p1.safetensors
    pq-info p2.pq | grep -c '^made by' | grep -qx 2 || bad "not two lines of provenance: $RAN"
    for f in pq safetensors; do
        run pq-quantize -t nf4 --no-provenance -o q1.$f mixed.safetensors; done_well
        run pq-quantize -t nf4 --no-provenance -o q2.$f p1.safetensors; done_well
        cmp -s q1.$f q2.$f || bad "the input's provenance shows in the output: $RAN"
        run pq-quantize -t nf4 --no-provenance -T1 --memory=32M --no-sync -v -o q3.$f mixed.safetensors
        cmp -s q1.$f q3.$f || bad "-T, --memory, --no-sync or -v shows in the output: $RAN"
        run pq-quantize -t nf4 -o r1.$f mixed.safetensors
        run pq-quantize -t nf4 -T1 --memory=32M --no-sync -v -o r2.$f mixed.safetensors
        cmp -s r1.$f r2.$f || bad "-T, --memory, --no-sync or -v shows in the provenance: $RAN"
    done
}
round_trip() {
    local d
    d=$(digest llama)
    pq-convert --shard-size 200K -o t1/ llama && pq-convert -o t2.safetensors t1 &&
        pq-convert -z -o t3.pq t2.safetensors && pq-convert --canonical -o t4.safetensors t3.pq &&
        pq-convert -o t5/ t4.safetensors || bad "a step fails"
    for f in t1 t2.safetensors t3.pq t4.safetensors t5; do
        [ "$(digest $f)" = "$d" ] || bad "the digest of $f is another"
    done
    cmp -s t4.safetensors t5/model.safetensors || diff <(types t4.safetensors) <(types t5) > /dev/null ||
        bad "t5 holds other tensors than t4"
    [ "$d" != "$(digest mixed.safetensors)" ] || bad "the digest does not depend on the content"
    pq-quantize -t nf4 --double-quant -o u1/ llama && pq-convert -o u2.pq u1 &&
        pq-convert -o u3.safetensors u2.pq && pq-convert --shard-size 100K -o u4/ u3.safetensors
    for f in u2.pq u3.safetensors u4; do
        [ "$(digest $f)" = "$(digest u1)" ] || bad "the digest of the nf4 $f is another"
    done
}
# zeros take no room, and the CPU does not show in what is compressed
compressed() {
    local h='{"w":{"dtype":"F16","shape":[512,1024],"data_offsets":[0,1048576]}}'
    { printf "\\x$(printf %x ${#h})\\0\\0\\0\\0\\0\\0\\0%s" "$h"; head -c 1048576 /dev/zero; } > z.safetensors
    run pq-convert -z -o z.pq z.safetensors; done_well
    [ "$(stat -c %s z.pq)" -lt 2048 ] || bad "a MiB of zeros takes $(stat -c %s z.pq) bytes"
    same_content z.safetensors z.pq
    for x in z.safetensors llama; do
        run pq-convert -z -o z1.pq "$x"; done_well
        PQ_CPU=scalar PQ_THREADS=1 run pq-convert -z -o z2.pq "$x"; done_well
        cmp -s z1.pq z2.pq || bad "the CPU shows in the output: $RAN"
    done
}
encoded_input() {
    pq-quantize -t nf4 -o e1.pq "$ST"
    run pq-quantize -t int8 -o e2.pq e1.pq; refused; absent e2.pq
    run pq-quantize -t nf4 -o e3.pq e1.pq; done_well
    same_content e1.pq e3.pq
    run pq-dequantize -o e4.safetensors e1.pq; done_well
    types e4.safetensors | grep -qi nf4 && bad "nf4 is left: $RAN"
    run pq-dequantize -o e5.safetensors "$ST"; done_well # nothing to do
    same_content e5.safetensors "$ST"
}
rewritten_stdout() { # a regular file on stdout is cut back on failure
    { printf 'before\n'; pq-quantize -t nf4 -O safetensors nan.safetensors; } > so 2> "$err" &&
        bad "rc 0: pq-quantize -t nf4 nan.safetensors"
    [ "$(cat so)" = before ] || bad "stdout was not cut back to where it began"
    pq-quantize -t nf4 nan.safetensors > so 2> "$err"
    [ -s so ] && bad "part of an output is in stdout"
    return 0
}
modes_and_links() {
    local m
    rm -f m.pq l.pq
    (umask 027; pq-convert -o m.pq mixed.safetensors)
    m=$(stat -c %a m.pq); [ "$m" = 640 ] || bad "mode $m with umask 027"
    chmod 604 m.pq
    pq-convert -o m.pq mixed.safetensors
    m=$(stat -c %a m.pq); [ "$m" = 604 ] || bad "the mode of the old file is lost: $m"
    ln -s m.pq l.pq
    run pq-convert -o l.pq mixed.safetensors; done_well
    [ -L l.pq ] || bad "the link was replaced: $RAN"
    touch -d 2001-01-01 m.pq
    run pq-convert -o m.pq mixed.safetensors
    [ m.pq -nt rules.txt ] || bad "the time is not renewed: $RAN"
    run pq-convert -o /dev/null mixed.safetensors; done_well
    [ -c /dev/null ] || bad "/dev/null was replaced!"
}
pq_itself() {
    run pq; [ $RC = 0 ] || bad "rc $RC: pq"
    for t in "$BIN"/pq-*; do grep -q "${t##*/pq-}" "$out" || bad "pq does not list ${t##*/}"; done
    run pq info "$ST"; done_well
    cp "$out" a
    run pq-info "$ST"
    cmp -s a "$out" || bad "pq info is not pq-info"
    run pq nonsense; misused
    run pq; cp "$out" a
    run pq help; done_well; same a "$out"
    for t in "$BIN"/pq-*; do
        run "$t" --help; cp "$out" a
        run pq help "${t##*/pq-}"; done_well; same a "$out"
    done
    run pq help nonsense; misused
    run pq help info diff; misused
    run pq --version; [ "$RC" = 0 ] && [ -s "$out" ] || bad "rc $RC: $RAN"
}
# completes WORD...: what bash offers for the last, sorted, in one line
completes() {
    (
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
        "_${1//-/_}" 2> /dev/null
        printf '%s\n' "${COMPREPLY[@]}" | sort | tr '\n' ' '
    )
}
completion() {
    local t got
    for t in pq pq-quantize pq-info; do
        eval "$($t --completion=bash)" || bad "no completion for $t"
    done
    got=$(completes pq '')
    for t in help "$BIN"/pq-*; do
        [[ " $got" == *" ${t##*/pq-} "* ]] || bad "pq completes to '$got', without ${t##*/}"
    done
    got=$(completes pq q); [ "$got" = "quantize " ] || bad "pq q completes to '$got'"
    got=$(completes pq help inf); [ "$got" = "info " ] || bad "pq help inf completes to '$got'"
    got=$(completes pq-quantize -t nf); [ "$got" = "nf4 " ] || bad "pq-quantize -t nf completes to '$got'"
    got=$(completes pq quantize -t nf); [ "$got" = "nf4 " ] || bad "pq quantize -t nf completes to '$got'"
    got=$(completes pq info --dig); [ "$got" = "--digest " ] || bad "pq info --dig completes to '$got'"
    for t in pq pq-info; do
        ! command -v zsh > /dev/null || $t --completion=zsh | zsh -n || bad "not for zsh: $t"
        ! command -v fish > /dev/null || $t --completion=fish | fish -n || bad "not for fish: $t"
    done
    run pq --completion=nosh; misused
}
environment() {
    PQ_THREADS=x run pq-convert -o v.pq "$ST"; misused
    PQ_CPU=nonsense run pq-convert -o v.pq "$ST"; misused
    PQ_MEMORY=1 run pq-convert -o v.pq "$ST"; misused
    PQ_THREADS=1 PQ_CPU=scalar PQ_MEMORY=64M run pq-convert -o v.pq "$ST"; done_well
}
# an adapter takes no model's place, nor the other way; a delta or a picture that of no file in a directory
not_replaced() {
    rm -rf base lora tuned
    cp -r "$MODEL" base; cp -r "$ROOT/testdata/peft/tiny-lora" lora
    run pq-merge base lora -o tuned/; done_well
    cp tuned/model.safetensors t.safetensors
    run pq-merge base lora -o lora/; refused 'lora/: not replaced: it holds an adapter'
    run pq-merge -n base lora -o lora; refused 'lora: not replaced: it holds an adapter'
    run pq-merge base lora -o lora/adapter_model.safetensors; refused 'not replaced: it holds an adapter'
    same lora "$ROOT/testdata/peft/tiny-lora"
    run pq-extract --rank 2 base tuned -o tuned; refused 'tuned: not replaced: it holds a model'
    run pq-extract --rank 2 base tuned -o tuned/model.safetensors; refused 'not replaced: it holds a model'
    run pq-diff base tuned --delta tuned/model.safetensors; refused 'not replaced: it belongs to the input tuned'
    run pq-diff base tuned --plot base/model.safetensors; refused 'not replaced: it belongs to the input base'
    cmp -s tuned/model.safetensors t.safetensors || bad 'a model was replaced'
    same base "$MODEL"
    # one of its own kind is
    run pq-merge base lora -o tuned/; done_well
    run pq-merge lora lora -o lora/; done_well
    run pq-extract --rank 2 base tuned -o lora/; done_well
}
for t in directory_made not_replaced directory_replaced directory_with_foreign_entry directory_in_a_stream \
    suffix_rules bad_type shards shard_missing shard_with_path index_disagrees nan_refused \
    overflow_refused selection rules rules_from_a_pipe provenance round_trip compressed encoded_input \
    rewritten_stdout \
    modes_and_links pq_itself completion environment; do
    check "details $t" $t
done
finish
