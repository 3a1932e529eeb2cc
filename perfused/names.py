"""Paths from frames: which nodeid was last seen under which parent and name.

Learnt from requests and replies as they go by, so it knows only what it has seen; bounded. Used where frames are shown
(traces), in the worker and in perfusectl alike. Never on the hot path, never for a decision.
"""

import struct
import sys

from wire import compat, tails
from wire.flags import ROOT_ID
from wire.opcodes import BY_NUMBER, Opcode

IN_HEADER = 40
OUT_HEADER = 16
_ORDER = sys.byteorder
_NODEID = struct.Struct("=Q")
#: nodes remembered; the longest unseen is dropped first
KEPT = 65_536
_MAKES_ENTRY = frozenset({Opcode.LOOKUP, Opcode.MKNOD, Opcode.MKDIR, Opcode.SYMLINK, Opcode.LINK, Opcode.CREATE})


def names_in(frame: bytes | memoryview, minor: int) -> list[bytes]:
    """The names a request carries (none, one or two), without their NULs; a frame cut short gives what is there."""
    opcode = int.from_bytes(frame[4:8], _ORDER)
    row = BY_NUMBER.get(opcode)
    if row is None or not row.names:
        return []
    start = IN_HEADER + compat.request_head_size(opcode, minor)
    return bytes(frame[start : start + 8192]).split(b"\0")[: row.names]


def shown(name: bytes) -> str:
    """A name fit for a line on a terminal: what is no UTF-8, or not printable, is escaped."""
    text = name.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else "".join(each if each.isprintable() else _escaped(each) for each in text)


def _escaped(char: str) -> str:
    return f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}"


class Names:
    """nodeid -> (parent nodeid, name)."""

    def __init__(self) -> None:
        self.nodes: dict[int, tuple[int, bytes]] = {}
        self.children: dict[tuple[int, bytes], int] = {}

    def knows(self, request: bytes, reply: bytes | bytearray | memoryview) -> bool:
        """Whether a LOOKUP and its good reply tell nothing new: asked before `learn`, which costs more."""
        child, parent = _NODEID.unpack_from(reply, OUT_HEADER)[0], _NODEID.unpack_from(request, 16)[0]
        return self.nodes.get(child) == (parent, request[IN_HEADER:-1])

    def learn(self, request: bytes | memoryview, reply: bytes | memoryview, minor: int, late: bool = False) -> None:
        """Take what a request and its good reply (whole frames; the reply's first 144 bytes are enough) tell.

        `late`: of a READDIRPLUS, that it is older than all that is known, and tells only of nodes nothing is known of.
        """
        opcode, nodeid = int.from_bytes(request[4:8], _ORDER), int.from_bytes(request[16:24], _ORDER)
        if opcode in _MAKES_ENTRY:
            names = names_in(request, minor)
            child = int.from_bytes(reply[OUT_HEADER : OUT_HEADER + 8], _ORDER)
            if child and names:
                self.put(child, nodeid, names[0])
        elif opcode in (Opcode.RENAME, Opcode.RENAME2):
            names = names_in(request, minor)
            moved = self.children.pop((nodeid, names[0]), 0) if len(names) == 2 else 0
            if moved:
                newdir = int.from_bytes(request[IN_HEADER : IN_HEADER + 8], _ORDER)
                self.put(moved, newdir, names[1])
        elif opcode in (Opcode.UNLINK, Opcode.RMDIR):
            names = names_in(request, minor)
            if names:
                self.children.pop((nodeid, names[0]), None)
        elif opcode == Opcode.READDIRPLUS:
            for each in tails.parse_direntplus(bytes(reply[OUT_HEADER:]))[0]:
                child = int.from_bytes(each.entry[:8], _ORDER)
                if child and each.name not in (b".", b"..") and not (late and child in self.nodes):
                    self.put(child, nodeid, each.name)

    def put(self, nodeid: int, parent: int, name: bytes) -> None:
        """Remember where a node was seen."""
        if nodeid in (ROOT_ID, parent):
            return
        self._drop(nodeid)
        self.nodes[nodeid] = (parent, name)
        self.children[parent, name] = nodeid
        if len(self.nodes) > KEPT:
            self._drop(next(iter(self.nodes)))

    def _drop(self, nodeid: int) -> None:
        """Forget a node, and its name where no other node has it by now."""
        place = self.nodes.pop(nodeid, None)
        if place is not None and self.children.get(place) == nodeid:
            del self.children[place]

    def path(self, nodeid: int, name: bytes = b"") -> str:
        """Where a node is in the mount, names as `shown` has them: `/a/b`, or `<77>/b` where an ancestor is unknown."""
        parts = [name] if name else []
        at = nodeid
        for _ in range(256):
            if at == ROOT_ID or at not in self.nodes:
                break
            at, part = self.nodes[at]
            parts.append(part)
        text = "/".join(shown(part) for part in reversed(parts))
        if at == ROOT_ID:
            return "/" + text
        return f"<{at}>/{text}" if text else f"<{at}>"
