"""A reply that the kernel no longer wants: what it gave is taken back."""

import asyncio
import errno
import threading
from typing import Any

import pytest

from libperfuse import FuseError, Request
from tests.unit.server_support import PATIENCE, Kernel, kernel, with_methods
from wire import codec
from wire.opcodes import Opcode


@pytest.mark.parametrize("opens", ["OPEN", "OPENDIR", "CREATE"])
@pytest.mark.parametrize("coroutine", [False, True])
def test_what_a_refused_reply_gave_is_taken_back(monkeypatch: pytest.MonkeyPatch, opens: str, coroutine: bool) -> None:
    """A kernel that has dropped the request (ENOENT) has neither its lookups nor its open file."""
    taken: list[Any] = []
    released = threading.Event()
    opened = codec.open_out.make(fh=5)
    answer: Any = (codec.entry_out.make(nodeid=7), opened) if opens == "CREATE" else opened

    def release(request: Request, arg: codec.ReleaseIn) -> None:
        taken.append(arg.fh)
        released.set()

    async def later(request: Request, arg: codec.ReleaseIn) -> None:
        release(request, arg)

    name = "releasedir" if opens == "OPENDIR" else "release"
    methods = {
        opens.lower(): lambda *words: answer,
        name: later if coroutine else release,
        "forget": lambda *words: taken.append(words),
    }
    with kernel(with_methods(methods)) as made:
        server = made.session.server
        head: Any = codec.create_in.make() if opens == "CREATE" else codec.open_in.make()
        frame = made.ask(Opcode[opens], head, *([b"name"] if opens == "CREATE" else []))
        asked = Request(*codec.in_header.make(opcode=Opcode[opens], unique=4))
        assert server.unsent(FuseError(errno.ENOENT), asked, frame) if not coroutine else _in_loop(made, asked, frame)
        assert released.wait(PATIENCE)
    assert taken == ([(7, 1), 5] if opens == "CREATE" else [5])


def _in_loop(made: Kernel, asked: Request, frame: bytes) -> bool:
    made.session.server.later = lambda work: asyncio.run(work)
    return made.session.server.unsent(FuseError(errno.ENOENT), asked, frame)
