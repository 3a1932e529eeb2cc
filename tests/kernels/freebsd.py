"""docs/freebsd-cases.md: each case of FreeBSD's suite for its FUSE, and the case here that checks the same.

`python -m tests.kernels.freebsd` writes it from the tables beside the cases.
"""

import tomllib
from pathlib import Path

from perfused.conformance import kernel
from perfused.conformance.kernel.case import cases

TABLES = Path(kernel.__file__).parent / "freebsd"
PAGE = Path(__file__).parent.parent.parent / "docs" / "freebsd-cases.md"
HEAD = """\
# FreeBSD's cases and ours

FreeBSD has the largest suite for a kernel's side of FUSE beside this one (tests/sys/fs/fusefs). Nothing of it was
taken over; its list of cases was read for what should be covered. This table says which case here checks what each of
its cases does, or why none does. Names of its cases are those of its files, as far as they are known here.

"""


def table() -> dict[str, str]:
    """FreeBSD's `file.case` -> our id, or "- " and a reason. Raises ValueError where two tables differ."""
    found: dict[str, str] = {}
    for path in sorted(TABLES.glob("*.toml")):
        for theirs, ours in tomllib.loads(path.read_text(encoding="utf-8")).items():
            # What one theme leaves to another has its answer there.
            if theirs not in found or found[theirs].startswith("-"):
                found[theirs] = str(ours)
    return dict(sorted(found.items()))


def strangers() -> list[str]:
    """Ids in the table that no case has."""
    known = {each.id for each in cases()}
    return sorted({each for ours in table().values() if not ours.startswith("-") for each in _ids(ours)} - known)


def _ids(ours: str) -> list[str]:
    return [each.strip() for each in ours.split(",")]


def page() -> str:
    """The page."""
    rows = table()
    mapped = sum(1 for ours in rows.values() if not ours.startswith("-"))
    lines = [f"{len(rows)} cases: {mapped} have one here, {len(rows) - mapped} a reason why not.", ""]
    lines += ["| FreeBSD | here |", "|---|---|"]
    for theirs, ours in rows.items():
        shown = ours[1:].strip() if ours.startswith("-") else ", ".join(f"`{each}`" for each in _ids(ours))
        lines.append(f"| {theirs} | {shown} |")
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
