"""Times, attributes, access and special files on a filesystem under test are as on the one behind it."""

import errno
import os
import stat
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernel import places
from tests.kernel.conftest import eventually
from tests.kernel.places import STATX_BASIC_STATS, STATX_BTIME, Process, everywhere, fails, getxattr, statx

standings, place_name, place_with, place, tree, source = places.FIXTURES
processes = places.processes

Start = Callable[..., Process]

KIB = 1 << 10
#: nanoseconds of a second
SECOND = 1_000_000_000
#: a user who is not root, a group it is in besides its own, and one it is not in
USER, GROUP, STRANGE = 1000, 2000, 3000


# Times


@pytest.mark.parametrize(
    "when",
    [0, 1, -1, 1_600_000_000 * SECOND + 123_456_789, -400_000_000 * SECOND + 5, 4_102_444_800 * SECOND + 987_654_321],
    ids=["1970", "1970 and 1 ns", "1 ns before 1970", "2020", "1957", "2100"],
)
def test_times_are_kept_to_the_nanosecond(tree: Path, source: Path, when: int) -> None:
    (source / "probe").touch()
    os.utime(source / "probe", ns=(when, when))
    if (source / "probe").stat().st_mtime_ns != when:
        pytest.skip("the filesystem underneath does not keep this time")
    (tree / "file").touch()
    os.utime(tree / "file", ns=(when, when))
    for side in (tree, source):
        found = (side / "file").stat()
        assert (found.st_atime_ns, found.st_mtime_ns) == (when, when)


def test_one_time_is_set_and_the_other_left(tree: Path) -> None:
    (tree / "file").touch()
    os.utime(tree / "file", ns=(5, 6))
    os.utime(tree / "file", ns=(7, (tree / "file").stat().st_mtime_ns))
    found = (tree / "file").stat()
    assert (found.st_atime_ns, found.st_mtime_ns) == (7, 6)


def test_the_times_of_a_link_are_its_own(tree: Path) -> None:
    (tree / "file").touch()
    os.utime(tree / "file", ns=(5, 5))
    (tree / "link").symlink_to("file")
    os.utime(tree / "link", ns=(9, 9), follow_symlinks=False)
    assert ((tree / "file").stat().st_mtime_ns, (tree / "link").lstat().st_mtime_ns) == (5, 9)


def test_writing_sets_the_time_of_change(tree: Path) -> None:
    (tree / "file").touch()
    os.utime(tree / "file", ns=(5, 5))
    with open(tree / "file", "wb", buffering=0) as file:
        file.write(b"x")
        os.fsync(file.fileno())
    assert abs((tree / "file").stat().st_mtime - time.time()) < 60


def test_changing_the_mode_sets_the_status_time_alone(tree: Path) -> None:
    (tree / "file").touch()
    os.utime(tree / "file", ns=(5, 5))
    before = (tree / "file").stat().st_ctime_ns

    def later() -> bool:
        # The clock that stamps files takes its steps of some milliseconds.
        (tree / "file").chmod(0o600)
        return (tree / "file").stat().st_ctime_ns > before

    eventually(later, "a later status time")
    assert (tree / "file").stat().st_mtime_ns == 5


ENTRIES = {
    "create": lambda at: (at / "new").touch(),
    "mkdir": lambda at: (at / "new").mkdir(),
    "symlink": lambda at: (at / "new").symlink_to("x"),
    "mkfifo": lambda at: os.mkfifo(at / "new"),
    "link": lambda at: os.link(at / "file", at / "new"),
    "unlink": lambda at: (at / "file").unlink(),
    "rmdir": lambda at: (at / "below").rmdir(),
    "rename": lambda at: os.rename(at / "file", at / "new"),
    "rename out of it": lambda at: os.rename(at / "file", at.parent / "out"),
    "rename into it": lambda at: os.rename(at.parent / "outside", at / "new"),
}

NO_ENTRIES = {
    "write": lambda at: (at / "file").write_bytes(b"data"),
    "chmod": lambda at: (at / "file").chmod(0o600),
    "stat": lambda at: (at / "file").stat(),
    "write below": lambda at: (at / "below" / "new").touch(),
}


def touched(tree: Path, act: Callable[[Path], object]) -> bool:
    """Whether `act` changes the time of a directory."""
    at = tree / "directory"
    at.mkdir()
    (at / "file").touch()
    (at / "below").mkdir()
    (tree / "outside").touch()
    os.utime(at, ns=(5, 5))
    assert at.stat().st_mtime_ns == 5
    act(at)
    return at.stat().st_mtime_ns != 5


@pytest.mark.parametrize("act", [pytest.param(act, id=name) for name, act in ENTRIES.items()])
def test_what_changes_the_entries_of_a_directory_changes_its_time(tree: Path, act: Callable[[Path], object]) -> None:
    assert touched(tree, act)


@pytest.mark.parametrize("act", [pytest.param(act, id=name) for name, act in NO_ENTRIES.items()])
def test_what_leaves_the_entries_of_a_directory_leaves_its_time(tree: Path, act: Callable[[Path], object]) -> None:
    assert not touched(tree, act)


# statx


def test_statx_answers_what_it_was_asked(tree: Path) -> None:
    (tree / "file").write_bytes(b"12345")
    answered, _, size = statx(tree / "file", STATX_BASIC_STATS)
    assert (answered & STATX_BASIC_STATS, size) == (STATX_BASIC_STATS, 5)


def test_the_time_a_file_was_made_is_told(tree: Path, source: Path) -> None:
    (tree / "file").touch()
    answered, made, _ = statx(source / "file", STATX_BTIME)
    if not answered & STATX_BTIME:
        pytest.skip("the filesystem underneath does not keep the time a file was made")
    again, told, _ = statx(tree / "file", STATX_BTIME)
    assert (again & STATX_BTIME, told) == (STATX_BTIME, made)


# Extended attributes


def needs_xattr(source: Path, name: str, size: int = 1) -> None:
    """Skip where the filesystem underneath does not take the attribute."""
    (source / "probe").touch()
    try:
        os.setxattr(source / "probe", name, bytes(size))
    except OSError as bad:
        pytest.skip(f"the filesystem underneath takes no {name} of {size} bytes: {bad.strerror}")
    finally:
        (source / "probe").unlink()


@pytest.fixture
def file(tree: Path) -> Path:
    path = tree / "file"
    path.touch()
    return path


@pytest.mark.parametrize("size", [0, 1, 255, 4096, 64 * KIB])
@pytest.mark.parametrize("space", ["user", "trusted", "security"])
def test_an_attribute_is_kept_and_read_back(file: Path, source: Path, space: str, size: int) -> None:
    needs_xattr(source, f"{space}.perfused", size)
    value = os.urandom(size)
    os.setxattr(file, f"{space}.perfused", value)
    for side in (file, source / "file"):
        assert os.getxattr(side, f"{space}.perfused") == value


def test_an_attribute_of_more_than_64_kib_is_too_large(file: Path) -> None:
    with fails(errno.E2BIG):
        os.setxattr(file, "user.large", bytes(64 * KIB + 1))


def test_too_little_room_for_a_value_is_erange(file: Path, source: Path) -> None:
    needs_xattr(source, "user.name")
    os.setxattr(file, "user.name", b"value")
    with fails(errno.ERANGE):
        getxattr(file, "user.name", 4)


def test_the_size_of_a_value_is_told_without_room_for_it(file: Path, source: Path) -> None:
    needs_xattr(source, "user.name")
    os.setxattr(file, "user.name", b"value")
    assert getxattr(file, "user.name", 0) == 5


def test_attributes_are_listed(file: Path, source: Path) -> None:
    needs_xattr(source, "user.name")
    names = {f"user.name{number:03}" for number in range(200)}
    for name in names:
        os.setxattr(file, name, b"")
    assert {name for name in os.listxattr(file) if name.startswith("user.")} == names


def test_an_attribute_that_was_removed_is_not_there(file: Path, source: Path) -> None:
    needs_xattr(source, "user.name")
    os.setxattr(file, "user.name", b"value")
    os.removexattr(file, "user.name")
    with fails(errno.ENODATA):
        os.getxattr(file, "user.name")


def test_an_attribute_that_is_there_is_not_created(file: Path, source: Path) -> None:
    needs_xattr(source, "user.name")
    os.setxattr(file, "user.name", b"value")
    with fails(errno.EEXIST):
        os.setxattr(file, "user.name", b"other", os.XATTR_CREATE)


def test_an_attribute_that_is_not_there_is_not_replaced(file: Path, source: Path) -> None:
    needs_xattr(source, "user.name")
    with fails(errno.ENODATA):
        os.setxattr(file, "user.name", b"other", os.XATTR_REPLACE)


def test_a_directory_has_attributes_too(tree: Path, source: Path) -> None:
    needs_xattr(source, "user.name")
    os.setxattr(tree, "user.name", b"value")
    assert os.getxattr(source, "user.name") == b"value"


# Access control lists

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
#: tags of entries (linux/posix_acl.h)
USER_OBJ, NAMED_USER, GROUP_OBJ, MASK, OTHER = 1, 2, 4, 16, 32


def acl(*listed: tuple[int, int, int]) -> bytes:
    """(tag, permissions, id) as the attribute has them: version 2, little-endian."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *each) for each in listed)


def granting(permissions: int) -> bytes:
    """All for the owner, `permissions` for USER, nothing for others."""
    nobody = 0xFFFF_FFFF
    return acl(
        (USER_OBJ, 7, nobody), (NAMED_USER, permissions, USER), (GROUP_OBJ, 0, nobody), (MASK, 7, nobody),
        (OTHER, 0, nobody),
    )  # fmt: skip


def needs_acl(source: Path) -> None:
    (source / "probe").touch()
    try:
        os.setxattr(source / "probe", ACCESS, granting(6))
    except OSError as bad:
        pytest.skip(f"the filesystem underneath has no access control lists: {bad.strerror}")
    finally:
        (source / "probe").unlink()


def test_an_access_list_is_read_back(file: Path, source: Path) -> None:
    needs_acl(source)
    os.setxattr(file, ACCESS, granting(6))
    assert (os.getxattr(file, ACCESS), os.getxattr(source / "file", ACCESS)) == (granting(6), granting(6))


@everywhere
def test_an_access_list_lets_a_user_in(file: Path, source: Path, processes: Start) -> None:
    needs_acl(source)
    file.write_bytes(b"data")
    file.chmod(0o600)
    os.setxattr(file, ACCESS, granting(4))
    assert processes(user=USER, cwd=file.parent).do("open('file').read()") == "data"


def test_an_access_list_keeps_a_user_out(file: Path, source: Path, processes: Start) -> None:
    needs_acl(source)
    file.chmod(0o666)
    os.setxattr(file, ACCESS, granting(0))
    user = processes(user=USER, cwd=file.parent)
    with fails(errno.EACCES):
        user.do("open('file')")


def test_the_mask_of_an_access_list_is_the_group_of_the_mode(file: Path, source: Path) -> None:
    needs_acl(source)
    os.setxattr(file, ACCESS, granting(6))
    assert stat.S_IMODE(file.stat().st_mode) == 0o770


@everywhere
def test_a_default_list_is_inherited_and_the_umask_left_out(tree: Path, source: Path, processes: Start) -> None:
    needs_acl(source)
    (tree / "below").mkdir()
    os.setxattr(tree / "below", DEFAULT, granting(6))
    processes(cwd=tree / "below").do("os.umask(0o077), os.close(os.open('file', os.O_CREAT | os.O_WRONLY, 0o666))")
    found = struct.unpack("<I" + "HHI" * 5, os.getxattr(tree / "below" / "file", ACCESS))
    assert (found[4:7], stat.S_IMODE((tree / "below/file").stat().st_mode)) == ((NAMED_USER, 6, USER), 0o660)


def test_a_default_list_is_the_default_of_directories_below(tree: Path, source: Path) -> None:
    needs_acl(source)
    os.setxattr(tree, DEFAULT, granting(6))
    (tree / "below").mkdir()
    assert os.getxattr(tree / "below", DEFAULT) == granting(6)


# Modes, owners and groups


@everywhere
@pytest.mark.parametrize(
    ("make", "mode"),
    [
        ("os.close(os.open('new', os.O_CREAT | os.O_WRONLY, 0o666))", 0o640),
        ("os.mkdir('new', 0o777)", 0o750),
        ("os.mkfifo('new', 0o666)", 0o640),
    ],
    ids=["open", "mkdir", "mkfifo"],
)
def test_the_umask_is_applied_once(tree: Path, processes: Start, make: str, mode: int) -> None:
    process = processes(cwd=tree)
    process.do("os.umask(0o027)")
    process.do(make)
    assert stat.S_IMODE((tree / "new").stat().st_mode) == mode


def test_all_bits_of_a_mode_are_kept(file: Path) -> None:
    file.chmod(0o7754)
    assert stat.S_IMODE(file.stat().st_mode) == 0o7754


@everywhere
def test_writing_takes_the_setuid_bit_away(file: Path, processes: Start) -> None:
    os.chown(file, USER, USER)
    file.chmod(0o4777)
    processes(user=USER, cwd=file.parent).do("open('file', 'wb').write(b'data')")
    assert stat.S_IMODE(file.stat().st_mode) == 0o777


@everywhere
def test_owner_and_group_are_those_of_who_makes_a_file(tree: Path, processes: Start) -> None:
    tree.chmod(0o777)
    processes(user=USER, cwd=tree).do("os.mkdir('new')")
    found = (tree / "new").stat()
    assert (found.st_uid, found.st_gid) == (USER, USER)


@pytest.fixture
def shared(tree: Path) -> Path:
    """A directory for GROUP alone, which hands its group on."""
    made = tree / "shared"
    made.mkdir()
    os.chown(made, 0, GROUP)
    made.chmod(0o2770)
    return made


def test_a_supplementary_group_lets_a_user_in(shared: Path, processes: Start) -> None:
    processes(user=USER, groups=(GROUP,), cwd=shared).do("os.mkdir('new')")
    assert os.listdir(shared) == ["new"]


def test_who_is_not_in_the_group_stays_out(shared: Path, processes: Start) -> None:
    user = processes(user=USER, cwd=shared)
    with fails(errno.EACCES):
        user.do("os.mkdir('new')")


def test_a_file_in_a_setgid_directory_has_its_group(shared: Path, processes: Start) -> None:
    processes(user=USER, groups=(GROUP,), cwd=shared).do("open('new', 'w').close()")
    found = (shared / "new").stat()
    assert (found.st_uid, found.st_gid) == (USER, GROUP)


def test_a_directory_in_a_setgid_directory_hands_the_group_on(shared: Path, processes: Start) -> None:
    processes(user=USER, groups=(GROUP,), cwd=shared).do("os.mkdir('new')")
    found = (shared / "new").stat()
    assert (found.st_gid, found.st_mode & stat.S_ISGID) == (GROUP, stat.S_ISGID)


def test_a_user_gives_a_file_to_a_supplementary_group(file: Path, processes: Start) -> None:
    os.chown(file, USER, USER)
    processes(user=USER, groups=(GROUP,), cwd=file.parent).do(f"os.chown('file', -1, {GROUP})")
    assert file.stat().st_gid == GROUP


def test_a_user_gives_no_file_to_a_group_it_is_not_in(file: Path, processes: Start) -> None:
    os.chown(file, USER, USER)
    user = processes(user=USER, groups=(GROUP,), cwd=file.parent)
    with fails(errno.EPERM):
        user.do(f"os.chown('file', -1, {STRANGE})")


def test_in_a_sticky_directory_only_the_owner_removes(file: Path, processes: Start) -> None:
    file.parent.chmod(0o1777)
    user = processes(user=USER, cwd=file.parent)
    with fails(errno.EPERM):
        user.do("os.unlink('file')")


# Special files


def test_a_fifo_passes_data_from_one_process_to_another(tree: Path, processes: Start) -> None:
    os.mkfifo(tree / "fifo")
    writer, reader = processes(cwd=tree), processes(cwd=tree)
    reader.begin("open('fifo').read()")
    writer.do("open('fifo', 'w').write('through the fifo')")
    assert reader.result() == "through the fifo"


def test_a_unix_socket_is_bound_and_found(tree: Path, processes: Start) -> None:
    server, client = processes(cwd=tree), processes(cwd=tree)
    server.do("listening = socket.socket(socket.AF_UNIX); listening.bind('sock'); listening.listen()")
    client.do("connected = socket.socket(socket.AF_UNIX); connected.connect('sock'); connected.sendall(b'hello')")
    assert server.do("listening.accept()[0].recv(5).decode()") == "hello"


@pytest.mark.parametrize(
    ("kind", "numbers"), [(stat.S_IFCHR, (1, 3)), (stat.S_IFCHR, (300, 70_000)), (stat.S_IFBLK, (7, 200))]
)
def test_a_device_node_keeps_its_numbers(tree: Path, source: Path, kind: int, numbers: tuple[int, int]) -> None:
    os.mknod(tree / "node", kind | 0o600, os.makedev(*numbers))
    for side in (tree, source):
        found = (side / "node").stat()
        assert (stat.S_IFMT(found.st_mode), os.major(found.st_rdev), os.minor(found.st_rdev)) == (kind, *numbers)
