"""Cases about mmap(2): what page faults read, what becomes of stores, and where SIGBUS comes."""

import errno
import faulthandler
import mmap
import os
import resource
import signal
import stat
from collections.abc import Callable
from typing import Any

from perfused.conformance.kernel import seam
from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.steps import opened
from wire.flags import InitFlag, OpenFlag, WriteFlag
from wire.opcodes import Opcode

READ, WRITE, FSYNC, OPEN = Opcode.READ, Opcode.WRITE, Opcode.FSYNC, Opcode.OPEN
MEASURED = "measured on Linux 6.18"
PAGE = mmap.PAGESIZE
BOTH = mmap.PROT_READ | mmap.PROT_WRITE


def _ground(k: Bench, data: bytes, flags: int = 0, open_flags: int = 0, **init: Any) -> None:
    k.mount(flags, **init).tree.add("a", data)
    k.tree.valid = 60
    k.tree.open_flags = int(open_flags)


def _map(k: Bench, work: Callable[[mmap.mmap], Any], length: int, kind: int = mmap.MAP_SHARED, prot: int = BOTH) -> Any:
    """Have a client map "a", do `work` on it, and unmap it."""

    def all_of_it(fd: int) -> Any:
        with mmap.mmap(fd, length, kind, prot) as mapped:
            return work(mapped)

    return k.ok(lambda: opened(k.file("a"), os.O_RDWR if kind == mmap.MAP_SHARED else os.O_RDONLY, all_of_it))


def _end(work: Callable[[], Any]) -> int:
    """The signal that ends a process that does `work`; 0 where it ends by itself."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pid = os.fork()
    if not pid:
        faulthandler.disable()
        work()
        os._exit(0)
    return os.waitpid(pid, 0)[1] & 0x7F


@case("mmap/read", READ, aspect="request", source="mmap(2): a page fault reads the file")
def _(k: Bench) -> None:
    data = os.urandom(3 * PAGE)
    _ground(k, data)
    k.equal("mapped", _map(k, lambda mapped: mapped[PAGE - 5 : PAGE + 5], 3 * PAGE), data[PAGE - 5 : PAGE + 5])
    k.true("READ requests", k.seen(READ))


@case("mmap/read-private", READ, aspect="request", source="mmap(2): MAP_PRIVATE reads the file")
def _(k: Bench) -> None:
    _ground(k, b"0123456789")
    k.equal("mapped", _map(k, lambda mapped: mapped[:], 10, mmap.MAP_PRIVATE), b"0123456789")


@case("mmap/zeros-behind-end", READ, aspect="reply", source="mmap(2): what of the last page is beyond the end is zero")
def _(k: Bench) -> None:
    _ground(k, b"0123456789")
    found = k.ok(lambda: opened(k.file("a"), os.O_RDONLY, lambda fd: bytes(seam.mapped(fd, PAGE))))
    k.equal("mapped", found, b"0123456789" + bytes(PAGE - 10))


@case("mmap/same-cache-as-read", READ, aspect="cache", level=Level.SHOULD, source="mmap(2): read(2) and mappings agree")
def _(k: Bench) -> None:
    _ground(k, b"0123456789")

    def work(fd: int) -> bytes:
        os.read(fd, 10)
        with mmap.mmap(fd, 10, prot=mmap.PROT_READ) as mapped:
            return mapped[:]

    k.equal("mapped", k.ok(lambda: opened(k.file("a"), os.O_RDONLY, work)), b"0123456789")
    k.one(READ)


@case("mmap/sees-write", WRITE, aspect="cache", source="mmap(2): MAP_SHARED shows what write(2) wrote")
def _(k: Bench) -> None:
    _ground(k, b"0123456789")

    def work(fd: int) -> bytes:
        with mmap.mmap(fd, 10) as mapped:
            first = mapped[:3]
            os.pwrite(fd, b"DATA", 3)
            return first + mapped[3:]

    k.equal("mapped", k.ok(lambda: opened(k.file("a"), os.O_RDWR, work)), b"012DATA789")


def _beyond(k: Bench) -> None:
    fd = os.open(k.file("a"), os.O_RDONLY)
    with mmap.mmap(fd, 10, prot=mmap.PROT_READ) as mapped:
        os.truncate(k.file("a"), 0)
        mapped[0]


@case("mmap/sigbus-beyond-end", READ, aspect="error", source="mmap(2): SIGBUS beyond the file's last page")
def _(k: Bench) -> None:
    _ground(k, b"0123456789")
    k.equal("signal", k.ok(lambda: _end(lambda: _beyond(k))), int(signal.SIGBUS))


@case("mmap/sigbus-on-error", READ, aspect="error", source="mmap(2): SIGBUS where a page cannot be read")
def _(k: Bench) -> None:
    _ground(k, b"0123456789")
    k.answer(READ, -errno.EIO)

    def work() -> None:
        fd = os.open(k.file("a"), os.O_RDONLY)
        with mmap.mmap(fd, 10, prot=mmap.PROT_READ) as mapped:
            mapped[0]

    k.equal("signal", k.ok(lambda: _end(work)), int(signal.SIGBUS))


@case("mmap/sigbus-once-server-cut", READ, Opcode.GETATTR, aspect="cache", level=Level.SHOULD,
      source="a size that the server tells holds for mappings too: SIGBUS beyond it")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, bytes(2 * PAGE))
    k.tree.valid = 0
    node = k.tree.at("a")

    def work() -> None:
        fd = os.open(k.file("a"), os.O_RDONLY)
        with mmap.mmap(fd, 2 * PAGE, prot=mmap.PROT_READ) as mapped:
            mapped[PAGE]
            os.write(told[1], b"x")
            os.read(orders[0], 1)
            os.fstat(fd)
            mapped[PAGE]

    told, orders = os.pipe(), os.pipe()
    client = k.start(lambda: _end(work))
    os.read(told[0], 1)
    del node.data[PAGE:]
    os.write(orders[1], b"x")
    k.equal("signal", client.wait(k.patience).value, int(signal.SIGBUS))


# -- stores ------------------------------------------------------------------------------------------------------------


def _store(mapped: mmap.mmap) -> None:
    mapped[3:7] = b"DATA"


@case("mmap/store-written-by-munmap", WRITE, aspect="request", level=Level.SHOULD,
      source="close-to-open: what was stored is with the server when the mapping and the file are gone")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, b"0123456789")
    _map(k, _store, 10)
    k.wait_for(Opcode.RELEASE)
    k.equal("the file", bytes(k.tree.at("a").data), b"012DATA789")


@case("mmap/store-marked", WRITE, aspect="request", since=9, source="fuse.h: WRITE_CACHE; the page cache wrote it")
def _(k: Bench) -> None:
    _ground(k, b"0123456789")
    _map(k, _store, 10)
    k.wait_for(Opcode.RELEASE)
    k.true("WRITE_CACHE", all(each.head.write_flags & WriteFlag.CACHE for each in k.seen(WRITE)))


@case("mmap/msync", WRITE, FSYNC, aspect="request", source="msync(2): MS_SYNC waits until it is written")
def _(k: Bench) -> None:
    _ground(k, b"0123456789")

    def work() -> Any:
        fd = os.open(k.file("a"), os.O_RDWR)
        mapped = mmap.mmap(fd, 10)
        _store(mapped)
        mapped.flush()
        yield

    steps = k.steps(work)
    steps.next()
    order = [each.header.opcode for each in k.server.requests if each.header.opcode in (WRITE, FSYNC)]
    k.equal("requests", order, [WRITE, FSYNC])
    k.equal("the file", bytes(k.tree.at("a").data), b"012DATA789")
    steps.end()


@case("mmap/fsync", WRITE, FSYNC, aspect="request", source="fsync(2) writes what was stored through mappings")
def _(k: Bench) -> None:
    _ground(k, b"0123456789")

    def work(fd: int) -> None:
        with mmap.mmap(fd, 10) as mapped:
            _store(mapped)
            os.fsync(fd)

    k.ok(lambda: opened(k.file("a"), os.O_RDWR, work))
    order = [each.header.opcode for each in k.server.requests if each.header.opcode in (WRITE, FSYNC)]
    k.equal("first requests", order[:2], [WRITE, FSYNC])


@case("mmap/store-read-back", WRITE, aspect="cache", source="mmap(2): read(2) gives what MAP_SHARED stored")
def _(k: Bench) -> None:
    _ground(k, b"0123456789")

    def work(fd: int) -> bytes:
        with mmap.mmap(fd, 10) as mapped:
            _store(mapped)
            return os.pread(fd, 100, 0)

    k.equal("read", k.ok(lambda: opened(k.file("a"), os.O_RDWR, work)), b"012DATA789")


@case(
    "mmap/store-not-past-end", WRITE, aspect="request", source="mmap(2): what is stored behind the end is not written"
)
def _(k: Bench) -> None:
    _ground(k, b"0123456789")

    def work(fd: int) -> None:
        seam.mapped(fd, PAGE, mmap.PROT_READ | mmap.PROT_WRITE)[5:20] = b"x" * 15

    k.ok(lambda: opened(k.file("a"), os.O_RDWR, work))
    k.wait_for(Opcode.RELEASE)
    k.equal("the file", bytes(k.tree.at("a").data), b"01234xxxxx")


@case("mmap/store-private", WRITE, aspect="request", source="mmap(2): MAP_PRIVATE stores are not written")
def _(k: Bench) -> None:
    _ground(k, b"0123456789")
    _map(k, _store, 10, mmap.MAP_PRIVATE)
    k.wait_for(Opcode.RELEASE)
    k.equal("WRITE requests", len(k.seen(WRITE)), 0)


@case("mmap/store-in-new-room", WRITE, Opcode.SETATTR, aspect="cache",
      source="ftruncate(2), mmap(2): a file made longer takes stores there")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, b"0123456789")

    def work(fd: int) -> None:
        os.ftruncate(fd, 2 * PAGE)
        with mmap.mmap(fd, 2 * PAGE) as mapped:
            mapped[PAGE : PAGE + 4] = b"DATA"

    k.ok(lambda: opened(k.file("a"), os.O_RDWR, work))
    k.wait_for(Opcode.RELEASE)
    data = bytes(k.tree.at("a").data)
    k.equal("the file's parts", (data[:10], data[PAGE : PAGE + 4], len(data)), (b"0123456789", b"DATA", 2 * PAGE))


@case("mmap/read-of-a-hole-then-write", WRITE, READ, aspect="cache", source="mmap(2), write(2): one file, one content")
def _(k: Bench) -> None:
    _ground(k, b"0123456789")

    def work(fd: int) -> tuple[bytes, bytes]:
        os.ftruncate(fd, PAGE)
        with mmap.mmap(fd, PAGE) as mapped:
            hole = mapped[100:104]
            os.pwrite(fd, b"DATA", 100)
            return hole, mapped[100:104]

    k.equal("mapped", k.ok(lambda: opened(k.file("a"), os.O_RDWR, work)), (bytes(4), b"DATA"))


@case("mmap/failed-write-to-msync", WRITE, FSYNC, aspect="error", level=Level.SHOULD,
      source="msync(2): EIO and the like where what was stored cannot be written")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, b"0123456789")
    k.answer(WRITE, -errno.EIO)

    def work() -> None:
        fd = os.open(k.file("a"), os.O_RDWR)
        mapped = mmap.mmap(fd, 10)
        _store(mapped)
        mapped.flush()

    k.fails(errno.EIO, work, "msync")


@case("mmap/store-direct-allowed", WRITE, aspect="flag", since=39, flags=InitFlag.DIRECT_IO_ALLOW_MMAP,
      source="fuse.h 7.39: DIRECT_IO_ALLOW_MMAP, MAP_SHARED of files that are open with FOPEN_DIRECT_IO")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, b"0123456789", InitFlag.DIRECT_IO_ALLOW_MMAP, OpenFlag.DIRECT_IO)
    _map(k, _store, 10)
    k.wait_for(Opcode.RELEASE)
    k.equal("the file", bytes(k.tree.at("a").data), b"012DATA789")


@case("mmap/store-direct-allowed-read", WRITE, READ, aspect="flag", level=Level.SHOULD, since=39,
      flags=InitFlag.DIRECT_IO_ALLOW_MMAP,
      source="kernel documentation, fuse-io: direct reads come after what mappings stored is written")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, b"0123456789", InitFlag.DIRECT_IO_ALLOW_MMAP, OpenFlag.DIRECT_IO)

    def work(fd: int) -> bytes:
        with mmap.mmap(fd, 10) as mapped:
            _store(mapped)
            return os.pread(fd, 10, 0)

    k.equal("read", k.ok(lambda: opened(k.file("a"), os.O_RDWR, work)), b"012DATA789")


@case("mmap/size-after-store", WRITE, Opcode.GETATTR, aspect="cache", level=Level.SHOULD,
      flags=InitFlag.WRITEBACK_CACHE, source="mmap(2): stores make a file no longer, and change its time")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, b"0123456789", InitFlag.WRITEBACK_CACHE)

    def work(fd: int) -> tuple[int, float]:
        with mmap.mmap(fd, 10) as mapped:
            _store(mapped)
            found = os.fstat(fd)
            return found.st_size, found.st_mtime

    size, mtime = k.ok(lambda: opened(k.file("a"), os.O_RDWR, work))
    k.equal("st_size", size, 10)
    k.true("mtime is now's", mtime > 1_500_000_000, mtime)


# -- programs ----------------------------------------------------------------------------------------------------------


@case("mmap/execute", READ, OPEN, aspect="other", source="execve(2): programs run from any filesystem")
def _(k: Bench) -> None:
    _ground(k, b"")
    with open("/bin/true", "rb") as program:
        k.tree.at("a").data[:] = program.read()
    k.tree.at("a").mode = stat.S_IFREG | 0o755
    k.equal("exit code", k.ok(lambda: os.spawnv(os.P_WAIT, k.file("a"), ["a"])), 0)


@case("mmap/execute-busy", OPEN, aspect="other", level=Level.PROFILE,
      source="execve(2): ETXTBSY where it is open for writing; " + MEASURED)  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, b"#!/bin/true\n")
    k.tree.at("a").mode = stat.S_IFREG | 0o755

    def work() -> None:
        os.open(k.file("a"), os.O_WRONLY)
        os.execv(k.file("a"), ["a"])

    k.fails(errno.ETXTBSY, work, "execve")


@case("mmap/execute-noexec", OPEN, aspect="other", source="mount(2): MS_NOEXEC, execve(2): EACCES")
def _(k: Bench) -> None:
    k.mount(mount_flags=8).tree.add("a", b"#!/bin/true\n", stat.S_IFREG | 0o755)
    k.fails(errno.EACCES, lambda: os.execv(k.file("a"), ["a"]), "execve")
