/*
 * The safetensors reader: open, read every part, finish.
 */
#include "fuzz.h"
#include "safetensors_mutator.h"

static void use(const char *path, int *writer, struct fuzz_result *r)
{
    struct pq_source *s = fuzz_open(path, writer, &r->e);

    r->ok = s && fuzz_read_all(s, r) == 0;
    pq_source_free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    fuzz_both(data, n, use);
    return 0;
}
