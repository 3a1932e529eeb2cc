"""Unmodified programs of an ordinary user, which exec fusermount3 for their device: ours is there in its place.

And the fusermount3 that Debian ships beside ours, given the same words.
"""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from libperfuse import perfuse_mount, perfuse_open
from perfused import libc
from tests.clients.harness import EXAMPLES
from tests.kernel.conftest import eventually, fuse_mounts
from tests.kernel.ordinary import FIXTURES, PATIENCE, USER, Ordinary, over, reachable

interpreter, daemon_of_all, ordinaries, ordinary = FIXTURES

FUSERMOUNT3 = "/usr/bin/fusermount3"
#: a user with a name: the real one looks for it
NOBODY = 65534


def needs(program: str | Path, package: str) -> pytest.MarkDecorator:
    """Skip where a program is not there."""
    return pytest.mark.skipif(not shutil.which(program), reason=f"package {package} is not installed: make clients")


example = needs(EXAMPLES / "passthrough_ll", "libfuse3-dev")
real = needs(FUSERMOUNT3, "fuse3")
gocryptfs = needs("gocryptfs", "gocryptfs")


@pytest.fixture(scope="module")
def device_for_all(tmp_path_factory: pytest.TempPathFactory, namespace: None) -> Iterator[None]:
    """/dev/fuse as it is on most machines: everybody may open it. libfuse looks no further where it cannot."""
    where = tmp_path_factory.mktemp("dev")
    with ExitStack() as held:
        libc.mount(b"none", os.fsencode(where), b"tmpfs", 0, None)
        held.callback(libc.umount2, os.fsencode(where), libc.MNT_DETACH)
        os.mknod(where / "fuse", 0o020666, os.makedev(10, 229))
        (where / "fuse").chmod(0o666)
        over(held, where / "fuse", Path("/dev/fuse"))
        yield


@pytest.fixture
def in_its_place(ordinary: Ordinary, device_for_all: None) -> Iterator[None]:
    """Our program where the one of the package stands, in this mount namespace."""
    with ExitStack() as held:
        over(held, ordinary.command, Path(FUSERMOUNT3))
        yield


@pytest.fixture
def programs(ordinary: Ordinary) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start programs in the foreground as the user; all are ended in the end."""
    made: list[subprocess.Popen[str]] = []

    def start(
        *command: str | Path, environment: dict[str, str] | None = None, **more: object
    ) -> "subprocess.Popen[str]":
        program = subprocess.Popen(
            command, user=USER, group=USER, extra_groups=[], text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment or {"PATH": os.environ["PATH"]}, **more,  # type: ignore[call-overload]
        )  # fmt: skip
        made.append(program)
        return program

    yield start
    for each in made:
        each.kill()
        each.communicate(timeout=PATIENCE)


def ended(program: "subprocess.Popen[str]") -> tuple[int, str]:
    """The status and the output of a program that ends."""
    out, _ = program.communicate(timeout=PATIENCE)
    return program.returncode, out


def stands(target: Path, program: "subprocess.Popen[str]") -> None:
    """Wait until a program has mounted."""
    eventually(lambda: fuse_mounts(target) or program.poll() is not None, "it has mounted")
    if program.poll() is not None:
        pytest.fail(f"it ended with {program.returncode}: {ended(program)[1]}")


def works(ordinary: Ordinary, target: Path, below: Path) -> None:
    """The user writes and reads 2 MiB through a filesystem that shows a directory of the user's."""
    script = (
        'set -e; cd "$0"; mkdir d; head -c 2097152 /dev/urandom >d/a; cp d/a d/b; cmp d/a d/b; mv d/b c; rm d/a; ls'
    )
    done = ordinary.do("sh", "-c", script, target)
    assert (done.returncode, done.stdout, done.stderr) == (0, "c\nd\n", "")
    assert sorted(each.name for each in below.iterdir()) != []


@pytest.fixture
def source(ordinary: Ordinary) -> Path:
    """What is shown."""
    return ordinary.target("source")


@pytest.fixture
def target(ordinary: Ordinary) -> Path:
    """Where it is mounted."""
    return ordinary.target("mnt")


# -- libfuse 3, which execs /usr/bin/fusermount3 -----------------------------------------------------------------------


@example
@real
def test_a_program_on_libfuse_mounts_serves_and_is_unmounted(
    ordinary: Ordinary, source: Path, target: Path, in_its_place: None, programs: Callable[..., "subprocess.Popen[str]"]
) -> None:
    program = programs(EXAMPLES / "passthrough_ll", "-f", "-o", f"source={source}", target)
    stands(target, program)
    works(ordinary, target, source)
    assert ordinary.unmount(target).status == 0
    assert ended(program)[0] == 0
    assert not fuse_mounts(target)


@example
@real
def test_a_program_on_libfuse_that_is_told_to_end_unmounts_by_itself(
    ordinary: Ordinary, target: Path, in_its_place: None, programs: Callable[..., "subprocess.Popen[str]"]
) -> None:
    program = programs(EXAMPLES / "hello", "-f", target)
    stands(target, program)
    assert ordinary.do("cat", target / "hello").stdout == "Hello World!\n"
    program.send_signal(signal.SIGTERM)
    ended(program)
    assert not fuse_mounts(target)


@example
@real
def test_auto_unmount_of_libfuse_unmounts_what_a_killed_program_leaves(
    ordinary: Ordinary, target: Path, in_its_place: None, programs: Callable[..., "subprocess.Popen[str]"]
) -> None:
    program = programs(EXAMPLES / "hello", "-f", "-o", "auto_unmount", target)
    stands(target, program)
    assert ordinary.do("cat", target / "hello").stdout == "Hello World!\n"
    program.kill()
    ended(program)
    eventually(lambda: not fuse_mounts(target), "the mount is gone")


@example
@real
def test_options_of_libfuse_reach_the_mount(
    ordinary: Ordinary, target: Path, in_its_place: None, programs: Callable[..., "subprocess.Popen[str]"]
) -> None:
    program = programs(EXAMPLES / "hello", "-f", "-o", r"ro,noatime,fsname=a\,b,subtype=greeting", target)
    stands(target, program)
    (line,) = [each.split() for each in Path("/proc/self/mounts").read_text().splitlines() if str(target) in each]
    assert line[0] == "a,b"
    assert line[2] == "fuse.greeting"
    assert {"ro", "noatime", "nosuid", "nodev", f"user_id={USER}"} <= set(line[3].split(","))
    assert ordinary.unmount("-z", target).status == 0
    ended(program)


@example
@real
def test_a_refusal_is_what_the_user_of_a_program_reads(
    ordinary: Ordinary, target: Path, in_its_place: None, programs: Callable[..., "subprocess.Popen[str]"]
) -> None:
    os.chown(target, 0, 0)
    status, said = ended(programs(EXAMPLES / "hello", "-f", target))
    assert status != 0
    assert f"fusermount3: mount failed: the target belongs to uid 0, not to {USER}" in said


# -- Go programs, which take fusermount3 from the PATH -----------------------------------------------------------------


@gocryptfs
def test_a_program_in_go_mounts_serves_and_is_unmounted(
    ordinary: Ordinary, source: Path, target: Path, programs: Callable[..., "subprocess.Popen[str]"]
) -> None:
    password = ordinary.place / "password"
    password.write_text("password\n")
    password.chmod(0o644)
    environment = {"PATH": f"{ordinary.command.parent}:{os.environ['PATH']}", "HOME": str(ordinary.place)}
    made = programs(
        "gocryptfs", "-init", "-q", "-passfile", password, "-scryptn", "10", source, environment=environment
    )
    assert ended(made) == (0, "")
    program = programs("gocryptfs", "-fg", "-q", "-passfile", password, source, target, environment=environment)
    stands(target, program)
    eventually(lambda: ordinary.do("ls", target).returncode == 0, "it serves")
    works(ordinary, target, source)
    assert ordinary.unmount(target).status == 0
    ended(program)
    assert not fuse_mounts(target)


# -- a device that is mounted already ----------------------------------------------------------------------------------


@example
@pytest.mark.parametrize("name", ["hello", "hello_ll", "passthrough_ll"])
def test_a_program_on_libfuse_serves_a_device_that_it_inherits_mounted(
    ordinary: Ordinary, source: Path, target: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERFUSE_ENDPOINT", "socket")
    (source / "hello").write_text("Hello World!\n")
    device = perfuse_open("/dev/fuse")
    perfuse_mount(name, str(target), f"fuse.{name}", 0, f"fd={device}")
    program = subprocess.Popen(
        [EXAMPLES / name, "-f", f"/dev/fd/{device}", *(["-o", f"source={source}"] if name == "passthrough_ll" else [])],
        pass_fds=(device,), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    os.close(device)
    try:
        assert (target / "hello").read_text() == "Hello World!\n"
        assert os.listdir(target) == ["hello"]
        assert ordinary.unmount(target, user=0).status == 0
    finally:
        program.terminate()
        ended(program)
    assert not fuse_mounts(target)


# -- beside the real one -----------------------------------------------------------------------------------------------


#: where `{}` stands for the mountpoint, a directory of the user's, and `..` beside it for one that is root's
ALIKE: dict[str, tuple[str, ...]] = {
    "plain": ("--", "{}"),
    "options": ("-o", "ro,noexec,sync,fsname=here,subtype=hello,max_read=4096,default_permissions", "{}"),
    "escaped": ("-o", r"fsname=a\,b\\c\d", "{}"),
    "ending in a backslash": ("-o", "fsname=a\\", "{}"),
    "ending in a comma": ("-o", "rw,", "{}"),
    "nothing": ("-o", "", "{}"),
    "ids": ("-o", "fd=9,rootmode=1,user_id=0,group_id=0", "{}"),
    "nonempty": ("-o", "nonempty", "{}"),
    "suid": ("-o", "suid,dev", "{}"),
    "behind": ("{}", "-o", "ro"),
    "unknown": ("-o", "bogus", "{}"),
    "empty": ("-o", "rw,,ro", "{}"),
    "blkdev": ("-o", "blkdev", "{}"),
    "missing": ("-o", "rw", "--", "{}/nowhere"),
    "missing above": ("{}/nowhere/mnt",),
    "no mountpoint": ("-o", "rw"),
    "empty mountpoint": ("",),
    "two mountpoints": ("{}", "{}"),
    "lazy alone": ("-z", "{}"),
    "unmount nothing": ("-u", "-q", "-z", "--", "{}"),
    "unmount nowhere": ("-u", "{}/nowhere/mnt"),
    "unmount two": ("-u", "{}", "{}"),
}
#: these are refused by both, each in its own words
OWN_WORDS: dict[str, tuple[str, ...]] = {
    "foreign": ("{}/..",), "bad number": ("-o", "max_read=abc", "{}"), "unmount": ("-u", "{}"), "option": ("-x", "{}"),
    "allow_other": ("-o", "allow_other", "{}"), "no type": ("-o", "subtype=", "{}"), "help": ("-h",),
}  # fmt: skip


def outcome(ordinary: Ordinary, target: Path, words: tuple[str, ...], command: Path | None) -> tuple[object, ...]:
    """Status, output, what was sent, and the mount there: source, type and options."""
    os.chown(target, NOBODY, NOBODY)
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            program = ordinary.start(
                *(each.replace("{}", str(target)) for each in words),
                comm=theirs.fileno(), command=command, user=NOBODY,
            )  # fmt: skip
        said = ordinary.finish(program, ours)
    lines = [each.split() for each in Path("/proc/self/mounts").read_text().splitlines()]
    found = [(each[0], each[2], sorted(each[3].split(","))) for each in lines if each[1] == str(target)]
    for _ in found:
        libc.umount2(os.fsencode(target), libc.MNT_DETACH)
    if said.device >= 0:
        ordinary.let_go(said.device)
    return said.status, said.out, said.err.replace(f"{FUSERMOUNT3}: ", "fusermount3: "), said.data, found


@real
@pytest.mark.parametrize("name", ALIKE)
def test_what_fusermount3_does_and_says_ours_does_and_says(
    ordinary: Ordinary, target: Path, device_for_all: None, name: str
) -> None:
    theirs = outcome(ordinary, target, ALIKE[name], Path(FUSERMOUNT3))
    assert outcome(ordinary, target, ALIKE[name], None) == theirs


@real
@pytest.mark.parametrize("name", OWN_WORDS)
def test_what_fusermount3_refuses_ours_refuses_in_its_own_words(
    ordinary: Ordinary, target: Path, device_for_all: None, name: str
) -> None:
    reachable(target)
    os.chown(target.parent, 0, 0)
    status, _, _, data, found = outcome(ordinary, target, OWN_WORDS[name], Path(FUSERMOUNT3))
    assert (status, data, found) == (1, b"", [])
    status, _, _, data, found = outcome(ordinary, target, OWN_WORDS[name], None)
    assert (status, data, found) == (1, b"", [])
