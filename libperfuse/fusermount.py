"""perfuse-fusermount3: what programs run as fusermount3, for users without any privilege, done by a running perfused.

It has no rights of its own to give: it asks the daemon for a device, has it mounted on the mountpoint that it pins, and
passes the descriptor on to the program that called it. Never here: who may mount what (the daemon decides, on the
credentials of connect(2)), the words behind -o (`fusermount_options`), and mount(2).
"""

import errno
import fcntl
import getopt
import os
import re
import signal
import socket
import sys
from typing import NamedTuple

from libperfuse.connection import PerfuseError, ask, connect, exchange
from libperfuse.fusermount_options import BadOption, MountOptions, parse
from libperfuse.handshake import await_verdict, hello, mount_frame
from wire.control import DEVICE_NAME_PREFIX, Endpoint

#: the fusermount3 whose command line this one has: programs look for a version here
COMPATIBLE = "3.17.0"
USAGE = """\
fusermount3: [options] mountpoint
Options:
 -h                 print help
 -V                 print version
 -o opt[,opt...]    mount options
 -u                 unmount
 -q                 quiet
 -z                 lazy unmount
 --comm-fd N        the socket that takes the device, in place of _FUSE_COMMFD
 --auto-unmount     mount nothing, unmount when the other end of that socket closes
"""
#: what an endpoint is called in PERFUSE_ENDPOINT -> which to ask for, in this order. `direct` is not among them: there
#: the daemon unmounts when the process that asked ends, and that is this one.
ENDPOINTS = {
    "": (Endpoint.DEVICE, Endpoint.SOCKET), "any": (Endpoint.DEVICE, Endpoint.SOCKET),
    "device": (Endpoint.DEVICE,), "socket": (Endpoint.SOCKET,),
}  # fmt: skip


class Refused(Exception):
    """What ends the program with status 1, and the sentence it says."""


class Invocation(NamedTuple):
    """A command line that can be acted on. `comm` is the argument of --comm-fd, None without."""

    mountpoint: str
    options: list[str]
    unmount: bool = False
    quiet: bool = False
    lazy: bool = False
    auto_unmount: bool = False
    comm: str | None = None


def say(sentence: str) -> None:
    """One line on stderr, where there is one, with the name that programs look for."""
    if sys.stderr is not None:
        line = sentence.replace("\n", " ")
        sys.stderr.write(f"fusermount3: {line}\n")


def read_arguments(arguments: list[str]) -> Invocation | str:
    """What is to be done; or the text that -h or -V asks for. Raises Refused for what makes no sense."""
    long = ["unmount", "lazy", "quiet", "help", "version", "auto-unmount", "comm-fd="]
    try:
        found, rest = getopt.gnu_getopt(arguments, "hVo:uqz", long)
    except getopt.GetoptError as bad:
        raise Refused(bad.msg) from None
    options: list[str] = []
    seen = set()
    comm = None
    for name, value in found:
        if name in ("-h", "--help"):
            return USAGE
        if name in ("-V", "--version"):
            return f"fusermount3 version: {COMPATIBLE}\n"
        if name == "-o":
            options.append(value)
        elif name == "--comm-fd":
            comm = value
        seen.add(name)
    lazy, unmount = bool(seen & {"-z", "--lazy"}), bool(seen & {"-u", "--unmount"})
    if lazy and not unmount:
        raise Refused("-z can only be used with -u")
    if unmount and "--auto-unmount" in seen:
        raise Refused("-u and --auto-unmount are two things")
    if not rest:
        raise Refused("missing mountpoint argument")
    if len(rest) > 1:
        raise Refused("extra arguments after the mountpoint")
    quiet = bool(seen & {"-q", "--quiet"})
    return Invocation(rest[0], options, unmount, quiet, lazy, "--auto-unmount" in seen, comm)


def resolve(mountpoint: str) -> str:
    """The absolute path of a mountpoint whose last name is left as it is: a link there is not followed.

    Nothing looks at the mountpoint itself, which may be a filesystem that does not answer. Raises Refused.
    """
    if not mountpoint:
        raise Refused("invalid mountpoint ''")
    parent, name = os.path.split(mountpoint.rstrip("/") or "/")
    try:
        if name in ("", ".", ".."):
            return os.path.realpath(mountpoint, strict=True)
        return os.path.join(os.path.realpath(parent or ".", strict=True), name)
    except OSError as bad:
        raise Refused(f"bad mount point {mountpoint}: {bad.strerror}") from None


def pin(mountpoint: str, target: str) -> int:
    """An O_PATH descriptor of the mountpoint. Raises Refused in the words of fusermount3, which programs look for."""
    try:
        fd = os.open(target, os.O_PATH | os.O_CLOEXEC | (os.O_NOFOLLOW if os.getuid() else 0))
        os.fstat(fd)
    except OSError as bad:
        raise Refused(f"failed to access mountpoint {mountpoint}: {bad.strerror}") from None
    return fd


def open_comm(number: str) -> socket.socket:
    """The socket to the program that called, by its number. Raises Refused."""
    try:
        return socket.socket(fileno=fcntl.fcntl(int(number), fcntl.F_DUPFD_CLOEXEC, 3))
    except (ValueError, OverflowError):
        raise Refused(f"{number!r} is no file descriptor") from None
    except OSError as bad:
        raise Refused(f"file descriptor {number}, which is to take the device: {bad.strerror}") from None


def caller() -> str:
    """The name of the program that called: it is the filesystem, and is shown as such."""
    try:
        with open(f"/proc/{os.getppid()}/comm", errors="surrogateescape") as name:
            return name.read().strip() or "fusermount3"
    except OSError:
        return "fusermount3"


def open_device() -> tuple[int, socket.socket]:
    """A device of perfused's, and the socket that takes its mount frame. Raises Refused, PerfuseError."""
    wish = os.environ.get("PERFUSE_ENDPOINT", "")
    if wish not in ENDPOINTS:
        raise Refused(f"PERFUSE_ENDPOINT is {wish!r}: socket, device or any")
    for endpoint in ENDPOINTS[wish]:
        connection = connect()
        try:
            device, got = hello(connection, endpoint, caller())
        except PerfuseError as bad:
            connection.close()
            if bad.errno == errno.EOPNOTSUPP and endpoint is not ENDPOINTS[wish][-1]:
                continue
            raise
        if got is Endpoint.SOCKET:
            connection.close()
            connection = socket.socket(fileno=os.dup(device))
        return device, connection
    raise AssertionError("an endpoint is always asked for")


def inherited_device(number: str) -> tuple[int, socket.socket]:
    """The device that a program opened before it called, by its number (_FUSE_DEVFD). Raises Refused."""
    try:
        device = os.dup(int(number))
        control = socket.socket(fileno=os.dup(device))
        name = control.getpeername() if control.family == socket.AF_UNIX else b""
    except (ValueError, OverflowError, OSError):
        name = b""
    if not isinstance(name, bytes) or not name.startswith(DEVICE_NAME_PREFIX):
        raise Refused(
            f"_FUSE_DEVFD is {number}, which is no device of perfused's: only those can be mounted through it"
        )
    return device, control


def mount(mountpoint: str, target: str, options: MountOptions, comm: socket.socket | None) -> None:
    """Mount on `target`, which `mountpoint` resolves to, and hand the device to the program at the other end of `comm`;
    without one the program has it already.

    Raises Refused, PerfuseError. Where anything fails nothing has been sent, and no mount stays.
    """
    pinned = pin(mountpoint, target)
    device, control = open_device() if comm else inherited_device(os.environ["_FUSE_DEVFD"])
    try:
        frame = mount_frame(options.source, target, options.fstype, options.flags, options.data)
        exchange(control, frame, (pinned,))
        await_verdict(control)
    except PerfuseError as bad:
        raise Refused(f"mount failed: {bad.strerror}") from None
    os.close(pinned)
    if comm:
        try:
            socket.send_fds(comm, [b"\0"], [device])
        except OSError as bad:
            raise Refused(f"sending file descriptor: {bad.strerror}") from None
    control.close()
    os.close(device)


def mounts() -> list[dict[str, object]]:
    """What the daemon says of each mount of this user's, the newest last; root sees everybody's."""
    with connect() as connection:
        *rows, _ = ask(connection, {"op": "mounts"})
    return rows


def minor_on(target: str) -> int | None:
    """The minor device number of what is mounted on a path, of several the topmost; None where nothing is.

    From mountinfo: no filesystem is asked.
    """
    found = None
    with open("/proc/self/mountinfo", "rb") as lines:
        for line in lines:
            words = line.split(b" ")
            place = re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), words[4])
            if place == os.fsencode(target):
                major, minor = words[2].split(b":")
                found = int(minor) if int(major) == 0 else None
    return found


def topmost(target: str) -> dict[str, object]:
    """What the daemon says of the mount on a path. Raises Refused where that is none of its mounts for this user.

    What stands there is looked up here, as fusermount3 does: a mount that has just been taken down is known to the
    daemon until its filesystem has let go, and one that something else covers is not what the path means.
    """
    minor = minor_on(target)
    found = [each for each in mounts() if minor is not None and (each["target"], each["minor"]) == (target, minor)]
    if not found:
        raise Refused(f"entry for {target} not found among the mounts of perfused")
    return found[-1]


def watch(comm: socket.socket, mounted: dict[str, object]) -> None:
    """Wait until nobody holds the other end of `comm`; then unmount, lazily, if that very mount still stands.

    Nothing but that end stops it: all signals are blocked, and no terminal, no directory and no other descriptor is
    kept, or one of them might be what keeps the other end open.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        os.setsid()
    except OSError:
        pass
    os.chdir("/")
    null = os.open("/dev/null", os.O_RDWR)
    for each in range(3):
        os.dup2(null, each)
    os.closerange(3, comm.fileno())
    os.closerange(comm.fileno() + 1, 1 << 20)
    try:
        while comm.recv(16):
            pass
    except OSError:
        pass
    if stands(mounted):
        try:
            with connect() as connection:
                ask(connection, {"op": "umount", "number": mounted["number"], "lazy": True})
        except PerfuseError:
            if stands(mounted):
                raise


def stands(mounted: dict[str, object]) -> bool:
    """Whether a mount is still there: that very one, whatever has come to its path or number since."""
    return any(all(each[key] == mounted[key] for key in ("number", "since", "minor")) for each in mounts())


def unmount(target: str, lazy: bool) -> None:
    """Have perfused unmount what it mounted there for this user. Raises Refused."""
    number = topmost(target)["number"]
    with connect() as connection:
        try:
            ask(connection, {"op": "umount", "number": number, "lazy": lazy})
        except PerfuseError as bad:
            raise Refused(f"failed to unmount {target}: {os.strerror(bad.errno or errno.EIO)}") from None


def act(wanted: Invocation) -> None:
    """Do what the command line says. Raises Refused, BadOption, PerfuseError."""
    options = parse([] if wanted.unmount else wanted.options, os.getuid() == 0, say)
    target = resolve(wanted.mountpoint)
    if wanted.unmount:
        unmount(target, wanted.lazy)
        return
    number = wanted.comm or os.environ.get("_FUSE_COMMFD")
    inherited = wanted.comm is None and not wanted.auto_unmount and bool(os.environ.get("_FUSE_DEVFD"))
    if number is None and not inherited:
        raise Refused("old style mounting not supported: neither _FUSE_COMMFD nor --comm-fd names a socket")
    comm = open_comm(number) if number is not None and not inherited else None
    if not wanted.auto_unmount:
        mount(wanted.mountpoint, target, options, comm)
    if comm and (wanted.auto_unmount or options.auto_unmount):
        watch(comm, topmost(target))


def main(arguments: list[str] | None = None) -> int:
    """The program: its exit status, 0 or 1. Whatever is refused is one line on stderr."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    quiet = False
    try:
        wanted = read_arguments(sys.argv[1:] if arguments is None else arguments)
        if isinstance(wanted, str):
            sys.stdout.write(wanted)
            return int(wanted is USAGE)
        quiet = wanted.unmount and wanted.quiet
        act(wanted)
    except (Refused, BadOption) as bad:
        sentence = str(bad)
    except OSError as bad:
        sentence = bad.strerror or str(bad)
    else:
        return 0
    if not quiet:
        say(sentence)
    return 1


if __name__ == "__main__":
    sys.exit(main())
