/*
 * Rope: how config.json describes it, and the angles that follow.
 *
 * The description is `rope_scaling` if that is set, else `rope_parameters`;
 * one replaces the other as a whole.  inv0[t] = base^(-2t/r), r = 2 half.
 *
 *   default   inv0
 *   linear    inv0 / factor
 *   dynamic   base' = base (factor L/M - (factor - 1))^(r/(r-2)),
 *             L = max(length, M), M = max_position_embeddings
 *   llama3    by wave length w = 2 pi / inv0 and o = original positions:
 *             w > o/low: inv0/factor;  w < o/high: inv0;  between them
 *             (1-s) inv0/factor + s inv0,  s = (o/w - low) / (high - low)
 *   yarn      dim(b) = r ln(o / (2 pi b)) / (2 ln base);
 *             lo = floor dim(beta_fast), hi = ceil dim(beta_slow), clipped to
 *             [0, r-1]; e = 1 - clip((t - lo) / (hi - lo), 0, 1);
 *             inv0/factor (1-e) + inv0 e
 *   longrope  inv0 / (length > o ? long_factor : short_factor)[t]
 *
 * Sine and cosine are multiplied by a: 1; yarn 0.1 ln factor + 1 or what
 * mscale says; longrope sqrt(1 + ln factor / ln o).
 */
#include "config_json.h"

#include <math.h>
#include <string.h>

#include "elementary.h"

#define PI 3.14159265358979323846

static const struct {
    const char *name;
    enum nn_rope_type type;
} types[] = {
    {"default", NN_ROPE_DEFAULT}, {"linear", NN_ROPE_LINEAR},
    {"dynamic", NN_ROPE_DYNAMIC}, {"llama3", NN_ROPE_LLAMA3},
    {"yarn", NN_ROPE_YARN},       {"longrope", NN_ROPE_LONGROPE},
};

static void read_type(struct nn_reader *r, struct nn_config *c)
{
    const char *name = nn_key_string(r, "rope_type");

    if (!name)
        name = nn_key_string(r, "type");
    if (!name)
        name = "default";
    if (c->family == NN_PHI3 &&
        (strcmp(name, "su") == 0 || strcmp(name, "yarn") == 0))
        name = "longrope";
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(types[i].name, name) == 0) {
            c->rope.type = types[i].type;
            return;
        }
    nn_refuse(r, "rope_type %.64s is not known", name);
}

/* 0.1 m ln factor + 1 */
static double stretch(double m, double factor)
{
    return factor <= 1 ? 1 : 0.1 * m * nn_log(factor) + 1;
}

static void read_yarn(struct nn_reader *r, struct nn_rope_config *p)
{
    const double m = nn_key_real(r, "mscale", 0);
    const double all = nn_key_real(r, "mscale_all_dim", 0);
    const double a = m != 0 && all != 0
                         ? stretch(m, p->factor) / stretch(all, p->factor)
                         : stretch(1, p->factor);

    p->a = (float)nn_key_real(r, "attention_factor", a);
    p->beta_fast = nn_key_real(r, "beta_fast", 32);
    p->beta_slow = nn_key_real(r, "beta_slow", 1);
    p->truncate = nn_key_bool(r, "truncate", true);
    if (!(p->beta_fast > 0 && p->beta_slow > 0 && p->base > 1))
        nn_refuse(r, "yarn with beta_fast, beta_slow or rope_theta out of "
                     "range");
}

static void read_longrope(struct nn_reader *r, struct nn_rope_config *p)
{
    const double o = (double)p->original;
    const double f = nn_key_real(r, "factor", (double)p->positions / o);
    const double a = f <= 1 || o < 2 ? 1 : sqrt(1 + nn_log(f) / nn_log(o));

    p->a = (float)nn_key_real(r, "attention_factor", a);
    p->long_factor = nn_key_reals(r, "long_factor", p->half);
    p->short_factor = nn_key_reals(r, "short_factor", p->half);
}

static void read_llama3(struct nn_reader *r, struct nn_rope_config *p)
{
    p->low = nn_key_real(r, "low_freq_factor", 0);
    p->high = nn_key_real(r, "high_freq_factor", 0);
    if (!(p->low > 0 && p->high > p->low))
        nn_refuse(r, "low_freq_factor and high_freq_factor of llama3 are not "
                     "in order");
}

/* The description itself; one a kind of layer must be the same for all. */
static const cJSON *description(struct nn_reader *r)
{
    const cJSON *d = nn_key(r->j, "rope_scaling");

    if (!d)
        d = nn_key(r->j, "rope_parameters");
    if (d && !cJSON_IsObject(d)) {
        nn_refuse(r, "the description of rope is not an object");
        return NULL;
    }
    const cJSON *full = d ? nn_key(d, "full_attention") : NULL;
    const cJSON *slides = d ? nn_key(d, "sliding_attention") : NULL;
    if (full && slides && !cJSON_Compare(full, slides, true))
        nn_refuse(r, "rope that differs between kinds of layers is not "
                     "supported");
    return full ? full : slides ? slides : d;
}

static void read_pairs(struct nn_reader *top, struct nn_reader *r,
                       struct nn_config *c)
{
    const double part =
        nn_key_real(r, "partial_rotary_factor",
                    nn_key_real(top, "partial_rotary_factor", 1));
    const double turned = floor((double)c->d * part);

    if (part != 1 && c->family != NN_PHI3)
        nn_refuse(r, "partial_rotary_factor is not supported in %s", c->type);
    if (!(turned >= 2 && turned <= (double)c->d) || fmod(turned, 2) != 0)
        nn_refuse(r, "rope over %g of %zu elements of a head", turned, c->d);
    else
        c->rope.half = (size_t)turned / 2;
}

void nn_rope_read(struct nn_reader *top, struct nn_config *c)
{
    struct nn_rope_config *p = &c->rope;
    struct nn_reader r = *top;

    r.j = description(top);
    r.failed = top->failed;
    p->a = 1;
    p->positions = c->positions;
    p->base =
        nn_key_real(&r, "rope_theta", nn_key_real(top, "rope_theta", 10000));
    p->original =
        nn_key_size(top, "original_max_position_embeddings",
                    nn_key_size(&r, "original_max_position_embeddings",
                                c->positions, 1, (size_t)1 << 40),
                    1, (size_t)1 << 40);
    read_type(&r, c);
    read_pairs(top, &r, c);
    p->factor = nn_key_real(&r, "factor", p->type == NN_ROPE_DEFAULT ? 1 : 0);
    if (p->type != NN_ROPE_DEFAULT && p->type != NN_ROPE_LONGROPE &&
        !(p->factor > 0))
        nn_refuse(&r, "rope's factor is not a positive number");
    if (!(p->base > 0))
        nn_refuse(&r, "rope_theta is not a positive number");
    top->failed |= r.failed;
    if (top->failed)
        return;
    if (p->type == NN_ROPE_YARN)
        read_yarn(&r, p);
    else if (p->type == NN_ROPE_LONGROPE)
        read_longrope(&r, p);
    else if (p->type == NN_ROPE_LLAMA3)
        read_llama3(&r, p);
    top->failed |= r.failed;
}

/* ---- angles ------------------------------------------------------------- */

static double llama3(const struct nn_rope_config *p, double inv)
{
    const double o = (double)p->original, wave = 2 * PI / inv;

    if (wave > o / p->low)
        return inv / p->factor;
    if (wave < o / p->high)
        return inv;
    const double s = (o / wave - p->low) / (p->high - p->low);
    return (1 - s) * inv / p->factor + s * inv;
}

/* The pair that turns `turns` times over the original positions. */
static double yarn_dim(const struct nn_rope_config *p, double turns)
{
    return 2.0 * (double)p->half *
           nn_log((double)p->original / (2 * PI * turns)) /
           (2 * nn_log(p->base));
}

static double yarn(const struct nn_rope_config *p, size_t t, double inv)
{
    double lo = yarn_dim(p, p->beta_fast), hi = yarn_dim(p, p->beta_slow);
    const double last = 2.0 * (double)p->half - 1;

    if (p->truncate) {
        lo = floor(lo);
        hi = ceil(hi);
    }
    lo = lo > 0 ? lo : 0;
    hi = hi < last ? hi : last;
    if (lo == hi)
        hi += 0.001;
    double ramp = ((double)t - lo) / (hi - lo);
    ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
    return inv / p->factor * ramp + inv * (1 - ramp);
}

static double dynamic_base(const struct nn_rope_config *p, size_t length)
{
    const double m = (double)p->positions, r = 2.0 * (double)p->half;
    const double l = (double)length > m ? (double)length : m;

    if (r <= 2)
        return p->base;
    return p->base * nn_pow(p->factor * l / m - (p->factor - 1), r / (r - 2));
}

void nn_rope_inverse(const struct nn_rope_config *p, size_t length, float *inv)
{
    const double base =
        p->type == NN_ROPE_DYNAMIC ? dynamic_base(p, length) : p->base;

    for (size_t t = 0; t < p->half; t++) {
        double v = nn_pow(base, -(double)t / (double)p->half);
        if (p->type == NN_ROPE_LINEAR)
            v /= p->factor;
        else if (p->type == NN_ROPE_LLAMA3)
            v = llama3(p, v);
        else if (p->type == NN_ROPE_YARN)
            v = yarn(p, t, v);
        else if (p->type == NN_ROPE_LONGROPE)
            v /= (length > p->original ? p->long_factor : p->short_factor)[t];
        inv[t] = (float)v;
    }
}
