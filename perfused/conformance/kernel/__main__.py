"""The kernel suite where only Python and construct are: `python -m perfused.conformance.kernel` prints TAP.

`perfusectl conform kernel` does the same with tables and more reports.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from perfused.conformance.kernel import runner
from perfused.conformance.kernel.case import cases
from perfused.conformance.kernel.result import finding, report
from perfused.conformance.profiles import find, read
from perfused.conformance.reports import tap_line


def main(arguments: list[str] | None = None) -> int:
    """Run the cases; 0 where all went as expected, 1 where not, 2 where nothing can be mounted."""
    parser = argparse.ArgumentParser(prog="python -m perfused.conformance.kernel", description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="PREFIX", help="cases whose id begins so")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all findings there")
    parser.add_argument("--profile", metavar="NAME", help="failures that are expected: a file, or one kept here")
    parser.add_argument("--timeout", type=float, default=runner.PATIENCE, metavar="S", help="seconds a case may take")
    parser.add_argument("--journal", type=Path, metavar="FILE", help="note each case there before it runs")
    parser.add_argument("--resume", action="store_true", help="go on where the journal ends")
    given = parser.parse_args(arguments)
    expected = read(find(given.profile)) if given.profile else {}
    kernel = runner.learn(given.timeout / 2)
    if kernel.problem:
        print(f"Bail out! {kernel.problem}")
        return 2
    chosen = cases(given.only)
    print(f"TAP version 14\n1..{len(chosen)}\n# {kernel.name}, FUSE 7.{kernel.minor}", flush=True)
    count = 0

    def told(outcome: runner.Outcome) -> None:
        nonlocal count
        count += 1
        print(tap_line(count, finding(outcome)), flush=True)

    begun = time.monotonic()
    outcomes = runner.run(chosen, kernel, told, given.timeout, given.journal, given.resume)
    found = report(kernel, outcomes, time.monotonic() - begun, expected)
    if given.json:
        given.json.write_text(json.dumps(found.as_json(), indent=1) + "\n", encoding="utf-8")
    print("# " + ", ".join(f"{verdict} {number}" for verdict, number in sorted(found.counts.items())))
    return 1 if found.failed else 0


if __name__ == "__main__":
    sys.exit(main())
