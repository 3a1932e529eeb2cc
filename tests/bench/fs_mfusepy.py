"""The benchmark's filesystem for mfusepy: `fs_mfusepy.py MOUNTPOINT`, run by the interpreter that has mfusepy.

A root and one file of 1 MiB; nothing is cached, reads and writes are direct. Answers that never change are made once.
"""

import sys

import mfusepy

SIZE = 1 << 20
DATA = memoryview(bytearray(SIZE))
ROOT = {"st_mode": 0o40755, "st_nlink": 1, "st_blksize": 4096}
FILE = {"st_mode": 0o100644, "st_nlink": 1, "st_size": SIZE, "st_blksize": 4096}


class Plain(mfusepy.Operations):
    use_ns = True

    def getattr(self, path, fh=None):
        return ROOT if path == "/" else FILE

    def open(self, path, flags):
        return 2

    def read(self, path, size, offset, fh):
        return DATA[offset : offset + size].tobytes()

    def write(self, path, data, offset, fh):
        DATA[offset : offset + len(data)] = data
        return len(data)

    def flush(self, path, fh):
        return 0

    def release(self, path, fh):
        return 0


if __name__ == "__main__":
    mfusepy.FUSE(
        Plain(), sys.argv[1], foreground=True, nothreads=True, allow_other=True, default_permissions=True,
        direct_io=True, attr_timeout=0, entry_timeout=0, negative_timeout=0, fsname="mfusepy",
    )  # fmt: skip
