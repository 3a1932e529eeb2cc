"""Replies that break the protocol: the caller gets EIO, the log gets opcode, unique and field, nothing ever raises."""

import errno
import struct

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from perfused.states import SLOTS, PeerFault, slot
from tests.unit.engine_support import ALL_ONES, ANSWER, DEVICE, RESEND, Rig, answer, ask, eio, getxattr_in, read_in
from tests.unit.wire_strategies import THOROUGH
from wire.opcodes import OPCODES, Opcode, ReplyRule

LOOKUP, READ = ask(Opcode.LOOKUP, b"name\0"), ask(Opcode.READ, read_in(512))

#: What is wrong: the request, the packet, the field that is named.
FAULTS = {
    "len larger than the packet": (LOOKUP, answer(bytes(128), length=145), "len"),
    "len smaller than the packet": (LOOKUP, answer(bytes(128), length=143), "len"),
    "len 0": (LOOKUP, answer(bytes(128), length=0), "len"),
    "len 4 GiB": (LOOKUP, answer(bytes(128), length=2**32 - 1), "len"),
    "positive errno": (LOOKUP, answer(error=2), "error"),
    "errno -512": (LOOKUP, answer(error=-512), "error"),
    "the most negative errno": (LOOKUP, answer(error=-(2**31)), "error"),
    "error with payload": (LOOKUP, answer(bytes(128), error=-errno.ENOENT), "len"),
    "error with one byte": (READ, answer(b"x", error=-errno.EIO), "len"),
    "entry_out of 120 bytes": (LOOKUP, answer(bytes(120)), "len"),
    "entry_out of 136 bytes": (LOOKUP, answer(bytes(136)), "len"),
    "no entry_out at all": (LOOKUP, answer(), "len"),
    "READ longer than asked": (READ, answer(bytes(513)), "len"),
    "READDIR longer than asked": (ask(Opcode.READDIR, read_in(64)), answer(bytes(72)), "len"),
    "READDIRPLUS longer than asked": (ask(Opcode.READDIRPLUS, read_in(64)), answer(bytes(65)), "len"),
    "GETXATTR longer than asked": (ask(Opcode.GETXATTR, getxattr_in(9) + b"a\0"), answer(bytes(10)), "len"),
    "LISTXATTR longer than asked": (ask(Opcode.LISTXATTR, getxattr_in(9)), answer(bytes(10)), "len"),
    "a value where its size was asked": (ask(Opcode.GETXATTR, getxattr_in(0) + b"a\0"), answer(bytes(9)), "len"),
    "a list where its size was asked": (ask(Opcode.LISTXATTR, getxattr_in(0)), answer(bytes(16)), "len"),
    "READLINK longer than a page": (ask(Opcode.READLINK), answer(bytes(4097)), "len"),
    "WRITE answered with the data": (ask(Opcode.WRITE, bytes(60)), answer(bytes(20)), "len"),
    "an unknown opcode with a positive errno": (ask(77), answer(error=5), "error"),
}


@pytest.mark.parametrize(("request_frame", "packet", "field"), FAULTS.values(), ids=FAULTS)
def test_the_caller_gets_eio(request_frame: bytes, packet: bytes, field: str) -> None:
    assert Rig().exchange(request_frame, packet) == eio()


@pytest.mark.parametrize(("request_frame", "packet", "field"), FAULTS.values(), ids=FAULTS)
def test_the_fault_names_opcode_unique_and_field(request_frame: bytes, packet: bytes, field: str) -> None:
    rig = Rig()
    rig.exchange(request_frame, packet)
    opcode = struct.unpack_from("=I", request_frame, 4)[0]
    assert rig.fault()._replace(detail="") == PeerFault(opcode, 2, field, "", True)


@pytest.mark.parametrize(("request_frame", "packet", "field"), FAULTS.values(), ids=FAULTS)
def test_the_fault_is_counted_once_and_is_no_error_of_the_filesystem(
    request_frame: bytes, packet: bytes, field: str
) -> None:
    rig = Rig()
    rig.exchange(request_frame, packet)
    assert rig.engine.counters.bad_replies == 1
    assert sum(rig.engine.counters.errors) == 0


@pytest.mark.parametrize(("request_frame", "packet", "field"), FAULTS.values(), ids=FAULTS)
def test_the_request_is_answered_and_no_longer_in_flight(request_frame: bytes, packet: bytes, field: str) -> None:
    rig = Rig()
    rig.exchange(request_frame, packet)
    assert rig.engine.inflight == {}


def test_the_detail_says_what_was_there_and_what_should_have_been() -> None:
    rig = Rig()
    rig.exchange(LOOKUP, answer(bytes(120)))
    assert rig.fault().detail == "the reply has 120 bytes after its header, it must have 128"


def test_a_packet_larger_than_the_device_is_answered_eio() -> None:
    rig = Rig()
    rig.request(ask(Opcode.READ, read_in(2 * DEVICE)))
    received = answer(bytes(DEVICE - 16), length=DEVICE + 1)
    assert rig.reply(received, size=DEVICE + 1) == eio()
    assert rig.fault().detail == f"the packet has more than the {DEVICE} bytes that this device carries"


@pytest.mark.parametrize("size", range(16))
def test_a_packet_shorter_than_a_header_is_dropped_and_counted(size: int) -> None:
    rig = Rig()
    rig.request(LOOKUP)
    assert rig.reply(answer()[:size]) is None
    assert rig.fault()[:3] == (0, 0, "len")
    assert rig.engine.counters.bad_replies == 1
    assert list(rig.engine.inflight) == [2]


@pytest.mark.parametrize("unique", [1, 3, 4, 2 | RESEND, ALL_ONES - 1])
def test_an_unknown_unique_is_dropped_and_counted(unique: int) -> None:
    rig = Rig()
    rig.request(LOOKUP)
    assert rig.reply(answer(bytes(128), unique=unique)) is None
    fault = rig.fault()
    assert (fault.unique, fault.field, fault.answered) == (unique, "unique", False)
    assert list(rig.engine.inflight) == [2]


def test_a_second_reply_to_one_request_is_dropped_and_counted() -> None:
    rig = Rig()
    rig.exchange(LOOKUP, answer(bytes(128)))
    assert rig.reply(answer(bytes(128))) is None
    assert rig.fault()[1:3] == (2, "unique")
    assert rig.engine.counters.bad_replies == 1


def test_a_good_reply_after_a_bad_one_is_dropped() -> None:
    rig = Rig()
    rig.exchange(LOOKUP, answer(bytes(120)))
    assert rig.reply(answer(bytes(128))) is None


def test_a_control_frame_on_a_mounted_device_is_dropped_and_called_that() -> None:
    rig = Rig()
    assert rig.reply(answer(b"perfuse2" + bytes(8), unique=ALL_ONES)) is None
    assert rig.fault()[2:4] == ("unique", "a control frame on a device that is mounted")


# -- what the kernel, or the socket, refuses ---------------------------------------------------------------------------


def refused(rig: Rig, packet: bytes, code: int, request: bytes = LOOKUP) -> bytes | None:
    """What is written instead of an answer to `request` that the kernel refused with `code`."""
    rig.request(request)
    return rig.engine.rejected(rig.engine.inflight.pop(2), memoryview(packet), len(packet), code)


def test_a_reply_the_kernel_cannot_take_is_answered_eio_instead() -> None:
    rig = Rig()
    assert refused(rig, answer(bytes(128)), errno.EINVAL) == eio()
    assert rig.fault()[1:3] == (2, "payload")
    assert rig.engine.counters.bad_replies == 1


def test_what_is_wrong_with_a_reply_the_kernel_refused_is_named() -> None:
    rig = Rig()
    assert refused(rig, answer(bytes(120)), errno.EINVAL) == eio()
    assert rig.fault().detail == "the reply has 120 bytes after its header, it must have 128"


def test_a_reply_the_kernel_no_longer_wants_is_counted_alone() -> None:
    rig = Rig()
    assert refused(rig, answer(bytes(128)), errno.ENOENT) is None
    assert rig.engine.counters.gone == 1
    assert rig.events == []


@pytest.mark.parametrize(("code", "bad"), [(errno.EINVAL, 1), (errno.ENOENT, 0)])
def test_a_notification_the_kernel_refuses_is_answered_by_nothing(code: int, bad: int) -> None:
    rig = Rig()
    notification = memoryview(answer(bytes(24), error=2, unique=0))
    assert rig.engine.rejected(None, notification, len(notification), code) is None
    assert rig.engine.counters.bad_notifications == bad


def test_a_request_that_does_not_fit_the_socket_is_answered_eio() -> None:
    rig = Rig()
    rig.request(LOOKUP)
    assert rig.engine.unsendable(rig.engine.inflight[2], 48, "does not fit the device") == eio()
    assert rig.fault()[:3] == (Opcode.LOOKUP, 2, "len")
    assert rig.engine.inflight == {}


def test_a_request_that_does_not_fit_and_owes_no_reply_is_answered_by_nothing() -> None:
    rig = Rig()
    assert rig.engine.unsendable((Opcode.FORGET, 2, 1, 0, 0, 1, 0), 48, "") is None
    assert rig.events == []


# -- whatever the bytes ------------------------------------------------------------------------------------------------

OWED = st.sampled_from([row.number for row in OPCODES if row.reply_rule is ReplyRule.ALWAYS] + [77, 2016])
ERRORS = st.one_of(st.just(0), st.integers(-600, 20), st.integers(-(2**31), 2**31 - 1))
LENGTHS = st.one_of(st.none(), st.integers(0, 300), st.integers(0, 2**32 - 1))


@st.composite
def packets(draw: st.DrawFn) -> bytes:
    """Random bytes, or random bytes behind a header that names a request in flight, a notification or nobody."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=200))
    body = bytes(draw(st.one_of(st.sampled_from([0, 8, 16, 24, 80, 96, 104, 120, 128, 144]), st.integers(0, 300))))
    unique = draw(st.sampled_from([0, 2, 3, 4, 6, 8, 9, 1 << 63, ALL_ONES]))
    return answer(body, draw(ERRORS), unique, draw(LENGTHS))


@THOROUGH
@given(st.lists(OWED, min_size=1, max_size=4), st.lists(packets(), max_size=12), st.binary(min_size=20, max_size=40))
def test_no_packet_raises_and_each_that_names_a_request_answers_it_once(
    opcodes: list[int], sent: list[bytes], body: bytes
) -> None:
    rig = Rig()
    rig.start()
    for number, opcode in enumerate(op for op in opcodes if op != Opcode.INIT):
        rig.request(ask(opcode, body, unique=2 * number + 2))
    for packet in sent:
        owed = set(rig.engine.inflight)
        told = rig.reply(packet)
        answered = owed - set(rig.engine.inflight)
        if told is None:
            assert not answered
            continue
        length, error, unique = ANSWER.unpack_from(told)
        assert length == len(told)
        assert answered == ({unique} if unique in owed else set())
        assert unique == 0 or unique & 1 or answered
        assert unique == 0 or -511 <= error <= 0


@THOROUGH
@given(st.lists(packets(), max_size=8))
def test_no_packet_raises_while_init_is_with_the_filesystem(sent: list[bytes]) -> None:
    rig = Rig()
    rig.request(ask(Opcode.INIT, struct.pack("=IIII48x", 7, 45, 0, 0)))
    for packet in sent:
        rig.reply(packet)
    assert len(rig.engine.inflight) <= 1


# -- replies judged before the kernel sees them, and after -----------------------------------------------------------


@THOROUGH
@given(
    opcode=st.one_of(OWED, st.integers(0, 200)),
    minor=st.sampled_from([1, 4, 8, 9, 12, 23, 45]),
    body=st.one_of(st.sampled_from([0, 8, 16, 24, 48, 80, 96, 104, 120, 128, 136, 144, 288]), st.integers(0, 600)),
    asked=st.integers(0, 600),
    error=st.one_of(st.just(0), st.integers(-600, 20)),
    lie=st.one_of(st.just(0), st.integers(-3, 3)),
    cut=st.one_of(st.just(0), st.integers(0, 8)),
)
def test_a_fault_has_one_name_whether_the_engine_finds_it_or_the_kernel_does(
    opcode: int, minor: int, body: int, asked: int, error: int, lie: int, cut: int
) -> None:
    """Replies pass through the engine where they are watched; else it sees those alone that the kernel refused."""
    watched, plain = Rig(minor=minor), Rig(minor=minor)
    head = (opcode, 2, 0, 0, 0, asked, asked)
    size = 16 + body
    frame = memoryview(answer(bytes(body), error, length=max(size + lie, 0)))
    frame = frame[: size - cut if size - cut >= 16 else size]
    passed = watched.engine.reply(head, max(size + lie, 0), error, 2, frame, size)
    assume(passed is not frame)
    assert plain.engine.rejected(head, frame, size, errno.EINVAL) == passed
    assert plain.events == watched.events
    assert plain.engine.counters.bad_replies == watched.engine.counters.bad_replies == 1


def test_every_opcode_past_the_table_shares_its_last_entry() -> None:
    assert {slot(opcode) for opcode in (SLOTS - 1, SLOTS, 4096, 2**32 - 1)} == {SLOTS - 1}
