"""Numbers of the ioctls on /dev/fuse (fuse.h, magic 229). What never lives here: the calls themselves."""

from __future__ import annotations

FUSE_DEV_IOC_MAGIC = 229

_WRITE = 1
_READ = 2


def _ioc(direction: int, number: int, size: int) -> int:
    """Linux's generic encoding: direction in bits 30..31, size 16..29, magic 8..15, number 0..7."""
    return direction << 30 | size << 16 | FUSE_DEV_IOC_MAGIC << 8 | number


FUSE_DEV_IOC_CLONE = _ioc(_READ, 0, 4)
"""7.23: binds a fresh /dev/fuse to the connection of another; argument a 32-bit descriptor number."""
FUSE_DEV_IOC_BACKING_OPEN = _ioc(_WRITE, 1, 16)
"""7.40: registers a backing file (``backing_map``) and returns its id; needs CAP_SYS_ADMIN."""
FUSE_DEV_IOC_BACKING_CLOSE = _ioc(_WRITE, 2, 4)
"""7.40: drops a backing id (32 bits)."""
FUSE_DEV_IOC_SYNC_INIT = _ioc(0, 3, 0)
"""7.45: before mount(2), makes it wait for INIT and return its verdict."""

NAMES: dict[int, str] = {
    FUSE_DEV_IOC_CLONE: "FUSE_DEV_IOC_CLONE",
    FUSE_DEV_IOC_BACKING_OPEN: "FUSE_DEV_IOC_BACKING_OPEN",
    FUSE_DEV_IOC_BACKING_CLOSE: "FUSE_DEV_IOC_BACKING_CLOSE",
    FUSE_DEV_IOC_SYNC_INIT: "FUSE_DEV_IOC_SYNC_INIT",
}

FUSE_IO_URING_CMD_INVALID = 0
FUSE_IO_URING_CMD_REGISTER = 1
FUSE_IO_URING_CMD_COMMIT_AND_FETCH = 2
"""7.42: ``uring_cmd_req`` travels in the command area of a 128-byte submission entry."""
FUSE_IO_URING_CMD_ADD_QUEUE = 3
FUSE_IO_URING_CMD_ADD_BUFPOOL = 4
"""7.46, as published before its release."""
