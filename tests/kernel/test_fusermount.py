"""perfuse-fusermount3 in the hands of an ordinary user, against a real daemon: what programs ask of a fusermount3."""

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from libperfuse import perfuse_open
from perfused import libc
from tests.kernel.conftest import ROOT, eventually, fuse_mounts
from tests.kernel.ordinary import FIXTURES, PATIENCE, USER, Ordinary
from tests.kernel.scripted import CONTENT, Scripted

interpreter, daemon_of_all, ordinaries, ordinary = FIXTURES


def line(target: Path) -> tuple[str, str, set[str]]:
    """Source, type and options of the one mount on a path."""
    lines = [each.split() for each in Path("/proc/self/mounts").read_text().splitlines()]
    ((source, _, fstype, options, *_),) = [each for each in lines if each[1] == str(target)]
    return source, fstype, set(options.split(","))


@pytest.fixture
def target(ordinary: Ordinary) -> Path:
    """An empty directory of the user's, to mount on."""
    return ordinary.target()


@pytest.fixture
def serve() -> Iterator[Callable[[int], Scripted]]:
    """Serve devices that were received."""
    made: list[Scripted] = []

    def start(device: int) -> Scripted:
        fs = Scripted()
        fs.fd = os.dup(device)
        made.append(fs)
        return fs.serve()

    yield start
    for each in made:
        each.close()


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
