"""Cases about WRITEBACK_CACHE: what write(2) leaves in the page cache, and when and how the server gets it."""

import errno
import os
from collections.abc import Callable
from typing import Any

from perfused.conformance.kernel import seam
from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.steps import code, opened, read, write
from wire.flags import Fattr, InitFlag, WriteFlag
from wire.opcodes import Opcode

WRITE, READ, FSYNC, FLUSH, SETATTR = Opcode.WRITE, Opcode.READ, Opcode.FSYNC, Opcode.FLUSH, Opcode.SETATTR
W = InitFlag.WRITEBACK_CACHE
DOCUMENT = "kernel documentation, fuse-io: writeback-cache mode"
MEASURED = "measured on Linux 6.18"
PAGE = os.sysconf("SC_PAGE_SIZE")
Decorator = Callable[[Callable[[Bench], None]], Callable[[Bench], None]]


def _ground(k: Bench, data: bytes = b"", flags: int = 0, **init: Any) -> None:
    k.mount(W | flags, **init).tree.add("a", data)
    k.tree.valid = 60


def _order(k: Bench, *opcodes: int) -> list[str]:
    return [Opcode(each.header.opcode).name for each in k.server.requests if each.header.opcode in opcodes]


def _open(k: Bench, work: Callable[[int], Any], flags: int = os.O_RDWR) -> Any:
    return k.ok(lambda: opened(k.file("a"), flags, work))


def _case(
    name: str, *opcodes: int, aspect: str = "flag", level: Level = Level.MUST, source: str = DOCUMENT
) -> Decorator:
    return case(f"writeback/{name}", WRITE, *opcodes, aspect=aspect, level=level, since=23, flags=W, source=source)


@_case("write-does-not-wait", level=Level.SHOULD)
def _(k: Bench) -> None:
    _ground(k)
    rule = k.hold(WRITE)

    def work() -> Any:
        fd = os.open(k.file("a"), os.O_RDWR)
        yield os.write(fd, b"DATA")
        os.close(fd)
        yield

    steps = k.steps(work)
    k.equal("written, with no WRITE answered", steps.next(), 4)
    steps.begin()
    k.reply(k.held(rule))
    steps.ended()


@_case("nothing-until-synced")
def _(k: Bench) -> None:
    _ground(k)

    def work() -> Any:
        fd = os.open(k.file("a"), os.O_RDWR)
        os.write(fd, b"DATA")
        yield os.fstat(fd).st_size
        os.fsync(fd)
        yield

    steps = k.steps(work)
    k.equal("st_size", steps.next(), 4)
    k.settle()
    k.equal("WRITE requests before fsync(2)", len(k.seen(WRITE)), 0)
    steps.next()
    k.equal("data", k.one(WRITE).payload, b"DATA")
    steps.end()


@_case("fsync", FSYNC)
def _(k: Bench) -> None:
    _ground(k)
    _open(k, lambda fd: (os.write(fd, b"DATA"), code(lambda: os.fsync(fd))))
    k.equal("requests", _order(k, WRITE, FSYNC), ["WRITE", "FSYNC"])
    k.equal("the file", bytes(k.tree.at("a").data), b"DATA")


@_case("close", FLUSH)
def _(k: Bench) -> None:
    _ground(k)
    _open(k, lambda fd: os.write(fd, b"DATA"))
    k.equal("requests", _order(k, WRITE, FLUSH), ["WRITE", "FLUSH"])
    k.equal("the file", bytes(k.tree.at("a").data), b"DATA")


@_case("syncfs")
def _(k: Bench) -> None:
    _ground(k)

    def work() -> Any:
        fd = os.open(k.file("a"), os.O_RDWR)
        os.write(fd, b"DATA")
        seam.syncfs(fd)
        yield

    steps = k.steps(work)
    steps.next()
    k.wait_for(WRITE)
    k.equal("data", k.one(WRITE).payload, b"DATA")
    steps.end()


@_case("marked", source="fuse.h: WRITE_CACHE, a delayed write from the page cache")
def _(k: Bench) -> None:
    _ground(k)
    _open(k, lambda fd: os.write(fd, b"DATA"))
    head = k.one(WRITE).head
    k.true("WRITE_CACHE", head.write_flags & WriteFlag.CACHE, WriteFlag(head.write_flags))


@_case("no-caller", level=Level.PROFILE, source=MEASURED + ": uid, gid and pid of a delayed write are nobody's")
def _(k: Bench) -> None:
    _ground(k, options="allow_other")
    k.ok(lambda: write(k.file("a"), b"DATA"), uid=4711)
    header = k.one(WRITE).header
    k.equal("uid, gid, pid", (header.uid, header.gid, header.pid), (0, 0, 0))


@_case("joined", level=Level.SHOULD)
def _(k: Bench) -> None:
    _ground(k)
    _open(k, lambda fd: [os.write(fd, part) for part in (b"one ", b"two ", b"three")])
    request = k.one(WRITE)
    k.equal("offset, data", (request.head.offset, request.payload), (0, b"one two three"))


@_case("last-write-wins")
def _(k: Bench) -> None:
    _ground(k)
    _open(k, lambda fd: [os.pwrite(fd, part, 0) for part in (b"first!", b"second")])
    k.equal("the file", bytes(k.tree.at("a").data), b"second")


@_case("read-back", READ, aspect="cache")
def _(k: Bench) -> None:
    _ground(k)
    found = _open(k, lambda fd: (os.write(fd, b"DATA"), os.pread(fd, 10, 0)))
    k.equal("read", found[1], b"DATA")
    k.equal("READ requests", len(k.seen(READ)), 0)


@_case("part-of-a-page-is-read-first", READ, aspect="cache")
def _(k: Bench) -> None:
    _ground(k, b"0123456789" * 10)
    _open(k, lambda fd: os.pwrite(fd, b"DATA", 3))
    k.true("a READ", k.seen(READ))
    k.equal("the file", bytes(k.tree.at("a").data)[:20], b"012DATA7890123456789")


@_case("whole-page-is-not-read", READ, aspect="cache", level=Level.SHOULD)
def _(k: Bench) -> None:
    _ground(k, bytes(2 * PAGE))
    _open(k, lambda fd: os.pwrite(fd, b"d" * PAGE, PAGE))
    k.equal("READ requests", len(k.seen(READ)), 0)
    request = k.one(WRITE)
    k.equal("offset, size", (request.head.offset, request.head.size), (PAGE, PAGE))


@_case("reads-by-write-only-handle", READ, aspect="request", source=DOCUMENT + ": READ comes for O_WRONLY handles too")
def _(k: Bench) -> None:
    _ground(k, b"0123456789")
    _open(k, lambda fd: os.pwrite(fd, b"DATA", 3), os.O_WRONLY)
    k.equal("READ's handle", k.seen(READ)[0].head.fh, k.seen(WRITE)[0].head.fh)
    k.equal("the file", bytes(k.tree.at("a").data), b"012DATA789")


@_case("read-fails-write", READ, aspect="error", level=Level.SHOULD)
def _(k: Bench) -> None:
    _ground(k, b"0123456789")
    k.answer(READ, -errno.EIO)
    k.fails(errno.EIO, lambda: write(k.file("a"), b"DATA", os.O_RDWR, 3), "write of a part of a page")
    k.equal("the file", bytes(k.tree.at("a").data), b"0123456789")


@_case("append", aspect="request")
def _(k: Bench) -> None:
    _ground(k, b"0123456789")
    _open(k, lambda fd: [os.write(fd, part) for part in (b"DATA", b"MORE")], os.O_RDWR | os.O_APPEND)
    k.equal("the file", bytes(k.tree.at("a").data), b"0123456789DATAMORE")


@_case("append-flag-not-sent", Opcode.OPEN, aspect="request", level=Level.PROFILE,
       source=MEASURED + ": flags go as they are; who serves writeback must heed offsets, not O_APPEND")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    _open(k, lambda fd: os.write(fd, b"DATA"), os.O_WRONLY | os.O_APPEND)
    k.true("O_APPEND in OPEN", k.one(Opcode.OPEN).head.flags & os.O_APPEND)
    k.equal("offset of WRITE", k.one(WRITE).head.offset, 0)


@_case("max-write", source="fuse.h: fuse_init_out.max_write")
def _(k: Bench) -> None:
    _ground(k, max_write=2 * PAGE)
    data = b"".join(at.to_bytes(4, "big") for at in range(10 * PAGE // 4))
    _open(k, lambda fd: os.write(fd, data))
    k.true("no WRITE of more", max(each.head.size for each in k.seen(WRITE)) <= 2 * PAGE)
    k.true("the same bytes", bytes(k.tree.at("a").data) == data)


@_case("not-past-size", source=DOCUMENT + ": the last page is sent as far as the file goes")
def _(k: Bench) -> None:
    _ground(k)

    def work(fd: int) -> None:
        os.write(fd, b"d" * 100)
        os.ftruncate(fd, 40)

    _open(k, work)
    k.equal("size at last", len(k.tree.at("a").data), 40)
    k.true("no WRITE beyond", all(each.head.offset + each.head.size <= 100 for each in k.seen(WRITE)))


# -- attributes --------------------------------------------------------------------------------------------------------


@_case("size-is-the-kernels", Opcode.GETATTR, aspect="cache")
def _(k: Bench) -> None:
    _ground(k)
    k.tree.valid = 0
    found = _open(k, lambda fd: (os.write(fd, b"DATA"), os.fstat(fd).st_size))
    k.equal("st_size, although the server says 0", found[1], 4)


@_case("mtime-is-the-kernels", Opcode.GETATTR, aspect="cache")
def _(k: Bench) -> None:
    _ground(k)
    k.tree.valid = 0
    found = _open(k, lambda fd: (os.write(fd, b"DATA"), os.fstat(fd).st_mtime))
    k.true("mtime is now's, although the server says 2001", found[1] > 1_500_000_000, found[1])


@_case("mtime-sent", SETATTR, aspect="request")
def _(k: Bench) -> None:
    _ground(k)
    _open(k, lambda fd: os.write(fd, b"DATA"))
    k.wait_for(Opcode.RELEASE)
    heads = [each.head for each in k.seen(SETATTR) if each.head.valid & Fattr.MTIME]
    k.true("a SETATTR of MTIME", heads)
    k.equal("MTIME_NOW", Fattr(heads[-1].valid) & Fattr.MTIME_NOW, Fattr(0))
    k.true("mtime is now's", heads[-1].mtime > 1_500_000_000, heads[-1].mtime)


@_case("time-granularity", SETATTR, aspect="flag", level=Level.SHOULD,
       source="fuse.h 7.23: fuse_init_out.time_gran, nanoseconds to which times are cut down")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, time_gran=1_000_000_000)
    _open(k, lambda fd: os.write(fd, b"DATA"))
    k.wait_for(Opcode.RELEASE)
    heads = [each.head for each in k.seen(SETATTR) if each.head.valid & Fattr.MTIME]
    k.equal("nanoseconds", [head.mtimensec for head in heads], [0])


@_case("mtime-given-is-kept", SETATTR, aspect="cache")
def _(k: Bench) -> None:
    _ground(k)
    _open(k, lambda fd: (os.write(fd, b"DATA"), code(lambda: os.utime(fd, (5, 77)))))
    k.settle()
    k.equal("mtime at last", k.tree.at("a").mtime, 77)


@_case("server-size-is-not-heeded", Opcode.GETATTR, aspect="cache", level=Level.PROFILE,
       source=MEASURED + ": the server's word on the size is not taken while the inode lives")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, b"0123456789")
    k.tree.valid = 0

    def work() -> Any:
        fd = os.open(k.file("a"), os.O_RDWR)
        yield os.fstat(fd).st_size
        yield os.fstat(fd).st_size

    steps = k.steps(work)
    k.equal("st_size", steps.next(), 10)
    k.tree.at("a").data += b"grown"
    k.equal("st_size when the server's file is longer", steps.next(), 10)
    steps.end()


@_case("truncate-cuts-dirty-data", SETATTR, aspect="cache", source="ftruncate(2): what is cut off reads as zeros")
def _(k: Bench) -> None:
    _ground(k)

    def work(fd: int) -> bytes:
        os.write(fd, b"d" * 1000)
        os.ftruncate(fd, 10)
        os.ftruncate(fd, 20)
        return os.pread(fd, 100, 0)

    k.equal("read", _open(k, work), b"d" * 10 + bytes(10))
    k.equal("the file", bytes(k.tree.at("a").data), b"d" * 10 + bytes(10))


@_case("truncate-longer-keeps-dirty-data", SETATTR, aspect="cache", source="ftruncate(2)")
def _(k: Bench) -> None:
    _ground(k)

    def work(fd: int) -> None:
        os.write(fd, b"DATA")
        os.ftruncate(fd, 10)

    _open(k, work)
    k.equal("the file", bytes(k.tree.at("a").data), b"DATA" + bytes(6))


# -- errors, and direct I/O beside it ----------------------------------------------------------------------------------


def _error(number: int) -> None:
    shown = errno.errorcode[number]

    @_case(f"error-{shown.lower()}-to-fsync", FSYNC, aspect="error", level=Level.SHOULD,
           source=f"fsync(2) tells of delayed writes that failed; {MEASURED}: the server's errno")  # fmt: skip
    def _(k: Bench) -> None:
        _ground(k)
        k.answer(WRITE, -number)
        found = _open(k, lambda fd: (os.write(fd, b"DATA"), code(lambda: os.fsync(fd))))
        k.equal("written", found[0], 4)
        k.equal("errno of fsync", errno.errorcode.get(found[1]), shown)


_error(errno.EIO)
_error(errno.ENOSPC)
_error(errno.EDQUOT)


@_case("error-to-close", FLUSH, aspect="error", level=Level.SHOULD,
       source="close(2) tells of delayed writes that failed; " + MEASURED)  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.answer(WRITE, -errno.EIO)
    k.fails(errno.EIO, lambda: write(k.file("a"), b"DATA"), "close")


@_case("error-told-once", FSYNC, aspect="error", level=Level.PROFILE, source="fsync(2): once a descriptor; " + MEASURED)
def _(k: Bench) -> None:
    _ground(k)
    k.answer(WRITE, -errno.EIO, times=1)
    found = _open(k, lambda fd: (os.write(fd, b"DATA"), [code(lambda: os.fsync(fd)) for _ in range(2)]))
    k.equal("errnos of fsync", found[1], [errno.EIO, 0])


@_case("o-direct-write-after-dirty", aspect="cache", source="open(2): O_DIRECT sees and makes what the cache holds")
def _(k: Bench) -> None:
    _ground(k, bytes(PAGE))

    def work() -> bytes:
        cached = os.open(k.file("a"), os.O_RDWR)
        os.pwrite(cached, b"cached", 0)
        direct = os.open(k.file("a"), os.O_RDWR | os.O_DIRECT)
        os.pwrite(direct, b"DIR", 0)
        return os.pread(cached, 6, 0)

    k.equal("read", k.ok(work), b"DIRhed")
    k.equal("the file", bytes(k.tree.at("a").data[:6]), b"DIRhed")


@_case("o-direct-read-after-dirty", READ, aspect="cache", source="open(2): O_DIRECT reads what was written")
def _(k: Bench) -> None:
    _ground(k, bytes(PAGE))

    def work() -> bytes:
        cached = os.open(k.file("a"), os.O_RDWR)
        os.pwrite(cached, b"cached", 0)
        return read(k.file("a"), os.O_RDONLY | os.O_DIRECT, 6)

    k.equal("read", k.ok(work), b"cached")


@_case("open-keeps-dirty-data", Opcode.OPEN, aspect="cache", source="open(2) loses no data, with or without KEEP_CACHE")
def _(k: Bench) -> None:
    _ground(k, bytes(PAGE))

    def work() -> bytes:
        fd = os.open(k.file("a"), os.O_RDWR)
        os.pwrite(fd, b"dirty", 0)
        return read(k.file("a"), size=5)

    k.equal("read", k.ok(work), b"dirty")
