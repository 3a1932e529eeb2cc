"""What processes have used, from /proc: memory, time on a core, replies written. Never here: which ones they are.

A process that is gone counts nothing.
"""

import os
import time
from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")


def family(pid: int) -> list[int]:
    """A process and all its descendants (proc_pid_task_children(5))."""
    found, ahead = [], [pid]
    while ahead:
        each = ahead.pop()
        found.append(each)
        try:
            for children in (PROC / str(each) / "task").glob("*/children"):
                ahead += map(int, children.read_text().split())
        except OSError:
            continue
    return found


def on_core(pids: Iterable[int]) -> int:
    """Nanoseconds that the processes' threads have been on a core, user and system: the first figure of schedstat.

    /proc/PID/stat has the same in ticks of 10 ms, too coarse for one turn.
    """
    total = 0
    for pid in pids:
        for each in (PROC / str(pid) / "task").glob("*/schedstat"):
            try:
                total += int(each.read_text().split()[0])
            except OSError:
                continue
    return total


def pss(pids: Iterable[int]) -> float:
    """Proportional set size of processes together, in MiB (proc_pid_smaps(5))."""
    total = 0
    for pid in pids:
        try:
            lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def written(pid: int) -> int:
    """How many times a process has called write(2) or its like: a server's replies (proc_pid_io(5), syscw)."""
    try:
        lines = (PROC / str(pid) / "io").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("syscw:"))


def settled(pids: Iterable[int], seconds: float = 3.0) -> float:
    """MiB (PSS) of processes once two looks, 0.2 s apart, differ by less than 1 %; after `seconds` the last look."""
    chosen, until = list(pids), time.monotonic() + seconds
    before = pss(chosen)
    while time.monotonic() < until:
        time.sleep(0.2)
        now = pss(chosen)
        if abs(now - before) < 0.01 * max(before, 0.1):
            return now
        before = now
    return before


def has_ring(pid: int, seconds: float = 2.0) -> bool:
    """Whether a process has an io_uring open, or opens one within `seconds`."""
    until = time.monotonic() + seconds
    while True:
        try:
            links = [os.readlink(each) for each in (PROC / str(pid) / "fd").iterdir()]
        except OSError:  # one was closed between
            links = []
        if "anon_inode:[io_uring]" in links:
            return True
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
