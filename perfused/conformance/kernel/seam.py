"""Where the suite touches the system it runs on: opening the device, mounting, and calls that Python lacks.

The only module here that a port to another system changes. It needs Python alone: mount(2) is libc's by cffi where
cffi is there, else mount(8)'s; other calls without cffi are not there, and cases that need one are skipped. Never here:
FUSE.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from wire import ioctls

DEVICE = "/dev/fuse"
_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE, _LO_FLAGS_AUTOCLEAR = 0x4C82, 0x4C0A, 4
CONNECTIONS = "/sys/fs/fuse/connections"
MNT_FORCE, MNT_DETACH = 1, 2
_CLONE_NEWNS, _MS_REC, _MS_PRIVATE = 0x2_0000, 0x4000, 0x4_0000


def _libc() -> ModuleType | None:
    try:
        from perfused import libc
    except ImportError:
        return None
    return libc


libc = _libc()


class Unavailable(Exception):
    """What this machine or its Python lacks; the case is skipped for it."""


def call(name: str) -> Callable[..., Any]:
    """A system call of `perfused.libc` by its name. Raises Unavailable where there is no cffi to make it with."""
    found = getattr(libc, name, None)
    if found is None:
        raise Unavailable(f"this Python has no cffi, which {name} takes")
    return found  # type: ignore[no-any-return]


#: what differs by machine: getdents64, name_to_handle_at, open_by_handle_at, syncfs
_NUMBERS = {"x86_64": (217, 303, 304, 306), "s390x": (220, 335, 336, 338), "ppc64le": (202, 345, 346, 348)}
_GETDENTS64, _NAME_TO_HANDLE_AT, _OPEN_BY_HANDLE_AT, _SYNCFS = _NUMBERS.get(os.uname().machine, (61, 264, 265, 267))


def _room(name: str, start: bytes) -> Any:
    """A buffer of C that begins with `start`. Raises Unavailable."""
    if libc is None:
        raise Unavailable(f"this Python has no cffi, which {name} takes")
    return libc.ffi.new("char[]", start)


def _syscall(name: str, number: int, *words: Any) -> int:
    """A system call by number, of ints and buffers of `_room`. Raises OSError, Unavailable."""
    if libc is None:
        raise Unavailable(f"this Python has no cffi, which {name} takes")
    cast = libc.ffi.cast
    done = int(libc._libc.syscall(number, *(cast("long", each) if isinstance(each, int) else each for each in words)))
    if done < 0:
        raise OSError(libc.ffi.errno, os.strerror(libc.ffi.errno), name)
    return done


def entries(fd: int, size: int = 32768) -> list[tuple[int, int, int, bytes]]:
    """One getdents64(2) with room for `size` bytes: inode, the position behind it, type and name of each entry.

    The list is empty at the directory's end. Raises OSError, Unavailable.
    """
    room = _room("getdents64", bytes(size))
    length = _syscall("getdents64", _GETDENTS64, fd, room, size)
    data = bytes(libc.ffi.buffer(room)[:length]) if libc else b""
    found, at = [], 0
    while at < len(data):
        inode, position, length, kind = struct.unpack_from("=QqHB", data, at)
        found.append((inode, position, kind, data[at + 19 : at + length].partition(b"\0")[0]))
        at += length
    return found


def file_handle(path: str) -> bytes:
    """name_to_handle_at(2): struct file_handle of a file. Raises OSError, Unavailable."""
    name = "name_to_handle_at"
    room = _room(name, struct.pack("=Ii", 128, 0) + bytes(128))
    _syscall(name, _NAME_TO_HANDLE_AT, -100, _room(name, os.fsencode(path)), room, _room(name, bytes(8)), 0)
    data = bytes(libc.ffi.buffer(room)) if libc else b""
    return data[: 8 + struct.unpack_from("=I", data)[0]]


def open_by_handle(mount: int, handle: bytes, flags: int) -> int:
    """open_by_handle_at(2) on the filesystem that the descriptor `mount` is of. Raises OSError, Unavailable."""
    return _syscall("open_by_handle_at", _OPEN_BY_HANDLE_AT, mount, _room("open_by_handle_at", handle), flags)


def statx(path: str, flags: int, mask: int) -> bytes:
    """statx(2): struct statx, 256 bytes; `flags` are AT_*, `mask` STATX_*. Raises OSError, Unavailable."""
    room = _room("statx", bytes(256))
    if libc is not None and libc._libc.statx(-100, _room("statx", os.fsencode(path)), flags, mask, room) < 0:
        raise OSError(libc.ffi.errno, os.strerror(libc.ffi.errno), path)
    return bytes(libc.ffi.buffer(room))[:256] if libc else b""


def syncfs(fd: int) -> None:
    """syncfs(2). Raises OSError, Unavailable."""
    _syscall("syncfs", _SYNCFS, fd)


def open_device(flags: int = os.O_RDWR) -> int:
    """A descriptor of /dev/fuse, close-on-exec. Raises OSError."""
    return os.open(DEVICE, flags | os.O_CLOEXEC)


def alone() -> None:
    """Give this process a mount namespace of its own, where that can be had; else it mounts where it is."""
    if libc is None:
        return
    with contextlib.suppress(OSError):
        libc.unshare(_CLONE_NEWNS)
        libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)


def mount(source: str, target: str, fstype: str, flags: int, data: str) -> None:
    """mount(2). Raises OSError."""
    if libc is not None:
        libc.mount(source.encode(), os.fsencode(target), fstype.encode(), flags, data.encode())
        return
    program = shutil.which("mount")
    if program is None:
        raise Unavailable("neither cffi nor mount(8) to mount with")
    numbers = [int(word[3:]) for word in data.split(",") if word.startswith("fd=") and word[3:].isdigit()]
    done = subprocess.run(
        [program, "-i", "-n", "-t", fstype, "-o", data, source, target],
        pass_fds=numbers, capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise OSError(errno.EINVAL, done.stderr.decode(errors="replace").strip())


def umount(target: str, flags: int = 0) -> None:
    """umount2(2). Raises OSError."""
    if libc is not None:
        libc.umount2(os.fsencode(target), flags)
        return
    words = [*(["-l"] if flags & MNT_DETACH else []), *(["-f"] if flags & MNT_FORCE else [])]
    done = subprocess.run(["umount", "-n", *words, target], capture_output=True, check=False)
    if done.returncode:
        raise OSError(errno.EBUSY, done.stderr.decode(errors="replace").strip())


@contextlib.contextmanager
def block_device(path: str, size: int) -> Iterator[str]:
    """A block device of `size` bytes, with a file made at `path` behind it; it goes when nothing uses it any more.

    Raises Unavailable where there are no loop devices.
    """
    try:
        with open("/dev/loop-control", "rb") as control:
            name = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
        device = os.open(name, os.O_RDWR | os.O_CLOEXEC)
    except OSError as bad:
        raise Unavailable(f"no loop device: {bad.strerror}") from None
    try:
        with open(path, "wb+") as file:
            file.truncate(size)
            # struct loop_config: fd, block size, and struct loop_info64, whose lo_flags are at 52
            given = struct.pack("=II52xI", file.fileno(), 0, _LO_FLAGS_AUTOCLEAR).ljust(304, b"\0")
            fcntl.ioctl(device, _LOOP_CONFIGURE, given)
        yield name
    except OSError as bad:
        raise Unavailable(f"no loop device: {bad.strerror}") from None
    finally:
        os.close(device)


def clone(fd: int) -> int:
    """Another descriptor of a mounted device (FUSE_DEV_IOC_CLONE). Raises OSError."""
    made = open_device()
    try:
        fcntl.ioctl(made, ioctls.FUSE_DEV_IOC_CLONE, struct.pack("=I", fd))
    except OSError:
        os.close(made)
        raise
    return made


def function(name: str, *arguments: int | bytes | bytearray | None) -> int:
    """Call a function of libc by its name, one of clib's: its value. Raises OSError, Unavailable."""
    return int(_clib(name).call(name, *arguments))


def mapped(fd: int, length: int, protection: int = 1) -> memoryview:
    """mmap(2) MAP_SHARED of a file from its start, beyond its end too; `protection` is PROT_*. It stays mapped.

    Raises OSError, Unavailable.
    """
    clib = _clib("mmap beyond the end of a file")
    found: memoryview = clib.memory(clib.mapped(fd, length, protection, 1), length)
    return found


def _clib(what: str) -> ModuleType:
    try:
        from perfused.conformance import clib
    except ImportError:
        raise Unavailable(f"this Python has no cffi, which {what} takes") from None
    return clib


def inotify(path: str, mask: int) -> int:
    """A descriptor that tells of what `mask` says happens to `path` (inotify(7)). Raises OSError, Unavailable."""
    fd = function("inotify_init1", os.O_CLOEXEC)
    function("inotify_add_watch", fd, os.fsencode(path), mask)
    return fd


def kernel() -> dict[str, str]:
    """What runs here: system, release, version, machine; "gvisor" where its messages say so."""
    found = os.uname()
    system = found.sysname
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(["dmesg"], capture_output=True, timeout=5, check=False).stdout
        if b"Starting gVisor" in said:
            system = "gVisor"
    return {"system": system, "release": found.release, "version": found.version, "machine": found.machine}


def connection_control(target: str, name: str) -> Path:
    """A file of fusectl for the connection mounted on `target`: abort, waiting, max_background. Unavailable."""
    minor = _minor(target)
    path = Path(CONNECTIONS) / str(minor)
    if not path.exists() and libc is not None:
        with contextlib.suppress(OSError):
            libc.mount(b"none", os.fsencode(CONNECTIONS), b"fusectl", 0, None)
    if not path.exists():
        raise Unavailable("no fusectl here")
    return path / name


def _minor(target: str) -> int:
    """The device number of what is mounted on `target`, without asking it."""
    with open("/proc/self/mountinfo") as lines:
        for line in lines:
            words = line.split()
            if words[4] == target:
                return int(words[2].partition(":")[2])
    raise Unavailable(f"{target} is not in mountinfo")
