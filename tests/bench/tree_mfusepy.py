"""A directory shown once more with mfusepy: `tree_mfusepy.py SOURCE MOUNTPOINT TIMEOUT`. For the benchmark alone.

By paths, as this binding has it. Names and attributes are kept for TIMEOUT seconds.
"""

import os
import sys

import mfusepy

FIELDS = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_ino", "st_blocks", "st_blksize")


class Tree(mfusepy.Operations):
    use_ns = True

    def __init__(self, source):
        self.source = source

    def _at(self, path):
        return self.source + path

    def getattr(self, path, fh=None):
        found = os.lstat(self.source + path) if fh is None else os.fstat(fh)
        answer = {name: getattr(found, name) for name in FIELDS}
        answer["st_atime"], answer["st_mtime"] = found.st_atime_ns, found.st_mtime_ns
        answer["st_ctime"] = found.st_ctime_ns
        return answer

    def readdir(self, path, fh):
        return [".", "..", *os.listdir(self._at(path))]

    def open(self, path, flags):
        return os.open(self._at(path), flags & ~(os.O_DIRECT | os.O_APPEND))

    def create(self, path, mode, fi=None):
        return os.open(self._at(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def read(self, path, size, offset, fh):
        return os.pread(fh, size, offset)

    def write(self, path, data, offset, fh):
        return os.pwrite(fh, data, offset)

    def truncate(self, path, length, fh=None):
        os.truncate(self._at(path) if fh is None else fh, length)

    def flush(self, path, fh):
        return 0

    def release(self, path, fh):
        os.close(fh)

    def fsync(self, path, datasync, fh):
        os.fsync(fh)

    def chmod(self, path, mode):
        os.chmod(self._at(path), mode)

    def chown(self, path, uid, gid):
        os.chown(self._at(path), uid, gid, follow_symlinks=False)

    def utimens(self, path, times=None):
        os.utime(self._at(path), ns=times, follow_symlinks=False)

    def mkdir(self, path, mode):
        os.mkdir(self._at(path), mode)

    def rmdir(self, path):
        os.rmdir(self._at(path))

    def unlink(self, path):
        os.unlink(self._at(path))

    def rename(self, old, new):
        os.rename(self._at(old), self._at(new))

    def link(self, target, source):
        os.link(self._at(source), self._at(target))

    def symlink(self, target, source):
        os.symlink(source, self._at(target))

    def readlink(self, path):
        return os.readlink(self._at(path))

    def statfs(self, path):
        found = os.statvfs(self._at(path))
        return {name: getattr(found, name) for name in dir(found) if name.startswith("f_") and name != "f_fsid"}


if __name__ == "__main__":
    source, target, timeout = sys.argv[1:]
    mfusepy.FUSE(
        Tree(source), target, foreground=True, nothreads=True, allow_other=True, default_permissions=True,
        attr_timeout=float(timeout), entry_timeout=float(timeout), fsname="mfusepy",
    )  # fmt: skip
