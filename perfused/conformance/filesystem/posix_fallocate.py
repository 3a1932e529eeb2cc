"""posix_fallocate(3): room that is there for certain, and a size that only grows."""

import os
from collections.abc import Iterator
from errno import EBADF, EFBIG, EINVAL, ENODEV, ENOSPC, ESPIPE

from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import MEMBER, OTHER, ROOT, USER


def cases() -> Iterator[Case]:
    """One by one."""
    yield case("posix_fallocate/sizes", sizes)
    yield case("posix_fallocate/content", content)
    yield case("posix_fallocate/times", times)
    yield case("posix_fallocate/out-of-range", out_of_range)
    yield case("posix_fallocate/descriptors", descriptors)
    yield case("posix_fallocate/unlinked", unlinked)
    yield case("posix_fallocate/by-user", by_user)
    yield case("posix_fallocate/full", full, needs=["small"])
    yield case("write/full", full_write, needs=["small"])


def sizes(stage: Stage) -> None:
    """The size grows to offset and length, and never shrinks; the room counts as used."""
    for first in (0, 1, 4096, 12345):
        for offset in (0, 1, 4096, 20000):
            for length in (1, 567, 4096, 10000):
                path = f"{first}-{offset}-{length}"
                stage.make("regular", path)
                stage.setup("truncate", path, first)
                fd = stage.setup("open", path, os.O_RDWR)
                stage.expect(0, "posix_fallocate", fd, offset, length, label=f"{path}-success")
                stage.sees(path, size=max(first, offset + length), label=f"{path}-size")
                stage.setup("close", fd)
    stage.make("regular", "big")
    fd = stage.setup("open", "big", os.O_RDWR)
    stage.expect(0, "posix_fallocate", fd, 0, 1 << 16)
    stage.gives(True, "has_blocks", fd, 1 << 16)


def content(stage: Stage) -> None:
    """What was written stays, what is new is zero."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("write", fd, b"abc" * 1000)
    stage.expect(0, "posix_fallocate", fd, 1000, 5000)
    stage.gives((b"abc" * 1000).ljust(6000, b"\0"), "pread", fd, 10000, 0)
    stage.expect(0, "posix_fallocate", fd, 0, 100)
    stage.sees("x", size=6000)
    stage.gives((b"abc" * 1000).ljust(6000, b"\0"), "pread", fd, 10000, 0, label="again")


def times(stage: Stage) -> None:
    """ctime moves when the size grows; of the directory nothing."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    before = stage.times("x", ".")
    stage.expect(0, "posix_fallocate", fd, 0, 123)
    stage.sees("x", size=123)
    after = stage.lstat("x")
    stage.moved({"x": before["x"]._replace(mtime=after.mtime)}, "x", "c")
    stage.moved(before, ".", "")


def out_of_range(stage: Stage) -> None:
    """Neither a negative offset nor a length below one; not beyond the largest file."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    before = stage.times("x")
    for offset, length in ((0, 0), (0, -1), (-1, 1), (-1, 0), (10, -5)):
        stage.expect(EINVAL, "posix_fallocate", fd, offset, length, label=f"{offset}-{length}-EINVAL")
    stage.expect((EFBIG, EINVAL), "posix_fallocate", fd, (1 << 63) - 2, (1 << 62), label="too-big-EFBIG")
    stage.sees("x", size=0, blocks=0)
    stage.moved(before, "x", "")


def descriptors(stage: Stage) -> None:
    """A file open for writing, of a kind that has room."""
    stage.make("regular", "x", 0o666)
    stage.make("fifo", "p")
    stage.make("dir", "d")
    reader = stage.setup("open", "x", os.O_RDONLY)
    path = stage.setup("open", "x", os.O_PATH)
    pipe = stage.setup("open", "p", os.O_RDWR)
    place = stage.setup("open", "d", os.O_RDONLY)
    stage.expect(EBADF, "posix_fallocate", reader, 0, 1, label="reader-EBADF")
    stage.expect(EBADF, "posix_fallocate", path, 0, 1, label="path-EBADF")
    stage.expect(EBADF, "posix_fallocate", -1, 0, 1, label="none-EBADF")
    stage.expect(EBADF, "posix_fallocate", place, 0, 1, label="directory-EBADF")
    stage.expect((ESPIPE, ENODEV), "posix_fallocate", pipe, 0, 1, label="fifo")
    stage.sees("x", size=0)


def unlinked(stage: Stage) -> None:
    """A file without a name gets room too."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("unlink", "x")
    stage.expect(0, "posix_fallocate", fd, 100, 900)
    stage.sees(fd, by="fstat", size=1000, nlink=0)
    stage.gives(b"\0" * 1000, "pread", fd, 2000, 0)


def by_user(stage: Stage) -> None:
    """Who has it open for writing gets room, whoever owns it; the owner stays."""
    stage.make("regular", "x", 0o666, USER)
    for number, who in enumerate((ROOT, USER, MEMBER, OTHER)):
        fd = stage.setup("open", "x", os.O_RDWR, who=who)
        stage.expect(0, "posix_fallocate", fd, 0, 100 + number, who=who)
        stage.sees("x", size=100 + number, uid=USER.uid, gid=USER.gid, mode=0o666, label=f"{who.name}-size")


def full(stage: Stage) -> None:
    """More room than there is is refused, and none of it stays taken."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.expect(ENOSPC, "posix_fallocate", fd, 0, 1 << 30)
    stage.expect(0, "ftruncate", fd, 0)
    stage.expect(0, "posix_fallocate", fd, 0, 4096)
    stage.sees("x", size=4096)


def full_write(stage: Stage) -> None:
    """write(2) says ENOSPC when there is no room; what was written before is there, and room comes back."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.expect(ENOSPC, "fill", fd)
    stage.gives(True, "has_blocks", fd, 4096)
    stage.expect(ENOSPC, "pwrite", fd, b"x" * 4096, 1 << 29, label="more-ENOSPC")
    stage.expect(0, "ftruncate", fd, 0)
    stage.gives(4096, "pwrite", fd, b"x" * 4096, 0, label="room-again")
