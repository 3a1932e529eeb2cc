"""One page that needs nothing else: verdicts, matrices (what × aspect), and every case with its transcript.

What a matrix counts comes from `facts` of findings: `opcodes` and `aspect`, `flags`, `notifications`, `minors`.
"""

from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path
from typing import Any

from perfused.conformance.findings import Finding, Report, Verdict
from wire.flags import InitFlag
from wire.opcodes import Opcode

_STYLE = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
#: columns in the order of a request's life
_ASPECTS = (
    "request",
    "reply",
    "error",
    "enosys",
    "malformed",
    "cache",
    "interrupt",
    "minor",
    "flag",
    "notify",
    "death",
)
_CLASS = {
    Verdict.PASS: "g", Verdict.FAIL: "b", Verdict.HANG: "b", Verdict.PANIC: "b", Verdict.XFAIL: "o", Verdict.XPASS: "b",
    Verdict.SKIP: "n", Verdict.HOST: "o",
}  # fmt: skip


def html(report: Report) -> str:
    """The page, as text."""
    title = f"{report.suite} conformance: {report.name}"
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f"<h1>{escape(title)}</h1><p class=small>{escape(report.date)}, {report.seconds:.1f} s, "
        f"{len(report.findings)} cases</p>",
        _summary(report),
        _subject(report),
        *_matrices(report.findings),
        _worst(report),
        _cases(report),
    ]
    return "\n".join(parts) + "\n"


def _badge(verdict: Verdict, text: str = "") -> str:
    return f"<span class='v {_CLASS[verdict]}'>{escape(text or str(verdict))}</span>"


def _summary(report: Report) -> str:
    counts = report.counts
    shown = [f"{_badge(each)}{counts[each]} " for each in Verdict if counts[each]]
    return f"<p class=sum>{' '.join(shown)}</p>"


def _subject(report: Report) -> str:
    rows = [f"<dt>{escape(str(key))}</dt><dd>{escape(str(value))}</dd>" for key, value in report.subject.items()]
    return f"<dl>{''.join(rows)}</dl>"


def _cell(findings: list[Finding]) -> str:
    """Passed of asked; the colour of the worst."""
    if not findings:
        return "<td class=n>·</td>"
    asked = [each for each in findings if each.verdict not in (Verdict.SKIP, Verdict.HOST)]
    good = sum(1 for each in asked if each.verdict is Verdict.PASS)
    kinds = {_CLASS[each.verdict] for each in asked}
    kind = next((each for each in "bog" if each in kinds), "n")
    names = "\n".join(f"{each.verdict} {each.id}" for each in findings[:40])
    text = f"{good}/{len(asked)}" if asked else "skip"
    return f"<td class={kind} title='{escape(names, quote=True)}'>{text}</td>"


def _matrix(title: str, rows: dict[str, list[Finding]], columns: list[str], pick: Callable[[Finding], Any]) -> str:
    heads = "".join(f"<th scope=col>{escape(each)}</th>" for each in [*columns, "all"])
    lines = []
    for name, findings in rows.items():
        cells = "".join(_cell([each for each in findings if pick(each) == column]) for column in columns)
        lines.append(f"<tr><th scope=row>{escape(name)}</th>{cells}{_cell(findings)}</tr>")
    return (
        f"<h2>{escape(title)}</h2><div class=scroll><table class=m><thead><tr><th></th>{heads}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _by(findings: Iterable[Finding], key: str) -> dict[str, list[Finding]]:
    rows: dict[str, list[Finding]] = {}
    for each in findings:
        for value in each.facts.get(key, ()):
            rows.setdefault(str(value), []).append(each)
    return {name: rows[name] for name in sorted(rows, key=_rank)}


def _rank(name: str) -> tuple[int, str]:
    """Opcodes and flags as fuse.h has them, numbers by size."""
    number = name.partition(" ")[0]
    if number.isdigit():
        return int(number), name
    if name in Opcode.__members__:
        return int(Opcode[name]), name
    return (int(InitFlag[name]), name) if name in InitFlag.__members__ else (1 << 64, name)


def _matrices(findings: list[Finding]) -> list[str]:
    asked = {each.facts.get("aspect", "") for each in findings}
    aspects = [each for each in _ASPECTS if each in asked] + sorted(asked - set(_ASPECTS))
    out = [
        _matrix(title, rows, aspects, lambda each: each.facts.get("aspect", ""))
        for title, key in (("Opcodes", "opcodes"), ("Notifications", "notifications"), ("INIT flags", "flags"))
        if (rows := _by(findings, key))
    ]
    minors = _by(findings, "minors")
    if minors:
        cells = "".join(f"<th scope=col>{key}</th>" for key in minors)
        body = "".join(_cell(each) for each in minors.values())
        out.append(
            f"<h2>Minors</h2><div class=scroll><table class=m><thead><tr>{cells}</tr></thead>"
            f"<tbody><tr>{body}</tr></tbody></table></div>"
        )
    groups: dict[str, list[Finding]] = {}
    for each in findings:
        groups.setdefault(each.group, []).append(each)
    levels = list(dict.fromkeys(each.level for each in findings))
    out.append(_matrix("Groups", groups, levels, lambda each: each.level))
    return out


def _worst(report: Report) -> str:
    chosen = [each for each in report.findings if each.verdict not in (Verdict.PASS, Verdict.SKIP)]
    if not chosen:
        return "<h2>Nothing failed</h2>"
    return f"<h2>What did not pass</h2>{''.join(_case(each, len(chosen) <= 10) for each in chosen)}"


def _cases(report: Report) -> str:
    chosen = [each for each in report.findings if each.verdict in (Verdict.PASS, Verdict.SKIP)]
    return f"<h2>All others</h2>{''.join(_case(each, False) for each in chosen)}"


def _case(each: Finding, opened: bool) -> str:
    lines = [f"<p>{escape(each.message)}</p>"] if each.message else []
    if each.reason:
        lines.append(f"<p>expected: {escape(each.reason)}</p>")
    lines.append(f"<p class=small>level {escape(each.level)}; {each.seconds:.3f} s; source: {escape(each.source)}</p>")
    if each.details:
        lines.append(f"<pre>{escape(chr(10).join(each.details))}</pre>")
    if each.repeat:
        lines.append(f"<p>again: <code>{escape(each.repeat)}</code></p>")
    head = f"{_badge(each.verdict)} <code>{escape(each.id)}</code> {escape(each.message[:120])}"
    return f"<details{' open' if opened else ''}><summary>{head}</summary>{''.join(lines)}</details>"
