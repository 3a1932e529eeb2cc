"""What the kernel asks arrives as it asked it, and what the filesystem answers reaches the caller, and nothing else."""

import errno
import fcntl
import mmap
import os
import select
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernel.conftest import Daemon, eventually
from tests.kernel.raw import NULL, checked, libc, room
from tests.kernel.scripted import CONTENT, FILE, GENEROUS, Answer, Scripted, attr, entry, init_reply
from wire import codec
from wire.flags import InitFlag, OpenFlag
from wire.opcodes import Opcode

MIB = 1 << 20
#: what no two connections have alike: lock owners are scrambled by a key of the connection; (offset, bytes) in the body
PRIVATE = {
    Opcode.SETATTR: (24, 8),
    Opcode.FLUSH: (16, 8),
    Opcode.READ: (24, 8),
    Opcode.WRITE: (24, 8),
    Opcode.RELEASE: (16, 8),
} | dict.fromkeys((Opcode.GETLK, Opcode.SETLK, Opcode.SETLKW), (8, 8))
#: what comes whenever the kernel likes
UNORDERED = {Opcode.INIT, Opcode.FORGET, Opcode.BATCH_FORGET}
WANTED = (
    InitFlag.DO_READDIRPLUS | InitFlag.POSIX_LOCKS | InitFlag.FLOCK_LOCKS | InitFlag.ATOMIC_O_TRUNC
    | InitFlag.MAX_PAGES | InitFlag.HAS_IOCTL_DIR | InitFlag.INIT_EXT | InitFlag.SECURITY_CTX
)  # fmt: skip


def direct_open(fs: Scripted, head: codec.InHeader, body: bytes) -> bytes:
    """Every read(2) and write(2) is a request of its own."""
    return codec.open_out.pack(1, OpenFlag.DIRECT_IO, 0)


def lookup_several(fs: Scripted, head: codec.InHeader, body: bytes) -> Answer:
    """`file`, a directory and a symbolic link; nothing else is there yet."""
    found = {b"file\0": (FILE, 0o100666), b"folder\0": (20, 0o40755), b"link\0": (10, 0o120777)}.get(body)
    return entry(found[0], mode=found[1]) if found else -errno.ENOENT


def every_system_call(here: Path) -> dict[str, object]:
    """System calls that make every request an ordinary mount can get; what they gave."""
    gave: dict[str, object] = {}
    file = os.fsencode(here / "file")
    gave["getxattr size"] = checked(libc.getxattr(file, b"user.colour", NULL, 0))
    gave["getxattr"] = os.getxattr(file, "user.colour")
    gave["listxattr size"] = checked(libc.listxattr(file, NULL, 0))
    gave["listxattr"] = os.listxattr(file)
    os.setxattr(file, "user.bytes", bytes(range(256)), os.XATTR_CREATE)
    os.removexattr(file, "user.bytes")
    checked(libc.statx(-100, file, 0x2000, 0xFFF, room(256)))
    os.chmod(file, 0o640)
    os.utime(file, ns=(1_000_000_001, 2_000_000_002))
    os.truncate(file, 10)
    os.access(file, os.R_OK)
    gave["statfs"] = tuple(os.statvfs(here))[:6]
    os.symlink("file", here / "symbolic")
    os.mknod(here / "node", 0o100644)
    os.mkdir(here / "directory", 0o750)
    os.link(file, here / "linked")
    os.rename(file, here / "moved")
    checked(libc.renameat2(-100, file, -100, os.fsencode(here / "unreplaced"), 1))
    os.unlink(file)
    os.rmdir(here / "folder")
    gave["readlink"] = os.readlink(here / "link")
    gave["listed"] = sorted(os.listdir(here))
    os.close(os.open(here / "created", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    os.close(os.open(here, os.O_TMPFILE | os.O_RDWR, 0o600))
    folder = os.open(here, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    fd = os.open(file, os.O_RDWR)
    other = os.open(file, os.O_RDWR)
    gave["read"] = os.pread(fd, 100, 50)
    os.pwrite(fd, b"written", 70)
    os.fdatasync(fd)
    gave["hole"] = os.lseek(fd, 0, os.SEEK_HOLE)
    os.posix_fallocate(fd, 4096, 4096)
    gave["copied"] = os.copy_file_range(fd, other, 512, 0, 2048)
    fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 10, 20, 0))
    fcntl.fcntl(fd, fcntl.F_SETLK, struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 10, 20, 0))
    fcntl.fcntl(fd, fcntl.F_SETLKW, struct.pack("hhqqi", fcntl.F_RDLCK, os.SEEK_SET, 10, 20, 0))
    fcntl.flock(fd, fcntl.LOCK_EX)
    gave["ioctl"] = fcntl.ioctl(fd, 0xC004_5A01, struct.pack("=I", 77))
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    gave["poll"] = poll.poll(0)[0][1]
    os.close(fd)
    os.close(other)
    return gave


def comparable(fs: Scripted) -> list[tuple[str, tuple[int, ...], bytes]]:
    """Requests without what differs from one connection to the next by its nature."""
    found = []
    for head, body in fs.requests:
        if head.opcode in UNORDERED:
            continue
        at, size = PRIVATE.get(Opcode(head.opcode), (0, 0))
        if head.opcode == Opcode.IOCTL:
            at, size = 16, 8  # the caller's pointer
        body = body[:at] + bytes(size) + body[at + size :]
        kept = (head.len, head.nodeid, head.uid, head.gid, head.total_extlen)
        found.append((Opcode(head.opcode).name, kept, body))
    return found


def test_every_request_and_answer_is_the_same_with_and_without_perfused(
    daemon: Daemon, tmp_path: Path, scripted: Callable[..., Scripted]
) -> None:
    handlers = GENEROUS | {Opcode.OPEN: direct_open, Opcode.LOOKUP: lookup_several}
    (alone := tmp_path / "alone").mkdir()
    (relayed := tmp_path / "relayed").mkdir()
    through = scripted(relayed, handlers, flags=int(WANTED))
    gave = every_system_call(relayed)
    plain = Scripted(handlers, flags=int(WANTED)).mount_plain(str(alone))
    assert every_system_call(alone) == gave
    for fs in (through, plain):  # nobody waits for RELEASE, the last of them
        opened = sum(fs.opcodes[opcode] for opcode in (Opcode.OPEN, Opcode.CREATE, Opcode.TMPFILE))
        fs.wait_for(Opcode.RELEASE, times=opened)
    asked = comparable(plain)
    subprocess.run(["umount", alone], check=True)
    plain.close()
    missing = set(GENEROUS) - set(through.opcodes) - {Opcode.READDIR, Opcode.ACCESS, Opcode.COPY_FILE_RANGE}
    assert not missing, "the script does not make them all"
    assert comparable(through) == asked


@pytest.mark.parametrize("opcode", [Opcode.READDIR, Opcode.ACCESS, Opcode.COPY_FILE_RANGE])
def test_requests_that_newer_ones_or_options_replace_arrive_too(
    daemon: Daemon, target: Path, scripted: Callable[..., Scripted], opcode: Opcode
) -> None:
    handlers = GENEROUS | {Opcode.COPY_FILE_RANGE_64: lambda *_: -errno.ENOSYS}
    fs = scripted(target, handlers)
    assert os.listdir(target) == ["file"]
    assert os.access(target / "file", os.R_OK)
    with open(target / "file", "r+b") as file:
        assert os.copy_file_range(file.fileno(), file.fileno(), 512, 0, 2048) == 512
    fs.wait_for(opcode)


def test_writes_and_reads_of_1_mib_arrive_whole(
    daemon: Daemon, target: Path, scripted: Callable[..., Scripted]
) -> None:
    block = os.urandom(MIB)

    init = init_reply(int(InitFlag.MAX_PAGES), max_write=MIB, max_pages=256)
    fs = scripted(
        target,
        {Opcode.INIT: lambda *_: init, Opcode.OPEN: direct_open, Opcode.READ: lambda *_: block},
        f"max_read={MIB}",
    )
    fd = os.open(target / "file", os.O_RDWR)
    # Whole pages: otherwise the same bytes touch one page more, and the kernel asks twice.
    with mmap.mmap(-1, MIB) as pages:
        pages[:] = block
        assert os.pwritev(fd, [pages], 0) == MIB
        pages[:] = bytes(MIB)
        assert os.preadv(fd, [pages], 0) == MIB
        assert pages[:] == block
    os.close(fd)
    assert fs.wait_for(Opcode.WRITE)[1][40:] == block
    assert [fs.opcodes[Opcode.WRITE], fs.opcodes[Opcode.READ]] == [1, 1]


def test_many_forgets_arrive_in_batches_and_none_is_lost(
    daemon: Daemon, target: Path, scripted: Callable[..., Scripted]
) -> None:
    def lookup(fs: Scripted, head: codec.InHeader, body: bytes) -> bytes:
        if head.nodeid == 1:
            return entry(100, valid=60, mode=0o40755)
        return entry(1000 + int(body.rstrip(b"\0")), valid=60)

    fs = scripted(target, {Opcode.LOOKUP: lookup, Opcode.GETATTR: _attributes})
    for number in range(1000):
        (target / "folder" / str(number)).stat()
    fs.notify(3, codec.notify_inval_entry_out.pack(1, 6, 0) + b"folder\0")

    def forgotten() -> dict[int, int]:
        found: dict[int, int] = {}
        for head, body in list(fs.requests):
            if head.opcode == Opcode.FORGET:
                found[head.nodeid] = found.get(head.nodeid, 0) + struct.unpack("=Q", body)[0]
            elif head.opcode == Opcode.BATCH_FORGET:
                for nodeid, times in struct.iter_unpack("=QQ", body[8:]):
                    found[nodeid] = found.get(nodeid, 0) + times
        return found

    eventually(lambda: len(forgotten()) == 1001, "all nodes are forgotten")
    assert set(forgotten().values()) == {1}
    fs.wait_for(Opcode.BATCH_FORGET)
    daemon.idle(target)


def _attributes(fs: Scripted, head: codec.InHeader, body: bytes) -> bytes:
    mode = 0o40755 if head.nodeid in (1, 100) else 0o100666
    return codec.attr_out.pack(60, 0, 0, *attr(head.nodeid, mode=mode))


def test_enosys_reaches_the_kernel_which_then_asks_no_more(
    daemon: Daemon, target: Path, scripted: Callable[..., Scripted]
) -> None:
    fs = scripted(target)
    for _ in range(2):
        with pytest.raises(OSError) as refused:
            os.getxattr(target / "file", "user.colour")
        assert refused.value.errno == errno.EOPNOTSUPP
    assert fs.opcodes[Opcode.GETXATTR] == 1


@pytest.mark.parametrize("minor", [4, 5, 8, 11, 12, 22, 31, 38])
def test_a_filesystem_that_answers_an_old_minor_works(
    daemon: Daemon, target: Path, scripted: Callable[..., Scripted], minor: int
) -> None:
    size = 24 if minor < 9 else 40

    def create(fs: Scripted, head: codec.InHeader, body: bytes) -> bytes:
        assert body[8 if minor < 12 else 16 :] == b"new\0"
        made = entry(7, mode=0o100644)
        return (made if minor >= 9 else made[:120]) + codec.open_out.pack(7, 0, 0)

    fs = scripted(target, {Opcode.CREATE: create}, minor=minor)
    assert (target / "file").read_bytes() == CONTENT
    with open(target / "file", "r+b") as file:
        file.write(b"changed")
    assert fs.wait_for(Opcode.WRITE)[1][size:] == b"changed"
    os.close(os.open(target / "new", os.O_CREAT | os.O_WRONLY))
    found = daemon.stats(target)
    assert [found["minor"], found["bad_replies"]] == [minor, 0]


# -- INIT ------------------------------------------------------------------------------------------


REFUSED = (
    InitFlag.OVER_IO_URING
    | InitFlag.SPLICE_READ | InitFlag.SPLICE_WRITE | InitFlag.SPLICE_MOVE
)  # fmt: skip


def _offered(fs: Scripted) -> int:
    body = fs.wait_for(Opcode.INIT)[1]
    return int(struct.unpack_from("=I", body, 12)[0] | struct.unpack_from("=I", body, 16)[0] << 32)


def test_flags_that_a_socket_cannot_carry_are_not_offered_and_all_others_are(
    daemon: Daemon, tmp_path: Path, scripted: Callable[..., Scripted]
) -> None:
    (alone := tmp_path / "alone").mkdir()
    (relayed := tmp_path / "relayed").mkdir()
    plain = Scripted().mount_plain(str(alone))
    kernels = _offered(plain)
    subprocess.run(["umount", alone], check=True)
    plain.close()
    assert _offered(scripted(relayed)) == kernels & ~int(REFUSED)


def test_a_filesystem_that_asks_for_every_flag_it_was_offered_works(
    daemon: Daemon, target: Path, scripted: Callable[..., Scripted]
) -> None:
    def echo(fs: Scripted, head: codec.InHeader, body: bytes) -> bytes:
        flags = struct.unpack_from("=I", body, 12)[0] | struct.unpack_from("=I", body, 16)[0] << 32
        return init_reply(flags, max_pages=32, max_background=12)

    scripted(target, {Opcode.INIT: echo}, options="default_permissions")
    assert (target / "file").read_bytes() == CONTENT
    assert daemon.stats(target)["state"] == "RUNNING"


def test_flags_that_were_not_offered_are_taken_out_of_the_answer(
    daemon: Daemon, target: Path, scripted: Callable[..., Scripted]
) -> None:
    # With OVER_IO_URING the kernel would wait for ever for rings that nobody registers.
    scripted(target, {Opcode.INIT: lambda *_: init_reply(int(REFUSED | InitFlag.INIT_EXT))})
    assert (target / "file").read_bytes() == CONTENT
    assert daemon.stats(target)["flags"] == ["INIT_EXT"]
    daemon.has_logged("asked for what was not offered", "OVER_IO_URING")


def test_a_max_write_larger_than_the_device_carries_is_lowered_and_writes_come_in_pieces(
    daemons: Callable[..., Daemon], target: Path, scripted: Callable[..., Scripted]
) -> None:
    daemon = daemons("[init]\nmax_frame = 65536\n")
    flags = int(InitFlag.MAX_PAGES)
    init = init_reply(flags, max_write=MIB, max_pages=256)
    fs = scripted(target, {Opcode.INIT: lambda *_: init, Opcode.OPEN: direct_open})
    block = os.urandom(MIB)
    fd = os.open(target / "file", os.O_WRONLY)
    assert os.write(fd, block) == MIB
    os.close(fd)
    pieces = [body[40:] for head, body in fs.requests if head.opcode == Opcode.WRITE]
    assert b"".join(pieces) == block
    assert max(map(len, pieces)) <= daemon.stats(target)["max_write"] <= 65536 - 4096


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (-errno.EPROTO, "the filesystem refused INIT: EPROTO"),
        (bytes(80), "init_out has 80 bytes"),
        (init_reply(major=6), "major is 6"),
    ],
    ids=["an error", "a wrong size", "another major"],
)
def test_a_refused_or_impossible_init_gives_callers_an_error_and_the_mount_can_be_unmounted(
    daemon: Daemon, target: Path, scripted: Callable[..., Scripted], answer: Answer, said: str
) -> None:
    fs = scripted(target, {Opcode.INIT: lambda *_: answer})
    with pytest.raises(OSError):
        (target / "file").stat()
    daemon.has_logged(str(target), said)
    daemon.ctl("umount", target)
    assert fs.ended.wait(10)
