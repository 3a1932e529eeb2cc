"""Cases about OPEN, RELEASE and what an open file's flags do."""

import errno
import os

from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from wire.opcodes import Opcode


@case("open/request", Opcode.OPEN, aspect="request", source="fuse.h: fuse_open_in")
def _(k: Bench) -> None:
    k.mount().tree.add("a", b"content")
    k.ok(lambda: os.close(os.open(k.file("a"), os.O_RDONLY)))
    request = k.one(Opcode.OPEN)
    k.equal("flags' access mode", request.head.flags & os.O_ACCMODE, os.O_RDONLY)
    k.equal("nodeid", request.header.nodeid, k.tree.at("a").nodeid)


@case("open/error", Opcode.OPEN, aspect="error", source="fuse.h: out_header.error is the call's errno")
def _(k: Bench) -> None:
    k.mount().tree.add("a")
    k.answer(Opcode.OPEN, -errno.EPERM)
    k.fails(errno.EPERM, lambda: os.open(k.file("a"), os.O_RDONLY), "open")
    k.equal("RELEASE requests", len(k.seen(Opcode.RELEASE)), 0)


@case(
    "open/enosys-sticks", Opcode.OPEN, aspect="enosys", level=Level.PROFILE, since=23,
    source="measured on Linux 6.18: open succeeds, and is not asked again",
)  # fmt: skip
def _(k: Bench) -> None:
    k.mount().tree.add("a", b"content")
    k.answer(Opcode.OPEN, -errno.ENOSYS)

    def twice() -> list[bytes]:
        return [open(k.file("a"), "rb").read() for _ in range(2)]

    k.equal("what is read", k.ok(twice), [b"content", b"content"])
    k.one(Opcode.OPEN)
    k.equal("RELEASE requests", len(k.seen(Opcode.RELEASE)), 0)


@case("release/once-a-handle", Opcode.RELEASE, aspect="request", source="fuse.h: fuse_release_in")
def _(k: Bench) -> None:
    k.mount().tree.add("a")
    k.answer(Opcode.OPEN, k.tree.opened(fh=77))

    def twice() -> None:
        fd = os.open(k.file("a"), os.O_RDWR)
        os.close(os.dup(fd))
        os.close(fd)

    k.ok(twice)
    k.equal("fh", k.wait_for(Opcode.RELEASE).head.fh, 77)
    k.one(Opcode.RELEASE)
