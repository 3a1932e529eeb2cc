"""perfusectl exec stands in for a program: what goes in and comes out of it is the program's own."""

import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kernel.conftest import ROOT, Daemon, eventually
from tests.kernel.launching import PATIENCE, RAWFS, Launcher, command, descendants, execs, launcher
from tests.kernel.ordinary import daemon_of_all

__all__ = ["daemon_of_all", "execs", "launcher"]


# -- what passes through -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 1, 69, 255])
def test_the_exit_status_is_the_programs(launcher: Launcher, status: int) -> None:
    assert launcher.run("auto", "sh", "-c", f"exit {status}") == (status, "", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGPIPE, signal.SIGINT])
def test_a_program_that_a_signal_ends_ends_exec_by_that_signal(launcher: Launcher, number: signal.Signals) -> None:
    assert launcher.run("auto", launcher.execs, f"kill {number:d}") == (-number, "", "")


def test_input_output_and_arguments_are_the_programs(launcher: Launcher) -> None:
    found = launcher.run("auto", "sh", "-c", 'cat; echo "$1" >&2', "sh", "--endpoint x", given="in\n")
    assert found == (0, "in\n", "--endpoint x\n")


def test_the_environment_is_the_programs(launcher: Launcher) -> None:
    words = ("sh", "-c", "env | grep -v ^_=")
    plain, under = (launcher.run(kind, *words, environment={"MINE": "yes"})[1] for kind in ("plain", "auto"))
    assert sorted(under.splitlines()) == sorted(plain.splitlines())
    assert "MINE=yes" in under


def test_a_program_has_the_descriptors_it_inherits_and_no_others(launcher: Launcher) -> None:
    listing = "import os; print(sorted(os.listdir('/proc/self/fd'))); os.write(%d, b'here')"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        words = (sys.executable, "-c", listing % theirs.fileno())
        plain, under = (launcher.run(kind, *words, pass_fds=(theirs.fileno(),)) for kind in ("plain", "auto"))
        assert plain == under
        assert str(theirs.fileno()) in plain[1]
        assert ours.recv(100) == b"herehere"


def test_what_a_program_closes_is_closed(launcher: Launcher) -> None:
    """Who reads the other end sees its end, though the program lives on."""
    ours, theirs = socket.socketpair()
    with ours:
        ours.settimeout(PATIENCE)
        with theirs:
            closing = f"import os, sys; os.close({theirs.fileno()}); os.close(1); sys.stdin.read()"
            program = launcher.exec("auto", sys.executable, "-c", closing, pass_fds=(theirs.fileno(),))
        assert ours.recv(1) == b""
    assert select.select([program.stdout], [], [], PATIENCE)[0]
    assert program.stdout.read() == ""
    assert program.poll() is None


def test_the_signal_mask_and_what_is_done_about_signals_are_the_programs(launcher: Launcher) -> None:
    words = ("grep", "-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status")
    settings = "import signal as s, os, sys; s.pthread_sigmask(s.SIG_BLOCK, [s.SIGUSR2, s.SIGTERM]);"
    settings += "s.signal(s.SIGHUP, s.SIG_IGN); s.signal(s.SIGINT, s.SIG_IGN); s.signal(s.SIGTSTP, s.SIG_IGN);"
    settings += "s.signal(s.SIGPIPE, s.SIG_DFL); s.signal(s.SIGXFSZ, s.SIG_DFL); os.execvp(sys.argv[1], sys.argv[1:])"
    plain, under = (
        launcher.run("plain", sys.executable, "-c", settings, *start, *words)[1] for start in ((), command("auto"))
    )
    assert plain == under
    assert plain.count("\n") == 3


def test_the_working_directory_umask_and_limits_are_the_programs(launcher: Launcher, tmp_path: Path) -> None:
    words = ("sh", "-c", "pwd; umask; ulimit -n; ulimit -c; nice")
    setting = 'umask 027; ulimit -n 77; ulimit -c 0; exec "$@"'
    more = {"cwd": tmp_path, "environment": {"PYTHONPATH": str(ROOT)}}
    plain, under = (
        launcher.run("plain", "sh", "-c", setting, "sh", *start, *words, **more) for start in ((), command("auto"))
    )
    assert plain == under


# -- what cannot be run ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [("not-there", 127, "No such file"), ("/dev/null/x", 127, "Not a directory"), ("/etc", 126, "Permission denied"),
     ("/etc/passwd", 126, "Permission denied")],
)  # fmt: skip
def test_a_program_that_cannot_be_run_is_one_line_and_the_shells_status(
    launcher: Launcher, name: str, status: int, words: str
) -> None:
    found, out, err = launcher.run("auto", name)
    assert (found, out, err.count("\n")) == (status, "", 1)
    assert name in err
    assert words in err


def test_a_daemon_that_is_not_there_is_one_line_with_its_socket(launcher: Launcher, tmp_path: Path) -> None:
    nowhere = {"PERFUSED_SOCKET": str(tmp_path / "none")}
    status, out, err = launcher.run("auto", "echo", "started", environment=nowhere)
    assert (status, out, err.count("\n")) == (69, "", 1)
    assert str(tmp_path / "none") in err


def test_the_socket_may_be_given_to_perfusectl(launcher: Launcher, tmp_path: Path) -> None:
    words = (sys.executable, "-m", "perfused.cli.control", "--socket", tmp_path / "none", "exec", "--", "true")
    status, _, err = launcher.run("plain", *words)
    assert status == 69
    assert str(tmp_path / "none") in err


@pytest.mark.parametrize("endpoint", ["socket", "device", "direct"])
def test_without_a_daemon_root_gets_one_of_its_own_which_ends_with_the_program(
    launcher: Launcher, tmp_path: Path, target: Path, endpoint: str
) -> None:
    own = {"PERFUSED_SOCKET": str(tmp_path / "none"), "PERFUSE_NO_PRIVATE": "0"}
    program = launcher.mounted(endpoint, RAWFS, target, environment=own)
    (target / "file").write_text("kept")
    assert (target / "file").read_text() == "kept"
    below = descendants(program.pid)
    subprocess.run(["umount", target], check=True)
    assert launcher.done(program)[0] == 0
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below), "every process has ended")


def test_exec_inside_exec_is_one_line(launcher: Launcher) -> None:
    status, out, err = launcher.run("auto", *command("auto"), "echo", "started")
    assert (status, out, err.count("\n")) == (69, "", 1)
    assert "already" in err


# -- signals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM,
     signal.SIGWINCH],
)  # fmt: skip
def test_a_signal_sent_to_exec_reaches_the_program_once(launcher: Launcher, number: signal.Signals) -> None:
    program = launcher.serving("auto", f"signals {number:d}", "pause", "counted")
    program.send_signal(number)
    child = descendants(program.pid)[-1]
    eventually(lambda: signals_taken(child, program, number), "the program has had it")
    assert launcher.done(program, "x") == (0, "counted 1\n", "")


def signals_taken(child: int, program: "subprocess.Popen[str]", number: int) -> bool:
    """Whether no process on the way has the signal pending, nor has it to handle."""
    lines = [
        line.split()[1]
        for pid in (program.pid, child)
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith(("SigPnd", "ShdPnd"))
    ]
    time.sleep(0.2)  # from the one to the other
    return not any(int(each, 16) >> number - 1 & 1 for each in lines)


def test_a_terminals_interrupt_reaches_the_program_once(launcher: Launcher) -> None:
    pid, terminal = pty.fork()
    if not pid:
        words = [*command("auto"), launcher.execs, "signals 2", "pause", "counted"]
        os.chdir(ROOT)
        os.execvpe(words[0], words, launcher.environment)
    said = b""
    while b"pause 0" not in said:
        said += os.read(terminal, 1000)
    os.write(terminal, b"\x03")
    time.sleep(0.5)
    os.write(terminal, b"x\n")
    try:
        while b"counted" not in said or not said.endswith(b"\n"):
            said += os.read(terminal, 1000)
    finally:
        os.close(terminal)
        assert os.waitpid(pid, 0)[1] == 0
    assert b"counted 1" in said


def test_a_program_that_is_stopped_and_continued_by_its_terminal_goes_on(launcher: Launcher) -> None:
    """A shell with job control: ^Z stops all of exec, `fg` continues it."""
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(ROOT)
        os.execvpe("bash", ["bash", "--norc", "-i"], launcher.environment | {"PS1": "$ "})
    said = b""

    def until(what: bytes) -> None:
        nonlocal said
        while what not in said:
            assert select.select([terminal], [], [], 20)[0], said
            said += os.read(terminal, 1000)

    try:
        until(b"$ ")
        words = " ".join(str(each) for each in command("auto"))
        said = b""
        os.write(terminal, f"{words} sh -c 'echo go''es; read line; echo \"got=$line\"'\n".encode())
        until(b"goes")
        os.write(terminal, b"\x1a")
        until(b"Stopped")
        # What is typed before the shell reads may be the program's, or nobody's, and the other way round.
        eventually(lambda: os.tcgetpgrp(terminal) == pid, "the shell has the terminal")
        until(b"$ ")
        os.write(terminal, b"fg\n")
        eventually(lambda: os.tcgetpgrp(terminal) != pid, "the program has the terminal")
        os.write(terminal, b"word\n")
        until(b"got=word")
        said = b""
        os.write(terminal, b"exit\n")
        until(b"exit")
    finally:
        os.close(terminal)
        os.kill(pid, signal.SIGKILL) if os.waitpid(pid, os.WNOHANG)[0] == 0 else None
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:
            pass


def test_exec_that_is_stopped_and_continued_goes_on(launcher: Launcher) -> None:
    program = launcher.serving("auto", "pause", "open /dev/fuse b")
    tracer = descendants(program.pid)[0]
    for pid in (program.pid, tracer):
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda pid=pid: "T (stopped)" in Path(f"/proc/{pid}/status").read_text(), "it has stopped")
    for pid in (tracer, program.pid):
        os.kill(pid, signal.SIGCONT)
    assert launcher.done(program, "x") == (0, "open 0\n", "")


# -- many of them ------------------------------------------------------------------------------------------------------


def test_fifty_in_a_row_leave_nothing(launcher: Launcher, daemon_of_all: Daemon) -> None:
    words = " ".join(str(each) for each in command("auto"))
    # The first finds a daemon that has opened all it needs for itself.
    assert launcher.run("auto", "true") == (0, "", "")
    open_before = len(os.listdir(f"/proc/{daemon_of_all.process.pid}/fd"))
    loop = f"while [ $((i += 1)) -le 25 ]; do {words} /bin/true & {words} /bin/true || exit 1; wait; done"
    shell = launcher.start("sh", "-c", f"i=0; {loop}")
    assert shell.wait(timeout=55) == 0
    assert launcher.done(shell) == (0, "", "")
    eventually(
        lambda: len(os.listdir(f"/proc/{daemon_of_all.process.pid}/fd")) <= open_before, "the daemon has no more open"
    )
