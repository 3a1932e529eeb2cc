"""Cases about servers of older minors: each minor does a small work, and each threshold is looked at by itself.

The server checks every request against the layout of the minor that it speaks and answers in that minor's sizes, so a
case of the sweep fails on a wrong layout in either direction.
"""

import errno
import fcntl
import os
import signal
import stat
import sys
from collections.abc import Callable
from typing import Any

from perfused.conformance.kernel import seam
from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from wire import codec, compat
from wire.flags import InitFlag, OpenFlag
from wire.opcodes import Notify, Opcode

O = Opcode  # noqa: E741
MEASURED = "measured on Linux 6.18"
#: what a plain server of its day agreed on
USUAL = InitFlag.POSIX_LOCKS | InitFlag.BIG_WRITES | InitFlag.ASYNC_READ


# -- the sweep ---------------------------------------------------------------------------------------------------------


def work(path: Callable[[str], str], locks: bool) -> dict[str, Any]:
    """A client's work on each kind of request whose layout ever changed: what it saw."""
    saw: dict[str, Any] = {}
    found = os.stat(path("old"))
    saw["stat"] = (found.st_size, stat.S_IMODE(found.st_mode), found.st_uid)
    fd = os.open(path("new"), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
    saw["write"] = os.write(fd, b"0123456789")
    saw["read"] = os.pread(fd, 100, 4)
    if locks:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 4, 2)
        fcntl.lockf(fd, fcntl.LOCK_UN, 4, 2)
    os.ftruncate(fd, 5)
    os.close(fd)
    os.mknod(path("pipe"), stat.S_IFIFO | 0o600)
    os.mkdir(path("d"), 0o700)
    os.symlink("target", path("s"))
    os.link(path("old"), path("d/l"))
    os.rename(path("d/l"), path("d/m"))
    os.utime(path("new"), (5, 6))
    saw["readlink"] = os.readlink(path("s"))
    saw["listing"] = sorted(os.listdir(path("d")))
    there = os.statvfs(path("old"))
    saw["statfs"] = (there.f_blocks, there.f_bfree, there.f_files, there.f_bsize, there.f_namemax)
    os.unlink(path("d/m"))
    os.rmdir(path("d"))
    final = os.stat(path("new"))
    saw["after"] = (final.st_size, stat.S_IMODE(final.st_mode), final.st_mtime)
    saw["pipe"] = stat.S_ISFIFO(os.stat(path("pipe")).st_mode)
    return saw


def _sweep(minor: int) -> None:
    @case(
        f"minor/{minor}", O.INIT, O.LOOKUP, O.GETATTR, O.CREATE, O.MKNOD, O.READ, O.WRITE, O.STATFS, O.RELEASE,
        aspect="minor", since=minor, minors=(minor,), source=f"fuse.h: the layouts of 7.{minor}",
    )  # fmt: skip
    def _(k: Bench) -> None:
        os.umask(0)
        server = k.mount(flags=USUAL, minor=minor)
        k.tree.add("old", b"content", mode=stat.S_IFREG | 0o644, uid=7)
        saw = k.ok(lambda: work(k.file, locks=minor >= 7))
        k.equal("the minor agreed on", server.minor, minor)
        # statfs of 48 bytes, before 7.4, has no frsize, for which the kernel takes bsize
        wanted = {
            "stat": (7, 0o644, 7), "write": 10, "read": b"456789", "readlink": "target", "listing": ["m"],
            "statfs": (1000, 500, 100, 4096, 255), "after": (5, 0o640, 6.0), "pipe": True,
        }  # fmt: skip
        k.equal("what the caller saw", saw, wanted)
        k.equal("what was written", bytes(k.tree.at("new").data), b"01234")


for _minor in range(compat.OLDEST_MINOR, 46):
    _sweep(_minor)


# -- heads that grew ---------------------------------------------------------------------------------------------------


def _frame(k: Bench, opcode: int) -> bytes:
    """The first frame of an opcode, as it came."""
    for each in k.server.frames:
        if each.reply_to is None and int.from_bytes(each.data[4:8], sys.byteorder) == opcode:
            return each.data
    return b""


def _head(opcode: Opcode, minor: int, size: int, call: Callable[[Bench], Any], behind: int, level: Level) -> None:
    @case(f"minor/{opcode.name.lower().replace('_', '-')}-head-at-{minor}", opcode, aspect="minor", level=level,
          since=minor, minors=(minor,), source=f"fuse.h: {size} bytes at 7.{minor}; " + MEASURED)  # fmt: skip
    def _(k: Bench) -> None:
        k.mount(flags=USUAL | InitFlag.FLOCK_LOCKS | InitFlag.SETXATTR_EXT, minor=minor)
        k.tree.add("a", b"0123456789")
        k.do(lambda: call(k))
        k.wait_for(opcode)
        k.equal("bytes between the header and what follows", len(_frame(k, opcode)) - 40 - behind, size)


def _touch(k: Bench, flags: int, then: Callable[[int], Any] = lambda fd: None, name: str = "a") -> Any:
    fd = os.open(k.file(name), flags, 0o600)
    try:
        return then(fd)
    finally:
        os.close(fd)


for _opcode, _behind, _call, _rows in (
    (O.WRITE, 4, lambda k: _touch(k, os.O_WRONLY, lambda fd: os.write(fd, b"data")), ((8, 24), (9, 40))),
    (O.MKNOD, 2, lambda k: os.mknod(k.file("p"), stat.S_IFIFO | 0o600), ((11, 8), (12, 16))),
    (O.CREATE, 2, lambda k: _touch(k, os.O_RDWR | os.O_CREAT, name="n"), ((11, 8), (12, 16))),
    (O.SETXATTR, 8, lambda k: os.setxattr(k.file("a"), "user.x", b"v"), ((32, 16), (33, 16))),
):  # fmt: skip
    for _at, _size in _rows:
        _head(_opcode, _at, _size, _call, _behind, Level.PROFILE if _opcode == O.SETXATTR and _at < 33 else Level.MUST)

for _opcode, _size, _call in (
    (O.READ, 40, lambda k: _touch(k, os.O_RDONLY, lambda fd: os.read(fd, 4))),
    (O.GETATTR, 16, lambda k: os.stat(k.path)),
    (O.RELEASE, 24, lambda k: _touch(k, os.O_RDONLY)),
    (O.FLUSH, 24, lambda k: _touch(k, os.O_RDONLY)),
):
    _head(_opcode, 1, _size, _call, 0, Level.PROFILE)


# -- flags and requests that a minor does not know ---------------------------------------------------------------------


@case("minor/init-flags-before-6", O.INIT, O.SETLK, aspect="minor", minors=(5, 6),
      source="fuse.h 7.6: INIT's flags; a server of 7.5 has none")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(flags=USUAL, minor=5)
    k.tree.add("a")
    k.ok(lambda: _touch(k, os.O_RDWR, lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)))
    k.equal("SETLK requests", len(k.seen(O.SETLK)), 0)


@case("minor/locks-at-6", O.SETLK, aspect="minor", level=Level.PROFILE, minors=(6,),
      source=MEASURED + ": with POSIX_LOCKS locks are sent to 7.6 already")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(flags=USUAL, minor=6)
    k.tree.add("a")
    k.ok(lambda: _touch(k, os.O_RDWR, lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)))
    k.true("SETLK is sent", k.seen(O.SETLK))


@case("minor/max-write-before-5", O.WRITE, aspect="minor", level=Level.SHOULD, minors=(4,),
      source="fuse.h 7.5: max_write; before it a WRITE has at most a page")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(flags=USUAL, minor=4)
    k.tree.add("a")
    k.ok(lambda: _touch(k, os.O_WRONLY, lambda fd: os.write(fd, bytes(20000))))
    longest = max(each.head.size for each in k.seen(O.WRITE))
    k.true("a page at most", longest <= 4096, longest)


def _background(minor: int, wanted: int) -> None:
    @case(f"minor/max-background-at-{minor}", O.INIT, aspect="minor", level=Level.SHOULD, minors=(minor,),
          source="fuse.h 7.13: max_background; before it the kernel's own 12 hold")  # fmt: skip
    def _(k: Bench) -> None:
        k.mount(minor=minor, max_background=77)
        k.ok(lambda: os.stat(k.path))
        k.equal("max_background", int(seam.connection_control(k.path, "max_background").read_text()), wanted)


_background(12, 12)
_background(13, 77)


def _forget(minor: int, opcode: Opcode) -> None:
    @case(f"minor/forgets-at-{minor}", O.FORGET, O.BATCH_FORGET, aspect="minor", minors=(minor,),
          level=Level.MUST if opcode == O.FORGET else Level.PROFILE,
          source="fuse.h 7.16: BATCH_FORGET; an older server knows FORGET alone")  # fmt: skip
    def _(k: Bench) -> None:
        """Many inodes go at once, while nothing is read: a batch is then what a kernel can send."""
        server = k.mount(minor=minor, serve=False)
        names = [f"f{number}" for number in range(20)]
        nodes = {k.tree.add(name).nodeid for name in names}
        k.serve(k.start(lambda: [os.stat(k.file(name)).st_ino for name in names]))
        for name in names:
            head = codec.notify_inval_entry_out.pack(1, len(name), 0)
            k.equal("INVAL_ENTRY", server.notify(Notify.INVAL_ENTRY, head + name.encode() + b"\0"), 0)
        k.step_to(opcode, 20 if opcode == O.FORGET else 1)
        while server.step(0):
            pass
        alone = {each.header.nodeid for each in k.seen(O.FORGET)}
        batched = {item[0] for each in k.seen(O.BATCH_FORGET) for item in each.items}
        k.equal("nodes forgotten", alone | batched, nodes)
        k.true("only what the minor knows", opcode == O.BATCH_FORGET or not batched, len(batched))
        k.equal("lookups left", {k.tree.nodes[each].lookups for each in nodes}, {0})


_forget(15, O.FORGET)
_forget(16, O.BATCH_FORGET)


def _flock(minor: int, flags: InitFlag, sent: bool) -> None:
    name = "posix-locks" if flags == InitFlag.POSIX_LOCKS else "flock-locks"

    @case(f"minor/flock-with-{name}-at-{minor}", O.SETLK, aspect="minor", level=Level.SHOULD, minors=(minor,),
          flags=flags, source="fuse.h 7.17: FLOCK_LOCKS; before it flock follows POSIX_LOCKS")  # fmt: skip
    def _(k: Bench) -> None:
        k.mount(flags=flags, minor=minor)
        k.tree.add("a")
        k.ok(lambda: _touch(k, os.O_RDWR, lambda fd: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)))
        k.equal("whether SETLK is sent for flock", bool(k.seen(O.SETLK)), sent)


_flock(16, InitFlag.POSIX_LOCKS, True)
_flock(17, InitFlag.POSIX_LOCKS, False)
_flock(17, InitFlag.FLOCK_LOCKS, True)


def _rename2(minor: int) -> None:
    @case(f"minor/rename2-at-{minor}", O.RENAME2, aspect="minor", level=Level.SHOULD, minors=(minor,), since=23,
          source="fuse.h 7.23: RENAME2; " + MEASURED + ": EINVAL before it")  # fmt: skip
    def _(k: Bench) -> None:
        renameat2 = seam.call("renameat2")
        k.mount(minor=minor)
        k.tree.add("a")
        outcome = k.do(lambda: renameat2(k.file("a").encode(), k.file("b").encode(), 1))
        k.equal("errno", outcome.errno, errno.EINVAL if minor < 23 else 0)
        k.equal("RENAME2 requests", len(k.seen(O.RENAME2)), minor >= 23)


_rename2(22)
_rename2(23)


def _late(opcode: Opcode, since: int, call: Callable[[Bench], Any]) -> None:
    @case(f"minor/{opcode.name.lower().replace('_', '-')}-before-{since}", opcode, aspect="minor",
          level=Level.PROFILE, since=since, minors=(1,),
          source=MEASURED + ": sent whatever the server's minor; FreeBSD holds some back")  # fmt: skip
    def _(k: Bench) -> None:
        k.mount(minor=1)
        k.tree.open_flags = OpenFlag.DIRECT_IO
        k.tree.add("a", bytes(100))
        k.tree.add("b", bytes(100))
        k.do(lambda: call(k))
        k.wait_for(opcode)


def _copied(k: Bench) -> Any:
    return _touch(k, os.O_RDONLY, lambda a: _touch(k, os.O_RDWR, lambda b: os.copy_file_range(a, b, 10), "b"))


for _opcode, _since, _call in (
    (O.LSEEK, 24, lambda k: _touch(k, os.O_RDONLY, lambda fd: os.lseek(fd, 0, os.SEEK_DATA))),
    (O.FALLOCATE, 19, lambda k: _touch(k, os.O_RDWR, lambda fd: os.posix_fallocate(fd, 0, 10))),
    (O.COPY_FILE_RANGE_64, 45, _copied),
    (O.ACCESS, 3, lambda k: os.access(k.file("a"), os.R_OK)),
    (O.CREATE, 3, lambda k: _touch(k, os.O_RDWR | os.O_CREAT, name="n")),
    (O.TMPFILE, 37, lambda k: os.close(os.open(k.path, os.O_TMPFILE | os.O_RDWR))),
):
    _late(_opcode, _since, _call)


@case("minor/tmpfile-reply-before-9", O.TMPFILE, aspect="minor", level=Level.PROFILE, since=37, minors=(8,),
      source=MEASURED + ": TMPFILE is not in the compat list, its entry has 128 bytes at any minor")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(minor=8)
    k.answer(O.TMPFILE, lambda request: k.tree.entry(k.tree.add("t"), minor=8) + k.tree.opened())
    k.fails(errno.EIO, lambda: os.close(os.open(k.path, os.O_TMPFILE | os.O_RDWR)), "open with O_TMPFILE")


# -- replies of the other size -----------------------------------------------------------------------------------------


def _reply(opcode: Opcode, minor: int, speaks: int, call: Callable[[Bench], Any]) -> None:
    size = compat.reply_size(opcode, speaks)

    @case(f"minor/{opcode.name.lower()}-reply-of-{size}-at-{minor}", opcode, aspect="minor", level=Level.SHOULD,
          minors=(minor,), source=f"fuse.h: at 7.{minor} the answer has another size")  # fmt: skip
    def _(k: Bench) -> None:
        k.mount(minor=minor)
        k.tree.add("a", b"content")

        def other(request: Any) -> Any:
            own, k.tree.minor = k.tree.minor, speaks
            try:
                return k.tree.answer(request)
            finally:
                k.tree.minor = own

        k.answer(opcode, other)
        k.true("the call fails", k.do(lambda: call(k)).errno, "it succeeds")


for _opcode, _call, _since in (
    (O.LOOKUP, lambda k: os.stat(k.file("a")), 9),
    (O.GETATTR, lambda k: os.stat(k.path), 9),
    (O.SETATTR, lambda k: os.chmod(k.file("a"), 0o600), 9),
    (O.CREATE, lambda k: _touch(k, os.O_RDWR | os.O_CREAT, name="n"), 9),
    (O.STATFS, lambda k: os.statvfs(k.path), 4),
):
    _reply(_opcode, _since - 1, _since, _call)
    _reply(_opcode, _since, _since - 1, _call)


@case("minor/interrupt-before-7", O.INTERRUPT, aspect="minor", level=Level.PROFILE, minors=(6,),
      source=MEASURED + ": sent whatever the server's minor, though fuse.h has it since 7.7")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(minor=6)
    rule = k.hold(O.GETATTR)
    client = k.start(lambda: os.stat(k.path))
    request = k.held(rule)
    client.signal(signal.SIGKILL)
    k.equal("the unique that it names", k.wait_for(O.INTERRUPT).head.unique, request.header.unique)
    k.reply(request)
    k.true("the caller ends", client.done(k.patience))
