"""Cases about SETXATTR, GETXATTR, LISTXATTR and REMOVEXATTR, sizes first."""

import errno
import os
import stat
from collections.abc import Callable

from perfused.conformance.kernel import seam
from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.match import named
from perfused.conformance.kernel.tree import Node
from wire import codec
from wire.flags import InitFlag
from wire.opcodes import Opcode

SETXATTR, GETXATTR = Opcode.SETXATTR, Opcode.GETXATTR
LISTXATTR, REMOVEXATTR = Opcode.LISTXATTR, Opcode.REMOVEXATTR
MEASURED = "measured on Linux 6.18"
VALUE = bytes(range(256))


def attributed(k: Bench, flags: int = 0, options: str = "", **fields: int) -> Node:
    """A file a with user.x."""
    node = k.mount(flags=flags, options=options).tree.add("a", **fields)  # type: ignore[arg-type]
    node.xattrs[b"user.x"] = VALUE
    return node


def _sized(k: Bench, name: bytes, size: int) -> Callable[[], tuple[int, bytes]]:
    """getxattr(2) of a with room for `size` bytes; listxattr(2) where `name` is empty."""

    def work() -> tuple[int, bytes]:
        room = bytearray(size)
        path = os.fsencode(k.file("a"))
        if name:
            length = seam.function("getxattr", path, name, room if size else None, size)
        else:
            length = seam.function("listxattr", path, room if size else None, size)
        return length, bytes(room[:length])

    return work


# -- SETXATTR ----------------------------------------------------------------------------------------------------------


@case(
    "setxattr/request", SETXATTR, aspect="request", source="fuse.h: fuse_setxattr_in, the name and the value behind it"
)
def _(k: Bench) -> None:
    node = attributed(k)
    k.ok(lambda: os.setxattr(k.file("a"), "user.y", VALUE))
    request = k.one(SETXATTR)
    k.equal("nodeid, name", (request.header.nodeid, request.names), (node.nodeid, (b"user.y",)))
    k.equal("size, flags, value", (request.head.size, request.head.flags, request.payload), (256, 0, VALUE))
    k.equal("fuse_setxattr_in", request.head_size, 8)


def _flags(name: str, flags: int) -> None:
    @case(f"setxattr/flag-{name}", SETXATTR, aspect="request", source="fuse.h: fuse_setxattr_in.flags, as setxattr(2)")
    def _(k: Bench) -> None:
        attributed(k)
        k.ok(lambda: os.setxattr(k.file("a"), "user.y", b"1", flags))
        k.equal("flags", k.one(SETXATTR).head.flags, flags)


_flags("create", os.XATTR_CREATE)
_flags("replace", os.XATTR_REPLACE)


@case("setxattr/create-is-the-servers-to-refuse", SETXATTR, aspect="error", source="setxattr(2): EEXIST")
def _(k: Bench) -> None:
    attributed(k)
    k.answer(SETXATTR, -errno.EEXIST, lambda request: bool(request.head.flags & os.XATTR_CREATE))
    k.fails(errno.EEXIST, lambda: os.setxattr(k.file("a"), "user.x", b"1", os.XATTR_CREATE))
    k.ok(lambda: os.setxattr(k.file("a"), "user.x", b"1"))


@case(
    "setxattr/both-flags", SETXATTR, aspect="request", level=Level.PROFILE, source=MEASURED + ": handed on as they are"
)
def _(k: Bench) -> None:
    attributed(k)
    k.ok(lambda: os.setxattr(k.file("a"), "user.y", b"1", os.XATTR_CREATE | os.XATTR_REPLACE))
    k.equal("flags", k.one(SETXATTR).head.flags, 3)


@case("setxattr/unknown-flag", SETXATTR, aspect="error", level=Level.SHOULD, source="setxattr(2): EINVAL")
def _(k: Bench) -> None:
    attributed(k)
    k.fails(errno.EINVAL, lambda: os.setxattr(k.file("a"), "user.y", b"1", 4))
    k.equal("SETXATTR requests", len(k.seen(SETXATTR)), 0)


@case("setxattr/empty-value", SETXATTR, aspect="request", source="setxattr(2): a value may be empty")
def _(k: Bench) -> None:
    node = attributed(k)
    k.ok(lambda: os.setxattr(k.file("a"), "user.y", b""))
    k.equal("size, value", (k.one(SETXATTR).head.size, node.xattrs[b"user.y"]), (0, b""))


@case("setxattr/largest-value", SETXATTR, aspect="request", level=Level.SHOULD, source="xattr(7): 65536 bytes")
def _(k: Bench) -> None:
    node = attributed(k)
    k.ok(lambda: os.setxattr(k.file("a"), "user.y", b"v" * 65536))
    k.equal("what came", len(node.xattrs[b"user.y"]), 65536)


@case("setxattr/too-large", SETXATTR, aspect="error", level=Level.SHOULD, source="xattr(7): E2BIG beyond 65536 bytes")
def _(k: Bench) -> None:
    attributed(k)
    k.fails(errno.E2BIG, lambda: os.setxattr(k.file("a"), "user.y", b"v" * 65537))
    k.equal("SETXATTR requests", len(k.seen(SETXATTR)), 0)


@case("setxattr/longest-name", SETXATTR, aspect="request", level=Level.SHOULD, source="xattr(7): 255 bytes")
def _(k: Bench) -> None:
    attributed(k)
    name = "user." + "n" * 250
    k.ok(lambda: os.setxattr(k.file("a"), name, b"1"))
    k.equal("name", k.one(SETXATTR).names, (name.encode(),))
    k.fails(errno.ERANGE, lambda: os.setxattr(k.file("a"), name + "n", b"1"), "a name of 256 bytes")
    k.one(SETXATTR)


def _prefix(name: str, attribute: str) -> None:
    @case(f"setxattr/namespace-{name}", SETXATTR, GETXATTR, aspect="request", level=Level.SHOULD,
          source="xattr(7): the whole name with its namespace is the server's")  # fmt: skip
    def _(k: Bench) -> None:
        attributed(k)
        k.ok(lambda: os.setxattr(k.file("a"), attribute, b"value"))
        k.equal("name", k.one(SETXATTR).names, (attribute.encode(),))
        k.equal("value", k.ok(lambda: os.getxattr(k.file("a"), attribute)), b"value")


_prefix("trusted", "trusted.x")
_prefix("security", "security.x")
_prefix("unknown", "strange.x")
_prefix("system", "system.x")


@case("setxattr/ext", SETXATTR, aspect="flag", since=33, flags=InitFlag.SETXATTR_EXT,
      source="fuse.h: FUSE_SETXATTR_EXT, the longer fuse_setxattr_in")  # fmt: skip
def _(k: Bench) -> None:
    attributed(k, InitFlag.SETXATTR_EXT)
    k.ok(lambda: os.setxattr(k.file("a"), "user.y", VALUE))
    request = k.one(SETXATTR)
    k.equal("fuse_setxattr_in", request.head_size, 16)
    k.equal("name, value", (request.names, request.payload), ((b"user.y",), VALUE))
    k.equal("setxattr_flags, padding", (request.head.setxattr_flags, request.head.padding), (0, 0))


# -- GETXATTR and LISTXATTR --------------------------------------------------------------------------------------------


@case("getxattr/request", GETXATTR, aspect="request", source="fuse.h: fuse_getxattr_in, the name behind it")
def _(k: Bench) -> None:
    node = attributed(k)
    k.equal("length and value", k.ok(_sized(k, b"user.x", 300)), (256, VALUE))
    request = k.one(GETXATTR)
    k.equal("nodeid, name", (request.header.nodeid, request.names), (node.nodeid, (b"user.x",)))
    k.equal("size, padding", (request.head.size, request.head.padding), (300, 0))


@case("getxattr/size-alone", GETXATTR, aspect="reply", source="fuse.h: to size 0 the reply is fuse_getxattr_out")
def _(k: Bench) -> None:
    attributed(k)
    k.answer(GETXATTR, codec.getxattr_out.pack(12345, 0), named(b"user.x"))
    k.equal("length", k.ok(_sized(k, b"user.x", 0)), (12345, b""))
    k.equal("size", k.one(GETXATTR).head.size, 0)


@case("getxattr/shorter-than-its-room", GETXATTR, aspect="reply", source="fuse.h: the reply is the value")
def _(k: Bench) -> None:
    node = attributed(k)
    node.xattrs[b"user.x"] = b"abc"
    k.equal("length and value", k.ok(_sized(k, b"user.x", 100)), (3, b"abc"))


@case("getxattr/empty-value", GETXATTR, aspect="reply", source="getxattr(2): a value may be empty")
def _(k: Bench) -> None:
    node = attributed(k)
    node.xattrs[b"user.x"] = b""
    k.equal("value", k.ok(lambda: os.getxattr(k.file("a"), "user.x")), b"")


@case("getxattr/little-room", GETXATTR, aspect="error", source="getxattr(2): ERANGE, which the server answers")
def _(k: Bench) -> None:
    attributed(k)
    k.fails(errno.ERANGE, _sized(k, b"user.x", 10))
    k.equal("size", k.one(GETXATTR).head.size, 10)


@case("getxattr/largest", GETXATTR, aspect="reply", level=Level.SHOULD, source="xattr(7): 65536 bytes")
def _(k: Bench) -> None:
    attributed(k).xattrs[b"user.x"] = b"v" * 65536
    k.equal("length", k.ok(_sized(k, b"user.x", 65536))[0], 65536)


@case(
    "getxattr/never-kept", GETXATTR, aspect="cache", level=Level.SHOULD, source="fuse.h: no timeout goes with a value"
)
def _(k: Bench) -> None:
    node = attributed(k)
    k.tree.valid = 60
    k.ok(lambda: os.getxattr(k.file("a"), "user.x"))
    node.xattrs[b"user.x"] = b"new"
    k.equal("value", k.ok(lambda: os.getxattr(k.file("a"), "user.x")), b"new")


@case("getxattr/enosys-is-of-all-files", GETXATTR, aspect="enosys", level=Level.PROFILE, source=MEASURED)
def _(k: Bench) -> None:
    attributed(k)
    k.tree.add("b")
    k.answer(GETXATTR, -errno.ENOSYS, times=1)
    for name in ("a", "b"):
        k.fails(errno.EOPNOTSUPP, lambda: os.getxattr(k.file(name), "user.x"))  # noqa: B023
    k.one(GETXATTR)


@case("getxattr/enosys-leaves-the-others", GETXATTR, SETXATTR, LISTXATTR, REMOVEXATTR, aspect="enosys",
      level=Level.SHOULD, source="fuse.h: each is an opcode of its own")  # fmt: skip
def _(k: Bench) -> None:
    attributed(k)
    k.answer(GETXATTR, -errno.ENOSYS)
    k.fails(errno.EOPNOTSUPP, lambda: os.getxattr(k.file("a"), "user.x"))
    k.equal("names", k.ok(lambda: os.listxattr(k.file("a"))), ["user.x"])
    k.ok(lambda: os.setxattr(k.file("a"), "user.y", b"1"))
    k.ok(lambda: os.removexattr(k.file("a"), "user.y"))


@case(
    "getxattr/eopnotsupp-does-not-stick",
    GETXATTR,
    aspect="error",
    level=Level.SHOULD,
    source="fuse.h: ENOSYS alone does",
)
def _(k: Bench) -> None:
    attributed(k)
    k.answer(GETXATTR, -errno.EOPNOTSUPP, times=1)
    k.fails(errno.EOPNOTSUPP, lambda: os.getxattr(k.file("a"), "user.x"))
    k.equal("value", k.ok(lambda: os.getxattr(k.file("a"), "user.x")), VALUE)


@case("getxattr/of-a-link-itself", GETXATTR, aspect="request", level=Level.SHOULD, source="lgetxattr(2)")
def _(k: Bench) -> None:
    link = k.mount().tree.add("l", b"a", stat.S_IFLNK | 0o777)
    link.xattrs[b"trusted.x"] = b"1"
    k.equal("value", k.ok(lambda: os.getxattr(k.file("l"), "trusted.x", follow_symlinks=False)), b"1")
    k.equal("nodeid", k.one(GETXATTR).header.nodeid, link.nodeid)


@case("listxattr/request", LISTXATTR, aspect="request", source="fuse.h: LISTXATTR's body is fuse_getxattr_in")
def _(k: Bench) -> None:
    node = attributed(k)
    k.equal("length and list", k.ok(_sized(k, b"", 200)), (7, b"user.x\0"))
    request = k.one(LISTXATTR)
    k.equal("nodeid, size", (request.header.nodeid, request.head.size), (node.nodeid, 200))


@case("listxattr/size-alone", LISTXATTR, aspect="reply", source="fuse.h: to size 0 the reply is fuse_getxattr_out")
def _(k: Bench) -> None:
    attributed(k)
    k.answer(LISTXATTR, codec.getxattr_out.pack(4321, 0))
    k.equal("length", k.ok(_sized(k, b"", 0)), (4321, b""))


@case("listxattr/none", LISTXATTR, aspect="reply", source="listxattr(2): a list may be empty")
def _(k: Bench) -> None:
    attributed(k).xattrs.clear()
    k.equal("length", k.ok(_sized(k, b"", 0)), (0, b""))
    k.equal("names", k.ok(lambda: os.listxattr(k.file("a"))), [])


@case("listxattr/little-room", LISTXATTR, aspect="error", source="listxattr(2): ERANGE, which the server answers")
def _(k: Bench) -> None:
    attributed(k)
    k.fails(errno.ERANGE, _sized(k, b"", 3))


@case("listxattr/grew-meanwhile", LISTXATTR, aspect="error", level=Level.SHOULD,
      source="listxattr(2): ERANGE is the caller's, who asks for the size again")  # fmt: skip
def _(k: Bench) -> None:
    node = attributed(k)

    def grow(_: object) -> bytes:
        node.xattrs[b"user.another"] = b""
        return codec.getxattr_out.pack(7, 0)

    k.answer(LISTXATTR, grow, times=1)
    length, _unused = k.ok(_sized(k, b"", 0))
    k.fails(errno.ERANGE, _sized(k, b"", length))
    k.equal("names", k.ok(lambda: os.listxattr(k.file("a"))), ["user.x", "user.another"])


@case("listxattr/really-long", LISTXATTR, aspect="reply", level=Level.SHOULD, source="listxattr(2): to 65536 bytes")
def _(k: Bench) -> None:
    node = attributed(k)
    node.xattrs.clear()
    node.xattrs.update({b"user.%09d." % number: b"" for number in range(4000)})
    k.equal("names", k.ok(lambda: len(os.listxattr(k.file("a")))), 4000)


@case(
    "listxattr/all-namespaces", LISTXATTR, aspect="reply", level=Level.PROFILE, source=MEASURED + ": nothing is hidden"
)
def _(k: Bench) -> None:
    node = attributed(k, options="allow_other")
    node.xattrs[b"trusted.x"] = node.xattrs[b"security.x"] = b"1"
    names = k.ok(lambda: os.listxattr(k.file("a")), uid=1001)
    k.equal("names", set(names), {"user.x", "trusted.x", "security.x"})


# -- REMOVEXATTR -------------------------------------------------------------------------------------------------------


@case("removexattr/request", REMOVEXATTR, aspect="request", source="fuse.h: REMOVEXATTR's body is the name")
def _(k: Bench) -> None:
    node = attributed(k)
    k.ok(lambda: os.removexattr(k.file("a"), "user.x"))
    request = k.one(REMOVEXATTR)
    k.equal("nodeid, name", (request.header.nodeid, request.names), (node.nodeid, (b"user.x",)))
    k.fails(errno.ENODATA, lambda: os.getxattr(k.file("a"), "user.x"))


@case("removexattr/attributes-afterwards", REMOVEXATTR, SETXATTR, aspect="cache", level=Level.SHOULD,
      source=MEASURED + ": the ctime is asked for again")  # fmt: skip
def _(k: Bench) -> None:
    node = attributed(k)
    k.tree.valid = 60
    for change in (lambda: os.setxattr(k.file("a"), "user.y", b"1"), lambda: os.removexattr(k.file("a"), "user.y")):
        k.ok(lambda: os.stat(k.file("a")))
        node.ctime += 100
        k.ok(change)
        k.equal("st_ctime", k.ok(lambda: os.stat(k.file("a")).st_ctime), node.ctime)
