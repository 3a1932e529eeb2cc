"""Where the semantics checks look: a directory on the filesystem under test, and the directory behind it.

`tree` is looked at; changes "underneath" are made in `source`. On the kernel's own filesystem the two are one. A check
uses the fixtures `tree` and `source`, or `place_with` for a source mounted with options of its own; a module takes them
by assignment: `standings, place_name, place_with, place, tree, source = places.FIXTURES`.
"""

import errno
import fcntl
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from perfused import libc
from tests.kernel import raw
from tests.kernel.conftest import PATIENCE, Daemon, abort, connections, eventually
from tests.kernel.loopbacks import Loopback


@dataclass(frozen=True)
class Place:
    """A directory on the filesystem under test, what is behind it, and which kind of place it is."""

    name: str
    tree: Path
    source: Path


@contextmanager
def tmpfs(where: Path, options: str) -> Iterator[Path]:
    """A tmpfs of its own, mounted with `options`."""
    where.mkdir()
    libc.mount(b"none", os.fsencode(where), b"tmpfs", 0, options.encode())
    try:
        where.chmod(0o755)
        yield where
    finally:
        libc.umount2(os.fsencode(where), libc.MNT_DETACH)


@dataclass
class Standing:
    """A place that the tests of a module share, one directory each."""

    place: Place
    #: takes it down
    held: ExitStack
    program: Loopback | None = None
    tests: int = 0

    def alive(self) -> bool:
        """Whether it can serve another test."""
        return self.program is None or self.program.process.poll() is None


class Standings:
    """The standing places of a module, and its perfused; each is made when it is first wanted, or wanted again."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self.standing: dict[str, Standing] = {}
        self.daemon: Daemon | None = None
        self.made = 0

    def environment(self) -> dict[str, str]:
        """What makes a program find the module's perfused."""
        if self.daemon is None or self.daemon.process.poll() is not None:
            place = self.where / f"daemon{self.made}"
            place.mkdir()
            self.daemon = Daemon(place, "", (), {})
        return self.daemon.environment

    def new(self, name: str, options: str) -> Standing:
        """A place of its own, its source a tmpfs mounted with `options`."""
        self.made += 1
        at = self.where / str(self.made)
        at.mkdir()
        held = ExitStack()
        source = held.enter_context(tmpfs(at / "source", options))
        if PLACES[name] is None:
            return Standing(Place(name, source, source), held)
        tree = at / "tree"
        tree.mkdir()
        environment = {} if "--via" in PLACES[name] else self.environment()
        program = Loopback(source, tree, *PLACES[name], environment=environment)
        held.callback(program.ended)
        return Standing(Place(name, tree, source), held, program)

    def shared(self, name: str) -> Standing:
        """The place that the module's tests share."""
        found = self.standing.get(name)
        if found is None or not found.alive():
            if found is not None:
                found.held.close()
            found = self.standing[name] = self.new(name, "size=1g,nr_inodes=400k")
        return found

    def end(self) -> None:
        """Take everything down; a loopback that is unmounted ends well."""
        for each in self.standing.values():
            if each.program is not None and each.alive():
                assert each.program.unmounted() == 0, each.program.said()
            each.held.close()
        if self.daemon is not None:
            assert self.daemon.stop() == 0, self.daemon.log()
            assert "Traceback" not in self.daemon.log(), self.daemon.log()


#: what a place is called -> the options of the loopback there; None: the kernel's own filesystem
PLACES: dict[str, Any] = {
    "native": None,
    "loopback through perfused": (),
    "loopback plain": ("--via", "kernel"),
}
#: where every test is asked, and where those with `@everywhere` are
_ALWAYS = ("native", "loopback through perfused")
everywhere = pytest.mark.parametrize("place_name", PLACES, indirect=True)


@pytest.fixture(scope="module")
def standings(tmp_path_factory: pytest.TempPathFactory, namespace: None) -> Iterator[Standings]:
    """The module's places."""
    where = tmp_path_factory.mktemp("places")
    for each in (where, *list(where.parents)[:2]):
        each.chmod(0o755)
    made = Standings(where)
    yield made
    made.end()


@pytest.fixture(params=_ALWAYS)
def place_name(request: pytest.FixtureRequest) -> str:
    """Which kind of place."""
    return str(request.param)


@contextmanager
def watched(standing: Standing, evidence: dict[str, Callable[[], str]], standings: Standings) -> Iterator[None]:
    """Abort a place before the watchdog of the test would, who knows nothing of it; and see that it complains of
    nothing."""
    program = standing.program
    if program is None:
        yield
        return
    before = len(program.said())
    evidence["what the loopback said"] = lambda: program.said()[before:]
    if standings.daemon is not None:
        evidence["log of perfused"] = standings.daemon.log
    timer = threading.Timer(PATIENCE - 5, lambda: abort(connections(program.target)))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    assert program.said()[before:] == ""


@pytest.fixture
def place_with(
    place_name: str, standings: Standings, evidence: dict[str, Callable[[], str]]
) -> Iterator[Callable[[str], Place]]:
    """Make the place of a test, its source a tmpfs mounted with the given options: call it once."""
    with ExitStack() as held:

        def make(options: str) -> Place:
            standing = standings.new(place_name, options)
            held.enter_context(standing.held)
            held.enter_context(watched(standing, evidence, standings))
            return standing.place

        yield make


@pytest.fixture
def place(place_name: str, standings: Standings, evidence: dict[str, Callable[[], str]]) -> Iterator[Place]:
    """A place with room enough: an empty directory of a mount that other tests use too."""
    standing = standings.shared(place_name)
    standing.tests += 1
    name = str(standing.tests)
    (standing.place.source / name).mkdir()
    with watched(standing, evidence, standings):
        yield Place(place_name, standing.place.tree / name, standing.place.source / name)
    subprocess.run(["rm", "-rf", standing.place.source / name], check=True)


@pytest.fixture
def tree(place: Place) -> Path:
    """A directory on the filesystem under test."""
    return place.tree


@pytest.fixture
def source(place: Place) -> Path:
    """The directory behind `tree`."""
    return place.source


FIXTURES = (standings, place_name, place_with, place, tree, source)


# Another process

_LOOP = """
import array, errno, fcntl, json, mmap, os, signal, socket, struct, sys
class Interrupted(Exception): pass
def interrupted(*_): raise Interrupted
signal.signal(signal.SIGUSR1, interrupted)
names = globals()
for line in sys.stdin:
    try:
        code = json.loads(line)
        try:
            answer = eval(compile(code, "<asked>", "eval"), names)
        except SyntaxError:
            answer = exec(code, names)
        said = {"answer": answer if isinstance(answer, (int, str, list, type(None))) else repr(answer)}
    except Interrupted:
        said = {"interrupted": True}
    except OSError as bad:
        said = {"errno": bad.errno}
    except Exception as bad:
        said = {"bug": repr(bad)}
    print(json.dumps(said), flush=True)
"""


class Process:
    """Another process, which does what it is told in Python: `do` waits for it, `begin` does not.

    With `user` it is that user, of the group of the same number and of `groups`, once it has started: where Python is
    installed such a user may not go. It then needs `cwd` and names relative to it, for the same reason.
    """

    def __init__(self, cwd: Path | None = None, user: int = 0, groups: tuple[int, ...] = ()) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-c", _LOOP], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=cwd
        )
        self.do("os.umask(0o022)")
        if user:
            self.do(f"os.setgroups({list(groups)}), os.setresgid(*[{user}] * 3), os.setresuid(*[{user}] * 3)")

    @property
    def pid(self) -> int:
        """Its pid."""
        return self.popen.pid

    def begin(self, code: str) -> None:
        """Tell it; `result` has what comes of it."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(json.dumps(code) + "\n")
        self.popen.stdin.flush()

    def result(self) -> Any:
        """What came of it; OSError with its errno, InterruptedError where SIGUSR1 ended it."""
        assert self.popen.stdout is not None
        said = json.loads(self.popen.stdout.readline() or '{"bug": "it ended"}')
        assert "bug" not in said, said
        if "interrupted" in said:
            raise InterruptedError
        if "errno" in said:
            raise OSError(said["errno"], os.strerror(said["errno"]))
        return said["answer"]

    def do(self, code: str) -> Any:
        """Tell it and wait."""
        self.begin(code)
        return self.result()

    def waits_in_a_call(self) -> None:
        """Wait until what it was told sleeps in the kernel: in another call than the read(2) of its orders."""

        def there() -> bool:
            call = Path(f"/proc/{self.pid}/syscall").read_text().split()
            return len(call) > 2 and not (call[1] == "0x0" and int(call[0]) == _READ) and _asleep(self.pid)

        eventually(there, "the other process waits in a call")

    def end(self) -> None:
        """Kill it and wait for it."""
        self.popen.kill()
        self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout):
            assert pipe is not None
            pipe.close()


_READ = {"x86_64": 0, "s390x": 3, "ppc64le": 3}.get(os.uname().machine, 63)


def _asleep(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "SD"


@pytest.fixture
def processes() -> Iterator[Callable[..., Process]]:
    """Start processes; all are killed in the end."""
    made: list[Process] = []

    def start(**more: Any) -> Process:
        made.append(Process(**more))
        return made[-1]

    yield start
    for each in made:
        each.end()


# Calls that Python does not have

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
STATX_BASIC_STATS = 0x7FF
STATX_BTIME = 0x800
#: fcntl(2): locks of an open file description
F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW = 36, 37, 38


@contextmanager
def fails(*codes: int) -> Iterator[None]:
    """What is inside must fail with one of these errnos."""
    with pytest.raises(OSError) as caught:
        yield
    names = [errno.errorcode[code] for code in codes]
    assert caught.value.errno in codes, f"{caught.value}, expected {names}"


def renameat2(old: Path, new: Path, flags: int) -> None:
    """renameat2(2)."""
    raw.checked(raw.libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags))


def statx(path: Path, mask: int) -> tuple[int, tuple[int, int], int]:
    """statx(2): (stx_mask, stx_btime as seconds and nanoseconds, stx_size)."""
    room = raw.room(256)
    raw.checked(raw.libc.statx(AT_FDCWD, os.fsencode(path), AT_SYMLINK_NOFOLLOW, mask, room))
    buffer = raw.ffi.buffer(room)
    (answered,) = struct.unpack_from("=I", buffer, 0)
    (size,) = struct.unpack_from("=Q", buffer, 40)
    return answered, struct.unpack_from("=qI", buffer, 80), size


def entries(fd: int, room: int = 4096) -> list[tuple[bytes, int]]:
    """getdents64(2): the next (name, offset of what follows it) of an open directory, nothing at its end."""
    given = raw.room(room)
    count = raw.checked(raw.libc.getdents64(fd, given, room))
    buffer = bytes(raw.ffi.buffer(given))
    found, at = [], 0
    while at < count:
        after, length = struct.unpack_from("=qH", buffer, at + 8)
        found.append((buffer[at + 19 : at + length].split(b"\0", 1)[0], after))
        at += length
    return found


def getxattr(path: Path, name: str, room: int) -> int:
    """getxattr(2) with `room` bytes to put the value in: the value's size. ERANGE where that is too little."""
    return raw.checked(raw.libc.getxattr(os.fsencode(path), name.encode(), raw.room(room), room))


def lock(kind: int, start: int = 0, length: int = 0) -> bytes:
    """struct flock, from the start of the file: F_RDLCK, F_WRLCK or F_UNLCK."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)


def holder(fd: int, kind: int, start: int = 0, length: int = 0, how: int = fcntl.F_GETLK) -> tuple[int, int, int, int]:
    """fcntl(2) F_GETLK: (type, start, length, pid) of the first lock in the way, F_UNLCK where none is."""
    found = fcntl.fcntl(fd, how, lock(kind, start, length))
    answered, _, first, extent, pid = struct.unpack("hhqqi4x", found)
    return answered, first, extent, pid
