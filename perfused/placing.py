"""What a worker does before it serves: decide, mount, and give its rights up for good.

Everything here runs with the daemon's rights, in the worker's process. Never here: frames of FUSE.
"""

import errno
import fcntl
import os
import pwd
import socket
from contextlib import ExitStack
from typing import NamedTuple

from perfused import channel, kernel, libc, policy
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
    request: Mount
    #: whether a packet with the target's descriptor waits on `device_socket`; else the target is a path
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


def perform(job: Job, pinned: int = -1) -> tuple[int, MountInfo]:
    """Decide and mount: (the kernel's descriptor, what stands in mountinfo). Raises MountError, OSError of the target.

    `pinned` is the descriptor of the target, where it has been taken already. Nothing is left open after a failure, but
    the process may be in the client's mount namespace by then.
    """
    request, client = job.request, job.client
    with ExitStack() as undo:

        def keep(fd: int) -> int:
            undo.callback(os.close, fd)
            return fd

        # First of all, so that the packet does not stay on a device that is given back.
        target = keep(take_mount(job.device_socket)[1] if job.pinned and pinned < 0 else pinned) if job.pinned else -1
        wanted = policy.read_options(request.fstype, request.data, request.flags)
        device = job.direct_device if job.direct_device >= 0 else keep(kernel.open_device())
        proc = keep(os.open("/proc", os.O_PATH | os.O_CLOEXEC))
        if not job.pinned:
            if job.namespace >= 0:
                libc.setns(job.namespace, libc.CLONE_NEWNS)
            target = keep(_open_target(request.target, client))
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


def _open_target(path: bytes, client: Client) -> int:
    """The target of an original frame, walked with the client's own rights."""
    if not path.startswith(b"/"):
        raise MountError(errno.EINVAL, f"target {path!r}: an absolute path was expected")
    mine, groups = (os.geteuid(), os.getegid()), os.getgroups()
    borrow = client.uid != 0 and mine[0] == 0
    if borrow:
        os.setgroups([])
        os.setegid(client.gid)
        os.seteuid(client.uid)
    try:
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as bad:
        raise MountError(bad.errno, f"target {path.decode(errors='replace')}: {bad.strerror}") from None
    finally:
        if borrow:
            os.seteuid(mine[0])
            os.setegid(mine[1])
            os.setgroups(groups)


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
