"""What FUSE over io_uring (7.42) has in memory: entries of one request each, and packets of the filesystem's.

An entry is a header that the kernel fills, what sendmsg(2) needs to pass the request on as one packet, and a payload.
Its two submission entries are written once: one sends the request to the filesystem, one commits the reply and asks for
the next. Packets are received into buffers that have the layout of a payload with an out_header before it, so that one
may stand in for the other. Never here: what is in flight, and what a reply must look like (`ring_relay`, `engine`).
"""

import errno
import mmap
import socket
import struct
from pathlib import Path
from typing import NamedTuple

from perfused import uring
from perfused.negotiate import OUT_HEADER, Terms
from perfused.states import OUT, Buffer
from perfused.uring import Uring
from wire import codec

REGISTER, COMMIT_AND_FETCH = 1, 2
ENABLED = Path("/sys/module/fuse/parameters/enable_uring")
DISABLED = Path("/proc/sys/kernel/io_uring_disabled")
POSSIBLE = Path("/sys/devices/system/cpu/possible")
#: requests of one processor that may be with the filesystem at a time; more wait in the kernel
DEPTH, LEAST_DEPTH = 32, 4
#: entries of all queues, where that is more than LEAST_DEPTH a queue
MOST_ENTRIES = 1024
#: packets of the filesystem's that one call may bring; a power of two
PACKETS = 8
#: least bytes of an entry's payload (fuse.h, FUSE_MIN_READ_BUFFER)
LEAST_PAYLOAD = 8192

#: user_data of completions: that of an entry's command is where its head begins
RECEIVED, KICKED, SENT = 1 << 40, 1 << 41, 1 << 42
#: registered files
_DEVICE, _SOCKET, _KICK = range(3)

#: bytes from one entry's header to the next, and as words
STRIDE = 512
WORDS = STRIDE // 8
HEADER_SIZE = codec.uring_req_header.size
_IN_HEADER = 40
_OP_IN_AT, _NUMBER_AT, _MESSAGE_AT, _PIECES_AT, _REGISTER_AT = 128, HEADER_SIZE, 296, 352, 400
#: words of an entry: error of its out_header (with its length, at which nobody looks), unique, which in_header has at
#: the same place, commit_id, payload_sz; lengths of the second and third piece of its message
ERROR, ANSWERED, COMMIT_ID, PAYLOAD_SIZE, OP_LENGTH, TAIL_LENGTH = 0, 1, 33, 34, 47, 49
#: the word of a submission entry that is a command's commit_id, and how many words one has
COMMIT_WORD, SQE_WORDS = 7, uring.SQE_SIZE // 8
#: msghdr: no name, the pieces, how many, no control
_MESSAGE = struct.Struct("=16xQQ24x")
_U32 = 0xFFFF_FFFF


class Ends(NamedTuple):
    """Descriptors: /dev/fuse, the filesystem's socket, and an eventfd that wakes whoever waits for completions."""

    device: int
    sock: int
    kick: int


def processors() -> int:
    """How many processors this kernel may ever have, and so queues it wants (/sys). Raises OSError or ValueError."""
    spans = [each.split("-") for each in POSSIBLE.read_text().strip().split(",")]
    return sum(int(each[-1]) - int(each[0]) + 1 for each in spans)


def _setting(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def not_offered() -> str:
    """Why the kernel's INIT has no OVER_IO_URING, for the log."""
    enabled = _setting(ENABLED)
    if not enabled:
        return "this kernel's FUSE has none (Linux 6.14 is the first)"
    return "the kernel does not offer it" + (", fuse.enable_uring is N" if enabled == "N" else "")


def refused(bad: Exception) -> str:
    """Why there are no Entries, for the log."""
    if isinstance(bad, PermissionError) and _setting(DISABLED) not in ("", "0"):
        return f"kernel.io_uring_disabled is {_setting(DISABLED)}"
    return f"the ring cannot be made: {getattr(bad, 'strerror', None) or bad or 'no memory'}"


class Entries:
    """The entries of a connection with these terms, a ring that knows them, and buffers for packets.

    `capacity`: bytes of the largest packet. Made by the thread that will use it. Raises OSError, ValueError,
    MemoryError.
    """

    def __init__(self, ends: Ends, terms: Terms, capacity: int) -> None:
        page = mmap.PAGESIZE
        self.queues = processors()
        depth = min(DEPTH, max(MOST_ENTRIES // self.queues, LEAST_DEPTH))
        self.count = self.queues * depth
        #: bytes of a payload: what the kernel asks for
        self.room = max(LEAST_PAYLOAD, terms.max_write, terms.max_pages * page)
        self.ring = Uring(2 * self.count + 2)
        try:
            self.ring.register_files(list(ends))
            self._map(page, capacity)
        except BaseException:
            self.ring.close()
            raise

    def _map(self, page: int, capacity: int) -> None:
        count, ring = self.count, self.ring
        heads = -(-(count * STRIDE + 8) // page) * page
        step = page + -(-max(capacity, self.room) // page) * page
        # Most of it is never touched, and never there.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | uring.MAP_NORESERVE
        whole = memoryview(mmap.mmap(-1, page + heads + step * (PACKETS + count), flags))
        self.heads = whole[page : page + heads]
        self.words, self.lengths = self.heads.cast("Q"), self.heads.cast("I")
        #: an out_header and what follows it, with the payload on a page of its own: those of PACKETS, then of entries
        places = [page + heads + step * each + page - OUT_HEADER for each in range(PACKETS + count)]
        self.landings = [whole[each : each + capacity] for each in places]
        self.payloads = [whole[each + OUT_HEADER : each + OUT_HEADER + self.room] for each in places[PACKETS:]]
        #: of each buffer for a packet where it is, and for which entry's payload, -1 none; those that are for one
        self.here, self.wanted = self.landings[:PACKETS], [-1] * PACKETS
        self.aimed: list[int] = []
        begin = uring.address(whole)
        self._addresses = [begin + each for each in places]
        self._described = whole[:page].cast("Q")
        #: add 1 modulo 2^16 to give a packet's buffer back
        self.given = ring.register_buffers(whole[:page], self._addresses[:PACKETS], capacity)
        #: words of submission entries
        self.submissions = ring.entries.cast("Q")
        for number in range(count):
            self._lay_out(number, begin + page + number * STRIDE)
        self.receive, self.listen = 2 * count, 2 * count + 1
        ring.prepare(
            self.receive, uring.RECV, _SOCKET, 0, 0, RECEIVED,
            flags=uring.BUFFER_SELECT, more=socket.MSG_TRUNC, how=uring.RECV_MULTISHOT,
        )  # fmt: skip
        ring.prepare(self.listen, uring.READ, _KICK, begin + page + count * STRIDE, 8, KICKED)

    def _lay_out(self, number: int, head: int) -> None:
        """Write all of an entry that stays as it is: its number, pointers, its two submission entries."""
        ring, heads, at, payload = (
            self.ring,
            self.heads,
            number * STRIDE,
            self._addresses[PACKETS + number] + OUT_HEADER,
        )
        struct.pack_into("=I", heads, at + _NUMBER_AT, number)
        _MESSAGE.pack_into(heads, at + _MESSAGE_AT, head + _PIECES_AT, 3)
        struct.pack_into("=6Q", heads, at + _PIECES_AT, head, _IN_HEADER, head + _OP_IN_AT, 0, payload, 0)
        struct.pack_into("=4Q", heads, at + _REGISTER_AT, head, HEADER_SIZE, payload, self.room)
        ring.prepare(number, uring.URING_CMD, _DEVICE, head + _REGISTER_AT, 2, at)
        self._command(number, REGISTER)
        ring.prepare(
            self.count + number, uring.SENDMSG, _SOCKET, head + _MESSAGE_AT, 1, SENT | number,
            flags=uring.CQE_SKIP_SUCCESS, more=socket.MSG_NOSIGNAL,
        )  # fmt: skip

    def _command(self, number: int, command: int) -> None:
        at = number * uring.SQE_SIZE
        struct.pack_into("=Q", self.ring.entries, at + 8, command)
        queue = number % self.queues
        self.ring.entries[at + uring.COMMAND_AT : at + uring.COMMAND_AT + 24] = codec.uring_cmd_req.pack(
            0, 0, queue, bytes(6)
        )

    def register(self) -> int:
        """Register every entry, the first of each queue first; the errno with which the kernel does without, or 0.

        The kernel takes the ring into use when each queue has an entry, and does without at the first that it refuses.
        """
        ring, tail = self.ring, 0
        for begin, end in ((0, self.queues), (self.queues, self.count)):
            for number in range(begin, end):
                ring.array[tail & ring.sq_mask] = number
                tail += 1
            ring.sq_tail[0] = tail
            left = end - begin
            while left:
                # Without GETEVENTS no request comes yet: what completes here has failed.
                left -= max(ring.enter(left, 0, 0), 0)
            if not begin and ring.cq_tail[0]:
                return -ring.results[2] or errno.EIO
        for number in range(self.count):
            self._command(number, COMMIT_AND_FETCH)
            struct.pack_into("=QI", ring.entries, number * uring.SQE_SIZE + 16, 0, 0)
        return 0

    def frame(self, number: int, size: int) -> bytes:
        """The request in an entry, whose payload has `size` bytes, as /dev/fuse would have given it."""
        at, op = number * STRIDE, number * STRIDE + _OP_IN_AT
        length = self.lengths[at // 4] - _IN_HEADER - size
        return b"".join((self.heads[at : at + _IN_HEADER], self.heads[op : op + length], self.payloads[number][:size]))

    def fill(self, number: int, frame: Buffer) -> None:
        """Put an answer, whole, into an entry and its submission entry. ValueError where the payload has no room."""
        error = OUT.unpack_from(frame)[1]
        size, at = len(frame) - OUT_HEADER, number * WORDS
        if size:
            self.payloads[number][:size] = memoryview(frame)[OUT_HEADER:]
        self.words[at + ERROR] = (error & _U32) << 32
        self.words[at + ANSWERED] = self.words[at + COMMIT_ID]
        self.words[at + PAYLOAD_SIZE] = size
        self.submissions[number * SQE_WORDS + COMMIT_WORD] = self.words[at + COMMIT_ID]

    def holds(self, unique: int) -> int:
        """The entry that a request came with, -1 where there is none."""
        for number in range(self.count):
            if self.words[number * WORDS + COMMIT_ID] == unique:
                return number
        return -1

    def forget(self, number: int) -> None:
        """Have `holds` find this entry no more until its next request."""
        self.words[number * WORDS + COMMIT_ID] = 0

    def tell_when_sent(self, number: int, tell: bool) -> None:
        """Whether a request that could be sent makes a completion; one that could not always does."""
        self.ring.entries[(self.count + number) * uring.SQE_SIZE + 1] = uring.FIXED_FILE | (
            0 if tell else uring.CQE_SKIP_SUCCESS
        )

    def tells(self, number: int) -> bool:
        """What `tell_when_sent` has set."""
        return not self.ring.entries[(self.count + number) * uring.SQE_SIZE + 1] & uring.CQE_SKIP_SUCCESS

    def aim(self, gave: int, large: list[int]) -> None:
        """Have the next packets put where the payloads of these entries belong, in this order.

        `gave`: buffers given so far. Nobody looks at a buffer's address meanwhile: the kernel does so within a call of
        this thread.
        """
        for at in self.aimed:
            self._own(at)
        self.aimed.clear()
        for entry in large[:PACKETS]:
            at = gave & PACKETS - 1
            self.wanted[at] = entry
            self.here[at] = self.landings[PACKETS + entry]
            self._described[at + at] = self._addresses[PACKETS + entry]
            self.aimed.append(at)
            gave += 1

    def rescue(self, done: int, end: int) -> None:
        """Before a payload is written: move packets that came with completions `done` to `end` out of payloads."""
        ring = self.ring
        while done != end:
            at = done & ring.cq_mask
            done = done + 1 & _U32
            if ring.users[2 * at] == RECEIVED:
                buffer, size = ring.results[4 * at + 3] >> 16, ring.results[4 * at + 2]
                if self.wanted[buffer] >= 0 and size > 0:
                    self.landings[buffer][:size] = self.here[buffer][:size]
                    self._own(buffer)

    def _own(self, at: int) -> None:
        """Have a buffer where it was at first."""
        self.wanted[at] = -1
        self.here[at] = self.landings[at]
        self._described[at + at] = self._addresses[at]
