"""The device endpoint: who may mount a device, what INIT offers it, and what else mounts on it can do."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from libperfuse import perfuse_mount, perfuse_open
from libperfuse.connection import PerfuseError, ask, connect, exchange, receive
from libperfuse.perfuse import device_name
from tests.kernel.backed import TEXT, Backed
from tests.kernel.conftest import ROOT, Daemon, eventually
from tests.kernel.device_files import OPTIONS, ROOM, device, endpoint, mount, refusal, started, take, unmount, workers
from tests.kernel.scripted import Scripted
from wire import codec, control
from wire.flags import InitFlag
from wire.opcodes import Opcode

__all__ = ["device", "endpoint"]


def opened_up(path: Path) -> None:
    """Let ordinary users reach what is below a test's directory."""
    for each in (path, *list(path.parents)[:2]):
        each.chmod(0o755)


# -- mounting -----------------------------------------------------------------------------------------


def test_a_refused_mount_may_be_tried_again(device: int, target: Path, tmp_path: Path) -> None:
    with pytest.raises(PerfuseError) as caught:
        perfuse_mount("x", str(target), "fuse.x", 0, f"fd={device},{OPTIONS},nonsense")
    assert caught.value.errno == errno.EINVAL
    assert refusal(lambda: os.read(device, ROOM)) == errno.EPERM
    started(device, target)


def test_a_second_mount_on_one_device_is_refused(device: int, target: Path) -> None:
    started(device, target)
    with pytest.raises(PerfuseError) as caught:
        mount(device, target)
    assert caught.value.errno == errno.EBUSY


def test_a_device_cannot_be_mounted_on_itself(device: int) -> None:
    with pytest.raises(PerfuseError) as caught:
        perfuse_mount("x", f"/proc/self/fd/{device}", "fuse", 0, f"fd={device},{OPTIONS}")
    assert caught.value.errno == errno.ELOOP


def test_devices_not_mounted_are_counted_with_the_others(daemons: Callable[..., Daemon], tmp_path: Path) -> None:
    opened_up(tmp_path)
    daemon = daemons("[policy]\nopens_per_user = 2\n")
    script = (
        "import os\nfrom libperfuse import perfuse_open\nos.setgid(65534); os.setuid(65534)\nheld = []\n"
        "try:\n    for _ in range(3): held.append(perfuse_open('/dev/fuse'))\n"
        "except OSError as bad: print(len(held), bad.errno)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], env=daemon.environment, text=True, capture_output=True,
                          cwd=ROOT, timeout=30, check=False)  # fmt: skip
    assert done.stdout.split() == ["2", str(errno.EMFILE)], done.stderr
    eventually(lambda: not workers(daemon), "their processes have gone")


def test_an_ordinary_user_mounts_and_serves(daemons: Callable[..., Daemon], tmp_path: Path) -> None:
    daemon = daemons("[policy]\nallow_other = ['*']\n")
    opened_up(tmp_path)
    own = tmp_path / "own"
    own.mkdir()
    os.chown(own, 65534, 65534)
    rawfs = daemon.run(
        "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", ROOT / "build" / "rawfs-perfuse", own
    )
    assert rawfs.stdout is not None
    assert "mounted on" in rawfs.stdout.readline(), daemon.log()
    subprocess.run(["umount", own], check=True)
    assert rawfs.wait(10) == 0


def test_the_configuration_makes_it_the_endpoint_of_who_asks_for_none(
    daemons: Callable[..., Daemon], target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PERFUSE_ENDPOINT")
    daemon = daemons("endpoint = 'device'\n")
    daemon.rawfs(target)
    (row,) = json.loads(daemon.ctl("mounts", "--json").stdout)
    assert row["endpoint"] == "device"


def test_splice_flags_are_offered_and_rings_are_not(device: int, target: Path) -> None:
    mount(device, target)
    _, body = take(device)
    offered = codec.init_in.unpack_from(body)
    flags = offered.flags | offered.flags2 << 32
    assert flags & InitFlag.SPLICE_READ
    assert not flags & InitFlag.OVER_IO_URING
    unmount(target)


@pytest.fixture
def backed(daemon: Daemon, target: Path, tmp_path: Path) -> Iterator[Backed]:
    """A mount whose file is backed by another."""
    path = tmp_path / "backing"
    path.write_bytes(TEXT)
    made = Backed(path).mount(target)
    yield made
    unmount(target)
    assert made.fs.ended.wait(20)
    os.close(made.fs.fd)


def test_backing_files_are_registered_and_read_by_the_kernel(backed: Backed, target: Path) -> None:
    assert (target / "file").read_bytes() == TEXT
    assert backed.ids
    assert Opcode.READ not in backed.fs.opcodes


def test_another_device_registers_no_backing_file(daemon: Daemon, backed: Backed) -> None:
    other = perfuse_open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    with connect() as connection, open(backed.path, "r+b") as file:
        ask(connection, {"op": "backing", "device": device_name(backed.fs.fd)[1:].decode()})
        exchange(connection, control.build_request({"op": "backing_open"}), (other, file.fileno()))
        message, _ = receive(connection)
    os.close(other)
    assert isinstance(message, control.Answer)
    assert message.error == -errno.EPERM


def test_a_live_trace_shows_its_frames(daemon: Daemon, target: Path) -> None:
    daemon.rawfs(target)
    watching = daemon.tracing(target)
    assert not (target / "nothing").exists()
    assert watching.stdout is not None
    assert any("nothing" in watching.stdout.readline() for _ in range(10))
    watching.send_signal(signal.SIGINT)


def test_a_scripted_filesystem_serves_on_it(daemon: Daemon, target: Path) -> None:
    fs = Scripted().open_and_mount(str(target))
    assert (target / "file").stat().st_size
    unmount(target)
    assert fs.ended.wait(10)
    os.close(fs.fd)


def test_no_descriptor_of_it_stays_with_the_daemon(daemon: Daemon, device: int) -> None:
    number = os.fstat(device).st_ino, os.fstat(device).st_dev
    for pid in (daemon.process.pid, *workers(daemon)):
        held = [os.stat(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        assert number not in [(each.st_ino, each.st_dev) for each in held]


def test_a_file_that_is_no_device_is_not_mounted(daemon: Daemon, target: Path, tmp_path: Path) -> None:
    with open(tmp_path / "file", "w+b") as file, pytest.raises(PerfuseError) as caught:
        mount(file.fileno(), target)
    assert caught.value.errno == errno.ENOTSOCK
