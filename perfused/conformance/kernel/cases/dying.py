"""Cases about ends: a server that dies with requests queued, read and held; aborts; unmounts by force and lazily.

A connection ends with the last descriptor of its device, and a descriptor that a thread reads is not gone when it is
closed: these servers are driven by hand. Never here: INIT's own ends (`init`), clones' (`device_clones`).
"""

import errno
import fcntl
import os
import select
from collections.abc import Callable, Generator
from typing import Any

from perfused.conformance.kernel import seam
from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.cases.device import ERR, code, events
from perfused.conformance.kernel.server import BUFFER, out
from perfused.conformance.kernel.steps import Steps
from wire.flags import InitFlag, OpenFlag
from wire.opcodes import Opcode

O = Opcode  # noqa: E741
MEASURED = "measured on Linux 6.18"
DOCS = "fuse.rst: Aborting a filesystem connection"
ABORTED, NOT_CONNECTED = errno.ECONNABORTED, errno.ENOTCONN


def ground(k: Bench, flags: int = 0) -> None:
    """Mount, driven by hand; reads and writes go straight to the server."""
    k.mount(serve=False, flags=flags)
    k.tree.open_flags = OpenFlag.DIRECT_IO
    k.tree.add("a", b"content")
    k.serve(k.start(lambda: os.stat(k.path)))


def die(k: Bench) -> None:
    """Close the device, as the kernel does for a server that dies."""
    os.close(k.server.fd)
    k.servers.remove(k.server)


def opening(k: Bench, then: Callable[[int], Any], flags: int = os.O_RDWR) -> Steps:
    """A client with the file open, which goes on to `then`; the first step is through."""

    def work() -> Generator[Any, None, None]:
        fd = os.open(k.file("a"), flags)
        yield fd
        yield then(fd)
        os.close(fd)

    client = k.steps(work)
    client.begin()
    for _ in range(200):
        if client.done():
            break
        k.server.step(0.02)
    client.ended()
    return client


# -- the server dies ---------------------------------------------------------------------------------------------------


@case("death/request-not-read", O.STATFS, aspect="death", source=f"{DOCS}; FreeBSD's destroy.unsent_operations")
def _(k: Bench) -> None:
    ground(k)
    clients = [k.start(lambda: os.statvfs(k.path)) for _ in range(3)]
    k.true("they wait", not any(each.done(0.05) for each in clients))
    die(k)
    k.equal("the callers' errnos", {each.wait(k.patience).errno for each in clients}, {ABORTED})


def _held(opcode: Opcode, call: Callable[[Bench], Any], gets: int = ABORTED) -> None:
    @case(f"death/{opcode.name.lower()}-unanswered", opcode, aspect="death",
          source=f"{DOCS}; {MEASURED}: {errno.errorcode[gets]}")  # fmt: skip
    def _(k: Bench) -> None:
        ground(k, InitFlag.POSIX_LOCKS)
        k.answer(opcode, None)
        client = k.start(lambda: call(k))
        k.step_to(opcode, len(k.seen(opcode)) + 1)
        k.true("the caller waits", not client.done(0.02))
        die(k)
        k.equal("the caller's errno", client.wait(k.patience).errno, gets)


def _open(use: Callable[[int], Any]) -> Callable[[Bench], Any]:
    def run(k: Bench) -> Any:
        return use(os.open(k.file("a"), os.O_RDWR))

    return run


for _opcode, _call in (
    (O.LOOKUP, lambda k: os.stat(k.file("a"))),
    (O.GETATTR, lambda k: os.stat(k.path)),
    (O.OPEN, lambda k: os.open(k.file("a"), os.O_RDONLY)),
    (O.CREATE, lambda k: os.open(k.file("n"), os.O_CREAT | os.O_WRONLY)),
    (O.READ, _open(lambda fd: os.read(fd, 7))),
    (O.WRITE, _open(lambda fd: os.write(fd, b"data"))),
    (O.FLUSH, _open(os.close)),
    (O.FSYNC, _open(os.fsync)),
    (O.MKDIR, lambda k: os.mkdir(k.file("n"))),
    (O.READDIR, lambda k: os.listdir(k.path)),
    (O.IOCTL, _open(lambda fd: fcntl.ioctl(fd, 0x8004_7001, bytes(4)))),
):  # fmt: skip
    _held(_opcode, _call)


@case("death/calls-afterwards", O.GETATTR, O.LOOKUP, aspect="death", source=f"{DOCS}; {MEASURED}: ENOTCONN")
def _(k: Bench) -> None:
    ground(k)
    die(k)
    for name, call in (
        ("stat", lambda: os.stat(k.path)),
        ("open", lambda: os.open(k.file("a"), os.O_RDONLY)),
        ("list", lambda: os.listdir(k.path)),
        ("statfs", lambda: os.statvfs(k.path)),
        ("mkdir", lambda: os.mkdir(k.file("n"))),
    ):
        k.fails(NOT_CONNECTED, call, name)


def _after(name: str, use: Callable[[int], Any], gets: int, level: Level = Level.SHOULD) -> None:
    @case(f"death/open-file-{name}", O.READ, O.WRITE, O.FLUSH, aspect="death", level=level,
          source=f"{DOCS}; {MEASURED}: {errno.errorcode.get(gets, 'success')}")  # fmt: skip
    def _(k: Bench) -> None:
        ground(k)
        client = opening(k, use)
        die(k)
        client.begin()
        k.equal("errno", client.ended()[1], gets)


_after("read", lambda fd: os.read(fd, 7), NOT_CONNECTED)
_after("write", lambda fd: os.write(fd, b"data"), NOT_CONNECTED)
_after("fstat", os.fstat, NOT_CONNECTED)
_after("fsync", os.fsync, NOT_CONNECTED)
_after("truncate", lambda fd: os.ftruncate(fd, 1), NOT_CONNECTED)
_after("close", os.close, NOT_CONNECTED, Level.PROFILE)
_after("poll", lambda fd: _polled(fd), errno.EIO, Level.PROFILE)


def _polled(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if dict(poll.poll(0)).get(fd, 0) & select.POLLERR:
        raise OSError(errno.EIO, "POLLERR")


@case("death/unmounted-afterwards", aspect="death", source="umount(2): nobody needs to be asked")
def _(k: Bench) -> None:
    ground(k)
    die(k)
    k.ok(lambda: seam.umount(k.path))
    k.equal("what is there", k.ok(lambda: os.listdir(k.path)), [])


@case("death/lookups-are-not-answered-from-the-cache", O.GETATTR, aspect="death", level=Level.PROFILE,
      source=MEASURED + ": attributes that are still good are given, what must be asked for is ENOTCONN")  # fmt: skip
def _(k: Bench) -> None:
    ground(k)
    k.tree.valid = 60
    k.serve(k.start(lambda: os.stat(k.file("a"))))
    die(k)
    k.equal("the size, cached", k.ok(lambda: os.stat(k.file("a")).st_size), 7)
    k.fails(NOT_CONNECTED, lambda: os.stat(k.file("b")), "stat of what is not cached")


# -- abort -------------------------------------------------------------------------------------------------------------


def abort(k: Bench) -> None:
    """Abort by fusectl. Skips where there is none."""
    seam.connection_control(k.path, "abort").write_text("1")


@case("death/abort-ends-calls", O.STATFS, aspect="death", source=f"{DOCS}; fusectl's abort")
def _(k: Bench) -> None:
    ground(k)
    k.answer(O.STATFS, None)
    control = seam.connection_control(k.path, "abort")
    held = k.start(lambda: os.statvfs(k.path))
    k.step_to(O.STATFS)
    queued = k.start(lambda: os.mkdir(k.file("n")))
    k.true("it waits", not queued.done(0.05))
    control.write_text("1")
    k.equal("the callers' errnos", (held.wait(k.patience).errno, queued.wait(k.patience).errno), (ABORTED, ABORTED))


def _aborted(name: str, flags: InitFlag, gets: int) -> None:
    @case(f"death/abort-{name}", aspect="flag" if flags else "death", level=Level.SHOULD, since=27, flags=flags,
          source="fuse.h 7.27: FUSE_ABORT_ERROR has reads of an aborted device say ECONNABORTED")  # fmt: skip
    def _(k: Bench) -> None:
        ground(k, flags)
        abort(k)
        k.equal("errno of read(2)", code(lambda: os.read(k.server.fd, BUFFER)), gets)
        k.true("POLLERR", events(k.server.fd) & ERR)


_aborted("is-told-to-the-server", InitFlag.ABORT_ERROR, ABORTED)
_aborted("is-an-end-without-the-flag", InitFlag(0), errno.ENODEV)


@case("death/unmount-with-abort-error", aspect="flag", level=Level.SHOULD, since=27, flags=InitFlag.ABORT_ERROR,
      source="fuse.h 7.27: an unmount is no abort, and says ENODEV")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(flags=InitFlag.ABORT_ERROR)
    k.ok(lambda: os.stat(k.path))
    seam.umount(k.path)
    k.true("the end comes", k.server.join(k.patience))
    k.equal("what read(2) says", k.server.ended, errno.ENODEV)


@case("death/answer-after-abort", O.STATFS, aspect="death", level=Level.SHOULD, source=MEASURED + ": ENOENT")
def _(k: Bench) -> None:
    ground(k)
    rule = k.answer(O.STATFS, None)
    client = k.start(lambda: os.statvfs(k.path))
    k.step_to(O.STATFS)
    abort(k)
    k.equal("the caller's errno", client.wait(k.patience).errno, ABORTED)
    answer = k.tree.answer(rule.seen[0])
    assert isinstance(answer, bytes)
    k.equal("what write(2) says", k.server.write(out(rule.seen[0].header.unique, answer)), errno.ENOENT)


def _waiting(name: str, held: int) -> None:
    @case(f"death/fusectl-waiting-{name}", O.STATFS, aspect="other", level=Level.PROFILE,
          source="kernel docs: fusectl's waiting counts requests that are not answered")  # fmt: skip
    def _(k: Bench) -> None:
        ground(k)
        rule = k.answer(O.STATFS, None, times=held)
        control = seam.connection_control(k.path, "waiting")
        clients = [k.start(lambda: os.statvfs(k.path)) for _ in range(held)]
        if held:
            k.step_to(O.STATFS, held)
        k.equal("waiting", int(control.read_text()), held)
        for each in rule.seen:
            k.reply(each)
        for client in clients:
            k.equal("errno", client.wait(k.patience).errno, 0)


_waiting("none", 0)
_waiting("two", 2)


@case("death/fusectl-is-the-owners", aspect="other", level=Level.PROFILE, source="kernel docs: fusectl")
def _(k: Bench) -> None:
    ground(k)
    control = seam.connection_control(k.path, "abort")
    k.fails(errno.EACCES, lambda: control.write_text("1"), "another user's abort", uid=1000)
    k.equal("errno", k.serve(k.start(lambda: os.stat(k.path))).errno, 0)


# -- unmounting --------------------------------------------------------------------------------------------------------


@case("death/unmount-busy", aspect="other", source="umount(2): EBUSY while a file is open")
def _(k: Bench) -> None:
    k.mount()
    k.tree.add("a", b"content")

    def work() -> Generator[Any, None, None]:
        yield os.open(k.file("a"), os.O_RDONLY)

    client = k.steps(work)
    client.next()
    k.equal("errno", code(lambda: seam.umount(k.path)), errno.EBUSY)
    client.end()


@case("death/unmount-by-force-ends-calls", O.STATFS, aspect="death", level=Level.SHOULD,
      source="umount(2): MNT_FORCE aborts requests; " + MEASURED)  # fmt: skip
def _(k: Bench) -> None:
    ground(k)
    k.answer(O.STATFS, None)
    client = k.start(lambda: os.statvfs(k.path))
    k.step_to(O.STATFS)
    said = code(lambda: seam.umount(k.path, seam.MNT_FORCE))
    k.true("the caller gets an error", client.wait(k.patience).errno in (ABORTED, NOT_CONNECTED))
    k.true("umount2 succeeds or finds it busy", said in (0, errno.EBUSY), said)
    k.true("the device has ended", events(k.server.fd, k.patience) & ERR)


@case("death/unmount-lazily-keeps-open-files", O.READ, aspect="death", source="umount2(2): MNT_DETACH")
def _(k: Bench) -> None:
    k.mount()
    k.tree.open_flags = OpenFlag.DIRECT_IO
    k.tree.add("a", b"content")

    def work() -> Generator[Any, None, None]:
        fd = os.open(k.file("a"), os.O_RDONLY)
        yield None
        yield os.read(fd, 7)
        os.close(fd)
        yield None

    client = k.steps(work)
    client.next()
    seam.umount(k.path, seam.MNT_DETACH)
    k.true("the path is free", not os.path.ismount(k.path))
    k.equal("what the open file reads", client.next(), b"content")
    k.true("the connection lives", k.server.ended is None)
    client.next()
    client.end()
    k.true("the end comes with the last file", k.server.join(k.patience))
    k.equal("what read(2) says", k.server.ended, errno.ENODEV)


@case("death/unmount-flushes-nothing-twice", O.FLUSH, O.RELEASE, aspect="death", level=Level.SHOULD,
      source="fuse.h: RELEASE comes once a handle, before the end")  # fmt: skip
def _(k: Bench) -> None:
    k.mount()
    k.tree.add("a", b"content")
    k.ok(lambda: [open(k.file("a"), "rb").read() for _ in range(5)])
    k.settle()
    seam.umount(k.path)
    k.true("the end comes", k.server.join(k.patience))
    k.equal("RELEASEs", len(k.seen(O.RELEASE)), len(k.seen(O.OPEN)))


@case("death/dirty-pages-are-written-before-the-end", O.WRITE, aspect="death", flags=InitFlag.WRITEBACK_CACHE,
      source="umount(2): what was written is not lost")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(flags=InitFlag.WRITEBACK_CACHE)
    k.tree.valid = 60
    k.tree.add("a", bytes(10))
    k.ok(lambda: open(k.file("a"), "r+b").write(b"0123456789"))
    k.ok(lambda: seam.umount(k.path))
    k.true("the end comes", k.server.join(k.patience))
    k.equal("what the server has", bytes(k.tree.at("a").data), b"0123456789")
