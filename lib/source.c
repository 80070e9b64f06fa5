/*
 * Sources and sinks: the little that is the same for all of them.
 */
#include "pq_hold.h"
#include "pq_sink.h"
#include "pq_source.h"

#include <stdlib.h>

int pq_source_read(struct pq_source *s, const struct pq_part *p,
                   uint64_t offset, void *buf, size_t n, struct pq_error *e)
{
    if (offset > p->bytes || n > p->bytes - offset)
        return pq_fail(e, PQ_EARG, "%s: read beyond the end of %s", s->name,
                       p->name);
    if (n == 0)
        return 0;
    if (s->ops->read(s, p->offset + offset, buf, n, e))
        return pq_error_in(e, "%s: tensor %s", s->name, p->name);
    return 0;
}

int pq_source_finish(struct pq_source *s, struct pq_error *e)
{
    if (s->ops->finish && s->ops->finish(s, e))
        return pq_error_in(e, "%s", s->name);
    return 0;
}

void pq_source_free(struct pq_source *s)
{
    if (!s)
        return;
    pq_hold_free(s->hold);
    s->ops->free(s);
}

void pq_sink_free(struct pq_sink *k)
{
    if (k)
        k->ops->free(k);
}
