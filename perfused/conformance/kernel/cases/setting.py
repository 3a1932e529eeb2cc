"""Cases about SETATTR: which FATTR_* bits a call sets and with what, and what its answer does."""

import errno
import os
import stat
from collections.abc import Callable
from typing import Any, NamedTuple

from perfused.conformance.kernel import seam
from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.steps import opened
from wire.flags import Fattr, InitFlag
from wire.message import Request
from wire.opcodes import Opcode

GETATTR, SETATTR = Opcode.GETATTR, Opcode.SETATTR
MEASURED = "measured on Linux 6.18"
#: bits that a kernel may set beside those a call is about
BESIDE = Fattr.FH | Fattr.LOCKOWNER | Fattr.CTIME | Fattr.KILL_SUIDGID
MS_RDONLY = 1
NOW, OMIT = 0x3FFF_FFFF, 0x3FFF_FFFE


def _sent(k: Bench, work: Callable[[], Any], path: str = "a") -> Request:
    k.ok(work)
    return k.one(SETATTR, k.tree.at(path).nodeid)


def _times(k: Bench, atime: tuple[int, int], mtime: tuple[int, int], flags: int = 0, path: str = "a") -> None:
    seam.call("utimensat")(os.fsencode(k.file(path)), atime, mtime, flags)


class Change(NamedTuple):
    """A call, the bits it is about, and what it must put into fields of setattr_in."""

    name: str
    call: Callable[[Bench], Any]
    bits: Fattr
    fields: dict[str, int]
    source: str


F = Fattr
CHANGES = (
    Change("chmod", lambda k: os.chmod(k.file("a"), 0o4751), F.MODE, {"mode": 0o4751}, "chmod(2)"),
    Change("chown", lambda k: os.chown(k.file("a"), 71, 72), F.UID | F.GID, {"uid": 71, "gid": 72}, "chown(2)"),
    Change("chown-user", lambda k: os.chown(k.file("a"), 71, -1), F.UID, {"uid": 71}, "chown(2): -1 leaves the group"),
    Change("chown-group", lambda k: os.chown(k.file("a"), -1, 72), F.GID, {"gid": 72}, "chown(2): -1 leaves the user"),
    Change("truncate", lambda k: os.truncate(k.file("a"), 5), F.SIZE, {"size": 5}, "truncate(2)"),
    Change("truncate-to-nothing", lambda k: os.truncate(k.file("a"), 0), F.SIZE, {"size": 0}, "truncate(2)"),
    Change("truncate-longer", lambda k: os.truncate(k.file("a"), 5 << 32), F.SIZE, {"size": 5 << 32}, "truncate(2)"),
    Change("utimensat", lambda k: _times(k, (111, 222), (333, 444)), F.ATIME | F.MTIME,
           {"atime": 111, "atimensec": 222, "mtime": 333, "mtimensec": 444}, "utimensat(2)"),
    Change("utimensat-before-1970", lambda k: _times(k, (-3, 5), (-4, 6)), F.ATIME | F.MTIME,
           {"atime": 2**64 - 3, "atimensec": 5, "mtime": 2**64 - 4, "mtimensec": 6}, "utimensat(2): signed"),
    Change("utimensat-omit-atime", lambda k: _times(k, (0, OMIT), (333, 444)), F.MTIME,
           {"mtime": 333, "mtimensec": 444}, "utimensat(2): UTIME_OMIT"),
    Change("utimensat-omit-mtime", lambda k: _times(k, (111, 222), (0, OMIT)), F.ATIME,
           {"atime": 111, "atimensec": 222}, "utimensat(2): UTIME_OMIT"),
    Change("utimensat-now", lambda k: _times(k, (0, NOW), (0, NOW)), F.ATIME | F.MTIME | F.ATIME_NOW | F.MTIME_NOW, {},
           "fuse.h: FATTR_ATIME_NOW, FATTR_MTIME_NOW; utimensat(2): UTIME_NOW"),
    Change("utimensat-atime-now", lambda k: _times(k, (0, NOW), (333, 444)), F.ATIME | F.MTIME | F.ATIME_NOW,
           {"mtime": 333, "mtimensec": 444}, "fuse.h: FATTR_ATIME_NOW; utimensat(2): UTIME_NOW"),
    Change("utimensat-mtime-now", lambda k: _times(k, (111, 222), (0, NOW)), F.ATIME | F.MTIME | F.MTIME_NOW,
           {"atime": 111, "atimensec": 222}, "fuse.h: FATTR_MTIME_NOW; utimensat(2): UTIME_NOW"),
    Change("fchmod", lambda k: opened(k.file("a"), os.O_RDONLY, lambda fd: os.fchmod(fd, 0o751)), F.MODE,
           {"mode": 0o751}, "fchmod(2)"),
    Change("fchown", lambda k: opened(k.file("a"), os.O_RDONLY, lambda fd: os.fchown(fd, 71, 72)), F.UID | F.GID,
           {"uid": 71, "gid": 72}, "fchown(2)"),
    Change("futimens", lambda k: opened(k.file("a"), os.O_RDONLY,
                                        lambda fd: seam.call("futimens")(fd, (111, 222), (333, 444))),
           F.ATIME | F.MTIME, {"atime": 111, "atimensec": 222, "mtime": 333, "mtimensec": 444}, "futimens(3)"),
)  # fmt: skip


def _change(change: Change) -> None:
    @case(f"setattr/{change.name}", SETATTR, aspect="request", source=f"fuse.h: fuse_setattr_in; {change.source}")
    def _(k: Bench) -> None:
        node = k.mount().tree.add("a", b"0123456789")
        # The tree itself would make as many bytes as a call asks for.
        k.answer(SETATTR, lambda request: k.tree.attr_out(node, size=request.head.size))
        head = _sent(k, lambda: change.call(k)).head
        k.equal("valid", Fattr(head.valid & ~BESIDE), change.bits)
        for name, wanted in change.fields.items():
            got = stat.S_IMODE(head.mode) if name == "mode" else getattr(head, name)
            k.equal(name, got, wanted)


for _each in CHANGES:
    _change(_each)


@case("setattr/chmod-keeps-type", SETATTR, aspect="request", level=Level.SHOULD,
      source="fuse.h: fuse_setattr_in.mode is a st_mode; " + MEASURED)  # fmt: skip
def _(k: Bench) -> None:
    k.mount().tree.directory("d")
    head = _sent(k, lambda: os.chmod(k.file("d"), 0o700), "d").head
    k.true("no other type than the inode's", stat.S_IFMT(head.mode) in (0, stat.S_IFDIR), f"{head.mode:o}")


@case("setattr/symlink-times", SETATTR, aspect="request", source="utimensat(2): AT_SYMLINK_NOFOLLOW is about the link")
def _(k: Bench) -> None:
    tree = k.mount().tree
    tree.add("a", b"0123456789")
    tree.add("l", b"a", stat.S_IFLNK | 0o777)
    head = _sent(k, lambda: _times(k, (111, 0), (333, 0), 0x100, "l"), "l").head
    k.equal("mtime", head.mtime, 333)
    k.equal("SETATTR of the target", len(k.seen(SETATTR, tree.at("a").nodeid)), 0)


@case("setattr/ftruncate-handle", SETATTR, aspect="request", since=3,
      source="fuse.h 7.3: FATTR_FH and fh, for an open file")  # fmt: skip
def _(k: Bench) -> None:
    k.mount().tree.add("a", b"0123456789")
    k.answer(Opcode.OPEN, k.tree.opened(fh=0xFEED))
    head = _sent(k, lambda: opened(k.file("a"), os.O_RDWR, lambda fd: os.ftruncate(fd, 3))).head
    k.equal("valid has SIZE, FH", Fattr(head.valid) & (F.SIZE | F.FH), F.SIZE | F.FH)
    k.equal("fh, size", (head.fh, head.size), (0xFEED, 3))


@case("setattr/fchmod-without-handle", SETATTR, aspect="request", level=Level.PROFILE,
      source=MEASURED + ": of the calls on descriptors ftruncate(2) alone sends FATTR_FH")  # fmt: skip
def _(k: Bench) -> None:
    k.mount().tree.add("a", b"0123456789")
    head = _sent(k, lambda: opened(k.file("a"), os.O_RDWR, lambda fd: os.fchmod(fd, 0o600))).head
    k.equal("FH", Fattr(head.valid) & F.FH, F(0))


@case("setattr/truncate-lock-owner", SETATTR, Opcode.FLUSH, aspect="request", level=Level.SHOULD, since=9,
      source="fuse.h: FATTR_LOCKOWNER; the owner is that of the same process's FLUSH")  # fmt: skip
def _(k: Bench) -> None:
    k.mount().tree.add("a", b"0123456789")
    head = _sent(k, lambda: opened(k.file("a"), os.O_RDWR, lambda fd: os.ftruncate(fd, 3))).head
    k.true("LOCKOWNER", head.valid & F.LOCKOWNER, F(head.valid))
    k.equal("lock_owner", head.lock_owner, k.one(Opcode.FLUSH).head.lock_owner)


@case(
    "setattr/ctime-with-writeback",
    SETATTR,
    aspect="flag",
    level=Level.PROFILE,
    since=23,
    flags=InitFlag.WRITEBACK_CACHE,
    source=MEASURED + ": who keeps times in writeback sends FATTR_CTIME along",
)
def _(k: Bench) -> None:
    k.mount(InitFlag.WRITEBACK_CACHE).tree.add("a", b"0123456789")
    k.ok(lambda: os.chmod(k.file("a"), 0o600))
    head = k.seen(SETATTR)[0].head
    k.equal("MODE, CTIME", F(head.valid) & (F.MODE | F.CTIME), F.MODE | F.CTIME)
    k.true("ctime is now's", head.ctime > 1_500_000_000, head.ctime)


@case("setattr/no-ctime", SETATTR, aspect="request", level=Level.PROFILE,
      source=MEASURED + ": without WRITEBACK_CACHE the change time is the server's affair")  # fmt: skip
def _(k: Bench) -> None:
    k.mount().tree.add("a", b"0123456789")
    k.equal("CTIME", F(_sent(k, lambda: os.chmod(k.file("a"), 0o600)).head.valid) & F.CTIME, F(0))


# -- set-user-id -------------------------------------------------------------------------------------------------------


def _suid(k: Bench, flags: int) -> None:
    k.mount(flags, options="allow_other").tree.add("a", b"0123456789", stat.S_IFREG | 0o6777, uid=4711)


def _kill(name: str, flag: InitFlag | None, uid: int, work: Callable[[Bench], Any], cleared: bool, bit: bool | None,
          level: Level, source: str) -> None:  # fmt: skip
    @case(f"setattr/{name}", SETATTR, aspect="flag", level=level, flags=flag or 0, source=source)
    def _(k: Bench) -> None:
        _suid(k, flag or 0)
        k.ok(lambda: work(k), uid=uid)
        heads = [each.head for each in k.seen(SETATTR)]
        modes = [head.mode for head in heads if head.valid & F.MODE]
        k.equal("a mode without set-user-id sent", any(not mode & 0o4000 for mode in modes), cleared)
        if bit is not None:
            k.equal("KILL_SUIDGID sent", any(head.valid & F.KILL_SUIDGID for head in heads), bit)


_V1, _V2 = InitFlag.HANDLE_KILLPRIV, InitFlag.HANDLE_KILLPRIV_V2
_kill("truncate-clears-suid", None, 4711, lambda k: os.truncate(k.file("a"), 3), True, False, Level.MUST,
      "truncate(2) by a user clears set-user-id, which the kernel asks for unless HANDLE_KILLPRIV")  # fmt: skip
_kill("truncate-killpriv", _V1, 4711, lambda k: os.truncate(k.file("a"), 3), False, False, Level.MUST,
      "fuse.h: HANDLE_KILLPRIV, the server clears set-user-id on write, chown and truncate")  # fmt: skip
_kill("truncate-killpriv-v2", _V2, 4711, lambda k: os.truncate(k.file("a"), 3), False, True, Level.MUST,
      "fuse.h: HANDLE_KILLPRIV_V2, FATTR_KILL_SUIDGID where the caller has not CAP_FSETID")  # fmt: skip
_kill("truncate-killpriv-v2-root", _V2, 0, lambda k: os.truncate(k.file("a"), 3), False, False, Level.MUST,
      "fuse.h: HANDLE_KILLPRIV_V2, no FATTR_KILL_SUIDGID where the caller has CAP_FSETID")  # fmt: skip
_kill("chown-clears-suid", None, 0, lambda k: os.chown(k.file("a"), 5, 5), True, False, Level.MUST,
      "chown(2) clears set-user-id, which the kernel asks for unless HANDLE_KILLPRIV")  # fmt: skip
_kill("chown-killpriv", _V1, 0, lambda k: os.chown(k.file("a"), 5, 5), False, False, Level.MUST,
      "fuse.h: HANDLE_KILLPRIV, the server clears set-user-id on chown")  # fmt: skip
_kill("chown-killpriv-v2", _V2, 0, lambda k: os.chown(k.file("a"), 5, 5), False, None, Level.MUST,
      "fuse.h: HANDLE_KILLPRIV_V2, the server clears set-user-id on chown always")  # fmt: skip


# -- answers -----------------------------------------------------------------------------------------------------------


@case("setattr/reply-holds", SETATTR, GETATTR, aspect="reply", level=Level.SHOULD,
      source="fuse.h: fuse_attr_out answers with the attributes as they became, for attr_valid")  # fmt: skip
def _(k: Bench) -> None:
    node = k.mount().tree.add("a", b"0123456789")
    k.answer(SETATTR, k.tree.attr_out(node, valid=60, mode=stat.S_IFREG | 0o640, uid=88))
    k.tree.valid = 60

    def work() -> tuple[int, int]:
        os.chmod(k.file("a"), 0o644)
        found = os.stat(k.file("a"))
        return stat.S_IMODE(found.st_mode), found.st_uid

    k.equal("mode and uid of the answer, not of the call", k.ok(work), (0o640, 88))
    k.equal("GETATTR requests", len(k.seen(GETATTR, node.nodeid)), 0)


@case("setattr/other-links", SETATTR, aspect="cache", source="two names of one nodeid are one inode")
def _(k: Bench) -> None:
    tree = k.mount().tree
    tree.valid = 60
    tree.at("").entries[b"b"] = tree.add("a", b"0123456789", nlink=2).nodeid

    def work() -> int:
        os.stat(k.file("b"))
        os.chmod(k.file("a"), 0o604)
        return stat.S_IMODE(os.stat(k.file("b")).st_mode)

    k.equal("mode by the other name", oct(k.ok(work)), oct(0o604))


def _failing(number: int, name: str, call: Callable[[Bench], Any]) -> None:
    @case(f"setattr/{name}-{errno.errorcode[number].lower()}", SETATTR, aspect="error",
          source="fuse.h: out_header.error is the call's errno")  # fmt: skip
    def _(k: Bench) -> None:
        k.mount().tree.add("a", b"0123456789", stat.S_IFREG | 0o644)
        k.answer(SETATTR, -number)
        k.fails(number, lambda: call(k), name)
        found = k.ok(lambda: os.stat(k.file("a")))
        k.equal("mode, size as before", (stat.S_IMODE(found.st_mode), found.st_size), (0o644, 10))


for _number, _name, _call in (
    (errno.EPERM, "chmod", lambda k: os.chmod(k.file("a"), 0o600)),
    (errno.ENOSYS, "chmod", lambda k: os.chmod(k.file("a"), 0o600)),
    (errno.EACCES, "chown", lambda k: os.chown(k.file("a"), 1, 1)),
    (errno.EIO, "truncate", lambda k: os.truncate(k.file("a"), 3)),
    (errno.EFBIG, "truncate", lambda k: os.truncate(k.file("a"), 1 << 40)),
    (errno.ENOSPC, "truncate", lambda k: os.truncate(k.file("a"), 1 << 30)),
    (errno.EPERM, "utimensat", lambda k: os.utime(k.file("a"), (1, 2))),
):
    _failing(_number, _name, _call)


@case("setattr/enosys-asked-again", SETATTR, aspect="enosys", level=Level.SHOULD,
      source=MEASURED + ": an error each time")  # fmt: skip
def _(k: Bench) -> None:
    k.mount().tree.add("a")
    k.answer(SETATTR, -errno.ENOSYS)
    for _ in range(2):
        k.fails(errno.ENOSYS, lambda: os.chmod(k.file("a"), 0o600), "chmod")
    k.equal("SETATTR requests", len(k.seen(SETATTR)), 2)


@case("setattr/type-change", SETATTR, aspect="malformed", level=Level.SHOULD,
      source="an inode keeps its type; " + MEASURED + ": EIO")  # fmt: skip
def _(k: Bench) -> None:
    node = k.mount().tree.add("a")
    k.answer(SETATTR, k.tree.attr_out(node, mode=stat.S_IFDIR | 0o755))
    k.fails(errno.EIO, lambda: os.chmod(k.file("a"), 0o600), "chmod")


@case("setattr/read-only", SETATTR, aspect="other", source="mount(2): MS_RDONLY; nothing is sent")
def _(k: Bench) -> None:
    k.mount(mount_flags=MS_RDONLY).tree.add("a")
    k.fails(errno.EROFS, lambda: os.chmod(k.file("a"), 0o600), "chmod")
    k.fails(errno.EROFS, lambda: os.truncate(k.file("a"), 0), "truncate")
    k.equal("SETATTR requests", len(k.seen(SETATTR)), 0)


@case("setattr/time-granularity", SETATTR, aspect="flag", level=Level.SHOULD, since=23,
      source="fuse.h: fuse_init_out.time_gran, nanoseconds to which times are cut down")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(time_gran=1000).tree.add("a")
    k.ok(lambda: _times(k, (111, 123_456_789), (333, 987_654_321)))
    head = k.one(SETATTR).head
    k.equal("nanoseconds", (head.atimensec, head.mtimensec), (123_456_000, 987_654_000))


@case("setattr/truncate-drops-cached-data", SETATTR, Opcode.READ, aspect="cache",
      source="truncate(2): what is cut off reads as zeros when the file grows again")  # fmt: skip
def _(k: Bench) -> None:
    k.mount().tree.add("a", b"0123456789")
    k.tree.valid = 60

    def work(fd: int) -> bytes:
        os.read(fd, 10)
        os.ftruncate(fd, 4)
        os.ftruncate(fd, 8)
        return os.pread(fd, 10, 0)

    k.equal("what is read", k.ok(lambda: opened(k.file("a"), os.O_RDWR, work)), b"0123\0\0\0\0")
