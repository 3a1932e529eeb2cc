"""MooseFS on loopback: a master and a chunk server.

Here: how they are brought up and down. Never here: mounting it, which is the tests'.
"""

import shutil
import time
from pathlib import Path

from tests.clients.network import Network, end

#: what is needed, and the Debian package that has it
PROGRAMS = {
    "mfsmount": "moosefs-client", "mfsmaster": "moosefs-master", "mfschunkserver": "moosefs-chunkserver",
    "ip": "iproute2", "nsenter": "util-linux",
}  # fmt: skip

#: metadata of a filesystem without files, from which a master starts
EMPTY = Path("/var/lib/mfs/metadata.mfs.empty")


class MooseFS:
    """A running master and chunk server in a network of their own. The chunk server refuses a master on 127.0.0.1."""

    def __init__(self, place: Path, network: Network) -> None:
        """Start both; neither is waited for."""
        self.place = place
        self.network = network
        for name in ("master", "server", "chunks"):
            (place / name).mkdir(parents=True)
        shutil.copy(EMPTY, place / "master" / "metadata.mfs")
        (place / "exports").write_text("* / rw,alldirs,admin,maproot=0:0\n* . rw\n")
        (place / "topology").write_text("")
        # No size limit: the server would take what the whole disk holds for its own, and have no room.
        (place / "disks").write_text(f"{place / 'chunks'}\n")
        common = {"WORKING_USER": "root", "WORKING_GROUP": "root", "NICE_LEVEL": 0, "DISABLE_OOM_KILLER": 0}
        master = common | {
            "DATA_PATH": place / "master", "EXPORTS_FILENAME": place / "exports",
            "TOPOLOGY_FILENAME": place / "topology",
            **{f"{listener}_LISTEN_HOST": network.address for listener in ("MATOML", "MATOCS", "MATOCL")},
        }  # fmt: skip
        server = common | {
            "DATA_PATH": place / "server", "HDD_CONF_FILENAME": place / "disks", "MASTER_HOST": network.address,
            "BIND_HOST": network.address, "CSSERV_LISTEN_HOST": network.address, "WORKERS_MAX": 16,
            "WORKERS_MAX_IDLE": 4, "MASTER_RECONNECTION_DELAY": 1,
        }  # fmt: skip
        self.processes = []
        for program, settings in (("mfsmaster", master), ("mfschunkserver", server)):
            file = place / f"{program}.cfg"
            file.write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))
            log = place / f"{program}.log"
            self.processes.append(network.spawn(program, "-c", file, "-f", "start", log=log))

    def wait(self, seconds: float = 30) -> None:
        """Wait until the chunk server has found its master. Fails with the logs after `seconds`."""
        deadline = time.monotonic() + seconds
        while "connected to Master" not in self.log():
            dead = [each.args for each in self.processes if each.poll() is not None]
            assert not dead, f"{dead} has ended\n{self.log()}"
            assert time.monotonic() < deadline, f"no master after {seconds:g} s\n{self.log()}"
            time.sleep(0.02)

    def log(self) -> str:
        """What both have said so far."""
        logs = sorted(self.place.glob("*.log"))
        return "\n".join(f"{each.name}:\n{each.read_text(errors='replace')[-3000:]}" for each in logs)

    def stop(self) -> None:
        """End both. Killed: they take up to 10 s to end of themselves, and nothing of theirs is kept."""
        end(self.processes)
