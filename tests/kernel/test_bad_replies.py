"""Whatever a filesystem answers: its caller gets EIO or the right answer, the mount works on, nobody else notices."""

import errno
import fcntl
import os
import select
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.kernel.conftest import Daemon, eventually, fuse_mounts
from tests.kernel.scripted import CONTENT, DEFAULTS, Answer, Scripted
from wire import codec, control
from wire.opcodes import Opcode


class Shared(NamedTuple):
    """One daemon for all lies, and another mount of it that must not notice any."""

    daemon: Daemon
    bystander: Path


@contextmanager
def sharing(place: Path, config: str = "", mounting: AbstractContextManager[None] | None = None) -> Iterator[Shared]:
    """A daemon, and a mount of it, made within `mounting`, that must notice nothing of what the tests do."""
    daemon = Daemon(place, config, (), {})
    (bystander := place / "bystander").mkdir()
    with mounting or nullcontext():
        daemon.rawfs(bystander, "-T", "0")
        (bystander / "file").write_bytes(CONTENT)
    yield Shared(daemon, bystander)
    noticed = daemon.stats(bystander)["bad_replies"]
    assert daemon.stop() == 0
    for program in daemon.programs:
        assert program.stdout is not None
        program.stdout.close()
        program.wait(timeout=10)
    assert noticed == 0
    assert fuse_mounts(place) == []
    assert "Traceback" not in daemon.log()


@pytest.fixture(scope="module")
def shared(namespace: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    with sharing(tmp_path_factory.mktemp("shared")) as found:
        yield found


def _read(target: Path) -> object:
    fd = os.open(target / "hello", os.O_RDONLY)
    try:
        return os.pread(fd, 4096, 0)
    finally:
        os.close(fd)


def _write(target: Path) -> int:
    fd = os.open(target / "hello", os.O_WRONLY)
    try:
        return os.pwrite(fd, b"hello", 0)
    finally:
        os.close(fd)


#: opcode: a call that makes it, and what it gives where the filesystem tells the truth
CALLS: dict[str, tuple[Callable[[Path], object], object]] = {
    "LOOKUP": (lambda target: os.stat(target / "hello").st_size, 65536),
    "GETATTR": (lambda target: os.stat(target).st_nlink, 2),
    "OPEN": (lambda target: os.close(os.open(target / "hello", os.O_RDONLY)), None),
    "READ": (_read, b"0123456789abcdef" * 256),
    "READDIR": (lambda target: sorted(os.listdir(target)), ["dir", "hello", "link"]),
    "GETXATTR": (lambda target: os.getxattr(target / "hello", "user.a"), errno.ENODATA),
    "STATFS": (lambda target: os.statvfs(target).f_namemax, 255),
    "READLINK": (lambda target: os.readlink(target / "link"), "hello"),
    "WRITE": (_write, 5),
}
#: what is wrong by itself, or answers nothing: dropped, and the right answer that follows is the caller's
HARMLESS = {"short-header", "unknown-unique", "repeated-unique", "garbage"}
#: what is answered EIO in the caller's place; the field that the log names
WRONG = {
    "len-big": "len", "len-small": "len", "errno-positive": "error", "errno-512": "error",
    "payload-long": "len", "payload-short": "len", "error-payload": "len", "read-long": "len", "huge": "len",
}  # fmt: skip
#: replies of any length up to what was asked for are right: these are no lies
ALLOWED = {
    ("READ", "payload-short"), ("READDIR", "read-long"), ("READDIR", "payload-short"), ("READDIR", "payload-long"),
    ("READLINK", "payload-short"),
    ("READLINK", "payload-long"), ("GETXATTR", "payload-short"), ("GETXATTR", "payload-long"),
}  # fmt: skip


def outcome(call: Callable[[Path], object], target: Path) -> object:
    """What a call gave, or its errno."""
    try:
        return call(target)
    except OSError as bad:
        return bad.errno


def told(program: subprocess.Popen[str]) -> str:
    """The line a liar prints about its lie."""
    assert program.stdout is not None
    assert select.select([program.stdout], [], [], 10)[0], "the lie was never told"
    return program.stdout.readline()


def end(target: Path, program: subprocess.Popen[str]) -> None:
    """Unmount, and wait for the filesystem to end."""
    subprocess.run(["umount", target], check=True)
    assert program.wait(timeout=10) == 0


@pytest.mark.parametrize("opcode", CALLS)
@pytest.mark.parametrize("lie", sorted(HARMLESS))
def test_a_packet_that_answers_nothing_is_dropped_and_the_caller_gets_the_answer_that_follows(
    shared: Shared, target: Path, opcode: str, lie: str
) -> None:
    daemon = shared.daemon
    call, right = CALLS[opcode]
    liar = daemon.faulty("liar", opcode, lie, target)
    assert outcome(call, target) == right
    assert lie in told(liar)
    eventually(lambda: daemon.stats(target)["bad_replies"] == 1, "the lie is counted")
    daemon.has_logged(f"{target}: bad reply", "dropped")
    end(target, liar)


@pytest.mark.parametrize(
    ("opcode", "lie"), [(opcode, lie) for opcode in CALLS for lie in WRONG if (opcode, lie) not in ALLOWED]
)
def test_a_wrong_reply_never_reaches_the_kernel_and_its_caller_gets_eio(
    shared: Shared, target: Path, opcode: str, lie: str
) -> None:
    daemon = shared.daemon
    call, right = CALLS[opcode]
    liar = daemon.faulty("liar", opcode, lie, target)
    assert outcome(call, target) == errno.EIO
    assert lie in told(liar)
    assert outcome(call, target) == right
    assert daemon.stats(target)["bad_replies"] >= 1
    daemon.has_logged(f"{target}: bad reply: {opcode} unique=", f": {WRONG[lie]}: ", "the caller got EIO")
    assert not [line for line in daemon.log().splitlines() if str(target) in line and "the kernel refused" in line]
    end(target, liar)


def test_another_mount_of_the_same_daemon_works_and_counts_nothing_while_a_filesystem_lies(
    shared: Shared, target: Path
) -> None:
    liar = shared.daemon.faulty("liar", "READ", "huge", "20", target)
    before = shared.daemon.stats(shared.bystander)
    for _ in range(20):
        assert outcome(_read, target) == errno.EIO
        assert (shared.bystander / "file").read_bytes() == CONTENT
    found = shared.daemon.stats(shared.bystander)
    assert [found["bad_replies"], found["worker"]] == [0, before["worker"]]
    end(target, liar)


def test_the_log_names_the_very_request_whose_reply_was_wrong(
    daemon: Daemon, target: Path, scripted: Callable[..., Scripted]
) -> None:
    fs = scripted(target, {Opcode.STATFS: lambda *_: b"too short"})
    assert outcome(os.statvfs, target) == errno.EIO
    unique = fs.wait_for(Opcode.STATFS)[0].unique
    daemon.has_logged(
        f"bad reply: STATFS unique={unique}: len: the reply has 9 bytes after its header, it must have 80"
    )


def test_an_empty_packet_is_counted_and_is_not_taken_for_the_end(
    daemon: Daemon, target: Path, scripted: Callable[..., Scripted]
) -> None:
    fs = scripted(target)
    assert (target / "file").read_bytes() == CONTENT
    # write(2) of nothing sends nothing on a socket; send(2) does.
    with socket.socket(fileno=os.dup(fs.fd)) as device:
        device.send(b"")
    eventually(lambda: daemon.stats(target)["bad_replies"] == 1, "the empty packet is counted")
    assert (target / "file").read_bytes() == CONTENT


def test_a_packet_larger_than_any_frame_is_answered_with_the_error_and_the_next_one_is_whole(
    daemon: Daemon, target: Path, scripted: Callable[..., Scripted]
) -> None:
    def huge(fs: Scripted, head: codec.InHeader, body: bytes) -> Answer:
        return bytes(2 << 20) if fs.opcodes[Opcode.READ] == 1 else DEFAULTS[Opcode.READ](fs, head, body)

    scripted(target, {Opcode.READ: huge})
    assert outcome(lambda here: (here / "file").read_bytes(), target) == errno.EIO
    assert (target / "file").read_bytes() == CONTENT
    daemon.has_logged("bad reply: READ", "len: the packet has more than the", "bytes that this device carries")


def test_a_second_reply_to_one_request_does_not_reach_the_next_one(
    daemon: Daemon, target: Path, scripted: Callable[..., Scripted]
) -> None:
    def twice(fs: Scripted, head: codec.InHeader, body: bytes) -> Answer:
        good = codec.out_header.pack(16 + 80, 0, head.unique) + struct.pack("=5Q4I24x", *[fs.opcodes[head.opcode]] * 9)
        return [good, good]

    scripted(target, {Opcode.STATFS: twice})
    assert [os.statvfs(target).f_files for _ in range(5)] == [1, 2, 3, 4, 5]
    assert daemon.stats(target)["bad_replies"] == 5


def test_a_packet_that_looks_like_a_control_frame_is_dropped_on_a_mounted_device(
    daemon: Daemon, target: Path, scripted: Callable[..., Scripted]
) -> None:
    fs = scripted(target)
    fs.send(control.build_request({"op": "mounts"}))
    daemon.has_logged("a control frame on a device that is mounted")
    assert (target / "file").read_bytes() == CONTENT


def test_what_looks_right_and_is_refused_by_the_kernel_becomes_eio_for_its_caller(
    daemon: Daemon, target: Path, scripted: Callable[..., Scripted]
) -> None:
    # IOCTL: only the kernel knows how many bytes the caller gave room for.
    fs = scripted(target, {Opcode.IOCTL: lambda *_: codec.ioctl_out.pack(0, 0, 0, 0) + bytes(5000)})
    fd = os.open(target / "file", os.O_RDONLY)
    assert outcome(lambda _: fcntl.ioctl(fd, 0xC004_5A01, bytes(4)), target) == errno.EIO
    assert os.pread(fd, 10, 0) == CONTENT[:10]
    os.close(fd)
    assert daemon.stats(target)["bad_replies"] == 1
    daemon.has_logged(f"bad reply: IOCTL unique={fs.wait_for(Opcode.IOCTL)[0].unique}: payload: the kernel refused")


def test_ten_faults_a_second_are_logged_and_all_are_counted(
    daemon: Daemon, target: Path, scripted: Callable[..., Scripted]
) -> None:
    scripted(target, {Opcode.STATFS: lambda *_: 5})
    for _ in range(200):
        assert outcome(os.statvfs, target) == errno.EIO
    assert daemon.stats(target)["bad_replies"] == 200
    assert len([line for line in daemon.log().splitlines() if "bad reply" in line]) <= 50
    daemon.has_logged(str(target), "more faults in this second are only counted")
