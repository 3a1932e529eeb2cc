"""A directory shown once more with pyfuse3: `tree_pyfuse3.py SOURCE MOUNTPOINT TIMEOUT`. For the benchmark alone.

An O_PATH descriptor an inode, as libfuse's passthrough_ll has it. Names and attributes are kept for TIMEOUT seconds.
"""

import os
import sys

import pyfuse3
import trio

NODE = os.O_PATH | os.O_NOFOLLOW
NAMES = (
    "st_ino", "st_mode", "st_nlink", "st_uid", "st_gid", "st_rdev", "st_size", "st_blksize", "st_blocks",
    "st_atime_ns", "st_mtime_ns", "st_ctime_ns",
)  # fmt: skip


class Tree(pyfuse3.Operations):
    def __init__(self, source, timeout):
        super().__init__()
        self.timeout = timeout
        #: inode -> [descriptor, lookups]; the source has inode numbers of one filesystem
        self.nodes = {pyfuse3.ROOT_INODE: [os.open(source, os.O_PATH | os.O_DIRECTORY), 1]}
        #: descriptor of an open directory -> its names
        self.listed = {}

    def _path(self, inode):
        return f"/proc/self/fd/{self.nodes[inode][0]}"

    def _shown(self, found):
        made = pyfuse3.EntryAttributes()
        for name in NAMES:
            setattr(made, name, getattr(found, name))
        made.entry_timeout = made.attr_timeout = self.timeout
        return made

    def _enter(self, parent, name):
        """The attributes of a name, counted as a lookup. FUSEError where it is not there."""
        try:
            fd = os.open(name, NODE, dir_fd=self.nodes[parent][0])
        except OSError as bad:
            raise pyfuse3.FUSEError(bad.errno) from None
        found = os.fstat(fd)
        known = self.nodes.get(found.st_ino)
        if known is None:
            self.nodes[found.st_ino] = [fd, 1]
        else:
            os.close(fd)
            known[1] += 1
        return self._shown(found)

    async def lookup(self, parent_inode, name, ctx):
        return self._enter(parent_inode, name)

    async def forget(self, inode_list):
        for inode, count in inode_list:
            node = self.nodes.get(inode)
            if node is None:
                continue
            node[1] -= count
            if node[1] <= 0 and inode != pyfuse3.ROOT_INODE:
                os.close(self.nodes.pop(inode)[0])

    async def getattr(self, inode, ctx):
        return self._shown(os.fstat(self.nodes[inode][0]))

    async def setattr(self, inode, attr, fields, fh, ctx):
        path = self._path(inode)
        if fields.update_size:
            os.truncate(path, attr.st_size)
        if fields.update_mode:
            os.chmod(path, attr.st_mode & 0o7777)
        if fields.update_uid or fields.update_gid:
            os.chown(path, attr.st_uid if fields.update_uid else -1, attr.st_gid if fields.update_gid else -1)
        if fields.update_atime or fields.update_mtime:
            now = os.fstat(self.nodes[inode][0])
            accessed = attr.st_atime_ns if fields.update_atime else now.st_atime_ns
            os.utime(path, ns=(accessed, attr.st_mtime_ns if fields.update_mtime else now.st_mtime_ns))
        return await self.getattr(inode, ctx)

    async def open(self, inode, flags, ctx):
        return pyfuse3.FileInfo(fh=os.open(self._path(inode), flags & ~(os.O_DIRECT | os.O_APPEND | os.O_NOFOLLOW)))

    async def create(self, parent_inode, name, mode, flags, ctx):
        flags = flags & ~(os.O_DIRECT | os.O_APPEND) | os.O_CREAT
        try:
            fd = os.open(name, flags, mode, dir_fd=self.nodes[parent_inode][0])
        except OSError as bad:
            raise pyfuse3.FUSEError(bad.errno) from None
        return pyfuse3.FileInfo(fh=fd), self._enter(parent_inode, name)

    async def read(self, fh, off, size):
        return os.pread(fh, size, off)

    async def write(self, fh, off, buf):
        return os.pwrite(fh, buf, off)

    async def flush(self, fh):
        pass

    async def fsync(self, fh, datasync):
        os.fsync(fh)

    async def release(self, fh):
        os.close(fh)

    async def opendir(self, inode, ctx):
        fd = os.open(self._path(inode), os.O_RDONLY | os.O_DIRECTORY)
        self.listed[fd] = inode, sorted(map(os.fsencode, os.listdir(fd)))
        return fd

    async def readdir(self, fh, start_id, token):
        inode, names = self.listed[fh]
        for at in range(start_id, len(names)):
            try:
                attributes = self._enter(inode, names[at])
            except pyfuse3.FUSEError:
                continue  # removed since
            if not pyfuse3.readdir_reply(token, names[at], attributes, at + 1):
                await self.forget([(attributes.st_ino, 1)])
                break

    async def releasedir(self, fh):
        del self.listed[fh]
        os.close(fh)

    async def mkdir(self, parent_inode, name, mode, ctx):
        os.mkdir(name, mode, dir_fd=self.nodes[parent_inode][0])
        return self._enter(parent_inode, name)

    async def rmdir(self, parent_inode, name, ctx):
        os.rmdir(name, dir_fd=self.nodes[parent_inode][0])

    async def unlink(self, parent_inode, name, ctx):
        os.unlink(name, dir_fd=self.nodes[parent_inode][0])

    async def rename(self, parent_inode_old, name_old, parent_inode_new, name_new, flags, ctx):
        old, new = self.nodes[parent_inode_old][0], self.nodes[parent_inode_new][0]
        os.rename(name_old, name_new, src_dir_fd=old, dst_dir_fd=new)

    async def symlink(self, parent_inode, name, target, ctx):
        os.symlink(target, name, dir_fd=self.nodes[parent_inode][0])
        return self._enter(parent_inode, name)

    async def readlink(self, inode, ctx):
        return os.readlink(b"", dir_fd=self.nodes[inode][0])

    async def statfs(self, ctx):
        found, made = os.statvfs(self._path(pyfuse3.ROOT_INODE)), pyfuse3.StatvfsData()
        for name in ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail"):
            setattr(made, name, getattr(found, name))
        return made


if __name__ == "__main__":
    source, target, timeout = sys.argv[1:]
    options = {*pyfuse3.default_options, "allow_other", "fsname=pyfuse3"}
    pyfuse3.init(Tree(source, float(timeout)), target, options)
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=False)
