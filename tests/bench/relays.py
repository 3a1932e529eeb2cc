"""The contestants of the relay: the smallest C filesystem alone, behind the smallest C relay, and behind perfused.

And what mounting costs. Never here: filesystems in Python (`servers`).
"""

import subprocess
import sys
import time
from pathlib import Path

from tests.bench.machine import ROOT, Found, Work, daemon, family, mounted, pinned, pss, take_turns

WORK = (
    Work("getattr", "getattr", 4000),
    Work("4 KiB read", "read", 4000, 4096),
    Work("128 KiB read", "read", 1500, 131072),
)


def rows(place: Path, cores: set[int]) -> Found:
    """Figures by work and contestant."""
    tag = f"{len(cores)}c"
    with pinned(cores), daemon(place, f"bench{tag}") as (environment, _, _):
        direct = environment | {"PERFUSE_ENDPOINT": "direct"}
        file = environment | {"PERFUSE_ENDPOINT": "device"}
        with (
            mounted(place, f"plain {tag}", [place / "server", "TARGET"], environment) as plain,
            mounted(place, f"relay {tag}", [place / "relay", "TARGET", place / "server"], environment) as relay,
            mounted(place, f"socket {tag}", [place / "server-perfuse", "TARGET"], environment) as socket,
            mounted(place, f"device {tag}", [place / "server-perfuse", "TARGET"], file) as device,
            mounted(place, f"direct {tag}", [place / "server-perfuse", "TARGET"], direct) as through,
        ):
            contestants = {
                "plain": plain, "C relay": relay, "perfused socket": socket, "perfused device": device,
                "perfused direct": through,
            }  # fmt: skip
            return take_turns(place, WORK, contestants)


def mount_times(place: Path) -> tuple[list[float], list[float], float, float]:
    """Seconds from perfuse_open() to the verdict, seconds of starts, MiB of an idle daemon, MiB a mount (PSS)."""
    starts = []
    for turn in range(8):
        with daemon(place, f"start{turn}") as (_, _, took):
            starts.append(took)
    with daemon(place, "mounts") as (environment, pid, _):
        time.sleep(0.5)
        idle = sum(pss(each) for each in family(pid))
        script = (
            "import os, sys, time\nfrom libperfuse import perfuse_open, perfuse_mount\nheld = []\n"
            "for turn in range(21):\n"
            "    target = f'{sys.argv[1]}/m{turn}'; os.mkdir(target); began = time.perf_counter()\n"
            "    fd = perfuse_open('/dev/fuse', os.O_RDWR | os.O_CLOEXEC)\n"
            "    perfuse_mount('bench', target, 'fuse.bench', 0, f'fd={fd}')\n"
            "    print(time.perf_counter() - began, flush=True)\n"
            "sys.stdin.read()\n"
        )
        holder = subprocess.Popen(
            [sys.executable, "-c", script, place], env=environment | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdin is not None
        times = [float(holder.stdout.readline()) for _ in range(21)][1:]
        time.sleep(0.5)
        each = (sum(pss(one) for one in family(pid)) - idle) / 21
        holder.stdin.close()
        holder.wait()
        holder.stdout.close()
        time.sleep(1)
    return times, starts, idle, each
