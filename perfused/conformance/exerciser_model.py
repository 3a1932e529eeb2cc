"""What a file must hold, as the exerciser knows it, and a difference between that and what was found.

Nothing here touches a filesystem.
"""

from dataclasses import dataclass

#: bytes shown before and after the first difference
BEFORE, AFTER = 16, 48


class Difference(Exception):
    """The filesystem did not do what the model says.

    `kind` is data, size, count (of bytes done), hole, names, or errno; `offset` the first byte that differs, None where
    no byte does. `expected` and `got` are the bytes around it, from `start` on, or what each side says in words.
    """

    def __init__(
        self,
        kind: str,
        text: str,
        offset: int | None = None,
        start: int = 0,
        expected: bytes = b"",
        got: bytes = b"",
        file: int = 0,
    ) -> None:
        super().__init__(text)
        self.kind, self.text, self.offset, self.start = kind, text, offset, start
        self.expected, self.got, self.file = expected, got, file


def compare(expected: bytes | bytearray, got: bytes | bytearray, at: int, what: str) -> None:
    """Difference unless both are equal; `at` is the offset in the file of their first byte."""
    if expected == got:
        return
    first = first_difference(expected, got)
    start = max(0, first - BEFORE)
    shown = bytes(expected[start : first + AFTER]), bytes(got[start : first + AFTER])
    kind = "data" if first < min(len(expected), len(got)) else "count"
    text = f"{what}: byte {at + first} differs"
    if kind == "count":
        text = f"{what}: {len(expected)} bytes from {at} expected, got {len(got)}"
    raise Difference(kind, text, at + first, at + start, *shown)


def first_difference(one: bytes | bytearray, other: bytes | bytearray) -> int:
    """The index of the first byte that differs; the shorter one's length where it begins the longer."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


@dataclass(frozen=True)
class Change:
    """A step and the bytes [start, end) it set."""

    step: int
    start: int
    end: int


class Content:
    """The bytes of one file, and which step set each last."""

    def __init__(self) -> None:
        self.bytes = bytearray()
        self.changes: list[Change] = []
        #: the step that is under way
        self.step = 0

    def __len__(self) -> int:
        return len(self.bytes)

    def _changed(self, start: int, end: int) -> None:
        if start < end:
            self.changes.append(Change(self.step, start, end))

    def last_change(self, offset: int) -> int | None:
        """The step that last set the byte at `offset`, or moved the file's end across it; None where none did."""
        return next((each.step for each in reversed(self.changes) if each.start <= offset < each.end), None)

    def piece(self, offset: int, length: int) -> bytes:
        """What a read finds: at most `length` bytes, fewer at the end."""
        return bytes(self.bytes[offset : offset + length]) if length > 0 else b""

    def resize(self, size: int) -> None:
        """Cut off, or grow by zeros."""
        now = len(self.bytes)
        self._changed(min(size, now), max(size, now))
        if size < now:
            del self.bytes[size:]
        else:
            self.bytes.extend(bytes(size - now))

    def write(self, offset: int, data: bytes) -> None:
        """Set bytes; a gap before them is zeros. Nothing written leaves the size alone."""
        if data and offset > len(self.bytes):
            self.resize(offset)
        self.bytes[offset : offset + len(data)] = data
        self._changed(offset, offset + len(data))

    def zero(self, offset: int, length: int, keep: bool) -> None:
        """Zeros in a range, without growing where `keep`."""
        end = min(offset + length, len(self.bytes)) if keep else offset + length
        if offset < end:
            self.write(offset, bytes(end - offset))

    def collapse(self, offset: int, length: int) -> None:
        """Take a range out."""
        self._changed(offset, len(self.bytes))
        del self.bytes[offset : offset + length]

    def insert(self, offset: int, length: int) -> None:
        """Put zeros in; what was there moves up."""
        self.bytes[offset:offset] = bytes(length)
        self._changed(offset, len(self.bytes))
