/*
 * Soft prompts, as PEFT keeps them:
 *
 *     adapter_config.json         "peft_type": "PROMPT_TUNING" or "P_TUNING"
 *     adapter_model.safetensors   prompt_embeddings [tokens][hidden]
 */
#include "pq_peft.h"

#include "pq_json.h"

#include <string.h>

static const char config_name[] = "adapter_config.json";

/* Prefixes and others have a tensor of this name that means another thing. */
static int check_type(const struct pq_source *s, struct pq_error *e)
{
    const struct pq_blob *b = pq_catalog_blob(s->catalog, config_name);
    struct pq_json j;
    enum pq_json_type type;

    if (!b)
        return 0;
    pq_json_init(&j, b->data, (size_t)b->bytes, e);
    if (pq_json_next(&j) != PQ_JSON_OBJECT)
        return pq_fail(e, PQ_EFORMAT, "%s: %s: is no object", s->name,
                       config_name);
    while ((type = pq_json_next(&j)) == PQ_JSON_KEY) {
        const bool here = pq_json_is(&j, "peft_type");
        type = pq_json_next(&j);
        if (here &&
            !(type == PQ_JSON_STRING &&
              (pq_json_is(&j, "PROMPT_TUNING") || pq_json_is(&j, "P_TUNING"))))
            return pq_fail(e, PQ_EUNSUPPORTED,
                           "%s: is no soft prompt: peft_type is neither "
                           "PROMPT_TUNING nor P_TUNING",
                           s->name);
        if (pq_json_skip(&j, type))
            return pq_error_in(e, "%s: %s", s->name, config_name);
    }
    return type == PQ_JSON_OBJECT_END
               ? 0
               : pq_error_in(e, "%s: %s", s->name, config_name);
}

const struct pq_tensor *pq_peft_prompt(const struct pq_source *s,
                                       struct pq_error *e)
{
    if (check_type(s, e))
        return NULL;
    for (size_t i = 0; i < s->catalog->n_tensors; i++) {
        const struct pq_tensor *t = &s->catalog->tensors[i];
        if (strcmp(t->name, "prompt_embeddings") != 0)
            continue;
        if (t->rank == 2 && t->n_elements && t->codec.encoding == PQ_PLAIN &&
            pq_dtype_is_float(t->dtype))
            return t;
        pq_fail(e, PQ_EFORMAT, "%s: tensor %s: is no matrix of floats", s->name,
                t->name);
        return NULL;
    }
    pq_fail(e, PQ_EFORMAT,
            "%s: is no soft prompt: has no tensor prompt_embeddings", s->name);
    return NULL;
}
