"""Cases about INIT's flags one by one: whether each is offered, and that agreeing on it breaks nothing.

Never here: what a flag changes (`flag_effects`).
"""

import errno
import fcntl
import os
from pathlib import Path

from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, Skipped, case
from wire import ioctls
from wire.flags import INIT_POLICY, InitFlag
from wire.opcodes import Opcode

INIT = Opcode.INIT
MEASURED = "measured on Linux 6.18"
F = InitFlag
#: never offered to a server on /dev/fuse: without a use, reserved, or of virtiofs and DAX alone
NOT_OFFERED = (F.FILE_OPS, F.MAP_ALIGNMENT, F.SUBMOUNTS, F.INIT_RESERVED)
#: offered or not as the kernel was built or told
DEPENDS = (F.HAS_INODE_DAX, F.PASSTHROUGH, F.OVER_IO_URING)


def slug(flag: InitFlag) -> str:
    """A flag's name as ids have it."""
    return (flag.name or "").lower().replace("_", "-")


def alive(k: Bench) -> None:
    """A little of everything works."""
    k.tree.add("alive", b"yes")

    def work() -> tuple[bytes, list[str], int]:
        with open(k.file("new"), "wb") as file:
            file.write(b"data")
        os.mkdir(k.file("d"))
        return open(k.file("alive"), "rb").read(), sorted(os.listdir(k.path)), os.stat(k.file("new")).st_size

    k.equal("what the caller sees", k.ok(work), (b"yes", ["alive", "d", "new"], 4))


def _offered(flag: InitFlag) -> None:
    wanted = flag not in NOT_OFFERED

    @case(f"flag/{slug(flag)}-{'offered' if wanted else 'not-offered'}", INIT, aspect="flag", level=Level.PROFILE,
          since=INIT_POLICY[flag].since, source=f"{MEASURED}: {'offered' if wanted else 'not offered'}")  # fmt: skip
    def _(k: Bench) -> None:
        server = k.mount()
        k.equal(f"whether {flag.name} is offered", bool(server.offered & flag), wanted)


def _harmless(flag: InitFlag, offered: bool) -> None:
    @case(f"flag/{slug(flag)}-{'harmless' if offered else 'set-though-not-offered'}", INIT, aspect="flag",
          level=Level.SHOULD, since=INIT_POLICY[flag].since, flags=flag if offered else 0,
          source=f"{MEASURED}: it changes nothing that a caller sees")  # fmt: skip
    def _(k: Bench) -> None:
        if not offered and k.offered & flag:
            raise Skipped(f"the kernel offers {flag.name}")
        k.mount(init_rule=lambda _: k.server.init_out(all_flags=int(flag)))
        alive(k)


for _flag in F:
    if _flag not in DEPENDS:
        _offered(_flag)
for _flag in (*NOT_OFFERED, F.HAS_INODE_DAX, F.OVER_IO_URING):
    _harmless(_flag, offered=False)
for _flag in (
    F.ASYNC_READ, F.SPLICE_WRITE, F.SPLICE_MOVE, F.SPLICE_READ, F.ASYNC_DIO, F.NO_OPEN_SUPPORT, F.NO_OPENDIR_SUPPORT,
    F.PARALLEL_DIROPS, F.ABORT_ERROR, F.INIT_EXT, F.HAS_EXPIRE_ONLY, F.HAS_RESEND, F.PASSTHROUGH, F.HAS_INODE_DAX,
    F.EXPORT_SUPPORT, F.BIG_WRITES, F.WRITEBACK_CACHE, F.POSIX_ACL, F.CACHE_SYMLINKS, F.AUTO_INVAL_DATA,
):  # fmt: skip
    _harmless(_flag, offered=True)


@case("flag/passthrough-offered-with-its-ioctls", INIT, aspect="flag", since=40,
      source="fuse.h 7.40: FUSE_PASSTHROUGH and FUSE_DEV_IOC_BACKING_OPEN come together")  # fmt: skip
def _(k: Bench) -> None:
    server = k.mount()
    k.ok(lambda: os.stat(k.path))
    try:
        fcntl.ioctl(server.fd, ioctls.FUSE_DEV_IOC_BACKING_OPEN, bytes(16))
        there = True
    except OSError as bad:
        there = bad.errno not in (errno.ENOTTY, errno.EOPNOTSUPP)
    k.equal("whether the ioctl is there, and the flag", there, bool(server.offered & F.PASSTHROUGH))


@case("flag/over-io-uring-offered-where-enabled", INIT, aspect="flag", level=Level.PROFILE, since=42,
      source="kernel docs: fuse-io-uring, the module's parameter enable_uring")  # fmt: skip
def _(k: Bench) -> None:
    parameter = Path("/sys/module/fuse/parameters/enable_uring")
    if not parameter.exists():
        raise Skipped("the kernel has no parameter enable_uring")
    server = k.mount()
    enabled = parameter.read_text().strip() == "Y"
    k.equal("whether OVER_IO_URING is offered", bool(server.offered & F.OVER_IO_URING), enabled)


@case("flag/over-io-uring-ring", INIT, aspect="flag", since=42, flags=F.OVER_IO_URING,
      source="kernel docs: fuse-io-uring; an agreed ring without an entry hangs every request")  # fmt: skip
def _(k: Bench) -> None:
    raise Skipped("this suite registers no rings: io_uring's system calls are not in Python")


@case("flag/high-word-needs-init-ext", INIT, Opcode.MKDIR, aspect="flag", since=36, flags=F.SECURITY_CTX,
      source="fuse.h 7.36: flags2 counts only with FUSE_INIT_EXT")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(init_rule=lambda _: k.server.init_out(flags=0, flags2=int(F.SECURITY_CTX) >> 32, all_flags=0))
    k.ok(lambda: os.mkdir(k.file("d")))
    k.equal("extensions", k.one(Opcode.MKDIR).extensions, ())


@case("flag/low-word-alone", INIT, Opcode.SETLK, aspect="flag", since=7, flags=F.POSIX_LOCKS,
      source="fuse.h: a server older than 7.36 knows the low word alone")  # fmt: skip
def _(k: Bench) -> None:
    k.mount(minor=35, flags=F.POSIX_LOCKS)
    k.tree.add("a")

    def lock() -> None:
        with open(k.file("a"), "r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    k.ok(lock)
    k.true("SETLK is sent", k.seen(Opcode.SETLK))


def _idmap(name: str, options: str, works: bool) -> None:
    @case(f"flag/allow-idmap-{name}", INIT, aspect="flag", level=Level.SHOULD, since=41, flags=F.ALLOW_IDMAP,
          source=f"fuse.h 7.41: it needs default_permissions; {MEASURED}: else ECONNREFUSED")  # fmt: skip
    def _(k: Bench) -> None:
        k.mount(flags=F.ALLOW_IDMAP, options=options)
        if works:
            alive(k)
        else:
            k.fails(errno.ECONNREFUSED, lambda: os.stat(k.path), "stat")


_idmap("with-default-permissions", "default_permissions", True)
_idmap("without-default-permissions", "", False)
