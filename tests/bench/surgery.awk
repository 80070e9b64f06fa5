# The rows of surgery.sh; see table.awk.

function rows() {
    against("merge an adapter, peft", "merge", "rival_merge", ">= 6")
    peak("peak merge", "merge", "<= 128")
    against("extract rank 16, dense SVD", "extract", "rival_extract", ">= 20")
    peak("peak extract", "extract", "")
    row_of_resize()
    peak("peak resize", "resize", "")
    against("linear of two, mergekit", "linear", "rival_linear", ">= 8")
    peak("peak linear", "linear", "<= 512")
    against("ties of two, mergekit", "ties", "rival_ties", ">= 10")
    peak("peak ties", "ties", "<= 512")
    rows_of_prune()
    rows_of_delta()
}

function rows_of_prune(    a, b) {
    if (!("prune" in n))
        return
    against("prune half, global, torch", "prune", "rival_prune", ">= 15")
    peak("peak prune", "prune", "<= 128")
    a = median("prune")
    b = median("read") + median("copy")
    row("over reading twice and writing", "x", a / b, -1, "", "<= 2.5")
    row("prune 2:4", "s", median("prune_24"), -1, "", "")
}

# ours does all layers, the rival one
function row_of_resize(    a, b) {
    if (!("resize" in n))
        return
    a = median("resize") / fact["layers"] * 1000
    b = median("rival_resize")
    row("resize to rank 8, a layer", "ms", a, b < 0 ? -1 : b * 1000, "", "<= 10")
}

function rows_of_delta(    a, b) {
    if (!("delta" in n))
        return
    against("delta, zstd -19 --patch-from", "delta", "rival_delta", ">= 10")
    peak("peak delta", "delta", "<= 128")
    notes["delta"] = "delta: of a model of one layer"
    a = median("size")
    b = median("rival_size")
    row("size of the delta", "MiB", a / 1048576, b < 0 ? -1 : b / 1048576,
        over(b, a), ">= 1")
    against("patch, zstd -d --patch-from", "patch", "rival_patch", "")
    peak("peak patch", "patch", "<= 128")
}
