/*
 * What check_tokenizers.py compares: texts to ids and back.
 *
 *     tokenize DIR|tokenizer.json|tokenizer.model FLAGS
 *
 * FLAGS are pq_encode_flags as a number.  Standard input is any number of
 *
 *     u32 length, little-endian | that many bytes of UTF-8
 *
 * and each becomes one line: the ids, a tab, what they decode to in
 * hexadecimal, a tab, the same without special tokens.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "pq_tokenizer.h"

static char *read_file(const char *path, size_t *n)
{
    FILE *const f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END) != 0)
        return NULL;
    *n = (size_t)ftell(f);
    rewind(f);
    char *const s = malloc(*n + 1);
    if (s && fread(s, 1, *n, f) != *n)
        *n = 0;
    fclose(f);
    return s;
}

static int open_any(const char *path, struct pq_tokenizer **t,
                    struct pq_error *e)
{
    struct stat st;
    size_t n;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        return pq_tokenizer_open(path, t, e);
    char *const s = read_file(path, &n);
    if (!s)
        return pq_fail(e, PQ_EIO, "cannot read %s", path);
    const bool json = n > 0 && s[0] == '{';
    const int rc = json ? pq_tokenizer_parse(s, n, t, e)
                        : pq_tokenizer_parse_model(s, n, true, false, t, e);
    free(s);
    return rc;
}

static void put_decoded(const struct pq_tokenizer *t, const struct pq_ids *ids,
                        unsigned flags)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_buf b = {0};
    if (pq_tokenizer_decode(t, ids->list, ids->n, flags, &b, &e) != 0)
        printf("error %s", e.msg);
    for (size_t i = 0; i < b.n; i++)
        printf("%02x", (unsigned char)b.s[i]);
    pq_buf_release(&b);
}

static void put_line(const struct pq_tokenizer *t, const char *text, size_t n,
                     unsigned flags)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_ids ids = {0};
    if (pq_tokenizer_encode(t, text, n, flags, &ids, &e) != 0)
        printf("error %s", e.msg);
    for (size_t i = 0; i < ids.n; i++)
        printf(i ? " %u" : "%u", ids.list[i]);
    putchar('\t');
    put_decoded(t, &ids, 0);
    putchar('\t');
    put_decoded(t, &ids, PQ_DECODE_SKIP);
    putchar('\n');
    free(ids.list);
}

int main(int argc, char **argv)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_tokenizer *t;
    unsigned char head[4];
    if (argc != 3 || open_any(argv[1], &t, &e) != 0) {
        fprintf(stderr, "tokenize: %s\n", argc == 3 ? e.msg : "two operands");
        return 2;
    }
    while (fread(head, 1, 4, stdin) == 4) {
        const size_t n = head[0] | (size_t)head[1] << 8 |
                         (size_t)head[2] << 16 | (size_t)head[3] << 24;
        char *const text = malloc(n ? n : 1);
        if (!text || fread(text, 1, n, stdin) != n)
            return 2;
        put_line(t, text, n, (unsigned)strtoul(argv[2], NULL, 10));
        free(text);
    }
    pq_tokenizer_free(t);
    return 0;
}
