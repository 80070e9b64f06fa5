# Turns the raw figures of run.sh and surgery.sh into a table, and into JSON
# with -v json=1.  Lines in: KEY SECONDS PEAK_KIB, several a key; kernel NAME
# GELEM/S; note TEXT, which is printed once.  The median of a key counts.
# Which rows there are is rows() of the second file.

$1 == "kernel" { kernel[$2] = $3; next }
$1 == "fact" { fact[$2] = $3; next }
$1 == "note" { notes[$0] = substr($0, 6); next }
{ n[$1]++; v[$1, n[$1]] = $2; if ($3 > rss[$1]) rss[$1] = $3 }

function median(k,    i, j, t, a) {
    if (!(k in n))
        return -1
    for (i = 1; i <= n[k]; i++)
        a[i] = v[k, i]
    for (i = 2; i <= n[k]; i++)
        for (j = i; j > 1 && a[j] < a[j - 1]; j--) {
            t = a[j]; a[j] = a[j - 1]; a[j - 1] = t
        }
    return n[k] % 2 ? a[(n[k] + 1) / 2] : (a[n[k] / 2] + a[n[k] / 2 + 1]) / 2
}

function number(x, format) { return x == "" || x < 0 ? "-" : sprintf(format, x) }

# One line: what, ours, theirs, ratio, and the target as ">= X" or "<= X".
function row(what, unit, ours, theirs, ratio, target,    t, judged, verdict) {
    split(target, t, " ")
    judged = ratio == "" ? ours : ratio
    verdict = "-"
    if (target != "" && judged >= 0)
        verdict = (t[1] == ">=" ? judged >= t[2] : judged <= t[2]) ? "yes" : "NO"
    if (!json) {
        printf "%-34s %10s %10s %8s %9s  %s\n", what " [" unit "]",
               number(ours, "%.4g"), number(theirs, "%.4g"),
               number(ratio, "%.3g"), target, verdict
        return
    }
    printf "%s\n    {\"what\": \"%s\", \"unit\": \"%s\", \"ours\": %s, \"rival\": %s, \"ratio\": %s, \"target\": \"%s\", \"met\": %s}",
           n_rows++ ? "," : "", what, unit, value(ours), value(theirs),
           value(ratio), target,
           verdict == "-" ? "null" : verdict == "yes" ? "true" : "false"
}

function value(x) { return x == "" || x < 0 ? "null" : sprintf("%.6g", x) }

# a / b where both were measured
function over(a, b) { return a >= 0 && b > 0 ? a / b : -1 }

function against(what, ours, theirs, target,    a, b) {
    a = median(ours)
    b = median(theirs)
    if (a >= 0)
        row(what, "s", a, b, over(b, a), target)
}

function peak(what, key, limit) {
    if (key in n)
        row(what, "MiB", rss[key] / 1024,
            ("rival_" key) in n ? rss["rival_" key] / 1024 : -1, "", limit)
}

END {
    if (json)
        printf "{\n  \"model_bytes\": %s, \"runs\": %s, \"quick\": %s, \"cores\": %s,\n  \"rows\": [",
               fact["bytes"], fact["runs"], fact["quick"] ? "true" : "false",
               fact["cores"]
    else
        printf "%-34s %10s %10s %8s %9s  %s\n", "what", "ours", "rival",
               "ratio", "target", "met"
    rows()
    if (json)
        printf "\n  ]\n}\n"
    else
        for (k in notes)
            print "    " notes[k]
}
