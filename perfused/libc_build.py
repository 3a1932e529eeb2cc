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

#: what the suites call beside: attributes sized by hand, directory streams, mappings
SUITES = """
struct listed { uint64_t ino; int64_t off; unsigned short length; unsigned char kind; char name[256]; };
long getxattr(const char *path, const char *name, void *value, unsigned long size);
long listxattr(const char *path, void *list, unsigned long size);
int setfsuid(unsigned int uid);
int setfsgid(unsigned int gid);
int inotify_init1(int flags);
int inotify_add_watch(int fd, const char *path, unsigned int mask);
void *mmap(void *at, unsigned long length, int protection, int flags, int fd, long offset);
int munmap(void *at, unsigned long length);
int msync(void *at, unsigned long length, int flags);
long read(int fd, void *buffer, unsigned long length);
long write(int fd, const void *buffer, unsigned long length);
long copy_file_range(int source, void *at, int target, void *to, unsigned long length, unsigned int flags);
int syncfs(int fd);
int sync_file_range(int fd, long offset, long length, unsigned int flags);
void *opendir(const char *path);
struct listed *readdir(void *stream);
long telldir(void *stream);
void seekdir(void *stream, long place);
void rewinddir(void *stream);
int closedir(void *stream);
"""


def build() -> FFI:
    """The declarations, ready to be written out."""
    ffi = FFI()
    ffi.cdef(SIGNATURES + SUITES)
    ffi.set_source("perfused._libc_cffi", None)
    return ffi


if __name__ == "__main__":
    build().emit_python_code(str(Path(__file__).with_name("_libc_cffi.py")))
