/*
 * pq-dequantize: encoded weights back to a floating type.
 *
 * Every nf4, fp4, int8, int8_block and f8 tensor is decoded to -t TYPE (by
 * default the type it had before) and all other tensors are copied.  GPT-2's
 * Conv1D weights, which are stored turned when encoded, are turned back.
 */
#include "config.h"
#include "job.h"
#include "pq_names.h"

#include <string.h>

enum { OPT_TYPE = 1 };

static const struct cmd_option options[] = {
    {'t', "type", "TYPE", "f32, f16 or bf16 (default: what the file says)",
     "f32 f16 bf16", CMD_CHANGES_OUTPUT, OPT_TYPE},
    {0, NULL, NULL, NULL, NULL, 0, 0},
};

struct dequantize {
    bool given;
    enum pq_dtype dtype;
};

struct job {
    struct cmd_job base;
    const struct dequantize *o;
    bool conv1d;
};

static int option(struct cmd *c, int id, const char *value, struct pq_error *e)
{
    struct dequantize *o = c->state;
    struct pq_spec s;

    (void)id;
    if (pq_spec_parse(value, &s) || s.encoding != PQ_PLAIN ||
        pq_dtype_bits(s.dtype) < 16)
        return pq_fail(e, PQ_EARG, "unknown type '%s': one of f32 f16 bf16",
                       value);
    o->given = true;
    o->dtype = s.dtype;
    return 0;
}

/* Encoded, or a plain type of 8 bits, which nothing computes with. */
static bool chosen(const struct job *j, const struct pq_tensor *t)
{
    return (t->codec.encoding != PQ_PLAIN ||
            (pq_dtype_is_float(t->dtype) && pq_dtype_bits(t->dtype) == 8)) &&
           cmd_selected(j->base.c, t->name);
}

static bool turned(const struct job *j, const struct pq_tensor *t)
{
    return j->conv1d && t->rank == 2 && t->codec.encoding != PQ_PLAIN &&
           pq_name_is_conv1d(t->name);
}

/* int8 and f8 do not say what the weights were: config.json may. */
static enum pq_dtype output_dtype(const struct job *j,
                                  const struct pq_tensor *t)
{
    char name[32];
    struct pq_error ignored = PQ_ERROR_INIT;
    const struct pq_catalog *in = j->base.in->catalog;

    if (j->o->given)
        return j->o->dtype;
    const bool silent = t->codec.encoding == PQ_INT8 ||
                        t->codec.encoding == PQ_PLAIN;
    if (silent &&
        (cmd_config_string(in, "dtype", name, sizeof name, &ignored) ||
         cmd_config_string(in, "torch_dtype", name, sizeof name, &ignored))) {
        const int d = pq_dtype_from_torch_name(name);
        if (d == PQ_F32 || d == PQ_F16 || d == PQ_BF16)
            return (enum pq_dtype)d;
    }
    return t->codec.encoding == PQ_PLAIN ? PQ_BF16 : t->dtype;
}

/* What looks like an encoding but does not hold together. */
static int refuse_broken(const struct job *j, const struct pq_tensor *t,
                         struct pq_error *e)
{
    const char *dot = strrchr(t->name, '.');

    if (t->codec.encoding != PQ_PLAIN || !cmd_selected(j->base.c, t->name) ||
        (!strstr(t->name, ".quant_state.") && !(dot && !strcmp(dot, ".SCB"))))
        return 0;
    return pq_fail(e, PQ_EFORMAT,
                   "%s: tensor %s: the parts of this encoding do not fit "
                   "together",
                   j->base.in->name, t->name);
}

static int declare_tensors(struct job *j, struct pq_error *e)
{
    const struct pq_catalog *in = j->base.in->catalog;

    if (pq_catalog_copy_meta(&j->base.out, in, e))
        return -1;
    for (size_t i = 0; i < in->n_tensors; i++) {
        const struct pq_tensor *t = &in->tensors[i];
        const struct pq_spec to = {.dtype = output_dtype(j, t)};
        if (refuse_broken(j, t, e))
            return -1;
        if (chosen(j, t) ? !pq_quant_declare(&j->base.out, t, &to,
                                             turned(j, t), e)
                         : !pq_tensor_copy(&j->base.out, t, e))
            return -1;
    }
    return 0;
}

static bool any_turned(const struct job *j)
{
    for (size_t i = 0; i < j->base.in->catalog->n_tensors; i++)
        if (chosen(j, &j->base.in->catalog->tensors[i]) &&
            turned(j, &j->base.in->catalog->tensors[i]))
            return true;
    return false;
}

/* Turned tensors are cast, by columns, from numbers decoded on the way. */
static int add_step(struct job *j, size_t i, struct pq_error *e)
{
    struct cmd_job *b = &j->base;
    const struct pq_tensor *t = &b->in->catalog->tensors[i];
    const struct pq_spec to = {.dtype = b->out.tensors[i].dtype};

    if (!chosen(j, t))
        return pq_step_copy(&b->plan, b->in, t, i, e);
    if (!turned(j, t))
        return pq_step_decode(&b->plan, b->in, t, &b->out, i, &b->quant, e)
                   ? 0
                   : -1;
    return pq_step_encode(&b->plan, b->decoded,
                          &b->decoded->catalog->tensors[i], &b->out, i, &to,
                          true, &b->quant, e)
               ? 0
               : -1;
}

static int add_steps(struct job *j, struct pq_error *e)
{
    if (any_turned(j) && cmd_job_decode(&j->base, e))
        return -1;
    for (size_t i = 0; i < j->base.in->catalog->n_tensors; i++)
        if (add_step(j, i, e))
            return -1;
    return 0;
}

static bool all_of_type(const struct job *j, enum pq_dtype dtype)
{
    for (size_t i = 0; i < j->base.out.n_tensors; i++)
        if (j->base.out.tensors[i].rank > 1 &&
            pq_dtype_is_float(j->base.out.tensors[i].dtype) &&
            j->base.out.tensors[i].dtype != dtype)
            return false;
    return true;
}

/* Nothing encoded is left: the config must not say otherwise. */
static int edit_config(struct job *j, struct pq_error *e)
{
    for (size_t i = 0; i < j->base.out.n_tensors; i++)
        if (j->base.out.tensors[i].codec.encoding != PQ_PLAIN)
            return 0;
    if (cmd_config_set(&j->base.out, "quantization_config", NULL, e))
        return -1;
    /* a model whose other weights keep their type keeps its dtype, too */
    return j->o->given && all_of_type(j, j->o->dtype)
               ? cmd_config_set_dtype(&j->base.out, j->o->dtype, e)
               : 0;
}

static int declare(struct cmd_job *base, struct pq_error *e)
{
    struct job *j = (struct job *)base;

    j->conv1d = cmd_config_has_conv1d(base->in->catalog, e);
    return e->code || cmd_config_refuse_foreign(base->in, e) ||
                   declare_tensors(j, e) || edit_config(j, e) ||
                   add_steps(j, e)
               ? -1
               : 0;
}

static int run(struct cmd *c, struct pq_error *e)
{
    struct job j = {.base = {.c = c,
                             .declare = declare,
                             /* the bits are carried */
                             .quant = {.allow_nonfinite = true}},
                    .o = c->state};

    return cmd_job_run(&j.base, e);
}

static const char *const examples[] = {
    "pq-dequantize -t bf16 llama-nf4/ -o llama-bf16/",
    "pq-dequantize model.nf4.pq | pq-quantize -t int8 -o model.int8.pq",
    NULL,
};

const struct pq_tool tool_dequantize = {
    .name = "dequantize",
    .purpose = "turn encoded weights back into floating numbers",
    .synopsis = "[options] [MODEL]",
    .options = options,
    .shared = CMD_OUTPUT | CMD_DRY_RUN | CMD_SELECT | CMD_ENGINE |
              CMD_JSON | CMD_PROVENANCE | CMD_VERBOSITY,
    .max_operands = 1,
    .examples = examples,
    .state_bytes = sizeof(struct dequantize),
    .option = option,
    .run = run,
};
