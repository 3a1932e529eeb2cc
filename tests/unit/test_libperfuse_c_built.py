"""libperfuse for C: private daemons, the macros, what the library exports and what is installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.libperfuse_c_support import ROOT, Run, build, program, run, verdict, welcome

__all__ = ["program", "run"]


pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("library"), ["-O2"]).parent


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
