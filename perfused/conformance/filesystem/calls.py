"""The system calls that cases make, by name, each in the process that is asked to.

A call returns what it gives or its errno; it never raises OSError. Descriptors stay open until `release`.
"""

import errno
import os
import socket
import stat
import subprocess
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from perfused import libc

KINDS = ("regular", "dir", "fifo", "block", "char", "socket", "symlink")
#: everything that unlink(2) removes
NONDIRS = tuple(kind for kind in KINDS if kind != "dir")
#: everything that is not followed to something else
SOLID = tuple(kind for kind in KINDS if kind != "symlink")
#: what is no directory and leads to none
SPECIAL = tuple(kind for kind in SOLID if kind != "dir")

FORMATS = {
    "regular": stat.S_IFREG, "dir": stat.S_IFDIR, "fifo": stat.S_IFIFO, "block": stat.S_IFBLK,
    "char": stat.S_IFCHR, "socket": stat.S_IFSOCK, "symlink": stat.S_IFLNK,
}  # fmt: skip
_KIND_OF = {number: name for name, number in FORMATS.items()}

#: a block device that no kernel has (majors end at 512), and /dev/null
DEVICES = {"block": (600, 7), "char": (1, 3)}


class Outcome(NamedTuple):
    """errno, or 0 and what the call gives."""

    errno: int
    value: Any


class Stat(NamedTuple):
    """What stat(2) tells; times in nanoseconds, `mode` without the type."""

    kind: str = "regular"
    mode: int = 0
    uid: int = 0
    gid: int = 0
    nlink: int = 0
    ino: int = 0
    size: int = 0
    rdev: tuple[int, int] = (0, 0)
    atime: int = 0
    mtime: int = 0
    ctime: int = 0
    blocks: int = 0


def _stat(found: os.stat_result) -> Stat:
    return Stat(
        _KIND_OF.get(stat.S_IFMT(found.st_mode), "?"), stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid,
        found.st_nlink, found.st_ino, found.st_size, (os.major(found.st_rdev), os.minor(found.st_rdev)),
        found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns, found.st_blocks,
    )  # fmt: skip


#: whether this process is in a call that a signal is to end
waiting = False
#: how /proc/PID/syscall begins in a call that may wait: fcntl(2) and flock(2), by their numbers here
_WAITING = {"x86_64": ("72 ", "73 ")}.get(os.uname().machine, ("25 ", "32 "))


def may_wait(syscall: str) -> bool:
    """Whether a line of /proc/PID/syscall tells of a call that waits for a lock."""
    return syscall.startswith(_WAITING)


def until_signal(call: Callable[[], Any]) -> Any:
    """Make a call that may wait; a signal ends it with EINTR."""
    global waiting
    waiting = True
    try:
        return call()
    finally:
        waiting = False


#: what this process holds open for the case at hand
_descriptors: set[int] = set()
_held: list[Any] = []


def release() -> None:
    """Close all that cases have opened here."""
    for fd in _descriptors:
        try:
            os.close(fd)
        except OSError:
            pass
    _descriptors.clear()
    while _held:
        each = _held.pop()
        if isinstance(each, subprocess.Popen):
            each.kill()
            each.wait()
        else:
            each.close()


def _open(path: str, flags: int, mode: int = 0o666) -> int:
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOCTTY, mode)
    _descriptors.add(fd)
    return fd


def keep(fd: int) -> int:
    """Close a descriptor when the case is over."""
    _descriptors.add(fd)
    return fd


def hold(each: Any) -> None:
    """Call `close` of an object when the case is over."""
    _held.append(each)


def offer(**more: Callable[..., Any]) -> None:
    """Add calls; the modules `calls_*` do so, each with those of one theme. A name is offered once."""
    assert not CALLS.keys() & more.keys()
    CALLS.update(more)


def _openat(directory: int, path: str, flags: int, mode: int = 0o666) -> int:
    fd = os.open(path, flags | os.O_CLOEXEC, mode, dir_fd=directory)
    _descriptors.add(fd)
    return fd


def _close(fd: int) -> None:
    _descriptors.discard(fd)
    os.close(fd)


def _mknod(path: str, kind: str, mode: int, device: tuple[int, int] = (0, 0)) -> None:
    os.mknod(path, FORMATS[kind] | mode, os.makedev(*device))


def _bind(path: str) -> None:
    made = socket.socket(socket.AF_UNIX)
    _held.append(made)
    made.bind(path)


def _listen(path: str) -> None:
    made = socket.socket(socket.AF_UNIX)
    _held.append(made)
    made.bind(path)
    made.listen(64)


def _connect(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(path)


def _run(path: str) -> int:
    """Start a program that waits for the end of its input, and leave it running until the case is over."""
    program = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, executable=path)
    assert program.stdin is not None
    _held.extend((program, program.stdin))
    return program.pid


def _utimensat(path: str, atime: tuple[int, int], mtime: tuple[int, int], nofollow: bool = False) -> None:
    libc.utimensat(os.fsencode(path), atime, mtime, libc.AT_SYMLINK_NOFOLLOW if nofollow else 0)


def _bind_mount(source: str, target: str, read_only: bool = False) -> None:
    libc.mount(os.fsencode(source), os.fsencode(target), None, libc.MS_BIND, None)
    if read_only:
        flags = libc.MS_BIND | 0x20 | libc.MS_RDONLY  # MS_REMOUNT
        libc.mount(b"none", os.fsencode(target), None, flags, None)


def _link_descriptor(fd: int, path: str) -> None:
    os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)


def _link_follow(old: str, new: str) -> None:
    here = os.open(".", os.O_PATH | os.O_CLOEXEC)
    try:
        os.link(old, new, src_dir_fd=here, follow_symlinks=True)
    finally:
        os.close(here)


def _fill(fd: int) -> None:
    """Write until there is no room; raises OSError then, or after more than a small filesystem can hold."""
    block = bytes(1 << 16)
    for _ in range(2048):
        left = block
        while left:
            left = left[os.write(fd, left) :]


def _scandir(path: str) -> list[tuple[str, str]]:
    """Names and kinds, links, directories and regular files as the listing itself tells them (d_type)."""
    with os.scandir(path) as entries:
        return sorted((entry.name, _kind(entry)) for entry in entries)


def _kind(entry: "os.DirEntry[str]") -> str:
    if entry.is_symlink():
        return "symlink"
    if entry.is_dir(follow_symlinks=False):
        return "dir"
    if entry.is_file(follow_symlinks=False):
        return "regular"
    return _stat(entry.stat(follow_symlinks=False)).kind


def _times_after(path: str, floor: int, which: str) -> bool:
    """Whether the times in `which` are later than `floor` and not later than now."""
    found = _stat(os.lstat(path))
    times = [getattr(found, name) for name in ("atime", "mtime", "ctime") if name[0] in which]
    return all(floor < each <= time.time_ns() for each in times)


def _listing(path: str) -> list[str]:
    return sorted(os.listdir(path))


CALLS: dict[str, Callable[..., Any]] = {
    "access": lambda path, mode: None if os.access(path, mode) else _raise_access(path, mode),
    "between": lambda low, middle, high: low <= middle <= high,
    "bind": _bind,
    "bind_mount": _bind_mount,
    "birth_time": lambda path: libc.birth_time(os.fsencode(path)),
    "chdir": os.chdir,
    "chmod": os.chmod,
    "chown": os.chown,
    "close": _close,
    "connect": _connect,
    "count_inodes": lambda paths: len({os.lstat(path).st_ino for path in paths}),
    "fchdir": os.fchdir,
    "fchmod": os.fchmod,
    "fchown": os.fchown,
    "fill": _fill,
    "fstat": lambda fd: _stat(os.fstat(fd)),
    "fsync": os.fsync,
    "ftruncate": os.ftruncate,
    "futimens": libc.futimens,
    "has_blocks": lambda fd, size: os.fstat(fd).st_blocks * 512 >= size,
    "lchown": os.lchown,
    "link": os.link,
    "listen": _listen,
    "link_follow": _link_follow,
    "link_descriptor": _link_descriptor,
    "listdir": _listing,
    "lseek": os.lseek,
    "lstat": lambda path: _stat(os.lstat(path)),
    "mkdir": os.mkdir,
    "mkfifo": os.mkfifo,
    "mknod": _mknod,
    "open": _open,
    "openat": _openat,
    "posix_fallocate": os.posix_fallocate,
    "pread": os.pread,
    "pwrite": os.pwrite,
    "read": os.read,
    "readlink": os.readlink,
    "rename": os.rename,
    "renameat2": lambda old, new, flags: libc.renameat2(os.fsencode(old), os.fsencode(new), flags),
    "rmdir": os.rmdir,
    "run": _run,
    "scandir": _scandir,
    "stat": lambda path: _stat(os.stat(path)),
    "symlink": os.symlink,
    "times_after": _times_after,
    "truncate": os.truncate,
    "umount": lambda path: libc.umount2(os.fsencode(path), libc.MNT_DETACH),
    "unlink": os.unlink,
    "utimensat": _utimensat,
    "write": os.write,
}


def _raise_access(path: str, mode: int) -> None:
    """os.access hides the errno: a path that cannot be walked says its own, all else is EACCES."""
    os.stat(path)
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)


def perform(name: str, args: tuple[Any, ...], umask: int = 0) -> Outcome:
    """Make one call with a file mode creation mask."""
    old = os.umask(umask) if umask else 0
    try:
        return Outcome(0, CALLS[name](*args))
    except OSError as bad:
        return Outcome(bad.errno or errno.EIO, None)
    except subprocess.SubprocessError:
        return Outcome(errno.EIO, None)
    finally:
        if umask:
            os.umask(old)


def error_name(number: int) -> str:
    """ENOENT for 2, success for 0."""
    return errno.errorcode.get(number, str(number)) if number else "success"
