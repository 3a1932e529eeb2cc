"""Cases about READ: offsets and sizes, the end of a file, the page cache, read-ahead and limits."""

import errno
import fcntl
import mmap
import os
import threading
from collections.abc import Callable
from typing import Any

from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.steps import opened, read
from wire.flags import InitFlag, OpenFlag, ReadFlag
from wire.opcodes import Opcode

READ, OPEN = Opcode.READ, Opcode.OPEN
MEASURED = "measured on Linux 6.18"
PAGE = os.sysconf("SC_PAGE_SIZE")
DIGITS = b"0123456789"


def _pattern(size: int) -> bytes:
    """Bytes that tell where they stand."""
    return b"".join(at.to_bytes(8, "big") for at in range(0, size, 8))[:size]


def _ground(k: Bench, data: bytes = DIGITS, open_flags: int = 0, flags: int = 0, valid: int = 60, **init: Any) -> None:
    k.mount(flags, **init).tree.add("a", data)
    k.tree.open_flags = int(open_flags)
    k.tree.valid = valid


def _ranges(k: Bench) -> list[tuple[int, int]]:
    return [(each.head.offset, each.head.size) for each in k.seen(READ)]


@case("read/request", READ, aspect="request", source="fuse.h: fuse_read_in; read(2)")
def _(k: Bench) -> None:
    _ground(k)
    k.answer(OPEN, k.tree.opened(fh=5))
    k.equal("read", k.ok(lambda: read(k.file("a"))), DIGITS)
    request = k.seen(READ)[0]
    k.equal("nodeid, fh, offset", (request.header.nodeid, request.head.fh, request.head.offset),
            (k.tree.at("a").nodeid, 5, 0))  # fmt: skip
    k.true("size covers the file", request.head.size >= len(DIGITS), request.head.size)


@case("read/whole-pages", READ, aspect="request", level=Level.PROFILE,
      source=MEASURED + ": through the page cache a READ is whole pages")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.ok(lambda: opened(k.file("a"), os.O_RDONLY, lambda fd: os.pread(fd, 2, 3)))
    k.equal("READs", [(offset % PAGE, size % PAGE) for offset, size in _ranges(k)], [(0, 0)])


@case("read/at-offset", READ, aspect="reply", source="pread(2)")
def _(k: Bench) -> None:
    data = _pattern(10 * PAGE)
    _ground(k, data)
    at = 5 * PAGE - 3
    k.equal(
        "read", k.ok(lambda: opened(k.file("a"), os.O_RDONLY, lambda fd: os.pread(fd, 100, at))), data[at : at + 100]
    )


@case("read/open-flags", READ, aspect="request", level=Level.SHOULD, since=9,
      source="fuse.h 7.9: fuse_read_in.flags are the open file's")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.ok(lambda: read(k.file("a"), os.O_RDWR | os.O_NONBLOCK))
    mask = os.O_ACCMODE | os.O_NONBLOCK
    k.equal("flags", oct(k.seen(READ)[0].head.flags & mask), oct(os.O_RDWR | os.O_NONBLOCK))


@case("read/lock-owner", READ, Opcode.FLUSH, aspect="request", level=Level.SHOULD, since=9,
      source="fuse.h: READ_LOCKOWNER where lock_owner is set; " + MEASURED + ": with direct reads")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, open_flags=OpenFlag.DIRECT_IO)
    k.ok(lambda: read(k.file("a")))
    head = k.one(READ).head
    if head.read_flags & ReadFlag.LOCKOWNER:
        k.equal("lock_owner", head.lock_owner, k.one(Opcode.FLUSH).head.lock_owner)
    else:
        k.equal("lock_owner", head.lock_owner, 0)


@case("read/no-lock-owner-when-cached", READ, aspect="request", level=Level.PROFILE,
      source=MEASURED + ": what is read for the page cache has no owner")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.ok(lambda: read(k.file("a")))
    k.equal("read_flags, lock_owner", (k.one(READ).head.read_flags, k.one(READ).head.lock_owner), (0, 0))


@case("read/nothing", READ, aspect="request", source="read(2): 0 bytes take nothing from anywhere")
def _(k: Bench) -> None:
    _ground(k)
    k.equal("read", k.ok(lambda: read(k.file("a"), size=0)), b"")
    k.equal("READs", _ranges(k), [])


# -- the end of a file -------------------------------------------------------------------------------------------------


@case("read/at-end", READ, aspect="reply", source="read(2): 0 at the end of file")
def _(k: Bench) -> None:
    _ground(k)
    found = k.ok(lambda: opened(k.file("a"), os.O_RDONLY, lambda fd: [os.read(fd, 100) for _ in range(2)]))
    k.equal("read", found, [DIGITS, b""])


@case("read/beyond-end", READ, aspect="reply", source="pread(2): 0 beyond the end of file")
def _(k: Bench) -> None:
    _ground(k)
    k.equal("read", k.ok(lambda: opened(k.file("a"), os.O_RDONLY, lambda fd: os.pread(fd, 100, 1 << 20))), b"")


@case("read/empty-file", READ, aspect="reply", source="read(2): 0 at the end of file")
def _(k: Bench) -> None:
    _ground(k, b"")
    k.equal("read", k.ok(lambda: read(k.file("a"))), b"")


@case("read/not-past-size", READ, aspect="reply", level=Level.SHOULD,
      source="the page cache ends where the attributes say; " + MEASURED)  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
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
    _ground(k)
    node = k.tree.at("a")
    k.answer(Opcode.LOOKUP, lambda request: k.tree.entry(node, size=100))
    k.answer(Opcode.GETATTR, lambda request: k.tree.attr_out(node), lambda r: r.header.nodeid == node.nodeid)
    k.equal("read", k.ok(lambda: read(k.file("a"))), DIGITS)


@case("read/short-answer-of-a-whole-page", READ, aspect="reply", level=Level.SHOULD,
      source="a file that shrank to whole pages ends at one")  # fmt: skip
def _(k: Bench) -> None:
    data = _pattern(2 * PAGE)
    _ground(k, data)
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
    _ground(k)
    found = k.ok(lambda: opened(k.file("a"), os.O_RDONLY, lambda fd: [os.pread(fd, 10, 0) for _ in range(3)]))
    k.equal("read", found, [DIGITS] * 3)
    k.one(READ)


@case("read/cached-for-two-descriptors", READ, aspect="cache", level=Level.SHOULD,
      source="fuse.h: FOPEN_KEEP_CACHE; the cache is the inode's")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, open_flags=OpenFlag.KEEP_CACHE)

    def work() -> list[bytes]:
        fds = [os.open(k.file("a"), os.O_RDONLY) for _ in range(2)]
        return [os.pread(fd, 10, 0) for fd in fds]

    k.equal("read", k.ok(work), [DIGITS] * 2)
    k.one(READ)


@case("read/no-reuse-cache", READ, aspect="cache", level=Level.SHOULD,
      source="posix_fadvise(2): POSIX_FADV_DONTNEED drops clean pages")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)

    def work(fd: int) -> list[bytes]:
        first = os.pread(fd, 10, 0)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return [first, os.pread(fd, 10, 0)]

    k.equal("read", k.ok(lambda: opened(k.file("a"), os.O_RDONLY, work)), [DIGITS] * 2)
    k.equal("READ requests", len(k.seen(READ)), 2)


@case("read/o-direct", READ, aspect="request", level=Level.SHOULD,
      source="open(2): O_DIRECT bypasses the page cache; a READ is what read(2) asked for")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, _pattern(8 * PAGE))

    def work(fd: int) -> None:
        with mmap.mmap(-1, PAGE) as aligned:
            for _ in range(2):
                os.preadv(fd, [aligned], PAGE)

    k.ok(lambda: opened(k.file("a"), os.O_RDONLY | os.O_DIRECT, work))
    k.equal("READs", _ranges(k), [(PAGE, PAGE)] * 2)


@case("read/access-time", READ, Opcode.SETATTR, aspect="other", level=Level.PROFILE,
      source=MEASURED + ": access times are the server's affair, reading sets none")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.ok(lambda: read(k.file("a")))
    k.settle()
    k.equal("SETATTR requests", len(k.seen(Opcode.SETATTR)), 0)


# -- sizes and limits --------------------------------------------------------------------------------------------------


def _limited(name: str, open_flags: int, most: int, level: Level, source: str, options: str = "", flags: int = 0,
             **init: int) -> None:  # fmt: skip
    @case(f"read/{name}", READ, aspect="flag" if flags or init else "request", level=level, flags=flags, source=source)
    def _(k: Bench) -> None:
        data = _pattern(64 * PAGE)
        _ground(k, data, open_flags, flags, options=options, **init)
        found = k.ok(lambda: opened(k.file("a"), os.O_RDONLY, lambda fd: os.pread(fd, len(data), 0)))
        k.true("the same bytes", found == data, f"{len(found)} bytes")
        k.true(f"no READ of more than {most}", max(size for _, size in _ranges(k)) <= most, _ranges(k))


D = int(OpenFlag.DIRECT_IO)
_MAX_READ = "kernel documentation: the mount option max_read"
_limited("max-read", 0, 2 * PAGE, Level.MUST, _MAX_READ, f"max_read={2 * PAGE}")
_limited("max-read-direct", D, 2 * PAGE, Level.MUST, _MAX_READ, f"max_read={2 * PAGE}")
_limited("max-pages-direct", D, 8 * PAGE, Level.MUST, "fuse.h 7.28: MAX_PAGES and max_pages", "", InitFlag.MAX_PAGES,
         max_pages=8)  # fmt: skip
_limited("max-pages", 0, 8 * PAGE, Level.MUST, "fuse.h 7.28: MAX_PAGES and max_pages", "", InitFlag.MAX_PAGES,
         max_pages=8, max_readahead=1 << 20)  # fmt: skip
_limited("without-max-pages", D, 32 * PAGE, Level.MUST, "fuse.h 7.28: 32 pages without MAX_PAGES")


@case("read/large-direct", READ, aspect="flag", level=Level.SHOULD, since=28, flags=InitFlag.MAX_PAGES,
      source="fuse.h 7.28: MAX_PAGES, requests of more than 32 pages")  # fmt: skip
def _(k: Bench) -> None:
    data = _pattern(64 * PAGE)
    _ground(k, data, D, InitFlag.MAX_PAGES, max_pages=64)
    found = k.ok(lambda: opened(k.file("a"), os.O_RDONLY, lambda fd: os.pread(fd, len(data), 0)))
    k.true("the same bytes", found == data, f"{len(found)} bytes")
    k.true("a READ of more than 32 pages", max(size for _, size in _ranges(k)) > 32 * PAGE, _ranges(k))


def _ahead(most: int) -> None:
    @case(f"read/ahead-at-most-{most // PAGE}-pages", READ, aspect="flag", since=6,
          source="fuse.h: fuse_init_out.max_readahead; read-ahead goes no further in one request")  # fmt: skip
    def _(k: Bench) -> None:
        data = _pattern(128 * PAGE)
        _ground(k, data, max_readahead=most)

        def work(fd: int) -> bytes:
            return b"".join(os.read(fd, PAGE) for _ in range(64))

        found = k.ok(lambda: opened(k.file("a"), os.O_RDONLY, work))
        k.settle()
        k.true("the same bytes", found == data[: 64 * PAGE])
        k.true("no READ of more", max(size for _, size in _ranges(k)) <= max(most, PAGE), _ranges(k))


for _most in (0, 4 * PAGE, 16 * PAGE):
    _ahead(_most)


@case("read/ahead-happens", READ, aspect="flag", level=Level.SHOULD, since=6,
      source="fuse.h: max_readahead; who reads in order is read ahead of")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, _pattern(128 * PAGE), max_readahead=16 * PAGE)
    k.ok(lambda: opened(k.file("a"), os.O_RDONLY, lambda fd: [os.read(fd, PAGE) for _ in range(64)]))
    k.settle()
    k.true("fewer READs than read(2)s", len(k.seen(READ)) < 32, len(k.seen(READ)))


def _pipelined(name: str, flag: InitFlag | None, several: bool, level: Level, source: str) -> None:
    @case(f"read/{name}", READ, aspect="flag", level=level, since=6, flags=flag or 0, source=source)
    def _(k: Bench) -> None:
        _ground(k, _pattern(64 * PAGE), flags=flag or 0, options=f"max_read={4 * PAGE}", max_readahead=32 * PAGE)
        rule = k.hold(READ)
        client = k.start(lambda: opened(k.file("a"), os.O_RDONLY, lambda fd: len(os.read(fd, 16 * PAGE))))
        request = k.held(rule)
        if several:
            k.wait_for(READ, 2)
        else:
            k.true("it waits", not client.done(0.1))
            k.equal("READs before the first is answered", len(k.seen(READ)), 1)
        k.reply(request)
        k.equal("read", client.wait(k.patience).value, 16 * PAGE)


_pipelined("async", InitFlag.ASYNC_READ, True, Level.SHOULD,
           "fuse.h 7.6: ASYNC_READ, READs of one file at a time")  # fmt: skip
_pipelined("not-async", None, False, Level.SHOULD,
           "fuse.h 7.6: without ASYNC_READ no READ before the last is answered")  # fmt: skip


@case(
    "read/threads-share-a-position", READ, aspect="other", source="read(2): each byte is read once by who share a file"
)
def _(k: Bench) -> None:
    _ground(k, _pattern(16 * PAGE), D)

    def work(fd: int) -> list[bytes]:
        found: list[bytes] = []
        threads = [threading.Thread(target=lambda: found.append(os.read(fd, PAGE))) for _ in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        return sorted(found)

    k.equal("parts", k.ok(lambda: opened(k.file("a"), os.O_RDONLY, work)),
            [_pattern(16 * PAGE)[at * PAGE : (at + 1) * PAGE] for at in range(8)])  # fmt: skip


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
        data = _pattern(4 * PAGE)
        _ground(k, data, open_flags)
        found = k.ok(lambda: opened(k.file("a"), os.O_RDONLY, work))
        k.true("bytes", found, "none")
        k.true("the same bytes", data[3:].startswith(found), found[:32])


_moved("sendfile", _sendfile, 0)
_moved("sendfile-direct", _sendfile, D)
_moved("splice", _splice, 0)
_moved("splice-direct", _splice, D)


def _error(number: int, open_flags: int) -> None:
    kind = "direct-error" if open_flags else "error"
    aspect = "enosys" if number == errno.ENOSYS else "error"

    @case(f"read/{kind}-{errno.errorcode[number].lower()}", READ, aspect=aspect,
          source="fuse.h: out_header.error is the call's errno")  # fmt: skip
    def _(k: Bench) -> None:
        _ground(k, open_flags=open_flags)
        k.answer(READ, -number)
        k.fails(number, lambda: read(k.file("a")), "read")


for _number in (errno.EIO, errno.ENOSYS, errno.EISDIR, errno.ENXIO):
    _error(_number, 0)
for _number in (errno.EIO, errno.EAGAIN, errno.EPERM):
    _error(_number, D)


@case("read/after-an-error", READ, aspect="error", source="an error of one READ is not kept for the next read(2)")
def _(k: Bench) -> None:
    _ground(k)
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
    _ground(k, _pattern(8 * PAGE), D, options=f"max_read={2 * PAGE}")
    k.answer(READ, -errno.EIO, lambda request: request.head.offset >= 2 * PAGE)
    k.equal("bytes", k.ok(lambda: len(read(k.file("a"), size=8 * PAGE))), 2 * PAGE)
