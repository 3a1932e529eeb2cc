"""Messages between processes, over real sockets; and packets of strangers, whose descriptors never stay behind."""

import array
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from perfused import channel
from perfused.config import Config
from perfused.listener import Listener, Peer
from perfused.namespaces import OURS
from perfused.policy import Client
from wire import control
from wire.control import Endpoint

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    one, other = channel.pair()
    with one, other:
        yield one, other


def send_raw(sock: socket.socket, packet: bytes, count: int) -> None:
    """Send a packet and `count` descriptors beside it."""
    null = os.open("/dev/null", os.O_RDONLY)
    sock.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null] * count))])
    os.close(null)


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_both_ends_are_closed_on_exec(pair: Pair) -> None:
    assert [os.get_inheritable(each.fileno()) for each in pair] == [False, False]


def test_a_message_arrives_as_it_was_sent(pair: Pair) -> None:
    message: dict[str, Any] = {"op": "mount", "n": 3, "path": "/tmp/é\udcff", "none": None, "list": [1, 2]}
    assert channel.send(pair[0], message)
    assert channel.receive(pair[1]) == (message, [])


def test_what_json_does_not_know_is_sent_as_text(pair: Pair) -> None:
    channel.send(pair[0], {"error": OSError(5, "no")})
    assert channel.receive(pair[1]) == ({"error": "[Errno 5] no"}, [])


def test_messages_do_not_run_together(pair: Pair) -> None:
    channel.send(pair[0], {"n": 1})
    channel.send(pair[0], {"n": 2})
    assert [channel.receive(pair[1])[0] for _ in range(2)] == [{"n": 1}, {"n": 2}]


def test_descriptors_arrive_beside_a_message_closed_on_exec(pair: Pair) -> None:
    read, write = os.pipe()
    channel.send(pair[0], {}, (read, write))
    _, fds = channel.receive(pair[1])
    assert [os.fstat(fd).st_ino for fd in fds] == [os.fstat(read).st_ino, os.fstat(write).st_ino]
    assert not any(os.get_inheritable(fd) for fd in fds)
    for fd in (read, write, *fds):
        os.close(fd)


def test_the_end_of_file_is_no_message(pair: Pair) -> None:
    pair[0].close()
    assert channel.receive(pair[1]) == (None, [])


def test_a_packet_on_a_broken_connection_is_the_end_of_file() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as alone:
        assert channel.receive_packet(alone) == (b"", [])


def test_nothing_to_read_is_not_the_end_of_file(pair: Pair) -> None:
    with pytest.raises(BlockingIOError):
        channel.receive(pair[1], socket.MSG_DONTWAIT)


def test_sending_to_who_is_gone_says_so(pair: Pair) -> None:
    pair[1].close()
    assert not channel.send(pair[0], {"op": "go"})


def test_sending_to_who_does_not_read_says_so_at_some_point(pair: Pair) -> None:
    sent = 0
    while channel.send(pair[0], {"x": "y" * 1000}, flags=socket.MSG_DONTWAIT):
        sent += 1
    assert sent > 0


def test_no_more_descriptors_are_taken_than_there_is_room_for(pair: Pair) -> None:
    send_raw(pair[0], b"{}", 60)
    before = open_descriptors()
    _, fds = channel.receive_packet(pair[1])
    assert len(fds) == channel.DESCRIPTORS
    for fd in fds:
        os.close(fd)
    assert open_descriptors() == before


def test_a_packet_past_the_limit_is_seen_to_be_too_long(pair: Pair) -> None:
    pair[0].send(bytes(channel.PACKET + 500))
    assert len(channel.receive_packet(pair[1])[0]) == channel.PACKET + 1


def _listener() -> Listener:
    return Listener(
        Config, lambda uid: 0, lambda peer, mount, target: None, lambda peer, request: None, lambda peer: None
    )


@pytest.mark.parametrize("packet", [b"", b"x", b"\xff" * 40], ids=["empty", "one byte", "no frame"])
def test_descriptors_beside_a_packet_that_is_no_frame_end_the_peer_and_never_come_in(pair: Pair, packet: bytes) -> None:
    listener = _listener()
    send_raw(pair[0], packet, 4)
    before = open_descriptors()
    assert listener.readable(Peer(pair[1], OURS, Client(1, 1, 1))) is None
    assert open_descriptors() == before


def test_a_direct_client_may_send_its_target_from_the_moment_it_is_welcomed(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    barred: list[int] = []
    say = Peer.say

    def record(peer: Peer, frame: bytes, fds: tuple[int, ...] = ()) -> bool:
        barred.append(peer.sock.getsockopt(socket.SOL_SOCKET, channel.SO_PASSRIGHTS) == 0)
        return say(peer, frame, fds)

    monkeypatch.setattr(Peer, "say", record)
    listener = _listener()
    if not channel.bar_rights(pair[1]):
        pytest.skip("SO_PASSRIGHTS needs Linux 6.16")
    pair[0].send(control.build_hello(Endpoint.DIRECT, b"fs"))
    device = listener.readable(Peer(pair[1], OURS, Client(0, 0, os.getpid())))
    assert device is not None
    assert barred == [False]
    _, fds = channel.receive_packet(pair[0])
    for fd in (*fds, device.direct_device):
        os.close(fd)
