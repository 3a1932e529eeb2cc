"""What perfusectl is answered, whatever a client asks: one daemon serves all users, so no question may end it."""

import errno
import os
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from perfused import answers, channel
from perfused.listener import Peer
from perfused.namespaces import OURS
from perfused.policy import Client
from perfused.supervisor import Supervisor
from wire import control
from wire.control import Answer, Endpoint, Request

USER = 12345


class Desk:
    """A daemon with one mount of USER's on /mnt/x, and a client of any user."""

    def __init__(self) -> None:
        self.theirs, ours = channel.pair()
        self.worker, handed = channel.pair()
        self.peer = Peer(ours, OURS, Client(USER, USER, 1))
        mount = SimpleNamespace(
            number=3, target="/mnt/x", source="src", fstype="fuse.x", minor=45, endpoint=Endpoint.SOCKET, up=True,
            client=Client(USER, USER, 1), program="x", pid=9, since=0.0, channel=handed,
            namespace_number=0, unmounting=0,
        )  # fmt: skip
        self.daemon: Any = SimpleNamespace(
            mounted={9: mount},
            tracing=False,
            loop=SimpleNamespace(later=lambda seconds, call: None),
            refresh=lambda: None,
        )

    def ask(self, body: dict[str, Any], uid: int = USER) -> None:
        self.peer.client = Client(uid, uid, 1)
        answers.answer(cast(Supervisor, self.daemon), self.peer, Request(body))

    def answer(self, body: dict[str, Any], uid: int = USER) -> Answer:
        self.ask(body, uid)
        found = control.parse(self.theirs.recv(control.MAX_FRAME, socket.MSG_DONTWAIT))
        assert isinstance(found, Answer)
        return found


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    for each in (made.theirs, made.peer.sock, made.worker, made.daemon.mounted[9].channel):
        each.close()


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


@pytest.mark.parametrize(
    "op",
    ["", "mount", "é" * 30_000, "\x01" * 10_000, None, 5, {"a": 1}, nested(100_000)],
    ids=["empty", "unknown", "long", "long when escaped", "none", "a number", "an object", "deep"],
)
def test_an_op_that_does_not_exist_is_answered_einval(desk: Desk, op: object) -> None:
    answer = desk.answer({"op": op})
    assert answer.error == -errno.EINVAL
    assert answer.body["message"].endswith("there are mounts, stats, trace, umount, backing")


@pytest.mark.parametrize("op", ["stats", "trace", "umount"])
@pytest.mark.parametrize(
    "which", [{"target": "/mnt/y"}, {"target": "é" * 30_000}, {"number": 4}, {"target": nested(100_000), "number": 4}]
)
def test_a_mount_that_is_not_there_is_answered_enoent(desk: Desk, op: str, which: dict[str, object]) -> None:
    assert desk.answer({"op": op, **which}).error == -errno.ENOENT


@pytest.mark.parametrize("op", ["stats", "trace", "umount"])
@pytest.mark.parametrize("which", [{}, {"target": 5}, {"target": nested(100_000)}, {"number": "3"}])
def test_a_mount_nobody_could_name_is_answered_einval(desk: Desk, op: str, which: dict[str, object]) -> None:
    assert desk.answer({"op": op, **which}).error == -errno.EINVAL


@pytest.mark.parametrize("op", ["stats", "trace", "umount"])
def test_another_users_mount_is_answered_eperm(desk: Desk, op: str) -> None:
    assert desk.answer({"op": op, "target": "/mnt/x"}, uid=USER + 1).error == -errno.EPERM


def test_ones_own_mounts_are_listed(desk: Desk) -> None:
    answer = desk.answer({"op": "mounts"})
    assert answer.more
    assert (answer.body["target"], answer.body["uid"], answer.body["endpoint"]) == ("/mnt/x", USER, "socket")


def test_other_users_mounts_are_not_listed(desk: Desk) -> None:
    answer = desk.answer({"op": "mounts"}, uid=USER + 1)
    assert (answer.more, answer.body["mounts"]) == (False, 0)


@pytest.mark.parametrize("uid", [USER, 0])
def test_a_question_for_the_worker_goes_to_it_with_the_connection(desk: Desk, uid: int) -> None:
    desk.ask({"op": "trace", "target": "/mnt/x", "opcodes": [1, 2], "strange": "é" * 30_000}, uid)
    message, fds = channel.receive(desk.worker, socket.MSG_DONTWAIT)
    assert message == {"op": "trace", "request": {"timing": None, "opcodes": [1, 2]}}
    assert len(fds) == 1
    os.close(fds[0])


@pytest.mark.parametrize("bad", [{"timing": "yes"}, {"opcodes": 5}, {"opcodes": "15"}, {"opcodes": [[]]}])
def test_a_question_the_worker_could_not_read_does_not_reach_it(desk: Desk, bad: dict[str, object]) -> None:
    assert desk.answer({"op": "stats", "target": "/mnt/x", **bad}).error == -errno.EINVAL
    with pytest.raises(BlockingIOError):
        channel.receive(desk.worker, socket.MSG_DONTWAIT)


def test_a_worker_that_does_not_read_is_answered_eagain(desk: Desk) -> None:
    while channel.send(desk.daemon.mounted[9].channel, {"op": "mute"}, flags=socket.MSG_DONTWAIT):
        pass
    assert desk.answer({"op": "stats", "number": 3}).error == -errno.EAGAIN


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("/mnt/x", "perfused-mnt-x.7.trace"),
        ("/", "perfused-.7.trace"),
        ("/a b", "perfused-a b.7.trace"),
        ("/a-b", r"perfused-a\x2db.7.trace"),
    ],
)
def test_a_trace_file_stays_in_its_directory(target: str, name: str) -> None:
    assert answers.trace_path("/run/perfused", target, 7) == f"/run/perfused/{name}"
