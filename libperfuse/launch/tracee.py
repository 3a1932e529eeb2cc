"""What is known of a stopped thread: its memory, descriptors, identity, and where it stands in the tree of files.

All of it may change or go while it is looked at; who acts on it asks the listener afterwards whether the call still
waits. Never here: answers.
"""

import os
import re
from typing import NamedTuple

from libperfuse import libc

PAGE = 4096
#: most paths are shorter
_CHUNK = 128
_PIDFD_THREAD = os.O_EXCL
_memory = libc.Memory(2 * PAGE)
_SELF = re.compile(rb"/proc/(?:self|thread-self)(?=/|\Z)")


class Identity(NamedTuple):
    """Effective ids and groups."""

    uid: int
    gid: int
    groups: tuple[int, ...]

    @classmethod
    def ours(cls) -> "Identity":
        return cls(os.geteuid(), os.getegid(), tuple(sorted(os.getgroups())))


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


def status(tid: int) -> dict[str, str]:
    """/proc/TID/status. Raises OSError where the thread is gone."""
    with open(f"/proc/{tid}/status") as lines:
        return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def identity(fields: dict[str, str]) -> Identity:
    """The effective ids of a thread, out of its status."""
    groups = tuple(sorted(int(each) for each in fields["Groups"].split()))
    return Identity(int(fields["Uid"].split()[1]), int(fields["Gid"].split()[1]), groups)


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
    if path.startswith(b"/"):
        ours, theirs = os.stat("/"), os.fstat(where.root)
        if where.namespace >= 0 or (ours.st_dev, ours.st_ino) != (theirs.st_dev, theirs.st_ino):
            return libc.open_in_root(where.root, path, flags)
    return os.open(path, flags, dir_fd=start)
