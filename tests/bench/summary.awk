# Turns the raw figures of run.sh into the table, and into JSON with
# -v json=1.  Lines in: KEY SECONDS PEAK_KIB, several a key; and
# kernel NAME GELEM/S.  The median of a key counts.

$1 == "kernel" { kernel[$2] = $3; next }
$1 == "fact" { fact[$2] = $3; next }
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
           rows++ ? "," : "", what, unit, value(ours), value(theirs),
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

function rows_of_speed() {
    against("nf4 -T2, bitsandbytes", "nf4", "rival_nf4", ">= 10")
    against("nf4 -T2, cat", "nf4", "cat", ">= 0.6")
    against("nf4 -T2, nf4 -T1", "nf4", "nf4_T1", ">= 1.7")
    against("nf4 from a pipe, from a file", "nf4_pipe", "nf4", "")
    against("f16, torch", "f16", "rival_f16", ">= 4")
    against("bf16, torch", "bf16", "rival_bf16", ">= 4")
    against("int8, torch", "int8", "rival_int8", ">= 4")
    row("pq-info, 300 tensors", "ms", median("info") * 1000, -1, "", "<= 5")
    row("open 100000 tensors", "s", median("open"), median("rival_open"),
        over(median("open"), median("rival_open")), "<= 0.8")
}

function rows_of_memory(    limit) {
    peak("peak nf4 -T1", "nf4_T1", "<= 128")
    peak("peak nf4 -T2", "nf4", "<= 128")
    peak("peak nf4 from a pipe", "nf4_pipe", "<= 128")
    peak("peak f16", "f16", "<= 128")
    peak("peak bf16", "bf16", "<= 128")
    peak("peak int8", "int8", "<= 128")
    # 128 MiB, and 4 times the header beyond 8 MiB
    limit = fact["many_header"] / 1048576 - 8
    peak("peak pq-info, 100000 tensors", "info_many",
         sprintf("<= %.0f", 128 + 4 * (limit > 0 ? limit : 0)))
}

function rows_of_kernels() {
    row("kernel nf4_encode", "Gelem/s", kernel["nf4_encode"], 0.017, "", ">= 1")
    row("kernel int8_rows_encode", "Gelem/s", kernel["int8_rows_encode"], -1, "", ">= 1")
    row("kernel f32_to_f16", "Gelem/s", kernel["f32_to_f16"], -1, "", ">= 2")
}

END {
    if (json)
        printf "{\n  \"model_bytes\": %s, \"runs\": %s, \"quick\": %s, \"cores\": %s,\n  \"rows\": [",
               fact["bytes"], fact["runs"], fact["quick"] ? "true" : "false",
               fact["cores"]
    else
        printf "%-34s %10s %10s %8s %9s  %s\n", "what", "ours", "rival",
               "ratio", "target", "met"
    rows_of_speed()
    rows_of_memory()
    rows_of_kernels()
    if (json)
        printf "\n  ]\n}\n"
}
