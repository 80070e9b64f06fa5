# The rows of pack.sh; see table.awk.

function rows() {
    rows_of_kind("f32", "f32", 0.81)
    rows_of_kind("bf16", "bf16", 0.68)
    rows_of_kind("f16", "f16", 0.84)
    rows_of_kind("f16-half", "f16, half zero", 0.44)
}

function rows_of_kind(k, what, part) {
    part_beside(k, what, "zstd-3", "zstd -3", "<= " part)
    part_beside(k, what, "zstd-19", "zstd -19", "")
    part_beside(k, what, "xz", "xz -6", "")
    row(what ": pack, zstd -3", "GB/s", median(k "_pq_pack"),
        median(k "_zstd-3_pack"), "", ">= 0.5")
    row(what ": unpack, zstd -3", "GB/s", median(k "_pq_unpack"),
        median(k "_zstd-3_unpack"), "", ">= 1.2")
}

function part_beside(k, what, rival, name, target) {
    if ((k "_" rival "_part") in n)
        row(what ": size, " name, "part", median(k "_pq_part"),
            median(k "_" rival "_part"), "", target)
}
