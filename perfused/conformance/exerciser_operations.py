"""What the exerciser may do, as data: one operation, a plan of them made from a seed, and their form on disk.

An operation names everything it needs and looks at nothing, so a plan depends on its seed and sizes alone, and an
operation means the same thing when those before it are taken away. Nothing here touches a filesystem.
"""

import json
import random
from dataclasses import asdict, dataclass, fields
from typing import Any

PAGE = 4096
#: the alignment of O_DIRECT and of ranges that are taken out of a file or put into it
BLOCK = 4096

#: descriptors of each file: 0 and 1 read and write, 2 appends, 3 is O_DIRECT
SLOTS = 4
APPEND_SLOT = 2
DIRECT_SLOT = 3
#: mappings of each file
MAPPINGS = 2

#: how much is looked at after an operation: nothing but the size, the range it touched, or the whole file
LOOK_SIZE, LOOK_NEAR, LOOK_ALL = 0, 1, 2

#: operation -> how often it comes, relative to the others
WEIGHTS = {
    "pread": 12,
    "preadv": 4,
    "read": 4,
    "pwrite": 14,
    "pwritev": 4,
    "append": 5,
    "direct_read": 4,
    "direct_write": 4,
    "truncate": 3,
    "ftruncate": 5,
    "allocate": 2,
    "allocate_keep": 2,
    "punch_hole": 4,
    "zero_range": 3,
    "zero_range_keep": 2,
    "collapse_range": 2,
    "insert_range": 2,
    "seek": 4,
    "seek_synced": 2,
    "copy_range": 5,
    "copy_overlapping": 1,
    "sendfile": 3,
    "map": 6,
    "map_read": 8,
    "map_write": 9,
    "msync": 3,
    "reopen": 4,
    "fsync": 2,
    "fdatasync": 1,
    "rename": 2,
    "rename_over": 1,
    "link": 2,
    "unlink": 1,
    "renew": 5,
}


@dataclass(frozen=True)
class Operation:
    """One thing to do to one file.

    `offset` and `length` are bytes, `offset` counted from the file's end where `from_end` (and cut to the file's
    largest size when it is done). `slot` is a descriptor's or a mapping's number. `fill` seeds the bytes written, or
    says which of two names a link keeps. `other` and `other_offset` are the source of a copy. `look` is how much of
    the file is compared afterwards.
    """

    name: str
    file: int = 0
    slot: int = 0
    offset: int = 0
    length: int = 0
    from_end: bool = False
    fill: int = 0
    other: int = 0
    other_offset: int = 0
    look: int = LOOK_NEAR

    def __str__(self) -> str:
        text = f"{self.name} file={self.file} slot={self.slot}"
        if self.length or self.offset:
            text += f" offset={'end' if self.from_end else ''}{self.offset:+d} length={self.length}"
        if self.name in ("copy_range", "copy_overlapping", "sendfile"):
            text += f" from file={self.other} offset={self.other_offset}"
        return text

    def data(self) -> bytes:
        """The bytes it writes: `length` of them, no zeros among them, so that a hole is never mistaken for data."""
        return random.Random(self.fill).randbytes(self.length).replace(b"\0", b"\1")


@dataclass(frozen=True)
class Plan:
    """A list of operations and what they were made for: `files` files of at most `size` bytes each."""

    seed: int
    files: int
    size: int
    operations: tuple[Operation, ...]

    def to_json(self) -> str:
        """One line an operation, what has its default value left out."""
        lines = []
        for each in self.operations:
            plain = {key: value for key, value in asdict(each).items() if value != _DEFAULTS[key]}
            lines.append("  " + json.dumps(plain))
        head = json.dumps({"seed": self.seed, "files": self.files, "size": self.size})[:-1]
        return head + ', "operations": [\n' + ",\n".join(lines) + "\n]}\n"

    @staticmethod
    def from_json(text: str) -> "Plan":
        """The plan that `to_json` wrote; ValueError for anything else."""
        try:
            found: dict[str, Any] = json.loads(text)
            operations = tuple(Operation(**each) for each in found["operations"])
            plan = Plan(int(found["seed"]), int(found["files"]), int(found["size"]), operations)
        except (TypeError, KeyError, AttributeError) as bad:
            raise ValueError(f"no list of operations: {bad}") from bad
        plan.check()
        return plan

    def check(self) -> None:
        """ValueError unless every operation is known, has whole numbers of its ranges and names files there are."""
        _check_files(self.files, self.size)
        for number, each in enumerate(self.operations):
            numbers = [getattr(each, field.name) for field in fields(Operation) if field.name != "name"]
            if each.name not in WEIGHTS or not all(isinstance(value, int) for value in numbers):
                raise ValueError(f"operation {number} is not one: {each}")
            slots = MAPPINGS if each.name in ("map", "map_read", "map_write", "msync") else SLOTS
            if not (0 <= each.file < self.files and 0 <= each.other < self.files and 0 <= each.slot < slots):
                raise ValueError(f"operation {number} names a file or slot that is not there: {each}")
            if not (0 <= each.length <= self.size and 0 <= each.other_offset <= self.size):
                raise ValueError(f"operation {number} is out of range: {each}")


def _check_files(files: int, size: int) -> None:
    if files < 1 or size < 2 * BLOCK:
        raise ValueError(f"at least one file of at least {2 * BLOCK} bytes is needed")


_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Operation)}


def plan(
    seed: int, operations: int, files: int = 3, size: int = 1 << 20, without: frozenset[str] = frozenset()
) -> Plan:
    """A plan made from its arguments alone: the same for the same arguments on every machine.

    `without` names operations that are left out; a name that is none, or nothing left to do, is a ValueError.
    """
    if unknown := without - WEIGHTS.keys():
        raise ValueError(f"no such operation: {', '.join(sorted(unknown))}")
    weights = {name: weight for name, weight in WEIGHTS.items() if name not in without}
    if not weights:
        raise ValueError("no operation is left")
    _check_files(files, size)
    chance = random.Random(seed)
    names = chance.choices(list(weights), list(weights.values()), k=operations)
    made = Plan(seed, files, size, tuple(_operation(chance, name, files, size) for name in names))
    made.check()
    return made


def _operation(chance: random.Random, name: str, files: int, size: int) -> Operation:
    """One operation; what a kind of operation does not need is drawn all the same, and does no harm."""
    length = min(chance.choice((1, 64, PAGE, PAGE, 4 * PAGE, 16 * PAGE)), size // 4)
    length = chance.randint(1, length)
    offset, from_end = _offset(chance, size), False
    if name not in ("truncate", "ftruncate") and chance.random() < 0.2:
        offset, from_end = chance.randint(-2 * PAGE, PAGE), True
    if name in ("direct_read", "direct_write", "collapse_range", "insert_range"):
        length, offset, from_end = _up(length), offset // BLOCK * BLOCK, False
    slot = chance.randrange(2)
    if name == "append":
        slot = APPEND_SLOT
    elif name.startswith("direct_"):
        slot = DIRECT_SLOT
    elif name in ("reopen", "fsync", "fdatasync"):
        slot = chance.randrange(SLOTS)
    return Operation(
        name=name,
        file=chance.randrange(files),
        slot=slot,
        offset=offset,
        length=length,
        from_end=from_end,
        fill=chance.randrange(1 << 32),
        other=chance.randrange(files),
        other_offset=_offset(chance, size),
        look=chance.choices((LOOK_SIZE, LOOK_NEAR, LOOK_ALL), (15, 82, 3))[0],
    )


def _offset(chance: random.Random, size: int) -> int:
    """Somewhere in a file, about half of the time at a page's edge or in the first pages."""
    kind = chance.random()
    if kind < 0.25:
        return min(max(0, chance.randint(0, size // PAGE) * PAGE + chance.choice((-1, 0, 0, 0, 1))), size)
    if kind < 0.5:
        return chance.randint(0, min(size, 4 * PAGE))
    return chance.randint(0, size)


def _up(length: int) -> int:
    """A length as whole blocks, at least one."""
    return max(BLOCK, (length + BLOCK - 1) // BLOCK * BLOCK)
