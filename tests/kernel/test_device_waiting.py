"""The device endpoint: poll(2), reads that wait, several readers, splices."""

import contextlib
import errno
import os
import select
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from libperfuse import perfuse_open
from perfused.conformance.exerciser import exercise
from tests.kernel.conftest import ROOT, Daemon, eventually, fuse_mounts
from tests.kernel.device_files import (
    ROOM,
    answer,
    asking,
    device,
    endpoint,
    events,
    mount,
    refusal,
    started,
    take,
    unmount,
)
from wire import codec
from wire.opcodes import Notify

__all__ = ["device", "endpoint"]


# -- waiting ------------------------------------------------------------------------------------------


def test_poll_says_readable_when_a_request_waits_and_until_it_is_read(device: int, target: Path) -> None:
    started(device, target)
    assert events(device, 100) == select.POLLOUT
    with asking(target):
        eventually(lambda: events(device) == select.POLLIN | select.POLLOUT, "a request waits")
        head, _ = take(device)
        assert events(device) == select.POLLOUT
        answer(device, head.unique, error=-errno.ENOENT)


def test_a_poll_that_waits_is_woken_by_a_request(device: int, target: Path) -> None:
    started(device, target)
    poll = select.poll()
    poll.register(device, select.POLLIN)
    found: list[list[tuple[int, int]]] = []
    waiting = threading.Thread(target=lambda: found.append(poll.poll(20_000)))
    waiting.start()
    with asking(target):
        waiting.join(20)
        head, _ = take(device)
        answer(device, head.unique, error=-errno.ENOENT)
    assert found == [[(device, select.POLLIN)]]


def test_without_blocking_a_read_says_that_nothing_waits(device: int, target: Path) -> None:
    started(device, target)
    os.set_blocking(device, False)
    assert refusal(lambda: os.read(device, ROOM)) == errno.EAGAIN


def test_an_edge_comes_with_every_request_for_who_reads_until_nothing_waits(device: int, target: Path) -> None:
    started(device, target)
    os.set_blocking(device, False)
    with select.epoll() as epoll:
        epoll.register(device, select.EPOLLIN | select.EPOLLET)
        for _ in range(50):
            with asking(target):
                assert epoll.poll(20), "a request waits"
                head, _ = take(device)
                assert refusal(lambda: os.read(device, ROOM)) == errno.EAGAIN
                answer(device, head.unique, error=-errno.ENOENT)


def test_a_signal_interrupts_a_read_and_no_request_is_lost(device: int, target: Path) -> None:
    started(device, target)
    script = (
        "import os, signal, sys\n"
        "def handler(*_): raise InterruptedError\n"
        "signal.signal(signal.SIGUSR1, handler)\n"
        "print('reading', flush=True)\n"
        "try: os.read(int(sys.argv[1]), 1 << 21)\n"
        "except InterruptedError: print('interrupted', flush=True)\n"
        "frame = os.read(int(sys.argv[1]), 1 << 21)\n"
        "print(len(frame), int.from_bytes(frame[8:16], sys.byteorder), flush=True)\n"
    )
    command = [sys.executable, "-c", script, str(device)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=[device]) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "reading\n"
        eventually(lambda: _waits_in_fuse(reader.pid), "it waits in read(2)")
        reader.send_signal(signal.SIGUSR1)
        assert reader.stdout.readline() == "interrupted\n"
        with asking(target):
            size, unique = map(int, reader.stdout.readline().split())
            answer(device, unique, error=-errno.ENOENT)
        assert size == 40 + len("file") + 1
        reader.wait(20)


def _waits_in_fuse(pid: int) -> bool:
    """Whether a process sleeps in read(2) of a FUSE file."""
    return Path(f"/proc/{pid}/wchan").read_text() == "request_wait_answer" or "read" in _call(pid)


def _call(pid: int) -> str:
    words = Path(f"/proc/{pid}/syscall").read_text().split()
    return "read" if words[0] == "0" and len(words) > 3 and int(words[3], 16) == 1 << 21 else ""


def test_a_reader_that_is_killed_while_it_waits_ends(device: int, target: Path) -> None:
    started(device, target)
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            os.read(device, ROOM)
        os._exit(0)
    eventually(lambda: Path(f"/proc/{pid}/syscall").read_text().split()[0] != "running", "it waits")
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: os.waitpid(pid, os.WNOHANG)[0], "it ends") == pid
    with asking(target):
        head, _ = take(device)
        answer(device, head.unique, error=-errno.ENOENT)


def test_several_threads_read_and_each_request_goes_to_one(device: int, target: Path) -> None:
    started(device, target)
    seen: list[int] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                head, _ = take(device)
                seen.append(head.unique)
                answer(device, head.unique, error=-errno.ENOENT)

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(6)]
    for each in threads:
        each.start()
    callers = [threading.Thread(target=lambda: [os.path.exists(target / "file") for _ in range(50)]) for _ in range(4)]
    for each in callers:
        each.start()
    for each in callers:
        each.join(30)
    unmount(target)
    for each in threads:
        each.join(20)
        assert not each.is_alive()
    assert len(seen) == len(set(seen)) >= 200


def test_the_file_opened_again_is_the_same_device(device: int, target: Path) -> None:
    started(device, target)
    again = os.open(f"/proc/self/fd/{device}", os.O_RDWR | os.O_CLOEXEC)
    with asking(target) as result:
        head, _ = take(again)
        answer(device, head.unique, error=-errno.EXDEV)
    os.close(again)
    assert isinstance(result[0], OSError)
    assert result[0].errno == errno.EXDEV


def test_a_notification_reaches_the_kernel(device: int, target: Path) -> None:
    started(device, target)
    payload = codec.notify_inval_inode_out.pack(77, 0, 0)
    os.write(device, codec.out_header.pack(16 + len(payload), Notify.INVAL_INODE, 0) + payload)
    unmount(target)


@pytest.mark.parametrize("threads", [1, 8])
def test_splices_pass_whole_in_both_directions(daemon: Daemon, target: Path, tmp_path: Path, threads: int) -> None:
    splicer = tmp_path / "splicer"
    source = Path(__file__).with_name("splicer.c")
    subprocess.run(["gcc", "-O2", "-Wall", "-Werror", "-o", splicer, source, "-lpthread"], check=True)
    fd = perfuse_open("/dev/fuse", os.O_RDWR)
    mount(fd, target)
    fs = subprocess.Popen([splicer, str(fd), str(threads)], pass_fds=[fd], stderr=subprocess.PIPE, text=True)
    os.close(fd)
    try:
        expected = b"".join(struct.pack("=Q", n) for n in range(1 << 17))
        wrong: list[str] = []

        def work() -> None:
            with open(target / "file", "r+b", buffering=0) as file:
                for size in (1 << 20, 4096, 131072, 700_000 & ~7):
                    if os.pread(file.fileno(), size, 0) != expected[:size]:
                        wrong.append(f"read {size}")
                    if os.pwrite(file.fileno(), expected[:size], 0) != size:
                        wrong.append(f"write {size}")

        clients = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
        for each in clients:
            each.start()
        for each in clients:
            each.join(40)
            assert not each.is_alive(), fs.poll()
        assert not wrong
        subprocess.run(["umount", target], check=True)
        assert fs.wait(10) == 0
    finally:
        fs.kill()
        _, said = fs.communicate()
        assert not said


def test_a_splice_from_a_handle_opened_without_o_direct_fails_and_loses_no_request(device: int, target: Path) -> None:
    started(device, target)
    again = os.open(f"/proc/self/fd/{device}", os.O_RDWR | os.O_CLOEXEC)
    into, out = os.pipe()
    with asking(target) as result:
        eventually(lambda: events(device) & select.POLLIN, "a request waits")
        assert refusal(lambda: os.splice(again, out, 65_536)) in (errno.EIO, errno.EINVAL)
        head, _ = take(again)
        answer(again, head.unique, error=-errno.EXDEV)
    for each in (again, into, out):
        os.close(each)
    assert isinstance(result[0], OSError)
    assert result[0].errno == errno.EXDEV


def test_requests_that_nobody_reads_pass_their_deadline(daemons: Callable[..., Daemon], target: Path) -> None:
    fd = (daemons("[requests]\ndeadline = 0.3\ninterrupt_grace = 0.1\n"), perfuse_open("/dev/fuse", os.O_RDWR))[1]
    started(fd, target)
    with asking(target) as first, asking(target) as second:
        pass
    os.close(fd)
    for each in (first, second):
        assert isinstance(each[0], OSError)
        assert each[0].errno == errno.EIO


@pytest.mark.parametrize("fixture", ["rawfs", "memory", "loopback"])
def test_random_operations_on_files_do_what_they_should(
    daemon: Daemon, target: Path, tmp_path: Path, fixture: str
) -> None:
    if fixture == "rawfs":
        fs = daemon.rawfs(target)
    else:
        source = tmp_path / "source"
        source.mkdir()
        words = [target] if fixture == "memory" else [source, target]
        fs = daemon.run(sys.executable, ROOT / "fixtures" / f"{fixture}.py", *words, cwd=ROOT)
        eventually(lambda: fuse_mounts(target), "it is mounted")
    outcome = exercise(target, 7, 400)
    assert outcome.mismatch is None, outcome.mismatch.report()
    subprocess.run(["umount", target], check=True)
    assert fs.wait(20) == 0
