/*
 * A main() for a fuzz target where there is no libFuzzer: runs it over the
 * files and directories given, as a regression test of the corpus.
 *
 *     gcc ... standalone.c fuzz_json.c ... && ./fuzz_json corpus/json
 */
#define PQ_FUZZ_STANDALONE
#include <dirent.h>
#include <sys/stat.h>

#include "fuzz.h"

static unsigned long runs;

/* Mutators need one; nothing is mutated here. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t n, size_t max)
{
    (void)data;
    (void)max;
    return n;
}

static int run_file(const char *path)
{
    FILE *const f = fopen(path, "rb");
    uint8_t *const data = malloc(FUZZ_INPUT);

    if (!f || !data) {
        perror(path);
        if (f)
            fclose(f);
        free(data);
        return 1;
    }
    const size_t n = fread(data, 1, FUZZ_INPUT, f);
    fclose(f);
    /* a copy of the right length, so that a sanitizer sees its end */
    uint8_t *const exact = malloc(n ? n : 1);
    if (!exact)
        abort();
    memcpy(exact, data, n);
    free(data);
    (void)LLVMFuzzerTestOneInput(exact, n);
    free(exact);
    runs++;
    return 0;
}

static int run_dir(const char *path)
{
    DIR *const d = opendir(path);
    int rc = 0;

    if (!d) {
        perror(path);
        return 1;
    }
    for (const struct dirent *x; (x = readdir(d)) != NULL;) {
        char name[4096];
        if (x->d_name[0] == '.')
            continue;
        snprintf(name, sizeof name, "%s/%s", path, x->d_name);
        rc |= run_file(name);
    }
    closedir(d);
    return rc;
}

int main(int argc, char **argv)
{
    struct stat st;
    int rc = 0;

    for (int i = 1; i < argc; i++)
        rc |= stat(argv[i], &st) == 0 && S_ISDIR(st.st_mode)
                  ? run_dir(argv[i])
                  : run_file(argv[i]);
    printf("%s: %lu inputs\n", argv[0], runs);
    return rc;
}
