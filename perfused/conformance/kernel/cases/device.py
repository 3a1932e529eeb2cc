"""Cases about /dev/fuse itself: reading, polling, its ioctls, clones, and descriptors that are not mounted.

Never here: what frames say.
"""

import errno
import fcntl
import os
import select
import stat
import struct
from collections.abc import Callable

from perfused.conformance.kernel import seam
from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.server import BUFFER, Server, out
from wire import codec, ioctls
from wire.flags import MIN_READ_BUFFER, OpenFlag
from wire.opcodes import Opcode

MEASURED = "measured on Linux 6.18"
GETATTR, READ = Opcode.GETATTR, Opcode.READ
IN, OUT, ERR = select.POLLIN, select.POLLOUT, select.POLLERR


def code(work: Callable[[], object]) -> int:
    """The errno that `work` ends with; 0 where it succeeds."""
    try:
        work()
    except OSError as bad:
        return bad.errno or errno.EIO
    return 0


def events(fd: int, seconds: float = 0.0) -> int:
    """What poll(2) says of a descriptor."""
    poll = select.poll()
    poll.register(fd, IN | OUT)
    return dict(poll.poll(int(seconds * 1000))).get(fd, 0)


def another(k: Bench, fd: int) -> Server:
    """A second server of the same tree on a descriptor, which the bench closes."""
    made = Server(fd, k.tree, k.server.minor)
    made.agreed = k.server.agreed
    k.servers.append(made)
    return made


def spare(k: Bench, flags: int = os.O_RDWR) -> int:
    """A descriptor of the device, not mounted, which the bench closes."""
    fd = seam.open_device(flags)
    k.servers.append(Server(fd, k.tree))
    return fd


# -- before it is mounted ----------------------------------------------------------------------------------------------


def _unmounted(name: str, gets: int, work: Callable[[int], object], level: Level = Level.SHOULD) -> None:
    @case(f"device/unmounted-{name}", aspect="other", level=level,
          source=f"{MEASURED}: {errno.errorcode[gets]}")  # fmt: skip
    def _(k: Bench) -> None:
        fd = spare(k)
        k.equal("errno", code(lambda: work(fd)), gets)


_unmounted("read", errno.EPERM, lambda fd: os.read(fd, BUFFER))
_unmounted("write", errno.EPERM, lambda fd: os.write(fd, out(2)))
_unmounted("notification", errno.EPERM, lambda fd: os.write(fd, struct.pack("=IiQ", 16, 7, 0)))
_unmounted("backing-open", errno.EPERM, lambda fd: fcntl.ioctl(fd, ioctls.FUSE_DEV_IOC_BACKING_OPEN, bytes(16)),
           Level.PROFILE)  # fmt: skip
_unmounted("unknown-ioctl", errno.ENOTTY, lambda fd: fcntl.ioctl(fd, 0xE5FF, 0))
_unmounted("seek", errno.ESPIPE, lambda fd: os.lseek(fd, 5, os.SEEK_SET), Level.PROFILE)


@case("device/unmounted-poll", aspect="other", level=Level.SHOULD, source=MEASURED + ": POLLERR")
def _(k: Bench) -> None:
    k.true("POLLERR", events(spare(k)) & ERR, events(spare(k)))


@case("device/open-and-close", aspect="other", source="fuse.rst: a descriptor that was never mounted is nothing")
def _(k: Bench) -> None:
    for _ in range(20):
        os.close(seam.open_device())
    k.mount()
    k.ok(lambda: os.stat(k.path))


# -- reading -----------------------------------------------------------------------------------------------------------


def _small(size: int, gets: int) -> None:
    @case(f"device/read-buffer-of-{size}", Opcode.INIT, aspect="other", level=Level.SHOULD,
          source="fuse.h: FUSE_MIN_READ_BUFFER; a smaller one is EINVAL, and takes no request")  # fmt: skip
    def _(k: Bench) -> None:
        server = k.mount(serve=False)
        k.equal("errno of read(2)", code(lambda: os.read(server.fd, size)) if gets else 0, gets)
        if not gets:
            server.take(os.read(server.fd, size))
        server.start()
        k.ok(lambda: os.stat(k.path))
        k.one(Opcode.INIT)


_small(MIN_READ_BUFFER - 1, errno.EINVAL)
_small(1, errno.EINVAL)
_small(MIN_READ_BUFFER, 0)


@case("device/read-buffer-below-max-write", Opcode.INIT, aspect="other", level=Level.SHOULD,
      source=MEASURED + ": EINVAL unless a whole WRITE of max_write fits")  # fmt: skip
def _(k: Bench) -> None:
    server = k.mount(serve=False, max_write=65536)
    server.step(k.patience)
    waiting = k.start(lambda: os.stat(k.path).st_ino)
    k.true("a request comes", select.select([server.fd], [], [], k.patience)[0])
    k.equal("errno of a read of max_write", code(lambda: os.read(server.fd, 65536)), errno.EINVAL)
    server.take(os.read(server.fd, 65536 + 80))
    k.equal("the root's ino", k.serve(waiting).value, 1)


@case("device/nonblocking-empty", aspect="other", source="read(2): EAGAIN where nothing is there")
def _(k: Bench) -> None:
    server = k.mount(serve=False)
    server.step(k.patience)
    os.set_blocking(server.fd, False)
    k.equal("errno of read(2)", code(lambda: os.read(server.fd, BUFFER)), errno.EAGAIN)
    k.equal("the root's ino", k.serve(k.start(lambda: os.stat(k.path).st_ino)).value, 1)


@case("device/one-request-a-read", aspect="other", source="fuse.h: header.len; a read gives one whole request")
def _(k: Bench) -> None:
    server = k.mount(serve=False)
    server.step(k.patience)
    waiting = [k.start(lambda: os.statvfs(k.path).f_blocks) for _ in range(3)]
    k.true("they wait", not any(each.done(0.05) for each in waiting))
    for _ in range(3):
        frame = os.read(server.fd, BUFFER)
        k.equal("header.len", codec.in_header.unpack_from(frame).len, len(frame))
        server.take(frame)
    k.equal("what the callers see", [k.serve(each).value for each in waiting], [1000] * 3)


@case("device/readv", aspect="other", level=Level.SHOULD, source="readv(2): a request may come into several buffers")
def _(k: Bench) -> None:
    server = k.mount(serve=False)
    buffers = [bytearray(40), bytearray(24), bytearray(BUFFER)]
    got = os.readv(server.fd, buffers)
    server.take(b"".join(buffers)[:got])
    k.one(Opcode.INIT)
    k.equal("the root's ino", k.serve(k.start(lambda: os.stat(k.path).st_ino)).value, 1)


@case("device/two-readers", READ, aspect="other", source="fuse.rst: requests are read by whoever reads, each once")
def _(k: Bench) -> None:
    k.mount()
    k.tree.open_flags = OpenFlag.DIRECT_IO
    k.tree.add("a", b"content")
    k.ok(lambda: os.stat(k.path))
    other = another(k, os.dup(k.server.fd))
    other.start()

    def read() -> set[bytes]:
        return {open(k.file("a"), "rb", buffering=0).read(7) for _ in range(40)}

    clients = [k.start(read) for _ in range(3)]
    for each in clients:
        k.equal("what is read", each.wait(k.patience).value, {b"content"})
    uniques = [each.header.unique for server in k.servers for each in server.seen(READ)]
    k.equal("READs that came", (len(uniques), len(set(uniques))), (120, 120))


# -- polling -----------------------------------------------------------------------------------------------------------


def _watch(name: str, ready: Callable[[int, float], bool]) -> None:
    @case(f"device/ready-by-{name}", aspect="other", source="poll(2): readable while a request waits to be read")
    def _(k: Bench) -> None:
        server = k.mount(serve=False)
        k.true("readable with INIT", ready(server.fd, k.patience))
        server.step(k.patience)
        k.true("not readable with nothing", not ready(server.fd, 0.02))
        waiting = k.start(lambda: os.stat(k.path).st_ino)
        k.true("readable with a request", ready(server.fd, k.patience))
        k.equal("the root's ino", k.serve(waiting).value, 1)


def _epoll(fd: int, seconds: float) -> bool:
    with select.epoll() as poll:
        poll.register(fd, select.EPOLLIN)
        return any(event & select.EPOLLIN for _, event in poll.poll(seconds))


_watch("poll", lambda fd, seconds: bool(_polled(fd, seconds) & IN))
_watch("select", lambda fd, seconds: bool(select.select([fd], [], [], seconds)[0]))
_watch("epoll", _epoll)


def _polled(fd: int, seconds: float) -> int:
    poll = select.poll()
    poll.register(fd, IN)
    return dict(poll.poll(int(seconds * 1000))).get(fd, 0)


@case("device/always-writable", aspect="other", level=Level.SHOULD, source=MEASURED + ": POLLOUT")
def _(k: Bench) -> None:
    server = k.mount(serve=False)
    server.step(k.patience)
    k.equal("events", events(server.fd), OUT)


# -- after it was unmounted --------------------------------------------------------------------------------------------


def _ended(name: str, level: Level, check: Callable[[Bench, int], None]) -> None:
    @case(f"device/after-unmount-{name}", aspect="death", level=level, source=MEASURED)
    def _(k: Bench) -> None:
        server = k.mount(serve=False)
        k.serve(k.start(lambda: os.stat(k.path)))
        seam.umount(k.path)
        deadline = 50
        while deadline and not events(server.fd, 0.02) & ERR:
            deadline -= 1
            if events(server.fd) & IN:
                try:
                    server.step(0)
                except OSError:
                    break
        check(k, server.fd)


def _said(wanted: int, work: Callable[[int], object]) -> Callable[[Bench, int], None]:
    return lambda k, fd: k.equal("errno", code(lambda: work(fd)), wanted)


def _read(fd: int) -> bytes:
    return os.read(fd, BUFFER)


_ended("read", Level.MUST, _said(errno.ENODEV, lambda fd: os.read(fd, BUFFER)))
_ended("read-again", Level.MUST, lambda k, fd: k.equal("errnos", [code(lambda: _read(fd)) for _ in range(2)],
                                                       [errno.ENODEV] * 2))  # fmt: skip
_ended("write", Level.SHOULD, _said(errno.ENOENT, lambda fd: os.write(fd, out(2))))
_ended("poll", Level.SHOULD, lambda k, fd: k.true("POLLERR", events(fd) & ERR, events(fd)))


@case("device/unmount-wakes-a-blocked-reader", aspect="death", source=MEASURED + ": ENODEV; gVisor leaves it asleep")
def _(k: Bench) -> None:
    server = k.mount()
    k.ok(lambda: os.stat(k.path))
    seam.umount(k.path)
    k.true("the reader is woken", server.join(k.patience))
    k.equal("what read(2) says", server.ended, errno.ENODEV)


# -- mounting it twice -------------------------------------------------------------------------------------------------


@case("device/mounted-twice-on-one-path", aspect="other", level=Level.SHOULD, source=MEASURED + ": EBUSY")
def _(k: Bench) -> None:
    server = k.mount()
    data = f"fd={server.fd},rootmode={stat.S_IFDIR:o},user_id=0,group_id=0"
    k.equal("errno", code(lambda: seam.mount("second", k.path, "fuse.conformance", 0, data)), errno.EBUSY)
    k.ok(lambda: os.stat(k.path))


@case("device/mounted-twice-on-two-paths", Opcode.INIT, aspect="other", level=Level.PROFILE,
      source=MEASURED + ": the same filesystem stands on both, without another INIT")  # fmt: skip
def _(k: Bench) -> None:
    server = k.mount()
    k.tree.add("a", b"content")
    second = os.path.join(k.directory, "second")
    os.mkdir(second)
    data = f"fd={server.fd},rootmode={stat.S_IFDIR:o},user_id=0,group_id=0"
    seam.mount("second", second, "fuse.conformance", 0, data)
    try:
        k.equal("what is read", k.ok(lambda: open(os.path.join(second, "a"), "rb").read()), b"content")
        k.one(Opcode.INIT)
        seam.umount(k.path)
        k.ok(lambda: os.stat(second))
    finally:
        seam.umount(second, seam.MNT_DETACH)


@case("device/mounted-again-after-unmount", aspect="other", level=Level.SHOULD, source=MEASURED + ": EBUSY")
def _(k: Bench) -> None:
    server = k.mount()
    k.ok(lambda: os.stat(k.path))
    seam.umount(k.path)
    server.join(k.patience)
    data = f"fd={server.fd},rootmode={stat.S_IFDIR:o},user_id=0,group_id=0"
    k.true("it fails", code(lambda: seam.mount("again", k.path, "fuse.conformance", 0, data)), "success")
