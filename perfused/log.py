"""Where the daemon's lines go: stderr in the foreground, syslog otherwise; and the debug classes of `-d`.

A line says who (mount), what, and why. Never here: deciding what is worth a line.
"""

import logging
import logging.handlers
import os
import sys
import time

LOGGER = logging.getLogger("perfused")

#: Debug classes as in the original's -d, and what each shows here. `reize` is how the original spelt `resize`.
CLASSES = {
    "fuse": "every FUSE frame, one line each",
    "puffs": "mounts, verdicts, workers coming and going (the original's other side; here the control plane)",
    "dump": "a hex dump of every FUSE frame's first bytes",
    "fh": "handles: OPEN, OPENDIR, CREATE, TMPFILE, RELEASE, RELEASEDIR",
    "reclaim": "FORGET and BATCH_FORGET",
    "readdir": "READDIR and READDIRPLUS",
    "requeue": "INTERRUPT, and requests answered here",
    "sync": "FSYNC, FSYNCDIR, FLUSH, SYNCFS",
    "misc": "INIT, STATFS, ACCESS, IOCTL, POLL, BMAP, locks, notifications",
    "filename": "requests that carry names",
    "resize": "SETATTR, FALLOCATE, WRITE, COPY_FILE_RANGE",
}
SPELLINGS = {"reize": "resize"}


class Plain(logging.Formatter):
    """Lines that stay lines: what a client may have put into a name acts on no terminal and forges no second line."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line, with what is not printable escaped; a traceback of ours follows it as it is."""
        text = record.message
        if not text.isprintable():
            record.message = "".join(each if each.isprintable() else _escaped(each) for each in text)
        return super().formatMessage(record)


def _escaped(char: str) -> str:
    # By hand: Python loads the codec for this on first use, from files a worker may not be able to read.
    return f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}"


class Limiter:
    """Lets so many lines a second through for each key, and says once when it holds more back."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._second = 0
        self._counts: dict[object, int] = {}

    def allows(self, key: object) -> bool:
        """Whether a line about `key` may be written now."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._counts = second, {}
        count = self._counts[key] = self._counts.get(key, 0) + 1
        if count == self.most + 1:
            LOGGER.warning("more of this in this second is not logged (%s)", key)
        return count <= self.most


class UnknownClass(ValueError):
    """A debug class that does not exist."""


def parse_classes(text: str) -> frozenset[str]:
    """Debug classes from a comma-separated list; `all` is every one. Raises UnknownClass naming it."""
    chosen = set()
    for word in filter(None, (each.strip().lower() for each in text.split(","))):
        name = SPELLINGS.get(word, word)
        if name == "all":
            chosen |= set(CLASSES)
        elif name in CLASSES:
            chosen.add(name)
        else:
            raise UnknownClass(f"{word!r} is no debug class; there are {', '.join(CLASSES)} and all")
    return frozenset(chosen)


def set_up(foreground: bool, debug: bool, file: str = "") -> None:
    """Send lines to `file` where one is named, else to stderr in the foreground, else to syslog, else to stderr.

    `debug` shows the debug lines. Raises OSError where the file cannot be opened.
    """
    LOGGER.handlers.clear()
    LOGGER.propagate = False
    LOGGER.setLevel(logging.DEBUG if debug else logging.INFO)
    if file:
        kept = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace")
        kept.setFormatter(Plain("%(asctime)s perfused[%(process)d]: %(levelname)s: %(message)s"))
        LOGGER.addHandler(kept)
        return
    if not foreground and os.path.exists("/dev/log"):
        try:
            syslog = logging.handlers.SysLogHandler("/dev/log", facility="daemon")
        except OSError:
            pass
        else:
            syslog.setFormatter(Plain("perfused[%(process)d]: %(message)s"))
            LOGGER.addHandler(syslog)
            return
    plain = logging.StreamHandler(sys.stderr)
    plain.setFormatter(Plain("perfused[%(process)d]: %(levelname)s: %(message)s"))
    LOGGER.addHandler(plain)


def descriptors() -> set[int]:
    """Descriptors the log writes to, which a forked process keeps."""
    found = set()
    for handler in LOGGER.handlers:
        for each in (getattr(handler, "socket", None), getattr(handler, "stream", None)):
            try:
                found.add(each.fileno())  # type: ignore[union-attr]
            except (AttributeError, ValueError, OSError):
                continue
    return found


def mute(muted: bool) -> None:
    """Show or hide debug lines; others stay."""
    LOGGER.setLevel(logging.INFO if muted else logging.DEBUG)
