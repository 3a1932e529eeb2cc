"""Cases about notifications that wake pollers and have requests sent again, and about notifying while requests wait.

Never here: caches (`notify_effects`, `notify_cache`).
"""

import errno
import os
import select
import threading
from collections.abc import Callable

from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.cases.notify import ground, inval_entry, inval_inode, node
from perfused.conformance.kernel.cases.notify_effects import MEASURED, kept, says
from perfused.conformance.kernel.server import out
from wire import codec
from wire.flags import UNIQUE_RESEND, OpenFlag, PollFlag
from wire.opcodes import Notify, Opcode

N = Notify
POLL, READ, LOOKUP, GETATTR = Opcode.POLL, Opcode.READ, Opcode.LOOKUP, Opcode.GETATTR


# -- POLL --------------------------------------------------------------------------------------------------------------


def _polling(k: Bench, by: str) -> Callable[[], int]:
    """A client that polls the file "a" until it may be read: the events it was told."""

    def poll() -> int:
        fd = os.open(k.file("a"), os.O_RDONLY)
        if by == "select":
            return len(select.select([fd], [], [])[0])
        waiter = select.epoll() if by == "epoll" else select.poll()
        waiter.register(fd, select.POLLIN)
        return dict(waiter.poll()).get(fd, 0)

    return poll


def _woken(by: str) -> None:
    @case(f"notify/poll-wakes-{by}", POLL, aspect="notify", since=11, notifications=(N.POLL,),
          source="fuse.h 7.11: FUSE_POLL_SCHEDULE_NOTIFY, notify_poll_wakeup_out")  # fmt: skip
    def _(k: Bench) -> None:
        k.mount()
        k.tree.add("a", b"content")
        ready = [0]
        k.answer(POLL, lambda request: codec.poll_out.pack(ready[0], 0))
        client = k.start(_polling(k, by))
        request = k.wait_for(POLL)
        k.true("it asks to be told", request.head.flags & PollFlag.SCHEDULE_NOTIFY, request.head.flags)
        k.true("the poller waits", not client.done(0.05))
        ready[0] = select.POLLIN
        says(k, N.POLL, codec.notify_poll_wakeup_out.pack(request.head.kh))
        k.equal("what the poller is told", client.wait(k.patience).value, 1 if by == "select" else select.POLLIN)
        k.true("it asked again", len(k.seen(POLL)) > 1)


for _by in ("poll", "epoll", "select"):
    _woken(_by)


@case("notify/poll-of-another-kh", POLL, aspect="notify", since=11, notifications=(N.POLL,),
      source="fuse.h 7.11: kh says which file")  # fmt: skip
def _(k: Bench) -> None:
    k.mount()
    k.tree.add("a", b"content")
    ready = [0]
    k.answer(POLL, lambda request: codec.poll_out.pack(ready[0], 0))
    client = k.start(_polling(k, "poll"))
    kh = k.wait_for(POLL).head.kh
    ready[0] = select.POLLIN
    says(k, N.POLL, codec.notify_poll_wakeup_out.pack(kh + 1))
    k.true("the poller waits", not client.done(0.05))
    says(k, N.POLL, codec.notify_poll_wakeup_out.pack(kh))
    k.equal("what the poller is told", client.wait(k.patience).value, select.POLLIN)


@case("notify/poll-wakes-in-vain", POLL, aspect="notify", since=11, notifications=(N.POLL,),
      source="poll(2): a wakeup with nothing ready waits on")  # fmt: skip
def _(k: Bench) -> None:
    k.mount()
    k.tree.add("a", b"content")
    ready = [0]
    k.answer(POLL, lambda request: codec.poll_out.pack(ready[0], 0))
    client = k.start(_polling(k, "poll"))
    kh = k.wait_for(POLL).head.kh
    says(k, N.POLL, codec.notify_poll_wakeup_out.pack(kh))
    k.wait_for(POLL, 2)
    k.true("the poller waits", not client.done(0.05))
    ready[0] = select.POLLIN
    says(k, N.POLL, codec.notify_poll_wakeup_out.pack(kh))
    k.equal("what the poller is told", client.wait(k.patience).value, select.POLLIN)


# -- RESEND ------------------------------------------------------------------------------------------------------------


@case("notify/resend-repeats-a-request", GETATTR, aspect="notify", since=40, notifications=(N.RESEND,),
      source="fuse.h 7.40: notify_resend; FUSE_UNIQUE_RESEND marks what comes again")  # fmt: skip
def _(k: Bench) -> None:
    k.mount()
    rule = k.hold(GETATTR)
    client = k.start(lambda: os.stat(k.path).st_mtime)
    first = k.held(rule)
    again = k.hold(GETATTR)
    says(k, N.RESEND)
    second = k.held(again)
    k.equal("its unique", second.header.unique, first.header.unique | UNIQUE_RESEND)
    k.equal("its body and the rest", second.head, first.head)
    k.equal("the rest of its header", second.header._replace(unique=0), first.header._replace(unique=0))
    k.reply(second)
    k.equal("what the caller sees", client.wait(k.patience).value, k.tree.at("").mtime)
    k.equal("all that is written after it", k.server.write(out(second.header.unique)), errno.ENOENT)


@case("notify/resend-and-a-reply-without-the-bit", GETATTR, aspect="notify", level=Level.PROFILE, since=40,
      notifications=(N.RESEND,), source=MEASURED + ": the unique is now the one with bit 63")  # fmt: skip
def _(k: Bench) -> None:
    k.mount()
    rule = k.hold(GETATTR)
    client = k.start(lambda: os.stat(k.path).st_mtime)
    first = k.held(rule)
    again = k.hold(GETATTR)
    says(k, N.RESEND)
    second = k.held(again)
    answer = k.tree.attr_out(k.tree.at(""))
    k.equal("a reply to the first unique", k.server.write(out(first.header.unique, answer)), errno.ENOENT)
    k.true("the caller waits", not client.done(0.02))
    k.reply(second)
    k.equal("errno", client.wait(k.patience).errno, 0)


@case("notify/resend-of-nothing", aspect="notify", since=40, notifications=(N.RESEND,),
      source="fuse.h 7.40: what is answered does not come again")  # fmt: skip
def _(k: Bench) -> None:
    ground(k)
    k.settle()
    before = len(k.server.requests)
    says(k, N.RESEND)
    k.settle()
    came = k.server.requests[before:]
    k.equal("what comes", [each.header.opcode for each in came], [Opcode.STATFS])
    k.equal("resent ones", [each for each in came if each.header.unique & UNIQUE_RESEND], [])


@case("notify/resend-twice", GETATTR, aspect="notify", since=40, notifications=(N.RESEND,),
      source="fuse.h 7.40: notify_resend")  # fmt: skip
def _(k: Bench) -> None:
    k.mount()
    rule = k.answer(GETATTR, None, times=3)
    client = k.start(lambda: os.stat(k.path).st_mtime)
    first = k.held(rule)
    for times in (2, 3):
        says(k, N.RESEND)
        k.wait_for(GETATTR, times)
    third = k.seen(GETATTR)[2]
    k.equal("its unique", third.header.unique, first.header.unique | UNIQUE_RESEND)
    k.reply(third)
    k.equal("errno", client.wait(k.patience).errno, 0)


@case("notify/resend-repeats-all-that-wait", READ, aspect="notify", since=40, notifications=(N.RESEND,),
      source="fuse.h 7.40: all requests that the server has are sent again")  # fmt: skip
def _(k: Bench) -> None:
    k.mount()
    k.tree.open_flags = OpenFlag.DIRECT_IO
    rule = k.answer(READ, None, times=3)
    clients = []
    for number, name in enumerate("abc"):
        path = k.file(name)
        k.tree.add(name, b"content")
        clients.append(k.start(lambda path=path: open(path, "rb", buffering=0).read(7)))  # type: ignore[misc]
        k.wait_for(READ, number + 1)
    again = k.answer(READ, None, times=3)
    says(k, N.RESEND)
    k.wait_for(READ, 6)
    uniques = {each.header.unique | UNIQUE_RESEND for each in rule.seen}
    k.equal("uniques that come again", {each.header.unique for each in again.seen}, uniques)
    for each in again.seen:
        k.reply(each)
    k.equal("what is read", [each.wait(k.patience).value for each in clients], [b"content"] * 3)


@case("notify/resend-does-not-double-what-was-not-read", GETATTR, aspect="notify", since=40,
      notifications=(N.RESEND,), source="fuse.h 7.40: only what was read is sent again")  # fmt: skip
def _(k: Bench) -> None:
    server = k.mount(serve=False)
    k.equal("errno", k.serve(k.start(lambda: os.stat(k.path))).errno, 0)
    before = len(k.seen(GETATTR))
    client = k.start(lambda: os.stat(k.path))
    k.true("the caller waits", not client.done(0.1))
    k.equal("what write(2) says", server.notify(N.RESEND), 0)
    k.equal("errno", k.serve(client).errno, 0)
    k.equal("GETATTRs", len(k.seen(GETATTR)) - before, 1)


# -- while requests wait -----------------------------------------------------------------------------------------------


def _aside(k: Bench, code: Notify, payload: bytes) -> tuple[threading.Thread, list[int]]:
    """Notify from a thread of its own, as it may have to wait for a request in flight."""
    said: list[int] = []
    thread = threading.Thread(target=lambda: said.append(k.server.notify(code, payload)), daemon=True)
    thread.start()
    return thread, said


@case("notify/inval-inode-while-it-is-read", READ, aspect="notify", since=12, notifications=(N.INVAL_INODE,),
      source="libfuse: a notification may wait for a request, so no thread that answers may send it")  # fmt: skip
def _(k: Bench) -> None:
    ground(k)
    rule = k.hold(READ)
    client = k.start(lambda: open(k.file("a"), "rb").read())
    request = k.held(rule)
    thread, said = _aside(k, N.INVAL_INODE, inval_inode(node(k)))
    k.reply(request)
    k.equal("what is read", client.wait(k.patience).value, b"content")
    thread.join(k.patience)
    k.equal("what write(2) of the notification says", said, [0])


@case("notify/inval-entry-while-a-lookup-waits", LOOKUP, aspect="notify", since=12, notifications=(N.INVAL_ENTRY,),
      source="libfuse: a notification may wait for a request, so no thread that answers may send it")  # fmt: skip
def _(k: Bench) -> None:
    ground(k)
    k.tree.add("new", b"later")
    rule = k.hold(LOOKUP)
    client = k.start(lambda: os.stat(k.file("new")).st_size)
    request = k.held(rule)
    thread, said = _aside(k, N.INVAL_ENTRY, inval_entry(1, b"a"))
    k.reply(request)
    k.equal("what the caller sees", client.wait(k.patience).value, 5)
    thread.join(k.patience)
    k.equal("what write(2) of the notification says", said, [0])


@case("notify/of-another-inode-does-not-wait", READ, aspect="notify", level=Level.SHOULD, since=12,
      notifications=(N.INVAL_INODE, N.INVAL_ENTRY), source=MEASURED)  # fmt: skip
def _(k: Bench) -> None:
    ground(k)
    rule = k.hold(READ)
    client = k.start(lambda: open(k.file("a"), "rb").read())
    request = k.held(rule)
    for code, payload in (
        (N.INVAL_INODE, inval_inode(node(k, "d/inside"))),
        (N.INVAL_ENTRY, inval_entry(node(k, "d"), b"inside")),
    ):
        thread, said = _aside(k, code, payload)
        thread.join(k.patience / 2)
        k.equal(f"what write(2) of {code.name} says while a READ waits", said, [0])
    k.reply(request)
    k.equal("what is read", client.wait(k.patience).value, b"content")


@case("notify/many-while-reading", READ, aspect="notify", since=12, notifications=(N.INVAL_INODE,),
      source="fuse.h 7.12: data that came before an invalidation is not kept after it")  # fmt: skip
def _(k: Bench) -> None:
    """Readers and invalidations at once: nobody hangs, every read is whole, and the last state is seen at the end."""
    kept(k, b"0000000")
    path = k.file("a")

    def read_often() -> set[bytes]:
        return {open(path, "rb").read() for _ in range(60)}

    clients = [k.start(read_often) for _ in range(2)]
    versions = [bytes([48 + number % 10]) * 7 for number in range(30)]
    for version in versions:
        k.tree.at("a").data[:] = version
        says(k, N.INVAL_INODE, inval_inode(node(k)))
    seen: set[bytes] = set()
    for each in clients:
        seen |= each.wait(k.patience).value
    k.true("each read is one version", seen <= {b"0000000", *versions}, seen - set(versions))
    k.equal("the last version", k.ok(lambda: open(path, "rb").read()), versions[-1])
