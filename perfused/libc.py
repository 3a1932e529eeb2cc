"""The daemon's system calls that Python does not have, through cffi in ABI mode.

Every function raises OSError with the errno of the call. Numbers and flags are those of the Linux headers; system calls
above 423 have one number on every architecture. Nothing here decides anything.
"""

import errno
import os
import struct
from typing import Any, NamedTuple

from perfused._libc_cffi import ffi

_libc: Any = ffi.dlopen(None)

SYS_STATMOUNT = 457
SYS_LISTMOUNT = 458
SYS_OPEN_TREE = 428
SYS_MOVE_MOUNT = 429
SYS_FSOPEN = 430
SYS_FSCONFIG = 431
SYS_FSMOUNT = 432
SYS_MOUNT_SETATTR = 442

CLONE_NEWNS = 0x0002_0000

FSOPEN_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
FSMOUNT_CLOEXEC = 1
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40

MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_SYNCHRONOUS = 0x10
MS_MANDLOCK = 0x40
MS_DIRSYNC = 0x80
MS_NOSYMFOLLOW = 0x100
MS_NOATIME = 0x400
MS_NODIRATIME = 0x800
MS_BIND = 0x1000
MS_REC = 0x4000
MS_SILENT = 0x8000
MS_PRIVATE = 0x4_0000
MS_RELATIME = 0x20_0000
MS_STRICTATIME = 0x100_0000
MS_LAZYTIME = 0x200_0000

MNT_FORCE = 1
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

STATMOUNT_MNT_BASIC = 0x2
LSMT_ROOT = 0xFFFF_FFFF_FFFF_FFFF
LISTMOUNT_REVERSE = 1

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_STATX_DONT_SYNC = 0x4000
AT_EMPTY_PATH = 0x1000
STATX_ATTR_APPEND = 0x20
STATX_BTIME = 0x800
#: stx_mnt_id in struct statx (linux/stat.h)
STATX_MNT_ID_OFFSET = 0x90

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4

#: nanoseconds that utimensat(2) takes for "now" and "leave it"
UTIME_NOW = 0x3FFF_FFFF
UTIME_OMIT = 0x3FFF_FFFE

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

CAP_DAC_READ_SEARCH = 2
CAP_SYS_ADMIN = 21

_CAPSET = {"x86_64": 126, "s390x": 185, "ppc64le": 184}.get(os.uname().machine, 91)
_CAP_VERSION_3 = 0x2008_0522


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ffi.errno
        raise OSError(code, os.strerror(code), what)
    return result


def _c(value: bytes | None) -> Any:
    return ffi.NULL if value is None else ffi.new("char[]", value)


def _long(value: int) -> Any:
    return ffi.cast("long", value)


def mount(source: bytes, target: bytes, fstype: bytes | None, flags: int, data: bytes | None) -> None:
    """mount(2)."""
    _check(_libc.mount(_c(source), _c(target), _c(fstype), flags, _c(data)), "mount")


def umount2(target: bytes, flags: int) -> None:
    """umount2(2); `flags` are MNT_FORCE, MNT_DETACH, UMOUNT_NOFOLLOW."""
    _check(_libc.umount2(_c(target), flags), "umount2")


def fsopen(fstype: bytes) -> int:
    """fsopen(2), close-on-exec: a descriptor of a filesystem context, whose read(2) gives the kernel's messages."""
    return _check(_libc.syscall(SYS_FSOPEN, _c(fstype), _long(FSOPEN_CLOEXEC)), "fsopen")


def fsconfig_string(fd: int, key: bytes, value: bytes) -> None:
    """fsconfig(2) FSCONFIG_SET_STRING: values of at most 255 bytes."""
    result = _libc.syscall(SYS_FSCONFIG, _long(fd), _long(FSCONFIG_SET_STRING), _c(key), _c(value), _long(0))
    _check(result, f"fsconfig {key.decode(errors='replace')}")


def fsconfig_flag(fd: int, key: bytes) -> None:
    """fsconfig(2) FSCONFIG_SET_FLAG."""
    result = _libc.syscall(SYS_FSCONFIG, _long(fd), _long(FSCONFIG_SET_FLAG), _c(key), ffi.NULL, _long(0))
    _check(result, f"fsconfig {key.decode(errors='replace')}")


def fsconfig_create(fd: int) -> None:
    """fsconfig(2) FSCONFIG_CMD_CREATE: make the superblock."""
    result = _libc.syscall(SYS_FSCONFIG, _long(fd), _long(FSCONFIG_CMD_CREATE), ffi.NULL, ffi.NULL, _long(0))
    _check(result, "fsconfig create")


def fsmount(fd: int, attributes: int) -> int:
    """fsmount(2), close-on-exec: a descriptor of a mount that stands nowhere yet; `attributes` are MOUNT_ATTR_*."""
    return _check(_libc.syscall(SYS_FSMOUNT, _long(fd), _long(FSMOUNT_CLOEXEC), _long(attributes)), "fsmount")


def move_mount(mount_fd: int, target_fd: int) -> None:
    """move_mount(2) between two descriptors: no path is walked."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    empty = _c(b"")
    _check(_libc.syscall(SYS_MOVE_MOUNT, _long(mount_fd), empty, _long(target_fd), empty, _long(flags)), "move_mount")


def open_tree_clone(fd: int) -> int:
    """open_tree(2) OPEN_TREE_CLONE: a mount of what a descriptor holds, which stands nowhere; close-on-exec, O_PATH."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH
    return _check(_libc.syscall(SYS_OPEN_TREE, _long(fd), _c(b""), _long(flags)), "open_tree")


def mount_setattr(fd: int, attributes: int) -> None:
    """mount_setattr(2): set MOUNT_ATTR_* on the mount that a descriptor is the root of."""
    wanted = ffi.new("char[]", struct.pack("=QQQQ", attributes, 0, 0, 0))
    result = _libc.syscall(SYS_MOUNT_SETATTR, _long(fd), _c(b""), _long(AT_EMPTY_PATH), wanted, _long(32))
    _check(result, "mount_setattr")


def setns(fd: int, kind: int) -> None:
    """setns(2)."""
    _check(_libc.setns(fd, kind), "setns")


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(_libc.unshare(flags), "unshare")


def prctl(option: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> int:
    """prctl(2) with integer arguments."""
    return _check(_libc.prctl(option, a, b, c, d), "prctl")


def set_name(name: str) -> None:
    """Name this thread as ps(1) shows it: the first 15 bytes of `name`."""
    text = ffi.new("char[]", name.encode()[:15])
    _libc.prctl(PR_SET_NAME, int(ffi.cast("uintptr_t", text)), 0, 0, 0)


def drop_bounding_set() -> None:
    """Empty the capability bounding set, as far as this process may: while it still has CAP_SETPCAP."""
    for capability in range(64):
        if _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break


def drop_capabilities() -> None:
    """Empty the ambient, permitted, effective and inheritable sets of this process, for good."""
    _libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    set_capabilities(0, 0)


def set_capabilities(effective: int, permitted: int) -> None:
    """capset(2): exactly these, as bits, and nothing to inherit."""
    header = ffi.new("char[]", struct.pack("=Ii", _CAP_VERSION_3, 0))
    words = [each >> shift & 0xFFFF_FFFF for shift in (0, 32) for each in (effective, permitted, 0)]
    _check(_libc.syscall(_CAPSET, header, ffi.new("char[]", struct.pack("=6I", *words))), "capset")


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2); `mode` is FALLOC_FL_* (linux/falloc.h), `offset` and `length` are bytes."""
    _check(_libc.fallocate(fd, mode, offset, length), "fallocate")


def filesystem_type(fd: int) -> int:
    """f_type of fstatfs(2) (linux/magic.h) for any descriptor, O_PATH too: the first word of struct statfs
    (its first half on s390x)."""
    buffer = ffi.new("long[32]")
    _check(_libc.fstatfs(fd, buffer), "fstatfs")
    word = int(buffer[0])
    return (word >> 32 if os.uname().machine == "s390x" else word) & 0xFFFF_FFFF


def mount_id_at(directory: int, name: bytes) -> int:
    """The id in mountinfo of what is mounted on an entry of a directory, by statx(2); links are not followed.

    Asks for nothing, so that no filesystem is asked: the mount id is the VFS's own (Linux 5.8).
    """
    buffer = ffi.new("char[256]")
    _check(_libc.statx(directory, _c(name), AT_SYMLINK_NOFOLLOW | AT_STATX_DONT_SYNC, 0, buffer), "statx")
    return int(struct.unpack_from("=Q", ffi.buffer(buffer), STATX_MNT_ID_OFFSET)[0])


class Facts(NamedTuple):
    """What statx(2) says of a file: its filesystem's device numbers, its mode, STATX_ATTR_* attributes."""

    major: int
    minor: int
    mode: int
    attributes: int


def facts(fd: int) -> Facts:
    """What the kernel knows of an open file without asking its filesystem (AT_STATX_DONT_SYNC)."""
    buffer = ffi.new("char[256]")
    _check(_libc.statx(fd, _c(b""), AT_EMPTY_PATH | AT_STATX_DONT_SYNC, 0x3, buffer), "statx")
    view = ffi.buffer(buffer)
    (attributes,) = struct.unpack_from("=Q", view, 0x08)
    (mode,) = struct.unpack_from("=H", view, 0x1C)
    major, minor = struct.unpack_from("=II", view, 0x88)
    return Facts(int(major), int(minor), int(mode), int(attributes))


def birth_time(path: bytes) -> int | None:
    """When a file was made, in nanoseconds since the epoch, by statx(2); None where its filesystem does not say.

    A symbolic link at the end is not followed. Raises OSError.
    """
    buffer = ffi.new("char[256]")
    _check(_libc.statx(AT_FDCWD, _c(path), AT_SYMLINK_NOFOLLOW, STATX_BTIME, buffer), "statx")
    view = ffi.buffer(buffer)
    (mask,) = struct.unpack_from("=I", view, 0)
    seconds, nanoseconds = struct.unpack_from("=qI", view, 0x50)
    return int(seconds * 1_000_000_000 + nanoseconds) if mask & STATX_BTIME else None


def utimensat(path: bytes, atime: tuple[int, int], mtime: tuple[int, int], flags: int) -> None:
    """utimensat(2) below the working directory: seconds and nanoseconds each, which may be UTIME_NOW or UTIME_OMIT."""
    _check(_libc.utimensat(AT_FDCWD, _c(path), ffi.new("long[4]", [*atime, *mtime]), flags), "utimensat")


def futimens(fd: int, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
    """futimens(3): as `utimensat`, of a descriptor."""
    _check(_libc.futimens(fd, ffi.new("long[4]", [*atime, *mtime])), "futimens")


def renameat2(old: bytes, new: bytes, flags: int) -> None:
    """renameat2(2) below the working directory; `flags` are RENAME_*."""
    _check(_libc.renameat2(AT_FDCWD, _c(old), AT_FDCWD, _c(new), flags), "renameat2")


def unique_mount_id(mount_id: int, minor: int) -> int:
    """The id, never used twice, of the mount that mountinfo calls `mount_id` on superblock 0:`minor`.

    By listmount(2) and statmount(2), which ask no filesystem; 0 where it is not there or the kernel (before 6.8) has
    neither.
    """
    last, order = 0, LISTMOUNT_REVERSE  # it is mostly the newest that is asked for
    while True:
        ids = ffi.new("uint64_t[512]")
        request = ffi.new("char[]", struct.pack("=IIQQ", 24, 0, LSMT_ROOT, last))
        count = int(_libc.syscall(SYS_LISTMOUNT, request, ids, _long(512), _long(order)))
        if count < 0 and order and ffi.errno == errno.EINVAL:
            order = 0  # before 6.11 the oldest come first
            continue
        if count <= 0:
            return 0
        for at in range(count):
            if _mount_basics(int(ids[at])) == (mount_id, minor):
                return int(ids[at])
        last = int(ids[count - 1])


def mount_stands(unique: int) -> bool:
    """Whether a mount, by its unique id, is still in this process's mount namespace."""
    return _mount_basics(unique) is not None


def _mount_basics(unique: int) -> tuple[int, int] | None:
    """(id in mountinfo, minor number of the superblock) of a mount, None where it is gone (struct statmount)."""
    request = ffi.new("char[]", struct.pack("=IIQQ", 24, 0, unique, STATMOUNT_MNT_BASIC | 0x1))
    buffer = ffi.new("char[1024]")
    if _libc.syscall(SYS_STATMOUNT, request, buffer, _long(1024), _long(0)) < 0:
        return None
    view = ffi.buffer(buffer)
    (minor,) = struct.unpack_from("=I", view, 20)
    (mount_id,) = struct.unpack_from("=I", view, 56)
    return mount_id, minor
