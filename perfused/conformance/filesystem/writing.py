"""Ways of writing and reading besides the plain ones: O_APPEND from several, O_DIRECT, O_SYNC, vectors, and fsync(2),
fdatasync(2), syncfs(2), sync_file_range(2) (open(2), pwritev2(2), readv(2))."""

import os
from collections.abc import Iterator
from errno import EBADF, EINVAL, ESPIPE

from perfused.conformance.filesystem.calls_data import RWF_APPEND, RWF_DSYNC, RWF_SYNC
from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import MEMBER, OTHER, USER

BLOCK = 4096


def cases() -> Iterator[Case]:
    """By what was asked of open(2), then one by one."""
    for name, body in {
        "offset": append_offset, "several-descriptors": append_several, "pwrite": append_pwrite,
        "set-later": append_later, "truncated": append_truncated, "other-writer": append_other, "flag": append_flag,
    }.items():  # fmt: skip
        yield case(f"write/append/{name}", body)
    for size in (1, 100, 4096, 10_000):
        yield case(f"write/append/three-processes/{size}", append_processes, size)
    for length in (BLOCK, 4 * BLOCK, 33 * BLOCK, 257 * BLOCK):
        yield case(f"write/direct/content/{length}", direct, length, needs=["direct"])
    yield case("write/direct/coherent", direct_coherent, needs=["direct"])
    yield case("write/direct/mapped", direct_mapped, needs=["direct", "map"])
    yield case("write/direct/end", direct_end, needs=["direct"])
    yield case("write/direct/unaligned", direct_unaligned, needs=["direct"])
    yield case("write/direct/append", direct_append, needs=["direct"])
    yield case("write/direct/set-later", direct_later, needs=["direct"])
    for name, flag in (("sync", os.O_SYNC), ("dsync", os.O_DSYNC)):
        yield case(f"write/{name}", synced, flag)
    yield case("write/vector", vector)
    yield case("read/vector", read_vector)
    for call in ("fsync", "fdatasync", "syncfs"):
        yield case(f"{call}/kinds", sync_kinds, call)
        yield case(f"{call}/content", sync_content, call)
    yield case("sync_file_range/values", sync_range)


def _data(size: int, seed: int = 1) -> bytes:
    return (bytes((seed + each * 17) % 253 for each in range(253)) * (size // 253 + 1))[:size]


def append_offset(stage: Stage) -> None:
    """Each write goes to the end, wherever the offset was; reads go by the offset."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR | os.O_APPEND)
    want = b""
    for number in range(20):
        stage.setup("lseek", fd, number * 3, os.SEEK_SET)
        part = _data(100 + number * 37, number)
        stage.gives(len(part), "write", fd, part, label=f"{number}-written")
        want += part
        stage.gives(len(want), "lseek", fd, 0, os.SEEK_CUR, label=f"{number}-offset")
    stage.gives(want, "pread", fd, len(want) + 1, 0)
    stage.setup("lseek", fd, 0, os.SEEK_SET)
    stage.gives(want[:10], "read", fd, 10)


def append_several(stage: Stage) -> None:
    """Descriptors of several users in turn lose nothing."""
    stage.make("regular", "x", 0o666)
    fds = [(who, stage.setup("open", "x", os.O_WRONLY | os.O_APPEND, who=who)) for who in (USER, OTHER, MEMBER)]
    want = b""
    for number in range(30):
        who, fd = fds[number % 3]
        part = _data(333, number)
        stage.gives(333, "write", fd, part, who=who, label=f"{number}-written")
        want += part
        stage.sees("x", size=len(want), label=f"{number}-size")
    reader = stage.setup("open", "x", os.O_RDONLY)
    stage.gives(want, "pread", reader, len(want) + 1, 0)


def append_pwrite(stage: Stage) -> None:
    """On Linux pwrite(2) appends too, as its manual page has it under BUGS."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR | os.O_APPEND)
    stage.setup("write", fd, b"hello")
    stage.gives(3, "pwrite", fd, b"abc", 0)
    stage.gives(b"helloabc", "pread", fd, 20, 0)


def append_later(stage: Stage) -> None:
    """The flag comes and goes by fcntl(2), F_SETFL."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("pwrite", fd, b"0123456789", 0)
    stage.expect(0, "setfl", fd, os.O_APPEND, label="set")
    stage.gives(True, "has_flag", fd, os.O_APPEND)
    stage.gives(1, "write", fd, b"a")
    stage.gives(b"0123456789a", "pread", fd, 20, 0, label="appended")
    stage.expect(0, "setfl", fd, 0, label="taken-away")
    stage.setup("lseek", fd, 0, os.SEEK_SET)
    stage.gives(1, "write", fd, b"b")
    stage.gives(b"b123456789a", "pread", fd, 20, 0, label="at-the-offset")


def append_truncated(stage: Stage) -> None:
    """The end is where it is now: after it was cut, and after it grew by truncate(2)."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR | os.O_APPEND)
    stage.setup("write", fd, b"0123456789")
    stage.setup("truncate", "x", 3)
    stage.gives(1, "write", fd, b"a")
    stage.gives(b"012a", "pread", fd, 20, 0, label="cut")
    stage.setup("truncate", "x", 6)
    stage.gives(1, "write", fd, b"b")
    stage.gives(b"012a\0\0b", "pread", fd, 20, 0, label="grown")


def append_other(stage: Stage) -> None:
    """Also where another descriptor has written meanwhile without the flag."""
    stage.make("regular", "x", 0o666)
    fd = stage.setup("open", "x", os.O_RDWR | os.O_APPEND)
    other = stage.setup("open", "x", os.O_RDWR, who=OTHER)
    stage.setup("write", fd, b"one")
    stage.gives(3, "pwrite", other, b"two", 10, who=OTHER)
    stage.gives(5, "write", fd, b"three")
    stage.gives(b"one" + bytes(7) + b"twothree", "pread", other, 50, 0, who=OTHER)


def append_flag(stage: Stage) -> None:
    """RWF_APPEND of pwritev2(2) is the same for one write."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("write", fd, b"hello")
    stage.gives(3, "pwrite_flags", fd, b"abc", 0, RWF_APPEND)
    stage.gives(b"helloabc", "pread", fd, 20, 0)
    stage.gives(3, "pwrite_flags", fd, b"ABC", 0, 0)
    stage.gives(b"ABCloabc", "pread", fd, 20, 0, label="without")


def append_processes(stage: Stage, size: int) -> None:
    """Three processes at a time: every record is there, whole, and nothing else."""
    stage.make("regular", "x", 0o666)
    whos = (USER, OTHER, MEMBER)
    for number, who in enumerate(whos):
        stage.start("append_records", "x", number + 1, 100, size, who=who)
    for who in whos:
        stage.ends(0, who)
    stage.gives({1: 100, 2: 100, 3: 100}, "records", "x", size)
    stage.sees("x", size=300 * size)


# -- O_DIRECT ----------------------------------------------------------------------------------------------------------


def direct(stage: Stage, length: int) -> None:
    """What is written past the cache is read past it and through it."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR | os.O_DIRECT)
    plain = stage.setup("open", "x", os.O_RDONLY)
    for offset in (0, BLOCK, 100 * BLOCK, (1 << 32) + BLOCK):
        data = _data(length, offset % 251)
        stage.gives(length, "pwrite_aligned", fd, data, offset, label=f"{offset}-written")
        stage.gives(data, "pread_aligned", fd, length, offset, label=f"{offset}-read")
        stage.gives(data, "pread", plain, length, offset, label=f"{offset}-read-plain")
        stage.sees("x", size=offset + length, label=f"{offset}-size")


def direct_coherent(stage: Stage) -> None:
    """To and fro: each way sees at once what the other wrote."""
    stage.make("regular", "x", 0o666)
    fd = stage.setup("open", "x", os.O_RDWR | os.O_DIRECT, who=USER)
    plain = stage.setup("open", "x", os.O_RDWR, who=OTHER)
    want = bytearray(16 * BLOCK)
    stage.setup("ftruncate", plain, len(want), who=OTHER)
    for number in range(20):
        offset = number * 5 % 14 * BLOCK
        want[offset : offset + 2 * BLOCK] = _data(2 * BLOCK, number)
        stage.setup("pwrite_aligned", fd, _data(2 * BLOCK, number), offset, who=USER)
        stage.gives(bytes(want), "pread", plain, len(want), 0, who=OTHER, label=f"{number}-plain-sees")
        at = number * 3001 % (15 * BLOCK)
        want[at : at + 100] = _data(100, number + 50)
        stage.setup("pwrite", plain, _data(100, number + 50), at, who=OTHER)
        stage.gives(bytes(want), "pread_aligned", fd, len(want), 0, who=USER, label=f"{number}-direct-sees")


def direct_mapped(stage: Stage) -> None:
    """A mapping written and synced is read past the cache, and what is written past it is mapped."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR | os.O_DIRECT)
    plain = stage.setup("open", "x", os.O_RDWR)
    stage.setup("ftruncate", plain, 2 * BLOCK)
    found = stage.setup("map", plain, 2 * BLOCK)
    stage.setup("map_write", found, 10, b"mapped")
    stage.setup("msync", found, 4)
    stage.gives(bytes(10) + b"mapped" + bytes(BLOCK - 16), "pread_aligned", fd, BLOCK, 0)
    stage.setup("pwrite_aligned", fd, _data(BLOCK), BLOCK)
    stage.gives(_data(BLOCK), "map_read", found, BLOCK, BLOCK)


def direct_end(stage: Stage) -> None:
    """A read across the end is short, one behind it empty; the end may be anywhere."""
    stage.make("regular", "x")
    plain = stage.setup("open", "x", os.O_RDWR)
    stage.setup("pwrite", plain, _data(BLOCK + 777), 0)
    fd = stage.setup("open", "x", os.O_RDONLY | os.O_DIRECT)
    stage.gives(_data(BLOCK + 777), "pread_aligned", fd, 4 * BLOCK, 0, label="across")
    stage.gives(_data(BLOCK + 777)[BLOCK:], "pread_aligned", fd, BLOCK, BLOCK, label="last")
    stage.gives(b"", "pread_aligned", fd, BLOCK, 2 * BLOCK, label="behind")
    stage.gives(b"", "pread_aligned", fd, BLOCK, 1 << 40, label="far-behind")


def direct_unaligned(stage: Stage) -> None:
    """What is not aligned is done or EINVAL, never done in part."""
    stage.make("regular", "x")
    plain = stage.setup("open", "x", os.O_RDWR)
    stage.setup("pwrite", plain, bytes(4 * BLOCK), 0)
    fd = stage.setup("open", "x", os.O_RDWR | os.O_DIRECT)
    for name, length, offset, skew in (("offset", BLOCK, 100, 0), ("length", 100, 0, 0), ("buffer", BLOCK, 0, 1)):
        stage.expect((0, EINVAL), "pwrite_aligned", fd, b"x" * length, offset, skew, label=f"{name}-write")
        stage.expect((0, EINVAL), "pread_aligned", fd, length, offset, skew, label=f"{name}-read")
    stage.sees("x", size=4 * BLOCK)
    stage.gives(bytes(2 * BLOCK), "pread", plain, 2 * BLOCK, 2 * BLOCK)


def direct_append(stage: Stage) -> None:
    """O_APPEND with it goes to the end."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR | os.O_DIRECT | os.O_APPEND)
    for number in range(4):
        stage.gives(BLOCK, "pwrite_aligned", fd, _data(BLOCK, number), 0, label=f"{number}-written")
    want = b"".join(_data(BLOCK, number) for number in range(4))
    stage.gives(want, "pread_aligned", fd, 5 * BLOCK, 0)


def direct_later(stage: Stage) -> None:
    """The flag comes and goes by fcntl(2), F_SETFL."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.gives(BLOCK, "pwrite_aligned", fd, _data(BLOCK), 0)
    stage.expect(0, "setfl", fd, os.O_DIRECT, label="set")
    stage.gives(BLOCK, "pwrite_aligned", fd, _data(BLOCK, 9), BLOCK)
    stage.gives(_data(BLOCK) + _data(BLOCK, 9), "pread_aligned", fd, 2 * BLOCK, 0)
    stage.expect(0, "setfl", fd, 0, label="taken-away")
    stage.gives(_data(BLOCK)[3:13], "pread", fd, 10, 3)


# -- what is on the disk -----------------------------------------------------------------------------------------------


def synced(stage: Stage, flag: int) -> None:
    """O_SYNC and O_DSYNC, and their flags for one write, write as any."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR | flag)
    want = b""
    for number in range(10):
        part = _data(999, number)
        stage.gives(999, "write", fd, part, label=f"{number}-written")
        want += part
    stage.gives(want, "pread", fd, 20_000, 0)
    plain = stage.setup("open", "x", os.O_RDWR)
    for name, one in (("sync", RWF_SYNC), ("dsync", RWF_DSYNC)):
        stage.gives(3, "pwrite_flags", plain, b"abc", 0, one, label=f"one-{name}")
    stage.gives(b"abc" + want[3:], "pread", fd, 20_000, 0, label="at-the-end")


def vector(stage: Stage) -> None:
    """writev(2) writes its parts in order, empty ones too, across pages."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    parts = [_data(size, size % 200) for size in (1, 0, 10, 4095, 4097, 0, 70_000, 3)]
    stage.gives(sum(map(len, parts)), "writev", fd, parts)
    stage.gives(b"".join(parts), "pread", fd, 100_000, 0)
    stage.gives(7, "writev", fd, [b"abc", b"defg"], label="goes-on")
    stage.sees("x", size=sum(map(len, parts)) + 7)
    stage.gives(0, "writev", fd, [b"", b""], label="nothing")


def read_vector(stage: Stage) -> None:
    """readv(2) fills its buffers in order, and the last one in part."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    data = _data(10_000)
    stage.setup("pwrite", fd, data, 0)
    stage.gives([data[:1], data[1:4097], data[4097:4100]], "readv", fd, [1, 4096, 3])
    stage.gives([data[4100:9100], data[9100:], b""], "readv", fd, [5000, 5000, 10], label="end")
    stage.gives([b""], "readv", fd, [10], label="nothing-more")


def sync_kinds(stage: Stage, call: str) -> None:
    """By whatever descriptor of a file or directory; not by none, nor by one of a path alone."""
    stage.make("regular", "x", 0o666)
    stage.make("dir", "d", 0o755)
    every = (("reader", "x", os.O_RDONLY), ("writer", "x", os.O_WRONLY), ("directory", "d", os.O_RDONLY))
    for name, path, flags in every:
        for who in (USER, OTHER):
            fd = stage.setup("open", path, flags, who=who)
            stage.expect(0, call, fd, who=who, label=f"{name}-{who.name}")
    stage.expect(EBADF, call, 9999, label="none-EBADF")
    stage.expect(EBADF, call, stage.setup("open", "x", os.O_PATH), label="path-EBADF")
    if call != "syncfs":
        stage.make("fifo", "p")
        stage.expect(EINVAL, call, stage.setup("open", "p", os.O_RDWR), label="fifo-EINVAL")


def sync_content(stage: Stage, call: str) -> None:
    """Nothing changes by it: not the content, not the times, without a name either."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("write", fd, _data(100_000))
    before = stage.times("x", ".")
    stage.expect(0, call, fd)
    stage.moved(before, "x", "")
    stage.moved(before, ".", "")
    stage.sees("x", size=100_000)
    stage.gives(_data(100_000), "pread", fd, 200_000, 0)
    stage.setup("unlink", "x")
    stage.setup("write", fd, b"more")
    stage.expect(0, call, fd, label="unlinked-success")


def sync_range(stage: Stage) -> None:
    """sync_file_range(2): any range, no unknown flag, no pipe."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("write", fd, _data(100_000))
    for flags in range(8):
        stage.expect(0, "sync_file_range", fd, 100, 5000, flags, label=f"{flags}-success")
    stage.expect(0, "sync_file_range", fd, 0, 0, 7, label="to-the-end")
    stage.expect(EINVAL, "sync_file_range", fd, 0, 10, 8, label="unknown-EINVAL")
    stage.expect(EINVAL, "sync_file_range", fd, -1, 10, 2, label="negative-EINVAL")
    stage.expect(EINVAL, "sync_file_range", fd, 10, -20, 2, label="backwards-EINVAL")
    stage.make("fifo", "p")
    stage.expect(ESPIPE, "sync_file_range", stage.setup("open", "p", os.O_RDWR), 0, 10, 2, label="fifo-ESPIPE")
    stage.gives(_data(100_000), "pread", fd, 200_000, 0)
