"""The daemon's loop: descriptors, timers, children and signals of one thread, each turned into a call.

Calls must not block. Never here: what any of them means.
"""

import heapq
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from typing import Any

from perfused.log import LOGGER


class Loop:
    """One selector, and what is waited for in it."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, list[Callable[[], object]]]] = []
        self._order = count()
        self._children: dict[int, tuple[int, Callable[[int], None]]] = {}

    def watch(self, what: Any, call: Callable[[], None], vital: bool = False) -> None:
        """Call whenever a descriptor is readable. After a fault it is watched no more, unless it is `vital`."""
        self._selector.register(what, selectors.EVENT_READ, (call, vital))

    def unwatch(self, what: Any) -> None:
        """Watch it no more; a socket closed already (its number) may be given, or one that never was watched."""
        try:
            self._selector.unregister(what)
        except (KeyError, ValueError, OSError):
            pass

    def watches(self, what: Any) -> bool:
        """Whether a descriptor is watched."""
        try:
            return self._selector.get_map().get(what) is not None
        except ValueError:
            return False

    def later(self, seconds: float, call: Callable[[], object]) -> list[Callable[[], object]]:
        """Call once, after `seconds`; emptying the list that is returned forgets it."""
        calls = [call]
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), calls))
        return calls

    def watch_child(self, pid: int, ended: Callable[[int], None]) -> None:
        """Call with the wait(2) status of a child when it has ended."""
        fd = os.pidfd_open(pid)
        try:
            self.watch(fd, partial(self._reap, pid))
        except BaseException:
            os.close(fd)
            raise
        self._children[pid] = fd, ended

    def children(self) -> set[int]:
        """Pids of the children watched."""
        return set(self._children)

    def _reap(self, pid: int) -> None:
        found, status = os.waitpid(pid, os.WNOHANG)
        if not found:
            return
        fd, ended = self._children.pop(pid)
        self.unwatch(fd)
        os.close(fd)
        self._reap_orphans()
        ended(status)

    def _reap_orphans(self) -> None:
        """Children that nobody watches: what an ended child of ours has left behind (PR_SET_CHILD_SUBREAPER)."""
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None or found.si_pid in self._children:
                # One that is watched: its turn comes, and with it that of those behind it.
                return
            os.waitpid(found.si_pid, 0)

    def watch_signals(self, numbers: Iterable[int], call: Callable[[int], None]) -> None:
        """Call with the number of each signal that comes; nothing happens in the handler itself."""
        read, write = socket.socketpair()
        read.setblocking(False)
        write.setblocking(False)
        self._wakeup = write
        signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
        for each in numbers:
            signal.signal(each, lambda *_: None)
        self.watch(read, partial(self._signalled, read, call), vital=True)

    @staticmethod
    def _signalled(read: socket.socket, call: Callable[[int], None]) -> None:
        for number in read.recv(64):
            call(number)

    def run(self, done: Callable[[], bool]) -> None:
        """Wait and call until `done()`."""
        while not done():
            wait = max(self._timers[0][0] - time.monotonic(), 0.0) if self._timers else None
            for key, _ in self._selector.select(wait):
                # An earlier call of this round may have closed what this event is about, and its number be in use anew.
                if self._selector.get_map().get(key.fd) is key:
                    call, vital = key.data
                    self._guarded(call, None if vital else key.fileobj)
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                for call in heapq.heappop(self._timers)[2]:
                    self._guarded(call, None)

    def _guarded(self, call: Callable[[], object], what: Any) -> None:
        """A fault in a call is a bug here; it costs what it was about, not everybody's mounts."""
        try:
            call()
        except Exception:
            LOGGER.exception("internal error")
            if what is not None:
                self.unwatch(what)


def exit_text(code: int) -> str:
    """How a process ended, from its exit code as os.waitstatus_to_exitcode has it."""
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"exited with status {code}"
