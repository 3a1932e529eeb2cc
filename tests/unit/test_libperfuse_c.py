"""The C library against a daemon that is scripted here, byte by byte, from docs/control-protocol.md."""

import array
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")

ROOT = Path(__file__).resolve().parents[2]
ALL_ONES = 2**64 - 1
HEAD = struct.Struct("=IiQ8sHHI")
HELLO, WELCOME, MOUNT, VERDICT = 1, 2, 3, 4
FUSE_FRAME = struct.pack("=IIQQIIII", 40, 26, 7, 1, 0, 0, 0, 0)
SANITIZED = ["-g", "-O1", "-fsanitize=address,undefined"]


def control(
    kind: int, body: bytes, error: int = 0, flags: int = 0, magic: bytes = b"perfuse2", length: int = 0
) -> bytes:
    return HEAD.pack(length or HEAD.size + len(body), error, ALL_ONES, magic, kind, flags, 0) + body


def welcome(endpoint: int = 1, message: bytes = b"", **head: int | bytes) -> bytes:
    return control(WELCOME, struct.pack("=IIII", endpoint, 1 << 21, len(message), 0) + message, **head)  # type: ignore[arg-type]


def verdict(error: int = 0, message: bytes = b"", claimed: int | None = None, **head: int | bytes) -> bytes:
    size = len(message) if claimed is None else claimed
    return control(VERDICT, struct.pack("=II", 0 if error else 42, size) + message, error=error, **head)  # type: ignore[arg-type]


def strings(frame: bytes) -> list[bytes | None]:
    """The source, target, type and data of a MOUNT frame, each checked to be counted with its NUL."""
    *lengths, flags, data_len, reserved = struct.unpack_from("=6I", frame, HEAD.size)
    assert reserved == 0
    assert flags == 2  # MS_NOSUID
    at, found = HEAD.size + 24, []
    for size in [*lengths, data_len]:
        piece = frame[at : at + size]
        assert piece.find(b"\0") == size - 1
        found.append(piece[:-1] if size else None)
        at += size
    assert at == len(frame)
    return found


def receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    data, ancillary, _, _ = sock.recvmsg(65536, 4096)
    fds = array.array("i")
    for _, _, payload in ancillary:
        fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return data, list(fds)


class Daemon:
    """Answers a HELLO with `greeting`, and each MOUNT with the next of `verdicts`: bytes, or None to hang up."""

    def __init__(
        self, path: Path, greeting: bytes | None, verdicts: list[bytes | None], device: str = "socket", extra: int = 0
    ):
        self.greeting, self.verdicts, self.device, self.extra = greeting, verdicts, device, extra
        self.hellos: list[bytes] = []
        self.mounts: list[tuple[list[bytes | None], str]] = []
        self.trouble: list[BaseException] = []
        self.ended = threading.Event()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(path))
        self.listener.listen(128)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.guarded, args=(connection,), daemon=True).start()

    def guarded(self, connection: socket.socket) -> None:
        try:
            with connection:
                self.serve(connection)
        except BaseException as problem:
            self.trouble.append(problem)

    def serve(self, connection: socket.socket) -> None:
        frame, _ = receive(connection)
        size, error, unique, magic, kind, flags, reserved = HEAD.unpack_from(frame)
        assert (size, error, unique, magic) == (len(frame), 0, ALL_ONES, b"perfuse2")
        assert (kind, flags, reserved) == (HELLO, 0, 0)
        self.hellos.append(frame[HEAD.size :])
        if self.greeting is None:
            return
        theirs: socket.socket | BinaryIO | None = None
        if self.device == "socket":
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.bind(b"\0perfused/" + os.urandom(8).hex().encode())
            passed = [theirs.fileno()]
        elif self.device == "null":
            ours, theirs = connection, os.fdopen(os.open("/dev/null", os.O_RDWR), "r+b", 0)
            passed = [theirs.fileno()]
        else:
            ours, passed = connection, []
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", passed * (1 + self.extra)))] if passed else []
        connection.sendmsg([self.greeting], rights)
        if theirs is not None:
            theirs.close()
        if ours is not connection:
            connection.close()
        with ours:
            for answer in self.verdicts:
                if answer == FUSE_FRAME:
                    ours.send(answer)  # before it is asked anything, as a mounted device would
                    answer = b""
                frame, pinned = receive(ours)
                if not frame:
                    return
                assert len(pinned) == 1
                self.mounts.append((strings(frame), os.readlink(f"/proc/self/fd/{pinned[0]}")))
                os.close(pinned[0])
                if answer is None:
                    return
                if answer:
                    ours.send(answer)
            ours.recv(1)
        self.ended.set()


def build(where: Path, flags: list[str]) -> Path:
    subprocess.run(
        ["make", "-s", "-C", str(ROOT / "libperfuse"), f"BUILD={where}", f"CFLAGS={' '.join(flags)}"], check=True
    )
    program = where / "perfuse_ctest"
    source = Path(__file__).with_name("perfuse_ctest.c")
    strict = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-pthread", f"-I{ROOT / 'libperfuse'}"]
    link = [f"-L{where}", "-lperfuse", f"-Wl,-rpath,{where}"]
    subprocess.run(["gcc", *strict, *flags, "-o", str(program), str(source), *link], check=True)
    return program


@pytest.fixture(scope="module", params=["plain", "sanitized"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("build"), SANITIZED if request.param == "sanitized" else ["-O2"])


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("library"), ["-O2"]).parent


Start = Callable[..., Daemon]
Run = Callable[..., list[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[Daemon] = []

    def start(greeting: bytes | None = None, verdicts: list[bytes | None] | None = None, **how: str | int) -> Daemon:
        path = tmp_path / "sock"
        running.append(Daemon(path, greeting, verdicts or [], **how))  # type: ignore[arg-type]
        return running[-1]

    yield start
    for daemon in running:
        daemon.listener.shutdown(socket.SHUT_RDWR)
        daemon.listener.close()
        assert not daemon.trouble


@pytest.fixture
def run(program: Path, tmp_path: Path) -> Run:
    def run(*args: str, **environment: str) -> list[str]:
        env = {"PATH": os.environ["PATH"], "PERFUSED_SOCKET": str(tmp_path / "sock"), "SCRATCH": str(tmp_path)}
        env |= {"PERFUSE_NO_PRIVATE": "1", **environment}
        done = subprocess.run([program, *args], env=env, capture_output=True, text=True, timeout=60)
        assert "Sanitizer" not in done.stderr, done.stderr
        assert "runtime error" not in done.stderr, done.stderr
        return done.stdout.splitlines() + done.stderr.splitlines()

    return run


@pytest.mark.parametrize(
    ("flags", "told"), [("", "0 nonblock=0"), ("c", "1 nonblock=0"), ("n", "0 nonblock=1"), ("cn", "1 nonblock=1")]
)
def test_open_honours_the_flags(start: Start, run: Run, flags: str, told: str) -> None:
    daemon = start(welcome(), [verdict()])
    assert run("open", flags) == [f"ok: cloexec={told}"]
    name = b"perfuse_ctest\0"
    assert daemon.hellos == [struct.pack("=II", 0, len(name)) + name]


@pytest.mark.parametrize(("name", "number"), [("any", 0), ("socket", 1), ("device", 2), ("direct", 3)])
def test_the_environment_names_the_endpoint(start: Start, run: Run, name: str, number: int) -> None:
    daemon = start(welcome(), [verdict()])
    assert run("open", PERFUSE_ENDPOINT=name) == ["ok: cloexec=0 nonblock=0"]
    assert struct.unpack_from("=I", daemon.hellos[0]) == (number,)


def test_an_unknown_endpoint_is_refused_without_a_connection(start: Start, run: Run) -> None:
    daemon = start(welcome(), [])
    assert run("open", PERFUSE_ENDPOINT="sockets") == [
        "EINVAL: PERFUSE_ENDPOINT is none of any, socket, device, direct"
    ]
    assert not daemon.hellos


def test_nobody_listens(run: Run, tmp_path: Path) -> None:
    assert run("open")[0].startswith("ENOENT: no perfused can be reached at ")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as bound:
        bound.bind(str(tmp_path / "sock"))
        assert run("open")[0].startswith("ECONNREFUSED: ")
    assert run("open", PERFUSED_SOCKET="/" + "x" * 200)[0].startswith("ENAMETOOLONG: ")


def test_debug_prints_the_sentence(run: Run) -> None:
    assert any(
        line.startswith("libperfuse: no perfused can be reached at ") for line in run("open", PERFUSE_DEBUG="1")[1:]
    )


@pytest.mark.parametrize(
    ("greeting", "error"),
    [
        (welcome(message=b"too many mounts\0", error=-12), "ENOMEM: too many mounts"),
        (welcome(error=-13), "EACCES: perfused refused without a reason"),
        (None, "ECONNRESET"),
        (welcome(error=13), "EPROTO"),
        (welcome(error=-5000), "EPROTO"),
        (welcome(flags=1), "EPROTO"),
        (welcome(magic=b"perfuse3"), "EPROTO"),
        (welcome(length=4096), "EPROTO"),
        (welcome()[:40], "EPROTO"),
        (welcome(endpoint=0), "EPROTO"),
        (welcome(endpoint=4), "EPROTO"),
        (welcome(endpoint=3), "EPROTO"),  # it is a socket
        (control(VERDICT, bytes(16)), "EPROTO"),
        (control(WELCOME, struct.pack("=IIII", 1, 1 << 21, 4000, 0)), "EPROTO"),
        (FUSE_FRAME, "EPROTO"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "frame",
)
def test_open_reports_the_truth(start: Start, run: Run, greeting: bytes | None, error: str) -> None:
    start(greeting, [])
    (line,) = run("open")
    assert line.startswith(error)


def test_a_welcome_without_a_descriptor_is_none(start: Start, run: Run) -> None:
    start(welcome(), [], device="nothing")
    assert run("open") == ["EPROTO: perfused welcomed us without a descriptor"]


def test_surplus_descriptors_are_closed(start: Start, run: Run) -> None:
    daemon = start(welcome(), [verdict()], extra=5)
    assert run("mount")[0] == "ok: "
    assert daemon.ended.wait(5)


@pytest.mark.parametrize("flags", ["", "n"])
def test_mount_sends_what_it_was_given(start: Start, run: Run, tmp_path: Path, flags: str) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("directory")
    daemon = start(welcome(), [verdict(-16, b"busy\0"), verdict()])
    target = str(tmp_path / "link")
    assert run("mount", flags, TARGET=target) == ["EBUSY: busy", "ok: ", "left: 0"]
    (source, sent, fstype, data), pinned = daemon.mounts[0]
    assert (source, sent, fstype, pinned) == (b"source", target.encode(), b"fuse.test", str(tmp_path / "directory"))
    assert data is not None
    assert data.startswith(b"rootmode=40000,fd=")
    assert daemon.mounts[1][0][3] == data + b",again"


@pytest.mark.parametrize("fstype", ["fuse", "fuseblk", "fuseblk.x", "perfuse|x"])
def test_every_fuse_type_goes_to_perfused(start: Start, run: Run, fstype: str) -> None:
    daemon = start(welcome(), [verdict(), verdict()])
    assert run("mount", FSTYPE=fstype)[0] == "ok: "
    assert daemon.mounts[0][0][2] == fstype.encode()


@pytest.mark.parametrize("fstype", ["fusex", "fuse|x", "perfuse", "tmpfs-none"])
def test_every_other_type_goes_to_the_kernel(start: Start, run: Run, fstype: str) -> None:
    daemon = start(welcome(), [verdict(), verdict()])
    assert run("mount", FSTYPE=fstype, TARGET="/no-such-directory")[0] == "ENOENT: mount(2) failed"
    assert not daemon.mounts


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (verdict(-1, b"Only root may do that.\0"), "EPERM: Only root may do that."),
        (verdict(-22, b"x" * 5000 + b"\0"), "EINVAL: xxxx"),
        (verdict(-22), "EINVAL: perfused refused without a reason"),
        (None, "ECONNRESET"),
        (verdict()[:36], "EPROTO"),
        (verdict(5), "EPROTO"),
        (verdict(-1, b"x\0", claimed=3), "EPROTO"),
        (verdict(magic=b"noFuseRq"), "EPROTO"),
        (verdict(flags=1), "EPROTO"),
        (verdict() + b"more", "EPROTO"),
        (b"short", "EPROTO"),
        (welcome(), "EPROTO"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "frame",
)
def test_mount_reports_the_truth(start: Start, run: Run, answer: bytes | None, error: str) -> None:
    start(welcome(), [answer])
    assert run("mount")[0].startswith(error)


def test_a_mounted_descriptor_is_busy_and_keeps_its_frame(start: Start, run: Run) -> None:
    start(welcome(), [FUSE_FRAME, b""])
    lines = run("mount")
    assert lines[0] == lines[1] == "EBUSY: the descriptor is mounted already: it carries FUSE frames"
    assert lines[2] == f"left: {len(FUSE_FRAME)}"


def test_limits_are_checked_before_anything_is_sent(start: Start, run: Run) -> None:
    daemon = start(welcome(), [])
    errors = [line.split(":")[0] for line in run("limits")[:6]]
    assert errors == ["E2BIG", "ENAMETOOLONG", "ENAMETOOLONG", "ENAMETOOLONG", "ENOENT", "EFAULT"]
    assert not daemon.mounts


def test_what_is_not_ours_goes_to_the_kernel_or_is_named(run: Run, tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        lines = run("plain")
    finally:
        os.umask(umask)
    errors = [line.split(":")[0] for line in lines]
    assert errors == ["ENOENT", "ENOENT", "EBADF", "ENOTSOCK", "EINVAL", "EINVAL", "ENOENT", "ok"]
    assert (tmp_path / "created").stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="there is no /dev/fuse to open")
def test_a_real_device_goes_to_the_kernel(run: Run) -> None:
    assert run("real", TARGET="/no-such-directory") == ["ENOENT: mount(2) failed"]


def test_a_device_that_is_no_socket_mounts_on_the_kept_connection(start: Start, run: Run) -> None:
    daemon = start(welcome(endpoint=2), [verdict(-16, b"later\0"), verdict()], device="null")
    assert run("kept") == ["EBUSY: later", "ok: ", "same number: 1", *run("kept")[3:]]
    data = [strings[3] for strings, _ in daemon.mounts[:2]]
    assert [piece.rpartition(b"=")[2] for piece in data if piece] == [b"child", b"parent"]
    assert daemon.ended.wait(5)  # the number's new meaning closed the connection, or the process's end did


def test_the_last_connection_of_a_reused_number_is_gone(start: Start, run: Run) -> None:
    start(welcome(endpoint=2), [verdict(), verdict()], device="null")
    assert run("kept")[3].startswith("ENOTSOCK: ")


@pytest.mark.parametrize("forks", ["0", "30"])
def test_many_threads_and_forks(start: Start, run: Run, forks: str) -> None:
    daemon = start(welcome(), [verdict()])
    assert run("crowd", forks) == ["0 failures"]
    assert len(daemon.mounts) == 16 * 20 + int(forks)


PRIVATE = """#!{python}
import array, os, socket, struct, sys
assert sys.argv[1] == "-i"
fds = " ".join(sorted(os.listdir("/proc/self/fd")))
open({report!r}, "w").write(fds + "|" + str(os.getsid(0) == os.getpid()))
s = socket.socket(fileno=int(sys.argv[2]))
s.recv(65536)
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
a.bind(b"\\0perfused/private%d" % os.getpid())
s.sendmsg([{welcome!r}], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [b.fileno()]))])
a.recv(65536)
a.send({verdict!r})
"""


@pytest.fixture
def private(tmp_path: Path) -> Path:
    script = tmp_path / "perfused"
    script.write_text(
        PRIVATE.format(python=sys.executable, report=str(tmp_path / "report"), welcome=welcome(), verdict=verdict())
    )
    script.chmod(0o755)
    return script


@pytest.mark.parametrize("sigchld", ["ignore", "handle"])
@pytest.mark.parametrize("by", ["name", "path"])
def test_a_private_daemon_is_started(run: Run, tmp_path: Path, private: Path, sigchld: str, by: str) -> None:
    where = (
        {"PERFUSED": str(private)} if by == "name" else {"PATH": f"/no-such-directory:{tmp_path}:{os.environ['PATH']}"}
    )
    lines = run("private", sigchld, PERFUSE_NO_PRIVATE="", **where)
    assert lines == ["ok: ", "sigchld=0 children=none mask=kept"]
    # 0, 1, 2, the connection, and the descriptor that lists them.
    assert (tmp_path / "report").read_text() == "0 1 2 3 4|True"


def test_a_program_that_does_not_start_is_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / "not-executable").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "perfused").write_text("")
    for environment, error in [
        ({"PERFUSED": str(tmp_path / "missing")}, "ENOENT"),
        ({"PERFUSED": str(tmp_path / "not-executable")}, "EACCES"),
        ({"PATH": "/no-such-directory"}, "ENOENT"),
        ({"PATH": str(tmp_path / "empty")}, "EACCES"),
        ({"PERFUSED": "/bin/true"}, "ECONNRESET"),
    ]:
        assert run("private", "handle", PERFUSE_NO_PRIVATE="", **environment)[0].split(":")[0] == error


MACROS = """
{before}
#include <perfuse.h>
{after}
int main(void)
{{
	int a = open("/dev/null", O_RDONLY), b = open("/dev/null", O_CREAT | O_RDWR, 0600);
	int c = mount("none", "/no-such-directory", "tmpfs", 0, (void *)0);
	return a < 0 || b < 0 || c == 0 || perfuse_error() == 0;
}}
"""
SYSTEM = "#include <fcntl.h>\n#include <sys/mount.h>\n#include <unistd.h>\n#include <stdio.h>\n"


@pytest.mark.parametrize("order", ["alone", "before", "after"])
@pytest.mark.parametrize(
    ("compiler", "flags"),
    [
        ("gcc", ["-std=c99", "-pedantic"]),
        ("gcc", ["-std=gnu17", "-O2", "-D_FORTIFY_SOURCE=2", "-D_GNU_SOURCE"]),
        ("gcc", ["-std=c11", "-D_FILE_OFFSET_BITS=64"]),
        ("g++", ["-std=c++11", "-pedantic"]),
        ("g++", ["-std=c++20", "-O2", "-D_FORTIFY_SOURCE=2"]),
    ],
)
def test_the_macros_compile(library: Path, tmp_path: Path, compiler: str, flags: list[str], order: str) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    others = SYSTEM + ("#include <fstream>\n#include <locale>\n#include <iostream>\n" if compiler == "g++" else "")
    source = tmp_path / ("program.c" if compiler == "gcc" else "program.cc")
    source.write_text(
        MACROS.format(before=others if order == "before" else "", after=others if order == "after" else "")
    )
    program = tmp_path / "program"
    link = ["-L", str(library), "-lperfuse", f"-Wl,-rpath,{library}"]
    strict = ["-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'libperfuse'}"]
    subprocess.run([compiler, *flags, *strict, "-o", str(program), str(source), *link], check=True)
    subprocess.run([program], check=True, timeout=10)
    undefined = subprocess.run(["nm", "-u", str(program)], check=True, capture_output=True, text=True).stdout
    assert {line.split()[-1].partition("@")[0] for line in undefined.splitlines()} >= {"perfuse_open", "perfuse_mount"}
    assert " open@" not in undefined


def test_the_macros_can_be_switched_off(tmp_path: Path) -> None:
    source = tmp_path / "program.c"
    source.write_text(
        "#define PERFUSE_NO_MACROS\n#include <perfuse.h>\n#if defined(open) || defined(mount)\n#error\n#endif\n"
    )
    subprocess.run(["gcc", "-fsyntax-only", f"-I{ROOT / 'libperfuse'}", str(source)], check=True)


def test_three_functions_are_exported(library: Path) -> None:
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", str(library / "libperfuse.so.1")], capture_output=True, text=True
    )
    names = {line.split()[2].partition("@")[0] for line in listing.stdout.splitlines() if line.split()[1] != "A"}
    assert names == {"perfuse_open", "perfuse_mount", "perfuse_error"}


def test_the_installed_library_is_usable(tmp_path: Path) -> None:
    make = ["make", "-s", "-C", str(ROOT / "libperfuse"), f"BUILD={tmp_path / 'build'}"]
    subprocess.run([*make, "install", "PREFIX=/opt/perfuse", f"DESTDIR={tmp_path / 'root'}"], check=True)
    prefix = tmp_path / "root" / "opt" / "perfuse"
    flags = ["-I" + str(prefix / "include"), "-L" + str(prefix / "lib"), "-lperfuse"]
    if shutil.which("pkg-config"):
        found = subprocess.run(
            ["pkg-config", f"--define-variable=prefix={prefix}", "--cflags", "--libs", "perfuse"],
            env={**os.environ, "PKG_CONFIG_PATH": str(prefix / "lib" / "pkgconfig"), "PKG_CONFIG_SYSROOT_DIR": ""},
            check=True,
            capture_output=True,
            text=True,
        )
        assert "/opt/perfuse/include" in found.stdout
        assert "-lperfuse" in found.stdout
    source, static = tmp_path / "program.c", prefix / "lib" / "libperfuse.a"
    source.write_text(MACROS.format(before="", after=""))
    for link in (flags, ["-I" + str(prefix / "include"), str(static), "-pthread"]):
        subprocess.run(["gcc", "-o", str(tmp_path / "program"), str(source), *link], check=True)
        subprocess.run([tmp_path / "program"], env={"LD_LIBRARY_PATH": str(prefix / "lib")}, check=True, timeout=10)
