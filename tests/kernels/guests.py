"""How each kind of guest is made of packages, and its command line; and a whole run, over deaths of the guest.

Never here: watching a process (`watching`), and what is done with findings.
"""

import lzma
import os
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from perfused.conformance.findings import Finding, Report, Verdict
from perfused.conformance.kernel.case import Case, cases
from perfused.conformance.kernel.result import finding
from perfused.conformance.kernel.runner import Outcome
from tests.kernels import payload
from tests.kernels.archive import Archive
from tests.kernels.packages import BUILD, Suite, Unobtainable, install, versions
from tests.kernels.table import PYTHON, PYTHON_SUITE, PYTHON_TAG, Kernel
from tests.kernels.watching import Watched, watch

#: what an emulator does a third faster than all it can; Python does not start without a source of randomness
_CHEAP = "Nehalem,+rdrand"
#: of the packages' directories; bin has coreutils, of which the cases run two
_NOT_NEEDED = (".archives", "bin", "sbin", "doc", "man", "locale", "info", "test", "idlelib", "tkinter", "pydoc_data")
_PROGRAMS = ("bin/true", "bin/sleep", "usr/bin/python3.11")
#: as the kernel's first process: the suite lies in `place`
_INIT = """\
#!{python} -IS
import runpy, sys
sys.argv[1:] = ["--init"]
runpy.run_path("{place}/guest.py", run_name="__main__")
"""


@dataclass
class Guest:
    """A guest that can be started: `place` is where its options are written, `before` is done before each start."""

    command: list[str]
    place: Path
    modules: list[str] = field(default_factory=list)
    before: Callable[[], None] = lambda: None
    env: dict[str, str] = field(default_factory=dict)
    cwd: Path = BUILD
    #: where the cases have their directories, if not where the system has such
    temporary: str = ""
    #: where the kernel says why it died, if not on the console
    last_words: Path | None = None
    version: str = ""


def _python() -> str:
    """This interpreter, itself and no link or shim: those cost seconds in a guest."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def _init(into: Path, python: str, place: str) -> Path:
    into.write_text(_INIT.format(python=python, place=place))
    into.chmod(0o755)
    return into


def _host_payload(kernel: Kernel) -> Path:
    place = BUILD / kernel.name / "suite"
    payload.for_this_python(place)
    payload.compiled(place, str(sys.implementation.cache_tag))
    return place


def gvisor(kernel: Kernel, unpacked: Path) -> Guest:
    """A sandbox of runsc that sees the host's files, and writes none."""
    place = _host_payload(kernel)
    panic = BUILD / kernel.name / "panic.log"
    command = [
        str(unpacked / "usr/bin/runsc"), "--rootless", f"--platform={kernel.platform}", "--network=none",
        "--ignore-cgroups", f"--panic-log={panic}", "do", "--", _python(), "-I", "-S", str(place / "guest.py"),
    ]  # fmt: skip
    found = re.search(r"~(\d{8})", versions(unpacked)[0])
    return Guest(
        command, place, temporary="/dev/shm", last_words=panic, version=f"gVisor {found[1] if found else 'runsc'}"
    )


def uml(kernel: Kernel, unpacked: Path) -> Guest:
    """User Mode Linux whose root is the host's, not to be written to."""
    place = _host_payload(kernel)
    init = _init(place / "init", _python(), str(place))
    program, env = unpacked / "usr/bin/linux.uml", {"TMPDIR": "/dev/shm"}
    if kernel.libc:
        program, env["LD_LIBRARY_PATH"] = _with_libc(program, BUILD / kernel.name / "libc", kernel.libc)
    command = [
        str(program), "mem=512M", f"umid=perfused{os.getpid()}", "quiet", "root=/dev/root", "rootfstype=hostfs",
        "rootflags=/", "ro", f"init={init}", "con0=null,fd:1", "con=null",
    ]  # fmt: skip
    modules = [str(each) for each in unpacked.glob("usr/lib/uml/modules/*/kernel/fs/fuse/fuse.ko")]
    return Guest(command, place, modules, env=env, cwd=program.parent)


def _with_libc(program: Path, place: Path, suite: str) -> tuple[Path, str]:
    """A copy of a program whose loader is that of a suite's libc, by a path relative to the program's directory."""
    Suite(suite).unpack(("libc6",), place)
    beside = place / "beside"
    if not beside.exists():
        made = place / "making"
        made.mkdir(exist_ok=True)
        for each in ("ld-linux-x86-64.so.2", "libc.so.6"):
            shutil.copy(next(place.glob(f"**/x86_64-linux-gnu/{each}")), made / each)
        usual = b"/lib64/ld-linux-x86-64.so.2\0"
        data = program.read_bytes()
        if data.count(usual) != 1:
            raise Unobtainable(f"{program.name}: its loader is not the usual one")
        (made / "linux.uml").write_bytes(data.replace(usual, b"./ld-linux-x86-64.so.2".ljust(len(usual), b"\0")))
        (made / "linux.uml").chmod(0o755)
        made.rename(beside)
    return beside / "linux.uml", str(beside)


def _emulated(kernel: Kernel, unpacked: Path, command: list[str]) -> Guest:
    """A guest whose root is an archive in memory: Debian's Python, the suite, the module."""
    root = BUILD / f"python-{kernel.architecture}"
    Suite(PYTHON_SUITE, kernel.architecture).unpack(PYTHON, root)
    payload.compiled(root / "usr/lib/python3.11", PYTHON_TAG)
    base = root / ".base"
    if not base.exists():
        made = Archive()
        for each in ("proc", "sys", "dev", "tmp", "mnt"):
            made.add(each, 0o40755)
        made.add("dev/console", 0o20600, device=(5, 1))
        made.tree(root, leave_out=_NOT_NEEDED)
        for each in _PROGRAMS:
            made.add(each, 0o100755, (root / each).read_bytes())
        base.write_bytes(made.done())
    place = BUILD / kernel.name / "suite"
    payload.for_debian(place, root)
    payload.compiled(place, PYTHON_TAG)
    init = _init(BUILD / kernel.name / "init", "/usr/bin/python3.11", "/suite")
    modules = {}
    for file in unpacked.glob("**/fs/fuse/fuse.ko*"):
        data = file.read_bytes()
        modules["modules/fuse.ko"] = lzma.decompress(data) if file.suffix == ".xz" else data
    image = BUILD / kernel.name / "root.cpio"

    def assemble() -> None:
        made = Archive()
        made.tree(place, "suite")
        made.add("init", 0o100755, init.read_bytes())
        for name, data in modules.items():
            made.add(name, 0o100644, data)
        image.write_bytes(base.read_bytes() + made.done())

    found = [each for each in unpacked.glob("**/vmlinuz*") if each.is_file()]
    if not found:
        raise Unobtainable(f"{kernel.name}: no vmlinuz in {', '.join(versions(unpacked))}")
    whole = [*command, "-kernel", str(found[0]), "-initrd", str(image)]
    return Guest(whole, place, [f"/{name}" for name in modules], before=assemble)


def qemu(kernel: Kernel, unpacked: Path) -> Guest:
    """An emulated PC."""
    program = install("qemu-system-x86_64", "qemu-system-x86")
    command = [
        program, "-accel", "tcg", "-cpu", _CHEAP, "-m", "1024", "-nodefaults", "-no-user-config", "-display", "none",
        "-no-reboot", "-serial", "stdio", "-append", "console=ttyS0 quiet panic=-1 mitigations=off",
    ]  # fmt: skip
    return _emulated(kernel, unpacked, command)


def s390x(kernel: Kernel, unpacked: Path) -> Guest:
    """An emulated mainframe."""
    program = install("qemu-system-s390x", "qemu-system-misc")
    command = [
        program, "-M", "s390-ccw-virtio", "-accel", "tcg", "-cpu", "max", "-m", "1024", "-nodefaults",
        "-no-user-config", "-display", "none", "-no-reboot", "-chardev", "stdio,id=c", "-device",
        "sclpconsole,chardev=c", "-append", "console=ttysclp0 quiet panic=-1",
    ]  # fmt: skip
    return _emulated(kernel, unpacked, command)


_KINDS = {"gvisor": gvisor, "uml": uml, "qemu": qemu, "s390x": s390x}


def made(kernel: Kernel) -> Guest:
    """Get a kernel and all that it runs with. Raises Unobtainable."""
    unpacked = BUILD / kernel.name / "unpacked"
    Suite(kernel.suite, kernel.architecture).unpack(kernel.packages, unpacked)
    return _KINDS[kernel.how](kernel, unpacked)


def portion(only: tuple[str, ...], every: int) -> dict[str, Case]:
    """The cases, or of each group the first, and then each so many-th."""
    seen: Counter[str] = Counter()
    chosen = {}
    for each in cases(only):
        group = each.id.partition("/")[0]
        if seen[group] % every == 0:
            chosen[each.id] = each
        seen[group] += 1
    return chosen


def run(kernel: Kernel, guest: Guest, known: dict[str, Case], told: Callable[[Watched], None]) -> tuple[Report, str]:
    """Run cases in a guest, again behind each case that it dies in: the report, and what is wrong with it or ""."""
    found = Watched(cases=list(known))
    deadline = time.monotonic() + kernel.limit
    deaths = 0
    problem = ""
    while not problem:
        payload.options(
            guest.place, cases=found.missing, modules=guest.modules, fresh=kernel.how == "gvisor",
            temporary=guest.temporary, patience=kernel.patience, wait=kernel.wait,
        )  # fmt: skip
        guest.before()
        before = len(found.findings)
        watch(
            guest.command, found, deadline - time.monotonic(), told, guest.env, guest.cwd,
            stall=2 * kernel.patience + 60,
        )  # fmt: skip
        if found.begun and time.monotonic() < deadline:
            found.findings[found.begun] = _death(Outcome(known[found.begun], Verdict.PANIC), found, guest)
            deaths += 1
        if found.ended and not found.missing:
            break
        if found.problem or not found.subject:
            problem = found.problem or "the guest said nothing: " + " / ".join(list(found.tail)[-3:])
        elif time.monotonic() > deadline:
            problem = f"not ended after {kernel.limit:g} s"
        elif deaths > kernel.deaths:
            problem = f"given up after {deaths} deaths"
        elif len(found.findings) == before:
            problem = "the guest ends before its next case: " + " / ".join(list(found.tail)[-3:])
    subject = found.subject | ({"name": f"{guest.version} {found.subject.get('machine')}"} if guest.version else {})
    subject |= {"how": kernel.words, "deaths": deaths, "cases": len(known)}
    if problem:
        subject["problem"] = problem
    inorder = [found.findings[each] for each in known if each in found.findings]
    return Report("kernel", subject, inorder, round(found.seconds, 1), time.strftime("%Y-%m-%d")), problem


def _death(outcome: Outcome, found: Watched, guest: Guest) -> Finding:
    """A case in which the kernel died, or went silent, with its last words."""
    words = list(found.tail)
    if guest.last_words and guest.last_words.exists():
        words = guest.last_words.read_text(errors="replace").splitlines()[:40] or words
        guest.last_words.unlink()
    if found.silent:
        return replace(
            finding(outcome), verdict=Verdict.HANG, message="the whole guest said nothing more", details=tuple(words)
        )
    panic = [each for each in words if "anic" in each][:1]
    where = [match[0] for each in words if (match := re.search(r"fuse\.[\w.()*]+\.?\w+(?=\()", each))][:1]
    message = "the kernel died: " + ", in ".join(panic + where) if panic else "the kernel died"
    return replace(finding(outcome), message=message[:200], details=tuple(words))
