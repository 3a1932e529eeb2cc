"""The calls that cases make about a file's bytes: mappings, holes and room, copies in the kernel, aligned I/O, statx.

A mapping is a number; it lives in the process that made it until the case is over. It is read and written by the
kernel, between it and a memory file, so that a page that cannot be had is EFAULT and not the end of the process;
`map_dies` touches one in a child, for the signal.
"""

import fcntl
import itertools
import mmap
import os
import signal
import socket
import struct
import sys
from typing import Any

from perfused import libc
from perfused.conformance import clib
from perfused.conformance.clib import Address
from perfused.conformance.filesystem.calls import hold, keep, offer

#: linux/falloc.h
KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO_RANGE, INSERT = 1, 2, 8, 16, 32
#: linux/fs.h: pwritev2(2)
RWF_DSYNC, RWF_SYNC, RWF_NOWAIT, RWF_APPEND = 2, 4, 8, 16

_numbers = itertools.count(1)


# -- mappings ----------------------------------------------------------------------------------------------------------


class _Mapping:
    """mmap(2) by hand: Python's own refuses what lies beyond the end, and keeps a descriptor."""

    def __init__(self, fd: int, length: int, shared: bool, writable: bool, offset: int) -> None:
        self.length = length
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        flags = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE
        self.at = clib.mapped(fd, length, protection, flags, offset)

    def close(self) -> None:
        """munmap(2)."""
        if self.at:
            clib.call("munmap", self.at, self.length)
            self.at = Address(0)


_mappings: dict[int, _Mapping] = {}


def _map(fd: int, length: int, shared: bool = True, writable: bool = True, offset: int = 0) -> int:
    """mmap(2); the number of the mapping."""
    made = _Mapping(fd, length, shared, writable, offset)
    number = next(_numbers)
    _mappings[number] = made
    hold(made)
    return number


def _scratch() -> int:
    return os.memfd_create("posix-suite", os.MFD_CLOEXEC)


def _map_read(number: int, offset: int, length: int) -> bytes:
    """Bytes of a mapping; EFAULT where a page cannot be had."""
    fd = _scratch()
    try:
        done = 0
        while done < length:
            done += clib.call("write", fd, Address(_mappings[number].at + offset + done), length - done)
        return os.pread(fd, length, 0)
    finally:
        os.close(fd)


def _map_write(number: int, offset: int, data: bytes) -> None:
    """Put bytes into a mapping; EFAULT where a page cannot be had, or not be written."""
    fd = _scratch()
    try:
        os.write(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
        done = 0
        while done < len(data):
            done += clib.call("read", fd, Address(_mappings[number].at + offset + done), len(data) - done)
    finally:
        os.close(fd)


def _map_dies(number: int, offset: int, write: bool = False) -> int:
    """Touch one byte in a child: the signal that it dies of, 0 for none."""
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGBUS, signal.SIG_DFL)
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            byte = clib.memory(Address(_mappings[number].at + offset), 1)
            if write:
                byte[0] = 1
            else:
                _ = byte[0]
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) * -1


def _msync(number: int, flags: int, offset: int = 0, length: int = 0) -> None:
    """msync(2); 1 asynchronous, 4 synchronous, 2 invalidating."""
    one = _mappings[number]
    clib.call("msync", Address(one.at + offset), length or one.length, flags)


# -- room and copies ---------------------------------------------------------------------------------------------------


def _copy_file_range(
    source: int, target: int, length: int, at: int | None = None, to: int | None = None, flags: int = 0
) -> int:
    """copy_file_range(2); without an offset the descriptor's own."""
    first, second = (bytearray(struct.pack("=q", each)) if each is not None else None for each in (at, to))
    return clib.call("copy_file_range", source, first, target, second, length, flags)


def _sendfile(target: int, source: int, offset: int | None, length: int) -> int:
    return os.sendfile(target, source, offset, length)


def _through_pipe(source: int, target: int, length: int, at: int, to: int) -> int:
    """splice(2) from one file into a pipe and from there into another; how much arrived."""
    reading, writing = os.pipe()
    try:
        done = 0
        while done < length:
            taken = os.splice(source, writing, min(length - done, 1 << 15), offset_src=at + done)
            if not taken:
                break
            while taken:
                given = os.splice(reading, target, taken, offset_dst=to + done)
                done += given
                taken -= given
        return done
    finally:
        os.close(reading)
        os.close(writing)


def _to_socket(source: int, offset: int, length: int) -> bytes:
    """sendfile(2) into a socket; what arrives."""
    one, two = socket.socketpair()
    with one, two:
        sent = os.sendfile(one.fileno(), source, offset, length)
        one.shutdown(socket.SHUT_WR)
        got = b""
        while len(got) < sent:
            got += two.recv(sent - len(got))
        return got


# -- aligned and special reads and writes ------------------------------------------------------------------------------


def _aligned(size: int, skew: int) -> memoryview:
    return memoryview(mmap.mmap(-1, size + 8192))[skew : skew + size]


def _pwrite_aligned(fd: int, data: bytes, offset: int, skew: int = 0) -> int:
    """pwrite(2) from a buffer at a page's beginning, or `skew` bytes after it."""
    buffer = _aligned(len(data), skew)
    buffer[:] = data
    return os.pwrite(fd, buffer, offset)


def _pread_aligned(fd: int, length: int, offset: int, skew: int = 0) -> bytes:
    buffer = _aligned(length, skew)
    return bytes(buffer[: os.preadv(fd, [buffer], offset)])


def _append_records(path: str, tag: int, count: int, size: int) -> None:
    """Append records of one byte repeated, each by one write(2) on a descriptor opened with O_APPEND."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        for _ in range(count):
            written = os.write(fd, bytes([tag]) * size)
            if written != size:
                raise OSError(5, f"{written} of {size} bytes")
    finally:
        os.close(fd)


def _records(path: str, size: int) -> dict[int, int]:
    """How many whole records of each tag a file has; 0 counts those that are not whole."""
    found: dict[int, int] = {}
    with open(path, "rb") as file:
        while record := file.read(size):
            tag = record[0] if record == record[:1] * size else 0
            found[tag] = found.get(tag, 0) + 1
    return found


# -- statx -------------------------------------------------------------------------------------------------------------

_FIELDS = {
    "mask": (0, 4), "blksize": (4, 4), "attributes": (8, 8), "nlink": (16, 4), "uid": (20, 4), "gid": (24, 4),
    "mode": (28, 2), "ino": (32, 8), "size": (40, 8), "blocks": (48, 8), "attributes_mask": (56, 8),
    "rdev_major": (128, 4), "rdev_minor": (132, 4), "dev_major": (136, 4), "dev_minor": (140, 4),
}  # fmt: skip
_TIMES = {"atime": 64, "btime": 80, "ctime": 96, "mtime": 112}


def _statx(path: str | int, mask: int = 0x7FF, flags: int = 0, directory: int = libc.AT_FDCWD) -> dict[str, int]:
    """statx(2), all fields; times in nanoseconds."""
    raw = bytearray(256)
    name = os.fsencode(path) if isinstance(path, str) else b""
    where, more = (directory, 0) if isinstance(path, str) else (path, libc.AT_EMPTY_PATH)
    clib.call("statx", where, name, flags | more, mask & 0xFFFFFFFF, raw)
    order = sys.byteorder
    found = {field: int.from_bytes(raw[at : at + size], order) for field, (at, size) in _FIELDS.items()}
    for field, at in _TIMES.items():
        seconds = int.from_bytes(raw[at : at + 8], order, signed=True)
        found[field] = seconds * 10**9 + int.from_bytes(raw[at + 8 : at + 12], order)
    return found


def _statx_agrees(path: str | int, flags: int = 0) -> list[str]:
    """The fields in which statx(2) and stat(2) differ: none."""
    if isinstance(path, int):
        other = os.fstat(path)
    else:
        other = os.stat(path, follow_symlinks=not flags & libc.AT_SYMLINK_NOFOLLOW)
    own = _statx(path, 0x7FF, flags)
    want = {
        "nlink": other.st_nlink, "uid": other.st_uid, "gid": other.st_gid, "mode": other.st_mode, "ino": other.st_ino,
        "size": other.st_size, "blocks": other.st_blocks, "blksize": other.st_blksize, "atime": other.st_atime_ns,
        "mtime": other.st_mtime_ns, "ctime": other.st_ctime_ns, "dev_major": os.major(other.st_dev),
        "dev_minor": os.minor(other.st_dev), "rdev_major": os.major(other.st_rdev),
        "rdev_minor": os.minor(other.st_rdev),
    }  # fmt: skip
    return [field for field, value in want.items() if own[field] != value]


_CALLS: dict[str, Any] = {
    "map": _map,
    "map_read": _map_read,
    "map_write": _map_write,
    "map_dies": _map_dies,
    "msync": _msync,
    "munmap": lambda number: _mappings.pop(number).close(),
    "fallocate": libc.fallocate,
    "copy_file_range": _copy_file_range,
    "sendfile": _sendfile,
    "to_socket": _to_socket,
    "through_pipe": _through_pipe,
    "pwrite_aligned": _pwrite_aligned,
    "pread_aligned": _pread_aligned,
    "append_records": _append_records,
    "records": _records,
    "statx": _statx,
    "statx_agrees": _statx_agrees,
    "fdatasync": os.fdatasync,
    "syncfs": lambda fd: clib.call("syncfs", fd),
    "sync_file_range": lambda fd, offset, length, flags: clib.call("sync_file_range", fd, offset, length, flags),
    "pwrite_flags": lambda fd, data, offset, flags: os.pwritev(fd, [data], offset, flags),
    "writev": lambda fd, parts: os.writev(fd, parts),
    "readv": lambda fd, sizes: _readv(fd, sizes),
    "pipe": lambda: tuple(keep(fd) for fd in os.pipe()),
    "has_flag": lambda fd, flag: fcntl.fcntl(fd, fcntl.F_GETFL) & flag == flag,
    "setfl": lambda fd, flags: fcntl.fcntl(fd, fcntl.F_SETFL, flags),
    "posix_fadvise": os.posix_fadvise,
}


def _readv(fd: int, sizes: list[int]) -> list[bytes]:
    """readv(2) into buffers of these sizes; what is in each."""
    buffers = [bytearray(size) for size in sizes]
    left = os.readv(fd, buffers)
    out = []
    for each in buffers:
        out.append(bytes(each[: max(0, min(left, len(each)))]))
        left -= len(each)
    return out


offer(**_CALLS)
