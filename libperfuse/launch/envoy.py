"""Work done in a stopped thread's place: in a process of its own, with that thread's identity and mount namespace.

So perfused sees who really asks, paths are walked with their rights, and nothing that may wait holds up other calls.
Never here: the listener, whose answers are the tracer's alone.
"""

import array
import contextlib
import errno
import json
import os
import signal
import socket
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, NoReturn

from libperfuse import libc
from libperfuse.connection import socket_path
from libperfuse.launch.tracee import Identity, Place

#: what work returns: facts for the tracer, and descriptors that go with them
Outcome = tuple[dict[str, Any], tuple[int, ...]]
_PACKET = 65_536
#: above all numbers that a descriptor can have (fs.nr_open)
_MOST_DESCRIPTORS = 1 << 30
_PR_CAPBSET_DROP, _CAP_SETPCAP, _LAST_CAPABILITY = 24, 8, 63


class Envoy(NamedTuple):
    """A process at work: its pid, and the socket its outcome comes on."""

    pid: int
    sock: socket.socket


def send_out(as_whom: Identity, where: Place, needs: Iterable[int], work: Callable[[Place], Outcome]) -> Envoy:
    """Fork a process that keeps of our descriptors what it `needs`, becomes `as_whom`, joins the thread's mount
    namespace, and does `work`.

    It may wait for long, and must not keep open meanwhile what others wait to see closed.

    What `work` raises as OSError becomes the outcome {"errno", "message"}.
    """
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if not pid:
        _live(as_whom, where, needs, work, theirs)
    theirs.close()
    return Envoy(pid, mine)


def _live(
    as_whom: Identity, where: Place, needs: Iterable[int], work: Callable[[Place], Outcome], to: socket.socket
) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        _keep_only({*needs, where.root, where.directory, where.namespace, to.fileno()})
        try:
            facts, fds = work(_become(as_whom, where))
        except OSError as bad:
            facts, fds = (
                {"errno": bad.errno or errno.EIO, "message": bad.strerror if bad.strerror is not None else str(bad)},
                (),
            )
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        to.sendmsg([json.dumps(facts).encode()], rights, socket.MSG_NOSIGNAL)
    finally:
        os._exit(0)


def _keep_only(needs: set[int]) -> None:
    """Close all descriptors but the standard ones and these."""
    at = 3
    for each in sorted(each for each in needs if each >= at):
        os.closerange(at, each)
        at = each + 1
    os.closerange(at, _MOST_DESCRIPTORS)


def _become(as_whom: Identity, where: Place) -> Place:
    """Take the identity, root alone can; the place as it is from inside the namespace."""
    joined = where
    if where.namespace >= 0:
        # Perfused's socket is the one that we see: in the namespace there may be none, or another's.
        path = socket_path()
        with contextlib.suppress(OSError):
            directory = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            libc.setns(where.namespace, libc.CLONE_NEWNS)
            joined = where._replace(namespace=-1)
            with contextlib.suppress(OSError, NameError):
                os.fchdir(directory)
                os.environ["PERFUSED_SOCKET"] = os.path.basename(path)
        except OSError:
            # An ordinary user's: perfused would refuse to mount there, and says so better than we could.
            joined = where
    if as_whom != Identity.ours() and os.geteuid() == 0:
        os.setgroups(as_whom.groups)
        os.setresgid(as_whom.gid, as_whom.gid, as_whom.gid)
        os.setresuid(as_whom.uid, as_whom.uid, as_whom.uid)
        if not as_whom.uid:
            _drop(~as_whom.capabilities)
    return joined


def _drop(capabilities: int) -> None:
    """Give up capabilities, for what is executed as well: a private daemon that is started now."""
    for each in range(_LAST_CAPABILITY + 1):
        if capabilities >> each & 1 and each != _CAP_SETPCAP:
            with contextlib.suppress(OSError):
                libc.prctl(_PR_CAPBSET_DROP, each)
                libc.drop_capability(each)
    if capabilities >> _CAP_SETPCAP & 1:
        with contextlib.suppress(OSError):
            libc.prctl(_PR_CAPBSET_DROP, _CAP_SETPCAP)
            libc.drop_capability(_CAP_SETPCAP)


def outcome(envoy: Envoy) -> tuple[dict[str, Any], list[int]]:
    """What an envoy whose socket is readable brought: its facts and descriptors (close-on-exec), and lets it go."""
    fds = array.array("i")
    try:
        packet, ancillary, _, _ = envoy.sock.recvmsg(_PACKET, socket.CMSG_SPACE(4 * fds.itemsize))
    except OSError:
        packet, ancillary = b"", []
    envoy.sock.close()
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    for each in fds:
        os.set_inheritable(each, False)
    if not packet:
        return {"errno": errno.EIO, "message": "the process that asked perfused was killed"}, list(fds)
    return json.loads(packet), list(fds)
