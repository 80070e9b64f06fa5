/*
 * Heat maps as SVG, of layers and matrices.
 *
 *                  layer 0   1   2  ...      other
 *     self_attn.q_proj   [#] [.] [ ]
 *     mlp.up_proj        [.] [.] [#]
 *     lm_head                                [.]
 *
 * The scale goes from 0 to what the caller says or the largest finite value,
 * from light to dark in a ramp of one hue direction, so that it survives grey
 * print and colour blindness.  A cell says its tensor and value when pointed
 * at.
 */
#include "heatmap.h"

#include "pq_json.h"
#include "pq_names.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    CELL_H = 18,
    TOP = 64,
    BOTTOM = 34,
    BAR_W = 14,
    BAR_STEPS = 24,
    LABEL_MAX = 48 /* bytes of a label that are drawn */
};

struct map {
    const struct cmd_heat *cells;
    size_t n;
    const double *matrix; /* [n_rows][layers], in the place of cells */
    struct pq_arena arena;
    struct pq_names rows;
    const char **labels; /* [n_rows], in the order of first appearance */
    size_t n_rows, cap_rows;
    const char *trunk; /* its first n_trunk letters: the stem of most */
    size_t n_trunk;
    const char *columns; /* what those are: "layer" */
    long layers;  /* columns of layers */
    bool other;   /* and one for what is in none */
    double least, most;
    bool fixed; /* that is not for survey() to find */
    double cell_w, left;
    struct pq_buf svg;
};

/* ---- what there is to draw --------------------------------------------- */

/* What stands before the number of the layer: "model.layers.". */
static size_t stem(const char *tensor, const char **end)
{
    const long layer = pq_name_layer(tensor, end);
    size_t n = (size_t)(*end - tensor);

    if (layer < 0)
        return 0;
    for (n--; n > 0 && tensor[n - 1] != '.'; n--)
        ;
    return n;
}

/*
 * "self_attn.q_proj" of "model.layers.3.self_attn.q_proj.weight"; the stem
 * goes before it where it is not that of the first layer: another tower.
 */
static const char *label(struct map *m, const char *tensor)
{
    static const char weight[] = ".weight";
    const char *start;
    const size_t n_stem = stem(tensor, &start);
    size_t n = strlen(start);

    if (n >= sizeof weight && pq_name_is_weight(start))
        n -= sizeof weight - 1;
    if (start != tensor && !m->trunk) {
        m->trunk = tensor;
        m->n_trunk = n_stem;
    }
    if (start == tensor ||
        (n_stem == m->n_trunk && memcmp(tensor, m->trunk, n_stem) == 0))
        return pq_arena_strndup(&m->arena, start, n);
    return pq_arena_printf(&m->arena, "%.*s*.%.*s", (int)n_stem, tensor,
                           (int)n, start);
}

static int add_row(struct map *m, const char *tensor, struct pq_error *e)
{
    const char *text = label(m, tensor);
    const int rc = text ? pq_names_add(&m->rows, text, m->n_rows, NULL, e) : -1;

    if (rc != 0)
        return rc < 0 ? pq_fail_nomem(e) : 0;
    void *labels = pq_grow((void *)m->labels, m->n_rows, &m->cap_rows,
                           sizeof *m->labels);
    if (!labels)
        return pq_fail_nomem(e);
    m->labels = labels;
    m->labels[m->n_rows++] = text;
    return 0;
}

static void set_widths(struct map *m, size_t longest)
{
    longest = longest > LABEL_MAX ? LABEL_MAX : longest;
    m->left = 16 + 6.6 * (double)longest;
    m->cell_w = m->layers > 48 ? 12 : 20;
}

static int survey(struct map *m, struct pq_error *e)
{
    size_t longest = 5;

    for (size_t i = 0; i < m->n; i++) {
        const char *end;
        const long layer = pq_name_layer(m->cells[i].tensor, &end);
        if (add_row(m, m->cells[i].tensor, e))
            return -1;
        m->layers = layer >= m->layers ? layer + 1 : m->layers;
        m->other = m->other || layer < 0;
        if (!m->fixed && isfinite(m->cells[i].value) &&
            m->cells[i].value > m->most)
            m->most = m->cells[i].value;
    }
    for (size_t i = 0; i < m->n_rows; i++) {
        const size_t n = strlen(m->labels[i]);
        longest = n > longest ? n : longest;
    }
    set_widths(m, longest);
    return 0;
}

/* ---- drawing ----------------------------------------------------------- */

/* At most so many bytes of a text, cut between characters. */
static void put_text(struct pq_buf *b, const char *s, size_t most)
{
    const size_t n = strlen(s);
    const size_t end = pq_utf8_prefix(s, n < most ? n : most);

    for (size_t i = 0; i < end; i++) {
        const unsigned char c = (unsigned char)s[i];
        if (c == '&' || c == '<' || c == '>' || c == '"')
            pq_buf_printf(b, "&#%u;", (unsigned)c);
        else
            pq_buf_add(b, c < 32 || c == 127 ? "?" : s + i, 1);
    }
}

/* From light yellow over green to dark blue (viridis, turned around). */
static void put_colour(struct pq_buf *b, double part)
{
    static const unsigned char ramp[][3] = {
        {253, 246, 200}, {170, 220, 120}, {60, 175, 135},
        {40, 110, 142},  {62, 60, 130},   {48, 8, 74}};
    const double at = (part > 1 ? 1 : part < 0 ? 0 : part) * 5;
    const size_t i = at >= 5 ? 4 : (size_t)at;
    const double f = at - (double)i;
    unsigned v[3];

    for (int k = 0; k < 3; k++)
        v[k] = (unsigned)lround(ramp[i][k] + f * (ramp[i + 1][k] - ramp[i][k]));
    pq_buf_printf(b, "#%02x%02x%02x", v[0], v[1], v[2]);
}

static double column_x(const struct map *m, long layer)
{
    const double gap = m->layers > 0 ? m->cell_w / 2 : 0;

    return layer >= 0 ? m->left + (double)layer * m->cell_w
                      : m->left + (double)m->layers * m->cell_w + gap;
}

static double right_edge(const struct map *m)
{
    return m->other ? column_x(m, -1) + m->cell_w : column_x(m, m->layers);
}

static void put_cell(struct map *m, const struct cmd_heat *h)
{
    const char *end;
    const long layer = pq_name_layer(h->tensor, &end);
    const char *text = label(m, h->tensor);
    const size_t row = text ? pq_names_find(&m->rows, text) : 0;
    struct pq_buf *b = &m->svg;

    pq_buf_printf(b, "<rect x=\"%.1f\" y=\"%zu\" width=\"%.1f\" height=\"%d\" "
                     "fill=\"",
                  column_x(m, layer), TOP + row * CELL_H, m->cell_w - 1,
                  CELL_H - 1);
    put_colour(b, m->most > 0 ? h->value / m->most : h->value > 0 ? 1 : 0);
    pq_buf_puts(b, "\"><title>");
    put_text(b, h->tensor, SIZE_MAX);
    pq_buf_printf(b, " %.4g</title></rect>\n", h->value);
}

/* Entry i of a matrix. */
static void put_entry(struct map *m, size_t i)
{
    const size_t row = i / (size_t)m->layers, column = i % (size_t)m->layers;
    struct pq_buf *b = &m->svg;

    pq_buf_printf(b, "<rect x=\"%.1f\" y=\"%zu\" width=\"%.1f\" height=\"%d\" "
                     "fill=\"",
                  column_x(m, (long)column), TOP + row * CELL_H, m->cell_w - 1,
                  CELL_H - 1);
    put_colour(b, (m->matrix[i] - m->least) / (m->most - m->least));
    pq_buf_printf(b, "\"><title>%zu and %zu %.4g</title></rect>\n", row, column,
                  m->matrix[i]);
}

static void put_axes(struct map *m)
{
    struct pq_buf *b = &m->svg;
    const long every = m->layers > 48 ? 8 : m->layers > 12 ? 4 : 1;

    for (size_t i = 0; i < m->n_rows; i++) {
        pq_buf_printf(b, "<text x=\"%.1f\" y=\"%zu\" text-anchor=\"end\">",
                      m->left - 6, TOP + i * CELL_H + CELL_H - 5);
        put_text(b, m->labels[i], LABEL_MAX);
        pq_buf_puts(b, "</text>\n");
    }
    for (long i = 0; i < m->layers; i += every)
        pq_buf_printf(b,
                      "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%ld"
                      "</text>\n",
                      column_x(m, i) + m->cell_w / 2, TOP - 6, i);
    if (m->layers)
        pq_buf_printf(b,
                      "<text x=\"%.1f\" y=\"%d\" text-anchor=\"end\">%s"
                      "</text>\n",
                      m->left - 6, TOP - 6, m->columns);
    if (m->other)
        pq_buf_printf(b,
                      "<text x=\"%.1f\" y=\"%zu\" text-anchor=\"middle\">other"
                      "</text>\n",
                      column_x(m, -1) + m->cell_w / 2,
                      TOP + m->n_rows * CELL_H + 14);
}

static void put_scale(struct map *m)
{
    struct pq_buf *b = &m->svg;
    const double x = right_edge(m) + 24;
    const double height = m->n_rows * CELL_H < 72
                              ? 72
                              : (double)(m->n_rows * CELL_H > 240
                                             ? 240
                                             : m->n_rows * CELL_H);

    for (int i = 0; i < BAR_STEPS; i++) {
        pq_buf_printf(b,
                      "<rect x=\"%.1f\" y=\"%.2f\" width=\"%d\" "
                      "height=\"%.2f\" fill=\"",
                      x, TOP + height * (BAR_STEPS - 1 - i) / BAR_STEPS, BAR_W,
                      height / BAR_STEPS + 0.5);
        put_colour(b, (double)i / (BAR_STEPS - 1));
        pq_buf_puts(b, "\"/>\n");
    }
    for (int i = 0; i <= 2; i++)
        pq_buf_printf(b, "<text x=\"%.1f\" y=\"%.1f\">%.3g</text>\n",
                      x + BAR_W + 5, TOP + height * (2 - i) / 2 + 4,
                      m->least + (m->most - m->least) * i / 2);
}

static void draw(struct map *m, const char *title)
{
    struct pq_buf *b = &m->svg;
    const double scale = right_edge(m) + 24 + BAR_W + 70;
    const double words = 24 + 7.4 * (double)strlen(title);
    const double width = scale > words ? scale : words;
    const size_t rows = m->n_rows * CELL_H < 80 ? 80 : m->n_rows * CELL_H;

    pq_buf_printf(b,
                  "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" "
                  "height=\"%zu\" font-family=\"sans-serif\" "
                  "font-size=\"11\" fill=\"#222\">\n"
                  "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n"
                  "<text x=\"12\" y=\"24\" font-size=\"14\">",
                  width, TOP + rows + BOTTOM);
    put_text(b, title, SIZE_MAX);
    pq_buf_puts(b, "</text>\n");
    put_axes(m);
    for (size_t i = 0; i < m->n; i++)
        put_cell(m, &m->cells[i]);
    for (size_t i = 0; m->matrix && i < m->n_rows * (size_t)m->layers; i++)
        put_entry(m, i);
    put_scale(m);
    pq_buf_puts(b, "</svg>\n");
}

int cmd_heatmap(const struct cmd *c, const char *path, const char *title,
                const struct cmd_heat *cells, size_t n, double most,
                struct pq_error *e)
{
    struct map m = {.cells = cells, .n = n, .columns = "layer",
                    .most = most, .fixed = most > 0};
    int rc = survey(&m, e);

    if (!rc) {
        draw(&m, title);
        rc = cmd_write_content(c, path, &m.svg, e);
    }
    pq_names_release(&m.rows);
    pq_arena_release(&m.arena);
    pq_buf_release(&m.svg);
    free((void *)m.labels);
    return rc;
}

int cmd_heatmap_square(const struct cmd *c, const char *path,
                       const char *title, const struct cmd_square *x,
                       struct pq_error *e)
{
    struct map m = {.matrix = x->values, .columns = x->what,
                    .labels = x->labels,
                    .n_rows = x->n, .layers = (long)x->n, .least = x->least,
                    .most = x->most};
    size_t longest = 5;

    for (size_t i = 0; i < x->n; i++)
        longest = strlen(x->labels[i]) > longest ? strlen(x->labels[i])
                                                 : longest;
    set_widths(&m, longest);
    draw(&m, title);
    const int rc = cmd_write_content(c, path, &m.svg, e);
    pq_buf_release(&m.svg);
    return rc;
}
