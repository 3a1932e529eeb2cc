"""Cases about replies of the right size whose values make no sense: what the kernel must not believe.

Every frame is taken (write(2) says success); the caller gets an error, or what a profile says. Never here: lists of
directory entries (`malformed_lists`).
"""

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable
from typing import Any

from perfused.conformance.kernel import seam
from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.cases.malformed_sizes import opened
from wire import codec
from wire.flags import InitFlag, OpenFlag
from wire.opcodes import Opcode

O = Opcode  # noqa: E741
MEASURED = "measured on Linux 6.18"
DIRECT = int(OpenFlag.DIRECT_IO)


def make(k: Bench, opcode: Opcode) -> Callable[[], Any]:
    """What asks for an entry of a new name by an opcode."""
    return {
        O.LOOKUP: lambda: os.stat(k.file("a")),
        O.MKNOD: lambda: os.mkfifo(k.file("z")),
        O.MKDIR: lambda: os.mkdir(k.file("z")),
        O.SYMLINK: lambda: os.symlink("t", k.file("z")),
        O.CREATE: lambda: os.close(os.open(k.file("z"), os.O_CREAT | os.O_RDWR)),
        O.LINK: lambda: os.link(k.file("a"), k.file("z")),
        O.TMPFILE: lambda: os.close(os.open(k.path, os.O_TMPFILE | os.O_RDWR)),
    }[opcode]


TYPES = {O.MKNOD: stat.S_IFIFO, O.MKDIR: stat.S_IFDIR, O.SYMLINK: stat.S_IFLNK}


def _entry(opcode: Opcode, name: str, gets: int, level: Level = Level.SHOULD, **fields: int) -> None:
    @case(f"malformed/{opcode.name.lower()}-{name}", opcode, aspect="malformed", level=level,
          since=37 if opcode == O.TMPFILE else 1, source=f"{MEASURED}: {errno.errorcode.get(gets, gets)}")  # fmt: skip
    def _(k: Bench) -> None:
        k.mount()
        node = k.tree.add("a", b"content")
        given = k.tree.add("given", mode=TYPES.get(opcode, stat.S_IFREG) | 0o666)
        tail = k.tree.opened() if opcode in (O.CREATE, O.TMPFILE) else b""
        subject = node if opcode in (O.LINK, O.LOOKUP) else given
        rule = k.answer(opcode, k.tree.entry(subject, **fields) + tail)
        if gets:
            k.fails(gets, make(k, opcode))
        else:
            k.ok(make(k, opcode))
        k.true(f"a {opcode.name} request", rule.seen)
        k.settle()
        k.equal("what write(2) of it said", {each.errno for each in k.server.frames if each.reply_to == opcode}, {0})


for _opcode in (O.LOOKUP, O.MKNOD, O.MKDIR, O.SYMLINK, O.CREATE, O.LINK, O.TMPFILE):
    _entry(_opcode, "mode-0", errno.EIO, mode=0)
    _entry(_opcode, "size-2-63", errno.EIO, size=1 << 63)
for _opcode in (O.MKNOD, O.MKDIR, O.SYMLINK, O.CREATE, O.LINK, O.TMPFILE):
    _entry(_opcode, "nodeid-0", errno.EIO, nodeid=0)
for _opcode in (O.LOOKUP, O.CREATE, O.TMPFILE, O.MKDIR):
    _entry(_opcode, "nodeid-1", errno.EIO, nodeid=1)
_entry(O.LOOKUP, "nodeid-0", errno.ENOENT, Level.MUST, nodeid=0)
_entry(O.LOOKUP, "type-unknown", errno.EIO, mode=0o170000 | 0o644)
_entry(O.LOOKUP, "mode-without-type", errno.EIO, mode=0o644)
_entry(O.MKDIR, "of-another-type", errno.EIO, mode=stat.S_IFREG | 0o644)
_entry(O.MKNOD, "of-another-type", errno.EIO, mode=stat.S_IFREG | 0o644)
_entry(O.SYMLINK, "of-another-type", errno.EIO, mode=stat.S_IFREG | 0o644)
_entry(O.CREATE, "of-another-type", errno.EIO, mode=stat.S_IFIFO | 0o644)
_entry(O.CREATE, "a-directory", errno.EIO, mode=stat.S_IFDIR | 0o755)
_entry(O.LOOKUP, "mode-bits-above-16", 0, Level.PROFILE, mode=stat.S_IFREG | 0o644 | 1 << 20)


@case("malformed/lookup-size-of-all-ones", O.LOOKUP, aspect="malformed", level=Level.SHOULD, source=MEASURED + ": EIO")
def _(k: Bench) -> None:
    k.mount()
    k.answer(O.LOOKUP, k.tree.entry(k.tree.add("a"), size=(1 << 64) - 1))
    k.fails(errno.EIO, lambda: os.stat(k.file("a")))


@case("malformed/lookup-nsec-too-large", O.LOOKUP, aspect="malformed", level=Level.PROFILE,
      source=MEASURED + ": nanoseconds above a second are cut down to less than one")  # fmt: skip
def _(k: Bench) -> None:
    k.mount()
    node = k.tree.add("a", b"content")
    k.answer(O.LOOKUP, k.tree.entry(node, valid=60, mtimensec=4_000_000_000))
    found = k.ok(lambda: os.stat(k.file("a")).st_mtime_ns)
    k.true("less than a second", found - node.mtime * 10**9 < 10**9, found)


@case("malformed/lookup-root-generation", O.LOOKUP, aspect="malformed", level=Level.PROFILE,
      source=MEASURED + ": the root's nodeid is nobody's child")  # fmt: skip
def _(k: Bench) -> None:
    k.mount()
    k.tree.directory("d")
    k.answer(O.LOOKUP, k.tree.entry(k.tree.at(""), generation=5))
    k.fails(errno.EIO, lambda: os.stat(k.file("d")))


@case("malformed/lookup-parent-as-child", O.LOOKUP, aspect="malformed", level=Level.SHOULD,
      source=MEASURED + ": a directory within itself is EIO (FreeBSD: lookup.parent_inode)")  # fmt: skip
def _(k: Bench) -> None:
    k.mount()
    node = k.tree.directory("d")
    k.ok(lambda: os.stat(k.file("d")))
    k.answer(O.LOOKUP, k.tree.entry(node), lambda request: request.header.nodeid == node.nodeid)
    outcome = k.do(lambda: os.stat(k.file("d/d")))
    k.true("no success", outcome.errno in (errno.EIO, errno.ELOOP), errno.errorcode.get(outcome.errno, outcome.value))


# -- attributes --------------------------------------------------------------------------------------------------------


def _attr(name: str, gets: int, level: Level = Level.SHOULD, **fields: int) -> None:
    @case(f"malformed/getattr-{name}", O.GETATTR, aspect="malformed", level=level,
          source=f"{MEASURED}: {errno.errorcode.get(gets, gets)}")  # fmt: skip
    def _(k: Bench) -> None:
        k.mount()
        node = k.tree.add("a", b"content")
        k.answer(O.GETATTR, k.tree.attr_out(node, **fields), lambda request: request.header.nodeid == node.nodeid)
        if gets:
            k.fails(gets, lambda: os.stat(k.file("a")), "stat")
        else:
            k.equal("st_ino", k.ok(lambda: os.stat(k.file("a")).st_ino), fields.get("ino", node.nodeid))


_attr("type-changed", errno.EIO, mode=stat.S_IFDIR | 0o755)
_attr("type-changed-to-none", errno.EIO, mode=0o644)
_attr("mode-0", errno.EIO, mode=0)
_attr("size-2-63", errno.EIO, size=1 << 63)
_attr("ino-of-another", 0, Level.PROFILE, ino=4711)


@case("malformed/setattr-type-changed", O.SETATTR, aspect="malformed", level=Level.SHOULD, source=MEASURED + ": EIO")
def _(k: Bench) -> None:
    k.mount()
    node = k.tree.add("a")
    k.answer(O.SETATTR, k.tree.attr_out(node, mode=stat.S_IFDIR | 0o755))
    k.fails(errno.EIO, lambda: os.chmod(k.file("a"), 0o600), "chmod")


@case("malformed/type-change-spoils-the-inode-alone", O.GETATTR, aspect="malformed", level=Level.SHOULD,
      source=MEASURED + ": the inode is bad, its neighbours and a new lookup are not")  # fmt: skip
def _(k: Bench) -> None:
    k.mount()
    node = k.tree.add("a", b"content")
    k.tree.add("b", b"other")
    rule = k.answer(O.GETATTR, k.tree.attr_out(node, mode=stat.S_IFDIR | 0o755),
                    lambda request: request.header.nodeid == node.nodeid)  # fmt: skip
    k.fails(errno.EIO, lambda: os.stat(k.file("a")), "stat")
    k.server.rules.remove(rule)
    k.equal("the neighbour", k.ok(lambda: open(k.file("b"), "rb").read()), b"other")
    k.equal("the file, looked up anew", k.ok(lambda: open(k.file("a"), "rb").read()), b"content")


# -- data --------------------------------------------------------------------------------------------------------------


def _written(name: str, size: int, gets: int, value: int, level: Level, direct: bool = True) -> None:
    @case(f"malformed/write-{name}", O.WRITE, aspect="malformed", level=level,
          source=MEASURED + ": " + (errno.errorcode.get(gets) or f"{value} of 10 bytes"))  # fmt: skip
    def _(k: Bench) -> None:
        k.mount(flags=InitFlag.BIG_WRITES)
        k.tree.open_flags = DIRECT if direct else 0
        k.tree.add("a")
        k.answer(O.WRITE, codec.write_out.pack(size, 0))

        def write() -> int:
            with opened(k) as fd:
                return os.write(fd, b"0123456789")

        outcome = k.do(write)
        k.equal("errno", outcome.errno, gets)
        if not gets:
            k.equal("what write gives", outcome.value, value)


_written("more-than-sent", 11, errno.EIO, 0, Level.SHOULD)
_written("4-gib-more", 0xFFFF_FFFF, errno.EIO, 0, Level.SHOULD)
_written("more-than-sent-buffered", 11, errno.EIO, 0, Level.SHOULD, direct=False)
_written("less-than-sent", 4, 0, 4, Level.MUST)
_written("less-than-sent-buffered", 4, 0, 4, Level.PROFILE, direct=False)
_written("nothing", 0, 0, 0, Level.PROFILE)
_written("nothing-buffered", 0, errno.EIO, 0, Level.PROFILE, direct=False)


def _sought(name: str, offset: int, gets: int, level: Level = Level.SHOULD) -> None:
    @case(f"malformed/lseek-{name}", O.LSEEK, aspect="malformed", level=level, since=24,
          source=MEASURED + ": " + errno.errorcode[gets])  # fmt: skip
    def _(k: Bench) -> None:
        k.mount()
        k.tree.add("a", bytes(100))
        k.answer(O.LSEEK, codec.lseek_out.pack(offset))

        def seek() -> int:
            with opened(k) as fd:
                return os.lseek(fd, 5, os.SEEK_DATA)

        k.fails(gets, seek, "lseek")


_sought("negative", (1 << 64) - 5, errno.EINVAL)
_sought("2-63", 1 << 63, errno.EINVAL)


def _copied(opcode: Opcode, name: str, count: int, gets: int, level: Level = Level.SHOULD) -> None:
    @case(f"malformed/{opcode.name.lower().replace('_', '-')}-{name}", opcode, aspect="malformed",
          level=level, since=45 if opcode == O.COPY_FILE_RANGE_64 else 28,
          source=f"{MEASURED}: {errno.errorcode[gets]}")  # fmt: skip
    def _(k: Bench) -> None:
        k.mount()
        k.tree.add("a", bytes(100))
        k.tree.add("b")
        if opcode == O.COPY_FILE_RANGE:
            k.answer(O.COPY_FILE_RANGE_64, -errno.ENOSYS)
            k.answer(opcode, codec.write_out.pack(count, 0))
        else:
            k.answer(opcode, codec.copy_file_range_out.pack(count))

        def copy() -> int:
            with opened(k) as one, opened(k, name="b") as other:
                return os.copy_file_range(one, other, 10)

        k.fails(gets, copy, "copy_file_range")


_copied(O.COPY_FILE_RANGE_64, "more-than-asked", 11, errno.EIO)
_copied(O.COPY_FILE_RANGE_64, "negative", (1 << 64) - 1, errno.EIO)
_copied(O.COPY_FILE_RANGE, "more-than-asked", 11, errno.EIO)


# -- locks, opens, the filesystem, links, xattrs -----------------------------------------------------------------------


def _lock(name: str, level: Level, gets: int, **fields: int) -> None:
    @case(f"malformed/getlk-{name}", O.GETLK, aspect="malformed", level=level, since=7, flags=InitFlag.POSIX_LOCKS,
          source=f"{MEASURED}: {errno.errorcode.get(gets, gets)}")  # fmt: skip
    def _(k: Bench) -> None:
        k.mount(flags=InitFlag.POSIX_LOCKS)
        k.tree.add("a", bytes(100))
        usual = {"start": 0, "end": 9, "type": fcntl.F_WRLCK, "pid": 1}
        k.answer(O.GETLK, codec.lk_out.build(codec.lk_out.make(lk=codec.file_lock.make(**usual | fields))))

        def ask() -> int:
            with opened(k) as fd:
                found = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack("=hhxxxxqqixxxx", fcntl.F_RDLCK, 0, 0, 0, 0))
                return int(struct.unpack_from("=h", found)[0])

        outcome = k.do(ask)
        k.equal("errno", outcome.errno, gets)
        if not gets:
            k.equal("l_type", outcome.value, usual["type"])


_lock("end-before-start", Level.SHOULD, errno.EIO, start=10, end=5)
_lock("start-2-63", Level.SHOULD, errno.EIO, start=1 << 63, end=(1 << 64) - 1)
_lock("type-unknown", Level.SHOULD, errno.EIO, type=77)
_lock("end-of-all-ones", Level.PROFILE, errno.EIO, end=(1 << 64) - 1)


@case("malformed/open-unknown-flags", O.OPEN, aspect="malformed", level=Level.SHOULD, source=MEASURED + ": ignored")
def _(k: Bench) -> None:
    k.mount()
    k.tree.open_flags = 0xFFFF_FF00
    k.tree.add("a", b"content")
    k.equal("what is read", k.ok(lambda: open(k.file("a"), "rb").read()), b"content")


@case("malformed/open-fh-of-all-ones", O.OPEN, O.READ, O.RELEASE, aspect="reply", source="fuse.h: fh is the server's")
def _(k: Bench) -> None:
    k.mount()
    k.tree.add("a", b"content")
    k.answer(O.OPEN, k.tree.opened(fh=(1 << 64) - 1))
    k.equal("what is read", k.ok(lambda: open(k.file("a"), "rb").read()), b"content")
    for opcode in (O.READ, O.RELEASE):
        k.equal(f"{opcode.name}'s fh", k.wait_for(opcode).head.fh, (1 << 64) - 1)


def _statfs(name: str, look: str, wanted: int, **fields: int) -> None:
    @case(f"malformed/statfs-{name}", O.STATFS, aspect="malformed", level=Level.PROFILE,
          source=MEASURED + f": {look} is {wanted}")  # fmt: skip
    def _(k: Bench) -> None:
        k.mount()
        usual = {"blocks": 1000, "bfree": 500, "bavail": 400, "bsize": 4096, "namelen": 255, "frsize": 4096}
        k.answer(O.STATFS, codec.statfs_out.build(codec.statfs_out.make(st=codec.kstatfs.make(**usual | fields))))
        k.equal(look, k.ok(lambda: getattr(os.statvfs(k.path), look)), wanted)


_statfs("namelen-0", "f_namemax", 0, namelen=0)
_statfs("frsize-0", "f_frsize", 4096, frsize=0)
_statfs("more-free-than-there-are", "f_bfree", 5000, bfree=5000)


def _link(name: str, target: bytes, seen: str, level: Level) -> None:
    @case(f"malformed/readlink-{name}", O.READLINK, aspect="malformed", level=level, source=MEASURED + f": {seen!r}")
    def _(k: Bench) -> None:
        k.mount()
        k.tree.add("l", target, stat.S_IFLNK | 0o777)
        k.equal("the target", k.ok(lambda: os.readlink(k.file("l"))), seen)


_link("nul-inside", b"before\0after", "before", Level.PROFILE)
_link("empty", b"", "", Level.PROFILE)


def _names(name: str, answer: bytes, gets: int) -> None:
    @case(f"malformed/listxattr-{name}", O.LISTXATTR, aspect="malformed", level=Level.SHOULD,
          source=MEASURED + ": " + errno.errorcode[gets])  # fmt: skip
    def _(k: Bench) -> None:
        k.mount()
        k.tree.add("a")
        k.answer(O.LISTXATTR, answer)
        k.fails(gets, lambda: os.listxattr(k.file("a")), "listxattr")


_names("without-nul", b"user.a\0user.b", errno.EIO)
_names("empty-name", b"\0", errno.EIO)
_names("empty-name-between", b"user.a\0\0user.b\0", errno.EIO)


def _statx(name: str, gets: int, level: Level = Level.SHOULD, valid: int = 0x7FF, **fields: int) -> None:
    @case(f"malformed/statx-{name}", O.STATX, aspect="malformed", level=level, since=39,
          source=MEASURED + ": " + errno.errorcode[gets])  # fmt: skip
    def _(k: Bench) -> None:
        statx = seam.call("birth_time")
        k.mount()
        node = k.tree.add("a", b"content")
        usual = {"mask": valid, "mode": node.mode, "ino": node.nodeid, "nlink": 1, "size": 7}
        k.answer(O.STATX, codec.statx_out.build(codec.statx_out.make(stat=codec.statx.make(**usual | fields))))
        k.fails(gets, lambda: statx(os.fsencode(k.file("a"))), "statx")


_statx("size-2-63", errno.EIO, size=1 << 63)
_statx("type-changed", errno.EIO, mode=stat.S_IFDIR | 0o755)
_statx("mode-0", errno.EIO, mode=0)
