"""Where an exception becomes an errno, for every handler and every way to serve.

Never here: logging, and errnos of the way to perfused (`connection`).
"""

import asyncio
import concurrent.futures
import errno
import os

#: the largest errno that Linux takes in a reply (fuse.h: -511 to 0)
LARGEST_ERRNO = 511

#: exceptions that name an errno by their type where they carry none
_TYPES: tuple[tuple[type[BaseException], int], ...] = (
    (FileNotFoundError, errno.ENOENT),
    (FileExistsError, errno.EEXIST),
    (NotADirectoryError, errno.ENOTDIR),
    (IsADirectoryError, errno.EISDIR),
    (PermissionError, errno.EACCES),
    (InterruptedError, errno.EINTR),
    (BlockingIOError, errno.EAGAIN),
    (BrokenPipeError, errno.EPIPE),
    (TimeoutError, errno.ETIMEDOUT),
    (NotImplementedError, errno.ENOSYS),
    (asyncio.CancelledError, errno.EINTR),
    (concurrent.futures.CancelledError, errno.EINTR),
)


class FuseError(OSError):
    """An errno for the caller: `raise FuseError(errno.ENODATA)`. The same as `OSError(errno.ENODATA, "...")`."""

    def __init__(self, code: int, *more: object) -> None:
        """`code` is 1 to 511; `more` stands in for strerror(3) and a file name, as in OSError."""
        super().__init__(code, *(more or (os.strerror(code),)))


def errno_of(bad: BaseException) -> int:
    """The errno, 1 to 511, that a handler meant by an exception; 0 where it meant none: a bug, for the log and EIO.

    An OSError's own errno; else what the exception's type says (FileNotFoundError is ENOENT, NotImplementedError is
    ENOSYS, a cancelled task EINTR). An OSError whose errno the kernel would refuse is a bug too.
    """
    code = bad.errno if isinstance(bad, OSError) else None
    if code is not None:
        return code if isinstance(code, int) and 0 < code <= LARGEST_ERRNO else 0
    return next((code for kind, code in _TYPES if isinstance(bad, kind)), 0)
