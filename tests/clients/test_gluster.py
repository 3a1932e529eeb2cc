"""GlusterFS' client, which speaks the kernel's protocol itself: without a server, on one brick, on three."""

import json
import os
import pwd
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.clients import workload, workload_posix
from tests.clients.gluster import LAYERS, PROGRAMS, Glusterd, digests, volfile
from tests.clients.harness import SOON, Case, client
from tests.clients.network import Network, lacking
from tests.kernel.conftest import Daemon, eventually, fuse_mounts
from wire import codec
from wire.init_policy import InitFlag
from wire.opcodes import Notify, Opcode

API = "GlusterFS 10"
NOBODY = 65534
#: its exit code in the foreground: it sends itself SIGTERM when it finds its mount gone
ENDED = 15


@pytest.fixture(scope="module")
def network(namespace: None) -> Iterator[Network]:
    """A network with glusterd and the clients in it."""
    if reason := lacking(PROGRAMS):
        pytest.skip(reason)
    made = Network()
    yield made
    made.close()


@pytest.fixture(scope="module")
def running(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Glusterd]:
    """glusterd with a volume on one brick and a replica on three."""
    made = Glusterd(tmp_path_factory.mktemp("glusterd"), network)
    try:
        made.create("one")
        made.create("three", 3, cluster_heal__timeout="5")
        yield made
    finally:
        made.stop()


@pytest.fixture
def glusterd(running: Glusterd, evidence: dict[str, Callable[[], str]]) -> Glusterd:
    """The same; its log is shown when a test fails."""
    evidence["logs of glusterd"] = running.log
    return running


def everything(root: Path, unlinked: bool = True) -> None:
    """All that is asked of a filesystem, locks apart: without a server features/locks grants every one of them."""
    workload.tree(root)
    workload_posix.attributes(root)
    if unlinked:
        workload_posix.unlinked_while_open(root)
    workload_posix.parallel(root)
    workload.big_file(root / "big", 64 << 20)


def without_server(case: Case, *layers: str, options: tuple[str, ...] = ()) -> tuple[Path, tuple[str | Path, ...]]:
    """A volume without a server: the directory behind it, and the command that mounts it, in the foreground."""
    brick = case.directory("brick")
    (case.place / "volume").write_text(volfile(brick, *layers))
    return brick, ("glusterfs", "-N", "-f", case.place / "volume", "-l", case.log_path, *options, case.target)


def of_volume(case: Case, glusterd: Glusterd, volume: str, *options: str) -> list[str]:
    """The command that mounts a volume of glusterd's."""
    return glusterd.network.command(
        "glusterfs", "-s", glusterd.host, f"--volfile-id={volume}", "-l", case.log_path, *options, case.target
    )


class Dumped(NamedTuple):
    """One record of --dump-fuse: a frame as the client has read or written it."""

    written: bool
    frame: bytes


def dumped(file: Path) -> list[Dumped]:
    """A file of --dump-fuse: 'R' or 'W', the number of parts, and those; the third is the frame.

    Each part begins with its own length, as a frame does.
    """
    data, at, found = file.read_bytes(), 0, []
    while at < len(data):
        direction, count = struct.unpack_from("<cI", data, at)
        at += 5
        parts = []
        for _ in range(count):
            (length,) = struct.unpack_from("<I", data, at)
            parts.append(data[at : at + length])
            at += length
        assert count == 3
        assert parts[1].endswith(b"GLUSTER\xf5")
        found.append(Dumped(direction == b"W", parts[2]))
    assert at == len(data)
    return found


def init_reply(frames: list[Dumped]) -> codec.InitOut:
    """What the client answered to INIT, its first frame."""
    first = next(each.frame for each in frames if each.written)
    return codec.init_out.unpack_from(first.ljust(codec.out_header.size + codec.init_out.size, b"\0"), 16)


def notifications(frames: list[Dumped]) -> Counter[str]:
    """How many notifications of each kind the client has sent."""
    heads = [codec.out_header.unpack_from(each.frame) for each in frames if each.written]
    return Counter(Notify(head.error).name for head in heads if head.unique == 0)


@client("glusterfs, storage only", "glusterfs-client", needs="glusterfs", api=API)
def test_glusterfs_serves_a_directory_without_a_server(case: Case) -> None:
    brick, command = without_server(case)
    program = case.start(*command)
    (case.target / "through").write_bytes(b"the mount")
    assert (brick / "through").read_bytes() == b"the mount"
    workload.tree(case.target)
    workload_posix.attributes(case.target)
    workload_posix.unlinked_while_open(case.target)
    workload.big_file(case.target / "big", 64 << 20)
    case.unmounted(program, ENDED)


@client("glusterfs, all layers", "glusterfs-client", needs="glusterfs", api=API)
def test_glusterfs_with_locks_caches_and_threads(case: Case) -> None:
    _, command = without_server(case, *LAYERS, options=("--reader-thread-count=4",))
    program = case.start(*command)
    everything(case.target)
    case.unmounted(program, ENDED)


@client("glusterfs, writeback cache", "glusterfs-client", needs="glusterfs", api=API)
def test_glusterfs_lets_the_kernel_cache_what_is_written(case: Case) -> None:
    dump = case.place / "dump"
    options = ("--kernel-writeback-cache=on", f"--dump-fuse={dump}")
    _, command = without_server(case, "locks", "write-behind", options=options)
    program = case.start(*command)
    # Data that the kernel still has comes with a SETATTR of the time, which it refuses where the name is gone.
    everything(case.target, unlinked=False)
    case.unmounted(program, ENDED)
    assert init_reply(dumped(dump)).flags & InitFlag.WRITEBACK_CACHE


@client("glusterfs, dump", "glusterfs-client", needs="glusterfs", api=API)
def test_the_frames_that_glusterfs_dumps_are_a_conversation(case: Case) -> None:
    dump = case.place / "dump"
    _, command = without_server(case, options=(f"--dump-fuse={dump}",))
    program = case.start(*command)
    workload.tree(case.target)
    case.unmounted(program, ENDED)
    asked: dict[int, int] = {}
    for each in dumped(dump):
        if each.written:
            head = codec.out_header.unpack_from(each.frame)
            assert head.len == len(each.frame)
            assert asked.pop(head.unique, None) is not None, f"a reply to nothing: {head}"
        else:
            request = codec.in_header.unpack_from(each.frame)
            assert request.len == len(each.frame)
            if request.opcode not in (Opcode.FORGET, Opcode.BATCH_FORGET):
                asked[request.unique] = request.opcode
    assert set(asked.values()) <= {Opcode.DESTROY}


@client("glusterfs, few inodes", "glusterfs-client", needs="glusterfs", api=API)
def test_glusterfs_has_the_kernel_forget_what_is_over_its_limit(case: Case) -> None:
    dump = case.place / "dump"
    _, command = without_server(case, options=("--lru-limit=16", f"--dump-fuse={dump}"))
    program = case.start(*command)
    names = [f"file{number}" for number in range(200)]
    for name in names:
        (case.target / name).write_bytes(name.encode())
    eventually(lambda: notifications(dumped_so_far(dump))["INVAL_ENTRY"] > 0, "an entry is invalidated")
    for name in names:
        assert (case.target / name).read_bytes() == name.encode()
    case.unmounted(program, ENDED)
    sent = notifications(dumped(dump))
    assert sent["INVAL_ENTRY"] > 0
    if case.daemon is not None and case.record["endpoint"] != "direct":
        assert 0 < case.record["notifications"] <= sent.total()


def dumped_so_far(file: Path) -> list[Dumped]:
    """What a dump that is being written holds; nothing while its last record is in the making."""
    try:
        return dumped(file)
    except (struct.error, IndexError, AssertionError):
        return []


@client("glusterfs, one brick", "glusterfs-server", needs="glusterd", api=API)
def test_a_volume_on_one_brick(case: Case, glusterd: Glusterd) -> None:
    (brick,) = glusterd.volumes["one"]
    program = case.start(*of_volume(case, glusterd, "one", "-N"))
    (case.target / "through").write_bytes(b"the mount")
    assert (brick / "through").read_bytes() == b"the mount"
    (case.target / "through").unlink()
    everything(case.target)
    workload_posix.locks(case.target)
    case.unmounted(program, ENDED)


@client("glusterfs, a daemon", "glusterfs-server", needs="glusterd", api=API)
def test_glusterfs_as_a_daemon_ends_with_its_mount(case: Case, glusterd: Glusterd) -> None:
    started = case.start(*of_volume(case, glusterd, "one"))
    case.ended(started)
    workload.tree(case.target)
    case.unmount()


@client("mount -t glusterfs", "glusterfs-server", needs="glusterd", api=API)
def test_mount_glusterfs_leaves_a_daemon_that_ends_with_its_mount(case: Case, glusterd: Glusterd) -> None:
    command = ("mount", "-t", "glusterfs", "-o", f"log-file={case.log_path}", f"{glusterd.host}:/one", case.target)
    started = case.start(*glusterd.network.command(*command))
    case.ended(started)
    workload.tree(case.target)
    case.unmount()


@client("glusterfs, three bricks", "glusterfs-server", needs="glusterd", api=API, limit=58)
def test_a_replica_outlives_one_brick_and_is_healed_under_load(case: Case, glusterd: Glusterd) -> None:
    bricks = glusterd.volumes["three"]
    case.ended(case.start(*of_volume(case, glusterd, "three")))
    (case.target / "before").write_bytes(workload.noise(1 << 20))
    stop, written = threading.Event(), Counter[str]()

    def load() -> None:
        data = [workload.noise(50_000, seed) for seed in range(8)]
        while not stop.is_set() and written["files"] < 600:
            name = f"file{written['files']}"
            (case.target / f"{name}.new").write_bytes(data[written["files"] % 8])
            (case.target / f"{name}.new").rename(case.target / name)
            written["files"] += 1

    writer = threading.Thread(target=load)
    writer.start()
    try:
        eventually(lambda: written["files"] > 10, "files are written")
        glusterd.kill_brick(bricks[0])
        at = written["files"]
        eventually(lambda: written["files"] > at + 50, "files are written with two bricks")
        first, *others = glusterd.unhealed("three")
        assert first is None
        assert all(others), "nothing was missed by the dead brick"
        glusterd.start_bricks("three")
        at = written["files"]
        eventually(lambda: written["files"] > at + 50, "files are written while it is healed")
    finally:
        stop.set()
        writer.join(SOON)
    assert not writer.is_alive()
    glusterd.heal("three", 30)
    seen = digests(case.target)
    assert len(seen) == written["files"] + 1
    for brick in bricks:
        assert digests(brick) == seen, f"{brick.name} differs"
    case.unmount()


@client("glusterfs, an ordinary user", "glusterfs-server", needs="glusterd", api=API)
def test_an_ordinary_user_mounts_a_volume(case: Case, glusterd: Glusterd, daemons: Callable[..., Daemon]) -> None:
    if case.daemon is None:
        pytest.skip("without perfused a user takes a setuid fusermount-glusterfs")
    # It always asks for allow_other.
    case.daemon = daemons(f'[policy]\nallow_other = ["{pwd.getpwuid(NOBODY).pw_name}"]\n')
    case.environment |= {"PERFUSED_SOCKET": str(case.daemon.socket)}
    (brick,) = glusterd.volumes["one"]
    (brick / "users").mkdir()
    os.chown(brick / "users", NOBODY, NOBODY)
    logs = case.directory("logs")
    for each in (case.target, logs):
        os.chown(each, NOBODY, NOBODY)
    client_of = ("glusterfs", "-N", "-s", glusterd.host, "--volfile-id=one", "-l", logs / "log", case.target)
    user = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    case.service(
        *glusterd.network.command(*user, *case.command(*client_of)),
        ready=lambda: str(case.target) in fuse_mounts(case.place),
    )
    used = f"cd {case.target}/users; echo mine >file; mv file other; cat other; stat -c %u other"
    assert case.call(*user, "sh", "-ec", used) == f"mine\n{NOBODY}\n"
    (row,) = json.loads(case.daemon.ctl("mounts", "--json").stdout)
    assert row["uid"] == NOBODY
    case.unmount()
