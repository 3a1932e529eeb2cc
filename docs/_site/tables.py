"""Pages that are made from ``wire``'s tables: opcodes and notifications, INIT flags, structs, other flags.

What never lives here: facts about the protocol. Whatever is missing on such a page is missing in ``wire``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from enum import Enum, IntFlag
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from struct import calcsize
from typing import TypeVar

import griffe

from wire import flags
from wire.codec import CODECS
from wire.compat import HISTORY, NEWEST_MINOR
from wire.derive import Field, layouts, type_name
from wire.init_policy import ALIASES, ANNOUNCED, INIT_POLICY, Verdict
from wire.opcodes import NOTIFICATIONS, OPCODES, ReplyRule, Row, Tail
from wire.structs import STRUCTS

E = TypeVar("E", bound=Enum)

#: as C writes the integers that construct's formats stand for
_KINDS = {"H": "uint16", "L": "uint32", "l": "int32", "Q": "uint64", "q": "int64"}
ROOT = Path(__file__).resolve().parents[2]
_RULES = {ReplyRule.ALWAYS: "always", ReplyRule.NEVER: "never", ReplyRule.OPTIONAL: "may be"}


def table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table; a ``|`` in a cell is escaped."""
    lines = [list(heads)]
    lines += [["---"] * len(lines[0])]
    lines += [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def docstring(path: str) -> str:
    """The text behind a constant or a member, such as ``wire.opcodes.Tail.DATA``, which no running program can see."""
    found = _sources()[path.removeprefix("wire.")].docstring
    return " ".join(found.value.split()) if found else ""


@lru_cache(maxsize=1)
def _sources() -> griffe.Object | griffe.Alias:
    return griffe.load("wire", search_paths=[ROOT], allow_inspection=False)


def _struct(name: str) -> str:
    return f"[{name}](structs.md#{name})"


def _tail(tail: Tail) -> str:
    return f"[{tail.name}](#tail-{tail.name})"


def _target(anchor: str, text: str) -> str:
    return f'<span id="{anchor}">{text}</span>'


def _minor(since: int) -> str:
    return f"7.{since}"


# -- opcodes and notifications -----------------------------------------------------------------------------------------


def opcodes() -> str:
    """Every request with what it carries and how it is answered, and every notification."""
    notes = [
        (row.number, _target(f"notify-{row.name}", row.name), _minor(row.since), _parts(row.struct, 0, row.tail))
        for row in NOTIFICATIONS
    ]
    tails = [each for each in Tail if each is not Tail.NONE]
    return f"""# Opcodes and notifications

Made from `wire.opcodes`: the requests of FUSE 7.1 to 7.{max(row.since for row in OPCODES)}.

Before the request's parts stands [in_header](structs.md#in_header), before the reply's
[out_header](structs.md#out_header). Names in capitals among the parts are [tails](#tails). "names" are strings that
end with a NUL, and "extensions" may follow where they are named. "ids" says whether the header has the caller's uid,
gid and pid. The last column is what Linux does when a request is answered ENOSYS.

## Requests

{table(("number", "name", "since", "request", "ids", "answered", "reply", "ENOSYS"), map(_request, OPCODES))}
An opcode that is not in this table passes perfused unchanged, and so does its reply.

## Notifications

The filesystem sends them unasked: `unique` is 0, and the code stands in `error`. All bytes behind the header:

{table(("code", "name", "since", "carries"), notes)}
## Tails

{_legend(tails, lambda each: _target(f"tail-{each.name}", each.name))}
"""


def _legend(kind: Iterable[E], shown: Callable[[E], str]) -> str:
    """A list of an enumeration's members with their docstrings."""
    return "\n".join(
        f"- {shown(each)}: {docstring(f'{type(each).__module__}.{type(each).__name__}.{each.name}')}" for each in kind
    )


def _request(row: Row) -> Iterator[object]:
    yield row.number
    yield _target(row.name, row.name)
    yield _minor(row.since)
    yield _parts(row.head, row.names, row.tail, row.may_extend)
    yield "yes" if row.caller_ids else "no"
    yield _RULES[row.reply_rule]
    yield _parts(row.reply, 0, row.reply_tail) if row.reply_rule is ReplyRule.ALWAYS else ""
    yield row.enosys


def _parts(head: str, names: int, tail: Tail, extended: bool = False) -> str:
    parts = [_struct(head)] if head else []
    if names:
        parts.append("1 name" if names == 1 else f"{names} names")
    if tail is not Tail.NONE:
        parts.append(_tail(tail))
    if extended:
        parts.append("extensions")
    return ", ".join(parts) or "-"


# -- INIT flags --------------------------------------------------------------------------------------------------------


def init_flags() -> str:
    """Every INIT flag and what a relay does with it."""
    heads = ("bit", "name", "since", "socket", "device", "direct", "why")
    rows = [
        (row.bit, row.name, _minor(row.since), row.socket.value, row.device.value, row.direct.value, row.reason)
        for row in INIT_POLICY.values()
    ]
    return f"""# INIT flags

Made from `wire.init_policy`. Bits 0 to 31 stand in `flags` of [init_in](structs.md#init_in) and
[init_out](structs.md#init_out), the others in `flags2`, which counts only where INIT_EXT is set. What happens to a bit
depends on the [endpoint](../design.md#endpoints):

{_legend(Verdict, lambda each: f"`{each.value}`")}

{table(heads, rows)}
Further bits pass unchanged.

## Former names

{table(("name", "now"), ((old, flag.name) for old, flag in ALIASES.items()))}
## Announced

Names of a version that is not released; their numbers are not settled.

{table(("version", "what", "name"), ((_minor(each.minor), each.kind, each.name) for each in ANNOUNCED))}"""


# -- structs -----------------------------------------------------------------------------------------------------------


def structs() -> str:
    """Every fixed struct with its fields, their offsets and sizes in bytes, and the minors that made it longer."""
    users = _users()
    parts = [_one_struct(name, layout, users.get(name, [])) for name, layout in layouts(STRUCTS).items()]
    return f"""# Structs

Made from `wire.structs` and `wire.compat`: the layouts of fuse.h as of 7.{NEWEST_MINOR}, in the machine's byte order,
without padding between fields. `wire.codec` has, for each, a codec of the same name and a NamedTuple:

```python
from wire import codec

head = codec.in_header.unpack_from(frame)  # a codec.InHeader; WireError where the frame is too short
reply = codec.out_header.pack(16, -2, head.unique)
```

Offsets and sizes are bytes. "since" is the minor that brought the field; before it, the struct ends there. That is what
fuse.h of that minor says: [wire.compat](../reference/wire/compat.md) also knows what Linux sends to old servers.

""" + "\n".join(parts)


def _users() -> dict[str, list[str]]:
    """Which messages carry a struct, as links."""
    users: dict[str, list[str]] = {}
    for row in OPCODES:
        if row.head:
            users.setdefault(row.head, []).append(f"[{row.name}](opcodes.md#{row.name})")
        if row.reply:
            users.setdefault(row.reply, []).append(f"[{row.name}](opcodes.md#{row.name}) (reply)")
        if row.reply_tail is Tail.OPEN_OUT:
            users.setdefault("open_out", []).append(f"[{row.name}](opcodes.md#{row.name}) (reply)")
    for note in NOTIFICATIONS:
        if note.struct:
            users.setdefault(note.struct, []).append(f"[notification {note.name}](opcodes.md#notify-{note.name})")
    return users


def _one_struct(name: str, layout: tuple[Field, ...], users: list[str]) -> str:
    steps = HISTORY.get(name, ())
    size = f"{CODECS[name].size} bytes"
    older = [f"{length} before {_minor(later)}" for (_, length), (later, _) in pairwise(steps)]
    rows, offset = [], 0
    for field in layout:
        kind, length = _kind(field)
        since = next((minor for minor, total in steps if total > offset), 1)
        rows.append((offset, f"`{field.name}`", kind, length, *([_minor(since)] if steps else [])))
        offset += length
    said = f"`codec.{name}`, `codec.{type_name(name)}`: {'; '.join([size, *reversed(older)])}."
    if users:
        said += f" In {', '.join(users)}."
    return f"## {name}\n\n{said}\n\n{table(('offset', 'field', 'type', 'size', *(['since'] if steps else [])), rows)}"


def _kind(field: Field) -> tuple[str, int]:
    """How a field's type is shown, and its bytes."""
    if field.nested:
        return f"[{field.nested}](#{field.nested})", CODECS[field.nested].size
    if field.code.endswith("s"):
        return "bytes", int(field.code[:-1])
    return _KINDS[field.code], calcsize(f"={field.code}")


# -- other flags -------------------------------------------------------------------------------------------------------


def other_flags() -> str:
    """Every set of flags in ``wire.flags`` but INIT's, and the limits that are single numbers."""
    kinds = [each for each in vars(flags).values() if isinstance(each, type) and each.__module__ == flags.__name__]
    sets = [each for each in kinds if issubclass(each, IntFlag)]
    limits = [
        (f"`{name}`", f"{value:#x}" if value > 1 << 16 else value, docstring(f"wire.flags.{name}"))
        for name in flags.__all__
        if isinstance(value := getattr(flags, name), int)
    ]
    return f"""# Flags and limits

Made from `wire.flags`. [INIT flags](init-flags.md) have a page of their own.

{"".join(map(_flag_set, sets))}
## Limits

{table(("name", "value", ""), limits)}"""


def _flag_set(kind: type[IntFlag]) -> str:
    source = inspect.getsource(kind)
    rows = []
    for name, member in kind.__members__.items():
        since = re.search(rf"^    {name} = .*#\s*(7\.\d+)", source, flags=re.MULTILINE)
        rows.append((f"`{name}`", f"{member.value:#x}", since[1] if since else ""))
    return f"## {kind.__name__}\n\n{inspect.getdoc(kind)}\n\n{table(('name', 'value', 'since'), rows)}\n"
