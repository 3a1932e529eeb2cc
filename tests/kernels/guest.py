"""What runs inside a guest: the suite, each result on the console as it comes, so that a guest may die at any time.

A line is "@@", a word, JSON in base64, and a checksum. It runs from a directory that holds perfused, wire, construct
and `options.json` beside it, by `python -I -S guest.py`; with `--init` it is the guest's first process, prepares the
system and switches it off at the end. Never here: anything of the host's side.
"""

import base64
import contextlib
import json
import os
import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perfused.conformance.kernel.case import Case

HERE = Path(__file__).resolve().parent
#: a line of the kernel's may stand before ours
MARK = "\n@@ "
_MOUNTS = (
    ("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/mnt"),
    ("fusectl", "/sys/fs/fuse/connections"),
)  # fmt: skip
#: numbers of system calls that no function of Python's or of libc's stands for
_FINIT_MODULE = {"x86_64": 313, "s390x": 344}
_REBOOT = {"x86_64": 169, "s390x": 88}
#: reboot(2)
_MAGIC, _POWER_OFF = (0xFEE1_DEAD, 0x2812_1969), 0x4321_FEDC


def tell(word: str, found: Any) -> None:
    """Print one line of the protocol."""
    data = base64.b64encode(zlib.compress(json.dumps(found).encode(), 6)).decode()
    line = f"{MARK}{word} {data} {zlib.crc32(data.encode()):08x}\n".encode()
    while line:
        line = line[os.write(1, line) :]


def suite() -> None:
    """Run the cases that `options.json` has; tell of the kernel, of each case that begins, and that ended."""
    from perfused.conformance.kernel import runner
    from perfused.conformance.kernel.case import cases
    from perfused.conformance.kernel.result import finding, report

    options = json.loads((HERE / "options.json").read_text())
    if options["temporary"]:
        os.environ["TMPDIR"] = options["temporary"]
    runner.WAIT = options["wait"]
    kernel = runner.learn(options["patience"] / 2)
    if kernel.problem:
        tell("problem", kernel.problem)
        return
    wanted = set(options["cases"])
    tell("kernel", report(kernel, [], 0).subject)

    def left(all_of_them: "Iterable[Case]") -> "Iterator[Case]":
        for each in all_of_them:
            if each.id in wanted:
                tell("begun", each.id)
                yield each

    def told(outcome: runner.Outcome) -> None:
        found = asdict(finding(outcome))
        found["details"] = found["details"][: options["lines"]]
        tell("ended", found)
        if options["fresh"] and outcome.verdict == "HANG":
            # What hangs may spoil the cases behind it; the host starts the guest anew.
            os._exit(0)

    runner.run(left(cases()), kernel, told, options["patience"])
    tell("end", None)


def _system_call(number: int, *arguments: int | bytes) -> None:
    """Make a system call, of cffi's C part alone, as the suite does. Raises OSError."""
    from perfused._libc_cffi import ffi

    given = [ffi.cast("long", each) if isinstance(each, int) else ffi.new("char[]", each) for each in arguments]
    if ffi.dlopen(None).syscall(number, *given) < 0:
        raise OSError(ffi.errno, os.strerror(ffi.errno))


def prepare() -> None:
    """Mount what a Linux has mounted, and insert the modules that lie beside this file."""
    from perfused import libc

    for module in json.loads((HERE / "options.json").read_text())["modules"]:
        fd = os.open(module, os.O_RDONLY)
        try:
            _system_call(_FINIT_MODULE[os.uname().machine], fd, b"", 0)
        except OSError as bad:
            tell("problem", f"{module}: {bad.strerror}")
        os.close(fd)
    for kind, where in _MOUNTS:
        try:
            libc.mount(kind.encode(), where.encode(), kind.encode(), 0, None)
        except OSError as bad:
            if kind == "tmpfs":
                tell("problem", f"mount {where}: {bad.strerror}")
    os.environ["TMPDIR"] = "/mnt"
    os.environ["PATH"] = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


def switch_off() -> None:
    """End the guest."""
    os.sync()
    _system_call(_REBOOT[os.uname().machine], *_MAGIC, _POWER_OFF, 0)


def first_process() -> None:
    """Be init: prepare, have the suite run in a child, reap whoever is left, switch off."""
    with contextlib.suppress(OSError):
        os.umask(0o022)
    prepare()
    child = os.fork()
    if not child:
        try:
            suite()
        except BaseException as fault:
            tell("problem", f"{type(fault).__name__}: {fault}")
        os._exit(0)
    while os.wait()[0] != child:
        pass
    switch_off()


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    if "--init" in sys.argv:
        first_process()
    else:
        suite()
