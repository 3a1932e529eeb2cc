"""Real FUSE programs, as they are installed, through perfused: on the kernel, in a mount namespace of their own.

What is needed beside them (the daemon, the namespace, the watchdog) is that of tests/kernel.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from perfused.cli.control import COMMANDS
from tests.clients.harness import VIA, Case, Program, lacking
from tests.kernel.conftest import (  # noqa: F401  fixtures and a hook of these tests, too
    Daemon,
    daemon,
    daemons,
    evidence,
    missing,
    namespace,
    pytest_runtest_makereport,
    target,
    watchdog,
)


def pytest_configure(config: pytest.Config) -> None:
    """The marker that client() sets."""
    config.addinivalue_line("markers", "client(program): runs this FUSE program, unmodified")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what this machine cannot run."""
    here = missing()
    for item in items:
        if not Path(item.fspath).is_relative_to(Path(__file__).parent):
            continue
        marker = item.get_closest_marker("client")
        reason = here or (lacking(marker.args[0]) if marker else "")
        if VIA != "plain" and "exec" not in COMMANDS:
            reason = "perfusectl has no exec: PERFUSE_CLIENTS_VIA=plain runs the programs without"
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_exception_interact(node: pytest.Item, report: pytest.TestReport) -> None:
    """Tell the case that its test has failed."""
    node.failed = True  # type: ignore[attr-defined]


@pytest.fixture
def case(
    request: pytest.FixtureRequest,
    endpoint: str,
    tmp_path: Path,
    daemons: Callable[..., Daemon],  # noqa: F811
    evidence: dict[str, Callable[[], str]],  # noqa: F811
) -> Iterator[Case]:
    """The program of the test's client(), not yet started, with a daemon of its own."""
    program: Program = request.node.get_closest_marker("client").args[0]
    for each in (tmp_path, *tmp_path.parents):
        if each.stat().st_uid == os.geteuid() and not each.stat().st_mode & 0o001:
            each.chmod(each.stat().st_mode | 0o011)  # some programs become a user of their own
    place = tmp_path / "case"
    place.mkdir()
    made = Case(program, endpoint, place, None if VIA == "plain" else daemons())
    evidence[f"log of {program.name}"] = made.log
    yield made
    result = "fails"
    try:
        made.close()
        if not getattr(request.node, "failed", False):
            result = "runs"
    finally:
        made.save(result)
