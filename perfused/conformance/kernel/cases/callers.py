"""Cases about who calls: ids in the header, who may use a mount at all, and set-user-id bits that a write clears."""

import errno
import os
import stat
import threading
from collections.abc import Callable

from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.match import named
from wire.flags import Fattr, InitFlag, OpenInFlag, WriteFlag
from wire.message import Request
from wire.opcodes import Opcode

LOOKUP, SETATTR, WRITE, OPEN = Opcode.LOOKUP, Opcode.SETATTR, Opcode.WRITE, Opcode.OPEN
MEASURED = "measured on Linux 6.18"
ALLOW = "fuse.rst: allow_other; without it the mount's owner alone"
HEADER = "fuse.h: fuse_in_header.uid, gid, pid"


def _as(real: int, effective: int, saved: int, work: Callable[[], object]) -> Callable[[], object]:
    """`work` with these user and group ids, and no other groups."""

    def done() -> object:
        os.setgroups([])
        os.setresgid(real, effective, saved)
        os.setresuid(real, effective, saved)
        return work()

    return done


# -- the header --------------------------------------------------------------------------------------------------------


@case("caller/effective-ids", Opcode.MKDIR, Opcode.GETXATTR, aspect="request", source=HEADER + ": the effective ones")
def _(k: Bench) -> None:
    k.mount(options="allow_other").tree.add("a").xattrs[b"user.x"] = b"1"

    def work() -> None:
        os.mkdir(k.file("z"))
        os.getxattr(k.file("a"), "user.x")

    k.ok(_as(1001, 1002, 1003, work))
    for opcode in (Opcode.MKDIR, Opcode.GETXATTR):
        header = k.seen(opcode)[0].header
        k.equal(f"uid, gid of {opcode.name}", (header.uid, header.gid), (1002, 1002))


@case("caller/pid", LOOKUP, aspect="request", source=HEADER)
def _(k: Bench) -> None:
    k.mount().tree.add("a")

    def work() -> int:
        os.stat(k.file("a"))
        return os.getpid()

    pid = k.ok(work)
    k.equal("pid", k.seen(LOOKUP)[0].header.pid, pid)


@case(
    "caller/pid-of-a-thread", LOOKUP, aspect="request", level=Level.PROFILE, source=MEASURED + ": the thread's own id"
)
def _(k: Bench) -> None:
    k.mount().tree.add("a")

    def work() -> int:
        found = []

        def thread() -> None:
            os.stat(k.file("a"))
            found.append(threading.get_native_id())

        other = threading.Thread(target=thread)
        other.start()
        other.join()
        return found[0]

    thread = k.ok(work)
    k.equal("pid", k.seen(LOOKUP)[0].header.pid, thread)


@case("caller/two-users", OPEN, aspect="request", source=HEADER + ": whoever calls now")
def _(k: Bench) -> None:
    k.mount(options="allow_other").tree.add("a")
    k.tree.valid = 60
    for uid in (1001, 1002):
        k.ok(lambda: os.close(os.open(k.file("a"), os.O_RDONLY)), uid=uid)
    k.equal("uids", [each.header.uid for each in k.seen(OPEN)], [1001, 1002])


@case("caller/one-users-open-is-not-anothers", OPEN, aspect="error", source="fuse.h: each OPEN is asked for")
def _(k: Bench) -> None:
    k.mount(options="allow_other").tree.add("a")
    k.answer(OPEN, -errno.EPERM, lambda request: request.header.uid != 0)
    rule = k.hold(Opcode.READ)

    def work() -> bytes:
        return os.read(os.open(k.file("a"), os.O_RDONLY), 10)

    k.answer(OPEN, k.tree.opened(open_flags=1), lambda request: request.header.uid == 0)
    client = k.start(work)
    request = k.held(rule)
    k.fails(errno.EPERM, lambda: os.open(k.file("a"), os.O_RDONLY), uid=1001)
    k.reply(request)
    k.equal("the first one's read", client.wait(k.patience).errno, 0)


# -- who may -----------------------------------------------------------------------------------------------------------


@case("others/allowed", OPEN, aspect="other", source=ALLOW)
def _(k: Bench) -> None:
    k.mount(options="allow_other").tree.add("a", b"content")
    k.equal("content", k.ok(lambda: open(k.file("a"), "rb").read(), uid=1001), b"content")


REFUSED: dict[str, Callable[[Bench], object]] = {
    "stat": lambda k: os.stat(k.path),
    "lookup": lambda k: os.stat(k.file("a")),
    "open": lambda k: os.open(k.file("a"), os.O_RDONLY),
    "create": lambda k: os.open(k.file("z"), os.O_CREAT | os.O_WRONLY),
    "readdir": lambda k: os.listdir(k.path),
    "chdir": lambda k: os.chdir(k.path),
}


def _refused(name: str, call: Callable[[Bench], object]) -> None:
    @case(f"others/refused-{name}", LOOKUP, aspect="error", source=ALLOW)
    def _(k: Bench) -> None:
        k.mount().tree.add("a")
        k.tree.valid = 60
        k.ok(lambda: os.stat(k.file("a")))
        before = len(k.server.requests)
        k.fails(errno.EACCES, lambda: call(k), uid=1001)
        k.equal("requests", [each.header.opcode for each in k.server.requests[before:]], [])


for _name, _refusal in REFUSED.items():
    _refused(_name, _refusal)


@case("others/refused-below", LOOKUP, aspect="error", source=ALLOW)
def _(k: Bench) -> None:
    tree = k.mount().tree
    tree.directory("d")
    tree.add("d/a")

    def work() -> None:
        fd = os.open(k.file("d"), os.O_RDONLY | os.O_DIRECTORY)
        _as(1001, 1001, 1001, lambda: os.open("a", os.O_RDONLY, dir_fd=fd))()

    k.fails(errno.EACCES, work)
    k.equal("LOOKUP of the file", [each for each in k.seen(LOOKUP) if named(b"a")(each)], [])


@case("others/refused-xattr", Opcode.SETXATTR, aspect="error", source=ALLOW)
def _(k: Bench) -> None:
    k.mount().tree.add("a")
    k.tree.valid = 60
    k.ok(lambda: os.stat(k.file("a")))
    k.fails(errno.EACCES, lambda: os.setxattr(k.file("a"), "user.x", b"1"), uid=1001)
    k.equal("SETXATTR requests", len(k.seen(Opcode.SETXATTR)), 0)


@case(
    "others/refused-with-a-root-only-in-part", LOOKUP, aspect="error", source=ALLOW + "; every id must be the owner's"
)
def _(k: Bench) -> None:
    k.mount().tree.add("a")
    for ids in ((1001, 0, 0), (0, 0, 1001)):
        k.fails(errno.EACCES, _as(*ids, lambda: os.stat(k.file("a"))), f"real, effective, saved {ids}")


@case("others/refused-root", LOOKUP, aspect="error", level=Level.SHOULD,
      source="fuse.rst: root too, lest a mount's owner stall or spy on it")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(options="user_id=1001,group_id=1001").tree.add("a")
    k.fails(errno.EACCES, lambda: os.stat(k.file("a")))
    k.ok(lambda: os.stat(k.file("a")), uid=1001)


@case("others/statfs", Opcode.STATFS, aspect="other", level=Level.PROFILE, source=MEASURED + ": zeros, and no request")
def _(k: Bench) -> None:
    k.mount()
    k.equal("blocks", k.ok(lambda: os.statvfs(k.path).f_blocks, uid=1001), 0)
    k.equal("STATFS requests", len(k.seen(Opcode.STATFS)), 0)


@case("others/open-file-goes-along", Opcode.READ, aspect="other", level=Level.SHOULD,
      source=MEASURED + ": a descriptor that the owner opened works for whoever has it")  # fmt: skip
def _(k: Bench) -> None:
    k.mount().tree.add("a", b"content")

    def work() -> object:
        fd = os.open(k.file("a"), os.O_RDONLY)
        return _as(1001, 1001, 1001, lambda: os.read(fd, 10))()

    k.equal("content", k.ok(work), b"content")


# -- set-user-id and set-group-id --------------------------------------------------------------------------------------

KILL = "write(2), inode(7): a write by a user without CAP_FSETID clears set-user-id and set-group-id"
BITS = stat.S_ISUID | stat.S_ISGID


def _write(k: Bench) -> None:
    fd = os.open(k.file("a"), os.O_WRONLY)
    os.write(fd, b"x")
    os.close(fd)


def _setid(k: Bench, flags: int = 0, mode: int = 0o6777) -> None:
    k.mount(flags=flags, options="allow_other").tree.add("a", mode=stat.S_IFREG | mode)


def _modes(k: Bench) -> list[str]:
    """Modes that SETATTR requests before the first WRITE ask for."""
    upto = [each.header.opcode for each in k.server.requests].index(WRITE)
    asked = [each.head for each in k.server.requests[:upto] if each.header.opcode == SETATTR]
    return [f"{stat.S_IMODE(head.mode):o}" for head in asked if head.valid & Fattr.MODE]


def _cleared(name: str, mode: int, wanted: list[str], level: Level = Level.SHOULD) -> None:
    @case(f"killpriv/write-{name}", WRITE, SETATTR, aspect="request", level=level, source=KILL)
    def _(k: Bench) -> None:
        _setid(k, mode=mode)
        k.ok(lambda: _write(k), uid=1001)
        k.wait_for(WRITE)
        k.equal("modes asked for before WRITE", _modes(k), wanted)


_cleared("clears-both", 0o6777, ["777"])
_cleared("clears-suid", 0o4777, ["777"])
_cleared("clears-sgid", 0o2777, ["777"])
# measured: the SETATTR comes all the same, and sets nothing
_cleared("spares-sgid-without-group-x", 0o2767, [], Level.PROFILE)
_cleared("has-nothing-to-clear", 0o777, [])


@case(
    "killpriv/write-by-root", WRITE, SETATTR, aspect="request", level=Level.SHOULD, source="capabilities(7): CAP_FSETID"
)
def _(k: Bench) -> None:
    _setid(k)
    k.ok(lambda: _write(k))
    k.wait_for(WRITE)
    k.equal("modes asked for before WRITE", _modes(k), [])


@case("killpriv/mode-afterwards", WRITE, SETATTR, aspect="cache", level=Level.SHOULD, source=KILL)
def _(k: Bench) -> None:
    _setid(k)
    k.tree.valid = 60

    def work() -> int:
        fd = os.open(k.file("a"), os.O_WRONLY)
        os.write(fd, b"x")
        return os.fstat(fd).st_mode & BITS

    k.equal("set-id bits", k.ok(work, uid=1001), 0)


@case("killpriv/write-v1", WRITE, SETATTR, aspect="flag", since=26, flags=InitFlag.HANDLE_KILLPRIV,
      source="fuse.h: FUSE_HANDLE_KILLPRIV, the server clears on write, chown and truncate")  # fmt: skip
def _(k: Bench) -> None:
    _setid(k, InitFlag.HANDLE_KILLPRIV)
    k.ok(lambda: _write(k), uid=1001)
    k.equal("WRITE_KILL_SUIDGID", k.wait_for(WRITE).head.write_flags & WriteFlag.KILL_SUIDGID, 0)
    k.equal("modes asked for", _modes(k), [])


V2 = "fuse.h: FUSE_HANDLE_KILLPRIV_V2, the kernel says when the server must clear"


def _v2(name: str, uid: int, flag: int) -> None:
    @case(f"killpriv/write-v2-{name}", WRITE, SETATTR, aspect="flag", since=33, flags=InitFlag.HANDLE_KILLPRIV_V2,
          source=V2)  # fmt: skip
    def _(k: Bench) -> None:
        _setid(k, InitFlag.HANDLE_KILLPRIV_V2)
        k.ok(lambda: _write(k), uid=uid)
        k.equal("WRITE_KILL_SUIDGID", k.wait_for(WRITE).head.write_flags & WriteFlag.KILL_SUIDGID, flag)
        k.equal("modes asked for", _modes(k), [])


_v2("by-a-user", 1001, int(WriteFlag.KILL_SUIDGID))
_v2("by-root", 0, 0)


def _truncating(name: str, uid: int, flags: int, wanted: int) -> None:
    both = InitFlag.HANDLE_KILLPRIV_V2 | InitFlag.ATOMIC_O_TRUNC

    @case(f"killpriv/open-v2-{name}", OPEN, aspect="flag", since=33, flags=both, source=V2 + "; FUSE_OPEN_KILL_SUIDGID")
    def _(k: Bench) -> None:
        _setid(k, both)
        k.ok(lambda: os.close(os.open(k.file("a"), os.O_WRONLY | flags)), uid=uid)
        k.equal("FUSE_OPEN_KILL_SUIDGID", k.one(OPEN).head.open_flags & OpenInFlag.KILL_SUIDGID, wanted)


_truncating("truncating", 1001, os.O_TRUNC, int(OpenInFlag.KILL_SUIDGID))
_truncating("not-truncating", 1001, 0, 0)
_truncating("by-root", 0, os.O_TRUNC, 0)


@case("killpriv/open-v2-create", Opcode.CREATE, aspect="flag", since=33, level=Level.PROFILE,
      flags=InitFlag.HANDLE_KILLPRIV_V2 | InitFlag.ATOMIC_O_TRUNC,
      source=MEASURED + ": CREATE with O_TRUNC has FUSE_OPEN_KILL_SUIDGID")  # fmt: skip
def _(k: Bench) -> None:
    _setid(k, InitFlag.HANDLE_KILLPRIV_V2 | InitFlag.ATOMIC_O_TRUNC)
    k.ok(lambda: os.close(os.open(k.file("z"), os.O_CREAT | os.O_WRONLY | os.O_TRUNC)), uid=1001)
    k.equal("open_flags", k.one(Opcode.CREATE).head.open_flags, int(OpenInFlag.KILL_SUIDGID))


@case("killpriv/capability-is-removed", WRITE, Opcode.REMOVEXATTR, aspect="request", level=Level.PROFILE,
      source=MEASURED + ": GETXATTR, then REMOVEXATTR of security.capability before WRITE")  # fmt: skip
def _(k: Bench) -> None:
    k.mount().tree.add("a").xattrs[b"security.capability"] = b"\x01\0\0\x02" + bytes(16)
    k.ok(lambda: _write(k))
    k.wait_for(WRITE)

    def about(request: Request) -> bool:
        return request.names == (b"security.capability",)

    order = [each.header.opcode for each in k.server.requests if each.header.opcode == WRITE or about(each)]
    k.equal("the last three", order[-2:], [Opcode.REMOVEXATTR, WRITE])


def _changing(name: str, opcode: Opcode, act: Callable[[Bench], None]) -> None:
    @case(f"killpriv/{name}-clears-both", opcode, SETATTR, aspect="request", level=Level.SHOULD, source=KILL,
          since=19 if opcode == Opcode.FALLOCATE else 28)  # fmt: skip
    def _(k: Bench) -> None:
        _setid(k)
        k.tree.add("b", b"12345678")
        k.ok(lambda: act(k), uid=1001)
        modes = [each.head.mode for each in k.seen(SETATTR) if each.head.valid & Fattr.MODE]
        k.equal("modes asked for", [f"{stat.S_IMODE(mode):o}" for mode in modes], ["777"])


def _copy(k: Bench) -> None:
    os.copy_file_range(os.open(k.file("b"), os.O_RDONLY), os.open(k.file("a"), os.O_WRONLY), 8)


_changing("fallocate", Opcode.FALLOCATE, lambda k: os.posix_fallocate(os.open(k.file("a"), os.O_RDWR), 0, 100))
_changing("copy-file-range", Opcode.COPY_FILE_RANGE, _copy)


@case("killpriv/size-of-the-reply", WRITE, SETATTR, aspect="reply", level=Level.SHOULD,
      source=KILL + "; the SETATTR's reply may tell a smaller size than the file will have")  # fmt: skip
def _(k: Bench) -> None:
    _setid(k)
    node = k.tree.at("a")
    node.data[:] = b"12345678"
    k.answer(SETATTR, lambda _: k.tree.attr_out(node, mode=stat.S_IFREG | 0o777, size=0))
    k.ok(lambda: _write(k), uid=1001)
    k.wait_for(WRITE)
    k.equal("content", bytes(node.data), b"x2345678")
