"""rename(2) onto a name that is taken: every kind of file onto every other."""

import os
from collections.abc import Iterator
from errno import EISDIR, ENOENT, ENOTDIR, ENOTEMPTY
from typing import Any

from perfused.conformance.filesystem.calls import KINDS, NONDIRS
from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import OTHER, ROOT, USER, Who


def outcome(old: str, new: str) -> tuple[str, int]:
    """What rename(2) returns for these two kinds."""
    if old == "dir" and new != "dir":
        return "ENOTDIR", ENOTDIR
    if old != "dir" and new == "dir":
        return "EISDIR", EISDIR
    return "success", 0


def cases() -> Iterator[Case]:
    """All 49 pairs, by root and by a user, in one directory and between two."""
    for old in KINDS:
        for new in KINDS:
            name = f"{old}-on-{new}"
            yield case(f"rename/over/{name}", over, old, new, ROOT)
            yield case(f"rename/over-as-user/{name}", over, old, new, USER)
            if outcome(old, new)[1] == 0:
                yield case(f"rename/over-times/{name}", over_times, old, new)
    for kind in NONDIRS:
        for new in NONDIRS:
            yield case(f"rename/over-linked/{kind}-on-{new}", over_linked, kind, new)
    for kind in KINDS:
        yield case(f"rename/over-full/{kind}", over_full, kind)
    yield case("rename/over-open/regular", over_open)
    yield case("rename/over-open/dir", over_open_directory)


def over(stage: Stage, old: str, new: str, who: Who) -> None:
    """The new name shows the old file, and the one that had it is gone; or nothing has changed at all."""
    word, want = outcome(old, new)
    for place in ("one", "two"):
        stage.make("dir", place, owner=who)
        stage.make("dir", f"{place}/to", owner=who)
        source = f"{place}/a"
        target = f"{place}/b" if place == "one" else f"{place}/to/b"
        stage.make(old, source, owner=who)
        stage.make(new, target, uid=who.uid, gid=OTHER.gid)
        was, there = stage.lstat(source), stage.lstat(target)
        stage.expect(want, "rename", source, target, who=who, label=f"{place}-{word}")
        if want:
            stage.sees(source, kind=old, ino=was.ino, nlink=was.nlink, ctime=was.ctime, label=f"{place}-source-same")
            same: dict[str, Any] = {"ino": there.ino, "nlink": there.nlink, "ctime": there.ctime}
            stage.sees(target, label=f"{place}-target-same", kind=new, **same)
        else:
            stage.missing(source, f"{place}-source-gone")
            stage.sees(
                target, kind=old, ino=was.ino, nlink=was.nlink, mode=was.mode, uid=was.uid, gid=was.gid, rdev=was.rdev,
                label=f"{place}-target-is-source",
            )  # fmt: skip


def over_times(stage: Stage, old: str, new: str) -> None:
    """mtime and ctime of both directories move."""
    stage.make("dir", "d")
    stage.make("dir", "e")
    stage.make(old, "d/a")
    stage.make(new, "e/b")
    before = stage.times("d", "e", "d/a", ".")
    stage.expect(0, "rename", "d/a", "e/b")
    stage.moved(before, "d", "mc")
    stage.moved(before, "e", "mc")
    stage.moved(before, "d/a", "c", now="e/b")
    stage.moved(before, ".", "")


def over_linked(stage: Stage, old: str, new: str) -> None:
    """The file that loses a name lives on under its others: one link fewer, a new ctime."""
    stage.make(old, "a")
    stage.make(new, "b", owner=OTHER)
    stage.setup("link", "b", "c")
    before = stage.times("a", "c")
    stage.expect(0, "rename", "a", "b")
    stage.missing("a")
    stage.sees("b", kind=old, ino=before["a"].ino, nlink=1)
    stage.sees("c", kind=new, ino=before["c"].ino, nlink=1, uid=OTHER.uid)
    stage.moved(before, "c", "c")


def over_full(stage: Stage, kind: str) -> None:
    """A directory that holds anything is not replaced, by another directory or by its own content."""
    stage.make("dir", "a")
    stage.make("dir", "b")
    stage.make(kind, "b/x")
    before = stage.times("a", "b", "b/x")
    stage.expect((ENOTEMPTY,), "rename", "a", "b")
    stage.expect((ENOTEMPTY,) if kind == "dir" else (ENOTEMPTY, EISDIR), "rename", "b/x", "b", label="by-content")
    for path in before:
        stage.moved(before, path, "")
    stage.holds("b", "x")
    stage.expect(0, "rename", "b/x", "x", label="emptied")
    stage.expect(0, "rename", "a", "b", label="empty-success")
    stage.missing("a")


def over_open(stage: Stage) -> None:
    """A file that is replaced stays readable and writable for those who have it open, and has no links."""
    stage.make("regular", "a")
    stage.make("regular", "b")
    fd = stage.setup("open", "b", os.O_RDWR)
    stage.setup("write", fd, b"old")
    stage.expect(0, "rename", "a", "b")
    stage.sees(fd, by="fstat", nlink=0, size=3)
    stage.gives(b"old", "pread", fd, 10, 0)
    stage.gives(3, "pwrite", fd, b"new", 3)
    stage.gives(b"oldnew", "pread", fd, 10, 0)
    stage.sees("b", size=0, nlink=1)


def over_open_directory(stage: Stage) -> None:
    """A directory that is replaced while open is dead: it has no links and takes no files."""
    stage.make("dir", "a")
    stage.make("dir", "b")
    fd = stage.setup("open", "b", os.O_RDONLY)
    stage.expect(0, "rename", "a", "b")
    stage.sees(fd, by="fstat", kind="dir", nlink=0)
    stage.expect(ENOENT, "openat", fd, "x", os.O_CREAT | os.O_WRONLY)
    stage.holds("b")
