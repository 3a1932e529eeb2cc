"""Cases about READ: its largest size, and read-ahead."""

import os
import threading

from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.cases.reading import DIRECT, PAGE, READ, ground, pattern, ranges
from perfused.conformance.kernel.steps import opened
from wire.flags import InitFlag


def _limited(name: str, open_flags: int, most: int, level: Level, source: str, options: str = "", flags: int = 0,
             **init: int) -> None:  # fmt: skip
    @case(f"read/{name}", READ, aspect="flag" if flags or init else "request", level=level, flags=flags, source=source)
    def _(k: Bench) -> None:
        data = pattern(64 * PAGE)
        ground(k, data, open_flags, flags, options=options, **init)
        found = k.ok(lambda: opened(k.file("a"), os.O_RDONLY, lambda fd: os.pread(fd, len(data), 0)))
        k.true("the same bytes", found == data, f"{len(found)} bytes")
        k.true(f"no READ of more than {most}", max(size for _, size in ranges(k)) <= most, ranges(k))


_MAX_READ = "kernel documentation: the mount option max_read"
_limited("max-read", 0, 2 * PAGE, Level.MUST, _MAX_READ, f"max_read={2 * PAGE}")
_limited("max-read-direct", DIRECT, 2 * PAGE, Level.MUST, _MAX_READ, f"max_read={2 * PAGE}")
_MAX_PAGES = "fuse.h 7.28: MAX_PAGES and max_pages"
_limited("max-pages-direct", DIRECT, 8 * PAGE, Level.MUST, _MAX_PAGES, "", InitFlag.MAX_PAGES, max_pages=8)
_limited("max-pages", 0, 8 * PAGE, Level.MUST, _MAX_PAGES, "", InitFlag.MAX_PAGES,
         max_pages=8, max_readahead=1 << 20)  # fmt: skip
_limited("without-max-pages", DIRECT, 32 * PAGE, Level.MUST, "fuse.h 7.28: 32 pages without MAX_PAGES")


@case("read/large-direct", READ, aspect="flag", level=Level.SHOULD, since=28, flags=InitFlag.MAX_PAGES,
      source="fuse.h 7.28: MAX_PAGES, requests of more than 32 pages")  # fmt: skip
def _(k: Bench) -> None:
    data = pattern(64 * PAGE)
    ground(k, data, DIRECT, InitFlag.MAX_PAGES, max_pages=64)
    found = k.ok(lambda: opened(k.file("a"), os.O_RDONLY, lambda fd: os.pread(fd, len(data), 0)))
    k.true("the same bytes", found == data, f"{len(found)} bytes")
    k.true("a READ of more than 32 pages", max(size for _, size in ranges(k)) > 32 * PAGE, ranges(k))


def _ahead(most: int) -> None:
    @case(f"read/ahead-at-most-{most // PAGE}-pages", READ, aspect="flag", since=6,
          source="fuse.h: fuse_init_out.max_readahead; read-ahead goes no further in one request")  # fmt: skip
    def _(k: Bench) -> None:
        data = pattern(128 * PAGE)
        ground(k, data, max_readahead=most)

        def work(fd: int) -> bytes:
            return b"".join(os.read(fd, PAGE) for _ in range(64))

        found = k.ok(lambda: opened(k.file("a"), os.O_RDONLY, work))
        k.settle()
        k.true("the same bytes", found == data[: 64 * PAGE])
        k.true("no READ of more", max(size for _, size in ranges(k)) <= max(most, PAGE), ranges(k))


for _most in (0, 4 * PAGE, 16 * PAGE):
    _ahead(_most)


@case("read/ahead-happens", READ, aspect="flag", level=Level.SHOULD, since=6,
      source="fuse.h: max_readahead; who reads in order is read ahead of")  # fmt: skip
def _(k: Bench) -> None:
    ground(k, pattern(128 * PAGE), max_readahead=16 * PAGE)
    k.ok(lambda: opened(k.file("a"), os.O_RDONLY, lambda fd: [os.read(fd, PAGE) for _ in range(64)]))
    k.settle()
    k.true("fewer READs than read(2)s", len(k.seen(READ)) < 32, len(k.seen(READ)))


def _pipelined(name: str, flag: InitFlag | None, several: bool, level: Level, source: str) -> None:
    @case(f"read/{name}", READ, aspect="flag", level=level, since=6, flags=flag or 0, source=source)
    def _(k: Bench) -> None:
        ground(k, pattern(64 * PAGE), flags=flag or 0, options=f"max_read={4 * PAGE}", max_readahead=32 * PAGE)
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
    ground(k, pattern(16 * PAGE), DIRECT)

    def work(fd: int) -> list[bytes]:
        found: list[bytes] = []
        threads = [threading.Thread(target=lambda: found.append(os.read(fd, PAGE))) for _ in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        return sorted(found)

    k.equal("parts", k.ok(lambda: opened(k.file("a"), os.O_RDONLY, work)),
            [pattern(16 * PAGE)[at * PAGE : (at + 1) * PAGE] for at in range(8)])  # fmt: skip
