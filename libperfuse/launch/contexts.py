"""The newer way to mount, fsopen(2) to move_mount(2): a context is gathered here, and mounted as mount(2) would.

The kernel takes no descriptor of ours for a FUSE context, so it never sees one: the program holds an empty file in the
place of each. Never here: mounting itself.
"""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from libperfuse.launch import tracee
from libperfuse.launch.books import Device, Key, key_of, placeholder
from libperfuse.launch.errands import Wish
from libperfuse.launch.notify import Listener, Stopped
from libperfuse.mounting import FLAGS

_SET_FLAG, _SET_STRING, _SET_FD, _CREATE, _CREATE_EXCL = 0, 1, 5, 6, 8
_CLOEXEC = 1
_F_EMPTY_PATH, _T_EMPTY_PATH = 0x04, 0x40
#: MOUNT_ATTR_* -> MS_*
_ATTRIBUTES = {
    0x01: 0x1, 0x02: 0x2, 0x04: 0x4, 0x08: 0x8, 0x10: 0x400, 0x20: 0x100_0000, 0x80: 0x800, 0x20_0000: 0x100,
}  # fmt: skip
_MOST = 64


class Mounter(Protocol):
    """What a context needs of the tracer."""

    listener: Listener

    def mount(self, call: Stopped, wish: Wish) -> bool:
        """Mount as mount(2) would, and answer the call."""

    def device_of(self, call: Stopped, number: int) -> tuple[Device, int] | None:
        """The device that is a thread's descriptor."""


@dataclass
class Context:
    """What has been configured: `options` as in mount(2)'s data, `flags` MS_*."""

    fstype: bytes
    source: bytes = b""
    flags: int = 0
    options: list[bytes] = field(default_factory=list)
    created: bool = False


class Contexts:
    """Contexts and mounts that stand nowhere yet, by the files in their place."""

    def __init__(self, mounter: Mounter) -> None:
        self._mounter = mounter
        self._made: dict[Key, Context] = {}
        self.calls: dict[str, Callable[[Stopped], None]] = {
            "fsopen": self._fsopen,
            "fsconfig": self._fsconfig,
            "fsmount": self._fsmount,
            "move_mount": self._move_mount,
        }

    def _give(self, call: Stopped, context: Context, close_on_exec: bool) -> None:
        fd = placeholder()
        try:
            key = key_of(fd)
            if key is not None and self._mounter.listener.give_descriptor(call.cookie, fd, close_on_exec) >= 0:
                self._made[key] = context
                for old in list(self._made)[:-_MOST]:
                    del self._made[old]
        finally:
            os.close(fd)

    def _find(self, call: Stopped, number: int) -> Context | None:
        if not self._made:
            return None
        try:
            fd = tracee.descriptor(call.tid, number)
        except OSError:
            return None
        try:
            key = key_of(fd)
        except OSError:
            key = None
        finally:
            os.close(fd)
        return self._made.get(key) if key else None

    def _fsopen(self, call: Stopped) -> None:
        fstype = tracee.text(call.tid, call.args[0])
        if fstype not in (b"fuse", b"fuseblk") or call.args[1] & 0xFFFF_FFFF & ~_CLOEXEC:
            self._mounter.listener.let_go(call.cookie)
        else:
            self._give(call, Context(fstype), bool(call.args[1] & _CLOEXEC))

    def _fsconfig(self, call: Stopped) -> None:
        context = self._find(call, call.args[0])
        if context is None:
            self._mounter.listener.let_go(call.cookie)
            return
        command = call.args[1] & 0xFFFF_FFFF
        try:
            key = tracee.text(call.tid, call.args[2])
        except OSError:
            self._mounter.listener.give(call.cookie, -errno.EFAULT)
            return
        answer = 0
        if command == _SET_FLAG and key in (b"ro", b"rw", b"sync", b"async", b"dirsync", b"lazytime"):
            context.flags |= FLAGS.get(key.decode(), 0)
        elif command == _SET_FLAG:
            context.options.append(key)
        elif command == _SET_STRING:
            try:
                value = tracee.text(call.tid, call.args[3])
            except OSError:
                self._mounter.listener.give(call.cookie, -errno.EFAULT)
                return
            if key == b"source":
                context.source = value
            elif b"," in value:
                answer = -errno.EINVAL
            else:
                context.options.append(key + b"=" + value)
        elif command == _SET_FD and key == b"fd":
            context.options.append(b"fd=%d" % (call.args[4] & 0xFFFF_FFFF))
        elif command in (_CREATE, _CREATE_EXCL):
            answer = self._create(call, context)
        else:
            answer = -errno.EINVAL if command <= _CREATE_EXCL else -errno.EOPNOTSUPP
        self._mounter.listener.give(call.cookie, answer)

    def _create(self, call: Stopped, context: Context) -> int:
        numbers = [each[3:] for each in context.options if each.startswith(b"fd=") and each[3:].isdigit()]
        found = self._mounter.device_of(call, int(numbers[-1])) if numbers else None
        if found is None:
            return -errno.EINVAL
        os.close(found[1])
        context.created = True
        return 0

    def _fsmount(self, call: Stopped) -> None:
        context = self._find(call, call.args[0])
        if context is None:
            self._mounter.listener.let_go(call.cookie)
        elif not context.created:
            self._mounter.listener.give(call.cookie, -errno.EINVAL)
        else:
            for attribute, flag in _ATTRIBUTES.items():
                context.flags |= flag if call.args[2] & attribute else 0
            self._give(call, context, bool(call.args[1] & _CLOEXEC))

    def _move_mount(self, call: Stopped) -> None:
        from_fd, from_path, to_fd, to_path, flags = call.args[:5]
        context = self._find(call, from_fd) if flags & _F_EMPTY_PATH else None
        if context is None or tracee.text(call.tid, from_path):
            self._mounter.listener.let_go(call.cookie)
            return
        target = tracee.text(call.tid, to_path)
        if not target and not flags & _T_EMPTY_PATH:
            self._mounter.listener.give(call.cookie, -errno.ENOENT)
            return
        directory = -1 if to_fd & 0xFFFF_FFFF == 0xFFFF_FF9C else tracee.descriptor(call.tid, to_fd)
        wish = Wish(context.source, target, context.fstype, context.flags, b",".join(context.options), directory)
        if not self._mounter.mount(call, wish):
            if directory >= 0:
                os.close(directory)
            self._mounter.listener.give(call.cookie, -errno.EINVAL)
