"""When a worker looks at what is in flight: now and then while there is something, and never while there is not.

A look finds callers that were killed, deadlines that have passed, and the end of the mount where no thread reads its
device. Nothing is stamped on the way of a request. So for an idle mount, before it stops to look, the kernel is told to
send a signal with the next request, or with the end of the connection (O_ASYNC; it is taken back with the first, since
it would come with each). Never here: what is done about a request (`engine`).
"""

import fcntl
import math
import os
import signal
import struct
import threading

from perfused.relay import Relay

#: seconds between looks where no deadline asks for more
IDLE_TICK = 2.0
#: seconds a frame may still be on its way to the filesystem after a look has seen that the kernel's side has ended
LAST_WORDS = 1.0
F_SETOWN_EX, F_OWNER_TID = 15, 0


class Sweeper:
    """Looks after one relay, in the thread that made it. `signals`: the kernel signals what the relay reads."""

    def __init__(self, relay: Relay, signals: bool) -> None:
        self._relay = relay
        self._signals = signals
        self._next = math.inf
        self._give_up = math.inf
        #: requests so far, when last looked
        self._requests = -1
        self._armed = False

    def start(self, now: float) -> None:
        """Begin to look."""
        self._next = now + self._tick()
        if self._signals:
            owner = struct.pack("=ii", F_OWNER_TID, threading.get_native_id())
            fcntl.fcntl(self._relay.device, F_SETOWN_EX, owner)

    def due(self) -> float:
        """When to look next, as time.monotonic() counts; infinity while nothing is to be looked for."""
        return min(self._next, self._give_up)

    def stirred(self, now: float) -> None:
        """The kernel has signalled: there is something to look for again."""
        if self._armed:
            self._arm(False)
            self._next = now + self._tick()

    def look(self, now: float) -> None:
        """Look, where it is time to."""
        if now >= self._give_up:
            self._relay.kernel_ended()
            self._give_up = math.inf
        if now < self._next:
            return
        relay = self._relay
        relay.sweep(now, caller_dying)
        if self._give_up == math.inf and relay.device_ended():
            self._give_up = now + LAST_WORDS
        before, self._requests = self._requests, sum(relay.engine.counters.requests)
        idle = self._requests == before and not relay.engine.inflight
        late = now - self._next > self._tick()
        self._next = now + self._tick()
        if not idle:
            self._arm(False)
        elif not self._armed:
            self._arm(self._signals)
        elif not late:
            # A request that was read before the kernel was told has been counted by now.
            self._next = math.inf

    def _arm(self, on: bool) -> None:
        if on != self._armed:
            flags = fcntl.fcntl(self._relay.device, fcntl.F_GETFL)
            fcntl.fcntl(self._relay.device, fcntl.F_SETFL, flags | os.O_ASYNC if on else flags & ~os.O_ASYNC)
            self._armed = on

    def _tick(self) -> float:
        """Seconds between looks: a quarter of the shortest time asked for, at most IDLE_TICK."""
        rules = self._relay.engine.rules
        times = [
            each for each in (rules.deadline, rules.deadline and rules.interrupt_grace, rules.killed_grace) if each
        ]
        return min([IDLE_TICK, *(max(each / 4, 0.02) for each in times)])


def caller_dying(pid: int) -> bool:
    """Whether a caller has been killed: SIGKILL pending, or already exiting (proc(5): status, stat)."""
    if pid == 0:
        return False
    try:
        with open(f"/proc/{pid}/status") as status:
            pending = [line for line in status if line.startswith(("SigPnd:", "ShdPnd:"))]
        with open(f"/proc/{pid}/stat") as stat:
            flags = int(stat.read().rpartition(")")[2].split()[6])
    except (OSError, ValueError, IndexError):
        return False
    killed = any(int(line.split()[1], 16) >> (signal.SIGKILL - 1) & 1 for line in pending)
    return killed or bool(flags & 0x4)
