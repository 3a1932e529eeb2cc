"""Symbolic links: what they lead to, when they do, and that nobody's permission on them matters."""

from collections.abc import Iterator
from errno import EACCES, EINVAL, ELOOP, ENOENT, ENOTDIR

from perfused.conformance.filesystem.calls import KINDS, SOLID
from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import MEMBER, OTHER, ROOT, SUPPLEMENTARY, USER


def cases() -> Iterator[Case]:
    """For each kind of file led to."""
    for kind in SOLID:
        yield case(f"symlink/leads-to/{kind}", leads_to, kind)
        yield case(f"readlink/kind/{kind}", no_link, kind)
    for kind in KINDS:
        yield case(f"symlink/target-independent/{kind}", independent, kind)
    yield case("symlink/relative", relative)
    yield case("symlink/permissions", permissions)
    yield case("symlink/unresolved", unresolved)
    yield case("readlink/permissions", read_permissions)
    yield case("readlink/times", read_times)


def leads_to(stage: Stage, kind: str) -> None:
    """stat(2) shows what it leads to, lstat(2) the link; one that goes leaves the other."""
    stage.make(kind, "x", 0o751, USER)
    stage.expect(0, "symlink", "x", "ln")
    stage.expect(0, "symlink", "ln", "ln2")
    was = stage.lstat("x")
    for name in ("ln", "ln2"):
        stage.sees(name, by="stat", kind=kind, ino=was.ino, mode=0o751, uid=USER.uid, rdev=was.rdev)
        stage.sees(name, kind="symlink", nlink=1, uid=0, gid=0)
    stage.gives("x", "readlink", "ln")
    stage.gives("ln", "readlink", "ln2")
    stage.expect(0, "rename", "x", "y")
    stage.expect(ENOENT, "stat", "ln", label="moved-ENOENT")
    stage.expect(0, "lstat", "ln", label="moved-link-there")
    stage.make("regular", "x")
    stage.sees("ln2", by="stat", kind="regular", label="ln2-leads-to-new")
    stage.expect(0, "unlink", "ln2")
    stage.sees("x", kind="regular", label="x-there")


def no_link(stage: Stage, kind: str) -> None:
    """What is no link has no target."""
    stage.make(kind, "x")
    stage.expect(EINVAL, "readlink", "x")
    stage.expect(EINVAL, "readlink", "x", who=OTHER)


def independent(stage: Stage, kind: str) -> None:
    """Neither making nor removing a link touches what it leads to."""
    stage.make("dir", "d")
    stage.make(kind, "d/x")
    before = stage.times("d/x", "d")
    stage.expect(0, "symlink", "d/x", "ln")
    stage.expect(0, "lchown", "ln", 7101, 7102)
    stage.expect(0, "rename", "ln", "ln2")
    stage.expect(0, "unlink", "ln2")
    stage.moved(before, "d/x", "")
    stage.moved(before, "d", "")
    stage.sees("d/x", kind=kind, nlink=before["d/x"].nlink)


def relative(stage: Stage) -> None:
    """A relative target begins at the link's directory, also after the link has moved."""
    for name in ("a", "b"):
        stage.make("dir", name)
        stage.make("regular", f"{name}/x", 0o600 if name == "a" else 0o700)
    stage.expect(0, "symlink", "x", "a/ln")
    stage.sees("a/ln", by="stat", mode=0o600)
    stage.expect(0, "rename", "a/ln", "b/ln")
    stage.sees("b/ln", by="stat", mode=0o700)
    stage.expect(0, "symlink", "../a/x", "b/up")
    stage.sees("b/up", by="stat", mode=0o600)
    stage.expect(0, "symlink", "a/", "dir")
    stage.sees("dir", by="stat", kind="dir")
    stage.sees("dir", kind="symlink")
    stage.sees("dir/", kind="dir")
    stage.expect(0, "symlink", "a/x/", "odd")
    stage.expect(ENOTDIR, "stat", "odd", label="slash-on-regular-ENOTDIR")


def permissions(stage: Stage) -> None:
    """Everybody follows a link, whoever owns it; what counts is what it leads through and to."""
    stage.make("dir", "open", 0o755)
    stage.make("dir", "closed", 0o700)
    stage.make("regular", "open/x", 0o644)
    stage.make("regular", "closed/x", 0o644)
    for place, want in (("open", 0), ("closed", EACCES)):
        stage.setup("symlink", f"{place}/x", f"to-{place}")
        for owner in (ROOT, USER, OTHER):
            stage.setup("lchown", f"to-{place}", owner.uid, owner.gid)
            for who in (USER, MEMBER, SUPPLEMENTARY, OTHER):
                label = f"{place}-link-of-{owner.name}-by-{who.name}"
                stage.expect(want, "stat", f"to-{place}", who=who, label=label)
                stage.expect(want, "open", f"to-{place}", 0, who=who, label=f"{label}-open")
                stage.gives(f"{place}/x", "readlink", f"to-{place}", who=who, label=f"{label}-readlink")


def unresolved(stage: Stage) -> None:
    """A target need not be a path that leads anywhere."""
    for name, target, want in (
        ("itself", "itself", ELOOP), ("nothing", "no/where", ENOENT), ("below-file", "file/x", ENOTDIR),
    ):  # fmt: skip
        stage.expect(0, "symlink", target, name, label=f"{name}-success")
        stage.gives(target, "readlink", name, label=f"{name}-target")
        if name == "below-file":
            stage.make("regular", "file")
        stage.expect(want, "stat", name, label=f"{name}-stat")
        stage.expect(want, "open", name, 0, label=f"{name}-open")
        stage.sees(name, kind="symlink", size=len(target), label=f"{name}-link")


def read_permissions(stage: Stage) -> None:
    """readlink(2) needs no permission on the link, only to get to it."""
    stage.make("dir", "d", 0o711)
    stage.make("symlink", "d/ln")
    for who in (ROOT, USER, OTHER):
        stage.gives("nowhere", "readlink", "d/ln", who=who)
    stage.setup("chmod", "d", 0o766)
    for who in (USER, OTHER):
        stage.expect(EACCES, "readlink", "d/ln", who=who)


def read_times(stage: Stage) -> None:
    """Reading a link changes neither its mtime nor its ctime."""
    stage.make("symlink", "ln")
    before = stage.times("ln")
    stage.gives("nowhere", "readlink", "ln")
    stage.expect(ENOENT, "stat", "ln")
    stage.sees("ln", mtime=before["ln"].mtime, ctime=before["ln"].ctime)
