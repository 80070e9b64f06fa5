/*
 * pq-generate: what would the model write next?
 *
 *     prompt -> ids -> logits of the next token -> repetition, temperature,
 *            -> top-k, top-p, min-p -> one token -> its text, and so on
 *
 * until the model ends the text, a stop string comes, or there are as many
 * tokens as were asked for.  The text goes out as it comes, but for what may
 * be the start of a stop string or of a character.
 */
#include "cmd.h"
#include "adapted.h"
#include "data.h"
#include "pq_json.h"
#include "pq_nn.h"
#include "pq_sample.h"
#include "rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TOKENS 256 /* where --max-tokens says nothing */

enum {
    OPT_PROMPT = 1,
    OPT_DATA,
    OPT_MAX_TOKENS,
    OPT_TEMPERATURE,
    OPT_TOP_K,
    OPT_TOP_P,
    OPT_MIN_P,
    OPT_REPETITION,
    OPT_STOP,
    OPT_ADAPTER,
    OPT_CHAT,
    OPT_SYSTEM
};

static const struct cmd_option options[] = {
    {'p', "prompt", "TEXT", "what to continue", NULL, CMD_REPEATS, OPT_PROMPT},
    {'d', "data", "FILE", "prompts: JSONL or a text", NULL, 0, OPT_DATA},
    {0, "chat", NULL, "answer prompts, by the model's chat template", NULL, 0,
     OPT_CHAT},
    {0, "system", "TEXT", "with --chat: say this before", NULL, 0, OPT_SYSTEM},
    {0, "max-tokens", "N", "stop after N tokens; default 256", NULL, 0,
     OPT_MAX_TOKENS},
    {0, "temperature", "X", "draw lots; default 0: the likeliest token", NULL,
     0, OPT_TEMPERATURE},
    {0, "top-k", "K", "draw from the K likeliest tokens", NULL, 0, OPT_TOP_K},
    {0, "top-p", "P", "draw from the likeliest that sum to P", NULL, 0,
     OPT_TOP_P},
    {0, "min-p", "P", "draw from those of P times the likeliest", NULL, 0,
     OPT_MIN_P},
    {0, "repetition-penalty", "X", "above 1: less of what was there", NULL, 0,
     OPT_REPETITION},
    {0, "stop", "TEXT", "end before this text", NULL, CMD_REPEATS, OPT_STOP},
    {0, "adapter", "DIR", "with an adapter; DIR:WEIGHT for a part of it", NULL,
     CMD_REPEATS, OPT_ADAPTER},
    {0, NULL, NULL, NULL, NULL, 0, 0},
};

struct generate {
    const char *data, *system;
    bool chat;
    struct cmd_list prompts, stops, adapters;
    uint64_t max_tokens; /* 0: the default */
    struct pq_sampling sampling;
};

/* What one run of the tool works on. */
struct job {
    struct cmd *c;
    const struct generate *o;
    struct pq_nn *nn;
    struct cmd_data data;
    struct pq_ids ends; /* that end a text */
    struct pq_rng rng;
    size_t vocab;
    float *logits;             /* [vocab] */
    struct pq_candidate *room; /* [vocab] */
};

/* A text under way. */
struct text {
    struct job *j;
    size_t number; /* of the prompt */
    int32_t *ids;  /* [n], of them [prompt, n) are new */
    size_t n, prompt;
    struct pq_decoder *decoder; /* NULL: the model has no tokenizer */
    struct pq_buf new;          /* the text behind the prompt */
    size_t told;                /* bytes of it that went out */
    const char *why;            /* it is over, or NULL */
};

static int option(struct cmd *c, int id, const char *value, struct pq_error *e)
{
    struct generate *o = c->state;
    struct pq_sampling *s = &o->sampling;
    uint64_t k;

    switch (id) {
    case OPT_PROMPT:
        return cmd_list_add(&o->prompts, value, e);
    case OPT_DATA:
        o->data = value;
        return 0;
    case OPT_CHAT:
        o->chat = true;
        return 0;
    case OPT_SYSTEM:
        o->system = value;
        return 0;
    case OPT_MAX_TOKENS:
        return cmd_number(value, 1, 1u << 30, &o->max_tokens, e);
    case OPT_TEMPERATURE:
        return cmd_real(value, 0, 1e6, &s->temperature, e);
    case OPT_TOP_K:
        if (cmd_number(value, 1, 1u << 30, &k, e))
            return -1;
        s->top_k = (size_t)k;
        return 0;
    case OPT_TOP_P:
        return cmd_real(value, 1e-9, 1, &s->top_p, e);
    case OPT_MIN_P:
        return cmd_real(value, 0, 1, &s->min_p, e);
    case OPT_REPETITION:
        return cmd_real(value, 1e-3, 1e3, &s->repetition, e);
    case OPT_STOP:
        return *value ? cmd_list_add(&o->stops, value, e)
                      : pq_fail(e, PQ_EARG, "is empty");
    default:
        return cmd_list_add(&o->adapters, value, e);
    }
}

/* ---- which tokens end a text -------------------------------------------- */

static int add_end(struct pq_ids *ends, uint32_t id, struct pq_error *e)
{
    uint32_t *grown = pq_grow(ends->list, ends->n, &ends->cap, sizeof *grown);

    if (!grown)
        return pq_fail_nomem(e);
    ends->list = grown;
    ends->list[ends->n++] = id;
    return 0;
}

static int read_end(struct pq_json *j, struct pq_ids *ends)
{
    uint64_t id;

    if (pq_json_u64(j, &id) || id > INT32_MAX)
        return pq_fail(j->e, PQ_EFORMAT, "\"eos_token_id\" is no token id");
    return add_end(ends, (uint32_t)id, j->e);
}

/* A number, a list of them, or null. */
static int read_ends(struct pq_json *j, struct pq_ids *ends)
{
    enum pq_json_type t = pq_json_next(j);

    if (t == PQ_JSON_NUMBER)
        return read_end(j, ends);
    if (t != PQ_JSON_ARRAY)
        return pq_json_skip(j, t);
    while ((t = pq_json_next(j)) == PQ_JSON_NUMBER)
        if (read_end(j, ends))
            return -1;
    return t == PQ_JSON_ARRAY_END
               ? 0
               : pq_fail(j->e, PQ_EFORMAT, "\"eos_token_id\" is no token id");
}

/* eos_token_id of one of the model's files. */
static int find_ends(const struct pq_catalog *c, const char *name,
                     struct pq_ids *ends, struct pq_error *e)
{
    const struct pq_blob *b = pq_catalog_blob(c, name);
    struct pq_json j;
    enum pq_json_type t;

    if (!b)
        return 0;
    pq_json_init(&j, b->data, (size_t)b->bytes, e);
    if (pq_json_next(&j) != PQ_JSON_OBJECT)
        return pq_fail(e, PQ_EFORMAT, "%s: is not a JSON object", name);
    while ((t = pq_json_next(&j)) == PQ_JSON_KEY)
        if (pq_json_is(&j, "eos_token_id") ? read_ends(&j, ends)
                                           : pq_json_skip(&j, PQ_JSON_KEY))
            return pq_error_in(e, "%s", name);
    return t == PQ_JSON_OBJECT_END ? 0 : pq_error_in(e, "%s", name);
}

/* What ends a turn of a chat, where the files above name other ends. */
static int add_turn_end(struct job *j, struct pq_error *e)
{
    size_t n = 0;
    const char *s = j->data.template
                        ? pq_chat_token(j->data.template, "eos_token", &n)
                        : NULL;
    const uint32_t id =
        s ? pq_tokenizer_id(j->data.tokenizer, s, n) : PQ_TOKEN_NONE;

    return id == PQ_TOKEN_NONE ? 0 : add_end(&j->ends, id, e);
}

static bool is_end(const struct job *j, int32_t id)
{
    for (size_t i = 0; i < j->ends.n; i++)
        if (j->ends.list[i] == (uint32_t)id)
            return true;
    return false;
}

/* ---- the text as it comes ----------------------------------------------- */

/* Where in s[0..n) the first stop string begins, or n. */
static size_t find_stop(const struct cmd_list *stops, const char *s, size_t n)
{
    for (size_t at = 0; at < n; at++)
        for (size_t i = 0; i < stops->n; i++) {
            const size_t k = strlen(stops->items[i]);
            if (k <= n - at && memcmp(s + at, stops->items[i], k) == 0)
                return at;
        }
    return n;
}

/* How much of the end of s[0..n) may be the beginning of a stop string. */
static size_t may_stop(const struct cmd_list *stops, const char *s, size_t n)
{
    for (size_t at = 0; at < n; at++)
        for (size_t i = 0; i < stops->n; i++)
            if (n - at < strlen(stops->items[i]) &&
                memcmp(s + at, stops->items[i], n - at) == 0)
                return n - at;
    return 0;
}

static void print_new(struct text *t, size_t end)
{
    if (end <= t->told)
        return;
    if (!t->j->c->json) {
        cmd_print_n(t->new.s + t->told, end - t->told);
        cmd_flush();
    }
    t->told = end;
}

/* Looks for stop strings in what is new and prints what is none. */
static void tell(struct text *t)
{
    const struct cmd_list *stops = &t->j->o->stops;
    const char *s = t->new.s + t->told;
    const size_t n = t->new.n - t->told, at = find_stop(stops, s, n);

    if (at < n) {
        t->new.n = t->told + at;
        t->why = "stop";
    }
    print_new(t, t->new.n - (t->why ? 0 : may_stop(stops, s, n)));
}

/* A token that is part of the text. */
static int add_token(struct text *t, int32_t id, struct pq_error *e)
{
    if (!t->decoder)
        pq_buf_printf(&t->new, t->new.n ? " %ld" : "%ld", (long)id);
    else if (pq_decoder_push(t->decoder, (uint32_t)id, &t->new, e))
        return -1;
    if (t->new.failed)
        return pq_fail_nomem(e);
    tell(t);
    return 0;
}

/* ---- one text ----------------------------------------------------------- */

static int choose(struct text *t, int32_t *id, struct pq_error *e)
{
    struct job *j = t->j;
    const struct pq_sampling *s = &j->o->sampling;
    const uint64_t index = (uint64_t)t->number << 32 | (t->n - t->prompt);
    uint32_t r[4];

    if (!isfinite(j->logits[pq_sample_best(j->logits, j->vocab)]))
        return pq_fail(e, PQ_EVALUE, "the logits behind token %zu are not "
                                     "finite",
                       t->n);
    pq_sample_filter(s, t->ids, t->n, j->logits, j->vocab, j->room);
    if (s->temperature > 0) {
        pq_rng_at(&j->rng, index, r);
        *id = pq_sample_draw(j->logits, j->vocab,
                             ((double)(r[0] >> 5) * 67108864.0 +
                              (double)(r[1] >> 6)) /
                                 9007199254740992.0);
    } else {
        *id = pq_sample_best(j->logits, j->vocab);
    }
    return 0;
}

/* Token after token, into the room that t->ids has. */
static int go_on(struct text *t, struct pq_nn_stream *s, size_t room,
                 struct pq_error *e)
{
    struct job *j = t->j;
    size_t fed = 0;

    while (!t->why) {
        int32_t id = 0;
        if (cmd_cancel)
            return pq_fail(e, PQ_ECANCEL, "stopped by a signal");
        if (pq_nn_feed(s, t->ids + fed, t->n - fed, j->logits, e) ||
            choose(t, &id, e))
            return -1;
        fed = t->n;
        t->ids[t->n++] = id;
        if (is_end(j, id))
            t->why = "eos";
        else if (add_token(t, id, e))
            return -1;
        if (!t->why && t->n == room)
            t->why = "length";
    }
    if (t->decoder && strcmp(t->why, "stop") != 0) {
        if (pq_decoder_finish(t->decoder, &t->new, e))
            return -1;
        if (t->new.failed)
            return pq_fail_nomem(e);
        tell(t);
    }
    print_new(t, t->new.n);
    return 0;
}

/* The decoder has seen the prompt, which decides on spaces behind it. */
static int start_decoder(struct text *t, struct pq_error *e)
{
    struct pq_buf prompt = {0};
    int rc = 0;

    if (!t->j->data.tokenizer)
        return 0;
    if (pq_decoder_new(t->j->data.tokenizer, PQ_DECODE_SKIP, &t->decoder, e))
        return -1;
    for (size_t i = 0; !rc && i < t->prompt; i++)
        rc = pq_decoder_push(t->decoder, (uint32_t)t->ids[i], &prompt, e);
    pq_buf_release(&prompt);
    return rc;
}

static int print_json(const struct text *t, struct pq_error *e)
{
    struct pq_buf b = {0};

    pq_buf_puts(&b, "{\"pq\":1,\"tool\":\"pq-generate\",\"ids\":[");
    for (size_t i = t->prompt; i < t->n; i++)
        pq_buf_printf(&b, i > t->prompt ? ",%ld" : "%ld", (long)t->ids[i]);
    pq_buf_puts(&b, "],\"text\":");
    if (t->decoder)
        pq_json_quote_n(&b, t->new.s ? t->new.s : "", t->new.n);
    else
        pq_buf_puts(&b, "null");
    pq_buf_printf(&b, ",\"prompt_tokens\":%zu,\"why\":\"%s\"}\n", t->prompt,
                  t->why);
    return cmd_print_buf(&b, e);
}

static int finish(const struct text *t, struct pq_error *e)
{
    if (t->j->c->verbose > 0)
        cmd_msg(t->j->c, "prompt %zu: %zu tokens, %zu new, ended by %s",
                t->number + 1, t->prompt, t->n - t->prompt, t->why);
    if (t->j->c->json)
        return print_json(t, e);
    cmd_print("\n");
    return 0;
}

/* How long the text may become. */
static int room_for(const struct job *j, const struct cmd_example *x,
                    size_t *room, struct pq_error *e)
{
    const size_t positions = pq_nn_about(j->nn).positions;
    const size_t most = j->o->max_tokens ? j->o->max_tokens : MAX_TOKENS;

    if (x->n == 0)
        return pq_fail(e, PQ_EARG, "is empty, and the tokenizer begins texts "
                                   "with no token");
    if (x->n >= positions)
        return pq_fail(e, PQ_ELIMIT, "has %zu tokens, the model %zu positions",
                       x->n, positions);
    *room = positions - x->n < most ? positions : x->n + most;
    return 0;
}

static int run_text(struct text *t, const struct cmd_example *x,
                    struct pq_error *e)
{
    struct pq_nn_stream *s = NULL;
    size_t room = 0;

    if (room_for(t->j, x, &room, e))
        return -1;
    t->ids = pq_alloc(room, sizeof *t->ids);
    if (!t->ids)
        return pq_fail_nomem(e);
    memcpy(t->ids, x->ids, x->n * sizeof *t->ids);
    t->n = t->prompt = x->n;
    const int rc = start_decoder(t, e) ||
                           pq_nn_stream_new(t->j->nn, room, &s, e) ||
                           go_on(t, s, room, e) || finish(t, e)
                       ? -1
                       : 0;
    pq_nn_stream_free(s);
    return rc;
}

static int continue_text(struct job *j, size_t i, struct pq_error *e)
{
    struct text t = {.j = j, .number = i};

    const int rc = run_text(&t, &j->data.items[i], e);
    free(t.ids);
    pq_buf_release(&t.new);
    pq_decoder_free(t.decoder);
    return rc ? pq_error_in(e, "prompt %zu", i + 1) : 0;
}

/* ---- the run ------------------------------------------------------------ */

static int read_prompts(struct job *j, const struct pq_catalog *model,
                        struct pq_error *e)
{
    const struct cmd_list *p = &j->o->prompts;

    j->data.model = model;
    j->data.prompts = true;
    j->data.chat = j->o->chat;
    j->data.system = j->o->system;
    if (cmd_data_speaks(model) && cmd_data_tokenizer(&j->data, e))
        return -1;
    for (size_t i = 0; i < p->n; i++)
        if (cmd_data_add_text(&j->data, p->items[i], strlen(p->items[i]), i + 1,
                              e))
            return pq_error_in(e, "-p");
    if (j->o->data && cmd_data_read(j->o->data, &j->data, e))
        return -1;
    return j->data.n ? 0 : pq_fail(e, PQ_EARG, "%s: holds no prompt",
                                   j->o->data);
}

static int load(struct job *j, struct pq_error *e)
{
    const struct pq_nn_options o = {j->c->kernels, j->c->threads, 0};
    struct pq_source *s;

    if (cmd_open_adapted(j->c, &j->o->adapters, &s, e))
        return -1;
    int rc = read_prompts(j, s->catalog, e) ||
             find_ends(s->catalog, "generation_config.json", &j->ends, e);
    if (!rc && j->ends.n == 0)
        rc = find_ends(s->catalog, "config.json", &j->ends, e);
    if (!rc)
        rc = add_turn_end(j, e);
    if (!rc)
        rc = pq_nn_open(s, &o, &j->nn, e);
    pq_source_free(s);
    j->data.model = NULL;
    return rc ? -1 : 0;
}

static int generate(struct job *j, struct pq_error *e)
{
    if (load(j, e))
        return -1;
    j->vocab = pq_nn_about(j->nn).vocab;
    if (cmd_data_check(&j->data, j->o->data ? j->o->data : "-p", j->vocab, e))
        return -1;
    j->logits = pq_alloc(j->vocab, sizeof *j->logits);
    j->room = pq_alloc(j->vocab, sizeof *j->room);
    if (!j->logits || !j->room)
        return pq_fail_nomem(e);
    pq_rng_init(&j->rng, j->c->seed, "generate");
    for (size_t i = 0; i < j->data.n; i++)
        if (continue_text(j, i, e))
            return -1;
    return 0;
}

static int run(struct cmd *c, struct pq_error *e)
{
    struct job j = {.c = c, .o = c->state};
    const struct pq_sampling *s = &j.o->sampling;

    if (!j.o->data && j.o->prompts.n == 0)
        return cmd_usage(c, "say with -p or -d what to continue");
    if (j.o->system && !j.o->chat)
        return cmd_usage(c, "--system needs --chat");
    if (cmd_check_data(c, j.o->data))
        return CMD_TROUBLE;
    if (!(s->temperature > 0) && (s->top_k || s->top_p > 0 || s->min_p > 0))
        return cmd_usage(c, "%s needs a --temperature above 0",
                         s->top_k       ? "--top-k"
                         : s->top_p > 0 ? "--top-p"
                                        : "--min-p");
    const int rc = generate(&j, e);
    cmd_data_release(&j.data);
    pq_nn_free(j.nn);
    free(j.ends.list);
    free(j.logits);
    free(j.room);
    return rc ? CMD_TROUBLE : CMD_OK;
}

static void release(void *state)
{
    struct generate *o = state;

    free(o->prompts.items);
    free(o->stops.items);
    free(o->adapters.items);
}

static const char *const examples[] = {
    "pq-generate -p 'Once upon a time' llama/",
    "pq-generate --temperature 0.8 --top-p 0.9 --seed 7 -p 'Lily' llama/",
    NULL,
};

const struct pq_tool tool_generate = {
    .name = "generate",
    .purpose = "continue texts with a model",
    .synopsis = "[options] -p TEXT | -d FILE [MODEL]",
    .options = options,
    .shared = CMD_ENGINE | CMD_JSON | CMD_SEED | CMD_VERBOSITY,
    .max_operands = 1,
    .examples = examples,
    .state_bytes = sizeof(struct generate),
    .option = option,
    .run = run,
    .release = release,
};
