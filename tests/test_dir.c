/*
 * Model directories: which file is the model, what an index may say, and
 * that what is written mirrors what was read.
 */
#include <criterion/criterion.h>

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dir.h"

/* ---- Directories to play with ------------------------------------------- */

static char root[64];

static void setup(void)
{
    snprintf(root, sizeof root, "/tmp/pq-dir-XXXXXX");
    cr_assert(mkdtemp(root) != NULL);
}

static void teardown(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", root);
    cr_assert(system(command) == 0);
}

TestSuite(dir, .init = setup, .fini = teardown);

/* root/NAME */
static const char *in_root(const char *name)
{
    static char path[4][512];
    static unsigned i;
    i = (i + 1) % 4;
    snprintf(path[i], sizeof path[i], "%s/%s", root, name);
    return path[i];
}

static void put(const char *name, const void *data, size_t n)
{
    FILE *const f = fopen(in_root(name), "wb");
    cr_assert(f != NULL, "%s", name);
    cr_assert(fwrite(data, 1, n, f) == n && fclose(f) == 0);
}

static void put_text(const char *name, const char *text)
{
    put(name, text, strlen(text));
}

/* A safetensors file of U8 tensors [2]: "a b" -> a = "aA", b = "bB" */
static void put_model(const char *name, const char *tensors)
{
    struct pq_buf header = {0};
    char file[4096];
    size_t n = 0;
    char data[64];
    pq_buf_puts(&header, "{");
    for (const char *p = tensors; *p; p++) {
        if (*p == ' ')
            continue;
        cr_assert(n + 2 <= sizeof data);
        pq_buf_printf(&header,
                      "%s\"%c\":{\"dtype\":\"U8\",\"shape\":[2],"
                      "\"data_offsets\":[%zu,%zu]}",
                      n ? "," : "", *p, n, n + 2);
        data[n++] = *p;
        data[n++] = (char)(*p - 'a' + 'A');
    }
    pq_buf_puts(&header, "}");
    const uint64_t length = header.n;
    cr_assert(!header.failed && 8 + length + n <= sizeof file);
    memcpy(file, &length, 8);
    memcpy(file + 8, header.s, length);
    memcpy(file + 8 + length, data, n);
    put(name, file, 8 + length + n);
    pq_buf_release(&header);
}

static void put_index(const char *map)
{
    char text[4096];
    snprintf(text, sizeof text, "{\"metadata\":{},\"weight_map\":{%s}}", map);
    put_text(PQ_DIR_INDEX, text);
}

static bool exists(const char *name)
{
    return access(in_root(name), F_OK) == 0;
}

static void expect_text(const char *name, const char *want)
{
    char have[8192] = "";
    FILE *const f = fopen(in_root(name), "rb");
    cr_assert(f != NULL, "%s", name);
    have[fread(have, 1, sizeof have - 1, f)] = '\0';
    fclose(f);
    cr_expect_str_eq(have, want);
}

static struct pq_source *open_dir(const char *path)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_source *s = NULL;
    cr_assert(pq_open_model(path, NULL, &s, &e) == 0, "%s", e.msg);
    return s;
}

/* Opening fails with this code, and the message names all that is listed. */
static void refused(enum pq_code code, const char *what)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_source *s = NULL;
    cr_assert(pq_open_model(root, NULL, &s, &e) != 0);
    cr_expect(e.code == code, "%d: %s", (int)e.code, e.msg);
    cr_expect(strncmp(e.msg, root, strlen(root)) == 0, "%s", e.msg);
    cr_expect(strstr(e.msg, what) != NULL, "%s: %s", what, e.msg);
}

/* The names of the tensors, in order, and that their data are theirs. */
static void expect_tensors(struct pq_source *s, const char *names)
{
    struct pq_error e = PQ_ERROR_INIT;
    const struct pq_catalog *const c = s->catalog;
    cr_assert(c->n_tensors == strlen(names), "%zu", c->n_tensors);
    for (size_t i = 0; i < c->n_tensors; i++) {
        char data[2];
        const struct pq_tensor *const t = &c->tensors[i];
        cr_expect(t->name[0] == names[i] && t->name[1] == '\0', "%s", t->name);
        cr_assert(pq_source_read(s, t->parts, 0, data, 2, &e) == 0, "%s",
                  e.msg);
        cr_expect(data[0] == names[i] && data[1] == names[i] - 'a' + 'A');
    }
    cr_expect(pq_source_finish(s, &e) == 0, "%s", e.msg);
}

static void expect_dir(const char *names)
{
    struct pq_source *const s = open_dir(root);
    cr_expect(s->catalog->directory);
    expect_tensors(s, names);
    pq_source_free(s);
}

/* ---- Reading ------------------------------------------------------------ */

Test(dir, one_file)
{
    put_model("model.safetensors", "ba");
    put_text("config.json", "{}\n");
    put_text("LICENSE", "free");
    put_text("notes.txt", "mine");
    cr_assert(mkdir(in_root("tokenizer.json"), 0777) == 0);
    struct pq_source *const s = open_dir(root);
    const struct pq_catalog *const c = s->catalog;
    expect_tensors(s, "ba");
    cr_assert(c->n_blobs == 2 && c->n_files == 1);
    cr_expect(strcmp(c->blobs[0].name, "LICENSE") == 0);
    cr_expect(strcmp(c->blobs[1].name, "config.json") == 0);
    cr_expect(c->blobs[1].bytes == 3 &&
              memcmp(c->blobs[1].data, "{}\n", 3) == 0);
    cr_expect(strcmp(c->files[0], "model.safetensors") == 0);
    pq_source_free(s);
}

Test(dir, bare)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_source *s = NULL;
    put_text("config.json", "{}\n");
    put_text("notes.txt", "mine");
    put_text("model.safetensors", "not looked at");
    cr_assert(pq_dir_open_bare(root, NULL, &s, &e) == 0, "%s", e.msg);
    cr_expect(s->catalog->directory && s->catalog->n_tensors == 0);
    cr_expect(s->catalog->n_blobs == 1 && s->catalog->n_files == 0);
    cr_expect(strcmp(s->name, root) == 0);
    cr_expect(pq_source_finish(s, &e) == 0, "%s", e.msg);
    pq_source_free(s);
    cr_expect(pq_dir_open_bare(in_root("none"), NULL, &s, &e) != 0);
    cr_expect(strstr(e.msg, "none: ") != NULL, "%s", e.msg);
}

Test(dir, shards)
{
    put_model("m2.safetensors", "dc");
    put_model("m1.safetensors", "ab");
    put_index("\"d\":\"m2.safetensors\",\"a\":\"m1.safetensors\","
              "\"b\":\"m1.safetensors\"");
    struct pq_source *const s = open_dir(root);
    const struct pq_catalog *const c = s->catalog;
    expect_tensors(s, "abdc");
    cr_expect(c->n_files == 2 && !c->counts_parameters && !s->sequential);
    cr_expect(c->tensors[1].parts[0].file == 0);
    cr_expect(c->tensors[2].parts[0].file == 1);
    cr_expect(c->tensors[2].parts[0].offset == 4);
    pq_source_free(s);
}

Test(dir, order_of_preference)
{
    refused(PQ_EFORMAT, "no model");
    put_text("pytorch_model.bin", "x");
    refused(PQ_EUNSUPPORTED, "pytorch_model.bin");
    put_model("x.pq", "x");
    expect_dir("x");
    put_model("y.pq", "y");
    refused(PQ_EARG, "x.pq and y.pq");
    put_model("model.pq", "m");
    expect_dir("m");
    put_model("adapter_model.safetensors", "p");
    expect_dir("p");
    put_model("shard.safetensors", "s");
    put_index("\"s\":\"shard.safetensors\"");
    expect_dir("s");
    put_model("model.safetensors", "w");
    expect_dir("w");
}

/* As in the cache of Hugging Face. */
Test(dir, links)
{
    cr_assert(mkdir(in_root("blobs"), 0777) == 0);
    cr_assert(mkdir(in_root("snapshot"), 0777) == 0);
    put_model("blobs/1", "a");
    put_text("blobs/2", "{}");
    cr_assert(symlink("../blobs/1", in_root("snapshot/model.safetensors")) ==
              0);
    cr_assert(symlink("../blobs/2", in_root("snapshot/config.json")) == 0);
    struct pq_source *const s = open_dir(in_root("snapshot"));
    expect_tensors(s, "a");
    cr_expect(s->catalog->n_blobs == 1);
    pq_source_free(s);
}

Test(dir, bad_shards)
{
    put_model("m1.safetensors", "ab");
    put_index("\"a\":\"m1.safetensors\",\"c\":\"m2.safetensors\"");
    refused(PQ_EIO, "m2.safetensors");
    put_text("m2.safetensors", "");
    refused(PQ_ETRUNCATED, "m2.safetensors");
    put_text("m2.safetensors", "garbage garbage");
    refused(PQ_EFORMAT, "m2.safetensors");
    put_model("m2.safetensors", "d");
    refused(PQ_EFORMAT, "tensor c");
    put_model("m2.safetensors", "ca");
    refused(PQ_EFORMAT, "tensor a: in m1.safetensors and in m2.safetensors");
    put_model("m2.safetensors", "c");
    expect_dir("abc");
    put_index("\"a\":\"m2.safetensors\",\"b\":\"m1.safetensors\"");
    refused(PQ_EFORMAT, "tensor a");
}

Test(dir, a_shard_that_is_no_file)
{
    cr_assert(mkfifo(in_root("m.safetensors"), 0666) == 0);
    put_index("\"a\":\"m.safetensors\"");
    refused(PQ_EARG, "m.safetensors");
}

Test(dir, a_truncated_shard)
{
    put_model("model.safetensors", "ab");
    struct stat st;
    cr_assert(stat(in_root("model.safetensors"), &st) == 0);
    cr_assert(truncate(in_root("model.safetensors"), st.st_size - 1) == 0);
    refused(PQ_ETRUNCATED, "model.safetensors: tensor b: truncated at byte 1");
}

Test(dir, hostile_shard_names)
{
    static const char *const names[] = {
        "",          "/etc/passwd", "../m.safetensors", "a/b", "a\\\\b",
        "..",        ".",           ".m.safetensors",   "-m",  "a..b",
        "m\\u0000x", "m\\nx",
    };
    put_model("m.safetensors", "a");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char map[128];
        snprintf(map, sizeof map, "\"a\":\"%s\"", names[i]);
        put_index(map);
        refused(PQ_EFORMAT, PQ_DIR_INDEX);
    }
}

Test(dir, bad_indexes)
{
    static const char *const texts[] = {
        "",
        "x",
        "[]",
        "{}",
        "{\"weight_map\":{}}",
        "{\"weight_map\":[]}",
        "{\"weight_map\":{\"a\":1}}",
        "{\"weight_map\":null}",
        "{\"weight_map\":{\"a\":\"m.safetensors\"}}x",
        "{\"weight_map\":{\"a\":\"m.safetensors\",\"a\":\"m.safetensors\"}}",
        "{\"weight_map\":{\"a\":\"m.safetensors\"},\"weight_map\":{}}",
        "{\"weight_map\":{\"a\\u0000\":\"m.safetensors\"}}",
        "{\"weight_map\":{\"a\":\"m.safetensors\"}",
    };
    put_model("m.safetensors", "a");
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        put_text(PQ_DIR_INDEX, texts[i]);
        refused(PQ_EFORMAT, PQ_DIR_INDEX);
    }
    put_text(PQ_DIR_INDEX, "{\"x\":[1],\"metadata\":{\"total_parameters\":"
                           "{\"y\":1}},\"weight_map\":"
                           "{\"a\":\"m.safetensors\"}}");
    expect_dir("a");
}

Test(dir, index_counts_its_shards)
{
    struct pq_buf b = {0};
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_dir_index x = {0};
    pq_buf_puts(&b, "{\"weight_map\":{");
    for (int i = 0; i < 100001; i++)
        pq_buf_printf(&b, "%s\"%d\":\"m%d\"", i ? "," : "", i, i);
    pq_buf_puts(&b, "}}");
    cr_expect(pq_dir_index_parse(&x, b.s, b.n, &e) != 0);
    cr_expect(e.code == PQ_ELIMIT, "%s", e.msg);
    pq_dir_index_release(&x);
    pq_buf_release(&b);
}

/* Links that lead nowhere, big files, metadata of several shards. */
Test(dir, odd_files)
{
    put_model("model.safetensors", "a");
    cr_assert(symlink("nowhere", in_root("config.json")) == 0);
    expect_dir("a");
    put_text("vocab.txt", "");
    cr_assert(truncate(in_root("vocab.txt"), (64 << 20) + 1) == 0);
    refused(PQ_ELIMIT, "vocab.txt");
}

Test(dir, names)
{
    cr_expect(pq_dir_carries("config.json") && pq_dir_carries("LICENSE.txt"));
    cr_expect(pq_dir_carries(".gitattributes"));
    cr_expect(!pq_dir_carries("LICENSE/../x") && !pq_dir_carries("x.json"));
    cr_expect(!pq_dir_carries("model.safetensors"));
    cr_expect(pq_dir_knows("model-00001-of-00002.safetensors"));
    cr_expect(pq_dir_knows(PQ_DIR_INDEX) && pq_dir_knows("config.json"));
    cr_expect(pq_dir_knows("x.pq") && pq_dir_knows("x.gguf"));
    cr_expect(pq_dir_knows("pytorch_model-1.bin"));
    cr_expect(!pq_dir_knows("heldout.txt") && !pq_dir_knows(".pq"));
    cr_expect(!pq_dir_knows("../x.safetensors") && !pq_dir_knows(""));
}

/* ---- Writing ------------------------------------------------------------ */

static struct pq_sink *create(struct pq_catalog *c, const char *name)
{
    const struct pq_write_options w = {.threads = 1};
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_sink *k = NULL;
    cr_assert(pq_dir_create(c, in_root(name), &w, &k, &e) == 0, "%s", e.msg);
    return k;
}

static uint64_t dir_bytes(const char *name)
{
    char command[256];
    unsigned long long n = 0;
    snprintf(command, sizeof command, "cat %s/* | wc -c", in_root(name));
    FILE *const f = popen(command, "r");
    cr_assert(f != NULL && fscanf(f, "%llu", &n) == 1 && pclose(f) == 0);
    return n;
}

/* Copies a source into root/NAME, last part first. */
static void copy(struct pq_source *s, const char *name)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_sink *const k = create(s->catalog, name);
    const uint64_t total = k->total_bytes;
    cr_expect(!exists(name));
    cr_assert(k->ops->begin(k, &e) == 0, "%s", e.msg);
    cr_expect(k->positional && !exists(name));
    for (size_t i = k->n_order; i-- > 0;) {
        const struct pq_place *const x = &k->order[i];
        const struct pq_part *const p =
            &s->catalog->tensors[x->tensor].parts[x->part];
        char data[64];
        cr_assert(pq_source_read(s, p, 0, data, p->bytes, &e) == 0);
        cr_assert(k->ops->write(k, i, 0, data, p->bytes, &e) == 0);
    }
    cr_assert(k->ops->finish(k, &e) == 0, "%s", e.msg);
    cr_expect(k->total_bytes == total && dir_bytes(name) == total);
    pq_sink_free(k);
}

Test(dir, writes_one_file)
{
    put_model("model.safetensors", "ba");
    put_text("config.json", "{ }\n");
    struct pq_source *const s = open_dir(root), *t;
    copy(s, "out");
    t = open_dir(in_root("out"));
    expect_tensors(t, "ba");
    expect_text("out/config.json", "{ }\n");
    cr_expect(!exists("out/" PQ_DIR_INDEX));
    cr_expect(strcmp(pq_catalog_get(t->catalog, "format"), "pt") == 0);
    pq_source_free(t);
    pq_source_free(s);
}

Test(dir, writes_shards)
{
    put_model("m1.safetensors", "cb");
    put_model("m2.safetensors", "a");
    put_text(PQ_DIR_INDEX,
             "{\"metadata\":{\"total_parameters\":1},\"weight_map\":"
             "{\"a\":\"m2.safetensors\",\"b\":\"m1.safetensors\"}}");
    struct pq_source *const s = open_dir(root), *t;
    s->catalog->tensors[0].n_elements = 2;
    copy(s, "out");
    expect_text("out/" PQ_DIR_INDEX, "{\n"
                                     "  \"metadata\": {\n"
                                     "    \"total_parameters\": 6,\n"
                                     "    \"total_size\": 6\n"
                                     "  },\n"
                                     "  \"weight_map\": {\n"
                                     "    \"a\": \"m2.safetensors\",\n"
                                     "    \"b\": \"m1.safetensors\",\n"
                                     "    \"c\": \"m1.safetensors\"\n"
                                     "  }\n"
                                     "}\n");
    t = open_dir(in_root("out"));
    expect_tensors(t, "cba");
    cr_expect(t->catalog->tensors[2].parts[0].file == 1);
    pq_source_free(t);
    pq_source_free(s);
}

/* An index over one shard stays, as nothing else names that shard. */
Test(dir, writes_a_single_shard)
{
    put_model("model-00001-of-00001.safetensors", "a");
    put_index("\"a\":\"model-00001-of-00001.safetensors\"");
    struct pq_source *const s = open_dir(root), *t;
    copy(s, "out");
    cr_expect(exists("out/" PQ_DIR_INDEX));
    t = open_dir(in_root("out"));
    expect_tensors(t, "a");
    pq_source_free(t);
    pq_source_free(s);
}

static void keeps_name(const char *from, const char *to)
{
    put_model(from, "a");
    struct pq_source *const s = open_dir(root);
    copy(s, "out");
    cr_expect(exists(to) && !exists("out/" PQ_DIR_INDEX));
    pq_source_free(s);
}

Test(dir, keeps_the_name_of_an_adapter)
{
    keeps_name("adapter_model.safetensors", "out/adapter_model.safetensors");
}

Test(dir, renames_a_stream)
{
    keeps_name("x.pq", "out/model.safetensors");
}

/* The parts of one tensor may lie in two files, and provenance in all. */
Test(dir, parts_in_two_files)
{
    static const uint64_t shape[] = {2};
    static const char *files[] = {"a.safetensors", "b.safetensors"};
    struct pq_catalog c;
    struct pq_error e = PQ_ERROR_INIT;
    pq_catalog_init(&c);
    struct pq_tensor *const t = pq_catalog_add(&c, "w", 3, NULL);
    for (unsigned i = 0; i < 3; i++)
        t->parts[i] =
            (struct pq_part){.name = (const char *[]){"w", "x", "y"}[i],
                             .dtype = PQ_U8,
                             .rank = 1,
                             .shape = shape,
                             .bytes = 2,
                             .file = i % 2};
    c.files = files;
    c.n_files = 2;
    cr_assert(pq_catalog_add_prov(&c, "line", &e) == 0);
    struct pq_sink *const k = create(&c, "out");
    static const size_t want[] = {0, 2, 1};
    cr_assert(k->n_order == 3);
    cr_assert(k->ops->begin(k, &e) == 0, "%s", e.msg);
    for (size_t i = 0; i < 3; i++) {
        const char *const name = t->parts[want[i]].name;
        const char data[2] = {name[0], (char)(name[0] - 'a' + 'A')};
        cr_expect(k->order[i].part == want[i]);
        cr_assert(k->ops->write(k, i, 0, data, 2, &e) == 0, "%s", e.msg);
    }
    cr_assert(k->ops->finish(k, &e) == 0, "%s", e.msg);
    pq_sink_free(k);
    struct pq_source *const s = open_dir(in_root("out"));
    expect_tensors(s, "wyx");
    cr_expect(s->catalog->n_prov == 1);
    pq_source_free(s);
    c.n_files = 1;
    struct pq_sink *none = NULL;
    const struct pq_write_options w = {.threads = 1};
    cr_expect(pq_dir_create(&c, "x", &w, &none, &e) != 0 && e.code == PQ_EARG);
    pq_catalog_release(&c);
}

Test(dir, abort_leaves_nothing)
{
    put_model("model.safetensors", "ab");
    struct pq_source *const s = open_dir(root);
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_sink *k = create(s->catalog, "out");
    cr_assert(k->ops->begin(k, &e) == 0, "%s", e.msg);
    cr_expect(k->ops->finish(k, &e) != 0);
    k->ops->abort(k, &e);
    pq_sink_free(k);
    k = create(s->catalog, "out");
    pq_sink_free(k);
    char command[128];
    snprintf(command, sizeof command, "test $(ls -A %s | wc -l) = 1", root);
    cr_expect(system(command) == 0);
    pq_source_free(s);
}

Test(dir, refuses_hostile_files)
{
    struct pq_catalog c;
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_sink *k = NULL;
    const struct pq_write_options w = {.threads = 1};
    pq_catalog_init(&c);
    cr_assert(pq_catalog_add_blob(&c, "../x", "x", 1, &e) == 0);
    cr_expect(pq_dir_create(&c, "x", &w, &k, &e) != 0);
    cr_expect(e.code == PQ_EFORMAT && strstr(e.msg, "../x") != NULL);
    pq_catalog_release(&c);
}

/* ---- The registry ------------------------------------------------------- */

Test(dir, registry)
{
    struct pq_error e = PQ_ERROR_INIT;
    struct pq_source *s;
    cr_expect(pq_format_named("safetensors") == &pq_format_safetensors);
    cr_expect(pq_format_named("pq") == &pq_format_pqstream);
    cr_expect(pq_format_named("x") == NULL);
    cr_expect(pq_format_for_path("a/m.safetensors") == &pq_format_safetensors);
    cr_expect(pq_format_for_path("a/m.pq") == &pq_format_pqstream);
    cr_expect(pq_format_for_path("a/m") == NULL);
    put_text("empty", "");
    cr_expect(pq_open_model(in_root("empty"), NULL, &s, &e) != 0);
    cr_expect(strstr(e.msg, "empty: is empty") != NULL, "%s", e.msg);
    e = (struct pq_error)PQ_ERROR_INIT;
    put_text("text", "Hello, world\n");
    cr_expect(pq_open_model(in_root("text"), NULL, &s, &e) != 0);
    cr_expect(e.code == PQ_EFORMAT && strstr(e.msg, "not a model file"));
    e = (struct pq_error)PQ_ERROR_INIT;
    cr_expect(pq_open_model(in_root("missing"), NULL, &s, &e) != 0);
    cr_expect(e.code == PQ_EIO && strstr(e.msg, "missing: No such file"));
}
