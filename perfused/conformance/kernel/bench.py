"""What a case works with: a mount of its own, its server, clients that make system calls, and expectations.

Clients are processes, forked for each piece of work: a page fault or a call that hangs then hangs nobody else. Never
here: verdicts, and which case runs when (`runner`).
"""

import errno
import os
import pickle
import select
import signal
import stat
import time
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

from perfused.conformance.kernel import seam
from perfused.conformance.kernel.case import Failed, Skipped
from perfused.conformance.kernel.server import Reaction, Rule, Server
from perfused.conformance.kernel.steps import Steps
from perfused.conformance.kernel.tree import Tree
from wire import codec, compat
from wire.flags import InitFlag
from wire.message import Request
from wire.opcodes import BY_NUMBER, Opcode


class Outcome(NamedTuple):
    """What a client's work gave: a value, or the errno of its OSError."""

    value: Any
    errno: int


class Client:
    """A process at work."""

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self._pipe = pipe

    def wait(self, seconds: float) -> Outcome:
        """What it gave. Raises Failed where it does not end in time: the call still hangs."""
        deadline = time.monotonic() + seconds
        data = b""
        while select.select([self._pipe], [], [], max(deadline - time.monotonic(), 0))[0]:
            part = os.read(self._pipe, 65536)
            if not part:
                os.close(self._pipe)
                _, status = os.waitpid(self.pid, 0)
                if not data:
                    raise Failed("the client", "an end of its own", f"wait(2) status {status:#x}")
                kind, value = pickle.loads(data)
                if kind == "fault":
                    raise Failed("the client", "no fault", value)
                return Outcome(value, 0) if kind == "value" else Outcome(None, value)
            data += part
        raise Failed("the call", f"an end within {seconds:g} s", "it still waits")

    def done(self, seconds: float = 0.0) -> bool:
        """Whether it has ended, or does within a time."""
        return bool(select.select([self._pipe], [], [], seconds)[0])

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)


class Bench:
    """A case's ground: an empty directory to mount on, and how long it may wait for anything."""

    def __init__(self, directory: str, offered: int, kernel_minor: int, patience: float) -> None:
        self.directory = directory
        self.path = os.path.join(directory, "mnt")
        self.offered = offered
        self.kernel_minor = kernel_minor
        self.patience = patience
        self.server: Server
        self.servers: list[Server] = []
        self.tree = Tree()
        os.mkdir(self.path)
        for each in (directory, self.path):
            # Clients of any user must come to the mount.
            os.chmod(each, 0o755)

    # -- mounting --------------------------------------------------------------------------------------------------

    def mount(
        self,
        flags: int = 0,
        minor: int = compat.NEWEST_MINOR,
        tree: Tree | None = None,
        options: str = "",
        init_rule: Reaction | None = None,
        serve: bool = True,
        mount_flags: int = 0,
        device: str = "",
        **init: int,
    ) -> Server:
        """Open the device, mount it, serve it, and wait until INIT is through.

        `flags` are INIT bits to agree on where offered, `minor` what the server speaks, `options` of mount(2) beside
        the usual ones, `device` a block device to be of type fuseblk with, `init` fields of fuse_init_out. With
        `init_rule` or without `serve` INIT is the case's affair.
        """
        if tree is not None:
            self.tree = tree
        fd = seam.open_device()
        server = Server(fd, self.tree, min(minor, self.kernel_minor), int(flags), init, init_rule)
        self.server = server
        self.servers.append(server)
        words = [f"fd={fd}", f"rootmode={stat.S_IFDIR:o}", "user_id=0", "group_id=0", *([options] if options else [])]
        kind = "fuseblk.conformance" if device else "fuse.conformance"
        seam.mount(device or "conformance", self.path, kind, mount_flags, ",".join(words))
        if serve:
            server.start()
            if init_rule is None and server.wait_for(Opcode.INIT, seconds=self.patience) is None:
                raise Failed("the kernel", "INIT", "nothing")
        return server

    def file(self, name: str) -> str:
        """A path in the mount."""
        return os.path.join(self.path, name)

    # -- clients ---------------------------------------------------------------------------------------------------

    def start(self, work: Callable[[], Any], uid: int = 0) -> Client:
        """Have a process do `work`, as a user, and go on."""
        read, write = os.pipe()
        pid = os.fork()
        if pid:
            os.close(write)
            return Client(pid, read)
        try:
            os.close(read)
            for server in self.servers:
                # A connection ends with the last descriptor of its device: none may be a client's.
                os.close(server.fd)
            try:
                if uid:
                    os.setgroups([])
                    os.setresgid(uid, uid, uid)
                    os.setresuid(uid, uid, uid)
                said: tuple[str, Any] = ("value", work())
            except OSError as bad:
                said = ("errno", bad.errno or errno.EIO)
            except Exception as fault:
                said = ("fault", f"{type(fault).__name__}: {fault}")
            data = pickle.dumps(said)
            while data:
                data = data[os.write(write, data) :]
        finally:
            os._exit(0)

    def do(self, work: Callable[[], Any], uid: int = 0) -> Outcome:
        """Have a process do `work`: what it gave, or the errno that it got."""
        return self.start(work, uid).wait(self.patience)

    def steps(self, work: Callable[[], Generator[Any, None, None]], uid: int = 0) -> Steps:
        """A process that does `work`, a generator function, as far as each `yield`, when it is told to go on."""
        return Steps(self, work, uid)

    def ok(self, work: Callable[[], Any], uid: int = 0) -> Any:
        """Have a process do `work`, which must succeed: its value."""
        outcome = self.do(work, uid)
        if outcome.errno:
            raise Failed("the call", "success", errno.errorcode.get(outcome.errno, outcome.errno))
        return outcome.value

    def fails(self, wanted: int, work: Callable[[], Any], what: str = "the call", uid: int = 0) -> None:
        """Have a process do `work`, which must fail with an errno."""
        outcome = self.do(work, uid)
        if outcome.errno != wanted:
            got = errno.errorcode.get(outcome.errno, outcome.errno) if outcome.errno else f"success: {outcome.value!r}"
            raise Failed(what, errno.errorcode.get(wanted, wanted), got)

    # -- the server's side -----------------------------------------------------------------------------------------

    def answer(
        self,
        opcode: int,
        reaction: Reaction,
        when: Callable[[Request], bool] | None = None,
        times: int | None = None,
    ) -> Rule:
        """Answer requests of an opcode in the case's way; the newest rule comes first."""
        rule = Rule(opcode, reaction, when, times)
        self.server.rules.insert(0, rule)
        return rule

    def hold(self, opcode: int, when: Callable[[Request], bool] | None = None) -> Rule:
        """Leave the next request of an opcode unanswered, until `reply`."""
        return self.answer(opcode, None, when, times=1)

    def held(self, rule: Rule) -> Request:
        """The request that `hold` keeps. Raises Failed where none comes."""
        deadline = time.monotonic() + self.patience
        while not rule.seen and time.monotonic() < deadline:
            with self.server.moved:
                self.server.moved.wait(0.05)
        if not rule.seen:
            raise Failed("the kernel", Opcode(rule.opcode).name, "nothing")
        return rule.seen[0]

    def reply(self, request: Request, reaction: Reaction = None) -> None:
        """Answer a request that was held: as the tree would, or with `reaction`."""
        self.server.react(request, self.server.tree.answer(request) if reaction is None else reaction)

    def seen(self, opcode: int, nodeid: int | None = None) -> list[Request]:
        """The requests of an opcode so far."""
        return self.server.seen(opcode, nodeid)

    def wait_for(self, opcode: int, times: int = 1) -> Request:
        """The `times`-th request of an opcode. Raises Failed where it does not come."""
        found = self.server.wait_for(opcode, times, self.patience)
        if found is None:
            raise Failed("the kernel", f"{Opcode(opcode).name}, {times} times", f"{len(self.seen(opcode))} times")
        return found

    def one(self, opcode: int, nodeid: int | None = None) -> Request:
        """The only request of an opcode so far. Raises Failed where there are none or several."""
        found = self.seen(opcode, nodeid)
        if len(found) != 1:
            raise Failed(f"{Opcode(opcode).name} requests", 1, len(found))
        return found[0]

    def settle(self) -> None:
        """Wait until all that the kernel has queued is handled: asks statfs(2), whose request comes behind it."""
        self.ok(lambda: os.statvfs(self.path))

    def step_to(self, opcode: int, times: int = 1) -> Request:
        """Serve by hand, where no thread does, until the `times`-th request of an opcode is handled. Raises Failed."""
        deadline = time.monotonic() + self.patience
        while len(self.seen(opcode)) < times:
            if not self.server.step(max(deadline - time.monotonic(), 0)):
                raise Failed("the kernel", f"{Opcode(opcode).name}, {times} times", f"{len(self.seen(opcode))} times")
        return self.seen(opcode)[times - 1]

    def serve(self, client: Client) -> Outcome:
        """Serve by hand, where no thread does, until a client ends: what it gave. Raises Failed where it does not."""
        deadline = time.monotonic() + self.patience
        while not client.done() and time.monotonic() < deadline:
            self.server.step(0.02)
        return client.wait(max(deadline - time.monotonic(), 0.5))

    # -- expectations ----------------------------------------------------------------------------------------------

    @staticmethod
    def equal(what: str, got: object, wanted: object) -> None:
        """Raises Failed unless both are the same."""
        if got != wanted:
            raise Failed(what, wanted, got)

    @staticmethod
    def field(request: Request, name: str, wanted: object) -> None:
        """Raises Failed, with the field's offset in the frame, unless a field of a request's head is as wanted."""
        got = getattr(request.head, name)
        if got != wanted:
            row = BY_NUMBER[request.header.opcode]
            at = 40 + codec.CODECS[row.head].offset(name)
            raise Failed(f"{row.head}.{name} at offset {at} of {row.name}", wanted, got)

    @staticmethod
    def true(what: str, holds: object, got: object = "it does not hold") -> None:
        """Raises Failed unless it holds."""
        if not holds:
            raise Failed(what, "to hold", got)

    def need(self, *flags: InitFlag) -> int:
        """The flags in one number. Skips the case where the kernel does not offer them all."""
        joined = 0
        for each in flags:
            if not self.offered & each:
                raise Skipped(f"the kernel does not offer {each.name}")
            joined |= int(each)
        return joined

    def close(self) -> None:
        """Unmount by force and let go of the devices."""
        for _ in self.servers:
            try:
                seam.umount(self.path, seam.MNT_DETACH | seam.MNT_FORCE)
            except OSError:
                break
        for server in self.servers:
            try:
                os.close(server.fd)
            except OSError:
                continue


def kill(group: int) -> None:
    """Kill a process group; no news where it is gone."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return
