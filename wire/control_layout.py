"""The control frames as data: kinds, limits, the layout of every head, and what a frame means once it is parsed.

Layouts are construct Structs, and the codecs are derived from them as those of fuse.h are. Never here: building and
parsing frames (`control`), sockets, policy.
"""

from enum import IntEnum, IntFlag
from typing import Any, NamedTuple

from construct import Bytes, Int16un, Int32sn, Int32un, Int64un, Struct

from wire import derive

MAGIC = b"perfuse2"
ORIGINAL_MAGIC = b"noFuseRq\0"
UNIQUE_CONTROL = 0xFFFF_FFFF_FFFF_FFFF
MAX_FRAME = 65536
HEAD_SIZE = 32
ORIGINAL_HEAD_SIZE = 56
ORIGINAL_HEAD_SIZE_ILP32 = 52
DEFAULT_SOCKET = "/run/perfused/perfused.sock"
DEVICE_NAME_PREFIX = b"\0perfused/"
LIMITS = {"name": 64, "source": 4096, "target": 4096, "fstype": 64, "data": 4096, "message": 4096, "sock": 256}


class Kind(IntEnum):
    """What a control frame is for."""

    HELLO = 1
    WELCOME = 2
    MOUNT = 3
    VERDICT = 4
    REQUEST = 5
    ANSWER = 6
    TRACE = 7


class Endpoint(IntEnum):
    """What a filesystem holds as its device."""

    ANY = 0
    SOCKET = 1
    DEVICE = 2
    DIRECT = 3


class FrameFlag(IntFlag):
    """Flags of a control frame's head."""

    MORE = 1


class Hello(NamedTuple):
    """First frame of a client: the endpoint it asks for and its program's name."""

    endpoint: Endpoint
    name: bytes


class Welcome(NamedTuple):
    """Answer to HELLO; the device travels beside it. `error` is 0 or a negative errno, `max_frame` is in bytes."""

    error: int
    endpoint: Endpoint
    max_frame: int
    message: str


class Mount(NamedTuple):
    """A request to mount. `flags` are MS_* bits; `original` marks the frame of NetBSD's libperfuse: no answer to it."""

    source: bytes
    target: bytes
    fstype: bytes
    flags: int
    data: bytes
    original: bool = False


class Verdict(NamedTuple):
    """Answer to MOUNT: 0 or a negative errno, the minor device number of the new superblock, one sentence."""

    error: int
    device: int
    message: str


class Request(NamedTuple):
    """A question of perfusectl or libperfuse."""

    body: dict[str, Any]


class Answer(NamedTuple):
    """One frame of an answer; `more` says that another follows."""

    error: int
    body: dict[str, Any]
    more: bool


class TraceRecord(NamedTuple):
    """One frame of a live trace: nanoseconds since 1970, which way, its opcode, its true length, its first bytes."""

    time_ns: int
    direction: int
    opcode: int
    length: int
    kept: bytes


class Trace(NamedTuple):
    """Records of a live trace, and how many were dropped before them because the reader was slow."""

    dropped: int
    records: list[TraceRecord]


#: `TraceRecord.direction`
TRACE_REQUEST, TRACE_REPLY, TRACE_NOTICE = 1, 2, 3
#: bytes of a frame that a trace keeps: heads and names, hardly any file data
TRACE_KEEP = 512

Message = Hello | Welcome | Mount | Verdict | Request | Answer | Trace

STRUCTS: dict[str, Any] = {
    # What every control frame begins with; its first 16 bytes are a fuse_out_header.
    "control_head": Struct(
        "len" / Int32un,
        "error" / Int32sn,
        "unique" / Int64un,
        "magic" / Bytes(8),
        "kind" / Int16un,
        "flags" / Int16un,
        "reserved" / Int32un,
    ),
    "hello": Struct("endpoint" / Int32un, "name_len" / Int32un),
    "welcome": Struct("endpoint" / Int32un, "max_frame" / Int32un, "message_len" / Int32un, "reserved" / Int32un),
    "mount": Struct(
        "source_len" / Int32un,
        "target_len" / Int32un,
        "fstype_len" / Int32un,
        "mountflags" / Int32un,
        "data_len" / Int32un,
        "reserved" / Int32un,
    ),
    "verdict": Struct("device" / Int32un, "message_len" / Int32un),
    "trace": Struct("count" / Int32un, "dropped" / Int32un),
    "trace_record": Struct(
        "time_ns" / Int64un, "direction" / Int16un, "opcode" / Int16un, "length" / Int32un, "kept" / Int32un
    ),
    # NetBSD's struct perfuse_mount_out: 52 bytes, and 4 of padding at its end where longs have 64 bits.
    "perfuse_mount_out": Struct(
        "pmo_len" / Int32un,
        "pmo_error" / Int32sn,
        "pmo_unique" / Int64un,
        "pmo_magic" / Bytes(9),
        "padding" / Bytes(3),
        "pmo_source_len" / Int32un,
        "pmo_target_len" / Int32un,
        "pmo_filesystemtype_len" / Int32un,
        "pmo_mountflags" / Int32un,
        "pmo_data_len" / Int32un,
        "pmo_sock_len" / Int32un,
    ),
}
_LAYOUTS = derive.layouts(STRUCTS)
CODECS = derive.codecs(_LAYOUTS, derive.types(_LAYOUTS, __name__), "=")
derive.check_sizes(STRUCTS, CODECS)
