"""Prints ``codec.pyi``: ``python -m wire.stubgen > wire/codec.pyi``. A test asserts that the file is current.

What never lives here: anything a program needs at run time.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from wire.derive import Field, layouts, type_name
from wire.structs import STRUCTS

_HEAD = '''\
# Written by `python -m wire.stubgen > wire/codec.pyi`; edit structs.py instead.
# ruff: noqa
# fmt: off
"""The typed face of the derived codecs: one NamedTuple and one codec a struct of fuse.h."""

from typing import Any, NamedTuple

from wire.derive import Codec as Codec

'''


def _python_type(field: Field) -> str:
    if field.nested:
        return type_name(field.nested)
    return "bytes" if field.code.endswith("s") else "int"


def _wrapped(head: str, items: list[str], tail: str) -> Iterator[str]:
    """One line where it fits into 120 columns, else the items filled into lines of their own."""
    line = head + ", ".join(items) + tail
    if len(line) <= 120:
        yield line
        return
    yield head
    whole = [item.replace(" ", "\0") for item in items]  # so that lines break between items only
    for row in textwrap.wrap(", ".join(whole) + ",", 116, initial_indent="    ", subsequent_indent="    "):
        yield row.replace("\0", " ")
    yield tail


def stub() -> str:
    """The text of ``codec.pyi``, from ``structs.STRUCTS`` alone."""
    lines: list[str] = []
    for name, fields in layouts(STRUCTS).items():
        kind = type_name(name)
        items = [f'("{field.name}", {_python_type(field)})' for field in fields]
        lines += _wrapped(f'{kind} = NamedTuple("{kind}", [', items, "])")
    lines.append("")
    lines += [f"{name}: Codec[{type_name(name)}]" for name in STRUCTS]
    lines += ["", "CODECS: dict[str, Codec[Any]]", "", "class Family:", "    CODECS: dict[str, Codec[Any]]"]
    lines += [f"    {name}: Codec[{type_name(name)}]" for name in STRUCTS]
    lines += ["", "def order(order: str) -> Family: ..."]
    return _HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(stub(), end="")
