"""Filesystems whose file is backed by another.

Never here: what is expected of them.
"""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from libperfuse import backing, perfuse_mount, perfuse_open
from libperfuse.backing import backing_open
from libperfuse.connection import PerfuseError
from tests.kernel.conftest import ROOT, Daemon
from tests.kernel.scripted import Answer, Scripted, init_reply
from wire import codec
from wire.flags import InitFlag, OpenFlag
from wire.opcodes import Opcode

TEXT = b"what the backing file holds"

WANTED = int(InitFlag.INIT_EXT | InitFlag.PASSTHROUGH)


def agreeing(fs: Scripted, head: codec.InHeader, body: bytes) -> Answer:
    """A handler of INIT that agrees on passthrough."""
    return init_reply(WANTED, max_stack_depth=1)


class Backed:
    """A scripted filesystem whose one file is backed by `path`, registered when it is opened."""

    def __init__(self, path: Path, flags: int = os.O_RDWR) -> None:
        self.path, self.flags = path, flags
        self.ids: list[int] = []
        self.fs = Scripted({Opcode.INIT: agreeing, Opcode.OPEN: self._open})

    def mount(self, target: Path, **more: Any) -> "Backed":
        self.fs.fd = perfuse_open("/dev/fuse", **more)
        perfuse_mount("backed", str(target), "fuse.backed", 0, f"fd={self.fs.fd},rootmode=40000,user_id=0,group_id=0")
        self.fs.serve().wait_for(Opcode.INIT)
        assert os.path.lexists(target / "file"), "INIT is behind us"
        return self

    def _open(self, fs: Scripted, head: codec.InHeader, body: bytes) -> Answer:
        fd = os.open(self.path, self.flags)
        try:
            self.ids.append(backing_open(fs.fd, fd))
        except PerfuseError as bad:
            return -(bad.errno or errno.EIO)
        finally:
            os.close(fd)
        return codec.open_out.pack(1, int(OpenFlag.PASSTHROUGH), self.ids[-1])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file to back others with."""
    made = tmp_path / "backing"
    made.write_bytes(TEXT)
    return made


@pytest.fixture
def backed(path: Path, target: Path) -> Iterator[Callable[..., Backed]]:
    """Mount a Backed through the current daemon."""
    made: list[Backed] = []

    def mount(flags: int = os.O_RDWR, **more: Any) -> Backed:
        made.append(Backed(path, flags))
        return made[-1].mount(target, **more)

    yield mount
    for each in made:
        each.fs.close()
    for number in list(backing._links):
        backing._forget(number)


def run(daemon: Daemon, program: str, *arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=daemon.environment | {"PYTHONPATH": str(ROOT)},
        text=True, capture_output=True, timeout=40, check=False, cwd=ROOT,
    )  # fmt: skip
    assert not done.stderr, done.stderr
    return done.stdout.strip()
