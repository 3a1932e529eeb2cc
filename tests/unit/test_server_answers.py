"""What is no answer: EIO for the caller, one log line with a traceback, no lookup counted, and serving goes on."""

import asyncio
import concurrent.futures
import errno
from collections.abc import Callable
from typing import Any

import pytest

from libperfuse import Entry, FuseError, IoctlRetry
from libperfuse.errors import errno_of
from tests.unit.server_support import (
    METHODS,
    Kernel,
    a_head,
    a_request,
    kernel,
    logged,
    method_of,
    row_ids,
    with_methods,
)  # fmt: skip
from wire import codec, message
from wire.flags import IoctlFlag
from wire.opcodes import BY_NUMBER, Opcode, Row, Tail
from wire.tails import Dirent, Iovec

WRONG: dict[str, Callable[[], Any]] = {
    "text": lambda: "text", "an object": object, "a number": lambda: -1, "a float": lambda: 1.5, "a list": lambda: [[]],
    "a short tuple": lambda: (1, 2), "nothing": lambda: None, "a generator": lambda: (each for each in (object(),)),
    "a map": lambda: {0: 1}, "three bytes": lambda: bytearray(b"abc"), "scattered": lambda: memoryview(b"abcdef")[::2],
}  # fmt: skip


def _right(row: Row, kind: str) -> bool:
    """Whether one of WRONG is an answer after all."""
    buffer = row.reply_tail in (Tail.BYTES, Tail.XATTR) and row.number != Opcode.LISTXATTR
    return (kind == "nothing" and not row.reply and row.reply_tail is Tail.NONE) or (kind == "three bytes" and buffer)


CASES = [
    pytest.param(row, kind, id=f"{row.name}-{kind}")
    for row in METHODS
    for kind in WRONG
    if not _right(row, kind) and (row.number, kind) != (Opcode.IOCTL, "three bytes")
]


@pytest.mark.parametrize(("row", "kind"), CASES)
def test_an_answer_of_the_wrong_type_is_eio_and_one_line_that_names_the_opcode(row: Row, kind: str) -> None:
    head, names, more = a_request(row)
    with logged() as records, kernel(with_methods({method_of(row): lambda *words: WRONG[kind]()})) as made:
        assert made.error(row.number, head, *names, **more) == errno.EIO
    (record,) = records
    assert record.exc_info is not None
    assert row.name in record.getMessage()


TOO_MUCH: dict[int, tuple[Any, str]] = {
    Opcode.READ: (bytes(4097), "read_in.size: at most the 4096 bytes asked for, got 4097"),
    Opcode.READLINK: (bytes(4096), "target: at most 4095 bytes, got 4096"),
    Opcode.WRITE: (5, "write_out.size: 0 to the 4 asked for, got 5"),
    Opcode.COPY_FILE_RANGE: (1, "write_out.size: 0 to the 0 asked for, got 1"),
    Opcode.COPY_FILE_RANGE_64: (1, "copy_file_range_out.bytes_copied: 0 to the 0 asked for, got 1"),
    Opcode.LSEEK: (1 << 64, "lseek_out.offset: a number that fits"),
    Opcode.BMAP: (1 << 64, "bmap_out.block: a number that fits"),
    Opcode.POLL: (1 << 32, "poll_out.revents: a number that fits"),
    Opcode.IOCTL: (b"12345", "ioctl_in.out_size: at most the 4 bytes asked for, got 5"),
    Opcode.LISTXATTR: ([b"a\0b"], "name: no NUL inside"),
    Opcode.READDIR: ([Dirent(1, 0, 4, b"name")], "dirent.off: the cookie of what follows, which is never 0"),
    Opcode.GETLK: (codec.file_lock.make(start=1 << 64), "file_lock.start: 64 bits unsigned"),
    Opcode.OPEN: (codec.open_out.make(fh=-1), "open_out.fh: 64 bits unsigned"),
    Opcode.GETATTR: (codec.attr_out.make(attr=codec.attr.make(mode=1 << 32)), "attr_out.attr.mode: 32 bits unsigned"),
    Opcode.STATFS: (codec.statfs_out.make(st=codec.kstatfs.make(spare=bytes(25))), "statfs_out.st.spare: 24 bytes"),
    Opcode.STATX: (codec.statx_out.make(stat=codec.statx.make(mode=1 << 16)), "statx_out.stat.mode: 16 bits unsigned"),
    Opcode.LOOKUP: (codec.entry_out.make(nodeid=-1), "entry_out.nodeid: 64 bits unsigned"),
}


@pytest.mark.parametrize("opcode", TOO_MUCH, ids=lambda opcode: Opcode(opcode).name)
def test_an_answer_that_does_not_fit_is_eio_and_a_line_that_names_the_field_and_its_limit(opcode: int) -> None:
    answer, says = TOO_MUCH[opcode]
    row = BY_NUMBER[opcode]
    head, names, more = a_request(row)
    with logged() as records, kernel(with_methods({method_of(row): lambda *words: answer})) as made:
        assert made.error(opcode, head, *names, **more) == errno.EIO
    (record,) = records
    assert record.exc_info is not None
    assert says in str(record.exc_info[1])


@pytest.mark.parametrize("count", [257, 1000])
def test_a_retry_of_more_than_256_pieces_is_eio(count: int) -> None:
    retry = IoctlRetry((Iovec(0, 1),) * (count - 1), (Iovec(0, 1),))
    with logged() as records, kernel(with_methods({"ioctl": lambda *words: retry})) as made:
        assert made.error(Opcode.IOCTL, codec.ioctl_in.make(flags=IoctlFlag.UNRESTRICTED)) == errno.EIO
    assert f"at most 256, got {count}" in str(records[0].exc_info)


def test_a_retry_of_a_restricted_ioctl_is_eio() -> None:
    with logged(), kernel(with_methods({"ioctl": lambda *words: IoctlRetry((Iovec(0, 1),))})) as made:
        assert made.error(Opcode.IOCTL, codec.ioctl_in.make()) == errno.EIO


BAD_ATTR = codec.attr.make(mode=1 << 32)
GOOD_OPEN = codec.open_out.make(fh=1)
ENTRIES = [row for row in METHODS if row.reply == "entry_out"]


@pytest.mark.parametrize("row", ENTRIES, ids=row_ids(ENTRIES))
def test_a_bad_entry_counts_no_lookup(row: Row) -> None:
    entry = codec.entry_out.make(nodeid=77, attr=BAD_ATTR)
    answer = (entry, GOOD_OPEN) if row.reply_tail is Tail.OPEN_OUT else entry
    forgotten: list[tuple[int, int]] = []
    head, names, more = a_request(row)
    methods = {method_of(row): lambda *words: answer, "forget": lambda *words: forgotten.append(words)}
    with logged(), kernel(with_methods(methods)) as made:
        assert made.error(row.number, head, *names, **more) == errno.EIO
    assert forgotten == [(77, 1)]


def test_a_bad_entry_of_a_coroutine_counts_no_lookup() -> None:
    forgotten: list[tuple[int, int]] = []

    async def lookup(*words: Any) -> Any:
        await asyncio.sleep(0)
        return codec.entry_out.make(nodeid=77, attr=BAD_ATTR)

    fs = with_methods({"lookup": lookup, "forget": lambda *words: forgotten.append(words)})
    with logged(), kernel(fs) as made:
        assert made.error(Opcode.LOOKUP, None, b"name") == errno.EIO
    assert forgotten == [(77, 1)]


def test_entries_before_a_bad_one_count_no_lookup() -> None:
    good = Entry(codec.entry_out.make(nodeid=5), 5, 1, 4, b"good")
    bad = Entry(codec.entry_out.make(nodeid=6), 6, 2, 4, b"bad/name")
    forgotten: list[tuple[int, int]] = []
    methods = {"readdirplus": lambda *words: [good, bad], "forget": lambda *words: forgotten.append(words)}
    with logged(), kernel(with_methods(methods)) as made:
        assert made.error(Opcode.READDIRPLUS, codec.read_in.make(size=4096)) == errno.EIO
    assert sorted(forgotten) == [(5, 1), (6, 1)]


@pytest.mark.parametrize("method", ["readdir", "readdirplus"])
@pytest.mark.parametrize("name", [b"", b"a/b", b"a\0b", "text", None, 7])
def test_a_name_that_linux_refuses_is_eio(method: str, name: Any) -> None:
    item = Dirent(1, 1, 4, name) if method == "readdir" else Entry(codec.entry_out.make(), 1, 1, 4, name)
    with logged() as records, kernel(with_methods({method: lambda *words: [item]})) as made:
        assert made.error(Opcode[method.upper()], codec.read_in.make(size=4096)) == errno.EIO
    assert len(records) == 1


def test_an_exception_of_the_entries_own_is_its_errno() -> None:
    def entries(*words: Any) -> Any:
        yield Dirent(1, 1, 4, b"name")
        raise FuseError(errno.ESTALE)

    with kernel(with_methods({"readdir": entries})) as made:
        assert made.error(Opcode.READDIR, codec.read_in.make(size=4096)) == errno.ESTALE


ODD: list[tuple[BaseException, int]] = [
    (OSError(errno.ENODATA, "x"), errno.ENODATA), (FuseError(511), 511), (FileNotFoundError(), errno.ENOENT),
    (FileExistsError(), errno.EEXIST), (NotADirectoryError(), errno.ENOTDIR), (IsADirectoryError(), errno.EISDIR),
    (PermissionError(), errno.EACCES), (PermissionError(errno.EPERM, "x"), errno.EPERM),
    (InterruptedError(), errno.EINTR), (BlockingIOError(), errno.EAGAIN), (BrokenPipeError(), errno.EPIPE),
    (TimeoutError(), errno.ETIMEDOUT), (NotImplementedError(), errno.ENOSYS),
    (asyncio.CancelledError(), errno.EINTR),
    (concurrent.futures.CancelledError(), errno.EINTR),
]  # fmt: skip
BUGS: list[BaseException] = [
    OSError(), OSError("no errno"), OSError(0, "x"), OSError(512, "x"), OSError(70000, "x"), OSError(-2, "x"),
    OSError("2", "x"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), ZeroDivisionError(), StopIteration(),
    RecursionError(), MemoryError(), UnicodeDecodeError("utf-8", b"x", 0, 1, "x"), BaseException(),
]  # fmt: skip


def _raises(bad: BaseException) -> Any:
    def method(*words: Any) -> Any:
        raise bad

    return method


@pytest.mark.parametrize(("bad", "code"), ODD, ids=lambda each: repr(each))
def test_an_exception_that_means_an_errno_is_that_errno_without_a_line(bad: BaseException, code: int) -> None:
    with logged() as records, kernel(with_methods({"getattr": _raises(bad)})) as made:
        assert made.error(Opcode.GETATTR, a_head(BY_NUMBER[Opcode.GETATTR])) == code
    assert records == []


@pytest.mark.parametrize("bad", BUGS, ids=repr)
def test_any_other_exception_is_eio_and_a_line_with_its_traceback_and_the_session_serves_on(bad: BaseException) -> None:
    assert errno_of(bad) == 0
    with logged() as records, kernel(with_methods({"getattr": _raises(bad)})) as made:
        assert made.error(Opcode.GETATTR, a_head(BY_NUMBER[Opcode.GETATTR])) == errno.EIO
        assert made.error(Opcode.STATFS) == errno.ENOSYS
    (record,) = records
    assert record.exc_info is not None
    assert record.exc_info[1] is bad


@pytest.mark.parametrize("bad", [ValueError(), KeyboardInterrupt(), FuseError(errno.EIO)], ids=repr)
def test_a_forget_that_fails_is_a_line_and_no_reply(bad: BaseException) -> None:
    with logged() as records, kernel(with_methods({"forget": _raises(bad)})) as made:
        made.tell(Opcode.FORGET, codec.forget_in.make(nlookup=1))
        made.silent()
    assert len(records) == 1


def _ask(made: Kernel, frame: bytes) -> int:
    made.send(frame)
    return -codec.out_header.unpack_from(made.receive()).error


def test_a_request_too_short_for_its_opcode_is_eio() -> None:
    with logged() as records, kernel(with_methods({"read": lambda *words: b""})) as made:
        header = codec.in_header.make(len=48, opcode=Opcode.READ, unique=98)
        assert _ask(made, codec.in_header.build(header) + bytes(8)) == errno.EIO
    assert "at least 80 bytes, got 48" in str(records[0].exc_info)


@pytest.mark.parametrize("fields", [{"len": 41}, {"total_extlen": 9}])
def test_a_request_whose_header_lies_is_eio(fields: dict[str, int]) -> None:
    with logged() as records, kernel(with_methods({"statfs": lambda *words: None})) as made:
        header = codec.in_header.make(**{"len": 40, "opcode": Opcode.STATFS, "unique": 98} | fields)
        assert _ask(made, codec.in_header.build(header)) == errno.EIO
    assert len(records) == 1


def test_a_request_without_a_whole_header_is_passed_over() -> None:
    with logged() as records, kernel(with_methods({"statfs": lambda *words: None})) as made:
        made.send(bytes(39))
        made.silent()
    assert "39 bytes" in records[0].getMessage()


@pytest.mark.parametrize("answer", ["text", 7, None, memoryview(b"abcd")[::2]], ids=repr)
def test_an_answer_of_unknown_that_is_no_bytes_is_eio(answer: Any) -> None:
    with logged(), kernel(with_methods({"unknown": lambda *words: answer})) as made:
        assert made.error(99) == errno.EIO


def test_a_reply_may_be_any_contiguous_buffer() -> None:
    answers: list[Any] = [b"abcd", bytearray(b"abcd"), memoryview(b"xxabcdxx")[2:6], memoryview(b"abcd").cast("I")]
    with kernel(with_methods({"read": lambda *words: answers.pop(0)})) as made:
        for _ in range(4):
            reply = made.ask(Opcode.READ, codec.read_in.make(size=4))
            assert message.parse_reply(Opcode.READ, reply).payload == b"abcd"


@pytest.mark.parametrize("opcode", [Opcode.GETATTR, Opcode.SETATTR])
def test_attributes_that_are_kept_packed_are_the_same_answer(opcode: int) -> None:
    answer = codec.attr_out.make(attr_valid=3, attr=codec.attr.make(ino=9, mode=0o100644, size=77))
    row = BY_NUMBER[opcode]
    head, names, more = a_request(row)
    given = [answer, codec.attr_out.build(answer)]
    with kernel(with_methods({method_of(row): lambda *words: given.pop(0)})) as made:
        replies = [made.ask(opcode, head, *names, **more)[16:] for _ in range(2)]
    assert replies[0] == replies[1] == codec.attr_out.build(answer)


def test_packed_attributes_of_another_size_are_eio() -> None:
    with logged() as records, kernel(with_methods({"getattr": lambda *words: bytes(96)})) as made:
        assert made.error(Opcode.GETATTR, codec.getattr_in.make()) == errno.EIO
    assert "attr_out: 104 bytes or a AttrOut, got 96 bytes" in str(records[0].exc_info)
