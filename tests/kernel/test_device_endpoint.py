"""The device endpoint: a file that behaves as a descriptor of /dev/fuse does."""

import errno
import fcntl
import os
import select
import stat
import struct
from pathlib import Path

import pytest

from libperfuse import perfuse_open
from perfused import device_file
from tests.kernel.conftest import Daemon
from tests.kernel.device_files import ROOM, answer, asking, device, endpoint, events, mount, refusal, started, take
from tests.kernel.scripted import init_reply
from wire import codec, ioctls
from wire.opcodes import Opcode

__all__ = ["device", "endpoint"]


# -- the descriptor -----------------------------------------------------------------------------------


def test_a_device_is_a_regular_file_that_is_mounted_nowhere(device: int) -> None:
    assert stat.S_ISREG(os.fstat(device).st_mode)
    number = os.fstat(device).st_dev
    standing = [line.split()[2] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    assert f"{os.major(number)}:{os.minor(number)}" not in standing


def test_the_flags_of_perfuse_open_hold(daemon: Daemon) -> None:
    fd = perfuse_open("/dev/fuse", os.O_RDWR | os.O_NONBLOCK)
    assert os.get_inheritable(fd)
    assert not os.get_blocking(fd)
    os.close(fd)


def test_before_the_mount_reading_and_writing_are_refused(device: int) -> None:
    assert refusal(lambda: os.read(device, ROOM)) == errno.EPERM
    assert refusal(lambda: os.write(device, codec.out_header.pack(16, 0, 2))) == errno.EPERM


def test_before_the_mount_poll_says_error(device: int) -> None:
    assert events(device) == select.POLLERR


def test_ioctls_of_the_real_device_are_not_there(device: int) -> None:
    clone = struct.pack("=I", device)
    assert refusal(lambda: fcntl.ioctl(device, ioctls.FUSE_DEV_IOC_CLONE, clone)) == errno.ENOTTY


def test_it_cannot_be_sought_in(device: int) -> None:
    assert refusal(lambda: os.lseek(device, 0, os.SEEK_SET)) == errno.ESPIPE


# -- requests and replies -----------------------------------------------------------------------------


def test_one_read_gives_one_request_and_one_write_answers_it(device: int, target: Path) -> None:
    started(device, target)
    with asking(target) as result:
        head, body = take(device)
        assert (head.opcode, body) == (Opcode.LOOKUP, b"file\0")
        answer(device, head.unique, error=-errno.EXDEV)
    assert isinstance(result[0], OSError)
    assert result[0].errno == errno.EXDEV


def test_a_reply_may_be_written_in_pieces_of_one_call(device: int, target: Path) -> None:
    mount(device, target)
    head, _ = take(device)
    body = init_reply()
    whole = codec.out_header.pack(16 + len(body), 0, head.unique) + body
    assert os.writev(device, [whole[:7], whole[7:16], whole[16:50], whole[50:]]) == len(whole)
    with asking(target):
        head, _ = take(device)
        answer(device, head.unique, error=-errno.ENOENT)


@pytest.mark.parametrize(
    ("packet", "error"),
    {
        "a runt": (b"runt", errno.EINVAL),
        "a length that is not the packet's": (codec.out_header.pack(24, 0, 2), errno.EINVAL),
        "an answer to nothing": (codec.out_header.pack(16, 0, 222), errno.ENOENT),
    }.values(),
    ids=str,
)
def test_a_reply_the_kernel_would_refuse_is_refused(device: int, target: Path, packet: bytes, error: int) -> None:
    started(device, target)
    assert refusal(lambda: os.write(device, packet)) == error


def test_an_errno_the_kernel_would_refuse_is_refused_and_the_caller_is_told(device: int, target: Path) -> None:
    started(device, target)
    with asking(target) as result:
        head, _ = take(device)
        assert refusal(lambda: answer(device, head.unique, error=5)) == errno.EINVAL
    assert isinstance(result[0], OSError)
    assert result[0].errno == errno.EIO


def test_a_buffer_too_small_for_any_write_is_refused(device: int, target: Path) -> None:
    mount(device, target)
    assert refusal(lambda: os.read(device, 8191)) == errno.EINVAL
    head, _ = take(device)
    answer(device, head.unique, init_reply(max_write=131072))
    with asking(target):
        head, _ = take(device)
        assert refusal(lambda: os.read(device, 80 + 131071)) == errno.EINVAL
        answer(device, head.unique, error=-errno.ENOENT)


def test_frames_of_half_a_mebibyte_pass_both_ways(daemon: Daemon, target: Path) -> None:
    daemon.rawfs(target)
    whole = os.urandom(3 << 20)
    with open(target / "big", "w+b", buffering=0) as file:
        for at in range(0, len(whole), 1 << 20):
            assert file.write(whole[at : at + (1 << 20)]) == 1 << 20
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(file.fileno(), len(whole), 0) == whole
    assert daemon.stats(target)["max_write"] == device_file.frame_size() - 4096
