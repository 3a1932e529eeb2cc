"""Outcomes as findings: what reports, profiles and comparisons are made of. Never here: running cases."""

import time
from collections.abc import Iterable
from typing import Any

from perfused.conformance.findings import Expectation, Finding, Report, judged
from perfused.conformance.kernel.runner import Kernel, Outcome
from wire.flags import InitFlag
from wire.opcodes import Notify, Opcode


def finding(outcome: Outcome) -> Finding:
    """One outcome, with what the matrices need of its case."""
    case = outcome.case
    facts: dict[str, Any] = {
        "aspect": case.aspect,
        "opcodes": [Opcode(each).name for each in case.opcodes if each in set(Opcode)],
        "flags": [flag.name for flag in InitFlag if case.flags & flag],
        "notifications": [f"{each} {Notify(each).name}" for each in case.notifications if each in set(Notify)],
        "minors": list(case.minors),
        "since": case.since,
    }
    return Finding(
        case.id, outcome.verdict, str(case.level), outcome.message, tuple(outcome.details), outcome.seconds,
        outcome.reason, case.source, f"perfusectl conform kernel --only {case.id}",
        {key: value for key, value in facts.items() if value},
    )  # fmt: skip


def report(
    kernel: Kernel, outcomes: Iterable[Outcome], seconds: float, expected: dict[str, Expectation] | None = None
) -> Report:
    """A whole run, as a profile sees it."""
    subject = {
        "name": kernel.name, "system": kernel.system, "release": kernel.release, "version": kernel.version,
        "machine": kernel.machine, "minor": kernel.minor, "flags": f"{kernel.flags:#x}",
        "max_readahead": kernel.max_readahead,
    }  # fmt: skip
    found = judged((finding(each) for each in outcomes), expected or {})
    return Report("kernel", subject, found, round(seconds, 1), time.strftime("%Y-%m-%d"))
