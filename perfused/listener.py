"""The control socket: connections, HELLO and WELCOME, and what a client holds until it mounts.

Everything a client sends is checked here by wire.control before anybody acts on it. Never here: mounting, and what
perfusectl asks (`answers`).
"""

import contextlib
import errno
import os
import select
import socket
import stat
import struct
from collections.abc import Callable
from typing import NamedTuple

from perfused import channel, kernel
from perfused.config import Config
from perfused.kernel import MountError
from perfused.log import LOGGER
from perfused.policy import Client
from wire import control
from wire.control import Endpoint, Hello, Mount, Request
from wire.errors import WireError

#: frames of a client that cannot be believed before it is sent away
FAULTS = 16
_UCRED = struct.Struct("3i")
SO_SNDBUFFORCE = 32
SO_PEERPIDFD = 77


class Opened(NamedTuple):
    """A device in a client's hands: the daemon's end, and the /dev/fuse a direct client holds (-1 otherwise)."""

    sock: socket.socket
    direct_device: int
    endpoint: Endpoint


class Peer:
    """One connection, and after HELLO one device, with the credentials of connect(2)."""

    def __init__(self, sock: socket.socket, namespace: int, client: Client, private: bool = False) -> None:
        self.sock = sock
        self.client = client
        #: the client's mount namespace where it is another than ours; -1 otherwise. Owned
        self.namespace = namespace
        self.endpoint = Endpoint.ANY
        self.direct_device = -1
        self.name = ""
        self.faults = 0
        self.private = private
        #: a HELLO was answered, or an original frame made the connection a device
        self.device = False

    def close(self) -> None:
        """Let go of everything."""
        self.sock.close()
        for fd in (self.namespace, self.direct_device):
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self.namespace = self.direct_device = -1

    def forget_connection(self) -> None:
        """Close the socket alone."""
        self.sock.close()

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


def mount_namespace(sock: socket.socket, pid: int) -> int:
    """A descriptor of a peer's mount namespace where it is another than ours; -1 where it is ours or not to be had."""
    try:
        fd = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
    if os.stat("/proc/self/ns/mnt").st_ino == os.fstat(fd).st_ino or not _still_there(sock):
        os.close(fd)
        return -1
    return fd


def _still_there(sock: socket.socket) -> bool:
    """Whether the process that connected lives, so that its pid is no other's by now (SO_PEERPIDFD, Linux 6.5)."""
    try:
        pidfd = sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError as bad:
        return bad.errno != errno.ESRCH
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return not poll.poll(0)
    finally:
        os.close(pidfd)


def enlarge(sock: socket.socket, size: int) -> int:
    """Give a socket room for frames of `size` bytes, by force where that is ours to do; the bytes it got."""
    for option in (SO_SNDBUFFORCE, socket.SO_SNDBUF):
        try:
            sock.setsockopt(socket.SOL_SOCKET, option, size)
            break
        except OSError:
            continue
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


_serial = 0


def device_pair(size: int) -> tuple[socket.socket, socket.socket]:
    """The daemon's and the client's end of a device; the daemon's is named, so that the client knows it for ours."""
    global _serial
    mine, theirs = channel.pair()
    for _ in range(1024):
        _serial += 1
        try:
            mine.bind(control.DEVICE_NAME_PREFIX + b"%d/%d" % (os.getpid(), _serial))
            break
        except OSError as bad:
            if bad.errno != errno.EADDRINUSE:
                raise
    enlarge(mine, 2 * size)
    enlarge(theirs, 2 * size)
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
        sock.listen(128)
        sock.setblocking(False)
    except MountError:
        sock.close()
        raise
    except OSError as bad:
        sock.close()
        raise MountError(bad.errno, f"{path}: {bad.strerror}") from None
    return sock


class Listener:
    """Turns packets into calls: `mount(peer, frame, target)` and `ask(peer, request)`, both the supervisor's."""

    def __init__(
        self,
        config: Callable[[], Config],
        count_opens: Callable[[int], int],
        mount: Callable[[Peer, Mount, int | None], None],
        ask: Callable[[Peer, Request], None],
    ) -> None:
        self._config = config
        self._count_opens = count_opens
        self._mount = mount
        self._ask = ask

    def accept(self, sock: socket.socket) -> Peer | None:
        """The next connection, or None. Raises OSError EMFILE, ENFILE, ENOBUFS or ENOMEM where there is no room."""
        try:
            connection, _ = sock.accept()
        except OSError as bad:
            if bad.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            return None
        client = credentials(connection)
        return Peer(connection, mount_namespace(connection, client.pid), client)

    def readable(self, peer: Peer) -> Peer | None:
        """Take one packet of a peer: the peer to watch from now on (HELLO gives a new one), or None: it is done."""
        try:
            packet, fds = channel.receive_packet(peer.sock, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return peer
        if not packet:
            _close(fds)  # an empty packet can carry descriptors too
            return None
        try:
            message = control.parse(packet)
        except WireError as bad:
            _close(fds)
            return self._fault(peer, str(bad))
        if isinstance(message, Mount):
            target = fds.pop(0) if fds else None
            _close(fds)
            if not message.original and target is None:
                return self._fault(peer, "MOUNT came without a descriptor of the target")
            if not message.original and not peer.device:
                _close([target] if target is not None else [])
                return self._fault(peer, "MOUNT before HELLO: there is no device to mount")
            if not peer.device:
                peer.endpoint, peer.device = Endpoint.SOCKET, True
                enlarge(peer.sock, 2 * self._frame_size())
            self._mount(peer, message, target)
            return peer
        _close(fds)
        if isinstance(message, Hello) and not peer.device:
            return self._hello(peer, message)
        if isinstance(message, Request) and not peer.device:
            self._ask(peer, message)
            return peer
        return self._fault(peer, f"{type(message).__name__.upper()} is not expected here")

    def _fault(self, peer: Peer, sentence: str) -> Peer | None:
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
        try:
            opened, given = self._open(peer, endpoint)
        except OSError as bad:
            LOGGER.warning("%s (uid %d, pid %d): no device: %s", name, client.uid, client.pid, bad.strerror)
            peer.say(control.build_welcome(-(bad.errno or errno.EIO), endpoint, 0, bad.strerror or ""))
            return None
        size = min(self._frame_size(), opened.sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - 4096)
        told = peer.say(control.build_welcome(0, endpoint, size), (given,))
        os.close(given)
        if opened.sock is not peer.sock:
            namespace, peer.namespace = peer.namespace, -1
            device = Peer(opened.sock, namespace, client, peer.private)
            peer.close()
        else:
            device = peer
        device.endpoint, device.direct_device = opened.endpoint, opened.direct_device
        device.name, device.device = name, True
        if not told:
            device.close()
            return None
        return device

    def _open(self, peer: Peer, endpoint: Endpoint) -> tuple[Opened, int]:
        """Make a device: what the daemon keeps, and the descriptor that the client gets."""
        if endpoint is Endpoint.DIRECT:
            mine = kernel.open_device()
            return Opened(peer.sock, mine, endpoint), os.dup(mine)
        if endpoint is Endpoint.DEVICE:
            raise MountError(errno.EOPNOTSUPP, "endpoint device is not offered by this daemon: socket and direct are")
        ours, theirs = device_pair(self._frame_size())
        return Opened(ours, -1, endpoint), theirs.detach()


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
