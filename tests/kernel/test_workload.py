"""A real workload passes through perfused as it does on the kernel alone; so do many callers and a deaf filesystem."""

import contextlib
import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fixtures import workload
from tests.kernel.conftest import BUILD, CONNECTIONS, ROOT, Daemon, eventually, fuse_mounts
from tests.kernel.scripted import Scripted, entry, init_reply
from wire import codec
from wire.flags import InitFlag, OpenFlag
from wire.opcodes import Opcode

MIB = 1 << 20


@pytest.fixture
def plain(target: Path) -> Callable[..., subprocess.Popen[str]]:
    """rawfs on the kernel alone, without perfused."""

    def mount(*options: str) -> subprocess.Popen[str]:
        program = subprocess.Popen([BUILD / "rawfs", *options, target], text=True, stdout=subprocess.PIPE)
        assert program.stdout is not None
        assert "mounted on" in program.stdout.readline()
        return program

    return mount


@pytest.mark.parametrize("threads", ["1", "4"])
def test_the_workload_passes_on_rawfs_without_perfused(
    target: Path, plain: Callable[..., subprocess.Popen[str]], threads: str
) -> None:
    with plain("-t", threads) as rawfs:
        workload.run(target, ROOT)
        subprocess.run(["umount", target], check=True)
        assert rawfs.wait(timeout=10) == 0


@pytest.mark.parametrize("threads", ["1", "4"])
@pytest.mark.parametrize("endpoint", ["socket", "direct"])
def test_the_workload_passes_through_perfused(
    daemons: Callable[..., Daemon], target: Path, endpoint: str, threads: str
) -> None:
    daemon = daemons(environment={"PERFUSE_ENDPOINT": endpoint})
    rawfs = daemon.rawfs(target, "-t", threads)
    workload.run(target, ROOT)
    daemon.idle(target)
    found = daemon.stats(target)
    assert (found["state"] == "DIRECT") == (endpoint == "direct")
    assert [found["bad_replies"], found["bad_notifications"]] == [0, 0]
    subprocess.run(["umount", target], check=True)
    assert rawfs.wait(timeout=10) == 0


def test_the_workload_passes_while_latencies_are_measured_and_frames_are_traced(
    daemons: Callable[..., Daemon], target: Path
) -> None:
    daemon = daemons("[requests]\ntiming = true\n", ("--trace",))
    rawfs = daemon.rawfs(target)
    watching = daemon.tracing(target)
    workload.run(target, ROOT / "wire")
    found = daemon.stats(target)
    assert found["latency"]["WRITE"]["count"] == found["requests"]["WRITE"]
    subprocess.run(["umount", target], check=True)
    assert rawfs.wait(timeout=10) == 0
    watching.communicate(timeout=20)
    assert watching.returncode == 0


def test_two_workloads_on_two_mounts_do_not_meet(daemon: Daemon, tmp_path: Path) -> None:
    targets = [tmp_path / "one", tmp_path / "two"]
    for each in targets:
        each.mkdir()
        daemon.rawfs(each)
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "fixtures.workload", each, ROOT / "wire"], cwd=ROOT, stdout=subprocess.DEVNULL
        )
        for each in targets
    ]
    assert [each.wait(timeout=50) for each in running] == [0, 0]
    assert sorted(fuse_mounts(tmp_path)) == sorted(map(str, targets))
    for each in targets:
        subprocess.run(["umount", each], check=True)


# -- many at once ----------------------------------------------------------------------------------


def test_32_clients_at_once_each_get_their_own_answers(daemon: Daemon, target: Path) -> None:
    rawfs = daemon.rawfs(target, "-t", "4", "-T", "0")

    def client(number: int) -> bool:
        path, content = target / f"client{number}", bytes([number]) * 70_000
        for turn in range(5):
            path.write_bytes(content + bytes([turn]))
            if path.read_bytes() != content + bytes([turn]) or path.stat().st_size != 70_001:
                return False
        return True

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(client, range(32)))
    assert sorted(os.listdir(target)) == sorted(f"client{number}" for number in range(32))
    daemon.idle(target)
    found = daemon.stats(target)
    assert [found["bad_replies"], found["gone"]] == [0, 0]
    daemon.ctl("umount", target)
    assert rawfs.wait(timeout=10) == 0


class Flood:
    """48 writers of 1 MiB each on a filesystem that has stopped reading its device."""

    WRITERS = 48

    def __init__(self, target: Path, fs: Scripted, daemon: Daemon) -> None:
        self.daemon, self.target = daemon, target
        self.worker = daemon.stats(target)["worker"]
        self.before = self.memory()
        self.fds = [os.open(target / str(number), os.O_WRONLY) for number in range(self.WRITERS)]
        self.number = str(os.minor(os.stat(target).st_dev))
        fs.reading.clear()
        self.wrote: list[int] = []
        self.threads = [threading.Thread(target=self._write, args=(fd,)) for fd in self.fds]
        for each in self.threads:
            each.start()
        # The one that a read(2) was waiting for already may be answered.
        eventually(lambda: self.waiting() + len(self.wrote) >= self.WRITERS, "all requests are with the kernel")

    def _write(self, fd: int) -> None:
        with mmap.mmap(-1, MIB) as pages, contextlib.suppress(OSError):
            self.wrote.append(os.writev(fd, [pages]))

    def waiting(self) -> int:
        """Requests the kernel counts on this connection, queued or under way."""
        return int((CONNECTIONS / self.number / "waiting").read_text())

    def memory(self) -> int:
        """Bytes of anonymous memory the worker holds."""
        status = Path(f"/proc/{self.worker}/status").read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in status if line.startswith(("RssAnon", "VmSwap")))

    def end(self) -> None:
        """Wait for the writers."""
        for each in self.threads:
            each.join(timeout=20)
        for fd in self.fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        self.threads, self.fds = [], []


@pytest.fixture
def flood(daemon: Daemon, target: Path, scripted: Callable[..., Scripted]) -> Iterator[tuple[Scripted, Flood]]:
    """A mount that is not read any more, with more asked of it than any buffer holds.

    NOFLUSH, since every program started from here would wait at exec(2), which closes its copies of the files.
    """
    init = init_reply(int(InitFlag.MAX_PAGES), max_write=MIB, max_pages=256)
    fs = scripted(
        target,
        {
            Opcode.INIT: lambda *_: init,
            Opcode.LOOKUP: lambda fs, head, body: entry(100 + int(body[:-1])),
            Opcode.OPEN: lambda *_: codec.open_out.pack(1, OpenFlag.DIRECT_IO | OpenFlag.NOFLUSH, 0),
        },
    )
    made = Flood(target, fs, daemon)
    yield fs, made
    fs.reading.set()
    made.end()


def test_requests_for_a_filesystem_that_does_not_read_stay_in_the_kernel(
    daemon: Daemon, flood: tuple[Scripted, Flood]
) -> None:
    _, asked = flood
    taken = daemon.stats(asked.target)["in_flight"]
    assert 0 < taken < Flood.WRITERS / 2
    assert asked.memory() - asked.before < 4 * MIB


def test_a_filesystem_that_does_not_read_delays_no_other_mount(
    daemon: Daemon, flood: tuple[Scripted, Flood], tmp_path: Path
) -> None:
    (other := tmp_path / "other").mkdir()
    rawfs = daemon.rawfs(other)
    (other / "file").write_bytes(bytes(MIB))
    assert (other / "file").read_bytes() == bytes(MIB)
    daemon.ctl("umount", other)
    assert rawfs.wait(timeout=10) == 0
    assert len(flood[1].wrote) <= 1


def test_a_filesystem_that_reads_again_gets_every_request_that_waited(
    daemon: Daemon, flood: tuple[Scripted, Flood]
) -> None:
    fs, asked = flood
    fs.reading.set()
    asked.end()
    assert asked.wrote == [MIB] * Flood.WRITERS
    daemon.idle(asked.target)


def test_a_mount_whose_filesystem_does_not_read_can_be_unmounted_by_force(
    daemon: Daemon, flood: tuple[Scripted, Flood]
) -> None:
    _, asked = flood
    daemon.ctl("umount", "--force", asked.target, check=False)
    eventually(lambda: not any(each.is_alive() for each in asked.threads), "every writer has got an error")
    assert len(asked.wrote) <= 1
    eventually(lambda: not daemon.workers(), "its worker has ended")
