"""Fixtures of more than one file."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose path leaves room for a socket's name: sun_path has 108 bytes."""
    with tempfile.TemporaryDirectory(prefix="pf") as made:
        yield Path(made)
