/*
 * Chat templates, inside: the tree that a template is read into, the values
 * it works on, and what the parts offer each other.
 *
 *     chat_lex.c    characters -> tokens        chat_value.c   truth, order
 *     chat_parse.c  statements -> tree          chat_print.c   str(), JSON
 *     chat_expr.c   expressions -> tree         chat_text.c    strings
 *     chat_atom.c   their closest parts
 *     chat_run.c    statements are run          chat_method.c  "a".strip()
 *     chat_eval.c   expressions are computed    chat_filter.c  x | trim
 *     chat_math.c   + - ~ < in [a:b]            chat_lists.c   x | map(..)
 *     chat_call.c   functions, macros           chat_test.c    x is defined
 *     chat_json.c   JSON -> values              chat_open.c    files -> chat
 *     chat.c        a conversation -> text      chat_mask.c    -> ids, mask
 *
 * Values live in the arena of a run and are never freed singly.
 */
#ifndef NN_CHAT_H
#define NN_CHAT_H

#include "pq_chat.h"
#include "token.h"

#define CHAT_DEPTH  100u /* brackets and blocks in each other, in a template */
#define CHAT_NESTED 64u  /* lists in lists, of values */
#define CHAT_CALLS  64u  /* macros in macros */
#define CHAT_FRAMES 500u /* nodes below each other while they are run */

/* ---- the tree ----------------------------------------------------------- */

enum chat_op {
    /* statements */
    CHAT_TEXT,     /* text */
    CHAT_PRINT,    /* a */
    CHAT_IF,       /* a: condition, b: body, c: else */
    CHAT_FOR,      /* a: target, b: of, c: body, d: else, e: if */
    CHAT_SET,      /* a: target, b: value */
    CHAT_SET_TEXT, /* a: target, b: filters of CHAT_HOLE or NULL, c: body */
    CHAT_DEFINE,   /* a macro: text, a: parameters, b: body */
    CHAT_WITH,     /* a: CHAT_SETs, b: body */
    CHAT_FILTERED, /* a: filters of CHAT_HOLE, b: body */
    CHAT_BLOCK,    /* a: a call, b: the macro "caller" that it gets */
    CHAT_SPAN,     /* a: body that the model is to write */
    CHAT_BREAK,
    CHAT_CONTINUE,
    /* expressions */
    CHAT_CONST,  /* value of a kind */
    CHAT_NAME,   /* text */
    CHAT_GET,    /* a . text */
    CHAT_ITEM,   /* a [ b ] */
    CHAT_SLICE,  /* a [ b : c : d ] */
    CHAT_CALL,   /* a ( b: arguments ) */
    CHAT_FILTER, /* a | text ( b ) */
    CHAT_TEST,   /* a is text ( b ) */
    CHAT_ARG,    /* text: its name, "*", "**" or none; a */
    CHAT_MAKE_LIST,
    CHAT_MAKE_TUPLE, /* a: elements; also a target of several names */
    CHAT_MAKE_DICT,  /* a: key, value, key, value, ... */
    CHAT_CHOOSE,     /* a if b else c */
    CHAT_AND,
    CHAT_OR,
    CHAT_NOT,
    CHAT_MINUS,
    CHAT_PLUS,
    CHAT_BINARY,  /* a text b */
    CHAT_COMPARE, /* a, then b: CHAT_BINARYs with text and a only */
    CHAT_HOLE     /* what a block gave, before its filters */
};

enum chat_type {
    CHAT_ABSENT, /* an argument that was not given */
    CHAT_UNDEFINED,
    CHAT_NONE,
    CHAT_BOOL,
    CHAT_INT,
    CHAT_FLOAT,
    CHAT_STRING,
    CHAT_LIST,
    CHAT_TUPLE,
    CHAT_DICT,
    CHAT_NAMESPACE,
    CHAT_LOOP,
    CHAT_MACRO,
    CHAT_FUNCTION,
    CHAT_METHOD
};

struct chat_value {
    enum chat_type type;
    bool safe; /* a string that | safe marked */
    union {
        bool b;
        int64_t i;
        double f;
        struct tok_text s; /* a string; what is undefined */
        struct chat_list *list;
        struct chat_dict *dict; /* also of a namespace */
        struct chat_loop *loop;
        struct chat_macro *macro;
        struct chat_method *method;
        int function;
    };
};

struct chat_node {
    enum chat_op op;
    unsigned line;
    struct tok_text text;
    struct chat_value value;
    struct chat_node *a, *b, *c, *d, *e;
    struct chat_node *next; /* of a list */
};

/* Python's views of dicts and generators are lists that can do less. */
enum chat_lazy { CHAT_PLAIN, CHAT_VIEW, CHAT_GENERATOR };

struct chat_list {
    struct chat_value *v; /* [n] */
    size_t n, cap;
    enum chat_lazy lazy;
    bool used; /* a generator that was gone through */
};

struct chat_pair {
    struct chat_value key, value;
};

struct chat_dict {
    struct chat_pair *p; /* [n], in the order of arrival */
    size_t n, cap;
};

struct chat_scope {
    struct chat_scope *outer;
    struct chat_dict names;
};

struct chat_loop {
    const struct chat_list *of;
    size_t at;
    struct chat_list changed; /* of the last loop.changed() */
};

struct chat_macro {
    const struct chat_node *node;
    struct chat_scope *scope; /* where it was defined */
};

struct chat_method {
    struct chat_value of;
    struct tok_text name;
};

struct chat_args {
    struct chat_value *v; /* [n] */
    size_t n;
    struct chat_dict named;
};

struct pq_chat {
    struct pq_arena arena;
    struct chat_node *body;
    struct tok_text *names; /* [n_names] special tokens: "bos_token", */
    struct tok_text *texts; /* [n_names] their texts */
    size_t n_names;
    bool spans; /* has {% generation %} */
};

/* ---- chat_lex.c --------------------------------------------------------- */

enum chat_token {
    CHAT_T_TEXT,
    CHAT_T_BLOCK,     /* {% */
    CHAT_T_BLOCK_END, /* %} */
    CHAT_T_PRINT,     /* {{ */
    CHAT_T_PRINT_END, /* }} */
    CHAT_T_NAME,
    CHAT_T_STRING, /* with its quotes */
    CHAT_T_INT,
    CHAT_T_FLOAT,
    CHAT_T_OP,
    CHAT_T_END
};

struct chat_lexer {
    const char *s; /* [n], newlines are \n */
    size_t n, at;
    unsigned line;
    enum chat_token inside; /* _BLOCK or _PRINT, or _TEXT */
    unsigned open;          /* brackets */
    bool line_start;        /* the tag before ended with a newline */
    enum chat_token kind;   /* of the current token, */
    struct tok_text text;   /* its text */
    struct pq_error *e;
};

PQ_MUST_USE int chat_lex(struct chat_lexer *x);
/* Copies a template with newlines as Jinja has them. */
PQ_MUST_USE int chat_lex_begin(struct chat_lexer *x, struct pq_arena *a,
                               const char *s, size_t n, struct pq_error *e);

/* ---- chat_parse.c, chat_expr.c, chat_atom.c ----------------------------- */

struct chat_parser {
    struct chat_lexer x;
    struct pq_chat *chat;
    unsigned depth, loops;
    struct pq_error *e;
};

/* Fails with the line. */
int chat_wrong(struct chat_parser *p, const char *fmt, ...) PQ_PRINTF(2, 3);
struct chat_node *chat_new(struct chat_parser *p, enum chat_op op);
PQ_MUST_USE int chat_step(struct chat_parser *p); /* to the next token */
bool chat_at(const struct chat_parser *p, enum chat_token kind, const char *s);
/* Steps over a token that must be there, or that may be. */
PQ_MUST_USE int chat_need(struct chat_parser *p, enum chat_token kind,
                          const char *s);
PQ_MUST_USE int chat_may(struct chat_parser *p, enum chat_token kind,
                         const char *s, bool *was);
/* One more bracket or block around; chat_up() undoes it. */
PQ_MUST_USE int chat_down(struct chat_parser *p);
void chat_up(struct chat_parser *p);
/* An expression; with `tuples` a, b is one; with `conditions` a if b. */
PQ_MUST_USE int chat_expression(struct chat_parser *p, bool tuples,
                                bool conditions, struct chat_node **out);
/* What binds closest, and what stands behind it: .a [a] (a). */
PQ_MUST_USE int chat_primary(struct chat_parser *p, struct chat_node **out);
PQ_MUST_USE int chat_postfix(struct chat_parser *p, struct chat_node **out);
/* Arguments behind their "(". */
PQ_MUST_USE int chat_arguments(struct chat_parser *p, struct chat_node **last);
/* A call behind its "("; a node above *out, whose rest `parse` reads. */
PQ_MUST_USE int chat_call_of(struct chat_parser *p, struct chat_node *x);
PQ_MUST_USE int chat_above(struct chat_parser *p, struct chat_node **out,
                           int (*parse)(struct chat_parser *p,
                                        struct chat_node *x));
/* One more operator in a row of so many. */
PQ_MUST_USE int chat_chain(struct chat_parser *p, unsigned *length);
/* A part of an expression: what is read there becomes *out. */
typedef int chat_part(struct chat_parser *p, struct chat_node **out);
/* What stands behind *out, as long as `next` finds more: 1; 0 is no more. */
PQ_MUST_USE int chat_series(struct chat_parser *p, struct chat_node **out,
                            chat_part *next);
/* Names to assign to: a, b or (with `attributes`) a.b. */
PQ_MUST_USE int chat_target(struct chat_parser *p, bool attributes,
                            struct chat_node **out);
/* | a | b(c) behind `in`. */
PQ_MUST_USE int chat_filters(struct chat_parser *p, struct chat_node *in,
                             bool first, struct chat_node **out);
PQ_MUST_USE int chat_parse(struct pq_chat *c, const char *s, size_t n,
                           struct pq_error *e);

/* ---- a run -------------------------------------------------------------- */

enum chat_flow { CHAT_GO_ON, CHAT_LEAVE, CHAT_NEXT };

struct chat_run {
    struct pq_arena arena;
    uint64_t bytes, steps; /* so far */
    unsigned line;         /* of what is being worked on */
    unsigned calls, frames;
    struct chat_scope *scope;
    struct pq_buf *out;
    bool inner; /* `out` is not the text itself */
    enum chat_flow flow;
    struct chat_value hole;
    const struct tm *now;
    struct pq_chat_spans *spans; /* or NULL */
    struct pq_error *e;
};

/* Fails with the line; returns -1. */
int chat_fail(struct chat_run *r, enum pq_code code, const char *fmt, ...)
    PQ_PRINTF(3, 4);
/* n steps are about to be done. */
PQ_MUST_USE int chat_spend(struct chat_run *r, uint64_t n);
/* Bytes are about to be kept. */
PQ_MUST_USE int chat_count(struct chat_run *r, uint64_t bytes);
/* n steps on a text that will be kept, and grows meanwhile. */
PQ_MUST_USE int chat_spend_on(struct chat_run *r, const struct pq_buf *b,
                              uint64_t n);
/* Memory of a run, zeroed; NULL when there is none, or too much was taken. */
PQ_MUST_USE void *chat_take(struct chat_run *r, size_t n, size_t size);

/* ---- chat_value.c ------------------------------------------------------- */

struct chat_value chat_none(void);
struct chat_value chat_bool(bool b);
struct chat_value chat_int(int64_t i);
struct chat_value chat_float(double f);
struct chat_value chat_string(const char *s, size_t n); /* borrowed */
struct chat_value chat_word(const char *s);
struct chat_value chat_undefined(const char *s, size_t n);
/* The text of a buffer, which is released, as a value of the run. */
PQ_MUST_USE int chat_keep(struct chat_run *r, struct pq_buf *b,
                          struct chat_value *out);
PQ_MUST_USE int chat_new_list(struct chat_run *r, enum chat_type type,
                              struct chat_value *out);
/* The same with what a generator would give. */
PQ_MUST_USE int chat_new_generator(struct chat_run *r, struct chat_value *out);
PQ_MUST_USE int chat_add(struct chat_run *r, struct chat_list *l,
                         struct chat_value v);
PQ_MUST_USE int chat_new_dict(struct chat_run *r, enum chat_type type,
                              struct chat_value *out);
PQ_MUST_USE int chat_put(struct chat_run *r, struct chat_dict *d,
                         struct chat_value key, struct chat_value v);
/* 1 and the value under a key, 0, or -1. */
PQ_MUST_USE int chat_find(struct chat_run *r, const struct chat_dict *d,
                          struct chat_value key, struct chat_value *out);
bool chat_is(struct tok_text t, const char *s);
/* Bytes of a text that a message shows: whole characters, at most so many. */
int chat_shown(struct tok_text t, size_t most);
bool chat_truth(struct chat_value v);
bool chat_is_number(struct chat_value v); /* bool among them */
double chat_as_float(struct chat_value v);
const char *chat_type_name(struct chat_value v);
/* Fails where it is a view or a generator, which cannot do that. */
PQ_MUST_USE int chat_plain(struct chat_run *r, struct chat_value v);
/* Fails where it is undefined, naming it. */
PQ_MUST_USE int chat_defined(struct chat_run *r, struct chat_value v);
PQ_MUST_USE int chat_equal(struct chat_run *r, struct chat_value a,
                           struct chat_value b, bool *equal);
/* <0, 0, >0 in *order; fails where the two have none. */
PQ_MUST_USE int chat_order(struct chat_run *r, struct chat_value a,
                           struct chat_value b, int *order);
/* What iterating gives, a list or the one that it is. */
PQ_MUST_USE int chat_elements(struct chat_run *r, struct chat_value v,
                              struct chat_list **out);
PQ_MUST_USE int chat_length(struct chat_run *r, struct chat_value v,
                            int64_t *n);

/* ---- chat_print.c ------------------------------------------------------- */

/* As Python's str() and repr(). */
PQ_MUST_USE int chat_str(struct chat_run *r, struct chat_value v,
                         struct pq_buf *b);
PQ_MUST_USE int chat_to_string(struct chat_run *r, struct chat_value v,
                               struct chat_value *out);

struct chat_json_style {
    int indent;                /* or -1 */
    struct tok_text item, key; /* separators */
    bool sort, ascii;
};
PQ_MUST_USE int chat_to_json(struct chat_run *r, struct chat_value v,
                             const struct chat_json_style *j, unsigned depth,
                             struct pq_buf *b);

/* ---- chat_text.c: strings as Python has them ---------------------------- */

bool chat_is_space(uint32_t c);
size_t chat_characters(struct tok_text t);
/* Bytes of the first k characters. */
size_t chat_bytes(struct tok_text t, size_t k);
/* Where `of` begins in t from `at` on, or t.n + 1. */
size_t chat_search(struct tok_text t, struct tok_text of, size_t at);
struct tok_text chat_strip(struct tok_text t, const struct tok_text *set,
                           bool left, bool right);
/* The same for `what`, with the characters of `set` if it is a text. */
PQ_MUST_USE int chat_strip_value(struct chat_run *r, const char *what,
                                 struct tok_text t, struct chat_value set,
                                 bool left, bool right, struct chat_value *out);
enum chat_case { CHAT_UPPER, CHAT_LOWER, CHAT_TITLE, CHAT_CAPITAL, CHAT_WORDS };
/* WORDS: as the filter title has it, TITLE: as the method. */
PQ_MUST_USE int chat_case(struct chat_run *r, struct tok_text t,
                          enum chat_case how, struct chat_value *out);
PQ_MUST_USE int chat_replace(struct chat_run *r, struct tok_text t,
                             struct tok_text from, struct tok_text to,
                             int64_t most, struct chat_value *out);
/* by NULL: at white space; most < 0: everywhere. */
PQ_MUST_USE int chat_split(struct chat_run *r, struct tok_text t,
                           const struct tok_text *by, int64_t most, bool right,
                           struct chat_value *out);
PQ_MUST_USE int chat_split_lines(struct chat_run *r, struct tok_text t,
                                 struct chat_value *out);

/* ---- chat_eval.c, chat_math.c ------------------------------------------- */

PQ_MUST_USE int chat_eval(struct chat_run *r, const struct chat_node *x,
                          struct chat_value *out);
PQ_MUST_USE int chat_item(struct chat_run *r, struct chat_value of,
                          struct chat_value key, struct chat_value *out);
PQ_MUST_USE int chat_args(struct chat_run *r, const struct chat_node *list,
                          struct chat_args *a);
PQ_MUST_USE int chat_binary(struct chat_run *r, struct tok_text op,
                            struct chat_value a, struct chat_value b,
                            struct chat_value *out);
PQ_MUST_USE int chat_compare(struct chat_run *r, struct tok_text op,
                             struct chat_value a, struct chat_value b,
                             bool *yes);
PQ_MUST_USE int chat_slice(struct chat_run *r, struct chat_value of,
                           const struct chat_value *bounds /* [3] */,
                           struct chat_value *out);

/* ---- chat_call.c, chat_method.c ----------------------------------------- */

#define CHAT_PARAMS 4

/*
 * Arguments in the order of the names in `params`, "old new count"; those
 * that are missing CHAT_ABSENT.
 */
PQ_MUST_USE int chat_bind(struct chat_run *r, const char *what,
                          const char *params, const struct chat_args *a,
                          struct chat_value *out /* [CHAT_PARAMS] */);
/* What an argument must be; it keeps its default where it is missing. */
PQ_MUST_USE int chat_want_text(struct chat_run *r, const char *what,
                               struct chat_value v, struct tok_text *t);
PQ_MUST_USE int chat_want_int(struct chat_run *r, const char *what,
                              struct chat_value v, int64_t *i);
/* The function with this name, or -1. */
int chat_function_named(const struct chat_run *r, struct tok_text name);
PQ_MUST_USE int chat_call(struct chat_run *r, struct chat_value f,
                          const struct chat_args *a, struct chat_value *out);
/* 1: values of this kind have the method, 0, or -1: it is not allowed. */
PQ_MUST_USE int chat_has_method(struct chat_run *r, struct chat_value of,
                                struct tok_text name);
PQ_MUST_USE int chat_call_method(struct chat_run *r,
                                 const struct chat_method *m,
                                 const struct chat_args *a,
                                 struct chat_value *out);
/* chat_run.c */
PQ_MUST_USE int chat_run_body(struct chat_run *r, const struct chat_node *x);
PQ_MUST_USE int chat_call_macro(struct chat_run *r, const struct chat_macro *m,
                                const struct chat_args *a,
                                struct chat_value *out);
PQ_MUST_USE int chat_declare(struct chat_run *r, struct tok_text name,
                             struct chat_value v);
PQ_MUST_USE int chat_call_block(struct chat_run *r, const struct chat_node *x,
                                struct chat_value caller,
                                struct chat_value *out);
PQ_MUST_USE int chat_enter(struct chat_run *r, struct chat_scope *outer);

/* ---- filters and tests -------------------------------------------------- */

struct chat_filter {
    const char *name;
    const char *params; /* NULL: takes them as they come */
    int (*f)(struct chat_run *r, struct chat_value in,
             const struct chat_value *a /* [CHAT_PARAMS] */,
             const struct chat_args *all, struct chat_value *out);
};

extern const struct chat_filter chat_filters_of_text[]; /* name NULL: end */
extern const struct chat_filter chat_filters_of_lists[];
PQ_MUST_USE int chat_apply(struct chat_run *r, struct tok_text filter,
                           struct chat_value in, const struct chat_args *a,
                           struct chat_value *out);
PQ_MUST_USE int chat_test(struct chat_run *r, struct tok_text test,
                          struct chat_value in, const struct chat_args *a,
                          bool *yes);
/* Are there such?  A template that names others is refused when read. */
const struct chat_filter *chat_filter_named(struct tok_text name);
bool chat_has_test(struct tok_text name);

/* ---- chat_mask.c -------------------------------------------------------- */

PQ_MUST_USE int chat_add_span(struct pq_chat_spans *s, size_t from, size_t to,
                              struct pq_error *e);

/* ---- chat_json.c -------------------------------------------------------- */

PQ_MUST_USE int chat_read_json(struct chat_run *r, struct pq_json *j,
                               enum pq_json_type t, struct chat_value *out);

#endif
