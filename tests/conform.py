"""The whole POSIX suite, and the exerciser, on the loopback through perfused: `python -m tests.conform`.

In a mount namespace of its own (`unshare -m`), as root. What fails in the directory underneath too is the host's. The
status is 0 where all holds. `make test` has a selection of the same (`tests/kernel/test_posix.py`).
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perfused import libc

ROOT = Path(__file__).resolve().parent.parent
CONNECTIONS = Path("/sys/fs/fuse/connections")
#: seconds all of it may take before every connection is aborted
PATIENCE = 900.0
PERFUSECTL = [sys.executable, "-m", "perfused.cli.control"]


@contextmanager
def watched() -> Iterator[None]:
    """Abort the connections that the block has made where it takes too long."""
    if not any(CONNECTIONS.iterdir()):
        try:
            libc.mount(b"none", os.fsencode(CONNECTIONS), b"fusectl", 0, None)
        except OSError:
            pass
    before = set(CONNECTIONS.iterdir())

    def abort() -> None:
        for each in set(CONNECTIONS.iterdir()) - before:
            (each / "abort").write_bytes(b"1")

    timer = threading.Timer(PATIENCE, abort)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def daemon(place: Path) -> Iterator[dict[str, str]]:
    """A perfused of its own; the environment in which it is found."""
    socket = place / "s"
    env = os.environ | {"PERFUSED_SOCKET": str(socket), "PERFUSE_NO_PRIVATE": "1", "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "perfused.cli.daemon", "--socket", str(socket), "-f"]
    with open(place / "log", "wb") as log, subprocess.Popen(line, env=env, stderr=log, cwd="/") as running:
        try:
            deadline = time.monotonic() + 20
            while not socket.exists():
                if running.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((place / "log").read_text(errors="replace"))
                time.sleep(0.02)
            yield env
        finally:
            running.terminate()


def main() -> None:
    """Print the tables."""
    with tempfile.TemporaryDirectory(prefix="conform-") as name, watched():
        place = Path(name)
        place.chmod(0o755)
        source, target = place / "source", place / "mnt"
        for each in (source, target):
            each.mkdir()
        libc.mount(b"tmpfs", os.fsencode(source), b"tmpfs", 0, None)
        try:
            with daemon(place) as env:
                loopback = [sys.executable, str(ROOT / "fixtures" / "loopback.py"), str(source), str(target)]
                line = [*PERFUSECTL, "conform", "fs", str(target), "--native", str(source), *sys.argv[1:]]
                bad = subprocess.run([*line, "--", *loopback], env=env, check=False).returncode
                print("the exerciser:", flush=True)
                bad |= _exercised(loopback, target, env)
        finally:
            libc.umount2(os.fsencode(source), libc.MNT_DETACH)
    sys.exit(bad)


def _exercised(loopback: list[str], target: Path, env: dict[str, str]) -> int:
    """The exerciser on a loopback: by one, then by four processes. SEEK_DATA behind a mapping is the kernel's."""
    from perfused.conformance.filesystem.command import mounted_by

    os.environ.update(env)
    bad = 0
    with mounted_by(loopback, target):
        for more in (["--seed", "7", "--operations", "5000", "--without", "seek"], ["--processes", "4"]):
            line = [sys.executable, "-m", "perfused.conformance.exerciser", str(target), *more]
            bad |= subprocess.run(line, env=env, check=False, cwd=ROOT).returncode
    return bad


if __name__ == "__main__":
    main()
