"""Devices of the device endpoint, whose requests a test reads and answers itself.

Never here: what is expected of them.
"""

import contextlib
import os
import select
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from libperfuse import perfuse_mount, perfuse_open
from tests.kernel.conftest import Daemon
from tests.kernel.scripted import init_reply
from wire import codec
from wire.opcodes import Opcode

ROOM = (1 << 20) + 4096

OPTIONS = "rootmode=40000,user_id=0,group_id=0"


@pytest.fixture(autouse=True)
def endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything here asks for a device."""
    monkeypatch.setenv("PERFUSE_ENDPOINT", "device")


@pytest.fixture
def device(daemon: Daemon) -> Iterator[int]:
    """A device that is not mounted."""
    fd = perfuse_open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    yield fd
    with contextlib.suppress(OSError):
        os.close(fd)


def mount(fd: int, target: Path) -> None:
    """Mount a device whose requests the test reads itself."""
    perfuse_mount("device", str(target), "fuse.device", 0, f"fd={fd},{OPTIONS}")


def answer(fd: int, unique: int, body: bytes = b"", error: int = 0) -> None:
    """Write a reply."""
    os.write(fd, codec.out_header.pack(16 + len(body), error, unique) + body)


def take(fd: int) -> tuple[codec.InHeader, bytes]:
    """Read a request."""
    frame = os.read(fd, ROOM)
    return codec.in_header.unpack_from(frame), frame[40:]


def started(fd: int, target: Path) -> None:
    """Mount a device and settle INIT."""
    mount(fd, target)
    head, _ = take(fd)
    assert head.opcode == Opcode.INIT
    answer(fd, head.unique, init_reply())


def events(fd: int, milliseconds: int = 0) -> int:
    """What poll(2) says of a descriptor."""
    poll = select.poll()
    poll.register(fd, select.POLLIN | select.POLLOUT)
    return next((found for _, found in poll.poll(milliseconds)), 0)


def refusal(call: Callable[[], object]) -> int:
    """The errno of what must fail."""
    with pytest.raises(OSError) as caught:
        call()
    assert caught.value.errno is not None
    return caught.value.errno


@contextlib.contextmanager
def asking(target: Path) -> Iterator[list[BaseException | None]]:
    """A thread that looks at a file of the mount until somebody answers: what came of it is in the list at the end."""
    result: list[BaseException | None] = []

    def ask() -> None:
        try:
            os.stat(target / "file")
            result.append(None)
        except OSError as bad:
            result.append(bad)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    yield result
    thread.join(20)
    assert not thread.is_alive(), "the caller still waits"


def unmount(target: Path) -> None:
    """umount(8), lazily: the test may be in the middle of a request."""
    subprocess.run(["umount", "-l", target], check=True)


def workers(daemon: Daemon) -> list[int]:
    """Pids of its workers, those that have not mounted among them."""
    found = subprocess.run(["pgrep", "-P", str(daemon.process.pid)], capture_output=True, text=True, check=False)
    names = {int(pid): Path(f"/proc/{pid}/comm") for pid in found.stdout.split()}
    return [pid for pid, comm in names.items() if comm.exists() and comm.read_text().strip() in KINDS]


KINDS = ("perfused-mount", "perfused-device")
