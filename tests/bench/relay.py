"""The floor of a relay in Python: `relay.py MOUNTPOINT SERVER...`, as relay.c, two threads that look at no frame."""

import errno
import os
import socket
import subprocess
import sys
import threading
from io import FileIO

from perfused import libc

FRAME, ROOM = (1 << 20) + 8192, 4 << 20
SO_SNDBUFFORCE = 32


def copy(source: FileIO, sink: FileIO) -> None:
    """Read and write until either end is gone, and end the process."""
    buffer = bytearray(FRAME)
    view = memoryview(buffer)
    read, write = source.readinto, sink.write
    while True:
        try:
            size = read(buffer)
            if not size:
                os._exit(0)
            write(view[:size])
        except OSError as bad:
            if bad.errno != errno.ENOENT:
                os._exit(0)


def main() -> None:
    """Mount, start the server with the number of its device as the last argument, relay."""
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
    libc.mount(b"relay", os.fsencode(sys.argv[1]), b"fuse.relay", 0, options.encode())
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for each in (ours, theirs):
        each.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, ROOM)
    with theirs:
        subprocess.Popen([*sys.argv[2:], str(theirs.fileno())], pass_fds=[theirs.fileno()])
    kernel, filesystem = FileIO(device, "r+", closefd=False), FileIO(ours.fileno(), "r+", closefd=False)
    threading.Thread(target=copy, args=(filesystem, kernel), daemon=True).start()
    copy(kernel, filesystem)


if __name__ == "__main__":
    main()
