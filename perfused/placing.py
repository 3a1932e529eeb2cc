"""What a worker does before it serves: decide, mount, and give its rights up for good.

Everything here runs with the daemon's rights, in the worker's process or in one that it forks: to walk paths, parse and
mount takes a megabyte of pages, which no worker should keep. Never here: frames of FUSE.
"""

import errno
import fcntl
import os
import pwd
import signal
import socket
from contextlib import ExitStack
from typing import Any, NamedTuple, NoReturn

from perfused import channel, kernel, libc, log, policy, unmounting
from perfused.config import Config
from perfused.kernel import MountError, MountInfo
from perfused.log import LOGGER
from perfused.policy import Client
from wire import control
from wire.control import Endpoint, Mount
from wire.errors import WireError


class Job(NamedTuple):
    """What the supervisor forks a worker for."""

    config: Config
    client: Client
    mine: int
    #: what is to be mounted; None where `pinned`
    request: Mount | None
    #: whether a packet with all that, and the target's descriptor, waits on `device_socket`; else the target is a path
    pinned: bool
    endpoint: Endpoint
    #: the daemon's end of the socket endpoint, or the connection of a direct one
    device_socket: socket.socket
    #: the /dev/fuse a direct client holds; -1 otherwise
    direct_device: int
    #: the client's mount namespace where it is not ours; -1 otherwise
    namespace: int
    channel: socket.socket
    debug: frozenset[str]
    trace: bool

    def plain(self) -> tuple[tuple[Any, ...], list[int]]:
        """All but the settings and the channel, in types that `marshal` knows, and the descriptors beside them."""
        optional = [each for each in (self.direct_device, self.namespace) if each >= 0]
        values = (
            tuple(self.client), self.mine, self.request and tuple(self.request), self.pinned, int(self.endpoint),
            self.direct_device >= 0, self.namespace >= 0, self.debug, self.trace,
        )  # fmt: skip
        return values, [self.device_socket.fileno(), *optional]

    @classmethod
    def of_plain(cls, values: tuple[Any, ...], fds: list[int], config: Config, channel: socket.socket) -> "Job":
        """What `plain` was made of."""
        client, mine, request, pinned, endpoint, direct, namespaced, debug, trace = values
        device_socket = socket.socket(fileno=fds[0])
        return cls(
            config, Client(*client), mine, request and Mount(*request), pinned, Endpoint(endpoint), device_socket,
            fds[1] if direct else -1, fds[-1] if namespaced else -1, channel, debug, trace,
        )  # fmt: skip


class Placed(NamedTuple):
    """A mount: the kernel's descriptor, what stands in mountinfo, and the process that mounted it, to be reaped."""

    device: int
    where: MountInfo
    mounter: int


def perform_apart(job: Job, own: tuple[int, int] | None = None) -> Placed:
    """`perform` in a process of its own, which takes all that it took along: its pages, the target's descriptor, the
    client's mount namespace. Raises as `perform` does; MountError EIO where that process is killed.
    """
    ours, theirs = channel.pair()
    with ours:
        parent = os.getpid()
        with theirs:
            pid = os.fork()
            if not pid:
                _perform_and_end(job, own, theirs, parent)
        message, fds = channel.receive(ours)
    if message is not None and "mounted" in message:
        return Placed(fds[0], MountInfo(**message["mounted"]), pid)
    os.waitpid(pid, 0)
    if message is None:
        raise MountError(errno.EIO, "the process that was to mount has ended")
    raise MountError(message["failed"], message["message"])


def _perform_and_end(job: Job, own: tuple[int, int] | None, sock: socket.socket, parent: int) -> NoReturn:
    try:
        keep = {sock.fileno(), job.device_socket.fileno(), job.direct_device, job.namespace}
        unmounting.close_all_but(keep | log.descriptors())
        _end_with(parent)
        try:
            device, where = perform(job, own, parent)
            channel.send(sock, {"mounted": where._asdict()}, (device,))
        except OSError as bad:
            channel.send(sock, failure(bad))
    except Exception:
        LOGGER.exception("mounting failed")
    finally:
        os._exit(0)


def _end_with(parent: int) -> None:
    """Be killed when the worker is; a change of ids takes that back."""
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def failure(bad: OSError) -> dict[str, Any]:
    """What is told of a mount that failed."""
    # Without a sentence of ours it is above all the target: on a FUSE mount without allow_other not even root may look.
    sentence = bad.strerror if isinstance(bad, MountError) else f"the target cannot be used: {bad.strerror}"
    return {"failed": bad.errno or errno.EIO, "message": sentence}


def perform(job: Job, own: tuple[int, int] | None, parent: int) -> tuple[int, MountInfo]:
    """Decide and mount: (the kernel's descriptor, what stands in mountinfo). Raises MountError, OSError of the target.

    The target may not be on the device numbered `own`. Nothing is left open after a failure, but the process may be in
    the client's mount namespace by then. It ends with `parent`, its own.
    """
    request, client = job.request, job.client
    with ExitStack() as undo:

        def keep(fd: int) -> int:
            undo.callback(os.close, fd)
            return fd

        target = -1
        if job.pinned:
            # First of all, so that the packet does not stay on a device that is given back.
            request, target = take_mount(job.device_socket)
            keep(target)
            if own is not None and device_of(target) == own:
                raise MountError(errno.ELOOP, "the target is the very device that is to be mounted")
        assert request is not None
        wanted = policy.read_options(request.fstype, request.data, request.flags)
        device = job.direct_device if job.direct_device >= 0 else keep(kernel.open_device())
        proc = keep(os.open("/proc", os.O_PATH | os.O_CLOEXEC))
        if not job.pinned:
            if job.namespace >= 0:
                libc.setns(job.namespace, libc.CLONE_NEWNS)
            target = keep(_open_target(request.target, client, parent))
        policy.allow(job.config.policy, client, wanted, target, request.flags, job.mine)
        options = policy.settle_options(client, wanted, target, request.source, request.flags)
        context, mounted = kernel.mount(device, options)
        if job.namespace >= 0 and job.pinned:
            try:
                libc.setns(job.namespace, libc.CLONE_NEWNS)
            except OSError as bad:
                for fd in (context, mounted):
                    if fd >= 0:
                        os.close(fd)
                raise MountError(bad.errno, f"the client's mount namespace cannot be entered: {bad.strerror}") from None
        where = kernel.attach(device, options, context, mounted, target, proc)
        undo.pop_all()
        os.close(target)
        os.close(proc)
        return device, where


def take_mount(sock: socket.socket) -> tuple[Mount, int]:
    """The MOUNT frame that the daemon has only looked at, and the descriptor of the target beside it.

    Taken here, because letting go of a client's descriptor may wait for whatever it is of. Raises MountError EBADMSG.
    """
    packet, fds = channel.receive_packet(sock, socket.MSG_DONTWAIT)
    try:
        message = control.parse(packet)
        if not isinstance(message, Mount) or not fds:
            raise MountError(errno.EBADMSG, "MOUNT came without a descriptor of the target")
        if not fcntl.fcntl(fds[0], fcntl.F_GETFL) & os.O_PATH:
            raise MountError(errno.EBADMSG, "the descriptor of the target must be opened with O_PATH")
    except (MountError, WireError) as bad:
        for each in fds:
            os.close(each)
        raise bad if isinstance(bad, MountError) else MountError(errno.EBADMSG, str(bad)) from None
    for each in fds[1:]:
        os.close(each)
    return message, fds[0]


def device_of(fd: int) -> tuple[int, int]:
    """The device numbers of the filesystem that an open file is on; no filesystem is asked."""
    found = libc.facts(fd)
    return found.major, found.minor


def _open_target(path: bytes, client: Client, parent: int) -> int:
    """The target of an original frame, walked with the client's own rights."""
    if not path.startswith(b"/"):
        raise MountError(errno.EINVAL, f"target {path!r}: an absolute path was expected")
    mine, groups = (os.geteuid(), os.getegid()), os.getgroups()
    borrow = client.uid != 0 and mine[0] == 0
    if borrow:
        os.setgroups([])
        os.setegid(client.gid)
        os.seteuid(client.uid)
        _end_with(parent)
    try:
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as bad:
        raise MountError(bad.errno, f"target {path.decode(errors='replace')}: {bad.strerror}") from None
    finally:
        if borrow:
            os.seteuid(mine[0])
            os.setegid(mine[1])
            os.setgroups(groups)
            _end_with(parent)


def drop_privileges(user: str) -> None:
    """Become `user` without capabilities or groups, for good. Where that is not ours to do (in a user namespace, or
    started by an ordinary user) the capabilities go all the same."""
    libc.drop_bounding_set()
    try:
        entry = pwd.getpwnam(user)
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
            os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    except (OSError, KeyError) as bad:
        LOGGER.debug("worker stays uid %d: %s", os.geteuid(), bad)
    libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
    libc.drop_capabilities()
    libc.prctl(libc.PR_SET_DUMPABLE, 0)
    os.umask(0o077)
