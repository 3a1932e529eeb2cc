"""Cases about COPY_FILE_RANGE_64 and COPY_FILE_RANGE: what is sent, what follows ENOSYS, and what a copy changes."""

import errno
import os
import resource
import signal
from collections.abc import Callable
from typing import Any

from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.steps import errno_name
from wire import codec
from wire.flags import InitFlag
from wire.opcodes import Opcode

NEW, OLD, READ, WRITE = Opcode.COPY_FILE_RANGE_64, Opcode.COPY_FILE_RANGE, Opcode.READ, Opcode.WRITE
MEASURED = "measured on Linux 6.18"
MANUAL = "fuse.h: fuse_copy_file_range_in; copy_file_range(2)"


def _ground(k: Bench, flags: int = 0, without: tuple[int, ...] = ()) -> None:
    tree = k.mount(flags).tree
    tree.add("a", b"0123456789")
    tree.add("b", b"abcdefghij")
    handles = {tree.at("a").nodeid: 11, tree.at("b").nodeid: 22}
    k.answer(Opcode.OPEN, lambda request: tree.opened(handles[request.header.nodeid]))
    for opcode in without:
        k.answer(opcode, -errno.ENOSYS)


def _copy(
    k: Bench,
    count: int = 4,
    source: int = 2,
    to: int = 5,
    before: Callable[[int, int], Any] | None = None,
    after: Callable[[int, int], Any] | None = None,
    names: tuple[str, str] = ("a", "b"),
) -> Callable[[], Any]:
    """Copy from one file to another: what copy_file_range(2) returned, or `after`'s value."""

    def work() -> Any:
        one = os.open(k.file(names[0]), os.O_RDWR)
        two = os.open(k.file(names[1]), os.O_RDWR)
        if before:
            before(one, two)
        done = os.copy_file_range(one, two, count, source, to)
        return after(one, two) if after else done

    return work


def _both(name: str, **more: Any) -> Callable[[Callable[[Bench, int], None]], None]:
    """Declare a case twice: of the new opcode, and of the old one that ENOSYS leads to."""

    def declare(run: Callable[[Bench, int], None]) -> None:
        for opcode, ending, since in ((NEW, "", 45), (OLD, "-32", 28)):
            without = (NEW,) if opcode == OLD else ()

            def one(k: Bench, opcode: int = opcode, without: tuple[int, ...] = without) -> None:
                _ground(k, more.get("flags", 0), without)
                run(k, opcode)

            case(f"copy/{name}{ending}", opcode, since=since, **more)(one)

    return declare


@_both("request", aspect="request", source=MANUAL)
def _(k: Bench, opcode: int) -> None:
    k.equal("copied", k.ok(_copy(k)), 4)
    request = k.one(opcode)
    k.equal("nodeid", request.header.nodeid, k.tree.at("a").nodeid)
    k.equal("fh_in, off_in, nodeid_out, fh_out, off_out, len, flags", tuple(request.head),
            (11, 2, k.tree.at("b").nodeid, 22, 5, 4, 0))  # fmt: skip
    k.equal("READ, WRITE requests", (len(k.seen(READ)), len(k.seen(WRITE))), (0, 0))
    k.equal("the other file", bytes(k.tree.at("b").data), b"abcde2345j")


@_both("partly", aspect="reply", source=MANUAL + ": fewer bytes may be copied than asked")
def _(k: Bench, opcode: int) -> None:
    k.answer(opcode, codec.copy_file_range_out.pack(3) if opcode == NEW else codec.write_out.pack(3, 0))
    k.equal("copied", k.ok(_copy(k)), 3)


@_both("nothing", aspect="reply", source=MANUAL + ": 0 at the end of file")
def _(k: Bench, opcode: int) -> None:
    k.answer(opcode, bytes(8))
    k.equal("copied", k.ok(_copy(k)), 0)


@_both("drops-cached", aspect="cache", source="what was copied is read, whatever was cached")
def _(k: Bench, opcode: int) -> None:
    k.tree.valid = 60
    found = k.ok(_copy(k, before=lambda _, two: os.pread(two, 10, 0), after=lambda _, two: os.pread(two, 10, 0)))
    k.equal("read", found, b"abcde2345j")


@_both("grows", aspect="cache", source="the size after a copy beyond the end, whatever attr_valid")
def _(k: Bench, opcode: int) -> None:
    k.tree.valid = 60
    found = k.ok(_copy(k, to=100, before=lambda _, two: os.fstat(two), after=lambda _, two: os.fstat(two).st_size))
    k.equal("st_size", found, 104)


@_both("writes-dirty-source-first", aspect="flag", flags=InitFlag.WRITEBACK_CACHE,
       source="what was written to the source is copied, in the page cache or not")  # fmt: skip
def _(k: Bench, opcode: int) -> None:
    k.ok(_copy(k, before=lambda one, _: os.pwrite(one, b"DIRTY", 0)))
    k.equal("the other file", bytes(k.tree.at("b").data), b"abcdeRTY5j")
    k.one(opcode)


def _error(number: int) -> None:
    @_both(f"error-{errno_name(number).lower()}", aspect="error", source="fuse.h: out_header.error is the errno")
    def _(k: Bench, opcode: int) -> None:
        k.answer(opcode, -number)
        for _ in range(2):
            k.fails(number, _copy(k), "copy_file_range")
        k.equal("requests", len(k.seen(opcode)), 2)
        k.equal("the other file", bytes(k.tree.at("b").data), b"abcdefghij")


for _number in (errno.EIO, errno.ENOSPC, errno.EBADF):
    _error(_number)


def _instead(number: int) -> None:
    @_both(f"{errno_name(number).lower()}-is-copied-otherwise", aspect="error", level=Level.SHOULD,
           source=MEASURED + ": what the server cannot copy is read and written")  # fmt: skip
    def _(k: Bench, opcode: int) -> None:
        k.answer(opcode, -number)
        k.equal("copied", k.ok(_copy(k)), 4)
        k.equal("the other file", bytes(k.tree.at("b").data), b"abcde2345j")
        k.true("a WRITE", k.seen(WRITE))
        k.ok(_copy(k))
        k.equal("requests: asked again", len(k.seen(opcode)), 2)


for _number in (errno.EXDEV, errno.EOPNOTSUPP):
    _instead(_number)


@_both("too-much-claimed", aspect="malformed", level=Level.SHOULD, source="no more can be copied than was asked: EIO")
def _(k: Bench, opcode: int) -> None:
    k.answer(opcode, codec.copy_file_range_out.pack(5) if opcode == NEW else codec.write_out.pack(5, 0))
    k.fails(errno.EIO, _copy(k), "copy_file_range")


# -- ENOSYS ------------------------------------------------------------------------------------------------------------


@case("copy/enosys-tries-the-old", NEW, OLD, aspect="enosys", since=45,
      source="fuse.h 7.45: COPY_FILE_RANGE_64; " + MEASURED + ": COPY_FILE_RANGE instead, and ever after")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, without=(NEW,))
    k.equal("copied", [k.ok(_copy(k)) for _ in range(2)], [4, 4])
    k.equal("requests", (len(k.seen(NEW)), len(k.seen(OLD))), (1, 2))


@case("copy/enosys-reads-and-writes", NEW, OLD, READ, WRITE, aspect="enosys", since=28,
      source="fuse.h: optional; " + MEASURED + ": READ and WRITE, and neither is asked again")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, without=(NEW, OLD))
    k.equal("copied", [k.ok(_copy(k)) for _ in range(2)], [4, 4])
    k.equal("requests", (len(k.seen(NEW)), len(k.seen(OLD))), (1, 1))
    k.true("READ and WRITE", k.seen(READ) and k.seen(WRITE))
    k.equal("the other file", bytes(k.tree.at("b").data), b"abcde2345j")


# -- lengths, and what the kernel settles itself -----------------------------------------------------------------------


def _long(name: str, opcode: int, without: tuple[int, ...], most: int, since: int) -> None:
    @case(f"copy/{name}", opcode, aspect="request", level=Level.SHOULD, since=since,
          source="fuse.h 7.45: bytes_copied has 64 bits, fuse_write_out.size 32")  # fmt: skip
    def _(k: Bench) -> None:
        _ground(k, without=without)
        node = k.tree.at("a")
        k.answer(Opcode.LOOKUP, lambda request: k.tree.entry(node, 60, size=8 << 30),
                 lambda request: request.names == (b"a",))  # fmt: skip
        k.answer(Opcode.GETATTR, lambda request: k.tree.attr_out(node, 60, size=8 << 30),
                 lambda request: request.header.nodeid == node.nodeid)  # fmt: skip

        def all_of_it(request: Any) -> bytes:
            length = request.head.len
            return codec.copy_file_range_out.pack(length) if opcode == NEW else codec.write_out.pack(length, 0)

        k.answer(opcode, all_of_it)
        copied = k.ok(_copy(k, 5 << 30, 0, 0))
        length = k.one(opcode).head.len
        k.true("a length that the answer can tell", 0 < length <= most, length)
        k.equal("copied", copied, length)


_long("length-32", OLD, (NEW,), 0xFFFF_FFFF, 28)
_long("length-64", NEW, (), 5 << 30, 45)


@case("copy/not-beyond-source", NEW, aspect="request", level=Level.PROFILE, since=45,
      source=MEASURED + ": no more is asked for than the source has")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.equal("copied", k.ok(_copy(k, 1000)), 8)
    k.equal("len", k.one(NEW).head.len, 8)


@case(
    "copy/source-at-end", NEW, aspect="request", level=Level.PROFILE, since=45, source=MEASURED + ": 0, nobody is asked"
)
def _(k: Bench) -> None:
    _ground(k)
    k.equal("copied", k.ok(_copy(k, source=10)), 0)
    k.equal("requests", len(k.seen(NEW)), 0)


@case("copy/same-file", NEW, aspect="request", since=45, source=MANUAL + ": ranges of one file that do not overlap")
def _(k: Bench) -> None:
    _ground(k)
    k.equal("copied", k.ok(_copy(k, 3, 0, 5, names=("a", "a"))), 3)
    head = k.one(NEW).head
    k.equal("nodeid_out", head.nodeid_out, k.tree.at("a").nodeid)
    k.equal("the file", bytes(k.tree.at("a").data), b"0123401289")


@case("copy/overlapping", NEW, aspect="other", since=28, source=MANUAL + ": EINVAL for ranges that overlap")
def _(k: Bench) -> None:
    _ground(k)
    k.fails(errno.EINVAL, _copy(k, 4, 0, 2, names=("a", "a")), "copy_file_range")
    k.equal("requests", len(k.seen(NEW)), 0)


@case("copy/beyond-rlimit", NEW, aspect="other", level=Level.SHOULD, source="setrlimit(2): RLIMIT_FSIZE, EFBIG")
def _(k: Bench) -> None:
    _ground(k)

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))
        _copy(k, to=50)()

    k.fails(errno.EFBIG, work, "copy_file_range")
    k.equal("requests", len(k.seen(NEW)), 0)


@case("copy/from-elsewhere", NEW, WRITE, aspect="other", level=Level.SHOULD, since=28,
      source=MANUAL + ": between filesystems the server is not asked; EXDEV, or read and written")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    with open(os.path.join(k.directory, "outside"), "wb") as file:
        file.write(b"outside")

    def work() -> int:
        one = os.open(os.path.join(k.directory, "outside"), os.O_RDONLY)
        return os.copy_file_range(one, os.open(k.file("b"), os.O_RDWR), 7, 0, 0)

    outcome = k.do(work)
    k.true("7 bytes or EXDEV", outcome.value == 7 or outcome.errno == errno.EXDEV, outcome)
    k.equal("requests", len(k.seen(NEW)), 0)
