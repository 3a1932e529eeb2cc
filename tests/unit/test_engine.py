"""The engine: states, what is in flight, good replies, interrupts, resends and notifications."""

import errno
import struct
from itertools import product

import pytest

from perfused.states import Buffer, Head, LocalFault, Negotiated, ObserverFault, PeerFault, State
from tests.unit.engine_support import RESEND, Rig, answer, ask, eio, getxattr_in, init_in, init_out, read_in
from wire.flags import InitFlag
from wire.opcodes import Opcode

ALLOWED = {
    (State.NEW, State.INIT_SENT),
    (State.NEW, State.ENDED),
    (State.INIT_SENT, State.RUNNING),
    (State.INIT_SENT, State.REFUSED),
    (State.INIT_SENT, State.ENDED),
    (State.RUNNING, State.ENDED),
    (State.REFUSED, State.ENDED),
}

#: Bytes behind the header of a good reply, as fuse.h 7.45 and the protocol tables have them.
BODIES = {
    "LOOKUP": 128, "GETATTR": 104, "SETATTR": 104, "SYMLINK": 128, "MKNOD": 128, "MKDIR": 128, "UNLINK": 0, "RMDIR": 0,
    "RENAME": 0, "LINK": 128, "OPEN": 16, "WRITE": 8, "STATFS": 80, "RELEASE": 0, "FSYNC": 0, "SETXATTR": 0,
    "REMOVEXATTR": 0, "FLUSH": 0, "OPENDIR": 16, "RELEASEDIR": 0, "FSYNCDIR": 0, "GETLK": 24, "SETLK": 0, "SETLKW": 0,
    "ACCESS": 0, "CREATE": 144, "BMAP": 8, "DESTROY": 0, "POLL": 8, "FALLOCATE": 0, "RENAME2": 0, "LSEEK": 8,
    "COPY_FILE_RANGE": 8, "SETUPMAPPING": 0, "REMOVEMAPPING": 0, "SYNCFS": 0, "TMPFILE": 144, "STATX": 288,
    "COPY_FILE_RANGE_64": 8,
}  # fmt: skip

#: Bytes of the fixed part of every notification.
NOTIFICATIONS = {1: 8, 2: 24, 3: 16, 4: 24, 5: 32, 6: 24, 7: 0, 8: 0, 9: 16}
UNANSWERED = [Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.NOTIFY_REPLY]
UNKNOWN = [7, 19, 54, 126, 127, 128, 2016, 4096, 2**32 - 1]


# -- states ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), sorted(ALLOWED, key=str))
def test_a_state_leads_to_the_states_of_the_table(before: State, after: State) -> None:
    engine = Rig().engine
    engine.state = before
    engine.to(after)
    assert engine.state is after


@pytest.mark.parametrize(("before", "after"), [pair for pair in product(State, State) if pair not in ALLOWED])
def test_any_other_step_is_a_fault_of_ours_and_changes_nothing(before: State, after: State) -> None:
    engine = Rig().engine
    engine.state = before
    with pytest.raises(LocalFault, match=f"{before.name} does not lead to {after.name}"):
        engine.to(after)
    assert engine.state is before


def test_the_kernels_init_makes_it_sent() -> None:
    rig = Rig()
    rig.request(ask(Opcode.INIT, init_in()))
    assert rig.engine.state is State.INIT_SENT


def test_a_good_answer_to_init_makes_it_run() -> None:
    rig = Rig()
    rig.exchange(ask(Opcode.INIT, init_in()), answer(init_out()))
    assert rig.engine.state is State.RUNNING


def test_the_terms_of_init_are_told() -> None:
    rig = Rig()
    rig.exchange(ask(Opcode.INIT, init_in()), answer(init_out(minor=31)))
    (event,) = rig.events
    assert isinstance(event, Negotiated)
    assert event.terms == rig.engine.terms
    assert event.terms is not None
    assert event.terms.minor == 31


def test_bits_refused_to_the_filesystem_are_gone_from_the_init_it_sees() -> None:
    rig = Rig(refused=InitFlag.SPLICE_READ)
    shown = rig.request(ask(Opcode.INIT, init_in(flags=InitFlag.SPLICE_READ | InitFlag.ASYNC_READ)))
    assert shown == ask(Opcode.INIT, init_in(flags=InitFlag.ASYNC_READ))


def test_an_error_to_init_is_passed_on_and_refuses_the_connection() -> None:
    rig = Rig()
    packet = answer(error=-errno.EPROTO)
    assert rig.exchange(ask(Opcode.INIT, init_in()), packet) == packet
    assert rig.engine.state is State.REFUSED
    assert rig.events == [Negotiated(None, ["the filesystem refused INIT: EPROTO"])]


@pytest.mark.parametrize(
    ("body", "field"),
    [(b"\0" * 4, "init_out"), (init_out() + b"\0" * 16, "init_out"), (init_out(major=8), "major")],
    ids=["4 bytes", "80 bytes", "major 8"],
)
def test_an_init_answer_that_no_kernel_takes_is_answered_eio(body: bytes, field: str) -> None:
    rig = Rig()
    assert rig.exchange(ask(Opcode.INIT, init_in()), answer(body)) == eio()
    assert rig.engine.state is State.REFUSED
    assert rig.fault()[:3] == (Opcode.INIT, 2, field)
    assert rig.engine.counters.bad_replies == 1


def test_a_second_init_is_a_fault_of_ours() -> None:
    rig = Rig()
    rig.start()
    with pytest.raises(LocalFault, match="RUNNING does not lead to INIT_SENT"):
        rig.request(ask(Opcode.INIT, init_in()))


def test_an_init_too_short_to_read_reaches_nobody_and_is_told() -> None:
    rig = Rig()
    assert rig.request(ask(Opcode.INIT, b"\7\0\0\0")) is None
    (event,) = rig.events
    assert isinstance(event, Negotiated)
    assert "init_in has 4 bytes" in event.notes[0]


# -- in flight ---------------------------------------------------------------------------------------------------------


def test_a_plain_request_passes_untouched_and_is_in_flight() -> None:
    rig = Rig()
    request = ask(Opcode.GETATTR, bytes(16), unique=8)
    assert rig.request(request) == request
    assert list(rig.engine.inflight) == [8]


def test_plain_requests_cost_no_call_into_the_engine() -> None:
    hooked = {at for at, hook in enumerate(Rig().engine.on_request) if hook is not None}
    assert hooked == {Opcode.INIT, Opcode.INTERRUPT, *UNANSWERED}


def test_only_the_reply_to_init_is_looked_into() -> None:
    assert [at for at, hook in enumerate(Rig().engine.on_reply) if hook is not None] == [Opcode.INIT]


def test_an_answered_request_is_no_longer_in_flight() -> None:
    rig = Rig()
    rig.exchange(ask(Opcode.GETATTR, bytes(16)), answer(bytes(104)))
    assert rig.engine.inflight == {}


@pytest.mark.parametrize("opcode", UNANSWERED)
def test_a_request_that_owes_no_reply_passes_and_is_not_in_flight(opcode: Opcode) -> None:
    rig = Rig()
    request = ask(opcode, bytes(40))
    assert rig.request(request) == request
    assert rig.engine.inflight == {}


@pytest.mark.parametrize("opcode", UNANSWERED)
def test_an_answer_to_a_request_that_owes_none_is_a_fault(opcode: Opcode) -> None:
    rig = Rig()
    assert rig.exchange(ask(opcode, bytes(40)), answer()) is None
    assert rig.fault()[1:3] == (2, "unique")


# -- good replies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BODIES)
def test_a_reply_of_the_right_size_passes_byte_for_byte(name: str) -> None:
    rig = Rig()
    packet = answer(b"\x5a" * BODIES[name])
    assert rig.exchange(ask(Opcode[name], bytes(64)), packet) == packet
    assert rig.events == []


@pytest.mark.parametrize(("name", "change"), [*product(BODIES, [1]), *((n, -1) for n, size in BODIES.items() if size)])
def test_a_reply_a_byte_too_long_or_too_short_is_answered_eio(name: str, change: int) -> None:
    rig = Rig()
    assert rig.exchange(ask(Opcode[name], bytes(64)), answer(bytes(BODIES[name] + change))) == eio()
    assert rig.fault()[:3] == (Opcode[name], 2, "len")


@pytest.mark.parametrize(
    ("opcode", "minor", "size"),
    [
        (Opcode.LOOKUP, 8, 120), (Opcode.LOOKUP, 9, 128), (Opcode.GETATTR, 8, 96), (Opcode.GETATTR, 9, 104),
        (Opcode.STATFS, 3, 48), (Opcode.STATFS, 4, 80), (Opcode.CREATE, 8, 136), (Opcode.CREATE, 9, 144),
        (Opcode.TMPFILE, 8, 144), (Opcode.SETATTR, 1, 96), (Opcode.MKDIR, 1, 120),
    ],
)  # fmt: skip
def test_sizes_follow_the_minor_that_init_settled(opcode: Opcode, minor: int, size: int) -> None:
    rig = Rig()
    rig.start(minor)
    packet = answer(bytes(size))
    assert rig.exchange(ask(opcode, bytes(64)), packet) == packet
    assert rig.exchange(ask(opcode, bytes(64)), answer(bytes(size + 8))) == eio()


@pytest.mark.parametrize("opcode", [Opcode.READ, Opcode.READDIR, Opcode.READDIRPLUS])
@pytest.mark.parametrize("size", [0, 1, 4095, 4096])
def test_a_read_is_answered_with_any_length_up_to_what_was_asked(opcode: Opcode, size: int) -> None:
    packet = answer(b"r" * size)
    assert Rig().exchange(ask(opcode, read_in(4096)), packet) == packet


@pytest.mark.parametrize(
    ("request_frame", "size"),
    [
        (ask(Opcode.GETXATTR, getxattr_in(100) + b"user.a\0"), 100),
        (ask(Opcode.GETXATTR, getxattr_in(100) + b"user.a\0"), 0),
        (ask(Opcode.GETXATTR, getxattr_in(0) + b"user.a\0"), 8),
        (ask(Opcode.LISTXATTR, getxattr_in(64)), 64),
        (ask(Opcode.LISTXATTR, getxattr_in(0)), 8),
        (ask(Opcode.READLINK), 4096),
        (ask(Opcode.IOCTL, bytes(32)), 16 + 300),
        *((ask(number, b"who knows"), 33) for number in UNKNOWN),
    ],
)
def test_a_reply_of_variable_length_passes_byte_for_byte(request_frame: bytes, size: int) -> None:
    rig = Rig()
    packet = answer(b"\xa5" * size)
    assert rig.request(request_frame) == request_frame
    assert rig.reply(packet) == packet
    assert rig.events == []


@pytest.mark.parametrize("code", [1, 2, 38, 133, 511])
def test_every_errno_that_linux_takes_passes_and_is_counted(code: int) -> None:
    rig = Rig()
    packet = answer(error=-code)
    assert rig.exchange(ask(Opcode.LOOKUP, b"a\0"), packet) == packet
    assert rig.engine.counters.errors[Opcode.LOOKUP] == 1
    assert rig.events == []


# -- interrupts and resends --------------------------------------------------------------------------------------------


def interrupt(target: int) -> bytes:
    return ask(Opcode.INTERRUPT, struct.pack("=Q", target), unique=target | 1, nodeid=0)


def test_an_interrupt_passes_while_its_target_is_in_flight() -> None:
    rig = Rig()
    rig.request(ask(Opcode.READ, read_in(1), unique=6))
    assert rig.request(interrupt(6)) == interrupt(6)


def test_an_interrupt_whose_target_was_answered_is_dropped() -> None:
    rig = Rig()
    rig.exchange(ask(Opcode.READ, read_in(1), unique=6), answer(unique=6))
    assert rig.request(interrupt(6)) is None


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENOSYS])
def test_what_a_filesystem_may_say_to_an_interrupt_passes(code: int) -> None:
    rig = Rig()
    rig.request(ask(Opcode.READ, read_in(1), unique=6))
    rig.request(interrupt(6))
    packet = answer(error=-code, unique=7)
    assert rig.reply(packet) == packet
    assert list(rig.engine.inflight) == [6]


@pytest.mark.parametrize("packet", [answer(unique=7), answer(error=-errno.EINTR, unique=7), answer(b"x", unique=7)])
def test_any_other_answer_to_an_interrupt_is_a_fault(packet: bytes) -> None:
    rig = Rig()
    rig.request(ask(Opcode.READ, read_in(1), unique=6))
    rig.request(interrupt(6))
    assert rig.reply(packet) is None
    assert rig.fault()[1:3] == (7, "unique")


def test_an_interrupts_answer_after_its_target_was_answered_is_dropped_silently() -> None:
    rig = Rig()
    rig.request(ask(Opcode.READ, read_in(1), unique=6))
    rig.request(interrupt(6))
    rig.reply(answer(unique=6))
    assert rig.reply(answer(error=-errno.EAGAIN, unique=7)) is None
    assert rig.events == []


def test_a_request_sent_again_is_answered_under_its_unique_with_the_resend_bit() -> None:
    rig = Rig()
    rig.reply(answer(error=7, unique=0))
    packet = answer(bytes(104), unique=6 | RESEND)
    assert rig.exchange(ask(Opcode.GETATTR, bytes(16), unique=6 | RESEND), packet) == packet


def test_a_request_sent_again_is_owed_once() -> None:
    rig = Rig()
    rig.request(ask(Opcode.GETATTR, bytes(16), unique=6))
    rig.reply(answer(error=7, unique=0))
    rig.request(ask(Opcode.GETATTR, bytes(16), unique=6 | RESEND))
    assert list(rig.engine.inflight) == [6 | RESEND]


def test_an_answer_under_the_unique_from_before_a_resend_is_late_and_no_fault() -> None:
    rig = Rig()
    rig.request(ask(Opcode.GETATTR, bytes(16), unique=6))
    rig.reply(answer(error=7, unique=0))
    rig.request(ask(Opcode.GETATTR, bytes(16), unique=6 | RESEND))
    assert rig.reply(answer(bytes(104), unique=6)) is None
    assert rig.events == []
    assert rig.engine.counters.late == 1


# -- notifications -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "size"), [*NOTIFICATIONS.items(), (3, 16 + 5), (4, 24 + 4096), (9, 16 + 24)])
def test_a_notification_passes_byte_for_byte(code: int, size: int) -> None:
    rig = Rig()
    packet = answer(b"\x11" * size, error=code, unique=0)
    assert rig.reply(packet) == packet
    assert rig.events == []
    assert rig.engine.counters.notifications == 1


@pytest.mark.parametrize("code", [code for code, size in NOTIFICATIONS.items() if size])
def test_a_notification_without_its_whole_fixed_part_is_counted_and_dropped(code: int) -> None:
    rig = Rig()
    assert rig.reply(answer(bytes(NOTIFICATIONS[code] - 1), error=code, unique=0)) is None
    assert rig.engine.counters.bad_notifications == 1
    assert rig.fault()[:3] == (0, 0, "len")


@pytest.mark.parametrize("code", [0, 10, 99, -3])
def test_a_notification_nobody_knows_is_the_kernels_to_judge(code: int) -> None:
    rig = Rig()
    packet = answer(b"xyz", error=code, unique=0)
    assert rig.reply(packet) == packet


def test_a_notification_whose_length_lies_is_dropped() -> None:
    rig = Rig()
    assert rig.reply(answer(bytes(8), error=1, unique=0, length=25)) is None
    assert isinstance(rig.events[0], PeerFault)


def test_an_observer_that_fails_is_taken_off_and_the_request_goes_on() -> None:
    class Broken:
        opcodes = None

        def request(self, head: Head, frame: Buffer) -> None:
            raise RuntimeError("a bug")

        def reply(self, head: Head, error: int, frame: Buffer) -> None: ...

        def notice(self, frame: Buffer) -> None: ...

    rig = Rig()
    rig.engine.observe([Broken()])
    assert rig.request(ask(Opcode.LOOKUP, b"x\0")) is not None
    assert rig.engine.observers == ()
    assert rig.events == [ObserverFault("Broken", "RuntimeError('a bug')")]
