"""Acting as a request's caller, for one system call: what a filesystem creates has its owner from birth.

Per thread. For a server that runs as root; one that does not acts as itself. Never here: permission checks, which are
the kernel's with `default_permissions`.
"""

import os
import threading

from libperfuse import libc
from libperfuse.operations import Request


class _Thread(threading.local):
    """What a thread has set up for itself."""

    apart = False


_thread = _Thread()
_ROOT = os.geteuid() == 0


class acting_as:
    """`with acting_as(request, arg.umask): os.mkdir(...)`: what is made there belongs to the caller, with its umask.

    The filesystem uid and gid are the caller's; capabilities stay, since the kernel has checked what the caller may do,
    with all of its groups. `umask` (with DONT_MASK: the caller's) holds for this thread alone; None leaves it alone.
    """

    __slots__ = ("_gid", "_uid")

    def __init__(self, request: Request, umask: int | None = None) -> None:
        self._uid, self._gid = request.uid, request.gid
        if not _thread.apart:
            # Every thread has its own umask and securebits from here on: capabilities survive a change of the fsuid.
            libc.unshare(libc.CLONE_FS)
            if _ROOT:
                libc.prctl(libc.PR_SET_SECUREBITS, libc.SECBIT_NO_SETUID_FIXUP)
            _thread.apart = True
        if umask is not None:
            os.umask(umask)

    def __enter__(self) -> None:
        if _ROOT and (self._uid or self._gid):
            libc.setfsgid(self._gid)
            libc.setfsuid(self._uid)

    def __exit__(self, *_: object) -> None:
        if _ROOT and (self._uid or self._gid):
            libc.setfsuid(0)
            libc.setfsgid(0)
