"""The filesystem in memory does what tmpfs does, and what only a FUSE filesystem can: it is the server's own trial."""

import errno
import fcntl
import os
import select
import signal
import stat
import struct
import subprocess
from pathlib import Path
from typing import IO

import pytest

from fixtures import memory_acl, workload
from fixtures.memory_acl import Entry
from perfused import libc
from tests.kernel import raw
from tests.kernel.conftest import ROOT, eventually, fuse_mounts
from tests.kernel.places import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    STATX_BASIC_STATS,
    STATX_BTIME,
    Process,
    entries,
    renameat2,
    statx,
)
from tests.kernel.places import processes as processes
from tests.kernel.served import VIAS, Serve, Served
from tests.kernel.served import serve as serve

MEMORY = "fixtures/memory.py"
MODES = {"threads": (), "one thread": ("--threads", "1"), "async": ("--async",)}
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PAGE = 4096
SOMEBODY = 7001
RENAME_WHITEOUT, AT_SYMLINK_FOLLOW, IN_DELETE_SELF = 4, 0x400, 0x400
SEEK_DATA, SEEK_HOLE = 3, 4
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_NODUMP_FL, FS_IMMUTABLE_FL = 0x80086601, 0x40086602, 0x40, 0x10


@pytest.fixture
def here(serve: Serve) -> Path:
    """A filesystem in memory on the kernel's own device."""
    return serve(MEMORY).target


@pytest.fixture(params=MODES)
def served(request: pytest.FixtureRequest, serve: Serve) -> Served:
    """The same in each way to serve."""
    return serve(MEMORY, *MODES[request.param])


def refused(code: int) -> "pytest.RaisesContext[OSError]":
    """An OSError with this errno."""
    return pytest.raises(OSError, check=lambda bad: bad.errno == code)


def as_somebody(script: str, stdout: IO[bytes] | None = None) -> None:
    """Run a shell script as a user without rights."""
    subprocess.run(["/bin/sh", "-c", script], user=SOMEBODY, group=SOMEBODY, extra_groups=[], stdout=stdout, check=True)


# -- the whole -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("via", VIAS)
def test_the_workload_passes(serve: Serve, via: str, mode: str) -> None:
    memory = serve(MEMORY, *MODES[mode], via=via)
    workload.run(memory.target, ROOT / "wire")
    assert memory.unmounted() == 0


def test_the_workload_passes_while_the_kernel_holds_writes_back(serve: Serve) -> None:
    workload.run(serve(MEMORY, "--writeback").target, ROOT / "wire")


def test_two_filesystems_in_one_process_do_not_meet(serve: Serve) -> None:
    memory = serve(MEMORY, mounts=2)
    one, two = memory.targets
    (one / "file").write_text("one")
    (two / "other").write_text("two")
    assert (os.listdir(one), os.listdir(two)) == (["file"], ["other"])


def test_the_process_ends_when_the_last_of_two_is_unmounted(serve: Serve) -> None:
    memory = serve(MEMORY, mounts=2)
    subprocess.run(["umount", memory.targets[0]], check=True)
    (memory.targets[1] / "still").write_text("here")
    subprocess.run(["umount", memory.targets[1]], check=True)
    assert memory.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_unmounts_and_ends_well(served: Served, number: signal.Signals) -> None:
    assert served.signalled(number) == 0
    assert not fuse_mounts(served.target)


def test_a_mount_in_use_lives_on_after_a_signal_until_its_last_file_is_closed(served: Served) -> None:
    with open(served.target / "file", "w+") as file:
        served.process.send_signal(signal.SIGTERM)
        eventually(lambda: not fuse_mounts(served.target), "the mount is detached")
        file.write("late")
        file.flush()
        assert os.pread(file.fileno(), 10, 0) == b"late"
    assert served.ended() == 0


def test_it_says_when_it_is_mounted(serve: Serve) -> None:
    memory = serve(MEMORY)
    assert memory.process.stdout is not None
    assert memory.process.stdout.readline() == f"memory: mounted on {memory.target}\n".encode()


# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFREG])
def test_a_file_of_each_kind_can_be_made(here: Path, kind: int) -> None:
    os.mknod(here / "node", kind | 0o640, os.makedev(1, 3))
    found = os.lstat(here / "node")
    assert stat.S_IFMT(found.st_mode) == kind
    assert found.st_rdev == (os.makedev(1, 3) if kind in (stat.S_IFCHR, stat.S_IFBLK) else found.st_rdev)


def test_rename_without_replacing_is_refused_where_something_is(here: Path) -> None:
    (here / "a").touch()
    (here / "b").touch()
    with refused(errno.EEXIST):
        renameat2(here / "a", here / "b", RENAME_NOREPLACE)


def test_rename_exchanges_a_file_and_a_directory(here: Path) -> None:
    (here / "file").write_text("text")
    (here / "dir" / "sub").mkdir(parents=True)
    renameat2(here / "file", here / "dir" / "sub", RENAME_EXCHANGE)
    assert (here / "dir" / "sub").read_text() == "text"
    assert (here / "file").is_dir()
    assert [here.stat().st_nlink, (here / "dir").stat().st_nlink] == [4, 2]


def test_rename_leaves_a_whiteout(here: Path) -> None:
    (here / "a").write_text("text")
    renameat2(here / "a", here / "b", RENAME_WHITEOUT)
    found = os.lstat(here / "a")
    assert (stat.S_ISCHR(found.st_mode), found.st_rdev) == (True, 0)


def test_a_file_without_a_name_can_be_given_one(here: Path) -> None:
    fd = os.open(here, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, b"text")
    named = os.fsencode(here / "named")
    assert raw.libc.linkat(-100, b"/proc/self/fd/%d" % fd, -100, named, AT_SYMLINK_FOLLOW) == 0
    os.close(fd)
    assert (here / "named").read_bytes() == b"text"


def test_a_name_of_256_bytes_is_refused(here: Path) -> None:
    with refused(errno.ENAMETOOLONG):
        (here / ("x" * 256)).touch()


@pytest.mark.parametrize("mode", MODES)
def test_a_listing_has_each_entry_that_stays_once_while_others_come_and_go(serve: Serve, mode: str) -> None:
    here = serve(MEMORY, *MODES[mode]).target
    stay = {b"stay%03d" % number for number in range(300)}
    for number, name in enumerate(sorted(stay)):
        (here / os.fsdecode(name)).touch()
        (here / f"gone{number}").touch()
    fd = os.open(here, os.O_RDONLY | os.O_DIRECTORY)
    listed, number = [], 0
    while found := entries(fd, 1024):
        listed += [name for name, _ in found if name in stay]
        if number < 8:
            os.unlink(here / f"gone{number}")
            (here / f"new{number}").touch()
            number += 1
    os.close(fd)
    assert sorted(listed) == sorted(stay)
    assert number == 8


def test_a_listing_goes_on_at_a_cookie_of_another_descriptor(here: Path) -> None:
    for number in range(50):
        (here / str(number)).touch()
    one, two = (os.open(here, os.O_RDONLY | os.O_DIRECTORY) for _ in range(2))
    found = entries(one, 8192)
    os.lseek(two, found[9][1], os.SEEK_SET)
    assert entries(two, 8192)[0] == found[10]
    os.close(one)
    os.close(two)


# -- data ------------------------------------------------------------------------------------------------------------


def test_ten_gibibytes_of_hole_take_no_room(here: Path) -> None:
    with open(here / "sparse", "wb+") as file:
        file.seek(10 * GIB)
        file.write(b"end")
        file.flush()
        os.fsync(file.fileno())
        assert os.fstat(file.fileno()).st_blocks == PAGE // 512
        assert os.pread(file.fileno(), 8, 5 * GIB) == bytes(8)
        assert os.lseek(file.fileno(), 0, SEEK_DATA) == 10 * GIB
        assert os.lseek(file.fileno(), 0, SEEK_HOLE) == 0


@pytest.mark.parametrize(
    ("mode", "size", "blocks", "content"),
    [
        (0, 8 * PAGE, 8, b"x"),
        (KEEP_SIZE, 4 * PAGE, 8, b"x"),
        (KEEP_SIZE | PUNCH_HOLE, 4 * PAGE, 2, b"\0"),
        (ZERO_RANGE, 8 * PAGE, 8, b"\0"),
        (ZERO_RANGE | KEEP_SIZE, 4 * PAGE, 8, b"\0"),
    ],
    ids=["default", "keep", "punch", "zero", "zero-keep"],
)
def test_fallocate_keeps_size_room_and_contents_as_its_mode_says(
    here: Path, mode: int, size: int, blocks: int, content: bytes
) -> None:
    with open(here / "file", "wb+") as file:
        file.write(b"x" * 4 * PAGE)
        file.flush()
        libc.fallocate(file.fileno(), mode, 2 * PAGE, 6 * PAGE)
        found = os.fstat(file.fileno())
        assert (found.st_size, found.st_blocks) == (size, blocks * PAGE // 512)
        assert os.pread(file.fileno(), 4 * PAGE, 0) == b"x" * 2 * PAGE + content * 2 * PAGE


def test_a_copy_within_the_filesystem_keeps_holes(here: Path) -> None:
    with open(here / "from", "wb+") as source, open(here / "to", "wb+") as target:
        source.truncate(8 * MIB)
        os.pwrite(source.fileno(), b"data", 4 * MIB)
        assert os.copy_file_range(source.fileno(), target.fileno(), 8 * MIB) == 8 * MIB
        os.lseek(target.fileno(), 0, os.SEEK_SET)
        assert target.read() == bytes(4 * MIB) + b"data" + bytes(4 * MIB - 4)
        assert os.fstat(target.fileno()).st_blocks == PAGE // 512


def test_opening_to_truncate_empties_a_file(here: Path) -> None:
    (here / "file").write_text("text")
    os.close(os.open(here / "file", os.O_WRONLY | os.O_TRUNC))
    assert (here / "file").stat().st_size == 0


# -- room ------------------------------------------------------------------------------------------------------------


def test_a_full_filesystem_takes_what_fits_and_then_refuses(serve: Serve) -> None:
    here = serve(MEMORY, "--quota", str(MIB)).target
    fd = os.open(here / "file", os.O_RDWR | os.O_CREAT)
    assert os.write(fd, bytes(2 * MIB)) == MIB
    with refused(errno.ENOSPC):
        os.write(fd, b"x")
    os.ftruncate(fd, 0)
    assert os.write(fd, b"x") == 1
    os.close(fd)


def test_a_filesystem_without_free_inodes_refuses_a_new_file(serve: Serve) -> None:
    here = serve(MEMORY, "--inodes", "3").target
    (here / "a").touch()
    (here / "b").touch()
    with refused(errno.ENOSPC):
        (here / "c").touch()
    (here / "a").unlink()
    eventually(lambda: os.statvfs(here).f_ffree == 1, "the kernel has forgotten the file")
    (here / "c").touch()


def test_a_user_is_refused_what_is_more_than_his_quota(serve: Serve) -> None:
    here = serve(MEMORY, "--quota-each", str(MIB)).target
    with open(here / "file", "wb", buffering=0) as file:
        os.fchown(file.fileno(), SOMEBODY, -1)
        assert file.write(bytes(2 * MIB)) == MIB
        with refused(errno.EDQUOT):
            file.write(b"x")


def test_a_file_that_is_given_away_counts_for_its_new_owner(serve: Serve) -> None:
    here = serve(MEMORY, "--quota-each", str(MIB)).target
    (here / "file").write_bytes(bytes(2 * MIB))
    with refused(errno.EDQUOT):
        os.chown(here / "file", SOMEBODY, -1)


def test_statfs_tells_what_is_used(serve: Serve) -> None:
    here = serve(MEMORY, "--quota", str(MIB), "--inodes", "10").target
    (here / "file").write_bytes(bytes(64 * KIB))
    found = os.statvfs(here)
    assert (found.f_frsize * found.f_blocks, found.f_bfree) == (MIB, (MIB - 64 * KIB) // PAGE)
    assert (found.f_files, found.f_ffree, found.f_namemax) == (10, 8, 255)


def test_an_open_file_without_a_name_takes_room_until_it_is_closed(serve: Serve) -> None:
    here = serve(MEMORY, "--quota", str(MIB)).target
    with open(here / "file", "wb", buffering=0) as file:
        file.write(bytes(MIB))
        (here / "file").unlink()
        assert os.statvfs(here).f_bfree == 0
    eventually(lambda: os.statvfs(here).f_bfree == MIB // PAGE, "the room is free again")


# -- attributes ------------------------------------------------------------------------------------------------------


def test_statx_has_the_time_of_birth(here: Path) -> None:
    (here / "file").write_text("text")
    os.utime(here / "file", (1, 1))
    mask, (seconds, _), size = statx(here / "file", STATX_BASIC_STATS | STATX_BTIME)
    assert (mask & STATX_BTIME, size) == (STATX_BTIME, 4)
    assert seconds >= (here / "file").stat().st_ctime - 60


def test_times_before_1970_are_kept(here: Path) -> None:
    (here / "file").touch()
    os.utime(here / "file", ns=(-1_500_000_000, -1))
    found = os.stat(here / "file")
    assert (found.st_atime_ns, found.st_mtime_ns) == (-1_500_000_000, -1)


def test_a_write_of_somebody_else_takes_setuid_away(here: Path) -> None:
    (here / "program").write_text("text")
    os.chmod(here / "program", 0o6755)
    with open(here / "program", "r+b", buffering=0) as file:
        as_somebody("echo x", file)
    assert stat.S_IMODE(os.stat(here / "program").st_mode) == 0o755


def test_a_write_of_root_keeps_setuid(here: Path) -> None:
    (here / "program").write_text("text")
    os.chmod(here / "program", 0o6755)
    (here / "program").write_text("other")
    assert stat.S_IMODE(os.stat(here / "program").st_mode) == 0o6755


def test_what_is_made_in_a_setgid_directory_has_its_group(here: Path) -> None:
    (here / "dir").mkdir()
    os.chown(here / "dir", -1, SOMEBODY)
    os.chmod(here / "dir", 0o2755)
    (here / "dir" / "sub").mkdir()
    (here / "dir" / "file").touch()
    assert [(here / "dir" / name).stat().st_gid for name in ("sub", "file")] == [SOMEBODY, SOMEBODY]
    assert (here / "dir" / "sub").stat().st_mode & stat.S_ISGID


def acl(*named: Entry) -> bytes:
    """A list with rwx for owner, group and mask, nothing for others, and what is named."""
    least = (Entry(memory_acl.USER_OBJ, 7, 0), Entry(memory_acl.GROUP_OBJ, 5, 0), Entry(memory_acl.OTHER, 0, 0))
    mask = (Entry(memory_acl.MASK, 7, 0),) if named else ()
    return memory_acl.build(tuple(sorted((*least, *named, *mask))))


def test_a_list_lets_in_who_is_named(here: Path) -> None:
    (here / "file").write_text("text")
    os.chmod(here / "file", 0o600)
    with pytest.raises(subprocess.CalledProcessError):
        as_somebody(f"exec 2>/dev/null; read line < {here}/file")
    os.setxattr(here / "file", "system.posix_acl_access", acl(Entry(memory_acl.USER, 4, SOMEBODY)))
    as_somebody(f"cat < {here}/file > /dev/null")


def test_setting_a_list_changes_the_mode(here: Path) -> None:
    (here / "file").touch()
    os.setxattr(here / "file", "system.posix_acl_access", acl(Entry(memory_acl.USER, 4, SOMEBODY)))
    assert stat.S_IMODE(os.stat(here / "file").st_mode) == 0o770


def test_chmod_changes_the_mask_of_a_list(here: Path) -> None:
    (here / "file").touch()
    os.setxattr(here / "file", "system.posix_acl_access", acl(Entry(memory_acl.USER, 4, SOMEBODY)))
    os.chmod(here / "file", 0o640)
    found = memory_acl.parse(os.getxattr(here / "file", "system.posix_acl_access"))
    assert Entry(memory_acl.MASK, 4, 0) in [each._replace(id=0) for each in found]


def test_new_files_inherit_a_default_list_in_place_of_the_umask(here: Path) -> None:
    (here / "dir").mkdir()
    os.setxattr(here / "dir", "system.posix_acl_default", acl(Entry(memory_acl.USER, 4, SOMEBODY)))
    before = os.umask(0o077)
    try:
        os.close(os.open(here / "dir" / "file", os.O_CREAT | os.O_WRONLY, 0o666))
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(here / "dir" / "file").st_mode) == 0o660
    assert "system.posix_acl_access" in os.listxattr(here / "dir" / "file")


def test_flags_of_a_file_are_set_and_read_by_ioctl(here: Path) -> None:
    with open(here / "file", "w") as file:
        fcntl.ioctl(file, FS_IOC_SETFLAGS, struct.pack("L", FS_NODUMP_FL))
        assert struct.unpack("I", fcntl.ioctl(file, FS_IOC_GETFLAGS, bytes(8))[:4]) == (FS_NODUMP_FL,)


def test_a_flag_that_would_not_be_kept_is_refused(here: Path) -> None:
    with open(here / "file", "w") as file, refused(errno.EOPNOTSUPP):
        fcntl.ioctl(file, FS_IOC_SETFLAGS, struct.pack("L", FS_IMMUTABLE_FL))


# -- locks -----------------------------------------------------------------------------------------------------------


def waits_for_a_lock(process: Process, path: Path) -> None:
    """Have a process wait for the whole of a file."""
    process.do(f"fd = os.open({str(path)!r}, os.O_RDWR)")
    process.begin("fcntl.lockf(fd, fcntl.LOCK_EX)")
    process.waits_in_a_call()


def test_a_waiting_lock_is_had_when_the_other_is_given_up(served: Served, processes: "type[Process]") -> None:
    path = served.target / "file"
    with open(path, "w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        other = processes()
        waits_for_a_lock(other, path)
        fcntl.lockf(file, fcntl.LOCK_UN)
        assert other.result() is None


def test_a_signal_ends_waiting_for_a_lock(served: Served, processes: "type[Process]") -> None:
    path = served.target / "file"
    with open(path, "w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        other = processes()
        waits_for_a_lock(other, path)
        os.kill(other.pid, signal.SIGUSR1)
        with pytest.raises(InterruptedError):
            other.result()


def test_who_gave_up_waiting_does_not_get_the_lock_later(served: Served, processes: "type[Process]") -> None:
    path = served.target / "file"
    with open(path, "w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        other = processes()
        waits_for_a_lock(other, path)
        os.kill(other.pid, signal.SIGUSR1)
        with pytest.raises(InterruptedError):
            other.result()
        fcntl.lockf(file, fcntl.LOCK_UN)
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_many_who_wait_for_locks_keep_nobody_else_waiting(served: Served, processes: "type[Process]") -> None:
    path = served.target / "file"
    with open(path, "w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        others = [processes() for _ in range(6)]
        for each in others:
            waits_for_a_lock(each, path)
        (served.target / "other").write_text("text")
        fcntl.lockf(file, fcntl.LOCK_UN)
        for _ in others:
            ready, _, _ = select.select([each.popen.stdout for each in others], [], [], 20)
            (done,) = [each for each in others if each.popen.stdout in ready][:1]
            assert done.result() is None
            done.do("fcntl.lockf(fd, fcntl.LOCK_UN)")
            others = [each for each in others if each is not done]


def test_one_of_two_who_would_wait_for_one_another_is_told(here: Path, processes: "type[Process]") -> None:
    """It is the one whose request the filesystem reads second: which of the two that is, nobody decides."""
    (here / "file").write_bytes(bytes(10))
    both = [processes(), processes()]
    for own, each in enumerate(both):
        each.do(f"fd = os.open({str(here / 'file')!r}, os.O_RDWR)")
        each.do(f"fcntl.lockf(fd, fcntl.LOCK_EX, 1, {own})")
    for own, each in enumerate(both):
        each.begin(f"fcntl.lockf(fd, fcntl.LOCK_EX, 1, {1 - own})")
    (told,) = select.select([each.popen.stdout for each in both], [], [], 20)[0]
    refused_one, waiting = both if told is both[0].popen.stdout else both[::-1]
    with refused(errno.EDEADLK):
        refused_one.result()
    refused_one.do("os.close(fd)")
    assert waiting.result() is None


def test_a_waiting_flock_is_had_when_the_other_file_is_closed(served: Served, processes: "type[Process]") -> None:
    path = served.target / "file"
    other = processes()
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        other.do(f"fd = os.open({str(path)!r}, os.O_RDWR)")
        other.begin("fcntl.flock(fd, fcntl.LOCK_SH)")
        other.waits_in_a_call()
    assert other.result() is None


# -- poll and notifications ------------------------------------------------------------------------------------------


def test_poll_of_a_stream_wakes_when_something_is_written(served: Served) -> None:
    path = served.target / "stream"
    path.touch()
    os.setxattr(path, "user.memory.stream", b"")
    reader, writer = os.open(path, os.O_RDONLY), os.open(path, os.O_WRONLY)
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    assert poll.poll(0) == []
    os.write(writer, b"text")
    assert poll.poll(20_000) == [(reader, select.POLLIN)]
    assert struct.unpack("i", fcntl.ioctl(reader, 0x541B, bytes(4))) == (4,)
    assert os.read(reader, 10) == b"text"
    assert poll.poll(0) == []
    os.close(reader)
    os.close(writer)


def test_a_file_that_is_no_stream_is_always_ready(here: Path) -> None:
    with open(here / "file", "wb") as file:
        poll = select.poll()
        poll.register(file, select.POLLIN | select.POLLOUT)
        assert poll.poll(0) == [(file.fileno(), select.POLLIN | select.POLLOUT)]


def test_contents_that_change_from_behind_are_seen_although_they_were_cached(served: Served) -> None:
    path = served.target / "file"
    path.write_text("old")
    assert path.read_text() == "old"
    os.setxattr(path, "user.memory.replace", b"newer")
    eventually(lambda: path.read_text() == "newer", "the new contents are seen")


def test_a_name_that_goes_from_behind_is_told_to_who_watches_the_file(served: Served) -> None:
    (served.target / "file").touch()
    fd = raw.libc.inotify_init1(os.O_NONBLOCK)
    assert raw.libc.inotify_add_watch(fd, os.fsencode(served.target / "file"), IN_DELETE_SELF) > 0
    os.setxattr(served.target, "user.memory.remove", b"file")
    assert select.select([fd], [], [], 20)[0] == [fd]
    os.close(fd)
    assert os.listdir(served.target) == []
