"""Programs that mount by perfuse-fusermount3, as an ordinary user.

Never here: what is expected of them.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kernel.ordinary import Ordinary
from tests.kernel.scripted import Scripted


def line(target: Path) -> tuple[str, str, set[str]]:
    """Source, type and options of the one mount on a path."""
    lines = [each.split() for each in Path("/proc/self/mounts").read_text().splitlines()]
    ((source, _, fstype, options, *_),) = [each for each in lines if each[1] == str(target)]
    return source, fstype, set(options.split(","))


@pytest.fixture
def target(ordinary: Ordinary) -> Path:
    """An empty directory of the user's, to mount on."""
    return ordinary.target()


@pytest.fixture
def serve() -> Iterator[Callable[[int], Scripted]]:
    """Serve devices that were received."""
    made: list[Scripted] = []

    def start(device: int) -> Scripted:
        fs = Scripted()
        fs.fd = os.dup(device)
        made.append(fs)
        return fs.serve()

    yield start
    for each in made:
        each.close()
