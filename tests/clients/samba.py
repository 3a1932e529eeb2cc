"""Samba on loopback: smbd with shares, and what clients do with one.

Never here: how the directories that are shared are mounted.
"""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

from tests.clients.network import Network, gone

#: what is needed, and the Debian package that has it
PROGRAMS = {
    "smbd": "samba", "smbpasswd": "samba-common-bin", "smbclient": "smbclient", "smbtorture": "samba-testsuite",
    "nsenter": "util-linux", "ip": "iproute2",
}  # fmt: skip
USER, PASSWORD = "root", "password"

#: so that a durable handle is granted: no lock, oplock or share mode may be the kernel's
DURABLE = {"durable handles": "yes", "kernel oplocks": "no", "kernel share modes": "no", "posix locking": "no"}

#: smbtorture's tests that pass on a directory of ext4 with these settings
TORTURE = (
    "smb2.durable-open.open-oplock", "smb2.durable-open.open-lease", "smb2.durable-open.reopen1",
    "smb2.durable-open.reopen2", "smb2.durable-open.reopen4", "smb2.durable-open.lock-oplock",
    "smb2.durable-v2-open.create-blob", "smb2.durable-v2-open.open-oplock", "smb2.durable-v2-open.reopen1",
    "smb2.durable-v2-open.reopen2", "smb2.durable-v2-open.reopen2-lease", "smb2.read", "smb2.mkdir", "smb2.lock",
)  # fmt: skip


def through_libgfapi(volume: str, host: str, path: str, log: Path) -> dict[str, str | Path]:
    """Parameters of a share of a GlusterFS volume without a mount."""
    return {
        "path": path, "vfs objects": "glusterfs", "glusterfs:volume": volume, "glusterfs:volfile_server": host,
        "glusterfs:logfile": log,
    }  # fmt: skip


class Session:
    """A client that is connected to a share. Its end does not wait for the server's: libgfapi's takes 10 s."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def rate(self, command: str) -> float:
        """Do a put or a get; MiB a second, by what the client says.

        One line at a time: it polls a pipe of which its own buffer may hold the next line already.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if found := re.search(r"\(([\d.]+) (?:kb/s|KiloBytes/sec)\) \(average", line):
                return float(found[1]) / 1024
            assert "NT_STATUS" not in line, f"{command}: {line}"
        raise AssertionError(f"{command}: smbclient has ended with {self.process.wait()}")

    def close(self) -> None:
        """End the client."""
        self.process.kill()
        self.process.communicate(timeout=10)


class Smbd:
    """A running smbd in a network of its own, on port 445 there."""

    def __init__(self, place: Path, network: Network, shares: dict[str, dict[str, str | Path]]) -> None:
        """Start it with these shares (name: parameters of smb.conf(5)) and wait until it answers."""
        self.place = place
        self.network = network
        kept = ("lock directory", "state directory", "cache directory", "pid directory", "private dir", "ncalrpc dir")
        settings: dict[str, str | Path] = {
            "server role": "standalone server", "interfaces": "127.0.0.1/8", "bind interfaces only": "yes",
            "disable netbios": "yes", "disable spoolss": "yes", "load printers": "no", "smb ports": "445",
            "log file": place / "log" / "smbd", **DURABLE,
        }  # fmt: skip
        for name in ("log", *kept):
            (place / name.replace(" ", "-")).mkdir(parents=True)
        settings |= {name: place / name.replace(" ", "-") for name in kept}
        text = ""
        for section, parameters in {"global": settings, **shares}.items():
            more = {} if section == "global" else {"read only": "no"}
            text += f"[{section}]\n" + "".join(f"  {key} = {value}\n" for key, value in (more | parameters).items())
        self.config = place / "smb.conf"
        self.config.write_text(text)
        added = ["smbpasswd", "-c", self.config, "-s", "-a", USER]
        subprocess.run(added, input=f"{PASSWORD}\n{PASSWORD}\n", text=True, check=True, capture_output=True, timeout=20)
        command = ("smbd", "-F", "--no-process-group", "-s", self.config)
        self.process = network.spawn(*command, log=place / "output", reaping=True)
        for _ in range(200):
            if network.run(*self._client("IPC$", "quit")).returncode == 0:
                return
            assert self.process.poll() is None, self.log()
            time.sleep(0.05)
        raise AssertionError(f"smbd does not answer\n{self.log()}")

    def _client(self, share: str, *commands: str) -> list[str | Path]:
        # -E: to the standard error, which has no buffer
        given = ["-c", "; ".join(commands)] if commands else []
        return ["smbclient", "-E", "-s", self.config, "-U", f"{USER}%{PASSWORD}", f"//127.0.0.1/{share}", *given]

    def log(self) -> str:
        """What it has said last."""
        logs = [self.place / "output", *(self.place / "log").glob("*")]
        return "\n".join(f"{each.name}:\n{each.read_text(errors='replace')[-2000:]}" for each in logs if each.is_file())

    def ask(self, share: str, *commands: str, seconds: float = 60) -> str:
        """smbclient(1): these commands on one connection; what it prints. Fails where one of them does."""
        done = self.network.run(*self._client(share, *commands), seconds=seconds)
        said = done.stdout + done.stderr
        assert done.returncode == 0, f"{share}: {commands}: {said}"
        assert "NT_STATUS" not in said, f"{share}: {commands}: {said}"
        return said

    def session(self, share: str) -> "Session":
        """A connection that stays."""
        return Session(self.network.command(*self._client(share)))

    def torture(self, share: str, test: str, seconds: float = 20) -> str:
        """smbtorture(1): `passes`, `fails: WHY`, or `no answer in N s`."""
        command = ("smbtorture", "-s", self.config, "-U", f"{USER}%{PASSWORD}", f"//127.0.0.1/{share}", test)
        try:
            done = self.network.run(*command, seconds=seconds)
        except subprocess.TimeoutExpired:
            return f"no answer in {seconds:g} s"
        if done.returncode == 0 and "success:" in done.stdout:
            return "passes"
        why = re.findall(r"(?:Incorrect|incorrect|was|wrong).*|NT_STATUS_\w+", done.stdout)
        return f"fails: {why[0].partition(' - should')[0][:60] if why else f'status {done.returncode}'}"

    def stop(self) -> None:
        """End it and its children."""
        found = self.place / "pid-directory" / "smbd.pid"
        pid = int(found.read_text()) if found.exists() else 0
        for each in self.network.processes():
            try:
                if each == pid or "smbd" in Path(f"/proc/{each}/comm").read_text():
                    os.kill(each, signal.SIGKILL)
                    gone(each)
            except (FileNotFoundError, ProcessLookupError):
                pass
        self.process.wait(timeout=10)
