"""The kernel's side of a mount: opening the device, mounting on a descriptor, unmounting, mountinfo.

The only place that mounts. Every step works on descriptors, so that no path can be swapped in between. Never here: who
may mount what (policy), and what travels on the device (engine).
"""

import errno
import os
import re
import stat
from typing import NamedTuple

from perfused import libc

DEVICE = "/dev/fuse"
DEVICE_MAJOR, DEVICE_MINOR = 10, 229
MAX_PAGES_LIMIT = "/proc/sys/fs/fuse/max_pages_limit"
PAGE = 4096
#: Payload of a packet that a unix socket carries, a page for heads beside it: memory for it comes in one piece of 4 MiB
#: at most (KMALLOC_MAX_SIZE; measured on 6.18: 4,263,616 bytes with the heads), and a larger one is ENOBUFS.
LARGEST_PACKET = 4 << 20

#: how often a mount point that is moved about meanwhile is looked for anew
UNMOUNT_ATTEMPTS = 16

#: mount(2) flags and the attribute of fsmount(2) each becomes; the rest of them are options of the superblock.
ATTRIBUTES = {
    libc.MS_RDONLY: libc.MOUNT_ATTR_RDONLY,
    libc.MS_NOSUID: libc.MOUNT_ATTR_NOSUID,
    libc.MS_NODEV: libc.MOUNT_ATTR_NODEV,
    libc.MS_NOEXEC: libc.MOUNT_ATTR_NOEXEC,
    libc.MS_NOATIME: libc.MOUNT_ATTR_NOATIME,
    libc.MS_STRICTATIME: libc.MOUNT_ATTR_STRICTATIME,
    libc.MS_NODIRATIME: libc.MOUNT_ATTR_NODIRATIME,
}
SUPERBLOCK_FLAGS = {
    libc.MS_RDONLY: b"ro",
    libc.MS_SYNCHRONOUS: b"sync",
    libc.MS_DIRSYNC: b"dirsync",
    libc.MS_LAZYTIME: b"lazytime",
    libc.MS_MANDLOCK: b"mand",
}
#: What programs of the last century put into the upper half of mountflags (mount(2)).
MAGIC_FLAGS, MAGIC_MASK = 0xC0ED_0000, 0xFFFF_0000
#: Flags without a meaning of their own for a new mount.
IGNORED_FLAGS = libc.MS_SILENT | libc.MS_RELATIME
KNOWN_FLAGS = IGNORED_FLAGS
for _flag in (*ATTRIBUTES, *SUPERBLOCK_FLAGS):
    KNOWN_FLAGS |= _flag


class MountError(OSError):
    """A mount that failed: errno, and one sentence that carries the kernel's own line where there is one."""


class MountInfo(NamedTuple):
    """One line of mountinfo: ids, the superblock's device numbers, where, what."""

    mount_id: int
    major: int
    minor: int
    target: str
    fstype: str
    source: str
    #: never used twice, where the kernel has such ids (6.8); 0 otherwise
    unique: int = 0


class Options(NamedTuple):
    """What the kernel is told of a mount beside its device; `strings` and `switches` in the order they are set."""

    kind: bytes
    source: bytes
    strings: tuple[tuple[bytes, bytes], ...]
    switches: tuple[bytes, ...]
    flags: int


def open_device(path: str = DEVICE) -> int:
    """Open /dev/fuse, read and write, close-on-exec. Raises MountError saying what is missing."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as bad:
        hints = {
            errno.ENOENT: "the kernel has no FUSE, or its module is not loaded (modprobe fuse)",
            errno.ENODEV: "the kernel has no FUSE driver behind it",
            errno.ENXIO: "the kernel has no FUSE driver behind it",
            errno.EACCES: "this process may not open it",
            errno.EPERM: "this process may not open it (a device cgroup or namespace forbids it)",
        }
        hint = hints.get(bad.errno or 0, "")
        raise MountError(bad.errno, f"{path}: {bad.strerror}{': ' + hint if hint else ''}") from None
    if not is_device(fd):
        os.close(fd)
        raise MountError(
            errno.ENODEV, f"{path} is not the FUSE device (character device {DEVICE_MAJOR}:{DEVICE_MINOR})"
        )
    return fd


def is_device(fd: int) -> bool:
    """Whether a descriptor is of the FUSE device."""
    found = os.fstat(fd)
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == os.makedev(DEVICE_MAJOR, DEVICE_MINOR)


def max_pages() -> int:
    """Pages of the kernel's largest READ or WRITE: /proc/sys/fs/fuse/max_pages_limit, since Linux 6.13; 256 before."""
    try:
        with open(MAX_PAGES_LIMIT) as limit:
            return int(limit.read())
    except (OSError, ValueError):
        return 256


def largest_frame() -> int:
    """Bytes of the largest frame that a socket carries: as many pages as the kernel's largest request has, and a page
    for its heads; but no more than the kernel can keep a packet of (`LARGEST_PACKET`)."""
    return (min(max_pages(), LARGEST_PACKET // PAGE) + 1) * PAGE


def mount(device: int, options: Options) -> tuple[int, int]:
    """Make a FUSE superblock on `device`: (filesystem context, mount that stands nowhere yet), or (-1, -1) where the
    kernel has no fsopen(2) and `attach` will call mount(2).

    Raises MountError with the kernel's own line.
    """
    try:
        context = libc.fsopen(options.kind)
    except OSError as bad:
        if bad.errno == errno.ENOSYS:
            return -1, -1
        raise MountError(bad.errno, f"fsopen {options.kind.decode()}: {bad.strerror}") from None
    try:
        step = "source"
        if options.source:
            libc.fsconfig_string(context, b"source", options.source)
        for key, value in options.strings:
            step = key.decode()
            libc.fsconfig_string(context, key, value if key != b"fd" else b"%d" % device)
        switches = [name for flag, name in SUPERBLOCK_FLAGS.items() if options.flags & flag]
        for switch in (*options.switches, *switches):
            step = switch.decode()
            libc.fsconfig_flag(context, switch)
        step = "the superblock"
        libc.fsconfig_create(context)
        attributes = 0
        for flag, attribute in ATTRIBUTES.items():
            if options.flags & flag:
                attributes |= attribute
        step = "the mount"
        return context, libc.fsmount(context, attributes)
    except OSError as bad:
        said = _kernel_log(context)
        os.close(context)
        raise MountError(
            bad.errno, f"the kernel refused {step}: {bad.strerror}{' (' + said + ')' if said else ''}"
        ) from None


def attach(device: int, options: Options, context: int, mounted: int, target: int, proc: int) -> MountInfo:
    """Put the mount on the directory or file that `target`, an O_PATH descriptor, holds, and say what stands there.

    Raises MountError. Closes `context` and `mounted`. `proc` is a descriptor of our own /proc.
    """
    try:
        if mounted < 0:
            _classic_mount(device, options, target)
            return find_target(os.readlink(f"self/fd/{target}", dir_fd=proc), proc)
        mount_id = mount_id_of(mounted, proc)
        try:
            libc.move_mount(mounted, target)
        except OSError as bad:
            said = _kernel_log(context)
            raise MountError(
                bad.errno, f"the mount could not be attached: {bad.strerror}{said and ' (' + said + ')'}"
            ) from None
        line = mount_by_id(mount_id, proc)
        if line is None:
            raise MountError(errno.EIO, "the mount was attached and is gone again")
        return line._replace(unique=libc.unique_mount_id(mount_id, line.minor))
    finally:
        for fd in (context, mounted):
            if fd >= 0:
                os.close(fd)


def _classic_mount(device: int, options: Options, target: int) -> None:
    pairs = [
        b"%s=%s" % (key, value if key != b"fd" else b"%d" % device)
        for key, value in options.strings
        if key != b"subtype"
    ]
    subtypes = [value for key, value in options.strings if key == b"subtype"]
    kind = b".".join([options.kind, *subtypes])
    data = b",".join([*pairs, *options.switches])
    try:
        libc.mount(options.source or options.kind, b"/proc/self/fd/%d" % target, kind, options.flags, data)
    except OSError as bad:
        raise MountError(bad.errno, f"mount: {bad.strerror}") from None


def _kernel_log(context: int) -> str:
    """The messages the kernel left on a filesystem context; their first two bytes are a class and a space."""
    lines = []
    for _ in range(16):
        try:
            line = os.read(context, 1024)
        except OSError:
            break
        lines.append(line[2:].decode(errors="replace").strip())
    return "; ".join(lines)


def mount_id_of(fd: int, proc: int) -> int:
    """The id in mountinfo of the mount that a descriptor is on."""
    with open(os.open(f"self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)) as info:
        for line in info:
            if line.startswith("mnt_id:"):
                return int(line.split()[1])
    raise MountError(errno.ENOSYS, "/proc/self/fdinfo names no mnt_id")


_ESCAPE = re.compile(r"\\([0-7]{3})")


def _plain(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), text)


def mounts(proc: int | None = None) -> list[MountInfo]:
    """All mounts of this process's mount namespace; no filesystem is asked anything.

    `proc` is a descriptor of a /proc to be trusted, where the one at /proc may be somebody else's.
    """
    return [_parse_mountinfo(line) for line in _mountinfo(proc)]


def mount_by_id(mount_id: int, proc: int | None = None) -> MountInfo | None:
    """The mount of this id in mountinfo, None where there is none; `proc` as for `mounts`, which costs more."""
    start = f"{mount_id} "
    return next((_parse_mountinfo(line) for line in _mountinfo(proc) if line.startswith(start)), None)


def _mountinfo(proc: int | None) -> list[str]:
    fd = os.open("self/mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc) if proc is not None else -1
    with open(fd if proc is not None else "/proc/self/mountinfo", errors="surrogateescape") as lines:
        return lines.readlines()


def _parse_mountinfo(line: str) -> MountInfo:
    left, _, right = line.rstrip("\n").partition(" - ")
    words, rest = left.split(" "), right.split(" ")
    major, minor = words[2].split(":")
    return MountInfo(int(words[0]), int(major), int(minor), _plain(words[4]), rest[0], _plain(rest[1]))


def find_target(target: str, proc: int | None = None) -> MountInfo:
    """The topmost mount on a path. Raises MountError ENOENT where none stands there."""
    for line in reversed(mounts(proc)):
        if line.target == target:
            return line
    raise MountError(errno.ENOENT, f"nothing is mounted on {target}")


def unmount(mount_id: int, minor: int, unique: int, flags: int, proc: int) -> bool:
    """Unmount our mount, wherever it stands by now; False where it stands nowhere any more.

    Opens the parent of where mountinfo has it, and unmounts its entry there only if that entry is our mount: whoever
    owns a directory on the way may swap it for a link meanwhile, to no avail. Raises OSError (EBUSY where it is in use,
    or something stands on top of it).
    """
    problem = OSError(errno.EBUSY, os.strerror(errno.EBUSY))
    for _ in range(UNMOUNT_ATTEMPTS):
        line = find_mount(mount_id, minor, unique, proc)
        if line is None:
            return False
        parent, _, name = line.target.rpartition("/")
        try:
            fd = os.open(parent or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as bad:
            problem = bad
            continue
        try:
            if libc.mount_id_at(fd, os.fsencode(name)) != mount_id:
                continue
            os.fchdir(fd)
            libc.umount2(os.fsencode(name), flags | libc.UMOUNT_NOFOLLOW)
            return True
        except FileNotFoundError as bad:
            problem = bad
        finally:
            os.close(fd)
            os.chdir("/")
    raise problem


def find_mount(mount_id: int, minor: int, unique: int, proc: int | None = None) -> MountInfo | None:
    """The line of one of our mounts, by its ids and its superblock's minor number; None where it is gone.

    The kernel gives an id of mountinfo and a minor number to the next mount as soon as they are free; `unique` (0 where
    it is not known) it never gives again.
    """
    if unique and not libc.mount_stands(unique):
        return None
    line = mount_by_id(mount_id, proc)
    return line if line is not None and (line.major, line.minor) == (0, minor) else None
