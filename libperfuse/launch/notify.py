"""The listener of a seccomp filter: stopped calls in, answers out (linux/seccomp.h, seccomp_unotify(2)).

Never here: what a call means.
"""

import contextlib
import errno
import fcntl
import os
import struct
from typing import NamedTuple

from libperfuse.launch.filter import names_by_number

_NOTIF = struct.Struct("=QIIiIQ6Q")
_RESP = struct.Struct("=QqiI")
_ADDFD = struct.Struct("=QIIII")
_ID = struct.Struct("=Q")

#: seccomp_notif_resp.flags: do the call after all
_CONTINUE = 1
_ADDFD_SETFD = 1
#: SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP: run the answered thread on this processor
_SYNC_WAKE_UP = 1


def _ioc(direction: int, number: int, size: int) -> int:
    return direction << 30 | size << 16 | ord("!") << 8 | number


_RECV = _ioc(3, 0, _NOTIF.size)
_SEND = _ioc(3, 1, _RESP.size)
_ID_VALID = _ioc(1, 2, _ID.size)
_ADD = _ioc(1, 3, _ADDFD.size)
_SET_FLAGS = _ioc(1, 4, 8)


class Stopped(NamedTuple):
    """One stopped call: its cookie, the thread's id as we see it, the call's name, its six arguments."""

    cookie: int
    tid: int
    name: str
    args: tuple[int, ...]


class Listener:
    """A listener's descriptor, which it owns."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._names = names_by_number(os.uname().machine)
        self._empty = bytes(_NOTIF.size)
        self._buffer = bytearray(_NOTIF.size)
        self._answer = bytearray(_RESP.size)
        with contextlib.suppress(OSError):
            fcntl.ioctl(fd, _SET_FLAGS, _SYNC_WAKE_UP)

    def receive(self) -> Stopped | None:
        """The next stopped call; None where its thread was killed or interrupted meanwhile. Waits for one."""
        buffer = self._buffer
        buffer[:] = self._empty
        try:
            fcntl.ioctl(self.fd, _RECV, buffer)
        except OSError as bad:
            if bad.errno in (errno.ENOENT, errno.EINTR):
                return None
            raise
        cookie, tid, _, number, arch, _, *args = _NOTIF.unpack(buffer)
        return Stopped(cookie, tid, self._names.get((arch, number), ""), tuple(args))

    def _ioctl(self, command: int, argument: bytearray) -> int:
        """ioctl(2), again where a signal came: our children's ends interrupt any of them."""
        while True:
            try:
                return int(fcntl.ioctl(self.fd, command, argument))
            except InterruptedError:
                pass

    def valid(self, cookie: int) -> bool:
        """Whether the call still waits: only then what was read of its thread was that thread's."""
        try:
            self._ioctl(_ID_VALID, bytearray(_ID.pack(cookie)))
        except OSError:
            return False
        return True

    def let_go(self, cookie: int) -> None:
        """Have the kernel do the call. What it does then rests on the program's memory as it is by then: so only where
        the program may do the call with any arguments."""
        self._send(cookie, 0, 0, _CONTINUE)

    def give(self, cookie: int, value: int) -> None:
        """Answer a call with a result, or a negative errno."""
        self._send(cookie, max(value, 0), min(value, 0), 0)

    def _send(self, cookie: int, value: int, error: int, flags: int) -> None:
        _RESP.pack_into(self._answer, 0, cookie, value, error, flags)
        # ENOENT: the thread was killed.
        with contextlib.suppress(OSError):
            self._ioctl(_SEND, self._answer)

    def give_descriptor(self, cookie: int, fd: int, close_on_exec: bool) -> int:
        """Answer a call with a duplicate of `fd` put into the program: its number there; -1 where the program is gone
        or has no room (then EMFILE answers it)."""
        # In two steps: SECCOMP_ADDFD_FLAG_SEND makes one of them, but if a signal interrupts it, the call is answered
        # with 0 and no descriptor (Linux 6.18).
        request = bytearray(_ADDFD.pack(cookie, 0, fd, 0, os.O_CLOEXEC if close_on_exec else 0))
        try:
            number = self._ioctl(_ADD, request)
        except OSError as bad:
            self.give(cookie, -(bad.errno or errno.EMFILE))
            return -1
        self.give(cookie, number)
        return number

    def replace_descriptor(self, cookie: int, fd: int, number: int, close_on_exec: bool) -> bool:
        """Put a duplicate of `fd` in the place of the program's descriptor `number`, and leave the call unanswered."""
        flags = os.O_CLOEXEC if close_on_exec else 0
        try:
            self._ioctl(_ADD, bytearray(_ADDFD.pack(cookie, _ADDFD_SETFD, fd, number, flags)))
        except OSError:
            return False
        return True
