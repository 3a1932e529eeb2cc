"""The device endpoint: a descriptor of perfused's that behaves as one of /dev/fuse does, though a file."""

import contextlib
import errno
import fcntl
import json
import os
import select
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from libperfuse import perfuse_mount, perfuse_open
from libperfuse.connection import PerfuseError, ask, connect, exchange, receive
from libperfuse.perfuse import device_name, kept_connection
from perfused import device_file
from perfused.conformance.exerciser import exercise
from tests.kernel.conftest import ROOT, Daemon, eventually, fuse_mounts
from tests.kernel.scripted import Scripted, init_reply
from tests.kernel.test_backing import TEXT, Backed
from wire import codec, control, ioctls
from wire.flags import InitFlag
from wire.opcodes import Notify, Opcode

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


def opened_up(path: Path) -> None:
    """Let ordinary users reach what is below a test's directory."""
    for each in (path, *list(path.parents)[:2]):
        each.chmod(0o755)


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


# -- the descriptor -----------------------------------------------------------------------------------


def test_a_device_is_a_regular_file_that_is_mounted_nowhere(device: int) -> None:
    assert stat.S_ISREG(os.fstat(device).st_mode)
    number = os.fstat(device).st_dev
    standing = [line.split()[2] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    assert f"{os.major(number)}:{os.minor(number)}" not in standing


def test_the_flags_of_perfuse_open_hold(daemon: Daemon) -> None:
    fd = perfuse_open("/dev/fuse", os.O_RDWR | os.O_NONBLOCK)
    assert os.get_inheritable(fd)
    assert not os.get_blocking(fd)
    os.close(fd)


def test_before_the_mount_reading_and_writing_are_refused(device: int) -> None:
    assert refusal(lambda: os.read(device, ROOM)) == errno.EPERM
    assert refusal(lambda: os.write(device, codec.out_header.pack(16, 0, 2))) == errno.EPERM


def test_before_the_mount_poll_says_error(device: int) -> None:
    assert events(device) == select.POLLERR


def test_ioctls_of_the_real_device_are_not_there(device: int) -> None:
    clone = struct.pack("=I", device)
    assert refusal(lambda: fcntl.ioctl(device, ioctls.FUSE_DEV_IOC_CLONE, clone)) == errno.ENOTTY


def test_it_cannot_be_sought_in(device: int) -> None:
    assert refusal(lambda: os.lseek(device, 0, os.SEEK_SET)) == errno.ESPIPE


# -- requests and replies -----------------------------------------------------------------------------


def test_one_read_gives_one_request_and_one_write_answers_it(device: int, target: Path) -> None:
    started(device, target)
    with asking(target) as result:
        head, body = take(device)
        assert (head.opcode, body) == (Opcode.LOOKUP, b"file\0")
        answer(device, head.unique, error=-errno.EXDEV)
    assert isinstance(result[0], OSError)
    assert result[0].errno == errno.EXDEV


def test_a_reply_may_be_written_in_pieces_of_one_call(device: int, target: Path) -> None:
    mount(device, target)
    head, _ = take(device)
    body = init_reply()
    whole = codec.out_header.pack(16 + len(body), 0, head.unique) + body
    assert os.writev(device, [whole[:7], whole[7:16], whole[16:50], whole[50:]]) == len(whole)
    with asking(target):
        head, _ = take(device)
        answer(device, head.unique, error=-errno.ENOENT)


@pytest.mark.parametrize(
    ("packet", "error"),
    {
        "a runt": (b"runt", errno.EINVAL),
        "a length that is not the packet's": (codec.out_header.pack(24, 0, 2), errno.EINVAL),
        "an answer to nothing": (codec.out_header.pack(16, 0, 222), errno.ENOENT),
    }.values(),
    ids=str,
)
def test_a_reply_the_kernel_would_refuse_is_refused(device: int, target: Path, packet: bytes, error: int) -> None:
    started(device, target)
    assert refusal(lambda: os.write(device, packet)) == error


def test_an_errno_the_kernel_would_refuse_is_refused_and_the_caller_is_told(device: int, target: Path) -> None:
    started(device, target)
    with asking(target) as result:
        head, _ = take(device)
        assert refusal(lambda: answer(device, head.unique, error=5)) == errno.EINVAL
    assert isinstance(result[0], OSError)
    assert result[0].errno == errno.EIO


def test_a_buffer_too_small_for_any_write_is_refused(device: int, target: Path) -> None:
    mount(device, target)
    assert refusal(lambda: os.read(device, 8191)) == errno.EINVAL
    head, _ = take(device)
    answer(device, head.unique, init_reply(max_write=131072))
    with asking(target):
        head, _ = take(device)
        assert refusal(lambda: os.read(device, 80 + 131071)) == errno.EINVAL
        answer(device, head.unique, error=-errno.ENOENT)


def test_frames_of_half_a_mebibyte_pass_both_ways(daemon: Daemon, target: Path) -> None:
    daemon.rawfs(target)
    whole = os.urandom(3 << 20)
    with open(target / "big", "w+b", buffering=0) as file:
        for at in range(0, len(whole), 1 << 20):
            assert file.write(whole[at : at + (1 << 20)]) == 1 << 20
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(file.fileno(), len(whole), 0) == whole
    assert daemon.stats(target)["max_write"] == device_file.frame_size() - 4096


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


# -- the end ------------------------------------------------------------------------------------------


def test_after_the_unmount_reads_say_so_and_poll_says_error(device: int, target: Path) -> None:
    started(device, target)
    result: list[int] = []
    reader = threading.Thread(target=lambda: result.append(refusal(lambda: os.read(device, ROOM))))
    reader.start()
    unmount(target)
    reader.join(20)
    assert result == [errno.ENODEV]
    assert refusal(lambda: os.read(device, ROOM)) == errno.ENODEV
    assert refusal(lambda: os.write(device, codec.out_header.pack(16, 0, 2))) == errno.ENOENT
    assert events(device) == select.POLLERR


def test_a_poll_that_waits_is_woken_by_the_unmount(device: int, target: Path) -> None:
    started(device, target)
    found: list[int] = []

    def wait() -> None:
        poll = select.poll()
        poll.register(device, select.POLLIN)
        found.extend(event for _, event in poll.poll(20_000))

    waiting = threading.Thread(target=wait)
    waiting.start()
    unmount(target)
    waiting.join(20)
    assert found == [select.POLLERR]


def test_a_mount_is_off_the_books_before_its_worker_has_gone(daemon: Daemon, device: int, target: Path) -> None:
    started(device, target)
    unmount(target)
    eventually(lambda: json.loads(daemon.ctl("mounts", "--json").stdout) == [], "it is listed no more")
    assert refusal(lambda: os.read(device, ROOM)) == errno.ENODEV
    os.close(device)
    eventually(lambda: not workers(daemon), "the worker has gone")


def test_the_worker_goes_before_long_though_the_device_stays_open(daemon: Daemon, device: int, target: Path) -> None:
    started(device, target)
    unmount(target)
    eventually(lambda: not workers(daemon), "the worker has gone", 20)
    assert refusal(lambda: os.read(device, ROOM)) in (errno.ENOTCONN, errno.ECONNABORTED)


def test_closing_the_device_takes_the_mount_away(daemon: Daemon, device: int, target: Path) -> None:
    started(device, target)
    os.close(device)
    eventually(lambda: not fuse_mounts(target), "the mount is gone")
    daemon.has_logged(str(target), "ended: the filesystem closed its device")
    eventually(lambda: not workers(daemon), "the worker has gone")


def test_the_mount_stands_while_anybody_has_the_device(daemon: Daemon, device: int, target: Path) -> None:
    started(device, target)
    kept = kept_connection(device)
    again = os.open(f"/proc/self/fd/{device}", os.O_RDWR | os.O_CLOEXEC)
    os.close(device)
    assert kept is not None
    kept.close()
    with asking(target) as result:
        head, _ = take(again)
        answer(again, head.unique, error=-errno.EXDEV)
    assert isinstance(result[0], OSError)
    os.close(again)
    eventually(lambda: not fuse_mounts(target), "the mount is gone")


def test_a_killed_filesystem_takes_its_mount_with_it(daemon: Daemon, target: Path) -> None:
    rawfs = daemon.rawfs(target)
    os.listdir(target)
    rawfs.kill()
    eventually(lambda: not fuse_mounts(target), "the mount is gone")
    eventually(lambda: not workers(daemon), "the worker has gone")


def test_a_killed_worker_leaves_nobody_waiting_and_other_mounts_unharmed(
    daemon: Daemon, device: int, target: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    daemon.rawfs(other)
    started(device, target)
    (row,) = (each for each in json.loads(daemon.ctl("mounts", "--json").stdout) if each["target"] == str(target))
    result: list[int] = []
    reader = threading.Thread(target=lambda: result.append(refusal(lambda: os.read(device, ROOM))))
    reader.start()
    os.kill(row["worker"], signal.SIGKILL)
    reader.join(20)
    assert result[0] in (errno.ECONNABORTED, errno.ENOTCONN)
    assert events(device) & select.POLLERR
    eventually(lambda: not fuse_mounts(target), "the mount is gone")
    (other / "file").write_text("still here")


def test_a_client_that_leaves_before_its_mount_leaves_no_process(daemon: Daemon, device: int) -> None:
    assert workers(daemon)
    kept = kept_connection(device)
    assert kept is not None
    kept.close()
    eventually(lambda: not workers(daemon), "its process has gone")
    assert refusal(lambda: os.read(device, ROOM)) in (errno.ENOTCONN, errno.ECONNABORTED)


def test_a_device_closed_before_its_mount_leaves_no_process(daemon: Daemon, device: int) -> None:
    os.close(device)
    eventually(lambda: not workers(daemon), "its process has gone")


def test_a_worker_killed_before_the_mount_fails_the_mount(daemon: Daemon, device: int, target: Path) -> None:
    (pid,) = workers(daemon)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not workers(daemon), "it has gone")
    with pytest.raises(PerfuseError):
        mount(device, target)
    assert not fuse_mounts(target)


def test_a_killed_daemon_leaves_no_mount_and_no_process(daemon: Daemon, device: int, target: Path) -> None:
    unused = perfuse_open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    started(device, target)
    daemon.process.kill()
    daemon.process.wait()
    eventually(lambda: not fuse_mounts(target), "the keeper has unmounted it")
    assert refusal(lambda: os.read(device, ROOM)) in (errno.ENODEV, errno.ENOTCONN, errno.ECONNABORTED)
    eventually(
        lambda: refusal(lambda: os.read(unused, ROOM)) in (errno.ENOTCONN, errno.ECONNABORTED), "its process has gone"
    )
    os.close(unused)


def test_sigterm_ends_every_mount_at_once(daemon: Daemon, device: int, target: Path) -> None:
    started(device, target)
    began = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - began < 15
    assert not fuse_mounts(target)


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
