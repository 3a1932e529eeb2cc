"""The parts of a run that take turns: the smallest filesystem, trees, compiling, tracing.

Each takes the cores it is pinned to and the seconds it may take. Never here: tables (`contestants`, `works`).
"""

import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench import contestants, processes, source_tree, works
from tests.bench.contestants import Field, all_of
from tests.bench.mounting import PATIENCE, ROOT, Daemon, Mounted, NotMeasured, pinned, stop, tmpfs
from tests.bench.turns import Found, Missing, Turn, Work, by_words, client, guarded, take_turns

Between = Callable[[], object]


def small(field: Field, cores: set[int], seconds: float, missing: Missing, between: Between) -> Found:
    """Every contestant with the smallest filesystem."""
    with pinned(cores), all_of(field, contestants.SMALL, f"{len(cores)}c", missing) as mounts:
        return take_turns(by_words(field.place, works.SMALL), mounts, missing, seconds, between=between)


def quick(field: Field, cores: set[int], seconds: float, missing: Missing) -> Found:
    """The hot paths alone, as many rounds as fit."""
    with pinned(cores), all_of(field, contestants.QUICK, "quick", missing) as mounts:
        return take_turns(by_words(field.place, works.QUICK), mounts, missing, seconds, rounds=1000)


@contextmanager
def source(place: Path) -> Iterator[Path]:
    """The tree that is shown once more: a file, a directory of many entries, an empty one; in memory."""
    with tmpfs(place / "source") as top:
        (top / "file").write_bytes(bytes(works.FILE_SIZE))
        (top / "many").mkdir()
        for number in range(works.ENTRIES):
            (top / "many" / f"entry-{number:05}").touch()
        (top / "work").mkdir()
        yield top


def trees(
    field: Field, cores: set[int], seconds: tuple[float, float, float], missing: Missing, between: Between
) -> tuple[Found, Found, dict[str, float]]:
    """Every contestant with a tree: (micro figures, compiling, MiB after compiling).

    `seconds`: for the work without caches, for that with caches, for compiling.
    """
    tag = f"tree{len(cores)}c"
    with pinned(cores):
        with all_of(field, contestants.TREES, tag, missing) as mounts:
            found = take_turns(by_words(field.place, works.UNCACHED), mounts, missing, seconds[0], between=between)
        with all_of(field, contestants.TREES, f"{tag}-cached", missing, timeout=1) as mounts:
            table = by_words(field.place, works.CACHED)
            found |= take_turns(table, mounts, missing, seconds[1], between=between)
            packed = field.place / "tree.tar"
            source_tree.pack(packed)
            turn = {works.COMPILE: compiling(packed, field.source)}
            compiled = take_turns(turn, mounts, missing, seconds[2], rounds=7, warm=False, between=between)
            memory = {name: processes.pss(each.processes()) for name, each in mounts.items() if each.pid}
    return found, compiled, memory


def compiling(packed: Path, below: Path) -> Turn:
    """The turn that unpacks and compiles the source tree in a new directory, which is removed underneath afterwards."""
    numbers = itertools.count()

    def turn(mounted: Mounted) -> tuple[int, int]:
        name = f"build-{next(numbers)}"
        place = str(mounted.target / name)
        began = time.perf_counter_ns()
        try:
            guarded(["mkdir", place], mounted.target, 60)
            guarded(["tar", "-C", place, "-xf", str(packed)], mounted.target, 60)
            guarded(["make", "-s", "-C", place, f"-j{len(os.sched_getaffinity(0))}"], mounted.target, 120)
            return 1, time.perf_counter_ns() - began
        finally:
            shutil.rmtree(below / name, ignore_errors=True)

    return turn


#: takes the frames of a trace and throws them away
_TAKER = """
import os, sys
from libperfuse.connection import connect, exchange
from wire import control
connection, null = connect(), os.open(os.devnull, os.O_WRONLY)
exchange(connection, control.build_request({"op": "trace", "target": sys.argv[1]}))
while packet := connection.recv(control.MAX_FRAME):
    os.write(null, packet)
"""


@contextmanager
def _watched(field: Field, daemon: Daemon, mounted: Mounted, decoded: bool) -> Iterator[int]:
    """A trace of a mount in the block, from the first frame that reached its reader on: the reader's pid.

    By perfusectl, or by a process that throws the frames away. NotMeasured where no frame comes.
    """
    command = [sys.executable, "-c", _TAKER, mounted.target]
    if decoded:
        command = [Path(sys.executable).with_name("perfusectl"), "trace", "--json", mounted.target]
    environment = daemon.environment | {"PYTHONPATH": str(ROOT)}
    null = subprocess.DEVNULL  # what is written there counts as written, too
    reader = subprocess.Popen(command, env=environment, stdout=null, stderr=null, start_new_session=True)
    try:
        until = time.monotonic() + PATIENCE
        shake = client(field.place, Work("", "getattr", milliseconds=2))
        while "wchar: 0\n" in Path(f"/proc/{reader.pid}/io").read_text():
            if time.monotonic() > until or reader.poll() is not None:
                raise NotMeasured("a trace showed nothing")
            shake(mounted)
        yield reader.pid
    finally:
        reader.terminate()
        stop(reader, 5)


def _rested(pids: list[int], seconds: float = 3.0) -> None:
    """Wait until processes have stood still for 120 ms: a reader goes on after the turn it was for."""
    until, before = time.monotonic() + seconds, -1
    while (now := processes.on_core(pids)) - before > 2_000_000 and time.monotonic() < until:
        before = now
        time.sleep(0.12)  # more than two of the trace's ticks; a tick with nothing to send takes some 0.1 ms


def tracing(field: Field, cores: set[int], seconds: float, missing: Missing, rounds: int = 1000) -> Found:
    """The same filesystem on a socket with somebody looking, nobody, and nobody any more."""
    with pinned(cores), ExitStack() as stack:
        tag = f"trace{len(cores)}c"
        daemons = contestants.needed(stack, field, contestants.TRACING, tag, missing)
        rows = contestants.TRACING
        mounts = {each.name: contestants.start(stack, field, each, daemons, tag) for each in rows}
        daemon = daemons["perfused"]
        with _watched(field, daemon, mounts[contestants.NO_MORE], decoded=True):
            pass
        readers = {
            mounts[name]: stack.enter_context(_watched(field, daemon, mounts[name], decoded))
            for name, decoded in ((contestants.TRACED, True), (contestants.TAKEN, False))
        }

        def alone(turn: Turn) -> Turn:
            def rested(mounted: Mounted) -> tuple[int, int]:
                try:
                    return turn(mounted)
                finally:
                    if mounted in readers:
                        _rested([readers[mounted]])

            return rested

        table = {words: alone(turn) for words, turn in by_words(field.place, works.TRACED).items()}
        return take_turns(table, mounts, missing, seconds, rounds)
