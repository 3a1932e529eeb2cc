"""Mounts in number: each has a process of its own, which costs little while nobody asks it anything."""

import errno
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from libperfuse import perfuse_mount, perfuse_open
from tests.kernel import conftest
from tests.kernel.conftest import Daemon, eventually, fuse_mounts
from tests.kernel.scripted import CONTENT, Scripted, attr, init_reply
from wire import codec
from wire.opcodes import Opcode

MANY = 500
#: seconds the tests here may take, where others run beside them
PATIENCE = 300.0
#: seconds without a wake-up that make a worker idle: more than it ever lets pass between two looks
STILL = 3.0


@pytest.fixture(autouse=True, scope="module")
def patience() -> Iterator[None]:
    before, conftest.PATIENCE = conftest.PATIENCE, PATIENCE
    yield
    conftest.PATIENCE = before


class Crowd:
    """Many filesystems served by one thread: each an empty root directory."""

    def __init__(self) -> None:
        self.devices: list[int] = []
        self._poll = select.epoll()
        threading.Thread(target=self._serve, daemon=True, name="crowd").start()

    def mount(self, target: Path) -> None:
        fd = perfuse_open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        self.devices.append(fd)
        perfuse_mount("crowd", str(target), "fuse.crowd", 0, f"fd={fd},rootmode=40000,user_id=0,group_id=0")
        self._poll.register(fd, select.EPOLLIN)

    def _serve(self) -> None:
        while True:
            for fd, _ in self._poll.poll():
                frame = os.read(fd, 2 << 20)
                if not frame:
                    self._poll.unregister(fd)
                    continue
                self._answer(fd, frame)

    @staticmethod
    def _answer(fd: int, frame: bytes) -> None:
        head = codec.in_header.unpack_from(frame)
        if head.opcode in (Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT):
            return
        error, body = -errno.ENOSYS, b""
        if head.opcode == Opcode.INIT:
            error, body = 0, init_reply()
        elif head.opcode == Opcode.GETATTR:
            error, body = 0, codec.attr_out.pack(0, 0, 0, *attr(1))
        os.write(fd, codec.out_header.pack(16 + len(body), error, head.unique) + body)

    def close(self) -> None:
        for fd in self.devices:
            os.close(fd)


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    made = Crowd()
    yield made
    made.close()


def children(daemon: Daemon, name: str) -> list[int]:
    """Pids of the daemon's children of that name."""
    command = ["pgrep", "-P", str(daemon.process.pid), "-x", name]
    return [int(pid) for pid in subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()]


def spawner(daemon: Daemon) -> int:
    """The pid of the process that forks the daemon's workers."""
    (pid,) = eventually(lambda: children(daemon, "perfused-spawn"), "there is a spawner")
    return int(pid)


def wake_ups(pid: int) -> int:
    """How often the threads of a process have been let run so far."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    lines = [line for task in tasks for line in (task / "status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)


def falls_asleep(pid: int) -> None:
    """Wait until no thread of a process is woken any more."""
    seen = [(time.monotonic(), wake_ups(pid))]

    def still() -> bool:
        now = wake_ups(pid)
        if now != seen[-1][1]:
            seen.append((time.monotonic(), now))
        return time.monotonic() - seen[-1][0] > STILL

    eventually(still, f"process {pid} is idle", 60)


# -- five hundred ------------------------------------------------------------------------------------------------------


def test_five_hundred_mounts_each_answer_and_all_are_gone_when_the_daemon_stops(
    daemons: Callable[..., Daemon], tmp_path: Path, crowd: Crowd
) -> None:
    daemon = daemons(f"stop_timeout = {PATIENCE / 3}\n")
    targets = [tmp_path / f"m{number}" for number in range(MANY)]
    for target in targets:
        target.mkdir()
        crowd.mount(target)
    assert len(set(daemon.workers())) == MANY
    assert {os.stat(target).st_ino for target in targets} == {1}
    daemon.process.terminate()
    assert daemon.process.wait(timeout=PATIENCE / 2) == 0
    assert not fuse_mounts(tmp_path)
    assert "does not end" not in daemon.log()


# -- idle --------------------------------------------------------------------------------------------------------------


def test_nothing_wakes_the_worker_of_an_idle_mount(
    daemon: Daemon, target: Path, scripted: Callable[..., Scripted]
) -> None:
    scripted(target)
    os.stat(target)
    (worker,) = daemon.workers()
    falls_asleep(worker)


def test_a_mount_answers_after_it_was_idle(daemon: Daemon, target: Path, scripted: Callable[..., Scripted]) -> None:
    scripted(target)
    (worker,) = daemon.workers()
    for _ in range(2):
        falls_asleep(worker)
        assert (target / "file").read_bytes() == CONTENT


def test_a_caller_killed_in_a_mount_that_was_idle_gets_away(
    daemons: Callable[..., Daemon], target: Path, scripted: Callable[..., Scripted]
) -> None:
    daemon = daemons("[requests]\nkilled_grace = 0.3\n")
    fs = scripted(target, {Opcode.READ: lambda fs, head, body: None})
    (worker,) = daemon.workers()
    falls_asleep(worker)
    reader = subprocess.Popen(["cat", target / "file"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    fs.wait_for(Opcode.READ)
    reader.kill()
    assert reader.wait(timeout=20) == -signal.SIGKILL
    daemon.has_logged("READ", "answered EINTR (caller killed)")


def test_a_deadline_holds_in_a_mount_that_was_idle(
    daemons: Callable[..., Daemon], target: Path, scripted: Callable[..., Scripted]
) -> None:
    daemon = daemons("[requests]\ndeadline = 0.4\ninterrupt_grace = 0.2\n")
    scripted(target, {Opcode.GETATTR: lambda fs, head, body: None})
    (worker,) = daemon.workers()
    falls_asleep(worker)
    with pytest.raises(OSError) as caught:
        os.stat(target)
    assert caught.value.errno == errno.EIO


def test_a_request_alone_in_flight_keeps_its_worker_looking(
    daemons: Callable[..., Daemon], target: Path, scripted: Callable[..., Scripted]
) -> None:
    daemon = daemons("[requests]\nkilled_grace = 0.3\n")
    fs = scripted(target, {Opcode.READ: lambda fs, head, body: None})
    reader = subprocess.Popen(["cat", target / "file"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    fs.wait_for(Opcode.READ)
    (worker,) = daemon.workers()
    before = wake_ups(worker)
    eventually(lambda: wake_ups(worker) > before + 40, "it looks again and again", 60)
    reader.kill()
    assert reader.wait(timeout=20) == -signal.SIGKILL


def test_an_idle_mount_ends_when_its_connection_is_aborted(
    daemon: Daemon, target: Path, scripted: Callable[..., Scripted]
) -> None:
    scripted(target)
    (worker,) = daemon.workers()
    falls_asleep(worker)
    conftest.abort(conftest.connections(target))
    eventually(lambda: not fuse_mounts(target), "it is unmounted")


# -- the process that forks workers ------------------------------------------------------------------------------------


def test_workers_are_the_daemons_own_children(daemon: Daemon, target: Path, scripted: Callable[..., Scripted]) -> None:
    scripted(target)
    assert children(daemon, "perfused-mount") == daemon.workers() != []


def test_mounts_stand_and_more_are_made_when_the_spawner_is_killed(
    daemon: Daemon, tmp_path: Path, scripted: Callable[..., Scripted]
) -> None:
    first = spawner(daemon)
    targets = [tmp_path / name for name in ("before", "at once", "afterwards")]
    for each in targets:
        each.mkdir()
    scripted(targets[0])
    os.kill(first, signal.SIGKILL)
    scripted(targets[1])
    eventually(lambda: children(daemon, "perfused-spawn") not in ([], [first]), "another spawner")
    scripted(targets[2])
    assert [(each / "file").read_bytes() for each in targets] == [CONTENT] * 3


def test_a_mount_does_not_wait_for_a_spawner_that_is_stuck(
    daemon: Daemon, target: Path, scripted: Callable[..., Scripted]
) -> None:
    os.kill(spawner(daemon), signal.SIGSTOP)
    scripted(target)
    assert (target / "file").read_bytes() == CONTENT
    daemon.has_logged("the spawner: no answer")


def test_a_spawner_that_was_stuck_is_killed_and_replaced(
    daemon: Daemon, target: Path, scripted: Callable[..., Scripted]
) -> None:
    first = spawner(daemon)
    os.kill(first, signal.SIGSTOP)
    scripted(target)
    eventually(lambda: children(daemon, "perfused-spawn") not in ([], [first]), "another spawner")
    assert not Path(f"/proc/{first}").exists()


def test_a_mount_is_made_though_the_worker_that_waited_for_it_was_killed(
    daemon: Daemon, target: Path, scripted: Callable[..., Scripted]
) -> None:
    (spare,) = eventually(lambda: children(daemon, "perfused-spare"), "a worker waits for its job")
    os.kill(spare, signal.SIGKILL)
    scripted(target)
    assert (target / "file").read_bytes() == CONTENT
    assert spare not in daemon.workers()


def test_only_one_worker_waits_for_a_job(daemon: Daemon, tmp_path: Path, scripted: Callable[..., Scripted]) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        scripted(tmp_path / name)
    eventually(lambda: children(daemon, "perfused-spare"), "a worker waits for its job")
    assert len(children(daemon, "perfused-spare")) == 1


def test_the_spawner_ends_with_a_daemon_that_is_killed(daemon: Daemon) -> None:
    pid = spawner(daemon)
    daemon.process.kill()
    daemon.process.wait()
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "the spawner is gone")


def test_settings_read_again_hold_for_workers_forked_afterwards(
    daemons: Callable[..., Daemon], target: Path, scripted: Callable[..., Scripted]
) -> None:
    daemon = daemons()
    first = spawner(daemon)
    (daemon.place / "perfused.toml").write_text("[init]\nminor = 31\n")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.has_logged("configuration read again")
    eventually(lambda: children(daemon, "perfused-spawn") not in ([], [first]), "another spawner")
    fs = scripted(target)
    _, init = fs.wait_for(Opcode.INIT)
    assert codec.init_in.unpack_from(init).minor == 31


def test_a_worker_killed_before_its_mount_leaves_no_process_behind(daemon: Daemon, target: Path) -> None:
    fd = perfuse_open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    os.kill(spawner(daemon), signal.SIGKILL)
    perfuse_mount("none", str(target), "fuse.none", 0, f"fd={fd},rootmode=40000,user_id=0,group_id=0")
    (worker,) = daemon.workers()
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: not fuse_mounts(target), "it is unmounted")
    os.close(fd)
    eventually(lambda: not daemon.workers(), "no worker is left")
    command = ["ps", "--ppid", str(daemon.process.pid), "-o", "stat="]
    eventually(lambda: "Z" not in subprocess.run(command, capture_output=True, text=True, check=False).stdout, "reaped")
