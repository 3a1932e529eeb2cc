"""Cases about READ: offsets and sizes, the end of a file, the page cache, other calls, errors."""

import errno
import fcntl
import mmap
import os
from collections.abc import Callable
from typing import Any

from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.steps import opened, read
from wire.flags import OpenFlag, ReadFlag
from wire.opcodes import Opcode

READ, OPEN = Opcode.READ, Opcode.OPEN
MEASURED = "measured on Linux 6.18"
PAGE = os.sysconf("SC_PAGE_SIZE")
DIGITS = b"0123456789"
DIRECT = int(OpenFlag.DIRECT_IO)


def pattern(size: int) -> bytes:
    """Bytes that tell where they stand."""
    return b"".join(at.to_bytes(8, "big") for at in range(0, size, 8))[:size]


def ground(k: Bench, data: bytes = DIGITS, open_flags: int = 0, flags: int = 0, valid: int = 60, **init: Any) -> None:
    """Mount a file `a` with `data`, by the flags of its open and of INIT; `valid` seconds for attributes."""
    k.mount(flags, **init).tree.add("a", data)
    k.tree.open_flags = int(open_flags)
    k.tree.valid = valid


def ranges(k: Bench) -> list[tuple[int, int]]:
    """Offset and size of each READ so far."""
    return [(each.head.offset, each.head.size) for each in k.seen(READ)]


@case("read/request", READ, aspect="request", source="fuse.h: fuse_read_in; read(2)")
def _(k: Bench) -> None:
    ground(k)
    k.answer(OPEN, k.tree.opened(fh=5))
    k.equal("read", k.ok(lambda: read(k.file("a"))), DIGITS)
    request = k.seen(READ)[0]
    k.equal("nodeid, fh, offset", (request.header.nodeid, request.head.fh, request.head.offset),
            (k.tree.at("a").nodeid, 5, 0))  # fmt: skip
    k.true("size covers the file", request.head.size >= len(DIGITS), request.head.size)


@case("read/whole-pages", READ, aspect="request", level=Level.PROFILE,
      source=MEASURED + ": through the page cache a READ is whole pages")  # fmt: skip
def _(k: Bench) -> None:
    ground(k)
    k.ok(lambda: opened(k.file("a"), os.O_RDONLY, lambda fd: os.pread(fd, 2, 3)))
    k.equal("READs", [(offset % PAGE, size % PAGE) for offset, size in ranges(k)], [(0, 0)])


@case("read/at-offset", READ, aspect="reply", source="pread(2)")
def _(k: Bench) -> None:
    data = pattern(10 * PAGE)
    ground(k, data)
    at = 5 * PAGE - 3
    k.equal(
        "read", k.ok(lambda: opened(k.file("a"), os.O_RDONLY, lambda fd: os.pread(fd, 100, at))), data[at : at + 100]
    )


@case("read/open-flags", READ, aspect="request", level=Level.SHOULD, since=9,
      source="fuse.h 7.9: fuse_read_in.flags are the open file's")  # fmt: skip
def _(k: Bench) -> None:
    ground(k)
    k.ok(lambda: read(k.file("a"), os.O_RDWR | os.O_NONBLOCK))
    mask = os.O_ACCMODE | os.O_NONBLOCK
    k.equal("flags", oct(k.seen(READ)[0].head.flags & mask), oct(os.O_RDWR | os.O_NONBLOCK))


@case("read/lock-owner", READ, Opcode.FLUSH, aspect="request", level=Level.SHOULD, since=9,
      source="fuse.h: READ_LOCKOWNER where lock_owner is set; " + MEASURED + ": with direct reads")  # fmt: skip
def _(k: Bench) -> None:
    ground(k, open_flags=OpenFlag.DIRECT_IO)
    k.ok(lambda: read(k.file("a")))
    head = k.one(READ).head
    if head.read_flags & ReadFlag.LOCKOWNER:
        k.equal("lock_owner", head.lock_owner, k.one(Opcode.FLUSH).head.lock_owner)
    else:
        k.equal("lock_owner", head.lock_owner, 0)


@case("read/no-lock-owner-when-cached", READ, aspect="request", level=Level.PROFILE,
      source=MEASURED + ": what is read for the page cache has no owner")  # fmt: skip
def _(k: Bench) -> None:
    ground(k)
    k.ok(lambda: read(k.file("a")))
    k.equal("read_flags, lock_owner", (k.one(READ).head.read_flags, k.one(READ).head.lock_owner), (0, 0))


@case("read/nothing", READ, aspect="request", source="read(2): 0 bytes take nothing from anywhere")
def _(k: Bench) -> None:
    ground(k)
    k.equal("read", k.ok(lambda: read(k.file("a"), size=0)), b"")
    k.equal("READs", ranges(k), [])


# -- the end of a file -------------------------------------------------------------------------------------------------


@case("read/at-end", READ, aspect="reply", source="read(2): 0 at the end of file")
def _(k: Bench) -> None:
    ground(k)
    found = k.ok(lambda: opened(k.file("a"), os.O_RDONLY, lambda fd: [os.read(fd, 100) for _ in range(2)]))
    k.equal("read", found, [DIGITS, b""])


@case("read/beyond-end", READ, aspect="reply", source="pread(2): 0 beyond the end of file")
def _(k: Bench) -> None:
    ground(k)
    k.equal("read", k.ok(lambda: opened(k.file("a"), os.O_RDONLY, lambda fd: os.pread(fd, 100, 1 << 20))), b"")


@case("read/empty-file", READ, aspect="reply", source="read(2): 0 at the end of file")
def _(k: Bench) -> None:
    ground(k, b"")
    k.equal("read", k.ok(lambda: read(k.file("a"))), b"")


@case("read/not-past-size", READ, aspect="reply", level=Level.SHOULD,
      source="the page cache ends where the attributes say; " + MEASURED)  # fmt: skip
def _(k: Bench) -> None:
    ground(k)
    node = k.tree.at("a")
    k.answer(Opcode.LOOKUP, lambda request: k.tree.entry(node, size=4))
    k.equal("read", k.ok(lambda: read(k.file("a"))), DIGITS[:4])


@case(
    "read/short-answer-ends-file",
    READ,
    aspect="reply",
    level=Level.SHOULD,
    source="fuse.h, kernel documentation; fewer bytes than asked mean the end of file: no zeros in their place",
)
def _(k: Bench) -> None:
    ground(k)
    node = k.tree.at("a")
    k.answer(Opcode.LOOKUP, lambda request: k.tree.entry(node, size=100))
    k.answer(Opcode.GETATTR, lambda request: k.tree.attr_out(node), lambda r: r.header.nodeid == node.nodeid)
    k.equal("read", k.ok(lambda: read(k.file("a"))), DIGITS)


@case("read/short-answer-of-a-whole-page", READ, aspect="reply", level=Level.SHOULD,
      source="a file that shrank to whole pages ends at one")  # fmt: skip
def _(k: Bench) -> None:
    data = pattern(2 * PAGE)
    ground(k, data)
    node = k.tree.at("a")
    k.answer(Opcode.LOOKUP, lambda request: k.tree.entry(node, size=4 * PAGE))
    k.answer(Opcode.GETATTR, lambda request: k.tree.attr_out(node), lambda r: r.header.nodeid == node.nodeid)

    def work(fd: int) -> bytes:
        found = b""
        while part := os.read(fd, 1 << 20):
            found += part
        return found

    found = k.ok(lambda: opened(k.file("a"), os.O_RDONLY, work))
    k.equal("bytes read", len(found), len(data))
    k.true("the same bytes", found == data)


# -- the page cache ----------------------------------------------------------------------------------------------------


@case("read/cached", READ, aspect="cache", level=Level.SHOULD, source="fuse.h: without FOPEN_DIRECT_IO data is cached")
def _(k: Bench) -> None:
    ground(k)
    found = k.ok(lambda: opened(k.file("a"), os.O_RDONLY, lambda fd: [os.pread(fd, 10, 0) for _ in range(3)]))
    k.equal("read", found, [DIGITS] * 3)
    k.one(READ)


@case("read/cached-for-two-descriptors", READ, aspect="cache", level=Level.SHOULD,
      source="fuse.h: FOPEN_KEEP_CACHE; the cache is the inode's")  # fmt: skip
def _(k: Bench) -> None:
    ground(k, open_flags=OpenFlag.KEEP_CACHE)

    def work() -> list[bytes]:
        fds = [os.open(k.file("a"), os.O_RDONLY) for _ in range(2)]
        return [os.pread(fd, 10, 0) for fd in fds]

    k.equal("read", k.ok(work), [DIGITS] * 2)
    k.one(READ)


@case("read/no-reuse-cache", READ, aspect="cache", level=Level.SHOULD,
      source="posix_fadvise(2): POSIX_FADV_DONTNEED drops clean pages")  # fmt: skip
def _(k: Bench) -> None:
    ground(k)

    def work(fd: int) -> list[bytes]:
        first = os.pread(fd, 10, 0)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return [first, os.pread(fd, 10, 0)]

    k.equal("read", k.ok(lambda: opened(k.file("a"), os.O_RDONLY, work)), [DIGITS] * 2)
    k.equal("READ requests", len(k.seen(READ)), 2)


@case("read/o-direct", READ, aspect="request", level=Level.SHOULD,
      source="open(2): O_DIRECT bypasses the page cache; a READ is what read(2) asked for")  # fmt: skip
def _(k: Bench) -> None:
    ground(k, pattern(8 * PAGE))

    def work(fd: int) -> None:
        with mmap.mmap(-1, PAGE) as aligned:
            for _ in range(2):
                os.preadv(fd, [aligned], PAGE)

    k.ok(lambda: opened(k.file("a"), os.O_RDONLY | os.O_DIRECT, work))
    k.equal("READs", ranges(k), [(PAGE, PAGE)] * 2)


@case("read/access-time", READ, Opcode.SETATTR, aspect="other", level=Level.PROFILE,
      source=MEASURED + ": access times are the server's affair, reading sets none")  # fmt: skip
def _(k: Bench) -> None:
    ground(k)
    k.ok(lambda: read(k.file("a")))
    k.settle()
    k.equal("SETATTR requests", len(k.seen(Opcode.SETATTR)), 0)


# -- other calls, errors -----------------------------------------------------------------------------------------------


def _sendfile(fd: int) -> bytes:
    ends = os.pipe()
    fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, 1 << 20)
    count = os.sendfile(ends[1], fd, 3, 3 * PAGE)
    return os.read(ends[0], count)


def _splice(fd: int) -> bytes:
    ends = os.pipe()
    fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, 1 << 20)
    count = os.splice(fd, ends[1], 3 * PAGE, offset_src=3)
    return os.read(ends[0], count)


def _moved(name: str, work: Callable[[int], bytes], open_flags: int) -> None:
    @case(f"read/{name}", READ, aspect="reply", source="sendfile(2), splice(2) give what read(2) does")
    def _(k: Bench) -> None:
        data = pattern(4 * PAGE)
        ground(k, data, open_flags)
        found = k.ok(lambda: opened(k.file("a"), os.O_RDONLY, work))
        k.true("bytes", found, "none")
        k.true("the same bytes", data[3:].startswith(found), found[:32])


_moved("sendfile", _sendfile, 0)
_moved("sendfile-direct", _sendfile, DIRECT)
_moved("splice", _splice, 0)
_moved("splice-direct", _splice, DIRECT)


def _error(number: int, open_flags: int) -> None:
    kind = "direct-error" if open_flags else "error"
    aspect = "enosys" if number == errno.ENOSYS else "error"

    @case(f"read/{kind}-{errno.errorcode[number].lower()}", READ, aspect=aspect,
          source="fuse.h: out_header.error is the call's errno")  # fmt: skip
    def _(k: Bench) -> None:
        ground(k, open_flags=open_flags)
        k.answer(READ, -number)
        k.fails(number, lambda: read(k.file("a")), "read")


for _number in (errno.EIO, errno.ENOSYS, errno.EISDIR, errno.ENXIO):
    _error(_number, 0)
for _number in (errno.EIO, errno.EAGAIN, errno.EPERM):
    _error(_number, DIRECT)


@case("read/after-an-error", READ, aspect="error", source="an error of one READ is not kept for the next read(2)")
def _(k: Bench) -> None:
    ground(k)
    node = k.tree.at("a")
    broken = [True]
    k.answer(READ, lambda request: -errno.EIO if broken[0] else bytes(node.data))

    def work() -> Any:
        fd = os.open(k.file("a"), os.O_RDONLY)
        try:
            os.read(fd, 10)
        except OSError as bad:
            yield bad.errno
        yield os.read(fd, 10)

    steps = k.steps(work)
    k.equal("errno", steps.next(), errno.EIO)
    broken[0] = False
    k.equal("read", steps.next(), DIGITS)
    steps.end()


@case("read/error-behind-good-data", READ, aspect="error", level=Level.SHOULD,
      source="read(2): what was read before an error is returned, the error next time")  # fmt: skip
def _(k: Bench) -> None:
    ground(k, pattern(8 * PAGE), DIRECT, options=f"max_read={2 * PAGE}")
    k.answer(READ, -errno.EIO, lambda request: request.head.offset >= 2 * PAGE)
    k.equal("bytes", k.ok(lambda: len(read(k.file("a"), size=8 * PAGE))), 2 * PAGE)
