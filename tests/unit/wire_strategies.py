"""Hypothesis strategies for FUSE messages: any opcode, minor and byte order, whole and consistent.

``requests()``, ``replies()`` and ``notifications()`` give parts that ``wire`` can build; every integer field is random,
only counts and sizes tell the truth about what follows.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from wire import codec, compat, message, tails
from wire import notifications as notes
from wire.opcodes import NOTIFICATIONS, OPCODES, Opcode, ReplyRule, Row, Tail

QUICK = settings(max_examples=60, deadline=None)
THOROUGH = settings(max_examples=400, deadline=None)

MINORS = st.integers(1, 46)
ORDERS = st.sampled_from(["=", "<", ">"])
UNKNOWN_OPCODES = st.sampled_from([0, 7, 19, 54, 77, 127, 2016, 4097, 0xFFFFFFFF])
NAMES = st.binary(max_size=40).map(lambda raw: raw.replace(b"\0", b"n"))
TAILS = st.binary(max_size=48)
U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)


def heads(struct: str, head_size: int | None = None, **fixed: int) -> st.SearchStrategy[Any]:
    """Random NamedTuples of ``struct`` of which ``head_size`` bytes count; ``fixed`` fields have the given values."""
    made = codec.CODECS[struct]
    room = made.size if head_size is None else head_size
    raw = st.binary(min_size=room, max_size=room)
    return raw.map(lambda body: made.unpack_from(body.ljust(made.size, b"\0"))._replace(**fixed))


@st.composite
def extensions(draw: st.DrawFn, order: str) -> tuple[tails.Extension, ...]:
    """Security contexts, groups, or a type nobody knows."""
    contexts = st.builds(tails.SecurityContext, NAMES, TAILS)
    kinds = st.one_of(
        st.lists(contexts, max_size=3).map(lambda some: tails.pack_security_contexts(some, order)),
        st.lists(U32, max_size=5).map(lambda some: tails.pack_groups(tuple(some), order)),
        st.binary(max_size=40).map(lambda raw: tails.Extension(8 + len(raw), 99, raw + b"x" * (-len(raw) % 8))),
    )
    return tuple(draw(st.lists(kinds, max_size=2)))


def _head_sizes(row: Row, minor: int) -> list[int]:
    usual = compat.request_head_size(row.number, minor)
    if row.number in (Opcode.SETXATTR, Opcode.WRITE) or (row.tail is Tail.NONE and not row.names):
        return sorted({usual, *compat.sizes(row.head)})
    return [usual]


@st.composite
def requests(draw: st.DrawFn, opcodes: st.SearchStrategy[int] | None = None) -> tuple[int, message.Request]:
    """A minor and a request as that minor has it: every known opcode as often as all unknown ones together."""
    minor, order = draw(MINORS), draw(ORDERS)
    if opcodes is None:
        opcodes = st.one_of(st.sampled_from([row.number for row in OPCODES]), UNKNOWN_OPCODES)
    opcode = draw(opcodes)
    header = draw(heads("in_header", opcode=opcode))
    made: dict[str, Any] = {"order": order, "extensions": draw(extensions(order)), "head_size": 0}
    row = next((row for row in OPCODES if row.number == opcode), None)
    if row is None:
        return minor, _told(message.Request(header, payload=draw(TAILS), **made))
    made["names"] = tuple(draw(st.lists(NAMES, min_size=row.names, max_size=row.names)))
    fixed: dict[str, int] = {}
    pairs = st.lists(st.tuples(U64, U64), max_size=4).map(tuple)
    if row.tail in (Tail.DATA, Tail.IOCTL):
        made["payload"] = draw(TAILS)
        fixed["in_size" if row.tail is Tail.IOCTL else "size"] = len(made["payload"])
    elif row.tail in (Tail.FORGETS, Tail.MAPPINGS):
        kind = tails.Forget if row.tail is Tail.FORGETS else tails.Mapping
        made["items"] = tuple(kind(*pair) for pair in draw(pairs))
        fixed["count"] = len(made["items"])
    if row.head:
        made["head_size"] = draw(st.sampled_from(_head_sizes(row, minor)))
        if opcode == Opcode.SETXATTR:
            fixed["padding"] = 0  # what tells 16 bytes from 8
        made["head"] = draw(heads(row.head, made["head_size"], **fixed))
    return minor, _told(message.Request(header, **made))


def _told(request: message.Request) -> message.Request:
    """The request with the lengths in its header that its frame will have."""
    frame = message.build_request(request)
    length, units = len(frame), sum(len(one.payload) + 8 for one in request.extensions) // 8
    header = request.header._replace(len=length, total_extlen=units)
    return message.Request(
        *(header, request.head, request.names, request.payload, request.items, request.trailing, request.extensions),
        *(request.head_size, request.order),
    )


def _dirents() -> st.SearchStrategy[tuple[tails.Dirent, ...]]:
    return st.lists(st.builds(tails.Dirent, U64, U64, U32, NAMES, st.just(b"")), max_size=4).map(tuple)


def _direntplus() -> st.SearchStrategy[tuple[tails.Direntplus, ...]]:
    entries = st.binary(min_size=128, max_size=128)
    return st.lists(st.builds(tails.Direntplus, entries, U64, U64, U32, NAMES, st.just(b"")), max_size=3).map(tuple)


@st.composite
def replies(draw: st.DrawFn) -> tuple[int, message.Reply]:
    """A minor and a reply, successful or not, as a server of that minor writes it."""
    minor, order = draw(MINORS), draw(ORDERS)
    answered = [row for row in OPCODES if row.reply_rule is not ReplyRule.NEVER]
    row = draw(st.sampled_from(answered))
    error = draw(st.one_of(st.just(0), st.integers(-511, 0)))
    made: dict[str, Any] = {"order": order}
    if not error:
        size = 0
        if row.reply:
            minor_of_entry = 46 if row.number == Opcode.TMPFILE else minor
            size = compat.size(row.reply, minor_of_entry)
            if row.number == Opcode.INIT:
                size = draw(st.sampled_from(compat.sizes("init_out")))
            made["head"] = draw(heads(row.reply, size))
        made["head_size"] = size if row.reply else 0 if row.reply_tail is Tail.NONE else None
        if row.reply_tail is Tail.OPEN_OUT:
            made["open_out"] = draw(heads("open_out"))
        elif row.reply_tail is Tail.DIRENTS:
            made["items"] = draw(_dirents())
        elif row.reply_tail is Tail.DIRENTPLUS:
            made["items"] = draw(_direntplus())
        elif row.reply_tail is not Tail.NONE:
            made["payload"] = draw(TAILS)
    reply = message.Reply(draw(heads("out_header", error=error)), row.number, **made)
    return minor, reply


@st.composite
def notifications(draw: st.DrawFn) -> notes.Notification:
    """A notification of any known code."""
    row = draw(st.sampled_from(NOTIFICATIONS))
    made: dict[str, Any] = {"order": draw(ORDERS)}
    fixed: dict[str, int] = {}
    if row.tail is Tail.NAME:
        made["name"] = draw(st.binary(max_size=30))
        fixed["namelen"] = len(made["name"])
    elif row.tail is Tail.DATA:
        made["payload"] = draw(TAILS)
        fixed["size"] = len(made["payload"])
    elif row.tail is Tail.NODEIDS:
        made["nodeids"] = tuple(draw(st.lists(U64, max_size=5)))
        fixed["count"] = len(made["nodeids"])
    if row.struct:
        made["head"] = draw(heads(row.struct, **fixed))
    return notes.Notification(codec.out_header.make(error=row.number), **made)


def _small_bytes(most: int) -> st.SearchStrategy[bytes]:
    """Bytes that make small numbers, so that counts and sizes often fit."""
    return st.lists(st.sampled_from([0, 1, 8, 16, 24, 97]), max_size=most).map(bytes)


@st.composite
def raw_requests(draw: st.DrawFn) -> tuple[str, bytes]:
    """A byte order and random bytes behind a request header whose ``len`` is true, so that many of them parse."""
    order = draw(ORDERS)
    opcode = draw(st.one_of(st.sampled_from([row.number for row in OPCODES]), UNKNOWN_OPCODES))
    body = draw(st.one_of(st.binary(max_size=200), _small_bytes(120)))
    units = draw(st.sampled_from([0, 0, 0, 1, 2, 3, 40, 0xFFFF]))
    header = codec.in_header.make(len=40 + len(body), opcode=opcode, unique=draw(U64), total_extlen=units)
    return order, codec.order(order).in_header.build(header) + body


@st.composite
def raw_answers(draw: st.DrawFn) -> tuple[str, bytes]:
    """A byte order and random bytes behind an out_header whose ``len`` is true."""
    order = draw(ORDERS)
    body = draw(st.one_of(st.binary(max_size=400), _small_bytes(400)))
    error = draw(st.one_of(st.just(0), st.integers(-600, 12)))
    unique = draw(st.sampled_from([0, 12]))
    header = codec.out_header.make(len=16 + len(body), error=error, unique=unique)
    return order, codec.order(order).out_header.build(header) + body
