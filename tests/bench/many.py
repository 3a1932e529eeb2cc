"""What mounting costs, and what 500 idle mounts cost the one that is busy.

Never here: how a busy one is measured (`turns`).
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench import contestants, processes, works
from tests.bench.contestants import SMALL, SOCKET, TREES, Contestant, Field, start
from tests.bench.mounting import PATIENCE, ROOT, Daemon, NotMeasured, daemon, pinned, stop
from tests.bench.turns import Found, Missing, Mounted, Turn, client, take_turns

IDLE = 499
#: how many of the last (first) mounts say what one more costs
LAST = 20

_HOLDER = """
import os, resource, sys, time
from libperfuse import perfuse_mount, perfuse_open
from wire import codec
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
init = codec.init_out.build(codec.init_out.make(major=7, minor=38, max_write=1 << 20, max_pages=256))
for number in range(int(sys.argv[2])):
    target = f"{sys.argv[1]}/m{number}"
    os.mkdir(target)
    began = time.perf_counter()
    fd = perfuse_open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    perfuse_mount("bench", target, "fuse.bench", 0, f"fd={fd},rootmode=40000,user_id=0,group_id=0")
    took = time.perf_counter() - began
    head = codec.in_header.unpack_from(os.read(fd, 1 << 20))
    os.write(fd, codec.out_header.pack(16 + len(init), 0, head.unique) + init)
    print(took * 1e3, flush=True)
sys.stdin.read()
"""


@contextmanager
def _idle(place: Path, served: Daemon, count: int) -> Iterator[list[float]]:
    """`count` mounts in the block that nobody uses, INIT answered: milliseconds from perfuse_open() to each verdict."""
    place.mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, place, str(count)], env=served.environment | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert holder.stderr is not None
    try:
        times = []
        for number in range(count):
            line = holder.stdout.readline()
            if not line:
                raise NotMeasured(f"mount {number + 1} of {count} failed: {holder.stderr.read().strip()[-200:]}")
            times.append(float(line))
        yield times
    finally:
        holder.stdin.close()
        stop(holder, PATIENCE)  # type: ignore[arg-type]
        holder.stdout.close()
        holder.stderr.close()
        until = time.monotonic() + 20
        while f" {place}/" in Path("/proc/self/mounts").read_text() and time.monotonic() < until:
            time.sleep(0.05)


def daemons(place: Path) -> dict[str, object]:
    """Seconds of 8 starts of perfused, MiB of an idle one, milliseconds to the verdict of 20 mounts one by one."""
    starts = []
    for number in range(8):
        with daemon(place, f"start{number}") as found:
            starts.append(found.took)
    with daemon(place, "verdicts") as found:
        idle = processes.settled(processes.family(found.pid))
        with _idle(place / "verdicts", found, LAST + 1) as times:
            return {"starts": starts, "idle": idle, "verdicts": times[1:]}


def starts(field: Field, seconds: float, missing: Missing) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Milliseconds from the start of a program to its mount, in turns; MiB (PSS) of each, worker included, idle."""
    rows = {f"{each.name}, {what}": each for what, table in (("file", SMALL), ("tree", TREES)) for each in table}
    took: dict[str, list[float]] = {}
    memory = {}
    until = time.monotonic() + seconds
    with ExitStack() as outer:
        served = contestants.needed(outer, field, rows.values(), "starts", missing)
        for turn in range(5):
            begun = time.monotonic()
            for words, each in rows.items():
                if not each.command or each.name in missing:
                    continue
                try:
                    with ExitStack() as stack:
                        mounted = start(stack, field, each, served, f"start-{words[-4:]}", timeout=1)
                        if not turn:
                            memory[words] = processes.settled(mounted.processes())
                        else:
                            took.setdefault(words, []).append(mounted.took)
                except NotMeasured as bad:
                    missing[f"{each.name}, start"] = str(bad).replace("|", "/")
            if turn and time.monotonic() * 2 - begun > until:
                break
    return took, memory


def beside(field: Field, core: set[int], seconds: float, missing: Missing) -> dict[str, object]:
    """500 mounts in one perfused: MiB (PSS) of each, milliseconds of the first and the last, figures of the busy one.

    In the turns without the idle ones their workers are stopped (SIGSTOP), so that not even their ticks are there.
    NotMeasured where they cannot be had.
    """
    busy: Contestant = next(each for each in SMALL if each.name == SOCKET)
    with pinned(core), ExitStack() as stack:
        served = contestants.needed(stack, field, (busy,), "many", missing)
        if busy.daemon not in served:
            raise NotMeasured("perfused does not run")
        found = served[busy.daemon]
        before = processes.settled(processes.family(found.pid))
        times = stack.enter_context(_idle(field.place / "idle", found, IDLE))
        workers = processes.family(found.pid)
        each = (processes.settled(workers, 10) - before) / IDLE
        one = start(stack, field, busy, served, "busy")
        idle = [pid for pid in found.workers().values() if pid != one.worker]
        figures = busy_turns(field, one, idle, seconds, missing)
    return {"pss": each, "first": times[:LAST], "last": times[-LAST:], "busy": figures}


def busy_turns(field: Field, one: Mounted, idle: list[int], seconds: float, missing: Missing) -> Found:
    """Turns of the busy mount alone and beside the others."""

    def told(number: int) -> None:
        for pid in idle:
            os.kill(pid, number)
        time.sleep(0.02)  # what that itself sets off is no part of the turn

    def alone(turn: Turn) -> Callable[[Mounted], tuple[int, int]]:
        def stopped(mounted: Mounted) -> tuple[int, int]:
            told(signal.SIGSTOP)
            try:
                return turn(mounted)
            finally:
                told(signal.SIGCONT)

        return stopped

    table: dict[str, Turn] = {}
    for work in works.BUSY:
        table[f"{work.words}, alone"] = alone(client(field.place, work._replace(milliseconds=60)))
        table[work.words] = client(field.place, work._replace(milliseconds=60))
    return take_turns(table, {SOCKET: one}, missing, seconds, rounds=100)
