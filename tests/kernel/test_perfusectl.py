"""perfusectl against a running daemon: what it shows is true, what it refuses is one line and a status."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.conftest import ROOT, Daemon, fuse_mounts
from tests.kernel.scripted import Scripted
from wire import codec
from wire.flags import OpenFlag
from wire.opcodes import Notify, Opcode

Mount = Callable[..., Scripted]
NOBODY = 65534


def one_line(done: "subprocess.CompletedProcess[str]", *words: str) -> None:
    """What a refusal must be: status 1, one line on stderr with all words in it, nothing on stdout."""
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("perfusectl: ")
    assert all(word in line for word in words), line


# -- mounts ------------------------------------------------------------------------------------------


def test_mounts_lists_every_mount_with_what_it_is(daemon: Daemon, tmp_path: Path, scripted: Mount) -> None:
    targets = [tmp_path / "one", tmp_path / "two"]
    for each in targets:
        each.mkdir()
    scripted(targets[0])
    daemon.rawfs(targets[1])
    found = json.loads(daemon.ctl("mounts", "--json").stdout)
    assert [(row["target"], row["fstype"], row["endpoint"], row["uid"]) for row in found] == [
        (str(targets[0]), "fuse.scripted", "socket", 0),
        (str(targets[1]), "fuse.rawfs", "socket", 0),
    ]
    assert [row["minor"] for row in found] == [os.minor(os.stat(each).st_dev) for each in targets]
    assert sorted(row["worker"] for row in found) == sorted(daemon.workers())
    assert found[1]["program"] == "rawfs-perfuse"


def test_mounts_shows_a_table_with_a_line_a_mount(daemon: Daemon, target: Path) -> None:
    daemon.rawfs(target)
    heading, line = daemon.ctl("mounts").stdout.splitlines()
    assert heading.split() == ["NR", "MOUNT", "TYPE", "SOURCE", "ENDPOINT", "UID", "PROGRAM", "WORKER", "UP"]
    assert line.split()[:7] == ["1", str(target), "fuse.rawfs", "rawfs", "socket", "0", "rawfs-perfuse"]


def test_mounts_without_any_is_an_empty_list(daemon: Daemon) -> None:
    assert json.loads(daemon.ctl("mounts", "--json").stdout) == []


def test_names_are_shown_as_they_are_and_never_act_on_the_terminal(
    daemon: Daemon, tmp_path: Path, scripted: Mount
) -> None:
    names = ["[red]x", "[bold]x[/bold]", "[/x]", "[link=file:x]", ":warning:", "a b", "\x1b[31mred", "\udcff", "\n"]
    for name in names:
        (place := tmp_path / name).mkdir(parents=True)
        scripted(place)
        shown = daemon.ctl("mounts").stdout + daemon.ctl("stats", place).stdout
        escaped = name.replace("\x1b", "\\x1b").replace("\udcff", "\\xff").replace("\n", "\\x0a")
        assert shown.count(f"{tmp_path}/{escaped} ") == 2, name
        assert "\x1b" not in shown


# -- stats -------------------------------------------------------------------------------------------


def test_stats_counts_requests_and_errors_by_opcode(daemon: Daemon, target: Path, scripted: Mount) -> None:
    scripted(target, {Opcode.STATFS: lambda *_: bytes(80), Opcode.GETXATTR: lambda *_: -errno.ENODATA})
    for _ in range(7):
        os.statvfs(target)
    for _ in range(3):
        with pytest.raises(OSError):
            os.getxattr(target / "file", "user.colour")
    daemon.idle(target)
    found = json.loads(daemon.ctl("stats", "--json", target).stdout)
    assert [found["requests"]["STATFS"], found["requests"]["GETXATTR"]] == [7, 3]
    assert found["errors"] == {"GETXATTR": 3}
    assert [found["state"], found["minor"], found["in_flight"]] == ["RUNNING", 45, 0]


def test_stats_shows_who_is_waiting_and_for_what(daemon: Daemon, target: Path, scripted: Mount) -> None:
    fs = scripted(target, {Opcode.READ: lambda *_: None})
    caller = subprocess.Popen(["cat", target / "file"], stderr=subprocess.DEVNULL)
    asked, _ = fs.wait_for(Opcode.READ)
    (waiting,) = daemon.stats(target)["oldest"]
    assert [waiting["opcode"], waiting["unique"], waiting["pid"]] == ["READ", asked.unique, caller.pid]
    assert f"READ unique={asked.unique} nodeid=2 pid={caller.pid}" in daemon.ctl("stats", target).stdout
    fs.reply(asked, -errno.EIO)
    assert caller.wait(timeout=10) == 1


def test_timing_is_measured_from_when_it_is_switched_on_until_it_is_switched_off(
    daemon: Daemon, target: Path, scripted: Mount
) -> None:
    scripted(target, {Opcode.STATFS: lambda *_: bytes(80)})
    os.statvfs(target)
    assert daemon.stats(target)["latency"] is None
    daemon.ctl("stats", "--timing", "on", target)
    for _ in range(5):
        os.statvfs(target)
    row = daemon.stats(target)["latency"]["STATFS"]
    assert row["count"] == 5
    assert 0 < row["min_us"] <= row["avg_us"] <= row["max_us"]
    assert row["min_us"] <= row["p99_us"] <= row["max_us"]
    assert "P99 us" in daemon.ctl("stats", target).stdout
    daemon.ctl("stats", "--timing", "off", target)
    assert daemon.stats(target)["latency"] is None


def test_stats_of_a_direct_mount_say_that_it_is_one(daemons: Callable[..., Daemon], target: Path) -> None:
    daemon = daemons(environment={"PERFUSE_ENDPOINT": "direct"})
    daemon.rawfs(target)
    assert daemon.stats(target)["state"] == "DIRECT"
    assert "DIRECT" in daemon.ctl("stats", target).stdout


# -- trace -------------------------------------------------------------------------------------------


def follow(daemon: Daemon, target: Path, *options: str, act: Callable[[], object]) -> list[dict[str, Any]]:
    """The frames of a trace with these options while `act` runs, until the mount ends."""
    watching = daemon.tracing(target, "--json", *options)
    act()
    subprocess.run(["umount", target], check=True)
    text, complaints = watching.communicate(timeout=20)
    assert [watching.returncode, complaints] == [0, ""]
    return [json.loads(line) for line in text.splitlines()]


def test_a_trace_shows_requests_and_their_answers_decoded_as_lines(daemon: Daemon, target: Path) -> None:
    daemon.rawfs(target)
    watching = daemon.tracing(target)
    (target / "made").write_text("x")
    subprocess.run(["umount", target], check=True)
    text, _ = watching.communicate(timeout=20)
    asked = next(line for line in text.splitlines() if " CREATE " in line and '"made"' in line)
    unique = asked.split()[1]
    answered = next(line for line in text.splitlines() if line.split()[1:4] == [unique, "CREATE", "->"])
    assert asked.endswith("/made")
    assert answered.endswith("us")


def test_a_trace_shows_an_answer_before_what_its_caller_asks_next(daemon: Daemon, target: Path) -> None:
    """On one core whoever is given an answer goes on before who gave it."""
    filesystem = daemon.rawfs(target, "-T", "0")
    (target / "file").touch()
    watching = daemon.tracing(target)
    everywhere = os.sched_getaffinity(0)
    threads = Path(f"/proc/{daemon.stats(target)['worker']}/task").iterdir()
    try:
        for each in (0, filesystem.pid, *(int(thread.name) for thread in threads)):
            os.sched_setaffinity(each, {min(everywhere)})
        with open(target / "file", "rb") as file:
            for _ in range(200):
                os.fstat(file.fileno())
    finally:
        os.sched_setaffinity(0, everywhere)
    subprocess.run(["umount", target], check=True)
    text, _ = watching.communicate(timeout=20)
    words = [line.split() for line in text.splitlines() if " GETATTR " in line]
    asked, answered = words[:-1:2], words[1::2]
    assert len(answered) >= 200
    assert all(each[3] == "->" and each[1] == before[1] for before, each in zip(asked, answered, strict=True))


def test_a_trace_as_json_pairs_answers_with_requests(daemon: Daemon, target: Path) -> None:
    daemon.rawfs(target)
    frames = follow(daemon, target, act=lambda: (target / "made").mkdir())
    (asked,) = [each for each in frames if (each["opcode"], each["direction"]) == ("MKDIR", "request")]
    (answered,) = [each for each in frames if (each["opcode"], each["direction"]) == ("MKDIR", "reply")]
    assert [asked["path"], asked["nodeid"], asked["frame"]["names"]] == ["/made", 1, ['"made"']]
    assert answered["frame"]["header"]["unique"] == asked["frame"]["header"]["unique"]
    assert answered["elapsed_us"] > 0


def test_a_trace_of_some_opcodes_shows_no_other(daemon: Daemon, target: Path, scripted: Mount) -> None:
    fs = scripted(target, {Opcode.STATFS: lambda *_: bytes(80)})

    def act() -> None:
        os.statvfs(target)
        fs.notify(Notify.INC_EPOCH)
        (target / "file").read_bytes()

    frames = follow(daemon, target, "--opcode", "statfs", "--opcode", "LOOKUP", act=act)
    assert {each["opcode"] for each in frames} == {"STATFS", "LOOKUP"}


def test_a_trace_of_a_process_shows_its_requests_and_their_answers_alone(daemon: Daemon, target: Path) -> None:
    daemon.rawfs(target, "-T", "0")
    # A shell that waits to be told: its pid must be known before it does anything.
    caller = subprocess.Popen(
        ["sh", "-c", 'read line; exec touch -d @1 "$1"', "-", target / "theirs"], stdin=subprocess.PIPE
    )

    def act() -> None:
        (target / "mine").write_text("x")
        caller.communicate(b"go\n", timeout=10)
        (target / "mine too").write_text("x")

    frames = follow(daemon, target, "--pid", str(caller.pid), act=act)
    requests = [each for each in frames if each["direction"] == "request"]
    assert {each["frame"]["header"]["pid"] for each in requests} == {caller.pid}
    assert {"/theirs"} == {each["path"] for each in requests if each["opcode"] == "CREATE"}
    uniques = {each["frame"]["header"]["unique"] for each in requests}
    assert {each["frame"]["header"]["unique"] for each in frames} == uniques


def test_a_trace_of_a_directory_shows_only_what_is_below_it(daemon: Daemon, target: Path) -> None:
    daemon.rawfs(target, "-T", "0")

    def act() -> None:
        for name in ("wanted", "other"):
            (target / name).mkdir()
            (target / name / "file").write_text("x")

    frames = follow(daemon, target, "--path", "/wanted/", act=act)
    requests = [each for each in frames if each["direction"] == "request"]
    assert {each["path"] for each in requests} == {"/wanted/file"}
    assert {"CREATE", "WRITE", "RELEASE"} <= {each["opcode"] for each in requests}


def test_a_trace_ends_after_count_frames(daemon: Daemon, target: Path) -> None:
    daemon.rawfs(target)
    watching = daemon.tracing(target, "--count", "3")
    os.listdir(target)
    text, _ = watching.communicate(timeout=10)
    assert len(text.splitlines()) == 3


def test_a_trace_ends_after_so_many_seconds(daemon: Daemon, target: Path) -> None:
    daemon.rawfs(target)
    done = daemon.ctl("trace", "--seconds", "0.2", target)
    assert done.stdout == ""


def test_no_file_data_is_in_a_trace(daemon: Daemon, target: Path, scripted: Mount) -> None:
    secret = b"the secret of the file"
    scripted(
        target,
        {
            Opcode.READ: lambda *_: secret,
            Opcode.OPEN: lambda *_: codec.open_out.pack(1, OpenFlag.DIRECT_IO, 0),
        },
    )

    def act() -> None:
        fd = os.open(target / "file", os.O_RDWR)
        assert os.read(fd, 100) == secret
        assert os.write(fd, secret) == len(secret)
        os.close(fd)

    frames = follow(daemon, target, act=act)
    (read,) = [each for each in frames if (each["opcode"], each["direction"]) == ("READ", "reply")]
    (write,) = [each for each in frames if (each["opcode"], each["direction"]) == ("WRITE", "request")]
    assert [read["length"], write["length"]] == [16 + len(secret), 80 + len(secret)]
    assert "secret" not in json.dumps(frames)


def test_a_slow_reader_of_a_trace_loses_frames_and_is_told_while_the_mount_goes_on(
    daemon: Daemon, target: Path
) -> None:
    daemon.rawfs(target, "-T", "0")
    watching = daemon.tracing(target)
    assert watching.stdout is not None
    assert watching.stderr is not None
    for _ in range(12_000):
        os.stat(target)
        os.access(target / "nothing", os.F_OK)
    daemon.idle(target)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(watching.stdout.read)
        complaint = watching.stderr.readline()
        subprocess.run(["umount", target], check=True)
        assert "LOOKUP" in read.result(timeout=20)
    found = re.fullmatch(r"... (\d+) frames dropped: this reader is too slow\n", complaint)
    assert found
    assert int(found[1]) > 0
    assert watching.wait(timeout=10) == 0


def test_a_reader_that_leaves_ends_its_trace_and_nothing_else(daemon: Daemon, target: Path) -> None:
    daemon.rawfs(target, "-T", "0")
    daemon.tracing(target).kill()
    for _ in range(100):
        os.stat(target)
    assert daemon.stats(target)["state"] == "RUNNING"


# -- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["stats", "trace", "umount"])
def test_a_path_that_is_no_mount_is_refused_in_one_line(daemon: Daemon, tmp_path: Path, command: str) -> None:
    one_line(daemon.ctl(command, tmp_path / "none", check=False), "none", "no mount of this perfused")


@pytest.mark.parametrize("command", [("mounts",), ("stats", "/x"), ("trace", "/x"), ("umount", "/x")])
def test_without_a_daemon_every_command_is_one_line(tmp_path: Path, command: tuple[str, ...]) -> None:
    socket = tmp_path / "none.sock"
    done = _ctl("--socket", str(socket), *command)
    one_line(done, str(socket), "no perfused to be reached there")


#: perfusectl as another user, who may not even read this Python: it is all imported before
AS_NOBODY = f"""
import os
from perfused import probe
from perfused.cli import asking, control, probing
os.setgroups([])
os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
control.main()
"""


def _ctl(*words: str, nobody: bool = False) -> "subprocess.CompletedProcess[str]":
    program = ("-c", AS_NOBODY) if nobody else ("-m", "perfused.cli.control")
    command = [sys.executable, *program, *words]
    return subprocess.run(command, text=True, capture_output=True, timeout=30, check=False, cwd=ROOT)


def test_an_opcode_that_does_not_exist_is_a_usage_error(daemon: Daemon) -> None:
    done = daemon.ctl("trace", "--opcode", "NONE", "/x", check=False)
    assert done.returncode == 64
    assert "--opcode NONE" in done.stderr


def test_a_trace_of_a_direct_mount_is_refused_with_the_reason(daemons: Callable[..., Daemon], target: Path) -> None:
    daemon = daemons(environment={"PERFUSE_ENDPOINT": "direct"})
    daemon.rawfs(target)
    one_line(daemon.ctl("trace", target, check=False), str(target), "no frame of it passes the daemon")


@pytest.fixture
def public() -> Iterator[Path]:
    """A socket path that every user may reach."""
    place = tempfile.mkdtemp(prefix="perfused-test-")
    os.chmod(place, 0o755)
    yield Path(place) / "socket"
    shutil.rmtree(place)


@pytest.mark.parametrize("command", ["umount", "stats", "trace"])
def test_another_users_mount_is_refused_and_stays(
    daemons: Callable[..., Daemon], target: Path, public: Path, command: str
) -> None:
    daemon = daemons(options=("--socket", str(public)), environment={"PERFUSED_SOCKET": str(public)})
    daemon.environment["PERFUSED_SOCKET"] = str(public)
    daemon.rawfs(target)
    done = _ctl("--socket", str(public), command, str(target), nobody=True)
    one_line(done, "the mount is another user's")
    assert fuse_mounts(target) == [str(target)]


def test_another_users_mount_is_not_listed(daemons: Callable[..., Daemon], target: Path, public: Path) -> None:
    daemon = daemons(options=("--socket", str(public)))
    daemon.environment["PERFUSED_SOCKET"] = str(public)
    daemon.rawfs(target)
    done = _ctl("--socket", str(public), "mounts", "--json", nobody=True)
    assert [done.returncode, json.loads(done.stdout)] == [0, []]


# -- probe -------------------------------------------------------------------------------------------


def test_probe_as_json_says_what_the_kernel_offers() -> None:
    done = _ctl("probe", "--json")
    assert [done.returncode, done.stderr] == [0, ""]
    found = json.loads(done.stdout)
    assert [found["major"], found["flags"]["ASYNC_READ"]] == [7, True]
    assert found["minor"] >= 31
    assert found["limits"]["max_pages_limit"] == Path("/proc/sys/fs/fuse/max_pages_limit").read_text().strip()


def test_probe_shows_every_flag_and_what_becomes_of_it() -> None:
    done = _ctl("probe")
    assert [done.returncode, done.stderr] == [0, ""]
    words = {line.split()[1]: line for line in done.stdout.splitlines() if len(line.split()) > 3}
    assert "yes" in words["ASYNC_READ"]
    assert "refused" in words["SPLICE_READ"].lower()


def test_probe_leaves_no_mount_behind() -> None:
    before = fuse_mounts(Path("/"))
    assert _ctl("probe").returncode == 0
    assert fuse_mounts(Path("/")) == before


def test_probe_without_the_right_to_mount_is_one_clear_line() -> None:
    one_line(_ctl("probe", nobody=True), "probe: ", "/dev/fuse")
