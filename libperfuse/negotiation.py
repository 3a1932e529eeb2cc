"""INIT as a table: for each flag what the server wishes by itself, what the author wishes, what was offered and agreed.

`Init.answer` is a pure function of the offer. Never here: sending it, and what a relay on the way does to it.
"""

import errno
from collections.abc import Callable
from typing import NamedTuple

from libperfuse.errors import FuseError
from libperfuse.operations import Operations, has
from wire import codec
from wire.compat import OLDEST_MINOR
from wire.flags import INIT_POLICY, InitFlag
from wire.message import DEFAULT_MINOR

PAGE = 4096
#: max_write without MAX_PAGES, and without BIG_WRITES (protocol 7.8), in bytes
_PLAIN_WRITE, _SMALL_WRITE = 32 * PAGE, PAGE
#: minors before this have fields this server does not speak: no lock owner, no nanoseconds
OLDEST = 9


class Default(NamedTuple):
    """What the server wishes for a flag by itself, and why. `wish` is told which methods there are."""

    flag: InitFlag
    wish: Callable[[Callable[[str], bool]], bool]
    reason: str


def _yes(has: Callable[[str], bool]) -> bool:
    return True


def _no(has: Callable[[str], bool]) -> bool:
    return False


_F = InitFlag
_AUTHOR = "changes what the methods have to do: the author's to wish"
_SPLICE = "this server does not splice"
DEFAULTS: tuple[Default, ...] = (
    Default(_F.ASYNC_READ, _yes, "reads may come in any order"),
    Default(_F.POSIX_LOCKS, lambda has: has("setlk"), "on with a setlk method; else the kernel keeps the locks"),
    Default(_F.FILE_OPS, _yes, "getattr and setattr with a file handle"),
    Default(_F.ATOMIC_O_TRUNC, _no, _AUTHOR),
    Default(_F.EXPORT_SUPPORT, _no, "lookup would be asked for . and .. of any nodeid: the author's to wish"),
    Default(_F.BIG_WRITES, _yes, "more than a page at once"),
    Default(_F.DONT_MASK, _no, _AUTHOR),
    Default(_F.SPLICE_WRITE, _no, _SPLICE),
    Default(_F.SPLICE_MOVE, _no, _SPLICE),
    Default(_F.SPLICE_READ, _no, _SPLICE),
    Default(_F.FLOCK_LOCKS, _no, "setlk would be asked for flock(2) too: the author's to wish"),
    Default(_F.HAS_IOCTL_DIR, lambda has: has("ioctl"), "on with an ioctl method"),
    Default(_F.AUTO_INVAL_DATA, _yes, "cached data goes when a file's mtime or size has changed"),
    Default(_F.DO_READDIRPLUS, lambda has: has("readdirplus"), "on with a readdirplus method"),
    Default(_F.READDIRPLUS_AUTO, lambda has: has("readdirplus") and has("readdir"), "on with readdir beside it"),
    Default(_F.ASYNC_DIO, _yes, "direct I/O may come in any order"),
    Default(_F.WRITEBACK_CACHE, _no, "the kernel would hold back writes and own size and mtime: the author's to wish"),
    Default(_F.NO_OPEN_SUPPORT, lambda has: not has("open"), "on without an open method"),
    Default(_F.PARALLEL_DIROPS, _yes, "lookup and readdir of one directory at the same time"),
    Default(_F.HANDLE_KILLPRIV, _no, _AUTHOR),
    Default(_F.POSIX_ACL, _no, "implies default_permissions: the author's to wish"),
    Default(_F.ABORT_ERROR, _yes, "an aborted connection is told from an unmounted one"),
    Default(_F.MAX_PAGES, _yes, "requests as large as max_write"),
    Default(_F.CACHE_SYMLINKS, _no, "a link's target would be asked for once: the author's to wish"),
    Default(_F.NO_OPENDIR_SUPPORT, lambda has: not has("opendir"), "on without an opendir method"),
    Default(_F.EXPLICIT_INVAL_DATA, _no, "only notifications would drop cached data: the author's to wish"),
    Default(_F.MAP_ALIGNMENT, _no, "DAX, on virtiofs only"),
    Default(_F.SUBMOUNTS, _no, _AUTHOR),
    Default(_F.HANDLE_KILLPRIV_V2, _no, _AUTHOR),
    Default(_F.SETXATTR_EXT, _yes, "setxattr_flags arrive"),
    Default(_F.INIT_EXT, _yes, "the flags from bit 32 on"),
    Default(_F.INIT_RESERVED, _no, "reserved"),
    Default(_F.SECURITY_CTX, _no, "new objects come with security contexts to store: the author's to wish"),
    Default(_F.HAS_INODE_DAX, _no, "DAX, on virtiofs only"),
    Default(_F.CREATE_SUPP_GROUP, _no, "new objects come with supplementary groups: the author's to wish"),
    Default(_F.HAS_EXPIRE_ONLY, _yes, "entries may be expired by notification"),
    Default(_F.DIRECT_IO_ALLOW_MMAP, _no, "shared maps of direct files: the author's to wish"),
    Default(_F.PASSTHROUGH, _no, "needs max_stack_depth and backing files: the author's to wish"),
    Default(_F.NO_EXPORT_SUPPORT, _no, "no file handles at all: the author's to wish"),
    Default(_F.HAS_RESEND, _yes, "requests may be sent again on notification"),
    Default(_F.ALLOW_IDMAP, _no, "needs default_permissions: the author's to wish"),
    Default(_F.OVER_IO_URING, _no, "this server reads its device"),
    Default(_F.REQUEST_TIMEOUT, _no, "on where request_timeout is set"),
)


class Row(NamedTuple):
    """One flag of a negotiation; `offered` and `agreed` are None before INIT."""

    flag: InitFlag
    wished: bool
    offered: bool | None
    agreed: bool | None
    reason: str


class Init:
    """A connection's parameters: set them before it is served, or in `Operations.init`, where `offered` is known.

    `max_write`, `max_readahead` in bytes, `time_gran` in nanoseconds (a power of ten up to 1,000,000,000),
    `request_timeout` in seconds (0: none; 7.43), `max_stack_depth` 1 or 2 with PASSTHROUGH.
    """

    def __init__(self, operations: Operations) -> None:
        self.minor = DEFAULT_MINOR
        self.max_write = 1 << 20
        self.max_readahead = 1 << 20
        self.max_background = 64
        self.congestion_threshold = 48
        self.time_gran = 1
        self.max_stack_depth = 0
        self.request_timeout = 0
        #: what the kernel said; None before INIT
        self.kernel: codec.InitIn | None = None
        self.agreed: InitFlag | None = None
        self._wishes: dict[InitFlag, bool] = {}
        self._operations = operations

    def wish(self, *flags: InitFlag) -> None:
        """Agree on these where the kernel offers them."""
        self._wishes.update(dict.fromkeys(flags, True))

    def refuse(self, *flags: InitFlag) -> None:
        """Never agree on these."""
        self._wishes.update(dict.fromkeys(flags, False))

    @property
    def offered(self) -> InitFlag:
        """The kernel's flags; none before INIT."""
        return InitFlag.joined(self.kernel.flags, self.kernel.flags2) if self.kernel else InitFlag(0)

    def wished(self, flag: InitFlag) -> bool:
        """Whether the author, or without a word of his the server, wants a flag."""
        if flag in self._wishes:
            return self._wishes[flag]
        if flag is InitFlag.REQUEST_TIMEOUT:
            return bool(self.request_timeout)
        found = next((each for each in DEFAULTS if each.flag is flag), None)
        return found is not None and found.wish(lambda name: bool(has(self._operations, name)))

    def rows(self) -> list[Row]:
        """The whole table, in order of bits."""
        known = self.kernel is not None
        agreed = self.agreed if self.agreed is not None else InitFlag(0)
        return [
            Row(
                each.flag,
                self.wished(each.flag),
                bool(self.offered & each.flag) if known else None,
                bool(agreed & each.flag) if self.agreed is not None else None,
                "the author's wish" if each.flag in self._wishes else each.reason,
            )
            for each in DEFAULTS
        ]

    def answer(self, offer: codec.InitIn) -> codec.InitOut:
        """The reply to an offer; `agreed`, `minor` and `max_write` are what holds from then on.

        A kernel of a later major is asked to offer 7 again. FuseError EPROTO for an earlier one, or a minor below 9.
        """
        self.kernel = offer
        if offer.major > 7:
            return codec.init_out.make(major=7, minor=self.minor)
        if offer.major < 7 or offer.minor < max(OLDEST, OLDEST_MINOR):
            raise FuseError(
                errno.EPROTO, f"the kernel speaks {offer.major}.{offer.minor}: this server needs 7.{OLDEST}"
            )
        if self.minor < OLDEST:
            raise FuseError(errno.EPROTO, f"the author wishes for 7.{self.minor}: this server needs 7.{OLDEST}")
        self.minor = min(self.minor, offer.minor)
        agreed = InitFlag(0)
        for flag in InitFlag:
            # A flag newer than the minor agreed on would be without its field: init_out is cut to that minor's size.
            if self.offered & flag and INIT_POLICY[flag].since <= self.minor and self.wished(flag):
                agreed |= flag
        if not agreed & InitFlag.MAX_PAGES:
            self.max_write = min(self.max_write, _PLAIN_WRITE if agreed & InitFlag.BIG_WRITES else _SMALL_WRITE)
        self.agreed = agreed
        flags, flags2 = agreed.words()
        return codec.init_out.make(
            major=7,
            minor=self.minor,
            max_readahead=min(self.max_readahead, offer.max_readahead),
            flags=flags,
            flags2=flags2,
            max_background=self.max_background,
            congestion_threshold=self.congestion_threshold,
            max_write=self.max_write,
            time_gran=self.time_gran,
            max_pages=(self.max_write + PAGE - 1) // PAGE if agreed & InitFlag.MAX_PAGES else 0,
            max_stack_depth=self.max_stack_depth if agreed & InitFlag.PASSTHROUGH else 0,
            request_timeout=self.request_timeout if agreed & InitFlag.REQUEST_TIMEOUT else 0,
        )
