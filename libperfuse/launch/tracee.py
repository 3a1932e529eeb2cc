"""What is known of a stopped thread: its memory, descriptors, identity, and where it stands in the tree of files.

All of it may change or go while it is looked at; who acts on it asks the listener afterwards whether the call still
waits. Never here: answers.
"""

import contextlib
import os
import re
from typing import NamedTuple

from libperfuse import libc

PAGE = 4096
#: most paths are shorter
_CHUNK = 128
_PIDFD_THREAD = os.O_EXCL
_STATX_INO, _AT_STATX_DONT_SYNC = 0x100, 0x4000
_memory = libc.Memory(2 * PAGE)
_SELF = re.compile(rb"/proc/(?:self|thread-self)(?=/|\Z)")


class Identity(NamedTuple):
    """Effective ids, groups, and effective capabilities in our own user namespace."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    capabilities: int

    @classmethod
    def ours(cls) -> "Identity":
        return identity(os.getpid(), status(os.getpid()))


def read(tid: int, address: int, size: int) -> bytes:
    """Exactly `size` bytes of a thread's memory. Raises OSError, EFAULT where they are not all there."""
    found = _memory.read(tid, address, size)
    if len(found) < size:
        raise OSError(14, os.strerror(14), "a stopped call's argument")
    return found


def text(tid: int, address: int, most: int = PAGE) -> bytes:
    """The bytes up to a NUL at `address`, b"" for a null pointer; at most `most`. Raises OSError EFAULT."""
    if not address:
        return b""
    out = b""
    while len(out) < most:
        # Up to the page's end: the next one may not be there.
        at = address + len(out)
        part = _memory.read(tid, at, min(PAGE - at % PAGE, _CHUNK if not out else PAGE))
        end = part.find(b"\0")
        if end >= 0:
            return out + part[:end]
        if not part:
            raise OSError(14, os.strerror(14), "a stopped call's string")
        out += part
    return out[:most]


def page(tid: int, address: int) -> bytes:
    """The options of mount(2) at `address`: up to a NUL, or the first byte that is not there; at most a page less one.

    Raises OSError EFAULT where not even the first byte is there.
    """
    if not address:
        return b""
    out = _memory.read(tid, address, min(PAGE - address % PAGE, PAGE - 1))
    if b"\0" not in out and len(out) < PAGE - 1:
        with contextlib.suppress(OSError):
            out += _memory.read(tid, address + len(out), PAGE - 1 - len(out))
    return out.partition(b"\0")[0]


def status(tid: int) -> dict[str, str]:
    """/proc/TID/status. Raises OSError where the thread is gone."""
    with open(f"/proc/{tid}/status") as lines:
        return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def identity(tid: int, fields: dict[str, str]) -> Identity:
    """Who a thread is, out of its status. Raises OSError where it is gone."""
    groups = tuple(sorted(int(each) for each in fields["Groups"].split()))
    # In a user namespace of its own it may have all capabilities, and none that count here.
    at_home = os.stat(f"/proc/{tid}/ns/user").st_ino == os.stat("/proc/self/ns/user").st_ino
    capabilities = int(fields["CapEff"], 16) if at_home else 0
    return Identity(int(fields["Uid"].split()[1]), int(fields["Gid"].split()[1]), groups, capabilities)


def process_of(fields: dict[str, str]) -> tuple[int, int]:
    """Pid and parent's pid of a thread, out of its status."""
    return int(fields["Tgid"]), int(fields["PPid"])


def program(pid: int) -> str:
    """What a process runs, as a log may call it: the last part of its first argument, of a script's its own name."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as line:
            words = line.read(PAGE).split(b"\0")
    except OSError:
        return "program"
    names = [os.path.basename(os.fsdecode(each)) for each in words if each and not each.startswith(b"-")]
    if len(names) > 1 and re.match(r"python|perl|ruby|sh$|bash$|dash$", names[0]):
        return names[1] or names[0]
    return names[0] if names else "program"


def descriptor(tid: int, number: int) -> int:
    """A duplicate of a thread's descriptor. Raises OSError EBADF, EPERM, ESRCH."""
    try:
        pidfd = os.pidfd_open(tid, _PIDFD_THREAD)
    except OSError:
        pidfd = os.pidfd_open(process_of(status(tid))[0])
    try:
        return libc.pidfd_getfd(pidfd, number)
    finally:
        os.close(pidfd)


def closes_on_exec(tid: int, number: int) -> bool:
    """Whether a thread's descriptor is closed by exec. Raises OSError."""
    with open(f"/proc/{tid}/fdinfo/{number}") as lines:
        flags = next(int(line.split()[1], 8) for line in lines if line.startswith("flags:"))
    return bool(flags & os.O_CLOEXEC)


class Place(NamedTuple):
    """Where a thread's paths start: O_PATH descriptors of its root and working directory, one of its mount namespace
    (-1: ours), its ids for /proc/self. `close` closes them."""

    tid: int
    root: int
    directory: int
    namespace: int

    def close(self) -> None:
        for each in (self.root, self.directory, self.namespace):
            if each >= 0:
                os.close(each)


def place(tid: int) -> Place:
    """Raises OSError where the thread is gone or not ours to look at."""
    opened: list[int] = []
    try:
        for name in ("root", "cwd"):
            opened.append(os.open(f"/proc/{tid}/{name}", os.O_PATH | os.O_CLOEXEC))
        namespace = os.open(f"/proc/{tid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        if os.fstat(namespace).st_ino == os.stat("/proc/self/ns/mnt").st_ino:
            os.close(namespace)
            namespace = -1
    except BaseException:
        for each in opened:
            os.close(each)
        raise
    return Place(tid, opened[0], opened[1], namespace)


def resolve(where: Place, path: bytes, flags: int, directory: int = -1) -> int:
    """Open `path` as the thread would find it; a relative one from `directory`, or where it works. Raises OSError."""
    path = _SELF.sub(b"/proc/%d" % where.tid, path, count=1) if path.startswith(b"/proc/") else path
    start = directory if directory >= 0 else where.directory
    if not path:
        return os.open(f"/proc/self/fd/{start}", flags)
    if where.namespace < 0 and not _roots_differ(where.root):
        return os.open(path, flags, dir_fd=start)
    if path.startswith(b"/"):
        return libc.open_in_root(where.root, path, flags)
    # In a chroot no number of ".." leads out of it.
    root, inside = (os.fsencode(os.readlink(f"/proc/self/fd/{each}")).rstrip(b"/") for each in (where.root, start))
    if inside == root or inside.startswith(root + b"/"):
        below = inside[len(root) :]
        found = libc.open_in_root(where.root, below or b"/", os.O_PATH | os.O_CLOEXEC)
        try:
            if _node(found) == _node(start):
                return libc.open_in_root(where.root, below + b"/" + path, flags)
        finally:
            os.close(found)
    return os.open(path, flags, dir_fd=start)


def _roots_differ(root: int) -> bool:
    ours = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        return _node(ours) != _node(root)
    finally:
        os.close(ours)


def _node(fd: int) -> bytes:
    """Filesystem and inode; no filesystem is asked."""
    facts = libc.statx(fd, _STATX_INO, _AT_STATX_DONT_SYNC)
    return facts[0x20:0x28] + facts[0x88:0x90]
