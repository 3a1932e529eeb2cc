"""perfused.toml: the settings, their defaults, and every check on them.

Here and nowhere else a setting gets its name, type, limits and default. Never here: acting on one.
"""

import os
import pwd
import tomllib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args, get_origin

from wire.control import DEFAULT_SOCKET, Endpoint
from wire.flags import InitFlag

DEFAULT_PATH = Path("/etc/perfused.toml")

#: (least, most) of every number; a setting outside is refused with these in the message.
LIMITS: dict[str, tuple[float, float]] = {
    "socket_mode": (0, 0o777),
    "device_wait": (0, 3600),
    "stop_timeout": (0.1, 600),
    "mounts_per_user": (0, 100_000),
    "opens_per_user": (1, 100_000),
    "backing_files": (0, 1_000_000),
    "deadline": (0, 86_400),
    "interrupt_grace": (0.1, 3600),
    "killed_grace": (0, 3600),
    "minor": (1, 45),
    "max_frame": (65_536, 268_435_456),
}


ENDPOINTS = ("socket", "device", "direct")


class ConfigError(Exception):
    """A setting that cannot be used; the message names file, key and reason."""


@dataclass(frozen=True)
class Daemon:
    """[daemon]: the process itself."""

    socket: str = DEFAULT_SOCKET
    #: permission bits of the socket: who may connect; what they may do is [policy]
    socket_mode: int = 0o666
    #: whom the workers run as; an unknown name is refused at start
    worker_user: str = "nobody"
    #: a file for the log; empty: stderr in the foreground, else syslog
    log: str = ""
    #: where SIGUSR1 traces are written
    trace_dir: str = "/run/perfused"
    #: seconds to wait at start for /dev/fuse to appear
    device_wait: float = 5.0
    #: seconds an orderly stop may take before workers are killed
    stop_timeout: float = 5.0
    #: endpoint for clients that ask for none
    endpoint: str = "socket"


@dataclass(frozen=True)
class Policy:
    """[policy]: what users other than root may do. Root may mount anything."""

    #: false: only root may mount
    user_mounts: bool = True
    #: users, by name or number, whose mounts others may enter; ["*"] for all
    allow_other: list[str] = field(default_factory=list)
    mounts_per_user: int = 100
    #: devices handed out by perfuse_open() and not mounted yet
    opens_per_user: int = 64
    #: kinds of filesystem (f_type numbers) that may be mounted over, beside the built-in ones
    mount_over: list[int] = field(default_factory=list)
    #: whether perfused registers backing files (FUSE passthrough) for their filesystems
    passthrough: bool = True
    #: backing files that one mount of theirs may have registered at a time
    backing_files: int = 1024


@dataclass(frozen=True)
class Requests:
    """[requests]: what happens to requests nobody answers. Times in seconds, 0 is never."""

    #: a request older than this is interrupted, and after interrupt_grace more answered EIO
    deadline: float = 0.0
    interrupt_grace: float = 2.0
    #: a request whose caller is being killed is answered EINTR after this
    killed_grace: float = 5.0
    #: measure the latency of every request from the start
    timing: bool = False


@dataclass(frozen=True)
class Init:
    """[init]: what the filesystem is offered."""

    #: newest protocol minor offered
    minor: int = 45
    #: INIT flags not offered, by their names in fuse.h without FUSE_
    refuse: list[str] = field(default_factory=list)
    #: bytes of the largest frame a device carries; 0 is what the kernel's max_pages_limit needs
    max_frame: int = 0
    #: requests come over io_uring where the kernel offers it; on the endpoint `socket`
    io_uring: bool = False


@dataclass(frozen=True)
class Config:
    """All settings, a section an attribute."""

    daemon: Daemon = Daemon()
    policy: Policy = field(default_factory=Policy)
    requests: Requests = Requests()
    init: Init = field(default_factory=Init)

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint for clients that ask for none."""
        return Endpoint[self.daemon.endpoint.upper()]

    @property
    def refused_flags(self) -> int:
        """INIT bits, both words in one integer, that the configuration refuses."""
        bits = 0
        for name in self.init.refuse:
            bits |= InitFlag[name]
        return bits


def load(path: Path | None) -> Config:
    """Read a file of settings; None is /etc/perfused.toml where it exists, defaults otherwise.

    Raises ConfigError naming file, key and reason.
    """
    if path is None:
        if not DEFAULT_PATH.exists():
            return Config()
        path = DEFAULT_PATH
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as bad:
        raise ConfigError(f"{path}: cannot be read: {getattr(bad, 'strerror', None) or bad}") from None
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as bad:
        raise ConfigError(f"{path}: not TOML: {bad}") from None
    return parse(raw, str(path))


def with_socket(config: Config, path: str) -> Config:
    """The same settings with another control socket. Raises ConfigError for a path that cannot be one."""
    changed = replace(config, daemon=replace(config.daemon, socket=path))
    _cross_check(changed, "--socket or PERFUSED_SOCKET")
    return changed


def parse(raw: dict[str, Any], where: str) -> Config:
    """Check a parsed TOML document. Raises ConfigError naming `where`, the key and the reason."""
    sections = {each.name: type(getattr(Config(), each.name)) for each in fields(Config)}
    made: dict[str, Any] = {}
    for name, body in raw.items():
        if name not in sections:
            raise ConfigError(f"{where}: {name}: no such section; there are {', '.join(sections)}")
        if not isinstance(body, dict):
            raise ConfigError(f"{where}: {name}: must be a section, [{name}]")
        made[name] = _section(sections[name], name, body, where)
    config = Config(**made)
    _cross_check(config, where)
    return config


def _section(kind: Any, section: str, body: dict[str, Any], where: str) -> Any:
    known = {each.name: each.type for each in fields(kind)}
    for key, value in body.items():
        name = f"{section}.{key}"
        if key not in known:
            raise ConfigError(f"{where}: {name}: no such setting; [{section}] has {', '.join(known)}")
        body[key] = _value(known[key], key, name, value, where)
    return kind(**body)


def _value(kind: Any, key: str, name: str, value: Any, where: str) -> Any:
    if get_origin(kind) is list:
        (item,) = get_args(kind)
        if not isinstance(value, list) or any(type(each) is not item for each in value):
            raise ConfigError(f"{where}: {name}: must be a list of {_KINDS[item].split(' ', 1)[1]}s, not {value!r}")
        return value
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ConfigError(f"{where}: {name}: must be {_KINDS[kind]}, not {value!r}")
    if key in LIMITS and not (key == "max_frame" and value == 0):
        least, most = LIMITS[key]
        if not least <= value <= most:
            raise ConfigError(f"{where}: {name}: {value} is outside {_number(least)} to {_number(most)}")
    return value


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:g}"


_KINDS = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


def _cross_check(config: Config, where: str) -> None:
    if config.daemon.endpoint not in ENDPOINTS:
        raise ConfigError(
            f"{where}: daemon.endpoint: must be {', '.join(ENDPOINTS[:-1])} or {ENDPOINTS[-1]}, "
            f"not {config.daemon.endpoint!r}"
        )
    try:
        pwd.getpwnam(config.daemon.worker_user)
    except (KeyError, ValueError):
        raise ConfigError(f"{where}: daemon.worker_user: there is no user {config.daemon.worker_user!r}") from None
    path = os.fsencode(config.daemon.socket)
    if not path.startswith(b"/") or len(path) > 107 or b"\0" in path:
        raise ConfigError(f"{where}: daemon.socket: must be an absolute path of at most 107 bytes")
    for flag in config.init.refuse:
        if flag not in InitFlag.__members__:
            raise ConfigError(
                f"{where}: init.refuse: {flag!r} is no INIT flag; names are those of fuse.h without FUSE_"
            )
