"""The ioctls of a device: CLONE, which makes a descriptor another one of the same mount, and those of backing files.

Never here: which ioctls are stopped (`filter`), and what perfused makes of them.
"""

import errno
import os
import struct
from functools import partial
from typing import Any, Protocol

from libperfuse.launch import errands, tracee
from libperfuse.launch.books import DIRECT, Device
from libperfuse.launch.notify import Stopped
from libperfuse.launch.sends import Sends
from wire import codec, ioctls
from wire.control import Endpoint


class Asker(Sends, Protocol):
    """What an ioctl needs of the tracer."""

    def device_of(self, call: Stopped, number: int) -> tuple[Device, int] | None:
        """The device that is a thread's descriptor, and a duplicate of it."""

    def put(self, call: Stopped, fd: int, number: int) -> bool:
        """Put a duplicate of a descriptor in the place of the program's."""


class Ioctls:
    """Answers ioctls on devices."""

    def __init__(self, tracer: Asker) -> None:
        self._tracer = tracer

    def stopped(self, call: Stopped) -> None:
        """Answer a stopped ioctl(2)."""
        number, command, argument = call.args[0] & 0xFFFF_FFFF, call.args[1] & 0xFFFF_FFFF, call.args[2]
        found = self._tracer.device_of(call, number)
        if found is None or (found[0].endpoint is Endpoint.DIRECT and not found[0].later):
            if found is not None:
                os.close(found[1])
            self._tracer.listener.let_go(call.cookie)
            return
        device, fd = found
        if command == ioctls.FUSE_DEV_IOC_CLONE:
            os.close(fd)
            self._clone(call, device, number, argument)
        elif command == ioctls.FUSE_DEV_IOC_BACKING_OPEN:
            self._backing_open(call, device, fd, argument)
        elif command == ioctls.FUSE_DEV_IOC_BACKING_CLOSE:
            try:
                (identity,) = struct.unpack("=I", tracee.read(call.tid, argument, 4))
            except OSError:
                os.close(fd)
                self._tracer.listener.give(call.cookie, -errno.EFAULT)
                return
            work = partial(errands.backing_close, fd, identity, device.connection)
            done = partial(self._answered, call, "id", "no backing id closed")
            self._tracer.send(call, lambda _: work(), done, fd, connection=device.connection)
        else:
            os.close(fd)
            self._tracer.listener.give(call.cookie, -errno.ENOTTY)

    def _answered(self, call: Stopped, key: str, what: str, facts: dict[str, Any], fds: list[int]) -> None:
        if not self._tracer.refused(call, facts, what):
            self._tracer.listener.give(call.cookie, int(facts.get(key, 0)))

    def _clone(self, call: Stopped, target: Device, number: int, argument: int) -> None:
        """FUSE_DEV_IOC_CLONE on descriptor `number`, which is `target`: from now on it is another open file of the
        device whose number stands at `argument`."""
        try:
            (other,) = struct.unpack("=I", tracee.read(call.tid, argument, 4))
        except OSError:
            self._tracer.listener.give(call.cookie, -errno.EFAULT)
            return
        found = self._tracer.device_of(call, other)
        if found is not None and not found[0].mounts:
            os.close(found[1])
            self._tracer.listener.give(call.cookie, -errno.EPERM)
            return
        if found is None:
            self._tracer.listener.give(call.cookie, -errno.EINVAL)
            return
        device, fd = found
        if target.mounts:
            os.close(fd)
            self._tracer.listener.give(call.cookie, -errno.EINVAL)
        elif device.key.kind == "socket":
            # Whoever reads a socket takes the next request, and an answer may come from anywhere.
            self._replace(call, target, fd, number)
        elif device.key == DIRECT:
            self._tracer.send(
                call, lambda _: errands.open_kernels(), partial(self._cloned, call, target, number, False), fd
            )
        else:
            self._tracer.send(
                call, lambda _: errands.open_again(fd), partial(self._cloned, call, target, number, True), fd
            )

    def _cloned(
        self, call: Stopped, target: Device, number: int, whole: bool, facts: dict[str, Any], fds: list[int]
    ) -> None:
        if not self._tracer.refused(call, facts, f"{target.program}: not cloned"):
            self._replace(call, target, fds[0], number, whole)

    def _replace(self, call: Stopped, before: Device, fd: int, number: int, whole: bool = True) -> None:
        """Put `fd`, which is closed here, in the place of a device; unless that is the `whole` of it, the kernel does
        the call on it."""
        try:
            done = self._tracer.put(call, fd, number)
        finally:
            os.close(fd)
        if not done:
            self._tracer.listener.give(call.cookie, -errno.EBADF)
            return
        self._tracer.books.strike(before)
        if whole:
            self._tracer.listener.give(call.cookie, 0)
        else:
            self._tracer.listener.let_go(call.cookie)

    def _backing_open(self, call: Stopped, device: Device, fd: int, argument: int) -> None:
        try:
            wanted = codec.backing_map.unpack_from(tracee.read(call.tid, argument, codec.backing_map.size))
            bad = errno.EINVAL if wanted.flags or wanted.padding else 0
            file = tracee.descriptor(call.tid, wanted.fd) if not bad else -1
        except OSError as gone:
            bad = gone.errno or errno.EBADF
        if bad:
            os.close(fd)
            self._tracer.listener.give(call.cookie, -bad)
            return
        work = partial(errands.backing_open, fd, file, device.connection)
        done = partial(self._answered, call, "id", f"{device.program}: no backing file")
        self._tracer.send(call, lambda _: work(), done, fd, file, connection=device.connection)
