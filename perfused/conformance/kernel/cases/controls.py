"""Cases about IOCTL as files of a FUSE mount have it: restricted, with sizes from the command's number."""

import errno
import fcntl
import os
import struct
from collections.abc import Callable
from typing import Any

from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.steps import opened
from wire import codec
from wire.flags import InitFlag, IoctlFlag
from wire.opcodes import Opcode

IOCTL = Opcode.IOCTL
MEASURED = "measured on Linux 6.18"
DIR = InitFlag.HAS_IOCTL_DIR
_WRITE, _READ = 1, 2


def command(direction: int, size: int) -> int:
    """A number as _IOC() makes them: type 'x', number 7."""
    return direction << 30 | size << 16 | ord("x") << 8 | 7


IO, IOR, IOW, IOWR = command(0, 0), command(_READ, 8), command(_WRITE, 8), command(_READ | _WRITE, 8)


def _ground(k: Bench, flags: int = 0) -> None:
    tree = k.mount(flags).tree
    tree.add("a", b"0123456789")
    tree.directory("d")
    k.answer(Opcode.OPEN, tree.opened(fh=5))
    k.answer(Opcode.OPENDIR, tree.opened(fh=6))


def _said(result: int = 0, data: bytes = b"", flags: int = 0) -> bytes:
    return codec.ioctl_out.pack(result, flags, 0, 0) + data


def _control(k: Bench, number: int, argument: Any, name: str = "a") -> Callable[[], Any]:
    return lambda: opened(k.file(name), os.O_RDONLY, lambda fd: fcntl.ioctl(fd, number, argument))


@case("ioctl/request", IOCTL, aspect="request", since=11, source="fuse.h: fuse_ioctl_in; ioctl(2)")
def _(k: Bench) -> None:
    _ground(k)
    k.answer(IOCTL, _said())
    k.ok(_control(k, IO, 0))
    request = k.one(IOCTL)
    k.equal("nodeid, fh", (request.header.nodeid, request.head.fh), (k.tree.at("a").nodeid, 5))
    k.equal("cmd", request.head.cmd, IO)
    k.equal("COMPAT, UNRESTRICTED, RETRY, DIR", request.head.flags & 0x17, 0)


@case("ioctl/read", IOCTL, aspect="reply", since=11, source="fuse.h: restricted ioctls; _IOR: out_size bytes come back")
def _(k: Bench) -> None:
    _ground(k)
    k.answer(IOCTL, _said(0, b"answered"))
    k.equal("what came", k.ok(_control(k, IOR, bytes(8))), b"answered")
    head = k.one(IOCTL).head
    k.equal("in_size, out_size", (head.in_size, head.out_size), (0, 8))


@case(
    "ioctl/write", IOCTL, aspect="request", since=11, source="fuse.h: restricted ioctls; _IOW: in_size bytes go along"
)
def _(k: Bench) -> None:
    _ground(k)
    k.answer(IOCTL, _said())
    k.ok(_control(k, IOW, b"question"))
    request = k.one(IOCTL)
    k.equal("in_size, out_size", (request.head.in_size, request.head.out_size), (8, 0))
    k.equal("what went", request.payload, b"question")


@case("ioctl/read-write", IOCTL, aspect="request", since=11, source="fuse.h: restricted ioctls; _IOWR: both ways")
def _(k: Bench) -> None:
    _ground(k)
    k.answer(IOCTL, _said(0, b"answered"))
    k.equal("what came", k.ok(_control(k, IOWR, b"question")), b"answered")
    request = k.one(IOCTL)
    k.equal("in_size, out_size", (request.head.in_size, request.head.out_size), (8, 8))
    k.equal("what went", request.payload, b"question")


@case("ioctl/number", IOCTL, aspect="request", since=11, source="fuse.h: fuse_ioctl_in.arg; _IO: a number, no memory")
def _(k: Bench) -> None:
    _ground(k)
    k.answer(IOCTL, _said())
    k.ok(_control(k, IO, 0x1234_5678))
    head = k.one(IOCTL).head
    k.equal("arg, in_size, out_size", (head.arg, head.in_size, head.out_size), (0x1234_5678, 0, 0))


@case("ioctl/largest", IOCTL, aspect="request", level=Level.SHOULD, since=11,
      source="fuse.h: restricted ioctls; a number has 14 bits for the size")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    data = bytes(at % 251 for at in range(16383))
    k.answer(IOCTL, lambda request: _said(0, request.payload[::-1]))

    def work(fd: int) -> bytes:
        room = bytearray(data)
        fcntl.ioctl(fd, command(_READ | _WRITE, len(data)), room)
        return bytes(room)

    k.true("all of it both ways", k.ok(lambda: opened(k.file("a"), os.O_RDONLY, work)) == data[::-1])


@case("ioctl/result", IOCTL, aspect="reply", since=11, source="fuse.h: fuse_ioctl_out.result is what ioctl(2) returns")
def _(k: Bench) -> None:
    _ground(k)
    k.answer(IOCTL, _said(77))
    k.equal("ioctl(2)", k.ok(_control(k, IO, 0)), 77)


@case("ioctl/result-negative", IOCTL, aspect="reply", level=Level.SHOULD, since=11,
      source="fuse.h: fuse_ioctl_out.result; " + MEASURED + ": below 0 it is an errno")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.answer(IOCTL, _said(-errno.EBUSY))
    k.fails(errno.EBUSY, _control(k, IO, 0), "ioctl")


@case("ioctl/reply-shorter", IOCTL, aspect="reply", level=Level.SHOULD, since=11,
      source="fuse.h: out_size is the most; " + MEASURED + ": what is not answered stays as it was")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.answer(IOCTL, _said(0, b"abc"))
    k.equal("what came", k.ok(_control(k, IOWR, b"question")), b"abcstion")


@case("ioctl/reply-longer", IOCTL, aspect="malformed", since=11,
      source="fuse.h: out_size is the most; " + MEASURED + ": EIO")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.answer(IOCTL, _said(0, b"too much of it"))
    k.fails(errno.EIO, _control(k, IOR, bytes(8)), "ioctl")


@case("ioctl/retry-refused", IOCTL, aspect="malformed", level=Level.SHOULD, since=11,
      source="fuse.h: IOCTL_RETRY is for unrestricted ioctls; " + MEASURED + ": EIO")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.answer(IOCTL, codec.ioctl_out.pack(0, int(IoctlFlag.RETRY), 1, 0) + codec.ioctl_iovec.pack(0x1000, 8))
    k.fails(errno.EIO, _control(k, IOWR, b"question"), "ioctl")
    k.one(IOCTL)


def _error(number: int, seen: int, aspect: str = "error") -> None:
    @case(f"ioctl/error-{errno.errorcode[number].lower()}", IOCTL, aspect=aspect, since=11,
          source="fuse.h: out_header.error is the call's errno; " + MEASURED)  # fmt: skip
    def _(k: Bench) -> None:
        _ground(k)
        k.answer(IOCTL, -number)
        for _ in range(2):
            k.fails(seen, _control(k, IOWR, b"question"), "ioctl")
        k.equal("IOCTL requests", len(k.seen(IOCTL)), 2)


_error(errno.EPERM, errno.EPERM)
_error(errno.EIO, errno.EIO)
_error(errno.ENOTTY, errno.ENOTTY)
_error(errno.ENOSYS, errno.ENOTTY, "enosys")


# -- directories -------------------------------------------------------------------------------------------------------


@case("ioctl/directory", IOCTL, aspect="flag", since=18, flags=DIR, source="fuse.h 7.18: HAS_IOCTL_DIR, IOCTL_DIR")
def _(k: Bench) -> None:
    _ground(k, DIR)
    k.answer(IOCTL, _said(0, b"answered"))
    k.equal("what came", k.ok(_control(k, IOR, bytes(8), "d")), b"answered")
    head = k.one(IOCTL).head
    k.equal("fh, IOCTL_DIR", (head.fh, head.flags & IoctlFlag.DIR), (6, int(IoctlFlag.DIR)))


@case(
    "ioctl/directory-not-agreed",
    IOCTL,
    aspect="flag",
    level=Level.PROFILE,
    since=18,
    source=MEASURED + ": HAS_IOCTL_DIR says what the kernel can; that the server echoes it changes nothing",
)
def _(k: Bench) -> None:
    _ground(k)
    k.answer(IOCTL, _said(0, b"answered"))
    k.equal("what came", k.ok(_control(k, IOR, bytes(8), "d")), b"answered")


@case("ioctl/directory-before-18", IOCTL, aspect="minor", level=Level.SHOULD, since=18, minors=(17,),
      source="fuse.h 7.18: ioctls of directories; ENOTTY to servers before it")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(minor=17).tree.directory("d")
    k.fails(errno.ENOTTY, _control(k, IOR, bytes(8), "d"), "ioctl")
    k.equal("IOCTL requests", len(k.seen(IOCTL)), 0)


# -- numbers that are not the server's, and some that are --------------------------------------------------------------


def _local(name: str, work: Callable[[int], Any], wanted: object, level: Level = Level.SHOULD) -> None:
    @case(f"ioctl/{name}-is-the-kernels", IOCTL, aspect="request", level=level,
          source=f"ioctl(2), {MEASURED}: the kernel answers {name.upper()} itself")  # fmt: skip
    def _(k: Bench) -> None:
        _ground(k)
        k.equal("what came", k.ok(lambda: opened(k.file("a"), os.O_RDONLY, work)), wanted)
        k.equal("IOCTL requests", len(k.seen(IOCTL)), 0)


def _unread(fd: int) -> int:
    os.lseek(fd, 3, os.SEEK_SET)
    return int(struct.unpack("=i", fcntl.ioctl(fd, 0x541B, bytes(4)))[0])


def _cloexec(fd: int) -> int:
    os.set_inheritable(fd, True)
    fcntl.ioctl(fd, 0x5451)
    return fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def _nonblock(fd: int) -> int:
    fcntl.ioctl(fd, 0x5421, struct.pack("=i", 1))
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK


_local("fionread", _unread, 7, Level.PROFILE)
_local("fioclex", _cloexec, 1)
_local("fionbio", _nonblock, os.O_NONBLOCK)
_local("figetbsz", lambda fd: struct.unpack("=i", fcntl.ioctl(fd, 2, bytes(4)))[0], os.sysconf("SC_PAGE_SIZE"),
       Level.PROFILE)  # fmt: skip


@case("ioctl/terminal", IOCTL, aspect="request", level=Level.PROFILE,
      source=MEASURED + ": isatty(3)'s TCGETS comes to the server, as a number")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.equal("isatty", k.ok(lambda: opened(k.file("a"), os.O_RDONLY, os.isatty)), False)
    head = k.one(IOCTL).head
    k.equal("cmd, in_size, out_size", (head.cmd, head.in_size, head.out_size), (0x5401, 0, 0))


def _flags(name: str, number: int, sizes: tuple[int, int], argument: bytes) -> None:
    @case(f"ioctl/{name}", IOCTL, aspect="request", level=Level.PROFILE,
          source=MEASURED + ": chattr(1)'s numbers come to the server with 4 bytes")  # fmt: skip
    def _(k: Bench) -> None:
        _ground(k)
        k.answer(IOCTL, lambda request: _said(0, bytes(request.head.out_size)))
        k.ok(lambda: opened(k.file("a"), os.O_RDWR, lambda fd: fcntl.ioctl(fd, number, argument)))
        heads = [each.head for each in k.seen(IOCTL) if each.head.cmd == number]
        k.equal("in_size, out_size", [(head.in_size, head.out_size) for head in heads], [sizes])


_LONG = struct.calcsize("@l")
_flags("getflags", _READ << 30 | _LONG << 16 | ord("f") << 8 | 1, (0, 4), bytes(_LONG))
_flags("setflags", _WRITE << 30 | _LONG << 16 | ord("f") << 8 | 2, (4, 0), bytes(_LONG))
