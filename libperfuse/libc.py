"""The system calls that filesystems and their launcher need and Python does not have, or not on descriptors: through
cffi in ABI mode.

All raise OSError with the errno of the call. Never here: what a call is used for.
"""

import os
import struct
from typing import Any

from libperfuse._libc_cffi import ffi

_libc: Any = ffi.dlopen(None)

PR_SET_SECUREBITS = 28
SECBIT_NO_SETUID_FIXUP = 1 << 2
CLONE_FS = 0x200
AT_EMPTY_PATH = 0x1000
#: `tv_nsec` of a time that is now, and of one that is not to be changed (utimensat(2))
UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2
STATX_SIZE = 256
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
CLONE_NEWNS = 0x2_0000
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_NEW_LISTENER = 1 << 3
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = 1 << 5
RESOLVE_IN_ROOT = 0x10
SYS_OPENAT2 = 437
SYS_PIDFD_GETFD = 438
#: seccomp(2)'s number; -1 on a machine we do not know
SYS_SECCOMP = {
    "x86_64": 317, "aarch64": 277, "riscv64": 277, "loongarch64": 277, "s390x": 348, "ppc64le": 358, "armv7l": 383,
    "i686": 354,
}.get(os.uname().machine, -1)  # fmt: skip
_CAP_VERSION_3 = 0x20080522
CAP_SYS_RESOURCE = 24
#: getdents64's number; -1 on a machine we do not know
_SYS_GETDENTS64 = {
    "x86_64": 217, "aarch64": 61, "riscv64": 61, "loongarch64": 61, "s390x": 220, "ppc64le": 202, "ppc64": 202,
    "armv7l": 217, "i686": 220,
}.get(os.uname().machine, -1)  # fmt: skip


def _check(result: int, what: str) -> None:
    if result < 0:
        code = ffi.errno
        raise OSError(code, os.strerror(code), what)


def _c(value: bytes | None) -> Any:
    return ffi.NULL if value is None else ffi.new("char[]", value)


def mount(source: bytes, target: bytes, fstype: bytes | None, flags: int, data: bytes | None) -> None:
    """mount(2)."""
    _check(_libc.mount(_c(source), _c(target), _c(fstype), flags, _c(data)), "mount")


def umount2(target: bytes, flags: int) -> None:
    """umount2(2)."""
    _check(_libc.umount2(_c(target), flags), "umount2")


def prctl(option: int, value: int = 0) -> None:
    """prctl(2) with one argument, for the calling thread."""
    _check(_libc.prctl(option, value, 0, 0, 0), "prctl")


def unshare(flags: int) -> None:
    """unshare(2), for the calling thread."""
    _check(_libc.unshare(flags), "unshare")


def setfsuid(uid: int) -> int:
    """setfsuid(2), for the calling thread: the id before. It never fails; what it did not do, the next call tells."""
    return int(_libc.setfsuid(uid))


def setfsgid(gid: int) -> int:
    """setfsgid(2), likewise."""
    return int(_libc.setfsgid(gid))


def drop_capability(number: int) -> None:
    """Take a capability out of the effective, permitted and inheritable sets of the calling thread, for good."""
    header = ffi.new("char[]", struct.pack("=Ii", _CAP_VERSION_3, 0))
    sets = ffi.new("char[]", 24)
    _check(_libc.capget(header, sets), "capget")
    words = list(struct.unpack("=6I", bytes(ffi.buffer(sets))))
    first = number // 32 * 3
    words[first : first + 3] = [each & ~(1 << number % 32) for each in words[first : first + 3]]
    _check(_libc.capset(header, ffi.new("char[]", struct.pack("=6I", *words))), "capset")


def renameat2(olddir: int, oldname: bytes, newdir: int, newname: bytes, flags: int) -> None:
    """renameat2(2)."""
    _check(_libc.renameat2(olddir, oldname, newdir, newname, flags), "renameat2")


def statx(fd: int, mask: int, flags: int = 0) -> bytes:
    """statx(2) of an open descriptor: the 256 bytes of `struct statx`."""
    buffer = ffi.new("char[]", STATX_SIZE)
    _check(_libc.statx(fd, b"", flags | AT_EMPTY_PATH, mask, buffer), "statx")
    return bytes(ffi.buffer(buffer))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2) with any FALLOC_FL_* in `mode`; `offset` and `length` in bytes."""
    _check(_libc.fallocate(fd, mode, offset, length), "fallocate")


def utimensat(path: bytes, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
    """utimensat(2), following links: each time is (seconds, nanoseconds), or (0, UTIME_NOW or UTIME_OMIT)."""
    _check(_libc.utimensat(-100, path, ffi.new("long[4]", [*atime, *mtime]), 0), "utimensat")


def syncfs(fd: int) -> None:
    """syncfs(2)."""
    _check(_libc.syncfs(fd), "syncfs")


def getdents64(fd: int, buffer: bytearray) -> int:
    """getdents64(2): how many bytes of `struct linux_dirent64` records it put into `buffer`; 0 at the end."""
    got = int(
        _libc.syscall(_SYS_GETDENTS64, ffi.cast("int", fd), ffi.from_buffer(buffer), ffi.cast("size_t", len(buffer)))
    )
    _check(got, "getdents64")
    return got


def setns(fd: int, kind: int) -> None:
    """setns(2)."""
    _check(_libc.setns(fd, kind), "setns")


def seccomp_listen(program: bytes, flags: int) -> int:
    """seccomp(2) SECCOMP_SET_MODE_FILTER with a listener: its descriptor, close-on-exec.

    `program` are instructions of 8 bytes (struct sock_filter). It takes CAP_SYS_ADMIN or PR_SET_NO_NEW_PRIVS.
    """
    code = ffi.new("char[]", program)
    head = ffi.new("char[]", struct.pack("=H6xQ", len(program) // 8, int(ffi.cast("uintptr_t", code))))
    wanted = ffi.cast("unsigned long", flags | SECCOMP_FILTER_FLAG_NEW_LISTENER)
    fd = int(_libc.syscall(SYS_SECCOMP, ffi.cast("long", SECCOMP_SET_MODE_FILTER), wanted, head))
    _check(fd, "seccomp")
    return fd


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """pidfd_getfd(2): a duplicate, close-on-exec, of another process's descriptor. EBADF, EPERM, ESRCH."""
    found = int(_libc.syscall(SYS_PIDFD_GETFD, ffi.cast("long", pidfd), ffi.cast("long", fd), ffi.cast("long", 0)))
    _check(found, "pidfd_getfd")
    return found


def has_x32() -> bool:
    """Whether this kernel has the calls of x32: the numbers of x86_64 with bit 30 set (CONFIG_X86_X32_ABI)."""
    return os.uname().machine == "x86_64" and int(_libc.syscall(ffi.cast("long", 0x4000_0000 | 39))) > 0


def open_in_root(directory: int, path: bytes, flags: int) -> int:
    """openat2(2) with RESOLVE_IN_ROOT: `directory` is the root that `path` and all links on the way are walked from."""
    how = ffi.new("char[]", struct.pack("=QQQ", flags, 0, RESOLVE_IN_ROOT))
    found = _libc.syscall(SYS_OPENAT2, ffi.cast("long", directory), _c(path), how, ffi.cast("long", 24))
    _check(int(found), "openat2")
    return int(found)


class Memory:
    """Reads of other processes' memory into one buffer of `size` bytes: process_vm_readv(2). Not for two threads."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._buffer = ffi.new("char[]", size)
        self._view = ffi.buffer(self._buffer)
        self._local = ffi.new("uint64_t[2]", [int(ffi.cast("uintptr_t", self._buffer)), size])
        self._remote = ffi.new("uint64_t[2]")

    def read(self, pid: int, address: int, size: int) -> bytes:
        """What stands at `address` of a process or thread, at most `size` bytes; fewer where a page is not there.

        Raises OSError: EFAULT, EPERM (no right to ptrace it), ESRCH.
        """
        self._remote[0], self._remote[1] = address, min(size, self.size)
        got = int(_libc.process_vm_readv(pid, self._local, 1, self._remote, 1, 0))
        _check(got, "process_vm_readv")
        return bytes(self._view[:got])
