"""Cases about UNLINK, RMDIR, RENAME and RENAME2."""

import errno
import os
from collections.abc import Callable

from perfused.conformance.kernel import seam
from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.tree import Answer, Tree
from wire.message import Request
from wire.opcodes import Opcode

UNLINK, RMDIR, RENAME, RENAME2, LOOKUP = Opcode.UNLINK, Opcode.RMDIR, Opcode.RENAME, Opcode.RENAME2, Opcode.LOOKUP
MEASURED = "measured on Linux 6.18"
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4


def _tree(k: Bench, valid: int = 0, minor: int = 45) -> Tree:
    """a (a file), b (another), d with d/a, e (an empty directory)."""
    tree = k.mount(minor=minor).tree
    tree.add("a", b"1")
    tree.add("b", b"22")
    tree.directory("d")
    tree.add("d/a", b"333")
    tree.directory("e")
    tree.valid = valid
    return tree


def _size(k: Bench, name: str) -> int:
    found: int = k.ok(lambda: os.stat(k.file(name)).st_size)
    return found


def _gone(k: Bench, name: str) -> None:
    k.fails(errno.ENOENT, lambda: os.lstat(k.file(name)), f"stat of {name}")


# -- UNLINK and RMDIR --------------------------------------------------------------------------------------------------


@case("unlink/request", UNLINK, aspect="request", source="fuse.h: UNLINK's body is the name")
def _(k: Bench) -> None:
    tree = _tree(k)
    k.ok(lambda: os.unlink(k.file("d/a")))
    request = k.one(UNLINK)
    k.equal("nodeid, name", (request.header.nodeid, request.names), (tree.at("d").nodeid, (b"a",)))


@case("unlink/name-is-gone", UNLINK, LOOKUP, aspect="cache", source="unlink(2)")
def _(k: Bench) -> None:
    _tree(k, 60)
    k.ok(lambda: os.stat(k.file("a")))
    k.ok(lambda: os.unlink(k.file("a")))
    _gone(k, "a")


@case("unlink/failed-keeps-the-name", UNLINK, aspect="error", source="unlink(2): nothing happened")
def _(k: Bench) -> None:
    _tree(k, 60)
    k.answer(UNLINK, -errno.EBUSY)
    k.fails(errno.EBUSY, lambda: os.unlink(k.file("a")))
    k.equal("size", _size(k, "a"), 1)


@case("unlink/open-file-lives-on", UNLINK, aspect="reply", source="unlink(2): until the last descriptor is closed")
def _(k: Bench) -> None:
    tree = _tree(k)
    nodeid = tree.at("a").nodeid

    def work() -> tuple[bytes, int]:
        fd = os.open(k.file("a"), os.O_RDWR)
        os.unlink(k.file("a"))
        os.pwrite(fd, b"new", 0)
        return os.pread(fd, 10, 0), os.fstat(fd).st_nlink

    k.equal("content, links", k.ok(work), (b"new", 0))
    k.equal("nodeid of WRITE", k.wait_for(Opcode.WRITE).header.nodeid, nodeid)


@case("unlink/link-count-of-the-other-name", UNLINK, Opcode.GETATTR, aspect="cache", level=Level.SHOULD,
      source=MEASURED + ": one link less shows at once")  # fmt: skip
def _(k: Bench) -> None:
    tree = _tree(k, 60)
    tree.at("").entries[b"c"] = tree.at("a").nodeid
    tree.at("a").nlink = 2

    def work() -> list[int]:
        before = os.stat(k.file("c")).st_nlink
        os.unlink(k.file("a"))
        return [before, os.stat(k.file("c")).st_nlink]

    k.equal("st_nlink before and after", k.ok(work), [2, 1])


@case("unlink/not-a-directory", UNLINK, aspect="error", source="unlink(2): EISDIR")
def _(k: Bench) -> None:
    _tree(k)
    k.fails(errno.EISDIR, lambda: os.unlink(k.file("e")))
    k.equal("UNLINK requests", len(k.seen(UNLINK)), 0)


@case("unlink/not-there", UNLINK, aspect="error", source="unlink(2): ENOENT")
def _(k: Bench) -> None:
    _tree(k)
    k.fails(errno.ENOENT, lambda: os.unlink(k.file("z")))
    k.equal("UNLINK requests", len(k.seen(UNLINK)), 0)


@case("rmdir/request", RMDIR, aspect="request", source="fuse.h: RMDIR's body is the name")
def _(k: Bench) -> None:
    _tree(k)
    k.ok(lambda: os.rmdir(k.file("e")))
    request = k.one(RMDIR)
    k.equal("nodeid, name", (request.header.nodeid, request.names), (1, (b"e",)))


@case("rmdir/name-is-gone", RMDIR, LOOKUP, aspect="cache", source="rmdir(2)")
def _(k: Bench) -> None:
    _tree(k, 60)
    k.ok(lambda: os.stat(k.file("e")))
    k.ok(lambda: os.rmdir(k.file("e")))
    _gone(k, "e")


@case("rmdir/not-a-file", RMDIR, aspect="error", source="rmdir(2): ENOTDIR")
def _(k: Bench) -> None:
    _tree(k)
    k.fails(errno.ENOTDIR, lambda: os.rmdir(k.file("a")))
    k.equal("RMDIR requests", len(k.seen(RMDIR)), 0)


@case("rmdir/full", RMDIR, aspect="error", source="rmdir(2): ENOTEMPTY, which the server alone knows")
def _(k: Bench) -> None:
    _tree(k)
    k.fails(errno.ENOTEMPTY, lambda: os.rmdir(k.file("d")))
    k.one(RMDIR)
    k.equal("size", _size(k, "d/a"), 3)


@case("rmdir/nothing-is-made-in-it", RMDIR, Opcode.CREATE, aspect="error", source="rmdir(2); open(2): ENOENT")
def _(k: Bench) -> None:
    _tree(k)

    def work() -> None:
        os.chdir(k.file("e"))
        os.rmdir(k.file("e"))
        os.close(os.open("z", os.O_CREAT | os.O_WRONLY))

    k.fails(errno.ENOENT, work)
    k.equal("CREATE requests", len(k.seen(Opcode.CREATE)), 0)


# -- what a change does to the directory's own attributes --------------------------------------------------------------

CHANGES: dict[str, tuple[Opcode, Callable[[str], object]]] = {
    "create": (Opcode.CREATE, lambda d: os.close(os.open(f"{d}/z", os.O_CREAT | os.O_WRONLY))),
    "mknod": (Opcode.MKNOD, lambda d: os.mkfifo(f"{d}/z")),
    "mkdir": (Opcode.MKDIR, lambda d: os.mkdir(f"{d}/z")),
    "symlink": (Opcode.SYMLINK, lambda d: os.symlink("x", f"{d}/z")),
    "link": (Opcode.LINK, lambda d: os.link(f"{d}/a", f"{d}/z")),
    "unlink": (UNLINK, lambda d: os.unlink(f"{d}/a")),
    "rmdir": (RMDIR, lambda d: os.rmdir(f"{d}/e")),
    "rename": (RENAME, lambda d: os.rename(f"{d}/a", f"{d}/z")),
}


def _parent(name: str, opcode: Opcode, change: Callable[[str], object]) -> None:
    @case(f"attr-cache/directory-after-{name}", opcode, Opcode.GETATTR, aspect="cache", level=Level.SHOULD,
          source=MEASURED + ": the directory's attributes are asked for again")  # fmt: skip
    def _(k: Bench) -> None:
        tree = k.mount().tree
        d = tree.directory("d")
        tree.add("d/a")
        tree.directory("d/e")
        tree.valid = 60

        def work() -> list[float]:
            before = os.stat(k.file("d")).st_mtime
            change(k.file("d"))
            return [before, os.stat(k.file("d")).st_mtime]

        def answer(request: Request) -> Answer:
            d.mtime = 2_000_000_000
            return tree.answer(request)

        k.answer(opcode, answer)
        k.equal("st_mtime before and after", k.ok(work), [1_000_000_000, 2_000_000_000])


for _name, (_opcode, _change) in CHANGES.items():
    _parent(_name, _opcode, _change)


# -- RENAME ------------------------------------------------------------------------------------------------------------


@case(
    "rename/request", RENAME, aspect="request", source="fuse.h: fuse_rename_in.newdir, the old and the new name behind"
)
def _(k: Bench) -> None:
    tree = _tree(k)
    k.ok(lambda: os.rename(k.file("d/a"), k.file("e/z")))
    request = k.one(RENAME)
    k.equal("nodeid, newdir", (request.header.nodeid, request.head.newdir), (tree.at("d").nodeid, tree.at("e").nodeid))
    k.equal("names", request.names, (b"a", b"z"))


@case("rename/names-afterwards", RENAME, LOOKUP, aspect="cache", source="rename(2)")
def _(k: Bench) -> None:
    _tree(k, 60)
    k.ok(lambda: [os.stat(k.file(name)).st_ino for name in ("a", "e")])
    k.ok(lambda: os.rename(k.file("a"), k.file("e/z")))
    k.equal("size", _size(k, "e/z"), 1)
    _gone(k, "a")


@case("rename/over", RENAME, aspect="cache", source="rename(2): the new name is replaced")
def _(k: Bench) -> None:
    _tree(k, 60)
    k.equal("size before", _size(k, "b"), 2)
    k.ok(lambda: os.rename(k.file("a"), k.file("b")))
    k.equal("size", _size(k, "b"), 1)
    _gone(k, "a")


@case("rename/failed-changes-nothing", RENAME, aspect="error", source="rename(2)")
def _(k: Bench) -> None:
    _tree(k, 60)
    k.ok(lambda: [os.stat(k.file(name)).st_ino for name in ("a", "b")])
    k.answer(RENAME, -errno.EXDEV)
    k.fails(errno.EXDEV, lambda: os.rename(k.file("a"), k.file("b")))
    k.equal("sizes", (_size(k, "a"), _size(k, "b")), (1, 2))


@case("rename/directory-with-what-is-in-it", RENAME, aspect="cache", source="rename(2)")
def _(k: Bench) -> None:
    tree = _tree(k, 60)
    k.equal("size", _size(k, "d/a"), 3)
    k.ok(lambda: os.rename(k.file("d"), k.file("e/d")))
    k.equal("size", _size(k, "e/d/a"), 3)
    _gone(k, "d")
    k.equal("parent", tree.at("e/d").parent, tree.at("e").nodeid)


@case("rename/dotdot-afterwards", RENAME, aspect="cache", source="path_resolution(7): .. is the new parent")
def _(k: Bench) -> None:
    tree = _tree(k, 60)

    def work() -> int:
        os.chdir(k.file("d"))
        os.rename(k.file("d"), k.file("e/d"))
        return os.stat("..").st_ino

    k.equal("st_ino of ..", k.ok(work), tree.at("e").nodeid)


@case("rename/into-itself", RENAME, aspect="error", source="rename(2): EINVAL")
def _(k: Bench) -> None:
    _tree(k)
    k.fails(errno.EINVAL, lambda: os.rename(k.file("d"), k.file("d/z")))
    k.equal("RENAME requests", len(k.seen(RENAME)) + len(k.seen(RENAME2)), 0)


@case("rename/directory-over-file", RENAME, aspect="error", source="rename(2): ENOTDIR")
def _(k: Bench) -> None:
    _tree(k)
    k.fails(errno.ENOTDIR, lambda: os.rename(k.file("e"), k.file("a")))


@case("rename/file-over-directory", RENAME, aspect="error", source="rename(2): EISDIR")
def _(k: Bench) -> None:
    _tree(k)
    k.fails(errno.EISDIR, lambda: os.rename(k.file("a"), k.file("e")))


@case("rename/not-there", RENAME, aspect="error", source="rename(2): ENOENT")
def _(k: Bench) -> None:
    _tree(k)
    k.fails(errno.ENOENT, lambda: os.rename(k.file("z"), k.file("y")))
    k.equal("RENAME requests", len(k.seen(RENAME)), 0)


@case("rename/same-file-twice-named", RENAME, aspect="request", level=Level.SHOULD,
      source="rename(2): two links to one file, nothing happens")  # fmt: skip
def _(k: Bench) -> None:
    tree = _tree(k)
    tree.at("").entries[b"c"] = tree.at("a").nodeid
    k.ok(lambda: os.rename(k.file("a"), k.file("c")))
    k.equal("RENAME requests", len(k.seen(RENAME)), 0)
    k.equal("sizes", (_size(k, "a"), _size(k, "c")), (1, 1))


# -- RENAME2 -----------------------------------------------------------------------------------------------------------


def _rename2(k: Bench, old: str, new: str, flags: int) -> Callable[[], None]:
    call = seam.call("renameat2")
    return lambda: call(os.fsencode(k.file(old)), os.fsencode(k.file(new)), flags)


def _flag(name: str, flag: int, new: str) -> None:
    @case(f"rename2/request-{name}", RENAME2, aspect="request", since=23, source="fuse.h: fuse_rename2_in")
    def _(k: Bench) -> None:
        tree = _tree(k)
        k.ok(_rename2(k, "d/a", new, flag))
        request = k.one(RENAME2)
        k.equal("nodeid, newdir", (request.header.nodeid, request.head.newdir), (tree.at("d").nodeid, 1))
        k.equal("flags, padding, names", (request.head.flags, request.head.padding, request.names),
                (flag, 0, (b"a", new.encode())))  # fmt: skip
        k.equal("RENAME requests", len(k.seen(RENAME)), 0)


_flag("noreplace", NOREPLACE, "z")
_flag("exchange", EXCHANGE, "b")
_flag("whiteout", WHITEOUT, "z")


@case("rename2/without-flags-is-rename", RENAME, RENAME2, aspect="request", level=Level.SHOULD, since=23,
      source="fuse.h: RENAME is what every server has")  # fmt: skip
def _(k: Bench) -> None:
    _tree(k)
    k.ok(_rename2(k, "a", "z", 0))
    k.one(RENAME)
    k.equal("RENAME2 requests", len(k.seen(RENAME2)), 0)


@case("rename2/exchanged", RENAME2, aspect="cache", since=23, source="rename(2): RENAME_EXCHANGE")
def _(k: Bench) -> None:
    _tree(k, 60)
    k.equal("sizes before", (_size(k, "a"), _size(k, "d/a")), (1, 3))
    k.ok(_rename2(k, "a", "d/a", EXCHANGE))
    k.equal("sizes", (_size(k, "a"), _size(k, "d/a")), (3, 1))


@case("rename2/exchange-with-a-directory", RENAME2, aspect="cache", since=23, source="rename(2): RENAME_EXCHANGE")
def _(k: Bench) -> None:
    _tree(k, 60)
    k.ok(lambda: [os.stat(k.file(name)).st_ino for name in ("a", "d")])
    k.ok(_rename2(k, "a", "d", EXCHANGE))
    k.equal("sizes", (_size(k, "a/a"), _size(k, "d")), (3, 1))


@case(
    "rename2/noreplace-there-already", RENAME2, aspect="error", since=23, source="rename(2): RENAME_NOREPLACE, EEXIST"
)
def _(k: Bench) -> None:
    _tree(k)
    k.fails(errno.EEXIST, _rename2(k, "a", "b", NOREPLACE))
    k.equal("RENAME2 requests", len(k.seen(RENAME2)), 0)


@case("rename2/exchange-with-nothing", RENAME2, aspect="error", since=23, source="rename(2): RENAME_EXCHANGE, ENOENT")
def _(k: Bench) -> None:
    _tree(k)
    k.fails(errno.ENOENT, _rename2(k, "a", "z", EXCHANGE))
    k.equal("RENAME2 requests", len(k.seen(RENAME2)), 0)


@case("rename2/unknown-flag", RENAME2, aspect="error", since=23, level=Level.SHOULD, source="rename(2): EINVAL")
def _(k: Bench) -> None:
    _tree(k)
    k.fails(errno.EINVAL, _rename2(k, "a", "z", 0x80))
    k.equal("RENAME2 requests", len(k.seen(RENAME2)), 0)


@case(
    "rename2/enosys-leaves-rename",
    RENAME2,
    RENAME,
    aspect="enosys",
    since=23,
    source="fuse.h: RENAME is another opcode",
)
def _(k: Bench) -> None:
    _tree(k)
    k.answer(RENAME2, -errno.ENOSYS)
    k.fails(errno.EINVAL, _rename2(k, "a", "z", NOREPLACE))
    k.ok(lambda: os.rename(k.file("a"), k.file("z")))
    k.one(RENAME)


@case(
    "rename2/einval-does-not-stick",
    RENAME2,
    aspect="error",
    since=23,
    source="fuse.h: ENOSYS alone says what a server lacks",
)
def _(k: Bench) -> None:
    _tree(k)
    k.answer(RENAME2, -errno.EINVAL)
    for _ in range(2):
        k.fails(errno.EINVAL, _rename2(k, "a", "z", NOREPLACE))
    k.equal("RENAME2 requests", len(k.seen(RENAME2)), 2)
