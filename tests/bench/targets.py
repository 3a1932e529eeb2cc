"""What the figures should reach, and whether they do: ratios of medians. Never here: how figures were had; Markdown.

A target that has no figures says so. Why one is missed is written by hand, in `reasons`.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from tests.bench import contestants as who
from tests.bench import works
from tests.bench.turns import Found, from_json

ONE, TWO = "one core", "two cores"
SINGLE = tuple(each.words for each in works.SMALL if each.clients == 1)


class Run(NamedTuple):
    """The results of a run, as they are kept in bench/results.json."""

    kept: Mapping[str, Any]

    def found(self, cores: str, part: str) -> Found:
        """Figures of a part ("small", "trees", "compile", "tracing") on one core or two; none where there are none."""
        return from_json(self.kept.get(cores, {}).get(part, {}))

    def ratio(self, cores: str, part: str, work: str, over: str, under: str) -> float:
        """Of two contestants' times at a work. KeyError where one was not measured."""
        row = self.found(cores, part)[work]
        return row[over].middle / row[under].middle

    def ratios(self, cores: str, part: str, work: Iterable[str], over: str, under: str) -> dict[str, float]:
        """The same by works, of those that both did. KeyError where there are none."""
        found = self.found(cores, part)
        both = [each for each in work if {over, under} <= set(found.get(each, {}))]
        if not both:
            raise KeyError(over)
        return {each: found[each][over].middle / found[each][under].middle for each in both}


#: what a target is compared with, and which work it was where there are several
Value = tuple[float, str]


class Target(NamedTuple):
    """One line: `least` and `most` may be missing. `value` raises KeyError where something was not measured."""

    words: str
    value: Callable[[Run, str], Value]
    least: float | None = None
    most: float | None = None
    cores: tuple[str, ...] = (ONE, TWO)
    unit: str = ""

    @property
    def wanted(self) -> str:
        """The target in words."""
        if self.least is not None and self.most is not None:
            return f"{self.least:g} to {self.most:g}{self.unit}"
        if self.least is not None:
            return f"at least {self.least:g}{self.unit}"
        return f"at most {self.most:g}{self.unit}" if self.most is not None else "reported"

    def met(self, value: float) -> bool:
        """Whether a value, as it is shown, is within the limits."""
        shown = round(value, 2)
        return (self.least is None or shown >= self.least) and (self.most is None or shown <= self.most)


def _of(part: str, work: str, over: str, under: str) -> Callable[[Run, str], Value]:
    return lambda run, cores: (run.ratio(cores, part, work, over, under), "")


def _least(part: str, work: Iterable[str], over: str, under: str) -> Callable[[Run, str], Value]:
    """The least of several ratios, and whose it is."""
    chosen = tuple(work)

    def value(run: Run, cores: str) -> Value:
        found = run.ratios(cores, part, chosen, over, under)
        worst = min(found, key=found.__getitem__)
        return found[worst], worst

    return value


def _mean(part: str, work: Iterable[str], over: str, under: str) -> Callable[[Run, str], Value]:
    """The geometric mean of several ratios."""
    chosen = tuple(work)

    def value(run: Run, cores: str) -> Value:
        found = run.ratios(cores, part, chosen, over, under).values()
        return math.exp(statistics.fmean(map(math.log, found))), ""

    return value


def _many(key: str) -> Callable[[Run, str], Value]:
    """A figure of the run with 500 mounts."""

    def value(run: Run, cores: str) -> Value:
        found = run.kept["many"][key]
        return (statistics.median(found) if isinstance(found, list) else found), ""

    return value


def _busy(run: Run, cores: str) -> Value:
    found = from_json(run.kept["many"]["busy"])
    busy, alone = found[works.GETATTR][who.SOCKET], found[f"{works.GETATTR}, alone"][who.SOCKET]
    return busy.middle / alone.middle, ""


_RANDOM = (works.READ, works.WRITE)
_SEQUENTIAL = (works.READ_MIB, works.WRITE_MIB, works.READ_CACHED, works.WRITE_CACHED)
TARGETS = (
    *(Target(f"socket ÷ C relay, {work}", _of("small", work, who.SOCKET, who.RELAY), most=1.15, cores=(ONE,))
      for work in (works.GETATTR, works.READ, works.READ_128)),
    Target("socket ÷ C relay, throughput of 8 clients, the least",
           _least("small", (works.GETATTR_8, works.READ_8), who.RELAY, who.SOCKET), least=0.95, cores=(TWO,)),
    Target("Python loop ÷ C relay, getattr", _of("small", works.GETATTR, who.LOOP, who.RELAY)),
    Target("Python loop ÷ C relay, throughput of 8 clients, the least",
           _least("small", (works.GETATTR_8, works.READ_8), who.RELAY, who.LOOP), cores=(TWO,)),
    Target("socket ÷ C, getattr", _of("small", works.GETATTR, who.SOCKET, who.C)),
    Target("socket ÷ C, speed of 1 MiB reads", _of("small", works.READ_MIB, who.C, who.SOCKET), least=0.6),
    Target("socket ÷ C, speed of 1 MiB writes", _of("small", works.WRITE_MIB, who.C, who.SOCKET), least=0.6),
    Target("direct ÷ C, mean of all operations", _mean("small", SINGLE, who.DIRECT, who.C), 0.97, 1.03),
    Target("libperfuse ÷ C, getattr", _of("small", works.GETATTR, who.LIBPERFUSE, who.C), most=1.3),
    Target("pyfuse3 ÷ libperfuse, the least", _least("small", SINGLE, who.PYFUSE3, who.LIBPERFUSE), least=3),
    Target("mfusepy ÷ libperfuse, the least", _least("small", SINGLE, who.MFUSEPY, who.LIBPERFUSE), least=1),
    Target("mfusepy ÷ libperfuse, 1 MiB read", _of("small", works.READ_MIB, who.MFUSEPY, who.LIBPERFUSE), least=3),
    Target("pyfuse3 ÷ libperfuse behind perfused, getattr",
           _of("small", works.GETATTR, who.PYFUSE3, who.BEHIND), least=1.5),
    Target("pyfuse3 ÷ libperfuse behind perfused, the least",
           _least("small", SINGLE, who.PYFUSE3, who.BEHIND), least=1.5),
    Target("loopback behind perfused, passthrough ÷ native, random, speed, the least",
           _least("trees", _RANDOM, who.NATIVE, who.LOOPBACK_KEPT), least=0.9),
    Target("loopback behind perfused, passthrough ÷ native, sequential, speed, the least",
           _least("trees", _SEQUENTIAL, who.NATIVE, who.LOOPBACK_KEPT), least=0.9),
    Target("loopback behind perfused ÷ passthrough_ll, unpack and compile",
           _of("compile", works.COMPILE, who.LOOPBACK_BEHIND, who.PASSTHROUGH_LL), most=1.5),
    Target("remembered ÷ never traced, getattr",
           _of("tracing", works.GETATTR, who.REMEMBERED, who.UNTRACED), most=1.1),
    Target("traced ÷ never traced, getattr", _of("tracing", works.GETATTR, who.TRACED, who.UNTRACED), most=1.1),
    Target("traced, frames thrown away ÷ never traced, getattr",
           _of("tracing", works.GETATTR, who.TAKEN, who.UNTRACED), most=1.1),
    Target("traced before ÷ never traced, getattr",
           _of("tracing", works.GETATTR, who.NO_MORE, who.UNTRACED), 0.97, 1.03),
    Target("PSS of each of 500 mounts", _many("pss"), most=4, cores=(ONE,), unit=" MiB"),
    Target("perfuse_open() to verdict beside 480 mounts", _many("last"), most=30, cores=(ONE,), unit=" ms"),
    Target("busy mount beside 499 idle ones ÷ alone, getattr", _busy, most=1.03, cores=(ONE,)),
)  # fmt: skip


class Outcome(NamedTuple):
    """A target and what came of it, by cores: the value and its note, or None where it was not measured."""

    target: Target
    values: dict[str, Value | None]

    @property
    def met(self) -> str:
        """yes, no, nothing where there is no limit, or that it was not measured."""
        if self.target.least is None and self.target.most is None:
            return ""
        had = [value[0] for value in self.values.values() if value]
        if not all(map(self.target.met, had)):
            return "no"
        return "yes" if had and len(had) == len(self.values) else "not measured"


def outcomes(run: Run, targets: Iterable[Target] = TARGETS) -> list[Outcome]:
    """What became of each target."""
    found = []
    for target in targets:
        values: dict[str, Value | None] = {}
        for cores in target.cores:
            try:
                values[cores] = target.value(run, cores)
            except (KeyError, TypeError, statistics.StatisticsError):
                values[cores] = None
        found.append(Outcome(target, values))
    return found
