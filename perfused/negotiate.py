"""INIT as pure functions: what the kernel offers, what the filesystem is offered, what the kernel is told it wants.

Bytes in, bytes and facts out; every clamp and every masked bit comes back as a note for the log. No state, no I/O.
"""

import struct
from typing import NamedTuple

from wire import codec
from wire.control import Endpoint
from wire.errors import WireError
from wire.flags import INIT_POLICY, InitFlag, Verdict
from wire.opcodes import Opcode

IN_HEADER = 40
OUT_HEADER = 16
PAGE = 4096
#: What surrounds the data of the largest frame: in_header 40 and write_in 40, rounded up to a page.
FRAME_OVERHEAD = PAGE
#: init_out by size: up to 7.4, up to 7.22, since 7.23. Linux takes all three with any minor.
INIT_OUT_SIZES = (8, 24, 64)
#: pages of a request where MAX_PAGES is not negotiated (fuse_i.h, FUSE_DEFAULT_MAX_PAGES_PER_REQ)
DEFAULT_MAX_PAGES = 32

_U32 = struct.Struct("=I")
_MINOR_AT = IN_HEADER + 4
_FLAGS_AT = IN_HEADER + 12
_FLAGS2_AT = IN_HEADER + 16


class Offer(NamedTuple):
    """The kernel's INIT: protocol, both flag words in one integer, read-ahead in bytes."""

    major: int
    minor: int
    flags: int
    max_readahead: int


class Terms(NamedTuple):
    """What both sides agreed on; `flags` are both words, `max_write` is in bytes, `max_pages` in pages."""

    major: int
    minor: int
    flags: int
    max_write: int
    max_pages: int
    max_background: int
    congestion_threshold: int
    time_gran: int


def refused_bits(config_refused: int = 0, helped: bool = False, endpoint: Endpoint = Endpoint.SOCKET) -> int:
    """INIT bits an endpoint, socket or device, does not offer: wire's policy table and the configuration's.

    `helped`: the daemon makes the calls that a filesystem cannot make without /dev/fuse itself (Verdict.DAEMON).
    """
    bits = int(config_refused)
    for flag, policy in INIT_POLICY.items():
        verdict = policy.device if endpoint is Endpoint.DEVICE else policy.socket
        if verdict is Verdict.REFUSED or (verdict is Verdict.DAEMON and not helped):
            bits |= int(flag)
    return bits & ~int(InitFlag.INIT_EXT)


def offer(frame: bytes | bytearray | memoryview, refused: int, minor: int) -> tuple[bytes, Offer, list[str]]:
    """The INIT request (in_header and init_in of 8, 16 or 64 bytes) as the filesystem is to see it.

    Clears `refused` bits and lowers the minor to `minor`. Raises WireError for a frame too short to be an INIT.
    """
    out = bytearray(frame)
    refused = int(refused)  # the complement of an InitFlag has no bits that it does not know
    if len(out) < IN_HEADER + 8:
        raise WireError("init_in", "at least 8 bytes", f"init_in has {len(out) - IN_HEADER} bytes: it has at least 8")
    major, kernel_minor = struct.unpack_from("=II", out, IN_HEADER)
    max_readahead = flags = 0
    if len(out) >= IN_HEADER + 16:
        max_readahead, flags = struct.unpack_from("=II", out, IN_HEADER + 8)
        if flags & InitFlag.INIT_EXT and len(out) >= _FLAGS2_AT + 4:
            flags |= _U32.unpack_from(out, _FLAGS2_AT)[0] << 32
    notes = []
    shown = min(kernel_minor, minor)
    if shown != kernel_minor:
        notes.append(f"offering minor {shown}, the kernel's is {kernel_minor}")
        _U32.pack_into(out, _MINOR_AT, shown)
    masked = flags & refused
    if masked:
        notes += [f"not offered on this endpoint: {names(bits)}: {why}" for why, bits in reasons(masked).items()]
        if len(out) >= IN_HEADER + 16:
            _U32.pack_into(out, _FLAGS_AT, flags & ~refused & 0xFFFF_FFFF)
        if len(out) >= _FLAGS2_AT + 4 and flags >> 32:
            _U32.pack_into(out, _FLAGS2_AT, (flags & ~refused) >> 32)
    return bytes(out), Offer(major, shown, flags & ~refused, max_readahead), notes


def settle(frame: bytes | memoryview, offered: Offer, max_frame: int) -> tuple[bytes, Terms, list[str]]:
    """The INIT reply (out_header and init_out of 8, 24 or 64 bytes) as the kernel is to see it, and what was agreed.

    Strips bits that were never offered, lowers the minor to the one that was, and max_write and max_pages to what a
    device of `max_frame` bytes carries. Raises WireError for a reply no kernel would take: wrong size, another major.
    """
    out = bytearray(frame)
    offered = offered._replace(flags=int(offered.flags))
    body = len(out) - OUT_HEADER
    if body not in INIT_OUT_SIZES:
        raise WireError("init_out", "8, 24 or 64 bytes", f"init_out has {body} bytes: it has 8, 24 or 64")
    init = codec.init_out.unpack_from(bytes(out[OUT_HEADER:]).ljust(codec.init_out.size, b"\0"))
    if init.major != offered.major:
        raise WireError("major", str(offered.major), f"major is {init.major}: the kernel speaks {offered.major}")
    notes: list[str] = []
    flags = init.flags
    if flags & InitFlag.INIT_EXT and body == INIT_OUT_SIZES[-1]:
        flags |= init.flags2 << 32
    if body == INIT_OUT_SIZES[0]:
        flags = 0
    strange = flags & ~offered.flags
    if strange:
        notes.append(f"the filesystem asked for what was not offered: {names(strange)}; left out")
    if init.minor > offered.minor:
        # Both sides must count with the same sizes, or no reply is right for the kernel and for us.
        notes.append(f"minor {init.minor} lowered to {offered.minor}: no newer one was offered")
        _U32.pack_into(out, OUT_HEADER + 4, offered.minor)
    flags &= offered.flags
    room = max_frame - FRAME_OVERHEAD
    max_write, max_pages = init.max_write, init.max_pages
    if max_write > room:
        max_write = room // PAGE * PAGE
        notes.append(
            f"max_write {init.max_write} lowered to {max_write}: a frame on this device holds {max_frame} bytes"
        )
    if flags & InitFlag.MAX_PAGES and max_pages * PAGE > room:
        max_pages = room // PAGE
        notes.append(
            f"max_pages {init.max_pages} lowered to {max_pages}: a frame on this device holds {max_frame} bytes"
        )
    if body >= INIT_OUT_SIZES[1]:
        struct.pack_into("=I", out, OUT_HEADER + 12, flags & 0xFFFF_FFFF)
        struct.pack_into("=I", out, OUT_HEADER + 20, max_write)
    if body == INIT_OUT_SIZES[2]:
        struct.pack_into("=H", out, OUT_HEADER + 28, max_pages)
        if init.flags & InitFlag.INIT_EXT:
            struct.pack_into("=I", out, OUT_HEADER + 32, flags >> 32)
    terms = Terms(
        init.major,
        min(init.minor, offered.minor),
        flags,
        max(max_write, PAGE),
        max(max_pages, 1) if flags & InitFlag.MAX_PAGES else DEFAULT_MAX_PAGES,
        init.max_background,
        init.congestion_threshold,
        init.time_gran or 1,
    )
    return bytes(out), terms, notes


def offers_ring(frame: bytes | bytearray | memoryview) -> bool:
    """Whether the kernel's INIT request offers FUSE over io_uring (7.42, flags2)."""
    if len(frame) < _FLAGS2_AT + 4 or not _U32.unpack_from(frame, _FLAGS_AT)[0] & InitFlag.INIT_EXT:
        return False
    return bool(_U32.unpack_from(frame, _FLAGS2_AT)[0] << 32 & InitFlag.OVER_IO_URING)


def hide(frame: bytes | bytearray | memoryview, flags: int) -> tuple[bytes, int]:
    """The kernel's INIT request without these flags of its second word, and those of them that it had offered."""
    if len(frame) < _FLAGS2_AT + 4:
        return bytes(frame), 0
    out = bytearray(frame)
    (offered,) = _U32.unpack_from(out, _FLAGS2_AT)
    _U32.pack_into(out, _FLAGS2_AT, offered & ~(flags >> 32))
    return bytes(out), offered << 32 & flags


def agree_ring(frame: bytes) -> bytes | None:
    """A settled INIT reply with OVER_IO_URING in it, 64 bytes of init_out; None where its minor has no flags.

    For the kernel alone, and only by who then gives it a ring: it holds all requests back until it has one.
    """
    if len(frame) < OUT_HEADER + INIT_OUT_SIZES[1] or _U32.unpack_from(frame, OUT_HEADER + 4)[0] < 6:
        return None
    out = bytearray(frame.ljust(OUT_HEADER + INIT_OUT_SIZES[2], b"\0"))
    (flags,) = _U32.unpack_from(out, OUT_HEADER + 12)
    if not flags & InitFlag.INIT_EXT:
        _U32.pack_into(out, OUT_HEADER + 32, 0)
    _U32.pack_into(out, OUT_HEADER + 12, flags | InitFlag.INIT_EXT)
    (flags2,) = _U32.unpack_from(out, OUT_HEADER + 32)
    _U32.pack_into(out, OUT_HEADER + 32, flags2 | InitFlag.OVER_IO_URING >> 32)
    _U32.pack_into(out, 0, len(out))
    return bytes(out)


def reasons(masked: int) -> dict[str, int]:
    """Why INIT bits are not offered, as a sentence without its end -> the bits."""
    found: dict[str, int] = {}
    left = masked
    for flag, policy in INIT_POLICY.items():
        if masked & flag and (policy.socket, policy.device) != (Verdict.PASS, Verdict.PASS):
            why = policy.reason[:1].lower() + policy.reason[1:].rstrip(".")
            found[why] = found.get(why, 0) | int(flag)
            left &= ~int(flag)
    if left:
        found["the configuration refuses it (init.refuse)"] = left
    return found


def refusal(unique: int, error: int) -> bytes:
    """An out_header of 16 bytes that answers request `unique` with a negative errno."""
    return codec.out_header.pack(OUT_HEADER, error, unique)


def names(bits: int) -> str:
    """INIT bits by their names in fuse.h, unknown ones by number."""
    known = [flag.name or "" for flag in InitFlag if bits & flag and flag in INIT_POLICY]
    rest = bits
    for flag in INIT_POLICY:
        rest &= ~int(flag)
    return ", ".join(known + [f"bit {at}" for at in range(64) if rest >> at & 1])


#: The opcode these functions speak of.
OPCODE = Opcode.INIT
