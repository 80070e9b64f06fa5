/*
 * The cubic schedule of gradual pruning, Zhu and Gupta (arXiv 1710.01878):
 * from 0 at the first step to S at the last,
 *
 *     s(k) = S - S (1 - k / N)^3,    k = 0 ... N, at step FROM + k EVERY
 */
#include "prune.h"

#include <string.h>

int prune_schedule_parse(const char *s, struct prune_schedule *d,
                         struct pq_error *e)
{
    uint64_t *const field[3] = {&d->n, &d->from, &d->every};
    char part[24];

    *d = (struct prune_schedule){.every = 1};
    for (int i = 0; s; i++) {
        const char *colon = strchr(s, ':');
        const size_t n = colon ? (size_t)(colon - s) : strlen(s);
        if (i == 3 || n >= sizeof part)
            return pq_fail(e, PQ_EARG, "'%s' is not N[:FROM[:EVERY]]", s);
        memcpy(part, s, n);
        part[n] = '\0';
        if (cmd_number(part, i == 1 ? 0 : 1, i == 0 ? 1000000 : UINT32_MAX,
                       field[i], e))
            return -1;
        s = colon ? colon + 1 : NULL;
    }
    return 0;
}

double prune_schedule_at(const struct prune_schedule *d, double sparsity,
                         uint64_t k)
{
    const double left = 1 - (double)k / (double)d->n;

    return sparsity - sparsity * left * left * left;
}

void prune_schedule_print(const struct prune_schedule *d, double sparsity,
                          bool json)
{
    if (json)
        cmd_print("{\"pq\":1,\"tool\":\"pq-prune\",\"schedule\":[");
    for (uint64_t k = 0; k <= d->n; k++) {
        const unsigned long long step = d->from + k * d->every;
        const double s = prune_schedule_at(d, sparsity, k);
        if (json)
            cmd_print("%s{\"step\":%llu,\"sparsity\":%.9g}", k ? "," : "", step,
                      s);
        else
            cmd_print("%llu %.9g\n", step, s);
    }
    if (json)
        cmd_print("]}\n");
}
