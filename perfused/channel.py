"""Packets and the descriptors beside them; and the messages between the daemon's own processes, one JSON object each.

Only the daemon's processes hold the sockets of messages, so a bad one is a bug here. Never here: what they mean.
"""

import array
import json
import socket
from typing import Any

PACKET = 65_536
DESCRIPTORS = 4
SO_PASSRIGHTS = 83


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends, close-on-exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(sock: socket.socket, message: dict[str, Any], fds: tuple[int, ...] = (), flags: int = 0) -> bool:
    """Send one message; False where the other process is gone, or, with MSG_DONTWAIT, has too much to read."""
    packet = json.dumps(message, default=str, separators=(",", ":")).encode()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    try:
        sock.sendmsg([packet], rights, flags | socket.MSG_NOSIGNAL)
    except OSError:
        return False
    return True


def receive(sock: socket.socket, flags: int = 0) -> tuple[dict[str, Any] | None, list[int]]:
    """The next message and its descriptors (the caller's to close); None at the end of file.

    Raises BlockingIOError where the socket would block.
    """
    packet, fds = receive_packet(sock, flags)
    return (json.loads(packet) if packet else None), fds


def peek(sock: socket.socket) -> tuple[bytes, bool]:
    """The next packet, left where it is, and whether descriptors are attached to it; none of them comes into this
    process, where closing one may wait for whatever it is of. b"" as for `receive_packet`. Raises BlockingIOError."""
    try:
        packet, _, notes, _ = sock.recvmsg(PACKET + 1, 0, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        raise
    except OSError:
        return b"", False
    return packet, bool(notes & socket.MSG_CTRUNC)


def receive_packet(sock: socket.socket, flags: int = 0) -> tuple[bytes, list[int]]:
    """One packet of at most 64 KiB and the descriptors beside it, close-on-exec; b"" at the end of file or on a broken
    connection. Raises BlockingIOError."""
    space = socket.CMSG_SPACE(DESCRIPTORS * array.array("i").itemsize)
    try:
        packet, ancillary, _, _ = sock.recvmsg(PACKET + 1, space, flags | socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        raise
    except OSError:
        return b"", []
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return packet, list(fds)


def bar_rights(sock: socket.socket, barred: bool = True) -> bool:
    """Have the kernel refuse descriptors sent to a socket (SO_PASSRIGHTS, Linux 6.16); False where it cannot."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0 if barred else 1)
    except OSError:
        return False
    return True
