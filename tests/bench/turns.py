"""Work done in turns: every contestant does every kind of work in every round, and what each turn took.

Never here: which contestants and which work there are, and what the figures are compared with.
"""

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.bench import processes
from tests.bench.mounting import Mounted, NotMeasured, abort

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "15"))
#: rounds that are done whatever time they take
LEAST = min(3, ROUNDS)
#: seconds a turn of the client may take beyond its time
PATIENCE = 30.0


class Work(NamedTuple):
    """What the client does: see client.c. `name` is below the mount; `size` in bytes or entries."""

    words: str
    kind: str
    size: int = 0
    clients: int = 1
    how: str = "plain"
    name: str = "file"
    milliseconds: int = 25


class Figures(NamedTuple):
    """One contestant at one kind of work, a value a round, each for one operation.

    Nanoseconds from begin to end (of all clients: by the operations of all); replies written; nanoseconds on a core.
    """

    times: list[float]
    replies: list[float]
    cores: list[float]

    @property
    def middle(self) -> float:
        """The median time, in microseconds."""
        return statistics.median(self.times) / 1000

    @property
    def asked(self) -> float:
        """Requests that an operation made, the median: below 1 something was cached."""
        return statistics.median(self.replies)

    @property
    def busy(self) -> float:
        """Microseconds on a core, of the contestant's own processes; the median."""
        return statistics.median(self.cores) / 1000

    @property
    def spread(self) -> float:
        """Of the middle half of the rounds: (third quartile - first) ÷ median. One wild round does not count."""
        if len(self.times) < 3:
            return (max(self.times) - min(self.times)) / statistics.median(self.times)
        first, middle, third = statistics.quantiles(self.times, n=4, method="inclusive")
        return (third - first) / middle


#: figures by the words of the work, then by contestant
Found = dict[str, dict[str, Figures]]
#: why something has no figures, by contestant, or contestant and work
Missing = dict[str, str]
#: what does one turn and says (operations, nanoseconds)
Turn = Callable[[Mounted], tuple[int, int]]


def guarded(command: list[str], target: Path, seconds: float) -> str:
    """Run a program that uses a mount, and return its output. A mount that does not answer is aborted.

    NotMeasured for a program that fails, or takes longer than `seconds`.
    """
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, err = program.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise NotMeasured(f"no answer within {seconds:.0f} s") from None
    finally:
        if program.poll() is None:  # also at Ctrl-C: who waits for an answer cannot be killed before
            abort(target)
            program.kill()
            program.communicate()
    if program.returncode:
        said = (" ".join(err.split()) or "no word")[:200]
        raise NotMeasured(f"{Path(command[0]).name} ended with status {program.returncode}: {said}")
    return out


def client(place: Path, work: Work) -> Turn:
    """The turn that has client.c do `work`."""

    def turn(mounted: Mounted) -> tuple[int, int]:
        words = [place / "client", work.kind, mounted.target / work.name, work.milliseconds, work.size, work.clients]
        seconds = work.milliseconds / 1000 + PATIENCE
        operations, nanoseconds = guarded([*map(str, words), work.how], mounted.target, seconds).split()
        return int(operations), int(nanoseconds)

    return turn


def _again(turn: Turn, mounted: Mounted, into: Figures | None) -> None:
    """Do one turn and note it, and once more where it fails; NotMeasured, of the first time, where it fails twice."""
    try:
        one(turn, mounted, into)
    except NotMeasured as first:
        try:
            one(turn, mounted, into)
        except NotMeasured:
            raise first from None


def one(turn: Turn, mounted: Mounted, into: Figures | None) -> None:
    """Do one turn, and note it; NotMeasured where it fails."""
    pids = mounted.processes()
    before, replies = processes.on_core(pids), processes.written(mounted.pid)
    operations, nanoseconds = turn(mounted)
    if into is not None:
        into.times.append(nanoseconds / operations)
        into.replies.append((processes.written(mounted.pid) - replies) / operations)
        into.cores.append((processes.on_core(mounted.processes()) - before) / operations)


def take_turns(
    work: Mapping[str, Turn],
    contestants: Mapping[str, Mounted],
    missing: Missing,
    seconds: float,
    rounds: int = ROUNDS,
    warm: bool = True,
    between: Callable[[], object] = lambda: None,
) -> Found:
    """Every contestant does every kind of work in every round, whoever began the last time goes last the next time.

    The first round does not count where `warm`. It takes at most about `seconds`, and up to twice that for the sake of
    LEAST rounds; one is always done. Who fails twice at a work is left out of it from then on, with the reason in
    `missing`. `between` is called after each round.
    """
    found: Found = {words: {name: Figures([], [], []) for name in contestants} for words in work}
    names, until = list(contestants), time.monotonic() + seconds
    for turn in range(rounds + warm):
        begun = time.monotonic()
        for words, each in work.items():
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                if name not in found[words]:
                    continue
                try:
                    _again(each, contestants[name], found[words][name] if turn or not warm else None)
                except NotMeasured as bad:
                    missing[f"{name}, {words}"] = str(bad).replace("|", "/")
                    del found[words][name]
        between()
        took = time.monotonic() - begun
        limit = until if turn + 1 >= LEAST + warm else until + seconds
        if turn >= warm and time.monotonic() + took > limit:
            break
    return found


def by_words(place: Path, work: Iterable[Work]) -> dict[str, Turn]:
    """Turns of the client by the words of the work."""
    return {each.words: client(place, each) for each in work}


def as_json(found: Found) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Every value of every round, to a thousandth."""
    return {
        work: {name: {key: [round(value, 3 if value < 1000 else 0) for value in values]
                      for key, values in each._asdict().items()}
               for name, each in row.items() if each.times}
        for work, row in found.items()
    }  # fmt: skip


def from_json(kept: Mapping[str, Mapping[str, Mapping[str, list[float]]]]) -> Found:
    """What `as_json` gave."""
    return {work: {name: Figures(**each) for name, each in row.items()} for work, row in kept.items()}
