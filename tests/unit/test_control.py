"""Control frames: every kind comes back as it went in, and bytes that lie name the field they lie in."""

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire_strategies import QUICK, THOROUGH
from wire import control
from wire.control import (
    LIMITS,
    MAX_FRAME,
    Answer,
    Endpoint,
    Hello,
    Message,
    Mount,
    Request,
    Trace,
    TraceRecord,
    Verdict,
    Welcome,
)
from wire.errors import WireError

ALL_ONES = 2**64 - 1
HEAD = struct.Struct("=IiQ8sHHI")


def frame(kind: int, body: bytes = b"", error: int = 0, flags: int = 0, **head: Any) -> bytes:
    """A frame by hand, as docs/control-protocol.md has it; `head` may lie about length, magic and the like."""
    return HEAD.pack(
        head.get("length", HEAD.size + len(body)), error, head.get("unique", ALL_ONES), head.get("magic", b"perfuse2"),
        kind, flags, head.get("reserved", 0),
    ) + body  # fmt: skip


def mount_body(*lengths: int, strings: bytes = b"src\0/mnt\0fuse\0fd=3\0") -> bytes:
    """MOUNT's body whose five numbers are source_len, target_len, fstype_len, mountflags, data_len."""
    return struct.pack("=IIIIII", *lengths, 0) + strings


def original(
    sizes: tuple[int, int, int, int, int] = (4, 5, 5, 5, 0), strings: bytes = b"src\0/mnt\0fuse\0fd=3\0", pad: int = 4
) -> bytes:
    """The original's frame; `pad` is 4 where longs have 64 bits, 0 where they have 32."""
    source, target, fstype, data, sock = sizes
    total = 52 + pad + len(strings)
    head = struct.pack("=IiQ9s3xIIIIII", total, 0, ALL_ONES, b"noFuseRq\0", source, target, fstype, 9, data, sock)
    return head + bytes(pad) + strings


def refused(sent: bytes) -> WireError:
    """The error that a frame raises."""
    with pytest.raises(WireError) as caught:
        control.parse(sent)
    return caught.value


# -- layouts, by hand ------------------------------------------------------------------------------------------------

BY_HAND: dict[str, tuple[bytes, bytes, Message]] = {
    "HELLO": (
        control.build_hello(Endpoint.DIRECT, b"rawfs"),
        frame(1, struct.pack("=II", 3, 6) + b"rawfs\0"),
        Hello(Endpoint.DIRECT, b"rawfs"),
    ),
    "HELLO without a name": (
        control.build_hello(Endpoint.ANY, b""),
        frame(1, struct.pack("=II", 0, 0)),
        Hello(Endpoint.ANY, b""),
    ),
    "WELCOME": (
        control.build_welcome(0, Endpoint.SOCKET, 1 << 20),
        frame(2, struct.pack("=IIII", 1, 1 << 20, 0, 0)),
        Welcome(0, Endpoint.SOCKET, 1 << 20, ""),
    ),
    "WELCOME that refuses": (
        control.build_welcome(-24, Endpoint.SOCKET, 0, "no"),
        frame(2, struct.pack("=IIII", 1, 0, 3, 0) + b"no\0", error=-24),
        Welcome(-24, Endpoint.SOCKET, 0, "no"),
    ),
    "MOUNT": (
        control.build_mount(b"src", b"/mnt", b"fuse", 2, b"fd=3"),
        frame(3, mount_body(4, 5, 5, 2, 5)),
        Mount(b"src", b"/mnt", b"fuse", 2, b"fd=3"),
    ),
    "VERDICT": (
        control.build_verdict(0, 42),
        frame(4, struct.pack("=II", 42, 0)),
        Verdict(0, 42, ""),
    ),
    "VERDICT that refuses": (
        control.build_verdict(-1, 0, "é"),
        frame(4, struct.pack("=II", 0, 3) + "é".encode() + b"\0", error=-1),
        Verdict(-1, 0, "é"),
    ),
    "REQUEST": (control.build_request({"op": "x"}), frame(5, b'{"op": "x"}'), Request({"op": "x"})),
    "ANSWER": (control.build_answer({}), frame(6, b"{}"), Answer(0, {}, False)),
    "ANSWER with more": (control.build_answer({}, -2, more=True), frame(6, b"{}", -2, 1), Answer(-2, {}, True)),
    "TRACE": (
        control.build_trace(9, [control.pack_record(TraceRecord(5, 2, 15, 4096, b"abc"))]),
        frame(7, struct.pack("=II", 1, 9) + struct.pack("=QHHII", 5, 2, 15, 4096, 3) + b"abc"),
        Trace(9, [TraceRecord(5, 2, 15, 4096, b"abc")]),
    ),
    "the original's mount": (
        control.build_original_mount(b"src", b"/mnt", b"fuse", 9, b"fd=3"),
        original(),
        Mount(b"src", b"/mnt", b"fuse", 9, b"fd=3", original=True),
    ),
}


@pytest.mark.parametrize(("built", "by_hand", "message"), BY_HAND.values(), ids=BY_HAND)
def test_a_frame_is_built_as_the_document_has_it(built: bytes, by_hand: bytes, message: Message) -> None:
    assert built == by_hand


@pytest.mark.parametrize(("built", "by_hand", "message"), BY_HAND.values(), ids=BY_HAND)
def test_a_frame_by_hand_parses(built: bytes, by_hand: bytes, message: Message) -> None:
    assert control.parse(by_hand) == message


@pytest.mark.parametrize(("built", "by_hand", "message"), BY_HAND.values(), ids=BY_HAND)
def test_a_control_frame_is_told_from_a_fuse_frame(built: bytes, by_hand: bytes, message: Message) -> None:
    assert control.is_control(by_hand)


@pytest.mark.parametrize("packet", [b"", b"\xff" * 15, struct.pack("=IiQ", 16, 0, 0), struct.pack("=IIQ", 40, 1, 2)])
def test_a_fuse_frame_is_no_control_frame(packet: bytes) -> None:
    assert not control.is_control(packet)


def test_the_originals_frame_with_32_bit_longs_parses() -> None:
    assert control.parse(original(pad=0)) == Mount(b"src", b"/mnt", b"fuse", 9, b"fd=3", original=True)


def test_the_originals_socket_path_is_checked_and_left_out() -> None:
    sent = original((0, 5, 0, 0, 7), b"/mnt\0/tmp/s\0")
    assert control.parse(sent) == Mount(b"", b"/mnt", b"", 9, b"", original=True)


# -- round trips -----------------------------------------------------------------------------------------------------

TEXT = st.binary(max_size=50).map(lambda raw: raw.replace(b"\0", b"n"))
ERRORS = st.integers(-4095, 0)
U32 = st.integers(0, 2**32 - 1)
SENTENCES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=100)
JSON = st.dictionaries(st.text(max_size=5), st.one_of(st.none(), st.integers(), st.text(max_size=9)), max_size=4)
RECORDS = st.builds(
    TraceRecord, st.integers(0, 2**64 - 1), st.integers(1, 3), st.integers(0, 65535), U32, st.binary(max_size=512)
)


def same(message: Message) -> bytes:
    """The frame of any message."""
    if isinstance(message, Hello):
        return control.build_hello(*message)
    if isinstance(message, Welcome):
        return control.build_welcome(*message)
    if isinstance(message, Mount):
        return (control.build_original_mount if message.original else control.build_mount)(*message[:5])
    if isinstance(message, Verdict):
        return control.build_verdict(*message)
    if isinstance(message, Request):
        return control.build_request(message.body)
    if isinstance(message, Answer):
        return control.build_answer(message.body, message.error, message.more)
    return control.build_trace(message.dropped, [control.pack_record(each) for each in message.records])


MESSAGES: st.SearchStrategy[Any] = st.one_of(
    st.builds(Hello, st.sampled_from(Endpoint), TEXT),
    st.builds(Welcome, ERRORS, st.sampled_from(Endpoint), U32, SENTENCES),
    st.builds(Mount, TEXT, TEXT, TEXT, U32, TEXT, st.booleans()),
    st.builds(Verdict, ERRORS, U32, SENTENCES),
    st.builds(Request, JSON),
    st.builds(Answer, ERRORS, JSON, st.booleans()),
    st.builds(Trace, U32, st.lists(RECORDS, max_size=4)),
)


@THOROUGH
@given(MESSAGES)
def test_a_message_comes_back_as_it_went_in(message: Message) -> None:
    assert control.parse(same(message)) == message


@QUICK
@given(source=TEXT, target=TEXT, fstype=TEXT, data=TEXT)
def test_both_layouts_of_the_original_say_the_same(source: bytes, target: bytes, fstype: bytes, data: bytes) -> None:
    strings = [each + b"\0" if each else b"" for each in (source, target, fstype, data)]
    sizes = (len(strings[0]), len(strings[1]), len(strings[2]), len(strings[3]), 0)
    narrow, wide = original(sizes, b"".join(strings), pad=0), original(sizes, b"".join(strings), pad=4)
    assert control.parse(narrow) == control.parse(wide) == Mount(source, target, fstype, 9, data, original=True)


# -- whatever the bytes ----------------------------------------------------------------------------------------------


def names_a_field_or_parses(packet: bytes) -> None:
    """Parse; any exception but a WireError that names its field gets out."""
    try:
        control.parse(packet)
    except WireError as bad:
        if not (bad.field and bad.limit):
            raise


@THOROUGH
@given(st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda raw: frame(3, raw))))
def test_no_bytes_raise_anything_but_a_wire_error(packet: bytes) -> None:
    names_a_field_or_parses(packet)


@THOROUGH
@given(MESSAGES, st.data())
def test_no_mutation_of_a_good_frame_raises_anything_but_a_wire_error(message: Message, data: st.DataObject) -> None:
    sent = bytearray(same(message))
    for _ in range(data.draw(st.integers(1, 3))):
        sent[data.draw(st.integers(0, len(sent) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(sent[: data.draw(st.integers(0, len(sent)))])
    for packet in (bytes(sent), cut, struct.pack("=I", len(cut)) + cut[4:]):
        names_a_field_or_parses(packet)


# -- lies ------------------------------------------------------------------------------------------------------------

LONG = b"x" * 4096 + b"\0"
LIES: dict[str, tuple[bytes, str]] = {
    "an empty packet": (b"", "len"),
    "half a head": (frame(1)[:15], "len"),
    "a FUSE frame": (struct.pack("=IiQ", 16, 0, 2), "unique"),
    "a length too large": (frame(5, b"{}", length=35), "len"),
    "a length too small": (frame(5, b"{}", length=33), "len"),
    "a head of 16 bytes": (struct.pack("=IiQ", 16, 0, ALL_ONES), "len"),
    "a head of 31 bytes": (frame(1, length=31)[:31], "len"),
    "another magic": (frame(1, bytes(8), magic=b"perfuse3"), "magic"),
    "a reserved word": (frame(1, bytes(8), reserved=1), "reserved"),
    "an unknown flag": (frame(1, bytes(8), flags=2), "flags"),
    "kind 0": (frame(0, bytes(8)), "kind"),
    "kind 8": (frame(8, bytes(8)), "kind"),
    "HELLO without a body": (frame(1, bytes(7)), "len"),
    "HELLO to endpoint 4": (frame(1, struct.pack("=II", 4, 0)), "endpoint"),
    "a name_len past the frame": (frame(1, struct.pack("=II", 0, 9) + b"rawfs\0"), "name_len"),
    "a name_len past its limit": (frame(1, struct.pack("=II", 0, 65) + b"n" * 64 + b"\0"), "name_len"),
    "a name_len too small": (frame(1, struct.pack("=II", 0, 5) + b"rawfs\0"), "name"),
    "a name without its NUL": (frame(1, struct.pack("=II", 0, 5) + b"rawfs"), "name"),
    "a NUL inside a name": (frame(1, struct.pack("=II", 0, 6) + b"r\0wfs\0"), "name"),
    "bytes behind HELLO": (frame(1, struct.pack("=II", 0, 0) + b"x"), "len"),
    "a WELCOME cut short": (frame(2, bytes(15)), "len"),
    "a WELCOME with a positive errno": (frame(2, bytes(16), error=1), "error"),
    "a WELCOME with an absurd errno": (frame(2, bytes(16), error=-4096), "error"),
    "a message_len past WELCOME": (frame(2, struct.pack("=IIII", 1, 0, 9, 0)), "message_len"),
    "a MOUNT cut short": (frame(3, bytes(23)), "len"),
    "a source_len past the frame": (frame(3, mount_body(4000, 5, 5, 0, 5)), "source_len"),
    "a source_len past its limit": (frame(3, mount_body(4097, 0, 0, 0, 0, strings=LONG)), "source_len"),
    "a target_len past the frame": (frame(3, mount_body(4, 4000, 5, 0, 5)), "target_len"),
    "a target_len past its limit": (frame(3, mount_body(0, 4097, 0, 0, 0, strings=LONG)), "target_len"),
    "a fstype_len past the frame": (frame(3, mount_body(4, 5, 60, 0, 5)), "fstype_len"),
    "a fstype_len past its limit": (frame(3, mount_body(4, 5, 65, 0, 5)), "fstype_len"),
    "a data_len past the frame": (frame(3, mount_body(4, 5, 5, 0, 6)), "data_len"),
    "a data_len of 4 GiB": (frame(3, mount_body(4, 5, 5, 0, 2**32 - 1)), "data_len"),
    "a data_len too small": (frame(3, mount_body(4, 5, 5, 0, 0)), "len"),
    "a source_len too small": (frame(3, mount_body(3, 5, 5, 0, 5)), "source"),
    "a VERDICT cut short": (frame(4, bytes(7)), "len"),
    "a message_len past VERDICT": (frame(4, struct.pack("=II", 0, 1)), "message_len"),
    "a message_len past its limit": (frame(4, struct.pack("=II", 0, 4097) + LONG), "message_len"),
    "a VERDICT with a positive errno": (frame(4, bytes(8), error=22), "error"),
    "a REQUEST without a body": (frame(5), "body"),
    "a REQUEST that is no JSON": (frame(5, b"{"), "body"),
    "a REQUEST that is no object": (frame(5, b"[1]"), "body"),
    "a REQUEST that is no UTF-8": (frame(5, b'{"a": "\xff"}'), "body"),
    "a REQUEST in UTF-16": (frame(5, '{"op": "mounts"}'.encode("utf-16-le")), "body"),
    "a REQUEST of a thousand brackets": (frame(5, b"[" * 50_000), "body"),
    "a REQUEST with an absurd number": (frame(5, b'{"a": ' + b"9" * 6000 + b"}"), "body"),
    "an ANSWER with a positive errno": (frame(6, b"{}", error=5), "error"),
    "a TRACE cut short": (frame(7, bytes(7)), "len"),
    "a TRACE that counts too many": (frame(7, struct.pack("=II", 2**32 - 1, 0)), "count"),
    "a TRACE that counts too few": (frame(7, struct.pack("=II", 0, 0) + bytes(20)), "len"),
    "a record that keeps too much": (frame(7, struct.pack("=II", 1, 0) + bytes(16) + b"\1\0\0\0"), "kept"),
    "an original cut short": (struct.pack("=I", 51) + original()[4:51], "pmo_len"),
    "an original's source_len": (original((4000, 5, 5, 5, 0)), "source_len"),
    "an original's target_len": (original((4, 4000, 5, 5, 0)), "target_len"),
    "an original's fstype_len": (original((4, 5, 60, 5, 0)), "fstype_len"),
    "an original's data_len": (original((4, 5, 5, 4000, 0)), "data_len"),
    "an original's sock_len": (original((4, 5, 5, 5, 200)), "sock_len"),
    "an original's sock_len past its limit": (original((4, 5, 5, 5, 2**32 - 1)), "sock_len"),
    "bytes behind an original": (original((4, 5, 5, 0, 0)), "len"),
}


@pytest.mark.parametrize(("sent", "field"), LIES.values(), ids=LIES)
def test_a_lie_names_its_field(sent: bytes, field: str) -> None:
    assert refused(sent).field == field


def test_a_frame_past_the_limit_is_refused() -> None:
    assert refused(frame(5, b" " * (MAX_FRAME - 31))).field == "len"


def test_a_frame_of_exactly_the_limit_is_taken() -> None:
    body = b'{"a": 1}'
    assert control.parse(frame(5, body.ljust(MAX_FRAME - 32))) == Request(json.loads(body))


# -- builders --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["source", "target", "fstype", "data"])
def test_a_string_of_exactly_its_limit_is_sent(field: str) -> None:
    strings = dict.fromkeys(("source", "target", "fstype", "data"), b"") | {field: b"x" * (LIMITS[field] - 1)}
    built = control.build_mount(strings["source"], strings["target"], strings["fstype"], 0, strings["data"])
    assert getattr(control.parse(built), field) == strings[field]


@pytest.mark.parametrize("field", ["source", "target", "fstype", "data"])
@pytest.mark.parametrize("value", ["x" * 4096, "a\0b"], ids=["too long", "a NUL"])
def test_a_string_that_cannot_be_sent_names_its_field(field: str, value: str) -> None:
    strings = dict.fromkeys(("source", "target", "fstype", "data"), b"") | {field: value.encode()}
    with pytest.raises(WireError) as caught:
        control.build_mount(strings["source"], strings["target"], strings["fstype"], 0, strings["data"])
    assert caught.value.field == field


def test_a_programs_name_is_cut_to_63_bytes() -> None:
    assert control.parse(control.build_hello(Endpoint.ANY, b"n" * 200)) == Hello(Endpoint.ANY, b"n" * 63)


@pytest.mark.parametrize(
    ("message", "sent"),
    [("x" * 9000, "x" * 4095), ("é" * 9000, "é" * 2047), ("a\0b", "a b"), ("bad \udcff name", "bad \\udcff name")],
    ids=["long", "cut inside a character", "a NUL", "bytes that are no UTF-8"],
)
def test_a_sentence_that_cannot_be_sent_whole_is_made_to_fit(message: str, sent: str) -> None:
    assert control.parse(control.build_verdict(-1, 0, message)) == Verdict(-1, 0, sent)


def test_an_answer_past_the_limit_is_refused_where_it_is_built() -> None:
    with pytest.raises(WireError, match="a frame holds at most 65536 bytes"):
        control.build_answer({"a": "x" * MAX_FRAME})


def test_96_records_of_512_bytes_fit_a_trace() -> None:
    records = [TraceRecord(1, 1, 1, 9999, bytes(512))] * 96
    assert control.parse(control.build_trace(0, list(map(control.pack_record, records)))) == Trace(0, records)


def test_more_dropped_records_than_can_be_said_are_said_to_be_as_many_as_can() -> None:
    assert control.parse(control.build_trace(2**40, [])) == Trace(2**32 - 1, [])
