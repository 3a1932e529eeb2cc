"""What the tracer knows of the devices it gave out, and how it tells them again by a descriptor.

Never here: system calls of the program, and answers to them.
"""

import os
import select
import socket
import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from libperfuse import libc, perfuse
from wire.control import Endpoint

_AT_STATX_DONT_SYNC = 0x4000
_FUSE_DEVICE = (10, 229)
#: devices that their program has no more, as far as can be told: so many are kept, since a child may have inherited one
_ORPHANS = 32


class Key(NamedTuple):
    """How a descriptor is told: a socket by its peer's name, a file by filesystem and inode, /dev/fuse not at all."""

    kind: str
    name: str


DIRECT = Key("direct", "")


def key_of(fd: int) -> Key | None:
    """The key of a descriptor, without asking any filesystem; None for what cannot be a device. Raises OSError."""
    facts = libc.statx(fd, 0x3, _AT_STATX_DONT_SYNC)
    (mode,) = struct.unpack_from("=H", facts, 0x1C)
    (inode,) = struct.unpack_from("=Q", facts, 0x20)
    *rdev, major, minor = struct.unpack_from("=4I", facts, 0x80)
    if stat.S_ISSOCK(mode):
        try:
            return Key("socket", perfuse.device_name(fd).hex())
        except OSError:
            return None
    if stat.S_ISCHR(mode):
        return DIRECT if tuple(rdev) == _FUSE_DEVICE else None
    return Key("file", f"{major}:{minor}:{inode}") if stat.S_ISREG(mode) else None


class At(NamedTuple):
    """Where a device was mounted: the path as its program sees it, and (id, device number) of mountinfo."""

    path: str
    identity: tuple[str, str]


@dataclass
class Device:
    """A device in a program's hands. `number` is its descriptor in process `pid`, which opened it."""

    key: Key
    endpoint: Endpoint
    program: str
    pid: int
    number: int
    #: takes MOUNT where the device itself does not, and tells perfused of our end
    connection: socket.socket | None = None
    #: given out in place of a second device of a process, until it is known what for
    later: bool = False
    mounts: list[At] = field(default_factory=list)


class Books:
    """All devices that were given out."""

    def __init__(self) -> None:
        self._keyed: dict[Key, Device] = {}
        self._direct: list[Device] = []
        #: mounts that their program has had the kernel unmount, which may have refused
        self._leaving: set[At] = set()
        self._swept = 0

    def enter(self, device: Device) -> None:
        """Note a device."""
        self._sweep()
        if device.key == DIRECT:
            self._direct.append(device)
        else:
            self._keyed[device.key] = device

    def strike(self, device: Device) -> None:
        """Forget a device and close its connection."""
        if device.key == DIRECT:
            self._direct = [each for each in self._direct if each is not device]
        else:
            self._keyed.pop(device.key, None)
        self._leaving -= set(device.mounts)
        if device.connection is not None:
            device.connection.close()

    def find(self, key: Key | None, number: int, pids: Iterable[int]) -> Device | None:
        """The device of a descriptor, which is `number` in the first of `pids`; the others are its ancestors.

        /dev/fuse has no key of its own: it is the newest that one of them opened under that number.
        """
        if key is None:
            return None
        if key != DIRECT:
            return self._keyed.get(key)
        lineage = set(pids)
        same = [each for each in reversed(self._direct) if each.number == number]
        # Or else one of a process that is gone: it may have left its child to mount.
        orphans = (each for each in same if not each.mounts and not os.path.exists(f"/proc/{each.pid}"))
        return next((each for each in same if each.pid in lineage), next(orphans, None))

    def all(self) -> list[Device]:
        """Every device."""
        return [*self._keyed.values(), *self._direct]

    def mounted_by(self, pid: int) -> Device | None:
        """A device that a process opened and that is mounted, or None."""
        return next((each for each in self.all() if each.pid == pid and each.mounts), None)

    def mounts(self) -> list[At]:
        """Everything that was mounted, whether it still stands or not."""
        return [at for each in self.all() for at in each.mounts]

    def leave(self, path: str) -> None:
        """Note that the kernel was asked to unmount what is on a path."""
        self._leaving |= {at for at in self.mounts() if at.path == path}

    def unmounted(self, path: str) -> bool:
        """Forget what was mounted on a path; whether its program may have known that it was gone."""
        gone = {at for at in self.mounts() if at.path == path}
        known = bool(gone & self._leaving)
        self._leaving -= gone
        for each in self.all():
            each.mounts = [at for at in each.mounts if at not in gone]
        return known

    def close(self) -> None:
        """Forget all devices."""
        for each in self.all():
            self.strike(each)

    def _sweep(self) -> None:
        """Strike devices that have ended, and the oldest of those whose program has them no more."""
        every = self.all()
        if len(every) < self._swept:
            return
        for each in every:
            if each.connection is not None and _hung_up(each.connection):
                self.strike(each)
        orphans = [each for each in self.all() if not _held(each)]
        for each in orphans[:-_ORPHANS]:
            self.strike(each)
        # Not again before there are twice as many: each look costs.
        self._swept = max(2 * len(self.all()), 2 * _ORPHANS)


def _hung_up(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(0))


def _held(device: Device) -> bool:
    """Whether a device is where its program got it."""
    try:
        pidfd = os.pidfd_open(device.pid)
    except OSError:
        return False
    try:
        fd = libc.pidfd_getfd(pidfd, device.number)
    except OSError:
        return False
    finally:
        os.close(pidfd)
    try:
        return key_of(fd) == device.key
    except OSError:
        return False
    finally:
        os.close(fd)


def lineage(pid: int, most: int = 64) -> list[int]:
    """A process and its ancestors, nearest first, as far as they can be told."""
    found: list[int] = []
    while pid > 1 and len(found) < most:
        found.append(pid)
        try:
            with open(f"/proc/{pid}/stat") as line:
                pid = int(line.read().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            break
    return found


def placeholder() -> int:
    """An empty file that stands for a device until it is known what it is for; close-on-exec."""
    return os.memfd_create("perfuse", os.MFD_CLOEXEC)
