"""Cases about notifications that put data into the kernel's cache, take it from there, or make room.

Never here: invalidation (`notify_effects`), and what write(2) says to a malformed one (`notify`).
"""

import errno
import os
from collections.abc import Generator
from typing import Any

from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.cases.notify import ground, node, prune, retrieve, store
from perfused.conformance.kernel.cases.notify_effects import KEEP, MEASURED, PAGE, content, kept, says, size
from perfused.conformance.kernel.server import out
from wire.opcodes import Notify, Opcode

N = Notify


# -- STORE -------------------------------------------------------------------------------------------------------------


@case("notify/store-is-read-without-a-request", Opcode.READ, aspect="notify", since=15, notifications=(N.STORE,),
      source="fuse.h 7.15: notify_store puts data into the cache")  # fmt: skip
def _(k: Bench) -> None:
    ground(k)
    k.tree.open_flags = KEEP
    says(k, N.STORE, store(node(k), 0, b"stored!"))
    k.equal("what is read", content(k), b"stored!")
    k.equal("READ requests", len(k.seen(Opcode.READ)), 0)


@case("notify/store-in-the-middle", Opcode.READ, aspect="notify", since=15, notifications=(N.STORE,),
      source="fuse.h 7.15: notify_store's offset")  # fmt: skip
def _(k: Bench) -> None:
    kept(k, b"a" * 3 * PAGE)
    says(k, N.STORE, store(node(k), PAGE + 10, b"b" * PAGE))
    k.equal("what is read", content(k), b"a" * (PAGE + 10) + b"b" * PAGE + b"a" * (PAGE - 10))


@case("notify/store-beyond-the-end", Opcode.READ, aspect="notify", since=15, notifications=(N.STORE,),
      level=Level.SHOULD, source="kernel: data stored past the end makes the file longer")  # fmt: skip
def _(k: Bench) -> None:
    kept(k, b"content")
    reads = len(k.seen(Opcode.READ))
    k.tree.at("a").data.extend(b" and more")
    says(k, N.STORE, store(node(k), 7, b" and more"))
    k.equal("the size", size(k), 16)
    k.equal("what is read", content(k), b"content and more")
    k.equal("READ requests", len(k.seen(Opcode.READ)), reads)


# -- RETRIEVE ----------------------------------------------------------------------------------------------------------


def _retrieved(name: str, data: bytes, offset: int, asked: int, wanted: bytes, level: Level = Level.MUST) -> None:
    @case(f"notify/retrieve-{name}", Opcode.NOTIFY_REPLY, aspect="notify", level=level, since=15,
          notifications=(N.RETRIEVE,), source="fuse.h 7.15: notify_retrieve_out, answered by NOTIFY_REPLY")  # fmt: skip
    def _(k: Bench) -> None:
        kept(k, data)
        says(k, N.RETRIEVE, retrieve(0xABC, node(k), offset, asked))
        request = k.wait_for(Opcode.NOTIFY_REPLY)
        k.equal("its unique", request.header.unique, 0xABC)
        k.equal("its nodeid", request.header.nodeid, node(k))
        k.equal("its offset", request.head.offset, offset)
        k.equal("its size", request.head.size, len(wanted))
        k.equal("its data", request.payload, wanted)


_retrieved("a-file", b"content", 0, 7, b"content")
_retrieved("a-part", b"a" * PAGE + b"b" * PAGE, PAGE - 3, 6, b"aaabbb")
_retrieved("up-to-the-end", b"content", 0, 100, b"content")
_retrieved("beyond-the-end", b"content", 5 * PAGE, 100, b"", Level.SHOULD)
_retrieved("no-bytes", b"content", 0, 0, b"", Level.SHOULD)
_retrieved("two-pages", b"a" * PAGE + b"b" * PAGE, 0, 2 * PAGE, b"a" * PAGE + b"b" * PAGE)


@case("notify/retrieve-what-is-not-cached", Opcode.NOTIFY_REPLY, aspect="notify", since=15,
      notifications=(N.RETRIEVE,), source="fuse.h 7.15: only what is cached comes")  # fmt: skip
def _(k: Bench) -> None:
    ground(k)
    says(k, N.RETRIEVE, retrieve(0xABC, node(k), 0, 7))
    request = k.wait_for(Opcode.NOTIFY_REPLY)
    k.equal("its data", (request.head.size, request.payload), (0, b""))
    k.equal("READ requests", len(k.seen(Opcode.READ)), 0)


@case("notify/retrieve-what-was-stored", Opcode.NOTIFY_REPLY, aspect="notify", since=15,
      notifications=(N.STORE, N.RETRIEVE), source="fuse.h 7.15: notify_store, notify_retrieve")  # fmt: skip
def _(k: Bench) -> None:
    ground(k)
    says(k, N.STORE, store(node(k), 0, b"stored!"))
    says(k, N.RETRIEVE, retrieve(0xABC, node(k), 0, 7))
    k.equal("its data", k.wait_for(Opcode.NOTIFY_REPLY).payload, b"stored!")


@case("notify/retrieve-is-bounded-by-max-write", Opcode.NOTIFY_REPLY, aspect="notify", level=Level.SHOULD, since=15,
      notifications=(N.RETRIEVE,), source="fuse.h 7.15: a request has at most max_write of data")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(max_write=PAGE)
    k.tree.valid, k.tree.open_flags = 60, KEEP
    k.tree.add("a", bytes(4 * PAGE))
    content(k)
    says(k, N.RETRIEVE, retrieve(0xABC, node(k), 0, 4 * PAGE))
    found = len(k.wait_for(Opcode.NOTIFY_REPLY).payload)
    k.true("not more than max_write", 0 < found <= PAGE, found)


@case("notify/reply-to-notify-reply", Opcode.NOTIFY_REPLY, aspect="malformed", since=15, notifications=(N.RETRIEVE,),
      source=MEASURED + ": ENOENT; NOTIFY_REPLY is never answered")  # fmt: skip
def _(k: Bench) -> None:
    kept(k, b"content")
    says(k, N.RETRIEVE, retrieve(0xABC, node(k), 0, 7))
    request = k.wait_for(Opcode.NOTIFY_REPLY)
    k.equal("what write(2) says", k.server.write(out(request.header.unique)), errno.ENOENT)


# -- INC_EPOCH, PRUNE -------------------------------------------------------------------------------------------------


@case("notify/inc-epoch-has-all-looked-up-again", Opcode.LOOKUP, aspect="notify", since=44,
      notifications=(N.INC_EPOCH,), source="fuse.h 7.44: notify_inc_epoch")  # fmt: skip
def _(k: Bench) -> None:
    ground(k)
    size(k, "d/inside")
    before = len(k.seen(Opcode.LOOKUP))
    size(k, "d/inside")
    k.equal("LOOKUPs before", len(k.seen(Opcode.LOOKUP)), before)
    says(k, N.INC_EPOCH)
    size(k, "d/inside")
    size(k, "a")
    k.equal("names looked up", {each.names[0] for each in k.seen(Opcode.LOOKUP)[before:]}, {b"d", b"inside", b"a"})
    again = len(k.seen(Opcode.LOOKUP))
    size(k, "a")
    k.equal("LOOKUPs after that", len(k.seen(Opcode.LOOKUP)), again)


@case("notify/prune-evicts", Opcode.FORGET, Opcode.BATCH_FORGET, aspect="notify", since=45, notifications=(N.PRUNE,),
      source="fuse.h 7.45: notify_prune")  # fmt: skip
def _(k: Bench) -> None:
    ground(k)
    wanted = {node(k), node(k, "d/inside")}
    says(k, N.PRUNE, prune(*wanted))
    k.settle()
    gone = {each.header.nodeid for each in k.seen(Opcode.FORGET)}
    gone |= {item[0] for each in k.seen(Opcode.BATCH_FORGET) for item in each.items}
    k.true("both are forgotten", wanted <= gone, gone)
    k.equal("the size, looked up again", size(k), 7)


@case("notify/prune-spares-an-open-file", Opcode.FORGET, aspect="notify", since=45, notifications=(N.PRUNE,),
      source="fuse.h 7.45: what is in use stays")  # fmt: skip
def _(k: Bench) -> None:
    ground(k)

    def work() -> Generator[Any, None, None]:
        fd = os.open(k.file("a"), os.O_RDONLY)
        yield fd
        yield os.read(fd, 100)

    client = k.steps(work)
    client.next()
    says(k, N.PRUNE, prune(node(k)))
    k.settle()
    k.equal("FORGETs of it", len(k.seen(Opcode.FORGET, node(k))), 0)
    k.equal("what the open file reads", client.next(), b"content")
