"""A filesystem in Python on the real kernel, through perfused, through a private one, and on /dev/fuse itself."""

import asyncio
import contextlib
import errno
import logging
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from libperfuse import Dirent, Entry, FuseError, Nodes, Operations, Request, Session, mounting
from perfused import libc
from tests.kernel.conftest import eventually, fuse_mounts
from wire import codec
from wire.flags import OpenFlag, PollFlag

VIAS = ("kernel", "perfused", "private")
CONTENT = b"0123456789abcdef" * 256


class Tree(Operations):
    """A directory of a few files; what `does` says of a name happens when it is looked up."""

    def __init__(self, does: dict[str, Callable[[Request], object]] | None = None) -> None:
        self.does = does or {}
        self.names = [b"file", b"other"]
        self.nodes: Nodes[bytes] = Nodes(b"")
        self.most: set[int] = set()
        self.destroyed = 0
        self.asked: list[str] = []
        self.polled: dict[int, int] = {}
        self.valid = 0

    def destroy(self) -> None:
        self.destroyed += 1

    def forget(self, nodeid: int, nlookup: int) -> None:
        self.nodes.forget(nodeid, nlookup)

    def _attr(self, nodeid: int) -> codec.Attr:
        name = self.nodes[nodeid]
        mode = 0o100644 if name else 0o40755
        return codec.attr.make(ino=nodeid, mode=mode, nlink=1, size=len(CONTENT), blksize=4096)

    def _entry(self, name: bytes) -> codec.EntryOut:
        nodeid, _ = self.nodes.enter(name, lambda: name)
        self.most.add(nodeid)
        return codec.entry_out.make(
            nodeid=nodeid, attr=self._attr(nodeid), entry_valid=self.valid, attr_valid=self.valid
        )

    def lookup(self, request: Request, name: bytes) -> codec.EntryOut:
        self.asked.append(name.decode())
        if name.decode() in self.does:
            self.does[name.decode()](request)
        if name not in self.names:
            raise FuseError(errno.ENOENT)
        return self._entry(name)

    def getattr(self, request: Request, arg: codec.GetattrIn) -> codec.AttrOut:
        return codec.attr_out.make(attr=self._attr(request.nodeid), attr_valid=self.valid)

    def open(self, request: Request, arg: codec.OpenIn) -> codec.OpenOut:
        self.nodes[request.nodeid]
        flags = OpenFlag.DIRECT_IO | OpenFlag.NONSEEKABLE if self.nodes[request.nodeid] == b"other" else OpenFlag(0)
        return codec.open_out.make(fh=7, open_flags=int(flags | OpenFlag.KEEP_CACHE))

    def read(self, request: Request, arg: codec.ReadIn) -> bytes:
        self.asked.append("READ")
        return CONTENT[arg.offset :][: arg.size]

    def poll(self, request: Request, arg: codec.PollIn) -> int:
        ready = self.polled.get(0, 0)
        if arg.flags & PollFlag.SCHEDULE_NOTIFY:
            self.polled[arg.kh] = 1
        return ready

    def readdirplus(self, request: Request, arg: codec.ReadIn) -> Iterator[Entry]:
        for at, name in enumerate(self.names):
            if at >= arg.offset:
                entry = self._entry(name)
                yield Entry(entry, entry.nodeid, at + 1, 8, name)

    def readdir(self, request: Request, arg: codec.ReadIn) -> list[Dirent]:
        return [Dirent(2, at + 1, 8, name) for at, name in enumerate(self.names)][arg.offset :]


Mounted = Callable[..., Any]


@pytest.fixture(params=VIAS)
def via(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> mounting.Via:
    """Each way to a device; the daemon listens where it is perfused's."""
    if request.param == "perfused":
        request.getfixturevalue("daemon")
    elif request.param == "private":
        monkeypatch.delenv("PERFUSE_NO_PRIVATE", raising=False)
    kind: mounting.Via = request.param
    return kind


def test_a_filesystem_is_mounted_served_and_unmounted(via: mounting.Via, target: Path) -> None:
    fs = Tree()
    with Session(fs, target, via=via, source="tree") as session:
        assert sorted(os.listdir(target)) == ["file", "other"]
        assert (target / "file").read_bytes() == CONTENT
        with pytest.raises(FileNotFoundError):
            os.stat(target / "none")
        line = next(line for line in Path("/proc/mounts").read_text().splitlines() if f" {target} " in line)
        assert line.split()[0::2][:2] == ["tree", "fuse.tree"]
    assert session.join(0)
    assert not fuse_mounts(target)
    assert fs.destroyed == 1


@pytest.mark.parametrize("threads", [1, 4])
def test_what_the_kernel_forgets_is_what_it_looked_up(via: mounting.Via, target: Path, threads: int) -> None:
    fs = Tree()
    fs.valid = 60
    with Session(fs, target, via=via, threads=threads):
        os.listdir(target)
        for _ in range(3):
            os.stat(target / "file")
        assert sum(fs.nodes.count(each) for each in fs.nodes if each != 1) > 0
        Path("/proc/sys/vm/drop_caches").write_text("2")
        eventually(lambda: len(fs.nodes) == 1, "all nodes but the root are forgotten")
        os.stat(target / "file")
    # Linux sends no FORGET when it unmounts; the count is what it still held.
    fs.nodes.clear()
    assert list(fs.nodes) == [1]


def test_a_node_that_was_never_issued_is_stale(target: Path) -> None:
    fs = Tree()
    with pytest.raises(FuseError) as caught:
        fs.nodes[99]
    assert caught.value.errno == errno.ESTALE


RAISES: list[tuple[BaseException, int]] = [
    (FuseError(errno.ENODATA), errno.ENODATA), (PermissionError(), errno.EACCES), (KeyError("bug"), errno.EIO),
    (SystemExit(), errno.EIO), (KeyboardInterrupt(), errno.EIO), (OSError(512, "x"), errno.EIO),
]  # fmt: skip


def test_a_method_that_raises_is_an_errno_and_the_others_are_served(via: mounting.Via, target: Path) -> None:
    logging.getLogger("libperfuse").addHandler(quiet := logging.NullHandler())
    logging.getLogger("libperfuse").propagate = False

    def raiser(bad: BaseException) -> Callable[[Request], object]:
        def work(request: Request) -> object:
            raise bad

        return work

    try:
        with Session(Tree({f"{at}": raiser(bad) for at, (bad, _) in enumerate(RAISES)}), target, via=via):
            for at, (_, code) in enumerate(RAISES):
                with pytest.raises(OSError) as caught:
                    os.stat(target / f"{at}")
                assert caught.value.errno == code
            assert (target / "file").read_bytes() == CONTENT
    finally:
        logging.getLogger("libperfuse").removeHandler(quiet)
        logging.getLogger("libperfuse").propagate = True


def test_a_method_that_waits_does_not_keep_others_waiting(via: mounting.Via, target: Path) -> None:
    entered, go = threading.Event(), threading.Event()

    def wait(request: Request) -> None:
        entered.set()
        assert go.wait(30)

    with Session(Tree({"slow": wait}), target, via=via, threads=2):
        slow = threading.Thread(target=lambda: os.path.exists(target / "slow"))
        slow.start()
        assert entered.wait(30)
        assert (target / "other").exists()
        go.set()
        slow.join(30)


@pytest.mark.parametrize("coroutine", [False, True])
def test_a_killed_caller_interrupts_the_method_that_it_waits_for(
    via: mounting.Via, target: Path, coroutine: bool
) -> None:
    entered, left = threading.Event(), threading.Event()

    class Slow(Tree):
        def lookup(self, request: Request, name: bytes) -> Any:
            if name != b"slow":
                return super().lookup(request, name)
            entered.set()
            try:
                request.sleep(60)
            except InterruptedError:
                left.set()
                raise

    class SlowToo(Tree):
        async def lookup(self, request: Request, name: bytes) -> Any:  # type: ignore[override]
            if name != b"slow":
                return super().lookup(request, name)
            entered.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                left.set()
                raise

    with Session(SlowToo() if coroutine else Slow(), target, via=via, threads=2):
        caller = subprocess.Popen([sys.executable, "-c", f"import os; os.stat({str(target / 'slow')!r})"])
        assert entered.wait(30)
        caller.kill()
        assert left.wait(30)
        assert caller.wait(30) == -9


def test_a_poll_is_woken(via: mounting.Via, target: Path) -> None:
    fs = Tree()
    with Session(fs, target, via=via) as session:
        fd = os.open(target / "file", os.O_RDONLY)
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        assert poll.poll(0) == []
        waiting = threading.Thread(target=lambda: poll.poll(30_000))
        waiting.start()
        eventually(lambda: fs.polled, "the kernel waits for a notification")
        fs.polled[0] = select.POLLIN
        for kh in [each for each in fs.polled if each]:
            session.notify.poll(kh)
        waiting.join(20)
        assert not waiting.is_alive()
        os.close(fd)


def test_stored_data_is_read_and_retrieved(via: mounting.Via, target: Path) -> None:
    fs = Tree()
    fs.valid = 60
    with Session(fs, target, via=via) as session, (target / "file").open("rb", buffering=0) as file:
        nodeid = os.fstat(file.fileno()).st_ino
        session.notify.store(nodeid, 0, b"x" * 4096)
        eventually(lambda: os.pread(file.fileno(), 4, 0) == b"xxxx", "the stored data is in the cache")
        assert session.notify.retrieve(nodeid, 0, 4096).result(20) == (0, b"x" * 4096)
        session.notify.inval_inode(nodeid)
        eventually(lambda: os.pread(file.fileno(), 4, 0) == CONTENT[:4], "the cached data is gone")


@pytest.mark.parametrize("how", ["inval_entry", "delete", "inc_epoch", "prune"])
def test_entries_that_are_told_of_are_looked_up_again(via: mounting.Via, target: Path, how: str) -> None:
    fs = Tree()
    fs.valid = 600
    with Session(fs, target, via=via) as session:
        nodeid = os.stat(target / "file").st_ino
        os.stat(target / "file")
        assert fs.asked.count("file") == 1
        tell: dict[str, Callable[[], None]] = {
            "inval_entry": lambda: session.notify.inval_entry(1, b"file"),
            "delete": lambda: session.notify.delete(1, nodeid, b"file"),
            "inc_epoch": session.notify.inc_epoch,
            "prune": lambda: session.notify.prune([nodeid]),
        }
        tell[how]()

        def again() -> bool:
            with contextlib.suppress(FileNotFoundError):
                os.stat(target / "file")
            return fs.asked.count("file") > 1

        eventually(again, "the name is looked up again")


def test_what_the_kernel_refuses_of_a_notification_is_an_oserror(target: Path) -> None:
    with Session(Tree(), target, via="kernel") as session:
        os.stat(target)
        for send in (lambda: session.notify.inval_inode(99), lambda: session.notify.inval_entry(1, b"no")):
            with pytest.raises(OSError) as caught:
                send()
            assert caught.value.errno == errno.ENOENT


def test_requests_under_way_are_sent_again_on_resend(target: Path) -> None:
    entered, uniques = threading.Semaphore(0), []
    go = threading.Event()

    def wait(request: Request) -> None:
        uniques.append(request.unique)
        entered.release()
        assert go.wait(30)

    with Session(Tree({"slow": wait}), target, via="kernel", threads=3) as session:
        slow = threading.Thread(target=lambda: os.path.exists(target / "slow"))
        slow.start()
        assert entered.acquire(timeout=30)
        session.notify.resend()
        assert entered.acquire(timeout=30)
        go.set()
        slow.join(30)
        assert not slow.is_alive()
    assert uniques[1] == uniques[0] | 1 << 63


def test_several_sessions_of_one_process_are_apart(via: mounting.Via, tmp_path: Path) -> None:
    targets = [tmp_path / f"mnt{number}" for number in range(3)]
    with contextlib.ExitStack() as stack:
        for each in targets:
            each.mkdir()
            stack.enter_context(Session(Tree(), each, via=via, threads=2))
        for each in targets:
            assert (each / "file").read_bytes() == CONTENT
        libc.umount2(os.fsencode(targets[1]), 0)
        assert (targets[2] / "file").read_bytes() == CONTENT


def test_fifty_mounts_leave_no_thread_and_no_descriptor(target: Path) -> None:
    def held() -> int:
        return len(os.listdir("/proc/self/fd"))

    with Session(Tree(), target, via="kernel"):
        os.stat(target)
    before = held()
    for number in range(50):
        with Session(Tree(), target, via="kernel", threads=1 + number % 4):
            os.stat(target / "file")
    eventually(lambda: not [each for each in threading.enumerate() if each.name.startswith("fuse")], "no thread left")
    assert held() == before


def test_a_file_may_be_a_mountpoint(tmp_path: Path) -> None:
    class One(Operations):
        def getattr(self, request: Request, arg: codec.GetattrIn) -> codec.AttrOut:
            return codec.attr_out.make(attr=codec.attr.make(ino=1, mode=0o100644, nlink=1, size=3))

        def read(self, request: Request, arg: codec.ReadIn) -> bytes:
            return b"one"[arg.offset :]

    (tmp_path / "file").write_text("below")
    with Session(One(), tmp_path / "file", via="kernel"):
        assert (tmp_path / "file").read_text() == "one"
    assert (tmp_path / "file").read_text() == "below"


def test_a_socket_is_no_mountpoint(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "s"))
        with pytest.raises(NotADirectoryError):
            Session(Tree(), tmp_path / "s", via="kernel").start()
