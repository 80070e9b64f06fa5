/*
 * Writing what comes before the first tensor of a .pq stream.
 *
 *     HEADER | CTLG | META metadata | META file .. | PROV .. | optional ..
 *
 * Sizes are known when the sink is made.  The catalogue is read back with
 * the reader's own parser before anything is written: what pq would refuse to
 * read, it refuses to write.
 */
#include "pqstream.h"

#include <stdlib.h>
#include <string.h>

#include "pq_json.h"

/* The head of a META record of a file. */
static void print_head(struct pq_buf *out, const char *name)
{
    out->n = 0;
    pq_buf_puts(out, "{\"kind\":\"file\",\"name\":");
    pq_json_quote(out, name);
    pq_buf_puts(out, "}");
}

static const char metadata_head[] = "{\"kind\":\"metadata\"}";

/* The catalogue that a reader would see is the one that was meant. */
static int read_back(const struct pq_stream_sink *k, struct pq_error *e)
{
    const struct pq_catalog *c = k->base.catalog;
    struct pq_catalog copy;
    uint64_t total;

    pq_catalog_init(&copy);
    int rc = pq_stream_parse_catalog(k->ctlg.s, k->ctlg.n, &copy, &total, e);
    for (size_t i = 0; !rc && i < c->n_tensors; i++) {
        const struct pq_tensor *a = &c->tensors[i], *b = &copy.tensors[i];
        bool same = strcmp(a->name, b->name) == 0 && a->n_parts == b->n_parts;
        for (size_t p = 0; same && p < a->n_parts; p++)
            same = strcmp(a->parts[p].name, b->parts[p].name) == 0 &&
                   a->parts[p].bytes == b->parts[p].bytes;
        if (!same)
            rc = pq_fail(e, PQ_EARG, "tensor %s: a .pq stream cannot hold it",
                         b->name);
    }
    pq_catalog_release(&copy);
    return rc;
}

struct sizes {
    uint64_t bytes, front, records;
    bool wrong;
};

static void count(struct sizes *z, uint64_t head_bytes, uint64_t body_bytes)
{
    z->records++;
    z->wrong = z->wrong || z->records > PQ_STREAM_MAX_RECORDS ||
               head_bytes > PQ_STREAM_MAX_HEAD ||
               body_bytes > PQ_STREAM_MAX_TEXT ||
               !pq_add(z->front, body_bytes, &z->front) ||
               z->front > PQ_STREAM_MAX_FRONT ||
               !pq_stream_add_record(&z->bytes, head_bytes, body_bytes);
}

/* A provenance line is a line, an optional record's type is a type. */
static int check_lines(const struct pq_catalog *c, struct pq_error *e)
{
    for (size_t i = 0; i < c->n_prov; i++) {
        if (c->prov[i][0] == '\0' || strchr(c->prov[i], '\n'))
            return pq_fail(e, PQ_EARG, "provenance is not one line");
    }
    for (size_t i = 0; i < c->n_extra; i++) {
        if (c->extra[i].type[0] < 'a' || c->extra[i].type[0] > 'z')
            return pq_fail(e, PQ_EARG, "an optional record that is not");
    }
    for (size_t i = 0; i < c->n_blobs; i++) {
        if (!pq_stream_base_name(c->blobs[i].name))
            return pq_fail(e, PQ_EARG, "%s: is no name of a file",
                           c->blobs[i].name);
    }
    return 0;
}

int pq_stream_plan_front(struct pq_stream_sink *k, uint64_t *bytes,
                         uint64_t *records, struct pq_error *e)
{
    const struct pq_catalog *c = k->base.catalog;
    struct sizes z = {.bytes = PQ_STREAM_BLOCK};
    struct pq_buf head = {0};

    if (pq_stream_print_catalog(c, &k->ctlg, e) || read_back(k, e) ||
        check_lines(c, e))
        return -1;
    count(&z, 0, k->ctlg.n);
    if (c->n_metadata > 0) {
        if (pq_stream_print_metadata(c, &k->metadata, e))
            return -1;
        count(&z, strlen(metadata_head), k->metadata.n);
    }
    for (size_t i = 0; i < c->n_blobs; i++) {
        print_head(&head, c->blobs[i].name);
        count(&z, head.n, c->blobs[i].bytes);
    }
    const bool failed = head.failed;
    pq_buf_release(&head);
    if (failed)
        return pq_fail_nomem(e);
    for (size_t i = 0; i < c->n_prov; i++)
        count(&z, 0, strlen(c->prov[i]));
    for (size_t i = 0; i < c->n_extra; i++)
        count(&z, c->extra[i].head_bytes, c->extra[i].body_bytes);
    if (z.wrong)
        return pq_fail(e, PQ_ELIMIT,
                       "files and metadata are too much for a .pq stream");
    *bytes = z.bytes;
    *records = z.records;
    return 0;
}

static int write_blobs(struct pq_stream_sink *k, struct pq_error *e)
{
    const struct pq_catalog *c = k->base.catalog;
    struct pq_buf head = {0};
    int rc = 0;

    for (size_t i = 0; !rc && i < c->n_blobs; i++) {
        const struct pq_blob *b = &c->blobs[i];
        print_head(&head, b->name);
        rc = head.failed ? pq_fail_nomem(e)
                         : pq_stream_put_record(k, "META", head.s, head.n,
                                                b->data, b->bytes, e);
    }
    pq_buf_release(&head);
    return rc;
}

static int write_extra(struct pq_stream_sink *k, struct pq_error *e)
{
    const struct pq_catalog *c = k->base.catalog;

    for (size_t i = 0; i < c->n_extra; i++) {
        const struct pq_extra *x = &c->extra[i];
        char type[5] = "";
        memcpy(type, x->type, sizeof(x->type));
        if (pq_stream_put_record(k, type, x->head, (size_t)x->head_bytes,
                                 x->body, x->body_bytes, e))
            return -1;
    }
    return 0;
}

int pq_stream_write_front(struct pq_stream_sink *k, struct pq_error *e)
{
    const struct pq_catalog *c = k->base.catalog;
    unsigned char b[PQ_STREAM_BLOCK];

    pq_stream_put_header(b);
    if (pq_stream_emit(k, b, sizeof(b), e) ||
        pq_stream_put_record(k, "CTLG", NULL, 0, k->ctlg.s, k->ctlg.n, e))
        return -1;
    if (c->n_metadata > 0 &&
        pq_stream_put_record(k, "META", metadata_head, strlen(metadata_head),
                             k->metadata.s, k->metadata.n, e))
        return -1;
    if (write_blobs(k, e))
        return -1;
    for (size_t i = 0; i < c->n_prov; i++) {
        const char *line = c->prov[i];
        if (pq_stream_put_record(k, "PROV", NULL, 0, line, strlen(line), e))
            return -1;
    }
    return write_extra(k, e);
}
