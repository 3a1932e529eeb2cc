"""Files that are made without a name: O_TMPFILE of open(2), and linkat(2) which gives them one."""

import os
from collections.abc import Iterator
from errno import EACCES, EEXIST, EINVAL, EISDIR, ENOENT, ENOTDIR

from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import MEMBER, OTHER, ROOT, USER

WHO = (ROOT, USER, MEMBER, OTHER)


def cases() -> Iterator[Case]:
    """All need O_TMPFILE."""
    for name, body in {
        "modes": modes, "owner": owner, "content": content, "linked": linked, "exclusive": exclusive, "times": times,
        "permission": permission, "not-a-directory": not_a_directory, "access-mode": access_mode, "setgid": setgid,
        "many": many, "attributes": attributes, "linked-over": linked_over, "renamed-directory": renamed,
    }.items():  # fmt: skip
        yield case(f"open/tmpfile/{name}", body, needs=["tmpfile"])


FLAGS = os.O_TMPFILE | os.O_RDWR


def modes(stage: Stage) -> None:
    """Mode and umask are as with O_CREAT; there is no link, and the directory lists nothing."""
    stage.make("dir", "d", 0o777)
    for mode in (0o000, 0o400, 0o644, 0o755, 0o777, 0o1777, 0o4755):
        for umask in (0, 0o022, 0o777):
            label = f"{mode:o}-{umask:o}"
            fd = stage.expect(0, "open", "d", FLAGS, mode, umask=umask, label=f"{label}-success")
            stage.sees(fd, by="fstat", kind="regular", mode=mode & ~umask, nlink=0, size=0, label=f"{label}-mode")
    stage.holds("d")


def owner(stage: Stage) -> None:
    """It belongs to whoever made it."""
    stage.make("dir", "d", 0o777)
    for who in WHO:
        fd = stage.expect(0, "open", "d", FLAGS, 0o600, who=who)
        stage.expect(0, "link_descriptor", fd, f"d/{who.name}", who=who, label=f"{who.name}-named")
        stage.sees(f"d/{who.name}", uid=who.uid, gid=who.gid, mode=0o600, nlink=1)


def content(stage: Stage) -> None:
    """It is read, written, cut and mapped as any file."""
    stage.make("dir", "d")
    fd = stage.setup("open", "d", FLAGS, 0o600)
    stage.gives(10_000, "write", fd, b"x" * 10_000)
    stage.gives(b"x" * 10_000, "pread", fd, 20_000, 0)
    stage.expect(0, "ftruncate", fd, 5)
    stage.gives(b"xxxxx", "pread", fd, 20_000, 0, label="cut")
    stage.expect(0, "fsync", fd)
    stage.sees(fd, by="fstat", size=5, nlink=0)


def linked(stage: Stage) -> None:
    """It has its bytes and its inode number when it has a name; further names are links as usual."""
    stage.make("dir", "d", 0o777)
    fd = stage.setup("open", "d", FLAGS, 0o640, who=USER)
    stage.setup("write", fd, b"hello", who=USER)
    was = stage.setup("fstat", fd, who=USER)
    stage.expect(0, "link_descriptor", fd, "d/x", who=USER)
    stage.sees("d/x", ino=was.ino if was else 0, size=5, nlink=1, mode=0o640)
    stage.holds("d", "x")
    reader = stage.setup("open", "d/x", os.O_RDONLY, who=USER)
    stage.gives(b"hello", "pread", reader, 10, 0, who=USER)
    stage.gives(6, "write", fd, b" world", who=USER)
    stage.gives(b"hello world", "pread", reader, 20, 0, who=USER, label="written-on")
    stage.expect(0, "link", "d/x", "d/y", who=USER)
    stage.sees("d/y", nlink=2)
    stage.expect(0, "unlink", "d/x", who=USER)
    stage.expect(0, "unlink", "d/y", who=USER)
    stage.gives(b"hello world", "pread", fd, 20, 0, who=USER, label="without-a-name-again")


def exclusive(stage: Stage) -> None:
    """With O_EXCL it never gets a name."""
    stage.make("dir", "d")
    fd = stage.expect(0, "open", "d", FLAGS | os.O_EXCL, 0o600)
    stage.expect(ENOENT, "link_descriptor", fd, "d/x")
    stage.holds("d")
    stage.gives(3, "write", fd, b"abc")


def times(stage: Stage) -> None:
    """The directory does not change until there is a name."""
    stage.make("dir", "d")
    before = stage.times("d")
    fd = stage.expect(0, "open", "d", FLAGS, 0o600)
    stage.moved(before, "d", "")
    stage.expect(0, "link_descriptor", fd, "d/x")
    stage.moved(before, "d", "mc")
    stage.born(before, "d", "d/x")


def permission(stage: Stage) -> None:
    """The directory has to be one that the caller may write to and search."""
    for mode in range(8):
        stage.make("dir", f"d{mode}", mode << 6, USER)
        want = 0 if mode & 3 == 3 else EACCES
        stage.expect(want, "open", f"d{mode}", FLAGS, 0o600, who=USER, label=f"{mode}-user")
        stage.expect(EACCES, "open", f"d{mode}", FLAGS, 0o600, who=OTHER, label=f"{mode}-other")
        stage.expect(0, "open", f"d{mode}", FLAGS, 0o600, label=f"{mode}-root")


def not_a_directory(stage: Stage) -> None:
    """Only in a directory."""
    for kind in ("regular", "fifo", "socket"):
        stage.make(kind, kind)
        stage.expect(ENOTDIR, "open", kind, FLAGS, 0o600, label=f"{kind}-ENOTDIR")
    stage.make("symlink", "ln")
    stage.expect(ENOENT, "open", "ln", FLAGS, 0o600, label="dangling-ENOENT")
    stage.expect(ENOENT, "open", "no", FLAGS, 0o600, label="nothing-ENOENT")
    stage.make("dir", "d")
    stage.setup("symlink", "d", "to")
    stage.expect(0, "open", "to", FLAGS, 0o600, label="link-success")


def access_mode(stage: Stage) -> None:
    """It has to be open for writing."""
    stage.make("dir", "d")
    stage.expect((EINVAL, EISDIR), "open", "d", os.O_TMPFILE | os.O_RDONLY, 0o600, label="reading-EINVAL")
    stage.expect(0, "open", "d", os.O_TMPFILE | os.O_WRONLY, 0o600, label="writing")
    stage.expect(0, "open", "d", os.O_TMPFILE | os.O_RDWR, 0o600, label="both")


def setgid(stage: Stage) -> None:
    """In a set-group-ID directory it has the directory's group."""
    stage.make("dir", "d", 0o2777, uid=7101, gid=7102)
    for who in WHO:
        fd = stage.setup("open", "d", FLAGS, 0o600, who=who)
        stage.expect(0, "link_descriptor", fd, f"d/{who.name}", who=who)
        stage.sees(f"d/{who.name}", uid=who.uid, gid=7102)


def many(stage: Stage) -> None:
    """A hundred at once are a hundred files."""
    stage.make("dir", "d")
    fds = [stage.setup("open", "d", FLAGS, 0o600) for _ in range(100)]
    for number, fd in enumerate(fds):
        stage.setup("write", fd, b"%d" % number)
    for number, fd in enumerate(fds):
        stage.gives(b"%d" % number, "pread", fd, 10, 0, label=f"{number}-content")
    stage.holds("d")
    stage.expect(0, "rmdir", "d")


def attributes(stage: Stage) -> None:
    """Mode, owner and times are changed by the descriptor, and kept when it gets a name."""
    stage.make("dir", "d", 0o777)
    fd = stage.setup("open", "d", FLAGS, 0o600)
    stage.expect(0, "fchmod", fd, 0o640)
    stage.expect(0, "fchown", fd, 7101, 7102)
    stage.expect(0, "futimens", fd, (1000, 1), (2000, 2))
    stage.sees(fd, by="fstat", mode=0o640, uid=7101, gid=7102, mtime=2000 * 10**9 + 2, nlink=0)
    stage.expect(0, "link_descriptor", fd, "d/x")
    stage.sees("d/x", mode=0o640, uid=7101, gid=7102, atime=1000 * 10**9 + 1, mtime=2000 * 10**9 + 2, nlink=1)


def linked_over(stage: Stage) -> None:
    """A name that is taken stays."""
    stage.make("dir", "d")
    stage.make("regular", "d/x")
    fd = stage.setup("open", "d", FLAGS, 0o600)
    stage.expect(EEXIST, "link_descriptor", fd, "d/x")
    stage.sees("d/x", mode=0o644)
    stage.sees(fd, by="fstat", nlink=0)


def renamed(stage: Stage) -> None:
    """It does not mind what becomes of the directory it was made in."""
    stage.make("dir", "d")
    fd = stage.setup("open", "d", FLAGS, 0o600)
    stage.setup("write", fd, b"abc")
    stage.expect(0, "rmdir", "d")
    stage.gives(b"abc", "pread", fd, 10, 0)
    stage.expect(0, "link_descriptor", fd, "x")
    stage.sees("x", size=3, nlink=1)
