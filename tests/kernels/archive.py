"""Archives of the "newc" kind, which Linux unpacks into its first root (initramfs/buffer-format of the kernel's docs).

Several may follow each other, each from an offset that 4 divides. Never here: what belongs into one.
"""

import os
import stat
from pathlib import Path


class Archive:
    """An archive in the making. Paths are relative to the root; directories above a file are made."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._paths: set[str] = set()

    def add(self, path: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        """Add a file of any kind, owned by root; `mode` is st_mode's. A path that is there already is left."""
        above, _, _ = path.rpartition("/")
        if above:
            self.add(above, stat.S_IFDIR | 0o755)
        if path in self._paths:
            return
        self._paths.add(path)
        self._write(path, mode, data, device)

    def _write(self, path: str, mode: int, data: bytes, device: tuple[int, int] = (0, 0)) -> None:
        name = path.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        # ino mode uid gid nlink mtime filesize, device of it (major, minor), device it is, namesize, check
        numbers = (len(self._paths), mode, 0, 0, links, 0, len(data), 0, 0, *device, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % number for number in numbers) + name
        for part in (head, data):
            self._parts.append(part + bytes(-len(part) % 4))

    def tree(self, directory: Path, below: str = "", leave_out: tuple[str, ...] = ()) -> None:
        """Add all below a directory, but directories whose name is one of `leave_out`; links stay links."""
        for root, directories, files in os.walk(directory):
            directories[:] = sorted(each for each in directories if each not in leave_out)
            for each in sorted(files + directories):
                path = Path(root, each)
                name = str(Path(below, path.relative_to(directory)))
                mode = path.lstat().st_mode
                if stat.S_ISLNK(mode):
                    self.add(name, mode, os.fsencode(os.readlink(path)))
                else:
                    self.add(name, mode, path.read_bytes() if stat.S_ISREG(mode) else b"")

    def done(self) -> bytes:
        """The whole archive, its end mark included."""
        self._write("TRAILER!!!", 0, b"")
        whole = b"".join(self._parts)
        return whole + bytes(-len(whole) % 512)
