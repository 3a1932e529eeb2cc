"""How a session of the Python server ends: by a signal, busy, covered, moved, hung, or with its daemon."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from libperfuse import FuseError, Init, Request, Session, mounting, run, serve
from libperfuse import session as session_module
from perfused import libc
from tests.kernel.conftest import ROOT, Daemon, eventually, fuse_mounts
from tests.kernel.test_server import CONTENT, Tree, via

__all__ = ["via"]
PROGRAM = """
import logging, sys, time
from libperfuse import Session, run
from tests.kernel.test_server import Tree
logging.basicConfig(level=logging.INFO)
run(*(Session(Tree({"hang": lambda request: time.sleep(60)}), each, via=sys.argv[1]) for each in sys.argv[2:]))
"""


def _program(via: str, *targets: Path) -> "subprocess.Popen[str]":
    made = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, via, *targets], cwd=ROOT, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    for each in targets:
        eventually(lambda each=each: fuse_mounts(each) or made.poll() is not None, f"{each} is mounted")  # type: ignore[misc]
        assert (each / "file").read_bytes() == CONTENT
    return made


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_unmounts_all_sessions_of_run(via: mounting.Via, tmp_path: Path, number: signal.Signals) -> None:
    targets = [tmp_path / "a", tmp_path / "b"]
    for each in targets:
        each.mkdir()
    with _program(via, *targets) as program:
        program.send_signal(number)
        assert program.wait(20) == 0
    assert not fuse_mounts(tmp_path)


def test_a_mount_in_use_is_detached_and_served_until_its_last_user_goes(via: mounting.Via, target: Path) -> None:
    with _program(via, target) as program:
        file = os.open(target / "other", os.O_RDONLY)
        program.send_signal(signal.SIGTERM)
        eventually(lambda: not fuse_mounts(target), "the mount is detached")
        assert os.read(file, 4) == CONTENT[:4]
        assert program.poll() is None
        os.close(file)
        assert program.wait(20) == 0


def test_a_second_signal_ends_a_mount_in_use_at_once(via: mounting.Via, target: Path) -> None:
    with _program(via, target) as program:
        file = os.open(target / "other", os.O_RDONLY)
        program.send_signal(signal.SIGTERM)
        eventually(lambda: not fuse_mounts(target), "the mount is detached")
        program.send_signal(signal.SIGTERM)
        assert program.wait(20) == 0
        with pytest.raises(OSError):
            os.read(file, 4)
        os.close(file)


def test_a_session_ends_when_it_is_unmounted_from_outside(via: mounting.Via, target: Path) -> None:
    session = Session(Tree(), target, via=via)
    session.start()
    os.stat(target / "file")
    libc.umount2(os.fsencode(target), 0)
    assert session.join(20)


def test_a_session_ends_when_its_daemon_dies(daemon: Daemon, target: Path) -> None:
    session = Session(Tree(), target, via="perfused")
    session.start()
    os.stat(target / "file")
    for each in daemon.workers():
        os.kill(each, signal.SIGKILL)
    assert session.join(20)
    eventually(lambda: not fuse_mounts(target), "the daemon has detached the mount")


def test_run_takes_the_others_down_when_one_cannot_be_mounted(via: mounting.Via, target: Path, tmp_path: Path) -> None:
    first = Session(Tree(), target, via=via)
    with pytest.raises(FileNotFoundError):
        run(first, Session(Tree(), tmp_path / "none", via=via))
    assert first.join(0)
    assert not fuse_mounts(tmp_path)


def test_a_filesystem_whose_init_fails_is_unmounted_and_says_why(via: mounting.Via, target: Path) -> None:
    class Failing(Tree):
        def init(self, init: Init) -> None:
            raise FuseError(errno.EPROTO, "no")

    with pytest.raises(FuseError, match="no"):
        run(Session(Failing(), target, via=via))
    eventually(lambda: not fuse_mounts(target), "it is unmounted")


def _stacked(target: Path) -> None:
    libc.mount(b"over", os.fsencode(target), b"tmpfs", 0, None)


def test_what_lies_on_the_mount_is_left_alone_and_the_mount_ends_all_the_same(
    via: mounting.Via, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "PATIENCE", 0.2)
    with Session(Tree(), target, via=via) as session:
        os.stat(target)
        _stacked(target)
    assert session.join(20)
    try:
        (target / "file on top").touch()
    finally:
        libc.umount2(os.fsencode(target), 0)
        for _ in fuse_mounts(target):
            libc.umount2(os.fsencode(target), libc.MNT_DETACH)


def test_a_mount_that_was_moved_is_unmounted_where_it_is(target: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    with Session(Tree(), target, via="kernel"):
        subprocess.run(["mount", "--move", target, tmp_path / "elsewhere"], check=True)
        assert (tmp_path / "elsewhere/file").read_bytes() == CONTENT
    assert not fuse_mounts(tmp_path)


NAMES = ["with space", "tab\tand\nnewline", "back\\slash\\040", os.fsdecode(b"\xff\xfe"), "vt\x0b\r", "#"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_any_name_may_be_a_mountpoint(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with Session(Tree(), tmp_path / name, via="kernel") as session:
        assert (tmp_path / name / "file").read_bytes() == CONTENT
    assert session.join(0)
    assert not fuse_mounts(tmp_path)


@pytest.mark.parametrize("name", ["mnt", "link", "./mnt/", "mnt/../link"])
def test_a_relative_or_linked_mountpoint_is_unmounted_after_chdir(
    tmp_path: Path, target: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to("mnt")
    monkeypatch.chdir(tmp_path)
    with Session(Tree(), name, via="kernel") as session:
        assert (target / "file").read_bytes() == CONTENT
        monkeypatch.chdir("/")
    assert session.join(0)
    assert not fuse_mounts(tmp_path)


@pytest.mark.parametrize("name", ["none", "link to none"])
def test_a_mountpoint_that_is_not_there_is_an_error_with_its_name(via: mounting.Via, tmp_path: Path, name: str) -> None:
    (tmp_path / "link to none").symlink_to("none")
    with pytest.raises(FileNotFoundError, match=name):
        Session(Tree(), tmp_path / name, via=via).start()


@pytest.mark.parametrize("options", [["no_such_option"], ["blksize=512"], ["max_read=x"]])
def test_an_option_that_the_kernel_refuses_is_an_error_that_names_it(target: Path, options: list[str]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=options[0]) as caught:
        Session(Tree(), target, via="kernel", options=options).start()
    assert caught.value.errno == errno.EINVAL
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("options", [["fd=3"], ["ro,nosuid"], [""], ["rootmode=40000"]])
def test_an_option_that_is_none_is_refused_before_anything_is_opened(target: Path, options: list[str]) -> None:
    with pytest.raises(OSError, match="mount option") as caught:
        Session(Tree(), target, via="kernel", options=options).start()
    assert caught.value.errno == errno.EINVAL


def test_options_reach_the_mount(via: mounting.Via, target: Path) -> None:
    with Session(Tree(), target, via=via, options=["ro", "noexec", "default_permissions", "max_read=65536"]):
        line = next(line for line in Path("/proc/mounts").read_text().splitlines() if f" {target} " in line)
        words = line.split()[3].split(",")
        assert {"ro", "noexec", "default_permissions", "max_read=65536"} <= set(words)


def test_a_method_that_hangs_and_its_caller_are_let_go_in_the_end(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "PATIENCE", 0.2)
    entered, go, got = threading.Event(), threading.Event(), []

    def hang(request: Request) -> None:
        entered.set()
        go.wait(50)

    def call() -> None:
        try:
            os.stat(target / "hang")
        except OSError as bad:
            got.append(bad.errno)

    caller = threading.Thread(target=call)
    with Session(Tree({"hang": hang}), target, via="kernel") as session:
        caller.start()
        assert entered.wait(20)
    caller.join(20)
    go.set()
    assert session.join(0)
    assert got in ([errno.ECONNABORTED], [errno.ENOTCONN])


class Slow(Tree):
    """`slow` takes its time, as a coroutine."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = asyncio.Event()
        self.cancelled = False

    async def lookup(self, request: Request, name: bytes) -> Any:  # type: ignore[override]
        if name == b"slow":
            self.entered.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled = True
                raise
        return super().lookup(request, name)


@pytest.mark.parametrize("cancels", [1, 2])
def test_serve_that_is_cancelled_unmounts(via: mounting.Via, target: Path, cancels: int) -> None:
    async def work() -> None:
        session = Session(Slow(), target, via=via)
        serving = asyncio.ensure_future(serve(session))
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, eventually, lambda: fuse_mounts(target), "it is mounted")
        assert await loop.run_in_executor(None, (target / "file").read_bytes) == CONTENT
        for _ in range(cancels):
            serving.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await serving
        for each in asyncio.all_tasks() - {asyncio.current_task()}:
            each.cancel()
        assert await loop.run_in_executor(None, session.join, 20)

    asyncio.run(work())
    eventually(lambda: not fuse_mounts(target), "it is unmounted")


def test_serve_that_is_cancelled_cancels_methods_under_way(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("libperfuse.running.PATIENCE", 0.2)

    async def work() -> bool:
        fs = Slow()
        serving = asyncio.ensure_future(serve(Session(fs, target, via="kernel")))
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, eventually, lambda: fuse_mounts(target), "it is mounted")
        caller = loop.run_in_executor(None, os.path.exists, target / "slow")
        await asyncio.wait_for(fs.entered.wait(), 20)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        await asyncio.wait_for(caller, 20)
        return fs.cancelled

    assert asyncio.run(work())
