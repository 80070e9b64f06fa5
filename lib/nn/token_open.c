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

/* Where the files are: in a directory, or with a catalogue. */
struct place {
    int dirfd;
    const struct pq_catalog *catalog; /* or NULL */
};

/* A file, if there is one. */
struct content {
    bool there;
    const char *s; /* [n] */
    size_t n;
    char *own; /* to be freed */
};

static int read_file(int dirfd, const char *name, struct content *c,
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
    *c = (struct content){true, s, n, s};
    return 0;
}

static int get_file(const struct place *p, const char *name, struct content *c,
                    struct pq_error *e)
{
    *c = (struct content){.there = false};
    if (p->catalog == NULL)
        return read_file(p->dirfd, name, c, e);
    const struct pq_blob *const b = pq_catalog_blob(p->catalog, name);
    if (b != NULL)
        *c = (struct content){true, b->data, b->bytes, NULL};
    return 0;
}

/* A key of tokenizer_config.json, where it is true or false. */
static void read_flag(const cJSON *config, const char *key, int *flag)
{
    const cJSON *const v = cJSON_GetObjectItemCaseSensitive(config, key);
    if (cJSON_IsBool(v))
        *flag = cJSON_IsTrue(v);
}

/* What a tokenizer_config.json says about BOS and EOS of a tokenizer.model. */
static int read_bounds(const struct place *p, int *bos, int *eos,
                       struct pq_error *e)
{
    static const char name[] = "tokenizer_config.json";
    struct content config;
    if (get_file(p, name, &config, e) != 0)
        return -1;
    if (!config.there)
        return 0;
    cJSON *c = NULL;
    int rc = pq_json_check(config.s, config.n, e);
    if (rc != 0)
        pq_error_in(e, "%s", name);
    else if ((c = cJSON_ParseWithLength(config.s, config.n)) == NULL)
        rc = pq_fail_nomem(e);
    read_flag(c, "add_bos_token", bos);
    read_flag(c, "add_eos_token", eos);
    cJSON_Delete(c);
    free(config.own);
    return rc;
}

/* 1: there is such a file, and it was read. */
static int try_model(const struct place *p, const char *name,
                     struct pq_tokenizer **t, struct pq_error *e)
{
    struct content c;
    if (get_file(p, name, &c, e) != 0)
        return -1;
    if (!c.there)
        return 0;
    int bos = -1, eos = -1; /* as the kind of model has it */
    int rc = read_bounds(p, &bos, &eos, e);
    if (rc == 0 && (rc = tok_model_parse(c.s, c.n, bos, eos, t, e)) != 0)
        pq_error_in(e, "%s", name);
    free(c.own);
    return rc == 0 ? 1 : -1;
}

static int try_json(const struct place *p, struct pq_tokenizer **t,
                    struct pq_error *e)
{
    static const char name[] = "tokenizer.json";
    struct content c;
    if (get_file(p, name, &c, e) != 0)
        return -1;
    if (!c.there)
        return 0;
    const int rc = pq_tokenizer_parse(c.s, c.n, t, e);
    free(c.own);
    return rc == 0 ? 1 : pq_error_in(e, "%s", name);
}

static int open_at(const struct place *p, struct pq_tokenizer **t,
                   struct pq_error *e)
{
    int rc = try_json(p, t, e);
    if (rc == 0)
        rc = try_model(p, "tokenizer.model", t, e);
    if (rc == 0)
        rc = try_model(p, "spiece.model", t, e);
    if (rc == 0)
        pq_fail(e, PQ_EARG, "neither tokenizer.json nor tokenizer.model");
    return rc == 1 ? 0 : -1;
}

int pq_tokenizer_open(const char *dir, struct pq_tokenizer **t,
                      struct pq_error *e)
{
    const struct place p = {.dirfd =
                                open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    if (p.dirfd < 0)
        return pq_fail_sys(e, errno, "%s", dir);
    const int rc = open_at(&p, t, e);
    close(p.dirfd);
    return rc == 0 ? 0 : pq_error_in(e, "%s", dir);
}

int pq_tokenizer_of_model(const struct pq_catalog *c, struct pq_tokenizer **t,
                          struct pq_error *e)
{
    const struct place p = {-1, c};

    return open_at(&p, t, e);
}
