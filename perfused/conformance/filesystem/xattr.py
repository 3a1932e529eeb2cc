"""Extended attributes: values, names, lists, and who may do what (xattr(7), setxattr(2), getxattr(2), listxattr(2),
removexattr(2)).

Nothing here is about access control lists, which are attributes too: `acl` is.
"""

import os
from collections.abc import Iterator
from errno import E2BIG, EACCES, EBADF, EEXIST, EINVAL, ENODATA, EOPNOTSUPP, EPERM, ERANGE, EROFS

from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import MEMBER, MOUNTER, OTHER, ROOT, SUPPLEMENTARY, USER, Who
from perfused.conformance.filesystem.offers import LARGE

SIZES = (0, 1, 2, 255, 256, 1000, 3000)
CLASSES = {"owner": (USER, 6), "group": (MEMBER, 3), "supplementary": (SUPPLEMENTARY, 3), "other": (OTHER, 0)}


def cases() -> Iterator[Case]:
    """By kind of file, then one by one."""
    for kind in ("regular", "dir"):
        for size in SIZES:
            yield case(f"setxattr/value/{kind}/{size}", value, kind, size, needs=["xattr"])
        yield case(f"setxattr/flags/{kind}", flags, kind, needs=["xattr"])
        yield case(f"setxattr/times/{kind}", times, kind, needs=["xattr"])
        yield case(f"listxattr/{kind}", names, kind, needs=["xattr"])
        for name in CLASSES:
            yield case(f"setxattr/permission/{kind}/{name}", permission, kind, name, needs=["xattr"])
        yield case(f"setxattr/trusted/{kind}", trusted, kind, needs=["xattr", "trusted"])
        yield case(f"setxattr/security/{kind}", security, kind, needs=["xattr", "security"])
    for size in LARGE:
        yield case(f"setxattr/value/regular/{size}", value, "regular", size, needs=["xattr", f"xattr_{size >> 10}k"])
    yield case("setxattr/too-large", too_large, needs=["xattr"])
    yield case("setxattr/names", lengths, needs=["xattr"])
    yield case("setxattr/bytes", odd_names, needs=["xattr"])
    for kind in ("symlink", "fifo", "socket", "char", "block"):
        yield case(f"setxattr/special/{kind}", special, kind, needs=["xattr", "trusted"])
    yield case("setxattr/sticky", sticky, needs=["xattr"])
    yield case("setxattr/descriptor", descriptor, needs=["xattr"])
    yield case("setxattr/descriptor-of-path", path_descriptor, needs=["xattr"])
    yield case("setxattr/links", links, needs=["xattr"])
    yield case("setxattr/read-only", read_only, needs=["xattr", "namespace"])
    yield case("setxattr/attributes-stay", stay, needs=["xattr"])
    yield case("getxattr/sizes", sized, needs=["xattr"])
    yield case("listxattr/sizes", sized_list, needs=["xattr"])
    yield case("listxattr/many", many, needs=["xattr"])
    yield case("removexattr/absent", absent, needs=["xattr"])


def _bytes(size: int, seed: int = 1) -> bytes:
    return bytes((seed + each * 31) % 256 for each in range(size))


def value(stage: Stage, kind: str, size: int) -> None:
    """A value comes back as it was set, is replaced by a longer and a shorter one, and goes."""
    stage.make(kind, "x")
    stage.expect(0, "setxattr", "x", "user.a", _bytes(size))
    stage.gives(_bytes(size), "getxattr", "x", "user.a", label="set")
    stage.gives(size, "getxattr_sized", "x", "user.a", 0, label="size")
    stage.expect(0, "setxattr", "x", "user.a", _bytes(size, 2))
    stage.gives(_bytes(size, 2), "getxattr", "x", "user.a", label="other")
    stage.expect(0, "setxattr", "x", "user.a", b"short")
    stage.gives(b"short", "getxattr", "x", "user.a", label="shorter")
    stage.expect(0, "setxattr", "x", "user.a", _bytes(size))
    stage.gives(_bytes(size), "getxattr", "x", "user.a", label="longer")
    stage.expect(0, "removexattr", "x", "user.a")
    stage.expect(ENODATA, "getxattr", "x", "user.a")
    stage.gives([], "listxattr", "x", "user.", label="none-listed")


def flags(stage: Stage, kind: str) -> None:
    """XATTR_CREATE only where there is none, XATTR_REPLACE only where there is one; no other flag."""
    stage.make(kind, "x")
    stage.expect(ENODATA, "setxattr", "x", "user.a", b"1", os.XATTR_REPLACE, label="replace-ENODATA")
    stage.gives([], "listxattr", "x", "user.", label="none-yet")
    stage.expect(0, "setxattr", "x", "user.a", b"1", os.XATTR_CREATE, label="create-success")
    stage.expect(EEXIST, "setxattr", "x", "user.a", b"2", os.XATTR_CREATE, label="create-EEXIST")
    stage.gives(b"1", "getxattr", "x", "user.a", label="as-created")
    stage.expect(0, "setxattr", "x", "user.a", b"3", os.XATTR_REPLACE, label="replace-success")
    stage.gives(b"3", "getxattr", "x", "user.a", label="replaced")
    stage.expect(0, "setxattr", "x", "user.e", b"", os.XATTR_CREATE, label="create-empty-success")
    stage.gives(b"", "getxattr", "x", "user.e", label="empty")
    stage.expect(EEXIST, "setxattr", "x", "user.e", b"", os.XATTR_CREATE, label="create-empty-EEXIST")
    stage.expect(EINVAL, "setxattr", "x", "user.a", b"4", 4, label="unknown-EINVAL")
    stage.gives(b"3", "getxattr", "x", "user.a", label="unchanged")


def times(stage: Stage, kind: str) -> None:
    """Setting and removing move ctime alone; reading and listing nothing."""
    stage.make(kind, "x")
    before = stage.times("x", ".")
    stage.expect(0, "setxattr", "x", "user.a", b"1")
    stage.moved(before, "x", "c")
    stage.moved(before, ".", "")
    before = stage.times("x", ".")
    stage.gives(b"1", "getxattr", "x", "user.a")
    stage.gives(["user.a"], "listxattr", "x", "user.")
    stage.expect(EEXIST, "setxattr", "x", "user.a", b"2", os.XATTR_CREATE)
    stage.moved(before, "x", "")
    stage.expect(0, "removexattr", "x", "user.a")
    stage.moved(before, "x", "c")
    stage.moved(before, ".", "")


def names(stage: Stage, kind: str) -> None:
    """The list has each name once, whatever was set and removed in between."""
    stage.make(kind, "x")
    stage.gives([], "listxattr", "x", "user.", label="none")
    for name in ("user.b", "user.a", "user.ab", "user.B"):
        stage.setup("setxattr", "x", name, b"v")
    stage.gives(["user.B", "user.a", "user.ab", "user.b"], "listxattr", "x", "user.", label="four")
    stage.setup("setxattr", "x", "user.a", b"w")
    stage.setup("removexattr", "x", "user.ab")
    stage.gives(["user.B", "user.a", "user.b"], "listxattr", "x", "user.", label="three")
    stage.gives(b"w", "getxattr", "x", "user.a")
    stage.gives(b"v", "getxattr", "x", "user.B")


def permission(stage: Stage, kind: str, name: str) -> None:
    """Reading asks for read permission of the file, setting and removing for write permission; listing for neither."""
    who, shift = CLASSES[name]
    for bits in range(8):
        path = f"x{bits}"
        mode = bits << shift
        for other in {6, 3, 0} - {shift}:
            mode |= (~bits & 7) << other
        stage.make(kind, path, mode, USER)
        stage.setup("setxattr", path, "user.old", b"1")
        stage.expect(0 if bits & 4 else EACCES, "getxattr", path, "user.old", who=who, label=f"{bits}-get")
        stage.gives(["user.old"], "listxattr", path, "user.", who=who, label=f"{bits}-list")
        may = 0 if bits & 2 else EACCES
        stage.expect(may, "setxattr", path, "user.new", b"2", who=who, label=f"{bits}-set")
        stage.expect(may, "removexattr", path, "user.old", who=who, label=f"{bits}-remove")
        left = ["user.new"] if bits & 2 else ["user.old"]
        stage.gives(left, "listxattr", path, "user.", label=f"{bits}-left")
        stage.sees(path, uid=USER.uid, gid=USER.gid, mode=mode, label=f"{bits}-as-before")


def trusted(stage: Stage, kind: str) -> None:
    """trusted.* is root's: for all others it is not there, not even in lists."""
    stage.make(kind, "x", 0o777, USER)
    stage.expect(0, "setxattr", "x", "trusted.a", b"1")
    stage.gives(b"1", "getxattr", "x", "trusted.a")
    stage.gives(["trusted.a"], "listxattr", "x", "trusted.")
    for who in (USER, OTHER):
        stage.expect(ENODATA, "getxattr", "x", "trusted.a", who=who)
        stage.gives([], "listxattr", "x", "trusted.", who=who, label=f"{who.name}-list")
        stage.expect(EPERM, "setxattr", "x", "trusted.a", b"2", who=who)
        stage.expect(EPERM, "setxattr", "x", "trusted.b", b"2", who=who, label=f"{who.name}-new-EPERM")
        stage.expect(EPERM, "removexattr", "x", "trusted.a", who=who)
    stage.gives(b"1", "getxattr", "x", "trusted.a", label="unchanged")
    stage.expect(0, "removexattr", "x", "trusted.a")
    stage.gives([], "listxattr", "x", "trusted.", label="gone")


def security(stage: Stage, kind: str) -> None:
    """security.* without a module that knows it: all may read it, root alone sets it."""
    stage.make(kind, "x", 0o700, USER)
    stage.expect(0, "setxattr", "x", "security.posix-suite", b"1")
    for who in (USER, OTHER):
        stage.gives(b"1", "getxattr", "x", "security.posix-suite", who=who)
        stage.gives(["security.posix-suite"], "listxattr", "x", "security.posix", who=who, label=f"{who.name}-list")
        stage.expect(EPERM, "setxattr", "x", "security.posix-suite", b"2", who=who)
        stage.expect(EPERM, "removexattr", "x", "security.posix-suite", who=who)
    stage.gives(b"1", "getxattr", "x", "security.posix-suite", label="unchanged")
    stage.expect(0, "removexattr", "x", "security.posix-suite")


def too_large(stage: Stage) -> None:
    """No value beyond 64 KiB, which the kernel refuses for every filesystem."""
    stage.make("regular", "x")
    stage.expect(E2BIG, "setxattr", "x", "user.a", bytes((64 << 10) + 1))
    stage.gives([], "listxattr", "x", "user.")


def lengths(stage: Stage) -> None:
    """A name has from one byte after its class to 255 bytes in all, and a class that is known."""
    stage.make("regular", "x")
    for length in (6, 7, 100, 254, 255):
        name = "user.".ljust(length, "n")
        stage.expect(0, "setxattr", "x", name, b"v", label=f"{length}-success")
        stage.gives(b"v", "getxattr", "x", name, label=f"{length}-value")
        stage.gives([name], "listxattr", "x", "user.", label=f"{length}-listed")
        stage.expect(0, "removexattr", "x", name, label=f"{length}-removed")
    for call, more in (("setxattr", (b"v",)), ("getxattr", ()), ("removexattr", ())):
        stage.expect(ERANGE, call, "x", "user.".ljust(256, "n"), *more, label=f"{call}-256-ERANGE")
        stage.expect(ERANGE, call, "x", "", *more, label=f"{call}-empty-ERANGE")
        stage.expect(EOPNOTSUPP, call, "x", "nobodys.a", *more, label=f"{call}-class-EOPNOTSUPP")
        stage.expect(EOPNOTSUPP, call, "x", "a", *more, label=f"{call}-no-class-EOPNOTSUPP")
    stage.expect(EINVAL, "setxattr", "x", "user.", b"v", label="nothing-after-the-class-EINVAL")
    stage.gives([], "listxattr", "x", "user.", label="none-left")


def odd_names(stage: Stage) -> None:
    """A name has any bytes but NUL after its class, slashes too."""
    stage.make("regular", "x")
    odd = [os.fsdecode(b"user." + bytes([byte])) for byte in range(1, 256)]
    for start in range(0, 255, 32):
        some = odd[start : start + 32]
        for name in some:
            stage.expect(0, "setxattr", "x", name, b"v", label=f"{odd.index(name) + 1}-success")
        stage.gives(sorted(some), "listxattr", "x", "user.", label=f"from-{start}-listed")
        for name in some:
            stage.expect(0, "removexattr", "x", name, label=f"{odd.index(name) + 1}-removed")


def special(stage: Stage, kind: str) -> None:
    """user.* stands on regular files and directories only; trusted.* on everything."""
    stage.make(kind, "x")
    stage.expect(EPERM, "setxattr", "x", "user.a", b"v", 0, True, label="user-EPERM")
    stage.expect((ENODATA, EPERM), "getxattr", "x", "user.a", True, label="user-get")
    stage.expect(0, "setxattr", "x", "trusted.a", b"v", 0, True, label="trusted-success")
    stage.gives(b"v", "getxattr", "x", "trusted.a", True)
    stage.gives(["trusted.a"], "listxattr", "x", "trusted.", True)
    stage.expect(0, "removexattr", "x", "trusted.a", True)
    stage.sees("x", kind=kind)


def sticky(stage: Stage) -> None:
    """In the attributes of a sticky directory only its owner writes."""
    stage.make("dir", "d", 0o1777, USER)
    for who in (OTHER, MEMBER):
        stage.expect(EPERM, "setxattr", "d", "user.a", b"1", who=who)
    stage.gives([], "listxattr", "d", "user.", label="none")
    stage.expect(0, "setxattr", "d", "user.a", b"1", who=USER)
    stage.expect(EPERM, "removexattr", "d", "user.a", who=OTHER)
    stage.gives(b"1", "getxattr", "d", "user.a", who=OTHER)
    stage.expect(0, "setxattr", "d", "user.a", b"2", who=ROOT)


def descriptor(stage: Stage) -> None:
    """By a descriptor it is the file's rights that count, not how it was opened; also without a name."""
    stage.make("regular", "x", 0o644, USER)
    fd = stage.setup("open", "x", os.O_RDONLY, who=USER)
    stage.expect(0, "setxattr", fd, "user.a", b"1", who=USER)
    stage.gives(b"1", "getxattr", fd, "user.a", who=USER)
    other = stage.setup("open", "x", os.O_RDONLY, who=OTHER)
    stage.gives(b"1", "getxattr", other, "user.a", who=OTHER)
    stage.expect(EACCES, "setxattr", other, "user.a", b"2", who=OTHER)
    stage.setup("unlink", "x")
    stage.expect(0, "setxattr", fd, "user.b", b"2", who=USER, label="unlinked-success")
    stage.gives(["user.a", "user.b"], "listxattr", fd, "user.", who=USER, label="unlinked-list")
    stage.gives(b"2", "getxattr", other, "user.b", who=OTHER, label="unlinked-other-reads")
    stage.expect(0, "removexattr", fd, "user.a", who=USER, label="unlinked-removed")


def path_descriptor(stage: Stage) -> None:
    """A descriptor of a path alone (open(2), O_PATH) is EBADF for all four."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_PATH)
    stage.expect(EBADF, "setxattr", fd, "user.a", b"1")
    stage.expect(EBADF, "getxattr", fd, "user.a")
    stage.expect(EBADF, "listxattr", fd, "user.")
    stage.expect(EBADF, "removexattr", fd, "user.a")


def links(stage: Stage) -> None:
    """Attributes are the file's: seen by all its names, by a link that leads to it, and kept when it is renamed."""
    stage.make("regular", "x")
    stage.setup("link", "x", "y")
    stage.setup("symlink", "x", "ln")
    stage.expect(0, "setxattr", "x", "user.a", b"1")
    stage.gives(b"1", "getxattr", "y", "user.a", label="by-link")
    stage.gives(b"1", "getxattr", "ln", "user.a", label="by-symlink")
    stage.expect(0, "setxattr", "ln", "user.b", b"2", label="through-symlink")
    stage.gives(["user.a", "user.b"], "listxattr", "y", "user.")
    stage.gives([], "listxattr", "ln", "user.", True, label="symlink-itself")
    stage.setup("rename", "x", "z")
    stage.gives(b"1", "getxattr", "z", "user.a", label="renamed")
    stage.setup("unlink", "z")
    stage.make("regular", "z")
    stage.gives([], "listxattr", "z", "user.", label="new-file-has-none")
    stage.gives(["user.a", "user.b"], "listxattr", "y", "user.", label="old-file-has-them")


def read_only(stage: Stage) -> None:
    """A read-only mount lets them be read alone."""
    stage.make("dir", "src")
    stage.make("dir", "ro")
    stage.make("regular", "src/x")
    stage.setup("setxattr", "src/x", "user.a", b"1")
    stage.setup("bind_mount", "src", "ro", True, who=MOUNTER)
    stage.expect(EROFS, "setxattr", "ro/x", "user.a", b"2", who=MOUNTER)
    stage.expect(EROFS, "removexattr", "ro/x", "user.a", who=MOUNTER)
    stage.gives(b"1", "getxattr", "ro/x", "user.a", who=MOUNTER)
    stage.gives(["user.a"], "listxattr", "ro/x", "user.", who=MOUNTER)


def stay(stage: Stage) -> None:
    """Content, mode, owner and size are as they were; and changing those leaves the attributes."""
    stage.make("regular", "x", 0o4755, USER)
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("write", fd, b"hello")
    stage.setup("chmod", "x", 0o4755)
    _set(stage, "x", USER)
    stage.sees("x", mode=0o4755, uid=USER.uid, gid=USER.gid, size=5, nlink=1)
    stage.gives(b"hello", "pread", fd, 10, 0)
    stage.setup("truncate", "x", 0)
    stage.setup("chown", "x", OTHER.uid, OTHER.gid)
    stage.setup("chmod", "x", 0o600)
    stage.setup("utimensat", "x", (1000, 0), (2000, 0))
    stage.gives(b"v" * 100, "getxattr", "x", "user.a")
    stage.sees("x", mtime=2000 * 10**9, atime=1000 * 10**9)


def _set(stage: Stage, path: str, who: Who) -> None:
    stage.expect(0, "setxattr", path, "user.a", b"v" * 100, who=who)


def sized(stage: Stage) -> None:
    """A buffer that is too small is ERANGE, one as large as the value is enough, none tells the size."""
    stage.make("regular", "x")
    for size in (1, 10, 1000):
        stage.setup("setxattr", "x", "user.a", _bytes(size))
        stage.gives(size, "getxattr_sized", "x", "user.a", 0, label=f"{size}-asked")
        stage.gives(size, "getxattr_sized", "x", "user.a", size, label=f"{size}-exact")
        stage.gives(size, "getxattr_sized", "x", "user.a", size + 1, label=f"{size}-more")
        stage.gives(size, "getxattr_sized", "x", "user.a", 1 << 16, label=f"{size}-most")
        if size > 1:
            stage.expect(ERANGE, "getxattr_sized", "x", "user.a", size - 1, label=f"{size}-less-ERANGE")
            stage.expect(ERANGE, "getxattr_sized", "x", "user.a", 1, label=f"{size}-one-ERANGE")
    stage.setup("setxattr", "x", "user.a", b"")
    stage.gives(0, "getxattr_sized", "x", "user.a", 0, label="empty-asked")
    stage.gives(0, "getxattr_sized", "x", "user.a", 10, label="empty")


def sized_list(stage: Stage) -> None:
    """So it is for the list, whose names end with a NUL each."""
    stage.make("regular", "x")
    stage.setup("setxattr", "x", "user.one", b"1")
    stage.setup("setxattr", "x", "user.three", b"1")
    size = stage.setup("listxattr_sized", "x", 0)
    stage.gives(True, "between", 20, size, 500, label="at-least-its-names")
    stage.gives(size, "listxattr_sized", "x", size, label="exact")
    stage.gives(size, "listxattr_sized", "x", 1 << 16, label="most")
    stage.expect(ERANGE, "listxattr_sized", "x", 19, label="less-ERANGE")
    stage.expect(ERANGE, "listxattr_sized", "x", 1, label="one-ERANGE")


def many(stage: Stage) -> None:
    """Fifty of them are listed once each, and keep their values as half of them go."""
    stage.make("regular", "x")
    some = [f"user.n{number:02d}" for number in range(50)]
    for number, name in enumerate(some):
        stage.expect(0, "setxattr", "x", name, b"%d" % number, label=f"{name}-success")
    stage.gives(some, "listxattr", "x", "user.", label="all")
    for name in some[::2]:
        stage.expect(0, "removexattr", "x", name, label=f"{name}-removed")
    stage.gives(some[1::2], "listxattr", "x", "user.", label="half")
    for number, name in enumerate(some):
        if number % 2:
            stage.gives(b"%d" % number, "getxattr", "x", name, label=f"{name}-value")
        else:
            stage.expect(ENODATA, "getxattr", "x", name, label=f"{name}-ENODATA")


def absent(stage: Stage) -> None:
    """What is not there cannot be read or removed, by whomever."""
    stage.make("regular", "x", 0o666)
    for who in (ROOT, USER, OTHER):
        stage.expect(ENODATA, "removexattr", "x", "user.a", who=who)
        stage.expect(ENODATA, "getxattr", "x", "user.a", who=who)
        stage.gives([], "listxattr", "x", "user.", who=who)
    before = stage.times("x")
    stage.expect(ENODATA, "removexattr", "x", "user.b")
    stage.moved(before, "x", "")
