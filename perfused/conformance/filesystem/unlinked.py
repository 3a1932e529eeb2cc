"""Files and directories without a name that somebody still has open."""

import os
from collections.abc import Iterator
from errno import EACCES, ECONNREFUSED, ENOENT

from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import OTHER, USER


def cases() -> Iterator[Case]:
    """One by one."""
    yield case("unlink/open/content", content)
    yield case("unlink/open/attributes", attributes)
    yield case("unlink/open/name-again", name_again)
    yield case("unlink/open/fifo", fifo)
    yield case("unlink/open/two-holders", two_holders)
    yield case("unlink/open/by-other", by_other)
    yield case("unlink/open/socket", socket)


def content(stage: Stage) -> None:
    """It is read and written as before."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.gives(5, "write", fd, b"hello")
    stage.expect(0, "unlink", "x")
    stage.missing("x")
    stage.gives(b"hello", "pread", fd, 10, 0)
    stage.gives(6, "write", fd, b" world")
    stage.gives(b"hello world", "pread", fd, 20, 0)
    stage.expect(0, "ftruncate", fd, 4)
    stage.gives(b"hell", "pread", fd, 20, 0, label="cut")
    stage.expect(0, "fsync", fd)
    stage.sees(fd, by="fstat", kind="regular", size=4, nlink=0)


def attributes(stage: Stage) -> None:
    """Its attributes are told and changed by the descriptor; its ctime has moved with the link."""
    stage.make("regular", "x", 0o640, USER)
    fd = stage.setup("open", "x", os.O_RDWR)
    before = stage.times("x")["x"]
    stage.expect(0, "unlink", "x")
    stage.sees(fd, by="fstat", nlink=0, ino=before.ino, mode=0o640, uid=USER.uid, mtime=before.mtime)
    stage.expect(0, "fchmod", fd, 0o604)
    stage.expect(0, "fchown", fd, 7101, 7102)
    stage.expect(0, "futimens", fd, (1000, 1), (2000, 2))
    stage.sees(fd, by="fstat", nlink=0, mode=0o604, uid=7101, gid=7102)
    stage.sees(fd, by="fstat", atime=1000 * 10**9 + 1, mtime=2000 * 10**9 + 2)


def name_again(stage: Stage) -> None:
    """A new file with the old name is another."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("write", fd, b"old")
    stage.expect(0, "unlink", "x")
    again = stage.expect(0, "open", "x", os.O_CREAT | os.O_EXCL | os.O_RDWR)
    stage.gives(7, "write", again, b"new one")
    stage.gives(b"old", "pread", fd, 10, 0)
    stage.gives(b"new one", "pread", again, 10, 0)
    stage.sees(fd, by="fstat", nlink=0, size=3)
    stage.sees(again, by="fstat", nlink=1, size=7)
    stage.sees("x", size=7)


def fifo(stage: Stage) -> None:
    """A pipe without a name still is one."""
    stage.make("fifo", "x")
    fd = stage.setup("open", "x", os.O_RDWR | os.O_NONBLOCK)
    stage.expect(0, "unlink", "x")
    stage.gives(3, "write", fd, b"abc")
    stage.gives(b"abc", "read", fd, 10)
    stage.sees(fd, by="fstat", kind="fifo", nlink=0)


def two_holders(stage: Stage) -> None:
    """Two descriptors, of two processes, hold one file."""
    stage.make("regular", "x", 0o666)
    one = stage.setup("open", "x", os.O_RDWR, who=USER)
    two = stage.setup("open", "x", os.O_RDWR, who=OTHER)
    stage.expect(0, "unlink", "x")
    stage.gives(3, "pwrite", one, b"abc", 0, who=USER)
    stage.gives(b"abc", "pread", two, 10, 0, who=OTHER)
    stage.expect(0, "close", one, who=USER)
    stage.gives(b"abc", "pread", two, 10, 0, who=OTHER, label="after-close")
    stage.gives(3, "pwrite", two, b"def", 3, who=OTHER)
    stage.gives(b"abcdef", "pread", two, 10, 0, who=OTHER, label="written-on")


def by_other(stage: Stage) -> None:
    """Who may not change the directory cannot take the name away, though the file is his."""
    stage.make("dir", "d", 0o755)
    stage.make("regular", "d/x", 0o644, USER)
    fd = stage.setup("open", "d/x", os.O_RDWR, who=USER)
    stage.expect(EACCES, "unlink", "d/x", who=USER)
    stage.gives(1, "write", fd, b"x", who=USER)
    stage.sees("d/x", size=1, nlink=1)
    stage.expect(0, "unlink", "d/x")
    stage.expect(ENOENT, "unlink", "d/x")
    stage.gives(1, "write", fd, b"y", who=USER, label="user-write-after")


def socket(stage: Stage) -> None:
    """A socket is only reached by name: none is left to connect to."""
    stage.make("socket", "x")
    stage.expect(ECONNREFUSED, "connect", "x", label="nobody-listens-ECONNREFUSED")
    stage.expect(0, "unlink", "x")
    stage.expect(ENOENT, "connect", "x")
    stage.make("regular", "r")
    stage.expect(ECONNREFUSED, "connect", "r", label="regular-ECONNREFUSED")
    stage.make("dir", "d")
    stage.expect(ECONNREFUSED, "connect", "d", label="directory-ECONNREFUSED")
