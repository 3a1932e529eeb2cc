"""Who may mount what, and with which options: decided on real descriptors of real files."""

import errno
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from perfused import libc, policy
from perfused.config import Policy
from perfused.kernel import MountError
from perfused.policy import Client, Wanted

ROOT = os.geteuid() == 0
USER = 12345 if ROOT else os.getuid()
ME, OTHER, SUPERUSER = Client(USER, USER, 1), Client(USER + 1, USER + 1, 1), Client(0, 0, 1)
PLAIN = Wanted("fuse", "", {}, ())


class Target:
    """A file or directory of USER's, held by an O_PATH descriptor."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if ROOT:
            os.chown(path, USER, USER, follow_symlinks=False)
        self.fd = os.open(path, os.O_PATH | os.O_NOFOLLOW)
        #: a policy under which the filesystem it is on does not matter
        self.anywhere = Policy(mount_over=[libc.filesystem_type(self.fd)])


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Target]:
    made = Target(tmp_path)
    yield made
    os.close(made.fd)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Target]:
    (tmp_path / "file").touch()
    made = Target(tmp_path / "file")
    yield made
    os.close(made.fd)


def refusal(target: Target, client: Client = ME, wanted: Wanted = PLAIN, flags: int = 0, mine: int = 0) -> MountError:
    return refused(target.anywhere, target.fd, client, wanted, flags, mine)


def refused(
    rules: Policy, fd: int, client: Client = ME, wanted: Wanted = PLAIN, flags: int = 0, mine: int = 0
) -> MountError:
    with pytest.raises(MountError) as caught:
        policy.allow(rules, client, wanted, fd, flags, mine)
    return caught.value


# -- who may mount -----------------------------------------------------------------------------------------------------


def test_the_owner_of_a_directory_may_mount_on_it(directory: Target) -> None:
    policy.allow(directory.anywhere, ME, PLAIN, directory.fd, 0, 0)


def test_the_owner_of_a_file_may_mount_on_it(file: Target) -> None:
    policy.allow(file.anywhere, ME, PLAIN, file.fd, 0, 0)


def test_another_user_may_not(directory: Target) -> None:
    found = refusal(directory, OTHER)
    assert (found.errno, found.strerror) == (errno.EPERM, f"the target belongs to uid {USER}, not to {USER + 1}")


def test_a_target_its_owner_may_not_write_is_refused(directory: Target) -> None:
    directory.path.chmod(0o577)
    found = refusal(directory)
    assert (found.errno, found.strerror) == (errno.EACCES, "the target is not writable by its owner")


def test_a_target_its_owner_may_not_write_can_be_mounted_on_read_only(directory: Target) -> None:
    directory.path.chmod(0o500)
    policy.allow(directory.anywhere, ME, PLAIN, directory.fd, libc.MS_RDONLY, 0)


@pytest.mark.parametrize("client", [ME, SUPERUSER])
def test_a_symbolic_link_is_no_target_for_anybody(tmp_path: Path, client: Client) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    target = Target(tmp_path / "link")
    assert refusal(target, client).errno == errno.ENOTDIR
    os.close(target.fd)


@pytest.mark.parametrize("client", [ME, SUPERUSER])
def test_a_fifo_is_no_target_for_anybody(tmp_path: Path, client: Client) -> None:
    os.mkfifo(tmp_path / "fifo")
    target = Target(tmp_path / "fifo")
    found = refusal(target, client)
    assert (found.errno, found.strerror) == (errno.ENOTDIR, "the target is neither a directory nor a regular file")
    os.close(target.fd)


def test_users_may_not_mount_where_the_policy_says_so(directory: Target) -> None:
    found = refused(Policy(user_mounts=False), directory.fd)
    assert (found.errno, found.strerror) == (errno.EPERM, "policy.user_mounts is off: only root may mount")


def test_a_user_may_have_so_many_mounts(directory: Target) -> None:
    rules = Policy(mounts_per_user=2, mount_over=directory.anywhere.mount_over)
    policy.allow(rules, ME, PLAIN, directory.fd, 0, 1)
    found = refused(rules, directory.fd, mine=2)
    assert (found.errno, found.strerror) == (errno.EMFILE, f"uid {USER} has 2 mounts: policy.mounts_per_user is 2")


def test_fuseblk_is_roots_alone(directory: Target) -> None:
    found = refusal(directory, wanted=PLAIN._replace(kind="fuseblk"))
    assert (found.errno, found.strerror) == (errno.EPERM, "fuseblk takes a block device: only root may mount it")


def test_allow_other_needs_the_policys_leave(directory: Target) -> None:
    found = refusal(directory, wanted=PLAIN._replace(switches=("allow_other",)))
    assert (found.errno, found.strerror) == (
        errno.EPERM,
        f"option allow_other: policy.allow_other does not name uid {USER}",
    )


def test_allow_other_is_granted_to_whom_the_policy_names(directory: Target) -> None:
    rules = Policy(allow_other=[str(USER)], mount_over=directory.anywhere.mount_over)
    policy.allow(rules, ME, PLAIN._replace(switches=("allow_other",)), directory.fd, 0, 0)


@pytest.fixture
def proc() -> Iterator[int]:
    """A directory of USER's on a filesystem that nobody should mount over: /proc of a process of theirs."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, user=USER) as waiting:
        fd = os.open(f"/proc/{waiting.pid}", os.O_PATH)
        yield fd
        os.close(fd)
        waiting.communicate()


def test_a_filesystem_users_do_not_mount_over_is_refused(proc: int) -> None:
    found = refused(Policy(), proc, flags=libc.MS_RDONLY)
    sentence = "the target's filesystem (type 0x9fa0) is not one that users mount over"
    assert (found.errno, found.strerror) == (errno.EPERM, sentence)


def test_the_policy_may_name_more_filesystems(proc: int) -> None:
    policy.allow(Policy(mount_over=[0x9FA0]), ME, PLAIN, proc, libc.MS_RDONLY, 0)


def test_root_may_mount_anything(file: Target) -> None:
    file.path.chmod(0)
    wanted = Wanted("fuseblk", "", {}, ("allow_other",))
    policy.allow(Policy(user_mounts=False, mounts_per_user=0), SUPERUSER, wanted, file.fd, 0, 1000)


@pytest.mark.parametrize(
    ("named", "uid", "allowed"),
    [
        ([], 7, False), (["*"], 7, True), (["7"], 7, True), (["8", "7"], 7, True), (["70"], 7, False),
        (["root"], 0, True), (["root"], 7, False), (["nobody-of-that-name"], 7, False),
        (["nobody-of-that-name", "7"], 7, True),
    ],
)  # fmt: skip
def test_users_are_named_by_name_or_number_or_all_at_once(named: list[str], uid: int, allowed: bool) -> None:
    assert policy.others_allowed(Policy(allow_other=named), uid) is allowed


# -- what they may ask for ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fstype", "kind", "subtype"),
    [
        (b"", "fuse", ""), (b"fuse", "fuse", ""), (b"fuse.sshfs", "fuse", "sshfs"), (b"fuseblk", "fuseblk", ""),
        (b"fuseblk.ntfs-3g", "fuseblk", "ntfs-3g"), (b"perfuse|glusterfs", "fuse", "glusterfs"),
        (b"fuse.a.b", "fuse", "a.b"),
    ],
)  # fmt: skip
def test_the_type_gives_kind_and_subtype(fstype: bytes, kind: str, subtype: str) -> None:
    assert policy.read_options(fstype, b"", 0) == Wanted(kind, subtype, {}, ())


@pytest.mark.parametrize(
    "fstype", [b"ext4", b"fuse ", b"fuse.", b"fusectl", b"FUSE", b"perfuse", b"perfuse|", b"fuse\n", b"\xff", b"xfuse"]
)
def test_another_type_is_answered_enodev(fstype: bytes) -> None:
    with pytest.raises(MountError) as caught:
        policy.read_options(fstype, b"", 0)
    assert caught.value.errno == errno.ENODEV


def test_options_are_read_in_any_order_and_empty_ones_skipped() -> None:
    data = b",fd=3,,default_permissions,rootmode=40755,user_id=0,group_id=7,max_read=4096,allow_other,subtype=x,"
    numbers = {"fd": 3, "rootmode": 0o40755, "user_id": 0, "group_id": 7, "max_read": 4096}
    assert policy.read_options(b"fuse", data, 0) == Wanted("fuse", "x", numbers, ("default_permissions", "allow_other"))


def test_of_two_numbers_the_later_counts_as_in_the_kernel() -> None:
    assert policy.read_options(b"fuse", b"fd=3,fd=4", 0).numbers == {"fd": 4}


def test_a_switch_given_twice_is_on_once() -> None:
    assert policy.read_options(b"fuse", b"allow_other,allow_other", 0).switches == ("allow_other",)


def test_a_subtype_option_overrides_the_types() -> None:
    assert policy.read_options(b"fuse.a", b"subtype=b", 0).subtype == "b"


def test_blksize_is_for_fuseblk() -> None:
    assert policy.read_options(b"fuseblk", b"blksize=512", 0).numbers == {"blksize": 512}


BAD_OPTIONS = {
    "unknown": (b"nosuchthing", "'nosuchthing'"), "unknown with a value": (b"context=x", "'context=x'"),
    "a switch with a value": (b"allow_other=1", "'allow_other=1'"), "no subtype": (b"subtype", "'subtype'"),
    "a number without a value": (b"fd", "option fd="), "an empty number": (b"fd=", "option fd="),
    "a negative number": (b"fd=-1", "option fd='-1'"), "hexadecimal": (b"fd=0x3", "option fd='0x3'"),
    "a fraction": (b"fd=3.0", "option fd='3.0'"), "a space": (b"fd= 3", "option fd=' 3'"),
    "an underscore": (b"fd=1_0", "option fd='1_0'"), "a digit of another script": ("fd=٣".encode(), "option fd='٣'"),
    "no octal number": (b"rootmode=40788", "option rootmode='40788': an octal"),
    "a number past its limit": (b"user_id=4294967295", "option user_id=4294967295: at most 4294967294"),
    "a mode past its limit": (b"rootmode=200000", "option rootmode=200000: at most 65535"),
    "an absurd number": (b"max_read=" + b"9" * 4000, "option max_read='" + "9" * 40 + "...'"),
    "an absurd word": (b"x" * 4000, "option '" + "x" * 40 + "...'"), "no UTF-8": (b"\xff\xfe", "'\\udcff\\udcfe'"),
    "blksize of fuse": (b"blksize=512", "option blksize: only fuseblk has it"),
    "a subtype with a slash": (b"subtype=a/b", "subtype 'a/b'"), "a subtype with a space": (b"subtype=a b", "subtype"),
    "a long subtype": (b"subtype=" + b"x" * 57, "subtype"), "a subtype with a newline": (b"subtype=a\n", "subtype"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "named"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_an_option_that_makes_no_sense_is_answered_einval_and_named(data: bytes, named: str) -> None:
    with pytest.raises(MountError) as caught:
        policy.read_options(b"fuse", b"fd=3," + data, 0)
    assert caught.value.errno == errno.EINVAL
    assert named in (caught.value.strerror or "")


@pytest.mark.parametrize(
    "flags", [0, libc.MS_RDONLY | libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC, libc.MS_SILENT, 0xC0ED_0001]
)
def test_flags_of_a_new_mount_are_taken(flags: int) -> None:
    assert policy.read_options(b"fuse", b"", flags) == PLAIN


@pytest.mark.parametrize("flags", [libc.MS_BIND, 32, libc.MS_REC, libc.MS_PRIVATE, 1 << 30, 0xC0ED_0000 | libc.MS_BIND])
def test_flags_of_anything_else_are_answered_einval(flags: int) -> None:
    with pytest.raises(MountError, match="make no sense for a new mount") as caught:
        policy.read_options(b"fuse", b"", flags)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("kind", "rootmode", "refused"),
    [("directory", 0o40000, False), ("directory", 0o100000, True), ("file", 0o100644, False), ("file", 0o40755, True)]
    + [("directory", 0, False)],
)
def test_a_root_of_another_kind_than_the_target_is_refused(
    request: pytest.FixtureRequest, kind: str, rootmode: int, refused: bool
) -> None:
    target: Target = request.getfixturevalue(kind)
    wanted = Wanted("fuse", "x", {"fd": 9, "rootmode": rootmode}, ())
    if not refused:
        policy.allow(Policy(), SUPERUSER, wanted, target.fd, 0, 0)
        return
    with pytest.raises(MountError, match=f"rootmode={rootmode:o}") as caught:
        policy.allow(Policy(), SUPERUSER, wanted, target.fd, 0, 0)
    assert caught.value.errno == errno.ENOTDIR


# -- what the kernel is told -------------------------------------------------------------------------------------------

ASKED = Wanted("fuse", "x", {"fd": 9, "rootmode": 0, "user_id": 1, "group_id": 2, "max_read": 4096}, ("allow_other",))


def told(client: Client, target: Target, wanted: Wanted = ASKED, flags: int = 0) -> dict[bytes, bytes]:
    return dict(policy.settle_options(client, wanted, target.fd, b"src", flags).strings)


def test_a_user_gets_their_own_ids_whatever_they_asked_for(directory: Target) -> None:
    found = told(ME, directory)
    assert (found[b"user_id"], found[b"group_id"]) == (b"%d" % USER, b"%d" % USER)


def test_root_gets_the_ids_asked_for(directory: Target) -> None:
    found = told(SUPERUSER, directory)
    assert (found[b"user_id"], found[b"group_id"]) == (b"1", b"2")


def test_root_gets_their_own_ids_where_none_were_asked_for(directory: Target) -> None:
    found = told(SUPERUSER, directory, PLAIN)
    assert (found[b"user_id"], found[b"group_id"]) == (b"0", b"0")


@pytest.mark.parametrize("flags", [0, libc.MS_NOEXEC])
def test_a_user_gets_nosuid_and_nodev(directory: Target, flags: int) -> None:
    found = policy.settle_options(ME, ASKED, directory.fd, b"", flags)
    assert found.flags == flags | libc.MS_NOSUID | libc.MS_NODEV


def test_root_gets_the_flags_asked_for(directory: Target) -> None:
    assert policy.settle_options(SUPERUSER, ASKED, directory.fd, b"", libc.MS_NOEXEC).flags == libc.MS_NOEXEC


@pytest.mark.parametrize(("kind", "mode"), [("directory", b"40000"), ("file", b"100000")])
def test_the_root_has_the_kind_of_the_target(request: pytest.FixtureRequest, kind: str, mode: bytes) -> None:
    target: Target = request.getfixturevalue(kind)
    assert told(ME, target)[b"rootmode"] == mode
    assert stat.S_IFMT(os.fstat(target.fd).st_mode) == int(mode, 8)


def test_the_descriptor_is_left_for_the_daemon_to_fill_in(directory: Target) -> None:
    assert told(SUPERUSER, directory)[b"fd"] == b""


def test_other_options_are_as_asked_for(directory: Target) -> None:
    found = policy.settle_options(ME, ASKED, directory.fd, b"src", 0)
    assert (found.kind, found.source, found.switches) == (b"fuse", b"src", (b"allow_other",))
    assert dict(found.strings)[b"max_read"] == b"4096"
    assert dict(found.strings)[b"subtype"] == b"x"


@pytest.mark.parametrize(("wanted", "source"), [(ASKED, b"x"), (PLAIN, b"perfused")])
def test_a_mount_without_a_source_is_called_by_its_subtype(directory: Target, wanted: Wanted, source: bytes) -> None:
    assert policy.settle_options(ME, wanted, directory.fd, b"", 0).source == source
