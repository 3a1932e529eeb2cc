"""What envoys do: ask perfused for a device, mount one, unmount, open one again, register backing files.

Each runs in a process of its own that ends with it; all may wait, and raise OSError with a sentence.
"""

import errno
import os
import socket
from typing import NamedTuple

from libperfuse import backing, mounting, perfuse
from libperfuse.connection import PerfuseError, connect_or_start, exchange
from libperfuse.handshake import await_verdict, hello, mount_frame
from libperfuse.launch.books import DIRECT, At, key_of
from libperfuse.launch.envoy import Outcome
from libperfuse.launch.tracee import Place, resolve
from wire.control import Endpoint

_MNT_FORCE, _MNT_DETACH, _UMOUNT_NOFOLLOW = 1, 2, 8


def leads_to_device(where: Place, path: bytes, directory: int) -> bool:
    """Whether `path`, from `directory` or where the thread works, is /dev/fuse by another name."""
    try:
        found = resolve(where, path, os.O_PATH | os.O_CLOEXEC, directory)
    except OSError:
        return False
    try:
        return key_of(found) == DIRECT
    finally:
        os.close(found)


def open_device(endpoint: Endpoint, program: str) -> Outcome:
    """A device: {"endpoint"}, its descriptor, and the connection where that has to be kept."""
    connection = connect_or_start()
    fd, given = hello(connection, endpoint, program)
    private = not connection.getpeername()
    kept = () if given is Endpoint.SOCKET and not private else (connection.fileno(),)
    # The caller sends them on; this process ends then, and with it what is not kept.
    connection.detach()
    return {"endpoint": int(given)}, (fd, *kept)


class Wish(NamedTuple):
    """The arguments of mount(2), the target from `directory` where that is not -1."""

    source: bytes
    target: bytes
    fstype: bytes
    flags: int
    data: bytes
    directory: int = -1


def mount(where: Place, wish: Wish, device: int, connection: socket.socket | None) -> At:
    """Mount a device; where it stands."""
    target = resolve(where, wish.target, os.O_PATH | os.O_CLOEXEC, wish.directory)
    path = os.readlink(f"/proc/self/fd/{target}")
    frame = mount_frame(os.fsdecode(wish.source), path, os.fsdecode(wish.fstype), wish.flags, os.fsdecode(wish.data))
    # A socket takes its own MOUNT; a descriptor of it is a duplicate that ends with this process.
    found = key_of(device)
    if found is not None and found.kind == "socket":
        to = socket.socket(fileno=os.dup(device))
    elif connection is not None:
        to = connection
    else:
        raise PerfuseError(errno.ENOTSOCK, "the device's connection to perfused is gone")
    exchange(to, frame, (target,))
    await_verdict(to)
    # Of our own namespace, which is the thread's by now: it may have another root, and so another path.
    return At(path, mounting.top_of(path))


def unmount(where: Place, path: bytes, flags: int, ours: list[At]) -> Outcome:
    """What became of umount2(2) of a path: {} where it is not for us to do; {"path", "done": True} where it is done.

    Root unmounts for itself: {"path", "done": False}. For a mount of ours that is gone already, {"path", "gone": True}:
    a program on a socket cannot know that it is, and below it there may be another mount.
    """
    parent, name = os.path.split(path.rstrip(b"/") or b"/")
    flagged = os.O_PATH | os.O_CLOEXEC
    if name in (b"", b".", b"..") or (not flags & _UMOUNT_NOFOLLOW and _is_link(where, path)):
        target = os.readlink(f"/proc/self/fd/{resolve(where, path, flagged)}")
    else:
        target = os.path.join(
            os.readlink(f"/proc/self/fd/{resolve(where, parent or b'.', flagged)}"), os.fsdecode(name)
        )
    mine = [each for each in ours if each.path == target]
    if not mine:
        return {}, ()
    top = mounting.top_of(target)
    if not any(each.identity == top for each in mine):
        return {"path": target, "gone": True}, ()
    if os.geteuid() == 0 or flags & 0xFFFF_FFFF & ~(_MNT_FORCE | _MNT_DETACH | _UMOUNT_NOFOLLOW):
        return {"path": target, "done": False}, ()
    perfuse.perfuse_unmount(target, lazy=bool(flags & _MNT_DETACH), force=bool(flags & _MNT_FORCE))
    return {"path": target, "done": True}, ()


def _is_link(where: Place, path: bytes) -> bool:
    """Whether the last part of a path is a symbolic link; a mount point never is one, and is not touched."""
    fd = resolve(where, os.path.dirname(path) or b".", os.O_PATH | os.O_CLOEXEC)
    try:
        os.readlink(os.path.basename(path), dir_fd=fd)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def open_kernels() -> Outcome:
    """The kernel's own device, which is not mounted."""
    return {}, (os.open(perfuse.DEVICE, os.O_RDWR | os.O_CLOEXEC),)


def open_again(device: int) -> Outcome:
    """Another open file of the same device file: its requests come to both, which is what CLONE is for."""
    return {}, (os.open(f"/proc/self/fd/{device}", os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC),)


def backing_open(device: int, file: int, connection: socket.socket | None) -> Outcome:
    """Register the file that the program holds open: {"id"}."""
    if connection is not None:
        perfuse.keep(device, connection)
    return {"id": backing.backing_open(device, file)}, ()


def backing_close(device: int, identity: int, connection: socket.socket | None) -> Outcome:
    """Give an id back."""
    if connection is not None:
        perfuse.keep(device, connection)
    backing.backing_close(device, identity)
    return {}, ()
