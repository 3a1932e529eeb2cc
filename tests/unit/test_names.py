"""Paths from frames: learnt from what goes by, bounded, and fit for a terminal."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfused import names
from perfused.names import Names, names_in
from tests.unit.engine_support import answer, ask
from tests.unit.wire_strategies import THOROUGH
from wire import tails
from wire.opcodes import Opcode
from wire.tails import Direntplus


def entry(nodeid: int) -> bytes:
    return struct.pack("=Q120x", nodeid)


def learnt(known: Names, opcode: int, body: bytes, reply: bytes = b"", nodeid: int = 1) -> Names:
    known.learn(ask(opcode, body, nodeid=nodeid), answer(reply), 45)
    return known


def looked_up(name: bytes = b"a", nodeid: int = 5, parent: int = 1, known: Names | None = None) -> Names:
    return learnt(known or Names(), Opcode.LOOKUP, name + b"\0", entry(nodeid), parent)


def rename(newdir: int, old: bytes, new: bytes) -> bytes:
    return struct.pack("=Q", newdir) + old + b"\0" + new + b"\0"


# -- what a frame names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("opcode", "body", "found"),
    [
        (Opcode.LOOKUP, b"a\0", [b"a"]),
        (Opcode.MKDIR, bytes(8) + b"a\0", [b"a"]),
        (Opcode.MKNOD, bytes(16) + b"a\0", [b"a"]),
        (Opcode.CREATE, bytes(16) + b"a\0", [b"a"]),
        (Opcode.SYMLINK, b"a\0to\0", [b"a", b"to"]),
        (Opcode.RENAME, rename(7, b"a", b"b"), [b"a", b"b"]),
        (Opcode.RENAME2, struct.pack("=QII", 7, 0, 0) + b"a\0b\0", [b"a", b"b"]),
        (Opcode.GETXATTR, bytes(8) + b"user.a\0", [b"user.a"]),
        (Opcode.GETATTR, bytes(16), []),
        (77, b"a\0", []),
    ],
)
def test_names_in_a_request(opcode: int, body: bytes, found: list[bytes]) -> None:
    assert names_in(ask(opcode, body), 45) == found


def test_names_stand_where_the_minor_has_them() -> None:
    assert names_in(ask(Opcode.CREATE, bytes(8) + b"a\0"), 11) == [b"a"]


def test_a_frame_cut_short_gives_what_is_there() -> None:
    assert names_in(ask(Opcode.LOOKUP, b"abcdef\0")[:43], 45) == [b"abc"]


# -- learning ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("opcode", "body"),
    [
        (Opcode.LOOKUP, b"a\0"), (Opcode.MKDIR, bytes(8) + b"a\0"), (Opcode.MKNOD, bytes(16) + b"a\0"),
        (Opcode.SYMLINK, b"a\0to\0"), (Opcode.LINK, struct.pack("=Q", 9) + b"a\0"), (Opcode.CREATE, bytes(16) + b"a\0"),
    ],
)  # fmt: skip
def test_what_makes_an_entry_is_learnt(opcode: int, body: bytes) -> None:
    assert learnt(Names(), opcode, body, entry(5)).path(5) == "/a"


def test_a_negative_entry_is_not_learnt() -> None:
    assert looked_up(nodeid=0).nodes == {}


def test_the_root_is_never_somewhere_else() -> None:
    assert looked_up(b"loop", nodeid=1).path(1) == "/"


def test_a_path_has_its_parents() -> None:
    assert looked_up(b"b", 6, 5, looked_up(b"a", 5)).path(6) == "/a/b"


def test_a_path_may_have_a_name_behind_it() -> None:
    assert looked_up().path(5, b"new") == "/a/new"


def test_a_node_never_seen_is_shown_by_its_number() -> None:
    assert (Names().path(77), Names().path(77, b"b")) == ("<77>", "<77>/b")


@pytest.mark.parametrize(
    ("opcode", "head"), [(Opcode.RENAME, struct.pack("=Q", 7)), (Opcode.RENAME2, struct.pack("=QII", 7, 0, 0))]
)
def test_a_renamed_node_is_where_it_went(opcode: int, head: bytes) -> None:
    known = looked_up(b"d", 7, 1, looked_up(b"a", 5))
    assert learnt(known, opcode, head + b"a\0b\0").path(5) == "/d/b"


def test_a_renamed_node_can_be_renamed_again() -> None:
    known = learnt(looked_up(), Opcode.RENAME, rename(1, b"a", b"b"))
    assert learnt(known, Opcode.RENAME, rename(1, b"b", b"c")).path(5) == "/c"


def test_renaming_what_was_never_seen_teaches_nothing() -> None:
    assert learnt(looked_up(), Opcode.RENAME, rename(1, b"x", b"y")).nodes == {5: (1, b"a")}


@pytest.mark.parametrize("opcode", [Opcode.UNLINK, Opcode.RMDIR])
def test_a_removed_name_is_not_renamed_with_its_successor(opcode: int) -> None:
    known = learnt(looked_up(), opcode, b"a\0")
    assert learnt(known, Opcode.RENAME, rename(1, b"a", b"b")).path(5) == "/a"


def test_a_directory_read_with_attributes_is_learnt() -> None:
    entries = [(6, b"x"), (7, b"y"), (0, b"negative"), (1, b"."), (1, b"..")]
    records = [tails.pack_direntplus(Direntplus(entry(nodeid), nodeid, 0, 8, name)) for nodeid, name in entries]
    known = learnt(looked_up(), Opcode.READDIRPLUS, bytes(40), b"".join(records), 5)
    assert (known.path(6), known.path(7)) == ("/a/x", "/a/y")
    assert set(known.nodes) == {5, 6, 7}


def test_a_directory_that_is_its_own_ancestor_ends() -> None:
    known = looked_up(b"b", 6, 5, looked_up(b"a", 5, 6))
    assert known.path(6).startswith("<")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("é".encode(), "/é"), (b"a b", "/a b"), (b"\xff", "/\\xff"), (b"two\nlines", "/two\\x0alines"),
        (b"\x1b[2J", "/\\x1b[2J"), ("\u202etxt".encode(), "/\\u202etxt"),
    ],
)  # fmt: skip
def test_a_name_never_writes_more_than_its_line(name: bytes, shown: str) -> None:
    assert looked_up(name).path(5) == shown


# -- bounds ------------------------------------------------------------------------------------------------------------


def test_the_longest_unseen_node_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "KEPT", 3)
    known = Names()
    for nodeid in (5, 6, 7):
        known.put(nodeid, 1, b"n%d" % nodeid)
    known.put(5, 1, b"n5")
    known.put(8, 1, b"n8")
    assert set(known.nodes) == {7, 5, 8}


def test_forgetting_a_node_leaves_its_successor_of_the_same_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "KEPT", 1)
    known = looked_up(b"a", 6, 1, looked_up(b"a", 5))
    assert learnt(known, Opcode.RENAME, rename(1, b"a", b"b")).path(6) == "/b"


def test_one_node_under_many_names_takes_the_room_of_one() -> None:
    known = Names()
    for number in range(100):
        known.put(5, 1, b"link%d" % number)
    assert (len(known.nodes), len(known.children)) == (1, 1)


@THOROUGH
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6), st.sampled_from([b"a", b"b"])), max_size=30))
def test_whatever_is_put_no_more_is_remembered_than_nodes(puts: list[tuple[int, int, bytes]]) -> None:
    known = Names()
    for nodeid, parent, name in puts:
        known.put(nodeid, parent, name)
        known.path(nodeid)
    assert all(known.nodes[nodeid] == place for place, nodeid in known.children.items())


@THOROUGH
@given(st.sampled_from([1, 6, 8, 9, 10, 11, 12, 13, 35, 44, 45]), st.binary(max_size=80), st.binary(max_size=400))
def test_no_frames_raise(opcode: int, body: bytes, reply: bytes) -> None:
    known = looked_up()
    for cut in (400, 41, 30, 10, 0):
        known.learn(ask(opcode, body)[:cut], answer(reply)[:cut], 45)
    assert known.path(1) == "/"


# -- what is known already, and what comes late ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "nodeid", "parent", "known"),
    [(b"a", 5, 1, True), (b"b", 5, 1, False), (b"a", 6, 1, False), (b"a", 5, 2, False)],
)
def test_a_lookup_tells_nothing_new_where_node_parent_and_name_are_known(
    name: bytes, nodeid: int, parent: int, known: bool
) -> None:
    again = ask(Opcode.LOOKUP, name + b"\0", nodeid=parent)
    assert looked_up().knows(again, answer(entry(nodeid))) is known


def test_a_listing_read_late_tells_only_of_nodes_nothing_is_known_of() -> None:
    known = looked_up(b"renamed", nodeid=5)
    records = [
        tails.pack_direntplus(Direntplus(entry(node), node, 0, 8, name)) for node, name in ((5, b"old"), (6, b"b"))
    ]
    known.learn(ask(Opcode.READDIRPLUS, bytes(40)), answer(b"".join(records)), 45, late=True)
    assert (known.path(5), known.path(6)) == ("/renamed", "/b")
