"""What is asked over the control socket: mounts, stats, trace, umount, backing; and the traces that SIGUSR1 writes.

Who may ask what of a mount: root, the daemon's own user, and the mount's user. What needs the worker is handed to it
together with the connection, so a worker that is busy delays nobody else; what comes with descriptors, to a process
forked for it. Never here: doing the work.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Callable
from typing import Any, Protocol

from perfused import __version__, backing, channel, libc
from perfused.clients import Clients
from perfused.config import Config
from perfused.listener import Peer
from perfused.log import LOGGER
from perfused.loop import Loop
from perfused.mounted import Mounted
from wire import control
from wire.control import Request

#: seconds perfusectl umount waits for umount(2) before it says so
UMOUNT_PATIENCE = 15.0
#: connections at once that register backing files of one mount
REGISTRARS = 4
#: unmounts of one mount that may be under way at once: one that waits, and one by force
UMOUNTS = 4


class Daemon(Protocol):
    """What an answer needs of the daemon."""

    config: Config
    clients: Clients
    loop: Loop
    mounted: dict[int, Mounted]
    tracing: bool

    def dismiss(self, peer: Peer) -> None:
        """Close a connection."""

    def refresh(self) -> None:
        """Bring the paths of mounts up to date."""

    def unmount(self, made: Mounted, flags: int, then: Callable[[int], None]) -> None:
        """Unmount, and tell how it went."""

    def tell_all(self, message: dict[str, Any]) -> None:
        """Send a message to every worker."""


class Refusal(Exception):
    """An answer that is an error: errno and sentence."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code, self.sentence = code, sentence


def answer(daemon: Daemon, peer: Peer, request: Request) -> None:
    """Answer one REQUEST of a connection."""
    op = request.body.get("op")
    handler = _OPS.get(op) if isinstance(op, str) else None
    try:
        if handler is None:
            raise Refusal(errno.EINVAL, f"op is {_shown(op)}: there are {', '.join(_OPS)}")
        handler(daemon, peer, request.body)
    except Refusal as no:
        peer.say(control.build_answer({"message": no.sentence}, -no.code))


def _shown(value: object) -> str:
    """What a client sent, as a sentence may hold it: the sentence has to fit a frame, whatever it was."""
    return repr(value[:80]) if isinstance(value, str) else f"a JSON {type(value).__name__}"


def _privileged(peer: Peer) -> bool:
    return peer.client.uid in (0, os.geteuid())


def _find(daemon: Daemon, peer: Peer, body: dict[str, Any]) -> Mounted:
    """The mount a request names by `target` (an absolute path) or `number`; of several on one path the topmost."""
    target, number = body.get("target"), body.get("number")
    if not isinstance(target, str) and not isinstance(number, int):
        raise Refusal(errno.EINVAL, "target: an absolute path was expected")
    daemon.refresh()
    found = [each for each in daemon.mounted.values() if each.up and _named(each, peer, target, number)]
    what = target[: control.LIMITS["target"]] if isinstance(target, str) else f"number {number}"
    if not found:
        raise Refusal(errno.ENOENT, f"{what}: no mount of this perfused")
    allowed = [each for each in found if _privileged(peer) or each.client.uid == peer.client.uid]
    if not allowed:
        raise Refusal(errno.EPERM, f"{what}: the mount is another user's")
    return allowed[-1]


def _named(made: Mounted, peer: Peer, target: Any, number: Any) -> bool:
    """Whether a request means a mount: by its number, or by its path in the mount namespace of who asks."""
    if isinstance(number, int):
        return made.number == number
    return bool(made.target == target and made.namespace_number == peer.namespace_number)


def describe(made: Mounted) -> dict[str, Any]:
    """One row of `perfusectl mounts`."""
    return {
        "number": made.number, "target": made.target, "source": made.source, "fstype": made.fstype, "minor": made.minor,
        "endpoint": made.endpoint.name.lower(), "uid": made.client.uid, "program": made.program, "worker": made.pid,
        "since": made.since,
    }  # fmt: skip


def _mounts(daemon: Daemon, peer: Peer, body: dict[str, Any]) -> None:
    daemon.refresh()
    mine = [
        each
        for each in daemon.mounted.values()
        if each.up and (_privileged(peer) or each.client.uid == peer.client.uid)
    ]
    for each in mine:
        if not peer.say(control.build_answer(describe(each), more=True)):
            daemon.loop.later(0, lambda: daemon.dismiss(peer))
            return
    last = {"version": __version__, "pid": os.getpid(), "mounts": len(mine), "tracing": daemon.tracing}
    peer.say(control.build_answer(last))


def _hand_over(daemon: Daemon, peer: Peer, body: dict[str, Any]) -> None:
    """Give the question and the connection to the worker; of the question only what it knows, checked."""
    made = _find(daemon, peer, body)
    timing, opcodes = body.get("timing"), body.get("opcodes")
    if not isinstance(timing, bool | None):
        raise Refusal(errno.EINVAL, f"timing is {_shown(timing)}: true or false was expected")
    if opcodes is not None and not (
        isinstance(opcodes, list) and len(opcodes) <= 256 and all(type(each) is int for each in opcodes)
    ):
        raise Refusal(errno.EINVAL, "opcodes: a list of at most 256 numbers was expected")
    message = {"op": body["op"], "request": {"timing": timing, "opcodes": opcodes}}
    if not channel.send(made.channel, message, (peer.sock.fileno(),), socket.MSG_DONTWAIT):
        raise Refusal(errno.EAGAIN, f"{made.target}: its worker does not answer")
    daemon.loop.later(0, lambda: daemon.dismiss(peer))


def _umount(daemon: Daemon, peer: Peer, body: dict[str, Any]) -> None:
    made = _find(daemon, peer, body)
    flags = libc.MNT_DETACH if body.get("lazy") or body.get("force") else 0
    if body.get("force"):
        flags |= libc.MNT_FORCE
    answered: list[bool] = []

    def done(failure: int) -> None:
        if answered:
            return
        answered.append(True)
        if not failure:
            LOGGER.info(
                "%s: unmounted for uid %d%s", made.target, peer.client.uid, " by force" if body.get("force") else ""
            )
            peer.say(control.build_answer({"target": made.target}))
        else:
            hint = (
                ": in use; --lazy detaches it, --force also aborts what is under way" if failure == errno.EBUSY else ""
            )
            peer.say(control.build_answer({"message": f"{made.target}: {os.strerror(failure)}{hint}"}, -failure))

    def late() -> None:
        if not answered:
            answered.append(True)
            sentence = f"{made.target}: umount(2) still waits for the filesystem; --force aborts it"
            peer.say(control.build_answer({"message": sentence}, -errno.ETIMEDOUT))

    if made.unmounting >= UMOUNTS:
        raise Refusal(errno.EBUSY, f"{made.target}: {made.unmounting} unmounts of it are under way already")
    daemon.unmount(made, flags, done)
    daemon.loop.later(UMOUNT_PATIENCE, late)


def _backing(daemon: Daemon, peer: Peer, body: dict[str, Any]) -> None:
    """Give the connection to a process that registers backing files for the mount whose device the client names."""
    name = body.get("device")
    device = b"\0" + name.encode(errors="replace") if isinstance(name, str) else b""
    found = [each for each in daemon.mounted.values() if each.up and each.device and each.device == device]
    if not found:
        raise Refusal(errno.ENOENT, f"device is {_shown(name)}: no device of a mount of this perfused")
    made = found[0]
    if peer.client.uid not in (0, made.client.uid):
        raise Refusal(errno.EPERM, f"{made.target}: the mount is another user's")
    sentence = peer.barred if peer.client.uid else ""
    if sentence or (sentence := backing.unwilling(daemon.config.policy, peer.client)):
        raise Refusal(errno.EPERM, sentence)
    if sum(1 for each in daemon.clients.registrars.values() if each == made.number) >= REGISTRARS:
        raise Refusal(errno.EUSERS, f"{made.target}: {REGISTRARS} connections register its backing files already")
    ours, theirs = channel.pair()
    job = backing.Job(daemon.config.policy, peer.client, made.device, peer.sock, peer.namespace, ours)
    with ours, theirs:
        if not channel.send(made.channel, {"op": "lend"}, (theirs.fileno(),), socket.MSG_DONTWAIT):
            raise Refusal(errno.EAGAIN, f"{made.target}: its worker does not answer")
        try:
            daemon.clients.help(peer, made.number, {ours.fileno()}, lambda: backing.serve(job))
        except OSError as bad:
            LOGGER.error("%s: nobody can register its backing files: %s", made.target, bad.strerror)
            daemon.clients.drop(peer)


_OPS: dict[str, Callable[[Daemon, Peer, dict[str, Any]], None]] = {
    "mounts": _mounts,
    "stats": _hand_over,
    "trace": _hand_over,
    "umount": _umount,
    "backing": _backing,
}


def trace_path(directory: str, target: str, number: int) -> str:
    """Where a mount's trace goes: `perfused-mnt-x.7.trace` for /mnt/x, the daemon's mount number 7.

    A `-` of the path itself is written `\\x2d`.
    """
    name = target.replace("-", "\\x2d").replace("/", "-")
    return os.path.join(directory, f"perfused{name}.{number}.trace")


def toggle_trace(daemon: Daemon) -> None:
    """SIGUSR1: start tracing all mounts; the second one writes every mount's trace and stops."""
    if not daemon.tracing:
        daemon.tracing = True
        LOGGER.info("tracing on")
        daemon.tell_all({"op": "trace-on"})
        return
    daemon.tracing = False
    for made in daemon.mounted.values():
        if made.up:
            _write_trace(daemon, made)
    daemon.tell_all({"op": "trace-off"})
    LOGGER.info("tracing off")


def _write_trace(daemon: Daemon, made: Mounted) -> None:
    """The daemon opens the file, its worker writes it: 0600, the mount's user's and root's."""
    directory = daemon.config.daemon.trace_dir
    path = trace_path(directory, made.target, made.number)
    try:
        os.makedirs(directory, mode=0o755, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as bad:
        LOGGER.error("%s: trace not written: %s: %s", made.target, path, bad.strerror)
        return
    try:
        if os.geteuid() == 0:
            os.fchown(fd, made.client.uid, made.client.gid)
        channel.send(made.channel, {"op": "dump"}, (fd,), socket.MSG_DONTWAIT)
        LOGGER.info("%s: trace written to %s", made.target, path)
    except OSError as bad:
        LOGGER.error("%s: trace not written: %s: %s", made.target, path, bad.strerror)
    finally:
        os.close(fd)
