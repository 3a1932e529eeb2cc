"""Which system calls are stopped, on which machine: the tables and the BPF program made of them.

A filter sees numbers and never memory, so what it stops is looked at again by the tracer. Never here: installing it.
"""

import struct
from typing import NamedTuple

from wire import ioctls

ALLOW, STOP, ERRNO = 0x7FFF_0000, 0x7FC0_0000, 0x0005_0000
_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_NR, _ARCH, _ARGS = 0, 4, 16
_X32 = 0x4000_0000
_EINVAL = 22

#: Of open's flags: access mode, O_CREAT, O_TRUNC, O_APPEND. A device is opened O_RDWR and with none of the others, so
#: that all other opens run at full speed. The same numbers on all machines below.
OPEN_MASK, OPEN_WANTED = 0o3 | 0o100 | 0o1000 | 0o2000, 0o2

STOPPED_IOCTLS = tuple(sorted(ioctls.NAMES))


class Machine(NamedTuple):
    """One calling convention: its AUDIT_ARCH number, its name, and the numbers of the calls that we know."""

    arch: int
    name: str
    numbers: dict[str, int]


_NEW = {"move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "openat2": 437}
_GENERIC = {"openat": 56, "mount": 40, "umount2": 39, "ioctl": 29, "vmsplice": 75, **_NEW}

X86_64 = Machine(
    0xC000_003E,
    "x86_64",
    {"open": 2, "openat": 257, "mount": 165, "umount2": 166, "ioctl": 16, "vmsplice": 278, **_NEW},
)
#: x86_64 with pointers of 32 bits: the same architecture to seccomp, its numbers have bit 30 set
X32 = Machine(
    X86_64.arch,
    "x32",
    {name: _X32 | {"ioctl": 514, "vmsplice": 532}.get(name, number) for name, number in X86_64.numbers.items()},
)
I386 = Machine(
    0x4000_0003,
    "i386",
    {"open": 5, "openat": 295, "mount": 21, "umount": 22, "umount2": 52, "ioctl": 54, "vmsplice": 316, **_NEW},
)
AARCH64 = Machine(0xC000_00B7, "aarch64", _GENERIC)
ARM = Machine(
    0x4000_0028,
    "arm",
    {"open": 5, "openat": 322, "mount": 21, "umount2": 52, "ioctl": 54, "vmsplice": 343, **_NEW},
)
RISCV64 = Machine(0xC000_00F3, "riscv64", _GENERIC)
LOONGARCH64 = Machine(0xC000_0102, "loongarch64", _GENERIC)

#: uname -m -> the conventions a process may use there
MACHINES: dict[str, tuple[Machine, ...]] = {
    "x86_64": (X86_64, X32, I386),
    "aarch64": (AARCH64, ARM),
    "riscv64": (RISCV64,),
    "loongarch64": (LOONGARCH64,),
}


def _instruction(code: int, k: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, k)


def _arg(index: int) -> int:
    """Offset of the low half of an argument: all machines here are little-endian."""
    return _ARGS + 8 * index


def _rule(name: str, number: int, whole_frames: bool) -> bytes:
    """Leave by RETURN if this is the call with that number, and fall through to the next rule if it is not."""
    stop, allow = _instruction(_RETURN, STOP), _instruction(_RETURN, ALLOW)
    if name in ("open", "openat"):
        body = [
            _instruction(_LOAD, _arg(1 if name == "open" else 2)),
            _instruction(_AND, OPEN_MASK),
            _instruction(_EQUAL, OPEN_WANTED, 0, 1),
            stop,
            allow,
        ]
    elif name == "ioctl":
        body = [_instruction(_LOAD, _arg(1))]
        for at, each in enumerate(STOPPED_IOCTLS):
            body.append(_instruction(_EQUAL, each, len(STOPPED_IOCTLS) - at))
        body += [allow, stop]
    elif name == "vmsplice":
        body = [_instruction(_RETURN, ERRNO | _EINVAL) if whole_frames else allow]
    else:
        body = [stop]
    return _instruction(_EQUAL, number, 0, len(body)) + b"".join(body)


def spoken(machine: str, x32: bool) -> tuple[Machine, ...]:
    """The conventions of a machine; a kernel without x32 answers its calls with ENOSYS, which is left to it."""
    return tuple(each for each in MACHINES[machine] if x32 or each is not X32)


def program(machine: str, whole_frames: bool, x32: bool = False) -> bytes:
    """The filter for a machine (`uname -m`): instructions of 8 bytes (linux/filter.h, struct sock_filter).

    `whole_frames`: vmsplice(2) fails with EINVAL, so that libfuse writes its replies whole, as a socket needs them.
    Raises KeyError for a machine that is not in MACHINES.
    """
    rules: dict[int, bytes] = {}
    for each in spoken(machine, x32):
        made = b"".join(_rule(name, number, whole_frames) for name, number in each.numbers.items())
        rules[each.arch] = rules.get(each.arch, b"") + made
    out = b""
    for arch, made in rules.items():
        body = _instruction(_LOAD, _NR) + made + _instruction(_RETURN, ALLOW)
        out += _instruction(_LOAD, _ARCH) + _instruction(_EQUAL, arch, 0, len(body) // 8) + body
    return out + _instruction(_RETURN, ALLOW)


def names_by_number(machine: str) -> dict[tuple[int, int], str]:
    """(AUDIT_ARCH, number) -> name of every call that the filter stops on a machine."""
    return {(each.arch, number): name for each in MACHINES[machine] for name, number in each.numbers.items()}
