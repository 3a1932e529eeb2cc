"""The calls that cases make to lock files: record locks of processes and of open file descriptions, and flock(2).

Those that may wait are ended by a signal (`calls.until_signal`).
"""

import fcntl
import os
import pickle
import struct
from typing import Any, NamedTuple

from perfused.conformance.filesystem import calls
from perfused.conformance.filesystem.calls import CALLS, keep, offer, until_signal

#: fcntl(2), the same on all architectures Linux has 64 bits on
OFD_GETLK, OFD_SETLK, OFD_SETLKW = 36, 37, 38
_FLOCK = struct.Struct("@hhqqi4x")
_KINDS = {fcntl.F_RDLCK: "read", fcntl.F_WRLCK: "write", fcntl.F_UNLCK: "free"}
_NUMBERS = {name: number for number, name in _KINDS.items()}


class Lock(NamedTuple):
    """What F_GETLK tells: `free`, or what is in the way; pid -1 for a lock of an open file description."""

    kind: str
    start: int = 0
    length: int = 0
    pid: int = 0


def _command(fd: int, command: int, kind: str, start: int, length: int, whence: int, pid: int) -> bytes:
    asked = _FLOCK.pack(_NUMBERS[kind], whence, start, length, pid)
    answer: bytes = fcntl.fcntl(fd, command, asked)
    return answer


def _lock(
    fd: int, kind: str, start: int = 0, length: int = 0, *, whence: int = 0, ofd: bool = False, pid: int = 0
) -> None:
    """F_SETLK, F_OFD_SETLK: kind is read, write or free; length 0 is to the end, however far that goes."""
    _command(fd, OFD_SETLK if ofd else fcntl.F_SETLK, kind, start, length, whence, pid)


def _lock_wait(fd: int, kind: str, start: int = 0, length: int = 0, ofd: bool = False) -> None:
    """F_SETLKW, F_OFD_SETLKW."""
    until_signal(lambda: _command(fd, OFD_SETLKW if ofd else fcntl.F_SETLKW, kind, start, length, 0, 0))


def _getlk(fd: int, kind: str, start: int = 0, length: int = 0, ofd: bool = False) -> Lock:
    """F_GETLK, F_OFD_GETLK."""
    found, _, first, size, pid = _FLOCK.unpack(
        _command(fd, OFD_GETLK if ofd else fcntl.F_GETLK, kind, start, length, 0, 0)
    )
    return Lock("free") if found == fcntl.F_UNLCK else Lock(_KINDS[found], first, size, pid)


_WORDS = {"read": fcntl.LOCK_SH, "write": fcntl.LOCK_EX, "free": fcntl.LOCK_UN}


def _dup(fd: int) -> int:
    return keep(os.dup(fd))


def _in_child(name: str, *args: Any) -> Any:
    """Make a call in a child process that ends afterwards; its value, or its errno as ours."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, pickle.dumps(calls.perform(name, args)))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    outcome: calls.Outcome = pickle.loads(said)
    if outcome.errno:
        raise OSError(outcome.errno, os.strerror(outcome.errno))
    return outcome.value


def _all_of(*steps: tuple[Any, ...]) -> Any:
    """Make calls one after the other; the value of the last."""
    value = None
    for name, *args in steps:
        value = CALLS[name](*args)
    return value


def _hinders(fd: int, kind: str, start: int, length: int, ofd: bool) -> tuple[str, int, int]:
    """F_GETLK, F_OFD_GETLK without whose lock it is, which a server of FUSE is not told in full."""
    found = _getlk(fd, kind, start, length, ofd)
    return found.kind, found.start, found.length


_CALLS: dict[str, Any] = {
    "hinders": _hinders,
    "lock": lambda fd, kind, start=0, length=0, whence=0, pid=0: _lock(fd, kind, start, length, whence=whence, pid=pid),
    "lock_ofd": lambda fd, kind, start=0, length=0, whence=0, pid=0: _lock(
        fd, kind, start, length, whence=whence, ofd=True, pid=pid
    ),
    "lock_wait": _lock_wait,
    "lock_wait_ofd": lambda fd, kind, start=0, length=0: _lock_wait(fd, kind, start, length, True),
    "getlk": _getlk,
    "getlk_ofd": lambda fd, kind, start=0, length=0: _getlk(fd, kind, start, length, True),
    "flock": lambda fd, kind: fcntl.flock(fd, _WORDS[kind] | fcntl.LOCK_NB),
    "flock_number": fcntl.flock,
    "flock_wait": lambda fd, kind: until_signal(lambda: fcntl.flock(fd, _WORDS[kind])),
    "dup": _dup,
    "in_child": _in_child,
    "all_of": _all_of,
    "getpid": os.getpid,
}
offer(**_CALLS)
