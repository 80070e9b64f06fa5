# The table of tools (tools.tsv): its rows, the commands they stand for, and
# the files that these run on, in $W/in:
#
#     SIZE.KIND.FORMAT     tiny.plain.safetensors   small.nf4.pq   many.plain.z.pq
#     SIZE.delta.pq        from SIZE.plain to SIZE.other-plain
#     SIZE.mask.pq         what pq-prune -s 0.5 keeps of SIZE.plain
#     SIZE.norms.safetensors   what pq-prune --norms takes, of SIZE.plain
#     {tiny.,}llama.hessian.safetensors   what pq-prune --hessian takes
#     dir.KIND             a model directory; its size is called dir
#
# KIND is plain, nf4, other-plain, other-nf4, delta, mask or llama.  `other` has
# the tensors of the first with slightly other numbers.  Of llama there are two
# sizes, in .pq, for that has config.json in it: tiny and cut are one of 16
# tokens, all others, also weird and huge, are testdata/tiny-llama.
#
# Of the row at hand: LABEL KIND INPUT CAN LINE, and GOOD, the exit status of
# success.  SIZE is the size of the input that was used last, so that a second
# operand fits the first.
SIZE=tiny

can() { [[ ,$CAN, == *,$1,* ]]; }
model_out() { [ "$KIND" = model-out ]; }
formats() {
    if only_pq; then echo pq
    elif [ "$INPUT" = llama ]; then echo pq z.pq
    else echo safetensors pq z.pq; fi
}
only_pq() { [ "$INPUT" = delta ] || [ "$INPUT" = mask ]; }
suffixes() {
    if can pq-only; then echo pq
    elif can st-only; then echo safetensors
    else echo safetensors pq; fi
}
suffix() { set -- $(suffixes); echo "$1"; }
bad_status() { if can verdict; then echo 1; else echo 2; fi; }

JOBS=$(nproc) # rows at a time
LABELS=       # the rows that are wanted; none: all

start_row() { # COMMAND...
    [ -z "$LABELS" ] || [[ " $LABELS " == *" $LABEL "* ]] || return
    GOOD=0
    can differs && GOOD=1
    rows+=("$LABEL")
    while [ "$(jobs -rp | wc -l)" -ge "$JOBS" ]; do wait -n; done
    {
        PASSED=0 FAILED=0
        "$@"
        echo "= $PASSED $FAILED"
    } > "$W/rows/$LABEL" 3<&- &
}
# each_row COMMAND...: runs it for every row, several rows at a time, and adds
# up what they count
each_row() {
    local label p f rows=()
    mkdir -p "$W/rows"
    while IFS=$'\t' read -r LABEL KIND INPUT CAN LINE <&3; do
        [[ $LABEL == \#* || -z $LABEL ]] || start_row "$@"
    done 3< "$HERE/tools.tsv"
    wait
    for label in "${rows[@]}"; do
        grep -v '^= ' "$W/rows/$label"
        read -r _ p f < <(grep '^= ' "$W/rows/$label")
        PASSED=$((PASSED + ${p:-0})) FAILED=$((FAILED + ${f:-1}))
    done
}

place() { # SIZE KIND FORMAT: where that is
    case $1.$2 in
        *.delta|*.mask) echo "$W/in/$1.$2.pq" ;;
        dir.llama) echo "$W/in/dir.plain" ;;
        tiny.llama | cut.llama) echo "$W/in/tiny.llama.${3/safetensors/pq}" ;;
        *.llama) echo "$W/in/llama.${3/safetensors/pq}" ;;
        dir.*) echo "$W/in/dir.$2" ;;
        *) echo "$W/in/$1.$2.$3" ;;
    esac
}
# input SIZE FORMAT, or input dir: what is prepared of this row's kind of input
input() { place "$1" "$INPUT" "${2:-}"; }

# where a soft prompt is that fits llama of this SIZE
prompt() {
    case $SIZE in
        tiny | cut) echo "$W/in/prompt.safetensors" ;;
        *) echo "$ROOT/testdata/prompt" ;;
    esac
}
hessian() {
    case $SIZE in
        tiny | cut) echo "$W/in/tiny.llama.hessian.safetensors" ;;
        *) echo "$W/in/llama.hessian.safetensors" ;;
    esac
}
# recipe IN: where a recipe is that merges it and OTHER
recipe() {
    printf '%s\n' 'merge_method: linear' 'models:' \
        "- {model: '$1', parameters: {weight: 0.75}}" \
        "- {model: '$(place $SIZE "other-$INPUT" safetensors)', parameters: {weight: 0.25}}" > "$W/$LABEL.yaml"
    echo "$W/$LABEL.yaml"
}
# command_for IN OUT OPTION...: sets CMD; "" leaves IN or OUT out
command_for() {
    local in=$1 to=$2 word words
    shift 2
    [[ $in == "$W/in/"* ]] && SIZE=${in#"$W/in/"} SIZE=${SIZE%%.*}
    CMD=()
    read -ra words <<< "$LINE" # not expanded: there may be a GLOB
    for word in "${words[@]}"; do
        case $word in
            IN) [ -n "$in" ] && CMD+=("$in") ;;
            IN-) CMD+=("${in:--}") ;;
            BASE) CMD+=("$(place $SIZE plain safetensors)") ;;
            OTHER) CMD+=("$(place $SIZE "other-$INPUT" safetensors)") ;;
            --*=MASK) CMD+=("${word%MASK}$(place $SIZE mask pq)") ;;
            --*=IN) CMD+=("${word%IN}${in:--}") ;;
            DELTA) CMD+=("$(place $SIZE delta pq)") ;;
            ADAPTER) CMD+=("$ADAPTER") ;;
            PROMPT) CMD+=("$(prompt)") ;;
            RECIPE) CMD+=("$(recipe "$in")") ;;
            NORMS) CMD+=("$W/in/$SIZE.norms.safetensors") ;;
            HESSIAN) CMD+=("$(hessian)") ;;
            DATA) CMD+=("$W/in/ids.jsonl") ;;
            TALK) CMD+=("$W/in/talk.jsonl") ;;
            OUT) [ -n "$to" ] && CMD+=(-o "$to") ;;
            --*=OUT) CMD+=("${word%OUT}${to:--}") ;;
            pq-*) CMD+=("$BIN/$word" "$@") ;;
            *) CMD+=("$word") ;;
        esac
    done
}

# derive SIZE ELEMENTS: from SIZE.plain.safetensors, or dir.plain, what rows need
# beside it; `other` differs in so many elements of each tensor at most
derive() {
    local plain other slash= file=
    plain=$(place "$1" plain safetensors) other=$(place "$1" other-plain safetensors)
    [ "$1" = dir ] && slash=/ file=/model.safetensors
    cp -r --sparse=always "$plain" "$other" && $H vary "$other$file" "$2" || return
    $H norms "$plain$file" "$W/in/$1.norms.safetensors" || return
    "$BIN/pq-quantize" --no-sync --no-provenance -t nf4 -o "$(place "$1" nf4 safetensors)$slash" "$plain" &&
        "$BIN/pq-quantize" --no-sync --no-provenance -t nf4 -o "$(place "$1" other-nf4 safetensors)$slash" "$other" &&
        "$BIN/pq-diff" --delta="$(place "$1" delta pq)" "$plain" "$other" &&
        "$BIN/pq-prune" --no-sync --no-provenance -s 0.5 --mask-out="$(place "$1" mask pq)" -o /dev/null "$plain"
}
# contain SIZE: the same in .pq and compressed .pq
contain() {
    local p kind
    for kind in plain nf4; do
        p=$W/in/$1.$kind
        "$BIN/pq-convert" --no-sync --no-provenance -o "$p.pq" "$p.safetensors" &&
            "$BIN/pq-convert" --no-sync --no-provenance -z -o "$p.z.pq" "$p.safetensors" || return
    done
}
# chat DIR: a chat template for a model of letters
chat() {
    printf '%s' "{% for m in messages %}{{ 'c' if m.role == 'assistant' }}{{ m.content }}b{% endfor %}" \
        "{{ 'c' if add_generation_prompt }}" > "$1/chat_template.jinja"
}
# Models that run, token ids and a conversation for them.
prepare_llama() {
    local name dir=$W/in/tiny.llama
    echo '{"messages":[{"role":"user","content":"abad"},{"role":"assistant","content":"da"}]}' > "$W/in/talk.jsonl"
    printf '{"ids":[%s]}\n' 1,5,3,9,2,15 4,0,7 > "$W/in/ids.jsonl"
    $H st "$W/in/prompt.safetensors" prompt_embeddings=F32[2,4]rand
    mkdir "$dir"
    set --
    for name in q_proj=F32[8,4] k_proj=F32[4,4] v_proj=F32[4,4] o_proj=F32[4,8]; do
        set -- "$@" "self_attn.${name}rand"
    done
    for name in gate up down; do set -- "$@" "mlp.${name}_proj=F32[4,4]rand"; done
    for name in input post_attention; do set -- "$@" "${name}_layernorm=F32[4]rand"; done
    set -- "${@/#/model.layers.0.}"
    $H st "$dir/model.safetensors" "${@/=/.weight=}" model.norm.weight=F32[4]rand \
        model.embed_tokens.weight=F32[16,4]rand
    echo '{"model_type":"llama","hidden_size":4,"intermediate_size":4,"num_hidden_layers":1,
        "num_attention_heads":4,"num_key_value_heads":2,"head_dim":2,"max_position_embeddings":32,"vocab_size":16,
        "tie_word_embeddings":true}' > "$dir/config.json"
    printf '{"model":{"type":"BPE","vocab":{"</s>":0,"<s>":1,"a":2,"b":3,"c":4,"d":5%s},"merges":[]},"added_tokens":[%s]}' \
        "$(printf ',"%s":%d' e 6 f 7 g 8 h 9 i 10 j 11 k 12 l 13 m 14 n 15)" \
        '{"id":0,"content":"</s>","special":true,"single_word":false,"lstrip":false,"rstrip":false,"normalized":false}' \
        > "$dir/tokenizer.json"
    cp -r "$MODEL" "$W/in/whole.llama"
    chat "$dir" && chat "$W/in/whole.llama" || return
    for name in "$W/in/whole.llama $W/in/llama" "$dir $dir"; do
        "$BIN/pq-convert" --no-sync -o "${name#* }.pq" "${name% *}" &&
            "$BIN/pq-convert" --no-sync -z -o "${name#* }.z.pq" "${name% *}" &&
            "$BIN/pq-eval" -q --hessian-out "${name#* }.hessian.safetensors" -d "$W/in/ids.jsonl" "${name% *}" || return
    done
}
