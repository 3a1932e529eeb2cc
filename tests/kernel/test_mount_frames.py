"""The control connection of a real daemon: the original's frame, and frames that cannot be believed."""

import array
import errno
import os
import socket
import struct
import subprocess
from pathlib import Path

import pytest

from libperfuse import perfuse_open, perfuse_unmount
from libperfuse.connection import ask, connect
from tests.kernel.conftest import Daemon, eventually, fuse_mounts
from tests.kernel.scripted import Scripted
from wire import control
from wire.control import Endpoint, Verdict, Welcome

# -- the original's frame --------------------------------------------------------------------------


def connected(daemon: Daemon) -> socket.socket:
    """A connection to the control socket."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(str(daemon.socket))
    sock.settimeout(10)
    return sock


def test_the_originals_frame_makes_the_connection_the_device(daemon: Daemon, target: Path) -> None:
    device = connected(daemon)
    device.send(
        control.build_original_mount(b"src", os.fsencode(target), b"fuse", 0, b"fd=3,rootmode=40000", b"/tmp/sock")
    )
    fs = Scripted()
    device.settimeout(None)
    fs.fd = device.detach()
    fs.serve()
    eventually(lambda: fuse_mounts(target), "the mount stands")
    assert (target / "file").stat().st_size
    perfuse_unmount(str(target))
    assert fs.ended.wait(10)
    fs.close()


def test_an_original_client_whose_mount_fails_sees_its_device_closed(daemon: Daemon, tmp_path: Path) -> None:
    with connected(daemon) as device:
        device.send(control.build_original_mount(b"src", os.fsencode(tmp_path / "nowhere"), b"fuse", 0, b"fd=3"))
        assert device.recv(100) == b""
    daemon.has_logged("nowhere", "No such file or directory")


# -- frames that cannot be believed ----------------------------------------------------------------


def _bad_frames() -> dict[str, bytes]:
    good = control.build_mount(b"src", b"/mnt", b"fuse", 0, b"fd=3")
    hello = control.build_hello(Endpoint.SOCKET, b"name")

    def at(frame: bytes, offset: int, value: int) -> bytes:
        return frame[:offset] + struct.pack("=I", value) + frame[offset + 4 :]

    original = control.build_original_mount(b"src", b"/mnt", b"fuse", 0, b"fd=3")
    return {
        "one byte": b"x",
        "shorter than its head": hello[:20],
        "cut": good[:-3],
        "longer than it says": good + b"zzzz",
        "len lies": at(good, 0, 4000),
        "magic": good[:16] + b"whatever" + good[24:],
        "kind": good[:24] + struct.pack("=H", 99) + good[26:],
        "source_len beyond the frame": at(good, 32, 4000),
        "target_len beyond its limit": at(good, 36, 0xFFFF_FFFF),
        "no NUL": good.replace(b"/mnt\0", b"/mntx"),
        "pmo_target_len lies": at(original, 32, 60_000),
        "original without its strings": original[:56],
        "mount before hello": good,
        "json that is none": control.build_request({})[:-2] + b"{{",
    }


@pytest.mark.parametrize("name", list(_bad_frames()))
def test_a_frame_that_cannot_be_believed_gets_one_clear_error_and_harms_no_other_mount(
    daemon: Daemon, target: Path, name: str
) -> None:
    rawfs = daemon.rawfs(target)
    with connected(daemon) as sock:
        sock.send(_bad_frames()[name])
        answer = control.parse(sock.recv(65536))
        assert isinstance(answer, Verdict)
        assert answer.error == -errno.EBADMSG
        assert answer.message
    (target / "alive").write_text("alive")
    assert (target / "alive").read_text() == "alive"
    daemon.ctl("umount", target)
    rawfs.wait(timeout=10)


def test_descriptors_beside_anything_but_a_mount_frame_end_the_device_and_are_closed(daemon: Daemon) -> None:
    read, write = os.pipe()
    with socket.socket(fileno=perfuse_open("/dev/fuse")) as device:
        device.sendmsg([b"nonsense"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [write]))])
        device.settimeout(10)
        with pytest.raises(ConnectionResetError):
            device.recv(65536)
        os.close(write)
        assert os.read(read, 1) == b""
    os.close(read)


def test_a_target_that_is_no_o_path_descriptor_is_refused(daemon: Daemon, target: Path) -> None:
    with socket.socket(fileno=perfuse_open("/dev/fuse")) as device:
        opened = os.open(target, os.O_RDONLY)
        frame = control.build_mount(b"x", os.fsencode(target), b"fuse", 0, b"fd=9")
        device.sendmsg([frame], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [opened]))])
        os.close(opened)
        answer = control.parse(device.recv(65536))
        assert isinstance(answer, Verdict)
        assert answer.error == -errno.EBADMSG
        assert "O_PATH" in answer.message


def test_a_client_that_keeps_sending_nonsense_is_sent_away(daemon: Daemon) -> None:
    with connected(daemon) as sock:
        for _ in range(16):
            sock.send(b"nonsense nonsense nonsense")
        for _ in range(16):
            assert sock.recv(65536)
        assert sock.recv(65536) == b""


def test_a_hello_is_answered_with_a_device_that_carries_the_largest_frame(daemon: Daemon) -> None:
    with connected(daemon) as sock:
        sock.send(control.build_hello(Endpoint.ANY, b"test"))
        data, fds, _, _ = socket.recv_fds(sock, 65536, 4)
        welcome = control.parse(data)
        assert isinstance(welcome, Welcome)
        assert welcome.endpoint is Endpoint.SOCKET
        assert welcome.max_frame > 1 << 20
        device = socket.socket(fileno=fds[0])
        assert device.send(bytes(welcome.max_frame)) == welcome.max_frame
        device.close()


@pytest.mark.parametrize("endpoint", [Endpoint.SOCKET, Endpoint.DIRECT])
def test_clients_that_do_not_take_their_device_leave_the_daemon_as_it_was(daemon: Daemon, endpoint: Endpoint) -> None:
    for _ in range(20):
        idle = [connected(daemon) for _ in range(4)]
        with connected(daemon) as sock:
            sock.shutdown(socket.SHUT_RD)
            for each in idle:
                each.close()
            sock.send(control.build_hello(endpoint, b"deaf"))
    assert daemon.ctl("mounts").returncode == 0
    with connected(daemon) as sock:
        sock.send(control.build_hello(Endpoint.SOCKET, b"next"))
        assert isinstance(control.parse(sock.recv(65536)), Welcome)


def test_a_mount_made_where_another_just_was_is_not_taken_for_it(daemon: Daemon, target: Path) -> None:
    for turn in range(8):
        rawfs = daemon.rawfs(target)
        (target / f"turn{turn}").write_text("here")
        subprocess.run(["umount", target], check=True)
        again = daemon.rawfs(target)
        rawfs.wait(timeout=10)
        with connect() as connection:
            ask(connection, {"op": "mounts"})
        (target / "still").write_text("here")
        assert (target / "still").read_text() == "here"
        with connect() as connection:
            ask(connection, {"op": "umount", "target": str(target)})
        again.wait(timeout=10)
