"""Which cases CI asks of a kernel: a list that is kept, so that a case that is new asks no kernel unseen.

Never here: what is expected of them (profiles).
"""

from collections.abc import Iterable
from pathlib import Path

from perfused.conformance.findings import Finding, Verdict
from perfused.conformance.kernel.case import Case, cases

LISTS = Path(__file__).parent / "asked"
#: how many cases at most, and the seconds that any one of them, and all, may have taken
MOST, SLOW, ALL = 250, 3.0, 50.0


def choose(name: str, findings: Iterable[Finding]) -> int:
    """Write the list of a kernel from a run: evenly out of what passed or failed, and one case it died in. How many."""
    found = list(findings)
    fit = [each for each in found if each.verdict in (Verdict.PASS, Verdict.FAIL) and each.seconds < SLOW]
    number = min(MOST, len(fit))
    while number and sum(each.seconds for each in fit[:: -(-len(fit) // number)]) > ALL:
        number -= 10
    chosen = fit[:: -(-len(fit) // number)] if number > 0 else []
    chosen += [each for each in found if each.verdict is Verdict.PANIC][:1]
    LISTS.mkdir(exist_ok=True)
    (LISTS / f"{name}.txt").write_text("".join(sorted(f"{each.id}\n" for each in chosen)), encoding="utf-8")
    return len(chosen)


def listed(name: str) -> dict[str, Case]:
    """The cases that CI asks of a kernel. Raises OSError where it has no list."""
    wanted = set((LISTS / f"{name}.txt").read_text(encoding="utf-8").split())
    return {each.id: each for each in cases() if each.id in wanted}
