/*
 * pq-diff and pq-patch themselves, on small files.
 */
#include <criterion/criterion.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pq_mem.h"

static char bin[4096], root[4096], dir[64];

/* Where the programs are beside the tests, and a place to work. */
static void begin(void)
{
    char self[4096];
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

    cr_assert(n > 0);
    self[n] = '\0';
    *strrchr(self, '/') = '\0';
    snprintf(bin, sizeof bin, "%.4000s/../bin", self);
    cr_assert(access(bin, X_OK) == 0, "%s: the programs are not built", bin);
    cr_assert(getcwd(root, sizeof root)); /* of the sources */
    snprintf(dir, sizeof dir, "/tmp/pq-diff-XXXXXX");
    cr_assert(mkdtemp(dir));
}

/* Runs a command in bash, in our place, with the programs found first. */
static int run(const char *fmt, ...)
{
    char text[2048], all[8192];
    va_list ap;

    va_start(ap, fmt);
    const int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    cr_assert(n >= 0 && (size_t)n < sizeof text);
    snprintf(all, sizeof all,
             "cd %s && export PATH=%s:$PATH && (%s) >out 2>err", dir, bin,
             text);
    const int status = system(all);
    cr_assert(WIFEXITED(status), "%s", text);
    return WEXITSTATUS(status);
}

static void end(void)
{
    run("rm -rf *");
    cr_expect_eq(rmdir(dir), 0);
}

static unsigned char *slurp(const char *name, size_t *n)
{
    char path[256];
    struct stat st;

    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "rb");
    cr_assert(f && fstat(fileno(f), &st) == 0, "%s", path);
    unsigned char *p = malloc((size_t)st.st_size + 1);
    *n = fread(p, 1, (size_t)st.st_size, f);
    p[*n] = '\0';
    fclose(f);
    return p;
}

static bool said(const char *file, const char *what)
{
    size_t n;
    char *text = (char *)slurp(file, &n);
    const bool found = strstr(text, what) != NULL;

    if (!found)
        cr_log_error("%s holds: %s", file, text);
    free(text);
    return found;
}

static uint32_t draw(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*seed >> 33);
}

/* A safetensors file from rows "NAME DTYPE N BYTES", data from a seed. */
struct row {
    const char *name, *dtype;
    unsigned n, size;
    uint64_t seed, change; /* change: add 1 to every so manieth byte */
};

static void model(const char *name, const struct row *rows, size_t n)
{
    static unsigned char data[1 << 16];
    struct pq_buf head = {0};
    size_t used = 0;

    pq_buf_add(&head, (const char[8]){0}, 8); /* its length, below */
    pq_buf_puts(&head, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = 0; i < n; i++) {
        const size_t bytes = (size_t)rows[i].n * rows[i].size;
        cr_assert_leq(bytes, sizeof data - used);
        pq_buf_printf(
            &head,
            ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%u],\"data_offsets\":"
            "[%zu,%zu]}",
            rows[i].name, rows[i].dtype, rows[i].n, used, used + bytes);
        uint64_t seed = rows[i].seed;
        for (size_t k = 0; k < bytes; k++, used++)
            data[used] = (unsigned char)(draw(&seed) % 100 +
                                         (rows[i].change &&
                                          k % rows[i].change == 0));
    }
    pq_buf_puts(&head, "}");
    while (head.n % 8)
        pq_buf_puts(&head, " ");
    cr_assert(!head.failed);
    for (int i = 0; i < 8; i++)
        head.s[i] = (char)((head.n - 8) >> 8 * i);
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    cr_assert(f && fwrite(head.s, 1, head.n, f) == head.n &&
              fwrite(data, 1, used, f) == used);
    fclose(f);
    pq_buf_release(&head);
}

static const struct row base[] = {
    {"model.l.0.w", "F32", 300, 4, 1, 0}, {"model.l.1.w", "BF16", 500, 2, 2, 0},
    {"gone", "F16", 10, 2, 3, 0},         {"ids", "I64", 5, 8, 4, 0},
    {"same", "BF16", 2000, 2, 5, 0},      {"empty", "F32", 0, 4, 6, 0}};
static const struct row tuned[] = {
    {"same", "BF16", 2000, 2, 5, 0},      {"model.l.0.w", "F32", 300, 4, 1, 4},
    {"model.l.1.w", "BF16", 500, 2, 2, 6}, {"new", "F16", 40, 2, 7, 0},
    {"ids", "I64", 7, 8, 4, 0},           {"empty", "F32", 0, 4, 6, 0}};

static void two_models(void)
{
    begin();
    model("a.safetensors", base, 6);
    model("b.safetensors", tuned, 6);
}

Test(diff_tools, exit_status_and_report)
{
    two_models();
    cr_expect_eq(run("pq-diff a.safetensors a.safetensors"), 0);
    cr_expect(said("out", "0 of 6 tensors differ"));
    cr_expect_eq(run("pq-diff a.safetensors b.safetensors"), 1);
    cr_expect(said("out", "only in A"));
    cr_expect(said("out", "only in B"));
    cr_expect(said("out", "other shape"));
    cr_expect(said("out", "5 of 7 tensors differ"));
    cr_expect_eq(run("pq-diff -q a.safetensors b.safetensors && exit 9; "
                     "test $? = 1 -a ! -s out -a ! -s err"), 0);
    cr_expect_eq(run("pq-diff -m same -m empty a.safetensors b.safetensors"),
                 0);
    cr_expect_eq(run("pq-diff -m 'model*' a.safetensors b.safetensors"), 1);
    cr_expect_eq(run("pq-diff -m 'm*' --tolerance 1e30 a.safetensors "
                     "b.safetensors"), 0);
    cr_expect_eq(run("pq-diff --json a.safetensors b.safetensors"), 1);
    cr_expect(said("out", "\"same\":false"));
    cr_expect(said("out", "\"relative_frobenius\":"));
    cr_expect_eq(run("pq-diff a.safetensors"), 2);
    cr_expect_eq(run("pq-diff a.safetensors none.safetensors"), 2);
    cr_expect_eq(run("pq-diff - - <a.safetensors"), 2);
    cr_expect_eq(run("cat b.safetensors | pq-diff a.safetensors -"), 1);
    cr_expect_eq(run("cat a.safetensors | pq-diff - a.safetensors"), 0);
    cr_expect_eq(run("pq-convert -z3 a.safetensors -o a.pq && "
                     "cat a.pq | pq-diff - a.safetensors"), 0);
    cr_expect_eq(run("pq-diff --plot h.svg a.safetensors b.safetensors"), 1);
    cr_expect_eq(run("grep -c '<title>model.l.1.w ' h.svg"), 0);
    end();
}

Test(diff_tools, encoded_models_are_compared_as_values)
{
    begin();
    cr_assert_eq(run("cp -r %.1000s/testdata/tiny-llama m", root), 0);
    cr_assert_eq(run("pq-quantize -t nf4 m -o q/ && pq-dequantize -t f32 q "
                     "-o f/ && pq-convert -z q -o q.pq"), 0);
    cr_expect_eq(run("pq-diff q f"), 0);
    cr_expect_eq(run("pq-diff q q.pq"), 0);
    cr_expect_eq(run("cat q.pq | pq-diff f -"), 0);
    cr_expect_eq(run("pq-diff m q"), 1);
    cr_expect_eq(run("pq-diff q m --delta d.pq && pq-patch q d.pq -o r/ && "
                     "cmp r/model.safetensors m/model.safetensors; "
                     "pq-diff m r && cmp r/config.json m/config.json"), 0);
    cr_expect_eq(run("pq-diff m q --delta d.pq && pq-patch m d.pq -o r/ && "
                     "cmp r/model.safetensors q/model.safetensors && "
                     "cmp r/config.json q/config.json"), 0);
    end();
}

static const char round_trip[] =
    "pq-patch a.safetensors d.pq -o c.safetensors && "
    "pq-convert --no-provenance b.safetensors -o want.safetensors && "
    "cmp c.safetensors want.safetensors";

Test(diff_tools, patch_restores_the_other_model)
{
    two_models();
    cr_expect_eq(run("pq-diff a.safetensors b.safetensors --delta d.pq && "
                     "test ! -s out -a ! -s err"), 0);
    cr_expect_eq(run("pq-info d.pq | grep -c same"), 0); /* by name only */
    cr_expect_eq(run("! pq-info d.pq | grep -E '^(U|B).* same$'"), 0);
    cr_expect_eq(run("%s", round_trip), 0);
    cr_expect_eq(run("cp d.pq d1.pq; cat b.safetensors | pq-diff -T1 "
                     "a.safetensors - --delta d.pq && cmp d.pq d1.pq"), 0);
    cr_expect_eq(run("cat a.safetensors | pq-diff - b.safetensors --delta - "
                     "| cmp - d1.pq"), 0);
    cr_expect_eq(run("cat a.safetensors | pq-patch - d.pq -o c2.safetensors "
                     "&& cmp c.safetensors c2.safetensors"), 0);
    cr_expect_eq(run("cat d.pq | pq-patch -T3 a.safetensors - -o "
                     "c3.safetensors && cmp c.safetensors c3.safetensors"), 0);
    cr_expect_eq(run("pq-convert -z a.safetensors -o a.pq; pq-diff a.pq "
                     "b.safetensors --delta d2.pq && pq-patch a.pq d2.pq -o "
                     "c4.safetensors && cmp c.safetensors c4.safetensors"), 0);
    cr_expect_eq(run("pq-diff a.safetensors a.safetensors --delta d0.pq && "
                     "pq-patch a.safetensors d0.pq -o c5.safetensors && "
                     "pq-diff a.safetensors c5.safetensors"), 0);
    end();
}

Test(diff_tools, a_dry_run_of_a_delta)
{
    two_models();
    cr_expect_eq(run("pq-diff -n --delta d.pq a.safetensors b.safetensors && "
                     "test ! -e d.pq"), 0);
    cr_expect(said("out", "\nat most "));
    cr_expect_eq(run("pq-diff -n --json --delta d.pq a.safetensors "
                     "b.safetensors && test ! -e d.pq"), 0);
    cr_expect(said("out", ",\"bytes_max\":"));
    cr_expect_eq(run("pq-diff --json --delta d.pq a.safetensors "
                     "b.safetensors"), 2);
    cr_expect_eq(run("pq-diff -n a.safetensors b.safetensors"), 2);
    end();
}

Test(diff_tools, a_prefix_may_be_missing)
{
    begin();
    const struct row a[] = {{"transformer.h.0.w", "F32", 30, 4, 1, 0},
                            {"lm_head", "F32", 3, 4, 2, 0}};
    const struct row b[] = {{"h.0.w", "F32", 30, 4, 1, 0},
                            {"lm_head", "F32", 3, 4, 2, 3}};
    model("a.safetensors", a, 2);
    model("b.safetensors", b, 2);
    cr_expect_eq(run("pq-diff -v a.safetensors b.safetensors"), 1);
    cr_expect(said("out", "1 of 2 tensors differ;"));
    cr_expect_eq(run("pq-diff a.safetensors b.safetensors --delta d.pq"), 0);
    cr_expect_eq(run("pq-info d.pq | grep -q transformer.h.0.w"), 0);
    cr_expect_eq(run("%s", round_trip), 0);
    end();
}

Test(diff_tools, shards_come_back)
{
    two_models();
    cr_expect_eq(run("pq-convert --shard-size 4K b.safetensors -o b/ && "
                     "test -s b/model.safetensors.index.json && "
                     "echo '{\"a\":1.0}' >b/config.json && "
                     "pq-diff a.safetensors b --delta d.pq && "
                     "pq-patch a.safetensors d.pq -o c && diff -r b c"), 0);
    end();
}

Test(diff_tools, a_wrong_base_is_refused)
{
    two_models();
    struct row other[6];
    memcpy(other, base, sizeof other);
    other[2].seed = 99; /* a tensor that the result does not even have */
    model("x.safetensors", other, 6);
    cr_assert_eq(run("pq-diff a.safetensors b.safetensors --delta d.pq"), 0);
    cr_expect_eq(run("pq-patch x.safetensors d.pq -o c.safetensors"), 2);
    cr_expect(said("err", "not the model that the delta starts from"));
    cr_expect_eq(run("pq-patch b.safetensors d.pq -o c.safetensors"), 2);
    cr_expect_eq(run("pq-patch a.safetensors b.safetensors -o c.safetensors"),
                 2);
    cr_expect(said("err", "is no delta"));
    cr_expect_eq(run("test ! -e c.safetensors"), 0);
    end();
}
