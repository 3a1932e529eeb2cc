"""A live trace as perfusectl shows it: frames paired, paths learnt, filters applied, one line or one JSON object each.

Never here: taking frames (the worker does), and what a frame's fields are called (wire.render).
"""

import errno
import json
import select
import socket
import sys
import time
from typing import Any

from libperfuse.connection import PerfuseError, exchange, receive
from perfused.names import Names, names_in
from wire import codec, control, render
from wire.control import TRACE_NOTICE, TRACE_REPLY, TRACE_REQUEST, Answer, Trace, TraceRecord
from wire.opcodes import Opcode, name_of

MINOR = 45
#: opcodes whose first name is an entry of the directory they speak of
IN_DIRECTORY = frozenset(
    {Opcode.LOOKUP, Opcode.SYMLINK, Opcode.MKNOD, Opcode.MKDIR, Opcode.UNLINK, Opcode.RMDIR, Opcode.RENAME}
    | {Opcode.RENAME2, Opcode.LINK, Opcode.CREATE}
)


class TraceView:
    """Turns records into lines."""

    def __init__(self, pid: int | None, under: str | None, as_json: bool) -> None:
        self.pid = pid
        self.under = under
        self.as_json = as_json
        self.opcodes: frozenset[int] | None = None
        self.names = Names()
        #: unique -> the request as it was kept, its time, whether it was shown
        self.requests: dict[int, tuple[TraceRecord, bool]] = {}

    def lines(self, record: TraceRecord) -> list[str]:
        """The lines of one record, none where it is filtered out."""
        if record.direction == TRACE_REQUEST:
            return self._request(record)
        if record.direction == TRACE_REPLY:
            return self._reply(record)
        if record.direction == TRACE_NOTICE and self.pid is None and self.under is None and self.opcodes is None:
            return [self._text(record, 0, None, None)]
        return []

    def _path(self, kept: bytes) -> str:
        nodeid = int.from_bytes(kept[16:24], sys.byteorder)
        opcode = int.from_bytes(kept[4:8], sys.byteorder)
        names = names_in(kept, MINOR) if opcode in IN_DIRECTORY else []
        return self.names.path(nodeid, names[0] if names else b"") if nodeid else ""

    def _request(self, record: TraceRecord) -> list[str]:
        if len(record.kept) < codec.in_header.size:
            return []
        head = codec.in_header.unpack_from(record.kept)
        shown = self._wanted(head.opcode, head.pid, record.kept)
        self.requests[head.unique] = record, shown
        while len(self.requests) > 65_536:
            self.requests.pop(next(iter(self.requests)))
        return [self._text(record, None, self._path(record.kept), None)] if shown else []

    def _wanted(self, opcode: int, pid: int, kept: bytes) -> bool:
        if self.opcodes is not None and opcode not in self.opcodes:
            return False
        if self.pid is not None and pid != self.pid:
            return False
        return self.under is None or self._path(kept).startswith(self.under)

    def _reply(self, record: TraceRecord) -> list[str]:
        if len(record.kept) < codec.out_header.size:
            return []
        head = codec.out_header.unpack_from(record.kept)
        request, shown = self.requests.pop(head.unique, (None, self.pid is None and self.under is None))
        if request is not None and not head.error:
            self.names.learn(request.kept, record.kept, MINOR)
        elapsed = (record.time_ns - request.time_ns) / 1000 if request else None
        return [self._text(record, record.opcode, None, elapsed)] if shown else []

    def _text(self, record: TraceRecord, reply_to: int | None, path: str | None, elapsed: float | None) -> str:
        if self.as_json:
            return json.dumps(self._object(record, reply_to, path, elapsed))
        stamp = (
            time.strftime("%H:%M:%S", time.localtime(record.time_ns / 1e9))
            + f".{record.time_ns // 1000 % 1_000_000:06}"
        )
        text = render.line(record.kept, reply_to=reply_to, minor=MINOR)
        return f"{stamp} {text}{f'  {path}' if path else ''}{f'  {elapsed:.1f}us' if elapsed is not None else ''}"

    def _object(
        self, record: TraceRecord, reply_to: int | None, path: str | None, elapsed: float | None
    ) -> dict[str, Any]:
        found: dict[str, Any] = {
            "time": record.time_ns / 1e9,
            "direction": {TRACE_REQUEST: "request", TRACE_REPLY: "reply"}.get(record.direction, "notification"),
            "opcode": name_of(record.opcode) if record.direction != TRACE_NOTICE else None,
            "length": record.length,
        }
        if path is not None:
            found["path"] = path
        if elapsed is not None:
            found["elapsed_us"] = round(elapsed, 1)
        if record.direction == TRACE_REQUEST:
            found["nodeid"] = codec.in_header.unpack_from(record.kept).nodeid
        found["frame"] = render.as_dict(record.kept, reply_to=reply_to, minor=MINOR)
        return found


def follow(
    connection: socket.socket, request: dict[str, object], view: TraceView, count: int | None, seconds: float | None
) -> None:
    """Print a live trace until the mount ends, `count` frames were shown or `seconds` have passed.

    Raises PerfuseError with the daemon's refusal.
    """
    exchange(connection, control.build_request(request))
    deadline = time.monotonic() + seconds if seconds else None
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    shown = 0
    while count is None or shown < count:
        left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        if not poll.poll(None if left is None else left * 1000):
            return
        message, _ = receive(connection)
        if message is None:
            return
        if isinstance(message, Answer) and message.error:
            raise PerfuseError(-message.error, str(message.body.get("message")))
        if not isinstance(message, Trace):
            raise PerfuseError(errno.EPROTO, f"perfused sent {type(message).__name__.upper()} in a trace")
        if message.dropped:
            print(f"... {message.dropped} frames dropped: this reader is too slow", file=sys.stderr)
        for record in message.records:
            for line in view.lines(record):
                print(line)
                shown += 1
                if count is not None and shown >= count:
                    break
            if count is not None and shown >= count:
                break
        sys.stdout.flush()
