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
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from libperfuse.launch import errands, tracee
from libperfuse.launch.books import At, Books, Device, key_of, lineage
from libperfuse.launch.choose import Choice, choose
from libperfuse.launch.contexts import Contexts
from libperfuse.launch.envoy import Envoy, Outcome, outcome, send_out
from libperfuse.launch.errands import Wish
from libperfuse.launch.ioctls import Ioctls
from libperfuse.launch.notify import Listener, Stopped
from libperfuse.launch.opens import Opens
from libperfuse.launch.sends import Done
from wire.control import Endpoint

_FSTYPE = re.compile(rb"(fuse|fuseblk)(\..*)?\Z|perfuse\|", re.DOTALL)
_FD = re.compile(rb"(?:^|,)fd=(\d{1,9})(?=,|\Z)")
#: MS_REMOUNT, MS_BIND, MS_MOVE, and the four of propagation: these are about mounts that are there
_NO_NEW_MOUNT = 0x20 | 0x1000 | 0x2000 | 0xF << 17
_MAGIC, _MAGIC_MASK = 0xC0ED_0000, 0xFFFF_0000
_MNT_EXPIRE = 4
#: without these the kernel mounts nothing
_NEEDED = (b"rootmode=", b"user_id=", b"group_id=")
#: ms after which the threads whose envoys are out are looked at: they may have been killed
_LOOK = 1000


class _Out(NamedTuple):
    """An envoy that is out, for which call, and what takes its outcome."""

    envoy: Envoy
    call: Stopped
    done: Done


class Tracer:
    """One program and all that it starts. `endpoint` None: chosen for each device. `say` takes lines for people."""

    def __init__(self, fd: int, endpoint: Endpoint | None, say: Callable[[str], None], verbose: bool) -> None:
        self.listener = Listener(fd)
        self.books = Books()
        self._endpoint = endpoint
        self._say = say
        self._verbose = verbose
        self._poll = select.poll()
        self._waiting: dict[int, _Out] = {}
        self._calls: dict[str, Callable[[Stopped], None]] = {
            "mount": self._mount,
            "umount": lambda call: self._umount(call, 0),
            "umount2": lambda call: self._umount(call, call.args[1]),
            "ioctl": Ioctls(self).stopped,
            **Opens(self).calls,
            **Contexts(self).calls,
        }

    def choice(self, pid: int, name: str) -> Choice:
        """The endpoint for a process that runs `name`."""
        return Choice(self._endpoint, "as asked for") if self._endpoint is not None else choose(pid, name)

    def watch(self, fd: int) -> None:
        """Have `run` return whenever `fd` is readable."""
        self._poll.register(fd, select.POLLIN)

    def deserted(self) -> bool:
        """Whether nobody is left who could make a call."""
        poll = select.poll()
        poll.register(self.listener.fd, 0)
        return bool(poll.poll(0))

    def recall(self) -> None:
        """Kill the envoys that are out: whom they went for is gone."""
        for each in list(self._waiting.values()):
            self._recall(each)

    def _recall(self, out: _Out) -> None:
        del self._waiting[out.envoy.sock.fileno()]
        self._poll.unregister(out.envoy.sock)
        out.envoy.sock.close()
        # It is our child, and reaped after this only.
        with suppress(ProcessLookupError):
            os.kill(out.envoy.pid, signal.SIGKILL)

    def unwatch(self, fd: int) -> None:
        """Watch it no more."""
        self._poll.unregister(fd)

    def run(self, woken: Callable[[int], bool]) -> None:
        """Answer calls until nobody is left to make any; `woken(fd)` for each watched descriptor, True to go on."""
        listening = self.listener.fd
        self._poll.register(listening, select.POLLIN)
        while True:
            events = self._poll.poll(_LOOK if self._waiting else None)
            if not events:
                for each in [each for each in self._waiting.values() if not self.listener.valid(each.call.cookie)]:
                    self._recall(each)
            for fd, event in events:
                if fd == listening:
                    if event & select.POLLIN:
                        self._next()
                    elif event & select.POLLHUP:
                        return
                elif fd in self._waiting:
                    out = self._waiting.pop(fd)
                    self._poll.unregister(fd)
                    self._answer(out)
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
            self._failed(call, fault)

    def _answer(self, out: _Out) -> None:
        try:
            facts, fds = outcome(out.envoy)
            if self.listener.valid(out.call.cookie):
                out.done(facts, fds)
            else:
                for each in fds:
                    os.close(each)
        except Exception as fault:
            self._failed(out.call, fault)

    def _failed(self, call: Stopped, fault: Exception) -> None:
        self._say(f"internal error: {call.name}: {type(fault).__name__}: {fault}")
        self.listener.give(call.cookie, -errno.EIO)

    def _unknown(self, call: Stopped) -> None:
        self.listener.let_go(call.cookie)

    # -- envoys ----------------------------------------------------------------------------------------------------

    def send(
        self,
        call: Stopped,
        work: Callable[[tracee.Place], Outcome],
        done: Done,
        *borrowed: int,
        connection: socket.socket | None = None,
    ) -> None:
        """Have an envoy do `work` for a stopped call, and `done` take its outcome. `borrowed` are ours, and closed;
        the envoy has them and the `connection`."""
        needs = borrowed if connection is None else (*borrowed, connection.fileno())
        try:
            where = tracee.place(call.tid)
            try:
                whom = tracee.identity(call.tid, tracee.status(call.tid))
                if not self.listener.valid(call.cookie):
                    return
                try:
                    envoy = send_out(whom, where, needs, work)
                except OSError as bad:
                    # Not let go: a program that was to have perfused's device would silently get another.
                    self._say(f"{call.name}: no process to ask perfused: {bad.strerror}")
                    self.listener.give(call.cookie, -(bad.errno or errno.EAGAIN))
                    return
            finally:
                where.close()
        finally:
            for each in borrowed:
                os.close(each)
        self._waiting[envoy.sock.fileno()] = _Out(envoy, call, done)
        self._poll.register(envoy.sock, select.POLLIN)

    def refused(self, call: Stopped, facts: dict[str, Any], what: str) -> bool:
        """Answer a call whose envoy brought an error; False where it brought none."""
        code = facts.get("errno", 0)
        if code:
            if facts["message"]:
                self._say(f"{what}: {facts['message']}")
            self.listener.give(call.cookie, -code)
        return bool(code)

    def report(self, line: str) -> None:
        """Tell people, if they want to know all."""
        if self._verbose:
            self._say(line)

    # -- mount -----------------------------------------------------------------------------------------------------

    def _mount(self, call: Stopped) -> None:
        source, target, fstype, flags, data = call.args[:5]
        flags &= ~_MAGIC_MASK if flags & _MAGIC_MASK == _MAGIC else -1
        kind = b"" if flags & _NO_NEW_MOUNT else tracee.text(call.tid, fstype)
        if not _FSTYPE.match(kind):
            self.listener.let_go(call.cookie)
            return
        named, path = tracee.text(call.tid, source), tracee.text(call.tid, target)
        if not path:
            self.listener.give(call.cookie, -(errno.ENOENT if target else errno.EFAULT))
            return
        if not self.mount(call, Wish(named, path, kind, flags & 0xFFFF_FFFF, tracee.page(call.tid, data))):
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
        given = wish.data.split(b",")
        bad = 0 if all(any(each.startswith(key) for each in given) for key in _NEEDED) else errno.EINVAL
        if len(wish.source) >= tracee.PAGE or len(wish.fstype) >= tracee.PAGE:
            bad = errno.EINVAL
        elif device.key.kind == "socket" and device.mounts:
            # It takes no second MOUNT: what is read there now are requests and replies.
            bad = errno.EBUSY
        if bad:
            for each in (fd, wish.directory):
                if each >= 0:
                    os.close(each)
            self.listener.give(call.cookie, -bad)
            return True
        fds = [fd, *([wish.directory] if wish.directory >= 0 else [])]
        done = partial(self._mounted, call, device, number, wish)
        if device.later:
            work = partial(errands.open_device, self.choice(device.pid, device.program).endpoint, device.program)
            self.send(call, lambda where: _mount_new(where, wish, *work()), done, *fds)
        else:
            connection = device.connection
            mounting = partial(errands.mount, wish=wish, device=fd, connection=connection)
            self.send(call, lambda where: _at(mounting(where)), done, *fds, connection=connection)
        return True

    def _mounted(
        self, call: Stopped, device: Device, number: int, wish: Wish, facts: dict[str, Any], fds: list[int]
    ) -> None:
        if self.refused(call, facts, f"{device.program}: {os.fsdecode(wish.target)}: not mounted"):
            return
        at = At(facts["path"], (facts["id"], facts["number"]))
        if fds:
            now = self._now(call, device, number, Endpoint(facts["endpoint"]), fds)
            if now is None:
                self.listener.give(call.cookie, -errno.EBADF)
                return
            device = now
        device.mounts.append(at)
        self.listener.give(call.cookie, 0)

    def _now(self, call: Stopped, before: Device, number: int, endpoint: Endpoint, fds: list[int]) -> Device | None:
        """Put a real device in the place of one that was left for later; None where that place is gone."""
        fd, *rest = fds
        connection = socket.socket(fileno=rest[0]) if rest else None
        try:
            key = key_of(fd)
            assert key is not None
            device = Device(key, endpoint, before.program, before.pid, number, connection)
            if not self.put(call, fd, number):
                if connection is not None:
                    connection.close()
                return None
        finally:
            os.close(fd)
        self.books.strike(before)
        self.books.enter(device)
        return device

    def put(self, call: Stopped, fd: int, number: int) -> bool:
        """Put a duplicate of `fd` in the place of the program's descriptor, which stays close-on-exec or not."""
        try:
            closes = tracee.closes_on_exec(call.tid, number)
        except (OSError, StopIteration):
            return False
        return self.listener.replace_descriptor(call.cookie, fd, number, closes)

    # -- umount ----------------------------------------------------------------------------------------------------

    def _umount(self, call: Stopped, flags: int) -> None:
        ours = self.books.mounts()
        # To look at a mount would take its mark of MNT_EXPIRE away.
        if not ours or flags & _MNT_EXPIRE:
            self.listener.let_go(call.cookie)
            return
        path = tracee.text(call.tid, call.args[0])

        def done(facts: dict[str, Any], fds: list[int]) -> None:
            if self.refused(call, facts, f"{os.fsdecode(path)}: not unmounted"):
                return
            if facts.get("gone") or facts.get("done"):
                if not self.books.unmounted(facts["path"]) or facts.get("done"):
                    self.listener.give(call.cookie, 0)
                    return
            elif "path" in facts:
                self.books.leave(facts["path"])
            self.listener.let_go(call.cookie)

        self.send(call, lambda where: errands.unmount(where, path, flags, ours), done)


def _at(at: At, endpoint: Endpoint = Endpoint.ANY, fds: tuple[int, ...] = ()) -> Outcome:
    return {"path": at.path, "id": at.identity[0], "number": at.identity[1], "endpoint": int(endpoint)}, fds


def _mount_new(where: tracee.Place, wish: Wish, facts: dict[str, Any], fds: tuple[int, ...]) -> Outcome:
    connection = socket.socket(fileno=os.dup(fds[1])) if len(fds) > 1 else None
    return _at(errands.mount(where, wish, fds[0], connection), Endpoint(facts["endpoint"]), fds)
