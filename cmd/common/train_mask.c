/*
 * --show-mask: what is trained on, a line a token, texts in the order of the
 * file:
 *
 *     LINE <tab> POSITION <tab> ID <tab> train|- <tab> "TOKEN"
 *
 * The token as the vocabulary spells it, where the model has a tokenizer.
 */
#include "pq_json.h"
#include "training.h"

#include <string.h>

static bool is_trained(const struct train *t, const struct pq_train_text *x,
                       size_t i)
{
    if (i == 0 && !t->o->prompt_tokens)
        return false; /* nothing stands before it */
    return !x->labels || x->labels[i] != PQ_TRAIN_IGNORE;
}

static void put_token(const struct train *t, struct pq_buf *b, int32_t id)
{
    const struct pq_tokenizer *all = t->data.file.tokenizer;
    size_t n;
    const char *s = all ? pq_tokenizer_text(all, (uint32_t)id, &n) : NULL;

    if (!s)
        return;
    pq_buf_puts(b, "\t");
    pq_json_quote_n(b, s, n);
}

static int print_piece(const struct train *t, const struct train_piece *p,
                       struct pq_error *e)
{
    struct pq_buf b = {0};

    for (size_t i = 0; i < p->text.n; i++) {
        pq_buf_printf(&b, "%zu\t%zu\t%ld\t%s", p->line, i, (long)p->text.ids[i],
                      is_trained(t, &p->text, i) ? "train" : "-");
        put_token(t, &b, p->text.ids[i]);
        pq_buf_puts(&b, "\n");
    }
    return cmd_print_buf(&b, e);
}

int train_show_mask(struct train *t, struct pq_error *e)
{
    struct pq_error none = PQ_ERROR_INIT;

    /* without a tokenizer, for data of ids, there are no spellings */
    if (cmd_data_tokenizer(&t->data.file, &none))
        t->data.file.tokenizer = NULL;
    for (size_t i = 0; i < t->data.n; i++)
        if (print_piece(t, &t->data.pieces[i], e))
            return -1;
    return 0;
}
