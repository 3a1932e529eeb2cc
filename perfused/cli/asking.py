"""What perfusectl asks of a running daemon and of the kernel: mounts, stats, trace, umount, probe.

Never here: the group that they belong to (`control`), and programs run on perfused (`executing`).
"""

import errno
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from libperfuse.connection import PerfuseError, ask, connect
from perfused.cli.tracing import TraceView, follow
from perfused.names import shown
from wire.opcodes import Opcode

EX_USAGE = 64


def _text(value: object) -> str:
    """Anything that comes from outside, fit for a line on a terminal."""
    return shown(os.fsencode(str(value)))


def _console() -> Console:
    """No name is taken for markup; where no terminal says how wide it is, nothing is folded."""
    width = None if sys.stdout.isatty() else 10_000
    return Console(highlight=False, markup=False, emoji=False, width=width)


def _guarded(action: Callable[[], None]) -> None:
    """Run a command; what the daemon refuses is one line and a status, never a traceback."""
    try:
        action()
    except PerfuseError as bad:
        _fail(bad.strerror or str(bad))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(141)
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(message: str) -> NoReturn:
    print(f"perfusectl: {_text(message)}", file=sys.stderr)
    sys.exit(1)


def _mount_path(text: str) -> str:
    """The path as the daemon knows it: the parent resolved, the mount itself never touched, since it may be stuck."""
    whole = os.path.abspath(text)
    parent, name = os.path.split(whole)
    return os.path.join(os.path.realpath(parent), name) if name else whole


#: what `mounts` shows of each
COLUMNS = ("number", "target", "fstype", "source", "endpoint", "uid", "program", "worker")


def _named(text: str) -> dict[str, object]:
    """A mount as a request names it: by its number in `mounts`, or by its path."""
    return {"number": int(text)} if text.isdigit() and not os.path.lexists(text) else {"target": _mount_path(text)}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
@click.pass_obj
def mounts(path: str | None, as_json: bool) -> None:
    """List the mounts of a running perfused: your own, or as root all."""

    def action() -> None:
        with connect(path) as connection:
            *rows, _ = ask(connection, {"op": "mounts"})
        if as_json:
            print(json.dumps(rows, indent=1))
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("NR", "MOUNT", "TYPE", "SOURCE", "ENDPOINT", "UID", "PROGRAM", "WORKER", "UP"):
            table.add_column(heading, overflow="fold")
        now = time.time()
        for row in rows:
            up = _duration(now - float(row["since"]))  # type: ignore[arg-type]
            cells = [_text(row[key]) for key in COLUMNS]
            table.add_row(*cells, up)
        _console().print(table)

    _guarded(action)


def _duration(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.1f}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return (
        f"{whole // 86400}d{whole % 86400 // 3600:02}h"
        if whole >= 86400
        else f"{whole // 3600}h{whole % 3600 // 60:02}m"
    )


@click.command()
@click.argument("mount")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--timing", type=click.Choice(["on", "off"]), help="Measure latencies from now on, or no more.")
@click.pass_obj
def stats(path: str | None, mount: str, as_json: bool, timing: str | None) -> None:
    """Show what has gone through MOUNT, by opcode, and what is in flight."""

    def action() -> None:
        request: dict[str, object] = {"op": "stats", **_named(mount)}
        if timing:
            request["timing"] = timing == "on"
        with connect(path) as connection:
            (found,) = ask(connection, request)
        print(json.dumps(found, indent=1)) if as_json else _show_stats(found)

    _guarded(action)


def _show_stats(found: dict[str, Any]) -> None:
    console = _console()
    minor = f"FUSE 7.{found['minor']}" if found["minor"] else "no frame passes the daemon"
    if found["state"] in ("NEW", "INIT_SENT"):
        minor = "INIT not settled"
    title = f"  {found['state']}, {minor}, up {_duration(found['uptime_s'])}"
    console.print(Text.assemble((_text(found["target"]), "bold"), title))
    if found["flags"]:
        console.print(f"max_write {found['max_write']}, max_pages {found['max_pages']}; {' '.join(found['flags'])}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("OPCODE")
    latency = found["latency"] or {}
    headings = ("COUNT", "ERRORS", *(("MIN us", "AVG us", "MAX us", "P99 us") if found["latency"] is not None else ()))
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, count in sorted(found["requests"].items(), key=lambda each: -each[1]):
        cells = [name, str(count), str(found["errors"].get(name, 0))]
        if found["latency"] is not None:
            row = latency.get(name)
            cells += [f"{row[key]:.1f}" if row else "-" for key in ("min_us", "avg_us", "max_us", "p99_us")]
        table.add_row(*cells)
    console.print(table)
    words = ("in_flight", "bad_replies", "late_replies", "gone", "interrupts", "notifications", "bad_notifications")
    console.print("  ".join(f"{word.replace('_', ' ')} {found[word]}" for word in (*words, "dropped_notifications")))
    for each in found["oldest"]:
        console.print(f"  waiting {each['seen_s']:.1f}s  {each['text']}")


@click.command()
@click.argument("mount")
@click.option("--opcode", "opcodes", multiple=True, metavar="NAME", help="Only these opcodes; may be given again.")
@click.option("--pid", type=int, help="Only requests of this process (thread) id.")
@click.option("--path", "under", metavar="PREFIX", help="Only paths in the mount that begin so, as in /a/b.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--count", type=click.IntRange(1), help="End after so many frames.")
@click.option("--seconds", type=click.FloatRange(0.1), help="End after so long.")
@click.pass_obj
def trace(
    path: str | None,
    mount: str,
    opcodes: tuple[str, ...],
    pid: int | None,
    under: str | None,
    as_json: bool,
    count: int | None,
    seconds: float | None,
) -> None:
    """Show MOUNT's frames as they go by, decoded."""
    numbers = []
    for name in opcodes:
        if name.upper() not in Opcode.__members__:
            print(f"perfusectl: --opcode {name}: names are those of fuse.h without FUSE_, e.g. LOOKUP", file=sys.stderr)
            sys.exit(EX_USAGE)
        numbers.append(int(Opcode[name.upper()]))

    def action() -> None:
        view = TraceView(pid=pid, under=under, as_json=as_json)
        request: dict[str, object] = {"op": "trace", **_named(mount)}
        if numbers and under is None:
            request["opcodes"] = numbers
        view.opcodes = frozenset(numbers) if numbers else None
        with connect(path) as connection:
            follow(connection, request, view, count, seconds)

    _guarded(action)


@click.command()
@click.argument("mount")
@click.option("-l", "--lazy", is_flag=True, help="Detach it now, end it when nobody uses it any more.")
@click.option("-f", "--force", is_flag=True, help="Abort what is under way, and detach it.")
@click.pass_obj
def umount(path: str | None, mount: str, lazy: bool, force: bool) -> None:
    """Unmount MOUNT, your own or as root any."""

    def action() -> None:
        with connect(path) as connection:
            ask(connection, {"op": "umount", **_named(mount), "lazy": lazy, "force": force})

    _guarded(action)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def probe(as_json: bool) -> None:
    """Show what this kernel's FUSE offers; needs no daemon, only the right to mount."""
    from perfused import probe as prober
    from perfused.cli.probing import show

    try:
        found = prober.probe()
    except OSError as bad:
        name = errno.errorcode.get(bad.errno or 0, "")
        _fail(f"probe: {bad.strerror or bad}{f' ({name})' if name else ''}")
    print(json.dumps(found, indent=1)) if as_json else show(found, _console())
