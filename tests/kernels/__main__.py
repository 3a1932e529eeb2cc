"""The kernel suite on other kernels: `python -m tests.kernels [NAME...]`. Writes reports, profiles and docs/kernels.md."""

import argparse
import json
import sys
import time
from pathlib import Path

from perfused.conformance.findings import UNEXPECTED, Report, judged
from perfused.conformance.profiles import KEPT, read, write
from tests.kernels import guests
from tests.kernels.packages import BUILD, Unobtainable
from tests.kernels.table import BY_NAME, KERNELS, Kernel
from tests.kernels.watching import Watched

REPORTS = BUILD / "reports"


def profile_of(kernel: Kernel) -> Path:
    """The profile that is kept for a kernel."""
    return KEPT / f"{kernel.name}.toml"


def one(kernel: Kernel, only: tuple[str, ...], verbose: bool) -> Report | None:
    """Get and run one kernel; its report is written under build/. None, and a word why, where nothing came of it."""
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
            print(
                f"{time.monotonic() - begun:7.1f} {each.verdict} {each.id} {each.seconds:.1f} s {each.message}",
                flush=True,
            )
        shown = len(found.findings)

    found, problem = guests.run(kernel, guest, only, told)
    counts = ", ".join(f"{verdict} {number}" for verdict, number in sorted(found.counts.items()))
    print(f"{kernel.name}: {found.name}: {counts}; {got:.1f} s to have it, {found.seconds:.1f} s to run", flush=True)
    if problem:
        print(f"{kernel.name}: {problem}", flush=True)
    REPORTS.mkdir(parents=True, exist_ok=True)
    if not only:
        (REPORTS / f"{kernel.name}.json").write_text(json.dumps(found.as_json(), indent=1) + "\n", encoding="utf-8")
    return found


def main(arguments: list[str] | None = None) -> int:
    """0 where all kernels did as their profiles say, 1 where not, 2 where one could not be had or run."""
    parser = argparse.ArgumentParser(prog="python -m tests.kernels", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="kernels: " + ", ".join(BY_NAME))
    parser.add_argument("--only", action="append", default=[], metavar="PREFIX", help="cases whose id begins so")
    parser.add_argument("--ci", action="store_true", help="the two that take least time")
    parser.add_argument("--profiles", action="store_true", help="write the profile of each kernel anew")
    parser.add_argument("--verbose", action="store_true", help="tell of each case as it ends")
    given = parser.parse_args(arguments)
    wrong = [each for each in given.names if each not in BY_NAME]
    if wrong:
        parser.error(f"no kernel {', '.join(wrong)}")
    chosen = [BY_NAME[each] for each in given.names] or [each for each in KERNELS if each.ci or not given.ci]
    status = 0
    for kernel in chosen:
        found = one(kernel, tuple(given.only), given.verbose)
        if found is None or "problem" in found.subject:
            status = 2
        if found is None:
            continue
        path = profile_of(kernel)
        expected = read(path) if path.exists() else {}
        if given.profiles and not given.only and "problem" not in found.subject:
            print(f"{path.name}: {write(path, found.name, found.findings, expected)} expected failures")
            continue
        bad = [each for each in judged(found.findings, expected) if each.verdict in UNEXPECTED]
        for each in bad:
            print(f"  {each.verdict} {each.id}: {each.message or each.reason}")
        status = max(status, 1 if bad else 0)
    return status


if __name__ == "__main__":
    sys.exit(main())
