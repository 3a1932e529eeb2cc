"""Cases about WRITE as write(2) sends it: offsets, sizes, appending, limits, errors. Writeback is in `writeback`."""

import errno
import mmap
import os
import resource
import signal
import stat
from collections.abc import Callable
from typing import Any

from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.steps import code, opened, read, write
from wire import codec
from wire.flags import Fattr, InitFlag, OpenFlag, WriteFlag
from wire.opcodes import Opcode

WRITE, READ, GETATTR = Opcode.WRITE, Opcode.READ, Opcode.GETATTR
MEASURED = "measured on Linux 6.18"
PAGE = os.sysconf("SC_PAGE_SIZE")
D = int(OpenFlag.DIRECT_IO)


def _ground(k: Bench, data: bytes = b"0123456789", open_flags: int = 0, flags: int = 0, **init: Any) -> None:
    k.mount(flags, **init).tree.add("a", data)
    k.tree.open_flags = int(open_flags)
    k.tree.valid = 60


def _ranges(k: Bench) -> list[tuple[int, int]]:
    return [(each.head.offset, each.head.size) for each in k.seen(WRITE)]


def _tiled(k: Bench, start: int, data: bytes) -> None:
    """The WRITEs follow on each other from `start` and carry `data`, however it is cut."""
    at = start
    for request in k.seen(WRITE):
        k.equal("offset of the next WRITE", request.head.offset, at)
        k.true("its data", request.payload == data[at - start : at - start + request.head.size])
        at += request.head.size
    k.equal("bytes in all", at - start, len(data))


@case("write/request", WRITE, aspect="request", source="fuse.h: fuse_write_in; write(2)")
def _(k: Bench) -> None:
    _ground(k)
    k.answer(Opcode.OPEN, k.tree.opened(fh=5))
    k.equal("written", k.ok(lambda: write(k.file("a"), b"DATA", offset=3)), 4)
    request = k.one(WRITE)
    k.equal("nodeid, fh", (request.header.nodeid, request.head.fh), (k.tree.at("a").nodeid, 5))
    k.equal("offset, data", (request.head.offset, request.payload), (3, b"DATA"))


@case(
    "write/before-it-returns",
    WRITE,
    aspect="request",
    level=Level.SHOULD,
    source="kernel documentation, fuse-io: write-through; without WRITEBACK_CACHE write(2) waits for WRITE",
)
def _(k: Bench) -> None:
    _ground(k)
    rule = k.hold(WRITE)
    client = k.start(lambda: write(k.file("a"), b"DATA"))
    request = k.held(rule)
    k.true("write waits", not client.done(0.05))
    k.reply(request)
    k.equal("written", client.wait(k.patience).value, 4)


@case(
    "write/not-from-cache",
    WRITE,
    aspect="request",
    since=9,
    source="fuse.h: WRITE_CACHE marks delayed writes from the page cache, whose fh and caller are guesses",
)
def _(k: Bench) -> None:
    _ground(k)
    k.ok(lambda: write(k.file("a"), b"DATA"))
    k.equal("WRITE_CACHE", k.one(WRITE).head.write_flags & WriteFlag.CACHE, 0)


@case("write/open-flags", WRITE, aspect="request", level=Level.SHOULD, since=9,
      source="fuse.h 7.9: fuse_write_in.flags are the open file's")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.ok(lambda: write(k.file("a"), b"DATA", os.O_RDWR | os.O_NONBLOCK))
    mask = os.O_ACCMODE | os.O_NONBLOCK
    k.equal("flags", oct(k.one(WRITE).head.flags & mask), oct(os.O_RDWR | os.O_NONBLOCK))


@case("write/lock-owner", WRITE, Opcode.FLUSH, aspect="request", level=Level.SHOULD, since=9,
      source="fuse.h: WRITE_LOCKOWNER where lock_owner is set; " + MEASURED + ": with direct writes")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, open_flags=D)
    k.ok(lambda: write(k.file("a"), b"DATA"))
    head = k.one(WRITE).head
    wanted = k.one(Opcode.FLUSH).head.lock_owner if head.write_flags & WriteFlag.LOCKOWNER else 0
    k.equal("lock_owner", head.lock_owner, wanted)


@case("write/nothing", WRITE, aspect="request", level=Level.SHOULD, source="write(2): 0 bytes to a regular file")
def _(k: Bench) -> None:
    _ground(k)
    k.equal("written", k.ok(lambda: write(k.file("a"), b"")), 0)
    k.equal("WRITEs", _ranges(k), [])


@case("write/beyond-end", WRITE, aspect="request", source="lseek(2): a gap reads as zeros")
def _(k: Bench) -> None:
    _ground(k)
    k.ok(lambda: write(k.file("a"), b"DATA", offset=20))
    k.equal("WRITEs", _ranges(k), [(20, 4)])
    k.equal("read", k.ok(lambda: read(k.file("a"))), b"0123456789" + bytes(10) + b"DATA")


@case("write/then-read", WRITE, READ, aspect="cache", source="write(2): a later read(2) gives what was written")
def _(k: Bench) -> None:
    _ground(k)

    def work(fd: int) -> bytes:
        os.pread(fd, 10, 0)
        os.pwrite(fd, b"DATA", 3)
        return os.pread(fd, 100, 0)

    k.equal("read", k.ok(lambda: opened(k.file("a"), os.O_RDWR, work)), b"012DATA789")


@case("write/size-grows", WRITE, GETATTR, aspect="cache", source="stat(2): st_size after write(2), whatever attr_valid")
def _(k: Bench) -> None:
    _ground(k)

    def work(fd: int) -> int:
        os.fstat(fd)
        os.pwrite(fd, b"DATA", 100)
        return os.fstat(fd).st_size

    k.equal("st_size", k.ok(lambda: opened(k.file("a"), os.O_RDWR, work)), 104)


def _times_asked(name: str, open_flags: int) -> None:
    @case(f"write/{name}", WRITE, GETATTR, aspect="cache", level=Level.SHOULD,
          source="attributes that a write changed are asked for again, however long they hold")  # fmt: skip
    def _(k: Bench) -> None:
        _ground(k, open_flags=open_flags)
        node = k.tree.at("a")

        def work() -> Any:
            fd = os.open(k.file("a"), os.O_RDWR)
            yield os.fstat(fd).st_mtime
            os.write(fd, b"DATA")
            yield os.fstat(fd).st_mtime

        steps = k.steps(work)
        k.equal("mtime before", steps.next(), 1_000_000_000.0)
        node.mtime = 1_234_567_890
        k.equal("mtime after", steps.next(), 1_234_567_890.0)
        steps.end()


_times_asked("times-asked-again", 0)
_times_asked("times-asked-again-direct", D)


# -- appending ---------------------------------------------------------------------------------------------------------


def _append(name: str, open_flags: int, first: Callable[[int], Any], flags: int = os.O_RDWR) -> None:
    @case(f"write/{name}", WRITE, aspect="request", source="open(2): O_APPEND writes at the end")
    def _(k: Bench) -> None:
        _ground(k, open_flags=open_flags)

        def work(fd: int) -> None:
            first(fd)
            os.write(fd, b"DATA")
            os.write(fd, b"MORE")

        k.ok(lambda: opened(k.file("a"), flags | os.O_APPEND, work))
        k.equal("WRITEs", _ranges(k), [(10, 4), (14, 4)])
        k.equal("the file", bytes(k.tree.at("a").data), b"0123456789DATAMORE")


_append("append", 0, lambda fd: None, os.O_WRONLY)
_append("append-to-cached", 0, lambda fd: os.pread(fd, 10, 0))
_append("append-direct", D, lambda fd: None, os.O_WRONLY)


@case(
    "write/append-after-growth",
    WRITE,
    GETATTR,
    aspect="cache",
    level=Level.PROFILE,
    source=MEASURED + ": at the end that the kernel knows, not asked for; the server sees O_APPEND in flags",
)
def _(k: Bench) -> None:
    _ground(k)
    k.tree.valid = 0

    def work() -> Any:
        fd = os.open(k.file("a"), os.O_WRONLY | os.O_APPEND)
        yield
        os.write(fd, b"DATA")
        yield

    steps = k.steps(work)
    steps.next()
    k.tree.at("a").data += b"grown"
    steps.next()
    k.equal("WRITEs", _ranges(k), [(10, 4)])
    k.true("O_APPEND in flags", k.one(WRITE).head.flags & os.O_APPEND)
    steps.end()


# -- what the server took ----------------------------------------------------------------------------------------------


@case("write/short", WRITE, aspect="reply", level=Level.SHOULD,
      source="fuse.h: fuse_write_out.size; write(2) returns what was written")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.answer(WRITE, codec.write_out.pack(3, 0))
    k.equal("written", k.ok(lambda: write(k.file("a"), b"DATA more")), 3)


def _took_nothing(name: str, open_flags: int, wanted: tuple[int, int], source: str) -> None:
    @case(f"write/{name}", WRITE, aspect="reply", level=Level.PROFILE, source=source)
    def _(k: Bench) -> None:
        _ground(k, open_flags=open_flags)
        k.answer(WRITE, codec.write_out.pack(0, 0))
        outcome = k.do(lambda: write(k.file("a"), b"DATA"))
        k.equal("written, errno", (outcome.value or 0, outcome.errno), wanted)


_took_nothing("took-nothing", 0, (0, errno.EIO), MEASURED + ": EIO")
_took_nothing("took-nothing-direct", D, (0, 0), MEASURED + ": write(2) returns 0")


def _error(number: int, open_flags: int) -> None:
    kind = "direct-error" if open_flags else "error"

    @case(f"write/{kind}-{errno.errorcode[number].lower()}", WRITE,
          aspect="enosys" if number == errno.ENOSYS else "error",
          source="fuse.h: out_header.error is the call's errno")  # fmt: skip
    def _(k: Bench) -> None:
        _ground(k, open_flags=open_flags)
        k.answer(WRITE, -number)
        for _ in range(2):
            k.fails(number, lambda: write(k.file("a"), b"DATA"), "write")
        k.equal("WRITE requests", len(k.seen(WRITE)), 2)


for _number in (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.ENOSYS):
    _error(_number, 0)
for _number in (errno.EIO, errno.ENOSPC, errno.EAGAIN):
    _error(_number, D)


@case("write/error-behind-good-data", WRITE, aspect="error", level=Level.SHOULD,
      source="write(2): what was written before an error is returned")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, b"", flags=InitFlag.BIG_WRITES, max_write=2 * PAGE)
    k.answer(WRITE, -errno.ENOSPC, lambda request: request.head.offset >= 2 * PAGE)
    k.equal("written", k.ok(lambda: write(k.file("a"), bytes(6 * PAGE))), 2 * PAGE)
    k.equal("st_size", k.ok(lambda: os.stat(k.file("a"))).st_size, 2 * PAGE)


@case("write/failed-is-not-cached", WRITE, READ, aspect="error", level=Level.PROFILE,
      source=MEASURED + ": a page whose WRITE failed is not read from the cache")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.answer(WRITE, -errno.ENOSPC)
    found = k.ok(
        lambda: opened(
            k.file("a"), os.O_RDWR, lambda fd: (code(lambda: os.pwrite(fd, b"DATA", 0)), os.pread(fd, 10, 0))
        )
    )
    k.equal("errno, read", found, (errno.ENOSPC, b"0123456789"))


# -- limits ------------------------------------------------------------------------------------------------------------


def _split(name: str, most: int, flags: InitFlag, level: Level, source: str, open_flags: int = 0, start: int = 5,
           **init: int) -> None:  # fmt: skip
    @case(f"write/{name}", WRITE, aspect="flag", level=level, flags=flags, source=source)
    def _(k: Bench) -> None:
        _ground(k, bytes(start), open_flags, flags, **init)
        data = b"".join(at.to_bytes(4, "big") for at in range(40 * PAGE // 4))
        k.equal("written", k.ok(lambda: write(k.file("a"), data, offset=start)), len(data))
        _tiled(k, start, data)
        k.true(f"no WRITE of more than {most}", max(size for _, size in _ranges(k)) <= most, _ranges(k))


BIG, PAGES = InitFlag.BIG_WRITES, InitFlag.MAX_PAGES
_split("max-write", 3 * PAGE, BIG, Level.MUST, "fuse.h: fuse_init_out.max_write", max_write=3 * PAGE)
_split("max-write-odd", 3 * PAGE + 100, BIG, Level.MUST, "fuse.h: fuse_init_out.max_write", max_write=3 * PAGE + 100)
_split("max-write-direct", 3 * PAGE, BIG, Level.MUST, "fuse.h: fuse_init_out.max_write", D, max_write=3 * PAGE)
_split("max-pages", 4 * PAGE, BIG | PAGES, Level.MUST, "fuse.h 7.28: MAX_PAGES and max_pages", max_write=1 << 20,
       max_pages=4)  # fmt: skip
_split("max-pages-direct", 4 * PAGE, BIG | PAGES, Level.MUST, "fuse.h 7.28: MAX_PAGES and max_pages", D,
       max_write=1 << 20, max_pages=4)  # fmt: skip
_split("without-max-pages", 32 * PAGE, BIG, Level.MUST, "fuse.h 7.28: 32 pages without MAX_PAGES", D,
       max_write=1 << 20)  # fmt: skip
_split("without-big-writes", PAGE, InitFlag(0), Level.MUST, "fuse.h 7.9: BIG_WRITES, more than a page at a time",
       max_write=1 << 20)  # fmt: skip


def _big(name: str, open_flags: int) -> None:
    @case(f"write/{name}", WRITE, aspect="flag", level=Level.SHOULD, since=28, flags=BIG | PAGES,
          source="fuse.h 7.28: MAX_PAGES, requests of more than 32 pages")  # fmt: skip
    def _(k: Bench) -> None:
        _ground(k, b"", open_flags, BIG | PAGES, max_write=64 * PAGE, max_pages=64)
        k.equal("written", k.ok(lambda: write(k.file("a"), bytes(64 * PAGE))), 64 * PAGE)
        k.true("a WRITE of more than 32 pages", max(size for _, size in _ranges(k)) > 32 * PAGE, _ranges(k))


_big("large", 0)
_big("large-direct", D)


def _limited(path: str, size: int, offset: int) -> int:
    """Write 4 bytes where a file may have no more than `size`."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    return write(path, b"DATA", offset=offset)


def _rlimit(name: str, open_flags: int) -> None:
    @case(f"write/{name}-beyond-rlimit", WRITE, aspect="other", source="setrlimit(2): RLIMIT_FSIZE, EFBIG")
    def _(k: Bench) -> None:
        _ground(k, open_flags=open_flags)
        k.fails(errno.EFBIG, lambda: _limited(k.file("a"), 50, 50), "write")
        k.equal("WRITEs", _ranges(k), [])

    @case(f"write/{name}-up-to-rlimit", WRITE, aspect="other", source="setrlimit(2): RLIMIT_FSIZE; write(2) is short")
    def _(k: Bench) -> None:
        _ground(k, open_flags=open_flags)
        k.equal("written", k.ok(lambda: _limited(k.file("a"), 12, 10)), 2)
        k.equal("WRITEs", _ranges(k), [(10, 2)])


_rlimit("cached", 0)
_rlimit("direct", D)


# -- set-user-id -------------------------------------------------------------------------------------------------------


def _kill(
    name: str, flag: InitFlag | None, uid: int, cleared: bool, bit: bool, source: str, open_flags: int = 0
) -> None:
    @case(f"write/{name}", WRITE, Opcode.SETATTR, aspect="flag", flags=flag or 0, source=source)
    def _(k: Bench) -> None:
        k.mount(flag or 0, options="allow_other").tree.add("a", b"0123456789", stat.S_IFREG | 0o6777)
        k.tree.open_flags = open_flags
        k.ok(lambda: write(k.file("a"), b"DATA"), uid=uid)
        modes = [each.head.mode for each in k.seen(Opcode.SETATTR) if each.head.valid & Fattr.MODE]
        k.equal("a mode without set-user-id sent", any(not mode & 0o4000 for mode in modes), cleared)
        k.equal("KILL_SUIDGID", bool(k.one(WRITE).head.write_flags & WriteFlag.KILL_SUIDGID), bit)


_V1, _V2 = InitFlag.HANDLE_KILLPRIV, InitFlag.HANDLE_KILLPRIV_V2
_kill("clears-suid", None, 4711, True, False, "write(2) by a user clears set-user-id, by SETATTR")
_kill("killpriv", _V1, 4711, False, False, "fuse.h 7.26: HANDLE_KILLPRIV, the server clears set-user-id on write")
_kill("killpriv-v2", _V2, 4711, False, True, "fuse.h 7.33: WRITE_KILL_SUIDGID where the caller has not CAP_FSETID")
_kill("killpriv-v2-root", _V2, 0, False, False, "fuse.h 7.33: no WRITE_KILL_SUIDGID where the caller has CAP_FSETID")
_kill("killpriv-v2-direct", _V2, 4711, False, True, "fuse.h 7.33: WRITE_KILL_SUIDGID", D)


@case("write/o-direct", WRITE, READ, aspect="request", level=Level.SHOULD,
      source="open(2): O_DIRECT bypasses the page cache; a WRITE is what write(2) gave")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, bytes(4 * PAGE))

    def work(fd: int) -> int:
        with mmap.mmap(-1, PAGE) as aligned:
            aligned[:] = b"d" * PAGE
            return os.pwritev(fd, [aligned], PAGE)

    k.equal("written", k.ok(lambda: opened(k.file("a"), os.O_WRONLY | os.O_DIRECT, work)), PAGE)
    k.equal("WRITEs", _ranges(k), [(PAGE, PAGE)])
    k.equal("READ requests", len(k.seen(READ)), 0)
