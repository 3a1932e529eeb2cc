"""READDIR and READDIRPLUS fill any buffer with whole entries, and successive calls give each entry once.

GETXATTR and LISTXATTR give a length, a value, or ERANGE.
"""

import errno
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libperfuse import Entry
from tests.unit.server_support import Kernel, kernel, with_methods
from wire import codec, message, tails
from wire.opcodes import Opcode
from wire.tails import Dirent

NAMES = st.lists(
    st.binary(min_size=1, max_size=255).map(
        lambda raw: raw.replace(b"\0", b"n").replace(b"/", b"s").replace(b".", b"d")
    ),
    max_size=12,
)


def _read_all(made: Kernel, opcode: int, size: int) -> list[bytes]:
    """Names as successive calls give them, from cookie to cookie, until one gives none or EINVAL."""
    found, at = [], 0
    while True:
        reply = made.ask(opcode, codec.read_in.make(size=size, offset=at))
        parsed = message.parse_reply(opcode, reply, request_size=size)
        assert parsed.header.error in (0, -errno.EINVAL)
        assert not parsed.trailing
        if parsed.header.error:
            return [*found, b"does not fit"]
        if not parsed.items:
            return found
        found += [each.name for each in parsed.items]
        at = parsed.items[-1].off


class Directory:
    """Numbered entries; each `readdirplus` counts a lookup of what it gives."""

    def __init__(self, names: list[bytes], lazy: bool) -> None:
        self.names, self.lazy = names, lazy
        self.counts: dict[int, int] = {}

    def readdir(self, request: Any, arg: codec.ReadIn) -> Any:
        found = (Dirent(at + 2, at + 1, 8, name) for at, name in enumerate(self.names) if at >= arg.offset)
        return found if self.lazy else list(found)

    def _plus(self, offset: int) -> Any:
        for at, name in enumerate(self.names):
            if at >= offset:
                self.counts[at + 2] = self.counts.get(at + 2, 0) + 1
                yield Entry(codec.entry_out.make(nodeid=at + 2), at + 2, at + 1, 8, name)

    def readdirplus(self, request: Any, arg: codec.ReadIn) -> Any:
        return self._plus(arg.offset)

    def forget(self, nodeid: int, nlookup: int) -> None:
        self.counts[nodeid] -= nlookup


@given(names=NAMES, size=st.integers(24, 4096), lazy=st.booleans())
@settings(max_examples=60)
def test_successive_readdirs_give_each_entry_once_whatever_the_size(names: list[bytes], size: int, lazy: bool) -> None:
    directory = Directory(names, lazy)
    with kernel(with_methods({"readdir": directory.readdir})) as made:
        found = _read_all(made, Opcode.READDIR, size)
    fitting = [name for name in names if tails.aligned(24 + len(name)) <= size]
    assert found == (names if fitting == names else [*names[: _first_too_long(names, size - 24)], b"does not fit"])


@given(names=NAMES, size=st.integers(24, 4096))
@settings(max_examples=60)
def test_successive_readdirplus_give_and_count_each_entry_once_whatever_the_size(names: list[bytes], size: int) -> None:
    directory = Directory(names, lazy=True)
    methods = {"readdirplus": directory.readdirplus, "forget": directory.forget}
    with kernel(with_methods(methods)) as made:
        found = _read_all(made, Opcode.READDIRPLUS, size)
    sent = _first_too_long(names, size - 152)
    assert found == (names if sent == len(names) else [*names[:sent], b"does not fit"])
    assert [directory.counts.get(at + 2, 0) for at in range(len(names))] == [1] * sent + [0] * (len(names) - sent)


def _first_too_long(names: list[bytes], room: int) -> int:
    """How many names come before the first whose record does not fit, `room` bytes being left for name and padding."""
    for at, name in enumerate(names):
        if tails.aligned(24 + len(name)) - 24 > room:
            return at
    return len(names)


def test_dot_and_dotdot_count_no_lookup() -> None:
    entries = [Entry(codec.entry_out.make(nodeid=9), 9, at + 1, 4, name) for at, name in enumerate((b".", b"..", b"a"))]
    forgotten: list[tuple[int, int]] = []
    methods = {"readdirplus": lambda *words: entries, "forget": lambda *words: forgotten.append(words)}
    with kernel(with_methods(methods)) as made:
        made.ask(Opcode.READDIRPLUS, codec.read_in.make(size=320))
    assert forgotten == [(9, 1)]


def test_what_does_not_fit_is_not_asked_for() -> None:
    taken: list[int] = []

    def entries(*words: Any) -> Any:
        for number in range(1, 1000):
            taken.append(number)
            yield Dirent(1, number, 8, b"name")

    with kernel(with_methods({"readdir": entries})) as made:
        made.ask(Opcode.READDIR, codec.read_in.make(size=64))
    assert taken == [1, 2, 3]


def test_a_coroutine_may_give_the_entries() -> None:
    async def readdir(request: Any, arg: Any) -> Any:
        return [Dirent(1, 1, 8, b"name")][arg.offset :]

    with kernel(with_methods({"readdir": readdir})) as made:
        assert _read_all(made, Opcode.READDIR, 4096) == [b"name"]


XATTRS: list[tuple[str, str, Any, bytes]] = [
    ("GETXATTR", "getxattr", b"the value", b"the value"),
    ("LISTXATTR", "listxattr", [b"user.a", b"b"], b"user.a\0b\0"),
]


@pytest.mark.parametrize(("opcode", "method", "answer", "sent"), XATTRS, ids=["GETXATTR", "LISTXATTR"])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_a_value_is_sent_where_there_is_room_for_it(
    opcode: str, method: str, answer: Any, sent: bytes, more: int
) -> None:
    names = (b"user.name",) if method == "getxattr" else ()
    with kernel(with_methods({method: lambda *words: answer})) as made:
        reply = made.ask(Opcode[opcode], codec.getxattr_in.make(size=len(sent) + more), *names)
        parsed = message.parse_reply(Opcode[opcode], reply)
        expected = (0, sent) if more >= 0 else (-errno.ERANGE, b"")
        assert (parsed.header.error, parsed.payload) == expected


@pytest.mark.parametrize(("opcode", "method", "answer", "sent"), XATTRS, ids=["GETXATTR", "LISTXATTR"])
def test_a_length_is_sent_where_there_is_no_room(opcode: str, method: str, answer: Any, sent: bytes) -> None:
    names = (b"user.name",) if method == "getxattr" else ()
    with kernel(with_methods({method: lambda *words: answer})) as made:
        reply = made.ask(Opcode[opcode], codec.getxattr_in.make(), *names)
        assert message.parse_reply(Opcode[opcode], reply, request_size=0).head.size == len(sent)


@pytest.mark.parametrize(("length", "code"), [(65536, 0), (65537, errno.E2BIG)])
def test_a_value_is_64_kib_at_most(length: int, code: int) -> None:
    with kernel(with_methods({"getxattr": lambda *words: bytes(length)})) as made:
        reply = made.ask(Opcode.GETXATTR, codec.getxattr_in.make(), b"n")
        assert codec.out_header.unpack_from(reply).error == -code


def test_an_empty_value_and_an_empty_list_are_sent() -> None:
    with kernel(with_methods({"getxattr": lambda *words: b"", "listxattr": lambda *words: ()})) as made:
        assert len(made.ask(Opcode.GETXATTR, codec.getxattr_in.make(size=9), b"n")) == 16
        assert len(made.ask(Opcode.LISTXATTR, codec.getxattr_in.make(size=9))) == 16
