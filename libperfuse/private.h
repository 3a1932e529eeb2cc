/* Between the two halves of libperfuse; not installed. */
#ifndef PERFUSE_PRIVATE_H
#define PERFUSE_PRIVATE_H

#define PERFUSE_NO_MACROS
#include "perfuse.h"

#define STRING_LIMIT 4096

#pragma GCC visibility push(hidden)
#define fail perfuse_fail_
#define closed perfuse_closed_
#define start_private perfuse_start_private_

/* Returns -1 with errno set to error; the sentence says why. */
int fail(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* close(fd) with errno kept; returns result. */
int closed(int fd, int result);

/* Starts a private perfused: our end of the connection to it, or -1. */
int start_private(void);
#pragma GCC visibility pop

#endif
