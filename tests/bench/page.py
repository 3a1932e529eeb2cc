"""docs/performance.md, from figures. Never here: how they were had."""

import statistics
from collections.abc import Mapping

from tests.bench import servers
from tests.bench.machine import Found

WHAT_SERVERS = """\
The same filesystem for each: a root and one file of 1 MiB in memory, reads and writes direct, nothing cached, answers
that never change made once where the binding lets them. `C` is what is `plain` above. `libperfuse` is its server in
Python on /dev/fuse with one thread, `4 threads` the same with four, `asyncio` with coroutines for methods, `behind
perfused` with one thread through the daemon; pyfuse3 has trio and one thread, mfusepy one thread. Each is one process.
A cell is µs an operation and, in brackets, that ÷ `C`. The bench counts every reply that a server writes: `requests` is
how many an operation made at C, and a contestant that was asked less or more often says how often."""


def relay_table(found: Found) -> list[str]:
    """One set of rows of the relay: microseconds, and ratios of medians."""
    lines = [
        "| work | plain µs | C relay µs | socket µs | device µs | direct µs | socket ÷ C relay | socket ÷ plain "
        "| device ÷ socket | direct ÷ plain |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for work, row in found.items():
        spread = max(each.spread for each in row.values())
        plain, relay, socket, device, direct = (
            row[name].middle for name in ("plain", "C relay", "perfused socket", "perfused device", "perfused direct")
        )
        cells = " | ".join(f"{each:.1f}" for each in (plain, relay, socket, device, direct))
        ratios = " | ".join(f"{each:.2f}" for each in (socket / relay, socket / plain, device / socket, direct / plain))
        lines.append(f"| {work} (spread {spread:.0%}) | {cells} | {ratios} |")
    return lines


def server_table(found: Found, given: servers.Bindings) -> list[str]:
    """One set of rows of the Python server: microseconds, and ratios to the C server."""
    names = list(next(iter(found.values())))
    shown = [f"{name} {given.versions[name]}" if name in given.versions else name for name in names]
    lines = [f"| work | requests | {' | '.join(shown)} |", "|---|---|" + "---|" * len(names)]
    for work, row in found.items():
        base = row[servers.C]
        cells = []
        for name in names:
            cell = f"{row[name].middle:.1f}" + ("" if name == servers.C else f" ({row[name].middle / base.middle:.2f})")
            if abs(row[name].asked - base.asked) > 0.05 * base.asked:
                cell += f", {row[name].asked:.1f} requests"
            cells.append(cell)
        spread = max(each.spread for each in row.values())
        lines.append(f"| {work} (spread {spread:.0%}) | {base.asked:.1f} | {' | '.join(cells)} |")
    return lines


def _target(words: str, value: float, target: str, met: bool) -> str:
    return f"| {words} | {value:.2f} | {target} | {'yes' if met else 'no'} |"


def target_table(one: Found, two: Found, given: servers.Bindings) -> list[str]:
    """What the Python server should reach, and what it does: ratios of medians."""
    lines = ["| what | ratio | target | met |", "|---|---|---|---|"]
    for cores, found in (("one core", one), ("two cores", two)):
        getattr_row = found[servers.WORK[0].words]
        ours = getattr_row[servers.ONE].middle / getattr_row[servers.C].middle
        lines.append(_target(f"libperfuse ÷ C, getattr, {cores}", ours, "at most 1.3", ours <= 1.3))
        for name, least in ((servers.PYFUSE3, 3.0), (servers.MFUSEPY, 1.0)):
            if name not in getattr_row:
                lines.append(f"| {name} ÷ libperfuse, {cores} | - | at least {least:.0f} | {given.missing[name]} |")
                continue
            ratios = {work: row[name].middle / row[servers.ONE].middle for work, row in found.items()}
            worst = min(ratios, key=ratios.__getitem__)
            first = servers.WORK[0].words
            for work in dict.fromkeys((first, worst)):
                words = f"{name} ÷ libperfuse, {work}{', the least' if work == worst else ''}, {cores}"
                lines.append(_target(words, ratios[work], f"at least {least:.0f}", ratios[work] >= least))
    return lines


def page(
    stamp: str,
    relay_rows: tuple[Found, Found],
    server_rows: tuple[Found, Found],
    given: servers.Bindings,
    rest: list[str],
    memory: Mapping[str, float],
) -> str:
    """The whole page; pairs are one core and two."""
    lines = [
        "# Performance",
        "",
        f"Written by `make bench`: {stamp}, contestants alternating, medians.",
        "Spread is (max - min) ÷ median of the noisiest contestant: above 50 % believe the ratios only roughly.",
        "",
        "`plain`: the smallest C filesystem on /dev/fuse. `C relay`: the same behind the smallest relay in C over a",
        "socket (two threads, no look at any frame), the floor for `socket`. `socket` and `direct`: behind perfused.",
        "",
        "## One core (everything pinned to it)",
        "",
        *relay_table(relay_rows[0]),
        "",
        "## Two cores",
        "",
        *relay_table(relay_rows[1]),
        "",
        "## The Python server",
        "",
        *WHAT_SERVERS.splitlines(),
        *(["", *(f"{name} was not measured: {why}" for name, why in given.missing.items())] if given.missing else []),
        "",
        "### On one core",
        "",
        *server_table(server_rows[0], given),
        "",
        "### On two cores",
        "",
        *server_table(server_rows[1], given),
        "",
        "### Targets",
        "",
        *target_table(*server_rows, given),
        "",
        "### Size",
        "",
        "| what | figure |",
        "|---|---|",
        *(f"| lines of code of {name} | {count} |" for name, count in servers.sizes().items()),
        *(f"| PSS of the idle server, {name} | {size:.1f} MiB |" for name, size in memory.items()),
        "",
        "## The rest",
        "",
        "| what | figure | target |",
        "|---|---|---|",
        *rest,
        "",
    ]
    return "\n".join(lines)


def rest_rows(mounts: tuple[list[float], list[float], float, float], codecs: dict[str, tuple[float, str]]) -> list[str]:
    """Starts, mounts, memory, codecs."""
    times, starts, idle, each = mounts
    begun = f"{statistics.median(starts):.3f} s ({max(starts):.3f})"
    verdict = f"{statistics.median(times) * 1000:.1f} ms ({max(times) * 1000:.1f})"
    return [
        f"| start until it listens, median of {len(starts)} (max) | {begun} | 0.3 s |",
        f"| perfuse_open() to verdict, median of {len(times)} (max) | {verdict} | 30 ms |",
        f"| PSS of the idle daemon, keeper included | {idle:.1f} MiB | 40 MiB |",
        f"| PSS of each of 21 idle mounts | {each:.1f} MiB | 8 MiB |",
        *(f"| {name} | {value:.2f} µs | {target} |" for name, (value, target) in codecs.items()),
    ]


def quick_lines(found: Found) -> list[str]:
    """What `make bench-quick` prints."""
    lines = []
    for work, row in found.items():
        plain, one = row[servers.C].middle, row[servers.ONE].middle
        relay, socket = row["C relay"].middle, row["perfused socket"].middle
        lines.append(
            f"{work:12} C {plain:7.1f} µs  libperfuse {one:7.1f} µs  ({one / plain:.2f})   "
            f"C relay {relay:7.1f} µs  perfused socket {socket:7.1f} µs  ({socket / relay:.2f})   "
            f"{len(row[servers.C].times)} rounds, spread {max(each.spread for each in row.values()):.0%}"
        )
    return lines


def as_json(found: Found) -> dict[str, dict[str, dict[str, object]]]:
    """Every value of every round."""
    return {work: {name: each._asdict() for name, each in row.items()} for work, row in found.items()}
