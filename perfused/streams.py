"""Live traces of a mount on their way to `perfusectl trace`. Never here: what a trace shows (`observe`)."""

import socket

from perfused import observe
from wire import control

#: live traces of one mount at a time
STREAMS = 4
#: seconds between packets of a live trace
TRACE_TICK = 0.05
_BURST, _RECORDS = 64, 96


class Streams:
    """Who reads a trace, what is gathered for them, and how much each was sent."""

    def __init__(self) -> None:
        self._streams: dict[socket.socket, tuple[observe.Stream, list[int]]] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def full(self) -> bool:
        """Whether one more is too many."""
        return len(self._streams) >= STREAMS

    def add(self, client: socket.socket, opcodes: list[int] | None) -> None:
        """Begin one, of these opcodes alone where some are named; the socket is its own from now on."""
        stream = observe.Stream(frozenset(int(each) for each in opcodes) if opcodes else None)
        self._streams[client] = stream, [0]

    def observers(self) -> list[observe.Stream]:
        """What gathers them."""
        return [stream for stream, _ in self._streams.values()]

    def send(self) -> bool:
        """Send what they have gathered; a reader that left is forgotten, a slow one loses its oldest frames.

        Whether all readers are still there.
        """
        gone = [client for client, (stream, sent) in self._streams.items() if not _send(client, stream, sent)]
        for each in gone:
            del self._streams[each]
            each.close()
        return not gone


def _send(client: socket.socket, stream: observe.Stream, sent: list[int]) -> bool:
    try:
        while True:
            peek = client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            if not peek:
                return False
            client.recv(control.MAX_FRAME)
    except BlockingIOError:
        pass
    except OSError:
        return False
    for _ in range(_BURST):
        records = stream.drain(_RECORDS)
        if not records:
            break
        sent[0] += len(records)
        dropped = max(stream.taken - sent[0] - len(stream.records), 0)
        sent[0] += dropped
        try:
            client.send(control.build_trace(dropped, records), socket.MSG_NOSIGNAL)
        except BlockingIOError:
            sent[0] -= len(records) + dropped
            stream.records.extendleft(reversed(records))
            break
        except OSError:
            return False
    return True
