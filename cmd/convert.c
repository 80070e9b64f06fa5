/*
 * pq-convert: the same tensors in another container.
 *
 * Bytes are copied, never changed: file to file, directory to file and back,
 * sharded or in one piece, compressed or not.
 */
#include "job.h"

#include <stdlib.h>
#include <string.h>

enum { OPT_CANONICAL = 1, OPT_COMPRESS, OPT_SHARD };

static const struct cmd_option options[] = {
    {0, "canonical", NULL, "safetensors in the order of the reference library",
     NULL, CMD_CHANGES_OUTPUT, OPT_CANONICAL},
    {'z', "compress", "LEVEL", "compress a .pq (1 to 19, default 1)",
     "1 3 9 19", CMD_CHANGES_OUTPUT | CMD_ARG_OPTIONAL, OPT_COMPRESS},
    {0, "shard-size", "SIZE", "a directory in shards of at most SIZE; 0: one",
     "0 1G 5G", CMD_CHANGES_OUTPUT, OPT_SHARD},
    {0, NULL, NULL, NULL, NULL, 0, 0},
};

struct convert {
    bool canonical, shard;
    uint64_t level, shard_bytes;
};

struct job {
    struct cmd_job base;
    const struct convert *o;
    size_t *from; /* [tensors of out] -> tensor of in */
};

static int option(struct cmd *c, int id, const char *value, struct pq_error *e)
{
    struct convert *o = c->state;

    switch (id) {
    case OPT_CANONICAL:
        o->canonical = true;
        return 0;
    case OPT_COMPRESS:
        o->level = 1;
        return value ? cmd_number(value, 1, 19, &o->level, e) : 0;
    default:
        o->shard = true;
        return cmd_size(value, &o->shard_bytes, e);
    }
}

static uint64_t tensor_bytes(const struct pq_tensor *t)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < t->n_parts; i++)
        sum += t->parts[i].bytes;
    return sum;
}

/* The names that the hub expects: model-00001-of-00004.safetensors. */
static int name_shards(struct pq_catalog *c, size_t n, struct pq_error *e)
{
    c->files = NULL;
    c->n_files = 0;
    if (n <= 1)
        return 0;
    const char **files = pq_arena_alloc(&c->arena, n, sizeof *files);
    if (!files)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < n; i++) {
        files[i] = pq_arena_printf(
            &c->arena, "model-%05zu-of-%05zu.safetensors", i + 1, n);
        if (!files[i])
            return pq_fail_nomem(e);
    }
    c->files = files;
    c->n_files = n;
    return 0;
}

/* Fills shards in order; a tensor larger than a shard has one for itself. */
static int cut_shards(struct job *j, struct pq_error *e)
{
    struct pq_catalog *c = &j->base.out;
    uint64_t used = 0;
    uint32_t shard = 0;

    for (size_t i = 0; i < c->n_tensors; i++) {
        struct pq_tensor *t = &c->tensors[i];
        const uint64_t bytes = tensor_bytes(t);
        if (j->o->shard_bytes && used && bytes > j->o->shard_bytes - used) {
            shard++;
            used = 0;
        }
        used += bytes < j->o->shard_bytes - used || !j->o->shard_bytes
                    ? bytes
                    : j->o->shard_bytes - used;
        for (size_t k = 0; k < t->n_parts; k++)
            t->parts[k].file = shard;
    }
    return name_shards(c, c->n_tensors ? shard + 1 : 1, e);
}

static int declare(struct cmd_job *base, struct pq_error *e)
{
    struct job *j = (struct job *)base;
    const struct pq_catalog *in = base->in->catalog;

    if (pq_catalog_copy_meta(&base->out, in, e))
        return -1;
    j->from = pq_alloc(in->n_tensors, sizeof *j->from);
    if (!j->from)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < in->n_tensors; i++) {
        if (!cmd_selected(base->c, in->tensors[i].name))
            continue;
        j->from[base->out.n_tensors] = i;
        if (!pq_tensor_copy(&base->out, &in->tensors[i], e))
            return -1;
    }
    return j->o->shard ? cut_shards(j, e) : 0;
}

/* One step a part, in the order of the sink: canonical order cuts tensors. */
static int add_steps(struct cmd_job *base, struct pq_error *e)
{
    const struct job *j = (struct job *)base;
    const struct pq_sink *k = base->plan.sink;
    const struct pq_catalog *in = base->in->catalog;

    if (j->o->shard && !base->out.directory)
        return pq_fail(e, PQ_EARG, "--shard-size is for a directory: -o NAME/");
    for (size_t i = 0; i < k->n_order; i++) {
        const struct pq_place *o = &k->order[i];
        const struct pq_tensor *t = &in->tensors[j->from[o->tensor]];
        if (pq_step_copy_part(&base->plan, base->in, &t->parts[o->part],
                              t->name, o->tensor, o->part, e))
            return -1;
    }
    return 0;
}

static int run(struct cmd *c, struct pq_error *e)
{
    const struct convert *o = c->state;
    struct job j = {.base = {.c = c,
                             .declare = declare,
                             .add_steps = add_steps,
                             .write = {.canonical = o->canonical,
                                       .level = (int)o->level}},
                    .o = o};

    /* --canonical says which format is meant, also in a pipe */
    if (o->canonical && !c->output && !c->output_format)
        c->output_format = "safetensors";
    const int status = cmd_job_run(&j.base, e);
    free(j.from);
    return status;
}

static const char *const examples[] = {
    "pq-convert -z model.safetensors -o model.pq",
    "pq-convert --shard-size 5G model.pq -o model/",
    NULL,
};

const struct pq_tool tool_convert = {
    .name = "convert",
    .purpose = "put a model into another container, bit for bit",
    .synopsis = "[options] [MODEL]",
    .options = options,
    .shared = CMD_OUTPUT | CMD_DRY_RUN | CMD_SELECT | CMD_ENGINE | CMD_JSON |
              CMD_PROVENANCE | CMD_VERBOSITY,
    .max_operands = 1,
    .examples = examples,
    .state_bytes = sizeof(struct convert),
    .option = option,
    .run = run,
};
