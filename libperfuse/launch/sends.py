"""What the parts of a tracer need of it beside their own. Never here: what is stopped, and what becomes of it."""

import socket
from collections.abc import Callable
from typing import Any, Protocol

from libperfuse.launch import tracee
from libperfuse.launch.books import Books
from libperfuse.launch.envoy import Outcome
from libperfuse.launch.notify import Listener, Stopped

#: takes what an envoy brought: facts, and descriptors
Done = Callable[[dict[str, Any], list[int]], None]


class Sends(Protocol):
    """It stops calls, keeps books, and has envoys do work for a call."""

    listener: Listener
    books: Books

    def send(
        self,
        call: Stopped,
        work: Callable[[tracee.Place], Outcome],
        done: Done,
        *borrowed: int,
        connection: socket.socket | None = None,
    ) -> None:
        """Have an envoy do work for a call."""

    def refused(self, call: Stopped, facts: dict[str, Any], what: str) -> bool:
        """Answer a call whose envoy brought an error."""
