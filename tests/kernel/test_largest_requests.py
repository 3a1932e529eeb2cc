"""A write and a read as large as the kernel makes them: one request each, or as many as the device's own limit says."""

import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from perfused import kernel
from tests.kernel.conftest import Daemon
from tests.kernel.scripted import Answer, Scripted, init_reply
from wire import codec
from wire.flags import InitFlag, OpenFlag
from wire.opcodes import Opcode

PAGE = 4096


@pytest.fixture
def limited(request: pytest.FixtureRequest) -> Iterator[int]:
    """/proc/sys/fs/fuse/max_pages_limit raised to the parameter; it holds for connections that begin meanwhile."""
    limit = Path(kernel.MAX_PAGES_LIMIT)
    if not limit.exists():
        pytest.skip("this kernel has no max_pages_limit")
    before = limit.read_text()
    try:
        limit.write_text(str(request.param))
        yield request.param
    finally:
        limit.write_text(before)


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """The filesystem holds the kernel's own device."""
    monkeypatch.setenv("PERFUSE_ENDPOINT", "direct")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The filesystem holds a device file."""
    monkeypatch.setenv("PERFUSE_ENDPOINT", "device")


def passed(target: Path, scripted: Callable[..., Scripted], size: int) -> tuple[list[int], list[int]]:
    """Write and read `size` bytes, each with one call: the sizes that the filesystem is asked to write and to read."""
    block = os.urandom(size)
    kept = bytearray(size)

    def write(fs: Scripted, head: codec.InHeader, body: bytes) -> Answer:
        arg = codec.write_in.unpack_from(body)
        kept[arg.offset : arg.offset + arg.size] = body[40:]
        return codec.write_out.pack(arg.size, 0)

    def read(fs: Scripted, head: codec.InHeader, body: bytes) -> Answer:
        arg = codec.read_in.unpack_from(body)
        return bytes(kept[arg.offset : arg.offset + arg.size])

    init = init_reply(int(InitFlag.MAX_PAGES), max_write=size, max_pages=size // PAGE)
    handlers = {
        Opcode.INIT: lambda *_: init,
        Opcode.OPEN: lambda *_: codec.open_out.pack(1, OpenFlag.DIRECT_IO, 0),
        Opcode.WRITE: write,
        Opcode.READ: read,
    }
    fs = scripted(target, handlers, f"max_read={size}", room=size + 2 * PAGE)
    # Whole pages: otherwise the same bytes touch one page more, and the kernel asks twice.
    with open(target / "file", "r+b", buffering=0) as file, mmap.mmap(-1, size) as pages:
        pages[:] = block
        assert os.pwritev(file.fileno(), [pages], 0) == size
        assert kept == block
        pages[:] = bytes(size)
        assert os.preadv(file.fileno(), [pages], 0) == size
        assert pages[:] == block
    asked: dict[int, list[int]] = {Opcode.WRITE: [], Opcode.READ: []}
    for head, body in fs.requests:
        if head.opcode in asked:
            asked[head.opcode].append(codec.write_in.unpack_from(body).size)
    return asked[Opcode.WRITE], asked[Opcode.READ]


@pytest.mark.usefixtures("direct")
@pytest.mark.parametrize("limited", [256, 1024, 4096], indirect=True)
def test_on_the_kernels_own_device_it_is_one_request(
    limited: int, daemon: Daemon, target: Path, scripted: Callable[..., Scripted]
) -> None:
    size = limited * PAGE
    assert passed(target, scripted, size) == ([size], [size])


@pytest.mark.parametrize("limited", [256, 1024], indirect=True)
def test_on_a_socket_it_is_one_request(
    limited: int, daemon: Daemon, target: Path, scripted: Callable[..., Scripted]
) -> None:
    size = limited * PAGE
    assert passed(target, scripted, size) == ([size], [size])


@pytest.mark.parametrize("limited", [4096], indirect=True)
def test_on_a_socket_it_is_several_where_no_packet_holds_it(
    limited: int, daemon: Daemon, target: Path, scripted: Callable[..., Scripted]
) -> None:
    most = kernel.LARGEST_PACKET
    assert passed(target, scripted, limited * PAGE) == ([most] * 4, [most] * 4)
    daemon.has_logged(f"max_write {limited * PAGE} lowered to {most}")


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(("limited", "most"), [(256, 1 << 19), (1024, 1 << 21), (4096, 1 << 23)], indirect=["limited"])
def test_on_a_device_file_it_is_several_of_the_power_of_two_below(
    limited: int, most: int, daemon: Daemon, target: Path, scripted: Callable[..., Scripted]
) -> None:
    size = limited * PAGE
    assert passed(target, scripted, size) == ([most] * (size // most), [most] * (size // most))
    daemon.has_logged(f"max_write {size} lowered to {most}")
    daemon.has_logged(f"max_pages {limited} lowered to {most // PAGE}")
