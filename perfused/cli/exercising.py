"""The exerciser as a command: `python -m perfused.conformance.exerciser DIRECTORY`."""

import sys
from pathlib import Path
from typing import TextIO

import click
from rich.console import Console
from rich.table import Table

from perfused.cli.suites import in_a_directory, unwound_by_signals
from perfused.conformance.exerciser import EFFORT, Outcome, replay
from perfused.conformance.exerciser_operations import Plan, plan
from perfused.conformance.exerciser_shared import exercise_shared


def _size(text: str) -> int:
    """Bytes of `1M`, `64K` or a plain number."""
    scale = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:].upper(), 1)
    try:
        return int(text if scale == 1 else text[:-1]) * scale
    except ValueError:
        raise click.BadParameter(f"{text} is no size") from None


def _show(outcome: Outcome, console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("OPERATION", "DONE", "SKIPPED", "UNSUPPORTED"):
        table.add_column(heading, justify="left" if heading == "OPERATION" else "right")
    for name in sorted({**outcome.done, **outcome.skipped, **outcome.unsupported}):
        counts = (each.get(name, 0) for each in (outcome.done, outcome.skipped, outcome.unsupported))
        table.add_row(name, *(str(count or "-") for count in counts))
    console.print(table)


@click.command(help="Do random operations to files below DIRECTORY and compare them with a model.")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--seed", default=0, show_default=True, help="What the operations are made from.")
@click.option("--operations", default=10_000, type=click.IntRange(min=1), show_default=True, help="How many.")
@click.option("--files", default=3, show_default=True, help="How many files.")
@click.option("--size", default="1M", show_default=True, help="The largest size of a file; K, M and G may follow.")
@click.option("--without", multiple=True, metavar="NAME", help="Leave an operation out; may be given again.")
@click.option("--replay", "listed", type=click.File(), help="Do the operations of a saved list instead.")
@click.option(
    "--save",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=in_a_directory,
    help="Where the minimised list goes.",
)
@click.option("--effort", default=EFFORT, show_default=True, help="Replays that making the list shorter may cost.")
@click.option(
    "--processes",
    default=0,
    type=click.IntRange(min=0),
    help="Have that many processes work on one file instead, each on own regions.",
)
def main(
    directory: Path,
    seed: int,
    operations: int,
    files: int,
    size: str,
    without: tuple[str, ...],
    listed: TextIO | None,
    save: Path | None,
    effort: int,
    processes: int,
) -> None:
    """Exit status 0 where nothing differed, 1 where something did, 2 where it cannot be found out."""
    with unwound_by_signals():
        sys.exit(_exercise(directory, seed, operations, files, _size(size), without, listed, save, effort, processes))


def _exercise(
    directory: Path,
    seed: int,
    operations: int,
    files: int,
    size: int,
    without: tuple[str, ...],
    listed: TextIO | None,
    save: Path | None,
    effort: int,
    processes: int,
) -> int:
    """The exit status."""
    console = Console(soft_wrap=True, highlight=False, markup=False)
    try:
        if processes:
            problems = exercise_shared(directory, seed, operations, processes, size)
            for problem in problems:
                console.print(problem)
            console.print(f"seed {seed}, {processes} processes: {'all as expected' if not problems else 'differs'}")
            return 1 if problems else 0
        steps = Plan.from_json(listed.read()) if listed else plan(seed, operations, files, size, frozenset(without))
        outcome = replay(directory, steps, effort)
    except ValueError as bad:
        raise click.UsageError(str(bad)) from bad
    except OSError as bad:
        print(f"exerciser: {bad.filename or directory}: {bad.strerror or bad}", file=sys.stderr)
        return 2
    _show(outcome, console)
    if outcome.mismatch is None:
        console.print(f"seed {steps.seed}, {len(steps.operations)} operations: all as expected")
        return 0
    console.print(outcome.mismatch.report())
    if save is not None:
        save.write_text(outcome.mismatch.minimised.to_json())
    return 1


if __name__ == "__main__":
    main(prog_name="python -m perfused.conformance.exerciser")
