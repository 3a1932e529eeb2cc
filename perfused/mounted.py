"""The daemon's books: what is known of one mount. Pure data; `supervisor` keeps it, `answers` shows it."""

import socket
import time
from dataclasses import dataclass, field

from perfused.listener import Peer
from perfused.policy import Client
from perfused.unmounting import Place
from wire.control import Endpoint, Mount


@dataclass
class Mounted:
    """One mount, from the moment its worker is forked."""

    number: int
    client: Client
    program: str
    endpoint: Endpoint
    request: Mount
    namespace: int
    pid: int
    channel: socket.socket
    peer: Peer | None
    target: str = ""
    minor: int = 0
    fstype: str = ""
    source: str = ""
    since: float = field(default_factory=time.time)
    reason: str = ""

    @property
    def place(self) -> Place:
        """Where it stands."""
        return Place(self.target, self.minor, self.namespace)

    @property
    def up(self) -> bool:
        """Whether the kernel has mounted it."""
        return bool(self.target)
