/*
 * Criterion 2.4 now and then leaks 48 bytes in the process that only starts
 * the tests.  Every test runs in a process of its own (BoxFort sets BXFI_MAP
 * for it), and there leaks are looked for as ever.
 */
#include <stdlib.h>

/* The sanitizer looks it up by name: it must be seen from outside. */
__attribute__((visibility("default"))) int __lsan_is_turned_off(void);

int __lsan_is_turned_off(void)
{
    return getenv("BXFI_MAP") == NULL;
}
