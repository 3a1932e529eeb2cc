"""Every way a mount can end: nobody stays stuck, nothing stays mounted that nobody serves, a line says why."""

import errno
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernel.conftest import Daemon, eventually, fuse_mounts
from tests.kernel.scripted import CONTENT, DEFAULTS, Scripted
from wire.opcodes import Opcode


def test_umount_ends_the_worker_and_the_filesystem(daemon: Daemon, target: Path) -> None:
    rawfs = daemon.rawfs(target)
    subprocess.run(["umount", target], check=True)
    assert rawfs.wait(timeout=10) == 0
    daemon.has_logged(str(target), "ended: unmounted")
    eventually(lambda: not daemon.workers(), "the worker has ended")


def test_perfusectl_umount_refuses_a_mount_in_use_and_leaves_it_working(daemon: Daemon, target: Path) -> None:
    rawfs = daemon.rawfs(target)
    with open(target / "open", "w") as held:
        refused = daemon.ctl("umount", target, check=False)
        assert refused.returncode == 1
        assert "in use" in refused.stderr
        held.write("still here")
        held.flush()
        assert (target / "open").read_text() == "still here"
    daemon.ctl("umount", target)
    assert rawfs.wait(timeout=10) == 0


def test_a_lazily_unmounted_filesystem_serves_open_files_until_they_are_closed(daemon: Daemon, target: Path) -> None:
    rawfs = daemon.rawfs(target)
    with open(target / "open", "w+") as held:
        daemon.ctl("umount", "--lazy", target)
        assert fuse_mounts(target) == []
        held.write("data")
        held.flush()
        held.seek(0)
        assert held.read() == "data"
        assert rawfs.poll() is None
    assert rawfs.wait(timeout=10) == 0


def test_a_forced_umount_aborts_what_is_under_way(
    daemon: Daemon, target: Path, scripted: Callable[..., Scripted]
) -> None:
    fs = scripted(target, {Opcode.READ: lambda *_: None})
    result: list[int] = []
    reader = threading.Thread(target=lambda: result.append(_errno(lambda: (target / "file").read_bytes())))
    reader.start()
    fs.wait_for(Opcode.READ)
    daemon.ctl("umount", "--force", target)
    reader.join(timeout=10)
    assert not reader.is_alive()
    assert result[0] in (errno.ECONNABORTED, errno.ENOTCONN, errno.EIO)
    assert fuse_mounts(target) == []


def _errno(call: Callable[[], object]) -> int:
    try:
        call()
    except OSError as bad:
        return bad.errno or -1
    return 0


def test_a_filesystem_that_exits_takes_its_mount_with_it(
    daemon: Daemon, target: Path, scripted: Callable[..., Scripted]
) -> None:
    fs = scripted(target)
    assert (target / "file").stat().st_size
    fs.close()
    eventually(lambda: not fuse_mounts(target), "the mount is gone")
    daemon.has_logged(str(target), "the filesystem closed its device")
    assert os.listdir(target) == []


def test_a_killed_filesystem_takes_its_mount_with_it_and_wakes_its_callers(daemon: Daemon, target: Path) -> None:
    stuck = daemon.faulty("stuck", target)
    result: list[int] = []
    reader = threading.Thread(target=lambda: result.append(_errno(lambda: (target / "hello").read_bytes())))
    reader.start()
    eventually(lambda: daemon.stats(target)["in_flight"], "a request is in flight")
    stuck.kill()
    stuck.wait()
    reader.join(timeout=10)
    assert not reader.is_alive()
    assert result[0]
    eventually(lambda: not fuse_mounts(target), "the mount is gone")


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6])
def test_a_filesystem_that_crashes_on_any_request_leaves_no_mount(daemon: Daemon, target: Path, number: int) -> None:
    crash = daemon.faulty("crash", str(number), target)
    for _ in range(20):
        if _errno(lambda: (target / "hello").read_bytes()):
            break
        _errno(lambda: os.listdir(target))
    assert crash.wait(timeout=10) != 0
    eventually(lambda: not fuse_mounts(target), "the mount is gone")


def test_a_killed_worker_leaves_no_mount_and_other_mounts_unharmed(daemon: Daemon, tmp_path: Path) -> None:
    (one := tmp_path / "one").mkdir()
    (two := tmp_path / "two").mkdir()
    first, second = daemon.rawfs(one), daemon.rawfs(two)
    (two / "kept").write_text("kept")
    os.kill(daemon.stats(one)["worker"], signal.SIGKILL)
    eventually(lambda: fuse_mounts(tmp_path) == [str(two)], "only the other mount is left")
    daemon.has_logged(str(one), "the worker was killed by SIGKILL")
    assert first.wait(timeout=10) == 0
    assert (two / "kept").read_text() == "kept"
    daemon.ctl("umount", two)
    second.wait(timeout=10)


def test_sigterm_unmounts_everything_even_what_is_in_use(daemon: Daemon, tmp_path: Path) -> None:
    targets = [tmp_path / name for name in ("one", "two", "three")]
    for each in targets:
        each.mkdir()
    programs = [daemon.rawfs(each) for each in targets]
    held = os.open(targets[0] / "open", os.O_CREAT | os.O_WRONLY)
    assert daemon.stop() == 0
    _errno(lambda: os.close(held))
    assert fuse_mounts(tmp_path) == []
    for program in programs:
        assert program.wait(timeout=10) == 0


def test_sigterm_ends_a_mount_whose_filesystem_is_stuck(daemon: Daemon, target: Path) -> None:
    stuck = daemon.faulty("stuck", target)
    reader = subprocess.Popen(["cat", target / "hello"], stderr=subprocess.DEVNULL)
    eventually(lambda: daemon.stats(target)["in_flight"], "a request is in flight")
    assert daemon.stop() == 0
    assert reader.wait(timeout=10) != 0
    assert fuse_mounts(target) == []
    stuck.kill()
    stuck.wait()


def test_a_killed_daemon_leaves_no_mount_behind(daemon: Daemon, tmp_path: Path) -> None:
    targets = [tmp_path / name for name in ("one", "two")]
    for each in targets:
        each.mkdir()
    programs = [daemon.rawfs(each) for each in targets]
    daemon.process.kill()
    daemon.process.wait()
    eventually(lambda: not fuse_mounts(tmp_path), "the keeper has unmounted everything")
    for program in programs:
        assert program.wait(timeout=10) == 0
    daemon.has_logged("is gone; unmounting 2 mounts")


def test_a_killed_daemon_and_keeper_leave_nobody_stuck(daemon: Daemon, target: Path) -> None:
    stuck = daemon.faulty("stuck", target)
    reader = subprocess.Popen(["cat", target / "hello"], stderr=subprocess.DEVNULL)
    eventually(lambda: daemon.stats(target)["in_flight"], "a request is in flight")
    os.killpg(daemon.process.pid, signal.SIGKILL)
    daemon.process.wait()
    assert reader.wait(timeout=10) != 0
    stuck.kill()
    stuck.wait()
    subprocess.run(["umount", "-l", target], check=True)


def test_a_killed_keeper_is_replaced_and_still_unmounts(daemon: Daemon, target: Path) -> None:
    rawfs = daemon.rawfs(target)

    def keepers() -> list[int]:
        found = subprocess.run(
            ["pgrep", "-P", str(daemon.process.pid), "-x", "perfused-keeper"],
            capture_output=True, text=True, check=False,
        ).stdout  # fmt: skip
        return [int(pid) for pid in found.split()]

    (first,) = keepers()
    os.kill(first, signal.SIGKILL)
    daemon.has_logged("the keeper was killed by SIGKILL; starting another")
    eventually(lambda: keepers() and keepers() != [first], "another keeper")
    daemon.process.kill()
    daemon.process.wait()
    eventually(lambda: not fuse_mounts(target), "the new keeper has unmounted")
    assert rawfs.wait(timeout=10) == 0


def test_killing_a_caller_of_a_stuck_filesystem_ends_it_and_the_mount_stays(
    daemons: Callable[..., Daemon], target: Path, scripted: Callable[..., Scripted]
) -> None:
    daemon = daemons("[requests]\nkilled_grace = 0.3\n")
    answers = [False]
    fs = scripted(
        target, {Opcode.READ: lambda fs, head, body: DEFAULTS[Opcode.READ](fs, head, body) if answers[0] else None}
    )
    reader = subprocess.Popen(["cat", target / "file"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    fs.wait_for(Opcode.READ)
    time.sleep(0.1)
    reader.kill()
    assert reader.wait(timeout=10) == -signal.SIGKILL
    daemon.has_logged("READ", "answered EINTR (caller killed)")
    answers[0] = True
    assert (target / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("endpoint", ["socket", "direct"])
def test_two_mounts_on_one_path_unmount_one_by_one(
    daemon: Daemon, target: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.environment["PERFUSE_ENDPOINT"] = endpoint
    lower, upper = daemon.rawfs(target), daemon.rawfs(target)
    (target / "upper").write_text("upper")
    daemon.ctl("umount", target)
    assert upper.wait(timeout=10) == 0
    assert os.listdir(target) == []
    daemon.ctl("umount", target)
    assert lower.wait(timeout=10) == 0
