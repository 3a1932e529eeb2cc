"""An engine and a relay that are made before the fork: a worker shares their pages until it writes to them.

Above all the two buffers for frames: a megabyte each, which a mount that never had a large frame never touches. They
stand on descriptors that do nothing; the mount's own are put in their place. Their memory must be the process's own
(never MAP_SHARED), or mounts would share their frames. Never here: what an engine and a relay do.
"""

import os
import socket
from collections.abc import Callable

from perfused import channel
from perfused.engine import Engine
from perfused.relay import Relay
from perfused.states import Event, Rules


class Readymade:
    """They, for frames of at most `max_frame` bytes and a protocol of at most `minor`; to be taken once."""

    def __init__(self, max_frame: int, minor: int) -> None:
        self._fits = max_frame, minor
        self._device = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._sock, other = channel.pair()
        other.close()
        self._emit: Callable[[Event], None]
        self._ended: Callable[[str], None]
        self._engine = Engine(Rules(max_frame, 0, minor, 0, 0, 0), lambda event: self._emit(event))
        self._relay = Relay(self._engine, self._device, self._sock, lambda reason: self._ended(reason))

    def descriptors(self) -> set[int]:
        """What a child must keep open to take them."""
        return {self._device, self._sock.fileno()}

    def fits(self, rules: Rules) -> bool:
        """Whether a mount with these rules can have them."""
        return self._fits == (rules.max_frame, rules.minor)

    def connect(self, device: int, sock: socket.socket) -> None:
        """Put a mount's descriptors in their place; they are closed, since the relay has them by other numbers."""
        os.dup2(device, self._device, inheritable=False)
        os.dup2(sock.fileno(), self._sock.fileno(), inheritable=False)
        os.close(device)
        sock.close()

    def take(self, rules: Rules, emit: Callable[[Event], None], ended: Callable[[str], None]) -> Relay:
        """The relay, with its engine, for one mount."""
        self._engine.rules, self._emit, self._ended = rules, emit, ended
        return self._relay

    def close(self) -> None:
        """Let go of what nobody has taken."""
        os.close(self._device)
        self._sock.close()
