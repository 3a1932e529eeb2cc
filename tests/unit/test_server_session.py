"""A session's threads, tasks and end: interrupts, methods that hang, descriptors, and what is served once only."""

import asyncio
import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from libperfuse import Defer, FuseError, Operations, Request, Session
from libperfuse import session as session_module
from libperfuse.mounting import Device
from tests.unit.server_support import PATIENCE, Kernel, kernel, logged, request, serving_threads, with_methods
from wire import codec
from wire.flags import UNIQUE_RESEND
from wire.opcodes import Opcode

GETATTR = codec.getattr_in.make()


def _interrupt(made: Kernel, unique: int) -> None:
    made.send(request(Opcode.INTERRUPT, unique | 1, codec.interrupt_in.make(unique=unique), nodeid=0))


def _answer(made: Kernel, unique: int) -> int:
    header = codec.out_header.unpack_from(made.receive())
    assert header.unique == unique
    return -header.error


class Sleeping:
    """A method that sleeps until it is interrupted, and tells when it has begun."""

    def __init__(self) -> None:
        self.entered = threading.Event()

    def plain(self, request: Request, *words: Any) -> None:
        self.entered.set()
        request.sleep(60)

    async def coroutine(self, request: Request, *words: Any) -> None:
        self.entered.set()
        await asyncio.sleep(60)

    def deferred(self, request: Request, *words: Any) -> None:
        self.entered.set()
        raise Defer(lambda: request.sleep(60))


KINDS = ["plain", "coroutine", "deferred"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupt_reaches_the_method_that_runs(kind: str) -> None:
    sleeping = Sleeping()
    with kernel(with_methods({"getattr": getattr(sleeping, kind)}), threads=2) as made:
        unique = made.tell(Opcode.GETATTR, GETATTR)
        assert sleeping.entered.wait(PATIENCE)
        _interrupt(made, unique)
        assert _answer(made, unique) == errno.EINTR


@pytest.mark.parametrize("resent", [0, UNIQUE_RESEND])
def test_an_interrupt_reaches_a_request_and_the_same_sent_again(resent: int) -> None:
    sleeping = Sleeping()
    with kernel(with_methods({"getattr": sleeping.plain}), threads=3) as made:
        made.tell(Opcode.GETATTR, GETATTR, unique=100)
        assert sleeping.entered.wait(PATIENCE)
        sleeping.entered.clear()
        made.tell(Opcode.GETATTR, GETATTR, unique=100 | UNIQUE_RESEND)
        assert sleeping.entered.wait(PATIENCE)
        _interrupt(made, 100 | resent)
        found = {codec.out_header.unpack_from(made.receive()).unique for _ in range(2)}
        assert found == {100, 100 | UNIQUE_RESEND}


def test_an_interrupt_that_comes_in_one_turn_with_its_request_is_answered() -> None:
    """A task that is cancelled before its first step never takes it."""

    async def method(*words: Any) -> None:
        await asyncio.sleep(60)

    gate = threading.Event()

    async def statfs(*words: Any) -> None:
        gate.wait(PATIENCE)  # blocks the loop: what is sent meanwhile is taken in one turn

    fs = with_methods({"statfs": statfs, "getattr": method})
    with kernel(fs) as made, logged():
        first = made.tell(Opcode.STATFS)
        second = made.tell(Opcode.GETATTR, GETATTR)
        _interrupt(made, second)
        gate.set()
        answers = {codec.out_header.unpack_from(made.receive()).unique for _ in range(2)}
        assert answers == {first, second}


def test_options_in_one_string_are_refused_with_what_to_write() -> None:
    with pytest.raises(TypeError, match=r"\['ro'\]"):
        Session(Operations(), "/", options="ro")


def test_an_interrupt_for_what_is_not_there_is_to_be_sent_again() -> None:
    with kernel(Operations()) as made:
        _interrupt(made, 1000)
        assert _answer(made, 1001) == errno.EAGAIN


def test_an_interrupt_finds_a_method_that_looks_before_it_sleeps() -> None:
    entered, go = threading.Event(), threading.Event()

    def method(request: Request, *words: Any) -> None:
        entered.set()
        assert go.wait(PATIENCE)
        assert request.interrupted
        request.sleep(60)

    with kernel(with_methods({"getattr": method}), threads=2) as made:
        unique = made.tell(Opcode.GETATTR, GETATTR)
        assert entered.wait(PATIENCE)
        _interrupt(made, unique)
        assert made.error(Opcode.STATFS) == errno.ENOSYS  # the interrupt has been taken
        go.set()
        assert _answer(made, unique) == errno.EINTR


def test_sleep_leaves_the_methods_own_on_interrupt_in_place() -> None:
    own: list[int] = []

    def method(request: Request, *words: Any) -> None:
        request.on_interrupt = lambda: own.append(1)
        request.sleep(0)
        request.interrupt()
        raise FuseError(errno.EINTR)

    with kernel(with_methods({"getattr": method})) as made:
        assert made.error(Opcode.GETATTR, GETATTR) == errno.EINTR
    assert own == [1]


def test_an_on_interrupt_that_raises_is_a_line_and_the_method_goes_on() -> None:
    entered, go = threading.Event(), threading.Event()

    def method(request: Request, *words: Any) -> None:
        request.on_interrupt = lambda: 1 // 0
        entered.set()
        assert go.wait(PATIENCE)
        raise FuseError(errno.ENODATA)

    with logged() as records, kernel(with_methods({"getattr": method}), threads=2) as made:
        unique = made.tell(Opcode.GETATTR, GETATTR)
        assert entered.wait(PATIENCE)
        _interrupt(made, unique)
        made.silent()
        go.set()
        assert _answer(made, unique) == errno.ENODATA
    assert len(records) == 1


def _awaits_what_is_cancelled() -> Any:
    inner = asyncio.get_running_loop().create_future()
    inner.cancel()
    return inner


def _exits_like_a_generator() -> Any:
    raise GeneratorExit


@pytest.mark.parametrize("made_of", [_awaits_what_is_cancelled, _exits_like_a_generator])
def test_a_coroutine_that_ends_as_if_somebody_had_ended_it_is_a_bug_with_a_traceback(
    made_of: Callable[[], Any],
) -> None:
    """No interrupt came: an EINTR would be tried again for ever, and no answer would hang."""

    async def method(*words: Any) -> None:
        await made_of()

    with logged() as records, kernel(with_methods({"getattr": method})) as made:
        assert made.error(Opcode.GETATTR, GETATTR) == errno.EIO
    assert [record.exc_info is not None for record in records] == [True]


def test_a_coroutine_may_swallow_its_cancellation_and_answer_all_the_same() -> None:
    entered = threading.Event()

    async def method(*words: Any) -> codec.AttrOut:
        entered.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return codec.attr_out.make()

    with kernel(with_methods({"getattr": method})) as made:
        unique = made.tell(Opcode.GETATTR, GETATTR)
        assert entered.wait(PATIENCE)
        _interrupt(made, unique)
        assert _answer(made, unique) == 0


def test_coroutines_of_one_loop_run_at_the_same_time() -> None:
    met: list[asyncio.Event] = []

    async def method(*words: Any) -> codec.AttrOut:
        if not met:
            met.append(asyncio.Event())
            await met[0].wait()
        else:
            met[0].set()
        return codec.attr_out.make()

    with kernel(with_methods({"getattr": method})) as made:
        uniques = {made.tell(Opcode.GETATTR, GETATTR) for _ in range(2)}
        assert {codec.out_header.unpack_from(made.receive()).unique for _ in range(2)} == uniques


def test_unknown_may_be_a_coroutine_function() -> None:
    async def unknown(request: Request, body: bytes) -> bytes:
        await asyncio.sleep(0)
        return body[::-1]

    with kernel(with_methods({"unknown": unknown})) as made:
        assert made.ask(99, payload=b"abc")[16:] == b"cba"


# The end


@pytest.mark.parametrize("kind", KINDS)
def test_the_end_wakes_methods_that_sleep(kind: str) -> None:
    sleeping = Sleeping()
    made = Kernel(with_methods({"getattr": getattr(sleeping, kind)}), threads=2)
    made.tell(Opcode.GETATTR, GETATTR)
    assert sleeping.entered.wait(PATIENCE)
    made.close()
    assert not made.session.server.under_way()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods that hang at the end are waited for but a moment."""
    monkeypatch.setattr(session_module, "PATIENCE", 0.05)
    monkeypatch.setattr("libperfuse.aio.PATIENCE", 0.05)


@pytest.mark.parametrize("threads", [2, 4])
@pytest.mark.parametrize("deferred", [False, True])
def test_a_method_that_hangs_does_not_keep_the_end_back_nor_writes_elsewhere_later(
    impatient: None, threads: int, deferred: bool
) -> None:
    entered, go = threading.Event(), threading.Event()

    def work() -> codec.AttrOut:
        entered.set()
        assert go.wait(PATIENCE)
        return codec.attr_out.make()

    def method(*words: Any) -> Any:
        if deferred:
            raise Defer(work)
        return work()

    destroyed: list[int] = []
    with logged() as records:
        made = Kernel(with_methods({"getattr": method, "destroy": lambda: destroyed.append(1)}), threads=threads)
        made.tell(Opcode.GETATTR, GETATTR)
        assert entered.wait(PATIENCE)
        fd = made.session.server.fd
        made.close()
        assert destroyed == [1]
        assert "while methods still run: GETATTR" in records[0].getMessage()
        os.fstat(fd)  # still the session's: nobody else can have this number
        go.set()
        for each in serving_threads() + [each for each in threading.enumerate() if "GETATTR" in each.name]:
            each.join(PATIENCE)
    with pytest.raises(OSError):
        os.fstat(fd)


def test_a_coroutine_that_never_ends_does_not_keep_the_end_back(impatient: None) -> None:
    entered = threading.Event()

    async def method(*words: Any) -> None:
        entered.set()
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

    with logged() as records:
        made = Kernel(with_methods({"getattr": method}))
        made.tell(Opcode.GETATTR, GETATTR)
        assert entered.wait(PATIENCE)
        made.close()
    assert "while methods still run: GETATTR" in records[0].getMessage()


def test_destroy_is_called_once_and_what_it_raises_is_a_line() -> None:
    called: list[int] = []

    def destroy() -> None:
        called.append(1)
        raise ValueError("no")

    with logged() as records, kernel(with_methods({"destroy": destroy}), threads=4) as made:
        made.error(Opcode.DESTROY)
    assert called == [1]
    assert len(records) == 1


def test_a_session_is_served_once() -> None:
    with kernel(Operations()) as made:
        with pytest.raises(RuntimeError):
            made.session.start()
        assert made.error(Opcode.STATFS) == errno.ENOSYS
    with pytest.raises(RuntimeError):
        made.session.start()


def test_a_session_on_a_device_that_does_not_block_is_served() -> None:
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    made = Session.on_device(Operations(), theirs.detach(), threads=2)
    made.start()
    mine.settimeout(PATIENCE)
    for opcode, head in ((Opcode.INIT, codec.init_in.make(major=7, minor=45)), (Opcode.GETATTR, GETATTR)):
        mine.send(request(opcode, 2, head))
        assert codec.out_header.unpack_from(mine.recv(4096)).unique == 2
    mine.close()
    assert made.join(PATIENCE)


def test_unmount_of_a_session_that_was_never_served_closes_its_device() -> None:
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made = Session.on_device(Operations(), theirs.detach())
    made.unmount()
    assert made.join(0)
    assert mine.recv(1) == b""
    mine.close()


def test_shutting_a_session_ends_it() -> None:
    made = Kernel(Operations(), threads=3)
    made.session.unmount()
    assert made.receive() == b""
    made.close()
    assert made.session.join(0)


# A descriptor with several users


def test_a_device_is_closed_by_its_last_user() -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    device = Device(fd)
    assert device.take() == device.take() == fd
    device.close()
    with pytest.raises(OSError) as caught:
        device.take()
    assert caught.value.errno == errno.ENODEV
    device.give()
    os.fstat(fd)
    device.give()
    with pytest.raises(OSError):
        os.fstat(fd)


def test_notifications_while_sessions_end_never_reach_another_file() -> None:
    """Each session's number is taken by a file at once, as soon as it is free."""
    stray: list[int] = []
    for _ in range(30):
        made = Kernel(Operations(), threads=2)
        stop = threading.Event()

        def tell(made: Kernel = made, stop: threading.Event = stop) -> None:
            while not stop.is_set():
                with contextlib.suppress(OSError):
                    made.session.notify.poll(1)

        telling = [threading.Thread(target=tell) for _ in range(2)]
        for each in telling:
            each.start()
        made.close()
        fd = os.memfd_create("taken")
        time.sleep(0.001)
        stop.set()
        for each in telling:
            each.join(PATIENCE)
        stray.append(os.fstat(fd).st_size)
        os.close(fd)
    assert set(stray) == {0}
