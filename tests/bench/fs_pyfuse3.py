"""The benchmark's filesystem for pyfuse3: `fs_pyfuse3.py MOUNTPOINT`, run by the interpreter that has pyfuse3.

A root and one file of 1 MiB; nothing is cached, reads and writes are direct. Answers that never change are made once.
"""

import sys

import pyfuse3
import trio

SIZE = 1 << 20
DATA = memoryview(bytearray(SIZE))


def attributes(ino, mode, size):
    made = pyfuse3.EntryAttributes()
    made.st_ino, made.st_mode, made.st_size, made.st_nlink, made.st_blksize = ino, mode, size, 1, 4096
    made.entry_timeout = made.attr_timeout = 0
    return made


ROOT = attributes(1, 0o40755, 0)
FILE = attributes(2, 0o100644, SIZE)


class Plain(pyfuse3.Operations):
    async def lookup(self, parent_inode, name, ctx):
        return FILE

    async def getattr(self, inode, ctx):
        return ROOT if inode == 1 else FILE

    async def open(self, inode, flags, ctx):
        return pyfuse3.FileInfo(fh=2, direct_io=True)

    async def read(self, fh, off, size):
        return DATA[off : off + size]

    async def write(self, fh, off, buf):
        DATA[off : off + len(buf)] = buf
        return len(buf)

    async def flush(self, fh):
        pass

    async def release(self, fh):
        pass

    async def forget(self, inode_list):
        pass


if __name__ == "__main__":
    pyfuse3.init(Plain(), sys.argv[1], {*pyfuse3.default_options, "allow_other", "fsname=pyfuse3"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=False)
