"""FUSE over io_uring for tests: the kernel offers it while a test runs, and no longer."""

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ENABLE = Path("/sys/module/fuse/parameters/enable_uring")
#: settings of a daemon that takes it
RING = "[init]\nio_uring = true\n"
DISABLED = Path("/proc/sys/kernel/io_uring_disabled")


def missing() -> str:
    """What this machine lacks for FUSE over io_uring, or nothing."""
    if not ENABLE.exists():
        return f"no {ENABLE}: this kernel's FUSE has no io_uring (Linux 6.14 is the first)"
    if not os.access(ENABLE, os.W_OK):
        return f"{ENABLE} cannot be written"
    if not DISABLED.exists() or DISABLED.read_text().strip() != "0":
        return "kernel.io_uring_disabled is not 0"
    return ""


#: sets a file to a value, and back when its input ends: also when the tests are killed
_HOLD = 'before=$(cat "$0") && printf %s "$1" >"$0" && echo set && read _; printf %s "$before" >"$0"'


@contextmanager
def setting(path: Path, value: str) -> Iterator[None]:
    """A setting of the kernel's while the block runs, and then what it was before. Other runs wait meanwhile."""
    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        holder = subprocess.Popen(
            ["sh", "-c", _HOLD, path, value], stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[held.fileno()],
            start_new_session=True,
        )  # fmt: skip
        assert holder.stdin is not None
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == b"set\n"
            yield
        finally:
            holder.stdin.close()
            holder.stdout.close()
            holder.wait(timeout=10)


@pytest.fixture
def offered() -> Iterator[None]:
    """The kernel offers FUSE over io_uring during this test."""
    lacking = missing()
    if lacking:
        pytest.skip(lacking)
    with setting(ENABLE, "Y"):
        yield
