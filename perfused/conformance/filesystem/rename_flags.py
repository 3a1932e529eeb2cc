"""renameat2(2): RENAME_NOREPLACE and RENAME_EXCHANGE."""

from collections.abc import Iterator
from errno import EACCES, EEXIST, EINVAL, ENOENT

from perfused import libc
from perfused.conformance.filesystem.calls import KINDS
from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import OTHER, USER

NOREPLACE, EXCHANGE, WHITEOUT = libc.RENAME_NOREPLACE, libc.RENAME_EXCHANGE, libc.RENAME_WHITEOUT


def cases() -> Iterator[Case]:
    """All pairs of kinds with each flag."""
    for old in KINDS:
        yield case(f"rename/noreplace/{old}-to-nothing", noreplace_free, old, needs=["noreplace"])
        yield case(f"rename/exchange/{old}-with-nothing", exchange_nothing, old, needs=["exchange"])
        for new in KINDS:
            yield case(f"rename/noreplace/{old}-on-{new}", noreplace, old, new, needs=["noreplace"])
            yield case(f"rename/exchange/{old}-with-{new}", exchange, old, new, needs=["exchange"])
    yield case("rename/noreplace/same-file", noreplace_same, needs=["noreplace"])
    yield case("rename/exchange/full-directories", exchange_full, needs=["exchange"])
    yield case("rename/exchange/ancestors", exchange_ancestors, needs=["exchange"])
    yield case("rename/exchange/links", exchange_links, needs=["exchange", "dirlinks"])
    yield case("rename/exchange/refused", exchange_refused, needs=["exchange"])
    yield case("rename/flags/unknown", unknown)


def noreplace_free(stage: Stage, kind: str) -> None:
    """To a free name it is rename(2)."""
    stage.make(kind, "a")
    was = stage.lstat("a")
    stage.expect(0, "renameat2", "a", "b", NOREPLACE)
    stage.missing("a")
    stage.sees("b", kind=kind, ino=was.ino)


def noreplace(stage: Stage, old: str, new: str) -> None:
    """Whatever has the name keeps it, whichever kinds the two are."""
    stage.make(old, "a")
    stage.make(new, "b", owner=OTHER)
    before = stage.times("a", "b", ".")
    stage.expect(EEXIST, "renameat2", "a", "b", NOREPLACE)
    stage.sees("a", kind=old, ino=before["a"].ino)
    stage.sees("b", kind=new, ino=before["b"].ino)
    for path in before:
        stage.moved(before, path, "")


def noreplace_same(stage: Stage) -> None:
    """Also if both names are of one file, or are one name."""
    stage.make("regular", "a")
    stage.setup("link", "a", "b")
    stage.expect(EEXIST, "renameat2", "a", "b", NOREPLACE)
    stage.expect(EEXIST, "renameat2", "a", "a", NOREPLACE, label="one-name-EEXIST")
    stage.holds(".", "a", "b")


def exchange(stage: Stage, old: str, new: str) -> None:
    """Both change places, between directories too; ctimes move, and the directories' mtimes."""
    stage.make("dir", "d")
    stage.make("dir", "e")
    stage.make(old, "d/a", owner=USER)
    stage.make(new, "e/b", owner=OTHER)
    before = stage.times("d/a", "e/b", "d", "e", ".")
    stage.expect(0, "renameat2", "d/a", "e/b", EXCHANGE)
    stage.sees("e/b", kind=old, ino=before["d/a"].ino, uid=USER.uid, nlink=before["d/a"].nlink)
    stage.sees("d/a", kind=new, ino=before["e/b"].ino, uid=OTHER.uid, nlink=before["e/b"].nlink)
    stage.moved(before, "d/a", "c", now="e/b")
    stage.moved(before, "e/b", "c", now="d/a")
    stage.moved(before, "d", "mc")
    stage.moved(before, "e", "mc")
    stage.moved(before, ".", "")


def exchange_nothing(stage: Stage, kind: str) -> None:
    """Both have to be there."""
    stage.make(kind, "a")
    before = stage.times("a", ".")
    stage.expect(ENOENT, "renameat2", "a", "b", EXCHANGE)
    stage.expect(ENOENT, "renameat2", "b", "a", EXCHANGE)
    stage.moved(before, "a", "")
    stage.moved(before, ".", "")


def exchange_full(stage: Stage) -> None:
    """Directories change places with all that is in them."""
    for name in ("a", "b"):
        stage.make("dir", name)
        stage.make("regular", f"{name}/{name}1")
    stage.expect(0, "renameat2", "a", "b", EXCHANGE)
    stage.holds("a", "b1")
    stage.holds("b", "a1")
    stage.make("regular", "f")
    stage.expect(0, "renameat2", "f", "a", EXCHANGE, label="with-regular-success")
    stage.holds("f", "b1")
    stage.sees("a", kind="regular")


def exchange_ancestors(stage: Stage) -> None:
    """No directory changes places with something below it."""
    stage.make("dir", "a")
    stage.make("dir", "a/b")
    stage.make("regular", "a/b/c")
    stage.expect(EINVAL, "renameat2", "a", "a/b", EXCHANGE, label="child-EINVAL")
    stage.expect(EINVAL, "renameat2", "a", "a/b/c", EXCHANGE, label="grandchild-EINVAL")
    stage.expect(EINVAL, "renameat2", "a/b", "a", EXCHANGE, label="parent-EINVAL")
    stage.expect(EINVAL, "renameat2", "a/b/c", "a", EXCHANGE, label="grandparent-EINVAL")
    stage.holds("a", "b")


def exchange_links(stage: Stage) -> None:
    """A directory takes its parent's link with it."""
    stage.make("dir", "d")
    stage.make("dir", "e")
    stage.make("dir", "d/a")
    stage.make("regular", "e/b")
    stage.expect(0, "renameat2", "d/a", "e/b", EXCHANGE)
    stage.sees("d", nlink=2)
    stage.sees("e", nlink=3)
    stage.sees("e/b/..", ino=stage.lstat("e").ino, kind="dir")


def exchange_refused(stage: Stage) -> None:
    """Both directories have to be writable."""
    stage.make("dir", "d", 0o755)
    stage.make("dir", "e", 0o777)
    stage.make("regular", "d/a", owner=USER)
    stage.make("regular", "e/b", owner=USER)
    for old, new in (("d/a", "e/b"), ("e/b", "d/a")):
        stage.expect(EACCES, "renameat2", old, new, EXCHANGE, who=USER)
    stage.holds("d", "a")


def unknown(stage: Stage) -> None:
    """Flags that exclude one another or that nobody knows are refused."""
    stage.make("regular", "a")
    stage.make("regular", "b")
    for flags in (NOREPLACE | EXCHANGE, WHITEOUT | EXCHANGE, 1 << 30, NOREPLACE | 1 << 20):
        stage.expect(EINVAL, "renameat2", "a", "c", flags, label=f"{flags:#x}-EINVAL")
    stage.holds(".", "a", "b")
