"""The three ways to a mounted device: through perfused, through a private perfused, and on the kernel's own /dev/fuse.

Never here: FUSE frames.
"""

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
_MNT_FORCE, _MNT_DETACH = 1, 2


@dataclass
class Device:
    """A mounted device: its descriptor, where it is mounted, and the mount's number ("0:57") at that time."""

    fd: int
    mountpoint: str
    number: str


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
    if via == "kernel":
        fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    else:
        fd = perfuse_open(DEVICE, os.O_RDWR | os.O_CLOEXEC, private=via == "private")
    uid, gid = os.getuid(), os.getgid()
    data = ",".join([f"fd={fd}", f"rootmode={stat.S_IFMT(mode):o}", f"user_id={uid}", f"group_id={gid}", *left])
    try:
        if via == "kernel":
            libc.mount(os.fsencode(source), os.fsencode(mountpoint), os.fsencode(fstype), flags, os.fsencode(data))
        else:
            perfuse_mount(source, mountpoint, fstype, flags, data)
    except BaseException:
        os.close(fd)
        raise
    where = os.path.realpath(os.path.dirname(os.path.abspath(mountpoint)))
    path = os.path.join(where, os.path.basename(os.path.abspath(mountpoint)))
    return Device(fd, path, top_of(path))


def top_of(path: str) -> str:
    """The number ("0:57") of the uppermost mount on `path`, without touching it; "" where none is in our namespace."""
    found = ""
    with contextlib.suppress(OSError), open("/proc/self/mountinfo", "rb") as lines:
        wanted = os.fsencode(path)
        for line in lines:
            fields = line.split()
            if fields[4].replace(b"\\040", b" ").replace(b"\\011", b"\t").replace(b"\\134", b"\\") == wanted:
                found = fields[2].decode()
    return found


def unmount(device: Device) -> bool:
    """Unmount; a mount in use is detached instead and ends when its last user has gone: False then.

    What lies on the mountpoint is left alone where it is not ours (any more). Without the right to unmount, and without
    perfused to do it, the device is shut, which ends the mount at once.
    """
    if not device.number or top_of(device.mountpoint) != device.number:
        shut(device)
        return True
    path = os.fsencode(device.mountpoint)
    for flags in (0, _MNT_DETACH):
        try:
            libc.umount2(path, flags)
            return not flags
        except OSError as bad:
            if bad.errno != errno.EBUSY:
                break
    for lazy in (False, True):
        try:
            perfuse_unmount(device.mountpoint, lazy=lazy)
            return not lazy
        except PerfuseError as bad:
            if bad.errno != errno.EBUSY:
                break
    shut(device)
    return True


def abort(device: Device) -> None:
    """End the mount at once: what is under way gets an error (ECONNABORTED or ENOTCONN)."""
    if device.number and top_of(device.mountpoint) == device.number:
        with contextlib.suppress(OSError):
            libc.umount2(os.fsencode(device.mountpoint), _MNT_FORCE | _MNT_DETACH)
    with contextlib.suppress(OSError):
        Path(f"/sys/fs/fuse/connections/{device.number.partition(':')[2]}/abort").write_text("1")
    shut(device)


def shut(device: Device) -> None:
    """Shut a perfused socket, so that whoever reads it sees the end. A kernel's device ends with its mount alone."""
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(os.fstat(device.fd).st_mode):
            with socket.socket(fileno=os.dup(device.fd)) as again:
                again.shutdown(socket.SHUT_RDWR)
