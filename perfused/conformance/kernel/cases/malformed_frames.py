"""Cases about replies whose frame is wrong: lengths, errors and uniques that lie, whatever the request was.

A frame that is refused without being taken for an answer leaves its request pending: a good answer then works. Never
here: bodies of a wrong size (`malformed_sizes`) and values that make no sense (`malformed_values`).
"""

import errno
import os
import sys
from collections.abc import Callable
from functools import partial

from perfused.conformance.kernel.bench import Bench
from perfused.conformance.kernel.case import Level, case
from perfused.conformance.kernel.server import Raw, out
from wire import codec
from wire.flags import OpenFlag
from wire.message import Request
from wire.opcodes import Opcode

LOOKUP, READ, GETATTR = Opcode.LOOKUP, Opcode.READ, Opcode.GETATTR
MEASURED = "measured on Linux 6.18"
#: of a good frame, and its unique, a bad one
Spoil = Callable[[bytes, int], bytes]


def length(frame: bytes, by: int) -> bytes:
    """A frame whose header.len is wrong by `by`."""
    return (len(frame) + by).to_bytes(4, sys.byteorder) + frame[4:]


def good(k: Bench, request: Request) -> bytes:
    """The frame that answers as it should."""
    answer = k.tree.answer(request)
    assert isinstance(answer, bytes)
    return out(request.header.unique, answer)


def call(k: Bench, opcode: Opcode) -> Callable[[], object]:
    """What makes a client send the request."""
    if opcode == READ:
        return lambda: open(k.file("a"), "rb").read()
    return lambda: os.stat(k.file("a")).st_size


def _pending(name: str, opcode: Opcode, says: int, spoil: Spoil, level: Level = Level.SHOULD) -> None:
    @case(f"malformed/{name}-{opcode.name.lower()}", opcode, aspect="malformed", level=level,
          source=MEASURED + ": refused, and the request is still to be answered")  # fmt: skip
    def _(k: Bench) -> None:
        k.mount()
        k.tree.add("a", b"content")
        bad = Raw(b"")
        rest = Raw(b"")

        def answer(request: Request) -> list[Raw]:
            rest.frame = good(k, request)
            bad.frame = spoil(rest.frame, request.header.unique)
            return [bad, rest]

        k.answer(opcode, answer, times=1)
        seen = k.ok(call(k, opcode))
        k.equal("what the caller sees after a good answer", seen, b"content" if opcode == READ else 7)
        k.settle()
        k.equal("what write(2) of the bad frame says", bad.errno, says)
        k.equal("what write(2) of the good frame says", rest.errno, 0)


for _opcode in (LOOKUP, READ):
    _pending("len-larger", _opcode, errno.EINVAL, lambda frame, unique: length(frame, 1))
    _pending("len-smaller", _opcode, errno.EINVAL, lambda frame, unique: length(frame, -1))
    _pending("len-of-the-header-alone", _opcode, errno.EINVAL, lambda frame, unique: length(frame, 16 - len(frame)))
    _pending("short-header-15", _opcode, errno.EINVAL, lambda frame, unique: frame[:15])
    _pending("unknown-unique", _opcode, errno.ENOENT, lambda frame, unique: out(unique + 1000, frame[16:]))
    _pending("error-positive", _opcode, errno.EINVAL, lambda frame, unique: out(unique, error=5))
    _pending("error-512", _opcode, errno.EINVAL, lambda frame, unique: out(unique, error=-512))

_pending("len-0", LOOKUP, errno.EINVAL, lambda frame, unique: length(frame, -len(frame)))
_pending("len-4-gib", LOOKUP, errno.EINVAL, lambda frame, unique: length(frame, 0xFFFF_FFFF - len(frame)))
_pending("short-header-1", LOOKUP, errno.EINVAL, lambda frame, unique: frame[:1])
_pending("empty-write", LOOKUP, errno.EINVAL, lambda frame, unique: b"")
_pending("error-1-with-payload", LOOKUP, errno.EINVAL, lambda frame, unique: out(unique, frame[16:], 1))
_pending("error-lowest", LOOKUP, errno.EINVAL, lambda frame, unique: out(unique, error=-(1 << 31)))
_pending("error-highest", LOOKUP, errno.EINVAL, lambda frame, unique: out(unique, error=(1 << 31) - 1))
_pending("error-1000", LOOKUP, errno.EINVAL, lambda frame, unique: out(unique, error=-1000))
_pending("unique-0", LOOKUP, errno.EINVAL, lambda frame, unique: out(0, frame[16:]))
_pending("unique-of-all-ones", LOOKUP, errno.ENOENT, lambda frame, unique: out((1 << 64) - 2, frame[16:]))
_pending(
    "unique-with-the-resend-bit", LOOKUP, errno.ENOENT, lambda frame, unique: out(unique | 1 << 63, frame[16:]),
    Level.PROFILE,
)  # fmt: skip
_pending("unique-in-the-other-order", LOOKUP, errno.ENOENT,
         lambda frame, unique: out(int.from_bytes(unique.to_bytes(8, "little"), "big"), frame[16:]))  # fmt: skip


def _consumed(name: str, opcode: Opcode, spoil: Spoil, wanted: int = errno.EIO) -> None:
    @case(f"malformed/{name}-{opcode.name.lower()}", opcode, aspect="malformed", level=Level.SHOULD,
          source=MEASURED + ": refused, and the caller gets EIO; no second answer is taken")  # fmt: skip
    def _(k: Bench) -> None:
        k.mount()
        k.tree.open_flags = OpenFlag.DIRECT_IO
        k.tree.add("a", b"content")
        bad, late = Raw(b""), Raw(b"")

        def answer(request: Request) -> list[Raw]:
            late.frame = good(k, request)
            bad.frame = spoil(late.frame, request.header.unique)
            return [bad, late]

        k.answer(opcode, answer, times=1)
        k.fails(wanted, call(k, opcode))
        k.settle()
        k.equal("what write(2) of the bad frame says", bad.errno, errno.EINVAL)
        k.equal("what write(2) of a good frame after it says", late.errno, errno.ENOENT)


for _opcode in (LOOKUP, READ, GETATTR):
    _consumed("error-with-payload", _opcode, lambda frame, unique: out(unique, frame[16:], -errno.ENOENT))
_consumed("error-with-one-byte", LOOKUP, lambda frame, unique: out(unique, b"\0", -errno.ENOENT))


def _twice(name: str, opcode: Opcode, error: int) -> None:
    @case(f"malformed/{name}-{opcode.name.lower()}", opcode, aspect="malformed",
          source="fuse.h: a unique is answered once; " + MEASURED + ": ENOENT")  # fmt: skip
    def _(k: Bench) -> None:
        k.mount()
        k.tree.add("a", b"content")
        second = Raw(b"")

        def answer(request: Request) -> list[Raw]:
            first = out(request.header.unique, error=error) if error else good(k, request)
            second.frame = good(k, request)
            return [Raw(first), second]

        k.answer(opcode, answer, times=1)
        outcome = k.do(call(k, opcode))
        k.equal("the caller's errno", outcome.errno, -error)
        if not error:
            k.equal("what the caller sees", outcome.value, b"content" if opcode == READ else 7)
        k.settle()
        k.equal("what write(2) of the second answer says", second.errno, errno.ENOENT)


for _opcode in (LOOKUP, READ, GETATTR):
    _twice("second-reply", _opcode, 0)
_twice("reply-after-an-error", LOOKUP, -errno.EACCES)


def _errors(number: int, level: Level) -> None:
    @case(f"malformed/error-{number}-reaches-the-caller", GETATTR, aspect="error", level=level,
          source="fuse.h: out_header.error; " + MEASURED + ": down to -511, numbers without a name too")  # fmt: skip
    def _(k: Bench) -> None:
        k.mount()
        k.answer(GETATTR, -number)
        k.fails(number, lambda: os.stat(k.path), "stat")


for _number in (1, 5, 36, 122, 133):
    _errors(_number, Level.MUST)
for _number in (200, 511):
    _errors(_number, Level.PROFILE)


@case("malformed/reply-to-forget", Opcode.FORGET, aspect="malformed", source="fuse.h: FORGET is never answered")
def _(k: Bench) -> None:
    server = k.mount()
    k.tree.add("a")

    def gone() -> None:
        os.stat(k.file("a"))
        os.unlink(k.file("a"))

    k.ok(gone)
    request = k.wait_for(Opcode.FORGET)
    k.equal("what write(2) says", server.write(out(request.header.unique)), errno.ENOENT)


@case("malformed/reply-before-any-read", LOOKUP, aspect="malformed", level=Level.SHOULD,
      source=MEASURED + ": a request that was not read cannot be answered")  # fmt: skip
def _(k: Bench) -> None:
    """The unique can be guessed; still the answer is refused, and the request is read as usual afterwards."""
    server = k.mount(serve=False)
    k.tree.add("a", b"content")
    k.equal("errno", k.serve(k.start(lambda: os.stat(k.path))).errno, 0)
    unique = server.requests[-1].header.unique
    waiting = k.start(lambda: os.stat(k.file("a")).st_size)
    k.true("the caller waits", not waiting.done(0.1))
    said = {server.write(out(unique + step, k.tree.entry(k.tree.at("a"), ino=99))) for step in range(1, 5)}
    k.equal("what write(2) says", said, {errno.ENOENT})
    k.equal("what the caller sees", k.serve(waiting).value, 7)


def _split(name: str, cut: Callable[[bytes], list[bytes]]) -> None:
    @case(f"malformed/reply-in-pieces-{name}", LOOKUP, aspect="reply", source="fuse.h: a reply is one writev(2)")
    def _(k: Bench) -> None:
        server = k.mount()
        k.tree.add("a", b"content")
        rule = k.hold(LOOKUP)
        waiting = k.start(lambda: os.stat(k.file("a")).st_size)
        frame = good(k, k.held(rule))
        k.equal("what writev(2) says", os.writev(server.fd, cut(frame)), len(frame))
        k.equal("what the caller sees", waiting.wait(k.patience).value, 7)


_split("header-and-body", lambda frame: [frame[:16], frame[16:]])
_split("inside-the-header", lambda frame: [frame[:3], frame[3:11], frame[11:]])
_split("bytes", lambda frame: [frame[at : at + 1] for at in range(len(frame))])
_split("with-empty-ones", lambda frame: [b"", frame[:16], b"", frame[16:], b""])


@case("malformed/reply-in-two-writes", LOOKUP, aspect="malformed", level=Level.SHOULD,
      source=MEASURED + ": a write is a whole frame; half of one is refused and forgotten")  # fmt: skip
def _(k: Bench) -> None:
    server = k.mount()
    k.tree.add("a", b"content")
    rule = k.hold(LOOKUP)
    waiting = k.start(lambda: os.stat(k.file("a")).st_size)
    frame = good(k, k.held(rule))
    k.equal("write(2) of the header", server.write(frame[:16]), errno.EINVAL)
    k.equal("write(2) of the body", server.write(frame[16:]), errno.EINVAL)
    k.true("the caller waits", not waiting.done(0.02))
    k.equal("write(2) of the frame", server.write(frame), 0)
    k.equal("what the caller sees", waiting.wait(k.patience).value, 7)


@case("malformed/out-of-order", READ, aspect="reply", source="fuse.h: unique is what belongs together, not order")
def _(k: Bench) -> None:
    k.mount()
    k.tree.open_flags = OpenFlag.DIRECT_IO
    names = [f"f{number}" for number in range(5)]
    rules, waiting = [], []
    for number, name in enumerate(names):
        node = k.tree.add(name, bytes(number + 1)).nodeid
        rules.append(k.hold(READ, partial(_about, node)))
        waiting.append(k.start(partial(_read, k.file(name))))
    for rule in reversed(rules):
        k.reply(k.held(rule))
    k.equal("what the callers read", [each.wait(k.patience).value for each in waiting], [1, 2, 3, 4, 5])


def _about(node: int, request: Request) -> bool:
    return request.header.nodeid == node


def _read(path: str) -> int:
    with open(path, "rb", buffering=0) as file:
        return len(file.read(10))


@case("malformed/unsolicited-open-reply", Opcode.OPEN, aspect="malformed", source="fuse.h: unique")
def _(k: Bench) -> None:
    server = k.mount()
    k.ok(lambda: os.stat(k.path))
    said = server.write(out(0xABCDE0, codec.open_out.pack(1, 0, 0)))
    k.equal("what write(2) says", said, errno.ENOENT)
    k.ok(lambda: os.stat(k.path))
