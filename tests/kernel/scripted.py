"""A filesystem whose every reply a test chooses, and which remembers every frame for when the test fails.

It serves a root directory with one file, `file` (nodeid 2, CONTENT), and what a test puts into `handlers`. Runs in a
thread of the test process, on a device from perfuse_open() (or on any descriptor).
"""

import contextlib
import errno
import os
import socket
import stat
import struct
import threading
from collections.abc import Callable

from libperfuse import perfuse_mount, perfuse_open
from perfused import libc
from wire import codec, render
from wire.opcodes import Opcode

CONTENT = b"0123456789abcdef" * 256
FILE = 2
#: what a handler gives: a body (a good reply), a negative errno, RAW bytes to send as they are, or None for no reply
Answer = bytes | int | None | list[bytes]
Handler = Callable[["Scripted", codec.InHeader, bytes], Answer]


def attr(nodeid: int, size: int = len(CONTENT), mode: int | None = None) -> tuple[int, ...]:
    """fuse_attr, flat: a directory for the root, a regular file of `size` bytes for the rest."""
    kind = mode if mode is not None else (0o40755 if nodeid == 1 else 0o100666)
    return (nodeid, size, (size + 511) // 512, 0, 0, 0, 0, 0, 0, kind, 2 if nodeid == 1 else 1, 0, 0, 0, 4096, 0)


def entry(nodeid: int, valid: int = 0, size: int = len(CONTENT), mode: int | None = None) -> bytes:
    """fuse_entry_out with `valid` seconds for entry and attributes."""
    return codec.entry_out.pack(nodeid, 0, valid, valid, 0, 0, *attr(nodeid, size, mode))


def init_reply(flags: int = 0, **fields: int) -> bytes:
    """fuse_init_out of today's minor, with both words of `flags` and any other field."""
    usual = {"major": 7, "minor": 45, "max_readahead": 131072, "max_write": 131072, "time_gran": 1}
    made = codec.init_out.make(**usual | {"flags": flags & 0xFFFF_FFFF, "flags2": flags >> 32} | fields)
    return codec.init_out.pack(*made)


class Scripted:
    """`handlers[opcode]` answers; what is not in it is answered by DEFAULTS, then ENOSYS."""

    def __init__(
        self, handlers: dict[int, Handler] | None = None, *, flags: int = 0, minor: int = 45, room: int = 2 << 20
    ) -> None:
        self.handlers = dict(handlers or {})
        #: bytes that each read(2) of the device has room for
        self.room = room
        self.flags, self.minor = flags, minor
        self.frames: list[tuple[bytes, int | None]] = []
        self.opcodes: dict[int, int] = {}
        self.seen = threading.Condition()
        self.requests: list[tuple[codec.InHeader, bytes]] = []
        self.fd = -1
        self.ended = threading.Event()
        #: cleared: the filesystem reads its device no more until it is set again
        self.reading = threading.Event()
        self.reading.set()

    def open_and_mount(self, target: str, options: str = "") -> "Scripted":
        """Take a device from perfused, mount it, serve."""
        self.fd = perfuse_open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        kind = stat.S_IFMT(os.stat(target).st_mode)
        data = f"fd={self.fd},rootmode={kind:o},user_id=0,group_id=0{',' + options if options else ''}"
        perfuse_mount("scripted", target, "fuse.scripted", 0, data)
        return self.serve()

    def mount_plain(self, target: str, options: str = "") -> "Scripted":
        """Mount on /dev/fuse itself, without perfused, and serve."""
        self.fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        kind = stat.S_IFMT(os.stat(target).st_mode)
        data = f"fd={self.fd},rootmode={kind:o},user_id=0,group_id=0{',' + options if options else ''}"
        libc.mount(b"scripted", os.fsencode(target), b"fuse.scripted", 0, data.encode())
        return self.serve()

    def serve(self) -> "Scripted":
        """Serve self.fd in a thread."""
        threading.Thread(target=self._loop, daemon=True, name="scripted").start()
        return self

    def _loop(self) -> None:
        try:
            while True:
                self.reading.wait()
                try:
                    frame = os.read(self.fd, self.room)
                except OSError:
                    return
                if not frame:
                    return
                self._serve_one(frame)
        finally:
            self.ended.set()

    def _serve_one(self, frame: bytes) -> None:
        head = codec.in_header.unpack_from(frame)
        self.frames.append((frame[:4096], None))
        with self.seen:
            self.requests.append((head, frame[40:]))
            self.opcodes[head.opcode] = self.opcodes.get(head.opcode, 0) + 1
            self.seen.notify_all()
        handler = self.handlers.get(head.opcode) or DEFAULTS.get(head.opcode)
        if handler is None:
            if head.opcode not in (Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT):
                self.reply(head, -errno.ENOSYS)
            return
        self.reply(head, handler(self, head, frame[40:]))

    def reply(self, head: codec.InHeader, answer: Answer) -> None:
        """Send what a handler gave."""
        if answer is None:
            return
        if isinstance(answer, list):
            for each in answer:
                self.send(each, head.opcode)
        elif isinstance(answer, int):
            self.send(codec.out_header.pack(16, answer, head.unique), head.opcode)
        else:
            self.send(codec.out_header.pack(16 + len(answer), 0, head.unique) + answer, head.opcode)

    def send(self, packet: bytes, reply_to: int = 0) -> None:
        """Send one packet as it is."""
        self.frames.append((packet[:4096], reply_to))
        try:
            os.write(self.fd, packet)
        except OSError as bad:
            self.frames.append((f"write: {bad}".encode(), None))

    def notify(self, code: int, payload: bytes = b"") -> None:
        """Send a notification."""
        self.send(codec.out_header.pack(16 + len(payload), code, 0) + payload)

    def wait_for(self, opcode: int, seconds: float = 5.0, times: int = 1) -> tuple[codec.InHeader, bytes]:
        """The latest request of an opcode, once `times` have come. Raises TimeoutError."""
        with self.seen:
            if not self.seen.wait_for(lambda: self.opcodes.get(opcode, 0) >= times, seconds):
                raise TimeoutError(f"no {Opcode(opcode).name} came within {seconds:g} s")
            return next(each for each in reversed(self.requests) if each[0].opcode == opcode)

    def transcript(self) -> str:
        """Every frame, decoded, one a line: what a failing test shows."""
        lines = []
        for frame, reply_to in self.frames:
            try:
                lines.append(render.line(frame, reply_to=reply_to, minor=self.minor))
            except Exception:
                lines.append(repr(frame[:64]))
        return "\n".join(lines)

    def close(self) -> None:
        """Let go of the device: for perfused the filesystem has ended."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            self.reading.set()
            # close(2) alone would not wake the thread that waits in read(2), and the device would stay open.
            with contextlib.suppress(OSError):
                if stat.S_ISSOCK(os.fstat(fd).st_mode):
                    with socket.socket(fileno=os.dup(fd)) as again:
                        again.shutdown(socket.SHUT_RDWR)
            os.close(fd)


def _init(fs: Scripted, head: codec.InHeader, body: bytes) -> Answer:
    major, minor = struct.unpack_from("=II", body)
    out = codec.init_out.make(
        major=major, minor=min(minor, fs.minor), max_readahead=131072, flags=fs.flags & 0xFFFF_FFFF, max_background=12,
        congestion_threshold=9, max_write=131072, time_gran=1, flags2=fs.flags >> 32,
    )  # fmt: skip
    size = 8 if fs.minor < 5 else 24 if fs.minor < 23 else 64
    return codec.init_out.pack(*out)[:size]


def _lookup(fs: Scripted, head: codec.InHeader, body: bytes) -> Answer:
    if body.rstrip(b"\0") != b"file":
        return -errno.ENOENT
    whole = entry(FILE)
    return whole if fs.minor >= 9 else whole[:120]


def _getattr(fs: Scripted, head: codec.InHeader, body: bytes) -> Answer:
    whole = codec.attr_out.pack(0, 0, 0, *attr(head.nodeid))
    return whole if fs.minor >= 9 else whole[:96]


def _read(fs: Scripted, head: codec.InHeader, body: bytes) -> Answer:
    offset, size = struct.unpack_from("=QI", body, 8)
    return CONTENT[offset : offset + size]


def _written(fs: Scripted, head: codec.InHeader, body: bytes) -> Answer:
    return codec.write_out.pack(struct.unpack_from("=I", body, 16)[0], 0)


DEFAULTS: dict[int, Handler] = {
    Opcode.INIT: _init,
    Opcode.LOOKUP: _lookup,
    Opcode.GETATTR: _getattr,
    Opcode.OPEN: lambda fs, head, body: codec.open_out.pack(1, 1, 0),
    Opcode.READ: _read,
    Opcode.WRITE: _written,
    Opcode.SETATTR: lambda fs, head, body: codec.attr_out.pack(0, 0, 0, *attr(head.nodeid)),
    Opcode.RELEASE: lambda fs, head, body: b"",
    Opcode.FLUSH: lambda fs, head, body: b"",
}


def dirents(head: codec.InHeader, body: bytes, plus: bool = False) -> bytes:
    """All entries of a directory from offset 0, nothing after them: `file` alone."""
    if struct.unpack_from("=Q", body, 8)[0]:
        return b""
    record = struct.pack("=QQII", FILE, 1, 4, 8) + b"file".ljust(8, b"\0")
    return (entry(FILE) if plus else b"") + record


def _xattr(value: bytes) -> Handler:
    def answer(fs: Scripted, head: codec.InHeader, body: bytes) -> Answer:
        size = struct.unpack_from("=I", body)[0]
        if not size:
            return codec.getxattr_out.pack(len(value), 0)
        return value if size >= len(value) else -errno.ERANGE

    return answer


def _made(nodeid: int, mode: int, opened: bool = False) -> Handler:
    whole = entry(nodeid, mode=mode) + (codec.open_out.pack(1, 1, 0) if opened else b"")
    return lambda fs, head, body: whole


def _done(fs: Scripted, head: codec.InHeader, body: bytes) -> Answer:
    return b""


def _copied(fs: Scripted, head: codec.InHeader, body: bytes) -> Answer:
    return codec.write_out.pack(struct.unpack_from("=Q", body, 40)[0], 0)


def _statx(fs: Scripted, head: codec.InHeader, body: bytes) -> Answer:
    kind = 0o40755 if head.nodeid == 1 else 0o100666
    found = struct.pack(
        "=IIQIIIHHQQQQ", 0xFFF, 4096, 0, 2 if head.nodeid == 1 else 1, 0, 0, kind, 0, head.nodeid, 0, 0, 0
    )
    return bytes(32) + found.ljust(256, b"\0")


#: answers to everything that DEFAULTS leave out, each good enough for the kernel
GENEROUS: dict[int, Handler] = {
    Opcode.SYMLINK: _made(10, 0o120777),
    Opcode.READLINK: lambda fs, head, body: b"file",
    Opcode.MKNOD: _made(11, 0o100644),
    Opcode.MKDIR: _made(12, 0o40755),
    Opcode.LINK: _made(FILE, 0o100666),
    Opcode.CREATE: _made(13, 0o100644, opened=True),
    Opcode.TMPFILE: _made(14, 0o100600, opened=True),
    Opcode.OPENDIR: lambda fs, head, body: codec.open_out.pack(2, 0, 0),
    Opcode.READDIR: lambda fs, head, body: dirents(head, body),
    Opcode.READDIRPLUS: lambda fs, head, body: dirents(head, body, plus=True),
    Opcode.STATFS: lambda fs, head, body: struct.pack("=5Q4I24x", 9, 8, 7, 6, 5, 4096, 255, 4096, 0),
    Opcode.GETXATTR: _xattr(b"green"),
    Opcode.LISTXATTR: _xattr(b"user.colour\0"),
    Opcode.GETLK: lambda fs, head, body: codec.lk_out.pack(0, 0, 2, 0),
    Opcode.IOCTL: lambda fs, head, body: codec.ioctl_out.pack(0, 0, 0, 0) + body[32:],
    Opcode.POLL: lambda fs, head, body: codec.poll_out.pack(1, 0),
    Opcode.LSEEK: lambda fs, head, body: codec.lseek_out.pack(4096),
    Opcode.COPY_FILE_RANGE: _copied,
    Opcode.COPY_FILE_RANGE_64: lambda fs, head, body: body[40:48],
    Opcode.STATX: _statx,
    **dict.fromkeys(
        (
            Opcode.UNLINK, Opcode.RMDIR, Opcode.RENAME, Opcode.RENAME2, Opcode.FSYNC, Opcode.FSYNCDIR, Opcode.SETXATTR,
            Opcode.REMOVEXATTR, Opcode.RELEASEDIR, Opcode.ACCESS, Opcode.SETLK, Opcode.SETLKW, Opcode.FALLOCATE,
        ),
        _done,
    ),
}  # fmt: skip
