"""The connection as a sans-I/O state machine: frames and times in, frames and events out.

Here: what is in flight, what a reply must look like, INIT, interrupts, notifications, deadlines. Two lists indexed by
opcode say what happens to a request and to its reply; None means pass through, which is what nearly every entry is.
Never here: descriptors, threads, clocks. The relay inlines the plain case and calls in here for everything else; both
its threads and the sweeper may call at once, and every shared step is one operation on a dict, which is atomic.
"""

import errno
import struct
from collections.abc import Callable, Sequence

from perfused import negotiate
from perfused.negotiate import OUT_HEADER, Offer, Terms
from perfused.states import (
    FH,
    KILLED_KEPT,
    LATE_KEPT,
    MAX_ERRNO,
    NODEID,
    OPCODE,
    OUT,
    PID,
    SIZE,
    SLOTS,
    TRANSITIONS,
    UNIQUE,
    AnsweredHere,
    Buffer,
    Counters,
    Event,
    Head,
    LocalFault,
    Negotiated,
    Observer,
    ObserverFault,
    PeerFault,
    ReplyHook,
    RequestHook,
    Rules,
    State,
    slot,
)
from wire import codec, compat
from wire.control import UNIQUE_CONTROL
from wire.errors import WireError
from wire.flags import UNIQUE_RESEND
from wire.opcodes import BY_NUMBER, NOTIFY_BY_NUMBER, Notify, Opcode, ReplyRule


class Engine:
    """One FUSE connection. `emit` takes events for the log."""

    def __init__(self, rules: Rules, emit: Callable[[Event], None]) -> None:
        self.rules = rules
        self.emit = emit
        self.state = State.NEW
        self.offer: Offer | None = None
        self.terms: Terms | None = None
        self.counters = Counters()
        self.observers: tuple[Observer, ...] = ()
        #: unique -> HEAD of every request that owes a reply
        self.inflight: dict[int, Head] = {}
        #: uniques answered here whose late reply is still to come
        self.answered: dict[int, int] = {}
        #: unique -> when the sweeper first saw it in flight
        self.seen: dict[int, float] = {}
        self.interrupted: dict[int, float] = {}
        self._own_interrupts: set[int] = set()
        #: pids whose request was answered because they are being killed: their next one need not wait again
        self._killed: dict[int, None] = {}
        self.base_request: list[RequestHook | None] = [None] * SLOTS
        self.base_reply: list[ReplyHook | None] = [None] * SLOTS
        for row in BY_NUMBER.values():
            if row.reply_rule is ReplyRule.NEVER:
                self.base_request[slot(row.number)] = self._unanswered
        self.base_request[Opcode.INTERRUPT] = self._interrupt
        self.base_request[Opcode.INIT] = self._init_request
        self.base_reply[Opcode.INIT] = self._init_reply
        #: what the relay reads; observers are wound around the base entries here
        self.on_request: list[RequestHook | None] = list(self.base_request)
        self.on_reply: list[ReplyHook | None] = list(self.base_reply)
        #: length of a whole good reply by opcode; -1 up to the request's size, -2 any, 0 none is due
        self.expected: list[int] = compat.reply_sizes(rules.minor)

    def observe(self, observers: Sequence[Observer]) -> None:
        """Wind `observers` around the base entries, in place of those before; none leaves the plain lists."""
        self.observers = tuple(observers)
        for at in range(SLOTS):
            chosen = [each for each in observers if each.opcodes is None or at in each.opcodes]
            base_request, base_reply = self.base_request[at], self.base_reply[at]
            self.on_request[at] = self._around_request(base_request, chosen) if chosen else base_request
            self.on_reply[at] = self._around_reply(base_reply, chosen) if chosen else base_reply

    def to(self, state: State) -> None:
        """Enter `state`. Raises LocalFault where TRANSITIONS does not allow it."""
        if state not in TRANSITIONS[self.state]:
            raise LocalFault(f"{self.state.name} does not lead to {state.name}")
        self.state = state

    # -- requests ------------------------------------------------------------------------------------------------

    def track(self, head: Head, frame: Buffer) -> Buffer:
        """Note a request as in flight and pass it on: what the relay inlines where no entry is set.

        One sent again (NOTIFY_RESEND) is owed under its new unique alone; an answer under the old one comes too late.
        """
        unique = head[UNIQUE]
        if unique & UNIQUE_RESEND and self.inflight.pop(unique & ~UNIQUE_RESEND, None) is not None:
            self._remember(unique & ~UNIQUE_RESEND, 0)
        self.inflight[unique] = head
        return frame

    def _unanswered(self, head: Head, frame: Buffer) -> Buffer:
        """FORGET and its like: nothing is owed."""
        return frame

    def _interrupt(self, head: Head, frame: Buffer) -> Buffer | None:
        """INTERRUPT: its unique is the target's with bit 0 set (measured, 6.18); in vain once that is answered."""
        self.counters.interrupts += 1
        target = head[FH]
        return frame if target in self.inflight else None

    def _init_request(self, head: Head, frame: Buffer) -> Buffer | None:
        try:
            shown, self.offer, notes = negotiate.offer(frame, self.rules.refused, self.rules.minor)
        except WireError as bad:
            self.emit(Negotiated(None, [f"the kernel's INIT cannot be read: {bad}"]))
            return None
        self.to(State.INIT_SENT)
        if notes:
            self.emit(Negotiated(None, notes))
        self.inflight[head[UNIQUE]] = head
        return shown

    # -- replies -------------------------------------------------------------------------------------------------

    def reply(
        self, head: Head | None, length: int, error: int, unique: int, frame: memoryview, size: int
    ) -> Buffer | None:
        """What goes to the kernel for one packet of the filesystem; None where nothing does.

        `frame` is what was received of a packet of `size` bytes; `length`, `error`, `unique` its out_header (zeros
        where the packet is shorter than 16 bytes), `head` the request it answers, already taken out of `inflight`.
        """
        if head is None:
            return self._unasked(length, error, unique, frame, size)
        opcode = head[OPCODE]
        fault = self._fault(head, length, error, frame, size)
        if fault:
            return self._bad(head, *fault)
        if error:
            self.counters.errors[slot(opcode)] += 1
        hook = self.on_reply[slot(opcode)]
        return frame if hook is None else hook(head, error, frame)

    def _fault(self, head: Head, length: int, error: int, frame: memoryview, size: int) -> tuple[str, str] | None:
        """What is wrong with a reply to `head`: the field and a sentence, or None."""
        if size > len(frame):
            return "len", f"the packet has more than the {len(frame)} bytes that this device carries"
        if length != size:
            return "len", f"len is {length}, the packet has {size} bytes"
        if error > 0:
            return "error", f"error is {error}: it must be 0 or a negative errno"
        if error < -MAX_ERRNO:
            return "error", f"error is {error}: Linux takes errnos up to {MAX_ERRNO}"
        if error:
            return (
                ("len", f"a reply with error {error} carries {size - OUT_HEADER} bytes of payload")
                if size > OUT_HEADER
                else None
            )
        want = self.expected[slot(head[OPCODE])]
        if want > 0 and size != want:
            return "len", f"the reply has {size - OUT_HEADER} bytes after its header, it must have {want - OUT_HEADER}"
        most = self._most(head, want)
        if most is not None and size > OUT_HEADER + most:
            return "len", f"the reply has {size - OUT_HEADER} bytes of data, at most {most} were asked for"
        return None

    def _most(self, head: Head, want: int) -> int | None:
        """Most bytes of data a reply may carry where the request bounds it."""
        opcode = head[OPCODE]
        if want == -1:
            return head[SIZE]
        if opcode in (Opcode.GETXATTR, Opcode.LISTXATTR):
            # getxattr_in begins with its size; a size of 0 asks for getxattr_out, 8 bytes.
            return struct.unpack_from("=I", struct.pack("=Q", head[FH]))[0] or 8
        if opcode == Opcode.READLINK:
            return negotiate.PAGE
        return None

    def _bad(self, head: Head, field: str, detail: str) -> bytes:
        self.counters.bad_replies += 1
        self.emit(PeerFault(head[OPCODE], head[UNIQUE], field, detail, True))
        self._remember(head[UNIQUE], -errno.EIO)
        answer = negotiate.refusal(head[UNIQUE], -errno.EIO)
        self._tell(head, -errno.EIO, answer)
        return answer

    def _unasked(self, length: int, error: int, unique: int, frame: memoryview, size: int) -> Buffer | None:
        """A packet that answers nothing in flight: a notification, an INTERRUPT's answer, a late reply, or a fault."""
        if size == length == len(frame) and size >= OUT_HEADER:
            if unique == 0:
                return self._notification(error, frame)
            if unique & 1 and size == OUT_HEADER and error in (-errno.EAGAIN, -errno.ENOSYS):
                return self._interrupt_answer(error, unique, frame)
            if self.answered.pop(unique, None) is not None:
                self.counters.late += 1
                return None
        self.counters.bad_replies += 1
        if size < OUT_HEADER:
            self.emit(PeerFault(0, 0, "len", f"a packet of {size} bytes: a reply has at least {OUT_HEADER}", False))
        elif unique != UNIQUE_CONTROL:
            self.emit(PeerFault(0, unique, "unique", "no request in flight has this unique", False))
        else:
            self.emit(PeerFault(0, unique, "unique", "a control frame on a device that is mounted", False))
        return None

    def _interrupt_answer(self, error: int, unique: int, frame: memoryview) -> Buffer | None:
        target = unique ^ 1
        if target in self._own_interrupts:
            self._own_interrupts.discard(target)
            return None
        return frame if target in self.inflight else None

    def _notification(self, code: int, frame: memoryview) -> Buffer | None:
        """A notification: known codes are checked for the size of their fixed part, unknown ones pass to the kernel."""
        self.counters.notifications += 1
        row = NOTIFY_BY_NUMBER.get(code)
        if row is not None and row.struct and len(frame) < OUT_HEADER + compat.size(row.struct, self.rules.minor):
            self.counters.bad_notifications += 1
            need = compat.size(row.struct, self.rules.minor)
            detail = (
                f"NOTIFY_{row.name} has {len(frame) - OUT_HEADER} bytes after its header, at least {need} are needed"
            )
            self.emit(PeerFault(0, 0, "len", detail, False))
            return None
        if code == Notify.RESEND:
            # From now on requests may come a second time: `track` looks for that, the relay's inlined step does not.
            self.base_request[:] = [each or self.track for each in self.base_request]
            self.observe(self.observers)
        for each in self.observers:
            self._show(each, each.notice, frame)
        return frame

    def _init_reply(self, head: Head, error: int, frame: memoryview) -> Buffer | None:
        if self.offer is None or self.state is not State.INIT_SENT:
            return frame
        if error:
            self.to(State.REFUSED)
            self.emit(Negotiated(None, [f"the filesystem refused INIT: {errno.errorcode.get(-error, error)}"]))
            return frame
        try:
            out, terms, notes = negotiate.settle(frame, self.offer, self.rules.max_frame)
        except WireError as bad:
            self.to(State.REFUSED)
            self.counters.bad_replies += 1
            self.emit(PeerFault(Opcode.INIT, head[UNIQUE], bad.field, str(bad), True))
            return negotiate.refusal(head[UNIQUE], -errno.EIO)
        self.terms = terms
        self.expected[:] = compat.reply_sizes(max(terms.minor, 1))
        self.to(State.RUNNING)
        self.emit(Negotiated(terms, notes))
        return out

    def rejected(self, head: Head | None, frame: memoryview, size: int, code: int) -> bytes | None:
        """The kernel took `frame`, the answer to `head` or a notification, with errno `code`: what to write instead.

        ENOENT: the request is gone (interrupted, or aborted). EINVAL: something is wrong with it, and the kernel may
        have ended the request with EIO itself or not (measured on 6.18); where it has not, EIO answers it.
        """
        if head is None:
            # ENOENT only says that the kernel no longer knows the node.
            self.counters.bad_notifications += code == errno.EINVAL
            return None
        if code != errno.EINVAL:
            self.counters.gone += 1
            return None
        length, error, _ = OUT.unpack_from(frame)
        sentence = f"the kernel refused a reply of {length} bytes with error {error}: Invalid argument"
        return self._bad(head, *(self._fault(head, length, error, frame, size) or ("payload", sentence)))

    def unsendable(self, head: Head, length: int, why: str) -> bytes | None:
        """The filesystem's socket does not take this request of `length` bytes: answer EIO, where it owes an answer."""
        if self.inflight.pop(head[UNIQUE], None) is None:
            return None
        self.emit(PeerFault(head[OPCODE], head[UNIQUE], "len", f"a request of {length} bytes {why}", True))
        refusal = negotiate.refusal(head[UNIQUE], -errno.EIO)
        self._tell(head, -errno.EIO, refusal)
        return refusal

    # -- time ----------------------------------------------------------------------------------------------------

    def sweep(self, now: float, dying: Callable[[int], bool]) -> tuple[list[bytes], list[bytes]]:
        """Look for requests nobody answers: (frames for the kernel, frames for the filesystem).

        Call about every quarter of the shortest time in `rules`. A request's age counts from the first sweep that saw
        it, so it is late by at most one interval; nothing is stamped on the hot path. `dying(pid)` tells whether a
        caller has been killed. Only the sweeper calls this.
        """
        rules, seen = self.rules, self.seen
        current = list(self.inflight.items())
        for gone in seen.keys() - {unique for unique, _ in current}:
            del seen[gone]
            self.interrupted.pop(gone, None)
            self._own_interrupts.discard(gone)
        to_kernel: list[bytes] = []
        to_filesystem: list[bytes] = []
        for unique, head in current:
            age = now - seen.setdefault(unique, now)
            if head[OPCODE] == Opcode.INIT:
                continue
            if rules.killed_grace and (age >= rules.killed_grace or head[PID] in self._killed) and dying(head[PID]):
                self._killed[head[PID]] = None
                while len(self._killed) > KILLED_KEPT:
                    self._killed.pop(next(iter(self._killed)))
                self._answer(to_kernel, head, -errno.EINTR, age, "caller killed")
            elif rules.deadline and age >= rules.deadline and head[OPCODE] != Opcode.SETLKW:
                since = self.interrupted.get(unique)
                if since is None:
                    self.interrupted[unique] = now
                    self._own_interrupts.add(unique)
                    to_filesystem.append(self._make_interrupt(unique))
                elif now - since >= rules.interrupt_grace:
                    self._answer(to_kernel, head, -errno.EIO, age, "deadline")
        return to_kernel, to_filesystem

    def _answer(self, out: list[bytes], head: Head, error: int, age: float, why: str) -> None:
        unique = head[UNIQUE]
        if self.inflight.pop(unique, None) is None:
            return
        self._remember(unique, error)
        self.counters.errors[slot(head[OPCODE])] += 1
        out.append(negotiate.refusal(unique, error))
        self._tell(head, error, out[-1])
        self.emit(AnsweredHere(head[OPCODE], unique, head[NODEID], error, age, why))

    @staticmethod
    def _make_interrupt(target: int) -> bytes:
        body = codec.interrupt_in.pack(target)
        return codec.in_header.pack(40 + len(body), Opcode.INTERRUPT, target | 1, 0, 0, 0, 0, 0, 0) + body

    def _remember(self, unique: int, error: int) -> None:
        """A request was answered here: what the filesystem says to it after all comes late, and is no fault.

        The last LATE_KEPT of them are recognised.
        """
        self.answered[unique] = error
        while len(self.answered) > LATE_KEPT:
            self.answered.pop(next(iter(self.answered)), None)

    def _tell(self, head: Head, error: int, frame: bytes) -> None:
        """Show observers an answer of ours."""
        for each in self.observers:
            if each.opcodes is None or slot(head[OPCODE]) in each.opcodes:
                self._show(each, each.reply, head, error, frame)

    def _show(self, observer: Observer, call: Callable[..., None], *seen: object) -> None:
        """Show an observer a frame. One that fails is a bug here: it is taken off, and the mount goes on."""
        try:
            call(*seen)
        except Exception as fault:
            self._off(observer, fault)

    def _off(self, observer: Observer, fault: Exception) -> None:
        self.observe([each for each in self.observers if each is not observer])
        self.emit(ObserverFault(type(observer).__name__, repr(fault)))

    def _around_request(self, base: RequestHook | None, observers: Sequence[Observer]) -> RequestHook:
        first, *rest = observers
        show, inflight = first.request, self.inflight
        then = self._around_request(base, rest) if rest else base

        def observed(head: Head, frame: Buffer) -> Buffer | None:
            try:
                show(head, frame)
            except Exception as fault:
                self._off(first, fault)
            if then is None:
                inflight[head[UNIQUE]] = head
                return frame
            return then(head, frame)

        return observed

    def _around_reply(self, base: ReplyHook | None, observers: Sequence[Observer]) -> ReplyHook:
        first, *rest = observers
        show = first.reply
        then = self._around_reply(base, rest) if rest else base

        def observed(head: Head, error: int, frame: memoryview) -> Buffer | None:
            try:
                show(head, error, frame)
            except Exception as fault:
                self._off(first, fault)
            return frame if then is None else then(head, error, frame)

        return observed
