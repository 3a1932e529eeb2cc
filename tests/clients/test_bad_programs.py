"""What perfusectl exec does with programs that go wrong, and where perfused does: a clear end, and nothing left."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.harness import MARK, VIA, marked, named
from tests.kernel.conftest import ROOT, Daemon, eventually, fuse_mounts

FS_BAD = ROOT / "tests" / "clients" / "fs_bad.py"
#: seconds until a program must have ended
PATIENCE = 20

pytestmark = pytest.mark.skipif(VIA == "plain", reason="about perfusectl exec")


class Exec:
    """perfusectl exec on a daemon, and what it starts; nothing of it may be left in the end."""

    def __init__(self, daemon: Daemon, place: Path) -> None:
        self.daemon = daemon
        self.place = place
        self.environment = daemon.environment | {MARK: str(place)}
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *program: str | Path, endpoint: str = "auto") -> "subprocess.Popen[str]":
        """Start a program, with pipes."""
        words = [sys.executable, "-m", "perfused.cli.control", "exec", "--endpoint", endpoint, "--", *map(str, program)]
        started = subprocess.Popen(
            words, env=self.environment, text=True, start_new_session=True, cwd=ROOT,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.started.append(started)
        return started

    def bad(self, how: str, *more: str | Path, says: str = "", endpoint: str = "auto") -> "subprocess.Popen[str]":
        """fs_bad.py, as far as the line it says."""
        started = self.start(sys.executable, FS_BAD, how, *more, endpoint=endpoint)
        if says:
            assert started.stdout is not None
            assert started.stdout.readline() == f"{says}\n", self.ended(started)
        return started

    @staticmethod
    def ended(program: "subprocess.Popen[str]", given: str = "") -> tuple[int, str, str]:
        """Its exit code (negative: the signal), output and errors."""
        out, err = program.communicate(given, timeout=PATIENCE)
        return program.returncode, out, err

    def run(self, *program: str | Path, given: str = "") -> tuple[int, str, str]:
        """Start a program and wait for its end."""
        return self.ended(self.start(*program), given)

    def pid(self) -> int:
        """The process that runs fs_bad.py: not exec, which has its name among its arguments."""

        def found() -> list[int]:
            return [
                pid for pid in marked(str(self.place)) if str(FS_BAD) in named(pid) and "perfused" not in named(pid)
            ]

        (pid,) = eventually(found, "fs_bad.py runs")
        return int(pid)

    def left(self) -> list[str]:
        """Processes and mounts."""
        return [*map(named, marked(str(self.place))), *fuse_mounts(self.place)]

    def clean(self) -> None:
        """Wait until there is nothing any more, also in the daemon's books."""
        eventually(lambda: not self.left(), f"nothing is left: {self.left()}")
        if self.daemon.process.poll() is None:
            assert self.daemon.ctl("mounts", "--json").stdout.strip() == "[]"


@pytest.fixture
def execs(daemon: Daemon, tmp_path: Path) -> Iterator[Exec]:
    """perfusectl exec, and a place for its programs."""
    place = tmp_path / "place"
    place.mkdir()
    made = Exec(daemon, place)
    yield made
    for each in made.started:
        if each.poll() is None:
            each.kill()
        for stream in (each.stdin, each.stdout, each.stderr):
            assert stream is not None
            stream.close()
        each.wait()
    try:
        made.clean()
    finally:
        for pid in marked(str(place)):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def mnt(execs: Exec) -> Path:
    """Where it may mount."""
    made = execs.place / "mnt"
    made.mkdir()
    return made


# -- no FUSE programs --------------------------------------------------------------------------------------------------


def test_a_program_that_is_not_there(execs: Exec) -> None:
    status, out, err = execs.run(execs.place / "nothing")
    assert (status, out) == (127, "")
    assert err == f"perfusectl: exec: {execs.place}/nothing: No such file or directory\n"


def test_a_program_that_is_not_in_the_path(execs: Exec) -> None:
    status, out, err = execs.run("no-such-program-at-all")
    assert (status, out) == (127, "")
    assert err == "perfusectl: exec: no-such-program-at-all: No such file or directory\n"


def test_a_program_that_is_not_executable(execs: Exec) -> None:
    file = execs.place / "text"
    file.write_text("text")
    status, out, err = execs.run(file)
    assert (status, out) == (126, "")
    assert err == f"perfusectl: exec: {file}: Permission denied\n"


def test_a_program_in_no_format(execs: Exec) -> None:
    file = execs.place / "text"
    file.write_text("text")
    file.chmod(0o755)
    status, out, err = execs.run(file)
    assert (status, out) == (126, "")
    assert err == f"perfusectl: exec: {file}: Exec format error\n"


def test_no_program_at_all(execs: Exec) -> None:
    started = execs.start()
    status, out, err = execs.ended(started)
    assert (status, out) == (2, "")
    assert "PROGRAM" in err


def test_a_program_that_has_nothing_to_do_with_fuse(execs: Exec) -> None:
    assert execs.run("sh", "-c", "cat; echo words >&2; exit 7", given="through") == (7, "through", "words\n")


def test_a_program_that_a_signal_ends(execs: Exec) -> None:
    assert execs.run("sh", "-c", "kill -ABRT $$")[0] == -signal.SIGABRT


# -- FUSE programs that go wrong ---------------------------------------------------------------------------------------


def test_a_program_that_ends_before_it_mounts(execs: Exec) -> None:
    assert execs.run(sys.executable, FS_BAD, "die before mounting") == (3, "", "")


def test_a_program_that_is_killed_before_it_mounts(execs: Exec) -> None:
    assert execs.run(sys.executable, FS_BAD, "be killed before mounting") == (-signal.SIGKILL, "", "")


@pytest.mark.parametrize("endpoint", ["socket", "device", "direct"])
def test_a_program_with_two_mounts(execs: Exec, mnt: Path, endpoint: str) -> None:
    other = execs.place / "other"
    other.mkdir()
    program = execs.bad("mount two", mnt, other, says="mounted", endpoint=endpoint)
    assert set(fuse_mounts(execs.place)) == {str(mnt), str(other)}
    for each in (mnt, other):
        assert each.stat().st_ino == 1
    subprocess.run(["umount", mnt], check=True)
    assert other.stat().st_ino == 1
    subprocess.run(["umount", other], check=True)
    assert execs.ended(program) == (0, "", "")


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [("mount a type that is none", 19, "No such device"), ("mount what is no device", 22, "Invalid argument")],
)
def test_a_mount_that_is_none_of_perfuseds_fails_as_without_it(
    execs: Exec, mnt: Path, how: str, status: int, said: str
) -> None:
    without = subprocess.run([sys.executable, FS_BAD, how, mnt], capture_output=True, text=True, check=False)
    assert (without.returncode, without.stdout) == (status, f"mount: {said}\n")
    assert execs.run(sys.executable, FS_BAD, how, mnt) == (status, f"mount: {said}\n", "")


def test_a_target_that_is_not_there_fails_as_without_perfused(execs: Exec) -> None:
    nowhere = execs.place / "nowhere"
    without = subprocess.run([sys.executable, FS_BAD, "mount", nowhere], capture_output=True, text=True, check=False)
    assert (without.returncode, without.stdout) == (2, "mount: No such file or directory\n")
    status, out, err = execs.run(sys.executable, FS_BAD, "mount", nowhere)
    assert (status, out) == (2, without.stdout)
    assert err.startswith("perfusectl: ")
    assert str(nowhere) in err
    assert err.count("\n") == 1


def test_a_target_in_use_is_mounted_over(execs: Exec, mnt: Path) -> None:
    below = execs.bad("mount", mnt, says="mounted")
    above = execs.bad("mount", mnt, says="mounted")
    assert fuse_mounts(execs.place) == [str(mnt)] * 2
    subprocess.run(["umount", mnt], check=True)
    assert execs.ended(above) == (0, "", "")
    assert below.poll() is None
    assert mnt.stat().st_ino == 1
    subprocess.run(["umount", mnt], check=True)
    assert execs.ended(below) == (0, "", "")


def test_a_program_that_closes_its_device_loses_its_mount_and_goes_on(execs: Exec, mnt: Path) -> None:
    program = execs.bad("close early", mnt, says="closed")
    eventually(lambda: not fuse_mounts(execs.place), "the mount is gone")
    assert program.poll() is None
    assert execs.ended(program) == (5, "", "")


def test_a_program_that_is_killed_while_it_serves(execs: Exec, mnt: Path) -> None:
    program = execs.bad("mount", mnt, says="mounted")
    pid = execs.pid()
    os.kill(pid, signal.SIGKILL)
    assert execs.ended(program)[0] == -signal.SIGKILL
    eventually(lambda: not fuse_mounts(execs.place), "the mount is gone")


def test_a_program_that_is_killed_while_its_open_is_stopped(execs: Exec) -> None:
    os.kill(execs.daemon.process.pid, signal.SIGSTOP)
    try:
        program = execs.bad("open", says="opening")
        pid = execs.pid()
        eventually(lambda: Path(f"/proc/{pid}/syscall").read_text().split()[0] in ("257", "56", "2"), "it opens")
        os.kill(pid, signal.SIGKILL)
        assert execs.ended(program)[0] == -signal.SIGKILL
        eventually(lambda: not execs.left(), f"nothing is left: {execs.left()}")
    finally:
        os.kill(execs.daemon.process.pid, signal.SIGCONT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_to_exec_is_one_to_the_program(execs: Exec, mnt: Path, number: signal.Signals) -> None:
    program = execs.bad("mount", mnt, says="mounted")
    program.send_signal(number)
    assert execs.ended(program)[0] == -number
    eventually(lambda: not fuse_mounts(execs.place), "the mount is gone")


# -- perfused that goes wrong ------------------------------------------------------------------------------------------


def test_perfused_that_is_not_running(execs: Exec, mnt: Path) -> None:
    execs.daemon.stop()
    status, out, err = execs.run(sys.executable, FS_BAD, "mount", mnt)
    assert (status, out) == (69, "")
    assert err.startswith("perfusectl: ")
    assert str(execs.daemon.socket) in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_perfused_that_ends_while_a_program_serves(execs: Exec, mnt: Path, number: signal.Signals) -> None:
    program = execs.bad("mount", mnt, says="mounted")
    execs.daemon.process.send_signal(number)
    execs.daemon.process.wait(timeout=PATIENCE)
    assert execs.ended(program)[0] == 0
    eventually(lambda: not fuse_mounts(execs.place), "the mount is gone")


@pytest.mark.parametrize("endpoint", ["auto", "socket", "device", "direct"])
def test_perfused_that_ends_between_open_and_mount(execs: Exec, mnt: Path, endpoint: str) -> None:
    program = execs.bad("mount late", mnt, says="opened", endpoint=endpoint)
    execs.daemon.process.kill()
    execs.daemon.process.wait(timeout=PATIENCE)
    status, out, err = execs.ended(program, "now\n")
    assert status not in (0, None)
    assert out.startswith("mount: ")
    assert err.startswith("perfusectl: ")
    assert err.count("\n") == 1


def test_perfused_that_ends_while_a_program_opens(execs: Exec) -> None:
    os.kill(execs.daemon.process.pid, signal.SIGSTOP)
    program = execs.bad("open", says="opening")
    pid = execs.pid()
    eventually(lambda: Path(f"/proc/{pid}/syscall").read_text().split()[0] in ("257", "56", "2"), "it opens")
    execs.daemon.process.kill()
    execs.daemon.process.wait(timeout=PATIENCE)
    status, _, err = execs.ended(program)
    assert status == 1
    assert err.startswith("perfusectl: ")
