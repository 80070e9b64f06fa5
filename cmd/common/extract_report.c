/*
 * What pq-extract has lost: a line a tensor with -v, an object with --json.
 *
 *     error   |D - B A| / |D|, with the factors as they were written
 *     energy  of what was found: sum s[0..rank)^2 / |D|^2
 */
#include "extract.h"
#include "pq_json.h"
#include "report.h"

#include <math.h>
#include <string.h>

static const char *const kinds[] = {"same", "factors", "bias", "saved"};

static double relative(double left_sq, double norm_sq)
{
    return norm_sq > 0 ? sqrt(left_sq / norm_sq) : 0;
}

static double energy(const struct extract_pair *p)
{
    const struct pq_ranked *f = p->factor;
    double sum = 0;

    for (size_t i = 0; i < f->rank; i++)
        sum += f->s[i] * f->s[i];
    return f->norm_sq > 0 ? sum / f->norm_sq : 1;
}

static bool is_told(const struct extract_pair *p)
{
    return p->kind != EXTRACT_SAME;
}

static void print_line(const struct extract *x, const struct extract_pair *p)
{
    char shape[256], name[256];

    snprintf(name, sizeof name, "%s", p->name);
    cmd_mask(name, strlen(name));
    cmd_shape_text(p->a, shape, sizeof shape);
    if (p->kind != EXTRACT_FACTORED)
        cmd_msg(x->c, "%s %s: as it is", name, shape);
    else if (p->factor->rank == 0)
        cmd_msg(x->c, "%s %s: left out, error 1", name, shape);
    else
        cmd_msg(x->c, "%s %s: rank %zu, energy %.6f, error %.3g", name, shape,
                p->factor->rank, energy(p),
                relative(p->left.left_sq, p->left.norm_sq));
}

static void put_pair(struct pq_buf *b, const struct extract_pair *p)
{
    pq_buf_puts(b, "{\"name\":");
    pq_json_quote(b, p->name);
    pq_buf_printf(b, ",\"kind\":\"%s\",\"shape\":[", kinds[p->kind]);
    for (int i = 0; i < p->a->rank; i++)
        pq_buf_printf(b, "%s%llu", i ? "," : "",
                      (unsigned long long)p->a->shape[i]);
    pq_buf_puts(b, "]");
    if (p->kind == EXTRACT_FACTORED) {
        pq_buf_printf(b, ",\"rank\":%zu,\"energy\":", p->factor->rank);
        pq_json_put_f64(b, energy(p));
    }
    cmd_put_number(b, ",\"norm\":", sqrt(p->left.norm_sq));
    cmd_put_number(b, ",\"error\":",
                   relative(p->left.left_sq, p->left.norm_sq));
    pq_buf_puts(b, "}");
}

static int print_json(const struct extract *x, double error,
                      struct pq_error *e)
{
    struct pq_buf b = {0};
    bool first = true;

    pq_buf_printf(&b,
                  "{\"pq\":1,\"tool\":\"pq-extract\",\"bytes_in\":%llu,"
                  "\"bytes_out\":%llu,\"error\":",
                  (unsigned long long)(x->a->total_bytes + x->b->total_bytes),
                  (unsigned long long)x->plan.sink->total_bytes);
    pq_json_put_f64(&b, error);
    pq_buf_puts(&b, ",\"tensors\":[");
    for (size_t i = 0; i < x->n; i++) {
        if (!is_told(&x->pairs[i]))
            continue;
        pq_buf_puts(&b, first ? "" : ",");
        first = false;
        put_pair(&b, &x->pairs[i]);
    }
    pq_buf_puts(&b, "]}\n");
    return cmd_print_buf(&b, e);
}

int extract_report(struct extract *x, struct pq_error *e)
{
    double norm_sq = 0, left_sq = 0;
    size_t matrices = 0;

    for (size_t i = 0; i < x->n; i++) {
        const struct extract_pair *p = &x->pairs[i];
        norm_sq += p->left.norm_sq;
        left_sq += p->left.left_sq;
        matrices += extract_has_factors(p);
        if (x->c->verbose > 0 && is_told(p))
            print_line(x, p);
    }
    const double error = relative(left_sq, norm_sq);
    if (x->c->verbose > 0)
        cmd_msg(x->c, "%zu %s, error of all that changed %.3g", matrices,
                matrices == 1 ? "matrix" : "matrices", error);
    return x->c->json && x->wrote ? print_json(x, error, e) : 0;
}
