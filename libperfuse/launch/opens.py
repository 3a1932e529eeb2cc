"""The calls of open(2): of the device, which perfused gives, and of anything else, which goes on.

Never here: which opens are stopped (`filter`), and which endpoint a program gets (`choose`).
"""

import os
import socket
import struct
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from libperfuse.launch import errands, tracee
from libperfuse.launch.books import Device, key_of, placeholder
from libperfuse.launch.choose import Choice
from libperfuse.launch.envoy import Outcome
from libperfuse.launch.filter import OPEN_MASK, OPEN_WANTED
from libperfuse.launch.notify import Stopped
from libperfuse.launch.sends import Sends
from wire.control import Endpoint

_DEVICE = b"/dev/fuse"
_AT_FDCWD = -100
#: RESOLVE_BENEATH, RESOLVE_IN_ROOT: no absolute path is what it says
_RESOLVE_ELSEWHERE = 0x08 | 0x10


class Opener(Sends, Protocol):
    """What an open needs of the tracer."""

    def choice(self, pid: int, name: str) -> Choice:
        """The endpoint for a process."""

    def report(self, line: str) -> None:
        """Tell people, if they want to know all."""


class Opens:
    """Gives devices to programs that open /dev/fuse, by whatever name."""

    def __init__(self, tracer: Opener) -> None:
        self._tracer = tracer
        self.calls: dict[str, Callable[[Stopped], None]] = {
            "open": lambda call: self._open(call, _AT_FDCWD, call.args[0], call.args[1]),
            "openat": lambda call: self._open(call, call.args[0], call.args[1], call.args[2]),
            "openat2": self._openat2,
        }

    def _open(self, call: Stopped, directory: int, path_at: int, flags: int) -> None:
        path = tracee.text(call.tid, path_at)
        if path.rpartition(b"/")[2] != b"fuse" or flags & (os.O_PATH | os.O_DIRECTORY):
            self._tracer.listener.let_go(call.cookie)
            return
        pid, parent = tracee.process_of(tracee.status(call.tid))
        name = tracee.program(pid)
        served = parent if name.startswith("fusermount") else pid
        name = tracee.program(served)
        if not self._tracer.listener.valid(call.cookie):
            return
        later = self._tracer.books.mounted_by(pid) is not None
        if later and path == _DEVICE:
            self._give_later(call, pid, flags)
            return
        choice = self._tracer.choice(served, name)
        opening = partial(errands.open_device, choice.endpoint, name)
        if path == _DEVICE:
            self._tracer.send(call, lambda _: opening(), partial(self._opened, call, pid, name, flags, choice))
            return
        start = _directory(call, directory)

        def work(where: tracee.Place) -> Outcome:
            if not errands.leads_to_device(where, path, start):
                return {"other": True}, ()
            return ({}, ()) if later else opening()

        def done(facts: dict[str, Any], fds: list[int]) -> None:
            if facts.get("other"):
                self._tracer.listener.let_go(call.cookie)
            elif later:
                self._give_later(call, pid, flags)
            else:
                self._opened(call, pid, name, flags, choice, facts, fds)

        self._tracer.send(call, work, done, *([start] if start >= 0 else []))

    def _openat2(self, call: Stopped) -> None:
        flags, _, how = struct.unpack("=3Q", tracee.read(call.tid, call.args[2], 24))
        if flags & OPEN_MASK != OPEN_WANTED or how & _RESOLVE_ELSEWHERE or call.args[3] < 24:
            self._tracer.listener.let_go(call.cookie)
        else:
            self._open(call, call.args[0], call.args[1], flags)

    def _give_later(self, call: Stopped, pid: int, flags: int) -> None:
        """A process that has its mount opens the device once more: to clone it, or else to mount a second time. Which,
        and so what it gets, the next call tells."""
        fd = placeholder()
        try:
            key = key_of(fd)
            number = self._tracer.listener.give_descriptor(call.cookie, fd, bool(flags & os.O_CLOEXEC))
            if number >= 0 and key is not None:
                self._tracer.books.enter(Device(key, Endpoint.ANY, tracee.program(pid), pid, number, later=True))
        finally:
            os.close(fd)

    def _opened(
        self, call: Stopped, pid: int, name: str, flags: int, choice: Choice, facts: dict[str, Any], fds: list[int]
    ) -> None:
        if self._tracer.refused(call, facts, f"{name}[{pid}]: no device"):
            return
        fd, *rest = fds
        connection = socket.socket(fileno=rest[0]) if rest else None
        try:
            os.set_blocking(fd, not flags & os.O_NONBLOCK)
            key, endpoint = key_of(fd), Endpoint(facts["endpoint"])
            assert key is not None
            device = Device(key, endpoint, name, pid, -1, connection)
            # Entered first: the program's next call may come before ours is back.
            self._tracer.books.enter(device)
            device.number = self._tracer.listener.give_descriptor(call.cookie, fd, bool(flags & os.O_CLOEXEC))
            if device.number < 0:
                self._tracer.books.strike(device)
            else:
                self._tracer.report(f"{name}[{pid}]: endpoint {endpoint.name.lower()}: {choice.reason}")
        finally:
            os.close(fd)


def _directory(call: Stopped, number: int) -> int:
    """A duplicate of the directory that a call's path starts from; -1 for the working directory. Raises OSError."""
    return -1 if number & 0xFFFF_FFFF == _AT_FDCWD & 0xFFFF_FFFF else tracee.descriptor(call.tid, number & 0xFFFF_FFFF)
