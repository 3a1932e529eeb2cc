"""An io_uring does what its memory says, and INIT gets the flag of FUSE over io_uring where it may."""

import errno
import mmap
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from perfused import negotiate, ring_entries, uring
from perfused.uring import Uring
from tests.kernel.scripted import init_reply
from wire import codec
from wire.flags import InitFlag
from wire.opcodes import Opcode

DISABLED = Path("/proc/sys/kernel/io_uring_disabled")


@pytest.fixture
def ring() -> Iterator[Uring]:
    """A ring of eight submission entries."""
    if not DISABLED.exists() or DISABLED.read_text().strip() != "0":
        pytest.skip("kernel.io_uring_disabled is not 0")
    made = Uring(8)
    yield made
    made.close()


def submit(ring: Uring, *slots: int, wanted: int) -> list[tuple[int, int, int]]:
    """Submit these slots, wait for so many completions: (user_data, result, flags) of each."""
    for at, slot in enumerate(slots):
        ring.array[ring.sq_tail[0] + at & ring.sq_mask] = slot
    ring.sq_tail[0] += len(slots)
    assert ring.enter(len(slots), wanted) == len(slots)
    found = []
    for each in range(ring.cq_head[0], ring.cq_tail[0]):
        at = each & ring.cq_mask
        found.append((ring.users[2 * at], ring.results[4 * at + 2], ring.results[4 * at + 3]))
    ring.cq_head[0] = ring.cq_tail[0]
    return found


def test_an_entry_written_once_is_submitted_again_and_again(ring: Uring) -> None:
    read, write = os.pipe()
    memory = memoryview(bytearray(8))
    ring.register_files([read])
    ring.prepare(3, uring.READ, 0, uring.address(memory), 4, 77)
    for data in (b"one ", b"two "):
        os.write(write, data)
        assert submit(ring, 3, wanted=1) == [(77, 4, 0)]
        assert bytes(memory[:4]) == data
    os.close(read)
    os.close(write)


def test_packets_come_each_in_the_next_buffer_with_their_true_size(ring: Uring) -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    memory = memoryview(mmap.mmap(-1, 3 * mmap.PAGESIZE))
    page = mmap.PAGESIZE
    begin = uring.address(memory)
    ring.register_files([here.fileno()])
    given = ring.register_buffers(memory[:page], [begin + page, begin + 2 * page], 100)
    ring.prepare(0, uring.RECV, 0, 0, 0, 5, flags=uring.BUFFER_SELECT, more=socket.MSG_TRUNC, how=uring.RECV_MULTISHOT)
    there.send(b"a" * 10)
    there.send(b"b" * 300)
    more = uring.CQE_BUFFER | uring.CQE_MORE
    assert submit(ring, 0, wanted=2)[:2] == [(5, 10, more), (5, 300, 1 << 16 | more)]
    assert bytes(memory[2 * page : 2 * page + 101]) == b"b" * 100 + b"\0"
    given[0] += 2
    there.send(b"c" * 20)
    (found,) = [each for each in submit(ring, 0, wanted=1) if each[1] == 20]
    assert found[2] >> 16 == 0, "the first again"
    here.close()
    there.close()


def test_a_failed_call_of_a_kind_that_does_not_pass_is_an_error(ring: Uring) -> None:
    fd, ring.fd = ring.fd, -1
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        ring.enter(0, 0)
    ring.fd = fd


def test_a_ring_belongs_to_the_thread_that_made_it(ring: Uring) -> None:
    failed: list[int] = []

    def enter() -> None:
        try:
            ring.enter(0, 0)
        except OSError as bad:
            failed.append(bad.errno or 0)

    other = threading.Thread(target=enter)
    other.start()
    other.join(timeout=10)
    assert failed == [errno.EEXIST]


def kernels_init(flags: int) -> bytes:
    body = struct.pack("=IIIII44x", 7, 45, 131072, flags & 0xFFFF_FFFF, flags >> 32)
    return codec.in_header.pack(40 + len(body), Opcode.INIT, 2, 0, 0, 0, 0, 0, 0) + body


def test_an_offer_of_the_ring_counts_only_with_the_second_word_of_flags() -> None:
    assert negotiate.offers_ring(kernels_init(InitFlag.INIT_EXT | InitFlag.OVER_IO_URING))
    assert not negotiate.offers_ring(kernels_init(InitFlag.OVER_IO_URING))
    assert not negotiate.offers_ring(kernels_init(InitFlag.INIT_EXT | InitFlag.HAS_RESEND))
    assert not negotiate.offers_ring(kernels_init(InitFlag.INIT_EXT | InitFlag.OVER_IO_URING)[:56])


def test_what_is_hidden_of_an_offer_is_told_and_the_rest_stays() -> None:
    offered = kernels_init(InitFlag.INIT_EXT | InitFlag.HAS_RESEND | InitFlag.PASSTHROUGH)
    shown, hidden = negotiate.hide(offered, int(InitFlag.HAS_RESEND))
    assert shown == kernels_init(InitFlag.INIT_EXT | InitFlag.PASSTHROUGH)
    assert hidden == InitFlag.HAS_RESEND
    assert negotiate.hide(shown, int(InitFlag.HAS_RESEND)) == (shown, 0)


def settled(size: int, flags: int, minor: int = 45) -> bytes:
    body = init_reply(flags, minor=minor)[:size]
    return codec.out_header.pack(16 + len(body), 0, 2) + body


@pytest.mark.parametrize("size", [24, 64])
def test_a_reply_agrees_on_the_ring_and_keeps_all_else(size: int) -> None:
    agreed = negotiate.agree_ring(settled(size, int(InitFlag.MAX_PAGES)))
    assert agreed is not None
    out = codec.out_header.unpack_from(agreed)
    init = codec.init_out.unpack_from(agreed, 16)
    assert out.len == len(agreed) == 80
    assert InitFlag.joined(init.flags, init.flags2) == InitFlag.INIT_EXT | InitFlag.OVER_IO_URING | InitFlag.MAX_PAGES
    assert init.max_write == 131072


def test_a_second_word_that_did_not_count_does_not_count_now() -> None:
    agreed = negotiate.agree_ring(settled(64, int(InitFlag.PASSTHROUGH)))
    assert agreed is not None
    assert codec.init_out.unpack_from(agreed, 16).flags2 == InitFlag.OVER_IO_URING >> 32


@pytest.mark.parametrize(("size", "minor"), [(8, 4), (24, 5)])
def test_a_reply_without_flags_agrees_on_nothing(size: int, minor: int) -> None:
    assert negotiate.agree_ring(settled(size, 0, minor)) is None


@pytest.mark.parametrize(("text", "count"), [("0\n", 1), ("0-1\n", 2), ("0-3,8-11\n", 8), ("0,2\n", 2)])
def test_processors_are_counted_however_they_are_numbered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, count: int
) -> None:
    (tmp_path / "possible").write_text(text)
    monkeypatch.setattr(ring_entries, "POSSIBLE", tmp_path / "possible")
    assert ring_entries.processors() == count
