"""GlusterFS on loopback: volume files without a server, and glusterd with its volumes, bricks and healing.

Here: how they are brought up and down and asked. Never here: a mount of them, which is the tests'.
"""

import hashlib
import os
import signal
import time
from pathlib import Path

from perfused import libc
from tests.clients.network import Network, gone

#: what is needed, and the Debian package that has it
PROGRAMS = {
    "glusterfs": "glusterfs-client", "gluster": "glusterfs-cli", "glusterd": "glusterfs-server",
    "glusterfsd": "glusterfs-server", "ip": "iproute2", "nsenter": "util-linux",
}  # fmt: skip

#: directories whose names are compiled in; while glusterd runs its own are mounted over them, in our namespace only
COMPILED_IN = {"log": "/var/log/glusterfs", "lib": "/var/lib/glusterd", "sockets": "/run/gluster"}

#: layers of a fuller client, each on top of the one before it
LAYERS = {
    "locks": ("features/locks", {}),
    "write-behind": ("performance/write-behind", {"cache-size": "1MB"}),
    "read-ahead": ("performance/read-ahead", {}),
    "io-cache": ("performance/io-cache", {"cache-size": "8MB"}),
    "md-cache": ("performance/md-cache", {}),
    "io-threads": ("performance/io-threads", {"thread-count": "4"}),
}


def volfile(directory: Path, *layers: str) -> str:
    """A volume that is one directory of this machine, with these of LAYERS on top; glusterfs.vol(5) by usage."""
    text = f"volume posix\n type storage/posix\n option directory {directory}\nend-volume\n"
    below = "posix"
    for name in layers:
        kind, options = LAYERS[name]
        lines = "".join(f" option {key} {value}\n" for key, value in options.items())
        text += f"volume {name}\n type {kind}\n{lines} subvolumes {below}\nend-volume\n"
        below = name
    return text


def digests(root: Path) -> dict[str, str]:
    """SHA-256 of each regular file below a directory, by relative path; a brick's own bookkeeping is left out."""
    found = {}
    for path, directories, files in os.walk(root):
        directories[:] = [each for each in directories if each != ".glusterfs"]
        for name in files:
            whole = Path(path) / name
            if whole.is_file() and not whole.is_symlink():
                found[str(whole.relative_to(root))] = hashlib.sha256(whole.read_bytes()).hexdigest()
    return found


class Glusterd:
    """A running glusterd in a network of its own, and its volumes."""

    def __init__(self, place: Path, network: Network) -> None:
        """Start it and wait until it answers."""
        self.place = place
        self.network = network
        self.host = network.address
        self.volumes: dict[str, list[Path]] = {}
        for name, path in COMPILED_IN.items():
            (place / name).mkdir(parents=True)
            Path(path).mkdir(parents=True, exist_ok=True)
            libc.mount(os.fsencode(place / name), os.fsencode(path), None, libc.MS_BIND, None)
        settings = {
            "working-directory": place / "work", "run-directory": place / "run", "glusterd-sockfile": place / "sock",
            "transport-type": "socket", "transport.socket.listen-port": 24007, "ping-timeout": 0, "event-threads": 1,
            "max-port": 60999,
        }  # fmt: skip
        for name in ("work", "run"):
            (place / name).mkdir()
        lines = "".join(f" option {key} {value}\n" for key, value in settings.items())
        (place / "glusterd.vol").write_text(f"volume management\n type mgmt/glusterd\n{lines}end-volume\n")
        log = place / "log" / "glusterd.log"
        # A dead brick that is still in the process table would be taken for one that runs, and not be started again.
        self.reaper = network.spawn(
            "glusterd", "-N", "-f", place / "glusterd.vol", "-p", place / "pid", "-l", log,
            log=place / "log" / "output", reaping=True,
        )  # fmt: skip
        for _ in range(200):
            if (place / "sock").exists() and self.network.run(*self._cli("volume", "list")).returncode == 0:
                return
            assert self.reaper.poll() is None, self.log()
            time.sleep(0.05)
        raise AssertionError(f"glusterd does not answer\n{self.log()}")

    def _cli(self, *words: str | Path) -> list[str | Path]:
        return ["gluster", f"--glusterd-sock={self.place / 'sock'}", "--mode=script", *words]

    def ask(self, *words: str | Path) -> str:
        """gluster(8); its output. Fails with what it said."""
        done = self.network.run(*self._cli(*words))
        assert done.returncode == 0, f"gluster {' '.join(map(str, words))}: {done.stdout}{done.stderr}"
        return done.stdout

    def log(self) -> str:
        """The last lines of glusterd and its bricks."""
        logs = [*(self.place / "log").glob("*.log"), *(self.place / "log" / "bricks").glob("*.log")]
        return "\n".join(f"{each.name}:\n{each.read_text(errors='replace')[-1500:]}" for each in logs)

    def create(self, name: str, bricks: int = 1, **options: str) -> list[Path]:
        """Make and start a volume, a replica for each brick; `a_b__c` stands for option a.b-c. Its bricks."""
        made = [self.place / f"{name}-brick{number}" for number in range(bricks)]
        for each in made:
            each.mkdir()
        places = [f"{self.host}:{each}" for each in made]
        replica = ["replica", str(bricks)] if bricks > 1 else []
        self.ask("volume", "create", name, *replica, *places, "force")
        pairs = [(key.replace("__", "-").replace("_", "."), value) for key, value in options.items()]
        if pairs:
            self.ask("volume", "set", name, *(word for pair in pairs for word in pair))
        self.ask("volume", "start", name)
        self.volumes[name] = made
        return made

    def brick_pid(self, brick: Path) -> int:
        """The process that serves a brick; 0 while there is none."""
        name = f"{self.host}-{str(brick).strip('/').replace('/', '-')}.pid"
        (found,) = (self.place / "run" / "vols").glob(f"*/{name}")
        pid = int(found.read_text().strip() or 0)
        return pid if pid and not gone(pid, 0.001) else 0

    def kill_brick(self, brick: Path) -> None:
        """SIGKILL to the process of a brick, and wait for its end."""
        pid = self.brick_pid(brick)
        os.kill(pid, signal.SIGKILL)
        assert gone(pid)

    @staticmethod
    def _glfsheal() -> Path:
        return next(Path("/usr").glob("lib*/**/glusterfs/glfsheal"))

    def start_bricks(self, volume: str) -> None:
        """Start the brick processes that are missing."""
        self.ask("volume", "start", volume, "force")

    def unhealed(self, volume: str) -> list[int | None]:
        """For each brick, how many entries still have to be healed; None where its process does not answer.

        This is `gluster volume heal NAME info`, by the program it runs, which it does not tell of another socket.
        """
        lines = self.network.run(self._glfsheal(), volume, "glusterd-sock", self.place / "sock").stdout.splitlines()
        counts = [line.partition(":")[2].strip() for line in lines if line.startswith("Number of entries")]
        return [int(each) if each.isdigit() else None for each in counts]

    def heal(self, volume: str, seconds: float) -> None:
        """Have the bricks of a replica made equal, and wait for it."""
        deadline = time.monotonic() + seconds
        while any(left := self.unhealed(volume)) or None in left:
            assert time.monotonic() < deadline, f"entries not healed on each brick after {seconds:g} s: {left}"
            # Refused until the daemon that heals has found the new brick; it looks for itself every 5 s.
            self.network.run(*self._cli("volume", "heal", volume))
            time.sleep(0.5)

    def stop(self) -> None:
        """End glusterd, the bricks and the daemon that heals, and take our directories away from over the real ones."""
        pids = [int(found.read_text() or 0) for found in [self.place / "pid", *(self.place / "run").rglob("*.pid")]]
        for pid in pids:
            if pid in self.network.processes():
                os.kill(pid, signal.SIGKILL)
        for pid in pids:
            assert gone(pid)
        self.reaper.wait(timeout=10)
        for path in COMPILED_IN.values():
            libc.umount2(os.fsencode(path), libc.MNT_DETACH)
