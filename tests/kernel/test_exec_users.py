"""Under perfusectl exec a program has its own rights and no others, whoever it is by the time it asks."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.conftest import fuse_mounts
from tests.kernel.launching import Launcher, execs, launcher, options_for
from tests.kernel.ordinary import FIXTURES, USER, Ordinary, reachable

interpreter, daemon_of_all, ordinaries, ordinary = FIXTURES
__all__ = ["execs", "launcher"]

CAP_SYS_ADMIN = 21


@pytest.fixture
def theirs(launcher: Launcher, tmp_path: Path) -> Path:
    """A directory of the user's to mount on."""
    reachable(tmp_path)
    made = tmp_path / "theirs"
    made.mkdir()
    os.chown(made, USER, USER)
    return made


@pytest.fixture
def user(launcher: Launcher, ordinary: Ordinary) -> Any:
    """Run steps as the user, under exec from the start."""
    path = ordinary.place.parent / "exec"
    socket = launcher.environment["PERFUSED_SOCKET"]
    path.write_text(
        f"#!/bin/sh\nexport PERFUSED_SOCKET={socket} PERFUSE_NO_PRIVATE=1\nendpoint=$1; shift\n"
        f'{ordinary.interpreter} -m perfused.cli.control exec --endpoint $endpoint -- "$@"\n'
    )
    path.chmod(0o755)

    def run(endpoint: str, *steps: str) -> tuple[list[str], str]:
        words = (path, endpoint) if endpoint != "plain" else ()
        started = launcher.start(*words, launcher.execs, *steps, user=USER, group=USER, extra_groups=[], cwd="/")
        _, out, err = launcher.done(started)
        return out.splitlines(), err

    return run


@pytest.mark.parametrize("endpoint", ["socket", "device", "direct"])
def test_a_user_mounts_serves_and_unmounts(user: Any, ordinary: Ordinary, endpoint: str) -> None:
    target = ordinary.target()
    said, err = user(
        endpoint, "open /dev/fuse bc", f"mount execs {target} fuse 0 {options_for(uid=USER)}", "serve @0",
        f"open {target}/f r", "read @1", "close @1", f"umount {target} 0", f"umount {target} 0",
    )  # fmt: skip
    assert said == ["open 0", "mount 0", "serve 0", "open 0", "read 0", "close 0", "umount 0", "umount EPERM"], err
    assert fuse_mounts(target) == []


def test_a_user_registers_the_files_it_holds_open(user: Any, ordinary: Ordinary) -> None:
    target = ordinary.target()
    (ordinary.place / "behind").write_text("BEHIND")
    os.chown(ordinary.place / "behind", USER, USER)
    said, err = user(
        "socket", "open /dev/fuse bc", f"mount execs {target} fuse 0 {options_for(uid=USER)}", "serve @0",
        f"open {target}/f r", "close @1", f"open {ordinary.place}/behind r", "backing @0 @2", f"open {target}/f r",
        "read @3", "close @3", "unback @0", "backing @0 77", f"umount {target} 0",
    )  # fmt: skip
    assert said[6:] == ["backing 0", "open 0", "read 0", "close 0", "unback 0", "backing EBADF", "umount 0"], err


def test_what_a_user_may_not_is_one_line_with_the_reason(user: Any, ordinary: Ordinary, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    own = ordinary.target()
    said, err = user("socket", "open /dev/fuse bc", f"mount execs {foreign} fuse 0 {options_for(uid=USER)}",
                     f"mount execs {own} fuse 0 {options_for(uid=USER)},allow_other")  # fmt: skip
    assert said == ["open 0", "mount EPERM", "mount EPERM"]
    assert err.count("\n") == 2
    assert str(foreign) in err
    assert "allow_other" in err


def test_roots_program_that_becomes_a_user_is_a_user(launcher: Launcher, theirs: Path, target: Path) -> None:
    said = launcher.steps(
        "socket", f"user {USER}", "open /dev/fuse b", f"mount execs {target} fuse 0 {options_for(uid=USER)}",
        f"mount execs {theirs} fuse 0 {options_for(uid=USER)}", f"umount {theirs} 0",
    )  # fmt: skip
    assert [line for line in said if not line.startswith("stderr")] == [
        "user 0", "open 0", "mount EPERM", "mount 0", "umount 0",
    ]  # fmt: skip


def test_root_without_the_right_to_mount_gets_none_from_a_daemon_of_its_own(
    launcher: Launcher, tmp_path: Path, target: Path
) -> None:
    own = {"PERFUSED_SOCKET": str(tmp_path / "none"), "PERFUSE_NO_PRIVATE": "0"}
    said = launcher.steps(
        "socket", f"drop {CAP_SYS_ADMIN}", "open /dev/fuse b", f"mount execs {target} fuse 0 {options_for()}",
        environment=own,
    )  # fmt: skip
    assert "mount 0" not in said
    assert fuse_mounts(target) == []


def test_options_that_change_while_they_are_read_gain_nothing(launcher: Launcher, theirs: Path) -> None:
    fine = options_for(uid=USER)
    said = launcher.steps("socket", f"user {USER}", "open /dev/fuse b",
                          f"race mount 2 {fine},allow_other {fine},allow_othex {theirs}")  # fmt: skip
    assert "race none some" in said


def test_a_path_that_changes_while_it_is_read_gains_nothing(launcher: Launcher, tmp_path: Path) -> None:
    reachable(tmp_path)
    secret = tmp_path / "secret"
    secret.write_text("root's")
    secret.chmod(0o600)
    said = launcher.steps("socket", f"user {USER}", f"race open 2 {secret} {tmp_path}/fuse")
    assert "race none some" in said
