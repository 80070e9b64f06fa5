/*
 * Which tensors -m and -x choose.
 */
#include "cmd.h"

#include <fnmatch.h>

bool cmd_glob(const char *pattern, const char *name)
{
    return fnmatch(pattern, name, 0) == 0;
}

static bool matches_any(const struct cmd_list *l, const char *name)
{
    for (size_t i = 0; i < l->n; i++)
        if (cmd_glob(l->items[i], name))
            return true;
    return false;
}

bool cmd_selected(const struct cmd *c, const char *tensor)
{
    if (c->match.n > 0 && !matches_any(&c->match, tensor))
        return false;
    return !matches_any(&c->exclude, tensor);
}
