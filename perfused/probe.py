"""What this kernel's FUSE offers, found out by mounting once in a mount namespace of its own: asserts nothing.

INIT as the kernel sends it, device ioctls, mount options, notification codes, limits. Ends within seconds whatever the
kernel does. Never here: judging (that is conformance), and showing (cli).
"""

import errno
import fcntl
import json
import os
import select
import signal
import struct
import tempfile
import time
from typing import Any

from perfused import kernel, libc
from perfused.kernel import MountError, Options
from perfused.negotiate import refusal
from wire import codec, ioctls
from wire.flags import INIT_POLICY, InitFlag
from wire.opcodes import NOTIFICATIONS, Opcode

#: seconds for everything
PATIENCE = 5.0
LIMITS = {
    "max_pages_limit": "/proc/sys/fs/fuse/max_pages_limit",
    "default_request_timeout": "/proc/sys/fs/fuse/default_request_timeout",
    "max_request_timeout": "/proc/sys/fs/fuse/max_request_timeout",
    "max_user_bgreq": "/sys/module/fuse/parameters/max_user_bgreq",
    "max_user_congthresh": "/sys/module/fuse/parameters/max_user_congthresh",
    "allow_sys_admin_access": "/sys/module/fuse/parameters/allow_sys_admin_access",
    "enable_uring": "/sys/module/fuse/parameters/enable_uring",
    "wmem_max": "/proc/sys/net/core/wmem_max",
}
#: a payload of the right size for each notification; about inodes the kernel has never heard of
UNKNOWN_INODE = 0x7FFF_0000


def probe() -> dict[str, Any]:
    """Probe in a child process, in a mount namespace of its own.

    Returns minor, flags, ioctls, options, notifications, limits. Raises OSError naming what this process may not do.
    """
    os.close(kernel.open_device())
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(read)
        try:
            signal.alarm(int(PATIENCE))
            answer = _in_namespace()
        except OSError as bad:
            answer = {"error": bad.errno, "message": bad.strerror or str(bad)}
        except Exception as fault:
            answer = {"error": errno.EIO, "message": f"internal error: {type(fault).__name__}: {fault}"}
        with open(write, "w", encoding="utf-8") as out:
            json.dump(answer, out)
        os._exit(0)
    os.close(write)
    text = _read_all(read, PATIENCE + 1)
    os.close(read)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    if not text:
        raise MountError(errno.ETIMEDOUT, f"the kernel did not finish the probe within {PATIENCE:g} s")
    found: dict[str, Any] = json.loads(text)
    if "error" in found:
        raise MountError(found["error"], found["message"])
    return found


def _read_all(fd: int, seconds: float) -> bytes:
    """Everything up to the end of file, or up to the time."""
    parts: list[bytes] = []
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0 and select.select([fd], [], [], left)[0]:
        part = os.read(fd, 65536)
        if not part:
            return b"".join(parts)
        parts.append(part)
    return b""


def _in_namespace() -> dict[str, Any]:
    try:
        libc.unshare(libc.CLONE_NEWNS)
        libc.mount(b"none", b"/", None, libc.MS_REC | libc.MS_PRIVATE, None)
    except OSError as bad:
        raise MountError(
            bad.errno, f"a mount namespace cannot be made ({bad.strerror}); try `unshare -Urm perfusectl probe`"
        ) from None
    with tempfile.TemporaryDirectory(prefix="perfuse-probe-") as directory:
        try:
            return _probe(directory)
        finally:
            _detach(directory)


def _detach(directory: str) -> None:
    try:
        while True:
            libc.umount2(os.fsencode(directory), libc.MNT_DETACH)
    except OSError:
        pass


def _options(target: int, strings: tuple[tuple[bytes, bytes], ...] = (), switches: tuple[bytes, ...] = ()) -> Options:
    base = (
        (b"fd", b""),
        (b"rootmode", b"40000"),
        (b"user_id", b"%d" % os.getuid()),
        (b"group_id", b"%d" % os.getgid()),
    )
    return Options(b"fuse", b"perfuse-probe", (*base, *strings), switches, 0)


def _mount(directory: str, options: Options) -> int:
    """Mount once; the device."""
    device = kernel.open_device()
    target = os.open(directory, os.O_PATH | os.O_CLOEXEC)
    proc = os.open("/proc", os.O_PATH | os.O_CLOEXEC)
    try:
        context, mounted = kernel.mount(device, options)
        kernel.attach(device, options, context, mounted, target, proc)
    except BaseException:
        os.close(device)
        raise
    finally:
        os.close(target)
        os.close(proc)
    return device


def _probe(directory: str) -> dict[str, Any]:
    before = {"SYNC_INIT before mount": _ioctl_before(ioctls.FUSE_DEV_IOC_SYNC_INIT)}
    accepted = _mount_options(directory)
    device = _mount(directory, _options(-1))
    frame = _next_request(device)
    if frame is None or struct.unpack_from("=I", frame, 4)[0] != Opcode.INIT:
        raise MountError(errno.EPROTO, "the kernel's first request is not INIT")
    init = codec.init_in.unpack_from(frame[40:].ljust(codec.init_in.size, b"\0"))
    offered = int(InitFlag.joined(init.flags, init.flags2))
    _answer_init(device, frame, init.minor, offered)
    found = {
        "kernel": dict(
            zip(("sysname", "release", "machine"), (os.uname()[0], os.uname()[2], os.uname()[4]), strict=True)
        ),
        "major": init.major,
        "minor": init.minor,
        "init_in_size": len(frame) - 40,
        "max_readahead": init.max_readahead,
        "flags": {policy.name: bool(offered & flag) for flag, policy in INIT_POLICY.items()},
        "unknown_flags": [bit for bit in range(64) if offered >> bit & 1 and InitFlag(1 << bit) not in INIT_POLICY],
        "ioctls": before | _ioctls(device),
        "options": accepted,
        "notifications": _notifications(device),
        "limits": {name: _read_limit(path) for name, path in LIMITS.items()},
    }
    os.close(device)
    return found


def _next_request(device: int, seconds: float = 1.0) -> bytes | None:
    if not select.select([device], [], [], seconds)[0]:
        return None
    return os.read(device, 1 << 17)


def _answer_init(device: int, frame: bytes, minor: int, offered: int) -> None:
    """Accept the minor and PASSTHROUGH, which BACKING_OPEN needs; nothing else."""
    unique = struct.unpack_from("=Q", frame, 8)[0]
    take = int(InitFlag.INIT_EXT | InitFlag.PASSTHROUGH) & offered
    if not take & InitFlag.PASSTHROUGH:
        take = 0
    body = codec.init_out.make(
        major=7, minor=minor, max_readahead=65536, flags=take & 0xFFFF_FFFF, flags2=take >> 32, max_background=12,
        congestion_threshold=9, max_write=65536, time_gran=1, max_stack_depth=1 if take else 0,
    )  # fmt: skip
    size = codec.init_out.size if minor >= 23 else 24
    payload = codec.init_out.pack(*body)[:size]
    os.write(device, codec.out_header.pack(16 + size, 0, unique) + payload)


def _verdict(call: Any) -> str:
    """`ok`, or the name of the errno."""
    try:
        call()
    except OSError as bad:
        return errno.errorcode.get(bad.errno or 0, str(bad.errno))
    return "ok"


def _ioctl_before(request: int) -> str:
    device = kernel.open_device()
    try:
        return _verdict(lambda: fcntl.ioctl(device, request))
    finally:
        os.close(device)


def _ioctls(device: int) -> dict[str, str]:
    """Each device ioctl on a mounted connection."""
    found = {}

    def clone() -> None:
        other = kernel.open_device()
        try:
            fcntl.ioctl(other, ioctls.FUSE_DEV_IOC_CLONE, struct.pack("=I", device))
        finally:
            os.close(other)

    def backing_open() -> None:
        with tempfile.TemporaryFile() as backing:
            # A mutable argument: only then the id comes back, as the result.
            request = bytearray(codec.backing_map.pack(backing.fileno(), 0, 0))
            identity = fcntl.ioctl(device, ioctls.FUSE_DEV_IOC_BACKING_OPEN, request)
            found["BACKING_CLOSE"] = _verdict(
                lambda: fcntl.ioctl(device, ioctls.FUSE_DEV_IOC_BACKING_CLOSE, struct.pack("=I", identity))
            )

    found["CLONE"] = _verdict(clone)
    found["BACKING_OPEN"] = _verdict(backing_open)
    found.setdefault("BACKING_CLOSE", "not tried")
    found["SYNC_INIT after mount"] = _verdict(lambda: fcntl.ioctl(device, ioctls.FUSE_DEV_IOC_SYNC_INIT))
    return found


def _mount_options(directory: str) -> dict[str, str]:
    """Which mount options the kernel takes, each tried in a mount of its own."""
    tried: dict[str, Options] = {
        "(none)": _options(-1),
        "default_permissions": _options(-1, switches=(b"default_permissions",)),
        "allow_other": _options(-1, switches=(b"allow_other",)),
        "max_read=65536": _options(-1, ((b"max_read", b"65536"),)),
        "blksize=4096": _options(-1, ((b"blksize", b"4096"),)),
        "subtype=probe": _options(-1, ((b"subtype", b"probe"),)),
        "no such option": _options(-1, switches=(b"perfuse_no_such_option",)),
    }
    found = {}
    for name, options in tried.items():
        try:
            os.close(_mount(directory, options))
            found[name] = "ok"
        except OSError as bad:
            found[name] = errno.errorcode.get(bad.errno or 0, str(bad.errno))
        _detach(directory)
    return found


def _notifications(device: int) -> dict[str, str]:
    """What write(2) answers to each notification about inodes that do not exist."""
    name = b"nothing"
    payloads = {
        "POLL": codec.notify_poll_wakeup_out.pack(1),
        "INVAL_INODE": codec.notify_inval_inode_out.pack(UNKNOWN_INODE, 0, 0),
        "INVAL_ENTRY": codec.notify_inval_entry_out.pack(1, len(name), 0) + name + b"\0",
        "STORE": codec.notify_store_out.pack(UNKNOWN_INODE, 0, 0, 0),
        "RETRIEVE": codec.notify_retrieve_out.pack(1, UNKNOWN_INODE, 0, 0, 0),
        "DELETE": codec.notify_delete_out.pack(1, UNKNOWN_INODE, len(name), 0) + name + b"\0",
        "PRUNE": codec.notify_prune_out.pack(0, 0, 0),
    }
    found = {}
    for row in NOTIFICATIONS:
        body = payloads.get(row.name, b"")
        frame = codec.out_header.pack(16 + len(body), row.number, 0) + body
        found[row.name] = _verdict(lambda frame=frame: os.write(device, frame))
    found["99 (unknown)"] = _verdict(lambda: os.write(device, refusal(0, 99)))
    return found


def _read_limit(path: str) -> str | None:
    try:
        with open(path) as limit:
            return limit.read().strip()
    except OSError:
        return None
