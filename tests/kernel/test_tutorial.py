"""Every program of the tutorial runs as it is printed, mounted on the real kernel, and does what the page says."""

import fcntl
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernel.conftest import ROOT, eventually, fuse_mounts
from tests.kernel.places import Process
from tests.kernel.places import processes as processes
from tests.kernel.served import Serve, Served
from tests.kernel.served import serve as serve

TEXT = b"hello, world\n"


def blocks(page: str) -> dict[str, str]:
    """The programs of a page, by the file names in their first lines."""
    found = re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    named = [re.match(r"# (\w+\.py)\n", block) for block in found]
    assert all(named), "a block of Python that is no program with a name"
    return {name[1]: block for name, block in zip(named, found, strict=True) if name}


PROGRAMS = blocks("docs/tutorial.md")
Start = Callable[..., Served]


@pytest.fixture
def start(serve: Serve, tmp_path: Path) -> Start:
    """Start a program of the tutorial, as it is printed; the others lie beside it."""
    place = tmp_path / "tutorial"
    place.mkdir()
    for name, block in PROGRAMS.items():
        (place / name).write_text(block)
    return lambda name, **more: serve(place / name, **more)


def test_hello_is_the_one_that_is_tested_in_three_ways() -> None:
    fixture = (ROOT / "fixtures" / "hello.py").read_text(encoding="utf-8")
    assert fixture.partition('"""\n\n')[2] == PROGRAMS["hello.py"].partition("\n")[2]


def test_the_readme_shows_the_same_hello() -> None:
    assert PROGRAMS["hello.py"].partition("\n")[2] in (ROOT / "README.md").read_text(encoding="utf-8")


def test_hello(start: Start) -> None:
    assert (start("hello.py").target / "hello").read_bytes() == TEXT


def test_pad_shows_each_open_file_what_there_was(start: Start) -> None:
    path = start("pad.py").target / "hello"
    with open(path, "rb") as before:
        path.write_bytes(b"written")
        assert before.read() == b"empty\n"
    assert path.read_bytes() == b"written"


def test_squares_lists_ten_thousand_files_once_each(start: Start) -> None:
    target = start("squares.py").target
    assert sorted(map(int, os.listdir(target))) == list(range(10_000))
    assert (target / "111").read_bytes() == b"12321\n"


def test_clock_shows_the_time_although_it_is_cached(start: Start) -> None:
    path = start("clock.py").target / "hello"
    first = path.read_bytes()
    eventually(lambda: path.read_bytes() != first, "the clock goes on")


def test_slow_lets_a_caller_give_up_and_serves_others_meanwhile(
    start: Start, processes: Callable[..., Process]
) -> None:
    path = start("slow.py").target / "hello"
    other = processes()
    other.do(f"fd = os.open({str(path)!r}, os.O_RDONLY)")
    other.begin("os.pread(fd, 10, 5)")
    other.waits_in_a_call()
    with open(path, "rb", buffering=0) as file:
        assert file.read(5) == TEXT[:5]
    os.kill(other.pid, signal.SIGUSR1)
    with pytest.raises(InterruptedError):
        other.result()


def test_asynchronous(start: Start) -> None:
    asynchronous = start("asynchronous.py")
    assert (asynchronous.target / "hello").read_bytes() == TEXT
    assert asynchronous.unmounted() == 0


def test_two(start: Start) -> None:
    two = start("two.py", mounts=2)
    assert (two.targets[0] / "hello").read_bytes() == TEXT
    assert (two.targets[1] / "12").read_bytes() == b"144\n"
    assert two.signalled(signal.SIGTERM) == 0


def test_inside_has_unmounted_when_it_ends(tmp_path: Path, target: Path) -> None:
    for name in ("hello.py", "inside.py"):
        (tmp_path / name).write_text(PROGRAMS[name])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, tmp_path / "inside.py", target], capture_output=True, timeout=30, env=environment, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, TEXT + b"\n", b"")
    assert not fuse_mounts(target)


def test_agreed_prints_what_was_agreed_on(start: Start) -> None:
    agreed = start("agreed.py")
    os.statvfs(agreed.target)
    assert agreed.process.stdout is not None
    lines = [agreed.process.stdout.readline().decode() for _ in range(24)]
    assert any(re.match(r"CACHE_SYMLINKS +wished=True +agreed=True +the author's wish", line) for line in lines)
    assert any(re.match(r"ASYNC_READ +wished=False +agreed=False", line) for line in lines)


def test_locked_makes_a_second_one_wait_until_the_first_has_closed(
    start: Start, processes: Callable[..., Process]
) -> None:
    path = start("locked.py").target / "hello"
    other = processes()
    with open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        other.do(f"fd = os.open({str(path)!r}, os.O_RDONLY)")
        with pytest.raises(BlockingIOError):
            other.do("fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)")
        other.begin("fcntl.flock(fd, fcntl.LOCK_EX)")
        other.waits_in_a_call()
    assert other.result() is None


def test_locked_lets_a_waiting_one_give_up(start: Start, processes: Callable[..., Process]) -> None:
    path = start("locked.py").target / "hello"
    other = processes()
    with open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        other.do(f"fd = os.open({str(path)!r}, os.O_RDONLY)")
        other.begin("fcntl.flock(fd, fcntl.LOCK_EX)")
        other.waits_in_a_call()
        os.kill(other.pid, signal.SIGUSR1)
        with pytest.raises(InterruptedError):
            other.result()


def test_bell_wakes_who_polls(start: Start) -> None:
    fd = os.open(start("bell.py").target / "hello", os.O_RDONLY)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(20_000) == [(fd, select.POLLIN)]
    os.close(fd)


def test_passed_has_the_kernel_read_the_file(start: Start) -> None:
    path = start("passed.py").target / "hello"
    assert path.read_text() == PROGRAMS["passed.py"]
    assert path.stat().st_size == len(PROGRAMS["passed.py"])


def test_every_program_of_the_page_is_tested_here() -> None:
    tested = {name for name in globals() if name.startswith("test_")}
    assert [name for name in PROGRAMS if not any(f"_{name[:-3]}" in each for each in tested)] == []
