"""Answers made from what a filesystem has at hand: stat results, float seconds, nanoseconds since 1970.

Shorter than `wire.codec`'s structs, and typed; the structs themselves are answers just as well. Never here: packing.
"""

import os

from wire import codec

_BILLION = 1_000_000_000
_U64 = (1 << 64) - 1


def valid(seconds: float) -> tuple[int, int]:
    """A time to keep something, as fuse.h has it: seconds and nanoseconds. ValueError for a negative one."""
    if seconds < 0:
        raise ValueError(f"a time to keep something is 0 or more, got {seconds}")
    whole = int(seconds)
    return whole, int((seconds - whole) * _BILLION)


def kernel_device(device: int) -> int:
    """os.makedev's number as `attr.rdev` has it: 32 bits, 12 of the major, 20 of the minor."""
    major, minor = os.major(device), os.minor(device)
    return minor & 0xFF | (major & 0xFFF) << 8 | (minor & 0xFFF00) << 12


def user_device(rdev: int) -> int:
    """`mknod_in.rdev` as os.mknod takes it."""
    return os.makedev(rdev >> 8 & 0xFFF, rdev & 0xFF | rdev >> 12 & 0xFFF00)


def attr(
    ino: int,
    mode: int,
    *,
    size: int = 0,
    nlink: int = 1,
    uid: int = 0,
    gid: int = 0,
    rdev: int = 0,
    atime_ns: int = 0,
    mtime_ns: int = 0,
    ctime_ns: int = 0,
    blocks: int | None = None,
    blksize: int = 4096,
    flags: int = 0,
) -> codec.Attr:
    """fuse_attr. `mode` has the type (stat.S_IFREG | 0o644); `rdev` is os.makedev's; times may lie before 1970.

    `blocks` of 512 bytes follow from `size` where they are not given.
    """
    return codec.Attr(
        ino, size, (size + 511) // 512 if blocks is None else blocks,
        atime_ns // _BILLION & _U64, mtime_ns // _BILLION & _U64, ctime_ns // _BILLION & _U64,
        atime_ns % _BILLION, mtime_ns % _BILLION, ctime_ns % _BILLION,
        mode, nlink, uid, gid, kernel_device(rdev) if rdev else 0, blksize, flags,
    )  # fmt: skip


def attr_of(found: os.stat_result) -> codec.Attr:
    """fuse_attr of what os.stat found, to the nanosecond."""
    # Its ten items are whole numbers, times are rounded down; tuple.__new__ takes a third of what codec.Attr() does.
    items: tuple[int, ...] = found  # type: ignore[assignment]
    mode, ino, _, nlink, uid, gid, size, a, m, c = items
    if a < 0 or m < 0 or c < 0:
        a, m, c = a & _U64, m & _U64, c & _U64
    return tuple.__new__(
        codec.Attr,
        (
            ino, size, found.st_blocks, a, m, c,
            found.st_atime_ns % _BILLION, found.st_mtime_ns % _BILLION, found.st_ctime_ns % _BILLION,
            mode, nlink, uid, gid, kernel_device(found.st_rdev) if found.st_rdev else 0, found.st_blksize, 0,
        ),
    )  # fmt: skip


def attr_out(found: codec.Attr, attr_valid: float = 0.0) -> codec.AttrOut:
    """The answer to GETATTR and SETATTR: attributes, and seconds that the kernel may keep them."""
    return codec.AttrOut(*valid(attr_valid), 0, found)


def entry_out(
    nodeid: int, found: codec.Attr, entry_valid: float = 0.0, attr_valid: float = 0.0, generation: int = 0
) -> codec.EntryOut:
    """The answer to LOOKUP and whatever makes an object: seconds to keep the name for, and the attributes."""
    entry, kept = valid(entry_valid), valid(attr_valid)
    return codec.EntryOut(nodeid, generation, entry[0], kept[0], entry[1], kept[1], found)


def no_entry(entry_valid: float) -> codec.EntryOut:
    """The answer to LOOKUP that there is no such name, which the kernel may believe for `entry_valid` seconds."""
    seconds, nanoseconds = valid(entry_valid)
    return codec.entry_out.make(entry_valid=seconds, entry_valid_nsec=nanoseconds)


def statfs_out(found: os.statvfs_result) -> codec.StatfsOut:
    """The answer to STATFS from what os.statvfs found."""
    return codec.StatfsOut(
        codec.kstatfs.make(
            blocks=found.f_blocks, bfree=found.f_bfree, bavail=found.f_bavail, files=found.f_files,
            ffree=found.f_ffree, bsize=found.f_bsize, namelen=found.f_namemax, frsize=found.f_frsize,
        )
    )  # fmt: skip


def dirent_type(mode: int) -> int:
    """The DT_ type of a directory entry from a mode (IFTODT in dirent.h)."""
    return mode >> 12 & 0xF
