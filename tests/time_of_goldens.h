/*
 * What strftime_now() says in the goldens of testdata/chat: 26 July 2024,
 * 1:02:03, a Friday, as tests/oracle/make_chat.py has it.
 */
#ifndef TIME_OF_GOLDENS_H
#define TIME_OF_GOLDENS_H

#include <time.h>

static const struct tm time_of_goldens = {.tm_year = 124,
                                          .tm_mon = 6,
                                          .tm_mday = 26,
                                          .tm_wday = 5,
                                          .tm_yday = 207,
                                          .tm_hour = 1,
                                          .tm_min = 2,
                                          .tm_sec = 3};

#endif
