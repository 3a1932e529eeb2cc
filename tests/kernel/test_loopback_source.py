"""The source changes under the loopback while it is used, and an ordinary user mounts one: no wrong data, no EIO."""

import errno
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kernel import places
from tests.kernel.conftest import ROOT, Daemon, eventually
from tests.kernel.loopbacks import Loopback
from tests.kernel.places import Standings, fails, tmpfs
from tests.kernel.test_mount import USER, open_place

__all__ = ["open_place"]
standings = places.standings
#: seconds each race goes on
RACE = 0.5


@pytest.fixture(params=["auto", "never"])
def loopback(
    request: pytest.FixtureRequest, standings: Standings, tmp_path: Path, watchdog: None
) -> Iterator[Loopback]:
    """A loopback through perfused that keeps what it knows for 0.05 s, or not at all."""
    with tmpfs(tmp_path / "source", "size=256m") as source:
        (tmp_path / "mnt").mkdir()
        words = ("--cache", request.param, "--entry-timeout", "0.05", "--attr-timeout", "0.05")
        made = Loopback(source, tmp_path / "mnt", *words, environment=standings.environment())
        try:
            yield made
            assert (made.unmounted(), made.said()) == (0, "")
        finally:
            made.ended()


@contextmanager
def meanwhile(change: Callable[[int], object]) -> Iterator[Callable[[], bool]]:
    """Call `change(0)`, `change(1)` ... in a thread; the value says whether the race still goes on."""
    until = time.monotonic() + RACE
    failed: list[BaseException] = []

    def loop() -> None:
        number = 0
        try:
            while time.monotonic() < until:
                change(number)
                number += 1
        except BaseException as bad:
            failed.append(bad)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield lambda: time.monotonic() < until
    finally:
        thread.join()
    assert failed == []


def content(number: int) -> bytes:
    """What the file has in its `number`th life: a size and bytes of its own."""
    return b"%06d" % number * (1 + number % 700)


def whole(data: bytes) -> bool:
    """Whether it is the content of one life."""
    return bool(data) and data == content(int(data[:6]))


def test_a_file_replaced_underneath_is_read_whole_as_one_or_another(loopback: Loopback) -> None:
    def replace(number: int) -> None:
        (loopback.source / "new").write_bytes(content(number))
        os.rename(loopback.source / "new", loopback.source / "file")

    replace(0)
    with meanwhile(replace) as going:
        while going():
            assert whole((loopback.target / "file").read_bytes())


def test_a_file_replaced_on_both_sides_is_read_whole(loopback: Loopback) -> None:
    (loopback.source / "file").write_bytes(content(0))

    def replace(number: int) -> None:
        (loopback.source / "under").write_bytes(content(number))
        os.rename(loopback.source / "under", loopback.source / "file")

    number = 0
    with meanwhile(replace) as going:
        while going():
            number += 1
            (loopback.target / "over").write_bytes(content(number))
            os.rename(loopback.target / "over", loopback.target / "file")
            assert whole((loopback.target / "file").read_bytes())


def test_a_name_that_comes_and_goes_underneath_is_there_or_not(loopback: Loopback) -> None:
    def flicker(number: int) -> None:
        path = loopback.source / "file"
        path.write_bytes(b"x") if number % 2 else path.unlink(missing_ok=True)

    found = set()
    with meanwhile(flicker) as going:
        while going():
            try:
                fd = os.open(loopback.target / "file", os.O_RDONLY)
                os.close(fd)
                found.add(0)
            except OSError as bad:
                found.add(bad.errno)
    assert found <= {0, errno.ENOENT, errno.ESTALE}


def test_two_names_exchanged_underneath_never_have_a_third_content(loopback: Loopback) -> None:
    for name in ("a", "b"):
        (loopback.source / name).write_text(name * 1000)

    def exchange(number: int) -> None:
        for old, new in (("a", "c"), ("b", "a"), ("c", "b")):
            os.rename(loopback.source / old, loopback.source / new)

    seen = set()
    with meanwhile(exchange) as going:
        while going():
            try:
                seen.add((loopback.target / "a").read_text())
            except FileNotFoundError:
                pass
    assert seen <= {"a" * 1000, "b" * 1000}


def test_a_directory_moved_away_underneath_takes_what_is_in_it_along(loopback: Loopback) -> None:
    (loopback.source / "here").mkdir()
    (loopback.source / "here" / "file").write_text("text")
    at = os.open(loopback.target / "here", os.O_RDONLY)
    os.rename(loopback.source / "here", loopback.source / "there")
    fd = os.open("file", os.O_RDWR, dir_fd=at)
    os.pwrite(fd, b"next", 0)
    os.close(fd)
    os.close(at)
    assert (loopback.source / "there" / "file").read_text() == "next"


def test_a_directory_moved_to_and_fro_underneath_is_walked_without_eio(loopback: Loopback) -> None:
    (loopback.source / "one" / "deep").mkdir(parents=True)
    (loopback.source / "one" / "deep" / "file").write_text("text")

    def move(number: int) -> None:
        names = ("one", "two") if number % 2 == 0 else ("two", "one")
        os.rename(loopback.source / names[0], loopback.source / names[1])

    found = set()
    with meanwhile(move) as going:
        while going():
            for name in ("one", "two"):
                try:
                    found.add((loopback.target / name / "deep" / "file").read_text())
                except OSError as bad:
                    found.add(errno.errorcode[bad.errno or 0])
    assert "text" in found
    assert found <= {"text", "ENOENT", "ESTALE"}


def test_a_file_removed_underneath_is_read_on_by_who_has_it_open(loopback: Loopback) -> None:
    (loopback.target / "file").write_bytes(b"text" * 100_000)
    with open(loopback.target / "file", "rb", buffering=0) as file:
        (loopback.source / "file").unlink()
        assert file.read(400_000) == b"text" * 100_000
        assert os.fstat(file.fileno()).st_nlink == 0


def test_a_listing_while_names_come_and_go_has_those_that_stay_once(loopback: Loopback) -> None:
    stay = {f"stays{number:03}" for number in range(200)}
    for name in stay:
        (loopback.source / name).touch()

    def churn(number: int) -> None:
        name = loopback.source / f"goes{number % 50}"
        name.unlink() if name.exists() else name.touch()

    with meanwhile(churn) as going:
        while going():
            listed = [name for name in os.listdir(loopback.target) if name.startswith("stays")]
            assert sorted(listed) == sorted(stay)


# As an ordinary user, through a daemon of root's

#: all modules first: the interpreter's own files may be root's alone
AS_USER = f"""
import os, runpy, sys
import click, logging, fixtures.loopback_main
import encodings.unicode_escape, encodings.idna
os.setgroups([]); os.setresgid({USER}, {USER}, {USER}); os.setresuid({USER}, {USER}, {USER})
import libperfuse.caller
libperfuse.caller._ROOT = False
fixtures.loopback_main.main()
"""


class AsUser:
    """A loopback that an ordinary user has mounted through root's daemon."""

    def __init__(self, daemon: Daemon, place: Path) -> None:
        self.source, self.target = place / "source", place / "mnt"
        for each in (self.source, self.target):
            each.mkdir()
            os.chown(each, USER, USER)
        self.daemon = daemon

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        return self.daemon.run(
            sys.executable, "-c", AS_USER, *(words or (self.source, self.target)), cwd=ROOT, stderr=subprocess.PIPE
        )

    def do(self, code: str) -> str:
        """Python as that user, at the mountpoint: what it prints."""
        become = f"os.setgroups([]); os.setresgid(*[{USER}] * 3); os.setresuid(*[{USER}] * 3)"
        command = [sys.executable, "-c", f"import os, sys; {become}; os.chdir(sys.argv[1]); {code}", self.target]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        return done.stdout.strip() + done.stderr.strip()[-200:]


@pytest.fixture
def as_user(daemon: Daemon, open_place: Path) -> Iterator[AsUser]:
    made = AsUser(daemon, open_place)
    program = made.start()
    assert program.stdout is not None
    line = program.stdout.readline()
    if "mounted on" not in line:
        assert program.stderr is not None
        pytest.fail(program.stderr.read())
    yield made
    program.terminate()
    assert program.wait(timeout=20) == 0


def test_a_users_loopback_makes_files_that_are_the_users(as_user: AsUser) -> None:
    assert as_user.do("open('new', 'w').write('text'); os.mkdir('below'); print(os.stat('new').st_uid)") == str(USER)
    found = (as_user.source / "new").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (USER, found.st_gid, 0o644)
    assert (as_user.source / "new").read_text() == "text"


def test_a_users_loopback_reaches_no_more_than_the_user(as_user: AsUser) -> None:
    (as_user.source / "roots").write_text("secret")
    (as_user.source / "roots").chmod(0o600)
    assert "PermissionError" in as_user.do("open('roots')")


def test_a_users_loopback_is_closed_to_others(as_user: AsUser) -> None:
    with fails(errno.EACCES):
        os.stat(as_user.target / "file")


def test_a_users_source_that_cannot_be_read_is_refused(daemon: Daemon, open_place: Path) -> None:
    made = AsUser(daemon, open_place)
    os.chown(made.source, 0, 0)
    made.source.chmod(0o700)
    program = made.start()
    _, complaint = program.communicate(timeout=20)
    assert (program.returncode, complaint) == (1, f"loopback: source {made.source}: Permission denied\n")


def test_a_user_may_not_mount_on_what_is_not_theirs(daemon: Daemon, open_place: Path) -> None:
    made = AsUser(daemon, open_place)
    os.chown(made.target, 0, 0)
    program = made.start()
    _, complaint = program.communicate(timeout=20)
    assert program.returncode == 1
    assert complaint.startswith(f"loopback: cannot mount {made.target}: ")
    assert len(complaint.splitlines()) == 1
    eventually(lambda: not made.daemon.workers(), "no worker is left")
