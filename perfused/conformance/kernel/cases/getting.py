"""Cases about GETATTR and STATX: what is asked for, what of the answer a caller sees, and how long it holds."""

import errno
import os
import stat
import struct
import time
from collections.abc import Callable

from perfused.conformance.kernel import seam
from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.steps import code, opened
from wire import codec
from wire.flags import GetattrFlag
from wire.message import Request
from wire.opcodes import Opcode

GETATTR, STATX = Opcode.GETATTR, Opcode.STATX
MEASURED = "measured on Linux 6.18"
AT_FORCE_SYNC, AT_DONT_SYNC = 0x2000, 0x4000
BASIC, BTIME = 0x7FF, 0x800


def _status(k: Bench, **fields: int) -> os.stat_result:
    """What fstat(2) says of an open file, whose GETATTR is answered with `fields`."""
    node = k.tree.at("a")
    k.answer(GETATTR, lambda request: k.tree.attr_out(k.tree.nodes[request.header.nodeid], **fields),
             lambda request: request.header.nodeid == node.nodeid)  # fmt: skip
    found: os.stat_result = k.ok(lambda: opened(k.file("a"), os.O_RDONLY, os.fstat))
    return found


@case("getattr/request", GETATTR, aspect="request", source="fuse.h: fuse_getattr_in; nodeid is the inode's")
def _(k: Bench) -> None:
    node = k.mount().tree.add("a", b"content")
    k.ok(lambda: opened(k.file("a"), os.O_RDONLY, os.fstat))
    request = k.seen(GETATTR, node.nodeid)[-1]
    k.equal("flags beside FH", request.head.getattr_flags & ~GetattrFlag.FH, 0)
    k.equal("dummy", request.head.dummy, 0)


@case("getattr/handle", GETATTR, aspect="request", since=9,
      source="fuse.h: fh holds a handle of OPEN where GETATTR_FH is set, and means nothing else")  # fmt: skip
def _(k: Bench) -> None:
    node = k.mount().tree.add("a", b"content")
    k.answer(Opcode.OPEN, k.tree.opened(fh=0x1234_5678_9ABC))
    k.ok(lambda: opened(k.file("a"), os.O_RDONLY, lambda fd: (os.fstat(fd), os.read(fd, 100), os.read(fd, 100))))
    for request in k.seen(GETATTR, node.nodeid):
        if request.head.getattr_flags & GetattrFlag.FH:
            k.equal("fh", request.head.fh, 0x1234_5678_9ABC)
        else:
            k.equal("fh without GETATTR_FH", request.head.fh, 0)


@case("getattr/fstat-without-handle", GETATTR, aspect="request", level=Level.PROFILE,
      source=MEASURED + ": fstat(2) asks by nodeid alone")  # fmt: skip
def _(k: Bench) -> None:
    node = k.mount().tree.add("a")
    k.ok(lambda: opened(k.file("a"), os.O_RDONLY, os.fstat))
    k.true("a GETATTR without FH", not k.seen(GETATTR, node.nodeid)[-1].head.getattr_flags)


@case("getattr/read-at-end-with-handle", GETATTR, aspect="request", level=Level.PROFILE, since=9,
      source=MEASURED + ": a read that may reach the end asks for the size by handle")  # fmt: skip
def _(k: Bench) -> None:
    node = k.mount().tree.add("a", b"content")
    k.answer(Opcode.OPEN, k.tree.opened(fh=9))
    k.ok(lambda: opened(k.file("a"), os.O_RDONLY, lambda fd: os.read(fd, 100)))
    asked = [each.head for each in k.seen(GETATTR, node.nodeid) if each.head.getattr_flags & GetattrFlag.FH]
    k.equal("handles asked about", [head.fh for head in asked], [9])


_FIELDS: dict[str, tuple[dict[str, int], Callable[[os.stat_result], object], object]] = {
    "ino": ({"ino": 0xABCDEF01}, lambda st: st.st_ino, 0xABCDEF01),
    "size": ({"size": 5_000_000_000}, lambda st: st.st_size, 5_000_000_000),
    "blocks": ({"blocks": 77}, lambda st: st.st_blocks, 77),
    "permissions": ({"mode": stat.S_IFREG | 0o7641}, lambda st: stat.S_IMODE(st.st_mode), 0o7641),
    "nlink": ({"nlink": 3}, lambda st: st.st_nlink, 3),
    "owner": ({"uid": 1001, "gid": 1002}, lambda st: (st.st_uid, st.st_gid), (1001, 1002)),
    "blksize": ({"blksize": 16384}, lambda st: st.st_blksize, 16384),
    "atime": ({"atime": 1_111_111_111, "atimensec": 123_456_789}, lambda st: st.st_atime_ns, 1_111_111_111_123_456_789),
    "mtime": ({"mtime": 1_222_222_222, "mtimensec": 987_654_321}, lambda st: st.st_mtime_ns, 1_222_222_222_987_654_321),
    "ctime": ({"ctime": 1_333_333_333, "ctimensec": 1}, lambda st: st.st_ctime_ns, 1_333_333_333_000_000_001),
    "time-before-1970": ({"mtime": 2**64 - 5}, lambda st: st.st_mtime_ns, -5_000_000_000),
    "time-after-2038": ({"mtime": 2**33}, lambda st: st.st_mtime_ns, 2**33 * 1_000_000_000),
}  # fmt: skip


def _field(name: str) -> None:
    fields, look, wanted = _FIELDS[name]
    level = Level.SHOULD if name == "blksize" else Level.MUST

    @case(f"getattr/reply-{name}", GETATTR, aspect="reply", level=level, source="fuse.h: fuse_attr; stat(2)")
    def _(k: Bench) -> None:
        k.mount().tree.add("a", b"content")
        k.equal(name, look(_status(k, **fields)), wanted)


for _name in _FIELDS:
    _field(_name)


@case("getattr/blksize-zero", GETATTR, aspect="reply", level=Level.SHOULD,
      source="stat(2): a preferred block size for I/O; a server that says none leaves it to the kernel")  # fmt: skip
def _(k: Bench) -> None:
    k.mount().tree.add("a", b"content")
    size = _status(k, blksize=0).st_blksize
    k.true("a power of two of at least 512", size >= 512 and not size & (size - 1), size)


@case("getattr/device-number", GETATTR, aspect="reply", source="fuse.h: fuse_attr.rdev; stat(2) st_rdev")
def _(k: Bench) -> None:
    k.mount().tree.add("null", mode=stat.S_IFCHR | 0o666, rdev=os.makedev(10, 229))
    found = k.ok(lambda: os.stat(k.file("null")))
    k.equal("device", (os.major(found.st_rdev), os.minor(found.st_rdev)), (10, 229))


def _error(number: int, level: Level = Level.MUST) -> None:
    name = errno.errorcode[number]

    @case(f"getattr/error-{name.lower()}", GETATTR, aspect="error", level=level,
          source="fuse.h: out_header.error is the call's errno")  # fmt: skip
    def _(k: Bench) -> None:
        node = k.mount().tree.add("a")
        k.answer(GETATTR, -number, lambda request: request.header.nodeid == node.nodeid)
        k.fails(number, lambda: opened(k.file("a"), os.O_RDONLY, os.fstat), "fstat")


for _number in (errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN):
    _error(_number)


@case("getattr/type-change", GETATTR, aspect="malformed", level=Level.SHOULD,
      source="an inode keeps its type; " + MEASURED + ": EIO")  # fmt: skip
def _(k: Bench) -> None:
    node = k.mount().tree.add("a")
    k.answer(GETATTR, k.tree.attr_out(node, mode=stat.S_IFDIR | 0o755), lambda r: r.header.nodeid == node.nodeid)
    k.fails(errno.EIO, lambda: os.fstat(os.open(k.file("a"), os.O_RDONLY)), "fstat")


@case("getattr/type-change-is-final", GETATTR, aspect="malformed", level=Level.PROFILE,
      source=MEASURED + ": the inode stays bad for those who have it open")  # fmt: skip
def _(k: Bench) -> None:
    node = k.mount().tree.add("a")
    rule = k.answer(
        GETATTR, k.tree.attr_out(node, mode=stat.S_IFDIR | 0o755), lambda r: r.header.nodeid == node.nodeid, times=1
    )

    def work() -> list[int]:
        fd = os.open(k.file("a"), os.O_RDONLY)
        return [code(lambda: os.fstat(fd)) for _ in range(2)]

    k.equal("errnos", k.ok(work), [errno.EIO, errno.EIO])
    k.equal("answers with another type", len(rule.seen), 1)


@case("getattr/size-negative", GETATTR, aspect="malformed", level=Level.SHOULD,
      source="a size is a loff_t; " + MEASURED + ": EIO")  # fmt: skip
def _(k: Bench) -> None:
    node = k.mount().tree.add("a")
    k.answer(GETATTR, k.tree.attr_out(node, size=2**63), lambda r: r.header.nodeid == node.nodeid)
    k.fails(errno.EIO, lambda: os.fstat(os.open(k.file("a"), os.O_RDONLY)), "fstat")


@case("getattr/nanoseconds-too-many", GETATTR, aspect="malformed", level=Level.SHOULD,
      source="struct timespec: below 1,000,000,000; " + MEASURED + ": cut down to that")  # fmt: skip
def _(k: Bench) -> None:
    k.mount().tree.add("a")
    found = _status(k, mtime=5, mtimensec=4_000_000_000)
    k.true("mtime within its second", 5_000_000_000 <= found.st_mtime_ns < 6_000_000_000, found.st_mtime_ns)


@case("getattr/valid-holds", GETATTR, aspect="cache", level=Level.SHOULD,
      source="fuse.h: attr_valid, for which the attributes need not be asked for again")  # fmt: skip
def _(k: Bench) -> None:
    k.mount().tree.add("a", b"content")
    k.answer(GETATTR, lambda request: k.tree.attr_out(k.tree.nodes[request.header.nodeid], valid=60, nlink=7))
    found = k.ok(lambda: opened(k.file("a"), os.O_RDONLY, lambda fd: [os.fstat(fd).st_nlink for _ in range(3)]))
    k.equal("nlink", found, [7, 7, 7])
    k.one(GETATTR, k.tree.at("a").nodeid)


@case("getattr/valid-zero", GETATTR, aspect="cache", source="fuse.h: attr_valid 0 holds for no time at all")
def _(k: Bench) -> None:
    node = k.mount().tree.add("a", b"content")
    count = iter(range(3, 100))
    k.answer(GETATTR, lambda request: k.tree.attr_out(node, valid=0, nlink=next(count)),
             lambda r: r.header.nodeid == node.nodeid)  # fmt: skip
    found = k.ok(lambda: opened(k.file("a"), os.O_RDONLY, lambda fd: [os.fstat(fd).st_nlink for _ in range(3)]))
    k.equal("nlink rises with each answer", found, sorted(set(found)))


@case("getattr/valid-nanoseconds", GETATTR, aspect="cache",
      source="fuse.h: attr_valid_nsec; what it covers ends with it")  # fmt: skip
def _(k: Bench) -> None:
    node = k.mount().tree.add("a", b"content")
    count = iter(range(3, 100))
    k.answer(GETATTR, lambda request: k.tree.attr_out(node, 0, attr_valid_nsec=100_000_000, nlink=next(count)),
             lambda r: r.header.nodeid == node.nodeid)  # fmt: skip

    def work(fd: int) -> tuple[int, int]:
        first = os.fstat(fd).st_nlink
        time.sleep(0.15)
        return first, os.fstat(fd).st_nlink

    first, second = k.ok(lambda: opened(k.file("a"), os.O_RDONLY, work))
    k.true("a new answer after 0.1 s", second > first, (first, second))


@case("getattr/lookup-attributes-hold", GETATTR, Opcode.LOOKUP, aspect="cache", level=Level.SHOULD,
      source="fuse.h: fuse_entry_out carries attributes with a validity of their own")  # fmt: skip
def _(k: Bench) -> None:
    node = k.mount().tree.add("a", b"content")
    k.answer(Opcode.LOOKUP, lambda request: k.tree.entry(node, attr_valid=60, nlink=5))
    k.equal("nlink", k.ok(lambda: os.stat(k.file("a"))).st_nlink, 5)
    k.equal("GETATTR requests", len(k.seen(GETATTR, node.nodeid)), 0)


# -- STATX -------------------------------------------------------------------------------------------------------------


def _statx(k: Bench, mask: int = BASIC | BTIME, flags: int = 0) -> dict[str, int]:
    data = k.ok(lambda: seam.statx(k.file("a"), flags, mask))
    found = dict(zip(("mask", "blksize", "attributes", "nlink"), struct.unpack_from("=IIQI", data), strict=True))
    found["size"] = struct.unpack_from("=Q", data, 0x28)[0]
    found["btime"], found["btimensec"] = struct.unpack_from("=qI", data, 0x50)
    return found


def _statx_out(k: Bench, valid: int = 0, **fields: int) -> Callable[[Request], bytes]:
    node = k.tree.at("a")
    when = codec.sx_time.make(tv_sec=999_999_999, tv_nsec=42)
    made = codec.statx.make(**{"mask": BASIC | BTIME, "blksize": 4096, "nlink": 4, "mode": node.mode,
                               "ino": node.nodeid, "size": 7, "btime": when} | fields)  # fmt: skip
    return lambda request: codec.statx_out.build(codec.statx_out.make(attr_valid=valid, stat=made))


@case("statx/request", STATX, aspect="request", since=39, source="fuse.h: fuse_statx_in")
def _(k: Bench) -> None:
    node = k.mount().tree.add("a", b"content")
    _statx(k)
    head = k.one(STATX, node.nodeid).head
    k.true("sx_mask has BTIME", head.sx_mask & BTIME, f"{head.sx_mask:#x}")
    k.equal("getattr_flags", head.getattr_flags & ~GetattrFlag.FH, 0)


@case("statx/birth-time", STATX, aspect="reply", since=39, source="fuse.h: fuse_statx.btime; statx(2)")
def _(k: Bench) -> None:
    k.mount().tree.add("a", b"content")
    k.answer(STATX, _statx_out(k))
    found = _statx(k)
    k.true("stx_mask has BTIME", found["mask"] & BTIME, f"{found['mask']:#x}")
    k.equal("birth time", (found["btime"], found["btimensec"]), (999_999_999, 42))
    k.equal("nlink, size", (found["nlink"], found["size"]), (4, 7))


@case("statx/no-birth-time", STATX, aspect="reply", since=39, source="statx(2): stx_mask says what is there")
def _(k: Bench) -> None:
    k.mount().tree.add("a", b"content")
    k.answer(STATX, _statx_out(k, mask=BASIC))
    found = _statx(k)
    k.equal("BTIME in stx_mask", found["mask"] & BTIME, 0)
    k.equal("size", found["size"], 7)


@case("statx/unasked-birth-time", STATX, GETATTR, aspect="request", level=Level.PROFILE, since=39,
      source=MEASURED + ": without BTIME in the mask GETATTR is asked")  # fmt: skip
def _(k: Bench) -> None:
    node = k.mount().tree.add("a", b"content")
    _statx(k, BASIC)
    k.equal("STATX requests", len(k.seen(STATX)), 0)
    k.true("GETATTR requests", k.seen(GETATTR, node.nodeid), 0)


@case("statx/attributes-hold", STATX, aspect="cache", level=Level.SHOULD, since=39,
      source="fuse.h: fuse_statx_out.attr_valid")  # fmt: skip
def _(k: Bench) -> None:
    node = k.mount().tree.add("a", b"content")
    k.answer(STATX, _statx_out(k, valid=60))

    def work(fd: int) -> int:
        seam.statx(f"/proc/self/fd/{fd}", 0, BASIC | BTIME)
        return os.fstat(fd).st_nlink

    k.equal("nlink", k.ok(lambda: opened(k.file("a"), os.O_RDONLY, work)), 4)
    k.equal("GETATTR requests", len(k.seen(GETATTR, node.nodeid)), 0)


@case("statx/dont-sync", STATX, GETATTR, aspect="cache", level=Level.SHOULD,
      source="statx(2): AT_STATX_DONT_SYNC takes what is known")  # fmt: skip
def _(k: Bench) -> None:
    node = k.mount().tree.add("a", b"content")
    k.equal("size", _statx(k, BASIC | BTIME, AT_DONT_SYNC)["size"], 7)
    k.equal("requests", len(k.seen(STATX)) + len(k.seen(GETATTR, node.nodeid)), 0)


@case("statx/force-sync", STATX, GETATTR, aspect="cache", level=Level.SHOULD,
      source="statx(2): AT_STATX_FORCE_SYNC asks the server whatever holds")  # fmt: skip
def _(k: Bench) -> None:
    node = k.mount().tree.add("a", b"content")
    k.tree.valid = 60

    def work() -> None:
        for _ in range(2):
            seam.statx(k.file("a"), AT_FORCE_SYNC, BASIC)

    k.ok(work)
    k.equal("GETATTR requests", len(k.seen(GETATTR, node.nodeid)), 2)


@case("statx/enosys-sticks", STATX, GETATTR, aspect="enosys", since=39,
      source="fuse.h 7.39: optional; " + MEASURED + ": GETATTR is asked instead, STATX never again")  # fmt: skip
def _(k: Bench) -> None:
    node = k.mount().tree.add("a", b"content")
    k.answer(STATX, -errno.ENOSYS)
    for _ in range(2):
        found = _statx(k)
        k.equal("size", found["size"], 7)
        k.equal("BTIME in stx_mask", found["mask"] & BTIME, 0)
    k.one(STATX)
    k.equal("GETATTR requests", len(k.seen(GETATTR, node.nodeid)), 2)


def _statx_error(number: int) -> None:
    @case(f"statx/error-{errno.errorcode[number].lower()}", STATX, aspect="error", since=39,
          source="fuse.h: out_header.error is the call's errno")  # fmt: skip
    def _(k: Bench) -> None:
        k.mount().tree.add("a", b"content")
        k.answer(STATX, -number)
        k.fails(number, lambda: seam.statx(k.file("a"), 0, BASIC | BTIME), "statx")


for _number in (errno.EIO, errno.EACCES):
    _statx_error(_number)


@case("statx/type-change", STATX, aspect="malformed", level=Level.SHOULD, since=39,
      source="an inode keeps its type; " + MEASURED + ": EIO")  # fmt: skip
def _(k: Bench) -> None:
    k.mount().tree.add("a", b"content")
    k.answer(STATX, _statx_out(k, mode=stat.S_IFDIR | 0o755))
    k.fails(errno.EIO, lambda: seam.statx(k.file("a"), 0, BASIC | BTIME), "statx")
