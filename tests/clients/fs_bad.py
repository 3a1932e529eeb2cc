"""A program that asks for devices as any does, and goes wrong: `fs_bad.py HOW TARGET [TARGET]`.

It knows nothing of perfused: open(2), mount(2) by libc, and an INIT that is answered by hand. Run by any interpreter.
"""

import ctypes
import os
import signal
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)


def opened():
    return os.open("/dev/fuse", os.O_RDWR)


def mount(fd, target, fstype=b"fuse.bad", options=""):
    data = f"fd={fd},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}{options}"
    if libc.mount(b"bad", os.fsencode(target), fstype, 0, data.encode()) < 0:
        number = ctypes.get_errno()
        print(f"mount: {os.strerror(number)}", flush=True)
        sys.exit(number)


def serve(*fds):
    """Answer INIT and GETATTR of the root, which is a directory, and all else with ENOSYS, until all devices end."""
    left = list(fds)
    while left:
        for fd in list(left):
            try:
                frame = os.read(fd, 1 << 21)
            except OSError:
                frame = b""
            if not frame:
                left.remove(fd)
                continue
            _, opcode, unique = struct.unpack_from("=IIQ", frame)
            if opcode in (2, 42):
                continue
            body, error = b"", 0
            if opcode == 26:
                body = struct.pack("=4I2H2I2H8I", 7, 31, 0, 0, 0, 0, 65536, 1, 0, 0, *[0] * 8)[:64]
            elif opcode == 3:
                body = struct.pack("=QII", 0, 0, 0) + struct.pack(
                    "=6Q3I7I", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, *[0] * 5
                )
            else:
                error = -38
            try:
                os.write(fd, struct.pack("=IiQ", 16 + len(body), error, unique) + body)
            except OSError:
                pass  # the next read tells why


how, *targets = sys.argv[1:]
if how == "die before mounting":
    opened()
    os._exit(3)
elif how == "be killed before mounting":
    opened()
    os.kill(os.getpid(), signal.SIGKILL)
elif how == "open":
    print("opening", flush=True)
    opened()
    print("opened", flush=True)
    sys.stdin.read()
elif how == "mount late":
    device = opened()
    print("opened", flush=True)
    sys.stdin.readline()
    mount(device, targets[0])
    print("mounted", flush=True)
    serve(device)
elif how == "mount":
    device = opened()
    mount(device, targets[0], options="".join(f",{each}" for each in targets[1:]))
    print("mounted", flush=True)
    serve(device)
elif how == "mount two":
    one, two = opened(), -1
    mount(one, targets[0])
    two = opened()
    mount(two, targets[1])
    print("mounted", flush=True)
    if os.fork():
        os.close(two)
        serve(one)
        os.wait()
    else:
        os.close(one)
        serve(two)
elif how == "mount a type that is none":
    mount(opened(), targets[0], b"fuse!")
elif how == "mount what is no device":
    mount(os.open("/dev/null", os.O_RDWR), targets[0])
elif how == "close early":
    device = opened()
    mount(device, targets[0])
    os.close(device)
    print("closed", flush=True)
    sys.stdin.read()
    sys.exit(5)
