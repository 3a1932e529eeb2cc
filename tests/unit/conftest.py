"""Fixtures of more than one file."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.libperfuse_support import Daemon, Script, Start


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose path leaves room for a socket's name: sun_path has 108 bytes."""
    with tempfile.TemporaryDirectory(prefix="pf") as made:
        yield Path(made)


@pytest.fixture
def start(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a daemon where PERFUSED_SOCKET points."""
    monkeypatch.setenv("PERFUSED_SOCKET", str(short_path / "s"))
    monkeypatch.setenv("PERFUSE_NO_PRIVATE", "1")
    monkeypatch.delenv("PERFUSE_ENDPOINT", raising=False)
    running: list[Daemon] = []

    def started(script: Script) -> Daemon:
        running.append(Daemon(short_path / "s", script))
        return running[-1]

    yield started
    for each in running:
        each.end()
