"""The table of Samba's four ways to a directory in docs/clients.md: `python -m tests.clients.samba_page`, as root.

Run it by `unshare -m --propagation private`, on a quiet machine; it takes a minute. With --print it writes nothing.
Never here: how servers are brought up.
"""

import itertools
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from perfused import libc
from tests.clients.gluster import Glusterd
from tests.clients.network import Network
from tests.clients.page import PAGE
from tests.clients.samba import TORTURE, Session, Smbd, through_libgfapi
from tests.clients.workload import noise
from tests.kernel.conftest import CONNECTIONS, Daemon, abort, connections

BEGIN, END = "<!-- written by tests/clients/samba_page.py: begin -->", "<!-- end of Samba -->"
MIB = 64
ROUNDS = 7
#: column: the share's name
SHARES = {
    "a directory": "directory", "a glusterfs mount": "plain", "a glusterfs mount on perfused": "perfused",
    "vfs_glusterfs (libgfapi)": "gfapi",
}  # fmt: skip


class Found(NamedTuple):
    """What was seen of one share: whether the bytes came back, MiB/s of each put and get, each test's result."""

    same: bool
    puts: list[float]
    gets: list[float]
    tests: dict[str, str]


def tests(smbd: Smbd) -> dict[str, dict[str, str]]:
    """smbtorture's tests on each share, those through libgfapi at the same time as the others."""

    def libgfapi(number: int) -> str:
        # Each on a share of its own: the end of every connection takes 10 s, and they would wait for one another.
        return smbd.torture(f"gfapi{number}", TORTURE[number], 25)

    with ThreadPoolExecutor(5) as pool:
        slow = [pool.submit(libgfapi, number) for number in range(len(TORTURE))]
        found = {
            share: {test: smbd.torture(share, test) for test in TORTURE}
            for share in SHARES.values()
            if share != "gfapi"
        }
        found["gfapi"] = {test: each.result() for test, each in zip(TORTURE, slow, strict=True)}
    return found


def rates(sessions: dict[str, Session], given: Path) -> dict[str, tuple[bool, list[float], list[float]]]:
    """Put and get the file in turns, in another order each round; the first round is not counted."""
    found: dict[str, tuple[bool, list[float], list[float]]] = {share: (True, [], []) for share in sessions}
    orders = itertools.cycle(itertools.permutations(sessions))
    for number in range(ROUNDS + 1):
        for share in next(orders):
            back = given.with_name("back")
            put = sessions[share].rate(f"put {given} file")
            get = sessions[share].rate(f"get file {back}")
            same, puts, gets = found[share]
            found[share] = same and back.read_bytes() == given.read_bytes(), puts, gets
            if number:
                puts.append(put)
                gets.append(get)
    return found


def mounted(target: Path) -> None:
    """Wait until something is."""
    for _ in range(500):
        if os.path.ismount(target):
            return
        time.sleep(0.02)
    raise AssertionError(f"nothing is mounted on {target}")


def measure(place: Path) -> dict[str, Found]:
    """Bring all up, and see. Everything is ended again."""
    network = Network()
    daemon = Daemon(place, "", (), {})
    glusterd = smbd = None
    try:
        glusterd = Glusterd(place / "glusterd", network)
        glusterd.create("shared")
        paths = {share: place / share for share in ("directory", "plain", "perfused")}
        for each in paths.values():
            each.mkdir()
        for share in ("plain", "perfused"):
            log = place / f"{share}.log"
            command = network.command("glusterfs", "-s", glusterd.host, "--volfile-id=shared", "-l", log, paths[share])
            through = [sys.executable, "-m", "perfused.cli.control", "exec", "--"] if share == "perfused" else []
            subprocess.run([*through, *command], env=daemon.environment, check=True, timeout=20)
            mounted(paths[share])
        names = ["gfapi", *(f"gfapi{number}" for number in range(len(TORTURE)))]
        for name in ("of-plain", "of-perfused", *names):
            (paths["plain"] / name).mkdir()
        smbd = Smbd(
            place / "s",
            network,
            {
                "directory": {"path": paths["directory"]},
                "plain": {"path": paths["plain"] / "of-plain"},
                "perfused": {"path": paths["perfused"] / "of-perfused"},
            }
            | {name: through_libgfapi("shared", glusterd.host, f"/{name}", place / "gfapi.log") for name in names},
        )
        sessions = {share: smbd.session(share) for share in SHARES.values()}
        (place / "given").write_bytes(noise(MIB << 20))
        moved = rates(sessions, place / "given")
        for each in sessions.values():
            each.close()
        passed = tests(smbd)
        return {share: Found(*moved[share], passed[share]) for share in SHARES.values()}
    finally:
        if smbd is not None:
            smbd.stop()
        for share in ("plain", "perfused"):
            subprocess.run(["umount", place / share], check=False, capture_output=True)
        abort(connections(place))
        if glusterd is not None:
            glusterd.stop()
        daemon.stop()
        network.close()


def cell(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def table(found: dict[str, Found]) -> list[str]:
    """All between the markers."""
    columns = [found[share] for share in SHARES.values()]
    lines = [
        f"{time.strftime('%Y-%m-%d')}, Linux {platform.release()}, {os.cpu_count()} processors; Samba 4.17 and "
        f"GlusterFS 10 on one machine, one brick. Put and get: {MIB} MiB, MiB/s by smbclient, median of {ROUNDS} in "
        "turns (range).",
        "",
        f"| Samba shares | {' | '.join(SHARES)} |",
        "|---|" + "---|" * len(SHARES),
        f"| what was put comes back | {' | '.join('yes' if each.same else '**no**' for each in columns)} |",
        f"| put | {' | '.join(cell(each.puts) for each in columns)} |",
        f"| get | {' | '.join(cell(each.gets) for each in columns)} |",
    ]
    for test in TORTURE:
        lines.append(f"| {test.removeprefix('smb2.')} | {' | '.join(each.tests[test] for each in columns)} |")
    return lines


def written(page: str, lines: list[str]) -> str:
    """The page with new text between its markers. Raises ValueError where it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no line {BEGIN} and line {END}")
    return "\n".join((before + BEGIN, "", *lines, "", END + after))


def main() -> None:
    """Measure and write."""
    if not os.path.ismount(CONNECTIONS):
        libc.mount(b"fusectl", os.fsencode(CONNECTIONS), b"fusectl", 0, None)
    with tempfile.TemporaryDirectory(prefix="pf-") as made:
        lines = table(measure(Path(made)))
    print("\n".join(lines))
    if "--print" not in sys.argv:
        PAGE.write_text(written(PAGE.read_text(), lines))


if __name__ == "__main__":
    main()
