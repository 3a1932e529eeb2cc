"""What a filesystem tells the kernel unasked has its effect; each beside the control experiment without it."""

import errno
import os
import select
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.conftest import Daemon, eventually
from tests.kernel.scripted import CONTENT, DEFAULTS, FILE, Answer, Handler, Scripted, attr, entry, init_reply
from wire import codec
from wire.flags import UNIQUE_RESEND, OpenFlag, PollFlag
from wire.opcodes import Notify, Opcode

FOR_EVER = 100_000
Mount = Callable[..., Scripted]


def _lookup(fs: Scripted, head: codec.InHeader, body: bytes) -> Answer:
    return entry(FILE, valid=FOR_EVER) if body == b"file\0" else -errno.ENOENT


#: the kernel keeps everything it has once been told
CACHED: dict[int, Handler] = {
    Opcode.LOOKUP: _lookup,
    Opcode.GETATTR: lambda fs, head, body: codec.attr_out.pack(FOR_EVER, 0, 0, *attr(head.nodeid)),
    Opcode.OPEN: lambda *_: codec.open_out.pack(1, OpenFlag.KEEP_CACHE, 0),
    Opcode.GETXATTR: lambda *_: -errno.ENODATA,
}


@pytest.fixture
def cached(daemon: Daemon, target: Path, scripted: Mount) -> Callable[..., Scripted]:
    """Mount a filesystem of which the kernel keeps everything: `cached({Opcode.X: handler})`."""
    return lambda handlers=None: scripted(target, CACHED | (handlers or {}))


def reads(target: Path) -> bytes:
    """Read the first page of the file."""
    fd = os.open(target / "file", os.O_RDONLY)
    try:
        return os.pread(fd, 4096, 0)
    finally:
        os.close(fd)


def again(fs: Scripted, opcode: int, call: Callable[[], Any]) -> Callable[[], bool]:
    """Whether `call` has made the kernel send `opcode` once more than so far; to be asked until it has."""
    before = fs.opcodes[opcode]

    def asked() -> bool:
        call()
        return fs.opcodes[opcode] > before

    return asked


def invalidate_entry(name: bytes = b"file") -> bytes:
    """The body of INVAL_ENTRY for a name in the root."""
    return codec.notify_inval_entry_out.pack(1, len(name), 0) + name + b"\0"


@pytest.mark.parametrize(
    ("code", "payload"),
    [
        (Notify.INVAL_ENTRY, invalidate_entry()),
        (Notify.DELETE, codec.notify_delete_out.pack(1, FILE, 4, 0) + b"file\0"),
        (Notify.INC_EPOCH, b""),
    ],
)
def test_a_name_the_kernel_has_kept_is_looked_up_again_after(
    target: Path, cached: Mount, code: Notify, payload: bytes
) -> None:
    fs = cached()
    for _ in range(3):
        os.stat(target / "file")
    assert fs.opcodes[Opcode.LOOKUP] == 1, "without it the kernel does not ask again"
    asked = again(fs, Opcode.LOOKUP, lambda: os.stat(target / "file"))
    fs.notify(code, payload)
    eventually(asked, "the kernel asks for the name again")


def test_after_inval_inode_the_kernel_reads_again_what_it_had_kept(target: Path, cached: Mount) -> None:
    contents = [CONTENT]
    fs = cached({Opcode.READ: lambda *_: contents[0]})
    assert reads(target) == CONTENT
    contents[0] = changed = b"changed!" * 512
    assert reads(target) == CONTENT, "without it the kernel gives what it has"
    fs.notify(Notify.INVAL_INODE, codec.notify_inval_inode_out.pack(FILE, 0, 0))
    eventually(lambda: reads(target) == changed, "the new content is read")


def test_after_store_readers_get_what_was_stored_without_a_read(target: Path, cached: Mount) -> None:
    fs = cached()
    assert reads(target) == CONTENT, "without it the content is what READ gives"
    asked = fs.opcodes[Opcode.READ]
    for turn in range(100):
        stored = struct.pack("=I", turn) * 1024
        fs.notify(Notify.STORE, codec.notify_store_out.pack(FILE, 0, len(stored), 0) + stored)
    eventually(lambda: reads(target) == stored, "the last of all is what stays")
    assert fs.opcodes[Opcode.READ] == asked


def test_retrieve_gives_the_filesystem_what_the_kernel_has_kept(daemon: Daemon, target: Path, cached: Mount) -> None:
    fs = cached()
    assert reads(target) == CONTENT
    assert Opcode.NOTIFY_REPLY not in fs.opcodes
    fs.notify(Notify.RETRIEVE, codec.notify_retrieve_out.pack(7777, FILE, 0, 4096, 0))
    head, body = fs.wait_for(Opcode.NOTIFY_REPLY)
    assert head.unique == 7777
    assert body[codec.notify_retrieve_in.size :] == CONTENT
    daemon.idle(target)


def test_after_delete_a_file_still_open_has_no_link_left(target: Path, cached: Mount) -> None:
    fs = cached()
    fd = os.open(target / "file", os.O_RDONLY)
    assert os.fstat(fd).st_nlink == 1
    fs.notify(Notify.DELETE, codec.notify_delete_out.pack(1, FILE, 4, 0) + b"file\0")
    eventually(lambda: os.fstat(fd).st_nlink == 0, "the kernel has taken its link")
    os.close(fd)


def test_a_poll_notification_wakes_whoever_polls(target: Path, cached: Mount) -> None:
    ready = [0]
    handles: list[int] = []

    def polled(fs: Scripted, head: codec.InHeader, body: bytes) -> Answer:
        _, handle, flags, _ = struct.unpack("=QQII", body)
        if flags & PollFlag.SCHEDULE_NOTIFY:
            handles.append(handle)
        return codec.poll_out.pack(ready[0], 0)

    fs = cached({Opcode.POLL: polled})
    fd = os.open(target / "file", os.O_RDONLY)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(0) == []
    found: list[Any] = []
    waiter = threading.Thread(target=lambda: found.append(poll.poll(10_000)))
    waiter.start()
    eventually(lambda: handles, "the poller has asked to be woken")
    ready[0] = select.POLLIN
    waiter.join(timeout=0.3)
    assert waiter.is_alive(), "without it nobody is woken"
    fs.notify(Notify.POLL, codec.notify_poll_wakeup_out.pack(handles[-1]))
    waiter.join(timeout=10)
    assert found == [[(fd, select.POLLIN)]]
    os.close(fd)


def test_after_resend_a_request_that_was_forgotten_comes_again_and_is_answered(
    daemon: Daemon, target: Path, cached: Mount
) -> None:
    def forgotten(fs: Scripted, head: codec.InHeader, body: bytes) -> Answer:
        return CONTENT if head.unique & UNIQUE_RESEND else None

    fs = cached({Opcode.READ: forgotten})
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(reads(target)))
    reader.start()
    first, _ = fs.wait_for(Opcode.READ)
    reader.join(timeout=0.3)
    assert reader.is_alive(), "without it nobody asks again"
    fs.notify(Notify.RESEND)
    reader.join(timeout=10)
    assert found == [CONTENT]
    assert fs.wait_for(Opcode.READ, times=2)[0].unique == first.unique | UNIQUE_RESEND
    daemon.idle(target)
    assert daemon.stats(target)["bad_replies"] == 0


def test_after_prune_the_kernel_forgets_a_node_nobody_uses(target: Path, cached: Mount) -> None:
    fs = cached()
    os.stat(target / "file")
    assert Opcode.FORGET not in fs.opcodes
    fs.notify(Notify.PRUNE, codec.notify_prune_out.pack(1, 0, 0) + struct.pack("=Q", FILE))
    assert fs.wait_for(Opcode.FORGET)[0].nodeid == FILE


# -- held back, malformed, unknown -------------------------------------------------------------------------------------


def test_an_invalidation_that_waits_for_the_request_being_answered_does_not_stop_that_answer(
    target: Path, cached: Mount
) -> None:
    def made(fs: Scripted, head: codec.InHeader, body: bytes) -> Answer:
        # The kernel holds the directory until MKDIR is answered, and the invalidation needs the directory.
        fs.notify(Notify.INVAL_ENTRY, invalidate_entry())
        return entry(20, mode=0o40755)

    fs = cached({Opcode.MKDIR: made})
    os.stat(target / "file")
    asked = again(fs, Opcode.LOOKUP, lambda: os.stat(target / "file"))
    os.mkdir(target / "new")
    eventually(asked, "the invalidation came through")


def test_pages_being_read_are_invalidated_when_the_read_is_answered(target: Path, cached: Mount) -> None:
    def read(fs: Scripted, head: codec.InHeader, body: bytes) -> Answer:
        # The kernel holds the page until READ is answered, and the invalidation needs the page.
        if fs.opcodes[Opcode.READ] == 1:
            fs.notify(Notify.INVAL_INODE, codec.notify_inval_inode_out.pack(FILE, 0, 0))
        return DEFAULTS[Opcode.READ](fs, head, body)

    fs = cached({Opcode.READ: read})
    assert reads(target) == CONTENT
    eventually(again(fs, Opcode.READ, lambda: reads(target)), "the invalidation came through")


@pytest.mark.parametrize(("count", "size"), [(3000, 0), (40, 1 << 20)], ids=["many", "large"])
def test_an_answer_behind_notifications_that_the_kernel_holds_back_still_gets_through(
    daemon: Daemon, target: Path, cached: Mount, count: int, size: int
) -> None:
    def made(fs: Scripted, head: codec.InHeader, body: bytes) -> Answer:
        fs.notify(Notify.INVAL_ENTRY, invalidate_entry())
        for _ in range(count):
            fs.notify(Notify.STORE, codec.notify_store_out.pack(FILE, 1 << 40, 0, 0) + bytes(size))
        return entry(20, mode=0o40755)

    cached({Opcode.MKDIR: made})
    before = resident(daemon, target)
    os.mkdir(target / "new")
    assert reads(target) == CONTENT
    assert resident(daemon, target) - before < 32 << 20


def resident(daemon: Daemon, target: Path) -> int:
    """Bytes of anonymous memory that the worker has."""
    status = Path(f"/proc/{daemon.stats(target)['worker']}/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


@pytest.mark.parametrize(
    ("code", "payload", "said"),
    [
        (Notify.INVAL_ENTRY, bytes(8), "NOTIFY_INVAL_ENTRY has 8 bytes after its header, at least 16"),
        (Notify.INVAL_INODE, bytes(23), "NOTIFY_INVAL_INODE has 23 bytes"),
        (Notify.STORE, b"", "NOTIFY_STORE has 0 bytes"),
        (Notify.RETRIEVE, bytes(31), "NOTIFY_RETRIEVE has 31 bytes"),
        (Notify.DELETE, bytes(23), "NOTIFY_DELETE has 23 bytes"),
        (Notify.POLL, bytes(7), "NOTIFY_POLL has 7 bytes"),
        (Notify.PRUNE, bytes(15), "NOTIFY_PRUNE has 15 bytes"),
    ],
)
def test_a_notification_too_short_for_its_kind_is_dropped_counted_and_logged(
    daemon: Daemon, target: Path, cached: Mount, code: Notify, payload: bytes, said: str
) -> None:
    fs = cached()
    fs.notify(code, payload)
    daemon.has_logged(str(target), said, "dropped")
    assert daemon.stats(target)["bad_notifications"] == 1
    assert reads(target) == CONTENT


@pytest.mark.parametrize(
    ("code", "payload"),
    [
        (Notify.INVAL_ENTRY, codec.notify_inval_entry_out.pack(1, 4, 0) + b"file"),
        (Notify.STORE, codec.notify_store_out.pack(FILE, 0, 5000, 0) + b"less"),
        (Notify.PRUNE, codec.notify_prune_out.pack(9, 0, 0)),
        (99, b"unknown"),
        (-2, b""),
    ],
    ids=["no NUL", "a wrong size", "a wrong count", "an unknown code", "a negative code"],
)
def test_a_notification_only_the_kernel_can_judge_is_passed_on_and_its_refusal_counted(
    daemon: Daemon, target: Path, cached: Mount, code: int, payload: bytes
) -> None:
    fs = cached()
    os.stat(target / "file")
    fs.notify(code, payload)
    eventually(lambda: daemon.stats(target)["bad_notifications"] == 1, "the kernel's refusal is counted")
    assert reads(target) == CONTENT


def test_every_notification_is_counted(daemon: Daemon, target: Path, cached: Mount) -> None:
    fs = cached()
    for _ in range(5):
        fs.notify(Notify.INVAL_ENTRY, invalidate_entry())
    fs.notify(Notify.INC_EPOCH)
    eventually(lambda: daemon.stats(target)["notifications"] == 6, "six are counted")


def test_a_notification_before_init_is_answered_harms_nothing(daemon: Daemon, target: Path, scripted: Mount) -> None:
    def init(fs: Scripted, head: codec.InHeader, body: bytes) -> Answer:
        fs.notify(Notify.INVAL_ENTRY, invalidate_entry())
        return init_reply()

    scripted(target, CACHED | {Opcode.INIT: init})
    assert reads(target) == CONTENT
