"""Cases about POSIX ACLs, which are xattrs that a kernel may read and check itself."""

import errno
import os
import stat
import struct

from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.cases.xattrs import attributed
from wire.flags import InitFlag, SetxattrFlag
from wire.opcodes import Opcode

SETXATTR, GETXATTR = Opcode.SETXATTR, Opcode.GETXATTR
MEASURED = "measured on Linux 6.18"
ACCESS_ACL, DEFAULT_ACL = "system.posix_acl_access", "system.posix_acl_default"
#: version 2, then user::rw-, user:1001:rw-, group::r--, mask::rw-, other::---
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *each)
    for each in ((1, 6, 2**32 - 1), (2, 6, 1001), (4, 4, 2**32 - 1), (16, 6, 2**32 - 1), (32, 0, 2**32 - 1))
)
ACLS = "fuse.h: FUSE_POSIX_ACL, filesystem supports posix acls"


@case("acl/set", SETXATTR, aspect="flag", since=26, flags=InitFlag.POSIX_ACL, source=ACLS)
def _(k: Bench) -> None:
    node = attributed(k, InitFlag.POSIX_ACL)
    k.ok(lambda: os.setxattr(k.file("a"), ACCESS_ACL, ACL))
    k.equal("name", k.one(SETXATTR).names, (ACCESS_ACL.encode(),))
    k.equal("value", node.xattrs[ACCESS_ACL.encode()], ACL)


@case("acl/get", GETXATTR, aspect="flag", since=26, flags=InitFlag.POSIX_ACL, source=ACLS)
def _(k: Bench) -> None:
    attributed(k, InitFlag.POSIX_ACL).xattrs[ACCESS_ACL.encode()] = ACL
    k.equal("value", k.ok(lambda: os.getxattr(k.file("a"), ACCESS_ACL)), ACL)


@case("acl/checked", GETXATTR, Opcode.OPEN, aspect="flag", since=26, flags=InitFlag.POSIX_ACL,
      source=ACLS + ", which the kernel checks; it implies default_permissions")  # fmt: skip
def _(k: Bench) -> None:
    node = attributed(k, InitFlag.POSIX_ACL, "allow_other", mode=stat.S_IFREG | 0o660)
    node.xattrs[ACCESS_ACL.encode()] = ACL
    k.tree.valid = 60
    k.ok(lambda: os.close(os.open(k.file("a"), os.O_RDWR)), uid=1001)
    k.fails(errno.EACCES, lambda: os.open(k.file("a"), os.O_RDONLY), uid=1002)


@case(
    "acl/broken",
    SETXATTR,
    aspect="error",
    since=26,
    flags=InitFlag.POSIX_ACL,
    level=Level.SHOULD,
    source="acl(5): EINVAL",
)
def _(k: Bench) -> None:
    attributed(k, InitFlag.POSIX_ACL)
    k.fails(errno.EINVAL, lambda: os.setxattr(k.file("a"), ACCESS_ACL, ACL[:20]))
    k.equal("SETXATTR requests", len(k.seen(SETXATTR)), 0)


@case("acl/sgid-is-the-servers-to-clear", SETXATTR, aspect="flag", since=33,
      source="fuse.h: FUSE_SETXATTR_ACL_KILL_SGID", flags=InitFlag.POSIX_ACL | InitFlag.SETXATTR_EXT)  # fmt: skip
def _(k: Bench) -> None:
    attributed(
        k, InitFlag.POSIX_ACL | InitFlag.SETXATTR_EXT, "allow_other", mode=stat.S_IFREG | 0o2770, uid=1001, gid=7
    )
    k.ok(lambda: os.setxattr(k.file("a"), ACCESS_ACL, ACL), uid=1001)
    k.equal("setxattr_flags", k.one(SETXATTR).head.setxattr_flags, int(SetxattrFlag.ACL_KILL_SGID))


@case("acl/default-of-a-file", SETXATTR, aspect="error", since=26, flags=InitFlag.POSIX_ACL, level=Level.SHOULD,
      source="acl(5): directories alone have one; EACCES")  # fmt: skip
def _(k: Bench) -> None:
    attributed(k, InitFlag.POSIX_ACL)
    k.fails(errno.EACCES, lambda: os.setxattr(k.file("a"), DEFAULT_ACL, ACL))
    k.equal("SETXATTR requests", len(k.seen(SETXATTR)), 0)


@case("acl/umask-of-a-default", GETXATTR, Opcode.CREATE, aspect="flag", since=26, level=Level.PROFILE,
      flags=InitFlag.POSIX_ACL, source=MEASURED + ": with a default ACL the server masks")  # fmt: skip
def _(k: Bench) -> None:
    tree = k.mount(flags=InitFlag.POSIX_ACL | InitFlag.DONT_MASK).tree
    tree.directory("d").xattrs[DEFAULT_ACL.encode()] = ACL
    k.ok(lambda: os.close(os.open(k.file("d/z"), os.O_CREAT | os.O_WRONLY, 0o666)))
    head = k.one(Opcode.CREATE).head
    k.equal("mode, umask", (f"{stat.S_IMODE(head.mode):o}", f"{head.umask:o}"), ("666", "22"))


@case("acl/without", SETXATTR, GETXATTR, aspect="flag", level=Level.PROFILE, since=26,
      source=MEASURED + ": without FUSE_POSIX_ACL they are the server's own")  # fmt: skip
def _(k: Bench) -> None:
    attributed(k)
    k.ok(lambda: os.setxattr(k.file("a"), ACCESS_ACL, ACL))
    k.equal("value", k.ok(lambda: os.getxattr(k.file("a"), ACCESS_ACL)), ACL)
    k.one(SETXATTR)
