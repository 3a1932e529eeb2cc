"""perfuse_mount and perfuse_unmount for Python against a daemon scripted here, over real sockets."""

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from libperfuse import PerfuseError, perfuse_mount, perfuse_unmount
from tests.unit.libperfuse_support import FUSE_FRAME, Device, Start, device_pair, open_descriptors, send
from wire import control
from wire.control import Mount, Request

# -- perfuse_mount -----------------------------------------------------------------------------------------------------


@pytest.fixture
def device() -> Iterator[Device]:
    ours, theirs = device_pair()
    with ours, theirs:
        yield ours, theirs


def test_a_mount_frame_says_what_was_asked_for(device: Device, tmp_path: Path) -> None:
    ours, theirs = device
    ours.send(control.build_verdict(0, 42))
    perfuse_mount("src", str(tmp_path), "fuse.x", 2, f"rootmode=40000,fd={theirs.fileno()},user_id=0")
    packet, fds, _, _ = socket.recv_fds(ours, control.MAX_FRAME, 4)
    data = b"rootmode=40000,fd=%d,user_id=0" % theirs.fileno()
    assert control.parse(packet) == Mount(b"src", os.fsencode(tmp_path), b"fuse.x", 2, data)
    assert [os.readlink(f"/proc/self/fd/{fd}") for fd in fds] == [str(tmp_path)]
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize("fstype", ["fuse", "fuseblk", "fuse.x", "perfuse|glusterfs", ""])
def test_every_type_of_fuse_is_the_daemons_to_mount(device: Device, tmp_path: Path, fstype: str) -> None:
    ours, theirs = device
    ours.send(control.build_verdict(0, 42))
    perfuse_mount("src", str(tmp_path), fstype, 0, f"fd={theirs.fileno()}")
    assert control.parse(ours.recv(control.MAX_FRAME))


VERDICTS = {
    "a refusal": (control.build_verdict(-1, 0, "the target belongs to uid 0"), errno.EPERM, "belongs to uid 0"),
    "a refusal without words": (control.build_verdict(-16, 0), errno.EBUSY, "Device or resource busy"),
    "a FUSE frame": (FUSE_FRAME, errno.EBUSY, "mounted already"),
    "an answer to something else": (control.build_answer({}), errno.EPROTO, "answered MOUNT with ANSWER"),
    "a frame that lies": (control.build_verdict(0, 1)[:-1], errno.EPROTO, "bad frame"),
}


@pytest.mark.parametrize(("frame", "code", "sentence"), VERDICTS.values(), ids=VERDICTS)
def test_another_answer_to_mount_is_an_error(
    device: Device, tmp_path: Path, frame: bytes, code: int, sentence: str
) -> None:
    ours, theirs = device
    ours.send(frame)
    with pytest.raises(PerfuseError, match=sentence) as caught:
        perfuse_mount("src", str(tmp_path), "fuse", 0, f"fd={theirs.fileno()}")
    assert caught.value.errno == code


def test_a_fuse_frame_is_left_for_the_filesystem(device: Device, tmp_path: Path) -> None:
    ours, theirs = device
    ours.send(FUSE_FRAME)
    with pytest.raises(PerfuseError):
        perfuse_mount("src", str(tmp_path), "fuse", 0, f"fd={theirs.fileno()}")
    assert theirs.recv(100) == FUSE_FRAME


def test_a_daemon_that_goes_before_its_verdict_is_gone(device: Device, tmp_path: Path) -> None:
    ours, theirs = device
    ours.shutdown(socket.SHUT_WR)
    with pytest.raises(PerfuseError, match="closed the device before it had mounted it") as caught:
        perfuse_mount("src", str(tmp_path), "fuse", 0, f"fd={theirs.fileno()}")
    assert caught.value.errno == errno.ECONNRESET


def test_after_a_refusal_the_device_can_be_tried_again(device: Device, tmp_path: Path) -> None:
    ours, theirs = device
    ours.send(control.build_verdict(-1, 0, "no"))
    with pytest.raises(PerfuseError):
        perfuse_mount("src", str(tmp_path), "fuse", 0, f"fd={theirs.fileno()}")
    ours.send(control.build_verdict(0, 42))
    perfuse_mount("src", str(tmp_path), "fuse", 0, f"fd={theirs.fileno()}")
    assert [isinstance(control.parse(ours.recv(control.MAX_FRAME)), Mount) for _ in range(2)] == [True, True]


def test_mounting_leaves_no_descriptor_behind(device: Device, tmp_path: Path) -> None:
    ours, theirs = device
    before = open_descriptors()
    for verdict in (control.build_verdict(-1, 0, "no"), control.build_verdict(0, 42)):
        send(ours, verdict, ours.fileno())
        try:
            perfuse_mount("src", str(tmp_path), "fuse", 0, f"fd={theirs.fileno()}")
        except PerfuseError:
            continue
    assert open_descriptors() == before


def test_a_target_that_is_not_there_is_not_sent(device: Device, tmp_path: Path) -> None:
    ours, theirs = device
    with pytest.raises(FileNotFoundError):
        perfuse_mount("src", str(tmp_path / "none"), "fuse", 0, f"fd={theirs.fileno()}")
    with pytest.raises(BlockingIOError):
        ours.recv(1, socket.MSG_DONTWAIT)


@pytest.mark.parametrize(
    ("source", "data", "code"), [("s" * 5000, "", errno.E2BIG), ("s", "x" * 5000, errno.E2BIG)], ids=["source", "data"]
)
def test_strings_past_their_limits_are_not_sent(
    device: Device, tmp_path: Path, source: str, data: str, code: int
) -> None:
    with pytest.raises(PerfuseError) as caught:
        perfuse_mount(source, str(tmp_path), "fuse", 0, f"fd={device[1].fileno()},{data}")
    assert caught.value.errno == code


def test_a_target_past_its_limit_is_too_long(device: Device) -> None:
    with pytest.raises(PerfuseError) as caught:
        perfuse_mount("s", "/" + "x" * 5000, "fuse", 0, f"fd={device[1].fileno()}")
    assert caught.value.errno == errno.ENAMETOOLONG


def test_a_descriptor_that_is_closed_is_answered_ebadf(tmp_path: Path) -> None:
    fd = os.dup(0)
    os.close(fd)
    with pytest.raises(OSError) as caught:
        perfuse_mount("src", str(tmp_path), "fuse", 0, f"fd={fd}")
    assert caught.value.errno == errno.EBADF


def test_a_socket_that_is_no_device_is_answered_einval(tmp_path: Path) -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other, pytest.raises(PerfuseError, match="no device of perfused's") as caught:
        perfuse_mount("src", str(tmp_path), "fuse", 0, f"fd={other.fileno()}")
    assert caught.value.errno == errno.EINVAL


def test_a_file_is_answered_enotsock(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, pytest.raises(PerfuseError) as caught:
        perfuse_mount("src", str(tmp_path), "fuse", 0, f"fd={file.fileno()}")
    assert caught.value.errno == errno.ENOTSOCK


@pytest.mark.parametrize(("fstype", "data"), [("nosuchfs", "fd=0"), ("fuse", "xfd=0,fd=-1"), ("fuse", "rootmode=0")])
def test_what_is_no_mount_of_a_device_is_mount_2(tmp_path: Path, fstype: str, data: str) -> None:
    with pytest.raises(OSError) as caught:
        perfuse_mount("src", str(tmp_path / "none"), fstype, 0, data)
    assert not isinstance(caught.value, PerfuseError)


# -- perfuse_unmount ---------------------------------------------------------------------------------------------------


def asked(sock: socket.socket, seen: list[object], frame: bytes) -> None:
    message = control.parse(sock.recv(control.MAX_FRAME))
    seen.append(message.body if isinstance(message, Request) else message)
    sock.send(frame)


def test_unmounting_asks_for_the_real_path(start: Start, tmp_path: Path) -> None:
    seen: list[object] = []
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    start(lambda sock: asked(sock, seen, control.build_answer({})))
    perfuse_unmount(str(tmp_path / "link" / "mnt" / ".." / "x"), lazy=True)
    target = os.path.join(os.path.realpath(tmp_path / "real"), "x")
    assert seen == [{"op": "umount", "target": target, "lazy": True, "force": False}]


@pytest.mark.parametrize(
    ("frame", "code", "sentence"),
    [
        (control.build_answer({"message": "in use"}, -errno.EBUSY), errno.EBUSY, "in use"),
        (control.build_answer({}, -errno.ENOENT), errno.ENOENT, "No such file"),
        (control.build_verdict(0, 1), errno.EPROTO, "answered with VERDICT"),
        (control.build_answer({}, more=True), errno.ECONNRESET, "closed the connection before it answered"),
    ],
    ids=["a refusal", "a refusal without words", "an answer to something else", "half an answer"],
)
def test_an_unmount_that_fails_is_an_error(start: Start, frame: bytes, code: int, sentence: str) -> None:
    start(lambda sock: asked(sock, [], frame))
    with pytest.raises(PerfuseError, match=sentence) as caught:
        perfuse_unmount("/mnt/x")
    assert caught.value.errno == code
