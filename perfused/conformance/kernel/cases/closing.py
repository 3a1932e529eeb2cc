"""Cases about the end of an open file: FLUSH for each close, RELEASE once, and FSYNC between."""

import errno
import fcntl
import mmap
import os
from collections.abc import Callable
from typing import Any

from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.steps import code, opened
from wire.flags import FsyncFlag, InitFlag, ReleaseFlag
from wire.opcodes import Opcode

FLUSH, RELEASE, FSYNC, OPEN = Opcode.FLUSH, Opcode.RELEASE, Opcode.FSYNC, Opcode.OPEN
MEASURED = "measured on Linux 6.18"


def _ground(k: Bench, flags: int = 0, fh: int = 77) -> None:
    k.mount(flags).tree.add("a", b"content")
    k.answer(OPEN, k.tree.opened(fh=fh))


def _open_close(k: Bench, flags: int = os.O_RDWR) -> int:
    return int(opened(k.file("a"), flags, lambda fd: fd))


@case("flush/request", FLUSH, aspect="request", source="fuse.h: fuse_flush_in")
def _(k: Bench) -> None:
    _ground(k)
    k.ok(lambda: _open_close(k))
    request = k.one(FLUSH)
    k.equal("nodeid, fh", (request.header.nodeid, request.head.fh), (k.tree.at("a").nodeid, 77))
    k.equal("unused, padding", (request.head.unused, request.head.padding), (0, 0))


@case("flush/each-close", FLUSH, RELEASE, aspect="request", source="fuse.h: FLUSH on each close(2) of a descriptor")
def _(k: Bench) -> None:
    _ground(k)

    def work() -> None:
        fd = os.open(k.file("a"), os.O_RDWR)
        os.close(os.dup(fd))
        os.close(os.dup(fd))
        os.close(fd)

    k.ok(work)
    k.equal("FLUSH requests", len(k.seen(FLUSH)), 3)
    k.wait_for(RELEASE)
    k.one(RELEASE)


@case("flush/before-close-returns", FLUSH, aspect="request", source="FLUSH's error is close(2)'s, which waits for it")
def _(k: Bench) -> None:
    _ground(k)
    rule = k.hold(FLUSH)
    client = k.start(lambda: _open_close(k))
    request = k.held(rule)
    k.true("close waits", not client.done(0.05))
    k.reply(request)
    k.equal("close's errno", client.wait(k.patience).errno, 0)


@case("flush/two-handles", FLUSH, aspect="request", source="fuse.h: fuse_flush_in.fh is the one of the file closed")
def _(k: Bench) -> None:
    _ground(k)
    handles = iter((11, 22))
    k.answer(OPEN, lambda request: k.tree.opened(next(handles)))

    def work() -> None:
        one, two = (os.open(k.file("a"), os.O_RDWR) for _ in range(2))
        os.close(two)
        os.close(one)

    k.ok(work)
    k.equal("fh", [each.head.fh for each in k.seen(FLUSH)], [22, 11])


@case("flush/read-only", FLUSH, aspect="request", level=Level.SHOULD,
      source="fuse.h; " + MEASURED + ": files open for reading are flushed too")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.ok(lambda: _open_close(k, os.O_RDONLY))
    k.one(FLUSH)


@case("flush/at-exit", FLUSH, RELEASE, aspect="request", source="_exit(2) closes what is open")
def _(k: Bench) -> None:
    _ground(k)
    k.ok(lambda: os.open(k.file("a"), os.O_RDWR))
    k.wait_for(FLUSH)
    k.equal("fh released", k.wait_for(RELEASE).head.fh, 77)


@case("flush/forked", FLUSH, RELEASE, aspect="request", source="fork(2): each process closes its descriptor")
def _(k: Bench) -> None:
    _ground(k)

    def work() -> None:
        fd = os.open(k.file("a"), os.O_RDWR)
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
        os.close(fd)

    k.ok(work)
    k.equal("FLUSH requests", len(k.seen(FLUSH)), 2)
    owners = {each.head.lock_owner for each in k.seen(FLUSH)}
    k.equal("owners: one for each process", len(owners), 2)
    k.wait_for(RELEASE)
    k.one(RELEASE)


@case("flush/lock-owner", FLUSH, Opcode.SETLK, aspect="request", since=7, flags=InitFlag.POSIX_LOCKS,
      source="fuse.h: fuse_flush_in.lock_owner, whose locks the server drops")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, InitFlag.POSIX_LOCKS)
    k.ok(lambda: opened(k.file("a"), os.O_RDWR, lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)))
    k.equal("lock_owner", k.one(FLUSH).head.lock_owner, k.seen(Opcode.SETLK)[0].head.owner)


@case("flush/one-owner-a-process", FLUSH, aspect="request", level=Level.SHOULD, since=7,
      source="fcntl(2): POSIX locks belong to a process")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.ok(lambda: [_open_close(k) for _ in range(2)])
    k.equal("owners", len({each.head.lock_owner for each in k.seen(FLUSH)}), 1)


def _flush_error(number: int) -> None:
    @case(f"flush/error-{errno.errorcode[number].lower()}", FLUSH, RELEASE, aspect="error",
          source="fuse.h: FLUSH's error is close(2)'s; the file is closed all the same")  # fmt: skip
    def _(k: Bench) -> None:
        _ground(k)
        k.answer(FLUSH, -number)
        k.fails(number, lambda: _open_close(k), "close")
        k.equal("fh released", k.wait_for(RELEASE).head.fh, 77)


for _number in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
    _flush_error(_number)


@case("flush/enosys-sticks", FLUSH, aspect="enosys", source="fuse.h; " + MEASURED + ": success, not asked again")
def _(k: Bench) -> None:
    _ground(k)
    k.answer(FLUSH, -errno.ENOSYS)
    k.ok(lambda: [_open_close(k) for _ in range(3)])
    k.one(FLUSH)
    k.wait_for(RELEASE, 3)


# -- RELEASE -----------------------------------------------------------------------------------------------------------


@case("release/request", RELEASE, aspect="request", source="fuse.h: fuse_release_in")
def _(k: Bench) -> None:
    _ground(k)
    k.ok(lambda: _open_close(k))
    request = k.wait_for(RELEASE)
    k.equal("nodeid, fh", (request.header.nodeid, request.head.fh), (k.tree.at("a").nodeid, 77))
    k.equal("release_flags", ReleaseFlag(request.head.release_flags) & ReleaseFlag.FLOCK_UNLOCK, ReleaseFlag(0))


@case("release/once-a-handle", RELEASE, aspect="request", source="fuse.h: fuse_release_in")
def _(k: Bench) -> None:
    k.mount().tree.add("a")
    k.answer(Opcode.OPEN, k.tree.opened(fh=77))

    def twice() -> None:
        fd = os.open(k.file("a"), os.O_RDWR)
        os.close(os.dup(fd))
        os.close(fd)

    k.ok(twice)
    k.equal("fh", k.wait_for(Opcode.RELEASE).head.fh, 77)
    k.one(Opcode.RELEASE)


@case("release/not-before-the-last", RELEASE, FLUSH, aspect="request", source="close(2): the last reference ends it")
def _(k: Bench) -> None:
    _ground(k)

    def work() -> Any:
        fd = os.open(k.file("a"), os.O_RDWR)
        other = os.dup(fd)
        os.close(fd)
        yield
        yield os.pread(other, 7, 0)
        os.close(other)
        yield

    steps = k.steps(work)
    steps.next()
    k.settle()
    k.equal("RELEASE requests with one descriptor left", len(k.seen(RELEASE)), 0)
    k.equal("read", steps.next(), b"content")
    steps.next()
    k.wait_for(RELEASE)


@case("release/mapped", RELEASE, aspect="request", source="mmap(2): a mapping keeps the file open")
def _(k: Bench) -> None:
    _ground(k)

    def work() -> Any:
        fd = os.open(k.file("a"), os.O_RDWR)
        mapped = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
        os.close(fd)
        yield
        yield mapped[:7]
        mapped.close()
        yield

    steps = k.steps(work)
    steps.next()
    k.settle()
    k.equal("RELEASE requests while it is mapped", len(k.seen(RELEASE)), 0)
    k.equal("read", steps.next(), b"content")
    steps.next()
    k.wait_for(RELEASE)


@case("release/exec", RELEASE, aspect="request", source="execve(2) closes what is close-on-exec")
def _(k: Bench) -> None:
    _ground(k)

    def work() -> Any:
        pid = os.fork()
        if not pid:
            os.open(k.file("a"), os.O_RDWR | os.O_CLOEXEC)
            os.execv("/bin/sleep", ["sleep", "30"])
        yield pid

    steps = k.steps(work)
    pid = steps.next()
    try:
        k.equal("fh", k.wait_for(RELEASE).head.fh, 77)
    finally:
        os.kill(pid, 9)


def _flags(name: str, flags: int) -> None:
    @case(f"release/flags-{name}", RELEASE, OPEN, aspect="request", level=Level.SHOULD,
          source="fuse.h: fuse_release_in.flags are those that the file is open with")  # fmt: skip
    def _(k: Bench) -> None:
        _ground(k)
        k.ok(lambda: _open_close(k, flags))
        mask = os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK
        k.equal("flags", oct(k.wait_for(RELEASE).head.flags & mask), oct(flags))


for _name, _which in (("read-only", os.O_RDONLY), ("append", os.O_WRONLY | os.O_APPEND), ("nonblock", os.O_NONBLOCK)):
    _flags(_name, _which)


@case("release/flags-changed", RELEASE, aspect="request", level=Level.PROFILE,
      source=MEASURED + ": what fcntl(F_SETFL) changed shows in RELEASE")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.ok(lambda: opened(k.file("a"), os.O_RDWR, lambda fd: fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)))
    k.true("O_APPEND", k.wait_for(RELEASE).head.flags & os.O_APPEND)


def _ignored(number: int) -> None:
    @case(f"release/error-{errno.errorcode[number].lower()}-ignored", RELEASE,
          aspect="enosys" if number == errno.ENOSYS else "error",
          source="fuse.h; " + MEASURED + ": nobody is left to hear of it, and it is asked each time")  # fmt: skip
    def _(k: Bench) -> None:
        _ground(k)
        k.answer(RELEASE, -number)
        k.equal("errnos of close", k.ok(lambda: [code(lambda: _open_close(k)) for _ in range(2)]), [0, 0])
        k.wait_for(RELEASE, 2)


for _number in (errno.EIO, errno.ENOSYS):
    _ignored(_number)


@case("release/close-does-not-wait", RELEASE, aspect="request", level=Level.PROFILE,
      source=MEASURED + ": close(2) waits for FLUSH alone")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    rule = k.hold(RELEASE)
    k.ok(lambda: _open_close(k))
    k.reply(k.held(rule))


@case("release/flock", RELEASE, Opcode.SETLK, aspect="flag", since=17, flags=InitFlag.FLOCK_LOCKS,
      source="fuse.h 7.17: RELEASE_FLOCK_UNLOCK and lock_owner, for a file with a flock(2)")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, InitFlag.FLOCK_LOCKS)
    k.ok(lambda: opened(k.file("a"), os.O_RDWR, lambda fd: fcntl.flock(fd, fcntl.LOCK_EX)))
    head = k.wait_for(RELEASE).head
    k.true("FLOCK_UNLOCK", head.release_flags & ReleaseFlag.FLOCK_UNLOCK, head.release_flags)
    locks = k.seen(Opcode.SETLK) + k.seen(Opcode.SETLKW)
    k.equal("lock_owner", head.lock_owner, locks[0].head.owner)


# -- FSYNC -------------------------------------------------------------------------------------------------------------


def _fsync(name: str, call: Callable[[int], Any], wanted: int, source: str) -> None:
    @case(f"fsync/{name}", FSYNC, aspect="request", source=source)
    def _(k: Bench) -> None:
        _ground(k)
        k.ok(lambda: opened(k.file("a"), os.O_RDWR, call))
        request = k.one(FSYNC)
        k.equal("nodeid, fh", (request.header.nodeid, request.head.fh), (k.tree.at("a").nodeid, 77))
        k.equal("fsync_flags", request.head.fsync_flags, wanted)


_fsync("fsync", os.fsync, 0, "fuse.h: fuse_fsync_in; fsync(2) syncs metadata too")
_fsync("fdatasync", os.fdatasync, int(FsyncFlag.FDATASYNC), "fuse.h: FSYNC_FDATASYNC; fdatasync(2)")


@case("fsync/waits", FSYNC, aspect="request", source="fsync(2) returns when the data is safe")
def _(k: Bench) -> None:
    _ground(k)
    rule = k.hold(FSYNC)
    client = k.start(lambda: opened(k.file("a"), os.O_RDWR, os.fsync))
    request = k.held(rule)
    k.true("fsync waits", not client.done(0.05))
    k.reply(request)
    k.equal("fsync's errno", client.wait(k.patience).errno, 0)


@case("fsync/two-handles", FSYNC, aspect="request", source="fuse.h: fuse_fsync_in.fh is the one of the file synced")
def _(k: Bench) -> None:
    _ground(k)
    handles = iter((11, 22))
    k.answer(OPEN, lambda request: k.tree.opened(next(handles)))

    def work() -> None:
        one, two = (os.open(k.file("a"), os.O_RDWR) for _ in range(2))
        os.fsync(two)
        os.fsync(one)

    k.ok(work)
    k.equal("fh", [each.head.fh for each in k.seen(FSYNC)], [22, 11])


def _fsync_error(number: int, call: Callable[[int], Any], name: str) -> None:
    @case(f"fsync/{name}-error-{errno.errorcode[number].lower()}", FSYNC, aspect="error",
          source="fuse.h: out_header.error is the call's errno")  # fmt: skip
    def _(k: Bench) -> None:
        _ground(k)
        k.answer(FSYNC, -number)
        k.fails(number, lambda: opened(k.file("a"), os.O_RDWR, call), name)


for _number in (errno.EIO, errno.ENOSPC):
    _fsync_error(_number, os.fsync, "fsync")
_fsync_error(errno.EIO, os.fdatasync, "fdatasync")


@case("fsync/enosys-sticks", FSYNC, aspect="enosys", source="fuse.h; " + MEASURED + ": success, not asked again")
def _(k: Bench) -> None:
    _ground(k)
    k.answer(FSYNC, -errno.ENOSYS)

    def work(fd: int) -> None:
        os.fsync(fd)
        os.fdatasync(fd)
        os.fsync(fd)

    k.ok(lambda: opened(k.file("a"), os.O_RDWR, work))
    k.one(FSYNC)


@case("fsync/not-by-close", FSYNC, aspect="request", source="close(2) does not sync")
def _(k: Bench) -> None:
    _ground(k)
    k.ok(lambda: opened(k.file("a"), os.O_RDWR, lambda fd: os.write(fd, b"data")))
    k.settle()
    k.equal("FSYNC requests", len(k.seen(FSYNC)), 0)


def _synced(name: str, flags: int, wanted: int) -> None:
    @case(f"fsync/{name}-write", FSYNC, Opcode.WRITE, aspect="request", level=Level.SHOULD,
          source="open(2): O_SYNC, O_DSYNC; each write(2) is synced before it returns")  # fmt: skip
    def _(k: Bench) -> None:
        _ground(k)
        k.ok(lambda: opened(k.file("a"), os.O_WRONLY | flags, lambda fd: os.write(fd, b"data")))
        order = [each.header.opcode for each in k.server.requests if each.header.opcode in (Opcode.WRITE, FSYNC)]
        k.equal("requests", order, [Opcode.WRITE, FSYNC])
        k.equal("fsync_flags", k.one(FSYNC).head.fsync_flags, wanted)


_synced("dsync", os.O_DSYNC, int(FsyncFlag.FDATASYNC))
_synced("sync", os.O_SYNC, 0)
