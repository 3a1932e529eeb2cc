"""One table for one connection: for each opcode the filesystem's method, made into one function from frame to reply.

Made when INIT has settled the minor, from `wire.opcodes` and the codecs: nothing is looked up by name per request.
Never here: reading, sending, errnos.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from libperfuse.answers import Forget, Frame, Pack, entries_of, pack_unknown, packer
from libperfuse.arguments import Decode, decoder, only_a_head
from libperfuse.operations import Operations, has
from wire import codec, compat
from wire.message import IN_HEADER_SIZE
from wire.opcodes import OPCODES, Opcode, Row

#: opcodes that the session itself takes, and that no row of the table stands for
SESSION = (Opcode.INIT, Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT, Opcode.DESTROY, Opcode.NOTIFY_REPLY)
#: what has a method of its own only through another's
_THROUGH = {"rename": "rename2", "copy_file_range_64": "copy_file_range"}
#: answered with success by a filesystem that has no such method: ENOSYS would not spare Linux the next one
_WELCOME = ("release", "releasedir")


#: whose arguments mostly are those of the request before: they are made once
_ALIKE = (Opcode.GETATTR, Opcode.STATX, Opcode.OPEN, Opcode.OPENDIR)

#: (request, frame, where its extensions begin) to a reply: arguments read, method called, answer packed
Answer = Callable[[Any, bytearray, int], Frame]


class Call(NamedTuple):
    """A row: `answer` does all of it (None: no such method, or a coroutine function, which `waits`: do it in steps).

    `welcome`: without a method the reply is a success and not ENOSYS.
    """

    answer: Answer | None
    method: Callable[..., Any] | None
    decode: Decode
    pack: Pack
    waits: bool
    welcome: bool


def table(operations: Operations, minor: int, setxattr_ext: bool) -> list[Call | None]:
    """The rows, indexed by opcode, for a connection of 7.`minor`. None where the session itself acts, or nobody does.

    TypeError for a method that is an asynchronous generator, or a coroutine function where the session calls it.
    """
    for name in ("init", "forget", "destroy", "cuse_init"):
        if inspect.iscoroutinefunction(getattr(operations, name)):
            raise TypeError(f"{name} is called by the session itself and is no coroutine function")
    made: list[Call | None] = [None] * (1 + max(row.number for row in OPCODES if row.number != Opcode.CUSE_INIT))
    for row in OPCODES:
        if row.number in SESSION or row.number >= len(made):
            continue
        made[row.number] = call(operations, row, minor, setxattr_ext)
    return made


def call(operations: Operations, row: Row, minor: int, setxattr_ext: bool = False) -> Call:
    """One row of the table. TypeError for a method that is an asynchronous generator."""
    name = row.name.lower()
    method = has(operations, name)
    if method is None and has(operations, _THROUGH.get(name, name)):
        method = getattr(operations, name)
    if inspect.isasyncgenfunction(method):
        raise TypeError(f"{name} is an asynchronous generator: it may be a coroutine function that gives an iterable")
    waits = inspect.iscoroutinefunction(method)
    if name in _THROUGH and not has(operations, name):
        waits = inspect.iscoroutinefunction(getattr(operations, _THROUGH[name]))
    size = compat.request_head_size(row.number, minor, setxattr_ext)
    decode, pack = decoder(row, size), packer(row, minor, operations.forget)
    answer = None if method is None or waits else _answer(row, size, method, decode, pack, operations.forget)
    return Call(answer, method, decode, pack, waits, name in _WELCOME)


def unknown(operations: Operations) -> Call:
    """The row of every opcode that `wire.opcodes` does not have: the whole body is the argument, and the answer."""
    method = has(operations, "unknown")
    waits = inspect.iscoroutinefunction(method)

    def decode(frame: bytearray, end: int) -> tuple[Any, ...]:
        return (bytes(frame[IN_HEADER_SIZE:end]),)

    def answer(request: Any, frame: bytearray, end: int) -> Frame:
        arguments = decode(frame, end)
        return pack_unknown(request.unique, method(request, *arguments), arguments)

    return Call(None if method is None or waits else answer, method, decode, pack_unknown, waits, False)


def _answer(row: Row, size: int, method: Any, decode: Decode, pack: Pack, forget: Forget) -> Answer:
    """One function for a request, without what its shape does not need: it is called for every one."""
    if only_a_head(row, size):
        head: Any = codec.CODECS[row.head]
        new, kind, unpack, least = tuple.__new__, head.type, head.struct.unpack_from, IN_HEADER_SIZE + size
        if row.number in _ALIKE:
            last: tuple[Any, Any] = ((), None)

            def with_the_same(request: Any, frame: bytearray, end: int) -> Frame:
                nonlocal last  # read once, and set at once: other threads come here too
                if end < least:
                    decode(frame, end)
                fields = unpack(frame, IN_HEADER_SIZE)
                before, arg = last
                if fields != before:
                    arg = new(kind, fields)
                    last = fields, arg
                return pack(request[2], method(request, arg), (arg,))

            return with_the_same

        def with_head(request: Any, frame: bytearray, end: int) -> Frame:
            if end < least:
                decode(frame, end)
            arg = new(kind, unpack(frame, IN_HEADER_SIZE))
            return pack(request[2], method(request, arg), (arg,))

        return with_head

    if row.number == Opcode.WRITE and size == codec.write_in.size:
        cast, fields, begin = tuple.__new__, codec.write_in.struct.unpack_from, IN_HEADER_SIZE + size

        def with_data(request: Any, frame: bytearray, end: int) -> Frame:
            arg = cast(codec.WriteIn, fields(frame, IN_HEADER_SIZE))
            stop = begin + arg[2]
            if stop > end:
                decode(frame, end)
            return pack(request[2], method(request, arg, memoryview(frame)[begin:stop]), (arg,))

        return with_data

    if row.number == Opcode.LOOKUP:

        def with_name(request: Any, frame: bytearray, end: int) -> Frame:
            stop = frame.find(0, IN_HEADER_SIZE, end)
            if stop < 0:
                decode(frame, end)
            result = method(request, bytes(frame[IN_HEADER_SIZE:stop]))
            try:
                return pack(request[2], result, ())
            except BaseException:
                for nodeid in entries_of(result):
                    forget(nodeid, 1)
                raise

        return with_name

    def answer(request: Any, frame: bytearray, end: int) -> Frame:
        arguments = decode(frame, end)
        return pack(request[2], method(request, *arguments), arguments)

    if row.reply != "entry_out":
        return answer

    def counted(request: Any, frame: bytearray, end: int) -> Frame:
        arguments = decode(frame, end)
        result = method(request, *arguments)
        try:
            return pack(request[2], result, arguments)
        except BaseException:
            for nodeid in entries_of(result):
                forget(nodeid, 1)
            raise

    return counted
