"""FUSE over io_uring between kernel and worker: what is special about it, and what becomes of it where it cannot be."""

import errno
import fcntl
import mmap
import os
import resource
import struct
import subprocess
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from tests.kernel.conftest import Daemon, eventually
from tests.kernel.rings import DISABLED, ENABLE, RING, missing, offered, setting
from tests.kernel.scripted import CONTENT, FILE, Answer, Handler, Scripted, attr, entry, init_reply
from wire import codec
from wire.flags import InitFlag, OpenFlag
from wire.opcodes import Notify, Opcode

__all__ = ["offered"]

Mount = Callable[..., Scripted]
Daemons = Callable[..., Daemon]
MIB = 1 << 20
#: requests of one processor that a ring holds (ring_entries.DEPTH, where there are few processors)
DEPTH = 32


@pytest.fixture
def ring(offered: None, daemons: Daemons) -> Daemon:
    """A daemon that takes io_uring from a kernel that offers it."""
    return daemons(RING)


def large(fs: Scripted, head: codec.InHeader, body: bytes) -> bytes:
    """INIT with the largest requests that there are."""
    return init_reply(InitFlag.MAX_PAGES | InitFlag.BIG_WRITES, max_write=MIB, max_pages=256)


def direct(fs: Scripted, head: codec.InHeader, body: bytes) -> bytes:
    """Every read(2) is a request of its own, however many there are at once."""
    return codec.open_out.pack(1, OpenFlag.DIRECT_IO | OpenFlag.PARALLEL_DIRECT_WRITES, 0)


def pattern(offset: int, size: int) -> bytes:
    """Bytes that tell where in a file they belong."""
    first = offset // 8
    return struct.pack(f"={size // 8 + 2}Q", *range(first, first + size // 8 + 2))[offset % 8 : offset % 8 + size]


def read_pattern(fs: Scripted, head: codec.InHeader, body: bytes) -> bytes:
    return pattern(*struct.unpack_from("=QI", body, 8))


def test_stats_and_log_say_that_the_ring_is_used(ring: Daemon, target: Path) -> None:
    ring.rawfs(target)
    (target / "file").write_text("over the ring")
    assert (target / "file").read_text() == "over the ring"
    assert ring.stats(target)["io_uring"] is True
    ring.has_logged(str(target), "FUSE over io_uring")
    ring.ctl("umount", target)


def test_the_filesystem_is_offered_neither_the_ring_nor_what_a_ring_has_not(
    ring: Daemon, target: Path, scripted: Mount
) -> None:
    fs = scripted(target)
    (target / "file").stat()
    _, body = fs.wait_for(Opcode.INIT)
    shown = InitFlag.joined(*struct.unpack_from("=II", body, 12))
    assert not shown & (InitFlag.OVER_IO_URING | InitFlag.HAS_RESEND)
    assert ring.stats(target)["io_uring"]


def test_a_filesystem_that_asks_for_the_ring_itself_does_not_get_it(
    ring: Daemon, target: Path, scripted: Mount
) -> None:
    scripted(target, {Opcode.INIT: lambda *_: init_reply(InitFlag.OVER_IO_URING | InitFlag.INIT_EXT)})
    assert (target / "file").read_bytes() == CONTENT
    ring.has_logged("asked for what was not offered: OVER_IO_URING")


def test_a_filesystem_of_an_older_minor_is_served_over_the_ring_as_well(
    ring: Daemon, target: Path, scripted: Mount
) -> None:
    scripted(target, minor=12)
    assert (target / "file").read_bytes() == CONTENT
    assert ring.stats(target)["io_uring"]


@pytest.mark.parametrize("size", [1, 511, 4096, 4097, 16384, 32752, 32768, 65537, 131072, 524288, MIB - 1, MIB])
def test_reads_of_every_size_give_what_the_filesystem_gave(
    ring: Daemon, target: Path, scripted: Mount, size: int
) -> None:
    scripted(target, {Opcode.INIT: large, Opcode.OPEN: direct, Opcode.READ: read_pattern})
    fd = os.open(target / "file", os.O_RDONLY)
    for offset in (0, 12345, size):
        assert os.pread(fd, size, offset) == pattern(offset, size)
    os.close(fd)
    assert ring.stats(target)["bad_replies"] == 0


@pytest.mark.parametrize("size", [1, 4096, 32768, 131073, MIB])
def test_writes_of_every_size_reach_the_filesystem_whole(
    ring: Daemon, target: Path, scripted: Mount, size: int
) -> None:
    written: dict[int, bytes] = {}

    def write(fs: Scripted, head: codec.InHeader, body: bytes) -> bytes:
        offset, length = struct.unpack_from("=QI", body, 8)
        written[offset] = body[40:]
        return codec.write_out.pack(length, 0)

    scripted(target, {Opcode.INIT: large, Opcode.OPEN: direct, Opcode.WRITE: write})
    fd = os.open(target / "file", os.O_WRONLY)
    # On a page: else the last byte of 1 MiB is in a page more than a request holds.
    data = mmap.mmap(-1, MIB)
    data[:size] = pattern(0, size)
    assert os.pwrite(fd, memoryview(data)[:size], 0) == size
    os.close(fd)
    assert b"".join(written[each] for each in sorted(written)) == pattern(0, size)


class Readers:
    """Threads that each read `size` bytes of a file at an offset of their own."""

    def __init__(self, path: Path, count: int, size: int, processor: int | None = None) -> None:
        self.found: dict[int, bytes] = {}
        self._fd, self._size, self._processor = os.open(path, os.O_RDONLY), size, processor
        self.threads = [threading.Thread(target=self._read, args=(each * size,), daemon=True) for each in range(count)]
        for each in self.threads:
            each.start()

    def _read(self, offset: int) -> None:
        if self._processor is not None:
            os.sched_setaffinity(0, {self._processor})
        self.found[offset] = os.pread(self._fd, self._size, offset)

    def end(self) -> None:
        """Wait for all, and see that each has what it asked for."""
        for each in self.threads:
            each.join(timeout=20)
            assert not each.is_alive()
        os.close(self._fd)
        assert all(found == pattern(offset, self._size) for offset, found in self.found.items())
        assert len(self.found) == len(self.threads)


@pytest.mark.parametrize("size", [64, 4096, 65536])
@pytest.mark.parametrize("order", [1, -1])
def test_requests_answered_together_in_any_order_get_each_its_own_answer(
    ring: Daemon, target: Path, scripted: Mount, size: int, order: int
) -> None:
    fs = scripted(target, {Opcode.INIT: large, Opcode.OPEN: direct, Opcode.READ: lambda *_: None})
    readers = Readers(target / "file", 20, size)
    fs.wait_for(Opcode.READ, times=20)
    asked = [each for each in fs.requests if each[0].opcode == Opcode.READ]
    for head, body in asked[::order]:
        fs.reply(head, read_pattern(fs, head, body))
    readers.end()
    assert ring.stats(target)["bad_replies"] == 0


def test_more_requests_than_a_queue_holds_wait_for_their_turn(ring: Daemon, target: Path, scripted: Mount) -> None:
    fs = scripted(target, {Opcode.INIT: large, Opcode.OPEN: direct, Opcode.READ: lambda *_: None})
    readers = Readers(target / "file", DEPTH + 10, 4096, processor=0)
    fs.wait_for(Opcode.READ, times=DEPTH)
    fs.handlers[Opcode.READ] = read_pattern
    for head, body in list(fs.requests):
        if head.opcode == Opcode.READ:
            fs.reply(head, read_pattern(fs, head, body))
    readers.end()


def test_eight_clients_at_once_read_and_write_what_is_theirs(ring: Daemon, target: Path) -> None:
    ring.rawfs(target)
    wrong: list[int] = []

    def work(number: int) -> None:
        path = target / f"file{number}"
        for turn in range(20):
            data = pattern(number * MIB + turn, 3000 * (turn + 1))
            path.write_bytes(data)
            if path.read_bytes() != data:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(each,)) for each in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(timeout=40)
        assert not each.is_alive()
    assert wrong == []
    ring.ctl("umount", target)


def test_requests_wait_for_a_filesystem_that_does_not_read_and_are_then_whole(
    ring: Daemon, target: Path, scripted: Mount
) -> None:
    sums: list[bool] = []

    def write(fs: Scripted, head: codec.InHeader, body: bytes) -> bytes:
        offset, length = struct.unpack_from("=QI", body, 8)
        sums.append(body[40:] == pattern(offset, length))
        return codec.write_out.pack(length, 0)

    # Writes past the end of a file would wait for one another.
    size = MIB // 2
    known: dict[int, Handler] = {
        Opcode.LOOKUP: lambda *_: entry(FILE, size=16 * size),
        Opcode.GETATTR: lambda fs, head, body: codec.attr_out.pack(0, 0, 0, *attr(head.nodeid, 16 * size)),
    }
    fs = scripted(target, known | {Opcode.INIT: large, Opcode.OPEN: direct, Opcode.WRITE: write})
    fd = os.open(target / "file", os.O_WRONLY)
    fs.reading.clear()
    threads = [
        threading.Thread(target=os.pwrite, args=(fd, pattern(each * size, size), each * size), daemon=True)
        for each in range(16)
    ]
    for each in threads:
        each.start()
    # One it was already waiting for, and has answered.
    eventually(lambda: ring.stats(target)["in_flight"] >= 15, "all are in flight")
    fs.reading.set()
    for each in threads:
        each.join(timeout=20)
        assert not each.is_alive()
    os.close(fd)
    assert len(sums) >= 16
    assert all(sums)


def test_what_the_kernel_had_kept_is_retrieved_more_often_than_there_are_entries(
    ring: Daemon, target: Path, scripted: Mount
) -> None:
    got = 0

    def retrieved(fs: Scripted, head: codec.InHeader, body: bytes) -> Answer:
        nonlocal got
        got += 1
        return None

    keep = {Opcode.OPEN: lambda *_: codec.open_out.pack(1, OpenFlag.KEEP_CACHE, 0), Opcode.NOTIFY_REPLY: retrieved}
    fs = scripted(target, keep)
    fd = os.open(target / "file", os.O_RDONLY)
    assert os.pread(fd, 4096, 0) == CONTENT
    for turn in range(3 * DEPTH):
        fs.notify(Notify.RETRIEVE, codec.notify_retrieve_out.pack(2 * turn + 100, 2, 0, 4096, 0))
        eventually(lambda turn=turn: got > turn, "the page comes")
    os.close(fd)
    assert (target / "file").stat().st_size == len(CONTENT)


def test_traces_of_a_mount_over_the_ring_show_its_requests_and_replies(
    ring: Daemon, target: Path, scripted: Mount
) -> None:
    scripted(target)
    (target / "file").stat()
    watching = ring.tracing(target)
    assert (target / "file").read_bytes() == CONTENT
    assert watching.stdout is not None
    lines = ""
    while "READ " not in lines or "RELEASE" not in lines:
        line = watching.stdout.readline()
        assert line, lines
        lines += line
    assert '"file"' in lines
    watching.terminate()


def test_an_ioctl_answered_with_more_than_was_asked_for_is_eio(ring: Daemon, target: Path, scripted: Mount) -> None:
    scripted(target, {Opcode.IOCTL: lambda *_: codec.ioctl_out.pack(0, 0, 0, 0) + bytes(5)})
    fd = os.open(target / "file", os.O_RDONLY)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        fcntl.ioctl(fd, 0xC004_5A01, bytes(4))
    os.close(fd)
    assert ring.stats(target)["bad_replies"] == 1


# -- where there is no ring --------------------------------------------------------------------------------------------


def _works_without(daemon: Daemon, target: Path, scripted: Mount, *words: str) -> None:
    fs = scripted(target)
    assert (target / "file").read_bytes() == CONTENT
    assert daemon.stats(target)["io_uring"] is False
    daemon.has_logged(str(target), "no io_uring, /dev/fuse is read and written", *words)
    fs.close()
    eventually(lambda: not daemon.workers(), "the worker has ended")


def test_without_the_setting_the_ring_is_not_used_though_it_is_offered(
    offered: None, daemons: Daemons, target: Path, scripted: Mount
) -> None:
    daemon = daemons()
    scripted(target)
    assert (target / "file").read_bytes() == CONTENT
    assert daemon.stats(target)["io_uring"] is False
    assert "no io_uring" not in daemon.log()


def test_a_kernel_that_does_not_offer_it_is_read_and_written_as_ever(
    daemons: Daemons, target: Path, scripted: Mount
) -> None:
    with setting(ENABLE, "N") if not missing() else nullcontext():
        _works_without(daemons(RING), target, scripted)


def test_where_io_uring_is_disabled_the_log_names_the_setting(
    offered: None, daemons: Daemons, target: Path, scripted: Mount
) -> None:
    daemon = daemons(RING)
    with setting(DISABLED, "2"):
        _works_without(daemon, target, scripted, "kernel.io_uring_disabled is 2")


def test_without_memory_for_the_entries_the_mount_works(
    offered: None, daemons: Daemons, target: Path, scripted: Mount
) -> None:
    daemon = daemons(RING)
    # A worker's threads have stacks of 8 MiB; the entries of a ring have a megabyte each.
    most = eventually(lambda: len(_sizes(daemon)) >= 3 and min(_sizes(daemon).values()), "a worker waits for a mount")
    for pid in (daemon.process.pid, *_sizes(daemon)):
        resource.prlimit(pid, resource.RLIMIT_AS, (most + (48 << 20), most + (48 << 20)))
    fs = scripted(target, {Opcode.INIT: large})
    assert (target / "file").read_bytes() == CONTENT
    daemon.has_logged(str(target), "no io_uring", "the ring cannot be made: Cannot allocate memory")
    fs.close()
    eventually(lambda: not daemon.workers(), "the worker has ended")


def _sizes(daemon: Daemon) -> dict[int, int]:
    """Bytes of address space of a daemon and its children, by pid."""
    found = subprocess.run(["pgrep", "-P", str(daemon.process.pid)], capture_output=True, text=True, check=False)
    pids = [daemon.process.pid, *map(int, found.stdout.split())]
    return {each: int(Path(f"/proc/{each}/statm").read_text().split()[0]) * mmap.PAGESIZE for each in pids}


def test_behind_a_device_file_there_is_no_ring_and_the_log_says_so(
    offered: None, daemons: Daemons, target: Path
) -> None:
    daemon = daemons(RING, environment={"PERFUSE_ENDPOINT": "device"})
    daemon.rawfs(target)
    (target / "file").write_text("works")
    daemon.has_logged(str(target), "no io_uring", "device file")
    daemon.ctl("umount", target)


# -- ends --------------------------------------------------------------------------------------------------------------


def test_a_killed_worker_wakes_all_whose_requests_the_ring_held(ring: Daemon, target: Path, scripted: Mount) -> None:
    fs = scripted(target, {Opcode.OPEN: direct, Opcode.READ: lambda *_: None})
    failed: list[int] = []

    def read() -> None:
        fd = -1
        try:
            fd = os.open(target / "file", os.O_RDONLY)
            os.pread(fd, 4096, 0)
        except OSError as bad:
            failed.append(bad.errno or 0)
        with suppress(OSError):
            os.close(fd)

    threads = [threading.Thread(target=read, daemon=True) for _ in range(DEPTH + 4)]
    for each in threads:
        each.start()
    fs.wait_for(Opcode.READ, times=DEPTH)
    os.kill(ring.stats(target)["worker"], 9)
    for each in threads:
        each.join(timeout=20)
        assert not each.is_alive()
    assert len(failed) == len(threads)
    assert fs.ended.wait(10)


def test_a_mount_that_is_aborted_ends_the_worker(ring: Daemon, target: Path, scripted: Mount) -> None:
    scripted(target)
    (target / "file").stat()
    minor = os.stat(target).st_dev
    Path(f"/sys/fs/fuse/connections/{minor}/abort").write_text("1")
    ring.has_logged(str(target), "connection aborted")
    eventually(lambda: not ring.workers(), "the worker has ended")


def test_a_mount_without_the_ring_beside_one_with_it_share_a_daemon(
    daemons: Daemons, tmp_path: Path, scripted: Mount
) -> None:
    if missing():
        pytest.skip(missing())
    (one := tmp_path / "one").mkdir()
    (two := tmp_path / "two").mkdir()
    daemon = daemons(RING)
    with setting(ENABLE, "Y"):
        scripted(one)
        (one / "file").stat()
    with setting(ENABLE, "N"):
        scripted(two)
        (two / "file").stat()
    assert [daemon.stats(each)["io_uring"] for each in (one, two)] == [True, False]
    assert (one / "file").read_bytes() == (two / "file").read_bytes() == CONTENT
