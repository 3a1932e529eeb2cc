"""unlink(2) and rmdir(2): what goes, what stays, whom a sticky directory protects from whom."""

import os
from collections.abc import Iterator
from errno import EACCES, EBUSY, EINVAL, EISDIR, ENOENT, ENOTDIR, ENOTEMPTY, EPERM

from perfused.conformance.filesystem.calls import KINDS
from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import MEMBER, OTHER, ROOT, SUPPLEMENTARY, USER

OWNERS = {"caller": USER, "root": ROOT, "other": OTHER}


def call_for(kind: str) -> str:
    """The call that removes a file of that kind."""
    return "rmdir" if kind == "dir" else "unlink"


def cases() -> Iterator[Case]:
    """For each kind of file."""
    for kind in KINDS:
        call = call_for(kind)
        yield case(f"{call}/success/{kind}", success, kind)
        yield case(f"{call}/times/{kind}", times, kind)
        yield case(f"{call}/refused/{kind}", refused, kind)
        for owner in OWNERS:
            yield case(f"{call}/sticky/{kind}/directory-of-{owner}", sticky, kind, owner)
        yield case(f"{call}/sticky/{kind}/root", sticky_root, kind)
        if kind != "dir":
            yield case(f"rmdir/kind/{kind}", rmdir_of_file, kind)
            yield case(f"unlink/links/{kind}", other_links, kind)
            yield case(f"rmdir/not-empty/{kind}", not_empty, kind)
    yield case("rmdir/not-empty/dir", not_empty, "dir")
    yield case("rmdir/kind/links", rmdir_of_links)
    yield case("rmdir/dots", dots)
    yield case("rmdir/parent-links", parent_links, needs=["dirlinks"])
    yield case("rmdir/in-use", in_use)
    yield case("unlink/kind/dir", unlink_of_directory)
    yield case("unlink/link-to-directory", unlink_of_link)


def success(stage: Stage, kind: str) -> None:
    """The name is free again."""
    for again in range(2):
        stage.make(kind, "x")
        stage.expect(0, call_for(kind), "x")
        stage.missing("x")
        stage.holds(".", label=f"empty-{again}")


def times(stage: Stage, kind: str) -> None:
    """The directory's mtime and ctime move, nothing above or beside it."""
    stage.make("dir", "d")
    stage.make(kind, "d/x")
    stage.make("regular", "d/beside")
    before = stage.times("d", ".", "d/beside")
    stage.expect(0, call_for(kind), "d/x")
    stage.moved(before, "d", "mc")
    stage.moved(before, ".", "")
    stage.moved(before, "d/beside", "")


def refused(stage: Stage, kind: str) -> None:
    """One who may not write to the directory removes nothing, though it be his own, and changes no time."""
    stage.make("dir", "d", 0o755)
    stage.make(kind, "d/x", owner=USER)
    before = stage.times("d", "d/x")
    for who in (USER, MEMBER, SUPPLEMENTARY, OTHER):
        stage.expect(EACCES, call_for(kind), "d/x", who=who)
    stage.moved(before, "d", "")
    stage.moved(before, "d/x", "")
    stage.sees("d/x", kind=kind)


def sticky(stage: Stage, kind: str, owner: str) -> None:
    """In a sticky directory only the owner of the file or of the directory removes; without the bit all who may write.

    The caller is USER. Also with the file's group or write permission on the file itself, which must not count.
    """
    for bit in (0o1000, 0):
        for file_owner, whose in OWNERS.items():
            place = f"{bit:o}-{file_owner}"
            stage.make("dir", place, bit | 0o777, OWNERS[owner])
            stage.make(kind, f"{place}/x", 0o777, uid=whose.uid, gid=USER.gid)
            allowed = not bit or "caller" in (owner, file_owner)
            what = f"{'sticky' if bit else 'plain'}-file-of-{file_owner}"
            want, word = (0, "success") if allowed else (EPERM, "EPERM")
            stage.expect(want, call_for(kind), f"{place}/x", who=USER, label=f"{what}-{word}")
            if allowed:
                stage.missing(f"{place}/x", f"{what}-gone")
            else:
                stage.sees(f"{place}/x", kind=kind, uid=whose.uid, label=f"{what}-there")


def sticky_root(stage: Stage, kind: str) -> None:
    """Root is not held up."""
    for owner, whose in OWNERS.items():
        for file_owner, file_whose in OWNERS.items():
            path = f"{owner}-{file_owner}/x"
            stage.make("dir", f"{owner}-{file_owner}", 0o1777, whose)
            stage.make(kind, path, owner=file_whose)
            stage.expect(0, call_for(kind), path, label=f"{owner}-{file_owner}-success")
            stage.missing(path)


def rmdir_of_file(stage: Stage, kind: str) -> None:
    """rmdir(2) is for directories."""
    stage.make(kind, "x")
    before = stage.times("x", ".")
    stage.expect(ENOTDIR, "rmdir", "x")
    stage.sees("x", kind=kind, nlink=1)
    stage.moved(before, "x", "")
    stage.moved(before, ".", "")


def rmdir_of_links(stage: Stage) -> None:
    """A link to a directory is none, with or without a slash."""
    stage.make("dir", "d")
    stage.setup("symlink", "d", "ln")
    stage.expect(ENOTDIR, "rmdir", "ln", label="link-ENOTDIR")
    stage.expect(ENOTDIR, "rmdir", "ln/", label="link-slash-ENOTDIR")
    stage.holds(".", "d", "ln")


def other_links(stage: Stage, kind: str) -> None:
    """The file lives on under its other names: one link fewer, a new ctime, all else as it was."""
    stage.make(kind, "a", owner=USER)
    stage.setup("link", "a", "b")
    stage.setup("link", "a", "c")
    was = stage.lstat("a")
    for number, name in enumerate(("b", "a")):
        before = stage.times("c", ".")
        stage.expect(0, "unlink", name)
        stage.missing(name)
        stage.sees("c", kind=kind, ino=was.ino, nlink=2 - number, uid=USER.uid, gid=USER.gid, mode=was.mode)
        stage.moved(before, "c", "c")
        stage.moved(before, ".", "mc")


def not_empty(stage: Stage, kind: str) -> None:
    """A directory with anything in it stays."""
    stage.make("dir", "d")
    stage.make(kind, "d/x")
    before = stage.times("d", "d/x", ".")
    stage.expect((ENOTEMPTY,), "rmdir", "d")
    for path in before:
        stage.moved(before, path, "")
    stage.holds("d", "x")
    stage.expect(0, call_for(kind), "d/x")
    stage.expect(0, "rmdir", "d")
    stage.missing("d")


def dots(stage: Stage) -> None:
    """The last component may not be a dot (rmdir(2))."""
    stage.make("dir", "d")
    stage.make("dir", "d/e")
    stage.expect(EINVAL, "rmdir", "d/e/.", label="dot-EINVAL")
    stage.expect(EINVAL, "rmdir", ".", label="here-EINVAL")
    stage.expect((ENOTEMPTY,), "rmdir", "d/e/..", label="dot-dot-ENOTEMPTY")
    stage.expect((ENOTEMPTY,), "rmdir", "..", label="up-ENOTEMPTY")
    stage.expect(EBUSY, "rmdir", "/", label="top-EBUSY")
    stage.holds("d", "e")


def parent_links(stage: Stage) -> None:
    """Each subdirectory that goes takes a link of its parent."""
    stage.make("dir", "d")
    for name in "abc":
        stage.make("dir", f"d/{name}")
    for left, name in ((2, "a"), (1, "b"), (0, "c")):
        stage.expect(0, "rmdir", f"d/{name}")
        stage.sees("d", nlink=2 + left)


def in_use(stage: Stage) -> None:
    """A directory that somebody holds open may go; it then has no links, and nothing can be made in it."""
    stage.make("dir", "d")
    fd = stage.expect(0, "open", "d", os.O_RDONLY | os.O_DIRECTORY)
    stage.expect(0, "rmdir", "d")
    stage.missing("d")
    stage.sees(fd, by="fstat", kind="dir", nlink=0)
    stage.expect(ENOENT, "openat", fd, "x", os.O_CREAT | os.O_WRONLY)
    stage.expect(0, "mkdir", "d", 0o755)
    stage.expect(0, "rmdir", "d")


def unlink_of_directory(stage: Stage) -> None:
    """unlink(2) takes no directory, from nobody (Linux: EISDIR, where POSIX has EPERM)."""
    stage.make("dir", "d", owner=USER)
    stage.make("dir", "d/e", owner=USER)
    before = stage.times("d", "d/e")
    stage.expect(EISDIR, "unlink", "d/e")
    stage.expect(EISDIR, "unlink", "d/e", who=USER)
    stage.expect(EISDIR, "unlink", "d/e/", label="slash-EISDIR")
    stage.expect((EISDIR, EINVAL, EBUSY), "unlink", "d/e/.", label="dot")
    for path in before:
        stage.moved(before, path, "")
    stage.holds("d", "e")


def unlink_of_link(stage: Stage) -> None:
    """Of a link to a directory the link goes."""
    stage.make("dir", "d")
    stage.setup("symlink", "d", "ln")
    stage.expect(ENOTDIR, "unlink", "ln/", label="slash-ENOTDIR")
    stage.expect(0, "unlink", "ln")
    stage.missing("ln")
    stage.sees("d", kind="dir")
