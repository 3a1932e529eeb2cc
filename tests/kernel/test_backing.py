"""Backing files on the socket endpoint: the kernel reads and writes them itself, and the daemon registers them."""

import errno
import os
import select
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from libperfuse import backing, perfuse_mount, perfuse_open
from libperfuse.backing import backing_close, backing_open
from libperfuse.connection import PerfuseError, ask, connect, exchange, receive
from tests.kernel.conftest import ROOT, Daemon, eventually, fuse_mounts
from tests.kernel.scripted import Answer, Scripted, init_reply
from tests.kernel.test_attacks import PRELUDE, USER, descriptors, place, settled  # noqa: F401
from wire import codec, control
from wire.flags import InitFlag, OpenFlag
from wire.opcodes import Opcode

TEXT = b"what the backing file holds"
WANTED = int(InitFlag.INIT_EXT | InitFlag.PASSTHROUGH)


def _init(fs: Scripted, head: codec.InHeader, body: bytes) -> Answer:
    return init_reply(WANTED, max_stack_depth=1)


class Backed:
    """A scripted filesystem whose one file is backed by `path`, registered when it is opened."""

    def __init__(self, path: Path, flags: int = os.O_RDWR) -> None:
        self.path, self.flags = path, flags
        self.ids: list[int] = []
        self.fs = Scripted({Opcode.INIT: _init, Opcode.OPEN: self._open})

    def mount(self, target: Path, **more: Any) -> "Backed":
        self.fs.fd = perfuse_open("/dev/fuse", **more)
        perfuse_mount("backed", str(target), "fuse.backed", 0, f"fd={self.fs.fd},rootmode=40000,user_id=0,group_id=0")
        self.fs.serve().wait_for(Opcode.INIT)
        assert os.path.lexists(target / "file"), "INIT is behind us"
        return self

    def _open(self, fs: Scripted, head: codec.InHeader, body: bytes) -> Answer:
        fd = os.open(self.path, self.flags)
        try:
            self.ids.append(backing_open(fs.fd, fd))
        except PerfuseError as bad:
            return -(bad.errno or errno.EIO)
        finally:
            os.close(fd)
        return codec.open_out.pack(1, int(OpenFlag.PASSTHROUGH), self.ids[-1])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file to back others with."""
    made = tmp_path / "backing"
    made.write_bytes(TEXT)
    return made


@pytest.fixture
def backed(path: Path, target: Path) -> Iterator[Callable[..., Backed]]:
    """Mount a Backed through the current daemon."""
    made: list[Backed] = []

    def mount(flags: int = os.O_RDWR, **more: Any) -> Backed:
        made.append(Backed(path, flags))
        return made[-1].mount(target, **more)

    yield mount
    for each in made:
        each.fs.close()
    for number in list(backing._links):
        backing._forget(number)


def refusal(device: int, fd: int) -> PerfuseError:
    with pytest.raises(PerfuseError) as caught:
        backing_open(device, fd)
    return caught.value


def registrars(daemon: Daemon) -> list[int]:
    """Processes that register backing files."""
    found = subprocess.run(["pgrep", "-P", str(daemon.process.pid)], capture_output=True, text=True, check=False)
    names = {pid: Path(f"/proc/{pid}/comm") for pid in found.stdout.split()}
    return [int(pid) for pid, name in names.items() if name.exists() and name.read_text() == "perfused-backin\n"]


# -- passthrough -------------------------------------------------------------------------------------------------------


def test_a_file_is_read_from_its_backing_file_without_a_read_request(
    daemon: Daemon, target: Path, backed: Callable[..., Backed]
) -> None:
    fs = backed().fs
    assert (target / "file").read_bytes() == TEXT
    assert Opcode.READ not in fs.opcodes


def test_what_is_written_lands_in_the_backing_file_without_a_write_request(
    daemon: Daemon, target: Path, path: Path, backed: Callable[..., Backed]
) -> None:
    fs = backed().fs
    with open(target / "file", "r+b", buffering=0) as file:
        file.write(b"WHAT")
    assert path.read_bytes() == b"WHAT" + TEXT[4:]
    assert Opcode.WRITE not in fs.opcodes


def test_the_flag_and_the_depth_reach_the_kernel(daemon: Daemon, target: Path, backed: Callable[..., Backed]) -> None:
    backed()
    assert "PASSTHROUGH" in daemon.stats(target)["flags"]


def test_what_is_open_stays_so_when_its_id_is_given_back(
    daemon: Daemon, target: Path, backed: Callable[..., Backed]
) -> None:
    made = backed()
    with open(target / "file", "rb", buffering=0) as file:
        backing_close(made.fs.fd, made.ids[0])
        assert file.read() == TEXT


def test_an_id_given_back_is_none_any_more(daemon: Daemon, path: Path, backed: Callable[..., Backed]) -> None:
    made = backed()
    with open(path, "r+b") as file:
        number = backing_open(made.fs.fd, file.fileno())
    backing_close(made.fs.fd, number)
    with pytest.raises(PerfuseError, match=f"backing id {number} is not registered") as caught:
        backing_close(made.fs.fd, number)
    assert caught.value.errno == errno.ENOENT


def test_statistics_count_what_is_registered(
    daemon: Daemon, target: Path, path: Path, backed: Callable[..., Backed]
) -> None:
    made = backed()
    with open(path, "r+b") as file:
        numbers = [backing_open(made.fs.fd, file.fileno()) for _ in range(3)]
    backing_close(made.fs.fd, numbers[0])
    eventually(lambda: daemon.stats(target)["backing_files"] == 2, "two are counted")


def test_a_private_daemon_registers_too(
    target: Path, backed: Callable[..., Backed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PERFUSE_NO_PRIVATE", raising=False)
    monkeypatch.setenv("PERFUSED", str(ROOT / ".venv" / "bin" / "perfused"))
    made = backed(private=True)
    assert (target / "file").read_bytes() == TEXT
    made.fs.close()
    eventually(lambda: not fuse_mounts(target), "the mount is gone")


def test_on_dev_fuse_itself_the_ioctl_is_made_here(target: Path, path: Path) -> None:
    made = Backed(path)
    made.fs.mount_plain(str(target))
    try:
        assert (target / "file").read_bytes() == TEXT
        backing_close(made.fs.fd, made.ids[0])
    finally:
        subprocess.run(["umount", "-l", target], check=True)
        made.fs.close()


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_directory_is_refused(daemon: Daemon, tmp_path: Path, backed: Callable[..., Backed]) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    bad = refusal(backed().fs.fd, fd)
    os.close(fd)
    assert (bad.errno, bad.strerror) == (errno.EISDIR, "the backing file is a directory: a regular file was expected")


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_is_no_regular_file_is_refused(daemon: Daemon, backed: Callable[..., Backed], kind: str) -> None:
    fds = {
        "pipe": lambda: os.pipe(),
        "socket": lambda: tuple(each.detach() for each in socket.socketpair()),
        "device": lambda: (os.open("/dev/null", os.O_RDWR),),
    }[kind]()
    bad = refusal(backed().fs.fd, fds[0])
    for each in fds:
        os.close(each)
    assert (bad.errno, bad.strerror) == (errno.EINVAL, "the backing file is no regular file")


def test_root_may_do_what_the_ioctl_does(daemon: Daemon, target: Path, backed: Callable[..., Backed]) -> None:
    """O_PATH is enough for the kernel, and what it opens anew may be written to."""
    backed(flags=os.O_PATH)
    assert (target / "file").write_bytes(TEXT) == len(TEXT)


def test_a_file_of_the_mount_itself_is_refused(daemon: Daemon, target: Path, backed: Callable[..., Backed]) -> None:
    made = backed()
    fd = os.open(target / "file", os.O_RDWR)
    bad = refusal(made.fs.fd, fd)
    os.close(fd)
    assert bad.errno == errno.ELOOP
    assert "stacked" in str(bad)


def test_a_mount_that_did_not_agree_on_passthrough_is_told_so(
    daemon: Daemon, target: Path, path: Path, scripted: Callable[..., Scripted]
) -> None:
    fs = scripted(target)
    assert os.path.lexists(target / "file")
    with open(path, "r+b") as file:
        bad = refusal(fs.fd, file.fileno())
    assert bad.errno == errno.EPERM
    assert "passthrough was not agreed on" in str(bad)


def test_what_the_configuration_refuses_is_not_offered(
    daemons: Callable[..., Daemon], target: Path, path: Path, backed: Callable[..., Backed]
) -> None:
    daemon = daemons('[init]\nrefuse = ["PASSTHROUGH"]\n')
    made = backed()
    with open(path, "r+b") as file:
        assert refusal(made.fs.fd, file.fileno()).errno == errno.EPERM
    assert "PASSTHROUGH" not in daemon.stats(target)["flags"]


def test_a_device_that_is_not_mounted_is_told_so(daemon: Daemon, path: Path) -> None:
    device = perfuse_open("/dev/fuse")
    with open(path, "r+b") as file:
        bad = refusal(device, file.fileno())
    os.close(device)
    assert bad.errno == errno.ENOENT


def test_a_descriptor_that_is_no_device_is_refused(daemon: Daemon, path: Path) -> None:
    with open(path, "r+b") as file:
        assert refusal(file.fileno(), file.fileno()).errno == errno.ENOTSOCK


def test_the_device_of_another_mount_proves_nothing(
    daemon: Daemon, tmp_path: Path, path: Path, backed: Callable[..., Backed], scripted: Callable[..., Scripted]
) -> None:
    made = backed()
    (tmp_path / "other").mkdir()
    other = scripted(tmp_path / "other")
    with connect() as connection, open(path, "r+b") as file:
        ask(connection, {"op": "backing", "device": backing.perfuse.device_name(made.fs.fd)[1:].decode()})
        exchange(connection, control.build_request({"op": "backing_open"}), (other.fd, file.fileno()))
        answer, _ = receive(connection)
    assert isinstance(answer, control.Answer)
    assert answer.error == -errno.EPERM


def test_a_socket_with_the_devices_name_from_another_network_namespace_proves_nothing(
    daemon: Daemon, path: Path, backed: Callable[..., Backed]
) -> None:
    """Abstract names are free again in a network namespace of one's own, so the name alone is no proof."""
    name = backing.perfuse.device_name(backed().fs.fd)
    body = """
        name, path = sys.argv[1].encode(), sys.argv[2]
        s = connect(); s.send(control.build_request({"op": "backing", "device": name.decode()})); s.recv(65536)
        libc.unshare(0x40000000)
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET); mine.bind(b"\\0" + name)
        assert theirs.getpeername() == b"\\0" + name
        file = os.open(path, os.O_RDWR)
        socket.send_fds(s, [control.build_request({"op": "backing_open"})], [theirs.fileno(), file])
        print(errno.errorcode[-control.parse(s.recv(65536)).error])
    """
    root = "".join(line for line in PRELUDE.splitlines(keepends=True) if "setresuid" not in line)
    assert run(daemon, root + textwrap.dedent(body), name[1:].decode(), path) == "EPERM"


def test_frames_that_are_no_request_for_a_backing_file_are_refused_and_their_descriptors_let_go(
    daemon: Daemon, backed: Callable[..., Backed]
) -> None:
    made = backed()
    read, write = os.pipe()
    frames = [
        b"nonsense",
        control.build_request({"op": "mounts"}),
        control.build_request({"op": ["backing_open"]}),
        control.build_request({"op": "backing_open"}),
        control.build_request({"op": "backing_close", "backing_id": "7"}),
        control.build_request({"op": "backing_close", "backing_id": 1 << 40}),
    ]
    with connect() as connection:
        ask(connection, {"op": "backing", "device": backing.perfuse.device_name(made.fs.fd)[1:].decode()})
        for frame in frames:
            exchange(connection, frame, (write,))
            answer, _ = receive(connection)
            assert isinstance(answer, control.Answer)
            assert answer.error < 0
        os.close(write)
        poll = select.poll()
        poll.register(read, 0)
        assert poll.poll(5000), "somebody holds the pipe open"
    os.close(read)


def test_connections_that_register_for_one_mount_are_limited(daemon: Daemon, backed: Callable[..., Backed]) -> None:
    name = backing.perfuse.device_name(backed().fs.fd)[1:].decode()
    held = [connect() for _ in range(5)]
    try:
        for each in held[:4]:
            ask(each, {"op": "backing", "device": name})
        with pytest.raises(PerfuseError) as caught:
            ask(held[4], {"op": "backing", "device": name})
    finally:
        for each in held:
            each.close()
    assert caught.value.errno == errno.EUSERS


# -- what is left ------------------------------------------------------------------------------------------------------


def test_two_hundred_opens_and_closes_leave_nothing(
    daemon: Daemon, target: Path, path: Path, backed: Callable[..., Backed]
) -> None:
    made = backed()
    worker = daemon.workers()[0]
    before = settled(daemon), descriptors(worker)
    with open(path, "r+b") as file:
        for _ in range(200):
            backing_close(made.fs.fd, backing_open(made.fs.fd, file.fileno()))
    backing._forget(made.fs.fd)
    eventually(lambda: not registrars(daemon), "nobody registers any more")
    eventually(lambda: (settled(daemon), descriptors(worker)) == before, "all descriptors are closed")
    assert daemon.stats(target)["backing_files"] == 0


def test_a_thousand_requests_take_one_process(daemon: Daemon, path: Path, backed: Callable[..., Backed]) -> None:
    made = backed()
    with open(path, "r+b") as file:
        first = backing_open(made.fs.fd, file.fileno())
        (registrar,) = registrars(daemon)
        for _ in range(999):
            backing_open(made.fs.fd, file.fileno())
    assert first > 0
    assert registrars(daemon) == [registrar]


def test_a_registrar_keeps_no_descriptor_of_a_request(
    daemon: Daemon, path: Path, backed: Callable[..., Backed]
) -> None:
    """Neither the client's nor, above all, the kernel's device."""
    made = backed()
    with open(path, "r+b") as file:
        backing_open(made.fs.fd, file.fileno())
        (registrar,) = registrars(daemon)
        backing_close(made.fs.fd, 1)  # it has let go of the first request's when it takes the second
        before = descriptors(registrar)
        for _ in range(50):
            backing_open(made.fs.fd, file.fileno())
    eventually(lambda: descriptors(registrar) <= before, "all descriptors are closed")


def test_a_registrar_ends_with_its_mount(
    daemon: Daemon, target: Path, path: Path, backed: Callable[..., Backed]
) -> None:
    made = backed()
    with open(path, "r+b") as file:
        backing_open(made.fs.fd, file.fileno())
    made.fs.close()
    eventually(lambda: not fuse_mounts(target), "the mount is gone")
    eventually(lambda: not registrars(daemon), "the registrar has ended")


def test_requests_are_aborted_although_a_registrar_is_there(
    daemon: Daemon, target: Path, path: Path, backed: Callable[..., Backed]
) -> None:
    """The registrar may not hold the kernel's device: its last close is what ends the requests of a dead filesystem."""
    made = backed()
    made.fs.handlers[Opcode.STATFS] = lambda *_: None
    with open(path, "r+b") as file:
        backing_open(made.fs.fd, file.fileno())
    asking = subprocess.Popen(["stat", "-f", target], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    made.fs.wait_for(Opcode.STATFS)
    os.kill(daemon.workers()[0], 9)
    _, said = asking.communicate(timeout=10)
    assert "abort" in said or "not connected" in said


def test_the_backing_file_is_let_go_with_the_mount(
    daemon: Daemon, target: Path, tmp_path: Path, backed: Callable[..., Backed]
) -> None:
    (disk := tmp_path / "disk").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", disk], check=True)
    try:
        made = backed()
        with open(disk / "file", "w+b") as file:
            backing_open(made.fs.fd, file.fileno())
        assert subprocess.run(["umount", disk], capture_output=True, check=False).returncode, "it is in use"
        made.fs.close()
        eventually(
            lambda: subprocess.run(["umount", disk], capture_output=True, check=False).returncode == 0,
            "nothing holds the disk",
        )
    finally:
        subprocess.run(["umount", "-l", disk], capture_output=True, check=False)


def test_a_daemon_that_stops_does_not_wait_for_registrars(
    daemon: Daemon, path: Path, backed: Callable[..., Backed]
) -> None:
    made = backed()
    with open(path, "r+b") as file:
        backing_open(made.fs.fd, file.fileno())
    assert daemon.stop() == 0
    daemon.has_logged("stopped")
    assert "left behind" not in daemon.log()


# -- ordinary users ----------------------------------------------------------------------------------------------------

SERVE = f"""
from libperfuse.backing import backing_close, backing_open
from libperfuse.connection import PerfuseError
from tests.kernel.test_backing import _init
from wire.flags import OpenFlag

def back(target, get):
    def opened(fs, head, body):
        try: fd = get(); number = backing_open(fs.fd, fd)
        except PerfuseError as bad: print(errno.errorcode[bad.errno], bad.strerror, sep=": "); return -errno.EIO
        os.close(fd); return codec.open_out.pack(1, {int(OpenFlag.PASSTHROUGH)}, number)
    fs = serve(target, {{Opcode.INIT: _init, Opcode.OPEN: opened}})
    os.path.lexists(target + "/file")
    return fs

def attempt(call, *arguments):
    try: return call(*arguments)
    except OSError as bad: return errno.errorcode[bad.errno]
"""


def run(daemon: Daemon, program: str, *arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=daemon.environment | {"PYTHONPATH": str(ROOT)},
        text=True, capture_output=True, timeout=40, check=False, cwd=ROOT,
    )  # fmt: skip
    assert not done.stderr, done.stderr
    return done.stdout.strip()


def user(daemon: Daemon, body: str, *arguments: str | Path) -> str:
    """What a program of an ordinary user prints; imports come first, since the interpreter may be root's alone."""
    head, tail = PRELUDE.split("SOCK =")
    served = SERVE.split("\ndef back")
    return run(
        daemon, head + served[0] + "\nSOCK =" + tail + "\ndef back" + served[1] + textwrap.dedent(body), *arguments
    )


@pytest.fixture
def mine(place: Path) -> Path:  # noqa: F811
    """A directory of the user's on tmpfs: a mount point `m` and a file `own`."""
    (place / "m").mkdir()
    (place / "own").write_bytes(TEXT)
    for name in ("m", "own"):
        os.chown(place / name, USER, USER)
    return place


def test_a_user_backs_files_with_its_own(daemon: Daemon, mine: Path) -> None:
    body = """
        fs = back(sys.argv[1] + "/m", lambda: os.open(sys.argv[1] + "/own", os.O_RDWR))
        file = os.open(sys.argv[1] + "/m/file", os.O_RDWR); os.write(file, b"WHAT")
        print(os.pread(file, 99, 0).decode(), Opcode.READ in fs.opcodes, Opcode.WRITE in fs.opcodes)
        os.close(file); fs.close()
    """
    assert user(daemon, body, mine) == f"WHAT{TEXT[4:].decode()} False False"
    eventually(lambda: not fuse_mounts(mine) and not registrars(daemon), "all is gone")


def test_a_file_that_a_user_may_only_read_is_not_written_to_through_its_mount(daemon: Daemon, mine: Path) -> None:
    (precious := mine / "precious").write_bytes(TEXT)
    body = """
        fs = back(sys.argv[1] + "/m", lambda: os.open(sys.argv[1] + "/precious", os.O_RDONLY))
        print(open(sys.argv[1] + "/m/file").read(), attempt(os.open, sys.argv[1] + "/m/file", os.O_RDWR))
        fs.close()
    """
    assert user(daemon, body, mine) == f"{TEXT.decode()} EIO"
    assert precious.read_bytes() == TEXT
    eventually(lambda: not fuse_mounts(mine), "the mount is gone")


def test_a_descriptor_for_reading_is_enough_where_its_user_could_not_open_the_file_now(
    daemon: Daemon, mine: Path
) -> None:
    body = """
        held = os.open(sys.argv[1] + "/own", os.O_RDONLY); os.chmod(sys.argv[1] + "/own", 0)
        fs = back(sys.argv[1] + "/m", lambda: os.dup(held))
        print(open(sys.argv[1] + "/m/file").read()); fs.close()
    """
    assert user(daemon, body, mine) == TEXT.decode()
    eventually(lambda: not fuse_mounts(mine), "the mount is gone")


def test_writing_through_passthrough_takes_a_set_user_id_bit_away(daemon: Daemon, mine: Path) -> None:
    """As any write of an ordinary user's does, and root's does not: the write is the user's."""
    (tool := mine / "tool").write_bytes(TEXT)
    os.chmod(tool, 0o4777)
    body = """
        fs = back(sys.argv[1] + "/m", lambda: os.open(sys.argv[1] + "/tool", os.O_RDWR))
        file = os.open(sys.argv[1] + "/m/file", os.O_RDWR); os.write(file, b"WHAT"); os.close(file); fs.close()
    """
    user(daemon, body, mine)
    assert tool.read_bytes()[:4] == b"WHAT"
    assert oct(tool.stat().st_mode & 0o7777) == "0o777"
    eventually(lambda: not fuse_mounts(mine), "the mount is gone")


@pytest.mark.parametrize(
    ("get", "said"),
    [
        ('os.open(sys.argv[1] + "/own", os.O_WRONLY)', "EACCES: the backing file is opened for writing alone"),
        ('os.open(sys.argv[1] + "/own", os.O_PATH)', "EBADF: the backing file is opened with O_PATH"),
        ("os.open(sys.argv[1], os.O_RDONLY)", "EISDIR: the backing file is a directory"),
        ("os.pipe()[0]", "EINVAL: the backing file is no regular file"),
        ("socket.socketpair()[0].detach()", "EINVAL: the backing file is no regular file"),
        ('os.open("/proc/self/pagemap", os.O_RDONLY)', "EPERM: the backing file's filesystem (type 0x9fa0)"),
        ('os.open("/proc/self/mem", os.O_RDWR)', "EPERM: the backing file's filesystem (type 0x9fa0)"),
        ('os.memfd_create("x") and os.open("/proc/self/fd/%d" % MEMFD, os.O_RDONLY)', "EACCES: the backing file is"),
    ],
)  # fmt: skip
def test_what_a_user_may_not_back_files_with(daemon: Daemon, mine: Path, get: str, said: str) -> None:
    body = f"""
        MEMFD = os.memfd_create("y")
        fs = back(sys.argv[1] + "/m", lambda: {get})
        attempt(os.open, sys.argv[1] + "/m/file", os.O_RDONLY); fs.close()
    """
    assert user(daemon, body, mine).startswith(said)
    eventually(lambda: not fuse_mounts(mine), "the mount is gone")


def test_a_file_of_a_users_own_mount_is_refused_without_asking_the_filesystem(daemon: Daemon, mine: Path) -> None:
    """It could not answer while it waits for the daemon."""
    body = """
        def last(fs, head, body): fs.reading.clear(); return -errno.EPERM
        fs = serve(sys.argv[1] + "/m", {Opcode.INIT: _init, Opcode.STATFS: last})
        file = os.open(sys.argv[1] + "/m/file", os.O_RDWR); attempt(os.statvfs, sys.argv[1] + "/m")
        try: backing_open(fs.fd, file)
        except PerfuseError as bad: print(bad.strerror)
        fs.reading.set(); os.close(file); fs.close()
    """
    assert user(daemon, body, mine) == "the backing file is on a FUSE mount, which backs others for root alone"
    eventually(lambda: not fuse_mounts(mine), "the mount is gone")


def test_a_file_to_append_to_is_refused(daemon: Daemon, mine: Path) -> None:
    appended = mine / "own"
    if subprocess.run(["chattr", "+a", appended], capture_output=True, check=False).returncode:
        pytest.skip("the filesystem of the test's directory knows no append-only files")
    body = """
        fs = back(sys.argv[1] + "/m", lambda: os.open(sys.argv[1] + "/own", os.O_RDWR | os.O_APPEND))
        attempt(os.open, sys.argv[1] + "/m/file", os.O_RDWR); fs.close()
    """
    try:
        assert user(daemon, body, mine).startswith("EPERM: the backing file may only be appended to")
    finally:
        subprocess.run(["chattr", "-a", appended], check=True)
    eventually(lambda: not fuse_mounts(mine), "the mount is gone")


def test_a_users_mount_has_so_many_backing_files_and_no_more(daemons: Callable[..., Daemon], mine: Path) -> None:
    daemon = daemons("[policy]\nbacking_files = 3\n")
    body = """
        fs = serve(sys.argv[1] + "/m", {Opcode.INIT: _init}); os.path.lexists(sys.argv[1] + "/m/file")
        own = os.open(sys.argv[1] + "/own", os.O_RDWR)
        numbers = [attempt(backing_open, fs.fd, own) for _ in range(4)]
        backing_close(fs.fd, numbers[0])
        print(numbers[3], attempt(backing_open, fs.fd, own) in numbers); fs.close()
    """
    assert user(daemon, body, mine).startswith("EMFILE")
    eventually(lambda: not fuse_mounts(mine), "the mount is gone")


def test_passthrough_is_not_offered_to_users_where_it_is_off(daemons: Callable[..., Daemon], mine: Path) -> None:
    daemon = daemons("[policy]\npassthrough = false\n")
    body = """
        fs = serve(sys.argv[1] + "/m"); os.path.lexists(sys.argv[1] + "/m/file")
        offered = struct.unpack_from("=I", fs.wait_for(Opcode.INIT)[1], 16)[0]
        try: backing_open(fs.fd, os.open(sys.argv[1] + "/own", os.O_RDWR))
        except PerfuseError as bad: print(offered >> 5 & 1, errno.errorcode[bad.errno], bad.strerror)
        fs.close()
    """
    said = user(daemon, body, mine)
    assert said == "0 EPERM policy.passthrough is off: only root's filesystems register backing files"
    eventually(lambda: not fuse_mounts(mine), "the mount is gone")


def test_a_user_does_not_get_at_another_users_mount(daemon: Daemon, mine: Path, backed: Callable[..., Backed]) -> None:
    name = backing.perfuse.device_name(backed().fs.fd)[1:].decode()
    body = """
        answer = ask(b'{"op": "backing", "device": "%s"}' % sys.argv[1].encode())
        print(errno.errorcode[-answer.error], answer.body["message"])
    """
    assert user(daemon, body, name).startswith("EPERM")
    assert not registrars(daemon)


def test_a_descriptor_whose_last_close_waits_holds_up_nobody_else(daemons: Callable[..., Daemon], mine: Path) -> None:
    """The registrar answers before it lets a descriptor go; where that waits, it is the registrar alone that does."""
    # Who exits in the middle of a close is let go after this many seconds.
    daemon = daemons("[requests]\nkilled_grace = 1\n")
    body = """
        fs = serve(sys.argv[1] + "/m", {Opcode.INIT: _init, Opcode.FLUSH: lambda *_: None})
        stuck = os.open(sys.argv[1] + "/m/file", os.O_RDWR)
        try: backing_open(fs.fd, stuck)
        except PerfuseError as bad: print(errno.errorcode[bad.errno], flush=True)
        os._exit(0)
    """
    assert user(daemon, body, mine) == "ELOOP"
    assert daemon.ctl("mounts").returncode == 0
    eventually(lambda: not fuse_mounts(mine) and not registrars(daemon), "all is gone")


def test_a_registrar_is_out_of_its_users_reach(daemon: Daemon, mine: Path) -> None:
    body = """
        import signal
        fs = back(sys.argv[1] + "/m", lambda: os.open(sys.argv[1] + "/own", os.O_RDWR))
        open(sys.argv[1] + "/m/file").close()
        daemon = int(sys.argv[2])
        for pid in open(f"/proc/{daemon}/task/{daemon}/children").read().split():
            if open(f"/proc/{pid}/comm").read() == "perfused-backin\\n":
                print(attempt(os.kill, int(pid), signal.SIGSTOP), attempt(os.listdir, f"/proc/{pid}/fd"))
        fs.close()
    """
    assert user(daemon, body, mine, str(daemon.process.pid)) == "EPERM EACCES"
    eventually(lambda: not fuse_mounts(mine), "the mount is gone")
