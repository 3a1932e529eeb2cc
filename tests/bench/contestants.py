"""Who takes part: tables, and how a table's rows are mounted. A new contestant is a new line.

Never here: what they do (`works`), and what their figures are compared with (`targets`).
"""

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.bench import others, processes
from tests.bench.mounting import HERE, ROOT, Daemon, Mounted, NotMeasured, daemon, mounted, over_io_uring
from tests.bench.turns import Missing

#: the daemons that contestants may need, and their settings (perfused.toml)
DAEMONS = {"perfused": "", "ring": "[init]\nio_uring = true\n", "remembering": ""}
#: and what they are started with beside
OPTIONS = {"remembering": ("--trace",)}
#: those of them that need the kernel's FUSE over io_uring
URING = frozenset(("ring",))


class Contestant(NamedTuple):
    """A row. In `command` {target}, {source}, {timeout} (seconds the kernel may keep names and attributes), {bin} (the
    bench's own programs), {here}, {python}, {others} (the Python that has the other bindings), {control} (perfusectl)
    and {passthrough_ll} are filled in. Without a command it is the source directory itself.
    """

    name: str
    command: tuple[str, ...] = ()
    daemon: str = ""
    endpoint: str = ""


_OURS = ("{python}", "{here}/fs_libperfuse.py", "{target}")
C, RELAY, LOOP, SOCKET = "C", "C relay", "Python loop", "socket"
RING, DEVICE, DIRECT = "ring", "device", "direct"
LIBPERFUSE, PACKED, BEHIND = "libperfuse", "libperfuse, packed", "libperfuse, socket"
PYFUSE3, MFUSEPY = "pyfuse3", "mfusepy"

#: the smallest filesystem: a root and one file of 1 MiB in memory
SMALL = (
    Contestant(C, ("{bin}/server", "{target}")),
    Contestant(RELAY, ("{bin}/relay", "{target}", "{bin}/server")),
    Contestant(LOOP, ("{python}", "{here}/relay.py", "{target}", "{bin}/server")),
    Contestant(SOCKET, ("{bin}/server-perfuse", "{target}"), "perfused", "socket"),
    Contestant(RING, ("{bin}/server-perfuse", "{target}"), "ring", "socket"),
    Contestant(DEVICE, ("{bin}/server-perfuse", "{target}"), "perfused", "device"),
    Contestant(DIRECT, ("{bin}/server-perfuse", "{target}"), "perfused", "direct"),
    Contestant(LIBPERFUSE, (*_OURS, "kernel", "1")),
    Contestant(PACKED, (*_OURS, "kernel", "1", "packed")),
    Contestant("libperfuse, 4 threads", (*_OURS, "kernel", "4")),
    Contestant("libperfuse, asyncio", ("{python}", "{here}/fs_asyncio.py", "{target}", "kernel")),
    Contestant(BEHIND, (*_OURS, "perfused", "1"), "perfused", "socket"),
    Contestant(PYFUSE3, ("{others}", "{here}/fs_pyfuse3.py", "{target}")),
    Contestant(MFUSEPY, ("{others}", "{here}/fs_mfusepy.py", "{target}")),
)

_LL = ("{passthrough_ll}", "-f", "-o", "source={source},timeout={timeout}", "{target}")
_LOOPBACK = (
    "{python}", "-m", "fixtures.loopback", "{source}", "{target}",
    "--entry-timeout", "{timeout}", "--attr-timeout", "{timeout}",
)  # fmt: skip
NATIVE, PASSTHROUGH_LL, LOOPBACK = "native", "passthrough_ll", "loopback"
LOOPBACK_BEHIND, LOOPBACK_KEPT = "loopback, socket", "loopback, socket, passthrough"

#: a directory of a tmpfs, shown once more
TREES = (
    Contestant(NATIVE),
    Contestant(PASSTHROUGH_LL, _LL),
    *(Contestant(f"passthrough_ll, {endpoint}", ("{control}", "exec", "--endpoint", endpoint, "--", *_LL), "perfused")
      for endpoint in ("device", "socket", "direct")),
    Contestant(LOOPBACK, (*_LOOPBACK, "--via", "kernel")),
    Contestant("loopback, passthrough", (*_LOOPBACK, "--via", "kernel", "--passthrough")),
    Contestant(LOOPBACK_BEHIND, (*_LOOPBACK, "--via", "perfused"), "perfused", "socket"),
    Contestant(LOOPBACK_KEPT, (*_LOOPBACK, "--via", "perfused", "--passthrough"), "perfused", "socket"),
    Contestant(PYFUSE3, ("{others}", "{here}/tree_pyfuse3.py", "{source}", "{target}", "{timeout}")),
    Contestant(MFUSEPY, ("{others}", "{here}/tree_mfusepy.py", "{source}", "{target}", "{timeout}")),
)  # fmt: skip

#: the same filesystem behind perfused: never traced; its last operations remembered (`perfused --trace`); read all the
#: time, by perfusectl or by who throws the frames away; read once before
UNTRACED, REMEMBERED = "never traced", "remembered"
TRACED, TAKEN, NO_MORE = "traced", "traced, thrown away", "traced before"
TRACING = tuple(
    Contestant(name, ("{bin}/server-perfuse", "{target}"), daemon, "socket")
    for name, daemon in (
        (UNTRACED, "perfused"), (REMEMBERED, "remembering"), (TRACED, "perfused"), (TAKEN, "perfused"),
        (NO_MORE, "perfused"),
    )
)  # fmt: skip
#: what `--quick` measures
QUICK = tuple(each for each in SMALL if each.name in (C, RELAY, LOOP, SOCKET, RING, DIRECT, LIBPERFUSE, BEHIND))


def passthrough_ll(place: Path) -> str:
    """libfuse's example, of `.ci/clients` or compiled here from what Debian ships; NotMeasured without either."""
    built = ROOT / "build" / "clients" / "passthrough_ll"
    if built.exists():
        return str(built)
    source = Path("/usr/share/doc/libfuse3-dev/examples/passthrough_ll.c")
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True, check=False)
    if not source.exists() or flags.returncode:
        raise NotMeasured("libfuse's examples are not there: libfuse3-dev has them")
    (place / "fuse_kernel.h").write_text("#include <linux/fuse.h>\n")
    built = place / "passthrough_ll"
    has = ("-DHAVE_UTIMENSAT", "-DHAVE_SETXATTR", "-DHAVE_POSIX_FALLOCATE", "-DHAVE_COPY_FILE_RANGE")
    command = ["gcc", "-O2", "-w", "-D_GNU_SOURCE", *has, "-I", place, source, "-o", built, *flags.stdout.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotMeasured(f"passthrough_ll cannot be compiled: {done.stderr.strip()[-150:]}")
    return str(built)


class Field(NamedTuple):
    """What all rows of a table have in common: directories, and the bindings that could be installed."""

    place: Path
    source: Path
    bindings: others.Bindings

    def words(self, contestant: Contestant, target: Path, timeout: int) -> list[str]:
        """The contestant's command, filled in. NotMeasured where something that it needs is not there."""
        if contestant.name in self.bindings.missing:
            raise NotMeasured(self.bindings.missing[contestant.name])
        given = {
            "target": target, "source": self.source, "timeout": timeout, "bin": self.place, "here": HERE,
            "python": sys.executable, "others": others.PYTHON, "control": Path(sys.executable).with_name("perfusectl"),
        }  # fmt: skip
        if "{passthrough_ll}" in contestant.command:
            given["passthrough_ll"] = passthrough_ll(self.place)
        return [word.format(**given) for word in contestant.command]


def start(
    stack: ExitStack, field: Field, contestant: Contestant, daemons: Mapping[str, Daemon], tag: str, timeout: int = 0
) -> Mounted:
    """Mount one contestant until `stack` is closed; NotMeasured where it cannot be."""
    if not contestant.command:
        return Mounted(field.source)
    if contestant.daemon and contestant.daemon not in daemons:
        raise NotMeasured(f"its daemon ({contestant.daemon}) does not run")
    name = f"{contestant.name.replace(', ', '-').replace(' ', '-')}-{tag}"
    words = field.words(contestant, field.place / name, timeout)
    serving = daemons.get(contestant.daemon)
    environment = dict(serving.environment if serving else os.environ) | {"PYTHONPATH": str(ROOT)}
    if contestant.endpoint:
        environment["PERFUSE_ENDPOINT"] = contestant.endpoint
    found = stack.enter_context(mounted(field.place, name, words, environment, serving))
    if contestant.daemon in URING and not processes.has_ring(found.worker):
        raise NotMeasured("perfused does not read its requests from io_uring here")
    return found


def needed(
    stack: ExitStack, field: Field, table: Iterable[Contestant], tag: str, missing: Missing
) -> dict[str, Daemon]:
    """Start the daemons that a table's rows need. One that does not start is left out, with the reason in `missing`."""
    found = {}
    for name in dict.fromkeys(each.daemon for each in table if each.daemon):
        try:
            started = stack.enter_context(daemon(field.place, f"{name}-{tag}", DAEMONS[name], *OPTIONS.get(name, ())))
            if name in URING:
                stack.enter_context(over_io_uring())
            found[name] = started
        except NotMeasured as bad:
            missing[f"daemon {name}"] = str(bad)
    return found


@contextmanager
def all_of(
    field: Field, table: Iterable[Contestant], tag: str, missing: Missing, timeout: int = 0
) -> Iterator[dict[str, Mounted]]:
    """All of a table mounted while the block runs, by name; whoever cannot be is in `missing` with the reason."""
    rows = tuple(table)
    with ExitStack() as stack:
        daemons = needed(stack, field, rows, tag, missing)
        found = {}
        for each in rows:
            try:
                found[each.name] = start(stack, field, each, daemons, tag, timeout)
            except NotMeasured as bad:
                missing[each.name] = str(bad).replace("|", "/")
        yield found
