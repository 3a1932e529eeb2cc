"""INIT as pure functions: what each side is shown, and what was agreed on."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfused import negotiate
from perfused.config import Config, Init
from perfused.negotiate import DEFAULT_MAX_PAGES, PAGE, Offer
from tests.unit.engine_support import answer, ask, init_out
from tests.unit.wire_strategies import QUICK
from wire.errors import WireError
from wire.flags import INIT_POLICY, InitFlag, Verdict
from wire.opcodes import Opcode

FRAME = 256 * PAGE + PAGE
EVERYTHING = (1 << 43) - 1
HIGH = InitFlag.HAS_RESEND | InitFlag.SECURITY_CTX


def init_in(size: int, major: int = 7, minor: int = 45, flags: int = 0, flags2: int = 0) -> bytes:
    """The request of an INIT whose body has 8, 16 or 64 bytes."""
    body = struct.pack("=IIIII", major, minor, 131072, flags, flags2).ljust(64, b"\0")[:size]
    return ask(Opcode.INIT, body)


def settled(body: bytes, flags: int = EVERYTHING, max_frame: int = FRAME, minor: int = 45) -> tuple[bytes, list[str]]:
    """The body the kernel sees, and the notes."""
    out, _, notes = negotiate.settle(answer(body), Offer(7, minor, flags, 131072), max_frame)
    return out[16:], notes


def terms(body: bytes, flags: int = EVERYTHING, max_frame: int = FRAME, minor: int = 45) -> negotiate.Terms:
    return negotiate.settle(answer(body), Offer(7, minor, flags, 131072), max_frame)[1]


# -- what the filesystem is offered ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 16, 64])
def test_an_init_with_nothing_to_hide_is_shown_byte_for_byte(size: int) -> None:
    frame = init_in(size, flags=InitFlag.ASYNC_READ)
    shown, _, notes = negotiate.offer(frame, 0, 45)
    assert shown == frame
    assert notes == []


def test_the_offer_has_both_words_of_flags() -> None:
    low = InitFlag.INIT_EXT | InitFlag.ASYNC_READ
    _, offered, _ = negotiate.offer(init_in(64, flags=low, flags2=HIGH >> 32), 0, 45)
    assert offered == Offer(7, 45, low | HIGH, 131072)


def test_the_second_word_counts_only_with_init_ext() -> None:
    _, offered, _ = negotiate.offer(init_in(64, flags=InitFlag.ASYNC_READ, flags2=HIGH >> 32), 0, 45)
    assert offered.flags == InitFlag.ASYNC_READ


def test_a_body_of_16_bytes_has_no_second_word() -> None:
    _, offered, _ = negotiate.offer(init_in(16, flags=InitFlag.INIT_EXT), 0, 45)
    assert offered.flags == InitFlag.INIT_EXT


def test_a_body_of_8_bytes_has_no_flags() -> None:
    _, offered, _ = negotiate.offer(init_in(8, minor=5), 0, 45)
    assert offered == Offer(7, 5, 0, 0)


@pytest.mark.parametrize("flag", [flag for flag in INIT_POLICY if flag is not InitFlag.INIT_EXT], ids=lambda f: f.name)
def test_a_refused_bit_is_masked_and_named(flag: InitFlag) -> None:
    everything = InitFlag(EVERYTHING).words()
    shown, offered, notes = negotiate.offer(init_in(64, flags=everything[0], flags2=everything[1]), flag, 45)
    left = InitFlag(EVERYTHING & ~flag)
    assert struct.unpack_from("=II", shown, 40 + 12) == left.words()
    assert offered.flags == left
    (note,) = notes
    assert note.startswith(f"not offered on this endpoint: {flag.name}: ")


def test_a_masked_bit_comes_with_the_reason_once_for_all_that_share_it() -> None:
    flags = InitFlag.SPLICE_READ | InitFlag.SPLICE_WRITE | InitFlag.OVER_IO_URING | InitFlag.ASYNC_READ
    assert negotiate.reasons(flags) == {
        "a splice into a socket breaks one frame into several packets; a file takes it whole": int(
            InitFlag.SPLICE_READ | InitFlag.SPLICE_WRITE
        ),
        "requests would go to rings that nobody registered on the real descriptor, and hang for ever": int(
            InitFlag.OVER_IO_URING
        ),
        "the configuration refuses it (init.refuse)": int(InitFlag.ASYNC_READ),
    }


def test_a_bit_nobody_knows_yet_is_offered() -> None:
    """A newer kernel's bits pass, whatever else is refused."""
    everything = InitFlag((1 << 64) - 1).words()
    refused = negotiate.refused_bits(Config(init=Init(refuse=["POSIX_LOCKS"])).refused_flags)
    shown, offered, _ = negotiate.offer(init_in(64, flags=everything[0], flags2=everything[1]), refused, 45)
    assert struct.unpack_from("=I", shown, 40 + 16)[0] >> 11 == (1 << 21) - 1
    assert offered.flags >> 43 == (1 << 21) - 1


def test_a_refused_bit_the_kernel_does_not_have_is_not_worth_a_note() -> None:
    assert negotiate.offer(init_in(64, flags=InitFlag.ASYNC_READ), InitFlag.SPLICE_READ, 45)[2] == []


@pytest.mark.parametrize("size", [8, 16, 64])
def test_a_newer_minor_is_lowered_to_the_configured_one(size: int) -> None:
    shown, offered, notes = negotiate.offer(init_in(size), 0, 31)
    assert shown == init_in(size, minor=31)
    assert offered.minor == 31
    assert notes == ["offering minor 31, the kernel's is 45"]


def test_an_older_minor_is_left_alone() -> None:
    shown, offered, notes = negotiate.offer(init_in(64, minor=23), 0, 31)
    assert (shown, offered.minor, notes) == (init_in(64, minor=23), 23, [])


@pytest.mark.parametrize("size", range(8))
def test_an_init_in_of_fewer_than_8_bytes_names_its_field(size: int) -> None:
    with pytest.raises(WireError, match=f"init_in has {size} bytes") as caught:
        negotiate.offer(init_in(8)[: 40 + size], 0, 45)
    assert caught.value.field == "init_in"


def test_a_socket_refuses_what_the_policy_table_does_not_pass() -> None:
    kept = {flag for flag, row in INIT_POLICY.items() if row.socket is Verdict.PASS}
    assert {flag for flag in INIT_POLICY if not negotiate.refused_bits() & flag} == kept


def test_what_the_daemon_helps_with_is_offered_where_it_helps() -> None:
    assert negotiate.refused_bits(0, True) == negotiate.refused_bits() & ~InitFlag.PASSTHROUGH


def test_the_configuration_refuses_what_the_daemon_would_help_with() -> None:
    assert negotiate.refused_bits(InitFlag.PASSTHROUGH, True) & InitFlag.PASSTHROUGH


def test_a_socket_refuses_what_would_hang_it() -> None:
    refused = negotiate.refused_bits()
    for flag in (InitFlag.OVER_IO_URING, InitFlag.PASSTHROUGH, InitFlag.SPLICE_READ, InitFlag.SPLICE_WRITE):
        assert refused & flag


def test_the_configuration_refuses_more() -> None:
    assert negotiate.refused_bits(InitFlag.POSIX_LOCKS) == negotiate.refused_bits() | InitFlag.POSIX_LOCKS


def test_the_bit_that_carries_the_second_word_cannot_be_refused() -> None:
    assert not negotiate.refused_bits(InitFlag.INIT_EXT) & InitFlag.INIT_EXT


# -- what the kernel is told -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 24, 64])
def test_a_modest_answer_is_shown_byte_for_byte(size: int) -> None:
    body = init_out(flags=InitFlag.ASYNC_READ)[:size]
    assert settled(body) == (body, [])


@pytest.mark.parametrize("size", [0, 4, 7, 9, 16, 23, 25, 63, 65, 80])
def test_an_init_out_of_another_size_names_its_field(size: int) -> None:
    with pytest.raises(WireError, match=f"init_out has {size} bytes") as caught:
        settled(init_out().ljust(80, b"\0")[:size])
    assert caught.value.field == "init_out"


@pytest.mark.parametrize("major", [0, 6, 8])
def test_another_major_names_its_field(major: int) -> None:
    with pytest.raises(WireError, match=f"major is {major}: the kernel speaks 7") as caught:
        settled(init_out(major=major))
    assert caught.value.field == "major"


@pytest.mark.parametrize("flag", [InitFlag.ASYNC_READ, InitFlag.HAS_RESEND, 1 << 60], ids=["low", "high", "unknown"])
def test_a_bit_that_was_never_offered_is_left_out_and_named(flag: int) -> None:
    words = InitFlag(InitFlag.INIT_EXT | InitFlag.POSIX_LOCKS | flag).words()
    offered = int(InitFlag.INIT_EXT | InitFlag.POSIX_LOCKS)
    body, notes = settled(init_out(flags=words[0], flags2=words[1]), offered)
    assert body == init_out(flags=InitFlag.INIT_EXT | InitFlag.POSIX_LOCKS)
    name = negotiate.names(flag)
    assert notes == [f"the filesystem asked for what was not offered: {name}; left out"]


def test_the_second_word_of_the_answer_counts_only_with_init_ext() -> None:
    assert terms(init_out(flags=InitFlag.ASYNC_READ, flags2=HIGH >> 32)).flags == InitFlag.ASYNC_READ


def test_bits_offered_and_accepted_are_agreed() -> None:
    agreed = InitFlag(InitFlag.INIT_EXT | HIGH)
    assert terms(init_out(flags=agreed.words()[0], flags2=agreed.words()[1])).flags == agreed


def test_an_answer_of_8_bytes_agrees_to_no_flags_and_a_page() -> None:
    agreed = terms(init_out(minor=4)[:8])
    assert (agreed.minor, agreed.flags, agreed.max_write, agreed.max_pages) == (4, 0, PAGE, DEFAULT_MAX_PAGES)


def test_an_answer_of_24_bytes_has_no_time_gran_and_no_pages() -> None:
    agreed = terms(init_out(flags=InitFlag.MAX_PAGES, pages=9)[:24])
    assert (agreed.time_gran, agreed.max_pages, agreed.max_write) == (1, 1, 65536)


def max_write(value: int) -> bytes:
    return init_out()[:20] + struct.pack("=I", value) + init_out()[24:]


@pytest.mark.parametrize("size", [24, 64])
def test_a_max_write_that_does_not_fit_the_device_is_lowered_to_whole_pages(size: int) -> None:
    body, notes = settled(max_write(2**32 - 1)[:size], max_frame=70_000)
    assert body == max_write(65536)[:size]
    assert notes == ["max_write 4294967295 lowered to 65536: a frame on this device holds 70000 bytes"]


def test_a_max_write_that_just_fits_is_left_alone() -> None:
    assert settled(max_write(FRAME - PAGE)) == (max_write(FRAME - PAGE), [])


def test_max_pages_that_do_not_fit_the_device_are_lowered() -> None:
    body, notes = settled(init_out(flags=InitFlag.MAX_PAGES, pages=257))
    assert body == init_out(flags=InitFlag.MAX_PAGES, pages=256)
    assert notes == [f"max_pages 257 lowered to 256: a frame on this device holds {FRAME} bytes"]


def test_max_pages_count_only_with_their_flag() -> None:
    body = init_out(pages=65535)
    assert settled(body) == (body, [])
    assert terms(body).max_pages == DEFAULT_MAX_PAGES


def test_a_minor_newer_than_offered_is_lowered_for_the_kernel_too() -> None:
    body, notes = settled(init_out(minor=45), minor=8)
    assert body == init_out(minor=8)
    assert terms(init_out(minor=45), minor=8).minor == 8
    assert notes == ["minor 45 lowered to 8: no newer one was offered"]


@pytest.mark.parametrize("minor", [0, 1, 8, 23, 45])
def test_an_older_minor_is_agreed_on(minor: int) -> None:
    assert settled(init_out(minor=minor)) == (init_out(minor=minor), [])
    assert terms(init_out(minor=minor)).minor == minor


def test_what_else_the_filesystem_answered_is_in_the_terms() -> None:
    agreed = terms(init_out())
    assert (agreed.max_background, agreed.congestion_threshold, agreed.time_gran) == (12, 9, 1)


@QUICK
@given(
    flags=st.integers(0, 2**32 - 1), flags2=st.integers(0, 2**32 - 1), offered=st.integers(0, 2**64 - 1),
    size=st.sampled_from([8, 24, 64]), write=st.integers(0, 2**32 - 1), pages=st.integers(0, 65535),
    frame=st.integers(65536, 2**28),
)  # fmt: skip
def test_no_answer_gets_past_the_offer_or_the_device(
    flags: int, flags2: int, offered: int, size: int, write: int, pages: int, frame: int
) -> None:
    body = bytearray(init_out(flags=flags, flags2=flags2, pages=pages))
    struct.pack_into("=I", body, 20, write)
    out, agreed, _ = negotiate.settle(answer(bytes(body[:size])), Offer(7, 45, offered, 0), frame)
    assert len(out) == 16 + size
    assert not agreed.flags & ~offered
    assert agreed.max_write <= max(frame - PAGE, PAGE)
    assert not agreed.flags & InitFlag.MAX_PAGES or agreed.max_pages * PAGE <= frame - PAGE
    shown = struct.unpack_from("=I", out.ljust(80, b"\0"), 16 + 12)[0]
    assert not shown & ~offered


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_a_refusal_is_a_header_alone() -> None:
    assert negotiate.refusal(6, -5) == struct.pack("=IiQ", 16, -5, 6)


def test_bits_are_named_as_in_fuse_h_and_unknown_ones_by_number() -> None:
    assert negotiate.names(InitFlag.ASYNC_READ | InitFlag.HAS_RESEND | 1 << 60) == "ASYNC_READ, HAS_RESEND, bit 60"


def test_no_bits_have_no_names() -> None:
    assert negotiate.names(0) == ""
