"""Why kernels fail cases, in words, for their profiles: rules by kernel, case and what was seen.

A case of no rule keeps what its profile said before, or the case's own message. Never here: judging.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from perfused.conformance.findings import Expectation, Finding, Verdict


class Rule(NamedTuple):
    """Regular expressions that begin to match at the start of the kernel's name, of the case's, of its message."""

    kernel: str
    case: str
    message: str
    reason: str
    source: str = ""
    #: it may as well pass
    sometimes: bool = False


_GVISOR, _OLD_GVISOR, _NEW_GVISOR = "gvisor", "gvisor-2022", "gvisor-2024"
_SEEN = "seen in its requests"

_OLD_LINUX = r"(linux|uml)-(5[.]10|6[.]1)$|s390x"
_NEW_LINUX = r"(linux|uml)-7[.][23]"

RULES = (
    Rule(_OLD_LINUX, "device/unmounted-backing", "", "no passthrough yet: the ioctl is unknown, ENOTTY", "Linux 6.9"),
    Rule(_OLD_LINUX, "device/clone-of-an-unmounted", "", "EINVAL for a device that is not mounted, later EPERM", _SEEN),
    Rule("linux-6[.]12", "device/clone-of-an-unmounted", "", "EINVAL for a device not mounted, later EPERM", _SEEN),
    Rule("linux-6[.]18", "device/clone-of-an-unmounted", "", "EINVAL before 6.18.44 at the latest", _SEEN, True),
    Rule("linux-6[.]12", "link/(enosys|.*sticks)", "", "ENOSYS of LINK is not remembered", _SEEN),
    Rule(_OLD_LINUX, "link/(enosys|.*sticks)", "", "ENOSYS of LINK is passed on and not remembered", _SEEN),
    Rule(_OLD_LINUX, "flag/create-supp-group-offered", "", "7.38 of 6.1 lacks a flag that 7.38 of fuse.h has", _SEEN),
    Rule(r"(linux|uml)-5[.]10", "fallocate/zero|io/", ".*ENOTSUP", "no FALLOC_FL_ZERO_RANGE: EOPNOTSUPP", _SEEN),
    Rule(r"(linux|uml)-5[.]10", "change/late-lookup", "", "an answer older than a change of the size undoes it", _SEEN),
    Rule(_NEW_LINUX, ".*no-caller", ".*got .0, 0, (0, )?[1-9]",
         "requests on nobody's behalf carry the pid of the process that they come from", _SEEN),
    Rule(_NEW_LINUX, "read/error", ".*EIO", "an errno of READ reaches read(2) as EIO", _SEEN),
    Rule(_NEW_LINUX, "init/(major|error|reply)", ".*got EIO", "who waits for an INIT that fails gets EIO", _SEEN, True),
    Rule(_NEW_LINUX, "mount/fd-closed", ".*9$", "mount(2) with a closed descriptor gives EBADF", _SEEN),
    Rule(_NEW_LINUX, "notify/before-init", "", "a notification before INIT is answered gives EINVAL", _SEEN),
    Rule(_GVISOR, "flush/", ".*FLUSH", "close(2) sends no FLUSH", _SEEN),
    Rule(_GVISOR, "flush/error", ".*success", "close(2) sends no FLUSH", _SEEN),
    Rule(_GVISOR, "notify/", "what write.2. ", "notifications are refused with EINVAL", _SEEN),
    Rule(_GVISOR, "notify/", ".*wanted POLL", "poll(2) is not passed on", _SEEN),
    Rule(_GVISOR, "poll/", "", "poll(2) is not passed on", _SEEN),
    Rule(_GVISOR, "(fallocate|change/.*(fallocate|punch))", "", "fallocate(2) is not passed on", _SEEN),
    Rule(_GVISOR, "copy/", "", "copy_file_range(2) is not passed on", _SEEN),
    Rule(_GVISOR, "(set|get|list|remove)xattr/|permissions/xattr|acl/", "", "extended attributes are not passed on",
         _SEEN),
    Rule(_GVISOR, ".*", ".*got (ENOTSUP|95)$", "extended attributes are not passed on", _SEEN),
    Rule(_GVISOR, "lseek/", "", "lseek(2) neither asks the server nor knows the size", _SEEN),
    Rule(_GVISOR, "(batch-)?forget/", ".*(FORGET|forgotten|LOOKUP|killed)", "FORGET is never sent", _SEEN),
    Rule(_GVISOR, ".*link", ".*EPERM", "link(2) is not passed on: EPERM", _SEEN),
    Rule(_OLD_GVISOR, "access/", "", "access(2) is not passed on", _SEEN),
    Rule(_GVISOR, "permissions/", "", "default_permissions does not do what it does on Linux", _SEEN),
    Rule(_GVISOR, "rename2/", "", "the flags of renameat2(2) are not passed on", _SEEN),
    Rule(_GVISOR, "lock/|setlkw/", "", "locks are not passed on, and not offered in INIT", _SEEN),
    Rule(_GVISOR, "fsync/", "", "fsync(2) is neither waited for nor told of errors", _SEEN),
    Rule(_GVISOR, "(fsyncdir|releasedir)/", ".*EPERM", "fsync(2) of a directory gives EPERM", _SEEN),
    Rule(_GVISOR, "entry-timeout/", "", "a name once found is not asked for again", _SEEN),
    Rule(_GVISOR, "attr-timeout/|getattr/(valid|lookup)|statx/dont", "", "attr_valid is not heeded: each call asks",
         _SEEN),
    Rule(_GVISOR, "init/time-gran|setattr/time-gran", "", "time_gran is not heeded", _SEEN),
    Rule(_GVISOR, "(mmap|release/mapped|fopen/direct-mmap)", ".*ENODEV", "files cannot be mapped: ENODEV", _SEEN),
    Rule(_GVISOR, "killpriv/|setattr/.*suid", "", "set-id bits are not taken away", _SEEN),
    Rule(_GVISOR, "readdir/(seek|rewind)", "", "a directory that was read once cannot be read from another position",
         _SEEN),
    Rule(_GVISOR, "create/.*fallback|create/enosys|opendir/enosys|opendir/without", "",
         "ENOSYS is an error as any other, and does not stick", _SEEN),
    Rule(_GVISOR, "malformed/.*reply-(long|short|empty)", ".*EINVAL|.*success",
         "the length of replies is not looked at, or the error is EINVAL", _SEEN),
    Rule(_GVISOR, "(death|device|init)/", ".*(told of the end|device ended|still)",
         "the server's read(2) is not woken by an unmount", _SEEN),
    Rule(_GVISOR, ".*", "the kernel: wanted INTERRUPT", "INTERRUPT is never sent", _SEEN),
    Rule(_GVISOR, "init/(reply|minor-0|error)|(minor|notify)/.*", "killed",
         "an INIT answer that is refused, or of a minor below 5, leaves all callers waiting", _SEEN),
    Rule(_GVISOR, "(mmap|io)/|dax/|fopen/direct-mmap|change/.*copy|killpriv/copy", ".*ENOSYS",
         "files cannot be mapped, nor copied by copy_file_range(2): ENOSYS", _SEEN),
    Rule(_GVISOR, "minor/", ".*(EINVAL|ENOENT)", "layouts of old minors are not read", _SEEN),
    Rule(_GVISOR, "device/clone", ".*ENOTTY", "a device cannot be cloned: ENOTTY", _SEEN),
    Rule(_GVISOR, ".*", ".*(ENOTTY|IOCTL)", "ioctl(2) is not passed on", _SEEN),
    Rule(_NEW_GVISOR, ".*rmdir", ".*ENOENT", "rmdir(2) gives ENOENT", _SEEN),
    Rule(_GVISOR, "negative/", ".*ENOENT: wanted", "an entry of nodeid 0 is an inode, not a missing name", _SEEN),
    Rule(_GVISOR, "readonly/|setattr/read-only", ".*EROFS", "a read-only mount lets changes through", _SEEN),
    Rule(_GVISOR, "malformed/|init/second", ".*what write.2.", "write(2) of a bad frame says something else", _SEEN),
    Rule(_GVISOR, "malformed/", ".*", "a bad frame is taken, or refused with another errno", _SEEN),
    Rule(_GVISOR, ".*", "killed", "a call waits for ever for an answer or an end that comes", _SEEN),
    Rule(_GVISOR, "open/.*-passed|release/flags", "", "OPEN has no flags but the access mode", _SEEN),
    Rule(_GVISOR, "init/(max-write|max-pages)", "", "a WRITE is at most a page", _SEEN),
)  # fmt: skip


def worded(kernel: str, findings: Iterable[Finding], before: dict[str, Expectation]) -> dict[str, Expectation]:
    """What a profile of these findings should say, by case: words of a rule, else of the profile before."""
    said = {}
    for each in findings:
        known = before.get(each.id)
        if each.verdict is Verdict.PANIC:
            said[each.id] = Expectation(each.message, "its last words", bool(known and known.sometimes))
            continue
        for rule in RULES:
            if re.match(rule.kernel, kernel) and re.match(rule.case, each.id) and re.match(rule.message, each.message):
                found = Expectation(rule.reason, rule.source, rule.sometimes)
                said[each.id] = replace(found, sometimes=known.sometimes or rule.sometimes) if known else found
                break
        else:
            if known:
                said[each.id] = known
    return said
