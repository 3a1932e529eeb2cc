"""Cases about what each INIT flag changes: the same look at a mount with the flag, and at one without it.

Never here: whether a flag is offered (`flags`).
"""

import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Callable, Generator
from typing import Any

from perfused.conformance.kernel import seam
from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.cases.flags import MEASURED, slug
from perfused.conformance.kernel.cases.notify import inval_entry
from wire import codec, tails
from wire.flags import INIT_POLICY, InitFlag, IoctlFlag, LkFlag, OpenFlag, WriteFlag
from wire.message import Request
from wire.opcodes import Notify, Opcode

O, F = Opcode, InitFlag  # noqa: E741
PAGE = os.sysconf("SC_PAGE_SIZE")
#: of a bench and the flags to agree on: what there is to see
Look = Callable[[Bench, int], Any]


def effect(
    flag: InitFlag, on: Any, off: Any, *opcodes: Opcode, source: str = "", level: Level = Level.MUST,
    off_level: Level = Level.SHOULD, needs: InitFlag | int = 0,
) -> Callable[[Look], Look]:  # fmt: skip
    """Declare two cases: `look` gives `on` with the flag and `off` without it. `needs` are agreed on in both."""

    def declare(look: Look) -> Look:
        for with_it, wanted in ((True, on), (False, off)):

            @case(
                f"flag/{slug(flag)}-{'on' if with_it else 'off'}", *opcodes, aspect="flag",
                level=level if with_it else off_level, since=INIT_POLICY[flag].since, flags=flag | needs,
                source=source or f"fuse.h 7.{INIT_POLICY[flag].since}: FUSE_{flag.name}; {MEASURED}: {wanted}",
            )  # fmt: skip
            def _(k: Bench, with_it: bool = with_it, wanted: Any = wanted) -> None:
                k.equal(f"what shows FUSE_{flag.name}", look(k, int(needs) | (int(flag) if with_it else 0)), wanted)

        return look

    return declare


def at_once(k: Bench, opcode: Opcode, most: int, work: list[Callable[[], Any]]) -> int:
    """How many requests of an opcode, of `most`, the server can have at a time; all are answered afterwards."""
    k.serve(k.start(lambda: os.stat(k.path)))
    rule = k.answer(opcode, None)
    clients = [k.start(each) for each in work]
    k.step_to(opcode)
    while len(rule.seen) < most and k.server.step(0.3):
        pass
    found = len(rule.seen)
    k.server.rules.remove(rule)
    for each in rule.seen:
        k.reply(each)
    k.server.start()
    for client in clients:
        k.equal("errno", client.wait(k.patience).errno, 0)
    return found


def with_open(path: str, use: Callable[[int], Any], flags: int = os.O_RDWR) -> Any:
    """Open, use, close."""
    fd = os.open(path, flags, 0o666)
    try:
        return use(fd)
    finally:
        os.close(fd)


def kept(k: Bench, flags: int, data: bytes) -> None:
    """A file whose pages stay in the cache, read once; attributes are asked for each time."""
    k.mount(flags=flags)
    k.tree.open_flags = OpenFlag.KEEP_CACHE
    k.tree.add("a", data)
    k.equal("what is read", k.ok(lambda: open(k.file("a"), "rb").read()), data)


# -- locks -------------------------------------------------------------------------------------------------------------


@effect(F.POSIX_LOCKS, True, False, O.SETLK)
def _(k: Bench, flags: int) -> bool:
    k.mount(flags=flags)
    k.tree.add("a")
    k.ok(lambda: with_open(k.file("a"), lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)))
    return bool(k.seen(O.SETLK))


@effect(F.FLOCK_LOCKS, {LkFlag.FLOCK}, set(), O.SETLK)
def _(k: Bench, flags: int) -> set[int]:
    k.mount(flags=flags)
    k.tree.add("a")
    k.ok(lambda: with_open(k.file("a"), lambda fd: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)))
    return {each.head.lk_flags & LkFlag.FLOCK for each in k.seen(O.SETLK)}


# -- opening and making ------------------------------------------------------------------------------------------------


@effect(F.ATOMIC_O_TRUNC, (True, 0), (False, 1), O.OPEN, O.SETATTR)
def _(k: Bench, flags: int) -> tuple[bool, int]:
    k.mount(flags=flags)
    k.tree.add("a", b"content")
    k.ok(lambda: with_open(k.file("a"), lambda fd: None, os.O_WRONLY | os.O_TRUNC))
    k.equal("what is left", bytes(k.tree.at("a").data), b"")
    return bool(k.one(O.OPEN).head.flags & os.O_TRUNC), len(k.seen(O.SETATTR))


@effect(F.DONT_MASK, (0o666, 0o027), (0o640, 0o027), O.CREATE, off_level=Level.MUST)
def _(k: Bench, flags: int) -> tuple[int, int]:
    k.mount(flags=flags)

    def make() -> None:
        os.umask(0o027)
        with_open(k.file("n"), lambda fd: None, os.O_CREAT | os.O_WRONLY)

    k.ok(make)
    head = k.one(O.CREATE).head
    return stat.S_IMODE(head.mode), head.umask


@effect(F.NO_EXPORT_SUPPORT, errno.EOPNOTSUPP, 0, level=Level.SHOULD)
def _(k: Bench, flags: int) -> int:
    k.mount(flags=flags)
    k.tree.add("a")
    return k.do(lambda: seam.file_handle(k.file("a"))).errno


@effect(F.EXPORT_SUPPORT, (b"content", True), (errno.ESTALE, False), O.LOOKUP)
def _(k: Bench, flags: int) -> tuple[Any, bool]:
    """A handle is opened after its inode was forgotten."""
    k.mount(flags=flags)
    k.tree.add("a", b"content")
    handle = k.ok(lambda: seam.file_handle(k.file("a")))
    k.server.notify(Notify.INVAL_ENTRY, inval_entry(1, b"a"))
    k.wait_for(O.FORGET)

    def read() -> bytes:
        root = os.open(k.path, os.O_RDONLY)
        return os.read(seam.open_by_handle(root, handle, os.O_RDONLY), 100)

    outcome = k.do(read)
    return outcome.value or outcome.errno, b"." in {each.names[0] for each in k.seen(O.LOOKUP)}


@effect(F.HANDLE_KILLPRIV, False, True, O.SETATTR)
def _(k: Bench, flags: int) -> bool:
    """Another user writes to a set-user-id file: whether the kernel takes the bit away by itself."""
    return _killed(k, flags)[0]


@effect(F.HANDLE_KILLPRIV_V2, (False, True), (True, False), O.SETATTR, O.WRITE)
def _(k: Bench, flags: int) -> tuple[bool, bool]:
    return _killed(k, flags)


def _killed(k: Bench, flags: int) -> tuple[bool, bool]:
    """Whether a write by another user sends SETATTR of the mode, and whether WRITE says FUSE_WRITE_KILL_SUIDGID."""
    k.mount(flags=flags, options="allow_other")
    k.tree.add("a", mode=stat.S_IFREG | 0o6777)
    k.ok(lambda: with_open(k.file("a"), lambda fd: os.write(fd, b"data")), uid=1001)
    sent = any(each.head.valid & 1 for each in k.seen(O.SETATTR))
    return sent, bool(k.one(O.WRITE).head.write_flags & WriteFlag.KILL_SUIDGID)


@effect(F.POSIX_ACL, errno.EACCES, 0, O.OPEN, level=Level.SHOULD)
def _(k: Bench, flags: int) -> int:
    """With access lists in the kernel it checks modes, as with default_permissions."""
    k.mount(flags=flags, options="allow_other")
    k.tree.add("a", mode=stat.S_IFREG | 0o600)
    return k.do(lambda: with_open(k.file("a"), lambda fd: None), uid=1001).errno


@effect(F.SETXATTR_EXT, 16, 8, O.SETXATTR, off_level=Level.MUST)
def _(k: Bench, flags: int) -> int | None:
    k.mount(flags=flags)
    k.tree.add("a")
    k.ok(lambda: os.setxattr(k.file("a"), "user.x", b"value"))
    k.equal("what was set", k.tree.at("a").xattrs, {b"user.x": b"value"})
    return k.one(O.SETXATTR).head_size


@effect(F.SECURITY_CTX, True, False, O.MKDIR, off_level=Level.MUST)
def _(k: Bench, flags: int) -> bool:
    k.mount(flags=flags)
    k.ok(lambda: os.mkdir(k.file("d")))
    return any(each.type <= tails.MAX_NR_SECCTX for each in k.one(O.MKDIR).extensions)


@effect(F.CREATE_SUPP_GROUP, True, False, O.MKDIR, off_level=Level.MUST)
def _(k: Bench, flags: int) -> bool:
    k.mount(flags=flags, options="allow_other")
    k.tree.at("").gid = 2002
    k.ok(lambda: os.stat(k.path))

    def make() -> None:
        os.setgroups([2002])
        os.mkdir(k.file("d"))

    k.ok(make)
    return any(each.type == tails.EXT_GROUPS for each in k.one(O.MKDIR).extensions)


def _unsupported(flag: InitFlag, opcode: Opcode, work: Callable[[Bench], Any]) -> None:
    @effect(flag, 1, 1, opcode, level=Level.SHOULD, off_level=Level.PROFILE)
    def _(k: Bench, flags: int) -> int:
        """ENOSYS to an open: it works and is not asked again; Linux does so without the flag too."""
        k.mount(flags=flags)
        k.tree.add("a", b"content")
        k.answer(opcode, -errno.ENOSYS)
        for _ in range(2):
            k.ok(lambda: work(k))
        return len(k.seen(opcode))


_unsupported(F.NO_OPEN_SUPPORT, O.OPEN, lambda k: with_open(k.file("a"), lambda fd: os.read(fd, 7)))
_unsupported(F.NO_OPENDIR_SUPPORT, O.OPENDIR, lambda k: os.listdir(k.path))


# -- reading and writing -----------------------------------------------------------------------------------------------


@effect(F.ASYNC_READ, True, False, O.READ, needs=F.MAX_PAGES, level=Level.SHOULD)
def _(k: Bench, flags: int) -> bool:
    """Whether readahead has several READs with the server at a time."""
    k.mount(serve=False, flags=flags, max_pages=1)
    k.tree.add("a", bytes(16 * PAGE))
    return at_once(k, O.READ, 2, [lambda: len(open(k.file("a"), "rb").read())]) > 1


@effect(F.ASYNC_DIO, True, False, O.READ, needs=F.MAX_PAGES, level=Level.SHOULD)
def _(k: Bench, flags: int) -> bool:
    """Whether a read with O_DIRECT has several READs with the server at a time."""
    k.mount(serve=False, flags=flags, max_pages=1)
    k.tree.add("a", bytes(8 * PAGE))

    def read() -> int:
        room = mmap.mmap(-1, 8 * PAGE)
        return int(with_open(k.file("a"), lambda fd: os.readv(fd, [room]), os.O_RDONLY | os.O_DIRECT))

    return at_once(k, O.READ, 2, [read]) > 1


@effect(F.BIG_WRITES, 4 * PAGE, PAGE, O.WRITE, off_level=Level.PROFILE)
def _(k: Bench, flags: int) -> int:
    k.mount(flags=flags, max_write=8 * PAGE)
    k.tree.add("a")
    k.ok(lambda: with_open(k.file("a"), lambda fd: os.write(fd, bytes(4 * PAGE))))
    k.equal("what came", bytes(k.tree.at("a").data), bytes(4 * PAGE))
    return max(int(each.head.size) for each in k.seen(O.WRITE))


@effect(F.MAX_PAGES, 64 * PAGE, 32 * PAGE, O.READ, off_level=Level.PROFILE)
def _(k: Bench, flags: int) -> int:
    k.mount(flags=flags, max_pages=64)
    k.tree.open_flags = OpenFlag.DIRECT_IO
    k.tree.add("a", bytes(128 * PAGE))
    k.ok(lambda: with_open(k.file("a"), lambda fd: os.read(fd, 128 * PAGE)))
    return max(int(each.head.size) for each in k.seen(O.READ))


@effect(F.WRITEBACK_CACHE, 0, 1, O.WRITE, off_level=Level.MUST)
def _(k: Bench, flags: int) -> int:
    """How many WRITEs there are while the file is still open."""
    k.mount(flags=flags)
    k.tree.valid = 60
    k.tree.add("a", bytes(10))

    def work() -> Generator[Any, None, None]:
        fd = os.open(k.file("a"), os.O_RDWR)
        yield os.write(fd, b"0123456789")
        os.close(fd)
        yield None

    client = k.steps(work)
    client.next()
    found = len(k.seen(O.WRITE))
    client.next()
    k.equal("what the server has at last", bytes(k.tree.at("a").data), b"0123456789")
    return found


@effect(F.AUTO_INVAL_DATA, b"content", b"before!", O.READ, off_level=Level.PROFILE)
def _(k: Bench, flags: int) -> bytes:
    """The server's file has another mtime: what is read of a file whose pages are kept."""
    kept(k, flags, b"before!")
    k.tree.at("a").data[:] = b"content"
    k.tree.at("a").mtime += 10
    return bytes(k.ok(lambda: open(k.file("a"), "rb").read()))


@effect(F.EXPLICIT_INVAL_DATA, b"before!", b"longer", O.READ)
def _(k: Bench, flags: int) -> bytes:
    """The server's file has another size: what is read of the pages that were kept."""
    kept(k, flags, b"before!" + bytes(2 * PAGE))
    k.tree.at("a").data[:] = b"longer!" + bytes(4 * PAGE)
    return bytes(k.ok(lambda: open(k.file("a"), "rb").read()))[: 7 if flags else 6]


@effect(F.DIRECT_IO_ALLOW_MMAP, 0, errno.ENODEV, O.OPEN, level=Level.SHOULD)
def _(k: Bench, flags: int) -> int:
    k.mount(flags=flags)
    k.tree.open_flags = OpenFlag.DIRECT_IO
    k.tree.add("a", bytes(PAGE))
    return k.do(lambda: with_open(k.file("a"), lambda fd: len(mmap.mmap(fd, PAGE)))).errno


@effect(F.CACHE_SYMLINKS, 1, 2, O.READLINK, off_level=Level.MUST)
def _(k: Bench, flags: int) -> int:
    k.mount(flags=flags)
    k.tree.valid = 60
    k.tree.add("l", b"target", stat.S_IFLNK | 0o777)
    k.equal("the target", k.ok(lambda: {os.readlink(k.file("l")) for _ in range(2)}), {"target"})
    return len(k.seen(O.READLINK))


# -- directories -------------------------------------------------------------------------------------------------------


@effect(F.PARALLEL_DIROPS, 2, 1, O.LOOKUP, level=Level.SHOULD)
def _(k: Bench, flags: int) -> int:
    k.mount(serve=False, flags=flags)
    k.tree.add("a")
    k.tree.add("b")
    return at_once(k, O.LOOKUP, 2, [lambda: os.stat(k.file("a")), lambda: os.stat(k.file("b"))])


@effect(F.DO_READDIRPLUS, (0, True), (True, 0), O.READDIR, O.READDIRPLUS, off_level=Level.MUST)
def _(k: Bench, flags: int) -> tuple[bool, bool]:
    k.mount(flags=flags)
    k.tree.add("a")
    k.equal("what is listed", k.ok(lambda: os.listdir(k.path)), ["a"])
    return bool(k.seen(O.READDIR)), bool(k.seen(O.READDIRPLUS))


@effect(
    F.READDIRPLUS_AUTO,
    (True, False),
    (True, True),
    O.READDIR,
    O.READDIRPLUS,
    needs=F.DO_READDIRPLUS,
    level=Level.SHOULD,
)
def _(k: Bench, flags: int) -> tuple[bool, bool]:
    """Whether a list that nobody looks into begins with READDIRPLUS, and whether it goes on with it."""
    k.mount(flags=flags)
    names = [b"n%03d" % number for number in range(4)]

    def answer(request: Request) -> bytes:
        at = request.head.offset
        if at >= len(names):
            return b""
        if request.header.opcode == O.READDIR:
            return tails.pack_dirent(tails.Dirent(10 + at, at + 1, 8, names[at]))
        return tails.pack_direntplus(tails.Direntplus(bytes(128), 10 + at, at + 1, 8, names[at]))

    k.answer(O.READDIR, answer)
    k.answer(O.READDIRPLUS, answer)
    k.equal("what is listed", k.ok(lambda: os.listdir(k.path)), [name.decode() for name in names])
    return bool(k.seen(O.READDIRPLUS)), any(each.head.offset for each in k.seen(O.READDIRPLUS))


@effect(F.HAS_IOCTL_DIR, (0, IoctlFlag.DIR), (0, IoctlFlag.DIR), O.IOCTL, off_level=Level.PROFILE)
def _(k: Bench, flags: int) -> tuple[int, int]:
    """The flag tells the server; Linux goes by its minor, and sends the same without."""
    return _ioctl(k, flags, 45)


@case("minor/ioctl-of-a-directory-before-18", O.IOCTL, aspect="minor", since=18, minors=(17,),
      source="fuse.h 7.18: FUSE_IOCTL_DIR; an older server is not asked")  # fmt: skip
def _(k: Bench) -> None:
    k.equal("errno, flags sent", _ioctl(k, 0, 17), (errno.ENOTTY, 0))


def _ioctl(k: Bench, flags: int, minor: int) -> tuple[int, int]:
    k.mount(flags=flags, minor=minor)
    k.tree.directory("d")
    k.answer(O.IOCTL, lambda request: codec.ioctl_out.pack(0, 0, 0, 0) + bytes(request.head.out_size))
    outcome = k.do(lambda: with_open(k.file("d"), lambda fd: fcntl.ioctl(fd, 0x8004_7001, bytes(4)), os.O_RDONLY))
    return outcome.errno, sum(each.head.flags & IoctlFlag.DIR for each in k.seen(O.IOCTL))
