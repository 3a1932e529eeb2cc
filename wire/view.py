"""A frame taken apart as far as it goes: whole frames exactly, damaged or cut ones up to where they stop making sense.

A capture limit may have cut the frame; its header then still tells the true length. Nothing here raises on any bytes.
What never lives here: text (``render``), and rules (``message`` has them).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wire import codec, compat, message, notifications, tails
from wire.derive import Buffer
from wire.errors import WireError
from wire.opcodes import BY_NUMBER, NOTIFY_BY_NUMBER, NOTIFY_UNIQUE, Row, Tail, name_of, notify_name_of


@dataclass(slots=True)
class View:
    """What could be read; ``kind`` is ``"request"``, ``"reply"`` or ``"notification"``, ``problem`` what is wrong.

    ``head`` belongs to ``struct``. ``cut_name`` is a name whose NUL was not captured. ``payload_size`` is how many
    bytes the frame carries or announces, None where it has no payload; ``payload`` what was captured of them.
    """

    kind: str
    name: str
    size: int
    header: Any = None
    struct: str = ""
    head: Any = None
    open_out: Any = None
    names: tuple[bytes, ...] = ()
    cut_name: bytes = b""
    payload: bytes = b""
    payload_size: int | None = None
    items: tuple[Any, ...] = ()
    extensions: tuple[tails.Extension, ...] = ()
    trailing: int = 0
    caller_ids: bool = True
    order: str = "="
    problem: str = ""


def _problem(error: WireError, header: Any, size: int) -> str:
    return f"cut: {size} of {header.len} bytes" if header.len > size else str(error)


def view_request(frame: Buffer, minor: int = message.DEFAULT_MINOR, order: str = "=") -> View:
    """The view of a request, whole or not."""
    frame = bytes(frame)
    view = View("request", "request", len(frame), order=order)
    try:
        view.header = header = codec.order(order).in_header.unpack_from(frame)
    except WireError as error:
        view.problem = str(error)
        return view
    row = BY_NUMBER.get(header.opcode)
    view.name = name_of(header.opcode)
    view.struct = row.head if row is not None else ""
    view.caller_ids = row is None or row.caller_ids
    try:
        whole = message.parse_request(frame, minor, order)
    except WireError as error:
        view.problem = _problem(error, header, len(frame))
        if row is not None:
            _part_of_request(view, row, frame, max(minor, compat.OLDEST_MINOR))
        return view
    view.head, view.names, view.items, view.extensions = whole.head, whole.names, whole.items, whole.extensions
    view.trailing = len(whole.trailing)
    if row is None or row.tail in (Tail.DATA, Tail.IOCTL):
        view.payload, view.payload_size = whole.payload, len(whole.payload)
    return view


def _part_of_request(view: View, row: Row, frame: bytes, minor: int) -> None:
    """Head, names and announced payload, as far as the captured bytes go."""
    body = frame[message.IN_HEADER_SIZE :]
    length = max(view.header.len - message.IN_HEADER_SIZE - 8 * view.header.total_extlen, 0)
    size = message.head_size_of(row, body, length, minor, view.order)
    if row.head:
        if len(body) < size:
            return
        view.head = message.unpack_head(row.head, body, size, view.order)
    names: list[bytes] = []
    rest = body[size:]
    while len(names) < row.names:
        name, nul, behind = rest.partition(b"\0")
        if not nul:
            view.cut_name = name
            break
        names.append(name)
        rest = behind
    view.names = tuple(names)
    if row.tail in (Tail.DATA, Tail.IOCTL):
        view.payload_size = message.size_field(row.number, view.head)
        view.payload = rest[: view.payload_size] if len(names) == row.names else b""


def view_answer(
    frame: Buffer,
    reply_to: int,
    minor: int = message.DEFAULT_MINOR,
    request_size: int | None = None,
    order: str = "=",
) -> View:
    """The view of a reply to opcode ``reply_to`` or, where ``unique`` is 0 and ``error`` above 0, of a notification."""
    frame = bytes(frame)
    view = View("reply", name_of(reply_to), len(frame), caller_ids=False, order=order)
    try:
        view.header = header = codec.order(order).out_header.unpack_from(frame)
    except WireError as error:
        view.problem = str(error)
        return view
    if header.unique == NOTIFY_UNIQUE and header.error > 0:
        return _view_notification(view, frame)
    try:
        whole = message.parse_reply(reply_to, frame, minor, request_size, order)
    except WireError as error:
        view.problem = _problem(error, header, len(frame))
        _part_of_reply(view, reply_to, frame, max(minor, compat.OLDEST_MINOR))
        return view
    row = BY_NUMBER.get(reply_to)
    view.head, view.open_out, view.items = whole.head, whole.open_out, whole.items
    view.trailing, view.payload = len(whole.trailing), whole.payload
    if row is None or (row.reply_tail is not Tail.OPEN_OUT and row.reply_tail is not Tail.NONE and not header.error):
        view.payload_size = len(whole.payload)
    if row is not None and whole.head is not None:
        view.struct = "getxattr_out" if row.reply_tail is Tail.XATTR else row.reply
        if row.reply_tail is Tail.XATTR:
            view.payload_size = None
    elif row is not None and row.reply_tail in (Tail.DIRENTS, Tail.DIRENTPLUS) and not header.error:
        view.payload_size = len(frame) - message.OUT_HEADER_SIZE
    return view


def _part_of_reply(view: View, opcode: int, frame: bytes, minor: int) -> None:
    row, body = BY_NUMBER.get(opcode), frame[message.OUT_HEADER_SIZE :]
    length = view.header.len - message.OUT_HEADER_SIZE
    if row is None or view.header.error or length < 0:
        return
    if not row.reply:
        view.payload, view.payload_size = body, length
        return
    size = message.reply_head_size(row, length, minor)
    if len(body) >= size:
        view.struct, view.head = row.reply, message.unpack_head(row.reply, body, size, view.order)


def _view_notification(view: View, frame: bytes) -> View:
    code = view.header.error
    view.kind, view.name = "notification", notify_name_of(code)
    row = NOTIFY_BY_NUMBER.get(code)
    view.struct = row.struct if row is not None else ""
    try:
        whole = notifications.parse_notification(frame, view.order)
    except WireError as error:
        view.problem = _problem(error, view.header, len(frame))
        if row is not None and row.struct and len(frame) >= message.OUT_HEADER_SIZE + codec.CODECS[row.struct].size:
            view.head = codec.order(view.order).CODECS[row.struct].unpack_from(frame, message.OUT_HEADER_SIZE)
        return view
    view.head, view.items, view.trailing = whole.head, whole.nodeids, len(whole.trailing)
    if row is None or row.tail is Tail.DATA:
        view.payload, view.payload_size = whole.payload, len(whole.payload)
    elif row.tail is Tail.NAME:
        view.names = (whole.name,)
    return view
