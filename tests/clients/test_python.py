"""Filesystems on Python bindings of libfuse 2 and 3, run by an interpreter of their own."""

import pytest

from tests.clients import workload
from tests.clients.harness import VENV, Case, client
from tests.kernel.conftest import ROOT

PYTHON = VENV / "bin" / "python"


def needs(module: str) -> None:
    """Skip where the interpreter lacks a module."""
    if not list(VENV.glob(f"lib/python*/site-packages/{module}-*.dist-info")):
        pytest.skip(f"package {module} is not installed: make clients installs it")


@client(
    "pyfuse3", "pyfuse3", needs=PYTHON, api="libfuse 3.14, low level", endpoints=("auto", "socket", "device"), eof=1
)
def test_pyfuse3_with_a_filesystem_in_memory(case: Case) -> None:
    needs("pyfuse3")
    program = case.start(PYTHON, ROOT / "tests" / "clients" / "fs_pyfuse3.py", case.target)
    workload.tree(case.target, without={"link"})
    workload.big_file(case.target / "big")
    case.unmounted(program)


@client("mfusepy", "mfusepy", needs=PYTHON, api="libfuse 2.9, paths")
def test_mfusepy_with_a_directory(case: Case) -> None:
    needs("mfusepy")
    source = case.directory("source")
    program = case.start(PYTHON, ROOT / "tests" / "clients" / "fs_mfusepy.py", source, case.target)
    (case.target / "through").write_bytes(b"the mount")
    assert (source / "through").read_bytes() == b"the mount"
    workload.tree(case.target)
    workload.big_file(case.target / "big")
    case.unmounted(program)
