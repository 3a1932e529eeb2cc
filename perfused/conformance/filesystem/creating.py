"""What a new file is like, for every call that makes one: mode and umask, owner and group, links, timestamps, EEXIST.

How a path to it may look is in `walking`, what its directory must permit in `parents`.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from errno import EACCES, EADDRINUSE, EEXIST, ENAMETOOLONG, ENOENT, EPERM
from typing import Any

from perfused.conformance.filesystem.calls import DEVICES, KINDS
from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import JOINER, MEMBER, OTHER, ROOT, SUPPLEMENTARY, USER, Who

MODES = (0o000, 0o100, 0o151, 0o345, 0o404, 0o644, 0o755, 0o777, 0o1755, 0o2755, 0o4755, 0o7777)
UMASKS = (0o000, 0o022, 0o070, 0o077, 0o501, 0o777)


@dataclass(frozen=True)
class Creator:
    """A call that makes a file."""

    name: str
    call: str
    kind: str
    at: Callable[[str, int], tuple[Any, ...]]
    #: mode bits that it takes over
    takes: int = 0o7777
    #: the mode it gives where it takes none
    fixed: int | None = None
    #: the umask counts
    masked: bool = True
    privileged: bool = False

    def mode(self, asked: int, umask: int = 0) -> int:
        """The mode of the new file."""
        given = asked & self.takes if self.fixed is None else self.fixed
        return given & ~umask if self.masked else given

    def expect(self, stage: Stage, want: int, path: str, mode: int, *, label: str = "", **how: Any) -> None:
        """Assert what the call returns."""
        name, *args = self.at(path, mode)
        stage.expect(want, name, *args, label=label, **how)


def _mknod(kind: str) -> Callable[[str, int], tuple[Any, ...]]:
    return lambda path, mode: ("mknod", path, kind, mode, DEVICES.get(kind, (0, 0)))


_EXCLUSIVE = os.O_CREAT | os.O_EXCL | os.O_WRONLY

CREATORS = (
    # mkdir(2): of the special bits only the sticky one
    Creator("mkdir", "mkdir", "dir", lambda path, mode: ("mkdir", path, mode), takes=0o1777),
    Creator("mkfifo", "mkfifo", "fifo", lambda path, mode: ("mkfifo", path, mode)),
    Creator("mknod-fifo", "mknod", "fifo", _mknod("fifo")),
    Creator("mknod-regular", "mknod", "regular", _mknod("regular")),
    Creator("mknod-socket", "mknod", "socket", _mknod("socket")),
    Creator("mknod-block", "mknod", "block", _mknod("block"), privileged=True),
    Creator("mknod-char", "mknod", "char", _mknod("char"), privileged=True),
    Creator("open", "open", "regular", lambda path, mode: ("open", path, os.O_CREAT | os.O_RDWR, mode)),
    Creator("open-exclusive", "open", "regular", lambda path, mode: ("open", path, _EXCLUSIVE, mode)),
    Creator("bind", "bind", "socket", lambda path, mode: ("bind", path), fixed=0o777),
    Creator("symlink", "symlink", "symlink", lambda path, mode: ("symlink", "nowhere", path), fixed=0o777,
            masked=False),
)  # fmt: skip


def cases() -> Iterator[Case]:
    """A case for each creator and property."""
    for creator in CREATORS:
        where = f"{creator.call}/new/{creator.name}"
        yield case(f"{where}/mode", modes, creator)
        yield case(f"{where}/links", links, creator, needs=["dirlinks"] if creator.kind == "dir" else [])
        yield case(f"{where}/times", times, creator)
        yield case(f"{where}/owner", owners, creator)
        yield case(f"{where}/setgid-directory", setgid_directory, creator)
        if creator.name != "open":
            yield case(f"{where}/exists", exists, creator)
        if creator.privileged:
            yield case(f"{where}/unprivileged", unprivileged, creator)
        else:
            yield case(f"{where}/refused-times", refused_times, creator)
    for minor in ((0, 0), (1, 3), (255, 255), (256, 256), (4095, 1048575), (259, 65536)):
        for kind in ("block", "char"):
            yield case(f"mknod/number/{kind}-{minor[0]}-{minor[1]}", number, kind, minor)
    for name in ("regular", "fifo", "socket"):
        yield case(f"mknod/number/none-for-{name}", no_number, name)
    yield case("mkdir/new/dots", dots)
    yield case("mkdir/new/deep", deep)
    yield case("symlink/new/content", contents)


def modes(stage: Stage, creator: Creator) -> None:
    """The mode is the one asked for without the bits of the umask."""
    fixed = creator.fixed is not None
    for asked in (0o777,) if fixed else MODES:
        for umask in UMASKS:
            name = f"{asked:04o}-{umask:03o}"
            creator.expect(stage, 0, name, asked, umask=umask, label=f"{name}-success")
            stage.sees(name, kind=creator.kind, mode=creator.mode(asked, umask), label=f"{name}-mode")


def links(stage: Stage, creator: Creator) -> None:
    """One link for a new file; a directory has two, and gives its parent one more."""
    stage.make("dir", "d")
    creator.expect(stage, 0, "d/x", 0o755)
    isdir = creator.kind == "dir"
    stage.sees("d/x", kind=creator.kind, nlink=2 if isdir else 1)
    stage.sees("d", nlink=3 if isdir else 2)
    stage.holds("d", "x")
    if not isdir:
        stage.sees("d/x", size=len("nowhere") if creator.kind == "symlink" else 0)


def times(stage: Stage, creator: Creator) -> None:
    """All timestamps of the new file are new; of its directory, mtime and ctime."""
    stage.make("dir", "d")
    stage.make("regular", "d/beside")
    before = stage.times("d", ".", "d/beside")
    creator.expect(stage, 0, "d/x", 0o755)
    stage.born(before, "d", "d/x")
    stage.moved(before, "d", "mc")
    stage.moved(before, ".", "")
    stage.moved(before, "d/beside", "")


def owners(stage: Stage, creator: Creator) -> None:
    """A new file belongs to the caller and to the caller's effective group, whoever owns the directory."""
    stage.make("dir", "d", 0o777)
    stage.make("dir", "e", 0o777, USER)
    callers: tuple[Who, ...] = (ROOT,) if creator.privileged else (ROOT, USER, JOINER, MEMBER, SUPPLEMENTARY, OTHER)
    for place in ("d", "e"):
        for who in callers:
            path = f"{place}/{who.name}"
            creator.expect(stage, 0, path, 0o700, who=who, label=f"{place}-{who.name}-success")
            want: dict[str, Any] = {"kind": creator.kind, "uid": who.uid, "gid": who.gid}
            stage.sees(path, **want, label=f"{place}-{who.name}-owner")
            stage.sees(path, mode=creator.mode(0o700), label=f"{place}-{who.name}-mode")


def setgid_directory(stage: Stage, creator: Creator) -> None:
    """In a set-group-ID directory it belongs to the directory's group; a directory inherits the bit.

    One who is not in that group makes no executable with that bit there (inode(7), Linux 5.12 for all calls).
    """
    stage.make("dir", "d", 0o2777, USER)
    callers: tuple[Who, ...] = (ROOT,) if creator.privileged else (ROOT, USER, MEMBER, SUPPLEMENTARY, OTHER)
    isdir = creator.kind == "dir"
    for who in callers:
        member = who == ROOT or USER.gid in (who.gid, *who.groups)
        for asked in (0o755, 0o2745, 0o2755):
            path = f"d/{who.name}-{asked:04o}"
            mode = creator.mode(asked)
            if isdir:
                mode |= 0o2000
            elif mode & 0o2010 == 0o2010 and not member:
                mode &= ~0o2000
            creator.expect(stage, 0, path, asked, who=who, label=f"{who.name}-{asked:04o}-success")
            stage.sees(path, uid=who.uid, gid=USER.gid, label=f"{who.name}-{asked:04o}-owner")
            stage.sees(path, mode=mode, label=f"{who.name}-{asked:04o}-mode")


def exists(stage: Stage, creator: Creator) -> None:
    """Whatever has the name already stays as it was, a symbolic link that leads nowhere too."""
    error = EADDRINUSE if creator.name == "bind" else EEXIST  # bind(2)
    for kind in KINDS:
        stage.make("dir", f"in-{kind}")
        stage.make(kind, f"in-{kind}/x", owner=OTHER)
    stage.make("dir", "in-linked")
    stage.make("dir", "in-linked/d")
    stage.setup("symlink", "d", "in-linked/x")
    before = stage.times(*(f"in-{kind}/x" for kind in KINDS), *(f"in-{kind}" for kind in KINDS))
    for kind in KINDS:
        path = f"in-{kind}/x"
        creator.expect(stage, error, path, 0o600, label=f"{kind}-refused")
        stage.sees(path, kind=kind, uid=OTHER.uid, gid=OTHER.gid, nlink={1, 2}, label=f"{kind}-as-it-was")
        stage.moved(before, path, "")
        stage.moved(before, f"in-{kind}", "")
    creator.expect(stage, error, "in-linked/x", 0o600, label="link-to-directory-refused")
    creator.expect(stage, error, ".", 0o600, label="dot-refused")
    creator.expect(stage, error, "in-linked/d/..", 0o600, label="dot-dot-refused")
    stage.holds("in-linked/d", label="nothing-made")


def unprivileged(stage: Stage, creator: Creator) -> None:
    """Devices are root's to make."""
    stage.make("dir", "d", 0o777)
    before = stage.times("d")
    for who in (USER, MEMBER, OTHER):
        creator.expect(stage, EPERM, "d/x", 0o644, who=who)
    stage.missing("d/x")
    stage.moved(before, "d", "")


def refused_times(stage: Stage, creator: Creator) -> None:
    """A call that is refused changes no timestamp of the directory."""
    stage.make("dir", "d", 0o755, USER)
    before = stage.times("d")
    for who in (MEMBER, SUPPLEMENTARY, OTHER):
        creator.expect(stage, EACCES, "d/x", 0o644, who=who)
    stage.moved(before, "d", "")
    stage.holds("d")


def number(stage: Stage, kind: str, device: tuple[int, int]) -> None:
    """A device keeps its number: 12 bits of major, 20 of minor."""
    stage.expect(0, "mknod", "x", kind, 0o644, device)
    stage.sees("x", kind=kind, rdev=device)
    stage.expect(0, "rename", "x", "y")
    stage.sees("y", kind=kind, rdev=device, label="renamed")
    stage.expect(0, "link", "y", "z")
    stage.sees("z", kind=kind, rdev=device, nlink=2, label="linked")
    stage.expect(0, "chmod", "z", 0o600)
    stage.sees("y", kind=kind, rdev=device, mode=0o600, label="changed")


def no_number(stage: Stage, kind: str) -> None:
    """What is no device has no number."""
    stage.expect(0, "mknod", "x", kind, 0o644, (5, 6))
    stage.sees("x", kind=kind, rdev=(0, 0))


def dots(stage: Stage) -> None:
    """A new directory knows itself and its parent."""
    here = stage.lstat(".")
    stage.expect(0, "mkdir", "d", 0o755)
    made = stage.lstat("d")
    stage.sees("d/.", ino=made.ino, kind="dir")
    stage.sees("d/..", ino=here.ino, kind="dir")
    stage.holds("d")
    stage.expect(0, "mkdir", "d/e/", 0o755, label="slash-success")
    stage.sees("d/e/..", ino=made.ino, kind="dir", label="d/e-parent")


def deep(stage: Stage) -> None:
    """Sixteen directories with names of 200 bytes: the deepest is reached by path, and from there back."""
    path = "."
    for depth in range(16):
        path += "/" + chr(ord("a") + depth) * 200
        stage.expect(0, "mkdir", path, 0o755, label=f"depth-{depth}-success")
    stage.sees(path, kind="dir", label="deepest")
    here = stage.lstat(".")
    stage.sees(path + "/.." * 16, ino=here.ino, label="back")
    stage.expect(0, "open", f"{path}/x", os.O_CREAT | os.O_RDWR, label="file-success")
    stage.sees(f"{path}/x", kind="regular", label="file")


def contents(stage: Stage) -> None:
    """A symbolic link keeps every byte of its target, up to 4095 of them, and its size is their number."""
    every = "".join(os.fsdecode(bytes([byte])) for byte in range(1, 256))
    targets = {"short": "a", "slashes": "//a///", "dots": "../.", "bytes": every, "most": "y/" * 2047 + "y"}
    for name, target in targets.items():
        stage.expect(0, "symlink", target, name, label=f"{name}-success")
        stage.gives(target, "readlink", name, label=f"{name}-target")
        stage.sees(name, kind="symlink", size=len(os.fsencode(target)), label=f"{name}-size")
    stage.expect(ENAMETOOLONG, "symlink", "z" * 4096, "x", label="4096-ENAMETOOLONG")
    stage.expect(ENOENT, "symlink", "", "x", label="empty-ENOENT")
    stage.missing("x")
