"""A seeded exerciser of a filesystem's data: random operations, a model beside them, and a report of what differs.

    python -m perfused.conformance.exerciser DIRECTORY --seed 7 --operations 10000

What an operation is stands in `exerciser_operations`, what it does in `exerciser_acts` and `exerciser_moves`; here is
what a caller needs: `exercise`, `replay` and what they return. `exerciser_shared` has the variant of many processes,
`perfused.cli.exercising` the command.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from perfused.conformance.exerciser_calls import Calls
from perfused.conformance.exerciser_minimise import minimise
from perfused.conformance.exerciser_model import Difference
from perfused.conformance.exerciser_operations import Operation, Plan, plan
from perfused.conformance.exerciser_run import Run

#: how many replays a minimised list may cost
EFFORT = 300


@dataclass(frozen=True)
class Mismatch:
    """The first thing that differed.

    `step` counts from 0 and is len(operations) where only the look at all files at the end saw it, `operation` None
    then. `changed_by` is the step that last set the byte at `offset`; `expected` and `got` begin at `start`. `recent`
    are the last operations as text, `minimised` a list of operations that failed too, and `again` whether it did
    so once more: where not, chance or time has a part in it.
    """

    step: int
    operation: Operation | None
    kind: str
    text: str
    file: int
    offset: int | None
    start: int
    expected: bytes
    got: bytes
    changed_by: int | None
    recent: tuple[str, ...]
    minimised: Plan
    again: bool

    def report(self) -> str:
        """All of it as text, with the bytes around the difference in hex."""
        where = "" if self.offset is None else f", at byte {self.offset}"
        lines = [
            f"seed {self.minimised.seed}, step {self.step}: {self.operation or 'the files at the end'}",
            f"file {self.file}{where}: {self.kind}: {self.text}",
        ]
        if self.changed_by is not None:
            lines.append(f"that byte was last set by step {self.changed_by}")
        if self.expected or self.got:
            lines += [f"{title:<9}{_hex(data, self.start)}" for title, data in _sides(self)]
        lines += ["the last operations:", *(f"  {line}" for line in self.recent)]
        which = "the shortest list found that still fails:" if self.again else "this list did not fail again:"
        lines += [which, self.minimised.to_json().rstrip()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Outcome:
    """What a run came to: how often each operation was done, skipped because the files were in no state for it, and
    left out because the filesystem does not have it; and the mismatch, if there was one."""

    plan: Plan
    done: dict[str, int]
    skipped: dict[str, int]
    unsupported: dict[str, int]
    mismatch: Mismatch | None = field(default=None)

    @property
    def ok(self) -> bool:
        """Whether nothing differed."""
        return self.mismatch is None


def exercise(
    directory: Path | str,
    seed: int,
    operations: int,
    files: int = 3,
    size: int = 1 << 20,
    without: Sequence[str] = (),
    effort: int = EFFORT,
    calls: Calls | None = None,
) -> Outcome:
    """Do `operations` random operations on `files` files of at most `size` bytes below `directory`.

    The same arguments give the same operations. `without` names operations to leave out. After a mismatch a shorter
    list is looked for, with at most `effort` replays. `calls` stands in for the system calls, in tests of this. Raises
    ValueError for arguments that make no sense, OSError where the files cannot be made.
    """
    return replay(directory, plan(seed, operations, files, size, frozenset(without)), effort, calls)


def replay(directory: Path | str, listed: Plan, effort: int = EFFORT, calls: Calls | None = None) -> Outcome:
    """Do the operations of a list; everything else as in `exercise`."""
    place, ours = Path(directory), calls is None
    calls = calls or Calls()
    try:
        run = Run(place, listed, calls)
        try:
            run.run()
            mismatch = None
        except Difference as difference:
            mismatch = _mismatch(run, difference, *_shorter(place, listed, run.step, calls, effort))
        return Outcome(listed, dict(run.done), dict(run.skipped), dict(run.unsupported), mismatch)
    finally:
        if ours:
            calls.end()


def _shorter(place: Path, listed: Plan, step: int, calls: Calls, effort: int) -> tuple[Plan, bool]:
    """A list that fails too, as short as `effort` replays allow, and whether it fails once more."""

    def made(operations: Sequence[Operation]) -> Plan:
        return Plan(listed.seed, listed.files, listed.size, tuple(operations))

    def fails(operations: Sequence[Operation]) -> bool:
        try:
            Run(place, made(operations), calls).run()
        except Difference:
            return True
        return False

    left = minimise(listed.operations[: step + 1], fails, effort)
    return made(left), fails(left)


def _mismatch(run: Run, difference: Difference, minimised: Plan, again: bool) -> Mismatch:
    steps = run.plan.operations
    return Mismatch(
        run.step,
        steps[run.step] if run.step < len(steps) else None,
        difference.kind,
        difference.text,
        difference.file,
        difference.offset,
        difference.start,
        difference.expected,
        difference.got,
        run.last_change(difference),
        tuple(run.recent),
        minimised,
        again,
    )


def _sides(found: Mismatch) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    return ("expected", found.expected), ("got", found.got)


def _hex(data: bytes, start: int) -> str:
    return f"{start:>9x}  {data.hex(' ', 1) or '(nothing)'}"


if __name__ == "__main__":
    import runpy

    runpy.run_module("perfused.cli.exercising", run_name="__main__")
