"""Starts a program under a tracer, and stands in for it: signals go through to it, its end becomes ours.

Two processes: the one that was called, which waits and passes signals on; its child, the tracer, which is the program's
parent, gets whatever the program leaves behind, and outlives both where the program becomes a daemon. The tracer is the
ancestor of all it traces, as some systems demand of who reads another process's memory.
"""

import array
import contextlib
import errno
import os
import resource
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from libperfuse import libc
from libperfuse.connection import PerfuseError, connect, socket_path
from libperfuse.launch import filter as stopping
from libperfuse.launch.tracer import Tracer
from wire.control import Endpoint

#: what sh(1) and env(1) say of a program that is not there, and of one that cannot be run
NOT_THERE, NOT_RUNNABLE = 127, 126
#: perfused cannot be reached, or this machine cannot stop calls
UNAVAILABLE = 69
#: the tracer was killed
LOST = 70
#: passed on where another process sends them; what a terminal sends, the program has got itself
_PASSED = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM,
    signal.SIGWINCH, signal.SIGCONT,
)  # fmt: skip
_TERMINALS = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})
#: bytes that a pipe with any room takes whole
_LINE = 4096
#: seconds that what a program leaves to us may take to end
_LEAVE = 1.0
#: a wait(2) status or an exit status, the program's pid (0: it never ran), whether the tracer ends with it
_ENDED = struct.Struct("=ii?")
_CAP_SYS_ADMIN = 1 << 21


def run(arguments: Sequence[str], endpoint: Endpoint | None, verbose: bool, name: str) -> int:
    """Run a program and return what its status is to be for who called us; ends by the signal that ended the program.

    `endpoint` None: chosen for each device by what is known of the program. `name` leads the lines on stderr.
    """

    def say(line: str) -> None:
        shown = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in line)
        # A reader who does not read must not hold up the program.
        writable = select.poll()
        writable.register(2, select.POLLOUT)
        with contextlib.suppress(OSError):
            if writable.poll(0):
                os.write(2, f"{name}: {shown}\n".encode(errors="backslashreplace")[:_LINE])

    problem = _unfit()
    if problem:
        say(problem)
        return UNAVAILABLE
    # Relative to where we are now, and not to where we shall be in the background.
    os.environ["PERFUSED_SOCKET"] = os.path.abspath(socket_path())
    ignored = [each for each in _PASSED if signal.getsignal(each) == signal.SIG_IGN]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED)
    inherited = _inherited()
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    tracer = os.fork()
    if not tracer:
        mine.close()
        try:
            _trace(arguments, endpoint, verbose, say, theirs, mask, ignored, inherited)
        except BaseException as fault:
            say(f"internal error: {type(fault).__name__}: {fault}")
        finally:
            os._exit(LOST)
    theirs.close()
    _let_go_of(inherited)
    return _stand_in(tracer, mine, say)


def _inherited() -> list[int]:
    """The descriptors above the standard ones that the program is to have."""
    found = []
    for each in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if int(each) > 2 and os.get_inheritable(int(each)):
                found.append(int(each))
    return found


def _let_go_of(inherited: list[int]) -> None:
    """Close what is the program's, so that it is closed when the program closes it; our own lines go to stderr."""
    for each in inherited:
        os.close(each)
    _standard(0, 1)


def _standard(*numbers: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for each in numbers:
        os.dup2(null, each)
    os.close(null)


def _unfit() -> str:
    """Why no program can be run on perfused here; "" where it can."""
    machine = os.uname().machine
    if machine not in stopping.MACHINES:
        return f"this machine is a {machine}: system calls can be stopped on {', '.join(stopping.MACHINES)}"
    try:
        connect().close()
    except PerfuseError as bad:
        private = os.environ.get("PERFUSE_NO_PRIVATE", "") in ("", "0")
        if bad.errno not in (errno.ENOENT, errno.ECONNREFUSED) or not private or not _admin():
            return bad.strerror or str(bad)
    return ""


def _admin() -> bool:
    """Whether this process has CAP_SYS_ADMIN, with which it may mount, and install a filter as it is."""
    with open("/proc/self/status") as lines:
        effective = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    return bool(effective & _CAP_SYS_ADMIN)


# -- the process that was called ---------------------------------------------------------------------------------------


def _stand_in(child: int, tracer: socket.socket, say: Callable[[str], None]) -> int:
    """Pass signals on until the program has ended; its exit status, or no return where a signal ended it."""
    started, fds, _, _ = socket.recv_fds(tracer, _ENDED.size, 1)
    if len(started) < _ENDED.size:
        return LOST
    code, pid, _ = _ENDED.unpack(started)
    if not pid:
        os.waitpid(child, 0)
        return int(code)
    threading.Thread(target=_pass_signals, args=(fds[0],), daemon=True).start()
    ended = tracer.recv(_ENDED.size)
    if len(ended) < _ENDED.size:
        say(f"its tracer was killed; process {pid} is left without perfused")
        return LOST
    status, _, last = _ENDED.unpack(ended)
    if last:
        os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        return os.waitstatus_to_exitcode(status)
    number = os.WTERMSIG(status)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with contextlib.suppress(OSError, ValueError):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    return 128 + number


def _pass_signals(program: int) -> None:
    """To the process that a pidfd stands for: its number may be another's as soon as it has ended."""
    while True:
        found = signal.sigwaitinfo(_PASSED)
        # A terminal signals the whole group in the foreground, and the program is in it.
        if found.si_code > 0 and found.si_signo in _TERMINALS:
            continue
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(program, found.si_signo)


# -- its child ---------------------------------------------------------------------------------------------------------


def _trace(
    arguments: Sequence[str],
    endpoint: Endpoint | None,
    verbose: bool,
    say: Callable[[str], None],
    front: socket.socket,
    mask: Iterable[int],
    ignored: list[signal.Signals],
    inherited: list[int],
) -> NoReturn:
    libc.prctl(libc.PR_SET_CHILD_SUBREAPER, 1)
    handed, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if not pid:
        front.close()
        handed.close()
        _become(arguments, child, endpoint is Endpoint.SOCKET, mask, ignored)
    child.close()
    _let_go_of(inherited)
    for each in (*_PASSED, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGPIPE):
        signal.signal(each, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED)
    listener = _listener(handed)
    if listener < 0:
        _, status = os.waitpid(pid, 0)
        front.send(_ENDED.pack(os.waitstatus_to_exitcode(status) or UNAVAILABLE, 0, True))
        os._exit(0)
    _serve(Tracer(listener, endpoint, say, verbose), pid, handed, front, arguments[0], say)


def _listener(handed: socket.socket) -> int:
    """The listener that the child sends; -1 where it could not make one."""
    fds = array.array("i")
    _, ancillary, _, _ = handed.recvmsg(1, socket.CMSG_SPACE(fds.itemsize), socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: fds.itemsize])
    return fds[0] if fds else -1


def _become(
    arguments: Sequence[str],
    tracer: socket.socket,
    whole_frames: bool,
    mask: Iterable[int],
    ignored: list[signal.Signals],
) -> NoReturn:
    """The program's process, up to exec."""
    code = UNAVAILABLE
    try:
        for each in signal.Signals:
            # Python ignores these two; whoever called us did not ask for that.
            if each in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT) and each not in ignored:
                signal.signal(each, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        program = stopping.program(os.uname().machine, whole_frames, libc.has_x32())
        if not _admin():
            libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
        try:
            fd = libc.seccomp_listen(program, libc.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
        except OSError as bad:
            hint = " (already under another tracer?)" if bad.errno == errno.EBUSY else ""
            sys.stderr.write(f"perfusectl: exec: system calls cannot be stopped: {bad.strerror}{hint}\n")
            sys.stderr.flush()
            os._exit(UNAVAILABLE)
        tracer.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
        os.close(fd)
        # Not before the tracer listens: from here on an open may be stopped.
        tracer.recv(1)
        try:
            os.execvp(arguments[0], list(arguments))
        except OSError as bad:
            code = NOT_THERE if bad.errno in (errno.ENOENT, errno.ENOTDIR) else NOT_RUNNABLE
            tracer.send(struct.pack("=i", bad.errno or errno.ENOEXEC))
    finally:
        os._exit(code)


def _serve(
    tracer: Tracer,
    pid: int,
    handed: socket.socket,
    front: socket.socket,
    program: str,
    say: Callable[[str], None],
) -> NoReturn:
    """Trace until nothing is left of the program; tell `front` of its first process."""
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    tracer.watch(read)
    tracer.watch(handed.fileno())
    tracer.watch(front.fileno())
    program_fd = os.pidfd_open(pid)
    socket.send_fds(front, [_ENDED.pack(0, pid, False)], [program_fd])
    handed.send(b"x")

    ended: list[int] = []
    told: list[bool] = []

    def woken(fd: int) -> bool:
        if fd == handed.fileno():
            said = handed.recv(4)
            if said:
                say(f"exec: {program}: {os.strerror(struct.unpack('=i', said)[0])}")
            tracer.unwatch(fd)
            return True
        if fd == front.fileno():
            # Who stands in for the program was killed before it had ended: so it is killed too.
            tracer.unwatch(fd)
            if not ended:
                with contextlib.suppress(OSError):
                    signal.pidfd_send_signal(program_fd, signal.SIGKILL)
            return True
        with contextlib.suppress(BlockingIOError):
            os.read(read, 512)
        try:
            status = _reap(pid)
        except ChildProcessError:
            return True
        if status is not None:
            # Others may have ended as well: look again.
            os.write(write, b"x")
            ended.append(status)
            # Where nobody else is left it is told below, when nothing of it is there any more.
            if not tracer.deserted():
                _tell(front, status, pid, False)
                _to_background()
                told.append(True)
        return True

    tracer.run(woken)
    tracer.recall()
    # Private daemons end with their connections, and are children of ours.
    tracer.books.close()
    ended += _await_children(pid, read)
    if ended and not told:
        _tell(front, ended[0], pid, True)
    os._exit(0)


def _tell(front: socket.socket, status: int, pid: int, last: bool) -> None:
    """The program's status to `front`, which may be gone."""
    with contextlib.suppress(OSError):
        front.send(_ENDED.pack(status, pid, last))


def _reap(pid: int) -> int | None:
    """Take the status of children that have ended, up to the program's, which is given; None where all are taken.

    Raises ChildProcessError where no child is left.
    """
    while True:
        found, status = os.waitpid(-1, os.WNOHANG)
        if not found:
            return None
        if found == pid:
            return status


def _await_children(pid: int, wakes: int) -> list[int]:
    """Wait, not for ever, until no child is left; the program's status, if it was among them. `wakes` is readable when
    one has ended."""
    found: list[int] = []
    poll = select.poll()
    poll.register(wakes, select.POLLIN)
    deadline = time.monotonic() + _LEAVE
    while (left := deadline - time.monotonic()) > 0:
        try:
            status = _reap(pid)
        except ChildProcessError:
            break
        if status is not None:
            found.append(status)
            continue
        if poll.poll(left * 1000):
            os.read(wakes, 512)
    return found


def _to_background() -> None:
    """Leave the terminal and the pipes to those who still read them."""
    with contextlib.suppress(OSError):
        os.setsid()
    _standard(0, 1, 2)
    # Where we are, somebody may want to unmount.
    os.chdir("/")
