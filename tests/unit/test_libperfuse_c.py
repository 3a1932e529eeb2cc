"""libperfuse for C against a scripted daemon: what it sends and what it makes of the answers."""

import array
import os
import shutil
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.unit.libperfuse_c_support import (
    ALL_ONES,
    HEAD,
    HELLO,
    VERDICT,
    WELCOME,
    Run,
    control,
    program,
    run,
    verdict,
    welcome,
)

__all__ = ["program", "run"]


pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")

FUSE_FRAME = struct.pack("=IIQQIIII", 40, 26, 7, 1, 0, 0, 0, 0)


def strings(frame: bytes) -> list[bytes | None]:
    """The source, target, type and data of a MOUNT frame, each checked to be counted with its NUL."""
    *lengths, flags, data_len, reserved = struct.unpack_from("=6I", frame, HEAD.size)
    assert reserved == 0
    assert flags == 2  # MS_NOSUID
    at, found = HEAD.size + 24, []
    for size in [*lengths, data_len]:
        piece = frame[at : at + size]
        assert piece.find(b"\0") == size - 1
        found.append(piece[:-1] if size else None)
        at += size
    assert at == len(frame)
    return found


def receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    data, ancillary, _, _ = sock.recvmsg(65536, 4096)
    fds = array.array("i")
    for _, _, payload in ancillary:
        fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return data, list(fds)


class Daemon:
    """Answers a HELLO with `greeting`, and each MOUNT with the next of `verdicts`: bytes, or None to hang up."""

    def __init__(
        self, path: Path, greeting: bytes | None, verdicts: list[bytes | None], device: str = "socket", extra: int = 0
    ):
        self.greeting, self.verdicts, self.device, self.extra = greeting, verdicts, device, extra
        self.hellos: list[bytes] = []
        self.mounts: list[tuple[list[bytes | None], str]] = []
        self.trouble: list[BaseException] = []
        self.ended = threading.Event()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(path))
        self.listener.listen(128)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.guarded, args=(connection,), daemon=True).start()

    def guarded(self, connection: socket.socket) -> None:
        try:
            with connection:
                self.serve(connection)
        except BaseException as problem:
            self.trouble.append(problem)

    def serve(self, connection: socket.socket) -> None:
        frame, _ = receive(connection)
        size, error, unique, magic, kind, flags, reserved = HEAD.unpack_from(frame)
        assert (size, error, unique, magic) == (len(frame), 0, ALL_ONES, b"perfuse2")
        assert (kind, flags, reserved) == (HELLO, 0, 0)
        self.hellos.append(frame[HEAD.size :])
        if self.greeting is None:
            return
        theirs: socket.socket | BinaryIO | None = None
        if self.device == "socket":
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.bind(b"\0perfused/" + os.urandom(8).hex().encode())
            passed = [theirs.fileno()]
        elif self.device == "null":
            ours, theirs = connection, os.fdopen(os.open("/dev/null", os.O_RDWR), "r+b", 0)
            passed = [theirs.fileno()]
        else:
            ours, passed = connection, []
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", passed * (1 + self.extra)))] if passed else []
        connection.sendmsg([self.greeting], rights)
        if theirs is not None:
            theirs.close()
        if ours is not connection:
            connection.close()
        with ours:
            for answer in self.verdicts:
                if answer == FUSE_FRAME:
                    ours.send(answer)  # before it is asked anything, as a mounted device would
                    answer = b""
                frame, pinned = receive(ours)
                if not frame:
                    return
                assert len(pinned) == 1
                self.mounts.append((strings(frame), os.readlink(f"/proc/self/fd/{pinned[0]}")))
                os.close(pinned[0])
                if answer is None:
                    return
                if answer:
                    ours.send(answer)
            ours.recv(1)
        self.ended.set()


Start = Callable[..., Daemon]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[Daemon] = []

    def start(greeting: bytes | None = None, verdicts: list[bytes | None] | None = None, **how: str | int) -> Daemon:
        path = tmp_path / "sock"
        running.append(Daemon(path, greeting, verdicts or [], **how))  # type: ignore[arg-type]
        return running[-1]

    yield start
    for daemon in running:
        daemon.listener.shutdown(socket.SHUT_RDWR)
        daemon.listener.close()
        assert not daemon.trouble


@pytest.mark.parametrize(
    ("flags", "told"), [("", "0 nonblock=0"), ("c", "1 nonblock=0"), ("n", "0 nonblock=1"), ("cn", "1 nonblock=1")]
)
def test_open_honours_the_flags(start: Start, run: Run, flags: str, told: str) -> None:
    daemon = start(welcome(), [verdict()])
    assert run("open", flags) == [f"ok: cloexec={told}"]
    name = b"perfuse_ctest\0"
    assert daemon.hellos == [struct.pack("=II", 0, len(name)) + name]


@pytest.mark.parametrize(("name", "number"), [("any", 0), ("socket", 1), ("device", 2), ("direct", 3)])
def test_the_environment_names_the_endpoint(start: Start, run: Run, name: str, number: int) -> None:
    daemon = start(welcome(), [verdict()])
    assert run("open", PERFUSE_ENDPOINT=name) == ["ok: cloexec=0 nonblock=0"]
    assert struct.unpack_from("=I", daemon.hellos[0]) == (number,)


def test_an_unknown_endpoint_is_refused_without_a_connection(start: Start, run: Run) -> None:
    daemon = start(welcome(), [])
    assert run("open", PERFUSE_ENDPOINT="sockets") == [
        "EINVAL: PERFUSE_ENDPOINT is none of any, socket, device, direct"
    ]
    assert not daemon.hellos


def test_nobody_listens(run: Run, tmp_path: Path) -> None:
    assert run("open")[0].startswith("ENOENT: no perfused can be reached at ")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as bound:
        bound.bind(str(tmp_path / "sock"))
        assert run("open")[0].startswith("ECONNREFUSED: ")
    assert run("open", PERFUSED_SOCKET="/" + "x" * 200)[0].startswith("ENAMETOOLONG: ")


def test_debug_prints_the_sentence(run: Run) -> None:
    assert any(
        line.startswith("libperfuse: no perfused can be reached at ") for line in run("open", PERFUSE_DEBUG="1")[1:]
    )


@pytest.mark.parametrize(
    ("greeting", "error"),
    [
        (welcome(message=b"too many mounts\0", error=-12), "ENOMEM: too many mounts"),
        (welcome(error=-13), "EACCES: perfused refused without a reason"),
        (None, "ECONNRESET"),
        (welcome(error=13), "EPROTO"),
        (welcome(error=-5000), "EPROTO"),
        (welcome(flags=1), "EPROTO"),
        (welcome(magic=b"perfuse3"), "EPROTO"),
        (welcome(length=4096), "EPROTO"),
        (welcome()[:40], "EPROTO"),
        (welcome(endpoint=0), "EPROTO"),
        (welcome(endpoint=4), "EPROTO"),
        (welcome(endpoint=3), "EPROTO"),  # it is a socket
        (control(VERDICT, bytes(16)), "EPROTO"),
        (control(WELCOME, struct.pack("=IIII", 1, 1 << 21, 4000, 0)), "EPROTO"),
        (FUSE_FRAME, "EPROTO"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "frame",
)
def test_open_reports_the_truth(start: Start, run: Run, greeting: bytes | None, error: str) -> None:
    start(greeting, [])
    (line,) = run("open")
    assert line.startswith(error)


def test_a_welcome_without_a_descriptor_is_none(start: Start, run: Run) -> None:
    start(welcome(), [], device="nothing")
    assert run("open") == ["EPROTO: perfused welcomed us without a descriptor"]


def test_surplus_descriptors_are_closed(start: Start, run: Run) -> None:
    daemon = start(welcome(), [verdict()], extra=5)
    assert run("mount")[0] == "ok: "
    assert daemon.ended.wait(5)


@pytest.mark.parametrize("flags", ["", "n"])
def test_mount_sends_what_it_was_given(start: Start, run: Run, tmp_path: Path, flags: str) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("directory")
    daemon = start(welcome(), [verdict(-16, b"busy\0"), verdict()])
    target = str(tmp_path / "link")
    assert run("mount", flags, TARGET=target) == ["EBUSY: busy", "ok: ", "left: 0"]
    (source, sent, fstype, data), pinned = daemon.mounts[0]
    assert (source, sent, fstype, pinned) == (b"source", target.encode(), b"fuse.test", str(tmp_path / "directory"))
    assert data is not None
    assert data.startswith(b"rootmode=40000,fd=")
    assert daemon.mounts[1][0][3] == data + b",again"


@pytest.mark.parametrize("fstype", ["fuse", "fuseblk", "fuseblk.x", "perfuse|x"])
def test_every_fuse_type_goes_to_perfused(start: Start, run: Run, fstype: str) -> None:
    daemon = start(welcome(), [verdict(), verdict()])
    assert run("mount", FSTYPE=fstype)[0] == "ok: "
    assert daemon.mounts[0][0][2] == fstype.encode()


@pytest.mark.parametrize("fstype", ["fusex", "fuse|x", "perfuse", "tmpfs-none"])
def test_every_other_type_goes_to_the_kernel(start: Start, run: Run, fstype: str) -> None:
    daemon = start(welcome(), [verdict(), verdict()])
    assert run("mount", FSTYPE=fstype, TARGET="/no-such-directory")[0] == "ENOENT: mount(2) failed"
    assert not daemon.mounts


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (verdict(-1, b"Only root may do that.\0"), "EPERM: Only root may do that."),
        (verdict(-22, b"x" * 5000 + b"\0"), "EINVAL: xxxx"),
        (verdict(-22), "EINVAL: perfused refused without a reason"),
        (None, "ECONNRESET"),
        (verdict()[:36], "EPROTO"),
        (verdict(5), "EPROTO"),
        (verdict(-1, b"x\0", claimed=3), "EPROTO"),
        (verdict(magic=b"noFuseRq"), "EPROTO"),
        (verdict(flags=1), "EPROTO"),
        (verdict() + b"more", "EPROTO"),
        (b"short", "EPROTO"),
        (welcome(), "EPROTO"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "frame",
)
def test_mount_reports_the_truth(start: Start, run: Run, answer: bytes | None, error: str) -> None:
    start(welcome(), [answer])
    assert run("mount")[0].startswith(error)


def test_a_mounted_descriptor_is_busy_and_keeps_its_frame(start: Start, run: Run) -> None:
    start(welcome(), [FUSE_FRAME, b""])
    lines = run("mount")
    assert lines[0] == lines[1] == "EBUSY: the descriptor is mounted already: it carries FUSE frames"
    assert lines[2] == f"left: {len(FUSE_FRAME)}"


def test_limits_are_checked_before_anything_is_sent(start: Start, run: Run) -> None:
    daemon = start(welcome(), [])
    errors = [line.split(":")[0] for line in run("limits")[:6]]
    assert errors == ["E2BIG", "ENAMETOOLONG", "ENAMETOOLONG", "ENAMETOOLONG", "ENOENT", "EFAULT"]
    assert not daemon.mounts


def test_what_is_not_ours_goes_to_the_kernel_or_is_named(run: Run, tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        lines = run("plain")
    finally:
        os.umask(umask)
    errors = [line.split(":")[0] for line in lines]
    assert errors == ["ENOENT", "ENOENT", "EBADF", "ENOTSOCK", "EINVAL", "EINVAL", "ENOENT", "ok"]
    assert (tmp_path / "created").stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="there is no /dev/fuse to open")
def test_a_real_device_goes_to_the_kernel(run: Run) -> None:
    assert run("real", TARGET="/no-such-directory") == ["ENOENT: mount(2) failed"]


def test_a_device_that_is_no_socket_mounts_on_the_kept_connection(start: Start, run: Run) -> None:
    daemon = start(welcome(endpoint=2), [verdict(-16, b"later\0"), verdict()], device="null")
    assert run("kept") == ["EBUSY: later", "ok: ", "same number: 1", *run("kept")[3:]]
    data = [strings[3] for strings, _ in daemon.mounts[:2]]
    assert [piece.rpartition(b"=")[2] for piece in data if piece] == [b"child", b"parent"]
    assert daemon.ended.wait(5)  # the number's new meaning closed the connection, or the process's end did


def test_the_last_connection_of_a_reused_number_is_gone(start: Start, run: Run) -> None:
    start(welcome(endpoint=2), [verdict(), verdict()], device="null")
    assert run("kept")[3].startswith("ENOTSOCK: ")


@pytest.mark.parametrize("forks", ["0", "30"])
def test_many_threads_and_forks(start: Start, run: Run, forks: str) -> None:
    daemon = start(welcome(), [verdict()])
    assert run("crowd", forks) == ["0 failures"]
    assert len(daemon.mounts) == 16 * 20 + int(forks)
