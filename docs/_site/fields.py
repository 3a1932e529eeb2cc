"""For griffe, which reads the sources: shows the fields of a NamedTuple and the members of an enumeration.

Neither has docstrings of its own for each, and what has none is not shown. For dataclasses griffe knows by itself.
What never lives here: anything about a particular class.
"""

from __future__ import annotations

from typing import Any

import griffe

ENUMS = {"Enum", "IntEnum", "IntFlag"}


class Fields(griffe.Extension):
    """Gives a NamedTuple the signature that its fields stand for, and lists the bare members of an enumeration."""

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Called once a class has all its members."""
        bases = set(map(str, cls.bases))
        attributes = [each for each in cls.members.values() if isinstance(each, griffe.Attribute)]
        if "NamedTuple" in bases and "__init__" not in cls.members:
            _add_signature(cls, [each for each in attributes if each.annotation])
        if bases & ENUMS and cls.docstring:
            bare = [f"`{each.name} = {each.value}`" for each in attributes if not each.docstring]
            cls.docstring.value += "\n\n" + ", ".join(bare)


def _add_signature(cls: griffe.Class, fields: list[griffe.Attribute]) -> None:
    kind = griffe.ParameterKind.positional_or_keyword
    parameters = [griffe.Parameter("self", kind=kind)]
    parameters += [
        griffe.Parameter(each.name, annotation=each.annotation, kind=kind, default=each.value) for each in fields
    ]
    cls.set_member("__init__", griffe.Function("__init__", parameters=griffe.Parameters(*parameters)))
