# What run.sh, surgery.sh and pack.sh share; sourced by them, with `here` set.

root=$(cd "$here/../.." && pwd)
cd "$root"
bin=${PQ_BIN:-build/bin}
venv=${BENCH_VENV:-build/venv}
runs=${BENCH_RUNS:-3}
quick=${BENCH_QUICK:-0}
[ "$quick" ] && [ "$quick" != 0 ] && quick=1 || quick=0
shm=/dev/shm

say() { printf 'bench: %s\n' "$*" >&2; }

# NAME: is this group wanted?
chosen() {
    [ -z "${BENCH_ONLY:-}" ] || [[ " $BENCH_ONLY " == *" $1 "* ]]
}

# MODULES: can the rivals' Python import them?
has_modules() {
    [ -x "$venv/bin/python" ] && "$venv/bin/python" -c "import $1" 2>/dev/null >&2
}

# MiB that are free both in /dev/shm and in memory
free_mib() {
    local disk memory
    disk=$(df -Pm $shm | awk 'NR == 2 { print $4 }')
    memory=$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
    echo $((disk < memory ? disk : memory))
}

# MiB that a command, ours or theirs, finds touched (measure.c): `warm`, what
# its output and its memory may take, but not more than there is
warm=0
warmth() {
    local free=$(($(free_mib) - 1024))
    echo $((free < 0 ? 0 : warm < free ? warm : free))
}

# a folder in memory that is gone when we are; our small programs in it
make_work() {
    work=$(mktemp -d $shm/pq-bench-XXXXXX)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT TERM HUP
    out=$work/out
    raw=$work/raw
    for p in make_model measure; do
        ${CC:-gcc} -std=c11 -D_GNU_SOURCE -O2 -o "$work/$p" "$here/$p.c"
    done
}

# DIR LAYERS VOCABULARY HIDDEN INTERMEDIATE HEADS KV_HEADS DTYPE: its config.json
llama_config() {
    cat >"$1/config.json" <<END
{"architectures": ["LlamaForCausalLM"], "model_type": "llama",
 "hidden_size": $4, "intermediate_size": $5, "num_hidden_layers": $2,
 "num_attention_heads": $6, "num_key_value_heads": $7, "vocab_size": $3,
 "hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-05,
 "tie_word_embeddings": false, "dtype": "$8"}
END
}

# KEY COMMAND...: seconds and peak, under that key; what it wrote to $out is
# thrown away unless `keep` is set
keep=
ours() {
    local key=$1 wall cpu rss
    shift
    read -r wall cpu rss < <("$work/measure" -w "$(warmth)" "$@") || {
        say "$key failed: $*"
        exit 2
    }
    echo "$key $wall $rss" >>"$raw"
    [ "$keep" ] || rm -rf "$out"*
}

# KEY SCRIPT ARGUMENTS...: the seconds a rival says, and its peak.  Lines that
# it says to begin with "note" go into the report.
rival() {
    local key=$1 wall cpu rss
    shift
    read -r wall cpu rss < <("$work/measure" -w "$(warmth)" -o "$work/said" \
        "$venv/bin/python" "$here/$1" "${@:2}" 2>"$work/log") || {
        say "rival $key failed:"
        tail -3 "$work/log" >&2
        exit 2
    }
    grep '^note ' "$work/log" >>"$raw" || true
    echo "rival_$key $(cat "$work/said") $rss" >>"$raw"
    rm -rf "$out"*
}

# ROWS JSON: the table, and the same as JSON
report() {
    awk -f "$here/table.awk" -f "$here/$1" "$raw"
    mkdir -p "$(dirname "$2")"
    awk -v json=1 -f "$here/table.awk" -f "$here/$1" "$raw" >"$2"
}
