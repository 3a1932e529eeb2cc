"""The client's half of the handshake: HELLO for a device, MOUNT for a mount.

Never here: finding the daemon (`connection`), and what a device is used for.
"""

import errno
import os
import select
import socket

from libperfuse.connection import PerfuseError, exchange, receive
from wire import control
from wire.control import Endpoint, Verdict, Welcome
from wire.errors import WireError


def hello(connection: socket.socket, endpoint: Endpoint, program: str) -> tuple[int, Endpoint]:
    """Ask for a device for `program`: its descriptor, close-on-exec, and which endpoint it is. Raises PerfuseError."""
    exchange(connection, control.build_hello(endpoint, os.fsencode(program)[: control.LIMITS["name"]]))
    message, fds = receive(connection)
    if isinstance(message, Welcome) and not message.error and len(fds) == 1:
        return fds[0], message.endpoint
    for each in fds:
        os.close(each)
    if isinstance(message, Welcome) and message.error:
        raise PerfuseError(-message.error, message.message or os.strerror(-message.error))
    if isinstance(message, Verdict) and message.error:
        raise PerfuseError(-message.error, message.message)
    raise PerfuseError(errno.EPROTO, "perfused did not answer HELLO with a device")


def mount_frame(source: str, target: str, fstype: str, flags: int, data: str) -> bytes:
    """A MOUNT frame with the arguments of mount(2). Raises PerfuseError ENAMETOOLONG or E2BIG naming the field."""
    try:
        return control.build_mount(
            os.fsencode(source), os.fsencode(target), os.fsencode(fstype), flags, os.fsencode(data)
        )
    except WireError as bad:
        raise PerfuseError(errno.ENAMETOOLONG if bad.field == "target" else errno.E2BIG, str(bad)) from None


def await_verdict(connection: socket.socket) -> None:
    """Wait for VERDICT; a FUSE frame in its place means that the device is mounted already, and is left where it is.

    Raises PerfuseError with the verdict's errno and sentence.
    """
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    while True:
        poll.poll()
        try:
            head = connection.recv(16, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            continue
        except OSError as bad:
            raise PerfuseError(errno.ECONNRESET, f"perfused is gone: {bad.strerror}") from None
        break
    if head and not control.is_control(head):
        raise PerfuseError(errno.EBUSY, "this descriptor is mounted already")
    message, fds = receive(connection)
    for each in fds:
        os.close(each)
    if message is None:
        raise PerfuseError(errno.ECONNRESET, "perfused closed the device before it had mounted it")
    if not isinstance(message, Verdict):
        raise PerfuseError(errno.EPROTO, f"perfused answered MOUNT with {type(message).__name__.upper()}")
    if message.error:
        raise PerfuseError(-message.error, message.message or os.strerror(-message.error))
