"""open(2), the rest: new and old content, appending, directories, running programs, descriptors of paths."""

import os
import shutil
from collections.abc import Iterator
from errno import EACCES, EAGAIN, EBADF, EINVAL, EISDIR, ELOOP, ENOENT, ENOTDIR, ENXIO, ETXTBSY

from perfused.conformance.filesystem.calls import KINDS
from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import OTHER, ROOT, USER, Who

#: a program that reads its input to the end
PROGRAM = shutil.which("cat") or "/bin/cat"


def cases() -> Iterator[Case]:
    """One by one."""
    yield case("open/old/times", old_times)
    yield case("open/old/truncated", truncated)
    yield case("open/old/truncated-empty", truncated_empty)
    for mode in (0, 0o200, 0o400, 0o444):
        for who in (ROOT, USER):
            yield case(f"open/new/writable-once/{mode:03o}-{who.name}", writable_once, mode, who)
    yield case("open/new/through-dangling-link", dangling)
    yield case("open/append", append)
    yield case("open/append-shared", append_shared)
    yield case("open/fifo", fifo)
    for kind in KINDS:
        yield case(f"open/path/{kind}", path_only, kind)
    yield case("open/openat", openat)
    yield case("open/wrong-way", wrong_way)
    yield case("open/text-busy", text_busy, needs=["exec"])
    yield case("truncate/text-busy", truncate_busy, needs=["exec"])
    yield case("unlink/text-busy", running_goes, needs=["exec"])
    yield case("open/directory", directory)


def old_times(stage: Stage) -> None:
    """Opening what is there, with O_CREAT or without, changes no time of it or of its directory."""
    stage.make("dir", "d")
    stage.make("regular", "d/x")
    before = stage.times("d", "d/x")
    ways = {"read": os.O_RDONLY, "create": os.O_CREAT | os.O_WRONLY, "append": os.O_APPEND | os.O_RDWR}
    for name, flags in ways.items():
        stage.expect(0, "open", "d/x", flags, 0o600, label=f"{name}-success")
        stage.moved(before, "d", "")
        stage.moved(before, "d/x", "")
    stage.sees("d/x", mode=0o644)


def truncated(stage: Stage) -> None:
    """O_TRUNC moves mtime and ctime of the file, and keeps its identity."""
    stage.make("dir", "d")
    stage.make("regular", "d/x", 0o640, USER)
    stage.setup("truncate", "d/x", 100)
    before = stage.times("d/x", "d")
    stage.expect(0, "open", "d/x", os.O_WRONLY | os.O_TRUNC)
    stage.sees("d/x", size=0, ino=before["d/x"].ino, mode=0o640, uid=USER.uid, gid=USER.gid)
    stage.moved(before, "d/x", "mc")
    stage.moved(before, "d", "")


def truncated_empty(stage: Stage) -> None:
    """Also if there was nothing to lose."""
    stage.make("regular", "x")
    before = stage.times("x")
    stage.expect(0, "open", "x", os.O_WRONLY | os.O_TRUNC | os.O_CREAT, 0o600)
    stage.moved(before, "x", "mc")


def writable_once(stage: Stage, mode: int, who: Who) -> None:
    """The mode of a new file counts from the next open(2): who makes it may write to it."""
    stage.make("dir", "d", 0o777)
    fd = stage.expect(0, "open", "d/x", os.O_CREAT | os.O_EXCL | os.O_RDWR, mode, who=who)
    stage.gives(4, "write", fd, b"data", who=who)
    stage.expect(0, "ftruncate", fd, 2, who=who)
    stage.gives(b"da", "pread", fd, 10, 0, who=who)
    stage.expect(0, "fsync", fd, who=who)
    stage.expect(0, "posix_fallocate", fd, 0, 8, who=who)
    stage.sees("d/x", mode=mode, size=8, uid=who.uid)
    if who is not ROOT:
        readable = 0 if mode & 0o400 else EACCES
        writable = 0 if mode & 0o200 else EACCES
        stage.expect(readable, "open", "d/x", os.O_RDONLY, who=who, label="again-read")
        stage.expect(writable, "open", "d/x", os.O_WRONLY, who=who, label="again-write")


def dangling(stage: Stage) -> None:
    """O_CREAT makes what a link leads to, where the link says; the link stays."""
    stage.make("dir", "d", 0o777)
    stage.setup("symlink", "d/new", "ln")
    stage.setup("symlink", "../ln", "d/ln2")
    before = stage.times("d", ".")
    stage.expect(0, "open", "d/ln2", os.O_CREAT | os.O_WRONLY, 0o640)
    stage.sees("d/new", kind="regular", mode=0o640)
    stage.sees("ln", kind="symlink")
    stage.moved(before, "d", "mc")
    stage.moved(before, ".", "")
    stage.setup("symlink", "no/new", "far")
    stage.expect(ENOENT, "open", "far", os.O_CREAT | os.O_WRONLY, label="no-directory-ENOENT")
    stage.setup("symlink", "d/", "slash")
    stage.expect(EISDIR, "open", "slash", os.O_CREAT | os.O_WRONLY, label="directory-EISDIR")


def append(stage: Stage) -> None:
    """Each write goes to the end, wherever the offset is and whoever has written since."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR | os.O_APPEND)
    plain = stage.setup("open", "x", os.O_RDWR)
    stage.gives(3, "write", fd, b"abc")
    stage.gives(0, "lseek", fd, 0, os.SEEK_SET)
    stage.gives(3, "write", fd, b"def")
    stage.gives(6, "lseek", fd, 0, os.SEEK_CUR, label="offset-at-end")
    stage.gives(2, "pwrite", plain, b"XY", 8)
    stage.gives(1, "write", fd, b"z")
    stage.gives(b"abcdef\0\0XYz", "pread", fd, 100, 0)
    stage.expect(0, "ftruncate", fd, 4)
    stage.gives(1, "write", fd, b"!")
    stage.gives(b"abcd!", "pread", plain, 100, 0)


def append_shared(stage: Stage) -> None:
    """Two who append by turns lose nothing."""
    stage.make("regular", "x", 0o666)
    one = stage.setup("open", "x", os.O_WRONLY | os.O_APPEND, who=USER)
    two = stage.setup("open", "x", os.O_WRONLY | os.O_APPEND, who=OTHER)
    for number in range(20):
        stage.setup("write", one, b"%02d" % number, who=USER)
        stage.setup("write", two, b"--", who=OTHER)
    fd = stage.setup("open", "x", os.O_RDONLY)
    stage.gives(b"".join(b"%02d--" % number for number in range(20)), "read", fd, 200)


def fifo(stage: Stage) -> None:
    """A fifo is a pipe with a name, also under another name."""
    stage.make("fifo", "x")
    stage.expect(ENXIO, "open", "x", os.O_WRONLY | os.O_NONBLOCK)
    reader = stage.expect(0, "open", "x", os.O_RDONLY | os.O_NONBLOCK)
    stage.setup("link", "x", "y")
    writer = stage.expect(0, "open", "y", os.O_WRONLY | os.O_NONBLOCK)
    stage.gives(5, "write", writer, b"hello")
    stage.gives(b"hello", "read", reader, 10)
    stage.expect(EAGAIN, "read", reader, 10, label="empty-EAGAIN")
    stage.expect(0, "close", writer)
    stage.gives(b"", "read", reader, 10, label="end")
    stage.sees("x", kind="fifo", size=0)


def path_only(stage: Stage, kind: str) -> None:
    """O_PATH opens everything without permission to, but not to read or write."""
    stage.make(kind, "x", 0)
    was = stage.lstat("x")
    for who in (ROOT, USER):
        fd = stage.expect(0, "open", "x", os.O_PATH | os.O_NOFOLLOW, who=who)
        stage.expect(EBADF, "read", fd, 1, who=who)
        stage.expect(EBADF, "write", fd, b"x", who=who)
        stage.expect(0, "fstat", fd, who=who)
    fd = stage.setup("open", "x", os.O_PATH | os.O_NOFOLLOW)
    stage.sees(fd, by="fstat", kind=kind, ino=was.ino, nlink=was.nlink)
    if kind != "dir":
        stage.expect(ENOTDIR, "open", "x", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, label="no-directory-ENOTDIR")


def openat(stage: Stage) -> None:
    """Paths begin at the descriptor's directory, wherever that is now."""
    stage.make("dir", "d")
    stage.make("dir", "e")
    stage.make("regular", "f")
    fd = stage.setup("open", "d", os.O_RDONLY)
    stage.expect(0, "openat", fd, "x", os.O_CREAT | os.O_WRONLY)
    stage.sees("d/x", kind="regular")
    stage.expect(0, "openat", fd, "../f", os.O_RDONLY, label="up-success")
    stage.expect(ENOENT, "openat", fd, "f", os.O_RDONLY, label="not-here-ENOENT")
    stage.expect(0, "rename", "d", "e/d")
    stage.expect(0, "openat", fd, "x", os.O_RDONLY, label="moved-success")
    stage.expect(ENOENT, "openat", fd, "../f", os.O_RDONLY, label="moved-up-ENOENT")
    stage.expect(0, "openat", fd, "../../f", os.O_RDONLY, label="moved-up-twice-success")
    plain = stage.setup("open", "f", os.O_RDONLY)
    stage.expect(ENOTDIR, "openat", plain, "x", os.O_RDONLY, label="regular-ENOTDIR")
    path = stage.setup("open", "e", os.O_PATH)
    stage.expect(0, "openat", path, "d/x", os.O_RDONLY, label="path-descriptor-success")


def wrong_way(stage: Stage) -> None:
    """What is open for one direction does not do the other."""
    stage.make("regular", "x")
    reader = stage.setup("open", "x", os.O_RDONLY)
    writer = stage.setup("open", "x", os.O_WRONLY)
    stage.expect(EBADF, "write", reader, b"x")
    stage.expect(EBADF, "read", writer, 1)
    stage.expect(EINVAL, "ftruncate", reader, 1)
    stage.expect(EBADF, "posix_fallocate", reader, 0, 1)
    stage.gives(b"", "read", reader, 1, label="empty")
    stage.sees("x", size=0)


def _program(stage: Stage) -> None:
    with open(PROGRAM, "rb") as file:
        content = file.read()
    stage.make("regular", "x", 0o755)
    fd = stage.setup("open", "x", os.O_WRONLY)
    for at in range(0, len(content), 1 << 16):
        stage.setup("pwrite", fd, content[at : at + (1 << 16)], at)
    stage.setup("close", fd)


def text_busy(stage: Stage) -> None:
    """Nobody writes to a running program; what is open for writing does not run."""
    _program(stage)
    writer = stage.setup("open", "x", os.O_WRONLY)
    stage.expect(ETXTBSY, "run", "./x", label="being-written-ETXTBSY")
    stage.setup("close", writer)
    stage.setup("run", "./x")
    for name, flags in (("write", os.O_WRONLY), ("both", os.O_RDWR), ("truncate", os.O_RDONLY | os.O_TRUNC)):
        stage.expect(ETXTBSY, "open", "x", flags, label=f"{name}-ETXTBSY")
    stage.expect(0, "open", "x", os.O_RDONLY)


def truncate_busy(stage: Stage) -> None:
    """truncate(2) neither; mode and names may change."""
    _program(stage)
    was = stage.lstat("x")
    stage.setup("run", "./x")
    stage.expect(ETXTBSY, "truncate", "x", 10)
    stage.sees("x", size=was.size, mtime=was.mtime)
    stage.expect(0, "chmod", "x", 0o700)


def running_goes(stage: Stage) -> None:
    """A running program may lose its name and its place."""
    _program(stage)
    stage.setup("run", "./x")
    stage.expect(0, "rename", "x", "y")
    stage.make("regular", "z")
    stage.expect(0, "rename", "z", "y", label="over-success")
    _program(stage)
    stage.setup("run", "./x")
    stage.expect(0, "unlink", "x")
    stage.missing("x")


def directory(stage: Stage) -> None:
    """A directory is opened to be listed; it is neither read nor written."""
    stage.make("dir", "d", 0o777)
    fd = stage.expect(0, "open", "d", os.O_RDONLY)
    stage.expect(EISDIR, "read", fd, 1)
    stage.expect(EBADF, "write", fd, b"x")
    stage.expect(0, "fsync", fd)
    stage.expect(EINVAL, "ftruncate", fd, 0)
    for name, flags in (("write", os.O_WRONLY), ("both", os.O_RDWR), ("create", os.O_CREAT | os.O_RDONLY)):
        stage.expect(EISDIR, "open", "d", flags, label=f"{name}-EISDIR")
    stage.setup("symlink", "d", "ln")
    stage.expect(0, "open", "ln", os.O_RDONLY | os.O_DIRECTORY, label="by-link-success")
    stage.expect((ENOTDIR, ELOOP), "open", "ln", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, label="link-itself")
    stage.expect(0, "open", "ln/", os.O_RDONLY | os.O_NOFOLLOW, label="link-slash-success")
