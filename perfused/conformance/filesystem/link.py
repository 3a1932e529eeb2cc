"""link(2) and linkat(2): one file, several names; descriptors without a name get one."""

import os
from collections.abc import Iterator
from errno import EACCES, EEXIST, EINVAL, ENOENT, ENOTDIR, EPERM

from perfused.conformance.filesystem.calls import KINDS, NONDIRS, SPECIAL
from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import MEMBER, OTHER, ROOT, SUPPLEMENTARY, USER


def cases() -> Iterator[Case]:
    """For each kind of file that can have several names."""
    for kind in NONDIRS:
        yield case(f"link/names/{kind}", names, kind)
        yield case(f"link/times/{kind}", times, kind)
        yield case(f"link/refused/{kind}", refused, kind)
        yield case(f"link/protected/{kind}", protected, kind)
        for there in KINDS:
            yield case(f"link/exists/{kind}-as-{there}", exists, kind, there)
    yield case("link/directory", directory)
    yield case("link/follow", follow)
    yield case("link/content", content)
    yield case("link/many", many)
    yield case("link/unnamed", unnamed, needs=["tmpfile"])
    yield case("link/unnamed-exclusive", unnamed_exclusive, needs=["tmpfile"])
    yield case("link/unlinked", unlinked)


def names(stage: Stage, kind: str) -> None:
    """All names are equal: they show one inode, its attributes and its count, and the last one keeps it."""
    stage.make("dir", "d")
    stage.make(kind, "a", owner=USER)
    was = stage.lstat("a")
    links = ["a"]
    for old, new in (("a", "b"), ("b", "d/c"), ("d/c", "e")):
        stage.expect(0, "link", old, new, label=f"{old}-as-{new}-success")
        links.append(new)
        for name in links:
            stage.sees(name, kind=kind, ino=was.ino, nlink=len(links), uid=USER.uid, gid=USER.gid, rdev=was.rdev)
    if kind != "symlink":
        stage.expect(0, "chmod", "b", 0o2701)
        for name in links:
            stage.sees(name, kind=kind, mode=0o2701, label=f"{name}-new-mode")
    stage.expect(0, "lchown", "e", 7101, 7102)
    for name in links:
        stage.sees(name, kind=kind, uid=7101, gid=7102, label=f"{name}-new-owner")
    while len(links) > 1:
        stage.expect(0, "unlink", links.pop(0))
        for name in links:
            stage.sees(name, kind=kind, ino=was.ino, nlink=len(links), uid=7101, label=f"{name}-{len(links)}-left")


def times(stage: Stage, kind: str) -> None:
    """The file's ctime moves, and mtime and ctime of the directory that gets the name; nothing of the other one."""
    stage.make("dir", "d")
    stage.make("dir", "e")
    stage.make(kind, "d/a")
    before = stage.times("d/a", "d", "e", ".")
    stage.expect(0, "link", "d/a", "e/b")
    stage.moved(before, "d/a", "c")
    stage.moved(before, "d", "")
    stage.moved(before, "e", "mc")
    stage.moved(before, ".", "")


def refused(stage: Stage, kind: str) -> None:
    """Without write permission no name, no new count and no new time."""
    stage.make("dir", "d", 0o755)
    stage.make(kind, "a", 0o666, USER)
    before = stage.times("a", "d")
    stage.expect(EACCES, "link", "a", "d/b", who=USER)
    stage.expect(EACCES, "link", "a", "b", who=USER, label="same-directory-EACCES")
    stage.moved(before, "a", "")
    stage.moved(before, "d", "")
    stage.sees("a", kind=kind, nlink=1)
    stage.holds("d")


def protected(stage: Stage, kind: str) -> None:
    """With fs.protected_hardlinks (proc(5)) only the owner and root link, and who may read and write a plain file."""
    stage.make("dir", "d", 0o777)
    modes = (0o666, 0o644, 0o600, 0o4666, 0o2676)
    for mode in modes:
        for who in (ROOT, USER, MEMBER, SUPPLEMENTARY, OTHER):
            name = f"{mode:04o}-{who.name}"
            stage.make(kind, name, mode, USER)
            safe = kind == "regular" and mode & 0o4000 == 0 and mode & 0o2010 != 0o2010
            group = who in (MEMBER, SUPPLEMENTARY)
            may_write = (mode >> (3 if group else 0)) & 6 == 6
            good = who in (ROOT, USER) or not stage.facts.hardlinks_protected or (safe and may_write)
            stage.expect(0 if good else EPERM, "link", name, f"d/{name}", who=who, label=name)
            stage.sees(name, kind=kind, nlink=2 if good else 1, label=f"{name}-count")


def exists(stage: Stage, kind: str, there: str) -> None:
    """Whatever has the name keeps it."""
    stage.make("dir", "d")
    stage.make(kind, "a")
    stage.make(there, "d/b", owner=OTHER)
    before = stage.times("a", "d/b", "d")
    stage.expect(EEXIST, "link", "a", "d/b")
    stage.sees("a", kind=kind, nlink=1)
    stage.sees("d/b", kind=there, uid=OTHER.uid)
    for path in before:
        stage.moved(before, path, "")


def directory(stage: Stage) -> None:
    """A directory has one name, also if root wishes otherwise."""
    stage.make("dir", "d", owner=USER)
    stage.make("dir", "e", 0o777)
    stage.setup("symlink", "d", "ln")
    before = stage.times("d", "e")
    for who in (ROOT, USER):
        stage.expect(EPERM, "link", "d", "e/d", who=who)
        stage.expect(EPERM, "link", "d/.", "e/d", who=who, label=f"{who.name}-dot-EPERM")
    stage.expect(EPERM, "link_follow", "ln", "e/d", label="through-link-EPERM")
    stage.expect(EEXIST, "link", "d", "e", label="existing-EEXIST")
    stage.moved(before, "d", "")
    stage.moved(before, "e", "")
    stage.holds("e")


def follow(stage: Stage) -> None:
    """link(2) takes a symbolic link itself, linkat(2) with AT_SYMLINK_FOLLOW what it leads to."""
    for kind in SPECIAL:
        stage.make(kind, kind)
        stage.setup("symlink", kind, f"ln-{kind}")
        file, link = stage.lstat(kind), stage.lstat(f"ln-{kind}")
        stage.expect(0, "link", f"ln-{kind}", f"itself-{kind}", label=f"{kind}-link-success")
        stage.sees(f"itself-{kind}", kind="symlink", ino=link.ino, nlink=2)
        stage.gives(kind, "readlink", f"itself-{kind}", label=f"{kind}-target")
        stage.expect(0, "link_follow", f"ln-{kind}", f"other-{kind}", label=f"{kind}-link_follow-success")
        stage.sees(f"other-{kind}", kind=kind, ino=file.ino, nlink=2)
    stage.make("symlink", "dangling")
    stage.expect(0, "link", "dangling", "dangling2", label="dangling-success")
    stage.expect(ENOENT, "link_follow", "dangling", "x", label="dangling-follow-ENOENT")


def content(stage: Stage) -> None:
    """What is written under one name is read under another, before and after one goes."""
    stage.make("regular", "a")
    one = stage.setup("open", "a", os.O_RDWR)
    stage.expect(0, "link", "a", "b")
    two = stage.expect(0, "open", "b", os.O_RDWR)
    stage.gives(5, "write", one, b"hello")
    stage.gives(b"hello", "pread", two, 10, 0)
    stage.expect(0, "truncate", "b", 2)
    stage.sees("a", size=2)
    stage.gives(b"he", "pread", one, 10, 0)
    stage.expect(0, "unlink", "a")
    stage.gives(3, "pwrite", one, b"xyz", 2)
    stage.gives(b"hexyz", "pread", two, 10, 0)
    stage.sees("b", size=5, nlink=1)


def many(stage: Stage) -> None:
    """Two hundred names, counted all the way up and down."""
    stage.make("regular", "f0")
    for number in range(1, 200):
        stage.setup("link", "f0", f"f{number}")
    stage.sees("f0", nlink=200)
    stage.sees("f199", nlink=200)
    for number in range(100):
        stage.setup("unlink", f"f{number}")
    stage.sees("f150", nlink=100)
    stage.holds(".", *(f"f{number}" for number in range(100, 200)))


def unnamed(stage: Stage) -> None:
    """An O_TMPFILE file has no name and no link until linkat(2) gives it one."""
    stage.make("dir", "d")
    before = stage.times("d")
    fd = stage.expect(0, "open", "d", os.O_TMPFILE | os.O_RDWR, 0o640)
    stage.sees(fd, by="fstat", kind="regular", nlink=0, size=0, mode=0o640)
    stage.moved(before, "d", "")
    stage.holds("d")
    stage.gives(4, "write", fd, b"data")
    stage.expect(0, "link_descriptor", fd, "d/x")
    stage.sees("d/x", kind="regular", nlink=1, size=4, mode=0o640)
    stage.expect(EEXIST, "link_descriptor", fd, "d/x")
    stage.expect(0, "link_descriptor", fd, "d/y")
    stage.sees("d/x", nlink=2)
    again = stage.expect(0, "open", "d/y", os.O_RDONLY)
    stage.gives(b"data", "read", again, 10)
    stage.expect(EACCES, "open", "d", os.O_TMPFILE | os.O_RDWR, who=USER, label="no-permission-EACCES")
    stage.setup("chmod", "d", 0o777)
    mine = stage.expect(0, "open", "d", os.O_TMPFILE | os.O_RDWR, 0o600, who=USER, label="user-success")
    stage.expect(0, "link_descriptor", mine, "d/z", who=USER)
    stage.sees("d/z", uid=USER.uid, gid=USER.gid, mode=0o600)


def unnamed_exclusive(stage: Stage) -> None:
    """With O_EXCL it never gets one; without write access there is none at all."""
    fd = stage.expect(0, "open", ".", os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o600)
    stage.expect(ENOENT, "link_descriptor", fd, "x")
    stage.missing("x")
    stage.expect(EINVAL, "open", ".", os.O_TMPFILE | os.O_RDONLY, label="read-only-EINVAL")
    stage.make("regular", "f")
    stage.expect(ENOTDIR, "open", "f", os.O_TMPFILE | os.O_RDWR, label="regular-ENOTDIR")
    stage.expect(ENOENT, "open", "no", os.O_TMPFILE | os.O_RDWR, label="nothing-ENOENT")


def unlinked(stage: Stage) -> None:
    """A file whose last name is gone gets none again, though it is open."""
    stage.make("regular", "a")
    fd = stage.setup("open", "a", os.O_RDWR)
    stage.expect(0, "unlink", "a")
    stage.expect(ENOENT, "link_descriptor", fd, "b")
    stage.missing("b")
    stage.sees(fd, by="fstat", nlink=0)
