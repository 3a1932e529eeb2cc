"""The Test Anything Protocol, version 14: a line a case, a YAML block under one that failed."""

import json

from perfused.conformance.findings import UNEXPECTED, Finding, Report, Verdict


def tap_line(number: int, finding: Finding) -> str:
    """The lines of one case, without the last newline. XFAIL is a TODO, and so is XPASS, as TAP has it."""
    verdict = finding.verdict
    bad = verdict in (UNEXPECTED | {Verdict.XFAIL}) - {Verdict.XPASS}
    note = ""
    if verdict in (Verdict.SKIP, Verdict.HOST):
        note = f" # SKIP {_plain(finding.message)}"
    elif verdict in (Verdict.XFAIL, Verdict.XPASS):
        note = f" # TODO {_plain(finding.reason)}"
    lines = [f"{'not ok' if bad else 'ok'} {number} - {_plain(finding.id)}{note}"]
    if bad:
        lines += ["  ---", f"  verdict: {verdict}", f"  message: {json.dumps(finding.message)}"]
        lines += [f"  repeat: {json.dumps(finding.repeat)}"] if finding.repeat else []
        lines += ["  transcript: |", *(f"    {line}" for line in finding.details)] if finding.details else []
        lines.append("  ...")
    return "\n".join(lines)


def tap(report: Report) -> str:
    """A whole run."""
    lines = ["TAP version 14", f"1..{len(report.findings)}", f"# {_plain(report.name)}"]
    lines += [tap_line(at + 1, each) for at, each in enumerate(report.findings)]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """What may stand on a TAP line: no newline, and no # that begins a directive."""
    return text.replace("\n", " ").replace("#", "\\#")
