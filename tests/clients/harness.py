"""One real FUSE program, run unmodified: started, mounted, used, ended, nothing of it left; and a record of that.

Programs are started by `perfusectl exec`, or, where PERFUSE_CLIENTS_VIA is `plain`, as anybody starts them: what then
fails is not perfused's doing. Never here: what is run, and what it should do.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.kernel.conftest import BUILD, CONNECTIONS, Daemon, abort, connections, eventually, fuse_mounts

#: how programs are started: `exec` or `plain`
VIA = os.environ.get("PERFUSE_CLIENTS_VIA", "exec")
#: where a line of JSON is appended for each program that ran; nothing is recorded without it
RESULTS = "PERFUSE_CLIENTS_RESULTS"
#: the programs that come as wheels
VENV = BUILD / "clients-venv"
#: the examples of libfuse3-dev
EXAMPLES = BUILD / "clients"
#: in the environment of every process of a case, whichever way it was forked
MARK = "PERFUSE_CLIENTS_CASE"
#: seconds a program has to mount, and to end
SOON = 15.0

Argument = str | Path


class Program(NamedTuple):
    """What is run. `package` is Debian's or a wheel, `api` the protocol's other end, `device` how it asks for one.

    `eof` is its exit code where the device ends as a socket does, with an end of file, and not as /dev/fuse does.
    """

    name: str
    package: str
    needs: str
    api: str
    device: str
    eof: int
    limit: float


def client(
    name: str,
    package: str,
    *,
    api: str,
    device: str = "open, mount(2)",
    needs: Argument = "",
    endpoints: Sequence[str] = ("auto",),
    eof: int = 0,
    limit: float = 30.0,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A test that runs one program, once for each endpoint, and takes at most `limit` seconds.

    `needs` is the executable that must be there, by path or name; without it, `name`.
    """
    program = Program(name, package, str(needs or name), api, device, eof, limit)
    through = ("plain",) if VIA == "plain" else tuple(endpoints)

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        return pytest.mark.client(program)(pytest.mark.parametrize("endpoint", through)(test))  # type: ignore[no-any-return]

    return decorate


def lacking(program: Program) -> str:
    """Why the program cannot be run here, or nothing."""
    if shutil.which(program.needs):
        return ""
    return f"package {program.package} is not installed: make clients installs it"


def version(package: str) -> str:
    """The version of a Debian package or a wheel in the venv; a question mark where neither has it."""
    for found in VENV.glob(f"lib/python*/site-packages/{package.replace('-', '_')}-*.dist-info"):
        return found.name.removesuffix(".dist-info").rpartition("-")[2]
    try:
        asked = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return "?"
    return asked.stdout.strip() or "?"


def marked(mark: str) -> list[int]:
    """Processes that are, or descend from, what a case started; zombies are not among them."""
    found = []
    wanted = f"{MARK}={mark}".encode()
    for each in Path("/proc").iterdir():
        if not each.name.isdigit() or int(each.name) == os.getpid():
            continue
        try:
            if wanted in (each / "environ").read_bytes().split(b"\0"):
                found.append(int(each.name))
        except OSError:
            pass
    return found


def named(pid: int) -> str:
    """A process's command line, for who reads that it was left."""
    try:
        return f"{pid} ({Path(f'/proc/{pid}/cmdline').read_bytes().replace(bytes(1), b' ').decode(errors='replace')})"
    except OSError:
        return str(pid)


def listening(port: int) -> bool:
    """Whether somebody on this machine listens on a TCP port; the port is not touched."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


class Case:
    """One run of one program: its places, its processes, its log.

    `target` is a directory, made at once, that the program should mount on. Everything is below `place`.
    """

    def __init__(self, program: Program, endpoint: str, place: Path, daemon: Daemon | None) -> None:
        self.program = program
        self.endpoint = endpoint
        self.place = place
        self.daemon = daemon
        self.target = self.directory("mnt")
        self.log_path = place / "program.log"
        self.environment = dict(os.environ if daemon is None else daemon.environment) | {MARK: str(place)}
        self.record: dict[str, Any] = {
            "program": program.name, "package": program.package, "version": version(program.package),
            "api": program.api, "device": program.device, "via": VIA, "asked": endpoint,
        }  # fmt: skip
        self._services: list[subprocess.Popen[bytes]] = []
        self._programs: list[subprocess.Popen[bytes]] = []
        self._seen: set[tuple[str, int]] = set()
        self._expired = threading.Event()
        self._timer = threading.Timer(program.limit, self._expire)
        self._timer.daemon = True
        self._timer.start()

    # ---- places

    def directory(self, name: str) -> Path:
        """A new directory of this case's own."""
        made = self.place / name
        made.mkdir(parents=True)
        return made

    def file(self, name: str, content: bytes | str = b"", size: int = 0) -> Path:
        """A new file of this case's own; `size` bytes long, with a hole, where there is no content."""
        made = self.place / name
        made.write_bytes(content.encode() if isinstance(content, str) else content)
        if size:
            os.truncate(made, size)
        return made

    def log(self) -> str:
        """What the programs have said."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    # ---- what is no FUSE program

    def call(self, *command: Argument, status: int = 0, text: bool = True, **more: Any) -> Any:
        """Run a command as it is, mkfs or one that uses the mount, and return what it prints; it has `status`."""
        done = subprocess.run(
            [str(word) for word in command],
            env=self.environment, capture_output=True, text=text, timeout=SOON, check=False, **more,
        )  # fmt: skip
        assert done.returncode == status, f"{command[0]}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def service(
        self, *command: Argument, ready: Callable[[], Any], seconds: float = SOON, **more: Any
    ) -> subprocess.Popen[bytes]:
        """Start a server that the program needs, wait until `ready()`; it is ended with the case."""
        with open(self.log_path, "ab") as log:
            started = subprocess.Popen(
                [str(word) for word in command],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **more,
            )  # fmt: skip
        self._services.append(started)
        eventually(lambda: started.poll() is not None or ready(), f"{command[0]} is ready", seconds)
        assert started.poll() is None, f"{command[0]} ended with {started.returncode}"
        return started

    # ---- the program

    def command(self, *command: Argument) -> list[str]:
        """A command as it is run: through perfusectl exec, or plain."""
        words = [str(word) for word in command]
        if self.daemon is None:
            return words
        perfusectl = [sys.executable, "-m", "perfused.cli.control"]
        return [*perfusectl, "exec", "--endpoint", self.endpoint, "--", *words]

    def start(
        self,
        *command: Argument,
        target: Path | None = None,
        mounted: bool = True,
        environment: dict[str, str] | None = None,
        given: bytes = b"",
        **more: Any,
    ) -> subprocess.Popen[bytes]:
        """Start the program and, with `mounted`, wait until it has; `given` is what it reads from its input."""
        begun = time.monotonic()
        wanted = str(target or self.target)
        with open(self.log_path, "ab") as log:
            program = subprocess.Popen(
                self.command(*command),
                env=self.environment | (environment or {}),
                stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, **more,
            )  # fmt: skip
        self._programs.append(program)
        assert program.stdin is not None
        program.stdin.write(given)
        program.stdin.close()
        if mounted:
            eventually(
                lambda: wanted in fuse_mounts(self.place) or (program.poll() or 0) != 0,
                f"{command[0]} has mounted on {wanted}", SOON,
            )  # fmt: skip
            assert wanted in fuse_mounts(self.place), (
                f"{command[0]} ended with {program.returncode} and mounted nothing"
            )
            self.record.setdefault("mount_s", round(time.monotonic() - begun, 3))
            self._see()
        return program

    def _see(self) -> None:
        """Remember which connections are this case's: number and inode, since numbers are used again."""
        for number in connections(self.place):
            self._seen.add((number, (CONNECTIONS / number).stat().st_ino))

    def negotiated(self, target: Path | None = None) -> dict[str, Any]:
        """What perfusectl mounts and stats tell of the mount, when INIT is through; nothing where it is not ours."""
        if self.daemon is None:
            return {}
        wanted = str(target or self.target)
        rows = json.loads(self.daemon.ctl("mounts", "--json").stdout)
        row = next((each for each in rows if each["target"] == wanted), None)
        assert row is not None, f"{wanted} is mounted, but not through perfused"
        found = {"endpoint": row["endpoint"], "fstype": row["fstype"]}
        if row["endpoint"] != "direct":
            eventually(lambda: self._stats(wanted)["state"] == "RUNNING", "INIT has been answered")
            stats = self._stats(wanted)
            found |= {key: stats[key] for key in ("minor", "flags", "max_write", "requests", "notifications")}
            found["faults"] = {
                key: stats[key] for key in ("bad_replies", "bad_notifications", "dropped_notifications") if stats[key]
            }
        return found

    def _stats(self, target: str) -> dict[str, Any]:
        assert self.daemon is not None
        return self.daemon.stats(Path(target))

    def notes(self) -> list[str]:
        """What the daemon says it has masked or lowered."""
        said = [] if self.daemon is None else self.daemon.log().splitlines()
        notes = [re.search(r": (?P<note>[^:]*(not offered|lowered to).*)$", line) for line in said]
        return list(dict.fromkeys(note["note"] for note in notes if note))

    def unmount(self, target: Path | None = None) -> None:
        """umount(8), as soon as nobody uses it, after the record has been taken."""
        wanted = target or self.target
        self._see()
        self.record |= self.negotiated(wanted)
        faults = self.record.get("faults")

        def tried() -> bool:
            done = subprocess.run(["umount", wanted], capture_output=True, text=True, check=False)
            return done.returncode == 0 or str(wanted) not in fuse_mounts(self.place)

        eventually(tried, f"{wanted} can be unmounted", SOON)
        assert not faults, f"perfused found fault with {self.program.name}: {faults}"

    def ended(self, program: subprocess.Popen[bytes], status: int = 0) -> None:
        """Wait for the program; it ends with `status`, the one it has without perfused (on a socket with its `eof`)."""
        eventually(lambda: program.poll() is not None, f"{self.program.name} has ended", SOON)
        self.record["exit_code"] = program.returncode
        if self.record.get("endpoint") == "socket":
            status = self.program.eof
        assert program.returncode == status, f"{self.program.name} ended with {program.returncode}, not {status}"

    def unmounted(self, program: subprocess.Popen[bytes], status: int = 0, target: Path | None = None) -> None:
        """Unmount, and see that the program ends with `status`."""
        self.unmount(target)
        self.ended(program, status)

    def gone(self) -> None:
        """Wait for the processes of a program that has become a daemon."""
        eventually(lambda: not self._left(), f"the daemon of {self.program.name} has ended", SOON)

    # ---- its end

    def _expire(self) -> None:
        self._expired.set()
        abort(connections(self.place))
        for pid in marked(str(self.place)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        abort(connections(self.place))

    def _left(self) -> list[int]:
        """Processes of the case, apart from services that go on."""
        services = {each.pid for each in self._services if each.poll() is None}
        return [pid for pid in marked(str(self.place)) if pid not in services]

    def _connections_left(self) -> set[str]:
        """Connections of this case that are still there."""
        there = {(each.name, each.stat().st_ino) for each in CONNECTIONS.iterdir()}
        return {number for number, inode in self._seen & there}

    def close(self) -> None:
        """End what should have ended; raises AssertionError where a process, mount or connection of it was left."""
        for service in reversed(self._services):
            if service.poll() is None:
                service.terminate()
                try:
                    service.wait(timeout=3)
                except subprocess.TimeoutExpired:
                    service.kill()
        wrong = []
        try:
            mounts = fuse_mounts(self.place)
            if mounts:
                wrong.append(f"mounts left: {mounts}")
                abort(connections(self.place))
                for target in reversed(mounts):
                    subprocess.run(["umount", "-l", target], check=False, capture_output=True)
            deadline = time.monotonic() + SOON
            while self._left() and time.monotonic() < deadline and not mounts:
                time.sleep(0.02)
            for pid in self._left():
                wrong.append(f"process left: {named(pid)}")
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            deadline = time.monotonic() + 5
            while self._connections_left() and time.monotonic() < deadline:
                time.sleep(0.02)
            if self._connections_left():
                wrong.append(f"connections left: {self._connections_left()}")
                abort(self._connections_left())
        finally:
            self._timer.cancel()
            for each in [*self._programs, *self._services]:
                each.wait(timeout=SOON)
        if self._expired.is_set():
            wrong.insert(
                0, f"took longer than {self.program.limit:g} s: its connections were aborted, its processes killed"
            )
        assert not wrong, "; ".join(wrong)

    def save(self, result: str) -> None:
        """Append the record to the file of results."""
        if RESULTS in os.environ:
            with open(os.environ[RESULTS], "a") as out:
                out.write(json.dumps(self.record | {"result": result, "masked": self.notes()}) + "\n")
