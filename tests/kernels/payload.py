"""What a guest gets: the suite and all it imports, in one directory. Never here: running, and archives."""

import json
import py_compile
import shutil
import sys
from pathlib import Path
from typing import Any

from tests.kernel.conftest import ROOT

#: how much of a case's transcript comes out of a guest
LINES = 60


def _suite(into: Path) -> None:
    import construct

    shutil.rmtree(into, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for source in (ROOT / "wire", ROOT / "perfused", Path(construct.__file__).parent):
        shutil.copytree(source, into / source.name, ignore=ignored)
    shutil.copy(ROOT / "tests" / "kernels" / "guest.py", into)


def for_this_python(into: Path) -> None:
    """The suite for a guest that uses this machine's interpreter; its C part of cffi too."""
    import _cffi_backend

    _suite(into)
    shutil.copy(_cffi_backend.__file__, into)


def for_debian(into: Path, root: Path) -> None:
    """The suite for a guest that uses the Python of Debian packages unpacked in `root`, with its cffi."""
    _suite(into)
    for each in root.glob("usr/lib/python3/dist-packages/_cffi_backend*.so"):
        shutil.copy(each, into)


def compiled(directory: Path, tag: str) -> None:
    """Compile all modules below, where this interpreter makes files that the guest's (`tag`) reads: emulators crawl."""
    if sys.implementation.cache_tag != tag:
        return
    for each in directory.rglob("*.py"):
        made = each.parent / "__pycache__" / f"{each.stem}.{tag}.pyc"
        if not made.exists():
            py_compile.compile(
                str(each), str(made), quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
            )


def options(place: Path, **given: Any) -> None:
    """What a guest is told: cases, modules, patience, wait, fresh, temporary."""
    usual: dict[str, Any] = {"modules": [], "lines": LINES, "fresh": False, "temporary": ""}
    (place / "options.json").write_text(json.dumps(usual | given) + "\n")
