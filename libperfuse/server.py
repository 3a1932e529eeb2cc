"""Serving requests on a device: read, call, reply, with whatever can go wrong between.

Nothing on the way of a request is looked up by name, and no lock of ours is held over a call. Never here: how arguments
and answers are coded (`calls`), mounts, and threads (`session`).
"""

import errno
import inspect
import io
import logging
import os
import select
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from libperfuse.answers import entries_of, error_frame, plain_frame
from libperfuse.calls import Call, call, table, unknown
from libperfuse.errors import FuseError, errno_of
from libperfuse.mounting import Device
from libperfuse.negotiation import Init
from libperfuse.notify import Notifier
from libperfuse.operations import Defer, Operations, Request
from wire import codec, compat, tails
from wire.errors import WireError
from wire.flags import UNIQUE_RESEND, InitFlag
from wire.message import IN_HEADER_SIZE, OUT_HEADER_SIZE
from wire.opcodes import BY_NUMBER, Opcode, name_of

LOGGER = logging.getLogger("libperfuse")
#: errnos of a device whose mount is gone
GONE = frozenset(
    {errno.ENODEV, errno.ECONNABORTED, errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN, errno.EPERM, errno.EBADF}
)
#: how often a reply is tried that the socket has no room for
TRIES = 50
#: opcodes whose good reply begins with an entry_out, and those whose reply ends with an open_out
_ENTRIES = frozenset(row.number for row in BY_NUMBER.values() if row.reply == "entry_out")
_OPENING = frozenset({Opcode.OPEN, Opcode.OPENDIR, Opcode.CREATE, Opcode.TMPFILE})
_HEADER = codec.in_header.struct.unpack_from


def describe(request: Request) -> str:
    """A request in a log line."""
    return f"{name_of(request.opcode)} nodeid={request.nodeid} uid={request.uid} pid={request.pid}"


def _poll(fd: int, events: int, milliseconds: int | None = None) -> None:
    poll = select.poll()
    if fd >= 0:
        poll.register(fd, events)
        poll.poll(milliseconds)


class Server:
    """One filesystem on one device. Several threads may `serve` at once."""

    def __init__(self, operations: Operations, init: Init, label: str) -> None:
        """`label` names the mount in log lines."""
        self.operations = operations
        self.init = init
        self.label = label
        self.fd = -1
        #: whose descriptor `fd` is; whoever uses it outside of the threads that serve takes it first
        self.device: Device | None = None
        self.unknown = unknown(operations)
        #: has a coroutine run that no request waits for
        self.later: Callable[[Coroutine[Any, Any, object]], object] = lambda work: work.close()
        self.notify = Notifier(self._tell)
        #: for each thread that serves, the request whose method it calls, or None
        self.hands: list[list[Request | None]] = []
        #: the other methods under way, by unique
        self.running: dict[int, Request] = {}
        #: those of them that a thread of their own answers
        self.deferred: dict[int, threading.Thread] = {}

    def under_way(self) -> dict[int, Request]:
        """The requests whose methods run, as they are now, by unique."""
        found = {each.unique: each for (each,) in list(self.hands) if each is not None}
        return found | dict(self.running)

    def _tell(self, frame: bytes) -> None:
        device = self.device
        if device is None:
            raise FuseError(errno.ENODEV)
        fd = device.take()
        try:
            for _ in range(TRIES):
                try:
                    os.write(fd, frame)
                    return
                except BlockingIOError:
                    _poll(fd, select.POLLOUT, 100)
            raise FuseError(errno.EAGAIN)
        finally:
            device.give()

    # -- INIT ------------------------------------------------------------------------------------------------------

    def frame_size(self) -> int:
        """Bytes a request may have: max_write and its headers, at least what the kernel asks for."""
        return max(self.init.max_write, 128 * 1024) + 4096

    def _read(self) -> bytes:
        """The next request, whether the descriptor blocks or not; nothing where the device has ended."""
        while True:
            try:
                return os.read(self.fd, self.frame_size())
            except BlockingIOError:
                _poll(self.fd, select.POLLIN)
            except OSError as bad:
                if bad.errno in GONE:
                    return b""
                if bad.errno not in (errno.ENOENT, errno.EINTR):
                    raise

    def handshake(self) -> list[Call | None] | None:
        """Answer INIT with what is wished; the table of calls, or None where the mount ended before."""
        while frame := self._read():
            head: Request = tuple.__new__(Request, _HEADER(frame))
            if head.opcode == Opcode.CUSE_INIT:
                return self._cuse_handshake(head, frame)
            if head.opcode != Opcode.INIT:
                self.send(error_frame(head.unique, errno.EIO), head)
                continue
            offer = codec.init_in.unpack_from(frame[IN_HEADER_SIZE:].ljust(codec.init_in.size, b"\0"))
            try:
                self.init.kernel = offer
                if offer.major == 7:
                    self.operations.init(self.init)
                body = codec.init_out.build(self.init.answer(offer))
                rows = table(self.operations, self.init.minor, bool((self.init.agreed or 0) & InitFlag.SETXATTR_EXT))
            except BaseException as bad:
                self.send(error_frame(head.unique, errno_of(bad) or errno.EIO), head)
                raise
            size = 8 if offer.major > 7 else compat.size("init_out", self.init.minor)
            self.send(plain_frame(head.unique, body[:size]), head)
            if offer.major == 7:
                return rows
        return None

    def _cuse_handshake(self, head: Request, frame: bytes) -> list[Call | None] | None:
        """CUSE_INIT, on /dev/cuse: the author's method answers."""
        row = call(self.operations, BY_NUMBER[Opcode.CUSE_INIT], self.init.minor)
        out = self.odd(head, row, bytearray(frame), len(frame))
        self.send(out, head)
        return table(self.operations, self.init.minor, setxattr_ext=False)

    # -- requests --------------------------------------------------------------------------------------------------

    def serve(self, rows: list[Call | None]) -> None:
        """One thread: read, call, reply, until the device has ended."""
        fd, frame, limit = self.fd, bytearray(self.frame_size()), len(rows)
        answers = [row and row.answer for row in rows]
        hand: list[Request | None] = [None]
        self.hands.append(hand)
        readinto = io.FileIO(fd, "rb", closefd=False).readinto
        write, writev, new, unpack = os.write, os.writev, tuple.__new__, _HEADER
        while True:
            try:
                size = readinto(frame)
            except OSError as bad:
                if bad.errno == errno.ENOENT:
                    continue
                if bad.errno in GONE:
                    return
                raise
            if not size:
                if size == 0:
                    return
                _poll(fd, select.POLLIN)
                continue
            head = unpack(frame)  # Python reads a plain tuple faster than one of a class of ours
            request: Request = new(Request, head)
            opcode = head[1]
            if size == head[0] and opcode < limit and (answer := answers[opcode]) is not None and not head[7]:
                hand[0] = request
                try:
                    out = answer(request, frame, size)
                except BaseException as bad:
                    if type(bad) is Defer:
                        out = self.defer(request, rows[opcode], frame, size, bad.work)
                    else:
                        out = self.failed(request, bad)
                hand[0] = None
            else:
                out = self.odd(request, rows[opcode] if opcode < limit else None, frame, size)
            try:
                if type(out) is bytes:
                    write(fd, out)
                elif out is not None:
                    writev(fd, out)
            except OSError as bad:
                if not self.unsent(bad, request, out):
                    return

    def odd(self, request: Request, row: Call | None, frame: bytearray, size: int) -> Any:
        """What `serve` has no time for: requests without a method, with extensions, for the server itself.

        None where no reply is due.
        """
        end, unique = size, request.unique
        if size < IN_HEADER_SIZE:
            LOGGER.error("%s: a request of %d bytes", self.label, size)
            return None
        if row is None and request.opcode not in BY_NUMBER:
            row = self.unknown
        if row is not None:  # NOTIFY_REPLY has a unique of ours, which another request may have too
            self.running[unique] = request
        try:
            if size != request.len:
                raise WireError("len", f"the frame's {size} bytes, got {request.len}")
            if request.total_extlen:
                end = self.extend(request, frame, size)
            if row is None:
                return self._own(request, frame, end)
            if row.answer is None:
                return error_frame(unique, errno.ENOSYS) if not row.welcome else error_frame(unique, 0)
            return row.answer(request, frame, end)
        except BaseException as bad:
            if type(bad) is Defer and row is not None:
                return self.defer(request, row, frame, end, bad.work)
            return self.failed(request, bad)
        finally:
            if row is not None and unique not in self.deferred:
                self.running.pop(unique, None)

    def defer(self, request: Request, row: Any, frame: bytearray, end: int, work: Callable[[], object]) -> Any:
        """Have the answer made in a thread of its own, and give None; the request stays among those that run."""
        arguments = tuple(bytes(each) if isinstance(each, memoryview) else each for each in row.decode(frame, end))
        device = self.device

        def answer() -> None:
            result = None
            try:
                result = work()
                out: Any = row.pack(request.unique, result, arguments)
            except BaseException as bad:
                for nodeid in entries_of(result):
                    self.forget(nodeid)
                out = self.failed(request, bad)
            self.running.pop(request.unique, None)
            self.send(out, request)
            self.deferred.pop(request.unique, None)
            if device is not None:
                device.give()

        thread = threading.Thread(target=answer, daemon=True, name=f"fuse {name_of(request.opcode)}")
        self.deferred[request.unique] = thread
        self.running[request.unique] = request
        if device is not None:
            device.take()
        try:
            thread.start()
        except RuntimeError as bad:  # no more threads
            del self.deferred[request.unique]
            if device is not None:
                device.give()
            return self.failed(request, bad)
        return None

    def extend(self, request: Request, frame: bytearray, size: int) -> int:
        """Read the extensions into the request; where they begin."""
        start = size - 8 * request.total_extlen
        if start < IN_HEADER_SIZE:
            raise WireError(
                "total_extlen", f"at most {(size - IN_HEADER_SIZE) // 8} units of 8 bytes, got {request.total_extlen}"
            )
        for each in tails.parse_extensions(bytes(frame[start:size])):
            if each.type == tails.EXT_GROUPS:
                request.groups = tails.supplementary_groups(each)
            elif each.type <= tails.MAX_NR_SECCTX:
                request.security = tails.security_contexts(each)
        return start

    def _own(self, request: Request, frame: bytearray, end: int) -> Any:
        """FORGET, INTERRUPT and others that are the session's; and opcodes that nobody knows."""
        opcode, body = request.opcode, bytes(frame[IN_HEADER_SIZE:end])
        if opcode == Opcode.FORGET:
            self.forget(request.nodeid, codec.forget_in.unpack_from(body).nlookup)
        elif opcode == Opcode.BATCH_FORGET:
            count = codec.batch_forget_in.unpack_from(body).count
            for nodeid, nlookup in tails.parse_forgets(body[8:], count)[0]:
                self.forget(nodeid, nlookup)
        elif opcode == Opcode.INTERRUPT:
            return self._interrupt(request, codec.interrupt_in.unpack_from(body).unique)
        elif opcode == Opcode.NOTIFY_REPLY:
            arg = codec.notify_retrieve_in.unpack_from(body)
            if not self.notify.retrieved(request.unique, arg.offset, body[codec.notify_retrieve_in.size :][: arg.size]):
                LOGGER.warning("%s: NOTIFY_REPLY %d that nobody asked for", self.label, request.unique)
        elif opcode == Opcode.DESTROY:
            return plain_frame(request.unique, b"")
        else:
            return error_frame(request.unique, errno.ENOSYS)
        return None

    def _interrupt(self, request: Request, unique: int) -> Any:
        """Reach the running method; EAGAIN has the kernel ask again for a request that has not come so far."""
        keys = (unique & ~UNIQUE_RESEND, unique | UNIQUE_RESEND)  # sent again, it may run twice
        found = [each for each in map(self.under_way().get, keys) if each is not None]
        for each in found:
            self.wake(each)
        return None if found else error_frame(request.unique, errno.EAGAIN)

    def wake(self, request: Request) -> None:
        """Tell a running method that nobody waits for its answer."""
        try:
            request.interrupt()
        except Exception:
            LOGGER.exception("%s: on_interrupt of %s", self.label, describe(request))

    # -- replies ---------------------------------------------------------------------------------------------------

    def failed(self, request: Request, bad: BaseException) -> Any:
        """The reply to a request whose method raised, or answered what is no answer: a bug is EIO and a traceback.

        None where the kernel waits for no reply.
        """
        code = errno_of(bad)
        if not code:
            LOGGER.error("%s: %s", self.label, describe(request), exc_info=bad)
        if request.opcode in (Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.NOTIFY_REPLY, Opcode.INTERRUPT):
            return None
        return error_frame(request.unique, code or errno.EIO)

    def forget(self, nodeid: int, nlookup: int = 1) -> None:
        """Take lookups off; nobody waits, and one that fails keeps no other back."""
        try:
            self.operations.forget(nodeid, nlookup)
        except BaseException:
            LOGGER.exception("%s: forget of nodeid %s", self.label, nodeid)

    def send(self, out: Any, request: Request, tries: int = TRIES) -> bool:
        """Send a reply; False where the device has ended."""
        try:
            if type(out) is bytes:
                os.write(self.fd, out)
            else:
                os.writev(self.fd, out)
        except OSError as bad:
            return self.unsent(bad, request, out, tries)
        return True

    def unsent(self, bad: OSError, request: Request, out: Any, tries: int = TRIES) -> bool:
        """A reply that could not be sent: False where the device has ended.

        ENOENT: the request is gone, and with it the lookups it would have counted. EINVAL and EMSGSIZE: the kernel, or
        the socket, refuses the reply; the caller gets EIO.
        """
        if bad.errno in GONE:
            return False
        if bad.errno in (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM) and tries:
            _poll(self.fd, select.POLLOUT, 100)
            if bad.errno != errno.EAGAIN:
                time.sleep(0.01)
            return self.send(out, request, tries - 1)
        whole = out if type(out) is bytes else b"".join(out)
        good = whole[4:8] == b"\0\0\0\0"
        if good:
            self._take_back(request, whole)
        if bad.errno == errno.ENOENT:
            return True
        LOGGER.error("%s: reply to %s refused: %s", self.label, describe(request), bad.strerror)
        return self.send(error_frame(request.unique, errno.EIO), request) if good else True

    def _take_back(self, request: Request, whole: bytes) -> None:
        """Nobody has what this reply gave: lookups are forgotten, what was opened is released."""
        opcode, at = request.opcode, OUT_HEADER_SIZE
        if opcode in _ENTRIES:
            nodeid = codec.entry_out.unpack_from(whole, at).nodeid
            if nodeid:
                self.forget(nodeid)
            at += compat.size("entry_out", self.init.minor)
        elif opcode == Opcode.READDIRPLUS:
            for each in tails.parse_direntplus(whole[at:])[0]:
                nodeid = codec.entry_out.unpack_from(each.entry).nodeid
                if nodeid and each.name not in (b".", b".."):
                    self.forget(nodeid)
        if opcode in _OPENING:
            fh = codec.open_out.unpack_from(whole, at).fh
            arg = codec.release_in.make(fh=fh)
            try:
                release = self.operations.releasedir if opcode == Opcode.OPENDIR else self.operations.release
                waits: Any = release(request, arg)
                if inspect.iscoroutine(waits):
                    self.later(waits)
            except BaseException:
                LOGGER.exception("%s: release of fh %d", self.label, fh)
