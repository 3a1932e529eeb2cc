"""Serving one or several filesystems in one process until they end, with SIGINT and SIGTERM as a clean end.

Never here: requests, and how one filesystem is served.
"""

import asyncio
import contextlib
import queue
import signal
import threading
from typing import Any

from libperfuse.session import PATIENCE, Session


def run(*sessions: Session) -> None:
    """Mount and serve them all until every mount has ended.

    In the main thread SIGINT and SIGTERM unmount them (a mount in use is detached and served on), a second signal ends
    them at once. Raises what made the first of them fail, when all have ended; one that cannot be mounted takes the
    others down again.
    """
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for each_signal in (signal.SIGINT, signal.SIGTERM):
            before[each_signal] = signal.signal(each_signal, lambda number, _: events.put(number))
    left: list[Session] = []
    told = 0
    try:
        for each in sessions:
            each.on_end.append(events.put)
            each.start()
            left.append(each)
        while left:
            try:
                event = events.get(timeout=1)
            except queue.Empty:
                continue  # a signal that came just before the wait began has woken nobody: its handler runs here
            if isinstance(event, Session):
                left.remove(event)
                continue
            told += 1
            for each in left:
                # In a thread: it may have to wait for the filesystem itself, and this one takes the second signal.
                threading.Thread(target=each.unmount if told == 1 else each.abort, daemon=True).start()
    except BaseException:
        for each in left:
            with contextlib.suppress(Exception):
                each.__exit__()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for each in sessions:
        each.join(PATIENCE)


async def serve(session: Session) -> None:
    """Mount and serve on the running asyncio loop until the mount ends; cancelled, it unmounts first.

    Methods that are coroutine functions run as tasks of this loop. OSError where it cannot be mounted or read.
    """
    loop = asyncio.get_running_loop()
    mounting = asyncio.ensure_future(loop.run_in_executor(None, session.mount))
    try:
        await asyncio.shield(mounting)
    except asyncio.CancelledError:
        await asyncio.wait([mounting])
        await loop.run_in_executor(None, session.abort)
        raise
    serving = asyncio.ensure_future(session.serve_here())
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        await loop.run_in_executor(None, session.unmount)
        if not (await asyncio.wait([serving], timeout=PATIENCE))[0]:
            await loop.run_in_executor(None, session.abort)
            await asyncio.wait([serving], timeout=PATIENCE)
        raise
