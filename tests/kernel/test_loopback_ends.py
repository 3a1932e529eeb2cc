"""The loopback refuses what cannot be mounted in one line, and ends well whatever happens to it or to its source."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from perfused import libc
from tests.kernel import places
from tests.kernel.conftest import ROOT, eventually, fuse_mounts
from tests.kernel.loopbacks import PROGRAM, Loopback
from tests.kernel.places import Process, Standings, fails

processes, standings = places.processes, places.standings
USER = 1000

Start = Callable[..., Loopback]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory with a file in it."""
    made = tmp_path / "source"
    made.mkdir()
    (made / "file").write_text("text")
    return made


@pytest.fixture
def start(standings: Standings, watchdog: None) -> Iterator[Start]:
    """Start loopbacks through perfused: `start(source, target, *options)`; what is left of them is taken down."""
    made: list[Loopback] = []

    def mount(source: Path, target: Path, *options: str) -> Loopback:
        target.mkdir(exist_ok=True)
        made.append(Loopback(source, target, *options, environment=standings.environment()))
        return made[-1]

    yield mount
    for each in reversed(made):
        each.ended()


def refused(*words: str | Path, environment: dict[str, str] | None = None) -> str:
    """What it says when it will not start: one line on stderr, and status 1."""
    done = subprocess.run(
        [sys.executable, PROGRAM, *words],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PERFUSE_NO_PRIVATE": "1"} | (environment or {}),
        capture_output=True, timeout=30, check=False, cwd="/",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, b""), done
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("loopback: ")
    return line.removeprefix("loopback: ")


# What is refused


def test_a_source_that_is_not_there(target: Path, tmp_path: Path) -> None:
    assert refused(tmp_path / "none", target) == f"source {tmp_path}/none: no such directory"


def test_a_source_that_is_a_file(target: Path, source: Path) -> None:
    assert refused(source / "file", target) == f"source {source}/file: not a directory"


def test_a_mountpoint_that_is_not_there(source: Path, tmp_path: Path) -> None:
    assert refused(source, tmp_path / "none") == f"mountpoint {tmp_path}/none: no such directory"


def test_a_mountpoint_that_is_a_file(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refused(source, tmp_path / "file") == f"mountpoint {tmp_path}/file: not a directory"


def test_a_link_that_leads_nowhere(source: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    assert refused(source, tmp_path / "link") == f"mountpoint {tmp_path}/link: not a directory"


def test_a_mountpoint_that_is_the_source(source: Path) -> None:
    assert refused(source, source) == f"mountpoint {source}: it is the source itself"


INSIDE = "it lies inside the source {}, which would contain itself"


def test_a_mountpoint_inside_the_source(source: Path) -> None:
    (source / "below" / "deep").mkdir(parents=True)
    assert refused(source, source / "below/deep") == f"mountpoint {source}/below/deep: {INSIDE.format(source)}"


def test_a_mountpoint_inside_the_source_by_a_link(source: Path, tmp_path: Path) -> None:
    (source / "below").mkdir()
    (tmp_path / "link").symlink_to(source)
    assert refused(source, tmp_path / "link/below") == f"mountpoint {tmp_path}/link/below: {INSIDE.format(source)}"


@pytest.mark.parametrize("bound", [".", "below"])
def test_a_mountpoint_inside_the_source_by_a_bind_mount(source: Path, tmp_path: Path, bound: str) -> None:
    (source / "below" / "deep").mkdir(parents=True)
    again = tmp_path / "again"
    again.mkdir()
    libc.mount(os.fsencode(source / bound), os.fsencode(again), None, libc.MS_BIND, None)
    try:
        within = again / ("deep" if bound == "below" else "below/deep")
        assert refused(source, within) == f"mountpoint {within}: {INSIDE.format(source)}"
        assert refused(again, source / "below/deep") == f"mountpoint {source}/below/deep: {INSIDE.format(again)}"
    finally:
        libc.umount2(os.fsencode(again), libc.MNT_DETACH)


def test_a_mountpoint_in_use(start: Start, source: Path, target: Path) -> None:
    start(source, target)
    assert refused(source, target) == f"mountpoint {target}: busy, something is mounted on it already"
    assert (target / "file").read_text() == "text"


def test_an_option_nobody_knows(source: Path, target: Path) -> None:
    assert "--faster" in refused(source, target, "--faster")


def test_a_mount_option_nobody_knows(source: Path, target: Path) -> None:
    line = refused(source, target, "--via", "kernel", "-o", "faster=1")
    assert line.startswith(f"cannot mount {target}: ")
    assert "faster=1" in line


def test_a_word_too_many(source: Path, target: Path) -> None:
    assert "other" in refused(source, target, "other")


def test_nothing_at_all() -> None:
    assert "SOURCE" in refused()


@pytest.mark.parametrize("other", ["--passthrough", "--direct-io"])
def test_writeback_with_what_leaves_nothing_to_write_back(source: Path, target: Path, other: str) -> None:
    assert refused(source, target, "--writeback", other).startswith("--writeback not with --passthrough")


def test_no_perfused_where_none_may_be_started(source: Path, target: Path, tmp_path: Path) -> None:
    line = refused(source, target, environment={"PERFUSED_SOCKET": str(tmp_path / "none.sock")})
    assert line.startswith(f"cannot mount {target}: ")
    assert "none.sock" in line


def test_names_that_cannot_be_printed_are_escaped(target: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(b"%s/a\nb\xff" % os.fsencode(tmp_path)))
    assert refused(odd, target) == f"source {tmp_path}/a\\nb\\xff: no such directory"


# What is not


@pytest.mark.parametrize("name", [b"with space", b"with\nnewline", b"not\xffutf8", b"back\\slash", "größer".encode()])
@pytest.mark.parametrize("via", ["perfused", "kernel"])
def test_source_and_mountpoint_have_any_name(start: Start, tmp_path: Path, name: bytes, via: str) -> None:
    source, target = (Path(os.fsdecode(os.fsencode(tmp_path) + each + name)) for each in (b"/s ", b"/t "))
    source.mkdir()
    loopback = start(source, target, "--via", via)
    (target / os.fsdecode(name)).write_text("text")
    assert (source / os.fsdecode(name)).read_text() == "text"
    assert loopback.unmounted() == 0


def test_a_source_inside_the_mountpoint_is_shown_over_itself(start: Start, tmp_path: Path) -> None:
    target = tmp_path / "outer"
    (target / "source").mkdir(parents=True)
    (target / "source" / "file").write_text("text")
    loopback = start(target / "source", target)
    assert os.listdir(target) == ["file"]
    assert loopback.unmounted() == 0
    assert os.listdir(target) == ["source"]


def test_a_loopback_of_a_loopback(start: Start, source: Path, tmp_path: Path) -> None:
    first = start(source, tmp_path / "first")
    second = start(tmp_path / "first", tmp_path / "second")
    (second.target / "new").write_text("through two")
    os.rename(second.target / "new", second.target / "newer")
    assert ((source / "newer").read_text(), (second.target / "file").read_text()) == ("through two", "text")
    assert (second.unmounted(), first.unmounted()) == (0, 0)


# Ends


def test_the_source_vanishes(start: Start, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    loopback = start(tmp_path / "gone", tmp_path / "mnt")
    (tmp_path / "gone").rmdir()
    with fails(errno.ENOENT):
        (loopback.target / "new").touch()
    with fails(errno.ENOENT):
        (loopback.target / "file").stat()
    assert os.listdir(loopback.target) == []
    assert (loopback.unmounted(), loopback.said()) == (0, "")


@pytest.fixture
def killed(start: Start, source: Path, target: Path) -> Loopback:
    """A loopback that was killed while a file was open."""
    loopback = start(source, target)
    fd = os.open(target / "file", os.O_RDWR)
    loopback.process.kill()
    loopback.waited()
    with fails(errno.ENOTCONN, errno.ECONNABORTED):
        os.pwrite(fd, b"more", 0)
    with suppress(OSError):
        os.close(fd)
    return loopback


def test_perfused_takes_the_mount_of_a_killed_loopback_away(killed: Loopback) -> None:
    eventually(lambda: not fuse_mounts(killed.target), "the mount is gone")


def test_another_loopback_takes_the_place_of_a_killed_one(killed: Loopback, start: Start, source: Path) -> None:
    eventually(lambda: not fuse_mounts(killed.target), "the mount is gone")
    again = start(source, killed.target)
    assert (again.target / "file").read_text() == "text"
    assert again.unmounted() == 0


def test_the_mount_of_one_killed_on_the_plain_device_is_taken_away_by_hand(
    start: Start, source: Path, target: Path
) -> None:
    loopback = start(source, target, "--via", "kernel")
    loopback.process.kill()
    loopback.waited()
    with fails(errno.ENOTCONN):
        (target / "file").stat()
    assert refused(source, target) == f"mountpoint {target}: Transport endpoint is not connected"
    libc.umount2(os.fsencode(target), 0)
    assert start(source, target).unmounted() == 0


def test_others_live_on_when_one_is_killed(start: Start, source: Path, tmp_path: Path) -> None:
    first, second = start(source, tmp_path / "first"), start(source, tmp_path / "second")
    first.process.kill()
    first.waited()
    assert (second.target / "file").read_text() == "text"
    assert second.unmounted() == 0


def test_told_to_end_while_busy_it_serves_what_is_open_to_its_end(
    start: Start, source: Path, target: Path, processes: Callable[..., Process]
) -> None:
    loopback = start(source, target)
    writer = processes()
    writer.do(f"file = open({str(target / 'new')!r}, 'wb', buffering=0)")
    loopback.process.send_signal(signal.SIGTERM)
    eventually(lambda: not fuse_mounts(target), "the mount is gone")
    writer.do("[file.write(bytes(100_000)) for _ in range(50)]")
    assert loopback.process.poll() is None
    writer.do("file.close()")
    assert (loopback.waited(), (source / "new").stat().st_size) == (0, 5_000_000)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_it_does(start: Start, source: Path, target: Path, number: signal.Signals) -> None:
    loopback = start(source, target)
    loopback.process.send_signal(number)
    assert (loopback.waited(), fuse_mounts(target)) == (0, [])
