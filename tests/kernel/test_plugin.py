"""The plugin of pytest, as a filesystem's author uses it: pytest runs, in a process of its own, tests written here."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernel.conftest import ROOT, Daemon, fuse_mounts

LOOPBACK = f"{sys.executable} {ROOT / 'fixtures' / 'loopback.py'} --via {{via}} {{{{source}}}} {{{{mountpoint}}}}"
PLAIN = LOOPBACK.format(via="kernel")
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`run(text, *options)`: pytest on a file of tests; no mount is left by it."""

    def go(text: str, *options: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        (tmp_path / "test_mine.py").write_text(textwrap.dedent(text))
        (tmp_path / "pytest.ini").touch()
        words = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:hypothesispytest",  # of no use here, and slower to start than all the rest
            "-rs",
            "--strict-markers",
            *options,
            "--basetemp",
            str(tmp_path / "base"),
            "test_mine.py",
        ]
        env = os.environ | {"PYTHONPATH": str(ROOT)} | (environment or {})
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=55, check=False)
        assert fuse_mounts(tmp_path.parent) == [], done.stdout
        return done

    return go


WRITES = """
    import os

    def test_mine(fuse_mount):
        (fuse_mount.path / "x").write_text("y")
        assert (fuse_mount.source / "x").read_text() == "y"
        assert os.path.ismount(fuse_mount.path)
        assert fuse_mount.program.poll() is None
        assert "mounted on" in fuse_mount.log()
"""


def test_a_test_has_a_mounted_filesystem_from_the_command_line(run: Run) -> None:
    done = run(WRITES, "--fuse-command", PLAIN)
    assert "1 passed" in done.stdout, done.stdout


def test_the_command_may_stand_in_the_ini_file_or_at_the_test(run: Run, tmp_path: Path) -> None:
    marked = f"import pytest\npytestmark = pytest.mark.fuse(command={PLAIN.split()!r})\n" + textwrap.dedent(WRITES)
    done = run(marked)
    assert "1 passed" in done.stdout, done.stdout
    done = run(WRITES, "-o", f"fuse_command={PLAIN}")
    assert "1 passed" in done.stdout, done.stdout


def test_a_filesystem_runs_on_perfused_where_that_is_asked_for(run: Run, daemon: Daemon) -> None:
    done = run(WRITES, "--fuse-command", PLAIN, "--fuse-via", "perfused", environment=daemon.environment)
    assert "1 passed" in done.stdout, done.stdout
    assert "mnt: mounted, fuse.loopback" in daemon.log()


def test_each_test_has_a_directory_of_its_own(run: Run) -> None:
    text = """
        import pytest

        @pytest.mark.parametrize("number", range(2))
        def test_mine(fuse_mount, number):
            assert list(fuse_mount.path.iterdir()) == []
            (fuse_mount.path / "x").touch()
    """
    assert "2 passed" in run(text, "--fuse-command", PLAIN).stdout


def test_a_test_that_fails_leaves_no_mount_and_no_program(run: Run, tmp_path: Path) -> None:
    text = f"""
        from pathlib import Path
        import perfused.conformance.plugin as plugin
        plugin.PATIENCE = 1.0

        def test_mine(fuse_mount):
            Path({str(tmp_path / "pid")!r}).write_text(str(fuse_mount.program.pid))
            fuse_mount.kept = open(fuse_mount.path / "x", "w")
            assert False
    """
    done = run(text, "--fuse-command", PLAIN)
    assert "1 failed" in done.stdout
    assert not Path("/proc", (tmp_path / "pid").read_text()).exists()
    assert "mounted on" in done.stdout, "what the program said is shown"


def test_the_suite_passes_where_the_filesystem_is_right(run: Run) -> None:
    text = """
        def test_mine(fuse_mount):
            found = fuse_mount.conform(only=["unlink/open/content", "readlink/path"])
            assert found["cases"]
            assert fuse_mount.conform(only="statx/masks", native=False)["cases"]
    """
    done = run(text, "--fuse-command", PLAIN)
    assert "1 passed" in done.stdout, done.stdout


def test_the_suite_fails_the_test_and_names_the_assertions(run: Run) -> None:
    text = """
        def test_mine(fuse_mount):
            fuse_mount.conform(only="mkdir/modes")

        def test_other(fuse_mount):
            fuse_mount.conform(only="unlink/open")
    """
    done = run(text, "--fuse-command", f"{PLAIN} --read-only")
    assert "2 failed" in done.stdout
    assert "Read-only file system" in done.stdout


def test_an_assertion_that_does_not_hold_is_shown(run: Run) -> None:
    text = """
        def test_mine(fuse_mount):
            fuse_mount.conform(only="chmod/link/regular")
    """
    done = run(text, "--fuse-command", "mount -t tmpfs -o nosymfollow none {mountpoint}")
    assert "1 failed" in done.stdout
    assert "chmod/link/regular/root-chmod-success: chmod('ln', 0o511): expected success, got ELOOP" in done.stdout


def test_without_a_command_the_reason_is_told(run: Run) -> None:
    done = run(WRITES)
    assert "no command that mounts: give --fuse-command" in done.stdout


def test_a_command_that_does_not_mount_is_told_with_what_it_said(run: Run) -> None:
    done = run(WRITES, "--fuse-command", "sh -c 'echo cannot go on; exit 3'")
    assert "sh ended with status 3 and has not mounted" in done.stdout
    assert "cannot go on" in done.stdout


def test_who_is_not_root_skips(run: Run, tmp_path: Path) -> None:
    text = """
        import os
        os.geteuid = lambda: 7001

        def test_mine(fuse_mount):
            assert False
    """
    done = run(text, "--fuse-command", PLAIN)
    assert "not root: mounting needs CAP_SYS_ADMIN" in done.stdout
    assert "1 skipped" in done.stdout


def test_a_filesystem_that_answers_no_more_is_done_away_with(run: Run, tmp_path: Path) -> None:
    text = """
        import os, signal, perfused.conformance.plugin as plugin
        plugin.PATIENCE = 1.0

        def test_mine(fuse_mount):
            os.kill(fuse_mount.program.pid, signal.SIGSTOP)
    """
    done = run(text, "--fuse-command", PLAIN)
    assert "1 passed" in done.stdout, done.stdout
