"""What is not the project's and is measured against, or draws: Python packages in a venv of the bench's own.

build/bench-venv; `make test` never comes here. Where one cannot be installed, its row says why.
"""

import os
import shutil
import subprocess
import sys
from typing import NamedTuple

from tests.bench.mounting import ROOT

VENV = ROOT / "build" / "bench-venv"
PYTHON = VENV / "bin" / "python"
BINDINGS = ("pyfuse3", "mfusepy")
#: Debian's packages that pyfuse3 is compiled with, and that mfusepy finds at run time
PACKAGES = ("libfuse3-dev", "pkg-config")


class Bindings(NamedTuple):
    """Versions of the other bindings, and why those that are missing are."""

    versions: dict[str, str]
    missing: dict[str, str]


def tried(*command: object) -> str:
    """Run it; what it said where it failed, in a line."""
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False)
    said = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
    return said[-1][:120].replace("|", "/") if done.returncode else ""


def _libraries() -> None:
    """Install what bindings are compiled with, as root on Debian."""
    there = shutil.which("pkg-config") and not tried("pkg-config", "--exists", "fuse3")
    if not there and shutil.which("apt-get") and os.geteuid() == 0:
        os.environ.setdefault("DEBIAN_FRONTEND", "noninteractive")
        tried("apt-get", "update", "-qq")
        tried("apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES)


def installed(name: str) -> tuple[str, str]:
    """Install a package into the venv: its version, or nothing and why there is none."""
    if not PYTHON.exists():
        why = tried(sys.executable, "-m", "venv", VENV)
        if why:
            return "", why
    ask = f"import importlib.metadata, {name}; print(importlib.metadata.version({name!r}))"
    if tried(PYTHON, "-c", ask):
        why = tried(PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", name)
        why = why or tried(PYTHON, "-c", ask)
        if why:
            return "", why
    return subprocess.run([PYTHON, "-c", ask], capture_output=True, text=True, check=True).stdout.strip(), ""


def bindings() -> Bindings:
    """Install the bindings that can be installed."""
    _libraries()
    found = {name: installed(name) for name in BINDINGS}
    return Bindings(
        {name: version for name, (version, _) in found.items() if version},
        {name: why for name, (version, why) in found.items() if not version},
    )
