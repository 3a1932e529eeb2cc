"""libperfuse: what a filesystem imports, or in C links, to get its device and its mount from perfused.

`perfuse_open`, `perfuse_mount` and `perfuse_unmount` stand for open(2), mount(2) and umount2(2). `Operations`,
`Session` and `run` are a whole server for filesystems in Python, behind perfused or on /dev/fuse itself.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from libperfuse.backing import backing_close, backing_open
    from libperfuse.caller import acting_as
    from libperfuse.connection import PerfuseError
    from libperfuse.errors import FuseError
    from libperfuse.negotiation import Init
    from libperfuse.nodes import Nodes
    from libperfuse.notify import Notifier
    from libperfuse.operations import Defer, Entry, IoctlRetry, Operations, Request
    from libperfuse.perfuse import perfuse_mount, perfuse_open, perfuse_unmount
    from libperfuse.running import run, serve
    from libperfuse.session import Session
    from wire.tails import Dirent

__all__ = [
    "Defer", "Dirent", "Entry", "FuseError", "Init", "IoctlRetry", "Nodes", "Notifier", "Operations", "PerfuseError",
    "Request", "Session", "acting_as", "backing_close", "backing_open", "perfuse_mount", "perfuse_open",
    "perfuse_unmount", "run", "serve",
]  # fmt: skip

#: names and their modules, imported at first use: who only mounts does not wait for asyncio, who only asks not for cffi
_NAMES = {
    "PerfuseError": "libperfuse.connection", "perfuse_mount": "libperfuse.perfuse",
    "perfuse_open": "libperfuse.perfuse", "perfuse_unmount": "libperfuse.perfuse",
    "Defer": "libperfuse.operations", "Dirent": "wire.tails", "Entry": "libperfuse.operations",
    "FuseError": "libperfuse.errors",
    "Init": "libperfuse.negotiation", "IoctlRetry": "libperfuse.operations", "Nodes": "libperfuse.nodes",
    "Notifier": "libperfuse.notify", "Operations": "libperfuse.operations", "Request": "libperfuse.operations",
    "Session": "libperfuse.session", "acting_as": "libperfuse.caller", "backing_close": "libperfuse.backing",
    "backing_open": "libperfuse.backing", "run": "libperfuse.running",
    "serve": "libperfuse.running",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(_NAMES[name]), name)
    return found
