"""The relay over io_uring (FUSE 7.42): one thread, one ring, for the kernel's requests and the filesystem's replies.

One call hands over replies, requests and free buffers, and waits for the next of either. A thread for each direction,
as the plain relay has them, would be woken twice for a request: the kernel copies it in the thread that committed the
entry's last reply. INIT, FORGET, INTERRUPT and notifications still go over /dev/fuse; what the kernel has to say there
is relayed by the plain relay's other thread. Never here: the memory (`ring_entries`).
"""

import errno
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from struct import Struct

from perfused import negotiate, uring
from perfused.device_file import DeviceFile
from perfused.engine import Engine
from perfused.negotiate import OUT_HEADER
from perfused.relay import CLOSED, NO_MEMORY, SEND_WAITS, SHORTAGE, TOO_LARGE, Relay, filesystem_gone, hung_up
from perfused.ring_entries import (
    COMMIT_WORD,
    ERROR,
    KICKED,
    OP_LENGTH,
    PAYLOAD_SIZE,
    RECEIVED,
    SENT,
    SQE_WORDS,
    STRIDE,
    TAIL_LENGTH,
    WORDS,
    Ends,
    Entries,
    not_offered,
    refused,
)
from perfused.states import OPCODE, OUT, SIZE, SLOTS, UNIQUE, Buffer, Head, LocalFault, Negotiated, RequestHook, State
from perfused.uring import CQE_BUFFER, CQE_MORE, GETEVENTS, SYS_ENTER
from wire import codec
from wire.flags import InitFlag
from wire.opcodes import Opcode

#: seconds an INTERRUPT waits at most until the request it is about is on its way
INTERRUPT_WAIT = 1.0
#: a reply that may have so many bytes is received where it belongs, a smaller one is copied there
LARGE = 32_768
#: states.HEAD as an entry has it, and behind it the size of its payload and its number
SEEN = Struct("=4xIQQI4xI4x88xQ8xI124xI12xI")
PAYLOAD, NUMBER = 7, 8
#: ioctl_in.out_size in an entry
OUT_SIZE_AT = 128 + 28
U32 = Struct("=I")
_LAST = SLOTS - 1
_U32 = 0xFFFF_FFFF


class RingRelay(Relay):
    """A relay that agrees on FUSE over io_uring with the kernel, where it can, and is the plain one elsewhere.

    The filesystem sees none of it. What keeps the ring from being used is a line in the log.
    """

    def __init__(
        self, engine: Engine, device: int, sock: socket.socket | DeviceFile, ended: Callable[[str], None]
    ) -> None:
        super().__init__(engine, device, sock, ended)
        assert isinstance(sock, socket.socket), "a device file has no packets to receive"
        #: whether requests come over the ring
        self.over_io_uring = False
        self._socket = sock
        self._offered = False
        self._entries: Entries | None = None
        self._kick = os.eventfd(0, os.EFD_CLOEXEC)
        #: answers of ours, from other threads, to requests of the ring
        self._answers: deque[Buffer] = deque()
        #: who waits until all requests that have come are on their way
        self._barriers: deque[threading.Event] = deque()
        #: submission entries that go with the next call, beside those of the loop
        self._more: list[int] = []
        #: entries whose reply may be large, as they were asked for
        self._large: list[int] = []
        #: entry -> how often its request could not be sent for want of memory
        self._tries: dict[int, int] = {}
        asked, answered = engine.base_request, engine.base_reply
        self._engine_init, self._engine_settle = asked[Opcode.INIT], answered[Opcode.INIT]
        self._engine_interrupt = asked[Opcode.INTERRUPT]
        asked[Opcode.INIT], answered[Opcode.INIT] = self._init_request, self._init_reply
        asked[Opcode.INTERRUPT] = self._interrupt
        answered[Opcode.IOCTL] = self._ioctl_reply
        engine.observe(engine.observers)

    # -- INIT --------------------------------------------------------------------------------------------------------

    def _init_request(self, head: Head, frame: Buffer) -> Buffer | None:
        self._offered = negotiate.offers_ring(frame)
        if self._offered:
            frame, hidden = negotiate.hide(frame, int(InitFlag.HAS_RESEND))
            if hidden:
                # Measured on 6.18: NOTIFY_RESEND brings nothing again that came over a ring.
                self.engine.emit(Negotiated(None, ["not offered over io_uring: HAS_RESEND: the kernel has none there"]))
        assert self._engine_init is not None
        return self._engine_init(head, frame)

    def _init_reply(self, head: Head, error: int, frame: memoryview) -> Buffer | None:
        assert self._engine_settle is not None
        out = self._engine_settle(head, error, frame)
        if out is None or self.engine.state is not State.RUNNING:
            return out
        agreed = negotiate.agree_ring(bytes(out))
        why = "the filesystem speaks less than FUSE 7.6" if agreed is None else self._prepare()
        if why:
            self._plain(why)
        return out if why or agreed is None else agreed

    def _plain(self, why: str) -> None:
        self._entries = None
        self.engine.emit(Negotiated(None, [f"no io_uring, /dev/fuse is read and written: {why}"]))

    def _prepare(self) -> str:
        """Make the ring and its memory; a sentence why there is none, or nothing."""
        if not self._offered:
            return not_offered()
        engine = self.engine
        assert engine.terms is not None
        try:
            ends = Ends(self.device, self._socket.fileno(), self._kick)
            self._entries = Entries(ends, engine.terms, engine.rules.max_frame)
        except (OSError, ValueError, MemoryError) as bad:
            return refused(bad)
        return ""

    # -- the thread of replies ---------------------------------------------------------------------------------------

    def _filesystem_to_kernel(self) -> str:
        engine, view = self.engine, memoryview(self._from_filesystem)
        while engine.state in (State.NEW, State.INIT_SENT):
            try:
                size = self._socket.recv_into(view, 0, socket.MSG_TRUNC)
            except OSError as bad:
                if bad.errno == errno.EINTR:
                    continue
                return filesystem_gone(bad)
            if not size and hung_up(self._socket):
                return CLOSED
            self._packet(view, size)
        entries = self._entries
        if entries is not None:
            self.over_io_uring = True
            code = entries.register()
            if not code:
                depth = entries.count // entries.queues
                engine.emit(
                    Negotiated(None, [f"FUSE over io_uring: queues {entries.queues}, requests in each {depth}"])
                )
                return self._serve(entries)
            self.over_io_uring = False
            entries.ring.close()
            self._plain(f"the kernel refused the ring: {os.strerror(code)}")
        return super()._filesystem_to_kernel()

    def _serve(self, entries: Entries) -> str:
        engine, more, barriers, ring = self.engine, self._more, self._barriers, entries.ring
        heads, words, lengths, payloads = entries.heads, entries.words, entries.lengths, entries.payloads
        submissions, array, mask = entries.submissions, ring.array, ring.sq_mask
        sq_tail, cq_head, cq_tail = ring.sq_tail, ring.cq_head, ring.cq_tail
        users, results, cq_mask = ring.users, ring.results, ring.cq_mask
        enter, fd = uring.call, ring.fd
        seen, unpack = SEEN.unpack_from, OUT.unpack_from
        inflight, asked, counts = engine.inflight, engine.on_request, engine.counters.requests
        take, answered, expected = engine.inflight.pop, engine.on_reply, engine.expected
        sends, receive, listen = entries.count, entries.receive, entries.listen
        given, gave = entries.given, entries.given[0]
        large, landings, wanted, aimed = self._large, entries.here, entries.wanted, entries.aimed
        #: of each entry the opcode whose lengths its message has, -1 where they must be written
        known = [-1] * entries.count
        due: list[threading.Event] = []
        head: Head | None
        place, done, pending = sq_tail[0], cq_head[0], 0
        more += (receive, listen)
        while True:
            if more:
                for slot in more:
                    array[place & mask] = slot
                    place += 1
                    pending += 1
                more.clear()
            if large or aimed:
                entries.aim(gave, large)
            sq_tail[0] = place & _U32
            taken = enter(SYS_ENTER, fd, pending, 0 if due else 1, GETEVENTS, 0)
            if taken < 0:
                uring.check_again()
            else:
                pending -= taken
            if due and not pending:
                for each in due:
                    each.set()
                due.clear()
            end = cq_tail[0]
            while done != end:
                at = (done & cq_mask) << 1
                done = done + 1 & _U32
                which = users[at]
                at += at
                if which < RECEIVED:
                    if results[at + 2]:
                        reason = self._lost()
                        if reason:
                            return reason
                        continue
                    head = seen(heads, which)
                    opcode = head[OPCODE]
                    if opcode > _LAST:
                        opcode = _LAST
                    counts[opcode] += 1
                    number = head[NUMBER]
                    size = head[PAYLOAD]
                    if size or known[number] != opcode:
                        # A request without payload is as long as any other of its opcode; but who knows of the last.
                        at = number * WORDS
                        words[at + OP_LENGTH] = lengths[at + at] - 40 - size
                        words[at + TAIL_LENGTH] = size
                        known[number] = opcode if not size and opcode != _LAST else -1
                    if head[SIZE] >= LARGE and expected[opcode] == -1:
                        large.append(number)
                    hook = asked[opcode]
                    if hook is None:
                        inflight[head[UNIQUE]] = head
                    else:
                        self._asked(entries, hook, head)
                    array[place & mask] = sends + number
                    place += 1
                    pending += 1
                elif which == RECEIVED:
                    size = results[at + 2]
                    flags = results[at + 3]
                    buffer = flags >> 16
                    if size >= OUT_HEADER:
                        packet = landings[buffer]
                        length, error, unique = unpack(packet)
                        head = take(unique, None)
                        good = False
                        if head is not None and not error and length == size and len(head) > NUMBER:
                            number = head[NUMBER]
                            opcode = head[OPCODE]
                            if opcode > _LAST:
                                opcode = _LAST
                            want = expected[opcode]
                            good = answered[opcode] is None and (
                                want == size or (want == -1 and size - OUT_HEADER <= head[SIZE])
                            )
                        if good:
                            at = number * WORDS
                            words[at + ERROR] = 0
                            words[at + PAYLOAD_SIZE] = size = size - 16
                            if large and number in large:
                                large.remove(number)
                            if size and wanted[buffer] != number:
                                if aimed:
                                    entries.rescue(done, end)
                                payloads[number][:size] = packet[16 : size + 16]
                            submissions[number * SQE_WORDS + COMMIT_WORD] = unique
                            array[place & mask] = number
                            place += 1
                            pending += 1
                        else:
                            if aimed:
                                entries.rescue(done, end)
                            self._replied(entries, head, length, error, unique, packet[:size], size)
                    else:
                        reason = self._runt(landings[buffer], size)
                        if reason:
                            return reason
                    if flags & CQE_BUFFER:
                        gave += 1
                        given[0] = gave & 0xFFFF
                    if not flags & CQE_MORE:
                        more.append(receive)
                elif which == KICKED:
                    more.append(listen)
                    self._kicked(entries)
                    while barriers:
                        due.append(barriers.popleft())
                else:
                    reason = self._sent(entries, which & ~SENT, results[at + 2])
                    if reason:
                        return reason
            cq_head[0] = done

    def _asked(self, entries: Entries, hook: RequestHook, head: Head) -> None:
        """What the engine has for a request; one to which nothing is owed is answered when it has been sent."""
        frame = entries.frame(head[NUMBER], head[PAYLOAD])
        if hook(head, frame) is not frame:
            raise LocalFault(f"opcode {head[OPCODE]} came over the ring, and can neither be changed nor held back")
        if head[UNIQUE] not in self.engine.inflight:
            entries.tell_when_sent(head[NUMBER], True)

    def _ioctl_reply(self, head: Head, error: int, frame: memoryview) -> Buffer | None:
        """Of a commit the kernel does not say that it was refused, and ends the request with EINVAL.

        All else that it refuses is refused before; here the request's own out_size is the measure.
        """
        if self._entries is None or len(head) <= NUMBER or error:
            return frame
        (most,) = U32.unpack_from(self._entries.heads, head[NUMBER] * STRIDE + OUT_SIZE_AT)
        if len(frame) <= OUT_HEADER + codec.ioctl_out.size + most:
            return frame
        return self.engine.rejected(head, frame, len(frame), errno.EINVAL)

    def _sent(self, entries: Entries, number: int, result: int) -> str:
        """A request that owes no answer has been sent, or any could not be: why the filesystem is gone, or nothing."""
        head = SEEN.unpack_from(entries.heads, number * STRIDE)
        if result < 0:
            code = -result
            tries = self._tries.pop(number, 0)
            if code in SHORTAGE and tries < len(SEND_WAITS):
                time.sleep(SEND_WAITS[tries])
                self._tries[number] = tries + 1
                self._more.append(entries.count + number)
                return ""
            if code != errno.EMSGSIZE and code not in SHORTAGE:
                return filesystem_gone(OSError(code, os.strerror(code)))
            length = entries.lengths[number * STRIDE // 4]
            refusal = self.engine.unsendable(head, length, TOO_LARGE if code == errno.EMSGSIZE else NO_MEMORY)
            if refusal is not None:
                self._answer(entries, number, refusal)
                return ""
        if entries.tells(number):
            entries.tell_when_sent(number, False)
            self._answer(entries, number, negotiate.refusal(head[UNIQUE], 0))
            # Its unique is the filesystem's choice, and must not be taken for that of another request.
            entries.forget(number)
        return ""

    def _replied(
        self, entries: Entries, head: Head | None, length: int, error: int, unique: int, frame: memoryview, size: int
    ) -> None:
        """A packet of the filesystem's that is not a plain good reply."""
        answer = self.engine.reply(head, length, error, unique, frame, size)
        if answer is None:
            return
        if head is not None:
            if len(head) > NUMBER:
                self._answer(entries, head[NUMBER], answer)
            else:  # it came over /dev/fuse, before the ring
                self._hand(answer, head)
        elif not unique:
            self._notify(answer)
        elif error == -errno.EAGAIN:
            # To a write of this the kernel would ask again; for a request on a ring it does not know the interrupt.
            try:
                self._socket.send(_interrupt_again(unique), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except OSError:
                pass

    def _answer(self, entries: Entries, number: int, frame: Buffer) -> None:
        """Commit an answer with the next call."""
        if number in self._large:
            self._large.remove(number)
        if len(frame) - OUT_HEADER > entries.room:
            frame = negotiate.refusal(0, -errno.EIO)
        entries.fill(number, frame)
        self._more.append(number)

    def _runt(self, packet: memoryview, size: int) -> str:
        """A packet shorter than a header, or none: why the filesystem is gone, or nothing."""
        if size < 0:
            # ENOBUFS: there were more packets than buffers.
            passing = size in (-errno.EINTR, -errno.ENOBUFS)
            return "" if passing else filesystem_gone(OSError(-size, os.strerror(-size)))
        if not size and hung_up(self._socket):
            return CLOSED
        self.engine.reply(None, 0, 0, 0, packet[:size], size)
        return ""

    def _lost(self) -> str:
        """The kernel has ended the command of an entry: why the mount has ended, or nothing."""
        poll = select.poll()
        poll.register(self.device, 0)
        if poll.poll(0):
            try:
                os.read(self.device, len(self._from_filesystem))
            except OSError as bad:
                return self._kernel_gone(bad)
        # It knew the request no more; the entry is lost with it.
        self.engine.counters.gone += 1
        return ""

    def _kicked(self, entries: Entries) -> None:
        """Commit what other threads have answered."""
        while self._answers:
            frame = self._answers.popleft()
            number = entries.holds(OUT.unpack_from(frame)[2])
            if number < 0:
                super()._write(frame)
            else:
                self._answer(entries, number, frame)

    # -- other threads -----------------------------------------------------------------------------------------------

    def _write(self, frame: Buffer) -> None:
        if self.over_io_uring:
            self._answers.append(frame)
            os.eventfd_write(self._kick, 1)
        else:
            super()._write(frame)

    def _interrupt(self, head: Head, frame: Buffer) -> Buffer | None:
        """INTERRUPT comes over /dev/fuse, and must not overtake the request it is about."""
        if self.over_io_uring:
            on_its_way = threading.Event()
            self._barriers.append(on_its_way)
            os.eventfd_write(self._kick, 1)
            on_its_way.wait(INTERRUPT_WAIT)
        assert self._engine_interrupt is not None
        return self._engine_interrupt(head, frame)

    def _packet(self, view: memoryview, size: int) -> None:
        """A packet of the filesystem's before INIT is settled."""
        if size < OUT_HEADER:
            self.engine.reply(None, 0, 0, 0, view[:size], size)
            return
        length, error, unique = OUT.unpack_from(view)
        head = self.engine.inflight.pop(unique, None)
        answer = self.engine.reply(head, length, error, unique, view[:size], size)
        if answer is not None:
            if unique:
                self._hand(answer, head)
            else:
                self._notify(answer)


def _interrupt_again(unique: int) -> bytes:
    """An INTERRUPT as the kernel makes it; `unique` is its own, the target's with bit 0 set."""
    body = codec.interrupt_in.pack(unique & ~1)
    return codec.in_header.pack(40 + len(body), Opcode.INTERRUPT, unique, 0, 0, 0, 0, 0, 0) + body
