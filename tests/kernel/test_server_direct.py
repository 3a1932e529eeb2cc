"""A Python filesystem whose device perfused hands on: the kernel's own, with perfused's mount and nothing between."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from libperfuse import Session
from tests.kernel.conftest import Daemon, eventually, fuse_mounts
from tests.kernel.test_server import CONTENT, Tree


@pytest.fixture
def direct(daemons: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch) -> Daemon:
    """A daemon, and the wish for its direct devices."""
    monkeypatch.setenv("PERFUSE_ENDPOINT", "direct")
    return daemons()


def test_a_filesystem_is_served_on_a_direct_device_and_unmounted(direct: Daemon, target: Path) -> None:
    for _ in range(3):
        with Session(Tree(), target, via="perfused") as session:
            assert (target / "file").read_bytes() == CONTENT
            direct.has_logged("endpoint direct")
        assert session.join(0)
        assert not fuse_mounts(target)


def test_mounts_on_direct_devices_leave_no_thread_and_one_descriptor_at_most(direct: Daemon, target: Path) -> None:
    held = []
    for _ in range(6):
        with Session(Tree(), target, via="perfused"):
            os.stat(target / "file")
        held.append(len(os.listdir("/proc/self/fd")))
    eventually(lambda: not [each for each in threading.enumerate() if each.name.startswith("fuse")], "no thread left")
    assert max(held) - min(held) <= 1
