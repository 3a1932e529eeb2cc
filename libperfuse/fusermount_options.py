"""What stands behind `-o` of fusermount3: split as that program splits it, checked, and put in the terms of mount(2).

Whether a user may have an option is for the daemon to say. Never here: descriptors, sockets, the daemon.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

MS_RDONLY, MS_NOSUID, MS_NODEV = 1, 2, 4
#: name -> MS_* bit, whether the option sets it, whether an ordinary user may say it
FLAGS: dict[str, tuple[int, bool, bool]] = {
    "rw": (MS_RDONLY, False, True), "ro": (MS_RDONLY, True, True),
    "suid": (MS_NOSUID, False, False), "nosuid": (MS_NOSUID, True, True),
    "dev": (MS_NODEV, False, False), "nodev": (MS_NODEV, True, True),
    "exec": (8, False, True), "noexec": (8, True, True),
    "async": (16, False, True), "sync": (16, True, True), "dirsync": (128, True, True),
    "atime": (1024, False, True), "noatime": (1024, True, True),
    "diratime": (2048, False, True), "nodiratime": (2048, True, True),
    "relatime": (1 << 21, True, True), "norelatime": (1 << 21, False, True),
    "strictatime": (1 << 24, True, True), "nostrictatime": (1 << 24, False, True),
    "lazytime": (1 << 25, True, True), "nolazytime": (1 << 25, False, True),
}  # fmt: skip
#: options of the kernel's, handed on as they are: those that stand alone, and those with a value
SWITCHES = ("default_permissions", "allow_other")
VALUES = ("max_read", "blksize")
#: options that say nothing today
IGNORED = ("nonempty", "large_read")
#: options that the mounter fills in itself: what a caller says of them counts for nothing, as with fusermount3
OWN = ("fd", "rootmode", "user_id", "group_id")


class BadOption(ValueError):
    """An option that is refused, with the sentence to say."""


class MountOptions(NamedTuple):
    """A mount in the terms of mount(2): `flags` are MS_* bits, `data` what goes to FUSE, without a descriptor."""

    source: str
    fstype: str
    flags: int
    data: str
    auto_unmount: bool


def split(words: str) -> Iterator[tuple[str, str]]:
    r"""Each option as (as it stands, without its backslashes). A comma behind a backslash belongs to the option.

    A comma at the very end is none; an option may otherwise be empty, and is refused by who looks at it.
    """
    raw = plain = ""
    at = 0
    while at < len(words):
        each = words[at]
        if each == ",":
            yield raw, plain
            raw = plain = ""
        elif each == "\\" and at + 1 < len(words):
            at += 1
            raw += each + words[at]
            plain += words[at]
        else:
            raw += each
            plain += each
        at += 1
    if raw:
        yield raw, plain


def parse(given: list[str], root: bool, warn: Callable[[str], None]) -> MountOptions:
    """The mount that the arguments of all `-o` ask for, a later word before an earlier one.

    nosuid and nodev are set unless root says otherwise; an ordinary user's `suid` and `dev` are warned of and do
    nothing. Raises BadOption for an unknown option, and for blkdev, which is root's.
    """
    flags = MS_NOSUID | MS_NODEV
    fsname: str | None = None
    subtype: str | None = None
    kind, auto = "fuse", False
    data: list[str] = []
    for raw, plain in (pair for words in given for pair in split(words)):
        name, has_value, value = plain.partition("=")
        if raw.startswith("fsname="):
            fsname = value
        elif raw.startswith("subtype="):
            subtype = value
        elif raw == "blkdev":
            if not root:
                raise BadOption("option blkdev is privileged")
            kind = "fuseblk"
        elif raw == "auto_unmount":
            auto = True
        elif raw in FLAGS:
            bit, on, safe = FLAGS[raw]
            if not safe and not root:
                warn(f"unsafe option {raw} ignored")
            else:
                flags = flags | bit if on else flags & ~bit
        elif raw in SWITCHES or (has_value and name in VALUES):
            data.append(raw)
        elif not (raw in IGNORED or (has_value and name in OWN)):
            raise BadOption(f"unknown option '{raw}'")
    return MountOptions(
        fsname if fsname is not None else subtype or "/dev/fuse",
        kind if subtype is None else f"{kind}.{subtype}",
        flags,
        ",".join(data),
        auto,
    )
