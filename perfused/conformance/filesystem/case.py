"""A case, and the scene in which it plays: a directory of its own, callers, and the means to assert.

Each assertion gets a name of its own, which depends on the case's code alone. A body must therefore not branch on what
a call returns: played on `Rehearsal`, without any filesystem, it gives the same names.
"""

import os
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from perfused.conformance.filesystem import calls
from perfused.conformance.filesystem.calls import Stat, error_name
from perfused.conformance.filesystem.facts import Facts
from perfused.conformance.filesystem.identities import ROOT, Pool, Who
from perfused.conformance.filesystem.result import CallResult, Failure

#: CLOCK_REALTIME_COARSE, whose steps are those of timestamps (time(7))
COARSE = 5
#: what may stand for an expected errno: one, 0 for success, or several
Errors = int | Collection[int]


class Unplayable(Exception):
    """What the case takes for granted could not be set up."""


@dataclass(frozen=True)
class Case:
    """Some assertions that share a directory. The first part of the id is the system call."""

    id: str
    body: "Callable[[Stage], None]"
    #: facts (`facts.py`) without which it cannot be played
    needs: tuple[str, ...] = ()


def case(name: str, body: "Callable[..., None]", *args: Any, needs: Iterable[str] = (), **more: Any) -> Case:
    """A case whose body gets arguments besides the scene."""
    return Case(name, lambda stage: body(stage, *args, **more), tuple(needs))


class Stage:
    """What bodies see: naming of assertions; `Scene` plays them, `Rehearsal` only notes the names."""

    def __init__(self, case: Case, facts: Facts) -> None:
        self.case = case
        self.facts = facts
        self._seen: dict[str, int] = {}

    def _name(self, label: str) -> str:
        count = self._seen[label] = self._seen.get(label, 0) + 1
        return f"{self.case.id}/{label}" + (f"~{count}" if count > 1 else "")

    def _assert(self, label: str, call: str, expected: str, got: str, good: bool) -> None:
        raise NotImplementedError

    def _do(self, who: Who, name: str, args: tuple[Any, ...], umask: int) -> calls.Outcome:
        raise NotImplementedError

    def make(self, kind: str, path: str, mode: int | None = None, owner: Who | None = None, **ids: int) -> None:
        """Set up a file of any kind, as root; the default mode is 0755 for a directory, else 0644.

        It belongs to `owner`, or to the numbers `uid` and `gid`. Raises Unplayable.
        """
        raise NotImplementedError

    def setup(self, name: str, *args: Any, who: Who = ROOT) -> Any:
        """A call that is no assertion, but has to succeed. Raises Unplayable."""
        outcome = self._do(who, name, args, 0)
        if outcome.errno:
            raise Unplayable(f"{_shown(name, args, who, 0)}: {error_name(outcome.errno)}")
        return outcome.value

    def lstat(self, path: str) -> Stat:
        """What stands there, which has to be something. Raises Unplayable."""
        found: Stat = self.setup("lstat", path)
        return found

    def expect(self, want: Errors, name: str, *args: Any, who: Who = ROOT, umask: int = 0, label: str = "") -> Any:
        """Assert what a call returns: 0 for success, an errno, or one of several. Gives the call's value."""
        wanted = (want,) if isinstance(want, int) else tuple(want)
        names = "|".join(map(error_name, wanted))
        outcome = self._do(who, name, args, umask)
        self._assert(
            label or f"{who.name}-{name}-{names}", _shown(name, args, who, umask), names, error_name(outcome.errno),
            outcome.errno in wanted,
        )  # fmt: skip
        return outcome.value

    def gives(self, want: Any, name: str, *args: Any, who: Who = ROOT, label: str = "") -> Any:
        """Assert the value of a call, which has to succeed."""
        outcome = self._do(who, name, args, 0)
        got = error_name(outcome.errno) if outcome.errno else repr(outcome.value)
        good = not outcome.errno and outcome.value == want
        self._assert(label or f"{who.name}-{name}-gives", _shown(name, args, who, 0), repr(want)[:200], got[:200], good)
        return outcome.value

    def waits(self, name: str, *args: Any, who: Who, label: str = "") -> None:
        """Assert that a call of somebody other than root does not return, but waits. `ends` follows."""
        good = self._begin(who, name, args)
        got = "waits" if good else "has returned"
        self._assert(label or f"{who.name}-{name}-waits", _shown(name, args, who, 0), "waits", got, good)

    def start(self, name: str, *args: Any, who: Who) -> None:
        """Begin a call of somebody other than root, without an assertion. `ends` follows."""
        raise NotImplementedError

    def ends(self, want: Errors, who: Who, interrupt: bool = False, label: str = "") -> Any:
        """Assert what the call that was begun returns, by itself or interrupted by a signal. Gives its value."""
        wanted = (want,) if isinstance(want, int) else tuple(want)
        names = "|".join(map(error_name, wanted))
        outcome = self._end(who, interrupt)
        said = f"the call of {who.name} that was begun" + (", interrupted" if interrupt else "")
        good = outcome.errno in wanted
        self._assert(label or f"{who.name}-ends-{names}", said, names, error_name(outcome.errno), good)
        return outcome.value

    def _begin(self, who: Who, name: str, args: tuple[Any, ...]) -> bool:
        raise NotImplementedError

    def _end(self, who: Who, interrupt: bool) -> calls.Outcome:
        raise NotImplementedError

    def sees(self, path: str | int, *, label: str = "", by: str = "lstat", **want: Any) -> None:
        """Assert what stands at a path (or, by="fstat", at a descriptor); a set allows each of its members."""
        outcome = self._do(ROOT, by, (path,), 0)
        call = _shown(by, (path,), ROOT, 0)
        found = outcome.value if isinstance(outcome.value, Stat) else Stat()
        good = not outcome.errno and all(_fits(getattr(found, field), each) for field, each in want.items())
        got = error_name(outcome.errno) if outcome.errno else _fields({each: getattr(found, each) for each in want})
        where = path if isinstance(path, str) else "fd"
        self._assert(label or f"{_brief(where)}-{by}-{'+'.join(want)}", call, _fields(want), got, good)

    def missing(self, path: str, label: str = "") -> None:
        """Assert that nothing stands at a path."""
        outcome = self._do(ROOT, "lstat", (path,), 0)
        got = error_name(outcome.errno)
        self._assert(label or f"{_brief(path)}-gone", _shown("lstat", (path,), ROOT, 0), "ENOENT", got, got == "ENOENT")

    def holds(self, path: str, *names: str, label: str = "") -> None:
        """Assert what a directory lists."""
        self.gives(sorted(names), "listdir", path, label=label or f"{_brief(path)}-lists")

    def times(self, *paths: str) -> Mapping[str, Stat]:
        """Note timestamps, and wait until the clock that makes them has gone on. Raises Unplayable."""
        raise NotImplementedError

    def moved(self, before: Mapping[str, Stat], path: str, which: str, now: str = "") -> None:
        """Three assertions: of atime, mtime and ctime, those in `which` ("mc") are newer and the others as they were.

        `now` is where the file stands since, if no longer at `path`.
        """
        outcome = self._do(ROOT, "lstat", (now or path,), 0)
        for field in ("atime", "mtime", "ctime"):
            moves = field[0] in which
            old = getattr(before[path], field)
            new = getattr(outcome.value, field) if isinstance(outcome.value, Stat) else None
            good = new is not None and (new > old if moves else new == old)
            expected = f"{'later than' if moves else 'still'} {old}"
            got = error_name(outcome.errno) if new is None else str(new)
            label = f"{_brief(path)}-{field}-{'moves' if moves else 'stays'}"
            self._assert(label, f"{field} of {_brief(now or path)!r}", expected, got, good)

    def born(self, before: Mapping[str, Stat], witness: str, path: str) -> None:
        """Three assertions: the timestamps of a new file are not older than when `witness` was noted."""
        outcome = self._do(ROOT, "lstat", (path,), 0)
        old = before[witness].ctime
        for field in ("atime", "mtime", "ctime"):
            new = getattr(outcome.value, field) if isinstance(outcome.value, Stat) else None
            got = error_name(outcome.errno) if new is None else str(new)
            good = new is not None and new > old
            self._assert(f"{_brief(path)}-{field}-is-new", f"{field} of {path!r}", f"later than {old}", got, good)


class Scene(Stage):
    """Plays a case on the filesystem: the working directory is the case's own."""

    def __init__(self, case: Case, facts: Facts, pool: Pool, tally: CallResult) -> None:
        super().__init__(case, facts)
        self._pool = pool
        self._tally = tally
        self.asked: set[str] = set()

    def _do(self, who: Who, name: str, args: tuple[Any, ...], umask: int) -> calls.Outcome:
        return self._pool.ask(who, name, args, umask)

    def start(self, name: str, *args: Any, who: Who) -> None:
        """See Stage."""
        self._pool.start(who, name, args)

    def _begin(self, who: Who, name: str, args: tuple[Any, ...]) -> bool:
        return self._pool.begin(who, name, args)

    def _end(self, who: Who, interrupt: bool) -> calls.Outcome:
        return self._pool.end(who, interrupt)

    def _assert(self, label: str, call: str, expected: str, got: str, good: bool) -> None:
        name = self._name(label)
        self.asked.add(name)
        if good:
            self._tally.passed += 1
        else:
            self._tally.failures.append(Failure(name, call, expected, got))

    def make(self, kind: str, path: str, mode: int | None = None, owner: Who | None = None, **ids: int) -> None:
        """See Stage."""
        mode = (0o755 if kind == "dir" else 0o644) if mode is None else mode
        uid, gid = (owner.uid, owner.gid) if owner else (ids.get("uid", 0), ids.get("gid", 0))
        try:
            _make(kind, path, mode)
            if uid or gid:
                os.lchown(path, uid, gid)
            if kind != "symlink":
                os.chmod(path, mode)
        except OSError as bad:
            raise Unplayable(f"making a {kind} {_brief(path)!r}: {error_name(bad.errno or 0)}") from None

    def times(self, *paths: str) -> Mapping[str, Stat]:
        """See Stage."""
        found = {path: self.lstat(path) for path in paths}
        due = max(each.ctime for each in found.values()) + self.facts.granularity
        due = min(due, time.time_ns() + 3_000_000_000)
        while (now := time.clock_gettime_ns(COARSE)) <= due:
            time.sleep(max(0.0005, (due - now) / 1e9))
        return found


class Rehearsal(Stage):
    """Plays a case on nothing, for the names of its assertions."""

    def __init__(self, case: Case, facts: Facts) -> None:
        super().__init__(case, facts)
        self.names: list[str] = []

    def _do(self, who: Who, name: str, args: tuple[Any, ...], umask: int) -> calls.Outcome:
        return calls.Outcome(0, Stat() if name in ("lstat", "stat", "fstat") else 0)

    def start(self, name: str, *args: Any, who: Who) -> None:
        """See Stage."""

    def _begin(self, who: Who, name: str, args: tuple[Any, ...]) -> bool:
        return True

    def _end(self, who: Who, interrupt: bool) -> calls.Outcome:
        return calls.Outcome(0, 0)

    def _assert(self, label: str, call: str, expected: str, got: str, good: bool) -> None:
        self.names.append(self._name(label))

    def make(self, kind: str, path: str, mode: int | None = None, owner: Who | None = None, **ids: int) -> None:
        """See Stage."""

    def times(self, *paths: str) -> Mapping[str, Stat]:
        """See Stage."""
        return {path: Stat() for path in paths}


def rehearse(case: Case, facts: Facts) -> list[str]:
    """The names of a case's assertions."""
    stage = Rehearsal(case, facts)
    case.body(stage)
    return stage.names


def listed(cases: Iterable[Case], facts: Facts) -> Iterator[str]:
    """The names of all assertions of some cases."""
    for each in cases:
        yield from rehearse(each, facts)


def _make(kind: str, path: str, mode: int) -> None:
    match kind:
        case "regular":
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode))
        case "dir":
            os.mkdir(path, mode)
        case "symlink":
            os.symlink("nowhere", path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(path)
        case _:
            os.mknod(path, calls.FORMATS[kind] | mode, os.makedev(*calls.DEVICES.get(kind, (0, 0))))


def _fits(found: Any, want: Any) -> bool:
    return found in want if isinstance(want, set | frozenset) else bool(found == want)


def _field(name: str, value: Any) -> str:
    if isinstance(value, set | frozenset):
        return "|".join(_field(name, each) for each in sorted(value))
    return f"{value:04o}" if name == "mode" else str(value)


def _fields(values: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={_field(name, value)}" for name, value in values.items())


def _brief(path: str) -> str:
    """A path fit for a name and a line: a long one is cut."""
    return path if len(path) < 40 else f"{path[:8]}..{len(path)}"


def _shown(name: str, args: tuple[Any, ...], who: Who, umask: int) -> str:
    shown = ", ".join(repr(_brief(each)) if isinstance(each, str) else _number(name, each) for each in args)
    mask = f" umask {umask:03o}" if umask else ""
    by = f" as {who.name} {who.uid}:{':'.join(map(str, (who.gid, *who.groups)))}" if who is not ROOT else ""
    return f"{name}({shown}){by}{mask}"


def _number(name: str, value: Any) -> str:
    if isinstance(value, int) and name in ("chmod", "fchmod", "mkdir", "mkfifo", "mknod", "open", "openat"):
        return f"{value:#o}"
    return repr(value)[:60]
