"""Whatever is killed while a program runs under perfusectl exec, nothing is stuck and nothing is left."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.kernel.conftest import Daemon, eventually, fuse_mounts
from tests.kernel.launching import (
    ENDPOINTS,
    PATIENCE,
    RAWFS,
    Launcher,
    descendants,
    execs,
    launcher,
    options_for,
)
from tests.kernel.ordinary import daemon_of_all

__all__ = ["daemon_of_all", "execs", "launcher"]


def gone(pids: list[int]) -> bool:
    """Whether none of these processes is there, not even as a zombie."""
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_filesystem_works_and_ends_as_plain_when_it_is_unmounted(
    launcher: Launcher, target: Path, endpoint: str
) -> None:
    program = launcher.mounted(endpoint, RAWFS, target)
    subprocess.run(["cp", "-r", Path(__file__).parent, target / "copy"], check=True)
    subprocess.run(["diff", "-r", Path(__file__).parent, target / "copy"], check=True)
    (found,) = launcher.listed(target)
    assert (found["program"], found["endpoint"], found["uid"]) == ("rawfs", endpoint, 0)
    below = descendants(program.pid)
    subprocess.run(["umount", target], check=True)
    assert launcher.done(program) == (0, "", "")
    eventually(lambda: gone(below), "every process has ended")


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_daemon_outlives_exec_and_leaves_nothing(launcher: Launcher, target: Path, endpoint: str) -> None:
    steps = ("open /dev/fuse b", f"mount execs {target} fuse 0 {options_for()}", "daemon", "served @0")
    program = launcher.exec(endpoint, launcher.execs, *steps)
    tracer = eventually(lambda: descendants(program.pid), "it has started")[0]
    assert program.wait(timeout=PATIENCE) == 0
    assert (target / "f").read_text() == "hello"
    (daemon,) = eventually(lambda: descendants(tracer), "it goes on")
    subprocess.run(["umount", target], check=True)
    eventually(lambda: gone([daemon]), "the daemon has ended")
    eventually(lambda: not Path(f"/proc/{tracer}/cmdline").exists() or not
               Path(f"/proc/{tracer}/cmdline").read_bytes(), "the tracer has ended")  # fmt: skip


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_exec_that_is_killed_takes_its_program_with_it(launcher: Launcher, target: Path, endpoint: str) -> None:
    program = launcher.mounted(endpoint, RAWFS, target)
    below = descendants(program.pid)
    program.kill()
    assert program.wait() == -signal.SIGKILL
    eventually(lambda: not fuse_mounts(target), "the mount is gone")
    eventually(lambda: gone(below[1:]), "the program has ended")


def test_a_tracer_that_is_killed_is_told_of(launcher: Launcher) -> None:
    program = launcher.serving("socket", "pause", "open /dev/fuse b", "open /etc/passwd b", "open /etc/passwd r")
    tracer, child = descendants(program.pid)
    os.kill(tracer, signal.SIGKILL)
    status, out, err = launcher.done(program, "x")
    assert out.splitlines() == ["open ENOSYS", "open ENOSYS", "open 0"]
    assert (status, err.count("\n")) == (70, 1)
    assert str(child) in err


@pytest.mark.parametrize("call", ["open", "mount"])
@pytest.mark.parametrize("endpoint", ["socket", "device"])
def test_a_program_killed_while_perfused_does_not_answer_leaves_nothing(
    launcher: Launcher, daemon_of_all: Daemon, target: Path, call: str, endpoint: str
) -> None:
    steps = ("open /dev/fuse b", f"mount execs {target} fuse 0 {options_for()}")
    before, after = (steps[:1], steps[1:]) if call == "mount" else ((), steps)
    program = launcher.serving(endpoint, *before, "pause", *after)
    tracer, child = eventually(lambda: len(found := descendants(program.pid)) == 2 and found, "nothing is asked yet")
    try:
        os.kill(daemon_of_all.process.pid, signal.SIGSTOP)
        program.stdin.write("x")
        program.stdin.close()
        program.stdin = None
        eventually(lambda: len(descendants(tracer)) > 1, "perfused is asked")
        envoys = [each for each in descendants(tracer) if each != child]
        os.kill(child, signal.SIGKILL)
        assert program.wait(timeout=PATIENCE) == -signal.SIGKILL
        eventually(lambda: gone([tracer, child, *envoys]), "every process has ended")
    finally:
        os.kill(daemon_of_all.process.pid, signal.SIGCONT)
    eventually(
        lambda: not launcher.listed(target) and not fuse_mounts(target), "there is no mount, and none is known of"
    )


def test_one_child_killed_while_it_waits_takes_its_question_with_it(
    launcher: Launcher, daemon_of_all: Daemon, target: Path
) -> None:
    program = launcher.serving("socket", "pause", "fork", "open /dev/fuse b", "join", "say went-on")
    tracer, child = descendants(program.pid)
    try:
        os.kill(daemon_of_all.process.pid, signal.SIGSTOP)
        program.stdin.write("x")
        program.stdin.flush()
        (grandchild,) = eventually(lambda: descendants(child), "it has forked")
        (envoy,) = eventually(lambda: set(descendants(tracer)) - {child, grandchild}, "perfused is asked")
        os.kill(grandchild, signal.SIGKILL)
        eventually(lambda: gone([envoy]), "the question is taken back")
    finally:
        os.kill(daemon_of_all.process.pid, signal.SIGCONT)
    assert launcher.done(program) == (0, "went-on 0\n", "")


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_perfused_that_dies_is_an_error_of_the_call_under_way(
    launcher: Launcher, daemons: "object", tmp_path: Path, target: Path, endpoint: str
) -> None:
    own = daemons()  # type: ignore[operator]
    launcher.environment = own.environment
    program = launcher.serving(endpoint, "open /dev/fuse b", "pause", f"mount execs {target} fuse 0 {options_for()}",
                               "open /dev/fuse b")  # fmt: skip
    own.process.kill()
    own.process.wait()
    status, out, err = launcher.done(program, "x")
    assert status == 0
    assert len(out.splitlines()) == 2
    assert "mount 0" not in out
    assert "open 0" not in out
    assert str(own.socket) in err


def test_two_at_once_are_apart(launcher: Launcher, target: Path) -> None:
    other = target.parent / "other"
    other.mkdir()
    programs = [launcher.mounted("socket", RAWFS, each) for each in (target, other)]
    (target / "one").write_text("1")
    (other / "two").write_text("2")
    assert os.listdir(target) == ["one"]
    for each, program in zip((target, other), programs, strict=True):
        subprocess.run(["umount", each], check=True)
        assert launcher.done(program)[0] == 0


def test_a_program_that_opens_files_all_the_time_serves_meanwhile(launcher: Launcher, target: Path) -> None:
    (target.parent / "file").touch()
    program = launcher.serving(
        "auto", "open /dev/fuse b", f"mount execs {target} fuse 0 {options_for()}", "serve @0",
        f"flood 32 {target.parent}/file", "pause",
    )  # fmt: skip
    for _ in range(50):
        assert (target / "f").read_text() == "hello"
    assert launcher.done(program, "x")[::2] == (0, "")


def test_devices_that_are_closed_again_cost_the_tracer_nothing_for_good(launcher: Launcher) -> None:
    program = launcher.serving("device", *("open /dev/fuse b", "close @0") * 1, "pause", "time 200 /dev/fuse", "pause")
    tracer = descendants(program.pid)[0]
    before = len(os.listdir(f"/proc/{tracer}/fd"))
    program.stdin.write("x")
    program.stdin.flush()
    assert "time" in program.stdout.readline()
    assert len(os.listdir(f"/proc/{tracer}/fd")) < before + 75
    assert launcher.done(program, "x")[0] == 0


def test_lines_have_nothing_in_them_that_a_terminal_obeys(launcher: Launcher, target: Path) -> None:
    strange = f"{target}/\x1b[2Jnone\nmore"
    status, _, err = launcher.run(
        "socket", launcher.execs, "open /dev/fuse b", f"mount execs {strange} fuse 0 {options_for()}"
    )
    assert status == 0
    assert err.count("\n") == 1
    assert "\x1b" not in err
