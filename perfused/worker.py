"""One process a mount: mounts with the daemon's rights, gives them up for good, then relays until either side is gone.

Forked from the `spawner`, so nothing is imported twice. Talks to the supervisor over a channel (messages: there).
Never here: who is served next, and what happens to the mount point afterwards; the worker could not unmount it.
"""

import contextlib
import errno
import logging
import math
import os
import select
import signal
import socket
import threading
import time
from collections import deque
from typing import Any, NoReturn

from perfused import backing, channel, kernel, libc, observe, reports
from perfused.device_file import DeviceFile
from perfused.engine import Engine
from perfused.kernel import MountInfo
from perfused.log import LOGGER
from perfused.negotiate import names, refused_bits
from perfused.placing import Job, Placed, drop_privileges, failure, perform_apart
from perfused.readymade import Readymade
from perfused.relay import ABORTED, CLOSED, UNMOUNTED, Relay
from perfused.ring_relay import RingRelay
from perfused.states import (
    AnsweredHere,
    Event,
    Negotiated,
    ObserverFault,
    PeerFault,
    Rules,
)
from perfused.streams import STREAMS, TRACE_TICK, Streams
from perfused.sweeping import Sweeper
from wire import control
from wire.control import Endpoint
from wire.errors import WireError
from wire.opcodes import name_of

#: seconds a device file answers those who still have it open, after its mount has ended; and between looks at them
LINGERING = 5.0
LINGERING_STEP = 0.05
#: at most so many lines a second about a filesystem's faults; the statistics count all
FAULT_LINES = 10


def run(job: Job, readymade: Readymade | None = None) -> NoReturn:
    """The worker's life; never returns."""
    code = 1
    try:
        libc.set_name("perfused-mount")
        for each in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(each, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # until it serves
        code = _mount_and_serve(job, readymade)
    except Exception:
        LOGGER.exception("worker failed")
    finally:
        logging.shutdown()
        os._exit(code)


def _mount_and_serve(job: Job, readymade: Readymade | None) -> int:
    try:
        placed = perform_apart(job)
    except OSError as bad:
        channel.send(job.channel, failure(bad))
        return 0
    for fd in (job.direct_device, job.namespace):
        if fd >= 0:
            os.close(fd)
    return serve_mounted(job, placed, None, readymade)


def serve_mounted(job: Job, placed: Placed, file: DeviceFile | None, readymade: Readymade | None = None) -> int:
    """Give the daemon's rights up, report the mount, and relay when told to go; the process's exit status."""
    libc.set_name("perfused-mount")
    worker = Worker(job, placed.device, placed.where, file, readymade)
    drop_privileges(job.config.daemon.worker_user)
    channel.send(job.channel, {"mounted": placed.where._asdict()})
    os.waitpid(placed.mounter, 0)
    message, _ = channel.receive(job.channel)
    if message is None or message.get("op") != "go":
        return 1
    return worker.serve()


def _is_request(packet: bytes) -> bool:
    try:
        return isinstance(control.parse(packet), control.Request)
    except WireError:
        return False


class Worker:
    """The main thread of a mounted worker: the channel, the clock, statistics and traces."""

    def __init__(
        self, job: Job, device: int, where: MountInfo, file: DeviceFile | None, readymade: Readymade | None
    ) -> None:
        self.job = job
        self.where = where
        self.started = time.time()
        config = job.config
        self.file = file
        size = job.device_socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        wanted = config.init.max_frame or kernel.largest_frame()
        known = file is not None or bool(backing.device_name(job.device_socket))
        helped = known and not backing.unwilling(config.policy, job.client)
        rules = Rules(
            max_frame=file.max_frame if file else min(wanted, size - 4096),
            refused=refused_bits(config.refused_flags, helped, job.endpoint),
            minor=config.init.minor,
            deadline=config.requests.deadline,
            interrupt_grace=config.requests.interrupt_grace,
            killed_grace=config.requests.killed_grace,
        )
        if config.init.io_uring and job.endpoint is Endpoint.SOCKET:
            self.relay: Relay = RingRelay(Engine(rules, self._event), device, job.device_socket, self._ended)
        elif readymade and job.endpoint is Endpoint.SOCKET and readymade.fits(rules):
            readymade.connect(device, job.device_socket)
            self.relay = readymade.take(rules, self._event, self._ended)
        else:
            self.relay = Relay(Engine(rules, self._event), device, file or job.device_socket, self._ended)
        if config.init.io_uring and file:
            LOGGER.info("%s: no io_uring, /dev/fuse is read and written: not behind a device file", where.target)
        self.engine, self.device = self.relay.engine, self.relay.device
        self.reasons: deque[str] = deque(maxlen=4)
        self._relaying: list[threading.Thread] = []
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.latency: observe.Latency | None = observe.Latency() if config.requests.timing else None
        self.ring: observe.Ring | None = observe.Ring(rules.minor) if job.trace else None
        self.debug = (
            observe.DebugLines(job.debug, LOGGER, rules.minor) if observe.DebugLines.wanted(job.debug) else None
        )
        self.lender = backing.Lender(self.device)
        self.streams = Streams()
        self._faults = [0.0, 0]
        self._supervised = True
        self._poll = select.poll()
        self._observe()
        self._sweeper = Sweeper(self.relay, type(self.relay) is Relay)

    def serve(self) -> int:
        """Relay until the end; 0 where the mount or the filesystem ended as they may."""
        if self.job.endpoint is Endpoint.DIRECT:
            os.close(self.device)
        else:
            if self.file:
                self.file.answer_with(0)
            self._relaying = self.relay.start()
        poll = self._poll
        poll.register(self.job.channel, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        if self.job.endpoint is not Endpoint.SOCKET:
            poll.register(self.job.device_socket, select.POLLIN | select.POLLRDHUP)
        signal.signal(signal.SIGTERM, self._terminate)
        if self.job.endpoint is not Endpoint.DIRECT:
            signal.signal(signal.SIGIO, self._stirred)
            self._sweeper.start(time.monotonic())
        while not self.reasons:
            for fd, _ in poll.poll(self._patience()):
                if fd == self.job.channel.fileno():
                    self._supervised = self._message()
                    if not self._supervised:
                        # The daemon is gone; its keeper unmounts, and until then whoever has files open is served.
                        poll.unregister(self.job.channel)
                elif fd == self._wake_read:
                    os.read(fd, 4096)
                    self._sweeper.stirred(time.monotonic())
                elif fd == self.job.device_socket.fileno():
                    self._connection()
                elif fd in self.lender.borrowers and not self.lender.serve(fd):
                    poll.unregister(fd)
                    self.lender.borrowers.pop(fd).close()
            if self.streams and not self.streams.send():
                self._observe()
            self._sweeper.look(time.monotonic())
        reason = self.reasons[0]
        if self.file:
            self.file.answer_with(errno.ECONNABORTED if reason == ABORTED else errno.ENODEV)
        channel.send(self.job.channel, {"ended": reason}, flags=socket.MSG_DONTWAIT)
        if self.file and reason in (UNMOUNTED, ABORTED):
            self._linger()
        return 1 if reason.startswith("internal") else 0

    def _linger(self) -> None:
        """Let those who have the device file open see why it has ended: until they close it, or for a while."""
        poll = select.poll()
        if self._supervised:
            poll.register(self.job.channel, select.POLLIN)
        replies = self._relaying[1]
        until = time.monotonic() + LINGERING
        while replies.is_alive() and time.monotonic() < until:
            # The thread ends when they have closed it, and tells nobody.
            replies.join(LINGERING_STEP)
            if poll.poll(0):
                return

    def _patience(self) -> float | None:
        """Milliseconds until there is something to do unasked; None where there is not."""
        if self.streams:
            return TRACE_TICK * 1000
        due = self._sweeper.due()
        return None if due == math.inf else max(due - time.monotonic(), 0.0) * 1000

    def _ended(self, reason: str) -> None:
        self.reasons.append(reason)
        self._wake()

    def _stirred(self, *_: object) -> None:
        """SIGIO: the kernel has a request for a mount that was idle."""
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"x")

    def _terminate(self, *_: object) -> None:
        """SIGTERM. Sent to a whole group it reaches the daemon too, which ends mounts in order; without one, end."""
        if not self._supervised:
            self._ended("terminated")

    def _connection(self) -> None:
        """The control connection of a direct client: its end is the filesystem's end; a second MOUNT is refused."""
        packet, fds = channel.receive_packet(self.job.device_socket, socket.MSG_DONTWAIT)
        for each in fds:
            os.close(each)
        if not packet and self.file:
            # Whoever mounted may have handed the file on: its last close is the filesystem's end.
            self._poll.unregister(self.job.device_socket)
            return
        if not packet:
            self._ended(CLOSED)
            return
        refusal = control.build_verdict(-errno.EBUSY, 0, "this descriptor is mounted already")
        if _is_request(packet):
            sentence = "on this connection nothing is answered any more: it has mounted a device"
            refusal = control.build_answer({"message": sentence}, -errno.EOPNOTSUPP)
        try:
            self.job.device_socket.send(refusal, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            pass

    # -- events of the engine --------------------------------------------------------------------------------------

    def _event(self, event: Event) -> None:
        where = self.where.target
        if isinstance(event, PeerFault):
            if self._may_log_fault():
                what = f"{name_of(event.opcode)} " if event.opcode else ""
                then = "; the caller got EIO" if event.answered else "; dropped"
                LOGGER.warning(
                    "%s: bad reply: %sunique=%d: %s: %s%s", where, what, event.unique, event.field, event.detail, then
                )
        elif isinstance(event, AnsweredHere):
            error = errno.errorcode.get(-event.error, str(event.error))
            what = f"{name_of(event.opcode)} unique={event.unique} nodeid={event.nodeid}"
            LOGGER.warning("%s: %s unanswered for %.1f s: answered %s (%s)", where, what, event.age, error, event.why)
        elif isinstance(event, ObserverFault):
            LOGGER.error("%s: internal error: %s failed and is off: %s", where, event.name, event.detail)
        elif isinstance(event, Negotiated):
            for note in event.notes:
                LOGGER.info("%s: %s", where, note)
            if event.terms:
                terms = event.terms
                if self.file:
                    self.file.expect(terms.max_write)
                LOGGER.info(
                    "%s: FUSE 7.%d, max_write %d, max_pages %d, flags %s",
                    where, terms.minor, terms.max_write, terms.max_pages, names(terms.flags) or "none",
                )  # fmt: skip

    def _may_log_fault(self) -> bool:
        now = time.monotonic()
        if now - self._faults[0] >= 1.0:
            self._faults = [now, 0]
        self._faults[1] += 1
        if self._faults[1] == FAULT_LINES + 1:
            LOGGER.warning("%s: more faults in this second are only counted", self.where.target)
        return self._faults[1] <= FAULT_LINES

    # -- what the supervisor asks ----------------------------------------------------------------------------------

    def _message(self) -> bool:
        message, fds = channel.receive(self.job.channel)
        if message is None:
            return False
        op = message.get("op")
        if op == "stop":
            self._ended("the daemon stops it")
        elif op == "mute":
            LOGGER.setLevel(message["level"])
        elif op == "trace-on":
            self.ring = observe.Ring(self.engine.rules.minor)
            self._observe()
        elif op == "trace-off":
            self.ring = None
            self._observe()
        elif op == "dump" and self.ring is not None and fds:
            with open(os.dup(fds[0]), "w", encoding="utf-8", errors="backslashreplace") as out:
                self.ring.write(out, f"{self.where.target} ({self.where.fstype}), minor {self.engine.rules.minor}")
        elif op == "lend" and fds:
            borrower = socket.socket(fileno=fds.pop(0))
            self.lender.borrowers[borrower.fileno()] = borrower
            self._poll.register(borrower, select.POLLIN)
        elif op in ("stats", "trace") and fds:
            client = socket.socket(fileno=fds.pop(0))
            self._answer(client, op, message.get("request", {}))
        for each in fds:
            os.close(each)
        return True

    def _answer(self, client: socket.socket, op: str, request: dict[str, Any]) -> None:
        client.setblocking(False)
        if op == "stats":
            timing = request.get("timing")
            if timing is not None:
                self.latency = observe.Latency() if timing else None
                self._observe()
            try:
                client.send(control.build_answer(reports.stats(self)), socket.MSG_NOSIGNAL)
            except OSError:
                LOGGER.debug("perfusectl left before its answer")
            client.close()
            return
        if self.job.endpoint is Endpoint.DIRECT:
            refusal = {"message": f"{self.where.target} is on a direct endpoint: no frame of it passes the daemon"}
            client.send(control.build_answer(refusal, -errno.EOPNOTSUPP), socket.MSG_NOSIGNAL)
            client.close()
            return
        if self.streams.full():
            refusal = {"message": f"{self.where.target} has {STREAMS} live traces already"}
            client.send(control.build_answer(refusal, -errno.EUSERS), socket.MSG_NOSIGNAL)
            client.close()
            return
        self.streams.add(client, request.get("opcodes"))
        self._observe()

    def _observe(self) -> None:
        candidates: list[Any] = [self.latency, self.ring, self.debug, *self.streams.observers()]
        observers = [each for each in candidates if each is not None]
        if observers or self.engine.observers:
            self.engine.observe(observers)
