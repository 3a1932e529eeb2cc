"""Cases about CREATE, what stands in for it, and TMPFILE."""

import errno
import os
import stat

from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.match import named
from wire.opcodes import Opcode

CREATE, MKNOD, OPEN, LOOKUP, TMPFILE = Opcode.CREATE, Opcode.MKNOD, Opcode.OPEN, Opcode.LOOKUP, Opcode.TMPFILE
RELEASE = Opcode.RELEASE
MEASURED = "measured on Linux 6.18"
NEW = os.O_CREAT | os.O_WRONLY


def _open(k: Bench, name: str = "z", flags: int = NEW, mode: int = 0o640) -> None:
    k.ok(lambda: os.close(os.open(k.file(name), flags, mode)))


@case("create/request", CREATE, aspect="request", source="fuse.h: fuse_create_in, the name behind it")
def _(k: Bench) -> None:
    parent = k.mount().tree.directory("d")
    _open(k, "d/z", os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o4751)
    request = k.one(CREATE)
    k.equal("nodeid, name", (request.header.nodeid, request.names), (parent.nodeid, (b"z",)))
    k.equal("mode", f"{request.head.mode:o}", f"{stat.S_IFREG | 0o4751 & ~0o022:o}")
    k.equal("access mode", request.head.flags & os.O_ACCMODE, os.O_RDWR)
    k.true("O_APPEND", request.head.flags & os.O_APPEND)


@case("create/open-flags-zero", CREATE, aspect="request", source="fuse.h: fuse_create_in.open_flags, FUSE_OPEN_*")
def _(k: Bench) -> None:
    k.mount()
    _open(k)
    k.equal("open_flags", k.one(CREATE).head.open_flags, 0)


@case("create/exclusive-flag", CREATE, aspect="request", level=Level.PROFILE, source=MEASURED + ": O_EXCL is told")
def _(k: Bench) -> None:
    k.mount()
    _open(k, flags=NEW | os.O_EXCL)
    k.true("O_EXCL", k.one(CREATE).head.flags & os.O_EXCL)


@case(
    "create/one-request", CREATE, MKNOD, OPEN, aspect="request", level=Level.SHOULD, source="fuse.h: CREATE opens too"
)
def _(k: Bench) -> None:
    k.mount()
    _open(k)
    k.one(CREATE)
    k.equal("MKNOD, OPEN requests", (len(k.seen(MKNOD)), len(k.seen(OPEN))), (0, 0))


@case("create/handle", CREATE, RELEASE, aspect="reply", source="fuse.h: CREATE's reply ends with fuse_open_out.fh")
def _(k: Bench) -> None:
    tree = k.mount().tree
    k.answer(CREATE, lambda _: tree.entry(tree.add("z")) + tree.opened(fh=0x1122_3344_5566_7788))

    def work() -> None:
        fd = os.open(k.file("z"), NEW)
        os.write(fd, b"x")
        os.close(fd)

    k.ok(work)
    k.equal("fh of WRITE", k.wait_for(Opcode.WRITE).head.fh, 0x1122_3344_5566_7788)
    k.equal("fh of RELEASE", k.wait_for(RELEASE).head.fh, 0x1122_3344_5566_7788)


@case(
    "create/open-flags-of-the-reply", CREATE, aspect="reply", source="fuse.h: FOPEN_DIRECT_IO counts after CREATE too"
)
def _(k: Bench) -> None:
    tree = k.mount().tree
    k.answer(CREATE, lambda _: tree.entry(tree.add("z")) + tree.opened(open_flags=1))

    def work() -> None:
        fd = os.open(k.file("z"), os.O_CREAT | os.O_RDWR)
        os.pread(fd, 10, 0)
        os.close(fd)

    k.ok(work)
    k.equal("size of READ", k.wait_for(Opcode.READ).head.size, 10)


@case(
    "create/attributes-of-the-reply", CREATE, aspect="reply", source="fuse.h: CREATE's reply begins with fuse_entry_out"
)
def _(k: Bench) -> None:
    tree = k.mount().tree
    k.answer(CREATE, lambda _: tree.entry(tree.add("z"), 60, uid=77, ino=4242) + tree.opened())

    def work() -> tuple[int, int]:
        fd = os.open(k.file("z"), NEW)
        found = os.fstat(fd)
        return found.st_uid, found.st_ino

    k.equal("st_uid, st_ino", k.ok(work), (77, 4242))


@case("create/entry-is-kept", CREATE, LOOKUP, aspect="cache", source="fuse.h: fuse_entry_out.entry_valid")
def _(k: Bench) -> None:
    k.mount().tree.valid = 60
    _open(k)
    before = len(k.seen(LOOKUP))
    k.ok(lambda: os.stat(k.file("z")))
    k.equal("LOOKUP requests afterwards", len(k.seen(LOOKUP)) - before, 0)


@case("create/there-already", CREATE, OPEN, aspect="request", source="open(2): O_CREAT opens what is there")
def _(k: Bench) -> None:
    k.mount().tree.add("z", b"content")
    _open(k)
    k.equal("CREATE, OPEN requests", (len(k.seen(CREATE)), len(k.seen(OPEN))), (0, 1))
    k.true("no O_CREAT for the server", not k.one(OPEN).head.flags & os.O_CREAT)


@case("create/exclusive-and-there", CREATE, aspect="error", source="open(2): EEXIST")
def _(k: Bench) -> None:
    k.mount().tree.add("z")
    k.fails(errno.EEXIST, lambda: os.open(k.file("z"), NEW | os.O_EXCL))
    k.equal("CREATE requests", len(k.seen(CREATE)), 0)


@case(
    "create/exclusive-and-appeared", CREATE, aspect="error", source="open(2): EEXIST, where the server found it first"
)
def _(k: Bench) -> None:
    k.mount()
    k.answer(CREATE, -errno.EEXIST)
    k.fails(errno.EEXIST, lambda: os.open(k.file("z"), NEW | os.O_EXCL))


@case("create/written-though-read-only", CREATE, aspect="reply", source="open(2): mode counts for later opens alone")
def _(k: Bench) -> None:
    k.mount(options="default_permissions")

    def work() -> int:
        fd = os.open(k.file("z"), os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o444)
        return os.write(fd, b"1234")

    k.equal("bytes written", k.ok(work), 4)
    k.equal("content", bytes(k.tree.at("z").data), b"1234")


@case("create/reply-of-another-type-is-released", CREATE, RELEASE, aspect="malformed", level=Level.PROFILE,
      source=MEASURED + ": a handle the kernel cannot use is given back, unless the entry itself is bad")  # fmt: skip
def _(k: Bench) -> None:
    tree = k.mount().tree
    node = tree.add("d", mode=stat.S_IFDIR | 0o755)
    tree.valid = 60
    k.ok(lambda: os.stat(k.file("d")))
    # a nodeid that the kernel knows, of a directory
    k.answer(CREATE, lambda _: tree.entry(node, mode=stat.S_IFREG | 0o644) + tree.opened(fh=5))
    k.do(lambda: os.close(os.open(k.file("z"), NEW)))
    k.equal("fh of RELEASE", k.wait_for(RELEASE).head.fh, 5)


# -- without CREATE ----------------------------------------------------------------------------------------------------

FALLBACK = "fuse.h: a server without CREATE answers ENOSYS; measured: MKNOD, then OPEN"


def _fallback(k: Bench) -> None:
    k.mount()
    k.answer(CREATE, -errno.ENOSYS)


@case("create/fallback", CREATE, MKNOD, OPEN, aspect="enosys", level=Level.SHOULD, source=FALLBACK)
def _(k: Bench) -> None:
    _fallback(k)

    def work() -> int:
        fd = os.open(k.file("z"), os.O_CREAT | os.O_RDWR, 0o640)
        return os.write(fd, b"1234")

    k.equal("bytes written", k.ok(work), 4)
    order = [each.header.opcode for each in k.server.requests if each.header.opcode in (CREATE, MKNOD, OPEN)]
    k.equal("requests", order, [CREATE, MKNOD, OPEN])
    k.equal("content", bytes(k.tree.at("z").data), b"1234")


@case("create/fallback-mknod", CREATE, MKNOD, aspect="enosys", level=Level.SHOULD, source=FALLBACK)
def _(k: Bench) -> None:
    _fallback(k)
    _open(k, mode=0o640)
    request = k.one(MKNOD)
    k.equal("name, mode", (request.names, f"{request.head.mode:o}"), ((b"z",), f"{stat.S_IFREG | 0o640:o}"))
    k.equal("rdev", request.head.rdev, 0)


@case("create/fallback-open", CREATE, OPEN, aspect="enosys", level=Level.SHOULD, source=FALLBACK)
def _(k: Bench) -> None:
    _fallback(k)
    _open(k, flags=os.O_CREAT | os.O_EXCL | os.O_RDWR)
    request = k.one(OPEN)
    k.equal("nodeid", request.header.nodeid, k.tree.at("z").nodeid)
    k.equal("O_CREAT, O_EXCL", request.head.flags & (os.O_CREAT | os.O_EXCL), 0)


@case("create/fallback-mknod-error", CREATE, MKNOD, aspect="error", level=Level.SHOULD, source=FALLBACK)
def _(k: Bench) -> None:
    _fallback(k)
    k.answer(MKNOD, -errno.EDQUOT)
    k.fails(errno.EDQUOT, lambda: os.open(k.file("z"), NEW))
    k.equal("OPEN requests", len(k.seen(OPEN)), 0)


@case("create/fallback-open-error", CREATE, OPEN, aspect="error", level=Level.SHOULD, source=FALLBACK)
def _(k: Bench) -> None:
    _fallback(k)
    k.answer(OPEN, -errno.EMFILE)
    k.fails(errno.EMFILE, lambda: os.open(k.file("z"), NEW))
    k.equal("RELEASE requests", len(k.seen(RELEASE)), 0)


# -- TMPFILE -----------------------------------------------------------------------------------------------------------


def _nameless(k: Bench, flags: int = os.O_RDWR) -> int:
    return os.open(k.path, os.O_TMPFILE | flags, 0o640)


def _name(k: Bench, fd: int) -> None:
    """linkat(2) with AT_SYMLINK_FOLLOW, which Python takes only with a directory's descriptor."""
    os.link(f"/proc/self/fd/{fd}", k.file("z"), src_dir_fd=fd, follow_symlinks=True)


@case(
    "tmpfile/request", TMPFILE, aspect="request", since=37, source="fuse.h: TMPFILE is as CREATE, about the directory"
)
def _(k: Bench) -> None:
    k.mount()
    k.ok(lambda: os.close(_nameless(k)))
    request = k.one(TMPFILE)
    k.equal("nodeid", request.header.nodeid, 1)
    k.equal("mode", f"{request.head.mode:o}", f"{stat.S_IFREG | 0o640:o}")
    k.equal("access mode", request.head.flags & os.O_ACCMODE, os.O_RDWR)


@case("tmpfile/written-and-read", TMPFILE, aspect="reply", since=37, source="open(2): O_TMPFILE")
def _(k: Bench) -> None:
    tree = k.mount().tree

    def work() -> tuple[bytes, list[str]]:
        fd = _nameless(k)
        os.write(fd, b"unnamed")
        return os.pread(fd, 20, 0), os.listdir(k.path)

    k.equal("content, names", k.ok(work), (b"unnamed", []))
    k.equal("on the server", bytes(tree.nodes[max(tree.nodes)].data), b"unnamed")


@case("tmpfile/released", TMPFILE, RELEASE, aspect="reply", since=37, source="fuse.h: fuse_open_out.fh")
def _(k: Bench) -> None:
    tree = k.mount().tree
    k.answer(TMPFILE, lambda _: tree.entry(tree.add("t")) + tree.opened(fh=99))
    k.ok(lambda: os.close(_nameless(k)))
    k.equal("fh", k.wait_for(RELEASE).head.fh, 99)


@case("tmpfile/linked", TMPFILE, Opcode.LINK, aspect="reply", since=37, level=Level.SHOULD,
      source="open(2): linkat(2) gives it a name")  # fmt: skip
def _(k: Bench) -> None:
    tree = k.mount().tree

    def work() -> bytes:
        fd = _nameless(k)
        os.write(fd, b"named")
        _name(k, fd)
        return open(k.file("z"), "rb").read()

    k.equal("content by its name", k.ok(work), b"named")
    k.equal("oldnodeid", k.one(Opcode.LINK).head.oldnodeid, max(tree.nodes))


@case("tmpfile/exclusive-is-not-linked", TMPFILE, Opcode.LINK, aspect="error", since=37, level=Level.SHOULD,
      source="open(2): O_TMPFILE with O_EXCL keeps it nameless")  # fmt: skip
def _(k: Bench) -> None:
    k.mount()

    def work() -> None:
        fd = _nameless(k, os.O_RDWR | os.O_EXCL)
        _name(k, fd)

    k.fails(errno.ENOENT, work)
    k.equal("LINK requests", len(k.seen(Opcode.LINK)), 0)


@case(
    "tmpfile/reply-of-another-type",
    TMPFILE,
    aspect="malformed",
    since=37,
    level=Level.SHOULD,
    source=MEASURED + ": EIO",
)
def _(k: Bench) -> None:
    tree = k.mount().tree
    k.answer(TMPFILE, lambda _: tree.entry(tree.add("t", mode=stat.S_IFDIR | 0o755)) + tree.opened())
    k.fails(errno.EIO, lambda: _nameless(k))


@case("create/name-unseen-before", CREATE, LOOKUP, aspect="request", level=Level.PROFILE,
      source=MEASURED + ": LOOKUP goes before CREATE")  # fmt: skip
def _(k: Bench) -> None:
    k.mount()
    _open(k)
    order = [each.header.opcode for each in k.server.requests if named(b"z")(each)]
    k.equal("requests with the name", order, [LOOKUP, CREATE])
