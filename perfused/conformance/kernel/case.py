"""What a case is, how one is declared, and the verdicts. Never here: running one."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from perfused.conformance.kernel import cases as rooms
from wire.opcodes import Opcode

if TYPE_CHECKING:
    from perfused.conformance.kernel.bench import Bench


class Level(StrEnum):
    """Who demands it: the protocol, good sense, or nobody (what this kernel chose, worth knowing when it changes)."""

    MUST = "must"
    SHOULD = "should"
    PROFILE = "profile"


#: what of an opcode a case is about: the columns of the matrix
ASPECTS = (
    "request", "reply", "error", "enosys", "malformed", "cache", "interrupt", "minor", "flag", "notify", "death",
    "other",
)  # fmt: skip


class Failed(Exception):
    """A case's expectation that did not hold: what was looked at, what was wanted, what was there."""

    def __init__(self, what: str, wanted: object, got: object) -> None:
        super().__init__(f"{what}: wanted {wanted}, got {got}")
        self.what, self.wanted, self.got = what, wanted, got


class Skipped(Exception):
    """What a case needs and does not have."""


@dataclass(frozen=True)
class Case:
    """One case. `since` is the minor that brought what it is about, `flags` the INIT bits the kernel must offer."""

    id: str
    run: Callable[["Bench"], None]
    opcodes: tuple[int, ...]
    aspect: str
    level: Level = Level.MUST
    since: int = 1
    flags: int = 0
    source: str = ""
    #: notifications it sends, and the minors it speaks, for the coverage
    notifications: tuple[int, ...] = ()
    minors: tuple[int, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict, compare=False)


_cases: dict[str, Case] = {}


def case(
    id: str,
    *opcodes: int,
    aspect: str,
    level: Level = Level.MUST,
    since: int = 1,
    flags: int = 0,
    source: str,
    notifications: Iterable[int] = (),
    minors: Iterable[int] = (),
) -> Callable[[Callable[["Bench"], None]], Callable[["Bench"], None]]:
    """Declare a case: `id` is "group/name", stable for ever; `source` says where its expectation comes from."""

    def declare(run: Callable[["Bench"], None]) -> Callable[["Bench"], None]:
        if id in _cases:
            raise ValueError(f"case {id} is declared twice")
        if aspect not in ASPECTS:
            raise ValueError(f"case {id}: aspect {aspect} is none of {', '.join(ASPECTS)}")
        numbers = tuple(int(each) for each in opcodes)
        _cases[id] = Case(
            id, run, numbers, aspect, level, since, int(flags), source,
            tuple(int(each) for each in notifications), tuple(minors),
        )  # fmt: skip
        return run

    return declare


def cases(only: Iterable[str] = (), opcode: int | None = None, level: str | None = None) -> list[Case]:
    """All cases, or those whose id begins with one of `only`, that are about `opcode`, that are of a level."""
    for found in sorted(iter_modules(rooms.__path__), key=lambda each: each.name):
        import_module(f"{rooms.__name__}.{found.name}")
    chosen = tuple(only)
    return [
        each
        for each in _cases.values()
        if (not chosen or each.id.startswith(chosen))
        and (opcode is None or opcode in each.opcodes)
        and (level is None or each.level == level)
    ]


def opcode_names(found: Iterable[Case]) -> Iterator[str]:
    """Names of the opcodes that cases are about."""
    numbers = {number for each in found for number in each.opcodes}
    return (each.name for each in Opcode if each in numbers)
