"""The benchmark's filesystem for libperfuse: `fs_libperfuse.py MOUNTPOINT VIA THREADS [packed]`.

A root and one file of 1 MiB; nothing is cached, reads and writes are direct. Answers that never change are made once.
"""

import sys

from libperfuse import Operations, Request, Session, run
from wire import codec
from wire.flags import OpenFlag

SIZE = 1 << 20
DATA = memoryview(bytearray(SIZE))
FILE_ATTR = codec.attr.make(ino=2, mode=0o100644, nlink=1, size=SIZE, blksize=4096)
ROOT = codec.attr_out.make(attr=codec.attr.make(ino=1, mode=0o40755, nlink=1, blksize=4096))
FILE = codec.attr_out.make(attr=FILE_ATTR)
ENTRY = codec.entry_out.make(nodeid=2, attr=FILE_ATTR)
OPENED = codec.open_out.make(open_flags=OpenFlag.DIRECT_IO)


class Plain(Operations):
    def lookup(self, request: Request, name: bytes) -> codec.EntryOut:
        return ENTRY

    def getattr(self, request: Request, arg: codec.GetattrIn) -> codec.AttrOut:
        return ROOT if request.nodeid == 1 else FILE

    def open(self, request: Request, arg: codec.OpenIn) -> codec.OpenOut:
        return OPENED

    def read(self, request: Request, arg: codec.ReadIn) -> memoryview:
        return DATA[arg.offset : arg.offset + arg.size]

    def write(self, request: Request, arg: codec.WriteIn, data: memoryview) -> int:
        DATA[arg.offset : arg.offset + arg.size] = data
        return arg.size

    def flush(self, request: Request, arg: codec.FlushIn) -> None:
        pass

    def release(self, request: Request, arg: codec.ReleaseIn) -> None:
        pass


class Packed(Plain):
    """The same, whose attributes are kept as they are sent."""

    def getattr(self, request: Request, arg: codec.GetattrIn) -> bytes:  # type: ignore[override]
        return PACKED_ROOT if request.nodeid == 1 else PACKED_FILE


PACKED_ROOT, PACKED_FILE = codec.attr_out.build(ROOT), codec.attr_out.build(FILE)

if __name__ == "__main__":
    target, via, threads = sys.argv[1:4]
    options = ("allow_other", "default_permissions")
    run(Session(Packed() if sys.argv[4:] else Plain(), target, via=via, threads=int(threads), options=options))  # type: ignore[arg-type]
