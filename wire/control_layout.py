"""The control frames as data: kinds, limits, the layout of every head, and what a frame means once it is parsed.

Layouts are construct Structs, and the codecs are derived from them as those of fuse.h are. Never here: building and
parsing frames (`control`), sockets, policy.
"""

from enum import IntEnum, IntFlag
from struct import Struct
from typing import Any, NamedTuple

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

#: the fixed part of each, in host order without padding; where a body follows, behind the head
LAYOUTS: dict[str, Struct] = {
    # What every control frame begins with; its first 16 bytes are a fuse_out_header.
    # len, error, unique, magic, kind, flags, reserved
    "control_head": Struct("=IiQ8sHHI"),
    # endpoint, name_len
    "hello": Struct("=II"),
    # endpoint, max_frame, message_len, reserved
    "welcome": Struct("=IIII"),
    # source_len, target_len, fstype_len, mountflags, data_len, reserved
    "mount": Struct("=IIIIII"),
    # device, message_len
    "verdict": Struct("=II"),
    # count, dropped
    "trace": Struct("=II"),
    # time_ns, direction, opcode, length, kept
    "trace_record": Struct("=QHHII"),
    # NetBSD's struct perfuse_mount_out: 52 bytes, and 4 of padding at its end where longs have 64 bits. pmo_len,
    # pmo_error, pmo_unique, pmo_magic, padding, pmo_source_len, pmo_target_len, pmo_filesystemtype_len, pmo_mountflags,
    # pmo_data_len, pmo_sock_len
    "perfuse_mount_out": Struct("=IiQ9s3sIIIIII"),
}
