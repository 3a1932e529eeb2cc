"""Many processes at work on one file at once, each on regions of its own, and a look at all of it afterwards.

The regions lie side by side and are, unless told otherwise, no whole number of pages: processes share pages, but never
bytes. Each process knows what its regions must hold and checks what it reads; the parent works the same out from the
seed and compares the file. Nothing is made smaller here: what happens depends on timing.
"""

import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from perfused import libc
from perfused.conformance.exerciser_calls import Calls
from perfused.conformance.exerciser_model import Difference, compare

#: bytes of a region: no divisor of a page
REGION = 1000
#: seconds the processes may take together
PATIENCE = 300.0

#: operation -> how often it comes; the file is as large as it gets from the start, so mappings always reach all of it
WEIGHTS = {"pwrite": 10, "pread": 8, "map_write": 8, "map_read": 8, "fsync": 1}


@dataclass(frozen=True)
class _Step:
    name: str
    offset: int
    #: what is written, or what a read must find
    data: bytes


def _steps(seed: int, number: int, starts: list[int], region: int, operations: int) -> Iterator[_Step]:
    """What one process does: it depends on the arguments alone, so the parent can work it out too."""
    chance = random.Random(f"{seed} {number}")
    regions = {start: bytearray(region) for start in starts}
    for name in chance.choices(list(WEIGHTS), list(WEIGHTS.values()), k=operations):
        start = chance.choice(starts)
        first = chance.randrange(region)
        end = chance.randint(first + 1, region)
        if name.endswith("write"):
            regions[start][first:end] = chance.randbytes(end - first)
        yield _Step(name, start + first, bytes(regions[start][first:end]))


def _work(path: str, steps: Iterator[_Step], calls: Calls) -> None:
    """Do the steps of one process; Difference at the first read that finds something else."""
    fd = calls.open(path, os.O_RDWR)
    mapping = calls.map(fd, calls.fstat(fd).st_size)
    acts: dict[str, Callable[[_Step], object]] = {
        "pwrite": lambda step: calls.pwrite(fd, step.data, step.offset),
        "map_write": lambda step: calls.map_write(mapping, step.offset, step.data),
        "fsync": lambda step: calls.fsync(fd),
    }
    try:
        for number, step in enumerate(steps):
            if step.name == "pread":
                found = calls.pread(fd, len(step.data), step.offset)
            elif step.name == "map_read":
                found = calls.map_read(mapping, step.offset, len(step.data))
            else:
                acts[step.name](step)
                continue
            compare(step.data, found, step.offset, f"step {number}: {step.name}")
        calls.msync(mapping, 0, len(mapping))
    finally:
        mapping.close()
        calls.close(fd)


def _child(path: str, steps: Iterator[_Step], calls: type[Calls], result: Connection) -> None:
    """A process's whole life: its last word is what went wrong, or nothing. It dies with its parent, which alone minds
    a terminal's ^C: that reaches both."""
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    try:
        _work(path, steps, calls())
        result.send("")
    except Difference as bad:
        result.send(f"{bad.text}: expected {bad.expected.hex(' ')}, got {bad.got.hex(' ')}")
    except OSError as bad:
        result.send(str(bad))


def exercise_shared(
    directory: Path | str,
    seed: int,
    operations: int,
    processes: int = 4,
    size: int = 1 << 20,
    region: int = REGION,
    calls: type[Calls] = Calls,
) -> list[str]:
    """Have `processes` processes do `operations` each on one file of `size` bytes below `directory`.

    Returns what went wrong, a line each, nothing where all was as expected. `region` is the bytes that belong to one
    process at a stretch. ValueError where the file is too small for that; OSError where it cannot be made.
    """
    if processes < 1 or region < 1 or size < processes * region:
        raise ValueError(f"{processes} processes with regions of {region} bytes need a larger file than {size} bytes")
    starts = [list(range(each * region, size - region + 1, processes * region)) for each in range(processes)]
    place = Path(tempfile.mkdtemp(prefix="exerciser-", dir=directory))
    path = str(place / "shared")
    try:
        with open(path, "xb") as file:
            file.truncate(size)
        problems = _have_done(
            [(path, _steps(seed, each, starts[each], region, operations), calls) for each in range(processes)]
        )
        expected = bytearray(size)
        for each in range(processes):
            for step in _steps(seed, each, starts[each], region, operations):
                expected[step.offset : step.offset + len(step.data)] = step.data
        try:
            compare(expected, Path(path).read_bytes(), 0, "the file when all had ended")
        except Difference as bad:
            number = (bad.offset or 0) // region % processes
            text = f"{bad.text}, in a region of process {number}"
            problems.append(f"{text}: expected {bad.expected.hex(' ')}, got {bad.got.hex(' ')}")
        return problems
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _have_done(tasks: list[tuple[str, Iterator[_Step], type[Calls]]]) -> list[str]:
    """Run every task in a process of its own, at once; what each says went wrong, and who never said anything."""
    forked = multiprocessing.get_context("fork")
    running = []
    try:
        for task in tasks:
            ours, theirs = forked.Pipe(duplex=False)
            process = forked.Process(target=_child, args=(*task, theirs))
            with warnings.catch_warnings():
                # Newer Pythons warn of fork(2) beside threads. The child takes no lock that a thread could hold.
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            running.append((process, ours))
            theirs.close()
        problems = []
        for number, (process, ours) in enumerate(running):
            try:
                text = ours.recv() if ours.poll(PATIENCE) else f"not done after {PATIENCE:g} s"
            except EOFError:
                text = "ended without a word"
            if text:
                problems.append(f"process {number}: {text}")
            process.join(timeout=1)
        return problems
    finally:
        for process, ours in running:
            ours.close()
            process.kill()
        for process, _ in running:
            process.join(timeout=10)
