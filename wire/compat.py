"""Sizes by protocol minor: what fuse.h of that minor says, what Linux really sends, and how long a reply must be.

A connection speaks the minor that INIT settled. Heads that grew are prefixes of today's, so a shorter size is enough to
say everything about an older layout. What never lives here: struct layouts, parsing, and negotiation.
"""

from __future__ import annotations

from wire.codec import CODECS
from wire.errors import WireError
from wire.opcodes import BY_NUMBER, Opcode, ReplyRule, Row, Tail

OLDEST_MINOR = 1
NEWEST_MINOR = 46
"""7.46 changes no size; any later minor is taken for 46."""

READ_SIZED = -1
"""In ``reply_sizes``: as long as the server likes, up to the request's ``read_in.size``."""
VARIABLE = -2
"""In ``reply_sizes``: only the kernel knows."""

HISTORY: dict[str, tuple[tuple[int, int], ...]] = {
    "init_in": ((1, 8), (6, 16), (36, 64)),
    "init_out": ((1, 8), (5, 24), (23, 64)),
    "attr": ((1, 80), (9, 88)),
    "entry_out": ((1, 120), (9, 128)),
    "attr_out": ((1, 96), (9, 104)),
    "kstatfs": ((1, 48), (4, 80)),
    "statfs_out": ((1, 48), (4, 80)),
    "getattr_in": ((1, 0), (9, 16)),  # setattr_in always had 88, though before 7.3 they held a fuse_attr
    "mknod_in": ((1, 8), (12, 16)),
    "create_in": ((1, 8), (12, 16)),
    "release_in": ((1, 16), (8, 24)),
    "flush_in": ((1, 16), (7, 24)),
    "read_in": ((1, 24), (9, 40)),
    "write_in": ((1, 24), (9, 40)),
    "lk_in": ((1, 40), (9, 48)),
    "setxattr_in": ((1, 8), (33, 16)),
}
"""Every struct whose size changed: (first minor, bytes). Before the minor that brought it, it has its first size."""

_LINUX_SENDS: dict[str, tuple[tuple[int, int], ...]] = {
    "write_in": ((1, 24), (9, 40)),
    "mknod_in": ((1, 8), (12, 16)),
    "create_in": ((1, 8), (12, 16)),
}
"""What today's Linux still shortens for an old server. TMPFILE is newer than its code for create_in, so never short."""


def _at(steps: tuple[tuple[int, int], ...], minor: int) -> int:
    return [length for since, length in steps if since <= minor][-1]


def _checked(minor: int) -> int:
    if minor < OLDEST_MINOR:
        raise WireError("minor", f"at least {OLDEST_MINOR}, got {minor}")
    return min(minor, NEWEST_MINOR)


def size(struct_name: str, minor: int) -> int:
    """Bytes of struct ``struct_name`` (fuse.h's name without ``fuse_``) in the header of 7.``minor``.

    0 for ``getattr_in`` before 7.9. ``setxattr_in`` is 16 from 7.33 on, but only travels so with SETXATTR_EXT.
    WireError for a struct nobody knows or a minor below 1.
    """
    minor = _checked(minor)
    steps = HISTORY.get(struct_name)
    if steps is not None:
        return _at(steps, minor)
    if struct_name not in CODECS:
        raise WireError("struct", f"one of fuse.h's, got {struct_name!r}")
    return CODECS[struct_name].size


def sizes(struct_name: str) -> tuple[int, ...]:
    """All sizes ``struct_name`` ever had, in bytes, newest first. WireError for a struct nobody knows."""
    return tuple(sorted({length for _, length in HISTORY.get(struct_name, ((1, size(struct_name, 1)),))}, reverse=True))


def request_head_size(opcode: int, minor: int, setxattr_ext: bool = False) -> int:
    """Bytes between the header and the names that Linux sends for ``opcode`` to a server of 7.``minor``.

    Linux 6.18 sends READ 40 and GETATTR 16 bytes to everybody, though older headers had them shorter; only WRITE (24
    before 7.9), MKNOD and CREATE (8 before 7.12) still shrink, and SETXATTR is 8 unless SETXATTR_EXT was agreed on.
    0 for an unknown opcode. WireError for a minor below 1.
    """
    minor = _checked(minor)
    row = BY_NUMBER.get(opcode)
    if row is None or not row.head:
        return 0
    if opcode == Opcode.SETXATTR:
        return 16 if setxattr_ext else 8
    steps = _LINUX_SENDS.get(row.head)
    if steps is None or opcode == Opcode.TMPFILE:
        return CODECS[row.head].size
    return _at(steps, minor)


def reply_size(opcode: int, minor: int) -> int | None:
    """Bytes behind the 16-byte header of a successful reply to ``opcode``; None where they vary or none is due.

    Linux does not shorten TMPFILE's reply for a minor below 9: always 144. WireError for a minor below 1.
    """
    minor = _checked(minor)
    row = BY_NUMBER.get(opcode)
    if row is None or row.reply_rule is ReplyRule.NEVER or opcode == Opcode.INIT:
        return None
    if row.reply_tail is Tail.OPEN_OUT:
        return size("entry_out", NEWEST_MINOR if opcode == Opcode.TMPFILE else minor) + size("open_out", minor)
    if row.reply_tail is not Tail.NONE:
        return None
    return size(row.reply, minor) if row.reply else 0


def _frame_size(row: Row | None, minor: int) -> int:
    if row is None:
        return VARIABLE
    if row.reply_rule is ReplyRule.NEVER:
        return 0
    if row.head == "read_in":
        return READ_SIZED
    body = reply_size(row.number, minor)
    return VARIABLE if body is None else 16 + body


def reply_sizes(minor: int) -> list[int]:
    """128 entries indexed by opcode: the whole length in bytes (header and body) of a successful reply.

    ``READ_SIZED`` (-1) for READ, READDIR, READDIRPLUS; ``VARIABLE`` (-2) for READLINK, GETXATTR, LISTXATTR, IOCTL,
    INIT and unknown opcodes; 0 where no reply is due. INTERRUPT's optional reply is 16. WireError for a minor below 1.
    """
    return [_frame_size(BY_NUMBER.get(opcode), minor) for opcode in range(128)]
