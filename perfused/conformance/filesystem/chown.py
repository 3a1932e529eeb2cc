"""chown(2), lchown(2) and fchown(2): who may give a file to whom, and what becomes of the set-ID bits."""

import os
from collections.abc import Iterator
from errno import EACCES, EBADF, EPERM

from perfused.conformance.filesystem.calls import KINDS, SOLID
from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import JOINER, LONER, MEMBER, OTHER, ROOT, SUPPLEMENTARY, USER, Who

#: a call that reaches the file: itself, or by a symbolic link that it follows
WAYS = ("chown", "lchown", "link")
#: ids at the ends of 8, 16, 31 and 32 bits; the last of all is -1 and means "leave it"
IDS = (0, 1, 255, 256, 65534, 65535, 65536, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE)


def ways(kind: str) -> tuple[str, ...]:
    """How a file of that kind can be reached."""
    return ("lchown",) if kind == "symlink" else WAYS


def cases() -> Iterator[Case]:
    """For each kind of file and way to it."""
    for kind in KINDS:
        for way in ways(kind):
            where = f"{kind}-by-{way}"
            yield case(f"chown/root/{where}", by_root, kind, way)
            yield case(f"chown/owner/{where}", by_owner, kind, way)
            yield case(f"chown/refused/{where}", refused, kind, way)
            yield case(f"chown/nothing/{where}", nothing, kind, way)
            yield case(f"chown/times/{where}", times, kind, way)
            if kind != "symlink":
                yield case(f"chown/set-id/{where}", set_id, kind, way)
        yield case(f"chown/ids/{kind}", ids, kind)
    yield case("chown/link-itself", link_itself)
    yield case("chown/descriptor", descriptor)
    yield case("chown/effect", effect)
    for kind in SOLID:
        yield (
            case(f"chown/hard-links/{kind}", hard_links, kind)
            if kind != "dir"
            else case("chown/set-id/directory-group", directory_group)
        )


class _Way:
    """A file at `x` and how the calls reach it."""

    def __init__(self, stage: Stage, kind: str, way: str, owner: Who = ROOT, mode: int | None = None) -> None:
        self.stage = stage
        self.call = "lchown" if way == "lchown" else "chown"
        self.path = "ln" if way == "link" else "x"
        stage.make(kind, "x", mode, owner)
        if way == "link":
            stage.setup("symlink", "x", "ln")

    def give(self, want: int, uid: int, gid: int, who: Who, label: str) -> None:
        self.stage.expect(want, self.call, self.path, uid, gid, who=who, label=label)

    def link_untouched(self) -> None:
        if self.path == "ln":
            self.stage.sees("ln", kind="symlink", uid=0, gid=0, label="link-untouched")


def by_root(stage: Stage, kind: str, way: str) -> None:
    """Root sets both, one, and gives back."""
    file = _Way(stage, kind, way)
    now = [0, 0]
    for uid, gid in ((7101, 7102), (-1, 7103), (7104, -1), (0, -1), (-1, 0), (7105, 7105), (0, 0)):
        now = [uid if uid >= 0 else now[0], gid if gid >= 0 else now[1]]
        file.give(0, uid, gid, ROOT, f"{uid}-{gid}-success")
        stage.sees("x", kind=kind, uid=now[0], gid=now[1], label=f"{uid}-{gid}-ids")
    file.link_untouched()


def by_owner(stage: Stage, kind: str, way: str) -> None:
    """An owner gives a file to any of his groups, with or without naming himself; to nobody else, to no other group."""
    file = _Way(stage, kind, way, USER)
    group = USER.gid
    for uid, shown in ((-1, "unnamed"), (USER.uid, "named")):
        for gid in (7005, 7006, 7001):
            file.give(0, uid, gid, JOINER, f"{shown}-{gid}-success")
            group = gid
            stage.sees("x", kind=kind, uid=USER.uid, gid=group, label=f"{shown}-{gid}-ids")
        for gid in (0, 7002, 7009):
            file.give(EPERM, uid, gid, JOINER, f"{shown}-{gid}-EPERM")
        file.give(0, uid, -1, JOINER, f"{shown}-same-success")
    for uid in (0, 7002):
        for gid, shown in ((-1, "unnamed"), (7005, "named")):
            file.give(EPERM, uid, gid, JOINER, f"to-{uid}-group-{shown}-EPERM")
    stage.sees("x", kind=kind, uid=USER.uid, gid=group)
    file.give(0, -1, 7001, LONER, "own-group-though-not-in-it-success")
    file.link_untouched()


def refused(stage: Stage, kind: str, way: str) -> None:
    """Who is not the owner changes nothing, though he is in the group or writes to the file; no time moves."""
    file = _Way(stage, kind, way, USER, 0o777)
    before = stage.times("x", ".")
    for who in (MEMBER, SUPPLEMENTARY, OTHER):
        file.give(EPERM, who.uid, -1, who, f"{who.name}-user-EPERM")
        file.give(EPERM, -1, who.gid, who, f"{who.name}-group-EPERM")
        file.give(EPERM, who.uid, who.gid, who, f"{who.name}-both-EPERM")
        file.give(EPERM, 0, 0, who, f"{who.name}-to-root-EPERM")
    stage.sees("x", kind=kind, uid=USER.uid, gid=USER.gid)
    stage.moved(before, "x", "")
    stage.moved(before, ".", "")


def nothing(stage: Stage, kind: str, way: str) -> None:
    """-1 and -1 ask for nothing, so nobody is refused."""
    file = _Way(stage, kind, way, USER)
    for who in (ROOT, USER, LONER, MEMBER, OTHER):
        file.give(0, -1, -1, who, f"{who.name}-success")
        stage.sees("x", kind=kind, uid=USER.uid, gid=USER.gid, label=f"{who.name}-ids")


def times(stage: Stage, kind: str, way: str) -> None:
    """ctime moves, and only that; not the directory's."""
    file = _Way(stage, kind, way)
    for who, uid, gid in ((ROOT, USER.uid, USER.gid), (JOINER, -1, 7005), (JOINER, USER.uid, 7006), (ROOT, 0, 0)):
        before = stage.times("x", ".")
        file.give(0, uid, gid, who, f"{who.name}-{uid}-{gid}-success")
        stage.moved(before, "x", "c")
        stage.moved(before, ".", "")


def set_id(stage: Stage, kind: str, way: str) -> None:
    """A file that changes hands loses its set-ID bits, whoever gives it; a directory keeps them (Linux)."""
    file = _Way(stage, kind, way, USER)
    for mode in (0o6555, 0o4755, 0o2755, 0o4000, 0o1777, 0o644):
        kept = mode if kind == "dir" else mode & ~0o6000
        for who, uid, gid in ((JOINER, USER.uid, 7005), (JOINER, -1, 7001), (ROOT, 7101, 7102), (ROOT, 7001, 7001)):
            stage.setup("chmod", "x", mode)
            file.give(0, uid, gid, who, f"{mode:04o}-{who.name}-{uid}-{gid}-success")
            stage.sees("x", kind=kind, mode=kept, gid=gid, label=f"{mode:04o}-{who.name}-{uid}-{gid}-mode")
        stage.setup("chmod", "x", mode)
        file.give(0, -1, -1, JOINER, f"{mode:04o}-nothing-success")
        stage.sees("x", kind=kind, mode={mode, kept}, label=f"{mode:04o}-nothing-mode")


def directory_group(stage: Stage) -> None:
    """A set-group-ID directory given to another group makes files of that group."""
    stage.make("dir", "d", 0o2777, USER)
    stage.expect(0, "chown", "d", -1, 7102)
    stage.sees("d", mode=0o2777, gid=7102)
    stage.expect(0, "mkdir", "d/e", 0o755, who=OTHER)
    stage.sees("d/e", uid=OTHER.uid, gid=7102, mode=0o2755)


def ids(stage: Stage, kind: str) -> None:
    """Numbers are kept whole."""
    stage.make(kind, "x")
    for number in IDS:
        stage.expect(0, "lchown", "x", number, -1, label=f"user-{number}-success")
        stage.sees("x", uid=number, gid=0, label=f"user-{number}")
    stage.expect(0, "lchown", "x", 0, 0)
    for number in IDS:
        stage.expect(0, "lchown", "x", -1, number, label=f"group-{number}-success")
        stage.sees("x", uid=0, gid=number, label=f"group-{number}")


def link_itself(stage: Stage) -> None:
    """lchown(2) means the link, chown(2) what it leads to."""
    stage.make("regular", "x")
    stage.setup("symlink", "x", "ln")
    before = stage.times("x")
    stage.expect(0, "lchown", "ln", 7101, 7102)
    stage.sees("ln", kind="symlink", uid=7101, gid=7102)
    stage.sees("x", uid=0, gid=0)
    stage.moved(before, "x", "")
    stage.expect(0, "chown", "ln", 7103, 7104)
    stage.sees("ln", kind="symlink", uid=7101, gid=7102)
    stage.sees("x", uid=7103, gid=7104)
    stage.sees("ln", by="stat", kind="regular", uid=7103, gid=7104)


def descriptor(stage: Stage) -> None:
    """fchown(2), whatever it is open for, and when the file has no name any more."""
    for number, flags in enumerate((os.O_RDONLY, os.O_WRONLY, os.O_RDWR)):
        name = f"f{number}"
        stage.make("regular", name, 0o6755)
        fd = stage.setup("open", name, flags)
        stage.expect(0, "fchown", fd, 7101, 7102)
        stage.sees(name, uid=7101, gid=7102, mode=0o755)
        stage.expect(0, "unlink", name)
        stage.expect(0, "fchown", fd, 7103, -1)
        stage.sees(fd, by="fstat", uid=7103, gid=7102, nlink=0)
    stage.make("regular", "x", 0o666)
    fd = stage.setup("open", "x", os.O_RDWR, who=OTHER)
    stage.expect(EPERM, "fchown", fd, OTHER.uid, -1, who=OTHER)
    fd = stage.setup("open", "x", os.O_PATH)
    stage.expect(EBADF, "fchown", fd, 7101, -1, label="path-descriptor-EBADF")
    stage.expect(EBADF, "fchown", -1, 7101, -1, label="no-descriptor-EBADF")


def effect(stage: Stage) -> None:
    """The new owner has the owner's permissions and rights, the old one has not."""
    stage.make("regular", "x", 0o600, USER)
    stage.expect(0, "open", "x", os.O_RDWR, who=USER)
    stage.expect(EACCES, "open", "x", os.O_RDWR, who=OTHER)
    stage.expect(0, "chown", "x", OTHER.uid, -1)
    stage.expect(EACCES, "open", "x", os.O_RDWR, who=USER)
    stage.expect(0, "open", "x", os.O_RDWR, who=OTHER)
    stage.expect(EPERM, "chmod", "x", 0o666, who=USER)
    stage.expect(0, "chmod", "x", 0o060, who=OTHER)
    stage.expect(0, "open", "x", os.O_RDWR, who=USER, label="by-group-success")
    stage.expect(0, "chown", "x", -1, OTHER.gid)
    stage.expect(EACCES, "open", "x", os.O_RDWR, who=USER, label="group-gone-EACCES")


def hard_links(stage: Stage, kind: str) -> None:
    """All names of a file show its new owner."""
    stage.make(kind, "x")
    stage.setup("link", "x", "y")
    stage.expect(0, "chown", "x", 7101, 7102)
    stage.sees("y", kind=kind, uid=7101, gid=7102, nlink=2)
    stage.expect(0, "chown", "y", 7103, 7104)
    stage.sees("x", kind=kind, uid=7103, gid=7104, nlink=2)
