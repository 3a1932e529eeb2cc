"""The system calls a filesystem needs and Python does not have: mount(2) and umount2(2), through cffi in ABI mode.

Both raise OSError with the errno of the call.
"""

import os
from typing import Any

from libperfuse._libc_cffi import ffi

_libc: Any = ffi.dlopen(None)


def _check(result: int, what: str) -> None:
    if result < 0:
        code = ffi.errno
        raise OSError(code, os.strerror(code), what)


def _c(value: bytes | None) -> Any:
    return ffi.NULL if value is None else ffi.new("char[]", value)


def mount(source: bytes, target: bytes, fstype: bytes | None, flags: int, data: bytes | None) -> None:
    """mount(2)."""
    _check(_libc.mount(_c(source), _c(target), _c(fstype), flags, _c(data)), "mount")


def umount2(target: bytes, flags: int) -> None:
    """umount2(2)."""
    _check(_libc.umount2(_c(target), flags), "umount2")
