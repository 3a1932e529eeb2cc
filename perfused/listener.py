"""The control socket: connections, HELLO and WELCOME, and what a client holds until it mounts.

Everything a client sends is checked here by wire.control before anybody acts on it. Never here: mounting, and what
perfusectl asks (`answers`).
"""

import contextlib
import errno
import os
import secrets
import socket
import stat
import struct
from collections.abc import Callable
from typing import NamedTuple, Protocol

from perfused import channel, kernel, log, namespaces
from perfused.config import Config
from perfused.kernel import MountError
from perfused.log import LOGGER
from perfused.namespaces import Namespace
from perfused.policy import Client
from wire import control
from wire.control import Endpoint, Hello, Mount, Request
from wire.errors import WireError

#: frames of a client that cannot be believed before it is sent away
FAULTS = 16
_UCRED = struct.Struct("3i")
SO_SNDBUFFORCE = 32
BACKLOG = 1024
#: log lines a second about one user's bad frames
FAULT_LINES = 10


class Opened(NamedTuple):
    """A device in a client's hands: the daemon's end, and the /dev/fuse a direct client holds (-1 otherwise)."""

    sock: socket.socket
    direct_device: int
    endpoint: Endpoint


class Closable(Protocol):
    """What a peer lets go of with itself."""

    def close(self) -> None:
        """Let go."""


class Peer:
    """One connection, and after HELLO one device, with the credentials of connect(2)."""

    def __init__(self, sock: socket.socket, namespace: Namespace, client: Client, private: bool = False) -> None:
        self.sock = sock
        #: the number of `sock` while it is watched
        self.fd = -1
        self.client = client
        #: the client's mount namespace where it is another than ours; -1 otherwise. Owned
        self.namespace = namespace.fd
        self.namespace_number = namespace.number
        #: why this client may not mount in its namespace; "" where it may
        self.barred = namespace.barred
        #: whether the kernel may let descriptors through to `sock`, so that its last close may wait for them
        self.carries = True
        self.endpoint = Endpoint.ANY
        self.direct_device = -1
        #: the process that serves its device, where that is a file
        self.opening: Closable | None = None
        self.name = ""
        self.faults = 0
        self.private = private
        #: a HELLO was answered with a device that is another socket
        self.greeted = False
        #: a HELLO was answered, or an original frame made the connection a device
        self.device = False

    def close(self) -> None:
        """Let go of everything."""
        if self.opening is not None:
            self.opening.close()
        self.sock.close()
        for fd in (self.namespace, self.direct_device):
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self.namespace = self.direct_device = -1

    def say(self, frame: bytes, fds: tuple[int, ...] = ()) -> bool:
        """Send a control frame without ever waiting; False where the client does not take it."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
        try:
            self.sock.sendmsg([frame], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True


def credentials(sock: socket.socket) -> Client:
    """SO_PEERCRED: who connected."""
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Client(uid, gid, pid)


def enlarge(sock: socket.socket, size: int) -> int:
    """Give a socket room for frames of `size` bytes, by force where that is ours to do; the bytes it got."""
    for option in (SO_SNDBUFFORCE, socket.SO_SNDBUF):
        try:
            sock.setsockopt(socket.SOL_SOCKET, option, size)
            break
        except OSError:
            continue
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


def device_pair(size: int) -> tuple[socket.socket, socket.socket]:
    """The daemon's and the client's end of a device; the daemon's is named, so that the client knows it for ours.

    The name cannot be guessed, and so not be taken before.
    """
    mine, theirs = channel.pair()
    try:
        mine.bind(control.DEVICE_NAME_PREFIX + b"%d/%s" % (os.getpid(), secrets.token_hex(12).encode()))
        enlarge(mine, 2 * size)
        enlarge(theirs, 2 * size)
    except BaseException:
        mine.close()
        theirs.close()
        raise
    return mine, theirs


def bind(path: str, mode: int) -> socket.socket:
    """A listening control socket at `path`, which may be left over from a daemon that is gone.

    Raises MountError EADDRINUSE where a daemon answers there, or what bind(2) says.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        if os.path.lexists(path):
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise MountError(errno.EEXIST, f"{path} is there and is no socket")
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
                probe.setblocking(False)
                try:
                    probe.connect(path)
                except ConnectionRefusedError:
                    os.unlink(path)
                except FileNotFoundError:
                    pass
                except BlockingIOError:
                    raise MountError(errno.EADDRINUSE, f"another perfused listens on {path}") from None
                else:
                    raise MountError(errno.EADDRINUSE, f"another perfused listens on {path}")
        before = os.umask(0o177)
        try:
            sock.bind(path)
        finally:
            os.umask(before)
        os.chmod(path, mode)
        channel.bar_rights(sock)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except MountError:
        sock.close()
        raise
    except OSError as bad:
        sock.close()
        raise MountError(bad.errno, f"{path}: {bad.strerror}") from None
    return sock


class Listener:
    """Turns packets into calls: `mount(peer, frame, target)`, `ask(peer, request)`, and `open_device(peer)` for a
    device that is a file, which answers HELLO itself; all the supervisor's."""

    def __init__(
        self,
        config: Callable[[], Config],
        count_opens: Callable[[int], int],
        mount: Callable[[Peer, Mount, bool], None],
        ask: Callable[[Peer, Request], None],
        open_device: Callable[[Peer], None],
    ) -> None:
        self._config = config
        self._count_opens = count_opens
        self._mount = mount
        self._ask = ask
        self._open_device = open_device
        self._fault_lines = log.Limiter(FAULT_LINES)

    def accept(self, sock: socket.socket) -> Peer | None:
        """The next connection, or None. Raises OSError EMFILE, ENFILE, ENOBUFS or ENOMEM where there is no room."""
        try:
            connection, _ = sock.accept()
        except OSError as bad:
            if bad.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            return None
        client = credentials(connection)
        peer = Peer(connection, namespaces.of_peer(connection, client), client)
        peer.carries = not channel.bar_rights(connection)
        return peer

    def readable(self, peer: Peer) -> Peer | None:
        """Take one packet of a peer: the peer to watch from now on (HELLO gives a new one), or None: it is done.

        No descriptor of a client's ever comes into this process: a MOUNT with its target stays where it is, for the
        worker to take.
        """
        try:
            packet, rights = channel.peek(peer.sock)
        except BlockingIOError:
            return peer
        try:
            message = control.parse(packet) if packet else None
        except WireError as bad:
            if not rights:
                return self._take_fault(peer, str(bad))
            message = None
        if rights:
            if isinstance(message, Mount) and not message.original and peer.device:
                self._mount(peer, message, True)
                return peer
            if self._fault_lines.allows(f"uid {peer.client.uid}"):
                LOGGER.warning("uid %d, pid %d: descriptors where none are due", peer.client.uid, peer.client.pid)
            peer.carries = True
            return None
        if message is None:
            return None
        if isinstance(message, Mount):
            if not message.original and not peer.device:
                return self._take_fault(peer, "MOUNT before HELLO: there is no device to mount")
            if not message.original:
                return self._take_fault(peer, "MOUNT came without a descriptor of the target")
            self._take(peer)
            if not peer.device:
                peer.endpoint, peer.device = Endpoint.SOCKET, True
                enlarge(peer.sock, 2 * self._frame_size())
            self._mount(peer, message, False)
            return peer
        if isinstance(message, Hello) and not peer.device:
            self._take(peer)
            return self._hello(peer, message)
        if isinstance(message, Request) and not peer.device:
            self._take(peer)
            self._ask(peer, message)
            return peer
        return self._take_fault(peer, f"{type(message).__name__.upper()} is not expected here")

    @staticmethod
    def _take(peer: Peer) -> None:
        """Take the packet that was peeked at, which carries no descriptor."""
        peer.sock.recv(channel.PACKET + 1, socket.MSG_DONTWAIT)

    def _take_fault(self, peer: Peer, sentence: str) -> Peer | None:
        self._take(peer)
        return self._fault(peer, sentence)

    def _fault(self, peer: Peer, sentence: str) -> Peer | None:
        if self._fault_lines.allows(f"uid {peer.client.uid}"):
            LOGGER.warning("uid %d, pid %d: bad control frame: %s", peer.client.uid, peer.client.pid, sentence)
        peer.faults += 1
        peer.say(control.build_verdict(-control.MALFORMED, 0, sentence))
        return peer if peer.faults < FAULTS else None

    def _frame_size(self) -> int:
        return self._config().init.max_frame or kernel.largest_frame()

    def _hello(self, peer: Peer, hello: Hello) -> Peer | None:
        config, client = self._config(), peer.client
        endpoint = hello.endpoint if hello.endpoint is not Endpoint.ANY else config.endpoint
        name = hello.name.decode(errors="replace")
        if client.uid and self._count_opens(client.uid) >= config.policy.opens_per_user:
            sentence = f"uid {client.uid} holds {config.policy.opens_per_user} devices that it has not mounted"
            peer.say(control.build_welcome(-errno.EMFILE, endpoint, 0, sentence))
            return None
        if endpoint is Endpoint.DEVICE:
            peer.endpoint, peer.name = endpoint, name
            self._open_device(peer)
            return peer
        try:
            opened, given = self._open(peer, endpoint)
        except OSError as bad:
            LOGGER.warning("%s (uid %d, pid %d): no device: %s", name, client.uid, client.pid, bad.strerror)
            peer.say(control.build_welcome(-(bad.errno or errno.EIO), endpoint, 0, bad.strerror or ""))
            return None
        size = min(self._frame_size(), opened.sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - 4096)
        if opened.sock is peer.sock:
            # The MOUNT that comes on it has the target with it, and comes as soon as the client is told.
            channel.bar_rights(peer.sock, False)
            peer.carries = True
        told = peer.say(control.build_welcome(0, endpoint, size), (given,))
        os.close(given)
        if opened.sock is not peer.sock:
            namespace = Namespace(peer.namespace, peer.namespace_number, peer.barred)
            peer.namespace = -1
            peer.greeted = True
            device = Peer(opened.sock, namespace, client, peer.private)
        else:
            device = peer
        device.endpoint, device.direct_device = opened.endpoint, opened.direct_device
        device.name, device.device = name, True
        if not told:
            if device is not peer:
                device.close()
            return None
        return device

    def _open(self, peer: Peer, endpoint: Endpoint) -> tuple[Opened, int]:
        """Make a device: what the daemon keeps, and the descriptor that the client gets."""
        if endpoint is Endpoint.DIRECT:
            mine = kernel.open_device()
            try:
                return Opened(peer.sock, mine, endpoint), os.dup(mine)
            except OSError:
                os.close(mine)
                raise
        ours, theirs = device_pair(self._frame_size())
        return Opened(ours, -1, endpoint), theirs.detach()
