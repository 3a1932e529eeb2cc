"""Backing files for FUSE passthrough: the kernel reads and writes them itself, without READ and WRITE.

On /dev/fuse it is an ioctl, which takes CAP_SYS_ADMIN; on a socket device the daemon makes it. Both calls wait for the
answer. Never here: who negotiates PASSTHROUGH, and OPEN's reply with the id.
"""

import errno
import fcntl
import os
import select
import socket
import struct
import threading
from typing import NamedTuple

from libperfuse import perfuse
from libperfuse.connection import PerfuseError, ask, connect, exchange, receive
from wire import codec, control, ioctls
from wire.control import Answer

#: seconds the daemon may take to answer
PATIENCE = 30.0


class _Link(NamedTuple):
    """A connection whose other end registers backing files for one device."""

    connection: socket.socket
    device: bytes
    #: who opened it: after a fork two processes would take each other's answers
    pid: int
    #: kept by `perfuse`, which closes it
    private: bool


_links: dict[int, _Link] = {}
_lock = threading.Lock()


def backing_open(device: int, fd: int) -> int:
    """Register the regular file that `fd` holds open; the id for OPEN's or CREATE's `backing_id`, above 0.

    `device` is mounted, and INIT has been answered with PASSTHROUGH and a `max_stack_depth` of 1 or 2. `fd` may be
    closed afterwards. Through perfused, a file of an ordinary user's that is open for reading alone is never written
    to: the kernel answers an OPEN of it for writing with EIO. Raises PerfuseError with a sentence: EPERM where
    passthrough was not agreed on or is not permitted, EBADF (O_PATH), EISDIR or EINVAL (no regular file), ELOOP
    (stacked too deep), EACCES (open for writing alone), EMFILE (too many).
    """
    if perfuse.is_kernels(device):
        request = bytearray(codec.backing_map.pack(fd, 0, 0))
        return _ioctl(device, ioctls.FUSE_DEV_IOC_BACKING_OPEN, request)
    found = _ask(device, {"op": "backing_open"}, (device, fd)).get("backing_id")
    if not isinstance(found, int):
        raise PerfuseError(errno.EPROTO, "perfused answered backing_open without an id")
    return found


def backing_close(device: int, backing_id: int) -> None:
    """Give an id back: what is open with it stays so. Raises PerfuseError, ENOENT for an id that is not registered."""
    if perfuse.is_kernels(device):
        _ioctl(device, ioctls.FUSE_DEV_IOC_BACKING_CLOSE, bytearray(struct.pack("=I", backing_id)))
    else:
        _ask(device, {"op": "backing_close", "backing_id": backing_id}, (device,))


_SENTENCES = {
    errno.EPERM: "it takes CAP_SYS_ADMIN, and PASSTHROUGH and max_stack_depth in the answer to INIT, without "
    "WRITEBACK_CACHE",
    errno.ELOOP: "the backing file's filesystem is itself stacked on others as deep as max_stack_depth allows",
    errno.EINVAL: "the backing file is no regular file",
    errno.EISDIR: "the backing file is a directory",
    errno.EBADF: "the backing file is no open descriptor",
    errno.ENOENT: "the backing id is not registered",
    errno.ENOTTY: "this kernel has no FUSE passthrough",
    errno.EOPNOTSUPP: "this kernel has no FUSE passthrough",
}


def _ioctl(device: int, number: int, request: bytearray) -> int:
    try:
        return int(fcntl.ioctl(device, number, request))
    except OSError as bad:
        code = bad.errno or errno.EIO
        sentence = _SENTENCES.get(code, str(bad.strerror))
        raise PerfuseError(code, f"{ioctls.NAMES[number]}: {sentence}") from None


def _ask(device: int, body: dict[str, object], fds: tuple[int, ...]) -> dict[str, object]:
    """One question and its answer; a connection that has broken meanwhile is made anew, once."""
    with _lock:
        link, fresh = _link(device)
        try:
            return _exchange(link, body, fds)
        except PerfuseError as bad:
            if bad.errno not in (errno.ECONNRESET, errno.ETIMEDOUT):
                raise
            _forget(device)
            if fresh or link.private or bad.errno != errno.ECONNRESET:
                raise
        link, _ = _link(device)
        return _exchange(link, body, fds)


def _exchange(link: _Link, body: dict[str, object], fds: tuple[int, ...]) -> dict[str, object]:
    exchange(link.connection, control.build_request(body), fds)
    poll = select.poll()
    poll.register(link.connection, select.POLLIN)
    if not poll.poll(PATIENCE * 1000):
        raise PerfuseError(errno.ETIMEDOUT, f"perfused has not answered for {PATIENCE:g} s")
    message, received = receive(link.connection)
    for each in received:
        os.close(each)
    if message is None:
        raise PerfuseError(errno.ECONNRESET, "perfused closed the connection: the mount is gone")
    if not isinstance(message, Answer):
        raise PerfuseError(errno.EPROTO, f"perfused answered with {type(message).__name__.upper()}")
    if message.error:
        raise PerfuseError(-message.error, str(message.body.get("message", os.strerror(-message.error))))
    return message.body


def _link(device: int) -> tuple[_Link, bool]:
    """The link of a device, and whether it is new."""
    name = perfuse.device_name(device)
    link = _links.get(device)
    if link is not None and link.device == name and (link.private or link.pid == os.getpid()):
        return link, False
    _forget(device)
    for each in [number for number, old in _links.items() if not _stands(number, old)]:
        _forget(each)
    kept = perfuse.kept_connection(device)
    if kept is not None and kept.getpeername():
        kept = None  # kept beside a device file, and good for its mount alone
    connection = kept or connect()
    try:
        ask(connection, {"op": "backing", "device": name[1:].decode()})
    except BaseException:
        if kept is None:
            connection.close()
        raise
    link = _links[device] = _Link(connection, name, os.getpid(), kept is not None)
    return link, True


def _stands(device: int, link: _Link) -> bool:
    """Whether a descriptor is still the device it was."""
    try:
        return perfuse.device_name(device) == link.device
    except OSError:
        return False


def _forget(device: int) -> None:
    link = _links.pop(device, None)
    if link is not None and not link.private:
        link.connection.close()
