/*
 * What the contract tests need and a shell cannot do: odd safetensors files,
 * terminals, signals at a moment, peak memory, and thousands of runs on
 * damaged input in a few seconds.  `helper` alone lists what it can do.
 *
 * Nothing of pq is linked in: the files are made and cut by what the
 * specifications say.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pty.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static _Noreturn void die(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fputs("helper: ", stderr);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    exit(99);
}

static void *must(void *p)
{
    if (!p)
        die("out of memory");
    return p;
}

/* splitmix64: the same numbers everywhere. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static uint64_t load64(const unsigned char *p)
{
    uint64_t v = 0;

    for (int i = 7; i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

static unsigned char *load(const char *path, size_t *n)
{
    struct stat st;
    FILE *f = fopen(path, "rb");

    if (!f || fstat(fileno(f), &st) != 0)
        die("%s: %s", path, strerror(errno));
    *n = (size_t)st.st_size;
    unsigned char *p = must(malloc(*n + 1));
    if (fread(p, 1, *n, f) != *n)
        die("%s: cannot be read", path);
    p[*n] = 0;
    fclose(f);
    return p;
}

static void save(const char *path, const void *p, size_t n)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

    if (fd < 0 || write(fd, p, n) != (ssize_t)n || close(fd) != 0)
        die("%s: %s", path, strerror(errno));
}

/* ---- safetensors ----------------------------------------------------- */

struct tensor {
    char *name, *dtype, *shape, *fill;
    uint64_t elements, bytes;
};

static unsigned dtype_bytes(const char *d)
{
    static const struct { const char *name; unsigned bytes; } all[] = {
        {"F64", 8}, {"I64", 8}, {"F32", 4}, {"I32", 4}, {"F16", 2},
        {"BF16", 2}, {"I8", 1}, {"U8", 1}, {"BOOL", 1}};

    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(all[i].name, d) == 0)
            return all[i].bytes;
    die("dtype %s?", d);
}

/* "NAME=F32[4,64]rand"; the name goes between quotes as it is. */
static struct tensor parse_tensor(const char *text)
{
    struct tensor t;
    char *s = must(strdup(text)), *open_ = strrchr(s, '['),
         *close_ = strrchr(s, ']');
    char *eq = NULL;

    for (char *p = s; open_ && p < open_; p++)
        if (*p == '=')
            eq = p;
    if (!open_ || !close_ || !eq)
        die("tensor '%s'?", text);
    *eq = *open_ = *close_ = '\0';
    t = (struct tensor){s, eq + 1, open_ + 1, close_ + 1, 1, 0};
    for (char *p = t.shape; *p;) {
        t.elements *= strtoull(p, &p, 10);
        p += *p == ',';
    }
    t.bytes = t.elements * dtype_bytes(t.dtype);
    return t;
}

/* A float with a plain pattern, as the dtype stores it; integers: bits. */
static void put_value(const char *dtype, float v, unsigned char *p)
{
    uint32_t u;

    memcpy(&u, &v, 4);
    if (strcmp(dtype, "BF16") == 0) {
        p[0] = (unsigned char)(u >> 16);
        p[1] = (unsigned char)(u >> 24);
    } else if (strcmp(dtype, "F32") == 0) {
        for (int i = 0; i < 4; i++)
            p[i] = (unsigned char)(u >> 8 * i);
    } else {
        memset(p, 0, dtype_bytes(dtype));
        p[0] = u >> 16 & 1;
    }
}

static float value(const struct tensor *t, uint64_t i, uint64_t *state)
{
    const bool last = i + 1 == t->elements;

    if (strcmp(t->fill, "nan") == 0 && last)
        return strtof("nan", NULL);
    if (strcmp(t->fill, "inf") == 0 && last)
        return strtof("inf", NULL);
    if (strcmp(t->fill, "big") == 0 && last)
        return 1e6f;
    if (strcmp(t->fill, "step") == 0)
        return (float)(i / 64 % 4 + 1) * 0.25f;
    return (float)(int64_t)(next_random(state) >> 40) / (1 << 24) - 0.5f;
}

static void write_body(FILE *f, const struct tensor *t, uint64_t *state)
{
    const unsigned size = dtype_bytes(t->dtype);
    unsigned char page[4096];

    if (t->fill[0] == '\0') { /* a hole, with a value or two at its start */
        uint64_t some = t->elements < 1024 ? t->elements : 1024;
        for (uint64_t i = 0; i < some; i++) {
            put_value(t->dtype, value(t, i, state), page);
            fwrite(page, size, 1, f);
        }
        if (fseeko(f, (off_t)((t->elements - some) * size), SEEK_CUR) != 0)
            die("%s", strerror(errno));
        return;
    }
    size_t used = 0;
    for (uint64_t i = 0; i < t->elements; i++) {
        put_value(t->dtype, value(t, i, state), page + used);
        used += size;
        if (used == sizeof page || i + 1 == t->elements) {
            fwrite(page, 1, used, f);
            used = 0;
        }
    }
}

static void write_safetensors(const char *path, const char *metadata,
                              const struct tensor *t, size_t n)
{
    char *head;
    size_t n_head;
    FILE *h = must(open_memstream(&head, &n_head));
    uint64_t at = 0, state = 1;

    fprintf(h, "{\"__metadata__\":{\"format\":\"pt\"%s%s}",
            metadata ? "," : "", metadata ? metadata : "");
    for (size_t i = 0; i < n; i++) {
        fprintf(h, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],"
                   "\"data_offsets\":[%llu,%llu]}",
                t[i].name, t[i].dtype, t[i].shape, (unsigned long long)at,
                (unsigned long long)(at + t[i].bytes));
        at += t[i].bytes;
    }
    fputc('}', h);
    fflush(h);
    while (n_head % 8) {
        fputc(' ', h);
        fflush(h);
    }
    fclose(h);

    FILE *f = fopen(path, "wb");
    if (!f)
        die("%s: %s", path, strerror(errno));
    for (int i = 0; i < 8; i++)
        fputc((int)((uint64_t)n_head >> 8 * i & 255), f);
    fwrite(head, 1, n_head, f);
    for (size_t i = 0; i < n; i++)
        write_body(f, &t[i], &state);
    fflush(f);
    if (ftruncate(fileno(f), (off_t)(8 + n_head + at)) != 0 || fclose(f) != 0)
        die("%s: %s", path, strerror(errno));
    free(head);
}

/* st FILE [-m '"key":"value"'] NAME=DTYPE[SHAPE]FILL ... */
static int cmd_st(int argc, char **argv)
{
    const char *path = argv[0], *metadata = NULL;
    int i = 1;

    if (i + 1 < argc && strcmp(argv[i], "-m") == 0) {
        metadata = argv[i + 1];
        i += 2;
    }
    const size_t n = (size_t)(argc - i);
    struct tensor *t = must(calloc(n + 1, sizeof *t));
    for (size_t k = 0; k < n; k++)
        t[k] = parse_tensor(argv[i + (int)k]);
    write_safetensors(path, metadata, t, n);
    return 0;
}

/* many FILE N BYTES-A-TENSOR: names as a large model has them. */
static int cmd_many(int argc, char **argv)
{
    (void)argc;
    const size_t n = strtoull(argv[1], NULL, 10);
    struct tensor *t = must(calloc(n, sizeof *t));

    for (size_t i = 0; i < n; i++) {
        char text[128];
        snprintf(text, sizeof text, "model.layers.%zu.w%zu.weight=F32[%s]%s",
                 i / 10, i % 10, argv[2], argv[3]);
        t[i] = parse_tensor(text);
    }
    write_safetensors(argv[0], NULL, t, n);
    return 0;
}

/* ---- Children -------------------------------------------------------- */

static int exit_status(int status)
{
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int wait_for(pid_t pid, struct rusage *u)
{
    int status;

    while (wait4(pid, &status, 0, u) < 0)
        if (errno != EINTR)
            die("wait: %s", strerror(errno));
    return exit_status(status);
}

static _Noreturn void become(char **argv)
{
    execvp(argv[0], argv);
    fprintf(stderr, "helper: %s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

static pid_t must_fork(void)
{
    const pid_t pid = fork();

    if (pid < 0)
        die("fork: %s", strerror(errno));
    return pid;
}

/* tty CMD...: standard output is a terminal; what it got goes to ours. */
static int cmd_tty(int argc, char **argv)
{
    int master, slave;
    char buf[4096];
    ssize_t n;

    (void)argc;
    if (openpty(&master, &slave, NULL, NULL, NULL) != 0)
        die("openpty: %s", strerror(errno));
    const pid_t pid = must_fork();
    if (pid == 0) {
        dup2(slave, 1);
        close(slave);
        close(master);
        become(argv);
    }
    close(slave);
    while ((n = read(master, buf, sizeof buf)) > 0)
        if (write(1, buf, (size_t)n) != n)
            break;
    return wait_for(pid, NULL);
}

/* epipe default|ignore CMD...: reads one byte of its output, then closes. */
static int cmd_epipe(int argc, char **argv)
{
    int fds[2];
    char byte;

    (void)argc;
    if (pipe(fds) != 0)
        die("pipe: %s", strerror(errno));
    const pid_t pid = must_fork();
    if (pid == 0) {
        signal(SIGPIPE, strcmp(argv[0], "ignore") == 0 ? SIG_IGN : SIG_DFL);
        dup2(fds[1], 1);
        close(fds[0]);
        close(fds[1]);
        become(argv + 1);
    }
    close(fds[1]);
    if (read(fds[0], &byte, 1) < 0)
        die("read: %s", strerror(errno));
    close(fds[0]);
    return wait_for(pid, NULL);
}

/* killed SIGNAL MICROSECONDS CMD...: 128 + n where it died of a signal. */
static int cmd_killed(int argc, char **argv)
{
    (void)argc;
    const int sig = atoi(argv[0]);
    const useconds_t delay = (useconds_t)atoi(argv[1]);
    const pid_t pid = must_fork();

    if (pid == 0) {
        signal(SIGINT, SIG_DFL); /* a background job of bash has it ignored */
        signal(SIGQUIT, SIG_DFL);
        become(argv + 2);
    }
    usleep(delay);
    kill(pid, sig);
    return wait_for(pid, NULL);
}

/* ignoring SIGNAL MICROSECONDS CMD...: it comes, and is inherited ignored. */
static int cmd_ignoring(int argc, char **argv)
{
    (void)argc;
    const int sig = atoi(argv[0]);

    signal(sig, SIG_IGN); /* before the fork: the child never is without */
    const pid_t pid = must_fork();
    if (pid == 0)
        become(argv + 2);
    usleep((useconds_t)atoi(argv[1]));
    kill(pid, sig);
    return wait_for(pid, NULL);
}

/* rss FILE CMD...: the peak resident set in KiB goes into FILE. */
static int cmd_rss(int argc, char **argv)
{
    struct rusage u;
    char text[32];

    (void)argc;
    const pid_t pid = must_fork();
    if (pid == 0)
        become(argv + 1);
    const int rc = wait_for(pid, &u);
    save(argv[0], text,
         (size_t)snprintf(text, sizeof text, "%ld\n", u.ru_maxrss));
    return rc;
}

/* ---- JSON ------------------------------------------------------------ */

struct json {
    const unsigned char *p, *end;
    const char *key; /* of the outermost object, whose value is printed */
    int depth;
    bool found;
};

static void blanks(struct json *j)
{
    while (j->p < j->end && strchr(" \t\r\n", *j->p) && *j->p)
        j->p++;
}

static bool literal(struct json *j, const char *s)
{
    const size_t n = strlen(s);

    if ((size_t)(j->end - j->p) < n || memcmp(j->p, s, n) != 0)
        return false;
    j->p += n;
    return true;
}

/* One character of UTF-8, not overlong, no surrogate. */
static bool utf8(struct json *j)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char c = *j->p;
    const int n = c < 0x80 ? 1 : c >> 5 == 6 ? 2 : c >> 4 == 14 ? 3
                  : c >> 3 == 30 ? 4 : 0;
    uint32_t v = n == 1 ? c : n ? c & (0x7fu >> n) : 0;

    if (n == 0 || j->end - j->p < n)
        return false;
    for (int i = 1; i < n; i++) {
        if (j->p[i] >> 6 != 2)
            return false;
        v = v << 6 | (j->p[i] & 63u);
    }
    j->p += n;
    return n == 1 || (v >= least[n] && v <= 0x10ffff &&
                      (v < 0xd800 || v > 0xdfff));
}

static bool string(struct json *j)
{
    if (!literal(j, "\""))
        return false;
    while (j->p < j->end && *j->p != '"') {
        if (*j->p < 0x20)
            return false;
        if (*j->p != '\\') {
            if (!utf8(j))
                return false;
            continue;
        }
        if (j->end - j->p < 2)
            return false;
        const int c = j->p[1];
        j->p += 2;
        if (c == 'u') {
            for (int i = 0; i < 4; i++, j->p++)
                if (j->p >= j->end || !*j->p ||
                    !strchr("0123456789abcdefABCDEF", *j->p))
                    return false;
        } else if (!c || !strchr("\"\\/bfnrt", c)) {
            return false;
        }
    }
    return literal(j, "\"");
}

static size_t digits(struct json *j)
{
    size_t n = 0;

    for (; j->p < j->end && *j->p >= '0' && *j->p <= '9'; n++)
        j->p++;
    return n;
}

static bool number(struct json *j)
{
    (void)literal(j, "-");
    if (!literal(j, "0") && digits(j) == 0)
        return false;
    if (literal(j, ".") && digits(j) == 0)
        return false;
    if (literal(j, "e") || literal(j, "E")) {
        if (!literal(j, "+"))
            (void)literal(j, "-");
        return digits(j) > 0;
    }
    return true;
}

static bool json_value(struct json *j);

static bool member(struct json *j, bool object)
{
    bool wanted = false;

    blanks(j);
    if (object) {
        const unsigned char *k = j->p;
        if (!string(j))
            return false;
        const size_t n = (size_t)(j->p - k) - 2;
        wanted = j->depth == 1 && j->key && strlen(j->key) == n &&
                 memcmp(j->key, k + 1, n) == 0;
        blanks(j);
        if (!literal(j, ":"))
            return false;
    }
    blanks(j);
    const unsigned char *v = j->p;
    if (!json_value(j))
        return false;
    if (wanted) {
        printf("%.*s\n", (int)(j->p - v), (const char *)v);
        j->found = true;
    }
    blanks(j);
    return true;
}

static bool json_value(struct json *j)
{
    const bool object = j->p < j->end && *j->p == '{';

    if (j->p >= j->end)
        return false;
    if (!object && *j->p != '[')
        return *j->p == '"' ? string(j)
                            : literal(j, "true") || literal(j, "false") ||
                                  literal(j, "null") || number(j);
    const char *end = object ? "}" : "]";
    if (++j->depth > 100)
        return false;
    j->p++;
    blanks(j);
    if (!literal(j, end)) {
        do
            if (!member(j, object))
                return false;
        while (literal(j, ","));
        if (!literal(j, end))
            return false;
    }
    j->depth--;
    return true;
}

/* json FILE [KEY]: one strict document; prints the value of KEY. */
static int cmd_json(int argc, char **argv)
{
    size_t n;
    unsigned char *text = load(argv[0], &n);
    struct json j = {text, text + n, argc > 1 ? argv[1] : NULL, 0, false};

    blanks(&j);
    if (!json_value(&j))
        die("%s: no JSON at byte %td of %zu", argv[0], j.p - text, n);
    blanks(&j);
    if (j.p != j.end)
        die("%s: more than one document, at byte %td", argv[0], j.p - text);
    if (j.key && !j.found)
        die("%s: no key %s", argv[0], j.key);
    return 0;
}

/* ---- Damage ---------------------------------------------------------- */

static int by_number(const void *a, const void *b)
{
    const size_t x = *(const size_t *)a, y = *(const size_t *)b;

    return (x > y) - (x < y);
}

/* Where a safetensors file can be cut between things. */
static size_t cuts_of_safetensors(const unsigned char *p, size_t n, size_t *at)
{
    const uint64_t head = load64(p);
    size_t k = 0;

    at[k++] = 7;
    at[k++] = 8;
    at[k++] = 8 + head;
    for (const char *s = (const char *)p + 8, *e = s + head;
         (s = memmem(s, (size_t)(e - s), "data_offsets\":[", 15)); s++) {
        const char *comma = strchr(s + 15, ',');
        at[k++] = 8 + head + strtoull(comma + 1, NULL, 10);
    }
    (void)n;
    return k;
}

/* Of a stream: its header, and what each record is made of. */
static size_t cuts_of_stream(const unsigned char *p, size_t n, size_t *at)
{
    size_t pos = 64, k = 0;

    at[k++] = 64;
    while (pos + 128 <= n) {
        const uint64_t head = load64(p + pos + 8), body = load64(p + pos + 16);
        at[k++] = pos + 64;
        pos += 64 + (head + 63) / 64 * 64;
        at[k++] = pos;
        at[k++] = pos + body;
        pos += (body + 8 + 63) / 64 * 64;
        at[k++] = pos;
    }
    return k;
}

static size_t cut_points(const unsigned char *p, size_t n, size_t **points)
{
    size_t *at = must(calloc(n + 256, sizeof *at)), m;
    uint64_t state = 7;

    m = n > 8 && memcmp(p, "\x89PQT", 4) == 0 ? cuts_of_stream(p, n, at)
                                             : cuts_of_safetensors(p, n, at);
    at[m++] = 0;
    at[m++] = 1;
    at[m++] = n - 1;
    for (int i = 0; i < 64; i++)
        at[m++] = next_random(&state) % n;
    qsort(at, m, sizeof *at, by_number);
    size_t kept = 0;
    for (size_t i = 0; i < m; i++)
        if (at[i] < n && (kept == 0 || at[kept - 1] != at[i]))
            at[kept++] = at[i];
    *points = at;
    return kept;
}

/* A command that is run again and again on other input. */
struct trial {
    char **cmd;
    const char *dir;   /* the scratch folder: input, and a folder for OUT */
    const char *out;   /* the output's name, or NULL */
    char input[PATH_MAX], output[PATH_MAX], outdir[PATH_MAX];
    bool pipe;
    int bad;           /* the exit status of refusal */
    bool lenient;      /* 0, 1 and 2 are all right */
    const char *so;    /* LD_PRELOAD, or NULL */
    char said[512];    /* the start of what it said on stderr */
    size_t lines;
};

static const char old_output[] = "the output of yesterday\n";

/* How many entries the output folder has. */
static int count_entries(const char *path)
{
    DIR *d = opendir(path);
    int n = 0;

    if (!d)
        die("%s: %s", path, strerror(errno));
    for (struct dirent *e; (e = readdir(d));)
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(d);
    return n;
}

static bool holds(const char *path, const void *bytes, size_t n)
{
    struct stat st;

    if (stat(path, &st) != 0 || (size_t)st.st_size != n)
        return false;
    size_t got;
    unsigned char *p = load(path, &got);
    const bool same = got == n && memcmp(p, bytes, n) == 0;
    free(p);
    return same;
}

static int stdin_of(const struct trial *t, const unsigned char *p, size_t n)
{
    int fds[2];

    if (!t->pipe)
        return open("/dev/null", O_RDONLY);
    if (pipe(fds) != 0 || fcntl(fds[1], F_SETPIPE_SZ, 1 << 20) < 0 ||
        write(fds[1], p, n) != (ssize_t)n)
        die("pipe: %s", strerror(errno));
    close(fds[1]);
    return fds[0];
}

static void read_said(struct trial *t, int fd)
{
    char buf[8192];
    const ssize_t n = pread(fd, buf, sizeof buf - 1, 0);

    buf[n > 0 ? n : 0] = '\0';
    t->lines = 0;
    for (const char *s = buf; (s = strchr(s, '\n')); s++)
        t->lines++;
    buf[strcspn(buf, "\n")] = '\0';
    snprintf(t->said, sizeof t->said, "%.500s", buf);
}

/* Runs it with `p` as input; 124 when it takes longer than 20 s. */
static int run_trial(struct trial *t, const unsigned char *p, size_t n,
                     const char *fault)
{
    const int in = stdin_of(t, p, n), err = memfd_create("stderr", MFD_CLOEXEC);

    if (in < 0 || err < 0)
        die("%s", strerror(errno));
    const pid_t pid = must_fork();
    if (pid == 0) {
        const int null = open("/dev/null", O_WRONLY);
        dup2(in, 0);
        dup2(null, 1);
        dup2(err, 2);
        close(in);
        close(null);
        alarm(20);
        if (t->so) {
            setenv("LD_PRELOAD", t->so, 1);
            setenv("PQ_FAIL", fault, 1);
        }
        become(t->cmd);
    }
    close(in);
    const int rc = wait_for(pid, NULL);
    read_said(t, err);
    close(err);
    return rc;
}

/* Puts the old output there, or nothing. */
static void prepare(struct trial *t, bool old)
{
    if (!t->out)
        return;
    if (old)
        save(t->output, old_output, sizeof old_output - 1);
    else
        unlink(t->output);
}

/* What is wrong after a run that failed, or NULL. */
static const char *after_failure(const struct trial *t, bool old)
{
    if (!t->out)
        return NULL;
    const int n = count_entries(t->outdir);
    if (!old && n != 0)
        return access(t->output, F_OK) == 0 ? "an output file is left"
                                            : "a temporary file is left";
    if (old && !holds(t->output, old_output, sizeof old_output - 1))
        return "the old output was touched";
    return n == old ? NULL : "a temporary file is left";
}

static void report(const struct trial *t, const char *what, int rc,
                   const char *fmt, ...)
{
    va_list ap;

    printf("%s (rc %d; ", what, rc);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("; said: %.200s):", t->said);
    for (char **c = t->cmd; *c; c++)
        printf(" %s", *c);
    printf("%s\n", t->pipe ? " <the input" : "");
}

/*
 * damage cut|flip file|pipe BAD|any DIR OUT|- INPUT CMD...: in CMD, @IN is
 * the damaged input and @OUT the output.  One line for each thing wrong.
 */
static void setup_trial(struct trial *t, char **cmd)
{
    snprintf(t->input, sizeof t->input, "%s/input", t->dir);
    snprintf(t->outdir, sizeof t->outdir, "%s/out", t->dir);
    snprintf(t->output, sizeof t->output, "%s/out/%s", t->dir,
             t->out ? t->out : "");
    mkdir(t->dir, 0755);
    mkdir(t->outdir, 0755);
    for (char **c = cmd; *c; c++) {
        if (strcmp(*c, "@IN") == 0)
            *c = t->input;
        else if (strcmp(*c, "@OUT") == 0)
            *c = t->output;
    }
    t->cmd = cmd;
}

static const char *verdict(const struct trial *t, int rc, bool old)
{
    if (rc >= 124)
        return "it crashed or hung";
    if (t->lenient ? rc > 2 : rc != t->bad)
        return rc == 0 ? "damage was accepted" : "the wrong exit status";
    if (rc == 2 && t->lines != 1)
        return "it did not say so in one line";
    return rc ? after_failure(t, old) : NULL;
}

static int cmd_damage(int argc, char **argv)
{
    const bool cut = strcmp(argv[0], "cut") == 0;
    struct trial t = {.dir = argv[3], .pipe = strcmp(argv[1], "pipe") == 0,
                      .lenient = strcmp(argv[2], "any") == 0,
                      .bad = atoi(argv[2]),
                      .out = strcmp(argv[4], "-") ? argv[4] : NULL};
    size_t n, *points = NULL, wrong = 0;
    unsigned char *p = load(argv[5], &n);

    (void)argc;
    setup_trial(&t, argv + 6);
    const size_t m = cut ? cut_points(p, n, &points) : n;
    for (size_t i = 0; i < m && wrong < 5; i++) {
        const size_t at = cut ? points[i] : i;
        const unsigned char bit = (unsigned char)(1u << (i * 5 + i / 8) % 8);
        const bool old = i & 1;
        prepare(&t, old);
        if (!cut)
            p[at] ^= bit;
        const size_t length = cut ? at : n;
        save(t.input, p, length);
        const int rc = run_trial(&t, p, length, NULL);
        const char *what = verdict(&t, rc, old);
        if (what) {
            wrong++;
            if (cut)
                report(&t, what, rc, "head -c %zu %s", at, argv[5]);
            else
                report(&t, what, rc, "byte %zu ^ 0x%02x of %s", at, bit,
                       argv[5]);
        }
        if (!cut)
            p[at] ^= bit;
    }
    return wrong ? 1 : 0;
}

/*
 * faults SO KIND[+] DIR OUT|- INPUT EXPECTED CMD...: the first, second, ...
 * call of KIND fails (with +: and all after it), until none does.
 */
static int cmd_faults(int argc, char **argv)
{
    struct trial t = {.so = argv[0], .dir = argv[2],
                      .out = strcmp(argv[3], "-") ? argv[3] : NULL};
    char mark[PATH_MAX], fault[64], kind[32];
    size_t n_in, n_right = 0, wrong = 0;
    unsigned char *in = load(argv[4], &n_in);
    unsigned char *right = t.out ? load(argv[5], &n_right) : NULL;
    int i = 1;

    (void)argc;
    setup_trial(&t, argv + 6);
    save(t.input, in, n_in);
    snprintf(mark, sizeof mark, "%s/mark", t.dir);
    setenv("PQ_FAIL_MARK", mark, 1);
    snprintf(kind, sizeof kind, "%s", argv[1]);
    const bool all = kind[strlen(kind) - 1] == '+';
    kind[strcspn(kind, "+")] = '\0';
    for (; i < 20000 && wrong < 5; i++) {
        const bool old = i & 1;
        prepare(&t, old);
        unlink(mark);
        snprintf(fault, sizeof fault, "%s:%d%s", kind, i, all ? "+" : "");
        const int rc = run_trial(&t, in, n_in, fault);
        const bool hit = access(mark, F_OK) == 0;
        const char *what = rc >= 124              ? "it crashed or hung"
                           : !hit && rc != 0      ? "it fails without a fault"
                           : rc != 0 && rc != 2   ? "the wrong exit status"
                           : rc == 2 && !t.lines  ? "it said nothing"
                           : rc == 2              ? after_failure(&t, old)
                           : t.out && !holds(t.output, right, n_right)
                               ? "success, but the wrong bytes"
                           : t.out && count_entries(t.outdir) != 1
                               ? "a temporary file is left"
                               : NULL;
        if (what) {
            wrong++;
            report(&t, what, rc, "PQ_FAIL=%s", fault);
        }
        if (!hit)
            break;
    }
    if (i == 20000)
        printf("no end: %s never stops to fail\n", argv[1]);
    return wrong || i == 20000 ? 1 : 0;
}

static const struct {
    const char *name;
    int args;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"st", 1, cmd_st},           {"many", 4, cmd_many},
    {"tty", 1, cmd_tty},         {"epipe", 2, cmd_epipe},
    {"killed", 3, cmd_killed},   {"ignoring", 3, cmd_ignoring},
    {"rss", 2, cmd_rss},         {"json", 1, cmd_json},
    {"damage", 7, cmd_damage},   {"faults", 7, cmd_faults},
};

int main(int argc, char **argv)
{
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (argc >= 2 + commands[i].args &&
            strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 2, argv + 2);
    fputs("helper st|many|tty|epipe|killed|ignoring|rss|json|damage|faults\n",
          stderr);
    return 99;
}
