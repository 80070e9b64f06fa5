/*
 * What pq-train says of its steps, and their picture; see training.h.
 *
 *     {"step":1,"loss":6.2419,"lr":0.0002,"tokens":2044,"grad_norm":1.31}
 *     {"step":50,"val_loss":4.0127,"val_tokens":9120}
 *
 * The curve is an SVG: steps to the right, losses upwards on a linear scale
 * from the least to the most; the losses of --val as dots.
 */
#include "report.h"
#include "training.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    WIDTH = 720,
    HEIGHT = 360,
    LEFT = 64,
    RIGHT = 16,
    TOP = 40,
    BOTTOM = 36
};

/* ---- lines -------------------------------------------------------------- */

static int keep(struct train_log *l, const struct train_point *p,
                struct pq_error *e)
{
    struct train_point *grown = pq_grow(l->points, l->n, &l->cap, sizeof *p);

    if (!grown)
        return pq_fail_nomem(e);
    l->points = grown;
    l->points[l->n++] = *p;
    return 0;
}

static int print_line(struct pq_buf *b, struct pq_error *e)
{
    const int rc = cmd_print_buf(b, e);

    cmd_flush(); /* people watch it */
    return rc;
}

int train_log_step(struct train_log *l, const struct train_point *p,
                   struct pq_error *e)
{
    struct pq_buf b = {0};

    if (keep(l, p, e))
        return -1;
    if (l->c->verbose > 0)
        cmd_msg(l->c, "step %llu: loss %.6f, lr %.3g, %llu tokens",
                (unsigned long long)p->step, p->loss, p->lr,
                (unsigned long long)p->tokens);
    if (!l->c->json)
        return 0;
    pq_buf_printf(&b, "{\"step\":%llu", (unsigned long long)p->step);
    cmd_put_number(&b, ",\"loss\":", p->loss);
    cmd_put_number(&b, ",\"lr\":", p->lr);
    pq_buf_printf(&b, ",\"tokens\":%llu", (unsigned long long)p->tokens);
    cmd_put_number(&b, ",\"grad_norm\":", p->norm);
    pq_buf_puts(&b, "}\n");
    return print_line(&b, e);
}

int train_log_val(struct train_log *l, const struct train_point *p,
                  struct pq_error *e)
{
    struct pq_buf b = {0};

    if (keep(l, p, e))
        return -1;
    if (l->c->verbose > 0)
        cmd_msg(l->c, "step %llu: validation loss %.6f",
                (unsigned long long)p->step, p->loss);
    if (!l->c->json)
        return 0;
    pq_buf_printf(&b, "{\"step\":%llu", (unsigned long long)p->step);
    cmd_put_number(&b, ",\"val_loss\":", p->loss);
    pq_buf_printf(&b, ",\"val_tokens\":%llu}\n", (unsigned long long)p->tokens);
    return print_line(&b, e);
}

/* ---- the picture -------------------------------------------------------- */

struct scale {
    double least, most, first, last;
};

static struct scale scale_of(const struct train_log *l)
{
    struct scale s = {INFINITY, -INFINITY, 1, 1};

    for (size_t i = 0; i < l->n; i++) {
        const struct train_point *p = &l->points[i];
        s.least = p->loss < s.least ? p->loss : s.least;
        s.most = p->loss > s.most ? p->loss : s.most;
        s.first = i == 0 ? (double)p->step : s.first;
        s.last = (double)p->step > s.last ? (double)p->step : s.last;
    }
    if (!(s.most > s.least))
        s.most = s.least + 1;
    if (!(s.last > s.first))
        s.last = s.first + 1;
    return s;
}

static double at_x(const struct scale *s, uint64_t step)
{
    return LEFT + (WIDTH - LEFT - RIGHT) * ((double)step - s->first) /
                      (s->last - s->first);
}

static double at_y(const struct scale *s, double loss)
{
    return TOP +
           (HEIGHT - TOP - BOTTOM) * (s->most - loss) / (s->most - s->least);
}

/* How many decimals tell a quarter of the scale from the next. */
static int decimals(const struct scale *s)
{
    int n = 0;

    for (double part = (s->most - s->least) / 4; part < 10 && n < 6; part *= 10)
        n++;
    return n;
}

static void put_axes(struct pq_buf *b, const struct scale *s)
{
    const int places = decimals(s);

    for (int i = 0; i <= 4; i++) {
        const double loss = s->least + (s->most - s->least) * i / 4;
        const double y = at_y(s, loss);
        pq_buf_printf(b,
                      "<path d=\"M%d %.1fH%d\" stroke=\"#ddd\"/>\n"
                      "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.*f"
                      "</text>\n",
                      LEFT, y, WIDTH - RIGHT, LEFT - 6, y + 4, places, loss);
    }
    pq_buf_printf(b,
                  "<text x=\"%d\" y=\"%d\">step %.0f</text>\n"
                  "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%.0f</text>\n",
                  LEFT, HEIGHT - 12, s->first, WIDTH - RIGHT, HEIGHT - 12,
                  s->last);
}

static void put_curve(struct pq_buf *b, const struct train_log *l,
                      const struct scale *s)
{
    bool began = false;

    pq_buf_puts(b, "<path fill=\"none\" stroke=\"#36c\" d=\"");
    for (size_t i = 0; i < l->n; i++) {
        if (l->points[i].val)
            continue;
        pq_buf_printf(b, "%c%.1f %.1f", began ? 'L' : 'M',
                      at_x(s, l->points[i].step), at_y(s, l->points[i].loss));
        began = true;
    }
    pq_buf_puts(b, "\"/>\n");
    for (size_t i = 0; i < l->n; i++)
        if (l->points[i].val)
            pq_buf_printf(b,
                          "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" "
                          "fill=\"#c40\"/>\n",
                          at_x(s, l->points[i].step),
                          at_y(s, l->points[i].loss));
}

static bool has_dots(const struct train_log *l)
{
    for (size_t i = 0; i < l->n; i++)
        if (l->points[i].val)
            return true;
    return false;
}

static void draw(struct pq_buf *b, const struct train_log *l)
{
    const struct scale s = scale_of(l);

    pq_buf_printf(b,
                  "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" "
                  "height=\"%d\" font-family=\"sans-serif\" "
                  "font-size=\"11\" fill=\"#222\">\n"
                  "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n"
                  "<text x=\"12\" y=\"24\" font-size=\"14\">loss a token, in "
                  "nats%s</text>\n",
                  WIDTH, HEIGHT, has_dots(l) ? "; dots: validation" : "");
    put_axes(b, &s);
    put_curve(b, l, &s);
    pq_buf_puts(b, "</svg>\n");
}

int train_log_plot(const struct train_log *l, const char *path,
                   struct pq_error *e)
{
    struct pq_buf b = {0};

    draw(&b, l);
    const int rc = cmd_write_content(l->c, path, &b, e);
    pq_buf_release(&b);
    return rc;
}

void train_log_release(struct train_log *l)
{
    free(l->points);
    memset(l, 0, sizeof *l);
}
