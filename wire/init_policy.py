"""The INIT flags, bit by bit, and what a relay does with each on every kind of endpoint.

What never lives here: the negotiation itself, which is a function of these rows.
"""

from __future__ import annotations

from enum import KEEP, Enum, IntFlag
from typing import NamedTuple


class InitFlag(IntFlag, boundary=KEEP):
    """FUSE_*: ``init_in`` and ``init_out``; ``flags`` is the low word, ``flags2`` (7.36, INIT_EXT) the high one."""

    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    FILE_OPS = 1 << 2
    ATOMIC_O_TRUNC = 1 << 3
    EXPORT_SUPPORT = 1 << 4
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    SPLICE_WRITE = 1 << 7
    SPLICE_MOVE = 1 << 8
    SPLICE_READ = 1 << 9
    FLOCK_LOCKS = 1 << 10
    HAS_IOCTL_DIR = 1 << 11
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    WRITEBACK_CACHE = 1 << 16
    NO_OPEN_SUPPORT = 1 << 17
    PARALLEL_DIROPS = 1 << 18
    HANDLE_KILLPRIV = 1 << 19
    POSIX_ACL = 1 << 20
    ABORT_ERROR = 1 << 21
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24
    EXPLICIT_INVAL_DATA = 1 << 25
    MAP_ALIGNMENT = 1 << 26
    SUBMOUNTS = 1 << 27
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30
    INIT_RESERVED = 1 << 31
    SECURITY_CTX = 1 << 32
    HAS_INODE_DAX = 1 << 33
    CREATE_SUPP_GROUP = 1 << 34
    HAS_EXPIRE_ONLY = 1 << 35
    DIRECT_IO_ALLOW_MMAP = 1 << 36
    PASSTHROUGH = 1 << 37
    NO_EXPORT_SUPPORT = 1 << 38
    HAS_RESEND = 1 << 39
    ALLOW_IDMAP = 1 << 40
    OVER_IO_URING = 1 << 41
    REQUEST_TIMEOUT = 1 << 42

    @classmethod
    def joined(cls, flags: int, flags2: int) -> InitFlag:
        """The 64-bit set of an INIT message's two words; ``flags2`` counts only where ``flags`` has INIT_EXT."""
        return cls(flags | flags2 << 32 if flags & cls.INIT_EXT.value else flags)

    def words(self) -> tuple[int, int]:
        """``(flags, flags2)`` as they stand in a message, 32 bits each."""
        return self.value & 0xFFFFFFFF, self.value >> 32 & 0xFFFFFFFF


class Verdict(Enum):
    """What a relay does with an INIT bit."""

    PASS = "pass"
    """Offered and accepted as the two sides wish."""
    REFUSED = "refused"
    """Never shown to the filesystem, never accepted from it."""
    DAEMON = "daemon"
    """Only with the daemon's help, because it needs a call on the real descriptor."""


class Policy(NamedTuple):
    """One INIT bit: number, name, the minor that brought it, the verdict for each endpoint, and why."""

    bit: int
    name: str
    since: int
    socket: Verdict
    device: Verdict
    direct: Verdict
    reason: str


_SINCE = (
    *(6, 7, 9, 9, 10, 9, 12, 14, 14, 14),
    *(17, 18, 20, 21, 21, 22, 23, 23, 25, 26),
    *(26, 27, 28, 28, 29, 30, 31, 32, 33, 33),
    *(36, 36, 36, 36, 38, 38, 39, 40, 40, 40),
    *(41, 42, 43),
)
"""The minor that brought bit 0, 1, 2, ... 42."""

_PLAIN = "Changes what frames say, not how they travel."
_P, _R, _D = Verdict.PASS, Verdict.REFUSED, Verdict.DAEMON
_SPLICE = "A splice into a socket breaks one frame into several packets; a file takes it whole."
_EXCEPT: dict[InitFlag, tuple[Verdict, Verdict, Verdict, str]] = {
    InitFlag.SPLICE_WRITE: (_R, _P, _P, _SPLICE),
    InitFlag.SPLICE_MOVE: (_R, _P, _P, _SPLICE),
    InitFlag.SPLICE_READ: (_R, _P, _P, _SPLICE),
    InitFlag.INIT_RESERVED: (_R, _R, _P, "Reserved: nobody may give it a meaning."),
    InitFlag.PASSTHROUGH: (
        *(_D, _D, _P),
        "Backing files are registered by an ioctl on the real descriptor: the daemon makes it when it is asked.",
    ),
    InitFlag.OVER_IO_URING: (
        *(_R, _R, _P),
        "Requests would go to rings that nobody registered on the real descriptor, and hang for ever.",
    ),
}


def _policy(flag: InitFlag) -> Policy:
    bit = flag.value.bit_length() - 1
    return Policy(bit, flag.name or "", _SINCE[bit], *_EXCEPT.get(flag, (_P, _P, _P, _PLAIN)))


INIT_POLICY: dict[InitFlag, Policy] = {flag: _policy(flag) for flag in InitFlag}

ALIASES: dict[str, InitFlag] = {"DIRECT_IO_RELAX": InitFlag.DIRECT_IO_ALLOW_MMAP}
"""Names that fuse.h once had for a bit."""


class Announced(NamedTuple):
    """A name of a protocol version that is not released: ``minor``, what kind of thing, fuse.h's name."""

    minor: int
    kind: str
    name: str


ANNOUNCED: tuple[Announced, ...] = (
    Announced(46, "init flag", "FUSE_HAS_IO_URING_BUFPOOL"),
    Announced(46, "uring command 3", "FUSE_IO_URING_CMD_ADD_QUEUE"),
    Announced(46, "uring command 4", "FUSE_IO_URING_CMD_ADD_BUFPOOL"),
    Announced(46, "uring flag", "FUSE_URING_ZERO_COPY"),
    Announced(46, "uring entry flag", "FUSE_URING_ENT_ZERO_COPY"),
    Announced(46, "open flag", "FOPEN_IO_URING_ZERO_COPY"),
    Announced(46, "uring_ent_in_out.reserved becomes", "offset"),
)
"""7.46: names only; their numbers are not settled, and an unknown bit or word passes unchanged."""
