"""Deliberate faults, one at a time, and which cases notice: `python -m tests.mutations [NAME ...] [--json FILE]`.

Each fault is put into a copy of the tree. Faults of the loopback are looked for by the POSIX suite, faults of the relay
by the kernel suite, which then runs on the perfused that has them; the suites themselves are those of this tree, and
so is the run without a fault that each is compared with. As root, in a mount namespace (`unshare -m`).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: seconds one run of a suite may take
PATIENCE = 240.0
BAD = ("FAIL", "HANG", "PANIC-suspect")


@dataclass(frozen=True)
class Mutation:
    """A fault: what is replaced by what in which file, and the cases that are run to look for it."""

    name: str
    file: str
    old: str
    new: str
    only: tuple[str, ...]

    @property
    def suite(self) -> str:
        """fs for the loopback's files, kernel for the relay's."""
        return "fs" if self.file.startswith("fixtures/") else "kernel"


@dataclass
class Caught:
    """The cases that fail with a fault and not without it."""

    name: str
    cases: list[str] = field(default_factory=list)
    run: int = 0
    seconds: float = 0.0


_LOOPBACK, _TREE = "fixtures/loopback.py", "fixtures/loopback_tree.py"
MUTATIONS = (
    Mutation(
        "a truncation that leaves mtime where it was", _LOOPBACK,
        "                os.truncate(path, arg.size)\n",
        "                was = os.stat(path)\n                os.truncate(path, arg.size)\n"
        "                os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))\n",
        ("truncate", "ftruncate"),
    ),
    Mutation(
        "a rename that ignores RENAME_EXCHANGE", _TREE,
        "        if arg.flags:\n            with acting_as(request):  # RENAME_WHITEOUT",
        "        if arg.flags & ~3:\n            with acting_as(request):  # RENAME_WHITEOUT",
        ("rename/exchange", "rename/flags"),
    ),
    Mutation(
        "a listing that loses the names that end in 49", _TREE,
        "                ino, off, length, kind = _DIRENT(buffer, at)\n",
        "                ino, off, length, kind = _DIRENT(buffer, at)\n"
        "                if b'49\\0' in buffer[at + _NAME : at + length]:\n"
        "                    at += length\n                    continue\n",
        ("readdir/stream", "readdir/many", "readdir/removing"),
    ),
    Mutation(
        "a write that stops after 64 KiB and tells of all", _LOOPBACK,
        "            return os.pwrite(fd, data, arg.offset)\n",
        "            os.pwrite(fd, data[:65536], arg.offset)\n            return len(data)\n",
        ("write/content",),
    ),
    Mutation(
        "one link too many", _TREE,
        "        entry, attr = self.entry_valid, self.attr_valid\n",
        "        entry, attr = self.entry_valid, self.attr_valid\n"
        "        found = os.stat_result([*found[:3], found.st_nlink + 1, *found[4:]], {\n"
        "            'st_blksize': found.st_blksize,\n"
        "            'st_blocks': found.st_blocks, 'st_rdev': found.st_rdev, 'st_atime_ns': found.st_atime_ns,\n"
        "            'st_mtime_ns': found.st_mtime_ns, 'st_ctime_ns': found.st_ctime_ns})\n",
        ("link/", "unlink/", "statx"),
    ),
    Mutation(
        "max_write is not lowered to what a frame holds", "perfused/negotiate.py",
        "    if max_write > room:\n", "    if max_write > room << 20:\n",
        ("init", "write", "splice", "read"),
    ),
    Mutation(
        "an INTERRUPT is dropped", "perfused/engine.py",
        "        target = head[FH]\n        return frame if target in self.inflight else None\n",
        "        return None\n",
        ("interrupt", "lock"),
    ),
    Mutation(
        "an error is swallowed: ENOENT becomes EIO", "perfused/engine.py",
        "        hook = self.on_reply[slot(opcode)]\n        return frame if hook is None",
        "        if error == -2:\n"
        "            frame = frame[:4].tobytes() + b'\\xfb\\xff\\xff\\xff' + frame[8:].tobytes()\n"
        "        hook = self.on_reply[slot(opcode)]\n        return frame if hook is None",
        ("lookup", "errno", "unlink"),
    ),
    Mutation(
        "a flag that was masked is agreed to after all", "perfused/negotiate.py",
        "    flags &= offered.flags\n    room",
        "    flags = (init.flags | init.flags2 << 32 | InitFlag.WRITEBACK_CACHE) & ~InitFlag.INIT_EXT\n    room",
        ("init", "write", "cache"),
    ),
    Mutation(
        "a FORGET is dropped", "perfused/engine.py",
        '        """FORGET and its like: nothing is owed."""\n        return frame\n',
        '        """FORGET and its like: nothing is owed."""\n        return None\n',
        ("forget",),
    ),
)  # fmt: skip


@contextmanager
def mutated(mutation: Mutation | None) -> Iterator[Path]:
    """A copy of the tree with the fault in it; LookupError where the text to be replaced is not there once."""
    with tempfile.TemporaryDirectory(prefix="mutated-") as place:
        copy = Path(place)
        for name in ("perfused", "libperfuse", "wire", "fixtures"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / "build").symlink_to(ROOT / "build")
        if mutation is not None:
            file = copy / mutation.file
            text = file.read_text()
            if text.count(mutation.old) != 1:
                raise LookupError(f"{mutation.name}: {mutation.file} does not have its text once")
            file.write_text(text.replace(mutation.old, mutation.new))
        os.chmod(copy, 0o755)
        yield copy


def verdicts(suite: str, tree: Path, only: tuple[str, ...]) -> dict[str, str]:
    """Run a suite of this tree on a loopback, or on a perfused, of that one: verdicts by case."""
    with tempfile.TemporaryDirectory(prefix="mutations-") as name:
        place = Path(name)
        report = place / "report.json"
        words = [sys.executable, "-m", "perfused.cli.control"]
        chosen = [word for each in only for word in ("--only", each)]
        if suite == "fs":
            _fs([*words, "conform", "fs"], chosen, tree, place, report)
        else:
            _kernel(words, chosen, tree, place, report)
        return {each["id"]: each["verdict"] for each in json.loads(report.read_text())["cases"]}


def _fs(words: list[str], chosen: list[str], tree: Path, place: Path, report: Path) -> None:
    source, target = place / "source", place / "mnt"
    source.mkdir()
    target.mkdir()
    program = ["env", f"PYTHONPATH={tree}", sys.executable, str(tree / "fixtures" / "loopback.py"), "--via", "kernel"]
    line = [*words, str(target), "--json", str(report), *chosen, "--", *program, str(source), str(target)]
    _run(line, os.environ | {"PYTHONPATH": str(ROOT)}, place)


def _kernel(words: list[str], chosen: list[str], tree: Path, place: Path, report: Path) -> None:
    socket = place / "s"
    env = os.environ | {"PERFUSED_SOCKET": str(socket), "PERFUSE_NO_PRIVATE": "1"}
    with open(place / "daemon", "wb") as log:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "perfused.cli.daemon", "--socket", str(socket), "-f"],
            env=env | {"PYTHONPATH": str(tree)}, stderr=log, stdin=subprocess.DEVNULL, cwd="/",
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 20
        while not socket.exists():
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((place / "daemon").read_text(errors="replace"))
            time.sleep(0.02)
        line = [*words, "exec", "--", *words, "conform", "kernel", "--profile", "none", "--timeout", "4"]
        _run([*line, "--json", str(report), *chosen], env | {"PYTHONPATH": str(ROOT)}, place)
    finally:
        daemon.terminate()
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _run(line: list[str], env: dict[str, str], place: Path) -> None:
    with open(place / "log", "wb") as log:
        done = subprocess.run(
            line, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, timeout=PATIENCE, check=False, cwd="/"
        )
    if done.returncode not in (0, 1):
        raise RuntimeError((place / "log").read_text(errors="replace")[-2000:])


def look_for(mutation: Mutation) -> Caught:
    """Run the cases without the fault and with it."""
    begun = time.monotonic()
    with mutated(None) as tree:
        before = verdicts(mutation.suite, tree, mutation.only)
    with mutated(mutation) as tree:
        after = verdicts(mutation.suite, tree, mutation.only)
    cases = [name for name, verdict in after.items() if verdict in BAD and before.get(name) not in BAD]
    return Caught(mutation.name, sorted(cases), len(after), round(time.monotonic() - begun, 1))


def main() -> None:
    """Print a table; status 1 where a fault is not noticed."""
    parser = argparse.ArgumentParser(prog="mutations")
    parser.add_argument("names", nargs="*", help="parts of names; all of them otherwise")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    chosen = [each for each in MUTATIONS if not asked.names or any(part in each.name for part in asked.names)]
    found = []
    for each in chosen:
        caught = look_for(each)
        found.append({"name": each.name, "file": each.file, "run": caught.run, "cases": caught.cases})
        shown = ", ".join(caught.cases[:4]) + (f" and {len(caught.cases) - 4} more" if len(caught.cases) > 4 else "")
        print(f"| {each.name} | {len(caught.cases)} of {caught.run} | {shown or 'none'} |", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(0 if all(each["cases"] for each in found) else 1)


if __name__ == "__main__":
    main()
