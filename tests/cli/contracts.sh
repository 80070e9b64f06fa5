# The twenty contracts, each a function over the row at hand.  $S is a scratch
# folder of its own, $out and $err what the last command wrote.
SIGPIPE=141
VERSION=$(sed -n 's/^VERSION := //p' "$ROOT/Makefile")

# go IN OUT OPTION...: runs the row's command
go() {
    command_for "$@"
    run "${CMD[@]}"
}
# fine: silent, with the status of success
fine() {
    [ $RC = "$GOOD" ] || bad "rc $RC ($(head -n 1 "$err")): $RAN"
    [ -s "$err" ] && bad "not silent ($(head -n 1 "$err")): $RAN"
    return 0
}
# as_pipe FORMAT: sets AS, the option that makes stdout FORMAT
as_pipe() {
    AS=()
    model_out && ! can fixed && AS=(-O "$1")
    return 0
}
# to_stdout: sets AS, what makes the same stdout in every way to run it
to_stdout() {
    as_pipe "$(suffix)"
    ! model_out && can json && AS=(--json)
    return 0
}

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
    can recipe && return
    local in
    to_stdout
    for in in $(formats); do
        in=$(input small $in)
        go "$in" "" "${AS[@]}"; fine
        cp "$out" "$S/a"
        command_for "" "" "${AS[@]}"
        "${CMD[@]}" < "$in" > "$S/b" 2> "$err"
        RC=$?
        [ $RC = $GOOD ] || bad "rc $RC from a file on stdin: ${CMD[*]} < $in"
        cmp -s "$S/a" "$S/b" || bad "file and stdin differ: ${CMD[*]} < $in"
        command_for - "" "${AS[@]}"
        cat "$in" 2> /dev/null | "${CMD[@]}" > "$S/b" 2> "$err"
        RC=${PIPESTATUS[1]} # cat may be told that no more is read
        [ "$RC" = $GOOD ] || bad "rc $RC from a pipe: cat $in | ${CMD[*]}"
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
        as_pipe "$format"
        go "$(input small safetensors)" "$S/a.$format"; fine
        [ -s "$out" ] && bad "something on stdout: $RAN"
        # -O is in the provenance, and may be: with it the bytes agree
        go "$(input small safetensors)" "$S/a.$format" "${AS[@]}"; fine
        go "$(input small safetensors)" "" "${AS[@]}"; fine
        cmp -s "$S/a.$format" "$out" || bad "-o and > differ: $RAN"
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
    as_pipe "$(suffix)"
    can silent && AS=(--json)
    command_for "$(input "$1" safetensors)" "" "${AS[@]}"
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
    if ! can recipe; then
        command_for "" ""
        "${CMD[@]}" <&- > "$out" 2> "$err"
        RC=$? RAN="${CMD[*]} <&-"
        refused
    fi
    model_out || return
    command_for "$(input tiny safetensors)" "$S/o.$(suffix)"
    "${CMD[@]}" <&- >&- 2> "$err" # stdout is not needed
    RC=$? RAN="${CMD[*]} <&- >&-"
    command_for "$(input tiny safetensors)" "$S/p.$(suffix)"
    "${CMD[@]}"
    [ $RC != 0 ] || cmp -s "$S/o.$(suffix)" "$S/p.$(suffix)" || bad "another output: $RAN"
}

contract_09_reader_gone() {
    can silent || can short && return
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

damage() { # cut|STEP file|pipe STATUS SIZE FORMAT
    local to=- in=@IN where=
    SIZE=$4
    can recipe && in=$S/$1/input # what the helper puts for @IN
    model_out && to=x.$(suffix) where=@OUT
    [ "$2" = pipe ] && in=
    command_for "$in" "$where"
    can engine && command_for "$in" "$where" -T1
    $H damage "$START" "$1" "$2" "$3" "$S/$1" $to "$(input "$4" "$5")" "${CMD[@]}" > "$out" 2>&1 && return
    while read -r line; do bad "$line"; done < "$out"
}

contract_10_truncation() {
    local format
    for format in $(formats); do
        damage cut file "$(bad_status)" cut $format
        can recipe || damage cut pipe "$(bad_status)" cut $format
    done
}

contract_11_damage() {
    local format step=1
    sanitized && step=5 # what checksums find is read by few lines, all the same
    for format in $(formats); do
        if [ $format = safetensors ]; then # has no checksums
            damage 1 file any tiny $format
        else
            damage $step file "$(bad_status)" tiny $format
        fi
    done
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
        run "${CMD[@]}"; fine
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
            can pq-only || can no-dir && continue
            if [ "$INPUT" = llama ]; then
                in=$(input dir)
            else
                in=$S/mid.dir
                mkdir "$in"
                ln "$(input mid safetensors)" "$in/model.safetensors"
                sed 's/"num_hidden_layers": 5/"num_hidden_layers": 41/' "$MODEL/config.json" > "$in/config.json"
            fi
            if can adapter; then
                cp -r "$ADAPTER" "$S/previous"
            else
                mkdir "$S/previous"
                cp "$MODEL/config.json" "$S/previous/"
                cp "$(input tiny safetensors)" "$S/previous/model.safetensors"
            fi
        else
            echo old > "$S/previous.$(suffix)"
        fi
        t0=$(date +%s%N)
        go "$in" "$S/whole${to#x}"; fine
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
    $H ignoring 2 2000 "${CMD[@]}" 2> "$err"
    RC=$?
    [ $RC = $GOOD ] || bad "rc $RC with SIGINT ignored: ${CMD[*]}"
    cmp -s "$S/i.$(suffix)" "$S/whole.$(suffix)" || bad "another output with SIGINT ignored: ${CMD[*]}"
}

contract_13_output_over_input() {
    model_out || return
    local format
    for format in $(suffixes); do
        go "$(input mid $format)" "$S/a.$format"
        cp "$(input mid $format)" "$S/b.$format"
        if can beside; then
            go "$S/b.$format" "$S/b.$format"; refused 'not replaced: it is the input'
            cmp -s "$S/b.$format" "$(input mid $format)" || bad "the input is another: $RAN"
            continue
        fi
        if can recipe; then
            go "$S/b.$format" "$S/b.$format"; refused 'a cycle'
            cmp -s "$(input mid $format)" "$S/b.$format" || bad "the input has changed: $RAN"
            continue
        fi
        go "$S/b.$format" "$S/b.$format"; fine
        cmp -s "$S/a.$format" "$S/b.$format" || bad "another output over the input: $RAN"
        cp "$(input mid $format)" "$S/target"
        ln -s target "$S/l.$format"
        go "$S/l.$format" "$S/l.$format"; fine
        cmp -s "$S/a.$format" "$S/target" || bad "a link is not followed: $RAN"
        [ -L "$S/l.$format" ] || bad "the link is gone: $RAN"
        rm "$S/target" "$S/l.$format"
    done
    can pq-only || can recipe || only_pq && return
    go "$(input dir)" "$S/a/"; fine
    cp -r "$(input dir)" "$S/b"
    if can adapter; then
        go "$S/b" "$S/b/"; refused 'not replaced: it holds a model'
        same "$(input dir)" "$S/b"
        return
    fi
    go "$S/b" "$S/b/"; fine
    same "$S/a" "$S/b"
}

contract_14_threads_and_isa() {
    can engine || return
    local n in
    to_stdout
    for in in mid weird; do
        go "$(input $in safetensors)" "" "${AS[@]}" -T1; fine
        cp "$out" "$S/a"
        for n in "-T8" "-T2 --memory=16M" "-T3 --memory=1G"; do
            go "$(input $in safetensors)" "" "${AS[@]}" $n; fine
            cmp -s "$S/a" "$out" || bad "another output than with -T1: $RAN"
        done
        command_for "$(input $in safetensors)" "" "${AS[@]}"
        PQ_CPU=scalar run "${CMD[@]}"; fine
        cmp -s "$S/a" "$out" || bad "another output: PQ_CPU=scalar $RAN"
        can recipe && continue
        command_for "" "" "${AS[@]}" -T8 --memory=16M
        cat "$(input $in pq)" 2> /dev/null | "${CMD[@]}" > "$S/p" 2> "$err"
        RC=${PIPESTATUS[1]}
        [ "$RC" = $GOOD ] || bad "rc $RC: cat $(input $in pq) | ${CMD[*]}"
        go "$(input $in pq)" "" "${AS[@]}" -T1
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
    SIZE=small
    go "$S/ro/m.safetensors" "$to"; fine
    cp -r "$(input dir)" "$S/rod"
    chmod -R a-w "$S/rod"
    SIZE=dir
    if ! model_out; then
        go "$S/rod" ""; fine
    elif ! can pq-only; then
        go "$S/rod" "$S/d/"; fine
        go "$(input dir)" "$S/e/"
        same "$S/d" "$S/e"
        for to in "$S"/d/*; do
            [ -w "$to" ] || bad "the output is read-only as the input was: $RAN"
        done
        to=$S/a.$(suffix)
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
    AS=()
    # a container without /dev/pts has no terminals to refuse
    $H tty true < /dev/null > /dev/null 2>&1 || return 0
    can pq-only && as_pipe pq
    command_for "$(input tiny safetensors)" "" "${AS[@]}"
    $H tty "${CMD[@]}" < /dev/null > "$out" 2> "$err"
    RC=$?
    RAN="${CMD[*]} (stdout a terminal)"
    if model_out; then
        misused
        can fixed && return
        command_for "$(input tiny safetensors)" "" "${AS[@]}" -f
        $H tty "${CMD[@]}" < /dev/null > "$out" 2> "$err" || bad "rc $?: ${CMD[*]} on a terminal with -f"
    else
        fine
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
        command_for "$(input $in safetensors)" "$to"
        run prlimit --cpu=60 "${CMD[@]}"; fine # one loop in another would take minutes
        masked "$out" output
        model_out || continue
        run "$BIN/pq-verify" "$to"; done_well
        go "$(input $in pq)" "$to"; fine
    done
    go "$(input weird safetensors)" "$to" -v
    [ $RC = $GOOD ] || bad "rc $RC: $RAN"
    masked "$err" messages
    if can dry; then
        go "$(input weird safetensors)" "$to" -n; fine
        masked "$out" plan
    fi
    if can json; then
        to=
        model_out && to=$S/b.$(suffix)
        go "$(input weird safetensors)" "$to" --json; fine
        [ -s "$out" ] && { is_json "$out" || bad "no JSON ($(cat "$err")): $RAN"; }
    fi
    rm -f "$S"/[ab].*
    go "$W/odd/latin.safetensors" "$to"
    [ $RC = "$(bad_status)" ] || bad "rc $RC for a name that is not UTF-8: $RAN"
    [ "$to" ] && absent "$to"
    return 0
}

# peak KIB: what $H rss left in $S/rss is not more, and the status was right
peak() {
    local peak=0
    [ "$RC" = $GOOD ] || bad "rc $RC ($(head -n 1 "$err")): $RAN"
    [ -s "$S/rss" ] && peak=$(cat "$S/rss")
    [ "$peak" -gt 0 ] && [ "$peak" -le "$1" ] || bad "peak of $peak KiB, more than $1: $RAN"
}
# measured IN OUT OPTION...: from and to files
measured() {
    command_for "$@"
    [ -n "$2" ] && ! can fixed && CMD+=(--no-sync)
    RAN="helper rss /tmp/kib ${CMD[*]}"
    $H rss "$S/rss" "${CMD[@]}" > /dev/null 2> "$err"
    RC=$?
    rm -f "$2"
}

contract_18_memory() {
    can engine || return
    local in n to=
    model_out && to=$S/o.$(suffix)
    for in in huge one; do
        for n in 2 8; do
            measured "$(input $in safetensors)" "$to" -T$n
            peak 131072
            can recipe && continue
            command_for "" "" -T$n
            RAN="cat $(input $in safetensors) | helper rss /tmp/kib ${CMD[*]} | cat"
            cat "$(input $in safetensors)" 2> /dev/null |
                $H rss "$S/rss" "${CMD[@]}" 2> "$err" | cat > /dev/null
            RC=${PIPESTATUS[1]}
            peak 131072
        done
    done
    measured "$(input huge safetensors)" "$to" -T8 --memory=48M
    peak 49152
}

# is_json FILE: one document, or one a line; its key "tool" in TOOL
is_json() {
    local line
    if can lines; then
        while read -r line; do
            printf '%s\n' "$line" > "$S/line"
            $H json "$S/line" 2> "$err" || return
        done < "$1"
    else
        cp "$1" "$S/line"
        $H json "$1" 2> "$err" || return
    fi
    TOOL=$($H json "$S/line" tool 2>&1)
}
contract_19_json() {
    can json || return
    local to= in
    model_out && to=$S/a.$(suffix)
    for in in small weird; do
        go "$(input $in safetensors)" "$to" --json; fine
        is_json "$out" || bad "no JSON ($(cat "$err")): $RAN"
        [ "$TOOL" = "\"${LINE%% *}\"" ] || bad "no key \"tool\" with ${LINE%% *}: $RAN"
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
    go "$1" "$2" "${@:4}" -n; fine
    last=$(tail -n 1 "$out")
    if can at-most; then
        [[ $last =~ ^"at most "[0-9]+$ ]] && [ "${last##* }" -ge "$3" ] ||
            bad "'$last' predicted, it is $3: $RAN"
        return
    fi
    [ "$last" = "$3" ] || bad "'$last' predicted, it is $3: $RAN"
    can json || return
    go "$1" "$2" "${@:4}" -n --json; fine
    json=$($H json "$out" bytes 2> "$err") || bad "no JSON ($(cat "$err")): $RAN"
    [ "$json" = "$3" ] || bad "'$json' in the JSON, it is $3: $RAN"
}

contract_20_dry_run() {
    can dry || return
    local format in
    for format in $(suffixes); do
        for in in small weird; do
            mkdir "$S/d"
            go "$(input $in safetensors)" "$S/d/a.$format" -n; fine
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
    go "$(input dir)" "$S/m/"; fine
    predicted "$(input dir)" "$S/n/" "$(cat "$S"/m/* | wc -c)"
    absent "$S/n"
}
