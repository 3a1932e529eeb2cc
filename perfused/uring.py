"""An io_uring of one thread: its queues as memory, and the two system calls; through cffi in ABI mode.

Submission entries are written once and chosen by the submission array, so that handing one in is a store of 4 bytes.
With SINGLE_ISSUER and DEFER_TASKRUN the kernel touches both queues only within io_uring_enter(2) of the thread that
made them: nobody else ever writes while we read, on any processor, and no barrier is needed. (Between threads, a store
through a memoryview would be ordered on x86 alone.) Numbers are those of linux/io_uring.h. Never here: FUSE.
"""

import errno
import mmap
import os
import struct
from typing import Any

from perfused._libc_cffi import ffi

SYS_SETUP, SYS_ENTER, SYS_REGISTER = 425, 426, 427
REGISTER_FILES, REGISTER_PBUF_RING = 2, 22
#: io_uring_params: 40 bytes of sizes, flags and features, and the offsets of either queue, 40 bytes each
_PARAMS = struct.Struct("=7I12x10IQ8xQ")
_PARAMS_SIZE = 120
SUBMIT_ALL, SQE128, SINGLE_ISSUER, DEFER_TASKRUN = 1 << 7, 1 << 10, 1 << 12, 1 << 13
FEAT_SINGLE_MMAP, FEAT_CQE_SKIP = 1 << 0, 1 << 11
OFF_SQES = 0x1000_0000
GETEVENTS = 1

SENDMSG, READ, SEND, RECV, URING_CMD = 9, 22, 26, 27, 46
FIXED_FILE, BUFFER_SELECT, CQE_SKIP_SUCCESS = 1 << 0, 1 << 5, 1 << 6
#: of a receive: one submission, a completion a packet, each in a buffer of the group
RECV_MULTISHOT = 1 << 1
#: flags of a completion: it has a buffer, whose number is in the upper half; more will come of this submission
CQE_BUFFER, CQE_MORE = 1, 2

#: of mmap(2), which Python 3.11 has not: what is never touched needs no memory behind it
MAP_NORESERVE = 0x4000

SQE_SIZE, CQE_SIZE = 128, 16
#: opcode, flags, ioprio, fd, off or cmd_op, addr, len, flags of the call, user_data; from byte 48 a command's own area
SQE = struct.Struct("=BBHiQQIIQ")
COMMAND_AT = 48
#: errors of io_uring_enter(2) after which it is simply called again
AGAIN = frozenset({errno.EINTR, errno.EAGAIN, errno.EBUSY})

_libc: Any = ffi.dlopen(None)
# syscall(2) is variadic, for which cffi makes a description anew at every call. As a function of six integers it is
# called in the same way on every architecture Linux has: integers in registers.
call: Any = ffi.cast("long(*)(long, long, long, long, long, long)", ffi.addressof(_libc, "syscall"))


def address(memory: Any) -> int:
    """Where a writable buffer begins; it must not move, and lives as long as somebody keeps it."""
    return int(ffi.cast("uintptr_t", ffi.from_buffer("char[]", memory)))


def check_again() -> int:
    """After io_uring_enter(2) has failed: its errno where it may be called again; raises OSError otherwise."""
    code = int(ffi.errno)
    if code not in AGAIN:
        raise OSError(code, os.strerror(code), "io_uring_enter")
    return code


class Uring:
    """A ring with `slots` submission entries, made by the thread that will use it.

    Raises OSError where the kernel refuses it: ENOSYS, EPERM (kernel.io_uring_disabled, seccomp), EINVAL, ENOMEM.
    """

    def __init__(self, slots: int) -> None:
        params = ffi.new("char[]", _PARAMS_SIZE)
        flags = SUBMIT_ALL | SQE128 | SINGLE_ISSUER | DEFER_TASKRUN
        struct.pack_into("=I", ffi.buffer(params), 8, flags)
        self.fd = int(call(SYS_SETUP, slots, int(ffi.cast("uintptr_t", params)), 0, 0, 0))
        if self.fd < 0:
            raise OSError(ffi.errno, os.strerror(ffi.errno), "io_uring_setup")
        try:
            self._map(ffi.buffer(params))
        except BaseException:
            os.close(self.fd)
            raise

    def _map(self, params: Any) -> None:
        made, done, _, _, _, features, _ = struct.unpack_from("=7I", params)
        if not features & FEAT_SINGLE_MMAP or not features & FEAT_CQE_SKIP:
            raise OSError(errno.ENOSYS, "an io_uring older than Linux 5.17")
        tail, mask, _, _, _, array = struct.unpack_from("=6I", params, 44)
        cq_head, cq_tail, cq_mask, _, _, cqes = struct.unpack_from("=6I", params, 80)
        size = max(array + 4 * made, cqes + CQE_SIZE * done)
        rings = memoryview(mmap.mmap(self.fd, size, mmap.MAP_SHARED | mmap.MAP_POPULATE))
        #: entries, each written by whoever owns its slot
        self.entries = memoryview(mmap.mmap(self.fd, made * SQE_SIZE, mmap.MAP_SHARED, offset=OFF_SQES))
        self.slots = made
        #: which slot is submitted at which place: stored at `tail & mask`, then `sq_tail[0]` is set
        self.array = rings[array : array + 4 * made].cast("I")
        self.sq_tail = rings[tail : tail + 4].cast("I")
        self.sq_mask = struct.unpack_from("=I", rings, mask)[0]
        #: completions as words, user_data at 2 * place; as signed halves, result and flags at 4 * place + 2 and + 3
        self.users = rings[cqes : cqes + CQE_SIZE * done].cast("Q")
        self.results = rings[cqes : cqes + CQE_SIZE * done].cast("i")
        self.cq_head = rings[cq_head : cq_head + 4].cast("I")
        self.cq_tail = rings[cq_tail : cq_tail + 4].cast("I")
        self.cq_mask = struct.unpack_from("=I", rings, cq_mask)[0]

    def prepare(
        self, slot: int, opcode: int, file: int, where: int, length: int, user: int,
        *, flags: int = 0, more: int = 0, how: int = 0,
    ) -> None:  # fmt: skip
        """Write submission entry `slot` whole: a registered file, address and length, user_data.

        `flags` are IOSQE flags, `more` those of the call, `how` the opcode's own (ioprio).
        """
        at = slot * SQE_SIZE
        self.entries[at : at + SQE_SIZE] = bytes(SQE_SIZE)
        SQE.pack_into(self.entries, at, opcode, flags | FIXED_FILE, how, file, 0, where, length, more, user)

    def register_files(self, files: list[int]) -> None:
        """Let submission entries name these descriptors by their place in the list."""
        numbers = struct.pack(f"={len(files)}i", *files)
        self._register(REGISTER_FILES, numbers, len(files))

    def register_buffers(self, memory: memoryview, places: list[int], size: int) -> memoryview:
        """Give the buffers of `size` bytes at these addresses, a power of two of them, as group 0.

        A page of `memory` describes them, 16 bytes each, beginning with the address. They are used in turn, and a
        description stays where it is: to give the next buffer back, add 1 to the 16-bit number that is returned.
        """
        for each, place in enumerate(places):
            struct.pack_into("=QIHH", memory, 16 * each, place, size, each, 0)
        self._register(REGISTER_PBUF_RING, struct.pack("=QI28x", address(memory), len(places)), 1)
        tail = memory[14:16].cast("H")
        tail[0] = len(places)
        return tail

    def _register(self, what: int, argument: bytes, count: int) -> None:
        where = ffi.new("char[]", argument)
        if call(SYS_REGISTER, self.fd, what, int(ffi.cast("uintptr_t", where)), count, 0) < 0:
            raise OSError(ffi.errno, os.strerror(ffi.errno), "io_uring_register")

    def enter(self, submitted: int, wanted: int, flags: int = GETEVENTS) -> int:
        """io_uring_enter(2): entries taken, or a negative errno where it may be called again; OSError otherwise."""
        taken = int(call(SYS_ENTER, self.fd, submitted, wanted, flags, 0))
        return -check_again() if taken < 0 else taken

    def close(self) -> None:
        """Give it up: what is under way on it is cancelled."""
        os.close(self.fd)
