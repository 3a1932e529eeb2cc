"""What can be wound around a connection while somebody looks: latencies, the ring of the last operations, debug lines,
a stream for perfusectl.

All of it off costs nothing. Never here: changing a frame, and rendering where a reader can do it in another process.
"""

import errno
import logging
import threading
import time
from bisect import bisect_right
from collections import deque
from time import monotonic_ns
from typing import IO, NamedTuple

from perfused.names import Names, names_in, shown
from perfused.states import NODEID, OPCODE, PID, SLOTS, UID, UNIQUE, Buffer, Head
from wire.control import TRACE_KEEP, TRACE_NOTICE, TRACE_REPLY, TRACE_REQUEST, pack_record
from wire.opcodes import BY_NUMBER, Opcode, ReplyRule, name_of

RING = 4096
#: elapsed times that wait to be counted, and replies to READDIRPLUS that wait to be read
FOLD = 4096
LISTINGS = 64
#: opcodes nobody answers, or may not; and those that tell where a node is, or name something
UNANSWERED = frozenset(row.number for row in BY_NUMBER.values() if row.reply_rule is not ReplyRule.ALWAYS)
TELLS = frozenset(row.number for row in BY_NUMBER.values() if row.names) | {Opcode.READDIRPLUS}
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
    """Count, shortest, sum, longest and a histogram of one opcode's elapsed times, in nanoseconds.

    One thread adds, any may ask: what was added since the last look is folded in then, or when there is much of it.
    """

    __slots__ = ("_folding", "count", "fresh", "histogram", "longest", "shortest", "total")

    def __init__(self) -> None:
        self.count = self.total = self.longest = 0
        self.shortest = 1 << 62
        self.histogram: dict[int, int] = {}
        #: elapsed times not in the figures yet: only appended to outside `fold`
        self.fresh: list[int] = []
        self._folding = threading.Lock()

    def add(self, elapsed: int) -> None:
        """Take one elapsed time."""
        self.fresh.append(elapsed)
        if len(self.fresh) >= FOLD:
            self.fold()

    def fold(self) -> None:
        """Bring the figures up to what was added before."""
        with self._folding:
            new = self.fresh[:]
            del self.fresh[: len(new)]
            if not new:
                return
            new.sort()
            self.count += len(new)
            self.total += sum(new)
            self.shortest = min(self.shortest, new[0])
            self.longest = max(self.longest, new[-1])
            at = 0
            while at < len(new):
                index = bucket(new[at])
                end = bisect_right(new, bucket_top(index), at)
                self.histogram[index] = self.histogram.get(index, 0) + end - at
                at = end

    def quantile(self, part: float) -> int:
        """The time that `part` of all (0.99) do not exceed, within an eighth."""
        self.fold()
        left = self.count * part
        for at in sorted(self.histogram):
            left -= self.histogram[at]
            if left <= 0:
                return min(bucket_top(at), self.longest)
        return self.longest

    def summary(self) -> dict[str, float]:
        """count, and min, avg, max, p99 in microseconds."""
        p99 = self.quantile(0.99) / 1000
        return {
            "count": self.count,
            "min_us": self.shortest / 1000,
            "avg_us": self.total / self.count / 1000,
            "max_us": self.longest / 1000,
            "p99_us": p99,
        }


class Times(dict[int, OpcodeTimes]):
    """Elapsed times by opcode; what is asked for is there."""

    def __missing__(self, opcode: int) -> OpcodeTimes:
        made = self[opcode] = OpcodeTimes()
        return made

    def summary(self) -> dict[str, dict[str, float]]:
        """By opcode name: count, min_us, avg_us, max_us, p99_us."""
        return {name_of(opcode): self[opcode].summary() for opcode in sorted(self)}


class Latency:
    """Elapsed time of every request, by opcode."""

    opcodes: frozenset[int] | None = None

    def __init__(self) -> None:
        self.started: dict[int, int] = {}
        self.times = Times()

    def request(self, head: Head, frame: Buffer) -> None:
        """Stamp a request that will be answered."""
        if head[OPCODE] not in UNANSWERED:
            self.started[head[UNIQUE]] = monotonic_ns()

    def reply(self, head: Head, error: int, frame: Buffer) -> None:
        """Note how long an answer took."""
        began = self.started.pop(head[UNIQUE], None)
        if began is not None:
            self.times[head[OPCODE]].add(monotonic_ns() - began)

    def notice(self, frame: Buffer) -> None:
        """Notifications take no time."""

    def summary(self) -> dict[str, dict[str, float]]:
        """By opcode name: count, min_us, avg_us, max_us, p99_us."""
        return self.times.summary()


class Operation(NamedTuple):
    """One line of the ring; `elapsed` in nanoseconds, negative of an operation still going on."""

    began: int
    elapsed: int
    error: int
    head: Head
    kept: bytes


class Ring:
    """The last 4096 operations, as SIGUSR1 writes them out.

    While it goes on it only keeps: names and paths are read from what was kept when somebody wants the lines.
    """

    opcodes: frozenset[int] | None = None

    def __init__(self, minor: int) -> None:
        self.minor = minor
        self.names = Names()
        self.times = Times()
        self.ring: deque[tuple[int, int, int, Head, bytes]] = deque(maxlen=RING)
        #: by unique: when it began, its head, and its first bytes where they name something
        self.open: dict[int, tuple[int, Head, bytes]] = {}
        self._listings: deque[tuple[bytes, bytes]] = deque(maxlen=LISTINGS)
        self._epoch = time.time_ns() - monotonic_ns()

    def request(self, head: Head, frame: Buffer) -> None:
        """Begin a line."""
        opcode = head[OPCODE]
        if opcode in UNANSWERED:
            self.ring.append((monotonic_ns(), 0, 0, head, b""))
        else:
            self.open[head[UNIQUE]] = monotonic_ns(), head, bytes(frame[:1024]) if opcode in TELLS else b""

    def reply(self, head: Head, error: int, frame: Buffer) -> None:
        """End a line, and learn where nodes are."""
        found = self.open.pop(head[UNIQUE], None)
        if found is None:
            return
        began, asked, kept = found
        elapsed = monotonic_ns() - began
        self.ring.append((began, elapsed, error, asked, kept))
        self.times[head[OPCODE]].add(elapsed)
        if kept and not error:
            opcode = head[OPCODE]
            if opcode == Opcode.READDIRPLUS:
                self._listings.append((kept, bytes(frame[:65536])))
            elif not (opcode == Opcode.LOOKUP and self.names.knows(kept, frame)):
                self.names.learn(kept, bytes(frame[:256]), self.minor)

    def notice(self, frame: Buffer) -> None:
        """Notifications are no operations."""

    def summary(self) -> dict[str, dict[str, float]]:
        """By opcode name: count, min_us, avg_us, max_us, p99_us."""
        return self.times.summary()

    def operations(self) -> list[Operation]:
        """What is kept, in the order it began, at most RING; those in flight are the longest ago or the newest."""
        open_ones = [Operation(began, -1, 0, head, kept) for began, head, kept in list(self.open.values())]
        return sorted([*map(Operation._make, list(self.ring)), *open_ones], key=lambda each: each.began)[-RING:]

    def write(self, out: IO[str], title: str) -> None:
        """Write the ring and the table of opcodes as text."""
        while self._listings:
            self.names.learn(*self._listings.popleft(), self.minor, late=True)
        operations = self.operations()
        print(f"# {title}", file=out)
        print(f"# {len(operations)} operations, newest last; at most {RING} are kept", file=out)
        print("# time opcode path name uid pid error elapsed", file=out)
        for each in operations:
            seconds, rest = divmod(each.began + self._epoch, 10**9)
            stamp = time.strftime("%H:%M:%S", time.localtime(seconds)) + f".{rest // 1000:06d}"
            if each.elapsed < 0:
                result, elapsed = "-", "ongoing"
            else:
                result = errno.errorcode.get(-each.error, str(each.error)) if each.error else "ok"
                elapsed = f"{each.elapsed / 1000:.1f}us"
            head = each.head
            name = "/".join(shown(name) for name in names_in(each.kept, self.minor)) if each.kept else ""
            path = self.names.path(head[NODEID])
            print(stamp, name_of(head[OPCODE]), path, name or "-", head[UID], head[PID], result, elapsed, file=out)
        print(f"\n{'opcode':<20}{'count':>9}{'min us':>11}{'avg us':>11}{'max us':>11}{'p99 us':>11}", file=out)
        for name, row in self.summary().items():
            numbers = "".join(f"{row[key]:>11.1f}" for key in ("min_us", "avg_us", "max_us", "p99_us"))
            print(f"{name:<20}{row['count']:>9}{numbers}", file=out)
        print(f"\nnodes seen: {len(self.names.nodes)}   requests in flight: {len(self.open)}", file=out)


class Stream:
    """Frames for a live trace, cut to their heads; the worker's main thread sends them on."""

    def __init__(self, opcodes: frozenset[int] | None) -> None:
        self.opcodes = opcodes
        self.records: deque[bytes] = deque(maxlen=STREAM_KEPT)
        self.taken = 0

    def request(self, head: Head, frame: Buffer) -> None:
        """Keep a request's first bytes; of file data nothing but its length."""
        keep = DATA_AT if head[OPCODE] in (Opcode.WRITE, Opcode.NOTIFY_REPLY) else TRACE_KEEP
        self.records.append(pack_record((time.time_ns(), TRACE_REQUEST, head[OPCODE], len(frame), bytes(frame[:keep]))))
        self.taken += 1

    def reply(self, head: Head, error: int, frame: Buffer) -> None:
        """Keep a reply's first bytes; of file data nothing but its length."""
        keep = 16 if head[OPCODE] == Opcode.READ else TRACE_KEEP
        self.records.append(pack_record((time.time_ns(), TRACE_REPLY, head[OPCODE], len(frame), bytes(frame[:keep]))))
        self.taken += 1

    def notice(self, frame: Buffer) -> None:
        """Keep a notification."""
        self.records.append(pack_record((time.time_ns(), TRACE_NOTICE, 0, len(frame), bytes(frame[:TRACE_KEEP]))))
        self.taken += 1

    def drain(self, most: int) -> list[bytes]:
        """Take up to `most` packed records, oldest first."""
        out: list[bytes] = []
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
