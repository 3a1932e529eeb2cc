"""What the documentation says is what the code does: snippets run, options, settings and links exist."""

import contextlib
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from perfused import __version__
from perfused.cli import control as perfusectl
from perfused.cli import daemon as perfused
from perfused.config import LIMITS, Config
from wire import codec, control
from wire.control import Endpoint, Hello, Mount
from wire.opcodes import Opcode

ROOT = Path(__file__).parents[2]
MAN = ROOT / "docs" / "man"
PAGES = sorted(path.name for path in MAN.iterdir())
TEXTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])


def page(name: str) -> str:
    """The source of a manual page, with its escapes undone."""
    text = (MAN / name).read_text(encoding="utf-8")
    return text.replace(r"\-", "-").replace(r"\(dq", '"').replace(r"\~", " ")


def sections(text: str, macro: str) -> dict[str, str]:
    """A manual page by its .SH or .SS headings."""
    parts = re.split(rf"^\.{macro} (.+)$", text, flags=re.MULTILINE)
    return {name.strip('"'): body for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def tagged(text: str) -> set[str]:
    """The options that are the tags of a manual page's paragraphs."""
    tags = re.findall(r"^\.TP.*\n(.+)$", text, flags=re.MULTILINE)
    return {option for tag in tags for option in re.findall(r"(?<!\S)--?[A-Za-z][A-Za-z-]*", tag)}


def offered(command: click.Command, *arguments: str) -> set[str]:
    """The options that a command's --help shows."""
    shown = CliRunner().invoke(command, [*arguments, "--help"], terminal_width=100)
    assert shown.exit_code == 0, shown.output
    found = re.findall(r"^  (-[^\s,]+(?:, -[^\s,]+)*)", shown.output, flags=re.MULTILINE)
    return {option for each in found for option in each.split(", ")}


# -- the README's snippets -------------------------------------------------------------------------------------------


def snippet(language: str) -> str:
    """The last block of the README in a language: the whole filesystem."""
    return snippets(language)[-1]


def snippets(language: str) -> list[str]:
    """The blocks of the README in a language."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert blocks, f"no block of {language}"
    return [str(each) for each in blocks]


@contextlib.contextmanager
def scripted_daemon(path: Path) -> Iterator[socket.socket]:
    """A listening control socket in the daemon's place."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.settimeout(20)
        listening.bind(str(path))
        listening.listen()
        yield listening


def hand_out_a_device(listening: socket.socket) -> socket.socket:
    """Answer a client's HELLO with a device; our end of it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.bind(control.DEVICE_NAME_PREFIX + b"test-docs/%d/%d" % (os.getpid(), ours.fileno()))
    ours.settimeout(20)
    client, _ = listening.accept()
    with client, theirs:
        client.settimeout(20)
        assert isinstance(control.parse(client.recv(control.MAX_FRAME)), Hello)
        socket.send_fds(client, [control.build_welcome(0, Endpoint.SOCKET, 1 << 20)], [theirs.fileno()])
    return ours


def request(opcode: int, unique: int, body: bytes = b"") -> bytes:
    return codec.in_header.pack(40 + len(body), opcode, unique, 1, 0, 0, 0, 0, 0) + body


def serves_the_root(device: socket.socket, target: Path) -> None:
    """Play the daemon and the kernel to a filesystem that has been given `device`."""
    frame, fds, _, _ = socket.recv_fds(device, control.MAX_FRAME, 1)
    pinned, mount = os.fstat(fds[0]), control.parse(frame)
    os.close(fds[0])
    assert isinstance(mount, Mount)
    assert (mount.target, mount.fstype) == (os.fsencode(target), b"fuse.hello")
    assert pinned.st_ino == target.stat().st_ino
    device.send(control.build_verdict(0, 99))

    def ask(opcode: int, unique: int, body: bytes = b"") -> tuple[int, bytes]:
        device.send(request(opcode, unique, body))
        reply = device.recv(1 << 17)
        head = codec.out_header.unpack_from(reply)
        assert (head.len, head.unique) == (len(reply), unique)
        return head.error, reply[16:]

    error, body = ask(Opcode.INIT, 2, codec.init_in.build(codec.init_in.make(major=7, minor=45)))
    init = codec.init_out.unpack_from(body)
    assert (error, init.major, init.minor, init.max_write) == (0, 7, 31, 65536)
    device.send(request(Opcode.FORGET, 4, struct.pack("=Q", 1)))
    error, body = ask(Opcode.GETATTR, 6, codec.getattr_in.build(codec.getattr_in.make()))
    found = codec.attr_out.unpack_from(body)
    assert (error, found.attr.ino, found.attr.mode, found.attr.nlink) == (0, 1, 0o40755, 2)
    assert ask(Opcode.LOOKUP, 8, b"x\0") == (-38, b"")


def run_snippet(command: list[str], tmp_path: Path) -> None:
    """Run a filesystem of the README on a scripted daemon; it must end with its mount."""
    target = tmp_path / "mnt"
    target.mkdir()
    path = tmp_path / "sock"
    environment = {**os.environ, "PERFUSED_SOCKET": str(path), "PYTHONPATH": str(ROOT), "PERFUSE_ENDPOINT": "any"}
    with (
        scripted_daemon(path) as listening,
        subprocess.Popen([*command, str(target)], env=environment, stderr=subprocess.PIPE) as program,
    ):
        try:
            with hand_out_a_device(listening) as device:
                serves_the_root(device, target)
            _, said = program.communicate(timeout=20)
        finally:
            program.kill()
    assert (program.returncode, said) == (0, b"")


def test_the_python_filesystem_of_the_readme_runs(tmp_path: Path) -> None:
    source = tmp_path / "hello.py"
    source.write_text(snippet("python"))
    run_snippet([sys.executable, str(source)], tmp_path)


def test_the_c_filesystem_of_the_readme_compiles_without_warnings_and_runs(tmp_path: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if not compiler:
        pytest.skip("no C compiler")
    if not Path("/usr/include/linux/fuse.h").exists():
        pytest.skip("no linux/fuse.h")
    source, program, library = tmp_path / "hello.c", tmp_path / "hello", ROOT / "libperfuse"
    source.write_text(snippet("c"))
    sources = [source, library / "perfuse.c", library / "private.c"]
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]
    built = subprocess.run([compiler, *flags, f"-I{library}", "-o", program, *sources], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    run_snippet([str(program)], tmp_path)


def test_every_piece_of_c_in_the_readme_compiles_without_warnings(tmp_path: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if not compiler:
        pytest.skip("no C compiler")
    for number, text in enumerate(snippets("c")):
        source = tmp_path / f"{number}.c"
        source.write_text(text)
        command = [
            compiler,
            "-std=gnu11",
            "-Wall",
            "-Wextra",
            "-Werror",
            f"-I{ROOT}/libperfuse",
            "-fsyntax-only",
            source,
        ]
        built = subprocess.run(command, capture_output=True, text=True)
        assert built.returncode == 0, built.stderr


# -- manual pages ----------------------------------------------------------------------------------------------------


def test_options_of_perfused_are_those_of_its_manual_page() -> None:
    assert tagged(sections(page("perfused.8"), "SH")["OPTIONS"]) == offered(perfused.main)


def test_options_of_perfusectl_are_those_of_its_manual_page() -> None:
    found = sections(page("perfusectl.8"), "SS")
    assert tagged(found.pop("Options of every command")) == offered(perfusectl.main)
    assert {f"perfusectl {name}" for name in subcommands()} == set(found)


def subcommands() -> list[str]:
    """The commands of perfusectl, those of a group with the group's name before them."""
    found = []
    for name in perfusectl.COMMANDS:
        command = perfusectl.main.get_command(click.Context(perfusectl.main), name)
        inner = command.commands if isinstance(command, click.Group) else {"": command}
        found += [f"{name} {each}".strip() for each in inner]
    return found


@pytest.mark.parametrize("name", subcommands())
def test_options_of_each_command_are_those_of_the_manual_page(name: str) -> None:
    text = sections(page("perfusectl.8"), "SS")[f"perfusectl {name}"]
    text = re.split(r"^\.SH ", text, flags=re.MULTILINE)[0]
    assert tagged(text) == offered(perfusectl.main, *name.split()) - {"-h", "--help"}


def documented_settings() -> dict[str, tuple[Any, str]]:
    """Section and name -> default, description, as perfused.toml.5 has them."""
    found = {}
    for heading, body in sections(page("perfused.toml.5"), "SH").items():
        if not heading.startswith("["):
            continue
        parts = re.split(r'^\.TP\n\.BR (\w+) " = (.*?)(?: \(start\))?"$', body, flags=re.MULTILINE)
        for name, default, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
            found[f"{heading.strip('[]')}.{name}"] = tomllib.loads(f"x = {default}")["x"], text
    return found


def settings() -> dict[str, Any]:
    """Section and name -> default, as the code has them."""
    config = Config()
    pairs = [(each.name, getattr(config, each.name)) for each in fields(config)]
    return {f"{name}.{each.name}": getattr(part, each.name) for name, part in pairs for each in fields(part)}


def test_every_setting_is_in_perfused_toml_with_its_default_and_no_other() -> None:
    documented = {name: default for name, (default, _) in documented_settings().items()}
    assert documented == settings()
    assert {name: type(value) for name, value in documented.items()} == {
        name: type(value) for name, value in settings().items()
    }


_WORDS = {str: "String", bool: "Boolean", int: "Whole number", float: "Number", list: "List of"}


@pytest.mark.parametrize("name", sorted(settings()))
def test_every_setting_is_described_with_its_type_and_its_limits(name: str) -> None:
    default, text = documented_settings()[name]
    assert text.lstrip().startswith(_WORDS[type(default)])
    key = name.rpartition(".")[2]
    if key in LIMITS:
        least, most = (oct(int(each)) if key == "socket_mode" and each else f"{each:.12g}" for each in LIMITS[key])
        assert f"{least} to {most}" in text


def test_the_example_settings_are_accepted() -> None:
    from perfused.config import parse

    example = re.search(r"^\.nf\n(.*?)^\.fi", sections(page("perfused.toml.5"), "SH")["EXAMPLES"], re.M | re.S)
    assert example
    parse(tomllib.loads(example[1]), "example")


@pytest.mark.parametrize("name", PAGES)
def test_manual_pages_format_without_warnings(name: str) -> None:
    groff = shutil.which("groff")
    if not groff:
        pytest.skip("no groff")
    done = subprocess.run([groff, "-man", "-Tutf8", "-ww", "-z", MAN / name], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", PAGES)
def test_manual_pages_are_of_this_version(name: str) -> None:
    title = page(name).splitlines()[0]
    stem, _, section = name.rpartition(".")
    assert title.startswith(f".TH {stem.upper()} {section} ")
    assert f'"perfused {__version__}"' in title


# -- links, units ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8"))
    missing = [each for each in targets if "://" not in each and not (path.parent / each).exists()]
    assert not missing


def test_the_changelog_has_this_version() -> None:
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def unit(name: str) -> dict[str, list[str]]:
    """Settings of a unit file, a list each."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "perfused" / "systemd" / name).read_text(encoding="utf-8").splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def test_the_service_stays_in_the_mount_namespace_of_the_host() -> None:
    service = unit("perfused.service")
    own_namespace = re.compile(
        r"Private(Mounts|Tmp|Devices|Users|IPC|PIDs)|Protect(System|Home|Kernel\w+|ControlGroups|Proc|Hostname|Clock)"
        r"|\w+Paths|ProcSubset|Root\w+|MountFlags|DynamicUser|MountAPIVFS|Temporary\w+|ExtensionImages"
    )
    assert not [key for key in service if own_namespace.fullmatch(key)]
    assert service["Type"] == ["notify"]
    assert service["KillMode"] == ["process"]


def test_the_units_speak_of_the_default_socket() -> None:
    assert unit("perfused.socket")["ListenSequentialPacket"] == [Config().daemon.socket]
