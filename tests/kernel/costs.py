"""What a filesystem costs a daemon: memory of its processes, bytes that wait in its sockets, what other mounts wait.

Never here: what the filesystem does. A module takes the fixtures by assignment: `endpoint, other = costs.FIXTURES`.
"""

import array
import fcntl
import json
import os
import socket
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.conftest import Daemon, eventually, fuse_mounts
from tests.kernel.raw import checked, libc

_PIDFD_GETFD = 438
#: what an interpreter may take for itself between two looks: objects it makes, and memory it gives back late
SLACK = 3 << 20


@pytest.fixture(params=["socket", "device"])
def endpoint(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the filesystems of a test hold. Asked for before `daemon`, which hands its environment on."""
    monkeypatch.setenv("PERFUSE_ENDPOINT", request.param)
    return str(request.param)


@pytest.fixture
def other(daemon: Daemon, tmp_path: Path) -> Path:
    """Another mount of the same daemon."""
    made = tmp_path / "other"
    made.mkdir()
    daemon.rawfs(made)
    return made


FIXTURES = (endpoint, other)


def resident(pid: int) -> int:
    """Bytes of memory that a process has to itself; what it shares with who forked it is nobody's growth."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Private_Dirty", "Private_Clean")))


def sockets(pid: int) -> Iterator[socket.socket]:
    """Duplicates of the sockets a process has, each to be used before the next."""
    pidfd = os.pidfd_open(pid)
    try:
        for number in os.listdir(f"/proc/{pid}/fd"):
            try:
                if not os.readlink(f"/proc/{pid}/fd/{number}").startswith("socket:"):
                    continue
                fd = checked(libc.syscall(_PIDFD_GETFD, pidfd, int(number), 0))
            except OSError:
                continue  # closed meanwhile
            with socket.socket(fileno=fd) as found:
                yield found
    finally:
        os.close(pidfd)


def queued(pid: int) -> int:
    """Bytes that a process has sent and nobody has received, with what it costs the kernel to keep them."""
    total = 0
    for each in sockets(pid):
        room = array.array("i", [0])
        try:
            fcntl.ioctl(each, termios.TIOCOUTQ, room)
        except OSError:
            continue  # a netlink socket, which sends nothing
        total += room[0]
    return total


def largest_room(pid: int) -> int:
    """The largest buffer that a socket of a process has for what it sends: SO_SNDBUF."""
    return max(each.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) for each in sockets(pid))


class Growth:
    """What the processes of a daemon have grown by since this was made."""

    def __init__(self, daemon: Daemon, target: Path) -> None:
        self.worker = daemon.stats(target)["worker"]
        self.supervisor = daemon.process.pid
        self._before = resident(self.worker), resident(self.supervisor)

    def of_worker(self) -> int:
        """Bytes of the mount's worker, and of what it has sent and nobody has received."""
        return resident(self.worker) - self._before[0] + queued(self.worker)

    def of_supervisor(self) -> int:
        """The same of the supervisor."""
        return resident(self.supervisor) - self._before[1] + queued(self.supervisor)


def other_mount_answers(daemon: Daemon, other: Path) -> None:
    """Every request that a mount gets is answered, and so is what perfusectl asks."""
    before = sum(daemon.stats(other)["requests"].values())
    for number in range(20):
        data = os.urandom(200_000)
        (other / f"{number}").write_bytes(data)
        assert (other / f"{number}").read_bytes() == data
    assert len(os.listdir(other)) == 20
    for number in range(20):
        (other / f"{number}").unlink()
    daemon.idle(other)
    assert sum(daemon.stats(other)["requests"].values()) > before + 100


def perfusectl_answers(daemon: Daemon, *targets: Path) -> None:
    """perfusectl lists the mounts and shows each one's requests."""
    listed = json.loads(daemon.ctl("mounts", "--json").stdout)
    assert {each["target"] for each in listed} == set(map(str, targets))
    for each in targets:
        assert json.loads(daemon.ctl("stats", "--json", each).stdout)["target"] == str(each)


def force(daemon: Daemon, target: Path) -> None:
    """Unmount, whoever waits."""
    daemon.ctl("umount", "--force", target)
    eventually(lambda: not fuse_mounts(target), "the mount is gone")
