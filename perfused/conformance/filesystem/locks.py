"""Record locks of processes and of open file descriptions, without waiting (fcntl(2): F_SETLK, F_GETLK, F_OFD_SETLK).

Two processes ask: what one holds is in the other's way, or not. Those that wait are in `locks_waiting`.
"""

import os
from collections.abc import Iterator
from errno import EACCES, EAGAIN, EBADF, EINVAL, EOVERFLOW
from typing import Any

from perfused.conformance.filesystem.calls_locks import Lock
from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import MEMBER, OTHER, USER, Who

#: what fcntl(2) may say where another lock is in the way
TAKEN = (EAGAIN, EACCES)
#: name -> start and length of a lock, where the other holds 100 bytes from 100 on; whether the two share a byte
RANGES = {
    "same": (100, 100, True), "inside": (120, 10, True), "around": (50, 200, True), "left": (50, 51, True),
    "right": (199, 100, True), "first": (100, 1, True), "last": (199, 1, True), "to-the-end": (150, 0, True),
    "all": (0, 0, True), "before": (50, 50, False), "behind": (200, 50, False), "far": (1 << 40, 1, False),
    "behind-to-the-end": (200, 0, False), "one-before": (99, 1, False),
}  # fmt: skip
KINDS = ("read", "write")
#: who locks and who asks: locks of processes, of open file descriptions
PAIRS = {"process-process": ("lock", "lock"), "ofd-ofd": ("lock_ofd", "lock_ofd"), "process-ofd": ("lock", "lock_ofd"),
         "ofd-process": ("lock_ofd", "lock")}  # fmt: skip


def cases() -> Iterator[Case]:
    """By pair of kinds, then one by one."""
    for pair in PAIRS:
        for held in KINDS:
            for wanted in KINDS:
                name = f"fcntl/conflict/{pair}/{held}-{wanted}"
                yield case(name, conflict, pair, held, wanted, needs=["locks", "ofd"])
    for name, body in {
        "split": split, "merge": merge, "downgrade": downgrade, "upgrade": upgrade, "own-do-not-conflict": own,
        "replace-part": replace_part, "whence": whence, "beyond-the-end": beyond, "range-invalid": invalid,
        "access-mode": access_mode, "close-drops": close_drops, "close-of-duplicate-drops": duplicate_drops,
        "exit-drops": exit_drops, "fork-inherits-not": fork, "unlinked": unlinked, "renamed-and-linked": names,
        "unlock-not-held": not_held, "three": three, "rights-count-not": rights, "attributes-stay": stay,
        "many": many, "whole-and-truncate": truncated, "path-descriptor": path_descriptor,
    }.items():  # fmt: skip
        yield case(f"fcntl/lock/{name}", body, needs=["locks"])
    for name, body in {
        "two-opens": ofd_two_opens, "duplicate-shares": ofd_duplicate, "close-of-other-keeps": ofd_close,
        "child-shares": ofd_child, "pid-has-to-be-zero": ofd_pid, "upgrade": ofd_upgrade,
    }.items():  # fmt: skip
        yield case(f"fcntl/ofd/{name}", body, needs=["locks", "ofd"])


def _two(stage: Stage, flags: int = os.O_RDWR) -> tuple[Any, Any]:
    stage.make("regular", "x", 0o666)
    stage.setup("truncate", "x", 1000)
    return stage.setup("open", "x", flags, who=USER), stage.setup("open", "x", flags, who=OTHER)


def _free(stage: Stage, fd: Any, who: Who, label: str) -> None:
    stage.gives(Lock("free"), "getlk", fd, "write", 0, 0, who=who, label=label)


def conflict(stage: Stage, pair: str, held: str, wanted: str) -> None:
    """Two locks of which one is for writing do not share a byte; F_GETLK says first what F_SETLK then does."""
    by, asks = PAIRS[pair]
    one, two = _two(stage)
    stage.setup(by, one, held, 100, 100, who=USER)
    pid = -1 if by == "lock_ofd" else stage.setup("getpid", who=USER)
    ofd = asks == "lock_ofd"
    for name, (start, length, shared) in RANGES.items():
        hindered = shared and "write" in (held, wanted)
        told = Lock(held, 100, 100, pid) if hindered else Lock("free")
        if by == asks:
            stage.gives(told, f"getlk{'_ofd' * ofd}", two, wanted, start, length, who=OTHER, label=f"{name}-get")
        else:
            stage.gives(told[:3], "hinders", two, wanted, start, length, ofd, who=OTHER, label=f"{name}-get")
        stage.expect(TAKEN if hindered else 0, asks, two, wanted, start, length, who=OTHER, label=f"{name}-set")
        stage.setup(asks, two, "free", who=OTHER)
    stage.setup(by, one, "free", who=USER)
    stage.expect(0, asks, two, wanted, 0, 0, who=OTHER, label="free-again")


def split(stage: Stage) -> None:
    """Unlocking the middle leaves two locks."""
    one, two = _two(stage)
    pid = stage.setup("getpid", who=USER)
    stage.expect(0, "lock", one, "write", 0, 100, who=USER)
    stage.expect(0, "lock", one, "free", 40, 20, who=USER)
    stage.gives(Lock("write", 0, 40, pid), "getlk", two, "read", 0, 100, who=OTHER, label="first")
    stage.gives(Lock("free"), "getlk", two, "write", 40, 20, who=OTHER, label="middle")
    stage.gives(Lock("write", 60, 40, pid), "getlk", two, "read", 40, 100, who=OTHER, label="second")
    stage.expect(0, "lock", two, "write", 40, 20, who=OTHER)
    stage.expect(TAKEN, "lock", two, "write", 39, 1, who=OTHER, label="39-taken")
    stage.expect(TAKEN, "lock", two, "write", 60, 1, who=OTHER, label="60-taken")
    stage.expect(TAKEN, "lock", one, "write", 59, 1, who=USER, label="59-taken")


def merge(stage: Stage) -> None:
    """Neighbours of one kind are one lock, whatever order they came in."""
    one, two = _two(stage)
    pid = stage.setup("getpid", who=USER)
    for start in (20, 0, 10, 30):
        stage.expect(0, "lock", one, "read", start, 10, who=USER, label=f"{start}-success")
    stage.gives(Lock("read", 0, 40, pid), "getlk", two, "write", 0, 0, who=OTHER)
    stage.expect(0, "lock", one, "read", 5, 100, who=USER, label="overlapping")
    stage.gives(Lock("read", 0, 105, pid), "getlk", two, "write", 50, 1, who=OTHER, label="grown")
    stage.expect(0, "lock", one, "read", 105, 0, who=USER, label="to-the-end")
    stage.gives(Lock("read", 0, 0, pid), "getlk", two, "write", 1 << 50, 1, who=OTHER, label="whole")


def downgrade(stage: Stage) -> None:
    """A lock for writing becomes one for reading, which others may have too."""
    one, two = _two(stage)
    stage.expect(0, "lock", one, "write", 0, 10, who=USER)
    stage.expect(TAKEN, "lock", two, "read", 0, 10, who=OTHER)
    stage.expect(0, "lock", one, "read", 0, 10, who=USER, label="downgrade")
    stage.expect(0, "lock", two, "read", 0, 10, who=OTHER, label="shared")
    stage.expect(TAKEN, "lock", one, "write", 0, 10, who=USER, label="not-back")


def upgrade(stage: Stage) -> None:
    """A lock for reading becomes one for writing where nobody else reads; where it cannot it stays."""
    one, two = _two(stage)
    stage.expect(0, "lock", one, "read", 0, 10, who=USER)
    stage.expect(0, "lock", two, "read", 5, 10, who=OTHER)
    stage.expect(TAKEN, "lock", one, "write", 0, 10, who=USER, label="hindered")
    stage.expect(TAKEN, "lock", two, "write", 0, 5, who=OTHER, label="still-there")
    stage.expect(0, "lock", one, "write", 0, 5, who=USER, label="its-own-part")
    stage.expect(0, "lock", two, "free", 5, 10, who=OTHER)
    stage.expect(0, "lock", one, "write", 0, 10, who=USER, label="free-to")
    stage.expect(TAKEN, "lock", two, "read", 9, 1, who=OTHER, label="others-not")


def own(stage: Stage) -> None:
    """A process is not in its own way, by whatever descriptor."""
    one, two = _two(stage)
    again = stage.setup("open", "x", os.O_RDWR, who=USER)
    stage.expect(0, "lock", one, "write", 0, 10, who=USER)
    stage.expect(0, "lock", again, "write", 5, 10, who=USER)
    stage.gives(Lock("free"), "getlk", again, "write", 0, 100, who=USER)
    stage.expect(TAKEN, "lock", two, "write", 14, 1, who=OTHER)
    stage.expect(0, "lock", again, "free", 0, 100, who=USER)
    _free(stage, two, OTHER, "all-gone")


def replace_part(stage: Stage) -> None:
    """A lock of the other kind over part of one cuts it."""
    one, two = _two(stage)
    pid = stage.setup("getpid", who=USER)
    stage.expect(0, "lock", one, "write", 0, 100, who=USER)
    stage.expect(0, "lock", one, "read", 30, 40, who=USER)
    stage.gives(Lock("write", 0, 30, pid), "getlk", two, "write", 0, 100, who=OTHER, label="left")
    stage.gives(Lock("read", 30, 40, pid), "getlk", two, "write", 30, 10, who=OTHER, label="middle")
    stage.gives(Lock("free"), "getlk", two, "read", 30, 40, who=OTHER, label="middle-for-readers")
    stage.gives(Lock("write", 70, 30, pid), "getlk", two, "read", 50, 100, who=OTHER, label="right")


def whence(stage: Stage) -> None:
    """Ranges count from the beginning, from the offset, or from the end; a negative length reaches backwards."""
    one, two = _two(stage)
    pid = stage.setup("getpid", who=USER)
    stage.setup("lseek", one, 300, os.SEEK_SET, who=USER)
    for name, (start, length, origin), told in (
        ("offset", (10, 20, os.SEEK_CUR), (310, 20)),
        ("offset-backwards", (-10, 5, os.SEEK_CUR), (290, 5)),
        ("end", (-100, 50, os.SEEK_END), (900, 50)),
        ("behind-end", (10, 10, os.SEEK_END), (1010, 10)),
        ("negative-length", (100, -40, os.SEEK_SET), (60, 40)),
        ("negative-length-offset", (0, -300, os.SEEK_CUR), (0, 300)),
        ("end-to-the-end", (0, 0, os.SEEK_END), (1000, 0)),
    ):
        stage.expect(0, "lock", one, "write", start, length, origin, who=USER, label=f"{name}-success")
        stage.gives(Lock("write", *told, pid), "getlk", two, "read", 0, 0, who=OTHER, label=f"{name}-told")
        stage.setup("lock", one, "free", who=USER)


def beyond(stage: Stage) -> None:
    """Where a lock is does not depend on the file's size."""
    one, two = _two(stage)
    pid = stage.setup("getpid", who=USER)
    for start in (1000, (1 << 31) - 1, 1 << 32, 1 << 50):
        stage.expect(0, "lock", one, "write", start, 10, who=USER, label=f"{start}-success")
        stage.gives(Lock("write", start, 10, pid), "getlk", two, "read", start, 1, who=OTHER, label=f"{start}-told")
        stage.setup("lock", one, "free", who=USER)
    last = (1 << 63) - 1
    stage.expect(0, "lock", one, "write", last, 1, who=USER, label="last-byte")
    stage.expect(TAKEN, "lock", two, "write", last - 5, 0, who=OTHER, label="last-byte-taken")
    stage.sees("x", size=1000)


def invalid(stage: Stage) -> None:
    """Nothing before the beginning (EINVAL), nothing beyond the largest offset (EOVERFLOW), no unknown origin."""
    one, two = _two(stage)
    stage.expect(EINVAL, "lock", one, "write", -1, 1, who=USER, label="negative-start")
    stage.expect(EINVAL, "lock", one, "write", 10, -11, who=USER, label="negative-reach")
    stage.expect(EINVAL, "lock", one, "write", 0, 1, 9, who=USER, label="whence")
    stage.expect(EOVERFLOW, "lock", one, "write", (1 << 63) - 1, 2, who=USER, label="EOVERFLOW")
    stage.expect(EINVAL, "getlk", one, "write", -1, 1, who=USER, label="get-negative-start")
    _free(stage, two, OTHER, "nothing-locked")


def access_mode(stage: Stage) -> None:
    """Locking for reading takes a descriptor that reads, for writing one that writes; F_GETLK takes any."""
    stage.make("regular", "x", 0o666)
    fds = {name: stage.setup("open", "x", flags, who=USER) for name, flags in (("r", os.O_RDONLY), ("w", os.O_WRONLY))}
    for name, kind, want in (("r", "read", 0), ("r", "write", EBADF), ("w", "read", EBADF), ("w", "write", 0)):
        stage.expect(want, "lock", fds[name], kind, 0, 1, who=USER, label=f"{name}-{kind}")
        stage.gives(Lock("free"), "getlk", fds[name], kind, 0, 1, who=USER, label=f"{name}-{kind}-get")
        stage.expect(0, "lock", fds[name], "free", who=USER, label=f"{name}-{kind}-free")
    stage.expect(EBADF, "lock", 9999, "read", 0, 1, who=USER, label="no-descriptor")


def close_drops(stage: Stage) -> None:
    """Closing any descriptor of a file gives up all locks that the process has on it, as POSIX demands."""
    one, two = _two(stage)
    again = stage.setup("open", "x", os.O_RDONLY, who=USER)
    stage.expect(0, "lock", one, "write", 0, 10, who=USER)
    stage.expect(TAKEN, "lock", two, "write", 0, 10, who=OTHER)
    stage.expect(0, "close", again, who=USER)
    stage.expect(0, "lock", two, "write", 0, 10, who=OTHER, label="given-up")
    stage.expect(0, "close", two, who=OTHER)
    _free(stage, one, USER, "given-up-too")


def duplicate_drops(stage: Stage) -> None:
    """So does closing one made by dup(2)."""
    one, two = _two(stage)
    again = stage.setup("dup", one, who=USER)
    stage.expect(0, "lock", one, "write", 0, 10, who=USER)
    stage.expect(0, "close", again, who=USER)
    stage.expect(0, "lock", two, "write", 0, 10, who=OTHER)
    stage.expect(TAKEN, "lock", one, "write", 0, 10, who=USER, label="user-hindered")


def exit_drops(stage: Stage) -> None:
    """A process that ends holds nothing."""
    one, two = _two(stage)
    stage.expect(0, "in_child", "lock", one, "write", 0, 10, who=USER)
    _free(stage, two, OTHER, "free")
    stage.expect(0, "lock", two, "write", 0, 10, who=OTHER)


def fork(stage: Stage) -> None:
    """A child has none of its parent's locks: they are in its way, and its close leaves them."""
    one, two = _two(stage)
    pid = stage.setup("getpid", who=USER)
    stage.expect(0, "lock", one, "write", 0, 10, who=USER)
    stage.expect(TAKEN, "in_child", "lock", one, "write", 0, 10, who=USER, label="child-hindered")
    stage.gives(Lock("write", 0, 10, pid), "in_child", "getlk", one, "write", 0, 10, who=USER, label="child-is-told")
    stage.expect(0, "in_child", "close", one, who=USER)
    stage.expect(0, "in_child", "lock", one, "free", who=USER, label="child-unlocks-nothing")
    stage.expect(TAKEN, "lock", two, "write", 0, 10, who=OTHER, label="parent-keeps")


def unlinked(stage: Stage) -> None:
    """A file without a name is locked as before; one with its old name is another."""
    one, two = _two(stage)
    stage.expect(0, "lock", one, "write", 0, 10, who=USER)
    stage.expect(0, "unlink", "x")
    stage.expect(TAKEN, "lock", two, "write", 0, 10, who=OTHER)
    stage.make("regular", "x", 0o666)
    new = stage.setup("open", "x", os.O_RDWR, who=OTHER)
    stage.expect(0, "lock", new, "write", 0, 10, who=OTHER)
    stage.expect(0, "lock", one, "free", who=USER)
    stage.expect(0, "lock", two, "write", 0, 10, who=OTHER, label="other-locks")


def names(stage: Stage) -> None:
    """Locks are the file's, whatever its names."""
    one, _ = _two(stage)
    stage.setup("link", "x", "y")
    stage.expect(0, "lock", one, "write", 0, 10, who=USER)
    linked = stage.setup("open", "y", os.O_RDWR, who=OTHER)
    stage.expect(TAKEN, "lock", linked, "write", 0, 10, who=OTHER, label="linked")
    stage.setup("rename", "x", "z")
    renamed = stage.setup("open", "z", os.O_RDWR, who=OTHER)
    stage.expect(TAKEN, "lock", renamed, "write", 0, 10, who=OTHER, label="renamed")
    stage.expect(0, "lock", renamed, "write", 10, 10, who=OTHER, label="renamed-behind")


def not_held(stage: Stage) -> None:
    """Giving up what one does not have works, and takes nothing from others."""
    one, two = _two(stage)
    stage.expect(0, "lock", two, "free", 0, 0, who=OTHER)
    stage.expect(0, "lock", one, "write", 0, 10, who=USER)
    stage.expect(0, "lock", two, "free", 0, 0, who=OTHER, label="others")
    stage.expect(TAKEN, "lock", two, "read", 0, 10, who=OTHER)


def three(stage: Stage) -> None:
    """Many read at once, and one that writes waits for all."""
    one, two = _two(stage)
    third = stage.setup("open", "x", os.O_RDWR, who=MEMBER)
    stage.expect(0, "lock", one, "read", 0, 10, who=USER)
    stage.expect(0, "lock", two, "read", 0, 10, who=OTHER)
    stage.expect(TAKEN, "lock", third, "write", 0, 10, who=MEMBER, label="two-read")
    stage.expect(0, "lock", one, "free", who=USER)
    stage.expect(TAKEN, "lock", third, "write", 0, 10, who=MEMBER, label="one-reads")
    stage.expect(0, "lock", two, "free", who=OTHER)
    stage.expect(0, "lock", third, "write", 0, 10, who=MEMBER, label="none-reads")


def rights(stage: Stage) -> None:
    """What counts is how it was opened: not what the mode has become."""
    one, two = _two(stage)
    stage.setup("chmod", "x", 0)
    stage.expect(0, "lock", one, "write", 0, 10, who=USER)
    stage.expect(TAKEN, "lock", two, "read", 0, 10, who=OTHER)
    stage.expect(0, "lock", two, "read", 10, 10, who=OTHER)


def stay(stage: Stage) -> None:
    """Locks move no time, and do not keep anybody from reading and writing."""
    one, two = _two(stage)
    before = stage.times("x")
    stage.expect(0, "lock", one, "write", 0, 10, who=USER)
    stage.expect(0, "lock", one, "free", who=USER)
    stage.moved(before, "x", "")
    stage.expect(0, "lock", one, "write", 0, 10, who=USER)
    stage.gives(3, "pwrite", two, b"abc", 0, who=OTHER)
    stage.gives(b"abc", "pread", two, 3, 0, who=OTHER)
    stage.expect(0, "ftruncate", two, 0, who=OTHER)


def many(stage: Stage) -> None:
    """A hundred separate locks are all there."""
    one, two = _two(stage)
    pid = stage.setup("getpid", who=USER)
    for number in range(100):
        stage.setup("lock", one, "write", number * 10, 3, who=USER)
    for number in range(100):
        told = Lock("write", number * 10, 3, pid)
        stage.gives(told, "getlk", two, "read", number * 10 - (number > 0) * 5, 10, who=OTHER, label=f"{number}-told")
    stage.expect(0, "lock", one, "free", 0, 0, who=USER)
    _free(stage, two, OTHER, "all-gone")


def truncated(stage: Stage) -> None:
    """A file that is cut keeps its locks."""
    one, two = _two(stage)
    stage.expect(0, "lock", one, "write", 0, 0, who=USER)
    stage.expect(0, "truncate", "x", 0)
    stage.expect(TAKEN, "lock", two, "write", 500, 1, who=OTHER)
    stage.expect(0, "truncate", "x", 5000)
    stage.expect(TAKEN, "lock", two, "write", 4000, 1, who=OTHER, label="grown-taken")


def path_descriptor(stage: Stage) -> None:
    """A descriptor of a path alone locks nothing."""
    stage.make("regular", "x", 0o666)
    fd = stage.setup("open", "x", os.O_PATH, who=USER)
    stage.expect(EBADF, "lock", fd, "read", 0, 1, who=USER)
    stage.expect(EBADF, "getlk", fd, "read", 0, 1, who=USER)


# -- of open file descriptions -----------------------------------------------------------------------------------------


def ofd_two_opens(stage: Stage) -> None:
    """Two descriptors of one process are two."""
    one, _ = _two(stage)
    again = stage.setup("open", "x", os.O_RDWR, who=USER)
    stage.expect(0, "lock_ofd", one, "write", 0, 10, who=USER)
    stage.expect(TAKEN, "lock_ofd", again, "write", 0, 10, who=USER)
    stage.gives(Lock("write", 0, 10, -1), "getlk_ofd", again, "read", 0, 0, who=USER)
    stage.expect(TAKEN, "lock", again, "write", 0, 10, who=USER, label="its-own-process-lock-too")
    stage.expect(0, "lock_ofd", again, "write", 10, 10, who=USER, label="behind")


def ofd_duplicate(stage: Stage) -> None:
    """dup(2) shares it: one unlocks what the other locked, and closing one keeps it."""
    one, two = _two(stage)
    again = stage.setup("dup", one, who=USER)
    stage.expect(0, "lock_ofd", one, "write", 0, 10, who=USER)
    stage.expect(0, "lock_ofd", again, "read", 0, 10, who=USER, label="downgraded-by-other")
    stage.expect(0, "lock_ofd", two, "read", 0, 10, who=OTHER)
    stage.expect(0, "lock_ofd", two, "free", who=OTHER)
    stage.expect(0, "close", one, who=USER)
    stage.expect(TAKEN, "lock_ofd", two, "write", 0, 10, who=OTHER, label="kept")
    stage.expect(0, "close", again, who=USER)
    stage.expect(0, "lock_ofd", two, "write", 0, 10, who=OTHER, label="gone-with-the-last")


def ofd_close(stage: Stage) -> None:
    """Closing another open of the file takes nothing away."""
    one, two = _two(stage)
    again = stage.setup("open", "x", os.O_RDWR, who=USER)
    stage.expect(0, "lock_ofd", one, "write", 0, 10, who=USER)
    stage.expect(0, "close", again, who=USER)
    stage.expect(TAKEN, "lock_ofd", two, "write", 0, 10, who=OTHER)
    stage.expect(0, "close", one, who=USER)
    stage.expect(0, "lock_ofd", two, "write", 0, 10, who=OTHER, label="gone")


def ofd_child(stage: Stage) -> None:
    """A child shares it, and leaves it where it is when it ends."""
    one, two = _two(stage)
    stage.expect(0, "lock_ofd", one, "write", 0, 10, who=USER)
    stage.expect(0, "in_child", "lock_ofd", one, "write", 10, 10, who=USER, label="child-extends")
    stage.expect(TAKEN, "lock_ofd", two, "write", 15, 1, who=OTHER, label="what-the-child-locked-stays")
    stage.expect(0, "in_child", "lock_ofd", one, "free", 0, 5, who=USER, label="child-unlocks")
    stage.expect(0, "lock_ofd", two, "write", 0, 5, who=OTHER, label="unlocked")
    stage.expect(TAKEN, "lock_ofd", two, "write", 5, 1, who=OTHER, label="the-rest-not")


def ofd_pid(stage: Stage) -> None:
    """l_pid has to be 0."""
    one, two = _two(stage)
    stage.expect(EINVAL, "lock_ofd", one, "write", 0, 10, 0, 1, who=USER)
    _free(stage, two, OTHER, "nothing-locked")


def ofd_upgrade(stage: Stage) -> None:
    """Kinds change in place, as with locks of processes."""
    one, two = _two(stage)
    stage.expect(0, "lock_ofd", one, "read", 0, 10, who=USER)
    stage.expect(0, "lock_ofd", two, "read", 0, 10, who=OTHER)
    stage.expect(TAKEN, "lock_ofd", one, "write", 0, 10, who=USER)
    stage.expect(0, "close", two, who=OTHER)
    stage.expect(0, "lock_ofd", one, "write", 0, 10, who=USER, label="upgraded")
