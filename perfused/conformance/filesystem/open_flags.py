"""open(2): all combinations of O_CREAT, O_EXCL, O_TRUNC, O_DIRECTORY, O_NOFOLLOW and the access modes, on everything.

The table is the reading of open(2) in `outcome`. Left out is what is not specified: O_EXCL without O_CREAT, and
O_CREAT with O_DIRECTORY, which kernels have answered in three ways.
"""

import os
from collections.abc import Iterator
from errno import EEXIST, EISDIR, ELOOP, ENOENT, ENOTDIR, ENXIO
from itertools import product

from perfused.conformance.filesystem.case import Case, Stage, case

ACCESS = {"read": os.O_RDONLY, "write": os.O_WRONLY, "both": os.O_RDWR}
FLAGS = {
    "creat": os.O_CREAT, "excl": os.O_EXCL, "trunc": os.O_TRUNC,
    "directory": os.O_DIRECTORY, "nofollow": os.O_NOFOLLOW, "append": os.O_APPEND,
}  # fmt: skip
#: what stands at the path -> what open(2) meets if it follows; a link is made to each of them too
PLAIN = ("nothing", "regular", "dir", "fifo", "block", "char", "socket")
TARGETS = (*PLAIN, *(f"link-to-{kind}" for kind in PLAIN), "loop")


def cases() -> Iterator[Case]:
    """For each target and access mode; inside, the 40 combinations of flags."""
    for target, access in product(TARGETS, ACCESS):
        device = target.endswith(("block", "char"))
        yield case(f"open/flags/{target}/{access}", combinations, target, access, needs=["devices"] if device else [])


def combined() -> Iterator[tuple[str, int]]:
    """All combinations of flags that are specified."""
    for chosen in product((0, 1), repeat=len(FLAGS)):
        names = [name for name, there in zip(FLAGS, chosen, strict=True) if there]
        flags = sum(FLAGS[name] for name in names)
        if ("excl" in names and "creat" not in names) or ("creat" in names and "directory" in names):
            continue
        yield "+".join(names) or "none", flags


def outcome(target: str, access: int, flags: int) -> int:
    """The errno that open(2) has for this, 0 for success."""
    link = target.startswith("link-to-") or target == "loop"
    met = target.removeprefix("link-to-")
    if link:
        if flags & os.O_CREAT and flags & os.O_EXCL:
            return EEXIST
        if flags & os.O_NOFOLLOW:
            return ENOTDIR if flags & os.O_DIRECTORY else ELOOP
        if target == "loop":
            return ELOOP
    if met == "nothing":
        return 0 if flags & os.O_CREAT else ENOENT
    if flags & os.O_CREAT and flags & os.O_EXCL:
        return EEXIST
    if met == "dir":
        writes = access != os.O_RDONLY or flags & (os.O_CREAT | os.O_TRUNC)
        return EISDIR if writes else 0
    if flags & os.O_DIRECTORY:
        return ENOTDIR
    if met in ("socket", "block") or (met == "fifo" and access == os.O_WRONLY):
        return ENXIO
    return 0


def combinations(stage: Stage, target: str, access: str) -> None:
    """The errno, and what then stands there: content lost to O_TRUNC alone, nothing made by a refused call."""
    mode = ACCESS[access]
    met = target.removeprefix("link-to-")
    for number, (name, flags) in enumerate(combined()):
        path, final = f"x{number}", f"x{number}"
        if target == "loop":
            stage.setup("symlink", path, path)
        elif target.startswith("link-to-"):
            final = f"t{number}"
            stage.setup("symlink", final, path)
        if met not in ("nothing", "loop"):
            stage.make(met, final)
        if met == "regular":
            stage.setup("truncate", final, 5)
        want = outcome(target, mode, flags)
        fd = stage.expect(want, "open", path, mode | flags | os.O_NONBLOCK, 0o640, label=name)
        sizes = {5} if want or not flags & os.O_TRUNC else {0} if mode != os.O_RDONLY else {0, 5}
        _what_stands(stage, met, final, want, sizes, name)
        if not want:
            stage.setup("close", fd)


def _what_stands(stage: Stage, met: str, final: str, want: int, sizes: set[int], name: str) -> None:
    if met == "loop":
        stage.sees(final, kind="symlink", label=f"{name}-after")
    elif met == "nothing":
        if want:
            stage.missing(final, f"{name}-after")
        else:
            stage.sees(final, kind="regular", size=0, mode=0o640, label=f"{name}-after")
    elif met == "regular":
        stage.sees(final, kind="regular", size=sizes, label=f"{name}-after")
    else:
        stage.sees(final, kind=met, label=f"{name}-after")
