"""The POSIX suite: all of it holds on tmpfs, and it says so where a mount breaks the rules.

It runs as a program of its own, since it changes the working directory, the umask and forks.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from perfused import libc
from perfused.conformance.filesystem.case import listed
from perfused.conformance.filesystem.facts import Facts
from perfused.conformance.filesystem.suite import cases
from tests.kernel.conftest import ROOT

#: the fewest assertions that the suite may have
LEAST = 36_000
#: what every large filesystem skips
FULL = ("write/full", "posix_fallocate/full")


@dataclass
class Run:
    """What the program printed, wrote and returned."""

    status: int
    printed: str
    complaint: str
    found: dict[str, Any]

    def failures(self) -> dict[str, dict[str, str]]:
        """Failed assertions by id."""
        return {each["id"]: each for call in self.found["calls"] for each in call["failures"]}

    def skipped(self) -> dict[str, int]:
        """Reason -> assertions."""
        reasons: Counter[str] = Counter()
        for call in self.found["calls"]:
            reasons.update(call["skipped"])
        return dict(reasons)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mount tmpfs: `mounted(flags=0, options="")`."""
    places: list[Path] = []

    def mount(flags: int = 0, options: str = "") -> Path:
        place = tmp_path / f"tmpfs{len(places)}"
        place.mkdir()
        libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", flags, options.encode() or None)
        places.append(place)
        return place

    yield mount
    for place in places:
        libc.umount2(os.fsencode(place), libc.MNT_DETACH)


@pytest.fixture
def suite(tmp_path: Path) -> Callable[..., Run]:
    """Run the program: `suite(directory, "prefix", ...)`."""

    def run(directory: Path, *only: str) -> Run:
        report = tmp_path / "report.json"
        report.unlink(missing_ok=True)
        prefixes = [word for prefix in only for word in ("--only", prefix)]
        command = [sys.executable, "-m", "perfused.conformance.filesystem", directory, "--json", report, *prefixes]
        done = subprocess.run(command, capture_output=True, text=True, timeout=55, check=False, cwd=ROOT)
        found = json.loads(report.read_text()) if report.exists() else {}
        return Run(done.returncode, done.stdout, done.stderr, found)

    return run


def test_every_assertion_holds_on_tmpfs(mounted: Callable[..., Path], suite: Callable[..., Run]) -> None:
    run = suite(mounted())
    assert run.failures() == {}
    assert run.status == 0, run.complaint
    assert run.found["totals"]["passed"] >= LEAST
    allowed = ("64 MiB", "namespace", "of fallocate(2)")  # tmpfs has not all modes of it
    assert all(any(each in reason for each in allowed) for reason in run.skipped())


def test_a_full_filesystem_is_asked_about_where_filling_it_is_cheap(
    mounted: Callable[..., Path], suite: Callable[..., Run]
) -> None:
    run = suite(mounted(options="size=8m"), *FULL)
    assert run.found["totals"] == {"assertions": 9, "passed": 9, "failed": 0, "skipped": 0}, run.printed


def test_ids_are_unique() -> None:
    names = Counter(listed(cases(), Facts()))
    assert [name for name, count in names.items() if count > 1] == []


def test_as_many_assertions_are_made_as_are_listed(mounted: Callable[..., Path], suite: Callable[..., Run]) -> None:
    only = ("mkdir", "symlink", "unlink/sticky")
    run = suite(mounted(), *only)
    assert run.found["totals"]["assertions"] == len(list(listed(cases(only), Facts())))


def test_a_prefix_chooses_one_assertion_with_the_case_it_is_in(
    mounted: Callable[..., Path], suite: Callable[..., Run]
) -> None:
    run = suite(mounted(), "rename/over/dir-on-fifo/one-ENOTDIR")
    assert [call["name"] for call in run.found["calls"]] == ["rename"]
    assert run.found["totals"]["passed"] == 6, run.printed


def test_a_mount_that_does_not_follow_links_fails_and_is_told_how(
    mounted: Callable[..., Path], suite: Callable[..., Run]
) -> None:
    run = suite(mounted(libc.MS_NOSYMFOLLOW), "chmod/link", "chmod/mode/")
    failures = run.failures()
    assert run.status == 1
    assert failures["chmod/link/fifo/root-chmod-success"] == {
        "id": "chmod/link/fifo/root-chmod-success",
        "call": "chmod('ln', 0o511)",
        "expected": "success",
        "got": "ELOOP",
    }
    assert not any(name.startswith("chmod/mode/") for name in failures)
    assert "FAILED chmod/link/fifo/root-chmod-success" in run.printed
    assert "chmod('ln', 0o511): expected success, got ELOOP" in run.printed


def test_a_call_without_effect_is_noticed_by_the_times_that_stay(
    mounted: Callable[..., Path], suite: Callable[..., Run]
) -> None:
    run = suite(mounted(libc.MS_NOSYMFOLLOW), "chmod/link/regular")
    assert "chmod/link/regular/x-ctime-moves" in run.failures()


def test_what_cannot_be_set_up_fails_with_all_its_assertions(
    mounted: Callable[..., Path], suite: Callable[..., Run]
) -> None:
    run = suite(mounted(options="nr_inodes=12"), "link/follow")
    names = set(listed(cases(("link/follow",)), Facts()))
    assert run.found["totals"]["assertions"] == len(names)
    assert any(each["got"].endswith("ENOSPC") for each in run.failures().values())


def test_a_mount_without_devices_skips_opening_them_and_says_why(
    mounted: Callable[..., Path], suite: Callable[..., Run]
) -> None:
    run = suite(mounted(libc.MS_NODEV), "open/flags/char", "mknod/new/mknod-char")
    assert run.status == 0, run.printed
    assert list(run.skipped()) == ["mounted nodev"]
    assert "mounted nodev" in run.printed


def test_a_read_only_mount_is_one_line_and_status_two(mounted: Callable[..., Path], suite: Callable[..., Run]) -> None:
    run = suite(mounted(libc.MS_RDONLY))
    assert (run.status, run.found) == (2, {})
    assert "Read-only file system" in run.complaint
    assert len(run.complaint.splitlines()) == 1


def test_nothing_is_left_behind(mounted: Callable[..., Path], suite: Callable[..., Run]) -> None:
    place = mounted()
    suite(place, "mkdir", "rename/busy", "open/text-busy", "unlink/open")
    assert os.listdir(place) == []


@pytest.mark.parametrize(("number", "group"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_a_suite_that_is_told_to_end_leaves_nothing_behind(
    mounted: Callable[..., Path], number: int, group: bool
) -> None:
    place = mounted()
    line = [sys.executable, "-m", "perfused.conformance.filesystem", str(place)]
    with subprocess.Popen(
        line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0 if group else None
    ) as running:
        until = time.monotonic() + 30
        while not any(place.glob("posix-suite-*/*")):
            assert running.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
        if group:
            os.killpg(running.pid, number)
        else:
            running.send_signal(number)
        said = running.communicate(timeout=30)  # its end of file: no process of its own is left
    assert (running.returncode, *said) == (128 + number, b"", b"")
    assert os.listdir(place) == []


def test_where_the_findings_cannot_be_written_nothing_is_asked(mounted: Callable[..., Path]) -> None:
    line = [
        sys.executable,
        "-m",
        "perfused.conformance.filesystem",
        str(mounted()),
        "--json",
        "/nonexistent/found.json",
    ]
    done = subprocess.run(line, capture_output=True, text=True, timeout=55, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no directory /nonexistent" in done.stderr


def test_the_ids_are_printed_without_a_directory() -> None:
    command = [sys.executable, "-m", "perfused.conformance.filesystem", "--list", "--only", "rmdir/dots"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=55, check=True, cwd=ROOT)
    assert "rmdir/dots/dot-EINVAL" in done.stdout.splitlines()
