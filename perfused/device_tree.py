"""The filesystem that a device file stands on: a directory with that one file in it, and what INIT settles.

It has no state. Never here: opening the file, and what is read and written there (`device_file`).
"""

import errno
import os

from perfused import kernel
from perfused.kernel import PAGE
from wire import codec
from wire.flags import InitFlag
from wire.opcodes import Opcode

NAME = b"fuse"
ROOT, FILE = 1, 2
_FOREVER = 1 << 40
_INIT = InitFlag.MAX_PAGES | InitFlag.BIG_WRITES | InitFlag.ATOMIC_O_TRUNC
_SILENT = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT})
_REFUSALS: dict[int, int] = {
    Opcode.LOOKUP: errno.ENOENT,
    Opcode.IOCTL: errno.ENOTTY,
    Opcode.SETATTR: errno.EPERM,
    Opcode.OPEN: errno.EPERM,
}


def answer(opcode: int, nodeid: int, body: bytes, max_write: int) -> tuple[int, bytes] | None:
    """What a request is answered that is not about the open file: (negative errno, body); None: with nothing.

    `body` is what follows the in_header, `max_write` the bytes of the largest WRITE.
    """
    if opcode == Opcode.GETATTR:
        return 0, codec.attr_out.pack(_FOREVER, 0, 0, *_attributes(nodeid))
    if opcode == Opcode.LOOKUP and nodeid == ROOT and body.rstrip(b"\0") == NAME:
        return 0, codec.entry_out.pack(FILE, 0, _FOREVER, _FOREVER, 0, 0, *_attributes(FILE))
    if opcode == Opcode.INIT:
        return 0, _init(body, max_write)
    if opcode == Opcode.STATFS:
        return 0, bytes(codec.statfs_out.size)
    return None if opcode in _SILENT else (-_REFUSALS.get(opcode, errno.ENOSYS), b"")


def _init(body: bytes, max_write: int) -> bytes:
    offered = codec.init_in.unpack_from(body.ljust(codec.init_in.size, b"\0"))
    # No read-ahead: what reads through the page cache all the same asks for a page, which is less than any READ.
    return codec.init_out.pack(*codec.init_out.make(
        major=offered.major, minor=min(offered.minor, 45), max_readahead=0, flags=_INIT & offered.flags,
        max_background=12, congestion_threshold=9, max_write=max_write, time_gran=1,
        max_pages=min(kernel.max_pages(), 65_535),
    ))  # fmt: skip


def _attributes(nodeid: int) -> tuple[int, ...]:
    mode, links = (0o40555, 2) if nodeid == ROOT else (0o100666, 1)
    return (nodeid, 0, 0, 0, 0, 0, 0, 0, 0, mode, links, os.geteuid(), os.getegid(), 0, PAGE, 0)
