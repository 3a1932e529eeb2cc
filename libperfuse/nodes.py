"""A node table for filesystems that want one: nodeids, what they stand for, and how often the kernel holds them.

Kept alone by whoever uses it; `Session` knows nothing of it. Never here: names, attributes, I/O.
"""

import errno
import threading
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

from libperfuse.errors import FuseError
from wire.flags import ROOT_ID

T = TypeVar("T")


class Nodes(Generic[T]):
    """Maps nodeids to nodes, and keys (what makes two lookups the same node: device and inode number) to nodeids.

    A nodeid is never used twice. Safe to use from several threads; each call takes well under a microsecond's lock.
    """

    def __init__(self, root: T, dropped: Callable[[T], object] | None = None, key: Hashable = None) -> None:
        """`root` is node 1, never forgotten. `dropped(node)` is called, outside the lock, for what is let go."""
        self._nodes: dict[int, T] = {ROOT_ID: root}
        self._counts: dict[int, int] = {ROOT_ID: 1}
        self._keys: dict[int, Hashable] = {} if key is None else {ROOT_ID: key}
        self._nodeids: dict[Hashable, int] = {} if key is None else {key: ROOT_ID}
        self._dropped = dropped
        self._next = ROOT_ID + 1
        self._lock = threading.Lock()

    def __getitem__(self, nodeid: int) -> T:
        """The node. FuseError ESTALE for a nodeid that was never issued, or is forgotten."""
        try:
            return self._nodes[nodeid]
        except KeyError:
            raise FuseError(errno.ESTALE, f"nodeid {nodeid} was never issued or is forgotten") from None

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[int]:
        """The nodeids, as they are now."""
        return iter(list(self._nodes))

    def count(self, nodeid: int) -> int:
        """How many lookups the kernel holds; 0 for a nodeid it does not know."""
        return self._counts.get(nodeid, 0)

    def enter(self, key: Hashable, make: Callable[[], T]) -> tuple[int, T]:
        """The nodeid and node of `key`, its count raised by one: for each entry that goes to the kernel.

        A key nobody has seen, or that is forgotten, gets a new nodeid and `make()`, which is called under the lock.
        """
        with self._lock:
            nodeid = self._nodeids.get(key)
            if nodeid is None:
                node = make()
                nodeid, self._next = self._next, self._next + 1
                self._nodes[nodeid], self._counts[nodeid] = node, 0
                self._keys[nodeid], self._nodeids[key] = key, nodeid
            self._counts[nodeid] += 1
            return nodeid, self._nodes[nodeid]

    @property
    def issued(self) -> int:
        """The next nodeid: all nodes that there are have smaller ones."""
        return self._next

    def again(self, key: Hashable, issued: int) -> int:
        """The nodeid of `key`, its count raised by one, of a node that is smaller than `issued`; 0 where there is none.

        With the `issued` from before the key was found, the node was there all the time: what keeps its inode number
        from being used again kept it meanwhile, and the key is no other object's.
        """
        with self._lock:
            nodeid = self._nodeids.get(key, 0)
            if not nodeid or nodeid >= issued:
                return 0
            self._counts[nodeid] += 1
            return nodeid

    def forget(self, nodeid: int, nlookup: int) -> None:
        """Take `nlookup` off; at none the node is dropped. The root stays, and so does what was never counted."""
        with self._lock:
            left = self._counts.get(nodeid, 0) - nlookup
            if nodeid == ROOT_ID or nodeid not in self._counts:
                return
            if left > 0:
                self._counts[nodeid] = left
                return
            node = self._nodes.pop(nodeid)
            del self._counts[nodeid]
            key = self._keys.pop(nodeid)
            if self._nodeids.get(key) == nodeid:
                del self._nodeids[key]
        if self._dropped is not None:
            self._dropped(node)

    def unkey(self, nodeid: int) -> None:
        """Let no later lookup find this node: its inode number, or name, may belong to another object from now on."""
        with self._lock:
            key = self._keys.get(nodeid)
            if key is not None and self._nodeids.get(key) == nodeid:
                del self._nodeids[key]

    def rekey(self, key: Hashable, new: Hashable) -> int | None:
        """Let lookups of `new`, and no longer of `key`, find the node: for a rename, where the key has a name in it.
        `new` is None where the name is removed: nothing finds the node any more.

        Gives its nodeid, None where the kernel knows no node of that key. A node that was found as `new` before is
        found no more, whether or not there was one to take its place: it lives on by its nodeid until it is forgotten.
        """
        with self._lock:
            nodeid = self._nodeids.pop(key, None)
            self._nodeids.pop(new, None)
            if nodeid is not None:
                self._keys[nodeid] = new
                if new is not None:
                    self._nodeids[new] = nodeid
            return nodeid

    def clear(self) -> None:
        """Drop every node but the root: at the end of the mount."""
        for nodeid in list(self):
            self.forget(nodeid, self._counts.get(nodeid, 0))
