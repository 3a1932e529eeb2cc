"""Serving on an asyncio loop: methods that are coroutine functions run as tasks, the others at once.

Never here: threads; one loop serves one device, and a method that blocks the loop blocks the mount.
"""

import asyncio
import contextlib
import errno
import os
from typing import Any

from libperfuse.answers import entries_of
from libperfuse.calls import Call
from libperfuse.mounting import Device
from libperfuse.operations import Request
from libperfuse.server import GONE, Server
from wire import codec
from wire.message import IN_HEADER_SIZE
from wire.opcodes import BY_NUMBER

#: requests taken in one turn of the loop, so that tasks get theirs: one measured fastest
TURN = 1
#: seconds that cancelled methods may take to end
PATIENCE = 5.0
Tasks = set[asyncio.Task[None]]


def serve_in_loop(server: Server) -> None:
    """Serve in this thread, on a loop of its own, until the device has ended.

    Not asyncio.run, which would wait for ever for a method that swallows its cancellation.
    """
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(serve(server))
    finally:
        loop.set_exception_handler(lambda loop, context: None)  # the session names the methods that still run
        for task in asyncio.all_tasks(loop):
            with contextlib.suppress(BaseException):
                task.get_coro().close()
        loop.close()


async def serve(server: Server) -> None:
    """Serve on the running loop until the device has ended or this task is cancelled, and methods under way with it."""
    os.set_blocking(server.fd, False)
    loop = asyncio.get_running_loop()
    assert server.device is not None
    server.device.take()
    rows = await loop.run_in_executor(None, _handshake, server, server.device)
    if rows is None:
        return
    over: asyncio.Future[None] = loop.create_future()
    tasks: Tasks = set()
    fd, frame = server.fd, bytearray(server.frame_size())

    def later(work: Any) -> None:
        _keep(loop.create_task(work), tasks)

    def ready() -> None:
        try:
            if _take_turn(server, rows, frame, tasks) or over.done():
                return
            over.set_result(None)
        except Exception as bad:
            if not over.done():
                over.set_exception(bad)

    server.later = later
    loop.add_reader(fd, ready)
    try:
        await over
    finally:
        loop.remove_reader(fd)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=PATIENCE)


def _handshake(server: Server, device: Device) -> list[Call | None] | None:
    """INIT, beside the loop: it may be long in coming, and whoever waits for it may be cancelled meanwhile."""
    try:
        return server.handshake()
    finally:
        device.give()


def _keep(task: asyncio.Task[None], tasks: Tasks) -> None:
    tasks.add(task)
    task.add_done_callback(tasks.discard)


def _take_turn(server: Server, rows: list[Call | None], frame: bytearray, tasks: Tasks) -> bool:
    """Take some requests; False where the device has ended. OSError for a device that cannot be read."""
    for _ in range(TURN):
        try:
            size = os.readv(server.fd, [frame])
        except BlockingIOError:
            return True
        except OSError as bad:
            if bad.errno in GONE:
                return False
            if bad.errno != errno.ENOENT:
                raise
            continue
        if not size or not _begin(server, rows, frame, size, tasks):
            return False
    return True


def _begin(server: Server, rows: list[Call | None], frame: bytearray, size: int, tasks: Tasks) -> bool:
    """Serve one request, or begin a task that will; False where the device has ended."""
    request: Request = tuple.__new__(Request, codec.in_header.struct.unpack_from(frame))
    row = rows[request.opcode] if request.opcode < len(rows) else None
    if row is None and request.opcode not in BY_NUMBER:
        row = server.unknown
    if row is None or not row.waits or size != request.len or size < IN_HEADER_SIZE:
        out = server.odd(request, row, frame, size)
        return out is None or server.send(out, request)
    try:
        end = server.extend(request, frame, size) if request.total_extlen else size
        arguments = tuple(bytes(each) if isinstance(each, memoryview) else each for each in row.decode(frame, end))
    except Exception as bad:
        return server.send(server.failed(request, bad), request)
    server.running[request.unique] = request
    _keep(asyncio.get_running_loop().create_task(_call(server, row, request, arguments)), tasks)
    return True


async def _call(server: Server, row: Call, request: Request, arguments: tuple[Any, ...]) -> None:
    result: Any = None
    task = asyncio.current_task()
    assert row.method is not None
    assert task is not None
    try:
        # Not before: a task that is cancelled before its first step never takes one, and nobody would answer.
        if request.interrupted:
            raise InterruptedError
        request.on_interrupt = task.cancel
        result = await row.method(request, *arguments)
        out = row.pack(request.unique, result, arguments)
    except BaseException as bad:
        if not task.get_loop().is_running():
            raise  # closed when the loop had gone: nobody waits for an answer
        if isinstance(bad, asyncio.CancelledError) and not task.cancelling():
            # Of something that the method awaited. A caller that nothing interrupted would try again, for ever.
            inner, bad = bad, RuntimeError("what the method awaited was cancelled, and the request was not")
            bad.__cause__ = inner
        for nodeid in entries_of(result):
            server.forget(nodeid)
        out = server.failed(request, bad)
    server.running.pop(request.unique, None)
    if out is not None:
        server.send(out, request)
