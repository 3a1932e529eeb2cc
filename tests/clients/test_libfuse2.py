"""Programs on libfuse 2.9, which opens the device and calls mount(2) itself, and reads at most 132 KiB."""

import errno
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients import workload
from tests.clients.harness import Case, client
from tests.kernel.conftest import eventually

API = "libfuse 2.9"


@client("bindfs", "bindfs", api=API, endpoints=("auto", "socket", "device"), eof=1)
def test_bindfs_shows_a_directory_a_second_time(case: Case) -> None:
    source = case.directory("source")
    program = case.start("bindfs", "-f", source, case.target)
    (case.target / "through").write_bytes(b"the mount")
    assert (source / "through").read_bytes() == b"the mount"
    (source / "behind").write_bytes(b"its back")
    workload.reads(case.target, {"behind": b"its back"})
    workload.tree(case.target)
    workload.big_file(case.target / "big")
    case.unmounted(program)


@client("bindfs, a daemon", "bindfs", needs="bindfs", api=API)
def test_bindfs_as_a_daemon_ends_with_its_mount(case: Case) -> None:
    source = case.directory("source")
    program = case.start("bindfs", source, case.target)
    workload.tree(case.target)
    assert not list(source.iterdir())
    case.unmounted(program)


@client("unionfs-fuse", "unionfs-fuse", needs="unionfs", api=API)
def test_unionfs_copies_up_what_is_written_to(case: Case) -> None:
    upper, lower = case.directory("upper"), case.directory("lower")
    (upper / "above").write_bytes(b"above")
    (lower / "below").write_bytes(b"below")
    program = case.start("unionfs", "-f", "-o", "cow", f"{upper}=RW:{lower}=RO", case.target)
    workload.reads(case.target, {"above": b"above", "below": b"below"})
    with open(case.target / "below", "ab") as file:
        file.write(b", changed")
    assert (upper / "below").read_bytes() == b"below, changed"
    assert (lower / "below").read_bytes() == b"below"
    workload.tree(case.target)
    workload.big_file(case.target / "big")
    case.unmounted(program)


@client("archivemount", "archivemount", api=API)
def test_archivemount_writes_the_archive_anew_when_it_is_unmounted(case: Case) -> None:
    packed = {"a": workload.noise(300_000), "b": b"small"}
    source, archive = case.directory("source"), case.place / "it.tar.gz"
    for name, data in packed.items():
        (source / name).write_bytes(data)
    with tarfile.open(archive, "w:gz") as made:
        made.add(source, "top")
    program = case.start("archivemount", "-f", archive, case.target)
    workload.reads(case.target / "top", packed)
    (case.target / "top" / "a").rename(case.target / "top" / "renamed")
    (case.target / "new").write_bytes(b"new")
    case.unmounted(program)
    with tarfile.open(archive) as made:
        names = {each.name.removeprefix("./").strip("/") for each in made}
        assert names >= {"top/renamed", "top/b", "new"}
        assert "top/a" not in names


@client("encfs", "encfs", api=API, limit=40)
def test_encfs_keeps_only_ciphertext(case: Case) -> None:
    secret = case.directory("secret")
    program = case.start("encfs", "-f", "--standard", "--stdinpass", secret, case.target, given=b"password\n")
    (case.target / "plain name").write_bytes(b"plain text" * 1000)
    (stored,) = [each for each in secret.iterdir() if not each.name.startswith(".")]
    assert stored.name != "plain name"
    assert b"plain text" not in stored.read_bytes()
    workload.reads(case.target, {"plain name": b"plain text" * 1000})
    workload.tree(case.target, without={"link"})
    workload.big_file(case.target / "big")
    case.unmounted(program)


@client("fuse2fs", "fuse2fs", api=API)
def test_fuse2fs_serves_an_image_that_is_clean_afterwards(case: Case) -> None:
    image = case.file("image", size=64 << 20)
    case.call("mkfs.ext4", "-q", "-F", image)
    # With more threads a file may be unlinked before its RELEASE is seen, and fuse2fs then keeps it, hidden.
    program = case.start("fuse2fs", "-f", "-s", "-o", "fakeroot", image, case.target)
    workload.tree(case.target)
    workload.big_file(case.target / "big")
    (case.target / "kept").write_bytes(workload.noise(100_000))
    case.unmounted(program)
    case.call("e2fsck", "-f", "-n", image)
    assert "kept" in case.call("debugfs", "-R", "ls -l /", image)


@pytest.fixture
def loop_device(tmp_path: Path) -> Iterator[Path]:
    """A block device of 64 MiB, of this test's own."""
    image = tmp_path / "image"
    with open(image, "wb") as file:
        file.truncate(64 << 20)
    done = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no loop device: {done.stderr.strip()}")
    device = done.stdout.strip()
    yield Path(device)
    eventually(
        lambda: subprocess.run(["losetup", "--detach", device], capture_output=True, check=False).returncode == 0,
        f"{device} can be detached",
    )


@client("exfat-fuse", "exfat-fuse", needs="mount.exfat-fuse", api=API)
def test_exfat_fuse_serves_a_block_device(case: Case, loop_device: Path) -> None:
    case.call("mkfs.exfat", loop_device)
    program = case.start("mount.exfat-fuse", "-d", loop_device, case.target)
    assert "fuseblk" in Path("/proc/self/mounts").read_text()
    workload.tree(case.target, without={"link", "symlink", "chmod", "utime"})
    with pytest.raises(OSError) as caught:
        os.symlink("a", case.target / "symbolic")
    assert caught.value.errno in (errno.EPERM, errno.ENOSYS)
    workload.big_file(case.target / "big")
    (case.target / "kept").write_bytes(workload.noise(100_000))
    case.unmounted(program)
    case.call("fsck.exfat", "-n", loop_device)
