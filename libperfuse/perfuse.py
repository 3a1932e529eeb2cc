"""perfuse_open, perfuse_mount, perfuse_unmount for Python: what perfuse.h gives to C, with the same frames.

Never here: serving requests.
"""

import errno
import os
import re
import select
import socket
import stat
import struct
import sys
import threading
from typing import NamedTuple

from libperfuse import libc
from libperfuse.connection import PerfuseError, ask, connect, connect_or_start, exchange, start_private
from libperfuse.handshake import await_verdict, hello, mount_frame
from wire import control
from wire.control import Endpoint

DEVICE = "/dev/fuse"
ENDPOINTS = {"any": Endpoint.ANY, "socket": Endpoint.SOCKET, "device": Endpoint.DEVICE, "direct": Endpoint.DIRECT}
_RDEV = os.makedev(10, 229)
_AT_STATX_DONT_SYNC, _STATX_TYPE_INO = 0x4000, 0x101
#: what the daemon numbers the file that is a device (perfused.device_file)
_DEVICE_INO = 2
_FSTYPE = re.compile(r"(fuse|fuseblk)(\..*)?\Z|perfuse\|", re.DOTALL)
_FD = re.compile(r"(?:^|,)fd=(\d{1,9})(?=,|\Z)")

#: Control connections kept beside devices, direct ones (their end tells the daemon of ours) and those of private
#: daemons: fd -> (what the fd was, connection).
_direct: dict[int, tuple[tuple[int, int, int], socket.socket]] = {}
_lock = threading.Lock()


def perfuse_open(path: str, flags: int = os.O_RDWR, mode: int = 0o600, *, private: bool = False) -> int:
    """open(2), except that "/dev/fuse" gives a device of perfused's: a descriptor for whole FUSE frames.

    PERFUSE_ENDPOINT (socket, direct, device, any) names the endpoint. A private daemon is started where none listens,
    or where it is to be `private`. O_CLOEXEC and O_NONBLOCK in `flags` hold. Raises OSError as open(2) does,
    PerfuseError with the daemon's sentence.
    """
    if path != DEVICE:
        return os.open(path, flags, mode)
    wish = os.environ.get("PERFUSE_ENDPOINT") or "any"
    if wish not in ENDPOINTS:
        raise PerfuseError(errno.EINVAL, f"PERFUSE_ENDPOINT is {wish!r}: {', '.join(ENDPOINTS)}")
    connection = start_private() if private else connect_or_start()
    try:
        fd, endpoint = hello(connection, ENDPOINTS[wish], _program())
    except BaseException:
        connection.close()
        raise
    if endpoint is not Endpoint.SOCKET or not connection.getpeername():
        # What is no socket is mounted on the connection; and a private daemon has no path to connect to again: only
        # this connection reaches it (backing files).
        keep(fd, connection)
    else:
        connection.close()
    os.set_inheritable(fd, not flags & os.O_CLOEXEC)
    os.set_blocking(fd, not flags & os.O_NONBLOCK)
    return fd


def _program() -> str:
    return os.path.basename(sys.argv[0] if sys.argv else "python") or "python"


def keep(fd: int, connection: socket.socket) -> None:
    """Keep a device's control connection, and let go of those whose mount or descriptor is gone."""
    with _lock:
        for old, (was, kept) in list(_direct.items()):
            if old == fd or not _same(old, was) or _hung_up(kept):
                del _direct[old]
                kept.close()
        _direct[fd] = _identity(fd), connection


def _same(fd: int, was: tuple[int, int, int]) -> bool:
    try:
        return _identity(fd) == was
    except OSError:
        return False


def _hung_up(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(0))


def _identity(fd: int) -> tuple[int, int, int]:
    found = _facts(fd)
    return found.dev, found.ino, found.rdev


class _Facts(NamedTuple):
    """What a descriptor is of, as in struct stat."""

    dev: int
    ino: int
    rdev: int
    mode: int


def _facts(fd: int) -> _Facts:
    """What the kernel knows by itself: whoever serves a file is not asked, and so not waited for."""
    found = libc.statx(fd, _STATX_TYPE_INO, _AT_STATX_DONT_SYNC)
    (mode,) = struct.unpack_from("=H", found, 0x1C)
    (ino,) = struct.unpack_from("=Q", found, 0x20)
    numbers = struct.unpack_from("=4I", found, 0x80)
    return _Facts(os.makedev(*numbers[2:]), ino, os.makedev(*numbers[:2]), mode)


def perfuse_mount(source: str, target: str, fstype: str = "fuse", flags: int = 0, data: str = "") -> None:
    """mount(2), except that a FUSE mount whose `fd=N` is a device of perfused's is mounted by perfused.

    `flags` are MS_* bits, `data` the options of mount(8)'s last column. Returns when the mount stands. Raises
    PerfuseError with the errno and the sentence of the verdict: EBUSY for a second mount on one descriptor, EINVAL (a
    socket), ENOTSOCK or EBADF for one that is not ours.
    """
    named = _FD.findall(data)
    if not named or not _FSTYPE.match(fstype or "fuse"):
        libc.mount(os.fsencode(source), os.fsencode(target), os.fsencode(fstype), flags, os.fsencode(data))
        return
    fd = int(named[-1])
    connection, owned = _control_of(fd)
    if connection is None:
        libc.mount(os.fsencode(source), os.fsencode(target), os.fsencode(fstype), flags, os.fsencode(data))
        return
    try:
        frame = mount_frame(source, target, fstype, flags, data)
        pinned = os.open(target, os.O_PATH | os.O_CLOEXEC)
        try:
            exchange(connection, frame, (pinned,))
        finally:
            os.close(pinned)
        await_verdict(connection)
    finally:
        if owned:
            connection.close()


def _control_of(fd: int) -> tuple[socket.socket | None, bool]:
    """The socket that takes a device's mount frame, and whether the caller closes it; None for a real /dev/fuse."""
    kernels = is_kernels(fd)
    if stat.S_ISSOCK(_facts(fd).mode):
        device_name(fd)
        return socket.socket(fileno=os.dup(fd)), True
    kept = kept_connection(fd)
    if kept is None and not kernels:
        raise PerfuseError(errno.ENOTSOCK, f"fd={fd} is no device of perfused's, nor /dev/fuse")
    return kept, False


def device_name(fd: int) -> bytes:
    """The name of a device: of the daemon's end of a socket, "\\0MAJOR:MINOR" of a file. Raises PerfuseError EINVAL
    for a socket that is no device."""
    found = _facts(fd)
    if _may_be_device(found):
        return b"\0%d:%d" % (os.major(found.dev), os.minor(found.dev))
    with socket.socket(fileno=os.dup(fd)) as sock:
        try:
            name = sock.getpeername() if sock.family == socket.AF_UNIX else b""
        except OSError:
            name = b""
    if not isinstance(name, bytes) or not name.startswith(control.DEVICE_NAME_PREFIX):
        raise PerfuseError(errno.EINVAL, f"fd={fd} is a socket, but no device of perfused's")
    return name


def _may_be_device(found: _Facts) -> bool:
    """Whether a file may be a device: which one, and whether it is, the daemon knows."""
    return found.mode == stat.S_IFREG | 0o666 and not os.major(found.dev) and found.ino == _DEVICE_INO


def is_kernels(fd: int) -> bool:
    """Whether a descriptor is of /dev/fuse itself. Raises PerfuseError ENOTSOCK where it is no socket, nor a file that
    could be a device."""
    found = _facts(fd)
    if stat.S_ISCHR(found.mode) and found.rdev == _RDEV:
        return True
    if not stat.S_ISSOCK(found.mode) and not _may_be_device(found):
        raise PerfuseError(errno.ENOTSOCK, f"fd={fd} is no device of perfused's, nor /dev/fuse")
    return False


def kept_connection(fd: int) -> socket.socket | None:
    """The control connection that was kept beside a device; None where there is none."""
    with _lock:
        entry = _direct.get(fd)
    return entry[1] if entry and entry[0] == _identity(fd) else None


def perfuse_unmount(target: str, lazy: bool = False, force: bool = False) -> None:
    """Have perfused unmount what it mounted on `target`: umount2(2) for processes that may not call it.

    `lazy` detaches a mount in use, `force` also aborts what is under way. Raises PerfuseError: ENOENT where perfused
    has no mount there, EBUSY where it is in use, EPERM where it is another user's.
    """
    parent, name = os.path.split(os.path.abspath(target))
    with connect() as connection:
        ask(
            connection,
            {"op": "umount", "target": os.path.join(os.path.realpath(parent), name), "lazy": lazy, "force": force},
        )
