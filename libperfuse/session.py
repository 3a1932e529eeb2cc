"""A Session: one filesystem, its mount, and the threads that serve it, from the first to the clean end.

Never here: requests (`server`), and signals (`running`).
"""

import contextlib
import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable

from libperfuse import aio, mounting
from libperfuse.backing import backing_close, backing_open
from libperfuse.calls import table
from libperfuse.errors import FuseError
from libperfuse.mounting import Device, Via
from libperfuse.negotiation import Init
from libperfuse.operations import Operations
from libperfuse.server import Server, describe
from wire.message import DEFAULT_MINOR

LOGGER = logging.getLogger("libperfuse")
#: seconds that methods still running at the end of a mount are waited for
PATIENCE = 5.0


class Session:
    """`with Session(MyFilesystem(), "/mnt"):` serves while the block runs; `run(session)` until a signal or unmount."""

    def __init__(
        self,
        operations: Operations,
        mountpoint: str | os.PathLike[str],
        *,
        name: str = "",
        source: str = "",
        options: Iterable[str] = (),
        via: Via | None = None,
        threads: int = 4,
    ) -> None:
        """Nothing is opened yet.

        `name` is the subtype: the mount's type is `fuse.NAME` (by itself the class's name, in lower case); `source` its
        first column in mount(8); `options` are mount(8)'s: "ro", "allow_other", "default_permissions", "max_read=N".
        `via` is how the device is had: "perfused", "private" or "kernel"; by itself what PERFUSE_VIA says, or perfused.
        `threads` serve at the same time: a method that waits for another request's end, or for an interrupt, needs two.
        With a coroutine function among the methods asyncio serves them all in one thread. ValueError for a bad value,
        TypeError for a method that cannot be called, and for options in one string.
        """
        chosen = via or os.environ.get("PERFUSE_VIA") or "perfused"
        if chosen not in mounting.VIAS:
            raise ValueError(f"via is one of {', '.join(mounting.VIAS)}, got {chosen!r}")
        if not 1 <= threads <= 256:
            raise ValueError(f"threads is 1 to 256, got {threads}")
        if isinstance(options, (str, bytes)):
            raise TypeError(f"options is a list of them, such as [{options!r}]")
        self.operations = operations
        self.mountpoint = os.fsdecode(mountpoint)
        self.name = name or type(operations).__name__.lower()
        self.source = source or self.name
        self.options = tuple(options)
        self.via: Via = chosen
        self.threads = threads
        self.init = Init(operations)
        self.server = Server(operations, self.init, repr(self.mountpoint)[1:-1])
        self.notify = self.server.notify
        self.device: Device | None = None
        #: why the filesystem could not be served; `join` and `run` raise it
        self.failure: BaseException | None = None
        #: set when the mount has ended and `Operations.destroy` was called
        self.ended = threading.Event()
        #: called with the session when it has ended, in the thread that ended last
        self.on_end: list[Callable[[Session], object]] = []
        self._serving: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._begun = self._seeing_out = False
        operations.session = self
        self.asynchronous = self.server.unknown.waits or any(
            each is not None and each.waits for each in table(operations, DEFAULT_MINOR, True)
        )

    @classmethod
    def on_device(cls, operations: Operations, fd: int, *, threads: int = 4) -> "Session":
        """A session on a descriptor that somebody else has opened and mounted: /dev/fuse, /dev/cuse, or a socket that
        carries whole frames. It is the session's from now on; `unmount` shuts a socket, and can do nothing otherwise.
        """
        made = cls(operations, f"fd {fd}", threads=threads)
        made.device = Device(fd)
        return made

    # -- the mount -------------------------------------------------------------------------------------------------

    def mount(self) -> None:
        """Get a device and mount it; requests wait until they are served. OSError with the reason."""
        if self.device is None and not self.ended.is_set():
            self.device = mounting.mount(self.via, self.mountpoint, f"fuse.{self.name}", self.source, self.options)

    def unmount(self) -> None:
        """Unmount, or detach where it is in use; the threads end when the kernel has let go."""
        device = self.device
        why = mounting.unmount(device) if device is not None else ""
        if why:
            LOGGER.info("%s: %s", self.server.label, why)
        if not self._begun:
            self._end()

    def abort(self) -> None:
        """End the mount at once: whoever uses it gets an error."""
        device = self.device
        if device is not None:
            mounting.abort(device)
        if not self._begun:
            self._end()

    def backing_open(self, fd: int) -> int:
        """Register a file for passthrough, as `libperfuse.backing_open` on this session's device. OSError ENODEV after
        the end."""
        return backing_open(self._standing().fd, fd)

    def backing_close(self, backing_id: int) -> None:
        """Give a backing id back. OSError ENODEV after the end, which gives all back."""
        backing_close(self._standing().fd, backing_id)

    def _standing(self) -> Device:
        device = self.device
        if device is None:
            raise FuseError(errno.ENODEV, "the mount has ended")
        return device

    def start(self) -> None:
        """Mount and serve in threads of their own; `join` waits for their end. RuntimeError where it was served."""
        self._begin()
        self._spawn(self._first)

    def _begin(self) -> Device:
        """The device, once: nobody else serves it."""
        self.mount()
        with self._lock:
            device = self.device
            if device is None or self._begun:
                raise RuntimeError("a session is served once")
            self._begun = True
        self.server.device, self.server.fd = device, device.fd
        return device

    def join(self, seconds: float | None = None) -> bool:
        """Wait until the mount has ended; False where it has not within `seconds`. Raises what made it fail."""
        done = self.ended.wait(seconds)
        if done and self.failure is not None:
            raise self.failure
        return done

    def __enter__(self) -> "Session":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.unmount()
        if not self.join(PATIENCE):
            self.abort()
            self.join(2 * PATIENCE)

    # -- threads ---------------------------------------------------------------------------------------------------

    def _spawn(self, work: Callable[[], object]) -> None:
        assert self.server.device is not None
        self.server.device.take()
        thread = threading.Thread(target=self._live, args=(work,), daemon=True, name=f"fuse {self.name}")
        with self._lock:
            self._serving.append(thread)
        try:
            thread.start()
        except BaseException:
            self._leave(thread)
            raise

    def _live(self, work: Callable[[], object]) -> None:
        """A thread's life: the last to end takes leave of the filesystem."""
        try:
            work()
        except BaseException as bad:
            LOGGER.error("%s: serving ended: %s", self.server.label, bad, exc_info=not isinstance(bad, OSError))
            self.failure = self.failure or bad
            self.abort()
        with self._lock:
            first, self._seeing_out = not self._seeing_out, True
        until = time.monotonic() + PATIENCE
        self._see_out(until)
        if not self._leave(threading.current_thread()):
            self._end()
        elif first and not self.ended.wait(max(0.0, until - time.monotonic())):
            self._end()  # a method that hangs must not keep the end back

    def _leave(self, thread: threading.Thread) -> bool:
        """Note that a thread uses the device no more; whether others do."""
        assert self.server.device is not None
        self.server.device.give()
        with self._lock:
            self._serving.remove(thread)
            return bool(self._serving)

    def _see_out(self, until: float) -> None:
        """The device has ended: nobody waits for the answers of methods that still run. Wake those that sleep."""
        for unique, request in self.server.under_way().items():
            if not self.asynchronous or unique in self.server.deferred:  # tasks were cancelled in their loop
                self.server.wake(request)
        for thread in list(self.server.deferred.values()):
            with contextlib.suppress(RuntimeError):  # not started yet: the thread that starts it comes here too
                thread.join(max(0.0, until - time.monotonic()))

    def _first(self) -> None:
        """Answer INIT, then serve, and have the others serve beside."""
        if self.asynchronous:
            aio.serve_in_loop(self.server)
            return
        rows = self.server.handshake()
        if rows is None:
            return
        for _ in range(self.threads - 1):
            self._spawn(lambda: self.server.serve(rows))
        self.server.serve(rows)

    async def serve_here(self) -> None:
        """Serve a mounted session on the running asyncio loop, instead of `start`; returns when the mount has ended.

        Cancelled, it ends the mount at once: `libperfuse.serve` unmounts first. RuntimeError where it was served.
        """
        device = self._begin()
        device.take()
        try:
            await aio.serve(self.server)
        except BaseException:
            self.abort()
            raise
        finally:
            device.give()
            self._end()

    def _end(self) -> None:
        """Take leave of the filesystem, once; the descriptor goes when no thread can use it any more."""
        with self._lock:
            device, self.device = self.device, None
        if device is None:
            return
        self.server.fd = -1
        if running := self.server.under_way():
            left = ", ".join(map(describe, running.values()))
            LOGGER.warning("%s: ended while methods still run: %s", self.server.label, left)
        self.notify.end()
        try:
            self.operations.destroy()
        except BaseException:
            LOGGER.exception("%s: destroy failed", self.server.label)
        device.close()
        self.ended.set()
        for each in self.on_end:
            each(self)
