"""Cases about default_permissions, where the kernel checks modes itself, and about ACCESS, where it asks instead."""

import errno
import os
import stat
from collections.abc import Callable
from typing import Any

from perfused.conformance.kernel import seam
from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.match import at_node
from perfused.conformance.kernel.tree import Tree
from wire.opcodes import Opcode

ACCESS, OPEN, SETATTR = Opcode.ACCESS, Opcode.OPEN, Opcode.SETATTR
DEFAULT = "fuse.rst: default_permissions, checking access permissions by file mode"
MEASURED = "measured on Linux 6.18"
OWNER, GROUP = 1000, 2000
#: a user's id, group, and further groups; files are OWNER's and GROUP's
USERS: dict[str, tuple[int, int, list[int], int]] = {
    "owner": (OWNER, 1000, [], 6),
    "group": (1001, GROUP, [], 3),
    "supplementary": (1001, 1001, [3000, GROUP], 3),
    "other": (1002, 1002, [], 0),
}


def become(user: tuple[int, int, list[int], int] | str, work: Callable[[], Any]) -> Callable[[], Any]:
    """`work`, done as a user of USERS."""
    uid, gid, groups, _ = USERS[user] if isinstance(user, str) else user

    def done() -> Any:
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        return work()

    return done


def mount(k: Bench, valid: int = 60) -> Tree:
    """A mount that checks modes and that everyone may use."""
    tree = k.mount(options="default_permissions,allow_other").tree
    tree.valid = valid
    return tree


def _open(k: Bench, name: str, flags: int) -> Callable[[], None]:
    return lambda: os.close(os.open(k.file(name), flags))


# -- the nine bits -----------------------------------------------------------------------------------------------------


def _bit(user: str, name: str, bit: int, kind: int, act: Callable[[Bench], Callable[[], object]]) -> None:
    shift = USERS[user][3]

    @case(f"permissions/{user}-{name}", OPEN, Opcode.LOOKUP, aspect="other", source=DEFAULT + "; path_resolution(7)")
    def _(k: Bench) -> None:
        tree = mount(k, 0)
        node = tree.add("n", mode=kind | bit << shift, uid=OWNER, gid=GROUP)
        if stat.S_ISDIR(kind):
            tree.add("n/a")
        k.ok(become(user, act(k)))
        node.mode = kind | 0o777 & ~(bit << shift)
        k.fails(errno.EACCES, become(user, act(k)), f"{name} with mode {stat.S_IMODE(node.mode):03o}")
        k.equal("ACCESS requests", len(k.seen(ACCESS)), 0)


for _user in USERS:
    _bit(_user, "reads", 4, stat.S_IFREG, lambda k: _open(k, "n", os.O_RDONLY))
    _bit(_user, "writes", 2, stat.S_IFREG, lambda k: _open(k, "n", os.O_WRONLY))
    _bit(_user, "searches", 1, stat.S_IFDIR, lambda k: lambda: os.stat(k.file("n/a")))


@case("permissions/root-may", OPEN, aspect="other", level=Level.SHOULD, source="capabilities(7): CAP_DAC_OVERRIDE")
def _(k: Bench) -> None:
    mount(k).add("n", mode=stat.S_IFREG, uid=OWNER)
    k.ok(_open(k, "n", os.O_RDWR))


@case("permissions/root-executes-nothing-without-x", OPEN, aspect="other", level=Level.SHOULD, source="capabilities(7)")
def _(k: Bench) -> None:
    mount(k).add("n", b"#!/bin/true\n", mode=stat.S_IFREG | 0o666)
    k.fails(errno.EACCES, lambda: os.execv(k.file("n"), ["n"]), "execve")


@case("permissions/refused-without-a-request", OPEN, aspect="error", source=DEFAULT)
def _(k: Bench) -> None:
    mount(k).add("n", mode=stat.S_IFREG | 0o600, uid=OWNER)
    k.fails(errno.EACCES, become("other", _open(k, "n", os.O_RDONLY)))
    k.equal("OPEN requests", len(k.seen(OPEN)), 0)


@case(
    "permissions/left-to-the-server", OPEN, aspect="other", source="fuse.rst: without default_permissions, its affair"
)
def _(k: Bench) -> None:
    k.mount(options="allow_other").tree.add("n", mode=stat.S_IFREG, uid=OWNER)
    k.ok(become("other", _open(k, "n", os.O_RDWR)))
    k.one(OPEN)


@case("permissions/attributes-too-old", OPEN, Opcode.GETATTR, aspect="cache", source=DEFAULT + ", as it is now")
def _(k: Bench) -> None:
    tree = mount(k, 0)
    node = tree.add("n", mode=stat.S_IFREG | 0o666)
    k.answer(Opcode.LOOKUP, lambda _: tree.entry(node, entry_valid=60, attr_valid=0))
    k.ok(become("other", _open(k, "n", os.O_RDONLY)))
    node.mode = stat.S_IFREG | 0o600
    k.fails(errno.EACCES, become("other", _open(k, "n", os.O_RDONLY)))


@case("permissions/asks-before-it-refuses", OPEN, Opcode.GETATTR, aspect="cache", level=Level.PROFILE,
      source=MEASURED + ": attributes that refuse are asked for once more")  # fmt: skip
def _(k: Bench) -> None:
    node = mount(k).add("n", mode=stat.S_IFREG | 0o600)
    k.ok(lambda: os.stat(k.file("n")))
    node.mode = stat.S_IFREG | 0o666
    k.ok(become("other", _open(k, "n", os.O_RDONLY)))


# -- directories -------------------------------------------------------------------------------------------------------

CHANGES: dict[str, tuple[Opcode, Callable[[str], object]]] = {
    "create": (Opcode.CREATE, lambda d: os.close(os.open(f"{d}/z", os.O_CREAT | os.O_WRONLY))),
    "mknod": (Opcode.MKNOD, lambda d: os.mkfifo(f"{d}/z")),
    "mkdir": (Opcode.MKDIR, lambda d: os.mkdir(f"{d}/z")),
    "symlink": (Opcode.SYMLINK, lambda d: os.symlink("x", f"{d}/z")),
    "link": (Opcode.LINK, lambda d: os.link(f"{d}/../w/mine", f"{d}/z")),
    "unlink": (Opcode.UNLINK, lambda d: os.unlink(f"{d}/a")),
    "rmdir": (Opcode.RMDIR, lambda d: os.rmdir(f"{d}/e")),
    "rename-out": (Opcode.RENAME, lambda d: os.rename(f"{d}/a", f"{d}/../w/z")),
    "rename-in": (Opcode.RENAME, lambda d: os.rename(f"{d}/../w/mine", f"{d}/z")),
}


def _directories(k: Bench, mode: int = 0o755, **fields: int) -> Tree:
    """d with a file a and a directory e, root's; and w, everyone's, with a file of OWNER's."""
    tree = mount(k)
    tree.add("d", b"", stat.S_IFDIR | mode, **fields)
    tree.add("d/a")
    tree.directory("d/e")
    tree.directory("w")
    tree.add("w/mine", uid=OWNER)
    return tree


def _unwritable(name: str, opcode: Opcode, change: Callable[[str], object]) -> None:
    @case(f"permissions/unwritable-directory-{name}", opcode, aspect="error", source=DEFAULT + "; EACCES")
    def _(k: Bench) -> None:
        tree = _directories(k)
        k.fails(errno.EACCES, become("owner", lambda: change(k.file("d"))))
        k.equal(f"{opcode.name} requests", len(k.seen(opcode)), 0)
        tree.at("d").mode = stat.S_IFDIR | 0o777
        k.ok(become("owner", lambda: change(k.file("d"))))


for _name, (_opcode, _change) in CHANGES.items():
    _unwritable(_name, _opcode, _change)

STICKY = "inode(7): the sticky bit lets only owners of the file or the directory remove and rename"


def _sticky(name: str, wanted: int, opcode: Opcode, act: Callable[[Bench], object], **fields: int) -> None:
    @case(f"permissions/sticky-{name}", opcode, aspect="error" if wanted else "other", source=DEFAULT + "; " + STICKY)
    def _(k: Bench) -> None:
        _directories(k, 0o1777, **{key: value for key, value in fields.items() if key == "uid"})
        k.tree.at("d/a").uid = fields.get("file", 0)
        outcome = k.do(become("owner", lambda: act(k)))
        k.equal("errno", outcome.errno, wanted)
        k.equal(f"{opcode.name} requests", len(k.seen(opcode)), 0 if wanted else 1)


_sticky("unlink-of-a-strangers", errno.EPERM, Opcode.UNLINK, lambda k: os.unlink(k.file("d/a")))
_sticky("unlink-of-ones-own", 0, Opcode.UNLINK, lambda k: os.unlink(k.file("d/a")), file=OWNER)
_sticky("unlink-in-ones-own", 0, Opcode.UNLINK, lambda k: os.unlink(k.file("d/a")), uid=OWNER)
_sticky("rename-of-a-strangers", errno.EPERM, Opcode.RENAME, lambda k: os.rename(k.file("d/a"), k.file("w/z")))
_sticky("rename-of-ones-own", 0, Opcode.RENAME, lambda k: os.rename(k.file("d/a"), k.file("w/z")), file=OWNER)
_sticky("rename-over-a-strangers", errno.EPERM, Opcode.RENAME, lambda k: os.rename(k.file("w/mine"), k.file("d/a")))


@case("permissions/directory-to-another-parent", Opcode.RENAME, aspect="error", level=Level.SHOULD,
      source="rename(2): EACCES, its .. entry would change")  # fmt: skip
def _(k: Bench) -> None:
    tree = _directories(k, 0o777)
    tree.at("d/e").mode = stat.S_IFDIR | 0o755
    k.fails(errno.EACCES, become("owner", lambda: os.rename(k.file("d/e"), k.file("w/e"))))
    k.ok(become("owner", lambda: os.rename(k.file("d/e"), k.file("d/z"))))
    k.one(Opcode.RENAME)


@case("permissions/cached-name-is-no-permission", Opcode.UNLINK, aspect="cache", source=DEFAULT)
def _(k: Bench) -> None:
    _directories(k)
    k.ok(become("owner", lambda: os.stat(k.file("d/a"))))
    k.fails(errno.EACCES, become("owner", lambda: os.unlink(k.file("d/a"))))


# -- attributes --------------------------------------------------------------------------------------------------------


def _attribute(name: str, user: str, wanted: int, act: Callable[[str], object], mode: int = 0o644,
               level: Level = Level.MUST) -> None:  # fmt: skip
    @case(f"permissions/{name}", SETATTR, aspect="error" if wanted else "other", level=level,
          source=DEFAULT + "; chmod(2), chown(2), utimensat(2), truncate(2)")  # fmt: skip
    def _(k: Bench) -> None:
        mount(k).add("n", b"12345", mode=stat.S_IFREG | mode, uid=OWNER, gid=GROUP)
        outcome = k.do(become(user, lambda: act(k.file("n"))))
        k.equal("errno", outcome.errno, wanted)
        if wanted:
            k.equal("SETATTR requests", len(k.seen(SETATTR)), 0)


_attribute("chmod-by-the-owner", "owner", 0, lambda path: os.chmod(path, 0o600))
_attribute("chmod-by-a-stranger", "other", errno.EPERM, lambda path: os.chmod(path, 0o666), 0o666)
_attribute("chown-by-the-owner", "owner", errno.EPERM, lambda path: os.chown(path, 1002, -1))
_attribute("chown-to-oneself", "owner", 0, lambda path: os.chown(path, OWNER, -1))
_attribute("chgrp-to-ones-own-group", "owner", 0, lambda path: os.chown(path, -1, 1000))
_attribute("chgrp-to-a-strange-group", "owner", errno.EPERM, lambda path: os.chown(path, -1, 4000))
_attribute("truncate-of-a-read-only-file", "other", errno.EACCES, lambda path: os.truncate(path, 0))
_attribute("truncate-of-a-writable-file", "other", 0, lambda path: os.truncate(path, 0), 0o666)
_attribute("utimes-now-of-a-writable-file", "other", 0, lambda path: os.utime(path), 0o666)
_attribute("utimes-now-of-a-read-only-file", "other", errno.EACCES, lambda path: os.utime(path))
_attribute("utimes-of-a-strangers", "other", errno.EPERM, lambda path: os.utime(path, (1, 1)), 0o666)


@case("permissions/sgid-of-a-strange-group", SETATTR, aspect="other", level=Level.PROFILE,
      source="chmod(2): the bit is turned off where the caller is not in the file's group; FreeBSD: EPERM")  # fmt: skip
def _(k: Bench) -> None:
    mount(k).add("n", mode=stat.S_IFREG | 0o755, uid=OWNER, gid=GROUP)
    k.ok(become("owner", lambda: os.chmod(k.file("n"), 0o2755)))
    k.equal("mode", f"{stat.S_IMODE(k.one(SETATTR).head.mode):o}", "755")


@case(
    "permissions/truncate-through-a-descriptor", SETATTR, aspect="other", source="ftruncate(2): it is open for writing"
)
def _(k: Bench) -> None:
    mount(k)

    def work() -> None:
        fd = os.open(k.file("z"), os.O_CREAT | os.O_RDWR, 0)
        os.ftruncate(fd, 100)

    k.ok(become("other", work))
    k.equal("size", k.one(SETATTR).head.size, 100)


@case(
    "permissions/utimes-of-nothing",
    SETATTR,
    aspect="other",
    level=Level.SHOULD,
    source="utimensat(2): UTIME_OMIT twice",
)
def _(k: Bench) -> None:
    mount(k).add("n", mode=stat.S_IFREG | 0o444)
    omit = (0, 0x3FFF_FFFE)
    k.ok(become("other", lambda: seam.call("utimensat")(os.fsencode(k.file("n")), omit, omit, 0)))
    k.equal("SETATTR requests", len(k.seen(SETATTR)), 0)


def _sticky_file(user: str, level: Level) -> None:
    @case(f"permissions/sticky-bit-of-a-file-by-{user}", SETATTR, aspect="other", level=level,
          source="chmod(2); FreeBSD: root alone, EFTYPE for others")  # fmt: skip
    def _(k: Bench) -> None:
        mount(k).add("n", mode=stat.S_IFREG | 0o644, uid=OWNER)
        act = lambda: os.chmod(k.file("n"), 0o1644)  # noqa: E731
        k.ok(become(user, act) if user in USERS else act)
        k.equal("mode", f"{stat.S_IMODE(k.one(SETATTR).head.mode):o}", "1644")


_sticky_file("owner", Level.PROFILE)
_sticky_file("root", Level.SHOULD)


def _xattr(name: str, user: str, wanted: int, opcode: Opcode, act: Callable[[str], object], mode: int) -> None:
    @case(f"permissions/xattr-{name}", opcode, aspect="error" if wanted else "other", level=Level.SHOULD,
          source=DEFAULT + "; xattr(7)")  # fmt: skip
    def _(k: Bench) -> None:
        node = mount(k).add("n", mode=stat.S_IFREG | mode, uid=OWNER, gid=GROUP)
        node.xattrs |= {b"user.x": b"1", b"trusted.x": b"2"}
        outcome = k.do(become(user, lambda: act(k.file("n"))))
        k.equal("errno", outcome.errno, wanted)
        k.equal(f"{opcode.name} requests", bool(k.seen(opcode)), not wanted)


_xattr("get-unreadable", "other", errno.EACCES, Opcode.GETXATTR, lambda path: os.getxattr(path, "user.x"), 0o600)
_xattr("get-readable", "other", 0, Opcode.GETXATTR, lambda path: os.getxattr(path, "user.x"), 0o604)
_xattr("set-unwritable", "other", errno.EACCES, Opcode.SETXATTR, lambda path: os.setxattr(path, "user.y", b"1"), 0o604)
_xattr("set-writable", "other", 0, Opcode.SETXATTR, lambda path: os.setxattr(path, "user.y", b"1"), 0o602)
_xattr(
    "remove-unwritable", "other", errno.EACCES, Opcode.REMOVEXATTR, lambda path: os.removexattr(path, "user.x"), 0o604
)
_xattr("remove-writable", "other", 0, Opcode.REMOVEXATTR, lambda path: os.removexattr(path, "user.x"), 0o602)
_xattr("set-trusted", "owner", errno.EPERM, Opcode.SETXATTR, lambda path: os.setxattr(path, "trusted.x", b"1"), 0o666)
_xattr("get-trusted", "owner", errno.ENODATA, Opcode.GETXATTR, lambda path: os.getxattr(path, "trusted.x"), 0o666)
_xattr("list-unreadable", "other", 0, Opcode.LISTXATTR, os.listxattr, 0o600)


# -- ACCESS ------------------------------------------------------------------------------------------------------------


def _asks(name: str, mode: int) -> None:
    @case(
        f"access/request-{name}", ACCESS, aspect="request", since=3, source="fuse.h: fuse_access_in.mask, as access(2)"
    )
    def _(k: Bench) -> None:
        node = k.mount().tree.add("n")
        k.equal("allowed", k.ok(lambda: os.access(k.file("n"), mode)), True)
        k.equal("masks", {each.head.mask for each in k.seen(ACCESS, node.nodeid)}, {mode})


_asks("read", os.R_OK)
_asks("write", os.W_OK)
_asks("execute", os.X_OK)
_asks("all", os.R_OK | os.W_OK | os.X_OK)


@case("access/exists", ACCESS, aspect="request", level=Level.PROFILE, source=MEASURED + ": F_OK is asked with mask 0")
def _(k: Bench) -> None:
    node = k.mount().tree.add("n")
    k.equal("allowed", k.ok(lambda: os.access(k.file("n"), os.F_OK)), True)
    k.equal("masks", [each.head.mask for each in k.seen(ACCESS, node.nodeid)], [0])


@case(
    "access/chdir", ACCESS, aspect="request", since=3, level=Level.SHOULD, source=MEASURED + ": chdir(2) asks for X_OK"
)
def _(k: Bench) -> None:
    node = k.mount().tree.directory("d")
    k.ok(lambda: os.chdir(k.file("d")))
    k.equal("masks", [each.head.mask for each in k.seen(ACCESS, node.nodeid)], [os.X_OK])


@case("access/not-for-open", ACCESS, OPEN, aspect="request", level=Level.SHOULD, source="fuse.rst: OPEN asks already")
def _(k: Bench) -> None:
    k.mount().tree.add("n")
    k.ok(_open(k, "n", os.O_RDWR))
    k.equal("ACCESS requests", len(k.seen(ACCESS)), 0)


@case("access/refused", ACCESS, aspect="error", since=3, source="access(2)")
def _(k: Bench) -> None:
    node = k.mount().tree.add("n")
    k.answer(ACCESS, -errno.EACCES, at_node(node.nodeid))
    k.equal("allowed", k.ok(lambda: os.access(k.file("n"), os.W_OK)), False)
    k.ok(_open(k, "n", os.O_WRONLY))


@case("access/not-with-default-permissions", ACCESS, aspect="flag", source=DEFAULT)
def _(k: Bench) -> None:
    mount(k).add("n", mode=stat.S_IFREG | 0o640)
    k.equal("allowed", k.ok(become("other", lambda: os.access(k.file("n"), os.R_OK))), False)
    k.equal("ACCESS requests", len(k.seen(ACCESS)), 0)


@case(
    "access/real-user",
    ACCESS,
    aspect="request",
    since=3,
    level=Level.SHOULD,
    source="access(2): the real user and group",
)
def _(k: Bench) -> None:
    node = k.mount(options="allow_other").tree.add("n")

    def work() -> None:
        os.setresgid(1001, 0, 0)
        os.setresuid(1000, 0, 0)
        os.access(k.file("n"), os.R_OK)
        os.access(k.file("n"), os.W_OK, effective_ids=True)

    k.ok(work)
    ids = [(each.head.mask, each.header.uid, each.header.gid) for each in k.seen(ACCESS, node.nodeid)]
    k.equal("mask, uid, gid", ids, [(os.R_OK, 1000, 1001), (os.W_OK, 0, 0)])
