"""Debian packages of any suite and architecture, downloaded and unpacked beside the system's own.

Each suite has lists of its own under build/kernels/apt, so the system's apt is left as it is. The mirrors are those
that the machine has. Never here: what is in a package.
"""

import re
import shutil
import subprocess
import time
from pathlib import Path

from tests.kernel.conftest import ROOT

BUILD = ROOT / "build" / "kernels"
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
#: seconds: how old lists may be, and what any one call of apt may take
FRESH, PATIENCE = 86_400, 300


class Unobtainable(Exception):
    """What cannot be had here: which, and what apt said."""


def _ask(*command: str | Path) -> str:
    words = [str(each) for each in command]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as bad:
        raise Unobtainable(f"{words[0]}: {bad}") from None
    if done.returncode:
        raise Unobtainable(f"{' '.join(words[-3:])}: {done.stderr.strip()[-400:]}")
    return done.stdout


def mirror(suite: str) -> str:
    """Where the machine's own apt has its packages from, or its security updates for a suite so named."""
    format = "$(REPO_URI) $(CODENAME)"
    if not (found := _ask("apt-get", "indextargets", "--format", format, "Created-By: Packages").split("\n"))[0]:
        _ask("apt-get", "update", "-qq")
        found = _ask("apt-get", "indextargets", "--format", format, "Created-By: Packages").split("\n")
    for line in found:
        address, _, codename = line.partition(" ")
        debian = address.rstrip("/").endswith(("/debian", "/debian-security"))
        if debian and codename.endswith("-security") == suite.endswith("-security"):
            return address
    raise Unobtainable(f"this machine's apt knows no mirror for {suite}")


class Suite:
    """A suite of one architecture: its lists, and packages from it."""

    def __init__(self, name: str, architecture: str = "amd64") -> None:
        self.name = name
        self.architecture = architecture
        self.place = BUILD / "apt" / f"{name}-{architecture}"

    def _options(self) -> list[str]:
        settings = {
            "Dir::Etc::sourcelist": self.place / "sources.list", "Dir::Etc::sourceparts": "-",
            "Dir::Etc::preferencesparts": "-", "Dir::State::lists": self.place / "lists",
            "Dir::State::status": self.place / "status", "Dir::Cache": self.place / "cache",
            "Acquire::Languages": "none", "Acquire::Retries": 2, "APT::Architecture": self.architecture,
            "APT::Architectures": self.architecture, "APT::Sandbox::User": "root",
        }  # fmt: skip
        return [f"-o{key}={value}" for key, value in settings.items()]

    def refresh(self) -> None:
        """Have lists that are at most a day old. Raises Unobtainable."""
        stamp = self.place / "stamp"
        if stamp.exists() and time.time() - stamp.stat().st_mtime < FRESH:
            return
        for each in ("lists/partial", "cache/archives/partial"):
            (self.place / each).mkdir(parents=True, exist_ok=True)
        (self.place / "status").touch()
        signed = f"[arch={self.architecture} signed-by={KEYS}]"
        (self.place / "sources.list").write_text(f"deb {signed} {mirror(self.name)} {self.name} main\n")
        _ask("apt-get", *self._options(), "update", "-qq")
        if not list((self.place / "lists").glob("*_Packages*")):
            raise Unobtainable(f"apt has no lists of {self.name} for {self.architecture}")
        stamp.touch()

    def newest(self, pattern: str) -> str:
        """The name of the newest package whose whole name is as a regular expression says. Raises Unobtainable."""
        names = _ask("apt-cache", *self._options(), "pkgnames").split()
        found = [each for each in names if re.fullmatch(pattern, each)]
        if not found:
            raise Unobtainable(f"{self.name} has no package {pattern}")
        return max(found, key=lambda each: [int(number) for number in re.findall(r"\d+", each)])

    def unpack(self, patterns: tuple[str, ...], into: Path) -> None:
        """Download packages and unpack them into a directory that then holds them alone; once. Raises Unobtainable."""
        stamp = into / ".unpacked"
        if stamp.exists() and stamp.read_text().startswith(" ".join(patterns) + "\n"):
            return
        self.refresh()
        names = [self.newest(each) for each in patterns]
        shutil.rmtree(into, ignore_errors=True)
        archives = into / ".archives"
        archives.mkdir(parents=True)
        command = ["apt-get", *self._options(), "download", "-qq", *names]
        done = subprocess.run(command, cwd=archives, capture_output=True, text=True, timeout=PATIENCE, check=False)
        if done.returncode:
            (self.place / "stamp").unlink(missing_ok=True)
            raise Unobtainable(f"{' '.join(names)} of {self.name}: {done.stderr.strip()[-400:]}")
        versions = []
        for each in sorted(archives.glob("*.deb")):
            _ask("dpkg-deb", "-x", each, into)
            versions.append(each.name)
        shutil.rmtree(archives)
        stamp.write_text(" ".join(patterns) + "\n" + "\n".join(versions) + "\n")


def versions(unpacked: Path) -> list[str]:
    """The names of the archives that a directory holds."""
    return (unpacked / ".unpacked").read_text().split("\n")[1:-1]


def install(program: str, package: str) -> str:
    """The path of a program, whose package is installed where it lacks and we are root. Raises Unobtainable."""
    if shutil.which(program) is None:
        _ask("apt-get", "update", "-qq")
        _ask("apt-get", "install", "-y", "-qq", "--no-install-recommends", package)
    found = shutil.which(program)
    if found is None:
        raise Unobtainable(f"no {program}, even with {package}")
    return found
