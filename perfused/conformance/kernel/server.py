"""One connection served in a thread: rules of a case first, the tree for everything else, every frame remembered.

Each request is checked against the layout of the minor that was agreed on; what is wrong with one is a fault, and a
fault fails any case. Never here: what a case expects, and mounting.
"""

import errno
import os
import select
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from perfused.conformance.kernel.tree import Answer, Tree
from wire import codec, compat, render
from wire.errors import WireError
from wire.flags import InitFlag
from wire.message import Request, parse_request
from wire.opcodes import BY_NUMBER, Opcode, ReplyRule

#: a read buffer for the largest frame any kernel sends
BUFFER = (1 << 20) + 8192
NEVER_ANSWERED = frozenset(row.number for row in BY_NUMBER.values() if row.reply_rule is ReplyRule.NEVER)


@dataclass
class Raw:
    """A frame to be written as it is: bytes, or a function of the request's unique. `errno` is what write(2) said."""

    frame: bytes | Callable[[int], bytes]
    errno: int | None = None


#: what a rule answers with: a body, a negative errno, None (not at all), frames as they are, or a function of these
Reaction = Answer | Raw | list[Raw] | Callable[[Request], "Answer | Raw | list[Raw]"]


@dataclass
class Rule:
    """Answers requests of one opcode. `times`: how many, None all; `seen` are those it has answered."""

    opcode: int
    reaction: Reaction
    when: Callable[[Request], bool] | None = None
    times: int | None = None
    seen: list[Request] = field(default_factory=list)


@dataclass
class Frame:
    """A frame of the transcript: `errno` of its write, None for a request."""

    data: bytes
    reply_to: int | None
    errno: int | None = None


def out(unique: int, body: bytes = b"", error: int = 0) -> bytes:
    """A reply frame: fuse_out_header and `body`; `error` is 0 or a negative errno."""
    return codec.out_header.pack(16 + len(body), error, unique) + body


def hexdump(data: bytes) -> list[str]:
    """Offset, sixteen bytes, and what of them is ASCII: a line each."""
    rows = []
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        text = "".join(chr(each) if 32 <= each < 127 else "." for each in row)
        rows.append(f"    {at:04x}  {row.hex(' ', 1):47}  {text}")
    return rows


class Server:
    """`init` are fields of fuse_init_out beside minor and flags; `init_rule` answers INIT in the case's own way."""

    def __init__(
        self,
        fd: int,
        tree: Tree,
        minor: int = compat.NEWEST_MINOR,
        flags: int = 0,
        init: dict[str, int] | None = None,
        init_rule: Reaction | None = None,
    ) -> None:
        self.fd = fd
        self.tree = tree
        self.minor = minor
        self.flags = flags
        self.init = init or {}
        self.init_rule = init_rule
        self.rules: list[Rule] = []
        self.frames: list[Frame] = []
        self.requests: list[Request] = []
        self.faults: list[str] = []
        #: the kernel's INIT, and both words of its flags
        self.offer: codec.InitIn | None = None
        self.offered = 0
        self.agreed = 0
        self.ended: int | None = None
        self.moved = threading.Condition()
        self._thread = threading.Thread(target=self._serve, daemon=True, name="server")

    def start(self) -> None:
        """Serve until the device says that it has ended."""
        self._thread.start()

    def join(self, seconds: float) -> bool:
        """Wait for the end; whether it came."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _serve(self) -> None:
        while True:
            try:
                frame = os.read(self.fd, BUFFER)
            except OSError as bad:
                if bad.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                with self.moved:
                    self.ended = bad.errno
                    self.moved.notify_all()
                return
            self.take(frame)

    def step(self, seconds: float = 5.0) -> bool:
        """Read one request and handle it, where no thread serves; whether one came in time. Raises OSError."""
        if not select.select([self.fd], [], [], seconds)[0]:
            return False
        self.take(os.read(self.fd, BUFFER))
        return True

    def take(self, frame: bytes) -> None:
        """Handle one request, wherever it was read."""
        self.frames.append(Frame(frame, None))
        try:
            request = parse_request(frame, self.minor)
        except WireError as bad:
            self.faults.append(f"{render.line(frame[:40])}: {bad}")
            head = codec.in_header.unpack_from(frame)
            if head.opcode not in NEVER_ANSWERED:
                self.write(out(head.unique, error=-errno.EIO), head.opcode)
            return
        self._audit(request)
        if request.header.opcode == Opcode.INIT:
            self._agree(request)
        try:
            reaction = self._reaction(request)
        except Exception as fault:
            # A rule of the case, or the tree, did not expect this: the case is wrong, and must not only wait in vain.
            self.faults.append(
                f"the server itself: {Opcode(request.header.opcode).name}: {type(fault).__name__}: {fault}"
            )
            reaction = -errno.EIO
        # Whoever waits for INIT waits for what it settles: a call before its reply would not know of the flags.
        begins = request.header.opcode == Opcode.INIT
        if begins:
            self.react(request, reaction)
        with self.moved:
            self.requests.append(request)
            self.moved.notify_all()
        if not begins:
            self.react(request, reaction)

    def _audit(self, request: Request) -> None:
        """What every request must be, whatever the case is about."""
        head = request.header
        name = Opcode(head.opcode).name if head.opcode in BY_NUMBER else f"opcode {head.opcode}"
        if head.opcode not in BY_NUMBER:
            self.faults.append(f"{name}: no opcode of fuse.h")
            return
        if request.trailing:
            self.faults.append(f"{name}: {len(request.trailing)} bytes after its end: {request.trailing[:32].hex()}")
        if head.opcode != Opcode.INIT:
            ext = bool(self.agreed & InitFlag.SETXATTR_EXT)
            want = compat.request_head_size(head.opcode, self.minor, ext)
            if request.head_size not in (None, want) and BY_NUMBER[head.opcode].head:
                self.faults.append(
                    f"{name}: its head has {request.head_size} bytes, at minor {self.minor} it has {want}"
                )
        if head.unique == 0:
            self.faults.append(f"{name}: unique is 0, which is notifications' alone")
        if not head.nodeid and head.opcode not in _NO_NODE:
            self.faults.append(f"{name}: nodeid is 0")

    def _agree(self, request: Request) -> None:
        self.offer = request.head
        self.offered = int(InitFlag.joined(request.head.flags, request.head.flags2))
        self.minor = min(self.minor, request.head.minor)
        self.tree.minor = self.minor
        self.agreed = self.flags & self.offered

    def init_out(self, **fields: int) -> bytes:
        """The INIT reply as this server gives it, in the minor's size; `fields` replace its own."""
        flags = fields.pop("all_flags", self.agreed)
        if flags >> 32:
            flags |= int(InitFlag.INIT_EXT)
        usual = {
            "major": 7, "minor": self.minor, "max_readahead": 65536, "flags": flags & 0xFFFF_FFFF,
            "flags2": flags >> 32, "max_background": 16, "congestion_threshold": 12, "max_write": 65536, "time_gran": 1,
        }  # fmt: skip
        whole = codec.init_out.build(codec.init_out.make(**usual | self.init | fields))
        return whole[: compat.size("init_out", max(self.minor, 1))]

    def _reaction(self, request: Request) -> Any:
        opcode = request.header.opcode
        for rule in self.rules:
            if rule.opcode != opcode or (rule.times is not None and len(rule.seen) >= rule.times):
                continue
            if rule.when is None or rule.when(request):
                rule.seen.append(request)
                return rule.reaction(request) if callable(rule.reaction) else rule.reaction
        if opcode == Opcode.INIT:
            chosen = self.init_rule
            return chosen(request) if callable(chosen) else chosen if chosen is not None else self.init_out()
        return self.tree.answer(request)

    def react(self, request: Request, reaction: Any) -> None:
        """Write what a rule gave."""
        head = request.header
        if isinstance(reaction, Raw):
            reaction = [reaction]
        if isinstance(reaction, list):
            for raw in reaction:
                raw.errno = self.write(raw.frame(head.unique) if callable(raw.frame) else raw.frame, head.opcode)
        elif reaction is not None and head.opcode not in NEVER_ANSWERED:
            error, body = (reaction, b"") if isinstance(reaction, int) else (0, reaction)
            self.write(out(head.unique, body, error), head.opcode)

    def write(self, frame: bytes, reply_to: int | None = 0) -> int:
        """Write one frame; 0, or the errno of write(2)."""
        shown = Frame(frame, reply_to)
        self.frames.append(shown)
        try:
            os.write(self.fd, frame)
            shown.errno = 0
        except OSError as bad:
            shown.errno = bad.errno or errno.EIO
        return shown.errno

    def notify(self, code: int, payload: bytes = b"") -> int:
        """Write a notification; 0, or the errno of write(2). It may wait for requests in flight."""
        return self.write(codec.out_header.pack(16 + len(payload), code, 0) + payload)

    def seen(self, opcode: int, nodeid: int | None = None) -> list[Request]:
        """The requests of an opcode so far, of one node where it is given."""
        found = [each for each in self.requests if each.header.opcode == opcode]
        return found if nodeid is None else [each for each in found if each.header.nodeid == nodeid]

    def wait_for(self, opcode: int, times: int = 1, seconds: float = 5.0) -> Request | None:
        """The `times`-th request of an opcode; None where it does not come in time."""
        deadline = time.monotonic() + seconds
        with self.moved:
            while len(found := self.seen(opcode)) < times:
                if not self.moved.wait(deadline - time.monotonic()) and len(self.seen(opcode)) < times:
                    return None
            return found[times - 1]

    def transcript(self, most: int = 200, dumped: tuple[int, ...] = ()) -> list[str]:
        """The frames, decoded, one a line; of the first `most`. Those of `dumped` opcodes in hexadecimal, too."""
        lines = []
        for each in self.frames[:most]:
            try:
                line = render.line(each.data, reply_to=each.reply_to, minor=self.minor)
            except Exception as bad:
                line = f"{each.data[:64].hex()} ({bad})"
            if each.errno:
                line += f"  [write: {errno.errorcode.get(each.errno, each.errno)}]"
            lines.append(line)
            opcode = each.reply_to if each.reply_to is not None else codec.in_header.unpack_from(each.data).opcode
            if opcode in dumped and len(each.data) >= 16:
                lines += hexdump(each.data[:256])
        left = len(self.frames) - most
        return [*lines, f"... {left} more"] if left > 0 else lines


#: requests about the whole filesystem
_NO_NODE = frozenset({Opcode.INIT, Opcode.INTERRUPT, Opcode.BATCH_FORGET, Opcode.DESTROY})
