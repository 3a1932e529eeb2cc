"""Every flag set of fuse.h 7.45 as an IntFlag that keeps bits it does not know, and the limits that are single numbers.

INIT's flags and the policy on them live in ``init_policy`` and are re-exported here. What never lives here: structs,
and anything that acts. Names are fuse.h's without the common prefix; the comment after a member is the minor that
brought it, where not 7.1.
"""

from __future__ import annotations

from enum import KEEP, IntFlag

from wire.init_policy import INIT_POLICY, InitFlag, Policy, Verdict

__all__ = [
    "CUSE_INIT_INFO_MAX", "INIT_POLICY", "INVALID_UIDGID", "IOCTL_MAX_IOV", "MAX_NAME", "MIN_READ_BUFFER", "ROOT_ID",
    "UNIQUE_RESEND",
    "AccessMask", "AttrFlag", "CuseFlag", "EntryFlag", "Fattr", "FsyncFlag", "GetattrFlag", "InitFlag",
    "IoctlFlag", "LkFlag", "OpenFlag", "OpenInFlag", "Policy", "PollFlag", "ReadFlag", "ReleaseFlag",
    "SetupmappingFlag", "SetxattrFlag", "Verdict", "WriteFlag",
]  # fmt: skip

ROOT_ID = 1
"""The nodeid of the root, which no LOOKUP ever returns."""
UNIQUE_RESEND = 1 << 63
"""7.40: set in ``in_header.unique`` of a request that is sent again."""
INVALID_UIDGID = 0xFFFFFFFF
"""7.41: uid and gid in the header of a request on an idmapped mount that creates nothing."""
MIN_READ_BUFFER = 8192
"""Bytes; the kernel answers EINVAL to a read of /dev/fuse with less room."""
IOCTL_MAX_IOV = 256
MAX_NAME = 1024
"""Bytes of one name in a directory that every Linux takes (FUSE_NAME_MAX)."""
CUSE_INIT_INFO_MAX = 4096


class OpenFlag(IntFlag, boundary=KEEP):
    """FOPEN_*: ``open_out.open_flags``, what the server says about an opened file."""

    DIRECT_IO = 1 << 0
    KEEP_CACHE = 1 << 1  # 7.2
    NONSEEKABLE = 1 << 2  # 7.10
    CACHE_DIR = 1 << 3  # 7.28
    STREAM = 1 << 4  # 7.31
    NOFLUSH = 1 << 5  # 7.35
    PARALLEL_DIRECT_WRITES = 1 << 6  # 7.38
    PASSTHROUGH = 1 << 7  # 7.40


class Fattr(IntFlag, boundary=KEEP):
    """FATTR_*: ``setattr_in.valid``. In 7.1 alone bit 6 meant CTIME."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    FH = 1 << 6  # 7.3
    ATIME_NOW = 1 << 7  # 7.9
    MTIME_NOW = 1 << 8  # 7.9
    LOCKOWNER = 1 << 9  # 7.9
    CTIME = 1 << 10  # 7.23
    KILL_SUIDGID = 1 << 11  # 7.33


class GetattrFlag(IntFlag, boundary=KEEP):
    """FUSE_GETATTR_*: ``getattr_in.getattr_flags`` and ``statx_in.getattr_flags``."""

    FH = 1 << 0  # 7.9


class LkFlag(IntFlag, boundary=KEEP):
    """FUSE_LK_*: ``lk_in.lk_flags``."""

    FLOCK = 1 << 0  # 7.9


class WriteFlag(IntFlag, boundary=KEEP):
    """FUSE_WRITE_*: ``write_in.write_flags``."""

    CACHE = 1 << 0  # 7.9
    LOCKOWNER = 1 << 1  # 7.9
    KILL_SUIDGID = 1 << 2  # 7.31, called KILL_PRIV before 7.33


class ReadFlag(IntFlag, boundary=KEEP):
    """FUSE_READ_*: ``read_in.read_flags``."""

    LOCKOWNER = 1 << 1  # 7.9


class ReleaseFlag(IntFlag, boundary=KEEP):
    """FUSE_RELEASE_*: ``release_in.release_flags``."""

    FLUSH = 1 << 0  # 7.8
    FLOCK_UNLOCK = 1 << 1  # 7.17


class OpenInFlag(IntFlag, boundary=KEEP):
    """FUSE_OPEN_*: ``open_in.open_flags`` and ``create_in.open_flags``, what the kernel asks of an open."""

    KILL_SUIDGID = 1 << 0  # 7.33


class SetxattrFlag(IntFlag, boundary=KEEP):
    """FUSE_SETXATTR_*: ``setxattr_in.setxattr_flags``."""

    ACL_KILL_SGID = 1 << 0  # 7.33


class FsyncFlag(IntFlag, boundary=KEEP):
    """FUSE_FSYNC_*: ``fsync_in.fsync_flags``."""

    FDATASYNC = 1 << 0


class PollFlag(IntFlag, boundary=KEEP):
    """FUSE_POLL_*: ``poll_in.flags``."""

    SCHEDULE_NOTIFY = 1 << 0  # 7.11


class IoctlFlag(IntFlag, boundary=KEEP):
    """FUSE_IOCTL_*: ``ioctl_in.flags`` and ``ioctl_out.flags``."""

    COMPAT = 1 << 0  # 7.11
    UNRESTRICTED = 1 << 1  # 7.11
    RETRY = 1 << 2  # 7.11
    BIT32 = 1 << 3  # 7.16, fuse.h's FUSE_IOCTL_32BIT
    DIR = 1 << 4  # 7.18
    COMPAT_X32 = 1 << 5  # 7.30


class CuseFlag(IntFlag, boundary=KEEP):
    """CUSE_*: ``cuse_init_in.flags`` and ``cuse_init_out.flags``."""

    UNRESTRICTED_IOCTL = 1 << 0  # 7.11


class AttrFlag(IntFlag, boundary=KEEP):
    """FUSE_ATTR_*: ``attr.flags``."""

    SUBMOUNT = 1 << 0  # 7.32
    DAX = 1 << 1  # 7.36


class EntryFlag(IntFlag, boundary=KEEP):
    """FUSE_EXPIRE_ONLY: ``notify_inval_entry_out.flags``."""

    EXPIRE_ONLY = 1 << 0  # 7.38


class SetupmappingFlag(IntFlag, boundary=KEEP):
    """FUSE_SETUPMAPPING_FLAG_*: ``setupmapping_in.flags``."""

    WRITE = 1 << 0  # 7.31
    READ = 1 << 1  # 7.31


class AccessMask(IntFlag, boundary=KEEP):
    """``access_in.mask``, as access(2) has it."""

    X_OK = 1
    W_OK = 2
    R_OK = 4
