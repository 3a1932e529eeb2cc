"""chmod(2) and fchmod(2): all modes on all kinds of files, who may, and which bits go by themselves."""

import os
from collections.abc import Iterator
from errno import EACCES, EBADF, EOPNOTSUPP, EPERM

from perfused.conformance.filesystem.calls import SOLID
from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import JOINER, LONER, MEMBER, OTHER, ROOT, SUPPLEMENTARY, USER, Who

MODES = (0, 0o100, 0o111, 0o222, 0o444, 0o640, 0o755, 0o777, 0o1000, 0o1777, 0o2000, 0o2711, 0o4000, 0o4755, 0o7777)


def cases() -> Iterator[Case]:
    """For each kind of file that has a mode."""
    for kind in SOLID:
        yield case(f"chmod/mode/{kind}", modes, kind)
        yield case(f"chmod/mode-by-owner/{kind}", modes_by_owner, kind)
        yield case(f"chmod/link/{kind}", through_link, kind)
        yield case(f"chmod/times/{kind}", times, kind)
        yield case(f"chmod/refused/{kind}", refused, kind)
        yield case(f"chmod/setgid/{kind}", setgid, kind)
    yield case("chmod/descriptor", descriptor)
    yield case("chmod/descriptor-refused", descriptor_refused)
    for writer in (USER, MEMBER, OTHER, ROOT):
        for how in ("write", "truncate", "ftruncate", "open-truncate", "posix_fallocate"):
            yield case(f"chmod/cleared/{how}/by-{writer.name}", cleared, writer, how)
    yield case("chmod/effect/regular", effect)
    yield case("chmod/effect/directory", effect_on_directory)


def modes(stage: Stage, kind: str) -> None:
    """All twelve bits are kept for root, one by one and together."""
    stage.make(kind, "x")
    for mode in MODES:
        stage.expect(0, "chmod", "x", mode, label=f"{mode:04o}-success")
        stage.sees("x", kind=kind, mode=mode, uid=0, gid=0, label=f"{mode:04o}-mode")


def modes_by_owner(stage: Stage, kind: str) -> None:
    """And for the owner, who is in the file's group; the sticky bit too (Linux)."""
    stage.make(kind, "x", owner=USER)
    for mode in MODES:
        stage.expect(0, "chmod", "x", mode, who=USER, label=f"{mode:04o}-success")
        stage.sees("x", kind=kind, mode=mode, uid=USER.uid, gid=USER.gid, label=f"{mode:04o}-mode")


def through_link(stage: Stage, kind: str) -> None:
    """chmod(2) follows a symbolic link, whose own mode stays."""
    stage.make(kind, "x")
    stage.setup("symlink", "x", "ln")
    was = stage.lstat("ln")
    before = stage.times("ln", "x")
    stage.expect(0, "chmod", "ln", 0o511)
    stage.sees("x", kind=kind, mode=0o511)
    stage.sees("ln", by="stat", kind=kind, mode=0o511)
    stage.sees("ln", kind="symlink", mode=was.mode)
    stage.moved(before, "x", "c")


def times(stage: Stage, kind: str) -> None:
    """ctime moves, also when the mode is the same; the directory's times do not."""
    stage.make("dir", "d")
    stage.make(kind, "d/x", 0o644)
    for mode in (0o600, 0o600):
        before = stage.times("d/x", "d")
        stage.expect(0, "chmod", "d/x", mode)
        stage.moved(before, "d/x", "c")
        stage.moved(before, "d", "")


def refused(stage: Stage, kind: str) -> None:
    """Only the owner and root may, whatever permissions others have; nothing changes."""
    stage.make(kind, "x", 0o777, USER)
    stage.make(kind, "r", 0o777)
    before = stage.times("x", "r")
    for who in (MEMBER, SUPPLEMENTARY, OTHER):
        stage.expect(EPERM, "chmod", "x", 0o700, who=who)
    for who in (USER, OTHER):
        stage.expect(EPERM, "chmod", "r", 0o700, who=who, label=f"of-root-{who.name}-EPERM")
    stage.sees("x", kind=kind, mode=0o777)
    stage.sees("r", kind=kind, mode=0o777)
    stage.moved(before, "x", "")
    stage.moved(before, "r", "")
    for who in (USER, LONER, JOINER):
        stage.expect(0, "chmod", "x", 0o711, who=who)


def setgid(stage: Stage, kind: str) -> None:
    """An owner who is not in the file's group sets no set-group-ID bit: the call works, the bit is not there."""
    stage.make(kind, "x", owner=USER)
    for mode in (0o2755, 0o2000, 0o6755, 0o2644):
        for who in (USER, JOINER, LONER, ROOT):
            kept = mode if who is not LONER else mode & ~0o2000
            stage.setup("chmod", "x", 0)
            stage.expect(0, "chmod", "x", mode, who=who, label=f"{mode:04o}-{who.name}-success")
            stage.sees("x", kind=kind, mode=kept, label=f"{mode:04o}-{who.name}-mode")


def descriptor(stage: Stage) -> None:
    """fchmod(2) works on what is open, however it is open and wherever it is now."""
    for number, flags in enumerate((os.O_RDONLY, os.O_WRONLY, os.O_RDWR)):
        stage.make("regular", f"f{number}", 0o600, USER)
        fd = stage.setup("open", f"f{number}", flags)
        stage.expect(0, "fchmod", fd, 0o4711)
        stage.sees(fd, by="fstat", mode=0o4711)
        stage.sees(f"f{number}", mode=0o4711)
        stage.expect(0, "rename", f"f{number}", "moved")
        stage.expect(0, "fchmod", fd, 0o640)
        stage.sees("moved", mode=0o640)
        stage.expect(0, "unlink", "moved")
        stage.expect(0, "fchmod", fd, 0o604)
        stage.sees(fd, by="fstat", mode=0o604, nlink=0)
    stage.make("dir", "d")
    fd = stage.setup("open", "d", os.O_RDONLY)
    stage.expect(0, "fchmod", fd, 0o1700)
    stage.sees("d", mode=0o1700)


def descriptor_refused(stage: Stage) -> None:
    """One who may write to a file may not change its mode through the descriptor; an O_PATH one is none for this."""
    stage.make("regular", "x", 0o666)
    before = stage.times("x")
    for who in (USER, OTHER):
        fd = stage.setup("open", "x", os.O_RDWR, who=who)
        stage.expect(EPERM, "fchmod", fd, 0o777, who=who)
    fd = stage.setup("open", "x", os.O_PATH)
    stage.expect((EBADF, EOPNOTSUPP), "fchmod", fd, 0o777)
    stage.expect(EBADF, "fchmod", -1, 0o777, label="no-descriptor-EBADF")
    stage.moved(before, "x", "")
    stage.sees("x", mode=0o666)


def cleared(stage: Stage, writer: Who, how: str) -> None:
    """Whoever changes the content without being root takes the set-user-ID bit away: also the owner (inode(7)).

    The set-group-ID bit goes with it from a file that its group may execute. Without that permission the bit was once a
    mark for locks: Linux leaves it to those who are in the group, and from others some filesystems take it away.
    """
    for mode in (0o4777, 0o2777, 0o6777, 0o6767, 0o1777, 0o777):
        name = f"x{mode:04o}"
        stage.make("regular", name, mode, USER)
        left = mode & ~0o6000 if mode & 0o0010 else mode & ~0o4000
        kept = {mode} if writer is ROOT else {left, left & ~0o2000} if writer is OTHER else {left}
        _change(stage, writer, how, name, f"{mode:04o}-success")
        stage.sees(name, mode=kept, uid=USER.uid, gid=USER.gid, label=f"{mode:04o}-mode")


def _change(stage: Stage, writer: Who, how: str, name: str, label: str) -> None:
    match how:
        case "truncate":
            stage.expect(0, "truncate", name, 10, who=writer, label=label)
        case "open-truncate":
            stage.expect(0, "open", name, os.O_WRONLY | os.O_TRUNC, who=writer, label=label)
        case _:
            fd = stage.setup("open", name, os.O_RDWR, who=writer)
            args = {"write": (b"x",), "ftruncate": (10,), "posix_fallocate": (0, 10)}[how]
            stage.expect(0, how, fd, *args, who=writer, label=label)


def effect(stage: Stage) -> None:
    """The new mode counts from the next open(2); what is open stays as it is."""
    stage.make("regular", "x", 0o600, USER)
    fd = stage.setup("open", "x", os.O_RDWR, who=USER)
    stage.expect(0, "chmod", "x", 0, who=USER)
    stage.gives(3, "write", fd, b"abc", who=USER)
    stage.gives(b"abc", "pread", fd, 3, 0, who=USER)
    for flags, name in ((os.O_RDONLY, "read"), (os.O_WRONLY, "write"), (os.O_RDWR, "both")):
        stage.expect(EACCES, "open", "x", flags, who=USER, label=f"{name}-EACCES")
    stage.expect(0, "chmod", "x", 0o400, who=USER)
    stage.expect(0, "open", "x", os.O_RDONLY, who=USER)
    stage.expect(EACCES, "open", "x", os.O_WRONLY, who=USER, label="still-EACCES")


def effect_on_directory(stage: Stage) -> None:
    """A directory's new mode counts at once, also for what is already known below it."""
    stage.make("dir", "d", 0o755, USER)
    stage.make("regular", "d/x", 0o644, USER)
    for mode in (0o755, 0o311, 0o644, 0, 0o714):
        stage.expect(0, "chmod", "d", mode, who=USER, label=f"{mode:03o}-success")
        for who in (USER, OTHER):
            bits = mode >> (6 if who is USER else 0)
            stage.expect(0 if bits & 4 else EACCES, "listdir", "d", who=who, label=f"{mode:03o}-{who.name}-list")
            stage.expect(0 if bits & 1 else EACCES, "lstat", "d/x", who=who, label=f"{mode:03o}-{who.name}-walk")
