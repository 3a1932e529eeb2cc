"""Who calls: processes that live as long as the run, each with users and groups of its own.

A process for each question would cost a fork; these wait on a pipe. They work in the directory of the case at hand and
hold the files they open until the case is over. Which questions they are asked is not decided here.
"""

import errno
import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

from perfused import libc
from perfused.conformance.filesystem import calls
from perfused.conformance.filesystem.calls import Outcome

#: seconds one call of a worker may take
PATIENCE = 60.0
#: seconds a call that shall wait is given to begin to, and one that was interrupted to return
PROMPT = 5.0


@dataclass(frozen=True)
class Who:
    """A caller. The numbers are nobody's on purpose: a filesystem that loses an owner often answers 65534."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    #: has a mount namespace of its own
    mounts: bool = False


ROOT = Who("root", 0, 0)
#: owns what belongs to 7001:7001
USER = Who("user", 7001, 7001)
#: the same user, in none of the groups of 7001's files
LONER = Who("loner", 7001, 7009)
#: the same user, in other groups besides
JOINER = Who("joiner", 7001, 7005, (7006, 7001))
#: in the group 7001 by its effective group
MEMBER = Who("member", 7002, 7001)
#: in the group 7001 by its supplementary groups
SUPPLEMENTARY = Who("supplementary", 7003, 7003, (7008, 7001))
#: nothing to do with 7001
OTHER = Who("other", 7004, 7004)
#: root that can mount without anybody else seeing it
MOUNTER = Who("mounter", 0, 0, mounts=True)

WORKERS = (USER, LONER, JOINER, MEMBER, SUPPLEMENTARY, OTHER, MOUNTER)


class Worker:
    """One process that performs calls as somebody."""

    def __init__(self, who: Who, base: int) -> None:
        """Fork it; `base` is a descriptor of the directory that holds the directories of all cases."""
        self.who = who
        ours, theirs = Pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(number, signal.SIG_IGN)  # they reach the parent too, which then closes the pipe
                signal.signal(signal.SIGUSR1, _interrupted)
                _serve(theirs, _become(who, base, theirs))
            finally:
                os._exit(0)
        theirs.close()
        self.pipe = ours

    def ask(self, name: str, args: tuple[Any, ...], umask: int = 0) -> Outcome:
        """Perform one call there. Raises TimeoutError, or EOFError where the process is gone."""
        self.pipe.send((name, args, umask))
        if not self.pipe.poll(PATIENCE):
            self.interrupt()
            if not self.pipe.poll(PROMPT):
                raise TimeoutError(f"{name} as {self.who.name} has not returned for {PATIENCE:g} s")
            self.pipe.recv()
            return Outcome(errno.EINPROGRESS, None)
        answer: Outcome = self.pipe.recv()
        return answer

    def begin(self, name: str, args: tuple[Any, ...]) -> None:
        """Have it perform a call whose answer is fetched by `end`."""
        self.pipe.send((name, args, 0))

    def waits(self) -> bool:
        """Whether the call that was begun waits in the kernel: sleeping, in fcntl(2) or flock(2).

        It is given PROMPT to get there.
        """
        deadline = time.monotonic() + PROMPT
        while not self.pipe.poll(0.002) and time.monotonic() < deadline:
            with suppress(OSError, IndexError):
                asleep = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] in "SD"
                if asleep and calls.may_wait(Path(f"/proc/{self.pid}/syscall").read_text()):
                    return not self.pipe.poll(0.03)  # a filesystem may take a while to say no
        return False

    def interrupt(self) -> None:
        """Send a signal that is caught and restarts nothing."""
        os.kill(self.pid, signal.SIGUSR1)

    def end(self) -> Outcome:
        """The answer of the call that was begun; EINPROGRESS where it does not return, which interrupts it."""
        if not self.pipe.poll(PROMPT):
            for _ in range(50):
                self.interrupt()
                if self.pipe.poll(PROMPT / 50):
                    self.pipe.recv()
                    return Outcome(errno.EINPROGRESS, None)
            raise TimeoutError(f"a call as {self.who.name} can neither end nor be interrupted")
        answer: Outcome = self.pipe.recv()
        return answer

    def close(self) -> None:
        """End it and wait for it; its mounts go with it."""
        self.pipe.close()
        os.waitpid(self.pid, 0)


def _become(who: Who, base: int, pipe: Connection) -> int:
    """Take on an identity; the base directory, as it is seen from there."""
    keep = {0, 1, 2, base, pipe.fileno()}
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd not in keep:
            try:
                os.close(fd)
            except OSError:
                pass
    os.umask(0)
    if who.mounts:
        os.fchdir(base)
        try:
            libc.unshare(libc.CLONE_NEWNS)
            libc.mount(b"none", b"/", None, libc.MS_REC | libc.MS_PRIVATE, None)
        except OSError:
            return base
        # the descriptor still belongs to the namespace it was opened in, the working directory to the new one
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    os.setgroups(who.groups)
    os.setresgid(who.gid, who.gid, who.gid)
    os.setresuid(who.uid, who.uid, who.uid)
    return base


def _interrupted(number: int, frame: FrameType | None) -> None:
    """A call that may wait ends with EINTR; anything else does not notice."""
    if calls.waiting:
        raise InterruptedError(errno.EINTR, "interrupted")


def _serve(pipe: Connection, base: int) -> None:
    while True:
        try:
            name, args, umask = pipe.recv()
        except EOFError:
            return
        if name == "enter":
            calls.release()
            os.fchdir(base)
            pipe.send(calls.perform("chdir", args))
        else:
            pipe.send(calls.perform(name, args, umask))


class Pool:
    """All workers of a run. The runner's own process is ROOT."""

    def __init__(self, base: int, who: Iterable[Who] = WORKERS) -> None:
        self._workers: dict[str, Worker] = {}
        self._inside: set[str] = set()
        self._begun: set[str] = set()
        self._case = "."
        try:
            for each in who:
                self._workers[each.name] = Worker(each, base)
        except BaseException:
            self.close()
            raise

    def enter(self, case: str) -> None:
        """The directory of the next case, which each worker enters when it is first asked something there."""
        self._case = case
        self._inside.clear()

    def ask(self, who: Who, name: str, args: tuple[Any, ...], umask: int = 0) -> Outcome:
        """Perform one call as somebody."""
        if who == ROOT:
            return calls.perform(name, args, umask)
        worker = self._workers[who.name]
        if who.name not in self._inside:
            entered = worker.ask("enter", (self._case,))
            if entered.errno:
                return entered
            self._inside.add(who.name)
        return worker.ask(name, args, umask)

    def begin(self, who: Who, name: str, args: tuple[Any, ...]) -> bool:
        """Have somebody other than root begin a call; whether it waits in the kernel."""
        self.ask(who, "between", (0, 0, 0))
        worker = self._workers[who.name]
        worker.begin(name, args)
        self._begun.add(who.name)
        return worker.waits()

    def start(self, who: Who, name: str, args: tuple[Any, ...]) -> None:
        """Have somebody other than root begin a call."""
        self.ask(who, "between", (0, 0, 0))
        self._workers[who.name].begin(name, args)
        self._begun.add(who.name)

    def end(self, who: Who, interrupt: bool = False) -> Outcome:
        """What the call that was begun gives, interrupted first if that is asked for."""
        worker = self._workers[who.name]
        if interrupt:
            worker.interrupt()
        self._begun.discard(who.name)
        return worker.end()

    def leave(self) -> None:
        """Have those who were asked close what they hold and go back to the base directory."""
        for name in self._begun:
            self._workers[name].interrupt()
            self._workers[name].end()
        self._begun.clear()
        for name in self._inside:
            self._workers[name].ask("enter", (".",))
        self._inside.clear()

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()
