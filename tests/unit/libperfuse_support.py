"""A daemon for libperfuse's tests, scripted over real sockets, and the devices it hands out."""

import array
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

Script = Callable[[socket.socket], None]
Device = tuple[socket.socket, socket.socket]
FUSE_FRAME = struct.pack("=IIQQIIII", 40, 26, 7, 1, 0, 0, 0, 0)


class Daemon:
    """Listens, leads the one connection it gets through `script`, and keeps what was sent to it."""

    def __init__(self, path: Path, script: Script) -> None:
        self.trouble: list[BaseException] = []
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(path))
        self.listener.listen(1)
        self.thread = threading.Thread(target=self.serve, args=(script,))
        self.thread.start()

    def serve(self, script: Script) -> None:
        try:
            accepted, _ = self.listener.accept()
            with accepted:
                script(accepted)
        except BaseException as problem:
            self.trouble.append(problem)

    def end(self) -> None:
        """Wait for the script, and raise what went wrong in it."""
        if self.listener.fileno() >= 0:
            self.listener.shutdown(socket.SHUT_RDWR)
            self.thread.join()
            self.listener.close()
        assert self.trouble == []


Start = Callable[[Script], Daemon]


def device_pair() -> Device:
    """The daemon's end of a device, by whose name it is known, and the client's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.bind(b"\0perfused/test/" + os.urandom(8).hex().encode())
    return ours, theirs


def send(sock: socket.socket, frame: bytes, *fds: int) -> None:
    sock.sendmsg([frame], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))
