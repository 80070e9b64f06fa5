/*
 * Tokenizers: finding the file in a model directory, or among the files that
 * travel with a model's tensors.
 */
#include "token.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pq_file.h"

/* A file of the directory, whole; *b stays empty when it does not exist. */
static int read_file(int dirfd, const char *name, struct pq_buf *b,
                     struct pq_error *e)
{
    struct pq_in in = {.fd = -1};
    size_t n = 0;
    int rc = -1;

    if (faccessat(dirfd, name, F_OK, 0) != 0)
        return 0;
    if (pq_in_open_at(&in, dirfd, name, e) != 0)
        return -1;
    char *const s =
        in.size <= PQ_TOKEN_FILE ? pq_alloc((size_t)in.size + 1, 1) : NULL;
    if (in.size > PQ_TOKEN_FILE)
        pq_fail(e, PQ_ELIMIT, "%s: larger than %u bytes", name, PQ_TOKEN_FILE);
    else if (s == NULL)
        pq_fail_nomem(e);
    else
        rc = pq_in_read(&in, s, (size_t)in.size, &n, e);
    pq_in_close(&in);
    if (rc != 0) {
        free(s);
        return pq_error_in(e, "%s", name);
    }
    s[n] = '\0';
    *b = (struct pq_buf){.s = s, .n = n, .cap = n + 1};
    return 0;
}

/* A key of tokenizer_config.json, where it is true or false. */
static void read_flag(const cJSON *config, const char *key, int *flag)
{
    const cJSON *const v = cJSON_GetObjectItemCaseSensitive(config, key);
    if (cJSON_IsBool(v))
        *flag = cJSON_IsTrue(v);
}

static const char config_name[] = "tokenizer_config.json";

/* What a tokenizer_config.json says about BOS and EOS of a tokenizer.model. */
static int parse_bounds(const char *s, size_t n, int *bos, int *eos,
                        struct pq_error *e)
{
    if (pq_json_check(s, n, e) != 0)
        return pq_error_in(e, "%s", config_name);
    cJSON *const c = cJSON_ParseWithLength(s, n);
    if (c == NULL)
        return pq_fail_nomem(e);
    read_flag(c, "add_bos_token", bos);
    read_flag(c, "add_eos_token", eos);
    cJSON_Delete(c);
    return 0;
}

static int read_bounds(int dirfd, int *bos, int *eos, struct pq_error *e)
{
    struct pq_buf b = {0};
    if (read_file(dirfd, config_name, &b, e) != 0)
        return -1;
    const int rc = b.s != NULL ? parse_bounds(b.s, b.n, bos, eos, e) : 0;
    pq_buf_release(&b);
    return rc;
}

/* 1: there is such a file, and it was read. */
static int try_model(int dirfd, const char *name, struct pq_tokenizer **t,
                     struct pq_error *e)
{
    struct pq_buf b = {0};
    if (read_file(dirfd, name, &b, e) != 0)
        return -1;
    if (b.s == NULL)
        return 0;
    int bos = -1, eos = -1; /* as the kind of model has it */
    int rc = read_bounds(dirfd, &bos, &eos, e);
    if (rc == 0) {
        rc = tok_model_parse(b.s, b.n, bos, eos, t, e);
        if (rc != 0)
            pq_error_in(e, "%s", name);
    }
    pq_buf_release(&b);
    return rc == 0 ? 1 : -1;
}

static int try_json(int dirfd, struct pq_tokenizer **t, struct pq_error *e)
{
    static const char name[] = "tokenizer.json";
    struct pq_buf b = {0};
    if (read_file(dirfd, name, &b, e) != 0)
        return -1;
    if (b.s == NULL)
        return 0;
    const int rc = pq_tokenizer_parse(b.s, b.n, t, e);
    pq_buf_release(&b);
    return rc == 0 ? 1 : pq_error_in(e, "%s", name);
}

int pq_tokenizer_open(const char *dir, struct pq_tokenizer **t,
                      struct pq_error *e)
{
    const int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return pq_fail_sys(e, errno, "%s", dir);
    int rc = try_json(fd, t, e);
    if (rc == 0)
        rc = try_model(fd, "tokenizer.model", t, e);
    if (rc == 0)
        rc = try_model(fd, "spiece.model", t, e);
    close(fd);
    if (rc == 0)
        pq_fail(e, PQ_EARG, "neither tokenizer.json nor tokenizer.model");
    return rc == 1 ? 0 : pq_error_in(e, "%s", dir);
}

/* ---- of the files that travel with tensors ------------------------------ */

/* 1: there is such a file, and it was read. */
static int try_blob(const struct pq_catalog *c, const char *name,
                    struct pq_tokenizer **t, struct pq_error *e)
{
    const struct pq_blob *const b = pq_catalog_blob(c, name);
    const struct pq_blob *const config = pq_catalog_blob(c, config_name);
    int bos = -1, eos = -1; /* as the kind of model has it */

    if (b == NULL)
        return 0;
    if (config != NULL &&
        parse_bounds(config->data, config->bytes, &bos, &eos, e) != 0)
        return -1;
    return tok_model_parse(b->data, b->bytes, bos, eos, t, e) == 0
               ? 1
               : pq_error_in(e, "%s", name);
}

int pq_tokenizer_of_model(const struct pq_catalog *c, struct pq_tokenizer **t,
                          struct pq_error *e)
{
    const struct pq_blob *const json = pq_catalog_blob(c, "tokenizer.json");

    if (json != NULL)
        return pq_tokenizer_parse(json->data, json->bytes, t, e) == 0
                   ? 0
                   : pq_error_in(e, "tokenizer.json");
    int rc = try_blob(c, "tokenizer.model", t, e);
    if (rc == 0)
        rc = try_blob(c, "spiece.model", t, e);
    if (rc == 0)
        pq_fail(e, PQ_EARG, "neither tokenizer.json nor tokenizer.model");
    return rc == 1 ? 0 : -1;
}
