"""A guest's process and its console: results as they come, a time limit, what a guest that dies leaves.

Never here: what the command line of a guest is.
"""

import base64
import json
import os
import select
import signal
import subprocess
import time
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perfused.conformance.findings import Finding, Verdict

#: lines of a console that are kept, and how long a guest may take to end once it has said that it does
TAIL, GRACE = 40, 5.0


@dataclass
class Watched:
    """What came out of a guest. `begun`: the case it was in when it ended without a word; `tail` the console's end."""

    subject: dict[str, Any] = field(default_factory=dict)
    cases: list[str] = field(default_factory=list)
    findings: dict[str, Finding] = field(default_factory=dict)
    begun: str = ""
    ended: bool = False
    #: whether it was killed for its silence
    silent: bool = False
    problem: str = ""
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL))
    seconds: float = 0.0

    def take(self, line: str) -> None:
        """One line of the console."""
        words = line.split()
        if len(words) != 4 or words[0] != "@@" or f"{zlib.crc32(words[2].encode()):08x}" != words[3]:
            if line.strip():
                self.tail.append(line.rstrip())
            return
        said = json.loads(zlib.decompress(base64.b64decode(words[2])))
        if words[1] == "kernel":
            self.subject = said
        elif words[1] == "begun":
            self.begun = said
        elif words[1] == "ended":
            said["verdict"] = Verdict(said["verdict"])
            said["details"] = tuple(said["details"])
            self.findings[said["id"]] = Finding(**said)
            self.begun = ""
        elif words[1] == "problem":
            self.problem = said
        elif words[1] == "end":
            self.ended = True

    @property
    def missing(self) -> list[str]:
        """The cases that have no result."""
        return [each for each in self.cases if each not in self.findings]


def watch(
    command: list[str],
    found: Watched,
    limit: float,
    told: Callable[[Watched], None],
    env: dict[str, str],
    cwd: Path,
    stall: float,
) -> None:
    """Run a guest, and take what it says, until it ends; after `limit` seconds, or `stall` in silence, it is killed.

    Its standard output must be a pipe: gVisor writes into a file from the start.
    """
    begun = time.monotonic()
    found.ended, found.silent, found.begun = False, False, ""
    found.tail.clear()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True, env=os.environ | env, cwd=cwd,
        preexec_fn=lambda: os.nice(5),
    )  # fmt: skip
    assert process.stdout is not None
    console = process.stdout.fileno()
    deadline = begun + limit
    rest = b""
    try:
        while select.select([console], [], [], max(min(deadline - time.monotonic(), stall), 0))[0]:
            part = os.read(console, 65536)
            if not part:
                break
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                found.take(line.decode(errors="replace").replace("\r", ""))
            told(found)
            if found.ended:
                deadline = min(deadline, time.monotonic() + GRACE)
        else:
            found.silent = not found.ended and time.monotonic() < deadline
    finally:
        _stop(process)
        process.stdout.close()
        found.seconds += time.monotonic() - begun


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End a guest and all processes of its session."""
    try:
        process.wait(0.5)
    except subprocess.TimeoutExpired:
        pass
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            continue
    process.wait(5)
