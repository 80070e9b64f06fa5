/*
 * Goldens that are files of JSON.
 */
#ifndef TESTS_JSON_H
#define TESTS_JSON_H

#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

/* What a file holds; the caller's. */
static inline cJSON *json_file(const char *path)
{
    const size_t most = 1 << 20;
    FILE *f = fopen(path, "rb");
    char *text = calloc(1, most);

    cr_assert(f && text, "%s", path);
    cr_assert_lt(fread(text, 1, most - 1, f), most - 1);
    fclose(f);
    cJSON *j = cJSON_Parse(text);
    cr_assert(j, "%s", path);
    free(text);
    return j;
}

/* What is under a key that must be there. */
static inline const cJSON *json_key(const cJSON *j, const char *name)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(j, name);

    cr_assert(v, "no %s", name);
    return v;
}

#endif
