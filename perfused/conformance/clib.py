"""The calls of C that the suites make and Python does not have, or tidies up: through cffi in ABI mode.

Addresses are plain integers in `Address`. Everything raises OSError with the errno of the call. Never here: what a call
is made for.
"""

import os
from typing import Any, NamedTuple

from perfused._libc_cffi import ffi

_libc: Any = ffi.dlopen(None)


class Address(int):
    """A place in memory, or a stream of opendir(3)."""


#: integers, strings without a NUL behind them, buffers that are written to, addresses, null pointers
Argument = int | bytes | bytearray | Address | None


class Listed(NamedTuple):
    """An entry of a directory stream: its name, inode number and DT_ type (readdir(3), on 64-bit machines)."""

    name: bytes
    ino: int
    kind: int


def _given(value: Argument) -> Any:
    if value is None:
        return ffi.NULL
    if isinstance(value, Address):
        return ffi.cast("void *", int(value))
    if isinstance(value, bytes):
        return ffi.new("char[]", value)
    return ffi.from_buffer(value) if isinstance(value, bytearray) else value


def _failed(what: str) -> OSError:
    code = ffi.errno
    return OSError(code, os.strerror(code), what)


def call(name: str, *arguments: Argument) -> int:
    """Call a function by its name, one of `libc_build.SUITES`: its value. Raises OSError where it is -1."""
    value = int(getattr(_libc, name)(*[_given(each) for each in arguments]))
    if value == -1:
        raise _failed(name)
    return value


def mapped(fd: int, length: int, protection: int, flags: int, offset: int = 0) -> Address:
    """mmap(2), beyond the end of the file, too."""
    found = int(ffi.cast("intptr_t", _libc.mmap(ffi.NULL, length, protection, flags, fd, offset)))
    if found == -1:
        raise _failed("mmap")
    return Address(found)


def memory(at: Address, length: int) -> memoryview:
    """What stands at an address, for reading and writing; a page that cannot be had is SIGBUS or SIGSEGV."""
    return memoryview(ffi.buffer(ffi.cast("unsigned char *", int(at)), length))


def opendir(path: bytes) -> Address:
    """opendir(3): a stream."""
    found = int(ffi.cast("intptr_t", _libc.opendir(path)))
    if not found:
        raise _failed("opendir")
    return Address(found)


def readdir(stream: Address) -> Listed | None:
    """readdir(3): the next entry, None at the end."""
    ffi.errno = 0
    found = _libc.readdir(_given(stream))
    if found == ffi.NULL:
        if ffi.errno:
            raise _failed("readdir")
        return None
    return Listed(ffi.string(found.name), int(found.ino), int(found.kind))


def telldir(stream: Address) -> int:
    """telldir(3)."""
    return int(_libc.telldir(_given(stream)))


def seekdir(stream: Address, place: int) -> None:
    """seekdir(3)."""
    _libc.seekdir(_given(stream), place)


def rewinddir(stream: Address) -> None:
    """rewinddir(3)."""
    _libc.rewinddir(_given(stream))
