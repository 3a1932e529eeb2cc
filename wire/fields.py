"""How single fields read to people: flags by name, modes in octal, times in seconds, names escaped.

What never lives here: frames as a whole (``render``), and any judgement of what a value means for the kernel.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from enum import KEEP, IntFlag
from typing import Any

from wire import flags
from wire.flags import Fattr
from wire.init_policy import InitFlag


class OpenMode(IntFlag, boundary=KEEP):
    """open(2)'s flags above the access mode, with the numbers most Linux machines share (asm-generic)."""

    O_CREAT = 0o100
    O_EXCL = 0o200
    O_NOCTTY = 0o400
    O_TRUNC = 0o1000
    O_APPEND = 0o2000
    O_NONBLOCK = 0o4000
    O_DSYNC = 0o10000
    FASYNC = 0o20000
    O_DIRECT = 0o40000
    O_LARGEFILE = 0o100000
    O_DIRECTORY = 0o200000
    O_NOFOLLOW = 0o400000
    O_NOATIME = 0o1000000
    O_CLOEXEC = 0o2000000
    O_SYNC = 0o4000000
    O_PATH = 0o10000000


_ACCESS_MODES = ("O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE")

FLAG_FIELDS: dict[tuple[str, str], type[IntFlag]] = {
    ("setattr_in", "valid"): flags.Fattr,
    ("getattr_in", "getattr_flags"): flags.GetattrFlag,
    ("statx_in", "getattr_flags"): flags.GetattrFlag,
    ("open_in", "open_flags"): flags.OpenInFlag,
    ("create_in", "open_flags"): flags.OpenInFlag,
    ("open_out", "open_flags"): flags.OpenFlag,
    ("release_in", "release_flags"): flags.ReleaseFlag,
    ("read_in", "read_flags"): flags.ReadFlag,
    ("write_in", "write_flags"): flags.WriteFlag,
    ("lk_in", "lk_flags"): flags.LkFlag,
    ("fsync_in", "fsync_flags"): flags.FsyncFlag,
    ("setxattr_in", "setxattr_flags"): flags.SetxattrFlag,
    ("poll_in", "flags"): flags.PollFlag,
    ("ioctl_in", "flags"): flags.IoctlFlag,
    ("ioctl_out", "flags"): flags.IoctlFlag,
    ("access_in", "mask"): flags.AccessMask,
    ("attr", "flags"): flags.AttrFlag,
    ("notify_inval_entry_out", "flags"): flags.EntryFlag,
    ("setupmapping_in", "flags"): flags.SetupmappingFlag,
    ("cuse_init_in", "flags"): flags.CuseFlag,
    ("cuse_init_out", "flags"): flags.CuseFlag,
    ("init_in", "flags"): InitFlag,
    ("init_out", "flags"): InitFlag,
}
_OPEN_MODES = {("open_in", "flags"), ("create_in", "flags"), ("release_in", "flags"), ("read_in", "flags")}
_OPEN_MODES |= {("write_in", "flags")}
_OCTAL = {"mode", "umask"}
_SILENT = ("padding", "dummy", "unused", "reserved", "spare")
_SHOWN_AT_ZERO = {"offset", "size", "off", "len", "nodeid"}
_FATTR_OF = {"mode": Fattr.MODE, "uid": Fattr.UID, "gid": Fattr.GID, "size": Fattr.SIZE}
_ERRNO_NAMES = {11: "EAGAIN", 35: "EDEADLK", 95: "EOPNOTSUPP"}


def error_name(error: int) -> str:
    """A reply's negative ``error`` by name: ``-2`` gives ``"ENOENT"``, ``-511`` gives ``"errno 511"``."""
    return _ERRNO_NAMES.get(-error) or errno.errorcode.get(-error, f"errno {-error}")


def quoted(name: bytes) -> str:
    """A name in double quotes; bytes that are not printable UTF-8 as ``\\xff``, quotes and backslashes escaped."""
    shown = []
    for char in name.decode("utf-8", "surrogateescape"):
        if char in '"\\':
            shown.append("\\" + char)
        elif char.isprintable():
            shown.append(char)
        else:
            shown += [f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape")]
    return '"' + "".join(shown) + '"'


def flag_names(kind: type[IntFlag], value: int) -> list[str]:
    """The names of the bits in ``value``, lowest first; unknown bits as one hexadecimal number at the end."""
    names, rest = [], value
    for member in kind:
        if value & member.value:
            names.append(member.name or "")
            rest &= ~member.value
    return names + ([f"{rest:#x}"] if rest else [])


def open_mode_names(value: int) -> list[str]:
    """``flags`` of open(2) by name, the access mode first."""
    return [_ACCESS_MODES[value & 3], *flag_names(OpenMode, value & ~3)]


def seconds(whole: int, nsec: int) -> str:
    """``1, 500000000`` gives ``"1.5"``; exact, whatever the size of ``whole``."""
    text = f"{whole}.{nsec:09d}".rstrip("0")
    return text + "0" if text.endswith(".") else text


def names_of(struct: str, field: str, value: int) -> list[str] | None:
    """The flag names in a field, or None for a field that holds no flags."""
    kind = FLAG_FIELDS.get((struct, field))
    if kind is not None:
        return flag_names(kind, value)
    return open_mode_names(value) if (struct, field) in _OPEN_MODES else None


def _text(struct: str, field: str, value: int) -> str:
    names = names_of(struct, field, value)
    if names is not None:
        return "|".join(names) or "0"
    return f"0{value:o}" if field in _OCTAL else str(value)


def _nested(value: tuple[Any, ...]) -> str:
    name = type(value).__name__
    return {"FileLock": "file_lock", "SxTime": "sx_time"}.get(name, name.lower())


def _shown_at_zero(struct: str, field: str, fields: dict[str, Any]) -> bool:
    if struct == "setattr_in":
        return bool(fields["valid"] & _FATTR_OF.get(field, 0))
    return field in _SHOWN_AT_ZERO


def pairs(struct: str, head: Any) -> Iterator[tuple[str, str]]:
    """``(field, text)`` for a line: padding and zeros left out, nanoseconds joined to their seconds, nests opened.

    ``head`` is the NamedTuple of ``struct``; sizes, offsets and nodeids are shown even where they are zero.
    """
    fields: dict[str, Any] = head._asdict()
    for field, value in fields.items():
        nsec = fields.get(field + "_nsec", fields.get(field + "nsec"))
        if field.startswith(_SILENT) or isinstance(value, bytes):
            continue
        if isinstance(value, tuple):
            if type(value).__name__ == "SxTime":
                yield field, seconds(value[0], value[1])
            else:
                yield from pairs(_nested(value), value)
        elif nsec is not None:
            if value or nsec:
                yield field, seconds(value, nsec) + ("s" if field.endswith("_valid") else "")
        elif field.endswith("nsec") or (field == "flags2" and struct in ("init_in", "init_out")):
            continue
        elif struct in ("init_in", "init_out") and field == "flags":
            yield field, "|".join(flag_names(InitFlag, InitFlag.joined(value, fields["flags2"]).value)) or "0"
        elif value or _shown_at_zero(struct, field, fields):
            yield field, _text(struct, field, value)


def entry_pairs(entry: Any) -> Iterator[tuple[str, str]]:
    """What a line says of an ``entry_out`` or ``attr_out``: node, mode, size and validity."""
    if hasattr(entry, "nodeid"):
        yield "nodeid", str(entry.nodeid)
        if entry.generation:
            yield "generation", str(entry.generation)
    if entry.attr.mode:
        yield "mode", f"0{entry.attr.mode:o}"
        yield "size", str(entry.attr.size)
    attr_valid = seconds(entry.attr_valid, entry.attr_valid_nsec)
    if hasattr(entry, "entry_valid"):
        entry_valid = seconds(entry.entry_valid, entry.entry_valid_nsec)
        yield "entry_valid", entry_valid + "s"
        if attr_valid == entry_valid:
            return
    yield "attr_valid", attr_valid + "s"


def plain(value: Any) -> Any:
    """A NamedTuple as a dict, bytes as hexadecimal text, anything else as it is: fit for JSON."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {field: plain(item) for field, item in value._asdict().items()}
    return value.hex() if isinstance(value, bytes) else value
