"""perfused(8) as a process: options, signals, settings, systemd, private daemons, user namespaces, devices."""

import errno
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from libperfuse import perfuse_mount, perfuse_open
from libperfuse.connection import PerfuseError, connect
from perfused import answers, devices
from tests.kernel.conftest import BUILD, ROOT, Daemon, eventually, fuse_mounts
from tests.kernel.scripted import Scripted

PERFUSED = [sys.executable, "-m", "perfused.cli.daemon"]


def perfused(*options: str | Path, **more: object) -> subprocess.CompletedProcess[str]:
    """Run perfused to its end."""
    return subprocess.run(
        [*PERFUSED, *options], text=True, capture_output=True, timeout=30, check=False, cwd=ROOT, **more
    )  # type: ignore[call-overload,no-any-return]


# -- options and settings --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-d", "nonsense"), ("-d", "nonsense", "filename")),
        (("-i", "77"), ("-i 77", "Bad file descriptor")),
        (("-i", "0"), ("-i 0",)),
        (("--no-such-option",), ("--no-such-option",)),
        (("--config", "/nowhere/perfused.toml"), ("/nowhere/perfused.toml", "No such file")),
        (("--socket", "relative.sock"), ("absolute path",)),
    ],
)
def test_an_option_that_cannot_be_used_is_one_line_and_a_status(
    options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    done = perfused("-f", *options, stdin=subprocess.DEVNULL)
    assert done.returncode not in (0, 1)
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[daemon\n", ("not TOML",)),
        ("[deamon]\n", ("deamon", "no such section", "daemon")),
        ("[requests]\ndeadlin = 3\n", ("requests.deadlin", "no such setting", "deadline")),
        ("[requests]\ndeadline = -1\n", ("requests.deadline", "0 to 86400")),
        ('[requests]\ndeadline = "soon"\n', ("requests.deadline", "a number")),
        ('[init]\nrefuse = ["NO_SUCH"]\n', ("init.refuse", "NO_SUCH")),
        ('[daemon]\nendpoint = "any"\n', ("daemon.endpoint", "socket, device or direct")),
    ],
)
def test_a_setting_that_cannot_be_used_names_file_key_and_reason(
    tmp_path: Path, text: str, words: tuple[str, ...]
) -> None:
    path = tmp_path / "perfused.toml"
    path.write_text(text)
    done = perfused("-f", "--config", path)
    assert done.returncode == 78
    (line,) = done.stderr.strip().splitlines()
    assert str(path) in line
    for word in words:
        assert word in line


def test_a_second_daemon_on_one_socket_says_so_and_leaves_the_first_alone(daemon: Daemon) -> None:
    done = perfused("-f", "--socket", daemon.socket)
    assert done.returncode == 69
    assert "another perfused listens" in done.stderr
    assert daemon.ctl("mounts").returncode == 0


def test_a_socket_left_over_from_a_dead_daemon_is_taken_over(daemons: Callable[..., Daemon]) -> None:
    daemon = daemons()
    daemon.process.kill()
    daemon.process.wait()
    assert daemon.socket.exists()
    daemon.start()
    assert daemon.ctl("mounts").returncode == 0


def test_a_file_at_the_sockets_place_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    done = perfused("-f", "--socket", tmp_path / "precious")
    assert done.returncode == 69
    assert "is no socket" in done.stderr
    assert (tmp_path / "precious").read_text() == "precious"


def test_in_the_background_it_returns_when_it_listens_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "perfused.toml").write_text(f"[daemon]\nlog = '{tmp_path}/log'\n")
    path = tmp_path / "sock"
    assert perfused("--config", tmp_path / "perfused.toml", "--socket", path).returncode == 0
    with connect(str(path)) as connection:
        pid = int.from_bytes(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], sys.byteorder)
    assert os.getsid(pid) != os.getsid(0)
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: "stopped" in (tmp_path / "log").read_text(), "it has stopped")


def test_in_the_background_what_keeps_it_from_starting_is_told_to_who_started_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = perfused("--socket", tmp_path / "file")
    assert done.returncode == 69
    assert "is no socket" in done.stderr


def test_a_changed_configuration_holds_for_new_mounts_after_sighup(daemon: Daemon, target: Path) -> None:
    config = daemon.place / "perfused.toml"
    config.write_text("[requests]\ntiming = true\n")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.has_logged("configuration read again")
    rawfs = daemon.rawfs(target)
    os.listdir(target)
    assert daemon.stats(target)["latency"]
    config.write_text("[nonsense]\n")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.has_logged("configuration kept as it was", "nonsense")
    daemon.ctl("umount", target)
    rawfs.wait(timeout=10)


def test_refused_flags_and_minor_of_the_configuration_are_not_offered(
    daemons: Callable[..., Daemon], target: Path, scripted: Callable[..., Scripted]
) -> None:
    daemons('[init]\nrefuse = ["DO_READDIRPLUS"]\nminor = 31\n')
    fs = scripted(target, flags=0xFFFF_FFFF)
    (target / "file").stat()
    offered = int.from_bytes(fs.requests[0][1][12:16], sys.byteorder)
    assert not offered & 1 << 13
    assert int.from_bytes(fs.requests[0][1][4:8], sys.byteorder) == 31


# -- traces and debug lines ------------------------------------------------------------------------


def test_sigusr1_twice_writes_the_last_operations_with_path_error_and_elapsed(daemon: Daemon, target: Path) -> None:
    rawfs = daemon.rawfs(target, "-T", "0")
    daemon.process.send_signal(signal.SIGUSR1)
    daemon.has_logged("tracing on")
    (target / "folder").mkdir()
    (target / "folder" / "file").write_text("x")
    with pytest.raises(FileNotFoundError):
        (target / "folder" / "missing").stat()
    daemon.process.send_signal(signal.SIGUSR1)
    daemon.has_logged("trace written to")
    path = Path(answers.trace_path(str(daemon.place), str(target), 1))
    text = eventually(lambda: path.read_text(), "the trace is written")
    eventually(lambda: "requests in flight" in path.read_text(), "the trace is whole")
    text = path.read_text()
    assert re.search(r"LOOKUP /folder missing 0 \d+ ENOENT [\d.]+us", text)
    assert re.search(r"CREATE /folder file 0 \d+ ok [\d.]+us", text)
    assert re.search(r"^CREATE +1 +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+$", text, re.MULTILINE)
    assert path.stat().st_mode & 0o777 == 0o600
    daemon.ctl("umount", target)
    rawfs.wait(timeout=10)


def test_a_trace_shows_what_is_still_going_on(daemons: Callable[..., Daemon], target: Path) -> None:
    daemon = daemons(options=("--trace",))
    daemon.faulty("stuck", target)
    reader = subprocess.Popen(["cat", target / "hello"], stderr=subprocess.DEVNULL)
    eventually(lambda: [each for each in daemon.stats(target)["oldest"] if each["opcode"] == "READ"], "a READ is stuck")
    daemon.process.send_signal(signal.SIGUSR1)
    path = Path(answers.trace_path(str(daemon.place), str(target), 1))
    eventually(lambda: path.exists() and "requests in flight: 1" in path.read_text(), "the trace is whole")
    assert re.search(r"READ /hello - 0 \d+ - ongoing", path.read_text())
    daemon.ctl("umount", "--force", target)
    reader.wait(timeout=10)


def test_debug_classes_show_frames_and_sigusr2_switches_them(daemons: Callable[..., Daemon], target: Path) -> None:
    daemon = daemons(options=("-d", "filename,reize", "-s"))
    rawfs = daemon.rawfs(target)
    (target / "quiet").write_text("x")
    assert "quiet" not in daemon.log()
    daemon.process.send_signal(signal.SIGUSR2)
    names = (f"loud{turn}" for turn in count())
    shown = re.compile(r"DEBUG: \d+ CREATE nodeid=1 \"loud")
    eventually(lambda: (target / next(names)).write_text("x") and shown.search(daemon.log()), "debug lines are on")
    assert not re.search(r"DEBUG: \d+ RELEASE", daemon.log())
    daemon.ctl("umount", target)
    rawfs.wait(timeout=10)


# -- systemd ---------------------------------------------------------------------------------------


def test_a_socket_from_systemd_is_served_and_readiness_is_told(tmp_path: Path) -> None:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(str(tmp_path / "activated"))
    listening.listen()
    notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notified.bind(str(tmp_path / "notify"))
    notified.settimeout(10)
    # LISTEN_PID must be the daemon's own, and descriptor 3 the socket: as systemd does it, between fork and exec.
    wrapper = 'exec 3<&"$0"; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@"'
    daemon = subprocess.Popen(
        ["bash", "-c", wrapper, str(listening.fileno()), *PERFUSED, "-f"], pass_fds=(listening.fileno(),), cwd=ROOT,
        env=os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert b"READY=1" in notified.recv(4096)
        with connect(str(tmp_path / "activated")):
            pass
        daemon.terminate()
        assert b"STOPPING=1" in notified.recv(4096)
        assert daemon.wait(timeout=10) == 0
    finally:
        daemon.kill()
        daemon.wait()
        listening.close()
        notified.close()


# -- private daemons -------------------------------------------------------------------------------


@pytest.fixture
def private(tmp_path: Path) -> dict[str, str]:
    """An environment in which no daemon listens and the private one is ours."""
    program = tmp_path / "perfused"
    program.write_text(f'#!/bin/sh\ncd {ROOT} && exec {" ".join(PERFUSED)} "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {"PERFUSED_SOCKET": str(tmp_path / "nobody"), "PERFUSED": str(program)}
    environment.pop("PERFUSE_NO_PRIVATE", None)
    return environment


def daemons_of(target: Path) -> list[int]:
    """Pids of processes whose environment or command names a place: private daemons of this test."""
    found = []
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            try:
                command = (each / "cmdline").read_bytes()
                environment = (each / "environ").read_bytes()
            except OSError:
                continue
            if b"perfused.cli.daemon" in command and os.fsencode(target.parent) in environment:
                found.append(int(each.name))
    return found


def test_a_c_filesystem_without_a_daemon_gets_a_private_one_that_ends_with_it(
    private: dict[str, str], target: Path, tmp_path: Path
) -> None:
    rawfs = subprocess.Popen([BUILD / "rawfs-perfuse", target], env=private, text=True, stdout=subprocess.PIPE)
    assert rawfs.stdout is not None
    assert "mounted on" in rawfs.stdout.readline()
    (target / "file").write_text("private")
    assert (target / "file").read_text() == "private"
    assert daemons_of(target)
    subprocess.run(["umount", target], check=True)
    assert rawfs.wait(timeout=10) == 0
    rawfs.stdout.close()
    eventually(lambda: not daemons_of(target), "the private daemon has ended")


def test_a_private_daemons_mount_goes_when_its_filesystem_is_killed(private: dict[str, str], target: Path) -> None:
    rawfs = subprocess.Popen([BUILD / "rawfs-perfuse", target], env=private, text=True, stdout=subprocess.PIPE)
    assert rawfs.stdout is not None
    rawfs.stdout.readline()
    rawfs.kill()
    rawfs.wait()
    rawfs.stdout.close()
    eventually(lambda: not fuse_mounts(target), "the mount is gone")
    eventually(lambda: not daemons_of(target), "the private daemon has ended")


def test_a_python_filesystem_without_a_daemon_gets_a_private_one(
    private: dict[str, str], target: Path, monkeypatch: pytest.MonkeyPatch, scripted: Callable[..., Scripted]
) -> None:
    for name in ("PERFUSED_SOCKET", "PERFUSED"):
        monkeypatch.setenv(name, private[name])
    monkeypatch.delenv("PERFUSE_NO_PRIVATE", raising=False)
    fs = scripted(target)
    assert (target / "file").stat().st_size
    fs.close()
    eventually(lambda: not fuse_mounts(target), "the mount is gone")
    eventually(lambda: not daemons_of(target), "the private daemon has ended")


def test_a_private_daemon_that_is_never_used_ends(private: dict[str, str], tmp_path: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    done = perfused("-i", str(theirs.fileno()), pass_fds=(theirs.fileno(),), env=private)
    assert done.returncode == 0
    theirs.close()
    assert daemons_of(tmp_path / "x")
    ours.close()
    eventually(lambda: not daemons_of(tmp_path / "x"), "the private daemon has ended")


def test_without_a_daemon_and_private_ones_forbidden_the_error_is_connects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERFUSED_SOCKET", str(tmp_path / "nobody"))
    monkeypatch.setenv("PERFUSE_NO_PRIVATE", "1")
    with pytest.raises(PerfuseError) as caught:
        perfuse_open("/dev/fuse")
    assert caught.value.errno == errno.ENOENT
    assert str(tmp_path / "nobody") in caught.value.strerror


# -- user namespaces -------------------------------------------------------------------------------


def test_it_works_inside_a_user_namespace(tmp_path: Path, target: Path) -> None:
    script = f"""
        export PERFUSED_SOCKET={tmp_path}/sock
        {" ".join(PERFUSED)} -f 2>{tmp_path}/log & daemon=$!
        for i in $(seq 200); do [ -S $PERFUSED_SOCKET ] && break; sleep 0.05; done
        {BUILD}/rawfs-perfuse {target} >/dev/null & fs=$!
        for i in $(seq 200); do grep -q {target} /proc/self/mounts && break; sleep 0.05; done
        head -c 3000000 /dev/urandom > {tmp_path}/data
        cp {tmp_path}/data {target}/data; cmp {tmp_path}/data {target}/data && echo same
        grep CapPrm /proc/$(pgrep -P $daemon -x perfused-mount)/status
        {sys.executable} -m perfused.cli.control umount {target}; wait $fs; echo filesystem $?
        kill $daemon; wait $daemon; echo daemon $?
    """
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "--propagation", "private", "sh", "-c", script],
        text=True, capture_output=True, timeout=40, check=False, cwd=ROOT,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines == ["same", "CapPrm:\t0000000000000000", "filesystem 0", "daemon 0"], (
        done.stderr + (tmp_path / "log").read_text()
    )


# -- devices ---------------------------------------------------------------------------------------


def test_it_waits_for_the_device_to_appear_and_gives_up_in_time(tmp_path: Path) -> None:
    path = tmp_path / "fuse"
    assert not devices.wait_for_device(0.3, str(path))
    waiting = subprocess.Popen(["sh", "-c", f"sleep 0.3; mknod {path} c 10 229"])
    assert devices.wait_for_device(10, str(path))
    assert waiting.wait() == 0


def test_without_the_device_it_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "perfused.toml").write_text("[daemon]\ndevice_wait = 0.2\n")
    command = " ".join(PERFUSED)
    script = f"mount -t tmpfs none /dev && exec {command} -f --config {tmp_path}/perfused.toml --socket {tmp_path}/s"
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", script], text=True, capture_output=True, timeout=30,
        check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 69
    assert "/dev/fuse is not there" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_superblock_is_seen_to_come_and_go_by_its_bdi_device(target: Path, daemon: Daemon) -> None:
    watch = devices.BdiWatch()
    assert watch.fileno() >= 0
    rawfs = daemon.rawfs(target)
    minor = os.minor(os.stat(target).st_dev)
    seen: list[devices.Bdi] = []
    eventually(lambda: seen.extend(watch.read()) or devices.Bdi("add", minor) in seen, "the bdi device has come")
    daemon.ctl("umount", target)
    rawfs.wait(timeout=10)
    eventually(lambda: seen.extend(watch.read()) or devices.Bdi("remove", minor) in seen, "the bdi device has gone")


# -- where it may do little ------------------------------------------------------------------------


def test_in_the_background_lines_go_to_syslog(tmp_path: Path) -> None:
    script = f"""
        mount -t tmpfs none /dev && mknod /dev/fuse c 10 229 && mknod /dev/null c 1 3 && mknod /dev/urandom c 1 9
        {sys.executable} -c '
import socket, sys
log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); log.bind("/dev/log"); log.settimeout(10)
print("bound", flush=True); print(log.recv(4096).decode())' > {tmp_path}/syslog &
        while ! grep -q bound {tmp_path}/syslog; do sleep 0.05; done
        {" ".join(PERFUSED)} --socket {tmp_path}/sock && wait; pkill -f {tmp_path}/sock
    """
    subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", script], timeout=30, check=False, cwd=ROOT,
        capture_output=True,
    )  # fmt: skip
    text = (tmp_path / "syslog").read_text()
    assert re.search(r"<30>perfused\[\d+\]: ready", text), text


def test_without_the_right_to_mount_the_refusal_says_what_is_missing(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sock"
    monkeypatch.setenv("PERFUSED_SOCKET", str(path))
    monkeypatch.setenv("PERFUSE_NO_PRIVATE", "1")
    daemon = subprocess.Popen(
        ["setpriv", "--bounding-set", "-sys_admin", *PERFUSED, "-f"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    try:
        eventually(path.exists, "it listens")
        fd = perfuse_open("/dev/fuse")
        with pytest.raises(PerfuseError) as caught:
            perfuse_mount("x", str(target), "fuse", 0, f"fd={fd}")
        os.close(fd)
    finally:
        daemon.terminate()
        _, said = daemon.communicate(timeout=10)
    assert caught.value.errno == errno.EPERM
    assert "Operation not permitted" in caught.value.strerror
    assert "Traceback" not in said
