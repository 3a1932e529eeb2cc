"""The tables of docs/kernels.md, from the reports of all kernels. Never here: how a report came to be."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping

from perfused.conformance.findings import Expectation, Report, Verdict
from tests.kernel.conftest import ROOT
from wire.flags import InitFlag

BEGIN, END = "<!-- written by make kernels: begin -->", "<!-- end -->"
PAGE = ROOT / "docs" / "kernels.md"
_BAD = frozenset({Verdict.FAIL, Verdict.HANG, Verdict.PANIC})
#: how many cases of one reason are named, and how many reasons of one kernel
NAMED, MOST = 3, 40

Reports = Mapping[str, Report]


def _passed(report: Report, group: str = "") -> str:
    verdicts = Counter(each.verdict for each in report.findings if group in ("", each.group))
    asked = verdicts.total() - verdicts[Verdict.SKIP]
    return f"{verdicts[Verdict.PASS]}/{asked}" if asked else "-"


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(each).replace("|", "\\|") for each in cells) + " |"


def _rule(columns: int) -> str:
    return "|" + "---|" * columns


def kernels(reports: Reports) -> list[str]:
    """A line for each kernel: what it is, what it offers, how it did."""
    everything = 0
    for each in reports.values():
        everything |= int(each.subject["flags"], 16)
    heads = (
        "kernel",
        "is",
        "runs as",
        "minor",
        "does not offer",
        "cases",
        "passed/asked",
        "hang",
        "died",
        "s",
    )
    lines = [_row(*heads), _rule(len(heads))]
    for name, each in reports.items():
        about = each.subject
        offered = int(about["flags"], 16)
        lacking = _names(everything & ~offered)
        shown = lacking if offered.bit_count() * 2 > everything.bit_count() else f"all but {_names(offered)}"
        cells = (
            name, about["name"] + (f": {about['problem']}" if "problem" in about else ""), about["how"],
            f"7.{about['minor']}", shown, len(each.findings), _passed(each), each.counts[Verdict.HANG],
            each.counts[Verdict.PANIC], f"{each.seconds:.0f}",
        )  # fmt: skip
        lines.append(_row(*cells))
    return lines


def _names(flags: int) -> str:
    return ", ".join(str(flag.name) for flag in InitFlag if flag & flags) or "none"


def matrix(reports: Reports) -> list[str]:
    """Passed and asked, by group and kernel."""
    groups = sorted({each.group for report in reports.values() for each in report.findings})
    lines = [_row("group", *reports), _rule(len(reports) + 1)]
    lines += [_row(group, *(_passed(report, group) for report in reports.values())) for group in groups]
    return [*lines, _row("all", *(_passed(report) for report in reports.values()))]


def deviations(reports: Reports, expected: Mapping[str, dict[str, Expectation]]) -> list[str]:
    """For each kernel, why it fails what it fails: a reason, how many cases, some of them."""
    lines = []
    for name, report in reports.items():
        reasons: dict[str, list[str]] = defaultdict(list)
        for each in report.findings:
            if each.verdict in _BAD:
                known = expected[name].get(each.id)
                reasons[_plain(known.reason if known else each.message)].append(each.id)
        lines += ["", f"### {name}", ""]
        if not reasons:
            lines.append("Nothing.")
        ordered = sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0]))
        for reason, ids in ordered[:MOST]:
            more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
            lines.append(f"- {reason}: {', '.join(f'`{each}`' for each in ids[:NAMED])}{more}")
        rest = sum(len(ids) for _, ids in ordered[MOST:])
        if rest:
            lines.append(f"- {rest} cases more, each for a reason of its own: they are in the profile")
    return lines


def _plain(words: str) -> str:
    """A reason that Markdown leaves as it is, without figures that differ by run."""
    words = re.sub(r"os\.stat_result\(.*", "...", words)
    words = words if len(words) < 160 else words[:157] + "..."
    return re.sub(r"([*<>\[\]`|])", r"\\\1", words)


def page(reports: Reports, expected: Mapping[str, dict[str, Expectation]]) -> str:
    """The page with what stands between its markers anew."""
    days = sorted({each.date for each in reports.values()})
    lines = [
        f"{' to '.join(dict.fromkeys((days[0], days[-1])))}, passed/asked; what a kernel does not offer is not asked.",
        "", *kernels(reports), "", "## By group", "", *matrix(reports), "", "## What fails",
        *deviations(reports, expected),
    ]  # fmt: skip
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE}: no line {BEGIN} and line {END}")
    return "\n".join((before + begin, "", *lines, "", end + after))
