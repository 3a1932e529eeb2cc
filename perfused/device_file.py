"""A file that behaves as /dev/fuse does, on a FUSE filesystem that this process serves and that stands nowhere.

A filesystem reads a request from it and writes a reply, each with one call, and is told by errnos what a socket cannot
say. For the relay it is what a socket is: `send` and `recv_into`. Never here: the mount that the frames are about, and
who opens the file: not this process, since the kernel would wait for it to answer its own close.
"""

import errno
import os
import select
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from perfused import device_tree, kernel, libc
from perfused.device_tree import FILE, NAME
from perfused.kernel import PAGE, MountError, Options
from perfused.negotiate import FRAME_OVERHEAD
from perfused.states import Buffer
from wire import codec
from wire.opcodes import Notify, Opcode

#: in_header with read_in or write_in, which are laid out alike; 40 bytes each
HEAD = struct.Struct(codec.in_header.format + "QQIIQII")
LEN, OPCODE, UNIQUE, NODEID = range(4)
FH, OFFSET, SIZE = 9, 10, 11
FLAGS = 14
BODY = 40
OUT = codec.out_header.struct
_TAKEN = struct.Struct(codec.out_header.format + "II")
_TAKEN_SIZE = OUT.size + 8
_U32 = struct.Struct("=I")
#: the least a buffer for a request must hold, before INIT says more (fuse.h, FUSE_MIN_READ_BUFFER)
LEAST_READ = 8192
#: A reply below this is not continued by another WRITE: the kernel breaks one only where it fills `max_pages` pages,
#: of which a pipe may hold small pieces.
LEAST_PIECE = 65_536
#: requests that wait for a READ: bytes at most, each with what it costs to keep it
BACKLOG = 2 << 20
REQUEST_COST = 256
#: seconds the rest of a reply may take
PIECE_WAIT = 1.0
FOPEN_DIRECT_IO, FOPEN_NONSEEKABLE, FOPEN_STREAM, FOPEN_NOFLUSH = 1 << 0, 1 << 2, 1 << 4, 1 << 5
#: STREAM: reading and writing share no position, and so no lock.
OPEN_FLAGS = FOPEN_DIRECT_IO | FOPEN_NONSEEKABLE | FOPEN_STREAM | FOPEN_NOFLUSH
POLL_SCHEDULE_NOTIFY = 1
_WRITABLE = select.POLLOUT | select.POLLWRNORM
_READABLE = select.POLLIN | select.POLLRDNORM
_PASSING = frozenset({errno.EINTR, errno.EAGAIN, errno.ENOENT})
_CLOSED = frozenset({errno.ENODEV, errno.ECONNABORTED})


class Made(NamedTuple):
    """A filesystem with the file in it: the kernel's descriptor, and its mount, which stands nowhere."""

    outer: int
    mount: int


def frame_size() -> int:
    """Bytes of the largest frame that the kernel passes through the file in one piece, whoever reads or writes it.

    A buffer of a client's may begin anywhere in a page, and its heads stand in pages of their own.
    """
    pages = kernel.max_pages()
    return (1 << max(pages - 2, 1).bit_length() - 1) * PAGE + FRAME_OVERHEAD


def make(max_frame: int) -> Made:
    """Mount the filesystem nowhere. Raises MountError, EOPNOTSUPP where the kernel has no fsopen(2).

    A READ is a page larger than any frame, so that the kernel never asks for more of one; and no larger, since it pins
    and releases every page of a reader's buffer each time.
    """
    outer = kernel.open_device()
    try:
        strings = (
            (b"fd", b""),
            (b"rootmode", b"40000"),
            (b"user_id", b"%d" % os.geteuid()),
            (b"group_id", b"%d" % os.getegid()),
            (b"max_read", b"%d" % ((max_frame // PAGE + 1) * PAGE)),
        )
        flags = libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC
        context, mounted = kernel.mount(outer, Options(b"fuse", b"perfused", strings, (b"allow_other",), flags))
        if mounted < 0:
            raise MountError(errno.EOPNOTSUPP, "endpoint device: this kernel has no fsopen(2)")
        os.close(context)
    except BaseException:
        os.close(outer)
        raise
    return Made(outer, mounted)


def open_in(mount: int) -> int:
    """Open the file, from a process that does not serve it.

    O_DIRECT has splice(2) call read: without it the kernel would take frames into its page cache, and lose them.
    """
    fd = os.open(NAME, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC, dir_fd=mount)
    # A kernel without FOPEN_NOFLUSH learns that there is no FLUSH, before anybody closes who must not wait for one.
    os.close(os.dup(fd))
    return fd


class DeviceFile:
    """Serves the file. One thread calls `step` or `recv_into`, others `send` and `answer_with`.

    `waiting` has each READ that is parked (unique -> bytes it has room for), and who takes one out of it answers it.
    Requests that find none wait in line. Who adds to either looks at the other afterwards, so no two miss each other.
    """

    def __init__(self, outer: int, max_frame: int) -> None:
        self.outer = outer
        self.max_frame = max_frame
        self.max_write = -(-max_frame // PAGE) * PAGE
        #: what READ and WRITE are answered; 0 while frames are relayed
        self.error = errno.EPERM
        #: the least a READ must have room for
        self.least = LEAST_READ
        #: what the WRITE under way is answered; 0 that it was taken
        self.result = 0
        self.handles: set[int] = set()
        self.waiting: dict[int, int] = {}
        #: told how much a READ has room for when that changes: no request may be larger
        self.narrow: Callable[[int], None] = lambda room: None
        self._room = 0
        self._opened = 0
        #: requests in line, what they cost, who is to be told of the next (handle -> kh); changed under `_moved`
        self._line: deque[bytes] = deque()
        self._cost = 0
        self._pollers: dict[int, int] = {}
        self._moved = threading.Condition()
        self._head = bytearray(HEAD.size)
        self._rest = bytearray(self.max_write)
        #: the WRITE that is not answered yet: (unique, size)
        self._owed = (0, 0)
        #: bytes of a reply that came so far, and where the rest of it belongs: (fh, offset)
        self._so_far = 0
        self._goes_on = (0, 0)
        #: a WRITE that came in place of the rest: (unique, data)
        self._aside: tuple[int, bytes] | None = None

    # -- what the relay needs of a socket --------------------------------------------------------------------------

    def send(self, frame: Buffer, flags: int = 0) -> int:
        """Give a request to a READ, or have it wait for one; where too many wait, wait until they are fewer.

        BlockingIOError in the place of waiting with MSG_DONTWAIT; OSError EPIPE: the file relays nothing any more.
        """
        if self.waiting and not self._line and self._give(frame):
            return len(frame)
        with self._moved:
            cost = len(frame) + REQUEST_COST
            while not self.error and self._line and self._cost + cost > BACKLOG:
                if flags & socket.MSG_DONTWAIT:
                    raise BlockingIOError(errno.EAGAIN, "too many requests wait")
                self._moved.wait()
            if self.error:
                raise OSError(errno.EPIPE, "the device file has ended")
            self._line.append(bytes(frame))
            self._cost += cost
            self._advance()
            if self._line:
                self._wake()
        return len(frame)

    def recv_into(self, buffer: bytearray, nbytes: int = 0, flags: int = 0) -> int:
        """The next reply, as it was written, into `buffer` of at least `max_frame` bytes: its size.

        More than that for one that is larger than any frame. The WRITE is answered at the next call. OSError EPIPE: all
        who had the file open have closed it.
        """
        while True:
            size = self.step(buffer)
            if size:
                return size

    # -- one request of the kernel's -------------------------------------------------------------------------------

    def step(self, buffer: bytearray) -> int:
        """Take one request and answer it; but for a WRITE with a whole reply, which is in `buffer`: its size, else 0.

        OSError EPIPE where nobody has the file open any more, and nobody will.
        """
        if self._owed[0]:
            self._acknowledge()
        if self._aside:
            unique, data = self._aside
            self._aside = None
            memoryview(buffer)[: len(data)] = data
            return self._taken(unique, len(data), len(data), buffer)
        so_far = self._so_far
        if so_far and not self._continued():
            self._so_far = 0
            return so_far
        try:
            if so_far:
                size = os.readv(self.outer, (self._head, memoryview(buffer)[so_far:], self._rest))
            else:
                size = os.readv(self.outer, (self._head, buffer, self._rest))
        except OSError as bad:
            if bad.errno in _PASSING:
                return 0
            raise OSError(errno.EPIPE, "nobody has the device file") if bad.errno in _CLOSED else bad from None
        head = HEAD.unpack(self._head)
        opcode = head[OPCODE]
        if opcode == Opcode.WRITE:
            return self._write(head, buffer)
        if opcode == Opcode.READ:
            self._read(head)
        else:
            self._other(head, bytes(self._head[BODY:size]) + bytes(memoryview(buffer)[so_far:][: max(size - 80, 0)]))
        return 0

    def _read(self, head: tuple[int, ...]) -> None:
        unique, room = head[UNIQUE], head[SIZE]
        if room < self.least:
            self._answer(unique, -(errno.EINVAL if self.error != errno.EPERM else errno.EPERM))
            return
        if self.error:
            self._answer(unique, -self.error)
            return
        if room != self._room:
            self._room = room
            self.narrow(room)
        self.waiting[unique] = room
        if self._line:
            with self._moved:
                self._advance()
        if self.error or head[FLAGS] & os.O_NONBLOCK:
            self._fail(unique, self.error or errno.EAGAIN)

    def _write(self, head: tuple[int, ...], buffer: bytearray) -> int:
        size, so_far = head[SIZE], self._so_far
        self._so_far = 0
        if so_far and self._goes_on != (head[FH], head[OFFSET]):
            # What went before was all of it, and is a bad reply.
            self._aside = head[UNIQUE], (bytes(memoryview(buffer)[so_far:]) + self._rest)[: min(size, len(buffer))]
            return so_far
        whole = self._taken(head[UNIQUE], size, so_far + size, buffer)
        if self._so_far:
            self._goes_on = head[FH], head[OFFSET] + size
        return whole

    def _taken(self, unique: int, size: int, have: int, buffer: bytearray) -> int:
        """A WRITE of `size` bytes has come, with which `buffer` has so many: those of a reply, or 0 if more follow."""
        self._owed, self.result = (unique, size), 0
        (length,) = _U32.unpack_from(buffer)
        if self.error:
            # As fuse_dev_do_write does: what is no reply, and then what answers nothing.
            whole = have >= OUT.size and length == have
            self.result = self.error if self.error == errno.EPERM else errno.ENOENT if whole else errno.EINVAL
            self._acknowledge()
            return 0
        if have < length <= self.max_frame and size >= LEAST_PIECE:
            self._so_far = have
            self._acknowledge()
            return 0
        return have

    def _continued(self) -> bool:
        """Whether the rest of a reply may be there, or comes before long."""
        poll = select.poll()
        poll.register(self.outer, select.POLLIN)
        return bool(poll.poll(PIECE_WAIT * 1000))

    def _acknowledge(self) -> None:
        unique, size = self._owed
        self._owed = (0, 0)
        if self.result:
            self._answer(unique, -self.result)
        else:
            self._put(_TAKEN.pack(_TAKEN_SIZE, 0, unique, size, 0))

    def _other(self, head: tuple[int, ...], body: bytes) -> None:
        opcode, unique, nodeid = head[OPCODE], head[UNIQUE], head[NODEID]
        if opcode == Opcode.INTERRUPT:
            self._fail(codec.interrupt_in.unpack_from(body).unique, errno.EINTR)
        elif opcode == Opcode.POLL:
            self._poll(unique, codec.poll_in.unpack_from(body))
        elif opcode == Opcode.OPEN and nodeid == FILE:
            self._opened += 1
            self.handles.add(self._opened)
            if not self._answer(unique, 0, codec.open_out.pack(self._opened, OPEN_FLAGS, 0)):
                self._released(self._opened)
        elif opcode == Opcode.RELEASE:
            self._answer(unique)
            self._released(codec.release_in.unpack_from(body).fh)
        else:
            found = device_tree.answer(opcode, nodeid, body, self.max_write)
            if found is not None:
                self._answer(unique, *found)

    def _released(self, handle: int) -> None:
        self.handles.discard(handle)
        with self._moved:
            self._pollers.pop(handle, None)
        if not self.handles:
            raise OSError(errno.EPIPE, "the device file was closed")

    def _poll(self, unique: int, asked: codec.PollIn) -> None:
        with self._moved:
            if asked.flags & POLL_SCHEDULE_NOTIFY:
                self._pollers[asked.fh] = asked.kh
            events = select.POLLERR if self.error else _WRITABLE | (_READABLE if self._line else 0)
        self._answer(unique, 0, codec.poll_out.pack(events, 0))

    # -- parked READs ----------------------------------------------------------------------------------------------

    def _give(self, frame: Buffer) -> bool:
        """Answer one of the parked READs with a request; False where none is left."""
        size = len(frame)
        while True:
            try:
                unique, room = self.waiting.popitem()
            except KeyError:
                return False
            if room < size:
                self._answer(unique, -errno.EINVAL)
                continue
            try:
                os.writev(self.outer, (OUT.pack(OUT.size + size, 0, unique), frame))
                return True
            except OSError as bad:
                if bad.errno in _CLOSED:
                    raise OSError(errno.EPIPE, "nobody has the device file") from None

    def _advance(self) -> None:
        """Give what is in line to parked READs, with the lock held."""
        while self._line and self._give(self._line[0]):
            self._cost -= len(self._line.popleft()) + REQUEST_COST
            self._moved.notify_all()

    def _wake(self) -> None:
        """Have those who poll look again, with the lock held."""
        pollers, self._pollers = self._pollers, {}
        for each in pollers.values():
            self._put(codec.out_header.pack(24, Notify.POLL, 0) + codec.notify_poll_wakeup_out.pack(each))

    def _fail(self, unique: int, error: int) -> None:
        """Answer a parked READ, unless somebody else does."""
        if self.waiting.pop(unique, None) is not None:
            self._answer(unique, -error)

    def answer_with(self, error: int) -> None:
        """From now on READ, WRITE and poll are answered with `error`; 0: they are relayed."""
        self.error = error
        if error:
            for unique in list(self.waiting):
                self._fail(unique, error)
        with self._moved:
            if error:
                self._line.clear()
                self._cost = 0
            self._moved.notify_all()
            self._wake()

    def expect(self, max_write: int) -> None:
        """INIT is settled: a READ must have room for the largest WRITE and its heads, as fuse_dev_do_read has it."""
        self.least = max(LEAST_READ, HEAD.size + max_write)
        self.narrow(max(self._room, self.least))

    def refused(self, error: int) -> None:
        """The WRITE under way is told `error`. From the thread of `recv_into`."""
        self.result = error

    def _answer(self, unique: int, error: int = 0, body: bytes = b"") -> bool:
        return self._put(OUT.pack(OUT.size + len(body), error, unique) + body)

    def _put(self, frame: bytes) -> bool:
        """Write to the kernel; False where it no longer wants it."""
        try:
            os.write(self.outer, frame)
        except OSError:
            return False
        return True
