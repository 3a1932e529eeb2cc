"""For griffe, which reads the sources: shows a NamedTuple's fields as the parameters of its signature.

It does so for dataclasses by itself. What never lives here: anything about a particular class.
"""

from __future__ import annotations

from typing import Any

import griffe


class NamedTupleFields(griffe.Extension):
    """Gives each class that is derived from NamedTuple the ``__init__`` that its fields stand for."""

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Called once a class has all its members."""
        if "NamedTuple" not in map(str, cls.bases) or "__init__" in cls.members:
            return
        fields = [each for each in cls.members.values() if isinstance(each, griffe.Attribute) and each.annotation]
        kind = griffe.ParameterKind.positional_or_keyword
        parameters = [griffe.Parameter("self", kind=kind)]
        parameters += [
            griffe.Parameter(each.name, annotation=each.annotation, kind=kind, default=each.value) for each in fields
        ]
        init = griffe.Function("__init__", parameters=griffe.Parameters(*parameters), lineno=cls.lineno)
        cls.set_member("__init__", init)
