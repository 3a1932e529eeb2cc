"""A Session driven by frames: the kernel's end of its device is a socket in the test's hands."""

import contextlib
import inspect
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from libperfuse import Operations, Session
from wire import codec, compat, message, tails
from wire.flags import InitFlag
from wire.opcodes import OPCODES, Opcode, ReplyRule, Row, Tail

#: seconds that a reply or an end is waited for
PATIENCE = 10.0
#: every flag a kernel may offer
ALL_FLAGS = InitFlag(0)
for _flag in InitFlag:
    ALL_FLAGS |= _flag
#: what is answered by a method
METHODS = [
    row
    for row in OPCODES
    if row.reply_rule is ReplyRule.ALWAYS and row.number not in (Opcode.INIT, Opcode.DESTROY, Opcode.CUSE_INIT)
]
#: opcodes whose answer is one number
NUMBERS = {
    Opcode.WRITE, Opcode.COPY_FILE_RANGE, Opcode.COPY_FILE_RANGE_64, Opcode.LSEEK, Opcode.BMAP, Opcode.POLL,
}  # fmt: skip


def offer(minor: int = 45, flags: int = int(ALL_FLAGS), **more: int) -> codec.InitIn:
    """What a kernel says in INIT."""
    low, high = InitFlag(flags).words()
    return codec.init_in.make(
        **{"major": 7, "minor": minor, "max_readahead": 131072, "flags": low, "flags2": high} | more
    )


def request(opcode: int, unique: int, head: Any = None, *names: bytes, **more: Any) -> bytes:
    """The frame of a request; `more` are parts of `message.Request` and fields of its header."""
    parts = {name: more.pop(name) for name in ("payload", "items", "extensions", "head_size") if name in more}
    header = codec.in_header.make(opcode=opcode, unique=unique, **{"nodeid": 1} | more)
    return message.build_request(message.Request(header, head, names, **parts))


class Kernel:
    """The other end of a session's device."""

    def __init__(self, operations: Operations, *, threads: int = 1, minor: int = 45, init: bool = True) -> None:
        """Start a session; with `init` INIT of 7.`minor` is exchanged, and `agreed` holds its answer."""
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for each in (self.sock, theirs):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.sock.settimeout(PATIENCE)
        self.minor = minor
        self.unique = 2
        self.session = Session.on_device(operations, theirs.detach(), threads=threads)
        self.session.start()
        if init:
            self.agreed = codec.init_out.unpack_from(self.init(offer(minor))[16:].ljust(64, b"\0"))

    def init(self, said: codec.InitIn) -> bytes:
        """INIT, and the whole reply."""
        return self.ask(Opcode.INIT, said)

    def send(self, frame: bytes) -> None:
        """Send a frame as it is."""
        self.sock.send(frame)

    def tell(self, opcode: int, head: Any = None, *names: bytes, **more: Any) -> int:
        """Send a request; its unique."""
        self.unique += 2
        unique = more.pop("unique", self.unique)
        more.setdefault("head_size", compat.request_head_size(opcode, self.minor, setxattr_ext=self.minor >= 33))
        self.send(request(opcode, unique, head, *names, **more))
        return int(unique)

    def receive(self) -> bytes:
        """The next frame the session sends."""
        return self.sock.recv(4 << 20)

    def ask(self, opcode: int, head: Any = None, *names: bytes, **more: Any) -> bytes:
        """Send a request, and the whole reply to it."""
        unique = self.tell(opcode, head, *names, **more)
        reply = self.receive()
        assert codec.out_header.unpack_from(reply).unique == unique
        return reply

    def error(self, opcode: int, head: Any = None, *names: bytes, **more: Any) -> int:
        """Send a request; the errno of the reply, which has no body then, or 0."""
        reply = self.ask(opcode, head, *names, **more)
        code = -codec.out_header.unpack_from(reply).error
        assert not code or len(reply) == 16
        return code

    def silent(self) -> None:
        """Nothing has been sent: a request behind all others is answered next."""
        assert self.error(Opcode.BMAP, codec.bmap_in.make())

    def close(self) -> None:
        """End the device, and see that the session ends with it and raises nothing."""
        self.sock.close()
        assert self.session.join(PATIENCE), "the session has not ended"


@contextlib.contextmanager
def kernel(operations: Operations, **more: Any) -> Iterator[Kernel]:
    """A `Kernel`, closed in the end."""
    made = Kernel(operations, **more)
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def logged() -> Iterator[list[logging.LogRecord]]:
    """The records that libperfuse logs from warning up, meanwhile."""
    found: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record)

    handler, logger = Keep(logging.WARNING), logging.getLogger("libperfuse")
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)


def _bound(call: Callable[..., Any]) -> Callable[..., Any]:
    async def coroutine(self: Operations, *words: Any) -> Any:
        return await call(*words)

    return coroutine if inspect.iscoroutinefunction(call) else lambda self, *words: call(*words)


def with_methods(methods: dict[str, Callable[..., Any]]) -> Operations:
    """A filesystem that has these methods, each called without self."""
    made = {name: _bound(call) for name, call in methods.items()}
    operations: Operations = type("Made", (Operations,), made)()
    return operations


def method_of(row: Row) -> str:
    """The name of the method that answers a row."""
    return row.name.lower()


def a_head(row: Row, **fields: int) -> Any:
    """The head of a request to `row`, zeros but for `fields` that it has."""
    if not row.head:
        return None
    made: Any = codec.CODECS[row.head]
    return made.make(**{name: value for name, value in fields.items() if name in made.type._fields})


def a_request(row: Row) -> tuple[Any, tuple[bytes, ...], dict[str, Any]]:
    """A plain request to `row`: its head, names and other parts."""
    head, names = a_head(row, size=4096), (b"old", b"new")[: row.names]
    more: dict[str, Any] = {}
    if row.tail is Tail.DATA:
        head, more["payload"] = a_head(row, size=4), b"data"
    elif row.tail is Tail.IOCTL:
        head, more["payload"] = a_head(row, in_size=4, out_size=4), b"data"
    elif row.tail is Tail.MAPPINGS:
        head, more["items"] = a_head(row, count=1), (tails.Mapping(4096, 8192),)
    return head, names, more


def descriptors() -> dict[str, str]:
    """The open descriptors of this process."""
    found = {}
    for each in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[each] = os.readlink(f"/proc/self/fd/{each}")
    return found


def serving_threads() -> list[threading.Thread]:
    """Threads of sessions that are alive."""
    return [each for each in threading.enumerate() if each.name.startswith("fuse ") and each.is_alive()]


def row_ids(rows: list[Row]) -> list[str]:
    """Test ids of rows."""
    return [row.name for row in rows]
