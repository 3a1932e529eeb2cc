"""A client that works step by step, so that a case can act between two of its system calls; and pieces of such work.

The work is a generator function: each `yield` ends a step and tells the case its value. Never here: FUSE.
"""

import errno
import os
import pickle
import select
import struct
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from perfused.conformance.kernel.case import Failed

if TYPE_CHECKING:
    from perfused.conformance.kernel.bench import Bench, Client


class Steps:
    """A process in the midst of its work. Nothing of it runs until the first `next`."""

    def __init__(self, bench: "Bench", work: Callable[[], Generator[Any, None, None]], uid: int = 0) -> None:
        orders, self._orders = os.pipe()
        self._said, said = os.pipe()
        self._patience = bench.patience

        def all_of_it() -> None:
            os.close(self._orders)
            os.close(self._said)
            running = work()
            while os.read(orders, 1) == b"g":
                try:
                    told: tuple[str, Any] = ("value", next(running, None))
                except OSError as bad:
                    told = ("errno", bad.errno or errno.EIO)
                except Exception as fault:
                    told = ("fault", f"{type(fault).__name__}: {fault}")
                data = pickle.dumps(told)
                data = struct.pack("=I", len(data)) + data
                while data:
                    data = data[os.write(said, data) :]
            running.close()

        self.client: Client = bench.start(all_of_it, uid)
        os.close(orders)
        os.close(said)

    def begin(self) -> None:
        """Have it go on to its next `yield`, without waiting for that."""
        os.write(self._orders, b"g")

    def done(self, seconds: float = 0.0) -> bool:
        """Whether a step that has begun is at its end, or is within a time."""
        return bool(select.select([self._said], [], [], seconds)[0])

    def ended(self) -> tuple[Any, int]:
        """What a step that has begun gave: a value, or the errno of its OSError. Raises Failed where it hangs."""
        deadline = time.monotonic() + self._patience
        data = b""
        while len(data) < 4 or len(data) < 4 + struct.unpack_from("=I", data)[0]:
            if not self.done(max(deadline - time.monotonic(), 0)):
                raise Failed("the call", f"an end within {self._patience:g} s", "it still waits")
            part = os.read(self._said, 65536)
            if not part:
                raise Failed("the client", "an end of its step", "it died")
            data += part
        kind, value = pickle.loads(data[4:])
        if kind == "fault":
            raise Failed("the client", "no fault", value)
        return (value, 0) if kind == "value" else (None, value)

    def next(self) -> Any:
        """Have it go on to its next `yield`, which must be reached without an error: the value there."""
        self.begin()
        value, code = self.ended()
        if code:
            raise Failed("the call", "success", errno.errorcode.get(code, code))
        return value

    def end(self) -> None:
        """End it where it stands: its generator is closed, its descriptors with it."""
        # Not by closing the pipe: clients that began later have it open too.
        os.write(self._orders, b"e")
        os.close(self._orders)
        self.client.wait(self._patience)
        os.close(self._said)


def opened(path: str, flags: int, work: Callable[[int], Any]) -> Any:
    """Open a file, do `work` with its descriptor, close it: what `work` gave. Raises OSError, the first one's."""
    fd = os.open(path, flags, 0o644)
    try:
        value = work(fd)
    except BaseException:
        with suppress(OSError):
            os.close(fd)
        raise
    os.close(fd)
    return value


def read(path: str, flags: int = os.O_RDONLY, size: int = 1 << 20) -> bytes:
    """Open a file, read once, close it. Raises OSError."""
    data: bytes = opened(path, flags, lambda fd: os.read(fd, size))
    return data


def write(path: str, data: bytes, flags: int = os.O_WRONLY, offset: int | None = None) -> int:
    """Open a file, write once (at `offset`, else where it stands), close it: how much it took. Raises OSError."""
    if offset is None:
        return int(opened(path, flags, lambda fd: os.write(fd, data)))
    return int(opened(path, flags, lambda fd: os.pwrite(fd, data, offset)))


def code(work: Callable[[], Any]) -> int:
    """The errno that `work` ends with; 0 where it succeeds."""
    try:
        work()
    except OSError as bad:
        return bad.errno or errno.EIO
    return 0


def errno_name(number: int) -> str:
    """The name of an errno: the usual one of those that some have two of, whichever Python gives."""
    for name in ("EAGAIN", "EDEADLK", "EOPNOTSUPP"):
        if getattr(errno, name, None) == number:
            return name
    return errno.errorcode.get(number, str(number))
