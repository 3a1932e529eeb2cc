"""Whole frames: what is built parses to its parts, what parses builds to its bytes, and only WireError escapes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire_strategies import (
    MINORS,
    ORDERS,
    THOROUGH,
    notifications,
    raw_answers,
    raw_requests,
    replies,
    requests,
)
from wire import codec, message, tails
from wire.errors import WireError
from wire.message import Reply, Request, build_reply, build_request, parse_reply, parse_request
from wire.notifications import Notification, build_notification, parse_notification
from wire.opcodes import OPCODES, Opcode

OPCODE_NUMBERS = st.sampled_from([row.number for row in OPCODES] + [77])


def header(opcode: int, **fields: int) -> codec.InHeader:
    return codec.in_header.make(opcode=opcode, unique=12, nodeid=1, **fields)


def frame(opcode: int, body: bytes, **fields: int) -> bytes:
    return codec.in_header.build(header(opcode, len=40 + len(body), **fields)) + body


def answer(body: bytes, error: int = 0, unique: int = 12) -> bytes:
    return codec.out_header.pack(16 + len(body), error, unique) + body


def names_field_and_limit(error: WireError) -> None:
    assert error.field
    assert error.limit
    assert error.field in str(error)


@THOROUGH
@given(requests())
def test_a_built_request_parses_to_its_parts(made: tuple[int, Request]) -> None:
    minor, request = made
    built = build_request(request)
    parsed = parse_request(built, minor, request.order)
    assert parsed == request
    assert build_request(parsed) == built


@THOROUGH
@given(requests(), st.binary(min_size=1, max_size=30))
def test_trailing_bytes_survive(made: tuple[int, Request], extra: bytes) -> None:
    minor, request = made
    parts = {name: getattr(request, name) for name in request.__slots__} | {"trailing": extra}
    built = build_request(Request(**parts))
    try:
        parsed = parse_request(built, minor, request.order)
    except WireError:
        return  # a head that only fitted exactly no longer does
    assert build_request(parsed) == built


@THOROUGH
@given(replies())
def test_a_built_reply_parses_to_its_parts(made: tuple[int, Reply]) -> None:
    minor, reply = made
    built = build_reply(reply)
    parsed = parse_reply(reply.opcode, built, minor, order=reply.order)
    assert (parsed.head, parsed.open_out, parsed.payload) == (reply.head, reply.open_out, reply.payload)
    assert (parsed.items, parsed.trailing) == (reply.items, b"")
    assert build_reply(parsed) == built


@THOROUGH
@given(notifications())
def test_a_built_notification_parses_to_its_parts(note: Notification) -> None:
    built = build_notification(note)
    parsed = parse_notification(built, note.order)
    assert (parsed.head, parsed.name, parsed.payload) == (note.head, note.name, note.payload)
    assert (parsed.nodeids, parsed.code) == (note.nodeids, note.code)
    assert build_notification(parsed) == built


@THOROUGH
@given(raw_requests(), MINORS)
def test_random_requests_rebuild_or_raise_wire_error(raw: tuple[str, bytes], minor: int) -> None:
    order, data = raw
    try:
        parsed = parse_request(data, minor, order)
    except WireError as error:
        names_field_and_limit(error)
    else:
        assert build_request(parsed) == data


@THOROUGH
@given(raw_answers(), OPCODE_NUMBERS, MINORS, st.sampled_from([None, 0, 16, 4096]))
def test_random_replies_rebuild_or_raise_wire_error(
    raw: tuple[str, bytes], opcode: int, minor: int, size: int | None
) -> None:
    order, data = raw
    try:
        parsed = parse_reply(opcode, data, minor, size, order)
    except WireError as error:
        names_field_and_limit(error)
    else:
        assert build_reply(parsed) == data


@THOROUGH
@given(raw_answers())
def test_random_notifications_rebuild_or_raise_wire_error(raw: tuple[str, bytes]) -> None:
    order, data = raw
    try:
        parsed = parse_notification(data, order)
    except WireError as error:
        names_field_and_limit(error)
    else:
        assert build_notification(parsed) == data


@THOROUGH
@given(st.binary(max_size=120), ORDERS, OPCODE_NUMBERS)
def test_random_bytes_raise_nothing_but_wire_error(data: bytes, order: str, opcode: int) -> None:
    for parse in (
        lambda: parse_request(data, order=order),
        lambda: parse_reply(opcode, data, order=order),
        lambda: parse_notification(data, order),
    ):
        try:
            parse()
        except WireError:
            pass


def test_every_minor_is_accepted_and_minor_0_refused() -> None:
    data = frame(Opcode.LOOKUP, b"etc\0")
    for minor in range(1, 47):
        assert parse_request(data, minor).names == (b"etc",)
    with pytest.raises(WireError, match="minor: at least 1"):
        parse_request(frame(Opcode.READ, bytes(40)), 0)


@pytest.mark.parametrize(
    ("data", "field", "limit"),
    [
        (b"", "in_header", "at least 40 bytes, got 0"),
        (bytes(39), "in_header", "at least 40 bytes, got 39"),
        (frame(1, b"a\0") + b"x", "len", "the frame's 43 bytes, got 42"),
        (frame(1, b"abc"), "name", "1 NUL-terminated names, got 0 in 3 bytes"),
        (frame(12, bytes(8) + b"old\0new"), "name", "2 NUL-terminated names, got 1 in 7 bytes"),
        (frame(14, bytes(7)), "open_in", "at least 8 bytes, got 7"),
        (frame(15, bytes(39)), "read_in", "at least 40 bytes, got 39"),
        (frame(16, codec.write_in.build(codec.write_in.make(size=9))), "write_in.size", "at most the 0 bytes"),
        (frame(42, codec.batch_forget_in.pack(2, 0) + bytes(31)), "batch_forget_in.count", "2 times 16 bytes"),
        (frame(49, codec.removemapping_in.pack(1)), "removemapping_in.count", "1 times 16 bytes"),
        (frame(1, b"a\0", total_extlen=1), "total_extlen", "at most 0 units of 8 bytes, got 1"),
        (frame(9, bytes(8) + b"a\0" + bytes(8), total_extlen=1), "ext_header.size", "got 0"),
    ],
)
def test_a_bad_request_names_the_field_and_the_limit(data: bytes, field: str, limit: str) -> None:
    with pytest.raises(WireError) as caught:
        parse_request(data)
    assert caught.value.field == field
    assert limit in caught.value.limit


@pytest.mark.parametrize(
    ("opcode", "data", "size", "field"),
    [
        (1, bytes(15), None, "out_header"),
        (1, answer(b"") + b"x", None, "len"),
        (1, answer(b"", 1), None, "error"),
        (1, answer(b"", -512), None, "error"),
        (1, answer(bytes(127)), None, "entry_out"),
        (15, answer(bytes(11)), 10, "size"),
        (35, answer(bytes(140)), None, "open_out"),
    ],
)
def test_a_bad_reply_names_the_field(opcode: int, data: bytes, size: int | None, field: str) -> None:
    with pytest.raises(WireError) as caught:
        parse_reply(opcode, data, request_size=size)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("opcode", "minor", "body", "head_size"),
    [
        (Opcode.GETATTR, 8, b"", 0),
        (Opcode.GETATTR, 8, bytes(16), 16),
        (Opcode.READ, 8, bytes(24), 24),
        (Opcode.READ, 8, bytes(40), 40),
        (Opcode.RELEASE, 7, bytes(16), 16),
        (Opcode.FLUSH, 6, bytes(16), 16),
        (Opcode.GETLK, 8, bytes(40), 40),
        (Opcode.MKNOD, 11, bytes(8) + b"name\0", 8),
        (Opcode.MKNOD, 12, bytes(16) + b"name\0", 16),
        (Opcode.CREATE, 11, bytes(8) + b"name\0", 8),
        (Opcode.TMPFILE, 8, bytes(16) + b"name\0", 16),
        (Opcode.INIT, 45, bytes(8), 8),
        (Opcode.INIT, 45, bytes(16), 16),
        (Opcode.INIT, 45, bytes(64), 64),
    ],
)
def test_old_request_heads_are_recognised(opcode: int, minor: int, body: bytes, head_size: int) -> None:
    data = frame(opcode, body)
    parsed = parse_request(data, minor)
    assert parsed.head_size == head_size
    assert parsed.trailing == b""
    assert build_request(parsed) == data


@pytest.mark.parametrize("head_size", [24, 40])
@pytest.mark.parametrize("minor", [8, 45])
def test_a_write_is_read_by_the_length_of_its_data(head_size: int, minor: int) -> None:
    head = codec.write_in.build(codec.write_in.make(offset=7, size=5))[:head_size]
    parsed = parse_request(frame(Opcode.WRITE, head + b"hello"), minor)
    assert (parsed.head_size, parsed.head.offset, parsed.payload) == (head_size, 7, b"hello")


@pytest.mark.parametrize("head_size", [8, 16])
@pytest.mark.parametrize("flags", [0, 1])
def test_a_setxattr_is_read_with_and_without_the_extended_head(head_size: int, flags: int) -> None:
    head = codec.setxattr_in.make(size=3, setxattr_flags=flags if head_size == 16 else 0)
    data = frame(Opcode.SETXATTR, codec.setxattr_in.build(head)[:head_size] + b"user.some.name\0abc")
    parsed = parse_request(data)
    assert (parsed.head_size, parsed.names, parsed.payload) == (head_size, (b"user.some.name",), b"abc")
    assert parsed.head == head


@pytest.mark.parametrize(("minor", "size"), [(8, 120), (9, 128), (45, 120)])
def test_old_and_new_entries_are_recognised(minor: int, size: int) -> None:
    parsed = parse_reply(Opcode.LOOKUP, answer(bytes(size)), minor)
    assert (parsed.head_size, parsed.trailing) == (size, b"")


def test_create_replies_carry_an_open_out_behind_either_entry() -> None:
    for size in (120, 128):
        data = answer(bytes(size) + codec.open_out.pack(3, 1, 0))
        parsed = parse_reply(Opcode.CREATE, data)
        assert parsed.open_out == codec.OpenOut(3, 1, 0)
        assert build_reply(parsed) == data


@pytest.mark.parametrize("length", [8, 16, 24, 40, 64, 80])
def test_an_init_reply_of_any_length_from_8_on_parses(length: int) -> None:
    data = answer(bytes(range(length)))
    parsed = parse_reply(Opcode.INIT, data)
    assert parsed.head_size in (8, 24, 64)
    assert build_reply(parsed) == data


def test_a_getxattr_asked_for_its_size_answers_with_a_struct() -> None:
    data = answer(codec.getxattr_out.pack(17, 0))
    assert parse_reply(Opcode.GETXATTR, data, request_size=0).head.size == 17
    assert parse_reply(Opcode.GETXATTR, data, request_size=64).payload == data[16:]


def test_a_body_behind_an_error_is_kept_as_trailing_bytes() -> None:
    data = answer(b"why", -5)
    parsed = parse_reply(Opcode.LOOKUP, data)
    assert (parsed.head, parsed.trailing) == (None, b"why")
    assert build_reply(parsed) == data


def test_a_dirent_cut_short_is_kept_as_trailing_bytes() -> None:
    whole = tails.pack_dirent(tails.Dirent(1, 1, 4, b"name"))
    parsed = parse_reply(Opcode.READDIR, answer(whole + whole[:-1]))
    assert len(parsed.items) == 1
    assert parsed.trailing == whole[:-1]


def test_what_would_not_come_back_is_not_built() -> None:
    write = codec.write_in.make(size=4)
    for bad in (
        Request(header(Opcode.WRITE), write, payload=b"12345"),
        Request(header(Opcode.LOOKUP)),
        Request(header(Opcode.LOOKUP), names=(b"a\0b",)),
        Request(header(Opcode.OPEN)),
        Request(header(Opcode.STATFS), payload=b"x"),
        Request(header(Opcode.STATFS), items=((1, 2),)),
        Request(header(Opcode.BATCH_FORGET), codec.batch_forget_in.make(count=1)),
    ):
        with pytest.raises(WireError):
            build_request(bad)
    with pytest.raises(WireError, match="head: nothing for a reply to FSYNC"):
        build_reply(Reply(codec.out_header.make(), Opcode.FSYNC, codec.open_out.make()))
    with pytest.raises(WireError, match="namelen"):
        build_notification(
            Notification(codec.out_header.make(error=3), codec.notify_inval_entry_out.make(namelen=9), b"abc")
        )
    with pytest.raises(WireError, match="tail"):
        build_notification(Notification(codec.out_header.make(error=7), payload=b"x"))
    with pytest.raises(WireError, match="unique: 0 in a notification, got 12"):
        parse_notification(answer(b"", 7))
    with pytest.raises(WireError, match=r"notify_store_out\.size: at most the 0 bytes"):
        parse_notification(answer(codec.notify_store_out.pack(1, 0, 9, 0), 4, 0))
    with pytest.raises(WireError, match="error"):
        build_notification(Notification(codec.out_header.make(error=0)))


def test_the_byte_order_shows_in_the_first_word() -> None:
    for order in "<>":
        made = Request(header(Opcode.LOOKUP), names=(b"etc",), order=order)
        assert message.order_of(build_request(made)) == order
    assert message.order_of(bytes(40)) is None
