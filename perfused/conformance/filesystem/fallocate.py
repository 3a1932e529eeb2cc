"""fallocate(2) in all its modes, each against what a byte array would hold.

posix_fallocate(3) is in a module of its own. Ranges of the modes that move bytes are multiples of 64 KiB, which are
multiples of any block; the others have any range.
"""

import os
from collections.abc import Iterator
from errno import EBADF, EFBIG, EINVAL, ENODEV, ENXIO, EOPNOTSUPP, EPERM, ESPIPE

from perfused.conformance.filesystem.calls_data import COLLAPSE, INSERT, KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE
from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import MEMBER, OTHER, ROOT, USER
from perfused.conformance.filesystem.offers import PIECE

SIZE = 5 * PIECE + 777
#: mode -> number, the fact it needs, and whether its ranges are whole pieces
MODES: dict[str, tuple[int, str, bool]] = {
    "allocate": (0, "allocate", False),
    "keep-size": (KEEP_SIZE, "keep_size", False),
    "punch": (PUNCH_HOLE | KEEP_SIZE, "punch", False),
    "zero": (ZERO_RANGE, "zero", False),
    "zero-keep-size": (ZERO_RANGE | KEEP_SIZE, "zero_keep", False),
    "collapse": (COLLAPSE, "collapse", True),
    "insert": (INSERT, "insert", True),
}
ANY = (
    (0, 1), (0, SIZE), (1, 4095), (4095, 2), (4096, 4096), (10_000, 100_000), (PIECE, PIECE), (SIZE - 10, 10),
    (SIZE - 10, 5000), (SIZE, 1), (SIZE + 5000, 12_345), (0, SIZE + PIECE), (PIECE - 1, 3 * PIECE + 2),
)  # fmt: skip
PIECES = ((0, PIECE), (PIECE, PIECE), (2 * PIECE, 2 * PIECE), (4 * PIECE, PIECE), (0, 4 * PIECE))


def cases() -> Iterator[Case]:
    """By mode."""
    for name, (number, fact, whole) in MODES.items():
        yield case(f"fallocate/{name}/content", content, number, whole, needs=[fact])
        yield case(f"fallocate/{name}/times", times, number, whole, needs=[fact])
        yield case(f"fallocate/{name}/out-of-range", out_of_range, number, needs=[fact])
        yield case(f"fallocate/{name}/descriptors", descriptors, number, needs=[fact])
        yield case(f"fallocate/{name}/by-user", by_user, number, needs=[fact])
        yield case(f"fallocate/{name}/set-id", set_id, number, needs=[fact])
        yield case(f"fallocate/{name}/unlinked", unlinked, number, needs=[fact])
    yield case("fallocate/punch/blocks", punched_blocks, needs=["punch", "holes"])
    yield case("fallocate/keep-size/blocks", kept_blocks, needs=["keep_size"])
    yield case("fallocate/collapse/to-the-end", collapse_end, needs=["collapse"])
    yield case("fallocate/insert/behind-the-end", insert_end, needs=["insert"])
    yield case("fallocate/modes", unknown, needs=["allocate"])
    yield case("fallocate/append-only-descriptor", appending, needs=["allocate"])


def _data() -> bytes:
    return (bytes(1 + (each * 7) % 251 for each in range(251)) * (SIZE // 251 + 1))[:SIZE]


def changed(data: bytes, mode: int, offset: int, length: int) -> bytes:
    """What a file of these bytes holds afterwards."""
    if mode == COLLAPSE:
        return data[:offset] + data[offset + length :]
    if mode == INSERT:
        return data[:offset] + bytes(length) + data[offset:]
    out = bytearray(data)
    end = offset + length
    if not mode & KEEP_SIZE and end > len(out):
        out += bytes(end - len(out))
    if mode & (PUNCH_HOLE | ZERO_RANGE):
        end = min(end, len(out))
        if offset < end:
            out[offset:end] = bytes(end - offset)
    return bytes(out)


def content(stage: Stage, mode: int, whole: bool) -> None:
    """Size and every byte are those of the array, for who asks and for who opens it anew."""
    for offset, length in PIECES if whole else ANY:
        path = f"{offset}-{length}"
        stage.make("regular", path)
        fd = stage.setup("open", path, os.O_RDWR)
        stage.setup("pwrite", fd, _data(), 0)
        want = changed(_data(), mode, offset, length)
        stage.expect(0, "fallocate", fd, mode, offset, length, label=f"{path}-success")
        stage.sees(path, size=len(want), label=f"{path}-size")
        stage.gives(want, "pread", fd, len(want) + 10, 0, label=f"{path}-content")
        stage.setup("close", fd)
        fd = stage.setup("open", path, os.O_RDWR)
        stage.gives(want, "pread", fd, len(want) + 10, 0, label=f"{path}-content-again")
        stage.gives(3, "pwrite", fd, b"abc", offset, label=f"{path}-written")
        stage.gives(b"abc", "pread", fd, 3, offset, label=f"{path}-read")
        stage.setup("close", fd)
        stage.setup("unlink", path)


def times(stage: Stage, mode: int, whole: bool) -> None:
    """A file that is changed has a new ctime, and a new mtime where its bytes or its size are other ones."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("pwrite", fd, _data(), 0)
    before = stage.times("x", ".")
    stage.expect(0, "fallocate", fd, mode, 0 if whole or mode & (PUNCH_HOLE | ZERO_RANGE) else SIZE, PIECE)
    after = stage.lstat("x")
    which = "c" if mode in (0, KEEP_SIZE) else "mc"
    if which == "c":
        stage.moved({"x": before["x"]._replace(mtime=after.mtime)}, "x", "c")
    else:
        stage.moved(before, "x", "mc")
    stage.moved(before, ".", "")


def out_of_range(stage: Stage, mode: int) -> None:
    """No negative offset, no length below one, nothing beyond the largest file; and nothing is changed."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("pwrite", fd, b"hello", 0)
    before = stage.times("x")
    for offset, length in ((0, 0), (0, -1), (-1, 1), (-5, 10), (10, -5)):
        stage.expect(EINVAL, "fallocate", fd, mode, offset, length, label=f"{offset}-{length}-EINVAL")
    stage.expect((EFBIG, EINVAL), "fallocate", fd, mode, (1 << 63) - 8192, 1 << 62, label="too-big-EFBIG")
    stage.moved(before, "x", "")
    stage.gives(b"hello", "pread", fd, 10, 0)


def descriptors(stage: Stage, mode: int) -> None:
    """A file open for writing, of a kind that has room."""
    stage.make("regular", "x", 0o666)
    stage.setup("truncate", "x", 4 * PIECE)
    stage.make("fifo", "p")
    stage.make("dir", "d")
    for name, path, flags, want in (
        ("reader", "x", os.O_RDONLY, EBADF), ("path", "x", os.O_PATH, EBADF), ("directory", "d", os.O_RDONLY, EBADF),
        ("fifo", "p", os.O_RDWR, (ESPIPE, ENODEV)),
    ):  # fmt: skip
        fd = stage.setup("open", path, flags)
        stage.expect(want, "fallocate", fd, mode, 0, PIECE, label=name)
    stage.expect(EBADF, "fallocate", 9999, mode, 0, PIECE, label="none-EBADF")
    stage.sees("x", size=4 * PIECE)


def by_user(stage: Stage, mode: int) -> None:
    """Whoever has it open for writing may, whatever the mode has become; the owner stays."""
    stage.make("regular", "x", 0o666, USER)
    for who in (ROOT, USER, MEMBER, OTHER):
        stage.setup("truncate", "x", 4 * PIECE)
        fd = stage.setup("open", "x", os.O_RDWR, who=who)
        stage.setup("chmod", "x", 0)
        stage.expect(0, "fallocate", fd, mode, PIECE, PIECE, who=who)
        stage.sees("x", uid=USER.uid, gid=USER.gid, mode=0, label=f"{who.name}-owner")
        stage.setup("chmod", "x", 0o666)


def set_id(stage: Stage, mode: int) -> None:
    """One without privilege takes the set-ID bits away, as by write(2); root leaves them."""
    for who, want in ((ROOT, 0o6777), (USER, 0o777), (OTHER, 0o777)):
        stage.make("regular", who.name, 0o777, USER)
        stage.setup("truncate", who.name, 4 * PIECE)
        fd = stage.setup("open", who.name, os.O_RDWR, who=who)
        stage.setup("chmod", who.name, 0o6777)
        stage.expect(0, "fallocate", fd, mode, PIECE, PIECE, who=who)
        stage.sees(who.name, mode=want)


def unlinked(stage: Stage, mode: int) -> None:
    """A file without a name too."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("pwrite", fd, _data(), 0)
    stage.setup("unlink", "x")
    stage.expect(0, "fallocate", fd, mode, PIECE, PIECE)
    want = changed(_data(), mode, PIECE, PIECE)
    stage.gives(want, "pread", fd, len(want) + 1, 0)
    stage.sees(fd, by="fstat", nlink=0, size=len(want))


def punched_blocks(stage: Stage) -> None:
    """What is punched out takes no room, and is found as a hole."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("pwrite", fd, bytes([7]) * (4 * PIECE), 0)
    stage.setup("fsync", fd)
    was = stage.lstat("x").blocks
    stage.expect(0, "fallocate", fd, PUNCH_HOLE | KEEP_SIZE, PIECE, PIECE)
    stage.gives(True, "between", 0, stage.lstat("x").blocks, max(0, was - PIECE // 512), label="blocks-are-free")
    stage.gives(PIECE, "lseek", fd, 0, os.SEEK_HOLE, label="hole")
    stage.gives(2 * PIECE, "lseek", fd, PIECE, os.SEEK_DATA, label="data")
    stage.expect(0, "fallocate", fd, PUNCH_HOLE | KEEP_SIZE, 0, 4 * PIECE)
    stage.expect(ENXIO, "lseek", fd, 0, os.SEEK_DATA, label="no-data-ENXIO")
    stage.sees("x", size=4 * PIECE)


def kept_blocks(stage: Stage) -> None:
    """Room behind the end is taken though the size stays, and the file grows into it with zeros."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.expect(0, "fallocate", fd, KEEP_SIZE, 0, 4 * PIECE)
    stage.sees("x", size=0)
    stage.gives(True, "has_blocks", fd, 4 * PIECE)
    stage.gives(b"", "pread", fd, 10, 0)
    stage.setup("pwrite", fd, b"x", PIECE)
    stage.gives(bytes(PIECE) + b"x", "pread", fd, 4 * PIECE, 0, label="zeros-before")
    stage.setup("ftruncate", fd, 2 * PIECE)
    stage.gives(bytes(PIECE - 1), "pread", fd, PIECE, PIECE + 1, label="zeros-behind")


def collapse_end(stage: Stage) -> None:
    """Nothing that reaches to the end or beyond, and nothing that is no multiple of a block, can be taken out."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("pwrite", fd, bytes([5]) * (4 * PIECE), 0)
    for name, offset, length in (("to-the-end", 3 * PIECE, PIECE), ("all", 0, 4 * PIECE), ("behind", 4 * PIECE, PIECE),
                                 ("odd-offset", 1, PIECE), ("odd-length", 0, 1)):  # fmt: skip
        stage.expect(EINVAL, "fallocate", fd, COLLAPSE, offset, length, label=f"{name}-EINVAL")
    stage.expect((EINVAL, EOPNOTSUPP), "fallocate", fd, COLLAPSE | KEEP_SIZE, 0, PIECE, label="with-another")
    stage.sees("x", size=4 * PIECE)


def insert_end(stage: Stage) -> None:
    """Nothing is put in at the end or behind it."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("pwrite", fd, bytes([5]) * (4 * PIECE), 0)
    for name, offset, length in (("at-the-end", 4 * PIECE, PIECE), ("behind", 5 * PIECE, PIECE),
                                 ("odd-offset", 1, PIECE), ("odd-length", 0, 1)):  # fmt: skip
        stage.expect(EINVAL, "fallocate", fd, INSERT, offset, length, label=f"{name}-EINVAL")
    stage.sees("x", size=4 * PIECE)


def unknown(stage: Stage) -> None:
    """A hole leaves the size as it is or is not punched; no unknown mode."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("pwrite", fd, b"hello", 0)
    stage.expect(EOPNOTSUPP, "fallocate", fd, PUNCH_HOLE, 0, PIECE, label="punch-without-keep-size")
    stage.expect(EOPNOTSUPP, "fallocate", fd, 0x4000, 0, PIECE, label="unknown")
    stage.expect((EOPNOTSUPP, EINVAL), "fallocate", fd, PUNCH_HOLE | ZERO_RANGE | KEEP_SIZE, 0, PIECE, label="both")
    stage.gives(b"hello", "pread", fd, 10, 0)


def appending(stage: Stage) -> None:
    """O_APPEND is about writes: room is had where it was asked for."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_WRONLY | os.O_APPEND)
    stage.expect((0, EPERM), "fallocate", fd, 0, 0, 5000, label="success")
    stage.gives(3, "write", fd, b"abc")
    stage.sees("x", size=5003)
