/*
 * Importance matrices: what pq_imatrix_put() writes is read here again by the
 * drawings of formats/imatrix.c, and what it refuses.
 */
#include <criterion/criterion.h>

#include <math.h>
#include <string.h>

#include "pq_imatrix.h"
#include "pq_names.h"

static const double ups[3] = {1.5, 0, 1e30}, queries[2] = {0.25, 4};
static const struct pq_imatrix_entry entries[] = {
    {"model.layers.11.mlp.up_proj.weight", 3, 1000, ups},
    {"model.layers.2.self_attn.q_proj.weight", 2, 129, queries},
};
static const struct pq_imatrix matrix = {entries, 2, "a.txt", 128};

/* What is read, and where. */
struct reader {
    const unsigned char *s;
    size_t n, at;
};

static uint64_t number(struct reader *r, size_t bytes)
{
    uint64_t v = 0;

    cr_assert_leq(r->at + bytes, r->n);
    for (size_t i = 0; i < bytes; i++)
        v |= (uint64_t)r->s[r->at++] << 8 * i;
    return v;
}

static float real(struct reader *r)
{
    const uint32_t bits = (uint32_t)number(r, 4);
    float f;

    memcpy(&f, &bits, sizeof f);
    return f;
}

static void string(struct reader *r, size_t length_bytes, const char *want)
{
    const size_t n = (size_t)number(r, length_bytes);

    cr_assert_leq(r->at + n, r->n);
    cr_assert(n == strlen(want) && memcmp(r->s + r->at, want, n) == 0,
              "'%.*s' is not '%s'", (int)n, (const char *)r->s + r->at, want);
    r->at += n;
}

static struct reader put(struct pq_buf *b, enum pq_imatrix_form form)
{
    struct pq_error e = {0};

    cr_assert_eq(pq_imatrix_put(b, form, &matrix, &e), 0, "%s", e.msg);
    return (struct reader){(const unsigned char *)b->s, b->n, 0};
}

Test(imatrix, the_old_form)
{
    struct pq_buf b = {0};
    struct reader r = put(&b, PQ_IMATRIX_DAT);

    cr_assert_eq(number(&r, 4), 2);
    string(&r, 4, "blk.11.ffn_up.weight");
    cr_assert_eq(number(&r, 4), 8); /* of 128 tokens, the last one in part */
    cr_assert_eq(number(&r, 4), 3);
    for (size_t i = 0; i < 3; i++)
        cr_assert_eq(real(&r), (float)(8 * ups[i]));
    string(&r, 4, "blk.2.attn_q.weight");
    cr_assert_eq(number(&r, 4), 2);
    cr_assert_eq(number(&r, 4), 2);
    for (size_t i = 0; i < 2; i++)
        cr_assert_eq(real(&r), (float)(2 * queries[i]));
    cr_assert_eq(number(&r, 4), 8);
    string(&r, 4, "a.txt");
    cr_assert_eq(r.at, r.n);
    pq_buf_release(&b);
}

static void tensor(struct reader *r, const char *name, uint64_t n,
                   uint64_t offset)
{
    string(r, 8, name);
    cr_assert_eq(number(r, 4), 1);
    cr_assert_eq(number(r, 8), n);
    cr_assert_eq(number(r, 4), 0);
    cr_assert_eq(number(r, 8), offset);
}

static void keys(struct reader *r)
{
    string(r, 8, "general.type");
    cr_assert_eq(number(r, 4), 8);
    string(r, 8, "imatrix");
    string(r, 8, "imatrix.datasets");
    cr_assert_eq(number(r, 4), 9);
    cr_assert_eq(number(r, 4), 8);
    cr_assert_eq(number(r, 8), 1);
    string(r, 8, "a.txt");
    string(r, 8, "imatrix.chunk_count");
    cr_assert_eq(number(r, 4), 4);
    cr_assert_eq(number(r, 4), 8);
    string(r, 8, "imatrix.chunk_size");
    cr_assert_eq(number(r, 4), 4);
    cr_assert_eq(number(r, 4), 128);
}

Test(imatrix, gguf)
{
    struct pq_buf b = {0};
    struct reader r = put(&b, PQ_IMATRIX_GGUF);

    cr_assert_eq(memcmp(r.s, "GGUF", 4), 0);
    r.at = 4;
    cr_assert_eq(number(&r, 4), 3);
    cr_assert_eq(number(&r, 8), 4);
    cr_assert_eq(number(&r, 8), 4);
    keys(&r);
    tensor(&r, "blk.11.ffn_up.weight.in_sum2", 3, 0);
    tensor(&r, "blk.11.ffn_up.weight.counts", 1, 32);
    tensor(&r, "blk.2.attn_q.weight.in_sum2", 2, 64);
    tensor(&r, "blk.2.attn_q.weight.counts", 1, 96);
    const size_t data = (r.at + 31) / 32 * 32;
    cr_assert_eq(r.n, data + 128);
    for (r.at = data; r.at < data + 12;)
        cr_assert_eq(real(&r), (float)(1000 * ups[(r.at - data) / 4 - 1]));
    r.at = data + 32;
    cr_assert_eq(real(&r), 1000);
    r.at = data + 64;
    cr_assert_eq(real(&r), (float)(129 * queries[0]));
    cr_assert_eq(real(&r), (float)(129 * queries[1]));
    r.at = data + 96;
    cr_assert_eq(real(&r), 129);
    pq_buf_release(&b);
}

static void refuse(const struct pq_imatrix *m, enum pq_code code,
                   const char *word)
{
    struct pq_buf b = {0};
    struct pq_error e = {0};

    cr_assert_eq(pq_imatrix_put(&b, PQ_IMATRIX_GGUF, m, &e), -1);
    cr_assert_eq(e.code, code);
    cr_assert(strstr(e.msg, word), "%s", e.msg);
    pq_buf_release(&b);
}

Test(imatrix, refusals)
{
    const double bad[2] = {1, NAN}, large[1] = {1e38};
    struct pq_imatrix_entry x = {"model.layers.0.mlp.up_proj.weight", 2, 9,
                                 bad};
    struct pq_imatrix m = {&x, 1, "", 128};

    refuse(&m, PQ_EVALUE, "input 1 is not finite");
    x = (struct pq_imatrix_entry){x.weight, 1, 9, large};
    refuse(&m, PQ_EVALUE, "input 0 is not finite"); /* as a sum, in float */
    x.weight = "model.norm.weight";
    refuse(&m, PQ_EARG, "model.norm.weight: GGUF has no name");
    m.n = 0;
    refuse(&m, PQ_EARG, "of 0 weights");
}

Test(imatrix, names)
{
    static const char *const pairs[][2] = {
        {"model.layers.31.self_attn.v_proj.weight", "blk.31.attn_v.weight"},
        {"layers.0.self_attn.o_proj.weight", "blk.0.attn_output.weight"},
        {"model.layers.1.self_attn.qkv_proj.weight", "blk.1.attn_qkv.weight"},
        {"model.layers.1.mlp.gate_up_proj.weight", "blk.1.ffn_up.weight"},
        {"model.layers.1.mlp.gate_proj.weight", "blk.1.ffn_gate.weight"},
        {"transformer.h.7.attn.c_attn.weight", "blk.7.attn_qkv.weight"},
        {"h.7.attn.c_proj.weight", "blk.7.attn_output.weight"},
        {"h.7.mlp.c_proj.weight", "blk.7.ffn_down.weight"},
        {"h.7.mlp.c_proj.bias", NULL},
        {"lm_head.weight", NULL},
        {"model.layers.1.input_layernorm.weight", NULL},
    };
    char s[64];

    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        const bool has = pq_name_gguf(pairs[i][0], s, sizeof s);
        cr_assert_eq(has, pairs[i][1] != NULL, "%s", pairs[i][0]);
        cr_assert(!has || strcmp(s, pairs[i][1]) == 0, "%s", s);
    }
    cr_assert_not(pq_name_gguf(pairs[0][0], s, 20));
    cr_assert(pq_name_gguf(pairs[0][0], s, 21));
}
