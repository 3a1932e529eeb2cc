"""Programs that serve a filesystem, started in each of the three ways there are, and ended in every test's end."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kernel.conftest import ROOT, eventually, fuse_mounts

VIAS = ("perfused", "private", "kernel")


class Served:
    """A program that serves filesystems, each on an empty directory."""

    def __init__(self, command: list[str | Path], targets: list[Path], environment: dict[str, str], log: Path) -> None:
        self.target, self.targets = targets[0], targets
        self.log = log
        with open(log, "wb") as errors:
            self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT)
        for each in targets:
            eventually(lambda each=each: fuse_mounts(each) or self.process.poll() is not None, f"{each} is mounted")  # type: ignore[misc]
        assert self.process.poll() is None, self.said()

    def said(self) -> str:
        """What it wrote to stderr."""
        return self.log.read_text(errors="replace")

    def signalled(self, number: signal.Signals) -> int:
        """Its exit status after a signal."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self, seconds: float = 20) -> int:
        """Its exit status; where it goes on, what its threads are doing is the failure."""
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            self.process.wait()
            pytest.fail(f"it has not ended within {seconds:g} s\n{self.said()}")

    def unmounted(self) -> int:
        """Its exit status after umount(8) of all."""
        for each in self.targets:
            subprocess.run(["umount", each], check=True)
        return self.ended()

    def end(self) -> None:
        """Kill it where it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        for each in self.targets:
            for _ in fuse_mounts(each):
                subprocess.run(["umount", "-l", each], check=False, capture_output=True)


Serve = Callable[..., Served]


@pytest.fixture
def serve(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Serve]:
    """`serve("fixtures/hello.py", *options, via="kernel", mounts=1)`: started, mounted on directories of its own."""
    made: list[Served] = []

    def start(script: str | Path, *options: str, via: str = "kernel", mounts: int = 1) -> Served:
        environment = os.environ | {"PERFUSE_VIA": via, "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"}
        if via == "perfused":
            environment |= request.getfixturevalue("daemon").environment
        else:
            environment.pop("PERFUSE_NO_PRIVATE", None)
        targets = [tmp_path / f"served{len(made)}-{number}" for number in range(mounts)]
        for each in (tmp_path, *list(tmp_path.parents)[:2]):
            each.chmod(0o755)
        for each in targets:
            each.mkdir()
        command = [sys.executable, ROOT / script, *options, *targets]
        made.append(Served(command, targets, environment, tmp_path / f"stderr{len(made)}"))
        return made[-1]

    yield start
    for each in made:
        each.end()
    for each in made:
        assert each.said() == "", "it wrote to stderr"
