"""Which endpoint a program gets where nobody says: by what is known of it, and by what it is seen to be made of."""

import os
from typing import NamedTuple

from wire.control import Endpoint


class Choice(NamedTuple):
    """An endpoint, and why."""

    endpoint: Endpoint
    reason: str


#: Programs of which one process mounts while another already waits for requests. On a socket that other one takes, half
#: the time, the verdict that the first waits for: the mount fails, and the verdict is read as a request.
READS_WHILE_MOUNTING = frozenset({"glusterfs", "glusterfsd"})
_LIBRARIES = ("libfuse3.so", "libfuse.so")


def choose(pid: int, name: str) -> Choice:
    """The endpoint for a process that has just opened the device: `name` is what it runs."""
    if name in READS_WHILE_MOUNTING:
        return Choice(Endpoint.DEVICE, f"{name}: one of its processes reads while another mounts")
    library = _library(pid)
    if library:
        return Choice(Endpoint.DEVICE, f"{library}: it may splice or clone, and takes an end of file for an error")
    return Choice(Endpoint.DEVICE, "nothing is known of it: a device behaves as /dev/fuse does")


def _library(pid: int) -> str:
    """The FUSE library that a process has mapped; "" for none, or a program without shared libraries."""
    try:
        with open(f"/proc/{pid}/maps", errors="surrogateescape") as lines:
            for line in lines:
                name = os.path.basename(line.rstrip("\n").rpartition(" ")[2])
                if name.startswith(_LIBRARIES):
                    return name
    except OSError:
        pass
    return ""
