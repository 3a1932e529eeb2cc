"""Mappings and what read(2) and write(2) see of the same file: mmap(2), msync(2), truncate(2)."""

import os
import signal
from collections.abc import Iterator
from errno import EACCES, EBADF, EFAULT, EINVAL, ENODEV

from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import OTHER, USER

PAGE = os.sysconf("SC_PAGE_SIZE")
SYNC, ASYNC, INVALIDATE = 4, 1, 2


def cases() -> Iterator[Case]:
    """One by one."""
    for size in (1, PAGE - 1, PAGE, PAGE + 1, 10 * PAGE + 123):
        yield case(f"mmap/read/{size}", read, size, needs=["map"])
        yield case(f"mmap/write/{size}", write, size, needs=["map"])
        yield case(f"mmap/private/{size}", private, size)
    for name, body in {
        "write-is-seen": written, "two-mappings": two, "two-users": two_users, "past-the-end": past_end,
        "whole-page-past-the-end": past_page, "truncate-below": cut, "grow-again": grown, "closed-descriptor": closed,
        "unlinked": unlinked, "offset": offsets, "times-of-writing": times, "msync": msync, "renamed-over": over,
        "fork": forked,
    }.items():  # fmt: skip
        yield case(f"mmap/{name}", body, needs=["map"])
    yield case("mmap/access", access, needs=["map"])
    yield case("mmap/read-only-shared", read_only)
    yield case("mmap/punched", punched, needs=["map", "punch"])
    yield case("mmap/kinds", kinds)
    yield case("mmap/private-truncated", private_cut)


def _data(size: int, seed: int = 1) -> bytes:
    return (bytes(1 + (seed + each * 11) % 251 for each in range(251)) * (size // 251 + 1))[:size]


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


def read(stage: Stage, size: int) -> None:
    """A mapping shows the file's bytes, and zeros up to the end of its last page."""
    stage.make("regular", "x", 0o666)
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("pwrite", fd, _data(size), 0)
    for shared in (True, False):
        found = stage.expect(0, "map", fd, _pages(size), shared, label=f"shared-{shared}")
        stage.gives(_data(size).ljust(_pages(size), b"\0"), "map_read", found, 0, _pages(size), label=f"{shared}-bytes")
        stage.expect(0, "munmap", found, label=f"{shared}-munmap")
    stage.sees("x", size=size)


def write(stage: Stage, size: int) -> None:
    """What is put into a shared mapping is read by descriptors, at once; past the end it is lost."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("ftruncate", fd, size)
    found = stage.expect(0, "map", fd, _pages(size))
    stage.expect(0, "map_write", found, 0, _data(_pages(size)))
    stage.gives(_data(_pages(size))[:size], "pread", fd, size + PAGE, 0, label="same-descriptor")
    again = stage.setup("open", "x", os.O_RDONLY)
    stage.gives(_data(_pages(size))[:size], "pread", again, size + PAGE, 0, label="other-descriptor")
    stage.expect(0, "msync", found, SYNC)
    stage.expect(0, "munmap", found)
    stage.sees("x", size=size)
    stage.setup("close", fd)
    stage.setup("close", again)
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.gives(_data(_pages(size))[:size], "pread", fd, size + PAGE, 0, label="opened-anew")


def private(stage: Stage, size: int) -> None:
    """What is put into a private mapping is nobody else's."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("pwrite", fd, _data(size), 0)
    before = stage.times("x")
    reader = stage.setup("open", "x", os.O_RDONLY)
    found = stage.expect(0, "map", reader, _pages(size), False)
    stage.expect(0, "map_write", found, 0, b"Z")
    stage.gives(b"Z" + _data(size)[1:], "map_read", found, 0, size, label="seen-there")
    stage.gives(_data(size), "pread", fd, size, 0, label="file-as-it-was")
    stage.expect(0, "munmap", found)
    after = stage.lstat("x")
    stage.moved({"x": before["x"]._replace(atime=after.atime)}, "x", "")


def written(stage: Stage) -> None:
    """What write(2) puts into the file is seen in mappings at once, however often it changes."""
    stage.make("regular", "x", 0o666)
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("ftruncate", fd, 3 * PAGE)
    found = stage.setup("map", fd, 3 * PAGE)
    for number in range(20):
        at = number * 397 % (2 * PAGE)
        stage.setup("pwrite", fd, _data(300, number), at)
        stage.gives(_data(300, number), "map_read", found, at, 300, label=f"{number}-seen")
        stage.setup("map_write", found, at + 100, _data(50, number + 7))
        want = _data(300, number)[:100] + _data(50, number + 7) + _data(300, number)[150:]
        stage.gives(want, "pread", fd, 300, at, label=f"{number}-read")


def two(stage: Stage) -> None:
    """Two shared mappings of two descriptors are one memory."""
    stage.make("regular", "x")
    one = stage.setup("open", "x", os.O_RDWR)
    other = stage.setup("open", "x", os.O_RDWR)
    stage.setup("ftruncate", one, 2 * PAGE)
    first, second = stage.setup("map", one, 2 * PAGE), stage.setup("map", other, PAGE, True, True, PAGE)
    stage.expect(0, "map_write", first, PAGE + 10, b"hello")
    stage.gives(b"hello", "map_read", second, 10, 5)
    stage.expect(0, "map_write", second, 0, b"world")
    stage.gives(b"world", "map_read", first, PAGE, 5)


def two_users(stage: Stage) -> None:
    """So are those of two processes of two users."""
    stage.make("regular", "x", 0o666)
    stage.setup("truncate", "x", PAGE)
    one = stage.setup("open", "x", os.O_RDWR, who=USER)
    other = stage.setup("open", "x", os.O_RDWR, who=OTHER)
    first, second = stage.setup("map", one, PAGE, who=USER), stage.setup("map", other, PAGE, who=OTHER)
    for number in range(5):
        stage.expect(0, "map_write", first, number, b"a", who=USER)
        stage.gives(b"a", "map_read", second, number, 1, who=OTHER, label=f"{number}-other-sees")
        stage.expect(0, "map_write", second, 100 + number, b"b", who=OTHER)
        stage.gives(b"b", "map_read", first, 100 + number, 1, who=USER, label=f"{number}-user-sees")
    stage.gives(b"aaaaa" + bytes(95) + b"bbbbb", "pread", one, 105, 0, who=USER)


def past_end(stage: Stage) -> None:
    """Behind the end of its last page there is nothing: SIGBUS; up to there zeros."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("pwrite", fd, b"abc", 0)
    found = stage.expect(0, "map", fd, 3 * PAGE)
    stage.gives(b"abc".ljust(PAGE, b"\0"), "map_read", found, 0, PAGE)
    stage.gives(0, "map_dies", found, PAGE - 1, label="last-byte-of-the-page")
    stage.gives(signal.SIGBUS, "map_dies", found, PAGE, label="behind-SIGBUS")
    stage.gives(signal.SIGBUS, "map_dies", found, 2 * PAGE, True, label="write-behind-SIGBUS")
    stage.expect(EFAULT, "map_read", found, PAGE, 10, label="EFAULT")
    stage.setup("ftruncate", fd, 3 * PAGE)
    stage.gives(bytes(PAGE), "map_read", found, 2 * PAGE, PAGE, label="there-when-grown")


def past_page(stage: Stage) -> None:
    """A mapping that begins behind the end is made, and has no page."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    found = stage.expect(0, "map", fd, PAGE)
    stage.gives(signal.SIGBUS, "map_dies", found, 0, label="empty-SIGBUS")
    stage.setup("pwrite", fd, b"x", 0)
    stage.gives(b"x", "map_read", found, 0, 1)
    behind = stage.expect(0, "map", fd, PAGE, True, True, 5 * PAGE)
    stage.gives(signal.SIGBUS, "map_dies", behind, 0, label="behind-SIGBUS")


def cut(stage: Stage) -> None:
    """A file cut below its mapping takes the pages away: SIGBUS; the rest of the last page becomes zeros."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("pwrite", fd, _data(3 * PAGE), 0)
    found = stage.setup("map", fd, 3 * PAGE)
    stage.gives(_data(3 * PAGE), "map_read", found, 0, 3 * PAGE)
    stage.expect(0, "ftruncate", fd, PAGE + 100)
    stage.gives(_data(PAGE + 100).ljust(2 * PAGE, b"\0"), "map_read", found, 0, 2 * PAGE, label="zeros-behind-the-end")
    stage.gives(signal.SIGBUS, "map_dies", found, 2 * PAGE, label="SIGBUS")
    stage.expect(0, "truncate", "x", 0)
    stage.gives(signal.SIGBUS, "map_dies", found, 0, label="empty-SIGBUS")


def grown(stage: Stage) -> None:
    """What was cut off does not come back when the file grows."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("ftruncate", fd, 2 * PAGE)
    found = stage.setup("map", fd, 2 * PAGE)
    stage.setup("map_write", found, 0, _data(2 * PAGE))
    stage.expect(0, "ftruncate", fd, 10)
    stage.expect(0, "ftruncate", fd, 2 * PAGE)
    stage.gives(_data(10).ljust(2 * PAGE, b"\0"), "map_read", found, 0, 2 * PAGE)
    stage.gives(_data(10).ljust(2 * PAGE, b"\0"), "pread", fd, 2 * PAGE, 0)


def closed(stage: Stage) -> None:
    """A mapping outlives its descriptor, and is written back."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("ftruncate", fd, PAGE)
    found = stage.setup("map", fd, PAGE)
    stage.expect(0, "close", fd)
    stage.expect(0, "map_write", found, 10, b"hello")
    stage.expect(0, "msync", found, SYNC)
    again = stage.setup("open", "x", os.O_RDONLY)
    stage.gives(b"hello", "pread", again, 5, 10)
    stage.expect(0, "map_write", found, 10, b"world")
    stage.expect(0, "munmap", found)
    stage.gives(b"world", "pread", again, 5, 10, label="after-munmap")


def unlinked(stage: Stage) -> None:
    """It outlives the last name too."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("ftruncate", fd, 2 * PAGE)
    found = stage.setup("map", fd, 2 * PAGE)
    stage.expect(0, "map_write", found, 10, b"before")
    stage.expect(0, "unlink", "x")
    stage.expect(0, "close", fd)
    stage.expect(0, "map_write", found, PAGE, b"after")
    stage.gives(b"before", "map_read", found, 10, 6)
    stage.gives(b"after", "map_read", found, PAGE, 5)
    stage.expect(0, "msync", found, SYNC)
    stage.expect(0, "munmap", found)


def offsets(stage: Stage) -> None:
    """A mapping begins at a page; any other offset, and no length, is EINVAL."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("pwrite", fd, _data(5 * PAGE), 0)
    for page in range(5):
        found = stage.expect(0, "map", fd, PAGE, True, True, page * PAGE, label=f"{page}-success")
        stage.gives(_data(5 * PAGE)[page * PAGE :][:PAGE], "map_read", found, 0, PAGE, label=f"{page}-bytes")
    stage.expect(EINVAL, "map", fd, PAGE, True, True, 1, label="odd-EINVAL")
    stage.expect(EINVAL, "map", fd, 0, label="nothing-EINVAL")


def times(stage: Stage) -> None:
    """Writing through a mapping moves mtime and ctime, by the time of msync(2) at the latest."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("ftruncate", fd, PAGE)
    found = stage.setup("map", fd, PAGE)
    before = stage.times("x", ".")
    stage.expect(0, "map_write", found, 0, b"hello")
    stage.expect(0, "msync", found, SYNC)
    after = stage.lstat("x")
    stage.moved({"x": before["x"]._replace(atime=after.atime)}, "x", "mc")
    stage.moved(before, ".", "")


def msync(stage: Stage) -> None:
    """All three ways succeed; two that exclude each other, or an unknown one, do not."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("ftruncate", fd, 2 * PAGE)
    found = stage.setup("map", fd, 2 * PAGE)
    for flags in (SYNC, ASYNC, INVALIDATE, SYNC | INVALIDATE, ASYNC | INVALIDATE, 0):
        stage.setup("map_write", found, PAGE + flags, b"x")
        stage.expect(0, "msync", found, flags, label=f"{flags}-success")
        stage.gives(b"x", "pread", fd, 1, PAGE + flags, label=f"{flags}-read")
    stage.expect(EINVAL, "msync", found, SYNC | ASYNC, label="both-EINVAL")
    stage.expect(EINVAL, "msync", found, 64, label="unknown-EINVAL")


def over(stage: Stage) -> None:
    """A mapping stays with its file when another is renamed over it."""
    for name in ("x", "y"):
        stage.make("regular", name)
        fd = stage.setup("open", name, os.O_RDWR)
        stage.setup("pwrite", fd, name.encode() * PAGE, 0)
    one = stage.setup("open", "x", os.O_RDWR)
    found = stage.setup("map", one, PAGE)
    stage.expect(0, "rename", "y", "x")
    stage.expect(0, "map_write", found, 0, b"Z")
    stage.gives(b"Zx", "map_read", found, 0, 2)
    new = stage.setup("open", "x", os.O_RDONLY)
    stage.gives(b"yy", "pread", new, 2, 0)


def forked(stage: Stage) -> None:
    """A child's writes to a shared mapping are its parent's."""
    stage.make("regular", "x", 0o666)
    fd = stage.setup("open", "x", os.O_RDWR, who=USER)
    stage.setup("ftruncate", fd, PAGE, who=USER)
    found = stage.setup("map", fd, PAGE, who=USER)
    stage.expect(0, "in_child", "map_write", found, 5, b"child", who=USER)
    stage.gives(b"child", "map_read", found, 5, 5, who=USER)
    stage.gives(b"child", "pread", fd, 5, 5, who=USER, label="read")


def access(stage: Stage) -> None:
    """A shared mapping to be written takes a descriptor for both; every mapping one that reads."""
    stage.make("regular", "x", 0o666)
    stage.setup("truncate", "x", PAGE)
    for name, flags, shared, writable, want in (
        ("reader-shared-write", os.O_RDONLY, True, True, EACCES), ("reader-shared", os.O_RDONLY, True, False, 0),
        ("reader-private-write", os.O_RDONLY, False, True, 0), ("writer-shared", os.O_WRONLY, True, False, EACCES),
        ("writer-private", os.O_WRONLY, False, False, EACCES), ("both-shared-write", os.O_RDWR, True, True, 0),
        ("path", os.O_PATH, False, False, EBADF),
    ):  # fmt: skip
        fd = stage.setup("open", "x", flags, who=USER)
        stage.expect(want, "map", fd, PAGE, shared, writable, who=USER, label=name)


def read_only(stage: Stage) -> None:
    """What may not be written kills who does."""
    stage.make("regular", "x")
    stage.setup("truncate", "x", PAGE)
    fd = stage.setup("open", "x", os.O_RDONLY)
    found = stage.expect(0, "map", fd, PAGE, False, False)
    stage.gives(0, "map_dies", found, 0, label="read")
    stage.gives(signal.SIGSEGV, "map_dies", found, 0, True, label="write-SIGSEGV")


def punched(stage: Stage) -> None:
    """A hole punched below a mapping shows as zeros in it, and can be written."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("pwrite", fd, _data(4 * PAGE), 0)
    found = stage.setup("map", fd, 4 * PAGE)
    stage.setup("map_read", found, 0, 4 * PAGE)
    stage.expect(0, "fallocate", fd, 3, PAGE // 2, 2 * PAGE)
    want = _data(4 * PAGE)[: PAGE // 2] + bytes(2 * PAGE) + _data(4 * PAGE)[PAGE // 2 + 2 * PAGE :]
    stage.gives(want, "map_read", found, 0, 4 * PAGE)
    stage.expect(0, "map_write", found, PAGE, b"new")
    stage.gives(b"new", "pread", fd, 3, PAGE)


def kinds(stage: Stage) -> None:
    """A directory has no bytes to be mapped."""
    stage.make("dir", "d")
    fd = stage.setup("open", "d", os.O_RDONLY)
    stage.expect((ENODEV, EACCES), "map", fd, PAGE, False, False)
    stage.expect(EBADF, "map", 9999, PAGE, False, False, label="none-EBADF")


def private_cut(stage: Stage) -> None:
    """A private mapping loses the pages that the file loses, also those it had written to."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("pwrite", fd, _data(2 * PAGE), 0)
    found = stage.setup("map", fd, 2 * PAGE, False)
    stage.setup("map_write", found, PAGE, b"own")
    stage.expect(0, "ftruncate", fd, 10)
    stage.gives(signal.SIGBUS, "map_dies", found, PAGE, label="SIGBUS")
    stage.gives(_data(10), "map_read", found, 0, 10)
