/*
 * What a run needs to go on as if it had not ended; see training.h.
 *
 * A file beside the output, OUT.state.safetensors: of every parameter NAME
 * the tensors w.NAME and AdamW's m.NAME and v.NAME; with --val best.NAME, the
 * best so far; of weights that become sparse mask.NAME, a byte a weight, 0
 * where it is held at zero; of rounded ones exact.NAME, what they are rounded
 * from; and in the metadata how far the run is.
 */
#include "pq_json.h"
#include "pq_made.h"
#include "pq_quant.h"
#include "training.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Keys of the metadata. */
static const char key_step[] = "step", key_taken[] = "taken",
                  key_seed[] = "seed", key_texts[] = "texts",
                  key_tokens[] = "tokens", key_best_loss[] = "best_loss",
                  key_best_step[] = "best_step", key_waited[] = "waited";

/* OUT.state.safetensors; NULL: no memory. */
static char *state_path(const struct cmd *c)
{
    size_t n = strlen(c->output);
    struct pq_buf b = {0};

    while (n > 1 && c->output[n - 1] == '/')
        n--;
    pq_buf_add(&b, c->output, n);
    pq_buf_puts(&b, ".state.safetensors");
    if (!b.failed)
        return b.s;
    pq_buf_release(&b);
    return NULL;
}

/* ---- writing ------------------------------------------------------------ */

struct state {
    struct train *t;
    struct pq_source *lent;
    struct pq_plan plan;
    struct pq_catalog out;
};

/* Floats or, if there are none, bytes. */
static int add(struct state *s, const char *prefix,
               const struct pq_train_param *p, const float *data,
               const uint8_t *bytes, struct pq_error *e)
{
    const uint64_t shape[2] = {p->rows, p->cols};
    const char *name = pq_arena_printf(&s->out.arena, "%s.%s", prefix, p->name);
    const int rank = p->cols ? 2 : 1;

    if (!name)
        return pq_fail_nomem(e);
    const struct pq_tensor *from =
        data ? pq_lent_add(s->lent, name, shape, rank, data, e)
             : pq_lent_add_bytes(s->lent, name, shape, rank, bytes, e);
    return from && pq_tensor_copy(&s->out, from, e)
               ? pq_step_copy(&s->plan, s->lent, from, s->out.n_tensors - 1, e)
               : -1;
}

static int add_param(struct state *s, size_t i, struct pq_error *e)
{
    const struct pq_train_param p = pq_train_param(s->t->core, i);

    return add(s, "w", &p, p.w, NULL, e) || add(s, "m", &p, p.m, NULL, e) ||
                   add(s, "v", &p, p.v, NULL, e) ||
                   (p.mask && add(s, "mask", &p, NULL, p.mask, e)) ||
                   (p.exact && add(s, "exact", &p, p.exact, NULL, e)) ||
                   (s->t->best && add(s, "best", &p, s->t->best[i], NULL, e))
               ? -1
               : 0;
}

static int set_number(struct state *s, const char *key, uint64_t v,
                      struct pq_error *e)
{
    char text[32];

    snprintf(text, sizeof text, "%llu", (unsigned long long)v);
    return pq_catalog_set(&s->out, key, text, e);
}

static int set_numbers(struct state *s, struct pq_error *e)
{
    const struct train *t = s->t;
    struct pq_buf loss = {0};

    pq_json_put_f64(&loss, t->best_loss);
    const int rc =
        loss.failed || set_number(s, key_step, pq_train_steps(t->core), e) ||
        set_number(s, key_taken, t->order.taken, e) ||
        set_number(s, key_seed, t->c->seed, e) ||
        set_number(s, key_texts, t->data.n, e) ||
        set_number(s, key_tokens, t->data.tokens, e) ||
        set_number(s, key_best_step, t->best_step, e) ||
        set_number(s, key_waited, t->waited, e) ||
        (t->best && pq_catalog_set(&s->out, key_best_loss, loss.s, e));
    pq_buf_release(&loss);
    return rc ? -1 : 0;
}

static int write_state(struct state *s, const char *path, struct pq_error *e)
{
    struct cmd *c = s->t->c;
    const size_t n = pq_train_params(s->t->core);

    if (pq_lent_new(path, 6 * n, &s->lent, e) || set_numbers(s, e))
        return -1;
    for (size_t i = 0; i < n; i++)
        if (add_param(s, i, e))
            return -1;
    s->plan.sources = &s->lent;
    s->plan.n_sources = 1;
    return cmd_make_side(c, path, &s->out, s->t->model->catalog, &s->plan.sink,
                         e) ||
                   cmd_run_part(c, &s->plan, e)
               ? -1
               : 0;
}

int train_state_save(struct train *t, struct pq_error *e)
{
    struct state s = {.t = t};
    char *path = state_path(t->c);

    pq_catalog_init(&s.out);
    const int rc = path ? write_state(&s, path, e) : pq_fail_nomem(e);
    pq_sink_free(s.plan.sink);
    s.plan.sink = NULL;
    s.plan.sources = NULL;
    pq_plan_release(&s.plan);
    pq_source_free(s.lent);
    pq_catalog_release(&s.out);
    if (t->c->sides.n) /* only plans that are shown list them */
        t->c->sides.n--;
    free(path);
    return rc;
}

/* ---- reading ------------------------------------------------------------ */

static int get_number(const struct pq_source *s, const char *key, uint64_t *v,
                      struct pq_error *e)
{
    const char *text = pq_catalog_get(s->catalog, key);

    if (text && cmd_number(text, 0, UINT64_MAX, v, e) == 0)
        return 0;
    return pq_fail(e, PQ_EFORMAT,
                   "%s: is no state of a training: no number "
                   "under \"%s\"",
                   s->name, key);
}

static const struct pq_tensor *find(const struct pq_source *s,
                                    const struct pq_names *names,
                                    const char *prefix, const char *name,
                                    struct pq_error *e)
{
    struct pq_buf b = {0};

    pq_buf_printf(&b, "%s.%s", prefix, name);
    const size_t i = b.failed ? SIZE_MAX : pq_names_find(names, b.s);
    if (i == SIZE_MAX)
        pq_fail(e, PQ_EFORMAT,
                "%s: is the state of another training: no "
                "tensor %s.%s",
                s->name, prefix, name);
    pq_buf_release(&b);
    return i == SIZE_MAX ? NULL : &s->catalog->tensors[i];
}

static int get(struct pq_source *s, const struct pq_names *names,
               const char *prefix, const struct pq_train_param *p,
               enum pq_dtype dtype, void *to, struct pq_error *e)
{
    const struct pq_tensor *t = find(s, names, prefix, p->name, e);
    const int rank = p->cols ? 2 : 1;

    if (!t)
        return -1;
    if (t->dtype != dtype || t->codec.encoding != PQ_PLAIN || t->rank != rank ||
        t->shape[0] != p->rows || (rank == 2 && t->shape[1] != p->cols))
        return pq_fail(e, PQ_EFORMAT,
                       "%s: tensor %s: is the state of another training: "
                       "other shape or type",
                       s->name, t->name);
    return pq_source_read(s, t->parts, 0, to, (size_t)t->parts[0].bytes, e);
}

static int get_param(struct pq_source *s, const struct pq_names *names,
                     const struct pq_train_param *p, struct pq_error *e)
{
    return get(s, names, "w", p, PQ_F32, p->w, e) ||
                   get(s, names, "m", p, PQ_F32, p->m, e) ||
                   get(s, names, "v", p, PQ_F32, p->v, e) ||
                   (p->mask && get(s, names, "mask", p, PQ_U8, p->mask, e)) ||
                   (p->exact && get(s, names, "exact", p, PQ_F32, p->exact, e))
               ? -1
               : 0;
}

static int get_best(struct train *t, struct pq_source *s,
                    const struct pq_names *names, struct pq_error *e)
{
    const char *loss = pq_catalog_get(s->catalog, key_best_loss);

    if (!loss || !t->val.n)
        return 0;
    if (cmd_real(loss, -1e300, 1e300, &t->best_loss, e) ||
        train_snapshot(t, &t->best, NULL, e))
        return -1;
    for (size_t i = 0; i < pq_train_params(t->core); i++) {
        const struct pq_train_param p = pq_train_param(t->core, i);
        if (get(s, names, "best", &p, PQ_F32, t->best[i], e))
            return -1;
    }
    return 0;
}

static int get_numbers(struct train *t, struct pq_source *s, struct pq_error *e)
{
    uint64_t step, taken, seed, texts, tokens;

    if (get_number(s, key_step, &step, e) ||
        get_number(s, key_taken, &taken, e) ||
        get_number(s, key_seed, &seed, e) ||
        get_number(s, key_texts, &texts, e) ||
        get_number(s, key_tokens, &tokens, e) ||
        get_number(s, key_best_step, &t->best_step, e) ||
        get_number(s, key_waited, &t->waited, e))
        return -1;
    if (seed != t->c->seed)
        return pq_fail(e, PQ_EARG, "%s: was begun with --seed %llu", s->name,
                       (unsigned long long)seed);
    if (texts != t->data.n || tokens != t->data.tokens)
        return pq_fail(e, PQ_EARG,
                       "%s: was begun with other data: %llu texts, %llu "
                       "tokens",
                       s->name, (unsigned long long)texts,
                       (unsigned long long)tokens);
    pq_train_set_steps(t->core, step);
    train_order_restart(&t->order, taken);
    return 0;
}

static int read_state(struct train *t, struct pq_source *s,
                      struct pq_names *names, struct pq_error *e)
{
    for (size_t i = 0; i < s->catalog->n_tensors; i++)
        if (pq_names_add(names, s->catalog->tensors[i].name, i, NULL, e) < 0)
            return -1;
    if (get_numbers(t, s, e))
        return -1;
    for (size_t i = 0; i < pq_train_params(t->core); i++) {
        const struct pq_train_param p = pq_train_param(t->core, i);
        if (get_param(s, names, &p, e))
            return -1;
    }
    pq_train_changed(t->core);
    return get_best(t, s, names, e);
}

int train_state_load(struct train *t, struct pq_error *e)
{
    struct pq_names names = {0};
    struct pq_source *s = NULL;
    char *path = state_path(t->c);
    int rc = path ? pq_open_model(path, &cmd_cancel, &s, e) : pq_fail_nomem(e);

    if (!rc)
        rc = read_state(t, s, &names, e);
    pq_names_release(&names);
    pq_source_free(s);
    free(path);
    return rc;
}

void train_state_warn(const struct train *t)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_source *s = NULL;
    char *path = state_path(t->c);
    uint64_t step;

    if (path && !pq_open_model(path, &cmd_cancel, &s, &e) &&
        !get_number(s, key_step, &step, &e) && step < t->steps && !t->c->quiet)
        cmd_msg(t->c,
                "warning: %s, at step %llu, will be replaced; --resume would "
                "go on from it",
                path, (unsigned long long)step);
    pq_source_free(s);
    free(path);
}
