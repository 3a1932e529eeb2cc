"""A filesystem that a command mounts: started, waited for, unmounted, and its end waited for.

Never here: what is done with it meanwhile.
"""

import contextlib
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from perfused.conformance.filesystem.runner import Unusable
from perfused.kernel import find_target, mounts

#: seconds a command may take to mount, and to end when it is unmounted
PATIENCE = 30.0


@contextlib.contextmanager
def mounted_by(command: Sequence[str], target: Path, log: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command that mounts on `target`, and unmount when the block ends; its output goes to `log`, or ours.

    A command that goes into the background when it has mounted is as good as one that stays. Raises Unusable where it
    does not mount in time, or ends with a status that is not 0 before it has.
    """
    path = str(target.resolve())
    before = sum(1 for line in mounts() if line.target == path)
    with open(log, "ab") if log else contextlib.nullcontext() as out:
        try:
            program = subprocess.Popen(list(command), stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        except OSError as bad:
            raise Unusable(f"{command[0]}: {bad.strerror}") from None
    try:
        _await_mount(program, command[0], path, before)
        yield program
    finally:
        _end(program, path, before)


def _await_mount(program: subprocess.Popen[bytes], name: str, path: str, before: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while sum(1 for line in mounts() if line.target == path) <= before:
        if program.poll():
            raise Unusable(f"{name} ended with status {program.returncode} and has not mounted on {path}")
        if time.monotonic() > deadline:
            raise Unusable(f"{name} has not mounted on {path} within {PATIENCE:g} s")
        time.sleep(0.02)


def _end(program: subprocess.Popen[bytes], path: str, before: int) -> None:
    """Unmount what the command has mounted, lazily where it is in use, and see the command end."""
    while sum(1 for line in mounts() if line.target == path) > before:
        done = subprocess.run(["umount", path], capture_output=True, check=False)
        if done.returncode:
            with contextlib.suppress(OSError):
                find_target(path)
                subprocess.run(["umount", "-l", path], capture_output=True, check=False)
            break
    try:
        program.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        program.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.wait(5)
        program.kill()
        program.wait()
