"""What perfusectl exec costs: libfuse's passthrough_ll plain and under exec, alternating; as root.

`unshare -m --propagation private python -m tests.bench.launched` prints the table of docs/programs.md. It needs a
running perfused (PERFUSED_SOCKET) and the examples that .ci/clients builds. Never here: relays and servers alone.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PROGRAM = ROOT / "build" / "clients" / "passthrough_ll"
EXEC = (sys.executable, "-m", "perfused.cli.control", "exec", "--endpoint")
WAYS: dict[str, tuple[str, ...]] = {
    "plain": (), **{name: (*EXEC, name, "--") for name in ("device", "socket", "direct")},
}  # fmt: skip
ROUNDS, PATIENCE = 5, 10.0
MIB = 1 << 20


def timed(count: int, work: Callable[[int], object]) -> float:
    """Microseconds a call, of `count`."""
    begun = time.perf_counter()
    for number in range(count):
        work(number)
    return (time.perf_counter() - begun) / count * 1e6


def one(way: tuple[str, ...], source: Path, target: Path) -> list[float]:
    """Milliseconds to the mount; microseconds of stat, of open and close, of a read of 1 MiB."""
    begun = time.perf_counter()
    command = [*way, str(PROGRAM), "-f", "-o", f"source={source},cache=never,timeout=0", str(target)]
    program = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    while f" {target} " not in Path("/proc/self/mounts").read_text():
        if program.poll() is not None or time.perf_counter() - begun > PATIENCE:
            raise RuntimeError(f"{' '.join(command)} has not mounted")
        time.sleep(0.002)
    file = target / "a"
    os.stat(file)
    figures = [(time.perf_counter() - begun) * 1e3]
    figures.append(timed(1000, lambda _: os.stat(file)))
    figures.append(timed(200, lambda _: os.close(os.open(file, os.O_RDWR))))
    fd = os.open(file, os.O_RDONLY)
    figures.append(timed(16, lambda number: os.pread(fd, MIB, number * MIB)))
    os.close(fd)
    subprocess.run(["umount", target], check=True)
    program.wait(20)
    return figures


def main() -> None:
    """Alternate, and print medians and ratios to plain."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as place:
        source, target = Path(place) / "source", Path(place) / "mnt"
        source.mkdir()
        target.mkdir()
        (source / "a").write_bytes(bytes(16 * MIB))
        found: dict[str, list[list[float]]] = {name: [] for name in WAYS}
        for _ in range(ROUNDS):
            for name, way in WAYS.items():
                found[name].append(one(way, source, target))
    middle = {name: [statistics.median(each) for each in zip(*rows, strict=True)] for name, rows in found.items()}
    print("| | " + " | ".join(WAYS) + " |\n|---|" + "---|" * len(WAYS))
    works = ("start to mounted, ms", "stat, µs", "open and close, read and write, µs", "read of 1 MiB, µs")
    for at, work in enumerate(works):
        cells = [f"{row[at]:.0f}" + ("" if name == "plain" or not at else f" ({row[at] / middle['plain'][at]:.1f})")
                 for name, row in middle.items()]  # fmt: skip
        print(f"| {work} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
