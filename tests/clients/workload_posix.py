"""What only a filesystem with all of POSIX can do: attributes, locks, many writers, names that go while a file is open.

Never here: how it was mounted.
"""

import errno
import fcntl
import hashlib
import os
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.clients.workload import noise

# Another process, which says whether it gets a lock: fcntl(2)'s or flock(2)'s, and, told to, waits for it.
LOCKER = """
import fcntl, sys
file, call, wait = open(sys.argv[1], "r+b"), getattr(fcntl, sys.argv[2]), sys.argv[3] == "wait"
if wait:
    print("waits", flush=True)
try:
    call(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
except BlockingIOError:
    print("refused", flush=True)
else:
    print("locked", flush=True)
"""

# Another process, which says what kind of lock is held on a file (F_GETLK).
ASKER = """
import fcntl, struct, sys
flock = struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 0, 0, 0)
print(struct.unpack_from("h", fcntl.fcntl(open(sys.argv[1], "rb"), fcntl.F_GETLK, flock))[0])
"""


def digest(file: Path) -> str:
    """SHA-256 of a file's content, read past the page cache."""
    with open(file, "rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return hashlib.file_digest(opened, "sha256").hexdigest()


def attributes(root: Path) -> None:
    """Extended attributes of files and directories are set, listed, replaced and removed."""
    file = root / "with attributes"
    file.write_bytes(b"")
    for path in (file, root):
        os.setxattr(path, "user.one", b"1")
        os.setxattr(path, "user.big", bytes(range(256)) * 4)
        assert os.getxattr(path, "user.one") == b"1"
        assert os.getxattr(path, "user.big") == bytes(range(256)) * 4
        assert {"user.one", "user.big"} <= set(os.listxattr(path))
        with pytest.raises(FileExistsError):
            os.setxattr(path, "user.one", b"2", os.XATTR_CREATE)
        os.setxattr(path, "user.one", b"2", os.XATTR_REPLACE)
        assert os.getxattr(path, "user.one") == b"2"
        os.removexattr(path, "user.one")
        with pytest.raises(OSError) as caught:
            os.getxattr(path, "user.one")
        assert caught.value.errno == errno.ENODATA
        os.removexattr(path, "user.big")
    file.unlink()


def _locker(file: Path, call: str, wait: str = "no") -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", LOCKER, file, call, wait], stdout=subprocess.PIPE, text=True)


def _says(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def locks(root: Path) -> None:
    """A lock keeps another process out, of either kind; one that waits for it gets it when it is released."""
    file = root / "locked"
    file.write_bytes(b"content")
    for call, name in ((fcntl.lockf, "lockf"), (fcntl.flock, "flock")):
        with open(file, "r+b") as ours:
            call(ours, fcntl.LOCK_EX)
            with _locker(file, name) as other:
                assert _says(other) == "refused"
            if name == "lockf":
                # By a process of its own: none is shown its own locks.
                seen = subprocess.run([sys.executable, "-c", ASKER, file], capture_output=True, text=True, check=True)
                assert seen.stdout == f"{fcntl.F_WRLCK}\n"
            with _locker(file, name, "wait") as waiting:
                assert _says(waiting) == "waits"
                call(ours, fcntl.LOCK_UN)
                assert _says(waiting) == "locked"
    file.unlink()


def unlinked_while_open(root: Path) -> None:
    """A file without a name is still read and written by who has it open; so is one another file was renamed over."""
    name, other = root / "open", root / "other"
    data = noise(300_000)
    with open(name, "w+b") as file:
        file.write(data)
        file.flush()
        name.unlink()
        assert name.name not in os.listdir(root)
        file.seek(0)
        assert file.read() == data
        os.pwrite(file.fileno(), b"new", 0)
        assert os.pread(file.fileno(), 3, 0) == b"new"
        assert os.fstat(file.fileno()).st_size == len(data)
    name.write_bytes(b"old")
    other.write_bytes(b"new")
    with open(name, "rb") as file:
        other.rename(name)
        assert file.read() == b"old"
    assert name.read_bytes() == b"new"
    name.unlink()


def parallel(root: Path, writers: int = 4, size: int = 4 << 20) -> None:
    """Writers at the same time, each to a file of its own, then all to the end of one: nothing is lost or mixed."""
    with ThreadPoolExecutor(writers) as pool:
        datas = [noise(size, seed) for seed in range(writers)]
        files = [root / f"writer{number}" for number in range(writers)]
        list(pool.map(Path.write_bytes, files, datas))
        for file, data in zip(files, datas, strict=True):
            assert digest(file) == hashlib.sha256(data).hexdigest()
            file.unlink()

        common = root / "common"
        common.write_bytes(b"")
        records = 200

        def append(number: int) -> None:
            with open(common, "ab", buffering=0) as file:
                for record in range(records):
                    file.write(struct.pack("<II", number, record) * 16)

        list(pool.map(append, range(writers)))
        content = common.read_bytes()
        assert len(content) == writers * records * 128
        seen = []
        for at in range(0, len(content), 128):
            record = content[at : at + 128]
            assert record == record[:8] * 16, "two records are mixed"
            seen.append(struct.unpack_from("<II", record))
        assert sorted(seen) == [(number, record) for number in range(writers) for record in range(records)]
        common.unlink()
