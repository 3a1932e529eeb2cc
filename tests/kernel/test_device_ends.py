"""The device endpoint: what is left when the mount, the filesystem, the worker or the daemon ends."""

import errno
import json
import os
import select
import signal
import threading
import time
from pathlib import Path

import pytest

from libperfuse import perfuse_open
from libperfuse.connection import PerfuseError
from libperfuse.perfuse import kept_connection
from tests.kernel.conftest import Daemon, eventually, fuse_mounts
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
    workers,
)
from wire import codec

__all__ = ["device", "endpoint"]


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
