"""The perfuse_mount messages: what libperfuse, perfusectl and the daemon say to each other.

Here every control frame (docs/control-protocol.md) and the original's mount frame is built, and parsed with every check
on it; `control_layout` has the layouts. Never here: sockets, descriptors, policy.
"""

import errno
import json
import struct
from collections.abc import Callable, Sequence
from typing import Any

from wire.control_layout import (
    DEFAULT_SOCKET,
    DEVICE_NAME_PREFIX,
    HEAD_SIZE,
    LAYOUTS,
    LIMITS,
    MAGIC,
    MAX_FRAME,
    ORIGINAL_HEAD_SIZE,
    ORIGINAL_HEAD_SIZE_ILP32,
    ORIGINAL_MAGIC,
    TRACE_KEEP,
    TRACE_NOTICE,
    TRACE_REPLY,
    TRACE_REQUEST,
    UNIQUE_CONTROL,
    Answer,
    Endpoint,
    FrameFlag,
    Hello,
    Kind,
    Message,
    Mount,
    Request,
    Trace,
    TraceRecord,
    Verdict,
    Welcome,
)
from wire.errors import WireError

# fmt: off
__all__ = [
    "DEFAULT_SOCKET", "DEVICE_NAME_PREFIX", "HEAD_SIZE", "LIMITS", "MAGIC", "MALFORMED", "MAX_FRAME",
    "ORIGINAL_HEAD_SIZE", "ORIGINAL_HEAD_SIZE_ILP32", "ORIGINAL_MAGIC", "TRACE_KEEP", "TRACE_NOTICE", "TRACE_REPLY",
    "TRACE_REQUEST", "UNIQUE_CONTROL", "Answer", "Endpoint", "FrameFlag", "Hello", "Kind", "Message", "Mount",
    "Request", "Trace", "TraceRecord", "Verdict", "Welcome", "build_answer", "build_hello", "build_mount",
    "build_original_mount", "build_request", "build_trace", "build_verdict", "build_welcome", "is_control",
    "pack_record", "parse",
]
# fmt: on

_HEAD, _ORIGINAL = LAYOUTS["control_head"], LAYOUTS["perfuse_mount_out"]
_OUT_HEADER = struct.Struct("=IiQ")
_HELLO, _WELCOME, _MOUNT = LAYOUTS["hello"], LAYOUTS["welcome"], LAYOUTS["mount"]
_VERDICT, _TRACE, _RECORD = LAYOUTS["verdict"], LAYOUTS["trace"], LAYOUTS["trace_record"]


def is_control(frame: bytes | memoryview) -> bool:
    """Tell a control frame from a FUSE frame: at least 16 bytes, `unique` (offset 8) all ones in either direction."""
    return len(frame) >= 16 and bytes(frame[8:16]) == b"\xff" * 8


def _head(kind: Kind, body: bytes, error: int = 0, flags: int = 0) -> bytes:
    size = HEAD_SIZE + len(body)
    if size > MAX_FRAME:
        raise WireError(
            "len", f"at most {MAX_FRAME} bytes a frame", f"len is {size}: a frame holds at most {MAX_FRAME} bytes"
        )
    return _HEAD.pack(size, error, UNIQUE_CONTROL, MAGIC, kind, flags, 0) + body


def _string(field: str, value: bytes) -> bytes:
    """A counted string as it travels: with its NUL, or nothing for an empty one."""
    if b"\0" in value:
        raise WireError(field, "no NUL inside", f"{field} holds a NUL byte")
    sent = value + b"\0" if value else b""
    if len(sent) > LIMITS[field]:
        raise WireError(
            field, f"at most {LIMITS[field]} bytes", f"{field} has {len(sent)} bytes: the limit is {LIMITS[field]}"
        )
    return sent


def _sentence(message: str) -> bytes:
    cut = message.replace("\0", " ").encode(errors="backslashreplace")[: LIMITS["message"] - 1]
    return _string("message", cut.decode(errors="ignore").encode())


def build_hello(endpoint: Endpoint, name: bytes) -> bytes:
    """Build HELLO. `name` is cut to 63 bytes. Raises WireError for a NUL in it."""
    sent = _string("name", name[: LIMITS["name"] - 1])
    return _head(Kind.HELLO, _HELLO.pack(endpoint, len(sent)) + sent)


def build_welcome(error: int, endpoint: Endpoint, max_frame: int, message: str = "") -> bytes:
    """Build WELCOME: `error` 0 or a negative errno, `max_frame` in bytes, a sentence for the log."""
    sent = _sentence(message)
    return _head(Kind.WELCOME, _WELCOME.pack(endpoint, max_frame, len(sent), 0) + sent, error)


def build_mount(source: bytes, target: bytes, fstype: bytes, flags: int, data: bytes) -> bytes:
    """Build MOUNT. Raises WireError for a string over its limit or with a NUL inside."""
    strings = [
        _string(field, value)
        for field, value in (("source", source), ("target", target), ("fstype", fstype), ("data", data))
    ]
    lengths = [len(each) for each in strings]
    return _head(Kind.MOUNT, _MOUNT.pack(*lengths[:3], flags & 0xFFFF_FFFF, lengths[3], 0) + b"".join(strings))


def build_original_mount(
    source: bytes, target: bytes, fstype: bytes, flags: int, data: bytes, sock: bytes = b""
) -> bytes:
    """Build the 56-byte head of NetBSD's struct perfuse_mount_out and its five strings (LP64 layout)."""
    strings = [value + b"\0" if value else b"" for value in (source, target, fstype, data, sock)]
    lengths = [len(each) for each in strings]
    body = b"".join(strings)
    length = ORIGINAL_HEAD_SIZE + len(body)
    head = _ORIGINAL.pack(
        length, 0, UNIQUE_CONTROL, ORIGINAL_MAGIC, bytes(3), *lengths[:3], flags, lengths[3], lengths[4]
    )
    return head.ljust(ORIGINAL_HEAD_SIZE, b"\0") + body


def build_verdict(error: int, device: int, message: str = "") -> bytes:
    """Build VERDICT: `error` 0 or a negative errno, the superblock's minor device number, one sentence."""
    sent = _sentence(message)
    return _head(Kind.VERDICT, _VERDICT.pack(device, len(sent)) + sent, error)


def build_request(body: dict[str, Any]) -> bytes:
    """Build REQUEST from a JSON object. Raises WireError if it does not fit a frame."""
    return _head(Kind.REQUEST, json.dumps(body).encode())


def build_answer(body: dict[str, Any], error: int = 0, more: bool = False) -> bytes:
    """Build one frame of an ANSWER; `more` announces another. Raises WireError if it does not fit a frame."""
    return _head(Kind.ANSWER, json.dumps(body).encode(), error, FrameFlag.MORE if more else 0)


def pack_record(record: TraceRecord | tuple[int, int, int, int, bytes]) -> bytes:
    """A record of a TRACE frame: 20 bytes and what was kept."""
    time_ns, direction, opcode, length, kept = record
    return _RECORD.pack(time_ns, direction, opcode, length, len(kept)) + kept


def build_trace(dropped: int, records: Sequence[bytes]) -> bytes:
    """Build one TRACE frame of packed records: u32 count, u32 dropped, then the records.

    Raises WireError if they do not fit a frame; 96 records of 512 bytes do.
    """
    return _head(Kind.TRACE, _TRACE.pack(len(records), min(dropped, 0xFFFF_FFFF)) + b"".join(records))


class _Strings:
    """Cursor over counted strings; each length is checked before it is believed."""

    def __init__(self, frame: bytes, at: int) -> None:
        self.frame, self.at = frame, at

    def take(self, field: str, length: int) -> bytes:
        limit = LIMITS[field]
        if length > limit:
            raise WireError(f"{field}_len", f"at most {limit}", f"{field}_len is {length}: the limit is {limit}")
        if length > len(self.frame) - self.at:
            left = len(self.frame) - self.at
            raise WireError(
                f"{field}_len", f"{left} bytes are left", f"{field}_len is {length}: only {left} bytes are left"
            )
        text = self.frame[self.at : self.at + length]
        self.at += length
        if not length:
            return b""
        if text.find(b"\0") != length - 1:
            raise WireError(field, "one NUL, at its end", f"{field} must hold one NUL byte, as its last")
        return text[:-1]

    def end(self) -> None:
        if self.at != len(self.frame):
            over = len(self.frame) - self.at
            raise WireError("len", "no bytes after the last field", f"{over} bytes follow the last field of the frame")


def parse(frame: bytes) -> Message:
    """Parse one control frame, new or original, as it came in one packet (at most 65,536 bytes).

    Raises WireError naming the field and the limit; never anything else, whatever the bytes.
    """
    size = len(frame)
    if size < 16:
        raise WireError("len", "at least 16 bytes", f"len: a control frame has at least 16 bytes, this packet {size}")
    length, error, unique = _OUT_HEADER.unpack_from(frame)
    if unique != UNIQUE_CONTROL:
        raise WireError("unique", "all ones", f"unique is {unique:#x}: a control frame has all ones")
    if length != size:
        raise WireError("len", f"the packet's {size} bytes", f"len is {length}, but the packet has {size} bytes")
    if size > MAX_FRAME:
        raise WireError("len", f"at most {MAX_FRAME} bytes", f"len is {size}: a frame holds at most {MAX_FRAME} bytes")
    if frame[16:25] == ORIGINAL_MAGIC:
        return _parse_original(frame)
    if size < HEAD_SIZE:
        raise WireError(
            "len", f"at least {HEAD_SIZE} bytes", f"len is {size}: a control frame's head has {HEAD_SIZE} bytes"
        )
    _, _, _, magic, kind, flags, reserved = _HEAD.unpack_from(frame)
    if magic != MAGIC:
        raise WireError(
            "magic", MAGIC.decode(), f"magic is {magic!r}: {MAGIC.decode()!r} or the original's was expected"
        )
    if reserved:
        raise WireError("reserved", "zero", f"reserved is {reserved:#x}: it must be zero")
    if flags & ~int(FrameFlag.MORE):
        raise WireError("flags", "bit 0 only", f"flags is {flags:#x}: only bit 0 is known")
    try:
        parser = _PARSERS[Kind(kind)]
    except ValueError:
        raise WireError("kind", "1 to 7", f"kind is {kind}: kinds are 1 to 7") from None
    return parser(frame, error, flags)


def _fixed(layout: struct.Struct, frame: bytes, kind: Kind) -> tuple[Any, ...]:
    if len(frame) < HEAD_SIZE + layout.size:
        need = HEAD_SIZE + layout.size
        raise WireError("len", f"at least {need} bytes", f"len is {len(frame)}: {kind.name} has at least {need} bytes")
    return layout.unpack_from(frame, HEAD_SIZE)


def _endpoint(value: int) -> Endpoint:
    try:
        return Endpoint(value)
    except ValueError:
        raise WireError("endpoint", "0 to 3", f"endpoint is {value}: endpoints are 0 to 3") from None


def _parse_hello(frame: bytes, error: int, flags: int) -> Hello:
    endpoint, name_len = _fixed(_HELLO, frame, Kind.HELLO)
    strings = _Strings(frame, HEAD_SIZE + _HELLO.size)
    hello = Hello(_endpoint(endpoint), strings.take("name", name_len))
    strings.end()
    return hello


def _parse_welcome(frame: bytes, error: int, flags: int) -> Welcome:
    endpoint, max_frame, message_len, _ = _fixed(_WELCOME, frame, Kind.WELCOME)
    strings = _Strings(frame, HEAD_SIZE + _WELCOME.size)
    welcome = Welcome(
        _errno(error), _endpoint(endpoint), max_frame, strings.take("message", message_len).decode(errors="replace")
    )
    strings.end()
    return welcome


def _parse_mount(frame: bytes, error: int, flags: int) -> Mount:
    source_len, target_len, fstype_len, mountflags, data_len, _ = _fixed(_MOUNT, frame, Kind.MOUNT)
    strings = _Strings(frame, HEAD_SIZE + _MOUNT.size)
    source, target = strings.take("source", source_len), strings.take("target", target_len)
    fstype, data = strings.take("fstype", fstype_len), strings.take("data", data_len)
    strings.end()
    return Mount(source, target, fstype, mountflags, data)


def _parse_original(frame: bytes) -> Mount:
    """The original's frame: its head has 56 bytes where longs have 64 bits, 52 where they have 32."""
    if len(frame) < ORIGINAL_HEAD_SIZE_ILP32:
        raise WireError(
            "pmo_len",
            f"at least {ORIGINAL_HEAD_SIZE_ILP32} bytes",
            f"pmo_len is {len(frame)}: the head alone has {ORIGINAL_HEAD_SIZE_ILP32} or {ORIGINAL_HEAD_SIZE} bytes",
        )
    *_, source_len, target_len, fstype_len, mountflags, data_len, sock_len = _ORIGINAL.unpack_from(frame)
    total = source_len + target_len + fstype_len + data_len + sock_len
    ilp32 = ORIGINAL_HEAD_SIZE_ILP32 + total == len(frame)
    strings = _Strings(frame, ORIGINAL_HEAD_SIZE_ILP32 if ilp32 else ORIGINAL_HEAD_SIZE)
    source, target = strings.take("source", source_len), strings.take("target", target_len)
    fstype, data = strings.take("fstype", fstype_len), strings.take("data", data_len)
    strings.take("sock", sock_len)
    strings.end()
    return Mount(source, target, fstype, mountflags, data, original=True)


def _parse_verdict(frame: bytes, error: int, flags: int) -> Verdict:
    device, message_len = _fixed(_VERDICT, frame, Kind.VERDICT)
    strings = _Strings(frame, HEAD_SIZE + _VERDICT.size)
    verdict = Verdict(_errno(error), device, strings.take("message", message_len).decode(errors="replace"))
    strings.end()
    return verdict


def _errno(error: int) -> int:
    if error > 0 or error <= -4096:
        raise WireError("error", "0 or -4095 to -1", f"error is {error}: it must be 0 or a negative errno")
    return error


def _json(frame: bytes) -> dict[str, Any]:
    try:
        body = json.loads(frame[HEAD_SIZE:].decode())
    except (ValueError, RecursionError) as bad:
        raise WireError("body", "a JSON object in UTF-8", f"body is no JSON: {bad}") from None
    if not isinstance(body, dict):
        raise WireError("body", "a JSON object", f"body is a JSON {type(body).__name__}: an object was expected")
    return body


def _parse_request(frame: bytes, error: int, flags: int) -> Request:
    return Request(_json(frame))


def _parse_trace(frame: bytes, error: int, flags: int) -> Trace:
    count, dropped = _fixed(_TRACE, frame, Kind.TRACE)
    at = HEAD_SIZE + _TRACE.size
    records: list[TraceRecord] = []
    for _ in range(count):
        if len(frame) - at < _RECORD.size:
            raise WireError(
                "count", f"{len(records)} records fit", f"count is {count}: only {len(records)} records fit"
            )
        time_ns, direction, opcode, length, kept = _RECORD.unpack_from(frame, at)
        at += _RECORD.size
        if kept > len(frame) - at:
            raise WireError(
                "kept", f"{len(frame) - at} bytes are left", f"kept is {kept}: only {len(frame) - at} bytes are left"
            )
        records.append(TraceRecord(time_ns, direction, opcode, length, frame[at : at + kept]))
        at += kept
    if at != len(frame):
        raise WireError("len", "no bytes after the last record", f"{len(frame) - at} bytes follow the last record")
    return Trace(dropped, records)


def _parse_answer(frame: bytes, error: int, flags: int) -> Answer:
    return Answer(_errno(error), _json(frame), bool(flags & FrameFlag.MORE))


_PARSERS: dict[Kind, Callable[[bytes, int, int], Message]] = {
    Kind.HELLO: _parse_hello,
    Kind.WELCOME: _parse_welcome,
    Kind.MOUNT: _parse_mount,
    Kind.VERDICT: _parse_verdict,
    Kind.REQUEST: _parse_request,
    Kind.ANSWER: _parse_answer,
    Kind.TRACE: _parse_trace,
}

#: errno for a frame that cannot be believed, one place for all who answer one.
MALFORMED = errno.EBADMSG
