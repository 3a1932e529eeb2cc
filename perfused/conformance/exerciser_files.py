"""The files that the exerciser works on: descriptors, mappings and names, and where an operation acts in them.

What an operation does is in `exerciser_acts` and `exerciser_moves`; in which order, and what is looked at, in
`exerciser_run`.
"""

import errno
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from perfused.conformance.exerciser_calls import Calls
from perfused.conformance.exerciser_model import Content, Difference
from perfused.conformance.exerciser_operations import DIRECT_SLOT, MAPPINGS, Operation

#: open(2)'s flags for each descriptor
FLAGS = (os.O_RDWR, os.O_RDWR, os.O_RDWR | os.O_APPEND, os.O_RDWR | os.O_DIRECT)


class Skipped(Exception):
    """The operation has no meaning in the state the files are in."""


class Unsupported(Exception):
    """The filesystem does not have the operation."""


class File:
    """One file: its content as it must be, its name (None once unlinked), its descriptors and mappings."""

    def __init__(self, number: int, place: Path, calls: Calls) -> None:
        self.number, self.place, self.calls = number, place, calls
        self.content = Content()
        self.names = 0
        self.path: str | None = None
        self.fds: list[int | None] = []
        self.maps: list[mmap.mmap | None] = []

    def begin(self) -> None:
        """Make it, empty, under a new name, and open every descriptor."""
        self.path = self.new_name()
        self.calls.close(self.calls.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL))
        self.maps = [None] * MAPPINGS
        for slot in range(len(FLAGS)):
            self.fds.append(self.open(self.path, slot))

    def end(self) -> None:
        """Close whatever is open."""
        for mapping in self.maps:
            if mapping is not None:
                mapping.close()
        for fd in self.fds:
            if fd is not None:
                self.calls.close(fd)
        self.maps, self.fds = [], []

    def open(self, path: str, slot: int) -> int | None:
        """A new descriptor for a slot; None where the filesystem has no O_DIRECT."""
        try:
            return self.calls.open(path, FLAGS[slot])
        except OSError as bad:
            if slot == DIRECT_SLOT and bad.errno == errno.EINVAL:
                return None
            raise

    def new_name(self) -> str:
        """A path not used before."""
        self.names += 1
        return str(self.place / f"file{self.number}.{self.names}")

    def fd(self, slot: int) -> int:
        """A descriptor; Unsupported where it cannot be opened."""
        found = self.fds[slot]
        if found is None:
            raise Unsupported
        return found

    def named(self) -> str:
        """The path; Skipped once it has none."""
        if self.path is None:
            raise Skipped
        return self.path

    def mapping(self, slot: int) -> mmap.mmap:
        """A mapping; Skipped where none was made."""
        found = self.maps[slot]
        if found is None:
            raise Skipped
        return found


@dataclass
class Stage:
    """What an act works with: the calls, all files, and the largest size of a file in bytes."""

    calls: Calls
    files: list[File]
    size: int

    def at(self, file: File, operation: Operation) -> int:
        """The offset an operation acts at, from 0 to the largest size."""
        offset = operation.offset + (len(file.content) if operation.from_end else 0)
        return min(max(0, offset), self.size)

    def range(self, file: File, operation: Operation, limit: int | None = None) -> tuple[int, int]:
        """Offset and length, cut to the largest size or to `limit`; Skipped where nothing is left."""
        at = self.at(file, operation)
        length = min(operation.length, (self.size if limit is None else limit) - at)
        if length <= 0:
            raise Skipped
        return at, length


def wrote(file: File, at: int, data: bytes, count: int) -> tuple[int, int]:
    """Note that `count` bytes of `data` were taken: a Difference if none, or more than there were."""
    if not 0 < count <= len(data):
        raise Difference("count", f"{len(data)} bytes to write, {count} written", at)
    file.content.write(at, data[:count])
    return at, at + len(data)


#: an act does one operation and returns the range [start, end) worth looking at afterwards
Act = Callable[[Stage, File, Operation], tuple[int, int]]
