"""The nine notifications: what a filesystem tells the kernel unasked, from any thread.

Never here: requests. Linux may wait, while it takes an invalidation, for a request on the same node to be answered:
never send one from the method that is answering it.
"""

import errno
import itertools
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future

from libperfuse.errors import FuseError
from wire import codec, tails
from wire.errors import WireError
from wire.opcodes import NOTIFY_UNIQUE, Notify

_HEADER = codec.out_header.struct.pack


class Notifier:
    """Sends notifications through `send(frame)`. Each method raises OSError with the kernel's errno where the device
    tells it (a perfused socket does not), WireError for what does not fit a frame: a NUL in a name, a large number.
    """

    def __init__(self, send: Callable[[bytes], object]) -> None:
        self._send = send
        self._retrieving: dict[int, Future[tuple[int, bytes]]] = {}
        self._uniques = itertools.count(1)
        self._lock = threading.Lock()
        self._over = False

    def poll(self, kh: int) -> None:
        """POLL (7.11): look again at what `poll_in.kh` waits for."""
        self._tell(Notify.POLL, codec.notify_poll_wakeup_out.pack(kh))

    def inval_inode(self, nodeid: int, off: int = 0, len: int = 0) -> None:
        """INVAL_INODE (7.12): drop attributes, and cached data of `len` bytes (0 or less: to the end) from `off` on.

        A negative `off` drops attributes alone. ENOENT where the kernel does not know the node.
        """
        self._tell(Notify.INVAL_INODE, codec.notify_inval_inode_out.pack(nodeid, off, len))

    def inval_entry(self, parent: int, name: bytes, flags: int = 0) -> None:
        """INVAL_ENTRY (7.12): drop the entry, or with EntryFlag.EXPIRE_ONLY (7.38) expire it. ENOENT without one."""
        self._named(name)
        head = codec.notify_inval_entry_out.pack(parent, len(name), flags)
        self._tell(Notify.INVAL_ENTRY, head + tails.pack_names(name))

    def delete(self, parent: int, child: int, name: bytes) -> None:
        """DELETE (7.18): the entry is gone; who watches the object is told. ENOENT, ENOTDIR, ENOTEMPTY or EBUSY."""
        self._named(name)
        head = codec.notify_delete_out.pack(parent, child, len(name), 0)
        self._tell(Notify.DELETE, head + tails.pack_names(name))

    def store(self, nodeid: int, offset: int, data: bytes) -> None:
        """STORE (7.15): put `data` into the node's cached pages at `offset`."""
        self._tell(Notify.STORE, codec.notify_store_out.pack(nodeid, offset, len(data), 0) + data)

    def retrieve(self, nodeid: int, offset: int, size: int) -> "Future[tuple[int, bytes]]":
        """RETRIEVE (7.15): ask for cached data; the future gives the offset and what is cached there, perhaps nothing.

        Do not wait for it in the only thread that serves.
        """
        future: Future[tuple[int, bytes]] = Future()
        with self._lock:
            if self._over:
                raise FuseError(errno.ENODEV)
            unique = next(self._uniques)
            self._retrieving[unique] = future
        try:
            self._tell(Notify.RETRIEVE, codec.notify_retrieve_out.pack(unique, nodeid, offset, size, 0))
        except BaseException:
            self._retrieving.pop(unique, None)
            raise
        return future

    def resend(self) -> None:
        """RESEND (7.40): have every request that is not answered sent again, with `UNIQUE_RESEND` in its unique."""
        self._tell(Notify.RESEND, b"")

    def inc_epoch(self) -> None:
        """INC_EPOCH (7.44): expire every entry of the mount at once."""
        self._tell(Notify.INC_EPOCH, b"")

    def prune(self, nodeids: Iterable[int]) -> None:
        """PRUNE (7.45): forget these nodes where nobody uses them."""
        numbers = tuple(nodeids)
        self._tell(Notify.PRUNE, codec.notify_prune_out.pack(len(numbers), 0, 0) + tails.pack_nodeids(numbers))

    def retrieved(self, unique: int, offset: int, data: bytes) -> bool:
        """A NOTIFY_REPLY came; False where nobody asked."""
        future = self._retrieving.pop(unique, None)
        if future is not None and future.set_running_or_notify_cancel():
            future.set_result((offset, data))
        return future is not None

    def end(self) -> None:
        """No reply will come any more: whoever waits gets ENODEV."""
        with self._lock:
            self._over = True
            left = list(self._retrieving)
        for unique in left:
            future = self._retrieving.pop(unique, None)
            if future is not None and future.set_running_or_notify_cancel():
                future.set_exception(FuseError(errno.ENODEV))

    def _named(self, name: bytes) -> None:
        if not name:
            raise WireError("name", "not empty")

    def _tell(self, code: Notify, body: bytes) -> None:
        self._send(_HEADER(16 + len(body), code, NOTIFY_UNIQUE) + body)
