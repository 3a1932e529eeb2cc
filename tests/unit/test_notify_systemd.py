"""systemd's two protocols, over real sockets and in real processes."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from perfused import notify_systemd

ROOT = Path(__file__).resolve().parents[2]

#: Takes descriptors 3 and up as systemd would leave them, and says what listen_fds() found.
CHILD = """
import json, os, socket, sys
from perfused import notify_systemd
count, announced, pid = sys.argv[1:]
kept = [socket.socketpair() for _ in range(8)]
source = os.dup2(kept[0][0].fileno(), 20)
for fd in range(3, 3 + int(count)):
    os.dup2(source, fd, inheritable=True)
os.environ.update(LISTEN_FDS=announced, LISTEN_PID=pid or str(os.getpid()), LISTEN_FDNAMES="a:b")
fds = notify_systemd.listen_fds()
left = [name for name in os.environ if name.startswith("LISTEN_")]
print(json.dumps([fds, [os.get_inheritable(fd) for fd in fds], left]))

"""


def listen_fds(count: int, announced: str, pid: str = "") -> tuple[list[int], list[bool], list[str]]:
    """What a process started with `count` descriptors finds, whether each is inherited, and variables that are left."""
    command = [sys.executable, "-c", CHILD, str(count), announced, pid]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, check=True)
    fds, inherited, left = json.loads(done.stdout)
    return fds, inherited, left


@pytest.mark.parametrize("count", [1, 3])
def test_sockets_passed_in_begin_at_3(count: int) -> None:
    assert listen_fds(count, str(count))[0] == list(range(3, 3 + count))


def test_sockets_passed_in_are_closed_on_exec() -> None:
    assert listen_fds(2, "2")[1] == [False, False]


def test_sockets_meant_for_another_process_are_not_taken() -> None:
    assert listen_fds(1, "1", pid="1")[0] == []


@pytest.mark.parametrize("announced", ["", "-1", "one", "0"])
def test_a_count_that_is_none_is_no_sockets(announced: str) -> None:
    assert listen_fds(1, announced)[0] == []


@pytest.mark.parametrize("pid", ["", "1"])
def test_the_variables_are_taken_out_of_the_environment(pid: str) -> None:
    assert listen_fds(1, "1", pid)[2] == []


def test_without_variables_there_are_no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        monkeypatch.delenv(name, raising=False)
    assert notify_systemd.listen_fds() == []


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        yield sock


def test_a_service_manager_on_a_path_is_told(
    manager: socket.socket, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.bind(str(short_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(short_path / "notify"))
    assert notify_systemd.notify("READY=1\nSTATUS=é")
    assert manager.recv(100) == "READY=1\nSTATUS=é".encode()


def test_a_service_manager_on_an_abstract_name_is_told(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"perfused-test-{os.getpid()}"
    manager.bind(f"\0{name}")
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    assert notify_systemd.notify("STOPPING=1")
    assert manager.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1234", "/nowhere/at/all", "/" + "x" * 200])
def test_a_service_manager_that_is_not_there_is_not_told(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not notify_systemd.notify("READY=1")


def test_without_a_variable_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify_systemd.notify("READY=1")
