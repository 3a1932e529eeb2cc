"""What any suite found, as data: one finding a case, a report of all; what was expected, and what changed since.

The reports (`reports`) are made of this alone. Nothing here runs a case or prints.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any


class Verdict(StrEnum):
    """How a case went. XFAIL and XPASS are a profile's words for FAIL and PASS; HOST: the machine itself fails it."""

    PASS = "PASS"
    FAIL = "FAIL"
    XFAIL = "XFAIL"
    XPASS = "XPASS"
    SKIP = "SKIP"
    HANG = "HANG"
    PANIC = "PANIC-suspect"
    HOST = "HOST"


#: what makes a run fail
UNEXPECTED = frozenset({Verdict.FAIL, Verdict.HANG, Verdict.PANIC, Verdict.XPASS})
#: what a profile may have foreseen
_BAD = frozenset({Verdict.FAIL, Verdict.HANG, Verdict.PANIC})


class Unreadable(ValueError):
    """A file that is no report or no profile: which, and what is wrong with it."""


@dataclass(frozen=True)
class Finding:
    """How one case went. `facts` are what the matrices of a report are made of: opcodes, aspect, flags, minors."""

    id: str
    verdict: Verdict
    level: str = "must"
    message: str = ""
    #: lines: the decoded transcript
    details: tuple[str, ...] = ()
    seconds: float = 0.0
    #: a profile's reason and source for what was expected
    reason: str = ""
    source: str = ""
    #: the command that runs this case alone
    repeat: str = ""
    facts: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def group(self) -> str:
        """The part of the id before the first slash."""
        return self.id.partition("/")[0]


@dataclass
class Report:
    """A whole run: the suite's name, what was tested (`subject`, shown as it is), findings in the order they came."""

    suite: str
    subject: dict[str, Any]
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0
    date: str = ""

    @property
    def counts(self) -> Counter[Verdict]:
        """How many of each verdict."""
        return Counter(each.verdict for each in self.findings)

    @property
    def failed(self) -> bool:
        """Whether anything is not as expected."""
        return any(each.verdict in UNEXPECTED for each in self.findings)

    @property
    def name(self) -> str:
        """What was tested, in a few words."""
        return str(self.subject.get("name", ""))

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON; what was tested stands under `kernel` or `filesystem`."""
        cases = [
            {key: value for key, value in asdict(each).items() if value not in ("", (), {})} for each in self.findings
        ]
        about = "kernel" if self.suite == "kernel" else "filesystem"
        return {
            "suite": self.suite, about: self.subject, "date": self.date, "seconds": self.seconds,
            "counts": {str(key): value for key, value in sorted(self.counts.items())}, "cases": cases,
        }  # fmt: skip


def read_report(path: Path) -> Report:
    """A report that was written as JSON. Raises Unreadable, OSError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        report = Report(found["suite"], found.get("kernel") or found.get("filesystem") or {})
        report.date, report.seconds = str(found.get("date", "")), float(found.get("seconds", 0))
        for each in found["cases"]:
            each["verdict"] = Verdict(each["verdict"])
            each["details"] = tuple(each.get("details", ()))
            report.findings.append(Finding(**each))
    except (ValueError, KeyError, TypeError) as bad:
        raise Unreadable(f"{path} is no report: {type(bad).__name__}: {bad}") from None
    return report


def judged(findings: Iterable[Finding], expected: "dict[str, Expectation]") -> list[Finding]:
    """Findings as a profile sees them: what it foresaw is XFAIL, what it foresaw and did not happen XPASS."""
    out = []
    for each in findings:
        wanted = expected.get(each.id)
        if wanted is None:
            out.append(each)
        elif each.verdict in _BAD:
            out.append(replace(each, verdict=Verdict.XFAIL, reason=wanted.reason))
        elif each.verdict is Verdict.PASS and not wanted.sometimes:
            out.append(replace(each, verdict=Verdict.XPASS, reason=wanted.reason))
        else:
            out.append(each)
    return out


@dataclass(frozen=True)
class Expectation:
    """What a profile says of one case: it fails, why, who says so; `sometimes`: it may as well pass."""

    reason: str
    source: str = ""
    sometimes: bool = False


@dataclass(frozen=True)
class Change:
    """A case whose verdict differs between two reports; "" where one of them does not have it."""

    id: str
    before: str
    after: str
    message: str

    @property
    def worse(self) -> bool:
        """Whether something went wrong that had not."""
        return self.after in {str(each) for each in _BAD} and self.before not in {str(each) for each in _BAD}


def changes(before: Report, after: Report) -> list[Change]:
    """What differs, in the order of the ids."""
    old = {each.id: each for each in before.findings}
    new = {each.id: each for each in after.findings}
    found = []
    for name in sorted(old.keys() | new.keys()):
        was, now = old.get(name), new.get(name)
        words = (str(was.verdict) if was else "", str(now.verdict) if now else "")
        if words[0] != words[1]:
            found.append(Change(name, *words, now.message if now else ""))
    return found
