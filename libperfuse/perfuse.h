/*
 * perfuse.h - open and mount /dev/fuse through perfused(8).
 *
 * A filesystem that speaks the raw FUSE protocol includes this header and links with -lperfuse; its calls of open(2)
 * and mount(2) are then redirected, and nothing else in it changes. The redirecting macros catch calls by name, members
 * called "open" as well (ops->open(a, b)): define PERFUSE_NO_MACROS before the include where that is in the way, and
 * call the functions by their own names.
 */
#ifndef PERFUSE_H
#define PERFUSE_H

/* Before the macros exist: these headers declare the functions that the macros are named after. */
#include <sys/types.h>
#include <sys/stat.h>
#include <sys/mount.h>
#include <fcntl.h>
#if defined(__cplusplus) && !defined(PERFUSE_NO_MACROS)
#include <fstream>
#include <locale>
#endif

#ifdef __cplusplus
extern "C" {
#endif

/*
 * For "/dev/fuse": a descriptor that carries FUSE frames, one a packet, handed out by perfused; for any other path:
 * open(2). O_CLOEXEC and O_NONBLOCK are honoured. -1 and errno on failure.
 *
 * Environment: PERFUSED_SOCKET (where perfused listens), PERFUSE_ENDPOINT (any, socket, device, direct), PERFUSED (the
 * program to start where nobody listens), PERFUSE_NO_PRIVATE=1 (start none), PERFUSE_DEBUG (failures to stderr).
 * A program that runs with more rights than its caller ignores all of them.
 */
int perfuse_open(const char *path, int flags, mode_t mode);

/*
 * Has perfused mount the descriptor named by "fd=N" in data, and waits for its verdict: 0, or -1 and errno. Whatever
 * is not a FUSE mount on a descriptor of perfuse_open() goes to mount(2) as it is.
 */
int perfuse_mount(const char *source, const char *target, const char *filesystemtype, long mountflags,
    const void *data);

/*
 * Not in the original: one sentence on this thread's last failed perfuse_open() or perfuse_mount(), "" if there was
 * none. Valid until the thread's next call.
 */
const char *perfuse_error(void);

#ifdef __cplusplus
}
#endif

#ifndef PERFUSE_NO_MACROS
#define PERFUSE_PICK_(path, flags, mode, name, ...) name
#define PERFUSE_OPEN2_(path, flags) perfuse_open(path, flags, 0)
#define PERFUSE_OPEN3_(path, flags, mode) perfuse_open(path, flags, mode)
#undef open
#undef mount
#define open(...) PERFUSE_PICK_(__VA_ARGS__, PERFUSE_OPEN3_, PERFUSE_OPEN2_, 0)(__VA_ARGS__)
#define mount(...) perfuse_mount(__VA_ARGS__)
#endif

#endif
