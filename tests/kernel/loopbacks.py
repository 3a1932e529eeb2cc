"""The loopback filesystem as a running program: started, watched, unmounted, and what it said.

Never here: what is asserted of its files (`places` and the modules that use it).
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from perfused import libc
from tests.kernel.conftest import ROOT

PROGRAM = ROOT / "fixtures" / "loopback.py"


class Loopback:
    """A loopback over `source` on `target`, mounted when this returns; `options` are its own."""

    def __init__(
        self, source: Path, target: Path, *options: str, environment: dict[str, str] | None = None, **more: object
    ) -> None:
        """`environment` says which perfused is found; with --via kernel none is looked for."""
        self.source, self.target = source, target
        self.log = target.parent / f"{target.name}.log"
        env = os.environ | {"PYTHONPATH": str(ROOT)} | (environment or {})
        with open(self.log, "ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, PROGRAM, *options, source, target],
                env=env, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, cwd="/", **more,  # type: ignore[call-overload]
            )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert b"mounted on" in line, (line, self.said())

    def said(self) -> str:
        """What it wrote to stderr: nothing, where all went well."""
        return self.log.read_text(errors="replace")

    def unmounted(self) -> int:
        """Its exit status after its mount was detached; killed where it has not ended within 20 s."""
        if self.process.poll() is None and os.path.ismount(self.target):
            libc.umount2(os.fsencode(self.target), libc.MNT_DETACH)
        return self.waited()

    def waited(self, seconds: float = 20.0) -> int:
        """Its exit status; killed, and an error, where it has none in time."""
        assert self.process.stdout is not None
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.process.stdout.close()

    def ended(self) -> None:
        """Kill it where it still runs, and take its mount away."""
        if self.process.poll() is None:
            self.process.kill()
        self.waited()
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                libc.umount2(os.fsencode(self.target), libc.MNT_DETACH)
            except OSError:
                return
