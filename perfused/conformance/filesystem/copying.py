"""Copies that the kernel makes: copy_file_range(2), sendfile(2), splice(2).

Whether the filesystem does it or the kernel for it makes no difference to any assertion.
"""

import os
from collections.abc import Iterator
from errno import EBADF, EINVAL, EISDIR, ESPIPE

from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import OTHER, ROOT, USER

SIZE = 200_123
RANGES = (
    (0, 0, 1), (0, 0, SIZE), (1, 0, 4096), (4096, 8192, 4096), (100, 5000, 100_000), (SIZE - 10, 0, 10),
    (SIZE - 10, 7, 100), (0, SIZE + 10_000, 5000), (4095, 4097, 131_072), (0, 1 << 33, 1000),
)  # fmt: skip


def cases() -> Iterator[Case]:
    """By call."""
    for name, call in (("copy_file_range", "copy_file_range"), ("splice", "through_pipe")):
        needs = ["copy"] if name == "copy_file_range" else []
        for at, to, length in RANGES:
            yield case(f"{name}/content/{at}-{to}-{length}", content, call, at, to, length, needs=needs)
        yield case(f"{name}/times", times, call, needs=needs)
        yield case(f"{name}/set-id", set_id, call, needs=needs)
        yield case(f"{name}/unlinked", unlinked, call, needs=needs)
        yield case(f"{name}/same-file", same_file, call, needs=needs)
    for name, body in {
        "offsets": offsets, "descriptors": descriptors, "overlapping": overlapping, "flags": flags, "end": end,
        "users": users, "append": append, "holes": holes,
    }.items():  # fmt: skip
        yield case(f"copy_file_range/{name}", body, needs=["copy"])
    for length in (0, 1, 4096, 65_537, SIZE):
        yield case(f"sendfile/socket/{length}", to_socket, length)
    yield case("sendfile/file", sendfile)
    yield case("sendfile/errors", sendfile_errors)


def _data(size: int = SIZE, seed: int = 1) -> bytes:
    return (bytes((seed + each * 13) % 253 for each in range(253)) * (size // 253 + 1))[:size]


def _pair(stage: Stage) -> tuple[int, int]:
    stage.make("regular", "a", 0o666)
    stage.make("regular", "b", 0o666)
    one, two = stage.setup("open", "a", os.O_RDWR), stage.setup("open", "b", os.O_RDWR)
    stage.setup("pwrite", one, _data(), 0)
    stage.setup("pwrite", two, _data(50_000, 99), 0)
    return one, two


def content(stage: Stage, call: str, at: int, to: int, length: int) -> None:
    """The bytes arrive, the others stay, what lies between the old end and them is zero; no offset moves."""
    one, two = _pair(stage)
    part = _data()[at : at + length]
    got = stage.expect(0, call, one, two, length, at, to)
    stage.gives(True, "between", 1, got if got else len(part), len(part), label="some")
    done = got if got else len(part)
    while done < len(part) and got:  # a short copy is one, and goes on where it ended
        got = stage.setup(call, one, two, len(part) - done, at + done, to + done)
        done += got
    stage.gives(part, "pread", two, len(part), to, label="arrived")
    old = _data(50_000, 99)
    stage.sees("b", size=max(len(old), to + len(part)))
    stage.gives(old[: min(to, 50_000)], "pread", two, min(to, 50_000), 0, label="before")
    stage.gives(old[to + len(part) :], "pread", two, max(0, 50_000 - to - len(part)), to + len(part), label="behind")
    if to > 50_000:
        stage.gives(bytes(min(100, to - 50_000)), "pread", two, min(100, to - 50_000), 50_000, label="between")
    stage.gives(_data(), "pread", one, SIZE + 1, 0, label="source")
    for name, fd in (("source", one), ("target", two)):
        stage.gives(0, "lseek", fd, 0, os.SEEK_CUR, label=f"{name}-offset")


def times(stage: Stage, call: str) -> None:
    """The target has a new mtime and ctime, the source neither."""
    one, two = _pair(stage)
    before = stage.times("a", "b", ".")
    stage.expect(0, call, one, two, 1000, 0, 0)
    stage.expect(0, "fsync", two)
    after = stage.lstat("b")
    stage.moved({"b": before["b"]._replace(atime=after.atime)}, "b", "mc")
    after = stage.lstat("a")
    stage.moved({"a": before["a"]._replace(atime=after.atime)}, "a", "")
    stage.moved(before, ".", "")


def set_id(stage: Stage, call: str) -> None:
    """One without privilege takes the target's set-ID bits away."""
    _pair(stage)
    for who, want in ((ROOT, 0o6777), (USER, 0o777), (OTHER, 0o777)):
        stage.make("regular", who.name, 0o777, USER)
        source = stage.setup("open", "a", os.O_RDONLY, who=who)
        target = stage.setup("open", who.name, os.O_RDWR, who=who)
        stage.setup("chmod", who.name, 0o6777)
        stage.expect(0, call, source, target, 1000, 0, 0, who=who)
        stage.sees(who.name, mode=want, size=1000)


def unlinked(stage: Stage, call: str) -> None:
    """From a file without a name into one."""
    one, two = _pair(stage)
    stage.setup("unlink", "a")
    stage.setup("unlink", "b")
    stage.gives(1000, call, one, two, 1000, 10, 20)
    stage.gives(_data()[10:1010], "pread", two, 1000, 20)


def same_file(stage: Stage, call: str) -> None:
    """Within one file, where the two ranges are apart."""
    one, _ = _pair(stage)
    again = stage.setup("open", "a", os.O_RDWR)
    for number, (source, target) in enumerate(((one, one), (one, again))):
        stage.gives(5000, call, source, target, 5000, 0, 100_000 + number * 10_000, label=f"{number}-success")
        stage.gives(_data()[:5000], "pread", one, 5000, 100_000 + number * 10_000, label=f"{number}-content")
    stage.gives(_data()[:100_000], "pread", one, 100_000, 0, label="before")
    stage.sees("a", size=SIZE)


def offsets(stage: Stage) -> None:
    """Without offsets those of the descriptors count, and move by what was copied."""
    one, two = _pair(stage)
    stage.setup("lseek", one, 100, os.SEEK_SET)
    stage.setup("lseek", two, 200, os.SEEK_SET)
    stage.gives(1000, "copy_file_range", one, two, 1000, label="both")
    stage.gives(1100, "lseek", one, 0, os.SEEK_CUR, label="source-moved")
    stage.gives(1200, "lseek", two, 0, os.SEEK_CUR, label="target-moved")
    stage.gives(500, "copy_file_range", one, two, 500, 0, label="own-of-target")
    stage.gives(1100, "lseek", one, 0, os.SEEK_CUR, label="source-stays")
    stage.gives(1700, "lseek", two, 0, os.SEEK_CUR, label="target-moved-on")
    stage.gives(_data()[100:1100] + _data()[:500], "pread", two, 1500, 200)


def descriptors(stage: Stage) -> None:
    """Source for reading, target for writing, both regular files."""
    one, two = _pair(stage)
    stage.make("fifo", "p")
    stage.make("dir", "d")
    reader, writer = stage.setup("open", "a", os.O_RDONLY), stage.setup("open", "b", os.O_WRONLY)
    stage.expect(0, "copy_file_range", reader, writer, 10, 0, 0)
    stage.expect(EBADF, "copy_file_range", writer, two, 10, 0, 0, label="from-writer-EBADF")
    stage.expect(EBADF, "copy_file_range", one, reader, 10, 0, 0, label="to-reader-EBADF")
    stage.expect(EBADF, "copy_file_range", 9999, two, 10, 0, 0, label="none-EBADF")
    place = stage.setup("open", "d", os.O_RDONLY)
    stage.expect((EISDIR, EBADF), "copy_file_range", place, two, 10, 0, 0, label="directory")
    pipe = stage.setup("open", "p", os.O_RDWR)
    stage.expect((EINVAL, ESPIPE), "copy_file_range", pipe, two, 10, None, 0, label="from-fifo")
    stage.expect((EINVAL, ESPIPE), "copy_file_range", one, pipe, 10, 0, None, label="to-fifo")
    stage.expect(EBADF, "copy_file_range", stage.setup("open", "a", os.O_PATH), two, 10, 0, 0, label="path-EBADF")


def overlapping(stage: Stage) -> None:
    """Ranges of one file that overlap are refused; ones that touch are not."""
    one, _ = _pair(stage)
    for name, at, to, length in (("same", 0, 0, 100), ("forwards", 0, 50, 100), ("backwards", 50, 0, 100),
                                 ("one-byte", 0, 99, 100)):  # fmt: skip
        stage.expect(EINVAL, "copy_file_range", one, one, length, at, to, label=f"{name}-EINVAL")
    stage.gives(100, "copy_file_range", one, one, 100, 0, 100, label="touching")
    stage.gives(_data()[:100] * 2 + _data()[200:300], "pread", one, 300, 0)


def flags(stage: Stage) -> None:
    """There are none."""
    one, two = _pair(stage)
    stage.expect(EINVAL, "copy_file_range", one, two, 10, 0, 0, 1)
    stage.gives(_data(10, 99), "pread", two, 10, 0)


def end(stage: Stage) -> None:
    """At the end there is nothing to copy, nor where nothing was asked for."""
    one, two = _pair(stage)
    before = stage.times("b")
    for name, at, length in (("at", SIZE, 10), ("behind", SIZE + 1000, 10), ("far", 1 << 40, 10), ("none", 0, 0)):
        stage.gives(0, "copy_file_range", one, two, length, at, 0, label=f"{name}-nothing")
    stage.sees("b", size=50_000)
    stage.moved(before, "b", "")


def users(stage: Stage) -> None:
    """What counts is how they were opened."""
    one, two = _pair(stage)
    source = stage.setup("open", "a", os.O_RDONLY, who=OTHER)
    target = stage.setup("open", "b", os.O_WRONLY, who=OTHER)
    stage.setup("chmod", "a", 0)
    stage.setup("chmod", "b", 0)
    stage.gives(1000, "copy_file_range", source, target, 1000, 5, 0, who=OTHER)
    stage.gives(_data()[5:1005], "pread", two, 1000, 0)
    stage.sees("b", uid=0, gid=0, mode=0)
    stage.gives(10, "copy_file_range", one, two, 10, 0, 0)


def append(stage: Stage) -> None:
    """No target that was opened with O_APPEND."""
    one, _ = _pair(stage)
    target = stage.setup("open", "b", os.O_WRONLY | os.O_APPEND)
    stage.expect(EBADF, "copy_file_range", one, target, 10, 0, 0)
    stage.sees("b", size=50_000)


def holes(stage: Stage) -> None:
    """A hole arrives as zeros, over what was there."""
    one, two = _pair(stage)
    stage.setup("ftruncate", one, 0)
    stage.setup("ftruncate", one, 40_000)
    stage.setup("pwrite", one, b"end", 39_997)
    stage.gives(40_000, "copy_file_range", one, two, 40_000, 0, 1000)
    want = _data(50_000, 99)[:1000] + bytes(39_997) + b"end" + _data(50_000, 99)[41_000:]
    stage.gives(want, "pread", two, 60_000, 0)


# -- sendfile ----------------------------------------------------------------------------------------------------------


def to_socket(stage: Stage, length: int) -> None:
    """A socket receives the file's bytes from any offset; the descriptor's does not move."""
    one, _ = _pair(stage)
    for offset in (0, 1, 4096, SIZE - 5, SIZE, SIZE + 100):
        part = min(length, 60_000)
        want = _data()[offset : offset + part]
        stage.gives(want, "to_socket", one, offset, part, label=f"{offset}-arrives")
    stage.gives(0, "lseek", one, 0, os.SEEK_CUR, label="offset-stays")


def sendfile(stage: Stage) -> None:
    """A file receives at its offset; without an offset of the source the descriptor's own moves."""
    one, two = _pair(stage)
    stage.gives(1000, "sendfile", two, one, 10, 1000)
    stage.gives(1000, "lseek", two, 0, os.SEEK_CUR, label="target-moved")
    stage.gives(_data()[10:1010] + _data(50_000, 99)[1000:1010], "pread", two, 1010, 0)
    stage.gives(0, "lseek", one, 0, os.SEEK_CUR, label="source-stays")
    stage.gives(500, "sendfile", two, one, None, 500)
    stage.gives(500, "lseek", one, 0, os.SEEK_CUR, label="source-moved")
    stage.gives(_data()[:500], "pread", two, 500, 1000, label="second")
    stage.gives(0, "sendfile", two, one, SIZE, 100, label="end")


def sendfile_errors(stage: Stage) -> None:
    """Source for reading, target for writing, and not O_APPEND."""
    one, two = _pair(stage)
    stage.expect(EBADF, "sendfile", two, stage.setup("open", "a", os.O_WRONLY), 0, 10, label="from-writer-EBADF")
    stage.expect(EBADF, "sendfile", stage.setup("open", "b", os.O_RDONLY), one, 0, 10, label="to-reader-EBADF")
    stage.expect(EINVAL, "sendfile", stage.setup("open", "b", os.O_WRONLY | os.O_APPEND), one, 0, 10, label="append")
    stage.make("dir", "d")
    stage.expect((EINVAL, EISDIR), "sendfile", two, stage.setup("open", "d", os.O_RDONLY), 0, 10, label="directory")
    stage.gives(_data(10, 99), "pread", two, 10, 0)
