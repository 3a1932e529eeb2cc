"""Cases about MKNOD, MKDIR, SYMLINK, READLINK and LINK: what is asked for, and what the caller gets."""

import errno
import os
import socket
import stat
from collections.abc import Callable

from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from wire.flags import InitFlag
from wire.opcodes import Opcode

MKNOD, MKDIR, SYMLINK, READLINK, LINK = Opcode.MKNOD, Opcode.MKDIR, Opcode.SYMLINK, Opcode.READLINK, Opcode.LINK
MEASURED = "measured on Linux 6.18"


def _socket(path: str) -> None:
    # sun_path is short: bind from the directory itself
    os.chdir(os.path.dirname(path))
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.basename(path))


KINDS: dict[str, tuple[int, Callable[[str], None]]] = {
    "regular": (stat.S_IFREG, lambda path: os.mknod(path, stat.S_IFREG | 0o640)),
    "fifo": (stat.S_IFIFO, lambda path: os.mkfifo(path, 0o640)),
    "socket": (stat.S_IFSOCK, _socket),
    "char": (stat.S_IFCHR, lambda path: os.mknod(path, stat.S_IFCHR | 0o640, os.makedev(1, 3))),
    "block": (stat.S_IFBLK, lambda path: os.mknod(path, stat.S_IFBLK | 0o640, os.makedev(7, 5))),
}


def _kind(name: str, kind: int, make: Callable[[str], None]) -> None:
    @case(f"mknod/{name}", MKNOD, aspect="request", source="fuse.h: fuse_mknod_in.mode holds the type")
    def _(k: Bench) -> None:
        k.mount()
        k.ok(lambda: make(k.file("z")))
        request = k.one(MKNOD)
        k.equal("nodeid, name", (request.header.nodeid, request.names), (1, (b"z",)))
        k.equal("type", stat.S_IFMT(request.head.mode), kind)
        k.equal("type as stat(2) tells it", stat.S_IFMT(k.ok(lambda: os.lstat(k.file("z")).st_mode)), kind)


for _name, (_type, _make) in KINDS.items():
    _kind(_name, _type, _make)


def _device(name: str, kind: int, major: int, minor: int) -> None:
    @case(f"mknod/rdev-{name}", MKNOD, aspect="request", source="fuse.h: fuse_mknod_in.rdev; kdev_t.h: new_encode_dev")
    def _(k: Bench) -> None:
        k.mount()
        k.ok(lambda: os.mknod(k.file("z"), kind | 0o600, os.makedev(major, minor)))
        k.equal("rdev", k.one(MKNOD).head.rdev, minor & 0xFF | major << 8 | (minor & ~0xFF) << 12)
        rdev = k.ok(lambda: os.stat(k.file("z")).st_rdev)
        k.equal("major, minor as stat(2) tells them", (os.major(rdev), os.minor(rdev)), (major, minor))


_device("char-small", stat.S_IFCHR, 1, 3)
_device("block-small", stat.S_IFBLK, 7, 5)
_device("char-wide", stat.S_IFCHR, 0xFFF, 0xFFFFF)
_device("block-wide", stat.S_IFBLK, 0x123, 0x45678)


@case("mknod/rdev-of-none", MKNOD, aspect="request", source="fuse.h: fuse_mknod_in.rdev is a device's alone")
def _(k: Bench) -> None:
    k.mount()
    k.ok(lambda: os.mkfifo(k.file("z")))
    k.equal("rdev", k.one(MKNOD).head.rdev, 0)


@case("mknod/not-allowed", MKNOD, aspect="error", level=Level.SHOULD, source="mknod(2): EPERM without CAP_MKNOD")
def _(k: Bench) -> None:
    k.mount(options="allow_other")
    k.fails(errno.EPERM, lambda: os.mknod(k.file("z"), stat.S_IFBLK | 0o600, 0x101), uid=1000)
    k.equal("MKNOD requests", len(k.seen(MKNOD)), 0)


# -- the umask ---------------------------------------------------------------------------------------------------------


def _masked(call: Callable[[str], object], mask: int = 0o027) -> Callable[[str], None]:
    def work(path: str) -> None:
        os.umask(mask)
        call(path)

    return work


MASKED: dict[str, tuple[Opcode, Callable[[str], object]]] = {
    "mknod": (MKNOD, lambda path: os.mkfifo(path, 0o777)),
    "mkdir": (MKDIR, lambda path: os.mkdir(path, 0o777)),
    "create": (Opcode.CREATE, lambda path: os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o777))),
    "tmpfile": (Opcode.TMPFILE, lambda path: os.close(os.open(os.path.dirname(path), os.O_TMPFILE | os.O_RDWR, 0o777))),
}


def _umask(name: str, opcode: Opcode, call: Callable[[str], object]) -> None:
    since = 37 if opcode == Opcode.TMPFILE else 12

    @case(f"{name}/umask-applied", opcode, aspect="request", since=since, source="fuse.h: without FUSE_DONT_MASK")
    def _(k: Bench) -> None:
        k.mount()
        k.ok(lambda: _masked(call)(k.file("z")))
        head = k.one(opcode).head
        k.equal("mode", f"{stat.S_IMODE(head.mode):o}", "750")
        k.equal("umask", f"{head.umask:o}", "27")

    @case(
        f"{name}/dont-mask", opcode, aspect="flag", since=since, flags=InitFlag.DONT_MASK,
        source="fuse.h: FUSE_DONT_MASK, don't apply umask to file mode on create operations",
    )  # fmt: skip
    def _(k: Bench) -> None:
        k.mount(flags=InitFlag.DONT_MASK)
        k.ok(lambda: _masked(call)(k.file("z")))
        head = k.one(opcode).head
        k.equal("mode", f"{stat.S_IMODE(head.mode):o}", "777")
        k.equal("umask", f"{head.umask:o}", "27")


for _name, (_opcode, _call) in MASKED.items():
    _umask(_name, _opcode, _call)


# -- MKDIR -------------------------------------------------------------------------------------------------------------


@case("mkdir/request", MKDIR, aspect="request", source="fuse.h: fuse_mkdir_in, the name behind it")
def _(k: Bench) -> None:
    tree = k.mount().tree
    parent = tree.directory("d")
    k.ok(lambda: os.mkdir(k.file("d/z"), 0o1755))
    request = k.one(MKDIR)
    k.equal("nodeid, name", (request.header.nodeid, request.names), (parent.nodeid, (b"z",)))
    k.equal("permissions", f"{stat.S_IMODE(request.head.mode):o}", "1755")


@case("mkdir/mode-without-type", MKDIR, aspect="request", level=Level.PROFILE, source=MEASURED + ": permissions alone")
def _(k: Bench) -> None:
    k.mount()
    k.ok(lambda: os.mkdir(k.file("z"), 0o700))
    k.equal("mode", f"{k.one(MKDIR).head.mode:o}", "700")


@case("mkdir/attributes-of-the-reply", MKDIR, aspect="reply", source="fuse.h: MKDIR's reply is a fuse_entry_out")
def _(k: Bench) -> None:
    tree = k.mount().tree
    k.answer(MKDIR, lambda _: tree.entry(tree.directory("z"), 60, mode=stat.S_IFDIR | 0o2711, uid=77))

    def work() -> tuple[int, int]:
        os.mkdir(k.file("z"))
        found = os.stat(k.file("z"))
        return found.st_mode, found.st_uid

    k.equal("mode, uid", k.ok(work), (stat.S_IFDIR | 0o2711, 77))


@case("mkdir/there-already", MKDIR, aspect="error", source="mkdir(2): EEXIST")
def _(k: Bench) -> None:
    k.mount().tree.directory("d")
    k.fails(errno.EEXIST, lambda: os.mkdir(k.file("d")))
    k.equal("MKDIR requests", len(k.seen(MKDIR)), 0)


@case("mkdir/usable-at-once", MKDIR, Opcode.CREATE, aspect="reply", source="fuse.h: fuse_entry_out.nodeid")
def _(k: Bench) -> None:
    k.mount()

    def work() -> list[str]:
        os.mkdir(k.file("z"))
        open(k.file("z/a"), "w").close()
        return os.listdir(k.file("z"))

    k.equal("entries", k.ok(work), ["a"])
    k.equal("nodeid of CREATE", k.one(Opcode.CREATE).header.nodeid, k.tree.at("z").nodeid)


# -- SYMLINK and READLINK ----------------------------------------------------------------------------------------------


@case("symlink/request", SYMLINK, aspect="request", source="fuse.h: SYMLINK's body is the name and the target")
def _(k: Bench) -> None:
    k.mount()
    k.ok(lambda: os.symlink("../some/where", k.file("z")))
    request = k.one(SYMLINK)
    k.equal("nodeid, names", (request.header.nodeid, request.names), (1, (b"z", b"../some/where")))
    k.equal("target", k.ok(lambda: os.readlink(k.file("z"))), "../some/where")


@case("symlink/longest-target", SYMLINK, aspect="request", source="symlink(2): PATH_MAX, 4096 with the NUL")
def _(k: Bench) -> None:
    k.mount()
    target = "t" * 4095
    k.ok(lambda: os.symlink(target, k.file("z")))
    k.equal("length", len(k.one(SYMLINK).names[1]), 4095)


@case("symlink/there-already", SYMLINK, aspect="error", source="symlink(2): EEXIST")
def _(k: Bench) -> None:
    k.mount().tree.add("a")
    k.fails(errno.EEXIST, lambda: os.symlink("x", k.file("a")))
    k.equal("SYMLINK requests", len(k.seen(SYMLINK)), 0)


@case("readlink/request", READLINK, aspect="request", source="fuse.h: READLINK has no body")
def _(k: Bench) -> None:
    node = k.mount().tree.add("l", b"somewhere", stat.S_IFLNK | 0o777)
    k.equal("target", k.ok(lambda: os.readlink(k.file("l"))), "somewhere")
    request = k.one(READLINK)
    k.equal("nodeid, length", (request.header.nodeid, request.header.len), (node.nodeid, 40))


@case("readlink/followed", READLINK, aspect="reply", source="path_resolution(7)")
def _(k: Bench) -> None:
    tree = k.mount().tree
    tree.directory("d")
    tree.add("d/a", b"12345")
    tree.add("l", b"d", stat.S_IFLNK | 0o777)
    k.equal("size through the link", k.ok(lambda: os.stat(k.file("l/a")).st_size), 5)


@case("readlink/loop", READLINK, aspect="error", source="path_resolution(7): ELOOP")
def _(k: Bench) -> None:
    k.mount().tree.add("l", b"l", stat.S_IFLNK | 0o777)
    k.fails(errno.ELOOP, lambda: os.stat(k.file("l")))


@case("readlink/absolute-leaves-the-mount", READLINK, aspect="reply", level=Level.SHOULD, source="path_resolution(7)")
def _(k: Bench) -> None:
    outside = os.path.join(k.directory, "outside")
    with open(outside, "w") as file:
        file.write("outside")
    k.mount().tree.add("l", outside.encode(), stat.S_IFLNK | 0o777)
    k.equal("content", k.ok(lambda: open(k.file("l")).read()), "outside")


@case(
    "readlink/asked-each-time", READLINK, aspect="cache", level=Level.SHOULD, source="fuse.h: FUSE_CACHE_SYMLINKS unset"
)
def _(k: Bench) -> None:
    node = k.mount().tree.add("l", b"first", stat.S_IFLNK | 0o777)
    k.tree.valid = 60
    k.ok(lambda: os.readlink(k.file("l")))
    node.data[:] = b"other"
    k.equal("target", k.ok(lambda: os.readlink(k.file("l"))), "other")
    k.equal("READLINK requests", len(k.seen(READLINK)), 2)


@case("readlink/cached", READLINK, aspect="flag", since=28, flags=InitFlag.CACHE_SYMLINKS,
      source="fuse.h: FUSE_CACHE_SYMLINKS, cache READLINK responses")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(flags=InitFlag.CACHE_SYMLINKS).tree.add("l", b"first", stat.S_IFLNK | 0o777)
    k.tree.valid = 60
    k.equal("targets", k.ok(lambda: [os.readlink(k.file("l")) for _ in range(3)]), ["first"] * 3)
    k.one(READLINK)


@case("readlink/cached-until-attributes-change", READLINK, aspect="cache", level=Level.PROFILE, since=28,
      flags=InitFlag.CACHE_SYMLINKS, source=MEASURED + ": another mtime alone changes nothing")  # fmt: skip
def _(k: Bench) -> None:
    node = k.mount(flags=InitFlag.CACHE_SYMLINKS).tree.add("l", b"first", stat.S_IFLNK | 0o777)
    k.ok(lambda: os.readlink(k.file("l")))
    node.data[:] = b"other"
    node.mtime += 10
    k.equal("target", k.ok(lambda: os.readlink(k.file("l"))), "first")


# -- LINK --------------------------------------------------------------------------------------------------------------


@case("link/request", LINK, aspect="request", source="fuse.h: fuse_link_in.oldnodeid; nodeid is the new directory")
def _(k: Bench) -> None:
    tree = k.mount().tree
    node, d = tree.add("a", b"123"), tree.directory("d")
    k.ok(lambda: os.link(k.file("a"), k.file("d/z")))
    request = k.one(LINK)
    k.equal("nodeid, name", (request.header.nodeid, request.names), (d.nodeid, (b"z",)))
    k.equal("oldnodeid", request.head.oldnodeid, node.nodeid)
    k.equal("same file", k.ok(lambda: os.path.samefile(k.file("a"), k.file("d/z"))), True)


@case("link/attributes-of-both", LINK, aspect="cache", source="fuse.h: LINK's reply is a fuse_entry_out")
def _(k: Bench) -> None:
    tree = k.mount().tree
    tree.valid = 60
    tree.add("a")

    def work() -> list[int]:
        before = os.stat(k.file("a")).st_nlink
        os.link(k.file("a"), k.file("z"))
        return [before, os.stat(k.file("a")).st_nlink, os.stat(k.file("z")).st_nlink]

    k.equal("st_nlink before, of the old name, of the new", k.ok(work), [1, 2, 2])


@case("link/not-a-directory", LINK, aspect="error", source="link(2): EPERM")
def _(k: Bench) -> None:
    k.mount().tree.directory("d")
    k.fails(errno.EPERM, lambda: os.link(k.file("d"), k.file("z")))
    k.equal("LINK requests", len(k.seen(LINK)), 0)


@case("link/reply-of-another-node", LINK, aspect="malformed", level=Level.PROFILE,
      source=MEASURED + ": the name is whatever node the reply has")  # fmt: skip
def _(k: Bench) -> None:
    tree = k.mount().tree
    tree.add("a")
    tree.valid = 60
    k.answer(LINK, lambda _: tree.entry(tree.add("z", b"12345")))
    k.ok(lambda: os.link(k.file("a"), k.file("z")))
    k.equal("size", k.ok(lambda: os.stat(k.file("z")).st_size), 5)
