/*
 * What is written of a training, from what is in the model now; see training.h.
 *
 * PiSSA begins with a part P = s B0 A0 of each W in the factors, so what they
 * mean is an adapter of twice the rank on the model as it was:
 *
 *     s B A - s B0 A0 = s [B, -B0] [A; A0]
 */
#include "config.h"
#include "pq_names.h"
#include "training.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct output {
    struct train *t;
    struct train_output o;
    struct train_tensor *tensors; /* [n] */
    struct train_tensor prompt;
    float **joined; /* [n] of PiSSA */
    const char **targets;
    struct pq_arena arena;
    char base[512];
};

/* ---- tensors ------------------------------------------------------------ */

static float *join_a(const struct pq_train_param *p, const float *start)
{
    const size_t n = p->rows * p->cols;
    float *x = pq_alloc(2 * n, sizeof *x);

    if (x) {
        memcpy(x, p->w, n * sizeof *x);
        memcpy(x + n, start, n * sizeof *x);
    }
    return x;
}

static float *join_b(const struct pq_train_param *p, const float *start)
{
    const size_t r = p->cols;
    float *x = pq_alloc(2 * p->rows * r, sizeof *x);

    for (size_t i = 0; x && i < p->rows; i++)
        for (size_t k = 0; k < r; k++) {
            x[2 * i * r + k] = p->w[i * r + k];
            x[2 * i * r + r + k] = -start[i * r + k];
        }
    return x;
}

static int join(struct output *x, size_t i, const struct pq_train_param *p,
                struct train_tensor *to, struct pq_error *e)
{
    const float *start = x->t->start ? x->t->start[i] : NULL;
    const bool is_a = strstr(p->name, ".lora_A.") != NULL;

    if (!x->t->o->pissa || (!is_a && !strstr(p->name, ".lora_B.")))
        return 0;
    to->shape[is_a ? 0 : 1] *= 2;
    if (!start) /* nothing is trained yet: a dry run */
        return 0;
    x->joined[i] = is_a ? join_a(p, start) : join_b(p, start);
    to->data = x->joined[i];
    return to->data ? 0 : pq_fail_nomem(e);
}

static int set_tensors(struct output *x, struct pq_error *e)
{
    const size_t n = pq_train_params(x->t->core);

    x->tensors = pq_zalloc(n, sizeof *x->tensors);
    x->joined = pq_zalloc(n, sizeof *x->joined);
    if (!x->tensors || !x->joined)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < n; i++) {
        const struct pq_train_param p = pq_train_param(x->t->core, i);
        const bool is_prompt = strcmp(p.name, "prompt_embeddings") == 0;
        struct train_tensor *to =
            is_prompt ? &x->prompt : &x->tensors[x->o.n++];
        *to = (struct train_tensor){
            p.name, {p.rows, p.cols}, p.cols ? 2 : 1, p.w};
        if (is_prompt)
            x->o.prompt = to;
        else if (join(x, i, &p, to, e))
            return -1;
    }
    x->o.tensors = x->tensors;
    return 0;
}

/* ---- the config --------------------------------------------------------- */

/* "q_proj" of "...layers.0.self_attn.q_proj.lora_A.weight" */
static const char *target_of(struct output *x, const char *name)
{
    const char *end = strstr(name, ".lora_A."), *from = end;

    while (from && from > name && from[-1] != '.')
        from--;
    return from ? pq_arena_strndup(&x->arena, from, (size_t)(end - from))
                : NULL;
}

static int set_targets(struct output *x, struct pq_error *e)
{
    size_t n = 0;

    x->targets = pq_alloc(x->o.n, sizeof *x->targets);
    if (!x->targets)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < x->o.n; i++) {
        bool known = false;
        if (!strstr(x->tensors[i].name, ".lora_A."))
            continue;
        const char *target = target_of(x, x->tensors[i].name);
        if (!target)
            return pq_fail_nomem(e);
        for (size_t k = 0; !known && k < n; k++)
            known = strcmp(x->targets[k], target) == 0;
        if (!known)
            x->targets[n++] = target;
    }
    x->o.adapter.targets = x->targets;
    x->o.adapter.n_targets = n;
    return 0;
}

static int set_config(struct output *x, struct pq_error *e)
{
    const struct train_options *o = x->t->o;
    const struct pq_catalog *in = x->t->model->catalog;
    struct pq_peft_trained *a = &x->o.adapter;

    a->rank = o->rank;
    a->alpha = o->alpha;
    a->rslora = o->rslora;
    a->dora = o->dora;
    if (o->pissa) {
        a->rank *= 2;
        a->alpha *= o->rslora ? sqrt(2) : 2;
    }
    a->conv1d = pq_model_has_conv1d(pq_train_about(x->t->core).type);
    if (cmd_config_string(in, "_name_or_path", x->base, sizeof x->base, e) &&
        x->base[0])
        a->base = x->base;
    return e->code ? -1 : set_targets(x, e);
}

/* ---- a dry run ---------------------------------------------------------- */

/* What it will take: text, or members for the object of the plan. */
static int put_plan(struct train *t, struct pq_buf *b, struct pq_error *e)
{
    const struct pq_train_info m = pq_train_about(t->core);
    size_t rows, longest;
    uint64_t bytes;

    train_rows(t, &rows, &longest);
    if (train_bytes(t, &bytes, e))
        return -1;
    const unsigned long long trained = m.trained, weights = m.weight_bytes,
                             steps = t->steps, all = bytes,
                             tokens = t->data.tokens;
    if (t->c->json)
        pq_buf_printf(b,
                      ",\"trained\":%llu,\"steps\":%llu,\"texts\":%zu,"
                      "\"tokens\":%llu,\"batch_tokens\":%zu,"
                      "\"weight_bytes\":%llu,\"memory\":%llu,"
                      "\"recompute\":%s",
                      trained, steps, t->data.n, tokens, rows, weights, all,
                      t->o->recompute ? "true" : "false");
    else
        pq_buf_printf(b,
                      "trains %llu numbers in %llu steps on %zu texts of %llu "
                      "tokens\nmemory %llu bytes, %llu of them weights, for "
                      "batches of at most %zu tokens%s\n",
                      trained, steps, t->data.n, tokens, all, weights, rows,
                      t->o->recompute ? ", with recomputation" : "");
    return b->failed ? pq_fail_nomem(e) : 0;
}

static int write_out(struct output *x, struct pq_error *e)
{
    struct cmd *c = x->t->c;
    struct pq_buf b = {0};
    int rc = c->dry_run ? put_plan(x->t, &b, e) : 0;

    if (!rc && c->dry_run && c->json)
        c->plan_more = b.s;
    else if (!rc && c->dry_run)
        cmd_print_n(b.s, b.n);
    if (!rc)
        rc = train_write(&x->o, e);
    c->plan_more = NULL;
    pq_buf_release(&b);
    return rc;
}

static int save(struct train *t, bool tries, struct pq_error *e)
{
    struct output x = {.t = t,
                       .o = {.c = t->c,
                             .tries = tries,
                             .method = t->o->method,
                             .model = t->model}};

    const int rc =
        set_tensors(&x, e) || set_config(&x, e) || write_out(&x, e) ? -1 : 0;
    for (size_t i = 0; x.joined && i < pq_train_params(t->core); i++)
        free(x.joined[i]);
    free(x.joined);
    free(x.tensors);
    free((void *)x.targets);
    pq_arena_release(&x.arena);
    return rc;
}

int train_save(struct train *t, struct pq_error *e)
{
    return save(t, false, e);
}

int train_try(struct train *t, struct pq_error *e)
{
    const char *to = t->c->output;

    return !to || cmd_is_standard(to) ? 0 : save(t, true, e);
}
