"""Every request and notification of FUSE 7.1 to 7.45, one table row each, from which everything else derives.

What never lives here: struct layouts (``structs``), sizes by minor (``compat``), and anything that needs construct.
"""

from __future__ import annotations

from enum import Enum, IntEnum, auto
from typing import NamedTuple

CUSE_INIT_BSWAP_RESERVED = 1048576
"""CUSE_INIT as a machine of the other byte order reads it: never an opcode, only a sign of foreign order."""
FUSE_INIT_BSWAP_RESERVED = 436207616
"""FUSE_INIT as a machine of the other byte order reads it."""

NOTIFY_UNIQUE = 0
"""``fuse_out_header.unique`` of every notification."""


class Opcode(IntEnum):
    """``enum fuse_opcode`` of fuse.h, without the FUSE_ prefix."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53
    CUSE_INIT = 4096


class Notify(IntEnum):
    """``enum fuse_notify_code`` of fuse.h, without the FUSE_NOTIFY_ prefix; travels in ``fuse_out_header.error``."""

    POLL = 1
    INVAL_INODE = 2
    INVAL_ENTRY = 3
    STORE = 4
    RETRIEVE = 5
    DELETE = 6
    RESEND = 7
    INC_EPOCH = 8
    PRUNE = 9


class Tail(Enum):
    """What follows the fixed head and the names of a message."""

    NONE = auto()
    """Nothing."""
    DATA = auto()
    """As many bytes as the head's ``size`` says (WRITE, SETXATTR, NOTIFY_REPLY, notify STORE)."""
    FORGETS = auto()
    """``count`` times ``fuse_forget_one``."""
    MAPPINGS = auto()
    """``count`` times ``fuse_removemapping_one``."""
    IOCTL = auto()
    """In a request ``in_size`` bytes; in a reply the out bytes or, with IOCTL_RETRY, ``fuse_ioctl_iovec``s."""
    BYTES = auto()
    """All that is left, bounded by the request's ``size`` (READ) or by a page (READLINK)."""
    DIRENTS = auto()
    """``fuse_dirent`` records, each 8-byte aligned."""
    DIRENTPLUS = auto()
    """``fuse_direntplus`` records, each 8-byte aligned."""
    XATTR = auto()
    """``fuse_getxattr_out`` where the request's ``size`` was 0, else the value or the list of names."""
    OPEN_OUT = auto()
    """``fuse_open_out`` behind the ``fuse_entry_out`` (CREATE, TMPFILE)."""
    INFO = auto()
    """CUSE's device information strings, at most 4096 bytes."""
    NAME = auto()
    """A name of ``namelen`` bytes and its NUL (notifications)."""
    NODEIDS = auto()
    """``count`` times a 64-bit nodeid (notify PRUNE)."""


class ReplyRule(Enum):
    """Whether a request is answered."""

    ALWAYS = auto()
    NEVER = auto()
    OPTIONAL = auto()


class Row(NamedTuple):
    """One request: its number and name, the minor that brought it, what it carries, and how it is answered.

    ``head`` and ``reply`` are struct names of fuse.h without ``fuse_`` (keys of ``structs.STRUCTS``), ``""`` for none.
    ``names`` counts the NUL-terminated names behind the head. ``may_extend``: Linux appends extensions to it.
    ``caller_ids``: the header's uid, gid and pid are the caller's (since 7.41 on an idmapped mount only requests that
    create something carry valid ones); where False they are 0. ``enosys``: what Linux does when answered -ENOSYS.
    """

    number: int
    name: str
    since: int
    head: str = ""
    names: int = 0
    tail: Tail = Tail.NONE
    may_extend: bool = False
    reply: str = ""
    reply_tail: Tail = Tail.NONE
    reply_rule: ReplyRule = ReplyRule.ALWAYS
    caller_ids: bool = True
    enosys: str = "error to the caller"


class NotifyRow(NamedTuple):
    """One notification: code, name, the minor that brought it, its struct (``""`` for none) and its tail."""

    number: int
    name: str
    since: int
    struct: str = ""
    tail: Tail = Tail.NONE


def _row(
    opcode: Opcode,
    since: int,
    head: str = "",
    reply: str = "",
    *,
    names: int = 0,
    tail: Tail = Tail.NONE,
    ext: bool = False,
    reply_tail: Tail = Tail.NONE,
    rule: ReplyRule = ReplyRule.ALWAYS,
    ids: bool = True,
    enosys: str = "error to the caller",
) -> Row:
    return Row(opcode.value, opcode.name, since, head, names, tail, ext, reply, reply_tail, rule, ids, enosys)


_O = Opcode
_NEVER = ReplyRule.NEVER
_STICKY_OK = "counts as success, not sent again"
_STICKY_XATTR = "EOPNOTSUPP to the caller, not sent again"
_OPENED = "counts as success with fh 0, not sent again, no release follows"

OPCODES: tuple[Row, ...] = (
    _row(_O.LOOKUP, 1, "", "entry_out", names=1),
    _row(_O.FORGET, 1, "forget_in", rule=_NEVER, ids=False, enosys="no reply"),
    _row(_O.GETATTR, 1, "getattr_in", "attr_out"),
    _row(_O.SETATTR, 1, "setattr_in", "attr_out"),
    _row(_O.READLINK, 1, reply_tail=Tail.BYTES),
    _row(_O.SYMLINK, 1, "", "entry_out", names=2, ext=True),
    _row(_O.MKNOD, 1, "mknod_in", "entry_out", names=1, ext=True),
    _row(_O.MKDIR, 1, "mkdir_in", "entry_out", names=1, ext=True),
    _row(_O.UNLINK, 1, names=1),
    _row(_O.RMDIR, 1, names=1),
    _row(_O.RENAME, 1, "rename_in", names=2),
    _row(_O.LINK, 1, "link_in", "entry_out", names=1),
    _row(_O.OPEN, 1, "open_in", "open_out", enosys=_OPENED),
    _row(_O.READ, 1, "read_in", reply_tail=Tail.BYTES),
    _row(_O.WRITE, 1, "write_in", "write_out", tail=Tail.DATA),
    _row(_O.STATFS, 1, "", "statfs_out"),
    _row(_O.RELEASE, 1, "release_in", ids=False, enosys="ignored, sent again"),
    _row(_O.FSYNC, 1, "fsync_in", enosys=_STICKY_OK),
    _row(_O.SETXATTR, 1, "setxattr_in", names=1, tail=Tail.DATA, enosys=_STICKY_XATTR),
    _row(_O.GETXATTR, 1, "getxattr_in", names=1, reply_tail=Tail.XATTR, enosys=_STICKY_XATTR),
    _row(_O.LISTXATTR, 1, "getxattr_in", reply_tail=Tail.XATTR, enosys=_STICKY_XATTR),
    _row(_O.REMOVEXATTR, 1, names=1, enosys=_STICKY_XATTR),
    _row(_O.FLUSH, 1, "flush_in", enosys=_STICKY_OK),
    _row(_O.INIT, 1, "init_in", "init_out", ids=False, enosys="the connection fails"),
    _row(_O.OPENDIR, 1, "open_in", "open_out", enosys=_OPENED),
    _row(_O.READDIR, 1, "read_in", reply_tail=Tail.DIRENTS),
    _row(_O.RELEASEDIR, 1, "release_in", ids=False, enosys="ignored, sent again"),
    _row(_O.FSYNCDIR, 2, "fsync_in", enosys=_STICKY_OK),
    _row(_O.GETLK, 7, "lk_in", "lk_out"),
    _row(_O.SETLK, 7, "lk_in"),
    _row(_O.SETLKW, 7, "lk_in"),
    _row(_O.ACCESS, 3, "access_in", enosys=_STICKY_OK),
    _row(
        _O.CREATE, 3, "create_in", "entry_out",
        names=1, ext=True, reply_tail=Tail.OPEN_OUT, enosys="MKNOD and OPEN instead, not sent again",
    ),
    _row(_O.INTERRUPT, 7, "interrupt_in", rule=ReplyRule.OPTIONAL, ids=False, enosys="not sent again"),
    _row(_O.BMAP, 8, "bmap_in", "bmap_out", enosys="block 0 to the caller, not sent again"),
    _row(_O.DESTROY, 8, ids=False, enosys="ignored"),
    _row(_O.IOCTL, 11, "ioctl_in", "ioctl_out", tail=Tail.IOCTL, reply_tail=Tail.IOCTL, enosys="ENOTTY to the caller"),
    _row(_O.POLL, 11, "poll_in", "poll_out", enosys="always ready, not sent again"),
    _row(
        _O.NOTIFY_REPLY, 15, "notify_retrieve_in",
        tail=Tail.DATA, rule=_NEVER, ids=False, enosys="a reply is refused with ENOENT",
    ),
    _row(_O.BATCH_FORGET, 16, "batch_forget_in", tail=Tail.FORGETS, rule=_NEVER, ids=False, enosys="no reply"),
    _row(_O.FALLOCATE, 19, "fallocate_in", enosys="EOPNOTSUPP to the caller, not sent again"),
    _row(_O.READDIRPLUS, 21, "read_in", reply_tail=Tail.DIRENTPLUS),
    _row(_O.RENAME2, 23, "rename2_in", names=2, enosys="EINVAL to the caller, not sent again"),
    _row(_O.LSEEK, 24, "lseek_in", "lseek_out", enosys="the kernel seeks by itself, not sent again"),
    _row(_O.COPY_FILE_RANGE, 28, "copy_file_range_in", "write_out", enosys="the kernel copies, not sent again"),
    _row(_O.SETUPMAPPING, 31, "setupmapping_in"),
    _row(_O.REMOVEMAPPING, 31, "removemapping_in", tail=Tail.MAPPINGS),
    _row(_O.SYNCFS, 34, "syncfs_in", enosys=_STICKY_OK),
    _row(
        _O.TMPFILE, 37, "create_in", "entry_out",
        names=1, ext=True, reply_tail=Tail.OPEN_OUT, enosys="EOPNOTSUPP to the caller, not sent again",
    ),
    _row(_O.STATX, 39, "statx_in", "statx_out", enosys="GETATTR instead, not sent again"),
    _row(
        _O.COPY_FILE_RANGE_64, 45, "copy_file_range_in", "copy_file_range_out",
        enosys="COPY_FILE_RANGE instead, not sent again",
    ),
    _row(
        _O.CUSE_INIT, 11, "cuse_init_in", "cuse_init_out", reply_tail=Tail.INFO, enosys="the connection fails"
    ),
)  # fmt: skip

NOTIFICATIONS: tuple[NotifyRow, ...] = (
    NotifyRow(1, "POLL", 11, "notify_poll_wakeup_out"),
    NotifyRow(2, "INVAL_INODE", 12, "notify_inval_inode_out"),
    NotifyRow(3, "INVAL_ENTRY", 12, "notify_inval_entry_out", Tail.NAME),
    NotifyRow(4, "STORE", 15, "notify_store_out", Tail.DATA),
    NotifyRow(5, "RETRIEVE", 15, "notify_retrieve_out"),
    NotifyRow(6, "DELETE", 18, "notify_delete_out", Tail.NAME),
    NotifyRow(7, "RESEND", 40),
    NotifyRow(8, "INC_EPOCH", 44),
    NotifyRow(9, "PRUNE", 45, "notify_prune_out", Tail.NODEIDS),
)

BY_NUMBER: dict[int, Row] = {row.number: row for row in OPCODES}
NOTIFY_BY_NUMBER: dict[int, NotifyRow] = {row.number: row for row in NOTIFICATIONS}


def name_of(number: int) -> str:
    """The name of an opcode without FUSE_ (``"LOOKUP"``), or ``"opcode 77"`` for one nobody knows. Raises nothing."""
    row = BY_NUMBER.get(number)
    return row.name if row is not None else f"opcode {number}"


def notify_name_of(number: int) -> str:
    """The name of a notification (``"INVAL_ENTRY"``), or ``"notification 77"``. Raises nothing."""
    row = NOTIFY_BY_NUMBER.get(number)
    return row.name if row is not None else f"notification {number}"
