"""The codecs of every fixed struct: ``codec.in_header.unpack_from(buffer)`` gives a ``codec.InHeader``.

Everything is derived at import from ``structs.STRUCTS``; the names stand in ``codec.pyi``, which ``python -m
wire.stubgen`` writes. Native byte order; ``order("<")`` and ``order(">")`` give the same family in that order.
What never lives here: tails, sizes of older minors, messages as a whole.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from wire import derive
from wire.errors import WireError
from wire.structs import STRUCTS

Codec = derive.Codec

_LAYOUTS = derive.layouts(STRUCTS)
_TYPES = derive.types(_LAYOUTS, __name__)
CODECS = derive.codecs(_LAYOUTS, _TYPES, "=")
derive.check_sizes(STRUCTS, CODECS)

globals().update(CODECS)
globals().update({kind.__name__: kind for kind in _TYPES.values()})

_FAMILIES: dict[str, Any] = {"=": SimpleNamespace(CODECS=CODECS, **CODECS)}


def order(order: str) -> Any:
    """The family of codecs in byte order ``"="`` (native), ``"<"`` or ``">"``; each made once, on first use.

    The NamedTuple classes are the same in every family. WireError for any other ``order``.
    """
    family = _FAMILIES.get(order)
    if family is None:
        if order not in ("<", ">"):
            raise WireError("order", f"one of '=', '<' and '>', got {order!r}")
        made = derive.codecs(_LAYOUTS, _TYPES, order)
        family = _FAMILIES[order] = SimpleNamespace(CODECS=made, **made)
    return family
