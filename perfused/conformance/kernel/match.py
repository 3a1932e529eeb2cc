"""Conditions for a rule's `when`: which requests of its opcode it answers. Never here: answers."""

from collections.abc import Callable

from wire.message import Request

#: what `Bench.answer` and `Bench.hold` take
When = Callable[[Request], bool]


def named(*names: bytes) -> When:
    """Requests that carry exactly these names."""
    return lambda request: request.names == names


def at_node(nodeid: int) -> When:
    """Requests about a node."""
    return lambda request: request.header.nodeid == nodeid
