"""Daemons and filesystems started, mounted, aborted and taken away again, whatever happens in between.

Never here: which ones there are (`contestants`), and what is done in them (`turns`).
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from libperfuse.connection import PerfuseError, ask, connect
from tests.bench import processes

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent
CONNECTIONS = Path("/sys/fs/fuse/connections")
URING = Path("/sys/module/fuse/parameters/enable_uring")
MOUNTS = Path("/proc/self/mounts")
#: seconds a program may take to mount, and to go when its mount is gone
PATIENCE = 10.0


class NotMeasured(Exception):
    """Why a contestant, or one work of it, cannot be measured; the run goes on without."""


class Daemon(NamedTuple):
    """A perfused that listens: its socket, its process, and the seconds it took to start."""

    socket: Path
    pid: int
    took: float

    @property
    def environment(self) -> dict[str, str]:
        """For its clients."""
        found = os.environ | {"PERFUSED_SOCKET": str(self.socket), "PERFUSE_NO_PRIVATE": "1"}
        found.pop("PYTHONDONTWRITEBYTECODE", None)
        return found

    def workers(self) -> dict[str, int]:
        """The processes that relay, by where their mounts are; none where the daemon is gone."""
        try:
            with connect(str(self.socket)) as connection:
                *rows, _ = ask(connection, {"op": "mounts"})
        except PerfuseError:
            return {}
        return {str(row["target"]): int(str(row["worker"])) for row in rows}

    def worker(self, target: Path) -> int:
        """The process that relays a mount. The mount is there a little before it is in the daemon's book."""
        until = time.monotonic() + 2
        while not (found := self.workers().get(str(target), 0)):
            if time.monotonic() > until:
                raise NotMeasured("perfused does not know the mount")
            time.sleep(0.005)
        return found


class Mounted(NamedTuple):
    """A contestant where it is mounted: its program, the worker that relays it (0: none), milliseconds to the mount."""

    target: Path
    pid: int = 0
    worker: int = 0
    took: float = 0.0

    def processes(self) -> list[int]:
        """All that works for this mount; a daemon's processes for all mounts are not among them."""
        return [*(processes.family(self.pid) if self.pid else []), *([self.worker] if self.worker else [])]


def build(place: Path) -> None:
    """Compile the bench's own programs into `place`."""
    include = ["-I", str(ROOT / "libperfuse"), "-L", str(ROOT / "build"), f"-Wl,-rpath,{ROOT}/build"]
    for name, source, more in (
        ("server", "server.c", []),
        ("server-perfuse", "server.c", ["-DPERFUSE", *include, "-lperfuse"]),
        ("relay", "relay.c", ["-pthread"]),
        ("client", "client.c", []),
    ):
        subprocess.run(["gcc", "-O2", "-Wall", "-o", place / name, HERE / source, *more], check=True)


def abort(target: Path) -> None:
    """Abort a mount's FUSE connection, so that whoever waits for it returns (Linux: filesystems/fuse.rst)."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[4] == str(target):
            major, minor = map(int, fields[2].split(":"))
            try:
                (CONNECTIONS / str(major << 20 | minor) / "abort").write_text("1")
            except OSError:
                pass


def _wait_for_mount(program: subprocess.Popen[bytes], target: Path) -> None:
    """Wait, without a poll in steps, until something is mounted; NotMeasured where nothing will be."""
    with MOUNTS.open() as mounts:
        looks = select.poll()
        looks.register(mounts, select.POLLERR | select.POLLPRI)
        deadline = time.monotonic() + PATIENCE
        while f" {target} " not in MOUNTS.read_text():
            if time.monotonic() > deadline:
                raise NotMeasured("did not mount in time")
            if program.poll() is not None:
                raise NotMeasured(f"ended with status {program.returncode}")
            looks.poll(50)


def stop(program: subprocess.Popen[bytes], patience: float = PATIENCE) -> None:
    """Wait for a program whose mount is gone, then kill it and all of its session."""
    try:
        program.wait(timeout=patience)
    except subprocess.TimeoutExpired:
        pass
    try:
        os.killpg(program.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    program.wait()


@contextmanager
def mounted(
    place: Path, name: str, command: Sequence[str], environment: Mapping[str, str], daemon: Daemon | None = None
) -> Iterator[Mounted]:
    """A contestant, mounted on a new directory `place`/`name` while the block runs; NotMeasured where it cannot be."""
    target, log = place / name, place / f"{name}.err"
    target.mkdir()
    began = time.perf_counter()
    with log.open("wb") as errors:
        program = subprocess.Popen(
            command, env=dict(environment), stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True, cwd=ROOT
        )
    try:
        try:
            _wait_for_mount(program, target)
        except NotMeasured as bad:
            said = " ".join(log.read_text(errors="replace").split())
            raise NotMeasured(f"{bad}: {said[-200:]}") from None
        took = (time.perf_counter() - began) * 1e3
        yield Mounted(target, program.pid, daemon.worker(target) if daemon else 0, took)
    finally:
        subprocess.run(["umount", "-l", target], check=False, stderr=subprocess.DEVNULL)
        if program.poll() is None:
            try:
                program.wait(timeout=2)
            except subprocess.TimeoutExpired:
                os.killpg(program.pid, signal.SIGTERM)
        stop(program, 3)
        target.rmdir()


@contextmanager
def daemon(place: Path, name: str, settings: str = "", *options: str) -> Iterator[Daemon]:
    """A perfused with these settings (TOML) and options while the block runs; NotMeasured where it does not start."""
    path, log = place / f"{name}.sock", place / f"{name}.log"
    (place / f"{name}.toml").write_text(settings)
    found = Daemon(path, 0, 0)
    began = time.monotonic()
    config = place / f"{name}.toml"
    command = [Path(sys.executable).with_name("perfused"), "-f", "--config", config, "--socket", path, *options]
    with log.open("wb") as said:
        process = subprocess.Popen(command, env=found.environment, stderr=said, start_new_session=True)
    try:
        while b"ready" not in log.read_bytes():
            if process.poll() is not None or time.monotonic() - began > PATIENCE:
                raise NotMeasured(f"perfused did not start: {' '.join(log.read_text().split())[-200:]}")
            time.sleep(0.002)
        yield Daemon(path, process.pid, time.monotonic() - began)
    finally:
        process.terminate()
        stop(process, 20)


@contextmanager
def over_io_uring() -> Iterator[None]:
    """The kernel allows FUSE over io_uring in the block, and afterwards what it did. NotMeasured where it cannot."""
    try:
        changed = URING.read_text().strip() == "N"
        if changed:
            URING.write_text("Y")
    except OSError as bad:
        raise NotMeasured(f"{URING}: {bad.strerror}") from None
    try:
        yield
    finally:
        if changed:
            URING.write_text("N")


@contextmanager
def tmpfs(target: Path) -> Iterator[Path]:
    """A filesystem in memory while the block runs."""
    target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4g", "bench", target], check=True)
    try:
        yield target
    finally:
        subprocess.run(["umount", "-l", target], check=False)
        target.rmdir()


@contextmanager
def pinned(cores: set[int]) -> Iterator[None]:
    """Everything started in the block runs on these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
