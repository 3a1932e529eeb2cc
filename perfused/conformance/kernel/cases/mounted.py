"""Cases about a mount as a whole: STATFS, read-only mounts, special files, and handles that outlive their names."""

import errno
import os
import select
import socket
import stat
from collections.abc import Callable

from perfused.conformance.kernel import seam
from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.match import named
from perfused.conformance.kernel.tree import Node
from wire import codec
from wire.flags import InitFlag
from wire.opcodes import Opcode

STATFS, LOOKUP = Opcode.STATFS, Opcode.LOOKUP
MEASURED = "measured on Linux 6.18"
MS_RDONLY, MS_REMOUNT, MS_NODEV = 1, 32, 4

# -- STATFS ------------------------------------------------------------------------------------------------------------


@case("statfs/request", STATFS, aspect="request", source="fuse.h: STATFS has no body")
def _(k: Bench) -> None:
    k.mount()
    k.ok(lambda: os.statvfs(k.path))
    request = k.one(STATFS)
    k.equal("nodeid, length", (request.header.nodeid, request.header.len), (1, 40))


@case(
    "statfs/of-a-file", STATFS, aspect="request", level=Level.PROFILE, source=MEASURED + ": about the node of the path"
)
def _(k: Bench) -> None:
    node = k.mount().tree.add("a")
    k.ok(lambda: os.statvfs(k.file("a")))
    k.equal("nodeid", k.one(STATFS).header.nodeid, node.nodeid)


@case("statfs/reply", STATFS, aspect="reply", source="fuse.h: fuse_kstatfs")
def _(k: Bench) -> None:
    k.mount()
    given = {
        "blocks": 2**40 + 1, "bfree": 2**39 + 2, "bavail": 2**38 + 3, "files": 2**33 + 4, "ffree": 2**32 + 5,
        "bsize": 8192, "namelen": 200, "frsize": 2048,
    }  # fmt: skip
    k.answer(STATFS, codec.kstatfs.build(codec.kstatfs.make(**given)))
    found = k.ok(lambda: os.statvfs(k.path))
    names = {"bsize": "f_bsize", "namelen": "f_namemax"}
    k.equal("what statvfs(3) tells", {key: getattr(found, names.get(key, f"f_{key}")) for key in given}, given)


@case("statfs/never-kept", STATFS, aspect="cache", level=Level.SHOULD, source="fuse.h: no timeout goes with it")
def _(k: Bench) -> None:
    k.mount()
    k.ok(lambda: [os.statvfs(k.path).f_bfree for _ in range(2)])
    k.equal("STATFS requests", len(k.seen(STATFS)), 2)


@case("statfs/after-the-end", STATFS, aspect="death", source="fuse.rst: ENOTCONN once the connection ended")
def _(k: Bench) -> None:
    k.mount()
    k.ok(lambda: os.statvfs(k.path))
    seam.connection_control(k.path, "abort").write_text("1")
    k.true("the device ended", k.server.join(k.patience))
    k.fails(errno.ENOTCONN, lambda: os.statvfs(k.path))


@case("statfs/end-while-it-waits", STATFS, aspect="death", level=Level.SHOULD, source=MEASURED + ": ECONNABORTED")
def _(k: Bench) -> None:
    k.mount()
    rule = k.hold(STATFS)
    client = k.start(lambda: os.statvfs(k.path))
    k.held(rule)
    seam.connection_control(k.path, "abort").write_text("1")
    k.equal("errno", client.wait(k.patience).errno, errno.ECONNABORTED)


# -- read-only mounts --------------------------------------------------------------------------------------------------

CHANGES: dict[str, tuple[Opcode, Callable[[str], object]]] = {
    "create": (Opcode.CREATE, lambda d: os.open(f"{d}/z", os.O_CREAT | os.O_WRONLY)),
    "open-for-writing": (Opcode.OPEN, lambda d: os.open(f"{d}/a", os.O_WRONLY)),
    "mknod": (Opcode.MKNOD, lambda d: os.mkfifo(f"{d}/z")),
    "mkdir": (Opcode.MKDIR, lambda d: os.mkdir(f"{d}/z")),
    "symlink": (Opcode.SYMLINK, lambda d: os.symlink("x", f"{d}/z")),
    "link": (Opcode.LINK, lambda d: os.link(f"{d}/a", f"{d}/z")),
    "unlink": (Opcode.UNLINK, lambda d: os.unlink(f"{d}/a")),
    "rmdir": (Opcode.RMDIR, lambda d: os.rmdir(f"{d}/d")),
    "rename": (Opcode.RENAME, lambda d: os.rename(f"{d}/a", f"{d}/z")),
    "tmpfile": (Opcode.TMPFILE, lambda d: os.open(d, os.O_TMPFILE | os.O_RDWR)),
    "chown": (Opcode.SETATTR, lambda d: os.chown(f"{d}/a", 1, 1)),
    "truncate": (Opcode.SETATTR, lambda d: os.truncate(f"{d}/a", 0)),
    "utimes": (Opcode.SETATTR, lambda d: os.utime(f"{d}/a", (1, 1))),
    "setxattr": (Opcode.SETXATTR, lambda d: os.setxattr(f"{d}/a", "user.x", b"1")),
    "removexattr": (Opcode.REMOVEXATTR, lambda d: os.removexattr(f"{d}/a", "user.x")),
}


def _read_only(name: str, opcode: Opcode, change: Callable[[str], object]) -> None:
    @case(f"readonly/{name}", opcode, aspect="error", since=37 if opcode == Opcode.TMPFILE else 1,
          source="mount(2): MS_RDONLY, EROFS")  # fmt: skip
    def _(k: Bench) -> None:
        tree = k.mount(mount_flags=MS_RDONLY).tree
        tree.add("a")
        tree.directory("d")
        k.fails(errno.EROFS, lambda: change(k.path))
        k.equal(f"{opcode.name} requests", len(k.seen(opcode)), 0)


for _name, (_opcode, _change) in CHANGES.items():
    _read_only(_name, _opcode, _change)


@case("readonly/access", Opcode.ACCESS, aspect="error", source="access(2): EROFS, without asking")
def _(k: Bench) -> None:
    node = k.mount(mount_flags=MS_RDONLY).tree.add("a")
    k.equal("writable, readable", k.ok(lambda: [os.access(k.file("a"), mode) for mode in (2, 4)]), [False, True])
    k.equal("masks asked for", {each.head.mask & 2 for each in k.seen(Opcode.ACCESS, node.nodeid)} - {0}, set())


@case("readonly/reads", Opcode.OPEN, Opcode.READ, aspect="other", source="mount(2): MS_RDONLY refuses changes alone")
def _(k: Bench) -> None:
    k.mount(mount_flags=MS_RDONLY).tree.add("a", b"content")
    k.equal("content", k.ok(lambda: open(k.file("a"), "rb").read()), b"content")


@case("readonly/from-now-on", Opcode.MKDIR, aspect="other", level=Level.SHOULD, source="mount(2): MS_REMOUNT")
def _(k: Bench) -> None:
    k.mount()
    k.ok(lambda: os.mkdir(k.file("y")))
    seam.mount("conformance", k.path, "fuse.conformance", MS_REMOUNT | MS_RDONLY, "")
    k.fails(errno.EROFS, lambda: os.mkdir(k.file("z")))
    seam.mount("conformance", k.path, "fuse.conformance", MS_REMOUNT, "")
    k.ok(lambda: os.mkdir(k.file("z")))


# -- special files -----------------------------------------------------------------------------------------------------

IO = (Opcode.OPEN, Opcode.READ, Opcode.WRITE, Opcode.FLUSH, Opcode.RELEASE)


def _silent(k: Bench, node: Node) -> None:
    asked = [each.header.opcode for each in k.server.requests if each.header.nodeid == node.nodeid]
    k.equal("requests about its data", [each for each in asked if each in IO], [])


@case("special/fifo", *IO, aspect="other", source="fifo(7): the kernel's own")
def _(k: Bench) -> None:
    node = k.mount().tree.add("f", mode=stat.S_IFIFO | 0o666)

    def work() -> bytes:
        fd = os.open(k.file("f"), os.O_RDWR)
        os.write(fd, b"through")
        said = os.read(fd, 20)
        os.close(fd)
        return said

    k.equal("what comes out", k.ok(work), b"through")
    _silent(k, node)


@case("special/socket", *IO, aspect="other", source="unix(7): the kernel's own")
def _(k: Bench) -> None:
    k.mount()

    def work() -> bytes:
        os.chdir(k.path)
        with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as calling:
            listening.bind("s")
            listening.listen()
            calling.connect("s")
            heard, _ = listening.accept()
            calling.sendall(b"through")
            select.select([heard], [], [], 5)
            return heard.recv(20)

    k.equal("what comes out", k.ok(work), b"through")
    _silent(k, k.tree.at("s"))


@case("special/socket-is-not-opened", Opcode.OPEN, aspect="error", level=Level.SHOULD, source="open(2): ENXIO")
def _(k: Bench) -> None:
    node = k.mount().tree.add("s", mode=stat.S_IFSOCK | 0o666)
    k.fails(errno.ENXIO, lambda: os.open(k.file("s"), os.O_RDONLY))
    _silent(k, node)


@case("special/device", *IO, aspect="other", source="null(4): the device's driver, not the server")
def _(k: Bench) -> None:
    node = k.mount().tree.add("n", mode=stat.S_IFCHR | 0o666, rdev=1 << 8 | 3)

    def work() -> tuple[int, bytes]:
        fd = os.open(k.file("n"), os.O_RDWR)
        return os.write(fd, b"gone"), os.read(fd, 10)

    k.equal("written, read", k.ok(work), (4, b""))
    _silent(k, node)


@case("special/device-on-nodev", Opcode.OPEN, aspect="error", source="mount(2): MS_NODEV, EACCES")
def _(k: Bench) -> None:
    node = k.mount(mount_flags=MS_NODEV).tree.add("n", mode=stat.S_IFCHR | 0o666, rdev=1 << 8 | 3)
    k.fails(errno.EACCES, lambda: os.open(k.file("n"), os.O_RDWR))
    _silent(k, node)


# -- handles -----------------------------------------------------------------------------------------------------------

EXPORT = InitFlag.EXPORT_SUPPORT
DOTS = "fuse.h: FUSE_EXPORT_SUPPORT, filesystem handles lookups of . and .."


def _by_handle(k: Bench, handle: bytes) -> Callable[[], int]:
    def work() -> int:
        mount = os.open(k.path, os.O_RDONLY | os.O_DIRECTORY)
        fd = seam.open_by_handle(mount, handle, os.O_RDONLY)
        return os.fstat(fd).st_ino

    return work


def _forget(k: Bench, name: bytes) -> None:
    """Have the kernel forget a name of the root's, so that a handle finds nothing kept."""
    k.server.notify(3, codec.notify_inval_entry_out.pack(1, len(name), 0) + name + b"\0")


@case("handle/looks-up-dot", LOOKUP, aspect="flag", since=10, flags=EXPORT, source=DOTS)
def _(k: Bench) -> None:
    node = k.mount(flags=EXPORT).tree.directory("d")
    handle = k.ok(lambda: seam.file_handle(k.file("d")))
    _forget(k, b"d")
    k.equal("st_ino", k.ok(_by_handle(k, handle)), node.nodeid)
    asked = [each for each in k.seen(LOOKUP) if named(b".")(each)]
    k.equal("LOOKUP of .", {each.header.nodeid for each in asked}, {node.nodeid})


@case("handle/looks-up-dotdot", LOOKUP, aspect="flag", since=10, flags=EXPORT, source=DOTS)
def _(k: Bench) -> None:
    tree = k.mount(flags=EXPORT).tree
    parent = tree.directory("d")
    node = tree.directory("d/e")
    handle = k.ok(lambda: seam.file_handle(k.file("d/e")))
    _forget(k, b"d")
    k.equal("st_ino", k.ok(_by_handle(k, handle)), node.nodeid)
    asked = {each.header.nodeid for each in k.seen(LOOKUP) if named(b"..")(each)}
    k.true("LOOKUP of .. of it", asked <= {node.nodeid, parent.nodeid} and node.nodeid in asked, asked)


@case("handle/kept", LOOKUP, aspect="cache", since=10, flags=EXPORT, level=Level.SHOULD, source=MEASURED)
def _(k: Bench) -> None:
    tree = k.mount(flags=EXPORT).tree
    tree.valid = 60
    node = tree.directory("d")
    handle = k.ok(lambda: seam.file_handle(k.file("d")))
    k.equal("st_ino", k.ok(_by_handle(k, handle)), node.nodeid)
    k.equal("LOOKUP of .", [each for each in k.seen(LOOKUP) if named(b".")(each)], [])


@case(
    "handle/another-generation", LOOKUP, aspect="error", since=10, flags=EXPORT, source="open_by_handle_at(2): ESTALE"
)
def _(k: Bench) -> None:
    tree = k.mount(flags=EXPORT).tree
    node = tree.directory("d")
    k.answer(LOOKUP, lambda _: tree.entry(node, generation=1), named(b"d"))
    handle = k.ok(lambda: seam.file_handle(k.file("d")))
    _forget(k, b"d")
    k.answer(LOOKUP, lambda _: tree.entry(node, generation=2), named(b"."))
    k.fails(errno.ESTALE, _by_handle(k, handle))


@case("handle/gone", LOOKUP, aspect="error", since=10, flags=EXPORT, source="open_by_handle_at(2): ESTALE")
def _(k: Bench) -> None:
    k.mount(flags=EXPORT).tree.directory("d")
    handle = k.ok(lambda: seam.file_handle(k.file("d")))
    _forget(k, b"d")
    k.answer(LOOKUP, -errno.ENOENT, named(b"."))
    k.fails(errno.ESTALE, _by_handle(k, handle))


@case("handle/not-exported", LOOKUP, aspect="flag", since=10, source=DOTS)
def _(k: Bench) -> None:
    k.mount().tree.directory("d")
    handle = k.ok(lambda: seam.file_handle(k.file("d")))
    _forget(k, b"d")
    k.fails(errno.ESTALE, _by_handle(k, handle))
    k.equal("LOOKUP of .", [each for each in k.seen(LOOKUP) if named(b".")(each)], [])


@case("handle/no-export-support", LOOKUP, aspect="flag", since=40, flags=InitFlag.NO_EXPORT_SUPPORT,
      source="fuse.h: FUSE_NO_EXPORT_SUPPORT, explicitly disable export support")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(flags=InitFlag.NO_EXPORT_SUPPORT).tree.directory("d")
    k.fails(errno.EOPNOTSUPP, lambda: seam.file_handle(k.file("d")))


@case(
    "handle/wide-numbers",
    LOOKUP,
    aspect="reply",
    since=10,
    flags=EXPORT,
    source="fuse.h: nodeid and generation, 64 bits",
)
def _(k: Bench) -> None:
    tree = k.mount(flags=EXPORT).tree
    node = tree.directory("d")
    wide = {"nodeid": 2**63 + 5, "generation": 2**32 + 7}
    k.answer(LOOKUP, lambda _: tree.entry(node, 60, **wide), named(b"d"))
    k.answer(LOOKUP, lambda _: tree.entry(node, 60, **wide), named(b"."))
    k.answer(Opcode.GETATTR, lambda _: tree.attr_out(node, 60), lambda request: request.header.nodeid > 2**32)
    k.answer(LOOKUP, lambda _: tree.entry(tree.at("")), named(b".."))
    k.answer(Opcode.OPENDIR, tree.opened())
    handle = k.ok(lambda: seam.file_handle(k.file("d")))
    _forget(k, b"d")
    k.equal("st_ino", k.ok(_by_handle(k, handle)), node.nodeid)
    asked = [each.header.nodeid for each in k.seen(LOOKUP) if named(b".")(each)]
    k.equal("nodeid of LOOKUP of .", set(asked), {2**63 + 5})
