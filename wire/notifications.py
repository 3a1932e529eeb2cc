"""Notifications: frames that a filesystem sends unasked, ``unique`` 0 and the code in ``error``.

What never lives here: requests and replies (``message``), and what the kernel makes of a notification.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wire import codec, tails
from wire.derive import Buffer
from wire.errors import WireError
from wire.message import OUT_HEADER_SIZE, pack_head, unpack_head
from wire.opcodes import NOTIFY_BY_NUMBER, NOTIFY_UNIQUE, NotifyRow, Tail


@dataclass(frozen=True, slots=True)
class Notification:
    """A notification as its parts: ``header.error`` is the code, ``head`` the NamedTuple of its struct.

    ``name`` is INVAL_ENTRY's and DELETE's, without NUL; ``payload`` is STORE's data, or the whole body of an unknown
    code; ``nodeids`` are PRUNE's.
    """

    header: codec.OutHeader
    head: Any = None
    name: bytes = b""
    payload: bytes = b""
    nodeids: tuple[int, ...] = ()
    trailing: bytes = b""
    order: str = "="

    @property
    def code(self) -> int:
        """``Notify``'s number."""
        return self.header.error


def parse_notification(frame: Buffer, order: str = "=") -> Notification:
    """Take a whole notification apart. WireError where ``len``, ``unique``, ``error`` or a count is wrong."""
    frame = bytes(frame)
    header = codec.order(order).out_header.unpack_from(frame)
    if header.len != len(frame):
        raise WireError("len", f"the frame's {len(frame)} bytes, got {header.len}")
    if header.unique != NOTIFY_UNIQUE:
        raise WireError("unique", f"{NOTIFY_UNIQUE} in a notification, got {header.unique}")
    if header.error <= 0:
        raise WireError("error", f"a code above 0 in a notification, got {header.error}")
    body = frame[OUT_HEADER_SIZE:]
    row = NOTIFY_BY_NUMBER.get(header.error)
    if row is None:
        return Notification(header, payload=body, order=order)
    if not row.struct:
        return Notification(header, trailing=body, order=order)
    size: int = codec.CODECS[row.struct].size
    head = unpack_head(row.struct, body, size, order)
    rest = body[size:]
    if row.tail is Tail.NAME:
        name, rest = tails.parse_notify_name(rest, head.namelen)
        return Notification(header, head, name, trailing=rest, order=order)
    if row.tail is Tail.NODEIDS:
        nodeids, rest = tails.parse_nodeids(rest, head.count, order)
        return Notification(header, head, nodeids=nodeids, trailing=rest, order=order)
    if row.tail is Tail.DATA:
        if head.size > len(rest):
            raise WireError(f"{row.struct}.size", f"at most the {len(rest)} bytes that follow, got {head.size}")
        return Notification(header, head, payload=rest[: head.size], trailing=rest[head.size :], order=order)
    return Notification(header, head, trailing=rest, order=order)


def _check(row: NotifyRow, note: Notification) -> None:
    if row.tail is Tail.NAME:
        announced, there, field = note.head.namelen, len(note.name), "namelen"
    elif row.tail is Tail.NODEIDS:
        announced, there, field = note.head.count, len(note.nodeids), "count"
    elif row.tail is Tail.DATA:
        announced, there, field = note.head.size, len(note.payload), "size"
    else:
        announced, there, field = 0, len(note.name) + len(note.payload) + len(note.nodeids), "tail"
    if announced != there:
        raise WireError(f"{row.struct}.{field}", f"{there}, as the tail has it, got {announced}")


def build_notification(note: Notification) -> bytes:
    """The frame of ``note``; ``len`` is set from its parts. WireError where a count disagrees with its tail."""
    if note.header.error <= 0 or note.header.unique != NOTIFY_UNIQUE:
        raise WireError("error", f"a code above 0, with unique {NOTIFY_UNIQUE}, got {note.header}")
    row, body = NOTIFY_BY_NUMBER.get(note.header.error), b""
    if row is not None and row.struct:
        body = pack_head(row.struct, note.head, None, note.order)
    if row is not None:
        _check(row, note)
        if row.tail is Tail.NAME:
            body += note.name + b"\0"
    body += note.payload + tails.pack_nodeids(note.nodeids, note.order) + note.trailing
    header = note.header._replace(len=OUT_HEADER_SIZE + len(body))
    return codec.order(note.order).out_header.build(header) + body
