"""Cases about FOPEN_PASSTHROUGH: a backing file that the kernel reads and writes itself, and what it refuses."""

import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Callable
from typing import Any

from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Failed, Level, Skipped, case
from perfused.conformance.kernel.steps import code, opened, read
from wire import codec, ioctls
from wire.flags import InitFlag, OpenFlag
from wire.opcodes import Opcode

OPEN, READ, WRITE = Opcode.OPEN, Opcode.READ, Opcode.WRITE
P = InitFlag.PASSTHROUGH
DOCUMENT = "kernel documentation, fuse-passthrough; fuse.h 7.40"
MEASURED = "measured on Linux 6.18"


def _backing(k: Bench, data: bytes = b"backing file") -> int:
    """A descriptor of a file outside the mount."""
    fd = os.open(os.path.join(k.directory, "backing"), os.O_RDWR | os.O_CREAT, 0o600)
    os.pwrite(fd, data, 0)
    return fd


def _register(k: Bench, fd: int, flags: int = 0, padding: int = 0) -> int:
    """FUSE_DEV_IOC_BACKING_OPEN: an id. Raises OSError."""
    given = bytearray(codec.backing_map.pack(fd, flags, padding))
    return int(fcntl.ioctl(k.server.fd, ioctls.FUSE_DEV_IOC_BACKING_OPEN, given))


def _forget(k: Bench, backing: int) -> None:
    fcntl.ioctl(k.server.fd, ioctls.FUSE_DEV_IOC_BACKING_CLOSE, struct.pack("=I", backing))


def _ground(k: Bench, fd: int | None = None, flags: int = 0) -> int:
    """Mount with a file "a" that is passed through; the backing id."""
    k.mount(P | flags, max_stack_depth=1).tree.add("a", b"server's own ")
    # Until INIT's answer is read there is no PASSTHROUGH.
    k.settle()
    try:
        backing = _register(k, _backing(k) if fd is None else fd)
    except PermissionError:
        raise Skipped("BACKING_OPEN takes CAP_SYS_ADMIN") from None
    k.answer(OPEN, k.tree.opened(3, int(OpenFlag.PASSTHROUGH), backing))
    return backing


def _quiet(k: Bench) -> None:
    k.equal("READ, WRITE requests", (len(k.seen(READ)), len(k.seen(WRITE))), (0, 0))


def _use(name: str, work: Callable[[int], Any], wanted: object, after: bytes | None = None) -> None:
    @case(f"passthrough/{name}", OPEN, READ, WRITE, aspect="flag", since=40, flags=P, source=DOCUMENT)
    def _(k: Bench) -> None:
        _ground(k)
        k.equal("what came of it", k.ok(lambda: opened(k.file("a"), os.O_RDWR, work)), wanted)
        _quiet(k)
        if after is not None:
            with open(os.path.join(k.directory, "backing"), "rb") as file:
                k.equal("the backing file", file.read(), after)


def _mapped(fd: int) -> bytes:
    with mmap.mmap(fd, 12) as mapped:
        mapped[0:3] = b"MAP"
        return mapped[:]


def _sent(fd: int) -> bytes:
    read_end, write_end = os.pipe()
    os.sendfile(write_end, fd, 0, 7)
    return os.read(read_end, 100)


_use("read", lambda fd: os.pread(fd, 100, 0), b"backing file")
_use("read-at", lambda fd: os.pread(fd, 3, 8), b"fil")
_use("write", lambda fd: os.pwrite(fd, b"ING", 4), 3, b"backING file")
_use("mmap", _mapped, b"MAPking file", b"MAPking file")
_use("sendfile", _sent, b"backing")


@case("passthrough/append", OPEN, WRITE, aspect="flag", since=40, flags=P, source=DOCUMENT + "; open(2): O_APPEND")
def _(k: Bench) -> None:
    fd = _backing(k)
    _ground(k, fd)
    k.ok(lambda: opened(k.file("a"), os.O_WRONLY | os.O_APPEND, lambda made: os.write(made, b"!")))
    _quiet(k)
    k.equal("the backing file", os.pread(fd, 100, 0), b"backing file!")


@case("passthrough/flush-and-release", OPEN, Opcode.FLUSH, Opcode.RELEASE, aspect="flag", since=40, flags=P,
      source=DOCUMENT + ": other requests come to the server as ever")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.ok(lambda: read(k.file("a")))
    k.equal("fh of FLUSH", k.one(Opcode.FLUSH).head.fh, 3)
    k.equal("fh of RELEASE", k.wait_for(Opcode.RELEASE).head.fh, 3)


@case("passthrough/fsync", OPEN, Opcode.FSYNC, aspect="flag", level=Level.SHOULD, since=40, flags=P,
      source=DOCUMENT + "; " + MEASURED + ": FSYNC comes to the server")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.ok(lambda: opened(k.file("a"), os.O_RDWR, os.fsync))
    k.equal("fh of FSYNC", k.one(Opcode.FSYNC).head.fh, 3)


@case("passthrough/attributes-asked-after-write", OPEN, Opcode.GETATTR, aspect="cache", level=Level.SHOULD, since=40,
      flags=P, source="attributes that a write changed are asked for again, however long they hold")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.tree.valid = 60

    def work(fd: int) -> None:
        os.fstat(fd)
        os.pwrite(fd, b"x", 0)
        os.fstat(fd)

    node = k.tree.at("a")
    k.ok(lambda: opened(k.file("a"), os.O_RDWR, work))
    k.true("GETATTR after the write", k.seen(Opcode.GETATTR, node.nodeid))


@case("passthrough/creates", Opcode.CREATE, READ, WRITE, aspect="flag", since=40, flags=P,
      source=DOCUMENT + ": CREATE opens too")  # fmt: skip
def _(k: Bench) -> None:
    backing = _ground(k)
    rule = k.answer(Opcode.CREATE, lambda request: k.tree.entry(k.tree.add(request.names[0].decode()))
                    + k.tree.opened(4, int(OpenFlag.PASSTHROUGH), backing))  # fmt: skip
    found = k.ok(lambda: opened(k.file("new"), os.O_RDWR | os.O_CREAT, lambda fd: os.pread(fd, 7, 0)))
    k.equal("read", found, b"backing")
    k.true("CREATE was asked", rule.seen)
    _quiet(k)


@case("passthrough/id-closed-while-open", OPEN, READ, aspect="flag", since=40, flags=P,
      source=DOCUMENT + ": an open file holds its backing file")  # fmt: skip
def _(k: Bench) -> None:
    backing = _ground(k)

    def work() -> Any:
        fd = os.open(k.file("a"), os.O_RDONLY)
        yield
        yield os.pread(fd, 100, 0)

    steps = k.steps(work)
    steps.next()
    _forget(k, backing)
    k.equal("read", steps.next(), b"backing file")
    _quiet(k)
    steps.end()


# -- what is refused ---------------------------------------------------------------------------------------------------


def _ioctl_refused(name: str, number: int, attempt: Callable[[Bench, int], Any], source: str, agreed: bool = True,
                   level: Level = Level.SHOULD) -> None:  # fmt: skip
    @case(f"passthrough/{name}", aspect="error", since=40, flags=P, level=level, source=source)
    def _(k: Bench) -> None:
        fd = _backing(k)
        k.mount(P if agreed else 0, max_stack_depth=1 if agreed else 0).tree.add("a")
        k.settle()
        k.equal("errno", errno.errorcode.get(code(lambda: attempt(k, fd)), 0), errno.errorcode[number])


_ioctl_refused("backing-flags", errno.EINVAL, lambda k, fd: _register(k, fd, flags=1),
               "fuse.h: fuse_backing_map.flags is 0 so far; " + MEASURED)  # fmt: skip
_ioctl_refused("backing-padding", errno.EINVAL, lambda k, fd: _register(k, fd, padding=1),
               "fuse.h: fuse_backing_map.padding; " + MEASURED)  # fmt: skip
_ioctl_refused("backing-bad-descriptor", errno.EBADF, lambda k, fd: _register(k, 9999), "ioctl(2): EBADF")
_ioctl_refused("backing-close-unknown", errno.ENOENT, lambda k, fd: _forget(k, 77), MEASURED, level=Level.PROFILE)
_ioctl_refused("backing-not-agreed", errno.EPERM, _register, DOCUMENT + ": PASSTHROUGH in INIT first; " + MEASURED,
               agreed=False)  # fmt: skip
_ioctl_refused("backing-too-deep", errno.ELOOP, lambda k, fd: _register(k, os.open(k.file("a"), os.O_RDONLY)),
               MEASURED + ": filesystems of the stack beyond max_stack_depth", level=Level.PROFILE)  # fmt: skip
_ioctl_refused("backing-directory", errno.EISDIR, lambda k, fd: _register(k, os.open("/", os.O_RDONLY)),
               MEASURED + ": regular files alone", level=Level.PROFILE)  # fmt: skip


def _open_refused(name: str, opened_out: Callable[[Bench, int], bytes], source: str) -> None:
    @case(f"passthrough/{name}", OPEN, READ, aspect="malformed", level=Level.SHOULD, since=40, flags=P, source=source)
    def _(k: Bench) -> None:
        backing = _ground(k)
        k.answer(OPEN, lambda request: opened_out(k, backing))
        outcome = k.do(lambda: read(k.file("a")))
        if not outcome.errno:
            raise Failed("open", "an error", f"success: {outcome.value!r}")
        k.equal("errno", errno.errorcode[outcome.errno], "EIO")


_open_refused("unknown-id", lambda k, backing: k.tree.opened(3, int(OpenFlag.PASSTHROUGH), backing + 100),
              DOCUMENT + "; " + MEASURED + ": EIO")  # fmt: skip
_open_refused("id-zero", lambda k, backing: k.tree.opened(3, int(OpenFlag.PASSTHROUGH), 0),
              DOCUMENT + "; " + MEASURED + ": EIO")  # fmt: skip
_open_refused("with-keep-cache",
              lambda k, backing: k.tree.opened(3, int(OpenFlag.PASSTHROUGH | OpenFlag.KEEP_CACHE), backing),
              "fuse.h; " + MEASURED + ": flags beside it that it has no sense with, EIO")  # fmt: skip


@case("passthrough/not-beside-cached", OPEN, READ, aspect="flag", level=Level.PROFILE, since=40, flags=P,
      source="kernel documentation, fuse-io: an inode is in one mode at a time; " + MEASURED + ": EIO")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.answer(OPEN, k.tree.opened(8, 0), times=1)

    def work() -> tuple[bytes, int]:
        cached = os.open(k.file("a"), os.O_RDONLY)
        return os.pread(cached, 6, 0), code(lambda: os.open(k.file("a"), os.O_RDONLY))

    k.equal("read, errno of the second open", k.ok(work), (b"server", errno.EIO))


@case("passthrough/cached-not-beside-it", OPEN, READ, aspect="flag", level=Level.PROFILE, since=40, flags=P,
      source="kernel documentation, fuse-io: an inode is in one mode at a time; " + MEASURED + ": EIO")  # fmt: skip
def _(k: Bench) -> None:
    backing = _ground(k)
    k.answer(OPEN, k.tree.opened(8, 0))
    k.answer(OPEN, k.tree.opened(3, int(OpenFlag.PASSTHROUGH), backing), times=1)

    def work() -> tuple[bytes, int]:
        through = os.open(k.file("a"), os.O_RDONLY)
        return os.pread(through, 7, 0), code(lambda: os.open(k.file("a"), os.O_RDONLY))

    k.equal("read, errno of the second open", k.ok(work), (b"backing", errno.EIO))


@case(
    "passthrough/another-file",
    OPEN,
    READ,
    aspect="flag",
    level=Level.SHOULD,
    since=40,
    flags=P,
    source="an inode that is open has one backing file; " + MEASURED + ": EBUSY from the mode, EIO to open(2)",
)
def _(k: Bench) -> None:
    _ground(k)
    with open(os.path.join(k.directory, "second"), "wb+") as file:
        other = _register(k, file.fileno())
    k.answer(OPEN, lambda request: k.tree.opened(4, int(OpenFlag.PASSTHROUGH), other))
    rule = k.answer(OPEN, k.server.rules[1].reaction, times=1)

    def work() -> int:
        os.open(k.file("a"), os.O_RDONLY)
        return code(lambda: os.open(k.file("a"), os.O_RDONLY))

    k.equal("errno of the second open", errno.errorcode.get(k.ok(work)), "EIO")
    k.equal("first opens", len(rule.seen), 1)


@case("passthrough/direct", OPEN, READ, aspect="flag", level=Level.PROFILE, since=40, flags=P,
      source=MEASURED + ": FOPEN_DIRECT_IO beside it brings READ back to the server")  # fmt: skip
def _(k: Bench) -> None:
    backing = _ground(k)
    k.answer(OPEN, k.tree.opened(3, int(OpenFlag.PASSTHROUGH | OpenFlag.DIRECT_IO), backing))
    k.equal("read", k.ok(lambda: read(k.file("a"), size=6)), b"server")
    k.equal("READ requests", len(k.seen(READ)), 1)


@case(
    "passthrough/not-agreed",
    OPEN,
    READ,
    aspect="flag",
    level=Level.PROFILE,
    since=40,
    source="fuse.h 7.40: FOPEN_PASSTHROUGH has a meaning after PASSTHROUGH in INIT; " + MEASURED + ": EIO",
)
def _(k: Bench) -> None:
    k.mount().tree.add("a", b"server's own")
    k.answer(OPEN, k.tree.opened(3, int(OpenFlag.PASSTHROUGH), 1))
    k.fails(errno.EIO, lambda: read(k.file("a")), "open")
