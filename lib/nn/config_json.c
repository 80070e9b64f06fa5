/*
 * Reading keys of config.json; see config_json.h.
 */
#include "config_json.h"

#include <math.h>
#include <stdio.h>

const cJSON *nn_key(const cJSON *j, const char *key)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(j, key);

    return v && !cJSON_IsNull(v) ? v : NULL;
}

void nn_refuse(struct nn_reader *r, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    (void)pq_vfail(r->e, PQ_EUNSUPPORTED, fmt, ap);
    va_end(ap);
    r->failed = true;
}

static void malformed(struct nn_reader *r, const char *key, const char *what)
{
    pq_fail(r->e, PQ_EFORMAT, "%s %s", key, what);
    r->failed = true;
}

size_t nn_key_size(struct nn_reader *r, const char *key, size_t otherwise,
                   size_t min, size_t max)
{
    const cJSON *v = nn_key(r->j, key);

    if (!v && otherwise == NN_REQUIRED)
        malformed(r, key, "is missing");
    if (!v)
        return otherwise == NN_REQUIRED ? min : otherwise;
    if (!cJSON_IsNumber(v) || v->valuedouble != floor(v->valuedouble) ||
        v->valuedouble < (double)min || v->valuedouble > (double)max) {
        malformed(r, key, "is no number that makes sense");
        return min;
    }
    return (size_t)v->valuedouble;
}

double nn_key_real(struct nn_reader *r, const char *key, double otherwise)
{
    const cJSON *v = nn_key(r->j, key);

    if (!v)
        return otherwise;
    if (!cJSON_IsNumber(v) || !isfinite(v->valuedouble)) {
        malformed(r, key, "is not a finite number");
        return otherwise;
    }
    return v->valuedouble;
}

bool nn_key_bool(struct nn_reader *r, const char *key, bool otherwise)
{
    const cJSON *v = nn_key(r->j, key);

    if (v && !cJSON_IsBool(v))
        malformed(r, key, "is not true or false");
    return v ? cJSON_IsTrue(v) : otherwise;
}

const char *nn_key_string(struct nn_reader *r, const char *key)
{
    const cJSON *v = nn_key(r->j, key);

    if (v && !cJSON_IsString(v))
        malformed(r, key, "is not a string");
    return v ? cJSON_GetStringValue(v) : NULL;
}

const double *nn_key_reals(struct nn_reader *r, const char *key, size_t n)
{
    const cJSON *list = nn_key(r->j, key), *v = list ? list->child : NULL;
    double *out = pq_arena_alloc(r->arena, n ? n : 1, sizeof *out);

    if (!out) {
        pq_fail_nomem(r->e);
        r->failed = true;
        return NULL;
    }
    if (!cJSON_IsArray(list) || (size_t)cJSON_GetArraySize(list) != n) {
        malformed(r, key, "is not a list of as many numbers as pairs turn");
        return out;
    }
    for (size_t i = 0; i < n; i++, v = v->next) {
        if (!cJSON_IsNumber(v) || !(v->valuedouble > 0))
            malformed(r, key, "holds something else than positive numbers");
        out[i] = v->valuedouble;
    }
    return out;
}
