"""What is made before the fork is a worker's own after it."""

import os

from perfused.readymade import Readymade
from perfused.states import Rules


def rules(max_frame: int) -> Rules:
    return Rules(max_frame, 0, 45, 0, 0, 0)


def test_what_a_child_writes_into_its_frames_no_other_process_sees() -> None:
    made = Readymade(65536, 45)
    relay = made.take(rules(65536), lambda event: None, lambda reason: None)
    pid = os.fork()
    if not pid:
        relay._from_kernel[:4] = relay._from_filesystem[:4] = b"mine"
        os._exit(0 if relay._from_kernel[:4] == b"mine" else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert bytes(relay._from_kernel[:4] + relay._from_filesystem[:4]) == bytes(8)


def test_it_fits_a_mount_with_frames_of_its_size_alone() -> None:
    made = Readymade(65536, 45)
    assert made.fits(rules(65536))
    assert not made.fits(rules(131072))


def test_an_engine_taken_has_the_rules_of_its_mount() -> None:
    wanted = Rules(65536, 7, 45, 1.5, 2.5, 3.5)
    relay = Readymade(65536, 45).take(wanted, lambda event: None, lambda reason: None)
    assert relay.engine.rules == wanted
