"""What can be wound around a connection while somebody looks: latencies, the ring of the last operations, debug lines,
a stream for perfusectl.

All of it off costs nothing. Never here: changing a frame, and rendering where a reader can do it in another process.
"""

import errno
import logging
import time
from collections import deque
from typing import IO

from perfused.names import Names, names_in, shown
from perfused.states import NODEID, OPCODE, PID, SLOTS, UID, UNIQUE, Buffer, Head
from wire.control import TRACE_KEEP, TRACE_NOTICE, TRACE_REPLY, TRACE_REQUEST, TraceRecord
from wire.opcodes import BY_NUMBER, Opcode, ReplyRule, name_of

RING = 4096
#: frames a slow reader of a live trace may fall behind before the oldest are dropped
STREAM_KEPT = 4096
#: where file data begins in WRITE and NOTIFY_REPLY (in_header 40, write_in or notify_retrieve_in 40)
DATA_AT = 80

DEBUG_OPCODES: dict[str, frozenset[int]] = {
    "fh": frozenset({Opcode.OPEN, Opcode.OPENDIR, Opcode.CREATE, Opcode.TMPFILE, Opcode.RELEASE, Opcode.RELEASEDIR}),
    "reclaim": frozenset({Opcode.FORGET, Opcode.BATCH_FORGET}),
    "readdir": frozenset({Opcode.READDIR, Opcode.READDIRPLUS}),
    "requeue": frozenset({Opcode.INTERRUPT}),
    "sync": frozenset({Opcode.FSYNC, Opcode.FSYNCDIR, Opcode.FLUSH, Opcode.SYNCFS}),
    "misc": frozenset(
        {Opcode.INIT, Opcode.DESTROY, Opcode.STATFS, Opcode.ACCESS, Opcode.IOCTL, Opcode.POLL, Opcode.BMAP}
        | {Opcode.GETLK, Opcode.SETLK, Opcode.SETLKW, Opcode.LSEEK, Opcode.NOTIFY_REPLY}
    ),
    "filename": frozenset(row.number for row in BY_NUMBER.values() if row.names and row.number < SLOTS),
    "resize": frozenset(
        {Opcode.SETATTR, Opcode.FALLOCATE, Opcode.WRITE, Opcode.COPY_FILE_RANGE, Opcode.COPY_FILE_RANGE_64}
    ),
}  # fmt: skip


def bucket(nanoseconds: int) -> int:
    """The histogram bucket of an elapsed time: eight to every doubling, so a quantile is true within an eighth."""
    if nanoseconds < 8:
        return max(nanoseconds, 0)
    high = nanoseconds.bit_length()
    return (high - 3) * 8 + ((nanoseconds >> (high - 4)) & 7)


def bucket_top(index: int) -> int:
    """The longest time, in nanoseconds, that falls into a bucket."""
    if index < 8:
        return index
    high, low = index // 8 + 3, index % 8
    return ((8 + low + 1) << (high - 4)) - 1


class OpcodeTimes:
    """Count, shortest, sum, longest and a histogram of one opcode's elapsed times, in nanoseconds."""

    __slots__ = ("count", "histogram", "longest", "shortest", "total")

    def __init__(self) -> None:
        self.count = self.total = self.longest = 0
        self.shortest = 1 << 62
        self.histogram: dict[int, int] = {}

    def add(self, elapsed: int) -> None:
        """Take one elapsed time."""
        self.count += 1
        self.total += elapsed
        if elapsed < self.shortest:
            self.shortest = elapsed
        if elapsed > self.longest:
            self.longest = elapsed
        at = bucket(elapsed)
        self.histogram[at] = self.histogram.get(at, 0) + 1

    def quantile(self, part: float) -> int:
        """The time that `part` of all (0.99) do not exceed, within an eighth."""
        left = self.count * part
        for at in sorted(self.histogram):
            left -= self.histogram[at]
            if left <= 0:
                return min(bucket_top(at), self.longest)
        return self.longest

    def summary(self) -> dict[str, float]:
        """count, and min, avg, max, p99 in microseconds."""
        return {
            "count": self.count,
            "min_us": self.shortest / 1000,
            "avg_us": self.total / self.count / 1000,
            "max_us": self.longest / 1000,
            "p99_us": self.quantile(0.99) / 1000,
        }


class Latency:
    """Elapsed time of every request, by opcode."""

    opcodes: frozenset[int] | None = None

    def __init__(self) -> None:
        self.started: dict[int, int] = {}
        self.times: dict[int, OpcodeTimes] = {}

    def request(self, head: Head, frame: Buffer) -> None:
        """Stamp a request that will be answered."""
        row = BY_NUMBER.get(head[OPCODE])
        if row is None or row.reply_rule is ReplyRule.ALWAYS:
            self.started[head[UNIQUE]] = time.monotonic_ns()

    def reply(self, head: Head, error: int, frame: Buffer) -> None:
        """Note how long an answer took."""
        began = self.started.pop(head[UNIQUE], None)
        if began is None:
            return
        opcode = head[OPCODE]
        times = self.times.get(opcode)
        if times is None:
            times = self.times[opcode] = OpcodeTimes()
        times.add(time.monotonic_ns() - began)

    def notice(self, frame: Buffer) -> None:
        """Notifications take no time."""

    def summary(self) -> dict[str, dict[str, float]]:
        """By opcode name: count, min_us, avg_us, max_us, p99_us."""
        return {name_of(opcode): self.times[opcode].summary() for opcode in sorted(self.times)}


class Operation:
    """One line of the ring; `error` None is an operation still going on."""

    __slots__ = ("began", "elapsed", "error", "head", "name", "path", "wall")

    def __init__(self, head: Head, path: str, name: str) -> None:
        self.head, self.path, self.name = head, path, name
        self.wall = time.time()
        self.began = time.monotonic_ns()
        self.error: int | None = None
        self.elapsed = 0


class Ring(Latency):
    """The last 4096 operations, as SIGUSR1 writes them out."""

    def __init__(self, minor: int) -> None:
        super().__init__()
        self.minor = minor
        self.names = Names()
        self.ring: deque[Operation] = deque(maxlen=RING)
        self.open: dict[int, tuple[Operation, bytes]] = {}

    def request(self, head: Head, frame: Buffer) -> None:
        """Begin a line."""
        super().request(head, frame)
        kept = bytes(frame[:1024])
        name = "/".join(shown(each) for each in names_in(kept, self.minor))
        operation = Operation(head, self.names.path(head[NODEID]), name)
        self.ring.append(operation)
        if head[UNIQUE] in self.started:
            self.open[head[UNIQUE]] = operation, kept
        else:
            operation.error = 0

    def reply(self, head: Head, error: int, frame: Buffer) -> None:
        """End a line, and learn where nodes are."""
        super().reply(head, error, frame)
        found = self.open.pop(head[UNIQUE], None)
        if found is None:
            return
        operation, kept = found
        operation.elapsed = time.monotonic_ns() - operation.began
        operation.error = error
        if not error:
            self.names.learn(kept, bytes(frame[:65536]), self.minor)

    def write(self, out: IO[str], title: str) -> None:
        """Write the ring and the table of opcodes as text."""
        print(f"# {title}", file=out)
        print(f"# {len(self.ring)} operations, newest last; at most {RING} are kept", file=out)
        print("# time opcode path name uid pid error elapsed", file=out)
        for each in list(self.ring):
            stamp = time.strftime("%H:%M:%S", time.localtime(each.wall)) + f".{int(each.wall % 1 * 1e6):06d}"
            if each.error is None:
                result, elapsed = "-", "ongoing"
            else:
                result = errno.errorcode.get(-each.error, str(each.error)) if each.error else "ok"
                elapsed = f"{each.elapsed / 1000:.1f}us"
            words = (
                name_of(each.head[OPCODE]),
                each.path,
                each.name or "-",
                each.head[UID],
                each.head[PID],
                result,
                elapsed,
            )
            print(stamp, *words, file=out)
        print(f"\n{'opcode':<20}{'count':>9}{'min us':>11}{'avg us':>11}{'max us':>11}{'p99 us':>11}", file=out)
        for name, row in self.summary().items():
            numbers = "".join(f"{row[key]:>11.1f}" for key in ("min_us", "avg_us", "max_us", "p99_us"))
            print(f"{name:<20}{row['count']:>9}{numbers}", file=out)
        print(f"\nnodes seen: {len(self.names.nodes)}   requests in flight: {len(self.open)}", file=out)


class Stream:
    """Frames for a live trace, cut to their heads; the worker's main thread sends them on."""

    def __init__(self, opcodes: frozenset[int] | None) -> None:
        self.opcodes = opcodes
        self.records: deque[TraceRecord] = deque(maxlen=STREAM_KEPT)
        self.taken = 0

    def request(self, head: Head, frame: Buffer) -> None:
        """Keep a request's first bytes; of file data nothing but its length."""
        keep = DATA_AT if head[OPCODE] in (Opcode.WRITE, Opcode.NOTIFY_REPLY) else TRACE_KEEP
        self.records.append(TraceRecord(time.time_ns(), TRACE_REQUEST, head[OPCODE], len(frame), bytes(frame[:keep])))
        self.taken += 1

    def reply(self, head: Head, error: int, frame: Buffer) -> None:
        """Keep a reply's first bytes; of file data nothing but its length."""
        keep = 16 if head[OPCODE] == Opcode.READ else TRACE_KEEP
        self.records.append(TraceRecord(time.time_ns(), TRACE_REPLY, head[OPCODE], len(frame), bytes(frame[:keep])))
        self.taken += 1

    def notice(self, frame: Buffer) -> None:
        """Keep a notification."""
        self.records.append(TraceRecord(time.time_ns(), TRACE_NOTICE, 0, len(frame), bytes(frame[:TRACE_KEEP])))
        self.taken += 1

    def drain(self, most: int) -> list[TraceRecord]:
        """Take up to `most` records, oldest first."""
        out: list[TraceRecord] = []
        while len(out) < most:
            try:
                out.append(self.records.popleft())
            except IndexError:
                break
        return out


class DebugLines:
    """Debug classes of `-d` as log lines; slow, and meant to be."""

    def __init__(self, classes: frozenset[str], logger: logging.Logger, minor: int) -> None:
        # Only who debugs pays for it; and now, since a worker without privileges may not be able to read our files.
        from wire import render

        self._line = render.line
        self.logger = logger
        self.minor = minor
        self.dump = "dump" in classes
        chosen: set[int] = set()
        for each in classes:
            chosen |= DEBUG_OPCODES.get(each, frozenset())
        everything = bool(classes & {"fuse", "dump"})
        self.notices = everything or "misc" in classes
        self.opcodes = None if everything else frozenset(chosen)

    @staticmethod
    def wanted(classes: frozenset[str]) -> bool:
        """Whether any of the classes shows frames."""
        return bool(classes & ({"fuse", "dump"} | set(DEBUG_OPCODES)))

    def _say(self, frame: Buffer, reply_to: int | None) -> None:
        if not self.logger.isEnabledFor(logging.DEBUG):
            return
        kept = bytes(frame[:4096])
        self.logger.debug("%s", self._line(kept, reply_to=reply_to, minor=self.minor))
        if self.dump:
            for at in range(0, min(len(kept), 512), 16):
                self.logger.debug("  %04x  %s", at, kept[at : at + 16].hex(" "))

    def request(self, head: Head, frame: Buffer) -> None:
        """Log a request."""
        self._say(frame, None)

    def reply(self, head: Head, error: int, frame: Buffer) -> None:
        """Log what answered it."""
        self._say(frame, head[OPCODE])

    def notice(self, frame: Buffer) -> None:
        """Log a notification."""
        if self.notices:
            self._say(frame, 0)


def frequent(counts: list[int]) -> dict[str, int]:
    """Counts by opcode name, of opcodes seen at all."""
    return {name_of(at) if at < SLOTS - 1 else "other": count for at, count in enumerate(counts) if count}
