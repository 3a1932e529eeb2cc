"""A Session: one filesystem, its mount, and the threads that serve it, from the first to the clean end.

Never here: requests (`server`), and signals (`running`).
"""

import logging
import os
import threading
from collections.abc import Callable, Iterable

from libperfuse import aio, mounting
from libperfuse.calls import table
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
        TypeError for a method that cannot be called.
        """
        chosen = via or os.environ.get("PERFUSE_VIA") or "perfused"
        if chosen not in mounting.VIAS:
            raise ValueError(f"via is one of {', '.join(mounting.VIAS)}, got {chosen!r}")
        if not 1 <= threads <= 256:
            raise ValueError(f"threads is 1 to 256, got {threads}")
        self.operations = operations
        self.mountpoint = os.fspath(mountpoint)
        self.name = name or type(operations).__name__.lower()
        self.source = source or self.name
        self.options = tuple(options)
        self.via: Via = chosen
        self.threads = threads
        self.init = Init(operations)
        self.server = Server(operations, self.init, self.mountpoint)
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
        self._leaving = False
        operations.session = self
        self.asynchronous = any(each is not None and each.waits for each in table(operations, DEFAULT_MINOR, True))

    @classmethod
    def on_device(cls, operations: Operations, fd: int, *, threads: int = 4) -> "Session":
        """A session on a descriptor that somebody else has opened and mounted: /dev/fuse, /dev/cuse, or a socket that
        carries whole frames. It is the session's from now on; `unmount` shuts a socket, and can do nothing otherwise.
        """
        made = cls(operations, f"fd {fd}", threads=threads)
        made.device = Device(fd, "", "")
        return made

    # -- the mount -------------------------------------------------------------------------------------------------

    def mount(self) -> None:
        """Get a device and mount it; requests wait until they are served. OSError with the reason."""
        if self.device is None and not self.ended.is_set():
            self.device = mounting.mount(self.via, self.mountpoint, f"fuse.{self.name}", self.source, self.options)

    def unmount(self) -> None:
        """Unmount, or detach where it is in use; the threads end when the kernel has let go."""
        device = self.device
        if device is not None and not mounting.unmount(device):
            LOGGER.info("%s is in use: detached, it ends with its last user", self.mountpoint)

    def abort(self) -> None:
        """End the mount at once: whoever uses it gets an error."""
        device = self.device
        if device is not None:
            mounting.abort(device)

    def start(self) -> None:
        """Mount and serve in threads of their own; `join` waits for their end."""
        self.mount()
        if self.device is None:
            raise RuntimeError("a session is served once")
        self.server.fd = self.device.fd
        self._spawn(self._first)

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
        thread = threading.Thread(target=self._live, args=(work,), daemon=True, name=f"fuse {self.name}")
        with self._lock:
            self._serving.append(thread)
        thread.start()

    def _live(self, work: Callable[[], object]) -> None:
        """A thread's life: the last to end takes leave of the filesystem."""
        try:
            work()
        except BaseException as bad:
            LOGGER.error("%s: serving ended: %s", self.mountpoint, bad, exc_info=not isinstance(bad, OSError))
            self.failure = self.failure or bad
            self.abort()
        with self._lock:
            self._serving.remove(threading.current_thread())
            others = bool(self._serving)
        if not others:
            self._end()
        elif self.server.running and not self.ended.is_set():
            # A method that hangs must not keep the end back.
            timer = threading.Timer(PATIENCE, self._end)
            timer.daemon = True
            timer.start()

    def _first(self) -> None:
        """Answer INIT, then serve, and have the others serve beside."""
        if self.asynchronous:
            aio.serve_in_loop(self.server)
            return
        rows = self.server.handshake(self.server.read)
        if rows is None:
            return
        for _ in range(self.threads - 1):
            self._spawn(lambda: self.server.serve(rows))
        self.server.serve(rows)

    async def serve_here(self) -> None:
        """Serve a mounted session on the running asyncio loop, instead of `start`; returns when the mount has ended."""
        assert self.device is not None
        self.server.fd = self.device.fd
        try:
            await aio.serve(self.server)
        finally:
            self._end()

    def _end(self) -> None:
        """Take leave of the filesystem, once; the descriptor goes when no thread can use it any more."""
        with self._lock:
            unused = None if self._serving else self.device
            if unused is not None:
                self.device, self.server.fd = None, -1
            first, self._leaving = not self._leaving, True
        if first:
            if self.server.running:
                left = ", ".join(map(describe, list(self.server.running.values())))
                LOGGER.warning("%s: ended while methods still run: %s", self.mountpoint, left)
            self.notify.end()
            try:
                self.operations.destroy()
            except Exception:
                LOGGER.exception("%s: destroy failed", self.mountpoint)
        if unused is not None:
            os.close(unused.fd)
        if first:
            self.ended.set()
            for each in self.on_end:
                each(self)
