"""Cases about data and attributes that change on the server's side: what the kernel notices, and when it asks anew."""

import os
from collections.abc import Callable
from typing import Any

from perfused.conformance.kernel import seam
from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.tree import Node
from wire.flags import InitFlag
from wire.opcodes import Opcode

READ, GETATTR = Opcode.READ, Opcode.GETATTR
MEASURED = "measured on Linux 6.18"
AUTO, EXPLICIT, W = InitFlag.AUTO_INVAL_DATA, InitFlag.EXPLICIT_INVAL_DATA, InitFlag.WRITEBACK_CACHE
OLD, NEW = b"0123456789", b"abcdefghij"


def _between(k: Bench, flags: int, change: Callable[[Node], None], stat: bool = True) -> tuple[bytes, bytes]:
    """What a reader reads before and after a change on the server, with an fstat(2) between."""
    k.mount(flags).tree.add("a", OLD)

    def work() -> Any:
        fd = os.open(k.file("a"), os.O_RDONLY)
        yield os.pread(fd, 100, 0)
        if stat:
            os.fstat(fd)
        yield os.pread(fd, 100, 0)

    steps = k.steps(work)
    before = steps.next()
    change(k.tree.at("a"))
    after = steps.next()
    steps.end()
    return before, after


def _other(node: Node) -> None:
    node.data[:] = NEW


def _other_and_later(node: Node) -> None:
    node.data[:] = NEW
    node.mtime += 100


def _longer(node: Node) -> None:
    node.data[:] = NEW + b"more"


def _shorter(node: Node) -> None:
    node.data[:] = NEW[:4]


def _change(name: str, flags: InitFlag, change: Callable[[Node], None], wanted: bytes, level: Level,
            source: str, stat: bool = True) -> None:  # fmt: skip
    @case(f"change/{name}", READ, GETATTR, aspect="cache", level=level, flags=flags, source=source)
    def _(k: Bench) -> None:
        before, after = _between(k, flags, change, stat)
        k.equal("read before", before, OLD)
        k.equal("read after", after, wanted)


NONE = InitFlag(0)
_change("unnoticed", NONE, _other, OLD, Level.PROFILE,
        MEASURED + ": neither size nor time changed, so that what is cached stays")  # fmt: skip
_change("mtime-alone", NONE, _other_and_later, OLD, Level.PROFILE,
        MEASURED + ": without AUTO_INVAL_DATA another time drops no data")  # fmt: skip
_change("mtime-auto", AUTO, _other_and_later, NEW, Level.MUST,
        "fuse.h 7.20: AUTO_INVAL_DATA, another mtime drops what is cached")  # fmt: skip
_change(
    "mtime-auto-by-read",
    AUTO,
    _other_and_later,
    NEW,
    Level.SHOULD,
    "fuse.h 7.20: AUTO_INVAL_DATA; " + MEASURED + ": a read asks for the attributes itself",
    stat=False,
)
_change("longer", NONE, _longer, NEW + b"more", Level.SHOULD, MEASURED + ": another size drops what is cached")
_change("shorter", NONE, _shorter, NEW[:4], Level.SHOULD, MEASURED + ": another size drops what is cached")
_change("longer-explicit", EXPLICIT, _longer, OLD + bytes(4), Level.PROFILE,
        "fuse.h 7.30: EXPLICIT_INVAL_DATA, only notifications drop data; " + MEASURED
        + ": what was cached stays, and the rest of its last page reads as zeros")  # fmt: skip
_change("shorter-explicit", EXPLICIT, _shorter, OLD[:4], Level.SHOULD,
        "fuse.h 7.30: EXPLICIT_INVAL_DATA; a shorter file ends earlier all the same")  # fmt: skip
_change("mtime-explicit", EXPLICIT, _other_and_later, OLD, Level.SHOULD, "fuse.h 7.30: EXPLICIT_INVAL_DATA")
_change("writeback", W, _longer, OLD, Level.PROFILE, MEASURED + ": with WRITEBACK_CACHE size and data are the kernel's")
_change("writeback-mtime-auto", W | AUTO, _other_and_later, OLD, Level.PROFILE,
        MEASURED + ": with WRITEBACK_CACHE times are the kernel's, AUTO_INVAL_DATA or not")  # fmt: skip


@case("change/longer-is-seen-by-reader", READ, GETATTR, aspect="cache", level=Level.SHOULD,
      source="a reader at the end goes on when attributes that hold no more tell of more")  # fmt: skip
def _(k: Bench) -> None:
    k.mount().tree.add("a", OLD)

    def work() -> Any:
        fd = os.open(k.file("a"), os.O_RDONLY)
        yield os.read(fd, 100)
        yield os.read(fd, 100)
        yield os.read(fd, 100)

    steps = k.steps(work)
    k.equal("read", steps.next(), OLD)
    k.equal("at the end", steps.next(), b"")
    k.tree.at("a").data += b"more"
    k.equal("what was appended", steps.next(), b"more")
    steps.end()


@case("change/valid-hides-it", READ, GETATTR, aspect="cache", level=Level.SHOULD,
      source="fuse.h: attr_valid; nothing is asked while the attributes hold")  # fmt: skip
def _(k: Bench) -> None:
    k.tree.valid = 60
    before, after = _between(k, AUTO, _other_and_later, stat=False)
    k.equal("read before and after", (before, after), (OLD, OLD))


# -- what changes attributes makes the kernel ask again ----------------------------------------------------------------


def _asks(name: str, opcode: Opcode, call: Callable[[int], Any], level: Level = Level.SHOULD) -> None:
    @case(
        f"change/asked-after-{name}",
        GETATTR,
        opcode,
        aspect="cache",
        level=level,
        source="attributes that a call changed are asked for again, however long attr_valid says they hold",
    )
    def _(k: Bench) -> None:
        node = k.mount().tree.add("a", OLD)
        k.tree.valid = 60

        def work() -> Any:
            fd = os.open(k.file("a"), os.O_RDWR)
            yield os.fstat(fd).st_mtime
            call(fd)
            yield
            yield os.fstat(fd).st_mtime

        steps = k.steps(work)
        k.equal("mtime before", steps.next(), 1_000_000_000.0)
        steps.next()
        k.true(f"a {opcode.name} was sent", k.seen(opcode))
        node.mtime = 1_111_111_111
        k.equal("mtime after", steps.next(), 1_111_111_111.0)
        steps.end()


_asks("write", Opcode.WRITE, lambda fd: os.write(fd, b"x"))
_asks("fallocate", Opcode.FALLOCATE, lambda fd: seam.call("fallocate")(fd, 0, 0, 100))
_asks("punching", Opcode.FALLOCATE, lambda fd: seam.call("fallocate")(fd, 3, 0, 5))
_asks("copy-file-range", Opcode.COPY_FILE_RANGE_64, lambda fd: os.copy_file_range(fd, fd, 2, 0, 8))


@case("change/atime-asked-after-read", GETATTR, READ, aspect="cache", level=Level.PROFILE,
      source=MEASURED + ": READ changes the access time, which is then asked for")  # fmt: skip
def _(k: Bench) -> None:
    node = k.mount().tree.add("a", OLD)
    k.tree.valid = 60

    def work() -> Any:
        fd = os.open(k.file("a"), os.O_RDONLY)
        os.read(fd, 10)
        yield
        yield os.fstat(fd).st_atime

    steps = k.steps(work)
    steps.next()
    node.atime = 1_111_111_111
    k.equal("atime", steps.next(), 1_111_111_111.0)
    steps.end()


# -- answers that come late --------------------------------------------------------------------------------------------


def _late(name: str, opcode: Opcode, call: Callable[[int], Any]) -> None:
    @case(
        f"change/late-lookup-after-{name}",
        Opcode.LOOKUP,
        opcode,
        GETATTR,
        aspect="cache",
        level=Level.SHOULD,
        source="an answer that left the server before a call changed the size says nothing of the size after it",
    )
    def _(k: Bench) -> None:
        node = k.mount().tree.add("a", OLD)
        stale = k.tree.entry(node, entry_valid=0, attr_valid=60)
        rule = k.answer(Opcode.LOOKUP, lambda request: k.tree.entry(node, entry_valid=0, attr_valid=60))

        def work() -> Any:
            fd = os.open(k.file("a"), os.O_RDWR)
            yield
            call(fd)
            yield
            yield os.fstat(fd).st_size

        steps = k.steps(work)
        steps.next()
        k.server.rules.remove(rule)
        held = k.hold(Opcode.LOOKUP)
        other = k.start(lambda: os.stat(k.file("a")))
        request = k.held(held)
        steps.next()
        k.equal("the server's size", len(node.data), 100)
        k.reply(request, stale)
        k.equal("errno of stat", other.wait(k.patience).errno, 0)
        k.equal("st_size", steps.next(), 100)
        steps.end()


_late("write", Opcode.WRITE, lambda fd: os.pwrite(fd, b"x", 99))
_late("truncation", Opcode.SETATTR, lambda fd: os.ftruncate(fd, 100))
_late("fallocate", Opcode.FALLOCATE, lambda fd: seam.call("fallocate")(fd, 0, 0, 100))
_late("copy", Opcode.COPY_FILE_RANGE_64, lambda fd: os.copy_file_range(fd, fd, 10, 0, 90))
