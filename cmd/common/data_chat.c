/*
 * Conversations in data files, {"messages":[...]}, through the chat template
 * that travels with the model; see data.h.
 *
 *     {"messages":[{"role":"user","content":"Hi"}, ...], "tools":[...]}
 *
 * The whole line is what the template sees.  To be continued it is rendered
 * with the beginning of the assistant's turn, else the tokens that count are
 * the assistant's.
 */
#include "data.h"

#include "cmd.h"
#include "pq_json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LAST_SECOND 253402300799 /* of the year 9999 */

/* SOURCE_DATE_EPOCH, in UTC, or the time that it is here. */
static int find_time(struct tm *now, struct pq_error *e)
{
    const char *const s = getenv("SOURCE_DATE_EPOCH");
    time_t t = time(NULL);
    uint64_t seconds;

    if (!s || !*s)
        return localtime_r(&t, now) ? 0 : pq_fail_sys(e, errno, "the time");
    if (cmd_number(s, 0, LAST_SECOND, &seconds, e))
        return pq_error_in(e, "SOURCE_DATE_EPOCH");
    t = (time_t)seconds;
    return gmtime_r(&t, now) ? 0 : pq_fail_sys(e, errno, "SOURCE_DATE_EPOCH");
}

/* The chat template of the model, which is read when it is first needed. */
static int read_template(struct cmd_data *d, struct pq_error *e)
{
    if (d->template)
        return 0;
    return find_time(&d->now, e) || pq_chat_of_model(d->model, &d->template, e)
               ? -1
               : 0;
}

/* The first token that counts. */
static size_t first_of(const unsigned char *counts, size_t n)
{
    size_t i = 1;

    while (i < n && !counts[i])
        i++;
    return i < n ? i : n;
}

int cmd_data_add_messages(struct cmd_data *d, const char *json, size_t n,
                          size_t line, struct pq_error *e)
{
    struct pq_ids ids = {0};
    unsigned char *counts = NULL;
    struct cmd_example *x;

    if (read_template(d, e) || cmd_data_tokenizer(d, e))
        return -1;
    const struct pq_chat_input in = {json, n, SIZE_MAX, d->prompts, &d->now};
    if (pq_chat_encode(d->template, d->tokenizer, &in, &ids,
                       d->prompts ? NULL : &counts, e)) {
        free(ids.list);
        return -1;
    }
    x = cmd_data_add(d, &ids, line, e);
    if (!x) {
        free(counts);
        return -1;
    }
    x->counts = counts;
    if (counts)
        x->from = first_of(counts, x->n);
    return 0;
}

static void put_message(struct pq_buf *b, const char *role, const char *s,
                        size_t n)
{
    pq_buf_printf(b, "{\"role\":\"%s\",\"content\":", role);
    pq_json_quote_n(b, s, n);
    pq_buf_puts(b, "}");
}

int cmd_data_add_user(struct cmd_data *d, const char *text, size_t n,
                      size_t line, struct pq_error *e)
{
    const size_t valid = pq_utf8_prefix(text, n);
    struct pq_buf b = {0};

    if (valid < n)
        return pq_fail(e, PQ_EVALUE, "text: byte %zu is not UTF-8", valid);
    pq_buf_puts(&b, "{\"messages\":[");
    if (d->system) {
        put_message(&b, "system", d->system, strlen(d->system));
        pq_buf_puts(&b, ",");
    }
    put_message(&b, "user", text, n);
    pq_buf_puts(&b, "]}");
    const int rc = b.failed ? pq_fail_nomem(e)
                            : cmd_data_add_messages(d, b.s, b.n, line, e);
    pq_buf_release(&b);
    return rc;
}
