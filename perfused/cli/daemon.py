"""perfused(8): options as the original has them, a configuration file, the foreground or the background."""

import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import click

from perfused import __version__, config, log, notify_systemd
from perfused.config import Config, ConfigError
from perfused.log import LOGGER

EX_USAGE, EX_UNAVAILABLE, EX_CONFIG = 64, 69, 78


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-f", "foreground", is_flag=True, help="Stay in the foreground and log to stderr.")
@click.option("-s", "silent", is_flag=True, help="Start with debug lines off; SIGUSR2 switches them on and off.")
@click.option(
    "-d", "classes", default="", metavar="CLASSES", help="Debug classes, separated by commas: see perfused(8)."
)
@click.option(
    "-i", "private", type=int, default=None, metavar="FD", help="Serve the one client behind this descriptor, then end."
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default=None,
    help="Settings; /etc/perfused.toml if there.",
)
@click.option(
    "--socket", "socket_path", default=None, metavar="PATH", help="The control socket (PERFUSED_SOCKET, daemon.socket)."
)
@click.option("--trace", is_flag=True, help="Trace all mounts from the start; SIGUSR1 writes the traces.")
@click.version_option(__version__, prog_name="perfused")
def main(
    foreground: bool,
    silent: bool,
    classes: str,
    private: int | None,
    config_path: Path | None,
    socket_path: str | None,
    trace: bool,
) -> None:
    """Mount FUSE filesystems for programs that call perfuse_mount(), and relay the kernel's requests to them."""
    try:
        debug = log.parse_classes(classes)
    except log.UnknownClass as bad:
        _fail(EX_USAGE, f"-d: {bad}")
    try:
        settings = _settings(config_path, socket_path)
    except ConfigError as bad:
        _fail(EX_CONFIG, str(bad))
    connection = _private_connection(private) if private is not None else None
    try:
        log.set_up(foreground, bool(debug) and not silent, settings.daemon.log)
    except OSError as bad:
        _fail(EX_CONFIG, f"daemon.log: {settings.daemon.log}: {bad.strerror}")
    status = _Status(wait=not foreground)
    if not foreground:
        status.into_background()
    _raise_file_limit()
    try:
        serve(settings, lambda: _settings(config_path, socket_path), debug, silent, connection, trace, status)
    except _Unavailable as bad:
        status.report(f"perfused: {bad}")
        LOGGER.error("%s", bad)
        sys.exit(EX_UNAVAILABLE)


class _Unavailable(Exception):
    """Why the daemon cannot start."""


class _Status:
    """Tells the process that was started by hand whether the daemon behind it came up."""

    def __init__(self, wait: bool) -> None:
        self._write = -1
        self._wait = wait

    def into_background(self) -> None:
        """Fork twice; the first process waits until `report` and ends with its status, leaving no child behind."""
        read, self._write = os.pipe2(os.O_CLOEXEC)
        if os.fork():
            os.close(self._write)
            with open(read, encoding="utf-8") as said:
                message = said.read()
            if message != "ok":
                print(message or "perfused: ended while starting", file=sys.stderr)
            os._exit(0 if message == "ok" else EX_UNAVAILABLE)
        os.close(read)
        os.setsid()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if os.fork():
            os._exit(0)
        os.chdir("/")
        os.umask(0o022)
        null = os.open(os.devnull, os.O_RDWR)
        for each in (0, 1, 2):
            os.dup2(null, each)
        os.close(null)

    def report(self, message: str) -> None:
        """`ok`, or why not."""
        if self._write >= 0:
            os.write(self._write, message.encode())
            os.close(self._write)
            self._write = -1


def serve(
    settings: Config,
    reload: Callable[[], Config],
    debug: frozenset[str],
    silent: bool,
    private: socket.socket | None,
    trace: bool,
    status: _Status,
) -> None:
    """Open what is needed, then run the daemon to its end; exits the process."""
    from perfused import channel, devices, kernel, listener
    from perfused.supervisor import Supervisor

    if not devices.wait_for_device(settings.daemon.device_wait):
        raise _Unavailable(
            f"{kernel.DEVICE} is not there: the kernel has no FUSE, or its module is not loaded (modprobe fuse)"
        )
    listening: list[socket.socket] = []
    if private is None:
        listening = [socket.socket(fileno=fd) for fd in notify_systemd.listen_fds()]
        for each in listening:
            if each.family != socket.AF_UNIX or each.type != socket.SOCK_SEQPACKET:
                raise _Unavailable(
                    "the socket passed in must be a unix socket of type SOCK_SEQPACKET (ListenSequentialPacket=)"
                )
            each.setblocking(False)
            channel.bar_rights(each)
        if not listening:
            try:
                listening = [listener.bind(settings.daemon.socket, settings.daemon.socket_mode)]
            except OSError as bad:
                raise _Unavailable(str(bad.strerror)) from None
    daemon = Supervisor(settings, listening, reload, debug, silent, private, trace)
    status.report("ok")
    sys.exit(daemon.run())


def _settings(path: Path | None, socket_path: str | None) -> Config:
    chosen = socket_path or os.environ.get("PERFUSED_SOCKET")
    return config.with_socket(config.load(path), chosen) if chosen else config.load(path)


def _private_connection(fd: int) -> socket.socket:
    try:
        connection = socket.socket(fileno=fd)
        usable = connection.family == socket.AF_UNIX and connection.type == socket.SOCK_SEQPACKET
    except OSError as bad:
        _fail(EX_USAGE, f"-i {fd}: {bad.strerror}")
    if not usable:
        _fail(EX_USAGE, f"-i {fd}: a unix socket of type SOCK_SEQPACKET was expected")
    os.set_inheritable(fd, False)
    return connection


def _raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        pass


def _fail(code: int, message: str) -> NoReturn:
    print(f"perfused: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
