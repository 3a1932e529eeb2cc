"""Profiles: which cases a kernel or a filesystem is expected to fail, why, and who says so; TOML, kept with the suite.

Never here: running cases.
"""

import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from perfused.conformance.findings import Expectation, Finding, Unreadable, Verdict

KEPT = Path(__file__).parent / "kernel" / "profiles"
_FORESEEN = frozenset({Verdict.FAIL, Verdict.HANG, Verdict.PANIC, Verdict.XFAIL})
_FIELDS = {"reason": str, "source": str, "sometimes": bool}


def find(name: str) -> Path:
    """The file of a profile: a path, or the name of one that is kept here. Raises Unreadable."""
    for path in (Path(name), KEPT / f"{name}.toml"):
        if path.is_file():
            return path
    kept = ", ".join(sorted(path.stem for path in KEPT.glob("*.toml"))) or "none"
    raise Unreadable(f"profile {name}: no such file, and none of those kept here: {kept}")


def fitting(kernel: str) -> Path | None:
    """The kept profile whose `kernel` a name such as "Linux 6.18.44 x86_64" begins with; the longest that does."""
    found = []
    for path in KEPT.glob("*.toml"):
        begins = str(_parsed(path).get("kernel", ""))
        if begins and (kernel == begins or kernel.startswith((begins + ".", begins + " ", begins + "-"))):
            found.append((len(begins), path))
    return max(found)[1] if found else None


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as bad:
        raise Unreadable(f"profile {path}: {bad}") from None


def read(path: Path) -> dict[str, Expectation]:
    """What a profile expects, by case. Raises Unreadable naming the field."""
    expected = _parsed(path).get("expected", {})
    if not isinstance(expected, dict):
        raise Unreadable(f"profile {path}: expected is no table")
    out = {}
    for name, fields in expected.items():
        if not isinstance(fields, dict) or "reason" not in fields:
            raise Unreadable(f"profile {path}: expected.{name}: a table with a reason was expected")
        for key, value in fields.items():
            if not isinstance(value, _FIELDS.get(key, ())):
                raise Unreadable(f"profile {path}: expected.{name}.{key} is {value!r}")
        out[name] = Expectation(**fields)
    return out


def write(path: Path, kernel: str, findings: Iterable[Finding], before: dict[str, Expectation]) -> int:
    """Write a profile that expects what failed; reasons of `before` are kept. How many cases it has. Raises OSError."""
    lines = [
        "# Cases that this kernel is expected to fail: `perfusectl conform kernel --profile`.",
        f"kernel = {json.dumps(kernel)}",
    ]
    count = 0
    for each in sorted(findings, key=lambda found: found.id):
        if each.verdict not in _FORESEEN:
            continue
        known = before.get(each.id)
        lines += ["", f"[expected.{json.dumps(each.id)}]"]
        lines.append(f"reason = {json.dumps(known.reason if known else each.message)}")
        if known and known.source:
            lines.append(f"source = {json.dumps(known.source)}")
        if known and known.sometimes:
            lines.append("sometimes = true")
        count += 1
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return count
