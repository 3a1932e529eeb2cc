"""rename(2) to a name that is free: what moves along, which times change, and what rename(2) never does."""

import os
from collections.abc import Iterator
from errno import EACCES, EBUSY, EINVAL, ENOENT, ENOTDIR, ENOTEMPTY

from perfused.conformance.filesystem.calls import KINDS, NONDIRS
from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import MEMBER, OTHER, SUPPLEMENTARY, USER


def cases() -> Iterator[Case]:
    """For each kind of file, and for directories what concerns them alone."""
    for kind in KINDS:
        yield case(f"rename/free/{kind}", free, kind)
        yield case(f"rename/times/{kind}", times, kind)
        yield case(f"rename/times-between/{kind}", times_between, kind)
        yield case(f"rename/refused/{kind}", refused, kind)
        yield case(f"rename/itself/{kind}", itself, kind)
        if kind != "dir":
            yield case(f"rename/same-file/{kind}", same_file, kind)
            yield case(f"rename/links/{kind}", links, kind)
    yield case("rename/directory/into-itself", into_itself)
    yield case("rename/directory/dots", dots)
    yield case("rename/directory/parent", parent)
    yield case("rename/directory/parent-links", parent_links, needs=["dirlinks"])
    yield case("rename/directory/content", content)
    yield case("rename/directory/unwritable", unwritable)
    yield case("rename/directory/slashes", slashes)
    yield case("rename/open", while_open)
    yield case("rename/link-to-directory", link_to_directory)


def free(stage: Stage, kind: str) -> None:
    """The file is the same under its new name; the old one is free."""
    stage.make("dir", "d")
    stage.make(kind, "a", 0o751, USER)
    was = stage.lstat("a")
    for old, new in (("a", "b"), ("b", "d/c"), ("d/c", "d/e"), ("d/e", "a")):
        stage.expect(0, "rename", old, new, label=f"{old}-to-{new}-success")
        stage.missing(old, f"{old}-to-{new}-gone")
        stage.sees(
            new, kind=kind, ino=was.ino, mode=was.mode, uid=USER.uid, gid=USER.gid, nlink=was.nlink, rdev=was.rdev,
            size=was.size, label=f"{old}-to-{new}-same",
        )  # fmt: skip
    stage.holds("d")


def times(stage: Stage, kind: str) -> None:
    """The directory's mtime and ctime move; of the file at most ctime (POSIX leaves that open, Linux moves it)."""
    stage.make("dir", "d")
    stage.make(kind, "d/a")
    before = stage.times("d", "d/a", ".")
    stage.expect(0, "rename", "d/a", "d/b")
    stage.moved(before, "d", "mc")
    stage.moved(before, "d/a", "c", now="d/b")
    stage.moved(before, ".", "")


def times_between(stage: Stage, kind: str) -> None:
    """Both directories' mtime and ctime move."""
    stage.make("dir", "d")
    stage.make("dir", "e")
    stage.make(kind, "d/a")
    before = stage.times("d", "e", "d/a", ".")
    stage.expect(0, "rename", "d/a", "e/b")
    stage.moved(before, "d", "mc")
    stage.moved(before, "e", "mc")
    stage.moved(before, "d/a", "c", now="e/b")
    stage.moved(before, ".", "")


def refused(stage: Stage, kind: str) -> None:
    """Without write permission in either directory nothing moves, no time either."""
    stage.make("dir", "closed", 0o755)
    stage.make("dir", "open", 0o777)
    stage.make(kind, "closed/a", owner=USER)
    stage.make(kind, "open/b", owner=USER)
    before = stage.times("closed", "open", "closed/a", "open/b")
    for who in (USER, MEMBER, SUPPLEMENTARY, OTHER):
        stage.expect(EACCES, "rename", "closed/a", "open/c", who=who, label=f"{who.name}-out-EACCES")
        stage.expect(EACCES, "rename", "open/b", "closed/c", who=who, label=f"{who.name}-in-EACCES")
        stage.expect(EACCES, "rename", "closed/a", "closed/c", who=who, label=f"{who.name}-within-EACCES")
        stage.expect(ENOENT, "rename", "closed/none", "open/c", who=who, label=f"{who.name}-nothing-ENOENT")
    for path in before:
        stage.moved(before, path, "")
    stage.holds("closed", "a")
    stage.holds("open", "b")


def itself(stage: Stage, kind: str) -> None:
    """To its own name: success, and nothing happens."""
    stage.make("dir", "d")
    stage.make(kind, "d/a")
    before = stage.times("d", "d/a")
    stage.expect(0, "rename", "d/a", "d/a")
    stage.expect(0, "rename", "d/a", "d/./a", label="by-dot-success")
    stage.sees("d/a", kind=kind, ino=before["d/a"].ino)
    stage.moved(before, "d", "")
    stage.moved(before, "d/a", "")


def same_file(stage: Stage, kind: str) -> None:
    """Onto another name of the same file: success, both names stay."""
    stage.make("dir", "d")
    stage.make(kind, "a")
    stage.setup("link", "a", "b")
    stage.setup("link", "a", "d/c")
    before = stage.times("a", "d", ".")
    stage.expect(0, "rename", "a", "b")
    stage.expect(0, "rename", "a", "d/c", label="between-success")
    for name in ("a", "b", "d/c"):
        stage.sees(name, kind=kind, ino=before["a"].ino, nlink=3)
    for path in before:
        stage.moved(before, path, "")


def links(stage: Stage, kind: str) -> None:
    """The other names of a file stay, as does their count."""
    stage.make(kind, "a")
    stage.setup("link", "a", "b")
    was = stage.lstat("a")
    stage.expect(0, "rename", "a", "c")
    stage.missing("a")
    for name in ("b", "c"):
        stage.sees(name, kind=kind, ino=was.ino, nlink=2)


def into_itself(stage: Stage) -> None:
    """No directory gets below itself, near or far; nor onto its own parent."""
    stage.make("dir", "a")
    stage.make("dir", "a/b")
    stage.make("dir", "a/b/c")
    stage.setup("symlink", "a/b", "ln")
    for new in ("a/x", "a/b/x", "a/b/c/x", "a/b", "ln/x"):
        stage.expect(EINVAL, "rename", "a", new, label=f"{new}-EINVAL")
    stage.expect(EINVAL, "rename", "a/b", "a/b/c/x", label="deeper-EINVAL")
    stage.expect((ENOTEMPTY,), "rename", "a/b", "a", label="onto-parent-ENOTEMPTY")
    stage.expect((ENOTEMPTY,), "rename", "a/b/c", "a", label="onto-grandparent-ENOTEMPTY")
    stage.holds("a", "b")
    stage.holds("a/b", "c")
    stage.holds("a/b/c")


def dots(stage: Stage) -> None:
    """Neither path may end with a dot or two (Linux: EBUSY, POSIX: EINVAL)."""
    stage.make("dir", "a")
    stage.make("dir", "a/b")
    stage.make("dir", "c")
    wants = (EBUSY, EINVAL)
    for path in ("a/.", "a/..", "a/b/.", "a/b/..", ".", ".."):
        stage.expect(wants, "rename", path, "x", label=f"from-{path}")
        stage.expect(wants, "rename", "c", path, label=f"to-{path}")
    stage.holds(".", "a", "c")


def parent(stage: Stage) -> None:
    """A directory that moves has a new parent."""
    stage.make("dir", "a")
    stage.make("dir", "b")
    stage.make("dir", "a/d")
    stage.expect(0, "rename", "a/d", "b/d")
    stage.sees("b/d/..", ino=stage.lstat("b").ino, kind="dir")
    stage.expect(0, "rename", "b/d", "d")
    stage.sees("d/..", ino=stage.lstat(".").ino, kind="dir")


def parent_links(stage: Stage) -> None:
    """Its link to the parent moves with it; within one directory none does."""
    for name in ("a", "b", "a/d"):
        stage.make("dir", name)
    stage.sees("a", nlink=3)
    stage.expect(0, "rename", "a/d", "b/d")
    stage.sees("a", nlink=2)
    stage.sees("b", nlink=3)
    stage.sees("b/d", nlink=2)
    stage.expect(0, "rename", "b/d", "b/e")
    stage.sees("b", nlink=3, label="b-within")
    stage.make("dir", "b/f")
    stage.expect(0, "rename", "b/e", "b/f", label="over-success")
    stage.sees("b", nlink=3, label="b-over")


def content(stage: Stage) -> None:
    """Everything below moves along and keeps its identity."""
    stage.make("dir", "a")
    inodes = {}
    for kind in KINDS:
        stage.make(kind, f"a/{kind}")
        inodes[kind] = stage.lstat(f"a/{kind}").ino
    stage.make("regular", "a/dir/deep")
    stage.expect(0, "rename", "a", "b")
    for kind, ino in inodes.items():
        stage.sees(f"b/{kind}", kind=kind, ino=ino)
        stage.missing(f"a/{kind}")
    stage.holds("b", *KINDS)
    stage.sees("b/dir/deep", kind="regular")


def unwritable(stage: Stage) -> None:
    """A directory that gets another parent changes itself: who may not write to it may rename it in its place only."""
    for name in ("d", "e"):
        stage.make("dir", name, 0o777)
    stage.make("dir", "d/x", 0o755)
    before = stage.times("d/x", "e")
    stage.expect(EACCES, "rename", "d/x", "e/x", who=USER)
    stage.moved(before, "d/x", "")
    stage.moved(before, "e", "")
    stage.expect(0, "rename", "d/x", "d/y", who=USER)
    stage.sees("d/y", kind="dir", ino=before["d/x"].ino)
    stage.setup("chmod", "d/y", 0o777)
    stage.expect(0, "rename", "d/y", "e/x", who=USER)
    stage.sees("e/x", kind="dir", ino=before["d/x"].ino)
    for kind in NONDIRS:
        stage.make(kind, f"d/{kind}", 0o600)
        stage.expect(0, "rename", f"d/{kind}", f"e/{kind}", who=USER, label=f"{kind}-success")


def slashes(stage: Stage) -> None:
    """A directory's paths may end with slashes."""
    stage.make("dir", "a")
    for old, new in (("a/", "b"), ("b", "c/"), ("c//", "d///")):
        stage.expect(0, "rename", old, new, label=f"{len(old)}-{len(new)}-success")
    stage.holds(".", "d")


def while_open(stage: Stage) -> None:
    """A descriptor stays with its file, whatever the file is called."""
    stage.make("regular", "a")
    stage.make("dir", "d")
    fd = stage.setup("open", "a", os.O_RDWR)
    inside = stage.setup("open", "d", os.O_RDONLY)
    stage.expect(0, "rename", "a", "d/b")
    stage.gives(3, "write", fd, b"abc")
    stage.sees("d/b", size=3)
    stage.expect(0, "rename", "d", "e")
    stage.gives(3, "write", fd, b"def")
    stage.sees("e/b", size=6)
    stage.expect(0, "openat", inside, "b", os.O_RDONLY)
    stage.expect(0, "openat", inside, "c", os.O_CREAT | os.O_WRONLY)
    stage.holds("e", "b", "c")


def link_to_directory(stage: Stage) -> None:
    """Of a link to a directory the link moves; with a slash it is refused."""
    stage.make("dir", "d")
    stage.setup("symlink", "d", "ln")
    stage.expect(0, "rename", "ln", "other")
    stage.sees("other", kind="symlink")
    stage.sees("d", kind="dir")
    stage.expect(ENOTDIR, "rename", "other/", "x", label="slash-ENOTDIR")
    stage.make("dir", "e")
    stage.expect(ENOTDIR, "rename", "e", "other", label="directory-over-link-ENOTDIR")
    stage.holds(".", "d", "e", "other")
