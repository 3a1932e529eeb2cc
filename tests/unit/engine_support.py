"""What the engine's tests share: an engine with its events, frames made by hand, and the relay's way to it."""

import errno
import struct

from perfused.engine import Engine
from perfused.states import HEAD, OPCODE, OUT, UNIQUE, Buffer, Event, PeerFault, Rules, slot
from wire.opcodes import Opcode

IN = struct.Struct("=IIQQIIIHH")
ANSWER = struct.Struct("=IiQ")
ALL_ONES = 2**64 - 1
RESEND = 1 << 63
DEVICE = 1 << 20


def ask(opcode: int, body: bytes = b"", unique: int = 2, nodeid: int = 1, pid: int = 77) -> bytes:
    """A request of the kernel's."""
    return IN.pack(IN.size + len(body), opcode, unique, nodeid, 1000, 1000, pid, 0, 0) + body


def answer(body: bytes = b"", error: int = 0, unique: int = 2, length: int | None = None) -> bytes:
    """A packet of the filesystem's; `length` is the lie it tells, if any."""
    return ANSWER.pack(ANSWER.size + len(body) if length is None else length, error, unique) + body


def eio(unique: int = 2) -> bytes:
    """The frame that tells the kernel EIO."""
    return ANSWER.pack(16, -errno.EIO, unique)


def read_in(size: int) -> bytes:
    """The body of READ, READDIR and READDIRPLUS that asks for `size` bytes."""
    return struct.pack("=QQIIQII", 1, 0, size, 0, 0, 0, 0)


def getxattr_in(size: int) -> bytes:
    """The head of GETXATTR and LISTXATTR; 0 asks for the size alone."""
    return struct.pack("=II", size, 0)


def init_in(minor: int = 45, flags: int = 0, flags2: int = 0) -> bytes:
    """The body of INIT since 7.36."""
    return struct.pack("=IIIII44x", 7, minor, 131072, flags, flags2)


def init_out(minor: int = 45, flags: int = 0, flags2: int = 0, major: int = 7, pages: int = 0) -> bytes:
    """The body of INIT's answer since 7.23."""
    return struct.pack("=IIIIHHIIHHI28x", major, minor, 131072, flags, 12, 9, 65536, 1, pages, 0, flags2)


class Rig:
    """An engine, the events it emitted, and the two directions as the relay drives them."""

    def __init__(
        self,
        minor: int = 45,
        refused: int = 0,
        deadline: float = 0,
        interrupt_grace: float = 2,
        killed_grace: float = 0,
    ) -> None:
        self.events: list[Event] = []
        rules = Rules(DEVICE, refused, minor, deadline, interrupt_grace, killed_grace)
        self.engine = Engine(rules, self.events.append)

    def request(self, frame: bytes) -> bytes | None:
        """What the filesystem gets for a request."""
        head = HEAD.unpack_from(frame.ljust(HEAD.size, b"\0"))
        hook = self.engine.on_request[slot(head[OPCODE])]
        if hook is None:
            self.engine.inflight[head[UNIQUE]] = head
            return frame
        return _whole(hook(head, frame))

    def reply(self, packet: bytes, size: int | None = None) -> bytes | None:
        """What the kernel gets for a packet, of which `size` bytes were sent though fewer may have been received."""
        size = len(packet) if size is None else size
        view = memoryview(packet)
        if size < OUT.size:
            return _whole(self.engine.reply(None, 0, 0, 0, view, size))
        length, error, unique = OUT.unpack_from(packet)
        return _whole(self.engine.reply(self.engine.inflight.pop(unique, None), length, error, unique, view, size))

    def exchange(self, request: bytes, packet: bytes) -> bytes | None:
        """What the kernel gets for a packet that follows a request."""
        self.request(request)
        return self.reply(packet)

    def start(self, minor: int = 45) -> None:
        """Settle INIT on `minor`, and forget the events of it."""
        self.exchange(ask(Opcode.INIT, init_in(), unique=4), answer(init_out(minor), unique=4))
        self.events.clear()

    def fault(self) -> PeerFault:
        """The only event there was, which is a fault of the filesystem."""
        (event,) = self.events
        assert isinstance(event, PeerFault)
        return event


def _whole(frame: Buffer | None) -> bytes | None:
    return None if frame is None else bytes(frame)
