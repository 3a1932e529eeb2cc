"""Who may mount what, and with which options: decided on credentials and descriptors, never on paths.

Pure decisions on what was read before: nothing here mounts, and nothing here is asked twice.
"""

import errno
import os
import pwd
import re
import stat
from typing import NamedTuple

from perfused import libc
from perfused.config import Policy
from perfused.kernel import KNOWN_FLAGS, MAGIC_FLAGS, MAGIC_MASK, MountError, Options

#: f_type of filesystems an ordinary user may mount over: what fusermount3 allows, by the numbers of statfs(2).
MOUNT_OVER = {
    0xEF53: "ext2, ext3, ext4", 0x58465342: "xfs", 0x9123683E: "btrfs", 0x01021994: "tmpfs", 0x794C7630: "overlayfs",
    0x65735546: "fuse", 0x6969: "nfs", 0x2FC12FC1: "zfs", 0xF2F52010: "f2fs", 0xCA451A4E: "bcachefs",
    0x858458F6: "ramfs", 0x4D44: "vfat", 0x2011BAB0: "exfat", 0x7366746E: "ntfs3", 0x5346544E: "ntfs",
    0x3153464A: "jfs", 0x52654973: "reiserfs", 0x24051905: "ubifs", 0x01161970: "gfs2", 0x7461636F: "ocfs2",
    0x00C36400: "ceph", 0xFF534D42: "cifs", 0xFE534D42: "smb2", 0x0BD00BD0: "lustre", 0x47504653: "gpfs",
    0x5346414F: "afs", 0x61756673: "aufs", 0xE0F5E1E2: "erofs", 0x73717368: "squashfs", 0x01021997: "9p",
    0xF15F: "ecryptfs", 0x3434: "nilfs2", 0x72B6: "jffs2", 0x64646178: "daxfs",
}  # fmt: skip

#: f_type of filesystems an ordinary user's backing files may be on: those that keep files. The kernel does passthrough
#: with CAP_SYS_ADMIN, which files of proc and the like take for a reason to tell more.
FUSE = 0x65735546
BACKING_ON = MOUNT_OVER.keys() - {FUSE}

#: Options of `data` that take a number, with the largest each may have.
NUMBERS = {
    "fd": 2**31 - 1,
    "rootmode": 0o177777,
    "user_id": 2**32 - 2,
    "group_id": 2**32 - 2,
    "max_read": 2**31 - 1,
    "blksize": 65536,
}
SWITCHES = ("allow_other", "default_permissions")
_SUBTYPE = re.compile(r"[A-Za-z0-9_.+:#@|-]{1,56}\Z")
_FSTYPE = re.compile(r"(?:(fuse|fuseblk)(?:\.(.+))?|perfuse\|(.+))\Z", re.DOTALL)


class Client(NamedTuple):
    """Credentials as they were at connect(2)."""

    uid: int
    gid: int
    pid: int


class Wanted(NamedTuple):
    """The options of a mount as asked for: kind is fuse or fuseblk, numbers by name, switches that are on."""

    kind: str
    subtype: str
    numbers: dict[str, int]
    switches: tuple[str, ...]


def refuse(code: int, sentence: str) -> MountError:
    """A refusal for the verdict."""
    return MountError(code, sentence)


def read_options(fstype: bytes, data: bytes, flags: int) -> Wanted:
    """Check fstype, data and MS_* flags as a client sent them. Raises MountError EINVAL or ENODEV naming the option."""
    found = _FSTYPE.match(fstype.decode("utf-8", "replace")) if fstype else _FSTYPE.match("fuse")
    if not found:
        raise refuse(errno.ENODEV, f"fstype is {fstype!r}: fuse, fuse.NAME, fuseblk or fuseblk.NAME was expected")
    kind, subtype = found[1] or "fuse", found[2] or found[3] or ""
    if flags & MAGIC_MASK == MAGIC_FLAGS:
        flags &= ~MAGIC_MASK
    unknown = flags & ~KNOWN_FLAGS
    if unknown:
        raise refuse(errno.EINVAL, f"mountflags {unknown:#x} make no sense for a new mount")
    numbers: dict[str, int] = {}
    switches: list[str] = []
    for word in data.decode("utf-8", "surrogateescape").split(","):
        name, has_value, value = word.partition("=")
        if not word:
            continue
        if name in NUMBERS:
            numbers[name] = _number(name, value)
        elif name in SWITCHES and not has_value:
            switches.append(name)
        elif name == "subtype" and has_value:
            subtype = value
        else:
            raise refuse(errno.EINVAL, f"option {_short(word)}: not a mount option of fuse")
    if subtype and not _SUBTYPE.match(subtype):
        raise refuse(errno.EINVAL, f"subtype {_short(subtype)}: at most 56 letters, digits and _.+:#@|-")
    if "blksize" in numbers and kind != "fuseblk":
        raise refuse(errno.EINVAL, "option blksize: only fuseblk has it")
    return Wanted(kind, subtype, numbers, tuple(dict.fromkeys(switches)))


def _number(name: str, value: str) -> int:
    base = 8 if name == "rootmode" else 10
    digits = "01234567" if base == 8 else "0123456789"
    if not value or len(value) > 12 or value.strip(digits):
        raise refuse(
            errno.EINVAL, f"option {name}={_short(value)}: a{'n octal' if base == 8 else ''} number was expected"
        )
    number = int(value, base)
    if number > NUMBERS[name]:
        raise refuse(errno.EINVAL, f"option {name}={value}: at most {NUMBERS[name]}")
    return number


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")


def allow(policy: Policy, client: Client, wanted: Wanted, target: int, flags: int, mine: int) -> None:
    """Decide whether `client`, who has `mine` mounts, may mount on the object that O_PATH descriptor `target` holds.

    Root may mount anything. Others must own the target and may write to it, on a filesystem of a kind that users mount
    over. Raises MountError EPERM, EACCES, ENOTDIR or EMFILE with the reason.
    """
    found = os.fstat(target)
    if not (stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)):
        raise refuse(errno.ENOTDIR, "the target is neither a directory nor a regular file")
    rootmode = wanted.numbers.get("rootmode", 0)
    if stat.S_IFMT(rootmode) and stat.S_ISDIR(rootmode) != stat.S_ISDIR(found.st_mode):
        # mount(2) says the same, whichever of the two is the directory.
        raise refuse(errno.ENOTDIR, f"rootmode={rootmode:o} is of another kind than the target")
    if client.uid == 0:
        return
    if not policy.user_mounts:
        raise refuse(errno.EPERM, "policy.user_mounts is off: only root may mount")
    if mine >= policy.mounts_per_user:
        raise refuse(
            errno.EMFILE, f"uid {client.uid} has {mine} mounts: policy.mounts_per_user is {policy.mounts_per_user}"
        )
    if wanted.kind == "fuseblk":
        raise refuse(errno.EPERM, "fuseblk takes a block device: only root may mount it")
    if found.st_uid != client.uid:
        raise refuse(errno.EPERM, f"the target belongs to uid {found.st_uid}, not to {client.uid}")
    if not found.st_mode & stat.S_IWUSR and not flags & libc.MS_RDONLY:
        raise refuse(errno.EACCES, "the target is not writable by its owner")
    kind = _filesystem_kind(target)
    if kind not in MOUNT_OVER and kind not in policy.mount_over:
        raise refuse(errno.EPERM, f"the target's filesystem (type {kind:#x}) is not one that users mount over")
    if "allow_other" in wanted.switches and not others_allowed(policy, client.uid):
        raise refuse(errno.EPERM, f"option allow_other: policy.allow_other does not name uid {client.uid}")


def allow_backing(flags: int, facts: libc.Facts | None, kind: int) -> bool:
    """Decide whether an ordinary user may back a file with one it holds open; whether only for reading.

    `flags` are those of F_GETFL, `kind` is f_type; a file on FUSE, which nobody asks about, has no facts. The kernel
    opens a backing file anew for whoever opens the file in front of it, and checks no permission then: so the
    descriptor must permit all that may follow. Raises MountError EBADF, EACCES, EINVAL, EISDIR, EPERM, ELOOP.
    """
    if facts is None or kind == FUSE:
        raise refuse(errno.ELOOP, "the backing file is on a FUSE mount, which backs others for root alone")
    if flags & os.O_PATH:
        raise refuse(errno.EBADF, "the backing file is opened with O_PATH: open it for reading, or reading and writing")
    if stat.S_ISDIR(facts.mode):
        raise refuse(errno.EISDIR, "the backing file is a directory: a regular file was expected")
    if not stat.S_ISREG(facts.mode):
        raise refuse(errno.EINVAL, "the backing file is no regular file")
    if flags & os.O_ACCMODE not in (os.O_RDONLY, os.O_RDWR):
        raise refuse(errno.EACCES, "the backing file is opened for writing alone: passthrough would let others read it")
    if kind not in BACKING_ON:
        raise refuse(errno.EPERM, f"the backing file's filesystem (type {kind:#x}) is not one that keeps users' files")
    writable = flags & os.O_ACCMODE == os.O_RDWR
    if writable and facts.attributes & libc.STATX_ATTR_APPEND:
        raise refuse(errno.EPERM, "the backing file may only be appended to, which passthrough does not keep to")
    return not writable


def _filesystem_kind(target: int) -> int:
    """f_type of the filesystem an O_PATH descriptor is on."""
    return libc.filesystem_type(target)


def others_allowed(policy: Policy, uid: int) -> bool:
    """Whether the configuration lets this user's mounts be entered by others; names and numbers, or `*`."""
    for entry in policy.allow_other:
        if entry in ("*", str(uid)):
            return True
        try:
            if not entry.isdigit() and pwd.getpwnam(entry).pw_uid == uid:
                return True
        except KeyError:
            continue
    return False


def settle_options(client: Client, wanted: Wanted, target: int, source: bytes, flags: int) -> Options:
    """The options the kernel gets: root's own, everybody else's with their ids, nosuid and nodev forced."""
    mode = stat.S_IFMT(os.fstat(target).st_mode)
    numbers = wanted.numbers
    root = client.uid == 0
    user = numbers.get("user_id", client.uid) if root else client.uid
    group = numbers.get("group_id", client.gid) if root else client.gid
    strings: list[tuple[bytes, bytes]] = [
        (b"fd", b""),
        (b"rootmode", b"%o" % mode),
        (b"user_id", b"%d" % user),
        (b"group_id", b"%d" % group),
    ]
    for name in ("max_read", "blksize"):
        if name in numbers:
            strings.append((name.encode(), b"%d" % numbers[name]))
    if wanted.subtype:
        strings.append((b"subtype", wanted.subtype.encode()))
    if not root:
        flags |= libc.MS_NOSUID | libc.MS_NODEV
    switches = tuple(each.encode() for each in wanted.switches)
    return Options(
        wanted.kind.encode(), source or wanted.subtype.encode() or b"perfused", tuple(strings), switches, flags
    )
