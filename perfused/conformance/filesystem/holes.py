"""Where data and holes are: SEEK_DATA and SEEK_HOLE of lseek(2), on files whose pieces of 64 KiB are written or not."""

import os
from collections.abc import Iterator
from errno import ENXIO

from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import OTHER, ROOT
from perfused.conformance.filesystem.offers import PIECE

#: layouts of six pieces: # written, . not
LAYOUTS = ("......", "#.....", ".....#", "#.#.#.", ".#.#.#", "##..##", "..##..", "######", "#....#", ".####.")


def cases() -> Iterator[Case]:
    """By layout, and what changes it."""
    for layout in LAYOUTS:
        name = layout.replace("#", "d").replace(".", "h")
        yield case(f"lseek/holes/{name}", pieces, layout, needs=["holes"])
    yield case("lseek/holes/filled", filled, needs=["holes"])
    yield case("lseek/holes/truncated", truncated, needs=["holes"])
    yield case("lseek/holes/far", far, needs=["holes"])
    yield case("lseek/holes/offset", offset)


def pieces(stage: Stage, layout: str) -> None:
    """From every piece, and from inside it, the next data and the next hole; the end is a hole."""
    stage.make("regular", "x", 0o644)
    fd = stage.setup("open", "x", os.O_RDWR)
    end = len(layout) * PIECE
    stage.setup("ftruncate", fd, end)
    for number, each in enumerate(layout):
        if each == "#":
            stage.setup("pwrite", fd, bytes([1 + number]) * PIECE, number * PIECE)
    for who in (ROOT, OTHER):
        opened = stage.setup("open", "x", os.O_RDONLY, who=who)
        for number, each in enumerate(layout):
            for inside in (0, 1, PIECE - 1):
                at = number * PIECE + inside
                data = at if each == "#" else layout.find("#", number) * PIECE
                hole = at if each == "." else (layout + ".").find(".", number) * PIECE
                label = f"{who.name}-{number}+{inside}"
                if data < 0:
                    stage.expect(ENXIO, "lseek", opened, at, os.SEEK_DATA, who=who, label=f"{label}-data")
                else:
                    stage.gives(data, "lseek", opened, at, os.SEEK_DATA, who=who, label=f"{label}-data")
                stage.gives(hole, "lseek", opened, at, os.SEEK_HOLE, who=who, label=f"{label}-hole")
        for name, at in (("end", end), ("behind", end + 1)):
            stage.expect(ENXIO, "lseek", opened, at, os.SEEK_DATA, who=who, label=f"{who.name}-{name}-data-ENXIO")
            stage.expect(ENXIO, "lseek", opened, at, os.SEEK_HOLE, who=who, label=f"{who.name}-{name}-hole-ENXIO")
    want = b"".join(bytes([1 + number if each == "#" else 0]) * PIECE for number, each in enumerate(layout))
    stage.gives(want, "pread", fd, end + 1, 0, label="content")


def filled(stage: Stage) -> None:
    """What is written into a hole is data from then on, also where it is zeros."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("ftruncate", fd, 4 * PIECE)
    stage.gives(0, "lseek", fd, 0, os.SEEK_HOLE, label="all-hole")
    stage.setup("pwrite", fd, b"x" * PIECE, PIECE)
    stage.gives(PIECE, "lseek", fd, 0, os.SEEK_DATA, label="data")
    stage.gives(2 * PIECE, "lseek", fd, PIECE, os.SEEK_HOLE, label="hole-behind")
    stage.setup("pwrite", fd, b"x" * PIECE, 0)
    stage.gives(0, "lseek", fd, 0, os.SEEK_DATA, label="data-before")
    stage.gives(2 * PIECE, "lseek", fd, 0, os.SEEK_HOLE, label="hole-further")
    stage.setup("pwrite", fd, b"x" * (2 * PIECE), 2 * PIECE)
    stage.gives(4 * PIECE, "lseek", fd, 0, os.SEEK_HOLE, label="none-but-the-end")


def truncated(stage: Stage) -> None:
    """What was cut off is a hole when the file grows again, and zeros."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("pwrite", fd, b"x" * (3 * PIECE), 0)
    stage.expect(0, "ftruncate", fd, PIECE)
    stage.gives(PIECE, "lseek", fd, 0, os.SEEK_HOLE, label="end")
    stage.expect(ENXIO, "lseek", fd, PIECE, os.SEEK_DATA, label="behind-ENXIO")
    stage.expect(0, "ftruncate", fd, 3 * PIECE)
    stage.gives(PIECE, "lseek", fd, 0, os.SEEK_HOLE, label="hole")
    stage.expect(ENXIO, "lseek", fd, PIECE, os.SEEK_DATA, label="no-data-ENXIO")
    stage.gives(b"x" + bytes(10), "pread", fd, 11, PIECE - 1)


def far(stage: Stage) -> None:
    """Data beyond 32 bits is found from the beginning."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    at = 1 << 35
    stage.setup("pwrite", fd, b"x" * PIECE, at)
    stage.gives(at, "lseek", fd, 0, os.SEEK_DATA)
    stage.gives(at + PIECE, "lseek", fd, at, os.SEEK_HOLE)
    stage.gives(0, "lseek", fd, 0, os.SEEK_HOLE, label="beginning")


def offset(stage: Stage) -> None:
    """The offset is where it was found, and stays where nothing was."""
    stage.make("regular", "x")
    fd = stage.setup("open", "x", os.O_RDWR)
    stage.setup("write", fd, b"0123456789")
    stage.gives(3, "lseek", fd, 3, os.SEEK_DATA, label="data")
    stage.gives(3, "lseek", fd, 0, os.SEEK_CUR, label="offset-at-data")
    stage.gives(10, "lseek", fd, 3, os.SEEK_HOLE, label="hole")
    stage.gives(10, "lseek", fd, 0, os.SEEK_CUR, label="offset-at-hole")
    stage.expect(ENXIO, "lseek", fd, 10, os.SEEK_DATA, label="ENXIO")
    stage.gives(10, "lseek", fd, 0, os.SEEK_CUR, label="offset-stays")
    stage.expect(ENXIO, "lseek", fd, -1, os.SEEK_DATA, label="negative-ENXIO")
