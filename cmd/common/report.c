/*
 * What a conversion did to each tensor; see report.h.
 */
#include "report.h"

#include "pq_json.h"
#include "pq_surgery.h"

#include <string.h>

const char *cmd_type_name(const struct pq_tensor *t)
{
    return t->codec.encoding == PQ_PLAIN ? pq_dtype_name(t->dtype)
                                         : pq_encoding_name(t->codec.encoding);
}

void cmd_shape_text(const struct pq_tensor *t, char *text, size_t n)
{
    size_t at = (size_t)snprintf(text, n, "[");

    for (int i = 0; i < t->rank && at < n; i++)
        at += (size_t)snprintf(text + at, n - at, "%s%llu", i ? ", " : "",
                               (unsigned long long)t->shape[i]);
    if (at < n)
        snprintf(text + at, n - at, "]");
}

static uint64_t tensor_bytes(const struct pq_tensor *t)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < t->n_parts; i++)
        sum += t->parts[i].bytes;
    return sum;
}

static void print_line(const struct cmd_report *r, const struct pq_step *s,
                       const struct pq_tensor *t, const struct pq_quality *q)
{
    char shape[256], sqnr[96] = "exact", name[256];

    snprintf(name, sizeof name, "%s", s->name);
    cmd_mask(name, strlen(name));
    cmd_shape_text(t, shape, sizeof shape);
    if (q->noise > 0)
        snprintf(sqnr, sizeof sqnr, "SQNR %.2f dB, max error %.3g",
                 pq_sqnr_db(q->signal, q->noise), (double)q->max_error);
    if (q->noise > 0 && q->plain_noise > 0) {
        const size_t n = strlen(sqnr);
        snprintf(sqnr + n, sizeof sqnr - n, " (plain %.2f dB)",
                 pq_sqnr_db(q->signal, q->plain_noise));
    }
    if (q->wanted > 0) {
        const size_t n = strlen(sqnr);
        snprintf(sqnr + n, sizeof sqnr - n, ", delta retained %.4f",
                 pq_retained(q));
    }
    cmd_msg(r->c, "%s %s -> %s: %s%s", name, shape, cmd_type_name(t), sqnr,
            q->nans || q->infs || q->overflows ? "; NaN, Inf or overflow" : "");
    if (q->nans || q->infs || q->overflows)
        cmd_msg(r->c, "%s: %llu NaN, %llu Inf, %llu out of range", name,
                (unsigned long long)q->nans, (unsigned long long)q->infs,
                (unsigned long long)q->overflows);
}

void cmd_put_number(struct pq_buf *b, const char *key, double v)
{
    pq_buf_puts(b, key);
    pq_json_put_f64(b, v);
}

static void put_db(struct pq_buf *b, const char *key, double signal,
                   double noise)
{
    pq_buf_printf(b, ",\"%s\":", key);
    pq_json_put_f64(b, pq_sqnr_db(signal, noise));
}

void cmd_report_open(struct cmd_report *r, const struct pq_tensor *t)
{
    struct pq_buf *b = &r->json;

    pq_buf_puts(b, r->n++ ? ",{\"name\":" : "{\"name\":");
    pq_json_quote(b, t->name);
    pq_buf_printf(b, ",\"type\":\"%s\",\"shape\":[", cmd_type_name(t));
    for (int i = 0; i < t->rank; i++)
        pq_buf_printf(b, "%s%llu", i ? "," : "",
                      (unsigned long long)t->shape[i]);
    pq_buf_printf(b, "],\"bytes\":%llu", (unsigned long long)tensor_bytes(t));
}

static void add_json(struct cmd_report *r, const struct pq_tensor *t,
                     const struct pq_quality *q)
{
    struct pq_buf *b = &r->json;

    cmd_report_open(r, t);
    put_db(b, "sqnr_db", q->signal, q->noise);
    if (q->plain_noise > 0)
        put_db(b, "sqnr_db_plain", q->signal, q->plain_noise);
    if (q->wanted > 0) {
        cmd_put_number(b, ",\"retained\":", pq_retained(q));
    }
    pq_buf_puts(b, ",\"max_error\":");
    pq_json_put_f32(b, q->max_error);
    pq_buf_printf(b, ",\"nan\":%llu,\"inf\":%llu,\"overflow\":%llu}",
                  (unsigned long long)q->nans, (unsigned long long)q->infs,
                  (unsigned long long)q->overflows);
}

int cmd_report_tensor(const struct pq_step *s, const struct pq_quality *q,
                      struct pq_error *e)
{
    struct cmd_report *r = s->user;
    const struct pq_tensor *t = &r->out->tensors[s->tensor];

    if (r->c->verbose > 0)
        print_line(r, s, t, q);
    if (r->c->json)
        add_json(r, t, q);
    return r->json.failed ? pq_fail_nomem(e) : 0;
}

/* With -v: name, shape and type of what was written. */
static void print_tensor(const struct cmd_report *r, const struct pq_tensor *t)
{
    char shape[256], name[256];

    snprintf(name, sizeof name, "%s", t->name);
    cmd_mask(name, strlen(name));
    cmd_shape_text(t, shape, sizeof shape);
    cmd_msg(r->c, "%s %s -> %s", name, shape, cmd_type_name(t));
}

int cmd_report_catalog(struct cmd_report *r, struct pq_error *e)
{
    for (size_t i = 0; i < r->out->n_tensors; i++) {
        cmd_report_open(r, &r->out->tensors[i]);
        pq_buf_puts(&r->json, "}");
    }
    return r->json.failed ? pq_fail_nomem(e) : 0;
}

int cmd_report_end(struct cmd_report *r, uint64_t bytes_in, uint64_t bytes_out,
                   struct pq_error *e)
{
    struct pq_buf head = {0};
    const struct pq_buf *b = &r->json;

    if (!r->c->json)
        return 0;
    pq_buf_printf(&head, "{\"pq\":1,\"tool\":\"%s\"", r->c->program);
    if (r->type)
        pq_buf_printf(&head, ",\"type\":\"%s\"", r->type);
    pq_buf_printf(&head, ",\"bytes_in\":%llu,\"bytes_out\":%llu,\"tensors\":[",
                  (unsigned long long)bytes_in, (unsigned long long)bytes_out);
    if (!head.failed)
        cmd_print_n(head.s, head.n);
    if (b->n)
        cmd_print_n(b->s, b->n);
    cmd_print("]%s}\n", r->more ? r->more : "");
    const int rc = head.failed ? pq_fail_nomem(e) : 0;
    pq_buf_release(&head);
    return rc;
}

int cmd_report_plan(struct cmd *c, const struct pq_plan *p, struct pq_error *e)
{
    struct cmd_report r = {.c = c, .out = p->sink->catalog};
    uint64_t bytes_in = 0;
    int rc = 0;

    if (p->n_sources)
        bytes_in = p->sources[0]->total_bytes;
    for (size_t i = 0; i < r.out->n_tensors && !c->dry_run; i++)
        if (c->verbose > 0)
            print_tensor(&r, &r.out->tensors[i]);
    if (!c->dry_run)
        rc = (c->json && cmd_report_catalog(&r, e)) ||
             cmd_report_end(&r, bytes_in, p->sink->total_bytes, e);
    pq_buf_release(&r.json);
    return rc ? -1 : 0;
}
