"""How the arguments of a request are read: the head, the names and the tail behind `fuse_in_header`, by opcode.

WireError for a frame that is too short for its opcode. Never here: methods, and answers.
"""

from collections.abc import Callable
from typing import Any

from wire import codec, tails
from wire.errors import WireError
from wire.message import IN_HEADER_SIZE
from wire.opcodes import Opcode, Row, Tail

Arguments = tuple[Any, ...]
#: (frame, where its extensions begin) to the arguments behind the request
Decode = Callable[[bytearray, int], Arguments]


def only_a_head(row: Row, size: int) -> bool:
    """Whether nothing follows the head of `size` bytes, which is the codec's whole and has no struct in it."""
    head: Any = codec.CODECS.get(row.head)
    flat = head is not None and size == head.size and len(head.fields) == len(head.type._fields)
    return flat and not row.names and row.tail is Tail.NONE


def _data(frame: bytearray, at: int, end: int, arg: Any) -> memoryview:
    if arg.size > end - at:
        raise WireError("size", f"at most the {end - at} bytes that follow, got {arg.size}")
    return memoryview(frame)[at : at + arg.size]


def _copied(frame: bytearray, at: int, end: int, arg: Any) -> bytes:
    size = getattr(arg, "in_size", None)
    size = arg.size if size is None else size
    if size > end - at:
        raise WireError("size", f"at most the {end - at} bytes that follow, got {size}")
    return bytes(frame[at : at + size])


def _mappings(frame: bytearray, at: int, end: int, arg: Any) -> tuple[tails.Mapping, ...]:
    return tails.parse_mappings(bytes(frame[at:end]), arg.count)[0]


_TAILS: dict[Tail, Callable[[bytearray, int, int, Any], Any] | None] = {
    Tail.NONE: None, Tail.DATA: _copied, Tail.IOCTL: _copied, Tail.MAPPINGS: _mappings,
}  # fmt: skip


def decoder(row: Row, size: int) -> Decode:
    """Reads the head (`size` bytes on this connection), the names and the tail of a request, in this order."""
    head: Any = codec.CODECS[row.head] if row.head else None
    least = IN_HEADER_SIZE + (size if head else 0)
    read = _reader(head, size) if head else None
    tail = _data if row.number == Opcode.WRITE else _TAILS[row.tail]

    def short(end: int) -> WireError:
        return WireError(f"{row.name}.len", f"at least {least} bytes, got {end}")

    if read is None and not row.names:
        return lambda frame, end: ()
    if read is not None and not row.names and tail is None:

        def one(frame: bytearray, end: int) -> Arguments:
            if end < least:
                raise short(end)
            return (read(frame, IN_HEADER_SIZE),)

        return one

    def several(frame: bytearray, end: int) -> Arguments:
        if end < least:
            raise short(end)
        arguments: Arguments = (read(frame, IN_HEADER_SIZE),) if read else ()
        at = least
        for number in range(row.names):
            stop = frame.find(0, at, end)
            if stop < 0:
                raise WireError(f"{row.name}.name", f"{row.names} NUL-terminated names, got {number}")
            arguments += (bytes(frame[at:stop]),)
            at = stop + 1
        return arguments if tail is None else (*arguments, tail(frame, at, end, arguments[0]))

    return several


def _reader(head: Any, size: int) -> Callable[[bytearray, int], Any]:
    if size == head.size:
        new, kind, unpack = tuple.__new__, head.type, head.struct.unpack_from
        if len(head.fields) == len(kind._fields):
            return lambda frame, at: new(kind, unpack(frame, at))
        return lambda frame, at: head.unpack_from(frame, at)
    return lambda frame, at: head.unpack_from(bytes(frame[at : at + size]).ljust(head.size, b"\0"))
