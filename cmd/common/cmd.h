/*
 * What the tools share: the option table, the life of a command, messages.
 *
 * A tool is a `const struct pq_tool` in cmd/NAME.c: what it is called, what
 * it is for, its options, and run().  The one table of options yields the
 * parser, --help, the completions, the provenance line and the check of the
 * man page.  cmd/main.c is the only main(); cmd/common/tools.c lists the
 * tools.
 */
#ifndef CMD_H
#define CMD_H

#include "pq_kernels.h"
#include "pq_engine.h"
#include "pq_format.h"
#include "pq_mem.h"

#include <stdio.h>

#define PQ_VERSION "0.1.0"

/* Exit status: done, the answer is no, trouble. */
enum { CMD_OK = 0, CMD_NO = 1, CMD_TROUBLE = 2 };

enum cmd_option_flags {
    CMD_CHANGES_OUTPUT = 1u << 0, /* goes into the provenance line */
    CMD_REPEATS = 1u << 1,        /* may be given more than once */
    CMD_ARG_OPTIONAL = 1u << 2,   /* -z or -z3, --compress or --compress=3 */
    CMD_ARG_CONTENT = 1u << 3,    /* a text: provenance holds its digest */
    CMD_ARG_FILE = 1u << 4,       /* so it does of a file of any size */
    CMD_BRIEF = 1u << 5 /* --help only names it, if not all have room */
};

/* Shared options a tool takes (bits of pq_tool.shared); -h -V always. */
enum cmd_shared {
    CMD_OUTPUT = 1u << 0,     /* -o FILE -O FORMAT -f --no-sync */
    CMD_DRY_RUN = 1u << 1,    /* -n */
    CMD_SELECT = 1u << 2,     /* -m GLOB -x GLOB */
    CMD_ENGINE = 1u << 3,     /* -T N --memory SIZE --progress WHEN */
    CMD_JSON = 1u << 4,       /* --json */
    CMD_SEED = 1u << 5,       /* --seed N */
    CMD_PROVENANCE = 1u << 6, /* --no-provenance */
    CMD_VERBOSITY = 1u << 7   /* -q -v */
};

/* What stands for the shared options in pq_tool tables: from 1000 on. */
enum cmd_shared_id {
    CMD_ID_OUTPUT = 1000, CMD_ID_FORMAT, CMD_ID_FORCE, CMD_ID_NO_SYNC,
    CMD_ID_DRY_RUN, CMD_ID_MATCH, CMD_ID_EXCLUDE, CMD_ID_THREADS,
    CMD_ID_MEMORY, CMD_ID_PROGRESS, CMD_ID_JSON, CMD_ID_SEED,
    CMD_ID_NO_PROVENANCE, CMD_ID_QUIET, CMD_ID_VERBOSE, CMD_ID_HELP,
    CMD_ID_VERSION, CMD_ID_COMPLETION
};

struct cmd_option {
    int letter;         /* 't', or 0 for a long option only */
    const char *name;   /* "type" */
    const char *arg;    /* "TYPE", or NULL when it takes none */
    const char *help;   /* one line, no full stop */
    const char *values; /* space-separated, for completion; or NULL: files */
    unsigned flags;
    int id; /* what pq_tool.option() gets; 1 to 999, unique in the tool */
};

struct cmd;

struct pq_tool {
    const char *name;     /* "quantize" */
    const char *purpose;  /* one line, for --help and `pq` */
    const char *synopsis; /* "[options] [MODEL]" */
    const struct cmd_option *options; /* own, ended by name == NULL */
    unsigned shared;                  /* enum cmd_shared */
    unsigned max_operands;            /* more is a usage error */
    const char *const *examples;      /* two lines, NULL-terminated */
    size_t state_bytes;               /* zeroed, as cmd->state */
    /*
     * An own option was given; value NULL if it takes none.  What it fails
     * with is a usage error: two lines, the option is put before it.
     */
    int (*option)(struct cmd *c, int id, const char *value,
                  struct pq_error *e);
    /*
     * Does the job.  Returns an exit status; CMD_TROUBLE has *e set, or has
     * been explained with cmd_usage().
     */
    int (*run)(struct cmd *c, struct pq_error *e);
    /* Frees what the state has, also when no job came of it; or NULL. */
    void (*release)(void *state);
};

struct cmd_list {
    const char **items;
    size_t n, cap;
};

/* A file that an option names, see content.c. */
struct cmd_content {
    const char *path;
    struct pq_buf text;
};

struct cmd {
    const struct pq_tool *tool;
    const char *program; /* "pq-quantize" */
    void *state;         /* the tool's own, from its options */

    const char **operands;
    size_t n_operands;

    const char *output;        /* -o, or NULL */
    const char *output_format; /* -O, or NULL */
    bool force, dry_run, quiet, json, sync, provenance;
    int verbose;
    unsigned threads; /* resolved: >= 1 */
    uint64_t memory;  /* bytes for buffers: three quarters of --memory */
    bool memory_given;
    const char *tmpdir; /* TMPDIR, or NULL */
    const struct pq_kernels *kernels; /* PQ_CPU, or the best; never NULL */
    uint64_t seed;
    bool seed_given;
    struct cmd_list match, exclude;
    struct cmd_content *contents; /* [n_contents] what was read of options */
    size_t n_contents, cap_contents;
    int progress_when; /* 0 auto, 1 always, 2 never */
    bool began; /* some output was begun */
    struct cmd_list sides; /* the paths of further outputs */
    const char *plan_more; /* for the JSON of -n, ",\"key\":..."; or NULL */
    const char *prov_options; /* "-t nf4 --double-quant": what changes output */
};

/* ---- args.c ---------------------------------------------------------- */

/*
 * Parses, answers --help, --version and --completion=SHELL, runs the tool,
 * prints the one line of a failure, closes stdout.  Returns the exit status.
 */
int cmd_main(const struct pq_tool *tool, int argc, char **argv);

/*
 * Closes stdout (a loss there makes the status CMD_TROUBLE, with a line), and
 * dies of the signal that came, if one did.  cmd_main() has done it.
 */
int cmd_finish(const struct cmd *c, int status);

/* ---- values.c -------------------------------------------------------- */

/*
 * "64", "4K", "2.5GiB" -> bytes (K, KB and KiB are all 1024); "12" -> number
 * in [min, max]; "0.5" -> real in [min, max]; or fail.
 */
PQ_MUST_USE int cmd_size(const char *s, uint64_t *v, struct pq_error *e);
PQ_MUST_USE int cmd_number(const char *s, uint64_t min, uint64_t max,
                           uint64_t *v, struct pq_error *e);
PQ_MUST_USE int cmd_real(const char *s, double min, double max, double *v,
                         struct pq_error *e);
/* Which of `words`, "auto always never", s is, from 0; or fail. */
PQ_MUST_USE int cmd_one_of(const char *s, const char *words, int *v,
                           struct pq_error *e);
PQ_MUST_USE int cmd_list_add(struct cmd_list *l, const char *s,
                             struct pq_error *e);

/* ---- content.c ------------------------------------------------------- */

/* Is a path "-", standard input or output?  NULL is not. */
bool cmd_is_standard(const char *path);
/* Is operand 0 standard input, named or for want of one? */
bool cmd_input_is_stdin(const struct cmd *c);
/* A usage error where both the model and `data` (or NULL) are. */
int cmd_check_data(const struct cmd *c, const char *data);

/*
 * All of a small file that an option names, "-" of standard input; NULL on
 * failure.  It is read once; the command keeps it, the pointer is good until
 * the next call.
 */
const struct pq_buf *cmd_content(struct cmd *c, const char *path,
                                 struct pq_error *e);
/* Has standard input been read for that? */
bool cmd_content_was_stdin(const struct cmd *c);
void cmd_content_release(struct cmd *c);
/*
 * Writes a small file, a picture, whole or not at all; `path` "-" or NULL is
 * standard output.
 */
PQ_MUST_USE int cmd_write_content(const struct cmd *c, const char *path,
                                  const struct pq_buf *text,
                                  struct pq_error *e);

/* ---- help.c ---------------------------------------------------------- */

/*
 * The tool's own options, then the shared ones it takes, as one table.  The
 * caller frees it; NULL when memory is short.
 */
struct cmd_option *cmd_all_options(const struct pq_tool *tool, size_t *n);
void cmd_help(const struct pq_tool *tool, FILE *f);
void cmd_version(const struct pq_tool *tool, bool verbose, FILE *f);

/* ---- complete.c ------------------------------------------------------ */

/* For bash, zsh or fish; -1 when the shell is unknown. */
int cmd_completion(const struct pq_tool *tool, const char *shell, FILE *f);
/* The same for pq itself, which leaves the rest to those of the tools. */
int cmd_completion_of_all(const char *shell, FILE *f);

/* ---- tools.c --------------------------------------------------------- */

extern const struct pq_tool tool_info, tool_convert, tool_quantize,
    tool_dequantize, tool_merge, tool_extract, tool_verify, tool_diff,
    tool_patch, tool_prune, tool_eval, tool_generate, tool_train, tool_prompt;
extern const struct pq_tool *const cmd_tools[]; /* NULL-terminated */
const struct pq_tool *cmd_tool_named(const char *name);

/* ---- msg.c ----------------------------------------------------------- */

/*
 * "PROGRAM: message" on stderr, in one write, control characters masked but
 * for newlines.  Of the command only its name is used.
 */
void cmd_msg(const struct cmd *c, const char *fmt, ...) PQ_PRINTF(2, 3);
/* Two lines on stderr, for usage errors; returns CMD_TROUBLE. */
int cmd_usage(const struct cmd *c, const char *fmt, ...) PQ_PRINTF(2, 3);
/* Text on stdout; a write error is remembered and makes the exit status 2. */
void cmd_print(const char *fmt, ...) PQ_PRINTF(1, 2);
void cmd_print_n(const char *s, size_t n);
void cmd_flush(void); /* what was printed is to be seen now */
/* The same of a buffer, which is released; fails where memory was short. */
PQ_MUST_USE int cmd_print_buf(struct pq_buf *b, struct pq_error *e);
/* Control characters in s[0..n) become '?'. */
void cmd_mask(char *s, size_t n);
/* Flushes and closes stdout; -1 with the reason when anything was lost. */
PQ_MUST_USE int cmd_close_stdout(struct pq_error *e);

/* ---- signals.c ------------------------------------------------------- */

/* fds 0-2 open, SIGPIPE at its default, INT TERM HUP kill or set the flag. */
void cmd_signals_init(void);
extern volatile int cmd_cancel; /* the signal that came, or 0 */
/*
 * From here on, or from here on no longer, there is something that a dead
 * command would leave behind: INT, TERM and HUP only set cmd_cancel.
 */
void cmd_guard(bool on);
/* Dies of the signal that came, if one did, so that the parent sees it. */
void cmd_signals_exit(void);

/* ---- progress.c ------------------------------------------------------ */

/* For pq_run.progress; arg is the cmd.  Shows a bar on a terminal. */
void cmd_progress(void *arg, uint64_t done, uint64_t total);
/*
 * The same of steps; `tokens` are those of this run.  Call it before, too:
 * from then on the line is theirs, and cmd_progress() shows nothing.
 */
void cmd_progress_steps(const struct cmd *c, uint64_t done, uint64_t total,
                        uint64_t tokens, double loss);
/* Clears the bar's line; a signal handler may, too. */
void cmd_progress_end(void);

/* ---- select.c -------------------------------------------------------- */

/* -m and -x: no -m selects all; `*` matches dots too. */
bool cmd_selected(const struct cmd *c, const char *tensor);
/* Shell-like match: * ? [a-z]; the whole name must match. */
bool cmd_glob(const char *pattern, const char *name);

/* ---- model.c: what every tool that reads or writes a model does -------- */

/*
 * Opens operand i (or "-" when there are none) through the registry; what is
 * encoded in several entries becomes one tensor (pq_fold), or is left as the
 * file has it (plain).
 */
PQ_MUST_USE int cmd_open_input(struct cmd *c, size_t i, struct pq_source **s,
                               struct pq_error *e);
PQ_MUST_USE int cmd_open_plain(struct cmd *c, size_t i, struct pq_source **s,
                               struct pq_error *e);
/* Makes one tensor of what is encoded in several entries, as there. */
PQ_MUST_USE int cmd_fold(const struct cmd *c, struct pq_source *s,
                         struct pq_error *e);
/*
 * As cmd_open_plain(), for several runs; what a pipe brings is kept, and what
 * memory that takes is no longer in c->memory.
 */
PQ_MUST_USE int cmd_open_kept(struct cmd *c, size_t i, struct pq_source **s,
                              struct pq_error *e);
/* Makes that of a source that cmd_open_plain() opened. */
PQ_MUST_USE int cmd_keep(struct cmd *c, struct pq_source **s,
                         struct pq_error *e);
/* A pattern of -m that matches nothing is a mistake, not an empty job. */
PQ_MUST_USE int cmd_check_selection(const struct cmd *c,
                                    const struct pq_source *s,
                                    struct pq_error *e);
/*
 * load.c: makes of an adapter one that can be read in any order; what is
 * sequential is copied, and its share of c->memory is gone.
 */
PQ_MUST_USE int cmd_load(struct cmd *c, struct pq_source **s,
                         struct pq_error *e);
/*
 * Copies plain tensors, those that `wants` is true for or all (NULL), into a
 * made source.
 */
PQ_MUST_USE int cmd_copy(struct cmd *c, struct pq_source *from,
                         bool (*wants)(const void *arg,
                                       const struct pq_tensor *t),
                         const void *arg, struct pq_source *to,
                         struct pq_error *e);
/*
 * Decides format and place of the output from -o, -O, the input and what
 * stdout is; adds provenance; makes the sink.  Refuses a terminal.  Of `w`
 * (NULL: all zero) sync, threads and cancel are filled in here.  Sets
 * out->directory.  -1 without *e set: a usage error, explained already.
 */
PQ_MUST_USE int cmd_make_sink(struct cmd *c, struct pq_catalog *out,
                              const struct pq_write_options *w,
                              const struct pq_catalog *in,
                              struct pq_sink **k, struct pq_error *e);
/*
 * A further output, a file named in an option ("-": standard output, if the
 * model goes elsewhere): its format from the suffix, its provenance and the
 * rest as above.  For pq_plan.sides, in the order of the calls.
 */
PQ_MUST_USE int cmd_make_side(struct cmd *c, const char *path,
                              struct pq_catalog *out,
                              const struct pq_catalog *in, struct pq_sink **k,
                              struct pq_error *e);
/* ---- target.c -------------------------------------------------------- */

/*
 * Fails where an adapter would take the place of a model, or a model that of
 * an adapter.  cmd_make_sink() asks.
 */
PQ_MUST_USE int cmd_check_target(const struct pq_catalog *out,
                                 const char *path, struct pq_error *e);
/* Fails where the output `path` is a directory among operands, or in one. */
PQ_MUST_USE int cmd_check_outside(const struct cmd *c, const char *path,
                                  struct pq_error *e);

/*
 * The same for what is no model and goes beside the output, a picture or a
 * mask: fails as well where it is an operand itself, and where no file can be.
 */
PQ_MUST_USE int cmd_check_beside(const struct cmd *c, const char *path,
                                 struct pq_error *e);
/* Fails where it is `read`, a further input (or NULL), or in this directory. */
PQ_MUST_USE int cmd_check_spares(const char *path, const char *read,
                                 struct pq_error *e);
/* Fails where `path` is the output, or in it: one would take the other's. */
PQ_MUST_USE int cmd_check_apart(const struct cmd *c, const char *path,
                                struct pq_error *e);

/* ---- model.c again ----------------------------------------------------- */

/*
 * An upstream failure that was met before the first byte went out (scales
 * are looked for before anything is written): the next program in the pipe
 * gets an empty stream that says why, else it would only find nothing.
 */
void cmd_forward_failure(const struct cmd *c, const struct pq_error *why);
/* Runs the plan with -T, --memory and progress; with -n prints the plan. */
PQ_MUST_USE int cmd_run_plan(struct cmd *c, struct pq_plan *p,
                             struct pq_error *e);
/* A plan that is a part of the work, not the output: runs it with -n, too. */
PQ_MUST_USE int cmd_run_part(struct cmd *c, struct pq_plan *p,
                             struct pq_error *e);

#endif
