"""Cases about what every request carries: unique, nodeid, the caller, extensions; and the order of the queue.

Never here: heads and names.
"""

import errno
import os
import stat
import threading
from collections.abc import Callable
from typing import Any

from perfused.conformance.kernel import seam
from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.cases.notify import inval_entry
from wire import tails
from wire.flags import InitFlag, OpenFlag
from wire.message import Request
from wire.opcodes import Notify, Opcode

O = Opcode  # noqa: E741
MEASURED = "measured on Linux 6.18"
FUSE_H = "fuse.h: fuse_in_header"


def work(k: Bench) -> None:
    """Some of everything."""
    os.mkdir(k.file("d"))
    with open(k.file("d/f"), "wb") as file:
        file.write(b"content")
    os.listdir(k.file("d"))
    os.stat(k.file("d/f"))
    os.unlink(k.file("d/f"))


# -- unique ------------------------------------------------------------------------------------------------------------


@case("header/unique-is-unique", aspect="request", source=FUSE_H + ": unique, and 0 is notifications'")
def _(k: Bench) -> None:
    k.mount()
    k.ok(lambda: work(k))
    uniques = [each.header.unique for each in k.server.requests]
    k.equal("uniques that come twice", len(uniques) - len(set(uniques)), 0)
    k.true("none is 0", 0 not in uniques)


@case("header/unique-is-even", aspect="request", level=Level.PROFILE,
      source=MEASURED + ": requests count by two, the odd ones are INTERRUPTs'")  # fmt: skip
def _(k: Bench) -> None:
    k.mount()
    k.ok(lambda: work(k))
    odd = [each.header.unique for each in k.server.requests if each.header.unique & 1]
    k.equal("odd ones", odd, [])


@case("header/unique-rises", aspect="request", level=Level.PROFILE,
      source=MEASURED + ": one client's requests have rising uniques, no bit 63")  # fmt: skip
def _(k: Bench) -> None:
    k.mount()
    k.ok(lambda: work(k))
    uniques = [each.header.unique for each in k.server.requests]
    k.equal("uniques", uniques, sorted(uniques))
    k.true("below bit 63", max(uniques) < 1 << 63, max(uniques))


@case("header/unique-is-a-connections-own", aspect="request", level=Level.PROFILE, source=MEASURED + ": INIT has 2")
def _(k: Bench) -> None:
    k.mount()
    k.equal("INIT's unique", k.one(O.INIT).header.unique, 2)


# -- the caller --------------------------------------------------------------------------------------------------------


def _caller(opcode: Opcode, call: Callable[[Bench], Any]) -> None:
    @case(f"{opcode.name.lower().replace('_', '-')}/caller", opcode, aspect="request",
          source=FUSE_H + ": uid, gid and pid of the caller")  # fmt: skip
    def _(k: Bench) -> None:
        k.mount(options="allow_other")
        k.tree.open_flags = OpenFlag.DIRECT_IO
        k.tree.add("a", b"content")
        k.tree.directory("d")

        def run() -> int:
            os.setresgid(1002, 1002, 1002)
            os.setresuid(1001, 1001, 1001)
            call(k)
            return os.getpid()

        pid = k.ok(run)
        found = [each.header for each in k.seen(opcode) if each.header.pid == pid]
        k.true(f"a {opcode.name} with the caller's pid", found, [each.header.pid for each in k.seen(opcode)])
        k.equal("uid and gid", {(each.uid, each.gid) for each in found}, {(1001, 1002)})


def _with(k: Bench, use: Callable[[int], Any], flags: int = os.O_RDWR) -> Any:
    fd = os.open(k.file("a"), flags)
    try:
        return use(fd)
    finally:
        os.close(fd)


for _opcode, _call in (
    (O.LOOKUP, lambda k: os.stat(k.file("a"))),
    (O.GETATTR, lambda k: os.stat(k.path)),
    (O.SETATTR, lambda k: os.truncate(k.file("a"), 1)),
    (O.MKDIR, lambda k: os.mkdir(k.file("n"))),
    (O.MKNOD, lambda k: os.mkfifo(k.file("n"))),
    (O.SYMLINK, lambda k: os.symlink("t", k.file("n"))),
    (O.UNLINK, lambda k: os.unlink(k.file("a"))),
    (O.RENAME, lambda k: os.rename(k.file("a"), k.file("n"))),
    (O.OPEN, lambda k: _with(k, lambda fd: None)),
    (O.CREATE, lambda k: os.close(os.open(k.file("n"), os.O_CREAT | os.O_RDWR))),
    (O.READ, lambda k: _with(k, lambda fd: os.read(fd, 7))),
    (O.WRITE, lambda k: _with(k, lambda fd: os.write(fd, b"data"))),
    (O.READDIR, lambda k: os.listdir(k.path)),
    (O.STATFS, lambda k: os.statvfs(k.path)),
):
    _caller(_opcode, _call)


@case("header/filesystem-ids-are-sent", O.MKDIR, aspect="request", level=Level.SHOULD,
      source="setfsuid(2): who acts on files is fsuid; " + MEASURED)  # fmt: skip
def _(k: Bench) -> None:
    k.mount(options="allow_other")

    def run() -> None:
        seam.function("setfsgid", 1004)
        seam.function("setfsuid", 1003)
        os.mkdir(k.file("n"))

    k.ok(run)
    head = k.one(O.MKDIR).header
    k.equal("uid and gid", (head.uid, head.gid), (1003, 1004))


def _nobody(opcode: Opcode) -> None:
    @case(f"{opcode.name.lower().replace('_', '-')}/no-caller", opcode, aspect="request", level=Level.PROFILE,
          source=MEASURED + ": uid, gid and pid are 0")  # fmt: skip
    def _(k: Bench) -> None:
        k.mount(options="allow_other")
        k.tree.add("a", b"content")

        def run() -> None:
            os.setresuid(1001, 1001, 1001)
            with open(k.file("a"), "rb") as file:
                file.read()
            os.listdir(k.path)
            os.unlink(k.file("a"))

        k.ok(run)
        head = k.wait_for(opcode).header
        k.equal("uid, gid and pid", (head.uid, head.gid, head.pid), (0, 0, 0))


for _opcode in (O.RELEASE, O.RELEASEDIR, O.FORGET):
    _nobody(_opcode)


@case("header/nodeid", O.LOOKUP, O.OPEN, aspect="request", source=FUSE_H + ": nodeid is what LOOKUP gave")
def _(k: Bench) -> None:
    k.mount()
    node = k.tree.add("a", b"content")
    k.answer(O.LOOKUP, k.tree.entry(node, nodeid=(1 << 63) + 5))
    k.answer(O.OPEN, k.tree.opened())
    for opcode in (O.GETATTR, O.READ):
        k.answer(opcode, lambda r: k.tree.attr_out(node) if r.header.opcode == O.GETATTR else b"content",
                 lambda r: r.header.nodeid == (1 << 63) + 5)  # fmt: skip
    k.equal("what is read", k.ok(lambda: open(k.file("a"), "rb").read()), b"content")
    k.equal("OPEN's nodeid", k.one(O.OPEN).header.nodeid, (1 << 63) + 5)


@case("header/total-extlen-0", aspect="request", source="fuse.h 7.38: total_extlen is 0 without extensions")
def _(k: Bench) -> None:
    k.mount()
    k.ok(lambda: work(k))
    k.equal("extensions", [each for each in k.server.requests if each.header.total_extlen or each.extensions], [])
    k.equal("padding", {each.header.padding for each in k.server.requests}, {0})


# -- extensions --------------------------------------------------------------------------------------------------------

MAKERS: tuple[tuple[Opcode, Callable[[Bench], Any]], ...] = (
    (O.MKDIR, lambda k: os.mkdir(k.file("n"))),
    (O.MKNOD, lambda k: os.mkfifo(k.file("n"))),
    (O.SYMLINK, lambda k: os.symlink("t", k.file("n"))),
    (O.CREATE, lambda k: os.close(os.open(k.file("n"), os.O_CREAT | os.O_RDWR))),
    (O.TMPFILE, lambda k: os.close(os.open(k.path, os.O_TMPFILE | os.O_RDWR))),
)


def _context(opcode: Opcode, call: Callable[[Bench], Any]) -> None:
    @case(f"{opcode.name.lower()}/security-context", opcode, aspect="flag", since=36, flags=InitFlag.SECURITY_CTX,
          source="fuse.h 7.36: FUSE_SECURITY_CTX, fuse_secctx_header behind the names")  # fmt: skip
    def _(k: Bench) -> None:
        """Contexts there are none without a security module; the header announces how many there are all the same."""
        k.mount(flags=InitFlag.SECURITY_CTX)
        k.ok(lambda: call(k))
        request: Request = k.one(opcode)
        found = [each for each in request.extensions if each.type <= tails.MAX_NR_SECCTX]
        k.equal("secctx headers", len(found), 1)
        contexts = tails.security_contexts(found[0])
        k.equal("contexts, as many as the header says", len(contexts), found[0].type)


def _group(opcode: Opcode, call: Callable[[Bench], Any], member: bool) -> None:
    shown = "of-the-parent" if member else "of-strangers"

    @case(f"{opcode.name.lower()}/supplementary-group-{shown}", opcode, aspect="flag", since=38,
          flags=InitFlag.CREATE_SUPP_GROUP, level=Level.MUST if member else Level.SHOULD,
          source="fuse.h 7.38: FUSE_CREATE_SUPP_GROUP, the group that matches the parent's")  # fmt: skip
    def _(k: Bench) -> None:
        k.mount(flags=InitFlag.CREATE_SUPP_GROUP, options="allow_other")
        k.tree.at("").gid = 2002
        k.ok(lambda: os.stat(k.path))

        def run() -> None:
            os.setgroups([2001, 2002] if member else [2001])
            os.setresgid(1002, 1002, 1002)
            os.setresuid(1001, 1001, 1001)
            call(k)

        k.ok(run)
        groups = [tails.supplementary_groups(each) for each in k.one(opcode).extensions if each.type == 32]
        k.equal("groups sent", groups, [(2002,)] if member else [])


for _opcode, _call in MAKERS:
    _context(_opcode, _call)
    _group(_opcode, _call, True)
_group(*MAKERS[0], False)


@case("header/both-extensions", O.MKDIR, aspect="flag", since=38,
      flags=InitFlag.SECURITY_CTX | InitFlag.CREATE_SUPP_GROUP,
      source="fuse.h 7.38: total_extlen counts all extensions, in units of 8 bytes")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(flags=InitFlag.SECURITY_CTX | InitFlag.CREATE_SUPP_GROUP, options="allow_other")
    k.tree.at("").gid = 2002
    k.ok(lambda: os.stat(k.path))

    def run() -> None:
        os.setgroups([2002])
        os.setresgid(1002, 1002, 1002)
        os.mkdir(k.file("n"))

    k.ok(run)
    request = k.one(O.MKDIR)
    types = sorted(each.type for each in request.extensions)
    k.true("one of each", len(types) == 2 and types[0] <= 31 and types[1] == 32, types)
    k.true("total_extlen", request.header.total_extlen >= 3, request.header.total_extlen)


@case("header/extensions-on-makers-alone", aspect="flag", since=38, level=Level.SHOULD,
      flags=InitFlag.SECURITY_CTX | InitFlag.CREATE_SUPP_GROUP, source="fuse.h 7.36, 7.38")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(flags=InitFlag.SECURITY_CTX | InitFlag.CREATE_SUPP_GROUP)
    k.ok(lambda: work(k))
    carry = {each.header.opcode for each in k.server.requests if each.header.total_extlen}
    k.true("only those that make something", carry <= {opcode for opcode, _ in MAKERS}, carry)


# -- the queue ---------------------------------------------------------------------------------------------------------


@case("header/queued-before-they-are-read", O.STATFS, aspect="other", source="fuse.rst: requests wait to be read")
def _(k: Bench) -> None:
    server = k.mount(serve=False)
    k.serve(k.start(lambda: os.stat(k.path)))
    clients = [k.start(lambda: os.statvfs(k.path).f_blocks) for _ in range(12)]
    k.true("they wait", not any(each.done(0.01) for each in clients))
    k.step_to(O.STATFS, 12)
    k.equal("what they see", [each.wait(k.patience).value for each in clients], [1000] * 12)
    k.true("nothing more comes", not server.step(0.01))


@case("header/queue-is-in-order", O.STATFS, O.MKDIR, aspect="other", level=Level.SHOULD,
      source=MEASURED + ": first come, first read")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(serve=False)
    for name in "abcd":
        k.tree.directory(name)
    k.serve(k.start(lambda: [os.stat(k.file(name)).st_mode for name in "abcd"]))
    clients = []
    for name in "abcd":
        clients.append(k.start(lambda name=name: os.statvfs(k.file(".")).f_blocks))  # type: ignore[misc]
        k.true("it waits", not clients[-1].done(0.05))
    k.step_to(O.STATFS, 4)
    k.equal("the order of callers", [each.header.pid for each in k.seen(O.STATFS)], [each.pid for each in clients])
    k.equal("errnos", {each.wait(k.patience).errno for each in clients}, {0})


@case("header/forgets-do-not-starve-requests", O.FORGET, O.BATCH_FORGET, O.STATFS, aspect="other",
      level=Level.PROFILE, source=MEASURED + ": a request that waits is read among forgets")  # fmt: skip
def _(k: Bench) -> None:
    server = k.mount(serve=False, minor=15)
    names = [f"f{number}" for number in range(60)]
    for name in names:
        k.tree.add(name)
    k.serve(k.start(lambda: [os.stat(k.file(name)).st_ino for name in names]))
    for name in names:
        server.notify(Notify.INVAL_ENTRY, inval_entry(1, name.encode()))
    client = k.start(lambda: os.statvfs(k.path).f_blocks)
    k.true("it waits", not client.done(0.05))
    k.step_to(O.STATFS)
    before = len(k.seen(O.FORGET))
    k.true("some forgets are still to come", before < 60, before)
    k.step_to(O.FORGET, 60)
    k.equal("what the caller sees", client.wait(k.patience).value, 1000)


@case("header/forget-comes-after-the-lookup-is-answered", O.FORGET, aspect="other",
      source="fuse.h: nlookup counts what was answered")  # fmt: skip
def _(k: Bench) -> None:
    k.mount()
    node = k.tree.add("a", b"content")
    k.tree.valid = 0
    for _ in range(5):
        k.ok(lambda: os.stat(k.file("a")))
    lookups = len(k.seen(O.LOOKUP))
    k.equal("errno", k.server.notify(Notify.INVAL_ENTRY, inval_entry(1, b"a")), 0)
    k.equal("nlookup", k.wait_for(O.FORGET).head.nlookup, lookups)
    k.equal("lookups left", node.lookups, 0)


@case("header/many-at-once", O.LOOKUP, O.CREATE, O.WRITE, O.READ, O.UNLINK, aspect="other",
      source="fuse.rst: requests of many callers are in flight at once")  # fmt: skip
def _(k: Bench) -> None:
    """Six callers, two threads that serve: everybody gets their own answers."""
    k.mount()
    k.ok(lambda: os.stat(k.path))
    extra = threading.Thread(target=k.server._serve, daemon=True)
    extra.start()

    def one(number: int) -> Callable[[], bool]:
        def run() -> bool:
            for turn in range(4):
                path = k.file(f"f{number}-{turn}")
                data = f"{number} {turn}".encode()
                with open(path, "wb") as file:
                    file.write(data)
                if open(path, "rb").read() != data or not stat.S_ISREG(os.stat(path).st_mode):
                    return False
                os.unlink(path)
            return True

        return run

    clients = [k.start(one(number)) for number in range(6)]
    k.equal("callers with the right answers", [each.wait(k.patience).value for each in clients], [True] * 6)
    k.fails(errno.ENOENT, lambda: os.stat(k.file("f0-0")))
