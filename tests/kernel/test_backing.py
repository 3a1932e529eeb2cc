"""Passthrough: files that the kernel reads from others, registered by the daemon; and what is refused."""

import errno
import os
import select
import socket
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from libperfuse import backing, perfuse_open
from libperfuse.backing import backing_close, backing_open
from libperfuse.connection import PerfuseError, ask, connect, exchange, receive
from tests.kernel.backed import TEXT, Backed, backed, path, run
from tests.kernel.conftest import ROOT, Daemon, eventually, fuse_mounts
from tests.kernel.scripted import Scripted
from tests.kernel.test_attacks import PRELUDE
from wire import control
from wire.opcodes import Opcode

__all__ = ["backed", "path"]


def refusal(device: int, fd: int) -> PerfuseError:
    with pytest.raises(PerfuseError) as caught:
        backing_open(device, fd)
    return caught.value


# -- passthrough -------------------------------------------------------------------------------------------------------


def test_a_file_is_read_from_its_backing_file_without_a_read_request(
    daemon: Daemon, target: Path, backed: Callable[..., Backed]
) -> None:
    fs = backed().fs
    assert (target / "file").read_bytes() == TEXT
    assert Opcode.READ not in fs.opcodes


def test_what_is_written_lands_in_the_backing_file_without_a_write_request(
    daemon: Daemon, target: Path, path: Path, backed: Callable[..., Backed]
) -> None:
    fs = backed().fs
    with open(target / "file", "r+b", buffering=0) as file:
        file.write(b"WHAT")
    assert path.read_bytes() == b"WHAT" + TEXT[4:]
    assert Opcode.WRITE not in fs.opcodes


def test_the_flag_and_the_depth_reach_the_kernel(daemon: Daemon, target: Path, backed: Callable[..., Backed]) -> None:
    backed()
    assert "PASSTHROUGH" in daemon.stats(target)["flags"]


def test_what_is_open_stays_so_when_its_id_is_given_back(
    daemon: Daemon, target: Path, backed: Callable[..., Backed]
) -> None:
    made = backed()
    with open(target / "file", "rb", buffering=0) as file:
        backing_close(made.fs.fd, made.ids[0])
        assert file.read() == TEXT


def test_an_id_given_back_is_none_any_more(daemon: Daemon, path: Path, backed: Callable[..., Backed]) -> None:
    made = backed()
    with open(path, "r+b") as file:
        number = backing_open(made.fs.fd, file.fileno())
    backing_close(made.fs.fd, number)
    with pytest.raises(PerfuseError, match=f"backing id {number} is not registered") as caught:
        backing_close(made.fs.fd, number)
    assert caught.value.errno == errno.ENOENT


def test_statistics_count_what_is_registered(
    daemon: Daemon, target: Path, path: Path, backed: Callable[..., Backed]
) -> None:
    made = backed()
    with open(path, "r+b") as file:
        numbers = [backing_open(made.fs.fd, file.fileno()) for _ in range(3)]
    backing_close(made.fs.fd, numbers[0])
    eventually(lambda: daemon.stats(target)["backing_files"] == 2, "two are counted")


def test_a_private_daemon_registers_too(
    target: Path, backed: Callable[..., Backed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PERFUSE_NO_PRIVATE", raising=False)
    monkeypatch.setenv("PERFUSED", str(ROOT / ".venv" / "bin" / "perfused"))
    made = backed(private=True)
    assert (target / "file").read_bytes() == TEXT
    made.fs.close()
    eventually(lambda: not fuse_mounts(target), "the mount is gone")


def test_on_dev_fuse_itself_the_ioctl_is_made_here(target: Path, path: Path) -> None:
    made = Backed(path)
    made.fs.mount_plain(str(target))
    try:
        assert (target / "file").read_bytes() == TEXT
        backing_close(made.fs.fd, made.ids[0])
    finally:
        subprocess.run(["umount", "-l", target], check=True)
        made.fs.close()


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_directory_is_refused(daemon: Daemon, tmp_path: Path, backed: Callable[..., Backed]) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    bad = refusal(backed().fs.fd, fd)
    os.close(fd)
    assert (bad.errno, bad.strerror) == (errno.EISDIR, "the backing file is a directory: a regular file was expected")


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_is_no_regular_file_is_refused(daemon: Daemon, backed: Callable[..., Backed], kind: str) -> None:
    fds = {
        "pipe": lambda: os.pipe(),
        "socket": lambda: tuple(each.detach() for each in socket.socketpair()),
        "device": lambda: (os.open("/dev/null", os.O_RDWR),),
    }[kind]()
    bad = refusal(backed().fs.fd, fds[0])
    for each in fds:
        os.close(each)
    assert (bad.errno, bad.strerror) == (errno.EINVAL, "the backing file is no regular file")


def test_root_may_do_what_the_ioctl_does(daemon: Daemon, target: Path, backed: Callable[..., Backed]) -> None:
    """O_PATH is enough for the kernel, and what it opens anew may be written to."""
    backed(flags=os.O_PATH)
    assert (target / "file").write_bytes(TEXT) == len(TEXT)


def test_a_file_of_the_mount_itself_is_refused(daemon: Daemon, target: Path, backed: Callable[..., Backed]) -> None:
    made = backed()
    fd = os.open(target / "file", os.O_RDWR)
    bad = refusal(made.fs.fd, fd)
    os.close(fd)
    assert bad.errno == errno.ELOOP
    assert "stacked" in str(bad)


def test_a_mount_that_did_not_agree_on_passthrough_is_told_so(
    daemon: Daemon, target: Path, path: Path, scripted: Callable[..., Scripted]
) -> None:
    fs = scripted(target)
    assert os.path.lexists(target / "file")
    with open(path, "r+b") as file:
        bad = refusal(fs.fd, file.fileno())
    assert bad.errno == errno.EPERM
    assert "passthrough was not agreed on" in str(bad)


def test_what_the_configuration_refuses_is_not_offered(
    daemons: Callable[..., Daemon], target: Path, path: Path, backed: Callable[..., Backed]
) -> None:
    daemon = daemons('[init]\nrefuse = ["PASSTHROUGH"]\n')
    made = backed()
    with open(path, "r+b") as file:
        assert refusal(made.fs.fd, file.fileno()).errno == errno.EPERM
    assert "PASSTHROUGH" not in daemon.stats(target)["flags"]


def test_a_device_that_is_not_mounted_is_told_so(daemon: Daemon, path: Path) -> None:
    device = perfuse_open("/dev/fuse")
    with open(path, "r+b") as file:
        bad = refusal(device, file.fileno())
    os.close(device)
    assert bad.errno == errno.ENOENT


def test_a_descriptor_that_is_no_device_is_refused(daemon: Daemon, path: Path) -> None:
    with open(path, "r+b") as file:
        assert refusal(file.fileno(), file.fileno()).errno == errno.ENOTSOCK


def test_the_device_of_another_mount_proves_nothing(
    daemon: Daemon, tmp_path: Path, path: Path, backed: Callable[..., Backed], scripted: Callable[..., Scripted]
) -> None:
    made = backed()
    (tmp_path / "other").mkdir()
    other = scripted(tmp_path / "other")
    with connect() as connection, open(path, "r+b") as file:
        ask(connection, {"op": "backing", "device": backing.perfuse.device_name(made.fs.fd)[1:].decode()})
        exchange(connection, control.build_request({"op": "backing_open"}), (other.fd, file.fileno()))
        answer, _ = receive(connection)
    assert isinstance(answer, control.Answer)
    assert answer.error == -errno.EPERM


def test_a_socket_with_the_devices_name_from_another_network_namespace_proves_nothing(
    daemon: Daemon, path: Path, backed: Callable[..., Backed]
) -> None:
    """Abstract names are free again in a network namespace of one's own, so the name alone is no proof."""
    name = backing.perfuse.device_name(backed().fs.fd)
    body = """
        name, path = sys.argv[1].encode(), sys.argv[2]
        s = connect(); s.send(control.build_request({"op": "backing", "device": name.decode()})); s.recv(65536)
        libc.unshare(0x40000000)
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET); mine.bind(b"\\0" + name)
        assert theirs.getpeername() == b"\\0" + name
        file = os.open(path, os.O_RDWR)
        socket.send_fds(s, [control.build_request({"op": "backing_open"})], [theirs.fileno(), file])
        print(errno.errorcode[-control.parse(s.recv(65536)).error])
    """
    root = "".join(line for line in PRELUDE.splitlines(keepends=True) if "setresuid" not in line)
    assert run(daemon, root + textwrap.dedent(body), name[1:].decode(), path) == "EPERM"


def test_frames_that_are_no_request_for_a_backing_file_are_refused_and_their_descriptors_let_go(
    daemon: Daemon, backed: Callable[..., Backed]
) -> None:
    made = backed()
    read, write = os.pipe()
    frames = [
        b"nonsense",
        control.build_request({"op": "mounts"}),
        control.build_request({"op": ["backing_open"]}),
        control.build_request({"op": "backing_open"}),
        control.build_request({"op": "backing_close", "backing_id": "7"}),
        control.build_request({"op": "backing_close", "backing_id": 1 << 40}),
    ]
    with connect() as connection:
        ask(connection, {"op": "backing", "device": backing.perfuse.device_name(made.fs.fd)[1:].decode()})
        for frame in frames:
            exchange(connection, frame, (write,))
            answer, _ = receive(connection)
            assert isinstance(answer, control.Answer)
            assert answer.error < 0
        os.close(write)
        poll = select.poll()
        poll.register(read, 0)
        assert poll.poll(5000), "somebody holds the pipe open"
    os.close(read)


def test_connections_that_register_for_one_mount_are_limited(daemon: Daemon, backed: Callable[..., Backed]) -> None:
    name = backing.perfuse.device_name(backed().fs.fd)[1:].decode()
    held = [connect() for _ in range(5)]
    try:
        for each in held[:4]:
            ask(each, {"op": "backing", "device": name})
        with pytest.raises(PerfuseError) as caught:
            ask(held[4], {"op": "backing", "device": name})
    finally:
        for each in held:
            each.close()
    assert caught.value.errno == errno.EUSERS
