"""Operations on two files, on mappings, on descriptors and on names: each does one thing and tells the model.

Every function is an `Act`. Reading, writing and resizing one file by a descriptor is in `exerciser_acts`.
"""

import errno
import os

from perfused.conformance.exerciser_files import File, Skipped, Stage
from perfused.conformance.exerciser_model import Content, Difference, compare
from perfused.conformance.exerciser_operations import PAGE, Operation

# From one file to another, or within one


def _copied(source: bytes, file: File, at: int, count: int) -> tuple[int, int]:
    """Note that `count` bytes arrived: some, where there were some."""
    if not (0 < count <= len(source) or count == len(source) == 0):
        raise Difference("count", f"{len(source)} bytes to copy, {count} copied", at)
    file.content.write(at, source[:count])
    return at, at + len(source)


def copy_range(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """copy_file_range(2), between files or within one."""
    at, length = stage.range(file, operation)
    source, start = stage.files[operation.other], operation.other_offset
    data = source.content.piece(start, length)
    if source is file and start < at + length and at < start + length:
        raise Skipped
    count = stage.calls.copy_range(source.fd(1 - operation.slot), file.fd(operation.slot), length, start, at)
    return _copied(data, file, at, count)


def copy_overlapping(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """Within one file, onto a part of itself: EINVAL, and nothing changes."""
    at, length = stage.range(file, operation, len(file.content))
    if length < 2:
        raise Skipped
    fd = file.fd(operation.slot)
    try:
        count = stage.calls.copy_range(fd, fd, length, at, at + length // 2)
    except OSError as bad:
        if bad.errno != errno.EINVAL:
            raise
        return at, at + length + length // 2
    raise Difference("errno", f"{count} bytes copied onto a part of themselves, expected EINVAL", at)


def sendfile(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """sendfile(2) from another file."""
    at, length = stage.range(file, operation)
    source, start = stage.files[operation.other], operation.other_offset
    if source is file:
        raise Skipped
    count = stage.calls.sendfile(file.fd(operation.slot), source.fd(0), start, length, at)
    return _copied(source.content.piece(start, length), file, at, count)


# Mappings


def map(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """mmap(2), shared, of all the file holds now; an older mapping in the slot goes."""
    if not len(file.content):
        raise Skipped
    made = stage.calls.map(file.fd(operation.slot), len(file.content))
    old, file.maps[operation.slot] = file.maps[operation.slot], made
    if old is not None:
        old.close()
    return 0, 0


def _mapped(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """Offset and length within both the mapping and the file: beyond either there is nothing to have."""
    limit = min(len(file.content), len(file.mapping(operation.slot)))
    if not limit:
        raise Skipped
    at = stage.at(file, operation) % limit
    return at, min(operation.length, limit - at)


def map_read(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """Read a mapping; where that reaches the file's end, the rest of the last page too: it must be zeros."""
    mapping = file.mapping(operation.slot)
    size = len(file.content)
    at, length = _mapped(stage, file, operation)
    if at + length == size:
        length = min((size + PAGE - 1) // PAGE * PAGE, len(mapping)) - at
    expected = file.content.piece(at, length)
    got = stage.calls.map_read(mapping, at, length)
    compare(expected.ljust(length, b"\0"), got, at, "read from a mapping")
    return at, at


def map_write(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """Write to a mapping, before the end of the file."""
    mapping = file.mapping(operation.slot)
    at, length = _mapped(stage, file, operation)
    data = operation.data()[:length]
    stage.calls.map_write(mapping, at, data)
    file.content.write(at, data)
    return at, at + length


def msync(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """msync(2) of some pages of a mapping."""
    mapping = file.mapping(operation.slot)
    at, length = stage.range(file, operation, len(mapping))
    start = at // PAGE * PAGE
    stage.calls.msync(mapping, start, at + length - start)
    return at, at + length


# Descriptors


def reopen(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """close(2) and open(2) by name."""
    path, old = file.named(), file.fd(operation.slot)
    file.fds[operation.slot] = None
    stage.calls.close(old)
    file.fds[operation.slot] = file.open(path, operation.slot)
    return stage.at(file, operation), stage.at(file, operation) + operation.length


def fsync(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """fsync(2)."""
    stage.calls.fsync(file.fd(operation.slot))
    return 0, 0


def fdatasync(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """fdatasync(2)."""
    stage.calls.fdatasync(file.fd(operation.slot))
    return 0, 0


# Names


def rename(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """rename(2) to a new name, the file being open."""
    old, new = file.named(), file.new_name()
    stage.calls.rename(old, new)
    file.path = new
    _same_file(stage, file, new, 1)
    return 0, 0


def rename_over(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """rename(2) onto another file, which goes."""
    old, new = file.named(), file.new_name()
    stage.calls.close(stage.calls.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL))
    stage.calls.rename(old, new)
    file.path = new
    _same_file(stage, file, new, 1)
    return 0, 0


def link(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """A second name, of which one is taken away again: the old one or the new one."""
    old, new = file.named(), file.new_name()
    stage.calls.link(old, new)
    _same_file(stage, file, new, 2)
    gone, file.path = (old, new) if operation.fill & 1 else (new, old)
    stage.calls.unlink(gone)
    _same_file(stage, file, file.path, 1)
    return 0, 0


def unlink(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """Take the only name away; the descriptors and mappings go on."""
    path = file.named()
    stage.calls.unlink(path)
    file.path = None
    links = stage.calls.fstat(file.fd(0)).st_nlink
    if links != 0:
        raise Difference("names", f"st_nlink is {links} after the only name is gone")
    return 0, 0


def renew(stage: Stage, file: File, operation: Operation) -> tuple[int, int]:
    """A new, empty file in the place of an unlinked one."""
    if file.path is not None:
        raise Skipped
    file.end()
    step = file.content.step
    file.content = Content()
    file.content.step = step
    file.begin()
    return 0, 0


def _same_file(stage: Stage, file: File, path: str, links: int) -> None:
    """A name leads to the file, and the file has as many names as it should."""
    by_name, by_fd = stage.calls.stat(path), stage.calls.fstat(file.fd(0))
    if (by_name.st_dev, by_name.st_ino) != (by_fd.st_dev, by_fd.st_ino):
        raise Difference("names", f"{os.path.basename(path)} is inode {by_name.st_ino}, the file {by_fd.st_ino}")
    if (by_name.st_nlink, by_fd.st_nlink) != (links, links):
        found = f"{by_name.st_nlink} by name and {by_fd.st_nlink} by descriptor"
        raise Difference("names", f"st_nlink is {found}, expected {links}")
