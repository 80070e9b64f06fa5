/*
 * Writing adapters: names, shapes, adapter_config.json.
 *
 *   base_model.model.M.lora_A.weight   [rank, in...]     lora_embedding_A
 *   base_model.model.M.lora_B.weight   [out, rank, 1...] lora_embedding_B
 *   base_model.model.M.lora_B.bias     [out]
 *
 * All scales are 1: alpha is the rank, in r and lora_alpha where all modules
 * have the same, else in a pattern for each module.
 */
#include "peft_write.h"

#include "pq_json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char config_name[] = "adapter_config.json";

/* ---- tensors ----------------------------------------------------------- */

static const char *member_name(struct pq_arena *a, const struct peft_shape *m,
                               enum peft_member which)
{
    static const char *const suffix[2][3] = {
        {"lora_A.weight", "lora_B.weight", "lora_B.bias"},
        {"lora_embedding_A", "lora_embedding_B", "lora_B.bias"}};

    return pq_arena_printf(a, "base_model.model.%s.%s", m->name,
                           suffix[m->embedding][which]);
}

/* Its dimensions; NULL: no memory.  B has as many as A, the last ones 1. */
static const uint64_t *member_shape(struct pq_arena *a,
                                    const struct peft_shape *m,
                                    enum peft_member which, int *rank)
{
    uint64_t *shape = pq_arena_alloc(a, (size_t)m->n_in + 2, sizeof *shape);

    if (!shape)
        return NULL;
    *rank = which == PEFT_BIAS ? 1 : 1 + m->n_in;
    shape[0] = which == PEFT_A ? m->rank : m->out;
    for (int i = 1; i < *rank; i++)
        shape[i] = which == PEFT_A ? m->in[i - 1] : i == 1 ? m->rank : 1;
    return shape;
}

const struct pq_tensor *peft_declare(struct pq_catalog *out,
                                     const struct peft_shape *m,
                                     enum peft_member which,
                                     enum pq_dtype dtype, struct pq_error *e)
{
    const struct pq_spec spec = {.dtype = dtype};
    struct pq_part one_file = {0};
    struct pq_tensor like = {.dtype = PQ_F32, .parts = &one_file,
                             .n_parts = 1};

    like.name = member_name(&out->arena, m, which);
    like.shape = member_shape(&out->arena, m, which, &like.rank);
    if (!like.name || !like.shape) {
        pq_fail_nomem(e);
        return NULL;
    }
    if (pq_shape_elements(like.shape, like.rank, &like.n_elements, e))
        return NULL;
    return pq_quant_declare(out, &like, &spec, false, e);
}

/* ---- the config -------------------------------------------------------- */

/* Sets a key to JSON text; NULL removes it. */
static int config_set(struct pq_catalog *c, const char *key,
                      const char *value, struct pq_error *e)
{
    static const char empty[] = "{\n  \"peft_type\": \"LORA\"\n}";
    struct pq_blob *blob = pq_catalog_blob(c, config_name);
    struct pq_buf out = {0};

    if (!blob) {
        if (pq_catalog_add_blob(c, config_name, empty, sizeof empty - 1, e))
            return -1;
        blob = pq_catalog_blob(c, config_name);
    }
    int rc = pq_json_edit(blob->data, (size_t)blob->bytes, key, value, &out, e);
    const char *text = rc ? NULL : pq_arena_strndup(&c->arena, out.s, out.n);
    if (text) {
        blob->data = text;
        blob->bytes = out.n;
    } else if (!rc) {
        rc = pq_fail_nomem(e);
    }
    pq_buf_release(&out);
    return rc;
}

/* "name": rank, ... of all modules, and the largest; {} if all are that. */
static uint64_t put_ranks(struct pq_buf *b, const struct peft_shape *m,
                          size_t n)
{
    uint64_t most = 0, least = UINT64_MAX;

    for (size_t i = 0; i < n; i++) {
        most = m[i].rank > most ? m[i].rank : most;
        least = m[i].rank < least ? m[i].rank : least;
    }
    pq_buf_puts(b, "{");
    for (size_t i = 0; i < n && least < most; i++) {
        pq_buf_puts(b, i ? ",\n    " : "\n    ");
        pq_json_quote(b, m[i].name);
        pq_buf_printf(b, ": %llu", (unsigned long long)m[i].rank);
    }
    pq_buf_puts(b, least < most ? "\n  }" : "}");
    return most;
}

static bool put_names(struct pq_buf *b, const struct peft_shape *m, size_t n)
{
    bool biases = false;

    pq_buf_puts(b, "[");
    for (size_t i = 0; i < n; i++) {
        pq_buf_puts(b, i ? ",\n    " : "\n    ");
        pq_json_quote(b, m[i].name);
        biases |= m[i].has_bias;
    }
    pq_buf_puts(b, n ? "\n  ]" : "]");
    return biases;
}

int peft_set_config(struct pq_catalog *out, const struct peft_shape *modules,
                    size_t n, struct pq_error *e)
{
    struct pq_buf ranks = {0}, names = {0};
    char most[32];

    snprintf(most, sizeof most, "%llu",
             (unsigned long long)put_ranks(&ranks, modules, n));
    const char *biases = put_names(&names, modules, n) ? "true" : "false";
    const struct {
        const char *key, *value;
    } edits[] = {
        {"r", most}, {"lora_alpha", most},
        {"rank_pattern", ranks.s}, {"alpha_pattern", ranks.s},
        {"target_modules", names.s}, {"lora_bias", biases},
        {"use_rslora", "false"}, {"use_dora", "false"},
        {"init_lora_weights", "true"}, {"layers_to_transform", "null"},
        {"layers_pattern", "null"}, {"inference_mode", "true"}};
    int rc = ranks.failed || names.failed ? pq_fail_nomem(e) : 0;

    for (size_t i = 0; !rc && i < sizeof edits / sizeof *edits; i++)
        rc = config_set(out, edits[i].key, edits[i].value, e);
    pq_buf_release(&ranks);
    pq_buf_release(&names);
    return rc;
}

/* ---- factors ----------------------------------------------------------- */

static int add_factor(struct pq_plan *plan, struct pq_catalog *out,
                      const struct pq_peft_out *m, struct pq_source *made,
                      const struct peft_shape *shape, enum peft_member which,
                      const struct pq_spec *spec, const struct pq_quant *q,
                      struct pq_error *e)
{
    const struct pq_tensor *t = peft_declare(out, shape, which, spec->dtype, e);

    if (!t)
        return -1;
    const struct pq_tensor *in =
        pq_ranked_rows(m->factor, which == PEFT_B, t->name, &plan->arena);
    if (!in)
        return pq_fail_nomem(e);
    struct pq_step *s =
        pq_step_encode(plan, made, in, out, out->n_tensors - 1, spec,
                       which == PEFT_B, q, e);
    if (s)
        s->user = m->user;
    return s ? 0 : -1;
}

static int add_bias(struct pq_plan *plan, struct pq_catalog *out,
                    const struct pq_peft_out *m,
                    const struct peft_shape *shape, enum pq_dtype dtype,
                    const struct pq_quant *q, struct pq_error *e)
{
    if (!peft_declare(out, shape, PEFT_BIAS, dtype, e))
        return -1;
    struct pq_step *s =
        pq_step_concat(plan, out, out->n_tensors - 1, m->bias, m->n_bias,
                       PQ_ADDED, q, e);
    if (s)
        s->user = m->user;
    return s ? 0 : -1;
}

static struct peft_shape shape_of(const struct pq_peft_out *m)
{
    return (struct peft_shape){m->name, m->embedding, m->n_bias > 0, m->in,
                               m->n_in, m->factor->rows, m->factor->rank};
}

int pq_peft_write_module(struct pq_plan *plan, struct pq_catalog *out,
                         const struct pq_peft_out *m, struct pq_source *made,
                         enum pq_dtype dtype, const struct pq_quant *q,
                         struct pq_error *e)
{
    const struct pq_spec spec = {.dtype = dtype};
    const struct peft_shape shape = shape_of(m);

    if (add_factor(plan, out, m, made, &shape, PEFT_A, &spec, q, e) ||
        add_factor(plan, out, m, made, &shape, PEFT_B, &spec, q, e))
        return -1;
    return shape.has_bias ? add_bias(plan, out, m, &shape, dtype, q, e) : 0;
}

int pq_peft_write(struct pq_plan *plan, struct pq_catalog *out,
                  const struct pq_peft_out *modules, size_t n, size_t more,
                  struct pq_source *made, enum pq_dtype dtype,
                  const struct pq_quant *q, struct pq_error *e)
{
    struct peft_shape *shapes = pq_zalloc(n, sizeof *shapes);
    int rc = shapes ? pq_catalog_reserve(out, 3 * n + more, e)
                    : pq_fail_nomem(e);

    for (size_t i = 0; !rc && i < n; i++) {
        shapes[i] = shape_of(&modules[i]);
        rc = pq_peft_write_module(plan, out, &modules[i], made, dtype, q, e);
    }
    if (!rc)
        rc = peft_set_config(out, shapes, n, e);
    free(shapes);
    return rc;
}
