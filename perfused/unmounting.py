"""Taking mounts away, each in a process of its own: umount(2) may wait for a filesystem that never answers.

Used by the supervisor and, when that is gone, by the keeper. Never here: when a mount should go.
"""

import errno
import os
import signal
from typing import NamedTuple

from perfused import kernel, libc

#: exit status of the process that stands for "no errno fits"
UNKNOWN = 255


class Place(NamedTuple):
    """One mount: its id in mountinfo, the minor device number of its superblock, its mount namespace (-1: ours).

    `target` is where it stood when it was made, for people.
    """

    target: str
    mount_id: int
    minor: int
    unique: int
    namespace: int


def close_all_but(keep: set[int]) -> None:
    """Close every descriptor but these and 0, 1, 2: what a fork inherits keeps other sessions alive."""
    first = 3
    for fd in sorted(each for each in keep if each >= 3):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, 1 << 20)


def start(place: Place, flags: int) -> int:
    """Fork a process that unmounts `place` with MNT_* `flags`; its pid. Its exit status: see `result`."""
    pid = os.fork()
    if pid:
        return pid
    code = UNKNOWN
    try:
        signal.set_wakeup_fd(-1)
        for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN)
        close_all_but({place.namespace})
        code = _unmount(place, flags)
    finally:
        os._exit(code)


def _unmount(place: Place, flags: int) -> int:
    try:
        proc = os.open("/proc", os.O_PATH | os.O_CLOEXEC)
        if place.namespace >= 0:
            libc.setns(place.namespace, libc.CLONE_NEWNS)
        kernel.unmount(place.mount_id, place.minor, place.unique, flags, proc)
    except OSError as bad:
        return bad.errno if bad.errno and bad.errno < UNKNOWN else UNKNOWN
    return 0


def result(status: int) -> int:
    """The errno of a finished process, 0 for success, from its wait(2) status."""
    code = os.waitstatus_to_exitcode(status)
    return code if 0 <= code < UNKNOWN else errno.EIO
