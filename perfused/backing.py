"""Backing files: the kernel reads and writes a file itself where the filesystem has registered it (FUSE passthrough).

The ioctl takes CAP_SYS_ADMIN and the real /dev/fuse, and a filesystem on a socket has neither. It is done by a process
forked for one connection, with as few rights as it takes; the worker lends it the device for the length of one call,
since whoever keeps it would keep a dead mount's requests waiting. Never here: which connections get one (`answers`).
"""

import contextlib
import errno
import fcntl
import logging
import os
import select
import signal
import socket
import stat
import struct
from typing import Any, NamedTuple, NoReturn

from perfused import channel, kernel, libc, policy
from perfused.config import Policy
from perfused.kernel import MountError
from perfused.log import LOGGER
from perfused.policy import Client
from wire import codec, control, ioctls
from wire.control import Request
from wire.errors import WireError

#: seconds a client may take until it has shown its device, and a worker to lend it
PATIENCE = 30.0
#: requests refused in a row after which the connection is closed
FAULTS = 64
#: inode of the user namespace that all others descend from (linux/proc_ns.h)
INITIAL_USER_NAMESPACE = 0xEFFF_FFFD
_ADMIN, _SEARCH = 1 << libc.CAP_SYS_ADMIN, 1 << libc.CAP_DAC_READ_SEARCH
_UCRED = struct.Struct("3i")

OPEN_REFUSALS = {
    errno.EPERM: "passthrough was not agreed on: INIT takes PASSTHROUGH, a max_stack_depth of 1 or 2, and no "
    "WRITEBACK_CACHE",
    errno.ELOOP: "the backing file's filesystem is itself stacked on others as deep as max_stack_depth allows",
    errno.EINVAL: "the backing file is no regular file",
    errno.EISDIR: "the backing file is a directory: a regular file was expected",
}


class Job(NamedTuple):
    """What a process is forked for: one connection and one mount."""

    policy: Policy
    client: Client
    #: the name of the daemon's end of its device, "\\0MAJOR:MINOR" for a file
    device: bytes
    connection: socket.socket
    #: the client's mount namespace where it is not ours; -1 otherwise
    namespace: int
    #: to the worker, who lends the kernel's device
    lender: socket.socket


def device_name(sock: socket.socket) -> bytes:
    """The name of the daemon's end of a device that it made itself; b"" for any other socket."""
    name = sock.getsockname()
    return name if isinstance(name, bytes) and name.startswith(control.DEVICE_NAME_PREFIX) else b""


def unwilling(settings: Policy, client: Client) -> str:
    """Why backing files are not registered for a client's filesystems; "" where they are."""
    if client.uid and not settings.passthrough:
        return "policy.passthrough is off: only root's filesystems register backing files"
    if not _able():
        return "this perfused lacks CAP_SYS_ADMIN of the host, which registering backing files takes"
    return ""


def _able() -> bool:
    """Whether the kernel would let this process call FUSE_DEV_IOC_BACKING_OPEN, and become others for it."""
    if os.geteuid() or os.stat("/proc/self/ns/user").st_ino != INITIAL_USER_NAMESPACE:
        return False
    with open("/proc/self/status") as lines:
        effective = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    return bool(effective & _ADMIN)


class Lender:
    """The worker's part: it lends the device, and knows the ids that are registered."""

    def __init__(self, device: int) -> None:
        self.device = device
        self.registered: set[int] = set()
        #: number of each socket -> the socket
        self.borrowers: dict[int, socket.socket] = {}

    def serve(self, fd: int) -> bool:
        """Take one message of a borrower; False where it is gone."""
        message, _ = channel.receive(self.borrowers[fd], socket.MSG_DONTWAIT)
        if message is None:
            return False
        if "opened" in message:
            self.registered.add(message["opened"])
        elif "closed" in message:
            self.registered.discard(message["closed"])
        else:
            held = {"registered": len(self.registered)}
            return channel.send(self.borrowers[fd], held, (self.device,), socket.MSG_DONTWAIT)
        return True


def serve(job: Job) -> NoReturn:
    """The life of the process: until its client, or the mount, is gone."""
    try:
        libc.set_name("perfused-backing")
        for each in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(each, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        Registrar(job).run()
    except Exception:
        LOGGER.exception("registering backing files failed")
    finally:
        logging.shutdown()
        os._exit(0)


class Registrar:
    """Answers backing_open and backing_close on one connection."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._daemon = os.getppid()
        self._proc = os.open("/proc", os.O_PATH | os.O_CLOEXEC)
        if job.namespace >= 0:
            libc.setns(job.namespace, libc.CLONE_NEWNS)
        if job.client.uid:
            self._become_client()

    def _become_client(self) -> None:
        """Keep CAP_SYS_ADMIN alone, and the client's ids for everything that is about files.

        The kernel keeps the credentials of the ioctl and uses them for the file ever after: with the daemon's own,
        writing would leave set-user-ID bits on, and count against nobody's quota. The real ids stay the daemon's, so
        that the client cannot signal this process.
        """
        libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
        os.setgroups([])
        os.setegid(self.job.client.gid)
        os.seteuid(self.job.client.uid)
        libc.set_capabilities(_ADMIN, _ADMIN | _SEARCH)
        libc.prctl(libc.PR_SET_DUMPABLE, 0)

    def run(self) -> None:
        """Say that descriptors may come now, and answer each request before its descriptors are let go."""
        connection, faults, shown = self.job.connection, 0, False
        channel.bar_rights(connection, False)
        if not self._say(control.build_answer({})):
            return
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        poll.register(self.job.lender, 0)
        while faults < FAULTS:
            ready = poll.poll(None if shown else PATIENCE * 1000)
            if [fd for fd, _ in ready] != [connection.fileno()]:
                return
            packet, fds = channel.receive_packet(connection)
            if not packet:
                return
            try:
                answer = control.build_answer(self._answer(packet, fds))
                faults, shown = 0, True
            except OSError as bad:
                faults += 1
                answer = control.build_answer({"message": str(bad.strerror)}, -(bad.errno or errno.EIO))
            told = self._say(answer)
            for each in fds:
                with contextlib.suppress(OSError):
                    os.close(each)  # may wait for the client's own filesystem: nobody else's time
            if not told:
                return

    def _say(self, frame: bytes) -> bool:
        try:
            self.job.connection.send(frame, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True

    def _answer(self, packet: bytes, fds: list[int]) -> dict[str, Any]:
        """Raises OSError with the sentence."""
        try:
            message = control.parse(packet)
        except WireError as bad:
            raise MountError(control.MALFORMED, str(bad)) from None
        op = message.body.get("op") if isinstance(message, Request) else None
        wanted = {"backing_open": 2, "backing_close": 1}.get(op if isinstance(op, str) else "")
        if not isinstance(message, Request) or wanted is None:
            raise MountError(errno.EINVAL, "backing_open or backing_close was expected")
        if len(fds) != wanted:
            raise MountError(errno.EBADMSG, f"{op} came with {len(fds)} descriptors: it has {wanted}")
        self._check_device(fds[0])
        return {"backing_id": self._open(fds[1])} if wanted == 2 else self._close(message.body.get("backing_id"))

    def _check_device(self, fd: int) -> None:
        """Who holds the other end of the socket, or the file, that our daemon made for this mount is its filesystem."""
        found = libc.facts(fd)
        if stat.S_ISREG(found.mode) and self.job.device == b"\0%d:%d" % (found.major, found.minor):
            return
        if not stat.S_ISSOCK(found.mode):  # socket() would refuse the duplicate, and leave it open
            raise MountError(errno.EPERM, "the first descriptor is not the device of this mount")
        try:
            with socket.socket(fileno=os.dup(fd)) as sock:
                pid, _, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
                ours = sock.family == socket.AF_UNIX and pid == self._daemon and sock.getpeername() == self.job.device
        except OSError:
            ours = False
        if not ours:
            raise MountError(errno.EPERM, "the first descriptor is not the device of this mount")

    def _open(self, fd: int) -> int:
        """Register a file; its id."""
        opened = fd
        if self.job.client.uid:
            # A FUSE filesystem is not asked: it could be the very one that waits for our answer.
            on_fuse = kernel.mount_id_of(fd, self._proc) in self._fuse_mounts()
            facts, kind = (None, policy.FUSE) if on_fuse else (libc.facts(fd), libc.filesystem_type(fd))
            if policy.allow_backing(fcntl.fcntl(fd, fcntl.F_GETFL), facts, kind):
                opened = self._read_only(fd)
        try:
            request = bytearray(codec.backing_map.pack(opened, 0, 0))
            return self._call(ioctls.FUSE_DEV_IOC_BACKING_OPEN, request, "opened", OPEN_REFUSALS)
        finally:
            if opened != fd:
                os.close(opened)

    def _fuse_mounts(self) -> set[int]:
        return {line.mount_id for line in kernel.mounts(self._proc) if line.fstype.startswith("fuse")}

    def _read_only(self, fd: int) -> int:
        """The same file on a mount of its own that cannot be written to, and that stands nowhere.

        The kernel would open the file anew for writing, too: what stops it is the mount.
        """
        try:
            tree = libc.open_tree_clone(fd)
        except OSError as bad:
            sentence = f"the backing file is opened for reading alone and cannot be kept so ({bad.strerror})"
            raise MountError(errno.EACCES, f"{sentence}: open it for reading and writing") from None
        try:
            libc.mount_setattr(tree, libc.MOUNT_ATTR_RDONLY)
            libc.set_capabilities(_ADMIN | _SEARCH, _ADMIN | _SEARCH)
            return os.open(f"self/fd/{tree}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)
        finally:
            libc.set_capabilities(_ADMIN, _ADMIN | _SEARCH)
            os.close(tree)

    def _close(self, identity: Any) -> dict[str, Any]:
        if type(identity) is not int or not 0 < identity < 1 << 31:
            raise MountError(errno.EINVAL, "backing_id: a whole number above 0 was expected")
        refusals = {errno.ENOENT: f"backing id {identity} is not registered"}
        self._call(ioctls.FUSE_DEV_IOC_BACKING_CLOSE, bytearray(struct.pack("=I", identity)), "closed", refusals)
        return {}

    def _call(self, number: int, request: bytearray, report: str, refusals: dict[int, str]) -> int:
        """One ioctl on a device lent for it; what it returned. Raises MountError."""
        device, registered = self._borrow()
        limit = self.job.policy.backing_files
        try:
            if report == "opened" and self.job.client.uid and registered >= limit:
                raise MountError(errno.EMFILE, f"the mount has {registered} backing files: policy.backing_files")
            result = int(fcntl.ioctl(device, number, request))
        except MountError:
            raise
        except OSError as bad:
            raise MountError(bad.errno, refusals.get(bad.errno or 0, f"the kernel refuses: {bad.strerror}")) from None
        finally:
            os.close(device)
        identity = result if report == "opened" else struct.unpack("=I", request)[0]
        channel.send(self.job.lender, {report: identity})
        return result

    def _borrow(self) -> tuple[int, int]:
        """The kernel's device, to be closed at once, and how many ids are registered. Raises MountError ENOTCONN."""
        poll = select.poll()
        poll.register(self.job.lender, select.POLLIN)
        if channel.send(self.job.lender, {"lend": 1}) and poll.poll(PATIENCE * 1000):
            message, fds = channel.receive(self.job.lender)
            if message is not None and len(fds) == 1 and kernel.is_device(fds[0]):
                return fds[0], int(message["registered"])
        raise MountError(errno.ENOTCONN, "the mount is gone")
