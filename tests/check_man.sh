#!/usr/bin/env bash
# The manual pages against the programs.
#
#   PQ_BIN=DIR PQ_CC='gcc -Ilib' PQ_LIBS='libpq.a ...' tests/check_man.sh
#
# Lint, sections, options as in --help, and every example: blocks in EXAMPLES
# of sections 1 and 7, the two lines of each --help, the sh blocks of README,
# the program in libpq.3.  Examples run in a scratch directory that holds the
# files they name.  Failures are printed, then "N passed, N failed".
set -euo pipefail
cd "$(dirname "$0")/.."

root=$PWD
PATH=$(cd "${PQ_BIN:-build/bin}" && pwd):$PATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0
failed=0

ok() {
    passed=$((passed + 1))
}

bad() {
    failed=$((failed + 1))
    printf 'FAIL %s\n' "$@"
}

# ---- the scratch directory ------------------------------------------------

make_files() {
    mkdir "$work/files"
    cd "$work/files"
    cp -r "$root/testdata/tiny-llama" llama
    cp llama/model.safetensors .
    cp -r llama chat
    cp "$root/testdata/chat/small.jinja" chat/chat_template.jinja
    cp "$root/testdata/nn/heldout.jsonl" ids.jsonl
    echo 'Once upon a time there was a cat.' > story.txt
    cp "$root/testdata/generate/prompts.jsonl" .
    cp -r "$root/testdata/peft/tiny-lora" lora
    mkdir prompt
    cp "$root"/testdata/prompt/adapter_* prompt
    cp -r lora style
    cp -r lora facts
    pq-merge llama lora -o llama-tuned/
    pq-merge llama lora:0.5 -o story/
    pq-merge llama lora:-0.5 -o code/
    pq-convert llama -o model.pq
    cp "$root/testdata/prune_data/llama-norms.safetensors" norms.safetensors
    cp "$root/testdata/prune_data/llama-hessian.safetensors" hessian.safetensors
    pq-quantize -t nf4 llama -o model.nf4.pq
    pq-quantize -t nf4 llama -o llama-nf4/
    cd "$root"
}

# One example: as many lines as it has, in a fresh copy of the files.
run_example() {
    local where=$1 text=$2 log=$work/log
    rm -rf "$work/run"
    cp -r "$work/files" "$work/run"
    if (cd "$work/run" && timeout 60 bash -euo pipefail -c "$text") >"$log" 2>&1 </dev/null; then
        ok
    else
        bad "$where: example failed:" "$text" "$(tail -n 5 "$log")"
    fi
}

# ---- what is in a page ----------------------------------------------------

# Blocks of EXAMPLES, each ended by a NUL: .Bd -literal ... .Ed, and .Dl lines.
examples() {
    awk '
        /^\.Sh / { inside = /^\.Sh EXAMPLES/ }
        !inside { next }
        /^\.Bd -literal/ { block = 1; next }
        /^\.Ed/ { block = 0; printf "%c", 0; next }
        /^\.Dl / { sub(/^\.Dl /, ""); print; printf "%c", 0; next }
        block { print }' "$1" | sed -e 's/\\e/\\/g' -e 's/\\(aq/'\''/g' -e 's/\\&//g' -e 's/\\-/-/g'
}

# The options that the page explains: all flags of its .It lines.
page_options() {
    grep -E '^\.It Fl ' "$1" | grep -oE 'Fl [^ ]+' | cut -d' ' -f2 | sed 's/^/-/' | sort -u
}

help_options() {
    "$1" --help | sed '/^Examples:/,$d' | {
        # each on its line, and behind "Also" the ones that are only named
        sed -nE -e '/^Also/,$p' -e 's/^( {2,}-[^ ]*( --[^ ]+)?).*/\1/p'
    } | grep -oE -e '(^| )--?[A-Za-z][a-z-]*' | sed 's/^ //' | sort -u
}

# ---- the checks -----------------------------------------------------------

check_lint() {
    local out
    out=$(mandoc -Tlint -W warning "$1" 2>&1) && ok || bad "$out"
}

check_sections() {
    local page=$1 wanted=(NAME DESCRIPTION 'SEE ALSO') s at last=0
    case $page in
    *.1) wanted=(NAME SYNOPSIS DESCRIPTION ENVIRONMENT FILES 'EXIT STATUS' EXAMPLES DIAGNOSTICS 'SEE ALSO' CAVEATS) ;;
    *.7) wanted=(NAME DESCRIPTION ENVIRONMENT FILES 'EXIT STATUS' EXAMPLES DIAGNOSTICS 'SEE ALSO' CAVEATS) ;;
    esac
    for s in "${wanted[@]}"; do
        at=$(grep -nxE "\.Sh \"?$s\"?" "$page" | head -n 1 | cut -d: -f1) || true
        if [ -z "$at" ] || ((at < last)); then
            bad "$page: section $s is missing or out of place"
            return
        fi
        last=$at
    done
    ok
}

check_options() {
    local tool=$1 page=$root/man/$1.1 out
    [ -f "$page" ] || { bad "$tool has no page"; return; }
    out=$(diff <(help_options "$tool") <(page_options "$page")) && ok ||
        bad "$page: options differ from --help (<):" "$out"
}

check_examples() {
    local n=0 text
    while IFS= read -r -d '' text; do
        n=$((n + 1))
        run_example "$1" "$text"
    done < <(examples "$1")
    ((n > 0)) || bad "$1: no example"
}

check_help_examples() {
    local n=0 line
    while IFS= read -r line; do
        n=$((n + 1))
        run_example "$1 --help" "$line"
    done < <("$1" --help | sed '1,/^Examples:/d')
    ((n == 2)) && ok || bad "$1 --help: $n examples, not 2"
}

check_readme() {
    local n=0 text
    while IFS= read -r -d '' text; do
        n=$((n + 1))
        run_example README.md "$text"
    done < <(awk '/^```sh/ { b = 1; next } /^```/ && b { b = 0; printf "%c", 0; next } b { print }' README.md)
    ((n == 9)) && ok || bad "README.md: $n pipelines, not 9"
}

# PQ_CC and PQ_LIBS are command lines: split on purpose.
# shellcheck disable=SC2086
check_program() {
    examples man/libpq.3 | tr -d '\0' >"$work/x.c"
    if ${PQ_CC:-gcc -Ilib -Iformats} -std=c11 -Wall -Wextra -Werror -o "$work/x" "$work/x.c" \
        ${PQ_LIBS:-build/lib/libpq.a -lzstd -lxxhash -lm -pthread} &&
        "$work/x" testdata/tiny-llama | grep -q '^lm_head.weight F32 32768$'; then
        ok
    else
        bad 'libpq.3: the program does not work'
    fi
}

make_files
for page in man/*.[1-9]; do
    check_lint "$page"
    check_sections "$page"
done
for page in man/*.[17]; do
    check_examples "$page"
done
for tool in $(pq | sed -n 's/^  \([a-z][a-z]*\) .*/pq-\1/p'); do
    check_options "$tool"
    check_help_examples "$tool"
done
check_readme
check_program
echo "$passed passed, $failed failed"
((failed == 0))
