"""The device file with a test in the place of the kernel: replies in pieces, requests in line, READs taken back."""

import errno
import os
import select
import socket
import struct
from collections.abc import Iterator

import pytest

from perfused import device_file, device_tree
from perfused.device_file import BACKLOG, LEAST_PIECE, DeviceFile
from wire import codec
from wire.opcodes import Opcode

FRAME = 528_384
FH = 1
REQUEST = struct.pack("=II", 44, Opcode.STATFS) + bytes(36)


class Kernel:
    """The other end of what DeviceFile takes for the kernel's descriptor: one packet a request, one an answer."""

    def __init__(self) -> None:
        self.sock, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for each in (self.sock, self.theirs):
            each.setsockopt(socket.SOL_SOCKET, 32, 4 << 20)
        self.sock.settimeout(5)
        self.theirs.setblocking(False)
        self.file = DeviceFile(self.theirs.fileno(), FRAME)
        self.file.answer_with(0)
        self.buffer = bytearray(FRAME)

    def ask(self, opcode: int, unique: int, body: bytes) -> None:
        head = codec.in_header.pack(40 + len(body), opcode, unique, device_tree.FILE, 0, 0, 1, 0, 0)
        self.sock.send(head + body)

    def write(self, unique: int, data: bytes, offset: int = 0) -> int:
        """A WRITE, and what the file makes of it."""
        self.ask(Opcode.WRITE, unique, codec.write_in.pack(FH, offset, len(data), 0, 0, 0, 0) + data)
        return self.file.step(self.buffer)

    def read(self, unique: int, room: int = 1 << 20, flags: int = 0) -> None:
        """A READ."""
        self.ask(Opcode.READ, unique, codec.read_in.pack(FH, 0, room, 0, 0, flags, 0))
        assert not self.file.step(self.buffer)

    def answer(self) -> tuple[int, int, bytes]:
        """The file's next answer: unique, error, body."""
        packet = self.sock.recv(2 << 20)
        length, error, unique = codec.out_header.unpack_from(packet)
        assert length == len(packet)
        return unique, error, packet[16:]

    def silent(self) -> bool:
        """Whether no answer is there."""
        return not select.select([self.sock], [], [], 0)[0]


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """A kernel and the file it asks."""
    made = Kernel()
    yield made
    made.sock.close()
    made.theirs.close()


def reply(size: int, unique: int = 2) -> bytes:
    """A reply of that many bytes."""
    return codec.out_header.pack(size, 0, unique) + os.urandom(size - 16)


def taken(unique: int, size: int) -> tuple[int, int, bytes]:
    """The answer to a WRITE that was taken."""
    return unique, 0, codec.write_out.pack(size, 0)


def test_a_whole_reply_is_answered_when_the_next_is_asked_for(kernel: Kernel) -> None:
    whole = reply(5000)
    assert kernel.write(10, whole) == 5000
    assert kernel.buffer[:5000] == whole
    assert kernel.silent()
    assert not kernel.file.step(kernel.buffer)
    assert kernel.answer() == taken(10, 5000)


def test_what_became_of_a_reply_is_its_writers_answer(kernel: Kernel) -> None:
    kernel.write(10, reply(16))
    kernel.file.refused(errno.ENOENT)
    assert not kernel.file.step(kernel.buffer)
    assert kernel.answer() == (10, -errno.ENOENT, b"")


def test_a_reply_in_three_writes_is_put_together(kernel: Kernel) -> None:
    whole = reply(3 * LEAST_PIECE)
    pieces = [whole[at : at + LEAST_PIECE] for at in range(0, len(whole), LEAST_PIECE)]
    sizes = [kernel.write(unique, each, unique * LEAST_PIECE) for unique, each in enumerate(pieces, 10)]
    assert sizes == [0, 0, len(whole)]
    assert kernel.buffer[: len(whole)] == whole
    assert [kernel.answer() for _ in range(2)] == [taken(10, LEAST_PIECE), taken(11, LEAST_PIECE)]


def test_other_requests_may_come_between_the_pieces(kernel: Kernel) -> None:
    whole = reply(2 * LEAST_PIECE)
    assert not kernel.write(10, whole[:LEAST_PIECE])
    kernel.ask(Opcode.GETATTR, 11, bytes(16))
    assert not kernel.file.step(kernel.buffer)
    assert kernel.write(12, whole[LEAST_PIECE:], LEAST_PIECE) == len(whole)
    assert kernel.buffer[: len(whole)] == whole


def test_a_reply_whose_rest_never_comes_is_given_as_it_is(kernel: Kernel) -> None:
    broken = reply(3 * LEAST_PIECE)[: 2 * LEAST_PIECE]
    assert not kernel.write(10, broken)
    assert kernel.file.step(kernel.buffer) == len(broken)


def test_a_reply_that_comes_in_place_of_the_rest_is_not_lost(kernel: Kernel) -> None:
    broken, whole = reply(3 * LEAST_PIECE)[: 2 * LEAST_PIECE], reply(FRAME, unique=4)
    assert not kernel.write(10, broken)
    assert kernel.write(11, whole) == len(broken)
    assert kernel.file.step(kernel.buffer) == len(whole)
    assert kernel.buffer == whole
    assert kernel.answer() == taken(10, len(broken))
    assert not kernel.file.step(kernel.buffer)
    assert kernel.answer() == taken(11, len(whole))


@pytest.mark.parametrize("size", [100, FRAME])
def test_a_reply_that_says_it_is_longer_than_may_follow_is_not_waited_for(kernel: Kernel, size: int) -> None:
    assert kernel.write(10, codec.out_header.pack(FRAME + 1 if size == FRAME else 200, 0, 2).ljust(size, b"x")) == size


def test_requests_wait_in_line_for_reads(kernel: Kernel) -> None:
    frames = [REQUEST + bytes([n]) for n in range(3)]
    for each in frames:
        kernel.file.send(each)
    assert kernel.silent()
    for unique in range(10, 13):
        kernel.read(unique)
    assert [kernel.answer() for _ in range(3)] == [(10 + n, 0, each) for n, each in enumerate(frames)]


def test_a_line_that_is_full_takes_no_more(kernel: Kernel) -> None:
    for _ in range(BACKLOG // (FRAME + device_file.REQUEST_COST)):
        kernel.file.send(bytes(FRAME), socket.MSG_DONTWAIT)
    with pytest.raises(BlockingIOError):
        kernel.file.send(bytes(FRAME), socket.MSG_DONTWAIT)
    kernel.read(10)
    assert kernel.answer()[:2] == (10, 0)
    kernel.file.send(bytes(FRAME), socket.MSG_DONTWAIT)


def test_a_read_that_was_interrupted_is_answered_and_takes_no_request(kernel: Kernel) -> None:
    kernel.read(10)
    kernel.ask(Opcode.INTERRUPT, 0, codec.interrupt_in.pack(10))
    assert not kernel.file.step(kernel.buffer)
    assert kernel.answer() == (10, -errno.EINTR, b"")
    kernel.file.send(REQUEST)
    assert kernel.silent()
    kernel.read(12)
    assert kernel.answer() == (12, 0, REQUEST)


def test_a_read_without_room_is_told_so_and_the_request_waits_for_another(kernel: Kernel) -> None:
    frame = bytes(100_000)
    kernel.read(10, 65_536)
    kernel.file.send(frame)
    assert kernel.answer() == (10, -errno.EINVAL, b"")
    kernel.read(12)
    assert kernel.answer() == (12, 0, frame)


def test_the_room_of_reads_is_told_and_what_init_asks_for_at_least(kernel: Kernel) -> None:
    told: list[int] = []
    kernel.file.narrow = told.append
    kernel.read(10, 65_536)
    kernel.read(11, 65_536)
    kernel.file.expect(131_072)
    kernel.read(12, 1 << 20)
    assert told == [65_536, 131_072 + 80, 1 << 20]


@pytest.mark.parametrize("error", [errno.ENODEV, errno.ECONNABORTED])
def test_at_the_end_every_parked_read_is_told(kernel: Kernel, error: int) -> None:
    kernel.read(10)
    kernel.read(11)
    kernel.file.answer_with(error)
    assert {kernel.answer() for _ in range(2)} == {(10, -error, b""), (11, -error, b"")}
    with pytest.raises(OSError) as caught:
        kernel.file.send(REQUEST)
    assert caught.value.errno == errno.EPIPE


def test_the_last_close_is_the_end(kernel: Kernel) -> None:
    for unique in (10, 11):
        kernel.ask(Opcode.OPEN, unique, codec.open_in.pack(os.O_RDWR, 0))
        assert not kernel.file.step(kernel.buffer)
    first, second = (codec.open_out.unpack_from(kernel.answer()[2]).fh for _ in range(2))
    kernel.ask(Opcode.RELEASE, 12, codec.release_in.pack(first, 0, 0, 0))
    assert not kernel.file.step(kernel.buffer)
    kernel.ask(Opcode.RELEASE, 13, codec.release_in.pack(second, 0, 0, 0))
    with pytest.raises(OSError) as caught:
        kernel.file.step(kernel.buffer)
    assert caught.value.errno == errno.EPIPE


@pytest.mark.parametrize("limit", [8, 64, 255, 256, 257, 1024])
def test_a_frame_fits_one_read_wherever_its_buffer_begins(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr("perfused.kernel.max_pages", lambda: limit)
    payload = device_file.frame_size() - 4096
    assert payload & (payload - 1) == 0
    assert payload <= (limit - 2) * 4096 < 2 * payload + 8192
