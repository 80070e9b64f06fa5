/*
 * The files of the output's tokenizer: those of the model that gives the
 * vocabulary, with the tokens of a union put into tokenizer.json.
 */
#include "config.h"
#include "merge_models.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FILE_MAX (64u << 20) /* bytes, as of other carried files */

static const char tokenizer_json[] = "tokenizer.json";

/* All that say which text is which token. */
static const char *const files[] = {
    "tokenizer.json",  "tokenizer_config.json", "special_tokens_map.json",
    "tokenizer.model", "added_tokens.json",     "vocab.json",
    "vocab.txt",       "merges.txt",            "chat_template.jinja",
    "chat_template.json"};

int merge_tokenizer_file(const char *folder, const char *name,
                         struct pq_buf *to, bool *there, struct pq_error *e)
{
    struct pq_buf path = {0};
    char piece[4096];
    size_t n;

    pq_buf_printf(&path, "%s/%s", folder, name);
    FILE *f = path.failed ? NULL : fopen(path.s, "re");
    const int why = errno;
    pq_buf_release(&path);
    *there = f != NULL;
    if (!f)
        return why == ENOENT || why == ENOTDIR
                   ? 0
                   : pq_fail_sys(e, why, "%s/%s", folder, name);
    while (to->n <= FILE_MAX && (n = fread(piece, 1, sizeof piece, f)) > 0)
        pq_buf_add(to, piece, n);
    const bool bad = ferror(f) != 0;
    fclose(f);
    if (bad)
        return pq_fail(e, PQ_EIO, "%s/%s: cannot be read", folder, name);
    if (to->n > FILE_MAX)
        return pq_fail(e, PQ_ELIMIT, "%s/%s: is larger than %u bytes", folder,
                       name, FILE_MAX);
    return to->failed ? pq_fail_nomem(e) : 0;
}

static void remove_file(struct pq_catalog *out, const char *name)
{
    struct pq_blob *b = pq_catalog_blob(out, name);

    if (!b)
        return;
    const size_t after = out->n_blobs - (size_t)(b - out->blobs) - 1;
    memmove(b, b + 1, after * sizeof *b);
    out->n_blobs--;
}

/* One file of another model, or of a folder. */
static int take_file(const struct merge_models *m, struct pq_catalog *out,
                     const char *name, struct pq_error *e)
{
    const struct merge_vocab *v = &m->vocab;
    struct pq_buf text = {0};
    bool there;
    int rc = 0;

    remove_file(out, name);
    if (v->provider < m->n) {
        const struct pq_blob *b = pq_catalog_blob(
            m->list[v->provider].opened->catalog, name);
        return b ? pq_catalog_add_blob(out, name, b->data, (size_t)b->bytes, e)
                 : 0;
    }
    rc = merge_tokenizer_file(v->path, name, &text, &there, e);
    if (!rc && there)
        rc = pq_catalog_add_blob(out, name, text.s ? text.s : "", text.n, e);
    pq_buf_release(&text);
    return rc;
}

/* That of a union, in place of the donor's. */
static int replace_tokenizer(const struct merge_models *m,
                             struct pq_catalog *out, struct pq_error *e)
{
    const struct merge_vocab *v = &m->vocab;

    if (!v->text.n)
        return 0;
    remove_file(out, tokenizer_json);
    return pq_catalog_add_blob(out, tokenizer_json, v->text.s, v->text.n, e);
}

static int set_vocab_size(struct merge_models *m, struct pq_catalog *out,
                          struct pq_error *e)
{
    const struct merge_model *donor = merge_models_donor(m);

    if (!m->vocab.n_rows || m->vocab.n_rows == merge_model_rows(donor) ||
        !pq_catalog_blob(out, "config.json"))
        return 0;
    if (!cmd_config_has(out, "vocab_size", e))
        return e->code ? -1
                       : pq_fail(e, PQ_EUNSUPPORTED,
                                 "%s: config.json: has no vocab_size to set",
                                 donor->opened->name);
    return cmd_config_set_number(out, "vocab_size", m->vocab.n_rows, e);
}

int merge_vocab_finish(struct merge_models *m, struct pq_catalog *out,
                       struct pq_error *e)
{
    if (m->vocab.policy == MERGE_VOCAB_PATH) {
        for (size_t i = 0; i < sizeof files / sizeof *files; i++)
            if (take_file(m, out, files[i], e))
                return -1;
    } else if (replace_tokenizer(m, out, e)) {
        return -1;
    }
    return set_vocab_size(m, out, e);
}
