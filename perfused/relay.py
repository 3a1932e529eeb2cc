"""The only loop that moves bytes: two blocking threads a mount, kernel to filesystem and filesystem to kernel.

A plain frame costs: read, decode its head, count, note it in flight, write; read, look at its unique, take it out of
flight, write. Everything else is the engine's. Buffers are made once; frames pass as views of them. Reads never wait
for a handler, and no lock is held over a system call: what the threads share are dicts, each step on them atomic.
"""

import errno
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from io import FileIO

from perfused.device_file import DeviceFile
from perfused.engine import Engine
from perfused.negotiate import OUT_HEADER
from perfused.states import HEAD, OPCODE, OUT, SLOTS, UNIQUE, Buffer, Head

#: Errors of read(2) on /dev/fuse after which reading goes on: interrupted; the request was taken back meanwhile.
RETRY = frozenset({errno.EINTR, errno.EAGAIN, errno.ENOENT})
#: Errors of send(2) that pass by themselves, and the seconds waited before each new attempt.
SHORTAGE = frozenset({errno.ENOBUFS, errno.ENOMEM})
SEND_WAITS = (0.001, 0.01, 0.1)
#: Notifications waiting for the kernel: bytes at most, each with what it costs to keep it, and the seconds one more may
#: wait before it is dropped. Until the kernel has taken another, those after it are dropped at once: behind them there
#: may be the very answer that the kernel is waiting for.
NOTICE_BYTES = 8 << 20
NOTICE_COST = 64
NOTICE_WAIT = 5.0

TOO_LARGE = "does not fit the device"
NO_MEMORY = "could not be passed on: the kernel has no memory for it"
CLOSED = "the filesystem closed its device"
UNMOUNTED = "unmounted"
ABORTED = "connection aborted"
#: frames of fewer bytes are seen again and again in the same sizes
SMALL = 512
_LAST = SLOTS - 1


class Frames(dict[int, memoryview]):
    """Views of the first bytes of a buffer by size, each made once; ask for sizes below SMALL only, which bounds it."""

    def __init__(self, buffer: bytearray) -> None:
        super().__init__()
        self._view = memoryview(buffer)

    def __missing__(self, size: int) -> memoryview:
        made = self[size] = self._view[:size]
        return made


class Relay:
    """Moves frames between the kernel's descriptor and a filesystem's socket, or device file, for one engine.

    `ended(reason)` is called once, from whichever thread sees the end first; it must not block.
    """

    def __init__(
        self, engine: Engine, device: int, sock: socket.socket | DeviceFile, ended: Callable[[str], None]
    ) -> None:
        self.engine = engine
        self.device = device
        self.sock = sock
        self._ended = ended
        # A file's read and write cost half of what a socket's recv and send do, and of what os.readv does (measured).
        self._kernel = FileIO(device, "r+", closefd=False)
        #: how a frame goes to the filesystem, and how one of it is received into a buffer: its size
        self.send: Callable[[Buffer], int | None]
        self.receive: Callable[[bytearray], int | None]
        if isinstance(sock, DeviceFile):
            self.send, self.receive = sock.send, sock.recv_into
        else:
            end = FileIO(sock.fileno(), "r+", closefd=False)
            self.send, self.receive = end.write, end.readinto
        #: tells the writer of a reply what became of it, where that can be told
        self._tell = sock.refused if isinstance(sock, DeviceFile) else None
        if isinstance(sock, DeviceFile):
            sock.narrow = self._narrow
        self._once = threading.Lock()
        self._notices: deque[bytes] | None = None
        self._notices_moved = threading.Condition()
        self._notice_bytes = 0
        self._notices_stuck = False
        self.dropped_notices = 0
        size = engine.rules.max_frame
        self._from_kernel = bytearray(size)
        #: one byte more than a frame has: what fills it did not fit
        self._from_filesystem = bytearray(size + 1)
        #: what a request is read into; what does not fit is answered by the kernel
        self._room: list[bytearray | memoryview] = [self._from_kernel]

    def start(self) -> list[threading.Thread]:
        """Start both threads; they end by themselves when the mount or the filesystem is gone."""
        threads = [
            threading.Thread(target=self._guard, args=(self._kernel_to_filesystem,), name="requests", daemon=True),
            threading.Thread(target=self._guard, args=(self._filesystem_to_kernel,), name="replies", daemon=True),
        ]
        for each in threads:
            each.start()
        return threads

    def _narrow(self, room: int) -> None:
        self._room[0] = memoryview(self._from_kernel)[:room]

    def _guard(self, loop: Callable[[], str]) -> None:
        try:
            self._end(loop())
        except Exception as fault:
            self._end(f"internal error: {type(fault).__name__}: {fault}")
            raise

    def _end(self, reason: str) -> None:
        if self._once.acquire(blocking=False):
            self._ended(reason)

    def _kernel_to_filesystem(self) -> str:
        engine = self.engine
        read, room, send = self._kernel.readinto, self._room, self.send
        source, unpack = self._from_kernel, HEAD.unpack_from
        view, frames = memoryview(source), Frames(source)
        inflight, hooks, counts = engine.inflight, engine.on_request, engine.counters.requests
        while True:
            try:
                size = read(room[0])
            except OSError as bad:
                if bad.errno in RETRY:
                    continue
                return self._kernel_gone(bad)
            if size is None:
                continue
            head = unpack(source)
            opcode = head[OPCODE]
            if opcode > _LAST:
                opcode = _LAST
            counts[opcode] += 1
            hook = hooks[opcode]
            frame: Buffer = frames[size] if size < SMALL else view[:size]
            if hook is None:
                inflight[head[UNIQUE]] = head
            else:
                changed = hook(head, frame)
                if changed is None:
                    continue
                frame = changed
            try:
                send(frame)
            except OSError as failed:
                problem = failed
                if failed.errno in SHORTAGE:
                    again = self._send_again(frame)
                    if again is None:
                        continue
                    problem = again
                if problem.errno == errno.EMSGSIZE or problem.errno in SHORTAGE:
                    refusal = engine.unsendable(head, size, TOO_LARGE if problem.errno == errno.EMSGSIZE else NO_MEMORY)
                    if refusal:
                        self._write(refusal)
                    continue
                return filesystem_gone(problem)

    def _send_again(self, frame: Buffer) -> OSError | None:
        """Send a request for which the kernel had no memory; None when it is sent, else why it is not."""
        bad = OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        for wait in SEND_WAITS:
            time.sleep(wait)
            try:
                self.send(frame)
                return None
            except OSError as failed:
                bad = failed
                if bad.errno not in SHORTAGE:
                    break
        return bad

    def _filesystem_to_kernel(self) -> str:
        """Replies go to the kernel, which judges all of them anyway; the engine explains what it refuses.

        Where somebody looks, the engine judges first: what is shown is good, and shown before its caller goes on.
        """
        engine = self.engine
        target, tell = self._from_filesystem, self._tell
        receive, write = self.receive, self._kernel.write
        take, hooks, errors = engine.inflight.pop, engine.on_reply, engine.counters.errors
        view, frames = memoryview(target), Frames(target)
        error_of, unique_of = view[:OUT_HEADER].cast("i"), view[:OUT_HEADER].cast("Q")
        capacity = len(target) - 1
        while True:
            try:
                size = receive(target)
            except OSError as bad:
                if bad.errno == errno.EINTR:
                    continue
                return filesystem_gone(bad)
            if size is None:
                continue
            if size < OUT_HEADER:
                if not size and isinstance(self.sock, socket.socket) and hung_up(self.sock):
                    return CLOSED
                engine.reply(None, 0, 0, 0, view[:size], size)
                if tell:
                    tell(errno.EINVAL)
                continue
            unique = unique_of[1]
            head = take(unique, None)
            frame = frames[size] if size < SMALL else view[:size]
            if head is not None:
                opcode = head[OPCODE]
                if opcode > _LAST:
                    opcode = _LAST
                if hooks[opcode] is None:
                    try:
                        write(frame)
                    except OSError as bad:
                        self._refused(head, view[: min(size, capacity)], size, bad.errno or 0)
                        continue
                    if error_of[1]:
                        errors[opcode] += 1
                    continue
            length, error, _ = OUT.unpack_from(target)
            faults = engine.counters.faults() if tell else 0
            answer = engine.reply(head, length, error, unique, view[: min(size, capacity)], size)
            if tell and engine.counters.faults() != faults:
                tell(errno.ENOENT if head is None and unique and length == size else errno.EINVAL)
            if answer is not None:
                if unique:
                    self._hand(answer, head)
                else:
                    self._notify(answer)

    def _hand(self, frame: Buffer, head: Head | None) -> None:
        """Write a frame to the kernel; one it refuses is answered by what the engine says."""
        try:
            self._kernel.write(frame)
        except OSError as bad:
            self._refused(head, memoryview(frame), len(frame), bad.errno or 0)

    def _refused(self, head: Head | None, frame: memoryview, size: int, code: int) -> None:
        if self._tell and head is not None:
            self._tell(code)
        instead = self.engine.rejected(head, frame, size, code)
        if instead is not None:
            try:
                self._kernel.write(instead)
            except OSError:
                # The kernel has ended the request with its own EIO.
                return

    def _write(self, frame: Buffer) -> None:
        """Write an answer of ours; the kernel not wanting it any more is no news."""
        try:
            self._kernel.write(frame)
        except OSError:
            self.engine.counters.gone += 1

    def _notify(self, frame: Buffer) -> None:
        """Pass a notification on from a thread of its own.

        The kernel may hold an invalidation back until a request in flight is answered, and that answer would come
        through the very thread that is waiting: hence the one hop in the relay.
        """
        cost = len(frame) + NOTICE_COST
        with self._notices_moved:
            if self._notices is None:
                self._notices = deque()
                threading.Thread(target=self._write_notices, args=(self._notices,), name="notices", daemon=True).start()
            if not self._room_for(cost) and (
                self._notices_stuck or not self._notices_moved.wait_for(lambda: self._room_for(cost), NOTICE_WAIT)
            ):
                self._notices_stuck = True
                self.dropped_notices += 1
                return
            self._notice_bytes += cost
            self._notices.append(bytes(frame))
            self._notices_moved.notify_all()

    def _room_for(self, cost: int) -> bool:
        return not self._notice_bytes or self._notice_bytes + cost <= NOTICE_BYTES

    def _write_notices(self, notices: deque[bytes]) -> None:
        while True:
            with self._notices_moved:
                self._notices_moved.wait_for(lambda: notices)
                frame = notices.popleft()
            self._hand(frame, None)
            with self._notices_moved:
                self._notice_bytes -= len(frame) + NOTICE_COST
                self._notices_stuck = False
                self._notices_moved.notify_all()

    def sweep(self, now: float, dying: Callable[[int], bool]) -> None:
        """Do what the engine says of requests nobody answers; never blocks on a filesystem that does not read."""
        to_kernel, to_filesystem = self.engine.sweep(now, dying)
        for frame in to_kernel:
            self._write(frame)
        for frame in to_filesystem:
            try:
                self.sock.send(frame, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except OSError:
                pass

    def device_ended(self) -> bool:
        """Whether the kernel's side has ended: nobody reads there while a filesystem that does not read is waited for.

        Asked now and then, never waited for: every request wakes all who poll /dev/fuse, whatever they poll it for
        (measured, 6.18: a switch of context a request).
        """
        poll = select.poll()
        poll.register(self.device, 0)
        return bool(poll.poll(0))

    def kernel_ended(self) -> None:
        """End for the kernel's reason; only where `device_ended`."""
        try:
            os.read(self.device, len(self._from_kernel))
        except OSError as bad:
            self._end(self._kernel_gone(bad))

    def _kernel_gone(self, bad: OSError) -> str:
        if bad.errno == errno.ENODEV:
            return UNMOUNTED
        if bad.errno == errno.ECONNABORTED:
            return ABORTED
        return f"reading /dev/fuse failed: {bad.strerror}"


def hung_up(sock: socket.socket) -> bool:
    """Tell the end of file from an empty packet, which recv(2) does not."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))


def filesystem_gone(bad: OSError) -> str:
    """Why relaying ends where reading from the filesystem, or sending to it, failed."""
    if bad.errno in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
        return CLOSED
    return f"the filesystem's device failed: {bad.strerror}"
