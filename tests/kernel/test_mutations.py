"""Two of the deliberate faults of `tests.mutations`, found by the suites; all of them: `python -m tests.mutations`."""

from dataclasses import replace

import pytest

from tests.mutations import MUTATIONS, look_for, mutated


@pytest.mark.parametrize(
    ("name", "only"),
    [("a truncation that leaves mtime", ("truncate/times",)), ("a FORGET is dropped", ("forget/after-unlink",))],
)
@pytest.mark.usefixtures("watchdog")
def test_a_fault_is_noticed(name: str, only: tuple[str, ...]) -> None:
    (mutation,) = (each for each in MUTATIONS if each.name.startswith(name))
    caught = look_for(replace(mutation, only=only))
    assert caught.cases


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: each.name)
def test_every_fault_can_still_be_put_in(mutation) -> None:  # type: ignore[no-untyped-def]
    with mutated(mutation) as tree:
        compile((tree / mutation.file).read_text(), mutation.file, "exec")
