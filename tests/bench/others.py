"""Other Python bindings to measure against, in a venv of the bench's own: build/bench-venv.

`make test` never comes here. Where one cannot be installed, its row says why.
"""

import os
import shutil
import subprocess
import sys

from tests.bench.machine import ROOT

VENV = ROOT / "build" / "bench-venv"
PYTHON = VENV / "bin" / "python"
#: Debian's packages that pyfuse3 is compiled with, and that mfusepy finds at run time
PACKAGES = ("libfuse3-dev", "pkg-config")


def _try(*command: object) -> str:
    """Run it; what it said where it failed, in a line."""
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False)
    said = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
    return said[-1][:120].replace("|", "/") if done.returncode else ""


def installed(name: str) -> tuple[str, str]:
    """Install the binding `name`: its version, or nothing and why there is none."""
    there = shutil.which("pkg-config") and not _try("pkg-config", "--exists", "fuse3")
    if not there and shutil.which("apt-get") and os.geteuid() == 0:
        os.environ.setdefault("DEBIAN_FRONTEND", "noninteractive")
        _try("apt-get", "update", "-qq")
        _try("apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES)
    if not PYTHON.exists():
        why = _try(sys.executable, "-m", "venv", VENV)
        if why:
            return "", why
    ask = f"import importlib.metadata, {name}; print(importlib.metadata.version({name!r}))"
    if _try(PYTHON, "-c", ask):
        why = _try(PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", name)
        why = why or _try(PYTHON, "-c", ask)
        if why:
            return "", why
    return subprocess.run([PYTHON, "-c", ask], capture_output=True, text=True, check=True).stdout.strip(), ""
