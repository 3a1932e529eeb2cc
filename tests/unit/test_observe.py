"""What can be wound around a connection: histograms, the ring of SIGUSR1, live streams, debug lines."""

import io
import logging
import re
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfused import log, observe
from perfused.observe import (
    DEBUG_OPCODES,
    FOLD,
    RING,
    STREAM_KEPT,
    DebugLines,
    Latency,
    OpcodeTimes,
    Ring,
    Stream,
    bucket,
    bucket_top,
)
from perfused.states import HEAD, SLOTS, Head
from tests.unit.engine_support import answer, ask, read_in
from tests.unit.wire_strategies import QUICK, THOROUGH
from wire import control
from wire.control import TRACE_KEEP, TRACE_NOTICE, TRACE_REPLY, TRACE_REQUEST, Trace, TraceRecord
from wire.opcodes import OPCODES, Opcode, ReplyRule

LOOKUP = ask(Opcode.LOOKUP, b"file\0", unique=2)
ENTRY = answer(struct.pack("=Q120x", 5))
TIMES = st.integers(0, 10**13)


def head_of(frame: bytes) -> Head:
    return HEAD.unpack_from(frame.ljust(HEAD.size, b"\0"))


# -- histograms --------------------------------------------------------------------------------------------------------


@THOROUGH
@given(TIMES)
def test_a_time_lies_in_its_bucket(elapsed: int) -> None:
    at = bucket(elapsed)
    assert elapsed <= bucket_top(at)
    assert at == 0 or bucket_top(at - 1) < elapsed


@THOROUGH
@given(TIMES)
def test_a_bucket_is_no_wider_than_an_eighth_of_what_is_in_it(elapsed: int) -> None:
    at = bucket(elapsed)
    below = bucket_top(at - 1) if at else -1
    assert bucket_top(at) - below <= max(elapsed / 8, 1)


@THOROUGH
@given(TIMES, TIMES)
def test_a_longer_time_never_lies_in_an_earlier_bucket(one: int, other: int) -> None:
    assert bucket(min(one, other)) <= bucket(max(one, other))


def test_a_clock_that_went_back_counts_as_no_time() -> None:
    assert bucket(-5) == 0


def timed(elapsed: list[int]) -> OpcodeTimes:
    times = OpcodeTimes()
    for each in elapsed:
        times.add(each)
    return times


@QUICK
@given(st.lists(TIMES, min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_true_within_an_eighth(elapsed: list[int], part: float) -> None:
    found = timed(elapsed).quantile(part)
    truth = sorted(elapsed)[max(-(-len(elapsed) * round(part * 100) // 100) - 1, 0)]
    assert truth <= found <= truth + truth // 8 + 1


@QUICK
@given(st.lists(TIMES, min_size=1, max_size=50))
def test_no_quantile_is_longer_than_the_longest(elapsed: list[int]) -> None:
    assert timed(elapsed).quantile(1.0) == max(elapsed)


def test_times_that_are_many_are_counted_as_those_that_are_few() -> None:
    times = timed([*range(1, FOLD + 100)])
    assert len(times.fresh) < FOLD
    assert times.summary()["count"] == FOLD + 99
    assert sum(times.histogram.values()) == FOLD + 99
    assert (times.shortest, times.longest, times.total) == (1, FOLD + 99, sum(range(1, FOLD + 100)))


def test_a_summary_is_in_microseconds() -> None:
    assert timed([1000, 2000, 6000]).summary() == {
        "count": 3, "min_us": 1.0, "avg_us": 3.0, "max_us": 6.0, "p99_us": 6.0,
    }  # fmt: skip


# -- latencies ---------------------------------------------------------------------------------------------------------


def test_a_request_and_its_answer_are_one_time_of_its_opcode() -> None:
    latency = Latency()
    latency.request(head_of(LOOKUP), LOOKUP)
    latency.reply(head_of(LOOKUP), 0, ENTRY)
    assert {name: row["count"] for name, row in latency.summary().items()} == {"LOOKUP": 1}
    assert latency.started == {}


def test_an_answer_to_what_was_never_seen_takes_no_time() -> None:
    latency = Latency()
    latency.reply(head_of(LOOKUP), 0, ENTRY)
    assert latency.summary() == {}


@pytest.mark.parametrize("opcode", [row.number for row in OPCODES if row.reply_rule is not ReplyRule.ALWAYS])
def test_a_request_that_may_stay_unanswered_is_not_waited_for(opcode: int) -> None:
    latency = Latency()
    frame = ask(opcode, bytes(16))
    latency.request(head_of(frame), frame)
    assert latency.started == {}


# -- the ring ----------------------------------------------------------------------------------------------------------


def lines(ring: Ring) -> list[str]:
    """The lines of the ring's operations."""
    out = io.StringIO()
    ring.write(out, "/mnt/x")
    return [line for line in out.getvalue().split("\n\n")[0].splitlines() if not line.startswith("#")]


def looked_up(ring: Ring, frame: bytes = LOOKUP, error: int = 0, reply: bytes = ENTRY) -> None:
    ring.request(head_of(frame), frame)
    ring.reply(head_of(frame), error, reply)


STAMP = r"\d\d:\d\d:\d\d\.\d{6}"


def test_an_operation_is_a_line_of_time_opcode_path_name_uid_pid_error_and_elapsed() -> None:
    ring = Ring(45)
    looked_up(ring)
    (line,) = lines(ring)
    assert re.fullmatch(rf"{STAMP} LOOKUP / file 1000 77 ok \d+\.\dus", line)


def test_an_operation_that_failed_has_the_errnos_name() -> None:
    ring = Ring(45)
    looked_up(ring, error=-2, reply=answer(error=-2))
    (line,) = lines(ring)
    assert re.fullmatch(rf"{STAMP} LOOKUP / file 1000 77 ENOENT \d+\.\dus", line)


def test_an_errno_nobody_knows_is_a_number() -> None:
    ring = Ring(45)
    looked_up(ring, error=-511, reply=answer(error=-511))
    assert " -511 " in lines(ring)[0]


def test_an_operation_in_flight_is_ongoing() -> None:
    ring = Ring(45)
    ring.request(head_of(LOOKUP), LOOKUP)
    assert lines(ring)[0].endswith(" LOOKUP / file 1000 77 - ongoing")


def test_an_operation_that_owes_no_answer_is_done() -> None:
    ring = Ring(45)
    forget = ask(Opcode.FORGET, bytes(8))
    ring.request(head_of(forget), forget)
    assert lines(ring)[0].endswith(" FORGET / - 1000 77 ok 0.0us")
    assert ring.open == {}


def test_a_path_learnt_from_a_reply_is_in_later_lines() -> None:
    ring = Ring(45)
    looked_up(ring)
    read = ask(Opcode.READ, read_in(10), unique=4, nodeid=5)
    looked_up(ring, read, reply=answer(b"x" * 10, unique=4))
    assert " READ /file - " in lines(ring)[1]


def test_a_name_cannot_forge_a_line() -> None:
    ring = Ring(45)
    looked_up(ring, ask(Opcode.LOOKUP, b"a\n00:00:00.000000 UNLINK / b\x1b[2J 0 1 ok\0"))
    (line,) = lines(ring)
    assert " / a\\x0a00:00:00.000000 UNLINK / b\\x1b[2J 0 1 ok " in line


def test_the_oldest_operation_goes_first() -> None:
    ring = Ring(45)
    for number in range(RING + 5):
        looked_up(ring, ask(Opcode.LOOKUP, b"n%d\0" % number, unique=2 * number + 2))
    found = lines(ring)
    assert len(found) == RING
    assert found[0].split()[3] == "n5"
    assert found[-1].split()[3] == f"n{RING + 4}"


def test_the_text_has_title_table_and_totals() -> None:
    ring = Ring(45)
    looked_up(ring)
    ring.request(head_of(ask(Opcode.READ, read_in(1), unique=4)), ask(Opcode.READ, read_in(1), unique=4))
    out = io.StringIO()
    ring.write(out, "/mnt/x (fuse.x)")
    text = out.getvalue().splitlines()
    assert text[:2] == ["# /mnt/x (fuse.x)", "# 2 operations, newest last; at most 4096 are kept"]
    assert text[-1] == "nodes seen: 1   requests in flight: 1"
    assert any(re.fullmatch(r"LOOKUP +1( +\d+\.\d){4}", line) for line in text)


# -- live streams ------------------------------------------------------------------------------------------------------


def drained(stream: Stream, most: int) -> list[TraceRecord]:
    """What `drain` gives, as its reader sees it."""
    trace = control.parse(control.build_trace(0, stream.drain(most)))
    assert isinstance(trace, Trace)
    return trace.records


def test_a_stream_keeps_the_first_bytes_and_the_true_length() -> None:
    stream = Stream(None)
    link = ask(Opcode.SYMLINK, bytes(5000))
    stream.request(head_of(link), link)
    (record,) = drained(stream, 10)
    assert (record.direction, record.opcode, record.length) == (TRACE_REQUEST, Opcode.SYMLINK, 5040)
    assert record.kept == link[:TRACE_KEEP]


def test_a_stream_keeps_no_file_data_of_a_read() -> None:
    stream = Stream(None)
    packet = answer(b"secret")
    stream.reply(head_of(ask(Opcode.READ, read_in(9))), 0, packet)
    (record,) = drained(stream, 10)
    assert (record.direction, record.length, record.kept) == (TRACE_REPLY, 22, packet[:16])


def test_a_stream_keeps_notifications() -> None:
    stream = Stream(frozenset({Opcode.LOOKUP}))
    packet = answer(bytes(24), error=2, unique=0)
    stream.notice(packet)
    (record,) = drained(stream, 10)
    assert (record.direction, record.opcode, record.kept) == (TRACE_NOTICE, 0, packet)


def test_a_stream_is_drained_oldest_first_and_no_more_than_asked() -> None:
    stream = Stream(None)
    for opcode in (1, 3, 15):
        stream.request(head_of(ask(opcode)), ask(opcode))
    assert [record.opcode for record in drained(stream, 2)] == [1, 3]
    assert [record.opcode for record in drained(stream, 2)] == [15]
    assert drained(stream, 2) == []


def test_a_slow_reader_loses_the_oldest_and_can_tell_how_many() -> None:
    stream = Stream(None)
    for number in range(STREAM_KEPT + 7):
        stream.request(head_of(ask(1, unique=number)), ask(1, unique=number))
    assert stream.taken - len(stream.records) == 7
    assert struct.unpack_from("=Q", drained(stream, 1)[0].kept, 8) == (7,)


def test_what_a_stream_keeps_does_not_change_with_the_relays_buffer() -> None:
    stream = Stream(None)
    buffer = bytearray(LOOKUP)
    stream.request(head_of(LOOKUP), memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    assert drained(stream, 1)[0].kept == LOOKUP


# -- debug lines -------------------------------------------------------------------------------------------------------


@pytest.fixture
def logger() -> Iterator[tuple[logging.Logger, list[str]]]:
    """A logger at debug level, and its lines."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    made = logging.getLogger("perfused.test_observe")
    made.addHandler(handler)
    made.propagate = False
    made.setLevel(logging.DEBUG)
    yield made, said
    made.removeHandler(handler)


def test_every_debug_class_of_frames_is_a_debug_class() -> None:
    assert set(DEBUG_OPCODES) <= set(log.CLASSES)


@pytest.mark.parametrize("name", sorted(log.CLASSES))
def test_only_classes_of_frames_are_wound_around_a_connection(name: str) -> None:
    assert DebugLines.wanted(frozenset({name})) is (name in DEBUG_OPCODES or name in ("fuse", "dump"))


def test_a_class_shows_its_opcodes_alone(logger: tuple[logging.Logger, list[str]]) -> None:
    assert DebugLines(frozenset({"reclaim"}), logger[0], 45).opcodes == {Opcode.FORGET, Opcode.BATCH_FORGET}


@pytest.mark.parametrize("name", ["fuse", "dump"])
def test_fuse_and_dump_show_every_opcode(logger: tuple[logging.Logger, list[str]], name: str) -> None:
    assert DebugLines(frozenset({name, "sync"}), logger[0], 45).opcodes is None


def test_a_request_and_its_reply_are_a_line_each(logger: tuple[logging.Logger, list[str]]) -> None:
    lines = DebugLines(frozenset({"fuse"}), logger[0], 45)
    lines.request(head_of(LOOKUP), LOOKUP)
    lines.reply(head_of(LOOKUP), 0, ENTRY)
    assert len(logger[1]) == 2
    assert "LOOKUP" in logger[1][0]
    assert "file" in logger[1][0]


def test_a_dump_shows_16_bytes_a_line(logger: tuple[logging.Logger, list[str]]) -> None:
    DebugLines(frozenset({"dump"}), logger[0], 45).request(head_of(LOOKUP), LOOKUP)
    assert logger[1][1] == "  0000  " + LOOKUP[:16].hex(" ")
    assert len(logger[1]) == 1 + 3


@pytest.mark.parametrize(("name", "count"), [("misc", 1), ("fuse", 1), ("sync", 0)])
def test_notifications_are_fuse_or_misc(logger: tuple[logging.Logger, list[str]], name: str, count: int) -> None:
    DebugLines(frozenset({name}), logger[0], 45).notice(answer(bytes(24), error=2, unique=0))
    assert len(logger[1]) == count


def test_muted_lines_are_not_made(logger: tuple[logging.Logger, list[str]]) -> None:
    logger[0].setLevel(logging.INFO)
    DebugLines(frozenset({"dump"}), logger[0], 45).request(head_of(LOOKUP), LOOKUP)
    assert logger[1] == []


@QUICK
@given(st.binary(max_size=100))
def test_no_frame_raises_in_a_debug_line(frame: bytes) -> None:
    made = logging.getLogger("perfused.test_observe.whatever")
    made.propagate = False
    made.setLevel(logging.DEBUG)
    made.addHandler(logging.NullHandler())
    lines = DebugLines(frozenset({"dump", "misc"}), made, 45)
    lines.request(head_of(LOOKUP), frame)
    lines.reply(head_of(LOOKUP), 0, frame)
    lines.notice(frame)


# -- counters ----------------------------------------------------------------------------------------------------------


def test_counts_are_named_and_zeros_left_out() -> None:
    counts = [0] * SLOTS
    counts[Opcode.READ], counts[77], counts[SLOTS - 1] = 3, 2, 1
    assert observe.frequent(counts) == {"READ": 3, "opcode 77": 2, "other": 1}
