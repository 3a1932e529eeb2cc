"""read(2), write(2), lseek(2) and readdir(3): content and listings come back as they were put in."""

import os
from collections.abc import Iterator
from errno import EBADF, EINVAL, ENOTEMPTY, ENXIO

from perfused.conformance.filesystem.calls import KINDS
from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import OTHER, USER

PAGE = 4096
#: lengths around pages and around what FUSE writes at once
LENGTHS = (1, 2, 100, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE, 65535, 65536, 131073, 1_000_003)
OFFSETS = (0, 1, PAGE - 1, PAGE, 10_000, (1 << 32) + 3)


def cases() -> Iterator[Case]:
    """One by one."""
    for length in LENGTHS:
        yield case(f"write/content/{length}", content, length)
    yield case("write/overlap", overlap)
    yield case("write/times", times)
    yield case("write/nothing", nothing)
    yield case("write/two-descriptors", two_descriptors)
    yield case("write/two-users", two_users)
    yield case("lseek/positions", positions)
    yield case("lseek/data-and-holes", holes)
    yield case("read/end", end)
    yield case("read/atime", atime, needs=["atime"])
    yield case("readdir/kinds", kinds)
    yield case("readdir/many", many)
    yield case("readdir/bytes", every_byte)
    yield case("readdir/changes", changes)
    yield case("readdir/atime", directory_atime, needs=["atime"])
    yield case("stat/size-of-large", large)
    yield case("stat/inodes", inodes)


def _pattern(length: int, seed: int = 0) -> bytes:
    """Bytes that repeat with no power of two."""
    return (bytes((seed + number * 7) % 251 for number in range(251)) * (length // 251 + 1))[:length]


def content(stage: Stage, length: int) -> None:
    """What is written at an offset is read there; before it are zeros, behind it nothing."""
    data = _pattern(length)
    for offset in OFFSETS:
        name = f"x{offset}"
        stage.make("regular", name)
        fd = stage.setup("open", name, os.O_RDWR)
        stage.gives(length, "pwrite", fd, data, offset, label=f"{offset}-written")
        stage.sees(name, size=offset + length, label=f"{offset}-size")
        stage.gives(data, "pread", fd, length + 10, offset, label=f"{offset}-read")
        again = stage.setup("open", name, os.O_RDONLY)
        stage.gives(data, "pread", again, length, offset, label=f"{offset}-read-again")
        if offset:
            stage.gives(bytes(min(offset, 100)), "pread", again, min(offset, 100), 0, label=f"{offset}-hole")


def overlap(stage: Stage) -> None:
    """Writes over one another leave what a byte array would."""
    want = bytearray(20_000)
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("ftruncate", fd, len(want))
    for number in range(40):
        offset = number * 7919 % 15_000
        length = (number * 104_729) % 5_000 + 1
        data = _pattern(length, number)
        want[offset : offset + length] = data
        stage.gives(length, "pwrite", fd, data, offset, label=f"{number}-written")
        stage.gives(bytes(want), "pread", fd, 30_000, 0, label=f"{number}-whole")
    stage.sees("x", size=len(want))


def times(stage: Stage) -> None:
    """A write moves mtime and ctime, also one that changes no size; not atime, not the directory's."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    for label in ("growing", "within"):
        before = stage.times("x", ".")
        stage.gives(3, "pwrite", fd, b"abc", 0, label=f"{label}-written")
        stage.expect(0, "fsync", fd)
        stage.moved(before, "x", "mc")
        stage.moved(before, ".", "")


def nothing(stage: Stage) -> None:
    """Writing no bytes works, and changes nothing."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    before = stage.times("x")
    stage.gives(0, "write", fd, b"")
    stage.gives(0, "pwrite", fd, b"", 100)
    stage.sees("x", size=0)
    stage.moved(before, "x", "")
    stage.gives(b"", "read", fd, 0)


def two_descriptors(stage: Stage) -> None:
    """Two descriptors have two offsets and one content."""
    stage.make("regular", "x")
    one = stage.setup("open", "x", os.O_RDWR)
    two = stage.setup("open", "x", os.O_RDWR)
    stage.gives(6, "write", one, b"abcdef")
    stage.gives(b"abc", "read", two, 3)
    stage.gives(3, "write", two, b"DEF")
    stage.gives(b"abcDEF", "pread", one, 10, 0)
    stage.gives(6, "lseek", one, 0, os.SEEK_CUR)
    stage.gives(6, "lseek", two, 0, os.SEEK_CUR)
    stage.gives(3, "write", one, b"ghi")
    stage.gives(b"ghi", "read", two, 10, label="two-reads-on")


def two_users(stage: Stage) -> None:
    """What one user has written another reads at once."""
    stage.make("regular", "x", 0o666)
    one = stage.setup("open", "x", os.O_RDWR, who=USER)
    two = stage.setup("open", "x", os.O_RDWR, who=OTHER)
    for number in range(10):
        data = _pattern(3000, number)
        writer, reader = ((one, USER), (two, OTHER)) if number % 2 else ((two, OTHER), (one, USER))
        stage.gives(3000, "pwrite", writer[0], data, number * 1000, who=writer[1], label=f"{number}-written")
        stage.gives(data, "pread", reader[0], 3000, number * 1000, who=reader[1], label=f"{number}-read")
    stage.sees("x", size=12_000)


def positions(stage: Stage) -> None:
    """lseek(2) from the beginning, from here and from the end, also beyond it; never before the beginning."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("write", fd, b"0123456789")
    stage.gives(10, "lseek", fd, 0, os.SEEK_CUR)
    stage.gives(3, "lseek", fd, 3, os.SEEK_SET)
    stage.gives(b"345", "read", fd, 3)
    stage.gives(4, "lseek", fd, -2, os.SEEK_CUR)
    stage.gives(8, "lseek", fd, -2, os.SEEK_END)
    stage.gives(b"89", "read", fd, 10)
    stage.gives(20, "lseek", fd, 10, os.SEEK_END)
    stage.sees("x", size=10)
    stage.gives(b"", "read", fd, 1)
    stage.expect(EINVAL, "lseek", fd, -1, os.SEEK_SET, label="negative-EINVAL")
    stage.expect(EINVAL, "lseek", fd, -11, os.SEEK_END, label="before-begin-EINVAL")
    stage.expect(EINVAL, "lseek", fd, 0, 99, label="whence-EINVAL")
    stage.gives(20, "lseek", fd, 0, os.SEEK_CUR, label="as-it-was")
    stage.gives(1, "write", fd, b"x")
    stage.gives(b"0123456789" + bytes(10) + b"x", "pread", fd, 100, 0)


def holes(stage: Stage) -> None:
    """SEEK_DATA finds data and SEEK_HOLE the end, at the latest; beyond the end there is neither."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.expect(ENXIO, "lseek", fd, 0, os.SEEK_DATA, label="empty-data-ENXIO")
    stage.expect(ENXIO, "lseek", fd, 0, os.SEEK_HOLE, label="empty-hole-ENXIO")
    stage.setup("pwrite", fd, b"data", 0)
    stage.gives(0, "lseek", fd, 0, os.SEEK_DATA, label="data")
    stage.gives(4, "lseek", fd, 0, os.SEEK_HOLE, label="hole")
    stage.expect(ENXIO, "lseek", fd, 4, os.SEEK_DATA, label="beyond-ENXIO")
    stage.expect(ENXIO, "lseek", fd, 100, os.SEEK_HOLE, label="far-beyond-ENXIO")


def end(stage: Stage) -> None:
    """A read stops at the end, and gives nothing behind it; a closed descriptor gives EBADF."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    data = _pattern(PAGE + 10)
    stage.setup("write", fd, data)
    for offset in (0, 1, PAGE - 1, PAGE, PAGE + 9, PAGE + 10, PAGE + 11, 1 << 40):
        stage.gives(data[offset:], "pread", fd, 100_000, offset, label=f"from-{offset}")
    stage.expect(EINVAL, "pread", fd, 10, -1)
    stage.expect(0, "close", fd)
    stage.expect(EBADF, "read", fd, 1)
    stage.expect(EBADF, "write", fd, b"x")


def atime(stage: Stage) -> None:
    """Reading moves an atime that is older than mtime, and nothing else (relatime does so too)."""
    stage.make("regular", "x")
    stage.setup("truncate", "x", 10)
    stage.setup("utimensat", "x", (1000, 0), (2000, 0))
    before = stage.times("x")
    fd = stage.setup("open", "x", os.O_RDONLY)
    stage.gives(bytes(10), "read", fd, 100)
    stage.moved(before, "x", "a")


def kinds(stage: Stage) -> None:
    """All kinds of files are listed, with their own names."""
    stage.make("dir", "d")
    for kind in KINDS:
        stage.make(kind, f"d/{kind}")
    stage.holds("d", *KINDS)
    stage.gives(sorted((kind, kind) for kind in KINDS), "scandir", "d")


def many(stage: Stage) -> None:
    """Two thousand names with long ones among them come once each, also as some of them go."""
    stage.make("dir", "d")
    names = [f"{number:04d}" + "n" * (number % 200) for number in range(2000)]
    for name in names:
        stage.setup("mkfifo", f"d/{name}", 0o600)
    stage.holds("d", *names)
    for name in names[::2]:
        stage.setup("unlink", f"d/{name}")
    stage.holds("d", *names[1::2], label="half")
    stage.expect(ENOTEMPTY, "rmdir", "d")
    for name in names[1::2]:
        stage.setup("unlink", f"d/{name}")
    stage.holds("d", label="none")
    stage.expect(0, "rmdir", "d")


def every_byte(stage: Stage) -> None:
    """A name has any bytes but slash and NUL, and stays as it is."""
    stage.make("dir", "d")
    names = [os.fsdecode(bytes([byte])) for byte in range(1, 256) if byte not in b"/."]
    names += ["...", " .", "a" + os.fsdecode(b"\xff\xfe"), "ä", "a\u0308", "A", "a\nb"]
    names = sorted(set(names))
    for number, name in enumerate(names):
        stage.expect(0, "mknod", f"d/{name}", "regular", 0o600, label=f"name{number}-success")
    stage.holds("d", *names)
    for number, name in enumerate(names):
        stage.expect(0, "unlink", f"d/{name}", label=f"name{number}-unlink")
    stage.holds("d", label="none")


def changes(stage: Stage) -> None:
    """Each listing shows what stands there now."""
    stage.make("dir", "d")
    stage.holds("d", label="begin")
    stage.expect(0, "mkdir", "d/a", 0o755)
    stage.holds("d", "a", label="made")
    stage.expect(0, "rename", "d/a", "d/b")
    stage.holds("d", "b", label="renamed")
    stage.expect(0, "symlink", "x", "d/c")
    stage.expect(0, "rmdir", "d/b")
    stage.holds("d", "c", label="removed")
    stage.expect(0, "rename", "d/c", "c")
    stage.holds("d", label="end")


def directory_atime(stage: Stage) -> None:
    """Listing moves a directory's atime that is older than its mtime."""
    stage.make("dir", "d")
    stage.make("regular", "d/x")
    stage.setup("utimensat", "d", (1000, 0), (2000, 0))
    before = stage.times("d")
    stage.holds("d", "x")
    stage.moved(before, "d", "a")


def large(stage: Stage) -> None:
    """Sizes beyond 32 bits are told whole, by every call."""
    stage.make("regular", "x")
    size = (1 << 35) + 12_345
    stage.setup("truncate", "x", size)
    fd = stage.setup("open", "x", os.O_RDONLY)
    stage.sees("x", size=size)
    stage.sees("x", by="stat", size=size)
    stage.sees(fd, by="fstat", size=size)
    stage.gives(size, "lseek", fd, 0, os.SEEK_END)


def inodes(stage: Stage) -> None:
    """Different files have different inode numbers, one file one, by whatever way it is asked for."""
    for kind in KINDS:
        stage.make(kind, kind)
    stage.gives(len(KINDS), "count_inodes", list(KINDS))
    for kind in ("regular", "dir", "fifo"):
        was = stage.lstat(kind)
        fd = stage.setup("open", kind, os.O_RDONLY | os.O_NONBLOCK)
        stage.sees(kind, by="stat", ino=was.ino)
        stage.sees(fd, by="fstat", ino=was.ino, label=f"{kind}-fstat-ino")
