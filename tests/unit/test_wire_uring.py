"""Requests and replies in io_uring entries are the same frames in other clothes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire_strategies import ORDERS, QUICK, replies, requests
from wire import codec, uring
from wire.errors import WireError
from wire.message import Reply, Request, build_reply, build_request


@QUICK
@given(requests(), st.integers(0, 2**64 - 1))
def test_a_request_survives_its_entry(made: tuple[int, Request], commit_id: int) -> None:
    _, request = made
    frame = build_request(request)
    headers, payload = uring.request_entry(frame, request.head_size or 0, commit_id, request.order)
    assert len(headers) == uring.HEADER_SIZE == 288
    entry = uring.parse_entry(headers, request.order)
    assert entry.ring_ent_in_out.commit_id == commit_id
    assert entry.ring_ent_in_out.payload_sz == len(payload)
    assert uring.build_entry(entry, request.order) == headers
    assert uring.request_frame(headers, payload + b"the rest of the buffer", request.order) == frame


@QUICK
@given(replies())
def test_a_reply_survives_its_entry(made: tuple[int, Reply]) -> None:
    _, reply = made
    frame = build_reply(reply)
    headers, payload = uring.reply_entry(frame, 7, reply.order)
    assert payload == frame[16:]
    assert uring.reply_frame(headers, payload, reply.order) == frame


@QUICK
@given(st.binary(max_size=400), st.binary(max_size=64), ORDERS)
def test_random_entries_raise_nothing_but_wire_error(headers: bytes, payload: bytes, order: str) -> None:
    for read in (uring.request_frame, uring.reply_frame):
        try:
            read(headers, payload, order)
        except WireError:
            pass


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(WireError, match="uring_req_header: at least 288 bytes, got 287"):
        uring.parse_entry(bytes(287))
    with pytest.raises(WireError, match="head_size: 0 to 128 bytes"):
        uring.request_entry(bytes(48), 9, 0)
    entry = codec.uring_req_header.make(ring_ent_in_out=codec.uring_ent_in_out.make(payload_sz=4))
    with pytest.raises(WireError, match="payload_sz: at most the 3 bytes"):
        uring.reply_frame(uring.build_entry(entry), b"abc")
    with pytest.raises(WireError, match="len: 44 and at most 128 bytes of head, got -44"):
        uring.request_frame(uring.build_entry(entry), b"abcd")
    with pytest.raises(WireError, match=r"uring_req_header\.op_in: 128 bytes, got 3"):
        uring.build_entry(codec.uring_req_header.make(op_in=b"abc"))


def test_commands_are_24_bytes() -> None:
    command = uring.build_command(3, 12)
    assert command == codec.uring_cmd_req.pack(0, 12, 3, bytes(6))
    assert len(command) == 24
    assert uring.parse_command(command).qid == 3
    with pytest.raises(WireError, match="qid: 16 bits"):
        uring.build_command(1 << 16)
