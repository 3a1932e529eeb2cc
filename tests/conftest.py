"""Settings of all tests."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("perfused", deadline=None)
settings.load_profile("perfused")

#: pytest's own place for all runs of a user: each start closes it to others, also for a run that is under way
_PLACE = "PYTEST_DEBUG_TEMPROOT"
_made = ""


def pytest_configure(config: pytest.Config) -> None:
    """A place of this run's own for tmp_path, unless one is given."""
    global _made
    if _PLACE not in os.environ:
        # A short name: that of a socket in it has at most 107 bytes.
        _made = os.environ[_PLACE] = tempfile.mkdtemp(prefix="pf-")
        os.chmod(_made, 0o755)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove it; mounts that a failed test left in it are not entered."""
    if _made and _made not in Path("/proc/self/mountinfo").read_text(errors="replace"):
        shutil.rmtree(_made, ignore_errors=True)
