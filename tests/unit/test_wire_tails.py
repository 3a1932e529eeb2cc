"""Names, directory entries, lists and extensions: what the hand-written cursors take, leave over and refuse."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from construct import Bytes, GreedyRange, Int32un, Int64un, NullTerminated, Padding, Struct, this
from construct import GreedyBytes as Rest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire_strategies import NAMES, ORDERS, QUICK, TAILS, U32, U64, extensions
from wire import codec, tails
from wire.errors import WireError

REFERENCE_DIRENT = Struct(
    "ino" / Int64un,
    "off" / Int64un,
    "namelen" / Int32un,
    "type" / Int32un,
    "name" / Bytes(this.namelen),
    Padding(lambda entry: -entry.namelen % 8),
)
DIRENTS = st.lists(st.builds(tails.Dirent, U64, U64, U32, NAMES, st.just(b"")), max_size=6).map(tuple)


def test_formats_written_by_hand_are_the_derived_ones() -> None:
    for order in "=<>":
        family = codec.order(order)
        assert tails._DIRENT[order].format == family.dirent.format
        assert tails._PAIR[order].format == family.forget_one.format == family.ioctl_iovec.format
        assert tails._WORDS[order].format == family.ext_header.format == family.secctx.format
    assert codec.entry_out.size == tails.ENTRY_OUT_SIZE


@QUICK
@given(st.lists(NAMES, max_size=4), TAILS)
def test_names_end_at_their_nul(names: list[bytes], rest: bytes) -> None:
    body = tails.pack_names(*names) + rest
    assert tails.parse_names(body, len(names)) == (tuple(names), rest)
    reference = Struct(*(f"n{i}" / NullTerminated(Rest) for i in range(len(names)))).parse(body)
    assert [reference[f"n{i}"] for i in range(len(names))] == names


def test_a_name_without_nul_or_with_one_inside_is_refused() -> None:
    with pytest.raises(WireError, match="name: 2 NUL-terminated names, got 1 in 5 bytes"):
        tails.parse_names(b"a\0bcd", 2)
    with pytest.raises(WireError, match="name: no NUL inside"):
        tails.pack_names(b"a\0b")
    with pytest.raises(WireError, match="tail: nothing behind it, got 3 bytes"):
        tails.nothing_left(b"abc", "tail")
    tails.nothing_left(b"", "tail")


@QUICK
@given(DIRENTS)
def test_dirents_read_as_construct_reads_them(entries: tuple[tails.Dirent, ...]) -> None:
    body = b"".join(map(tails.pack_dirent, entries))
    assert tails.parse_dirents(body) == (entries, b"")
    reference = GreedyRange(REFERENCE_DIRENT).parse(body)
    assert [(one.ino, one.off, one.type, one.name) for one in reference] == [entry[:4] for entry in entries]


@QUICK
@given(DIRENTS, ORDERS, st.integers(1, 31))
def test_a_dirent_cut_short_is_left_over(entries: tuple[tails.Dirent, ...], order: str, cut: int) -> None:
    last = tails.pack_dirent(tails.Dirent(1, 2, 4, b"name123"), order)
    body = b"".join(tails.pack_dirent(entry, order) for entry in entries)
    assert tails.parse_dirents(body + last[:-cut], order) == (entries, last[:-cut])


def test_padding_that_is_not_zero_survives() -> None:
    body = struct.pack("=QQLL", 1, 2, 3, 4) + b"abc" + b"junk!"
    entries, rest = tails.parse_dirents(body)
    assert entries == (tails.Dirent(1, 2, 4, b"abc", b"junk!"),)
    assert rest == b""
    assert tails.pack_dirent(entries[0]) == body
    with pytest.raises(WireError, match=r"dirent\.pad: 5 bytes, got 1"):
        tails.pack_dirent(entries[0]._replace(pad=b"x"))


def test_direntplus_records_carry_an_entry() -> None:
    entry = codec.entry_out.build(codec.entry_out.make(nodeid=9))
    body = tails.pack_direntplus(tails.Direntplus(entry, 9, 1, 8, b"file"))
    assert len(body) == 160
    (record,), rest = tails.parse_direntplus(body + body[:-1])
    assert codec.entry_out.unpack_from(record.entry).nodeid == 9
    assert (record.name, rest) == (b"file", body[:-1])
    with pytest.raises(WireError, match="entry_out: 128 bytes, got 3"):
        tails.pack_direntplus(tails.Direntplus(b"abc", 9, 1, 8, b"file"))


@pytest.mark.parametrize("kind", [tails.DirentBuffer, tails.DirentplusBuffer])
@pytest.mark.parametrize("size", [0, 24, 32, 160, 4096])
def test_a_readdir_buffer_never_exceeds_its_size(kind: Any, size: int) -> None:
    buffer = kind(size)
    added = 0
    while buffer.add(added + 1, added + 1, 8, b"name%d" % added):
        added += 1
    before = bytes(buffer)
    assert not buffer.add(1, 1, 8, b"another")
    assert bytes(buffer) == before
    assert buffer.count == added
    assert len(buffer) == len(before) <= size
    parse = tails.parse_direntplus if kind is tails.DirentplusBuffer else tails.parse_dirents
    entries, rest = parse(before)
    assert [entry.name for entry in entries] == [b"name%d" % i for i in range(added)]
    assert rest == b""


@pytest.mark.parametrize("kind", [tails.DirentBuffer, tails.DirentplusBuffer])
@pytest.mark.parametrize("name", [b"", b"a/b", b"a\0b"])
def test_a_readdir_buffer_refuses_names_that_linux_refuses(kind: Any, name: bytes) -> None:
    with pytest.raises(WireError, match=r"dirent\.name"):
        kind(4096).add(1, 1, 8, name)


def test_a_dirent_number_that_does_not_fit_is_refused() -> None:
    with pytest.raises(WireError, match="dirent: ino and off of 64 bits"):
        tails.DirentBuffer(4096).add(2**64, 1, 8, b"name")


@QUICK
@given(st.lists(st.tuples(U64, U64), max_size=5), TAILS, ORDERS)
def test_lists_of_pairs(pairs: list[tuple[int, int]], rest: bytes, order: str) -> None:
    body = tails.pack_pairs(pairs, order) + rest
    for parse in (tails.parse_forgets, tails.parse_mappings, tails.parse_iovecs):
        assert parse(body, len(pairs), order) == (tuple(pairs), rest)
        with pytest.raises(WireError, match="times 16 bytes behind the head"):
            parse(body, len(body) // 16 + 1, order)


@QUICK
@given(st.lists(U64, max_size=5), TAILS, ORDERS)
def test_lists_of_nodeids(nodeids: list[int], rest: bytes, order: str) -> None:
    body = tails.pack_nodeids(tuple(nodeids), order) + rest
    assert tails.parse_nodeids(body, len(nodeids), order) == (tuple(nodeids), rest)
    with pytest.raises(WireError, match=r"notify_prune_out\.count"):
        tails.parse_nodeids(body, 2**32 - 1, order)


def test_numbers_that_do_not_fit_a_list_are_refused() -> None:
    with pytest.raises(WireError, match="list: pairs of 64-bit numbers"):
        tails.pack_pairs([(1, -1)])
    with pytest.raises(WireError, match="nodeids: 64-bit numbers"):
        tails.pack_nodeids((2**64,))
    with pytest.raises(WireError, match="32-bit group ids"):
        tails.pack_groups((2**32,))
    with pytest.raises(WireError, match="ext_header: 32-bit numbers"):
        tails.pack_extensions([tails.Extension(8, 2**32, b"")])


def test_a_notified_name_needs_its_nul() -> None:
    assert tails.parse_notify_name(b"a\0b\0rest", 3) == (b"a\0b", b"rest")
    with pytest.raises(WireError, match="namelen: 3 bytes and a NUL behind the head, got 3"):
        tails.parse_notify_name(b"abc", 3)
    with pytest.raises(WireError, match="name: a NUL at byte 2"):
        tails.parse_notify_name(b"abc", 2)


def test_a_list_of_xattr_names_ends_with_a_nul() -> None:
    assert tails.parse_xattr_names(b"") == ()
    assert tails.parse_xattr_names(b"user.a\0user.b\0") == (b"user.a", b"user.b")
    assert tails.pack_names(b"user.a", b"user.b") == b"user.a\0user.b\0"
    with pytest.raises(WireError, match="names: a NUL behind the last name"):
        tails.parse_xattr_names(b"user.a\0user.b")


@QUICK
@given(st.data(), ORDERS)
def test_extensions_rebuild(data: st.DataObject, order: str) -> None:
    made = data.draw(extensions(order))
    area = tails.pack_extensions(made, order)
    assert len(area) % 8 == 0
    assert tails.parse_extensions(area, order) == made


@QUICK
@given(st.lists(st.builds(tails.SecurityContext, NAMES, TAILS), max_size=5), ORDERS)
def test_security_contexts(contexts: list[tails.SecurityContext], order: str) -> None:
    extension = tails.pack_security_contexts(contexts, order)
    assert extension.type == len(contexts)
    assert extension.size % 8 == 0
    assert tails.security_contexts(extension, order) == tuple(contexts)


@QUICK
@given(st.lists(U32, max_size=9), ORDERS)
def test_supplementary_groups(groups: list[int], order: str) -> None:
    extension = tails.pack_groups(tuple(groups), order)
    assert extension.type == tails.EXT_GROUPS
    assert tails.supplementary_groups(extension, order) == tuple(groups)


def test_the_bare_header_that_linux_sends_without_a_label() -> None:
    (extension,) = tails.parse_extensions(struct.pack("=LL", 8, 0))
    assert tails.security_contexts(extension) == ()


@pytest.mark.parametrize(
    ("area", "field"),
    [
        (b"\1\0\0\0", "ext_header"),
        (struct.pack("=LL", 7, 0), "ext_header.size"),
        (struct.pack("=LL", 16, 0), "ext_header.size"),
        (struct.pack("=LL", 9, 0) + b"x", "ext_header.size"),
    ],
)
def test_extensions_that_overrun_are_refused(area: bytes, field: str) -> None:
    with pytest.raises(WireError) as caught:
        tails.parse_extensions(area)
    assert caught.value.field == field


def test_extensions_of_the_wrong_kind_or_shape_are_refused() -> None:
    words = struct.pack("=LL", 9, 0)
    for extension in (
        tails.Extension(8, 32, b""),
        tails.Extension(8, 1, b""),
        tails.Extension(24, 1, words + b"a\0bcdefg"),
        tails.Extension(24, 1, struct.pack("=LL", 0, 0) + b"a\0" + bytes(14)),
    ):
        with pytest.raises(WireError):
            tails.security_contexts(extension)
    for extension in (tails.Extension(8, 0, b""), tails.Extension(16, 32, struct.pack("=LL", 2, 0))):
        with pytest.raises(WireError):
            tails.supplementary_groups(extension)
    with pytest.raises(WireError, match=r"ext_header\.size"):
        tails.pack_extensions([tails.Extension(8, 0, b"12345678")])
    with pytest.raises(WireError, match="nr_secctx: at most 31, got 32"):
        tails.pack_security_contexts([tails.SecurityContext(b"a", b"")] * 32)
