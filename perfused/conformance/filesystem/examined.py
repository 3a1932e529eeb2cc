"""A filesystem examined beside the one underneath it: what fails there too is the host's, not the filesystem's.

Played cases as findings, for the reports that all suites share. Never here: assertions, and rendering.
"""

import time
from collections.abc import Callable
from pathlib import Path

from perfused.conformance.filesystem.result import Played
from perfused.conformance.filesystem.runner import run
from perfused.conformance.findings import Finding, Report, Verdict


def examine(
    directory: Path,
    only: tuple[str, ...] = (),
    native: Path | None = None,
    told: Callable[[Finding], None] = lambda _: None,
) -> Report:
    """Play the cases in `directory`, in `native` before that; `told` hears of each. Raises Unusable.

    `native` is a directory of the filesystem that the one under test shows or stores its files in.
    """
    begun = time.monotonic()
    host: dict[str, Played] = {}
    if native is not None:
        run(native, only, None, lambda each: host.__setitem__(each.id, each))
    findings: list[Finding] = []

    def played(each: Played) -> None:
        findings.append(finding(each, host.get(each.id)))
        told(findings[-1])

    result = run(directory, only, None, played)
    subject = {
        "name": f"{result.filesystem} at {directory}", "filesystem": result.filesystem, "directory": str(directory),
        "native": str(native or "not asked"), "assertions": result.assertions, "passed": result.passed,
        "failed": result.failed, "not asked": result.skipped,
    }  # fmt: skip
    return Report("fs", subject, findings, round(time.monotonic() - begun, 1), time.strftime("%Y-%m-%d"))


def finding(each: Played, host: Played | None) -> Finding:
    """One case; it fails where an assertion does not hold that holds on the host, or that the host was not asked."""
    known = {failure.id for failure in host.failures} if host else set()
    own = [failure for failure in each.failures if failure.id not in known]
    lines = tuple(
        f"{failure.id}: {failure.call}: expected {failure.expected}, got {failure.got}"
        + (" (the host fails it too)" if failure.id in known else "")
        for failure in each.failures
    )
    repeat = f"perfusectl conform fs DIRECTORY --only {each.id}"
    message = f"{len(own) or len(each.failures)} of {each.passed + len(each.failures)} assertions do not hold"
    facts = {"assertions": each.passed + len(each.failures) + sum(each.skipped.values())}
    if own:
        return Finding(each.id, Verdict.FAIL, "must", message, lines, each.seconds, repeat=repeat, facts=facts)
    if each.failures:
        said = f"{message} on the host either"
        return Finding(each.id, Verdict.HOST, "must", said, lines, each.seconds, repeat=repeat, facts=facts)
    if not each.passed and each.skipped:
        said = "; ".join(each.skipped)
        return Finding(each.id, Verdict.SKIP, "must", said, (), each.seconds, repeat=repeat, facts=facts)
    return Finding(each.id, Verdict.PASS, "must", "", (), each.seconds, repeat=repeat, facts=facts)
