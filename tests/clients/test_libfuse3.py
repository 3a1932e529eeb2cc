"""Programs on libfuse 3.14, which opens the device and calls mount(2) itself, and reads up to 1 MiB with splice(2)."""

import os
import shutil
from pathlib import Path

import pytest

from tests.clients import workload
from tests.clients.harness import Case, client, listening

API = "libfuse 3.14"
SFTP = "/usr/lib/openssh/sftp-server"
PORT = 12022


@client("sshfs, passive", "sshfs", needs="sshfs", api=API, endpoints=("auto", "socket", "device"), eof=1)
def test_sshfs_with_a_server_on_its_standard_streams(case: Case) -> None:
    source = case.directory("source")
    (source / "a").write_bytes(workload.noise(500_000))
    # sftp-server and sshfs each have the other's output as input.
    wire = case.place / "wire"
    os.mkfifo(wire)
    script = f'exec < <(exec {SFTP} < {wire}) > {wire}; exec sshfs -f -o passive ":$0" "$1"'
    program = case.start("bash", "-c", script, source, case.target)
    workload.reads(case.target, {"a": workload.noise(500_000)})
    workload.tree(case.target, without={"rename-over", "link"})
    workload.big_file(case.target / "big")
    case.unmounted(program)


@pytest.fixture
def sshd(case: Case) -> Path:
    """A server on the loopback that takes one key, which is the file."""
    place = case.directory("ssh")
    for key in ("host", "user"):
        case.call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place / key)
    lines = (
        f"Port {PORT}", "ListenAddress 127.0.0.1", f"HostKey {place}/host", "PidFile none",
        f"AuthorizedKeysFile {place}/user.pub", "PermitRootLogin prohibit-password", "PasswordAuthentication no",
        "StrictModes no", "UsePAM no", f"Subsystem sftp {SFTP}",
    )  # fmt: skip
    config = case.file("ssh/config", "\n".join(lines) + "\n")
    Path("/run/sshd").mkdir(exist_ok=True)
    case.service("/usr/sbin/sshd", "-D", "-e", "-f", config, ready=lambda: listening(PORT))
    return place / "user"


@client("sshfs, over ssh", "sshfs", needs="sshfs", api=API)
def test_sshfs_over_ssh(case: Case, sshd: Path) -> None:
    source = case.directory("source")
    (source / "a").write_bytes(workload.noise(500_000))
    options = f"IdentityFile={sshd},StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null"
    program = case.start("sshfs", "-f", "-p", PORT, "-o", options, f"root@127.0.0.1:{source}", case.target)
    workload.reads(case.target, {"a": workload.noise(500_000)})
    workload.tree(case.target, without={"rename-over", "link"})
    workload.big_file(case.target / "big")
    case.unmounted(program)


def squashed(case: Case) -> tuple[Path, dict[str, bytes]]:
    """An image, and what is in it."""
    content = {"a": b"small", "big": workload.noise(3_000_000), "dir/inner": b"text " * 100_000}
    source = case.directory("source")
    (source / "dir").mkdir()
    for name, data in content.items():
        (source / name).write_bytes(data)
    (source / "link").symlink_to("dir/inner")
    image = case.place / "image"
    case.call("mksquashfs", source, image, "-noappend", "-quiet", "-no-progress")
    return image, content


@pytest.mark.parametrize("name", ["squashfuse", "squashfuse_ll"])
@client("squashfuse", "squashfuse", api=API)
def test_squashfuse_shows_an_image(case: Case, name: str) -> None:
    case.record["program"] = name
    image, content = squashed(case)
    program = case.start(name, "-f", image, case.target)
    workload.reads(case.target, content)
    assert os.readlink(case.target / "link") == "dir/inner"
    assert (case.target / "link").read_bytes() == content["dir/inner"]
    with pytest.raises(OSError):
        (case.target / "new").write_bytes(b"")
    case.unmounted(program)


@client("fuse-overlayfs", "fuse-overlayfs", api=API, endpoints=("auto", "socket", "device"), eof=1)
def test_fuse_overlayfs_writes_above_what_is_below(case: Case) -> None:
    lower, upper, work = (case.directory(name) for name in ("lower", "upper", "work"))
    (lower / "below").write_bytes(b"below")
    (lower / "removed").write_bytes(b"below")
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    program = case.start("fuse-overlayfs", "-f", "-o", options, case.target)
    with open(case.target / "below", "ab") as file:
        file.write(b", changed")
    (case.target / "removed").unlink()
    workload.reads(case.target, {"below": b"below, changed"})
    assert not (case.target / "removed").exists()
    assert (upper / "below").read_bytes() == b"below, changed"
    assert (lower / "below").read_bytes() == b"below"
    assert (lower / "removed").exists()
    workload.tree(case.target)
    workload.big_file(case.target / "big")
    case.unmounted(program)


@client("nbdfuse", "libnbd-bin", needs="nbdfuse", api=API)
def test_nbdfuse_makes_a_network_disk_a_file(case: Case) -> None:
    if not shutil.which("nbdkit"):
        pytest.skip("package nbdkit is not installed: make clients installs it")
    wire, file = case.place / "nbd", case.file("disk")
    case.service("nbdkit", "-f", "-U", wire, "memory", "32M", ready=wire.exists)
    program = case.start("nbdfuse", file, "--unix", wire, target=file)
    assert file.stat().st_size == 32 << 20
    data = case.file("data", workload.noise(16 << 20))
    case.call("dd", f"if={data}", f"of={file}", "bs=1M", "seek=4", "conv=notrunc,fsync", "status=none")
    case.call("cmp", "-n", 16 << 20, "-i", f"{4 << 20}:0", file, data)
    case.unmounted(program, target=file)


@client("lxcfs", "lxcfs", api=API)
def test_lxcfs_shows_a_container_its_own_proc(case: Case) -> None:
    program = case.start("lxcfs", "-f", "-p", case.place / "pid", case.target)
    assert (case.target / "proc" / "meminfo").read_text().startswith("MemTotal:")
    assert "processor" in (case.target / "proc" / "cpuinfo").read_text()
    assert float((case.target / "proc" / "uptime").read_text().split()[0]) >= 0
    case.unmounted(program)
