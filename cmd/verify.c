/*
 * pq-verify: is this model sound?
 *
 * Structure is checked by opening, checksums by reading everything, numbers
 * by looking for NaN and infinities.  Exit 0: sound, 1: not, 2: it could not
 * be found out.  Corrupt input is an answer here, not trouble.
 */
#include "cmd.h"
#include "pq_json.h"
#include "stats.h"

#include <string.h>

enum { OPT_STRICT = 1, OPT_NONFINITE };

static const struct cmd_option options[] = {
    {0, "strict", NULL, "warnings (alignment, order) are failures too", NULL, 0,
     OPT_STRICT},
    {0, "allow-nonfinite", NULL, "NaN and Inf are no failure", NULL, 0,
     OPT_NONFINITE},
    {0, NULL, NULL, NULL, NULL, 0, 0},
};

struct verify {
    bool strict, allow_nonfinite;
};

struct outcome {
    struct pq_buf json; /* array of findings */
    size_t failures, warnings;
};

static int option(struct cmd *c, int id, const char *value, struct pq_error *e)
{
    struct verify *o = c->state;

    (void)value;
    (void)e;
    if (id == OPT_STRICT)
        o->strict = true;
    else
        o->allow_nonfinite = true;
    return 0;
}

static void find(struct cmd *c, struct outcome *r, bool failure,
                 const char *text)
{
    const struct verify *o = c->state;

    failure = failure || o->strict;
    pq_buf_puts(&r->json, r->json.n ? "," : "");
    pq_buf_printf(&r->json, "{\"level\":\"%s\",\"text\":",
                  failure ? "failure" : "warning");
    pq_json_quote(&r->json, text);
    pq_buf_puts(&r->json, "}");
    if (failure)
        r->failures++;
    else
        r->warnings++;
    if (failure ? !c->quiet : c->verbose > 0)
        cmd_msg(c, "%s%s", failure ? "" : "warning: ", text);
}

static void find_in(struct cmd *c, struct outcome *r, bool failure,
                    const struct pq_source *s, const char *tensor,
                    const char *what)
{
    struct pq_buf b = {0};

    pq_buf_printf(&b, "%s: tensor %s: %s", s->name, tensor, what);
    if (!b.failed)
        find(c, r, failure, b.s);
    pq_buf_release(&b);
}

static void check_numbers(struct cmd *c, struct outcome *r,
                          const struct pq_source *s, const struct cmd_stats *st)
{
    const struct verify *o = c->state;
    char what[96];

    for (size_t i = 0; i < s->catalog->n_tensors; i++) {
        const struct pq_moments *m = &st->tensors[i].m;
        if (o->allow_nonfinite || m->nans + m->infs == 0)
            continue;
        snprintf(what, sizeof what, "%llu NaN, %llu Inf",
                 (unsigned long long)m->nans, (unsigned long long)m->infs);
        find_in(c, r, true, s, s->catalog->tensors[i].name, what);
    }
}

/* Not wrong, but slow to load or not as the reference library writes it. */
static void check_layout(struct cmd *c, struct outcome *r,
                         const struct pq_source *s)
{
    const struct pq_catalog *cat = s->catalog;

    if (strcmp(s->format, "safetensors") != 0)
        return;
    for (size_t i = 0; i < cat->n_tensors; i++) {
        const struct pq_part *p = &cat->tensors[i].parts[0];
        const unsigned size = pq_dtype_bits(p->dtype) / 8;
        if (size > 1 && p->bytes && p->offset % size)
            find_in(c, r, false, s, p->name, "data is not aligned");
        if (i == 0)
            continue;
        const struct pq_part *q = &cat->tensors[i - 1].parts[0];
        if (q->dtype > p->dtype ||
            (q->dtype == p->dtype && strcmp(q->name, p->name) > 0)) {
            find_in(c, r, false, s, p->name,
                    "order is not that of the reference library");
            return;
        }
    }
}

/* Is this error an answer about the file? */
static bool is_answer(const struct pq_error *e)
{
    return e->code == PQ_EFORMAT || e->code == PQ_ETRUNCATED ||
           e->code == PQ_ECHECKSUM || e->code == PQ_EUPSTREAM;
}

static int verify(struct cmd *c, struct outcome *r, struct pq_error *e)
{
    struct pq_source *s = NULL;
    struct cmd_stats st = {.stats = true};
    int rc = cmd_open_plain(c, 0, &s, e);

    if (!rc)
        check_layout(c, r, s);
    if (!rc)
        rc = cmd_stats_run(c, s, &st, e);
    if (!rc)
        check_numbers(c, r, s, &st);
    cmd_stats_release(&st);
    pq_source_free(s);
    if (rc && is_answer(e)) {
        find(c, r, true, e->msg);
        memset(e, 0, sizeof *e);
        rc = 0;
    }
    return rc;
}

static int run(struct cmd *c, struct pq_error *e)
{
    struct outcome r = {.failures = 0};
    int rc = verify(c, &r, e);

    if (!rc && r.json.failed)
        rc = pq_fail_nomem(e);
    if (!rc && c->json) {
        cmd_print("{\"pq\":1,\"tool\":\"pq-verify\",\"sound\":%s,"
                  "\"findings\":[",
                  r.failures ? "false" : "true");
        cmd_print_n(r.json.n ? r.json.s : "", r.json.n);
        cmd_print("]}\n");
    }
    pq_buf_release(&r.json);
    return rc ? CMD_TROUBLE : r.failures ? CMD_NO : CMD_OK;
}

static const char *const examples[] = {
    "pq-verify model.pq && pq-convert model.pq -o model/",
    "pq-verify --strict --json model.safetensors",
    NULL,
};

const struct pq_tool tool_verify = {
    .name = "verify",
    .purpose = "check structure, checksums and numbers of a model",
    .synopsis = "[options] [MODEL]",
    .options = options,
    .shared = CMD_SELECT | CMD_ENGINE | CMD_JSON | CMD_VERBOSITY,
    .max_operands = 1,
    .examples = examples,
    .state_bytes = sizeof(struct verify),
    .option = option,
    .run = run,
};
