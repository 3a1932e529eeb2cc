"""What is made before the fork is a worker's own after it."""

import os
from collections.abc import Iterator

import pytest

from perfused.readymade import Readymade
from perfused.states import Rules

SIZE = 65536


def rules(max_frame: int) -> Rules:
    return Rules(max_frame, 0, 45, 0, 0, 0)


@pytest.fixture
def made() -> Iterator[Readymade]:
    made = Readymade(SIZE, 45)
    yield made
    made.close()


def test_what_a_child_writes_into_its_frames_no_other_process_sees(made: Readymade) -> None:
    relay = made.take(rules(SIZE), lambda event: None, lambda reason: None)
    pid = os.fork()
    if not pid:
        relay._from_kernel[:4] = relay._from_filesystem[:4] = b"mine"
        os._exit(0 if relay._from_kernel[:4] == b"mine" else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert bytes(relay._from_kernel[:4] + relay._from_filesystem[:4]) == bytes(8)


def test_it_fits_a_mount_with_frames_of_its_size_alone(made: Readymade) -> None:
    assert made.fits(rules(SIZE))
    assert not made.fits(rules(2 * SIZE))


def test_an_engine_taken_has_the_rules_of_its_mount(made: Readymade) -> None:
    wanted = Rules(SIZE, 7, 45, 1.5, 2.5, 3.5)
    assert made.take(wanted, lambda event: None, lambda reason: None).engine.rules == wanted
