/*
 * The beginning of a training: the model, what of it is trained, the data,
 * and what memory that takes; see training.h.
 */
#include "config.h"
#include "pq_quant.h"
#include "rng.h"
#include "training.h"

#include <stdlib.h>
#include <string.h>

/* ---- the model ---------------------------------------------------------- */

static bool is_encoded(const struct pq_catalog *c)
{
    for (size_t i = 0; i < c->n_tensors; i++)
        if (c->tensors[i].codec.encoding != PQ_PLAIN)
            return true;
    return false;
}

/* --init random: of the directory only what stands beside its weights. */
static int open_fresh(struct train *t, struct pq_error *e)
{
    struct pq_source *bare = NULL;

    if (pq_dir_open_bare(t->c->operands[0], &cmd_cancel, &bare, e))
        return -1;
    const int rc =
        pq_train_fresh(bare, t->c->seed, t->c->kernels, &t->model, e);
    pq_source_free(bare);
    return rc;
}

static int open_model(struct train *t, struct pq_error *e)
{
    const enum train_method m = t->o->method;
    const uint64_t memory = t->c->memory;

    t->budget = memory / 3 * 4;
    if (t->o->fresh)
        return open_fresh(t, e);
    if (cmd_open_kept(t->c, 0, &t->model, e) || cmd_fold(t->c, t->model, e))
        return -1;
    t->kept = memory - t->c->memory;
    const bool encoded = is_encoded(t->model->catalog);
    if (encoded && (m == TRAIN_FULL || m == TRAIN_SPARSE))
        return pq_fail(e, PQ_EARG,
                       "%s: has encoded weights, which are not trained: "
                       "dequantize it, or train an adapter",
                       t->model->name);
    return m == TRAIN_QLORA && !encoded ? train_quantize(t, e) : 0;
}

/* ---- the soft prompt ---------------------------------------------------- */

/* The text's tokens, cut or repeated to as many as there are rows. */
static int set_prompt(struct train *t, struct pq_error *e)
{
    const char *text = t->o->prompt_text;
    struct pq_ids ids = {0};

    if (!text)
        return 0;
    t->data.file.model = t->model->catalog;
    if (cmd_data_tokenizer(&t->data.file, e) ||
        pq_tokenizer_encode(t->data.file.tokenizer, text, strlen(text), 0, &ids,
                            e))
        return pq_error_in(e, "--prompt-text");
    if (!t->o->prompt_tokens)
        t->o->prompt_tokens = ids.n;
    t->prompt_ids =
        pq_alloc((size_t)t->o->prompt_tokens, sizeof *t->prompt_ids);
    int rc = t->prompt_ids ? 0 : pq_fail_nomem(e);
    if (!rc && ids.n == 0)
        rc = pq_fail(e, PQ_EARG, "--prompt-text: holds no token");
    for (size_t i = 0; !rc && i < t->o->prompt_tokens; i++)
        t->prompt_ids[i] = (int32_t)ids.list[i % ids.n];
    free(ids.list);
    return rc;
}

/* About N(0, 1), as PEFT begins: the sum of 12 uniform numbers, less 6. */
static void randomize(struct train *t)
{
    struct pq_rng r;

    pq_rng_init(&r, t->c->seed, "pq-train.prompt");
    for (size_t i = 0; i < pq_train_params(t->core); i++) {
        const struct pq_train_param p = pq_train_param(t->core, i);
        if (strcmp(p.name, "prompt_embeddings") != 0)
            continue;
        for (size_t k = 0; k < p.rows * p.cols; k++) {
            float x[12], sum = -6;
            pq_rng_uniform(&r, 12 * (uint64_t)k, x, 12);
            for (int n = 0; n < 12; n++)
                sum += x[n];
            p.w[k] = sum;
        }
    }
    pq_train_changed(t->core);
}

/* ---- what is trained ---------------------------------------------------- */

static unsigned what(enum train_method m)
{
    switch (m) {
    case TRAIN_FULL:
    case TRAIN_SPARSE:
        return PQ_TRAIN_WEIGHTS;
    case TRAIN_PROMPT:
        return PQ_TRAIN_PROMPT;
    case TRAIN_HYBRID:
        return PQ_TRAIN_LORA | PQ_TRAIN_PROMPT;
    default:
        return PQ_TRAIN_LORA;
    }
}

static int open_core(struct train *t, struct pq_error *e)
{
    const struct train_options *o = t->o;
    struct pq_train_options x = PQ_TRAIN_OPTIONS_INIT;

    x.kernels = t->c->kernels;
    x.threads = t->c->threads;
    x.what = what(o->method);
    x.seed = t->c->seed;
    x.recompute = o->recompute;
    x.rank = (size_t)o->rank;
    x.alpha = o->alpha;
    x.rslora = o->rslora;
    x.dora = o->dora;
    x.pissa = o->pissa;
    x.targets = o->targets.items;
    x.n_targets = o->targets.n;
    x.prompt_rows = (size_t)o->prompt_tokens;
    x.prompt_ids = t->prompt_ids;
    x.weight_decay = o->weight_decay;
    x.clip = o->clip;
    x.neftune = o->neftune;
    return pq_train_open(t->model, &x, &t->core, e);
}

/* ---- the data ----------------------------------------------------------- */

static int read_data(struct train *t, struct pq_error *e)
{
    const struct pq_train_info m = pq_train_about(t->core);
    const size_t prompt = (size_t)t->o->prompt_tokens;
    const size_t length = (size_t)t->o->length;

    if (prompt + 2 > m.positions)
        return pq_fail(e, PQ_EARG,
                       "a soft prompt of %zu leaves no room for text in the "
                       "%zu positions of the model",
                       prompt, m.positions);
    if (length + prompt > m.positions)
        return pq_fail(e, PQ_EARG, "--seq-len: the model has %zu positions%s",
                       m.positions,
                       prompt ? ", the soft prompt's among them" : "");
    t->data.ends = t->val.ends = !t->o->no_eos;
    if (train_data_read(&t->data, t->o->data, t->model->catalog, m.vocab,
                        length, m.positions - prompt, e))
        return -1;
    t->val.file.tokenizer = t->data.file.tokenizer;
    t->val.file.lent = t->data.file.tokenizer != NULL;
    return !t->o->val
               ? 0
               : train_data_read(&t->val, t->o->val, t->model->catalog, m.vocab,
                                 length, m.positions - prompt, e);
}

/* How many steps it takes to have seen every piece so often. */
static uint64_t count_steps(struct train *t)
{
    const uint64_t all = t->o->epochs * t->data.n;
    uint64_t steps = 0;

    while (t->order.taken < all) {
        for (size_t i = 0; i < t->o->accumulate; i++)
            train_take(&t->order, t->taken);
        steps++;
    }
    return steps;
}

static int set_order(struct train *t, struct pq_error *e)
{
    const struct train_options *o = t->o;
    uint64_t n;

    t->order = (struct train_order){.d = &t->data,
                                    .seed = t->c->seed,
                                    .shuffle = !o->in_order,
                                    .batch = (size_t)o->batch};
    const size_t length = o->length ? (size_t)o->length : t->data.longest;
    if (o->pack)
        t->order.room = (size_t)o->batch * length;
    const size_t most = train_most(&t->order);
    if (!pq_mul(most, o->accumulate, &n))
        return pq_fail_nomem(e);
    t->taken = pq_alloc((size_t)n, sizeof *t->taken);
    t->counts = pq_alloc((size_t)o->accumulate, sizeof *t->counts);
    t->texts = pq_alloc(most, sizeof *t->texts);
    if (!t->taken || !t->counts || !t->texts)
        return pq_fail_nomem(e);
    if (train_order_init(&t->order, e))
        return -1;
    t->steps = o->steps ? o->steps : count_steps(t);
    train_order_restart(&t->order, 0);
    t->schedule =
        (struct pq_schedule){o->shape, o->warmup, t->steps, o->decay, o->least};
    if (!t->o->val_every)
        t->o->val_every = t->steps / 10 ? t->steps / 10 : 1;
    return 0;
}

/* ---- sparsity ----------------------------------------------------------- */

/* New masks at forty times, the last when three quarters are done. */
static int sparsify(struct train *t, struct pq_error *e)
{
    struct pq_train_sparsity *s = &t->o->sparsity;
    const uint64_t last = t->steps - t->steps / 4;

    if (t->o->method != TRAIN_SPARSE)
        return 0;
    s->every = last / 40 ? last / 40 : 1;
    s->begin = s->every < last ? s->every : last;
    s->updates = (last - s->begin) / s->every;
    return pq_train_sparsify(t->core, s, e) ||
                   (t->o->rounds &&
                    pq_train_round(t->core, t->o->rounding.encoding,
                                   t->o->rounding.dtype, e))
               ? -1
               : 0;
}

/* ---- memory ------------------------------------------------------------- */

/* --memory: what is too much is run again, or refused. */
static int fit(struct train *t, struct pq_error *e)
{
    const uint64_t budget = t->budget;
    uint64_t bytes;

    if (!t->c->memory_given)
        return 0;
    if (train_bytes(t, &bytes, e))
        return -1;
    if (bytes > budget && !t->o->recompute) {
        t->o->recompute = true;
        pq_train_free(t->core);
        t->core = NULL;
        if (open_core(t, e) || sparsify(t, e) || train_bytes(t, &bytes, e))
            return -1;
        if (t->c->verbose > 0 && bytes <= budget)
            cmd_msg(t->c, "recomputes, or it would not fit into --memory");
    }
    return bytes <= budget
               ? 0
               : pq_fail(e, PQ_ELIMIT,
                         "training takes %llu MiB, more than --memory: a "
                         "smaller --batch or --seq-len takes less",
                         (unsigned long long)(bytes >> 20) + 1);
}

/* ---- all of it ---------------------------------------------------------- */

static int prepare(struct train *t, struct pq_error *e)
{
    return open_model(t, e) || train_start_open(t, e) || set_prompt(t, e) ||
                   open_core(t, e) || read_data(t, e) || set_order(t, e) ||
                   sparsify(t, e) || fit(t, e) || train_start_read(t, e)
               ? -1
               : 0;
}

/* What has been copied to where it is trained, and is in memory twice. */
static void let_go(struct train *t)
{
    pq_peft_release(&t->from);
    pq_source_free(t->start_source);
    t->start_source = NULL;
    t->from_prompt = NULL;
    if (!t->inner)
        return;
    pq_source_free(t->model);
    t->model = t->inner;
    t->inner = NULL;
    t->data.file.model = t->val.file.model = t->model->catalog;
}

int train_open(struct train *t, struct pq_error *e)
{
    if (prepare(t, e))
        return -1;
    let_go(t);
    if (t->o->prompt_init == PROMPT_INIT_RANDOM)
        randomize(t);
    return 0;
}

static void free_each(float **x, size_t n)
{
    for (size_t i = 0; x && i < n; i++)
        free(x[i]);
    free(x);
}

void train_close(struct train *t)
{
    const size_t n = t->core ? pq_train_params(t->core) : 0;

    free_each(t->before, n);
    free_each(t->start, n);
    free_each(t->best, n);
    train_order_release(&t->order);
    train_data_release(&t->data);
    train_data_release(&t->val);
    train_log_release(&t->log);
    free(t->taken);
    free(t->counts);
    free(t->texts);
    free(t->prompt_ids);
    pq_train_free(t->core);
    pq_peft_release(&t->from);
    pq_source_free(t->start_source);
    pq_source_free(t->model);
    pq_source_free(t->inner);
}
