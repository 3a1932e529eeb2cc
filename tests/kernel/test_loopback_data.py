"""Data arrives whole on a filesystem under test: random operations, large files, mappings, many writers, a full one."""

import errno
import mmap
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from perfused.conformance.exerciser import exercise
from perfused.conformance.exerciser_shared import exercise_shared
from tests.kernel import places
from tests.kernel.conftest import eventually
from tests.kernel.places import Place, Process, everywhere, fails

standings, place_name, place_with, place, tree, source = places.FIXTURES
processes = places.processes

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

Start = Callable[..., Process]


# The exerciser


@everywhere
@pytest.mark.parametrize("seed", range(3))
def test_random_operations_leave_what_they_should(place: Place, seed: int) -> None:
    # FUSE in the kernel asks for holes without first writing back what a mapping has; seek_synced is left in.
    without = () if place.name == "native" else ("seek",)
    outcome = exercise(place.tree, seed, 1_000, size=256 * KIB, without=without)
    assert outcome.mismatch is None, outcome.mismatch.report()


def test_processes_on_regions_of_their_own_do_not_disturb_one_another(tree: Path) -> None:
    assert exercise_shared(tree, 1, 400, processes=4, size=256 * KIB) == []


def test_what_was_written_is_what_is_underneath(tree: Path, source: Path) -> None:
    data = os.urandom(3 * MIB + 17)
    (tree / "file").write_bytes(data)
    assert (source / "file").read_bytes() == data


# Large files


def test_a_byte_beyond_4_gib_is_read_back(tree: Path) -> None:
    with open(tree / "large", "w+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"far out", 5 * GIB)
        assert os.pread(file.fileno(), 100, 5 * GIB - 3) == b"\0\0\0far out"


def test_the_size_of_a_file_beyond_4_gib_is_told(tree: Path) -> None:
    with open(tree / "large", "wb", buffering=0) as file:
        os.pwrite(file.fileno(), b"x", 5 * GIB)
    assert (tree / "large").stat().st_size == 5 * GIB + 1


def test_what_lies_before_a_byte_beyond_4_gib_is_a_hole(tree: Path) -> None:
    with open(tree / "large", "wb", buffering=0) as file:
        os.pwrite(file.fileno(), b"x", 5 * GIB)
    assert (tree / "large").stat().st_blocks * 512 < MIB


def test_a_hole_of_5_gib_is_skipped_by_seeking_data(tree: Path) -> None:
    with open(tree / "large", "w+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"x", 5 * GIB)
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 5 * GIB


def test_a_file_grows_by_truncation_beyond_4_gib(tree: Path) -> None:
    path = tree / "large"
    path.write_bytes(b"start")
    os.truncate(path, 6 * GIB)
    with open(path, "rb", buffering=0) as file:
        found = path.stat().st_size, os.pread(file.fileno(), 7, 0), os.pread(file.fileno(), 9, 6 * GIB - 4)
    assert found == (6 * GIB, b"start\0\0", bytes(4))


def test_a_file_shrinks_by_truncation_beyond_4_gib(tree: Path) -> None:
    with open(tree / "large", "w+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"abc", 5 * GIB)
        file.truncate(5 * GIB + 1)
        assert os.pread(file.fileno(), 10, 5 * GIB) == b"a"


# Mappings


def mapped(path: Path, size: int = 2 * mmap.PAGESIZE) -> tuple[int, mmap.mmap]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    if os.fstat(fd).st_size < size:
        os.ftruncate(fd, size)
    return fd, mmap.mmap(fd, size)


def test_two_openings_map_the_same_bytes(tree: Path) -> None:
    (one, first), (two, second) = mapped(tree / "file"), mapped(tree / "file")
    first[5000:5005] = b"hello"
    assert second[5000:5005] == b"hello"
    for each in (first, second):
        each.close()
    for fd in (one, two):
        os.close(fd)


@everywhere
def test_two_processes_map_the_same_bytes(tree: Path, processes: Start) -> None:
    fd, mapping = mapped(tree / "file")
    other = processes()
    other.do(f"fd = os.open({str(tree / 'file')!r}, os.O_RDWR)")
    other.do("mapping = mmap.mmap(fd, 0)")
    other.do("mapping[5000:5005] = b'hello'")
    assert mapping[5000:5005] == b"hello"
    mapping.close()
    os.close(fd)


def test_what_is_written_through_a_mapping_is_read_by_descriptor(tree: Path) -> None:
    fd, mapping = mapped(tree / "file")
    mapping[4090:4100] = b"0123456789"
    assert os.pread(fd, 10, 4090) == b"0123456789"
    mapping.close()
    os.close(fd)


def test_what_is_written_by_descriptor_is_seen_through_a_mapping(tree: Path) -> None:
    fd, mapping = mapped(tree / "file")
    assert mapping[4090:4100] == bytes(10)
    os.pwrite(fd, b"0123456789", 4090)
    assert mapping[4090:4100] == b"0123456789"
    mapping.close()
    os.close(fd)


def test_msync_brings_a_mapping_to_what_is_underneath(tree: Path, source: Path) -> None:
    fd, mapping = mapped(tree / "file")
    mapping[100:103] = b"abc"
    mapping.flush()
    assert (source / "file").read_bytes()[100:103] == b"abc"
    mapping.close()
    os.close(fd)


def test_a_mapping_outlives_its_descriptor(tree: Path) -> None:
    fd, mapping = mapped(tree / "file")
    os.close(fd)
    mapping[0:3] = b"abc"
    mapping.close()
    assert (tree / "file").read_bytes()[:3] == b"abc"


def test_a_mapping_outlives_the_name_of_its_file(tree: Path) -> None:
    fd, mapping = mapped(tree / "file")
    os.unlink(tree / "file")
    mapping[0:3] = b"abc"
    assert os.pread(fd, 3, 0) == b"abc"
    mapping.close()
    os.close(fd)


# Appending


@everywhere
def test_eight_writers_append_whole_records_and_lose_none(tree: Path, processes: Start) -> None:
    writers, records = 8, 100
    path = tree / "log"
    path.touch()
    started = [processes() for _ in range(writers)]
    for writer in started:
        writer.do(f"fd = os.open({str(path)!r}, os.O_WRONLY | os.O_APPEND)")
    for number, writer in enumerate(started):
        writer.begin(
            f"for at in range({records}):\n"
            f"    os.write(fd, f'{number:02d} {{at:04d}} '.encode().ljust(120 + {number}, b'.') + b'\\n')"
        )
    for writer in started:
        writer.result()
    found = sorted(re.findall(rb"^(\d\d) (\d{4}) \.+$", path.read_bytes(), re.MULTILINE))
    assert found == [(b"%02d" % writer, b"%04d" % at) for writer in range(writers) for at in range(records)]


# Files without names


@everywhere
def test_an_unlinked_file_is_still_written_and_read(tree: Path) -> None:
    with open(tree / "file", "w+b", buffering=0) as file:
        file.write(b"before ")
        os.unlink(tree / "file")
        file.write(b"after")
        assert os.pread(file.fileno(), 100, 0) == b"before after"


def test_two_openings_of_an_unlinked_file_see_one_another(tree: Path) -> None:
    with open(tree / "file", "w+b", buffering=0) as one, open(tree / "file", "r+b", buffering=0) as two:
        os.unlink(tree / "file")
        one.write(b"hello")
        assert two.read() == b"hello"


def test_an_unlinked_file_is_truncated_and_stated(tree: Path) -> None:
    with open(tree / "file", "w+b", buffering=0) as file:
        file.write(bytes(1000))
        os.unlink(tree / "file")
        file.truncate(10)
        found = os.fstat(file.fileno())
    assert (found.st_size, found.st_nlink) == (10, 0)


def test_a_new_file_of_the_old_name_is_another_file(tree: Path) -> None:
    with open(tree / "file", "w+b", buffering=0) as file:
        file.write(b"old")
        os.unlink(tree / "file")
        (tree / "file").write_bytes(b"new")
        assert os.pread(file.fileno(), 10, 0) == b"old"


def needs_tmpfile(source: Path) -> None:
    try:
        os.close(os.open(source, os.O_TMPFILE | os.O_RDWR))
    except OSError as bad:
        pytest.skip(f"the filesystem underneath has no O_TMPFILE: {bad.strerror}")


def test_a_file_made_without_a_name_is_in_no_directory(tree: Path, source: Path) -> None:
    needs_tmpfile(source)
    fd = os.open(tree, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, b"hidden")
    assert (os.listdir(tree), os.pread(fd, 10, 0), os.fstat(fd).st_nlink) == ([], b"hidden", 0)
    os.close(fd)


def test_a_file_made_without_a_name_gets_one(tree: Path, source: Path) -> None:
    needs_tmpfile(source)
    fd = os.open(tree, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, b"found")
    # With a directory descriptor this is linkat(2) with AT_SYMLINK_FOLLOW.
    os.link(f"/proc/self/fd/{fd}", tree / "name", src_dir_fd=fd, follow_symlinks=True)
    os.close(fd)
    assert ((tree / "name").read_bytes(), (tree / "name").stat().st_nlink) == (b"found", 1)


def test_a_file_made_without_a_name_for_ever_gets_none(tree: Path, source: Path) -> None:
    needs_tmpfile(source)
    fd = os.open(tree, os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o600)
    with fails(errno.ENOENT):
        os.link(f"/proc/self/fd/{fd}", tree / "name", src_dir_fd=fd, follow_symlinks=True)
    os.close(fd)


# No room


@pytest.fixture
def small(place_with: Callable[[str], Place]) -> Path:
    """A tree with room for 2 MiB and 20 files."""
    return place_with("size=2m,nr_inodes=21").tree


def fill(path: Path) -> None:
    """Write 8 MiB, synced after each piece."""
    with open(path, "ab", buffering=0) as file:
        for _ in range(128):
            file.write(bytes(64 * KIB))
            os.fsync(file.fileno())


@everywhere
def test_a_full_filesystem_says_so(small: Path) -> None:
    with fails(errno.ENOSPC):
        fill(small / "file")


def test_room_that_was_made_can_be_used(small: Path) -> None:
    with fails(errno.ENOSPC):
        fill(small / "file")
    os.unlink(small / "file")

    def fits() -> bool:
        # What a file held is given back when the last who has it open is done with it, which may be after unlink(2).
        try:
            (small / "other").write_bytes(bytes(MIB))
        except OSError as bad:
            if bad.errno != errno.ENOSPC:
                raise
            return False
        return True

    eventually(fits, "room after deletion")


def test_space_cannot_be_reserved_where_there_is_none(small: Path) -> None:
    with open(small / "file", "wb") as file, fails(errno.ENOSPC):
        os.posix_fallocate(file.fileno(), 0, 8 * MIB)


def test_no_file_is_made_where_none_fits(small: Path) -> None:
    with fails(errno.ENOSPC):
        for number in range(30):
            (small / str(number)).touch()


def test_free_space_is_told(small: Path) -> None:
    (small / "file").write_bytes(bytes(MIB))
    found = os.statvfs(small)
    assert (found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize) == (2 * MIB, MIB)
