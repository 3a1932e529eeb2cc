"""What is not the filesystem's to read and write: pipes, devices and sockets behind its names.

fifo(7), mknod(2), unix(7).
"""

import os
from collections.abc import Iterator
from errno import EACCES, EAGAIN, EINVAL, ENOENT, ENXIO, EOPNOTSUPP, ESPIPE

from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import MEMBER, OTHER, USER


def cases() -> Iterator[Case]:
    """By kind."""
    for name, body in {
        "data": data, "two-names": two_names, "no-reader": no_reader, "renamed": renamed, "permission": permission,
        "no-offset": no_offset, "size": size,
    }.items():  # fmt: skip
        yield case(f"fifo/{name}", body)
    yield case("device/null", null, needs=["devices"])
    yield case("device/zero", zero, needs=["devices"])
    yield case("device/absent", absent, needs=["devices"])
    yield case("device/permission", device_permission, needs=["devices"])
    yield case("device/numbers", numbers)
    yield case("socket/names", sockets)


def data(stage: Stage) -> None:
    """What one process writes another reads, in order, and once."""
    stage.make("fifo", "p", 0o666)
    reader = stage.setup("open", "p", os.O_RDONLY | os.O_NONBLOCK, who=USER)
    writer = stage.setup("open", "p", os.O_WRONLY | os.O_NONBLOCK, who=OTHER)
    for number in range(10):
        part = bytes([number]) * (number * 400 + 1)
        stage.gives(len(part), "write", writer, part, who=OTHER, label=f"{number}-written")
        stage.gives(part, "read", reader, 10_000, who=USER, label=f"{number}-read")
    stage.expect(EAGAIN, "read", reader, 10, who=USER)
    stage.expect(0, "close", writer, who=OTHER)
    stage.gives(b"", "read", reader, 10, who=USER, label="end")


def two_names(stage: Stage) -> None:
    """By either name it is one pipe."""
    stage.make("fifo", "p", 0o666)
    stage.setup("link", "p", "q")
    reader = stage.setup("open", "p", os.O_RDONLY | os.O_NONBLOCK, who=USER)
    writer = stage.setup("open", "q", os.O_WRONLY | os.O_NONBLOCK, who=OTHER)
    stage.gives(3, "write", writer, b"abc", who=OTHER)
    stage.gives(b"abc", "read", reader, 10, who=USER)


def no_reader(stage: Stage) -> None:
    """Nobody writes without waiting where nobody reads."""
    stage.make("fifo", "p", 0o666)
    stage.expect(ENXIO, "open", "p", os.O_WRONLY | os.O_NONBLOCK, who=USER)
    stage.expect(0, "open", "p", os.O_RDONLY | os.O_NONBLOCK, who=OTHER)
    stage.expect(0, "open", "p", os.O_WRONLY | os.O_NONBLOCK, who=USER)


def renamed(stage: Stage) -> None:
    """The pipe goes on under another name, and a new one of the old name is another."""
    stage.make("fifo", "p", 0o666)
    fd = stage.setup("open", "p", os.O_RDWR | os.O_NONBLOCK)
    stage.setup("rename", "p", "q")
    stage.make("fifo", "p", 0o666)
    writer = stage.setup("open", "q", os.O_WRONLY | os.O_NONBLOCK, who=USER)
    other = stage.setup("open", "p", os.O_RDWR | os.O_NONBLOCK, who=USER)
    stage.setup("write", writer, b"q", who=USER)
    stage.setup("write", other, b"p", who=USER)
    stage.gives(b"q", "read", fd, 10)
    stage.gives(b"p", "read", other, 10, who=USER)


def permission(stage: Stage) -> None:
    """The mode decides who reads and who writes."""
    for mode in (0o600, 0o400, 0o200, 0o040, 0o020, 0o004, 0o006, 0o000):
        path = f"p{mode:o}"
        stage.make("fifo", path, mode, USER)
        stage.setup("open", path, os.O_RDWR | os.O_NONBLOCK)
        for who, shift in ((USER, 6), (MEMBER, 3), (OTHER, 0)):
            bits = mode >> shift & 7
            for name, flags, need in (("read", os.O_RDONLY, 4), ("write", os.O_WRONLY, 2)):
                want = 0 if bits & need else EACCES
                stage.expect(want, "open", path, flags | os.O_NONBLOCK, who=who, label=f"{mode:o}-{who.name}-{name}")


def no_offset(stage: Stage) -> None:
    """It has no offsets and no room."""
    stage.make("fifo", "p")
    fd = stage.setup("open", "p", os.O_RDWR | os.O_NONBLOCK)
    stage.expect(ESPIPE, "lseek", fd, 0, os.SEEK_SET)
    stage.expect(ESPIPE, "pread", fd, 1, 0)
    stage.expect(ESPIPE, "pwrite", fd, b"x", 0)
    stage.expect(EINVAL, "ftruncate", fd, 0)
    stage.expect(EINVAL, "fsync", fd)


def size(stage: Stage) -> None:
    """What is in it is not in the file."""
    stage.make("fifo", "p")
    fd = stage.setup("open", "p", os.O_RDWR | os.O_NONBLOCK)
    stage.setup("write", fd, b"hello")
    stage.sees("p", kind="fifo", size=0)
    stage.sees(fd, by="fstat", kind="fifo", size=0)


def null(stage: Stage) -> None:
    """The node leads to the kernel's device."""
    stage.expect(0, "mknod", "n", "char", 0o666, (1, 3))
    fd = stage.expect(0, "open", "n", os.O_RDWR, who=USER)
    stage.gives(5, "write", fd, b"hello", who=USER)
    stage.gives(b"", "read", fd, 10, who=USER)
    stage.sees("n", kind="char", rdev=(1, 3), size=0)


def zero(stage: Stage) -> None:
    """So does that of zeros, by every name."""
    stage.expect(0, "mknod", "z", "char", 0o666, (1, 5))
    stage.setup("link", "z", "y")
    for path in ("z", "y"):
        fd = stage.expect(0, "open", path, os.O_RDWR, who=OTHER, label=f"{path}-open")
        stage.gives(bytes(100), "read", fd, 100, who=OTHER, label=f"{path}-zeros")
        stage.gives(3, "write", fd, b"abc", who=OTHER, label=f"{path}-written")


def absent(stage: Stage) -> None:
    """Nodes whose device no kernel has are ENXIO."""
    stage.make("block", "b", 0o666)
    stage.expect(0, "mknod", "c", "char", 0o666, (4000, 1))
    for path in ("b", "c"):
        stage.expect(ENXIO, "open", path, os.O_RDONLY, who=USER, label=f"{path}-ENXIO")


def device_permission(stage: Stage) -> None:
    """The node's mode decides, not the device's."""
    for mode in (0o600, 0o060, 0o006, 0o400, 0o200):
        path = f"n{mode:o}"
        stage.make("char", path, mode, USER)
        for who, shift in ((USER, 6), (MEMBER, 3), (OTHER, 0)):
            bits = mode >> shift & 7
            for name, flags, need in (("read", os.O_RDONLY, 4), ("write", os.O_WRONLY, 2)):
                want = 0 if bits & need else EACCES
                stage.expect(want, "open", path, flags, who=who, label=f"{mode:o}-{who.name}-{name}")


def numbers(stage: Stage) -> None:
    """All of a device's number comes back: 12 bits and 20."""
    for major, minor in ((0, 0), (1, 255), (255, 256), (256, 1), (4095, 0), (1, (1 << 20) - 1), (4095, (1 << 20) - 1)):
        for kind in ("char", "block"):
            path = f"{kind}-{major}-{minor}"
            stage.expect(0, "mknod", path, kind, 0o600, (major, minor), label=f"{path}-success")
            stage.sees(path, kind=kind, rdev=(major, minor), label=f"{path}-number")


def sockets(stage: Stage) -> None:
    """A socket is connected to by every name of its file, and not opened."""
    stage.expect(0, "listen", "s")
    stage.expect(0, "connect", "s")
    stage.setup("link", "s", "t")
    stage.expect(0, "connect", "t")
    stage.setup("rename", "s", "u")
    stage.expect(0, "connect", "u")
    stage.expect(ENOENT, "connect", "s", label="old-name-ENOENT")
    stage.expect((ENXIO, EOPNOTSUPP), "open", "u", os.O_RDONLY)
    stage.setup("chmod", "u", 0o600)
    stage.expect(EACCES, "connect", "u", who=OTHER)
    stage.setup("chmod", "u", 0o666)
    stage.expect(0, "connect", "u", who=OTHER)
    stage.expect(0, "unlink", "u")
    stage.expect(0, "connect", "t", label="by-the-name-that-is-left")
