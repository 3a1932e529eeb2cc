"""The sparse pages of the filesystem in memory hold what one array of bytes would."""

import errno
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.memory_pages import PAGE, Pages, copy
from libperfuse import FuseError

PLACES = st.integers(0, 6 * PAGE) | st.integers(0, 6).map(lambda pages: pages * PAGE)
CHANGES = st.tuples(st.sampled_from(["write", "resize", "punch", "zero", "collapse", "insert"]), PLACES, PLACES)


def changed(model: bytearray, what: str, offset: int, length: int) -> bytearray:
    """What a change makes of an array."""
    end = offset + length
    if what == "write":
        return (
            bytearray(bytes(model.ljust(offset, b"\0"))[:offset] + b"x" * length + bytes(model)[end:])
            if length
            else model
        )
    if what == "resize":
        return bytearray(bytes(model)[:offset].ljust(offset, b"\0"))
    if what in ("punch", "zero"):
        return bytearray(at if not offset <= number < end else 0 for number, at in enumerate(model))
    if what == "collapse":
        return model[:offset] + model[end:]
    return model[:offset] + bytearray(length) + model[offset:]


def do(pages: Pages, what: str, offset: int, length: int) -> None:
    if what == "write":
        pages.write(offset, b"x" * length)
    elif what == "resize":
        pages.resize(offset)
    else:
        getattr(pages, what)(offset, length)


@given(st.lists(CHANGES, max_size=12))
def test_pages_hold_what_one_array_would(changes: list[tuple[Any, int, int]]) -> None:
    pages, model = Pages(), bytearray()
    for what, offset, length in changes:
        if what in ("collapse", "insert") and not (
            offset % PAGE == length % PAGE == 0 and offset + (length if what == "collapse" else 0) < len(model)
        ):
            continue
        do(pages, what, offset, length)
        model = changed(model, what, offset, length)
        assert pages.size == len(model)
        assert pages.read(0, 100 * PAGE) == model
        assert pages.read(offset, length) == model[offset : offset + length]


@given(st.lists(CHANGES, max_size=8), PLACES)
def test_whatever_lies_in_a_hole_is_zero(changes: list[tuple[Any, int, int]], at: int) -> None:
    pages = Pages()
    for what, offset, length in changes:
        if what not in ("collapse", "insert"):
            do(pages, what, offset, length)
    if at < pages.size:
        try:
            data = pages.data(at)
        except FuseError:
            data = pages.size
        assert not any(pages.read(at, data - at))
        assert at <= pages.hole(at) <= pages.size


@given(PLACES, PLACES)
def test_a_write_adds_the_pages_it_is_said_to_miss(offset: int, length: int) -> None:
    pages = Pages()
    pages.write(2 * PAGE, b"x")
    before, missing = len(pages), pages.missing(offset, length)
    pages.write(offset, bytes(length))
    assert len(pages) == before + missing


@given(st.lists(CHANGES.filter(lambda each: each[0] in ("write", "resize")), max_size=5), PLACES, PLACES, PLACES)
def test_a_copy_is_the_same_as_reading_and_writing(
    changes: list[tuple[Any, int, int]], at: int, to: int, length: int
) -> None:
    source, target, other = Pages(), Pages(), Pages()
    for what, offset, extent in changes:
        do(source, what, offset, extent)
    length = min(length, max(source.size - at, 0))
    for each in (target, other):
        each.write(0, b"y" * 5 * PAGE)
    copy(source, at, target, to, length)
    if length:
        other.write(to, source.read(at, length))
    assert (target.size, target.read(0, 100 * PAGE)) == (other.size, other.read(0, 100 * PAGE))


@pytest.mark.parametrize(("offset", "length"), [(1, PAGE), (0, 1), (0, 4 * PAGE)])
def test_collapsing_parts_of_pages_or_up_to_the_end_is_refused(offset: int, length: int) -> None:
    pages = Pages()
    pages.resize(4 * PAGE)
    with pytest.raises(FuseError, check=lambda bad: bad.errno == errno.EINVAL):
        pages.collapse(offset, length)
