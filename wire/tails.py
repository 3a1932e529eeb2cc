"""What follows the fixed heads: names, directory entries, lists and extensions, read by hand-written cursors.

A parser takes ``bytes`` and gives what it read and the bytes that are left over; ``nothing_left`` turns those into an
error. ``order`` is ``"="`` (native), ``"<"`` or ``">"``. What never lives here: fixed heads, and construct.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from struct import Struct, error
from typing import NamedTuple

from wire.errors import WireError

ENTRY_OUT_SIZE = 128
"""Bytes of the ``fuse_entry_out`` that begins every direntplus record, since 7.9."""
MAX_NR_SECCTX = 31
"""The largest ``ext_header.type`` that is a count of security contexts."""
EXT_GROUPS = 32
"""``ext_header.type`` of supplementary groups (7.38)."""

_DIRENT = {order: Struct(order + "QQLL") for order in "=<>"}
_PAIR = {order: Struct(order + "QQ") for order in "=<>"}
_WORDS = {order: Struct(order + "LL") for order in "=<>"}
_WORD = {order: Struct(order + "L") for order in "=<>"}


class Dirent(NamedTuple):
    """``fuse_dirent``: inode, cookie of the next entry, DT_ type, name; ``pad`` only where the padding is not zero."""

    ino: int
    off: int
    type: int
    name: bytes
    pad: bytes = b""


class Direntplus(NamedTuple):
    """``fuse_direntplus`` (7.21): the packed 128-byte ``entry_out``, then a dirent."""

    entry: bytes
    ino: int
    off: int
    type: int
    name: bytes
    pad: bytes = b""


class Forget(NamedTuple):
    """``fuse_forget_one`` (7.16)."""

    nodeid: int
    nlookup: int


class Mapping(NamedTuple):
    """``fuse_removemapping_one`` (7.31), in bytes."""

    moffset: int
    len: int


class Iovec(NamedTuple):
    """``fuse_ioctl_iovec`` (7.16): an address in the caller and a length in bytes."""

    base: int
    len: int


class Extension(NamedTuple):
    """``fuse_ext_header`` (7.38) and what it announces: ``size`` counts the 8-byte header and the bytes before padding.

    ``type`` up to 31 is a count of security contexts, 32 is supplementary groups. ``payload`` runs to the next multiple
    of 8, so it may hold up to 7 bytes more than ``size - 8``.
    """

    size: int
    type: int
    payload: bytes


class SecurityContext(NamedTuple):
    """``fuse_secctx`` (7.36): the xattr's name without NUL, and its value."""

    name: bytes
    value: bytes


def aligned(length: int) -> int:
    """``length`` rounded up to a multiple of 8 (FUSE_REC_ALIGN)."""
    return length + 7 & ~7


def nothing_left(rest: bytes, field: str) -> None:
    """WireError unless ``rest`` is empty: what a parser that must reach the end calls last."""
    if rest:
        raise WireError(field, f"nothing behind it, got {len(rest)} bytes")


def parse_names(body: bytes, count: int) -> tuple[tuple[bytes, ...], bytes]:
    """``count`` NUL-terminated names, without their NULs, and the rest. WireError where a NUL is missing."""
    names, at = [], 0
    for number in range(count):
        end = body.find(0, at)
        if end < 0:
            raise WireError("name", f"{count} NUL-terminated names, got {number} in {len(body)} bytes")
        names.append(body[at:end])
        at = end + 1
    return tuple(names), body[at:]


def pack_names(*names: bytes) -> bytes:
    """The names, each with its NUL. WireError for a name that holds a NUL."""
    for name in names:
        if 0 in name:
            raise WireError("name", f"no NUL inside, got {name!r}")
    return b"".join([name + b"\0" for name in names])


def _record(buffer: bytes, at: int, order: str) -> tuple[Dirent, int] | None:
    """The dirent at ``at`` and where its record ends, or None where the buffer ends first."""
    if at + 24 > len(buffer):
        return None
    ino, off, namelen, kind = _DIRENT[order].unpack_from(buffer, at)
    stop = at + 24 + namelen
    end = at + aligned(24 + namelen)
    if end > len(buffer):
        return None
    pad = buffer[stop:end]
    return Dirent(ino, off, kind, buffer[at + 24 : stop], pad if any(pad) else b""), end


def parse_dirents(buffer: bytes, order: str = "=") -> tuple[tuple[Dirent, ...], bytes]:
    """The records of a READDIR reply, and the rest: a record cut short, which the kernel drops too. Raises nothing."""
    found, at = [], 0
    while record := _record(buffer, at, order):
        entry, at = record
        found.append(entry)
    return tuple(found), buffer[at:]


def parse_direntplus(buffer: bytes, order: str = "=") -> tuple[tuple[Direntplus, ...], bytes]:
    """The records of a READDIRPLUS reply, and the rest: a record cut short. Raises nothing."""
    found, at = [], 0
    while record := _record(buffer, at + ENTRY_OUT_SIZE, order):
        entry, end = record
        found.append(Direntplus(buffer[at : at + ENTRY_OUT_SIZE], *entry))
        at = end
    return tuple(found), buffer[at:]


def pack_dirent(entry: Dirent, order: str = "=") -> bytes:
    """One record, padded to 8 bytes. WireError for a number that does not fit or padding of the wrong length."""
    namelen = len(entry.name)
    room = aligned(24 + namelen) - 24 - namelen
    if entry.pad and len(entry.pad) != room:
        raise WireError("dirent.pad", f"{room} bytes, got {len(entry.pad)}")
    try:
        head = _DIRENT[order].pack(entry.ino, entry.off, namelen, entry.type)
    except error:
        raise WireError("dirent", f"ino and off of 64 bits and a type of 32, got {entry[:3]}") from None
    return head + entry.name + (entry.pad or bytes(room))


def pack_direntplus(entry: Direntplus, order: str = "=") -> bytes:
    """One record. WireError as ``pack_dirent``, and for an ``entry`` that is not 128 bytes."""
    if len(entry.entry) != ENTRY_OUT_SIZE:
        raise WireError("entry_out", f"{ENTRY_OUT_SIZE} bytes, got {len(entry.entry)}")
    return entry.entry + pack_dirent(Dirent(*entry[1:]), order)


class DirentBuffer:
    """Fills a READDIR reply of at most ``size`` bytes, the ``read_in.size`` of the request."""

    def __init__(self, size: int, order: str = "=") -> None:
        """An empty buffer with room for ``size`` bytes."""
        self.size = size
        self.order = order
        self._records: list[bytes] = []
        self._used = 0

    def add(self, ino: int, off: int, type: int, name: bytes) -> bool:
        """Append one entry; False, and nothing changed, where it no longer fits. ``off`` is where the next one begins.

        WireError for a name that Linux refuses (empty, with a slash or a NUL) or a number that does not fit.
        """
        if not name or b"/" in name or 0 in name:
            raise WireError("dirent.name", f"not empty, without slash and NUL, got {name!r}")
        return self._append(24 + len(name), lambda: pack_dirent(Dirent(ino, off, type, name), self.order))

    def _append(self, length: int, pack: Callable[[], bytes]) -> bool:
        if self._used + aligned(length) > self.size:
            return False
        self._records.append(pack())
        self._used += aligned(length)
        return True

    @property
    def count(self) -> int:
        """How many entries it holds."""
        return len(self._records)

    def __len__(self) -> int:
        """How many bytes it holds."""
        return self._used

    def __bytes__(self) -> bytes:
        """The body of the reply."""
        return b"".join(self._records)


class DirentplusBuffer(DirentBuffer):
    """Fills a READDIRPLUS reply of at most ``size`` bytes."""

    def add(self, ino: int, off: int, type: int, name: bytes, entry: bytes = bytes(ENTRY_OUT_SIZE)) -> bool:
        """As ``DirentBuffer.add``, with the packed ``entry_out``; all zero bytes (nodeid 0) mean: not looked up."""
        if not name or b"/" in name or 0 in name:
            raise WireError("dirent.name", f"not empty, without slash and NUL, got {name!r}")
        record = Direntplus(entry, ino, off, type, name)
        return self._append(ENTRY_OUT_SIZE + 24 + len(name), lambda: pack_direntplus(record, self.order))


def _cut(body: bytes, count: int, each: int, field: str) -> tuple[bytes, bytes]:
    if count * each > len(body):
        raise WireError(field, f"{count} times {each} bytes behind the head, got {len(body)}")
    return body[: count * each], body[count * each :]


def parse_forgets(body: bytes, count: int, order: str = "=") -> tuple[tuple[Forget, ...], bytes]:
    """``count`` ``fuse_forget_one`` of BATCH_FORGET, and the rest. WireError where they are not all there."""
    items, rest = _cut(body, count, 16, "batch_forget_in.count")
    return tuple(map(Forget._make, _PAIR[order].iter_unpack(items))), rest


def parse_mappings(body: bytes, count: int, order: str = "=") -> tuple[tuple[Mapping, ...], bytes]:
    """``count`` ``fuse_removemapping_one``, and the rest. WireError where they are not all there."""
    items, rest = _cut(body, count, 16, "removemapping_in.count")
    return tuple(map(Mapping._make, _PAIR[order].iter_unpack(items))), rest


def parse_iovecs(body: bytes, count: int, order: str = "=") -> tuple[tuple[Iovec, ...], bytes]:
    """``count`` ``fuse_ioctl_iovec`` of an IOCTL reply with RETRY (7.16 on), and the rest. WireError if cut short."""
    items, rest = _cut(body, count, 16, "ioctl_out.in_iovs + out_iovs")
    return tuple(map(Iovec._make, _PAIR[order].iter_unpack(items))), rest


def pack_pairs(pairs: Iterable[tuple[int, int]], order: str = "=") -> bytes:
    """Forgets, mappings or iovecs: 16 bytes each. WireError for a number that does not fit 64 bits."""
    pack = _PAIR[order].pack
    try:
        return b"".join([pack(first, second) for first, second in pairs])
    except error:
        raise WireError("list", "pairs of 64-bit numbers") from None


def parse_nodeids(body: bytes, count: int, order: str = "=") -> tuple[tuple[int, ...], bytes]:
    """``count`` nodeids of notify PRUNE (7.45), and the rest. WireError where they are not all there."""
    items, rest = _cut(body, count, 8, "notify_prune_out.count")
    return Struct(f"{order}{count}Q").unpack(items), rest


def pack_nodeids(nodeids: tuple[int, ...], order: str = "=") -> bytes:
    """8 bytes each. WireError for a number that does not fit 64 bits."""
    try:
        return Struct(f"{order}{len(nodeids)}Q").pack(*nodeids)
    except error:
        raise WireError("nodeids", "64-bit numbers") from None


def parse_notify_name(body: bytes, namelen: int) -> tuple[bytes, bytes]:
    """The name of INVAL_ENTRY or DELETE, ``namelen`` bytes and a NUL, and the rest. WireError without the NUL."""
    if namelen >= len(body):
        raise WireError("namelen", f"{namelen} bytes and a NUL behind the head, got {len(body)}")
    if body[namelen]:
        raise WireError("name", f"a NUL at byte {namelen}, got {body[namelen]}")
    return body[:namelen], body[namelen + 1 :]


def parse_xattr_names(value: bytes) -> tuple[bytes, ...]:
    """The names in a LISTXATTR reply. WireError unless the last one has its NUL (Linux answers EIO)."""
    if not value:
        return ()
    if value[-1]:
        raise WireError("names", "a NUL behind the last name")
    return tuple(value[:-1].split(b"\0"))


def parse_extensions(area: bytes, order: str = "=") -> tuple[Extension, ...]:
    """The extensions in the last ``8 * total_extlen`` bytes of a request (7.36 on). WireError where they overrun it."""
    found, at = [], 0
    while at < len(area):
        if at + 8 > len(area):
            raise WireError("ext_header", f"8 bytes, got {len(area) - at}")
        size, kind = _WORDS[order].unpack_from(area, at)
        if not 8 <= size <= len(area) - at or at + aligned(size) > len(area):
            raise WireError("ext_header.size", f"8 to the {len(area) - at} bytes that are left, got {size}")
        found.append(Extension(size, kind, area[at + 8 : at + aligned(size)]))
        at += aligned(size)
    return tuple(found)


def pack_extensions(extensions: Iterable[Extension], order: str = "=") -> bytes:
    """The extensions as they end a request. WireError where ``size`` and the payload's length disagree."""
    parts = []
    for size, kind, payload in extensions:
        if size < 8 or aligned(size) != len(payload) + 8:
            raise WireError("ext_header.size", f"8 and the payload's {len(payload)} bytes before padding, got {size}")
        try:
            parts.append(_WORDS[order].pack(size, kind) + payload)
        except error:
            raise WireError("ext_header", f"32-bit numbers, got size {size} and type {kind}") from None
    return b"".join(parts)


def security_contexts(extension: Extension, order: str = "=") -> tuple[SecurityContext, ...]:
    """The contexts of an extension whose ``type`` is at most 31. WireError where they overrun it or end before it."""
    if extension.type > MAX_NR_SECCTX:
        raise WireError("ext_header.type", f"at most {MAX_NR_SECCTX} contexts, got {extension.type}")
    found, body = [], extension.payload
    for _ in range(extension.type):
        if len(body) < 8:
            raise WireError("secctx", f"8 bytes, got {len(body)}")
        size, _padding = _WORDS[order].unpack_from(body)
        (name,), value = parse_names(body[8:], 1)
        if size > len(value):
            raise WireError("secctx.size", f"at most the {len(value)} bytes behind the name, got {size}")
        found.append(SecurityContext(name, value[:size]))
        body = body[aligned(8 + len(name) + 1 + size) :]
    nothing_left(body, "secctx")
    return tuple(found)


def pack_security_contexts(contexts: Iterable[SecurityContext], order: str = "=") -> Extension:
    """The extension that carries them, each padded to 8 bytes. WireError for more than 31 or a NUL in a name."""
    parts = []
    for name, value in contexts:
        part = _WORDS[order].pack(len(value), 0) + pack_names(name) + value
        parts.append(part.ljust(aligned(len(part)), b"\0"))
    if len(parts) > MAX_NR_SECCTX:
        raise WireError("nr_secctx", f"at most {MAX_NR_SECCTX}, got {len(parts)}")
    payload = b"".join(parts)
    return Extension(8 + len(payload), len(parts), payload)


def supplementary_groups(extension: Extension, order: str = "=") -> tuple[int, ...]:
    """The group ids of an extension of type 32. WireError for another type, or more groups than it has room for."""
    if extension.type != EXT_GROUPS or len(extension.payload) < 4:
        raise WireError("ext_header.type", f"{EXT_GROUPS} with at least 4 bytes, got {extension.type}")
    (count,) = _WORD[order].unpack_from(extension.payload)
    items, _ = _cut(extension.payload[4:], count, 4, "supp_groups.nr_groups")
    return tuple(group for (group,) in _WORD[order].iter_unpack(items))


def pack_groups(groups: tuple[int, ...], order: str = "=") -> Extension:
    """The extension of type 32 with these group ids. WireError for an id that does not fit 32 bits."""
    try:
        body = Struct(f"{order}{1 + len(groups)}L").pack(len(groups), *groups)
    except error:
        raise WireError("supp_groups.groups", "32-bit group ids") from None
    return Extension(8 + aligned(len(body)), EXT_GROUPS, body.ljust(aligned(len(body)), b"\0"))
