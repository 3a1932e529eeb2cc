"""What lies between mounts: EROFS on a read-only one, EBUSY at the place of one, EXDEV from one to another.

The mounts are binds in a namespace of the asking process alone.
"""

import os
from collections.abc import Iterator
from errno import EBUSY, EROFS, EXDEV

from perfused import libc
from perfused.conformance.filesystem.calls import KINDS
from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import MOUNTER
from perfused.conformance.filesystem.operations import OPERATIONS, Operation


def cases() -> Iterator[Case]:
    """All of them need a mount namespace."""
    for operation in OPERATIONS:
        if operation.call not in ("link", "rename"):
            yield case(f"{operation.call}/read-only/{operation.name}", read_only, operation,
                       needs=["namespace", *operation.needs])  # fmt: skip
    yield case("link/read-only", read_only_pairs, "link", needs=["namespace"])
    yield case("rename/read-only", read_only_pairs, "rename", needs=["namespace"])
    yield case("access/read-only/write", read_only_access, needs=["namespace"])
    yield case("rmdir/busy", busy_rmdir, needs=["namespace"])
    yield case("unlink/busy", busy_unlink, needs=["namespace"])
    yield case("rename/busy", busy_rename, needs=["namespace"])
    yield case("rename/busy-exchange", busy_exchange, needs=["namespace", "exchange"])
    yield case("link/between-mounts", between_mounts, "link", needs=["namespace"])
    yield case("rename/between-mounts", between_mounts, "rename", needs=["namespace"])
    for kind in KINDS:
        yield case(f"rename/other-filesystem/{kind}", other_filesystem, "rename", kind, needs=["elsewhere"])
        if kind != "dir":
            yield case(f"link/other-filesystem/{kind}", other_filesystem, "link", kind, needs=["elsewhere"])


def read_only(stage: Stage, operation: Operation) -> None:
    """What modifies is refused and does nothing; what does not, works."""
    stage.make("dir", "src")
    stage.make("dir", "ro")
    operation.prepare(stage, "src/x")
    stage.setup("bind_mount", "src", "ro", True, who=MOUNTER)
    if operation.modifies:
        operation.expect(stage, EROFS, "ro/x", MOUNTER, label="EROFS")
        operation.undone(stage, "src/x", "nothing-done")
    else:
        operation.expect(stage, 0, "ro/x", MOUNTER, label="success")


def read_only_pairs(stage: Stage, name: str) -> None:
    """Two paths on one read-only mount."""
    stage.make("dir", "src")
    stage.make("dir", "ro")
    stage.make("regular", "src/a")
    stage.setup("bind_mount", "src", "ro", True, who=MOUNTER)
    stage.expect(EROFS, name, "ro/a", "ro/b", who=MOUNTER)
    stage.holds("src", "a")


def read_only_access(stage: Stage) -> None:
    """Nobody may write to a file there, though a fifo is no part of the filesystem."""
    stage.make("dir", "src")
    stage.make("dir", "ro")
    stage.make("regular", "src/a", 0o666)
    stage.make("fifo", "src/p", 0o666)
    stage.setup("bind_mount", "src", "ro", True, who=MOUNTER)
    stage.expect(EROFS, "open", "ro/a", os.O_RDWR, who=MOUNTER, label="regular-EROFS")
    stage.expect(0, "open", "ro/p", os.O_RDWR | os.O_NONBLOCK, who=MOUNTER, label="fifo-success")
    stage.expect(0, "access", "ro/a", os.R_OK, who=MOUNTER, label="read-success")


def busy_rmdir(stage: Stage) -> None:
    """A mount holds its directory, but only where it is seen."""
    _mounted(stage)
    stage.expect(EBUSY, "rmdir", "mp", who=MOUNTER)
    stage.sees("mp", kind="dir")
    stage.expect(0, "rmdir", "mp", label="elsewhere-success")
    stage.missing("mp")


def busy_unlink(stage: Stage) -> None:
    """So does a mount on a file."""
    stage.make("regular", "src")
    stage.make("regular", "mp")
    stage.setup("bind_mount", "src", "mp", who=MOUNTER)
    stage.expect(EBUSY, "unlink", "mp", who=MOUNTER)
    stage.sees("mp", kind="regular")
    stage.expect(0, "unlink", "mp", label="elsewhere-success")
    stage.missing("mp")


def busy_rename(stage: Stage) -> None:
    """Neither the source nor the target of rename(2) may be a mount."""
    _mounted(stage)
    stage.make("dir", "d")
    stage.expect(EBUSY, "rename", "mp", "x", who=MOUNTER, label="from-EBUSY")
    stage.expect(EBUSY, "rename", "d", "mp", who=MOUNTER, label="onto-EBUSY")
    stage.holds(".", "d", "mp", "src")
    stage.expect(0, "rename", "mp", "x", label="elsewhere-success")


def busy_exchange(stage: Stage) -> None:
    """Nor one of the two that change places."""
    _mounted(stage)
    stage.make("dir", "d")
    stage.expect(EBUSY, "renameat2", "mp", "d", libc.RENAME_EXCHANGE, who=MOUNTER, label="from-EBUSY")
    stage.expect(EBUSY, "renameat2", "d", "mp", libc.RENAME_EXCHANGE, who=MOUNTER, label="onto-EBUSY")


def _mounted(stage: Stage) -> None:
    stage.make("dir", "src")
    stage.make("dir", "mp")
    stage.setup("bind_mount", "src", "mp", who=MOUNTER)


def between_mounts(stage: Stage, name: str) -> None:
    """Two mounts of one filesystem are two."""
    _mounted(stage)
    stage.make("regular", "a")
    stage.make("regular", "src/b")
    stage.expect(EXDEV, name, "a", "mp/x", who=MOUNTER, label="into-EXDEV")
    stage.expect(EXDEV, name, "mp/b", "x", who=MOUNTER, label="out-EXDEV")
    stage.expect(0, name, "mp/b", "mp/x", who=MOUNTER, label="inside-success")
    stage.sees("a", kind="regular", nlink=1)
    stage.sees("src/x", kind="regular")


def other_filesystem(stage: Stage, name: str, kind: str) -> None:
    """No file gets to another filesystem, and none is made there."""
    stage.make(kind, "a")
    target = f"{stage.facts.elsewhere}/posix-suite-{os.getpid()}"
    before = stage.times("a", ".")
    stage.expect(EXDEV, name, "a", target, label="EXDEV")
    stage.missing(target, label="nothing-there")
    stage.moved(before, "a", "")
    stage.moved(before, ".", "")
