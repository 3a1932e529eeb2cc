"""Notifications are the bytes that wire says, and RETRIEVE's answer comes back as a future."""

import errno
import threading
from collections.abc import Callable

import pytest

from libperfuse import Notifier, Operations, Session
from tests.unit.server_support import PATIENCE, Kernel, kernel, logged, with_methods
from wire import codec
from wire.errors import WireError
from wire.flags import EntryFlag
from wire.notifications import Notification, parse_notification
from wire.opcodes import Notify, Opcode

SENT: list[tuple[Callable[[Notifier], object], Notification]] = []


def _case(code: Notify, send: Callable[[Notifier], object], head: object = None, **parts: object) -> None:
    SENT.append((send, Notification(codec.out_header.make(error=code), head, **parts)))  # type: ignore[arg-type]


_case(Notify.POLL, lambda to: to.poll(1 << 63), codec.notify_poll_wakeup_out.make(kh=1 << 63))
_case(Notify.INVAL_INODE, lambda to: to.inval_inode(7, -1, 5), codec.notify_inval_inode_out.make(ino=7, off=-1, len=5))
_case(
    Notify.INVAL_ENTRY, lambda to: to.inval_entry(1, b"name", EntryFlag.EXPIRE_ONLY),
    codec.notify_inval_entry_out.make(parent=1, namelen=4, flags=1), name=b"name",
)  # fmt: skip
_case(
    Notify.STORE, lambda to: to.store(7, 4096, b"data"),
    codec.notify_store_out.make(nodeid=7, offset=4096, size=4), payload=b"data",
)  # fmt: skip
_case(
    Notify.RETRIEVE, lambda to: to.retrieve(7, 5, 6),
    codec.notify_retrieve_out.make(notify_unique=1, nodeid=7, offset=5, size=6),
)  # fmt: skip
_case(
    Notify.DELETE, lambda to: to.delete(1, 7, b"name"),
    codec.notify_delete_out.make(parent=1, child=7, namelen=4), name=b"name",
)  # fmt: skip
_case(Notify.RESEND, lambda to: to.resend())
_case(Notify.INC_EPOCH, lambda to: to.inc_epoch())
_case(Notify.PRUNE, lambda to: to.prune(iter([7, 8])), codec.notify_prune_out.make(count=2), nodeids=(7, 8))


@pytest.mark.parametrize(("send", "expected"), SENT, ids=[Notify(each.code).name for _, each in SENT])
def test_a_notification_is_what_wire_says(send: Callable[[Notifier], object], expected: Notification) -> None:
    with kernel(Operations()) as made:
        send(made.session.notify)
        found = parse_notification(made.receive())
        assert found == Notification(
            found.header, expected.head, expected.name, expected.payload, expected.nodeids, order="="
        )
        assert (found.code, found.trailing) == (expected.code, b"")


def test_every_notification_is_there() -> None:
    assert [each.code for _, each in SENT] == list(Notify)


@pytest.mark.parametrize(
    "send",
    [
        lambda to: to.inval_entry(1, b""), lambda to: to.inval_entry(1, b"a\0b"), lambda to: to.delete(1, 2, b""),
        lambda to: to.inval_inode(-1), lambda to: to.prune([1 << 64]), lambda to: to.poll(-1),
    ],
)  # fmt: skip
def test_what_fits_no_frame_is_an_error_and_sends_nothing(send: Callable[[Notifier], object]) -> None:
    with kernel(Operations()) as made:
        with pytest.raises(WireError):
            send(made.session.notify)
        made.silent()


def _reply(made: Kernel, unique: int, data: bytes, offset: int = 0) -> None:
    head = codec.notify_retrieve_in.make(offset=offset, size=len(data))
    made.tell(Opcode.NOTIFY_REPLY, head, payload=data, unique=unique, nodeid=7)


def test_replies_reach_the_futures_that_asked_in_any_order() -> None:
    with kernel(Operations()) as made:
        first, second = made.session.notify.retrieve(7, 0, 9), made.session.notify.retrieve(7, 4096, 9)
        uniques = [parse_notification(made.receive()).head.notify_unique for _ in range(2)]
        _reply(made, uniques[1], b"second", 4096)
        _reply(made, uniques[0], b"")
        assert second.result(PATIENCE) == (4096, b"second")
        assert first.result(PATIENCE) == (0, b"")


def test_a_reply_that_nobody_asked_for_is_a_line() -> None:
    with logged() as records, kernel(Operations()) as made:
        _reply(made, 99, b"data")
        made.silent()
    assert "NOTIFY_REPLY 99" in records[0].getMessage()


def test_a_reply_may_have_the_unique_of_a_request_that_runs() -> None:
    entered, go = threading.Event(), threading.Event()

    def statfs(*words: object) -> None:
        entered.set()
        assert go.wait(PATIENCE)

    with logged() as records, kernel(with_methods({"statfs": statfs}), threads=2) as made:
        future = made.session.notify.retrieve(7, 0, 4)
        unique = parse_notification(made.receive()).head.notify_unique
        made.tell(Opcode.STATFS, unique=unique)
        assert entered.wait(PATIENCE)
        _reply(made, unique, b"data")
        assert future.result(PATIENCE) == (0, b"data")
        assert unique in made.session.server.under_way()
        go.set()
        assert codec.out_header.unpack_from(made.receive()).unique == unique
    assert len(records) == 1  # None is no statfs


def test_at_the_end_whoever_waits_gets_enodev_and_so_does_whoever_asks_then() -> None:
    made = Kernel(Operations())
    future = made.session.notify.retrieve(7, 0, 4)
    made.close()
    with pytest.raises(OSError) as waited:
        future.result(PATIENCE)
    with pytest.raises(OSError) as asked:
        made.session.notify.retrieve(7, 0, 4)
    with pytest.raises(OSError) as told:
        made.session.notify.poll(1)
    assert waited.value.errno == asked.value.errno == told.value.errno == errno.ENODEV


def test_before_the_start_a_notification_is_enodev() -> None:
    with pytest.raises(OSError) as caught:
        Session(Operations(), "/nowhere").notify.poll(1)
    assert caught.value.errno == errno.ENODEV
