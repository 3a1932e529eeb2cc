"""Frames as text: what people read, and that no frame, however damaged, fails to show."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire_strategies import MINORS, ORDERS, THOROUGH, raw_answers, raw_requests, replies, requests
from wire import codec, fields, render, tails
from wire.flags import UNIQUE_RESEND
from wire.message import Reply, Request, build_reply, build_request
from wire.notifications import Notification, build_notification
from wire.opcodes import OPCODES, Opcode

REPLY_TO = st.one_of(st.none(), st.sampled_from([0, 77] + [row.number for row in OPCODES]))


def request(opcode: int, head: object = None, *names: bytes, payload: bytes = b"", items: tuple[()] = ()) -> bytes:
    header = codec.in_header.make(opcode=opcode, unique=12, nodeid=5, pid=7)
    return build_request(Request(header, head, names, payload, items))


def reply(opcode: int, head: object = None, error: int = 0, **parts: object) -> bytes:
    header = codec.out_header.make(unique=12, error=error)
    return build_reply(Reply(header, opcode, head, **parts))  # type: ignore[arg-type]


def notification(code: int, head: object = None, **parts: object) -> bytes:
    return build_notification(Notification(codec.out_header.make(error=code), head, **parts))  # type: ignore[arg-type]


ATTR = codec.attr.make(mode=0o100644, size=12)
ENTRY = codec.entry_out.make(nodeid=5, entry_valid=1, attr_valid=1, attr=ATTR)


@pytest.mark.parametrize(
    ("frame", "line"),
    [
        (request(Opcode.LOOKUP, None, b"etc"), '12 LOOKUP nodeid=5 "etc" uid=0 pid=7'),
        (request(Opcode.LOOKUP, None, b'\xff"\n\xc3\xa9'), '12 LOOKUP nodeid=5 "\\xff\\"\\x0aé" uid=0 pid=7'),
        (
            request(Opcode.OPEN, codec.open_in.make(flags=0o101001)),
            "12 OPEN nodeid=5 flags=O_WRONLY|O_TRUNC|O_LARGEFILE uid=0 pid=7",
        ),
        (
            request(Opcode.WRITE, codec.write_in.make(fh=2, size=5, write_flags=9), payload=b"hello"),
            "12 WRITE nodeid=5 fh=2 offset=0 size=5 write_flags=CACHE|0x8 uid=0 pid=7",
        ),
        (
            request(Opcode.SETATTR, codec.setattr_in.make(valid=0x29, mode=0o644, mtime=2, mtimensec=5)),
            "12 SETATTR nodeid=5 valid=MODE|SIZE|MTIME size=0 mtime=2.000000005 mode=0644 uid=0 pid=7",
        ),
        (
            request(Opcode.SETLK, codec.lk_in.make(fh=1, lk=codec.file_lock.make(end=9, type=1))),
            "12 SETLK nodeid=5 fh=1 end=9 type=1 uid=0 pid=7",
        ),
        (
            request(Opcode.INIT, codec.init_in.make(major=7, minor=45, flags=1 << 30 | 1, flags2=1 << 9)),
            "12 INIT nodeid=5 major=7 minor=45 flags=ASYNC_READ|INIT_EXT|OVER_IO_URING",
        ),
        (request(Opcode.STATFS), "12 STATFS nodeid=5 uid=0 pid=7"),
        (request(77), "12 opcode 77 nodeid=5 0 bytes uid=0 pid=7"),
    ],
)
def test_requests_as_a_line(frame: bytes, line: str) -> None:
    assert render.line(frame) == line


@pytest.mark.parametrize(
    ("opcode", "frame", "line"),
    [
        (Opcode.LOOKUP, reply(1, error=-2), "12 LOOKUP -> ENOENT"),
        (Opcode.LOOKUP, reply(1, error=-511), "12 LOOKUP -> errno 511"),
        (Opcode.SETXATTR, reply(21, error=-95), "12 SETXATTR -> EOPNOTSUPP"),
        (Opcode.LOOKUP, reply(1, ENTRY), "12 LOOKUP -> nodeid=5 mode=0100644 size=12 entry_valid=1.0s"),
        (
            Opcode.LOOKUP,
            reply(1, codec.entry_out.make(entry_valid=1)),
            "12 LOOKUP -> nodeid=0 entry_valid=1.0s attr_valid=0.0s",
        ),
        (
            Opcode.GETATTR,
            reply(3, codec.attr_out.make(attr_valid=1, attr_valid_nsec=500000000, attr=ATTR)),
            "12 GETATTR -> mode=0100644 size=12 attr_valid=1.5s",
        ),
        (
            Opcode.CREATE,
            reply(35, ENTRY, open_out=codec.open_out.make(fh=3, open_flags=2)),
            "12 CREATE -> nodeid=5 mode=0100644 size=12 entry_valid=1.0s fh=3 open_flags=KEEP_CACHE",
        ),
        (Opcode.FSYNC, reply(20), "12 FSYNC -> ok"),
        (Opcode.READ, reply(15, payload=bytes(4096)), "12 READ -> 4096 bytes"),
        (Opcode.READ, reply(15), "12 READ -> 0 bytes"),
        (Opcode.READLINK, reply(5, payload=b"../x"), '12 READLINK -> "../x"'),
        (Opcode.READDIR, reply(28, items=(tails.Dirent(1, 1, 4, b"."),)), "12 READDIR -> 1 entry, 32 bytes"),
        (Opcode.WRITE, reply(16, codec.write_out.make(size=5)), "12 WRITE -> size=5"),
        (Opcode.FSYNC, reply(20, trailing=b"x"), "12 FSYNC -> ok +1 trailing byte"),
        (77, reply(77, payload=b"abc"), "12 opcode 77 -> 3 bytes"),
    ],
)
def test_replies_as_a_line(opcode: int, frame: bytes, line: str) -> None:
    assert render.line(frame, reply_to=opcode) == line


def test_a_getxattr_asked_for_its_size_shows_the_size() -> None:
    frame = reply(Opcode.GETXATTR, codec.getxattr_out.make(size=17))
    assert render.line(frame, reply_to=Opcode.GETXATTR, request_size=0) == "12 GETXATTR -> size=17"
    assert render.line(frame, reply_to=Opcode.GETXATTR) == "12 GETXATTR -> 8 bytes"


@pytest.mark.parametrize(
    ("frame", "line"),
    [
        (notification(7), "notify RESEND"),
        (
            notification(2, codec.notify_inval_inode_out.make(ino=5, len=-1)),
            "notify INVAL_INODE ino=5 off=0 len=-1",
        ),
        (
            notification(3, codec.notify_inval_entry_out.make(parent=1, namelen=3, flags=1), name=b"etc"),
            'notify INVAL_ENTRY parent=1 flags=EXPIRE_ONLY "etc"',
        ),
        (
            notification(9, codec.notify_prune_out.make(count=2), nodeids=(4, 5)),
            "notify PRUNE count=2 nodeids=4,5",
        ),
        (notification(99, payload=b"abc"), "notify notification 99 3 bytes"),
    ],
)
def test_notifications_as_a_line(frame: bytes, line: str) -> None:
    assert render.line(frame, reply_to=0) == line


@pytest.mark.parametrize(
    ("frame", "line"),
    [
        (b"", "request of 0 bytes [in_header: at least 40 bytes, got 0]"),
        (request(1, None, b"etc")[:42], '12 LOOKUP nodeid=5 "et"... uid=0 pid=7 [cut: 42 of 44 bytes]'),
        (
            request(16, codec.write_in.make(fh=2, size=500, flags=1), payload=bytes(500))[:100],
            "12 WRITE nodeid=5 fh=2 offset=0 size=500 flags=O_WRONLY uid=0 pid=7 [cut: 100 of 580 bytes]",
        ),
        (
            request(16, codec.write_in.make(size=1), payload=b"x")[:50],
            "12 WRITE nodeid=5 uid=0 pid=7 [cut: 50 of 81 bytes]",
        ),
        (request(1, None, b"etc") + b"x", '12 LOOKUP nodeid=5 "etc" uid=0 pid=7 [len: the frame\'s 45 bytes, got 44]'),
    ],
)
def test_damaged_requests_show_what_is_there_and_what_is_wrong(frame: bytes, line: str) -> None:
    assert render.line(frame) == line


def test_damaged_replies_show_what_is_there_and_what_is_wrong() -> None:
    assert render.line(b"abc", reply_to=1) == "reply to LOOKUP of 3 bytes [out_header: at least 16 bytes, got 3]"
    assert render.line(reply(1, ENTRY)[:100], reply_to=1) == "12 LOOKUP -> [cut: 100 of 144 bytes]"
    assert render.line(reply(15, payload=bytes(99))[:40], reply_to=15) == "12 READ -> 99 bytes [cut: 40 of 115 bytes]"
    positive = codec.out_header.pack(16, 5, 12)
    assert render.line(positive, reply_to=1) == "12 LOOKUP -> error 5 [error: -511 to 0, got 5]"
    store = notification(4, codec.notify_store_out.make(nodeid=5, size=9), payload=bytes(9))[:42]
    assert render.line(store, reply_to=0) == "notify STORE nodeid=5 offset=0 size=9 [cut: 42 of 49 bytes]"


def test_a_request_sent_again_says_so() -> None:
    frame = build_request(Request(codec.in_header.make(opcode=17, unique=12 | UNIQUE_RESEND)))
    assert render.line(frame) == "12 RESEND STATFS uid=0 pid=0"


def test_a_tree_begins_with_the_line_and_names_every_field() -> None:
    rows = render.tree(request(Opcode.OPEN, codec.open_in.make(flags=1)))
    assert rows[0] == "12 OPEN nodeid=5 flags=O_WRONLY uid=0 pid=7"
    assert "    opcode: 14" in rows
    assert "    flags_names: O_WRONLY" in rows
    rows = render.tree(reply(28, items=(tails.Dirent(1, 1, 4, b"."),)), reply_to=28)
    assert '      name: "."' in rows


def test_a_dict_has_numbers_names_and_the_beginning_of_the_payload() -> None:
    shown = render.as_dict(request(Opcode.WRITE, codec.write_in.make(size=100, write_flags=1), payload=b"a" * 100))
    assert (shown["kind"], shown["name"], shown["size"]) == ("request", "WRITE", 180)
    assert shown["head"]["write_flags_names"] == ["CACHE"]
    assert shown["payload"] == {"size": 100, "hex": "61" * 64}
    shown = render.as_dict(reply(1, ENTRY), reply_to=1)
    assert shown["head"]["attr"]["mode"] == 0o100644
    assert "problem" not in shown


@THOROUGH
@given(st.one_of(st.binary(max_size=200), raw_requests().map(lambda r: r[1]), raw_answers().map(lambda r: r[1])),
       REPLY_TO, MINORS, ORDERS)  # fmt: skip
def test_rendering_never_fails(frame: bytes, reply_to: int | None, minor: int, order: str) -> None:
    line = render.line(frame, reply_to=reply_to, minor=minor, order=order)
    assert "\n" not in line
    assert line.encode()
    json.dumps(render.as_dict(frame, reply_to=reply_to, minor=minor, order=order))
    assert render.tree(frame, reply_to=reply_to, minor=minor, order=order)[0] == line


@THOROUGH
@given(requests(), st.integers(0, 200))
def test_a_cut_request_shows_its_name_and_says_how_much_is_missing(made: tuple[int, Request], keep: int) -> None:
    minor, parts = made
    frame = build_request(parts)
    cut = frame[: max(40, keep)]
    line = render.line(cut, minor=minor, order=parts.order)
    assert line.startswith(render.line(frame, minor=minor, order=parts.order).split(" nodeid=")[0].split()[0])
    assert ("[cut: " in line) == (len(cut) < len(frame))


@THOROUGH
@given(replies())
def test_whole_replies_have_no_problem(made: tuple[int, Reply]) -> None:
    minor, parts = made
    frame = build_reply(parts)
    shown = render.as_dict(frame, reply_to=parts.opcode, minor=minor, order=parts.order)
    assert shown.get("problem") is None
    assert "[" not in render.line(frame, reply_to=parts.opcode, minor=minor, order=parts.order).partition("->")[0]


def test_extensions_are_shown_by_meaning_and_bad_ones_with_the_reason() -> None:
    contexts = tails.pack_security_contexts([tails.SecurityContext(b"security.selinux", b"abc")])
    broken = tails.Extension(16, 1, bytes(8))
    unknown = tails.Extension(16, 99, bytes(8))
    header = codec.in_header.make(opcode=9, unique=12, nodeid=1)
    made = Request(header, codec.mkdir_in.make(), (b"a",), extensions=(contexts, tails.pack_groups((4, 5)), unknown))
    assert render.line(build_request(made)).endswith('"security.selinux"="abc" groups=4,5 extension 99 of 16 bytes')
    shown = render.as_dict(build_request(made))
    assert [one["type"] for one in shown["extensions"]] == [1, 32, 99]
    made = Request(header, codec.mkdir_in.make(), (b"a",), extensions=(broken,))
    assert render.line(build_request(made)).endswith("extension 1 (name: 1 NUL-terminated names, got 0 in 0 bytes)")


def test_lists_and_trailing_bytes_stand_in_the_dict() -> None:
    header = codec.in_header.make(opcode=42, unique=0)
    head = codec.batch_forget_in.make(count=10)
    made = Request(header, head, items=tuple((node, 1) for node in range(10)), trailing=b"more")
    assert render.line(build_request(made)).endswith("7:1 ... +4 trailing bytes")
    shown = render.as_dict(build_request(made))
    assert shown["items"][9] == {"nodeid": 9, "nlookup": 1}
    assert shown["trailing"] == 4
    shown = render.as_dict(reply(35, ENTRY, open_out=codec.open_out.make(fh=3, open_flags=2)), reply_to=35)
    assert shown["open_out"]["open_flags_names"] == ["KEEP_CACHE"]


def test_a_cut_reply_keeps_the_head_that_was_captured() -> None:
    frame = reply(35, ENTRY, open_out=codec.open_out.make(fh=3))
    assert render.line(frame[:150], reply_to=35).startswith("12 CREATE -> nodeid=5 mode=0100644 size=12")


def test_single_fields() -> None:
    assert fields.error_name(-11) == "EAGAIN"
    assert fields.seconds(2**64 - 1, 1) == "18446744073709551615.000000001"
    assert fields.open_mode_names(0o2000003) == ["O_ACCMODE", "O_CLOEXEC"]
    assert fields.names_of("open_out", "fh", 1) is None
    assert fields.quoted(b"a\\b\x7f") == '"a\\\\b\\x7f"'
