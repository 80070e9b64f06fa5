/*
 * A model directory whose index of shards is the input.
 *
 * The directory is made once; its two shards do not change.  What the index
 * names must be read, or refused: never a file outside.
 */
#include "dir.h"
#include "fuzz.h"

static char dir[64];

static void remove_dir(void)
{
    static const char *const names[] = {PQ_DIR_INDEX,
                                        "model-00001-of-00002.safetensors",
                                        "model-00002-of-00002.safetensors"};
    char path[160];

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
    rmdir(dir);
}

static void put_file(const char *name, const void *p, size_t n)
{
    char path[160];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, p, n) != (ssize_t)n || close(fd) != 0)
        abort();
}

/* A shard with one or two tensors of four bytes. */
static void put_shard(const char *name, const char *header, size_t data)
{
    uint8_t b[512] = {0};
    const size_t n = strlen(header);

    fuzz_put64(b, n);
    memcpy(b + 8, header, n);
    put_file(name, b, 8 + n + data);
}

static void make_dir(void)
{
    const char *const parent =
        access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";

    snprintf(dir, sizeof dir, "%s/pq-fuzz-XXXXXX", parent);
    if (!mkdtemp(dir) || atexit(remove_dir) != 0)
        abort();
    put_shard("model-00001-of-00002.safetensors",
              "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
              "\"b\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[4,8]}}",
              8);
    put_shard("model-00002-of-00002.safetensors",
              "{\"c\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
              4);
}

/* The names that the parser lets through are plain. */
static void check_parser(const char *text, size_t n)
{
    struct pq_dir_index x = {0};
    struct pq_error e = PQ_ERROR_INIT;

    if (pq_dir_index_parse(&x, text, n, &e) == 0)
        for (size_t i = 0; i < x.n_files; i++)
            if (strchr(x.files[i], '/') || x.files[i][0] == '.')
                fuzz_broken("a path got through", x.files[i], "");
    if (e.code == PQ_OK && x.n_map > 0 && x.n_files == 0)
        fuzz_broken("tensors without a file", "", "");
    pq_dir_index_release(&x);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct fuzz_result r = {.e = PQ_ERROR_INIT};
    struct pq_source *s = NULL;

    if (n > FUZZ_INPUT)
        return 0;
    if (!dir[0])
        make_dir();
    char *const text = malloc(n ? n : 1);
    if (!text || !(r.hash = pq_hash_new(NULL)))
        abort();
    if (n > 0)
        memcpy(text, data, n);
    check_parser(text, n);
    put_file(PQ_DIR_INDEX, text, n);
    if (pq_open_model(dir, NULL, &s, &r.e) == 0)
        r.ok = fuzz_read_all(s, &r) == 0;
    if (!r.ok && (r.e.msg[0] == '\0' || strchr(r.e.msg, '\n')))
        fuzz_broken("a refusal is not one line", r.e.msg, "");
    pq_source_free(s);
    pq_hash_free(r.hash);
    free(text);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *p, size_t n, size_t max, unsigned seed)
{
    uint32_t s = seed;

    return fuzz_text(p, n, max, &s);
}
