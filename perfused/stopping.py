"""How the daemon stops: every mount is taken away, by force what is in use, and what is left after that is named.

Bounded: after `stop_timeout` workers are killed, and some seconds later the daemon ends all the same. Never here:
ends of single mounts (`supervisor`).
"""

import os
import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import Protocol

from perfused import channel, libc
from perfused.config import Config
from perfused.log import LOGGER
from perfused.loop import Loop
from perfused.mounted import Mounted

#: seconds, after stop_timeout, that workers get to end once they are killed
KILL_ROUNDS = 3


class Daemon(Protocol):
    """What stopping needs of the daemon."""

    config: Config
    loop: Loop
    mounted: dict[int, Mounted]

    def unmount(self, made: Mounted, flags: int, then: Callable[[int], None]) -> None:
        """Unmount, and tell how it went."""

    def clear(self, made: Mounted) -> None:
        """Take away what still stands of a mount that has ended."""

    def done(self) -> bool:
        """Whether nothing is left to wait for."""


class Stopping:
    """The end of the daemon, once it has begun."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._rounds = 0
        self.begun = False
        #: what is left is left
        self.abandoned = False

    def begin(self) -> None:
        """Unmount everything, by force what is in use."""
        self.begun = True
        for made in list(self._daemon.mounted.values()):
            if made.up:
                self._daemon.unmount(made, 0, partial(self._unmounted, made))
        self._daemon.loop.later(self._daemon.config.daemon.stop_timeout, self._kill_rest)

    def _unmounted(self, made: Mounted, failure: int) -> None:
        if failure and made.number in self._daemon.mounted:
            LOGGER.warning("%s: %s; its connection is aborted", made.target, os.strerror(failure))
            self._daemon.unmount(made, libc.MNT_FORCE | libc.MNT_DETACH, lambda _: self._end_worker(made))

    def _end_worker(self, made: Mounted) -> None:
        if made.number in self._daemon.mounted:
            channel.send(made.channel, {"op": "stop"}, flags=socket.MSG_DONTWAIT)

    def _kill_rest(self) -> None:
        daemon = self._daemon
        for made in list(daemon.mounted.values()):
            if made.pid in daemon.loop.children():
                LOGGER.warning("%s: worker %d does not end; killed", made.target or "a mount", made.pid)
                os.kill(made.pid, signal.SIGKILL)
            elif not made.unmounting:
                daemon.clear(made)
        self._rounds += 1
        if self._rounds > KILL_ROUNDS:
            # In an exiting process even SIGKILL does not end a wait for a filesystem that is not ours.
            LOGGER.error("left behind: %d mounts, processes %s", len(daemon.mounted), sorted(daemon.loop.children()))
            self.abandoned = True
        elif not daemon.done():
            daemon.loop.later(1.0, self._kill_rest)
