"""Cases about INIT: its layout, the sizes and versions of its answer, and what happens before there is one."""

import errno
import os
import select
import signal

from perfused.conformance.kernel import seam
from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Failed, Level, case
from perfused.conformance.kernel.server import Raw, out
from wire import codec
from wire.flags import InitFlag
from wire.opcodes import Opcode

INIT = Opcode.INIT
MEASURED = "measured on Linux 6.18"


def refused(k: Bench, what: str = "stat of the root") -> None:
    """The connection did not come about, and the kernel does not ask again."""
    k.fails(errno.ECONNREFUSED, lambda: os.stat(k.path), what)
    k.wait_for(INIT)
    k.equal("INIT requests", len(k.seen(INIT)), 1)


def works(k: Bench) -> None:
    """The mount is alive: a file that was not asked for before is found."""
    k.tree.add("alive", b"yes")
    k.equal("what is read", k.ok(lambda: open(k.file("alive"), "rb").read()), b"yes")


@case("init/layout", INIT, aspect="request", source="fuse.h: fuse_init_in, 16 bytes since 7.6, 64 since 7.36")
def _(k: Bench) -> None:
    server = k.mount()
    frame = server.frames[0].data
    k.equal("the first request", codec.in_header.unpack_from(frame).opcode, INIT)
    assert server.offer is not None
    want = 40 + (64 if server.offer.minor >= 36 else 16)
    k.equal("bytes of the frame", len(frame), want)
    k.equal("major", server.offer.major, 7)
    if server.offer.minor >= 36:
        k.equal("the unused words", server.offer.unused, bytes(44))


@case("init/flags2-announced", INIT, aspect="request", since=36, source="fuse.h 7.36: flags2 counts with FUSE_INIT_EXT")
def _(k: Bench) -> None:
    offer = k.mount().offer
    assert offer is not None
    k.true("INIT_EXT where flags2 is not 0", not offer.flags2 or offer.flags & InitFlag.INIT_EXT, hex(offer.flags))


@case("init/no-caller", INIT, aspect="request", level=Level.PROFILE, source=MEASURED + ": uid, gid and pid are 0")
def _(k: Bench) -> None:
    k.mount()
    head = k.one(INIT).header
    k.equal("nodeid, uid, gid, pid", (head.nodeid, head.uid, head.gid, head.pid), (0, 0, 0, 0))


@case("init/readable-at-mount", INIT, aspect="request", source="fuse.h: INIT is the first request, sent by the mount")
def _(k: Bench) -> None:
    server = k.mount(serve=False)
    k.true("the device is readable", select.select([server.fd], [], [], k.patience)[0])
    server.step(k.patience)
    k.one(INIT)
    works_by_hand(k)


def works_by_hand(k: Bench) -> None:
    """As `works`, where no thread serves yet."""
    k.server.start()
    works(k)


@case("init/nothing-before-the-answer", INIT, aspect="other", source="libfuse and kernel docs: INIT is answered first")
def _(k: Bench) -> None:
    server = k.mount(serve=False)
    waiting = k.start(lambda: os.stat(k.path).st_ino)
    server.init_rule = lambda request: []
    server.step(k.patience)
    k.true("no request before INIT is answered", not server.step(0.05), len(server.requests))
    k.true("the caller waits", not waiting.done())
    server.write(out(k.one(INIT).header.unique, server.init_out()))
    server.start()
    k.equal("stat's errno", waiting.wait(k.patience).errno, 0)


@case("init/many-wait", INIT, aspect="other", source="kernel: requests wait until the connection is initialised")
def _(k: Bench) -> None:
    server = k.mount(serve=False)
    k.tree.add("a", b"content")
    waiting = [k.start(lambda: open(k.file("a"), "rb").read()) for _ in range(4)]
    k.true("they wait", not any(each.done() for each in waiting))
    server.start()
    for each in waiting:
        k.equal("what is read", each.wait(k.patience).value, b"content")


# -- its answer's size -------------------------------------------------------------------------------------------------


def _sized(size: int, level: Level) -> None:
    @case(
        f"init/reply-of-{size}", INIT, aspect="reply", level=level,
        source="fuse.h: fuse_init_out has 8 bytes at first, 24 since 7.5, 64 since 7.23; " + MEASURED,
    )  # fmt: skip
    def _(k: Bench) -> None:
        k.mount(init_rule=lambda _: k.server.init_out().ljust(64, b"\0")[:size])
        works(k)


for _size, _level in ((8, Level.PROFILE), (24, Level.SHOULD), (64, Level.MUST), (23, Level.PROFILE)):
    _sized(_size, _level)


@case("init/reply-too-long", INIT, aspect="malformed", level=Level.SHOULD, source=MEASURED + ": EINVAL, ECONNREFUSED")
def _(k: Bench) -> None:
    raw = Raw(lambda unique: out(unique, k.server.init_out().ljust(80, b"\0")))
    k.mount(init_rule=raw)
    refused(k)
    k.equal("what write(2) of the answer says", raw.errno, errno.EINVAL)


def _short(size: int) -> None:
    @case(
        f"init/reply-too-short-{size}", INIT, aspect="malformed", level=Level.SHOULD,
        source=MEASURED + ": fewer than the 8 bytes of 7.1 make no connection",
    )  # fmt: skip
    def _(k: Bench) -> None:
        k.mount(init_rule=lambda _: k.server.init_out()[:size])
        outcome = k.do(lambda: os.stat(k.path))
        k.true("stat fails", outcome.errno, "it succeeds")
        k.wait_for(INIT)
        k.equal("INIT requests", len(k.seen(INIT)), 1)


for _size in (0, 4):
    _short(_size)


# -- its answer's version and error ------------------------------------------------------------------------------------


def _major(major: int) -> None:
    @case(
        f"init/major-{major}", INIT, aspect="malformed", level=Level.PROFILE,
        source=MEASURED + ": refused, and no second INIT, though fuse.h has the versions settled by one",
    )  # fmt: skip
    def _(k: Bench) -> None:
        k.mount(init_rule=lambda _: k.server.init_out(major=major))
        refused(k)


for _number in (0, 6, 8):
    _major(_number)


def _minor(minor: int, why: str) -> None:
    @case(f"init/minor-{minor}", INIT, aspect="minor", level=Level.PROFILE, source=MEASURED + ": " + why)
    def _(k: Bench) -> None:
        k.mount(init_rule=lambda _: k.server.init_out(minor=minor), minor=1 if not minor else 45)
        works(k)


_minor(0, "taken as the oldest")
_minor(99, "a minor above the kernel's is taken as its own")


def _error(number: int, said: str) -> None:
    @case(f"init/error-{said}", INIT, aspect="enosys" if said == "enosys" else "error", level=Level.SHOULD,
          source=MEASURED + ": the connection is refused")  # fmt: skip
    def _(k: Bench) -> None:
        k.mount(init_rule=-number)
        refused(k)


_error(errno.EPERM, "eperm")
_error(errno.ENOSYS, "enosys")


@case("init/second-reply", INIT, aspect="malformed", source="fuse.h: a unique is answered once")
def _(k: Bench) -> None:
    second = Raw(lambda unique: out(unique, k.server.init_out()))
    k.mount(init_rule=[Raw(lambda unique: out(unique, k.server.init_out())), second])
    works(k)
    k.equal("what write(2) of the second answer says", second.errno, errno.ENOENT)


@case("init/once", INIT, aspect="request", source="fuse.h: INIT begins a connection")
def _(k: Bench) -> None:
    k.mount()
    works(k)
    k.ok(lambda: os.listdir(k.path))
    k.one(INIT)


def _unknown(bit: int) -> None:
    @case(f"init/unknown-flag-bit-{bit}", INIT, aspect="flag", level=Level.SHOULD, since=36 if bit > 31 else 6,
          source=MEASURED + ": ignored")  # fmt: skip
    def _(k: Bench) -> None:
        k.mount(init_rule=lambda _: k.server.init_out(all_flags=1 << bit))
        works(k)


for _bit in (31, 43, 63):
    _unknown(_bit)


@case("init/all-known-flags-but-rings", INIT, aspect="flag", level=Level.SHOULD, source=MEASURED)
def _(k: Bench) -> None:
    """A server that takes everything offered must be able to work, with the rings and idmaps that need more aside."""
    k.mount(flags=k.offered & ~(InitFlag.OVER_IO_URING | InitFlag.ALLOW_IDMAP))
    works(k)
    k.ok(lambda: open(k.file("new"), "wb").write(b"data"))
    k.equal("what was written", bytes(k.tree.at("new").data), b"data")


@case("init/no-flags", INIT, aspect="flag", source="fuse.h: every flag is the server's choice")
def _(k: Bench) -> None:
    k.mount(flags=0)
    works(k)
    k.ok(lambda: open(k.file("new"), "wb").write(b"data"))
    k.equal("what was written", bytes(k.tree.at("new").data), b"data")


# -- before it ---------------------------------------------------------------------------------------------------------


@case("init/unmount-before", INIT, aspect="death", source="FreeBSD's pre-init.unmount_before_init; " + MEASURED)
def _(k: Bench) -> None:
    server = k.mount(serve=False)
    k.ok(lambda: seam.umount(k.path))
    server.start()
    k.true("the server is told of the end", server.join(k.patience))
    k.equal("what read(2) says", server.ended, errno.ENODEV)


@case("init/unmount-while-unanswered", INIT, aspect="death", level=Level.SHOULD, source=MEASURED)
def _(k: Bench) -> None:
    """INIT was read and never answered: unmounting must not wait for it, and a late answer finds nobody."""
    server = k.mount(init_rule=[])
    request = k.wait_for(INIT)
    k.ok(lambda: seam.umount(k.path))
    k.true("the server is told of the end", server.join(k.patience))
    late = server.write(out(request.header.unique, server.init_out()))
    k.true("write(2) of a late answer fails", late, "success")


@case("init/access-but-never-answered", INIT, aspect="death", source="FreeBSD's pre-init.access_but_never_init")
def _(k: Bench) -> None:
    server = k.mount(init_rule=[])
    k.wait_for(INIT)
    waiting = k.start(lambda: os.stat(k.path))
    k.true("the caller waits", not waiting.done(0.05))
    k.ok(lambda: seam.umount(k.path, seam.MNT_FORCE | seam.MNT_DETACH))
    outcome = waiting.wait(k.patience)
    k.true("the caller gets an error", outcome.errno, outcome.value)
    k.true("the server is told of the end", server.join(k.patience))


@case("init/device-closed-before", INIT, aspect="death", level=Level.SHOULD, source=MEASURED)
def _(k: Bench) -> None:
    server = k.mount(serve=False)
    waiting = k.start(lambda: os.stat(k.path))
    k.true("the caller waits", not waiting.done(0.05))
    os.close(server.fd)
    k.servers.clear()
    outcome = waiting.wait(k.patience)
    if outcome.errno not in (errno.ECONNABORTED, errno.ENOTCONN, errno.ECONNREFUSED):
        raise Failed("stat", "an error of the connection", errno.errorcode.get(outcome.errno, outcome.errno))
    seam.umount(k.path)


@case("init/sigkill-while-waiting", INIT, aspect="interrupt", source="kernel docs: a process can always be killed")
def _(k: Bench) -> None:
    server = k.mount(serve=False)
    waiting = k.start(lambda: os.stat(k.path))
    k.true("the caller waits", not waiting.done(0.1))
    waiting.signal(signal.SIGKILL)
    k.true("the caller ends", waiting.done(k.patience))
    server.start()
    works(k)


@case("init/sigusr1-while-waiting", INIT, aspect="interrupt", level=Level.PROFILE,
      source=MEASURED + ": a signal that does not kill is taken after the wait")  # fmt: skip
def _(k: Bench) -> None:
    server = k.mount(serve=False)
    came: list[int] = []

    def wait() -> tuple[int, list[int]]:
        signal.signal(signal.SIGUSR1, lambda number, _: came.append(number))
        return os.stat(k.path).st_ino, came

    waiting = k.start(wait)
    k.true("the caller waits", not waiting.done(0.1))
    waiting.signal(signal.SIGUSR1)
    k.true("the caller still waits", not waiting.done(0.1))
    server.start()
    k.equal("the root's ino, the signals", waiting.wait(k.patience).value, (1, [signal.SIGUSR1]))
