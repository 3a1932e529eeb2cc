"""perfusectl conform: the suites for kernels and for filesystems, with live progress, and their reports.

Never here: cases, and what a report says (perfused.conformance).
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from perfused.cli.suites import in_a_directory, unwound_by_signals
from perfused.conformance import profiles, reports
from perfused.conformance.filesystem.command import mounted_by
from perfused.conformance.filesystem.examined import examine
from perfused.conformance.filesystem.runner import Unusable
from perfused.conformance.filesystem.suite import cases as assertions
from perfused.conformance.findings import UNEXPECTED, Expectation, Finding, Report, Unreadable, Verdict, changes
from perfused.conformance.findings import read_report as read
from perfused.conformance.kernel import runner
from perfused.conformance.kernel.case import Case, Level, cases
from perfused.conformance.kernel.result import finding, report
from perfused.names import shown
from wire.opcodes import Opcode

#: what a suite cannot even begin with
UNUSABLE = 2
_STYLES = {
    Verdict.PASS: "green", Verdict.FAIL: "red", Verdict.HANG: "red", Verdict.PANIC: "red", Verdict.XFAIL: "yellow",
    Verdict.XPASS: "red", Verdict.SKIP: "dim", Verdict.HOST: "yellow",
}  # fmt: skip
_FILE = click.Path(dir_okay=False, path_type=Path)


def _fail(message: str) -> None:
    print(f"perfusectl: {shown(message.encode(errors='surrogateescape'))}", file=sys.stderr)
    sys.exit(UNUSABLE)


def _console(stderr: bool = False) -> Console:
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(highlight=False, markup=False, emoji=False, width=None if terminal else 10_000, stderr=stderr)


def outputs(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say where a suite's findings go."""
    for name, what in (("html", "a page to look at"), ("junit", "JUnit XML"), ("tap", "TAP 14"), ("json", "JSON")):
        option = click.option(
            f"--{name}",
            f"{name}_path",
            type=_FILE,
            callback=in_a_directory,
            metavar="FILE",
            help=f"Write {what} there.",
        )
        command = option(command)
    return command


def write(found: Report, paths: dict[str, Path | None]) -> None:
    """Write the reports that were asked for."""
    made: dict[str, Callable[[], bytes]] = {
        "json_path": lambda: (json.dumps(found.as_json(), indent=1) + "\n").encode(),
        "tap_path": lambda: reports.tap(found).encode(),
        "junit_path": lambda: reports.junit(found),
        "html_path": lambda: reports.html(found).encode(),
    }
    for key, make in made.items():
        path = paths.get(key)
        if path is not None:
            path.write_bytes(make())


def show(found: Report, console: Console, most: int = 40) -> None:
    """A table of groups, and what did not pass."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("GROUP")
    kinds = [each for each in Verdict if found.counts[each]]
    for heading in ("CASES", *kinds, "SECONDS"):
        table.add_column(str(heading), justify="right")
    groups: dict[str, list[Finding]] = {}
    for each in found.findings:
        groups.setdefault(each.group, []).append(each)
    for name, members in [*groups.items(), ("total", found.findings)]:
        counts = [sum(1 for each in members if each.verdict is kind) for kind in kinds]
        style = "red" if any(each.verdict in UNEXPECTED for each in members) else ""
        cells = [str(count or "-") for count in (len(members), *counts)]
        table.add_row(name, *cells, f"{sum(each.seconds for each in members):.1f}", style=style)
    console.print(f"{found.name}")
    console.print(table)
    bad = [each for each in found.findings if each.verdict in UNEXPECTED]
    for each in bad[:most]:
        console.print(f"{each.verdict} {each.id}: {each.message or each.reason}", style="red")
        for line in each.details:
            console.print(f"    {line}", style="dim")
        console.print(f"    again: {each.repeat}")
    if len(bad) > most:
        console.print(f"and {len(bad) - most} more; --html or --json FILE has all")


class Live:
    """Progress on a terminal; where standard error is none, nothing."""

    def __init__(self, total: int) -> None:
        self._console = _console(stderr=True)
        columns = (TextColumn("{task.fields[now]}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(
            *columns, console=self._console, disable=not self._console.is_terminal, transient=True, auto_refresh=False
        )  # no thread that draws: the suites fork
        self._task = self._progress.add_task("", total=total, now="")

    def __enter__(self) -> "Live":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def told(self, each: Finding) -> None:
        """One case has ended."""
        if each.verdict not in (Verdict.PASS, Verdict.SKIP):
            self._progress.print(f"{each.verdict} {each.id}: {each.message}", style=_STYLES[each.verdict])
        self._progress.update(self._task, advance=1, now=each.id)
        self._progress.refresh()


@click.group()
def conform() -> None:
    """Test this kernel's FUSE, or a filesystem."""


@conform.command()
@click.option("--only", multiple=True, metavar="PREFIX", help="Only cases whose id begins so; may be given again.")
@click.option("--opcode", metavar="NAME", help="Only cases about this opcode.")
@click.option("--level", type=click.Choice([str(each) for each in Level]), help="Only cases of this level.")
@click.option("--list", "as_list", is_flag=True, help="Show the cases, and run none; with --json, as JSON.")
@click.option("--profile", default="auto", show_default=True, metavar="NAME", help="Failures that are expected: a "
              "file, a name of those kept with the suite, none, or auto: the one kept for this kernel.")  # fmt: skip
@click.option("--write-profile", "new_profile", type=_FILE, callback=in_a_directory, help="Write one that expects what "
              "failed; reasons of the profile in use are kept.")  # fmt: skip
@click.option(
    "--timeout", default=runner.PATIENCE, show_default=True, type=click.FloatRange(1), help="Seconds a case may take."
)
@click.option("--journal", type=_FILE, callback=in_a_directory, help="Note each case there before it runs.")
@click.option("--resume", is_flag=True, help="Go on where the journal ends: after a crash of the kernel.")
@outputs
def kernel(
    only: tuple[str, ...],
    opcode: str | None,
    level: str | None,
    as_list: bool,
    profile: str,
    new_profile: Path | None,
    timeout: float,
    journal: Path | None,
    resume: bool,
    **paths: Path | None,
) -> None:
    """Test the FUSE of the kernel that this runs on; as root.

    The status is 0 where all went as expected, 1 where not, 2 where nothing can be mounted.
    """
    if opcode is not None and opcode.upper() not in Opcode.__members__:
        raise click.UsageError(f"--opcode {opcode}: names are those of fuse.h without FUSE_, e.g. LOOKUP")
    if resume and journal is None:
        raise click.UsageError("--resume needs --journal")
    chosen = cases(only, Opcode[opcode.upper()] if opcode else None, level)
    if as_list:
        _list(chosen, paths.get("json_path"))
        return
    found = runner.learn(timeout / 2)
    if found.problem:
        _fail(f"conform: nothing can be mounted here: {found.problem}")
    expected = _expected(profile, found.name)
    begun = time.monotonic()
    with Live(len(chosen)) as live:
        outcomes = runner.run(chosen, found, lambda each: live.told(finding(each)), timeout, journal, resume)
    made = report(found, outcomes, time.monotonic() - begun, expected)
    write(made, paths)
    if new_profile:
        name = f"{found.system} {'.'.join(found.release.split('.')[:2])}"
        count = profiles.write(new_profile, name, made.findings, expected)
        print(f"{new_profile}: {count} expected failures of {name}")
    show(made, _console())
    sys.exit(1 if made.failed else 0)


def _expected(profile: str, kernel_name: str) -> dict[str, Expectation]:
    try:
        path = (
            None
            if profile == "none"
            else profiles.fitting(kernel_name)
            if profile == "auto"
            else profiles.find(profile)
        )
        return profiles.read(path) if path else {}
    except Unreadable as bad:
        _fail(str(bad))
        raise AssertionError from bad


def _list(chosen: list[Case], path: Path | None) -> None:
    if path:
        rows = [
            {
                "id": each.id, "opcodes": [Opcode(number).name for number in each.opcodes], "aspect": each.aspect,
                "level": str(each.level), "since": each.since, "source": each.source,
            }
            for each in chosen
        ]  # fmt: skip
        path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("CASE", "OPCODES", "ASPECT", "LEVEL", "SINCE", "SOURCE"):
        table.add_column(heading, overflow="fold")
    for each in chosen:
        names = " ".join(Opcode(number).name for number in each.opcodes)
        table.add_row(each.id, names, each.aspect, str(each.level), f"7.{each.since}", each.source)
    _console().print(table)


@conform.command(context_settings={"ignore_unknown_options": False, "allow_interspersed_args": True})
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--only", multiple=True, metavar="PREFIX", help="Only cases whose id begins so; may be given again.")
@click.option("--native", type=click.Path(exists=True, file_okay=False, path_type=Path), help="A directory of the "
              "filesystem underneath: what fails there too is the host's.")  # fmt: skip
@outputs
def fs(
    directory: Path, command: tuple[str, ...], only: tuple[str, ...], native: Path | None, **paths: Path | None
) -> None:
    """Test the filesystem that holds DIRECTORY; with `-- COMMAND` the one that the command mounts there.

    As root. The status is 0 where all holds, 1 where something does not, 2 where it cannot be tested.
    """
    try:
        chosen = len(list(assertions(only)))
        with contextlib.ExitStack() as stack:
            stack.enter_context(unwound_by_signals())
            if command:
                stack.enter_context(mounted_by(command, directory))
            live = stack.enter_context(Live(chosen))
            made = examine(directory, only, native, live.told)
    except Unusable as bad:
        _fail(f"conform: {bad}")
    write(made, paths)
    show(made, _console())
    said = made.subject
    counted = f"{said['passed']} hold, {said['failed']} do not, {said['not asked']} not asked"
    print(f"{said['assertions']} assertions: {counted}")
    sys.exit(1 if made.failed else 0)


@conform.command()
@click.argument("before", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("after", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def diff(before: Path, after: Path) -> None:
    """Show what differs between two reports in JSON. The status is 1 where something got worse."""
    try:
        found = changes(read(before), read(after))
    except Unreadable as bad:
        _fail(str(bad))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("CASE", "BEFORE", "AFTER", "MESSAGE"):
        table.add_column(heading, overflow="fold")
    for each in found:
        table.add_row(each.id, each.before or "-", each.after or "-", each.message, style="red" if each.worse else "")
    _console().print(table if found else "nothing differs")
    sys.exit(1 if any(each.worse for each in found) else 0)
