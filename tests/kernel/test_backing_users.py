"""Passthrough: what is left of it, and what ordinary users may do with it."""

import os
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from libperfuse import backing
from libperfuse.backing import backing_close, backing_open
from tests.kernel.backed import TEXT, Backed, backed, path, run
from tests.kernel.conftest import Daemon, eventually, fuse_mounts
from tests.kernel.test_attacks import PRELUDE, USER, descriptors, place, settled
from wire.flags import OpenFlag
from wire.opcodes import Opcode

__all__ = ["backed", "path", "place"]


def registrars(daemon: Daemon) -> list[int]:
    """Processes that register backing files."""
    found = subprocess.run(["pgrep", "-P", str(daemon.process.pid)], capture_output=True, text=True, check=False)
    names = {pid: Path(f"/proc/{pid}/comm") for pid in found.stdout.split()}
    return [int(pid) for pid, name in names.items() if name.exists() and name.read_text() == "perfused-backin\n"]


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
from tests.kernel.backed import agreeing
from wire.flags import OpenFlag

def back(target, get):
    def opened(fs, head, body):
        try: fd = get(); number = backing_open(fs.fd, fd)
        except PerfuseError as bad: print(errno.errorcode[bad.errno], bad.strerror, sep=": "); return -errno.EIO
        os.close(fd); return codec.open_out.pack(1, {int(OpenFlag.PASSTHROUGH)}, number)
    fs = serve(target, {{Opcode.INIT: agreeing, Opcode.OPEN: opened}})
    os.path.lexists(target + "/file")
    return fs

def attempt(call, *arguments):
    try: return call(*arguments)
    except OSError as bad: return errno.errorcode[bad.errno]
"""


def user(daemon: Daemon, body: str, *arguments: str | Path) -> str:
    """What a program of an ordinary user prints; imports come first, since the interpreter may be root's alone."""
    head, tail = PRELUDE.split("SOCK =")
    served = SERVE.split("\ndef back")
    return run(
        daemon, head + served[0] + "\nSOCK =" + tail + "\ndef back" + served[1] + textwrap.dedent(body), *arguments
    )


@pytest.fixture
def mine(place: Path) -> Path:
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
        fs = serve(sys.argv[1] + "/m", {Opcode.INIT: agreeing, Opcode.STATFS: last})
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
        fs = serve(sys.argv[1] + "/m", {Opcode.INIT: agreeing}); os.path.lexists(sys.argv[1] + "/m/file")
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
        fs = serve(sys.argv[1] + "/m", {Opcode.INIT: agreeing, Opcode.FLUSH: lambda *_: None})
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
