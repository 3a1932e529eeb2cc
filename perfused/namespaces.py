"""Which mount namespace a client lives in, and whether it may mount there.

Asked once, at connect(2), of the process that connected; whatever cannot be told is barred. Never here: entering one.
"""

import errno
import fcntl
import os
import select
import socket
from typing import NamedTuple

from perfused.policy import Client

SO_PEERPIDFD = 77
NS_GET_USERNS = 0xB701


class Namespace(NamedTuple):
    """A client's mount namespace: a descriptor of it (-1: it is ours, or barred), its number (0: ours), and why
    nobody may mount in it ("" where one may)."""

    fd: int
    number: int
    barred: str


OURS = Namespace(-1, 0, "")


def of_peer(sock: socket.socket, client: Client) -> Namespace:
    """The mount namespace of the process at the other end of a connection.

    An ordinary user's may not belong to a user namespace of its own: there it could take nosuid and nodev off again.
    """
    try:
        if not client.pid:
            raise ProcessLookupError(errno.ESRCH, "its process is in another pid namespace")
        fd = os.open(f"/proc/{client.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as bad:
        return Namespace(-1, -1, f"the client's mount namespace cannot be told: {bad.strerror}")
    number = os.fstat(fd).st_ino
    if not _still_there(sock):
        os.close(fd)
        return Namespace(-1, -1, "the client's mount namespace cannot be told: the process that connected has ended")
    if number == os.stat("/proc/self/ns/mnt").st_ino:
        os.close(fd)
        return OURS
    if client.uid and not _same_owner(fd):
        os.close(fd)
        return Namespace(-1, number, "the client's mount namespace belongs to another user namespace than perfused's")
    return Namespace(fd, number, "")


def _same_owner(fd: int) -> bool:
    """Whether the user namespace that owns a mount namespace is ours."""
    try:
        owner = fcntl.ioctl(fd, NS_GET_USERNS)
    except OSError:
        return False
    try:
        return os.fstat(owner).st_ino == os.stat("/proc/self/ns/user").st_ino
    finally:
        os.close(owner)


def _still_there(sock: socket.socket) -> bool:
    """Whether the process that connected lives, so that its pid is no other's by now (SO_PEERPIDFD, Linux 6.5)."""
    try:
        pidfd = sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError as bad:
        # Kernels that do not know the option cannot tell; others say ESRCH or EINVAL of a process that is gone.
        return bad.errno == errno.ENOPROTOOPT
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return not poll.poll(0)
    finally:
        os.close(pidfd)
