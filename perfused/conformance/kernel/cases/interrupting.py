"""Cases about INTERRUPT: when it is sent, what it says, what answers to it do, and what the caller gets."""

import errno
import fcntl
import os
import signal
from collections.abc import Callable
from typing import Any

from perfused.conformance.kernel.bench import Bench, Client
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.cases.malformed_sizes import opened
from perfused.conformance.kernel.server import out
from wire.flags import InitFlag, OpenFlag
from wire.message import Request
from wire.opcodes import Opcode

O = Opcode  # noqa: E741
MEASURED = "measured on Linux 6.18"
DOCS = "kernel docs: fuse, Interrupting filesystem operations"
INTERRUPT, GETATTR, READ = O.INTERRUPT, O.GETATTR, O.READ
USR1, EINTR = signal.SIGUSR1, errno.EINTR


class _Interrupted(Exception):
    pass


def interruptible(work: Callable[[], Any]) -> Callable[[], Any]:
    """`work`, which ends with "interrupted" where SIGUSR1 ended its call; Python would call again otherwise."""

    def run() -> Any:
        def stop(*_: object) -> None:
            raise _Interrupted

        signal.signal(USR1, stop)
        try:
            value = work()
        except _Interrupted:
            return "interrupted"
        signal.signal(USR1, signal.SIG_IGN)
        return value

    return run


def ground(k: Bench, flags: int = 0, serve: bool = True) -> None:
    """A file and nothing cached; reads and writes go straight to the server."""
    k.mount(flags=flags, serve=serve)
    k.tree.open_flags = OpenFlag.DIRECT_IO
    k.tree.add("a", b"content")
    k.tree.directory("d")


def signalled(k: Bench, opcode: Opcode, work: Callable[[], Any]) -> tuple[Client, Request]:
    """Have a client make a call whose request is held, and signal it once the server has that."""
    rule = k.hold(opcode)
    client = k.start(interruptible(work))
    request = k.held(rule)
    client.signal(USR1)
    return client, request


def stat(k: Bench) -> Callable[[], Any]:
    """A call whose GETATTR can be held."""
    return lambda: os.stat(k.path).st_mode & 0o777


# -- that it comes, and what it says -----------------------------------------------------------------------------------


@case("interrupt/layout", INTERRUPT, aspect="request", since=7, source="fuse.h 7.7: fuse_interrupt_in; " + DOCS)
def _(k: Bench) -> None:
    ground(k)
    client, request = signalled(k, GETATTR, stat(k))
    came = k.wait_for(INTERRUPT)
    k.equal("the unique that it names", came.head.unique, request.header.unique)
    k.true("a unique of its own", came.header.unique != request.header.unique)
    k.reply(request, -EINTR)
    k.equal("what the caller sees", client.wait(k.patience).value, "interrupted")


@case("interrupt/unique-is-odd", INTERRUPT, aspect="request", level=Level.PROFILE, since=7,
      source=MEASURED + ": the target's unique with bit 0 set; nodeid, uid, gid and pid are 0")  # fmt: skip
def _(k: Bench) -> None:
    ground(k)
    client, request = signalled(k, GETATTR, stat(k))
    head = k.wait_for(INTERRUPT).header
    k.equal("its unique", head.unique, request.header.unique | 1)
    k.equal("nodeid, uid, gid, pid", (head.nodeid, head.uid, head.gid, head.pid), (0, 0, 0, 0))
    k.reply(request, -EINTR)
    client.wait(k.patience)


def _call(k: Bench, use: Callable[[int], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with opened(k) as fd:
            return use(fd)

    return run


CALLS: tuple[tuple[Opcode, Callable[[Bench], Callable[[], Any]]], ...] = (
    (O.LOOKUP, lambda k: lambda: os.stat(k.file("a"))),
    (O.SETATTR, lambda k: lambda: os.chmod(k.file("a"), 0o600)),
    (O.MKDIR, lambda k: lambda: os.mkdir(k.file("z"))),
    (O.UNLINK, lambda k: lambda: os.unlink(k.file("a"))),
    (O.RENAME, lambda k: lambda: os.rename(k.file("a"), k.file("z"))),
    (O.OPEN, lambda k: lambda: os.close(os.open(k.file("a"), os.O_RDONLY))),
    (O.CREATE, lambda k: lambda: os.close(os.open(k.file("z"), os.O_CREAT | os.O_RDWR))),
    (O.READ, lambda k: _call(k, lambda fd: os.read(fd, 7))),
    (O.WRITE, lambda k: _call(k, lambda fd: os.write(fd, b"data"))),
    (O.FSYNC, lambda k: _call(k, os.fsync)),
    (O.SETLKW, lambda k: _call(k, lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX))),
    (O.FALLOCATE, lambda k: _call(k, lambda fd: os.posix_fallocate(fd, 0, 10))),
    (O.GETXATTR, lambda k: lambda: os.getxattr(k.file("a"), "user.x")),
    (O.READDIR, lambda k: lambda: os.listdir(k.path)),
    (O.STATFS, lambda k: lambda: os.statvfs(k.path)),
    (O.IOCTL, lambda k: _call(k, lambda fd: fcntl.ioctl(fd, 0x8004_7001, bytes(4)))),
)


def _of(opcode: Opcode, call: Callable[[Bench], Callable[[], Any]]) -> None:
    @case(f"{opcode.name.lower()}/interrupted", opcode, INTERRUPT, aspect="interrupt", level=Level.SHOULD,
          since=19 if opcode == O.FALLOCATE else 7, source=DOCS)  # fmt: skip
    def _(k: Bench) -> None:
        ground(k, InitFlag.POSIX_LOCKS)
        client, request = signalled(k, opcode, call(k))
        named = k.wait_for(INTERRUPT).head.unique
        k.reply(request, -EINTR)
        k.equal("what the caller sees", client.wait(k.patience).value, "interrupted")
        k.equal("the unique that was named", named, request.header.unique)


for _opcode, _work in CALLS:
    _of(_opcode, _work)


@case("interrupt/ignored", INTERRUPT, GETATTR, aspect="interrupt", since=7,
      source=DOCS + ": a filesystem may ignore it, and the call ends with the answer")  # fmt: skip
def _(k: Bench) -> None:
    ground(k)
    came: list[int] = []

    def work() -> tuple[int, list[int]]:
        signal.signal(USR1, lambda number, _: came.append(number))
        return stat(k)(), came

    rule = k.hold(GETATTR)
    client = k.start(work)
    request = k.held(rule)
    client.signal(USR1)
    k.wait_for(INTERRUPT)
    k.true("the caller waits for its answer", not client.done(0.05))
    k.reply(request)
    k.equal("the root's mode, the signals taken", client.wait(k.patience).value, (0o777, [USR1]))


def _answered(name: str, error: int, body: bytes, says: int, level: Level) -> None:
    @case(f"interrupt/answer-{name}", INTERRUPT, aspect="reply", level=level, since=7, source=MEASURED)
    def _(k: Bench) -> None:
        ground(k)
        client, request = signalled(k, GETATTR, stat(k))
        unique = k.wait_for(INTERRUPT).header.unique
        k.equal("what write(2) says", k.server.write(out(unique, body, error)), says)
        k.true("the caller waits", not client.done(0.02))
        k.reply(request, -EINTR)
        k.equal("what the caller sees", client.wait(k.patience).value, "interrupted")


_answered("good", 0, b"", 0, Level.PROFILE)
_answered("eio", -errno.EIO, b"", 0, Level.PROFILE)
_answered("with-a-body", 0, bytes(8), errno.EINVAL, Level.SHOULD)


@case("interrupt/eagain-repeats-it", INTERRUPT, aspect="interrupt", since=7,
      source=DOCS + ": EAGAIN has it queued again")  # fmt: skip
def _(k: Bench) -> None:
    ground(k)
    client, request = signalled(k, GETATTR, stat(k))
    for times in (1, 2, 3):
        came = k.wait_for(INTERRUPT, times)
        k.equal("the unique that it names", came.head.unique, request.header.unique)
        k.equal("what write(2) says", k.server.write(out(came.header.unique, error=-errno.EAGAIN)), 0)
    k.wait_for(INTERRUPT, 4)
    k.reply(request, -EINTR)
    k.equal("what the caller sees", client.wait(k.patience).value, "interrupted")


@case("interrupt/enosys-ends-them-all", INTERRUPT, aspect="enosys", since=7,
      source="fuse.h 7.7; " + MEASURED + ": the server is not sent another")  # fmt: skip
def _(k: Bench) -> None:
    ground(k)
    client, request = signalled(k, GETATTR, stat(k))
    k.equal("what write(2) says", k.server.write(out(k.wait_for(INTERRUPT).header.unique, error=-errno.ENOSYS)), 0)
    k.reply(request, -EINTR)
    client.wait(k.patience)
    client, request = signalled(k, GETATTR, stat(k))
    k.settle()
    k.equal("INTERRUPTs", len(k.seen(INTERRUPT)), 1)
    k.reply(request)
    k.true("the caller ends", client.done(k.patience))


@case("interrupt/answer-too-late", INTERRUPT, aspect="malformed", since=7,
      source=MEASURED + ": ENOENT")  # fmt: skip
def _(k: Bench) -> None:
    ground(k)
    client, request = signalled(k, GETATTR, stat(k))
    unique = k.wait_for(INTERRUPT).header.unique
    k.reply(request, -EINTR)
    client.wait(k.patience)
    k.equal("what write(2) says", k.server.write(out(unique, error=-errno.EAGAIN)), errno.ENOENT)
    k.settle()
    k.equal("INTERRUPTs", len(k.seen(INTERRUPT)), 1)


# -- when --------------------------------------------------------------------------------------------------------------


@case("interrupt/not-without-a-signal", INTERRUPT, aspect="interrupt", since=7, source=DOCS)
def _(k: Bench) -> None:
    ground(k)
    rule = k.hold(GETATTR)
    client = k.start(stat(k))
    request = k.held(rule)
    k.reply(request)
    client.wait(k.patience)
    k.settle()
    k.equal("INTERRUPTs", len(k.seen(INTERRUPT)), 0)


@case("interrupt/not-for-an-ignored-signal", INTERRUPT, aspect="interrupt", since=7, source="signal(7); " + DOCS)
def _(k: Bench) -> None:
    ground(k)

    def work() -> int:
        signal.signal(USR1, signal.SIG_IGN)
        return int(stat(k)())

    rule = k.hold(GETATTR)
    client = k.start(work)
    request = k.held(rule)
    client.signal(USR1)
    k.settle()
    k.reply(request)
    k.equal("what the caller sees", client.wait(k.patience).value, 0o777)
    k.equal("INTERRUPTs", len(k.seen(INTERRUPT)), 0)


@case("interrupt/once-a-request", INTERRUPT, aspect="interrupt", level=Level.PROFILE, since=7,
      source=MEASURED + ": a second signal is not told")  # fmt: skip
def _(k: Bench) -> None:
    ground(k)

    def work() -> int:
        for number in (USR1, signal.SIGUSR2):
            signal.signal(number, lambda *_: None)
        return int(stat(k)())

    rule = k.hold(GETATTR)
    client = k.start(work)
    request = k.held(rule)
    client.signal(USR1)
    k.wait_for(INTERRUPT)
    client.signal(signal.SIGUSR2)
    k.settle()
    k.equal("INTERRUPTs", len(k.seen(INTERRUPT)), 1)
    k.reply(request)
    k.equal("what the caller sees", client.wait(k.patience).value, 0o777)


@case("interrupt/names-the-right-one", INTERRUPT, READ, aspect="interrupt", since=7, source=DOCS)
def _(k: Bench) -> None:
    ground(k)
    k.tree.add("b", b"other")
    node = k.tree.at("b").nodeid
    one, other = k.hold(READ, lambda r: r.header.nodeid != node), k.hold(READ, lambda r: r.header.nodeid == node)
    first = k.start(interruptible(lambda: open(k.file("a"), "rb", buffering=0).read(7)))
    second = k.start(interruptible(lambda: open(k.file("b"), "rb", buffering=0).read(7)))
    requests = k.held(one), k.held(other)
    second.signal(USR1)
    k.equal("the unique that it names", k.wait_for(INTERRUPT).head.unique, requests[1].header.unique)
    k.reply(requests[0])
    k.reply(requests[1], -EINTR)
    k.equal("what both see", (first.wait(k.patience).value, second.wait(k.patience).value), (b"content", "interrupted"))


@case("interrupt/of-a-request-not-read", INTERRUPT, GETATTR, aspect="interrupt", level=Level.SHOULD, since=7,
      source=MEASURED + ": the request comes first, INTERRUPT behind it")  # fmt: skip
def _(k: Bench) -> None:
    ground(k, serve=False)
    k.serve(k.start(stat(k)))
    rule = k.answer(GETATTR, None, times=1)
    client = k.start(interruptible(stat(k)))
    k.true("the caller waits", not client.done(0.1))
    client.signal(USR1)
    k.true("the caller still waits", not client.done(0.05))
    before = len(k.server.requests)
    k.step_to(INTERRUPT)
    k.equal("what comes", [each.header.opcode for each in k.server.requests[before:]], [GETATTR, INTERRUPT])
    k.reply(rule.seen[0], -EINTR)
    k.equal("what the caller sees", client.wait(k.patience).value, "interrupted")


@case("interrupt/killed-before-it-is-read", GETATTR, aspect="interrupt", level=Level.SHOULD, since=7,
      source=MEASURED + ": the caller goes at once, and its request never comes")  # fmt: skip
def _(k: Bench) -> None:
    ground(k, serve=False)
    k.serve(k.start(stat(k)))
    before = len(k.seen(GETATTR))
    client = k.start(stat(k))
    k.true("the caller waits", not client.done(0.1))
    client.signal(signal.SIGKILL)
    k.true("the caller ends", client.done(k.patience))
    k.equal("statfs's errno", k.serve(k.start(lambda: os.statvfs(k.path))).errno, 0)
    k.equal("GETATTRs", len(k.seen(GETATTR)), before)


@case("interrupt/killed-after-it-is-read", INTERRUPT, GETATTR, aspect="interrupt", level=Level.PROFILE, since=7,
      source=MEASURED + ": INTERRUPT comes, and the caller stays until the answer")  # fmt: skip
def _(k: Bench) -> None:
    ground(k)
    rule = k.hold(GETATTR)
    client = k.start(stat(k))
    request = k.held(rule)
    client.signal(signal.SIGKILL)
    k.equal("the unique that it names", k.wait_for(INTERRUPT).head.unique, request.header.unique)
    k.true("the caller is still there", not client.done(0.05))
    k.reply(request)
    k.true("the caller ends", client.done(k.patience))


@case("interrupt/comes-before-what-waits", INTERRUPT, aspect="interrupt", level=Level.SHOULD, since=7,
      source=DOCS + "; FreeBSD's interrupt.priority: INTERRUPT is read before other requests")  # fmt: skip
def _(k: Bench) -> None:
    ground(k, serve=False)
    rule = k.answer(GETATTR, None, times=1)
    client = k.start(interruptible(stat(k)))
    k.step_to(GETATTR)
    others = [k.start(lambda: os.statvfs(k.path).f_blocks) for _ in range(3)]
    k.true("they wait", not any(each.done(0.03) for each in others))
    client.signal(USR1)
    k.true("the caller waits", not client.done(0.05))
    before = len(k.server.requests)
    k.step_to(INTERRUPT)
    k.equal("requests before INTERRUPT", len(k.server.requests) - before - 1, 0)
    k.reply(rule.seen[0], -EINTR)
    for each in others:
        k.equal("blocks", k.serve(each).value, 1000)
    k.equal("what the caller sees", client.wait(k.patience).value, "interrupted")


@case("interrupt/races", INTERRUPT, GETATTR, aspect="interrupt", since=7,
      source=DOCS + ": the answer and INTERRUPT may cross; either is right, and nobody hangs")  # fmt: skip
def _(k: Bench) -> None:
    ground(k)
    rounds = 50

    def often() -> list[Any]:
        calling = [False]

        def stop(*_: object) -> None:
            if calling[0]:
                calling[0] = False
                raise _Interrupted

        signal.signal(USR1, stop)
        saw: list[Any] = []
        for _ in range(rounds):
            try:
                calling[0] = True
                value: Any = stat(k)()
                calling[0] = False
            except _Interrupted:
                value = "interrupted"
            saw.append(value)
        signal.signal(USR1, signal.SIG_IGN)
        return saw

    rule = k.answer(GETATTR, None, times=rounds)
    before = len(k.seen(GETATTR))
    client = k.start(often)
    for number in range(rounds):
        # A signal that comes before its call's request ends that round without one.
        for _ in range(100):
            if k.server.wait_for(GETATTR, before + number + 1, 0.05) or client.done():
                break
        if len(rule.seen) <= number:
            break
        if number % 2:
            client.signal(USR1)
            k.reply(rule.seen[number])
        else:
            k.reply(rule.seen[number])
            client.signal(USR1)
    saw = client.wait(k.patience).value
    k.server.rules.clear()
    k.equal("calls that ended", len(saw), rounds)
    k.true("each with its answer, or interrupted", set(saw) <= {0o777, "interrupted"}, set(saw))
    k.equal("what a last caller sees", k.ok(stat(k)), 0o777)
