"""Directory streams while the directory changes, and positions (readdir(3), telldir(3), seekdir(3), rewinddir(3)).

POSIX leaves open whether a name that comes or goes while a stream is read is listed; one that stays is listed once.
"""

from collections.abc import Iterator
from errno import EACCES, ENOENT, ENOTDIR

from perfused.conformance.filesystem.calls import KINDS
from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import MEMBER, OTHER, USER

COUNTS = (0, 1, 2, 10, 100, 400)
CHANGES = ("come", "go", "move")


def cases() -> Iterator[Case]:
    """By number of entries, and by what changes meanwhile."""
    for count in COUNTS:
        for length in (0, 200):
            yield case(f"readdir/stream/{count}-names-of-{length or 'few'}", stream, count, length)
            some = min(count, 150)
            yield case(f"readdir/positions/{some}-names-of-{length or 'few'}", positions, some, length)
    for change in CHANGES:
        for batch in (1, 7, 100):
            yield case(f"readdir/while-others-{change}/{batch}-at-a-time", changing, change, batch)
    for batch in (1, 10, 1000):
        yield case(f"readdir/removing/{batch}-at-a-time", removing, batch)
    yield case("readdir/rewind", rewind)
    yield case("readdir/two-streams", two_streams)
    yield case("readdir/dots", dots)
    yield case("readdir/inodes", inodes)
    yield case("readdir/removed-directory", removed)
    yield case("readdir/renamed-directory", renamed)
    yield case("readdir/permission", permission)
    yield case("readdir/what-is-none", none)
    yield case("readdir/seek-after-change", after_change)


def _names(prefix: str, count: int, length: int) -> list[str]:
    return [f"{prefix}{number:04d}".ljust(length, "n") for number in range(count)]


def stream(stage: Stage, count: int, length: int) -> None:
    """Every name once, by one stream after the other; at the end nothing more, as often as it is asked."""
    stage.make("dir", "d")
    stage.setup("make_many", "d", "f", count, length)
    opened = stage.expect(0, "opendir", "d")
    stage.gives(_names("f", count, length), "readdir_sorted", opened, label="all")
    stage.gives([], "readdir_sorted", opened, label="end")
    stage.gives([], "readdir_sorted", opened, label="end-again")
    stage.gives(_names("f", count, length), "rewinddir", opened, label="rewound")
    stage.gives(_names("f", count, length), "listdir", "d", label="listed")
    stage.sees("d", nlink=stage.lstat("d").nlink, kind="dir")


def positions(stage: Stage, count: int, length: int) -> None:
    """From every position that telldir(3) gave the same entry follows, in whatever order they are visited."""
    stage.make("dir", "d", 0o755, USER)
    stage.setup("make_many", "d", "f", count, length)
    for who in (USER, OTHER):
        stage.gives([], "seek_everywhere", "d", who=who, label=f"{who.name}-positions")


def changing(stage: Stage, change: str, batch: int) -> None:
    """Those that stay come once each, while others come, go or get other names."""
    stage.make("dir", "d", 0o777)
    stage.setup("make_many", "d", "stay", 120)
    stage.setup("make_many", "d", "go", 120)
    stay = _names("stay", 120, 0)
    stage.gives([], "changing", "d", stay, batch, change, who=USER)


def removing(stage: Stage, batch: int) -> None:
    """Whoever removes what he reads has removed all in one pass."""
    stage.make("dir", "d", 0o777)
    stage.setup("make_many", "d", "f", 250)
    stage.gives(250, "drained", "d", batch)
    stage.holds("d")
    stage.expect(0, "rmdir", "d")


def rewind(stage: Stage) -> None:
    """rewinddir(3) shows what stands there now."""
    stage.make("dir", "d", 0o777)
    stage.setup("make_many", "d", "a", 3)
    opened = stage.setup("opendir", "d", who=USER)
    stage.gives(_names("a", 3, 0), "readdir_sorted", opened, who=USER)
    stage.setup("make_many", "d", "b", 2)
    stage.gives(_names("a", 3, 0) + _names("b", 2, 0), "rewinddir", opened, who=USER, label="two-more")
    stage.setup("unlink", "d/a0001")
    stage.setup("rename", "d/a0002", "d/c")
    stage.gives(["a0000", "b0000", "b0001", "c"], "rewinddir", opened, who=USER, label="one-less-one-renamed")
    for name in ("a0000", "b0000", "b0001", "c"):
        stage.setup("unlink", f"d/{name}")
    stage.gives([], "rewinddir", opened, who=USER, label="empty")


def two_streams(stage: Stage) -> None:
    """Two streams of one directory, and of two users, have two positions."""
    stage.make("dir", "d", 0o755)
    stage.setup("make_many", "d", "f", 200)
    one = stage.setup("opendir", "d", who=USER)
    two = stage.setup("opendir", "d", who=USER)
    third = stage.setup("opendir", "d", who=OTHER)
    stage.setup("readdir", one, 50, who=USER)
    stage.gives(_names("f", 200, 0), "readdir_sorted", two, who=USER, label="second")
    stage.gives(_names("f", 200, 0), "readdir_sorted", third, who=OTHER, label="others")
    rest = stage.setup("readdir", one, who=USER)
    stage.gives(True, "between", 152, len(rest) if isinstance(rest, list) else 152, 152, label="first-goes-on")


def dots(stage: Stage) -> None:
    """The two that stand in every directory, where they are listed, are listed once."""
    stage.make("dir", "d")
    stage.setup("make_many", "d", "f", 5)
    opened = stage.setup("opendir", "d")
    names = stage.setup("readdir", opened)
    names = names if isinstance(names, list) else []
    for name in (".", ".."):
        stage.gives(True, "between", 0, names.count(name), 1, label=f"{name.count('.')}-dots")


def inodes(stage: Stage) -> None:
    """The listed inode number and type are those of the entry."""
    stage.make("dir", "d")
    for kind in KINDS:
        stage.make(kind, f"d/{kind}")
    stage.setup("link", "d/regular", "d/linked")
    stage.gives([], "inodes_agree", "d")
    stage.setup("rename", "d/regular", "d/renamed")
    stage.setup("unlink", "d/fifo")
    stage.make("regular", "d/fifo")
    stage.gives([], "inodes_agree", "d", label="changed")


def removed(stage: Stage) -> None:
    """A directory that is gone lists nothing."""
    stage.make("dir", "d", 0o777)
    opened = stage.setup("opendir", "d", who=USER)
    later = stage.setup("opendir", "d", who=OTHER)
    stage.setup("readdir", opened, who=USER)
    stage.expect(0, "rmdir", "d")
    stage.expect((0, ENOENT), "readdir", opened, who=USER)
    stage.expect((0, ENOENT), "readdir", later, who=OTHER)
    stage.make("dir", "d")
    stage.make("regular", "d/x")
    stage.expect((0, ENOENT), "rewinddir", opened, who=USER)
    stage.expect(0, "closedir", opened, who=USER)


def renamed(stage: Stage) -> None:
    """A directory with another name lists what it did."""
    stage.make("dir", "d", 0o777)
    stage.make("dir", "e", 0o777)
    stage.setup("make_many", "d", "f", 5)
    opened = stage.setup("opendir", "d", who=USER)
    stage.setup("rename", "d", "e/d")
    stage.gives(_names("f", 5, 0), "readdir_sorted", opened, who=USER)
    stage.make("regular", "e/d/g")
    stage.gives([*_names("f", 5, 0), "g"], "rewinddir", opened, who=USER)


def permission(stage: Stage) -> None:
    """Permission counts when it is opened, and not afterwards."""
    stage.make("dir", "d", 0o750, USER)
    stage.setup("make_many", "d", "f", 5)
    stage.expect(EACCES, "opendir", "d", who=OTHER)
    opened = stage.expect(0, "opendir", "d", who=MEMBER)
    stage.setup("chmod", "d", 0)
    stage.expect(EACCES, "opendir", "d", who=USER)
    stage.gives(_names("f", 5, 0), "readdir_sorted", opened or 1, who=MEMBER)


def none(stage: Stage) -> None:
    """Only directories are opened."""
    for kind in KINDS:
        if kind not in ("dir", "symlink"):
            stage.make(kind, kind)
            stage.expect(ENOTDIR, "opendir", kind, label=f"{kind}-ENOTDIR")
    stage.make("symlink", "dangling")
    stage.expect(ENOENT, "opendir", "dangling", label="dangling-ENOENT")
    stage.expect(ENOENT, "opendir", "nothing")
    stage.expect(ENOENT, "opendir", "")


def after_change(stage: Stage) -> None:
    """A position stays good as entries before and behind it go: what stays behind it is listed from there."""
    stage.make("dir", "d", 0o777)
    stage.setup("make_many", "d", "f", 100)
    opened = stage.setup("opendir", "d", who=USER)
    first = stage.setup("readdir", opened, 52, who=USER)
    first = set(first) if isinstance(first, list) else set()
    place = stage.setup("telldir", opened, who=USER)
    rest = [name for name in _names("f", 100, 0) if name not in first]
    for name in sorted(first - {".", ".."})[::3] + rest[::5]:
        stage.setup("unlink", f"d/{name}")
    stay = [name for name in rest if name not in rest[::5]]
    stage.setup("seekdir", opened, place, who=USER)
    left = stage.setup("readdir_sorted", opened, who=USER)
    left = left if isinstance(left, list) else stay
    lost = [name for name in stay if left.count(name) != 1]
    stage.gives(True, "between", 0, len(lost), 0, label="none-lost-or-doubled")
