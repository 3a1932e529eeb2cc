"""docs/performance.md, from bench/results.json. Never here: how figures were had.

`python -m tests.bench.page` writes the page anew from the results of the last run: after a change of `reasons`,
`profile.md` or this module.
"""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.bench import contestants as who
from tests.bench import noise, works
from tests.bench.mounting import HERE, ROOT
from tests.bench.reasons import REASONS
from tests.bench.targets import ONE, TWO, Outcome, Run, Value, outcomes
from tests.bench.turns import Figures, Found

RESULTS = ROOT / "bench" / "results.json"
PAGE = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "performance.svg"
PROFILE = HERE / "profile.md"

RELAYS = [each.name for each in who.SMALL if each.command[0].startswith("{bin}") or each.name == who.LOOP]
SERVERS = [who.C, *(each.name for each in who.SMALL if each.name not in RELAYS)]
TREES = [each.name for each in who.TREES]

HOW = """\
Contestants do each work in turns, one after the other, in every round; the first round does not count. A figure is the
median of the rounds, and ratios are of medians. `spread` is the middle half of the rounds ÷ the median, of the noisiest
contestant in the row. "One core": everything is pinned to one, client, filesystem and daemon. Every value of every
round is in `bench/results.json`."""
WHAT_RELAY = """\
The smallest filesystem in C (a root and one file of 1 MiB in memory, nothing cached): `C` on /dev/fuse; `C relay`
behind the smallest relay in C over a socket (two threads, no look at any frame), `Python loop` behind the same written
in Python, the floor for `socket`; `socket`, `device` and `direct` behind perfused; `ring` is `socket` with requests
that come over io_uring. µs an operation, in brackets ÷ `C`. `requests` is how many an operation made at C; who was
asked less or more often says how often."""
WHAT_SERVERS = """\
The same filesystem in Python, answers that never change made once where the binding lets them. `libperfuse` is its
server on /dev/fuse with one thread, `4 threads` the same with four, `packed` with attributes kept as they are sent,
`asyncio` with coroutines for methods, `socket` with one thread behind perfused; pyfuse3 has trio and one thread,
mfusepy one thread. µs an operation, in brackets ÷ `C`."""
WHAT_PARALLEL = "Operations a second of all clients together, a process each; in brackets ÷ `C`."
WHAT_TREES = """\
A directory of a tmpfs once more. `native` is the directory itself. `passthrough_ll` is libfuse's, and with an endpoint
the same program unmodified, run by `perfusectl exec`. `loopback` is `fixtures/loopback.py`, with `socket` behind
perfused. pyfuse3 and mfusepy: passthroughs of the bench's own (`tests/bench/tree_*.py`). µs an operation, in brackets
÷ `passthrough_ll`. The kernel keeps neither names nor attributes, and reads and writes are O_DIRECT; for `page cache`,
`readdir`, `create` and compiling names and attributes are kept for a second, reads begin with an empty page cache."""
WHAT_COMPILE = """\
A tar file of 20 directories, 60 C files and 140 headers unpacked, and made, `-j` as many as cores. Seconds, in brackets
÷ `passthrough_ll`; and of them the seconds that the contestant's own processes were on a core."""
WHAT_BUSY = """\
µs that all processes of a contestant (server, relay or worker) are on a core for one operation, user and system; what
the kernel does for the client in the client's time is not in it. One core."""
WHAT_TRACED = """\
The smallest filesystem behind perfused: never traced; with `perfusectl trace --json` running, which decodes every frame
in a process of its own, on the same core or cores; with a reader that throws the frames away, which is the relay's part
of it; traced once before. µs, in brackets ÷ never."""
WHAT_START = """\
From the start of the program until it is mounted, median, in ms; and PSS of the program and what relays it, mounted and
idle (of the interpreters' shared pages each has its part)."""


def _cell(row: dict[str, Figures], name: str, base: str, requests: float = 0.0) -> str:
    if name not in row:
        return "-"
    cell = _number(row[name].middle)
    if name != base and base in row:
        cell += f" ({row[name].middle / row[base].middle:.2f})"
    if requests and abs(row[name].asked - requests) > 0.3 * requests:
        cell += f", {row[name].asked:.1f} requests"
    return cell


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 2 else f"{value:.2f}"


def _spread(row: dict[str, Figures], names: Sequence[str]) -> str:
    return f"{max((row[name].spread for name in names if name in row), default=0):.0%}"


def head(words: Sequence[str]) -> list[str]:
    """The first two lines of a table."""
    return [f"| {' | '.join(words)} |", "|---" * len(words) + "|"]


def figures(found: Found, work: Iterable[str], names: Sequence[str], base: str, requests: bool = False) -> list[str]:
    """µs by work and contestant, in brackets ÷ base; with `requests` how many an operation made."""
    present = [name for name in names if any(name in row for row in found.values())]
    lines = head(["work", *(["requests"] if requests else []), *present, "spread"])
    for words in work:
        row = found.get(words, {})
        asked = row[base].asked if requests and base in row else 0.0
        cells = [words, *([f"{asked:.1f}"] if requests else [])]
        cells += [_cell(row, name, base, asked) for name in present]
        lines.append(f"| {' | '.join([*cells, _spread(row, present)])} |")
    return lines


def parallel(found: Found, names: Sequence[str], base: str) -> list[str]:
    """Thousands of operations a second, of all clients."""
    chosen = [words for words in found if words in works.PARALLEL]
    lines = head(["thousands a second", *chosen])
    for name in names:
        cells = []
        for words in chosen:
            row = found[words]
            cell = f"{1000 / row[name].middle:.1f}" if name in row else "-"
            if name in row and name != base and base in row:
                cell += f" ({row[base].middle / row[name].middle:.2f})"
            cells.append(cell)
        if any(cell != "-" for cell in cells):
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def busy(found: Found, names: Sequence[str], work: Sequence[str]) -> list[str]:
    """µs on a core an operation."""
    present = [name for name in names if any(name in row for row in found.values())]
    lines = head(["contestant", *work])
    for name in present:
        cells = [_number(found[each][name].busy) if name in found.get(each, {}) else "-" for each in work]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def target_rows(found: Iterable[Outcome]) -> list[str]:
    """The table of targets, with a reason for each that is missed."""
    lines = head(["what", "target", ONE, TWO, "met", "why not"])
    for each in found:
        unit = each.target.unit
        shown = [_shown(each.values[cores], unit) if cores in each.values else "" for cores in (ONE, TWO)]
        why = (REASONS.get(each.target.words) or "no reason is known yet") if each.met == "no" else ""
        lines.append(f"| {each.target.words} | {each.target.wanted} | {' | '.join(shown)} | {each.met} | {why} |")
    return lines


def _shown(value: Value | None, unit: str) -> str:
    if value is None:
        return "not measured"
    return f"{value[0]:.2f}{unit}" + (f" ({value[1]})" if value[1] else "")


def compiled(run: Run) -> list[str]:
    """Seconds, their ratio to passthrough_ll's, and seconds on a core, on one core and two."""
    lines = head(["contestant", f"{ONE}, s", "of them its own", f"{TWO}, s", "of them its own", "PSS after, MiB"])
    rows = [run.found(cores, "compile").get(works.COMPILE, {}) for cores in (ONE, TWO)]
    memory = run.kept.get(ONE, {}).get("memory", {})
    for name in TREES:
        if not any(name in row for row in rows):
            continue
        cells = []
        for row in rows:
            if name not in row:
                cells += ["-", "-"]
                continue
            base = row.get(who.PASSTHROUGH_LL)
            ratio = f" ({row[name].middle / base.middle:.2f})" if base and name != who.PASSTHROUGH_LL else ""
            cells += [f"{row[name].middle / 1e6:.2f}{ratio}", f"{row[name].busy / 1e6:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} | {f'{memory[name]:.1f}' if name in memory else '-'} |")
    return lines


def starts(run: Run) -> list[str]:
    """Milliseconds to the mount and MiB of each contestant."""
    lines = head(["contestant", "start to mounted, ms", "PSS, MiB"])
    took, memory = run.kept.get("starts", {}), run.kept.get("memory", {})
    for name in memory:
        shown = f"{statistics.median(took[name]):.0f}" if took.get(name) else "-"
        lines.append(f"| {name} | {shown} | {memory[name]:.1f} |")
    return lines


def rest(run: Run) -> list[str]:
    """Starts, mounts, the 500, codecs, sizes."""
    lines = head(["what", "figure", "target"])
    daemon, many = run.kept.get("daemon", {}), run.kept.get("many", {})
    if daemon:
        begun, verdicts = daemon["starts"], daemon["verdicts"]
        lines += [
            f"| start until it listens, median of {len(begun)} (max) | {statistics.median(begun):.3f} s "
            f"({max(begun):.3f}) | 0.3 s |",
            f"| perfuse_open() to verdict, median of {len(verdicts)} (max) | {statistics.median(verdicts):.1f} ms "
            f"({max(verdicts):.1f}) | 30 ms |",
            f"| PSS of the idle daemon, keeper included | {daemon['idle']:.1f} MiB | 40 MiB |",
        ]
    if many:
        first, last = many["first"], many["last"]
        lines += [
            f"| perfuse_open() to verdict, mounts 1 to {len(first)} | {statistics.median(first):.1f} ms | |",
            f"| perfuse_open() to verdict, the last {len(last)} of 499 | {statistics.median(last):.1f} ms | |",
        ]
    codecs = run.kept.get("codecs", {})
    lines += [f"| {name} | {value:.2f} µs | {target} |" for name, (value, target) in codecs.items()]
    return lines + [f"| lines of code, {name} | {count} | |" for name, count in run.kept.get("sizes", {}).items()]


def page(run: Run) -> str:
    """The whole page."""
    kept = run.kept
    facts = kept["machine"]
    stamp = (
        f"Written by `make bench`: {facts['date']}, Linux {facts['linux']}, {facts['model']}, {facts['cores']} cores, "
        f"{facts['memory']} GiB, Python {facts['python']}; at most {kept['rounds']} rounds; "
        f"{kept['seconds'] / 60:.0f} minutes. {_versions(kept['versions'])}"
    )
    lines = ["# Performance", "", stamp, "", noise.verdict(**kept["noise"]), "", HOW]
    lines += ["", _plot(kept), "", "## Targets", "", *target_rows(outcomes(run))]
    singles = [each.words for each in works.SMALL if each.clients == 1]
    micro = [each.words for each in (*works.UNCACHED, *works.CACHED) if each.clients == 1]
    small = {cores: run.found(cores, "small") for cores in (ONE, TWO)}
    trees = {cores: run.found(cores, "trees") for cores in (ONE, TWO)}
    lines += _section(
        "The relay", WHAT_RELAY, {c: figures(f, singles, RELAYS, who.C, requests=True) for c, f in small.items()}
    )
    tables = {c: figures(f, singles, SERVERS, who.C, requests=True) for c, f in small.items()}
    lines += _section("The Python server", WHAT_SERVERS, tables)
    everybody = list(dict.fromkeys((*RELAYS, *SERVERS)))
    tables = {c: parallel(f, everybody, who.C) for c, f in small.items()}
    lines += _section("Parallel clients", WHAT_PARALLEL, tables)
    tables = {c: figures(f, micro, TREES, who.PASSTHROUGH_LL) for c, f in trees.items()}
    lines += _section("Trees", WHAT_TREES, tables)
    tables = {c: parallel(f, TREES, who.PASSTHROUGH_LL) for c, f in trees.items()}
    lines += _section("Parallel clients of trees", WHAT_PARALLEL.replace("`C`", "`passthrough_ll`"), tables)
    lines += ["", "## Unpacking and compiling", "", WHAT_COMPILE, "", *compiled(run)]
    traced = [each.name for each in who.TRACING]
    tables = {c: figures(run.found(c, "tracing"), [e.words for e in works.TRACED], traced, who.UNTRACED)
              for c in (ONE, TWO)}  # fmt: skip
    lines += _section("Tracing", WHAT_TRACED, tables)
    chosen = [works.GETATTR, works.READ, works.WRITE, works.READ_MIB]
    lines += ["", "## Time on a core", "", WHAT_BUSY, "", *busy(small[ONE], everybody, chosen)]
    lines += ["", *busy(trees[ONE], TREES[1:], [*chosen, works.CREATE])]
    lines += ["", "## Where each microsecond goes", "", PROFILE.read_text(encoding="utf-8").strip()]
    lines += ["", "## Starting, mounting, memory", "", WHAT_START, "", *starts(run), "", *rest(run)]
    lines += ["", "## Not measured", ""]
    lines += [f"- {name}: {why}" for name, why in kept["missing"].items()] or ["Nothing is missing."]
    return "\n".join([*lines, ""])


def _section(title: str, text: str, tables: dict[str, list[str]]) -> list[str]:
    lines = ["", f"## {title}", "", text]
    for cores, table in tables.items():
        lines += ["", f"### {title}, {cores}", "", *table]
    return lines


def _versions(versions: dict[str, str]) -> str:
    return (
        f"Measured against {', '.join(f'{name} {version}' for name, version in versions.items())}." if versions else ""
    )


def _plot(kept: Mapping[str, Any]) -> str:
    why = kept.get("plot", "")
    return f"The plot could not be drawn: {why}." if why else f"![Times on one core]({PLOT.name})"


def quick_lines(small: Found, traced: Found) -> list[str]:
    """What `make bench-quick` prints."""
    lines = []
    for title, found, names, base in (
        ("the relay, µs (÷ C)", small, [*RELAYS], who.C), ("the Python server, µs (÷ C)", small, SERVERS, who.C),
        ("tracing, µs (÷ never)", traced, [each.name for each in who.TRACING], who.UNTRACED),
    ):  # fmt: skip
        lines += ["", f"{title}:"]
        for words, row in found.items():
            cells = "   ".join(f"{name} {_cell(row, name, base)}" for name in names if name in row)
            lines.append(f"  {words:20} {cells}   spread {_spread(row, names)}")
            if who.RELAY in names and {who.SOCKET, who.RELAY} <= set(row):
                lines[-1] += f"   socket ÷ C relay {row[who.SOCKET].middle / row[who.RELAY].middle:.2f}"
    return lines


def write() -> None:
    """The page from the kept results."""
    PAGE.write_text(page(Run(json.loads(RESULTS.read_text(encoding="utf-8")))), encoding="utf-8")


if __name__ == "__main__":
    write()
