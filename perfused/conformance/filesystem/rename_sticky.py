"""rename(2) out of and into sticky directories: whose files may be moved, and whose replaced."""

from collections.abc import Iterator
from errno import EACCES, EPERM

from perfused import libc
from perfused.conformance.filesystem.calls import KINDS, NONDIRS
from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import OTHER, ROOT, USER

OWNERS = {"caller": USER, "root": ROOT, "other": OTHER}


def cases() -> Iterator[Case]:
    """All pairs of kinds, with all owners of directory and file."""
    for kind in NONDIRS:
        for directory in OWNERS:
            for file in OWNERS:
                owners = f"directory-of-{directory}-file-of-{file}"
                yield case(f"rename/sticky-from/{kind}/{owners}", out_of, kind, directory, file)
                yield case(f"rename/sticky-onto/{kind}/{owners}", onto, kind, directory, file)
    for directory in OWNERS:
        for file in OWNERS:
            owners = f"directory-of-{directory}-file-of-{file}"
            yield case(f"rename/sticky-from/dir/{owners}", directory_out_of, directory, file)
            yield case(f"rename/sticky-onto/dir/{owners}", directory_onto, directory, file)
            yield case(f"rename/sticky-exchange/{owners}", exchange, directory, file, needs=["exchange"])


def out_of(stage: Stage, kind: str, directory: str, file: str) -> None:
    """One owns the directory or the file, or it stays; whatever is replaced elsewhere does not matter."""
    good = "caller" in (directory, file)
    stage.make("dir", "from", 0o1777, OWNERS[directory])
    stage.make("dir", "to", 0o755, USER)
    stage.make(kind, "from/a", 0o666, OWNERS[file])
    was = stage.lstat("from/a")
    for there in ("nothing", *NONDIRS):
        if there != "nothing":
            stage.make(there, "to/b", owner=USER)
        label = f"{kind}-over-{there}"
        if good:
            stage.expect(0, "rename", "from/a", "to/b", who=USER, label=f"{label}-success")
            stage.missing("from/a", f"{label}-gone")
            stage.sees("to/b", kind=kind, ino=was.ino, uid=was.uid, gid=was.gid, label=f"{label}-moved")
            stage.expect(0, "rename", "to/b", "from/a", who=USER, label=f"{label}-back-success")
            stage.sees("from/a", kind=kind, ino=was.ino, label=f"{label}-back")
        else:
            stage.expect((EPERM, EACCES), "rename", "from/a", "to/b", who=USER, label=f"{label}-EPERM")
            stage.sees("from/a", kind=kind, ino=was.ino, uid=was.uid, gid=was.gid, label=f"{label}-stays")
            if there == "nothing":
                stage.missing("to/b", f"{label}-target")
            else:
                stage.sees("to/b", kind=there, uid=USER.uid, label=f"{label}-target")
                stage.setup("unlink", "to/b")


def onto(stage: Stage, kind: str, directory: str, file: str) -> None:
    """What is replaced in a sticky directory has to be one's own, or the directory has."""
    good = "caller" in (directory, file)
    stage.make("dir", "from", 0o755, USER)
    stage.make("dir", "to", 0o1777, OWNERS[directory])
    stage.make(kind, "from/a", owner=USER)
    was = stage.lstat("from/a")
    for there in NONDIRS:
        stage.make(there, "to/b", 0o666, OWNERS[file])
        label = f"{kind}-over-{there}"
        if good:
            stage.expect(0, "rename", "from/a", "to/b", who=USER, label=f"{label}-success")
            stage.missing("from/a", f"{label}-gone")
            stage.sees("to/b", kind=kind, ino=was.ino, uid=USER.uid, label=f"{label}-moved")
            stage.expect(0, "rename", "to/b", "from/a", who=USER, label=f"{label}-back-success")
            stage.missing("to/b", f"{label}-back")
        else:
            stage.expect((EPERM, EACCES), "rename", "from/a", "to/b", who=USER, label=f"{label}-EPERM")
            stage.sees("from/a", kind=kind, ino=was.ino, label=f"{label}-stays")
            stage.sees("to/b", kind=there, uid=OWNERS[file].uid, gid=OWNERS[file].gid, label=f"{label}-target")
            stage.setup("unlink", "to/b")


def directory_out_of(stage: Stage, directory: str, file: str) -> None:
    """A directory needs more to get another parent: that one may write to it, since its own entry `..` changes."""
    good = "caller" in (directory, file)
    stage.make("dir", "from", 0o1777, OWNERS[directory])
    stage.make("dir", "to", 0o755, USER)
    stage.make("dir", "from/a", 0o755, OWNERS[file])
    was = stage.lstat("from/a")
    for target, word in (("from/b", "within"), ("to/b", "between")):
        for full in ("nothing", "empty"):
            if full == "empty":
                stage.make("dir", target, owner=USER)
            moves = good and (word == "within" or file == "caller")
            want, end = (0, "success") if moves else ((EPERM, EACCES), "EPERM")
            label = f"{word}-over-{full}"
            stage.expect(want, "rename", "from/a", target, who=USER, label=f"{label}-{end}")
            stands = target if moves else "from/a"
            stage.sees(stands, kind="dir", ino=was.ino, uid=was.uid, label=f"{label}-where")
            if moves:
                stage.missing("from/a", f"{label}-gone")
                stage.setup("rename", target, "from/a")
            elif full == "empty":
                stage.sees(target, kind="dir", uid=USER.uid, label=f"{label}-target")
                stage.setup("rmdir", target)


def directory_onto(stage: Stage, directory: str, file: str) -> None:
    """An empty directory is replaced under the same condition as a file."""
    good = "caller" in (directory, file)
    stage.make("dir", "from", 0o755, USER)
    stage.make("dir", "to", 0o1777, OWNERS[directory])
    stage.make("dir", "from/a", owner=USER)
    stage.make("dir", "to/b", 0o777, OWNERS[file])
    was, there = stage.lstat("from/a"), stage.lstat("to/b")
    want = 0 if good else (EPERM, EACCES)
    stage.expect(want, "rename", "from/a", "to/b", who=USER, label="success" if good else "EPERM")
    if good:
        stage.missing("from/a")
        stage.sees("to/b", kind="dir", ino=was.ino)
    else:
        stage.sees("from/a", kind="dir", ino=was.ino)
        stage.sees("to/b", kind="dir", ino=there.ino)


def exchange(stage: Stage, directory: str, file: str) -> None:
    """To change places, each has to be allowed to leave its own."""
    good = "caller" in (directory, file)
    stage.make("dir", "from", 0o755, USER)
    stage.make("dir", "to", 0o1777, OWNERS[directory])
    want = 0 if good else (EPERM, EACCES)
    for kind in KINDS:
        old, new = f"from/{kind}", f"to/{kind}"
        stage.make(kind, old, 0o777, USER)
        stage.make("regular", new, 0o666, OWNERS[file])
        was, there = stage.lstat(old), stage.lstat(new)
        stage.expect(want, "renameat2", old, new, libc.RENAME_EXCHANGE, who=USER, label=f"{kind}-there")
        stage.sees(old, ino=there.ino if good else was.ino)
        stage.sees(new, ino=was.ino if good else there.ino)
