"""A frame as text: one line, a tree of lines, or a dict for JSON. Never fails, whatever the bytes and however few.

What never lives here: terminals and colours, parsing rules (``message``), the wording of fields (``fields``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from wire import tails
from wire.derive import Buffer
from wire.errors import WireError
from wire.fields import entry_pairs, error_name, names_of, pairs, plain, quoted
from wire.flags import UNIQUE_RESEND
from wire.message import DEFAULT_MINOR
from wire.view import View, view_answer, view_request

SHOWN_BYTES = 64
"""How many bytes of a payload a tree or a dict shows."""


def view(
    frame: Buffer,
    *,
    reply_to: int | None = None,
    minor: int = DEFAULT_MINOR,
    request_size: int | None = None,
    order: str = "=",
) -> View:
    """The parts of a frame: a request, or with ``reply_to`` (its opcode, 0 if unknown) a reply or a notification.

    ``request_size`` is the ``size`` field of the request a reply answers, where known. A frame cut short by a capture
    limit is shown as far as it goes; ``problem`` says what is wrong. Raises nothing.
    """
    if reply_to is None:
        return view_request(frame, minor, order)
    return view_answer(frame, reply_to, minor, request_size, order)


def _unique(unique: int) -> str:
    return f"{unique & ~UNIQUE_RESEND} RESEND" if unique & UNIQUE_RESEND else str(unique)


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _extension(extension: tails.Extension, order: str) -> str:
    try:
        if extension.type <= tails.MAX_NR_SECCTX:
            contexts = tails.security_contexts(extension, order)
            return " ".join(f"{quoted(name)}={quoted(value)}" for name, value in contexts) or "no security context"
        if extension.type == tails.EXT_GROUPS:
            return "groups=" + ",".join(map(str, tails.supplementary_groups(extension, order)))
    except WireError as error:
        return f"extension {extension.type} ({error})"
    return f"extension {extension.type} of {_count(extension.size, 'byte', 'bytes')}"


def _names(view: View) -> Iterator[str]:
    yield from map(quoted, view.names)
    if view.cut_name:
        yield quoted(view.cut_name) + "..."


def _end(view: View) -> Iterator[str]:
    for extension in view.extensions:
        yield _extension(extension, view.order)
    if view.trailing:
        yield f"+{_count(view.trailing, 'trailing byte', 'trailing bytes')}"


def _request_words(view: View) -> Iterator[str]:
    header = view.header
    yield f"{_unique(header.unique)} {view.name}"
    if header.nodeid:
        yield f"nodeid={header.nodeid}"
    yield from _names(view)
    if view.head is not None:
        yield from (f"{field}={text}" for field, text in pairs(view.struct, view.head))
    elif view.payload_size is not None:
        yield _count(view.payload_size, "byte", "bytes")
    if view.items:
        yield " ".join(f"{first}:{second}" for first, second in view.items[:8]) + (" ..." if view.items[8:] else "")
    if view.caller_ids:
        yield f"uid={header.uid} pid={header.pid}"
    yield from _end(view)


def _reply_words(view: View) -> Iterator[str]:
    header = view.header
    yield f"{_unique(header.unique)} {view.name} ->"
    if header.error:
        yield error_name(header.error) if header.error < 0 else f"error {header.error}"
    elif view.struct in ("entry_out", "attr_out") and view.head is not None:
        yield from (f"{field}={text}" for field, text in entry_pairs(view.head))
        if view.open_out is not None:
            yield from (f"{field}={text}" for field, text in pairs("open_out", view.open_out))
    elif view.head is not None:
        yield " ".join(f"{field}={text}" for field, text in pairs(view.struct, view.head)) or "ok"
    elif view.items:
        yield f"{_count(len(view.items), 'entry', 'entries')},"
    elif view.name == "READLINK" and view.payload_size == len(view.payload):
        yield quoted(view.payload)
        return
    elif view.payload_size is None and not view.problem:
        yield "ok"
    if view.payload_size is not None and (view.head is None or view.payload_size):
        yield _count(view.payload_size, "byte", "bytes")
    yield from _end(view)


def _notification_words(view: View) -> Iterator[str]:
    yield f"notify {view.name}"
    if view.head is not None:
        yield from (f"{field}={text}" for field, text in pairs(view.struct, view.head) if field != "namelen")
    elif view.payload_size is not None:
        yield _count(view.payload_size, "byte", "bytes")
    yield from _names(view)
    if view.items:
        yield "nodeids=" + ",".join(map(str, view.items[:8])) + (",..." if view.items[8:] else "")
    yield from _end(view)


def words(view: View) -> str:
    """The one line of a view: ``12 LOOKUP nodeid=1 "etc" uid=0 pid=7``; what is wrong stands in brackets at the end."""
    if view.header is None:
        parts = [view.kind if view.kind == "request" else f"reply to {view.name}", f"of {view.size} bytes"]
    elif view.kind == "request":
        parts = list(_request_words(view))
    else:
        parts = list(_reply_words(view) if view.kind == "reply" else _notification_words(view))
    if view.problem:
        parts.append(f"[{view.problem}]")
    return " ".join(parts)


def line(
    frame: Buffer,
    *,
    reply_to: int | None = None,
    minor: int = DEFAULT_MINOR,
    request_size: int | None = None,
    order: str = "=",
) -> str:
    """A frame as one line; arguments as ``view``. Replies read ``12 LOOKUP -> ENOENT``."""
    return words(view(frame, reply_to=reply_to, minor=minor, request_size=request_size, order=order))


def _struct(name: str, value: Any) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for field, item in value._asdict().items():
        shown[field] = plain(item)
        names = names_of(name, field, item) if isinstance(item, int) else None
        if names:
            shown[field + "_names"] = names
    return shown


def _item(item: Any) -> Any:
    if not isinstance(item, tails.Dirent | tails.Direntplus):
        return plain(item)
    shown: dict[str, Any] = plain(item)
    return {**shown, "name": quoted(item.name)}


def as_dict(
    frame: Buffer,
    *,
    reply_to: int | None = None,
    minor: int = DEFAULT_MINOR,
    request_size: int | None = None,
    order: str = "=",
) -> dict[str, Any]:
    """A frame as a dict that json.dumps takes; arguments as ``view``.

    Keys: ``kind``, ``name``, ``size`` (bytes captured), ``header``, and where there is such a thing ``head`` (with
    ``struct``), ``open_out``, ``names`` (quoted), ``payload`` (``size`` and the first 64 bytes as ``hex``), ``items``,
    ``extensions``, ``trailing`` (bytes) and ``problem``. Flag fields have their names beside them (``valid_names``).
    """
    seen = view(frame, reply_to=reply_to, minor=minor, request_size=request_size, order=order)
    shown: dict[str, Any] = {"kind": seen.kind, "name": seen.name, "size": seen.size}
    if seen.header is not None:
        shown["header"] = plain(seen.header)
    if seen.head is not None:
        shown["head"] = {"struct": seen.struct, **_struct(seen.struct, seen.head)}
    if seen.open_out is not None:
        shown["open_out"] = _struct("open_out", seen.open_out)
    if names := list(_names(seen)):
        shown["names"] = names
    if seen.payload_size is not None:
        shown["payload"] = {"size": seen.payload_size, "hex": seen.payload[:SHOWN_BYTES].hex()}
    if seen.items:
        shown["items"] = [_item(item) for item in seen.items]
    if seen.extensions:
        shown["extensions"] = [{**plain(e), "meaning": _extension(e, seen.order)} for e in seen.extensions]
    if seen.trailing:
        shown["trailing"] = seen.trailing
    if seen.problem:
        shown["problem"] = seen.problem
    return shown


def _lines(value: Any, depth: int) -> Iterator[str]:
    indent = "  " * depth
    entries = value.items() if isinstance(value, dict) else ((f"[{i}]", item) for i, item in enumerate(value))
    for key, item in entries:
        if isinstance(item, dict) or (isinstance(item, list) and any(isinstance(one, dict) for one in item)):
            yield f"{indent}{key}"
            yield from _lines(item, depth + 1)
        else:
            yield f"{indent}{key}: {' '.join(map(str, item)) if isinstance(item, list) else item}"


def tree(
    frame: Buffer,
    *,
    reply_to: int | None = None,
    minor: int = DEFAULT_MINOR,
    request_size: int | None = None,
    order: str = "=",
) -> list[str]:
    """A frame as indented lines, the one-line form first, then every field; arguments as ``view``."""
    shown = as_dict(frame, reply_to=reply_to, minor=minor, request_size=request_size, order=order)
    head = line(frame, reply_to=reply_to, minor=minor, request_size=request_size, order=order)
    return [head, *_lines({key: item for key, item in shown.items() if key not in ("kind", "name")}, 1)]
