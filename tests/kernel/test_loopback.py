"""The loopback is exact: the POSIX suite and the exerciser find nothing, whatever the kernel may cache.

How it refuses and how it ends is in test_loopback_ends, what happens underneath it in test_loopback_source.
"""

import array
import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from perfused.conformance.exerciser import exercise
from perfused.conformance.exerciser_shared import REGION, exercise_shared
from perfused.conformance.filesystem.case import listed
from perfused.conformance.filesystem.facts import Facts
from perfused.conformance.filesystem.suite import cases
from tests.kernel import places
from tests.kernel.conftest import ROOT, eventually
from tests.kernel.loopbacks import Loopback
from tests.kernel.places import Process, Standings, fails, renameat2, tmpfs
from tests.kernel.test_loopback_semantics import USER, granting

#: the suite in pieces, since all of it may take longer than a test
PIECES = {
    "rename": ("rename/",),
    "open": ("open/", "access/", "bind/", "read/", "readlink/", "stat/", "statx/", "symlink/", "rmdir/"),
    "directories": ("readdir/",),
    "attributes": ("acl/", "setxattr/", "getxattr/", "listxattr/", "removexattr/", "fcntl/", "flock/"),
    "modes": ("chown/", "chmod/", "mk", "utimensat/"),
    "data": (
        "ftruncate/",
        "truncate/",
        "link/",
        "unlink/",
        "write/",
        "posix_fallocate/",
        "fallocate/",
        "lseek/",
        "mmap/",
    ),
    "copies": (
        "copy_file_range/",
        "splice/",
        "sendfile/",
        "fsync/",
        "fdatasync/",
        "sync",
        "fifo/",
        "device/",
        "socket/",
    ),
}
#: ways for the kernel to cache
MODES = {
    "default": (),
    "never": ("--cache", "never"),
    "always": ("--cache", "always"),
    "writeback": ("--writeback",),
    "direct": ("--direct-io",),
    "passthrough": ("--passthrough",),
}
RENAME_WHITEOUT = 4
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602
FS_NOATIME_FL, FS_IMMUTABLE_FL = 0x80, 0x10

Mount = Callable[..., Loopback]
processes, standings = places.processes, places.standings


@pytest.fixture
def mounted(standings: Standings, tmp_path: Path, watchdog: None) -> Iterator[Mount]:
    """Mount loopbacks through perfused: `mounted("--writeback", size="size=8m", source=None)`; each ends well, and
    complains of nothing."""
    made: list[Loopback] = []
    sources: list[Any] = []
    for each in (tmp_path, *list(tmp_path.parents)[:2]):
        each.chmod(0o755)

    def mount(*options: str, size: str = "size=1g", source: Path | None = None) -> Loopback:
        if source is None:
            held = tmpfs(tmp_path / f"source{len(made)}", size)
            source = held.__enter__()
            sources.append(held)
        target = tmp_path / f"mnt{len(made)}"
        target.mkdir()
        made.append(Loopback(source, target, *options, environment=standings.environment()))
        return made[-1]

    yield mount
    for each in made:
        each.ended() if each.process.poll() is not None else each.unmounted()
    for held in sources:
        held.__exit__(None, None, None)
    for each in made:
        assert (each.process.returncode, each.said()) == (0, "")


def suite(directory: Path, report: Path, *only: str) -> dict[str, Any]:
    """Run the POSIX suite: its report."""
    prefixes = [word for prefix in only for word in ("--only", prefix)]
    command = [sys.executable, "-m", "perfused.conformance.filesystem", directory, "--json", report, *prefixes]
    done = subprocess.run(command, capture_output=True, text=True, timeout=55, check=False, cwd=ROOT)
    assert report.exists(), done.stderr
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def failures(found: dict[str, Any]) -> list[str]:
    return [each["id"] for call in found["calls"] for each in call["failures"]]


def test_the_pieces_are_the_whole_suite() -> None:
    pieces = [name for piece in PIECES.values() for name in listed(cases(piece), Facts())]
    assert sorted(pieces) == sorted(listed(cases(), Facts()))


@pytest.mark.parametrize("piece", PIECES)
def test_every_assertion_of_the_posix_suite_holds(mounted: Mount, tmp_path: Path, piece: str) -> None:
    found = suite(mounted().target, tmp_path / "report", *PIECES[piece])
    assert failures(found) == []
    assert found["totals"]["assertions"] == len(list(listed(cases(PIECES[piece]), Facts())))
    # No more is left out than on tmpfs itself.
    lacking = ("64 MiB", "of fallocate(2)")
    assert all(any(each in reason for each in lacking) for call in found["calls"] for reason in call["skipped"])


def test_setuid_is_lost_also_where_the_kernel_writes_itself(mounted: Mount, tmp_path: Path) -> None:
    only = ("chmod/cleared", "write/", "open/old", "open/text-busy", "ftruncate/")
    assert failures(suite(mounted("--passthrough").target, tmp_path / "report", *only)) == []


def test_a_program_runs_while_somebody_reads_what_the_kernel_reads_itself(mounted: Mount) -> None:
    loopback = mounted("--passthrough")
    shutil.copy("/bin/true", loopback.target / "program")
    with open(loopback.target / "program", "rb") as file:
        assert file.read(4) == b"\x7fELF"
        for place in (loopback.target, loopback.source):
            assert subprocess.run([place / "program"], check=False, timeout=30).returncode == 0


@pytest.mark.parametrize("again", ["opened", "replaced"])
def test_what_the_kernel_reads_itself_is_the_file_that_was_opened(mounted: Mount, again: str) -> None:
    loopback = mounted("--passthrough", "--entry-timeout", "0")
    (loopback.target / "file").write_text("one")
    assert (loopback.target / "file").read_text() == "one"
    if again == "replaced":
        (loopback.source / "new").write_text("two")
        (loopback.source / "new").rename(loopback.source / "file")
    else:
        (loopback.source / "file").write_text("two")
    assert (loopback.target / "file").read_text() == "two"


def test_a_full_source_answers_as_the_suite_expects(mounted: Mount, tmp_path: Path) -> None:
    found = suite(mounted(size="size=8m").target, tmp_path / "report", "write/full", "posix_fallocate/full")
    assert found["totals"] == {"assertions": 9, "passed": 9, "failed": 0, "skipped": 0}, failures(found)


@pytest.mark.parametrize("seed", [11, 12])
@pytest.mark.parametrize("mode", MODES)
def test_random_operations_leave_what_they_should(mounted: Mount, mode: str, seed: int) -> None:
    # Without seek: Linux asks a FUSE filesystem for holes before it has written back what a mapping holds.
    outcome = exercise(mounted(*MODES[mode]).target, seed, 3_000, without=("seek",))
    assert outcome.mismatch is None, outcome.mismatch.report()
    assert {"map", "map_write", "pread_direct", "copy_range"} & set(outcome.unsupported) == set()


@pytest.mark.parametrize("mode", MODES)
def test_eight_processes_do_not_disturb_one_another(mounted: Mount, mode: str) -> None:
    # Where writes go past the page cache and mappings through it, Linux lets a page be written back over either.
    region = 4096 if mode in ("never", "direct") else REGION
    assert exercise_shared(mounted(*MODES[mode]).target, 5, 300, processes=8, size=1 << 18, region=region) == []


# What Linux adds to POSIX


def test_a_whiteout_is_left_where_it_is_asked_for(mounted: Mount) -> None:
    loopback = mounted()
    (loopback.target / "old").write_text("text")
    renameat2(loopback.target / "old", loopback.target / "new", RENAME_WHITEOUT)
    left = (loopback.source / "old").stat()
    assert ((loopback.target / "new").read_text(), left.st_mode & 0o170000, left.st_rdev) == ("text", 0o020000, 0)


def test_a_copy_ends_where_its_source_does(mounted: Mount) -> None:
    at = mounted().target
    (at / "from").write_bytes(b"0123456789")
    with open(at / "from", "rb") as source, open(at / "to", "wb") as to:
        copied = [os.copy_file_range(source.fileno(), to.fileno(), 100, start, 3 + start) for start in (4, 10, 1 << 40)]
    assert (copied, (at / "to").read_bytes()) == ([6, 0, 0], b"\0" * 7 + b"456789")


@pytest.fixture
def flagged(mounted: Mount, tmp_path: Path) -> Loopback:
    """A loopback over a filesystem that knows the flags of inodes."""
    source = tmp_path / "flagged"
    source.mkdir()
    try:
        flags(source, set_to=0)
    except OSError as bad:
        pytest.skip(f"the filesystem of {tmp_path} has no inode flags: {bad.strerror}")
    return mounted(source=source)


def flags(path: Path, set_to: int | None = None) -> int:
    """FS_IOC_GETFLAGS, after FS_IOC_SETFLAGS."""
    fd = os.open(path, os.O_RDONLY)
    try:
        held = array.array("l", [set_to or 0])
        if set_to is not None:
            fcntl.ioctl(fd, FS_IOC_SETFLAGS, held)
        fcntl.ioctl(fd, FS_IOC_GETFLAGS, held)
        return held[0]
    finally:
        os.close(fd)


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_flags_of_an_inode_are_set_and_read(flagged: Loopback, kind: str) -> None:
    path = flagged.target / "object"
    path.touch() if kind == "file" else path.mkdir()
    before = flags(path)
    assert flags(path, before | FS_NOATIME_FL) == before | FS_NOATIME_FL
    assert flags(flagged.source / "object") == before | FS_NOATIME_FL


def test_an_immutable_file_is_not_changed(flagged: Loopback) -> None:
    path = flagged.target / "file"
    path.write_text("text")
    before = flags(path)
    flags(path, before | FS_IMMUTABLE_FL)
    try:
        with fails(errno.EPERM):
            path.write_text("other")
        with fails(errno.EPERM):
            path.unlink()
    finally:
        flags(path, before)


# Options


def test_nothing_is_changed_through_a_read_only_mount(mounted: Mount, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("text")
    at = mounted("--read-only", source=source).target
    changes: list[Callable[[], object]] = [
        lambda: (at / "new").touch(), lambda: (at / "new").mkdir(), lambda: (at / "file").unlink(),
        lambda: (at / "file").chmod(0), lambda: (at / "file").write_text(""), lambda: os.truncate(at / "file", 0),
        lambda: os.setxattr(at / "file", "user.x", b""), lambda: os.utime(at / "file"),
        lambda: os.rename(at / "file", at / "new"), lambda: os.link(at / "file", at / "new"),
    ]  # fmt: skip
    for change in changes:
        with fails(errno.EROFS):
            change()
    assert ((at / "file").read_text(), os.listdir(source)) == ("text", ["file"])


def test_without_lists_the_mode_alone_decides(mounted: Mount, processes: Callable[..., Process]) -> None:
    at = mounted("--no-acl").target
    (at / "file").touch(0o600)
    os.setxattr(at / "file", "system.posix_acl_access", granting(4))
    assert os.getxattr(at / "file", "system.posix_acl_access") == granting(4)
    with fails(errno.EACCES):
        processes(user=USER, cwd=at).do("open('file')")


# Many objects


def test_a_hundred_thousand_entries_are_listed_and_reached(mounted: Mount) -> None:
    loopback = mounted(size="size=1g,nr_inodes=200k")
    for number in range(100):
        (loopback.source / f"{number:03}").mkdir()
        fd = os.open(loopback.source / f"{number:03}", os.O_RDONLY)
        for each in range(1_000):
            os.close(os.open(f"{each:04}", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        os.close(fd)
    listed_there = [(at, name) for at in os.listdir(loopback.target) for name in os.listdir(loopback.target / at)]
    assert len(set(listed_there)) == 100_000
    assert {(loopback.target / at / name).stat().st_size for at, name in listed_there[::20]} == {0}


def descriptors(loopback: Loopback) -> int:
    return len(os.listdir(f"/proc/{loopback.process.pid}/fd"))


def test_at_the_limit_of_descriptors_that_caller_is_told_and_others_go_on(mounted: Mount) -> None:
    loopback = mounted("--descriptors", "256")
    (loopback.target / "known").write_text("text")
    for number in range(300):
        (loopback.source / f"{number:03}").touch()
    with open(loopback.target / "known", "r+b", buffering=0) as known:
        with fails(errno.EMFILE):
            for number in range(300):
                (loopback.target / f"{number:03}").stat()
        with fails(errno.EMFILE):
            (loopback.target / "new").mkdir()
        assert not (loopback.source / "new").exists()
        assert (known.read(), known.write(b"more")) == (b"text", 4)
        assert len(os.listdir(loopback.target)) == 301
        assert (loopback.target / "000").read_bytes() == b""


def test_descriptors_come_back_when_the_kernel_forgets(mounted: Mount) -> None:
    loopback = mounted()
    before = descriptors(loopback)
    for number in range(500):
        (loopback.target / str(number)).touch()
    assert descriptors(loopback) >= before + 500

    def forgotten() -> bool:
        Path("/proc/sys/vm/drop_caches").write_text("2")
        return descriptors(loopback) <= before + 20

    eventually(forgotten, "the objects are forgotten", 30)
    assert (loopback.target / "77").stat().st_size == 0
