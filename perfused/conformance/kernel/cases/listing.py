"""Cases about what listings leave behind: kept directories, and READDIRPLUS, whose entries are looked up already."""

import errno
import os

from perfused.conformance.kernel import seam
from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.cases.directories import ground, open_d, whole
from perfused.conformance.kernel.match import at_node, named
from perfused.conformance.kernel.tree import Tree
from wire import tails
from wire.flags import InitFlag, OpenFlag
from wire.message import Request
from wire.opcodes import Opcode

READDIR, READDIRPLUS, LOOKUP, GETATTR = Opcode.READDIR, Opcode.READDIRPLUS, Opcode.LOOKUP, Opcode.GETATTR
PLUS, AUTO = InitFlag.DO_READDIRPLUS, InitFlag.READDIRPLUS_AUTO
MEASURED = "measured on Linux 6.18"
# -- remembering -------------------------------------------------------------------------------------------------------

CACHED = int(OpenFlag.CACHE_DIR | OpenFlag.KEEP_CACHE)


def _twice(k: Bench, change: str = "") -> int:
    """List d twice, with a change between; how many READDIR requests the second time took."""
    k.ok(lambda: whole(open_d(k)))
    before = len(k.seen(READDIR))
    if change == "create":
        k.ok(lambda: os.close(os.open(k.file("d/z"), os.O_CREAT | os.O_WRONLY)))
    elif change == "mtime":
        k.tree.at("d").mtime += 5
    k.ok(lambda: whole(open_d(k)))
    return len(k.seen(READDIR)) - before


def _kept(name: str, open_flags: int, change: str, asked: bool, level: Level = Level.MUST) -> None:
    @case(f"readdir/{name}", READDIR, aspect="cache", level=level, since=28,
          source="fuse.h: FOPEN_CACHE_DIR, allow caching this directory; FOPEN_KEEP_CACHE")  # fmt: skip
    def _(k: Bench) -> None:
        tree = ground(k, ("a", "b"), open_flags)
        d = tree.at("d")
        k.answer(Opcode.GETATTR, lambda _: tree.attr_out(d), at_node(d.nodeid))
        requests = _twice(k, change)
        k.true(f"READDIR {'asks' if asked else 'does not ask'} again", bool(requests) == asked, f"{requests} requests")


_kept("not-kept-unasked", 0, "", True)
_kept("kept", CACHED, "", False)
_kept("not-kept-between-opens", int(OpenFlag.CACHE_DIR), "", True)
_kept("kept-until-mtime-changes", CACHED, "mtime", True)
_kept("kept-until-a-name-is-made", CACHED, "create", True)


@case("readdir/kept-is-complete", READDIR, aspect="cache", since=28, source="fuse.h: FOPEN_CACHE_DIR")
def _(k: Bench) -> None:
    names = tuple(f"name-of-an-entry-{number}" for number in range(1000))
    ground(k, names, CACHED)
    first = k.ok(lambda: whole(open_d(k)))
    before = len(k.seen(READDIR))
    k.equal("entries", k.ok(lambda: whole(open_d(k))), first)
    k.equal("requests, entries", (len(k.seen(READDIR)) - before, len(first)), (0, 1002))


@case("readdir/kept-and-sought", READDIR, aspect="cache", since=28, source="seekdir(3); fuse.h: FOPEN_CACHE_DIR")
def _(k: Bench) -> None:
    ground(k, ("a", "b", "c"), CACHED)

    def work() -> tuple[list[bytes], list[bytes]]:
        fd = open_d(k)
        found = whole(fd)
        os.lseek(fd, found[2][1], os.SEEK_SET)
        return [each[3] for each in found[3:]], [each[3] for each in whole(fd)]

    wanted, got = k.ok(work)
    k.equal("names behind the third", got, wanted)


# -- READDIRPLUS -------------------------------------------------------------------------------------------------------

ENTRY = "fuse.h: fuse_direntplus.entry_out is as a LOOKUP's"


def _plus(k: Bench, *names: str, valid: int = 60, flags: int = int(PLUS)) -> Tree:
    """A directory d with files, listed with READDIRPLUS."""
    tree = ground(k, names, flags=flags)
    tree.valid = valid
    return tree


def _list(k: Bench) -> list[str]:
    found: list[str] = k.ok(lambda: os.listdir(k.file("d")))
    return sorted(found)


def _lookups(k: Bench) -> int:
    return len(k.seen(LOOKUP, k.tree.at("d").nodeid))


@case(
    "readdirplus/request",
    READDIRPLUS,
    aspect="request",
    since=21,
    flags=PLUS,
    source="fuse.h: its body is fuse_read_in",
)
def _(k: Bench) -> None:
    tree = _plus(k, "a")
    k.answer(Opcode.OPENDIR, tree.opened(fh=31))
    _list(k)
    request = k.seen(READDIRPLUS)[0]
    k.equal("nodeid, fh, offset", (request.header.nodeid, request.head.fh, request.head.offset),
            (tree.at("d").nodeid, 31, 0))  # fmt: skip


@case("readdirplus/always", READDIRPLUS, READDIR, aspect="flag", since=21, flags=PLUS,
      source="fuse.h: FUSE_DO_READDIRPLUS, do READDIRPLUS; without READDIRPLUS_AUTO always")  # fmt: skip
def _(k: Bench) -> None:
    _plus(k, *(f"name-of-an-entry-{number}" for number in range(200)))
    k.equal("entries", len(_list(k)), 200)
    k.true("READDIRPLUS requests", len(k.seen(READDIRPLUS)) > 1)
    k.equal("READDIR requests", len(k.seen(READDIR)), 0)


@case(
    "readdirplus/not-unasked", READDIRPLUS, READDIR, aspect="flag", since=21, source="fuse.h: FUSE_DO_READDIRPLUS unset"
)
def _(k: Bench) -> None:
    _plus(k, "a", flags=0)
    _list(k)
    k.equal("READDIRPLUS requests", len(k.seen(READDIRPLUS)), 0)


@case(
    "readdirplus/names-and-types", READDIRPLUS, aspect="reply", since=21, flags=PLUS, source="fuse.h: fuse_direntplus"
)
def _(k: Bench) -> None:
    tree = _plus(k, "a", "b" * 255)
    tree.directory("d/e")
    found = {each[3]: each[2] for each in k.ok(lambda: whole(open_d(k)))}
    k.equal("types", found, {b".": 4, b"..": 4, b"a": 8, b"b" * 255: 8, b"e": 4})


@case("readdirplus/looked-up", READDIRPLUS, LOOKUP, aspect="cache", since=21, flags=PLUS, source=ENTRY)
def _(k: Bench) -> None:
    _plus(k, "a", "b")
    _list(k)
    k.ok(lambda: [os.stat(k.file(f"d/{name}")).st_ino for name in ("a", "b")])
    k.equal("LOOKUP requests", _lookups(k), 0)


@case("readdirplus/attributes", READDIRPLUS, GETATTR, aspect="cache", since=21, flags=PLUS, source=ENTRY)
def _(k: Bench) -> None:
    tree = _plus(k, "a")
    tree.at("d/a").data[:] = b"12345"
    _list(k)
    k.equal("size", k.ok(lambda: os.stat(k.file("d/a")).st_size), 5)
    k.equal("GETATTR requests", len(k.seen(GETATTR, tree.at("d/a").nodeid)), 0)


@case("readdirplus/not-valid", READDIRPLUS, LOOKUP, aspect="cache", since=21, flags=PLUS, source=ENTRY)
def _(k: Bench) -> None:
    _plus(k, "a", valid=0)
    _list(k)
    k.ok(lambda: os.stat(k.file("d/a")))
    k.true("a LOOKUP", _lookups(k))


def _one(k: Bench, **fields: int) -> None:
    """READDIRPLUS of d tells of a alone, with these fields of its entry_out."""
    node = k.tree.at("d/a")

    def answer(request: Request) -> bytes:
        if request.head.offset:
            return b""
        return tails.pack_direntplus(tails.Direntplus(k.tree.entry(node, **fields), node.nodeid, 1, 8, b"a"))

    k.answer(READDIRPLUS, answer)


@case("readdirplus/nodeid-zero", READDIRPLUS, LOOKUP, aspect="reply", since=21, flags=PLUS,
      source="fuse.h: an entry_out with nodeid 0 was not looked up; measured: listed all the same")  # fmt: skip
def _(k: Bench) -> None:
    _plus(k, "a")
    _one(k, nodeid=0)
    k.equal("entries", _list(k), ["a"])
    k.ok(lambda: os.stat(k.file("d/a")))
    k.equal("LOOKUP requests", _lookups(k), 1)


@case("readdirplus/makes-a-missing-name", READDIRPLUS, LOOKUP, aspect="cache", since=21, flags=PLUS, level=Level.SHOULD,
      source=ENTRY + "; it ends a name's absence")  # fmt: skip
def _(k: Bench) -> None:
    tree = _plus(k)
    k.answer(LOOKUP, lambda _: tree.entry(tree.at(""), nodeid=0), named(b"a"), times=1)
    k.fails(errno.ENOENT, lambda: os.stat(k.file("d/a")))
    tree.add("d/a")
    _list(k)
    k.ok(lambda: os.stat(k.file("d/a")))
    k.equal("LOOKUP requests", _lookups(k), 1)


@case("readdirplus/another-node", READDIRPLUS, LOOKUP, aspect="cache", since=21, flags=PLUS, level=Level.SHOULD,
      source=ENTRY + "; the newest answer counts")  # fmt: skip
def _(k: Bench) -> None:
    tree = _plus(k, "a")
    k.ok(lambda: os.stat(k.file("d/a")))
    tree.add("d/a", b"new")
    _list(k)
    k.equal("size", k.ok(lambda: os.stat(k.file("d/a")).st_size), 3)
    k.equal("LOOKUP requests", _lookups(k), 1)


@case("readdirplus/another-generation", READDIRPLUS, aspect="cache", since=21, flags=PLUS, level=Level.SHOULD,
      source="fuse.h: nodeid and generation together are unique for ever")  # fmt: skip
def _(k: Bench) -> None:
    tree = _plus(k, "a")
    k.ok(lambda: os.stat(k.file("d/a")))
    tree.at("d/a").data[:] = b"new"
    _one(k, generation=2)
    _list(k)
    k.equal("size", k.ok(lambda: os.stat(k.file("d/a")).st_size), 3)


@case("readdirplus/refreshes-attributes", READDIRPLUS, GETATTR, aspect="cache", since=21, flags=PLUS, source=ENTRY)
def _(k: Bench) -> None:
    tree = _plus(k, "a")
    k.equal("size", k.ok(lambda: os.stat(k.file("d/a")).st_size), 0)
    tree.at("d/a").data[:] = b"12345"
    _list(k)
    k.equal("size", k.ok(lambda: os.stat(k.file("d/a")).st_size), 5)


@case("readdirplus/error", READDIRPLUS, aspect="error", since=21, flags=PLUS, source="fuse.h: out_header.error")
def _(k: Bench) -> None:
    _plus(k, "a")
    k.answer(READDIRPLUS, -errno.EIO)
    k.fails(errno.EIO, lambda: os.listdir(k.file("d")))


@case("readdirplus/enosys", READDIRPLUS, READDIR, aspect="enosys", since=21, flags=PLUS, level=Level.PROFILE,
      source=MEASURED + ": the caller's, and asked again; READDIR does not stand in")  # fmt: skip
def _(k: Bench) -> None:
    _plus(k, "a")
    k.answer(READDIRPLUS, -errno.ENOSYS)
    for _ in range(2):
        k.fails(errno.ENOSYS, lambda: os.listdir(k.file("d")))
    k.equal("READDIRPLUS, READDIR requests", (len(k.seen(READDIRPLUS)), len(k.seen(READDIR))), (2, 0))


@case("readdirplus/several-requests", READDIRPLUS, aspect="request", since=21, flags=PLUS, source="fuse.h: dirent.off")
def _(k: Bench) -> None:
    _plus(k, *(f"name-of-an-entry-{number}" for number in range(400)))
    k.equal("how many different", len(set(_list(k))), 400)
    k.ok(lambda: os.stat(k.file("d/name-of-an-entry-399")))
    k.equal("LOOKUP requests", _lookups(k), 0)


@case(
    "readdirplus/auto-begins-with-it",
    READDIRPLUS,
    READDIR,
    aspect="flag",
    since=21,
    flags=PLUS | AUTO,
    level=Level.PROFILE,
    source=MEASURED + ": the first request, then READDIR while nobody looks at the entries",
)
def _(k: Bench) -> None:
    _plus(k, *(f"name-of-an-entry-{number}" for number in range(200)), flags=int(PLUS | AUTO))
    k.equal("entries", len(_list(k)), 200)
    order = [each.header.opcode for each in k.server.requests if each.header.opcode in (READDIR, READDIRPLUS)]
    k.equal("requests", (order[0], set(order[1:])), (READDIRPLUS, {READDIR}))


@case("readdirplus/auto-goes-on-where-entries-are-used", READDIRPLUS, READDIR, aspect="flag", since=21,
      flags=PLUS | AUTO, level=Level.PROFILE,
      source=MEASURED + ": stat(2) of an entry between two requests asks for READDIRPLUS again")  # fmt: skip
def _(k: Bench) -> None:
    _plus(k, *(f"name-of-an-entry-{number}" for number in range(200)), flags=int(PLUS | AUTO))

    def work() -> int:
        fd = open_d(k)
        found = len(seam.entries(fd, 1024))
        os.stat(k.file("d/name-of-an-entry-3"))
        return found + len(whole(fd))

    k.equal("entries", k.ok(work), 202)
    k.true("READDIRPLUS further on", any(each.head.offset for each in k.seen(READDIRPLUS)))
