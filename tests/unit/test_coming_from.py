"""The path-based filesystem of docs/coming-from.md keeps its paths as it says."""

import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from libperfuse import Request
from wire import codec

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "coming-from.md"


@pytest.fixture
def paths(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The page's Paths, as it is printed."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    module = types.ModuleType("coming_from")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(block, str(PAGE), "exec", dont_inherit=True), module.__dict__)
    return module.Paths()  # type: ignore[attr-defined]


def rename(paths: Any, olddir: int, name: bytes, newdir: int, newname: bytes) -> None:
    header = codec.in_header.make(nodeid=olddir)
    paths.rename2(Request(*header), codec.rename2_in.make(newdir=newdir), name, newname)


def test_a_path_is_made_of_the_names_above(paths: Any) -> None:
    directory, _ = paths.entered(1, b"directory")
    _, file = paths.entered(directory, b"file")
    assert file.path() == b"/directory/file"


def test_a_rename_moves_all_that_is_below(paths: Any) -> None:
    directory, _ = paths.entered(1, b"directory")
    _, file = paths.entered(directory, b"file")
    rename(paths, 1, b"directory", 1, b"moved")
    assert file.path() == b"/moved/file"
    assert paths.entered(1, b"moved")[0] == directory


def test_a_name_that_was_renamed_away_is_another_file_next_time(paths: Any) -> None:
    nodeid, _ = paths.entered(1, b"file")
    rename(paths, 1, b"file", 1, b"other")
    assert paths.entered(1, b"file")[0] != nodeid
