"""The engine's clock and its observers: who is answered here, who is interrupted, and who may watch."""

import errno
import struct

import pytest

from perfused.states import LATE_KEPT, AnsweredHere, Buffer, Head
from tests.unit.engine_support import ANSWER, IN, RESEND, Rig, answer, ask, eio, read_in
from wire.opcodes import Opcode

READ = ask(Opcode.READ, read_in(64), unique=6, nodeid=5, pid=77)


def interrupt(target: int) -> bytes:
    """INTERRUPT as the kernel itself would send it."""
    return IN.pack(48, Opcode.INTERRUPT, target | 1, 0, 0, 0, 0, 0, 0) + struct.pack("=Q", target)


def nobody(pid: int) -> bool:
    return False


def everybody(pid: int) -> bool:
    return True


# -- deadlines ---------------------------------------------------------------------------------------------------------


def test_nothing_happens_while_all_times_are_0() -> None:
    rig = Rig()
    rig.request(READ)
    assert [rig.engine.sweep(now, everybody) for now in (0.0, 10.0, 1e9)] == [([], [])] * 3
    assert list(rig.engine.inflight) == [6]


def test_a_request_younger_than_the_deadline_is_left_alone() -> None:
    rig = Rig(deadline=10)
    rig.request(READ)
    assert rig.engine.sweep(100.0, nobody) == ([], [])
    assert rig.engine.sweep(109.9, nobody) == ([], [])


def test_a_request_past_the_deadline_is_interrupted_at_the_filesystem() -> None:
    rig = Rig(deadline=10)
    rig.request(READ)
    rig.engine.sweep(100.0, nobody)
    assert rig.engine.sweep(110.0, nobody) == ([], [interrupt(6)])


def test_it_is_interrupted_once() -> None:
    rig = Rig(deadline=10, interrupt_grace=5)
    rig.request(READ)
    rig.engine.sweep(100.0, nobody)
    rig.engine.sweep(110.0, nobody)
    assert rig.engine.sweep(114.0, nobody) == ([], [])


def overdue(rig: Rig) -> tuple[list[bytes], list[bytes]]:
    """Bring every request in flight past its deadline and its grace."""
    rig.engine.sweep(100.0, nobody)
    rig.engine.sweep(110.0, nobody)
    return rig.engine.sweep(112.0, nobody)


def test_after_the_grace_it_is_answered_eio() -> None:
    rig = Rig(deadline=10, interrupt_grace=2)
    rig.request(READ)
    assert overdue(rig) == ([eio(6)], [])
    assert rig.events == [AnsweredHere(Opcode.READ, 6, 5, -errno.EIO, 12.0, "deadline")]
    assert rig.engine.inflight == {}


def test_a_request_answered_in_its_grace_is_answered_by_the_filesystem_alone() -> None:
    rig = Rig(deadline=10, interrupt_grace=2)
    rig.request(READ)
    rig.engine.sweep(100.0, nobody)
    rig.engine.sweep(110.0, nobody)
    packet = answer(b"data", unique=6)
    assert rig.reply(packet) == packet
    assert rig.engine.sweep(112.0, nobody) == ([], [])


@pytest.mark.parametrize("opcode", [Opcode.SETLKW, Opcode.INIT])
def test_requests_that_may_wait_for_ever_have_no_deadline(opcode: Opcode) -> None:
    rig = Rig(deadline=10)
    rig.request(ask(opcode, struct.pack("=II56x", 7, 45)))
    assert overdue(rig) == ([], [])
    assert list(rig.engine.inflight) == [2]


def test_an_age_counts_anew_for_a_request_that_was_answered_and_sent_again() -> None:
    rig = Rig(deadline=10)
    rig.exchange(READ, answer(unique=6))
    rig.engine.sweep(100.0, nobody)
    rig.request(READ)
    rig.engine.sweep(105.0, nobody)
    assert rig.engine.sweep(114.0, nobody) == ([], [])


def test_a_late_reply_is_dropped_counted_and_no_fault() -> None:
    rig = Rig(deadline=10, interrupt_grace=2)
    rig.request(READ)
    overdue(rig)
    rig.events.clear()
    assert rig.reply(answer(b"data", unique=6)) is None
    assert rig.events == []
    assert rig.engine.counters.late == 1


def test_a_late_reply_is_recognised_once() -> None:
    rig = Rig(deadline=10, interrupt_grace=2)
    rig.request(READ)
    overdue(rig)
    rig.events.clear()
    rig.reply(answer(unique=6))
    assert rig.reply(answer(unique=6)) is None
    assert rig.fault()[1:3] == (6, "unique")


def test_only_so_many_late_replies_are_waited_for() -> None:
    rig = Rig(deadline=10, interrupt_grace=2)
    for number in range(1, LATE_KEPT + 11):
        rig.request(ask(Opcode.READ, read_in(1), unique=2 * number))
    assert len(overdue(rig)[0]) == LATE_KEPT + 10
    assert list(rig.engine.answered) == [2 * number for number in range(11, LATE_KEPT + 11)]


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENOSYS])
@pytest.mark.parametrize("target", [6, 6 | RESEND])
def test_what_the_filesystem_says_to_an_interrupt_of_ours_is_not_the_kernels(code: int, target: int) -> None:
    rig = Rig(deadline=10)
    rig.request(ask(Opcode.READ, read_in(64), unique=target))
    rig.engine.sweep(100.0, nobody)
    _, (sent,) = rig.engine.sweep(110.0, nobody)
    (unique,) = struct.unpack_from("=Q", sent, 8)
    assert rig.reply(answer(error=-code, unique=unique)) is None
    assert rig.events == []


# -- killed callers ----------------------------------------------------------------------------------------------------


def test_a_killed_caller_gets_eintr_after_the_grace() -> None:
    rig = Rig(killed_grace=5)
    rig.request(READ)
    assert rig.engine.sweep(100.0, everybody) == ([], [])
    assert rig.engine.sweep(105.0, everybody) == ([ANSWER.pack(16, -errno.EINTR, 6)], [])
    assert rig.events == [AnsweredHere(Opcode.READ, 6, 5, -errno.EINTR, 5.0, "caller killed")]


def test_who_is_alive_waits_on() -> None:
    rig = Rig(killed_grace=5)
    rig.request(READ)
    rig.engine.sweep(100.0, nobody)
    assert rig.engine.sweep(1000.0, nobody) == ([], [])


def test_the_caller_asked_about_is_the_requests() -> None:
    rig = Rig(killed_grace=5)
    asked: list[int] = []
    rig.request(READ)
    rig.engine.sweep(100.0, everybody)
    rig.engine.sweep(105.0, lambda pid: not asked.append(pid))
    assert asked == [77]


def test_a_killed_caller_that_waits_for_a_lock_is_let_go() -> None:
    rig = Rig(killed_grace=5)
    rig.request(ask(Opcode.SETLKW, bytes(48), unique=6))
    rig.engine.sweep(100.0, everybody)
    assert rig.engine.sweep(105.0, everybody)[0] == [ANSWER.pack(16, -errno.EINTR, 6)]


def test_answers_of_ours_count_as_errors_of_the_opcode() -> None:
    rig = Rig(deadline=10, interrupt_grace=2)
    rig.request(READ)
    overdue(rig)
    assert rig.engine.counters.errors[Opcode.READ] == 1


# -- observers ---------------------------------------------------------------------------------------------------------


class Watcher:
    """Notes what it is shown."""

    def __init__(self, opcodes: frozenset[int] | None = None) -> None:
        self.opcodes = opcodes
        self.seen: list[tuple[str, int, bytes]] = []

    def request(self, head: Head, frame: Buffer) -> None:
        self.seen.append(("request", 0, bytes(frame)))

    def reply(self, head: Head, error: int, frame: Buffer) -> None:
        self.seen.append(("reply", error, bytes(frame)))

    def notice(self, frame: Buffer) -> None:
        self.seen.append(("notice", 0, bytes(frame)))


def watched(rig: Rig, opcodes: frozenset[int] | None = None) -> Watcher:
    watcher = Watcher(opcodes)
    rig.engine.observe([watcher])
    return watcher


def test_an_observer_sees_a_request_and_its_reply() -> None:
    rig = Rig()
    watcher = watched(rig)
    packet = answer(b"data", unique=6)
    assert rig.exchange(READ, packet) == packet
    assert watcher.seen == [("request", 0, READ), ("reply", 0, packet)]


def test_an_observed_request_is_in_flight_like_any_other() -> None:
    rig = Rig()
    watched(rig)
    assert rig.request(READ) == READ
    assert list(rig.engine.inflight) == [6]


def test_an_observer_sees_an_error_of_the_filesystem() -> None:
    rig = Rig()
    watcher = watched(rig)
    packet = answer(error=-errno.EACCES, unique=6)
    rig.exchange(READ, packet)
    assert watcher.seen[1] == ("reply", -errno.EACCES, packet)


def test_an_observer_sees_requests_that_owe_nothing() -> None:
    rig = Rig()
    watcher = watched(rig)
    forget = ask(Opcode.FORGET, bytes(8))
    assert rig.request(forget) == forget
    assert watcher.seen == [("request", 0, forget)]
    assert rig.engine.inflight == {}


def test_an_observer_sees_our_answer_in_place_of_a_bad_reply() -> None:
    rig = Rig()
    watcher = watched(rig)
    rig.exchange(READ, answer(bytes(65), unique=6))
    assert watcher.seen == [("request", 0, READ), ("reply", -errno.EIO, eio(6))]


def test_an_observer_sees_our_answer_to_a_request_past_its_deadline() -> None:
    rig = Rig(deadline=10, interrupt_grace=2)
    watcher = watched(rig)
    rig.request(READ)
    overdue(rig)
    assert watcher.seen[1:] == [("reply", -errno.EIO, eio(6))]


def test_an_observer_sees_our_answer_to_a_request_that_does_not_fit() -> None:
    rig = Rig()
    watcher = watched(rig)
    rig.request(READ)
    rig.engine.unsendable(rig.engine.inflight[6], 48, "")
    assert watcher.seen[1:] == [("reply", -errno.EIO, eio(6))]


def test_an_observer_sees_notifications() -> None:
    rig = Rig()
    watcher = watched(rig, frozenset())
    notice = answer(bytes(24), error=2, unique=0)
    rig.reply(notice)
    assert watcher.seen == [("notice", 0, notice)]


def test_an_observer_of_some_opcodes_sees_no_others() -> None:
    rig = Rig()
    watcher = watched(rig, frozenset({Opcode.LOOKUP}))
    rig.exchange(READ, answer(bytes(65), unique=6))
    rig.exchange(ask(Opcode.LOOKUP, b"a\0"), answer(error=-2))
    assert [kind for kind, _, _ in watcher.seen] == ["request", "reply"]
    assert watcher.seen[0][2] == ask(Opcode.LOOKUP, b"a\0")


def test_opcodes_nobody_observes_keep_their_plain_entries() -> None:
    rig = Rig()
    watched(rig, frozenset({Opcode.LOOKUP}))
    assert rig.engine.on_request[Opcode.READ] is None
    assert rig.engine.on_reply[Opcode.READ] is None


def test_without_observers_every_entry_is_as_it_was() -> None:
    rig = Rig()
    requests, replies = list(rig.engine.on_request), list(rig.engine.on_reply)
    watched(rig)
    rig.engine.observe([])
    assert (rig.engine.on_request, rig.engine.on_reply) == (requests, replies)


def test_the_lists_the_relay_reads_stay_the_same_objects() -> None:
    rig = Rig()
    before = rig.engine.on_request, rig.engine.on_reply, rig.engine.expected
    watched(rig)
    rig.start(31)
    after = rig.engine.on_request, rig.engine.on_reply, rig.engine.expected
    assert all(one is other for one, other in zip(before, after, strict=True))


def test_two_observers_see_the_same() -> None:
    rig = Rig()
    first, second = Watcher(), Watcher()
    rig.engine.observe([first, second])
    rig.exchange(READ, answer(unique=6))
    assert first.seen == second.seen
    assert len(first.seen) == 2
