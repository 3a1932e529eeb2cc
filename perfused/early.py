"""A worker of the device endpoint before its mount: it serves the file that its client holds, and waits to be told.

Forked at HELLO. It says {"opened": [major, minor]} with the file's descriptor, or {"failed": errno, "message": ...}; to
it come {"op": "mount", ...}, and at the end of its client an end of file. Never here: frames (`worker` relays them).
"""

import errno
import logging
import os
import select
import signal
import socket
from dataclasses import asdict
from typing import Any, NamedTuple, NoReturn

from perfused import channel, config, device_file, libc, placing, worker
from perfused.config import Config
from perfused.device_file import DeviceFile
from perfused.log import LOGGER
from perfused.policy import Client
from wire.control import Endpoint


class Job(NamedTuple):
    """What the process is forked for: one client, from its HELLO on."""

    config: Config
    client: Client
    #: the client's control connection, on which MOUNT comes
    connection: socket.socket
    #: the client's mount namespace where it is not ours; -1 otherwise
    namespace: int
    channel: socket.socket
    debug: frozenset[str]

    def plain(self) -> tuple[tuple[Any, ...], list[int]]:
        """All but the settings and the channel, in types that `marshal` knows, and the descriptors beside them."""
        fds = [self.connection.fileno(), *([self.namespace] if self.namespace >= 0 else [])]
        return (tuple(self.client), self.debug), fds

    @classmethod
    def of_plain(cls, values: tuple[Any, ...], fds: list[int], config: Config, channel: socket.socket) -> "Job":
        """What `plain` was made of."""
        client, debug = values
        namespace = fds[1] if len(fds) > 1 else -1
        return cls(config, Client(*client), socket.socket(fileno=fds[0]), namespace, channel, debug)


def frame_size(settings: Config) -> int:
    """Bytes of the largest frame on a device file: what the kernel passes on in one piece, or less where so set."""
    most = device_file.frame_size()
    return min(most, settings.init.max_frame) if settings.init.max_frame else most


def order(mine: int, settings: Config, tracing: bool) -> dict[str, Any]:
    """The message that has it mount, for a user who has `mine` mounts, by the settings that hold now."""
    return {"op": "mount", "mine": mine, "config": asdict(settings), "trace": tracing, "level": LOGGER.level}


def run(job: Job) -> NoReturn:
    """The process's life; never returns."""
    code = 1
    try:
        libc.set_name("perfused-device")
        for each in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(each, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        code = _serve(job)
    except Exception:
        LOGGER.exception("device worker failed")
    finally:
        logging.shutdown()
        os._exit(code)


def _serve(job: Job) -> int:
    try:
        made = device_file.make(frame_size(job.config))
    except OSError as bad:
        channel.send(job.channel, {"failed": bad.errno or errno.EIO, "message": str(bad.strerror)})
        return 0
    file = DeviceFile(made.outer, frame_size(job.config))
    # Nobody who takes a request back may leave this thread waiting for the next.
    os.set_blocking(made.outer, False)
    helper = os.fork()
    if not helper:
        _open(job, made)
    ended = os.pidfd_open(helper)
    poll = select.poll()
    for fd in (made.outer, job.channel.fileno(), ended):
        poll.register(fd, select.POLLIN)
    buffer = bytearray(file.max_frame)
    own = placing.device_of(made.mount)
    while True:
        for fd, _ in poll.poll():
            if fd == ended:
                os.waitpid(helper, 0)
                poll.unregister(ended)
                os.close(ended)
                # Only the client's descriptor holds the mount from here on.
                os.close(made.mount)
                if not file.handles:
                    return 0
            elif fd == made.outer:
                try:
                    file.step(buffer)
                except OSError as bad:
                    if bad.errno != errno.EPIPE:
                        raise
                    return 0
            else:
                message, _ = channel.receive(job.channel)
                if message is None or message.get("op") != "mount":
                    return 0
                mounted = _mount(job, message, own)
                if mounted is None:
                    continue
                os.set_blocking(made.outer, True)
                del buffer
                return worker.serve_mounted(*mounted, file)


def _open(job: Job, made: device_file.Made) -> NoReturn:
    """In a process of its own, which the death of the one that serves sets free: open the file and hand it over."""
    try:
        os.close(made.outer)
        fd = device_file.open_in(made.mount)
        channel.send(job.channel, {"opened": placing.device_of(fd)}, (fd,))
    except OSError as bad:
        sentence = f"the device file cannot be opened: {bad.strerror}"
        channel.send(job.channel, {"failed": bad.errno or errno.EIO, "message": sentence})
    finally:
        os._exit(0)


def _mount(job: Job, message: dict[str, Any], own: tuple[int, int]) -> tuple[placing.Job, placing.Placed] | None:
    """Take MOUNT from the client's connection and do it; None where it was refused, and the daemon told."""
    LOGGER.setLevel(message["level"])
    mounting = placing.Job(
        config.parse(message["config"], "perfused"), job.client, message["mine"], None, True, Endpoint.DEVICE,
        job.connection, -1, job.namespace, job.channel, job.debug, message["trace"],
    )  # fmt: skip
    try:
        return mounting, placing.perform_apart(mounting, own)
    except OSError as bad:
        channel.send(job.channel, placing.failure(bad))
        return None
