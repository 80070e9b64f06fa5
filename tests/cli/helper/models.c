/*
 * Making safetensors files, and changing the numbers in one.
 */
#include "helper.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct tensor {
    char *name, *dtype, *shape, *fill;
    uint64_t elements, bytes;
};

static unsigned dtype_bytes(const char *d)
{
    static const struct { const char *name; unsigned bytes; } all[] = {
        {"F64", 8}, {"I64", 8}, {"F32", 4}, {"I32", 4}, {"F16", 2},
        {"BF16", 2}, {"I8", 1}, {"U8", 1}, {"BOOL", 1}};

    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(all[i].name, d) == 0)
            return all[i].bytes;
    die("dtype %s?", d);
}

/* "NAME=F32[4,64]rand"; the name goes between quotes as it is. */
static struct tensor parse_tensor(const char *text)
{
    struct tensor t;
    char *s = must(strdup(text)), *open_ = strrchr(s, '['),
         *close_ = strrchr(s, ']');
    char *eq = NULL;

    for (char *p = s; open_ && p < open_; p++)
        if (*p == '=')
            eq = p;
    if (!open_ || !close_ || !eq)
        die("tensor '%s'?", text);
    *eq = *open_ = *close_ = '\0';
    t = (struct tensor){s, eq + 1, open_ + 1, close_ + 1, 1, 0};
    for (char *p = t.shape, *after; *p; p = after + (*after == ',')) {
        t.elements *= strtoull(p, &after, 10);
        if (after == p || (*after && *after != ','))
            die("shape [%s]?", t.shape);
    }
    t.bytes = t.elements * dtype_bytes(t.dtype);
    return t;
}

/* A float with a plain pattern, as the dtype stores it; integers: bits. */
static void put_value(const char *dtype, float v, unsigned char *p)
{
    uint32_t u;

    memcpy(&u, &v, 4);
    if (strcmp(dtype, "BF16") == 0) {
        p[0] = (unsigned char)(u >> 16);
        p[1] = (unsigned char)(u >> 24);
    } else if (strcmp(dtype, "F32") == 0) {
        for (int i = 0; i < 4; i++)
            p[i] = (unsigned char)(u >> 8 * i);
    } else {
        memset(p, 0, dtype_bytes(dtype));
        p[0] = u >> 16 & 1;
    }
}

static float value(const struct tensor *t, uint64_t i, uint64_t *state)
{
    const bool last = i + 1 == t->elements;

    if (strcmp(t->fill, "nan") == 0 && last)
        return strtof("nan", NULL);
    if (strcmp(t->fill, "inf") == 0 && last)
        return strtof("inf", NULL);
    if (strcmp(t->fill, "big") == 0 && last)
        return 1e6f;
    if (strcmp(t->fill, "eye") == 0) /* of a square matrix */
        return i % (strtoull(t->shape, NULL, 10) + 1) == 0;
    if (strcmp(t->fill, "norm") == 0)
        return (float)(next_random(state) >> 40) / (1 << 24) + 0.25f;
    if (strcmp(t->fill, "step") == 0)
        return (float)(i / 64 % 4 + 1) * 0.25f;
    return (float)(int64_t)(next_random(state) >> 40) / (1 << 24) - 0.5f;
}

static void write_body(FILE *f, const struct tensor *t, uint64_t *state)
{
    const unsigned size = dtype_bytes(t->dtype);
    unsigned char page[4096];

    if (t->fill[0] == '\0') { /* a hole, with a value or two at its start */
        uint64_t some = t->elements < 1024 ? t->elements : 1024;
        for (uint64_t i = 0; i < some; i++) {
            put_value(t->dtype, value(t, i, state), page);
            fwrite(page, size, 1, f);
        }
        if (fseeko(f, (off_t)((t->elements - some) * size), SEEK_CUR) != 0)
            die("%s", strerror(errno));
        return;
    }
    size_t used = 0;
    for (uint64_t i = 0; i < t->elements; i++) {
        put_value(t->dtype, value(t, i, state), page + used);
        used += size;
        if (used == sizeof page || i + 1 == t->elements) {
            fwrite(page, 1, used, f);
            used = 0;
        }
    }
}

static void write_safetensors(const char *path, const char *metadata,
                              const struct tensor *t, size_t n)
{
    char *head;
    size_t n_head;
    FILE *h = must(open_memstream(&head, &n_head));
    uint64_t at = 0, state = 1;

    fprintf(h, "{\"__metadata__\":{\"format\":\"pt\"%s%s}",
            metadata ? "," : "", metadata ? metadata : "");
    for (size_t i = 0; i < n; i++) {
        fprintf(h, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],"
                   "\"data_offsets\":[%llu,%llu]}",
                t[i].name, t[i].dtype, t[i].shape, (unsigned long long)at,
                (unsigned long long)(at + t[i].bytes));
        at += t[i].bytes;
    }
    fputc('}', h);
    fflush(h);
    while (n_head % 8) {
        fputc(' ', h);
        fflush(h);
    }
    fclose(h);

    FILE *f = fopen(path, "wb");
    if (!f)
        die("%s: %s", path, strerror(errno));
    for (int i = 0; i < 8; i++)
        fputc((int)((uint64_t)n_head >> 8 * i & 255), f);
    fwrite(head, 1, n_head, f);
    for (size_t i = 0; i < n; i++)
        write_body(f, &t[i], &state);
    fflush(f);
    if (ftruncate(fileno(f), (off_t)(8 + n_head + at)) != 0 || fclose(f) != 0)
        die("%s: %s", path, strerror(errno));
    free(head);
}

/* st FILE [-m '"key":"value"'] NAME=DTYPE[SHAPE]FILL ... */
int cmd_st(int argc, char **argv)
{
    const char *path = argv[0], *metadata = NULL;
    int i = 1;

    if (i + 1 < argc && strcmp(argv[i], "-m") == 0) {
        metadata = argv[i + 1];
        i += 2;
    }
    const size_t n = (size_t)(argc - i);
    struct tensor *t = must(calloc(n + 1, sizeof *t));
    for (size_t k = 0; k < n; k++)
        t[k] = parse_tensor(argv[i + (int)k]);
    write_safetensors(path, metadata, t, n);
    return 0;
}

/*
 * many FILE N SHAPE FILL TENSOR...: N vectors, named as a large model names
 * them, and tensors as st takes them.
 */
int cmd_many(int argc, char **argv)
{
    const size_t more = (size_t)argc - 4;
    const size_t n = (size_t)number(argv[1], 0, 10000000);
    struct tensor *t = must(calloc(n + more + 1, sizeof *t));

    for (size_t i = 0; i < n; i++) {
        char text[128];
        snprintf(text, sizeof text, "model.layers.%zu.w%zu.weight=F32[%s]%s",
                 i / 10, i % 10, argv[2], argv[3]);
        t[i] = parse_tensor(text);
    }
    for (size_t i = 0; i < more; i++)
        t[n + i] = parse_tensor(argv[4 + i]);
    write_safetensors(argv[0], NULL, t, n + more);
    return 0;
}

/* The value of a key that follows at p in a header, or NULL. */
static const char *find(const char *p, const char *end, const char *key)
{
    const size_t n = strlen(key);
    const char *found = memmem(p, (size_t)(end - p), key, n);

    return found ? found + n : NULL;
}

/* Adds noise to the lowest four bits of the first `most` elements. */
static void vary_body(FILE *f, uint64_t at, uint64_t bytes, unsigned size,
                      uint64_t most, uint64_t *state)
{
    unsigned char page[4096];
    uint64_t left = bytes < most * size ? bytes : most * size;

    for (size_t n; left > 0; left -= n, at += n) {
        n = left < sizeof page ? left : sizeof page;
        if (fseeko(f, (off_t)at, SEEK_SET) != 0 || fread(page, 1, n, f) != n)
            die("a body cannot be read");
        for (size_t i = 0; i < n; i += size)
            page[i] ^= 1 + next_random(state) % 15;
        if (fseeko(f, (off_t)at, SEEK_SET) != 0 || fwrite(page, 1, n, f) != n)
            die("a body cannot be written");
    }
}

/*
 * norms FILE OUT: for each matrix [out][in] of FILE, which begins with its
 * metadata, a vector [in] of positive numbers under the same name.
 */
int cmd_norms(int argc, char **argv)
{
    size_t size, n = 0;
    unsigned char *file = load(argv[0], &size);
    const char *p = (const char *)file + 8, *end = p + load64(file);
    struct tensor *t = must(calloc(size / 16 + 1, sizeof *t));

    (void)argc;
    while ((p = find(p, end, "},\""))) {
        const char *after = find(p, end, "\":{\"dtype\":\"");
        const char *shape = find(p, end, "\"shape\":[");
        char *next, text[32];
        if (!after || !shape)
            die("%s: its header is not as expected", argv[0]);
        strtoull(shape, &next, 10);
        const uint64_t in = *next == ',' ? strtoull(next + 1, &next, 10) : 0;
        if (*next != ']' || !memchr(shape, ',', (size_t)(next - shape)))
            continue;
        snprintf(text, sizeof text, "=F32[%llu]norm", (unsigned long long)in);
        t[n] = parse_tensor(text);
        t[n++].name = must(strndup(p, (size_t)(after - p) -
                                          strlen("\":{\"dtype\":\"")));
    }
    write_safetensors(argv[1], NULL, t, n);
    return 0;
}

/*
 * vary FILE ELEMENTS: at most so many elements of a tensor are others, as
 * after a little training; every third tensor stays as it is.  In place, so
 * that holes stay.
 */
int cmd_vary(int argc, char **argv)
{
    const uint64_t most = (uint64_t)number(argv[1], 1, 1000000000);
    unsigned char length[8];
    uint64_t state = 3;
    FILE *f = fopen(argv[0], "r+b");

    (void)argc;
    if (!f || fread(length, 1, 8, f) != 8)
        die("%s: %s", argv[0], strerror(errno));
    const size_t n = load64(length);
    char *head = must(malloc(n + 1));
    if (fread(head, 1, n, f) != n)
        die("%s: its header cannot be read", argv[0]);
    head[n] = '\0';
    const char *p = head;
    for (size_t i = 0; (p = find(p, head + n, "\"dtype\":\"")); i++) {
        char dtype[8], *end;
        snprintf(dtype, sizeof dtype, "%.*s", (int)strcspn(p, "\""), p);
        p = find(p, head + n, "\"data_offsets\":[");
        if (!p)
            die("%s: its header is not as expected", argv[0]);
        const uint64_t from = strtoull(p, &end, 10);
        const uint64_t to = strtoull(end + 1, &end, 10);
        if (i % 3 != 2)
            vary_body(f, 8 + n + from, to - from, dtype_bytes(dtype), most,
                      &state);
    }
    free(head);
    if (fclose(f) != 0)
        die("%s: %s", argv[0], strerror(errno));
    return 0;
}
