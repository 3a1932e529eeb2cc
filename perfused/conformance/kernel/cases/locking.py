"""Cases about GETLK, SETLK and SETLKW: POSIX locks, flock(2), locks of open files, those the kernel keeps."""

import errno
import fcntl
import os
import struct
from collections.abc import Callable
from typing import Any

from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.steps import errno_name, opened
from wire import codec
from wire.flags import InitFlag, LkFlag
from wire.opcodes import Opcode

GETLK, SETLK, SETLKW, FLUSH = Opcode.GETLK, Opcode.SETLK, Opcode.SETLKW, Opcode.FLUSH
POSIX, FLOCK = InitFlag.POSIX_LOCKS, InitFlag.FLOCK_LOCKS
MEASURED = "measured on Linux 6.18"
READ_LOCK, WRITE_LOCK, UNLOCK = 0, 1, 2
END = 2**63 - 1
#: struct flock: l_type, l_whence, l_start, l_len, l_pid
FLOCK_STRUCT = struct.Struct("@hhqqi4x")
TYPES = {READ_LOCK: fcntl.F_RDLCK, WRITE_LOCK: fcntl.F_WRLCK, UNLOCK: fcntl.F_UNLCK}


def _ground(k: Bench, flags: int = POSIX) -> None:
    k.mount(flags).tree.add("a", b"0123456789")
    k.answer(Opcode.OPEN, k.tree.opened(fh=5))


def _lock(fd: int, command: int, kind: int, start: int = 0, length: int = 0, whence: int = 0) -> tuple[int, ...]:
    """fcntl(2) with a struct flock, whose `kind` is the protocol's: what is in it afterwards."""
    given = FLOCK_STRUCT.pack(TYPES[kind], whence, start, length, 0)
    return FLOCK_STRUCT.unpack(fcntl.fcntl(fd, command, given))


def _locked(k: Bench, *rest: int, command: int = fcntl.F_SETLK) -> Callable[[], Any]:
    return lambda: opened(k.file("a"), os.O_RDWR, lambda fd: _lock(fd, command, *rest))


def _request(name: str, rest: tuple[int, ...], wanted: tuple[int, int, int], before: int = 0, source: str = "") -> None:
    @case(f"lock/{name}", SETLK, aspect="request", since=7, flags=POSIX,
          source="fuse.h: fuse_lk_in, fuse_file_lock; fcntl(2)" + source)  # fmt: skip
    def _(k: Bench) -> None:
        _ground(k)

        def work(fd: int) -> int:
            os.lseek(fd, before, os.SEEK_SET)
            _lock(fd, fcntl.F_SETLK, *rest)
            return os.getpid()

        pid = k.ok(lambda: opened(k.file("a"), os.O_RDWR, work))
        request = k.one(SETLK)
        k.equal("nodeid, fh", (request.header.nodeid, request.head.fh), (k.tree.at("a").nodeid, 5))
        k.equal("type, start, end", (request.head.lk.type, request.head.lk.start, request.head.lk.end), wanted)
        k.equal("lk_flags", request.head.lk_flags, 0)
        if rest[0] != UNLOCK:
            k.equal("pid", request.head.lk.pid, pid)


_request("read-lock", (READ_LOCK, 2, 4), (READ_LOCK, 2, 5))
_request("write-lock", (WRITE_LOCK, 2, 4), (WRITE_LOCK, 2, 5))
_request("unlock", (UNLOCK, 2, 4), (UNLOCK, 2, 5))
_request(
    "to-the-end", (WRITE_LOCK, 3, 0), (WRITE_LOCK, 3, END), source=": a length of 0 goes to the end, whatever it is"
)
_request("everything", (WRITE_LOCK, 0, 0), (WRITE_LOCK, 0, END))
_request("from-position", (WRITE_LOCK, 1, 2, os.SEEK_CUR), (WRITE_LOCK, 4, 5), 3, ": SEEK_CUR")
_request("from-end", (WRITE_LOCK, -2, 1, os.SEEK_END), (WRITE_LOCK, 8, 8), 0, ": SEEK_END")
_request("backwards", (WRITE_LOCK, 6, -2), (WRITE_LOCK, 4, 5), 0, ": a negative length lies before the start")


@case("lock/owner-of-a-process", SETLK, aspect="request", since=7, flags=POSIX,
      source="fuse.h: fuse_lk_in.owner; POSIX locks belong to a process, whichever descriptor")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)

    def work() -> Any:
        for _ in range(2):
            _lock(os.open(k.file("a"), os.O_RDWR), fcntl.F_SETLK, WRITE_LOCK)
        yield

    # Both live at the same time: an owner may come again once its process is gone.
    first, second = k.steps(work), k.steps(work)
    first.next()
    second.next()
    owners = [each.head.owner for each in k.seen(SETLK)]
    k.true("the same in one process", owners[0] == owners[1] and owners[2] == owners[3], owners)
    k.true("another in another", owners[0] != owners[2], owners)
    second.end()
    first.end()


@case("lock/waiting", SETLKW, aspect="request", since=7, flags=POSIX, source="fuse.h: SETLKW; fcntl(2): F_SETLKW waits")
def _(k: Bench) -> None:
    _ground(k)
    rule = k.hold(SETLKW)
    client = k.start(_locked(k, WRITE_LOCK, 2, 4, command=fcntl.F_SETLKW))
    request = k.held(rule)
    k.equal("type, start, end", (request.head.lk.type, request.head.lk.start, request.head.lk.end), (WRITE_LOCK, 2, 5))
    k.true("it waits", not client.done(0.05))
    k.reply(request)
    k.equal("errno", client.wait(k.patience).errno, 0)
    k.equal("SETLK requests", len(k.seen(SETLK)), 0)


@case("lock/waiting-lets-others-on", SETLKW, SETLK, aspect="other", since=7, flags=POSIX,
      source="a lock that is waited for keeps nobody from unlocking the one that is in its way")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    rule = k.hold(SETLKW)
    client = k.start(_locked(k, WRITE_LOCK, command=fcntl.F_SETLKW))
    request = k.held(rule)
    k.ok(_locked(k, UNLOCK))
    k.equal("SETLK's type", k.one(SETLK).head.lk.type, UNLOCK)
    k.reply(request)
    k.equal("errno", client.wait(k.patience).errno, 0)


def _error(opcode: Opcode, command: int, number: int) -> None:
    @case(f"lock/{opcode.name.lower()}-error-{errno_name(number).lower()}", opcode,
          aspect="enosys" if number == errno.ENOSYS else "error", since=7, flags=POSIX,
          level=Level.SHOULD if number == errno.ENOSYS else Level.MUST,
          source="fuse.h: out_header.error is the call's errno; " + MEASURED)  # fmt: skip
    def _(k: Bench) -> None:
        _ground(k)
        k.answer(opcode, -number)
        for _ in range(2):
            k.fails(number, _locked(k, WRITE_LOCK, command=command), "fcntl")
        k.equal("requests", len(k.seen(opcode)), 2)


for _number in (errno.EAGAIN, errno.EACCES, errno.ENOLCK, errno.ENOSYS):
    _error(SETLK, fcntl.F_SETLK, _number)
for _number in (errno.EDEADLK, errno.ENOLCK, errno.ENOSYS):
    _error(SETLKW, fcntl.F_SETLKW, _number)
for _number in (errno.EIO, errno.ENOSYS):
    _error(GETLK, fcntl.F_GETLK, _number)


# -- GETLK -------------------------------------------------------------------------------------------------------------


def _found(k: Bench, **fields: int) -> tuple[int, ...]:
    k.answer(GETLK, codec.lk_out.build(codec.lk_out.make(lk=codec.file_lock.make(**fields))))
    said: tuple[int, ...] = k.ok(_locked(k, WRITE_LOCK, 2, 4, command=fcntl.F_GETLK))
    return said


@case(
    "lock/getlk-request", GETLK, aspect="request", since=7, flags=POSIX, source="fuse.h: fuse_lk_in; fcntl(2): F_GETLK"
)
def _(k: Bench) -> None:
    _ground(k)
    _found(k, type=UNLOCK)
    request = k.one(GETLK)
    k.equal("nodeid, fh", (request.header.nodeid, request.head.fh), (k.tree.at("a").nodeid, 5))
    k.equal("type, start, end", (request.head.lk.type, request.head.lk.start, request.head.lk.end), (WRITE_LOCK, 2, 5))
    k.ok(_locked(k, WRITE_LOCK))
    k.true("an owner", request.head.owner)


@case("lock/getlk-none", GETLK, aspect="reply", since=7, flags=POSIX, source="fcntl(2): F_UNLCK, the rest as it was")
def _(k: Bench) -> None:
    _ground(k)
    k.equal("l_type, l_whence, l_start, l_len", _found(k, type=UNLOCK)[:4], (fcntl.F_UNLCK, 0, 2, 4))


@case(
    "lock/getlk-conflict", GETLK, aspect="reply", since=7, flags=POSIX, source="fcntl(2): the lock that is in the way"
)
def _(k: Bench) -> None:
    _ground(k)
    k.equal("l_type, l_whence, l_start, l_len, l_pid", _found(k, type=READ_LOCK, start=4, end=7, pid=os.getpid()),
            (fcntl.F_RDLCK, 0, 4, 4, os.getpid()))  # fmt: skip


@case("lock/getlk-conflict-to-the-end", GETLK, aspect="reply", since=7, flags=POSIX,
      source="fcntl(2): l_len 0 for a lock to the end")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.equal("l_type, l_whence, l_start, l_len", _found(k, type=WRITE_LOCK, start=4, end=END, pid=1)[:4],
            (fcntl.F_WRLCK, 0, 4, 0))  # fmt: skip


@case("lock/getlk-pid-of-nobody", GETLK, aspect="reply", level=Level.PROFILE, since=7, flags=POSIX,
      source=MEASURED + ": a process that is not known here is 0")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.equal("l_pid", _found(k, type=WRITE_LOCK, start=4, end=7, pid=0x3FFF_FFFF)[4], 0)


def _malformed(name: str, **fields: int) -> None:
    @case(f"lock/getlk-{name}", GETLK, aspect="malformed", level=Level.SHOULD, since=7, flags=POSIX,
          source="fuse.h: fuse_file_lock; " + MEASURED + ": EIO")  # fmt: skip
    def _(k: Bench) -> None:
        _ground(k)
        k.answer(GETLK, codec.lk_out.build(codec.lk_out.make(lk=codec.file_lock.make(**fields))))
        k.fails(errno.EIO, _locked(k, WRITE_LOCK, 2, 4, command=fcntl.F_GETLK), "fcntl")


_malformed("unknown-type", type=7)
_malformed("end-before-start", type=WRITE_LOCK, start=9, end=3)
_malformed("range-negative", type=WRITE_LOCK, start=2**63, end=2**63 + 5)


# -- who keeps locks ---------------------------------------------------------------------------------------------------


@case("lock/forgotten-at-close", SETLK, FLUSH, aspect="request", since=7, flags=POSIX,
      source="fuse.h: FLUSH's lock_owner tells whose locks end; no SETLK is sent for them")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.ok(_locked(k, WRITE_LOCK))
    k.settle()
    k.equal("SETLKs", [each.head.lk.type for each in k.seen(SETLK)], [WRITE_LOCK])
    k.equal("FLUSH's lock_owner", k.one(FLUSH).head.lock_owner, k.one(SETLK).head.owner)


@case("lock/forgotten-at-exit", SETLK, FLUSH, aspect="request", since=7, flags=POSIX,
      source="_exit(2) closes what is open, and FLUSH tells whose locks end")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.ok(lambda: _lock(os.open(k.file("a"), os.O_RDWR), fcntl.F_SETLK, WRITE_LOCK))
    k.equal("FLUSH's lock_owner", k.wait_for(FLUSH).head.lock_owner, k.one(SETLK).head.owner)


def _two(k: Bench, take: Callable[[int], Any], flags: int) -> tuple[int, int, int]:
    """Errnos of one process that locks, of another that cannot, and of the other once the first has let go."""
    _ground(k, flags)

    def work() -> Any:
        fd = os.open(k.file("a"), os.O_RDWR)
        take(fd)
        yield
        os.close(fd)
        yield

    def attempt() -> Any:
        return opened(k.file("a"), os.O_RDWR, take)

    steps = k.steps(work)
    steps.next()
    second = k.do(attempt).errno
    steps.next()
    third = k.do(attempt).errno
    steps.end()
    return 0, second, third


def _local(name: str, take: Callable[[int], Any], flags: InitFlag, source: str) -> None:
    @case(f"lock/{name}", SETLK, SETLKW, GETLK, aspect="flag", flags=flags, source=source)
    def _(k: Bench) -> None:
        k.equal("errnos", _two(k, take, flags), (0, errno.EAGAIN, 0))
        k.equal("requests", [len(k.seen(each)) for each in (SETLK, SETLKW, GETLK)], [0, 0, 0])


def _posix(fd: int) -> Any:
    return _lock(fd, fcntl.F_SETLK, WRITE_LOCK)


def _flocked(fd: int) -> Any:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


_NONE = InitFlag(0)
_local("posix-kept-by-the-kernel", _posix, _NONE, "fuse.h 7.7: without POSIX_LOCKS locks are the kernel's own")
_local("flock-kept-by-the-kernel", _flocked, _NONE, "fuse.h 7.17: without FLOCK_LOCKS flock(2) is the kernel's own")
_local("flock-beside-posix", _flocked, POSIX, "fuse.h 7.17: POSIX_LOCKS is not about flock(2)")
_local("posix-beside-flock", _posix, FLOCK, "fuse.h 7.17: FLOCK_LOCKS is not about fcntl(2)")


@case("lock/getlk-kept-by-the-kernel", GETLK, aspect="flag", source="fcntl(2): F_GETLK; the kernel's own lock is found")
def _(k: Bench) -> None:
    _ground(k, 0)

    def work() -> Any:
        _posix(os.open(k.file("a"), os.O_RDWR))
        yield os.getpid()

    steps = k.steps(work)
    pid = steps.next()
    found = k.ok(_locked(k, WRITE_LOCK, 2, 4, command=fcntl.F_GETLK))
    k.equal("l_type, l_start, l_len, l_pid", (found[0], *found[2:]), (fcntl.F_WRLCK, 0, 0, pid))
    k.equal("GETLK requests", len(k.seen(GETLK)), 0)
    steps.end()


# -- flock(2) and locks of open files ----------------------------------------------------------------------------------


def _flock(name: str, operation: int, opcode: Opcode, kind: int) -> None:
    @case(f"lock/flock-{name}", opcode, aspect="request", since=17, flags=FLOCK,
          source="fuse.h: LK_FLOCK; flock(2)")  # fmt: skip
    def _(k: Bench) -> None:
        _ground(k, FLOCK)
        k.ok(lambda: opened(k.file("a"), os.O_RDWR, lambda fd: fcntl.flock(fd, operation)))
        head = k.seen(opcode)[0].head
        k.equal("fh, lk_flags", (head.fh, head.lk_flags), (5, int(LkFlag.FLOCK)))
        k.equal("type, start, end", (head.lk.type, head.lk.start, head.lk.end), (kind, 0, END))


_flock("shared", fcntl.LOCK_SH, SETLKW, READ_LOCK)
_flock("exclusive", fcntl.LOCK_EX, SETLKW, WRITE_LOCK)
_flock("nonblocking", fcntl.LOCK_EX | fcntl.LOCK_NB, SETLK, WRITE_LOCK)


@case("lock/flock-unlock", SETLK, SETLKW, aspect="request", since=17, flags=FLOCK, source="fuse.h: LK_FLOCK; LOCK_UN")
def _(k: Bench) -> None:
    _ground(k, FLOCK)

    def work(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX)
        fcntl.flock(fd, fcntl.LOCK_UN)

    k.ok(lambda: opened(k.file("a"), os.O_RDWR, work))
    asked = [each.head for each in k.server.requests if each.header.opcode in (SETLK, SETLKW)]
    k.equal("types", [head.lk.type for head in asked], [WRITE_LOCK, UNLOCK])
    k.equal("one owner", len({head.owner for head in asked}), 1)


@case("lock/flock-taken", SETLK, aspect="error", since=17, flags=FLOCK, source="flock(2): EWOULDBLOCK")
def _(k: Bench) -> None:
    _ground(k, FLOCK)
    k.answer(SETLK, -errno.EAGAIN)
    k.fails(errno.EWOULDBLOCK, lambda: opened(k.file("a"), os.O_RDWR, _flocked), "flock")


@case("lock/flock-owner-is-the-open-file", SETLK, aspect="request", since=17, flags=FLOCK,
      source="flock(2): locks belong to open files, not to processes")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k, FLOCK)

    def work() -> None:
        for _ in range(2):
            fd = os.open(k.file("a"), os.O_RDWR)
            _flocked(fd)
            _flocked(os.dup(fd))

    k.ok(work)
    owners = [each.head.owner for each in k.seen(SETLK)]
    k.true("the same for a duplicate", owners[0] == owners[1] and owners[2] == owners[3], owners)
    k.true("another for another open file", owners[0] != owners[2], owners)


@case("lock/open-file-owner", SETLK, aspect="request", level=Level.SHOULD, since=7, flags=POSIX,
      source="fcntl(2): F_OFD_SETLK; locks belong to open files")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)

    def work() -> None:
        for _ in range(2):
            _lock(os.open(k.file("a"), os.O_RDWR), fcntl.F_OFD_SETLK, WRITE_LOCK, 2, 4)

    k.ok(work)
    heads = [each.head for each in k.seen(SETLK)]
    k.equal("types", [head.lk.type for head in heads][:2], [WRITE_LOCK] * 2)
    k.true("two owners", heads[0].owner != heads[1].owner, heads[0].owner)


@case("lock/open-file-forgotten-at-close", SETLK, Opcode.RELEASE, aspect="request", level=Level.PROFILE, since=7,
      flags=POSIX, source=MEASURED + ": nothing tells that F_OFD_SETLK's locks end with the open file")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.ok(_locked(k, WRITE_LOCK, 2, 4, command=fcntl.F_OFD_SETLK))
    release = k.wait_for(Opcode.RELEASE).head
    owner = k.seen(SETLK)[0].head.owner
    k.equal("SETLK, FLUSH, RELEASE of its owner",
            (len(k.seen(SETLK)), k.one(FLUSH).head.lock_owner == owner, release.lock_owner == owner),
            (1, False, False))  # fmt: skip
