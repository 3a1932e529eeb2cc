"""What the twelve bits of a file permit: open(2), access(2), truncate(2) and utimensat(2), class by class.

What a directory permits to those who walk through it is in `parents`.
"""

import os
from collections.abc import Iterator
from errno import EACCES, ENXIO, EPERM

from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import ROOT
from perfused.conformance.filesystem.identities import USER as OWNER
from perfused.conformance.filesystem.operations import NOW
from perfused.conformance.filesystem.parents import CLASSES, mode_of

READ, WRITE, EXECUTE = 4, 2, 1
FLAGS = {"read": (os.O_RDONLY, READ), "write": (os.O_WRONLY, WRITE), "both": (os.O_RDWR, READ | WRITE)}


def cases() -> Iterator[Case]:
    """For each class and, where it matters, kind."""
    for name in CLASSES:
        for kind in ("regular", "fifo", "socket"):
            yield case(f"open/permitted/{kind}/{name}", opens, kind, name)
        yield case(f"open/permitted/char/{name}", opens, "char", name, needs=["devices"])
        yield case(f"open/permitted/dir/{name}", opens_directory, name)
        yield case(f"open/permitted-truncating/{name}", truncating, name)
        yield case(f"truncate/permitted/{name}", truncates, name)
        yield case(f"utimensat/permitted/{name}", touches, name)
        for kind in ("regular", "dir", "fifo"):
            yield case(f"access/permitted/{kind}/{name}", asks, kind, name)
    yield case("access/permitted/root", root_asks)
    yield case("open/permitted/root", root_opens)


def _shown(bits: int) -> str:
    return "".join(letter if bits & bit else "-" for letter, bit in (("r", READ), ("w", WRITE), ("x", EXECUTE)))


def opens(stage: Stage, kind: str, name: str) -> None:
    """All eight sets of bits, the other classes having the opposite, for reading, writing and both."""
    who, shift = CLASSES[name]
    for bits in range(8):
        path = f"x{bits}"
        stage.make(kind, path, mode_of(bits, shift), OWNER)
        for how, (flags, need) in FLAGS.items():
            want = 0 if bits & need == need else EACCES
            if not want and (kind == "socket" or (kind == "fifo" and how == "write")):
                want = ENXIO  # open(2): a socket, or a fifo that nobody reads
            label = f"{_shown(bits)}-{how}"
            fd = stage.expect(want, "open", path, flags | os.O_NONBLOCK, who=who, label=label)
            if not want:
                stage.setup("close", fd, who=who)


def opens_directory(stage: Stage, name: str) -> None:
    """A directory is opened and listed with read permission alone."""
    who, shift = CLASSES[name]
    for bits in range(8):
        path = f"d{bits}"
        stage.make("dir", path, mode_of(bits, shift), OWNER)
        want = 0 if bits & READ else EACCES
        label = _shown(bits)
        stage.expect(want, "open", path, os.O_RDONLY | os.O_DIRECTORY, who=who, label=f"{label}-open")
        stage.expect(want, "listdir", path, who=who, label=f"{label}-list")
        entered = 0 if bits & EXECUTE else EACCES
        stage.expect(entered, "lstat", f"{path}/.", who=who, label=f"{label}-walk")


def truncating(stage: Stage, name: str) -> None:
    """O_TRUNC needs write permission, though it is opened for reading."""
    who, shift = CLASSES[name]
    for bits in range(8):
        path = f"x{bits}"
        stage.make("regular", path, 0o600, OWNER)
        stage.setup("truncate", path, 10)
        stage.setup("chmod", path, mode_of(bits, shift))
        for how, (flags, need) in FLAGS.items():
            good = bits & (need | WRITE) == need | WRITE
            want = 0 if good else EACCES
            stage.expect(want, "open", path, flags | os.O_TRUNC, who=who, label=f"{_shown(bits)}-{how}")
            stage.sees(path, size=0 if good else 10, label=f"{_shown(bits)}-{how}-size")
            stage.setup("truncate", path, 10)


def truncates(stage: Stage, name: str) -> None:
    """truncate(2) needs write permission, and nothing else."""
    who, shift = CLASSES[name]
    for bits in range(8):
        path = f"x{bits}"
        stage.make("regular", path, mode_of(bits, shift), OWNER)
        before = stage.lstat(path)
        good = bool(bits & WRITE)
        stage.expect(0 if good else EACCES, "truncate", path, 10, who=who, label=_shown(bits))
        if good:
            stage.sees(path, size=10, label=f"{_shown(bits)}-size")
        else:
            stage.sees(path, size=0, mtime=before.mtime, ctime=before.ctime, label=f"{_shown(bits)}-nothing")


def touches(stage: Stage, name: str) -> None:
    """The present time is set by the owner and by who may write; any other time by the owner alone."""
    who, shift = CLASSES[name]
    for bits in range(8):
        path = f"x{bits}"
        stage.make("regular", path, mode_of(bits, shift), OWNER)
        owner = who is OWNER
        shown = _shown(bits)
        want = 0 if owner or bits & WRITE else EACCES
        stage.expect(want, "utimensat", path, NOW, NOW, who=who, label=f"{shown}-now")
        want = 0 if owner else EPERM
        stage.expect(want, "utimensat", path, (1000, 5), (2000, 6), who=who, label=f"{shown}-other")
        if owner:
            stage.sees(path, atime=1000 * 10**9 + 5, mtime=2000 * 10**9 + 6, label=f"{shown}-set")
        else:
            was = stage.lstat(path)
            stage.expect(EPERM, "utimensat", path, NOW, (2000, 6), who=who, label=f"{shown}-one-now")
            stage.sees(path, mtime=was.mtime, ctime=was.ctime, label=f"{shown}-as-it-was")


def asks(stage: Stage, kind: str, name: str) -> None:
    """access(2) says what the bits say."""
    who, shift = CLASSES[name]
    for bits in range(8):
        path = f"x{bits}"
        stage.make(kind, path, mode_of(bits, shift), OWNER)
        stage.expect(0, "access", path, os.F_OK, who=who, label=f"{_shown(bits)}-there")
        for asked in range(1, 8):
            want = 0 if bits & asked == asked else EACCES
            stage.expect(want, "access", path, asked, who=who, label=f"{_shown(bits)}-{_shown(asked)}")


def root_asks(stage: Stage) -> None:
    """Root reads and writes everything, searches every directory, and executes what anybody may execute."""
    for kind in ("regular", "dir", "fifo"):
        for mode in (0, 0o100, 0o010, 0o001, 0o666, 0o777):
            path = f"{kind}{mode:03o}"
            stage.make(kind, path, mode, OWNER)
            for asked in range(8):
                good = kind == "dir" or not asked & EXECUTE or mode & 0o111
                stage.expect(0 if good else EACCES, "access", path, asked, label=f"{path}-{_shown(asked)}")


def root_opens(stage: Stage) -> None:
    """Root opens everything."""
    for kind in ("regular", "fifo"):
        for mode in (0, 0o111, 0o444, 0o222):
            path = f"{kind}{mode:03o}"
            stage.make(kind, path, mode, OWNER)
            for how, (flags, _) in FLAGS.items():
                want = ENXIO if kind == "fifo" and how == "write" else 0
                fd = stage.expect(want, "open", path, flags | os.O_NONBLOCK, who=ROOT, label=f"{path}-{how}")
                if not want:
                    stage.setup("close", fd)
    stage.make("dir", "d", 0, OWNER)
    stage.expect(0, "listdir", "d", label="directory")
