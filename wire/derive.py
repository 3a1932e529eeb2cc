"""From a construct Struct of fixed size to a codec: one ``struct.Struct`` and one NamedTuple class, made once.

construct is only walked here, never run. What never lives here: the list of structs (``structs``), and anything that
knows what a field means.
"""

from __future__ import annotations

import struct as _struct
from collections import namedtuple
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from construct import Bytes, FormatField, Renamed, Struct

from wire.errors import WireError

T = TypeVar("T", bound="tuple[Any, ...]")
T_co = TypeVar("T_co", covariant=True)
Buffer = bytes | bytearray | memoryview


class UnpackFrom(Protocol[T_co]):
    """Decode at ``offset`` bytes into ``buffer``; WireError when fewer than ``size`` bytes are left."""

    def __call__(self, buffer: Buffer, offset: int = 0) -> T_co: ...


class Field(NamedTuple):
    """One field: its name, and either a struct format code (``"L"``, ``"44s"``) or the name of a nested struct."""

    name: str
    code: str
    nested: str = ""


def layout_of(struct: Any, names: dict[int, str]) -> tuple[Field, ...]:
    """The fields of a construct Struct, in order. ``names`` gives the struct name of a nested Struct by ``id()``.

    Raises TypeError for whatever has no fixed size or would lose bytes (padding, arrays, conditions, enums).
    """
    fields = []
    for sub in struct.subcons:
        if not isinstance(sub, Renamed) or not sub.name:
            raise TypeError(f"a field without a name would lose its bytes: {sub!r}")
        con = sub.subcon
        if type(con) is FormatField and con.fmtstr[0] == "=":
            fields.append(Field(sub.name, con.fmtstr[1]))
        elif type(con) is Bytes and isinstance(con.length, int):
            fields.append(Field(sub.name, f"{con.length}s"))
        elif type(con) is Struct and id(con) in names:
            fields.append(Field(sub.name, "", names[id(con)]))
        else:
            raise TypeError(f"field {sub.name} is not of fixed size and native order: {con!r}")
    return tuple(fields)


def type_name(name: str) -> str:
    """The NamedTuple class name of a struct: ``"in_header"`` gives ``"InHeader"``."""
    return name.title().replace("_", "")


class Codec(Generic[T]):
    """Decodes and builds one struct in one byte order.

    ``struct`` is the ``struct.Struct``, ``format`` its format, ``size`` its bytes, ``type`` the NamedTuple class,
    ``fields`` the flat field names (``"attr.ino"``). ``unpack_from`` gives the NamedTuple, nested structs as nested
    NamedTuples; ``pack`` and ``pack_into`` take the fields flat, in order. These three raise only WireError; hot loops
    that check their lengths themselves may use ``struct``'s own bound methods, which raise ``struct.error``.
    """

    __slots__ = (
        *("name", "order", "struct", "format", "size", "type", "fields", "unpack_from"),
        *("_parts", "_bytes", "_zero"),
    )

    def __init__(self, name: str, order: str, layout: tuple[Field, ...], kind: type[T], parts: dict[str, Codec[Any]]):
        """Derive the codec of ``name``; ``parts`` holds those of the structs nested in it, in the same order."""
        codes: list[str] = []
        flat: list[str] = []
        zero: list[Any] = []
        for field in layout:
            if field.nested:
                part: Codec[Any] = parts[field.nested]
                codes.append(part.format[1:])
                flat += [f"{field.name}.{inner}" for inner in part.fields]
                zero.append(part._zero)
            else:
                codes.append(field.code)
                flat.append(field.name)
                zero.append(bytes(int(field.code[:-1])) if field.code[-1] == "s" else 0)
        self.name = name
        self.order = order
        self.format: str = order + "".join(codes)
        self.struct = _struct.Struct(self.format)
        self.size: int = self.struct.size
        self.type = kind
        self.fields: tuple[str, ...] = tuple(flat)
        self._parts = tuple(parts[field.nested] if field.nested else None for field in layout)
        self._zero: T = tuple.__new__(kind, zero)
        self._bytes = self._byte_fields()
        self.unpack_from: UnpackFrom[T] = self._reader()

    def offset(self, field: str) -> int:
        """Where a flat field (``"attr.ino"``) begins, in bytes. ValueError for a field that is not there."""
        return _struct.calcsize(self.order + "".join(self._codes()[: self.fields.index(field)]))

    def _codes(self) -> list[str]:
        """One format code for every flat field."""
        codes, number = [], ""
        for char in self.format[1:]:
            if char.isdigit():
                number += char
            else:
                codes.append(number + char)
                number = ""
        return codes

    def _byte_fields(self) -> tuple[tuple[int, int], ...]:
        # struct pads and cuts an "Ns" in silence, so lengths of byte strings are checked by us
        if "s" not in self.format:
            return ()
        return tuple((i, int(code[:-1])) for i, code in enumerate(self._codes()) if code[-1] == "s")

    def _assemble(self, flat: tuple[Any, ...], start: int) -> T:
        """The NamedTuple, nested ones inside, from the flat fields that begin at ``start``."""
        values: list[Any] = []
        for part in self._parts:
            if part is None:
                values.append(flat[start])
                start += 1
            else:
                values.append(part._assemble(flat, start))
                start += len(part.fields)
        return tuple.__new__(self.type, values)

    def _reader(self) -> UnpackFrom[T]:
        unpack, new, kind, short = self.struct.unpack_from, tuple.__new__, self.type, self._short
        nested = [part for part in self._parts if part is not None]
        if not nested:

            def flat_reader(buffer: Buffer, offset: int = 0) -> T:
                try:
                    return new(kind, unpack(buffer, offset))
                except _struct.error:
                    raise short(buffer, offset) from None

            return flat_reader
        if len(nested) == 1 and self._parts[-1] is not None and not any(nested[0]._parts):
            cut, inner = len(self._parts) - 1, nested[0].type  # entry_out, attr_out, lk_out, statfs_out

            def last_reader(buffer: Buffer, offset: int = 0) -> T:
                try:
                    flat = unpack(buffer, offset)
                except _struct.error:
                    raise short(buffer, offset) from None
                return new(kind, (*flat[:cut], new(inner, flat[cut:])))

            return last_reader

        def reader(buffer: Buffer, offset: int = 0) -> T:
            try:
                flat = unpack(buffer, offset)
            except _struct.error:
                raise short(buffer, offset) from None
            return self._assemble(flat, 0)

        return reader

    def _short(self, buffer: Buffer, offset: int) -> WireError:
        left = max(len(memoryview(buffer).cast("B")) - offset, 0) if offset >= 0 else 0
        return WireError(self.name, f"at least {self.size} bytes, got {left}")

    def _misfit(self, fields: tuple[Any, ...]) -> WireError:
        """Which of the flat ``fields`` does not fit, and why."""
        if len(fields) != len(self.fields):
            return WireError(self.name, f"{len(self.fields)} fields, got {len(fields)}")
        for name, code, value in zip(self.fields, self._codes(), fields, strict=True):
            try:
                _struct.pack("=" + code, value)
            except _struct.error:
                if code[-1] == "s":
                    return WireError(f"{self.name}.{name}", f"{code[:-1]} bytes, got {value!r}")
                kind = "signed" if code.islower() else "unsigned"
                bits = 8 * _struct.calcsize("=" + code)
                return WireError(f"{self.name}.{name}", f"{bits} bits {kind}, got {value!r}")
        return WireError(self.name, "values that fit their fields")

    def _check_bytes(self, fields: tuple[Any, ...]) -> None:
        for index, length in self._bytes:
            if len(fields) > index and isinstance(fields[index], bytes | bytearray) and len(fields[index]) != length:
                raise WireError(f"{self.name}.{self.fields[index]}", f"{length} bytes, got {len(fields[index])}")

    def pack(self, *fields: Any) -> bytes:
        """``size`` bytes of all fields, flat and in order. WireError names a field that does not fit."""
        if self._bytes:
            self._check_bytes(fields)
        try:
            return self.struct.pack(*fields)
        except _struct.error:
            raise self._misfit(fields) from None

    def pack_into(self, buffer: bytearray | memoryview, offset: int, *fields: Any) -> None:
        """As ``pack``, into ``buffer`` at ``offset`` bytes; WireError where ``buffer`` has no room."""
        if self._bytes:
            self._check_bytes(fields)
        try:
            self.struct.pack_into(buffer, offset, *fields)
        except _struct.error:
            if not 0 <= offset <= len(buffer) - self.size:
                raise self._short(buffer, offset) from None
            raise self._misfit(fields) from None

    def flatten(self, value: T) -> tuple[Any, ...]:
        """The fields of a NamedTuple of this struct, nested ones flat: what ``pack`` takes."""
        if len(value) != len(self._parts):
            raise WireError(self.name, f"{len(self._parts)} fields, got {len(value)}")
        if not any(self._parts):
            return value
        flat: list[Any] = []
        for part, item in zip(self._parts, value, strict=True):
            if part is None:
                flat.append(item)
            elif isinstance(item, tuple):
                flat.extend(part.flatten(item))
            else:
                raise WireError(f"{self.name}.{part.name}", f"{len(part._parts)} fields, got {item!r}")
        return tuple(flat)

    def build(self, value: T) -> bytes:
        """``size`` bytes of a NamedTuple (or a plain tuple of its shape). WireError names a field that does not fit."""
        return self.pack(*self.flatten(value))

    def make(self, **fields: Any) -> T:
        """A NamedTuple with the given fields and zero in all others. WireError for a field the struct does not have."""
        try:
            made: T = self._zero._replace(**fields)  # type: ignore[attr-defined]
        except ValueError:
            unknown = set(fields) - set(self.type._fields)  # type: ignore[attr-defined]
            raise WireError(self.name, f"no field named {', '.join(sorted(unknown))}") from None
        return made

    def __repr__(self) -> str:
        return f"<codec {self.name} {self.format} {self.size} bytes>"


def layouts(structs: dict[str, Any]) -> dict[str, tuple[Field, ...]]:
    """The layouts of all of ``structs`` by name. TypeError for anything variable, and for sizes that disagree."""
    names = {id(struct): name for name, struct in structs.items()}
    return {name: layout_of(struct, names) for name, struct in structs.items()}


def types(table: dict[str, tuple[Field, ...]], module: str) -> dict[str, type[Any]]:
    """One NamedTuple class for every layout; ``module`` is where it says it lives (it must, to be pickled)."""
    make: Callable[..., type[Any]] = namedtuple
    return {name: make(type_name(name), [f.name for f in fields], module=module) for name, fields in table.items()}


def codecs(table: dict[str, tuple[Field, ...]], kinds: dict[str, type[Any]], order: str) -> dict[str, Codec[Any]]:
    """The codecs of all layouts in one byte order (``"="``, ``"<"`` or ``">"``)."""
    done: dict[str, Codec[Any]] = {}
    for name, layout in table.items():
        done[name] = Codec(name, order, layout, kinds[name], done)
    return done


def check_sizes(structs: dict[str, Any], made: dict[str, Codec[Any]]) -> None:
    """TypeError unless construct and the derived codecs agree on the size of every struct."""
    for name, struct in structs.items():
        if struct.sizeof() != made[name].size:
            raise TypeError(f"{name}: {struct.sizeof()} bytes in construct, {made[name].size} in {made[name].format}")
