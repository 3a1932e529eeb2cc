"""Frames assembled by hand, in both byte orders: what ``wire`` reads from them and builds again, byte for byte."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from wire import codec, render, tails
from wire.message import build_reply, build_request, order_of, parse_reply, parse_request
from wire.notifications import build_notification, parse_notification


class Golden(NamedTuple):
    """A frame in words of ``(bytes, value)`` or raw bytes, and how it reads as a line."""

    title: str
    reply_to: int | None
    words: tuple[tuple[int, int] | bytes, ...]
    line: str


def header(length: int, opcode: int, unique: int = 12, nodeid: int = 1, units: int = 0) -> tuple[tuple[int, int], ...]:
    """fuse_in_header from uid 1000, gid 100, pid 7."""
    return ((4, length), (4, opcode), (8, unique), (8, nodeid), (4, 1000), (4, 100), (4, 7), (2, units), (2, 0))


ATTR = (
    *((8, 5), (8, 12), (8, 1), (8, 1700000000), (8, 1700000001), (8, 1700000002)),
    *((4, 0), (4, 0), (4, 0), (4, 0o100644), (4, 1), (4, 1000), (4, 100), (4, 0), (4, 4096), (4, 0)),
)
GOLDEN = [
    Golden("lookup", None, (*header(44, 1), b"etc\0"), '12 LOOKUP nodeid=1 "etc" uid=1000 pid=7'),
    Golden(
        "rename",
        None,
        (*header(56, 12), (8, 3), b"old\0", b"\xffnw\0"),
        '12 RENAME nodeid=1 "old" "\\xffnw" newdir=3 uid=1000 pid=7',
    ),
    Golden(
        "read",
        None,
        (*header(80, 15, nodeid=5), (8, 2), (8, 8192), (4, 4096), (4, 2), (8, 99), (4, 0x8000), (4, 0)),
        "12 READ nodeid=5 fh=2 offset=8192 size=4096 read_flags=LOCKOWNER lock_owner=99 flags=O_RDONLY|O_LARGEFILE"
        " uid=1000 pid=7",
    ),
    Golden(
        "create with a bare security context",
        None,
        (*header(66, 35, units=1), (4, 0o102), (4, 0o100644), (4, 0o22), (4, 0), b"a\0", (4, 8), (4, 0)),
        '12 CREATE nodeid=1 "a" flags=O_RDWR|O_CREAT mode=0100644 umask=022 uid=1000 pid=7 no security context',
    ),
    Golden(
        "forget many",
        None,
        (*header(80, 42, 0, 0), (4, 2), (4, 0), (8, 5), (8, 1), (8, 6), (8, 3)),
        "0 BATCH_FORGET count=2 5:1 6:3",
    ),
    Golden("interrupt", None, (*header(48, 36, 13, 0), (8, 12)), "13 INTERRUPT unique=12"),
    Golden("an opcode nobody knows", None, (*header(43, 77), b"abc"), "12 opcode 77 nodeid=1 3 bytes uid=1000 pid=7"),
    Golden("no such file", 1, ((4, 16), (4, -2), (8, 12)), "12 LOOKUP -> ENOENT"),
    Golden(
        "an entry",
        1,
        ((4, 144), (4, 0), (8, 12), (8, 5), (8, 0), (8, 1), (8, 1), (4, 0), (4, 0), *ATTR),
        "12 LOOKUP -> nodeid=5 mode=0100644 size=12 entry_valid=1.0s",
    ),
    Golden(
        "two directory entries",
        28,
        (
            *((4, 80), (4, 0), (8, 12)),
            *((8, 1), (8, 1), (4, 1), (4, 4), b".", bytes(7)),
            *((8, 5), (8, 2), (4, 4), (4, 8), b"file", bytes(4)),
        ),
        "12 READDIR -> 2 entries, 64 bytes",
    ),
    Golden(
        "a name becomes invalid",
        0,
        ((4, 36), (4, 3), (8, 0), (8, 1), (4, 3), (4, 1), b"etc\0"),
        'notify INVAL_ENTRY parent=1 flags=EXPIRE_ONLY "etc"',
    ),
]
ORDERS = {"<": "little", ">": "big"}


def assembled(words: tuple[tuple[int, int] | bytes, ...], order: str) -> bytes:
    parts = []
    for word in words:
        if isinstance(word, bytes):
            parts.append(word)
        else:
            size, value = word
            parts.append((value % (1 << 8 * size)).to_bytes(size, "little" if order == "<" else "big"))
    return b"".join(parts)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.title)
def test_golden_frames_read_and_rebuild(golden: Golden, order: str) -> None:
    frame = assembled(golden.words, order)
    assert order_of(frame) == order
    assert render.line(frame, reply_to=golden.reply_to, order=order) == golden.line
    if golden.reply_to is None:
        assert build_request(parse_request(frame, order=order)) == frame
    elif golden.reply_to:
        assert build_reply(parse_reply(golden.reply_to, frame, order=order)) == frame
    else:
        assert build_notification(parse_notification(frame, order)) == frame


@pytest.mark.parametrize("order", ORDERS)
def test_a_lookup_byte_by_byte(order: str) -> None:
    little = (
        "2c000000 01000000 0c00000000000000 0100000000000000 e8030000 64000000 07000000 0000 0000 65746300"
    )  # fmt: skip
    big = "0000002c 00000001 000000000000000c 0000000000000001 000003e8 00000064 00000007 0000 0000 65746300"
    frame = bytes.fromhex(little if order == "<" else big)
    parsed = parse_request(frame, order=order)
    assert parsed.header == codec.InHeader(44, 1, 12, 1, 1000, 100, 7, 0, 0)
    assert parsed.names == (b"etc",)
    assert build_request(parsed) == frame


def test_a_write_byte_by_byte() -> None:
    frame = bytes.fromhex(
        "55000000 10000000 0c00000000000000 0500000000000000 e8030000 64000000 07000000 0000 0000"
        "0200000000000000 0a00000000000000 05000000 01000000 0000000000000000 01800000 00000000"
        "68656c6c6f"
    )
    parsed = parse_request(frame, order="<")
    assert parsed.head == codec.WriteIn(2, 10, 5, 1, 0, 0x8001, 0)
    assert parsed.payload == b"hello"
    assert build_request(parsed) == frame


def test_an_extended_mkdir_byte_by_byte() -> None:
    frame = bytes.fromhex(
        "56000000 09000000 0c00000000000000 0100000000000000 e8030000 64000000 07000000 0400 0000"
        "ed010000 12000000 612d64697200"
        "10000000 01000000 00000000 00000000"  # a context of no bytes, and its name's NUL is missing
        "10000000 20000000 01000000 64000000"
    )
    parsed = parse_request(frame, order="<")
    assert parsed.names == (b"a-dir",)
    first, second = parsed.extensions
    with pytest.raises(ValueError, match="name"):
        tails.security_contexts(first, "<")
    assert tails.supplementary_groups(second, "<") == (100,)
    assert build_request(parsed) == frame
