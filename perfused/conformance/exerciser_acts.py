"""Operations that read, write and resize one file: each does one thing and tells the model.

Every function is an `Act`. What concerns two files, mappings, descriptors and names is in `exerciser_moves`.
"""

import errno
import mmap
import os

from perfused.conformance import exerciser_calls as calls
from perfused.conformance.exerciser_files import File, Skipped, Stage, Unsupported, wrote
from perfused.conformance.exerciser_model import Difference, compare
from perfused.conformance.exerciser_operations import APPEND_SLOT, BLOCK, DIRECT_SLOT, Operation

# Reading


def pread(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """pread(2): what the model has, as much of it as there is."""
    at = stage.at(file, operation)
    got = stage.calls.pread(file.fd(operation.slot), operation.length, at)
    compare(file.content.piece(at, operation.length), got, at, "pread(2)")
    return at, at


def read(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """lseek(2) and read(2)."""
    at = stage.at(file, operation)
    got = stage.calls.read_at(file.fd(operation.slot), operation.length, at)
    compare(file.content.piece(at, operation.length), got, at, "read(2)")
    return at, at


def preadv(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """preadv(2) into two buffers."""
    at = stage.at(file, operation)
    one = operation.length // 3
    parts = [bytearray(one), bytearray(operation.length - one)]
    count = stage.calls.preadv(file.fd(operation.slot), parts, at)
    compare(file.content.piece(at, operation.length), (parts[0] + parts[1])[:count], at, "preadv(2)")
    return at, at


def direct_read(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """preadv(2) into aligned memory, by the O_DIRECT descriptor."""
    at = stage.at(file, operation) // BLOCK * BLOCK
    with mmap.mmap(-1, operation.length) as aligned:
        count = stage.calls.preadv(file.fd(DIRECT_SLOT), [aligned], at)
        got = aligned[:count]
    compare(file.content.piece(at, operation.length), got, at, "preadv(2), O_DIRECT")
    return at, at


def seek(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """What is said to be a hole is zeros; a seek from beyond the end is ENXIO."""
    at, size, fd = stage.at(file, operation), len(file.content), file.fd(operation.slot)
    data, hole = _seek_to(stage, fd, at, os.SEEK_DATA), _seek_to(stage, fd, at, os.SEEK_HOLE)
    if at >= size:
        if (data, hole) != (None, None):
            raise Difference("hole", f"lseek(2) from {at}, beyond the end {size}, finds {data} and {hole}", at)
        return at, at
    if data is not None and not at <= data < size:
        raise Difference("hole", f"SEEK_DATA from {at} finds {data}, the size is {size}", at)
    if hole is None or not at <= hole <= size:
        raise Difference("hole", f"SEEK_HOLE from {at} finds {hole}, the size is {size}", at)
    for start, end in ((at, size if data is None else data), (hole, _seek_to(stage, fd, hole, os.SEEK_DATA) or size)):
        part = file.content.piece(start, end - start)
        if first := len(part) - len(part.lstrip(b"\0")):
            part = part[first:]
        if part.strip(b"\0"):
            raise Difference("hole", f"lseek(2) says {start} to {end} is a hole; data is there", start + first)
    return at, at


def seek_synced(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """fsync(2), then the same: where a filesystem learns of pages written through a mapping no sooner."""
    stage.calls.fsync(file.fd(operation.slot))
    return seek(stage, file, operation)


def _seek_to(stage: Stage, fd: int, at: int, whence: int) -> int | None:
    """lseek(2), None for ENXIO; Unsupported where the filesystem knows no holes."""
    try:
        return stage.calls.seek(fd, at, whence)
    except OSError as bad:
        if bad.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            raise Unsupported from bad
        if bad.errno != errno.ENXIO:
            raise
        return None


# Writing


def pwrite(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """pwrite(2)."""
    at, length = stage.range(file, operation)
    data = operation.data()[:length]
    return wrote(file, at, data, stage.calls.pwrite(file.fd(operation.slot), data, at))


def pwritev(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """pwritev(2) of two buffers."""
    at, length = stage.range(file, operation)
    data = operation.data()[:length]
    parts = [data[: length // 3], data[length // 3 :]]
    return wrote(file, at, data, stage.calls.pwritev(file.fd(operation.slot), parts, at))


def append(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """write(2) by the O_APPEND descriptor, wherever that stands: it lands at the end."""
    at = len(file.content)
    data = operation.data()[: stage.size - at]
    if not data:
        raise Skipped
    return wrote(file, at, data, stage.calls.append(file.fd(APPEND_SLOT), data))


def direct_write(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """pwritev(2) of whole blocks from aligned memory, by the O_DIRECT descriptor."""
    at = stage.at(file, operation) // BLOCK * BLOCK
    data = operation.data()[: (stage.size - at) // BLOCK * BLOCK]
    if not data or len(data) % BLOCK:
        raise Skipped
    with mmap.mmap(-1, len(data)) as aligned:
        aligned[:] = data
        count = stage.calls.pwritev(file.fd(DIRECT_SLOT), [aligned], at)
    return wrote(file, at, data, count)


def truncate(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """truncate(2), by name."""
    size = stage.at(file, operation)
    stage.calls.truncate(file.named(), size)
    file.content.resize(size)
    return size, size


def ftruncate(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """ftruncate(2), down or up."""
    size = stage.at(file, operation)
    stage.calls.ftruncate(file.fd(operation.slot), size)
    start = min(size, len(file.content))
    file.content.resize(size)
    return start, size


# Ranges


def _fallocate(stage: Stage, file: File, operation: Operation, mode: int) -> tuple[int, int]:
    at, length = stage.range(file, operation)
    stage.calls.fallocate(file.fd(operation.slot), mode, at, length)
    return at, length


def allocate(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """fallocate(2): grows, and changes no byte."""
    at, length = _fallocate(stage, file, operation, 0)
    if at + length > len(file.content):
        file.content.resize(at + length)
    return at, at + length


def allocate_keep(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """fallocate(2) FALLOC_FL_KEEP_SIZE: changes nothing."""
    at, length = _fallocate(stage, file, operation, calls.FALLOC_KEEP_SIZE)
    return at, at + length


def punch_hole(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """fallocate(2) FALLOC_FL_PUNCH_HOLE: zeros, the size stays."""
    at, length = _fallocate(stage, file, operation, calls.FALLOC_KEEP_SIZE | calls.FALLOC_PUNCH_HOLE)
    file.content.zero(at, length, keep=True)
    return at, at + length


def zero_range(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """fallocate(2) FALLOC_FL_ZERO_RANGE: zeros, and may grow."""
    at, length = _fallocate(stage, file, operation, calls.FALLOC_ZERO_RANGE)
    file.content.zero(at, length, keep=False)
    return at, at + length


def zero_range_keep(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """fallocate(2) FALLOC_FL_ZERO_RANGE with KEEP_SIZE: zeros, the size stays."""
    at, length = _fallocate(stage, file, operation, calls.FALLOC_ZERO_RANGE | calls.FALLOC_KEEP_SIZE)
    file.content.zero(at, length, keep=True)
    return at, at + length


def collapse_range(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """fallocate(2) FALLOC_FL_COLLAPSE_RANGE: whole blocks taken out, not up to the end."""
    at = stage.at(file, operation)
    if at + operation.length >= len(file.content):
        raise Skipped
    stage.calls.fallocate(file.fd(operation.slot), calls.FALLOC_COLLAPSE_RANGE, at, operation.length)
    file.content.collapse(at, operation.length)
    return at, len(file.content)


def insert_range(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """fallocate(2) FALLOC_FL_INSERT_RANGE: whole blocks of zeros put in, before the end."""
    at = stage.at(file, operation)
    if at >= len(file.content) or len(file.content) + operation.length > stage.size:
        raise Skipped
    stage.calls.fallocate(file.fd(operation.slot), calls.FALLOC_INSERT_RANGE, at, operation.length)
    file.content.insert(at, operation.length)
    return at, len(file.content)
