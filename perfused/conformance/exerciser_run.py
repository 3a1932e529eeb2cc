"""Does a plan's operations to a directory, one after the other, and looks at the files after each.

One `Run` is one pass: it raises the first `Difference` and takes its files away again. What a single operation does is
in `exerciser_acts` and `exerciser_moves`.
"""

import errno
import os
import shutil
import tempfile
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path

from perfused.conformance import exerciser_acts, exerciser_moves
from perfused.conformance.exerciser_calls import Calls
from perfused.conformance.exerciser_files import Act, File, Skipped, Stage, Unsupported
from perfused.conformance.exerciser_model import Difference, compare
from perfused.conformance.exerciser_operations import LOOK_ALL, LOOK_NEAR, WEIGHTS, Operation, Plan

#: bytes looked at on either side of the range an operation touched
MARGIN = 64
#: lines of the log kept
RECENT = 20

ACTS: dict[str, Act] = {
    name: getattr(exerciser_acts if hasattr(exerciser_acts, name) else exerciser_moves, name) for name in WEIGHTS
}

_NO_MODE = frozenset({errno.EOPNOTSUPP, errno.ENOSYS})
#: errnos by which a filesystem says that it does not have an operation, or not for such a range
ABSENT: dict[str, frozenset[int]] = {
    "allocate": _NO_MODE,
    "allocate_keep": _NO_MODE,
    "punch_hole": _NO_MODE,
    "zero_range": _NO_MODE,
    "zero_range_keep": _NO_MODE,
    "collapse_range": _NO_MODE | {errno.EINVAL},
    "insert_range": _NO_MODE | {errno.EINVAL},
    "copy_range": _NO_MODE | {errno.EXDEV},
    "copy_overlapping": _NO_MODE | {errno.EXDEV},
    "direct_read": frozenset({errno.EINVAL}),
    "direct_write": frozenset({errno.EINVAL}),
    "map": frozenset({errno.ENODEV}),
    "link": frozenset({errno.EPERM, errno.EOPNOTSUPP}),
}


class Run:
    """One pass of a plan's operations below `directory`."""

    def __init__(self, directory: Path, plan: Plan, calls: Calls) -> None:
        self.plan, self.calls = plan, calls
        self.place = Path(tempfile.mkdtemp(prefix="exerciser-", dir=directory))
        self.files = [File(number, self.place, calls) for number in range(plan.files)]
        self.stage = Stage(calls, self.files, plan.size)
        self.done: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.unsupported: Counter[str] = Counter()
        self.recent: deque[str] = deque(maxlen=RECENT)
        self.step = 0

    def run(self) -> None:
        """Do all of it; the first Difference is raised, and `step` is where it was: len(operations) for the last look
        at all files. OSError where the files cannot be made."""
        try:
            for file in self.files:
                file.begin()
            for operation in self.plan.operations:
                self._do(operation)
                self.step += 1
            for file in self.files:
                self._watched(file, lambda file=file: self._look_at_all(file))  # type: ignore[misc]
        finally:
            for file in self.files:
                file.end()
            shutil.rmtree(self.place, ignore_errors=True)

    def last_change(self, difference: Difference) -> int | None:
        """The step that last set the first byte of a difference, None where none did."""
        if difference.offset is None:
            return None
        return self.files[difference.file].content.last_change(difference.offset)

    def _do(self, operation: Operation) -> None:
        """Do one operation, and look at what it left."""
        file = self.files[operation.file]
        file.content.step = self.step
        line = f"{self.step}: {operation} size={len(file.content)}"
        try:
            self._watched(file, lambda: self._act(file, operation))
            self.done[operation.name] += 1
        except Skipped:
            self.skipped[operation.name] += 1
            line += " (skipped)"
        except Unsupported:
            self.unsupported[operation.name] += 1
            line += " (unsupported)"
        finally:
            self.recent.append(line)

    def _watched(self, file: File, act: Callable[[], None]) -> None:
        """An errno nobody expects is a Difference too."""
        try:
            act()
        except OSError as bad:
            name = errno.errorcode.get(bad.errno or 0, str(bad.errno))
            raise Difference("errno", f"{name}: {bad.strerror}", file=file.number) from bad
        except Difference as difference:
            difference.file = file.number
            raise

    def _act(self, file: File, operation: Operation) -> None:
        try:
            start, end = ACTS[operation.name](self.stage, file, operation)
        except OSError as bad:
            if bad.errno not in ABSENT.get(operation.name, ()):
                raise
            self._look(file, operation, 0, 0)
            raise Unsupported from bad
        self._look(file, operation, start, end)

    def _look(self, file: File, operation: Operation, start: int, end: int) -> None:
        self._same_size(file, self.calls.fstat(file.fd(0)).st_size, "fstat(2)")
        if operation.look == LOOK_ALL:
            self._look_at_all(file)
        elif operation.look == LOOK_NEAR:
            start = max(0, start - MARGIN)
            length = end + MARGIN - start
            got = self.calls.pread(file.fd(1 if operation.slot == 0 else 0), length, start)
            compare(file.content.piece(start, length), got, start, "read back by another descriptor")

    def _same_size(self, file: File, size: int, what: str) -> None:
        expected = len(file.content)
        if size != expected:
            raise Difference("size", f"{what} says {size} bytes, expected {expected}", min(size, expected))

    def _look_at_all(self, file: File) -> None:
        """The whole file, by a descriptor opened for it where the file still has a name."""
        fd = file.fd(1) if file.path is None else self.calls.open(file.path, os.O_RDONLY)
        try:
            if file.path is not None:
                self._same_size(file, self.calls.stat(file.path).st_size, "stat(2)")
            got = bytearray()
            while piece := self.calls.pread(fd, self.plan.size + 1 - len(got), len(got)):
                got += piece
            compare(file.content.bytes, got, 0, "the whole file read by another descriptor")
        finally:
            if file.path is not None:
                self.calls.close(fd)
