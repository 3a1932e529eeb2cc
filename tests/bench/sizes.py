"""Lines of code: what a filesystem takes with each binding. Never here: figures of a run."""

import ast
from pathlib import Path

from tests.bench.mounting import HERE, ROOT


def lines_of_code(path: Path) -> int:
    """Lines of a Python file that hold code: no blank ones, comments and docstrings."""
    text = path.read_text()
    lines = {number for number, line in enumerate(text.splitlines(), 1) if line.strip() and line.strip()[0] != "#"}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def lines() -> dict[str, int]:
    """By what is counted."""
    return {
        "fixtures/hello.py": lines_of_code(ROOT / "fixtures" / "hello.py"),
        **{f"the smallest filesystem, {name}": lines_of_code(HERE / f"fs_{name}.py")
           for name in ("libperfuse", "pyfuse3", "mfusepy")},
        **{f"the bench's passthrough, {name}": lines_of_code(HERE / f"tree_{name}.py")
           for name in ("pyfuse3", "mfusepy")},
    }  # fmt: skip
