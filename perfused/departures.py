"""Mounts that go while their worker cannot see it: those of direct devices, known by their superblock's bdi device.

Never here: what the end of a mount leads to (`supervisor`).
"""

import socket

from perfused import channel
from perfused.devices import BdiWatch
from perfused.kernel import mounts
from perfused.log import LOGGER
from perfused.loop import Loop
from perfused.mounted import Mounted
from wire.control import Endpoint


class Departures:
    """Watches the kernel's events for the mounts in the daemon's book."""

    def __init__(self, loop: Loop, mounted: dict[int, Mounted]) -> None:
        self._loop = loop
        self._mounted = mounted
        self._bdi: BdiWatch | None = None

    def start(self) -> None:
        """Begin; nothing that is awaited at start waits for this."""
        self._bdi = BdiWatch()
        if self._bdi.fileno() >= 0:
            self._loop.watch(self._bdi.fileno(), self._events)

    def _events(self) -> None:
        events = self._bdi.read() if self._bdi else []
        removed = {event.minor for event in events if event.action == "remove"}
        ended = [each for each in self._mounted.values() if each.up and each.minor in removed]
        # A minor number is used anew at once: an event may be an older superblock's.
        standing = {line.minor for line in mounts() if line.major == 0} if ended else set()
        for made in ended:
            if made.minor in standing:
                continue
            LOGGER.debug("%s: its superblock is gone (bdi 0:%d)", made.target, made.minor)
            if made.endpoint is Endpoint.DIRECT:
                made.reason = made.reason or "unmounted"
                channel.send(made.channel, {"op": "stop"}, flags=socket.MSG_DONTWAIT)
