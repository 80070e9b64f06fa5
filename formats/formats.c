/*
 * The registry: which formats there are, and which one a file is.
 */
#include "pq_format.h"

#include <string.h>
#include <sys/stat.h>

static const struct pq_format *const formats[] = {
    &pq_format_safetensors,
    &pq_format_pqstream,
    NULL,
};

const struct pq_format *const *pq_formats(void)
{
    return formats;
}

const struct pq_format *pq_format_named(const char *name)
{
    for (size_t i = 0; formats[i] != NULL; i++)
        if (strcmp(formats[i]->name, name) == 0)
            return formats[i];
    return NULL;
}

const struct pq_format *pq_format_for_path(const char *path)
{
    for (size_t i = 0; formats[i] != NULL; i++)
        for (const char *const *s = formats[i]->suffixes; *s != NULL; s++)
            if (pq_ends_with(path, *s))
                return formats[i];
    return NULL;
}

int pq_format_open(struct pq_in *in, struct pq_source **s, struct pq_error *e)
{
    const char *const name = in->name;
    const unsigned char *p;
    size_t n;
    if (pq_in_peek(in, PQ_PEEK, &p, &n, e) != 0) {
        pq_in_close(in);
        return pq_error_in(e, "%s", name);
    }
    for (size_t i = 0; formats[i] != NULL; i++)
        if (formats[i]->sniff(p, n)) {
            const int rc = formats[i]->open(in, s, e);
            return rc == 0 ? 0 : pq_error_in(e, "%s", name);
        }
    pq_in_close(in);
    if (n == 0)
        return pq_fail(e, PQ_ETRUNCATED, "%s: is empty%s", name,
                       in->regular ? "" : " (did the program before it fail?)");
    return pq_fail(e, PQ_EFORMAT,
                   "%s: not a model file that pq knows (safetensors, .pq)",
                   name);
}

int pq_open_model(const char *path, const volatile int *cancel,
                  struct pq_source **s, struct pq_error *e)
{
    struct stat st;
    if (strcmp(path, "-") != 0 && stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        return pq_dir_open(path, cancel, s, e);
    struct pq_in in = {.cancel = cancel};
    if (pq_in_open(&in, path, e) != 0)
        return -1;
    return pq_format_open(&in, s, e);
}
