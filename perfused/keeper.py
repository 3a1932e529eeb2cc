"""The process that outlives the daemon: when the daemon is killed, it unmounts what the daemon had mounted.

A worker has no rights to unmount, and a killed daemon cannot; without this, dead mounts would stay behind. Told of
every mount before the client is. Never here: anything else.
"""

import os
import signal
import socket
import time
from typing import NoReturn

from perfused import channel, libc, log, unmounting
from perfused.log import LOGGER
from perfused.unmounting import Place

#: seconds all unmounts together may take
PATIENCE = 10.0


def start() -> tuple[int, socket.socket]:
    """Fork the keeper: its pid, and the socket that tells it of mounts; closing that is the daemon's end."""
    mine, theirs = channel.pair()
    pid = os.fork()
    if pid:
        theirs.close()
        return pid, mine
    # What was inherited would be held open for as long as the keeper lives: the pipe of a starting daemon, for one.
    unmounting.close_all_but({theirs.fileno()} | log.descriptors())
    return serve(theirs)


def serve(sock: socket.socket) -> NoReturn:
    """The keeper's life, in a process of its own."""
    try:
        libc.set_name("perfused-keeper")
        for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(each, signal.SIG_IGN)
        os.chdir("/")
        _keep(sock, os.getppid())
    finally:
        os._exit(0)


def _keep(sock: socket.socket, daemon: int) -> None:
    places: dict[int, Place] = {}
    while True:
        message, fds = channel.receive(sock)
        if message is None:
            break
        if "add" in message:
            places[message["add"]] = Place._make([*message["place"], fds.pop(0) if fds else -1])
        elif (gone := places.pop(message.get("remove", -1), None)) and gone.namespace >= 0:
            os.close(gone.namespace)
        for each in fds:
            os.close(each)
    if not places:
        return
    LOGGER.error(
        "perfused (pid %d) is gone; unmounting %d mount%s", daemon, len(places), "s" if len(places) > 1 else ""
    )
    running = {unmounting.start(place, libc.MNT_DETACH): place for place in places.values()}
    deadline = time.monotonic() + PATIENCE
    while running and time.monotonic() < deadline:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            time.sleep(0.01)
            continue
        place = running.pop(pid, None)
        if place:
            code = unmounting.result(status)
            LOGGER.error("%s: %s", place.target, os.strerror(code) if code else "unmounted")


def add(sock: socket.socket, number: int, place: Place) -> None:
    """Tell the keeper of a mount."""
    fds = (place.namespace,) if place.namespace >= 0 else ()
    channel.send(sock, {"add": number, "place": place[:-1]}, fds)


def remove(sock: socket.socket, number: int) -> None:
    """Tell the keeper that a mount is gone."""
    channel.send(sock, {"remove": number})
