"""The kernel suite through perfused: the relay differs from the kernel where its profile says so, and nowhere else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from perfused.conformance.findings import UNEXPECTED, read_report
from tests.kernel.conftest import ROOT, Daemon

#: groups that a relay could spoil: what it rewrites, what it counts, what it answers itself
GROUPS = ("init/", "forget/", "interrupt/", "open/", "lookup/")


@pytest.mark.parametrize("group", GROUPS)
def test_through_the_relay_cases_go_as_they_do_without_but_for_what_the_profile_says(
    daemon: Daemon, tmp_path: Path, group: str
) -> None:
    path = tmp_path / "found.json"
    perfusectl = [sys.executable, "-m", "perfused.cli.control"]
    command = [*perfusectl, "exec", "--", *perfusectl, "conform", "kernel", "--profile", "perfused-relay"]
    done = subprocess.run(
        [*command, "--only", group, "--json", path],
        env=daemon.environment, capture_output=True, text=True, timeout=55, check=False, cwd=ROOT,
    )  # fmt: skip
    assert path.exists(), done.stderr
    found = read_report(path)
    assert len(found.findings) >= 10
    odd = [f"{each.verdict} {each.id}: {each.message}" for each in found.findings if each.verdict in UNEXPECTED]
    assert odd == [], json.dumps(odd, indent=1)
