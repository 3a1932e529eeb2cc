"""`make bench`: figures of this machine, and docs/performance.md written from them. `make bench-quick` only prints.

Contestants take turns within one run, and ratios of medians are what counts: this machine's absolute times are its own.
Run where nothing else runs. Nothing here is a test; nothing here fails because something was slow.
"""

import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from tests.bench import codec_bench, page, relays, servers
from tests.bench.machine import ROOT, ROUNDS, build

PAGE = ROOT / "docs" / "performance.md"
#: seconds that the turns of `--quick` may take
QUICK = 45.0


def whole(place: Path) -> None:
    """Measure, print, write."""
    load = os.getloadavg()[0]
    both = set(range(min(2, os.cpu_count() or 1)))
    given = servers.bindings()
    codecs = codec_bench.figures()
    mounts = relays.mount_times(place)
    memory = servers.memory(place, given)
    relay_rows = relays.rows(place, {0}), relays.rows(place, both)
    server_rows = servers.rows(place, {0}, given), servers.rows(place, both, given)
    stamp = (
        f"{time.strftime('%Y-%m-%d')}, Linux {platform.release()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, load {load:.2f} before, {ROUNDS} rounds"
    )
    text = page.page(stamp, relay_rows, server_rows, given, page.rest_rows(mounts, codecs), memory)
    print(text)
    PAGE.write_text(text)
    names = ("one core", "two cores")
    results = {
        "stamp": stamp,
        "relay": dict(zip(names, map(page.as_json, relay_rows), strict=True)),
        "server": dict(zip(names, map(page.as_json, server_rows), strict=True)),
        "starts": mounts[1],
        "mounts": mounts[0],
        "memory": memory,
    }
    (ROOT / "build" / "bench.json").write_text(json.dumps(results, indent=1))


def main() -> None:
    """All, or what `--quick` asks for."""
    with tempfile.TemporaryDirectory(prefix="perfused-bench-") as scratch:
        place = Path(scratch)
        build(place)
        if "--quick" in sys.argv[1:]:
            print("\n".join(page.quick_lines(servers.quick(place, QUICK))))
        else:
            whole(place)


if __name__ == "__main__":
    main()
