"""utimensat(2): exact times, now, left alone; for every kind of file, and by whom."""

import os
from collections.abc import Iterator
from errno import EACCES, EBADF, EINVAL, EPERM

from perfused import libc
from perfused.conformance.filesystem.calls import KINDS, SOLID
from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import LONER, MEMBER, OTHER, ROOT, SUPPLEMENTARY, USER

NOW = (0, libc.UTIME_NOW)
OMIT = (0, libc.UTIME_OMIT)
SECOND = 1_000_000_000

#: name -> (seconds, nanoseconds): ends of 31 and 32 bits, before the epoch, all digits of the fraction
TIMES = {
    "epoch": (0, 0),
    "one-nanosecond": (0, 1),
    "last-nanosecond": (1, 999_999_999),
    "fraction": (1_234_567_890, 123_456_789),
    "before-2038": (2**31 - 1, 999_999_999),
    "after-2038": (2**31, 0),
    "before-2106": (2**32 - 1, 1),
    "after-2106": (2**32, 5),
    "before-epoch": (-1, 500_000_000),
    "in-1901": (-(2**31), 0),
}


def cases() -> Iterator[Case]:
    """For each kind of file."""
    for kind in KINDS:
        for way in ("nofollow",) if kind == "symlink" else ("follow", "nofollow", "link"):
            where = f"{kind}-{way}"
            yield case(f"utimensat/exact/{where}", exact, kind, way)
            yield case(f"utimensat/omit/{where}", omit, kind, way)
            yield case(f"utimensat/now/{where}", now, kind, way)
        yield case(f"utimensat/ctime/{kind}", ctime, kind)
    for kind in SOLID:
        yield case(f"utimensat/who/{kind}", who_may, kind)
        yield case(f"utimensat/who-refused/{kind}", refused, kind)
    yield case("utimensat/invalid", invalid)
    yield case("utimensat/link-itself", link_itself)
    yield case("utimensat/descriptor", descriptor)
    yield case("utimensat/birth", birth, needs=["btime"])


def _path(stage: Stage, kind: str, way: str) -> tuple[str, bool]:
    stage.make(kind, "x")
    if way == "link":
        stage.setup("symlink", "x", "ln")
        return "ln", False
    return "x", way == "nofollow"


def exact(stage: Stage, kind: str, way: str) -> None:
    """Every nanosecond is kept, for each of the two times by itself."""
    path, nofollow = _path(stage, kind, way)
    for name, (seconds, fraction) in TIMES.items():
        other = (77, 88)
        stamp = seconds * SECOND + fraction
        stage.expect(0, "utimensat", path, (seconds, fraction), other, nofollow, label=f"atime-{name}-success")
        stage.sees("x", kind=kind, atime=stamp, mtime=77 * SECOND + 88, label=f"atime-{name}")
        stage.expect(0, "utimensat", path, other, (seconds, fraction), nofollow, label=f"mtime-{name}-success")
        stage.sees("x", kind=kind, atime=77 * SECOND + 88, mtime=stamp, label=f"mtime-{name}")


def omit(stage: Stage, kind: str, way: str) -> None:
    """UTIME_OMIT leaves a time as it is; for both, all of them, ctime too."""
    path, nofollow = _path(stage, kind, way)
    stage.setup("utimensat", path, (10, 1), (20, 2), nofollow)
    stage.expect(0, "utimensat", path, OMIT, (30, 3), nofollow, label="atime-omitted-success")
    stage.sees("x", atime=10 * SECOND + 1, mtime=30 * SECOND + 3, label="atime-omitted")
    stage.expect(0, "utimensat", path, (40, 4), OMIT, nofollow, label="mtime-omitted-success")
    stage.sees("x", atime=40 * SECOND + 4, mtime=30 * SECOND + 3, label="mtime-omitted")
    before = stage.times("x")
    stage.expect(0, "utimensat", path, OMIT, OMIT, nofollow, label="both-omitted-success")
    stage.moved(before, "x", "")
    stage.expect(0, "utimensat", path, OMIT, OMIT, nofollow, who=OTHER, label="both-omitted-by-other-success")
    stage.moved(before, "x", "")


def now(stage: Stage, kind: str, way: str) -> None:
    """UTIME_NOW is the clock's time, and the same for both."""
    path, nofollow = _path(stage, kind, way)
    for atime, mtime, which in ((NOW, OMIT, "ac"), (OMIT, NOW, "mc"), (NOW, NOW, "amc")):
        stage.setup("utimensat", path, (10, 1), (20, 2), nofollow)
        before = stage.times("x", ".")
        floor = before["x"].ctime
        stage.expect(0, "utimensat", path, atime, mtime, nofollow, label=f"{which}-success")
        stage.moved(before, "x", which)
        stage.moved(before, ".", "")
        stage.gives(True, "times_after", "x", floor, which, label=f"{which}-is-now")


def ctime(stage: Stage, kind: str) -> None:
    """ctime moves whatever is set, and is never set itself."""
    stage.make("dir", "d")
    stage.make(kind, "d/x")
    for atime, mtime in (((5, 5), (5, 5)), ((5, 5), (5, 5)), ((2**33, 0), (2**33, 0))):
        before = stage.times("d/x", "d")
        stage.expect(0, "utimensat", "d/x", atime, mtime, True)
        stage.gives(True, "times_after", "d/x", before["d/x"].ctime, "c", label=f"{atime[0]}-ctime")
        stage.moved(before, "d", "")


def who_may(stage: Stage, kind: str) -> None:
    """The owner and root set anything; who may write sets the present, and nothing else."""
    stage.make(kind, "x", 0o464, USER)
    for who in (ROOT, USER, LONER):
        stage.expect(0, "utimensat", "x", (50, 5), (60, 6), who=who, label=f"{who.name}-exact-success")
        stage.expect(0, "utimensat", "x", OMIT, (60, 7), who=who, label=f"{who.name}-one-success")
        stage.expect(0, "utimensat", "x", NOW, NOW, who=who, label=f"{who.name}-now-success")
        stage.expect(0, "utimensat", "x", NOW, OMIT, who=who, label=f"{who.name}-one-now-success")
    for who in (MEMBER, SUPPLEMENTARY):
        stage.setup("utimensat", "x", (50, 5), (60, 6))
        before = stage.times("x")
        stage.expect(EPERM, "utimensat", "x", (1, 1), (2, 2), who=who, label=f"{who.name}-exact-EPERM")
        stage.expect(EPERM, "utimensat", "x", (1, 1), OMIT, who=who, label=f"{who.name}-atime-EPERM")
        stage.expect(EPERM, "utimensat", "x", OMIT, (1, 1), who=who, label=f"{who.name}-mtime-EPERM")
        stage.expect(EPERM, "utimensat", "x", NOW, OMIT, who=who, label=f"{who.name}-one-now-EPERM")
        stage.expect(EPERM, "utimensat", "x", OMIT, NOW, who=who, label=f"{who.name}-other-now-EPERM")
        stage.moved(before, "x", "")
        stage.expect(0, "utimensat", "x", NOW, NOW, who=who, label=f"{who.name}-now-success")
        stage.moved(before, "x", "amc")


def refused(stage: Stage, kind: str) -> None:
    """Who may not write sets nothing: EACCES for the present, EPERM for any other time."""
    stage.make(kind, "x", 0o755, USER)
    before = stage.times("x")
    for who in (MEMBER, SUPPLEMENTARY, OTHER):
        stage.expect(EACCES, "utimensat", "x", NOW, NOW, who=who, label=f"{who.name}-now-EACCES")
        stage.expect(EPERM, "utimensat", "x", (1, 1), (2, 2), who=who, label=f"{who.name}-exact-EPERM")
        stage.expect(EPERM, "utimensat", "x", OMIT, NOW, who=who, label=f"{who.name}-one-now-EPERM")
    stage.moved(before, "x", "")


def invalid(stage: Stage) -> None:
    """Nanoseconds from 0 to 999,999,999."""
    stage.make("regular", "x")
    before = stage.times("x")
    for fraction in (-1, SECOND, SECOND + 1, 2**30 - 3, 2**40):
        stage.expect(EINVAL, "utimensat", "x", (0, fraction), (0, 0), label=f"atime-{fraction}-EINVAL")
        stage.expect(EINVAL, "utimensat", "x", (0, 0), (0, fraction), label=f"mtime-{fraction}-EINVAL")
    stage.moved(before, "x", "")


def link_itself(stage: Stage) -> None:
    """With AT_SYMLINK_NOFOLLOW the link's own times are set, without it those of what it leads to."""
    stage.make("regular", "x")
    stage.setup("symlink", "x", "ln")
    stage.expect(0, "utimensat", "ln", (100, 1), (200, 2), True)
    stage.sees("ln", kind="symlink", atime=100 * SECOND + 1, mtime=200 * SECOND + 2)
    before = stage.times("x", "ln")
    stage.expect(0, "utimensat", "ln", (300, 3), (400, 4))
    stage.sees("x", kind="regular", atime=300 * SECOND + 3, mtime=400 * SECOND + 4)
    stage.sees("ln", kind="symlink", mtime=200 * SECOND + 2, ctime=before["ln"].ctime)


def descriptor(stage: Stage) -> None:
    """futimens(3) on what is open, for reading too."""
    for number, flags in enumerate((os.O_RDONLY, os.O_WRONLY, os.O_RDWR)):
        stage.make("regular", f"x{number}", 0o666, USER)
        fd = stage.setup("open", f"x{number}", flags)
        stage.expect(0, "futimens", fd, (7, 7), (8, 8))
        stage.sees(f"x{number}", atime=7 * SECOND + 7, mtime=8 * SECOND + 8)
        stage.expect(0, "futimens", fd, OMIT, (9, 9))
        stage.sees(f"x{number}", atime=7 * SECOND + 7, mtime=9 * SECOND + 9)
    reader = stage.setup("open", "x0", os.O_RDONLY, who=OTHER)
    stage.expect(EPERM, "futimens", reader, (1, 1), (1, 1), who=OTHER)
    stage.expect(0, "futimens", reader, NOW, NOW, who=OTHER)
    path = stage.setup("open", "x0", os.O_PATH)
    stage.expect(EBADF, "futimens", path, (1, 1), (1, 1), label="path-EBADF")
    stage.make("dir", "d")
    fd = stage.setup("open", "d", os.O_RDONLY)
    stage.expect(0, "futimens", fd, (7, 7), (8, 8), label="directory-success")
    stage.sees("d", atime=7 * SECOND + 7, mtime=8 * SECOND + 8)


def birth(stage: Stage) -> None:
    """When a file was made stays, whatever else changes (statx(2)); it is not after the first ctime."""
    for kind in KINDS:
        before = stage.lstat(".")
        stage.make(kind, kind)
        made = stage.setup("birth_time", kind)
        first = stage.lstat(kind)
        stage.gives(
            True, "between", before.ctime - SECOND // 50, made, first.ctime + SECOND // 50, label=f"{kind}-sane"
        )
        stage.expect(0, "utimensat", kind, (1, 1), (2**33, 2), True, label=f"{kind}-success")
        stage.gives(made, "birth_time", kind, label=f"{kind}-after-utimensat")
        stage.expect(0, "rename", kind, f"{kind}2", label=f"{kind}-rename-success")
        stage.expect(0, "lchown", f"{kind}2", 7101, 7102, label=f"{kind}-chown-success")
        stage.gives(made, "birth_time", f"{kind}2", label=f"{kind}-after-rename")
