"""Plays the suite in a directory: one new directory a case, emptied afterwards, whatever became of the case."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

from perfused.conformance.filesystem import calls, facts
from perfused.conformance.filesystem.case import Case, Scene, Unplayable, rehearse
from perfused.conformance.filesystem.identities import Pool
from perfused.conformance.filesystem.result import CallResult, Failure, Played, Result
from perfused.conformance.filesystem.suite import cases


class Unusable(Exception):
    """The suite cannot run in that directory at all; the message says why."""


def run(
    directory: str | Path,
    only: tuple[str, ...] = (),
    report: Callable[[CallResult], None] | None = None,
    played: Callable[[Played], None] | None = None,
) -> Result:
    """Play all cases whose ids begin with one of the prefixes in `only`, as root, in a new directory below `directory`.

    `report` is called with each system call's figures as they become known, `played` with each case's. While it runs,
    working directory and umask of this process are the suite's; workers are forked, so no other thread should run.
    Raises Unusable.
    """
    if os.geteuid() != 0:
        raise Unusable("the suite asks as several users and makes device nodes: it has to be root")
    chosen = list(cases(only))
    if not chosen:
        raise Unusable(f"no assertion begins with {' or '.join(only)}")
    home = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    umask = os.umask(0)
    place = ""
    try:
        place = tempfile.mkdtemp(prefix="posix-suite-", dir=Path(directory).resolve())
        os.chmod(place, 0o755)
        os.chdir(place)
        result = Result(str(directory), _filesystem_at(place))
        _play(chosen, facts.probe(), result, report, played)
    except OSError as bad:
        raise Unusable(f"{directory}: {bad.strerror or bad}") from bad
    finally:
        os.fchdir(home)
        os.close(home)
        os.umask(umask)
        if place:
            shutil.rmtree(place, ignore_errors=True)
    return result


def _play(
    chosen: list[Case],
    found: facts.Facts,
    result: Result,
    report: Callable[[CallResult], None] | None,
    played: Callable[[Played], None] | None,
) -> None:
    base = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        pool = Pool(base)
        try:
            for call, group in groupby(chosen, key=lambda each: each.id.partition("/")[0]):
                tally = CallResult(call)
                result.calls.append(tally)
                began = time.monotonic()
                for number, each in enumerate(group):
                    own, began_one = CallResult(call), time.monotonic()
                    _play_one(each, f"{call}{number}", base, found, pool, own)
                    tally.add(own)
                    if played:
                        seconds = time.monotonic() - began_one
                        played(Played(each.id, own.passed, tuple(own.failures), dict(own.skipped), seconds))
                tally.seconds = time.monotonic() - began
                if report:
                    report(tally)
        finally:
            pool.close()
    finally:
        os.close(base)


def _play_one(case: Case, directory: str, base: int, found: facts.Facts, pool: Pool, tally: CallResult) -> None:
    lacks = next((found.lacking[fact] for fact in case.needs if fact in found.lacking), "")
    if lacks:
        tally.skipped[lacks] = tally.skipped.get(lacks, 0) + len(rehearse(case, found))
        return
    scene = Scene(case, found, pool, tally)
    broken = ""
    try:
        os.mkdir(directory, 0o755)
        os.chdir(directory)
        pool.enter(directory)
        case.body(scene)
    except Unplayable as bad:
        broken = str(bad)
    except OSError as bad:
        broken = f"the directory of the case: {bad.strerror}"
    finally:
        calls.release()
        pool.leave()
        os.fchdir(base)
        shutil.rmtree(directory, ignore_errors=True)
    if broken:
        missed = (name for name in rehearse(case, found) if name not in scene.asked)
        tally.failures += [Failure(name, "not asked", "its setting can be made", broken) for name in missed]


def _filesystem_at(place: str) -> str:
    """Type and source of the mount that holds a directory, from mountinfo (proc(5))."""
    best = ("", "unknown")
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        head, _, tail = line.partition(" - ")
        target = head.split()[4].replace("\\040", " ")
        inside = place == target or place.startswith(target.rstrip("/") + "/")
        if inside and len(target) >= len(best[0]):
            best = (target, " ".join(tail.split()[:2]))
    return best[1]
