"""The table in docs/clients.md, from what `make clients` has recorded: `python -m tests.clients.page RECORDS`.

Never here: how a record came to be.
"""

import json
import platform
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.kernel.conftest import ROOT

PAGE = ROOT / "docs" / "clients.md"
BEGIN, END = "<!-- written by make clients: begin -->", "<!-- end -->"
#: INIT flags so common that a table without them says more
PLAIN = {"INIT_EXT", "ASYNC_READ", "BIG_WRITES", "MAX_PAGES", "ATOMIC_O_TRUNC", "EXPORT_SUPPORT", "ASYNC_DIO"}

Record = Mapping[str, Any]


def records(path: Path) -> list[Record]:
    """What was recorded, a line of JSON each; of several runs of one case the last."""
    found = {}
    for line in path.read_text().splitlines():
        record = json.loads(line)
        if record["via"] == "exec":
            found[record["program"], record["asked"]] = record
    return list(found.values())


def _size(value: int | None) -> str:
    return "-" if value is None else f"{value >> 10} KiB" if value % 1024 == 0 else str(value)


def row(record: Record) -> str:
    """One program on one endpoint."""
    flags = [name for name in record.get("flags", ()) if name not in PLAIN]
    endpoint = record.get("endpoint", "-")
    if record["asked"] == "auto":
        endpoint += " (auto)"
    minor = f"7.{record['minor']}" if "minor" in record else "-"
    result = record["result"] if record["result"] == "runs" else f"**{record['result']}**"
    cells = (
        f"{record['program']}", record["version"], record["api"], record["device"], endpoint, minor,
        ", ".join(flags) or "-", _size(record.get("max_write")), result, record.get("exit_code", "-"),
        record.get("mount_s", "-"),
    )  # fmt: skip
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def notes(found: Iterable[Record]) -> list[str]:
    """What perfused has held back, each note once, with the programs it was about."""
    about: dict[str, list[str]] = {}
    for record in found:
        for note in record.get("masked", ()):
            about.setdefault(note, []).append(record["program"].partition(",")[0])
    return [f"- {note}: {', '.join(dict.fromkeys(programs))}" for note, programs in sorted(about.items())]


def table(found: list[Record]) -> list[str]:
    """All between the markers."""
    day = time.strftime("%Y-%m-%d")
    good = sum(record["result"] == "runs" for record in found)
    lines = [
        f"{day}, Linux {platform.release()}: {good} of {len(found)} run.",
        "",
        "| program | version | API | how it gets its device | endpoint | minor | INIT flags | max_write | result |"
        " exit code | mounted after s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(
            row(record)
            for record in sorted(found, key=lambda each: (each["api"], each["program"].lower(), each["asked"]))
        ),
    ]
    held = notes(found)
    if held:
        lines += ["", "What perfused held back or lowered, by its log:", "", *held]
    return lines


def written(page: str, lines: Iterable[str]) -> str:
    """The page with new text between its markers. Raises ValueError where it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no line {BEGIN} and line {END}")
    return "\n".join((before + BEGIN, "", *lines, "", END + after))


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(), table(records(Path(sys.argv[1])))))
