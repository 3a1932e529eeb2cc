"""What the filesystem at hand offers, asked before the first case, so that what it lacks is skipped with a reason.

Only what POSIX or Linux leaves open to a filesystem or a mount is a fact; all else is an assertion.
"""

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path

from perfused import libc
from perfused.conformance.filesystem import offers
from perfused.conformance.filesystem.calls import error_name

ST_NODEV, ST_NOEXEC, ST_NOATIME, ST_NODIRATIME = 4, 8, 1024, 2048
SMALL = 64 << 20


@dataclass(frozen=True)
class Facts:
    """The defaults are those of an ordinary mount."""

    #: bytes of the longest name
    name_max: int = 255
    #: nanoseconds between two timestamps that differ
    granularity: int = 0
    #: fs.protected_hardlinks (proc(5)): only owners, and those who may read and write it, link to a file
    hardlinks_protected: bool = False
    #: a directory on another filesystem, for EXDEV
    elsewhere: str = "/dev/shm"
    #: fact -> why it is not there
    lacking: dict[str, str] = field(default_factory=dict)


def probe() -> Facts:
    """Ask about the working directory, which is empty and left so. Raises OSError where nothing can be made in it."""
    lacking: dict[str, str] = {}
    flags = os.statvfs(".").f_flag
    if flags & ST_NODEV:
        lacking["devices"] = "mounted nodev"
    if flags & ST_NOEXEC:
        lacking["exec"] = "mounted noexec"
    if flags & (ST_NOATIME | ST_NODIRATIME):
        lacking["atime"] = "mounted noatime"
    _flags_of_rename(lacking)
    _tmpfile(lacking)
    os.mkdir("d")
    if os.stat("d").st_nlink != 2:
        lacking["dirlinks"] = "directories do not count their subdirectories"
    if libc.birth_time(b"d") is None:
        lacking["btime"] = "the filesystem does not keep when a file was made"
    os.rmdir("d")
    room = os.statvfs(".")
    if not 0 < room.f_bavail * room.f_frsize <= SMALL:
        lacking["small"] = "more than 64 MiB are free"
    if not _can_mount():
        lacking["namespace"] = "no mount namespace can be made"
    offers.probe(lacking)
    elsewhere = _elsewhere()
    if not elsewhere:
        lacking["elsewhere"] = "no second filesystem to write to"
    return Facts(_name_max(), _granularity(), _hardlinks_protected(), elsewhere, lacking)


def _flags_of_rename(lacking: dict[str, str]) -> None:
    for name, flag in (("noreplace", libc.RENAME_NOREPLACE), ("exchange", libc.RENAME_EXCHANGE)):
        Path("a").touch()
        if name == "exchange":
            Path("b").touch()
        try:
            libc.renameat2(b"a", b"b", flag)
        except OSError as bad:
            if bad.errno in (errno.EINVAL, errno.ENOSYS):
                lacking[name] = f"renameat2 does not know the flag: {error_name(bad.errno)}"
        for left in os.listdir("."):
            os.unlink(left)


def _tmpfile(lacking: dict[str, str]) -> None:
    try:
        os.close(os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as bad:
        if bad.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOSYS):
            lacking["tmpfile"] = f"O_TMPFILE is not there: {error_name(bad.errno)}"


def _granularity() -> int:
    """A second where no timestamp of five files has a fraction."""
    fractions = 0
    for number in range(5):
        name = f"g{number}"
        Path(name).touch()
        fractions += os.stat(name).st_ctime_ns % 1_000_000_000
        os.unlink(name)
    return 0 if fractions else 1_000_000_000


def _name_max() -> int:
    try:
        return os.pathconf(".", "PC_NAME_MAX") or 255
    except OSError:
        return 255


def _hardlinks_protected() -> bool:
    try:
        return Path("/proc/sys/fs/protected_hardlinks").read_text().strip() == "1"
    except OSError:
        return False


def _can_mount() -> bool:
    pid = os.fork()
    if pid == 0:
        try:
            libc.unshare(libc.CLONE_NEWNS)
            libc.mount(b"none", b"/", None, libc.MS_REC | libc.MS_PRIVATE, None)
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


def _elsewhere() -> str:
    here = os.stat(".").st_dev
    for place in ("/dev/shm", "/run", "/tmp", "/var/tmp"):
        if os.path.isdir(place) and os.stat(place).st_dev != here and os.access(place, os.W_OK):
            return place
    return ""
