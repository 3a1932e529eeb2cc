"""How quiet the machine was: load before, a fixed loop timed again and again, time stolen by the host.

Never here: what is measured.
"""

import os
import platform
import statistics
import subprocess
import time
from pathlib import Path

#: above these a run calls its machine noisy: load before; (90th percentile - least) ÷ least of the loop; part stolen
LOAD, LOOP, STOLEN = 0.5, 0.10, 0.01


def _ticks() -> tuple[int, int]:
    """(all ticks, stolen ticks) of all cores since boot (proc_stat(5): steal is the eighth)."""
    fields = list(map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]))
    return sum(fields), fields[7]


class Noise:
    """Begun before a run, asked between rounds, read at the end."""

    def __init__(self, place: Path) -> None:
        self.client = place / "client"
        self.load = os.getloadavg()[0]
        self.loop: list[float] = []
        self.ticks = _ticks()

    def look(self) -> None:
        """Time the loop once: milliseconds of some 2 million multiplications, on a core that is allowed."""
        done = subprocess.run([self.client, "spin", "-", "0"], capture_output=True, text=True, check=True)
        self.loop.append(round(int(done.stdout.split()[1]) / 1e6, 3))

    def figures(self) -> dict[str, object]:
        """For the results."""
        total, stolen = (now - before for now, before in zip(_ticks(), self.ticks, strict=True))
        return {"load": round(self.load, 2), "loop": self.loop, "stolen": round(stolen / max(total, 1), 4)}


def spread(loop: list[float]) -> float:
    """(90th percentile - least) ÷ least of the loop's times."""
    high = statistics.quantiles(loop, n=10, method="inclusive")[-1] if len(loop) > 1 else max(loop)
    return high / min(loop) - 1


def verdict(load: float, loop: list[float], stolen: float) -> str:
    """What a reader should know of the machine, in one sentence."""
    found = []
    if load > LOAD:
        found.append("something else ran before")
    if spread(loop) > LOOP:
        found.append("a fixed loop did not take the same time throughout")
    if stolen > STOLEN:
        found.append("the host took cores away")
    facts = (
        f"load {load:.2f} before; a fixed loop took {min(loop):.1f} ms at least and {spread(loop):.0%} more in nine of "
        f"ten looks; {stolen:.1%} of the time was stolen"
    )
    return f"**The machine was noisy** ({', '.join(found)}): {facts}." if found else f"The machine was quiet: {facts}."


def machine() -> dict[str, object]:
    """What figures were had on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return {
        "date": time.strftime("%Y-%m-%d"), "linux": platform.release(), "model": model, "cores": os.cpu_count(),
        "memory": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
    }  # fmt: skip
