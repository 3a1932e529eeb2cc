"""A real workload passes on a filesystem through perfused as it does on the same filesystem on the kernel alone."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fixtures import workload
from tests.kernel.conftest import BUILD, ROOT, Daemon, fuse_mounts


@pytest.fixture
def plain(target: Path) -> Callable[..., subprocess.Popen[str]]:
    """rawfs on the kernel alone, without perfused."""

    def mount(*options: str) -> subprocess.Popen[str]:
        program = subprocess.Popen([BUILD / "rawfs", *options, target], text=True, stdout=subprocess.PIPE)
        assert program.stdout is not None
        assert "mounted on" in program.stdout.readline()
        return program

    return mount


@pytest.mark.parametrize("threads", ["1", "4"])
def test_the_workload_passes_on_rawfs_without_perfused(
    target: Path, plain: Callable[..., subprocess.Popen[str]], threads: str
) -> None:
    with plain("-t", threads) as rawfs:
        workload.run(target, ROOT)
        subprocess.run(["umount", target], check=True)
        assert rawfs.wait(timeout=10) == 0


@pytest.mark.parametrize("threads", ["1", "4"])
@pytest.mark.parametrize("endpoint", ["socket", "direct"])
def test_the_workload_passes_through_perfused(
    daemons: Callable[..., Daemon], target: Path, endpoint: str, threads: str
) -> None:
    daemon = daemons(environment={"PERFUSE_ENDPOINT": endpoint})
    rawfs = daemon.rawfs(target, "-t", threads)
    workload.run(target, ROOT)
    found = daemon.stats(target)
    assert (found["state"] == "DIRECT") == (endpoint == "direct")
    assert [found["bad_replies"], found["bad_notifications"], found["in_flight"]] == [0, 0, 0]
    subprocess.run(["umount", target], check=True)
    assert rawfs.wait(timeout=10) == 0


def test_the_workload_passes_while_latencies_are_measured_and_frames_are_traced(
    daemons: Callable[..., Daemon], target: Path
) -> None:
    daemon = daemons("[requests]\ntiming = true\n", ("--trace",))
    rawfs = daemon.rawfs(target)
    watching = daemon.tracing(target)
    workload.run(target, ROOT / "wire")
    found = daemon.stats(target)
    assert found["latency"]["WRITE"]["count"] == found["requests"]["WRITE"]
    subprocess.run(["umount", target], check=True)
    assert rawfs.wait(timeout=10) == 0
    watching.communicate(timeout=20)
    assert watching.returncode == 0


def test_two_workloads_on_two_mounts_do_not_meet(daemon: Daemon, tmp_path: Path) -> None:
    targets = [tmp_path / "one", tmp_path / "two"]
    for each in targets:
        each.mkdir()
        daemon.rawfs(each)
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "fixtures.workload", each, ROOT / "wire"], cwd=ROOT, stdout=subprocess.DEVNULL
        )
        for each in targets
    ]
    assert [each.wait(timeout=50) for each in running] == [0, 0]
    assert sorted(fuse_mounts(tmp_path)) == sorted(map(str, targets))
    for each in targets:
        subprocess.run(["umount", each], check=True)
