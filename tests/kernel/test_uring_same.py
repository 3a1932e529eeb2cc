"""Over io_uring a mount does what it does over /dev/fuse: tests of the plain relay once more, on a daemon with it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kernel import test_bad_replies, test_ends, test_notifications, test_requests
from tests.kernel.conftest import Daemon
from tests.kernel.rings import ENABLE, RING, missing, offered, setting
from tests.kernel.test_bad_replies import Shared, sharing
from tests.kernel.test_notifications import cached

__all__ = ["cached", "offered"]

#: NOTIFY_RESEND brings nothing again over a ring: `test_uring` has what is done about it
ELSEWHERE = {"test_after_resend_a_request_that_was_forgotten_comes_again_and_is_answered"}

for _module in (test_ends, test_requests, test_notifications, test_bad_replies):
    globals().update(
        {name: each for name, each in vars(_module).items() if name.startswith("test_") and name not in ELSEWHERE}
    )


@pytest.fixture(autouse=True)
def _offered(offered: None) -> None:
    """Here every test has the kernel's offer."""


@pytest.fixture
def daemons(daemons: Callable[..., Daemon]) -> Iterator[Callable[..., Daemon]]:
    """As everywhere, but each takes io_uring, and what has mounted on a socket has used it."""
    started: list[Daemon] = []

    def start(config: str = "", *more: object) -> Daemon:
        started.append(daemons(RING + config, *more))
        return started[-1]

    yield start
    for each in started:
        log = each.log()
        # A daemon that was killed may not have come to the second line.
        assert "no io_uring" not in log, "a mount went over /dev/fuse"
        assert "FUSE over io_uring" in log or "FUSE 7." not in log


@pytest.fixture(scope="module")
def shared(namespace: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """What test_bad_replies shares, over io_uring."""
    if missing():
        pytest.skip(missing())
    with sharing(tmp_path_factory.mktemp("shared"), RING, setting(ENABLE, "Y")) as found:
        assert found.daemon.stats(found.bystander)["io_uring"]
        yield found
    assert found.daemon.log().count("FUSE 7.") == found.daemon.log().count("FUSE over io_uring")


def test_the_daemon_of_these_tests_uses_the_ring(daemon: Daemon, target: Path) -> None:
    daemon.rawfs(target)
    (target / "file").touch()
    assert daemon.stats(target)["io_uring"]
    daemon.ctl("umount", target)
