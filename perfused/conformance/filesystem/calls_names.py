"""The calls that cases make about what is beside a file's bytes: extended attributes and directory streams.

Sizes and errnos of attributes are the kernel's own: Python's os module asks for the size first, and hides ERANGE. A
stream is a number; it lives in the process that opened it until the case is over.
"""

import itertools
import os
from typing import Any

from perfused.conformance import clib
from perfused.conformance.clib import Address, Listed
from perfused.conformance.filesystem.calls import hold, offer

_numbers = itertools.count(1)


# -- extended attributes -----------------------------------------------------------------------------------------------


def _setxattr(path: str | int, name: str, value: bytes, flags: int = 0, nofollow: bool = False) -> None:
    """setxattr(2), lsetxattr(2); fsetxattr(2) of a descriptor."""
    if isinstance(path, int):
        os.setxattr(path, name, value, flags)
    else:
        os.setxattr(path, name, value, flags, follow_symlinks=not nofollow)


def _getxattr(path: str | int, name: str, nofollow: bool = False) -> bytes:
    return os.getxattr(path, name) if isinstance(path, int) else os.getxattr(path, name, follow_symlinks=not nofollow)


def _getxattr_sized(path: str, name: str, size: int) -> int:
    """getxattr(2) into a buffer of `size` bytes; with 0 the value's size."""
    return clib.call("getxattr", os.fsencode(path), os.fsencode(name), bytearray(size or 1), size)


def _listxattr_sized(path: str, size: int) -> int:
    """listxattr(2) into a buffer of `size` bytes; with 0 the list's size."""
    return clib.call("listxattr", os.fsencode(path), bytearray(size or 1), size)


def _listxattr(path: str | int, prefix: str, nofollow: bool = False) -> list[str]:
    """The names that begin with a prefix; a security module may have put others there."""
    names = os.listxattr(path) if isinstance(path, int) else os.listxattr(path, follow_symlinks=not nofollow)
    return sorted(name for name in names if name.startswith(prefix))


def _removexattr(path: str | int, name: str, nofollow: bool = False) -> None:
    if isinstance(path, int):
        os.removexattr(path, name)
    else:
        os.removexattr(path, name, follow_symlinks=not nofollow)


# -- directory streams -------------------------------------------------------------------------------------------------

_streams: dict[int, Address] = {}


class _Open:
    """A stream that is closed when the case is over."""

    def __init__(self, number: int) -> None:
        self.number = number

    def close(self) -> None:
        if self.number in _streams:
            clib.call("closedir", _streams.pop(self.number))


def _opendir(path: str) -> int:
    """opendir(3); the number of the stream."""
    found = clib.opendir(os.fsencode(path))
    number = next(_numbers)
    _streams[number] = found
    hold(_Open(number))
    return number


def _closedir(stream: int) -> None:
    _Open(stream).close()


def _next(stream: int) -> Listed | None:
    return clib.readdir(_streams[stream])


def _readdir(stream: int, most: int = 1 << 30) -> list[str]:
    """The next names, as many as `most`, as they come."""
    names: list[str] = []
    while len(names) < most and (entry := _next(stream)):
        names.append(os.fsdecode(entry.name))
    return names


def _readdir_sorted(stream: int) -> list[str]:
    """All names that are left, in order, without the two that stand in every directory."""
    return sorted(name for name in _readdir(stream) if name not in (".", ".."))


def _inodes_agree(path: str) -> list[str]:
    """Names whose listed inode number or type is not what lstat(2) has: none, where all agree."""
    stream = _opendir(path)
    bad = []
    while entry := _next(stream):
        name = os.fsdecode(entry.name)
        found = os.lstat(os.path.join(path, name))
        if name != ".." and (found.st_ino != entry.ino or entry.kind not in (0, found.st_mode >> 12)):
            bad.append(name)
    _closedir(stream)
    return bad


def _seek_everywhere(path: str) -> list[int]:
    """Positions (telldir(3)) from which the rest of the listing is not what followed there the first time: none."""
    stream = _opendir(path)
    pointer = _streams[stream]
    names: list[str] = []
    places = [clib.telldir(pointer)]
    while entry := _next(stream):
        names.append(os.fsdecode(entry.name))
        places.append(clib.telldir(pointer))
    bad = []
    for index in sorted(range(len(places)), key=lambda each: each * 7919 % len(places)):
        clib.seekdir(pointer, places[index])
        follows = _next(stream)
        if (os.fsdecode(follows.name) if follows else None) != (names[index] if index < len(names) else None):
            bad.append(index)
    _closedir(stream)
    return bad


def _seekdir(stream: int, place: int) -> None:
    clib.seekdir(_streams[stream], place)


def _drained(path: str, batch: int) -> int:
    """Read `batch` names at a time and remove them, in one pass; how many were removed."""
    stream = _opendir(path)
    removed = 0
    while names := _readdir(stream, batch):
        for name in names:
            if name not in (".", ".."):
                os.unlink(os.path.join(path, name))
                removed += 1
    _closedir(stream)
    return removed


def _changing(path: str, stay: list[str], batch: int, change: str) -> list[str]:
    """List while other names come, go or are renamed between batches; those of `stay` not seen exactly once: none."""
    stream = _opendir(path)
    seen: list[str] = []
    going = iter(sorted(set(os.listdir(path)) - set(stay), key=lambda name: name[::-1]))
    number = 0
    while names := _readdir(stream, batch):
        seen += names
        for _ in range(batch):
            number += 1
            if change == "come":
                os.mkdir(os.path.join(path, f"new{number}"))
                if number > 500:
                    break
                continue
            each = next(going, "")
            if each and change == "go":
                os.unlink(os.path.join(path, each))
            elif each:
                os.rename(os.path.join(path, each), os.path.join(path, f"moved{number}"))
        if change == "come" and number > 500:
            change = "go"
    _closedir(stream)
    return [name for name in stay if seen.count(name) != 1]


def _rewound(stream: int) -> list[str]:
    clib.rewinddir(_streams[stream])
    return _readdir_sorted(stream)


def _make_many(path: str, prefix: str, count: int, length: int = 0) -> None:
    """Empty files `prefix0000...`, their names padded to `length`."""
    for number in range(count):
        name = f"{prefix}{number:04d}".ljust(length, "n")
        os.close(os.open(os.path.join(path, name), os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))


_CALLS: dict[str, Any] = {
    "setxattr": _setxattr,
    "getxattr": _getxattr,
    "getxattr_sized": _getxattr_sized,
    "listxattr": _listxattr,
    "listxattr_sized": _listxattr_sized,
    "removexattr": _removexattr,
    "opendir": _opendir,
    "closedir": _closedir,
    "readdir": _readdir,
    "readdir_sorted": _readdir_sorted,
    "telldir": lambda stream: clib.telldir(_streams[stream]),
    "seekdir": _seekdir,
    "rewinddir": _rewound,
    "inodes_agree": _inodes_agree,
    "seek_everywhere": _seek_everywhere,
    "drained": _drained,
    "changing": _changing,
    "make_many": _make_many,
}
offer(**_CALLS)
