"""Cases about LSEEK and FALLOCATE: where data and holes are, and room made or taken."""

import errno
import os
import resource
import signal
from collections.abc import Callable
from typing import Any

from perfused.conformance.kernel import seam
from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.steps import code, errno_name, opened
from wire import codec
from wire.opcodes import Opcode

LSEEK, FALLOCATE, READ, GETATTR = Opcode.LSEEK, Opcode.FALLOCATE, Opcode.READ, Opcode.GETATTR
MEASURED = "measured on Linux 6.18"
KEEP_SIZE, PUNCH, COLLAPSE, ZERO, INSERT = 1, 2, 8, 0x10, 0x20


def _ground(k: Bench, data: bytes = b"0123456789", **mount: Any) -> None:
    k.mount(**mount).tree.add("a", data)
    k.answer(Opcode.OPEN, k.tree.opened(fh=5))


def _seek(k: Bench, offset: int, whence: int) -> int:
    return int(k.ok(lambda: opened(k.file("a"), os.O_RDONLY, lambda fd: os.lseek(fd, offset, whence))))


# -- LSEEK -------------------------------------------------------------------------------------------------------------


def _asked(name: str, whence: int) -> None:
    @case(f"lseek/{name}", LSEEK, aspect="request", since=24, source="fuse.h: fuse_lseek_in; lseek(2)")
    def _(k: Bench) -> None:
        _ground(k)
        k.answer(LSEEK, codec.lseek_out.pack(7))
        k.equal("position", _seek(k, 3, whence), 7)
        request = k.one(LSEEK)
        k.equal("nodeid", request.header.nodeid, k.tree.at("a").nodeid)
        k.equal("fh, offset, whence", request.head[:3], (5, 3, whence))

    @case(f"lseek/{name}-moves", LSEEK, READ, aspect="reply", since=24, source="lseek(2): the position is the answer's")
    def _(k: Bench) -> None:
        _ground(k)
        k.answer(LSEEK, codec.lseek_out.pack(7))

        def work(fd: int) -> bytes:
            os.lseek(fd, 3, whence)
            return os.read(fd, 100)

        k.equal("read", k.ok(lambda: opened(k.file("a"), os.O_RDONLY, work)), b"789")

    @case(
        f"lseek/{name}-enosys-sticks",
        LSEEK,
        aspect="enosys",
        since=24,
        level=Level.SHOULD,
        source="lseek(2): a file may be all data with a hole at its end; " + MEASURED + ": so, and not asked again",
    )
    def _(k: Bench) -> None:
        _ground(k)
        k.answer(LSEEK, -errno.ENOSYS)
        wanted = 3 if whence == os.SEEK_DATA else 10
        k.equal("positions", [_seek(k, 3, whence) for _ in range(2)], [wanted, wanted])
        k.one(LSEEK)

    for number in (errno.ENXIO, errno.EIO, errno.EINVAL):
        _seek_error(name, whence, number)


def _seek_error(name: str, whence: int, number: int) -> None:
    @case(f"lseek/{name}-{errno_name(number).lower()}", LSEEK, aspect="error", since=24,
          source="fuse.h: out_header.error is the call's errno; lseek(2): ENXIO")  # fmt: skip
    def _(k: Bench) -> None:
        _ground(k)
        k.answer(LSEEK, -number)

        def work(fd: int) -> tuple[int, int]:
            os.lseek(fd, 2, os.SEEK_SET)
            return code(lambda: os.lseek(fd, 3, whence)), os.lseek(fd, 0, os.SEEK_CUR)

        k.equal("errno, position as before", k.ok(lambda: opened(k.file("a"), os.O_RDONLY, work)), (number, 2))


_asked("data", os.SEEK_DATA)
_asked("hole", os.SEEK_HOLE)


@case("lseek/enosys-for-both", LSEEK, aspect="enosys", level=Level.PROFILE, since=24,
      source=MEASURED + ": ENOSYS to SEEK_DATA holds for SEEK_HOLE too")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.answer(LSEEK, -errno.ENOSYS)
    k.equal("positions", (_seek(k, 3, os.SEEK_DATA), _seek(k, 3, os.SEEK_HOLE)), (3, 10))
    k.one(LSEEK)


@case("lseek/enosys-beyond-end", LSEEK, aspect="enosys", level=Level.SHOULD, since=24,
      source="lseek(2): ENXIO beyond the end of file")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.answer(LSEEK, -errno.ENOSYS)
    for whence in (os.SEEK_DATA, os.SEEK_HOLE):
        k.fails(errno.ENXIO, lambda: opened(k.file("a"), os.O_RDONLY, lambda fd: os.lseek(fd, 10, whence)), "lseek")  # noqa: B023


@case("lseek/positions-are-local", LSEEK, aspect="request", source="lseek(2): SEEK_SET, SEEK_CUR ask nobody")
def _(k: Bench) -> None:
    _ground(k)
    found = k.ok(
        lambda: opened(
            k.file("a"), os.O_RDONLY, lambda fd: (os.lseek(fd, 4, os.SEEK_SET), os.lseek(fd, 2, os.SEEK_CUR))
        )
    )
    k.equal("positions", found, (4, 6))
    k.equal("LSEEK requests", len(k.seen(LSEEK)), 0)


@case("lseek/end", LSEEK, GETATTR, aspect="cache", source="lseek(2): SEEK_END; the size when attributes hold no more")
def _(k: Bench) -> None:
    _ground(k)

    def work() -> Any:
        fd = os.open(k.file("a"), os.O_RDONLY)
        yield os.lseek(fd, -2, os.SEEK_END)
        yield os.lseek(fd, -2, os.SEEK_END)

    steps = k.steps(work)
    k.equal("position", steps.next(), 8)
    k.tree.at("a").data += b"grown"
    k.equal("position after it grew", steps.next(), 13)
    k.equal("LSEEK requests", len(k.seen(LSEEK)), 0)
    steps.end()


@case("lseek/before-start", LSEEK, aspect="other", source="lseek(2): EINVAL before the start")
def _(k: Bench) -> None:
    _ground(k)
    k.fails(errno.EINVAL, lambda: opened(k.file("a"), os.O_RDONLY, lambda fd: os.lseek(fd, -1, os.SEEK_SET)), "lseek")


# -- FALLOCATE ---------------------------------------------------------------------------------------------------------


def _room(k: Bench, mode: int, offset: int, length: int, flags: int = os.O_RDWR) -> Callable[[], Any]:
    return lambda: opened(k.file("a"), flags, lambda fd: seam.call("fallocate")(fd, mode, offset, length))


def _allocate(name: str, mode: int, size: int) -> None:
    @case(f"fallocate/{name}", FALLOCATE, aspect="request", since=19, source="fuse.h: fuse_fallocate_in; fallocate(2)")
    def _(k: Bench) -> None:
        _ground(k)
        k.tree.valid = 60
        k.answer(FALLOCATE, b"")
        k.ok(_room(k, mode, 4, 20))
        request = k.one(FALLOCATE)
        k.equal("nodeid", request.header.nodeid, k.tree.at("a").nodeid)
        k.equal("fh, offset, length, mode", request.head[:4], (5, 4, 20, mode))

    @case(f"fallocate/{name}-size", FALLOCATE, GETATTR, aspect="cache", level=Level.SHOULD, since=19,
          source="fallocate(2): the size afterwards")  # fmt: skip
    def _(k: Bench) -> None:
        _ground(k)

        def work(fd: int) -> int:
            seam.call("fallocate")(fd, mode, 4, 20)
            return os.fstat(fd).st_size

        k.equal("st_size", k.ok(lambda: opened(k.file("a"), os.O_RDWR, work)), size)


_allocate("plain", 0, 24)
_allocate("keep-size", KEEP_SIZE, 10)
_allocate("punch", PUNCH | KEEP_SIZE, 10)
_allocate("zero", ZERO, 24)
_allocate("zero-keep-size", ZERO | KEEP_SIZE, 10)


def _clears(name: str, mode: int) -> None:
    @case(f"fallocate/{name}-drops-cache", FALLOCATE, READ, aspect="cache", since=19,
          source="fallocate(2): the range reads as zeros, whatever was cached")  # fmt: skip
    def _(k: Bench) -> None:
        _ground(k)
        k.tree.valid = 60
        node = k.tree.at("a")

        def clear(request: Any) -> bytes:
            node.data[2:6] = bytes(4)
            return b""

        k.answer(FALLOCATE, clear)

        def work(fd: int) -> tuple[bytes, bytes]:
            first = os.pread(fd, 10, 0)
            seam.call("fallocate")(fd, mode, 2, 4)
            return first, os.pread(fd, 10, 0)

        k.equal("read before, after", k.ok(lambda: opened(k.file("a"), os.O_RDWR, work)),
                (b"0123456789", b"01\0\0\0\0006789"))  # fmt: skip


_clears("punch", PUNCH | KEEP_SIZE)
_clears("zero", ZERO)


def _local(name: str, mode: int) -> None:
    @case(f"fallocate/{name}", FALLOCATE, aspect="request", level=Level.PROFILE, since=19,
          source=MEASURED + ": EOPNOTSUPP, the server is not asked")  # fmt: skip
    def _(k: Bench) -> None:
        _ground(k, bytes(16384))
        k.fails(errno.EOPNOTSUPP, _room(k, mode, 0, 4096), "fallocate")
        k.equal("FALLOCATE requests", len(k.seen(FALLOCATE)), 0)


_local("collapse", COLLAPSE)
_local("insert", INSERT)


def _room_error(number: int) -> None:
    @case(f"fallocate/error-{errno_name(number).lower()}", FALLOCATE, aspect="error", since=19,
          source="fuse.h: out_header.error is the call's errno")  # fmt: skip
    def _(k: Bench) -> None:
        _ground(k)
        k.answer(FALLOCATE, -number)
        for _ in range(2):
            k.fails(number, _room(k, 0, 0, 100), "fallocate")
        k.equal("FALLOCATE requests", len(k.seen(FALLOCATE)), 2)
        k.equal("st_size", k.ok(lambda: os.stat(k.file("a"))).st_size, 10)


for _number in (errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EOPNOTSUPP, errno.EINVAL):
    _room_error(_number)


@case("fallocate/enosys-sticks", FALLOCATE, aspect="enosys", level=Level.SHOULD, since=19,
      source=MEASURED + ": EOPNOTSUPP, and not asked again")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.answer(FALLOCATE, -errno.ENOSYS)
    for mode in (0, 0, PUNCH | KEEP_SIZE):
        k.fails(errno.EOPNOTSUPP, _room(k, mode, 0, 100), "fallocate")
    k.one(FALLOCATE)


@case("fallocate/posix-falls-back", FALLOCATE, Opcode.WRITE, aspect="enosys", level=Level.PROFILE, since=19,
      source="posix_fallocate(3): glibc writes where the kernel says EOPNOTSUPP")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.answer(FALLOCATE, -errno.ENOSYS)
    k.ok(lambda: opened(k.file("a"), os.O_RDWR, lambda fd: os.posix_fallocate(fd, 0, 100)))
    k.equal("the file", bytes(k.tree.at("a").data), b"0123456789" + bytes(90))


@case(
    "fallocate/beyond-rlimit", FALLOCATE, aspect="other", level=Level.SHOULD, source="setrlimit(2): RLIMIT_FSIZE, EFBIG"
)
def _(k: Bench) -> None:
    _ground(k)

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))
        _room(k, 0, 0, 100)()

    k.fails(errno.EFBIG, work, "fallocate")
    k.equal("FALLOCATE requests", len(k.seen(FALLOCATE)), 0)


@case("fallocate/read-only-file", FALLOCATE, aspect="other", source="fallocate(2): EBADF where it is not open to write")
def _(k: Bench) -> None:
    _ground(k)
    k.fails(errno.EBADF, _room(k, 0, 0, 100, os.O_RDONLY), "fallocate")
    k.equal("FALLOCATE requests", len(k.seen(FALLOCATE)), 0)


@case("fallocate/no-length", FALLOCATE, aspect="other", source="fallocate(2): EINVAL for a length of 0")
def _(k: Bench) -> None:
    _ground(k)
    k.fails(errno.EINVAL, _room(k, 0, 0, 0), "fallocate")
    k.equal("FALLOCATE requests", len(k.seen(FALLOCATE)), 0)
