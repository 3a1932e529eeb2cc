"""What a filesystem may lack of attributes, locks, room and copies: asked once, by files that are removed again.

A call that the filesystem does not have answers EOPNOTSUPP, ENOSYS, ENOTTY, or EINVAL where the manual page has that
for it. Any other answer is no fact: the cases then say what is wrong.
"""

import errno
import os
import struct
from collections.abc import Callable

from perfused.conformance.filesystem import calls_data, calls_locks, calls_names
from perfused.conformance.filesystem.calls import CALLS, error_name, release

_ABSENT = (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY)
#: the modules that offer calls, which being imported is enough for
CALLERS = (calls_data, calls_locks, calls_names)
#: bytes of the largest values that cases ask for, beyond those that any filesystem with attributes takes
LARGE = (8 << 10, 16 << 10, 32 << 10, 64 << 10)
#: bytes of a piece of data or of a hole that every filesystem with holes keeps apart
PIECE = 64 << 10


def probe(lacking: dict[str, str]) -> None:
    """Add what is not there, with the reason. The working directory is empty, and left so."""
    fd = os.open("o", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        _attributes(lacking)
        _locks(lacking, fd)
        _room(lacking, fd)
        _pages(lacking, fd)
        _try(lacking, "copy", "copy_file_range(2)", lambda: _copied(fd), (errno.EXDEV, errno.EINVAL))
    finally:
        os.close(fd)
        os.unlink("o")
        release()


def _try(lacking: dict[str, str], fact: str, what: str, call: Callable[[], object], more: tuple[int, ...] = ()) -> None:
    try:
        call()
    except OSError as bad:
        if bad.errno in (*_ABSENT, *more):
            lacking[fact] = f"{what} is not there: {error_name(bad.errno or 0)}"


def _attributes(lacking: dict[str, str]) -> None:
    for fact, name in (("xattr", "user.x"), ("trusted", "trusted.x"), ("security", "security.x")):
        _try(lacking, fact, f"the attribute {name}", lambda name=name: os.setxattr("o", name, b"v"))  # type: ignore[misc]
    for size in LARGE:
        _try(
            lacking, f"xattr_{size >> 10}k", f"an attribute of {size} bytes",
            lambda size=size: os.setxattr("o", "user.x", bytes(size)),  # type: ignore[misc]
            (errno.ENOSPC, errno.E2BIG, errno.ERANGE, errno.EDQUOT),
        )  # fmt: skip
    entries = ((1, 6, ~0), (2, 4, 7001), (4, 4, ~0), (0x10, 4, ~0), (0x20, 0, ~0))
    value = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, mode, who & 0xFFFFFFFF) for tag, mode, who in entries
    )
    _try(lacking, "acl", "an access control list", lambda: os.setxattr("o", "system.posix_acl_access", value))


def _locks(lacking: dict[str, str], fd: int) -> None:
    more = (errno.ENOLCK, errno.EINVAL)
    _try(lacking, "locks", "a lock of fcntl(2)", lambda: CALLS["lock"](fd, "write", 0, 1), more)
    CALLS["lock"](fd, "free") if "locks" not in lacking else None
    _try(lacking, "ofd", "a lock of an open file description", lambda: CALLS["lock_ofd"](fd, "write", 0, 1), more)
    CALLS["lock_ofd"](fd, "free") if "ofd" not in lacking else None
    _try(lacking, "flock", "flock(2)", lambda: CALLS["flock"](fd, "write"), more)
    CALLS["flock"](fd, "free") if "flock" not in lacking else None


def _room(lacking: dict[str, str], fd: int) -> None:
    modes = {
        "allocate": 0, "keep_size": calls_data.KEEP_SIZE, "punch": calls_data.PUNCH_HOLE | calls_data.KEEP_SIZE,
        "zero": calls_data.ZERO_RANGE, "zero_keep": calls_data.ZERO_RANGE | calls_data.KEEP_SIZE,
        "collapse": calls_data.COLLAPSE, "insert": calls_data.INSERT,
    }  # fmt: skip
    for fact, mode in modes.items():
        os.ftruncate(fd, 4 * PIECE)
        _try(
            lacking, fact, f"mode {mode} of fallocate(2)",
            lambda mode=mode: CALLS["fallocate"](fd, mode, PIECE, PIECE),  # type: ignore[misc]
        )  # fmt: skip
    os.ftruncate(fd, 0)
    os.ftruncate(fd, 16 * PIECE)
    os.pwrite(fd, b"x" * PIECE, 8 * PIECE)
    try:
        holes = os.lseek(fd, 0, os.SEEK_DATA) == 8 * PIECE and os.lseek(fd, 8 * PIECE, os.SEEK_HOLE) == 9 * PIECE
    except OSError:
        holes = False
    if not holes:
        lacking["holes"] = "the filesystem does not tell where holes of 64 KiB are, as it may"
    os.ftruncate(fd, 0)


def _pages(lacking: dict[str, str], fd: int) -> None:
    os.ftruncate(fd, 4096)
    _try(lacking, "map", "a shared mapping", lambda: CALLS["map"](fd, 4096), (errno.ENODEV, errno.EACCES))
    _try(
        lacking, "direct", "O_DIRECT",
        lambda: os.close(os.open("o", os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)), (errno.EINVAL,),
    )  # fmt: skip


def _copied(fd: int) -> None:
    CALLS["copy_file_range"](fd, fd, 1, 0, 100)
