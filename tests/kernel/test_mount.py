"""perfuse_open() and perfuse_mount() against a real daemon: verdicts, and policy."""

import array
import errno
import json
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from libperfuse import PerfuseError, perfuse_mount, perfuse_open, perfuse_unmount
from tests.kernel.conftest import ROOT, Daemon, eventually, fuse_mounts
from tests.kernel.scripted import Scripted
from wire import control
from wire.control import Verdict

OPTIONS = "rootmode=40000,user_id=0,group_id=0"

USER = 12345


def refused(call: Callable[[], object]) -> PerfuseError:
    """The error of a call that perfused must refuse."""
    with pytest.raises(PerfuseError) as caught:
        call()
    return caught.value


def mount_refused(target: Path | str, data: str = OPTIONS, fstype: str = "fuse", flags: int = 0) -> PerfuseError:
    """The error of a mount, on a fresh device."""
    fd = perfuse_open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        return refused(lambda: perfuse_mount("x", str(target), fstype, flags, f"fd={fd},{data}"))
    finally:
        os.close(fd)


def as_user(daemon: Daemon, body: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Python as an ordinary user that finds the daemon; the interpreter itself may be root's alone."""
    become = f"os.setgroups([]); os.setresgid({USER}, {USER}, {USER}); os.setresuid({USER}, {USER}, {USER})\n"
    program = "import os, sys, time\nfrom libperfuse import *\n" + become + textwrap.dedent(body)
    command = [sys.executable, "-c", program, *map(str, arguments)]
    environment = daemon.environment | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=30, check=False)


MOUNT_AS_USER = """
    fd = perfuse_open("/dev/fuse")
    try:
        perfuse_mount("x", sys.argv[1], "fuse.user", 0, f"fd={fd}," + (sys.argv[2] if len(sys.argv) > 2 else "x=1"[:0]))
    except PerfuseError as bad:
        print(bad.errno, bad.strerror)
    else:
        line = [each for each in open("/proc/self/mounts") if sys.argv[1] in each][0]
        print("mounted", line)
"""


@pytest.fixture
def open_place(tmp_path: Path) -> Path:
    """A directory an ordinary user can reach and owns."""
    for each in (tmp_path, *tmp_path.parents):
        if each != Path("/") and each.stat().st_uid == 0 and not each.stat().st_mode & 0o001:
            each.chmod(each.stat().st_mode | 0o011)
    place = tmp_path / "owned"
    place.mkdir()
    os.chown(place, USER, USER)
    return place


def test_the_mount_stands_when_perfuse_mount_returns(
    daemon: Daemon, target: Path, scripted: Callable[..., Scripted]
) -> None:
    scripted(target)
    assert fuse_mounts(target) == [str(target)]
    (row,) = json.loads(daemon.ctl("mounts", "--json").stdout)
    assert (row["target"], row["fstype"], row["uid"], row["endpoint"]) == (str(target), "fuse.scripted", 0, "socket")


def test_a_file_can_be_mounted_on(daemon: Daemon, tmp_path: Path, scripted: Callable[..., Scripted]) -> None:
    path = tmp_path / "plain"
    path.write_text("below")
    scripted(path)
    assert fuse_mounts(path) == [str(path)]


def test_a_symbolic_link_is_followed_once_and_pinned(
    daemon: Daemon, target: Path, tmp_path: Path, scripted: Callable[..., Scripted]
) -> None:
    link = tmp_path / "link"
    link.symlink_to(target)
    scripted(link)
    assert fuse_mounts(target) == [str(target)]


def test_a_link_swapped_after_the_client_pinned_its_target_changes_nothing(daemon: Daemon, tmp_path: Path) -> None:
    for name in ("meant", "other"):
        (tmp_path / name).mkdir()
    link = tmp_path / "link"
    link.symlink_to("meant")
    fd = perfuse_open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    pinned = os.open(link, os.O_PATH)
    link.unlink()
    link.symlink_to("other")
    device = socket.socket(fileno=fd)
    frame = control.build_mount(b"x", os.fsencode(link), b"fuse", 0, b"fd=9")
    device.sendmsg([frame], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [pinned]))])
    answer = control.parse(device.recv(65536))
    assert isinstance(answer, Verdict)
    assert answer.error == 0
    assert fuse_mounts(tmp_path) == [str(tmp_path / "meant")]
    os.close(pinned)
    device.close()
    eventually(lambda: not fuse_mounts(tmp_path), "the mount is gone")


def test_a_missing_target_is_enoent(daemon: Daemon, tmp_path: Path) -> None:
    fd = perfuse_open("/dev/fuse")
    with pytest.raises(FileNotFoundError):
        perfuse_mount("x", str(tmp_path / "nowhere"), "fuse", 0, f"fd={fd},{OPTIONS}")
    os.close(fd)


def test_a_target_that_is_neither_file_nor_directory_is_refused(daemon: Daemon, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    bad = mount_refused(tmp_path / "fifo")
    assert bad.errno == errno.ENOTDIR
    assert "neither a directory nor a regular file" in bad.strerror


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ("no_such_option", "no_such_option"),
        ("max_read=-1", "max_read"),
        ("max_read=99999999999", "max_read"),
        ("rootmode=9", "rootmode"),
        ("user_id=root", "user_id"),
        ("blksize=4096", "blksize"),
        ("allow_other=1", "allow_other"),
        ("subtype=a b", "subtype"),
    ],
)
def test_an_absurd_option_is_einval_and_named(daemon: Daemon, target: Path, data: str, field: str) -> None:
    bad = mount_refused(target, data)
    assert bad.errno == errno.EINVAL
    assert field in bad.strerror


@pytest.mark.parametrize("fstype", ["ext4", "fuse.", "fuse.a/b", "fusectl"])
def test_another_kind_of_filesystem_is_not_mounted_by_perfused(daemon: Daemon, target: Path, fstype: str) -> None:
    fd = perfuse_open("/dev/fuse")
    with pytest.raises(OSError):
        perfuse_mount("x", str(target), fstype, 0, f"fd={fd},{OPTIONS}")
    os.close(fd)
    assert fuse_mounts(target) == []


def test_mount_flags_that_are_no_new_mount_are_refused(daemon: Daemon, target: Path) -> None:
    bad = mount_refused(target, flags=0x1000)
    assert bad.errno == errno.EINVAL
    assert "mountflags" in bad.strerror


def test_mount_flags_hold(daemon: Daemon, target: Path) -> None:
    rawfs = daemon.rawfs(target, "-o", "ro,nosuid,nodev,noexec")
    (line,) = [each for each in Path("/proc/self/mounts").read_text().splitlines() if str(target) in each]
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(line.split()[3].split(","))
    with pytest.raises(OSError) as caught:
        (target / "x").write_text("x")
    assert caught.value.errno == errno.EROFS
    daemon.ctl("umount", target)
    rawfs.wait(timeout=10)


def test_the_kernels_own_line_is_in_the_verdict(daemon: Daemon, target: Path) -> None:
    bad = mount_refused(target, OPTIONS, fstype="fuseblk")
    assert bad.errno
    assert "the kernel refused" in bad.strerror


def test_after_a_refusal_the_same_descriptor_can_be_mounted(daemon: Daemon, target: Path) -> None:
    fs = Scripted()
    fs.fd = perfuse_open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    refused(lambda: perfuse_mount("x", str(target), "fuse", 0, f"fd={fs.fd},no_such_option"))
    perfuse_mount("x", str(target), "fuse", 0, f"fd={fs.fd},{OPTIONS}")
    fs.serve()
    assert (target / "file").stat().st_size
    fs.close()
    eventually(lambda: not fuse_mounts(target), "the mount is gone")


@pytest.mark.parametrize("endpoint", ["socket", "direct"])
def test_a_second_mount_on_one_descriptor_is_ebusy_and_harms_nothing(
    daemon: Daemon, tmp_path: Path, target: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERFUSE_ENDPOINT", endpoint)
    (second := tmp_path / "second").mkdir()
    fd = perfuse_open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    perfuse_mount("x", str(target), "fuse", 0, f"fd={fd},{OPTIONS}")
    assert refused(lambda: perfuse_mount("x", str(second), "fuse", 0, f"fd={fd},{OPTIONS}")).errno == errno.EBUSY
    fs = Scripted()
    fs.fd = fd
    fs.serve()
    assert (target / "file").stat().st_size
    assert fuse_mounts(second) == []
    perfuse_unmount(str(target))
    fs.close()


def test_a_descriptor_that_is_not_ours_is_refused_before_anything_is_sent(daemon: Daemon, target: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, open("/dev/null") as null:
        assert refused(lambda: perfuse_mount("x", str(target), "fuse", 0, f"fd={ours.fileno()},{OPTIONS}")).errno
        assert refused(lambda: perfuse_mount("x", str(target), "fuse", 0, f"fd={null.fileno()},{OPTIONS}")).errno
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            theirs.recv(1)


def test_the_real_device_is_mounted_by_the_kernel_alone(daemon: Daemon, target: Path) -> None:
    fs = Scripted()
    fs.fd = os.open("/dev/fuse", os.O_RDWR)
    perfuse_mount("x", str(target), "fuse", 0, f"fd={fs.fd},{OPTIONS}")
    fs.serve()
    assert (target / "file").stat().st_size
    assert json.loads(daemon.ctl("mounts", "--json").stdout) == []
    subprocess.run(["umount", target], check=True)
    assert fs.ended.wait(10)
    os.close(fs.fd)


# -- policy ----------------------------------------------------------------------------------------


def test_an_ordinary_user_mounts_on_a_directory_of_its_own_with_nosuid_and_nodev(
    daemon: Daemon, open_place: Path
) -> None:
    done = as_user(daemon, MOUNT_AS_USER, open_place)
    assert done.stdout.startswith("mounted"), done.stdout + done.stderr
    options = done.stdout.split()[4]
    assert {"nosuid", "nodev", f"user_id={USER}", f"group_id={USER}"} <= set(options.split(","))
    eventually(lambda: not fuse_mounts(open_place), "the mount is gone with its filesystem")


@pytest.mark.parametrize("case", ["foreign", "read-only", "proc"])
def test_an_ordinary_user_may_not_mount_where_fusermount3_would_refuse(
    daemon: Daemon, open_place: Path, tmp_path: Path, case: str
) -> None:
    place: Path | str = open_place
    if case == "foreign":
        os.chown(open_place, 0, 0)
    elif case == "read-only":
        open_place.chmod(0o500)
    else:
        place = "/proc/self/task"
    done = as_user(daemon, MOUNT_AS_USER, place)
    code = int(done.stdout.split()[0])
    assert code in (errno.EPERM, errno.EACCES), done.stdout + done.stderr
    assert fuse_mounts(open_place) == []


def test_allow_other_is_for_those_the_configuration_names(daemons: Callable[..., Daemon], open_place: Path) -> None:
    refusing = daemons()
    done = as_user(refusing, MOUNT_AS_USER, open_place, "allow_other")
    assert done.stdout.split()[0] == str(errno.EPERM)
    assert "policy.allow_other" in done.stdout
    allowing = daemons(f'[policy]\nallow_other = ["{USER}"]\n')
    assert as_user(allowing, MOUNT_AS_USER, open_place, "allow_other").stdout.startswith("mounted")


def test_a_users_mounts_are_counted_and_limited(daemons: Callable[..., Daemon], open_place: Path) -> None:
    daemon = daemons("[policy]\nmounts_per_user = 2\n")
    body = """
        for number in range(3):
            os.mkdir(f"{sys.argv[1]}/{number}")
            fd = perfuse_open("/dev/fuse")
            try:
                perfuse_mount("x", f"{sys.argv[1]}/{number}", "fuse", 0, f"fd={fd}")
            except PerfuseError as bad:
                print(number, bad.errno, bad.strerror)
    """
    done = as_user(daemon, body, open_place)
    assert done.stdout.split()[:2] == ["2", str(errno.EMFILE)], done.stdout + done.stderr
    eventually(lambda: not fuse_mounts(open_place), "the mounts are gone")


def test_a_users_unmounted_devices_are_limited(daemons: Callable[..., Daemon], open_place: Path) -> None:
    daemon = daemons("[policy]\nopens_per_user = 3\n")
    done = as_user(daemon, "for n in range(9):\n    print(n, flush=True)\n    perfuse_open('/dev/fuse')")
    assert done.stdout.split()[-1] == "3"
    assert f"[Errno {errno.EMFILE}]" in done.stderr


def test_user_mounts_can_be_switched_off(daemons: Callable[..., Daemon], open_place: Path) -> None:
    done = as_user(daemons("[policy]\nuser_mounts = false\n"), MOUNT_AS_USER, open_place)
    assert "policy.user_mounts" in done.stdout


def test_a_worker_has_no_privilege_left(daemon: Daemon, target: Path) -> None:
    rawfs = daemon.rawfs(target)
    (worker,) = daemon.workers()
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{worker}/status").read_text().splitlines() if ":\t" in line
    )
    assert [status[each] for each in ("CapPrm", "CapEff", "CapBnd", "CapAmb")] == ["0" * 16] * 4
    assert status["NoNewPrivs"] == "1"
    assert "0" not in status["Uid"].split()
    assert status["Groups"].strip() == ""
    daemon.ctl("umount", target)
    rawfs.wait(timeout=10)


def test_a_client_in_another_mount_namespace_mounts_in_its_own(daemon: Daemon, target: Path) -> None:
    script = f"""
        {ROOT}/build/rawfs-perfuse {target} >/dev/null & pid=$!
        for i in $(seq 100); do grep -q {target} /proc/self/mounts && break; sleep 0.05; done
        echo in-there > {target}/file; cat {target}/file; grep -c {target} /proc/1/mounts /proc/{os.getpid()}/mounts
        {sys.executable} -m perfused.cli.control umount {target}; wait $pid; grep -c {target} /proc/self/mounts
    """
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", script], env=daemon.environment, text=True, cwd=ROOT,
        capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines()[0] == "in-there", done.stdout + done.stderr
    assert done.stdout.splitlines()[1:] == ["/proc/1/mounts:0", f"/proc/{os.getpid()}/mounts:0", "0"]
