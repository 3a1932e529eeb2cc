"""Requests nobody answers, and callers that do not want to wait: deadlines, INTERRUPT, late replies."""

import errno
import fcntl
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernel.conftest import Daemon, eventually
from tests.kernel.scripted import CONTENT, DEFAULTS, Answer, Scripted, init_reply
from wire import codec
from wire.flags import InitFlag, OpenFlag
from wire.opcodes import Opcode

Mount = Callable[..., Scripted]
Daemons = Callable[..., Daemon]
#: seconds; a sweep comes four times in the shorter of them
SHORT = "[requests]\ndeadline = 0.4\ninterrupt_grace = 0.2\n"


class Caller:
    """A system call in a thread of its own."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.gave: object = None
        self.errno = 0
        self._call = call
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.gave = self._call()
        except OSError as bad:
            self.errno = bad.errno or -1

    def waits(self, seconds: float = 0.0) -> bool:
        """Whether it still waits after so long."""
        self._thread.join(seconds)
        return self._thread.is_alive()

    def ends(self) -> "Caller":
        """Wait for its end."""
        assert not self.waits(15), "the caller is still waiting"
        return self


def stats_of(daemon: Daemon, target: Path, *words: str) -> list[int]:
    """Some counters of a mount."""
    found = daemon.stats(target)
    return [found[word] for word in words]


# -- the deadline ------------------------------------------------------------------------------------------------------


def test_a_request_past_its_deadline_is_interrupted_then_answered_eio(
    daemons: Daemons, target: Path, scripted: Mount
) -> None:
    daemon = daemons(SHORT)
    fs = scripted(target, {Opcode.STATFS: lambda *_: None})
    caller = Caller(lambda: os.statvfs(target))
    asked, _ = fs.wait_for(Opcode.STATFS)
    _, body = fs.wait_for(Opcode.INTERRUPT)
    assert struct.unpack("=Q", body)[0] == asked.unique
    assert caller.ends().errno == errno.EIO
    daemon.has_logged(str(target), "STATFS", f"unique={asked.unique}", "answered EIO (deadline)")


def test_the_mount_works_on_after_a_deadline(daemons: Daemons, target: Path, scripted: Mount) -> None:
    daemon = daemons(SHORT)
    scripted(target, {Opcode.STATFS: lambda *_: None})
    assert Caller(lambda: os.statvfs(target)).ends().errno == errno.EIO
    assert (target / "file").read_bytes() == CONTENT
    daemon.idle(target)


def test_a_reply_to_a_request_answered_here_is_counted_as_late_and_not_as_bad(
    daemons: Daemons, target: Path, scripted: Mount
) -> None:
    daemon = daemons(SHORT)
    fs = scripted(target, {Opcode.STATFS: lambda *_: None})
    assert Caller(lambda: os.statvfs(target)).ends().errno == errno.EIO
    fs.reply(fs.wait_for(Opcode.STATFS)[0], bytes(80))
    eventually(lambda: stats_of(daemon, target, "late_replies", "bad_replies") == [1, 0], "it is counted as late")
    assert (target / "file").read_bytes() == CONTENT


def test_a_second_reply_to_a_request_answered_here_is_a_bad_one(
    daemons: Daemons, target: Path, scripted: Mount
) -> None:
    daemon = daemons(SHORT)
    fs = scripted(target, {Opcode.STATFS: lambda *_: None})
    assert Caller(lambda: os.statvfs(target)).ends().errno == errno.EIO
    for _ in range(2):
        fs.reply(fs.wait_for(Opcode.STATFS)[0], bytes(80))
    eventually(lambda: stats_of(daemon, target, "late_replies", "bad_replies") == [1, 1], "one late, one bad")


def test_a_filesystem_that_answers_the_interrupt_is_in_time(daemons: Daemons, target: Path, scripted: Mount) -> None:
    daemons("[requests]\ndeadline = 0.3\ninterrupt_grace = 20\n")

    def interrupted(fs: Scripted, head: codec.InHeader, body: bytes) -> Answer:
        waiting = next(asked for asked, _ in fs.requests if asked.unique == struct.unpack("=Q", body)[0])
        fs.reply(waiting, -errno.ENODATA)
        return None

    scripted(target, {Opcode.STATFS: lambda *_: None, Opcode.INTERRUPT: interrupted})
    assert Caller(lambda: os.statvfs(target)).ends().errno == errno.ENODATA


@pytest.mark.parametrize("answer", [-errno.ENOSYS, -errno.EAGAIN])
def test_what_a_filesystem_answers_to_an_interrupt_of_ours_stays_here(
    daemons: Daemons, target: Path, scripted: Mount, answer: int
) -> None:
    daemon = daemons(SHORT)
    fs = scripted(target, {Opcode.STATFS: lambda *_: None, Opcode.INTERRUPT: lambda *_: answer})
    assert Caller(lambda: os.statvfs(target)).ends().errno == errno.EIO
    assert fs.opcodes[Opcode.INTERRUPT] == 1
    assert stats_of(daemon, target, "bad_replies", "gone") == [0, 0]


def test_a_slow_filesystem_within_the_deadline_is_left_alone(daemons: Daemons, target: Path) -> None:
    daemon = daemons("[requests]\ndeadline = 5\n")
    daemon.faulty("slow", "150", target)
    assert (target / "hello").read_bytes()[:16] == b"0123456789abcdef"
    assert stats_of(daemon, target, "late_replies", "bad_replies") == [0, 0]
    assert "answered" not in daemon.log()
    daemon.ctl("umount", target)


def test_without_a_deadline_a_caller_waits_until_it_is_answered(
    daemons: Daemons, target: Path, scripted: Mount
) -> None:
    daemons("[requests]\ndeadline = 0\ninterrupt_grace = 0.1\nkilled_grace = 0.1\n")
    fs = scripted(target, {Opcode.STATFS: lambda *_: None})
    caller = Caller(lambda: os.statvfs(target).f_files)
    asked, _ = fs.wait_for(Opcode.STATFS)
    assert caller.waits(1.0)
    assert Opcode.INTERRUPT not in fs.opcodes
    fs.reply(asked, struct.pack("=5Q4I24x", *[6] * 9))
    assert caller.ends().gave == 6


def test_a_lock_that_is_waited_for_has_no_deadline(daemons: Daemons, target: Path, scripted: Mount) -> None:
    daemons(SHORT)
    flags = int(InitFlag.POSIX_LOCKS)
    fs = scripted(
        target,
        {
            Opcode.INIT: lambda *_: init_reply(flags),
            Opcode.SETLKW: lambda *_: None,
            Opcode.SETLK: lambda *_: b"",
            Opcode.STATFS: lambda *_: None,
        },
    )
    fd = os.open(target / "file", os.O_RDWR)
    lock = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 10, 0)
    waiter = Caller(lambda: fcntl.fcntl(fd, fcntl.F_SETLKW, lock))
    asked, _ = fs.wait_for(Opcode.SETLKW)
    assert Caller(lambda: os.statvfs(target)).ends().errno == errno.EIO, "the control: what came later has one"
    assert waiter.waits()
    fs.reply(asked, b"")
    assert waiter.ends().errno == 0
    os.close(fd)


def test_the_deadline_passes_too_where_the_filesystem_does_not_read_at_all(daemons: Daemons, target: Path) -> None:
    daemon = daemons(SHORT)
    deaf = daemon.faulty("stuck", "STATFS", "deaf", target)
    callers = [Caller(lambda: os.statvfs(target)) for _ in range(20)]
    assert [each.ends().errno for each in callers] == [errno.EIO] * 20
    deaf.kill()
    deaf.wait()


def test_many_requests_pass_their_deadline_together_and_each_is_answered_once(
    daemons: Daemons, target: Path, scripted: Mount
) -> None:
    daemon = daemons(SHORT)
    fs = scripted(target, {Opcode.GETXATTR: lambda *_: None})
    callers = [Caller(lambda: os.getxattr(target / "file", "user.colour")) for _ in range(40)]
    assert {each.ends().errno for each in callers} == {errno.EIO}
    assert fs.opcodes[Opcode.INTERRUPT] == 40
    assert daemon.stats(target)["errors"]["GETXATTR"] == 40


# -- callers that do not want to wait ----------------------------------------------------------------------------------

#: a program that is told by SIGUSR1 to stop waiting, and says what its read(2) gave
READER = """
import os, signal, sys
from cffi import FFI
ffi = FFI()
ffi.cdef("ssize_t read(int fd, void *buffer, size_t size);")
libc = ffi.dlopen(None)
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.siginterrupt(signal.SIGUSR1, True)
fd = os.open(sys.argv[1], os.O_RDONLY)
room = ffi.new("char[]", 100)
given = libc.read(fd, room, 100)
print(given, ffi.errno if given < 0 else bytes(ffi.buffer(room))[:4].decode())
"""
DIRECT: dict[int, Callable[..., Answer]] = {
    Opcode.OPEN: lambda *_: codec.open_out.pack(1, OpenFlag.DIRECT_IO, 0),
    Opcode.READ: lambda *_: None,
}


def reader(path: Path) -> "subprocess.Popen[str]":
    """Start READER."""
    return subprocess.Popen([sys.executable, "-c", READER, path], stdout=subprocess.PIPE, text=True)


def test_a_signal_to_a_caller_reaches_the_filesystem_as_interrupt_and_its_eintr_reaches_the_caller(
    daemon: Daemon, target: Path, scripted: Mount
) -> None:
    fs = scripted(target, dict(DIRECT))
    caller = reader(target / "file")
    asked, _ = fs.wait_for(Opcode.READ)
    assert Opcode.INTERRUPT not in fs.opcodes
    caller.send_signal(signal.SIGUSR1)
    _, body = fs.wait_for(Opcode.INTERRUPT)
    assert struct.unpack("=Q", body)[0] == asked.unique
    fs.reply(asked, -errno.EINTR)
    assert caller.communicate(timeout=10)[0].split() == ["-1", str(errno.EINTR)]
    daemon.idle(target)
    assert stats_of(daemon, target, "interrupts", "bad_replies") == [1, 0]


def test_a_filesystem_may_ignore_an_interrupt_and_answer_in_full(daemon: Daemon, target: Path, scripted: Mount) -> None:
    fs = scripted(target, dict(DIRECT))
    caller = reader(target / "file")
    asked, _ = fs.wait_for(Opcode.READ)
    caller.send_signal(signal.SIGUSR1)
    fs.wait_for(Opcode.INTERRUPT)
    fs.reply(asked, CONTENT[:100])
    assert caller.communicate(timeout=10)[0].split() == ["100", "0123"]


def test_an_interrupt_answered_eagain_comes_again(daemon: Daemon, target: Path, scripted: Mount) -> None:
    answers: list[Answer] = [-errno.EAGAIN, -errno.EAGAIN, None]
    fs = scripted(target, {**DIRECT, Opcode.INTERRUPT: lambda *_: answers.pop(0) if answers else None})
    caller = reader(target / "file")
    asked, _ = fs.wait_for(Opcode.READ)
    caller.send_signal(signal.SIGUSR1)
    fs.wait_for(Opcode.INTERRUPT, times=3)
    fs.reply(asked, -errno.EINTR)
    assert caller.communicate(timeout=10)[0].split() == ["-1", str(errno.EINTR)]
    assert stats_of(daemon, target, "bad_replies") == [0]


def test_an_interrupt_answered_enosys_is_the_last(daemon: Daemon, target: Path, scripted: Mount) -> None:
    refused = threading.Event()

    def refuse(fs: Scripted, head: codec.InHeader, body: bytes) -> None:
        fs.reply(head, -errno.ENOSYS)
        refused.set()

    fs = scripted(target, {**DIRECT, Opcode.INTERRUPT: refuse})
    for turn in (1, 2):
        caller = reader(target / "file")
        asked, _ = fs.wait_for(Opcode.READ, times=turn)
        caller.send_signal(signal.SIGUSR1)
        if turn == 1:
            assert refused.wait(10)  # the kernel has to hear of it before the request is answered
        else:
            eventually(lambda pid=caller.pid: _woken(pid), "the second reader has been signalled")
        fs.reply(asked, CONTENT[:100])
        assert caller.communicate(timeout=10)[0].split() == ["100", "0123"]
    assert fs.opcodes[Opcode.INTERRUPT] == 1


def _woken(pid: int) -> bool:
    """Whether a process has SIGUSR1 pending, or has had it: its wait in the kernel can no longer be interrupted."""
    text = Path(f"/proc/{pid}/status").read_text()
    pending = [int(line.split()[1], 16) for line in text.splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
    return any(each >> (signal.SIGUSR1 - 1) & 1 for each in pending)


def test_a_caller_killed_before_its_request_was_read_leaves_nothing_behind(
    daemon: Daemon, target: Path, scripted: Mount
) -> None:
    fs = scripted(target, dict(DIRECT))
    caller = reader(target / "file")
    asked, _ = fs.wait_for(Opcode.READ)
    caller.kill()
    fs.wait_for(Opcode.INTERRUPT)
    fs.reply(asked, -errno.EINTR)
    caller.communicate(timeout=10)
    assert caller.returncode == -signal.SIGKILL
    fs.handlers[Opcode.READ] = DEFAULTS[Opcode.READ]
    assert (target / "file").read_bytes() == CONTENT
    daemon.idle(target)
    assert stats_of(daemon, target, "bad_replies") == [0]
