"""What a filesystem is to a Session: one method an opcode of FUSE 7.45, and the request each of them gets.

A method that a filesystem does not have answers ENOSYS, which for many opcodes tells Linux not to ask again
(`wire.opcodes` says which). Any method but init, forget, destroy and cuse_init may be a coroutine function. Never here:
reading, sending, and what is negotiated.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias, TypeVar, Union

from libperfuse.errors import FuseError
from wire import codec
from wire.tails import Dirent, Iovec, Mapping, SecurityContext

if TYPE_CHECKING:
    from libperfuse.negotiation import Init
    from libperfuse.session import Session

Buffer = bytes | bytearray | memoryview
T = TypeVar("T")
#: what a handler gives: a value, or a coroutine that gives it
Reply: TypeAlias = Union[T, Awaitable[T]]  # noqa: UP007


class Request(codec.InHeader):
    """`fuse_in_header`: `opcode`, `unique`, `nodeid` and the caller's `uid`, `gid` and `pid` (0 where it has none in
    the pid namespace of whoever mounted). Once ALLOW_IDMAP (7.41) is agreed on, only requests that create something
    carry a caller's ids, on every mount of the filesystem; in the others uid and gid are `INVALID_UIDGID`.
    """

    #: CREATE_SUPP_GROUP (7.38): the caller's supplementary groups that matter to a new object
    groups: tuple[int, ...] = ()
    #: SECURITY_CTX (7.36): security contexts for a new object, name and value
    security: tuple[SecurityContext, ...] = ()
    #: whether the caller was interrupted by a signal and waits for EINTR
    interrupted: bool = False
    #: called, in another thread, when it is; set it, then look at `interrupted` once
    on_interrupt: Callable[[], object] | None = None

    def interrupt(self) -> None:
        """The caller was interrupted."""
        self.interrupted = True
        wake = self.on_interrupt  # once: the method may take it off at any time
        if wake is not None:
            wake()

    def sleep(self, seconds: float) -> None:
        """Wait, for a handler in a thread. Raises InterruptedError as soon as the caller is interrupted."""
        woken, before = threading.Event(), self.on_interrupt
        self.on_interrupt = woken.set
        try:
            if self.interrupted or woken.wait(seconds):
                raise InterruptedError
        finally:
            self.on_interrupt = before


class Entry(NamedTuple):
    """One entry of a READDIRPLUS reply: a `Dirent`'s fields, and the `EntryOut` of its object.

    An entry whose `nodeid` is not 0 counts as one lookup of it; for "." and ".." leave `nodeid` 0.
    """

    entry: codec.EntryOut
    ino: int
    off: int
    type: int
    name: bytes


class IoctlRetry(NamedTuple):
    """Answer to IOCTL with UNRESTRICTED: call again with these pieces of the caller's memory, at most 256 in all."""

    in_iovs: tuple[Iovec, ...] = ()
    out_iovs: tuple[Iovec, ...] = ()


class Defer(Exception):
    """Raised by a method whose answer takes its time: `work()` is called in a thread of its own, and gives the answer.

    The thread that read the request goes on with others. An interrupt reaches `request` as before.
    """

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__(work)
        self.work = work


def _none() -> NoReturn:
    raise FuseError(errno.ENOSYS)


class Operations:
    """A filesystem. Override what it has; every method is named after its opcode and gets a `Request` first.

    A method answers by its return value, or by raising OSError (`FuseError(errno.ENODATA)`): `libperfuse.errors` says
    what other exceptions mean. Structs are `wire.codec`'s; names are bytes, without their NUL. In a Session with
    several threads methods run at the same time.
    """

    #: the Session that serves it, once there is one
    session: Session

    # -- the connection --------------------------------------------------------------------------------------------

    def init(self, init: Init) -> None:
        """INIT: `init.offered` is there, `init` decides what will be answered. Raising ends the mount."""

    def destroy(self) -> None:
        """The end, once, whether DESTROY came or not: no request follows."""

    # -- names and nodes -------------------------------------------------------------------------------------------

    def lookup(self, request: Request, name: bytes) -> Reply[codec.EntryOut]:
        """`name` in directory `request.nodeid`. Each entry answered counts as one lookup of its nodeid.

        `nodeid` 0 says that there is none, for `entry_valid` seconds. With EXPORT_SUPPORT also "." and "..".
        """
        _none()

    def forget(self, nodeid: int, nlookup: int) -> None:
        """The kernel drops `nlookup` lookups of a nodeid; at none it will not use it again. Nobody waits for it."""

    def getattr(self, request: Request, arg: codec.GetattrIn) -> Reply[codec.AttrOut | bytes]:
        """stat(2). `arg.fh` counts where `arg.getattr_flags` has GetattrFlag.FH (7.9).

        An answer that stays the same is best made once: the same object given again is not packed again. It may also be
        kept packed, `codec.attr_out.build(...)`.
        """
        _none()

    def setattr(self, request: Request, arg: codec.SetattrIn) -> Reply[codec.AttrOut | bytes]:
        """chmod, chown, truncate, utimes: what `arg.valid` (Fattr) names, and no more."""
        _none()

    def statx(self, request: Request, arg: codec.StatxIn) -> Reply[codec.StatxOut]:
        """statx(2), sent where the creation time is asked for (7.39). After ENOSYS Linux asks by GETATTR."""
        _none()

    def readlink(self, request: Request) -> Reply[Buffer]:
        """The target of a symbolic link, at most 4095 bytes (Linux cuts it there)."""
        _none()

    def symlink(self, request: Request, name: bytes, target: bytes) -> Reply[codec.EntryOut]:
        """Make the symbolic link `name` in `request.nodeid`."""
        _none()

    def mknod(self, request: Request, arg: codec.MknodIn, name: bytes) -> Reply[codec.EntryOut]:
        """Make a file of any kind but a directory; `arg.mode` has the type; `arg.umask` counts only with DONT_MASK."""
        _none()

    def mkdir(self, request: Request, arg: codec.MkdirIn, name: bytes) -> Reply[codec.EntryOut]:
        """Make a directory; `arg.mode` has no type."""
        _none()

    def unlink(self, request: Request, name: bytes) -> Reply[None]:
        """Remove a name. The node lives on while it is looked up or open."""
        _none()

    def rmdir(self, request: Request, name: bytes) -> Reply[None]:
        """Remove an empty directory."""
        _none()

    def rename(self, request: Request, arg: codec.RenameIn, name: bytes, newname: bytes) -> Reply[None]:
        """rename(2) from `request.nodeid` to `arg.newdir`. By itself it is `rename2` without flags."""
        return self.rename2(request, codec.Rename2In(arg.newdir, 0, 0), name, newname)

    def rename2(self, request: Request, arg: codec.Rename2In, name: bytes, newname: bytes) -> Reply[None]:
        """renameat2(2) with RENAME_NOREPLACE, RENAME_EXCHANGE or RENAME_WHITEOUT in `arg.flags` (7.23)."""
        _none()

    def link(self, request: Request, arg: codec.LinkIn, name: bytes) -> Reply[codec.EntryOut]:
        """Give `arg.oldnodeid` another name in `request.nodeid`; the entry answered counts as a lookup."""
        _none()

    def access(self, request: Request, arg: codec.AccessIn) -> Reply[None]:
        """access(2) and chdir(2), where `default_permissions` is not set; ENOSYS means that everything is allowed."""
        _none()

    def statfs(self, request: Request) -> Reply[codec.StatfsOut]:
        """statfs(2) of the filesystem that `request.nodeid` is in."""
        _none()

    # -- files -----------------------------------------------------------------------------------------------------

    def open(self, request: Request, arg: codec.OpenIn) -> Reply[codec.OpenOut]:
        """open(2); `fh` comes back in every request on the file. Without this method Linux opens without asking."""
        _none()

    def create(self, request: Request, arg: codec.CreateIn, name: bytes) -> Reply[tuple[codec.EntryOut, codec.OpenOut]]:
        """Make and open a regular file in one step. After ENOSYS Linux uses MKNOD and OPEN."""
        _none()

    def tmpfile(
        self, request: Request, arg: codec.CreateIn, name: bytes
    ) -> Reply[tuple[codec.EntryOut, codec.OpenOut]]:
        """O_TMPFILE: make and open a file without a name in `request.nodeid` (7.37); `name` is of no use."""
        _none()

    def read(self, request: Request, arg: codec.ReadIn) -> Reply[Buffer]:
        """At most `arg.size` bytes at `arg.offset`; fewer only at the end of the file, except with FOPEN_DIRECT_IO."""
        _none()

    def write(self, request: Request, arg: codec.WriteIn, data: memoryview) -> Reply[int]:
        """How many bytes of `data` were written at `arg.offset`. `data` is gone when the method returns."""
        _none()

    def flush(self, request: Request, arg: codec.FlushIn) -> Reply[None]:
        """close(2) of one descriptor, whose caller sees the errno; `arg.lock_owner` loses its POSIX locks."""
        _none()

    def release(self, request: Request, arg: codec.ReleaseIn) -> Reply[None]:
        """The last close. The kernel does not wait for it and nobody sees its errno; the header has no caller."""

    def fsync(self, request: Request, arg: codec.FsyncIn) -> Reply[None]:
        """fsync(2), or fdatasync(2) where `arg.fsync_flags` has FsyncFlag.FDATASYNC."""
        _none()

    def fallocate(self, request: Request, arg: codec.FallocateIn) -> Reply[None]:
        """fallocate(2): `arg.offset` and `arg.length` in bytes, `arg.mode` FALLOC_FL_* (7.19)."""
        _none()

    def lseek(self, request: Request, arg: codec.LseekIn) -> Reply[int]:
        """lseek(2) with SEEK_DATA or SEEK_HOLE: the offset found (7.24)."""
        _none()

    def copy_file_range(self, request: Request, arg: codec.CopyFileRangeIn) -> Reply[int]:
        """copy_file_range(2): bytes copied (7.28)."""
        _none()

    def copy_file_range_64(self, request: Request, arg: codec.CopyFileRangeIn) -> Reply[int]:
        """The same with a count that may pass 4 GiB (7.45). By itself it is `copy_file_range`."""
        return self.copy_file_range(request, arg)

    def bmap(self, request: Request, arg: codec.BmapIn) -> Reply[int]:
        """The block on the device that block `arg.block` of the file is in; only fuseblk mounts are asked."""
        _none()

    def ioctl(self, request: Request, arg: codec.IoctlIn, data: bytes) -> Reply[bytes | tuple[int, bytes] | IoctlRetry]:
        """ioctl(2): at most `arg.out_size` bytes for the caller, alone (result 0) or behind the result."""
        _none()

    def poll(self, request: Request, arg: codec.PollIn) -> Reply[int]:
        """poll(2): the events (select.POLLIN, ...) that are there now. Where `arg.flags` has PollFlag.SCHEDULE_NOTIFY,
        keep `arg.kh` and call `session.notify.poll(kh)` when that changes."""
        _none()

    # -- directories -----------------------------------------------------------------------------------------------

    def opendir(self, request: Request, arg: codec.OpenIn) -> Reply[codec.OpenOut]:
        """opendir(3). Without this method Linux opens without asking."""
        _none()

    def readdir(self, request: Request, arg: codec.ReadIn) -> Reply[Iterable[Dirent]]:
        """The entries behind cookie `arg.offset` (0 is the start), in order, as many as you like: the buffer of
        `arg.size` bytes is filled and the rest not taken. Each entry's `off` is the cookie of what follows, never 0.

        An iterator is run through after the method has returned, outside any lock that it held.
        """
        _none()

    def readdirplus(self, request: Request, arg: codec.ReadIn) -> Reply[Iterable[Entry]]:
        """The same with a lookup in each (7.21); an entry that was taken and has no room is forgotten again."""
        _none()

    def releasedir(self, request: Request, arg: codec.ReleaseIn) -> Reply[None]:
        """The last close of a directory."""

    def fsyncdir(self, request: Request, arg: codec.FsyncIn) -> Reply[None]:
        """fsync(2) of a directory."""
        _none()

    def syncfs(self, request: Request, arg: codec.SyncfsIn) -> Reply[None]:
        """syncfs(2) (7.34). Linux sends it on virtiofs only, unless told otherwise."""
        _none()

    # -- extended attributes and locks -----------------------------------------------------------------------------

    def setxattr(self, request: Request, arg: codec.SetxattrIn, name: bytes, value: bytes) -> Reply[None]:
        """setxattr(2): `arg.flags` has XATTR_CREATE or XATTR_REPLACE, `arg.setxattr_flags` SetxattrFlag (7.33)."""
        _none()

    def getxattr(self, request: Request, arg: codec.GetxattrIn, name: bytes) -> Reply[Buffer]:
        """The whole value, or ENODATA. Its length where the caller asks for that, and ERANGE, are made of it."""
        _none()

    def listxattr(self, request: Request, arg: codec.GetxattrIn) -> Reply[Iterable[bytes]]:
        """The names, without NULs."""
        _none()

    def removexattr(self, request: Request, name: bytes) -> Reply[None]:
        """removexattr(2), or ENODATA."""
        _none()

    def getlk(self, request: Request, arg: codec.LkIn) -> Reply[codec.FileLock]:
        """F_GETLK: a lock in the way of `arg.lk`, or one of type F_UNLCK. `start` and `end` in bytes, both included."""
        _none()

    def setlk(self, request: Request, arg: codec.LkIn) -> Reply[None]:
        """F_SETLK, or flock(2) with LOCK_NB where `arg.lk_flags` has LkFlag.FLOCK: EAGAIN where one is in the way."""
        _none()

    def setlkw(self, request: Request, arg: codec.LkIn) -> Reply[None]:
        """F_SETLKW, or flock(2): waits. EINTR when the request is interrupted."""
        _none()

    # -- rare ------------------------------------------------------------------------------------------------------

    def setupmapping(self, request: Request, arg: codec.SetupmappingIn) -> Reply[None]:
        """DAX on virtiofs (7.31): map a piece of the file at `arg.moffset`."""
        _none()

    def removemapping(self, request: Request, arg: codec.RemovemappingIn, mappings: tuple[Mapping, ...]) -> Reply[None]:
        """DAX on virtiofs (7.31): unmap."""
        _none()

    def cuse_init(self, request: Request, arg: codec.CuseInitIn) -> tuple[codec.CuseInitOut, bytes]:
        """The first request on /dev/cuse: the device's numbers, and uevent variables, each `NAME=value` and a NUL."""
        _none()

    def unknown(self, request: Request, body: bytes) -> Reply[Buffer]:
        """An opcode newer than 7.45: its whole body, and the body to answer with."""
        _none()


def has(operations: Operations, name: str) -> Any:
    """The method of an opcode where the filesystem has one of its own, or None."""
    method = getattr(operations, name, None)
    return method if getattr(method, "__func__", method) is not getattr(Operations, name) else None
