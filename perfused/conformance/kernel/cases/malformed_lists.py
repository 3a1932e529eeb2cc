"""Cases about READDIR and READDIRPLUS replies with records that make no sense.

A record is a whole one or the list ends before it; a name that cannot be one makes the call fail. Never here: good
lists.
"""

import errno
import os
import stat
from collections.abc import Callable

from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from wire import codec, tails
from wire.flags import InitFlag
from wire.message import Request
from wire.opcodes import Opcode
from wire.tails import Dirent, Direntplus

READDIR, READDIRPLUS = Opcode.READDIR, Opcode.READDIRPLUS
MEASURED = "measured on Linux 6.18"
GOOD = [(b"x", 11), (b"y", 12)]
#: of the record's good bytes, bad ones
Spoil = Callable[[bytes], bytes]


def record(k: Bench, opcode: Opcode, name: bytes, ino: int, off: int, kind: int = 8, entry: bytes = b"") -> bytes:
    """One record as the opcode has them."""
    if opcode == READDIR:
        return tails.pack_dirent(Dirent(ino, off, kind, name))
    return tails.pack_direntplus(Direntplus(entry or bytes(128), ino, off, kind, name))


def ground(k: Bench, opcode: Opcode, *records: bytes) -> None:
    """Have every list be these records once, and then nothing."""
    k.mount(flags=k.need(InitFlag.DO_READDIRPLUS) if opcode == READDIRPLUS else 0)

    def answer(request: Request) -> bytes:
        return b"".join(records) if request.head.offset == 0 else b""

    k.answer(opcode, answer)


def _list(
    name: str,
    spoil: Callable[[Bench, Opcode], list[bytes]],
    gets: int,
    names: list[str] | None = None,
    level: Level = Level.SHOULD,
    only: Opcode | None = None,
) -> None:
    for opcode in (READDIR, READDIRPLUS):
        if only not in (None, opcode):
            continue
        _one(opcode, name, spoil, gets, names, level)


def _one(opcode: Opcode, name: str, spoil: Callable[[Bench, Opcode], list[bytes]], gets: int,
         names: list[str] | None, level: Level) -> None:  # fmt: skip
    shown = errno.errorcode.get(gets) or f"lists {names}"

    @case(f"malformed/{opcode.name.lower()}-{name}", opcode, aspect="malformed", level=level,
          since=21 if opcode == READDIRPLUS else 1, source=f"{MEASURED}: {shown}")  # fmt: skip
    def _(k: Bench) -> None:
        ground(k, opcode, *spoil(k, opcode))
        if gets:
            k.fails(gets, lambda: os.listdir(k.path), "the list")
        else:
            k.equal("what is listed", k.ok(lambda: sorted(os.listdir(k.path))), names)
        k.true(f"a {opcode.name} request", k.seen(opcode))


def _patched(frame: bytes, at: int, value: int) -> bytes:
    """A record with another 32-bit word in its dirent, which is its tail."""
    return frame[:at] + codec.order("=").getxattr_out.pack(value, 0)[:4] + frame[at + 4 :]


def _namelen(value: int) -> Callable[[Bench, Opcode], list[bytes]]:
    def make(k: Bench, opcode: Opcode) -> list[bytes]:
        at = 16 if opcode == READDIR else 128 + 16
        return [_patched(record(k, opcode, b"x", 11, 1), at, value)]

    return make


def _named(name: bytes) -> Callable[[Bench, Opcode], list[bytes]]:
    return lambda k, opcode: [record(k, opcode, name, 11, 1)]


_list("namelen-0", _namelen(0), errno.EIO)
_list("name-too-long", _named(b"n" * 4096), errno.EIO)
_list("name-with-a-slash", _named(b"a/b"), errno.EIO)
_list("name-of-a-slash", _named(b"/"), errno.EIO)
_list("name-with-a-nul", _named(b"a\0b"), 0, ["a"], Level.PROFILE)
_list("namelen-beyond-the-reply", _namelen(200), 0, [], Level.PROFILE)
_list("namelen-of-all-ones", _namelen(0xFFFF_FFFF), errno.EIO)
_list("cut-record-is-dropped", lambda k, opcode: [record(k, opcode, b"x", 11, 1), record(k, opcode, b"y", 12, 2)[:-9]],
      0, ["x"])  # fmt: skip
_list("cut-head-is-dropped", lambda k, opcode: [record(k, opcode, b"x", 11, 1), record(k, opcode, b"y", 12, 2)[:20]],
      0, ["x"])  # fmt: skip
_list("bad-name-after-a-good-one", lambda k, opcode: [record(k, opcode, b"x", 11, 1), record(k, opcode, b"/", 12, 2)],
      0, ["x"], Level.PROFILE)  # fmt: skip
_list("type-unknown", lambda k, opcode: [record(k, opcode, b"x", 11, 1, 15)], 0, ["x"])
_list("type-beyond-16", lambda k, opcode: [record(k, opcode, b"x", 11, 1, 4711)], 0, ["x"], Level.PROFILE)
_list("ino-of-all-ones", lambda k, opcode: [record(k, opcode, b"x", (1 << 64) - 1, 1)], 0, ["x"])
_list("offset-2-62", lambda k, opcode: [record(k, opcode, b"x", 11, 1 << 62)], 0, ["x"])
_list("offset-negative", lambda k, opcode: [record(k, opcode, b"x", 11, 1 << 63)], 0, ["x"], Level.PROFILE)
_list("same-name-twice", lambda k, opcode: [record(k, opcode, b"x", 11, 1), record(k, opcode, b"x", 12, 2)], 0,
      ["x", "x"], Level.PROFILE)  # fmt: skip
_list("empty", lambda k, opcode: [], 0, [], Level.MUST)


def _offsets(name: str, offsets: tuple[int, ...]) -> None:
    @case(f"malformed/readdir-offsets-{name}", READDIR, aspect="reply", level=Level.MUST,
          source="fuse.h: fuse_dirent.off is the server's cookie, in no order")  # fmt: skip
    def _(k: Bench) -> None:
        """Each reply has one record; the next request must say the last record's cookie."""
        k.mount()
        asked: list[int] = []

        def answer(request: Request) -> bytes:
            asked.append(request.head.offset)
            at = 0 if request.head.offset == 0 else offsets.index(request.head.offset) + 1
            if at == len(offsets):
                return b""
            return record(k, READDIR, b"f%d" % at, 10 + at, offsets[at])

        k.answer(READDIR, answer)
        k.equal("what is listed", k.ok(lambda: os.listdir(k.path)), [f"f{at}" for at in range(len(offsets))])
        k.equal("offsets asked for", asked, [0, *offsets])


_offsets("falling", (900, 500, 7))
_offsets("far-apart", (1, 1 << 40, 1 << 62))


# -- READDIRPLUS's entries ---------------------------------------------------------------------------------------------


def _plus(name: str, level: Level = Level.SHOULD, **fields: int) -> None:
    @case(f"malformed/readdirplus-entry-{name}", READDIRPLUS, aspect="malformed", level=level, since=21,
          flags=InitFlag.DO_READDIRPLUS, source=f"{MEASURED}: the name is listed")  # fmt: skip
    def _(k: Bench) -> None:
        """The entry is wrong; what matters is that the list comes out, and that a later stat does not believe it."""
        k.mount(flags=InitFlag.DO_READDIRPLUS)
        node = k.tree.add("x", b"content")
        entry = k.tree.entry(node, valid=60, **fields)

        def answer(request: Request) -> bytes:
            return record(k, READDIRPLUS, b"x", node.nodeid, 1, entry=entry) if request.head.offset == 0 else b""

        k.answer(READDIRPLUS, answer)

        def look() -> tuple[list[str], int]:
            return os.listdir(k.path), os.stat(k.file("x")).st_size

        k.equal("what is listed, and the file's size", k.ok(look), (["x"], 7))
        k.true("the file is looked up, as its entry was no good", k.seen(Opcode.LOOKUP))


_plus("mode-0", mode=0)
_plus("type-unknown", mode=0o170000)
_plus("size-2-63", size=1 << 63)
_plus("nodeid-1", nodeid=1)
_plus("nodeid-0", Level.MUST, nodeid=0)


@case("malformed/readdirplus-dots-with-entries", READDIRPLUS, aspect="malformed", level=Level.SHOULD, since=21,
      flags=InitFlag.DO_READDIRPLUS, source=f"{MEASURED}: entries of . and .. are not looked at")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(flags=InitFlag.DO_READDIRPLUS)
    node = k.tree.add("x", b"content")
    entry = k.tree.entry(node, valid=60)
    names = [b".", b"..", b"x"]

    def answer(request: Request) -> bytes:
        if request.head.offset:
            return b""
        return b"".join(record(k, READDIRPLUS, name, 5, at + 1, entry=entry) for at, name in enumerate(names))

    k.answer(READDIRPLUS, answer)
    k.equal("what is listed", k.ok(lambda: os.listdir(k.path)), ["x"])
    k.true("the root is a directory still", stat.S_ISDIR(k.ok(lambda: os.stat(k.file(".")).st_mode)))


@case("malformed/readdirplus-bad-entry-is-forgotten", READDIRPLUS, Opcode.FORGET, aspect="malformed",
      level=Level.PROFILE, since=21, flags=InitFlag.DO_READDIRPLUS,
      source=f"{MEASURED}: an entry that cannot be used counts as looked up and is forgotten")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(flags=InitFlag.DO_READDIRPLUS)
    node = k.tree.add("x", b"content")
    entry = k.tree.entry(node, valid=60, mode=stat.S_IFDIR | 0o755)
    k.ok(lambda: os.stat(k.file("x")))
    k.answer(READDIRPLUS, lambda r: b"" if r.head.offset else record(k, READDIRPLUS, b"x", 5, 1, entry=entry))
    k.equal("what is listed", k.ok(lambda: os.listdir(k.path)), ["x"])
    k.settle()
    k.equal("lookups forgotten", sum(each.head.nlookup for each in k.seen(Opcode.FORGET)), 1)
