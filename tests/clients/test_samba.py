"""Samba that exports a GlusterFS mount: nothing of it knows that perfused is below."""

from collections.abc import Callable, Iterator

import pytest

from tests.clients import workload
from tests.clients.gluster import PROGRAMS as GLUSTER
from tests.clients.gluster import Glusterd
from tests.clients.harness import Case, client
from tests.clients.network import Network, lacking
from tests.clients.samba import PROGRAMS, TORTURE, Smbd, through_libgfapi

API = "GlusterFS 10"


@pytest.fixture(scope="module")
def running(namespace: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Glusterd]:
    """glusterd with a volume on one brick, in a network for smbd as well."""
    if reason := lacking(GLUSTER | PROGRAMS):
        pytest.skip(reason)
    network = Network()
    try:
        made = Glusterd(tmp_path_factory.mktemp("glusterd"), network)
        try:
            made.create("shared")
            yield made
        finally:
            made.stop()
    finally:
        network.close()


@pytest.fixture
def smbd(
    case: Case,
    running: Glusterd,
    evidence: dict[str, Callable[[], str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Smbd]:
    """smbd with the share `mount`, where the test mounts the volume, and `gfapi`, the same without a mount."""
    log = case.place / "gfapi.log"
    shares = {"mount": {"path": case.target}, "gfapi": through_libgfapi("shared", running.host, "/", log)}
    # A short name: that of a socket in it has at most 107 bytes.
    made = Smbd(tmp_path_factory.mktemp("s"), running.network, shares)
    evidence["logs of smbd"] = made.log
    try:
        yield made
    finally:
        made.stop()


def mounted(case: Case, glusterd: Glusterd) -> None:
    """Mount the volume, by a client that makes itself a daemon."""
    log = case.place / "glusterfs.log"
    command = ("glusterfs", "-s", glusterd.host, "--volfile-id=shared", "-l", log, case.target)
    case.ended(case.start(*glusterd.network.command(*command)))


@client("glusterfs, for Samba", "glusterfs-server", needs="glusterd", api=API, limit=50)
def test_what_samba_is_given_comes_back_from_a_glusterfs_mount(case: Case, running: Glusterd, smbd: Smbd) -> None:
    mounted(case, running)
    (given, back) = case.file("given", workload.noise(64 << 20)), case.place / "back"
    smbd.ask("mount", "mkdir d", f"put {given} d/file", "rename d/file d/other", f"get d/other {back}")
    assert back.read_bytes() == given.read_bytes()
    assert (case.target / "d" / "other").read_bytes() == given.read_bytes()
    direct = smbd.session("gfapi")
    direct.rate(f"get d/other {back}2")
    direct.rate(f"put {back} through-libgfapi")
    direct.close()
    assert (case.place / "back2").read_bytes() == given.read_bytes()
    assert (case.target / "through-libgfapi").read_bytes() == given.read_bytes()
    (case.target / "d" / "beside").write_bytes(b"made on the mount")
    assert {"other", "beside"} <= set(smbd.ask("mount", "ls d/*").split())
    smbd.ask("mount", "del d/other", "del d/beside", "rmdir d", "del through-libgfapi")
    assert not list(case.target.iterdir())
    smbd.stop()
    case.unmount()


@client("glusterfs, for Samba's durable handles", "glusterfs-server", needs="glusterd", api=API, limit=50)
def test_samba_on_a_glusterfs_mount_passes_what_it_passes_on_a_directory(
    case: Case, running: Glusterd, smbd: Smbd
) -> None:
    mounted(case, running)
    found = {test: smbd.torture("mount", test) for test in TORTURE}
    assert {test: result for test, result in found.items() if result != "passes"} == {}
    smbd.stop()
    case.unmount()
