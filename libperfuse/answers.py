"""How what a method gives becomes a reply, by opcode and minor.

Packers raise WireError or TypeError for an answer that is none, naming the field and its limit. Never here: sending,
and which errno that is.
"""

import errno
import struct
from collections.abc import Callable, Iterator
from typing import Any

from libperfuse.arguments import Arguments
from libperfuse.errors import FuseError
from libperfuse.operations import IoctlRetry
from wire import codec, compat, tails
from wire.errors import WireError
from wire.flags import IOCTL_MAX_IOV, IoctlFlag
from wire.message import OUT_HEADER_SIZE
from wire.opcodes import Opcode, Row, Tail

#: the longest target of a symbolic link, in bytes
LONGEST_LINK = 4095
#: the largest value of an extended attribute, and the longest list of their names, in bytes (limits.h)
LARGEST_XATTR = 65536

#: a whole reply: one buffer, or the header and its payload
Frame = bytes | tuple[bytes, Any]
#: (unique, what the method gave, its arguments) to a reply
Pack = Callable[[int, Any, Arguments], Frame]
#: takes lookups back: (nodeid, nlookup)
Forget = Callable[[int, int], object]

_HEADER = codec.out_header.struct.pack


def error_frame(unique: int, code: int) -> bytes:
    """A reply that is an errno, `code` 1 to 511."""
    return _HEADER(OUT_HEADER_SIZE, -code, unique)


def plain_frame(unique: int, body: bytes) -> Frame:
    """A good reply with this body."""
    return _HEADER(OUT_HEADER_SIZE + len(body), 0, unique), body


def pack_unknown(unique: int, result: Any, arguments: Arguments) -> Frame:
    """A good reply to an opcode nobody knows: the bytes its method gives."""
    return _HEADER(OUT_HEADER_SIZE + _length(result, "unknown"), 0, unique), result


def entries_of(result: Any) -> Iterator[int]:
    """The nodeids whose lookup count an answer raises: of an `EntryOut`, alone or with its `OpenOut`."""
    for each in (result, *(result[:1] if type(result) is tuple else ())):
        if isinstance(each, codec.EntryOut) and each.nodeid:
            yield each.nodeid


def packer(row: Row, minor: int, forget: Forget) -> Pack:
    """How the answer to `row` becomes a frame for a kernel of 7.`minor`."""
    if row.number == Opcode.READDIRPLUS:
        return _readdirplus(forget)
    special = _SPECIAL.get(row.number)
    if special is not None:
        return special
    if row.reply_tail is Tail.OPEN_OUT:
        return _created(row, minor)
    if not row.reply:
        return _nothing
    if row.number in _NUMBERS:
        return _number(row)
    return _struct(row, minor)


def _wrong(row_name: str, kind: str, result: Any) -> TypeError:
    return TypeError(f"{row_name.lower()} answers {kind}, got {result!r:.200}")


def _nothing(unique: int, result: Any, arguments: Arguments) -> Frame:
    if result is not None:
        raise TypeError(f"this method answers nothing, got {result!r:.200}")
    return _HEADER(OUT_HEADER_SIZE, 0, unique)


def _struct(row: Row, minor: int) -> Pack:
    """A struct as it is; entry_out and attr_out of old minors are cut to their size."""
    made: Any = codec.CODECS[row.reply]
    size = OUT_HEADER_SIZE + compat.size(row.reply, minor)
    pack: Callable[..., bytes] = struct.Struct(codec.out_header.format + made.format[1:]).pack
    nested = len(made.type._fields) - 1 if row.reply in ("entry_out", "attr_out") else 0
    kind = made.type
    if row.reply == "lk_out":
        made, kind, nested = codec.file_lock, codec.FileLock, 0
    slow = row.reply in ("statfs_out", "statx_out")

    def explain(result: Any) -> Exception:
        if not isinstance(result, tuple):
            return _wrong(row.name, kind.__name__, result)
        try:
            made.build(result)
        except WireError as bad:
            return bad
        return _wrong(row.name, kind.__name__, result)

    def plain(unique: int, result: Any, arguments: Arguments) -> bytes:
        try:
            if slow:
                body: bytes = made.build(result)
                return _HEADER(size, 0, unique) + body[: size - OUT_HEADER_SIZE]
            if not isinstance(result, tuple):
                raise TypeError  # three bytes would make an open_out
            return pack(size, 0, unique, *result)
        except (struct.error, TypeError, ValueError):
            raise explain(result) from None

    front = struct.Struct(made.format[: 1 + nested]).pack
    attr, framed = codec.attr.struct.pack, struct.Struct(f"{codec.out_header.format}{made.size}s").pack
    #: the answer packed last: one that never changes is packed once
    last: tuple[Any, bytes] = (object(), b"")

    def with_attr(unique: int, result: Any, arguments: Arguments) -> bytes:
        nonlocal last  # read once, and set at once: other threads come here too
        before, body = last
        if result is not before:
            if type(result) is bytes and nested == 3:
                last = result, _packed(result, made)
                return framed(size, 0, unique, result)
            try:
                if nested == 3:
                    valid, nsec, dummy, found = result
                    body = front(valid, nsec, dummy) + attr(*found)
                else:
                    found = result[nested]
                    body = front(*result[:nested]) + attr(*found)
            except (struct.error, TypeError, ValueError, IndexError, KeyError):
                raise explain(result) from None
            if type(result) is kind and type(found) is codec.Attr:  # which never change
                last = result, body
        return framed(size, 0, unique, body)

    whole: Callable[[int, Any, Arguments], bytes] = with_attr if nested else plain
    if size == OUT_HEADER_SIZE + made.size or slow:
        return whole
    return lambda unique, result, arguments: whole(unique, result, arguments)[:size]


def _packed(body: bytes, made: Any) -> bytes:
    """The answer of a method that keeps it packed, as the codec made it."""
    if len(body) != made.size:
        raise WireError(made.name, f"{made.size} bytes or a {made.type.__name__}, got {len(body)} bytes")
    return body


def _created(row: Row, minor: int) -> Pack:
    """CREATE and TMPFILE: an entry_out and an open_out. Linux never shortens TMPFILE's."""
    size = compat.size("entry_out", compat.NEWEST_MINOR if row.number == Opcode.TMPFILE else minor)
    front, attr = struct.Struct(codec.entry_out.format[:7]).pack, codec.attr.struct.pack
    head, opening, length = _HEADER, codec.open_out.struct.pack, OUT_HEADER_SIZE + size + codec.open_out.size

    def pack(unique: int, result: Any, arguments: Arguments) -> Frame:
        if not isinstance(result, tuple) or len(result) != 2 or not all(isinstance(each, tuple) for each in result):
            raise _wrong(row.name, "an EntryOut and an OpenOut", result)
        entry, opened = result
        try:
            body = front(*entry[:-1]) + attr(*entry[-1])
            return head(length, 0, unique) + body[:size] + opening(*opened)
        except (struct.error, TypeError, ValueError, IndexError):
            codec.entry_out.build(entry)
            codec.open_out.build(opened)
            raise _wrong(row.name, "an EntryOut and an OpenOut", result) from None

    return pack


#: answers that are one number: the struct's name, and what bounds it in the request
_NUMBERS = {
    Opcode.WRITE: "size", Opcode.COPY_FILE_RANGE: "len", Opcode.COPY_FILE_RANGE_64: "len", Opcode.LSEEK: "",
    Opcode.BMAP: "", Opcode.POLL: "",
}  # fmt: skip


def _number(row: Row) -> Pack:
    made: Any = codec.CODECS[row.reply]
    size, bound = OUT_HEADER_SIZE + made.size, _NUMBERS[Opcode(row.number)]
    pack, rest = struct.Struct(codec.out_header.format + made.format[1:]).pack, (0,) * (len(made.fields) - 1)

    place = codec.CODECS[row.head].type._fields.index(bound) if bound else 0

    def number(unique: int, result: Any, arguments: Arguments) -> Frame:
        if not isinstance(result, int):
            raise _wrong(row.name, f"a number ({row.reply}.{made.fields[0]})", result)
        if bound and not 0 <= result <= arguments[0][place]:
            raise WireError(
                f"{row.reply}.{made.fields[0]}", f"0 to the {getattr(arguments[0], bound)} asked for, got {result}"
            )
        try:
            return pack(size, 0, unique, result, *rest)
        except struct.error:
            raise WireError(f"{row.reply}.{made.fields[0]}", f"a number that fits, got {result}") from None

    return number


def _length(result: Any, name: str) -> int:
    kind = type(result)
    if kind is memoryview and result.c_contiguous:  # else os.writev would refuse it
        return int(result.nbytes)
    if kind is bytes or isinstance(result, (bytes, bytearray)):
        return len(result)
    raise _wrong(name, "bytes", result)


def _read(unique: int, result: Any, arguments: Arguments) -> Frame:
    length = len(result) if type(result) is bytes else _length(result, "read")
    if length > arguments[0].size:
        raise WireError("read_in.size", f"at most the {arguments[0].size} bytes asked for, got {length}")
    return _HEADER(OUT_HEADER_SIZE + length, 0, unique), result


def _readlink(unique: int, result: Any, arguments: Arguments) -> Frame:
    length = _length(result, "readlink")
    if length > LONGEST_LINK:
        raise WireError("target", f"at most {LONGEST_LINK} bytes, got {length}")
    return _HEADER(OUT_HEADER_SIZE + length, 0, unique), result


def _xattr(unique: int, value: Any, size: int, name: str) -> Frame:
    """The value, or its length where the caller gave no room."""
    length = _length(value, name)
    if length > LARGEST_XATTR:
        raise FuseError(errno.E2BIG)
    if not size:
        return _HEADER(OUT_HEADER_SIZE + 8, 0, unique) + codec.getxattr_out.pack(length, 0)
    if length > size:
        raise FuseError(errno.ERANGE)
    return _HEADER(OUT_HEADER_SIZE + length, 0, unique), value


def _getxattr(unique: int, result: Any, arguments: Arguments) -> Frame:
    return _xattr(unique, result, arguments[0].size, "getxattr")


def _listxattr(unique: int, result: Any, arguments: Arguments) -> Frame:
    try:
        names = tails.pack_names(*result)
    except TypeError as bad:
        raise _wrong("listxattr", "names, each bytes", result) from bad
    return _xattr(unique, names, arguments[0].size, "listxattr")


def _ioctl(unique: int, result: Any, arguments: Arguments) -> Frame:
    if isinstance(result, IoctlRetry):
        count = len(result.in_iovs) + len(result.out_iovs)
        if count > IOCTL_MAX_IOV:
            raise WireError("ioctl_out.in_iovs + out_iovs", f"at most {IOCTL_MAX_IOV}, got {count}")
        if not arguments[0].flags & IoctlFlag.UNRESTRICTED:
            raise WireError("ioctl_in.flags", "UNRESTRICTED, which an IoctlRetry answers")
        pairs = tails.pack_pairs((*result.in_iovs, *result.out_iovs))
        retry = codec.ioctl_out.pack(0, IoctlFlag.RETRY, len(result.in_iovs), len(result.out_iovs))
        return _HEADER(OUT_HEADER_SIZE + len(retry) + len(pairs), 0, unique), retry + pairs
    code, data = result if isinstance(result, tuple) and len(result) == 2 else (0, result)
    length = _length(data, "ioctl")
    if length > arguments[0].out_size:
        raise WireError("ioctl_in.out_size", f"at most the {arguments[0].out_size} bytes asked for, got {length}")
    head = codec.ioctl_out.pack(code, 0, 0, 0)
    return _HEADER(OUT_HEADER_SIZE + len(head) + length, 0, unique), head + bytes(data)


def _cuse_init(unique: int, result: Any, arguments: Arguments) -> Frame:
    if not isinstance(result, tuple) or len(result) != 2:
        raise _wrong("cuse_init", "a CuseInitOut and its variables", result)
    _length(result[1], "cuse_init")
    body = codec.cuse_init_out.build(result[0]) + bytes(result[1])
    return _HEADER(OUT_HEADER_SIZE + len(body), 0, unique), body


def _checked(off: int) -> int:
    if not off:
        raise WireError("dirent.off", "the cookie of what follows, which is never 0")
    return off


def _readdir(unique: int, result: Any, arguments: Arguments) -> Frame:
    buffer, took = tails.DirentBuffer(arguments[0].size), 0
    for took, each in enumerate(_entries("readdir", "Dirent", result), 1):  # noqa: B007
        try:
            if not buffer.add(each[0], _checked(each[1]), each[2], each[3]):
                break
        except (TypeError, IndexError, KeyError):
            raise _wrong("readdir", "Dirents", each) from None
    return _filled(unique, buffer, took)


def _entries(name: str, kind: str, result: Any) -> Iterator[Any]:
    try:
        return iter(result)
    except TypeError:
        raise _wrong(name, f"an iterable of {kind}", result) from None


def _filled(unique: int, buffer: tails.DirentBuffer, took: int) -> Frame:
    if took and not buffer.count:
        raise FuseError(errno.EINVAL)  # getdents(2): the buffer is too small for the first entry
    return _HEADER(OUT_HEADER_SIZE + len(buffer), 0, unique), bytes(buffer)


def _readdirplus(forget: Forget) -> Pack:
    """Packs READDIRPLUS; `forget(nodeid, 1)` takes back the lookup of an entry that will not be sent."""

    def pack(unique: int, result: Any, arguments: Arguments) -> Frame:
        buffer, took, counted = tails.DirentplusBuffer(arguments[0].size), 0, []
        try:
            for took, each in enumerate(_entries("readdirplus", "Entry", result), 1):  # noqa: B007
                try:
                    entry, ino, off, kind, name = each
                    counts = entry.nodeid and name not in (b".", b"..")
                    if counts:
                        counted.append(entry.nodeid)
                    fits = buffer.add(ino, _checked(off), kind, name, codec.entry_out.build(entry))
                except WireError:
                    raise
                except (TypeError, ValueError, AttributeError):
                    raise _wrong("readdirplus", "Entries", each) from None
                if not fits:
                    if counts:
                        forget(counted.pop(), 1)
                    break
            return _filled(unique, buffer, took)
        except BaseException:
            for nodeid in counted:
                forget(nodeid, 1)
            raise

    return pack


_SPECIAL: dict[int, Pack] = {
    Opcode.READ: _read, Opcode.READLINK: _readlink, Opcode.GETXATTR: _getxattr, Opcode.LISTXATTR: _listxattr,
    Opcode.IOCTL: _ioctl, Opcode.READDIR: _readdir, Opcode.CUSE_INIT: _cuse_init,
}  # fmt: skip
