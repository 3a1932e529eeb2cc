"""The POSIX suite as a command: `python -m perfused.conformance.filesystem` prints what it found."""

import json
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from perfused.cli.suites import in_a_directory, unwound_by_signals
from perfused.conformance.filesystem.case import listed
from perfused.conformance.filesystem.facts import Facts
from perfused.conformance.filesystem.result import CallResult, Result
from perfused.conformance.filesystem.runner import Unusable, run
from perfused.conformance.filesystem.suite import cases

#: failures shown; all are in the JSON
SHOWN = 200


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("directory", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--only", multiple=True, metavar="PREFIX", help="Only assertions whose id begins so; may be repeated.")
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=in_a_directory,
    help="Write all findings there.",
)
@click.option("--list", "as_list", is_flag=True, help="Print the ids of the assertions, and ask nothing.")
def main(directory: Path | None, only: tuple[str, ...], json_path: Path | None, as_list: bool) -> None:
    """Assert what POSIX and Linux demand of the filesystem that holds DIRECTORY. The status is 1 if something fails."""
    if as_list:
        for name in listed(cases(only), Facts()):
            print(name)
        return
    if directory is None:
        raise click.UsageError("which DIRECTORY?")
    console = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 10_000)
    errors = Console(stderr=True, highlight=False, markup=False)
    try:
        # no spinner: it would be a thread, and the suite forks
        with unwound_by_signals():
            result = run(directory, only, (lambda call: errors.print(call.name)) if errors.is_terminal else None)
    except Unusable as bad:
        print(f"posix suite: {bad}", file=sys.stderr)
        sys.exit(2)
    if json_path:
        json_path.write_text(json.dumps(result.as_json(), indent=1) + "\n")
    show(result, console)
    sys.exit(1 if result.failed else 0)


def show(result: Result, console: Console) -> None:
    """Print the table and the failures."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("CALL")
    for heading in ("ASSERTIONS", "PASSED", "FAILED", "SKIPPED", "SECONDS"):
        table.add_column(heading, justify="right")
    for each in [*result.calls, _total(result)]:
        numbers = (each.assertions, each.passed, each.failed, each.unasked)
        style = "red" if each.failed else ""
        table.add_row(each.name, *map(str, numbers), f"{each.seconds:.1f}", style=style)
    console.print(f"{result.filesystem} at {result.directory}")
    console.print(table)
    for call in result.calls:
        for reason, count in call.skipped.items():
            console.print(f"skipped: {count} of {call.name}: {reason}")
    for failure in result.failures[:SHOWN]:
        console.print(f"FAILED {failure.id}")
        console.print(f"       {failure.call}: expected {failure.expected}, got {failure.got}")
    if result.failed > SHOWN:
        console.print(f"and {result.failed - SHOWN} more (--json FILE has all)")


def _total(result: Result) -> CallResult:
    total = CallResult("total", result.passed, list(result.failures), {"": result.skipped})
    total.seconds = sum(each.seconds for each in result.calls)
    return total


if __name__ == "__main__":
    main()
