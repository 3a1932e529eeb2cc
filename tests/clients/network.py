"""A network of the tests' own, in which servers listen, and the processes in it.

Here: the namespace with its one interface, how a program is started in it, and that nothing in it outlives the tests.
Never here: a particular server.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

#: an address for servers that refuse 127.0.0.1; nothing outside the namespace can reach it, or be reached
ADDRESS = "10.77.0.1"

# Runs in the namespace. Whatever becomes of the tests, their end of the pipe closes, and all that runs here is ended:
# a process is found by its namespace, so those that made themselves daemons are found as well.
KEEPER = """
import os, pathlib, signal, subprocess, sys, time

def here():
    mine, found = os.readlink("/proc/self/ns/net"), []
    for each in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            same = os.readlink(each / "ns/net") == mine
        except OSError:
            continue
        if same and int(each.name) != os.getpid():
            found.append(int(each.name))
    return found

for words in ("link set lo up", "addr add {address}/32 dev lo"):
    subprocess.run(["ip", *words.split()], check=True)
print("ready", flush=True)
sys.stdin.read()
for _ in range(100):
    found = here()
    if not found:
        break
    for pid in found:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    time.sleep(0.05)
"""

# Runs a server and waits for whatever of its descendants loses its parent: where process 1 is slow to do so, or does
# not, a dead process stays in the table, and who looks for its pid there takes it for running.
REAPER = """
import ctypes, os, subprocess, sys

assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
server = subprocess.Popen(sys.argv[1:])
while os.wait()[0] != server.pid:
    pass
"""


def lacking(packages: dict[str, str]) -> str:
    """Which Debian packages must be installed for these programs (program: package), or nothing."""
    missing = sorted({package for program, package in packages.items() if not shutil.which(program)})
    return f"not installed: {' '.join(missing)}" if missing else ""


class Network:
    """A network namespace with 127.0.0.1 and ADDRESS on its loopback interface."""

    def __init__(self) -> None:
        """Make it. Needs root, unshare(1), nsenter(1) and ip(8)."""
        self._keeper = subprocess.Popen(
            ["unshare", "--net", sys.executable, "-c", KEEPER.format(address=ADDRESS)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        assert self._keeper.stdout is not None
        assert self._keeper.stdout.readline() == "ready\n", "no network namespace could be made"
        self.address = ADDRESS
        self._namespace = os.readlink(f"/proc/{self._keeper.pid}/ns/net")

    def command(self, *words: str | Path) -> list[str]:
        """A command that runs `words` in here; the mount namespace stays its caller's."""
        return ["nsenter", f"--net=/proc/{self._keeper.pid}/ns/net", "--", *map(str, words)]

    def run(self, *words: str | Path, seconds: float = 30, **more: object) -> subprocess.CompletedProcess[str]:
        """Run a command in here to its end; its status is the caller's to check."""
        return subprocess.run(  # type: ignore[call-overload,no-any-return]
            self.command(*words), text=True, capture_output=True, timeout=seconds, check=False, **more
        )

    def spawn(self, *words: str | Path, log: Path, reaping: bool = False) -> subprocess.Popen[bytes]:
        """Start a server in here, in the foreground and in a session of its own, its output in `log`.

        With `reaping`, what it leaves to process 1 is reaped as it dies; the process returned is then the reaper.
        """
        if reaping:
            words = (sys.executable, "-c", REAPER, *words)
        with log.open("ab") as output:
            return subprocess.Popen(
                self.command(*words), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    def processes(self) -> list[int]:
        """Pids of the processes in here, but for the keeper; not of those that are dead and not yet waited for."""
        found = []
        for each in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(each / "ns/net") == self._namespace and int(each.name) != self._keeper.pid:
                    found.append(int(each.name))
            except OSError:
                continue
        return found

    def close(self) -> None:
        """End every process in here, and with the last the namespace."""
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.close()
        self._keeper.wait(timeout=20)
        self._keeper.stdout.close()


def end(processes: Iterable[subprocess.Popen[bytes]], number: signal.Signals = signal.SIGKILL) -> None:
    """Signal processes and reap them."""
    for each in processes:
        each.send_signal(number)
    for each in processes:
        each.wait(timeout=20)


def gone(pid: int, seconds: float = 20) -> bool:
    """Wait until a process has ended; whether it has. It may be a stranger's child that is never waited for."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.01)
    return False
