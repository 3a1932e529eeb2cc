"""The one exception of the package. What never lives here: errno values and the errors of other packages."""

from __future__ import annotations


class WireError(ValueError):
    """Bytes or values that cannot be a FUSE message; ``field`` and ``limit`` say which rule they broke.

    ``field`` is fuse.h's own name of the field (``"len"``, ``"total_extlen"``, ``"entry_out.nodeid"``), ``limit`` is
    the rule in words (``"at least 40 bytes, got 12"``). Nothing else is raised on bad input anywhere in ``wire``.
    """

    def __init__(self, field: str, limit: str, message: str = "") -> None:
        """Remember ``field`` and ``limit``; the message is ``"field: limit"`` unless another sentence is given."""
        super().__init__(message or f"{field}: {limit}")
        self.field = field
        self.limit = limit

    def __reduce__(self) -> tuple[type[WireError], tuple[str, str, str]]:
        """Pickle field, limit and message, so that the error crosses process borders whole."""
        return (type(self), (self.field, self.limit, str(self)))
