"""The kernel suite on other kernels: `python -m tests.kernels [NAME...]`.

Writes reports, and profiles and docs/kernels.md where it is told to.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from perfused.conformance.findings import UNEXPECTED, Expectation, Finding, Report, judged, read_report
from perfused.conformance.kernel.case import Case
from perfused.conformance.profiles import KEPT, read, write
from tests.kernels import asked, guests, page
from tests.kernels.packages import BUILD, Unobtainable
from tests.kernels.reasons import worded
from tests.kernels.table import BY_NAME, KERNELS, Kernel
from tests.kernels.watching import Watched

REPORTS = BUILD / "reports"
#: how many cases that a profile does not have are asked again
AGAIN = 60


def profile_of(kernel: Kernel) -> Path:
    """The profile that is kept for a kernel."""
    return KEPT / f"{kernel.name}.toml"


def one(kernel: Kernel, chosen: dict[str, Case], verbose: bool) -> Report | None:
    """Get and run one kernel. None, and a word why, where nothing came of it.

    What its profile does not say is asked a second time: the machine may have been busy.
    """
    begun = time.monotonic()
    try:
        guest = guests.made(kernel)
    except Unobtainable as bad:
        print(f"{kernel.name}: {bad}", flush=True)
        return None
    got = time.monotonic() - begun
    shown = 0

    def told(found: Watched) -> None:
        nonlocal shown
        for each in list(found.findings.values())[shown:] if verbose else ():
            now = time.monotonic() - begun
            print(f"{now:7.1f} {each.verdict} {each.id} {each.seconds:.1f} s {each.message}", flush=True)
        shown = len(found.findings)

    found, problem = guests.run(kernel, guest, chosen, told)
    again = {each.id: chosen[each.id] for each in unexpected(kernel, found)}
    if 0 < len(again) <= AGAIN and not problem:
        shown = 0
        second, _ = guests.run(kernel, guest, again, told)
        better = {each.id: each for each in second.findings if each.id not in unexpected_ids(kernel, second)}
        found.findings = [better.get(each.id, each) for each in found.findings]
        found.seconds = round(found.seconds + second.seconds, 1)
    counts = ", ".join(f"{verdict} {number}" for verdict, number in sorted(found.counts.items()))
    print(f"{kernel.name}: {found.name}: {counts}; {got:.1f} s to have it, {found.seconds:.1f} s to run", flush=True)
    if problem:
        print(f"{kernel.name}: {problem}", flush=True)
    return found


def expectations(kernel: Kernel) -> dict[str, Expectation]:
    """What a kernel's profile says."""
    path = profile_of(kernel)
    return read(path) if path.exists() else {}


def unexpected(kernel: Kernel, found: Report) -> list[Finding]:
    """What a kernel's profile does not say."""
    return [each for each in judged(found.findings, expectations(kernel)) if each.verdict in UNEXPECTED]


def unexpected_ids(kernel: Kernel, found: Report) -> set[str]:
    """The ids of these."""
    return {each.id for each in unexpected(kernel, found)}


def write_page() -> None:
    """Write docs/kernels.md from the reports of all kernels that were run here."""
    there = {each.name: REPORTS / f"{each.name}.json" for each in KERNELS}
    reports = {name: read_report(path) for name, path in there.items() if path.exists()}
    expected = {name: expectations(BY_NAME[name]) for name in reports}
    page.PAGE.write_text(page.page(reports, expected), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """0 where all kernels did as their profiles say, 1 where not, 2 where one could not be had or run."""
    parser = argparse.ArgumentParser(prog="python -m tests.kernels", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="kernels: " + ", ".join(BY_NAME))
    parser.add_argument("--only", action="append", default=[], metavar="PREFIX", help="cases whose id begins so")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="of each group the first case, and each N-th")
    parser.add_argument("--ci", action="store_true", help="the two that take least time, cases of a list")
    parser.add_argument("--profiles", action="store_true", help="write the profile of each kernel anew")
    parser.add_argument("--page", action="store_true", help="write docs/kernels.md from all reports that there are")
    parser.add_argument("--none", action="store_true", help="run nothing")
    parser.add_argument("--verbose", action="store_true", help="tell of each case as it ends")
    given = parser.parse_args(arguments)
    wrong = [each for each in given.names if each not in BY_NAME]
    if wrong:
        parser.error(f"no kernel {', '.join(wrong)}")
    chosen = [BY_NAME[each] for each in given.names] or [each for each in KERNELS if each.ci or not given.ci]
    portion = guests.portion(tuple(given.only), given.every)
    status = 0
    for kernel in chosen:
        path = REPORTS / f"{kernel.name}.json"
        if given.none:
            found = read_report(path) if path.exists() else None
        else:
            found = one(kernel, asked.listed(kernel.name) if given.ci else portion, given.verbose)
            if found is not None and not given.only and not given.ci:
                REPORTS.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(found.as_json(), indent=1) + "\n", encoding="utf-8")
        if found is None or "problem" in found.subject:
            status = 2
        if found is not None:
            status = max(status, settle(kernel, found, given.profiles and not given.only and not given.ci))
    if given.page:
        write_page()
    return status


def settle(kernel: Kernel, found: Report, anew: bool) -> int:
    """Write a kernel's profile anew, or print what it does not say: 1 where that is something."""
    if anew:
        said = worded(kernel.name, found.findings, expectations(kernel))
        count = write(profile_of(kernel), _called(kernel, found), found.findings, said)
        print(f"{kernel.name}: {count} expected failures")
        if kernel.ci:
            print(f"{kernel.name}: CI asks {asked.choose(kernel.name, found.findings)} cases")
        return 0
    bad = unexpected(kernel, found)
    for each in bad:
        print(f"  {kernel.name}: {each.verdict} {each.id}: {each.message or each.reason}")
    return 1 if bad else 0


def _called(kernel: Kernel, found: Report) -> str:
    """What the names of kernels begin with that a profile is for: of emulated PCs alone those of real ones do."""
    words = found.name.split()
    if kernel.how == "gvisor":
        return " ".join(words[:2])
    version = ".".join(words[1].split(".")[:2])
    return f"Linux {version}" if kernel.how == "qemu" else f"Linux {version} {kernel.name.partition('-')[0]}"


if __name__ == "__main__":
    sys.exit(main())
