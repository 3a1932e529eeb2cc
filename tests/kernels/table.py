"""The kernels: where each is had from, and how it is run. Never here: doing so."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kernel:
    """One kernel. `packages` are of `suite`, each a regular expression of which the newest name is taken.

    `limit` is seconds a whole run may take; `patience` and `wait` are those of a case and of one wait in it; `deaths`
    how often the guest may die before the rest is given up.
    """

    name: str
    how: str
    suite: str
    packages: tuple[str, ...]
    words: str
    architecture: str = "amd64"
    platform: str = ""
    #: the suite of a newer libc, where linux.uml needs one
    libc: str = ""
    patience: float = 15.0
    wait: float = 5.0
    limit: float = 900.0
    deaths: int = 80
    #: whether `--ci` has it
    ci: bool = False


def _uml(version: str, suite: str, libc: str = "") -> Kernel:
    words = "User Mode Linux on the host's files"
    return Kernel(f"uml-{version}", "uml", suite, ("user-mode-linux",), words, libc=libc)


def _linux(version: str, suite: str, kind: str = "image", ci: bool = False) -> Kernel:
    pattern = rf"linux-{kind}-{version.replace('.', '[.]')}[.]\d+([+]deb\d+|-\d+)?-cloud-amd64"
    return Kernel(
        f"linux-{version}",
        "qemu",
        suite,
        (pattern,),
        "qemu, emulated x86-64",
        patience=30,
        wait=10,
        limit=2400,
        deaths=20,
        ci=ci,
    )


KERNELS = (
    Kernel("gvisor-2022", "gvisor", "bookworm", ("runsc",), "runsc do, ptrace", platform="ptrace", patience=6, wait=1,
           limit=1800),
    Kernel("gvisor-2024", "gvisor", "bookworm-backports", ("runsc",), "runsc do, systrap", platform="systrap",
           patience=6, wait=1, limit=1800, ci=True),
    _uml("5.10", "bullseye"),
    _uml("6.1", "bookworm"),
    _uml("6.12", "trixie", "trixie"),
    _uml("7.2", "sid", "trixie"),
    _linux("5.10", "bullseye-security"),
    _linux("6.1", "bookworm-security", ci=True),
    _linux("6.12", "bookworm-security"),
    _linux("6.18", "trixie-backports"),
    _linux("7.2", "sid", "binary"),
    _linux("7.3", "trixie-backports", "binary"),
    Kernel("s390x-6.1", "s390x", "bookworm", (r"linux-image-6[.]1[.]0-\d+-s390x",), "qemu, emulated s390x: big-endian",
           architecture="s390x", patience=30, wait=10, limit=2400, deaths=20),
)  # fmt: skip

BY_NAME = {each.name: each for each in KERNELS}
#: what a Linux guest without the host's files has
PYTHON = (
    "python3[.]11-minimal", "libpython3[.]11-minimal", "libpython3[.]11-stdlib", "python3-cffi-backend", "libc6",
    "zlib1g", "libexpat1", "libffi8", "libgcc-s1", "coreutils",
)  # fmt: skip
PYTHON_SUITE, PYTHON_TAG = "bookworm", "cpython-311"
