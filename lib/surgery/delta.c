/*
 * Lossless differences of parts, word by word.
 *
 *   xor   d = a ^ b
 *   sub   d = zigzag(b - a), the difference modulo 2^w with its sign moved
 *         to the lowest bit: 0 -1 1 -2 2 ... -> 0 1 2 3 4 ...
 *
 * A word is as wide as an element (1, 2, 4 or 8 bytes).  The bits of a float
 * grow with its size, so a weight that moved by a few units in the last place
 * gives a small d, whose upper byte planes are zero and take no room once the
 * .pq writer has split and compressed them:
 *
 *   bf16 of a merged LoRA     a  3c51 bd08 3b97     b  3c53 bd07 3b97
 *   sub                       d  0004 0001 0000  ->  planes 04 01 00 | 00 00 00
 *
 * Which of the two is used is decided for each part by a sample.
 */
#include "pq_diff.h"

#include <string.h>

#define PIECE  (1u << 20) /* bytes of a unit; what pq_hash128_chain wants */

enum pq_dtype pq_delta_word(enum pq_dtype t)
{
    switch (pq_dtype_bits(t)) {
    case 64: return PQ_U64;
    case 32: return PQ_U32;
    case 16: return PQ_U16;
    default: return PQ_U8;
    }
}

/* ---- words ------------------------------------------------------------- */

/* sub_N: d = zigzag(b - a); add_N: b = a + unzigzag(d).  [n] words each. */
#define WORDS(N)                                                              \
    static void sub_##N(const uint##N##_t *a, const uint##N##_t *b, size_t n, \
                        uint##N##_t *d)                                       \
    {                                                                         \
        for (size_t i = 0; i < n; i++) {                                      \
            const uint##N##_t v = (uint##N##_t)(b[i] - a[i]);                 \
            const uint##N##_t sign = (uint##N##_t)(0u - (v >> (N - 1)));      \
            d[i] = (uint##N##_t)((uint##N##_t)(v << 1) ^ sign);               \
        }                                                                     \
    }                                                                         \
    static void add_##N(const uint##N##_t *a, const uint##N##_t *d, size_t n, \
                        uint##N##_t *b)                                       \
    {                                                                         \
        for (size_t i = 0; i < n; i++) {                                      \
            const uint##N##_t sign = (uint##N##_t)(0u - (d[i] & 1u));         \
            b[i] = (uint##N##_t)(a[i] + (uint##N##_t)((d[i] >> 1) ^ sign));   \
        }                                                                     \
    }

WORDS(8)
WORDS(16)
WORDS(32)
WORDS(64)

static void sub(unsigned width, const void *a, const void *b, size_t bytes,
                void *d)
{
    switch (width) {
    case 8:  sub_64(a, b, bytes / 8, d); break;
    case 4:  sub_32(a, b, bytes / 4, d); break;
    case 2:  sub_16(a, b, bytes / 2, d); break;
    default: sub_8(a, b, bytes, d); break;
    }
}

static void add(unsigned width, const void *a, const void *d, size_t bytes,
                void *b)
{
    switch (width) {
    case 8:  add_64(a, d, bytes / 8, b); break;
    case 4:  add_32(a, d, bytes / 4, b); break;
    case 2:  add_16(a, d, bytes / 2, b); break;
    default: add_8(a, d, bytes, b); break;
    }
}

static void xor_bytes(const unsigned char *a, const unsigned char *b, size_t n,
                      unsigned char *d)
{
    for (size_t i = 0; i < n; i++)
        d[i] = a[i] ^ b[i];
}

static unsigned width_of(const struct pq_part *p)
{
    return pq_dtype_bits(pq_delta_word(p->dtype)) / 8;
}

/* ---- choosing ---------------------------------------------------------- */

struct choice {
    unsigned width;
    enum pq_delta_how *how;
};

struct cost {
    uint64_t bits[2]; /* of xor, of sub; in units of 2^-16 */
};

/*
 * log2 of x > 0 in units of 2^-16, by linear interpolation: integers, so that
 * the choice is the same on all machines.
 */
static uint64_t log2_16(uint64_t x)
{
    unsigned k = 0;

    while (x >> k > 1)
        k++;
    return ((uint64_t)k << 16) + ((x << 16) >> k) - (1u << 16);
}

/* Bits that the byte planes of n bytes take by their entropy of order 0. */
static uint64_t entropy(const unsigned char *d, size_t n, unsigned width)
{
    uint64_t bits = 0;

    for (unsigned k = 0; k < width; k++) {
        uint32_t seen[256] = {0};
        for (size_t i = k; i < n; i += width)
            seen[d[i]]++;
        for (size_t v = 0; v < 256; v++)
            if (seen[v])
                bits += seen[v] * (log2_16(n / width) - log2_16(seen[v]));
    }
    return bits;
}

static int gather_choice(const struct pq_step *s, unsigned pass,
                         const struct pq_unit *u, const void *state,
                         struct pq_error *e)
{
    const struct choice *c = s->params;
    struct cost *cost = u->partial;
    const size_t n = (size_t)u->count;

    (void)pass;
    (void)state;
    (void)e;
    xor_bytes(u->in[0], u->in[1], n, u->scratch);
    cost->bits[0] = entropy(u->scratch, n, c->width);
    sub(c->width, u->in[0], u->in[1], n, u->scratch);
    cost->bits[1] = entropy(u->scratch, n, c->width);
    return 0;
}

static int combine_choice(const struct pq_step *s, unsigned pass, void *state,
                          const void *partial, struct pq_error *e)
{
    const struct choice *c = s->params;
    const struct cost *cost = partial;

    (void)pass;
    (void)state;
    (void)e;
    *c->how = cost->bits[1] <= cost->bits[0] ? PQ_DELTA_SUB : PQ_DELTA_XOR;
    return 0;
}

static struct pq_step *add_step(struct pq_plan *p, const char *name,
                                struct pq_source *a, const struct pq_part *pa,
                                struct pq_source *b, const struct pq_part *pb,
                                size_t n_out, struct pq_error *e)
{
    struct pq_step *s = pq_plan_step(p, (pa ? 1u : 0u) + (pb ? 1u : 0u), n_out,
                                     e);

    if (!s)
        return NULL;
    if (pa)
        s->in[0] = (struct pq_input){.source = a, .part = pa, .item_bits = 8};
    if (pb)
        s->in[s->n_in - 1] =
            (struct pq_input){.source = b, .part = pb, .item_bits = 8};
    s->name = name;
    s->items = (pa ? pa : pb)->bytes;
    s->unit_items = PIECE;
    return s;
}

int pq_step_delta_choose(struct pq_plan *p, const char *name,
                         struct pq_source *a, const struct pq_part *pa,
                         struct pq_source *b, const struct pq_part *pb,
                         enum pq_delta_how *how, struct pq_error *e)
{
    struct pq_step *s = add_step(p, name, a, pa, b, pb, 0, e);
    struct choice *c = pq_arena_alloc(&p->arena, 1, sizeof *c);

    if (!s || !c)
        return pq_fail_nomem(e);
    c->width = width_of(pb);
    c->how = how;
    *how = PQ_DELTA_SUB;
    if (s->items > PIECE)
        s->items = PIECE;
    s->params = c;
    s->scratch_bytes = PIECE;
    s->partial_bytes = sizeof(struct cost);
    s->n_gather = 1;
    s->gather = gather_choice;
    s->combine = combine_choice;
    return 0;
}

/* ---- making a delta ---------------------------------------------------- */

static int emit_xor(const struct pq_step *s, const struct pq_unit *u,
                    const void *state, struct pq_error *e)
{
    (void)s;
    (void)state;
    (void)e;
    xor_bytes(u->in[0], u->in[1], (size_t)u->count, u->out[0]);
    return 0;
}

static int emit_sub(const struct pq_step *s, const struct pq_unit *u,
                    const void *state, struct pq_error *e)
{
    (void)state;
    (void)e;
    sub(width_of(s->in[1].part), u->in[0], u->in[1], (size_t)u->count,
        u->out[0]);
    return 0;
}

int pq_step_delta(struct pq_plan *p, const char *name, struct pq_source *a,
                  const struct pq_part *pa, struct pq_source *b,
                  const struct pq_part *pb, enum pq_delta_how how,
                  size_t tensor, struct pq_error *e)
{
    struct pq_step *s = add_step(p, name, a, pa, b, pb, 1, e);

    if (!s)
        return -1;
    s->tensor = tensor;
    s->out[0].item_bits = 8;
    s->emit = how == PQ_DELTA_XOR ? emit_xor : emit_sub;
    return 0;
}

/* ---- applying it ------------------------------------------------------- */

static int emit_patch(const struct pq_step *s, const struct pq_unit *u,
                      const void *state, struct pq_error *e)
{
    const struct pq_delta_part *part = s->params;
    const size_t n = (size_t)u->count;

    (void)state;
    (void)e;
    if (part->how == PQ_DELTA_XOR)
        xor_bytes(u->in[0], u->in[1], n, u->out[0]);
    else if (part->how == PQ_DELTA_SUB)
        add(width_of(s->in[0].part), u->in[0], u->in[1], n, u->out[0]);
    else
        memcpy(u->out[0], u->in[0], n);
    *(struct pq_hash128 *)u->partial = pq_hash128_of(u->out[0], n);
    return 0;
}

static int combine_patch(const struct pq_step *s, unsigned pass, void *state,
                         const void *partial, struct pq_error *e)
{
    (void)s;
    (void)pass;
    (void)e;
    pq_hash128_chain(state, partial);
    return 0;
}

/* The last moment to notice: the output has no name yet. */
static int patch_done(const struct pq_step *s, void *state, struct pq_error *e)
{
    const struct pq_delta_part *part = s->params;
    const struct pq_hash128 *h = state;

    if (h->high == part->digest.high && h->low == part->digest.low)
        return 0;
    return pq_fail(e, PQ_ECHECKSUM,
                   "tensor %s: the result is not what the delta was made from",
                   s->name);
}

int pq_step_patch(struct pq_plan *p, const char *name, struct pq_source *base,
                  const struct pq_part *pa, struct pq_source *delta,
                  const struct pq_part *pd, const struct pq_delta_part *part,
                  size_t tensor, size_t number, struct pq_error *e)
{
    struct pq_step *s = add_step(p, name, base, pa, delta, pd, 1, e);

    if (!s)
        return -1;
    s->params = part;
    s->tensor = tensor;
    s->first_part = number;
    s->n_parts = 1;
    s->out[0].part = number;
    s->out[0].item_bits = 8;
    s->partial_bytes = s->state_bytes = sizeof(struct pq_hash128);
    s->emit = emit_patch;
    s->combine = combine_patch;
    s->done = patch_done;
    return 0;
}
