"""Cases about OPEN: the flags that are sent, handles, O_TRUNC, and servers that keep no handles."""

import errno
import os
import socket
import stat
from collections.abc import Callable
from typing import Any

from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.steps import code, opened, read
from wire.flags import Fattr, InitFlag, OpenInFlag
from wire.opcodes import Opcode

OPEN, SETATTR = Opcode.OPEN, Opcode.SETATTR
MEASURED = "measured on Linux 6.18"


@case("open/request", OPEN, aspect="request", source="fuse.h: fuse_open_in")
def _(k: Bench) -> None:
    k.mount().tree.add("a", b"content")
    k.ok(lambda: os.close(os.open(k.file("a"), os.O_RDONLY)))
    request = k.one(OPEN)
    k.equal("flags' access mode", request.head.flags & os.O_ACCMODE, os.O_RDONLY)
    k.equal("nodeid", request.header.nodeid, k.tree.at("a").nodeid)


def _passed(name: str, flags: int, mask: int, wanted: int, level: Level = Level.MUST,
            source: str = "fuse.h: fuse_open_in.flags are open(2)'s") -> None:  # fmt: skip
    @case(f"open/{name}", OPEN, aspect="request", level=level, source=source)
    def _(k: Bench) -> None:
        k.mount().tree.add("a", b"content")
        k.ok(lambda: os.close(os.open(k.file("a"), flags, 0o600)))
        k.equal(f"flags & {mask:#o}", oct(k.one(OPEN).head.flags & mask), oct(wanted))


_STRIPPED = "kernel documentation, fuse.h; " + MEASURED + ": not sent, the kernel has dealt with it"
for _name, _flag in (
    ("write-only", os.O_WRONLY), ("read-write", os.O_RDWR), ("append", os.O_WRONLY | os.O_APPEND),
    ("nonblock", os.O_NONBLOCK), ("sync", os.O_WRONLY | os.O_SYNC), ("dsync", os.O_WRONLY | os.O_DSYNC),
    ("direct", os.O_DIRECT), ("noatime", os.O_NOATIME), ("nofollow", os.O_NOFOLLOW),
):  # fmt: skip
    _passed(f"{_name}-passed", _flag, _flag | os.O_ACCMODE, _flag, Level.MUST if _flag & 3 else Level.SHOULD)
for _name, _flag in (
    ("creat", os.O_CREAT), ("noctty", os.O_NOCTTY), ("cloexec", os.O_CLOEXEC), ("creat-excl", os.O_EXCL),
):  # fmt: skip
    _passed(f"{_name}-stripped", os.O_RDWR | _flag, _flag | os.O_ACCMODE, os.O_RDWR, Level.SHOULD, _STRIPPED)


@case("open/exec", OPEN, aspect="request", level=Level.SHOULD,
      source="execve(2) opens for reading; " + MEASURED + ": the kernel's own exec bit 0o40 comes along")  # fmt: skip
def _(k: Bench) -> None:
    k.mount().tree.add("a", open("/bin/true", "rb").read(), stat.S_IFREG | 0o755)
    k.equal("exit code", k.ok(lambda: os.spawnv(os.P_WAIT, k.file("a"), ["a"])), 0)
    k.equal("access mode", k.seen(OPEN)[0].head.flags & os.O_ACCMODE, os.O_RDONLY)


@case("open/truncate-by-setattr", OPEN, SETATTR, aspect="request",
      source="fuse.h: without ATOMIC_O_TRUNC open(2)'s O_TRUNC is a SETATTR of size 0")  # fmt: skip
def _(k: Bench) -> None:
    node = k.mount().tree.add("a", b"content")
    k.ok(lambda: os.close(os.open(k.file("a"), os.O_WRONLY | os.O_TRUNC)))
    k.equal("O_TRUNC in OPEN", k.one(OPEN).head.flags & os.O_TRUNC, 0)
    head = k.one(SETATTR).head
    k.equal("SETATTR", (head.valid & Fattr.SIZE, head.size), (int(Fattr.SIZE), 0))
    k.equal("what is left", bytes(node.data), b"")


@case("open/truncate-atomic", OPEN, SETATTR, aspect="flag", since=9, flags=InitFlag.ATOMIC_O_TRUNC,
      source="fuse.h: ATOMIC_O_TRUNC, the server heeds O_TRUNC itself")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(InitFlag.ATOMIC_O_TRUNC).tree.add("a", b"content")
    size = k.ok(lambda: opened(k.file("a"), os.O_WRONLY | os.O_TRUNC, lambda fd: os.fstat(fd).st_size))
    k.equal("O_TRUNC in OPEN", k.one(OPEN).head.flags & os.O_TRUNC, os.O_TRUNC)
    k.equal("SETATTR of size", [each for each in k.seen(SETATTR) if each.head.valid & Fattr.SIZE], [])
    k.equal("st_size", size, 0)


@case("open/truncate-atomic-drops-cache", OPEN, Opcode.READ, aspect="cache", since=9, flags=InitFlag.ATOMIC_O_TRUNC,
      source="open(2): O_TRUNC leaves a file of length 0, whatever was cached")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(InitFlag.ATOMIC_O_TRUNC).tree.add("a", b"content")
    k.tree.valid = 60

    def work(fd: int) -> tuple[bytes, int, bytes]:
        first = os.read(fd, 100)
        os.close(os.open(k.file("a"), os.O_WRONLY | os.O_TRUNC))
        return first, os.fstat(fd).st_size, os.pread(fd, 100, 0)

    k.equal("read, size, read", k.ok(lambda: opened(k.file("a"), os.O_RDONLY, work)), (b"content", 0, b""))


@case("open/truncate-atomic-refused", OPEN, aspect="error", since=9, flags=InitFlag.ATOMIC_O_TRUNC,
      source="an OPEN that fails truncates nothing")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(InitFlag.ATOMIC_O_TRUNC).tree.add("a", b"content")
    k.answer(OPEN, -errno.EACCES)
    k.fails(errno.EACCES, lambda: os.open(k.file("a"), os.O_WRONLY | os.O_TRUNC), "open")
    k.equal("st_size", k.ok(lambda: os.stat(k.file("a"))).st_size, 7)


def _kill(name: str, uid: int, flags: int, wanted: int, source: str) -> None:
    agreed = InitFlag.HANDLE_KILLPRIV_V2 | InitFlag.ATOMIC_O_TRUNC

    @case(f"open/{name}", OPEN, aspect="flag", since=33, flags=agreed, source=source)
    def _(k: Bench) -> None:
        k.mount(agreed, options="allow_other").tree.add("a", b"content", stat.S_IFREG | 0o6777)
        k.ok(lambda: os.close(os.open(k.file("a"), flags)), uid=uid)
        k.equal("open_flags", k.one(OPEN).head.open_flags, wanted)


_kill("kill-suidgid", 4711, os.O_WRONLY | os.O_TRUNC, int(OpenInFlag.KILL_SUIDGID),
      "fuse.h 7.33: FUSE_OPEN_KILL_SUIDGID with O_TRUNC where the caller has not CAP_FSETID")  # fmt: skip
_kill("kill-suidgid-root", 0, os.O_WRONLY | os.O_TRUNC, 0,
      "fuse.h 7.33: no FUSE_OPEN_KILL_SUIDGID where the caller has CAP_FSETID")  # fmt: skip
_kill("kill-suidgid-without-truncation", 4711, os.O_WRONLY, 0,
      "fuse.h 7.33: FUSE_OPEN_KILL_SUIDGID is about truncation")  # fmt: skip


# -- handles -----------------------------------------------------------------------------------------------------------


@case("open/handle-used", OPEN, Opcode.READ, Opcode.WRITE, Opcode.FSYNC, Opcode.FLUSH, aspect="reply",
      source="fuse.h: fuse_open_out.fh comes back in each request about the open file")  # fmt: skip
def _(k: Bench) -> None:
    k.mount().tree.add("a", b"content")
    k.answer(OPEN, k.tree.opened(fh=0xFFFF_FFFF_0000_0001))

    def work(fd: int) -> None:
        os.read(fd, 7)
        os.pwrite(fd, b"more", 3)
        os.fsync(fd)

    k.ok(lambda: opened(k.file("a"), os.O_RDWR, work))
    k.wait_for(Opcode.RELEASE)
    for opcode in (Opcode.READ, Opcode.WRITE, Opcode.FSYNC, Opcode.FLUSH, Opcode.RELEASE):
        k.equal(f"fh of {opcode.name}", k.seen(opcode)[0].head.fh, 0xFFFF_FFFF_0000_0001)


@case("open/each-its-own-handle", OPEN, Opcode.READ, Opcode.RELEASE, aspect="reply",
      source="fuse.h: an OPEN for each open(2), a handle for each OPEN")  # fmt: skip
def _(k: Bench) -> None:
    k.mount().tree.add("a", b"content")
    handles = iter((11, 22))
    k.answer(OPEN, lambda request: k.tree.opened(next(handles), open_flags=1))

    def work() -> None:
        one, two = (os.open(k.file("a"), os.O_RDONLY) for _ in range(2))
        os.read(two, 5)
        os.read(one, 3)
        os.close(two)
        os.close(one)

    k.ok(work)
    k.wait_for(Opcode.RELEASE, 2)
    k.equal("READs", [(each.head.fh, each.head.size) for each in k.seen(Opcode.READ)], [(22, 5), (11, 3)])
    k.equal("RELEASEs", sorted(each.head.fh for each in k.seen(Opcode.RELEASE)), [11, 22])


@case("open/each-caller", OPEN, aspect="request", source="fuse.h: in_header tells whose open(2) it is")
def _(k: Bench) -> None:
    k.mount(options="allow_other").tree.add("a", b"content")
    for uid in (4711, 4712):
        k.ok(lambda: read(k.file("a")), uid=uid)
    k.equal("uids", [each.header.uid for each in k.seen(OPEN)], [4711, 4712])


@case("open/error", OPEN, aspect="error", source="fuse.h: out_header.error is the call's errno")
def _(k: Bench) -> None:
    k.mount().tree.add("a")
    k.answer(OPEN, -errno.EPERM)
    k.fails(errno.EPERM, lambda: os.open(k.file("a"), os.O_RDONLY), "open")
    k.settle()
    k.equal("RELEASE requests", len(k.seen(Opcode.RELEASE)), 0)


def _error(number: int) -> None:
    @case(f"open/error-{errno.errorcode[number].lower()}", OPEN, aspect="error",
          source="fuse.h: out_header.error is the call's errno")  # fmt: skip
    def _(k: Bench) -> None:
        k.mount().tree.add("a")
        k.answer(OPEN, -number)
        k.fails(number, lambda: os.open(k.file("a"), os.O_RDWR), "open")


for _number in (errno.ENOENT, errno.EACCES, errno.EIO, errno.EROFS, errno.ETXTBSY, errno.EMFILE):
    _error(_number)


@case("open/stale-is-tried-again", OPEN, Opcode.LOOKUP, aspect="error", level=Level.PROFILE,
      source=MEASURED + ": after ESTALE the path is looked up anew, once")  # fmt: skip
def _(k: Bench) -> None:
    k.mount().tree.add("a", b"content")
    k.answer(OPEN, -errno.ESTALE, times=1)
    k.equal("what is read", k.ok(lambda: read(k.file("a"))), b"content")
    k.equal("OPEN requests", len(k.seen(OPEN)), 2)


@case("open/stale-twice", OPEN, aspect="error", source="fuse.h: out_header.error is the call's errno")
def _(k: Bench) -> None:
    k.mount().tree.add("a", b"content")
    k.answer(OPEN, -errno.ESTALE)
    k.fails(errno.ESTALE, lambda: os.open(k.file("a"), os.O_RDONLY), "open")


@case(
    "open/enosys-sticks", OPEN, aspect="enosys", level=Level.PROFILE, since=23,
    source="measured on Linux 6.18: open succeeds, and is not asked again",
)  # fmt: skip
def _(k: Bench) -> None:
    k.mount().tree.add("a", b"content")
    k.answer(OPEN, -errno.ENOSYS)

    def twice() -> list[bytes]:
        return [open(k.file("a"), "rb").read() for _ in range(2)]

    k.equal("what is read", k.ok(twice), [b"content", b"content"])
    k.one(OPEN)
    k.equal("RELEASE requests", len(k.seen(Opcode.RELEASE)), 0)


@case(
    "open/no-open-support",
    OPEN,
    Opcode.RELEASE,
    Opcode.READ,
    aspect="flag",
    since=23,
    flags=InitFlag.NO_OPEN_SUPPORT,
    source="fuse.h: NO_OPEN_SUPPORT, ENOSYS to OPEN means no handles at all",
)
def _(k: Bench) -> None:
    k.mount(InitFlag.NO_OPEN_SUPPORT).tree.add("a", b"content")
    k.answer(OPEN, -errno.ENOSYS)
    k.equal("read", k.ok(lambda: [read(k.file("a")) for _ in range(2)]), [b"content"] * 2)
    k.equal("written", k.ok(lambda: opened(k.file("a"), os.O_WRONLY, lambda fd: os.write(fd, b"CON"))), 3)
    k.settle()
    k.one(OPEN)
    k.equal("RELEASE requests", len(k.seen(Opcode.RELEASE)), 0)
    k.equal("fh", {each.head.fh for each in k.seen(Opcode.READ) + k.seen(Opcode.WRITE)}, {0})


@case(
    "open/no-open-support-keeps-cache",
    OPEN,
    Opcode.READ,
    aspect="cache",
    level=Level.PROFILE,
    since=23,
    flags=InitFlag.NO_OPEN_SUPPORT,
    source=MEASURED + ": without handles what is cached stays over opens",
)
def _(k: Bench) -> None:
    k.mount(InitFlag.NO_OPEN_SUPPORT).tree.add("a", b"content")
    k.tree.valid = 60
    k.answer(OPEN, -errno.ENOSYS)
    k.ok(lambda: [read(k.file("a")) for _ in range(2)])
    k.one(Opcode.READ)


# -- files that are not the server's -----------------------------------------------------------------------------------


def _never(name: str, mode: int, work: Callable[[str], Any], wanted: object) -> None:
    @case(f"open/{name}-is-the-kernels", OPEN, Opcode.READ, Opcode.WRITE, aspect="other",
          source="the data of special files is not their filesystem's")  # fmt: skip
    def _(k: Bench) -> None:
        k.mount().tree.add("a", mode=mode, rdev=os.makedev(1, 5))
        k.equal("what came through", k.ok(lambda: work(k.file("a"))), wanted)
        k.equal("requests", [len(k.seen(each)) for each in (OPEN, Opcode.READ, Opcode.WRITE)], [0, 0, 0])


def _fifo(path: str) -> bytes:
    fd = os.open(path, os.O_RDWR)
    os.write(fd, b"through")
    return os.read(fd, 100)


_never("fifo", stat.S_IFIFO | 0o666, _fifo, b"through")
_never("device", stat.S_IFCHR | 0o666, lambda path: read(path, size=5), bytes(5))


@case("open/socket-is-the-kernels", OPEN, Opcode.MKNOD, aspect="other",
      source="unix(7): bind(2) makes a socket by MKNOD, the rest is not its filesystem's")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(options="")

    def work() -> bytes:
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as caller:
            listener.bind(k.file("s"))
            listener.listen()
            caller.connect(k.file("s"))
            caller.sendall(b"through")
            return listener.accept()[0].recv(100)

    k.equal("what came through", k.ok(work), b"through")
    k.true("MKNOD of a socket", stat.S_ISSOCK(k.one(Opcode.MKNOD).head.mode))
    k.equal("OPEN requests", len(k.seen(OPEN)), 0)


@case("open/path-only", OPEN, aspect="other", source="open(2): O_PATH opens nothing")
def _(k: Bench) -> None:
    k.mount().tree.add("a", b"content")
    k.equal("errno of read(2)", k.ok(lambda: opened(k.file("a"), os.O_PATH, lambda fd: code(lambda: os.read(fd, 1)))),
            errno.EBADF)  # fmt: skip
    k.equal("OPEN requests", len(k.seen(OPEN)), 0)


@case("open/read-only-mount", OPEN, aspect="other", source="mount(2): MS_RDONLY; nothing is sent for an open to write")
def _(k: Bench) -> None:
    k.mount(mount_flags=1).tree.add("a", b"content")
    k.fails(errno.EROFS, lambda: os.open(k.file("a"), os.O_WRONLY), "open for writing")
    k.equal("OPEN requests", len(k.seen(OPEN)), 0)
    k.equal("read", k.ok(lambda: read(k.file("a"))), b"content")
