"""Every call that walks a path, as a row of a table: what it wants to find there, what it leaves, what it needs.

`walking`, `parents` and `mounts` multiply these rows with what can be wrong with a path.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from errno import EISDIR, ENOENT, ENOTDIR
from typing import Any

from perfused import libc
from perfused.conformance.filesystem.case import Stage
from perfused.conformance.filesystem.identities import ROOT, Who

NOW = (0, libc.UTIME_NOW)


@dataclass(frozen=True)
class Operation:
    """One call at a path. Calls with two paths are two rows; their other path is in the directory `w`."""

    name: str
    call: str
    #: the call's name and arguments for a path
    at: Callable[[str], tuple[Any, ...]]
    #: what stands at the path before, "" for nothing
    finds: str = "regular"
    #: what stands there afterwards
    leaves: str = "regular"
    #: a symbolic link at the end is followed
    follows: bool = True
    #: changes the directory, so it needs write permission there
    writes: bool = False
    #: changes something, so a read-only mount refuses it
    modifies: bool = True
    #: the answer to a slash after the name
    slash: int = ENOTDIR
    #: only root may
    privileged: bool = False
    #: works as well where nothing stands
    optional: bool = False
    #: the facts without which there is no such call
    needs: tuple[str, ...] = ()

    def prepare(self, stage: Stage, path: str, who: Who = ROOT) -> None:
        """Put at the path what the call wants to find, owned by the caller."""
        if self.finds:
            stage.make(self.finds, path, owner=who)

    def expect(self, stage: Stage, want: int, path: str, who: Who = ROOT, label: str = "") -> None:
        """Assert what the call returns at a path."""
        name, *args = self.at(path)
        stage.expect(want, name, *args, who=who, label=label)

    def done(self, stage: Stage, path: str, label: str) -> None:
        """Assert that it has done its work."""
        self._stands(stage, path, self.leaves, label)

    def undone(self, stage: Stage, path: str, label: str) -> None:
        """Assert that it has not."""
        self._stands(stage, path, self.finds, label)

    def _stands(self, stage: Stage, path: str, kind: str, label: str) -> None:
        if kind:
            stage.sees(path, kind=kind, label=label)
        else:
            stage.missing(path, label)


def companions(stage: Stage, who: Who = ROOT) -> None:
    """The directory `w`, open to all, with `other` in it, which belongs to the caller."""
    stage.make("dir", "w", 0o777)
    stage.make("regular", "w/other", owner=who)


def _new(name: str, call: str, at: Callable[[str], tuple[Any, ...]], kind: str, **more: Any) -> Operation:
    more = {"slash": ENOENT, **more}
    return Operation(name, call, at, "", kind, follows=False, writes=True, **more)


CREATE = os.O_CREAT | os.O_WRONLY

OPERATIONS = (
    Operation("access", "access", lambda path: ("access", path, os.F_OK), modifies=False),
    Operation("chmod", "chmod", lambda path: ("chmod", path, 0o600)),
    Operation("chown", "chown", lambda path: ("chown", path, -1, -1)),
    Operation("lchown", "chown", lambda path: ("lchown", path, -1, -1), follows=False),
    Operation("link-from", "link", lambda path: ("link", path, "w/made"), follows=False),
    _new("link-to", "link", lambda path: ("link", "w/other", path), "regular"),
    Operation("listdir", "readdir", lambda path: ("listdir", path), "dir", "dir", modifies=False, slash=0),
    Operation("listxattr", "listxattr", lambda path: ("listxattr", path, "user."), modifies=False, needs=("xattr",)),
    Operation("lstat", "stat", lambda path: ("lstat", path), follows=False, modifies=False),
    _new("mkdir", "mkdir", lambda path: ("mkdir", path, 0o755), "dir", slash=0),
    _new("mkfifo", "mkfifo", lambda path: ("mkfifo", path, 0o644), "fifo"),
    _new("mknod-regular", "mknod", lambda path: ("mknod", path, "regular", 0o644), "regular"),
    _new("mknod-fifo", "mknod", lambda path: ("mknod", path, "fifo", 0o644), "fifo"),
    _new("mknod-socket", "mknod", lambda path: ("mknod", path, "socket", 0o644), "socket"),
    _new("mknod-block", "mknod", lambda path: ("mknod", path, "block", 0o644, (600, 7)), "block", privileged=True),
    _new("mknod-char", "mknod", lambda path: ("mknod", path, "char", 0o644, (1, 3)), "char", privileged=True),
    Operation("open-read", "open", lambda path: ("open", path, os.O_RDONLY), modifies=False),
    Operation("open-write", "open", lambda path: ("open", path, os.O_WRONLY)),
    Operation("open-truncate", "open", lambda path: ("open", path, os.O_WRONLY | os.O_TRUNC)),
    _new("open-create", "open", lambda path: ("open", path, CREATE), "regular", slash=EISDIR),
    _new("open-exclusive", "open", lambda path: ("open", path, CREATE | os.O_EXCL), "regular", slash=EISDIR),
    Operation("readlink", "readlink", lambda path: ("readlink", path), "symlink", "symlink", follows=False,
              modifies=False, slash=ENOENT),
    Operation("rename-from", "rename", lambda path: ("rename", path, "w/made"), "regular", "", follows=False,
              writes=True),
    Operation("rename-directory", "rename", lambda path: ("rename", path, "w/made"), "dir", "", follows=False,
              writes=True, slash=0),
    _new("rename-to", "rename", lambda path: ("rename", "w/other", path), "regular", slash=ENOTDIR),
    Operation("rename-over", "rename", lambda path: ("rename", "w/other", path), follows=False, writes=True,
              optional=True),
    Operation("rmdir", "rmdir", lambda path: ("rmdir", path), "dir", "", follows=False, writes=True, slash=0),
    Operation("setxattr", "setxattr", lambda path: ("setxattr", path, "user.a", b"v"), needs=("xattr",)),
    Operation("stat", "stat", lambda path: ("stat", path), modifies=False),
    _new("symlink", "symlink", lambda path: ("symlink", "nowhere", path), "symlink"),
    Operation("truncate", "truncate", lambda path: ("truncate", path, 0)),
    Operation("unlink", "unlink", lambda path: ("unlink", path), "regular", "", follows=False, writes=True),
    Operation("utimensat", "utimensat", lambda path: ("utimensat", path, NOW, NOW)),
    Operation("utimensat-nofollow", "utimensat", lambda path: ("utimensat", path, NOW, NOW, True), follows=False),
)  # fmt: skip
