"""The endpoint an unmodified program gets where nobody says."""

import os

import pytest

from libperfuse.launch.choose import choose
from wire.control import Endpoint


@pytest.mark.parametrize("name", ["glusterfs", "glusterfsd"])
def test_a_program_that_reads_while_it_mounts_gets_no_socket(name: str) -> None:
    assert choose(os.getpid(), name).endpoint is Endpoint.DEVICE


def test_a_program_of_which_nothing_is_known_gets_a_device() -> None:
    assert choose(os.getpid(), "somebody's own").endpoint is Endpoint.DEVICE
