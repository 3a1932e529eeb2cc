"""Programs with their own code for the kernel's side: copies of an old libfuse, and one written from nothing."""

import pytest

from tests.clients import workload
from tests.clients.harness import VENV, Case, client, listening

DAV_PORT = 12080


@pytest.mark.parametrize("name", ["ntfs-3g", "lowntfs-3g"])
@client("ntfs-3g", "ntfs-3g", api="libfuse-lite")
def test_ntfs_3g_keeps_files_in_an_image(case: Case, name: str) -> None:
    case.record["program"] = name
    image = case.file("image", size=64 << 20)
    case.call("mkntfs", "-F", "-q", image)
    program = case.start(name, "-o", "no_detach", image, case.target)
    workload.tree(case.target, without={"chmod"})
    workload.big_file(case.target / "big")
    (case.target / "kept").write_bytes(workload.noise(100_000))
    case.unmounted(program)
    assert case.call("ntfscat", image, "kept", text=False) == workload.noise(100_000)


@client("ntfs-3g, a daemon", "ntfs-3g", needs="ntfs-3g", api="libfuse-lite")
def test_ntfs_3g_as_a_daemon_writes_all_before_it_ends(case: Case) -> None:
    image = case.file("image", size=64 << 20)
    case.call("mkntfs", "-F", "-q", image)
    program = case.start("ntfs-3g", image, case.target)
    (case.target / "kept").write_bytes(workload.noise(100_000))
    case.unmounted(program)
    case.gone()
    assert case.call("ntfscat", image, "kept", text=False) == workload.noise(100_000)


@client("mergerfs", "mergerfs", api="its own fork of libfuse", endpoints=("auto", "socket", "device"), eof=1)
def test_mergerfs_shows_two_directories_as_one(case: Case) -> None:
    first, second = case.directory("first"), case.directory("second")
    (first / "one").write_bytes(b"one")
    (second / "two").write_bytes(b"two")
    program = case.start("mergerfs", "-f", f"{first}:{second}", case.target)
    workload.reads(case.target, {"one": b"one", "two": b"two"})
    (case.target / "two").write_bytes(b"changed")
    assert (second / "two").read_bytes() == b"changed"
    workload.tree(case.target)
    workload.big_file(case.target / "big")
    case.unmounted(program)


@client("davfs2", "davfs2", needs="mount.davfs", api="its own, 7.5", device="open without blocking, mount(2)", limit=45)
def test_davfs2_speaks_the_oldest_minor_there_is(case: Case) -> None:
    if not (VENV / "bin" / "wsgidav").exists():
        pytest.skip("wheel wsgidav is not installed: make clients installs it")
    source = case.directory("source")
    (source / "a").write_bytes(workload.noise(300_000))
    case.service(
        VENV / "bin" / "wsgidav", "--host", "127.0.0.1", "--port", DAV_PORT, "--root", source, "--auth", "anonymous",
        "--server", "cheroot", "-q", ready=lambda: listening(DAV_PORT),
    )  # fmt: skip
    cache = case.directory("cache")
    cache.chmod(0o1777)  # the program becomes the user davfs2
    config = case.file("davfs2.conf", f"ask_auth 0\nuse_locks 0\ndelay_upload 0\ncache_dir {cache}\n")
    options = f"conf={config},uid=0"
    program = case.start("mount", "-t", "davfs", "-o", options, f"http://127.0.0.1:{DAV_PORT}/", case.target)
    assert (case.target / "a").read_bytes() == workload.noise(300_000)
    (case.target / "new").write_bytes(b"new")
    assert (case.target / "new").read_bytes() == b"new"
    case.ended(program)
    case.unmount()
    case.gone()
    assert (source / "new").read_bytes() == b"new"
