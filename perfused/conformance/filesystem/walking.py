"""What can be wrong with a path, for every call that takes one (path_resolution(7)).

Nothing here is about permissions of the directory at hand: `parents` is.
"""

from collections.abc import Iterator
from errno import EACCES, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR

from perfused.conformance.filesystem.calls import SPECIAL
from perfused.conformance.filesystem.case import Case, Stage, case
from perfused.conformance.filesystem.identities import USER
from perfused.conformance.filesystem.operations import OPERATIONS, Operation, companions

#: symbolic links that one path may lead through (path_resolution(7))
MAXSYMLINKS = 40
#: bytes of the longest path, its NUL not counted
PATH_BYTES = 4095


def cases() -> Iterator[Case]:
    """For each operation a case for each kind of trouble."""
    for operation in OPERATIONS:
        where = f"{operation.call}/path/{operation.name}"
        yield case(f"{where}/not-a-directory", not_a_directory, operation, needs=operation.needs)
        yield case(f"{where}/absent", absent, operation, needs=operation.needs)
        yield case(f"{where}/loop", loop, operation, needs=operation.needs)
        yield case(f"{where}/long-name", long_name, operation, needs=operation.needs)
        yield case(f"{where}/long-path", long_path, operation, needs=operation.needs)
        yield case(f"{where}/detour", detour, operation, needs=operation.needs)
        yield case(f"{where}/slash", slash, operation, needs=operation.needs)
        if not operation.privileged:
            yield case(f"{where}/search", search, operation, needs=operation.needs)


def not_a_directory(stage: Stage, operation: Operation) -> None:
    """A component is something else than a directory."""
    companions(stage)
    for kind in SPECIAL:
        stage.make(kind, kind)
        operation.expect(stage, ENOTDIR, f"{kind}/x", label=f"below-{kind}-ENOTDIR")
    stage.setup("symlink", "regular", "ln")
    operation.expect(stage, ENOTDIR, "ln/x", label="below-link-to-regular-ENOTDIR")
    stage.holds("w", "other", label="nothing-made")


def absent(stage: Stage, operation: Operation) -> None:
    """A component, or what the call wants to find, is not there."""
    companions(stage)
    stage.make("symlink", "dangling")
    stage.make("dir", "d")
    operation.expect(stage, ENOENT, "", label="empty-ENOENT")
    operation.expect(stage, ENOENT, "no/x", label="below-nothing-ENOENT")
    operation.expect(stage, ENOENT, "d/no/x", label="below-nothing-deeper-ENOENT")
    operation.expect(stage, ENOENT, "dangling/x", label="below-dangling-link-ENOENT")
    operation.expect(stage, ENOENT, "no/../d/x", label="back-from-nothing-ENOENT")
    if operation.finds and not operation.optional:
        operation.expect(stage, ENOENT, "x", label="nothing-there-ENOENT")
        operation.expect(stage, ENOENT, "d/x", label="nothing-there-deeper-ENOENT")
    if operation.follows:
        operation.expect(stage, ENOENT, "dangling", label="dangling-link-ENOENT")
    stage.holds("d", label="nothing-made")
    stage.holds("w", "other", label="nothing-made-in-w")


def loop(stage: Stage, operation: Operation) -> None:
    """Symbolic links lead in a circle, or through too many of them."""
    companions(stage)
    stage.setup("symlink", "loop", "loop")
    stage.setup("symlink", "b", "a")
    stage.setup("symlink", "a", "b")
    stage.setup("symlink", "in/in", "in")
    for link, what in (("loop", "itself"), ("a", "one-another"), ("in", "below-itself")):
        operation.expect(stage, ELOOP, f"{link}/x", label=f"below-link-to-{what}-ELOOP")
        if operation.follows:
            operation.expect(stage, ELOOP, link, label=f"link-to-{what}-ELOOP")
    stage.make("dir", "d")
    stage.setup("symlink", "d", "c1")
    for number in range(2, MAXSYMLINKS + 2):
        stage.setup("symlink", f"c{number - 1}", f"c{number}")
    operation.prepare(stage, "d/x")
    operation.expect(stage, ELOOP, f"c{MAXSYMLINKS + 1}/x", label="41-links-ELOOP")
    operation.undone(stage, "d/x", "41-links-do-nothing")
    operation.expect(stage, 0, f"c{MAXSYMLINKS}/x", label="40-links-success")
    operation.done(stage, "d/x", "40-links-done")


def long_name(stage: Stage, operation: Operation) -> None:
    """Names up to NAME_MAX bytes are good, as the last component or another."""
    companions(stage)
    longest = "n" * stage.facts.name_max
    operation.prepare(stage, longest)
    operation.expect(stage, ENAMETOOLONG, longest + "n", label="too-long-ENAMETOOLONG")
    operation.expect(stage, ENAMETOOLONG, f"{longest}n/x", label="below-too-long-ENAMETOOLONG")
    operation.expect(stage, 0, longest, label="longest-success")
    operation.done(stage, longest, "longest-done")
    deep = "d" * stage.facts.name_max
    stage.make("dir", deep)
    operation_again(stage, operation, f"{deep}/x", "below-longest")


def operation_again(stage: Stage, operation: Operation, path: str, what: str) -> None:
    """The operation once more: what the first has left in `w` goes first."""
    _clear(stage, operation)
    operation.prepare(stage, path)
    operation.expect(stage, 0, path, label=f"{what}-success")
    operation.done(stage, path, f"{what}-done")


def _clear(stage: Stage, operation: Operation) -> None:
    match operation.at("")[0], operation.name:
        case "link", "link-from":
            stage.setup("unlink", "w/made")
        case "rename", "rename-from":
            stage.setup("unlink", "w/made")
        case "rename", "rename-directory":
            stage.setup("rmdir", "w/made")
        case "rename", _:
            stage.make("regular", "w/other")


def long_path(stage: Stage, operation: Operation) -> None:
    """A path may have 4095 bytes."""
    companions(stage)
    operation.prepare(stage, "xx")
    for over in (2, 1):
        path = _padded("xx", PATH_BYTES + over)
        operation.expect(stage, ENAMETOOLONG, path, label=f"{PATH_BYTES + over}-ENAMETOOLONG")
    operation.undone(stage, "xx", "too-long-does-nothing")
    operation.expect(stage, 0, _padded("xx", PATH_BYTES), label="4095-success")
    operation.done(stage, "xx", "4095-done")


def _padded(name: str, length: int) -> str:
    """The name behind as many dots and slashes as make a path of that many bytes."""
    room = length - len(name)
    return "./" * (room // 2 - 1) + "." + "/" * (room - 2 * (room // 2) + 1) + name


def detour(stage: Stage, operation: Operation) -> None:
    """Dots, doubled slashes, links to directories and absolute links lead there all the same."""
    companions(stage)
    stage.make("dir", "d")
    stage.make("dir", "d/e")
    stage.setup("symlink", "d", "ln")
    stage.setup("symlink", "../d", "d/up")
    ways = {"dot": "d/./x", "dot-dot": "d/e/../x", "slashes": "d//x", "link": "ln/x", "link-up": "d/up/x"}
    for number, (what, way) in enumerate(ways.items()):
        path = way.replace("x", f"x{number}")
        plain = f"d/x{number}"
        if number:
            _clear(stage, operation)
        operation.prepare(stage, plain)
        operation.expect(stage, 0, path, label=f"{what}-success")
        operation.done(stage, plain, f"{what}-done")


def slash(stage: Stage, operation: Operation) -> None:
    """A slash after the name wants a directory."""
    companions(stage)
    operation.prepare(stage, "x")
    operation.expect(stage, operation.slash, "x/", label="slash")
    if operation.slash:
        operation.undone(stage, "x", "slash-does-nothing")
    else:
        operation.done(stage, "x", "slash-done")


def search(stage: Stage, operation: Operation) -> None:
    """Every directory on the way has to be searchable, also those that links lead through."""
    companions(stage, USER)
    stage.make("dir", "d", 0o755)
    stage.make("dir", "d/e", 0o777)
    stage.setup("symlink", "d/e", "ln")
    operation.prepare(stage, "d/e/x", USER)
    for mode in (0o700, 0o754, 0o766):
        stage.setup("chmod", "d", mode)
        operation.expect(stage, EACCES, "d/e/x", USER, label=f"{mode:03o}-EACCES")
        operation.expect(stage, EACCES, "ln/x", USER, label=f"{mode:03o}-by-link-EACCES")
    operation.undone(stage, "d/e/x", "denied-does-nothing")
    stage.setup("chmod", "d", 0o751)
    operation.expect(stage, 0, "ln/x", USER, label="751-success")
    operation.done(stage, "d/e/x", "751-done")
