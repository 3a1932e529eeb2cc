"""The three ways to a mounted device: through perfused, through a private perfused, and on the kernel's own /dev/fuse.

Never here: FUSE frames.
"""

import contextlib
import errno
import os
import re
import select
import socket
import stat
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from libperfuse import libc
from libperfuse.connection import PerfuseError
from libperfuse.perfuse import DEVICE, perfuse_mount, perfuse_open, perfuse_unmount

#: through the daemon that listens, or a private one where none does; through a private one; on /dev/fuse itself
Via = Literal["perfused", "private", "kernel"]
VIAS: tuple[Via, ...] = ("perfused", "private", "kernel")

#: mount(8) options that are mount(2) flags (MS_*)
FLAGS = {
    "ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "sync": 16, "dirsync": 128, "noatime": 1024, "nodiratime": 2048,
    "relatime": 1 << 21, "strictatime": 1 << 24, "lazytime": 1 << 25,
}  # fmt: skip
#: and those that ask for what is so anyway
_DEFAULTS = {"rw", "suid", "dev", "exec", "async", "defaults"}
_MNT_FORCE, _MNT_DETACH, _UMOUNT_NOFOLLOW = 1, 2, 8
_CLONE_NEWNS, _MS_REC, _MS_PRIVATE = 0x20000, 1 << 14, 1 << 18
CONNECTIONS = Path("/sys/fs/fuse/connections")
_DETACHED = "in use: detached, it ends with its last user"
#: how mountinfo writes a space, a tab, a newline and a backslash
_ESCAPED = re.compile(rb"\\([0-7]{3})")


class Device:
    """A mounted device: its descriptor, where it was mounted, and how mountinfo knows the mount.

    The descriptor has users; `close` closes it when the last of them has let go, so that none of them ever reads or
    writes another file that got the same number.
    """

    def __init__(self, fd: int, mountpoint: str = "", identity: tuple[str, str] = ("", "")) -> None:
        """`mountpoint` is a real path; `identity` the mount's id and device number ("0:57"), empty where unknown."""
        self.fd = fd
        self.mountpoint = mountpoint
        self.identity = identity
        self._users = 0
        self._closing = False
        self._lock = threading.Lock()

    def take(self) -> int:
        """The descriptor, open until `give`. OSError ENODEV once it is closed."""
        with self._lock:
            if self._closing:
                raise OSError(errno.ENODEV, "the mount has ended")
            self._users += 1
            return self.fd

    def give(self) -> None:
        """Let go of what `take` gave."""
        with self._lock:
            self._users -= 1
            last = self._closing and not self._users
        if last:
            os.close(self.fd)

    def close(self) -> None:
        """Close it, now or when the last user lets go. To be called once."""
        with self._lock:
            self._closing = True
            last = not self._users
        if last:
            os.close(self.fd)


def split_options(options: Iterable[str]) -> tuple[int, list[str]]:
    """mount(2) flags and the options left for FUSE. OSError EINVAL for one that is `fd=`, empty, or holds a comma."""
    flags, left = 0, []
    for each in options:
        if not each or "," in each or each.partition("=")[0] in ("fd", "rootmode", "user_id", "group_id"):
            raise OSError(
                errno.EINVAL, f"mount option {each!r}: one option, and none of fd, rootmode, user_id, group_id"
            )
        if each in FLAGS:
            flags |= FLAGS[each]
        elif each not in _DEFAULTS:
            left.append(each)
    return flags, left


def mount(via: Via, mountpoint: str, fstype: str, source: str, options: Iterable[str]) -> Device:
    """Open a device and mount it. OSError, PerfuseError with the reason; nothing is left open or mounted then.

    The root's type is the mountpoint's: a directory, or a regular file for a filesystem that is one file.
    """
    flags, left = split_options(options)
    mode = os.stat(mountpoint).st_mode
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise OSError(errno.ENOTDIR, "a mountpoint is a directory, or a regular file", mountpoint)
    # Before there is a mount: afterwards a look at the mountpoint would wait for a filesystem that nobody serves yet.
    path = os.path.realpath(mountpoint)
    if via == "kernel":
        fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    else:
        fd = perfuse_open(DEVICE, os.O_RDWR | os.O_CLOEXEC, private=via == "private")
    uid, gid = os.getuid(), os.getgid()
    data = ",".join([f"fd={fd}", f"rootmode={stat.S_IFMT(mode):o}", f"user_id={uid}", f"group_id={gid}", *left])
    try:
        if via == "kernel":
            libc.mount(os.fsencode(source), os.fsencode(path), os.fsencode(fstype), flags, os.fsencode(data))
        else:
            perfuse_mount(source, path, fstype, flags, data)
    except BaseException as bad:
        os.close(fd)
        if isinstance(bad, OSError) and not isinstance(bad, PerfuseError):
            why = f", with options {','.join(left)}" if left else ""
            raise OSError(bad.errno, f"{bad.strerror}: mount(2) of {fstype}{why}", path) from None
        raise
    return Device(fd, path, top_of(path))


class Mounted(NamedTuple):
    """A line of mountinfo: the mount's id, its device number, and where it is."""

    id: str
    number: str
    path: bytes


def _mounts(of: int | str = "self") -> list[Mounted]:
    """The mounts of a process's namespace, lowest first; no filesystem is asked. None where /proc is not there."""
    try:
        lines = Path(f"/proc/{of}/mountinfo").read_bytes().split(b"\n")
    except OSError:
        return []
    fields = [line.split(b" ") for line in lines if line]
    return [
        Mounted(each[0].decode(), each[2].decode(), _ESCAPED.sub(lambda octal: bytes([int(octal[1], 8)]), each[4]))
        for each in fields
    ]


def top_of(path: str, of: int | str = "self") -> tuple[str, str]:
    """Id and number of the uppermost mount on `path`, without touching it, as process `of` sees it; empty where none is
    in its namespace."""
    found = [(each.id, each.number) for each in _mounts(of) if each.path == os.fsencode(path)]
    return found[-1] if found else ("", "")


def place_of(device: Device) -> tuple[bytes, bool]:
    """Where the mount is now, empty where it is nowhere in our namespace, and whether nothing lies on it."""
    if not any(device.identity):
        return b"", False
    mounts = _mounts()
    path = next((each.path for each in mounts if each[:2] == device.identity), b"")
    return path, bool(path) and [each[:2] for each in mounts if each.path == path][-1] == device.identity


def unmount(device: Device) -> str:
    """Unmount. "" where that was it, else why the mount lives on: in use it is detached, and ends with its last user.

    The mount is found wherever it has been moved; what lies upon it is not taken down. Without the right to unmount,
    and without perfused to do it, the device is shut, which ends the mount at once.
    """
    path, free = place_of(device)
    if not free:
        return "" if shut(device) or not path else "another filesystem is mounted on it: it is left as it is"
    for flags in (0, _MNT_DETACH):
        try:
            libc.umount2(path, flags | _UMOUNT_NOFOLLOW)
            return _DETACHED if flags else ""
        except OSError as bad:
            if bad.errno != errno.EBUSY:
                break
    for lazy in (False, True):
        try:
            perfuse_unmount(os.fsdecode(path), lazy=lazy)
            return _DETACHED if lazy else ""
        except PerfuseError as bad:
            if bad.errno != errno.EBUSY:
                break
    return "" if shut(device) else "this process may not unmount it"


def abort(device: Device) -> None:
    """End the mount at once: what is under way gets an error (ECONNABORTED or ENOTCONN)."""
    path, free = place_of(device)
    if free:
        with contextlib.suppress(OSError):
            libc.umount2(path, _MNT_FORCE | _MNT_DETACH | _UMOUNT_NOFOLLOW)
    if not shut(device) and device.identity[1] and not _ended(device):
        # Detached before, or covered: only fusectl knows it now.
        knob = CONNECTIONS / device.identity[1].partition(":")[2] / "abort"
        try:
            knob.write_text("1")
        except OSError:
            apart = threading.Thread(target=_abort_apart, args=(knob,), daemon=True)
            apart.start()
            apart.join()


def _ended(device: Device) -> bool:
    """Whether the kernel has let go of a device: its number may then be another mount's."""
    try:
        fd = device.take()
    except OSError:
        return True
    try:
        poll = select.poll()
        poll.register(fd, 0)
        return bool(poll.poll(0))
    finally:
        device.give()


def _abort_apart(knob: Path) -> None:
    """Write to a knob of fusectl, which is mounted for it in a namespace of this thread's own."""
    with contextlib.suppress(OSError):
        libc.unshare(_CLONE_NEWNS | libc.CLONE_FS)
        libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
        libc.mount(b"none", os.fsencode(CONNECTIONS), b"fusectl", 0, None)
        knob.write_text("1")


def shut(device: Device) -> bool:
    """Shut a perfused socket, so that whoever reads it sees the end; False for a kernel's device, which ends with its
    mount alone. True also where it is closed already."""
    try:
        fd = device.take()
    except OSError:
        return True
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return False
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as again:
            again.shutdown(socket.SHUT_RDWR)
        return True
    finally:
        device.give()
