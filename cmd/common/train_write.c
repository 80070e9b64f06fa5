/*
 * What training leaves behind; see training.h.
 *
 *   a model    every tensor that was trained, in the type that the file had
 *              it in; all else is copied
 *   LoRA       base_model.model.M.lora_A.weight [r][in], .lora_B.weight
 *              [out][r], .lora_magnitude_vector [out], in f32
 *   a prompt   prompt_embeddings [tokens][hidden], in f32
 */
#include "config.h"
#include "pq_made.h"
#include "pq_quant.h"
#include "training.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct writing {
    const struct train_output *o;
    struct pq_source *lent;
    struct pq_plan plan;
    struct pq_catalog out;
    struct pq_quant quant;
};

static void release(struct writing *w)
{
    pq_sink_free(w->plan.sink);
    w->plan.sink = NULL;
    w->plan.sources = NULL;
    pq_plan_release(&w->plan);
    pq_source_free(w->lent);
    pq_catalog_release(&w->out);
}

/* Opens the output and forgets it, but for a pipe, which would notice. */
static int try(const struct cmd *c, struct pq_sink *k, struct pq_error *e)
{
    struct stat st;

    if (stat(c->output, &st) == 0 && !S_ISREG(st.st_mode) &&
        !S_ISDIR(st.st_mode))
        return 0;
    const int rc = k->ops->begin(k, e);
    k->ops->abort(k, NULL);
    return rc;
}

static int run(struct writing *w, const struct pq_catalog *like,
               struct pq_error *e)
{
    struct cmd *c = w->o->c;
    struct pq_source *sources[] = {w->lent, w->o->model};

    w->plan.sources = sources;
    w->plan.n_sources = 2;
    if (cmd_make_sink(c, &w->out, NULL, like, &w->plan.sink, e))
        return -1;
    return w->o->tries ? try(c, w->plan.sink, e) : cmd_run_plan(c, &w->plan, e);
}

/* ---- a model ------------------------------------------------------------ */

static int add_trained(struct writing *w, const struct pq_tensor *like,
                       const struct train_tensor *t, struct pq_error *e)
{
    const struct pq_spec spec = {.dtype = like->dtype};
    const struct pq_tensor *from =
        pq_lent_add(w->lent, like->name, like->shape, like->rank, t->data, e);

    if (!from || !pq_quant_declare(&w->out, like, &spec, false, e))
        return -1;
    return pq_step_encode(&w->plan, w->lent, from, &w->out,
                          w->out.n_tensors - 1, &spec, false, &w->quant, e)
               ? 0
               : -1;
}

static int add_tensor(struct writing *w, const struct pq_names *trained,
                      const struct pq_tensor *t, struct pq_error *e)
{
    const size_t i = pq_names_find(trained, t->name);

    if (i != SIZE_MAX)
        return add_trained(w, t, &w->o->tensors[i], e);
    if (!pq_tensor_copy(&w->out, t, e))
        return -1;
    return pq_step_copy(&w->plan, w->o->model, t, w->out.n_tensors - 1, e);
}

static int make_room(struct writing *w, size_t n, struct pq_error *e)
{
    return pq_catalog_reserve(&w->out, n, e) ||
                   pq_lent_new("trained", n, &w->lent, e)
               ? -1
               : 0;
}

static int write_model(struct writing *w, struct pq_error *e)
{
    const struct pq_catalog *in = w->o->model->catalog;
    struct pq_names trained = {0};
    int rc =
        make_room(w, in->n_tensors, e) || pq_catalog_copy_meta(&w->out, in, e);

    for (size_t i = 0; !rc && i < w->o->n; i++)
        rc = pq_names_add(&trained, w->o->tensors[i].name, i, NULL, e);
    for (size_t i = 0; !rc && i < in->n_tensors; i++)
        rc = add_tensor(w, &trained, &in->tensors[i], e);
    if (!rc)
        rc = run(w, in, e);
    pq_names_release(&trained);
    return rc ? -1 : 0;
}

/* ---- adapters ----------------------------------------------------------- */

/* All plain floats, in one file of an adapter's directory. */
static int write_floats(struct writing *w, const struct train_tensor *t,
                        size_t n, struct pq_error *e)
{
    static const char *file = "adapter_model.safetensors";
    struct pq_catalog like = *w->o->model->catalog;

    like.directory = true; /* a name without a suffix is one */
    w->out.files = &file;
    w->out.n_files = 1;
    if (make_room(w, n, e))
        return -1;
    for (size_t i = 0; i < n; i++) {
        const struct pq_tensor *from = pq_lent_add(
            w->lent, t[i].name, t[i].shape, t[i].rank, t[i].data, e);
        if (!from || !pq_tensor_copy(&w->out, from, e) ||
            pq_step_copy(&w->plan, w->lent, from, i, e))
            return -1;
    }
    return run(w, &like, e);
}

static int write_lora(struct writing *w, struct pq_error *e)
{
    return pq_peft_trained_config(&w->out, &w->o->adapter, e)
               ? -1
               : write_floats(w, w->o->tensors, w->o->n, e);
}

static int write_prompt(struct writing *w, struct pq_error *e)
{
    const struct train_tensor *p = w->o->prompt;
    const struct pq_catalog *in = w->o->model->catalog;
    uint64_t layers = 0, heads = 0;

    if ((!cmd_config_number(in, "num_hidden_layers", &layers, e) &&
         !cmd_config_number(in, "n_layer", &layers, e)) ||
        (!cmd_config_number(in, "num_attention_heads", &heads, e) &&
         !cmd_config_number(in, "n_head", &heads, e)))
        return e->code ? -1
                       : pq_fail(e, PQ_EFORMAT,
                                 "config.json: says neither how many layers "
                                 "nor how many heads there are");
    return pq_peft_prompt_config(&w->out, w->o->adapter.base, p->shape[0],
                                 p->shape[1], layers, heads, e)
               ? -1
               : write_floats(w, p, 1, e);
}

/* ---- where -------------------------------------------------------------- */

typedef int write_one(struct writing *w, struct pq_error *e);

static int write_with(const struct train_output *o, write_one *f,
                      struct pq_error *e)
{
    struct writing w = {.o = o, .quant = {.kernels = o->c->kernels}};

    pq_catalog_init(&w.out);
    const int rc = f(&w, e);
    release(&w);
    return rc;
}

/* To a directory in the one of -o. */
static int write_within(const struct train_output *o, const char *name,
                        write_one *f, struct pq_error *e)
{
    const char *dir = o->c->output;
    struct pq_buf path = {0};

    pq_buf_printf(&path, "%s%s%s/", dir, dir[strlen(dir) - 1] == '/' ? "" : "/",
                  name);
    int rc = path.failed ? pq_fail_nomem(e) : 0;
    const bool made = !rc && !o->c->dry_run && mkdir(dir, 0777) == 0;
    if (!rc && !o->c->dry_run && !made && errno != EEXIST)
        rc = pq_fail_sys(e, errno, "%s", dir);
    if (!rc) {
        o->c->output = path.s;
        rc = write_with(o, f, e);
        o->c->output = dir;
    }
    if (made && (rc || o->tries))
        (void)rmdir(dir);
    pq_buf_release(&path);
    return rc;
}

int train_write(const struct train_output *o, struct pq_error *e)
{
    switch (o->method) {
    case TRAIN_FULL:
    case TRAIN_SPARSE:
        return write_with(o, write_model, e);
    case TRAIN_PROMPT:
        return write_with(o, write_prompt, e);
    case TRAIN_HYBRID:
        return write_within(o, "lora", write_lora, e) ||
                       write_within(o, "prompt", write_prompt, e)
                   ? -1
                   : 0;
    default:
        return write_with(o, write_lora, e);
    }
}
