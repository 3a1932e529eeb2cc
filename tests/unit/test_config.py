"""perfused.toml: what may stand in it, and what is said of what may not."""

import os
from pathlib import Path

import pytest

from perfused import config
from perfused.config import Config, ConfigError
from wire.control import DEFAULT_SOCKET, Endpoint
from wire.flags import InitFlag


def load(tmp_path: Path, text: str | bytes) -> Config:
    path = tmp_path / "perfused.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return config.load(path)


#: What is wrong: the file, the key that is named (or nothing), the reason.
ERRORS: dict[str, tuple[str, str, str]] = {
    "no TOML": ("[daemon", "", "not TOML: "),
    "a key twice": ("[init]\nminor = 1\nminor = 2", "", "not TOML: "),
    "an unknown section": ("[demon]\n", "demon", "no such section; there are daemon, policy, requests, init"),
    "a setting outside a section": ("minor = 3", "minor", "no such section"),
    "a section that is none": ("init = 3", "init", "must be a section, [init]"),
    "an unknown setting": ("[init]\nminro = 3", "init.minro", "no such setting; [init] has minor, refuse, max_frame"),
    "a word for a number": ('[init]\nminor = "45"', "init.minor", "must be a whole number, not '45'"),
    "a fraction for a whole number": ("[init]\nminor = 4.5", "init.minor", "must be a whole number, not 4.5"),
    "a switch for a number": ("[init]\nminor = true", "init.minor", "must be a whole number, not True"),
    "a switch for a time": ("[requests]\ndeadline = true", "requests.deadline", "must be a number, not True"),
    "a number for a switch": ("[policy]\nuser_mounts = 1", "policy.user_mounts", "must be true or false, not 1"),
    "a number for a word": ("[daemon]\nlog = 1", "daemon.log", "must be a string, not 1"),
    "a word for a list": ('[policy]\nallow_other = "bob"', "policy.allow_other", "must be a list of strings"),
    "a list of the wrong kind": ("[policy]\nallow_other = [7]", "policy.allow_other", "must be a list of strings"),
    "switches for numbers": ("[policy]\nmount_over = [true]", "policy.mount_over", "must be a list of whole numbers"),
    "an unknown endpoint": ('[daemon]\nendpoint = "any"', "daemon.endpoint", "must be socket, device or direct, not "),
    "a relative socket": ('[daemon]\nsocket = "run/s"', "daemon.socket", "must be an absolute path of at most 107"),
    "an empty socket": ('[daemon]\nsocket = ""', "daemon.socket", "must be an absolute path"),
    "a long socket": (f'[daemon]\nsocket = "/{"é" * 54}"', "daemon.socket", "must be an absolute path of at most 107"),
    "a NUL in the socket": ('[daemon]\nsocket = "/run/\\u0000s"', "daemon.socket", "must be an absolute path"),
    "an unknown user": ('[daemon]\nworker_user = "no-one"', "daemon.worker_user", "there is no user 'no-one'"),
    "a NUL in a user": ('[daemon]\nworker_user = "\\u0000"', "daemon.worker_user", "there is no user '\\x00'"),
    "an unknown flag": ('[init]\nrefuse = ["ASYNC"]', "init.refuse", "'ASYNC' is no INIT flag"),
    "a flag with its prefix": ('[init]\nrefuse = ["FUSE_ASYNC_READ"]', "init.refuse", "'FUSE_ASYNC_READ' is no INIT"),
    "no number at all": ("[requests]\ndeadline = nan", "requests.deadline", "nan is outside 0 to 86400"),
    "for ever": ("[daemon]\nstop_timeout = inf", "daemon.stop_timeout", "inf is outside 0.1 to 600"),
}

#: Every number that has limits: its section, the least and the most.
LIMITS = {
    "daemon.socket_mode": (0, 0o777),
    "daemon.device_wait": (0, 3600),
    "daemon.stop_timeout": (0.1, 600),
    "policy.mounts_per_user": (0, 100_000),
    "policy.opens_per_user": (1, 100_000),
    "policy.backing_files": (0, 1_000_000),
    "requests.deadline": (0, 86_400),
    "requests.interrupt_grace": (0.1, 3600),
    "requests.killed_grace": (0, 3600),
    "init.minor": (1, 45),
    "init.max_frame": (65_536, 268_435_456),
}
BEYOND = [(name, value) for name, (least, most) in LIMITS.items() for value in (least - 1, most + 1)]
WITHIN = [(name, value) for name, limits in LIMITS.items() for value in limits]


def setting(name: str, value: object) -> str:
    section, key = name.split(".")
    return f"[{section}]\n{key} = {value}\n"


def get(settings: Config, name: str) -> object:
    section, key = name.split(".")
    return getattr(getattr(settings, section), key)


@pytest.mark.parametrize(("text", "key", "reason"), ERRORS.values(), ids=ERRORS)
def test_an_error_names_file_key_and_reason(tmp_path: Path, text: str, key: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'perfused.toml'}: {key}{': ' if key else ''}{reason}")


@pytest.mark.parametrize(("name", "value"), BEYOND)
def test_a_number_beyond_its_limits_is_refused_with_them(tmp_path: Path, name: str, value: float) -> None:
    least, most = LIMITS[name]
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, setting(name, float(value) if type(get(Config(), name)) is float else value))
    assert f": {name}: {value}" in str(caught.value)
    assert str(caught.value).endswith(f" is outside {least} to {most}")


@pytest.mark.parametrize(("name", "value"), WITHIN)
def test_a_number_at_its_limit_is_taken(tmp_path: Path, name: str, value: float) -> None:
    assert get(load(tmp_path, setting(name, value)), name) == value


def test_every_limit_is_tested_here() -> None:
    assert {name.split(".")[1]: limits for name, limits in LIMITS.items()} == config.LIMITS


def test_a_frame_size_of_0_is_the_kernels_own(tmp_path: Path) -> None:
    assert load(tmp_path, "[init]\nmax_frame = 0").init.max_frame == 0


def test_a_whole_number_may_stand_for_a_time(tmp_path: Path) -> None:
    deadline = load(tmp_path, "[requests]\ndeadline = 3").requests.deadline
    assert (deadline, type(deadline)) == (3.0, float)


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "") == Config()


def test_a_file_changes_only_what_it_names(tmp_path: Path) -> None:
    found = load(tmp_path, '[policy]\nallow_other = ["bob", "7"]\n[init]\nminor = 31\n')
    assert found.policy.allow_other == ["bob", "7"]
    assert found.init.minor == 31
    assert (found.daemon, found.requests) == (Config().daemon, Config().requests)
    assert found.policy.user_mounts is True


def test_the_defaults() -> None:
    found = Config()
    assert (found.daemon.socket, found.daemon.socket_mode, found.endpoint) == (DEFAULT_SOCKET, 0o666, Endpoint.SOCKET)
    assert (found.policy.user_mounts, found.policy.allow_other, found.policy.mount_over) == (True, [], [])
    assert (found.policy.passthrough, found.policy.backing_files) == (True, 1024)
    assert (found.requests.deadline, found.requests.killed_grace, found.requests.timing) == (0.0, 5.0, False)
    assert (found.init.minor, found.init.refuse, found.init.max_frame) == (45, [], 0)


@pytest.mark.parametrize("endpoint", [Endpoint.DEVICE, Endpoint.DIRECT])
def test_the_default_endpoint_may_be_another(tmp_path: Path, endpoint: Endpoint) -> None:
    assert load(tmp_path, f'[daemon]\nendpoint = "{endpoint.name.lower()}"').endpoint is endpoint


def test_refused_flags_are_bits(tmp_path: Path) -> None:
    found = load(tmp_path, '[init]\nrefuse = ["ASYNC_READ", "HAS_RESEND", "ASYNC_READ"]')
    assert found.refused_flags == InitFlag.ASYNC_READ | InitFlag.HAS_RESEND


def test_a_file_that_is_not_there_is_an_error_where_it_was_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file or directory"):
        config.load(tmp_path / "none.toml")


def test_a_directory_is_no_file_of_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        config.load(tmp_path)


def test_a_file_that_is_no_utf_8_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: "):
        load(tmp_path, b'[daemon]\nlog = "\xff"')


def test_a_file_that_cannot_be_reached_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match="cannot be read: Too many levels of symbolic links"):
        config.load(tmp_path / "loop")


def test_without_a_file_there_are_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "DEFAULT_PATH", tmp_path / "nowhere")
    assert config.load(None) == Config()


def test_another_socket_leaves_the_other_settings(tmp_path: Path) -> None:
    found = config.with_socket(load(tmp_path, "[init]\nminor = 31"), "/run/other.sock")
    assert (found.daemon.socket, found.init.minor) == ("/run/other.sock", 31)


@pytest.mark.parametrize("path", ["other.sock", "", "/" + "x" * 107, "/run/\0"])
def test_another_socket_that_cannot_be_one_is_refused_by_where_it_was_named(path: str) -> None:
    with pytest.raises(ConfigError, match=r"--socket or PERFUSED_SOCKET: daemon\.socket: must be an absolute path"):
        config.with_socket(Config(), path)


def test_a_socket_of_bytes_that_are_no_utf_8_may_be_named() -> None:
    path = os.fsdecode(b"/run/\xff.sock")
    assert config.with_socket(Config(), path).daemon.socket == path
