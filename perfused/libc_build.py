"""Makes perfused/_libc_cffi.py, the generated plain-Python binding to libc: `python perfused/libc_build.py`.

cffi out-of-line ABI mode: no compiler, and no C parser at run time. Signatures live here; their meaning in `libc`.
"""

from pathlib import Path

from cffi import FFI

SIGNATURES = """
int mount(const char *source, const char *target, const char *type, unsigned long flags, const void *data);
int umount2(const char *target, int flags);
int setns(int fd, int nstype);
int unshare(int flags);
int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d);
long syscall(long number, ...);
int fstatfs(int fd, void *buffer);
int statx(int dirfd, const char *path, int flags, unsigned int mask, void *buffer);
int utimensat(int dirfd, const char *path, const void *times, int flags);
int futimens(int fd, const void *times);
int renameat2(int olddir, const char *old, int newdir, const char *new, unsigned int flags);
int fallocate(int fd, int mode, long offset, long length);
"""


def build() -> FFI:
    """The declarations, ready to be written out."""
    ffi = FFI()
    ffi.cdef(SIGNATURES)
    ffi.set_source("perfused._libc_cffi", None)
    return ffi


if __name__ == "__main__":
    build().emit_python_code(str(Path(__file__).with_name("_libc_cffi.py")))
