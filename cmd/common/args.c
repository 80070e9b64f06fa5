/*
 * The command line, and the life of a command from there on:
 *
 *     environment -> options -> operands -> run() -> one line if that failed
 *     -> stdout closed and checked -> dead of the signal, if one came
 */
#include "cmd.h"
#include "pq_hash.h"

#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    LONG_BASE = 256, /* getopt's value of a long option: this + its number */
    MAX_THREADS = 1024,
    GOES_ON = -1 /* no exit status yet */
};

#define MIB (UINT64_C(1) << 20)
#define DEFAULT_MEMORY (128 * MIB)
#define MIN_MEMORY (16 * MIB)

/* An option as it was given. */
struct given {
    size_t option; /* number in the table */
    const char *value;
};

struct parser {
    struct cmd *c;
    struct cmd_option *all; /* [n] */
    size_t n;
    struct option *longs;
    char *letters;
    struct given *given; /* [n_given] */
    size_t n_given, cap_given;
    bool version;
};

/* "-t" or "--block", for messages and provenance. */
static void spell(const struct cmd_option *o, char *s, size_t n)
{
    if (o->letter != 0)
        snprintf(s, n, "-%c", o->letter);
    else
        snprintf(s, n, "--%s", o->name);
}

/* ---- Values ---------------------------------------------------------- */

/* Processors that we may run on. */
static unsigned all_threads(void)
{
    cpu_set_t set;
    long n = sched_getaffinity(0, sizeof set, &set) == 0
                 ? CPU_COUNT(&set)
                 : sysconf(_SC_NPROCESSORS_ONLN);

    if (n < 1)
        n = 1;
    return n > MAX_THREADS ? MAX_THREADS : (unsigned)n;
}

static int set_threads(struct cmd *c, const char *value, struct pq_error *e)
{
    uint64_t n;

    if (cmd_number(value, 0, MAX_THREADS, &n, e) != 0)
        return -1;
    c->threads = n == 0 ? all_threads() : (unsigned)n;
    return 0;
}

/* A quarter of what was asked for is for code, stacks and catalogues. */
static void set_budget(struct cmd *c, uint64_t bytes)
{
    c->memory = bytes / 4 * 3;
}

static int set_memory(struct cmd *c, const char *value, struct pq_error *e)
{
    uint64_t bytes;

    if (cmd_size(value, &bytes, e) != 0)
        return -1;
    if (bytes < MIN_MEMORY)
        return pq_fail(e, PQ_EARG, "%s is too little (at least 16M)", value);
    set_budget(c, bytes);
    c->memory_given = true;
    return 0;
}

static int set_format(struct cmd *c, const char *value, struct pq_error *e)
{
    const struct pq_format *f = pq_format_named(value);

    if (f == NULL || !f->can_write)
        return pq_fail(e, PQ_EARG, "'%s' is no format that can be written",
                       value);
    c->output_format = f->name;
    return 0;
}

/* ---- The environment ------------------------------------------------- */

/* A variable, or NULL when it is unset or empty. */
static const char *environment(const char *name)
{
    const char *value = getenv(name);

    return value != NULL && value[0] != '\0' ? value : NULL;
}

static int apply_environment(struct cmd *c)
{
    const char *threads = environment("PQ_THREADS");
    const char *memory = environment("PQ_MEMORY");
    const char *cpu = environment("PQ_CPU");
    struct pq_error e = PQ_ERROR_INIT;

    c->tmpdir = environment("TMPDIR");
    c->threads = all_threads();
    set_budget(c, DEFAULT_MEMORY);
    if (threads != NULL && set_threads(c, threads, &e) != 0)
        return cmd_usage(c, "PQ_THREADS: %s", e.msg);
    if (memory != NULL && set_memory(c, memory, &e) != 0)
        return cmd_usage(c, "PQ_MEMORY: %s", e.msg);
    c->kernels = cpu != NULL ? pq_kernels_named(cpu) : pq_kernels_best();
    if (c->kernels == NULL)
        return cmd_usage(c, "PQ_CPU: no kernels '%s' on this machine", cpu);
    return 0;
}

/* ---- Options --------------------------------------------------------- */

static int set_shared(struct parser *p, int id, const char *value,
                      struct pq_error *e)
{
    struct cmd *c = p->c;

    switch (id) {
    case CMD_ID_OUTPUT:        c->output = value; return 0;
    case CMD_ID_FORMAT:        return set_format(c, value, e);
    case CMD_ID_FORCE:         c->force = true; return 0;
    case CMD_ID_NO_SYNC:       c->sync = false; return 0;
    case CMD_ID_DRY_RUN:       c->dry_run = true; return 0;
    case CMD_ID_MATCH:         return cmd_list_add(&c->match, value, e);
    case CMD_ID_EXCLUDE:       return cmd_list_add(&c->exclude, value, e);
    case CMD_ID_THREADS:       return set_threads(c, value, e);
    case CMD_ID_MEMORY:        return set_memory(c, value, e);
    case CMD_ID_PROGRESS:      return cmd_one_of(value, "auto always never",
                                                 &c->progress_when, e);
    case CMD_ID_JSON:          c->json = true; return 0;
    case CMD_ID_SEED:          c->seed_given = true;
                               return cmd_number(value, 0, UINT64_MAX,
                                                 &c->seed, e);
    case CMD_ID_NO_PROVENANCE: c->provenance = false; return 0;
    case CMD_ID_QUIET:         c->quiet = true; return 0;
    case CMD_ID_VERBOSE:       c->verbose++; return 0;
    case CMD_ID_VERSION:       p->version = true; return 0;
    default:                   return 0;
    }
}

static int note_given(struct parser *p, size_t option, const char *value)
{
    struct given *g = pq_grow(p->given, p->n_given, &p->cap_given, sizeof *g);

    if (g == NULL)
        return -1;
    p->given = g;
    g[p->n_given++] = (struct given){option, value};
    return 0;
}

/* One option was given.  An exit status, or GOES_ON. */
static int take(struct parser *p, size_t i, const char *value)
{
    const struct cmd_option *o = &p->all[i];
    struct cmd *c = p->c;
    struct pq_error e = PQ_ERROR_INIT;
    char spelled[64];

    if (o->id == CMD_ID_HELP) {
        cmd_help(c->tool, stdout);
        return CMD_OK;
    }
    const int rc = o->id < CMD_ID_OUTPUT
                       ? c->tool->option(c, o->id, value, &e)
                       : set_shared(p, o->id, value, &e);
    if (rc == 0 && note_given(p, i, value) == 0)
        return GOES_ON;
    spell(o, spelled, sizeof spelled);
    return cmd_usage(c, "%s: %s", spelled,
                     e.code != PQ_OK ? e.msg : "out of memory");
}

/* Makes getopt's tables. */
static int make_tables(struct parser *p)
{
    p->all = cmd_all_options(p->c->tool, &p->n);
    if (p->all == NULL)
        return -1;
    p->longs = pq_zalloc(p->n + 2, sizeof *p->longs);
    p->letters = pq_alloc(3 * p->n + 2, 1);
    if (p->longs == NULL || p->letters == NULL)
        return -1;

    char *s = p->letters;
    *s++ = ':'; /* a missing argument yields ':' */
    for (size_t i = 0; i < p->n; i++) {
        const struct cmd_option *o = &p->all[i];
        const bool optional = (o->flags & CMD_ARG_OPTIONAL) != 0;
        const int takes = o->arg == NULL ? no_argument
                          : optional     ? optional_argument
                                         : required_argument;
        p->longs[i] = (struct option){o->name, takes, NULL, LONG_BASE + (int)i};
        if (o->letter == 0)
            continue;
        *s++ = (char)o->letter;
        for (int k = 0; k < takes; k++) /* ":" needs one, "::" may have one */
            *s++ = ':';
    }
    *s = '\0';
    p->longs[p->n] = (struct option){"completion", required_argument, NULL,
                                     LONG_BASE + (int)p->n};
    return 0;
}

/* The number in the table of what getopt returned, or p->n. */
static size_t find(const struct parser *p, int value)
{
    size_t i = 0;

    if (value >= LONG_BASE)
        return (size_t)(value - LONG_BASE);
    while (i < p->n && p->all[i].letter != value)
        i++;
    return i;
}

/* What getopt did not like: `got` is '?' or ':'. */
static int complain(const struct parser *p, char **argv, int got)
{
    const struct cmd *c = p->c;
    const size_t i = optopt != 0 ? find(p, optopt) : p->n;
    const char *word = argv[optind - 1];
    char spelled[64];

    if (i < p->n && optopt < LONG_BASE)
        spell(&p->all[i], spelled, sizeof spelled);
    else
        snprintf(spelled, sizeof spelled, "--%s",
                 i < p->n ? p->all[i].name : "completion");

    if (got == ':')
        return cmd_usage(c, "%s needs an argument", spelled);
    if (optopt >= LONG_BASE)
        return cmd_usage(c, "%s takes no argument", spelled);
    if (optopt != 0)
        return cmd_usage(c, "unknown option '-%c'", optopt);
    return cmd_usage(c, "unknown or ambiguous option '%.100s'", word);
}

static int complete(const struct cmd *c, const char *shell)
{
    if (cmd_completion(c->tool, shell, stdout) == 0)
        return CMD_OK;
    return cmd_usage(c, "--completion: '%s' is none of bash, zsh and fish",
                     shell);
}

static int parse_options(struct parser *p, int argc, char **argv)
{
    int got, status = GOES_ON;

    optind = 0; /* start anew, also behind "pq NAME" */
    opterr = 0;
    while (status == GOES_ON &&
           (got = getopt_long(argc, argv, p->letters, p->longs, NULL)) != -1) {
        if (got == '?' || got == ':')
            return complain(p, argv, got);
        const size_t i = find(p, got);
        status = i < p->n ? take(p, i, optarg) : complete(p->c, optarg);
    }
    return status;
}

/* ---- Operands and provenance ----------------------------------------- */

static int take_operands(struct cmd *c, int argc, char **argv)
{
    bool standard = false;

    c->operands = (const char **)argv + optind;
    c->n_operands = (size_t)(argc - optind);
    if (c->n_operands > c->tool->max_operands)
        return cmd_usage(c, "one operand too many: '%.200s'",
                         c->operands[c->tool->max_operands]);
    for (size_t i = 0; i < c->n_operands; i++) {
        if (strcmp(c->operands[i], "-") != 0)
            continue;
        if (standard)
            return cmd_usage(c, "standard input may be given only once");
        standard = true;
    }
    return GOES_ON;
}

/* Appends text, in quotes where a shell would need them. */
static void add_quoted(struct pq_buf *b, const char *word)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyz"
                                "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                "0123456789_-+=.,:/@%^";

    if (word[0] != '\0' && word[strspn(word, plain)] == '\0') {
        pq_buf_puts(b, word);
        return;
    }
    pq_buf_puts(b, "'");
    for (; *word != '\0'; word++) {
        if (*word == '\'')
            pq_buf_puts(b, "'\\''");
        else
            pq_buf_add(b, word, 1);
    }
    pq_buf_puts(b, "'");
}

static bool is_file(const char *path)
{
    struct stat st;

    return strcmp(path, "-") != 0 && stat(path, &st) == 0 &&
           S_ISREG(st.st_mode);
}

/* The name of a file may change, or its content; this is its content. */
static int add_digest(struct cmd *c, struct pq_buf *b, const char *path,
                      struct pq_error *e)
{
    const struct pq_buf *text = cmd_content(c, path, e);
    char hex[33];

    if (!text)
        return -1;
    pq_hash128_hex(pq_hash128_of(text->s, text->n), hex);
    pq_buf_printf(b, "xxh3:%s", hex);
    return 0;
}

static int hash_file(struct pq_hash *h, const char *path, struct pq_error *e)
{
    FILE *f = fopen(path, "re");
    char piece[1 << 16];
    size_t n;

    if (f == NULL)
        return pq_fail_sys(e, errno, "cannot be opened");
    while ((n = fread(piece, 1, sizeof piece, f)) > 0)
        pq_hash_add(h, piece, n);
    const int rc = ferror(f) ? pq_fail_sys(e, errno, "cannot be read") : 0;
    fclose(f);
    return rc;
}

/* A file, or the one with the weights in the directory of an adapter. */
static int hash_place(struct pq_hash *h, const char *path, struct pq_error *e)
{
    static const char *const names[] = {"", "/adapter_model.safetensors",
                                        "/adapter_model.bin"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct pq_buf b = {0};
        pq_buf_printf(&b, "%s%s", path, names[i]);
        const bool found = !b.failed && is_file(b.s);
        const int rc = b.failed ? pq_fail_nomem(e)
                       : found  ? hash_file(h, b.s, e)
                                : 0;
        pq_buf_release(&b);
        if (rc || found)
            return rc;
    }
    return 0;
}

/*
 * The same of a file of any size, of which nothing is kept.  Of a pipe, which
 * can be read once only, it is the digest of nothing.
 */
static int add_file_digest(struct pq_buf *b, const char *path,
                           struct pq_error *e)
{
    struct pq_hash *h = pq_hash_new(e);
    int rc = h == NULL ? -1 : 0;
    char hex[33];

    if (rc == 0)
        rc = hash_place(h, path, e);
    if (rc == 0) {
        pq_hash128_hex(pq_hash128(h), hex);
        pq_buf_printf(b, "xxh3:%s", hex);
    }
    pq_hash_free(h);
    return rc ? pq_error_in(e, "%s", path) : 0;
}

/* "-t nf4", "--double-quant"; a value that is optional is joined: "-z3". */
static int add_given(struct cmd *c, struct pq_buf *b,
                     const struct cmd_option *o, const char *value,
                     struct pq_error *e)
{
    const bool optional = (o->flags & CMD_ARG_OPTIONAL) != 0;
    char spelled[64];

    spell(o, spelled, sizeof spelled);
    pq_buf_puts(b, b->n > 0 ? " " : "");
    pq_buf_puts(b, spelled);
    if (value == NULL)
        return 0;
    pq_buf_puts(b, !optional ? " " : o->letter != 0 ? "" : "=");
    if ((o->flags & CMD_ARG_CONTENT) != 0)
        return add_digest(c, b, value, e);
    if ((o->flags & CMD_ARG_FILE) != 0)
        return add_file_digest(b, value, e);
    add_quoted(b, value);
    return 0;
}

/* Does a later option of the same kind make this one void? */
static bool is_void(const struct parser *p, size_t k)
{
    if ((p->all[p->given[k].option].flags & CMD_REPEATS) != 0)
        return false;
    for (size_t j = k + 1; j < p->n_given; j++)
        if (p->given[j].option == p->given[k].option)
            return true;
    return false;
}

/* The options that change the output, in the order of the table. */
static int add_all_given(const struct parser *p, struct pq_buf *b,
                         struct pq_error *e)
{
    for (size_t i = 0; i < p->n; i++) {
        if ((p->all[i].flags & CMD_CHANGES_OUTPUT) == 0)
            continue;
        for (size_t k = 0; k < p->n_given; k++) {
            if (p->given[k].option != i || is_void(p, k))
                continue;
            if (add_given(p->c, b, &p->all[i], p->given[k].value, e))
                return -1;
        }
    }
    pq_buf_add(b, "", 0);
    return b->failed ? pq_fail_nomem(e) : 0;
}

/* Those as a text that is never NULL; or an exit status. */
static int provenance_options(struct parser *p)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_buf b = {0};
    const int rc = add_all_given(p, &b, &e);

    if (rc == 0)
        p->c->prov_options = b.s != NULL ? b.s : pq_strndup("", 0);
    else
        pq_buf_release(&b);
    if (rc == 0 && p->c->prov_options != NULL)
        return GOES_ON;
    cmd_msg(p->c, "%s", rc ? e.msg : "out of memory");
    return CMD_TROUBLE;
}

/* ---- The life of a command ------------------------------------------- */

/* The whole command line: an exit status, or GOES_ON. */
static int parse(struct parser *p, int argc, char **argv)
{
    struct cmd *c = p->c;

    if (make_tables(p) != 0) {
        cmd_msg(c, "out of memory");
        return CMD_TROUBLE;
    }
    if (apply_environment(c) != 0)
        return CMD_TROUBLE;
    int status = parse_options(p, argc, argv);
    if (status == GOES_ON && p->version) {
        cmd_version(c->tool, c->verbose > 0, stdout);
        return CMD_OK;
    }
    if (status == GOES_ON)
        status = take_operands(c, argc, argv);
    return status == GOES_ON ? provenance_options(p) : status;
}

static int run(struct cmd *c)
{
    struct pq_error e = PQ_ERROR_INIT;
    const int status = c->tool->run(c, &e);

    cmd_progress_end();
    if (status == CMD_TROUBLE)
        cmd_forward_failure(c, &e);
    /* Of a signal its own death says enough. */
    if (status == CMD_TROUBLE && e.code != PQ_OK &&
        !(e.code == PQ_ECANCEL && cmd_cancel != 0))
        cmd_msg(c, "%s", e.msg);
    return status;
}

int cmd_finish(const struct cmd *c, int status)
{
    struct pq_error e = PQ_ERROR_INIT;

    if (cmd_close_stdout(&e) != 0 && status != CMD_TROUBLE) {
        cmd_msg(c, "%s", e.msg);
        status = CMD_TROUBLE;
    }
    cmd_signals_exit();
    return status;
}

int cmd_main(const struct pq_tool *tool, int argc, char **argv)
{
    char program[64];
    struct cmd c = {.tool = tool, .program = program, .sync = true,
                    .provenance = true,
                    .state = pq_zalloc(1, tool->state_bytes)};
    struct parser p = {.c = &c};
    int status = CMD_TROUBLE;

    snprintf(program, sizeof program, "pq-%s", tool->name);
    if (c.state == NULL)
        cmd_msg(&c, "out of memory");
    else if ((status = parse(&p, argc, argv)) == GOES_ON)
        status = run(&c);

    if (c.state != NULL && tool->release != NULL)
        tool->release(c.state);
    free(c.state);
    free((void *)(uintptr_t)c.prov_options);
    cmd_content_release(&c);
    free(c.match.items);
    free(c.exclude.items);
    free(c.sides.items);
    free(p.all);
    free(p.longs);
    free(p.letters);
    free(p.given);
    return cmd_finish(&c, status);
}
