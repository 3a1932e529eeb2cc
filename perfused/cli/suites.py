"""What the commands of the suites share: how they end when they are told to, and where they may write."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click


@contextlib.contextmanager
def unwound_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind the block as ^C does, so that it removes what it has made: status 143, 129 and 130.

    Once, for each of them: what comes while the block is removing things is too late. One that is ignored (nohup(1))
    stays so. For the main thread alone.
    """
    kept = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        for number, before in kept.items():
            if before is signal.SIG_DFL:
                signal.signal(number, _unwind)
        yield
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    finally:
        for number, before in kept.items():
            signal.signal(number, before)


def _unwind(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def in_a_directory(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """A click callback for a file to be written at the end: BadParameter now where there is no directory for it."""
    if path is not None and not path.parent.is_dir():
        raise click.BadParameter(f"there is no directory {path.parent}")
    return path
