"""perfuse-fusermount3: what it refuses, in the words that programs look for; its command line."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernel.conftest import ROOT, eventually, fuse_mounts
from tests.kernel.fusermounts import line, target
from tests.kernel.ordinary import FIXTURES, PATIENCE, USER, Ordinary

__all__ = ["target"]


interpreter, daemon_of_all, ordinaries, ordinary = FIXTURES


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_mountpoint_that_is_missing_is_refused_in_the_words_programs_look_for(ordinary: Ordinary) -> None:
    path = ordinary.place / "nowhere"
    assert ordinary.refused(path) == f"failed to access mountpoint {path}: No such file or directory"


def test_a_mountpoint_in_a_directory_that_is_missing_is_refused(ordinary: Ordinary) -> None:
    path = ordinary.place / "nowhere" / "mnt"
    assert ordinary.refused(path) == f"bad mount point {path}: No such file or directory"


def test_a_mountpoint_behind_a_closed_directory_is_refused(ordinary: Ordinary) -> None:
    ordinary.place.chmod(0)
    assert ordinary.refused(ordinary.place / "mnt").endswith(": Permission denied")


def test_an_empty_mountpoint_is_refused(ordinary: Ordinary) -> None:
    assert ordinary.refused("") == "invalid mountpoint ''"


@pytest.mark.parametrize("mode", [0o755, 0o777, 0o1777], ids=["closed", "open to all", "sticky"])
def test_a_mountpoint_of_somebody_elses_is_refused(ordinary: Ordinary, target: Path, mode: int) -> None:
    os.chown(target, 0, 0)
    target.chmod(mode)
    assert f"the target belongs to uid 0, not to {USER}" in ordinary.refused(target)


def test_a_mountpoint_that_is_not_writable_is_refused(ordinary: Ordinary, target: Path) -> None:
    target.chmod(0o500)
    assert "not writable" in ordinary.refused(target)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("mnt", path)], ids=["fifo", "symbolic link"])
def test_a_mountpoint_that_is_neither_file_nor_directory_is_refused(
    ordinary: Ordinary, target: Path, make: Callable[[Path], None]
) -> None:
    path = target.parent / "special"
    make(path)
    os.chown(path, USER, USER, follow_symlinks=False)
    assert "neither a directory nor a regular file" in ordinary.refused(path)


def test_a_filesystem_that_nobody_mounts_over_is_refused(ordinary: Ordinary) -> None:
    assert "is not one that users mount over" in ordinary.refused("-o", "ro", "task", cwd="/proc/self")


def test_allow_other_is_refused_without_configuration(ordinary: Ordinary, target: Path) -> None:
    assert "policy.allow_other" in ordinary.refused("-o", "allow_other", target)


def test_allow_other_is_for_those_whom_the_configuration_names(ordinaries: Callable[..., Ordinary]) -> None:
    user = ordinaries(f'[policy]\nallow_other = ["{USER}"]\n')
    user.mounted("-o", "allow_other", target := user.target())
    assert "allow_other" in line(target)[2]


def test_more_mounts_than_a_user_may_have_are_refused(ordinaries: Callable[..., Ordinary]) -> None:
    user = ordinaries("[policy]\nmounts_per_user = 1\n")
    user.mounted(user.target("one"))
    assert "policy.mounts_per_user" in user.refused(user.target("two"))


def test_without_a_daemon_its_socket_is_named(ordinary: Ordinary, target: Path, tmp_path: Path) -> None:
    absent = tmp_path / "absent.sock"
    assert str(absent) in ordinary.refused(
        target, command=ordinary.script(tmp_path / "lost", f"PERFUSED_SOCKET={absent}")
    )


def test_without_an_environment_the_default_socket_is_asked(ordinary: Ordinary, target: Path) -> None:
    become = f"exec setpriv --reuid {USER} --regid {USER} --clear-groups {ordinary.bare} {target}"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", f"mount -t tmpfs none /run && {become}"],
            env={"_FUSE_COMMFD": str(theirs.fileno()), "PATH": os.environ["PATH"]}, pass_fds=(theirs.fileno(),),
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("fusermount3: /run/perfused/perfused.sock: No such file or directory")


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"_FUSE_COMMFD": "77"}, "file descriptor 77"),
        ({"_FUSE_COMMFD": "0"}, "file descriptor 0"),
        ({"_FUSE_COMMFD": "three"}, "'three' is no file descriptor"),
    ],
)
def test_what_is_no_socket_is_refused_before_anything_is_mounted(
    ordinary: Ordinary, target: Path, environment: dict[str, str], sentence: str
) -> None:
    assert sentence in ordinary.refused(target, environment=environment)


def test_without_a_socket_nothing_is_mounted(ordinary: Ordinary, target: Path) -> None:
    program = ordinary.start(target)
    _, err = program.communicate(timeout=PATIENCE)
    assert program.returncode == 1
    assert "old style mounting not supported" in err
    assert fuse_mounts(target) == []


def test_a_program_that_is_gone_leaves_no_mount(ordinary: Ordinary, target: Path) -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs:
        program = ordinary.start(target, comm=theirs.fileno())
        _, err = program.communicate(timeout=PATIENCE)
    assert (program.returncode, err) == (1, "fusermount3: sending file descriptor: Broken pipe\n")
    eventually(lambda: not fuse_mounts(target), "the mount is gone with its device")


# -- the command line --------------------------------------------------------------------------------------------------


def command_line(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The program, with what it says."""
    return subprocess.run(
        [sys.executable, "-m", "libperfuse.fusermount", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_the_version_is_that_of_a_fusermount3(option: str) -> None:
    done = command_line(option)
    assert done.returncode == 0
    assert done.stdout.startswith("fusermount3 version: 3.")


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_goes_to_stdout_with_the_status_that_fusermount3_gives(option: str) -> None:
    done = command_line(option)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("fusermount3: [options] mountpoint\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "missing mountpoint argument"),
        (("-u",), "missing mountpoint argument"),
        (("-o",), "option -o requires argument"),
        (("a", "b"), "extra arguments after the mountpoint"),
        (("-u", "a", "b"), "extra arguments after the mountpoint"),
        (("-z", "a"), "-z can only be used with -u"),
        (("-x", "a"), "option -x not recognized"),
        (("--sync-init", "a"), "option --sync-init not recognized"),
        (("-u", "--auto-unmount", "a"), "-u and --auto-unmount are two things"),
    ],
)
def test_a_command_line_without_sense_is_refused(arguments: tuple[str, ...], sentence: str) -> None:
    done = command_line(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"fusermount3: {sentence}\n")


def test_it_starts_without_what_draws_on_terminals() -> None:
    script = "import sys, libperfuse.fusermount; print(sorted({'click', 'rich', 'asyncio'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
