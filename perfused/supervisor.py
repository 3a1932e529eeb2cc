"""The daemon itself: one thread, one selector, a worker process for every mount.

It never waits for a client, a filesystem or a mount point: whatever may block (path walks, mount, umount) happens in a
forked process. Messages with a worker: from it `mounted`, `failed`, `ended`; to it `op` = go, stop, stats, trace,
trace-on, trace-off, dump, mute, lend. Never here: frames of FUSE, and what perfusectl is answered (`answers`).
"""

import errno
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from perfused import answers, backing, channel, early, keeper, libc, log, notify_systemd, unmounting
from perfused.clients import Clients
from perfused.config import Config, ConfigError
from perfused.departures import Departures
from perfused.kernel import find_mount, mounts
from perfused.listener import Listener, Peer, credentials
from perfused.log import LOGGER
from perfused.loop import Loop, exit_text
from perfused.mounted import Mounted
from perfused.namespaces import OURS
from perfused.openings import Opening, Openings
from perfused.placing import Job
from perfused.spawner import Spawner, adopt_orphans, fork
from perfused.stopping import Stopping
from wire import control
from wire.control import Endpoint, Mount, Request

#: seconds a worker may take to exit once it has said that its mount is over
EXIT_PATIENCE = 1.0
#: log lines a second about what one user is refused
REFUSAL_LINES = 10


class Supervisor:
    """The daemon; `run` returns its exit status."""

    def __init__(
        self,
        config: Config,
        listening: list[socket.socket],
        reload: Callable[[], Config],
        debug: frozenset[str] = frozenset(),
        muted: bool = False,
        private: socket.socket | None = None,
        tracing: bool = False,
    ) -> None:
        self.config = config
        self.debug = debug
        self.muted = muted
        self.tracing = tracing
        self.mounted: dict[int, Mounted] = {}
        self._listening = listening
        self._reload = reload
        self._private = private
        self._numbers = 0
        #: channels of workers whose mount is over
        self._lingering: set[socket.socket] = set()
        self._lines = log.Limiter(REFUSAL_LINES)
        self._stopping = Stopping(self)
        self.loop = Loop()
        self.clients = Clients(self.loop, fork, lambda: len(self.mounted))
        self._openings = Openings(self)
        self.clients.listener = Listener(
            lambda: self.config, self.clients.opens, self.mount, self._asked, self._openings.start
        )
        # Whatever is forked shares what there is by now, and collects no garbage in it.
        gc.collect()
        gc.freeze()
        adopt_orphans()
        self._keeper_pid, self._keeper = keeper.start()
        self._spawner = Spawner(self.loop, lambda: self.config)
        #: start the process of a mount, or of a device that is a file
        self.spawn = self._spawner.spawn
        self._departures = Departures(self.loop, self.mounted)

    def _asked(self, peer: Peer, request: Request) -> None:
        answers.answer(self, peer, request)

    def dismiss(self, peer: Peer) -> None:
        """Let go of a client."""
        self.clients.dismiss(peer)

    # -- the loop --------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until told to stop, or, as a private daemon, until nobody needs it."""
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
        self.loop.watch_signals(numbers, self._signal)
        self.loop.watch_child(self._keeper_pid, self._keeper_died)
        for sock in self._listening:
            self.clients.listen(sock)
        if self._private is not None:
            self.clients.adopt(Peer(self._private, OURS, credentials(self._private), private=True))
        if self._private is None:
            # A private daemon forks one worker in its life.
            self._spawner.start()
        notify_systemd.notify("READY=1\nSTATUS=0 mounts")
        LOGGER.info("ready%s", "" if self._private else f", {len(self._listening)} control socket(s)")
        self.loop.later(0, self._departures.start)
        self.loop.run(self.done)
        for pid in self.clients.closers | self.clients.registrars:
            os.kill(pid, signal.SIGKILL)
        self._keeper.close()
        self._spawner.close()
        LOGGER.info("stopped")
        return 0

    def done(self) -> bool:
        """Whether nothing is left to wait for."""
        if self._stopping.abandoned:
            return True
        aside = {self._keeper_pid} | self._spawner.pids | self.clients.closers.keys() | self.clients.registrars.keys()
        if self.mounted or self.loop.children() - aside:
            return False
        return self._stopping.begun or (self._private is not None and not self.clients.expected())

    # -- mounting --------------------------------------------------------------------------------------------------

    def mount(self, peer: Peer, request: Mount, pinned: bool) -> None:
        """Fork a worker that decides and mounts; its answer comes over its channel.

        `pinned`: a packet with the target's descriptor is left on the peer's socket for the worker.
        """
        if "puffs" in self.debug:
            LOGGER.debug("uid %d, pid %d (%s) asks for %s", peer.client.uid, peer.client.pid, peer.name, request)
        made = Mounted(peer.client, peer.name, peer.endpoint, request, peer.namespace, peer, peer.namespace_number)
        made.device = backing.device_name(peer.sock)
        self.clients.release(peer)
        mine = sum(1 for each in self.mounted.values() if each.client.uid == peer.client.uid)
        most = self.config.policy.mounts_per_user
        if self._stopping.begun:
            self._refused(made, errno.ESHUTDOWN, "perfused is stopping", pinned)
        elif peer.barred:
            self._refused(made, errno.EPERM, peer.barred, pinned)
        elif peer.client.uid and mine >= most:
            sentence = f"uid {peer.client.uid} has {mine} mounts: policy.mounts_per_user is {most}"
            self._refused(made, errno.EMFILE, sentence, pinned)
        else:
            try:
                if peer.endpoint is Endpoint.DEVICE:
                    self._use_opening(made, peer, mine)
                else:
                    self._start_worker(made, peer, pinned, mine)
            except OSError as bad:
                self._refused(made, bad.errno or errno.EIO, f"no worker can be started: {bad.strerror}", pinned)

    def _start_worker(self, made: Mounted, peer: Peer, pinned: bool, mine: int) -> None:
        request = None if pinned else made.request
        made.pid, ours = self.spawn(
            lambda theirs: Job(
                self.config, peer.client, mine, request, pinned, peer.endpoint, peer.sock, peer.direct_device,
                peer.namespace, theirs, self.debug, self.tracing,
            )
        )  # fmt: skip
        try:
            self.loop.watch_child(made.pid, lambda status: self.worker_ended(made, status))
        except OSError:
            ours.close()
            # Nobody waits for it: it may have taken a descriptor whose close waits.
            os.kill(made.pid, signal.SIGKILL)
            raise
        self._enter(made, ours)

    def _use_opening(self, made: Mounted, peer: Peer, mine: int) -> None:
        """The worker of a device file is there since HELLO, and takes the packet itself."""
        opening = peer.opening
        assert isinstance(opening, Opening)
        made.opening, opening.made, peer.opening = opening, made, None
        made.pid, made.device = opening.pid, b"\0" + opening.device.encode()
        self.loop.unwatch(opening.channel)
        self._enter(made, opening.channel)
        channel.send(opening.channel, early.order(mine, self.config, self.tracing), flags=socket.MSG_DONTWAIT)

    def _enter(self, made: Mounted, ours: socket.socket) -> None:
        self._numbers += 1
        made.number, made.channel = self._numbers, ours
        self.mounted[made.number] = made
        self.loop.watch(ours, lambda: self._worker_says(made))

    def _worker_says(self, made: Mounted) -> None:
        message, fds = channel.receive(made.channel)
        for each in fds:
            os.close(each)
        if "puffs" in self.debug:
            LOGGER.debug("worker %d says %s", made.pid, message)
        if message is None:
            self.loop.unwatch(made.channel)
        elif "mounted" in message:
            self._mounted(made, message["mounted"])
        elif "failed" in message:
            peer = made.peer
            self._refused(made, message["failed"], message["message"])
            if made.opening is not None and peer is not None:
                self.mounted.pop(made.number, None)
                self._openings.restore(peer, made.opening)
        elif "ended" in message:
            made.reason = message["ended"]
            if made.opening is not None and made.up:
                # It goes on answering those who have its file open; the mount is over.
                made.over = True
                self._over(made, made.reason)
                if self._stopping.begun:
                    channel.send(made.channel, {"op": "stop"}, flags=socket.MSG_DONTWAIT)
                else:
                    self._lingering.add(made.channel)
            elif made.up:
                self.loop.later(EXIT_PATIENCE, partial(self._abort_stuck, made))

    def _mounted(self, made: Mounted, where: dict[str, Any]) -> None:
        """Enter it into the books, tell the keeper, then the client, then let the worker go: in this order."""
        made.target, made.minor = where["target"], where["minor"]
        made.mount_id, made.unique = where["mount_id"], where["unique"]
        made.fstype, made.source = where["fstype"], where["source"]
        keeper.add(self._keeper, made.number, made.place)
        peer = made.peer
        assert peer is not None
        told = made.request.original or peer.say(control.build_verdict(0, made.minor, ""))
        made.peer, peer.namespace = None, -1
        peer.close()
        what = f"{made.fstype} for uid {made.client.uid}{f' ({made.program})' if made.program else ''}"
        LOGGER.info("%s: mounted, %s, endpoint %s, worker %d", made.target, what, made.endpoint.name.lower(), made.pid)
        channel.send(made.channel, {"op": "go" if told else "stop"})
        self._status()

    def _refused(self, made: Mounted, code: int, sentence: str, unread: bool = False) -> None:
        """Tell the client why, and give it back its device to try again; an original one is closed, and so is one whose
        MOUNT nobody has taken (`unread`), since a descriptor is queued on it."""
        peer, made.peer = made.peer, None
        assert peer is not None
        target = made.request.target.decode(errors="replace")
        name = errno.errorcode.get(code, str(code))
        if self._lines.allows(f"refusals for uid {made.client.uid}"):
            LOGGER.warning("%s: not mounted for uid %d: %s (%s)", target, made.client.uid, sentence, name)
        if not made.request.original:
            peer.say(control.build_verdict(-code, 0, sentence))
        if made.request.original or unread:
            self.clients.drop(peer)
        else:
            self.clients.adopt(peer)

    # -- ends ------------------------------------------------------------------------------------------------------

    def worker_ended(self, made: Mounted, status: int) -> None:
        """Whatever ended a worker, the mount goes with it: its descriptor is closed, so nothing in it can hang."""
        if self.loop.watches(made.channel):
            peer = made.peer
            while not made.reason:
                try:
                    message, fds = channel.receive(made.channel, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    break
                for each in fds:
                    os.close(each)
                if message is None:
                    break
                if "mounted" in message:
                    self._mounted(made, message["mounted"])
                elif "failed" in message:
                    self._refused(made, message["failed"], message["message"])
                made.reason = message.get("ended", made.reason)
            self.loop.unwatch(made.channel)
            if made.opening is not None and peer is not None and made.peer is None and not made.up:
                self.dismiss(peer)  # it was given back a device that is gone
        self._lingering.discard(made.channel)
        made.channel.close()
        if made.over:
            return
        code = os.waitstatus_to_exitcode(status)
        if made.peer is not None:
            self._refused(made, errno.EIO, f"the worker ended before it had mounted ({exit_text(code)})", True)
        if not made.up:
            self._remove(made)
            return
        self._over(made, made.reason or f"the worker {exit_text(code)}")

    def _abort_stuck(self, made: Mounted) -> None:
        """End the connection of a worker that has said farewell and is still there.

        The kernel may hold a thread of it back in write(2) with a notification, until a request is answered that nobody
        will answer any more; that thread holds the device, so no close of it ends the connection.
        """
        if made.number in self.mounted and made.pid in self.loop.children():
            LOGGER.warning("%s: worker %d cannot end; its connection is aborted", made.target, made.pid)
            self.unmount(made, libc.MNT_FORCE | libc.MNT_DETACH, lambda _: None)

    def _over(self, made: Mounted, reason: str) -> None:
        gone = made.namespace < 0 and find_mount(made.mount_id, made.minor, made.unique) is None
        if reason == "unmounted" and made.namespace < 0 and not gone:
            # The kernel says ENODEV of an aborted connection too, unless ABORT_ERROR was negotiated.
            reason = "connection aborted"
        LOGGER.log(logging.INFO if made.reason else logging.ERROR, "%s: ended: %s", made.target, reason)
        if gone:
            self._remove(made)
            return
        self.clear(made)

    def _cleared(self, made: Mounted, failure: int) -> None:
        """What could not be unmounted stays in the books, and is tried again: it counts as its user's all the while."""
        if not failure:
            LOGGER.info("%s: unmounted", made.target)
            self._remove(made)
        elif self._stopping.begun:
            LOGGER.error("%s: could not be unmounted: %s", made.target, os.strerror(failure))
            self._remove(made)
        else:
            made.failures += 1
            wait = min(2.0**made.failures, 60.0)
            LOGGER.error("%s: could not be unmounted: %s; again in %g s", made.target, os.strerror(failure), wait)
            self.loop.later(wait, partial(self.clear, made))

    def clear(self, made: Mounted) -> None:
        """Take away what still stands of a mount that has ended."""
        if made.number in self.mounted:
            # A worker that lingers for its device file may still hold the device.
            flags = libc.MNT_DETACH | (libc.MNT_FORCE if made.over else 0)
            self.unmount(made, flags, partial(self._cleared, made))

    def _remove(self, made: Mounted) -> None:
        self.mounted.pop(made.number, None)
        if made.up:
            keeper.remove(self._keeper, made.number)
        if made.namespace >= 0 and made.up:
            os.close(made.namespace)
        self._status()

    def unmount(self, made: Mounted, flags: int, then: Callable[[int], None]) -> None:
        """Unmount in a process of its own; `then(errno)`, 0 for success, when it has ended."""
        pid = unmounting.start(made.place, flags)
        made.unmounting += 1
        self.loop.watch_child(pid, partial(self._unmounted, made, then))

    @staticmethod
    def _unmounted(made: Mounted, then: Callable[[int], None], status: int) -> None:
        made.unmounting -= 1
        then(unmounting.result(status))

    def refresh(self) -> None:
        """Bring the paths of mounts up to date: a directory on the way may have been renamed."""
        standing = {line.mount_id: line.target for line in mounts() if line.major == 0}
        for made in self.mounted.values():
            if made.up and made.namespace < 0:
                made.target = standing.get(made.mount_id, made.target)

    def _keeper_died(self, status: int) -> None:
        if self._stopping.begun:
            return
        LOGGER.error("the keeper %s; starting another", exit_text(os.waitstatus_to_exitcode(status)))
        self._keeper.close()
        mine, theirs = channel.pair()
        self._keeper_pid = fork({theirs.fileno()}, lambda: keeper.serve(theirs))
        theirs.close()
        self._keeper = mine
        self.loop.watch_child(self._keeper_pid, self._keeper_died)
        for made in self.mounted.values():
            if made.up:
                keeper.add(self._keeper, made.number, made.place)

    # -- signals ---------------------------------------------------------------------------------------------------

    def _signal(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self.stop(signal.Signals(number).name)
        elif number == signal.SIGHUP:
            self._reconfigure()
        elif number == signal.SIGUSR1:
            answers.toggle_trace(self)
        elif number == signal.SIGUSR2:
            self.muted = not self.muted
            log.mute(self.muted)
            self.tell_all({"op": "mute", "level": LOGGER.level})

    def tell_all(self, message: dict[str, Any]) -> None:
        """Send a message to every worker that relays."""
        for made in self.mounted.values():
            if made.up:
                channel.send(made.channel, message, flags=socket.MSG_DONTWAIT)

    def _reconfigure(self) -> None:
        notify_systemd.notify("RELOADING=1")
        try:
            self.config = self._reload()
            LOGGER.info("configuration read again; it holds for new mounts")
            if self._private is None:
                self._spawner.start()
        except ConfigError as bad:
            LOGGER.error("configuration kept as it was: %s", bad)
        notify_systemd.notify("READY=1")

    def _status(self) -> None:
        notify_systemd.notify(f"STATUS={sum(1 for each in self.mounted.values() if each.up)} mounts")

    def stop(self, why: str) -> None:
        """Unmount everything, by force what is in use, and end."""
        if self._stopping.begun:
            return
        LOGGER.info("stopping (%s): %d mount(s)", why, len(self.mounted))
        notify_systemd.notify("STOPPING=1")
        for each in self._listening:
            self.loop.unwatch(each)
            each.close()
        self.clients.end()
        for each in self._lingering:
            channel.send(each, {"op": "stop"}, flags=socket.MSG_DONTWAIT)
        self._stopping.begin()
