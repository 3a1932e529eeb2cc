"""MooseFS, whose client is told by the master what others change, and tells the kernel."""

import json
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients import workload, workload_posix
from tests.clients.harness import SOON, Case, client
from tests.clients.moosefs import PROGRAMS, MooseFS
from tests.clients.network import Network, lacking
from tests.kernel.conftest import eventually

API = "libfuse 3.14"


@pytest.fixture(scope="module")
def running(namespace: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MooseFS]:
    """A master and a chunk server in a network of their own."""
    if reason := lacking(PROGRAMS):
        pytest.skip(reason)
    network = Network()
    try:
        made = MooseFS(tmp_path_factory.mktemp("moosefs"), network)
        try:
            made.wait()
            yield made
        finally:
            made.stop()
    finally:
        network.close()


@pytest.fixture
def moosefs(running: MooseFS, evidence: dict[str, Callable[[], str]]) -> MooseFS:
    """The same; what the servers say is shown when a test fails."""
    evidence["logs of the servers"] = running.log
    return running


def mount(case: Case, moosefs: MooseFS, target: Path) -> subprocess.Popen[bytes]:
    """Mount it in the foreground. It must be `nsenter`: `ip netns exec` would mount where nobody else sees it."""
    options = ("-f", "-H", moosefs.network.address, "-o", "mfslimitarenas=1,mfsnice=0,mfscachemode=YES")
    return case.start(*moosefs.network.command("mfsmount", *options, target), target=target)


@client("mfsmount", "moosefs-client", api=API, limit=50)
def test_moosefs(case: Case, moosefs: MooseFS) -> None:
    program = mount(case, moosefs, case.target)
    workload.tree(case.target)
    workload_posix.attributes(case.target)
    workload_posix.locks(case.target)
    workload_posix.unlinked_while_open(case.target)
    workload_posix.parallel(case.target)
    workload.big_file(case.target / "big", 64 << 20)
    assert any((moosefs.place / "chunks").rglob("chunk_*")), "nothing is on the chunk server"
    case.unmounted(program)


@client("mfsmount, two", "moosefs-client", needs="mfsmount", api=API, limit=50)
def test_what_one_moosefs_mount_changes_is_seen_by_another(case: Case, moosefs: MooseFS) -> None:
    other = case.directory("other")
    programs = [mount(case, moosefs, target) for target in (case.target, other)]
    watching = case.daemon and case.daemon.tracing(case.target, "--json")
    ours, theirs = case.target / "file", other / "file"
    ours.write_bytes(b"before")
    eventually(theirs.exists, "the other mount has the file")
    for content in (b"after", b"longer than it was", workload.noise(200_000)):
        assert theirs.read_bytes() == ours.read_bytes()
        theirs.write_bytes(content)
        eventually(lambda content=content: ours.read_bytes() == content, "the change is seen")
    for program, target in zip(programs, (case.target, other), strict=True):
        case.unmounted(program, target=target)
    if watching:
        frames = [json.loads(line) for line in watching.communicate(timeout=SOON)[0].splitlines()]
        seen = Counter(each["frame"]["name"] for each in frames if each["direction"] == "notification")
        assert seen["INVAL_INODE"] >= 3, "each change of a file that the kernel had read is told"
