"""Every opcode of 7.45 reaches its method with what was sent, and its answer reaches the kernel, at any minor."""

import errno
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libperfuse import IoctlRetry, Operations, Request
from tests.unit.server_support import METHODS, NUMBERS, Kernel, a_request, kernel, method_of, row_ids, with_methods
from tests.unit.wire_strategies import NAMES, TAILS, U64, heads
from wire import codec, compat, message, tails
from wire.flags import IoctlFlag
from wire.opcodes import BY_NUMBER, Opcode, Row, Tail
from wire.tails import Iovec

MINORS = [9, 12, 23, 36, 45]


class Recording(Operations):
    """Every method remembers what it was called with and gives `answer`."""

    def __init__(self) -> None:
        self.called: list[tuple[str, tuple[Any, ...]]] = []
        self.answer: Any = None

    def _record(self, name: str, request: Request, arguments: tuple[Any, ...]) -> Any:
        kept = tuple(bytes(each) if isinstance(each, memoryview) else each for each in arguments)
        self.called.append((name, (request, *kept)))
        return self.answer


def _method(name: str) -> Any:
    return lambda self, request, *arguments: self._record(name, request, arguments)


for _row in METHODS:
    setattr(Recording, method_of(_row), _method(method_of(_row)))
Recording.unknown = _method("unknown")  # type: ignore[method-assign]


@pytest.fixture(scope="module", params=MINORS)
def served(request: pytest.FixtureRequest) -> Iterator[tuple[Kernel, Recording]]:
    fs = Recording()
    with kernel(fs, minor=request.param) as made:
        yield made, fs


def answers(draw: st.DrawFn, row: Row, head: Any) -> Any:
    """What a method may give to `row`."""
    if row.reply_tail is Tail.OPEN_OUT:
        return draw(heads("entry_out")), draw(heads("open_out"))
    if row.number in NUMBERS:
        bound = {"WRITE": "size", "COPY_FILE_RANGE": "len", "COPY_FILE_RANGE_64": "len"}.get(row.name)
        most = getattr(head, bound) if bound else 2**32 - 1
        return draw(st.integers(0, min(most, 2**32 - 1)))
    if row.number == Opcode.IOCTL:
        return draw(st.integers(-(2**31), 2**31 - 1)), draw(st.binary(max_size=min(head.out_size, 64)))
    if row.reply_tail is Tail.BYTES:
        return draw(st.binary(max_size=min(getattr(head, "size", 64), 64)))
    if row.reply:
        return draw(heads("file_lock" if row.reply == "lk_out" else row.reply))
    return None


@st.composite
def exchanges(draw: st.DrawFn, row: Row, minor: int) -> tuple[Any, tuple[bytes, ...], dict[str, Any], Any]:
    """A request to `row` as a kernel of 7.`minor` sends it, and an answer."""
    names = tuple(draw(NAMES) for _ in range(row.names))
    more: dict[str, Any] = {"nodeid": draw(U64)}
    fixed: dict[str, int] = {}
    if row.tail in (Tail.DATA, Tail.IOCTL):
        more["payload"] = draw(TAILS)
        fixed["in_size" if row.tail is Tail.IOCTL else "size"] = len(more["payload"])
    elif row.tail is Tail.MAPPINGS:
        more["items"] = tuple(draw(st.lists(st.builds(tails.Mapping, U64, U64), max_size=3)))
        fixed["count"] = len(more["items"])
    head = None
    if row.head:
        size = compat.request_head_size(row.number, minor, setxattr_ext=minor >= 33)
        head = draw(heads(row.head, size, **fixed))
    return head, names, more, answers(draw, row, head)


PLAIN = [row for row in METHODS if row.reply_tail not in (Tail.DIRENTS, Tail.DIRENTPLUS, Tail.XATTR)]


@pytest.mark.parametrize("row", METHODS, ids=row_ids(METHODS))
def test_a_method_gets_the_head_the_names_and_the_payload_that_were_sent(
    served: tuple[Kernel, Recording], row: Row
) -> None:
    made, fs = served

    @settings(max_examples=5)
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        head, names, more, _ = data.draw(exchanges(row, made.minor))
        fs.called.clear()
        made.ask(row.number, head, *names, uid=7, gid=8, pid=9, **more)
        ((name, (request, *arguments)),) = fs.called
        sent = [] if head is None else [head]
        sent += [*names, *(more[part] for part in ("payload", "items") if part in more)]
        assert (name, arguments) == (method_of(row), sent)
        assert (request.nodeid, request.uid, request.gid, request.pid) == (more["nodeid"], 7, 8, 9)

    holds()


@pytest.mark.parametrize("row", PLAIN, ids=row_ids(PLAIN))
def test_an_answer_reaches_the_kernel_whole_and_as_long_as_the_minor_has_it(
    served: tuple[Kernel, Recording], row: Row
) -> None:
    made, fs = served

    @settings(max_examples=5)
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        head, names, more, fs.answer = data.draw(exchanges(row, made.minor))
        reply = made.ask(row.number, head, *names, **more)
        parsed = message.parse_reply(row.number, reply, made.minor)
        size = compat.reply_size(row.number, made.minor)
        assert size is None or len(reply) == 16 + size
        assert not parsed.header.error
        assert not parsed.trailing
        assert _given(row, parsed) == (tuple(fs.answer) if row.reply == "lk_out" else fs.answer)

    holds()


def _given(row: Row, parsed: message.Reply) -> Any:
    if row.reply_tail is Tail.OPEN_OUT:
        return parsed.head, parsed.open_out
    if row.number in NUMBERS:
        return parsed.head[0]
    if row.number == Opcode.IOCTL:
        return parsed.head.result, parsed.payload
    if row.reply == "lk_out":
        return tuple(parsed.head.lk)
    if row.reply_tail is Tail.BYTES:
        return parsed.payload
    return parsed.head


def test_an_ioctl_may_give_bytes_alone_for_result_0() -> None:
    with kernel(with_methods({"ioctl": lambda request, arg, data: b"out"})) as made:
        parsed = message.parse_reply(
            Opcode.IOCTL, made.ask(Opcode.IOCTL, codec.ioctl_in.make(out_size=3), head_size=None)
        )
        assert (parsed.head.result, parsed.payload) == (0, b"out")


def test_an_ioctl_may_ask_for_the_callers_memory() -> None:
    retry = IoctlRetry((Iovec(1 << 40, 8),), (Iovec(2, 3), Iovec(4, 5)))
    with kernel(with_methods({"ioctl": lambda request, arg, data: retry})) as made:
        head = codec.ioctl_in.make(flags=IoctlFlag.UNRESTRICTED)
        parsed = message.parse_reply(Opcode.IOCTL, made.ask(Opcode.IOCTL, head))
        assert (parsed.head.flags, parsed.head.in_iovs, parsed.head.out_iovs) == (IoctlFlag.RETRY, 1, 2)
        assert tails.parse_iovecs(parsed.payload, 3) == ((*retry.in_iovs, *retry.out_iovs), b"")


@pytest.mark.parametrize("row", METHODS, ids=row_ids(METHODS))
def test_what_a_filesystem_does_not_have_is_enosys_but_for_release(row: Row) -> None:
    head, names, more = a_request(row)
    with kernel(Operations()) as made:
        expected = 0 if row.number in (Opcode.RELEASE, Opcode.RELEASEDIR) else errno.ENOSYS
        assert made.error(row.number, head, *names, **more) == expected


def test_rename_without_a_method_is_rename2_without_flags() -> None:
    called: list[Any] = []
    with kernel(with_methods({"rename2": lambda *words: called.append(words[1:])})) as made:
        assert made.error(Opcode.RENAME, codec.rename_in.make(newdir=5), b"a", b"b") == 0
    assert called == [(codec.rename2_in.make(newdir=5), b"a", b"b")]


def test_rename2_does_not_fall_back_on_rename() -> None:
    with kernel(with_methods({"rename": lambda *words: None})) as made:
        assert made.error(Opcode.RENAME2, codec.rename2_in.make(flags=1), b"a", b"b") == errno.ENOSYS


def test_copy_file_range_64_without_a_method_is_copy_file_range() -> None:
    with kernel(with_methods({"copy_file_range": lambda request, arg: arg.len - 1})) as made:
        reply = made.ask(Opcode.COPY_FILE_RANGE_64, codec.copy_file_range_in.make(len=1 << 33))
        assert message.parse_reply(Opcode.COPY_FILE_RANGE_64, reply).head.bytes_copied == (1 << 33) - 1


@pytest.mark.parametrize("opcode", [7, 19, 54, 2016, 4097, 0xFFFFFFFF])
def test_an_opcode_nobody_knows_reaches_unknown(opcode: int) -> None:
    with kernel(with_methods({"unknown": lambda request, body: body + bytes([request.opcode & 0xFF])})) as made:
        assert made.ask(opcode, payload=b"some body")[16:] == b"some body" + bytes([opcode & 0xFF])


@pytest.mark.parametrize("opcode", [7, 54, 4096, 0xFFFFFFFF])
def test_an_opcode_nobody_knows_is_enosys_without_unknown(opcode: int) -> None:
    with kernel(Operations()) as made:
        head = codec.cuse_init_in.make() if opcode in BY_NUMBER else None
        assert made.error(opcode, head) == errno.ENOSYS


def test_extensions_reach_the_request() -> None:
    seen: list[Any] = []
    contexts = (tails.SecurityContext(b"security.selinux", b"label"), tails.SecurityContext(b"n", b""))
    extensions = (tails.pack_security_contexts(contexts), tails.pack_groups((4, 5)))

    def mkdir(request: Request, arg: Any, name: bytes) -> codec.EntryOut:
        seen.append((request.security, request.groups, name))
        return codec.entry_out.make(nodeid=2)

    with kernel(with_methods({"mkdir": mkdir})) as made:
        assert made.error(Opcode.MKDIR, codec.mkdir_in.make(), b"name", extensions=extensions) == 0
        assert made.error(Opcode.MKDIR, codec.mkdir_in.make(), b"name") == 0
    assert seen == [(contexts, (4, 5), b"name"), ((), (), b"name")]


def test_forgets_reach_forget_alone_and_in_batches_and_one_that_fails_keeps_no_other_back() -> None:
    forgotten: list[tuple[int, int]] = []
    done = threading.Event()

    def forget(nodeid: int, nlookup: int) -> None:
        forgotten.append((nodeid, nlookup))
        if nodeid == 8:
            raise ValueError("no such node")
        if nodeid == 9:
            done.set()

    with kernel(with_methods({"forget": forget})) as made:
        made.tell(Opcode.FORGET, codec.forget_in.make(nlookup=3), nodeid=7)
        items = (tails.Forget(8, 1), tails.Forget(9, 1 << 40))
        made.tell(Opcode.BATCH_FORGET, codec.batch_forget_in.make(count=2), items=items, nodeid=0)
        assert done.wait(10)
        made.silent()
    assert forgotten == [(7, 3), (8, 1), (9, 1 << 40)]


def test_a_written_piece_is_seen_without_a_copy() -> None:
    kinds: list[type] = []
    with kernel(with_methods({"write": lambda request, arg, data: kinds.append(type(data)) or len(data)})) as made:
        made.ask(Opcode.WRITE, codec.write_in.make(size=4), payload=b"data")
    assert kinds == [memoryview]


def test_destroy_is_answered() -> None:
    with kernel(Operations()) as made:
        assert made.error(Opcode.DESTROY) == 0


# Answers and arguments that are those of the request before


def _sizes(made: Kernel, answers: list[Any]) -> list[int]:
    """The sizes that GETATTR tells, asked once for each answer; each reply is checked for its own unique."""
    found = []
    for _ in answers:
        unique = made.tell(Opcode.GETATTR, codec.getattr_in.make())
        reply = made.receive()
        assert codec.out_header.unpack_from(reply) == (len(reply), 0, unique)
        found.append(codec.attr_out.unpack_from(reply, 16).attr.size)
    return found


def test_each_reply_has_the_answer_of_its_own_request() -> None:
    one, two = (codec.attr_out.make(attr=codec.attr.make(size=size)) for size in (1, 2))
    answers = [one, one, two, one, codec.attr_out.build(two), one, two, two]
    coming = iter(answers)
    with kernel(with_methods({"getattr": lambda *words: next(coming)})) as made:
        assert _sizes(made, answers) == [1, 1, 2, 1, 2, 1, 2, 2]


def test_an_answer_that_changes_is_sent_as_it_has_become() -> None:
    attr = list(codec.attr.make(size=1))
    answer = (0, 0, 0, attr)

    def getattr(*words: object) -> Any:
        attr[1] += 1
        return answer

    with kernel(with_methods({"getattr": getattr})) as made:
        assert _sizes(made, [None, None, None]) == [2, 3, 4]


def test_each_request_has_its_own_arguments() -> None:
    seen: list[Any] = []

    def open_(request: Any, arg: codec.OpenIn) -> codec.OpenOut:
        seen.append(arg)
        return codec.open_out.make()

    asked = [codec.open_in.make(flags=flags) for flags in (0, 0, 1, 2, 0)]
    with kernel(with_methods({"open": open_})) as made:
        for each in asked:
            assert made.error(Opcode.OPEN, each) == 0
    assert seen == asked
