"""Locks between processes hold on a filesystem under test as they do on the one behind it."""

import errno
import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from fcntl import F_GETLK, F_RDLCK, F_SETLK, F_SETLKW, F_UNLCK, F_WRLCK, LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN
from pathlib import Path

import pytest

from tests.kernel import places
from tests.kernel.conftest import eventually
from tests.kernel.places import F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW, Process, everywhere, fails, holder, lock

standings, place_name, place_with, place, tree, source = places.FIXTURES
processes = places.processes

#: what a lock in the way is answered with (POSIX allows both)
BUSY = (errno.EAGAIN, errno.EACCES)

Opener = Callable[[], Process]


@pytest.fixture
def file(tree: Path) -> Path:
    path = tree / "file"
    path.write_bytes(bytes(1000))
    return path


@pytest.fixture
def fd(file: Path) -> Iterator[int]:
    """The test's own descriptor of it."""
    opened = os.open(file, os.O_RDWR)
    yield opened
    os.close(opened)


@pytest.fixture
def other(processes: Callable[..., Process], file: Path) -> Opener:
    """Another process with the file open: there `fd` is its descriptor, and `put` locks as `fcntl(2)` does."""

    def start() -> Process:
        process = processes()
        process.do(f"fd = os.open({str(file)!r}, os.O_RDWR)")
        process.do(
            "def put(kind, start=0, length=0, how=fcntl.F_SETLK):\n"
            "    fcntl.fcntl(fd, how, struct.pack('hhqqi4x', kind, os.SEEK_SET, start, length, 0))"
        )
        return process

    return start


def put(fd: int, kind: int, start: int = 0, length: int = 0, how: int = F_SETLK) -> None:
    fcntl.fcntl(fd, how, lock(kind, start, length))


def comes_free(take: Callable[[], None]) -> None:
    """A lock that nobody waits to see released can be had, if not at once."""

    def had() -> bool:
        try:
            take()
        except BlockingIOError:
            return False
        return True

    eventually(had, "the lock comes free")


# POSIX locks


def test_an_exclusive_lock_keeps_another_process_out(fd: int, other: Opener) -> None:
    other().do(f"put({F_WRLCK})")
    with fails(*BUSY):
        put(fd, F_RDLCK)


def test_shared_locks_stand_beside_one_another(fd: int, other: Opener) -> None:
    other().do(f"put({F_RDLCK})")
    put(fd, F_RDLCK)


def test_a_shared_lock_keeps_an_exclusive_one_out(fd: int, other: Opener) -> None:
    other().do(f"put({F_RDLCK})")
    with fails(*BUSY):
        put(fd, F_WRLCK)


def test_locks_of_ranges_apart_do_not_meet(fd: int, other: Opener) -> None:
    other().do(f"put({F_WRLCK}, 0, 100)")
    put(fd, F_WRLCK, 100, 100)


def test_a_lock_up_to_the_end_covers_what_the_file_does_not_reach(fd: int, other: Opener) -> None:
    other().do(f"put({F_WRLCK}, 500)")
    with fails(*BUSY):
        put(fd, F_WRLCK, 1 << 40, 1)


def test_unlocking_the_middle_splits_a_lock(fd: int, other: Opener) -> None:
    process = other()
    process.do(f"put({F_WRLCK}, 0, 100)")
    process.do(f"put({F_UNLCK}, 40, 20)")
    found = [holder(fd, F_WRLCK, start, 0) for start in (0, 40)]
    assert found == [(F_WRLCK, 0, 40, process.pid), (F_WRLCK, 60, 40, process.pid)]


def test_what_was_unlocked_in_the_middle_can_be_had(fd: int, other: Opener) -> None:
    process = other()
    process.do(f"put({F_WRLCK}, 0, 100)")
    process.do(f"put({F_UNLCK}, 40, 20)")
    put(fd, F_WRLCK, 40, 20)


def test_locks_side_by_side_merge(fd: int, other: Opener) -> None:
    process = other()
    process.do(f"put({F_WRLCK}, 0, 50)")
    process.do(f"put({F_WRLCK}, 50, 50)")
    assert holder(fd, F_WRLCK) == (F_WRLCK, 0, 100, process.pid)


def test_a_shared_lock_within_an_exclusive_one_splits_it_in_three(fd: int, other: Opener) -> None:
    process = other()
    process.do(f"put({F_WRLCK}, 0, 100)")
    process.do(f"put({F_RDLCK}, 40, 20)")
    found = [holder(fd, F_WRLCK, start, length) for start, length in ((0, 40), (40, 20), (60, 40))]
    assert [each[:3] for each in found] == [(F_WRLCK, 0, 40), (F_RDLCK, 40, 20), (F_WRLCK, 60, 40)]


def test_a_query_tells_who_holds_the_lock(fd: int, other: Opener) -> None:
    process = other()
    process.do(f"put({F_WRLCK}, 10, 5)")
    assert holder(fd, F_RDLCK) == (F_WRLCK, 10, 5, process.pid)


def test_a_query_about_nothing_in_the_way_says_so(fd: int, other: Opener) -> None:
    other().do(f"put({F_RDLCK}, 10, 5)")
    assert holder(fd, F_RDLCK)[0] == F_UNLCK


def test_closing_any_descriptor_of_the_file_releases_the_locks_of_the_process(
    fd: int, other: Opener, file: Path
) -> None:
    process = other()
    process.do(f"put({F_WRLCK})")
    process.do(f"os.close(os.open({str(file)!r}, os.O_RDONLY))")
    put(fd, F_WRLCK)


def test_the_end_of_a_process_releases_its_locks(fd: int, other: Opener) -> None:
    process = other()
    process.do(f"put({F_WRLCK})")
    process.popen.kill()
    process.popen.wait()
    comes_free(lambda: put(fd, F_WRLCK))


@everywhere
def test_a_release_wakes_who_waits(fd: int, other: Opener) -> None:
    process = other()
    put(fd, F_WRLCK)
    process.begin(f"put({F_WRLCK}, how={F_SETLKW})")
    process.waits_in_a_call()
    put(fd, F_UNLCK)
    process.result()
    assert holder(fd, F_WRLCK)[3] == process.pid


def test_a_signal_ends_the_wait_for_a_lock(fd: int, other: Opener) -> None:
    process = other()
    put(fd, F_WRLCK)
    process.begin(f"put({F_WRLCK}, how={F_SETLKW})")
    process.waits_in_a_call()
    os.kill(process.pid, signal.SIGUSR1)
    with pytest.raises(InterruptedError):
        process.result()


def test_who_was_interrupted_does_not_get_the_lock_later(fd: int, other: Opener) -> None:
    process = other()
    put(fd, F_WRLCK)
    process.begin(f"put({F_WRLCK}, how={F_SETLKW})")
    process.waits_in_a_call()
    os.kill(process.pid, signal.SIGUSR1)
    with pytest.raises(InterruptedError):
        process.result()
    put(fd, F_UNLCK)
    other().do(f"put({F_WRLCK})")


def test_who_is_killed_while_waiting_does_not_get_the_lock(fd: int, other: Opener) -> None:
    process = other()
    put(fd, F_WRLCK)
    process.begin(f"put({F_WRLCK}, how={F_SETLKW})")
    process.waits_in_a_call()
    process.popen.kill()
    process.popen.wait(timeout=20)
    put(fd, F_UNLCK)
    other().do(f"put({F_WRLCK})")


# BSD locks


def test_an_exclusive_flock_keeps_another_process_out(fd: int, other: Opener) -> None:
    other().do(f"fcntl.flock(fd, {LOCK_EX})")
    with fails(errno.EWOULDBLOCK):
        fcntl.flock(fd, LOCK_SH | LOCK_NB)


def test_shared_flocks_stand_beside_one_another(fd: int, other: Opener) -> None:
    other().do(f"fcntl.flock(fd, {LOCK_SH})")
    fcntl.flock(fd, LOCK_SH | LOCK_NB)


def test_two_openings_by_one_process_keep_one_another_out(fd: int, file: Path) -> None:
    fcntl.flock(fd, LOCK_EX)
    second = os.open(file, os.O_RDWR)
    with fails(errno.EWOULDBLOCK):
        fcntl.flock(second, LOCK_EX | LOCK_NB)
    os.close(second)


def test_a_release_wakes_who_waits_for_a_flock(fd: int, other: Opener) -> None:
    process = other()
    fcntl.flock(fd, LOCK_EX)
    process.begin(f"fcntl.flock(fd, {LOCK_EX})")
    process.waits_in_a_call()
    fcntl.flock(fd, LOCK_UN)
    process.result()
    with fails(errno.EWOULDBLOCK):
        fcntl.flock(fd, LOCK_SH | LOCK_NB)


def test_a_signal_ends_the_wait_for_a_flock(fd: int, other: Opener) -> None:
    process = other()
    fcntl.flock(fd, LOCK_EX)
    process.begin(f"fcntl.flock(fd, {LOCK_EX})")
    process.waits_in_a_call()
    os.kill(process.pid, signal.SIGUSR1)
    with pytest.raises(InterruptedError):
        process.result()


def test_a_flock_lasts_until_the_last_copy_of_its_descriptor_is_closed(fd: int, other: Opener) -> None:
    process = other()
    process.do("copy = os.dup(fd)")
    process.do(f"fcntl.flock(fd, {LOCK_EX})")
    process.do("os.close(fd)")
    with fails(errno.EWOULDBLOCK):
        fcntl.flock(fd, LOCK_EX | LOCK_NB)


def test_the_last_close_releases_a_flock(fd: int, other: Opener) -> None:
    process = other()
    process.do("copy = os.dup(fd)")
    process.do(f"fcntl.flock(fd, {LOCK_EX})")
    process.do("os.close(fd)")
    process.do("os.close(copy)")
    comes_free(lambda: fcntl.flock(fd, LOCK_EX | LOCK_NB))


def test_closing_another_opening_leaves_a_flock(fd: int, other: Opener, file: Path) -> None:
    process = other()
    process.do(f"fcntl.flock(fd, {LOCK_EX})")
    process.do(f"os.close(os.open({str(file)!r}, os.O_RDONLY))")
    with fails(errno.EWOULDBLOCK):
        fcntl.flock(fd, LOCK_EX | LOCK_NB)


def test_posix_locks_and_flocks_do_not_see_one_another(fd: int, other: Opener) -> None:
    other().do(f"put({F_WRLCK})")
    fcntl.flock(fd, LOCK_EX | LOCK_NB)


# Locks of an open file description


def test_two_openings_by_one_process_have_ofd_locks_apart(fd: int, file: Path) -> None:
    put(fd, F_WRLCK, how=F_OFD_SETLK)
    second = os.open(file, os.O_RDWR)
    with fails(*BUSY):
        put(second, F_WRLCK, how=F_OFD_SETLK)
    os.close(second)


def test_an_ofd_lock_keeps_a_posix_lock_out(fd: int, other: Opener) -> None:
    put(fd, F_WRLCK, how=F_OFD_SETLK)
    with fails(*BUSY):
        other().do(f"put({F_WRLCK})")


def test_an_ofd_query_finds_a_posix_lock(fd: int, other: Opener) -> None:
    other().do(f"put({F_WRLCK}, 10, 5)")
    assert holder(fd, F_WRLCK, how=F_OFD_GETLK)[:3] == (F_WRLCK, 10, 5)


def test_a_posix_query_finds_an_ofd_lock(fd: int, other: Opener) -> None:
    other().do(f"put({F_WRLCK}, 10, 5, {F_OFD_SETLK})")
    assert holder(fd, F_WRLCK, how=F_GETLK)[:3] == (F_WRLCK, 10, 5)


def test_closing_another_opening_leaves_an_ofd_lock(fd: int, other: Opener, file: Path) -> None:
    process = other()
    process.do(f"put({F_WRLCK}, how={F_OFD_SETLK})")
    process.do(f"os.close(os.open({str(file)!r}, os.O_RDONLY))")
    with fails(*BUSY):
        put(fd, F_WRLCK)


@everywhere
def test_the_last_close_releases_an_ofd_lock(fd: int, other: Opener) -> None:
    process = other()
    process.do(f"put({F_WRLCK}, how={F_OFD_SETLK})")
    process.do("os.close(fd)")
    comes_free(lambda: put(fd, F_WRLCK))


def test_a_release_wakes_who_waits_for_an_ofd_lock(fd: int, other: Opener) -> None:
    process = other()
    put(fd, F_WRLCK, how=F_OFD_SETLK)
    process.begin(f"put({F_WRLCK}, how={F_OFD_SETLKW})")
    process.waits_in_a_call()
    put(fd, F_UNLCK, how=F_OFD_SETLK)
    process.result()
    with fails(*BUSY):
        put(fd, F_RDLCK)
