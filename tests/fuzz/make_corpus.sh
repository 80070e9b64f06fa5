#!/bin/bash
# Makes the seeds of the fuzz targets in corpus/, the same bytes every time.
#
#     PQ_BIN=build/bin tests/fuzz/make_corpus.sh
#
# Files that a fuzzer found (crash-*, found-*) are left alone.  The encoded
# seeds are made by the tools themselves; the rest is printed by hand.
set -euo pipefail
cd "$(dirname "$0")"
bin=$(cd ../.. && cd "${PQ_BIN:-build/bin}" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p corpus/{safetensors,pqstream,json,state,index} # recipe, token*: by hand

# N as 8 bytes, little-endian
le64() {
    local i v=$1 s=
    for i in 1 2 3 4 5 6 7 8; do
        s+=$(printf '\\x%02x' $((v & 255)))
        v=$((v >> 8))
    done
    printf "$s"
}

# HEADER: a safetensors file; the data is read from stdin
st() {
    le64 ${#1}
    printf '%s' "$1"
    cat
}

# N <= 4096 bytes of some floats: 1, -0.2, 0.5, 0, -3, 0.001, ...
for ((i = 0; i < 128; i++)); do
    printf '\0\0\x80\x3f\xcd\xcc\x4c\xbe\0\0\0\x3f\0\0\0\0'
    printf '\0\0\x40\xc0\x6f\x12\x83\x3a\xcd\xcc\xcc\x3d\x9a\x99\x19\xbf'
done >"$work/floats"
floats() { head -c "$1" "$work/floats"; }

# N bytes, all zero
zeros() { head -c "$1" /dev/zero; }

# NAME DTYPE SHAPE BEGIN END: an entry of a header
entry() {
    printf '"%s":{"dtype":"%s","shape":[%s],"data_offsets":[%s,%s]}' "$@"
}

# ---- safetensors ----------------------------------------------------------

out=corpus/safetensors
zeros 0 | st '{}' >$out/empty
zeros 0 | st '{"__metadata__":{"format":"pt","a\u00e9":"\n"}}' >$out/metadata
floats 64 | st "{$(entry a F32 2,4 0 32),$(entry b F16 16 32 64)}  " >$out/two
floats 12 | st "{$(entry s F32 '' 0 4),$(entry z F64 0,3 4 4),$(
    entry i I64 1 4 12)}" >$out/scalar
floats 8 | st "{$(entry q F4 4 0 2),$(entry r F6_E2M3 4 2 5),$(
    entry e F8_E8M0 1,3 5 8)}" >$out/subbyte
floats 8 | st "{$(entry a F32 2 0 8),$(entry a F32 2 0 8)}" >$out/double
floats 8 | st "{$(entry a F32 1 0 4),$(entry b U8 3 5 8)}" >$out/hole
floats 8 | st "{$(entry a U8 18446744073709551615,2 0 8)}" >$out/overflow
floats 7 | st "{$(entry a F32 2 0 8)}" >$out/short
le64 100000001 >$out/long

# ---- models for the tools -------------------------------------------------

floats 2304 | st "{\"__metadata__\":{\"format\":\"pt\"},$(
    entry model.layers.0.mlp.up_proj.weight F32 8,64 0 2048),$(
    entry model.norm.weight F32 64 2048 2304)}" >"$work/m.safetensors"
q() { "$bin/pq-quantize" --no-provenance -q "$@" "$work/m.safetensors"; }

# ---- encoded groups -------------------------------------------------------

out=corpus/state
q -t nf4 -O safetensors >$out/nf4
q -t nf4 --double-quant -O safetensors >$out/nf4-nested
q -t fp4 --block 32 -O safetensors >$out/fp4
q -t int8 -O safetensors >$out/int8
q -t int8_block --block 256 -O safetensors >$out/int8-block

# quant_state with room to grow, and last in the file
group() { # NAME STATE
    printf '%-256s' "$2" >"$work/state"
    { zeros 32 && floats 4 && floats 64 && cat "$work/state"; } |
        st "{$(entry w.weight U8 32,1 0 32),$(
            entry w.weight.absmax F32 1 32 36),$(
            entry w.weight.quant_map F32 16 36 100),$(
            entry "w.weight.quant_state.bitsandbytes__$1" U8 256 100 356)}"
}
group nf4 '{"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [8, 8]}' >$out/roomy
group fp4 '{"quant_type": "fp4", "blocksize": 4096, "dtype": "bfloat16", "shape": [63, 1]}' >$out/tail
group nf4 '{"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [4294967296, 4294967296]}' >$out/huge
group nf4 '{"quant_type": "nf4", "blocksize": 0, "dtype": "float32", "shape": []}' >$out/zero
{ zeros 64 && floats 32; } | st "{$(entry l.weight I8 8,8 0 64),$(
    entry l.SCB F32 8 64 96)}" >$out/rows
{ zeros 64 && floats 32 && zeros 1; } | st "{$(entry l.weight I8 8,8 0 64),$(
    entry l.SCB F32 8 64 96),$(entry l.weight_format U8 '' 96 97)}" \
    >$out/rows-format

# ---- .pq ------------------------------------------------------------------

out=corpus/pqstream
"$bin/pq-convert" -q -O pq "$work/m.safetensors" >$out/plain
"$bin/pq-convert" -q -O pq --no-provenance "$work/m.safetensors" >$out/bare
"$bin/pq-convert" -q -O pq -z "$work/m.safetensors" >$out/packed
{ zeros 100 && floats 24 && zeros 132; } | st "{$(
    entry u U8 3,20 0 60),$(entry h F16 10,2 60 100),$(
    entry f F32 8 100 132),$(entry n F32 6 132 156),$(
    entry i I64 6 156 204),$(entry b BF16 26 204 256)}" |
    "$bin/pq-convert" -q -O pq -z >$out/sparse
q -t nf4 --double-quant -O pq >$out/nf4
zeros 0 | st '{}' | "$bin/pq-convert" -q -O pq >$out/empty
mkdir "$work/dir"
cp "$work/m.safetensors" "$work/dir/model.safetensors"
printf '{"model_type": "llama"}\n' >"$work/dir/config.json"
"$bin/pq-quantize" -q -t int8 -O pq "$work/dir" >$out/directory
"$bin/pq-convert" -q -O pq <corpus/safetensors/scalar >$out/scalar
# a tool that failed after its first byte: zeros, a wrong sum, ABRT
{ head -c -100 "$work/m.safetensors" | "$bin/pq-convert" -q -O pq || true; } \
    2>/dev/null | cat >$out/aborted

# ---- JSON and indexes -----------------------------------------------------

out=corpus/json
printf '{}' >$out/empty
printf '{\n  "a": 1,\n  "b": [2, true, null, -0.5e-3]\n}\n' >$out/lines
printf '{"b":"\\u00e9\\ud83d\\ude00\\n\\"","c":{"b":{}}}' >$out/escapes
printf '[[[[[[]]]],{"a":[{}]}],18446744073709551615]' >$out/nested
printf '{"a": 1.0, "b": 1E400, "c": -0}' >$out/numbers
printf '{"a":1,"a":2}' >$out/double
printf '{ "b" : false }' >$out/only
printf '"\xc3\xa9\xf0\x9f\x98\x80 \xed\xa0\x80"' >$out/utf8

out=corpus/index
one=model-00001-of-00002.safetensors
two=model-00002-of-00002.safetensors
printf '{"metadata":{"total_size":12},"weight_map":{"a":"%s","b":"%s","c":"%s"}}' \
    $one $one $two >$out/good
printf '{"weight_map":{"a":"%s","b":"%s"}}' $one $one >$out/one
printf '{"weight_map":{"a":"%s","x":"%s"}}' $one $two >$out/missing
printf '{"weight_map":{"a":"../%s","c":"/etc/passwd"}}' $one >$out/path
printf '{"metadata":{"total_parameters":7},"weight_map":{}}' >$out/none
printf '{"weight_map":{"a":"model-00003-of-00002.safetensors"}}' >$out/absent

du -bs corpus
