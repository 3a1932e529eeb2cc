"""Who is connected: connections and devices from accept(2) until they mount or go.

Nothing a client does may make the daemon wait. Never here: what their frames say (`listener`), and mounting.
"""

import contextlib
import os
import resource
import socket
from collections.abc import Callable
from functools import partial

from perfused import log
from perfused.listener import Listener, Peer
from perfused.log import LOGGER
from perfused.loop import Loop

#: connections at once that have said nothing yet, per user other than root
SILENT_PER_USER = 64
#: sockets of a user's that a process of ours is still closing
LINGERING_PER_USER = 16
#: descriptors kept free of clients
SPARE = 64
#: log lines a second about one user's refused connections
LINES = 10
#: seconds a connection may stay silent before its first frame
SILENCE = 30.0


def _drain(sock: socket.socket) -> None:
    """Read what a socket still holds: closed over it, the client would see a reset before what it was told last."""
    sock.setblocking(False)
    with contextlib.suppress(OSError):
        while sock.recv(1):
            pass


class Clients:
    """The peers. `fork(keep, child)` runs a child that keeps only those descriptors; `mounts()` counts mounts."""

    def __init__(
        self, loop: Loop, fork: Callable[[set[int], Callable[[], object]], int], mounts: Callable[[], int]
    ) -> None:
        self.loop = loop
        self.listener: Listener
        self.peers: dict[int, Peer] = {}
        #: processes that close a client's socket, and whose
        self.closers: dict[int, int] = {}
        #: processes that answer a client in the daemon's place, and for which mount's number
        self.registrars: dict[int, int] = {}
        #: those whose WELCOME is being prepared
        self.pending: set[Peer] = set()
        self.stopping = False
        self._fork = fork
        self._mounts = mounts
        self._silences: dict[int, list[Callable[[], object]]] = {}
        self._lines = log.Limiter(LINES)

    def listen(self, sock: socket.socket) -> None:
        if not self.stopping:
            self.loop.watch(sock, partial(self._accept, sock), vital=True)

    def _accept(self, sock: socket.socket) -> None:
        try:
            peer = self.listener.accept(sock)
        except OSError as bad:
            LOGGER.error("no descriptors left for another connection: %s", bad.strerror)
            self.loop.unwatch(sock)
            self.loop.later(1.0, partial(self.listen, sock))
            return
        if peer is None:
            return
        uid = peer.client.uid
        silent = sum(1 for each in self.peers.values() if not each.device and each.client.uid == uid)
        lingering = sum(1 for each in self.closers.values() if each == uid)
        if uid and (silent >= SILENT_PER_USER or lingering >= LINGERING_PER_USER):
            if self._lines.allows(f"connections of uid {uid}"):
                LOGGER.warning(
                    "uid %d: %d silent and %d lingering connections; another is refused", uid, silent, lingering
                )
            self.drop(peer)
        elif 3 * len(self.peers) + 4 * self._mounts() + SPARE > resource.getrlimit(resource.RLIMIT_NOFILE)[0]:
            LOGGER.error("too many connections and mounts for RLIMIT_NOFILE; one of uid %d is refused", uid)
            self.drop(peer)
        else:
            self.adopt(peer)

    def adopt(self, peer: Peer) -> None:
        peer.fd = peer.sock.fileno()
        self.peers[peer.fd] = peer
        if not peer.device and not peer.private:
            self._silences[peer.fd] = self.loop.later(SILENCE, partial(self._silent, peer))
        self.loop.watch(peer.sock, lambda: self._readable(peer))

    def _silent(self, peer: Peer) -> None:
        """Send away who connected and said nothing."""
        if not peer.device and self.peers.get(peer.fd) is peer:
            self.dismiss(peer)

    def _readable(self, peer: Peer) -> None:
        follow = self.listener.readable(peer)
        if follow is peer:
            return
        # A private daemon has no path to connect to: what its client asks later comes on the connection of HELLO.
        if self.peers.get(peer.fd) is peer and not (follow is not None and peer.private):
            self.dismiss(peer)
        if follow is not None:
            self.adopt(follow)

    def release(self, peer: Peer) -> None:
        """Stop watching a peer without closing it."""
        if self.peers.get(peer.fd) is peer:
            del self.peers[peer.fd]
            self.loop.unwatch(peer.fd)
            self._silences.pop(peer.fd, []).clear()

    def dismiss(self, peer: Peer) -> None:
        """Stop watching a peer and close it."""
        self.release(peer)
        self.drop(peer)

    def drop(self, peer: Peer) -> None:
        """Close a peer without ever waiting.

        A client may have sent descriptors whose last close waits (a file of a filesystem that answers no FLUSH, a TCP
        socket that lingers). Where such may still be queued, another process is the last to close the socket.
        """
        if not (peer.client.uid and peer.carries):
            peer.close()
            return
        try:
            self._give(peer, set(), self.closers, peer.client.uid, partial(_drain, peer.sock))
        except OSError as bad:
            LOGGER.error("a socket of uid %d cannot be closed now: %s", peer.client.uid, bad.strerror)
            if peer.sock.fileno() >= 0:
                self.loop.later(1.0, partial(self.drop, peer))

    def help(self, peer: Peer, number: int, keep: set[int], child: Callable[[], object]) -> None:
        """Have `child` serve a connection in a process of its own, for the mount of that number. Raises OSError."""
        self.release(peer)
        self._give(peer, keep | {peer.namespace}, self.registrars, number, child)

    def _give(self, peer: Peer, keep: set[int], book: dict[int, int], entry: int, child: Callable[[], object]) -> None:
        """Fork a process that is the last to close a peer's socket: it does nothing until we have closed ours."""
        pipe = os.pipe2(os.O_CLOEXEC)

        def begin() -> None:
            os.read(pipe[0], 1)
            child()

        try:
            pid = self._fork(keep | {peer.sock.fileno(), pipe[0]}, begin)
            book[pid] = entry
            peer.close()
            self.loop.watch_child(pid, partial(self._ended, book, pid))
        finally:
            for fd in pipe:
                os.close(fd)

    @staticmethod
    def _ended(book: dict[int, int], pid: int, status: int) -> None:
        book.pop(pid, None)

    def opens(self, uid: int) -> int:
        """Devices that a user holds and has not mounted."""
        held = [peer for peer in self.peers.values() if peer.device]
        return sum(1 for peer in (*held, *self.pending) if peer.client.uid == uid)

    def expected(self) -> bool:
        """Whether a client holds a device that it may still mount, or has not asked for one yet."""
        return bool(self.pending) or any(peer.device or not peer.greeted for peer in self.peers.values())

    def end(self) -> None:
        """Take no more clients, and let go of those that have not mounted."""
        self.stopping = True
        for peer in (*self.peers.values(), *self.pending):
            self.dismiss(peer)
        self.pending.clear()
