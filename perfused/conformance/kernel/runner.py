"""Runs cases, each in a process and a mount namespace of its own, under a watchdog; and learns what the kernel is.

A case that hangs is killed, and with it the last descriptor of its device, which ends whatever waited for it. A journal
is written to the disk before each case, so that a kernel that dies in one is found out. Never here: cases, and reports.
"""

import errno
import json
import os
import pickle
import select
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from perfused.conformance.findings import Verdict
from perfused.conformance.kernel import bench, seam
from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Case, Failed, Skipped
from wire.flags import InitFlag

#: seconds a case may take in all, and any one wait in it
PATIENCE, WAIT = 15.0, 5.0


@dataclass
class Kernel:
    """What the kernel under test is, and what it offered in INIT."""

    system: str = ""
    release: str = ""
    version: str = ""
    machine: str = ""
    minor: int = 0
    flags: int = 0
    max_readahead: int = 0
    problem: str = ""

    @property
    def name(self) -> str:
        """Such as "Linux 6.18.44 x86_64"."""
        return f"{self.system} {self.release} {self.machine}"


@dataclass
class Outcome:
    """How one case went; `details` are lines: what was wanted and got, then the transcript."""

    case: Case
    verdict: Verdict
    message: str = ""
    details: list[str] = field(default_factory=list)
    seconds: float = 0.0
    #: a profile's reason and source for what was expected
    reason: str = ""


def learn(patience: float = WAIT) -> Kernel:
    """Mount once and look at INIT. `problem` says why nothing can be mounted here, if nothing can."""
    found = Kernel()
    for key, text in seam.kernel().items():
        setattr(found, key, text)

    def look(ground: Bench) -> dict[str, int]:
        server = ground.mount()
        assert server.offer is not None
        return {
            "minor": server.offer.minor, "flags": server.offered, "max_readahead": server.offer.max_readahead,
        }  # fmt: skip

    said = _apart(look, 0, 45, patience, 2 * patience)
    if said[0] == "value":
        for key, value in said[1].items():
            setattr(found, key, value)
    else:
        found.problem = str(said[1])
    return found


def run(
    cases: Iterable[Case],
    kernel: Kernel,
    told: Callable[[Outcome], None] = lambda _: None,
    patience: float = PATIENCE,
    journal: Path | None = None,
    resume: bool = False,
) -> list[Outcome]:
    """Run cases in order; `told` hears of each. With `resume` those that the journal has are not run again."""
    known = _read(journal) if journal and resume else {}
    written = open(journal, "a" if resume else "w", encoding="utf-8") if journal else None
    outcomes = []
    for each in cases:
        if each.id in known:
            outcome = known[each.id]
            outcome.case = each
        else:
            if written:
                _journal(written, {"begun": each.id})
            outcome = one(each, kernel, patience)
            if written:
                _journal(written, {"ended": each.id, **_plain(outcome)})
        outcomes.append(outcome)
        told(outcome)
    if written:
        written.close()
    return outcomes


def one(case: Case, kernel: Kernel, patience: float = PATIENCE) -> Outcome:
    """Run one case."""
    if kernel.minor < case.since:
        return Outcome(case, Verdict.SKIP, f"since 7.{case.since}, and the kernel speaks 7.{kernel.minor}")
    missing = InitFlag(case.flags & ~kernel.flags)
    if missing:
        names = ", ".join(flag.name or "" for flag in InitFlag if flag in missing)
        return Outcome(case, Verdict.SKIP, f"the kernel does not offer {names}")
    begun = time.monotonic()
    kind, said = _apart(case.run, kernel.flags, kernel.minor, min(WAIT, patience / 2), patience, case.opcodes)
    seconds = round(time.monotonic() - begun, 3)
    if kind == "value":
        return Outcome(case, Verdict.PASS, seconds=seconds)
    if kind == "skip":
        return Outcome(case, Verdict.SKIP, said, seconds=seconds)
    if kind == "hang":
        return Outcome(case, Verdict.HANG, f"killed after {patience:g} s", seconds=seconds)
    message, details = said if isinstance(said, tuple) else (str(said), [])
    return Outcome(case, Verdict.FAIL, message, details, seconds)


def _apart(
    work: Callable[[Bench], Any],
    offered: int,
    minor: int,
    wait: float,
    patience: float,
    opcodes: tuple[int, ...] = (),
) -> tuple[str, Any]:
    """Do `work` on a bench in a process group of its own: ("value" | "fail" | "skip" | "hang", what it said)."""
    directory = tempfile.mkdtemp(prefix="conform-")
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.setpgid(0, 0)
            os.close(read)
            said = _live(work, directory, offered, minor, wait, opcodes)
            data = pickle.dumps(said)
            while data:
                data = data[os.write(write, data) :]
        finally:
            os._exit(0)
    os.close(write)
    deadline = time.monotonic() + patience
    data = b""
    ended = False
    while select.select([read], [], [], max(deadline - time.monotonic(), 0))[0]:
        part = os.read(read, 65536)
        if not part:
            ended = True
            break
        data += part
    bench.kill(pid)
    os.waitpid(pid, 0)
    os.close(read)
    _clear(directory)
    if data and ended:
        found: tuple[str, Any] = pickle.loads(data)
        return found
    return ("fail", "the case's process died") if ended else ("hang", None)


def _clear(directory: str) -> None:
    """Remove a bench's directory, from which anything left mounted is detached where we share its namespace."""
    for _ in range(4):
        try:
            seam.umount(os.path.join(directory, "mnt"), seam.MNT_DETACH)
        except (OSError, seam.Unavailable):
            break
    shutil.rmtree(directory, ignore_errors=True)


def _live(
    work: Callable[[Bench], Any], directory: str, offered: int, minor: int, wait: float, opcodes: tuple[int, ...]
) -> tuple[str, Any]:
    seam.alone()
    ground = Bench(directory, offered, minor, wait)
    try:
        value = work(ground)
        faults = [fault for server in ground.servers for fault in server.faults]
        if faults:
            raise Failed("every request", "the layout of its minor", "; ".join(faults[:4]))
        return "value", value
    except (Skipped, seam.Unavailable) as lacking:
        return "skip", str(lacking)
    except Failed as failed:
        return "fail", (str(failed), _transcript(ground, opcodes))
    except OSError as bad:
        name = errno.errorcode.get(bad.errno or 0, bad.errno)
        return "fail", (f"{name}: {bad.strerror}", _transcript(ground, opcodes))
    except Exception as fault:
        return "fail", (f"the case itself: {type(fault).__name__}: {fault}", _transcript(ground, opcodes))
    finally:
        ground.close()


def _transcript(ground: Bench, opcodes: tuple[int, ...]) -> list[str]:
    """Faults, then the frames of all servers; the first of those that the case is about in hexadecimal, too."""
    faults = [f"fault: {fault}" for server in ground.servers for fault in server.faults]
    return faults + [line for server in ground.servers for line in server.transcript(dumped=opcodes)]


# -- the journal -------------------------------------------------------------------------------------------------------


def _plain(outcome: Outcome) -> dict[str, Any]:
    found = asdict(outcome) | {"verdict": str(outcome.verdict)}
    del found["case"]
    return found


def _journal(file: Any, line: dict[str, Any]) -> None:
    file.write(json.dumps(line) + "\n")
    file.flush()
    os.fsync(file.fileno())


def _read(journal: Path) -> dict[str, Outcome]:
    """What a journal knows: cases that ended, and the one in which everything did."""
    found: dict[str, Outcome] = {}
    nobody = Case("", lambda _: None, (), "other")
    try:
        lines = journal.read_text(encoding="utf-8").splitlines()
    except OSError:
        return found
    for line in lines:
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if "begun" in said:
            found[said["begun"]] = Outcome(nobody, Verdict.PANIC, "the kernel, or the machine, ended in this case")
        elif "ended" in said:
            name = said.pop("ended")
            found[name] = Outcome(nobody, **said | {"verdict": Verdict(said["verdict"])})
    return found
