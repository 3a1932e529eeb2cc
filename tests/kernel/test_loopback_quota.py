"""What the source says of a quota reaches the caller of the loopback: the source here is the filesystem in memory."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.conftest import Daemon
from tests.kernel.loopbacks import Loopback
from tests.kernel.places import Process, fails
from tests.kernel.served import Serve
from tests.kernel.served import serve as serve

MIB = 1 << 20
USER = 7001


@pytest.fixture(params=["perfused", "kernel"])
def rationed(request: pytest.FixtureRequest, serve: Serve, daemon: Daemon, tmp_path: Path) -> Iterator[Path]:
    """A loopback of a filesystem in which each user but root may have 1 MiB."""
    source = serve("fixtures/memory.py", "--quota-each", str(MIB)).target
    source.chmod(0o777)
    target = tmp_path / "loopback"
    target.mkdir()
    made = Loopback(source, target, "--via", request.param, environment=daemon.environment)
    yield target
    assert made.unmounted() == 0, made.said()


def test_who_has_used_up_a_quota_is_told_so_and_others_are_not(rationed: Path) -> None:
    user = Process(user=USER, cwd=rationed)
    try:
        user.do("file = open('file', 'wb', buffering=0)")
        with fails(errno.EDQUOT):
            user.do("[(file.write(bytes(65536)), os.fsync(file.fileno())) for _ in range(32)]")
    finally:
        user.end()
    held = os.stat(rationed / "file").st_size
    assert 0 < held <= MIB
    (rationed / "roots").write_bytes(bytes(2 * MIB))


def test_a_user_has_room_again_when_a_file_of_his_is_gone(rationed: Path) -> None:
    user = Process(user=USER, cwd=rationed)
    try:
        with fails(errno.EDQUOT):
            user.do("[open(str(n), 'wb', buffering=0).write(bytes(300_000)) and os.sync() for n in range(8)]")
        user.do("[os.unlink(name) for name in os.listdir('.')]")
        assert user.do("open('again', 'wb', buffering=0).write(bytes(300_000))") == 300_000
    finally:
        user.end()
