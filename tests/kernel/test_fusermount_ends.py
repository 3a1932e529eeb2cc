"""perfuse-fusermount3: unmounting, auto_unmount, and devices that are open already."""

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from libperfuse import perfuse_open
from perfused import libc
from tests.kernel.conftest import eventually, fuse_mounts
from tests.kernel.fusermounts import line, serve, target
from tests.kernel.ordinary import FIXTURES, PATIENCE, USER, Ordinary
from tests.kernel.scripted import CONTENT, Scripted

__all__ = ["serve", "target"]


interpreter, daemon_of_all, ordinaries, ordinary = FIXTURES


# -- unmounting --------------------------------------------------------------------------------------------------------


def test_the_user_unmounts(ordinary: Ordinary, target: Path, serve: Callable[[int], Scripted]) -> None:
    fs = serve(ordinary.mounted(target))
    assert ordinary.unmount(target)[:3] == (0, "", "")
    assert fuse_mounts(target) == []
    assert fs.ended.wait(PATIENCE)


def test_the_second_unmount_fails_and_harms_nothing(ordinary: Ordinary, target: Path) -> None:
    ordinary.mounted(target)
    assert ordinary.unmount("-z", target).status == 0
    said = ordinary.unmount(target)
    assert (said.status, said.err) == (
        1, f"fusermount3: entry for {target} not found among the mounts of perfused\n"
    )  # fmt: skip


@pytest.mark.parametrize("options", [("-q", "-z", "--"), ("-qz",), ("--quiet", "--lazy")])
def test_quiet_says_nothing_of_a_mount_that_is_gone(ordinary: Ordinary, target: Path, options: tuple[str, ...]) -> None:
    assert ordinary.unmount(*options, target)[:3] == (1, "", "")


def test_of_two_mounts_on_one_path_the_upper_goes_first(
    ordinary: Ordinary, target: Path, serve: Callable[[int], Scripted]
) -> None:
    serve(ordinary.mounted("-o", "fsname=lower", target, user=0))
    ordinary.mounted("-o", "fsname=upper", target, user=0)
    assert ordinary.unmount(target, user=0).status == 0
    assert line(target)[0] == "lower"
    assert ordinary.unmount(target, user=0).status == 0


def test_a_mount_in_use_goes_only_lazily(ordinary: Ordinary, target: Path, serve: Callable[[int], Scripted]) -> None:
    serve(ordinary.mounted(target))
    script = f"cd {target} && echo in && exec cat"
    inside = subprocess.Popen(
        ["sh", "-c", script], user=USER, group=USER, extra_groups=[], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with inside:
        assert inside.stdout is not None
        assert inside.stdout.readline() == b"in\n"
        said = ordinary.unmount(target)
        assert (said.status, said.err) == (1, f"fusermount3: failed to unmount {target}: Device or resource busy\n")
        assert fuse_mounts(target) == [str(target)]
        assert ordinary.unmount("-z", target).status == 0
        assert fuse_mounts(target) == []
        inside.communicate(b"")


def test_the_mount_of_another_user_stays(ordinary: Ordinary, target: Path) -> None:
    ordinary.mounted(target)
    said = ordinary.unmount(target, user=USER + 1)
    assert (said.status, said.err) == (
        1, f"fusermount3: entry for {target} not found among the mounts of perfused\n"
    )  # fmt: skip
    assert fuse_mounts(target) == [str(target)]


def test_root_unmounts_for_a_user(ordinary: Ordinary, target: Path) -> None:
    ordinary.mounted(target)
    assert ordinary.unmount(target, user=0).status == 0
    assert fuse_mounts(target) == []


def test_a_name_with_spaces_and_backslashes_is_unmounted(ordinary: Ordinary) -> None:
    target = ordinary.target("a b\\040\tc")
    ordinary.mounted(target)
    assert ordinary.unmount(target).status == 0
    said = ordinary.unmount(target)
    assert (said.status, target.name in said.err) == (1, True)


@pytest.mark.parametrize("user", [USER, 0])
def test_what_is_not_of_perfused_stays(ordinary: Ordinary, target: Path, user: int) -> None:
    libc.mount(b"none", os.fsencode(target), b"tmpfs", 0, None)
    try:
        said = ordinary.unmount("-z", target, user=user)
        assert said.status == 1
        assert "not found among the mounts of perfused" in said.err
        assert line(target)[1] == "tmpfs"
    finally:
        libc.umount2(os.fsencode(target), 0)


def test_what_hides_the_mount_stays(ordinary: Ordinary, target: Path) -> None:
    ordinary.mounted(target)
    # Over the parent, and there on the same name: nobody has to look into the mount beneath.
    libc.mount(b"none", os.fsencode(target.parent), b"tmpfs", 0, None)
    try:
        target.mkdir()
        libc.mount(b"none", os.fsencode(target), b"tmpfs", 0, None)
        assert ordinary.unmount("-z", target).status == 1
        assert target.is_mount()
        libc.umount2(os.fsencode(target), 0)
    finally:
        libc.umount2(os.fsencode(target.parent), libc.MNT_DETACH)
    assert ordinary.unmount("-z", target).status == 0


def test_unmounting_without_a_daemon_names_its_socket(ordinary: Ordinary, target: Path, tmp_path: Path) -> None:
    lost = ordinary.script(tmp_path / "lost", f"PERFUSED_SOCKET={tmp_path}/absent")
    said = ordinary.unmount(target, command=lost)
    assert said.status == 1
    assert f"{tmp_path}/absent" in said.err
    assert ordinary.unmount("-q", target, command=lost)[:3] == (1, "", "")


# -- auto_unmount ------------------------------------------------------------------------------------------------------


class Watched:
    """A mount with somebody who waits for the end of its program."""

    def __init__(self, user: Ordinary, *arguments: str | Path) -> None:
        self.ours, theirs = socket.socketpair()
        with theirs:
            self.program = user.start(*arguments, comm=theirs.fileno())
        self.device = user.receive(self.ours)[1] if "--auto-unmount" not in arguments else -1

    def status(self, field: str) -> str:
        """A line of /proc/PID/status."""
        lines = Path(f"/proc/{self.program.pid}/status").read_text().splitlines()
        return next(each.split(":")[1].strip() for each in lines if each.startswith(f"{field}:"))

    def waits(self) -> None:
        """Wait until nothing but the other end of its socket can end it."""
        eventually(lambda: self.status("NSsid") == self.status("NSpid"), "it has a session of its own")
        eventually(lambda: os.readlink(f"/proc/{self.program.pid}/fd/2") == "/dev/null", "it has let go of its output")

    def end(self) -> int:
        """End the program that it watches; its own status."""
        self.ours.close()
        return self.program.wait(PATIENCE)


@pytest.fixture
def watched(ordinary: Ordinary) -> Iterator[Callable[..., Watched]]:
    """Mounts with a watcher."""
    made: list[Watched] = []

    def start(*arguments: str | Path) -> Watched:
        made.append(Watched(ordinary, *arguments))
        return made[-1]

    yield start
    for each in made:
        each.ours.close()
        each.program.communicate(timeout=PATIENCE)


def test_auto_unmount_unmounts_when_the_program_has_ended(
    ordinary: Ordinary, target: Path, watched: Callable[..., Watched]
) -> None:
    mount = watched("-o", "rw,auto_unmount", "--", target)
    mount.waits()
    assert fuse_mounts(target) == [str(target)]
    assert mount.end() == 0
    assert fuse_mounts(target) == []
    os.fstat(mount.device)


def test_auto_unmount_waits_whatever_signal_comes(target: Path, watched: Callable[..., Watched]) -> None:
    mount = watched("-o", "auto_unmount", target)
    mount.waits()
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        assert int(mount.status("SigBlk"), 16) & 1 << each - 1
        mount.program.send_signal(each)
    assert mount.program.poll() is None
    assert mount.end() == 0
    assert fuse_mounts(target) == []


def test_auto_unmount_leaves_what_was_mounted_there_later(
    ordinary: Ordinary, target: Path, watched: Callable[..., Watched]
) -> None:
    mount = watched("-o", "auto_unmount", target)
    mount.waits()
    assert ordinary.unmount("-z", target).status == 0
    ordinary.mounted("-o", "fsname=later", target)
    assert mount.end() == 0
    assert line(target)[0] == "later"


def test_auto_unmount_ends_well_where_the_mount_has_gone_already(
    ordinary: Ordinary, target: Path, watched: Callable[..., Watched]
) -> None:
    mount = watched("-o", "auto_unmount", target)
    mount.waits()
    ordinary.let_go(mount.device)
    eventually(lambda: not fuse_mounts(target), "perfused detaches the mount")
    assert mount.end() == 0


def test_a_mount_that_stands_already_can_be_watched(
    ordinary: Ordinary, target: Path, watched: Callable[..., Watched]
) -> None:
    ordinary.mounted(target)
    mount = watched("--auto-unmount", "--", target)
    mount.waits()
    assert mount.end() == 0
    assert fuse_mounts(target) == []


def test_what_is_not_of_perfused_is_not_watched(ordinary: Ordinary, target: Path) -> None:
    assert "not found among the mounts of perfused" in ordinary.refused("--auto-unmount", "--", target)


# -- a device that is open already -------------------------------------------------------------------------------------


def test_a_device_that_the_program_has_open_is_mounted(
    ordinary: Ordinary, target: Path, serve: Callable[[int], Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERFUSE_ENDPOINT", "socket")
    device = perfuse_open("/dev/fuse")
    ordinary.devices.append(device)
    said = ordinary.run(
        "-o", "fsname=brick,nonempty,subtype=glusterfs,max_read=131072", "--", target,
        user=0, environment={"_FUSE_DEVFD": str(device)}, pass_fds=(device,),
    )  # fmt: skip
    assert (said.status, said.err, said.data) == (0, "", b"")
    assert line(target)[:2] == ("brick", "fuse.glusterfs")
    serve(device)
    assert (target / "file").read_bytes() == CONTENT


def test_a_device_is_mounted_with_the_rights_of_who_opened_it(
    ordinary: Ordinary, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERFUSE_ENDPOINT", "socket")
    device = perfuse_open("/dev/fuse")
    ordinary.devices.append(device)
    said = ordinary.run(target, environment={"_FUSE_DEVFD": str(device)}, pass_fds=(device,))
    assert (said.status, said.err) == (0, "")
    assert "user_id=0" in line(target)[2]


def test_the_kernels_device_is_not_mounted(ordinary: Ordinary, target: Path) -> None:
    device = os.open("/dev/fuse", os.O_RDWR)
    try:
        said = ordinary.refused(target, environment={"_FUSE_DEVFD": str(device)}, pass_fds=(device,))
    finally:
        os.close(device)
    assert "no device of perfused's" in said


@pytest.mark.parametrize("number", ["99", "x", "0"])
def test_what_is_no_device_is_not_mounted(ordinary: Ordinary, target: Path, number: str) -> None:
    assert "no device of perfused's" in ordinary.refused(target, environment={"_FUSE_DEVFD": number})
