"""`make bench`: figures of this machine, and docs/performance.md written from them.

Contestants take turns within one run, and ratios of medians are what counts: this machine's absolute times are its own.
Run where nothing else runs. Nothing here is a test; nothing here fails because something was slow.
"""

import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench import codec_bench

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent
PAGE = ROOT / "docs" / "performance.md"
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "15"))
WORK = (("getattr", "getattr", 4000, 0), ("4 KiB read", "read", 4000, 4096), ("128 KiB read", "read", 1500, 131072))


def build(place: Path) -> None:
    """Compile the bench's own programs."""
    include = ["-I", str(ROOT / "libperfuse"), "-L", str(ROOT / "build"), f"-Wl,-rpath,{ROOT}/build"]
    for name, source, more in (
        ("server", "server.c", []),
        ("server-perfuse", "server.c", ["-DPERFUSE", *include, "-lperfuse"]),
        ("relay", "relay.c", ["-pthread"]),
        ("client", "client.c", []),
    ):
        subprocess.run(["gcc", "-O2", "-Wall", "-o", place / name, HERE / source, *more], check=True)


@contextmanager
def mounted(place: Path, name: str, command: list[str | Path], environment: dict[str, str]) -> Iterator[Path]:
    """A contestant, mounted on a directory of its name while the block runs."""
    target = place / name.replace(" ", "-")
    target.mkdir()
    words = [target if each == "TARGET" else each for each in command]
    program = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 10
        while str(target) not in Path("/proc/self/mounts").read_text():
            if time.monotonic() > deadline or program.poll() is not None:
                raise RuntimeError(f"{name} did not mount")
            time.sleep(0.01)
        (target / "file").stat()
        yield target
    finally:
        subprocess.run(["umount", "-l", target], check=False, stderr=subprocess.DEVNULL)
        try:
            program.wait(timeout=5)
        except subprocess.TimeoutExpired:
            os.killpg(program.pid, signal.SIGKILL)
            program.wait()


@contextmanager
def daemon(place: Path, name: str, *options: str) -> Iterator[tuple[dict[str, str], int, float]]:
    """perfused: (environment of its clients, pid, seconds until it listened)."""
    path = place / f"{name}.sock"
    environment = os.environ | {"PERFUSED_SOCKET": str(path), "PERFUSE_NO_PRIVATE": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    began = time.monotonic()
    process = subprocess.Popen(
        [Path(sys.executable).with_name("perfused"), "-f", "--socket", path, *options],
        env=environment, stderr=open(place / f"{name}.log", "w"), start_new_session=True,
    )  # fmt: skip
    while "ready" not in (place / f"{name}.log").read_text():
        if process.poll() is not None:
            raise RuntimeError((place / f"{name}.log").read_text())
        time.sleep(0.002)
    took = time.monotonic() - began
    try:
        yield environment, process.pid, took
    finally:
        process.terminate()
        process.wait(timeout=20)


def pss(pid: int) -> float:
    """Proportional set size of a process in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def family(pid: int) -> list[int]:
    """A process and its children."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return [pid, *map(int, found)]


def relay_rows(place: Path, cores: set[int]) -> dict[str, dict[str, list[float]]]:
    """Nanoseconds an operation, by work and contestant, a value a round."""
    os.sched_setaffinity(0, cores)
    found: dict[str, dict[str, list[float]]] = {work: {} for work, *_ in WORK}
    tag = f"{len(cores)}c"
    with daemon(place, f"bench{tag}") as (environment, _, _):
        direct = environment | {"PERFUSE_ENDPOINT": "direct"}
        with (
            mounted(place, f"plain {tag}", [place / "server", "TARGET"], environment) as plain,
            mounted(place, f"relay {tag}", [place / "relay", "TARGET", place / "server"], environment) as relay,
            mounted(place, f"socket {tag}", [place / "server-perfuse", "TARGET"], environment) as socket,
            mounted(place, f"direct {tag}", [place / "server-perfuse", "TARGET"], direct) as through,
        ):
            contestants = {"plain": plain, "C relay": relay, "perfused socket": socket, "perfused direct": through}
            for turn in range(ROUNDS + 1):
                for work, kind, count, size in WORK:
                    for name, target in contestants.items():
                        command = [place / "client", kind, target / "file", str(count), str(size)]
                        done = subprocess.run(command, capture_output=True, text=True, check=True)
                        if turn:
                            found[work].setdefault(name, []).append(float(done.stdout))
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    return found


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


def table(found: dict[str, dict[str, list[float]]]) -> list[str]:
    """Markdown of one set of rows: microseconds, and ratios of medians."""
    lines = [
        "| work | plain µs | C relay µs | socket µs | direct µs | socket ÷ C relay | socket ÷ plain | direct ÷ plain |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for work, rows in found.items():
        middle = {name: statistics.median(values) / 1000 for name, values in rows.items()}
        spread = max((max(values) - min(values)) / statistics.median(values) for values in rows.values())
        cells = [f"{middle[name]:.1f}" for name in ("plain", "C relay", "perfused socket", "perfused direct")]
        ratios = [
            middle["perfused socket"] / middle["C relay"],
            middle["perfused socket"] / middle["plain"],
            middle["perfused direct"] / middle["plain"],
        ]
        shown = " | ".join(f"{each:.2f}" for each in ratios)
        lines.append(f"| {work} (spread {spread:.0%}) | {' | '.join(cells)} | {shown} |")
    return lines


def main() -> None:
    """Measure, print, write."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="perfused-bench-") as scratch:
        place = Path(scratch)
        build(place)
        codecs = codec_bench.figures()
        times, starts, idle, each = mount_times(place)
        one = relay_rows(place, {0})
        two = relay_rows(place, set(range(min(2, os.cpu_count() or 1))))
    kernel, python = platform.release(), platform.python_version()
    stamp = f"{time.strftime('%Y-%m-%d')}, Linux {kernel}, {os.cpu_count()} cores, Python {python}"
    begun = f"{statistics.median(starts):.3f} s ({max(starts):.3f})"
    verdict = f"{statistics.median(times) * 1000:.1f} ms ({max(times) * 1000:.1f})"
    lines = [
        "# Performance",
        "",
        f"Written by `make bench`: {stamp}, load {load:.2f} before, {ROUNDS} rounds, contestants alternating, medians.",
        "Spread is (max - min) ÷ median of the noisiest contestant: above 50 % believe the ratios only roughly.",
        "",
        "`plain`: the smallest C filesystem on /dev/fuse. `C relay`: the same behind the smallest relay in C over a",
        "socket (two threads, no look at any frame), the floor for `socket`. `socket` and `direct`: behind perfused.",
        "",
        "## One core (everything pinned to it)",
        "",
        *table(one),
        "",
        "## Two cores",
        "",
        *table(two),
        "",
        "## The rest",
        "",
        "| what | figure | target |",
        "|---|---|---|",
        f"| start until it listens, median of {len(starts)} (max) | {begun} | 0.3 s |",
        f"| perfuse_open() to verdict, median of {len(times)} (max) | {verdict} | 30 ms |",
        f"| PSS of the idle daemon, keeper included | {idle:.1f} MiB | 40 MiB |",
        f"| PSS of each of 21 idle mounts | {each:.1f} MiB | 8 MiB |",
        *(f"| {name} | {value:.2f} µs | {target} |" for name, (value, target) in codecs.items()),
        "",
    ]
    print("\n".join(lines))
    PAGE.write_text("\n".join(lines))
    results = {"stamp": stamp, "one core": one, "two cores": two, "starts": starts, "mounts": times}
    (ROOT / "build" / "bench.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
