"""FUSE over io_uring (7.42): the 288-byte entry header, the command in a submission entry, and frames made of both.

In an entry, ``in_out`` holds the in_header or out_header, ``op_in`` the request's fixed head, and a buffer of its own
all that follows. What never lives here: rings, submission and completion queues.
"""

from __future__ import annotations

from wire import codec
from wire.derive import Buffer
from wire.errors import WireError

HEADER_SIZE = codec.uring_req_header.size
"""288 bytes: 128 in_out, 128 op_in, 32 ring_ent_in_out."""
PART_SIZE = 128


def parse_entry(headers: Buffer, order: str = "=") -> codec.UringReqHeader:
    """``fuse_uring_req_header`` of at least 288 bytes. WireError where it is shorter."""
    return codec.order(order).uring_req_header.unpack_from(headers)


def build_entry(entry: codec.UringReqHeader, order: str = "=") -> bytes:
    """288 bytes. WireError where ``in_out`` or ``op_in`` is not 128 bytes."""
    return codec.order(order).uring_req_header.build(entry)


def parse_command(command: Buffer, order: str = "=") -> codec.UringCmdReq:
    """``fuse_uring_cmd_req``, 24 bytes of a submission entry's command area. WireError where it is shorter."""
    return codec.order(order).uring_cmd_req.unpack_from(command)


def build_command(qid: int, commit_id: int = 0, flags: int = 0, order: str = "=") -> bytes:
    """24 bytes for REGISTER (``commit_id`` 0) or COMMIT_AND_FETCH on queue ``qid``. WireError where it does not fit."""
    return codec.order(order).uring_cmd_req.pack(flags, commit_id, qid, bytes(6))


def _payload(entry: codec.UringReqHeader, payload: Buffer) -> bytes:
    length = entry.ring_ent_in_out.payload_sz
    if length > len(payload):
        raise WireError("payload_sz", f"at most the {len(payload)} bytes of the buffer, got {length}")
    return bytes(payload[:length])


def request_frame(headers: Buffer, payload: Buffer, order: str = "=") -> bytes:
    """The request in an entry as the frame that /dev/fuse would have given.

    The head's length is what ``in_header.len`` leaves beside header and payload. WireError where that is not 0 to 128.
    """
    entry = parse_entry(headers, order)
    tail = _payload(entry, payload)
    made = codec.order(order).in_header
    head = made.unpack_from(entry.in_out).len - made.size - len(tail)
    if not 0 <= head <= PART_SIZE:
        raise WireError("len", f"{made.size + len(tail)} and at most {PART_SIZE} bytes of head, got {head}")
    return entry.in_out[: made.size] + entry.op_in[:head] + tail


def request_entry(frame: Buffer, head_size: int, commit_id: int, order: str = "=") -> tuple[bytes, bytes]:
    """``(headers, payload)`` of a request frame with a head of ``head_size`` bytes. WireError if that does not fit."""
    frame = bytes(frame)
    start = codec.in_header.size + head_size
    if not 0 <= head_size <= PART_SIZE or start > len(frame):
        raise WireError("head_size", f"0 to {PART_SIZE} bytes that the frame has, got {head_size}")
    return _entry(frame[: codec.in_header.size], frame[codec.in_header.size : start], frame[start:], commit_id, order)


def reply_frame(headers: Buffer, payload: Buffer, order: str = "=") -> bytes:
    """The reply in an entry as the frame that a write to /dev/fuse would carry; its ``len`` is set from the payload."""
    entry = parse_entry(headers, order)
    tail = _payload(entry, payload)
    made = codec.order(order).out_header
    return made.build(made.unpack_from(entry.in_out)._replace(len=made.size + len(tail))) + tail


def reply_entry(frame: Buffer, commit_id: int, order: str = "=") -> tuple[bytes, bytes]:
    """``(headers, payload)`` of a reply frame: 288 bytes, and all behind the out_header. WireError if too short."""
    frame = bytes(frame)
    codec.order(order).out_header.unpack_from(frame)
    return _entry(frame[: codec.out_header.size], b"", frame[codec.out_header.size :], commit_id, order)


def _entry(header: bytes, head: bytes, payload: bytes, commit_id: int, order: str) -> tuple[bytes, bytes]:
    made = codec.order(order)
    ent = made.uring_ent_in_out.make(commit_id=commit_id, payload_sz=len(payload))
    entry = codec.UringReqHeader(header.ljust(PART_SIZE, b"\0"), head.ljust(PART_SIZE, b"\0"), ent)
    return made.uring_req_header.build(entry), payload
