"""Answers to stopped calls, on the real kernel: seccomp needs no rights but no_new_privs, and nothing is mounted."""

import array
import os
import signal
import socket
from collections.abc import Iterator

import pytest

from libperfuse import libc
from libperfuse.launch import filter as stopping
from libperfuse.launch.notify import Listener

CALLS = 300

pytestmark = pytest.mark.skipif(os.uname().machine not in stopping.MACHINES, reason="calls cannot be stopped here")


def opens(sock: socket.socket) -> None:
    """The program: under a filter, it opens files read-write, and ends with the number of those it did not get."""
    libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
    program = stopping.program(os.uname().machine, False)
    listener = libc.seccomp_listen(program, libc.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
    sock.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener]))])
    os.close(listener)
    sock.recv(1)
    wrong = 0
    for _ in range(CALLS):
        fd = os.open("/nowhere/fuse", os.O_RDWR)
        if fd <= 2 or os.pread(fd, 4, 0) != b"this":
            wrong += 1
        else:
            os.close(fd)
    os._exit(min(wrong, 100))


@pytest.fixture
def interrupted() -> Iterator[None]:
    """A signal with a handler, ten thousand times a second: what a process with busy children sees, and worse."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_program_gets_its_descriptor_however_often_who_gives_it_is_interrupted(interrupted: None) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(20)
    pid = os.fork()
    if not pid:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
            opens(theirs)
        finally:
            os._exit(111)
    theirs.close()
    _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
    listener = Listener(fd)
    given = os.memfd_create("given")
    os.write(given, b"this")
    ours.send(b"x")
    answered = 0
    while answered < CALLS:
        call = listener.receive()
        if call is not None:
            answered += 1
            listener.give_descriptor(call.cookie, given, True)
    _, status = os.waitpid(pid, 0)
    for each in (fd, given):
        os.close(each)
    ours.close()
    assert os.waitstatus_to_exitcode(status) == 0
