# The rows of nn.sh; see table.awk.  Rates of decoding are judged by those of
# products of a matrix and a vector, 0.8 of 5.3, 8.7, 15.4 and 10.5 10^9 weights
# a second: what the machine did that the targets were measured on.

$1 == "gemm" {
    if (!($2 in gemm))
        shapes[++n_shapes] = $2
    if ($3 > gemm[$2])
        gemm[$2] = $3
    next
}

# seconds a step, or a token: what many take more than one
function each(key, many,    a, b) {
    a = median(key "_1")
    b = median(key "_" many + 1)
    return a < 0 || b < 0 ? -1 : (b - a) / many
}

function rows() {
    rows_of_training("8m", 12, 2048, ">= 1.35", ">= 1.6")
    rows_of_training("98m", 3, 512, ">= 1.35", ">= 1.35")
    against("scoring, transformers", "eval", "rival_eval", ">= 1.3")
    peak("peak scoring", "eval", "")
    row_of_decoding("f32", ">= 4.24")
    row_of_decoding("f16", ">= 6.96")
    row_of_decoding("int8", ">= 12.3")
    row_of_decoding("nf4", ">= 8.4")
    peak("peak QLoRA, 1.1B", "qlora", "<= 2500")
    if ("start" in n)
        row("start to first token", "ms", median("start") * 1000, -1, "", "<= 50")
    rows_of_gemm()
}

# ours, theirs and their ratio in tokens a second
function rows_of_training(model, steps, tokens, full, lora,    m, k, a, b) {
    for (m = 0; m < 2; m++) {
        k = (m ? "lora-" : "full-") model
        a = each(k, steps)
        b = median("rival_" k)
        if (a < 0)
            continue
        row((m ? "LoRA, " : "full, ") model ", torch", "tok/s", tokens / a,
            b < 0 ? -1 : tokens / b, over(b, a), m ? lora : full)
        rss[k] = rss[k "_" steps + 1]
        if (b >= 0)
            row("peak " (m ? "LoRA, " : "full, ") model, "MiB", rss[k] / 1024,
                rss["rival_" k] / 1024, rss["rival_" k] / rss[k], ">= 3")
    }
    a = each("full-" model, steps)
    b = each("full-" model "-T1", steps)
    if (a >= 0 && b >= 0)
        row("full, " model ", -T1", "tok/s", tokens / a, tokens / b, over(b, a),
            ">= 1.8")
}

function row_of_decoding(type, target,    t) {
    t = each("decode-" type, 32)
    if (t > 0)
        row("decoding " type ", 1.1B", "Gw/s", 1.034 / t, -1, "", target)
}

# beside what multiply-adds in registers alone reach
function rows_of_gemm(    i, k, most) {
    for (i = 1; i <= n_shapes; i++) {
        k = shapes[i]
        most = fact["fma_peak_" substr(k, 1, index(k, "-") - 1)]
        row("product " k ", peak", "GF/s", gemm[k], most, gemm[k] / most, "")
    }
}
