"""Workers are forked from here: by a process that has imported what they need, and that does nothing but fork.

The daemon's own pages change all the time, and a worker forked from it keeps a copy of all that changed since. This
process is the same after every fork, so its workers share what they do not write themselves. A worker is forked twice,
so that the daemon, who takes orphans in, is its parent and reaps it. It does nothing until it is handed its job, and
one always waits for the next. Where this process fails, the daemon forks by itself, and starts another: no mount waits
for it. Never here: what a job is.
"""

import contextlib
import errno
import gc
import marshal
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import NoReturn

from perfused import channel, early, kernel, libc, log, placing, unmounting, worker
from perfused.config import Config
from perfused.log import LOGGER
from perfused.loop import Loop, exit_text
from perfused.readymade import Readymade

#: seconds a fork may take
PATIENCE = 3.0
#: seconds after a mount until a worker is forked for the next: the mount itself comes first
REFILL = 0.05
#: seconds between two starts of it, at least
RETRY = 1.0
PR_SET_CHILD_SUBREAPER = 36
Job = placing.Job | early.Job
_PID = struct.Struct("=ii")
_FD = struct.Struct("=i")


class SpawnerFault(Exception):
    """The process that forks workers does not do so."""


class Spawner:
    """The daemon's side. `config()` are the settings that hold for new workers."""

    def __init__(self, loop: Loop, config: Callable[[], Config]) -> None:
        self._loop = loop
        self._config = config
        self._sock: socket.socket | None = None
        self._pid = 0
        self._started = 0.0
        #: a worker without a job, which nobody watches: where it has ended, it cannot be handed one
        self._spare: tuple[int, socket.socket] | None = None
        #: it and those before it that have not ended yet
        self.pids: set[int] = set()

    def start(self) -> None:
        """Start the process, in place of the one before, whose settings were others. Without it, forks are our own."""
        self.close()
        self._started = time.monotonic()
        try:
            mine, theirs = channel.pair()
            with theirs:
                self._pid = fork({theirs.fileno()}, partial(_run, theirs, self._config()))
            self._sock = mine
            self.pids.add(self._pid)
            self._loop.watch_child(self._pid, partial(self._ended, self._pid))
            self._loop.later(REFILL, self._fill)
        except OSError as bad:
            LOGGER.error("the spawner cannot be started: %s", bad.strerror)
            self.close()
            self._start_again()

    def close(self) -> None:
        """Let it end."""
        if self._sock is not None:
            self._sock.close()
        if self._spare is not None:
            self._spare[1].close()
        self._sock, self._pid, self._spare = None, 0, None

    def spawn(self, make: Callable[[socket.socket], Job]) -> tuple[int, socket.socket]:
        """Start a worker: its pid, a child of ours, and our end of the channel that `make` puts into its job.

        Raises OSError where no process can be forked.
        """
        if self._sock is not None:
            self._loop.later(REFILL, self._fill)
        for forked in (self._take_spare, self._forked):
            if self._sock is None:
                break
            found = forked()
            if found is None:
                continue
            pid, ours = found
            if _hand_over(ours, make(ours)):
                return pid, ours
            # Should there be a worker all the same, an end of file is all that it ever reads.
            ours.close()
        return self._fork(make)

    def _take_spare(self) -> tuple[int, socket.socket] | None:
        spare, self._spare = self._spare, None
        return spare

    def _fill(self) -> None:
        """Have one worker wait for its job, so that the next mount need not wait for a fork."""
        if self._spare is None and self._sock is not None:
            with contextlib.suppress(OSError):
                self._spare = self._forked()

    def _forked(self) -> tuple[int, socket.socket] | None:
        """A worker that waits for its job, and our end of the channel to it; None where nobody forks."""
        assert self._sock is not None
        ours, theirs = channel.pair()
        try:
            with theirs:
                return self._ask(self._sock, theirs.fileno()), ours
        except SpawnerFault as fault:
            ours.close()
            LOGGER.error("the spawner: %s", fault)
            self._give_up()
            return None
        except BaseException:
            ours.close()
            raise

    @staticmethod
    def _fork(make: Callable[[socket.socket], Job]) -> tuple[int, socket.socket]:
        """Fork here and now."""
        ours, theirs = channel.pair()
        with theirs:
            job = make(theirs)
            try:
                return fork({theirs.fileno(), *job.plain()[1]}, partial(_work, job)), ours
            except OSError:
                ours.close()
                raise

    @staticmethod
    def _ask(sock: socket.socket, fd: int) -> int:
        """Have a worker forked that listens to `fd`; its pid. It takes as long as a fork: it is waited for."""
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        try:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _FD.pack(fd))]
            sock.sendmsg([b"fork"], rights, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
            answer = sock.recv(_PID.size) if poll.poll(PATIENCE * 1000) else b""
        except OSError as bad:
            raise SpawnerFault(bad.strerror) from None
        if len(answer) != _PID.size:
            raise SpawnerFault("no answer")
        pid, code = _PID.unpack(answer)
        if code:
            raise OSError(code, os.strerror(code))
        return int(pid)

    def _give_up(self) -> None:
        """It does not answer: what is left of it is killed, and another started when that has ended."""
        pid = self._pid
        self.close()
        if pid in self.pids:
            os.kill(pid, signal.SIGKILL)
        self._start_again()

    def _start_again(self) -> None:
        """Start another, but never in haste: meanwhile the daemon forks by itself."""
        now = time.monotonic()
        if now < self._started + RETRY:
            self._loop.later(self._started + RETRY - now, self._start_again)
        elif self._sock is None:
            self.start()

    def _ended(self, pid: int, status: int) -> None:
        self.pids.discard(pid)
        if pid == self._pid:
            LOGGER.error("the spawner %s; starting another", exit_text(os.waitstatus_to_exitcode(status)))
            self.close()
            self._start_again()


def fork(keep: set[int], child: Callable[[], object]) -> int:
    """Fork here: the child closes every descriptor but `keep` and the log's, and runs `child`, which never returns."""
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.set_wakeup_fd(-1)
        unmounting.close_all_but(keep | log.descriptors())
        child()
    finally:
        os._exit(70)


def adopt_orphans() -> None:
    """Become the parent of what a child of ours leaves behind."""
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)


def _run(sock: socket.socket, settings: Config) -> NoReturn:
    """The process's life."""
    try:
        libc.set_name("perfused-spawn")
        for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(each, signal.SIG_IGN)
        readymade = Readymade(settings.init.max_frame or kernel.largest_frame(), settings.init.minor)
        gc.freeze()
        while True:
            packet, fds = channel.receive_packet(sock)
            if not packet:
                break
            answer = _fork_child_of_parent(fds[0], settings, readymade)
            os.close(fds[0])
            sock.send(answer, socket.MSG_NOSIGNAL)
    except Exception:
        LOGGER.exception("the spawner failed")
    finally:
        os._exit(0)


def _fork_child_of_parent(fd: int, settings: Config, readymade: Readymade) -> bytes:
    """Fork a process that listens to `fd` and whose parent is ours: its pid, or an errno, packed."""
    read, write = os.pipe()
    try:
        between = os.fork()
        if not between:
            _fork_and_end(fd, write, settings, readymade)
        os.close(write)
        write = -1
        answer = os.read(read, _PID.size)
        # Its end is what gives the worker its parent.
        os.waitpid(between, 0)
        return answer or _PID.pack(0, errno.EIO)
    except OSError as bad:
        return _PID.pack(0, bad.errno or errno.EIO)
    finally:
        for each in (read, write):
            if each >= 0:
                os.close(each)


def _fork_and_end(fd: int, write: int, settings: Config, readymade: Readymade) -> NoReturn:
    try:
        try:
            pid, code = os.fork(), 0
        except OSError as bad:
            pid, code = -1, bad.errno or errno.EIO
        if pid:
            os.write(write, _PID.pack(max(pid, 0), code))
            os._exit(0)
        libc.set_name("perfused-spare")
        unmounting.close_all_but({fd} | readymade.descriptors() | log.descriptors())
        sock = socket.socket(fileno=fd)
        packet, fds = channel.receive_packet(sock)
        if packet:
            device, level, plain = marshal.loads(packet)
            LOGGER.setLevel(level)
            kind: type[Job] = early.Job if device else placing.Job
            _work(kind.of_plain(plain, fds, settings, sock), readymade)
    finally:
        os._exit(0)


def _hand_over(sock: socket.socket, job: Job) -> bool:
    """Tell a worker that waits at the other end what it is for; False where none does."""
    plain, fds = job.plain()
    packet = marshal.dumps((isinstance(job, early.Job), LOGGER.level, plain))
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"={len(fds)}i", *fds))]
    try:
        sock.sendmsg([packet], rights, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
    except OSError:
        return False
    return True


def _work(job: Job, readymade: Readymade | None = None) -> NoReturn:
    if isinstance(job, early.Job):
        early.run(job)
    worker.run(job, readymade)
