#!/bin/bash
# The twenty contracts, over every row of tools.tsv.
#
#   run.sh [-j N] [LABEL|NUMBER]...   only these rows, only these contracts
. "$(dirname "$0")/lib.sh"
SIGPIPE=141
VERSION=$(sed -n 's/^VERSION := //p' "$ROOT/Makefile")

# ---- Rows and commands ------------------------------------------------------

can() { [[ ,$CAN, == *,$1,* ]]; }
model_out() { [ "$KIND" = model-out ]; }

# command IN OUT OPTION...: sets CMD; "" leaves IN or OUT out
command_for() {
    local in=$1 to=$2 word
    shift 2
    CMD=()
    for word in $LINE; do
        case $word in
            IN) [ -n "$in" ] && CMD+=("$in") ;;
            IN-) CMD+=("${in:--}") ;;
            ADAPTER) CMD+=("$ROOT/testdata/peft/head") ;;
            OUT) [ -n "$to" ] && CMD+=(-o "$to") ;;
            pq-*) CMD+=("$BIN/$word" "$@") ;;
            *) CMD+=("$word") ;;
        esac
    done
}
# go IN OUT OPTION...: runs it
go() {
    command_for "$@"
    run "${CMD[@]}"
}
# input SIZE FORMAT: the prepared file of this row's kind of input
input() { echo "$W/in/$1.$INPUT.$2"; }
suffixes() {
    if can pq-only; then echo pq
    elif can st-only; then echo safetensors
    else echo safetensors pq; fi
}
suffix() { set -- $(suffixes); echo "$1"; }
bad_status() { if can verdict; then echo 1; else echo 2; fi; }

# ---- Inputs -----------------------------------------------------------------

derive() { # SIZE: .pq, compressed .pq and nf4 of it
    local p=$W/in/$1
    "$BIN/pq-convert" --no-provenance -o "$p.plain.pq" "$p.plain.safetensors" &&
    "$BIN/pq-convert" --no-provenance -z -o "$p.plain.z.pq" "$p.plain.safetensors" &&
    "$BIN/pq-quantize" --no-provenance -t nf4 -o "$p.nf4.safetensors" "$p.plain.safetensors" &&
    "$BIN/pq-convert" --no-provenance -o "$p.nf4.pq" "$p.nf4.safetensors" &&
    "$BIN/pq-convert" --no-provenance -z -o "$p.nf4.z.pq" "$p.nf4.safetensors" ||
        echo "FAIL inputs: $1 could not be prepared"
}
prepare() {
    local name long
    mkdir -p "$W/in"
    $H st "$W/in/tiny.plain.safetensors" 'a.weight=F32[2,64]step' 'n=BF16[3]step' 's=I64[]step'
    set --
    for i in 1 2 3 4 5 6; do
        set -- "$@" "l.$i.q.weight=F32[16,64]step" "l.$i.norm.weight=BF16[64]step"
    done
    $H st "$W/in/cut.plain.safetensors" "$@" 'ids=I64[8]step' 'empty=F32[0,4]step'
    set --
    for i in $(seq 40); do
        set -- "$@" "model.layers.$i.mlp.up_proj.weight=F32[256,800]rand"
    done
    $H st "$W/in/mid.plain.safetensors" "$@" # 32 MB
    cp "$MODEL/model.safetensors" "$W/in/small.plain.safetensors"
    long=$(printf 'n%.0s' $(seq 4096))
    $H st "$W/in/weird.plain.safetensors" -m '"note":"caf\u00e9 \u0007\n"' \
        's=F32[]rand' 'e.weight=F32[0,64]rand' 'f.weight=F32[64,0]rand' \
        "$long=F32[2,2]rand" "$long.weight=F32[2,64]rand" \
        'b\u0007\n\t\u001b[31m.weight=F32[2,64]rand' \
        $'caf\xc3\xa9.\xe6\xa8\xa1.weight=F32[2,64]rand' '\ud83d\ude00.weight=BF16[3,5]rand' \
        '=F32[3]rand' 'x\"y\\.weight=F32[1,1]rand'
    $H st "$W/in/latin.safetensors" $'caf\xe9.weight=F32[2,64]rand'
    $H many "$W/in/many.plain.safetensors" 100000 1 step
    for name in tiny cut mid small weird many; do derive $name; done
    mkdir "$W/in/dir.plain" "$W/in/dir.nf4"
    cp "$MODEL"/*.json "$W/in/dir.plain/"
    cp "$MODEL/model.safetensors" "$W/in/dir.plain/"
    "$BIN/pq-quantize" -t nf4 -o "$W/in/dir.nf4/" "$W/in/dir.plain" ||
        echo "FAIL inputs: dir could not be prepared"
}
prepare_huge() {
    local i
    set --
    for i in $(seq 32); do
        set -- "$@" "model.layers.$i.mlp.up_proj.weight=F32[1024,4096]"
    done
    $H st "$W/in/huge.plain.safetensors" "$@" 'model.norm.weight=F32[4096]'
    $H st "$W/in/one.plain.safetensors" 'model.layers.0.mlp.up_proj.weight=F32[25600,4096]'
    for i in huge one; do
        "$BIN/pq-quantize" -t nf4 --no-sync -o "$W/in/$i.nf4.safetensors" "$W/in/$i.plain.safetensors"
    done
}

# ---- The contracts ----------------------------------------------------------

contract_01_help() {
    local prog=$BIN/${LINE%% *}
    for option in --help -h; do
        run "$prog" $option
        done_well
        [ -s "$out" ] || bad "nothing on stdout: $RAN"
        [ "$(wc -l < "$out")" -le 40 ] || bad "$(wc -l < "$out") lines: $RAN"
        awk 'length($0) > 80 { exit 1 }' "$out" || bad "a line of more than 80 columns: $RAN"
    done
}

contract_02_version() {
    local prog=${LINE%% *}
    for option in --version -V; do
        run "$BIN/$prog" $option
        done_well
        [ "$(cat "$out")" = "$prog $VERSION" ] || bad "prints '$(head -n 1 "$out")': $RAN"
    done
}

contract_03_unknown_option() {
    local prog=$BIN/${LINE%% *}
    run "$prog" --no-such-option "$(input tiny safetensors)"; misused
    run "$prog" -% "$(input tiny safetensors)"; misused
    go "$(input tiny safetensors)" "" --help=yes; misused
    if can engine; then
        go "$(input tiny safetensors)" "" -T; [ $RC = 2 ] || bad "rc $RC: $RAN"
        go "$(input tiny safetensors)" "" -T x; misused
        go "$(input tiny safetensors)" "" --memory=1; misused
    fi
    go "$(input tiny safetensors)" "" --
    command_for "$(input tiny safetensors)" "$S/x.$(suffix)"
    run "${CMD[@]}" - -; misused
    absent "$S/x.$(suffix)"
}

contract_04_input_missing() {
    local to=
    model_out && to=$S/x.$(suffix)
    go "$S/no/such.safetensors" "$to"; refused "$S/no/such.safetensors"
    go "$S" "$to"; [ $RC = 2 ] || can verdict || bad "rc $RC on an empty directory: $RAN"
    : > "$S/empty"
    go "$S/empty" "$to"
    [ $RC = "$(bad_status)" ] || bad "rc $RC on an empty file: $RAN"
    grep -qF "$S/empty" "$err" || bad "the message does not name the file: $RAN"
    absent "$S/x.$(suffix)"
}

contract_05_file_and_stdin() {
    local in format extra=()
    model_out && extra=(-O "$(suffix)")
    can json && ! model_out && extra=(--json)
    for in in safetensors pq z.pq; do
        in=$(input small $in)
        go "$in" "" "${extra[@]}"; done_well
        cp "$out" "$S/a"
        command_for "" "" "${extra[@]}"
        "${CMD[@]}" < "$in" > "$S/b" 2> "$err" || bad "rc $? from a file on stdin: ${CMD[*]} < $in"
        cmp -s "$S/a" "$S/b" || bad "file and stdin differ: ${CMD[*]} < $in"
        command_for - "" "${extra[@]}"
        cat "$in" 2> /dev/null | "${CMD[@]}" > "$S/b" 2> "$err"
        RC=${PIPESTATUS[1]} # cat may be told that no more is read
        [ "$RC" = 0 ] || bad "rc $RC from a pipe: cat $in | ${CMD[*]}"
        cmp -s "$S/a" "$S/b" || bad "file and pipe differ: cat $in | ${CMD[*]}"
        cat "$in" | "${CMD[@]}" 2> "$err" | cat > "$S/b"
        model_out && [ "$(suffix)" = safetensors ] && ! cmp -s "$S/a" "$S/b" &&
            bad "a pipe on both sides differs: cat $in | ${CMD[*]} | cat"
    done
}

contract_06_output_and_stdout() {
    local format
    model_out || return
    for format in $(suffixes); do
        go "$(input small safetensors)" "$S/a.$format"; done_well
        [ -s "$out" ] && bad "something on stdout: $RAN"
        go "$(input small safetensors)" "" -O "$format" ; done_well
        # -O is in the provenance, and may be: without that the bytes agree
        cmp -s "$S/a.$format" "$out" && continue
        go "$(input small safetensors)" "$S/a.$format" -O "$format"
        go "$(input small safetensors)" "" -O "$format"
        cmp -s "$S/a.$format" "$out" || bad "-o and > differ: $RAN"
        run "${CMD[@]}"
        command_for "$(input small safetensors)" "" -O "$format"
        "${CMD[@]}" | cat > "$S/b"
        cmp -s "$S/a.$format" "$S/b" || bad "-o and | differ: ${CMD[*]} | cat"
    done
    can pq-only && return
    go "$(input small safetensors)" "$S/c.safetensors"
    go "$(input small safetensors)" ""
    cmp -s "$S/c.safetensors" "$out" || bad "a regular file on stdout does not get the safetensors of -o: $RAN"
    can st-only && return
    go "$(input small safetensors)" "$S/c.pq"
    "${CMD[@]}" > /dev/null
    command_for "$(input small safetensors)" ""
    "${CMD[@]}" | cat > "$S/d"
    cmp -s "$S/c.pq" "$S/d" || bad "a pipe on stdout does not get the .pq of -o: ${CMD[*]} | cat"
}

# Something on stdout, also from a tool that is silent
loud() {
    local format=()
    model_out && format=(-O "$(suffix)")
    can silent && format=(--json)
    command_for "$(input "$1" safetensors)" "" "${format[@]}"
}

contract_07_disk_full() {
    loud small
    "${CMD[@]}" > /dev/full 2> "$err"
    RC=$? RAN="${CMD[*]} > /dev/full"
    : > "$out"; refused "No space"
    loud tiny
    "${CMD[@]}" > /dev/full 2> "$err"
    RC=$? RAN="${CMD[*]} > /dev/full"
    : > "$out"; refused "No space"
}

contract_08_closed_stdout() {
    loud tiny
    "${CMD[@]}" >&- 2> "$err"
    RC=$? RAN="${CMD[*]} >&-"
    : > "$out"; refused
    "${CMD[@]}" >&- 2>&-
    RC=$?
    [ $RC = 2 ] || bad "rc $RC: ${CMD[*]} >&- 2>&-"
    command_for "" ""
    "${CMD[@]}" <&- > "$out" 2> "$err"
    RC=$? RAN="${CMD[*]} <&-"
    refused
    model_out || return
    command_for "$(input tiny safetensors)" "$S/o.$(suffix)"
    "${CMD[@]}" <&- >&- 2> "$err" # stdout is not needed
    RC=$? RAN="${CMD[*]} <&- >&-"
    command_for "$(input tiny safetensors)" "$S/p.$(suffix)"
    "${CMD[@]}"
    [ $RC != 0 ] || cmp -s "$S/o.$(suffix)" "$S/p.$(suffix)" || bad "another output: $RAN"
}

contract_09_reader_gone() {
    can silent && return
    local size=mid how
    model_out || size=many
    loud $size
    for how in default ignore; do
        $H epipe $how "${CMD[@]}" 2> "$err"
        RC=$?
        [ $RC = $SIGPIPE ] || bad "rc $RC with SIGPIPE at $how: ${CMD[*]} | head -c 1"
        [ -s "$err" ] && bad "says '$(head -n 1 "$err")': ${CMD[*]} | head -c 1"
    done
}

damage() { # cut|flip file|pipe STATUS FILE
    local to=- in=@IN where=
    model_out && to=x.$(suffix) where=@OUT
    [ "$2" = pipe ] && in=
    command_for "$in" "$where"
    can engine && command_for "$in" "$where" -T1
    $H damage "$1" "$2" "$3" "$S/$1" $to "$4" "${CMD[@]}" > "$out" 2>&1 && return
    while read -r line; do bad "$line"; done < "$out"
}

# What reads no more than the header cannot see all damage.
body_status() { if can header; then echo any; else bad_status; fi; }

contract_10_truncation() {
    local format
    for format in safetensors pq z.pq; do
        damage cut file "$(bad_status)" "$(input cut $format)"
        damage cut pipe "$(body_status)" "$(input cut $format)"
    done
}

contract_11_damage() {
    damage flip file any "$(input tiny safetensors)"
    damage flip file "$(body_status)" "$(input tiny pq)"
    damage flip file "$(body_status)" "$(input tiny z.pq)"
}

# kill_one SIGNAL DELAY OLD TARGET: one run, killed; TARGET a file or NAME/
kill_one() {
    local sig=$1 delay=$2 old=$3 to=$4 expected=$5 before after rc
    rm -rf "$S/k"
    mkdir "$S/k"
    [ "$old" = old ] && cp -r "$S/previous${to##*/x}" "$S/k/${to##*/}"
    command_for "$6" "$to"
    $H killed "$sig" "$delay" "${CMD[@]}" > /dev/null 2> "$err"
    rc=$?
    RAN="helper killed $sig $delay ${CMD[*]}"
    case $rc in
        0) diff -rq "$expected" "$to" > /dev/null || bad "status 0, but the output is wrong: $RAN" ;;
        $((128 + sig)))
            if [ -e "$to" ] && ! diff -rq "$expected" "$to" > /dev/null; then
                [ "$old" = old ] && diff -rq "$S/previous${to##*/x}" "$to" > /dev/null ||
                    bad "a partial output: $RAN"
            fi ;;
        *) bad "status $rc: $RAN" ;;
    esac
    [ "$old" = old ] && [ ! -e "$to" ] && bad "the old output is gone: $RAN"
    after=$(ls -A "$S/k" | grep -vxF "${to##*/}")
    [ -z "$after" ] && return
    if [ "$sig" = 9 ] && [ -d "$6" ] && [[ $after == .x*.pq-* ]]; then
        run "${CMD[@]}"; done_well
        [ "$(entries "$S/k")" = 1 ] || bad "the next run does not remove $after: $RAN"
    else
        bad "left behind: $after: $RAN"
    fi
}

contract_12_killed() {
    model_out || return
    local format sig t0 t1 span delay i old in to
    RANDOM=12
    for to in "x.$(suffix)" x; do
        in=$(input mid safetensors)
        if [ $to = x ]; then
            can pq-only && continue
            in=$S/mid.dir
            mkdir "$in"
            ln "$(input mid safetensors)" "$in/model.safetensors"
            cp "$MODEL/config.json" "$in/"
            mkdir "$S/previous"
            cp "$MODEL/config.json" "$S/previous/"
            cp "$(input tiny safetensors)" "$S/previous/model.safetensors"
        else
            echo old > "$S/previous.$(suffix)"
        fi
        t0=$(date +%s%N)
        go "$in" "$S/whole${to#x}"; done_well
        t1=$(date +%s%N)
        span=$(((t1 - t0) / 1000 + 2000))
        for i in 1 2 3 4; do
            for sig in 2 15 1 9; do
                delay=$(((RANDOM * 32768 + RANDOM) % span))
                old=none
                [ $((i % 2)) = 0 ] && old=old
                kill_one $sig $delay $old "$S/k/$to" "$S/whole${to#x}" "$in"
            done
        done
    done
    # a signal that the parent ignores stays ignored
    command_for "$(input mid safetensors)" "$S/i.$(suffix)"
    $H ignoring 2 2000 "${CMD[@]}" 2> "$err" || bad "rc $? with SIGINT ignored: ${CMD[*]}"
    cmp -s "$S/i.$(suffix)" "$S/whole.$(suffix)" || bad "another output with SIGINT ignored: ${CMD[*]}"
}

contract_13_output_over_input() {
    model_out || return
    local format
    for format in $(suffixes); do
        go "$(input mid $format)" "$S/a.$format"
        cp "$(input mid $format)" "$S/b.$format"
        go "$S/b.$format" "$S/b.$format"; done_well
        cmp -s "$S/a.$format" "$S/b.$format" || bad "another output over the input: $RAN"
        cp "$(input mid $format)" "$S/target"
        ln -s target "$S/l.$format"
        go "$S/l.$format" "$S/l.$format"; done_well
        cmp -s "$S/a.$format" "$S/target" || bad "a link is not followed: $RAN"
        [ -L "$S/l.$format" ] || bad "the link is gone: $RAN"
        rm "$S/target" "$S/l.$format"
    done
    can pq-only && return
    go "$W/in/dir.$INPUT" "$S/a/"; done_well
    cp -r "$W/in/dir.$INPUT" "$S/b"
    go "$S/b" "$S/b/"; done_well
    same "$S/a" "$S/b"
}

contract_14_threads_and_isa() {
    can engine || return
    local extra=() n in
    model_out && extra=(-O "$(suffix)")
    ! model_out && can json && extra=(--json)
    for in in mid weird; do
        go "$(input $in safetensors)" "" "${extra[@]}" -T1; done_well
        cp "$out" "$S/a"
        for n in "-T8" "-T2 --memory=16M" "-T3 --memory=1G"; do
            go "$(input $in safetensors)" "" "${extra[@]}" $n; done_well
            cmp -s "$S/a" "$out" || bad "another output than with -T1: $RAN"
        done
        command_for "$(input $in safetensors)" "" "${extra[@]}"
        PQ_CPU=scalar run "${CMD[@]}"; done_well
        cmp -s "$S/a" "$out" || bad "another output: PQ_CPU=scalar $RAN"
        command_for "" "" "${extra[@]}" -T8 --memory=16M
        cat "$(input $in pq)" 2> /dev/null | "${CMD[@]}" > "$S/p" 2> "$err"
        RC=${PIPESTATUS[1]}
        [ "$RC" = 0 ] || bad "rc $RC: cat $(input $in pq) | ${CMD[*]}"
        go "$(input $in pq)" "" "${extra[@]}" -T1
        cmp -s "$S/p" "$out" || bad "another output from a pipe: cat $(input $in pq) | ${CMD[*]}"
    done
}

contract_15_read_only() {
    local to=
    model_out && to=$S/a.$(suffix)
    mkdir "$S/ro"
    cp "$(input small safetensors)" "$S/ro/m.safetensors"
    chmod 444 "$S/ro/m.safetensors"
    chmod 555 "$S/ro"
    go "$S/ro/m.safetensors" "$to"; done_well
    cp -r "$W/in/dir.$INPUT" "$S/rod"
    chmod -R a-w "$S/rod"
    if ! model_out; then
        go "$S/rod" ""; done_well
    elif ! can pq-only; then
        go "$S/rod" "$S/d/"; done_well
        go "$W/in/dir.$INPUT" "$S/e/"
        same "$S/d" "$S/e"
        [ -w "$S/d/config.json" ] || bad "the output is read-only as the input was: $RAN"
    fi
    chmod -R u+w "$S"
    [ "$(id -u)" = 0 ] && return
    chmod 000 "$S/ro/m.safetensors"
    go "$S/ro/m.safetensors" "$to"; refused "Permission denied"
    chmod 555 "$S/ro"
    model_out && { go "$(input tiny safetensors)" "$S/ro/x.$(suffix)"; refused "Permission denied"; }
    chmod -R u+w "$S"
}

contract_16_terminal() {
    local format=()
    # a container without /dev/pts has no terminals to refuse
    $H tty true < /dev/null > /dev/null 2>&1 || return 0
    can pq-only && format=(-O pq)
    command_for "$(input tiny safetensors)" "" "${format[@]}"
    $H tty "${CMD[@]}" < /dev/null > "$out" 2> "$err"
    RC=$?
    RAN="${CMD[*]} (stdout a terminal)"
    if model_out; then
        misused
        command_for "$(input tiny safetensors)" "" "${format[@]}" -f
        $H tty "${CMD[@]}" < /dev/null > "$out" 2> "$err" || bad "rc $?: ${CMD[*]} on a terminal with -f"
    else
        done_well
    fi
}

# No control characters but newlines in $1
masked() {
    tr -d '\n' < "$1" | grep -qP '[\x00-\x1f\x7f]' && bad "control characters in its $2: $RAN"
    return 0
}

contract_17_odd_files() {
    local to= in
    model_out && to=$S/a.$(suffix)
    for in in many weird; do
        go "$(input $in safetensors)" "$to"; done_well
        masked "$out" output
        model_out || continue
        run "$BIN/pq-verify" "$to"; done_well
        go "$(input $in pq)" "$to"; done_well
    done
    go "$(input weird safetensors)" "$to" -v
    [ $RC = 0 ] || bad "rc $RC: $RAN"
    masked "$err" messages
    if can dry; then
        go "$(input weird safetensors)" "$to" -n; done_well
        masked "$out" plan
    fi
    if can json; then
        to=
        model_out && to=$S/b.$(suffix)
        go "$(input weird safetensors)" "$to" --json; done_well
        [ -s "$out" ] && { $H json "$out" 2> "$err" || bad "no JSON ($(cat "$err")): $RAN"; }
    fi
    rm -f "$S"/[ab].*
    go "$W/in/latin.safetensors" "$to"
    [ $RC = "$(bad_status)" ] || bad "rc $RC for a name that is not UTF-8: $RAN"
    [ "$to" ] && absent "$to"
    return 0
}

rss_below() { # KIB
    local peak
    [ -s "$S/rss" ] && peak=$(cat "$S/rss") || peak=0
    [ "$peak" -gt 0 ] && [ "$peak" -le "$1" ] || bad "peak of $peak KiB, more than $1: $RAN"
}

contract_18_memory() {
    can engine || return
    sanitized && return
    local in n bound=131072 to=
    model_out && to=$S/o.$(suffix)
    for in in huge one; do
        for n in 2 8; do
            command_for "$(input $in safetensors)" "$to" -T$n
            [ -n "$to" ] && CMD+=(--no-sync)
            RAN="helper rss /tmp/kib ${CMD[*]}"
            $H rss "$S/rss" "${CMD[@]}" > /dev/null 2> "$err" || bad "rc $? ($(head -n 1 "$err")): $RAN"
            rss_below $bound
            rm -f "$to"
            command_for "" "" -T$n
            RAN="cat $(input $in safetensors) | helper rss /tmp/kib ${CMD[*]} | cat"
            cat "$(input $in safetensors)" 2> /dev/null |
                $H rss "$S/rss" "${CMD[@]}" 2> "$err" | cat > /dev/null
            RC=${PIPESTATUS[1]}
            [ "$RC" = 0 ] || bad "rc $RC ($(head -n 1 "$err")): $RAN"
            rss_below $bound
        done
    done
    command_for "$(input huge safetensors)" "$to" -T8 --memory=48M
    [ -n "$to" ] && CMD+=(--no-sync)
    RAN="helper rss /tmp/kib ${CMD[*]}"
    $H rss "$S/rss" "${CMD[@]}" > /dev/null 2> "$err" || bad "rc $? ($(head -n 1 "$err")): $RAN"
    rss_below 49152
}

contract_19_json() {
    can json || return
    local to= in
    model_out && to=$S/a.$(suffix)
    for in in small weird; do
        go "$(input $in safetensors)" "$to" --json; done_well
        $H json "$out" 2> "$err" || bad "no JSON ($(cat "$err")): $RAN"
        [ "$($H json "$out" tool 2>&1)" = "\"${LINE%% *}\"" ] || bad "no key \"tool\" with ${LINE%% *}: $RAN"
        cp "$out" "$S/j"
        go "$(input $in safetensors)" "$to" --json
        cmp -s "$S/j" "$out" || bad "not the same the second time: $RAN"
    done
    model_out || return
    go "$(input tiny safetensors)" "" --json
    misused
}

# predicted SIZE TARGET: the plan's last line, and its JSON, are SIZE
predicted() {
    local last json
    go "$1" "$2" "${@:4}" -n; done_well
    last=$(tail -n 1 "$out")
    if can at-most; then
        [[ $last =~ ^"at most "[0-9]+$ ]] && [ "${last##* }" -ge "$3" ] ||
            bad "'$last' predicted, it is $3: $RAN"
        return
    fi
    [ "$last" = "$3" ] || bad "'$last' predicted, it is $3: $RAN"
    can json || return
    go "$1" "$2" "${@:4}" -n --json; done_well
    json=$($H json "$out" bytes 2> "$err") || bad "no JSON ($(cat "$err")): $RAN"
    [ "$json" = "$3" ] || bad "'$json' in the JSON, it is $3: $RAN"
}

contract_20_dry_run() {
    can dry || return
    local format in
    for format in $(suffixes); do
        for in in small weird; do
            mkdir "$S/d"
            go "$(input $in safetensors)" "$S/d/a.$format" -n; done_well
            [ "$(entries "$S/d")" = 0 ] || bad "something is written: $RAN"
            go "$(input $in safetensors)" "$S/a.$format"
            predicted "$(input $in safetensors)" "$S/d/a.$format" "$(stat -c %s "$S/a.$format")"
            rm -r "$S/d"
        done
    done
    if ! can st-only; then
        command_for "$(input small safetensors)" ""
        in=$("${CMD[@]}" | wc -c)
        predicted "$(input small safetensors)" "" "$in"
    fi
    can pq-only && return
    go "$W/in/dir.$INPUT" "$S/m/"; done_well
    predicted "$W/in/dir.$INPUT" "$S/n/" "$(cat "$S"/m/* | wc -c)"
    absent "$S/n"
}

# ---- The run ----------------------------------------------------------------

contracts() { declare -F | sed -n 's/^declare -f \(contract_\)/\1/p'; }

# Runs the contracts over one row; the last line is "PASSED FAILED".
run_row() {
    local c
    PASSED=0 FAILED=0
    for c in $(contracts); do
        wanted "${c:9:2}" "$numbers" || continue
        [ "${c:9:2}" = 18 ] && continue
        one $c
    done
    echo "= $PASSED $FAILED"
}
one() {
    S=$W/s/$LABEL
    rm -rf "$S"
    mkdir -p "$S"
    out=$W/s/$LABEL.out
    err=$W/s/$LABEL.err
    local t=$SECONDS
    check "$LABEL ${1#contract_}" $1
    [ -n "${PQ_TIMES:-}" ] && [ $((SECONDS - t)) -gt 0 ] && echo "time $LABEL $1 $((SECONDS - t)) s"
    chmod -R u+w "$S" && rm -rf "$S"
}
wanted() { [ -z "$2" ] || [[ " $2 " == *" $1 "* ]]; }

jobs=2 numbers= labels=
while [ $# -gt 0 ]; do
    case $1 in
        -j) jobs=$2; shift ;;
        [0-9]*) numbers+=" $(printf '%02d' $((10#$1)))" ;;
        *) labels+=" $1" ;;
    esac
    shift
done

# Every tool has a row.
table_complete() {
    local p
    for p in "$BIN"/pq-*; do
        grep -qP "(\t${p##*/} |^# own: ${p##*/} )" "$HERE/tools.tsv" || bad "${p##*/} has no row in tools.tsv"
    done
}
check "table" table_complete
prepare
rows=()
while IFS=$'\t' read -r LABEL KIND INPUT CAN LINE; do
    [[ $LABEL == \#* || -z $LABEL ]] && continue
    wanted "$LABEL" "$labels" || continue
    rows+=("$LABEL")
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
    mkdir -p "$W/rows"
    run_row > "$W/rows/$LABEL" &
done < "$HERE/tools.tsv"
wait
for LABEL in "${rows[@]}"; do
    grep -v '^= ' "$W/rows/$LABEL"
    read -r _ p f < <(grep '^= ' "$W/rows/$LABEL")
    PASSED=$((PASSED + ${p:-0})) FAILED=$((FAILED + ${f:-1}))
done
# Peak memory alone, one at a time: its inputs are large.
if wanted 18 "$numbers"; then
    rm -rf "$W/in"/many.* "$W/in"/mid.*
    sanitized || prepare_huge
    while IFS=$'\t' read -r LABEL KIND INPUT CAN LINE; do
        [[ $LABEL == \#* || -z $LABEL ]] && continue
        wanted "$LABEL" "$labels" && one contract_18_memory
    done < "$HERE/tools.tsv"
fi
finish
