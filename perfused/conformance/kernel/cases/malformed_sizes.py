"""Cases about replies whose body has a size that their request does not allow: a byte short, a byte long, none.

The whole frame is consistent; only the struct is not what fuse.h says. Such a reply is the answer all the same: the
caller gets an error, and a good answer after it finds no request.
"""

import errno
import fcntl
import os
import select
import stat
import struct
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, NamedTuple

from perfused.conformance.kernel import seam
from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.server import Raw, out
from wire.flags import InitFlag, OpenFlag
from wire.message import Request
from wire.opcodes import Opcode

O = Opcode  # noqa: E741
MEASURED = "measured on Linux 6.18: EINVAL to the server, EIO to the caller"
FLAGS = InitFlag.POSIX_LOCKS | InitFlag.HANDLE_KILLPRIV_V2
PROBE = 0x8004_7001  # _IOR('p', 1, int): four bytes come back


@contextmanager
def opened(k: Bench, flags: int = os.O_RDWR, name: str = "a") -> Any:
    """An open file of the tree, closed without looking at what close says."""
    fd = os.open(k.file(name) if name else k.path, flags, 0o600)
    try:
        yield fd
    finally:
        try:
            os.close(fd)
        except OSError:
            pass


def _on(use: Callable[[int], Any], flags: int = os.O_RDWR, name: str = "a") -> Callable[[Bench], Any]:
    def run(k: Bench) -> Any:
        with opened(k, flags, name) as fd:
            return use(fd)

    return run


def _closing(name: str = "a", flags: int = os.O_RDWR) -> Callable[[Bench], Any]:
    return lambda k: os.close(os.open(k.file(name), flags))


def _polled(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    events = dict(poll.poll(0)).get(fd, 0)
    if events & select.POLLERR:
        raise OSError(errno.EIO, "POLLERR")


def _copied(k: Bench) -> Any:
    with opened(k) as one, opened(k, name="b") as other:
        return os.copy_file_range(one, other, 4)


def _renamed(k: Bench) -> None:
    seam.call("renameat2")(os.fsencode(k.file("a")), os.fsencode(k.file("z")), 1)


class Act(NamedTuple):
    """A request with a reply of one size: its opcode, that size, and what makes a client send it."""

    opcode: Opcode
    size: int
    call: Callable[[Bench], Any]
    #: what the caller gets for a reply that is refused: 0 where the error goes nowhere
    gets: int = errno.EIO
    since: int = 1


ACTS = (
    Act(O.LOOKUP, 128, lambda k: os.stat(k.file("a"))),
    Act(O.GETATTR, 104, lambda k: os.stat(k.path)),
    Act(O.SETATTR, 104, lambda k: os.chmod(k.file("a"), 0o600)),
    Act(O.SYMLINK, 128, lambda k: os.symlink("t", k.file("z"))),
    Act(O.MKNOD, 128, lambda k: os.mkfifo(k.file("z"))),
    Act(O.MKDIR, 128, lambda k: os.mkdir(k.file("z"))),
    Act(O.UNLINK, 0, lambda k: os.unlink(k.file("a"))),
    Act(O.RMDIR, 0, lambda k: os.rmdir(k.file("d"))),
    Act(O.RENAME, 0, lambda k: os.rename(k.file("a"), k.file("z"))),
    Act(O.RENAME2, 0, _renamed, since=23),
    Act(O.LINK, 128, lambda k: os.link(k.file("a"), k.file("z"))),
    Act(O.OPEN, 16, _closing()),
    Act(O.OPENDIR, 16, _closing("d", os.O_RDONLY | os.O_DIRECTORY)),
    Act(O.CREATE, 144, _closing("z", os.O_CREAT | os.O_RDWR)),
    Act(O.TMPFILE, 144, _on(lambda fd: None, os.O_TMPFILE | os.O_RDWR, ""), since=37),
    Act(O.RELEASE, 0, _closing(), 0),
    Act(O.RELEASEDIR, 0, _closing("d", os.O_RDONLY | os.O_DIRECTORY), 0),
    Act(O.FLUSH, 0, _closing()),
    Act(O.FSYNC, 0, _on(os.fsync)),
    Act(O.FSYNCDIR, 0, _on(os.fsync, os.O_RDONLY | os.O_DIRECTORY, "d")),
    Act(O.WRITE, 8, _on(lambda fd: os.write(fd, b"data"))),
    Act(O.STATFS, 80, lambda k: os.statvfs(k.path)),
    Act(O.ACCESS, 0, lambda k: os.chdir(k.file("d"))),
    Act(O.SETXATTR, 0, lambda k: os.setxattr(k.file("a"), "user.y", b"v")),
    Act(O.REMOVEXATTR, 0, lambda k: os.removexattr(k.file("a"), "user.x")),
    Act(O.GETXATTR, 8, lambda k: seam.function("getxattr", os.fsencode(k.file("a")), b"user.x", None, 0)),
    Act(O.LISTXATTR, 8, lambda k: seam.function("listxattr", os.fsencode(k.file("a")), None, 0)),
    Act(O.GETLK, 24, _on(lambda fd: fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack("=hhxxxxqqixxxx", 1, 0, 0, 0, 0)))),
    Act(O.SETLK, 0, _on(lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB))),
    Act(O.SETLKW, 0, _on(lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX))),
    Act(O.POLL, 8, _on(_polled), since=11),
    Act(O.FALLOCATE, 0, _on(lambda fd: os.posix_fallocate(fd, 0, 100)), since=19),
    Act(O.LSEEK, 8, _on(lambda fd: os.lseek(fd, 0, os.SEEK_DATA)), since=24),
    Act(O.STATX, 288, lambda k: seam.call("birth_time")(os.fsencode(k.file("a"))), since=39),
    Act(O.COPY_FILE_RANGE_64, 8, _copied, since=45),
)  # fmt: skip


def ground(k: Bench) -> None:
    """A file, a directory and an xattr; reads and writes go straight to the server."""
    k.mount(flags=FLAGS & k.offered)
    k.tree.open_flags = OpenFlag.DIRECT_IO
    k.tree.add("a", b"content").xattrs[b"user.x"] = b"value"
    k.tree.add("b", b"other")
    k.tree.directory("d")


def refused(k: Bench, opcode: Opcode, call: Callable[[Bench], Any], gets: int, spoil: Callable[[bytes], bytes]) -> None:
    """The spoiled answer is refused, the caller gets the errno, and a good answer is too late."""
    bad, late = Raw(b""), Raw(b"")

    def answer(request: Request) -> Any:
        found = k.tree.answer(request)
        body = found if isinstance(found, bytes) else b""
        bad.frame, late.frame = out(request.header.unique, spoil(body)), out(request.header.unique, body)
        return [bad, late]

    k.answer(opcode, answer, times=1)
    if gets:
        k.fails(gets, lambda: call(k))
    else:
        k.ok(lambda: call(k))
    k.wait_for(opcode)
    k.settle()
    k.equal("what write(2) of the spoiled answer says", bad.errno, errno.EINVAL)
    k.equal("what write(2) of a good answer after it says", late.errno, errno.ENOENT)


def _declare(act: Act, kind: str, spoil: Callable[[bytes], bytes]) -> None:
    name = act.opcode.name.lower().replace("_", "-")

    @case(f"malformed/{name}-reply-{kind}", act.opcode, aspect="malformed", level=Level.SHOULD, since=act.since,
          source=MEASURED if act.gets else "measured on Linux 6.18: EINVAL to the server")  # fmt: skip
    def _(k: Bench) -> None:
        ground(k)
        refused(k, act.opcode, act.call, act.gets, spoil)


for _act in ACTS:
    _declare(_act, "long", lambda body: body + b"\0")
    if _act.size:
        _declare(_act, "short", lambda body: body[:-1])
        _declare(_act, "empty", lambda body: b"")


@case("malformed/copy-file-range-reply-long", O.COPY_FILE_RANGE, aspect="malformed", level=Level.SHOULD, since=28,
      source=MEASURED)  # fmt: skip
def _(k: Bench) -> None:
    ground(k)
    k.answer(O.COPY_FILE_RANGE_64, -errno.ENOSYS)
    refused(k, O.COPY_FILE_RANGE, _copied, errno.EIO, lambda body: body + b"\0")


@case("malformed/copy-file-range-reply-short", O.COPY_FILE_RANGE, aspect="malformed", level=Level.SHOULD, since=28,
      source=MEASURED)  # fmt: skip
def _(k: Bench) -> None:
    ground(k)
    k.answer(O.COPY_FILE_RANGE_64, -errno.ENOSYS)
    refused(k, O.COPY_FILE_RANGE, _copied, errno.EIO, lambda body: body[:-1])


# -- sizes that the request bounds -------------------------------------------------------------------------------------


def _bounded(name: str, opcode: Opcode, call: Callable[[Bench], Any], answer: Callable[[Request], bytes],
             says: int = errno.EINVAL) -> None:  # fmt: skip
    @case(f"malformed/{name}", opcode, aspect="malformed", level=Level.SHOULD if says else Level.PROFILE,
          source=MEASURED if says else "measured on Linux 6.18: taken, and EIO to the caller")  # fmt: skip
    def _(k: Bench) -> None:
        ground(k)
        k.tree.add("l", b"a", stat.S_IFLNK | 0o777)
        raw = Raw(b"")

        def spoiled(request: Request) -> Any:
            raw.frame = out(request.header.unique, answer(request))
            return raw

        k.answer(opcode, spoiled, times=1)
        k.fails(errno.EIO, lambda: call(k))
        k.settle()
        k.equal("what write(2) says", raw.errno, says)


def _listed(k: Bench) -> Any:
    return os.listdir(k.file("d"))


_bounded("read-longer-than-asked", O.READ, _on(lambda fd: os.read(fd, 4)), lambda r: bytes(r.head.size + 1))
_bounded("readdir-longer-than-asked", O.READDIR, _listed, lambda r: bytes(r.head.size + 8))
_bounded("readlink-longer-than-a-page", O.READLINK, lambda k: os.readlink(k.file("l")), lambda r: b"x" * 4096)
_bounded("getxattr-longer-than-asked", O.GETXATTR, lambda k: os.getxattr(k.file("a"), "user.x"),
         lambda r: bytes(r.head.size + 1))  # fmt: skip
_bounded("listxattr-longer-than-asked", O.LISTXATTR, lambda k: os.listxattr(k.file("a")),
         lambda r: bytes(r.head.size + 1))  # fmt: skip
_bounded("ioctl-longer-than-asked", O.IOCTL, _on(lambda fd: fcntl.ioctl(fd, PROBE, bytes(4))),
         lambda r: bytes(16 + r.head.out_size + 1), 0)  # fmt: skip
_bounded("ioctl-shorter-than-its-head", O.IOCTL, _on(lambda fd: fcntl.ioctl(fd, PROBE, bytes(4))), lambda r: bytes(15))
