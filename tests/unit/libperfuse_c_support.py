"""A scripted daemon, and programs in C that are linked with libperfuse.

Never here: what is expected of them.
"""

import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

ALL_ONES = 2**64 - 1

HEAD = struct.Struct("=IiQ8sHHI")

HELLO, WELCOME, MOUNT, VERDICT = 1, 2, 3, 4

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


Run = Callable[..., list[str]]


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
