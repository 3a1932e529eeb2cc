"""What a FUSE connection is described with: heads, states, events, rules, counters. Pure data; `engine` acts on it."""

import struct
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple, Protocol

from perfused.negotiate import Terms
from wire import codec

#: What the relay decodes of a request in one go: of in_header what is used below, and of the body's first 20 bytes, as
#: read_in has them, fh and size. Every field costs (measured: 15 ns), so there are no more. Past the end of a short
#: frame these are bytes of an older frame: only `SIZE` of an opcode that has one is ever used.
HEAD = struct.Struct("=4xIQQI4xI4xQ8xI")
OPCODE, UNIQUE, NODEID, UID, PID, FH, SIZE = range(7)
OUT = codec.out_header.struct

#: Opcodes above this share the last entry of every list.
SLOTS = 128
MAX_ERRNO = 511
#: requests answered here whose late reply is still recognised
LATE_KEPT = 4096
KILLED_KEPT = 256

Head = tuple[int, ...]
Buffer = bytes | bytearray | memoryview
RequestHook = Callable[[Head, Buffer], Buffer | None]
ReplyHook = Callable[[Head, int, memoryview], Buffer | None]


class State(Enum):
    """Where a connection is; TRANSITIONS says what may follow what."""

    NEW = "mounted, INIT not seen yet"
    INIT_SENT = "INIT is with the filesystem"
    RUNNING = "INIT answered"
    REFUSED = "the filesystem refused INIT or answered what no kernel takes"
    ENDED = "nothing will be relayed any more"


TRANSITIONS: dict[State, frozenset[State]] = {
    State.NEW: frozenset({State.INIT_SENT, State.ENDED}),
    State.INIT_SENT: frozenset({State.RUNNING, State.REFUSED, State.ENDED}),
    State.RUNNING: frozenset({State.ENDED}),
    State.REFUSED: frozenset({State.ENDED}),
    State.ENDED: frozenset(),
}


class PeerFault(NamedTuple):
    """The filesystem broke the protocol. `answered`: the caller got EIO for it."""

    opcode: int
    unique: int
    field: str
    detail: str
    answered: bool


class Negotiated(NamedTuple):
    """INIT is settled, or (terms None) refused; notes are sentences for the log."""

    terms: Terms | None
    notes: list[str]


class AnsweredHere(NamedTuple):
    """A request the filesystem left unanswered got `error` from us; `why` is `deadline` or `caller killed`."""

    opcode: int
    unique: int
    nodeid: int
    error: int
    age: float
    why: str


class Observer(Protocol):
    """Sees frames go by; must not raise, must not block, and must copy what it keeps. `opcodes` None is all."""

    opcodes: frozenset[int] | None

    def request(self, head: Head, frame: Buffer) -> None:
        """A request, as the kernel sent it."""

    def reply(self, head: Head, error: int, frame: Buffer) -> None:
        """What answered it: the filesystem's checked reply, or ours; `error` is 0 or a negative errno."""

    def notice(self, frame: Buffer) -> None:
        """A notification of the filesystem's."""


class ObserverFault(NamedTuple):
    """An observer failed, which is a bug here, and was taken off."""

    name: str
    detail: str


Event = PeerFault | Negotiated | AnsweredHere | ObserverFault


class LocalFault(Exception):
    """We did what the state does not allow: a bug here, never the peer's."""


class Rules(NamedTuple):
    """What a mount is started with; times in seconds, 0 is never."""

    max_frame: int
    refused: int
    minor: int
    deadline: float
    interrupt_grace: float
    killed_grace: float


class Counters:
    """What has been relayed; lists are indexed by opcode, the last entry takes all opcodes past the table."""

    __slots__ = (
        "bad_notifications",
        "bad_replies",
        "errors",
        "gone",
        "interrupts",
        "late",
        "notifications",
        "requests",
    )

    def __init__(self) -> None:
        self.requests = [0] * SLOTS
        self.errors = [0] * SLOTS
        self.notifications = 0
        self.bad_notifications = 0
        self.bad_replies = 0
        #: replies to requests that were answered here before
        self.late = 0
        #: replies the kernel no longer wanted
        self.gone = 0
        self.interrupts = 0

    def faults(self) -> int:
        """What the filesystem sent in vain, so far."""
        return self.bad_replies + self.bad_notifications + self.late


def slot(opcode: int) -> int:
    """Where an opcode's entry is in every list."""
    return opcode if opcode < SLOTS - 1 else SLOTS - 1
