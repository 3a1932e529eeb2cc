"""Answers made of stat results, seconds and nanoseconds hold what they were made of."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libperfuse import replies
from wire import codec


def seconds_of(found: codec.Attr) -> int:
    return found.mtime - (1 << 64) if found.mtime >> 63 else found.mtime


def test_attributes_of_a_file_are_those_that_stat_found(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 700)
    os.utime(path, ns=(1, -1_500_000_000))
    found = os.stat(path)
    made = replies.attr_of(found)
    assert (made.ino, made.size, made.blocks, made.mode) == (found.st_ino, 700, found.st_blocks, found.st_mode)
    assert (made.nlink, made.uid, made.gid, made.blksize) == (1, found.st_uid, found.st_gid, found.st_blksize)
    assert seconds_of(made) * 1_000_000_000 + made.mtimensec == -1_500_000_000
    codec.attr.build(made)


@given(st.integers(-(1 << 33), 1 << 34), st.integers(0, 999_999_999))
def test_a_time_of_any_year_fits_and_comes_back(seconds: int, nanoseconds: int) -> None:
    made = replies.attr(1, stat.S_IFREG, mtime_ns=seconds * 1_000_000_000 + nanoseconds)
    assert (seconds_of(made), made.mtimensec) == (seconds, nanoseconds)
    codec.attr.build(made)


@given(st.integers(0, 0xFFF), st.integers(0, 0xFFFFF))
def test_a_device_number_goes_to_the_kernel_and_comes_back(major: int, minor: int) -> None:
    device = os.makedev(major, minor)
    assert replies.user_device(replies.kernel_device(device)) == device


def test_blocks_follow_from_the_size() -> None:
    assert [replies.attr(1, 0, size=size).blocks for size in (0, 1, 512, 513)] == [0, 1, 1, 2]


def test_times_to_keep_something_are_split_into_seconds_and_nanoseconds() -> None:
    made = replies.entry_out(7, replies.attr(7, stat.S_IFDIR | 0o755), 1.5, 0.25)
    kept = (made.entry_valid, made.entry_valid_nsec, made.attr_valid, made.attr_valid_nsec)
    assert kept == (1, 500_000_000, 0, 250_000_000)
    assert replies.attr_out(made.attr, 2)[:3] == (2, 0, 0)


def test_no_entry_has_no_node() -> None:
    made = replies.no_entry(3.5)
    assert (made.nodeid, made.entry_valid, made.entry_valid_nsec) == (0, 3, 500_000_000)


def test_a_negative_time_to_keep_something_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0 or more, got -1"):
        replies.valid(-1)


def test_statfs_has_what_statvfs_found(tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    made = replies.statfs_out(found).st
    assert (made.blocks, made.bsize, made.frsize) == (found.f_blocks, found.f_bsize, found.f_frsize)
    assert (made.files, made.namelen) == (found.f_files, found.f_namemax)


def test_the_type_of_an_entry_is_that_which_the_directory_has(tmp_path: Path) -> None:
    made = tmp_path / "directory"
    made.mkdir()
    (made / "link").symlink_to("nowhere")
    assert [replies.dirent_type(os.lstat(each).st_mode) for each in (made, made / "link")] == [4, 10]
