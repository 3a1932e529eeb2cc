"""Cases about clones of a device, and about mount(2) that waits for INIT: the ioctls of /dev/fuse.

Never here: reading and polling it (`device`).
"""

import errno
import fcntl
import os
import stat
import struct
import threading
from collections.abc import Callable

from perfused.conformance.kernel import seam
from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Failed, Level, Skipped, case
from perfused.conformance.kernel.cases.device import ERR, IN, MEASURED, another, code, events, spare
from perfused.conformance.kernel.server import Server, out
from wire import ioctls
from wire.opcodes import Opcode

GETATTR = Opcode.GETATTR


def cloned(k: Bench) -> Server:
    """A clone of the mounted device. Skips where there are none."""
    k.ok(lambda: os.stat(k.path))
    try:
        return another(k, seam.clone(k.server.fd))
    except OSError as bad:
        if bad.errno in (errno.ENOTTY, errno.ENOSYS):
            raise Skipped("the device has no FUSE_DEV_IOC_CLONE") from None
        raise


def _by_hand(k: Bench) -> None:
    k.mount(serve=False)
    k.serve(k.start(lambda: os.stat(k.path)))


@case("device/clone-serves", GETATTR, aspect="other", since=23, source="fuse.h 7.23: FUSE_DEV_IOC_CLONE")
def _(k: Bench) -> None:
    k.mount(serve=False)
    k.serve(k.start(lambda: os.stat(k.path)))
    clone = another(k, seam.clone(k.server.fd))
    client = k.start(lambda: os.statvfs(k.path).f_blocks)
    clone.step(k.patience)
    k.equal("what the caller sees", client.wait(k.patience).value, 1000)
    k.equal("requests on the first descriptor", len(k.server.seen(Opcode.STATFS)), 0)


@case("device/clone-answers-for-itself-alone", Opcode.STATFS, aspect="malformed", level=Level.SHOULD, since=23,
      source=MEASURED + ": a request is answered where it was read, elsewhere ENOENT")  # fmt: skip
def _(k: Bench) -> None:
    _by_hand(k)
    clone = another(k, seam.clone(k.server.fd))
    client = k.start(lambda: os.statvfs(k.path).f_blocks)
    k.answer(Opcode.STATFS, None, times=1)
    k.server.step(k.patience)
    request = k.server.seen(Opcode.STATFS)[-1]
    answer = k.tree.answer(request)
    assert isinstance(answer, bytes)
    k.equal("write(2) to the clone", clone.write(out(request.header.unique, answer)), errno.ENOENT)
    k.true("the caller waits", not client.done(0.02))
    k.equal("write(2) where it was read", k.server.write(out(request.header.unique, answer)), 0)
    k.equal("what the caller sees", client.wait(k.patience).value, 1000)


@case("device/clone-closed", GETATTR, aspect="death", level=Level.SHOULD, since=23,
      source=MEASURED + ": the connection lives on with the others")  # fmt: skip
def _(k: Bench) -> None:
    k.mount()
    clone = cloned(k)
    os.close(clone.fd)
    k.servers.remove(clone)
    k.ok(lambda: os.stat(k.path))


@case("device/clone-closed-with-a-request", Opcode.STATFS, aspect="death", level=Level.PROFILE, since=23,
      source=MEASURED + ": what the clone had read ends with ECONNABORTED")  # fmt: skip
def _(k: Bench) -> None:
    _by_hand(k)
    clone = another(k, seam.clone(k.server.fd))
    clone.rules = k.server.rules
    k.answer(Opcode.STATFS, None, times=1)
    client = k.start(lambda: os.statvfs(k.path).f_blocks)
    clone.step(k.patience)
    os.close(clone.fd)
    k.servers.remove(clone)
    k.equal("the caller's errno", client.wait(k.patience).errno, errno.ECONNABORTED)
    k.equal("another's", k.serve(k.start(lambda: os.statvfs(k.path).f_blocks)).value, 1000)


@case("device/clone-outlives-the-first", Opcode.STATFS, aspect="death", since=23,
      source="fuse.rst: a connection ends with its last descriptor")  # fmt: skip
def _(k: Bench) -> None:
    _by_hand(k)
    clone = another(k, seam.clone(k.server.fd))
    os.close(k.server.fd)
    k.servers.remove(k.server)
    client = k.start(lambda: os.statvfs(k.path).f_blocks)
    clone.step(k.patience)
    k.equal("what the caller sees", client.wait(k.patience).value, 1000)


def _refused(name: str, gets: int, level: Level, made: Callable[[Bench], tuple[int, int]]) -> None:
    @case(f"device/clone-{name}", aspect="other", level=level, since=23,
          source=f"{MEASURED}: {errno.errorcode[gets]}")  # fmt: skip
    def _(k: Bench) -> None:
        new, source = made(k)
        ioctl = ioctls.FUSE_DEV_IOC_CLONE
        k.equal("errno", code(lambda: fcntl.ioctl(new, ioctl, struct.pack("=i", source))), gets)


def _mounted(k: Bench) -> int:
    k.mount()
    k.ok(lambda: os.stat(k.path))
    return k.server.fd


def _pipe(k: Bench) -> int:
    return os.pipe()[0]


_refused("of-an-unmounted-one", errno.EPERM, Level.PROFILE, lambda k: (spare(k), spare(k)))
_refused("of-a-bad-descriptor", errno.EINVAL, Level.PROFILE, lambda k: (spare(k), 999))
_refused("of-a-pipe", errno.EINVAL, Level.SHOULD, lambda k: (spare(k), _pipe(k)))
_refused("of-itself", errno.EINVAL, Level.SHOULD, lambda k: (_mounted(k), k.server.fd))
_refused("onto-a-mounted-one", errno.EINVAL, Level.SHOULD, lambda k: (_mounted(k), cloned(k).fd))


@case("device/clone-twice", aspect="other", level=Level.SHOULD, since=23, source=MEASURED + ": EINVAL")
def _(k: Bench) -> None:
    k.mount()
    clone = cloned(k)
    ioctl = ioctls.FUSE_DEV_IOC_CLONE
    k.equal("errno", code(lambda: fcntl.ioctl(clone.fd, ioctl, struct.pack("=I", k.server.fd))), errno.EINVAL)


# -- SYNC_INIT ---------------------------------------------------------------------------------------------------------


def _sync(k: Bench, reaction: object = None) -> tuple[threading.Thread, list[int]]:
    """Mount from a thread, with SYNC_INIT; INIT is answered by `reaction`, else well. Skips where there is none."""
    fd = seam.open_device()
    server = k.server = Server(fd, k.tree, min(45, k.kernel_minor), init_rule=reaction)  # type: ignore[arg-type]
    k.servers.append(server)
    try:
        fcntl.ioctl(fd, ioctls.FUSE_DEV_IOC_SYNC_INIT)
    except OSError as bad:
        if bad.errno in (errno.ENOTTY, errno.ENOSYS):
            raise Skipped("the device has no FUSE_DEV_IOC_SYNC_INIT") from None
        raise
    said: list[int] = []
    data = f"fd={fd},rootmode={stat.S_IFDIR:o},user_id=0,group_id=0"
    thread = threading.Thread(target=lambda: said.append(code(
        lambda: seam.mount("conformance", k.path, "fuse.conformance", 0, data))), daemon=True)  # fmt: skip
    thread.start()
    if not _poll_in(fd, k.patience):
        raise Failed("the kernel", "INIT while mount(2) waits", "nothing")
    return thread, said


def _poll_in(fd: int, seconds: float) -> bool:
    """Whether there is a request: a device that is not mounted yet is in error, which ends a poll at once."""
    for _ in range(int(seconds * 100)):
        if events(fd) & IN and not events(fd) & ERR:
            return True
        threading.Event().wait(0.01)
    return False


@case("device/sync-init-waits", Opcode.INIT, aspect="other", since=45, source="fuse.h 7.45: FUSE_DEV_IOC_SYNC_INIT")
def _(k: Bench) -> None:
    thread, said = _sync(k)
    k.true("mount(2) waits for INIT's answer", not said)
    k.server.start()
    thread.join(k.patience)
    k.equal("what mount(2) says", said, [0])
    k.ok(lambda: os.stat(k.path))


@case("device/sync-init-fails-the-mount", Opcode.INIT, aspect="error", level=Level.SHOULD, since=45,
      source="fuse.h 7.45: FUSE_DEV_IOC_SYNC_INIT; mount(2) says what INIT's answer was")  # fmt: skip
def _(k: Bench) -> None:
    thread, said = _sync(k, -errno.EPERM)
    k.server.start()
    thread.join(k.patience)
    k.true("mount(2) fails", said and said[0], said)
    k.true("nothing is mounted", not os.path.ismount(k.path))


@case("device/sync-init-after-mount", aspect="other", level=Level.SHOULD, since=45, source=MEASURED + ": EINVAL")
def _(k: Bench) -> None:
    server = k.mount()
    k.ok(lambda: os.stat(k.path))
    gets = code(lambda: fcntl.ioctl(server.fd, ioctls.FUSE_DEV_IOC_SYNC_INIT))
    k.equal("errno", gets, errno.EINVAL)
