"""An ordinary user, and perfuse-fusermount3 as a program that this user can execute.

The interpreter, this tree and what is installed for it may lie where only root may go: they are bound to a place that
everybody can reach. A module takes the fixtures by assignment:
`interpreter, daemon_of_all, ordinaries, ordinary = FIXTURES`. Never here: what is asked of the program.
"""

import os
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from perfused import libc
from tests.kernel.conftest import ROOT, Daemon, fuse_mounts

USER = 12345
#: seconds any of these programs may take
PATIENCE = 30.0


class Said(NamedTuple):
    """What came of running the program: its status and output, and the bytes and the descriptor (or -1) it sent."""

    status: int
    out: str
    err: str
    data: bytes
    device: int


def reachable(path: Path) -> None:
    """Let everybody pass through the directories above, where they are root's and closed."""
    for each in (path, *path.parents):
        if each != Path("/") and each.stat().st_uid == 0 and not each.stat().st_mode & 0o001:
            each.chmod(each.stat().st_mode | 0o011)


def bound(held: ExitStack, source: Path, target: Path) -> Path:
    """Bind a file or directory to a name, which is made, for as long as `held` is."""
    if source.is_dir():
        target.mkdir()
    else:
        target.touch()
    over(held, source, target)
    return target


def over(held: ExitStack, source: Path, target: Path) -> None:
    """Bind a file or directory over another that is there, for as long as `held` is."""
    libc.mount(os.fsencode(source), os.fsencode(target), None, libc.MS_BIND, None)
    held.callback(libc.umount2, os.fsencode(target), libc.MNT_DETACH)


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory, namespace: None) -> Iterator[str]:
    """What a shell has to say before the arguments of Python so that any user runs it, with this tree's modules."""
    where = tmp_path_factory.mktemp("python")
    reachable(where)
    with ExitStack() as held:
        base, program = Path(sys.base_prefix).resolve(), Path(sys.executable).resolve()
        python = bound(held, base, where / "base") / program.relative_to(base)
        paths = [ROOT, *sorted({Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")})]
        path = ":".join(str(bound(held, each, where / f"path{n}")) for n, each in enumerate(paths))
        yield f"PYTHONPATH={path} PYTHONDONTWRITEBYTECODE=1 exec {python}"


class Ordinary:
    """The user, a directory of the user's, and the program as `command`, which finds the daemon on `socket`."""

    def __init__(self, interpreter: str, place: Path, socket: Path) -> None:
        reachable(place)
        self.interpreter = interpreter
        self.place = place / "owned"
        self.place.mkdir()
        os.chown(self.place, USER, USER)
        self.command = self.script(place / "fusermount3", f"PERFUSED_SOCKET={socket}")
        self.bare = self.script(place / "bare")
        #: devices that were received, closed in the end
        self.devices: list[int] = []

    def script(self, path: Path, setting: str = "") -> Path:
        """The program, started by a script with this in its environment."""
        path.write_text(f'#!/bin/sh\n{setting} {self.interpreter} -m libperfuse.fusermount "$@"\n')
        path.chmod(0o755)
        return path

    def target(self, name: str = "mnt") -> Path:
        """An empty directory of the user's."""
        made = self.place / name
        made.mkdir()
        os.chown(made, USER, USER)
        return made

    def start(
        self, *arguments: str | Path, comm: int = -1, user: int = USER, environment: dict[str, str] | None = None,
        command: Path | None = None, **more: Any,
    ) -> subprocess.Popen[str]:  # fmt: skip
        """Start it with nothing in its environment but _FUSE_COMMFD (`comm`, unless -1) and `environment`."""
        said = dict(environment or {})
        if comm >= 0:
            said.setdefault("_FUSE_COMMFD", str(comm))
        more.setdefault("pass_fds", (comm,) if comm >= 0 else ())
        return subprocess.Popen(
            [command or self.command, *arguments], env=said, user=user, group=user, extra_groups=[], text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more,
        )  # fmt: skip

    def run(self, *arguments: str | Path, kind: int = socket.SOCK_STREAM, **more: Any) -> Said:
        """Run it as a filesystem does, with a pair of sockets of this kind; take what it sends."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
        with ours:
            with theirs:
                program = self.start(*arguments, comm=theirs.fileno(), **more)
            return self.finish(program, ours)

    def finish(self, program: subprocess.Popen[str], ours: socket.socket) -> Said:
        """Wait for its end, and take what it has sent."""
        out, err = program.communicate(timeout=PATIENCE)
        data, device = self.receive(ours)
        return Said(program.returncode, out, err, data, device)

    def receive(self, ours: socket.socket) -> tuple[bytes, int]:
        """What was sent to a filesystem: bytes and one descriptor, or nothing and -1."""
        ours.settimeout(PATIENCE)
        data, fds, _, _ = socket.recv_fds(ours, 64, 4)
        self.devices += fds
        assert len(fds) < 2
        return data, fds[0] if fds else -1

    def unmount(self, *arguments: str | Path, **more: Any) -> Said:
        """Run it with -u and without a socket."""
        program = self.start("-u", *arguments, **more)
        out, err = program.communicate(timeout=PATIENCE)
        return Said(program.returncode, out, err, b"", -1)

    def mounted(self, *arguments: str | Path, **more: Any) -> int:
        """A mount that must succeed, silently; the device, which `close` closes."""
        said = self.run(*arguments, **more)
        assert (said.status, said.out, said.err, said.data) == (0, "", "", b"\0")
        assert said.device >= 0
        return said.device

    def refused(self, *arguments: str | Path, **more: Any) -> str:
        """A mount that must fail, with one line, and nothing sent or mounted; that line."""
        before = fuse_mounts(self.place)
        said = self.run(*arguments, **more)
        assert (said.status, said.out, said.data, said.device) == (1, "", b"", -1)
        assert fuse_mounts(self.place) == before
        assert said.err.startswith("fusermount3: ")
        assert said.err.count("\n") == 1
        return said.err.removeprefix("fusermount3: ").rstrip("\n")

    def do(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Another program, run by the user."""
        return subprocess.run(
            command,
            user=USER,
            group=USER,
            extra_groups=[],
            text=True,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )

    def let_go(self, device: int) -> None:
        """Close a device: its filesystem has ended."""
        self.devices.remove(device)
        os.close(device)

    def close(self) -> None:
        """Close what was received."""
        for each in self.devices:
            os.close(each)


@pytest.fixture(scope="module")
def daemon_of_all(tmp_path_factory: pytest.TempPathFactory, namespace: None) -> Iterator[Daemon]:
    """One daemon with default settings for the tests of a module."""
    place = tmp_path_factory.mktemp("daemon")
    reachable(place)
    daemon = Daemon(place, "", (), {})
    yield daemon
    assert daemon.stop() == 0, daemon.log()
    assert "Traceback" not in daemon.log(), daemon.log()


@pytest.fixture
def ordinaries(interpreter: str, tmp_path: Path, daemons: Callable[..., Daemon]) -> Iterator[Callable[[str], Ordinary]]:
    """The user with a daemon of this configuration: `ordinaries(config)`. Once in a test."""
    with ExitStack() as held:

        def start(config: str) -> Ordinary:
            made = Ordinary(interpreter, tmp_path, daemons(config).socket)
            held.callback(made.close)
            return made

        yield start


@pytest.fixture
def ordinary(
    interpreter: str, tmp_path: Path, daemon_of_all: Daemon, evidence: dict[str, Callable[[], str]],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Ordinary]:  # fmt: skip
    """The user, and the daemon of the module, which is this process's too."""
    before = len(daemon_of_all.log())
    evidence["log of perfused"] = lambda: daemon_of_all.log()[before:]
    monkeypatch.setenv("PERFUSED_SOCKET", str(daemon_of_all.socket))
    monkeypatch.setenv("PERFUSE_NO_PRIVATE", "1")
    made = Ordinary(interpreter, tmp_path, daemon_of_all.socket)
    yield made
    # A thread that serves one waits in read(2), which holds the device open until the mount is gone.
    for each in fuse_mounts(tmp_path):
        subprocess.run(["umount", "-l", each], check=False, capture_output=True)
    made.close()


FIXTURES = (interpreter, daemon_of_all, ordinaries, ordinary)
