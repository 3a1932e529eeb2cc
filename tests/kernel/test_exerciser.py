"""The exerciser passes on a filesystem that is right, and names what a wrong one does.

The faults are planted between the exerciser and the kernel, in its own table of calls.
"""

import errno
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from perfused import libc
from perfused.conformance.exerciser import Mismatch, Outcome, exercise, replay
from perfused.conformance.exerciser_calls import Calls
from perfused.conformance.exerciser_minimise import minimise
from perfused.conformance.exerciser_operations import LOOK_ALL, LOOK_SIZE, PAGE, Operation, Plan, plan
from perfused.conformance.exerciser_shared import exercise_shared
from tests.kernel.conftest import ROOT

#: enough of every kind of operation
OPERATIONS = 2_000
SMALL = 1 << 18


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """An empty tmpfs."""
    place = tmp_path / "tmpfs"
    place.mkdir()
    libc.mount(b"none", os.fsencode(place), b"tmpfs", 0, b"size=64m")
    yield place
    libc.umount2(os.fsencode(place), libc.MNT_DETACH)


@pytest.mark.parametrize("seed", range(6))
def test_a_right_filesystem_passes(tmpfs: Path, seed: int) -> None:
    outcome = exercise(tmpfs, seed, OPERATIONS)
    assert outcome.mismatch is None, outcome.mismatch.report()


def test_every_operation_that_tmpfs_has_is_done(tmpfs: Path) -> None:
    outcome = exercise(tmpfs, 1, OPERATIONS)
    absent = {"collapse_range", "insert_range", "zero_range", "zero_range_keep"}
    assert set(outcome.done) | absent == {each.name for each in outcome.plan.operations}


def test_what_the_filesystem_does_not_have_is_counted_and_left_out(tmpfs: Path) -> None:
    outcome = exercise(tmpfs, 1, OPERATIONS)
    assert outcome.unsupported["collapse_range"] > 0
    assert "collapse_range" not in outcome.done


def test_nothing_is_left_in_the_directory(tmpfs: Path) -> None:
    exercise(tmpfs, 1, 200)
    assert list(tmpfs.iterdir()) == []


def test_the_same_seed_makes_the_same_operations() -> None:
    assert plan(5, 500) == plan(5, 500)


def test_another_seed_makes_other_operations() -> None:
    assert plan(5, 500).operations != plan(6, 500).operations


def test_what_is_done_does_not_depend_on_the_filesystem(tmpfs: Path, tmp_path: Path) -> None:
    assert exercise(tmpfs, 3, 300).plan == exercise(tmp_path, 3, 300).plan


def test_a_list_survives_being_saved() -> None:
    made = plan(5, 200)
    assert Plan.from_json(made.to_json()) == made


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"seed": 1, "files": 1, "size": 65536, "operations": [{"name": "fly"}]}',
     '{"seed": 1, "files": 1, "size": 65536, "operations": [{"name": "pread", "file": 1}]}',
     '{"seed": 1, "files": 1, "size": 65536, "operations": [{"name": "pread", "length": "x"}]}'],
)  # fmt: skip
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no|Expecting"):
        Plan.from_json(text)


# Faults


class LosesAByte(Calls):
    """A pwrite(2) across the edge of a page writes a zero for its last byte."""

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        across = offset // PAGE != (offset + len(data) - 1) // PAGE
        return super().pwrite(fd, data[:-1] + b"\0" if across else data, offset)


class LeavesOldBytes(Calls):
    """What ftruncate(2) cut off is there again when the file grows."""

    def ftruncate(self, fd: int, size: int) -> None:
        old = self.pread(fd, 1 << 20, 0)
        kept = getattr(self, "kept", {})
        super().ftruncate(fd, size)
        inode = os.fstat(fd).st_ino
        if size < len(old):
            kept[inode] = old
        elif inode in kept and kept[inode][len(old) : size].strip(b"\0"):
            Calls.pwrite(self, fd, kept[inode][len(old) : size], len(old))
        self.kept = kept


class StaleMapping(Calls):
    """What a mapping showed when it was made it shows for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: dict[int, bytes] = {}

    def map(self, fd: int, length: int) -> mmap.mmap:
        made = super().map(fd, length)
        self.shown[id(made)] = made[:]
        return made

    def map_read(self, mapping: mmap.mmap, offset: int, length: int) -> bytes:
        return self.shown[id(mapping)][offset : offset + length]


class StaleSize(Calls):
    """fstat(2) shows one page less after a copy until something else is opened."""

    behind = 0

    def copy_range(self, source: int, target: int, length: int, source_offset: int, target_offset: int) -> int:
        before = os.fstat(target).st_size
        count = super().copy_range(source, target, length, source_offset, target_offset)
        self.behind = os.fstat(target).st_size - before
        return count

    def fstat(self, fd: int) -> os.stat_result:
        found = super().fstat(fd)
        fields = list(found)
        fields[6] -= self.behind
        self.behind = 0
        return os.stat_result(fields)


class HidesData(Calls):
    """SEEK_DATA always finds the last byte."""

    def seek(self, fd: int, offset: int, whence: int) -> int:
        found = super().seek(fd, offset, whence)
        return os.fstat(fd).st_size - 1 if whence == os.SEEK_DATA else found


class Unlinked(Calls):
    """A file that has lost its name cannot be read any more."""

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        if os.fstat(fd).st_nlink == 0:
            raise OSError(errno.ESTALE, "Stale file handle")
        return super().pread(fd, length, offset)


FAULTS = {
    LosesAByte: ("pwrite", {"pwrite"}),
    LeavesOldBytes: ("ftruncate", {"ftruncate"}),
    StaleMapping: ("map_read", {"map", "map_read"}),
    StaleSize: ("copy_range", {"copy_range"}),
    HidesData: ("seek", {"seek"}),
    Unlinked: ("unlink", {"unlink"}),
}


def planted(tmpfs: Path, fault: type[Calls], effort: int = 300) -> tuple[Outcome, Mismatch]:
    """A run on a faulty filesystem, everything looked at after each step, and what it found."""
    made = plan(11, OPERATIONS, size=SMALL)
    looked_at = tuple(Operation(**{**vars(each), "look": LOOK_ALL}) for each in made.operations)
    outcome = replay(tmpfs, Plan(made.seed, made.files, made.size, looked_at), effort, fault())
    assert outcome.mismatch is not None
    return outcome, outcome.mismatch


@pytest.mark.parametrize("fault", FAULTS)
def test_the_operation_that_went_wrong_is_named(tmpfs: Path, fault: type[Calls]) -> None:
    _, mismatch = planted(tmpfs, fault, effort=0)
    assert mismatch.operation is not None
    assert mismatch.operation.name == FAULTS[fault][0]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_minimised_list_is_short_and_has_what_it_takes(tmpfs: Path, fault: type[Calls]) -> None:
    _, mismatch = planted(tmpfs, fault)
    assert {each.name for each in mismatch.minimised.operations} >= FAULTS[fault][1]
    assert len(mismatch.minimised.operations) <= 7, mismatch.report()


@pytest.mark.parametrize("fault", FAULTS)
def test_the_minimised_list_still_fails_when_it_is_replayed(tmpfs: Path, fault: type[Calls]) -> None:
    _, mismatch = planted(tmpfs, fault)
    assert mismatch.again
    assert not replay(tmpfs, mismatch.minimised, 0, fault()).ok


def test_a_failure_that_does_not_come_again_is_said_to_be_one(tmpfs: Path) -> None:
    class Once(Calls):
        failed = False

        def append(self, fd: int, data: bytes) -> int:
            if not self.failed:
                self.failed = True
                raise OSError(errno.EIO, "once")
            return super().append(fd, data)

    mismatch = exercise(tmpfs, 1, 200, calls=Once()).mismatch
    assert mismatch is not None
    assert not mismatch.again
    assert "did not fail again" in mismatch.report()


@pytest.mark.parametrize("fault", FAULTS)
def test_the_minimised_list_passes_on_a_right_filesystem(tmpfs: Path, fault: type[Calls]) -> None:
    _, mismatch = planted(tmpfs, fault)
    assert replay(tmpfs, mismatch.minimised).ok


def test_the_report_has_the_first_byte_that_differs(tmpfs: Path) -> None:
    _, mismatch = planted(tmpfs, LosesAByte, effort=0)
    assert mismatch.offset is not None
    at = mismatch.offset - mismatch.start
    assert mismatch.expected[:at] == mismatch.got[:at]
    assert mismatch.expected[at : at + 1] != mismatch.got[at : at + 1]


def test_a_byte_that_is_found_wrong_late_is_traced_to_the_step_that_set_it(tmpfs: Path) -> None:
    steps = (
        Operation("ftruncate", offset=5 * PAGE, look=LOOK_SIZE),
        *(Operation("pwrite", length=100, offset=1000 * each, fill=each, look=LOOK_SIZE) for each in range(3)),
        Operation("pwrite", length=100, offset=PAGE - 50, fill=7, look=LOOK_SIZE),
        Operation("append", slot=2, length=50, fill=9, look=LOOK_SIZE),
    )
    mismatch = replay(tmpfs, Plan(0, 1, SMALL, steps), 0, LosesAByte()).mismatch
    assert mismatch is not None
    assert (mismatch.operation, mismatch.changed_by) == (None, 4)


def test_the_report_says_all_that_is_needed(tmpfs: Path) -> None:
    _, mismatch = planted(tmpfs, LosesAByte)
    report = mismatch.report()
    for part in ("seed 11", f"step {mismatch.step}: pwrite", f"at byte {mismatch.offset}", '"name": "pwrite"'):
        assert part in report


def test_a_mapping_whose_pages_cannot_be_had_is_an_error_and_not_a_signal(tmpfs: Path) -> None:
    calls = Calls()
    fd = calls.open(str(tmpfs / "file"), os.O_RDWR | os.O_CREAT)
    calls.ftruncate(fd, 8192)
    mapping = calls.map(fd, 8192)
    calls.ftruncate(fd, 0)
    with pytest.raises(OSError, match="Bad address"):
        calls.map_read(mapping, 0, 8192)
    mapping.close()
    calls.close(fd)
    calls.end()


# Making a list shorter


def test_what_has_no_part_in_a_failure_is_taken_out() -> None:
    assert minimise(range(100), lambda left: {7, 70} <= set(left), effort=1_000) == [7, 70]


def test_a_list_is_not_tried_more_often_than_allowed() -> None:
    tried = []
    minimise(range(100), lambda left: bool(tried.append(left)), effort=13)
    assert len(tried) == 13


# Many processes


@pytest.mark.parametrize("region", [1000, 4096])
def test_processes_on_regions_of_their_own_do_not_disturb_one_another(tmpfs: Path, region: int) -> None:
    assert exercise_shared(tmpfs, 4, 1_500, processes=4, size=SMALL, region=region) == []


class ForgetsAByte(Calls):
    """A pwrite(2) whose first byte is lost."""

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return super().pwrite(fd, b"\0" + data[1:], offset)


def test_a_byte_that_a_process_loses_is_found(tmpfs: Path) -> None:
    problems = exercise_shared(tmpfs, 4, 300, processes=2, size=SMALL, calls=ForgetsAByte)
    assert any("differs" in each for each in problems)


def test_the_parent_finds_what_no_process_reads_again(tmpfs: Path) -> None:
    (problem,) = exercise_shared(tmpfs, 4, 1, processes=1, size=4096, region=4096, calls=ForgetsAByte)
    assert "the file when all had ended" in problem


# The command


def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "perfused.conformance.exerciser", *map(str, words)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)


def test_the_command_exits_0_where_all_is_as_expected(tmpfs: Path) -> None:
    done = command(tmpfs, "--seed", "3", "--operations", "300", "--size", "64K")
    assert (done.returncode, done.stderr) == (0, "")
    assert "seed 3, 300 operations: all as expected" in done.stdout


def test_the_command_replays_a_saved_list(tmpfs: Path, tmp_path: Path) -> None:
    saved = tmp_path / "list.json"
    saved.write_text(plan(8, 40).to_json())
    done = command(tmpfs, "--replay", saved)
    assert done.returncode == 0, done.stderr
    assert "seed 8, 40 operations" in done.stdout


def test_the_command_exits_1_and_saves_a_list_where_something_differs(tmp_path: Path) -> None:
    place = tmp_path / "full"
    place.mkdir()
    libc.mount(b"none", os.fsencode(place), b"tmpfs", 0, b"size=64k")
    try:
        done = command(place, "--operations", "500", "--save", tmp_path / "list.json")
    finally:
        libc.umount2(os.fsencode(place), libc.MNT_DETACH)
    assert done.returncode == 1, done.stderr
    assert "ENOSPC" in done.stdout
    assert Plan.from_json((tmp_path / "list.json").read_text()).operations


def test_the_command_exits_2_for_an_operation_nobody_knows(tmpfs: Path) -> None:
    assert command(tmpfs, "--without", "flying").returncode == 2


@pytest.mark.parametrize(
    "words", [("--files", "0"), ("--size", "0"), ("--operations", "-1"), ("--save", "/nonexistent/list.json")]
)
def test_the_command_refuses_what_makes_no_sense_before_it_begins(tmpfs: Path, words: tuple[str, ...]) -> None:
    done = command(tmpfs, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "empty range" not in done.stderr


@pytest.mark.parametrize("shared", [(), ("--processes", "2")])
def test_a_directory_where_nothing_can_be_made_is_one_line_and_status_2(
    tmp_path: Path, shared: tuple[str, ...]
) -> None:
    place = tmp_path / "read-only"
    place.mkdir()
    libc.mount(b"none", os.fsencode(place), b"tmpfs", libc.MS_RDONLY, None)
    try:
        done = command(place, *shared)
    finally:
        libc.umount2(os.fsencode(place), libc.MNT_DETACH)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "Read-only file system" in done.stderr


def _begun(place: Path, *words: str, group: bool) -> subprocess.Popen[str]:
    """The command, when its directory has its file in it; with `group`, in a process group of its own."""
    line = [sys.executable, "-m", "perfused.conformance.exerciser", str(place), "--operations", "100000", *words]
    running = subprocess.Popen(
        line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0 if group else None
    )
    until = time.monotonic() + 30
    while not any(place.glob("exerciser-*/*")):
        assert running.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    return running


@pytest.mark.parametrize("words", [(), ("--processes", "2")])
@pytest.mark.parametrize(("number", "group"), [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, False)])
def test_a_command_that_is_told_to_end_leaves_nothing_behind(
    tmpfs: Path, words: tuple[str, ...], number: int, group: bool
) -> None:
    with _begun(tmpfs, *words, group=group) as running:
        if group:
            os.killpg(running.pid, number)
        else:
            running.send_signal(number)
        said = running.communicate(timeout=30)  # its end of file: no process of its own is left
    assert (running.returncode, *said) == (128 + number, "", "")
    assert os.listdir(tmpfs) == []


def test_processes_on_one_file_die_with_a_command_that_is_killed(tmpfs: Path) -> None:
    with _begun(tmpfs, "--processes", "2", group=False) as running:
        running.kill()
        assert running.communicate(timeout=30) == ("", "")
