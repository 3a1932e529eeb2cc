"""Cases about LOOKUP: how names become requests, what an answer makes of them, and whose inode an answer is."""

import errno
import os
import stat

from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.match import at_node, named
from wire.flags import InitFlag
from wire.opcodes import Opcode

LOOKUP = Opcode.LOOKUP
MEASURED = "measured on Linux 6.18"


@case(
    "lookup/request", LOOKUP, aspect="request", source="fuse.h: LOOKUP's body is the name, its nodeid the directory's"
)
def _(k: Bench) -> None:
    k.mount().tree.add("name")
    k.ok(lambda: os.stat(k.file("name")))
    request = k.seen(LOOKUP)[0]
    k.equal("nodeid", request.header.nodeid, 1)
    k.equal("name", request.names, (b"name",))


@case("lookup/below-a-directory", LOOKUP, aspect="request", source="fuse.h: in_header.nodeid is the directory")
def _(k: Bench) -> None:
    tree = k.mount().tree
    tree.directory("d")
    tree.add("d/a", b"12345")
    k.equal("size", k.ok(lambda: os.stat(k.file("d/a")).st_size), 5)
    asked = {(each.header.nodeid, each.names[0]) for each in k.seen(LOOKUP)}
    k.equal("LOOKUP requests", asked, {(1, b"d"), (tree.at("d").nodeid, b"a")})


ATTRIBUTES = {
    "st_ino": ({"ino": 0x1_2345_6789_ABCD}, 0x1_2345_6789_ABCD),
    "st_size": ({"size": 0x12_3456_7890}, 0x12_3456_7890),
    "st_blocks": ({"blocks": 0x1_2345_6789}, 0x1_2345_6789),
    "st_atime_ns": ({"atime": 1_700_000_001, "atimensec": 999_999_999}, 1_700_000_001_999_999_999),
    "st_mtime_ns": ({"mtime": 1_700_000_002, "mtimensec": 1}, 1_700_000_002_000_000_001),
    "st_ctime_ns": ({"ctime": 1_700_000_003, "ctimensec": 500}, 1_700_000_003_000_000_500),
    "st_mode": ({"mode": stat.S_IFREG | 0o4751}, stat.S_IFREG | 0o4751),
    "st_nlink": ({"nlink": 77}, 77),
    "st_uid": ({"uid": 70_001}, 70_001),
    "st_gid": ({"gid": 70_002}, 70_002),
    "st_blksize": ({"blksize": 16384}, 16384),
}


def _attribute(name: str, given: dict[str, int], wanted: int) -> None:
    @case(f"lookup/attr-{name[3:].replace('_', '-')}", LOOKUP, aspect="reply", source="fuse.h: fuse_entry_out.attr")
    def _(k: Bench) -> None:
        node = k.mount().tree.add("a")
        k.answer(LOOKUP, lambda _: k.tree.entry(node, 60, **given))
        k.equal(name, k.ok(lambda: getattr(os.stat(k.file("a")), name)), wanted)


for _name, (_given, _wanted) in ATTRIBUTES.items():
    _attribute(_name, _given, _wanted)


@case("lookup/attr-rdev", LOOKUP, aspect="reply", source="fuse.h: fuse_attr.rdev, in the kernel's 32-bit encoding")
def _(k: Bench) -> None:
    # 12 bits of major between the minor's low 8 and its high 12
    node = k.mount().tree.add("a", mode=stat.S_IFBLK | 0o600)
    k.answer(LOOKUP, lambda _: k.tree.entry(node, 60, rdev=0xABC << 8 | 0x12 | 0x345 << 20))
    rdev = k.ok(lambda: os.stat(k.file("a")).st_rdev)
    k.equal("major, minor", (os.major(rdev), os.minor(rdev)), (0xABC, 0x34512))


@case("lookup/enosys-per-name", LOOKUP, aspect="enosys", level=Level.SHOULD, source="measured: an error of one call")
def _(k: Bench) -> None:
    k.mount().tree.add("a")
    k.answer(LOOKUP, -errno.ENOSYS, named(b"z"))
    k.fails(errno.ENOSYS, lambda: os.stat(k.file("z")))
    k.ok(lambda: os.stat(k.file("a")))


@case("lookup/not-below-a-file", LOOKUP, aspect="error", source="path_resolution(7): ENOTDIR")
def _(k: Bench) -> None:
    file = k.mount().tree.add("a")
    k.fails(errno.ENOTDIR, lambda: os.stat(k.file("a/b")))
    k.equal("LOOKUP requests below a file", len(k.seen(LOOKUP, file.nodeid)), 0)


@case("lookup/bytes-of-a-name", LOOKUP, aspect="request", source="fuse.h: a name is bytes up to its NUL")
def _(k: Bench) -> None:
    name = bytes(set(range(1, 256)) - {ord("/")})
    k.mount()
    k.fails(errno.ENOENT, lambda: os.stat(os.fsencode(k.path) + b"/" + name))
    k.equal("name", k.seen(LOOKUP)[0].names, (name,))


@case("lookup/longest-name", LOOKUP, aspect="request", level=Level.SHOULD, source="limits.h: NAME_MAX is 255")
def _(k: Bench) -> None:
    k.mount().tree.add("n" * 255)
    k.ok(lambda: os.stat(k.file("n" * 255)))
    k.equal("length", len(k.seen(LOOKUP)[0].names[0]), 255)


@case(
    "lookup/name-too-long", LOOKUP, aspect="error", level=Level.PROFILE, source=MEASURED + ": 1024 bytes, FUSE_NAME_MAX"
)
def _(k: Bench) -> None:
    k.mount()
    k.fails(errno.ENOENT, lambda: os.stat(k.file("n" * 1024)))
    k.fails(errno.ENAMETOOLONG, lambda: os.stat(k.file("n" * 1025)))
    k.equal("longest name asked for", max(len(each.names[0]) for each in k.seen(LOOKUP)), 1024)


@case("lookup/dots-stay-inside", LOOKUP, aspect="request", level=Level.SHOULD, source=MEASURED + ": the VFS walks dots")
def _(k: Bench) -> None:
    tree = k.mount().tree
    tree.directory("d")
    tree.directory("d/e")
    tree.add("a", b"123")
    k.equal("size", k.ok(lambda: os.stat(k.file("./d/./e/../../a")).st_size), 3)
    k.equal("names asked for", {each.names[0] for each in k.seen(LOOKUP)} & {b".", b".."}, set())


@case("lookup/root-is-never-looked-up", LOOKUP, Opcode.GETATTR, aspect="request", source="fuse.h: FUSE_ROOT_ID is 1")
def _(k: Bench) -> None:
    k.mount()
    k.true("a directory", stat.S_ISDIR(k.ok(lambda: os.stat(k.path).st_mode)))
    k.equal("LOOKUP requests", len(k.seen(LOOKUP)), 0)
    k.true("GETATTR of the root", k.seen(Opcode.GETATTR, 1))


@case("lookup/trailing-slash", LOOKUP, aspect="error", level=Level.SHOULD, source="path_resolution(7): ENOTDIR")
def _(k: Bench) -> None:
    k.mount().tree.add("a")
    k.fails(errno.ENOTDIR, lambda: os.stat(k.file("a") + "/"))
    k.equal("the name has no slash", k.seen(LOOKUP)[0].names, (b"a",))


@case("lookup/two-names-one-inode", LOOKUP, aspect="reply", source="fuse.h: nodeid identifies the inode")
def _(k: Bench) -> None:
    tree = k.mount().tree
    node = tree.add("a", b"first")
    tree.at("").entries[b"b"] = node.nodeid
    tree.valid = 60

    def both() -> tuple[bool, bytes]:
        with open(k.file("a"), "r+b") as one, open(k.file("b"), "rb", buffering=0) as other:
            os.pwrite(one.fileno(), b"FIRST", 0)
            return os.path.sameopenfile(one.fileno(), other.fileno()), os.pread(other.fileno(), 10, 0)

    k.equal("same file, what is read", k.ok(both), (True, b"FIRST"))


@case("lookup/large-nodeid", LOOKUP, aspect="reply", source="fuse.h: nodeid is 64 bits")
def _(k: Bench) -> None:
    tree = k.mount().tree
    node = tree.add("d", mode=stat.S_IFDIR | 0o755)
    k.answer(LOOKUP, lambda _: tree.entry(node, nodeid=0xFEDC_BA98_7654_3210), named(b"d"))
    k.fails(errno.ESTALE, lambda: os.listdir(k.file("d")), "the tree does not know it")
    k.equal("nodeid", k.wait_for(Opcode.OPENDIR).header.nodeid, 0xFEDC_BA98_7654_3210)


@case("lookup/type-becomes-another", LOOKUP, aspect="reply", level=Level.SHOULD,
      source=MEASURED + ": a name whose node became a directory is one")  # fmt: skip
def _(k: Bench) -> None:
    tree = k.mount().tree
    tree.add("a")
    k.true("a file", stat.S_ISREG(k.ok(lambda: os.stat(k.file("a")).st_mode)))
    del tree.at("").entries[b"a"]
    tree.directory("a")
    k.true("a directory", stat.S_ISDIR(k.ok(lambda: os.stat(k.file("a")).st_mode)))


@case("lookup/same-nodeid-another-type", LOOKUP, aspect="reply", level=Level.PROFILE,
      source=MEASURED + ": the name stays usable and the new type shows")  # fmt: skip
def _(k: Bench) -> None:
    tree = k.mount().tree
    node = tree.add("a")
    k.ok(lambda: os.stat(k.file("a")))
    node.mode = stat.S_IFDIR | 0o755
    k.true("a directory", stat.S_ISDIR(k.ok(lambda: os.stat(k.file("a")).st_mode)))


# -- generations -------------------------------------------------------------------------------------------------------


@case("lookup/generation-makes-another-inode", LOOKUP, aspect="reply", level=Level.SHOULD, since=1,
      source="fuse.h: nodeid and generation together are unique for ever")  # fmt: skip
def _(k: Bench) -> None:
    tree = k.mount().tree
    node = tree.add("a", b"old")
    rule = k.hold(LOOKUP, lambda _: bool(k.seen(Opcode.OPEN)))

    def reuse() -> tuple[bytes, int]:
        fd = os.open(k.file("a"), os.O_RDONLY)
        new = os.open(k.file("a"), os.O_RDONLY)
        said = os.read(new, 10)
        try:
            os.fstat(fd)
        except OSError as bad:
            return said, bad.errno or 0
        return said, 0

    client = k.start(reuse)
    request = k.held(rule)
    node.data[:] = b"new"
    k.answer(LOOKUP, lambda _: tree.entry(node, generation=2))
    k.reply(request, tree.entry(node, generation=2))
    k.equal("new content, and fstat of the old descriptor", client.wait(k.patience).value, (b"new", errno.EIO))


@case("lookup/generation-wide", LOOKUP, aspect="reply", level=Level.SHOULD, source="fuse.h: generation is 64 bits")
def _(k: Bench) -> None:
    node = k.mount().tree.add("a", b"1")
    k.answer(LOOKUP, lambda _: k.tree.entry(node, generation=2**64 - 1))
    k.equal("size", k.ok(lambda: [os.stat(k.file("a")).st_size for _ in range(2)]), [1, 1])


@case("lookup/generation-upper-half", LOOKUP, aspect="reply", level=Level.PROFILE,
      source=MEASURED + ": of a generation's 64 bits only the lower 32 tell inodes apart")  # fmt: skip
def _(k: Bench) -> None:
    node = k.mount().tree.add("a")
    generations = iter((1, 2**32 + 1))
    k.answer(LOOKUP, lambda _: k.tree.entry(node, generation=next(generations)))

    def work() -> int:
        fd = os.open(k.file("a"), os.O_RDONLY)
        os.stat(k.file("a"))
        return os.fstat(fd).st_ino

    k.equal("st_ino of the first, still open", k.ok(work), node.nodeid)
    k.equal("LOOKUP requests", len(k.seen(LOOKUP)), 2)


# -- several at once ---------------------------------------------------------------------------------------------------


@case("lookup/same-name-asked-once", LOOKUP, aspect="cache", level=Level.PROFILE, flags=InitFlag.PARALLEL_DIROPS,
      source=MEASURED + ": who comes second waits for the first one's answer")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(flags=InitFlag.PARALLEL_DIROPS).tree.add("a")
    k.tree.valid = 60
    rule = k.hold(LOOKUP)
    first = k.start(lambda: os.stat(k.file("a")).st_ino)
    request = k.held(rule)
    second = k.start(lambda: os.stat(k.file("a")).st_ino)
    k.true("the second waits", not second.done(0.1))
    k.reply(request)
    k.equal("both see it", first.wait(k.patience), second.wait(k.patience))
    k.one(LOOKUP)


@case("lookup/parallel-dirops", LOOKUP, aspect="flag", level=Level.SHOULD, since=25, flags=InitFlag.PARALLEL_DIROPS,
      source="fuse.h: FUSE_PARALLEL_DIROPS, lookups in one directory at once")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(flags=InitFlag.PARALLEL_DIROPS).tree.add("a")
    k.tree.add("b")
    rule = k.hold(LOOKUP, named(b"a"))
    first = k.start(lambda: os.stat(k.file("a")).st_ino)
    request = k.held(rule)
    k.ok(lambda: os.stat(k.file("b")).st_ino)
    k.true("the first still waits", not first.done())
    k.reply(request)
    k.equal("the first", first.wait(k.patience).errno, 0)


@case("lookup/serial-dirops", LOOKUP, aspect="flag", since=25, flags=InitFlag.PARALLEL_DIROPS,
      source="fuse.h: without FUSE_PARALLEL_DIROPS, one at a time in a directory")  # fmt: skip
def _(k: Bench) -> None:
    k.mount().tree.add("a")
    k.tree.add("b")
    rule = k.hold(LOOKUP, named(b"a"))
    first = k.start(lambda: os.stat(k.file("a")).st_ino)
    request = k.held(rule)
    second = k.start(lambda: os.stat(k.file("b")).st_ino)
    k.true("the second waits", not second.done(0.1))
    k.equal("LOOKUP requests", len(k.seen(LOOKUP)), 1)
    k.reply(request)
    k.equal("both end", (first.wait(k.patience).errno, second.wait(k.patience).errno), (0, 0))


@case("lookup/other-directory-goes-on", LOOKUP, aspect="request", level=Level.SHOULD,
      source="a lookup holds its own directory alone")  # fmt: skip
def _(k: Bench) -> None:
    tree = k.mount().tree
    for name in ("d", "e"):
        tree.directory(name)
        tree.add(f"{name}/a")
    tree.valid = 60
    k.ok(lambda: [os.stat(k.file(name)).st_ino for name in ("d", "e")])
    rule = k.hold(LOOKUP, at_node(tree.at("d").nodeid))
    first = k.start(lambda: os.stat(k.file("d/a")).st_ino)
    request = k.held(rule)
    k.ok(lambda: os.stat(k.file("e/a")).st_ino)
    k.reply(request)
    k.equal("the first", first.wait(k.patience).errno, 0)


@case("lookup/walk-stops-at-the-error", LOOKUP, aspect="error", source="path_resolution(7)")
def _(k: Bench) -> None:
    tree = k.mount().tree
    tree.directory("d")
    tree.add("d/a")
    k.answer(LOOKUP, -errno.EACCES, named(b"d"))
    k.fails(errno.EACCES, lambda: os.stat(k.file("d/a")))
    k.equal("names asked for", {each.names[0] for each in k.seen(LOOKUP)}, {b"d"})
