"""Makes libperfuse/_libc_cffi.py, the generated plain-Python binding to libc: `python libperfuse/libc_build.py`."""

from pathlib import Path

from cffi import FFI

SIGNATURES = """
int mount(const char *source, const char *target, const char *type, unsigned long flags, const void *data);
int umount2(const char *target, int flags);
int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d);
int unshare(int flags);
int setfsuid(unsigned int uid);
int setfsgid(unsigned int gid);
int capget(void *header, void *data);
int capset(void *header, const void *data);
int renameat2(int olddir, const char *oldname, int newdir, const char *newname, unsigned int flags);
int statx(int dir, const char *path, int flags, unsigned int mask, void *buffer);
int fallocate(int fd, int mode, long offset, long length);
int utimensat(int dir, const char *path, const void *times, int flags);
int syncfs(int fd);
int setns(int fd, int kind);
long process_vm_readv(int pid, const void *local, unsigned long liovcnt, const void *remote, unsigned long riovcnt,
    unsigned long flags);
long syscall(long number, ...);
"""


def build() -> FFI:
    """The declarations, ready to be written out."""
    ffi = FFI()
    ffi.cdef(SIGNATURES)
    ffi.set_source("libperfuse._libc_cffi", None)
    return ffi


if __name__ == "__main__":
    build().emit_python_code(str(Path(__file__).with_name("_libc_cffi.py")))
