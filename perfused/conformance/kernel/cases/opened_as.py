"""Cases about FOPEN_*: what a server says of a file that it opened, and what the kernel then does otherwise."""

import errno
import mmap
import os
from collections.abc import Callable
from typing import Any

from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.steps import code, opened, read
from wire import codec
from wire.flags import InitFlag, OpenFlag
from wire.opcodes import Opcode

OPEN, READ, WRITE, FLUSH = Opcode.OPEN, Opcode.READ, Opcode.WRITE, Opcode.FLUSH
MEASURED = "measured on Linux 6.18"


def _ground(k: Bench, open_flags: int, flags: int = 0, data: bytes = b"0123456789") -> None:
    k.mount(flags).tree.add("a", data)
    k.tree.open_flags = int(open_flags)


def _sizes(k: Bench, opcode: int = READ) -> list[tuple[int, int]]:
    return [(each.head.offset, each.head.size) for each in k.seen(opcode)]


# -- DIRECT_IO ---------------------------------------------------------------------------------------------------------

D = OpenFlag.DIRECT_IO


@case("fopen/direct-read-as-asked", OPEN, READ, aspect="reply",
      source="fuse.h: FOPEN_DIRECT_IO bypasses the page cache: a READ is what read(2) asked for")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, D)
    k.equal("read", k.ok(lambda: opened(k.file("a"), os.O_RDONLY, lambda fd: os.pread(fd, 3, 5))), b"567")
    k.equal("READs", _sizes(k), [(5, 3)])


@case("fopen/direct-read-each-time", OPEN, READ, aspect="cache",
      source="fuse.h: FOPEN_DIRECT_IO; nothing is kept")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, D)
    node = k.tree.at("a")

    def work() -> Any:
        fd = os.open(k.file("a"), os.O_RDONLY)
        yield os.pread(fd, 10, 0)
        yield os.pread(fd, 10, 0)

    steps = k.steps(work)
    k.equal("first", steps.next(), b"0123456789")
    node.data[:] = b"abcdefghij"
    k.equal("second", steps.next(), b"abcdefghij")
    steps.end()


@case(
    "fopen/direct-read-beyond-size",
    OPEN,
    READ,
    aspect="reply",
    level=Level.SHOULD,
    source="kernel documentation, fuse-io: direct-io mode; the server says where a file ends, not st_size",
)
def _(k: Bench) -> None:
    _ground(k, D, data=b"")
    k.answer(READ, lambda request: b"generated"[request.head.offset :])
    k.equal("read", k.ok(lambda: read(k.file("a"))), b"generated")


@case("fopen/direct-read-short", OPEN, READ, aspect="reply", level=Level.SHOULD,
      source="fuse.h: FOPEN_DIRECT_IO; a short answer is a short read(2)")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, D, data=bytes(8192))
    k.answer(READ, b"short")
    k.equal("read", k.ok(lambda: read(k.file("a"), size=8192)), b"short")
    k.equal("READs", _sizes(k), [(0, 8192)])


@case("fopen/direct-write-as-asked", OPEN, WRITE, aspect="request",
      source="fuse.h: FOPEN_DIRECT_IO; a WRITE is what write(2) asked for")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, D)
    k.equal("written", k.ok(lambda: opened(k.file("a"), os.O_WRONLY, lambda fd: os.pwrite(fd, b"xyz", 4))), 3)
    request = k.one(WRITE)
    k.equal("offset, data", (request.head.offset, request.payload), (4, b"xyz"))
    k.equal("READ requests", _sizes(k), [])


@case("fopen/direct-write-short", OPEN, WRITE, aspect="reply",
      source="fuse.h: FOPEN_DIRECT_IO; write(2) returns what the server took")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, D)
    k.answer(WRITE, codec.write_out.pack(2, 0))
    k.equal("written", k.ok(lambda: opened(k.file("a"), os.O_WRONLY, lambda fd: os.write(fd, b"abcdef"))), 2)


@case("fopen/direct-write-short-moves-so-far", OPEN, WRITE, aspect="reply",
      source="write(2): the position moves by what was written")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, D)
    k.answer(WRITE, codec.write_out.pack(2, 0), times=1)

    def work(fd: int) -> None:
        os.write(fd, b"abcdef")
        os.write(fd, b"cdef")

    k.ok(lambda: opened(k.file("a"), os.O_WRONLY, work))
    k.equal("WRITEs", _sizes(k, WRITE), [(0, 6), (2, 4)])


@case("fopen/direct-write-drops-cached", OPEN, WRITE, READ, aspect="cache",
      source="one file: what one descriptor wrote directly another reads, although it had it cached")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, 0)
    k.tree.valid = 60
    kinds = iter((0, int(D)))
    k.answer(OPEN, lambda request: k.tree.opened(open_flags=next(kinds)))

    def work() -> bytes:
        cached = os.open(k.file("a"), os.O_RDONLY)
        os.read(cached, 10)
        direct = os.open(k.file("a"), os.O_RDWR)
        os.pwrite(direct, b"XY", 2)
        return os.pread(cached, 10, 0)

    k.equal("read again", k.ok(work), b"01XY456789")


@case("fopen/direct-append", OPEN, WRITE, aspect="request", level=Level.SHOULD,
      source="open(2): O_APPEND writes at the end, that of the server")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, D)
    k.ok(lambda: opened(k.file("a"), os.O_WRONLY | os.O_APPEND, lambda fd: os.write(fd, b"abc")))
    k.equal("WRITEs", _sizes(k, WRITE), [(10, 3)])


def _mapped(name: str, kind: int, flags: InitFlag, level: Level, source: str, refused: int = 0) -> None:
    @case(f"fopen/direct-mmap-{name}", OPEN, READ, aspect="flag" if flags else "reply", level=level,
          flags=flags, source=source)  # fmt: skip
    def _(k: Bench) -> None:
        _ground(k, D, flags)

        def work(fd: int) -> bytes:
            with mmap.mmap(fd, 10, kind, mmap.PROT_READ) as mapped:
                return mapped[:]

        if refused:
            k.fails(refused, lambda: opened(k.file("a"), os.O_RDWR, work), "mmap")
        else:
            k.equal("mapped", k.ok(lambda: opened(k.file("a"), os.O_RDWR, work)), b"0123456789")


_NONE = InitFlag(0)
_mapped(
    "shared",
    mmap.MAP_SHARED,
    _NONE,
    Level.PROFILE,
    "kernel documentation, fuse-io: no MAP_SHARED in direct-io mode; " + MEASURED + ": ENODEV",
    errno.ENODEV,
)
_mapped("private", mmap.MAP_PRIVATE, _NONE, Level.SHOULD, "kernel documentation, fuse-io: MAP_PRIVATE alone")
_mapped("allowed", mmap.MAP_SHARED, InitFlag.DIRECT_IO_ALLOW_MMAP, Level.MUST,
        "fuse.h 7.39: DIRECT_IO_ALLOW_MMAP, MAP_SHARED of files that are open with FOPEN_DIRECT_IO")  # fmt: skip


# -- KEEP_CACHE --------------------------------------------------------------------------------------------------------


def _kept(name: str, open_flags: int, reads: int, wanted: bytes, source: str) -> None:
    @case(f"fopen/{name}", OPEN, READ, aspect="cache", level=Level.SHOULD if open_flags else Level.MUST, source=source)
    def _(k: Bench) -> None:
        _ground(k, open_flags)
        k.tree.valid = 60
        k.equal("first open", k.ok(lambda: read(k.file("a"), size=10)), b"0123456789")
        # Same size and times: nothing but the open can tell that the data is another.
        k.tree.at("a").data[:] = b"abcdefghij"
        k.equal("second open", k.ok(lambda: read(k.file("a"), size=10)), wanted)
        k.equal("READ requests", len(k.seen(READ)), reads)


_kept("no-keep-cache", 0, 2, b"abcdefghij", "fuse.h: without FOPEN_KEEP_CACHE an open drops what was cached")
_kept("keep-cache", int(OpenFlag.KEEP_CACHE), 1, b"0123456789", "fuse.h: FOPEN_KEEP_CACHE keeps data over opens")


# -- NONSEEKABLE, STREAM, NOFLUSH --------------------------------------------------------------------------------------


def _seek(name: str, open_flags: int) -> None:
    @case(f"fopen/{name}-lseek", OPEN, Opcode.LSEEK, aspect="reply", since=10 if name == "nonseekable" else 31,
          source="fuse.h: FOPEN_NONSEEKABLE, FOPEN_STREAM; lseek(2): ESPIPE")  # fmt: skip
    def _(k: Bench) -> None:
        _ground(k, open_flags)
        k.fails(
            errno.ESPIPE, lambda: opened(k.file("a"), os.O_RDONLY, lambda fd: os.lseek(fd, 3, os.SEEK_SET)), "lseek"
        )

    @case(f"fopen/{name}-pread", OPEN, READ, aspect="reply", since=10 if name == "nonseekable" else 31,
          source="fuse.h: FOPEN_NONSEEKABLE, FOPEN_STREAM; pread(2), pwrite(2): ESPIPE")  # fmt: skip
    def _(k: Bench) -> None:
        _ground(k, open_flags)
        found = k.ok(
            lambda: opened(
                k.file("a"), os.O_RDWR,
                lambda fd: (code(lambda: os.pread(fd, 3, 3)), code(lambda: os.pwrite(fd, b"x", 3))),
            )
        )  # fmt: skip
        k.equal("errnos", found, (errno.ESPIPE, errno.ESPIPE))
        k.equal("READ, WRITE", (k.seen(READ), k.seen(WRITE)), ([], []))


_seek("nonseekable", int(OpenFlag.NONSEEKABLE))
_seek("stream", int(OpenFlag.STREAM))


@case("fopen/nonseekable-reads-on", OPEN, READ, aspect="request", since=10,
      source="fuse.h: FOPEN_NONSEEKABLE has a position that read(2) moves")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, OpenFlag.NONSEEKABLE | D)
    found = k.ok(lambda: opened(k.file("a"), os.O_RDONLY, lambda fd: [os.read(fd, 4), os.read(fd, 4)]))
    k.equal("read", found, [b"0123", b"4567"])


@case("fopen/stream-has-no-position", OPEN, READ, aspect="request", level=Level.SHOULD, since=31,
      source="fuse.h: FOPEN_STREAM, no file position at all; " + MEASURED + ": every offset is 0")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, OpenFlag.STREAM | D)
    parts = iter((b"one", b"two"))
    k.answer(READ, lambda request: next(parts))
    found = k.ok(lambda: opened(k.file("a"), os.O_RDONLY, lambda fd: [os.read(fd, 4), os.read(fd, 4)]))
    k.equal("read", found, [b"one", b"two"])
    k.equal("READs", _sizes(k), [(0, 4), (0, 4)])


@case("fopen/stream-read-beside-write", OPEN, READ, WRITE, aspect="other", level=Level.SHOULD, since=31,
      source="fuse.h: FOPEN_STREAM, a read(2) that waits keeps no write(2) of the same file waiting")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, OpenFlag.STREAM | D)
    rule = k.hold(READ)

    def work() -> bytes:
        fd = os.open(k.file("a"), os.O_RDWR)
        pid = os.fork()
        if not pid:
            os.write(fd, b"question")
            os._exit(0)
        answer = os.read(fd, 100)
        os.waitpid(pid, 0)
        return answer

    client = k.start(work)
    request = k.held(rule)
    k.equal("written while the read waits", k.wait_for(WRITE).payload, b"question")
    k.reply(request, b"answer")
    k.equal("read", client.wait(k.patience).value, b"answer")


@case("fopen/noflush", OPEN, FLUSH, aspect="reply", since=35,
      source="fuse.h 7.35: FOPEN_NOFLUSH, no FLUSH on close without writeback")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, OpenFlag.NOFLUSH)
    k.ok(lambda: opened(k.file("a"), os.O_RDWR, lambda fd: os.write(fd, b"data")))
    k.wait_for(Opcode.RELEASE)
    k.equal("FLUSH requests", len(k.seen(FLUSH)), 0)


@case("fopen/noflush-writeback", OPEN, FLUSH, aspect="flag", level=Level.PROFILE, since=35,
      flags=InitFlag.WRITEBACK_CACHE, source="fuse.h 7.35: unless FUSE_WRITEBACK_CACHE; " + MEASURED)  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, OpenFlag.NOFLUSH, InitFlag.WRITEBACK_CACHE)
    k.ok(lambda: opened(k.file("a"), os.O_RDWR, lambda fd: os.write(fd, b"data")))
    k.one(FLUSH)


# -- PARALLEL_DIRECT_WRITES --------------------------------------------------------------------------------------------


def _two_writes(k: Bench, first: int, second: int) -> bool:
    """Whether a second direct write reaches the server while a first one waits for its answer."""
    k.tree.at("a").data[:] = bytes(8192)
    rule = k.hold(WRITE)

    def work(at: int) -> Callable[[], Any]:
        return lambda: opened(k.file("a"), os.O_WRONLY, lambda fd: os.pwrite(fd, b"data", at))

    one = k.start(work(first))
    request = k.held(rule)
    two = k.start(work(second))
    k.wait_for(OPEN, 2)
    both = two.done(0.2)
    k.equal("WRITEs before the first is answered", len(k.seen(WRITE)), 2 if both else 1)
    k.reply(request)
    k.equal("errnos", (one.wait(k.patience).errno, two.wait(k.patience).errno), (0, 0))
    return both


@case("fopen/parallel-direct-writes", OPEN, WRITE, aspect="reply", level=Level.SHOULD, since=38,
      source="fuse.h 7.38: FOPEN_PARALLEL_DIRECT_WRITES, writes to one inode at a time")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, D | OpenFlag.PARALLEL_DIRECT_WRITES)
    k.true("both at once", _two_writes(k, 0, 4096))


@case("fopen/direct-writes-in-turn", OPEN, WRITE, aspect="reply", level=Level.SHOULD,
      source="fuse.h 7.38: without FOPEN_PARALLEL_DIRECT_WRITES direct writes to an inode take turns")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, D)
    k.true("one after the other", not _two_writes(k, 0, 4096))


@case("fopen/parallel-not-past-the-end", OPEN, WRITE, aspect="reply", level=Level.PROFILE, since=38,
      source=MEASURED + ": writes that make the file longer take turns even so")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, D | OpenFlag.PARALLEL_DIRECT_WRITES)
    k.true("one after the other", not _two_writes(k, 8192, 12288))


@case("fopen/unknown-bits", OPEN, READ, aspect="malformed", level=Level.SHOULD,
      source="fuse.h: bits that a kernel does not know are for newer ones; " + MEASURED + ": ignored")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, 0x7FFF_FF00)
    k.equal("read", k.ok(lambda: read(k.file("a"))), b"0123456789")
