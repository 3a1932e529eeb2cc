"""statx(2): the same as stat(2), more of it, and only what is asked for."""

import os
from collections.abc import Iterator
from errno import EACCES, EBADF, EINVAL, ELOOP, ENOENT, ENOTDIR

from perfused import libc
from perfused.conformance.filesystem.calls import KINDS
from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import OTHER, USER

NOFOLLOW, NO_AUTOMOUNT, FORCE_SYNC, DONT_SYNC = libc.AT_SYMLINK_NOFOLLOW, 0x800, 0x2000, libc.AT_STATX_DONT_SYNC
BASIC, RESERVED = 0x7FF, 0x8000_0000
BITS = {"type": 1, "mode": 2, "nlink": 4, "uid": 8, "gid": 16, "atime": 32, "mtime": 64, "ctime": 128, "ino": 256,
        "size": 512, "blocks": 1024}  # fmt: skip


def cases() -> Iterator[Case]:
    """By kind, then one by one."""
    for kind in KINDS:
        yield case(f"statx/kinds/{kind}", agrees, kind)
    yield case("statx/masks", masks)
    yield case("statx/flags", flags)
    yield case("statx/descriptor", descriptor)
    yield case("statx/errors", errors)
    yield case("statx/sync", sync)
    yield case("statx/birth", birth, needs=["btime"])
    yield case("statx/changes", changes)
    yield case("statx/large", large)


def agrees(stage: Stage, kind: str) -> None:
    """Every field that stat(2) has is the same, for owner and others, after every change."""
    stage.make(kind, "x", 0o644, USER)
    for who in (USER, OTHER):
        stage.gives([], "statx_agrees", "x", NOFOLLOW, who=who, label=f"{who.name}-new")
    stage.setup("lchown", "x", 7101, 7102)
    stage.setup("utimensat", "x", (1000, 123_456_789), (5_000_000_000, 1), True)
    stage.gives([], "statx_agrees", "x", NOFOLLOW, label="changed")
    stage.setup("rename", "x", "y")
    stage.gives([], "statx_agrees", "y", NOFOLLOW, label="renamed")
    if kind != "dir":
        stage.setup("link", "y", "z")
        stage.gives([], "statx_agrees", "z", NOFOLLOW, label="linked")


def masks(stage: Stage) -> None:
    """What is asked for is there and its bit is set."""
    stage.make("regular", "x", 0o640, USER)
    stage.setup("truncate", "x", 12_345)
    full = stage.setup("statx", "x", BASIC)
    for name, bit in BITS.items():
        got = stage.expect(0, "statx", "x", bit, label=f"{name}-success")
        got = got if isinstance(got, dict) else {"mask": bit}
        stage.gives(True, "between", bit, got["mask"] & bit, bit, label=f"{name}-bit")
        field = "mode" if name == "type" else name
        full_value = full[field] if isinstance(full, dict) else 0
        value = got.get(field, 0) if isinstance(full, dict) else 0
        shift = {"type": 0o170000, "mode": 0o7777}.get(name, -1)
        stage.gives(True, "between", full_value & shift, value & shift, full_value & shift, label=f"{name}-value")
    stage.expect(0, "statx", "x", 0, label="nothing-success")
    stage.expect(0, "statx", "x", 0x7FFF_FFFF, label="everything-success")
    stage.expect(EINVAL, "statx", "x", RESERVED, label="reserved-EINVAL")


def flags(stage: Stage) -> None:
    """A link at the end is followed or not; no unknown flag, and not both ways of syncing."""
    stage.make("regular", "x")
    stage.setup("symlink", "x", "ln")
    stage.gives([], "statx_agrees", "ln", 0, label="followed")
    stage.gives([], "statx_agrees", "ln", NOFOLLOW, label="link-itself")
    stage.gives([], "statx_agrees", "x", NO_AUTOMOUNT, label="no-automount")
    stage.expect(EINVAL, "statx", "x", BASIC, FORCE_SYNC | DONT_SYNC, label="both-EINVAL")
    stage.expect(EINVAL, "statx", "x", BASIC, 0x80, label="unknown-EINVAL")


def descriptor(stage: Stage) -> None:
    """By a descriptor, of a path alone too, and without a name."""
    stage.make("regular", "x", 0o600, USER)
    for name, how in (("reader", os.O_RDONLY), ("path", os.O_PATH)):
        fd = stage.setup("open", "x", how)
        stage.gives([], "statx_agrees", fd, label=name)
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("unlink", "x")
    stage.setup("write", fd, b"hello")
    stage.gives([], "statx_agrees", fd, label="unlinked")
    found = stage.setup("statx", fd)
    found = found if isinstance(found, dict) else {"nlink": 0, "size": 5}
    stage.gives(True, "between", 0, found["nlink"], 0, label="no-links")
    stage.gives(True, "between", 5, found["size"], 5, label="size")


def errors(stage: Stage) -> None:
    """Paths are walked as ever."""
    stage.make("regular", "x")
    stage.make("dir", "d", 0o700)
    stage.make("regular", "d/x")
    stage.setup("symlink", "loop", "loop")
    stage.expect(ENOENT, "statx", "no")
    stage.expect(ENOENT, "statx", "", BASIC, 0, label="empty-ENOENT")
    stage.expect(ENOTDIR, "statx", "x/y")
    stage.expect(ELOOP, "statx", "loop")
    stage.expect(0, "statx", "loop", BASIC, NOFOLLOW, label="loop-itself")
    stage.expect(EACCES, "statx", "d/x", who=OTHER)
    stage.expect(0, "statx", "d", who=OTHER)
    stage.expect(EBADF, "statx", 9999, label="EBADF")


def sync(stage: Stage) -> None:
    """Whether it asks the server or not, on a quiet file it is told the same."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    for number, flag in enumerate((0, FORCE_SYNC, DONT_SYNC, FORCE_SYNC)):
        stage.setup("pwrite", fd, b"x" * 100, number * 1000)
        stage.gives([], "statx_agrees", "x", FORCE_SYNC, label=f"{number}-forced")
        stage.gives([], "statx_agrees", "x", flag, label=f"{number}-{flag:x}")
        found = stage.setup("statx", "x", BASIC, flag)
        size = found["size"] if isinstance(found, dict) else number * 1000 + 100
        stage.gives(True, "between", number * 1000 + 100, size, number * 1000 + 100, label=f"{number}-size")


def birth(stage: Stage) -> None:
    """When it was made does not change by whatever is done to it."""
    stage.make("regular", "x", 0o666)
    born = stage.setup("birth_time", "x")
    before = stage.times("x")
    stage.gives(True, "between", 0, born, before["x"].ctime, label="not-later-than-ctime")
    stage.setup("truncate", "x", 100)
    stage.setup("chmod", "x", 0o600)
    stage.setup("chown", "x", 7101, 7102)
    stage.setup("utimensat", "x", (1000, 0), (2000, 0))
    stage.setup("rename", "x", "y")
    stage.setup("link", "y", "z")
    stage.gives(born, "birth_time", "z", label="unchanged")


def changes(stage: Stage) -> None:
    """Times move in statx(2) as they do in stat(2)."""
    stage.make("regular", "x")
    before = stage.times("x")
    stage.setup("chmod", "x", 0o600)
    stage.moved(before, "x", "c")
    stage.gives([], "statx_agrees", "x")
    before = stage.times("x")
    stage.setup("truncate", "x", 5)
    stage.moved(before, "x", "mc")
    stage.gives([], "statx_agrees", "x", label="truncated")


def large(stage: Stage) -> None:
    """Sizes, times and numbers that 32 bits do not hold."""
    stage.make("regular", "x", uid=0xFFFF_FFF0, gid=0xFFFF_FFF1)
    stage.setup("truncate", "x", (1 << 40) + 5)
    stage.setup("utimensat", "x", ((1 << 33) + 1, 999_999_999), ((1 << 33) + 2, 1))
    stage.gives([], "statx_agrees", "x")
    stage.sees("x", size=(1 << 40) + 5, uid=0xFFFF_FFF0, gid=0xFFFF_FFF1)
