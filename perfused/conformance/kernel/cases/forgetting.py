"""Cases about FORGET and BATCH_FORGET: each reply that named a node is counted, and given back exactly once."""

import errno
import os
import threading
import time
from collections.abc import Callable

from perfused.conformance.kernel import seam
from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Failed, Level, case
from perfused.conformance.kernel.match import at_node, named
from perfused.conformance.kernel.tree import Node
from wire import codec
from wire.flags import InitFlag
from wire.message import Request
from wire.opcodes import Opcode

FORGET, BATCH_FORGET, LOOKUP = Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.LOOKUP
COUNTED = "fuse.h: fuse_forget_in.nlookup; every fuse_entry_out with a nodeid counts one"
MEASURED = "measured on Linux 6.18"


def _given_back(k: Bench, node: Node) -> int:
    """How many lookups of a node were forgotten so far."""
    single: int = sum(each.head.nlookup for each in k.seen(FORGET, node.nodeid))
    return single + sum(n for each in k.seen(BATCH_FORGET) for nodeid, n in each.items if nodeid == node.nodeid)


def _drop(k: Bench, name: bytes, parent: int = 1) -> None:
    """Have the kernel let go of a name (notification INVAL_ENTRY), and with the last one of its node."""
    k.server.notify(3, codec.notify_inval_entry_out.pack(parent, len(name), 0) + name + b"\0")


def _until(k: Bench, what: str, wanted: object, got: Callable[[], object]) -> None:
    """Wait for requests until `got` gives `wanted`."""
    deadline = time.monotonic() + k.patience
    with k.server.moved:
        while got() != wanted:
            if not k.server.moved.wait(max(deadline - time.monotonic(), 0)) and time.monotonic() > deadline:
                raise Failed(what, wanted, got())


def _balanced(k: Bench, node: Node, wanted: int) -> None:
    """Wait until exactly `wanted` lookups are given back, which are all that the tree has given."""
    _until(k, f"lookups of node {node.nodeid} forgotten", wanted, lambda: _given_back(k, node))
    k.equal("lookups that nobody forgot", node.lookups, 0)


@case("forget/request", FORGET, aspect="request", source=COUNTED)
def _(k: Bench) -> None:
    node = k.mount().tree.add("a")
    k.ok(lambda: os.stat(k.file("a")))
    _drop(k, b"a")
    request = k.wait_for(FORGET)
    k.equal("nodeid, nlookup", (request.header.nodeid, request.head.nlookup), (node.nodeid, 1))


@case("forget/sum", FORGET, LOOKUP, aspect="request", source=COUNTED)
def _(k: Bench) -> None:
    node = k.mount().tree.add("a")
    k.ok(lambda: [os.stat(k.file("a")).st_ino for _ in range(5)])
    asked = len(k.seen(LOOKUP))
    k.equal("LOOKUP requests", asked, 5)
    _drop(k, b"a")
    _balanced(k, node, 5)


def _made(k: Bench) -> dict[str, tuple[Opcode, Callable[[], object], int]]:
    return {
        "create": (Opcode.CREATE, lambda: os.close(os.open(k.file("z"), os.O_CREAT | os.O_EXCL | os.O_WRONLY)), 1),
        "mknod": (Opcode.MKNOD, lambda: os.mkfifo(k.file("z")), 1),
        "mkdir": (Opcode.MKDIR, lambda: os.mkdir(k.file("z")), 1),
        "symlink": (Opcode.SYMLINK, lambda: os.symlink("x", k.file("z")), 1),
        "link": (Opcode.LINK, lambda: os.link(k.file("a"), k.file("z")), 2),
    }


def _counts(name: str, opcode: Opcode) -> None:
    @case(f"forget/counts-{name}", FORGET, opcode, aspect="request", source=COUNTED)
    def _(k: Bench) -> None:
        k.mount().tree.add("a")
        _, make, count = _made(k)[name]
        k.ok(make)
        node = k.tree.at("z")
        _drop(k, b"z")
        _drop(k, b"a")
        _balanced(k, node, count)


for _name, _opcode in (
    ("create", Opcode.CREATE), ("mknod", Opcode.MKNOD), ("mkdir", Opcode.MKDIR), ("symlink", Opcode.SYMLINK),
    ("link", Opcode.LINK),
):  # fmt: skip
    _counts(_name, _opcode)


@case("forget/counts-tmpfile", FORGET, Opcode.TMPFILE, aspect="request", since=37, source=COUNTED)
def _(k: Bench) -> None:
    tree = k.mount().tree
    k.ok(lambda: os.close(os.open(k.path, os.O_TMPFILE | os.O_RDWR, 0o600)))
    _balanced(k, tree.nodes[max(tree.nodes)], 1)


@case("forget/counts-readdirplus", FORGET, Opcode.READDIRPLUS, aspect="request", since=21, source=COUNTED,
      flags=InitFlag.DO_READDIRPLUS)  # fmt: skip
def _(k: Bench) -> None:
    tree = k.mount(flags=InitFlag.DO_READDIRPLUS).tree
    nodes = [tree.add(name) for name in ("a", "b")]
    k.ok(lambda: os.listdir(k.path))
    k.wait_for(Opcode.READDIRPLUS)
    for node, name in zip(nodes, (b"a", b"b"), strict=True):
        _drop(k, name)
        _balanced(k, node, 1)


@case("forget/dots-of-readdirplus-do-not-count", FORGET, Opcode.READDIRPLUS, aspect="request", since=21, source=COUNTED,
      flags=InitFlag.DO_READDIRPLUS)  # fmt: skip
def _(k: Bench) -> None:
    tree = k.mount(flags=InitFlag.DO_READDIRPLUS).tree
    node = tree.directory("d")
    k.ok(lambda: os.listdir(k.file("d")))
    _drop(k, b"d")
    _until(k, "lookups not forgotten", 0, lambda: node.lookups)
    k.equal("of the root", _given_back(k, tree.at("")), 0)


@case("forget/negative-does-not-count", FORGET, LOOKUP, aspect="request", source=COUNTED)
def _(k: Bench) -> None:
    tree = k.mount().tree
    node = tree.add("a")
    k.answer(LOOKUP, lambda _: tree.entry(node, nodeid=0, entry_valid=60), named(b"z"))
    k.fails(errno.ENOENT, lambda: os.stat(k.file("z")))
    k.ok(lambda: os.stat(k.file("a")))
    _drop(k, b"z")
    _drop(k, b"a")
    _balanced(k, node, 1)
    k.equal("FORGET requests", len(k.seen(FORGET)) + len(k.seen(BATCH_FORGET)), 1)


@case("forget/after-unlink", FORGET, Opcode.UNLINK, aspect="request", level=Level.SHOULD, source=MEASURED + ": at once")
def _(k: Bench) -> None:
    node = k.mount().tree.add("a")
    k.ok(lambda: os.unlink(k.file("a")))
    _balanced(k, node, len(k.seen(LOOKUP)))


@case("forget/after-rmdir", FORGET, Opcode.RMDIR, aspect="request", level=Level.SHOULD, source=MEASURED + ": at once")
def _(k: Bench) -> None:
    node = k.mount().tree.directory("d")
    k.ok(lambda: os.rmdir(k.file("d")))
    _balanced(k, node, len(k.seen(LOOKUP)))


@case("forget/after-rename-over", FORGET, Opcode.RENAME, aspect="request", level=Level.SHOULD,
      source=MEASURED + ": the node that lost its name, at once")  # fmt: skip
def _(k: Bench) -> None:
    tree = k.mount().tree
    tree.add("a")
    node = tree.add("b")
    k.ok(lambda: os.rename(k.file("a"), k.file("b")))
    _until(k, "lookups not forgotten", 0, lambda: node.lookups)


@case(
    "forget/not-while-open", FORGET, Opcode.RELEASE, aspect="request", source=COUNTED + "; an open file holds its node"
)
def _(k: Bench) -> None:
    node = k.mount().tree.add("a", b"content")
    rule = k.hold(Opcode.READ)

    def work() -> bytes:
        with open(k.file("a"), "rb", buffering=0) as file:
            os.unlink(k.file("a"))
            return file.read(7)

    client = k.start(work)
    request = k.held(rule)
    k.equal("forgotten while open", _given_back(k, node), 0)
    k.reply(request)
    k.equal("what is read", client.wait(k.patience).value, b"content")
    _until(k, "lookups not forgotten", 0, lambda: node.lookups)
    last = [each.header.opcode for each in k.server.requests if each.header.opcode in (Opcode.RELEASE, FORGET)]
    k.equal("what came last", last[-1], FORGET)


@case("forget/not-while-somebody-stands-there", FORGET, Opcode.RMDIR, aspect="request",
      source=COUNTED + "; a working directory holds its node")  # fmt: skip
def _(k: Bench) -> None:
    tree = k.mount().tree
    node = tree.directory("d")
    rule = k.hold(Opcode.GETATTR, at_node(node.nodeid))

    def work() -> int:
        os.chdir(k.file("d"))
        os.rmdir(k.file("d"))
        found = os.stat(".").st_ino
        os.chdir("/")
        return found

    client = k.start(work)
    request = k.held(rule)
    k.equal("RMDIR requests, lookups forgotten", (len(k.seen(Opcode.RMDIR)), _given_back(k, node)), (1, 0))
    k.reply(request)
    k.equal("st_ino", client.wait(k.patience).value, node.nodeid)
    _until(k, "lookups not forgotten", 0, lambda: node.lookups)


@case("forget/name-of-another-node", FORGET, LOOKUP, aspect="request", source=COUNTED)
def _(k: Bench) -> None:
    tree = k.mount().tree
    old = tree.add("a")
    k.ok(lambda: os.stat(k.file("a")))
    new = tree.add("a", b"new")
    k.ok(lambda: os.stat(k.file("a")))
    _until(k, "lookups of the old one not forgotten", 0, lambda: old.lookups)
    _drop(k, b"a")
    _until(k, "lookups of the new one not forgotten", 0, lambda: new.lookups)


@case("forget/name-gone", FORGET, LOOKUP, aspect="request", level=Level.SHOULD, source=MEASURED + ": at once")
def _(k: Bench) -> None:
    tree = k.mount().tree
    node = tree.add("a")
    k.ok(lambda: os.stat(k.file("a")))
    del tree.at("").entries[b"a"]
    k.fails(errno.ENOENT, lambda: os.stat(k.file("a")))
    _balanced(k, node, 1)


@case("forget/other-link-holds", FORGET, Opcode.UNLINK, aspect="request", source=COUNTED + "; any name holds the node")
def _(k: Bench) -> None:
    tree = k.mount().tree
    tree.valid = 60
    node = tree.add("a")
    k.ok(lambda: os.link(k.file("a"), k.file("b")))
    k.ok(lambda: os.unlink(k.file("a")))
    k.ok(lambda: os.stat(k.file("b")))
    k.equal("forgotten", _given_back(k, node), 0)
    k.ok(lambda: os.unlink(k.file("b")))
    _balanced(k, node, 2)


@case("forget/known-again", FORGET, LOOKUP, aspect="request", source=COUNTED)
def _(k: Bench) -> None:
    tree = k.mount().tree
    tree.valid = 60
    node = tree.add("a", b"123")
    for time_ in (1, 2):
        k.equal("size", k.ok(lambda: os.stat(k.file("a")).st_size), 3)
        _drop(k, b"a")
        _balanced(k, node, time_)


@case(
    "forget/none-at-unmount", FORGET, aspect="request", level=Level.PROFILE, source=MEASURED + ": no FORGET, no DESTROY"
)
def _(k: Bench) -> None:
    k.mount().tree.add("a")
    k.ok(lambda: os.stat(k.file("a")))
    seam.umount(k.path)
    k.true("the device ended", k.server.join(k.patience))
    last = {each.header.opcode for each in k.server.requests} & {FORGET, BATCH_FORGET, Opcode.DESTROY}
    k.equal("requests at the end", last, set())


def _queue(k: Bench, count: int) -> list[Node]:
    """Have `count` nodes forgotten while the server reads nothing, so that they queue."""
    tree = k.tree
    tree.valid = 60
    nodes = [tree.add(f"f{number}") for number in range(count)]
    k.ok(lambda: [os.stat(k.file(f"f{number}")).st_ino for number in range(count)])
    stalled, goes_on = threading.Event(), threading.Event()
    tree.valid = 0

    def stall(_: Request) -> int:
        stalled.set()
        goes_on.wait(k.patience)
        return -errno.EIO

    k.answer(Opcode.STATFS, stall, times=1)
    client = k.start(lambda: os.statvfs(k.path))
    k.true("STATFS came", stalled.wait(k.patience))
    for number in range(count):
        _drop(k, b"f%d" % number)
    goes_on.set()
    client.wait(k.patience)
    _until(k, "lookups not forgotten", 0, lambda: sum(node.lookups for node in nodes))
    return nodes


@case("batch-forget/request", BATCH_FORGET, aspect="request", level=Level.SHOULD, since=16,
      source="fuse.h: fuse_batch_forget_in, fuse_forget_one; measured: what queues is joined")  # fmt: skip
def _(k: Bench) -> None:
    k.mount()
    nodes = _queue(k, 40)
    request = k.wait_for(BATCH_FORGET)
    k.equal("nodeid, dummy", (request.header.nodeid, request.head.dummy), (0, 0))
    k.equal("count", request.head.count, len(request.items))
    k.true("more than one in a request", len(request.items) > 1)
    k.equal("nodes forgotten", sum(_given_back(k, node) for node in nodes), 40)


@case("batch-forget/each-node-once", BATCH_FORGET, FORGET, aspect="request", since=16, source=COUNTED)
def _(k: Bench) -> None:
    k.mount()
    nodes = _queue(k, 40)
    k.equal("lookups given back, of each", {_given_back(k, node) for node in nodes}, {1})


@case("forget/remount-drops-names", FORGET, BATCH_FORGET, aspect="cache", level=Level.PROFILE,
      source=MEASURED + ": a remount lets go of what nobody uses")  # fmt: skip
def _(k: Bench) -> None:
    tree = k.mount().tree
    tree.valid = 60
    nodes = [tree.add(name) for name in ("a", "b")]
    k.ok(lambda: [os.stat(k.file(name)).st_ino for name in ("a", "b")])
    seam.mount("conformance", k.path, "fuse.conformance", 0x20, "")
    for node in nodes:
        _balanced(k, node, 1)
