"""A filesystem that does not keep up costs the daemon a bounded number of bytes, and delays no other mount.

The bounds are those of the code: the room of a device's socket, the backlog of a device file, the queue of
notifications. What goes beyond waits in the kernel, at the expense of who asked.
"""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from perfused import device_file, kernel
from tests.kernel import costs
from tests.kernel.conftest import CONNECTIONS, Daemon, connections, eventually, fuse_mounts
from tests.kernel.costs import SLACK, Growth, force, largest_room, other_mount_answers, perfusectl_answers
from tests.kernel.scripted import Scripted
from wire.flags import InitFlag
from wire.opcodes import Opcode

MIB = 1 << 20
WRITERS = 32

endpoint, other = costs.FIXTURES


def waiting(target: Path) -> int:
    """How many requests of a mount have callers that wait, wherever the request is."""
    (number,) = connections(target)
    return int((CONNECTIONS / number / "waiting").read_text())


def settled(daemon: Daemon, target: Path) -> int:
    """Requests that the daemon has taken from the kernel and that are not answered, once it takes no more of them."""
    last: list[int] = []

    def still() -> bool:
        last.append(daemon.stats(target)["in_flight"])
        return len(last) >= 20 and len(set(last[-20:])) == 1

    eventually(still, "the worker takes no more requests")
    return last[-1]


def bound(endpoint: str, worker: int, frame: int) -> int:
    """The most that requests of `frame` bytes may cost a worker whose filesystem reads none of them.

    One is in the buffer that the kernel's requests are read into. A socket takes one more while any of its room is
    left, and the kernel may need twice a frame to keep it. A device file's backlog is exceeded by none, and one more
    has been given to the READ that the filesystem has parked.
    """
    if endpoint == "socket":
        return frame + largest_room(worker) + 2 * frame
    return frame + device_file.BACKLOG + frame


# -- a filesystem that is stopped -----------------------------------------------------------------------


#: Another process: a child of ours would begin by closing the files it inherits, and wait for the stopped filesystem.
_WRITERS = """
import json, os, random, sys, threading
paths = sys.argv[1:]
files = [os.open(each, os.O_WRONLY | os.O_CREAT) for each in paths]
for each in files:
    # The kernel asks for security.capability before the first write to a file, and for nothing before the next.
    os.pwrite(each, b"x", 0)
results = [None] * len(files)
def write(number):
    try:
        results[number] = os.pwrite(files[number], random.Random(number).randbytes(1 << 20), 0)
    except OSError as bad:
        results[number] = -bad.errno
threads = [threading.Thread(target=write, args=(number,)) for number in range(len(files))]
print("open", flush=True)
sys.stdin.readline()
for each in threads: each.start()
for each in threads: each.join()
print(json.dumps(results), flush=True)
for each in files:
    try: os.close(each)
    except OSError: pass
"""


class Writers:
    """A process with a file open for each of its threads, which each write MIB bytes of their own, all at once."""

    def __init__(self, target: Path) -> None:
        self.paths = [target / f"{number}" for number in range(WRITERS)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", _WRITERS, *self.paths], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._line() == "open"

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def begin(self) -> None:
        """Have all of them write."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def results(self) -> list[int]:
        """What each write(2) gave, a negative errno where it failed, once all have ended."""
        return list(json.loads(self._line()))

    def end(self) -> None:
        """Wait for its end: the filesystem has ended, so nothing keeps it."""
        self.process.communicate(timeout=20)


@pytest.fixture
def stopped(endpoint: str, daemon: Daemon, target: Path) -> Iterator[tuple[subprocess.Popen[str], Writers, Growth]]:
    """A stopped filesystem, and WRITERS that each wait for it to take MIB."""
    rawfs = daemon.rawfs(target)
    # Every buffer there is has been used once, to its end.
    (target / "warm").write_bytes(bytes(4 * MIB))
    assert len((target / "warm").read_bytes()) == 4 * MIB
    writers = Writers(target)
    daemon.idle(target)
    growth = Growth(daemon, target)
    rawfs.send_signal(signal.SIGSTOP)
    writers.begin()
    try:
        eventually(lambda: waiting(target) >= WRITERS, "all writers wait")
        yield rawfs, writers, growth
    finally:
        rawfs.kill()
        writers.end()


def test_a_stopped_filesystem_costs_no_more_than_the_room_of_its_device(
    stopped: tuple[subprocess.Popen[str], Writers, Growth], endpoint: str, daemon: Daemon, target: Path
) -> None:
    _, _, growth = stopped
    taken = settled(daemon, target)
    frame = daemon.stats(target)["max_write"] + kernel.PAGE
    most = bound(endpoint, growth.worker, frame)
    assert taken * (frame - kernel.PAGE) <= most
    assert growth.of_worker() <= most + SLACK
    assert growth.of_supervisor() <= SLACK
    assert waiting(target) >= WRITERS


def test_beside_a_stopped_filesystem_another_mount_and_perfusectl_answer(
    stopped: tuple[subprocess.Popen[str], Writers, Growth], daemon: Daemon, target: Path, other: Path
) -> None:
    settled(daemon, target)
    other_mount_answers(daemon, other)
    perfusectl_answers(daemon, target, other)
    assert waiting(target) >= WRITERS


def test_a_filesystem_that_goes_on_gets_every_byte_written_while_it_was_stopped(
    stopped: tuple[subprocess.Popen[str], Writers, Growth], daemon: Daemon, target: Path
) -> None:
    rawfs, writers, _ = stopped
    settled(daemon, target)
    rawfs.send_signal(signal.SIGCONT)
    assert writers.results() == [MIB] * WRITERS
    for number, path in enumerate(writers.paths):
        with open(path, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert file.read(2 * MIB) == random.Random(number).randbytes(MIB)


def test_writers_of_a_stopped_filesystem_that_is_killed_fail_and_nothing_of_it_stays(
    stopped: tuple[subprocess.Popen[str], Writers, Growth], daemon: Daemon, target: Path
) -> None:
    rawfs, writers, _ = stopped
    settled(daemon, target)
    rawfs.kill()
    assert writers.results() == [-errno.ECONNABORTED] * WRITERS
    eventually(lambda: not fuse_mounts(target), "the mount is gone")
    eventually(lambda: not daemon.workers(), "its worker is gone")
    perfusectl_answers(daemon)


# -- a filesystem that reads and does not answer --------------------------------------------------------


def test_requests_that_nobody_waits_for_are_in_flight_up_to_max_background(
    endpoint: str, daemon: Daemon, target: Path, other: Path, scripted: Callable[..., Scripted]
) -> None:
    fs = scripted(target, {Opcode.RELEASE: lambda *_: None})
    (target / "file").read_bytes()
    fs.wait_for(Opcode.RELEASE)
    growth = Growth(daemon, target)
    for _ in range(500):
        os.close(os.open(target / "file", os.O_RDONLY))
    # 12 is the max_background of a scripted filesystem.
    eventually(lambda: fs.opcodes[Opcode.RELEASE] == 12, "the kernel sends what it may")
    other_mount_answers(daemon, other)
    perfusectl_answers(daemon, target, other)
    assert settled(daemon, target) == 12
    assert waiting(target) == 501
    assert growth.of_worker() <= SLACK
    assert growth.of_supervisor() <= SLACK
    force(daemon, target)
    assert fs.ended.wait(20)


def test_callers_that_are_not_answered_cost_the_daemon_a_note_each(
    endpoint: str, daemon: Daemon, target: Path, other: Path, scripted: Callable[..., Scripted]
) -> None:
    fs = scripted(target, {Opcode.LOOKUP: lambda *_: None}, flags=int(InitFlag.PARALLEL_DIROPS))
    # Who looks for a name before INIT is settled does so alone, whatever it says.
    os.stat(target)
    growth = Growth(daemon, target)
    results: list[int | None] = []

    def call(name: str) -> None:
        try:
            os.stat(target / name)
        except OSError as bad:
            results.append(bad.errno)

    callers = [threading.Thread(target=call, args=(f"{number}",), daemon=True) for number in range(200)]
    for each in callers:
        each.start()
    fs.wait_for(Opcode.LOOKUP, times=200)
    other_mount_answers(daemon, other)
    perfusectl_answers(daemon, target, other)
    assert settled(daemon, target) == 200
    assert growth.of_worker() <= SLACK
    assert growth.of_supervisor() <= SLACK
    force(daemon, target)
    for each in callers:
        each.join(20)
    assert results == [errno.ECONNABORTED] * 200
    assert fs.ended.wait(20)
