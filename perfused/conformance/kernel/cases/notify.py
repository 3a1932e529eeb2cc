"""Cases about what write(2) says to a notification: good ones, unknown nodes and names, sizes that do not fit.

Never here: what a notification changes (`notify_effects`).
"""

import errno
import os
import sys
from collections.abc import Callable

from perfused.conformance.kernel import seam
from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from wire import codec
from wire.flags import EntryFlag
from wire.opcodes import NOTIFY_BY_NUMBER, Notify, Opcode

N = Notify
MEASURED = "measured on Linux 6.18"
EINVAL, ENOENT = errno.EINVAL, errno.ENOENT
UNKNOWN = 4711
#: of a bench whose tree has the file "a" and the directory "d", both looked up: the bytes after the header
Payload = Callable[[Bench], bytes]


def node(k: Bench, path: str = "a") -> int:
    """The nodeid of a path."""
    return k.tree.at(path).nodeid


def inval_inode(nodeid: int, off: int = 0, length: int = 0) -> bytes:
    """fuse_notify_inval_inode_out."""
    return codec.notify_inval_inode_out.pack(nodeid, off, length)


def inval_entry(parent: int, name: bytes, flags: int = 0, namelen: int | None = None) -> bytes:
    """fuse_notify_inval_entry_out and the name."""
    return codec.notify_inval_entry_out.pack(parent, len(name) if namelen is None else namelen, flags) + name + b"\0"


def delete(parent: int, child: int, name: bytes, namelen: int | None = None) -> bytes:
    """fuse_notify_delete_out and the name."""
    return codec.notify_delete_out.pack(parent, child, len(name) if namelen is None else namelen, 0) + name + b"\0"


def store(nodeid: int, offset: int, data: bytes, size: int | None = None) -> bytes:
    """fuse_notify_store_out and the data."""
    return codec.notify_store_out.pack(nodeid, offset, len(data) if size is None else size, 0) + data


def retrieve(unique: int, nodeid: int, offset: int, size: int) -> bytes:
    """fuse_notify_retrieve_out."""
    return codec.notify_retrieve_out.pack(unique, nodeid, offset, size, 0)


def prune(*nodeids: int, count: int | None = None) -> bytes:
    """fuse_notify_prune_out and the nodeids."""
    head = codec.notify_prune_out.pack(len(nodeids) if count is None else count, 0, 0)
    return head + b"".join(nodeid.to_bytes(8, sys.byteorder) for nodeid in nodeids)


def ground(k: Bench, valid: int = 60, minor: int = 45) -> None:
    """Mount with a file and a directory that the kernel has looked up and may cache."""
    k.mount(minor=minor)
    k.tree.valid = valid
    k.tree.add("a", b"content")
    k.tree.directory("d")
    k.tree.add("d/inside", b"deeper")
    k.ok(lambda: [os.stat(k.file(name)).st_ino for name in ("a", "d", "d/inside")])


def _says(code: Notify, name: str, says: int, payload: Payload, level: Level = Level.SHOULD) -> None:
    word = errno.errorcode.get(says, "success")

    @case(
        f"notify/{code.name.lower().replace('_', '-')}-{name}", aspect="notify", level=level, notifications=(code,),
        since=NOTIFY_BY_NUMBER[code].since, source=f"fuse.h; {MEASURED}: {word}",
    )  # fmt: skip
    def _(k: Bench) -> None:
        ground(k)
        k.equal("what write(2) says", k.server.notify(code, payload(k)), says)
        k.equal("the file, read afterwards", k.ok(lambda: open(k.file("d/inside"), "rb").read()), b"deeper")


_says(N.POLL, "unknown-kh", 0, lambda k: codec.notify_poll_wakeup_out.pack(UNKNOWN), Level.PROFILE)
_says(N.POLL, "short", EINVAL, lambda k: bytes(7))
_says(N.POLL, "long", EINVAL, lambda k: bytes(9))
_says(N.POLL, "empty", EINVAL, lambda k: b"")

_says(N.INVAL_INODE, "good", 0, lambda k: inval_inode(node(k)), Level.MUST)
_says(N.INVAL_INODE, "root", 0, lambda k: inval_inode(1), Level.MUST)
_says(N.INVAL_INODE, "directory", 0, lambda k: inval_inode(node(k, "d")), Level.MUST)
_says(N.INVAL_INODE, "offset-negative", 0, lambda k: inval_inode(node(k), -1), Level.MUST)
_says(N.INVAL_INODE, "length-negative", 0, lambda k: inval_inode(node(k), 0, -1), Level.MUST)
_says(N.INVAL_INODE, "beyond-the-end", 0, lambda k: inval_inode(node(k), 1 << 40, 4096))
_says(N.INVAL_INODE, "unknown-node", ENOENT, lambda k: inval_inode(UNKNOWN))
_says(N.INVAL_INODE, "node-0", ENOENT, lambda k: inval_inode(0), Level.PROFILE)
_says(N.INVAL_INODE, "short", EINVAL, lambda k: inval_inode(node(k))[:-1])
_says(N.INVAL_INODE, "long", EINVAL, lambda k: inval_inode(node(k)) + b"\0")

_says(N.INVAL_ENTRY, "good", 0, lambda k: inval_entry(1, b"a"), Level.MUST)
_says(N.INVAL_ENTRY, "directory", 0, lambda k: inval_entry(1, b"d"), Level.MUST)
_says(N.INVAL_ENTRY, "expire-only", 0, lambda k: inval_entry(1, b"a", EntryFlag.EXPIRE_ONLY))
_says(N.INVAL_ENTRY, "unknown-parent", ENOENT, lambda k: inval_entry(UNKNOWN, b"a"))
_says(N.INVAL_ENTRY, "unknown-name", ENOENT, lambda k: inval_entry(1, b"nobody"), Level.PROFILE)
_says(N.INVAL_ENTRY, "parent-is-a-file", errno.ENOTDIR, lambda k: inval_entry(node(k), b"a"))
_says(N.INVAL_ENTRY, "name-without-nul", EINVAL, lambda k: inval_entry(1, b"a")[:-1])
_says(N.INVAL_ENTRY, "namelen-short", EINVAL, lambda k: inval_entry(1, b"ab", namelen=1))
_says(N.INVAL_ENTRY, "namelen-long", EINVAL, lambda k: inval_entry(1, b"a", namelen=9))
_says(N.INVAL_ENTRY, "namelen-of-all-ones", errno.ENAMETOOLONG,
      lambda k: inval_entry(1, b"a", namelen=0xFFFF_FFFF), Level.PROFILE)  # fmt: skip
_says(N.INVAL_ENTRY, "name-too-long", errno.ENAMETOOLONG, lambda k: inval_entry(1, b"n" * 1025))
_says(N.INVAL_ENTRY, "name-of-1024", ENOENT, lambda k: inval_entry(1, b"n" * 1024), Level.PROFILE)
_says(N.INVAL_ENTRY, "short", EINVAL, lambda k: bytes(15))

_says(N.DELETE, "good", 0, lambda k: delete(1, node(k), b"a"), Level.MUST)
_says(N.DELETE, "unknown-parent", ENOENT, lambda k: delete(UNKNOWN, node(k), b"a"))
_says(N.DELETE, "unknown-name", ENOENT, lambda k: delete(1, node(k), b"nobody"))
_says(N.DELETE, "another-child", ENOENT, lambda k: delete(1, UNKNOWN, b"a"))
_says(N.DELETE, "parent-is-a-file", errno.ENOTDIR, lambda k: delete(node(k), 9, b"a"))
_says(N.DELETE, "directory", 0, lambda k: delete(1, node(k, "d"), b"d"))
_says(N.DELETE, "name-without-nul", EINVAL, lambda k: delete(1, node(k), b"a")[:-1])
_says(N.DELETE, "namelen-long", EINVAL, lambda k: delete(1, node(k), b"a", namelen=9))
_says(N.DELETE, "name-too-long", errno.ENAMETOOLONG, lambda k: delete(1, node(k), b"n" * 1025))
_says(N.DELETE, "short", EINVAL, lambda k: bytes(23))

_says(N.STORE, "good", 0, lambda k: store(node(k), 0, b"stored"), Level.MUST)
_says(N.STORE, "nothing", 0, lambda k: store(node(k), 0, b""))
_says(N.STORE, "unknown-node", ENOENT, lambda k: store(UNKNOWN, 0, b"stored"))
_says(N.STORE, "directory", EINVAL, lambda k: store(node(k, "d"), 0, b"stored"))
_says(N.STORE, "size-more", EINVAL, lambda k: store(node(k), 0, b"stored", 7))
_says(N.STORE, "size-less", EINVAL, lambda k: store(node(k), 0, b"stored", 5))
_says(N.STORE, "short", EINVAL, lambda k: bytes(23))

_says(N.RETRIEVE, "good", 0, lambda k: retrieve(1, node(k), 0, 100), Level.MUST)
_says(N.RETRIEVE, "nothing", 0, lambda k: retrieve(1, node(k), 0, 0))
_says(N.RETRIEVE, "unknown-node", ENOENT, lambda k: retrieve(1, UNKNOWN, 0, 100))
_says(N.RETRIEVE, "directory", EINVAL, lambda k: retrieve(1, node(k, "d"), 0, 100))
_says(N.RETRIEVE, "short", EINVAL, lambda k: bytes(31))
_says(N.RETRIEVE, "long", EINVAL, lambda k: retrieve(1, node(k), 0, 100) + b"\0")

_says(N.RESEND, "good", 0, lambda k: b"", Level.MUST)
_says(N.RESEND, "long", 0, lambda k: b"\0", Level.PROFILE)
_says(N.INC_EPOCH, "good", 0, lambda k: b"", Level.MUST)
_says(N.INC_EPOCH, "long", 0, lambda k: b"\0", Level.PROFILE)

_says(N.PRUNE, "good", 0, lambda k: prune(node(k)), Level.MUST)
_says(N.PRUNE, "several", 0, lambda k: prune(node(k), node(k, "d"), node(k, "d/inside")), Level.MUST)
_says(N.PRUNE, "none", 0, lambda k: prune())
_says(N.PRUNE, "unknown-node", 0, lambda k: prune(UNKNOWN), Level.PROFILE)
_says(N.PRUNE, "count-more", EINVAL, lambda k: prune(node(k), count=2))
_says(N.PRUNE, "count-less", EINVAL, lambda k: prune(node(k), node(k, "d"), count=1))
_says(N.PRUNE, "short", EINVAL, lambda k: bytes(15))


def _code(code: int) -> None:
    @case(f"notify/code-{code}", aspect="notify", level=Level.SHOULD, source=MEASURED + ": EINVAL")
    def _(k: Bench) -> None:
        ground(k)
        k.equal("what write(2) says", k.server.notify(code, bytes(24)), EINVAL)
        k.equal("and of one without a body", k.server.notify(code), EINVAL)


for _number in (0, 10, 99, -2):
    _code(_number)


# -- when --------------------------------------------------------------------------------------------------------------


@case("notify/before-init-is-answered", Opcode.INIT, aspect="notify", level=Level.PROFILE,
      notifications=(N.INVAL_INODE,), source=MEASURED + ": the root is there, it succeeds")  # fmt: skip
def _(k: Bench) -> None:
    server = k.mount(serve=False)
    k.equal("what write(2) says", server.notify(N.INVAL_INODE, inval_inode(1)), 0)
    server.start()
    k.ok(lambda: os.stat(k.path))


@case("notify/after-unmount", aspect="notify", level=Level.SHOULD, notifications=(N.INVAL_INODE,),
      source=MEASURED + ": an error")  # fmt: skip
def _(k: Bench) -> None:
    ground(k)
    seam.umount(k.path)
    k.true("the end comes", k.server.join(k.patience))
    k.true("write(2) fails", k.server.notify(N.INVAL_INODE, inval_inode(1)), "success")


def _forgotten(code: Notify, payload: Payload) -> None:
    @case(f"notify/{code.name.lower().replace('_', '-')}-of-a-forgotten-node", Opcode.FORGET, aspect="notify",
          level=Level.SHOULD, notifications=(code, N.INVAL_ENTRY), source=MEASURED + ": ENOENT")  # fmt: skip
    def _(k: Bench) -> None:
        ground(k)
        k.server.notify(N.INVAL_ENTRY, inval_entry(1, b"a"))
        k.wait_for(Opcode.FORGET)
        k.equal("what write(2) says", k.server.notify(code, payload(k)), ENOENT)


_forgotten(N.INVAL_INODE, lambda k: inval_inode(node(k)))
_forgotten(N.STORE, lambda k: store(node(k), 0, b"stored"))
_forgotten(N.RETRIEVE, lambda k: retrieve(1, node(k), 0, 10))


def _old(code: Notify, payload: Payload) -> None:
    @case(f"notify/{code.name.lower().replace('_', '-')}-from-a-server-of-minor-1", aspect="notify",
          level=Level.PROFILE, notifications=(code,), minors=(1,), since=NOTIFY_BY_NUMBER[code].since,
          source=MEASURED + ": taken whatever the server's minor")  # fmt: skip
    def _(k: Bench) -> None:
        ground(k, minor=1)
        k.equal("what write(2) says", k.server.notify(code, payload(k)), 0)


for _notify, _payload in (
    (N.POLL, lambda k: bytes(8)),
    (N.INVAL_INODE, lambda k: inval_inode(node(k))),
    (N.INVAL_ENTRY, lambda k: inval_entry(1, b"a")),
    (N.STORE, lambda k: store(node(k), 0, b"x")),
    (N.RETRIEVE, lambda k: retrieve(1, node(k), 0, 10)),
    (N.DELETE, lambda k: delete(1, node(k), b"a")),
    (N.RESEND, lambda k: b""),
    (N.INC_EPOCH, lambda k: b""),
    (N.PRUNE, lambda k: prune(node(k))),
):
    _old(_notify, _payload)
