"""`make bench`: figures of this machine into bench/results.json, and docs/performance.md written from them.

`make bench-quick` (`--quick`) measures the hot paths alone and only prints. Contestants take turns within one run, and
ratios of medians are what counts: this machine's absolute times are its own. Run where nothing else runs. Nothing here
is a test; nothing here fails because something was slow. `BENCH_ROUNDS` and `BENCH_SHARE` (1 is a whole run's time)
make a run shorter.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.bench import codec_bench, many, mounting, others, page, sections, sizes
from tests.bench.contestants import Field
from tests.bench.mounting import CONNECTIONS, NotMeasured
from tests.bench.noise import Noise, machine, verdict
from tests.bench.targets import ONE, TWO
from tests.bench.turns import ROUNDS, Missing, as_json

SHARE = float(os.environ.get("BENCH_SHARE", "1"))
#: seconds that the turns of each part may take; of trees: without caches, with caches, compiling
SMALL, TRACING = 75.0, 12.0
TREES_ONE, TREES_TWO = (55.0, 30.0, 75.0), (55.0, 30.0, 60.0)
STARTS, BUSY = 35.0, 8.0
QUICK = (26.0, 10.0)


def say(words: str) -> None:
    """How far it is, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


def cores() -> dict[str, set[int]]:
    """Which cores a run may be pinned to: the last one allowed, where interrupts are rare, and the last two."""
    allowed = sorted(os.sched_getaffinity(0))
    return {ONE: {allowed[-1]}, **({TWO: set(allowed[-2:])} if len(allowed) > 1 else {})}


def tried(missing: Missing, words: str, otherwise: Any, part: Callable[..., Any], *args: Any) -> Any:
    """What a part of the run gives; `otherwise` for one that fails, which is missing then, and the run goes on."""
    say(words)
    try:
        return part(*args)
    except (NotMeasured, OSError, RuntimeError, subprocess.SubprocessError) as bad:
        missing[words] = " ".join(f"{type(bad).__name__}: {bad}".split())[-200:].replace("|", "/")
        return otherwise


def pinned_part(field: Field, words: str, cores: set[int], noise: Noise, missing: Missing) -> dict[str, Any]:
    """All that is measured on one core and on two."""
    one = len(cores) == 1
    of_trees = tuple(each * SHARE for each in (TREES_ONE if one else TREES_TWO))
    noise.look()
    small = tried(missing, f"smallest filesystem, {words}", {},
                  sections.small, field, cores, SMALL * SHARE, missing, noise.look)  # fmt: skip
    trees, compiled, memory = tried(missing, f"trees, {words}", ({}, {}, {}),
                                    sections.trees, field, cores, of_trees, missing, noise.look)  # fmt: skip
    traced = tried(missing, f"tracing, {words}", {}, sections.tracing, field, cores, TRACING * SHARE, missing)
    parts = {"small": small, "trees": trees, "compile": compiled, "tracing": traced}
    return {name: as_json(each) for name, each in parts.items()} | {"memory": memory}


def whole(field: Field, noise: Noise) -> dict[str, Any]:
    """Everything, as it is kept."""
    missing: Missing = dict(field.bindings.missing)
    found: dict[str, Any] = {"machine": machine(), "rounds": ROUNDS, "versions": field.bindings.versions}
    found["codecs"] = tried(missing, "codecs", {}, codec_bench.figures)
    found["daemon"] = tried(missing, "starts of perfused", {}, many.daemons, field.place)
    where = cores()
    if TWO not in where:
        missing[TWO] = "there is only one"
    for words, chosen in where.items():
        found[words] = pinned_part(field, words, chosen, noise, missing)
    took, memory = tried(missing, "starts", ({}, {}), many.starts, field, STARTS * SHARE, missing)
    found |= {"starts": took, "memory": memory}
    beside = tried(missing, "500 mounts", {}, many.beside, field, where[ONE], BUSY * SHARE, missing)
    found["many"] = beside | ({"busy": as_json(beside["busy"])} if beside else {})
    noise.look()
    return found | {"noise": noise.figures(), "sizes": sizes.lines(), "missing": missing}


def keep(found: Mapping[str, Any]) -> None:
    """Write the results, a list on one line; draw the plot; write the page."""
    page.RESULTS.parent.mkdir(exist_ok=True)
    page.RESULTS.write_text(_compact(found) + "\n", encoding="utf-8")
    _, why = others.installed("matplotlib")
    why = why or others.tried(others.PYTHON, mounting.HERE / "plot.py", page.RESULTS, page.PLOT)
    page.RESULTS.write_text(_compact({**found, "plot": why}) + "\n", encoding="utf-8")
    page.write()


def _compact(value: Any, indent: str = "") -> str:
    if not isinstance(value, Mapping) or not value:
        return json.dumps(value, ensure_ascii=False)
    inner = indent + " "
    rows = (f"{inner}{json.dumps(key, ensure_ascii=False)}: {_compact(each, inner)}" for key, each in value.items())
    return "{\n" + ",\n".join(rows) + f"\n{indent}}}"


def quick(field: Field, noise: Noise) -> None:
    """Print the hot paths."""
    missing: Missing = {}
    core = cores()[ONE]
    noise.look()
    small = tried(missing, "hot paths", {}, sections.quick, field, core, QUICK[0] * SHARE, missing)
    noise.look()
    traced = tried(missing, "tracing", {}, sections.tracing, field, core, QUICK[1] * SHARE, missing)
    noise.look()
    print("\n".join([*page.quick_lines(small, traced), "", verdict(**noise.figures())]))  # type: ignore[arg-type]
    print("\n".join(f"not measured: {name}: {why}" for name, why in missing.items()))


def interrupted(number: int, frame: object) -> None:
    """End, and let nothing disturb the end."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> None:
    """All, or what `--quick` asks for. Ctrl-C and SIGTERM take everything away again."""
    signal.signal(signal.SIGINT, interrupted)  # set even where a shell has it ignored, as for what runs in background
    signal.signal(signal.SIGTERM, interrupted)
    begun = time.monotonic()
    if not CONNECTIONS.is_mount():
        subprocess.run(["mount", "-t", "fusectl", "none", CONNECTIONS], check=False)
    with tempfile.TemporaryDirectory(prefix="perfused-bench-") as scratch:
        place = Path(scratch)
        mounting.build(place)
        noise = Noise(place)
        if "--quick" in sys.argv[1:]:
            quick(Field(place, place, others.Bindings({}, {})), noise)
            return
        given = others.bindings()
        with sections.source(place) as source:
            found = whole(Field(place, source, given), noise)
    keep({**found, "seconds": round(time.monotonic() - begun)})
    print(page.PAGE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
