"""Access control lists that directories hand down, in system.posix_acl_default: acl(5).

Never here: what a list allows, and how one is set (`acl`).
"""

import os
from collections.abc import Iterator
from errno import EACCES, ENODATA

from perfused.conformance.filesystem.acl import (
    ACCESS,
    DEFAULT,
    EVERYBODY,
    GROUP_OBJ,
    NAMED_GROUP,
    NAMED_USER,
    USER_OBJ,
    acl,
    common,
)
from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import OTHER, USER

HANDED = common(7, 5, 1, 7, (NAMED_USER, 6, OTHER.uid), (NAMED_GROUP, 3, 7999))


def cases() -> Iterator[Case]:
    """All of them need lists."""
    for name, body in {
        "default/only-directories": only_directories, "default/inherited": inherited, "default/umask": umask,
        "default/modes": modes, "default/deep": deep, "default/minimal": default_minimal,
        "default/remove": default_gone, "default/kinds": default_kinds, "default/link-and-rename": moves,
    }.items():  # fmt: skip
        yield case(f"acl/{name}", body, needs=["acl"])
    yield case("acl/default/tmpfile", tmpfile, needs=["acl", "tmpfile"])


def _child(user: int, everybody: int, mask: int) -> bytes:
    return common(user, 5, everybody, mask, (NAMED_USER, 6, OTHER.uid), (NAMED_GROUP, 3, 7999))


def only_directories(stage: Stage) -> None:
    """Only a directory hands a list down, and is itself not ruled by it."""
    stage.make("dir", "d", 0o700)
    stage.expect(0, "setxattr", "d", DEFAULT, HANDED)
    stage.gives(HANDED, "getxattr", "d", DEFAULT)
    stage.sees("d", mode=0o700)
    stage.expect(ENODATA, "getxattr", "d", ACCESS)
    stage.expect(EACCES, "listdir", "d", who=OTHER)
    stage.make("regular", "x")
    stage.expect(EACCES, "setxattr", "x", DEFAULT, HANDED, label="regular-EACCES")
    stage.expect(ENODATA, "getxattr", "x", DEFAULT, label="regular-ENODATA")


def inherited(stage: Stage) -> None:
    """What is made has the list, cut by the mode that was asked for; a directory hands it on."""
    stage.make("dir", "d", 0o777)
    stage.setup("setxattr", "d", DEFAULT, HANDED)
    fd = stage.expect(0, "open", "d/x", os.O_CREAT | os.O_RDWR, 0o640, who=USER)
    stage.gives(0, "write", fd, b"", who=USER)
    stage.gives(_child(6, 0, 4), "getxattr", "d/x", ACCESS, label="file")
    stage.sees("d/x", mode=0o640, uid=USER.uid)
    stage.expect(ENODATA, "getxattr", "d/x", DEFAULT, label="file-hands-nothing")
    stage.expect(0, "mkdir", "d/s", 0o750, who=USER)
    stage.gives(_child(7, 0, 5), "getxattr", "d/s", ACCESS, label="directory")
    stage.gives(HANDED, "getxattr", "d/s", DEFAULT, label="directory-hands-on")
    stage.sees("d/s", mode=0o750)
    stage.expect(0, "access", "d/x", os.R_OK, who=OTHER, label="named-reads")
    stage.expect(EACCES, "access", "d/x", os.W_OK, who=OTHER, label="named-writes-not")
    stage.expect(0, "mknod", "d/n", "fifo", 0o666, who=USER)
    stage.gives(_child(6, 0, 6), "getxattr", "d/n", ACCESS, label="fifo")


def umask(stage: Stage) -> None:
    """Where a list is handed down the umask does not count."""
    stage.make("dir", "d", 0o777)
    stage.make("dir", "plain", 0o777)
    stage.setup("setxattr", "d", DEFAULT, HANDED)
    for mask in (0o022, 0o077, 0o777):
        stage.expect(0, "mkdir", f"d/{mask:o}", 0o777, who=USER, umask=mask, label=f"{mask:03o}-mkdir")
        stage.sees(f"d/{mask:o}", mode=0o771, label=f"{mask:03o}-directory")
        stage.expect(0, "open", f"d/f{mask:o}", os.O_CREAT | os.O_RDWR, 0o666, who=USER, umask=mask,
                     label=f"{mask:03o}-open")  # fmt: skip
        stage.sees(f"d/f{mask:o}", mode=0o660, label=f"{mask:03o}-file")
        stage.expect(0, "mknod", f"d/n{mask:o}", "fifo", 0o666, who=USER, umask=mask, label=f"{mask:03o}-mknod")
        stage.sees(f"d/n{mask:o}", mode=0o660, label=f"{mask:03o}-fifo")
        stage.expect(0, "mkdir", f"plain/{mask:o}", 0o777, who=USER, umask=mask, label=f"{mask:03o}-plain")
        stage.sees(f"plain/{mask:o}", mode=0o777 & ~mask, label=f"{mask:03o}-plain-mode")


def modes(stage: Stage) -> None:
    """Every mode asked for cuts owner, mask and others."""
    stage.make("dir", "d", 0o777)
    stage.setup("setxattr", "d", DEFAULT, HANDED)
    for bits in range(8):
        asked = bits << 6 | (7 - bits) << 3 | bits
        stage.expect(0, "mkdir", f"d/{bits}", asked, label=f"{asked:03o}-success")
        stage.sees(f"d/{bits}", mode=asked & 0o771, label=f"{asked:03o}-mode")
        value = _child(7 & asked >> 6, 1 & asked, 7 & asked >> 3)
        stage.gives(value, "getxattr", f"d/{bits}", ACCESS, label=f"{asked:03o}-value")


def deep(stage: Stage) -> None:
    """Ten directories deep it is the same list."""
    stage.make("dir", "d", 0o777)
    stage.setup("setxattr", "d", DEFAULT, HANDED)
    path = "d"
    for number in range(10):
        path += f"/{number}"
        stage.expect(0, "mkdir", path, 0o777, label=f"{number}-success")
        stage.gives(HANDED, "getxattr", path, DEFAULT, label=f"{number}-default")
        stage.gives(HANDED, "getxattr", path, ACCESS, label=f"{number}-access")


def default_minimal(stage: Stage) -> None:
    """A list of three classes handed down is a mode, without regard to the umask, and kept by directories."""
    value = acl((USER_OBJ, 7), (GROUP_OBJ, 5), (EVERYBODY, 4))
    stage.make("dir", "d", 0o777)
    stage.expect(0, "setxattr", "d", DEFAULT, value)
    stage.expect(0, "mkdir", "d/s", 0o777, umask=0o077)
    stage.sees("d/s", mode=0o754)
    stage.gives(value, "getxattr", "d/s", DEFAULT)
    stage.expect(ENODATA, "getxattr", "d/s", ACCESS)
    stage.expect(0, "open", "d/x", os.O_CREAT | os.O_RDWR, 0o666, umask=0o077)
    stage.sees("d/x", mode=0o644)
    stage.expect(ENODATA, "getxattr", "d/x", ACCESS)


def default_gone(stage: Stage) -> None:
    """When it is gone the umask counts again; what was made keeps its own."""
    stage.make("dir", "d", 0o777)
    stage.setup("setxattr", "d", DEFAULT, HANDED)
    stage.setup("mkdir", "d/old", 0o777)
    stage.expect(0, "removexattr", "d", DEFAULT)
    stage.expect(ENODATA, "getxattr", "d", DEFAULT)
    stage.expect(0, "mkdir", "d/new", 0o777, umask=0o027)
    stage.sees("d/new", mode=0o750)
    stage.expect(ENODATA, "getxattr", "d/new", ACCESS)
    stage.gives(HANDED, "getxattr", "d/old", DEFAULT)


def default_kinds(stage: Stage) -> None:
    """A symbolic link gets none."""
    stage.make("dir", "d", 0o777)
    stage.setup("setxattr", "d", DEFAULT, HANDED)
    stage.expect(0, "symlink", "nowhere", "d/ln")
    stage.sees("d/ln", kind="symlink", mode=0o777)
    stage.gives([], "listxattr", "d/ln", "system.posix", True)


def moves(stage: Stage) -> None:
    """What comes by link(2) or rename(2) is as it was."""
    stage.make("dir", "d", 0o777)
    stage.setup("setxattr", "d", DEFAULT, HANDED)
    stage.make("regular", "x", 0o640)
    stage.make("dir", "s", 0o750)
    stage.expect(0, "link", "x", "d/x")
    stage.expect(0, "rename", "s", "d/s")
    stage.sees("d/x", mode=0o640)
    stage.sees("d/s", mode=0o750)
    for path in ("d/x", "d/s"):
        stage.gives([], "listxattr", path, "system.posix", label=f"{path}-none")


def tmpfile(stage: Stage) -> None:
    """A file made without a name gets it too (open(2), O_TMPFILE)."""
    stage.make("dir", "d", 0o777)
    stage.setup("setxattr", "d", DEFAULT, HANDED)
    fd = stage.expect(0, "open", "d", os.O_TMPFILE | os.O_RDWR, 0o640)
    stage.gives(_child(6, 0, 4), "getxattr", fd, ACCESS)
    stage.sees(fd, by="fstat", mode=0o640)
