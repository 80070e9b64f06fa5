/*
 * The tools that are in the program.
 */
#include "cmd.h"

#include <string.h>

const struct pq_tool *const cmd_tools[] = {
    &tool_info,       &tool_convert, &tool_quantize,
    &tool_dequantize, &tool_prune,   &tool_merge,
    &tool_extract,    &tool_diff,    &tool_patch,
    &tool_verify,     &tool_eval,    &tool_generate,
    &tool_train,      &tool_prompt,  NULL,
};

const struct pq_tool *cmd_tool_named(const char *name)
{
    for (size_t i = 0; cmd_tools[i] != NULL; i++)
        if (strcmp(cmd_tools[i]->name, name) == 0)
            return cmd_tools[i];
    return NULL;
}
