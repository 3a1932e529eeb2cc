"""Device events, through pyudev: /dev/fuse appearing, and the bdi device of each FUSE superblock coming and going.

The kernel's own event stream is used, not udevd's, so it works where no udevd runs. Never here: what an event leads to.
"""

import os
import select
import time
from typing import Any, NamedTuple

from perfused.kernel import DEVICE
from perfused.log import LOGGER


class Bdi(NamedTuple):
    """A superblock's bdi device: `action` is add or remove, `minor` of its device number 0:minor."""

    action: str
    minor: int


def _monitor(subsystem: str) -> Any:
    """A started monitor of kernel events of one subsystem; None where libudev or netlink is not to be had."""
    try:
        import pyudev  # 40 ms, and of no use where it fails

        monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source="kernel")
        monitor.filter_by(subsystem)
        monitor.start()
    except (ImportError, OSError) as bad:
        LOGGER.info("no device events: %s", bad)
        return None
    return monitor


def wait_for_device(seconds: float, path: str = DEVICE) -> bool:
    """Wait until /dev/fuse is there; False after `seconds`."""
    if os.path.exists(path):
        return True
    deadline = time.monotonic() + seconds
    monitor = _monitor("misc")
    LOGGER.info("%s is not there; waiting up to %g s for it", path, seconds)
    while not os.path.exists(path):
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        # The node is made a moment after the event, and not every container gets events: so look again soon.
        step = min(left, 0.2)
        if monitor is None:
            time.sleep(step)
        elif monitor.poll(step) is not None:
            time.sleep(0.01)
    return True


class BdiWatch:
    """FUSE and other anonymous superblocks as they come and go, in every mount namespace."""

    def __init__(self) -> None:
        self._monitor = _monitor("bdi")

    def fileno(self) -> int:
        """For a selector; -1 where there are no events to be had."""
        return -1 if self._monitor is None else int(self._monitor.fileno())

    def read(self) -> list[Bdi]:
        """What has happened since the last call; never blocks."""
        found = []
        while self._monitor is not None and select.select([self._monitor], [], [], 0)[0]:
            device = self._monitor.poll(0)
            if device is None:
                break
            major, _, minor = str(device.sys_name).partition(":")
            if major == "0" and minor.isdigit():
                found.append(Bdi(str(device.action), int(minor)))
        return found
