"""What an ordinary user tries against the daemon, in vain."""

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernel.conftest import ROOT, Daemon, eventually, fuse_mounts

USER = 12345
#: run as the user: everything is imported first, since the interpreter may be root's alone
PRELUDE = f"""
import errno, os, socket, struct, sys, time
from libperfuse import *
from perfused import libc
from tests.kernel import scripted as S
from tests.kernel.raw import NULL, libc as raw
from tests.kernel.scripted import Scripted
from wire import codec, control
from wire.control import Endpoint, Kind
from wire.opcodes import Opcode
SOCK = os.environ["PERFUSED_SOCKET"]
os.setgroups([]); os.setresgid({USER}, {USER}, {USER}); os.setresuid({USER}, {USER}, {USER}); libc.prctl(4, 1)

def connect():
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.settimeout(10); s.connect(SOCK); return s

def hello(endpoint=Endpoint.SOCKET):
    s = connect(); s.send(control.build_hello(endpoint, b"attack"))
    fds = socket.recv_fds(s, 65536, 4)[1]
    x = socket.socket(fileno=fds[0]); x.settimeout(10); return x

def mount(target, fstype=b"fuse.attack", data=b"", extra=()):
    x = hello(); pin = os.open(target, os.O_PATH | os.O_NOFOLLOW)
    socket.send_fds(x, [control.build_mount(b"x", b"x", fstype, 0, data)], [pin, *extra]); os.close(pin)
    answer = control.parse(x.recv(65536))
    return answer, x

def serve(target, handlers=None):
    answer, x = mount(target); assert not answer.error, answer
    fs = Scripted(handlers); x.settimeout(None); fs.fd = x.detach(); return fs.serve()

def ask(body):
    s = connect(); s.send(control._head(Kind.REQUEST, body)); return control.parse(s.recv(65536))
"""


def attack(daemon: Daemon, body: str, *arguments: str | Path) -> str:
    """What a program of the ordinary user prints."""
    command = [sys.executable, "-c", PRELUDE + textwrap.dedent(body), *map(str, arguments)]
    done = subprocess.run(
        command,
        env=daemon.environment | {"PYTHONPATH": str(ROOT)},
        text=True, capture_output=True, timeout=40, check=False, cwd=ROOT,
    )  # fmt: skip
    assert not done.stderr, done.stderr
    return done.stdout.strip()


def descriptors(pid: int) -> int:
    """How many descriptors a process has."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def settled(daemon: Daemon) -> int:
    """How many descriptors the daemon has once it watches for device events, which it begins to after `ready`."""
    daemon.ctl("mounts")
    time.sleep(0.5)
    return descriptors(daemon.process.pid)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory of the user's, which it can reach."""
    for each in (tmp_path, *tmp_path.parents):
        if each != Path("/") and each.stat().st_uid == 0 and not each.stat().st_mode & 0o001:
            each.chmod(each.stat().st_mode | 0o011)
    made = tmp_path / "open"
    made.mkdir()
    os.chown(made, USER, USER)
    return made


def test_targets_that_are_not_the_users_to_mount_on(daemon: Daemon, place: Path, tmp_path: Path) -> None:
    (tmp_path / "sticky").mkdir(mode=0o777)
    (tmp_path / "sticky").chmod(0o1777)
    body = """
        os.mkfifo(sys.argv[1] + "/fifo"); os.symlink("/etc", sys.argv[1] + "/link")
        for each in (sys.argv[2], "/etc", "/proc/self", "/proc/self/fd", "/proc/self/root", "/proc/self/ns/mnt",
                     "/dev/shm", sys.argv[1] + "/fifo", sys.argv[1] + "/link"):
            print(errno.errorcode[-mount(each)[0].error], end=" ")
        gone = sys.argv[1] + "/gone"; os.mkdir(gone); pin = os.open(gone, os.O_PATH); os.rmdir(gone)
        x = hello(); socket.send_fds(x, [control.build_mount(b"x", b"x", b"fuse", 0, b"")], [pin])
        print(control.parse(x.recv(65536)).error != 0)
    """
    words = attack(daemon, body, place, tmp_path / "sticky").split()
    assert set(words[:-1]) <= {"EPERM", "EACCES", "ENOTDIR"}
    assert words[-1] == "True"
    assert not fuse_mounts(tmp_path)


def test_descriptors_beside_any_frame_are_not_kept(daemon: Daemon, place: Path) -> None:
    body = """
        many = [os.open("/dev/null", 0) for _ in range(250)]
        frames = [b"\\0" * 20, control.build_request({"op": "mounts"}), control.build_hello(Endpoint.SOCKET, b"a"),
                  control.build_verdict(0, 0, ""), control.build_original_mount(b"x", b"/etc", b"fuse", 0, b"")]
        for frame in frames * 3:
            for s in (connect(), hello()):
                try: socket.send_fds(s, [frame], many); s.recv(65536)
                except OSError: pass  # the kernel itself refuses them where it can
                s.close()
        mount("/etc", extra=many[:200])
    """
    before = settled(daemon)
    attack(daemon, body)
    eventually(lambda: descriptors(daemon.process.pid) <= before, "all descriptors are closed")


def test_strange_json_is_answered(daemon: Daemon, place: Path) -> None:
    body = """
        for each in (b"[" * 30000, b'{"a":' * 9000 + b"1" + b"}" * 9000, b'{"op":[1]}', b'{"op":"umount","target":{}}',
                     b'{"op":"umount","number":' + b"9" * 4000 + b"}", b'{"op":"stats","number":1e400}', b"\\xff",
                     b'{"op":"umount","target":"' + b"\\\\ud800" * 9000 + b'"}'):
            assert ask(each).error < 0
        print("answered")
    """
    assert attack(daemon, body) == "answered"


def test_a_worker_is_out_of_its_users_reach(daemon: Daemon, place: Path) -> None:
    body = """
        fs = serve(sys.argv[1]); worker = ask(b'{"op":"mounts"}').body["worker"]
        try: os.kill(worker, 9)
        except PermissionError: print("kill refused")
        print(raw.ptrace(16, worker, NULL, NULL))
        try: os.listdir(f"/proc/{worker}/fd")
        except PermissionError: print("unreadable")
        fs.close()
    """
    assert attack(daemon, body, place).split("\n") == ["kill refused", "-1", "unreadable"]
    eventually(lambda: not fuse_mounts(place), "the mount is gone")


def test_sixty_mounts_in_turn_leave_nothing(daemon: Daemon, place: Path) -> None:
    body = """
        for at in range(60):
            for _ in range(100):
                try: fs = serve(sys.argv[1])
                except (AssertionError, PermissionError): time.sleep(.02)
                else: break
            if at % 2: ask(b'{"op":"umount","lazy":true,"target":"%s"}' % sys.argv[1].encode())
            fs.close()
    """
    before = settled(daemon)
    attack(daemon, body, place)
    eventually(lambda: not daemon.workers() and not fuse_mounts(place), "all is gone")
    eventually(lambda: descriptors(daemon.process.pid) <= before, "all descriptors are closed")


def test_a_device_node_in_the_users_own_namespace_does_not_open(daemon: Daemon, place: Path) -> None:
    body = """
        uid = os.getuid(); libc.unshare(0x10000000 | 0x20000)
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {uid} 1")):
            with open(f"/proc/self/{name}", "w") as out: out.write(text)
        attr = list(S.attr(5, 0, 0o20666)); attr[13] = 10 << 8 | 229  # the very /dev/fuse
        entry = codec.entry_out.pack(5, 0, 9, 9, 0, 0, *attr)
        answer, x = mount(sys.argv[1])
        if not answer.error:
            fs = Scripted({Opcode.LOOKUP: lambda *_: entry}); x.settimeout(None); fs.fd = x.detach(); fs.serve()
            raw.mount(b"none", sys.argv[1].encode(), NULL, 32 | 4096, NULL)  # remount, bind, suid, dev
            try: os.read(os.open(sys.argv[1] + "/dev", os.O_RDWR), 8192)
            except PermissionError as bad: print("opened" if not bad.filename else "refused")
            fs.close()
    """
    assert attack(daemon, body, place) in ("", "refused")


def test_renaming_a_parent_does_not_keep_a_dead_mount(daemon: Daemon, place: Path) -> None:
    body = """
        os.makedirs(sys.argv[1] + "/a/m"); fs = serve(sys.argv[1] + "/a/m")
        os.rename(sys.argv[1] + "/a", sys.argv[1] + "/b"); fs.close()
    """
    attack(daemon, body, place)
    eventually(lambda: not daemon.workers(), "the worker ends")
    try:
        eventually(lambda: not fuse_mounts(place), "the mount is gone", 3)
    finally:
        for each in fuse_mounts(place):
            subprocess.run(["umount", "-l", each], check=False)


def test_no_client_writes_lines_of_its_own_into_the_log(daemon: Daemon, place: Path) -> None:
    body = """
        x = hello(); pin = os.open("/etc", os.O_PATH)
        socket.send_fds(x, [control.build_mount(b"x", b"/x\\nperfused[1]: INFO: forged", b"fuse", 0, b"")], [pin])
        x.recv(65536)
    """
    attack(daemon, body)
    daemon.has_logged("not mounted")
    assert not any(line.startswith("perfused[1]") for line in daemon.log().splitlines())


def test_a_descriptor_whose_last_close_waits_does_not_make_the_daemon_wait(
    daemons: Callable[..., Daemon], place: Path
) -> None:
    # Who exits in the middle of a close is let go after this many seconds.
    daemon = daemons("[requests]\nkilled_grace = 1\n")
    body = """
        os.mkdir(sys.argv[1] + "/m"); asked = []
        fs = serve(sys.argv[1] + "/m", {Opcode.FLUSH: lambda fs, head, body: asked.append(1)})
        def send(sock, frame):
            try: socket.send_fds(sock, [frame], [stuck])
            except OSError: pass
        stuck = os.open(sys.argv[1] + "/m/file", os.O_RDONLY)
        devices = [hello() for _ in range(4)]
        for x in devices: send(x, b"nonsense")
        send(devices[0], control.build_mount(b"x", b"x", b"fuse", 0, b""))
        late = hello(); send(late, control.build_hello(Endpoint.SOCKET, b"x")); late.close()
        for _ in range(8):
            s = connect(); send(s, control.build_hello(Endpoint.SOCKET, b"a")); s.close()
        print("sent", flush=True); time.sleep(1); os._exit(0)
    """
    assert attack(daemon, body, place) == "sent"
    assert daemon.ctl("mounts").returncode == 0
    eventually(lambda: not fuse_mounts(place), "the mount is gone")


def test_a_mount_of_roots_is_not_unmounted_by_swapping_a_directory_on_the_way(
    daemon: Daemon, place: Path, tmp_path: Path
) -> None:
    (tmp_path / "precious" / "m").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "precious" / "m"], check=True)
    body = """
        import threading
        base = sys.argv[1]; os.makedirs(base + "/p/m"); os.symlink(sys.argv[2], base + "/q")
        fs = serve(base + "/p/m"); stop = []
        def swap():
            for _ in range(200000):
                if stop: break
                raw.renameat2(-100, (base + "/p").encode(), -100, (base + "/q").encode(), 2)
        swapping = threading.Thread(target=swap); swapping.start()
        for _ in range(60):
            for name in ("p", "q"):
                ask(b'{"op": "umount", "lazy": true, "target": "%s/%s/m"}' % (base.encode(), name.encode()))
        stop.append(1); swapping.join(); fs.close(); print("done")
    """
    try:
        assert attack(daemon, body, place, tmp_path / "precious") == "done"
        standing = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        assert str(tmp_path / "precious" / "m") in standing
        eventually(lambda: not fuse_mounts(place), "the mount is gone")
    finally:
        subprocess.run(["umount", "-l", tmp_path / "precious" / "m"], check=False)


def test_a_client_whose_process_has_ended_mounts_nowhere(daemon: Daemon, place: Path) -> None:
    body = """
        refused = 0
        for turn in range(20):
            s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.settimeout(10)
            pid = os.fork()
            if not pid: s.connect(SOCK); os._exit(0)
            os.waitpid(pid, 0)
            s.send(control.build_original_mount(b"x", sys.argv[1].encode(), b"fuse", 0, b""))
            refused += s.recv(100) == b""
        print(refused)
    """
    # A child that had not ended when the daemon looked was in our namespace for certain: then its mount may stand.
    attack(daemon, body, place)
    daemon.has_logged("cannot be told")
    eventually(lambda: not fuse_mounts(place), "the mounts are gone")


def test_live_traces_of_one_mount_are_limited(daemon: Daemon, place: Path) -> None:
    body = """
        fs = serve(sys.argv[1]); held = []
        for _ in range(6):
            s = connect(); s.send(control.build_request({"op": "trace", "target": sys.argv[1]})); held.append(s)
        time.sleep(0.5); refused = 0
        for s in held:
            s.setblocking(False)
            try: answer = control.parse(s.recv(65536)); refused += getattr(answer, "error", 0) != 0
            except BlockingIOError: pass
        print(refused); fs.close()
    """
    assert attack(daemon, body, place) == "2"
    eventually(lambda: not fuse_mounts(place), "the mount is gone")
