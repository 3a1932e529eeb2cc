"""Cases about reads, writes, truncation, mappings and copies of one file in a row, in each manner of caching.

A list of steps is done to a file of the mount and to bytes in memory; each read, and the server's file at last, must be
what the bytes are. Lists that have a name are about the edges where caches go wrong; the others are random but fixed.
"""

import mmap
import os
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from perfused.conformance.kernel import seam
from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.steps import opened
from wire.flags import InitFlag, OpenFlag
from wire.opcodes import Opcode

PAGE = mmap.PAGESIZE
#: what is done, and up to three numbers
Step = tuple[str, int, int] | tuple[str, int, int, int]


def _filled(at: int, length: int, turn: int) -> bytes:
    """Bytes that tell where and in which step they were written."""
    return bytes((turn * 37 + (at + each) * 7) % 255 + 1 for each in range(length))


def _put(model: bytearray, at: int, data: bytes) -> None:
    model.extend(bytes(max(0, at - len(model))))
    model[at : at + len(data)] = data


def _play(fd: int, steps: Sequence[Step]) -> str:
    """Do the steps to a file and to bytes: the first difference, or nothing."""
    model = bytearray()
    for turn, step in enumerate(steps):
        word, at, length = step[:3]
        data = _filled(at, length, turn)
        if word == "write":
            os.pwrite(fd, data, at)
            _put(model, at, data)
        elif word == "read":
            got = os.pread(fd, length, at)
            if got != model[at : at + length]:
                return f"step {turn} {step}: {_difference(got, model[at : at + length], at)}"
        elif word == "truncate":
            os.ftruncate(fd, at)
            model.extend(bytes(max(0, at - len(model))))
            del model[at:]
        elif word == "store":
            with mmap.mmap(fd, at + length) as mapped:
                mapped[at:] = data
            _put(model, at, data)
        elif word == "load":
            with mmap.mmap(fd, at + length, prot=mmap.PROT_READ) as mapped:
                if mapped[at:] != model[at : at + length]:
                    return f"step {turn} {step}: {_difference(mapped[at:], model[at : at + length], at)}"
        elif word == "copy":
            os.copy_file_range(fd, fd, length, at, step[-1])
            _put(model, step[-1], bytes(model[at : at + length]))
        elif word == "zero":
            seam.call("fallocate")(fd, 0x10, at, length)
            _put(model, at, bytes(length))
        elif word == "sync":
            os.fsync(fd)
        elif word == "forget":
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if os.fstat(fd).st_size != len(model):
            return f"step {turn} {step}: st_size {os.fstat(fd).st_size}, wanted {len(model)}"
    os.fsync(fd)
    got = os.pread(fd, len(model) + 100, 0)
    return "" if got == model else f"at last: {_difference(got, model, 0)}"


def _difference(got: bytes | bytearray, wanted: bytes | bytearray, at: int) -> str:
    if len(got) != len(wanted):
        return f"{len(got)} bytes, wanted {len(wanted)}"
    first = next(each for each in range(len(got)) if got[each] != wanted[each])
    return f"byte {at + first} is {got[first]}, wanted {wanted[first]}"


class Manner(NamedTuple):
    """How a file is cached."""

    name: str
    flags: InitFlag
    open_flags: OpenFlag
    max_write: int
    maps: bool = True


COPY = InitFlag.BIG_WRITES
MANNERS = (
    Manner("through", COPY, OpenFlag(0), 16 * PAGE),
    Manner("through-small-writes", InitFlag(0), OpenFlag(0), PAGE),
    Manner("writeback", COPY | InitFlag.WRITEBACK_CACHE, OpenFlag(0), 16 * PAGE),
    Manner("writeback-small-writes", COPY | InitFlag.WRITEBACK_CACHE, OpenFlag(0), PAGE),
    Manner("direct", COPY, OpenFlag.DIRECT_IO, 16 * PAGE, False),
    Manner("direct-and-mapped", COPY | InitFlag.DIRECT_IO_ALLOW_MMAP, OpenFlag.DIRECT_IO, 16 * PAGE),
)

#: edges: within a page, at the last page, beyond the end
STORIES: dict[str, tuple[Step, ...]] = {
    "grow-from-a-dirty-page": (
        ("write", 100, 50), ("write", PAGE + 200, 10), ("read", 0, 2 * PAGE), ("write", 150, PAGE),
        ("read", 0, 2 * PAGE),
    ),
    "last-page": (
        ("write", 0, PAGE + 30), ("read", PAGE, PAGE), ("truncate", PAGE + 10, 0), ("read", PAGE, PAGE),
        ("truncate", PAGE + 50, 0), ("read", PAGE, PAGE),
    ),
    "hole-beside-cached-data": (
        ("write", 0, 10), ("read", 0, 10), ("write", 3 * PAGE, 10), ("read", 0, 4 * PAGE), ("read", PAGE, PAGE),
    ),
    "truncate-into-dirty-data": (
        ("write", 0, 3 * PAGE), ("truncate", PAGE + 7, 0), ("truncate", 2 * PAGE + 9, 0), ("read", 0, 3 * PAGE),
    ),
    "truncate-then-write-behind": (
        ("write", 0, PAGE), ("truncate", 5, 0), ("write", 20, 5), ("read", 0, PAGE),
    ),
    "grow-within-a-cached-page": (
        ("write", 0, 10), ("read", 0, 10), ("truncate", 30, 0), ("read", 0, 40), ("write", 40, 5), ("read", 0, 50),
    ),
    "overwrite-across-pages": (
        ("write", 0, 4 * PAGE), ("sync", 0, 0), ("forget", 0, 0), ("write", PAGE - 3, PAGE + 6), ("read", 0, 4 * PAGE),
    ),
    "zeros-in-cached-data": (
        ("write", 0, 3 * PAGE), ("read", 0, 3 * PAGE), ("zero", PAGE - 5, PAGE + 10), ("read", 0, 3 * PAGE),
    ),
    "copy-of-dirty-data": (
        ("write", 0, PAGE), ("copy", 0, PAGE, 2 * PAGE), ("read", 0, 3 * PAGE), ("write", 2 * PAGE, 9),
        ("read", 0, 3 * PAGE),
    ),
}  # fmt: skip
MAPPED: dict[str, tuple[Step, ...]] = {
    "grow-then-store": (
        ("truncate", 2 * PAGE, 0), ("store", PAGE + 5, 10), ("read", 0, 2 * PAGE), ("truncate", PAGE + 8, 0),
        ("read", 0, 2 * PAGE),
    ),
    "load-a-hole": (
        ("write", 3 * PAGE, 10), ("load", PAGE, 100), ("write", PAGE + 10, 20), ("load", PAGE, 100),
    ),
    "store-beside-write": (
        ("write", 0, PAGE), ("store", 10, 10), ("write", 15, 10), ("load", 0, PAGE), ("read", 0, PAGE),
    ),
    "copy-of-stored-data": (
        ("write", 0, 2 * PAGE), ("store", 100, 50), ("copy", 90, 80, PAGE + 100), ("read", 0, 2 * PAGE),
    ),
    "store-then-truncate": (
        ("write", 0, 2 * PAGE), ("store", PAGE - 20, 40), ("truncate", PAGE + 3, 0), ("truncate", 2 * PAGE, 0),
        ("load", 0, 2 * PAGE),
    ),
}  # fmt: skip


def _random(seed: int, count: int, maps: bool) -> list[Step]:
    chosen = random.Random(seed)
    words = ["write", "write", "write", "read", "read", "truncate", "copy", "zero", "sync", "forget"]
    words += ["store", "store", "load"] if maps else []
    size, steps = 0, list[Step]()
    while len(steps) < count:
        word = chosen.choice(words)
        at, length = chosen.randrange(12 * PAGE), chosen.randrange(1, 3 * PAGE)
        if word in ("store", "load"):
            if at + length > size:
                continue
        elif word == "copy":
            to = chosen.randrange(12 * PAGE)
            if at + length > size or abs(at - to) < length:
                continue
            steps.append((word, at, length, to))
            size = max(size, to + length)
            continue
        elif word == "truncate":
            size = at
        elif word in ("write", "zero"):
            size = max(size, at + length)
        steps.append((word, at, length))
    return steps


def _tell(name: str, manner: Manner, steps: Callable[[], Sequence[Step]], level: Level = Level.MUST) -> None:
    @case(f"io/{name}-{manner.name}", Opcode.READ, Opcode.WRITE, Opcode.SETATTR, aspect="cache", level=level,
          flags=manner.flags, source="POSIX: a read gives what was written last, by whichever call")  # fmt: skip
    def _(k: Bench) -> None:
        k.mount(manner.flags, max_write=manner.max_write).tree.add("a")
        k.tree.valid = 60
        k.tree.open_flags = int(manner.open_flags)
        node = k.tree.at("a")

        def zero(request: Any) -> bytes:
            # The tree's own FALLOCATE makes room, and clears nothing.
            end = request.head.offset + request.head.length
            node.data.extend(bytes(max(0, end - len(node.data))))
            node.data[request.head.offset : end] = bytes(request.head.length)
            return b""

        k.answer(Opcode.FALLOCATE, zero)
        found = k.ok(lambda: opened(k.file("a"), os.O_RDWR, lambda fd: (_play(fd, steps()), os.pread(fd, 1 << 20, 0))))
        k.equal("what differs", found[0], "")
        k.wait_for(Opcode.RELEASE)
        k.true("the server's file is the same", bytes(node.data) == found[1], f"{len(node.data)} bytes")


for _manner in MANNERS:
    for _name, _steps in STORIES.items():
        _tell(_name, _manner, lambda steps=_steps: steps)  # type: ignore[misc]
    if _manner.maps:
        for _name, _steps in MAPPED.items():
            _tell(_name, _manner, lambda steps=_steps: steps)  # type: ignore[misc]
    _tell("random", _manner, lambda maps=_manner.maps: _random(20, 60, maps))  # type: ignore[misc]
