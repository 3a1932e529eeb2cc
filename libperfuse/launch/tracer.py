"""Answers a program's stopped calls: what is about a FUSE device goes to perfused, everything else goes on.

It never waits for anybody: whatever may (perfused, a path) is an envoy's. It lives until nothing runs under the filter
any more. What it decides on is its own copy of an argument; a call that is let go is one that the program could have
made by itself with any arguments. Never here: starting the program (`front`).
"""

import errno
import os
import re
import select
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from libperfuse.launch import errands, tracee
from libperfuse.launch.books import At, Books, Device, key_of, lineage, placeholder
from libperfuse.launch.choose import Choice, choose
from libperfuse.launch.contexts import Contexts
from libperfuse.launch.envoy import Envoy, Outcome, outcome, send_out
from libperfuse.launch.errands import Wish
from libperfuse.launch.notify import Listener, Stopped
from wire import codec, ioctls
from wire.control import Endpoint

_DEVICE = b"/dev/fuse"
_RDEV = os.makedev(10, 229)
_AT_FDCWD = -100
_FSTYPE = re.compile(rb"(fuse|fuseblk)(\..*)?\Z|perfuse\|", re.DOTALL)
_FD = re.compile(rb"(?:^|,)fd=(\d{1,9})(?=,|\Z)")

Done = Callable[[dict[str, Any], list[int]], None]


class Tracer:
    """One program and all that it starts. `endpoint` None: chosen for each device. `say` takes lines for people."""

    def __init__(self, fd: int, endpoint: Endpoint | None, say: Callable[[str], None], verbose: bool) -> None:
        self.listener = Listener(fd)
        self.books = Books()
        self._endpoint = endpoint
        self._say = say
        self._verbose = verbose
        self._poll = select.poll()
        self._waiting: dict[int, tuple[Envoy, Done]] = {}
        contexts = Contexts(self)
        self._calls: dict[str, Callable[[Stopped], None]] = {
            "open": lambda call: self._open(call, _AT_FDCWD, call.args[0], call.args[1]),
            "openat": lambda call: self._open(call, call.args[0], call.args[1], call.args[2]),
            "openat2": self._openat2,
            "mount": self._mount,
            "umount": lambda call: self._umount(call, 0),
            "umount2": lambda call: self._umount(call, call.args[1]),
            "ioctl": self._ioctl,
            **contexts.calls,
        }

    def watch(self, fd: int) -> None:
        """Have `run` return whenever `fd` is readable."""
        self._poll.register(fd, select.POLLIN)

    def deserted(self) -> bool:
        """Whether nobody is left who could make a call."""
        poll = select.poll()
        poll.register(self.listener.fd, 0)
        return bool(poll.poll(0)) and not self._waiting

    def recall(self) -> None:
        """Kill the envoys that are out: whom they went for is gone."""
        for envoy, _ in self._waiting.values():
            with suppress(ProcessLookupError):
                os.kill(envoy.pid, signal.SIGKILL)
        self._waiting.clear()

    def unwatch(self, fd: int) -> None:
        """Watch it no more."""
        self._poll.unregister(fd)

    def run(self, woken: Callable[[int], bool]) -> None:
        """Answer calls until nobody is left to make any; `woken(fd)` for each watched descriptor, True to go on."""
        listening = self.listener.fd
        self._poll.register(listening, select.POLLIN)
        while True:
            for fd, event in self._poll.poll():
                if fd == listening:
                    if event & select.POLLIN:
                        self._next()
                    elif event & select.POLLHUP:
                        return
                elif fd in self._waiting:
                    envoy, done = self._waiting.pop(fd)
                    self._poll.unregister(fd)
                    done(*outcome(envoy))
                elif not woken(fd):
                    return

    def _next(self) -> None:
        call = self.listener.receive()
        if call is None:
            return
        try:
            self._calls.get(call.name, self._unknown)(call)
        except OSError:
            # Gone meanwhile, a bad pointer, or no right to look: the kernel has the better answer.
            self.listener.let_go(call.cookie)
        except Exception as fault:
            self._say(f"internal error: {call.name}: {type(fault).__name__}: {fault}")
            self.listener.give(call.cookie, -errno.EIO)

    def _unknown(self, call: Stopped) -> None:
        self.listener.let_go(call.cookie)

    # -- envoys ----------------------------------------------------------------------------------------------------

    def send(self, call: Stopped, work: Callable[[tracee.Place], Outcome], done: Done, *borrowed: int) -> None:
        """Have an envoy do `work` for a stopped call, and `done` take its outcome. `borrowed` are ours, and closed."""
        try:
            where = tracee.place(call.tid)
            try:
                whom = tracee.identity(tracee.status(call.tid))
                if not self.listener.valid(call.cookie):
                    return
                envoy = send_out(whom, where, (self.listener.fd,), work)
            finally:
                where.close()
        finally:
            for each in borrowed:
                os.close(each)
        self._waiting[envoy.sock.fileno()] = envoy, done
        self._poll.register(envoy.sock, select.POLLIN)

    def refused(self, call: Stopped, facts: dict[str, Any], what: str) -> bool:
        """Answer a call whose envoy brought an error; False where it brought none."""
        code = facts.get("errno", 0)
        if code:
            if facts["message"]:
                self._say(f"{what}: {facts['message']}")
            self.listener.give(call.cookie, -code)
        return bool(code)

    # -- open ------------------------------------------------------------------------------------------------------

    def _open(self, call: Stopped, directory: int, path_at: int, flags: int) -> None:
        path = tracee.text(call.tid, path_at)
        if not path.endswith(b"fuse") or not (path == _DEVICE or self._names_device(call, directory, path)):
            self.listener.let_go(call.cookie)
            return
        pid, parent = tracee.process_of(tracee.status(call.tid))
        name = tracee.program(pid)
        served = parent if name.startswith("fusermount") else pid
        name = tracee.program(served)
        if not self.listener.valid(call.cookie):
            return
        if self.books.mounted_by(pid) is not None:
            self._give_later(call, pid, flags)
            return
        choice = Choice(self._endpoint, "as asked for") if self._endpoint is not None else choose(served, name)
        work = partial(errands.open_device, choice.endpoint, name, self._endpoint is not None)
        self.send(call, lambda _: work(), partial(self._opened, call, pid, name, flags, choice))

    def _openat2(self, call: Stopped) -> None:
        flags, _, _ = struct.unpack("=3Q", tracee.read(call.tid, call.args[2], 24))
        if flags & os.O_ACCMODE != os.O_RDWR:
            self.listener.let_go(call.cookie)
        else:
            self._open(call, call.args[0], call.args[1], flags)

    @staticmethod
    def _names_device(call: Stopped, directory: int, path: bytes) -> bool:
        """Whether another spelling of a path leads to /dev/fuse."""
        if path.rpartition(b"/")[2] != b"fuse":
            return False
        where = tracee.place(call.tid)
        try:
            with _directory(call, directory) as start:
                fd = tracee.resolve(where, path, os.O_PATH | os.O_CLOEXEC, start)
            try:
                return os.fstat(fd).st_rdev == _RDEV
            finally:
                os.close(fd)
        finally:
            where.close()

    def _give_later(self, call: Stopped, pid: int, flags: int) -> None:
        """A process that has its mount opens the device once more: to clone it, or else to mount a second time. Which,
        and so what it gets, the next call tells."""
        fd = placeholder()
        try:
            key = key_of(fd)
            number = self.listener.give_descriptor(call.cookie, fd, bool(flags & os.O_CLOEXEC))
            if number >= 0 and key is not None:
                self.books.enter(Device(key, Endpoint.ANY, tracee.program(pid), pid, number, later=True))
        finally:
            os.close(fd)

    def _opened(
        self, call: Stopped, pid: int, name: str, flags: int, choice: Choice, facts: dict[str, Any], fds: list[int]
    ) -> None:
        if self.refused(call, facts, f"{name}[{pid}]: no device"):
            return
        fd, *rest = fds
        connection = socket.socket(fileno=rest[0]) if rest else None
        try:
            os.set_blocking(fd, not flags & os.O_NONBLOCK)
            key, endpoint = key_of(fd), Endpoint(facts["endpoint"])
            assert key is not None
            device = Device(key, endpoint, name, pid, -1, connection)
            # Entered first: the program's next call may come before ours is back.
            self.books.enter(device)
            device.number = self.listener.give_descriptor(call.cookie, fd, bool(flags & os.O_CLOEXEC))
            if device.number < 0:
                self.books.strike(device)
            elif self._verbose:
                self._say(f"{name}[{pid}]: endpoint {endpoint.name.lower()}: {choice.reason}")
        finally:
            os.close(fd)

    # -- mount -----------------------------------------------------------------------------------------------------

    def _mount(self, call: Stopped) -> None:
        source, target, fstype, flags, data = call.args[:5]
        kind = tracee.text(call.tid, fstype)
        options = tracee.text(call.tid, data) if _FSTYPE.match(kind) else b""
        wish = Wish(tracee.text(call.tid, source), tracee.text(call.tid, target), kind, flags, options)
        if not self.mount(call, wish):
            self.listener.let_go(call.cookie)

    def device_of(self, call: Stopped, number: int) -> tuple[Device, int] | None:
        """The device that is a thread's descriptor `number`, and a duplicate of it; None where it is none of ours."""
        try:
            fd = tracee.descriptor(call.tid, number)
        except OSError:
            return None
        try:
            pid, _ = tracee.process_of(tracee.status(call.tid))
            key = key_of(fd)
            device = self.books.find(key, number, lineage(pid))
        except OSError:
            device = None
        if device is None:
            os.close(fd)
            return None
        return device, fd

    def mount(self, call: Stopped, wish: Wish) -> bool:
        """Mount the device that `fd=` in the options names, and answer the call with the verdict; False where that is
        no device of ours."""
        named = _FD.findall(wish.data)
        number = int(named[-1]) if named else -1
        found = self.device_of(call, number) if named else None
        if found is None:
            return False
        device, fd = found
        fds = [fd, *([wish.directory] if wish.directory >= 0 else [])]
        done = partial(self._mounted, call, device, number, wish)
        if device.later:
            choice = Choice(self._endpoint, "") if self._endpoint is not None else choose(device.pid, device.program)
            work = partial(errands.open_device, choice.endpoint, device.program, self._endpoint is not None)
            self.send(call, lambda where: _mount_new(where, wish, *work()), done, *fds)
        else:
            connection = device.connection
            self.send(call, lambda where: _at(errands.mount(where, wish, fd, connection)), done, *fds)
        return True

    def _mounted(
        self, call: Stopped, device: Device, number: int, wish: Wish, facts: dict[str, Any], fds: list[int]
    ) -> None:
        if self.refused(call, facts, f"{device.program}: {os.fsdecode(wish.target)}: not mounted"):
            return
        at = At(facts["path"], (facts["id"], facts["number"]))
        if fds:
            device = self._now(call, device, number, Endpoint(facts["endpoint"]), fds)
        device.mounts.append(at)
        self.listener.give(call.cookie, 0)

    def _now(self, call: Stopped, before: Device, number: int, endpoint: Endpoint, fds: list[int]) -> Device:
        """Put a real device in the place of one that was left for later."""
        fd, *rest = fds
        connection = socket.socket(fileno=rest[0]) if rest else None
        try:
            key = key_of(fd)
            assert key is not None
            device = Device(key, endpoint, before.program, before.pid, number, connection)
            with suppress(OSError):
                closes = tracee.closes_on_exec(call.tid, number)
                self.listener.replace_descriptor(call.cookie, fd, number, closes)
        finally:
            os.close(fd)
        self.books.strike(before)
        self.books.enter(device)
        return device

    # -- umount ----------------------------------------------------------------------------------------------------

    def _umount(self, call: Stopped, flags: int) -> None:
        ours = self.books.mounts()
        if not ours:
            self.listener.let_go(call.cookie)
            return
        path = tracee.text(call.tid, call.args[0])

        def done(facts: dict[str, Any], fds: list[int]) -> None:
            if self.refused(call, facts, f"{os.fsdecode(path)}: not unmounted"):
                return
            if facts.get("gone"):
                self.books.unmounted(facts["path"])
            if facts.get("gone") or facts["mine"]:
                self.listener.give(call.cookie, 0)
            else:
                self.listener.let_go(call.cookie)

        self.send(call, lambda where: errands.unmount(where, path, flags, ours), done)

    # -- ioctl -----------------------------------------------------------------------------------------------------

    def _ioctl(self, call: Stopped) -> None:
        number, command, argument = call.args[0], call.args[1] & 0xFFFF_FFFF, call.args[2]
        other = -1
        if command == ioctls.FUSE_DEV_IOC_CLONE:
            (other,) = struct.unpack("=I", tracee.read(call.tid, argument, 4))
        found = self.device_of(call, other if other >= 0 else number)
        if found is None or found[0].endpoint is Endpoint.DIRECT:
            if found is not None:
                os.close(found[1])
            self.listener.let_go(call.cookie)
            return
        device, fd = found
        if command == ioctls.FUSE_DEV_IOC_CLONE:
            self._clone(call, device, fd, number)
        elif command == ioctls.FUSE_DEV_IOC_BACKING_OPEN:
            self._backing_open(call, device, fd, argument)
        elif command == ioctls.FUSE_DEV_IOC_BACKING_CLOSE:
            (identity,) = struct.unpack("=I", tracee.read(call.tid, argument, 4))
            work = partial(errands.backing_close, fd, identity, device.connection)
            self.send(call, lambda _: work(), partial(self._answered, call, "id", "no backing id closed"), fd)
        else:
            os.close(fd)
            self.listener.give(call.cookie, -errno.ENOTTY)

    def _answered(self, call: Stopped, key: str, what: str, facts: dict[str, Any], fds: list[int]) -> None:
        if not self.refused(call, facts, what):
            self.listener.give(call.cookie, int(facts.get(key, 0)))

    def _clone(self, call: Stopped, device: Device, fd: int, number: int) -> None:
        """FUSE_DEV_IOC_CLONE on descriptor `number`: from now on it is another open file of `device`."""
        if device.key.kind == "socket":
            # Whoever reads a socket takes the next request, and an answer may come from anywhere.
            try:
                self._replace(call, fd, number)
            finally:
                os.close(fd)
            return

        def done(facts: dict[str, Any], fds: list[int]) -> None:
            if self.refused(call, facts, f"{device.program}: not cloned"):
                return
            try:
                self._replace(call, fds[0], number)
            finally:
                os.close(fds[0])

        self.send(call, lambda _: errands.open_again(fd), done, fd)

    def _replace(self, call: Stopped, fd: int, number: int) -> None:
        before = self.device_of(call, number)
        try:
            closes = tracee.closes_on_exec(call.tid, number)
        except OSError:
            closes = True
        done = before is not None and self.listener.replace_descriptor(call.cookie, fd, number, closes)
        if before is not None:
            os.close(before[1])
            if done and not before[0].mounts:
                self.books.strike(before[0])
        self.listener.give(call.cookie, 0 if done else -errno.EINVAL)

    def _backing_open(self, call: Stopped, device: Device, fd: int, argument: int) -> None:
        try:
            wanted = codec.backing_map.unpack_from(tracee.read(call.tid, argument, codec.backing_map.size))
            if wanted.flags or wanted.padding:
                self.listener.give(call.cookie, -errno.EINVAL)
                return
            file = tracee.descriptor(call.tid, wanted.fd)
        except OSError as bad:
            self.listener.give(call.cookie, -(bad.errno or errno.EBADF))
            return
        finally:
            if "file" not in locals():
                os.close(fd)
        work = partial(errands.backing_open, fd, file, device.connection)
        done = partial(self._answered, call, "id", f"{device.program}: no backing file")
        self.send(call, lambda _: work(), done, fd, file)


@contextmanager
def _directory(call: Stopped, number: int) -> Iterator[int]:
    """A duplicate of the directory that a call's path starts from; -1 for the working directory."""
    number = number - (1 << 32) if number & 0xFFFF_FFFF >= 1 << 31 else number
    if (number & 0xFFFF_FFFF) == _AT_FDCWD & 0xFFFF_FFFF:
        yield -1
        return
    fd = tracee.descriptor(call.tid, number)
    try:
        yield fd
    finally:
        os.close(fd)


def _at(at: At, endpoint: Endpoint = Endpoint.ANY, fds: tuple[int, ...] = ()) -> Outcome:
    return {"path": at.path, "id": at.identity[0], "number": at.identity[1], "endpoint": int(endpoint)}, fds


def _mount_new(where: tracee.Place, wish: Wish, facts: dict[str, Any], fds: tuple[int, ...]) -> Outcome:
    connection = socket.socket(fileno=os.dup(fds[1])) if len(fds) > 1 else None
    return _at(errands.mount(where, wish, fds[0], connection), Endpoint(facts["endpoint"]), fds)
