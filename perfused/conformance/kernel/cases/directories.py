"""Cases about open directories: OPENDIR, READDIR, RELEASEDIR and FSYNCDIR."""

import errno
import os

from perfused.conformance.kernel import seam
from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.tree import Tree
from wire import tails
from wire.flags import InitFlag
from wire.message import Request
from wire.opcodes import Opcode

OPENDIR, READDIR, RELEASEDIR, FSYNCDIR = Opcode.OPENDIR, Opcode.READDIR, Opcode.RELEASEDIR, Opcode.FSYNCDIR
MEASURED = "measured on Linux 6.18"
DIRENT = "fuse.h: fuse_dirent"
READ_ONLY = os.O_RDONLY | os.O_DIRECTORY


def open_d(k: Bench, name: str = "d") -> int:
    """A descriptor of the directory d."""
    return os.open(k.file(name), READ_ONLY)


def ground(k: Bench, names: tuple[str, ...] = (), open_flags: int = 0, flags: int = 0) -> Tree:
    """A directory d, with files in it."""
    tree = k.mount(flags=flags).tree
    tree.directory("d")
    for name in names:
        tree.add(f"d/{name}")
    tree.open_flags = open_flags
    return tree


def whole(fd: int, size: int = 32768) -> list[tuple[int, int, int, bytes]]:
    """All entries from the descriptor's position on, by calls with room for `size` bytes (`seam.entries`)."""
    found = []
    while part := seam.entries(fd, size):
        found += part
    return found


def _cookies(k: Bench, names: list[bytes], cookies: list[int]) -> None:
    """READDIR with a server's own cookies: one entry a reply, where the cookie says."""

    def answer(request: Request) -> bytes:
        at = 0 if not request.head.offset else cookies.index(request.head.offset) + 1
        return tails.pack_dirent(tails.Dirent(100 + at, cookies[at], 8, names[at])) if at < len(names) else b""

    k.answer(READDIR, answer)


# -- opening -----------------------------------------------------------------------------------------------------------


@case("opendir/request", OPENDIR, aspect="request", source="fuse.h: OPENDIR's body is fuse_open_in")
def _(k: Bench) -> None:
    tree = ground(k)
    k.ok(lambda: os.close(open_d(k)))
    request = k.one(OPENDIR)
    k.equal("nodeid", request.header.nodeid, tree.at("d").nodeid)
    k.equal("access mode, open_flags", (request.head.flags & os.O_ACCMODE, request.head.open_flags), (os.O_RDONLY, 0))


@case("opendir/each-open", OPENDIR, RELEASEDIR, aspect="request", source="fuse.h: a handle for each open")
def _(k: Bench) -> None:
    tree = ground(k)
    handles = iter((71, 72))
    k.answer(OPENDIR, lambda _: tree.opened(fh=next(handles)))
    k.ok(lambda: list(map(os.close, [open_d(k), open_d(k)])))
    k.wait_for(RELEASEDIR, 2)
    k.equal("handles released", {each.head.fh for each in k.seen(RELEASEDIR)}, {71, 72})


@case("opendir/not-a-directory", OPENDIR, aspect="error", source="open(2): ENOTDIR")
def _(k: Bench) -> None:
    k.mount().tree.add("a")
    k.fails(errno.ENOTDIR, lambda: os.open(k.file("a"), READ_ONLY))
    k.equal("OPENDIR, OPEN requests", (len(k.seen(OPENDIR)), len(k.seen(Opcode.OPEN))), (0, 0))


@case("opendir/never-writable", OPENDIR, aspect="error", source="open(2): EISDIR")
def _(k: Bench) -> None:
    ground(k)
    k.fails(errno.EISDIR, lambda: os.open(k.file("d"), os.O_RDWR))
    k.equal("OPENDIR requests", len(k.seen(OPENDIR)), 0)


@case("opendir/path-only", OPENDIR, aspect="request", level=Level.SHOULD, source="open(2): O_PATH opens nothing")
def _(k: Bench) -> None:
    ground(k)
    k.ok(lambda: os.close(os.open(k.file("d"), os.O_PATH | os.O_DIRECTORY)))
    k.equal("OPENDIR requests", len(k.seen(OPENDIR)), 0)


@case(
    "opendir/handle-is-used", OPENDIR, READDIR, FSYNCDIR, RELEASEDIR, aspect="reply", source="fuse.h: fuse_open_out.fh"
)
def _(k: Bench) -> None:
    tree = ground(k, ("a",))
    k.answer(OPENDIR, tree.opened(fh=0x0123_4567_89AB_CDEF))

    def work() -> None:
        fd = open_d(k)
        os.listdir(fd)
        os.fsync(fd)
        os.close(fd)

    k.ok(work)
    for opcode in (READDIR, FSYNCDIR, RELEASEDIR):
        k.equal(f"fh of {opcode.name}", k.wait_for(opcode).head.fh, 0x0123_4567_89AB_CDEF)


@case("opendir/error-releases-nothing", OPENDIR, RELEASEDIR, aspect="error", source="fuse.h: no handle was given")
def _(k: Bench) -> None:
    tree = ground(k)
    k.answer(OPENDIR, -errno.EPERM, times=1)
    k.fails(errno.EPERM, lambda: open_d(k))
    k.answer(OPENDIR, tree.opened(fh=9))
    k.ok(lambda: os.close(open_d(k)))
    k.equal("fh of the first RELEASEDIR", k.wait_for(RELEASEDIR).head.fh, 9)


@case("opendir/without", OPENDIR, READDIR, RELEASEDIR, aspect="flag", since=29, level=Level.SHOULD,
      flags=InitFlag.NO_OPENDIR_SUPPORT, source="fuse.h: FUSE_NO_OPENDIR_SUPPORT, ENOSYS makes do without")  # fmt: skip
def _(k: Bench) -> None:
    ground(k, ("a",), flags=InitFlag.NO_OPENDIR_SUPPORT)
    k.answer(OPENDIR, -errno.ENOSYS)
    k.equal("entries", k.ok(lambda: [os.listdir(k.file("d")) for _ in range(2)]), [["a"], ["a"]])
    k.one(OPENDIR)
    k.equal("fh of READDIR", k.seen(READDIR)[0].head.fh, 0)
    k.equal("RELEASEDIR requests", len(k.seen(RELEASEDIR)), 0)


@case("opendir/without-is-cached", OPENDIR, READDIR, aspect="cache", level=Level.PROFILE, since=29,
      source=MEASURED + ": as with FOPEN_CACHE_DIR and FOPEN_KEEP_CACHE")  # fmt: skip
def _(k: Bench) -> None:
    ground(k, ("a",)).valid = 60
    k.answer(OPENDIR, -errno.ENOSYS)
    k.ok(lambda: os.listdir(k.file("d")))
    before = len(k.seen(READDIR))
    k.equal("entries", k.ok(lambda: os.listdir(k.file("d"))), ["a"])
    k.equal("READDIR requests for the second time", len(k.seen(READDIR)) - before, 0)


# -- closing and syncing -----------------------------------------------------------------------------------------------


@case("releasedir/last-descriptor", RELEASEDIR, aspect="request", source="fuse.h: fuse_release_in, once for an open")
def _(k: Bench) -> None:
    ground(k)

    def work() -> None:
        fd = open_d(k)
        os.close(os.dup(fd))
        os.close(fd)

    k.ok(work)
    request = k.wait_for(RELEASEDIR)
    k.one(RELEASEDIR)
    k.equal("release_flags", request.head.release_flags, 0)
    k.equal("nodeid", request.header.nodeid, k.tree.at("d").nodeid)


@case(
    "releasedir/error-is-nobodys",
    RELEASEDIR,
    aspect="error",
    level=Level.SHOULD,
    source=MEASURED + ": close(2) succeeds",
)
def _(k: Bench) -> None:
    ground(k)
    k.answer(RELEASEDIR, -errno.EIO)
    k.ok(lambda: os.close(open_d(k)))
    k.wait_for(RELEASEDIR)


@case("releasedir/enosys-asks-again", RELEASEDIR, aspect="enosys", level=Level.PROFILE, source=MEASURED)
def _(k: Bench) -> None:
    ground(k)
    k.answer(RELEASEDIR, -errno.ENOSYS)
    k.ok(lambda: list(map(os.close, [open_d(k), open_d(k)])))
    k.wait_for(RELEASEDIR, 2)


def _sync(name: str, call: str, flags: int) -> None:
    @case(f"fsyncdir/{name}", FSYNCDIR, aspect="request", since=2, source="fuse.h: fuse_fsync_in, FUSE_FSYNC_FDATASYNC")
    def _(k: Bench) -> None:
        tree = ground(k)
        k.ok(lambda: getattr(os, call)(open_d(k)))
        request = k.one(FSYNCDIR)
        k.equal("nodeid, flags", (request.header.nodeid, request.head.fsync_flags), (tree.at("d").nodeid, flags))
        k.equal("FSYNC requests", len(k.seen(Opcode.FSYNC)), 0)


_sync("fsync", "fsync", 0)
_sync("fdatasync", "fdatasync", 1)


# -- reading -----------------------------------------------------------------------------------------------------------


@case("readdir/request", READDIR, aspect="request", source="fuse.h: READDIR's body is fuse_read_in")
def _(k: Bench) -> None:
    tree = ground(k)
    k.ok(lambda: os.listdir(k.file("d")))
    request = k.seen(READDIR)[0]
    k.equal("nodeid, offset", (request.header.nodeid, request.head.offset), (tree.at("d").nodeid, 0))
    k.equal("read_flags, lock_owner", (request.head.read_flags, request.head.lock_owner), (0, 0))
    k.true("room for the longest name of POSIX", request.head.size >= 24 + 255, request.head.size)


@case("readdir/names", READDIR, aspect="reply", source=DIRENT)
def _(k: Bench) -> None:
    names = ("a", "b" * 255, "\u00fc", "with space", "exactly8")
    ground(k, names)
    k.equal("names", set(k.ok(lambda: os.listdir(k.file("d")))), set(names))


@case("readdir/inodes-and-types", READDIR, aspect="reply", source=DIRENT + ".ino, type: DT_*")
def _(k: Bench) -> None:
    ground(k)
    kinds = [1, 2, 4, 6, 8, 10, 12, 0]
    records = [tails.Dirent(2**40 + kind, at + 1, kind, b"n%d" % kind) for at, kind in enumerate(kinds)]
    body = b"".join(tails.pack_dirent(each) for each in records)
    k.answer(READDIR, lambda request: b"" if request.head.offset else body)
    found = k.ok(lambda: whole(open_d(k)))
    k.equal("inode and type", {each[3]: (each[0], each[2]) for each in found},
            {each.name: (each.ino, each.type) for each in records})  # fmt: skip


@case("readdir/adds-no-dots", READDIR, aspect="reply", level=Level.SHOULD, source=DIRENT)
def _(k: Bench) -> None:
    ground(k)
    _cookies(k, [b"a"], [1])
    k.equal("entries", [each[3] for each in k.ok(lambda: whole(open_d(k)))], [b"a"])


@case("readdir/empty", READDIR, aspect="reply", source="fuse.h: an empty reply is the end")
def _(k: Bench) -> None:
    ground(k)
    k.answer(READDIR, b"")
    k.equal("entries", k.ok(lambda: whole(open_d(k))), [])


@case("readdir/cookies", READDIR, aspect="request", source=DIRENT + ".off: where the next request begins")
def _(k: Bench) -> None:
    ground(k)
    cookies = [0x7FFF_FFFF_0000_0001, 5, 0x1_0000_0000, 77]
    _cookies(k, [b"a", b"b", b"c", b"d"], cookies)
    found = k.ok(lambda: whole(open_d(k)))
    k.equal("names", [each[3] for each in found], [b"a", b"b", b"c", b"d"])
    k.equal("positions told", [each[1] for each in found], cookies)
    k.equal("offsets asked for", [each.head.offset for each in k.seen(READDIR)][:5], [0, *cookies])


@case("readdir/several-requests", READDIR, aspect="request", source=DIRENT)
def _(k: Bench) -> None:
    names = tuple(f"name-of-an-entry-{number}" for number in range(2000))
    ground(k, names)
    found = k.ok(lambda: os.listdir(k.file("d")))
    k.equal("how many, how many different", (len(found), len(set(found))), (2000, 2000))
    k.true("several requests", len(k.seen(READDIR)) > 2, len(k.seen(READDIR)))
    offsets = [each.head.offset for each in k.seen(READDIR)]
    k.equal("offsets rise", offsets, sorted(offsets))


@case("readdir/little-room", READDIR, aspect="reply", source="getdents64(2): what does not fit comes next time")
def _(k: Bench) -> None:
    names = tuple(f"n{number:02}" for number in range(40))
    ground(k, names)
    found = [each[3] for each in k.ok(lambda: whole(open_d(k), 64))]
    k.equal("names", sorted(found), sorted([b".", b"..", *(name.encode() for name in names)]))


@case("readdir/too-little-room", READDIR, aspect="error", level=Level.SHOULD, source="getdents64(2): EINVAL")
def _(k: Bench) -> None:
    ground(k, ("a" * 100,))
    _cookies(k, [b"a" * 100], [1])
    k.fails(errno.EINVAL, lambda: seam.entries(open_d(k), 64))


@case("readdir/seek", READDIR, aspect="request", source="seekdir(3): a position of telldir(3) leads back there")
def _(k: Bench) -> None:
    ground(k)
    cookies = [1000, 2000, 3000]
    _cookies(k, [b"a", b"b", b"c"], cookies)

    def work() -> list[bytes]:
        fd = open_d(k)
        whole(fd)
        os.lseek(fd, 1000, os.SEEK_SET)
        return [each[3] for each in whole(fd)]

    k.equal("names from there on", k.ok(work), [b"b", b"c"])


@case("readdir/rewind", READDIR, aspect="request", source="rewinddir(3): what is there now")
def _(k: Bench) -> None:
    tree = ground(k, ("a",))
    rule = k.hold(OPENDIR, lambda _: len(k.seen(OPENDIR)) > 0)

    def work() -> list[list[bytes]]:
        fd = open_d(k)
        before = [each[3] for each in whole(fd)]
        os.close(open_d(k))
        os.lseek(fd, 0, os.SEEK_SET)
        return [before, [each[3] for each in whole(fd)]]

    client = k.start(work)
    request = k.held(rule)
    tree.add("d/b")
    k.reply(request)
    before, after = client.wait(k.patience).value
    k.equal("names", (sorted(before), sorted(after)), ([b".", b"..", b"a"], [b".", b"..", b"a", b"b"]))


@case("readdir/two-descriptors", READDIR, aspect="request", source="open(2): each open has its own position")
def _(k: Bench) -> None:
    tree = ground(k)
    handles = iter((1, 2))
    k.answer(OPENDIR, lambda _: tree.opened(fh=next(handles)))
    _cookies(k, [b"a", b"b"], [10, 20])

    def work() -> list[bytes]:
        one, two = open_d(k), open_d(k)
        found = []
        for fd in (one, two, one, two):
            found += [each[3] for each in seam.entries(fd, 40)]
        return found

    k.equal("names in turn", k.ok(work), [b"a", b"a", b"b", b"b"])
    k.equal("handles asked with", {each.head.fh for each in k.seen(READDIR)}, {1, 2})


@case("readdir/error-behind-entries", READDIR, aspect="error", source=DIRENT + "; what came before is told first")
def _(k: Bench) -> None:
    ground(k)
    _cookies(k, [b"a", b"b"], [1, 2])
    k.answer(READDIR, -errno.EIO, lambda request: request.head.offset == 1)

    def work() -> tuple[list[bytes], int]:
        fd = open_d(k)
        found = [each[3] for each in seam.entries(fd, 40)]
        try:
            seam.entries(fd)
        except OSError as bad:
            return found, bad.errno or 0
        return found, 0

    k.equal("names, then", k.ok(work), ([b"a"], errno.EIO))


@case("readdir/of-a-removed-directory", READDIR, aspect="error", level=Level.SHOULD, source="getdents64(2): ENOENT")
def _(k: Bench) -> None:
    ground(k)

    def work() -> None:
        fd = open_d(k)
        os.rmdir(k.file("d"))
        seam.entries(fd)

    k.fails(errno.ENOENT, work)
    k.equal("READDIR requests", len(k.seen(READDIR)), 0)


@case("readdir/does-not-look-up", READDIR, Opcode.LOOKUP, aspect="cache", source=DIRENT + " names no node")
def _(k: Bench) -> None:
    tree = ground(k, ("a",))
    k.ok(lambda: os.listdir(k.file("d")))
    k.ok(lambda: os.stat(k.file("d/a")))
    k.equal("LOOKUP of the name", len(k.seen(Opcode.LOOKUP, tree.at("d").nodeid)), 1)
