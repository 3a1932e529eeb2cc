"""A connection to perfused: finding it, starting a private one where none listens, one packet out, one packet in.

Never here: what the frames say (wire.control), and what a mount is.
"""

import array
import errno
import os
import socket
import sys

from wire import control
from wire.control import Answer, Message
from wire.errors import WireError

#: seconds a private daemon may take to start
START_PATIENCE = 10.0


class PerfuseError(OSError):
    """What perfused, or the way to it, refused: errno and a sentence."""


def socket_path() -> str:
    """Where the daemon listens: PERFUSED_SOCKET, or the default."""
    return os.environ.get("PERFUSED_SOCKET") or control.DEFAULT_SOCKET


def connect(path: str | None = None) -> socket.socket:
    """Connect to a running daemon. Raises PerfuseError; ENOENT or ECONNREFUSED where none listens."""
    path = path or socket_path()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        sock.connect(path)
    except OSError as bad:
        sock.close()
        # A path too long for a socket has no errno: Python itself refuses it.
        code = bad.errno or errno.ENAMETOOLONG
        raise PerfuseError(code, f"{path}: {bad.strerror or bad}: no perfused to be reached there") from None
    return sock


def daemon_program() -> str:
    """The program of a private daemon: PERFUSED, perfused on the PATH, or the one beside this Python."""
    import shutil

    beside = os.path.join(os.path.dirname(sys.executable), "perfused")
    found = os.environ.get("PERFUSED") or shutil.which("perfused") or (beside if os.path.exists(beside) else "")
    if not found:
        raise PerfuseError(errno.ENOENT, "perfused: not on the PATH, and PERFUSED names none")
    return found


def start_private() -> socket.socket:
    """Start a daemon for this process alone, `perfused -i FD`, and return the connection to it. Raises PerfuseError."""
    import subprocess

    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [daemon_program(), "-i", str(theirs.fileno())]
    try:
        # The daemon detaches itself and its first process ends at once, so no child is left to this one.
        started = subprocess.Popen(command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL)
    except OSError as bad:
        mine.close()
        raise PerfuseError(bad.errno, f"{command[0]}: {bad.strerror}") from None
    finally:
        theirs.close()
    try:
        status = started.wait(timeout=START_PATIENCE)
    except subprocess.TimeoutExpired:
        started.kill()
        started.wait()
        mine.close()
        raise PerfuseError(errno.ETIMEDOUT, f"{command[0]} did not start within {START_PATIENCE:g} s") from None
    if status:
        mine.close()
        raise PerfuseError(errno.ECONNREFUSED, f"{command[0]} ended with status {status}")
    return mine


def connect_or_start() -> socket.socket:
    """Connect to the daemon, or to a private one where none listens and PERFUSE_NO_PRIVATE is not set."""
    try:
        return connect()
    except PerfuseError as bad:
        if bad.errno not in (errno.ENOENT, errno.ECONNREFUSED) or _no_private():
            raise
    return start_private()


def _no_private() -> bool:
    return os.environ.get("PERFUSE_NO_PRIVATE", "") not in ("", "0")


def exchange(sock: socket.socket, frame: bytes, fds: tuple[int, ...] = ()) -> None:
    """Send one frame and descriptors. Raises PerfuseError where the daemon is gone."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    try:
        sock.sendmsg([frame], rights, socket.MSG_NOSIGNAL)
    except OSError as bad:
        raise PerfuseError(errno.ECONNRESET, f"perfused is gone: {bad.strerror}") from None


def receive(sock: socket.socket, flags: int = 0) -> tuple[Message | None, list[int]]:
    """The next frame and its descriptors, close-on-exec; None at the end. Raises PerfuseError for a bad frame."""
    fds = array.array("i")
    space = socket.CMSG_SPACE(4 * fds.itemsize)
    try:
        packet, ancillary, _, _ = sock.recvmsg(control.MAX_FRAME, space, flags | socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        raise
    except OSError as bad:
        raise PerfuseError(errno.ECONNRESET, f"perfused is gone: {bad.strerror}") from None
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    if not packet:
        return None, list(fds)
    try:
        return control.parse(packet), list(fds)
    except WireError as bad:
        for each in fds:
            os.close(each)
        raise PerfuseError(errno.EPROTO, f"perfused sent a bad frame: {bad}") from None


def ask(sock: socket.socket, body: dict[str, object]) -> list[dict[str, object]]:
    """Send a REQUEST and gather all frames of its ANSWER. Raises PerfuseError with the daemon's errno and sentence."""
    exchange(sock, control.build_request(body))
    found = []
    while True:
        message, fds = receive(sock)
        for each in fds:
            os.close(each)
        if message is None:
            raise PerfuseError(errno.ECONNRESET, "perfused closed the connection before it answered")
        if not isinstance(message, Answer):
            raise PerfuseError(errno.EPROTO, f"perfused answered with {type(message).__name__.upper()}")
        if message.error:
            raise PerfuseError(-message.error, str(message.body.get("message", os.strerror(-message.error))))
        found.append(message.body)
        if not message.more:
            return found
