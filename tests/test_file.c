/*
 * Files: inputs that are looked at before they are read, outputs that appear
 * whole or not at all.  Every test works in a directory of its own.
 */
#include "pq_file.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char scratch[64];

static void enter_scratch(void)
{
    snprintf(scratch, sizeof scratch, "/tmp/pq-test-XXXXXX");
    cr_assert(mkdtemp(scratch) != NULL && chdir(scratch) == 0);
    umask(022);
}

static void leave_scratch(void)
{
    char command[96];

    snprintf(command, sizeof command, "rm -rf %s", scratch);
    cr_assert(system(command) == 0);
}

TestSuite(file, .init = enter_scratch, .fini = leave_scratch);

static void put(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");

    cr_assert(f != NULL);
    fputs(text, f);
    fclose(f);
}

/* The file holds exactly this text. */
static bool holds(const char *path, const char *text)
{
    char buf[256] = "";
    FILE *f = fopen(path, "r");

    if (f == NULL)
        return false;
    buf[fread(buf, 1, sizeof buf - 1, f)] = '\0';
    fclose(f);
    return strcmp(buf, text) == 0;
}

/* Entries of a directory, without `.` and `..`. */
static int count(const char *path)
{
    DIR *dir = opendir(path);
    int n = 0;

    while (dir != NULL && readdir(dir) != NULL)
        n++;
    closedir(dir);
    return n - 2;
}

static mode_t mode_of(const char *path)
{
    struct stat st;

    cr_assert(stat(path, &st) == 0);
    return st.st_mode & 0777;
}

/* ---- Inputs ---------------------------------------------------------- */

Test(file, in_regular)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_in in = {0};
    const unsigned char *p;
    char buf[16];
    size_t got;

    put("a", "0123456789");
    cr_assert(pq_in_open(&in, "a", &e) == 0);
    cr_assert(in.regular && in.size == 10 && in.start == 0);
    cr_assert(pq_in_peek(&in, 4, &p, &got, &e) == 0 && got == 4);
    cr_assert(memcmp(p, "0123", 4) == 0);
    cr_assert(pq_in_peek(&in, PQ_PEEK, &p, &got, &e) == 0 && got == 10);
    cr_assert(pq_in_read(&in, buf, 3, &got, &e) == 0 && got == 3);
    cr_assert(memcmp(buf, "012", 3) == 0);
    cr_assert(pq_in_pread(&in, 8, buf, 2, &e) == 0);
    cr_assert(memcmp(buf, "89", 2) == 0);
    cr_assert(pq_in_read(&in, buf, 16, &got, &e) == 0 && got == 7);
    cr_assert(pq_in_read(&in, buf, 16, &got, &e) == 0 && got == 0);
    cr_assert(pq_in_pread(&in, 8, buf, 3, &e) == -1);
    cr_assert(e.code == PQ_ETRUNCATED);
    pq_in_close(&in);
}

Test(file, in_hostile_offset)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_in in = {0};
    char buf[2];

    put("a", "0123456789");
    cr_assert(pq_in_open(&in, "a", &e) == 0);
    cr_assert(pq_in_pread(&in, UINT64_MAX, buf, 2, &e) == -1);
    pq_in_close(&in);
}

Test(file, in_stdin_from_its_position)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_in in = {0};
    char buf[4];

    put("a", "0123456789");
    cr_assert(freopen("a", "r", stdin) != NULL);
    cr_assert(lseek(0, 6, SEEK_SET) == 6);
    cr_assert(pq_in_open(&in, "-", &e) == 0);
    cr_assert(in.regular && in.start == 6 && in.size == 4);
    cr_assert(pq_in_read_all(&in, buf, 4, &e) == 0);
    cr_assert(memcmp(buf, "6789", 4) == 0);
    cr_assert(pq_in_read_all(&in, buf, 1, &e) == -1);
    cr_assert(e.code == PQ_ETRUNCATED);
    pq_in_close(&in);
}

Test(file, in_pipe)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_in in = {0};
    const unsigned char *p;
    char buf[16];
    size_t got;
    int fd[2];

    cr_assert(pipe(fd) == 0 && dup2(fd[0], 0) == 0);
    cr_assert(write(fd[1], "0123456789", 10) == 10);
    cr_assert(close(fd[1]) == 0);
    cr_assert(pq_in_open(&in, "-", &e) == 0 && !in.regular);
    cr_assert(pq_in_peek(&in, 4, &p, &got, &e) == 0 && got == 4);
    cr_assert(pq_in_peek(&in, 64, &p, &got, &e) == 0 && got == 10);
    cr_assert(pq_in_read_all(&in, buf, 3, &e) == 0 && in.at == 3);
    cr_assert(pq_in_read(&in, buf, 16, &got, &e) == 0 && got == 7);
    cr_assert(memcmp(buf, "3456789", 7) == 0 && in.at == 10);
    cr_assert(pq_in_read_all(&in, buf, 1, &e) == -1);
    cr_assert(e.code == PQ_ETRUNCATED);
}

Test(file, in_refused)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_in in = {0};

    cr_assert(pq_in_open(&in, ".", &e) == -1 && e.code == PQ_EARG);
    e = (struct pq_error)PQ_ERROR_INIT;
    cr_assert(pq_in_open(&in, "missing", &e) == -1 && e.sys == ENOENT);
    cr_assert(strstr(e.msg, "missing: ") == e.msg);
}

Test(file, in_of_a_directory)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_in in = {0};

    put("a", "x");
    cr_assert(mkdir("d", 0777) == 0 && mkfifo("d/fifo", 0666) == 0);
    cr_assert(symlink("../a", "d/link") == 0);
    const int dirfd = open("d", O_RDONLY);
    cr_assert(pq_in_open_at(&in, dirfd, "link", &e) == 0 && in.size == 1);
    pq_in_close(&in);
    cr_assert(pq_in_open_at(&in, dirfd, "../a", &e) == -1);
    cr_assert(pq_in_open_at(&in, dirfd, "..", &e) == -1);
    cr_assert(pq_in_open_at(&in, dirfd, "fifo", &e) == -1);
    close(dirfd);
}

static volatile int flag;

static void *raise_flag(void *arg)
{
    usleep(100 * 1000);
    flag = 1;
    return arg;
}

/* The flag is seen although no signal interrupts the thread that waits. */
Test(file, in_cancelled, .timeout = 10)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_in in = {.cancel = &flag};
    pthread_t t;
    char c;
    int fd[2];

    cr_assert(pipe(fd) == 0 && dup2(fd[0], 0) == 0);
    cr_assert(pq_in_open(&in, "-", &e) == 0);
    cr_assert(pthread_create(&t, NULL, raise_flag, NULL) == 0);
    cr_assert(pq_in_read_all(&in, &c, 1, &e) == -1 && e.code == PQ_ECANCEL);
    pthread_join(t, NULL);
}

Test(file, out_cancelled, .timeout = 10)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_out o = {.cancel = &flag};
    static char big[8 << 20];
    pthread_t t;

    cr_assert(mkfifo("f", 0666) == 0);
    const int keep = open("f", O_RDWR);
    cr_assert(pq_out_open(&o, "f", 0, &e) == 0);
    cr_assert(pthread_create(&t, NULL, raise_flag, NULL) == 0);
    cr_assert(pq_out_write(&o, big, sizeof big, &e) == -1);
    cr_assert(e.code == PQ_ECANCEL);
    pq_out_abort(&o);
    pthread_join(t, NULL);
    close(keep);
}

Test(file, stdout_cancelled, .timeout = 10)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_out o = {.cancel = &flag};
    static char big[8 << 20];
    pthread_t t;
    int fd[2];

    cr_assert(pipe(fd) == 0 && dup2(fd[1], 1) == 1);
    cr_assert(pq_out_open(&o, "-", 0, &e) == 0);
    cr_assert(pthread_create(&t, NULL, raise_flag, NULL) == 0);
    cr_assert(pq_out_write(&o, big, sizeof big, &e) == -1);
    cr_assert(e.code == PQ_ECANCEL);
    cr_assert((fcntl(1, F_GETFL) & O_NONBLOCK) == 0);
    pq_out_abort(&o);
    pthread_join(t, NULL);
}

/* ---- Outputs --------------------------------------------------------- */

static struct pq_out written(const char *path, const char *text)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_out o = {0};

    cr_assert(pq_out_open(&o, path, PQ_OUT_SYNC, &e) == 0, "%s", e.msg);
    cr_assert(pq_out_write(&o, text, strlen(text), &e) == 0, "%s", e.msg);
    return o;
}

Test(file, out_new)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_out o = written("a", "new");

    cr_assert(access("a", F_OK) != 0, "it is there before the commit");
    cr_assert(pq_out_commit(&o, &e) == 0);
    pq_out_abort(&o);
    cr_assert(holds("a", "new") && count(".") == 1 && mode_of("a") == 0644);
}

Test(file, out_overwrites)
{
    struct pq_error e = PQ_ERROR_INIT;

    put("a", "old and longer");
    cr_assert(chmod("a", 0640) == 0);
    struct pq_out o = written("a", "new");
    cr_assert(holds("a", "old and longer"));
    cr_assert(pq_out_commit(&o, &e) == 0);
    cr_assert(holds("a", "new") && count(".") == 1 && mode_of("a") == 0640);
}

Test(file, out_aborted)
{
    struct pq_out o = written("b", "new");

    pq_out_abort(&o);
    cr_assert(count(".") == 0);
    put("a", "old");
    o = written("a", "new");
    pq_out_abort(&o);
    cr_assert(holds("a", "old") && count(".") == 1);
}

Test(file, out_after_failure)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_out o = written("a", "x");
    const struct rlimit small = {4096, 4096};
    static char big[8192];

    signal(SIGXFSZ, SIG_IGN);
    cr_assert(setrlimit(RLIMIT_FSIZE, &small) == 0);
    cr_assert(pq_out_write(&o, big, sizeof big, &e) == -1);
    cr_assert(e.sys == EFBIG && strstr(e.msg, "a: ") == e.msg);
    cr_assert(pq_out_commit(&o, &e) == -1);
    cr_assert(count(".") == 0);
}

Test(file, out_full)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_out o = {0};

    cr_assert(pq_out_open(&o, "/dev/full", 0, &e) == 0 && !o.regular);
    cr_assert(pq_out_write(&o, "x", 1, &e) == -1 && e.sys == ENOSPC);
    cr_assert(strstr(e.msg, "/dev/full: ") == e.msg);
    pq_out_abort(&o);
}

Test(file, out_by_position)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_out o = {0};

    cr_assert(pq_out_open(&o, "a", 0, &e) == 0);
    cr_assert(pq_out_reserve(&o, 1 << 20, &e) == 0);
    cr_assert(pq_out_pwrite(&o, 4, "4567", 4, &e) == 0);
    cr_assert(pq_out_pwrite(&o, 0, "0123", 4, &e) == 0);
    pq_out_flush_early(&o, 0, 8);
    cr_assert(pq_out_commit(&o, &e) == 0);
    cr_assert(holds("a", "01234567"));

    struct stat st;
    cr_assert(stat("a", &st) == 0 && st.st_blocks < 2048);
}

Test(file, out_through_links)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct stat st;

    cr_assert(mkdir("d", 0777) == 0);
    put("d/target", "old");
    cr_assert(symlink("d/target", "link") == 0);
    cr_assert(symlink("d/none", "dangling") == 0);
    struct pq_out o = written("link", "new");
    cr_assert(pq_out_commit(&o, &e) == 0);
    cr_assert(lstat("link", &st) == 0 && S_ISLNK(st.st_mode));
    cr_assert(holds("d/target", "new"));
    o = written("dangling", "new");
    cr_assert(pq_out_commit(&o, &e) == 0);
    cr_assert(lstat("dangling", &st) == 0 && S_ISLNK(st.st_mode));
    cr_assert(holds("d/none", "new"));
    cr_assert(symlink("loop", "loop") == 0);
    cr_assert(pq_out_open(&o, "loop", 0, &e) == -1 && e.sys == ELOOP);
}

Test(file, out_through_fifo)
{
    struct pq_error e = PQ_ERROR_INIT;
    char buf[8] = "";
    struct stat st;

    cr_assert(mkfifo("f", 0666) == 0);
    const int fd = open("f", O_RDONLY | O_NONBLOCK);
    struct pq_out o = written("f", "hello");
    cr_assert(!o.regular);
    cr_assert(pq_out_commit(&o, &e) == 0);
    cr_assert(read(fd, buf, 8) == 5 && strcmp(buf, "hello") == 0);
    cr_assert(lstat("f", &st) == 0 && S_ISFIFO(st.st_mode));
    close(fd);
}

Test(file, out_refused)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_out o = {0};

    cr_assert(mkdir("d", 0777) == 0);
    cr_assert(pq_out_open(&o, "d", 0, &e) == -1 && e.sys == EISDIR);
    e = (struct pq_error)PQ_ERROR_INIT;
    cr_assert(pq_out_open(&o, "none/a", 0, &e) == -1 && e.sys == ENOENT);
    cr_assert(strstr(e.msg, "none/a: ") == e.msg);
    e = (struct pq_error)PQ_ERROR_INIT;
    cr_assert(pq_out_open(&o, "", 0, &e) == -1 && e.sys == ENOENT);
}

Test(file, out_long_name)
{
    struct pq_error e = PQ_ERROR_INIT;
    char name[256];

    memset(name, 'n', 255);
    name[255] = '\0';
    put(name, "old");
    struct pq_out o = written(name, "new");
    cr_assert(pq_out_commit(&o, &e) == 0);
    cr_assert(holds(name, "new") && count(".") == 1);
}

/* Standard output with "before" in it already. */
static void redirect(int flags)
{
    put("out", "before");
    const int fd = open("out", O_RDWR | flags);

    cr_assert(fd >= 0 && dup2(fd, 1) == 1 && lseek(1, 0, SEEK_END) == 6);
    close(fd);
}

Test(file, stdout_regular)
{
    struct pq_error e = PQ_ERROR_INIT;

    redirect(0);
    struct pq_out o = written("-", "ABC");
    cr_assert(o.regular && o.start == 6);
    cr_assert(pq_out_pwrite(&o, 3, "DEF", 3, &e) == 0);
    cr_assert(pq_out_commit(&o, &e) == 0);
    pq_out_abort(&o);
    cr_assert(write(1, "after", 5) == 5);
    cr_assert(holds("out", "beforeABCDEFafter"));
}

Test(file, stdout_cut_back)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_out o = {0};

    redirect(0);
    cr_assert(pq_out_open(&o, NULL, 0, &e) == 0);
    cr_assert(pq_out_reserve(&o, 100, &e) == 0);
    cr_assert(pq_out_pwrite(&o, 90, "x", 1, &e) == 0);
    pq_out_abort(&o);
    cr_assert(holds("out", "before"));
}

Test(file, stdout_append)
{
    struct pq_error e = PQ_ERROR_INIT;

    redirect(O_APPEND);
    struct pq_out o = written("-", "ABC");
    cr_assert(!o.regular);
    cr_assert(pq_out_commit(&o, &e) == 0);
    cr_assert(holds("out", "beforeABC"));
}

/* ---- Directories ----------------------------------------------------- */

static bool known(const char *name)
{
    return strncmp(name, "model", 5) == 0;
}

static struct pq_outdir filled(const char *path, const char *text)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_outdir d;
    struct pq_out o = {0};

    cr_assert(pq_outdir_open(&d, path, known, PQ_OUT_SYNC, &e) == 0, "%s",
              e.msg);
    cr_assert(pq_out_open_at(&o, d.fd, "model", 0, &e) == 0);
    cr_assert(pq_out_write(&o, text, strlen(text), &e) == 0);
    cr_assert(pq_out_commit(&o, &e) == 0);
    return d;
}

Test(file, outdir_new)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_outdir d = filled("d/", "new");

    cr_assert(access("d", F_OK) != 0);
    cr_assert(pq_outdir_commit(&d, &e) == 0);
    pq_outdir_abort(&d);
    cr_assert(holds("d/model", "new") && count(".") == 1);
    cr_assert(mode_of("d") == 0755);
}

Test(file, outdir_replaces)
{
    struct pq_error e = PQ_ERROR_INIT;

    cr_assert(mkdir("d", 0750) == 0 && symlink("d", "link") == 0);
    put("d/model", "old");
    put("d/model-2", "old");
    struct pq_outdir d = filled("link", "new");
    cr_assert(holds("d/model", "old"));
    cr_assert(pq_outdir_commit(&d, &e) == 0);
    cr_assert(holds("link/model", "new") && count("d") == 1);
    cr_assert(count(".") == 2 && mode_of("d") == 0750);
}

Test(file, outdir_aborted)
{
    cr_assert(mkdir("d", 0777) == 0);
    struct pq_outdir d = filled("d", "new");
    pq_outdir_abort(&d);
    pq_outdir_abort(&d);
    cr_assert(count("d") == 0 && count(".") == 1);
}

Test(file, outdir_foreign)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_outdir d;

    cr_assert(mkdir("d", 0777) == 0);
    put("d/model", "old");
    put("d/thesis.txt", "old");
    put("d/notes.txt", "old");
    cr_assert(pq_outdir_open(&d, "d", known, 0, &e) == -1);
    cr_assert(e.code == PQ_EARG && strstr(e.msg, "notes.txt") != NULL);
    cr_assert(count(".") == 1 && count("d") == 3);
}

/* A foreign file that comes while we work is not lost either. */
Test(file, outdir_foreign_meanwhile)
{
    struct pq_error e = PQ_ERROR_INIT;

    cr_assert(mkdir("d", 0777) == 0);
    struct pq_outdir d = filled("d", "new");
    put("d/thesis.txt", "precious");
    cr_assert(pq_outdir_commit(&d, &e) == -1 && e.code == PQ_EARG);
    cr_assert(holds("d/thesis.txt", "precious") && count(".") == 1);
}

Test(file, outdir_name_taken_meanwhile)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_outdir d = filled("d", "new");

    cr_assert(mkdir("d", 0777) == 0);
    put("d/thesis.txt", "precious");
    cr_assert(pq_outdir_commit(&d, &e) == -1 && e.code == PQ_EIO);
    cr_assert(holds("d/thesis.txt", "precious") && count(".") == 1);
}

Test(file, outdir_refused)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_outdir d;

    put("a", "x");
    cr_assert(pq_outdir_open(&d, "a", known, 0, &e) == -1);
    cr_assert(e.code == PQ_EARG || e.sys == ENOTDIR);
    e = (struct pq_error)PQ_ERROR_INIT;
    cr_assert(pq_outdir_open(&d, "/", known, 0, &e) == -1);
    cr_assert(mkdir("d", 0777) == 0 && chdir("d") == 0);
    e = (struct pq_error)PQ_ERROR_INIT;
    cr_assert(pq_outdir_open(&d, ".", known, 0, &e) == -1);
    cr_assert(e.code == PQ_EARG);
}

Test(file, outdir_leftovers)
{
    struct pq_error e = PQ_ERROR_INIT;

    cr_assert(mkdir(".d.pq-dead00", 0777) == 0);
    put(".d.pq-dead00/model", "half");
    cr_assert(mkdir(".d.pq-alive0", 0777) == 0);
    cr_assert(mkdir(".d.pq-foreig", 0777) == 0);
    put(".d.pq-foreig/thesis.txt", "precious");
    cr_assert(mkdir(".other.pq-dead00", 0777) == 0);
    const int lock = open(".d.pq-alive0", O_RDONLY);
    cr_assert(flock(lock, LOCK_EX) == 0);

    struct pq_outdir d = filled("d", "new");
    struct pq_outdir d2 = filled("d", "newer");
    cr_assert(access(".d.pq-dead00", F_OK) != 0);
    cr_assert(access(".d.pq-alive0", F_OK) == 0);
    cr_assert(access(".d.pq-foreig/thesis.txt", F_OK) == 0);
    cr_assert(access(".other.pq-dead00", F_OK) == 0);
    cr_assert(pq_outdir_commit(&d, &e) == 0);
    pq_outdir_abort(&d2);
    cr_assert(holds("d/model", "new"));
    close(lock);
}
