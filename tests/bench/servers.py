"""The contestants of the Python server: the smallest filesystem, written for each, and what an idle one takes.

Never here: how the work is done and counted (`machine`), and where other bindings come from (`others`).
"""

import ast
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from tests.bench import others
from tests.bench.machine import HERE, ROOT, Found, Work, daemon, mounted, pinned, pss, take_turns

WORK = (
    Work("getattr", "getattr", 2000),
    Work("lookup", "lookup", 1000),
    Work("open, close", "open", 1000),
    Work("4 KiB read", "read", 2000, 4096),
    Work("128 KiB read", "read", 800, 131072),
    Work("1 MiB read", "read", 200, 1 << 20),
    Work("4 KiB write", "write", 1000, 4096),
    Work("1 MiB write", "write", 200, 1 << 20),
)
QUICK = (WORK[0], WORK[3], WORK[5])
#: contestants by name; ratios are against the first, targets are about the second
C, ONE, PACKED, FOUR = "C", "libperfuse", "libperfuse, packed", "4 threads"
COROUTINES, BEHIND = "asyncio", "behind perfused"
PYFUSE3, MFUSEPY = "pyfuse3", "mfusepy"


class Bindings(NamedTuple):
    """Versions of the other bindings, and why those that are missing are."""

    versions: dict[str, str]
    missing: dict[str, str]


def bindings() -> Bindings:
    """Install what can be installed."""
    found = {name: others.installed(name) for name in (PYFUSE3, MFUSEPY)}
    return Bindings(
        {name: version for name, (version, _) in found.items() if version},
        {name: why for name, (version, why) in found.items() if not version},
    )


def commands(place: Path, given: Bindings) -> dict[str, list[str | Path]]:
    """How each contestant is started."""
    ours = [sys.executable, HERE / "fs_libperfuse.py", "TARGET"]
    return {
        C: [place / "server", "TARGET"],
        ONE: [*ours, "kernel", "1"],
        PACKED: [*ours, "kernel", "1", "packed"],
        FOUR: [*ours, "kernel", "4"],
        COROUTINES: [sys.executable, HERE / "fs_asyncio.py", "TARGET", "kernel"],
        BEHIND: [*ours, "perfused", "1"],
        **{name: [others.PYTHON, HERE / f"fs_{name}.py", "TARGET"] for name in given.versions},
    }


def rows(place: Path, cores: set[int], given: Bindings) -> Found:
    """Figures by work and contestant. A binding that is there but does not mount is put among the missing."""
    tag = f"{len(cores)} core"
    with pinned(cores), ExitStack() as stack:
        environment, _, _ = stack.enter_context(daemon(place, f"servers{len(cores)}"))
        contestants = {}
        for name, command in commands(place, given).items():
            try:
                contestants[name] = stack.enter_context(mounted(place, f"{name} {tag}", command, environment))
            except RuntimeError as bad:
                if name not in given.versions:
                    raise
                given.missing[name] = str(bad)[:120].replace("\n", " ").replace("|", "/")
        return take_turns(place, WORK, contestants)


def memory(place: Path, given: Bindings) -> dict[str, float]:
    """MiB (PSS) of each server alone, mounted and idle."""
    found = {}
    with daemon(place, "memory") as (environment, _, _):
        for name, command in commands(place, given).items():
            if name in given.missing:
                continue
            with mounted(place, f"{name} idle", command, environment) as (_, pid):
                time.sleep(0.5)
                found[name] = pss(pid)
    return found


def quick(place: Path, seconds: float) -> Found:
    """The hot paths alone, on one core, within about `seconds`."""
    with pinned({0}), daemon(place, "quick") as (environment, _, _):
        ours = commands(place, Bindings({}, {}))
        with (
            mounted(place, "C quick", ours[C], environment) as plain,
            mounted(place, "libperfuse quick", ours[ONE], environment) as one,
            mounted(place, "relay quick", [place / "relay", "TARGET", place / "server"], environment) as relay,
            mounted(place, "socket quick", [place / "server-perfuse", "TARGET"], environment) as socket,
        ):
            contestants = {C: plain, ONE: one, "C relay": relay, "perfused socket": socket}
            return take_turns(place, QUICK, contestants, rounds=1000, seconds=seconds)


def lines_of_code(path: Path) -> int:
    """Lines of a Python file that hold code: no blank ones, comments and docstrings."""
    text = path.read_text()
    lines = {number for number, line in enumerate(text.splitlines(), 1) if line.strip() and line.strip()[0] != "#"}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def sizes() -> dict[str, int]:
    """Lines of code by what is counted."""
    return {
        "fixtures/hello.py": lines_of_code(ROOT / "fixtures" / "hello.py"),
        **{f"the filesystem measured here, for {name}": lines_of_code(HERE / f"fs_{name}.py")
           for name in (ONE, PYFUSE3, MFUSEPY)},
    }  # fmt: skip
