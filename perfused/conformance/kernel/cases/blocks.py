"""Cases about requests that depend on what the mount is of: BMAP, SYNCFS, DESTROY, and those of DAX."""

import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from perfused.conformance.kernel import seam
from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.steps import opened, read
from wire import codec
from wire.opcodes import Opcode

BMAP, SYNCFS, DESTROY = Opcode.BMAP, Opcode.SYNCFS, Opcode.DESTROY
SETUP, REMOVE = Opcode.SETUPMAPPING, Opcode.REMOVEMAPPING
MEASURED = "measured on Linux 6.18"
FIBMAP, FIGETBSZ = 1, 2


@contextmanager
def _block(k: Bench, **options: Any) -> Iterator[None]:
    """A mount of type fuseblk."""
    with seam.block_device(os.path.join(k.directory, "disk"), 1 << 20) as device:
        k.mount(device=device, **options).tree.add("a", bytes(8192))
    yield


def _mapped(k: Bench, block: int) -> Callable[[], int]:
    def work(fd: int) -> int:
        return int(struct.unpack("=i", fcntl.ioctl(fd, FIBMAP, struct.pack("=i", block)))[0])

    return lambda: int(opened(k.file("a"), os.O_RDONLY, work))


@case("bmap/request", BMAP, aspect="request", since=8,
      source="fuse.h 7.8: fuse_bmap_in; ioctl(2) FIBMAP on fuseblk, in blocks of FIGETBSZ")  # fmt: skip
def _(k: Bench) -> None:
    with _block(k):
        k.answer(BMAP, codec.bmap_out.pack(77))
        k.equal("block", k.ok(_mapped(k, 3)), 77)
        request = k.one(BMAP)
        k.equal("nodeid, block", (request.header.nodeid, request.head.block), (k.tree.at("a").nodeid, 3))
        size = k.ok(lambda: opened(k.file("a"), os.O_RDONLY, lambda fd: fcntl.ioctl(fd, FIGETBSZ, bytes(4))))
        k.equal("blocksize", request.head.blocksize, struct.unpack("=i", size)[0])


@case("bmap/blksize-option", BMAP, aspect="request", level=Level.PROFILE, since=8,
      source=MEASURED + ": BMAP counts in pages, whatever the mount option blksize says (since 6.17)")  # fmt: skip
def _(k: Bench) -> None:
    with _block(k, options="blksize=1024"):
        k.answer(BMAP, codec.bmap_out.pack(77))
        k.ok(_mapped(k, 1))
        k.equal("blocksize", k.one(BMAP).head.blocksize, mmap.PAGESIZE)


@case("bmap/error", BMAP, aspect="error", level=Level.PROFILE, since=8,
      source="bmap() has no errors; " + MEASURED + ": block 0, a hole")  # fmt: skip
def _(k: Bench) -> None:
    with _block(k):
        k.answer(BMAP, -errno.EIO)
        k.equal("blocks", [k.ok(_mapped(k, 1)) for _ in range(2)], [0, 0])
        k.equal("BMAP requests", len(k.seen(BMAP)), 2)


@case("bmap/enosys-sticks", BMAP, aspect="enosys", level=Level.SHOULD, since=8,
      source=MEASURED + ": block 0, and not asked again")  # fmt: skip
def _(k: Bench) -> None:
    with _block(k):
        k.answer(BMAP, -errno.ENOSYS)
        k.equal("blocks", [k.ok(_mapped(k, 1)) for _ in range(2)], [0, 0])
        k.one(BMAP)


@case("bmap/not-without-device", BMAP, aspect="request", level=Level.PROFILE,
      source=MEASURED + ": only fuseblk has blocks; block 0, the server is not asked")  # fmt: skip
def _(k: Bench) -> None:
    k.mount().tree.add("a", bytes(8192))
    k.equal("block", k.ok(_mapped(k, 1)), 0)
    k.equal("BMAP requests", len(k.seen(BMAP)), 0)


def _synced(k: Bench) -> None:
    seam.syncfs(os.open(k.path, os.O_RDONLY))


@case("syncfs/not-without-device", SYNCFS, aspect="request", level=Level.PROFILE, since=34,
      source=MEASURED + ": syncfs(2) asks servers that root vouches for alone (virtiofs, fuseblk)")  # fmt: skip
def _(k: Bench) -> None:
    k.mount()
    k.ok(lambda: _synced(k))
    k.equal("SYNCFS requests", len(k.seen(SYNCFS)), 0)


@case("syncfs/request", SYNCFS, aspect="request", level=Level.PROFILE, since=34,
      source="fuse.h 7.34: fuse_syncfs_in; " + MEASURED + ": on fuseblk, about the root")  # fmt: skip
def _(k: Bench) -> None:
    with _block(k):
        k.answer(SYNCFS, b"")
        k.ok(lambda: _synced(k))
        request = k.one(SYNCFS)
        k.equal("nodeid, padding", (request.header.nodeid, request.head.padding), (1, 0))


@case("syncfs/error", SYNCFS, aspect="error", level=Level.PROFILE, since=34, source="syncfs(2); " + MEASURED)
def _(k: Bench) -> None:
    with _block(k):
        k.answer(SYNCFS, -errno.EIO)
        k.fails(errno.EIO, lambda: _synced(k), "syncfs")


@case("syncfs/enosys-sticks", SYNCFS, aspect="enosys", level=Level.PROFILE, since=34,
      source=MEASURED + ": success, and not asked again")  # fmt: skip
def _(k: Bench) -> None:
    with _block(k):
        k.answer(SYNCFS, -errno.ENOSYS)
        for _ in range(2):
            k.ok(lambda: _synced(k))
        k.one(SYNCFS)


@case(
    "destroy/fuseblk",
    DESTROY,
    aspect="request",
    level=Level.SHOULD,
    since=8,
    source="fuse.h 7.8: DESTROY; kernel documentation: umount(2) of fuseblk waits until the server is done",
)
def _(k: Bench) -> None:
    with _block(k):
        k.ok(lambda: read(k.file("a")))
        rule = k.hold(DESTROY)
        client = k.start(lambda: seam.umount(k.path))
        request = k.held(rule)
        k.true("umount waits", not client.done(0.05))
        k.reply(request)
        k.equal("umount's errno", client.wait(k.patience).errno, 0)


@case("dax/not-without-it", SETUP, REMOVE, aspect="request", level=Level.PROFILE, since=31,
      source="fuse.h 7.31: mappings of a DAX window, which virtiofs alone has")  # fmt: skip
def _(k: Bench) -> None:
    k.mount().tree.add("a", b"0123456789")

    def work(fd: int) -> bytes:
        with mmap.mmap(fd, 10) as mapped:
            mapped[0:1] = b"x"
            return os.pread(fd, 10, 0)

    k.equal("read", k.ok(lambda: opened(k.file("a"), os.O_RDWR, work)), b"x123456789")
    k.wait_for(Opcode.RELEASE)
    k.equal("SETUPMAPPING, REMOVEMAPPING", (len(k.seen(SETUP)), len(k.seen(REMOVE))), (0, 0))
