"""Everything here mounts on the real kernel, in a mount namespace of its own, under a watchdog.

A FUSE request that nobody answers cannot be killed, so each test has a time after which every connection it made is
aborted. After each test no mount, no connection and no process of it may be left.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from libperfuse import perfuse
from libperfuse.connection import ask, connect
from perfused import libc
from tests.kernel.scripted import Handler, Scripted

# A child closes what it inherits before it execs, which for an open file of a scripted filesystem is a FLUSH to a
# thread of this process; and vfork(2) holds this process's interpreter lock until the exec. fork(2) does not.
subprocess._USE_VFORK = False

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build"
CONNECTIONS = Path("/sys/fs/fuse/connections")
#: seconds a test may take before its connections are aborted
PATIENCE = 60.0


def missing() -> str:
    """What this machine lacks for these tests, or nothing."""
    if os.geteuid() != 0:
        return "not root: mounting needs CAP_SYS_ADMIN"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as bad:
        return f"/dev/fuse cannot be opened: {bad.strerror}"
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip all of it, with the reason, where the machine cannot mount."""
    lacking = missing()
    for item in items:
        if lacking and Path(item.fspath).is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.skip(reason=lacking))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Show the decoded frames of scripted filesystems and the daemon's log when a test fails."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed:
        for title, text in getattr(item, "evidence", {}).items():
            shown = text()
            if shown:
                report.sections.append((title, shown[-4_000:]))


@pytest.fixture(scope="session", autouse=True)
def namespace() -> None:
    """A mount namespace of this process's own, with fusectl in it."""
    if missing():
        return
    libc.unshare(libc.CLONE_NEWNS)
    libc.mount(b"none", b"/", None, libc.MS_REC | libc.MS_PRIVATE, None)
    if not any(line.split()[1] == str(CONNECTIONS) for line in Path("/proc/mounts").read_text().splitlines()):
        libc.mount(b"fusectl", os.fsencode(CONNECTIONS), b"fusectl", 0, None)


def connections(under: Path) -> set[str]:
    """The numbers of the FUSE connections mounted below a directory: nobody else's, whatever else this machine runs.

    A connection has its filesystem's device number, with the major of a block device above 20 bits of minor.
    """
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    found = [each[2].split(":") for each in lines if each[4].startswith(str(under)) and " - fuse" in " ".join(each)]
    return {str(int(major) << 20 | int(minor)) for major, minor in found}


def abort(numbers: set[str]) -> None:
    """Abort connections: whatever waits for them returns."""
    for number in numbers:
        try:
            (CONNECTIONS / number / "abort").write_text("1")
        except OSError:
            pass


def eventually(true: Callable[[], Any], what: str, seconds: float = 10.0) -> Any:
    """Wait until `true()` is; fails with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:g} s: {what}")
        time.sleep(0.01)
    return found


def fuse_mounts(under: Path) -> list[str]:
    """Targets of FUSE mounts below a directory; no filesystem is asked."""
    lines = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [
        each[1]
        for each in lines
        if each[2].startswith("fuse") and each[2] != "fusectl" and each[1].startswith(str(under))
    ]


@pytest.fixture(autouse=True)
def watchdog(request: pytest.FixtureRequest, namespace: None, tmp_path: Path) -> Iterator[None]:
    """Abort what a test leaves stuck, and see that it left nothing."""
    if missing():
        yield
        return
    fired = threading.Event()

    def fire() -> None:
        fired.set()
        abort(connections(tmp_path))
        for daemon in running:
            os.killpg(daemon.process.pid, signal.SIGKILL)

    timer = threading.Timer(PATIENCE, fire)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        left = fuse_mounts(tmp_path)
        abort(connections(tmp_path))
        for target in left:
            subprocess.run(["umount", "-l", target], check=False, capture_output=True)
    assert not fired.is_set(), f"the test took longer than {PATIENCE:g} s; its connections were aborted"
    assert not left, f"mounts left behind: {left}"


@pytest.fixture
def evidence(request: pytest.FixtureRequest) -> dict[str, Callable[[], str]]:
    """What to show when the test fails: title -> text."""
    found: dict[str, Callable[[], str]] = {}
    request.node.evidence = found  # type: ignore[attr-defined]
    return found


def _name_of(pid: str) -> str:
    """The name of a process, nothing where it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


class Daemon:
    """A running perfused and ways to speak to it."""

    def __init__(self, place: Path, config: str, options: tuple[str, ...], environment: dict[str, str]) -> None:
        self.place = place
        self.socket = place / "perfused.sock"
        self.environment = os.environ | environment | {"PERFUSED_SOCKET": str(self.socket), "PERFUSE_NO_PRIVATE": "1"}
        (place / "perfused.toml").write_text(f"[daemon]\ntrace_dir = '{place}'\n" + config)
        self.log_path = place / "log"
        self.options = options
        self.programs: list[subprocess.Popen[str]] = []
        self.start()

    def start(self) -> None:
        """Start it and wait until it listens."""
        before = len(self.log())
        with open(self.log_path, "ab") as log:
            settings = ("--config", self.place / "perfused.toml")
            self.process = subprocess.Popen(
                [sys.executable, "-m", "perfused.cli.daemon", "-f", *settings, *self.options],
                env=self.environment, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, cwd=ROOT,
            )  # fmt: skip
        eventually(lambda: "ready" in self.log()[before:] or self.process.poll() is not None, "perfused is ready")
        assert self.process.poll() is None, self.log()

    def log(self) -> str:
        """Its log so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def has_logged(self, *words: str) -> None:
        """Wait for a line with all words in it."""

        def there() -> bool:
            return any(all(word in line for word in words) for line in self.log().splitlines())

        eventually(there, f"a log line with {words}")

    def ctl(self, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """perfusectl."""
        command = [sys.executable, "-m", "perfused.cli.control", *words]
        done = subprocess.run(
            command, env=self.environment, text=True, capture_output=True, timeout=30, check=False, cwd=ROOT
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def run(self, *command: str | Path, **more: Any) -> subprocess.Popen[str]:
        """A program that finds this daemon."""
        program = subprocess.Popen(command, env=self.environment, text=True, stdout=subprocess.PIPE, **more)
        self.programs.append(program)
        return program

    def rawfs(self, target: Path, *options: str) -> subprocess.Popen[str]:
        """Mount rawfs and wait for it."""
        return self.mounted(BUILD / "rawfs-perfuse", *options, target)

    def faulty(self, *words: str | Path) -> subprocess.Popen[str]:
        """Mount a misbehaving filesystem and wait for it."""
        return self.mounted(BUILD / "faulty-perfuse", *words)

    def mounted(self, *command: str | Path) -> subprocess.Popen[str]:
        """A program that says `mounted on` when it has."""
        program = self.run(*command)
        assert program.stdout is not None
        assert "mounted on" in program.stdout.readline(), self.log()
        return program

    def stats(self, target: Path) -> dict[str, Any]:
        """What perfusectl stats --json shows, without starting a program for it."""
        with connect(self.environment["PERFUSED_SOCKET"]) as connection:
            (found,) = ask(connection, {"op": "stats", "target": str(target)})
        return found

    def tracing(self, target: Path, *options: str) -> subprocess.Popen[str]:
        """perfusectl trace, from when the worker sends it frames."""
        before = self.stats(target)["traces"]
        command = (sys.executable, "-m", "perfused.cli.control", "trace", *options, target)
        watching = self.run(*command, stderr=subprocess.PIPE, cwd=ROOT)
        eventually(lambda: self.stats(target)["traces"] > before, "the worker sends the trace")
        return watching

    def idle(self, target: Path) -> None:
        """Wait until no request is in flight; RELEASE for one comes when nobody waits for it."""
        eventually(lambda: not self.stats(target)["in_flight"], "nothing is in flight")

    def workers(self) -> list[int]:
        """Pids of its workers and helpers, the keeper not among them."""
        found = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False)
        return [int(pid) for pid in found.stdout.split() if _name_of(pid) == "perfused-mount"]

    def stop(self) -> int:
        """SIGTERM, and its exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout=20)


#: daemons of the running test, whose workers the watchdog kills
running: list[Daemon] = []


@pytest.fixture
def daemons(
    tmp_path: Path, evidence: dict[str, Callable[[], str]], watchdog: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Daemon]]:
    """Start daemons: `daemons(config="", options=(), environment={})`."""
    started: list[Daemon] = []

    def start(config: str = "", options: tuple[str, ...] = (), environment: dict[str, str] | None = None) -> Daemon:
        place = tmp_path / f"daemon{len(started)}"
        place.mkdir()
        daemon = Daemon(place, config, options, environment or {})
        monkeypatch.setenv("PERFUSED_SOCKET", str(daemon.socket))
        monkeypatch.setenv("PERFUSE_NO_PRIVATE", "1")
        evidence[f"log of {place.name}"] = daemon.log
        started.append(daemon)
        running.append(daemon)
        return daemon

    yield start
    for daemon in started:
        for program in daemon.programs:
            assert program.stdout is not None
            program.kill()
            program.stdout.close()
            if program.stderr is not None:
                program.stderr.close()
            program.wait()
        running.remove(daemon)
        killed = daemon.process.poll() is not None
        try:
            status = daemon.stop()
        finally:
            if daemon.process.poll() is None:
                os.killpg(daemon.process.pid, signal.SIGKILL)
                daemon.process.wait()
        assert killed or status == 0, f"perfused ended with {status}"
        assert "Traceback" not in daemon.log(), "a traceback in the log"


@pytest.fixture
def daemon(daemons: Callable[..., Daemon]) -> Daemon:
    """One daemon with default settings."""
    return daemons()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """An empty directory to mount on."""
    made = tmp_path / "mnt"
    made.mkdir()
    return made


@pytest.fixture
def scripted(tmp_path: Path, evidence: dict[str, Callable[[], str]]) -> Iterator[Callable[..., Scripted]]:
    """Scripted filesystems mounted through the current daemon: `scripted(target, handlers, options="", flags=0)`."""
    made: list[Scripted] = []

    def mount(target: Path, handlers: dict[int, Handler] | None = None, options: str = "", **more: int) -> Scripted:
        fs = Scripted(handlers, **more)
        evidence[f"frames of {target.name}"] = fs.transcript
        made.append(fs)
        return fs.open_and_mount(str(target), options)

    yield mount
    for fs in made:
        fs.close()


@pytest.fixture(autouse=True)
def direct_connections() -> Iterator[None]:
    """Close the connections that libperfuse keeps for direct devices of this process."""
    yield
    for _, kept in perfuse._direct.values():
        kept.close()
    perfuse._direct.clear()
