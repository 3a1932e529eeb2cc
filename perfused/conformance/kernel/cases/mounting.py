"""Cases about mount(2): which options it demands, which it refuses and with which errno, and what options change.

Never here: INIT, and what permission checks decide.
"""

import errno
import os
import stat
from collections.abc import Callable

from perfused.conformance.kernel import seam
from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, Skipped, case
from perfused.conformance.kernel.cases.device import code, spare
from perfused.conformance.kernel.server import Server
from wire.flags import OpenFlag
from wire.opcodes import Opcode

MEASURED = "measured on Linux 6.18"
DOCS = "fuse.rst: mount options"
USUAL = f"rootmode={stat.S_IFDIR:o},user_id=0,group_id=0"
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32


def tried(k: Bench, data: str, fstype: str = "fuse", target: str = "") -> int:
    """The errno of a mount of a fresh device; `data` has the word FD where its number goes."""
    fd = spare(k)
    return code(lambda: seam.mount("conformance", target or k.path, fstype, 0, data.replace("FD", str(fd))))


def _refused(name: str, data: str, gets: int, level: Level = Level.SHOULD, fstype: str = "fuse") -> None:
    @case(f"mount/{name}", aspect="error", level=level, source=f"{DOCS}; {MEASURED}: {errno.errorcode[gets]}")
    def _(k: Bench) -> None:
        k.equal("errno", tried(k, data, fstype), gets)
        k.true("nothing is mounted", not os.path.ismount(k.path))


EINVAL = errno.EINVAL
_refused("without-options", "", EINVAL, Level.MUST)
_refused("without-fd", USUAL, EINVAL, Level.MUST)
_refused("without-rootmode", "fd=FD,user_id=0,group_id=0", EINVAL, Level.MUST)
_refused("without-user-id", "fd=FD,rootmode=40000,group_id=0", EINVAL, Level.MUST)
_refused("without-group-id", "fd=FD,rootmode=40000,user_id=0", EINVAL, Level.MUST)
_refused("fd-no-number", f"fd=x,{USUAL}", EINVAL)
_refused("fd-empty", f"fd=,{USUAL}", EINVAL)
_refused("fd-negative", f"fd=-1,{USUAL}", EINVAL)
_refused("fd-closed", f"fd=999,{USUAL}", EINVAL)
_refused("rootmode-no-number", "fd=FD,rootmode=x,user_id=0,group_id=0", EINVAL)
_refused("rootmode-not-octal", "fd=FD,rootmode=48000,user_id=0,group_id=0", EINVAL)
_refused("rootmode-0", "fd=FD,rootmode=0,user_id=0,group_id=0", EINVAL)
_refused("rootmode-of-no-type", "fd=FD,rootmode=755,user_id=0,group_id=0", EINVAL)
_refused("rootmode-of-a-file", "fd=FD,rootmode=100000,user_id=0,group_id=0", errno.ENOTDIR)
_refused("user-id-no-number", "fd=FD,rootmode=40000,user_id=x,group_id=0", EINVAL)
_refused("user-id-of-all-ones", "fd=FD,rootmode=40000,user_id=4294967295,group_id=0", EINVAL)
_refused("group-id-no-number", "fd=FD,rootmode=40000,user_id=0,group_id=x", EINVAL)
_refused("group-id-of-all-ones", "fd=FD,rootmode=40000,user_id=0,group_id=4294967295", EINVAL)
_refused("unknown-option", f"fd=FD,{USUAL},nobody_knows", EINVAL)
_refused("unknown-option-with-value", f"fd=FD,{USUAL},nobody_knows=1", EINVAL)
_refused("max-read-no-number", f"fd=FD,{USUAL},max_read=x", EINVAL)
_refused("blksize-without-a-block-device", f"fd=FD,{USUAL},blksize=4096", EINVAL)
_refused("default-permissions-with-value", f"fd=FD,{USUAL},default_permissions=1", EINVAL, Level.PROFILE)
_refused("fuseblk-without-a-block-device", f"fd=FD,{USUAL}", errno.ENOENT, Level.PROFILE, "fuseblk")
_refused("type-unknown", f"fd=FD,{USUAL}", errno.ENODEV, Level.MUST, "fusex")


def _foreign(name: str, made: Callable[[Bench], int]) -> None:
    @case(f"mount/fd-of-{name}", aspect="error", level=Level.SHOULD, source=f"{DOCS}; {MEASURED}: EINVAL")
    def _(k: Bench) -> None:
        fd = made(k)
        k.equal("errno", code(lambda: seam.mount("c", k.path, "fuse", 0, f"fd={fd},{USUAL}")), EINVAL)


_foreign("a-pipe", lambda k: os.pipe()[0])
_foreign("a-directory", lambda k: os.open(k.directory, os.O_RDONLY))
_foreign("another-device", lambda k: os.open("/dev/null", os.O_RDWR))


def _descriptor(name: str, flags: int, level: Level) -> None:
    @case(f"mount/fd-{name}", Opcode.INIT, aspect="other", level=level, source=MEASURED + ": it is mounted")
    def _(k: Bench) -> None:
        fd = spare(k, flags)
        k.equal("errno", code(lambda: seam.mount("c", k.path, "fuse", 0, f"fd={fd},{USUAL}")), 0)


_descriptor("read-only", os.O_RDONLY, Level.PROFILE)
_descriptor("write-only", os.O_WRONLY, Level.PROFILE)
_descriptor("nonblocking", os.O_RDWR | os.O_NONBLOCK, Level.MUST)


# -- where -------------------------------------------------------------------------------------------------------------


@case("mount/on-nothing", aspect="error", source="mount(2): ENOENT")
def _(k: Bench) -> None:
    k.equal("errno", tried(k, f"fd=FD,{USUAL}", target=os.path.join(k.directory, "none")), errno.ENOENT)


@case("mount/directory-on-a-file", aspect="error", source="mount(2): ENOTDIR")
def _(k: Bench) -> None:
    path = os.path.join(k.directory, "file")
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    k.equal("errno", tried(k, f"fd=FD,{USUAL}", target=path), errno.ENOTDIR)


@case("mount/file-on-a-file", Opcode.INIT, Opcode.OPEN, aspect="other", level=Level.SHOULD,
      source=f"{DOCS}: rootmode may be a file's; {MEASURED}")  # fmt: skip
def _(k: Bench) -> None:
    """A filesystem of one file: its root is that file."""
    path = os.path.join(k.directory, "file")
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    root = k.tree.at("")
    root.mode, root.data[:] = stat.S_IFREG | 0o644, b"content"
    fd = seam.open_device()
    server = k.server = Server(fd, k.tree)
    k.servers.append(server)
    seam.mount("c", path, "fuse", 0, f"fd={fd},rootmode=100644,user_id=0,group_id=0")
    try:
        server.start()
        k.equal("what is read", k.ok(lambda: open(path, "rb").read()), b"content")
    finally:
        seam.umount(path, seam.MNT_DETACH)


# -- what options change -----------------------------------------------------------------------------------------------


@case("mount/max-read", Opcode.READ, aspect="request", source=f"{DOCS}: max_read bounds READ")
def _(k: Bench) -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    k.mount(options=f"max_read={page}")
    k.tree.open_flags = OpenFlag.DIRECT_IO
    k.tree.add("a", bytes(8 * page))
    k.equal("bytes read", k.ok(lambda: len(os.read(os.open(k.file("a"), os.O_RDONLY), 8 * page))), 8 * page)
    k.equal("sizes of READ", {each.head.size for each in k.seen(Opcode.READ)}, {page})


@case("mount/max-read-buffered", Opcode.READ, aspect="request", source=f"{DOCS}: max_read bounds READ")
def _(k: Bench) -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    k.mount(options=f"max_read={page}")
    k.tree.add("a", bytes(8 * page))
    k.equal("bytes read", k.ok(lambda: len(open(k.file("a"), "rb").read())), 8 * page)
    longest = max(each.head.size for each in k.seen(Opcode.READ))
    k.true("each READ within max_read", longest <= page, longest)


@case("mount/max-read-below-a-page", Opcode.READ, aspect="request", level=Level.PROFILE,
      source=MEASURED + ": less than 4096 counts as 4096")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(options="max_read=100")
    k.tree.open_flags = OpenFlag.DIRECT_IO
    k.tree.add("a", bytes(8192))
    k.ok(lambda: os.read(os.open(k.file("a"), os.O_RDONLY), 8192))
    k.equal("sizes of READ", {each.head.size for each in k.seen(Opcode.READ)}, {4096})


@case("mount/default-permissions", Opcode.ACCESS, Opcode.OPEN, aspect="other",
      source=f"{DOCS}: default_permissions has the kernel check modes")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(options="default_permissions,allow_other")
    k.tree.add("a", mode=stat.S_IFREG | 0o600)
    k.fails(errno.EACCES, lambda: os.open(k.file("a"), os.O_RDONLY), "open by another user", uid=1000)
    k.equal("OPENs", len(k.seen(Opcode.OPEN)), 0)


@case("mount/without-default-permissions", Opcode.OPEN, aspect="other",
      source=f"{DOCS}: without default_permissions the filesystem checks")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(options="allow_other")
    k.tree.add("a", b"content", mode=stat.S_IFREG | 0o600)
    k.equal("what another user reads", k.ok(lambda: open(k.file("a"), "rb").read(), uid=1000), b"content")


@case("mount/allow-other", aspect="other", source=f"{DOCS}: allow_other")
def _(k: Bench) -> None:
    k.mount(options="allow_other")
    k.tree.add("a", b"content")
    k.equal("what another user reads", k.ok(lambda: open(k.file("a"), "rb").read(), uid=1000), b"content")


def _others(name: str, user: str, uid: int, gets: int) -> None:
    @case(f"mount/{name}", Opcode.GETATTR, aspect="other", source=f"{DOCS}: without allow_other only the owner")
    def _(k: Bench) -> None:
        fd = seam.open_device()
        server = k.server = Server(fd, k.tree)
        k.servers.append(server)
        seam.mount("c", k.path, "fuse", 0, f"fd={fd},rootmode=40000,{user}")
        server.start()
        os.chmod(k.directory, 0o755)
        before = len(server.requests)
        if gets:
            k.fails(gets, lambda: os.listdir(k.path), "a list", uid=uid)
            k.equal("requests of the other", [each for each in server.requests[before:] if each.header.uid], [])
        else:
            k.equal("the list", k.ok(lambda: os.listdir(k.path), uid=uid), [])


_others("other-user-is-refused", "user_id=0,group_id=0", 1000, errno.EACCES)
_others("root-is-an-other-user", "user_id=1000,group_id=1000", 0, errno.EACCES)
_others("the-owner-is-served", "user_id=1000,group_id=1000", 1000, 0)
_others("user-with-another-group", "user_id=1000,group_id=0", 1000, errno.EACCES)


def _shown(name: str, fstype: str, source: str, options: str, wanted: tuple[str, str, str]) -> None:
    @case(f"mount/{name}", aspect="other", level=Level.SHOULD, source="mountinfo: proc(5); " + MEASURED)
    def _(k: Bench) -> None:
        fd = spare(k)
        seam.mount(source, k.path, fstype, 0, f"fd={fd},{USUAL}{options}")
        try:
            lines = open("/proc/self/mountinfo").read().splitlines()
        except OSError:
            raise Skipped("no /proc/self/mountinfo") from None
        _, _, rest = next(line for line in lines if line.split()[4] == k.path).partition(" - ")
        shown_type, shown_source, shown = rest.split(" ", 2)
        k.equal("type and source", (shown_type, shown_source), wanted[:2])
        k.true(f"{wanted[2]} among the options", wanted[2] in shown.split(","), shown)


_shown("subtype-by-type", "fuse.mine", "src", "", ("fuse.mine", "src", "user_id=0"))
_shown("subtype-by-option", "fuse", "src", ",subtype=mine", ("fuse.mine", "src", "group_id=0"))
_shown("source-is-shown", "fuse", "host:/path", "", ("fuse", "host:/path", "user_id=0"))
_shown("allow-other-is-shown", "fuse", "src", ",allow_other", ("fuse", "src", "allow_other"))
_shown("default-permissions-is-shown", "fuse", "src", ",default_permissions", ("fuse", "src", "default_permissions"))
_shown("max-read-is-shown", "fuse", "src", ",max_read=65536", ("fuse", "src", "max_read=65536"))


@case("mount/read-only", Opcode.CREATE, Opcode.WRITE, aspect="other", source="mount(2): MS_RDONLY")
def _(k: Bench) -> None:
    k.mount(mount_flags=MS_RDONLY)
    k.tree.add("a", b"content")
    k.fails(errno.EROFS, lambda: os.open(k.file("a"), os.O_WRONLY), "open to write")
    k.fails(errno.EROFS, lambda: os.open(k.file("n"), os.O_CREAT | os.O_WRONLY), "open to make")
    k.fails(errno.EROFS, lambda: os.mkdir(k.file("n")), "mkdir")
    k.fails(errno.EROFS, lambda: os.unlink(k.file("a")), "unlink")
    k.equal("what is read", k.ok(lambda: open(k.file("a"), "rb").read()), b"content")
    asked = {each.header.opcode for each in k.server.requests} & {Opcode.CREATE, Opcode.MKDIR, Opcode.UNLINK}
    k.equal("requests that change something", asked, set())


@case("mount/remount-read-only", aspect="other", level=Level.SHOULD, source="mount(2): MS_REMOUNT")
def _(k: Bench) -> None:
    k.mount()
    k.tree.add("a", b"content")
    k.ok(lambda: os.close(os.open(k.file("a"), os.O_WRONLY)))
    k.ok(lambda: seam.mount("conformance", k.path, "fuse.conformance", MS_REMOUNT | MS_RDONLY, ""))
    k.fails(errno.EROFS, lambda: os.open(k.file("a"), os.O_WRONLY), "open to write")
    k.ok(lambda: seam.mount("conformance", k.path, "fuse.conformance", MS_REMOUNT, ""))
    k.ok(lambda: os.close(os.open(k.file("a"), os.O_WRONLY)))


@case("mount/remount-with-another-option", aspect="error", level=Level.PROFILE,
      source=MEASURED + ": mount(2)'s data of a remount is not looked at")  # fmt: skip
def _(k: Bench) -> None:
    k.mount()
    k.equal("errno", code(lambda: seam.mount("c", k.path, "fuse.conformance", MS_REMOUNT, "user_id=77")), 0)


@case("mount/root-mode-comes-from-the-filesystem", Opcode.GETATTR, aspect="other",
      source="fuse.rst: rootmode is for the time before GETATTR")  # fmt: skip
def _(k: Bench) -> None:
    k.mount()
    k.tree.at("").mode = stat.S_IFDIR | 0o751
    k.equal("the root's mode", k.ok(lambda: stat.S_IMODE(os.stat(k.path).st_mode)), 0o751)


@case("mount/nothing-is-asked-to-unmount", aspect="other", level=Level.PROFILE,
      source=MEASURED + ": beside FORGETs nothing comes; DESTROY only to fuseblk and virtiofs")  # fmt: skip
def _(k: Bench) -> None:
    k.mount()
    k.ok(lambda: os.stat(k.path))
    k.settle()
    before = len(k.server.requests)
    seam.umount(k.path)
    k.true("the end comes", k.server.join(k.patience))
    came = {each.header.opcode for each in k.server.requests[before:]}
    k.equal("requests at the end", came - {Opcode.FORGET, Opcode.BATCH_FORGET}, set())
