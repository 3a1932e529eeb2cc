"""Devices of endpoint `device` between HELLO and MOUNT: each has a process of its own from the start (`early`).

Here: the daemon's side of them. WELCOME waits for the process, nothing else does. Never here: mounting (`supervisor`).
"""

import errno
import os
import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import Protocol

from perfused import channel, early
from perfused.clients import Clients
from perfused.config import Config
from perfused.listener import Peer
from perfused.log import LOGGER
from perfused.loop import Loop
from perfused.mounted import Mounted
from wire import control
from wire.control import Endpoint

#: seconds a process may take until its file is open
PATIENCE = 15.0


class Daemon(Protocol):
    """What it needs of the daemon."""

    config: Config
    clients: Clients
    loop: Loop
    debug: frozenset[str]

    #: start the process of a device: its pid and our end of the channel that its job has
    spawn: Callable[[Callable[[socket.socket], early.Job]], tuple[int, socket.socket]]

    def worker_ended(self, made: Mounted, status: int) -> None:
        """A process that had been told to mount has ended."""


class Opening:
    """One such device: its process, the channel to it, and what it is being mounted as."""

    def __init__(self, loop: Loop, sock: socket.socket, pid: int) -> None:
        self.channel = sock
        self.pid = pid
        #: "0:57", the device number of its file, once that is open
        self.device = ""
        self.made: Mounted | None = None
        self._loop = loop

    def close(self) -> None:
        """Let go of it: its process ends."""
        self._loop.unwatch(self.channel)
        self.channel.close()


class Openings:
    """All of them."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def start(self, peer: Peer) -> None:
        """Begin with a client that has said HELLO: WELCOME goes to it later, and nothing is heard of it until then."""
        daemon, clients = self._daemon, self._daemon.clients
        clients.release(peer)
        clients.pending.add(peer)
        try:
            pid, ours = daemon.spawn(
                lambda theirs: early.Job(daemon.config, peer.client, peer.sock, peer.namespace, theirs, daemon.debug)
            )
            opening = peer.opening = Opening(daemon.loop, ours, pid)
            daemon.loop.watch_child(pid, partial(self._ended, peer, opening))
        except OSError as bad:
            self._refuse(peer, bad.errno or errno.EIO, f"no worker can be started: {bad.strerror}")
            return
        daemon.loop.watch(ours, partial(self._says, peer, opening))
        daemon.loop.later(PATIENCE, partial(self._late, peer, opening))

    def restore(self, peer: Peer, opening: Opening) -> None:
        """Its mount was refused: it is as before."""
        opening.made = None
        peer.opening = opening
        self._daemon.loop.unwatch(opening.channel)
        self._daemon.loop.watch(opening.channel, partial(self._says, peer, opening))

    def _says(self, peer: Peer, opening: Opening) -> None:
        message, fds = channel.receive(opening.channel)
        try:
            if message is None:
                self._daemon.loop.unwatch(opening.channel)
            elif peer not in self._daemon.clients.pending:
                LOGGER.error("a device worker said %s out of turn", message)
            elif "opened" in message and fds:
                major, minor = message["opened"]
                opening.device = f"{major}:{minor}"
                self._welcome(peer, fds[0])
            else:
                self._refuse(peer, message.get("failed", errno.EMFILE), message.get("message", "no descriptor came"))
        finally:
            for each in fds:
                os.close(each)

    def _welcome(self, peer: Peer, fd: int) -> None:
        clients = self._daemon.clients
        clients.pending.discard(peer)
        peer.device = True
        # The MOUNT that comes on it has the target with it, and comes as soon as the client is told.
        channel.bar_rights(peer.sock, False)
        peer.carries = True
        if peer.say(control.build_welcome(0, Endpoint.DEVICE, early.frame_size(self._daemon.config)), (fd,)):
            clients.adopt(peer)
        else:
            clients.drop(peer)

    def _refuse(self, peer: Peer, code: int, sentence: str) -> None:
        clients = self._daemon.clients
        clients.pending.discard(peer)
        LOGGER.warning("%s (uid %d, pid %d): no device: %s", peer.name, peer.client.uid, peer.client.pid, sentence)
        peer.say(control.build_welcome(-code, Endpoint.DEVICE, 0, sentence))
        clients.drop(peer)

    def _late(self, peer: Peer, opening: Opening) -> None:
        if peer in self._daemon.clients.pending and peer.opening is opening:
            os.kill(opening.pid, signal.SIGKILL)

    def _ended(self, peer: Peer, opening: Opening, status: int) -> None:
        if opening.made is not None:
            self._daemon.worker_ended(opening.made, status)
        elif peer in self._daemon.clients.pending:
            self._refuse(peer, errno.EIO, "the worker ended before its file was open")
        elif peer.opening is opening:
            self._daemon.clients.dismiss(peer)
