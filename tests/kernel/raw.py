"""System calls that tests make and Python does not have, or not as they need them: cffi in ABI mode.

Never here: what is expected of a call.
"""

import os
from typing import Any

from cffi import FFI

ffi = FFI()
ffi.cdef("""
int linkat(int olddir, const char *old, int newdir, const char *new, int flags);
int inotify_init1(int flags);
int inotify_add_watch(int fd, const char *path, uint32_t mask);
int renameat2(int olddir, const char *old, int newdir, const char *new, unsigned int flags);
int statx(int dir, const char *path, int flags, unsigned int mask, void *buffer);
ssize_t getdents64(int fd, void *buffer, size_t size);
ssize_t getxattr(const char *path, const char *name, void *value, size_t size);
ssize_t listxattr(const char *path, void *list, size_t size);
int mount(const char *source, const char *target, const char *type, unsigned long flags, const void *data);
long ptrace(int request, int pid, void *address, void *data);
ssize_t read(int fd, void *buffer, size_t size);
long syscall(long number, long first, long second, long third);
""")
libc: Any = ffi.dlopen(None)
NULL = ffi.NULL


def room(size: int) -> Any:
    """A buffer for a call to write into; `ffi.buffer(it)` is what it wrote."""
    return ffi.new("char[]", max(size, 1))


def checked(result: int) -> int:
    """What a call gave. Raises OSError with its errno."""
    if result < 0:
        raise OSError(ffi.errno, os.strerror(ffi.errno))
    return result
