"""A plugin of pytest: the fixture `fuse_mount`, a filesystem that a command has mounted, for the length of a test.

pytest imports this in every run, so at its top it imports nothing of ours, and little else. The author's own tests are
never here, nor what the suite asserts.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

#: seconds a filesystem is given to let itself be unmounted before its connection is aborted
PATIENCE = 10.0
#: seconds the whole suite may take
SUITE = 900.0
_VIA = ("plain", "perfused")
_HELP = "give --fuse-command, fuse_command in the ini file, or @pytest.mark.fuse(command=[...])"


def pytest_addoption(parser: pytest.Parser) -> None:
    """--fuse-command and --fuse-via, and the same as ini values."""
    group = parser.getgroup("fuse", "filesystems in userspace")
    group.addoption(
        "--fuse-command", metavar="COMMAND", help="what mounts: a line with {source} and {mountpoint} in it"
    )
    group.addoption("--fuse-via", choices=_VIA, help="run it plain, which is so by itself, or on perfused")
    parser.addini("fuse_command", "as --fuse-command", default="")
    parser.addini("fuse_via", "as --fuse-via", default="plain")


def pytest_configure(config: pytest.Config) -> None:
    """Name the marker, for --strict-markers."""
    config.addinivalue_line("markers", "fuse(command=[...], via=...): what `fuse_mount` mounts in this test")


@dataclass
class Mounted:
    """What a test has: the mount at `path`, a fresh directory `source` that the command was given, its process."""

    path: Path
    source: Path
    program: subprocess.Popen[bytes]
    command: list[str]
    _log: Path
    _place: Path

    def log(self) -> str:
        """What the program has said so far, on both its outputs."""
        return self._log.read_text(errors="replace")

    def conform(self, only: str | Sequence[str] = (), native: bool = True) -> dict[str, Any]:
        """Run the POSIX suite in the mount; the test fails with each assertion that does not hold.

        `only` are prefixes of ids. With `native` the same is asked of a directory beside `source` first, and what fails
        there too is not the filesystem's. The report, as perfusectl conform fs --json has it.
        """
        prefixes = [only] if isinstance(only, str) else list(only)
        report, beside = self._place / "conform.json", self._place / "native"
        beside.mkdir(exist_ok=True)
        words = [sys.executable, "-m", "perfused.cli.control", "conform", "fs", str(self.path), "--json", str(report)]
        words += [word for prefix in prefixes for word in ("--only", prefix)]
        words += ["--native", str(beside)] if native else []
        report.unlink(missing_ok=True)
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=SUITE
        )
        if not report.exists():
            pytest.fail(f"the suite cannot run: {done.stderr.strip() or done.stdout.strip()}", pytrace=False)
        found: dict[str, Any] = json.loads(report.read_text())
        if done.returncode:
            bad = [each for each in found["cases"] if each["verdict"] == "FAIL"]
            lines = [line for each in bad for line in each["details"]]
            pytest.fail("\n".join([f"{len(bad)} cases of the POSIX suite fail", *lines]), pytrace=False)
        return found


def _asked(request: pytest.FixtureRequest) -> tuple[list[str], str]:
    """The command as words, and how it is run: the marker's, else the option's, else the ini file's."""
    marker, config = request.node.get_closest_marker("fuse"), request.config
    kwargs: dict[str, Any] = dict(marker.kwargs) if marker else {}
    given = kwargs.get("command") or config.getoption("--fuse-command") or config.getini("fuse_command")
    via = kwargs.get("via") or config.getoption("--fuse-via") or config.getini("fuse_via")
    if not given:
        pytest.fail(f"fuse_mount: no command that mounts: {_HELP}", pytrace=False)
    if via not in _VIA:
        pytest.fail(f"fuse_mount: via {via!r}: it is one of {', '.join(_VIA)}", pytrace=False)
    return (shlex.split(given) if isinstance(given, str) else [str(word) for word in given]), str(via)


class _Abort:
    """Aborts the connection of a mount that does not let itself be unmounted: whoever waits for it then goes on."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._timer = threading.Timer(PATIENCE, lambda: None)

    def start(self, program: subprocess.Popen[bytes]) -> None:
        """From now on there is PATIENCE; then `program` is killed too, which may be stopped."""
        from perfused.kernel import mounts

        minors = {line.minor for line in mounts() if line.target == self._path and line.fstype.startswith("fuse")}

        def abort() -> None:
            for minor in minors:
                with contextlib.suppress(OSError):
                    Path(f"/sys/fs/fuse/connections/{minor}/abort").write_bytes(b"1")
            program.kill()

        self._timer = threading.Timer(PATIENCE, abort)
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        """It is unmounted."""
        self._timer.cancel()


@pytest.fixture
def fuse_mount(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """A filesystem that the command has mounted: unmounted, and its program ended, when the test is over."""
    if os.geteuid() != 0:
        pytest.skip("fuse_mount: not root: mounting needs CAP_SYS_ADMIN")
    command, via = _asked(request)
    from perfused.conformance.filesystem.command import mounted_by
    from perfused.conformance.filesystem.runner import Unusable

    place = tmp_path_factory.mktemp("fuse").resolve()
    path, source, log = place / "mnt", place / "source", place / "log"
    for each in (place, path, source):
        each.mkdir(exist_ok=True)
        each.chmod(0o755)
    log.touch()
    words = [word.replace("{source}", str(source)).replace("{mountpoint}", str(path)) for word in command]
    if via == "perfused":
        words = [sys.executable, "-m", "perfused.cli.control", "exec", "--", *words]
    stuck = _Abort(path)
    with contextlib.ExitStack() as stack:
        stack.callback(stuck.stop)
        try:
            program = stack.enter_context(mounted_by(words, path, log))
        except Unusable as bad:
            pytest.fail(f"fuse_mount: {bad}\n{log.read_text(errors='replace')}", pytrace=False)
        try:
            yield Mounted(path, source, program, words, log, place)
        finally:
            stuck.start(program)
            print(log.read_text(errors="replace"), end="")  # shown by pytest where the test has failed
