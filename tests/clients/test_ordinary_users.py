"""Unmodified programs of an ordinary user on root's perfused, by perfusectl exec: no program is set-user-ID here.

/dev/fuse is root's alone, and stays so. What fusermount3 would refuse the user, perfused refuses, too.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients.harness import EXAMPLES, MARK, VIA, marked, named
from tests.kernel.conftest import BUILD, Daemon, eventually, fuse_mounts
from tests.kernel.ordinary import FIXTURES, reachable

interpreter, *_ = FIXTURES

#: a user with a name, which fusermount3 looks for
NOBODY = 65534
PATIENCE = 30

pytestmark = pytest.mark.skipif(VIA == "plain", reason="about perfusectl exec")


class User:
    """The user, a directory of the user's, and perfusectl exec."""

    def __init__(self, interpreter: str, daemon: Daemon, place: Path) -> None:
        reachable(place)
        self.daemon = daemon
        self.place = place / "owned"
        self.place.mkdir()
        os.chown(self.place, NOBODY, NOBODY)
        self.exec = place / "exec"
        self.exec.write_text(f'#!/bin/sh\n{interpreter} -m perfused.cli.control exec -- "$@"\n')
        self.exec.chmod(0o755)
        self.environment = {
            "PATH": os.environ["PATH"], "HOME": str(self.place), MARK: str(place),
            "PERFUSED_SOCKET": str(daemon.socket),
        }  # fmt: skip
        self.started: list[subprocess.Popen[str]] = []

    def directory(self, name: str) -> Path:
        """An empty directory of the user's."""
        made = self.place / name
        made.mkdir()
        os.chown(made, NOBODY, NOBODY)
        return made

    def start(self, *command: str | Path) -> "subprocess.Popen[str]":
        """Start a program as the user, through exec."""
        started = subprocess.Popen(
            [self.exec, *map(str, command)],
            env=self.environment, user=NOBODY, group=NOBODY, extra_groups=[], text=True, cwd=self.place,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.started.append(started)
        return started

    def mounted(self, target: Path, *command: str | Path) -> "subprocess.Popen[str]":
        """A program that mounts on `target`, when it has."""
        program = self.start(*command)
        eventually(lambda: fuse_mounts(target) or program.poll() is not None, f"{command[0]} has mounted")
        if program.poll() is not None:
            pytest.fail(f"it ended with {program.returncode}: {self.ended(program)[1]}")
        return program

    def running(self, file: Path) -> list[int]:
        """The processes that run a file of the user's."""
        return [pid for pid in marked(str(self.place.parent)) if f"({file} " in named(pid)]

    @staticmethod
    def ended(program: "subprocess.Popen[str]") -> tuple[int, str]:
        """The exit code and what was said."""
        out, _ = program.communicate(timeout=PATIENCE)
        return program.returncode, out

    def do(self, *command: str | Path) -> "subprocess.CompletedProcess[str]":
        """Another program of the user's, not through exec."""
        return subprocess.run(
            command,
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            text=True,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
            env=self.environment,
        )

    def works(self, target: Path) -> None:
        """The user writes 2 MiB and reads them, makes directories, renames and removes."""
        script = (
            'set -e; cd "$0"; mkdir d; head -c 2097152 /dev/urandom >d/a; cp d/a d/b; cmp d/a d/b; mv d/b c; rm d/a; ls'
        )
        done = self.do("sh", "-c", script, target)
        assert (done.returncode, done.stdout, done.stderr) == (0, "c\nd\n", "")

    def unmount(self, target: Path) -> None:
        """By perfusectl, which the user may."""
        done = self.do("sh", "-c", f"{self.exec.read_text().splitlines()[1].partition(' exec --')[0]} umount {target}")
        assert (done.returncode, done.stderr) == (0, "")

    def close(self) -> None:
        """End what runs still."""
        for each in self.started:
            each.terminate()
            each.communicate(timeout=PATIENCE)


@pytest.fixture
def user(interpreter: str, daemon: Daemon, tmp_path: Path) -> Iterator[User]:
    """The ordinary user; nothing of any program may be left in the end."""
    made = User(interpreter, daemon, tmp_path)
    yield made
    made.close()
    eventually(lambda: not fuse_mounts(tmp_path), "no mount is left")
    try:
        eventually(lambda: not marked(str(tmp_path)), f"no process is left: {[*map(named, marked(str(tmp_path)))]}")
    finally:
        for pid in marked(str(tmp_path)):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def source(user: User) -> Path:
    """What is shown."""
    return user.directory("source")


@pytest.fixture
def target(user: User) -> Path:
    """Where it is mounted."""
    return user.directory("mnt")


def needs(program: str | Path, package: str) -> pytest.MarkDecorator:
    """Skip where a program is not there."""
    reason = f"package {package} is not installed: make clients installs it"
    return pytest.mark.skipif(not shutil.which(program), reason=reason)


def options_of(target: Path) -> set[str]:
    """The mount options that the kernel shows."""
    (line,) = [each.split() for each in Path("/proc/self/mounts").read_text().splitlines() if str(target) in each]
    return set(line[3].split(","))


@needs(EXAMPLES / "passthrough_ll", "libfuse3-dev")
def test_a_program_on_libfuse_3(user: User, source: Path, target: Path) -> None:
    example = shutil.copy(EXAMPLES / "passthrough_ll", user.place)
    program = user.mounted(target, example, "-f", "-o", f"source={source}", target)
    user.works(target)
    assert {"nosuid", "nodev", f"user_id={NOBODY}"} <= options_of(target)
    assert (source / "c").stat().st_uid == NOBODY
    user.unmount(target)
    assert user.ended(program)[0] == 0


@needs("sshfs", "sshfs")
def test_sshfs(user: User, source: Path, target: Path) -> None:
    script = f'mkfifo w; exec < <(exec /usr/lib/openssh/sftp-server < w) > w; exec sshfs -f -o passive ":{source}" "$0"'
    program = user.mounted(target, "bash", "-c", script, target)
    user.works(target)
    user.unmount(target)
    assert user.ended(program)[0] == 0


@needs("bindfs", "bindfs")
def test_a_program_on_libfuse_2(user: User, source: Path, target: Path) -> None:
    program = user.mounted(target, "bindfs", "-f", "--no-allow-other", source, target)
    user.works(target)
    user.unmount(target)
    assert user.ended(program)[0] == 0


@needs("gocryptfs", "gocryptfs")
def test_a_program_in_go_that_asks_fusermount3(user: User, source: Path, target: Path) -> None:
    password = user.place / "password"
    password.write_text("password\n")
    password.chmod(0o644)
    made = user.start("gocryptfs", "-init", "-q", "-passfile", password, "-scryptn", "10", source)
    assert user.ended(made) == (0, "")
    program = user.mounted(target, "gocryptfs", "-fg", "-q", "-passfile", password, source, target)
    eventually(lambda: user.do("ls", target).returncode == 0, "it serves")
    user.works(target)
    user.unmount(target)
    assert user.ended(program)[0] == 0


def test_a_program_in_c_that_calls_mount_itself(user: User, target: Path) -> None:
    example = shutil.copy(BUILD / "rawfs", user.place)
    program = user.mounted(target, example, "-N", target)
    assert user.do("ls", target).returncode == 0
    user.unmount(target)
    assert user.ended(program)[0] == 0


@needs(EXAMPLES / "hello", "libfuse3-dev")
@pytest.mark.parametrize("signalled", [signal.SIGTERM, signal.SIGKILL])
def test_a_program_that_ends_takes_its_mount_along(user: User, target: Path, signalled: signal.Signals) -> None:
    program = user.mounted(target, shutil.copy(EXAMPLES / "hello", user.place), "-f", target)
    (pid,) = eventually(lambda: user.running(user.place / "hello"), "it runs")
    os.kill(pid, signalled)
    user.ended(program)
    eventually(lambda: not fuse_mounts(target), "the mount is gone")


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.fixture
def hello(user: User) -> Callable[..., tuple[int, str]]:
    """libfuse's hello with these arguments, when it has ended."""
    if not (EXAMPLES / "hello").exists():
        pytest.skip("package libfuse3-dev is not installed: make clients installs it")
    example = shutil.copy(EXAMPLES / "hello", user.place)
    return lambda *arguments: user.ended(user.start(example, "-f", *arguments))


def test_a_target_of_somebody_else(user: User, target: Path, hello: Callable[..., tuple[int, str]]) -> None:
    os.chown(target, 0, 0)
    target.chmod(0o755)
    status, said = hello(target)
    assert status != 0
    assert f"the target belongs to uid 0, not to {NOBODY}" in said
    assert not fuse_mounts(user.place)


def test_a_target_in_a_sticky_directory_of_somebody_else(
    user: User, tmp_path: Path, hello: Callable[..., tuple[int, str]]
) -> None:
    sticky = tmp_path / "sticky"
    sticky.mkdir()
    sticky.chmod(0o1777)
    (sticky / "mnt").mkdir()
    (sticky / "mnt").chmod(0o777)
    status, said = hello(sticky / "mnt")
    assert status != 0
    assert "perfusectl: " in said
    assert not fuse_mounts(tmp_path)


def test_allow_other(user: User, target: Path, hello: Callable[..., tuple[int, str]]) -> None:
    status, said = hello("-o", "allow_other", target)
    assert status != 0
    assert "allow_other" in said
    assert not fuse_mounts(user.place)


def test_what_a_mount_of_a_users_never_has(user: User, target: Path, hello: Callable[..., tuple[int, str]]) -> None:
    example = user.place / "hello"
    program = user.mounted(target, example, "-f", "-o", "suid,dev", target)
    assert {"nosuid", "nodev"} <= options_of(target)
    user.unmount(target)
    assert user.ended(program)[0] == 0


def test_the_mount_of_somebody_else_is_not_the_users_to_see_or_unmount(user: User, daemon: Daemon) -> None:
    place = user.place.parent / "roots"
    place.mkdir()
    roots = daemon.rawfs(place)
    done = user.do("sh", "-c", f"{user.exec} umount {place}")
    assert done.returncode != 0
    assert fuse_mounts(place)
    subprocess.run(["umount", place], check=True)
    assert roots.wait(PATIENCE) == 0
