"""What a run of the suite found, as data: assertions counted by system call, failures by name.

Nothing here runs or prints anything.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Failure:
    """One assertion that does not hold."""

    id: str
    call: str
    expected: str
    got: str


@dataclass(frozen=True)
class Played:
    """One case as it was played: how many of its assertions hold, which do not, why others were not asked."""

    id: str
    passed: int
    failures: tuple[Failure, ...]
    skipped: dict[str, int]
    seconds: float


@dataclass
class CallResult:
    """All assertions about one system call: each is in exactly one of `passed`, `failures` and `skipped`."""

    name: str
    passed: int = 0
    failures: list[Failure] = field(default_factory=list)
    #: reason -> number of assertions
    skipped: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, other: "CallResult") -> None:
        """Take the assertions of another into this."""
        self.passed += other.passed
        self.failures += other.failures
        for reason, count in other.skipped.items():
            self.skipped[reason] = self.skipped.get(reason, 0) + count

    @property
    def failed(self) -> int:
        """How many do not hold."""
        return len(self.failures)

    @property
    def unasked(self) -> int:
        """How many could not be asked here."""
        return sum(self.skipped.values())

    @property
    def assertions(self) -> int:
        """How many there are, whatever became of them: the same on every filesystem."""
        return self.passed + self.failed + self.unasked


@dataclass
class Result:
    """A whole run."""

    directory: str
    filesystem: str
    calls: list[CallResult] = field(default_factory=list)

    @property
    def passed(self) -> int:
        """How many assertions hold."""
        return sum(each.passed for each in self.calls)

    @property
    def failed(self) -> int:
        """How many do not."""
        return sum(each.failed for each in self.calls)

    @property
    def skipped(self) -> int:
        """How many could not be asked."""
        return sum(each.unasked for each in self.calls)

    @property
    def assertions(self) -> int:
        """How many there are."""
        return sum(each.assertions for each in self.calls)

    @property
    def failures(self) -> Sequence[Failure]:
        """All that do not hold, in the order asked."""
        return [failure for each in self.calls for failure in each.failures]

    def as_json(self) -> dict[str, object]:
        """The same as plain dicts, lists, strings and numbers."""
        totals = {name: getattr(self, name) for name in ("assertions", "passed", "failed", "skipped")}
        return {**asdict(self), "totals": totals}
