"""Nodes: keys, counts and what a rename does to them."""

import pytest

from libperfuse import FuseError, Nodes


def test_a_key_is_the_same_node_until_its_lookups_are_forgotten() -> None:
    nodes = Nodes("root")
    first = nodes.enter("a", lambda: "a")
    assert nodes.enter("a", lambda: "another") == first
    nodes.forget(first[0], 2)
    again, _ = nodes.enter("a", lambda: "a")
    assert again != first[0]
    with pytest.raises(FuseError):
        nodes[first[0]]


def test_a_node_is_found_by_its_new_key_after_a_rename() -> None:
    nodes = Nodes("root")
    nodeid, _ = nodes.enter("a", lambda: "node")
    assert nodes.rekey("a", "b") == nodeid
    assert nodes.enter("b", lambda: "another") == (nodeid, "node")


def test_the_old_key_of_a_rename_is_free() -> None:
    nodes = Nodes("root")
    nodeid, _ = nodes.enter("a", lambda: "node")
    nodes.rekey("a", "b")
    assert nodes.enter("a", lambda: "another")[0] != nodeid


@pytest.mark.parametrize("known", [True, False])
def test_what_a_rename_replaces_is_found_no_more_and_lives_on_by_its_nodeid(known: bool) -> None:
    nodes = Nodes("root")
    replaced, _ = nodes.enter("b", lambda: "replaced")
    if known:
        nodes.enter("a", lambda: "moved")
    nodes.rekey("a", "b")
    assert nodes.enter("b", lambda: "new")[0] != replaced
    assert nodes[replaced] == "replaced"


def test_a_node_that_was_replaced_takes_nothing_along_when_it_is_forgotten() -> None:
    nodes = Nodes("root")
    replaced, _ = nodes.enter("b", lambda: "replaced")
    moved, _ = nodes.enter("a", lambda: "moved")
    nodes.rekey("a", "b")
    nodes.forget(replaced, 1)
    assert nodes.enter("b", lambda: "new")[0] == moved


def test_a_rename_of_what_nobody_has_looked_up_gives_no_nodeid() -> None:
    assert Nodes("root").rekey("a", "b") is None


def test_a_node_whose_name_is_removed_is_found_no_more_and_lives_on_by_its_nodeid() -> None:
    nodes = Nodes("root")
    nodeid, _ = nodes.enter("a", lambda: "node")
    assert nodes.rekey("a", None) == nodeid
    assert nodes.enter("a", lambda: "another")[0] != nodeid
    nodes.forget(nodeid, 1)
    assert len(nodes) == 2


def test_a_rename_onto_itself_changes_nothing() -> None:
    nodes = Nodes("root")
    nodeid, _ = nodes.enter("a", lambda: "node")
    nodes.rekey("a", "a")
    assert nodes.enter("a", lambda: "another")[0] == nodeid


def test_what_was_there_before_is_found_again_and_counted() -> None:
    nodes = Nodes("root")
    nodeid, _ = nodes.enter("a", lambda: "node")
    assert nodes.again("a", nodes.issued) == nodeid
    assert nodes.count(nodeid) == 2


def test_what_was_entered_meanwhile_is_not_found_again() -> None:
    nodes = Nodes("root")
    issued = nodes.issued
    nodeid, _ = nodes.enter("a", lambda: "node")
    assert nodes.again("a", issued) == 0
    assert nodes.count(nodeid) == 1


def test_what_is_not_there_or_forgotten_is_not_found_again() -> None:
    nodes = Nodes("root")
    nodes.forget(nodes.enter("a", lambda: "node")[0], 1)
    assert [nodes.again(key, nodes.issued) for key in ("a", "b")] == [0, 0]
