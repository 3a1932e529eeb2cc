"""Whole frames both ways, at every minor, in either byte order: ``build(parse(x)) == x`` for all that parses.

Unknown opcodes, flags and trailing bytes survive. The slow and complete path, for traces, tests, rewriting and servers;
a relay's hot path decodes headers only. What never lives here: notifications (``notifications``), rendering, any I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wire import codec, compat, tails
from wire.derive import Buffer, Codec
from wire.errors import WireError
from wire.opcodes import BY_NUMBER, Opcode, Row, Tail

IN_HEADER_SIZE = codec.in_header.size
OUT_HEADER_SIZE = codec.out_header.size
LOWEST_ERROR = -511
"""The lowest ``out_header.error`` that Linux takes in a reply."""
DEFAULT_MINOR = 45


@dataclass(frozen=True, slots=True)
class Request:
    """A request as its parts, in the order in which they stand in the frame.

    ``head`` is the NamedTuple of the row's struct, newest shape, with zeros for what an older minor does not have;
    ``head_size`` is how many of its bytes the frame carries (None: as Linux sends it to 7.45). ``payload`` is the DATA
    or IOCTL tail, or the whole body of an unknown opcode; ``items`` are ``tails.Forget`` or ``tails.Mapping``;
    ``order`` is the byte order. ``build_request`` sets ``header.len`` and ``header.total_extlen`` from the parts.
    """

    header: codec.InHeader
    head: Any = None
    names: tuple[bytes, ...] = ()
    payload: bytes = b""
    items: tuple[tuple[int, int], ...] = ()
    trailing: bytes = b""
    extensions: tuple[tails.Extension, ...] = ()
    head_size: int | None = None
    order: str = "="


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply as its parts, and the opcode of the request it answers, which the frame itself does not tell.

    ``head`` and ``head_size`` as in ``Request`` (None: newest size); ``open_out`` is the second struct of CREATE and
    TMPFILE; ``items`` are ``tails.Dirent`` or ``tails.Direntplus``; ``payload`` is any other tail, or the whole body
    where the opcode is unknown. An error reply has none of these; a body it carries all the same is ``trailing``.
    """

    header: codec.OutHeader
    opcode: int
    head: Any = None
    open_out: codec.OpenOut | None = None
    payload: bytes = b""
    items: tuple[tails.Dirent | tails.Direntplus, ...] = ()
    trailing: bytes = b""
    head_size: int | None = None
    order: str = "="


def unpack_head(name: str, body: bytes, size: int, order: str = "=") -> Any:
    """The NamedTuple of struct ``name`` from the first ``size`` bytes of ``body``, zeros for the rest of its fields.

    WireError where ``body`` is shorter than ``size``.
    """
    if len(body) < size:
        raise WireError(name, f"at least {size} bytes, got {len(body)}")
    made: Codec[Any] = codec.order(order).CODECS[name]
    return made.unpack_from(body[:size].ljust(made.size, b"\0"))


def pack_head(name: str, head: Any, size: int | None, order: str = "=") -> bytes:
    """The first ``size`` bytes (None: all) of struct ``name`` built from ``head``. WireError where it does not fit."""
    made: Codec[Any] = codec.order(order).CODECS[name]
    if not isinstance(head, tuple):
        raise WireError(name, f"a head of {made.size} bytes, got {head!r}")
    return made.build(head)[:size]


def size_field(opcode: int, head: Any) -> int:
    """How many bytes of payload the head of a request with a DATA or IOCTL tail announces."""
    return int(head.in_size if opcode == Opcode.IOCTL else head.size)


def head_size_of(row: Row, body: bytes, length: int, minor: int, order: str = "=") -> int:
    """How many bytes of ``body`` are the head: what the minor says, or another historic size that fits exactly.

    ``length`` is the body's real length, of which ``body`` may hold less (a capture limit). MKNOD and CREATE are
    followed by a name, which fits any size: there the minor alone decides. WireError for a minor below 1 only.
    """
    usual = compat.request_head_size(row.number, minor)
    if row.number in (Opcode.MKNOD, Opcode.CREATE, Opcode.TMPFILE) or not row.head:
        return usual
    if row.tail is Tail.NONE and not row.names:
        return length if length in compat.sizes(row.head) else usual
    if row.number == Opcode.SETXATTR:
        return _setxattr_size(body, length, usual, order)
    if row.number == Opcode.WRITE and len(body) >= 24:
        data = codec.order(order).write_in.unpack_from(body[:24].ljust(40, b"\0")).size
        return length - data if length - data in compat.sizes("write_in") else usual
    return usual


def _setxattr_size(body: bytes, length: int, usual: int, order: str) -> int:
    # 8 first: with 16, bytes 8..15 hold zeros, where a name that began at 8 would end too early to fit
    for size in (8, 16):
        end = body.find(0, size)
        if end >= 0 and length - end - 1 == unpack_head("setxattr_in", body, size, order).size:
            return size
    return usual


def parse_request(frame: Buffer, minor: int = DEFAULT_MINOR, order: str = "=") -> Request:
    """Take a whole request apart; ``minor`` is what INIT settled. WireError names the first field that is wrong."""
    frame = bytes(frame)
    header = codec.order(order).in_header.unpack_from(frame)
    if header.len != len(frame):
        raise WireError("len", f"the frame's {len(frame)} bytes, got {header.len}")
    stop = len(frame) - 8 * header.total_extlen
    if stop < IN_HEADER_SIZE:
        room = (len(frame) - IN_HEADER_SIZE) // 8
        raise WireError("total_extlen", f"at most {room} units of 8 bytes, got {header.total_extlen}")
    extensions = tails.parse_extensions(frame[stop:], order)
    body = frame[IN_HEADER_SIZE:stop]
    row = BY_NUMBER.get(header.opcode)
    if row is None:
        return Request(header, payload=body, extensions=extensions, head_size=0, order=order)
    size = head_size_of(row, body, len(body), minor, order)
    head: Any = unpack_head(row.head, body, size, order) if row.head else None
    names, rest = tails.parse_names(body[size:], row.names)
    payload = b""
    items: tuple[tuple[int, int], ...] = ()
    if row.tail in (Tail.DATA, Tail.IOCTL):
        length = size_field(row.number, head)
        if length > len(rest):
            raise WireError(f"{row.head}.size", f"at most the {len(rest)} bytes that follow, got {length}")
        payload, rest = rest[:length], rest[length:]
    elif row.tail is Tail.FORGETS:
        items, rest = tails.parse_forgets(rest, head.count, order)
    elif row.tail is Tail.MAPPINGS:
        items, rest = tails.parse_mappings(rest, head.count, order)
    return Request(header, head, names, payload, items, rest, extensions, size, order)


def _check_request(row: Row, request: Request) -> None:
    """What would not come back from ``parse_request`` must not leave ``build_request``."""
    if len(request.names) != row.names:
        raise WireError("names", f"{row.names} for {row.name}, got {len(request.names)}")
    if row.tail in (Tail.DATA, Tail.IOCTL):
        length = size_field(row.number, request.head)
        if length != len(request.payload):
            raise WireError(f"{row.head}.size", f"the payload's {len(request.payload)} bytes, got {length}")
    elif request.payload:
        raise WireError("payload", f"nothing for {row.name}")
    if row.tail in (Tail.FORGETS, Tail.MAPPINGS):
        if request.head.count != len(request.items):
            raise WireError(f"{row.head}.count", f"{len(request.items)}, as many as items, got {request.head.count}")
    elif request.items:
        raise WireError("items", f"nothing for {row.name}")


def build_request(request: Request) -> bytes:
    """The frame of ``request``; ``len`` and ``total_extlen`` are set from its parts. WireError where they disagree."""
    header, order = request.header, request.order
    row = BY_NUMBER.get(header.opcode)
    body = b""
    if row is not None:
        if row.head:
            size = request.head_size
            if size is None:
                size = compat.request_head_size(row.number, DEFAULT_MINOR)
            body = pack_head(row.head, request.head, size, order)
        _check_request(row, request)
    body += tails.pack_names(*request.names) + request.payload + tails.pack_pairs(request.items, order)
    extensions = tails.pack_extensions(request.extensions, order)
    length = IN_HEADER_SIZE + len(body) + len(request.trailing) + len(extensions)
    header = header._replace(len=length, total_extlen=len(extensions) // 8)
    return codec.order(order).in_header.build(header) + body + request.trailing + extensions


def reply_head_size(row: Row, length: int, minor: int) -> int:
    """Bytes of the row's reply struct in a body of ``length``: the minor's, or a historic size that fits exactly."""
    behind = codec.open_out.size if row.reply_tail is Tail.OPEN_OUT else 0
    known = compat.sizes(row.reply)
    if row.number == Opcode.INIT:
        return max((size for size in known if size <= length), default=known[-1])
    if row.reply_tail in (Tail.NONE, Tail.OPEN_OUT) and length - behind in known:
        return length - behind
    return compat.size(row.reply, compat.NEWEST_MINOR if row.number == Opcode.TMPFILE else minor)


def parse_reply(
    opcode: int,
    frame: Buffer,
    minor: int = DEFAULT_MINOR,
    request_size: int | None = None,
    order: str = "=",
) -> Reply:
    """Take a whole reply to a request ``opcode`` apart; ``request_size`` is that request's ``size`` field, if known.

    Without it a GETXATTR or LISTXATTR body counts as a value. WireError where ``len`` or ``error`` (-511 to 0) is
    wrong, the body is too short, or there is more than ``request_size`` allows.
    """
    frame = bytes(frame)
    header = codec.order(order).out_header.unpack_from(frame)
    if header.len != len(frame):
        raise WireError("len", f"the frame's {len(frame)} bytes, got {header.len}")
    if not LOWEST_ERROR <= header.error <= 0:
        raise WireError("error", f"{LOWEST_ERROR} to 0, got {header.error}")
    body = frame[OUT_HEADER_SIZE:]
    row = BY_NUMBER.get(opcode)
    if row is None:
        return Reply(header, opcode, payload=body, order=order)
    if header.error:
        return Reply(header, opcode, trailing=body, order=order)
    if row.reply_tail is Tail.XATTR and request_size == 0:
        size = codec.getxattr_out.size
        return Reply(header, opcode, unpack_head("getxattr_out", body, size, order), trailing=body[size:], order=order)
    head, size = None, 0
    if row.reply:
        size = reply_head_size(row, len(body), minor)
        head = unpack_head(row.reply, body, size, order)
    rest = body[size:]
    if request_size is not None and not row.reply and len(rest) > request_size:
        raise WireError("size", f"at most the {request_size} bytes that {row.name} asked for, got {len(rest)}")
    match row.reply_tail:
        case Tail.NONE:
            return Reply(header, opcode, head, trailing=rest, head_size=size, order=order)
        case Tail.OPEN_OUT:
            second = codec.order(order).open_out.unpack_from(rest)
            return Reply(header, opcode, head, second, trailing=rest[16:], head_size=size, order=order)
        case Tail.DIRENTS:
            items, rest = tails.parse_dirents(rest, order)
            return Reply(header, opcode, items=items, trailing=rest, order=order)
        case Tail.DIRENTPLUS:
            plus, rest = tails.parse_direntplus(rest, order)
            return Reply(header, opcode, items=plus, trailing=rest, order=order)
    return Reply(header, opcode, head, payload=rest, head_size=size, order=order)


def build_reply(reply: Reply) -> bytes:
    """The frame of ``reply``; ``len`` is set from its parts. WireError where a part does not fit."""
    row, order = BY_NUMBER.get(reply.opcode), reply.order
    body = b""
    if reply.head is not None and row is not None:
        name = "getxattr_out" if row.reply_tail is Tail.XATTR else row.reply
        if not name:
            raise WireError("head", f"nothing for a reply to {row.name}")
        body = pack_head(name, reply.head, reply.head_size, order)
    if reply.open_out is not None:
        body += codec.order(order).open_out.build(reply.open_out)
    body += reply.payload
    for item in reply.items:
        if isinstance(item, tails.Direntplus):
            body += tails.pack_direntplus(item, order)
        else:
            body += tails.pack_dirent(item, order)
    body += reply.trailing
    header = reply.header._replace(len=OUT_HEADER_SIZE + len(body))
    return codec.order(order).out_header.build(header) + body


def order_of(frame: Buffer) -> str | None:
    """The byte order (``"<"`` or ``">"``) in which ``frame``'s first word is its own length; None where neither is."""
    first = bytes(frame[:4])
    if int.from_bytes(first, "little") == len(frame):
        return "<"
    return ">" if int.from_bytes(first, "big") == len(frame) else None
