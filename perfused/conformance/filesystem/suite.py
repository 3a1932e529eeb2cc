"""All cases, in order: a list of modules, each of which yields its own."""

from collections.abc import Iterator

from perfused.conformance.filesystem import (
    access,
    acl,
    acl_default,
    chmod,
    chown,
    copying,
    creating,
    directory_streams,
    fallocate,
    flock,
    holes,
    link,
    locks,
    locks_waiting,
    mapping,
    mounts,
    open_flags,
    opening,
    parents,
    posix_fallocate,
    reading,
    removing,
    rename,
    rename_flags,
    rename_over,
    rename_sticky,
    special,
    statx,
    symlink,
    tmpfile,
    truncate,
    unlinked,
    utimensat,
    walking,
    writing,
    xattr,
)
from perfused.conformance.filesystem.case import Case

MODULES = (
    access, acl, acl_default, chmod, chown, copying, creating, directory_streams, fallocate, flock, holes, link, locks,
    locks_waiting, mapping, mounts, open_flags, opening, parents, posix_fallocate, reading, removing, rename,
    rename_flags, rename_over, rename_sticky, special, statx, symlink, tmpfile, truncate, unlinked, utimensat,
    walking, writing, xattr,
)  # fmt: skip


def cases(only: tuple[str, ...] = ()) -> Iterator[Case]:
    """All cases whose id begins with one of the prefixes, or that hold the assertion it names; by system call."""
    found = [each for module in MODULES for each in module.cases() if _chosen(each.id, only)]
    return iter(sorted(found, key=lambda each: each.id.partition("/")[0]))


def _chosen(name: str, only: tuple[str, ...]) -> bool:
    return not only or any(name.startswith(prefix) or prefix.startswith(f"{name}/") for prefix in only)
