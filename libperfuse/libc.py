"""The system calls a filesystem needs and Python does not have, or not on descriptors: through cffi in ABI mode.

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
