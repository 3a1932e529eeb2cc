"""Programs run under perfusectl exec, and the same programs run plain: what the tests of exec share.

`execs.c` makes any system calls it is told to; its lines say what came of each. Never here: what is expected.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from libperfuse.connection import ask, connect
from tests.kernel.conftest import BUILD, ROOT, Daemon, eventually, fuse_mounts
from tests.kernel.ordinary import USER, reachable

ENDPOINTS = ("socket", "device", "direct")
#: seconds any program here may take
PATIENCE = 30.0
RAWFS = BUILD / "rawfs"
Words = tuple[str | Path, ...]


@pytest.fixture(scope="session")
def execs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """execs.c, built."""
    place = tmp_path_factory.mktemp("execs")
    reachable(place)
    warnings = ("-std=gnu11", "-Wall", "-Wextra", "-Werror", "-pthread")
    built = place / "execs"
    subprocess.run(["gcc", "-O1", "-g", *warnings, "-o", built, Path(__file__).with_name("execs.c")], check=True)
    return built


def command(endpoint: str, *options: str) -> Words:
    """perfusectl exec, up to the program."""
    return (sys.executable, "-m", "perfused.cli.control", "exec", "--endpoint", endpoint, *options, "--")


def descendants(pid: int) -> list[int]:
    """All processes below one, zombies among them."""
    found: list[int] = []
    todo = [pid]
    while todo:
        try:
            below = [int(each) for each in Path(f"/proc/{todo[0]}/task/{todo[0]}/children").read_text().split()]
        except OSError:
            below = []
        todo = todo[1:] + below
        found += below
    return found


class Launcher:
    """Starts programs, with perfused's daemon in the environment, and ends those that are left."""

    def __init__(self, execs: Path, environment: dict[str, str], place: Path) -> None:
        self.execs = execs
        self.environment = environment
        self.place = place
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *words: str | Path, **more: Any) -> subprocess.Popen[str]:
        """Any command, with pipes."""
        for name in ("stdin", "stdout", "stderr"):
            more.setdefault(name, subprocess.PIPE)
        more["env"] = self.environment | more.pop("environment", {})
        more.setdefault("cwd", ROOT)
        more.setdefault("text", True)
        process: subprocess.Popen[str] = subprocess.Popen(words, **more)
        self.started.append(process)
        return process

    def exec(self, endpoint: str, *words: str | Path, options: tuple[str, ...] = (), **more: Any) -> Any:
        """A command under perfusectl exec."""
        return self.start(*command(endpoint, *options), *words, **more)

    def done(self, process: subprocess.Popen[str], given: str = "") -> tuple[int, str, str]:
        """Wait for its end: status, output, and what it said."""
        out, err = process.communicate(given, timeout=PATIENCE)
        return process.returncode, out, err

    def run(self, endpoint: str, *words: str | Path, given: str = "", **more: Any) -> tuple[int, str, str]:
        """A command under perfusectl exec, or plain where `endpoint` is that, to its end."""
        started = self.start(*words, **more) if endpoint == "plain" else self.exec(endpoint, *words, **more)
        return self.done(started, given)

    def steps(self, endpoint: str, *steps: str, **more: Any) -> list[str]:
        """What execs prints for each step."""
        _, out, err = self.run(endpoint, self.execs, *steps, **more)
        return out.splitlines() + [f"stderr: {line}" for line in err.splitlines() if "endpoint" not in line]

    def serving(self, endpoint: str, *steps: str, **more: Any) -> subprocess.Popen[str]:
        """execs, run up to a step `pause`, which a line or the end of its input ends."""
        process = self.start(*(command(endpoint) if endpoint != "plain" else ()), self.execs, *steps, **more)
        assert process.stdout is not None
        said = []
        while (line := process.stdout.readline()) and line != "pause 0\n":
            said.append(line)
        assert line, (said, process.wait(timeout=PATIENCE), process.stderr.read() if process.stderr else "")
        process.said = said  # type: ignore[attr-defined]
        return process

    def mounted(self, endpoint: str, *words: str | Path, **more: Any) -> subprocess.Popen[str]:
        """A program that says `mounted on` when it has."""
        process: subprocess.Popen[str] = self.exec(endpoint, *words, **more)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "mounted on" in line, self.done(process)
        return process

    def listed(self, target: Path) -> list[dict[str, Any]]:
        """What perfusectl mounts says of a target."""
        with connect(self.environment["PERFUSED_SOCKET"]) as connection:
            *rows, _ = ask(connection, {"op": "mounts"})
        return [each for each in rows if each["target"] == str(target)]

    def close(self) -> None:
        """End what is left, and let nothing of it stay."""
        left = [each for process in self.started if process.poll() is None for each in descendants(process.pid)]
        for process in self.started:
            if process.poll() is None:
                process.kill()
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for process in self.started:
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
            process.wait(timeout=PATIENCE)


def options_for(number: str = "@0", uid: int = 0) -> str:
    """The options of a mount of descriptor `number` of execs."""
    return f"fd={number},rootmode=40000,user_id={uid},group_id={uid}"


@pytest.fixture
def launcher(
    execs: Path, daemon_of_all: Daemon, tmp_path: Path, evidence: dict[str, Callable[[], str]],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Launcher]:  # fmt: skip
    """Programs with the daemon of the module; in the end none of them is left, and no mount."""
    before = len(daemon_of_all.log())
    evidence["log of perfused"] = lambda: daemon_of_all.log()[before:]
    monkeypatch.setenv("PERFUSED_SOCKET", str(daemon_of_all.socket))
    made = Launcher(execs, daemon_of_all.environment, tmp_path)
    yield made
    made.close()
    eventually(lambda: not fuse_mounts(tmp_path), "every mount is gone with its program")


__all__ = ["ENDPOINTS", "PATIENCE", "RAWFS", "USER", "Launcher", "command", "descendants", "execs", "launcher"]
