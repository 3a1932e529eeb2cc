"""The daemon's books: what is known of one mount. Pure data; `supervisor` keeps it, `answers` shows it."""

import socket
import time
from dataclasses import dataclass, field
from typing import Any

from perfused.listener import Peer
from perfused.policy import Client
from perfused.unmounting import Place
from wire.control import Endpoint, Mount


@dataclass
class Mounted:
    """One mount, from the moment its worker is forked."""

    client: Client
    program: str
    endpoint: Endpoint
    request: Mount
    #: a descriptor of its mount namespace, -1 where that is ours
    namespace: int
    #: the client's device, until the worker has it
    peer: Peer | None
    #: the number of its mount namespace, 0 for ours
    namespace_number: int
    #: the name of the daemon's end of a socket device, "\\0MAJOR:MINOR" of a device file; b"" for others
    device: bytes = b""
    #: the process of a device endpoint, from before the mount
    opening: Any = None
    #: its end has been dealt with, before that of its worker
    over: bool = False
    #: set once the worker is there
    number: int = 0
    pid: int = 0
    channel: socket.socket = field(init=False)
    target: str = ""
    mount_id: int = 0
    minor: int = 0
    unique: int = 0
    fstype: str = ""
    source: str = ""
    since: float = field(default_factory=time.time)
    reason: str = ""
    #: times it could not be unmounted
    failures: int = 0
    #: unmounts under way
    unmounting: int = 0

    @property
    def place(self) -> Place:
        """Where it stands."""
        return Place(self.target, self.mount_id, self.minor, self.unique, self.namespace)

    @property
    def up(self) -> bool:
        """Whether the kernel has mounted it."""
        return bool(self.target)
