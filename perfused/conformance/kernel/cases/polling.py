"""Cases about POLL: the events asked for and answered, waiting, and servers without it."""

import errno
import os
import select
import struct
from collections.abc import Callable
from typing import Any

from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.steps import opened
from wire import codec
from wire.flags import PollFlag
from wire.opcodes import Notify, Opcode

POLL = Opcode.POLL
MEASURED = "measured on Linux 6.18"
IN, OUT, ERR, PRI = select.POLLIN, select.POLLOUT, select.POLLERR, select.POLLPRI


def _ground(k: Bench) -> None:
    k.mount().tree.add("a", b"0123456789")
    k.answer(Opcode.OPEN, k.tree.opened(fh=5))


def _polled(fd: int, events: int, wait: int = 0) -> int:
    """What poll(2) says of a descriptor; `wait` is milliseconds."""
    asked = select.poll()
    asked.register(fd, events)
    return dict(asked.poll(wait)).get(fd, 0)


def _poll(k: Bench, events: int, wait: int = 0) -> Callable[[], Any]:
    return lambda: opened(k.file("a"), os.O_RDWR, lambda fd: _polled(fd, events, wait))


@case("poll/request", POLL, aspect="request", since=11, source="fuse.h: fuse_poll_in; poll(2)")
def _(k: Bench) -> None:
    _ground(k)
    k.ok(_poll(k, IN))
    request = k.seen(POLL)[0]
    k.equal("nodeid, fh", (request.header.nodeid, request.head.fh), (k.tree.at("a").nodeid, 5))


@case("poll/events", POLL, aspect="request", since=21, source="fuse.h 7.21: fuse_poll_in.events are poll(2)'s")
def _(k: Bench) -> None:
    _ground(k)
    k.ok(_poll(k, IN | PRI))
    asked = k.seen(POLL)[0].head.events
    k.equal("IN, PRI, OUT", (asked & IN, asked & PRI, asked & OUT), (IN, PRI, 0))


def _answered(name: str, revents: int, events: int, wanted: int) -> None:
    @case(f"poll/reply-{name}", POLL, aspect="reply", since=11, source="fuse.h: fuse_poll_out.revents; poll(2)")
    def _(k: Bench) -> None:
        _ground(k)
        k.answer(POLL, codec.poll_out.pack(revents, 0))
        k.equal("revents", k.ok(_poll(k, events)), wanted)


_answered("in", IN, IN | OUT, IN)
_answered("out", OUT, IN | OUT, OUT)
_answered("none", 0, IN | OUT, 0)
_answered("error-unasked", ERR, IN, ERR)
_answered("only-what-was-asked", IN | OUT, IN, IN)


@case("poll/no-notification-for-a-glance", POLL, aspect="request", level=Level.SHOULD, since=11,
      source="fuse.h: POLL_SCHEDULE_NOTIFY where somebody will wait; a poll(2) of 0 ms does not")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.answer(POLL, codec.poll_out.pack(0, 0))
    k.ok(_poll(k, IN))
    k.equal("SCHEDULE_NOTIFY", k.one(POLL).head.flags & PollFlag.SCHEDULE_NOTIFY, 0)


@case("poll/waits-until-told", POLL, aspect="notify", since=11, notifications=(Notify.POLL,),
      source="fuse.h: POLL_SCHEDULE_NOTIFY, kh, NOTIFY_POLL: the server tells, and is asked again")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    ready = [0]
    k.answer(POLL, lambda request: codec.poll_out.pack(ready[0], 0))
    client = k.start(_poll(k, IN, 30000))
    head = k.wait_for(POLL).head
    k.true("SCHEDULE_NOTIFY", head.flags & PollFlag.SCHEDULE_NOTIFY, head.flags)
    k.true("it waits", not client.done(0.05))
    ready[0] = IN
    k.equal("errno of the notification", k.server.notify(Notify.POLL, struct.pack("=Q", head.kh)), 0)
    k.equal("revents", client.wait(k.patience).value, IN)


@case("poll/told-too-early", POLL, aspect="notify", since=11, notifications=(Notify.POLL,),
      source="a notification says to look again, not what there is: who is not ready waits on")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    ready = [0]
    k.answer(POLL, lambda request: codec.poll_out.pack(ready[0], 0))
    client = k.start(_poll(k, IN, 30000))
    kh = k.wait_for(POLL).head.kh
    k.server.notify(Notify.POLL, struct.pack("=Q", kh))
    k.wait_for(POLL, 2)
    k.true("it waits on", not client.done(0.05))
    ready[0] = IN
    k.server.notify(Notify.POLL, struct.pack("=Q", kh))
    k.equal("revents", client.wait(k.patience).value, IN)


@case("poll/handle-of-an-open-file", POLL, aspect="request", since=11,
      source="fuse.h: fuse_poll_in.kh names an open file to NOTIFY_POLL")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)

    def work() -> None:
        fds = [os.open(k.file("a"), os.O_RDONLY) for _ in range(2)]
        for fd in (*fds, fds[0]):
            _polled(fd, IN)

    k.ok(work)
    handles = [each.head.kh for each in k.seen(POLL)]
    k.true("the same for the same file", handles[0] == handles[2], handles)
    k.true("another for another", handles[0] != handles[1], handles)


@case("poll/select", POLL, aspect="request", level=Level.SHOULD, since=11, source="select(2) asks as poll(2) does")
def _(k: Bench) -> None:
    _ground(k)
    k.answer(POLL, codec.poll_out.pack(OUT, 0))
    found = k.ok(
        lambda: opened(k.file("a"), os.O_RDWR, lambda fd: [len(each) for each in select.select([fd], [fd], [], 0)])
    )
    k.equal("readable, writable", found[:2], [0, 1])
    k.true("a POLL", k.seen(POLL))


@case("poll/epoll", POLL, aspect="notify", level=Level.SHOULD, since=11, notifications=(Notify.POLL,),
      source="epoll(7) asks as poll(2) does, and hears of NOTIFY_POLL")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    ready = [0]
    k.answer(POLL, lambda request: codec.poll_out.pack(ready[0], 0))

    def work(fd: int) -> list[tuple[int, int]]:
        with select.epoll() as watched:
            watched.register(fd, select.EPOLLIN)
            return [(int(each == fd), events) for each, events in watched.poll(30)]

    client = k.start(lambda: opened(k.file("a"), os.O_RDWR, work))
    head = k.wait_for(POLL).head
    ready[0] = IN
    k.server.notify(Notify.POLL, struct.pack("=Q", head.kh))
    k.equal("events", client.wait(k.patience).value, [(1, select.EPOLLIN)])


def _error(number: int) -> None:
    @case(f"poll/error-{errno.errorcode[number].lower()}", POLL, aspect="error", since=11,
          source="poll(2): POLLERR where it cannot be said; " + MEASURED)  # fmt: skip
    def _(k: Bench) -> None:
        _ground(k)
        k.answer(POLL, -number)
        k.equal("revents", [k.ok(_poll(k, IN | OUT)) for _ in range(2)], [ERR, ERR])
        k.equal("POLL requests", len(k.seen(POLL)), 2)


for _number in (errno.EIO, errno.EINVAL):
    _error(_number)


@case("poll/enosys-sticks", POLL, aspect="enosys", since=11,
      source="poll(2): regular files are ready for all; " + MEASURED + ": so, and not asked again")  # fmt: skip
def _(k: Bench) -> None:
    _ground(k)
    k.answer(POLL, -errno.ENOSYS)
    k.equal("revents", [k.ok(_poll(k, IN | OUT)) for _ in range(2)], [IN | OUT] * 2)
    k.one(POLL)
