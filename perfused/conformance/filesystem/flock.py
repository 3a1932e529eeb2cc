"""flock(2) without waiting: locks of an open file description, shared by its descriptors and by children."""

import os
from collections.abc import Iterator
from errno import EAGAIN, EBADF, EINVAL
from typing import Any

from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import MEMBER, OTHER, USER


def cases() -> Iterator[Case]:
    """One by one."""
    for kind in ("regular", "dir"):
        for held in ("read", "write"):
            for wanted in ("read", "write"):
                yield case(f"flock/conflict/{kind}/{held}-{wanted}", conflict, kind, held, wanted, needs=["flock"])
    for name, body in {
        "convert": convert, "two-opens": two_opens, "duplicate-shares": duplicate, "child-shares": child,
        "close-of-other-keeps": close_of_other, "last-close-drops": last_close, "access-mode": access_mode,
        "unlinked": unlinked, "bad": bad, "three": three, "attributes-stay": stay, "names": names,
    }.items():  # fmt: skip
        yield case(f"flock/lock/{name}", body, needs=["flock"])


def _two(stage: Stage, kind: str = "regular") -> tuple[Any, Any]:
    stage.make(kind, "x", 0o777)
    flags = os.O_RDONLY if kind == "dir" else os.O_RDWR
    return stage.setup("open", "x", flags, who=USER), stage.setup("open", "x", flags, who=OTHER)


def conflict(stage: Stage, kind: str, held: str, wanted: str) -> None:
    """Many share, one excludes."""
    one, two = _two(stage, kind)
    stage.expect(0, "flock", one, held, who=USER)
    stage.expect(EAGAIN if "write" in (held, wanted) else 0, "flock", two, wanted, who=OTHER, label="wanted")
    stage.expect(0, "flock", two, "free", who=OTHER)
    stage.expect(0, "flock", one, "free", who=USER)
    stage.expect(0, "flock", two, wanted, who=OTHER, label="wanted-again")


def convert(stage: Stage) -> None:
    """A shared lock becomes an exclusive one where nobody shares it, and the other way always."""
    one, two = _two(stage)
    stage.expect(0, "flock", one, "read", who=USER)
    stage.expect(0, "flock", one, "write", who=USER)
    stage.expect(EAGAIN, "flock", two, "read", who=OTHER)
    stage.expect(0, "flock", one, "read", who=USER, label="back")
    stage.expect(0, "flock", two, "read", who=OTHER)
    stage.expect(EAGAIN, "flock", one, "write", who=USER, label="shared-EAGAIN")


def two_opens(stage: Stage) -> None:
    """Two opens of one process are in each other's way."""
    one, _ = _two(stage)
    again = stage.setup("open", "x", os.O_RDWR, who=USER)
    stage.expect(0, "flock", one, "write", who=USER)
    stage.expect(EAGAIN, "flock", again, "write", who=USER)
    stage.expect(EAGAIN, "flock", again, "read", who=USER)
    stage.expect(0, "flock", again, "free", who=USER, label="unlocks-nothing")
    stage.expect(EAGAIN, "flock", again, "write", who=USER, label="still-EAGAIN")


def duplicate(stage: Stage) -> None:
    """Descriptors made by dup(2) are one: what one locks the other unlocks."""
    one, two = _two(stage)
    again = stage.setup("dup", one, who=USER)
    stage.expect(0, "flock", one, "write", who=USER)
    stage.expect(0, "flock", again, "write", who=USER, label="same-lock")
    stage.expect(0, "flock", again, "free", who=USER)
    stage.expect(0, "flock", two, "write", who=OTHER)
    stage.expect(EAGAIN, "flock", one, "read", who=USER)


def child(stage: Stage) -> None:
    """A child shares the lock: its end leaves it, its unlocking takes it away."""
    one, two = _two(stage)
    stage.expect(0, "flock", one, "write", who=USER)
    stage.expect(0, "in_child", "flock", one, "write", who=USER, label="child-same-lock")
    stage.expect(0, "in_child", "close", one, who=USER, label="child-closes")
    stage.expect(EAGAIN, "flock", two, "write", who=OTHER)
    stage.expect(0, "in_child", "flock", one, "free", who=USER, label="child-unlocks")
    stage.expect(0, "flock", two, "write", who=OTHER)


def close_of_other(stage: Stage) -> None:
    """Closing another open of the file, or one of two duplicates, keeps it."""
    one, two = _two(stage)
    again = stage.setup("open", "x", os.O_RDWR, who=USER)
    third = stage.setup("dup", one, who=USER)
    stage.expect(0, "flock", one, "write", who=USER)
    stage.expect(0, "close", again, who=USER)
    stage.expect(EAGAIN, "flock", two, "write", who=OTHER, label="other-open-closed")
    stage.expect(0, "close", one, who=USER)
    stage.expect(EAGAIN, "flock", two, "write", who=OTHER, label="duplicate-closed")
    stage.expect(0, "close", third, who=USER)
    stage.expect(0, "flock", two, "write", who=OTHER, label="last-closed")


def last_close(stage: Stage) -> None:
    """The last close gives it up, also that of a process that ends."""
    one, two = _two(stage)
    stage.expect(0, "in_child", "all_of", ("open", "x", os.O_RDWR), ("flock", one, "free"), who=USER)
    stage.expect(0, "flock", one, "write", who=USER)
    stage.expect(0, "close", one, who=USER)
    stage.expect(0, "flock", two, "write", who=OTHER)


def access_mode(stage: Stage) -> None:
    """A file may be locked however it was opened."""
    stage.make("regular", "x", 0o666)
    for name, flags in (("reading", os.O_RDONLY), ("writing", os.O_WRONLY), ("both", os.O_RDWR)):
        fd = stage.setup("open", "x", flags, who=USER)
        for kind in ("read", "write"):
            stage.expect(0, "flock", fd, kind, who=USER, label=f"{name}-{kind}")
        stage.setup("close", fd, who=USER)


def unlinked(stage: Stage) -> None:
    """A file without a name is locked as before."""
    one, two = _two(stage)
    stage.expect(0, "flock", one, "write", who=USER)
    stage.expect(0, "unlink", "x")
    stage.expect(EAGAIN, "flock", two, "write", who=OTHER)
    stage.expect(0, "flock", one, "free", who=USER)
    stage.expect(0, "flock", two, "write", who=OTHER)


def bad(stage: Stage) -> None:
    """An operation that is none, no descriptor, a path alone."""
    one, two = _two(stage)
    stage.expect(EINVAL, "flock_number", one, 0, who=USER, label="none-EINVAL")
    stage.expect(EINVAL, "flock_number", one, 64, who=USER, label="unknown-EINVAL")
    stage.expect(EBADF, "flock", 9999, "read", who=USER, label="no-descriptor-EBADF")
    path = stage.setup("open", "x", os.O_PATH, who=USER)
    stage.expect(EBADF, "flock", path, "read", who=USER, label="path-EBADF")
    stage.expect(0, "flock", two, "write", who=OTHER)


def three(stage: Stage) -> None:
    """All that share have to be gone."""
    one, two = _two(stage)
    third = stage.setup("open", "x", os.O_RDWR, who=MEMBER)
    stage.expect(0, "flock", one, "read", who=USER)
    stage.expect(0, "flock", two, "read", who=OTHER)
    stage.expect(EAGAIN, "flock", third, "write", who=MEMBER)
    stage.expect(0, "flock", one, "free", who=USER)
    stage.expect(EAGAIN, "flock", third, "write", who=MEMBER, label="one-left")
    stage.expect(0, "flock", two, "free", who=OTHER)
    stage.expect(0, "flock", third, "write", who=MEMBER)


def stay(stage: Stage) -> None:
    """No time moves, and nobody is kept from reading and writing."""
    one, two = _two(stage)
    before = stage.times("x")
    stage.expect(0, "flock", one, "write", who=USER)
    stage.expect(0, "flock", one, "free", who=USER)
    stage.moved(before, "x", "")
    stage.expect(0, "flock", one, "write", who=USER)
    stage.gives(3, "pwrite", two, b"abc", 0, who=OTHER)


def names(stage: Stage) -> None:
    """The lock is the file's, whatever its names."""
    one, _ = _two(stage)
    stage.setup("link", "x", "y")
    stage.setup("rename", "x", "z")
    stage.expect(0, "flock", one, "write", who=USER)
    for path in ("y", "z"):
        fd = stage.setup("open", path, os.O_RDWR, who=OTHER)
        stage.expect(EAGAIN, "flock", fd, "read", who=OTHER, label=f"{path}-EAGAIN")
