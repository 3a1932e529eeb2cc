"""Cases about what notifications of names and pages change: what is asked for again, and what is not.

Never here: what write(2) says to a malformed one (`notify`), what fills and empties caches (`notify_cache`), and
notifications about requests (`notify_waking`).
"""

import errno
import os
import sys
from collections.abc import Generator
from typing import Any

from perfused.conformance.kernel import seam
from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.cases.notify import delete, ground, inval_entry, inval_inode, node
from wire.flags import EntryFlag, InitFlag, OpenFlag
from wire.opcodes import Notify, Opcode

N = Notify
MEASURED = "measured on Linux 6.18"
KEEP = int(OpenFlag.KEEP_CACHE)
PAGE = os.sysconf("SC_PAGE_SIZE")
IN_DELETE, IN_DELETE_SELF = 0x200, 0x400


def kept(k: Bench, data: bytes, flags: int = 0) -> None:
    """Mount with a file whose pages and attributes are in the kernel."""
    k.mount(flags=flags)
    k.tree.valid, k.tree.open_flags = 60, KEEP
    k.tree.add("a", data)
    k.equal("what is read", content(k), data)
    k.true("it was read from the server", k.seen(Opcode.READ))


def content(k: Bench) -> Any:
    """What a client reads in the file."""
    return k.ok(lambda: open(k.file("a"), "rb").read())


def size(k: Bench, name: str = "a") -> Any:
    """What a client sees as a file's size."""
    return k.ok(lambda: os.stat(k.file(name)).st_size)


def says(k: Bench, code: Notify, payload: bytes = b"") -> None:
    """Send a notification that must be taken."""
    k.equal("what write(2) of the notification says", k.server.notify(code, payload), 0)


# -- INVAL_INODE -------------------------------------------------------------------------------------------------------


@case("notify/inval-inode-drops-pages", Opcode.READ, aspect="notify", since=12, notifications=(N.INVAL_INODE,),
      source="fuse.h 7.12: notify_inval_inode")  # fmt: skip
def _(k: Bench) -> None:
    kept(k, b"before!")
    k.tree.at("a").data[:] = b"content"
    k.equal("what is cached", content(k), b"before!")
    says(k, N.INVAL_INODE, inval_inode(node(k)))
    k.equal("what is read anew", content(k), b"content")


@case("notify/inval-inode-drops-a-range", Opcode.READ, aspect="notify", since=12, notifications=(N.INVAL_INODE,),
      source="fuse.h 7.12: notify_inval_inode's off and len")  # fmt: skip
def _(k: Bench) -> None:
    kept(k, b"a" * 3 * PAGE)
    k.tree.at("a").data[:] = b"b" * 3 * PAGE
    says(k, N.INVAL_INODE, inval_inode(node(k), PAGE, PAGE))
    k.equal("a page of the new, between the old", content(k), b"a" * PAGE + b"b" * PAGE + b"a" * PAGE)


@case("notify/inval-inode-to-the-end", Opcode.READ, aspect="notify", level=Level.SHOULD, since=12,
      notifications=(N.INVAL_INODE,), source=MEASURED + ": len 0 and less is up to the end")  # fmt: skip
def _(k: Bench) -> None:
    kept(k, b"a" * 3 * PAGE)
    k.tree.at("a").data[:] = b"b" * 3 * PAGE
    says(k, N.INVAL_INODE, inval_inode(node(k), PAGE, -1))
    k.equal("the new from the second page on", content(k), b"a" * PAGE + b"b" * 2 * PAGE)


@case("notify/inval-inode-drops-attributes", Opcode.GETATTR, aspect="notify", since=12,
      notifications=(N.INVAL_INODE,), source="fuse.h 7.12: notify_inval_inode")  # fmt: skip
def _(k: Bench) -> None:
    ground(k)
    k.tree.at("a").data.extend(b" more")
    k.equal("the size cached", size(k), 7)
    says(k, N.INVAL_INODE, inval_inode(node(k)))
    k.equal("the size asked for anew", size(k), 12)


@case("notify/inval-inode-attributes-alone", Opcode.GETATTR, Opcode.READ, aspect="notify", since=12,
      notifications=(N.INVAL_INODE,), source="fuse.h 7.12: off below 0 is the attributes alone")  # fmt: skip
def _(k: Bench) -> None:
    kept(k, b"before!")
    reads = len(k.seen(Opcode.READ))
    mode = k.ok(lambda: os.stat(k.file("a")).st_mode)
    k.tree.at("a").mode = 0o100600
    k.equal("the mode cached", k.ok(lambda: os.stat(k.file("a")).st_mode), mode)
    says(k, N.INVAL_INODE, inval_inode(node(k), -1))
    k.equal("the mode asked for anew", k.ok(lambda: os.stat(k.file("a")).st_mode) & 0o777, 0o600)
    k.equal("what is cached", content(k), b"before!")
    k.equal("READ requests", len(k.seen(Opcode.READ)), reads)


@case("notify/inval-inode-spares-others", Opcode.GETATTR, aspect="notify", level=Level.SHOULD, since=12,
      notifications=(N.INVAL_INODE,), source="fuse.h 7.12: it names an inode")  # fmt: skip
def _(k: Bench) -> None:
    ground(k)
    says(k, N.INVAL_INODE, inval_inode(node(k)))
    before = len(k.seen(Opcode.GETATTR, node(k, "d/inside")))
    size(k, "d/inside")
    k.equal("GETATTR of another", len(k.seen(Opcode.GETATTR, node(k, "d/inside"))), before)


@case("notify/inval-inode-writes-dirty-pages-first", Opcode.WRITE, aspect="notify", since=12,
      notifications=(N.INVAL_INODE,), flags=InitFlag.WRITEBACK_CACHE,
      source="FreeBSD's notify.inval_inode_with_dirty_cache: what was written is not lost")  # fmt: skip
def _(k: Bench) -> None:
    kept(k, b"before!", InitFlag.WRITEBACK_CACHE)

    def work() -> Generator[Any, None, None]:
        fd = os.open(k.file("a"), os.O_RDWR)
        yield os.pwrite(fd, b"dirty", 0)
        yield os.pread(fd, 100, 0)

    client = k.steps(work)
    client.next()
    k.equal("WRITE requests", len(k.seen(Opcode.WRITE)), 0)
    says(k, N.INVAL_INODE, inval_inode(node(k)))
    k.equal("what the server has", bytes(k.tree.at("a").data), b"dirtye!")
    k.equal("what is read", client.next(), b"dirtye!")


# -- INVAL_ENTRY -------------------------------------------------------------------------------------------------------


def _entry(name: str, parent: str, flags: int) -> None:
    shown = f"{name}-expire-only" if flags else name

    @case(f"notify/inval-entry-{shown}-is-looked-up-again", Opcode.LOOKUP, aspect="notify",
          since=38 if flags else 12, notifications=(N.INVAL_ENTRY,), source="fuse.h 7.12, 7.38")  # fmt: skip
    def _(k: Bench) -> None:
        ground(k)
        path, leaf = (f"{parent}/inside", b"inside") if parent else ("a", b"a")
        before = len(k.seen(Opcode.LOOKUP))
        size(k, path)
        k.equal("LOOKUPs of what is cached", len(k.seen(Opcode.LOOKUP)), before)
        says(k, N.INVAL_ENTRY, inval_entry(node(k, parent), leaf, flags))
        size(k, path)
        found = k.seen(Opcode.LOOKUP)[before:]
        k.equal(
            "LOOKUPs afterwards", [(each.header.nodeid, each.names) for each in found], [(node(k, parent), (leaf,))]
        )


for _flags in (0, int(EntryFlag.EXPIRE_ONLY)):
    _entry("of-the-root", "", _flags)
    _entry("below", "d", _flags)


@case("notify/inval-entry-drops-the-inode", Opcode.FORGET, aspect="notify", level=Level.SHOULD, since=12,
      notifications=(N.INVAL_ENTRY,), source=MEASURED + ": an inode that nobody uses is forgotten")  # fmt: skip
def _(k: Bench) -> None:
    ground(k)
    says(k, N.INVAL_ENTRY, inval_entry(1, b"a"))
    k.equal("the node forgotten", k.wait_for(Opcode.FORGET).header.nodeid, node(k))


@case("notify/inval-entry-expire-only-keeps-the-inode", Opcode.FORGET, Opcode.READ, aspect="notify", since=38,
      level=Level.SHOULD, flags=InitFlag.HAS_EXPIRE_ONLY, notifications=(N.INVAL_ENTRY,),
      source="fuse.h 7.38: the entry is old, and not gone")  # fmt: skip
def _(k: Bench) -> None:
    kept(k, b"content")
    reads = len(k.seen(Opcode.READ))
    says(k, N.INVAL_ENTRY, inval_entry(1, b"a", EntryFlag.EXPIRE_ONLY))
    k.settle()
    k.equal("FORGETs", len(k.seen(Opcode.FORGET)), 0)
    k.equal("what is read", content(k), b"content")
    k.equal("READ requests", len(k.seen(Opcode.READ)), reads)


@case("notify/inval-entry-of-a-negative", Opcode.LOOKUP, aspect="notify", since=12, notifications=(N.INVAL_ENTRY,),
      source="fuse.h: nodeid 0 is cached for entry_valid; notify_inval_entry ends that")  # fmt: skip
def _(k: Bench) -> None:
    k.mount()
    rule = k.answer(Opcode.LOOKUP, k.tree.entry(k.tree.at(""), valid=60, nodeid=0))
    k.fails(errno.ENOENT, lambda: os.stat(k.file("late")))
    k.server.rules.remove(rule)
    k.tree.add("late", b"here")
    k.fails(errno.ENOENT, lambda: os.stat(k.file("late")), "stat of what is cached as absent")
    says(k, N.INVAL_ENTRY, inval_entry(1, b"late"))
    k.equal("the size", size(k, "late"), 4)


@case("notify/inval-entry-drops-parent-attributes", Opcode.GETATTR, aspect="notify", level=Level.SHOULD,
      since=12, notifications=(N.INVAL_ENTRY,), source="FreeBSD's notify cases; " + MEASURED)  # fmt: skip
def _(k: Bench) -> None:
    ground(k)
    k.ok(lambda: os.stat(k.file("d")))
    k.tree.at("d").mtime += 77
    says(k, N.INVAL_ENTRY, inval_entry(node(k, "d"), b"inside"))
    k.equal("the directory's mtime", k.ok(lambda: int(os.stat(k.file("d")).st_mtime)), k.tree.at("d").mtime)


def _held_open(code: Notify) -> None:
    @case(f"notify/{code.name.lower().replace('_', '-')}-spares-an-open-file", Opcode.READ, aspect="notify",
          since=18 if code == N.DELETE else 12, notifications=(code,), source="unlink(2)")  # fmt: skip
    def _(k: Bench) -> None:
        ground(k)

        def work() -> Generator[Any, None, None]:
            fd = os.open(k.file("a"), os.O_RDONLY)
            yield None
            yield os.read(fd, 100)

        client = k.steps(work)
        client.next()
        says(k, code, inval_entry(1, b"a") if code == N.INVAL_ENTRY else delete(1, node(k), b"a"))
        k.equal("what the open file reads", client.next(), b"content")
        k.equal("FORGETs of it", len(k.seen(Opcode.FORGET, node(k))), 0)


_held_open(N.INVAL_ENTRY)
_held_open(N.DELETE)


def _mounted_on(code: Notify) -> None:
    @case(
        f"notify/{code.name.lower().replace('_', '-')}-unmounts-what-is-on-it",
        Opcode.LOOKUP,
        aspect="notify",
        level=Level.PROFILE,
        since=18,
        notifications=(code,),
        source=MEASURED + ": a mount goes with its entry",
    )
    def _(k: Bench) -> None:
        ground(k)
        seam.mount("none", k.file("d"), "tmpfs", 0, "")
        k.equal("what is there", k.ok(lambda: os.listdir(k.file("d"))), [])
        says(k, code, inval_entry(1, b"d") if code == N.INVAL_ENTRY else delete(1, node(k, "d"), b"d"))
        k.equal("what is there now", k.ok(lambda: os.listdir(k.file("d"))), ["inside"])


_mounted_on(N.INVAL_ENTRY)
_mounted_on(N.DELETE)


# -- DELETE ------------------------------------------------------------------------------------------------------------


def _watched(code: Notify, path: str, mask: int, wanted: int, level: Level = Level.PROFILE) -> None:
    shown = f"{code.name.lower().replace('_', '-')}-watched-by-{'file' if path else 'directory'}"

    @case(
        f"notify/{shown}",
        aspect="notify",
        level=level,
        since=18,
        notifications=(code,),
        source=MEASURED + ": inotify tells who watches the file of its deletion, and not who watches the directory",
    )
    def _(k: Bench) -> None:
        ground(k)

        def work() -> Generator[Any, None, None]:
            fd = seam.inotify(k.file(path) if path else k.path, mask)
            os.set_blocking(fd, False)
            yield None
            try:
                yield int.from_bytes(os.read(fd, 4096)[4:8], sys.byteorder)
            except BlockingIOError:
                yield 0

        client = k.steps(work)
        client.next()
        says(k, code, inval_entry(1, b"a") if code == N.INVAL_ENTRY else delete(1, node(k), b"a"))
        k.equal("the event", client.next(), wanted)


_watched(N.DELETE, "a", IN_DELETE_SELF, IN_DELETE_SELF, Level.SHOULD)
_watched(N.DELETE, "", IN_DELETE, 0)
_watched(N.INVAL_ENTRY, "a", IN_DELETE_SELF, 0)


@case("notify/delete-removes-the-name", Opcode.LOOKUP, aspect="notify", since=18, notifications=(N.DELETE,),
      source="fuse.h 7.18: notify_delete")  # fmt: skip
def _(k: Bench) -> None:
    ground(k)
    child = node(k)
    del k.tree.at("").entries[b"a"]
    k.equal("the size cached", size(k), 7)
    says(k, N.DELETE, delete(1, child, b"a"))
    k.fails(errno.ENOENT, lambda: os.stat(k.file("a")), "stat")
    k.equal("the node forgotten", k.wait_for(Opcode.FORGET).header.nodeid, child)


@case("notify/delete-of-a-directory-in-use", aspect="notify", level=Level.SHOULD, since=18, notifications=(N.DELETE,),
      source=MEASURED + ": ENOTEMPTY while something in it is open")  # fmt: skip
def _(k: Bench) -> None:
    ground(k)

    def work() -> Generator[Any, None, None]:
        fd = os.open(k.file("d/inside"), os.O_RDONLY)
        yield fd
        yield os.read(fd, 100)

    client = k.steps(work)
    client.next()
    said = k.server.notify(N.DELETE, delete(1, node(k, "d"), b"d"))
    k.equal("what write(2) says", said, errno.ENOTEMPTY)
    k.equal("what the open file reads", client.next(), b"deeper")


@case("notify/delete-of-a-working-directory", aspect="notify", level=Level.SHOULD, since=18, notifications=(N.DELETE,),
      source="getcwd(2): ENOENT where the directory was removed")  # fmt: skip
def _(k: Bench) -> None:
    ground(k)

    def work() -> Generator[Any, None, None]:
        os.chdir(k.file("d"))
        yield os.getcwd()
        yield os.getcwd()

    client = k.steps(work)
    client.next()
    says(k, N.DELETE, delete(1, node(k, "d"), b"d"))
    client.begin()
    k.equal("getcwd's errno", client.ended()[1], errno.ENOENT)
