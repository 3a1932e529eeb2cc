"""What the directory at hand must permit, for every call, every class of user and all eight sets of bits.

The class alone decides, from the owner down: an owner without permission is refused though all others have it. The bits
of the other classes are therefore the opposite ones.
"""

from collections.abc import Iterator
from errno import EACCES

from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import MEMBER, OTHER, ROOT, SUPPLEMENTARY, USER, Who
from perfused.conformance.filesystem.operations import OPERATIONS, Operation, companions

#: class -> who stands for it, and where its bits are
CLASSES: dict[str, tuple[Who, int]] = {
    "owner": (USER, 6),
    "group": (MEMBER, 3),
    "supplementary": (SUPPLEMENTARY, 3),
    "other": (OTHER, 0),
}


def cases() -> Iterator[Case]:
    """A case for each operation and class."""
    for operation in OPERATIONS:
        if not operation.privileged:
            for name in CLASSES:
                yield case(f"{operation.call}/permission/{operation.name}/{name}", matrix, operation, name,
                           needs=operation.needs)  # fmt: skip
        yield case(f"{operation.call}/permission/{operation.name}/root", root, operation, needs=operation.needs)


def mode_of(bits: int, shift: int) -> int:
    """Bits for one class, and the opposite for the two others."""
    mode = bits << shift
    for other in (6, 3, 0):
        if other != shift:
            mode |= (~bits & 7) << other
    return mode


def matrix(stage: Stage, operation: Operation, name: str) -> None:
    """Search permission is always needed, write permission to make or remove entries; reading does not matter."""
    who, shift = CLASSES[name]
    need = 0o3 if operation.writes else 0o1
    companions(stage, who)
    for bits in range(8):
        place = f"p{bits}"
        path = f"{place}/x"
        stage.make("dir", place, 0o700, USER)
        operation.prepare(stage, path, who)
        stage.setup("chmod", place, mode_of(bits, shift))
        allowed = bits & need == need
        shown = "".join(letter if bits & bit else "-" for letter, bit in (("r", 4), ("w", 2), ("x", 1)))
        want, word = (0, "success") if allowed else (EACCES, "EACCES")
        operation.expect(stage, want, path, who, label=f"{shown}-{word}")
        if allowed:
            operation.done(stage, path, f"{shown}-done")
            _put_back(stage, operation, who)
        else:
            operation.undone(stage, path, f"{shown}-nothing-done")


def _put_back(stage: Stage, operation: Operation, who: Who) -> None:
    match operation.name:
        case "link-from" | "rename-from":
            stage.setup("unlink", "w/made")
        case "rename-directory":
            stage.setup("rmdir", "w/made")
        case "rename-to" | "rename-over":
            stage.make("regular", "w/other", owner=who)


def root(stage: Stage, operation: Operation) -> None:
    """Root searches and changes directories without any permission."""
    companions(stage)
    stage.make("dir", "p", owner=USER)
    operation.prepare(stage, "p/x", USER)
    stage.setup("chmod", "p", 0)
    operation.expect(stage, 0, "p/x", ROOT, label="none-success")
    operation.done(stage, "p/x", "none-done")
