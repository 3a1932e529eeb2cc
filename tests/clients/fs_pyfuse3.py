"""A filesystem in memory on pyfuse3: `fs_pyfuse3.py MOUNTPOINT`, run by the interpreter that has pyfuse3."""

import errno
import os
import stat
import sys
import time

import pyfuse3
import trio


class Node:
    """A directory (`entries`), a file (`data`) or a symbolic link (`data`, too)."""

    def __init__(self, ino, mode):
        self.ino, self.mode, self.data, self.entries = ino, mode, bytearray(), {}
        self.atime = self.mtime = time.time_ns()

    def attributes(self):
        made = pyfuse3.EntryAttributes()
        made.st_ino, made.st_mode, made.st_size, made.st_nlink = self.ino, self.mode, len(self.data), 1
        made.st_uid, made.st_gid, made.st_blksize = os.getuid(), os.getgid(), 4096
        made.st_atime_ns, made.st_mtime_ns, made.st_ctime_ns = self.atime, self.mtime, self.mtime
        made.entry_timeout = made.attr_timeout = 1
        return made


class Memory(pyfuse3.Operations):
    def __init__(self):
        super().__init__()
        self.nodes = {1: Node(1, stat.S_IFDIR | 0o755)}
        self.last = 1

    def child(self, parent, name):
        if name not in self.nodes[parent].entries:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self.nodes[self.nodes[parent].entries[name]]

    def made(self, parent, name, mode):
        if name in self.nodes[parent].entries:
            raise pyfuse3.FUSEError(errno.EEXIST)
        self.last += 1
        node = self.nodes[self.last] = Node(self.last, mode)
        self.nodes[parent].entries[name] = node.ino
        return node

    async def lookup(self, parent_inode, name, ctx=None):
        return self.child(parent_inode, name).attributes()

    async def getattr(self, inode, ctx=None):
        return self.nodes[inode].attributes()

    async def setattr(self, inode, attr, fields, fh, ctx):
        node = self.nodes[inode]
        if fields.update_size:
            node.data[attr.st_size :] = bytes(max(0, attr.st_size - len(node.data)))
        if fields.update_mode:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(attr.st_mode)
        if fields.update_atime:
            node.atime = attr.st_atime_ns
        if fields.update_mtime:
            node.mtime = attr.st_mtime_ns
        return node.attributes()

    async def mkdir(self, parent_inode, name, mode, ctx):
        return self.made(parent_inode, name, stat.S_IFDIR | stat.S_IMODE(mode)).attributes()

    async def symlink(self, parent_inode, name, target, ctx):
        node = self.made(parent_inode, name, stat.S_IFLNK | 0o777)
        node.data[:] = target
        return node.attributes()

    async def readlink(self, inode, ctx):
        return bytes(self.nodes[inode].data)

    async def create(self, parent_inode, name, mode, flags, ctx):
        node = self.made(parent_inode, name, stat.S_IFREG | stat.S_IMODE(mode))
        return pyfuse3.FileInfo(fh=node.ino), node.attributes()

    async def open(self, inode, flags, ctx):
        return pyfuse3.FileInfo(fh=inode)

    async def read(self, fh, off, size):
        return bytes(self.nodes[fh].data[off : off + size])

    async def write(self, fh, off, buf):
        data = self.nodes[fh].data
        data.extend(bytes(max(0, off - len(data))))
        data[off : off + len(buf)] = buf
        return len(buf)

    async def fsync(self, fh, datasync):
        pass

    async def flush(self, fh):
        pass

    async def release(self, fh):
        pass

    async def unlink(self, parent_inode, name, ctx):
        self.child(parent_inode, name)
        del self.nodes[parent_inode].entries[name]

    async def rmdir(self, parent_inode, name, ctx):
        if self.child(parent_inode, name).entries:
            raise pyfuse3.FUSEError(errno.ENOTEMPTY)
        del self.nodes[parent_inode].entries[name]

    async def rename(self, parent_inode_old, name_old, parent_inode_new, name_new, flags, ctx):
        node = self.child(parent_inode_old, name_old)
        del self.nodes[parent_inode_old].entries[name_old]
        self.nodes[parent_inode_new].entries[name_new] = node.ino

    async def opendir(self, inode, ctx):
        return inode

    async def readdir(self, fh, start_id, token):
        for at, (name, ino) in enumerate(list(self.nodes[fh].entries.items())[start_id:], start_id + 1):
            if not pyfuse3.readdir_reply(token, name, self.nodes[ino].attributes(), at):
                break

    async def releasedir(self, fh):
        pass

    async def forget(self, inode_list):
        pass


if __name__ == "__main__":
    pyfuse3.init(Memory(), sys.argv[1], {*pyfuse3.default_options, "fsname=memory"})
    trio.run(pyfuse3.main)
    pyfuse3.close()
