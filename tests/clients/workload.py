"""What programs do with a mounted filesystem, for any that can be written to. Never here: how it was mounted."""

import errno
import os
import random
import subprocess
from collections.abc import Callable, Container
from pathlib import Path

import pytest

from tests.kernel.conftest import eventually

#: bytes of the file that dd writes
BIG = 16 << 20


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that do not repeat and do not compress; always the same for a seed."""
    return random.Random(seed).randbytes(size)


def reads(root: Path, content: dict[str, bytes]) -> None:
    """The files are in the tree with just these bytes, and listed where they should be."""
    for name, data in content.items():
        assert (root / name).read_bytes() == data, name
        assert (root / name).stat().st_size == len(data)
        assert (root / name).name in os.listdir((root / name).parent)
    with pytest.raises(FileNotFoundError):
        (root / "no such file").stat()


def big_file(at: Path, size: int = BIG) -> None:
    """dd writes `size` bytes (a multiple of 1 MiB) and makes them durable; they come back, also past the page cache."""
    source = at.parent.parent / f"{at.name}.noise"
    source.write_bytes(noise(size))
    try:
        copy = ["dd", f"if={source}", f"of={at}", "bs=1M", "conv=fsync", "status=none"]
        subprocess.run(copy, check=True, timeout=30)
        assert at.stat().st_size == size
        with open(at, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        subprocess.run(["cmp", source, at], check=True, timeout=30)
    finally:
        source.unlink()
    at.unlink()
    assert not at.exists()


def tree(root: Path, without: Container[str] = (), arrived: Callable[[Path], object] = bool) -> None:
    """Directories, files, renames, links and attributes; `without` names what the filesystem does not support.

    It names some of: chmod, link, rename-over, symlink, truncate, utime. Everything made is removed again. `arrived`
    waits until a file's content is where the filesystem keeps it, before the file is renamed or removed: for one that
    uploads later and whose upload may otherwise end after the removal.
    """
    top = root / "work"
    top.mkdir()
    (top / "sub").mkdir()
    with pytest.raises(FileExistsError):
        (top / "sub").mkdir()
    a, b = top / "a", top / "sub" / "b"
    a.write_bytes(b"hello\n")
    assert a.read_bytes() == b"hello\n"
    with open(a, "ab") as file:
        file.write(b"more\n")
    assert a.read_bytes() == b"hello\nmore\n"
    if "truncate" not in without:
        os.truncate(a, 5)
        assert a.read_bytes() == b"hello"
    content = a.read_bytes()
    if "chmod" not in without:
        a.chmod(0o640)
        assert a.stat().st_mode & 0o777 == 0o640
    if "utime" not in without:
        os.utime(a, (1_000_000_000, 1_100_000_000))
        assert a.stat().st_mtime == 1_100_000_000
    arrived(a)
    a.rename(b)
    assert not a.exists()
    assert b.read_bytes() == content
    if "rename-over" not in without:
        a.write_bytes(b"other")
        arrived(a)
        a.rename(b)
        assert b.read_bytes() == b"other"
        content = b"other"
    if "symlink" not in without:
        (top / "symbolic").symlink_to("sub/b")
        assert os.readlink(top / "symbolic") == "sub/b"
        assert (top / "symbolic").read_bytes() == content
        (top / "symbolic").unlink()
    if "link" not in without:
        os.link(b, top / "hard")
        assert b.stat().st_nlink == 2
        assert (top / "hard").read_bytes() == content
        (top / "hard").unlink()
    many = {f"file{number}" for number in range(100)}
    for name in many:
        (top / name).write_bytes(name.encode())
    assert set(os.listdir(top)) == many | {"sub"}
    for name in many:
        assert (top / name).read_bytes() == name.encode()
        arrived(top / name)
        (top / name).unlink()
    with pytest.raises(OSError) as caught:
        (top / "sub").rmdir()
    assert caught.value.errno == errno.ENOTEMPTY
    arrived(b)
    b.unlink()
    _emptied(top / "sub")
    _emptied(top)
    assert not top.exists()


def _emptied(directory: Path) -> None:
    """rmdir(2), as soon as it can be: libfuse keeps a file that is still open as .fuse_hidden until RELEASE comes.

    Nobody waits for RELEASE when a file is closed, so it may come after the file's UNLINK.
    """

    def removed() -> bool:
        try:
            directory.rmdir()
        except OSError as bad:
            if bad.errno != errno.ENOTEMPTY or not all(
                name.startswith(".fuse_hidden") for name in os.listdir(directory)
            ):
                raise
            return False
        return True

    eventually(removed, f"{directory} is empty")
