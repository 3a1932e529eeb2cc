"""libperfuse: what a filesystem imports, or in C links, to get its device and its mount from perfused.

`perfuse_open`, `perfuse_mount` and `perfuse_unmount` stand for open(2), mount(2) and umount2(2).
"""

from libperfuse.connection import PerfuseError
from libperfuse.perfuse import perfuse_mount, perfuse_open, perfuse_unmount

__all__ = ["PerfuseError", "perfuse_mount", "perfuse_open", "perfuse_unmount"]
