/*
 * pq-quantize: weights to fewer bits.
 *
 * f32, f16 and bf16 cast every floating tensor; types of 8 bits and fewer
 * take the weights of linear layers and leave embeddings, the output head,
 * norms and biases as they are.  Rules (GLOB=TYPE) come before that.
 */
#include "config.h"
#include "job.h"
#include "pq_names.h"
#include "rules.h"

#include <stdlib.h>
#include <string.h>

enum {
    OPT_TYPE = 1,
    OPT_BLOCK,
    OPT_DOUBLE,
    OPT_OPTIMIZE,
    OPT_RULE,
    OPT_RULES,
    OPT_NONFINITE,
    OPT_REQUANTIZE
};

static const struct cmd_option options[] = {
    {'t', "type", "TYPE", "what to store the weights as (required)",
     "f32 f16 bf16 f8_e4m3 f8_e5m2 int8 int8_block nf4 fp4",
     CMD_CHANGES_OUTPUT, OPT_TYPE},
    {0, "block", "N", "weights that share a scale (default 64; int8_block 4096)",
     "32 64 128 256 512 1024 2048 4096", CMD_CHANGES_OUTPUT, OPT_BLOCK},
    {0, "double-quant", NULL, "store the scales of nf4 and fp4 in 8 bits", NULL,
     CMD_CHANGES_OUTPUT, OPT_DOUBLE},
    {0, "optimize", NULL, "search for scales with less error, same format",
     NULL, CMD_CHANGES_OUTPUT, OPT_OPTIMIZE},
    {0, "rule", "GLOB=TYPE", "another type (or keep) for some tensors", "",
     CMD_CHANGES_OUTPUT | CMD_REPEATS, OPT_RULE},
    {0, "rules", "FILE", "read such rules from a file, one a line", NULL,
     CMD_CHANGES_OUTPUT | CMD_REPEATS | CMD_ARG_CONTENT, OPT_RULES},
    {0, "allow-nonfinite", NULL, "accept NaN, Inf and values out of range",
     NULL, CMD_CHANGES_OUTPUT, OPT_NONFINITE},
    {0, "requantize", NULL, "decode what is encoded otherwise, encode it anew",
     NULL, CMD_CHANGES_OUTPUT, OPT_REQUANTIZE},
    {0, NULL, NULL, NULL, NULL, 0, 0},
};

struct quantize {
    const char *type;
    struct pq_spec spec;
    struct cmd_rules rules;
    bool allow_nonfinite, requantize;
    uint64_t block;
};

/* What becomes of one tensor. */
struct choice {
    struct pq_spec spec;
    bool convert, transpose;
};

struct job {
    struct cmd_job base;
    struct quantize *o;
    struct choice *choices; /* [tensors of in] */
    bool conv1d;
};

static int option(struct cmd *c, int id, const char *value, struct pq_error *e)
{
    struct quantize *o = c->state;

    switch (id) {
    case OPT_TYPE:
        o->type = value;
        if (pq_spec_parse(value, &(struct pq_spec){.block = 0}))
            return pq_fail(e, PQ_EARG, "unknown type '%s': one of %s", value,
                           pq_spec_types());
        return 0;
    case OPT_BLOCK:
        return cmd_number(value, 1, UINT32_MAX, &o->block, e);
    case OPT_DOUBLE:
        o->spec.double_quant = true;
        return 0;
    case OPT_OPTIMIZE:
        o->spec.optimize = true;
        return 0;
    case OPT_RULE:
        return cmd_rules_add(&o->rules, value, e);
    case OPT_RULES:
        return cmd_rules_read(&o->rules, c, value, e);
    case OPT_REQUANTIZE:
        o->requantize = true;
        return 0;
    default:
        o->allow_nonfinite = true;
        return 0;
    }
}

/* Parses a type and gives it the options that make sense for it. */
static int make_spec(const struct quantize *o, const char *type,
                     struct pq_spec *s, struct pq_error *e)
{
    if (pq_spec_parse(type, s))
        return pq_fail(e, PQ_EARG, "unknown type '%s': one of %s", type,
                       pq_spec_types());
    const bool main_type = strcmp(type, o->type) == 0;
    const bool four = s->encoding == PQ_NF4 || s->encoding == PQ_FP4;
    const bool blocks = four || s->encoding == PQ_INT8_BLOCK;

    /* of a rule's type only what it can take, of -t all or an error */
    s->block = main_type || blocks ? (uint32_t)o->block : 0;
    s->double_quant = o->spec.double_quant && (main_type || four);
    s->optimize = o->spec.optimize && (main_type || blocks);
    return pq_spec_check(s, e);
}

/* Also of rules that no tensor will take. */
static int check_rules(const struct quantize *o, struct pq_error *e)
{
    struct pq_spec s;

    for (size_t i = 0; i < o->rules.n; i++)
        if (strcmp(o->rules.rules[i].value, "keep") != 0 &&
            make_spec(o, o->rules.rules[i].value, &s, e))
            return pq_error_in(e, "rule '%s=%s'", o->rules.rules[i].glob,
                               o->rules.rules[i].value);
    return 0;
}

static bool is_wide_cast(const struct pq_spec *s)
{
    return s->encoding == PQ_PLAIN && pq_dtype_bits(s->dtype) > 8;
}

/* A weight of a linear layer: two dimensions, and a name that says so. */
static bool is_linear(const struct pq_tensor *t)
{
    return t->rank == 2 && pq_name_is_linear(t->name);
}

/* Without rules: -m names tensors outright, else the type's own choice. */
static bool is_default(const struct job *j, const struct pq_tensor *t)
{
    if (!cmd_selected(j->base.c, t->name))
        return false;
    return j->base.c->match.n > 0 || is_wide_cast(&j->o->spec) || is_linear(t);
}

static int choose(struct job *j, const struct pq_tensor *t, struct choice *d,
                  struct pq_error *e)
{
    const char *rule = cmd_rules_find(&j->o->rules, t->name);
    const bool floating = pq_dtype_is_float(t->dtype);

    d->spec = j->o->spec;
    d->convert = !rule && floating && is_default(j, t);
    if (rule && strcmp(rule, "keep") != 0) {
        if (make_spec(j->o, rule, &d->spec, e))
            return -1;
        if (!floating)
            return pq_fail(e, PQ_EARG, "%s: tensor %s: is %s, not floating",
                           j->base.in->name, t->name, pq_dtype_name(t->dtype));
        d->convert = true;
    }
    if (d->convert && t->codec.encoding != PQ_PLAIN) {
        if (t->codec.encoding != d->spec.encoding && j->o->requantize) {
            /* Conv1D was turned when it was encoded: back, or not again */
            d->transpose = d->spec.encoding == PQ_PLAIN && j->conv1d &&
                           t->rank == 2 && pq_name_is_conv1d(t->name);
            return 0;
        }
        if (t->codec.encoding != d->spec.encoding)
            return pq_fail(e, PQ_EARG,
                           "%s: tensor %s: is %s already; --requantize "
                           "encodes it anew",
                           j->base.in->name, t->name,
                           pq_encoding_name(t->codec.encoding));
        d->convert = false;
    }
    /* nothing is there to encode, however many rows of it */
    if (t->n_elements == 0 && d->spec.encoding != PQ_PLAIN)
        d->convert = false;
    if (d->convert && cmd_refuse_scaled(j->base.in, t, e))
        return -1;
    d->transpose = d->convert && d->spec.encoding != PQ_PLAIN && j->conv1d &&
                   t->rank == 2 && pq_name_is_conv1d(t->name);
    return 0;
}

static int declare_tensors(struct job *j, struct pq_error *e)
{
    const struct pq_catalog *in = j->base.in->catalog;

    if (pq_catalog_copy_meta(&j->base.out, in, e))
        return -1;
    j->choices = pq_zalloc(in->n_tensors, sizeof *j->choices);
    if (!j->choices)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < in->n_tensors; i++) {
        const struct pq_tensor *t = &in->tensors[i];
        struct choice *d = &j->choices[i];
        if (choose(j, t, d, e))
            return -1;
        if (d->convert ? !pq_quant_declare(&j->base.out, t, &d->spec,
                                           d->transpose, e)
                       : !pq_tensor_copy(&j->base.out, t, e))
            return pq_error_in(e, "%s", j->base.in->name);
    }
    return 0;
}

static int add_steps(struct job *j, struct pq_error *e)
{
    struct cmd_job *b = &j->base;
    const struct pq_catalog *in = b->in->catalog;

    for (size_t i = 0; i < in->n_tensors; i++) {
        const struct choice *d = &j->choices[i];
        if (!d->convert) {
            if (pq_step_copy(&b->plan, b->in, &in->tensors[i], i, e))
                return -1;
            continue;
        }
        struct pq_source *from = b->decoded ? b->decoded : b->in;
        struct pq_step *s =
            pq_step_encode(&b->plan, from, &from->catalog->tensors[i], &b->out,
                           i, &d->spec, d->transpose, &b->quant, e);
        if (!s)
            return -1;
        s->user = &b->report;
    }
    return 0;
}

/* ---- config.json ------------------------------------------------------- */

static void warn(const struct job *j, bool mixed, const struct pq_tensor *t)
{
    const struct cmd_rules *r = &j->o->rules;
    const struct cmd *c = j->base.c;
    const char *name = j->base.in->name;

    for (size_t i = 0; i < r->n && !c->quiet; i++)
        if (!r->rules[i].used)
            cmd_msg(c, "warning: no tensor takes the rule '%s=%s'",
                    r->rules[i].glob, r->rules[i].value);
    if (c->quiet || !pq_catalog_blob(&j->base.out, "config.json"))
        return;
    if (mixed)
        cmd_msg(c, "warning: %s: transformers loads one encoding a model, "
                   "not several",
                name);
    else if (t && t->codec.encoding == PQ_INT8_BLOCK)
        cmd_msg(c, "warning: %s: transformers has no loader for int8_block",
                name);
}

static int edit_config(struct job *j, struct pq_error *e)
{
    const struct cmd *c = j->base.c;
    const struct pq_tensor *t;
    bool mixed;

    if (is_wide_cast(&j->o->spec) && c->match.n + c->exclude.n == 0 &&
        cmd_config_set_dtype(&j->base.out, j->o->spec.dtype, e))
        return -1;
    if (cmd_config_set_bnb(&j->base.out, &t, &mixed, e))
        return -1;
    warn(j, mixed, t);
    return 0;
}

/* ---- the run ----------------------------------------------------------- */

static int declare(struct cmd_job *base, struct pq_error *e)
{
    struct job *j = (struct job *)base;

    if (j->o->requantize && cmd_job_decode(base, e))
        return -1;
    j->conv1d = cmd_config_has_conv1d(base->in->catalog, e);
    return e->code || cmd_config_refuse_foreign(base->in, e) ||
                   declare_tensors(j, e) || edit_config(j, e) ||
                   add_steps(j, e)
               ? -1
               : 0;
}

/* With the options in order. */
static int quantize(struct cmd *c, struct quantize *o, struct pq_error *e)
{
    struct job j = {.base = {.c = c,
                             .declare = declare,
                             .quant = {.allow_nonfinite = o->allow_nonfinite,
                                       .measure = c->verbose > 0 || c->json,
                                       .report = cmd_report_tensor},
                             .report = {.type = o->type}},
                    .o = o};

    const int status = cmd_job_run(&j.base, e);
    free(j.choices);
    return status;
}

static int run(struct cmd *c, struct pq_error *e)
{
    struct quantize *o = c->state;
    const struct pq_spec asked = o->spec;
    struct pq_spec spec = asked;
    int status = CMD_TROUBLE;

    if (!o->type) {
        cmd_usage(c, "-t TYPE is required: one of %s", pq_spec_types());
    } else if (!make_spec(o, o->type, &spec, e) && !check_rules(o, e)) {
        o->spec = spec;
        o->spec.double_quant = asked.double_quant;
        o->spec.optimize = asked.optimize;
        status = quantize(c, o, e);
    }
    return status;
}

static void release(void *state)
{
    struct quantize *o = state;

    cmd_rules_release(&o->rules);
}

static const char *const examples[] = {
    "pq-quantize -t nf4 --double-quant llama/ -o llama-nf4/",
    "pq-quantize -t f16 model.safetensors | pq-convert -z -o model.pq",
    NULL,
};

const struct pq_tool tool_quantize = {
    .name = "quantize",
    .purpose = "store weights in fewer bits",
    .synopsis = "-t TYPE [options] [MODEL]",
    .options = options,
    .shared = CMD_OUTPUT | CMD_DRY_RUN | CMD_SELECT | CMD_ENGINE | CMD_JSON |
              CMD_PROVENANCE | CMD_VERBOSITY,
    .max_operands = 1,
    .examples = examples,
    .state_bytes = sizeof(struct quantize),
    .option = option,
    .run = run,
    .release = release,
};
