"""Cases about the numbers in INIT's answer: what each of them changes in the requests that follow."""

import os
import select
from functools import partial
from pathlib import Path

from perfused.conformance.kernel import seam
from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, Skipped, case
from wire.flags import InitFlag, OpenFlag
from wire.opcodes import Opcode

INIT = Opcode.INIT
MEASURED = "measured on Linux 6.18"
KIB = 1024
DIRECT = int(OpenFlag.DIRECT_IO)


def written(k: Bench, size: int) -> list[int]:
    """Write `size` bytes at once, unbuffered: the sizes of the WRITE requests."""
    k.tree.open_flags = DIRECT
    k.tree.add("a")

    def write() -> int:
        fd = os.open(k.file("a"), os.O_WRONLY)
        try:
            return os.write(fd, bytes(size))
        finally:
            os.close(fd)

    k.equal("what write says", k.ok(write), size)
    return [each.head.size for each in k.seen(Opcode.WRITE)]


def read(k: Bench, size: int) -> list[int]:
    """Read `size` bytes at once, unbuffered: the sizes of the READ requests."""
    k.tree.open_flags = DIRECT
    k.tree.add("a", bytes(size))

    def all_of_it() -> int:
        fd = os.open(k.file("a"), os.O_RDONLY)
        try:
            return len(os.read(fd, size))
        finally:
            os.close(fd)

    k.equal("what read gives", k.ok(all_of_it), size)
    return [each.head.size for each in k.seen(Opcode.READ)]


# -- max_write ---------------------------------------------------------------------------------------------------------


def _max_write(limit: int) -> None:
    @case(f"init/max-write-{limit}", INIT, Opcode.WRITE, aspect="request", since=5,
          source="fuse.h: init_out.max_write bounds WRITE")  # fmt: skip
    def _(k: Bench) -> None:
        k.mount(max_write=limit, flags=InitFlag.BIG_WRITES)
        sizes = written(k, 4 * limit + 10)
        k.equal("bytes that came", sum(sizes), 4 * limit + 10)
        k.true("each WRITE within max_write", max(sizes) <= limit, sizes)
        k.true("WRITEs as long as they may be", len(sizes) == 5 or limit > 64 * KIB, sizes)


for _limit in (4 * KIB, 8 * KIB, 64 * KIB, 128 * KIB):
    _max_write(_limit)


@case("init/max-write-0", INIT, Opcode.WRITE, aspect="request", level=Level.PROFILE, since=5,
      source=MEASURED + ": less than 4096 counts as 4096")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(max_write=0, flags=InitFlag.BIG_WRITES)
    k.equal("sizes of WRITE", written(k, 8 * KIB), [4 * KIB, 4 * KIB])


@case("init/max-write-odd", INIT, Opcode.WRITE, aspect="request", level=Level.PROFILE, since=5,
      source=MEASURED + ": a limit that is no multiple of the page holds all the same")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(max_write=5000, flags=InitFlag.BIG_WRITES)
    sizes = written(k, 10_000)
    k.equal("sizes of WRITE", sizes, [5000, 5000])


@case("init/max-write-buffered", INIT, Opcode.WRITE, aspect="request", since=5,
      source="fuse.h: init_out.max_write bounds WRITE")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(max_write=8 * KIB, flags=InitFlag.BIG_WRITES)
    k.tree.add("a")
    k.ok(lambda: open(k.file("a"), "r+b", buffering=0).write(bytes(50 * KIB)))
    sizes = [each.head.size for each in k.seen(Opcode.WRITE)]
    k.equal("bytes that came", sum(sizes), 50 * KIB)
    k.true("each WRITE within max_write", max(sizes) <= 8 * KIB, sizes)


# -- max_pages ---------------------------------------------------------------------------------------------------------


def _max_pages(pages: int) -> None:
    @case(f"init/max-pages-{pages}", INIT, Opcode.READ, Opcode.WRITE, aspect="flag", since=28,
          flags=InitFlag.MAX_PAGES, source="fuse.h 7.28: max_pages bounds a request's data")  # fmt: skip
    def _(k: Bench) -> None:
        limit = pages * os.sysconf("SC_PAGE_SIZE")
        k.mount(flags=InitFlag.MAX_PAGES | InitFlag.BIG_WRITES, max_pages=pages, max_write=2 * limit)
        sizes = read(k, 2 * limit)
        k.equal("bytes asked for", sum(sizes), 2 * limit)
        k.true("each READ within max_pages", max(sizes) <= limit, sizes)


for _pages in (1, 8, 64):
    _max_pages(_pages)


@case("init/max-pages-write", INIT, Opcode.WRITE, aspect="flag", since=28, flags=InitFlag.MAX_PAGES,
      source="fuse.h 7.28: max_pages bounds a request's data")  # fmt: skip
def _(k: Bench) -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    k.mount(flags=InitFlag.MAX_PAGES | InitFlag.BIG_WRITES, max_pages=2, max_write=16 * page)
    sizes = written(k, 8 * page)
    k.equal("bytes that came", sum(sizes), 8 * page)
    k.true("each WRITE within max_pages", max(sizes) <= 2 * page, sizes)


@case("init/max-pages-without-the-flag", INIT, Opcode.READ, aspect="flag", level=Level.PROFILE, since=28,
      flags=InitFlag.MAX_PAGES, source=MEASURED + ": 32 pages unless MAX_PAGES was agreed on")  # fmt: skip
def _(k: Bench) -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    k.mount(max_pages=64, max_write=64 * page)
    k.equal("the longest READ", max(read(k, 128 * page)), 32 * page)


@case("init/max-pages-0", INIT, Opcode.READ, aspect="flag", level=Level.PROFILE, since=28, flags=InitFlag.MAX_PAGES,
      source=MEASURED + ": 0 counts as 1")  # fmt: skip
def _(k: Bench) -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    k.mount(flags=InitFlag.MAX_PAGES, max_pages=0)
    k.equal("the longest READ", max(read(k, 4 * page)), page)


@case("init/max-pages-beyond-the-limit", INIT, Opcode.READ, aspect="flag", level=Level.SHOULD, since=28,
      flags=InitFlag.MAX_PAGES, source="sysctl fs.fuse.max_pages_limit, 256 pages where there is none")  # fmt: skip
def _(k: Bench) -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    sysctl = Path("/proc/sys/fs/fuse/max_pages_limit")
    most = int(sysctl.read_text()) if sysctl.exists() else 256
    k.mount(flags=InitFlag.MAX_PAGES, max_pages=65535, max_write=1 << 20)
    if most > 1024:
        raise Skipped(f"this machine allows {most} pages, which is more than the case reads")
    sizes = read(k, 2 * most * page)
    k.equal("the longest READ", max(sizes), most * page)


# -- max_readahead, max_background, congestion_threshold ---------------------------------------------------------------


def _readahead(limit: int) -> None:
    @case(f"init/max-readahead-{limit}", INIT, Opcode.READ, aspect="request", level=Level.SHOULD, since=6,
          source="fuse.h: init_out.max_readahead")  # fmt: skip
    def _(k: Bench) -> None:
        k.mount(max_readahead=limit, flags=InitFlag.ASYNC_READ)
        k.tree.add("a", bytes(256 * KIB))

        def one_byte() -> int:
            fd = os.open(k.file("a"), os.O_RDONLY)
            try:
                return len(os.read(fd, 1))
            finally:
                os.close(fd)

        k.equal("what read gives", k.ok(one_byte), 1)
        asked = sum(each.head.size for each in k.seen(Opcode.READ))
        k.true("no more is asked for than may be read ahead", asked <= max(limit, 4 * KIB) * 2, asked)


for _limit in (0, 4 * KIB, 16 * KIB):
    _readahead(_limit)


@case("init/max-readahead-beyond-the-offer", INIT, Opcode.READ, aspect="request", level=Level.SHOULD, since=6,
      source="fuse.h: init_in.max_readahead is the most that the kernel reads ahead")  # fmt: skip
def _(k: Bench) -> None:
    server = k.mount(max_readahead=64 << 20, flags=InitFlag.ASYNC_READ)
    k.tree.add("a", bytes(1 << 20))
    k.ok(lambda: os.read(os.open(k.file("a"), os.O_RDONLY), 1))
    assert server.offer is not None
    longest = max(each.head.size for each in k.seen(Opcode.READ))
    k.true("each READ within the offer", longest <= server.offer.max_readahead, longest)


def _control(name: str, field: str, given: int, wanted: int, level: Level = Level.SHOULD) -> None:
    @case(f"init/{field.replace('_', '-')}-{given}", INIT, aspect="request", level=level, since=13,
          source=f"kernel docs: fusectl's {name}; fuse.h 7.13")  # fmt: skip
    def _(k: Bench) -> None:
        server = k.mount(serve=False)
        server.init |= {"max_background": 64, "congestion_threshold": 48, field: given}
        server.start()
        k.ok(lambda: os.stat(k.path))
        k.equal(f"fusectl's {name}", int(seam.connection_control(k.path, name).read_text()), wanted)


_control("max_background", "max_background", 7, 7)
_control("max_background", "max_background", 0, 12, Level.PROFILE)
_control("max_background", "max_background", 65535, 65535)
_control("congestion_threshold", "congestion_threshold", 3, 3)
_control("congestion_threshold", "congestion_threshold", 0, 9, Level.PROFILE)


def _length(path: str) -> int:
    with open(path, "rb") as file:
        return len(file.read())


@case("init/max-background-bounds-reads", INIT, Opcode.READ, aspect="request", level=Level.SHOULD, since=13,
      source="fuse.h: init_out.max_background; readahead is background work")  # fmt: skip
def _(k: Bench) -> None:
    """With a limit of one, only one of several readers' readahead is with the server at any time."""
    flags = InitFlag.ASYNC_READ | InitFlag.MAX_PAGES
    server = k.mount(serve=False, flags=flags, max_background=1, congestion_threshold=100, max_pages=1)
    for name in "abc":
        k.tree.add(name, bytes(16 * KIB))
    k.step_to(INIT)
    rule = k.answer(Opcode.READ, None)
    readers = [k.start(partial(_length, k.file(name))) for name in "abc"]
    k.step_to(Opcode.READ)
    while server.step(0.1):
        pass
    k.equal("READs at a time", len(rule.seen), 1)
    server.rules.clear()
    k.reply(rule.seen[0])
    server.start()
    for each in readers:
        k.equal("what is read", each.wait(k.patience).value, 16 * KIB)


# -- time_gran ---------------------------------------------------------------------------------------------------------


def _granularity(given: int, seen: int, level: Level = Level.MUST) -> None:
    @case(f"init/time-gran-{given}", INIT, Opcode.SETATTR, aspect="request", level=level, since=23,
          source="fuse.h 7.23: time_gran is the nanoseconds that a timestamp is a multiple of")  # fmt: skip
    def _(k: Bench) -> None:
        k.mount(time_gran=given, flags=InitFlag.WRITEBACK_CACHE)
        k.tree.add("a")
        stamp = 1_700_000_000_987_654_321
        k.ok(lambda: os.utime(k.file("a"), ns=(stamp, stamp)))
        head = k.wait_for(Opcode.SETATTR).head
        k.equal("mtime sent, ns", head.mtime * 10**9 + head.mtimensec, stamp - stamp % seen)
        k.equal("atime sent, ns", head.atime * 10**9 + head.atimensec, stamp - stamp % seen)


for _power in range(10):
    _granularity(10**_power, 10**_power)
_granularity(0, 1, Level.PROFILE)
_granularity(2 * 10**9, 1, Level.PROFILE)


@case("init/time-gran-of-kernel-times", INIT, Opcode.SETATTR, aspect="request", since=23,
      flags=InitFlag.WRITEBACK_CACHE, source="fuse.h 7.23: time_gran; a writeback cache keeps mtime")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(time_gran=10**9, flags=k.need(InitFlag.WRITEBACK_CACHE))
    k.tree.valid = 60
    k.tree.add("a")

    def write() -> int:
        with open(k.file("a"), "r+b", buffering=0) as file:
            file.write(b"data")
            return os.fstat(file.fileno()).st_mtime_ns

    k.equal("mtime's part of a second", k.ok(write) % 10**9, 0)


# -- request_timeout ---------------------------------------------------------------------------------------------------


@case("init/request-timeout-long", INIT, aspect="flag", since=43, flags=InitFlag.REQUEST_TIMEOUT,
      source="fuse.h 7.43: request_timeout, in seconds; nothing is late yet")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(flags=InitFlag.REQUEST_TIMEOUT, request_timeout=3600)
    k.tree.add("a", b"content")
    k.equal("what is read", k.ok(lambda: open(k.file("a"), "rb").read()), b"content")


@case("init/request-timeout-ends-the-connection", INIT, Opcode.GETATTR, aspect="flag", since=43,
      flags=InitFlag.REQUEST_TIMEOUT, source="fuse.h 7.43: a late answer aborts the connection")  # fmt: skip
def _(k: Bench) -> None:
    slow = os.environ.get("PERFUSE_CONFORM_SLOW", "")
    if not slow.isdigit():
        raise Skipped("it takes up to 40 s: PERFUSE_CONFORM_SLOW=40 (and a watchdog above it) runs it")
    server = k.mount(flags=InitFlag.REQUEST_TIMEOUT, request_timeout=1)
    k.hold(Opcode.GETATTR)
    waiting = k.start(lambda: os.stat(k.path))
    k.true("the call ends", waiting.done(float(slow)))
    k.true("with an error", waiting.wait(k.patience).errno, "success")
    k.true("the device says so", select.select([server.fd], [], [], k.patience)[0] or server.ended)
