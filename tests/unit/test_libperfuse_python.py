"""perfuse_open for Python against a daemon scripted here, over real sockets."""

import errno
import fcntl
import os
import socket
from pathlib import Path

import pytest

from libperfuse import PerfuseError, connection, perfuse_open
from tests.unit.libperfuse_support import FUSE_FRAME, Daemon, Script, Start, device_pair, open_descriptors, send
from wire import control
from wire.control import Endpoint, Hello


def welcomes(seen: list[bytes], frame: bytes | None = None, count: int = 1) -> Script:
    """A script: take HELLO into `seen`, answer WELCOME with `count` devices."""

    def script(sock: socket.socket) -> None:
        seen.append(sock.recv(control.MAX_FRAME))
        ours, theirs = device_pair()
        with ours, theirs:
            answer = control.build_welcome(0, Endpoint.SOCKET, 1 << 20) if frame is None else frame
            send(sock, answer, *[theirs.fileno()] * count)

    return script


# -- perfuse_open ------------------------------------------------------------------------------------------------------


def test_a_device_is_what_the_daemon_hands_out(start: Start) -> None:
    seen: list[bytes] = []
    start(welcomes(seen))
    with socket.socket(fileno=perfuse_open("/dev/fuse")) as device:
        assert device.type == socket.SOCK_SEQPACKET
    hello = control.parse(seen[0])
    assert isinstance(hello, Hello)
    assert hello.endpoint is Endpoint.ANY
    assert hello.name


@pytest.mark.parametrize("wish", ["any", "socket", "device", "direct"])
def test_the_endpoint_asked_for_is_in_hello(start: Start, monkeypatch: pytest.MonkeyPatch, wish: str) -> None:
    monkeypatch.setenv("PERFUSE_ENDPOINT", wish)
    seen: list[bytes] = []
    start(welcomes(seen))
    os.close(perfuse_open("/dev/fuse"))
    hello = control.parse(seen[0])
    assert isinstance(hello, Hello)
    assert hello.endpoint is Endpoint[wish.upper()]


def test_an_endpoint_that_does_not_exist_is_refused_before_anybody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERFUSE_ENDPOINT", "disk")
    with pytest.raises(PerfuseError, match="PERFUSE_ENDPOINT is 'disk'") as caught:
        perfuse_open("/dev/fuse")
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(("flags", "inherited"), [(os.O_RDWR, True), (os.O_RDWR | os.O_CLOEXEC, False)])
def test_o_cloexec_holds(start: Start, flags: int, inherited: bool) -> None:
    start(welcomes([]))
    fd = perfuse_open("/dev/fuse", flags)
    assert os.get_inheritable(fd) is inherited
    os.close(fd)


@pytest.mark.parametrize(("flags", "blocking"), [(os.O_RDWR, True), (os.O_RDWR | os.O_NONBLOCK, False)])
def test_o_nonblock_holds(start: Start, flags: int, blocking: bool) -> None:
    start(welcomes([]))
    fd = perfuse_open("/dev/fuse", flags)
    assert bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK) is not blocking
    os.close(fd)


def hangs_up(sock: socket.socket) -> None:
    sock.recv(control.MAX_FRAME)


REFUSALS: dict[str, tuple[bytes | None, int, int, str]] = {
    "a refusal": (control.build_welcome(-24, Endpoint.SOCKET, 0, "too many"), 0, errno.EMFILE, "too many"),
    "a refusal without words": (control.build_welcome(-13, Endpoint.SOCKET, 0), 0, errno.EACCES, "Permission denied"),
    "a refusal with a device": (control.build_welcome(-13, Endpoint.SOCKET, 0), 1, errno.EACCES, "Permission denied"),
    "a verdict": (control.build_verdict(-74, 0, "len: wrong"), 0, errno.EBADMSG, "len: wrong"),
    "no device": (None, 0, errno.EPROTO, "did not answer HELLO with a device"),
    "two devices": (None, 2, errno.EPROTO, "did not answer HELLO with a device"),
    "an answer to something else": (control.build_answer({}), 1, errno.EPROTO, "did not answer HELLO with a device"),
    "a frame that lies": (b"\x20\0\0\0" + bytes(4) + b"\xff" * 8 + b"perfuse3" + bytes(8), 1, errno.EPROTO, "magic"),
    "a FUSE frame": (FUSE_FRAME, 1, errno.EPROTO, "unique"),
}


@pytest.mark.parametrize(("frame", "count", "code", "sentence"), REFUSALS.values(), ids=REFUSALS)
def test_another_answer_to_hello_is_an_error_with_its_sentence(
    start: Start, frame: bytes | None, count: int, code: int, sentence: str
) -> None:
    start(welcomes([], frame, count))
    with pytest.raises(PerfuseError, match=sentence) as caught:
        perfuse_open("/dev/fuse")
    assert caught.value.errno == code


@pytest.mark.parametrize(("frame", "count", "code", "sentence"), REFUSALS.values(), ids=REFUSALS)
def test_another_answer_to_hello_leaves_no_descriptor_behind(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, frame: bytes | None, count: int, code: int, sentence: str
) -> None:
    monkeypatch.setenv("PERFUSED_SOCKET", str(short_path / "s"))
    before = open_descriptors()
    daemon = Daemon(short_path / "s", welcomes([], frame, count))
    with pytest.raises(PerfuseError):
        perfuse_open("/dev/fuse")
    daemon.end()
    assert open_descriptors() == before


def test_a_daemon_that_hangs_up_is_no_daemon(start: Start) -> None:
    start(hangs_up)
    with pytest.raises(PerfuseError, match="did not answer HELLO") as caught:
        perfuse_open("/dev/fuse")
    assert caught.value.errno == errno.EPROTO


def test_another_path_is_open_2(tmp_path: Path) -> None:
    fd = perfuse_open(str(tmp_path / "new"), os.O_RDWR | os.O_CREAT, 0o640)
    os.write(fd, b"x")
    os.close(fd)
    assert (tmp_path / "new").read_bytes() == b"x"
    assert (tmp_path / "new").stat().st_mode & 0o777 & ~0o640 == 0


def test_another_path_fails_as_open_2_does(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        perfuse_open(str(tmp_path / "none"))


def test_where_nobody_listens_and_none_may_be_started_the_path_is_named(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERFUSED_SOCKET", str(short_path / "nobody"))
    monkeypatch.setenv("PERFUSE_NO_PRIVATE", "1")
    with pytest.raises(PerfuseError, match=f"{short_path / 'nobody'}: No such file or directory") as caught:
        perfuse_open("/dev/fuse")
    assert caught.value.errno == errno.ENOENT


def test_a_socket_path_that_is_too_long_is_an_error_with_an_errno(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERFUSED_SOCKET", "/" + "x" * 200)
    with pytest.raises(PerfuseError, match="AF_UNIX path too long") as caught:
        perfuse_open("/dev/fuse")
    assert caught.value.errno == errno.ENAMETOOLONG


# -- a private daemon --------------------------------------------------------------------------------------------------


def program(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def alone(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No daemon listens, and a private one may be started."""
    monkeypatch.setenv("PERFUSED_SOCKET", str(short_path / "nobody"))
    monkeypatch.delenv("PERFUSE_NO_PRIVATE", raising=False)
    return short_path


def test_a_private_daemon_gets_a_connected_socket(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = f'test "$1" = -i && readlink /proc/self/fd/$2 >{alone}/fd'
    monkeypatch.setenv("PERFUSED", program(alone / "perfused", body))
    with connection.connect_or_start() as sock:
        assert sock.recv(10) == b""
    assert (alone / "fd").read_text().startswith("socket:")


def test_a_private_daemon_that_fails_is_an_error(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERFUSED", program(alone / "perfused", "exit 3"))
    with pytest.raises(PerfuseError, match="ended with status 3") as caught:
        perfuse_open("/dev/fuse")
    assert caught.value.errno == errno.ECONNREFUSED


def test_a_private_daemon_that_is_not_there_is_named(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERFUSED", str(alone / "none"))
    with pytest.raises(PerfuseError, match=f"{alone / 'none'}: No such file") as caught:
        perfuse_open("/dev/fuse")
    assert caught.value.errno == errno.ENOENT
