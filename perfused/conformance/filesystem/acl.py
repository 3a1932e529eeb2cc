"""Access control lists in system.posix_acl_access: acl(5), and setxattr(2) for their form.

The value has the kernel's form (linux/posix_acl_xattr.h): version 2, then tag, permissions and number of each entry.
Never here: what directories hand down (`acl_default`).
"""

import os
import struct
from collections.abc import Iterator
from errno import EACCES, EINVAL, ENODATA, EOPNOTSUPP, EPERM

from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import JOINER, LONER, MEMBER, OTHER, ROOT, SUPPLEMENTARY, USER, Who

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
USER_OBJ, NAMED_USER, GROUP_OBJ, NAMED_GROUP, MASK, EVERYBODY = 1, 2, 4, 8, 0x10, 0x20
_NOBODY = 0xFFFFFFFF
_WANTED = {"read": os.R_OK, "write": os.W_OK, "execute": os.X_OK}


def acl(*entries: tuple[int, int] | tuple[int, int, int], version: int = 2) -> bytes:
    """The value of a list: (tag, permissions) or (tag, permissions, number)."""
    out = struct.pack("<I", version)
    for tag, bits, *number in entries:
        out += struct.pack("<HHI", tag, bits, number[0] if number else _NOBODY)
    return out


def common(user: int, group: int, everybody: int, mask: int, *named: tuple[int, int, int]) -> bytes:
    """A list with a mask; the named entries come in the order the kernel wants: users, then groups."""
    users = [each for each in named if each[0] == NAMED_USER]
    groups = [each for each in named if each[0] == NAMED_GROUP]
    return acl((USER_OBJ, user), *users, (GROUP_OBJ, group), *groups, (MASK, mask), (EVERYBODY, everybody))


#: class -> who it is for, the entry that gives it permissions, of a file of 7001:7001
CLASSES: dict[str, tuple[Who, tuple[int, int]]] = {
    "named-user": (OTHER, (NAMED_USER, OTHER.uid)),
    "named-group": (OTHER, (NAMED_GROUP, OTHER.gid)),
    "named-supplementary": (SUPPLEMENTARY, (NAMED_GROUP, 7008)),
    "group": (MEMBER, (GROUP_OBJ, 0)),
}


def cases() -> Iterator[Case]:
    """All of them need lists."""
    for name in CLASSES:
        yield case(f"acl/access/{name}", access, name, needs=["acl"])
    for name, body in {
        "access/owner": owner, "access/other": everybody, "access/union-of-groups": union,
        "access/user-before-group": user_first, "access/open": opened, "access/search": search,
        "access/delete-in-directory": deletes, "set/minimal": minimal, "set/mode": mode, "set/chmod": chmod,
        "set/remove": remove, "set/times": times, "set/permission": permission, "set/invalid": invalid,
        "set/kinds": kinds, "set/setgid": setgid, "set/listed": listed, "set/chown": chown, "set/many": many,
    }.items():  # fmt: skip
        yield case(f"acl/{name}", body, needs=["acl"])


def access(stage: Stage, name: str) -> None:
    """What an entry gives is cut by the mask, all 64 pairs; what others may does not help."""
    who, (tag, number) = CLASSES[name]
    stage.make("regular", "x", 0o644, USER)
    for bits in range(8):
        for mask in range(8):
            # Linux does not look into a list whose mask is empty: whoever is not in the group is then among the others
            others = 7 & ~(bits & mask) if mask else 0
            if tag == GROUP_OBJ:
                value = common(7, bits, others, mask, (NAMED_USER, 0, 7999))
            else:
                value = common(7, 0, others, mask, (tag, bits, number))
            stage.setup("setxattr", "x", ACCESS, value)
            for word, wanted in _WANTED.items():
                want = 0 if bits & mask & wanted else EACCES
                stage.expect(want, "access", "x", wanted, who=who, label=f"{bits}-mask-{mask}-{word}")


def owner(stage: Stage) -> None:
    """The owner's entry is not cut by the mask, and no other entry is the owner's."""
    stage.make("regular", "x", 0o644, USER)
    for bits in range(8):
        value = common(bits, 7, 7, 0, (NAMED_USER, 7, USER.uid), (NAMED_GROUP, 7, USER.gid))
        stage.setup("setxattr", "x", ACCESS, value)
        for who in (USER, LONER):
            for word, wanted in _WANTED.items():
                want = 0 if bits & wanted else EACCES
                stage.expect(want, "access", "x", wanted, who=who, label=f"{who.name}-{bits}-{word}")


def everybody(stage: Stage) -> None:
    """Others are those whom no entry names; the mask is not theirs."""
    stage.make("regular", "x", 0o644, USER)
    for bits in range(8):
        value = common(7, 7, bits, 0, (NAMED_USER, 7, 7998), (NAMED_GROUP, 7, 7999))
        stage.setup("setxattr", "x", ACCESS, value)
        for word, wanted in _WANTED.items():
            want = 0 if bits & wanted else EACCES
            stage.expect(want, "access", "x", wanted, who=OTHER, label=f"{bits}-{word}")
            stage.expect(EACCES, "access", "x", wanted, who=MEMBER, label=f"{bits}-{word}-group-masked")


def union(stage: Stage) -> None:
    """One of the matching groups has to give all that is asked for; two do not add up."""
    stage.make("regular", "x", 0o644, USER)
    for first in (0, 2, 4, 6):
        for second in (0, 2, 4, 6):
            value = common(7, first, 0, 7, (NAMED_GROUP, second, 7008))
            stage.setup("setxattr", "x", ACCESS, value)
            for bits in (2, 4, 6):
                want = 0 if bits & ~first == 0 or bits & ~second == 0 else EACCES
                label = f"{first}-and-{second}-asked-{bits}"
                stage.expect(want, "access", "x", bits, who=SUPPLEMENTARY, label=label)


def user_first(stage: Stage) -> None:
    """An entry that names the user decides, though a group would give more."""
    stage.make("regular", "x", 0o644, USER)
    value = common(7, 7, 7, 7, (NAMED_USER, 4, MEMBER.uid), (NAMED_GROUP, 7, MEMBER.gid))
    stage.setup("setxattr", "x", ACCESS, value)
    stage.expect(0, "access", "x", os.R_OK, who=MEMBER, label="read-success")
    stage.expect(EACCES, "access", "x", os.W_OK, who=MEMBER, label="write-EACCES")
    stage.expect(0, "access", "x", os.W_OK, who=SUPPLEMENTARY)
    stage.expect(0, "access", "x", os.W_OK, who=ROOT)


def opened(stage: Stage) -> None:
    """open(2) and truncate(2) go by the list too."""
    stage.make("regular", "x", 0o600, USER)
    stage.expect(EACCES, "open", "x", os.O_RDONLY, who=OTHER, label="before-EACCES")
    stage.setup("setxattr", "x", ACCESS, common(6, 0, 0, 6, (NAMED_USER, 6, OTHER.uid)))
    fd = stage.expect(0, "open", "x", os.O_RDWR, who=OTHER)
    stage.gives(3, "write", fd, b"abc", who=OTHER)
    stage.expect(0, "truncate", "x", 1, who=OTHER)
    stage.expect(EACCES, "open", "x", os.O_RDONLY, who=MEMBER)
    stage.setup("setxattr", "x", ACCESS, common(6, 0, 0, 4, (NAMED_USER, 6, OTHER.uid)))
    stage.expect(EACCES, "open", "x", os.O_RDWR, who=OTHER, label="masked-EACCES")
    stage.expect(0, "open", "x", os.O_RDONLY, who=OTHER, label="masked-read-success")
    stage.gives(1, "write", fd, b"a", who=OTHER, label="what-is-open-stays-so")


def search(stage: Stage) -> None:
    """A directory is searched and listed by its list."""
    stage.make("dir", "d", 0o700, USER)
    stage.make("regular", "d/x", 0o644)
    stage.expect(EACCES, "lstat", "d/x", who=OTHER, label="before-EACCES")
    stage.setup("setxattr", "d", ACCESS, common(7, 0, 0, 7, (NAMED_USER, 1, OTHER.uid), (NAMED_GROUP, 4, 7008)))
    stage.expect(0, "lstat", "d/x", who=OTHER)
    stage.expect(EACCES, "listdir", "d", who=OTHER)
    stage.gives(["x"], "listdir", "d", who=SUPPLEMENTARY)
    stage.expect(EACCES, "lstat", "d/x", who=SUPPLEMENTARY)
    stage.expect(EACCES, "listdir", "d", who=MEMBER)
    stage.setup("setxattr", "d", ACCESS, common(7, 0, 0, 0, (NAMED_USER, 1, OTHER.uid), (NAMED_GROUP, 4, 7008)))
    stage.expect(EACCES, "lstat", "d/x", who=OTHER, label="masked-EACCES")
    stage.expect(0, "lstat", "d/x", who=USER)


def deletes(stage: Stage) -> None:
    """Who may write to a directory by its list makes and removes names there."""
    stage.make("dir", "d", 0o700, USER)
    stage.setup("setxattr", "d", ACCESS, common(7, 0, 0, 7, (NAMED_USER, 7, OTHER.uid)))
    stage.expect(0, "mkdir", "d/a", 0o755, who=OTHER)
    stage.expect(0, "rename", "d/a", "d/b", who=OTHER)
    stage.expect(0, "rmdir", "d/b", who=OTHER)
    stage.setup("chmod", "d", 0o750)
    stage.expect(EACCES, "mkdir", "d/a", 0o755, who=OTHER, label="masked-EACCES")
    stage.holds("d")


def minimal(stage: Stage) -> None:
    """A list of the three classes is the mode, and no attribute is kept."""
    stage.make("regular", "x", 0o644, USER)
    for number in (0, 0o123, 0o640, 0o777):
        value = acl((USER_OBJ, number >> 6), (GROUP_OBJ, number >> 3 & 7), (EVERYBODY, number & 7))
        stage.expect(0, "setxattr", "x", ACCESS, value, label=f"{number:03o}-success")
        stage.sees("x", mode=number, label=f"{number:03o}-mode")
        stage.expect(ENODATA, "getxattr", "x", ACCESS, label=f"{number:03o}-ENODATA")
        stage.gives([], "listxattr", "x", "system.posix", label=f"{number:03o}-not-listed")


def mode(stage: Stage) -> None:
    """The group's bits of the mode are the mask; the list comes back as it was set."""
    stage.make("regular", "x", 0o4644, USER)
    for bits in range(8):
        value = common(6, bits, 1, 7 - bits, (NAMED_USER, 5, OTHER.uid), (NAMED_GROUP, 3, 7999))
        stage.expect(0, "setxattr", "x", ACCESS, value, label=f"{bits}-success")
        stage.sees("x", mode=0o4601 | (7 - bits) << 3, label=f"{bits}-mode")
        stage.gives(value, "getxattr", "x", ACCESS, label=f"{bits}-value")
    stage.sees("x", uid=USER.uid, gid=USER.gid, nlink=1, size=0)


def chmod(stage: Stage) -> None:
    """chmod(2) sets owner, mask and others; the group's own entry and the named ones stay."""
    stage.make("regular", "x", 0o644, USER)
    named = (NAMED_USER, 7, OTHER.uid)
    stage.setup("setxattr", "x", ACCESS, common(6, 5, 0, 7, named))
    for number in (0o000, 0o640, 0o751, 0o777, 0o404):
        stage.expect(0, "chmod", "x", number, who=USER, label=f"{number:03o}-success")
        stage.sees("x", mode=number, label=f"{number:03o}-mode")
        value = common(number >> 6, 5, number & 7, number >> 3 & 7, named)
        stage.gives(value, "getxattr", "x", ACCESS, label=f"{number:03o}-value")
        want = 0 if number & 0o020 else EACCES
        stage.expect(want, "access", "x", os.W_OK, who=OTHER, label=f"{number:03o}-named-user-writes")


def remove(stage: Stage) -> None:
    """Without its list a file has its mode alone."""
    stage.make("regular", "x", 0o600, USER)
    stage.setup("setxattr", "x", ACCESS, common(6, 0, 0, 6, (NAMED_USER, 6, OTHER.uid)))
    stage.sees("x", mode=0o660)
    stage.expect(0, "access", "x", os.W_OK, who=OTHER)
    stage.expect(EACCES, "access", "x", os.W_OK, who=MEMBER)
    stage.expect(0, "removexattr", "x", ACCESS, who=USER)
    stage.expect(ENODATA, "getxattr", "x", ACCESS)
    stage.expect(EACCES, "access", "x", os.R_OK, who=OTHER, label="no-longer-EACCES")
    stage.gives([], "listxattr", "x", "system.posix", label="not-listed")


def times(stage: Stage) -> None:
    """ctime moves, nothing else."""
    stage.make("regular", "x", 0o600)
    before = stage.times("x", ".")
    stage.expect(0, "setxattr", "x", ACCESS, common(6, 0, 0, 6, (NAMED_USER, 6, OTHER.uid)))
    stage.moved(before, "x", "c")
    stage.moved(before, ".", "")
    before = stage.times("x")
    stage.expect(0, "getxattr", "x", ACCESS)
    stage.moved(before, "x", "")


def permission(stage: Stage) -> None:
    """The owner and root set lists; who may write does not."""
    value = common(6, 4, 0, 6, (NAMED_USER, 6, OTHER.uid))
    stage.make("regular", "x", 0o666, USER)
    stage.make("dir", "d", 0o777, USER)
    for who in (MEMBER, SUPPLEMENTARY, OTHER):
        stage.expect(EPERM, "setxattr", "x", ACCESS, value, who=who)
        stage.expect(EPERM, "setxattr", "d", DEFAULT, value, who=who, label=f"{who.name}-default-EPERM")
    stage.sees("x", mode=0o666)
    stage.expect(ENODATA, "getxattr", "d", DEFAULT)
    for who in (USER, LONER, ROOT):
        stage.expect(0, "setxattr", "x", ACCESS, value, who=who)
        stage.expect(0, "setxattr", "d", DEFAULT, value, who=who, label=f"{who.name}-default-success")
    for who in (OTHER, MEMBER):
        stage.gives(value, "getxattr", "x", ACCESS, who=who, label=f"{who.name}-reads")
        stage.expect(EPERM, "removexattr", "x", ACCESS, who=who)


def invalid(stage: Stage) -> None:
    """A list has each class once, a mask if it names anybody, its entries in order, and known bits."""
    stage.make("regular", "x", 0o644)
    three = ((USER_OBJ, 6), (GROUP_OBJ, 4), (EVERYBODY, 4))
    bad = {
        "no-mask": acl((USER_OBJ, 6), (NAMED_USER, 6, 7004), (GROUP_OBJ, 4), (EVERYBODY, 4)),
        "no-owner": acl((GROUP_OBJ, 4), (EVERYBODY, 4)),
        "no-group": acl((USER_OBJ, 6), (EVERYBODY, 4)),
        "no-others": acl((USER_OBJ, 6), (GROUP_OBJ, 4)),
        "two-owners": acl((USER_OBJ, 6), *three),
        "two-masks": acl((USER_OBJ, 6), (GROUP_OBJ, 4), (MASK, 6), (MASK, 4), (EVERYBODY, 4)),
        "disorder": acl((GROUP_OBJ, 4), (USER_OBJ, 6), (EVERYBODY, 4)),
        "bits": acl((USER_OBJ, 14), (GROUP_OBJ, 4), (EVERYBODY, 4)),
        "tag": acl((USER_OBJ, 6), (GROUP_OBJ, 4), (0x40, 4), (EVERYBODY, 4)),
        "length": acl(*three)[:-1],
        "short": b"\2\0",
    }
    for name, value in bad.items():
        stage.expect(EINVAL, "setxattr", "x", ACCESS, value, label=f"{name}-EINVAL")
    for version in (0, 1, 3):
        stage.expect(EOPNOTSUPP, "setxattr", "x", ACCESS, acl(*three, version=version), label=f"version-{version}")
    stage.sees("x", mode=0o644)
    stage.expect(ENODATA, "getxattr", "x", ACCESS)


def kinds(stage: Stage) -> None:
    """Everything has one but symbolic links."""
    value = common(6, 4, 0, 6, (NAMED_USER, 6, OTHER.uid))
    for kind in ("regular", "dir", "fifo", "socket", "char", "block"):
        stage.make(kind, kind, 0o600)
        stage.expect(0, "setxattr", kind, ACCESS, value, label=f"{kind}-success")
        stage.gives(value, "getxattr", kind, ACCESS, label=f"{kind}-value")
        stage.sees(kind, kind=kind, mode=0o660)
    stage.make("symlink", "symlink")
    stage.expect(EOPNOTSUPP, "setxattr", "symlink", ACCESS, value, 0, True, label="symlink-EOPNOTSUPP")


def setgid(stage: Stage) -> None:
    """Who is not in the file's group takes set-group-ID away with a list, as with chmod(2)."""
    value = common(6, 5, 0, 7, (NAMED_USER, 6, OTHER.uid))
    for who, want in ((USER, 0o2670), (JOINER, 0o2670), (LONER, 0o670), (ROOT, 0o2670)):
        path = who.name
        stage.make("regular", path, 0o2755, USER)
        stage.expect(0, "setxattr", path, ACCESS, value, who=who)
        stage.sees(path, mode=want)


def listed(stage: Stage) -> None:
    """Lists are among the attributes."""
    value = common(7, 5, 0, 7, (NAMED_USER, 6, OTHER.uid))
    stage.make("dir", "d", 0o750)
    stage.gives([], "listxattr", "d", "system.posix", label="none")
    stage.setup("setxattr", "d", DEFAULT, value)
    stage.gives([DEFAULT], "listxattr", "d", "system.posix", label="default")
    stage.setup("setxattr", "d", ACCESS, value)
    stage.gives([ACCESS, DEFAULT], "listxattr", "d", "system.posix", label="both")


def chown(stage: Stage) -> None:
    """A new owner is the owner by the list; the entries stay."""
    value = common(6, 4, 0, 6, (NAMED_USER, 2, OTHER.uid))
    stage.make("regular", "x", 0o600, USER)
    stage.setup("setxattr", "x", ACCESS, value)
    stage.expect(0, "access", "x", os.W_OK, who=OTHER, label="named-writes")
    stage.expect(EACCES, "access", "x", os.R_OK, who=OTHER, label="named-reads-not")
    stage.expect(0, "chown", "x", OTHER.uid, 7999)
    stage.gives(value, "getxattr", "x", ACCESS)
    stage.expect(0, "access", "x", os.R_OK, who=OTHER, label="owner-reads")
    stage.expect(EACCES, "access", "x", os.R_OK, who=USER, label="no-longer-owner-EACCES")


def many(stage: Stage) -> None:
    """A list of a hundred names is kept whole, and each of them counts."""
    named = [(NAMED_USER, 4, number) for number in range(6950, 7050)]
    value = common(6, 0, 0, 4, *named)
    stage.make("regular", "x", 0o600)
    stage.expect(0, "setxattr", "x", ACCESS, value)
    stage.gives(value, "getxattr", "x", ACCESS)
    for who in (USER, MEMBER, OTHER):
        stage.expect(0, "access", "x", os.R_OK, who=who, label=f"{who.name}-reads")
        stage.expect(EACCES, "access", "x", os.W_OK, who=who, label=f"{who.name}-writes-not")
