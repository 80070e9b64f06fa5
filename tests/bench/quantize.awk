# The rows of run.sh; see table.awk.

function rows() {
    rows_of_speed()
    rows_of_memory()
    rows_of_kernels()
}

function rows_of_speed() {
    against("nf4 -T2, bitsandbytes", "nf4", "rival_nf4", ">= 10")
    against("nf4 -T2, cat", "nf4", "cat", ">= 0.6")
    against("nf4 -T2, nf4 -T1", "nf4", "nf4_T1", ">= 1.7")
    against("nf4 from a pipe, from a file", "nf4_pipe", "nf4", "")
    against("f16, torch", "f16", "rival_f16", ">= 4")
    against("bf16, torch", "bf16", "rival_bf16", ">= 4")
    against("int8, torch", "int8", "rival_int8", ">= 4")
    if (!("info" in n))
        return
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
    if (!("nf4_encode" in kernel))
        return
    row("kernel nf4_encode", "Gelem/s", kernel["nf4_encode"], 0.017, "", ">= 1")
    row("kernel int8_rows_encode", "Gelem/s", kernel["int8_rows_encode"], -1, "", ">= 1")
    row("kernel f32_to_f16", "Gelem/s", kernel["f32_to_f16"], -1, "", ">= 2")
}
