"""A kernel short of memory for a moment: a request is sent again before its caller is told EIO."""

import errno
import os
import socket
from collections.abc import Callable, Iterator

import pytest

from perfused.relay import SEND_WAITS, Relay
from perfused.states import Buffer
from tests.unit.engine_support import Rig, ask, eio
from wire.opcodes import Opcode

PATIENCE = 5.0


class Scarce:
    """Sends what `send` does, but nothing at the first `refusals` attempts."""

    def __init__(self, send: Callable[[Buffer], int | None], refusals: int, code: int) -> None:
        self._send, self.refusals, self.code = send, refusals, code

    def __call__(self, frame: Buffer) -> int | None:
        if self.refusals:
            self.refusals -= 1
            raise OSError(self.code, os.strerror(self.code))
        return self._send(frame)


class Line:
    """A relay between two sockets: the tests are the kernel at one end and the filesystem at the other."""

    def __init__(self, refusals: int, code: int) -> None:
        self.kernel, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours, self.filesystem = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.kernel.settimeout(PATIENCE)
        self.filesystem.settimeout(PATIENCE)
        self.rig = Rig()
        self.rig.start()
        self._device = device
        relay = Relay(self.rig.engine, device.fileno(), self._ours, lambda reason: None)
        relay.send = self._scarce = Scarce(relay.send, refusals, code)
        self._threads = relay.start()

    def close(self) -> None:
        """The filesystem goes; the relay sees it at the next frame, in either direction."""
        self._scarce.refusals = 0
        self.filesystem.close()
        self.kernel.send(ask(Opcode.STATFS, unique=4))
        for thread in self._threads:
            thread.join(PATIENCE)
        for each in (self.kernel, self._device, self._ours):
            each.close()


@pytest.fixture
def line() -> Iterator[Callable[[int, int], Line]]:
    """A relay whose socket refuses so many times with this errno."""
    made: list[Line] = []

    def start(refusals: int, code: int) -> Line:
        made.append(Line(refusals, code))
        return made[-1]

    yield start
    for each in made:
        each.close()


@pytest.mark.parametrize("code", [errno.ENOBUFS, errno.ENOMEM])
def test_a_request_there_is_no_memory_for_is_sent_again(line: Callable[[int, int], Line], code: int) -> None:
    found = line(len(SEND_WAITS), code)
    found.kernel.send(ask(Opcode.STATFS))
    assert found.filesystem.recv(4096) == ask(Opcode.STATFS)


@pytest.mark.parametrize("code", [errno.ENOBUFS, errno.ENOMEM])
def test_a_request_there_is_no_memory_for_in_the_end_is_answered_eio(
    line: Callable[[int, int], Line], code: int
) -> None:
    found = line(len(SEND_WAITS) + 1, code)
    found.kernel.send(ask(Opcode.STATFS))
    assert found.kernel.recv(4096) == eio()
    assert "no memory" in found.rig.fault().detail


def test_a_request_too_large_is_answered_eio_at_once(line: Callable[[int, int], Line]) -> None:
    found = line(1, errno.EMSGSIZE)
    found.kernel.send(ask(Opcode.STATFS))
    assert found.kernel.recv(4096) == eio()
