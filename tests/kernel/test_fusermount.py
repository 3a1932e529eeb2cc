"""perfuse-fusermount3: mounting, and its options, as programs ask a fusermount3 for them."""

import errno
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernel.conftest import ROOT, eventually, fuse_mounts
from tests.kernel.fusermounts import line, serve, target
from tests.kernel.ordinary import FIXTURES, USER, Ordinary
from tests.kernel.scripted import CONTENT, Scripted

__all__ = ["serve", "target"]


interpreter, daemon_of_all, ordinaries, ordinary = FIXTURES


# -- mounting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET], ids=["stream", "seqpacket"])
def test_a_program_gets_one_byte_and_a_device_on_which_it_serves_its_user(
    ordinary: Ordinary, target: Path, serve: Callable[[int], Scripted], kind: int
) -> None:
    serve(ordinary.mounted("-o", "rw,nosuid,nodev,subtype=hello", "--", target, kind=kind))
    assert ordinary.do("cat", target / "file").stdout == CONTENT.decode()


def test_the_mount_is_the_users_own(ordinary: Ordinary, target: Path) -> None:
    ordinary.mounted(target)
    _, _, options = line(target)
    assert {"rw", "nosuid", "nodev", f"user_id={USER}", f"group_id={USER}"} <= options


def test_the_socket_can_be_named_by_an_option(ordinary: Ordinary, target: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        number = theirs.fileno()
        program = ordinary.start("--comm-fd", str(number), "--", target, pass_fds=(number,))
        theirs.close()
        said = ordinary.finish(program, ours)
    assert (said.status, said.data) == (0, b"\0")
    assert fuse_mounts(target) == [str(target)]


def test_the_mountpoint_may_be_relative(ordinary: Ordinary, target: Path) -> None:
    ordinary.mounted(target.name, cwd=target.parent)
    assert fuse_mounts(target) == [str(target)]


@pytest.mark.parametrize("end", ["/", "//", "/."])
def test_the_mountpoint_may_end_in_slashes(ordinary: Ordinary, target: Path, end: str) -> None:
    ordinary.mounted(f"{target}{end}")
    assert fuse_mounts(target) == [str(target)]


def test_a_regular_file_of_the_users_can_be_mounted_on(ordinary: Ordinary) -> None:
    path = ordinary.place / "file"
    path.touch()
    os.chown(path, USER, USER)
    ordinary.mounted(path)
    assert fuse_mounts(path) == [str(path)]


def test_root_may_use_it_too(ordinary: Ordinary, target: Path) -> None:
    ordinary.mounted(target, user=0)
    _, _, options = line(target)
    assert {"nosuid", "nodev", "user_id=0"} <= options


def test_the_mount_is_listed_under_the_programs_name(ordinary: Ordinary, target: Path) -> None:
    ordinary.mounted(target)
    listed = subprocess.run(
        [sys.executable, "-m", "perfused.cli.control", "mounts", "--json"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    own = Path("/proc/self/comm").read_text().strip()
    assert f'"program": "{own}"' in listed


@pytest.mark.parametrize("environment", [{}, {"PERFUSE_ENDPOINT": "any"}, {"PERFUSE_ENDPOINT": "device"}])
def test_the_default_endpoint_is_a_file_with_the_manners_of_the_kernels(
    ordinary: Ordinary, target: Path, environment: dict[str, str]
) -> None:
    device = ordinary.mounted(target, environment=environment)
    assert stat.S_ISREG(os.stat(device).st_mode)
    assert os.read(device, 1 << 21)
    assert ordinary.unmount(target).status == 0
    with pytest.raises(OSError) as caught:
        os.read(device, 1 << 21)
    assert caught.value.errno == errno.ENODEV


def test_the_endpoint_can_be_chosen(ordinary: Ordinary, target: Path) -> None:
    device = ordinary.mounted(target, environment={"PERFUSE_ENDPOINT": "socket"})
    assert stat.S_ISSOCK(os.fstat(device).st_mode)


@pytest.mark.parametrize("endpoint", ["direct", "nonsense"])
def test_an_endpoint_that_cannot_be_passed_on_is_refused(ordinary: Ordinary, target: Path, endpoint: str) -> None:
    assert endpoint in ordinary.refused(target, environment={"PERFUSE_ENDPOINT": endpoint})


def test_a_filesystem_that_ends_takes_its_mount_with_it(ordinary: Ordinary, target: Path) -> None:
    ordinary.let_go(ordinary.mounted(target))
    eventually(lambda: not fuse_mounts(target), "perfused detaches the mount")


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "there", "absent"),
    [
        ("ro", {"ro"}, {"rw"}),
        ("ro,rw", {"rw"}, {"ro"}),
        ("noexec", {"noexec"}, set()),
        ("noexec,exec", set(), {"noexec"}),
        ("sync,dirsync", {"sync", "dirsync"}, set()),
        ("sync,async", set(), {"sync"}),
        ("noatime", {"noatime"}, {"relatime"}),
        ("noatime,atime", {"relatime"}, {"noatime"}),
        ("nodiratime", {"nodiratime"}, set()),
        ("strictatime", set(), {"relatime", "noatime"}),
        ("default_permissions", {"default_permissions"}, set()),
        ("max_read=4096", {"max_read=4096"}, set()),
        ("nonempty,large_read", {"rw"}, {"nonempty"}),
        ("fd=99,rootmode=7,user_id=0,group_id=0", {f"user_id={USER}", f"group_id={USER}"}, {"user_id=0"}),
        ("rw,", {"rw"}, set()),
        ("", {"rw"}, set()),
    ],
)
def test_options_hold(ordinary: Ordinary, target: Path, options: str, there: set[str], absent: set[str]) -> None:
    ordinary.mounted("-o", options, "--", target)
    _, _, found = line(target)
    assert there <= found
    assert not absent & found


@pytest.mark.parametrize(
    ("options", "source", "fstype"),
    [
        ("rw", "/dev/fuse", "fuse"),
        ("subtype=hello", "hello", "fuse.hello"),
        ("fsname=here", "here", "fuse"),
        ("fsname=here,subtype=hello", "here", "fuse.hello"),
        (r"fsname=a\,b,subtype=hello", "a,b", "fuse.hello"),
        (r"fsname=a\\b", r"a\134b", "fuse"),
        (r"fsname=with space\,ro,rw", r"with\040space,ro", "fuse"),
        ("fsname=first,fsname=last", "last", "fuse"),
    ],
)
def test_names_are_those_of_the_options(
    ordinary: Ordinary, target: Path, options: str, source: str, fstype: str
) -> None:
    ordinary.mounted("-o", options, target)
    assert line(target)[:2] == (source, fstype)


def test_options_may_come_in_pieces_and_behind_the_mountpoint(ordinary: Ordinary, target: Path) -> None:
    ordinary.mounted("-oro,noexec", target, "-o", "noatime")
    assert {"ro", "noexec", "noatime"} <= line(target)[2]


@pytest.mark.parametrize("option", ["suid", "dev"])
def test_an_option_that_is_roots_is_ignored_with_a_line(ordinary: Ordinary, target: Path, option: str) -> None:
    said = ordinary.run("-o", f"{option},exec", target)
    assert (said.status, said.err) == (0, f"fusermount3: unsafe option {option} ignored\n")
    assert {"nosuid", "nodev"} <= line(target)[2]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("no_such_option", "unknown option 'no_such_option'"),
        ("rw,,ro", "unknown option ''"),
        ("x-something", "unknown option 'x-something'"),
        ("allow_other=1", "unknown option 'allow_other=1'"),
        ("max_read", "unknown option 'max_read'"),
        (r"ro\,rw", r"unknown option 'ro\,rw'"),
        ("blkdev", "option blkdev is privileged"),
    ],
)
def test_an_option_that_is_none_is_refused_by_name(
    ordinary: Ordinary, target: Path, options: str, sentence: str
) -> None:
    assert ordinary.refused("-o", options, "--", target) == sentence


@pytest.mark.parametrize("options", ["max_read=abc", "blksize=512", "subtype=", "subtype=a b"])
def test_an_option_that_the_daemon_refuses_is_refused_with_its_sentence(
    ordinary: Ordinary, target: Path, options: str
) -> None:
    assert ordinary.refused("-o", options, target).startswith("mount failed: ")


def test_a_source_that_is_too_long_is_refused(ordinary: Ordinary, target: Path) -> None:
    assert "source" in ordinary.refused("-o", "fsname=" + "x" * 5000, target)
