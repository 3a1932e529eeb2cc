"""The filesystem in memory that answers whatever a case is not about: a request's head and body in, an answer out.

It is as plain as can be: nothing is checked that the kernel checks, and by default nothing may be cached, so that every
call comes to the server. Never here: descriptors, threads, and what a case expects.
"""

import errno
import stat
from collections.abc import Callable
from typing import Any

from wire import codec, compat, tails
from wire.message import DEFAULT_MINOR, Request
from wire.opcodes import Opcode

#: a body (a good reply), a negative errno, or None where nothing is answered
Answer = bytes | int | None

ROOT = 1


class Node:
    """An inode. Times are seconds; `entries` are name -> nodeid."""

    def __init__(self, nodeid: int, mode: int, parent: int = ROOT) -> None:
        self.nodeid = nodeid
        self.mode = mode
        self.parent = parent
        self.data = bytearray()
        self.entries: dict[bytes, int] = {}
        self.xattrs: dict[bytes, bytes] = {}
        self.nlink = 2 if stat.S_ISDIR(mode) else 1
        self.uid = self.gid = self.rdev = 0
        self.atime = self.mtime = self.ctime = 1_000_000_000
        self.lookups = 0

    @property
    def directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


class Tree:
    """Nodes by nodeid. `valid` is how many seconds entries and attributes hold; `open_flags` FOPEN_* of every open."""

    def __init__(self, valid: int = 0, open_flags: int = 0) -> None:
        self.valid = valid
        self.open_flags = open_flags
        self.minor = DEFAULT_MINOR
        self.nodes: dict[int, Node] = {ROOT: Node(ROOT, stat.S_IFDIR | 0o777)}
        self._next = ROOT + 1
        self._answers: dict[int, Callable[[Request, Node], Answer]] = {
            getattr(Opcode, name[1:].upper()): getattr(self, name)
            for name in dir(self)
            if name[1:].upper() in Opcode.__members__
        }

    # -- made by cases ---------------------------------------------------------------------------------------------

    def add(self, path: str, data: bytes = b"", mode: int = stat.S_IFREG | 0o666, **fields: int) -> Node:
        """Make a node at `path` ("a/b"), whose directory is there; `fields` are uid, gid, rdev, mtime and the like."""
        *above, name = path.encode().split(b"/")
        parent = self.nodes[ROOT]
        for part in above:
            parent = self.nodes[parent.entries[part]]
        node = self._make(parent, name, mode)
        node.data[:] = data
        for key, value in fields.items():
            setattr(node, key, value)
        return node

    def directory(self, path: str, **fields: int) -> Node:
        """Make a directory."""
        return self.add(path, b"", stat.S_IFDIR | 0o777, **fields)

    def at(self, path: str) -> Node:
        """The node at a path; "" is the root. Raises KeyError."""
        node = self.nodes[ROOT]
        for part in path.encode().split(b"/") if path else []:
            node = self.nodes[node.entries[part]]
        return node

    def _make(self, parent: Node, name: bytes, mode: int) -> Node:
        node = Node(self._next, mode, parent.nodeid)
        self._next += 1
        self.nodes[node.nodeid] = node
        parent.entries[name] = node.nodeid
        if node.directory:
            parent.nlink += 1
        return node

    # -- what replies are made of ----------------------------------------------------------------------------------

    def attr(self, node: Node, **fields: int) -> bytes:
        """fuse_attr of a node in the minor's size; `fields` replace its own."""
        size = len(node.data)
        made: dict[str, Any] = {
            "ino": node.nodeid, "size": size, "blocks": (size + 511) // 512, "atime": node.atime, "mtime": node.mtime,
            "ctime": node.ctime, "mode": node.mode, "nlink": node.nlink, "uid": node.uid, "gid": node.gid,
            "rdev": node.rdev, "blksize": 4096,
        }  # fmt: skip
        return codec.attr.build(codec.attr.make(**made | fields))[: compat.size("attr", self.minor)]

    def entry(self, node: Node, valid: int | None = None, minor: int | None = None, **fields: int) -> bytes:
        """fuse_entry_out of a node; `fields` are its own (nodeid, entry_valid ...) and those of fuse_attr."""
        seconds = self.valid if valid is None else valid
        head = {
            "nodeid": node.nodeid, "generation": 0, "entry_valid": seconds, "attr_valid": seconds,
            "entry_valid_nsec": 0, "attr_valid_nsec": 0,
        }  # fmt: skip
        head |= {key: fields.pop(key) for key in list(fields) if key in head}
        whole = codec.entry_out.build(codec.entry_out.make(**head))
        own, self.minor = self.minor, self.minor if minor is None else minor
        try:
            return whole[:40] + self.attr(node, **fields)
        finally:
            self.minor = own

    def attr_out(self, node: Node, valid: int | None = None, attr_valid_nsec: int = 0, **fields: int) -> bytes:
        """fuse_attr_out of a node; `fields` are those of fuse_attr."""
        seconds = self.valid if valid is None else valid
        head = codec.attr_out.build(codec.attr_out.make(attr_valid=seconds, attr_valid_nsec=attr_valid_nsec))
        return head[:16] + self.attr(node, **fields)

    def opened(self, fh: int = 1, open_flags: int | None = None, backing_id: int = 0) -> bytes:
        """fuse_open_out."""
        flags = self.open_flags if open_flags is None else open_flags
        return codec.open_out.pack(fh, flags, backing_id)

    # -- answers ---------------------------------------------------------------------------------------------------

    def answer(self, request: Request) -> Answer:
        """The answer to any request but INIT; ENOSYS for those that a plain filesystem does not have."""
        handler = self._answers.get(request.header.opcode)
        if handler is None:
            return -errno.ENOSYS
        node = self.nodes.get(request.header.nodeid)
        if node is None:
            if request.header.opcode in (Opcode.FORGET, Opcode.INTERRUPT):
                return None
            if request.header.nodeid:
                return -errno.ESTALE
            node = self.nodes[ROOT]
        return handler(request, node)

    def _child(self, node: Node, name: bytes) -> Node | None:
        if name == b".":
            return node
        if name == b"..":
            return self.nodes[node.parent]
        found = node.entries.get(name)
        return self.nodes[found] if found else None

    def _entered(self, node: Node) -> bytes:
        node.lookups += 1
        return self.entry(node)

    def _lookup(self, request: Request, node: Node) -> Answer:
        child = self._child(node, request.names[0])
        return self._entered(child) if child else -errno.ENOENT

    def _forget(self, request: Request, node: Node) -> Answer:
        node.lookups -= request.head.nlookup
        return None

    def _batch_forget(self, request: Request, node: Node) -> Answer:
        for nodeid, nlookup in request.items:
            if nodeid in self.nodes:
                self.nodes[nodeid].lookups -= nlookup
        return None

    def _interrupt(self, request: Request, node: Node) -> Answer:
        return None

    def _notify_reply(self, request: Request, node: Node) -> Answer:
        return None

    def _getattr(self, request: Request, node: Node) -> Answer:
        return self.attr_out(node)

    def _setattr(self, request: Request, node: Node) -> Answer:
        head = request.head
        if head.valid & 1:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(head.mode)
        for bit, name in ((2, "uid"), (4, "gid"), (16, "atime"), (32, "mtime"), (1024, "ctime")):
            if head.valid & bit:
                setattr(node, name, getattr(head, name))
        if head.valid & 8:
            self._cut(node, head.size)
        return self.attr_out(node)

    @staticmethod
    def _cut(node: Node, size: int) -> None:
        del node.data[size:]
        node.data.extend(bytes(size - len(node.data)))

    def _readlink(self, request: Request, node: Node) -> Answer:
        return bytes(node.data)

    def _symlink(self, request: Request, node: Node) -> Answer:
        made = self._make(node, request.names[0], stat.S_IFLNK | 0o777)
        made.data[:] = request.names[1]
        return self._entered(made)

    def _mknod(self, request: Request, node: Node) -> Answer:
        made = self._make(node, request.names[0], request.head.mode)
        made.rdev = request.head.rdev
        return self._entered(made)

    def _mkdir(self, request: Request, node: Node) -> Answer:
        return self._entered(self._make(node, request.names[0], stat.S_IFDIR | request.head.mode))

    def _remove(self, node: Node, name: bytes) -> Answer:
        gone = self._child(node, name)
        if gone is None:
            return -errno.ENOENT
        if gone.directory and gone.entries:
            return -errno.ENOTEMPTY
        del node.entries[name]
        gone.nlink -= 1
        return b""

    def _unlink(self, request: Request, node: Node) -> Answer:
        return self._remove(node, request.names[0])

    def _rmdir(self, request: Request, node: Node) -> Answer:
        return self._remove(node, request.names[0])

    def _move(self, node: Node, names: tuple[bytes, ...], newdir: int, flags: int) -> Answer:
        to = self.nodes[newdir]
        moved, over = node.entries.get(names[0]), to.entries.get(names[1])
        if moved is None:
            return -errno.ENOENT
        if flags & 1 and over is not None:
            return -errno.EEXIST
        if flags & 2 and over is None:
            return -errno.ENOENT
        del node.entries[names[0]]
        to.entries[names[1]] = moved
        self.nodes[moved].parent = newdir
        if flags & 2 and over is not None:
            node.entries[names[0]] = over
            self.nodes[over].parent = node.nodeid
        return b""

    def _rename(self, request: Request, node: Node) -> Answer:
        return self._move(node, request.names, request.head.newdir, 0)

    def _rename2(self, request: Request, node: Node) -> Answer:
        return self._move(node, request.names, request.head.newdir, request.head.flags)

    def _link(self, request: Request, node: Node) -> Answer:
        linked = self.nodes[request.head.oldnodeid]
        node.entries[request.names[0]] = linked.nodeid
        linked.nlink += 1
        return self._entered(linked)

    def _open(self, request: Request, node: Node) -> Answer:
        if request.head.flags & 0o1000:
            node.data.clear()
        return self.opened()

    def _opendir(self, request: Request, node: Node) -> Answer:
        return self.opened()

    def _create(self, request: Request, node: Node) -> Answer:
        made = self._make(node, request.names[0], stat.S_IFREG | stat.S_IMODE(request.head.mode))
        made.lookups += 1
        return self.entry(made) + self.opened()

    def _tmpfile(self, request: Request, node: Node) -> Answer:
        self._create(request, node)
        made = self.nodes[node.entries.pop(request.names[0])]
        made.nlink = 0
        return self.entry(made, minor=compat.NEWEST_MINOR) + self.opened()

    def _read(self, request: Request, node: Node) -> Answer:
        return bytes(node.data[request.head.offset : request.head.offset + request.head.size])

    def _write(self, request: Request, node: Node) -> Answer:
        at, data = request.head.offset, request.payload
        if at > len(node.data):
            self._cut(node, at)
        node.data[at : at + len(data)] = data
        return codec.write_out.pack(len(data), 0)

    def _statfs(self, request: Request, node: Node) -> Answer:
        found = codec.kstatfs.make(blocks=1000, bfree=500, bavail=400, files=100, ffree=50, bsize=4096, namelen=255,
                                   frsize=4096)  # fmt: skip
        return codec.kstatfs.build(found)[: compat.size("statfs_out", self.minor)]

    def _done(self, request: Request, node: Node) -> Answer:
        return b""

    _release = _releasedir = _flush = _fsync = _fsyncdir = _access = _setlk = _setlkw = _destroy = _done

    def _getlk(self, request: Request, node: Node) -> Answer:
        return codec.lk_out.build(codec.lk_out.make(lk=codec.file_lock.make(type=2)))

    def _listing(self, node: Node) -> list[tuple[bytes, int]]:
        return [(b".", node.nodeid), (b"..", node.parent), *node.entries.items()]

    def _readdir(self, request: Request, node: Node) -> Answer:
        out = b""
        for at, (name, nodeid) in enumerate(self._listing(node)):
            record = tails.pack_dirent(tails.Dirent(nodeid, at + 1, self.nodes[nodeid].mode >> 12, name))
            if at < request.head.offset:
                continue
            if len(out) + len(record) > request.head.size:
                break
            out += record
        return out

    def _readdirplus(self, request: Request, node: Node) -> Answer:
        out = b""
        for at, (name, nodeid) in enumerate(self._listing(node)):
            child = self.nodes[nodeid]
            entry = self.entry(child) if name not in (b".", b"..") else bytes(tails.ENTRY_OUT_SIZE)
            record = tails.pack_direntplus(tails.Direntplus(entry, nodeid, at + 1, child.mode >> 12, name))
            if at < request.head.offset:
                continue
            if len(out) + len(record) > request.head.size:
                break
            child.lookups += name not in (b".", b"..")
            out += record
        return out

    def _setxattr(self, request: Request, node: Node) -> Answer:
        node.xattrs[request.names[0]] = request.payload
        return b""

    def _sized(self, request: Request, value: bytes) -> Answer:
        if not request.head.size:
            return codec.getxattr_out.pack(len(value), 0)
        return value if len(value) <= request.head.size else -errno.ERANGE

    def _getxattr(self, request: Request, node: Node) -> Answer:
        value = node.xattrs.get(request.names[0])
        return -errno.ENODATA if value is None else self._sized(request, value)

    def _listxattr(self, request: Request, node: Node) -> Answer:
        return self._sized(request, b"".join(name + b"\0" for name in node.xattrs))

    def _removexattr(self, request: Request, node: Node) -> Answer:
        return b"" if node.xattrs.pop(request.names[0], None) is not None else -errno.ENODATA

    def _fallocate(self, request: Request, node: Node) -> Answer:
        end = request.head.offset + request.head.length
        if not request.head.mode & 1 and end > len(node.data):
            self._cut(node, end)
        return b""

    def _lseek(self, request: Request, node: Node) -> Answer:
        if request.head.offset >= len(node.data):
            return -errno.ENXIO
        return codec.lseek_out.pack(request.head.offset if request.head.whence == 3 else len(node.data))

    def _copied(self, request: Request, node: Node) -> int:
        head, to = request.head, self.nodes[request.head.nodeid_out]
        data = bytes(node.data[head.off_in : head.off_in + head.len])
        if head.off_out > len(to.data):
            self._cut(to, head.off_out)
        to.data[head.off_out : head.off_out + len(data)] = data
        return len(data)

    def _copy_file_range(self, request: Request, node: Node) -> Answer:
        return codec.write_out.pack(self._copied(request, node), 0)

    def _copy_file_range_64(self, request: Request, node: Node) -> Answer:
        return codec.copy_file_range_out.pack(self._copied(request, node))

    def _poll(self, request: Request, node: Node) -> Answer:
        return codec.poll_out.pack(request.head.events & 0x5, 0)

    def _statx(self, request: Request, node: Node) -> Answer:
        time = codec.sx_time.make(tv_sec=node.mtime)
        found = codec.statx.make(mask=0x7FF, blksize=4096, nlink=node.nlink, uid=node.uid, gid=node.gid, mode=node.mode,
                                 ino=node.nodeid, size=len(node.data), blocks=(len(node.data) + 511) // 512,
                                 atime=time, btime=time, ctime=time, mtime=time)  # fmt: skip
        return codec.statx_out.build(codec.statx_out.make(attr_valid=self.valid, stat=found))
