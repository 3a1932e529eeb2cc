"""Names, directories and links on a filesystem under test: strange names, large directories, moves while in use."""

import errno
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernel import places
from tests.kernel.conftest import eventually
from tests.kernel.places import RENAME_EXCHANGE, RENAME_NOREPLACE, Process, entries, everywhere, fails, renameat2

standings, place_name, place_with, place, tree, source = places.FIXTURES
processes = places.processes

Start = Callable[..., Process]

MANY = 100_000


# Names


def test_a_name_of_255_bytes_that_are_no_text_is_kept(tree: Path) -> None:
    name = bytes(each for each in range(1, 256) if each != ord("/")) + b"\xff"
    assert len(name) == 255
    os.close(os.open(os.fsencode(tree) + b"/" + name, os.O_CREAT | os.O_WRONLY))
    assert os.listdir(os.fsencode(tree)) == [name]


def test_a_name_of_256_bytes_is_too_long(tree: Path) -> None:
    with fails(errno.ENAMETOOLONG):
        os.mkdir(os.fsencode(tree) + b"/" + b"n" * 256)


def test_a_link_points_to_bytes_that_are_no_text(tree: Path) -> None:
    pointed = b"\xff\xfe/" * 500
    os.symlink(pointed, os.fsencode(tree) + b"/link")
    assert os.readlink(os.fsencode(tree) + b"/link") == pointed


# Large directories


@pytest.fixture
def many(tree: Path, source: Path) -> Path:
    """A directory of MANY files. Nearly all are made underneath, where it costs less."""
    (tree / "many").mkdir()
    for number in range(MANY - 1000):
        os.mknod(f"{source}/many/{number:06}")
    for number in range(MANY - 1000, MANY):
        os.close(os.open(f"{tree}/many/{number:06}", os.O_CREAT | os.O_WRONLY))
    return tree / "many"


@everywhere
def test_each_of_many_entries_is_listed_once(many: Path) -> None:
    def complete() -> bool:
        # What was made underneath may be seen a cache time late.
        return sorted(os.listdir(many)) == [f"{number:06}" for number in range(MANY)]

    eventually(complete, "each entry once", 30)


@pytest.fixture
def thousand(tree: Path) -> Path:
    made = tree / "thousand"
    made.mkdir()
    for number in range(1_000):
        (made / f"{number:04}").touch()
    return made


def rest(fd: int) -> list[bytes]:
    """All further names of an open directory."""
    found: list[bytes] = []
    while piece := entries(fd):
        found += [name for name, _ in piece if name not in (b".", b"..")]
    return found


def test_entries_nobody_touches_are_listed_once_while_others_go(thousand: Path) -> None:
    fd = os.open(thousand, os.O_RDONLY)
    found = [name for name, _ in entries(fd) if name not in (b".", b"..")]
    gone = {f"{number:04}".encode() for number in range(0, 1_000, 2)}
    for name in gone:
        os.unlink(name, dir_fd=fd)
    found += rest(fd)
    os.close(fd)
    untouched = Counter(name for name in found if name not in gone)
    assert untouched == Counter(f"{number:04}".encode() for number in range(1, 1_000, 2))


def test_entries_nobody_touches_are_listed_once_while_others_come(thousand: Path) -> None:
    fd = os.open(thousand, os.O_RDONLY)
    found = [name for name, _ in entries(fd) if name not in (b".", b"..")]
    for number in range(500):
        (thousand / f"new{number}").touch()
    found += rest(fd)
    os.close(fd)
    assert Counter(name for name in found if not name.startswith(b"new")) == Counter(
        f"{number:04}".encode() for number in range(1_000)
    )


def test_a_listing_goes_on_from_where_one_seeks_to(thousand: Path) -> None:
    fd = os.open(thousand, os.O_RDONLY)
    entries(fd)
    second = entries(fd)
    after = [name for name, _ in second[10:]] + rest(fd)
    os.lseek(fd, second[9][1], os.SEEK_SET)
    assert rest(fd) == after
    os.close(fd)


def test_a_listing_starts_anew_from_the_beginning(thousand: Path) -> None:
    fd = os.open(thousand, os.O_RDONLY)
    first = rest(fd)
    (thousand / "0000").unlink()
    os.lseek(fd, 0, os.SEEK_SET)
    assert sorted(rest(fd)) == sorted(set(first) - {b"0000"})
    os.close(fd)


def test_listing_through_a_descriptor_that_was_read_before_is_complete(thousand: Path) -> None:
    fd = os.open(thousand, os.O_RDONLY)
    assert os.listdir(fd) == os.listdir(fd)
    os.close(fd)


def test_a_directory_has_itself_and_its_parent(tree: Path) -> None:
    (tree / "below").mkdir()
    fd = os.open(tree / "below", os.O_RDONLY)
    assert {name for name, _ in entries(fd)} == {b".", b".."}
    os.close(fd)


def test_a_directory_that_is_not_empty_stays(thousand: Path) -> None:
    with fails(errno.ENOTEMPTY):
        os.rmdir(thousand)


# Links


def test_links_are_counted(tree: Path) -> None:
    (tree / "one").touch()
    counts = [(tree / "one").stat().st_nlink]
    os.link(tree / "one", tree / "two")
    counts += [(tree / "one").stat().st_nlink, (tree / "two").stat().st_nlink]
    os.unlink(tree / "one")
    assert [*counts, (tree / "two").stat().st_nlink] == [1, 2, 2, 1]


def test_two_names_are_one_file(tree: Path) -> None:
    (tree / "one").touch()
    os.link(tree / "one", tree / "two")
    assert os.path.samefile(tree / "one", tree / "two")


def test_what_is_written_by_one_name_is_read_by_the_other(tree: Path) -> None:
    (tree / "one").touch()
    os.link(tree / "one", tree / "two")
    (tree / "one").write_bytes(b"data")
    assert (tree / "two").read_bytes() == b"data"


def test_a_directory_counts_its_directories_as_it_does_underneath(tree: Path, source: Path) -> None:
    for name in "abc":
        (tree / name).mkdir()
    (tree / "b").rmdir()
    assert tree.stat().st_nlink == source.stat().st_nlink


def test_a_name_that_is_taken_is_not_linked_over(tree: Path) -> None:
    (tree / "one").touch()
    (tree / "two").touch()
    with fails(errno.EEXIST):
        os.link(tree / "one", tree / "two")


def test_a_directory_has_no_second_name(tree: Path) -> None:
    (tree / "one").mkdir()
    with fails(errno.EPERM):
        os.link(tree / "one", tree / "two")


# Renaming what is in use


def test_an_open_file_is_renamed_and_goes_on(tree: Path) -> None:
    with open(tree / "old", "w+b", buffering=0) as file:
        file.write(b"before ")
        os.rename(tree / "old", tree / "new")
        file.write(b"after")
    assert (tree / "new").read_bytes() == b"before after"


def test_an_open_file_that_another_is_renamed_over_keeps_its_bytes(tree: Path) -> None:
    (tree / "other").write_bytes(b"other")
    with open(tree / "file", "w+b", buffering=0) as file:
        file.write(b"mine")
        os.rename(tree / "other", tree / "file")
        assert (os.pread(file.fileno(), 10, 0), os.fstat(file.fileno()).st_nlink) == (b"mine", 0)


def test_after_a_rename_over_an_open_file_the_name_has_the_other(tree: Path) -> None:
    (tree / "other").write_bytes(b"other")
    with open(tree / "file", "w+b", buffering=0):
        os.rename(tree / "other", tree / "file")
        assert ((tree / "file").read_bytes(), os.listdir(tree)) == (b"other", ["file"])


def test_a_rename_between_two_names_of_a_file_does_nothing(tree: Path) -> None:
    (tree / "one").touch()
    os.link(tree / "one", tree / "two")
    os.rename(tree / "one", tree / "two")
    assert sorted(os.listdir(tree)) == ["one", "two"]


def test_a_directory_is_renamed_with_somebody_in_it(tree: Path, processes: Start) -> None:
    (tree / "a" / "b").mkdir(parents=True)
    inside = processes(cwd=tree / "a" / "b")
    os.rename(tree / "a", tree / "c")
    inside.do("open('file', 'w').write('here')")
    assert (inside.do("os.getcwd()"), (tree / "c/b/file").read_text()) == (str(tree / "c/b"), "here")


def test_a_directory_is_renamed_with_descriptors_open_in_it(tree: Path) -> None:
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "file").write_bytes(b"data")
    directory, file = os.open(tree / "a" / "b", os.O_RDONLY), os.open(tree / "a/b/file", os.O_RDWR)
    os.rename(tree / "a", tree / "c")
    os.pwrite(file, b"more", 4)
    os.mkdir("made", dir_fd=directory)
    found = sorted(os.listdir(directory)), os.pread(file, 10, 0)
    for fd in (directory, file):
        os.close(fd)
    assert (found, (tree / "c/b/made").is_dir()) == ((["file", "made"], b"datamore"), True)


def test_a_deep_tree_is_moved_whole(tree: Path) -> None:
    below = Path(*(f"level{number}" for number in range(60)))
    (tree / "from" / below).mkdir(parents=True)
    (tree / "from" / below / "file").write_bytes(b"at the bottom")
    (tree / "to").mkdir()
    os.rename(tree / "from", tree / "to" / "moved")
    assert (tree / "to/moved" / below / "file").read_bytes() == b"at the bottom"


def test_after_a_directory_is_moved_its_parent_is_another(tree: Path) -> None:
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "c").mkdir()
    os.rename(tree / "a" / "b", tree / "c" / "b")
    assert os.path.samefile(tree / "c/b/..", tree / "c")


def test_a_directory_does_not_go_into_itself(tree: Path) -> None:
    (tree / "a" / "b").mkdir(parents=True)
    with fails(errno.EINVAL):
        os.rename(tree / "a", tree / "a" / "b" / "c")


def test_a_directory_is_not_renamed_over_one_that_is_not_empty(tree: Path) -> None:
    (tree / "a").mkdir()
    (tree / "b" / "c").mkdir(parents=True)
    with fails(errno.ENOTEMPTY, errno.EEXIST):
        os.rename(tree / "a", tree / "b")


def test_a_directory_that_was_removed_takes_no_entries(tree: Path) -> None:
    (tree / "gone").mkdir()
    fd = os.open(tree / "gone", os.O_RDONLY)
    os.rmdir(tree / "gone")
    with fails(errno.ENOENT):
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    assert os.listdir(fd) == []
    os.close(fd)


def needs(source: Path, flag: int) -> None:
    for name in ("one", "two"):
        (source / name).touch()
    try:
        renameat2(source / "one", source / ("two" if flag == RENAME_EXCHANGE else "three"), flag)
    except OSError as bad:
        pytest.skip(f"the filesystem underneath has no such rename: {bad.strerror}")
    finally:
        for each in source.iterdir():
            each.unlink()


def test_two_names_are_exchanged(tree: Path, source: Path) -> None:
    needs(source, RENAME_EXCHANGE)
    (tree / "a").write_bytes(b"first")
    (tree / "b").mkdir()
    (tree / "b" / "in").touch()
    renameat2(tree / "a", tree / "b", RENAME_EXCHANGE)
    assert ((tree / "b").read_bytes(), os.listdir(tree / "a")) == (b"first", ["in"])


def test_nothing_is_exchanged_with_a_name_that_is_free(tree: Path, source: Path) -> None:
    needs(source, RENAME_EXCHANGE)
    (tree / "a").touch()
    with fails(errno.ENOENT):
        renameat2(tree / "a", tree / "b", RENAME_EXCHANGE)


def test_a_name_that_is_taken_is_not_replaced_when_that_is_asked(tree: Path, source: Path) -> None:
    needs(source, RENAME_NOREPLACE)
    (tree / "a").write_bytes(b"first")
    (tree / "b").write_bytes(b"second")
    with fails(errno.EEXIST):
        renameat2(tree / "a", tree / "b", RENAME_NOREPLACE)
    assert (tree / "b").read_bytes() == b"second"


def test_a_name_that_is_free_is_taken_when_nothing_may_be_replaced(tree: Path, source: Path) -> None:
    needs(source, RENAME_NOREPLACE)
    (tree / "a").write_bytes(b"first")
    renameat2(tree / "a", tree / "b", RENAME_NOREPLACE)
    assert os.listdir(tree) == ["b"]


# Changed underneath


def test_what_is_made_underneath_appears(tree: Path, source: Path) -> None:
    assert not (tree / "new").exists()
    (source / "new").write_bytes(b"data")
    eventually((tree / "new").exists, "the new file is seen")
    assert (tree / "new").read_bytes() == b"data"


def test_what_is_made_underneath_is_listed(tree: Path, source: Path) -> None:
    assert os.listdir(tree) == []
    (source / "new").touch()
    eventually(lambda: os.listdir(tree) == ["new"], "the new file is listed")


def test_what_is_deleted_underneath_goes(tree: Path, source: Path) -> None:
    (tree / "file").touch()
    assert (tree / "file").exists()
    (source / "file").unlink()
    eventually(lambda: not (tree / "file").exists(), "the file is gone")


def test_the_size_of_a_file_changed_underneath_is_seen(tree: Path, source: Path) -> None:
    (tree / "file").write_bytes(b"four")
    assert (tree / "file").stat().st_size == 4
    os.truncate(source / "file", 1000)
    eventually(lambda: (tree / "file").stat().st_size == 1000, "the new size")


def test_the_content_of_a_file_changed_underneath_is_read_on_reopening(tree: Path, source: Path) -> None:
    (tree / "file").write_bytes(b"old bytes")
    assert (tree / "file").read_bytes() == b"old bytes"
    (source / "file").write_bytes(b"new bytes")
    eventually(lambda: (tree / "file").read_bytes() == b"new bytes", "the new content")


def test_a_file_replaced_underneath_is_the_new_one(tree: Path, source: Path) -> None:
    (tree / "file").write_bytes(b"old")
    assert (tree / "file").read_bytes() == b"old"
    (source / "other").write_bytes(b"replaced")
    os.rename(source / "other", source / "file")
    eventually(lambda: (tree / "file").read_bytes() == b"replaced", "the other file")


def test_a_file_open_while_it_is_replaced_underneath_keeps_its_bytes(tree: Path, source: Path) -> None:
    (tree / "file").write_bytes(b"old")
    with open(tree / "file", "rb", buffering=0) as file:
        (source / "other").write_bytes(b"replaced")
        os.rename(source / "other", source / "file")
        eventually(lambda: (tree / "file").read_bytes() == b"replaced", "the other file")
        assert os.pread(file.fileno(), 10, 0) == b"old"


def test_a_directory_renamed_underneath_is_found_by_its_new_name(tree: Path, source: Path) -> None:
    (tree / "a").mkdir()
    (tree / "a" / "file").write_bytes(b"data")
    os.rename(source / "a", source / "b")
    eventually(lambda: not (tree / "a").exists(), "the old name is gone")
    assert (tree / "b" / "file").read_bytes() == b"data"


def test_a_file_that_becomes_a_directory_underneath_is_one(tree: Path, source: Path) -> None:
    (tree / "it").touch()
    (source / "it").unlink()
    (source / "it").mkdir()
    eventually((tree / "it").is_dir, "a directory")


def test_a_mode_changed_underneath_is_seen(tree: Path, source: Path) -> None:
    (tree / "file").touch(0o600)
    assert (tree / "file").stat().st_mode & 0o777 == 0o600
    (source / "file").chmod(0o640)
    eventually(lambda: (tree / "file").stat().st_mode & 0o777 == 0o640, "the new mode")
