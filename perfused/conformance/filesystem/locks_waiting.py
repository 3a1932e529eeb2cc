"""Locks that are waited for (fcntl(2): F_SETLKW, F_OFD_SETLKW): who gets them when, EDEADLK, and signals."""

import os
from collections.abc import Iterator
from errno import EDEADLK, EINTR
from typing import Any

from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import MEMBER, OTHER, USER
from perfused.conformance.filesystem.locks import TAKEN

#: kind of lock -> the calls that lock and that wait, the fact it needs
KINDS = {
    "process": ("lock", "lock_wait", "locks"),
    "ofd": ("lock_ofd", "lock_wait_ofd", "ofd"),
    "flock": ("flock", "flock_wait", "flock"),
}


def cases() -> Iterator[Case]:
    """The same for all three kinds of locks, then what only those of processes have."""
    for kind, (_, _, fact) in KINDS.items():
        for name, body in {
            "free": free, "unlocked": unlocked, "closed": closed, "interrupted": interrupted, "readers": readers,
            "downgraded": downgraded, "again": again,
        }.items():  # fmt: skip
            call = "flock" if kind == "flock" else "fcntl"
            yield case(f"{call}/wait/{kind}/{name}", body, kind, needs=[fact])
    yield case("fcntl/wait/deadlock", deadlock, needs=["locks"])
    yield case("fcntl/wait/part", part, needs=["locks"])


def _two(stage: Stage) -> tuple[Any, Any]:
    stage.make("regular", "x", 0o666)
    return stage.setup("open", "x", os.O_RDWR, who=USER), stage.setup("open", "x", os.O_RDWR, who=OTHER)


def free(stage: Stage, kind: str) -> None:
    """Where nothing is in the way nobody waits."""
    lock, wait, _ = KINDS[kind]
    one, two = _two(stage)
    stage.expect(0, wait, one, "read", who=USER)
    stage.expect(0, wait, two, "read", who=OTHER)
    stage.expect(0, wait, one, "free", who=USER)
    stage.expect(0, wait, two, "write", who=OTHER)
    stage.expect(TAKEN, lock, one, "read", who=USER)


def unlocked(stage: Stage, kind: str) -> None:
    """Who waits has the lock when the other has given it up, and not before."""
    lock, wait, _ = KINDS[kind]
    one, two = _two(stage)
    for held, wanted in (("write", "write"), ("write", "read"), ("read", "write")):
        stage.expect(0, lock, one, held, who=USER, label=f"{held}-{wanted}-held")
        stage.waits(wait, two, wanted, who=OTHER, label=f"{held}-{wanted}-waits")
        stage.expect(0, lock, one, "free", who=USER, label=f"{held}-{wanted}-given-up")
        stage.ends(0, OTHER, label=f"{held}-{wanted}-has-it")
        stage.expect(TAKEN, lock, one, "write", who=USER, label=f"{held}-{wanted}-hindered")
        stage.expect(0, lock, two, "free", who=OTHER, label=f"{held}-{wanted}-end")


def closed(stage: Stage, kind: str) -> None:
    """Closing gives it up too."""
    lock, wait, _ = KINDS[kind]
    one, two = _two(stage)
    stage.expect(0, lock, one, "write", who=USER)
    stage.waits(wait, two, "write", who=OTHER)
    stage.expect(0, "close", one, who=USER)
    stage.ends(0, OTHER)


def interrupted(stage: Stage, kind: str) -> None:
    """A signal ends the waiting, with no lock; the same call may then be made again."""
    lock, wait, _ = KINDS[kind]
    one, two = _two(stage)
    stage.expect(0, lock, one, "write", who=USER)
    stage.waits(wait, two, "write", who=OTHER)
    stage.ends(EINTR, OTHER, interrupt=True)
    stage.expect(0, lock, one, "free", who=USER)
    stage.expect(0, lock, one, "write", who=USER, label="user-not-hindered")
    stage.expect(TAKEN, lock, two, "write", who=OTHER)
    stage.expect(0, lock, one, "free", who=USER, label="user-gives-up")
    stage.expect(0, wait, two, "write", who=OTHER, label="other-has-it")


def readers(stage: Stage, kind: str) -> None:
    """Who wants to write waits for the last reader."""
    lock, wait, _ = KINDS[kind]
    one, two = _two(stage)
    third = stage.setup("open", "x", os.O_RDWR, who=MEMBER)
    stage.expect(0, lock, one, "read", who=USER)
    stage.expect(0, lock, third, "read", who=MEMBER)
    stage.waits(wait, two, "write", who=OTHER)
    stage.expect(0, lock, one, "free", who=USER)
    stage.expect(0, lock, third, "free", who=MEMBER)
    stage.ends(0, OTHER)
    stage.expect(TAKEN, lock, one, "read", who=USER, label="hindered")


def downgraded(stage: Stage, kind: str) -> None:
    """A lock that becomes one for reading lets those in who want to read."""
    lock, wait, _ = KINDS[kind]
    one, two = _two(stage)
    stage.expect(0, lock, one, "write", who=USER)
    stage.waits(wait, two, "read", who=OTHER)
    stage.expect(0, lock, one, "read", who=USER)
    stage.ends(0, OTHER)
    stage.expect(TAKEN, lock, two, "write", who=OTHER)


def again(stage: Stage, kind: str) -> None:
    """To and fro, ten times."""
    lock, wait, _ = KINDS[kind]
    one, two = _two(stage)
    holder, waiter = (USER, one), (OTHER, two)
    stage.setup(lock, holder[1], "write", who=holder[0])
    for number in range(10):
        stage.waits(wait, waiter[1], "write", who=waiter[0], label=f"{number}-waits")
        stage.setup(lock, holder[1], "free", who=holder[0])
        stage.ends(0, waiter[0], label=f"{number}-has-it")
        holder, waiter = waiter, holder


def deadlock(stage: Stage) -> None:
    """Two that would wait for each other: the second is told, and keeps what it has."""
    one, two = _two(stage)
    stage.expect(0, "lock", one, "write", 0, 10, who=USER)
    stage.expect(0, "lock", two, "write", 10, 10, who=OTHER)
    stage.waits("lock_wait", one, "write", 10, 10, who=USER)
    stage.start("lock_wait", two, "write", 0, 10, who=OTHER)
    stage.ends(EDEADLK, OTHER)
    stage.expect(0, "lock", two, "free", 10, 10, who=OTHER)
    stage.ends(0, USER)
    stage.expect(TAKEN, "lock", two, "write", 0, 20, who=OTHER)


def part(stage: Stage) -> None:
    """All of the range has to be free."""
    one, two = _two(stage)
    stage.expect(0, "lock", one, "write", 0, 10, who=USER)
    stage.expect(0, "lock", one, "write", 20, 10, who=USER)
    stage.expect(0, "lock_wait", two, "write", 10, 10, who=OTHER, label="between-success")
    stage.waits("lock_wait", two, "write", 5, 20, who=OTHER)
    stage.expect(0, "lock", one, "free", 0, 10, who=USER)
    stage.expect(0, "lock", one, "free", 20, 10, who=USER)
    stage.ends(0, OTHER)
    stage.expect(TAKEN, "lock", one, "write", 24, 1, who=USER, label="taken")
    stage.expect(0, "lock", one, "write", 25, 1, who=USER, label="behind-free")
