"""What every contestant needs: programs built, filesystems mounted, a daemon, work done in turns, requests counted.

Never here: which contestants there are (`relays`, `servers`), and the page (`page`).
"""

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "15"))


class Work(NamedTuple):
    """What the client does `count` times in one run; `size` in bytes where it reads or writes."""

    words: str
    kind: str
    count: int
    size: int = 0


class Mounted(NamedTuple):
    """A contestant: where it is mounted, and the process that writes its replies to the kernel."""

    target: Path
    pid: int


class Figures(NamedTuple):
    """One contestant at one kind of work, a value a round: nanoseconds, and replies written, an operation."""

    times: list[float]
    replies: list[float]

    @property
    def middle(self) -> float:
        """The median, in microseconds."""
        return statistics.median(self.times) / 1000

    @property
    def asked(self) -> float:
        """Requests that an operation made, the median: below 1 something was cached."""
        return statistics.median(self.replies)

    @property
    def spread(self) -> float:
        """(max - min) ÷ median."""
        return (max(self.times) - min(self.times)) / statistics.median(self.times)


#: figures by the words of the work, then by contestant
Found = dict[str, dict[str, Figures]]


def build(place: Path) -> None:
    """Compile the bench's own programs."""
    include = ["-I", str(ROOT / "libperfuse"), "-L", str(ROOT / "build"), f"-Wl,-rpath,{ROOT}/build"]
    for name, source, more in (
        ("server", "server.c", []),
        ("server-perfuse", "server.c", ["-DPERFUSE", *include, "-lperfuse"]),
        ("relay", "relay.c", ["-pthread"]),
        ("client", "client.c", []),
    ):
        subprocess.run(["gcc", "-O2", "-Wall", "-o", place / name, HERE / source, *more], check=True)


@contextmanager
def mounted(place: Path, name: str, command: list[str | Path], environment: dict[str, str]) -> Iterator[Mounted]:
    """A contestant, mounted on a directory of its name while the block runs; RuntimeError where it cannot be."""
    target, log = place / name.replace(" ", "-").replace(",", ""), place / f"{name}.err"
    target.mkdir()
    words = [target if each == "TARGET" else each for each in command]
    with log.open("w") as errors:
        program = subprocess.Popen(
            words, env=environment, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 10
        while f" {target} " not in Path("/proc/self/mounts").read_text():
            if time.monotonic() > deadline or program.poll() is not None:
                raise RuntimeError(f"{name} did not mount: {log.read_text()[-300:]}")
            time.sleep(0.01)
        (target / "file").stat()
        yield Mounted(target, program.pid)
    finally:
        subprocess.run(["umount", "-l", target], check=False, stderr=subprocess.DEVNULL)
        try:
            program.wait(timeout=5)
        except subprocess.TimeoutExpired:
            os.killpg(program.pid, signal.SIGKILL)
            program.wait()
        target.rmdir()


@contextmanager
def daemon(place: Path, name: str, *options: str) -> Iterator[tuple[dict[str, str], int, float]]:
    """perfused: (environment of its clients, pid, seconds until it listened)."""
    path = place / f"{name}.sock"
    environment = os.environ | {"PERFUSED_SOCKET": str(path), "PERFUSE_NO_PRIVATE": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    began = time.monotonic()
    process = subprocess.Popen(
        [Path(sys.executable).with_name("perfused"), "-f", "--socket", path, *options],
        env=environment, stderr=open(place / f"{name}.log", "w"), start_new_session=True,
    )  # fmt: skip
    while "ready" not in (place / f"{name}.log").read_text():
        if process.poll() is not None:
            raise RuntimeError((place / f"{name}.log").read_text())
        time.sleep(0.002)
    took = time.monotonic() - began
    try:
        yield environment, process.pid, took
    finally:
        process.terminate()
        process.wait(timeout=20)


def pss(pid: int) -> float:
    """Proportional set size of a process in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def family(pid: int) -> list[int]:
    """A process and its children."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return [pid, *map(int, found)]


def written(pid: int) -> int:
    """How many times a process has called write(2) or its like: a server's replies (proc_pid_io(5), syscw)."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("syscw:"))


def take_turns(
    place: Path, work: Iterable[Work], contestants: Mapping[str, Mounted], rounds: int = ROUNDS, seconds: float = 1e9
) -> Found:
    """Every contestant does every kind of work in every round, one after the other; the first round does not count.

    At most `seconds`, but at least three rounds. RuntimeError for a client that failed.
    """
    found: Found = {each.words: {name: Figures([], []) for name in contestants} for each in work}
    until = time.monotonic() + seconds
    for turn in range(rounds + 1):
        if turn > 3 and time.monotonic() > until:
            break
        for words, kind, count, size in work:
            for name, (target, pid) in contestants.items():
                before = written(pid)
                command = [place / "client", kind, target / "file", str(count), str(size)]
                done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
                if done.returncode:
                    raise RuntimeError(f"{name}: {words} failed")
                if turn:
                    found[words][name].times.append(float(done.stdout))
                    found[words][name].replies.append((written(pid) - before) / count)
    return found


@contextmanager
def pinned(cores: set[int]) -> Iterator[None]:
    """Everything started in the block runs on these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
