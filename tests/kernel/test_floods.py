"""A filesystem that notifies without end, or whose worker takes nothing, costs a bounded number of bytes, and delays no
other mount."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from perfused import kernel, relay
from tests.kernel import costs
from tests.kernel.conftest import ROOT, Daemon, eventually, fuse_mounts
from tests.kernel.costs import SLACK, Growth, force, largest_room, other_mount_answers, perfusectl_answers, queued
from wire import codec
from wire.opcodes import Notify

endpoint, other = costs.FIXTURES

#: a filesystem that writes a notification, the argument in hex, for ever; who looks for "never" is never answered
_NOTIFIER = """
import os, sys
from tests.kernel.scripted import DEFAULTS, Scripted
from wire.opcodes import Opcode
def lookup(fs, head, body):
    return None if body == b"never\\0" else DEFAULTS[Opcode.LOOKUP](fs, head, body)
fs = Scripted({Opcode.LOOKUP: lookup}).open_and_mount(sys.argv[1])
packet = bytes.fromhex(sys.argv[2])
print("mounted on", flush=True)
sys.stdin.readline()
print("begun", flush=True)
try:
    while True:
        os.write(fs.fd, packet)
except OSError:
    pass
"""


def notification(code: int, payload: bytes) -> str:
    """A whole notification, in hex."""
    return (codec.out_header.pack(16 + len(payload), code, 0) + payload).hex()


#: the kernel takes it at once: it knows no such node
TAKEN = notification(Notify.STORE, codec.notify_store_out.pack(77, 0, 16_384, 0) + bytes(16_384))
#: the kernel takes it when nobody looks for a name in the root any more
HELD_BACK = notification(Notify.INVAL_ENTRY, codec.notify_inval_entry_out.pack(1, 1000, 0) + b"x" * 1000 + b"\0")


@pytest.fixture
def notifier(daemon: Daemon, target: Path) -> Callable[[str], subprocess.Popen[str]]:
    """Mount a filesystem that is about to write a notification for ever: a line on its stdin has it begin."""

    def mounted(packet: str) -> subprocess.Popen[str]:
        command = (sys.executable, "-c", _NOTIFIER, target, packet)
        program = daemon.run(*command, cwd=ROOT, stdin=subprocess.PIPE)
        assert program.stdout is not None
        assert "mounted on" in program.stdout.readline()
        assert (target / "file").stat().st_size
        return program

    return mounted


def begin(program: subprocess.Popen[str]) -> None:
    """Have a notifier begin."""
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.close()
    assert program.stdout.readline() == "begun\n"


def test_notifications_without_end_cost_no_more_than_their_queue(
    endpoint: str, daemon: Daemon, target: Path, other: Path, notifier: Callable[[str], subprocess.Popen[str]]
) -> None:
    program = notifier(TAKEN)
    growth = Growth(daemon, target)
    begin(program)
    eventually(lambda: daemon.stats(target)["notifications"] > 4000, "64 MiB of notifications have come", 40)
    other_mount_answers(daemon, other)
    perfusectl_answers(daemon, target, other)
    assert (target / "file").stat().st_size
    assert growth.of_worker() <= relay.NOTICE_BYTES + SLACK
    assert growth.of_supervisor() <= SLACK
    force(daemon, target)
    program.wait(20)


def test_notifications_that_the_kernel_holds_back_are_dropped_where_their_queue_is_full(
    endpoint: str, daemon: Daemon, target: Path, other: Path, notifier: Callable[[str], subprocess.Popen[str]]
) -> None:
    program = notifier(HELD_BACK)
    growth = Growth(daemon, target)
    looking = threading.Thread(target=os.path.exists, args=(target / "never",), daemon=True)
    looking.start()
    eventually(lambda: daemon.stats(target)["in_flight"] == 1, "somebody looks for a name")
    begin(program)
    eventually(lambda: daemon.stats(target)["dropped_notifications"] > 4000, "notifications are dropped", 40)
    other_mount_answers(daemon, other)
    perfusectl_answers(daemon, target, other)
    assert os.stat(target), "what the filesystem answers between its notifications gets through"
    assert growth.of_worker() <= relay.NOTICE_BYTES + SLACK
    assert growth.of_supervisor() <= SLACK
    force(daemon, target)
    looking.join(20)
    program.wait(20)


def test_a_filesystem_that_is_killed_while_the_kernel_holds_its_notification_back_leaves_nobody_waiting(
    endpoint: str, daemon: Daemon, target: Path, notifier: Callable[[str], subprocess.Popen[str]]
) -> None:
    """The thread that writes the notification cannot be woken, and holds the device: closing it ends nothing."""
    program = notifier(HELD_BACK)
    looking = threading.Thread(target=os.path.exists, args=(target / "never",), daemon=True)
    looking.start()
    eventually(lambda: daemon.stats(target)["in_flight"] == 1, "somebody looks for a name")
    begin(program)
    eventually(lambda: daemon.stats(target)["notifications"] > 3, "the kernel holds a notification back")
    program.kill()
    looking.join(20)
    assert not looking.is_alive()
    eventually(lambda: not fuse_mounts(target), "the mount is gone")


# -- a worker that takes nothing ------------------------------------------------------------------------


def test_what_a_stopped_worker_does_not_take_waits_in_the_room_of_the_device(
    endpoint: str, daemon: Daemon, target: Path, other: Path, notifier: Callable[[str], subprocess.Popen[str]]
) -> None:
    program = notifier(TAKEN)
    growth = Growth(daemon, target)
    os.kill(growth.worker, signal.SIGSTOP)
    try:
        begin(program)
        eventually(lambda: _still(program.pid), "the filesystem waits in write(2)", 30)
        other_mount_answers(daemon, other)
        assert len(json.loads(daemon.ctl("mounts", "--json").stdout)) == 2
        assert queued(program.pid) <= largest_room(program.pid) + 8 * kernel.PAGE
        assert growth.of_supervisor() <= SLACK
    finally:
        os.kill(growth.worker, signal.SIGCONT)
    eventually(lambda: daemon.stats(target)["notifications"] > 300, "they are taken after all", 20)
    force(daemon, target)
    program.wait(20)


def _still(pid: int) -> bool:
    """Whether no thread of a process runs."""
    stats = [(each / "stat").read_text() for each in Path(f"/proc/{pid}/task").iterdir()]
    return all(each.rpartition(")")[2].split()[0] == "S" for each in stats)
