"""truncate(2) and ftruncate(2): sizes, content, times, and what has no size."""

import os
from collections.abc import Iterator
from errno import EACCES, EBADF, EFBIG, EINVAL, EISDIR

from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import MEMBER, OTHER, USER

PAGE = 4096
SIZES = (0, 1, 2, 511, 512, 513, PAGE - 1, PAGE, PAGE + 1, 12345, 2 * PAGE, 65536, 1_000_003)
HUGE = (1 << 31, (1 << 31) + 1, 1 << 32, (1 << 40) + 7)


def cases() -> Iterator[Case]:
    """Both calls alike, then what differs."""
    for call in ("truncate", "ftruncate"):
        yield case(f"{call}/sizes", sizes, call)
        yield case(f"{call}/content", content, call)
        yield case(f"{call}/times", times, call)
        yield case(f"{call}/sparse", sparse, call)
        yield case(f"{call}/out-of-range", out_of_range, call)
        yield case(f"{call}/by-user", by_user, call)
    for kind in ("dir", "fifo", "socket", "char", "block"):
        needs = ["devices"] if kind in ("char", "block") else []
        yield case(f"truncate/kind/{kind}", kinds, kind, needs=needs)
    yield case("truncate/link", through_link)
    yield case("truncate/while-open", while_open)
    yield case("truncate/refused", refused)
    yield case("ftruncate/descriptors", descriptors)
    yield case("ftruncate/unlinked", unlinked)


def _set(stage: Stage, call: str, size: int, want: int = 0, label: str = "") -> None:
    if call == "truncate":
        stage.expect(want, "truncate", "x", size, label=label)
    else:
        fd = stage.setup("open", "x", os.O_RDWR)
        stage.expect(want, "ftruncate", fd, size, label=label)
        stage.setup("close", fd)


def sizes(stage: Stage, call: str) -> None:
    """Every size from every other."""
    stage.make("regular", "x")
    for first in SIZES:
        for second in SIZES:
            stage.setup("truncate", "x", first)
            _set(stage, call, second, label=f"{first}-to-{second}-success")
            stage.sees("x", size=second, label=f"{first}-to-{second}-size")


def content(stage: Stage, call: str) -> None:
    """What is cut is lost for good, what is added is zero."""
    stage.make("regular", "x")
    data = bytes(range(1, 251)) * 50
    fd = stage.setup("open", "x", os.O_RDWR)
    for cut in (0, 1, 100, PAGE - 1, PAGE, PAGE + 1, 12499, 12500, 12501, 20000):
        stage.setup("ftruncate", fd, 0)
        stage.setup("pwrite", fd, data, 0)
        _set(stage, call, cut, label=f"cut-{cut}-success")
        stage.gives(data[:cut].ljust(cut, b"\0"), "pread", fd, 30000, 0, label=f"cut-{cut}-content")
        _set(stage, call, 15000, label=f"grown-{cut}-success")
        want = data[:cut].ljust(15000, b"\0")[:15000]
        stage.gives(want, "pread", fd, 30000, 0, label=f"grown-{cut}-content")


def times(stage: Stage, call: str) -> None:
    """mtime and ctime move when the size changes; not atime, not the directory's."""
    stage.make("regular", "x")
    for size in (1000, 10, 0):
        before = stage.times("x", ".")
        _set(stage, call, size, label=f"{size}-success")
        stage.moved(before, "x", "mc")
        stage.moved(before, ".", "")


def sparse(stage: Stage, call: str) -> None:
    """Sizes beyond 31 and 32 bits, without a byte written."""
    stage.make("regular", "x")
    for size in HUGE:
        _set(stage, call, size, label=f"{size}-success")
        stage.sees("x", size=size, label=f"{size}-size")
        fd = stage.setup("open", "x", os.O_RDONLY)
        stage.gives(b"\0" * 5, "pread", fd, 10, size - 5, label=f"{size}-end")
    _set(stage, call, 0)
    stage.sees("x", size=0, blocks=0)


def out_of_range(stage: Stage, call: str) -> None:
    """No negative size; one too large for the filesystem is refused."""
    stage.make("regular", "x")
    stage.setup("truncate", "x", 7)
    before = stage.times("x")
    _set(stage, call, -1, EINVAL, label="minus-one-EINVAL")
    _set(stage, call, -(1 << 62), EINVAL, label="negative-EINVAL")
    stage.sees("x", size=7)
    stage.moved(before, "x", "")
    if call == "truncate":
        stage.expect((0, EFBIG, EINVAL), "truncate", "x", (1 << 63) - 1, label="largest")
    stage.expect(0, "truncate", "x", 3, label="after-success")
    stage.sees("x", size=3, label="after")


def by_user(stage: Stage, call: str) -> None:
    """Who may write may cut, whoever the owner is; who may not, not."""
    stage.make("regular", "x", 0o664, USER)
    for number, (who, good) in enumerate(((USER, True), (MEMBER, True), (OTHER, False))):
        size = 100 + number
        was = stage.lstat("x")
        if call == "truncate":
            stage.expect(0 if good else EACCES, "truncate", "x", size, who=who)
        else:
            fd = stage.expect(0 if good else EACCES, "open", "x", os.O_WRONLY, who=who)
            if good:
                stage.expect(0, "ftruncate", fd, size, who=who)
        stage.sees("x", size=size if good else was.size, uid=USER.uid, gid=USER.gid, label=f"{who.name}-size")


def kinds(stage: Stage, kind: str) -> None:
    """Directories have EISDIR, all else without a size EINVAL."""
    stage.make(kind, "x", 0o666)
    before = stage.times("x")
    for size in (0, 10):
        stage.expect(EISDIR if kind == "dir" else EINVAL, "truncate", "x", size, label=f"{size}")
    stage.sees("x", kind=kind)
    stage.moved(before, "x", "")


def through_link(stage: Stage) -> None:
    """truncate(2) follows links."""
    stage.make("regular", "x")
    stage.setup("symlink", "x", "ln")
    stage.setup("symlink", "ln", "ln2")
    was = stage.lstat("ln")
    stage.expect(0, "truncate", "ln2", 42)
    stage.sees("x", kind="regular", size=42)
    stage.sees("ln", kind="symlink", size=was.size, mtime=was.mtime)


def while_open(stage: Stage) -> None:
    """Those who have it open see it at once, and write where they were."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.gives(10, "write", fd, b"0123456789")
    stage.expect(0, "truncate", "x", 4)
    stage.sees(fd, by="fstat", size=4)
    stage.gives(b"", "read", fd, 10)
    stage.gives(1, "write", fd, b"!")
    stage.gives(b"0123\0\0\0\0\0\0!", "pread", fd, 100, 0)
    stage.sees("x", size=11)


def refused(stage: Stage) -> None:
    """No permission, no change."""
    stage.make("regular", "x", 0o644, USER)
    stage.setup("truncate", "x", 9)
    before = stage.times("x")
    for who in (MEMBER, OTHER):
        stage.expect(EACCES, "truncate", "x", 3, who=who)
    stage.sees("x", size=9)
    stage.moved(before, "x", "")


def descriptors(stage: Stage) -> None:
    """ftruncate(2) wants a file that is open for writing."""
    stage.make("regular", "x", 0o666)
    stage.make("fifo", "p")
    stage.setup("truncate", "x", 9)
    reader = stage.setup("open", "x", os.O_RDONLY)
    path = stage.setup("open", "x", os.O_PATH)
    pipe = stage.setup("open", "p", os.O_RDWR)
    stage.expect(EINVAL, "ftruncate", reader, 3, label="reader-EINVAL")
    stage.expect(EBADF, "ftruncate", path, 3, label="path-EBADF")
    stage.expect(EBADF, "ftruncate", -1, 3, label="none-EBADF")
    stage.expect(EINVAL, "ftruncate", pipe, 3, label="fifo-EINVAL")
    stage.sees("x", size=9)
    writer = stage.setup("open", "x", os.O_WRONLY)
    stage.setup("chmod", "x", 0)
    stage.expect(0, "ftruncate", writer, 3, label="writer-success")
    stage.sees("x", size=3)


def unlinked(stage: Stage) -> None:
    """A file without a name has a size all the same."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("unlink", "x")
    for size in (100, 10, 0, 5000):
        stage.expect(0, "ftruncate", fd, size, label=f"{size}-success")
        stage.sees(fd, by="fstat", size=size, nlink=0, label=f"{size}-size")
