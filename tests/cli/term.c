/*
 * A library for LD_PRELOAD: SIGTERM comes while a recipe is parsed, where
 * nothing looks at flags.  A program that goes on all the same exits with 99.
 */
#include <signal.h>
#include <unistd.h>

int yaml_parser_load(void *parser, void *document);

int yaml_parser_load(void *parser, void *document)
{
    (void)parser;
    (void)document;
    raise(SIGTERM);
    _exit(99);
}
