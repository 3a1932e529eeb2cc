"""Cases about errors of the requests about names, directories and xattrs: which the caller sees, and which stick.

The first half: an errno of a reply is the call's. The second: what ENOSYS means, once and the second time.
"""

import errno
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from perfused.conformance.kernel import seam
from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.match import at_node, named
from wire.message import Request
from wire.opcodes import Opcode


class Act(NamedTuple):
    """A call that sends an opcode about something in the tree of `_ground`, and errnos that a server may answer."""

    group: str
    opcode: Opcode
    call: Callable[[Bench], Any]
    errnos: tuple[int, ...]
    #: the request under test, where others of its opcode may come
    about: Callable[[Bench, Request], bool] = lambda _k, _request: True
    #: what its ENOSYS gives: the errno (0: success), whether the kernel asks again, who demands it
    enosys: int = errno.ENOSYS
    asks_again: bool = True
    level: Level = Level.MUST
    since: int = 1


def _rename2(k: Bench, flags: int) -> None:
    seam.call("renameat2")(os.fsencode(k.file("a")), os.fsencode(k.file("z")), flags)


def _unnamed(k: Bench) -> None:
    os.close(os.open(k.path, os.O_TMPFILE | os.O_RDWR, 0o600))


def _sync(k: Bench) -> None:
    fd = os.open(k.file("d"), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _of(path: str) -> Callable[[Bench, Request], bool]:
    return lambda k, request: at_node(k.tree.at(path).nodeid)(request)


E = errno
ACTS = (
    Act("lookup", Opcode.LOOKUP, lambda k: os.stat(k.file("z")), (E.ENOENT, E.EACCES, E.EIO, E.ENAMETOOLONG)),
    Act("getattr", Opcode.GETATTR, lambda k: os.stat(k.file("a")), (E.ENOENT, E.EACCES, E.EIO), _of("a")),
    Act("readlink", Opcode.READLINK, lambda k: os.readlink(k.file("l")), (E.EINVAL, E.EIO, E.ELOOP)),
    Act("symlink", Opcode.SYMLINK, lambda k: os.symlink("to", k.file("z")), (E.ENOSPC, E.EPERM, E.EDQUOT)),
    Act("mknod", Opcode.MKNOD, lambda k: os.mkfifo(k.file("z")), (E.EPERM, E.ENOSPC, E.EEXIST)),
    Act("mkdir", Opcode.MKDIR, lambda k: os.mkdir(k.file("z")), (E.EMLINK, E.ENOSPC, E.EEXIST)),
    Act("unlink", Opcode.UNLINK, lambda k: os.unlink(k.file("a")), (E.EPERM, E.EBUSY, E.ENOENT)),
    Act("rmdir", Opcode.RMDIR, lambda k: os.rmdir(k.file("d")), (E.ENOTEMPTY, E.EBUSY, E.EPERM)),
    Act("rename", Opcode.RENAME, lambda k: os.rename(k.file("a"), k.file("z")), (E.EXDEV, E.EINVAL, E.ENOENT)),
    Act("rename2", Opcode.RENAME2, lambda k: _rename2(k, 1), (E.EEXIST, E.EXDEV), enosys=E.EINVAL, asks_again=False,
        level=Level.PROFILE, since=23),
    Act("link", Opcode.LINK, lambda k: os.link(k.file("a"), k.file("z")), (E.EMLINK, E.EXDEV, E.EOPNOTSUPP),
        enosys=E.EPERM, asks_again=False, level=Level.PROFILE),
    Act("create", Opcode.CREATE, lambda k: os.close(os.open(k.file("z"), os.O_CREAT | os.O_WRONLY)),
        (E.EPERM, E.ENOSPC, E.EROFS), enosys=0, asks_again=False, level=Level.SHOULD),
    Act("tmpfile", Opcode.TMPFILE, _unnamed, (E.EPERM, E.ENOSPC), enosys=E.EOPNOTSUPP, asks_again=False,
        level=Level.SHOULD, since=37),
    Act("statfs", Opcode.STATFS, lambda k: os.statvfs(k.path), (E.EIO, E.ENOMEM)),
    Act("opendir", Opcode.OPENDIR, lambda k: os.listdir(k.path), (E.EPERM, E.ENOENT, E.EMFILE), enosys=0,
        asks_again=False, level=Level.PROFILE, since=29),
    Act("readdir", Opcode.READDIR, lambda k: os.listdir(k.path), (E.EIO, E.EOVERFLOW), level=Level.SHOULD),
    Act("fsyncdir", Opcode.FSYNCDIR, _sync, (E.EIO, E.ENOSPC), enosys=0, asks_again=False, level=Level.SHOULD),
    Act("access", Opcode.ACCESS, lambda k: os.chdir(k.file("d")), (E.EACCES, E.EIO, E.EROFS), enosys=0,
        asks_again=False, level=Level.SHOULD),
    Act("setxattr", Opcode.SETXATTR, lambda k: os.setxattr(k.file("a"), "user.x", b"1"),
        (E.ENOSPC, E.EOPNOTSUPP, E.EEXIST), enosys=E.EOPNOTSUPP, asks_again=False, level=Level.SHOULD),
    Act("getxattr", Opcode.GETXATTR, lambda k: os.getxattr(k.file("a"), "user.x"), (E.ENODATA, E.EOPNOTSUPP, E.EIO),
        lambda _k, request: named(b"user.x")(request), E.EOPNOTSUPP, False, Level.SHOULD),
    Act("listxattr", Opcode.LISTXATTR, lambda k: os.listxattr(k.file("a")), (E.EOPNOTSUPP, E.EIO),
        enosys=E.EOPNOTSUPP, asks_again=False, level=Level.SHOULD),
    Act("removexattr", Opcode.REMOVEXATTR, lambda k: os.removexattr(k.file("a"), "user.x"),
        (E.ENODATA, E.EOPNOTSUPP, E.EPERM), enosys=E.EOPNOTSUPP, asks_again=False, level=Level.SHOULD),
)  # fmt: skip


def _ground(k: Bench) -> None:
    tree = k.mount().tree
    tree.add("a", b"content").xattrs[b"user.x"] = b"1"
    tree.directory("d")
    tree.add("l", b"a", 0o120777)


def _name(number: int) -> str:
    """Its name; of the two that some systems give one number, always the same, as ids must not change."""
    return "EOPNOTSUPP" if number == errno.EOPNOTSUPP else errno.errorcode[number]


def _error(act: Act, number: int) -> None:
    name = _name(number)

    @case(
        f"{act.group}/error-{name.lower()}", act.opcode, aspect="error", since=act.since,
        source="fuse.h: out_header.error is the call's errno",
    )  # fmt: skip
    def _(k: Bench) -> None:
        _ground(k)
        rule = k.answer(act.opcode, -number, lambda request: act.about(k, request))
        k.fails(number, lambda: act.call(k), f"{act.group}, answered {name}")
        k.true(f"a {act.opcode.name} request", rule.seen)


def _enosys(act: Act) -> None:
    shown = _name(act.enosys) if act.enosys else "success"
    name = f"{act.group}/enosys" + ("" if act.asks_again else "-sticks")

    @case(
        name, act.opcode, aspect="enosys", level=act.level, since=act.since,
        source=f"measured on Linux 6.18: {shown}, {'asked again' if act.asks_again else 'not asked again'}",
    )  # fmt: skip
    def _(k: Bench) -> None:
        _ground(k)
        rule = k.answer(act.opcode, -errno.ENOSYS, lambda request: act.about(k, request))
        for time in ("the first call", "the second call"):
            if act.enosys:
                k.fails(act.enosys, lambda: act.call(k), time)
            else:
                k.ok(lambda: act.call(k))
        if act.asks_again:
            k.true("every call is asked for", len(rule.seen) >= 2, f"{len(rule.seen)} {act.opcode.name} requests")
        else:
            k.equal(f"{act.opcode.name} requests for two calls", len(rule.seen), 1)


for _act in ACTS:
    for _number in _act.errnos:
        _error(_act, _number)
    _enosys(_act)
