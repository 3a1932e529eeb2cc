"""The system calls the exerciser makes, one method each.

Whatever touches the filesystem goes through `Calls`, so that a test of the exerciser can put a fault there. Nothing is
checked here; every method raises OSError with the errno of the call.

Mappings are read and written by the kernel, between them and a memory file: where a page cannot be had, that is EFAULT
and not a SIGBUS, and the exerciser lives to report it.
"""

import errno
import mmap
import os
from collections.abc import Sequence

from perfused import libc

#: linux/falloc.h
FALLOC_KEEP_SIZE = 0x01
FALLOC_PUNCH_HOLE = 0x02
FALLOC_COLLAPSE_RANGE = 0x08
FALLOC_ZERO_RANGE = 0x10
FALLOC_INSERT_RANGE = 0x20


class Calls:
    """The calls as the kernel has them."""

    def __init__(self) -> None:
        self._scratch = os.memfd_create("exerciser", os.MFD_CLOEXEC)

    def end(self) -> None:
        """Give back what the calls themselves hold."""
        os.close(self._scratch)

    def open(self, path: str, flags: int) -> int:
        """open(2), mode 0600."""
        return os.open(path, flags | os.O_CLOEXEC, 0o600)

    def close(self, fd: int) -> None:
        """close(2)."""
        os.close(fd)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """pread(2)."""
        return os.pread(fd, length, offset)

    def preadv(self, fd: int, buffers: Sequence[bytearray | mmap.mmap | memoryview], offset: int) -> int:
        """preadv(2)."""
        return os.preadv(fd, buffers, offset)

    def read_at(self, fd: int, length: int, offset: int) -> bytes:
        """lseek(2) and read(2)."""
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, length)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """pwrite(2)."""
        return os.pwrite(fd, data, offset)

    def pwritev(self, fd: int, buffers: Sequence[bytes | mmap.mmap | memoryview], offset: int) -> int:
        """pwritev(2)."""
        return os.pwritev(fd, buffers, offset)

    def append(self, fd: int, data: bytes) -> int:
        """write(2) on a descriptor opened with O_APPEND."""
        return os.write(fd, data)

    def truncate(self, path: str, size: int) -> None:
        """truncate(2)."""
        os.truncate(path, size)

    def ftruncate(self, fd: int, size: int) -> None:
        """ftruncate(2)."""
        os.ftruncate(fd, size)

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        """fallocate(2)."""
        libc.fallocate(fd, mode, offset, length)

    def seek(self, fd: int, offset: int, whence: int) -> int:
        """lseek(2)."""
        return os.lseek(fd, offset, whence)

    def copy_range(self, source: int, target: int, length: int, source_offset: int, target_offset: int) -> int:
        """copy_file_range(2)."""
        return os.copy_file_range(source, target, length, source_offset, target_offset)

    def sendfile(self, target: int, source: int, source_offset: int, length: int, target_offset: int) -> int:
        """lseek(2) of the target and sendfile(2)."""
        os.lseek(target, target_offset, os.SEEK_SET)
        return os.sendfile(target, source, source_offset, length)

    def map(self, fd: int, length: int) -> mmap.mmap:
        """mmap(2), shared, of the file's first `length` bytes; ENXIO where the file has fewer."""
        try:
            return mmap.mmap(fd, length, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        except ValueError as bad:
            raise OSError(errno.ENXIO, "the file is shorter than its mapping") from bad

    def map_read(self, mapping: mmap.mmap, offset: int, length: int) -> bytes:
        """Read a mapping; EFAULT where a page of it cannot be had."""
        with memoryview(mapping) as whole, whole[offset : offset + length] as part:
            done = 0
            while done < length:
                with part[done:] as rest:
                    done += os.pwrite(self._scratch, rest, done)
        return os.pread(self._scratch, length, 0)

    def map_write(self, mapping: mmap.mmap, offset: int, data: bytes) -> None:
        """Write a mapping; EFAULT where a page of it cannot be had."""
        os.pwrite(self._scratch, data, 0)
        with memoryview(mapping) as whole, whole[offset : offset + len(data)] as part:
            done = 0
            while done < len(data):
                with part[done:] as rest:
                    done += os.preadv(self._scratch, [rest], done)

    def msync(self, mapping: mmap.mmap, offset: int, length: int) -> None:
        """msync(2), MS_SYNC; `offset` is a page's."""
        mapping.flush(offset, length)

    def fsync(self, fd: int) -> None:
        """fsync(2)."""
        os.fsync(fd)

    def fdatasync(self, fd: int) -> None:
        """fdatasync(2)."""
        os.fdatasync(fd)

    def fstat(self, fd: int) -> os.stat_result:
        """fstat(2)."""
        return os.fstat(fd)

    def stat(self, path: str) -> os.stat_result:
        """stat(2)."""
        return os.stat(path)

    def rename(self, source: str, target: str) -> None:
        """rename(2)."""
        os.rename(source, target)

    def link(self, source: str, target: str) -> None:
        """link(2)."""
        os.link(source, target)

    def unlink(self, path: str) -> None:
        """unlink(2)."""
        os.unlink(path)
