/*
 * Taking layers, heads and channels out of a model; see shrink.h.
 */
#include "shrink.h"

#include "config.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

bool shrink_asked(const struct shrink_options *o)
{
    return o->layers || o->heads || o->has_channels;
}

/* ---- lists ------------------------------------------------------------- */

static bool next_number(const char **text, uint64_t *v)
{
    const char *p = *text;

    for (*v = 0; isdigit((unsigned char)*p) && *v < 10000000; p++)
        *v = *v * 10 + (uint64_t)(*p - '0');
    const bool any = p != *text;
    *text = p;
    return any;
}

static bool next_range(const char **text, struct shrink_range *r)
{
    if (**text == '*') {
        *r = (struct shrink_range){0, UINT64_MAX};
        (*text)++;
        return true;
    }
    if (!next_number(text, &r->first))
        return false;
    r->last = r->first;
    if (**text != '-')
        return true;
    (*text)++;
    return next_number(text, &r->last) && r->last >= r->first;
}

int shrink_next(const char **text, bool heads, struct shrink_item *item,
                struct pq_error *e)
{
    const char *start = *text;

    if (!*start)
        return 0;
    bool good = next_range(text, &item->layers);
    if (heads && good) {
        good = **text == ':';
        *text += good;
        good = good && next_range(text, &item->heads);
    }
    if (good && **text == ',') {
        (*text)++;
        good = **text != '\0';
    } else {
        good = good && **text == '\0';
    }
    return good ? 1
                : pq_fail(e, PQ_EARG, "'%s': %s", start,
                          heads ? "LAYERS:HEADS is wanted, each a number, a "
                                  "range like 2-5, or *"
                                : "a number, a range like 20-23, or * is "
                                  "wanted");
}

int shrink_option(struct shrink_options *o, enum shrink_option_id id,
                  const char *value, struct pq_error *e)
{
    const bool heads = id == SHRINK_OPT_HEADS;
    struct shrink_item item;
    int rc;

    if (id == SHRINK_OPT_CHANNELS) {
        o->has_channels = true;
        rc = cmd_real(value, 0, 1, &o->channels, e);
        return rc || o->channels < 1
                   ? rc
                   : pq_fail(e, PQ_EARG, "all channels cannot go");
    }
    *(heads ? &o->heads : &o->layers) = value;
    if (!*value)
        return pq_fail(e, PQ_EARG, "the list is empty");
    while ((rc = shrink_next(&value, heads, &item, e)) > 0)
        ;
    return rc;
}

/* ---- the model --------------------------------------------------------- */

static int count_layers(struct shrink *s, struct pq_error *e)
{
    const struct pq_catalog *c = s->in->catalog;
    const char *end, *trunk = NULL;

    for (size_t i = 0; i < c->n_tensors; i++) {
        const char *name = c->tensors[i].name;
        const long layer = pq_name_layer(name, &end);
        const size_t n = pq_name_trunk(name);
        if (layer < 0)
            continue;
        if ((size_t)layer >= s->n_layers)
            s->n_layers = (size_t)layer + 1;
        if (!trunk)
            trunk = name;
        if (n != pq_name_trunk(trunk) || memcmp(name, trunk, n) != 0)
            return pq_fail(e, PQ_EUNSUPPORTED,
                           "%s: has more than one stack of layers, as tensors "
                           "%s and %s say; pq takes nothing out of such models",
                           s->in->name, trunk, name);
    }
    return trunk ? 0
                 : pq_fail(e, PQ_EARG, "%s: has no layers with numbers",
                           s->in->name);
}

static int list_tensors(struct shrink *s, struct pq_error *e)
{
    const struct pq_catalog *c = s->in->catalog;
    const char *end;

    s->layers = pq_zalloc(s->n_layers, sizeof *s->layers);
    if (!s->layers)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < s->n_layers; i++)
        memset(s->layers[i].tensors, 0xff, sizeof s->layers[i].tensors);
    for (size_t i = 0; i < c->n_tensors; i++) {
        const long layer = pq_name_layer(c->tensors[i].name, &end);
        bool bias = false;
        if (layer < 0)
            continue;
        const enum pq_block_role role =
            pq_name_block_role(c->tensors[i].name, &bias);
        s->n_left += !s->layers[layer].there;
        s->layers[layer].there = true;
        if (role != PQ_BLOCK_OTHER)
            s->layers[layer].tensors[role][bias] = i;
    }
    return 0;
}

bool shrink_stays(const struct shrink *s, size_t layer)
{
    return s->layers[layer].there && !s->layers[layer].gone;
}

const struct pq_tensor *shrink_tensor(const struct shrink *s, size_t layer,
                                      enum pq_block_role role,
                                      struct pq_error *e)
{
    static const char *const names[] = {"q_proj", "k_proj", "v_proj", "o_proj",
                                        "gate_proj", "up_proj or c_fc",
                                        "down_proj or c_proj"};
    const size_t i = s->layers[layer].tensors[role][0];

    if (i == SIZE_MAX) {
        pq_fail(e, PQ_EUNSUPPORTED, "%s: layer %zu has no %s of its own",
                s->in->name, layer, names[role]);
        return NULL;
    }
    const struct pq_tensor *t = &s->in->catalog->tensors[i];
    if (t->codec.encoding == PQ_PLAIN && t->rank == 2)
        return t;
    if (t->rank != 2)
        pq_fail(e, PQ_EFORMAT, "tensor %s: is no matrix", t->name);
    else
        pq_fail(e, PQ_EUNSUPPORTED, "tensor %s: is %s: dequantize it first",
                t->name, pq_encoding_name(t->codec.encoding));
    return NULL;
}

int shrink_spans(struct shrink *s, const bool *gone, uint64_t n, uint64_t size,
                 struct pq_spans *spans, struct pq_error *e)
{
    size_t runs = 0;

    for (uint64_t i = 0; i < n; i++)
        runs += !gone[i] && (i == 0 || gone[i - 1]);
    struct pq_span *list = pq_arena_alloc(&s->arena, runs, sizeof *list);
    if (!list)
        return pq_fail_nomem(e);
    *spans = (struct pq_spans){list, runs};
    for (uint64_t i = 0; i < n; i++) {
        if (gone[i])
            continue;
        if (i == 0 || gone[i - 1])
            *list++ = (struct pq_span){i * size, 0};
        list[-1].count += size;
    }
    return 0;
}

/* ---- the cuts ---------------------------------------------------------- */

static void cut_tensor(const struct shrink *s, const struct shrink_layer *l,
                       const char *name, struct pq_cut *cut)
{
    bool bias = false, columns = false;
    const enum pq_block_role role = pq_name_block_role(name, &bias);
    const struct pq_spans *spans = NULL;

    switch (role) {
    case PQ_BLOCK_QUERY:
        spans = &l->query;
        break;
    case PQ_BLOCK_KEY:
    case PQ_BLOCK_VALUE:
        spans = &l->key;
        break;
    case PQ_BLOCK_OUT:
        spans = bias ? NULL : &l->query;
        columns = true;
        break;
    case PQ_BLOCK_GATE:
    case PQ_BLOCK_UP:
        spans = &l->channels;
        columns = s->has_conv1d && !bias;
        break;
    case PQ_BLOCK_DOWN:
        spans = bias ? NULL : &l->channels;
        columns = !s->has_conv1d;
        break;
    case PQ_BLOCK_OTHER:
        break;
    }
    if (spans && spans->n)
        *(columns ? &cut->columns : &cut->rows) = spans;
}

static int make_view(struct shrink *s, struct pq_error *e)
{
    const struct pq_catalog *c = s->in->catalog;
    struct pq_cut *cuts = pq_zalloc(c->n_tensors, sizeof *cuts);
    const char *end;
    size_t n = 0;

    if (!cuts)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < c->n_tensors; i++) {
        const long layer = pq_name_layer(c->tensors[i].name, &end);
        if (layer >= 0 && s->layers[layer].gone)
            continue;
        cuts[n].tensor = i;
        if (layer >= 0)
            cut_tensor(s, &s->layers[layer], c->tensors[i].name, &cuts[n]);
        n++;
    }
    const int rc = pq_shrunk_new(s->in, cuts, n, s->c->memory / 4,
                                 s->c->tmpdir, &s->view, e);
    free(cuts);
    return rc;
}

/* ---- all together ------------------------------------------------------ */

static void tell(const struct shrink *s)
{
    const size_t gone = s->n_layers - s->n_left;

    if (!s->c->verbose)
        return;
    if (s->o->layers)
        cmd_msg(s->c, "%zu of %zu layers go", gone, s->n_layers);
    if (s->heads)
        cmd_msg(s->c, "%llu heads and %llu key heads of size %llu stay in "
                      "each layer",
                (unsigned long long)s->heads,
                (unsigned long long)s->key_heads,
                (unsigned long long)s->head_size);
    if (s->channels)
        cmd_msg(s->c, "%llu of %llu channels stay in each layer",
                (unsigned long long)s->channels,
                (unsigned long long)s->n_channels);
}

static int open_view(struct shrink *s, struct pq_error *e)
{
    if (pq_peft_is_adapter(s->in->catalog))
        return pq_fail(e, PQ_EUNSUPPORTED,
                       "%s: is an adapter: layers, heads and channels are "
                       "taken out of models",
                       s->in->name);
    if (count_layers(s, e) || list_tensors(s, e))
        return -1;
    const size_t any = s->layers[s->n_layers - 1].tensors[PQ_BLOCK_UP][0];
    s->has_conv1d = any != SIZE_MAX &&
                    cmd_config_has_conv1d(s->in->catalog, e) &&
                    pq_name_is_conv1d(s->in->catalog->tensors[any].name);
    return e->code || shrink_choose_layers(s, e) ||
                   shrink_choose_heads(s, e) || shrink_check_channels(s, e) ||
                   shrink_choose_channels(s, e) ||
                   make_view(s, e) || shrink_set_layers(s, e) ||
                   shrink_set_heads(s, e) || shrink_set_channels(s, e)
               ? -1
               : 0;
}

int shrink_job(struct shrink *s, struct cmd_job *j,
               const struct shrink_options *o, struct pq_error *e)
{
    s->c = j->c;
    s->o = o;
    s->in = j->in;
    s->has_config = pq_catalog_blob(s->in->catalog, "config.json") != NULL;
    /* -m speaks of what is left, too */
    if (open_view(s, e) || cmd_check_selection(s->c, s->view, e)) {
        pq_source_free(s->view);
        return -1;
    }
    j->whole = j->in;
    j->in = s->view;
    tell(s);
    return 0;
}

void shrink_release(struct shrink *s)
{
    for (size_t i = 0; s->layers && i < s->n_layers; i++)
        for (size_t k = 0; k < PQ_BLOCK_OTHER; k++)
            free(s->layers[i].sums[k]);
    free(s->layers);
    pq_arena_release(&s->arena);
}
